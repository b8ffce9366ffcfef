//! [`Calendar`]: what the schedule of the mount has to remember, in one entry, `schedule`.
//!
//! - From which day on the folders of `due/` may hold something: a tick lists them from there to
//!   today, never all of them.
//! - When a tick was last seen. If ticks stopped for more than an hour, or the clock was moved by
//!   more, scheduled work waits for one check: a wrong clock has that long to be put right, and a
//!   backlog begins spread as every check does. What also missed that check does not wait again: a
//!   server that is stopped every night must not wait for ever.
//! - By which settings every tenant was placed, so that a change of them reaches all.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::schedule::Checks;
use crate::engine::storage::{self, SCHEDULE};
use crate::engine::zone::DEFAULT_ZONE;
use crate::engine::{Engine, storage::DUE};
use crate::logical::{Mount, StorageEntry};

const SCHEMA: u32 = 1;
/// A longer time without ticks, or a larger move of the clock, is a gap.
const GAP: TimeDelta = TimeDelta::hours(1);
/// How old the stored sight of a tick may be.
const SEEN_STALE: TimeDelta = TimeDelta::minutes(10);

/// The stored state of the mount's schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Calendar {
    schema: u32,
    /// The first day whose folder may hold something.
    pub(super) oldest: NaiveDate,
    /// When a tick was last seen, at most ten minutes off.
    pub(super) seen_at: DateTime<Utc>,
    /// The check that is waited for since the last gap; of no effect once it is past.
    pub(in crate::engine) held_until: Option<DateTime<Utc>>,
    /// The mount was paused when the last tick was seen.
    paused: bool,
    /// The time that was believed when that tick was seen.
    #[serde(default)]
    trusted_at: Option<DateTime<Utc>>,
    /// What went of the history for its age.
    #[serde(default)]
    pub(in crate::engine) expiry: Expiry,
    /// The settings by which every tenant was placed.
    pub(super) placed_by: Placement,
    /// How far placing them by other settings has come.
    pub(super) placing: Option<Placing>,
}

/// How much of the history went lately, and how much may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Expiry {
    /// Since when days are counted, by the believed time.
    pub(in crate::engine) since: Option<DateTime<Utc>>,
    /// How many days of the journal went since.
    pub(in crate::engine) days: u32,
    /// The retention that was last gone by, in seconds.
    pub(in crate::engine) retention: Option<u64>,
    /// A person has made the retention smaller: what is older than this day goes without counting.
    pub(in crate::engine) named_before: Option<NaiveDate>,
}

/// The settings that decide when a tenant's scheduled work is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Placement {
    pub(super) rotation_period: u64,
    pub(super) check_schedule: String,
    #[serde(default = "default_zone")]
    pub(super) time_zone: String,
    pub(super) spread: u64,
    pub(super) notify_before: u64,
}

/// A pass of an earlier build may be about anything.
const fn yes() -> bool {
    true
}

/// Calendars of earlier builds do not have it.
fn default_zone() -> String {
    String::from(DEFAULT_ZONE)
}

impl Placement {
    pub(super) fn of(config: &MountConfig) -> Self {
        Self {
            rotation_period: config.rotation_period,
            check_schedule: config.check_schedule.clone(),
            time_zone: config.time_zone.clone(),
            spread: config.spread,
            notify_before: config.notify_before,
        }
    }

    /// Reports whether every tenant's slots are the same by both.
    pub(super) fn has_slots_of(&self, other: &Self) -> bool {
        self.check_schedule == other.check_schedule
            && self.time_zone == other.time_zone
            && self.spread == other.spread
    }
}

/// A pass over all tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Placing {
    /// The settings it places by.
    pub(super) by: Placement,
    /// A pass by other settings was not finished before: who stands by which is not known.
    pub(super) mixed: bool,
    /// `rotation_period` is among what changed, in this pass or in one before it.
    #[serde(default = "yes")]
    pub(super) period: bool,
    /// The last tenant listed; empty at the start.
    pub(super) after: String,
    /// Tenants that were busy or could not be stored, with the number of tries.
    pub(super) left: Vec<(String, u32)>,
    /// All are listed.
    pub(super) listed: bool,
}

