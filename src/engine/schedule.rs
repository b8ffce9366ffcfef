//! When a credential is due: the persisted instants and what reads answer about them.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::config::MountConfig;
use super::error::Error;
use super::storage::record::{Credential, RotationPolicy};

const SECONDS_PER_DAY: u64 = 24 * 3600;
const LONGEST_PERIOD: u64 = 3650 * SECONDS_PER_DAY;

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

/// Returns when a password that became current at `since` is to be changed.
pub(crate) fn next_rotation(
    policy: RotationPolicy,
    config: &MountConfig,
    since: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let period = policy.period(config)?;
    let period = TimeDelta::try_seconds(i64::try_from(period).ok()?)?;
    since.checked_add_signed(period)
}

/// Returns when to read again: at the next rotation but not later than `refresh_interval`; soon
/// while the answer is not settled or the rotation is overdue; never 0.
pub(crate) fn read_again_after(
    credential: &Credential,
    config: &MountConfig,
    settled: bool,
    now: DateTime<Utc>,
) -> Duration {
    const SOON: Duration = Duration::from_secs(15);
    if !settled {
        return SOON;
    }
    let refresh = Duration::from_secs(config.refresh_interval);
    match credential.next_rotation.map(|next| (next - now).to_std()) {
        Some(Ok(until_rotation)) => until_rotation.min(refresh).max(Duration::from_secs(1)),
        Some(Err(_overdue)) => SOON,
        None => refresh,
    }
}

/// Returns the day under which the schedule must find the tenant: that of its notice if one is
/// still to be sent, else of its rotation. Never a past day, whose folder may be drained already.
pub(crate) fn due_day(
    credential: &Credential,
    config: &MountConfig,
    now: DateTime<Utc>,
) -> Option<NaiveDate> {
    let next = credential.next_rotation?;
    let before = if credential.notice_sent_at.is_some() {
        0
    } else {
        config.notify_before
    };
    let before = TimeDelta::try_seconds(i64::try_from(before).ok()?)?;
    let due = next.checked_sub_signed(before)?;
    Some(due.max(now).date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    fn due_in(days: i64, now: DateTime<Utc>) -> Credential {
        let mut credential = fixture::credential(now);
        credential.next_rotation = Some(now + TimeDelta::days(days));
        credential
    }

    #[test]
    fn the_due_day_is_that_of_the_notice_then_of_the_rotation_and_never_past() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let mut credential = due_in(100, now);
        let day = |days| Some((now + TimeDelta::days(days)).date_naive());
        assert_eq!(due_day(&credential, &config, now), day(93));
        credential.notice_sent_at = Some(now);
        assert_eq!(due_day(&credential, &config, now), day(100));
        assert_eq!(due_day(&due_in(-100, now), &config, now), day(0));
        credential.next_rotation = None;
        assert_eq!(due_day(&credential, &config, now), None);
    }

    #[test]
    fn ttl_ends_at_the_rotation_is_short_in_doubt_and_never_zero() {
        let (now, config) = (fixture::now(), MountConfig::default());
        let ttl = |credential: &Credential, settled| {
            read_again_after(credential, &config, settled, now).as_secs()
        };
        let mut credential = due_in(100, now);
        assert_eq!(ttl(&credential, true), 300);
        assert_eq!(ttl(&credential, false), 15);
        credential.next_rotation = Some(now + TimeDelta::seconds(40));
        assert_eq!(ttl(&credential, true), 40);
        credential.next_rotation = Some(now);
        assert_eq!(ttl(&credential, true), 1);
        assert_eq!(ttl(&due_in(-1, now), true), 15);
        credential.next_rotation = None;
        assert_eq!(ttl(&credential, true), 300);
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
