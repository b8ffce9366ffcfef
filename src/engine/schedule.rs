//! When scheduled work is done: slots, the persisted instants, what reads answer about them.
//!
//! `check_schedule` names the checks of the mount. Every tenant has an offset of its own, the same
//! for ever, within `spread`: a check of a tenant is a *slot*, check + offset. What must stay true:
//!
//! - `next_rotation` is stored, and is a slot when it is stored: what reads answer is when it
//!   happens. No start, upgrade or moved clock computes it anew;
//! - nothing is ever planned before the present: what is overdue comes at the next slot.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, SubsecRound, TimeDelta, Utc};
use croner::Cron;

use super::config::MountConfig;
use super::error::Error;
use super::storage::record::{Credential, RotationPolicy, TenantRecord};
use super::zone::Zone;
use crate::crypto;

const SECONDS_PER_DAY: u64 = 24 * 3600;
const LONGEST_PERIOD: u64 = 3650 * SECONDS_PER_DAY;
/// A change by the schedule takes some time after its slot: the next one must not slip by a check
/// because of that.
const SLIP: TimeDelta = TimeDelta::hours(1);
/// Clocks are put on or back by no more than this.
const MOST_MOVED: TimeDelta = TimeDelta::hours(3);
/// How far ahead a retry may lie; what lies further was planned by a clock that was ahead.
const FURTHEST_RETRY: TimeDelta = TimeDelta::hours(12);

impl RotationPolicy {
    /// Parses `manual`, or a period between 1 minute and 10 years.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with code `invalid_field`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text == "manual" {
            return Ok(Self::Manual);
        }
        let period = crate::logical::seconds::parse(text).map(|period| period.as_secs());
        match period {
            Ok(seconds) if (60..=LONGEST_PERIOD).contains(&seconds) => Ok(Self::Every(seconds)),
            Ok(_) | Err(_) => Err(Error::invalid(
                "invalid_field",
                "`rotation_policy` must be `manual` or a duration from 1m to 3650d, for example \
                 `180_days` or `90d`.",
            )),
        }
    }

    /// Returns the period in seconds, `None` for `manual`.
    pub(crate) const fn period(self, config: &MountConfig) -> Option<u64> {
        match self {
            Self::Mount => Some(config.rotation_period),
            Self::Manual => None,
            Self::Every(seconds) => Some(seconds),
        }
    }

    /// Returns the text that [`RotationPolicy::parse`] takes; the mount's own period is resolved.
    pub(crate) fn as_text(self, config: &MountConfig) -> String {
        match self.period(config) {
            None => String::from("manual"),
            Some(seconds) if seconds % SECONDS_PER_DAY == 0 => {
                format!("{}_days", seconds / SECONDS_PER_DAY)
            }
            Some(seconds) => format!("{seconds}s"),
        }
    }
}

/// The mount's checks: five cron fields, by the clocks of a zone.
///
/// Where clocks change, a check at a fixed time is met once a day all the same: one that the clocks
/// skip comes when they go on, one that they show twice comes at the first of the two. What comes at
/// every hour or some minutes goes by the clock: it is left out, or met twice.
#[derive(Clone, Debug)]
pub(crate) struct Checks(Cron, Zone);

impl Checks {
    /// Parses a schedule that names at least one check a year.
    pub(crate) fn parse(text: &str, zone: Zone) -> Option<Self> {
        let five_fields = text.split_whitespace().count() == 5;
        let checks = Self(Cron::from_str(text).ok().filter(|_| five_fields)?, zone);
        // Any day does: a schedule that is not met within a year of it is met in leap years only,
        // or never.
        let some_day = DateTime::from_timestamp(1_790_000_000, 0)?;
        let first = checks.at_or_after(some_day)?;
        (first - some_day <= TimeDelta::days(366)).then_some(checks)
    }

    /// The stored schedule, which was checked when it was written; `None` if storage was damaged.
    pub(crate) fn of(config: &MountConfig) -> Option<Self> {
        Self::parse(&config.check_schedule, Zone::parse(&config.time_zone)?)
    }