/// A tick, as both clocks told it.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sight {
    pub(in crate::engine) wall: DateTime<Utc>,
    pub(in crate::engine) monotonic: Duration,
}

impl Calendar {
    fn new(oldest: NaiveDate, config: &MountConfig, now: DateTime<Utc>) -> Self {
        Self {
            schema: SCHEMA,
            oldest,
            seen_at: now,
            held_until: None,
            paused: false,
            trusted_at: None,
            expiry: Expiry::default(),
            placed_by: Placement::of(config),
            placing: None,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(SCHEDULE, bytes, SCHEMA)?;
        storage::decode(SCHEDULE, bytes)
    }

    /// A pause of the mount ended, or was lifted: what became due in it waits for the next check.
    fn see_pause(&mut self, now: DateTime<Utc>, paused: bool, checks: Option<&Checks>) {
        if self.paused && !paused {
            let next = checks.and_then(|checks| checks.at_or_after(now));
            self.held_until = self.held_until.into_iter().chain(next).max();
        }
        self.paused = paused;
    }

    /// There are other checks: what waits for the next one does not wait for one that there is not
    /// any more, if a new one is nearer.
    pub(super) fn move_hold(&mut self, checks: Option<&Checks>, now: DateTime<Utc>) {
        let held = self.held_until.filter(|until| *until > now);
        let next = checks.and_then(|checks| checks.at_or_after(now + GAP));
        if let (Some(until), Some(next)) = (held, next) {
            self.held_until = Some(until.min(next));
        }
    }

    /// Takes a tick into account; `before` is the last one of this process. Reports whether there
    /// was a gap.
    fn see(&mut self, now: Sight, before: Option<Sight>, checks: Option<&Checks>) -> bool {
        let last = before.map_or(self.seen_at, |sight| sight.wall);
        let passed = now.wall - last;
        let ticked = before.map(|sight| now.monotonic.saturating_sub(sight.monotonic));
        // Within one process the clock that nobody can move tells a moved one.
        let moved = ticked.is_some_and(|ticked| {
            let ticked = TimeDelta::from_std(ticked).unwrap_or(TimeDelta::MAX);
            (passed - ticked).abs() > GAP
        });
        let gap = moved || passed.abs() > GAP;
        if gap {
            let waited = self.held_until.filter(|until| last < *until);
            let next = checks.and_then(|checks| checks.at_or_after(now.wall + GAP));
            match (waited, next) {
                // It waited for a check, and the gap covered that as well.
                (Some(until), _) if until <= now.wall && passed > TimeDelta::zero() => {}
                // A clock that was ahead had set it.
                (Some(until), Some(next)) => self.held_until = Some(until.min(next)),
                (_, next) => self.held_until = next,
            }
        }
        let today = now.wall.date_naive();
        self.oldest = self.oldest.min(today);
        let stale = (now.wall - self.seen_at).abs() >= SEEN_STALE;
        if gap || stale {
            self.seen_at = now.wall;
        }
        gap
    }
}

impl Engine {
    /// Returns the calendar with this tick taken into account, stored if that says more than
    /// storage does.
    pub(super) async fn calendar(
        &self,
        mount: &Mount,
        config: &MountConfig,
    ) -> Result<Calendar, Error> {
        let now = Sight {
            wall: self.clock().now(),
            monotonic: self.clock().monotonic(),
        };
        let (known, before) = {
            let state = self.runner.state();
            (state.calendar.clone(), state.last_tick)
        };
        let stored = match known {
            Some(calendar) => Some(calendar),
            None => self.stored_calendar(mount).await?,
        };
        let mut calendar = match &stored {
            Some(stored) => stored.clone(),
            None => {
                let oldest = first_day(mount).await?;
                let today = now.wall.date_naive();
                Calendar::new(oldest.map_or(today, |day| day.min(today)), config, now.wall)
            }
        };
        let checks = Checks::of(config);
        if checks.is_none() {
            tracing::error!(
                "the stored check_schedule or time_zone cannot be read: write config again"
            );
        }
        let paused = config.paused_until.is_some_and(|until| until > now.wall);
        calendar.see_pause(now.wall, paused, checks.as_ref());
        if calendar.see(now, before, checks.as_ref()) {
            // What was planned by another clock is planned anew.
            self.runner.forget_agenda();
            tracing::warn!(
                last = %calendar.seen_at,
                held_until = ?calendar.held_until,
                "ticks had stopped or the clock was moved: scheduled work waits for one check"
            );
        }
        let sight = calendar.trusted_at.or(stored.as_ref().map(|it| it.seen_at));
        if let Some(trusted) = self.see_tick(sight) {
            let known = calendar.trusted_at;
            let stale = |known: DateTime<Utc>| (trusted.at() - known).abs() >= SEEN_STALE;
            if known.is_none_or(stale) {
                calendar.trusted_at = Some(trusted.at());
            }
        }
        if stored.as_ref() == Some(&calendar) {
            self.runner.state().calendar = stored;
        } else {
            self.store_calendar(mount, &calendar).await?;
        }
        self.runner.state().last_tick = Some(now);
        Ok(calendar)
    }

