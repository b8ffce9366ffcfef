//! What happens in the 400 days, and to whom. Days are counted from the first midnight.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::mail::Health;

/// A tenant's period, and the mount's.
pub(super) const PERIOD: TimeDelta = TimeDelta::days(180);
/// How much earlier than its period a change may come: it was late by less before.
pub(super) const SLIP: TimeDelta = TimeDelta::hours(1);
/// The mount's `spread`, in seconds.
pub(super) const SPREAD: u64 = 3600;
/// The mount's `max_parallel`.
pub(super) const PARALLEL: usize = 16;

/// The day of the wave: one tenant in twenty was taken over on the same day.
pub(super) const WAVE: i64 = 60;

/// Groups of failing servers: what is wrong with them, and from which day to which.
pub(super) const FAILURES: [(Health, i64, i64); 4] = [
    (Health::Silent, 55, 65),
    (Health::Broken, 90, 97),
    (Health::Refusing, 130, 133),
    (Health::Expired, 220, 227),
];

/// Some tenants are paused.
pub(super) const PAUSE: (i64, i64) = (20, 105);
/// Some are rotated on request, at noon.
pub(super) const REQUESTS: i64 = 30;

/// No ticks from noon to noon, and another process afterwards.
pub(super) const OUTAGE: (i64, i64) = (75, 78);
/// At noon the clock is set ahead, an hour later back again.
pub(super) const LEAP: (i64, TimeDelta) = (110, TimeDelta::days(200));
/// At noon the clock is set back by two days; at noon of the wall's second day it is put right.
pub(super) const SETBACK: (i64, i64) = (150, 155);
/// How far.
pub(super) const SET_BACK_BY: TimeDelta = TimeDelta::days(2);

/// How long after a tick it happens to the process: some changes are under way then.
pub(super) const INTO_THE_WORK: Duration = Duration::from_millis(500);

/// What happens to the process, and at which minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is killed and another one started.
    Kill,
    /// It is ended and another one started.
    Restart,
    /// Another node takes over.
    Failover,
}

/// In the middle of checks, of the wave's most of all; and at rest.
pub(super) const TURNS: [(i64, i64, Turn); 8] = [
    (WAVE, 2 * 60 + 10, Turn::Kill),
    (WAVE, 2 * 60 + 20, Turn::Restart),
    (WAVE, 2 * 60 + 30, Turn::Failover),
    (100, 2 * 60 + 15, Turn::Restart),
    (125, 2 * 60 + 15, Turn::Kill),
    (170, 2 * 60 + 15, Turn::Failover),
    (185, 2 * 60 + 20, Turn::Failover),
    (300, 14 * 60, Turn::Kill),
];

/// The first midnight.
pub(super) fn start() -> DateTime<Utc> {
    let day = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
    day.and_hms_opt(0, 0, 0).unwrap().and_utc()
}

/// An hour of a day.
pub(super) fn at(day: i64, hour: i64) -> DateTime<Utc> {
    start() + TimeDelta::days(day) + TimeDelta::hours(hour)
}