    /// Returns the first check not before `at`.
    pub(crate) fn at_or_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let whole = at.trunc_subsecs(0);
        let from = if whole < at {
            whole.checked_add_signed(TimeDelta::seconds(1))?
        } else {
            whole
        };
        // A check that clocks have just skipped is one of the time to which they went on; it is only
        // found from before.
        let before = from.checked_sub_signed(MOST_MOVED)?;
        let start = if self.has_moved(before, from) {
            before
        } else {
            from
        };
        self.first_from(start, |check| check >= from)
    }

    /// Returns the last check not after `at`.
    fn at_or_before(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self.1.local(at.trunc_subsecs(0));
        let found = self.0.find_previous_occurrence(&from, true).ok()?.to_utc();
        let before = found.checked_sub_signed(MOST_MOVED)?;
        if !self.has_moved(before, at) {
            return Some(found);
        }
        // Backwards, a check that is skipped or shown twice may be another one: what counts is how
        // they come.
        let mut last = None;
        let mut next = self.first_from(before, |_any| true);
        while let Some(check) = next.filter(|check| *check <= at) {
            last = Some(check);
            next = self.first_from(check + TimeDelta::seconds(1), |_any| true);
        }
        last
    }

    /// Reports whether clocks are put on or back in between.
    fn has_moved(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        self.1.ahead(from) != self.1.ahead(to)
    }

    /// Returns the first check from `from` on that is wanted.
    fn first_from(
        &self,
        mut from: DateTime<Utc>,
        is_wanted: impl Fn(DateTime<Utc>) -> bool,
    ) -> Option<DateTime<Utc>> {
        loop {
            let found = self.0.find_next_occurrence(&self.1.local(from), true);
            let check = found.ok()?.to_utc();
            if is_wanted(check) {
                return Some(check);
            }
            from = check.checked_add_signed(TimeDelta::seconds(1))?;
        }
    }
}

/// The slots of one tenant. A schedule that cannot be read keeps nothing from being stored or
/// committed: without one, every instant is a slot.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    checks: Option<Checks>,
    offset: TimeDelta,
}

impl Slots {
    /// Returns the slots that a tenant has by the mount's settings.
    pub(crate) fn of(config: &MountConfig, tenant: &str) -> Self {
        Self {
            checks: Checks::of(config),
            offset: seconds(share(tenant, "offset", config.spread)),
        }
    }

    /// Returns the first slot not before `at`.
    pub(crate) fn at_or_after(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        self.find(at, Checks::at_or_after)
    }

    /// Returns the last slot not after `at`.
    fn at_or_before(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        self.find(at, Checks::at_or_before)
    }

    fn find(
        &self,
        at: DateTime<Utc>,
        search: impl Fn(&Checks, DateTime<Utc>) -> Option<DateTime<Utc>>,
    ) -> DateTime<Utc> {
        let found = self.checks.as_ref().and_then(|checks| {
            let check = search(checks, at.checked_sub_signed(self.offset)?)?;
            check.checked_add_signed(self.offset)
        });
        found.unwrap_or(at)
    }
}

/// The tenant's own share of `whole` (0 to `whole` - 1, or 0): the same for ever, evenly spread
/// over all tenants. `what` keeps different uses apart.
pub(crate) fn share(tenant: &str, what: &str, whole: u64) -> u64 {
    let digest = crypto::sha256(format!("{what}:{tenant}").as_bytes());
    let number = digest
        .iter()
        .take(8)
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    number.checked_rem(whole).unwrap_or(0)
}

fn seconds(count: u64) -> TimeDelta {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    TimeDelta::try_seconds(count).unwrap_or(TimeDelta::MAX)
}

/// Returns when a password that became current at `since` is to be changed, as planned at `now`;
/// `None` = never, by the policy.
pub(crate) fn next_rotation(
    policy: RotationPolicy,
    config: &MountConfig,
    tenant: &str,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let period = seconds(policy.period(config)?);
    let wanted = since.checked_add_signed(period - SLIP.min(period / 4))?;
    Some(Slots::of(config, tenant).at_or_after(wanted.max(now)))
}

