//! [`Zone`]: a time zone by its name in the IANA database.
//!
//! The database is compiled in: what a name means is the same on every node and needs no files
//! beside the plugin. Rules that governments change later come with a newer plugin.

use chrono::{DateTime, Offset as _, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::error::Error;
use crate::logical::distance_of_names;

/// The longest name taken, in bytes; the longest there is has 32.
pub(crate) const LONGEST_ZONE: usize = 64;
/// The zone of a mount that names none.
pub(crate) const DEFAULT_ZONE: &str = "UTC";

/// A time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zone(Tz);

impl Zone {
    /// Universal time.
    #[cfg(test)]
    pub(crate) const UTC: Self = Self(Tz::UTC);

    /// Reads a name, spelt as the database spells it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        name.parse().ok().map(Self)
    }

    /// Returns an instant as clocks there show it.
    pub(crate) fn local(self, at: DateTime<Utc>) -> DateTime<Tz> {
        at.with_timezone(&self.0)
    }

    /// Returns by how many seconds clocks there are ahead of universal time.
    pub(crate) fn ahead(self, at: DateTime<Utc>) -> i32 {
        self.local(at).offset().fix().local_minus_utc()
    }

    /// Reads the value of the field `time_zone`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with code `invalid_config`, naming the nearest zone if one may have been
    /// meant.
    pub(crate) fn of_field(name: &str) -> Result<Self, Error> {
        Self::parse(name).ok_or_else(|| {
            let hint = match nearest(name) {
                Some(zone) => format!("the nearest one is `{zone}`"),
                None => String::from(
                    "distances such as +01:00 and short forms of summer time are none, because \
                     they do not say when clocks change",
                ),
            };
            Error::invalid(
                "invalid_config",
                format!(
                    "`time_zone` must be the name of an IANA time zone, such as `Europe/Berlin` \
                     or `UTC`; {hint}. Correct the name and try again."
                ),
            )
        })
    }
}

/// Returns the zone that may have been meant: by the whole name, or by its last part (`Berlin`).
fn nearest(name: &str) -> Option<&'static str> {
    // `Etc/GMT+1` lies west: nearest by letters to what somebody in the east writes.
    let is_distance = name.contains(['+', ':']) || name.chars().any(|c| c.is_ascii_digit());
    if is_distance || name.trim().is_empty() {
        return None;
    }
    let city = |name: &str| {
        name.rsplit('/')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let given = city(name);
    let zones = TZ_VARIANTS.iter().map(|zone| zone.name());
    let scored = zones.map(|zone| {
        let whole = distance_of_names(name.trim(), zone);
        let part = distance_of_names(&given, &city(zone));
        // Of two cities of one name that of the named continent.
        (whole.min(part), whole, zone)
    });
    let (distance, _, zone) = scored.min()?;
    (distance <= given.chars().count() / 3).then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_database_are_taken_and_others_are_answered_with_the_nearest() {
        for name in [
            "UTC",
            "Europe/Berlin",
            "America/Argentina/Buenos_Aires",
            "Asia/Calcutta",
        ] {
            assert!(Zone::of_field(name).is_ok(), "{name}");
        }
        for (name, meant) in [
            ("europe/berlin", "Europe/Berlin"),
            ("Europe/Berln", "Europe/Berlin"),
            ("Europe Berlin", "Europe/Berlin"),
            (" Europe/Berlin ", "Europe/Berlin"),
            ("Berlin", "Europe/Berlin"),
            ("Germany/Berlin", "Europe/Berlin"),
            ("America/New-York", "America/New_York"),
            ("new york", "America/New_York"),
            ("utc", "UTC"),
        ] {
            let error = Zone::of_field(name).unwrap_err();
            assert_eq!(error.code(), "invalid_config");
            let text = error.to_string();
            assert!(
                text.contains(&format!("nearest one is `{meant}`")),
                "{name}: {text}"
            );
        }
        for name in [
            "",
            " ",
            "+01:00",
            "GMT+1",
            "UTC-5",
            "Z",
            "\u{1f552}",
            &"x".repeat(64),
        ] {
            let text = Zone::of_field(name).unwrap_err().to_string();
            assert!(!text.contains("nearest"), "{name}: {text}");
            assert!(text.contains("`time_zone`"), "{text}");
        }
    }
}
