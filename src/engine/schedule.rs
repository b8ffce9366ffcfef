//! When a credential is due: the persisted instants and what reads answer about them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

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

/// Returns when to read again: until the next rotation but not longer than `refresh_interval`,
/// 15 seconds while the answer is not settled, never 0.
pub(crate) fn read_again_after(
    credential: &Credential,
    config: &MountConfig,
    settled: bool,
    now: DateTime<Utc>,
) -> Duration {
    if !settled {
        return Duration::from_secs(15);
    }
    let refresh = Duration::from_secs(config.refresh_interval);
    let until_rotation = credential
        .next_rotation
        .and_then(|next| (next - now).to_std().ok())
        .unwrap_or_else(|| {
            // Due or overdue: a tick is about to change it. Never due: the refresh decides.
            if credential.next_rotation.is_some() {
                Duration::ZERO
            } else {
                refresh
            }
        });
    until_rotation.min(refresh).max(Duration::from_secs(1))
}

/// Returns the day under which the schedule must find the tenant: that of its notice if one is
/// still to be sent, else of its rotation.
pub(crate) fn due_day(credential: &Credential, config: &MountConfig) -> Option<DateTime<Utc>> {
    let next = credential.next_rotation?;
    if credential.notice_sent_at.is_some() {
        return Some(next);
    }
    let before = TimeDelta::try_seconds(i64::try_from(config.notify_before).ok()?)?;
    next.checked_sub_signed(before)
}