/// A plan that was made without the credential's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replanned {
    /// The next change.
    pub(crate) next: DateTime<Utc>,
    /// What became overdue waits until then for that change, whenever there are slots.
    pub(crate) paced_until: Option<DateTime<Utc>>,
}

/// Returns the next change of a credential whose period changed without its doing: never earlier
/// than `spread` from now, what became overdue spread further over a tenth of the period (a week
/// at most). What was planned earlier already stays, so that planning twice changes nothing.
pub(crate) fn replanned(
    credential: &Credential,
    config: &MountConfig,
    tenant: &str,
    now: DateTime<Utc>,
) -> Option<Replanned> {
    let policy = credential.rotation_policy;
    let period = policy.period(config)?;
    // A password of a day to come was set by a clock that was ahead.
    let since = credential.last_rotated.min(now);
    let earliest = now.checked_add_signed(seconds(config.spread))?;
    if since.checked_add_signed(seconds(period))? >= earliest {
        let next = next_rotation(policy, config, tenant, since, earliest)?;
        let paced_until = None;
        return Some(Replanned { next, paced_until });
    }
    let paced = earliest.checked_add_signed(seconds(pace(tenant, period)))?;
    let planned = credential.next_rotation.filter(|next| *next >= now);
    let until = planned.map_or(paced, |planned| planned.min(paced));
    Some(Replanned {
        next: Slots::of(config, tenant).at_or_after(until),
        paced_until: Some(until),
    })
}

/// Returns the next change of a credential whose slots changed without its doing: planned from the
/// last change as ever, so that settings which are taken back leave no trace. What is due comes at
/// the first new slot. Who waits for a moment of his own because his period became shorter goes on
/// waiting for it.
pub(crate) fn reslotted(
    credential: &Credential,
    config: &MountConfig,
    tenant: &str,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let policy = credential.rotation_policy;
    let period = policy.period(config)?;
    let since = credential.last_rotated.min(now);
    let is_overdue = since.checked_add_signed(seconds(period))? < now;
    match credential.paced_until.filter(|until| *until > now) {
        Some(until) if is_overdue => Some(Slots::of(config, tenant).at_or_after(until)),
        _ => next_rotation(policy, config, tenant, since, now),
    }
}

/// How long what becomes overdue by a shorter period waits: a tenth of the period and a week at
/// most, evenly spread over the tenants.
fn pace(tenant: &str, period: u64) -> u64 {
    const WEEK: u64 = 7 * SECONDS_PER_DAY;
    share(tenant, "pace", (period / 10).min(WEEK))
}

/// Reports whether the stored plan is none that this engine can have made: missing, or further
/// away than period, pace and schedule allow (a clock was ahead).
pub(crate) fn is_absurd(credential: &Credential, config: &MountConfig, now: DateTime<Utc>) -> bool {
    let Some(period) = credential.rotation_policy.period(config) else {
        return credential.next_rotation.is_some();
    };
    let Some(next) = credential.next_rotation else {
        return true;
    };
    // A year: the rarest schedule. A period of a tenant's own or the mount's may just have become
    // shorter, whose pass goes first.
    let furthest = seconds(period) + TimeDelta::days(366 + 8);
    credential.last_rotated > now + TimeDelta::days(1) && next > now + seconds(period)
        || next > now + furthest
}

/// Scheduled work of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Tell the administrators of the coming change.
    Notice,
    /// Change the password.
    Rotation,
}

/// What the schedule does next with a tenant, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: DateTime<Utc>,
    pub(crate) work: Work,
}

/// Until when the whole mount's schedule rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// `paused_until` of the mount.
    pub(crate) paused_until: Option<DateTime<Utc>>,
    /// The check that is waited for since ticks had stopped or the clock was moved.
    pub(crate) held_until: Option<DateTime<Utc>>,
}