    /// Returns the time that was believed when a tick was last seen; `None` if none ever was.
    ///
    /// # Errors
    ///
    /// Storage's own, and that the entry is of a newer format.
    pub(in crate::engine) async fn stored_sight(
        &self,
        mount: &Mount,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        let stored = self.stored_calendar(mount).await?;
        Ok(stored.map(|calendar| calendar.trusted_at.unwrap_or(calendar.seen_at)))
    }

    /// Returns what went of the history for its age.
    ///
    /// # Errors
    ///
    /// Storage's own.
    pub(in crate::engine) async fn expiry(&self, mount: &Mount) -> Result<Expiry, Error> {
        let known = self.runner.state().calendar.clone();
        let calendar = match known {
            Some(calendar) => Some(calendar),
            None => self.stored_calendar(mount).await?,
        };
        Ok(calendar.map(|calendar| calendar.expiry).unwrap_or_default())
    }

    /// Stores what goes of the history, before it goes.
    ///
    /// # Errors
    ///
    /// Storage's own; nothing may go then, nor before the first tick.
    pub(in crate::engine) async fn store_expiry(
        &self,
        mount: &Mount,
        expiry: &Expiry,
    ) -> Result<(), Error> {
        let known = self.runner.state().calendar.clone();
        let calendar = match known {
            Some(calendar) => Some(calendar),
            None => self.stored_calendar(mount).await?,
        };
        let mut calendar = calendar.ok_or(Error::Defect("events expire before the first tick"))?;
        calendar.expiry = expiry.clone();
        self.store_calendar(mount, &calendar).await
    }

