//! [`MountConfig`]: the mount's settings, as stored and as checked.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::schedule::Checks;
use super::storage;
use super::zone::{DEFAULT_ZONE, Zone};
use crate::crypto::{PasswordEncoding, PasswordShape};
use crate::provider::AddressRule;

/// The stored format.
const SCHEMA: u32 = 1;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How many settings are numbers.
const NUMBERS: usize = 13;

/// The longest pause, of a tenant or of the mount.
pub(crate) const LONGEST_PAUSE: TimeDelta = TimeDelta::days(90);

/// The mount's settings; durations in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountConfig {
    /// The stored format.
    pub schema: u32,
    /// How long a password lives, 1 minute to 10 years.
    pub rotation_period: u64,
    /// When policy rotations start: five cron fields.
    pub check_schedule: String,
    /// The IANA time zone whose clocks `check_schedule` goes by.
    #[serde(default = "default_zone")]
    pub time_zone: String,
    /// Over how long a check's rotations are spread, at most a day.
    pub spread: u64,
    /// How long before a rotation its notice is sent, at most 90 days.
    pub notify_before: u64,
    /// Changes under way at once, 1 to 256.
    pub max_parallel: u64,
    /// The shortest time between two rotations on request, at most 30 days.
    pub min_rotation_interval: u64,
    /// The longest `ttl` a read answers, 30 seconds to 1 hour.
    pub refresh_interval: u64,
    /// How long a request waits for Mailu, 1 to 25 seconds.
    pub wait: u64,
    /// Random bytes of a password, 16 to 64.
    pub password_bytes: u64,
    /// Random bytes of an emergency password, 16 to 64.
    pub emergency_password_bytes: u64,
    /// How those bytes are written.
    pub password_encoding: PasswordEncoding,
    /// A password policy of the host instead.
    pub password_policy: Option<String>,
    /// Versions kept per tenant, 2 to 100.
    pub max_versions: u64,
    /// The wrapping TTL of a revealed password, 1 minute to 1 day.
    pub reveal_ttl: u64,
    /// Whether a revealed password is changed afterwards.
    pub rotate_after_reveal: bool,
    /// How long a softly deleted credential is kept, 1 day to 10 years.
    pub deleted_retention: u64,
    /// How long delivered events are kept, 30 days to 10 years.
    #[serde(default = "default_trail_retention")]
    pub trail_retention: u64,
    /// Hosts and networks the engine may connect to; empty = public addresses.
    pub allowed_hosts: Vec<String>,
    /// Whether the engine leaves its marker in the account's comment.
    pub mailu_marker: bool,
    /// Whether automatic changes wait for the audit devices.
    pub audit_mode: AuditMode,
    /// Until when all automatic work rests.
    pub paused_until: Option<DateTime<Utc>>,
}

/// How automatic changes depend on the audit devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuditMode {
    /// Events are delivered as soon as possible; nothing waits.
    BestEffort,
    /// An automatic change waits until its announcement is in a device.
    Required,
}

/// Settings of earlier builds do not have it.
const fn default_trail_retention() -> u64 {
    400 * DAY
}

/// Settings of earlier builds do not have it.
fn default_zone() -> String {
    String::from(DEFAULT_ZONE)
}

impl Default for MountConfig {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            rotation_period: 180 * DAY,
            check_schedule: String::from("0 2 * * *"),
            time_zone: default_zone(),
            spread: HOUR,
            notify_before: 7 * DAY,
            max_parallel: 16,
            min_rotation_interval: 5 * MINUTE,
            refresh_interval: 5 * MINUTE,
            wait: 8,
            password_bytes: 32,
            emergency_password_bytes: 48,
            password_encoding: PasswordEncoding::Base64,
            password_policy: None,
            max_versions: 10,
            reveal_ttl: 15 * MINUTE,
            rotate_after_reveal: false,
            deleted_retention: 30 * DAY,
            trail_retention: default_trail_retention(),
            allowed_hosts: Vec::new(),
            mailu_marker: true,
            audit_mode: AuditMode::BestEffort,
            paused_until: None,
        }
    }
}

impl MountConfig {
    /// Reads the stored settings; the defaults if none were ever written.
    pub(crate) fn decode(bytes: Option<&[u8]>) -> Result<Self, Error> {
        let Some(bytes) = bytes else {
            return Ok(Self::default());
        };
        storage::check_schema(storage::CONFIG, bytes, SCHEMA)?;
        storage::decode(storage::CONFIG, bytes)
    }