impl Rest {
    /// Returns when the last of them ends.
    pub(crate) fn ends(self) -> Option<DateTime<Utc>> {
        self.paused_until.into_iter().chain(self.held_until).max()
    }
}

/// Reports whether the schedule leaves the tenant alone for a reason of its own.
pub(crate) fn rests(record: &TenantRecord, now: DateTime<Utc>) -> bool {
    let paused = record.pause.as_ref().is_some_and(|pause| pause.until > now);
    let live = record.live_credential();
    paused || live.is_none_or(|credential| credential.drift.is_some())
}

/// A rest has ended: what became due in it waits for the next check.
pub(crate) fn end_rest(record: &mut TenantRecord, config: &MountConfig, now: DateTime<Utc>) {
    let slots = Slots::of(config, &record.tenant);
    let next = record
        .credential
        .as_mut()
        .and_then(|kept| kept.next_rotation.as_mut());
    if let Some(next) = next.filter(|next| **next < now) {
        *next = slots.at_or_after(now);
    }
}

/// Returns what the schedule does next with a tenant; `None` if nothing, or as long as a person
/// has to look first.
pub(crate) fn planned(
    record: &TenantRecord,
    config: &MountConfig,
    rest: Rest,
    now: DateTime<Utc>,
) -> Option<Planned> {
    let credential = record.live_credential()?;
    let next = credential.next_rotation?;
    if credential.drift.is_some() || credential.current.is_none() {
        return None;
    }
    let slots = Slots::of(config, &record.tenant);
    let paused = record.pause.as_ref().map(|pause| pause.until);
    let earliest = paused.into_iter().chain(rest.ends()).max();
    let slot = slots.at_or_after(earliest.map_or(next, |rest| rest.max(next)));
    let retry = record.open.retry_at.map(|at| {
        // A clock that was ahead when it failed does not make anybody wait for that day.
        if at - now > FURTHEST_RETRY { now } else { at }
    });
    let rotation = retry.map_or(slot, |retry| retry.max(slot));
    if config.notify_before == 0 || credential.notice_sent_at.is_some() {
        return Some(Planned {
            at: rotation,
            work: Work::Rotation,
        });
    }
    let wanted = rotation - seconds(config.notify_before);
    // Not before the first check that knows of this password.
    let known = credential.created_at.max(credential.last_rotated);
    let floor = earliest.map_or(known, |rest| rest.max(known));
    let notice = slots.at_or_before(wanted).max(slots.at_or_after(floor));
    Some(Planned {
        at: notice.min(rotation),
        work: Work::Notice,
    })
}

/// Returns the day under which the schedule must find the tenant. Never a past day, whose folder
/// may be drained already. The mount's rests are left out: they may end early.
pub(crate) fn due_day(
    record: &TenantRecord,
    config: &MountConfig,
    now: DateTime<Utc>,
) -> Option<NaiveDate> {
    let planned = planned(record, config, Rest::default(), now)?;
    Some(planned.at.max(now).date_naive())
}