    async fn stored_calendar(&self, mount: &Mount) -> Result<Option<Calendar>, Error> {
        let Some(entry) = mount.storage.get(SCHEDULE).await? else {
            return Ok(None);
        };
        match Calendar::decode(&entry.value) {
            Ok(calendar) => Ok(Some(calendar)),
            // Everything in it can be found again; only a newer format is left alone.
            Err(error) if storage::is_damaged(&error) => {
                tracing::warn!(%error, "the schedule is made anew");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn store_calendar(
        &self,
        mount: &Mount,
        calendar: &Calendar,
    ) -> Result<(), Error> {
        // Others work on a copy of their own: what went is never counted back.
        let newest = self
            .runner
            .state()
            .calendar
            .as_ref()
            .map(|it| it.expiry.clone());
        let mut calendar = calendar.clone();
        if let Some(newest) = newest
            && (newest.since, newest.days) > (calendar.expiry.since, calendar.expiry.days)
        {
            calendar.expiry = newest;
        }
        let bytes = storage::encode(&calendar)?;
        let put = mount.storage.put(StorageEntry::new(SCHEDULE, bytes)).await;
        // Whatever became of a failed Put, storage knows.
        self.runner.state().calendar = put.is_ok().then_some(calendar);
        Ok(put?)
    }
}

/// The first day that has a folder; asked only while there is no calendar.
async fn first_day(mount: &Mount) -> Result<Option<NaiveDate>, Error> {
    let first = mount.storage.list_page(DUE, "", 1).await?;
    let day = first.first().map(|name| name.trim_end_matches('/'));
    Ok(day.and_then(|day| NaiveDate::parse_from_str(day, "%Y%m%d").ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::zone::Zone;

    const HOUR: i64 = 60;

    fn at(day: u32, hour: u32, minute: u32) -> DateTime<Utc> {
        let day = NaiveDate::from_ymd_opt(2026, 9, day).unwrap();
        day.and_hms_opt(hour, minute, 0).unwrap().and_utc()
    }

    fn sight(wall: DateTime<Utc>, minutes: i64) -> Sight {
        Sight {
            wall,
            monotonic: Duration::from_secs(u64::try_from(minutes * 60).unwrap()),
        }
    }

    fn calendar(seen_at: DateTime<Utc>) -> Calendar {
        Calendar::new(seen_at.date_naive(), &MountConfig::default(), seen_at)
    }

    fn checks() -> Checks {
        Checks::parse("0 2 * * *", Zone::UTC).unwrap()
    }

    #[test]
    fn a_restart_within_an_hour_holds_nothing() {
        let mut calendar = calendar(at(10, 1, 30));
        assert!(!calendar.see(sight(at(10, 2, 10), 0), None, Some(&checks())));
        assert_eq!(calendar.held_until, None);
    }

    #[test]
    fn after_an_outage_work_waits_for_one_check_and_not_for_a_second_one() {
        let mut calendar = calendar(at(10, 1, 30));
        assert!(calendar.see(sight(at(13, 3, 0), 0), None, Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(14, 2, 0)));
        // Stopped again over that check: it is not waited for again.
        assert!(calendar.see(sight(at(14, 3, 0), 0), None, Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(14, 2, 0)));
        // A later gap is another one.
        let before = sight(at(14, 3, 0), 0);
        assert!(calendar.see(sight(at(15, 3, 0), 1), Some(before), Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(16, 2, 0)));
    }

    #[test]
    fn a_check_that_is_too_near_to_notice_a_wrong_clock_is_not_the_one() {
        let mut calendar = calendar(at(10, 0, 0));
        let before = sight(at(10, 0, 0), 0);
        assert!(calendar.see(sight(at(20, 1, 30), 1), Some(before), Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(21, 2, 0)));
        // The clock is put right: what is waited for comes back with it.
        let before = sight(at(20, 2, 20), 51);
        assert!(calendar.see(sight(at(10, 0, 52), 52), Some(before), Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(10, 2, 0)));
        assert_eq!(calendar.oldest, at(10, 0, 0).date_naive());
    }

    #[test]
    fn ticks_that_come_in_time_say_nothing_new_for_ten_minutes() {
        let mut calendar = calendar(at(10, 0, 0));
        let stored = calendar.clone();
        for minute in 1..10 {
            let before = sight(at(10, 0, minute - 1), i64::from(minute) - 1);
            let now = sight(at(10, 0, minute), i64::from(minute));
            assert!(!calendar.see(now, Some(before), Some(&checks())));
            assert_eq!(calendar, stored);
        }
        let before = sight(at(10, 0, 9), 9);
        assert!(!calendar.see(sight(at(10, 0, 10), 10), Some(before), Some(&checks())));
        assert_eq!(calendar.seen_at, at(10, 0, 10));
    }

    #[test]
    fn a_machine_that_slept_is_a_gap_although_no_clock_was_moved() {
        let mut calendar = calendar(at(10, 0, 0));
        let before = sight(at(10, 0, 0), 0);
        let now = sight(at(10, 5, 0), 5 * HOUR);
        assert!(calendar.see(now, Some(before), Some(&checks())));
        assert_eq!(calendar.held_until, Some(at(11, 2, 0)));
    }
}