    /// Checks every range and grammar.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with code `invalid_config`, naming the field and its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, value, low, high, unit) in self.ranges() {
            if !(low..=high).contains(&value) {
                return Err(Error::invalid(
                    "invalid_config",
                    format!("`{field}` must be from {low} to {high} {unit}."),
                ));
            }
        }
        check_cron(&self.check_schedule, Zone::of_field(&self.time_zone)?)?;
        if self.allowed_hosts.len() > 100 {
            return Err(Error::invalid(
                "invalid_config",
                "`allowed_hosts` takes at most 100 entries. Use wider patterns or CIDRs.",
            ));
        }
        self.address_rules().map(|_rules| ())
    }

    /// Lists every number with its name, range and unit.
    const fn ranges(&self) -> [(&'static str, u64, u64, u64, &'static str); NUMBERS] {
        [
            (
                "rotation_period",
                self.rotation_period,
                MINUTE,
                3650 * DAY,
                "seconds",
            ),
            ("spread", self.spread, 0, DAY, "seconds"),
            ("notify_before", self.notify_before, 0, 90 * DAY, "seconds"),
            ("max_parallel", self.max_parallel, 1, 256, "changes"),
            (
                "min_rotation_interval",
                self.min_rotation_interval,
                0,
                30 * DAY,
                "seconds",
            ),
            (
                "refresh_interval",
                self.refresh_interval,
                30,
                HOUR,
                "seconds",
            ),
            ("wait", self.wait, 2, 25, "seconds"),
            ("password_bytes", self.password_bytes, 16, 64, "bytes"),
            (
                "emergency_password_bytes",
                self.emergency_password_bytes,
                16,
                64,
                "bytes",
            ),
            ("max_versions", self.max_versions, 2, 100, "versions"),
            ("reveal_ttl", self.reveal_ttl, MINUTE, DAY, "seconds"),
            (
                "deleted_retention",
                self.deleted_retention,
                DAY,
                3650 * DAY,
                "seconds",
            ),
            (
                "trail_retention",
                self.trail_retention,
                30 * DAY,
                3650 * DAY,
                "seconds",
            ),
        ]
    }

    /// Checks the end of a pause that is about to begin.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with code `invalid_config` if it is more than [`LONGEST_PAUSE`] ahead.
    pub(crate) fn check_pause(&self, now: DateTime<Utc>) -> Result<(), Error> {
        if self
            .paused_until
            .is_none_or(|until| until - now <= LONGEST_PAUSE)
        {
            return Ok(());
        }
        Err(Error::invalid(
            "invalid_config",
            "`paused_until` must be at most 90 days ahead. Write it again before the pause ends.",
        ))
    }

    /// Says what of the settings does not do what it seems to, of those that are not as `before`.
    pub(crate) fn remarks(
        &self,
        before: &Self,
        dev_loopback: bool,
        now: DateTime<Utc>,
    ) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.allowed_hosts != before.allowed_hosts {
            for (entry, number) in self.allowed_hosts.iter().zip(1..) {
                if let Some(remark) = AddressRule::remark(entry, dev_loopback) {
                    remarks.push(format!(
                        "entry {number} of `allowed_hosts`, {entry}, {remark}."
                    ));
                }
            }
        }
        let new_pause = self.paused_until != before.paused_until;
        if new_pause && self.paused_until.is_some_and(|until| until <= now) {
            remarks.push(String::from(
                "`paused_until` is past: nothing rests. Write an instant to come.",
            ));
        }
        let notice = (self.notify_before, self.rotation_period);
        if notice != (before.notify_before, before.rotation_period) && notice.0 >= notice.1 {
            remarks.push(format!(
                "`notify_before` is {} seconds and `rotation_period` {}: each change is announced \
                 right after the one before it.",
                notice.0, notice.1,
            ));
        }
        remarks
    }

    /// Returns `allowed_hosts` as rules.
    pub(crate) fn address_rules(&self) -> Result<Vec<AddressRule>, Error> {
        let parse = |(text, number): (&String, u32)| {
            AddressRule::parse(text).map_err(|error| {
                Error::invalid(
                    "invalid_config",
                    format!(
                        "entry {number} of `allowed_hosts` is neither a CIDR nor a host pattern \
                         ({error}). Write for example 10.0.0.0/8 or *.mail.example."
                    ),
                )
            })
        };
        self.allowed_hosts.iter().zip(1..).map(parse).collect()
    }

    /// Returns the shape of an ordinary new password.
    pub(crate) fn password_shape(&self) -> Result<PasswordShape, Error> {
        self.shape(self.password_bytes)
    }

    /// Returns the shape of a new password after an emergency.
    pub(crate) fn emergency_password_shape(&self) -> Result<PasswordShape, Error> {
        self.shape(self.emergency_password_bytes)
    }

    fn shape(&self, bytes: u64) -> Result<PasswordShape, Error> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        PasswordShape::new(bytes, self.password_encoding)
            .map_err(|_range_was_checked| Error::Defect("a stored password length out of range"))
    }
}

fn check_cron(text: &str, zone: Zone) -> Result<(), Error> {
    if Checks::parse(text, zone).is_some() {
        return Ok(());
    }
    Err(Error::invalid(
        "invalid_config",
        "`check_schedule` must be five cron fields that are met at least once a year by the clocks \
         of `time_zone`, for example `0 2 * * *`.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_a_round_trip() {
        let config = MountConfig::default();
        config.check().unwrap();
        let bytes = storage::encode(&config).unwrap();
        assert_eq!(MountConfig::decode(Some(&bytes)).unwrap(), config);
        assert_eq!(MountConfig::decode(None).unwrap(), config);
    }

    #[test]
    fn out_of_range_values_name_the_field() {
        type Spoil = fn(&mut MountConfig);
        let cases: [(&str, Spoil); 6] = [
            ("wait", |config| config.wait = 26),
            ("refresh_interval", |config| config.refresh_interval = 29),
            ("max_versions", |config| config.max_versions = 1),
            ("check_schedule", |config| {
                config.check_schedule = String::from("at night")
            }),
            ("time_zone", |config| {
                config.time_zone = String::from("Europe/Berln")
            }),
            ("allowed_hosts", |config| {
                config.allowed_hosts = vec![String::from("10.0.0.0/99")]
            }),
        ];
        for (field, spoil) in cases {
            let mut config = MountConfig::default();
            spoil(&mut config);
            let error = config.check().unwrap_err();
            assert_eq!(error.code(), "invalid_config");
            assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let error = MountConfig::decode(Some(br#"{"schema":2}"#)).unwrap_err();
        assert_eq!(error.code(), "record_unreadable");
    }
}