/// Returns when to read again: at the next rotation but not later than `refresh_interval`; soon
/// while the answer is not settled or the rotation is overdue; never 0.
pub(crate) fn read_again_after(
    record: &TenantRecord,
    config: &MountConfig,
    settled: bool,
    now: DateTime<Utc>,
) -> Duration {
    const SOON: Duration = Duration::from_secs(15);
    if !settled {
        return SOON;
    }
    let refresh = Duration::from_secs(config.refresh_interval);
    let resting = |until: DateTime<Utc>| until > now;
    if record
        .pause
        .as_ref()
        .is_some_and(|pause| resting(pause.until))
        || config.paused_until.is_some_and(resting)
    {
        return refresh;
    }
    let next = record.live_credential().and_then(|kept| kept.next_rotation);
    match next.map(|next| (next - now).to_std()) {
        Some(Ok(until_rotation)) => until_rotation.min(refresh).max(Duration::from_secs(1)),
        Some(Err(_overdue)) => SOON,
        None => refresh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;
    use crate::engine::storage::record::{Drift, Pause};

    /// A settled tenant of ten days ago, due in so many days from now.
    fn due_in(days: i64) -> TenantRecord {
        let now = fixture::now();
        let created = now - TimeDelta::days(10);
        let mut record = TenantRecord::new("acme", String::new(), String::new(), created);
        let mut credential = fixture::credential(created);
        credential.versions.push(fixture::version(1, created));
        credential.current = Some(1);
        let next = now + TimeDelta::days(days);
        let slots = Slots::of(&MountConfig::default(), "acme");
        credential.next_rotation = Some(slots.at_or_after(next));
        record.credential = Some(credential);
        record
    }

    fn credential(record: &mut TenantRecord) -> &mut Credential {
        record.credential.as_mut().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_slot_is_a_check_and_the_tenant_s_own_offset() {
        let config = MountConfig::default();
        let slots = Slots::of(&config, "acme");
        let slot = at("2026-09-22T02:00:25Z");
        assert_eq!(slots.at_or_after(at("2026-09-21T02:00:25.001Z")), slot);
        assert_eq!(slots.at_or_after(slot), slot);
        assert_eq!(slots.at_or_before(slot), slot);
        assert_eq!(slots.at_or_before(at("2026-09-23T02:00:24Z")), slot);
        let offsets = (0..2_000).map(|number| share(&format!("tenant-{number}"), "offset", 3600));
        let (mut minutes, mut most) = ([0_u32; 60], 0);
        for offset in offsets {
            let minute = &mut minutes[usize::try_from(offset / 60).unwrap()];
            *minute += 1;
            most = most.max(*minute);
        }
        assert!(most < 70, "{minutes:?}");
        assert_eq!(share("acme", "offset", 0), 0);
    }

    #[test]
    fn a_schedule_is_met_at_least_once_a_year() {
        for text in ["0 2 * * *", "*/5 * * * *", "0 3 1 1 *", "0 2 * * 1-5"] {
            assert!(Checks::parse(text, Zone::UTC).is_some(), "{text}");
        }
        for text in [
            "",
            "0 2 * *",
            "0 0 30 2 *",
            "0 0 29 2 *",
            "@daily",
            "0 0 2 * * *",
        ] {
            assert!(Checks::parse(text, Zone::UTC).is_none(), "{text}");
        }
    }

    #[test]
    fn checks_follow_the_clocks_of_their_zone() {
        let next = |cron: &str, zone: &str, from: &str| {
            let checks = Checks::parse(cron, Zone::parse(zone).unwrap()).unwrap();
            checks.at_or_after(at(from)).unwrap()
        };
        let berlin = |from: &str| next("30 2 * * *", "Europe/Berlin", from);
        assert_eq!(berlin("2026-07-01T12:00:00Z"), at("2026-07-02T00:30:00Z"));
        assert_eq!(berlin("2026-12-01T12:00:00Z"), at("2026-12-02T01:30:00Z"));
        // 02:30 is skipped on 28 March 2027: at 03:00, when the clocks go on.
        assert_eq!(berlin("2027-03-27T12:00:00Z"), at("2027-03-28T01:00:00Z"));
        assert_eq!(berlin("2027-03-28T01:00:01Z"), at("2027-03-29T00:30:00Z"));
        // And shown twice on 25 October 2026: at the first of the two, and not again.
        assert_eq!(berlin("2026-10-24T12:00:00Z"), at("2026-10-25T00:30:00Z"));
        assert_eq!(berlin("2026-10-25T00:30:01Z"), at("2026-10-26T01:30:00Z"));
        let hourly = |from: &str| next("15 * * * *", "Europe/Berlin", from);
        assert_eq!(hourly("2026-10-25T00:16:00Z"), at("2026-10-25T01:15:00Z"));
        assert_eq!(hourly("2027-03-28T00:16:00Z"), at("2027-03-28T01:15:00Z"));
        let odd = next("0 2 * * *", "Asia/Kathmandu", "2026-07-01T00:00:00Z");
        assert_eq!(odd, at("2026-07-01T20:15:00Z"));
        // A day of the week or of the month is that of the zone.
        let monday = next("0 5 * * 1", "Asia/Tokyo", "2026-09-20T12:00:00Z");
        assert_eq!(monday, at("2026-09-20T20:00:00Z"));
    }

    #[test]
    fn in_every_zone_there_is_one_daily_check_a_day_and_a_check_is_one_when_asked_again() {
        // Odd halves of an hour, clocks that change at midnight, and twice more in Ramadan.
        for zone in [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Africa/Casablanca",
            "Africa/Cairo",
            "America/Santiago",
            "America/Nuuk",
            "Asia/Kolkata",
            "Pacific/Apia",
        ] {
            for cron in [
                "0 0 * * *",
                "30 0 * * *",
                "0 2 * * *",
                "30 2 * * *",
                "30 23 * * *",
            ] {
                let checks = Checks::parse(cron, Zone::parse(zone).unwrap()).unwrap();
                let mut last = checks.at_or_after(at("2026-09-21T12:00:00Z")).unwrap();
                for day in 0..800 {
                    let shown = format!("{zone} {cron} {day} {last}");
                    let second = TimeDelta::seconds(1);
                    assert_eq!(checks.at_or_after(last), Some(last), "{shown}");
                    assert_eq!(checks.at_or_before(last), Some(last), "{shown}");
                    let next = checks.at_or_after(last + second).unwrap();
                    let apart = next - last;
                    assert!(apart >= TimeDelta::hours(22), "{shown} {next}");
                    assert!(apart <= TimeDelta::hours(26), "{shown} {next}");
                    assert_eq!(checks.at_or_before(next - second), Some(last), "{shown}");
                    last = next;
                }
            }
        }
    }

    #[test]
    fn the_next_change_keeps_its_slot_and_is_never_of_the_past() {
        let config = MountConfig::default();
        let next = |policy, since, now| next_rotation(policy, &config, "acme", since, now);
        let slot = at("2026-09-21T02:00:25Z");
        // Some minutes after the slot, because hashing takes its time.
        let since = slot + TimeDelta::minutes(40);
        let daily = RotationPolicy::Every(SECONDS_PER_DAY);
        assert_eq!(next(daily, since, since), Some(slot + TimeDelta::days(1)));
        let half_year = next(RotationPolicy::Mount, since, since);
        assert_eq!(half_year, Some(slot + TimeDelta::days(180)));
        // By hand, at noon: the check after the half year is over.
        let noon = at("2026-09-21T12:00:00Z");
        let later = next(RotationPolicy::Mount, noon, noon);
        assert_eq!(later, Some(slot + TimeDelta::days(181)));
        let long_ago = at("2020-01-01T00:00:00Z");
        let overdue = next(RotationPolicy::Mount, long_ago, noon);
        assert_eq!(overdue, Some(slot + TimeDelta::days(1)));
        assert_eq!(next(RotationPolicy::Manual, since, since), None);
    }

    #[test]
    fn the_due_day_is_that_of_the_notice_then_of_the_rotation_and_never_past() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let day = |record: &TenantRecord| due_day(record, &config, now);
        let on = |text: &str| Some(at(text).date_naive());
        let mut record = due_in(100);
        assert_eq!(day(&record), on("2026-12-24T00:00:00Z"));
        credential(&mut record).notice_sent_at = Some(now);
        assert_eq!(day(&record), on("2026-12-31T00:00:00Z"));
        assert_eq!(day(&due_in(-100)), Some(now.date_naive()));
        let mut drifted = due_in(100);
        credential(&mut drifted).drift = Some(Drift {
            code: String::from("foreign_password"),
            live_version: None,
            since: now,
            set_again: false,
        });
        assert_eq!(day(&drifted), None);
        credential(&mut record).next_rotation = None;
        assert_eq!(day(&record), None);
    }

    #[test]
    fn nothing_is_planned_within_a_rest() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let ends = at("2026-10-05T12:00:00Z");
        let after = at("2026-10-06T02:00:25Z");
        let mut paused = due_in(3);
        paused.pause = Some(Pause {
            until: ends,
            by: crate::audit::Actor::system(),
            reason: String::new(),
        });
        let held = Rest {
            held_until: Some(ends),
            ..Rest::default()
        };
        let mount = Rest {
            paused_until: Some(ends),
            ..Rest::default()
        };
        for (record, rest) in [
            (paused, Rest::default()),
            (due_in(3), held),
            (due_in(3), mount),
        ] {
            let mut record = record;
            credential(&mut record).notice_sent_at = Some(now);
            let planned = planned(&record, &config, rest, now).unwrap();
            assert_eq!((planned.at, planned.work), (after, Work::Rotation));
        }
    }

    #[test]
    fn a_shorter_period_is_paced_and_placing_twice_changes_nothing() {
        let now = fixture::now();
        let config = MountConfig {
            rotation_period: 5 * SECONDS_PER_DAY,
            ..MountConfig::default()
        };
        for number in 0..50 {
            let tenant = format!("tenant-{number}");
            let mut record = due_in(170);
            let kept = credential(&mut record);
            let plan = replanned(kept, &config, &tenant, now).unwrap();
            let (next, spread) = (plan.next, TimeDelta::hours(1));
            assert!(next >= now + spread, "{next}");
            assert!(next <= now + spread + TimeDelta::hours(12 + 25), "{next}");
            kept.next_rotation = Some(next);
            kept.paced_until = plan.paced_until;
            let later = now + TimeDelta::minutes(5);
            let again = replanned(kept, &config, &tenant, later).unwrap();
            assert_eq!(again.next, next);
            let slots = reslotted(kept, &config, &tenant, later);
            assert_eq!(slots, Some(next), "the same slots");
        }
    }

    #[test]
    fn what_no_clock_in_order_can_have_planned_is_absurd() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let absurd =
            |record: &TenantRecord| is_absurd(record.credential.as_ref().unwrap(), &config, now);
        assert!(!absurd(&due_in(170)) && !absurd(&due_in(-300)));
        assert!(absurd(&due_in(180 + 380)));
        let mut ahead = due_in(380);
        assert!(!absurd(&ahead), "of another period before");
        credential(&mut ahead).last_rotated = now + TimeDelta::days(200);
        assert!(absurd(&ahead));
        let mut missing = due_in(1);
        credential(&mut missing).next_rotation = None;
        assert!(absurd(&missing));
        credential(&mut missing).rotation_policy = RotationPolicy::Manual;
        assert!(!absurd(&missing));
    }

    #[test]
    fn ttl_ends_at_the_rotation_is_short_in_doubt_and_never_zero() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let ttl = |record: &TenantRecord, settled| {
            read_again_after(record, &config, settled, now).as_secs()
        };
        let mut record = due_in(100);
        assert_eq!(ttl(&record, true), 300);
        assert_eq!(ttl(&record, false), 15);
        credential(&mut record).next_rotation = Some(now + TimeDelta::seconds(40));
        assert_eq!(ttl(&record, true), 40);
        credential(&mut record).next_rotation = Some(now);
        assert_eq!(ttl(&record, true), 1);
        credential(&mut record).next_rotation = Some(now - TimeDelta::seconds(1));
        assert_eq!(ttl(&record, true), 15);
        credential(&mut record).next_rotation = None;
        assert_eq!(ttl(&record, true), 300);
    }

    #[test]
    fn a_policy_is_a_period_or_manual() {
        let config = MountConfig::default();
        for (text, shown) in [
            ("manual", "manual"),
            ("90d", "90_days"),
            ("180_days", "180_days"),
            ("90m", "5400s"),
        ] {
            assert_eq!(RotationPolicy::parse(text).unwrap().as_text(&config), shown);
        }
        for text in ["", "never", "59s", "3651d", "-1d"] {
            assert!(RotationPolicy::parse(text).is_err(), "{text}");
        }
    }
}
