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
use crate::crypto;

const SECONDS_PER_DAY: u64 = 24 * 3600;
const LONGEST_PERIOD: u64 = 3650 * SECONDS_PER_DAY;
/// A change by the schedule takes some time after its slot: the next one must not slip by a check
/// because of that.
const SLIP: TimeDelta = TimeDelta::hours(1);
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

/// The mount's checks: five cron fields, UTC.
#[derive(Clone, Debug)]
pub(crate) struct Checks(Cron);

impl Checks {
    /// Parses a schedule that names at least one check a year.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let five_fields = text.split_whitespace().count() == 5;
        let checks = Self(Cron::from_str(text).ok().filter(|_| five_fields)?);
        // Any day does: a schedule that is not met within a year of it is met in leap years only,
        // or never.
        let some_day = DateTime::from_timestamp(1_790_000_000, 0)?;
        let first = checks.at_or_after(some_day)?;
        (first - some_day <= TimeDelta::days(366)).then_some(checks)
    }

    /// The stored schedule, which was checked when it was written; `None` if storage was damaged.
    pub(crate) fn of(config: &MountConfig) -> Option<Self> {
        Self::parse(&config.check_schedule)
    }

    /// Returns the first check not before `at`.
    pub(crate) fn at_or_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let whole = at.trunc_subsecs(0);
        let from = if whole < at {
            whole.checked_add_signed(TimeDelta::seconds(1))?
        } else {
            whole
        };
        self.0.find_next_occurrence(&from, true).ok()
    }

    /// Returns the last check not after `at`.
    fn at_or_before(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.0
            .find_previous_occurrence(&at.trunc_subsecs(0), true)
            .ok()
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

/// Returns the next change of a credential whose period changed without its doing: never earlier
/// than `spread` from now, what became overdue spread further over a tenth of the period (a week
/// at most). What was planned earlier already stays, so that planning twice changes nothing.
pub(crate) fn replanned(
    credential: &Credential,
    config: &MountConfig,
    tenant: &str,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    const WEEK: u64 = 7 * SECONDS_PER_DAY;
    let policy = credential.rotation_policy;
    let period = policy.period(config)?;
    // A password of a day to come was set by a clock that was ahead.
    let since = credential.last_rotated.min(now);
    let earliest = now.checked_add_signed(seconds(config.spread))?;
    if since.checked_add_signed(seconds(period))? >= earliest {
        return next_rotation(policy, config, tenant, since, earliest);
    }
    let pace = share(tenant, "pace", (period / 10).min(WEEK));
    let paced = Slots::of(config, tenant).at_or_after(earliest + seconds(pace));
    let planned = credential.next_rotation.filter(|next| *next >= now);
    planned.into_iter().chain([paced]).min()
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

/// Reports whether the schedule left the tenant alone until its record was read. A pause that is
/// over is a rest until somebody takes it out of the record: what became due in it was not done.
pub(crate) fn rested(record: &TenantRecord) -> bool {
    record.pause.is_some() || rests(record, DateTime::<Utc>::MAX_UTC)
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
