//! The settings of the rules, as stored and as checked.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::hours::{WORK_HOURS, WorkHours};
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::zone::{DEFAULT_ZONE, Zone};

/// The stored format.
const SCHEMA: u32 = 1;
/// The memory keeps a few more looks than this of one person.
pub(crate) const MOST_REVEALS: u64 = 60;
/// A record keeps 16 events, and a refused change may leave two.
pub(crate) const MOST_REFUSALS: u64 = 7;
/// Most entries of `work_hours`.
const MOST_HOURS: usize = 20;
/// The longest `incident_pattern`, in bytes.
pub(crate) const LONGEST_PATTERN: usize = 256;
/// The most memory a compiled pattern and its search may take, each; in bytes.
const PATTERN_MEMORY: usize = 256 * 1024;

/// What is suspicious on this mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertSettings {
    /// The stored format.
    schema: u32,
    /// How many looks of one entity within an hour are in order, at most [`MOST_REVEALS`]; 0 = any.
    pub(crate) reveals_per_hour: u64,
    /// When looks are in order; empty = always.
    pub(crate) work_hours: Vec<String>,
    /// The IANA time zone whose clocks those hours go by.
    pub(crate) time_zone: String,
    /// What an incident's number looks like, as a whole; `None` = anything.
    pub(crate) incident_pattern: Option<String>,
    /// How many refusals by a tenant's Mailu within an hour are in order, at most
    /// [`MOST_REFUSALS`]; 0 = any.
    pub(crate) refusals_per_hour: u64,
    /// Whether grave drift is suspicious.
    pub(crate) drift: bool,
}

impl Default for AlertSettings {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            reveals_per_hour: 5,
            work_hours: Vec::new(),
            time_zone: String::from(DEFAULT_ZONE),
            incident_pattern: None,
            refusals_per_hour: 5,
            drift: true,
        }
    }
}

/// Checked settings.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) settings: AlertSettings,
    pub(super) hours: WorkHours,
    pub(super) incident: Option<Regex>,
}

impl Rules {
    /// Reads the stored settings; the defaults if none were ever written.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if they are damaged or of a newer format.
    pub(crate) fn decode(bytes: Option<&[u8]>) -> Result<Self, Error> {
        let Some(bytes) = bytes else {
            return Self::new(AlertSettings::default());
        };
        storage::check_schema(storage::ALERTS, bytes, SCHEMA)?;
        let settings = storage::decode(storage::ALERTS, bytes)?;
        Self::new(settings).map_err(|_no_release_stores_it| storage::damaged(storage::ALERTS))
    }

    /// Checks settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with code `invalid_config`, naming the field and what it takes.
    pub(crate) fn new(settings: AlertSettings) -> Result<Self, Error> {
        for (field, value, most) in [
            ("reveals_per_hour", settings.reveals_per_hour, MOST_REVEALS),
            (
                "refusals_per_hour",
                settings.refusals_per_hour,
                MOST_REFUSALS,
            ),
        ] {
            if value > most {
                return Err(invalid(
                    field,
                    &format!("must be from 1 to {most}, or 0 to switch the rule off."),
                ));
            }
        }
        if settings.work_hours.len() > MOST_HOURS {
            return Err(invalid("work_hours", "takes at most 20 entries."));
        }
        let zone = Zone::of_field(&settings.time_zone)?;
        let hours = WorkHours::parse(&settings.work_hours, zone)
            .ok_or_else(|| invalid("work_hours", WORK_HOURS))?;
        let incident = settings
            .incident_pattern
            .as_deref()
            .map(whole)
            .transpose()?;
        Ok(Self {
            settings,
            hours,
            incident,
        })
    }
}

/// Compiles a pattern that must match the whole text.
fn whole(pattern: &str) -> Result<Regex, Error> {
    if pattern.is_empty() || pattern.len() > LONGEST_PATTERN {
        return Err(invalid("incident_pattern", "must have 1 to 256 bytes."));
    }
    // By itself first: a pattern such as `a)|(b` would end the group below.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

fn compile(pattern: &str) -> Result<Regex, Error> {
    let built = RegexBuilder::new(pattern)
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .build();
    built.map_err(|error| {
        // The last line says what; the lines before show where.
        let said = error.to_string();
        let what = said.lines().last().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        invalid(
            "incident_pattern",
            &format!(
                "is no regular expression that can be used ({what}). Write for example \
                 `INC-[0-9]+`; look-around and back references do not exist."
            ),
        )
    })
}

fn invalid(field: &str, why: &str) -> Error {
    Error::invalid("invalid_config", format!("`{field}` {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first stored format: what was once written is read for ever.
    const FROZEN: &str = r#"{"schema":1,"reveals_per_hour":3,"work_hours":["Mon-Fri 07:00-19:00"],"time_zone":"Europe/Berlin","incident_pattern":"INC-[0-9]+","refusals_per_hour":4,"drift":false}"#;

    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let rules = Rules::decode(Some(FROZEN.as_bytes())).unwrap();
        let written = storage::encode(&rules.settings).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), FROZEN);
        let unset = Rules::decode(None).unwrap();
        assert_eq!(unset.settings, AlertSettings::default());
        for (right, wrong) in [
            (":1,", ":2,"),
            ("\"drift\"", "\"draft\""),
            ("07:00", "7:00"),
            ("Berlin", "Bonn"),
            ("[0-9]+", "[0-9"),
            (":4,", ":8,"),
        ] {
            let spoilt = FROZEN.replacen(right, wrong, 1);
            let error = Rules::decode(Some(spoilt.as_bytes())).unwrap_err();
            assert_eq!(error.code(), "record_unreadable", "{spoilt}");
        }
    }

    #[test]
    fn a_pattern_has_to_match_all_of_the_text_whatever_it_says() {
        let matches = |pattern: &str, text: &str| whole(pattern).unwrap().is_match(text);
        assert!(matches("INC-[0-9]+", "INC-7"));
        assert!(!matches("INC-[0-9]+", "INC-7 or so"));
        assert!(!matches("INC-[0-9]+", "see INC-7"));
        assert!(!matches("(?m)^INC-7$", "x\nINC-7\nx"));
        assert!(!matches("INC-7", "INC-7\n"));
        assert!(matches("a|ab", "ab"), "not the first alternative alone");
        assert!(!matches("a|b", "ax"));
        assert!(matches(r"(?i)inc-\d+", "INC-7"));
    }

    #[test]
    fn a_pattern_that_is_none_or_costs_too_much_is_refused() {
        for pattern in [
            "",
            "INC-[0-9",
            "a)|(b",
            r"(a)\1",
            "(?:a{1000}){1000}",
            "(?x) a # not closed",
            &"x".repeat(257),
        ] {
            let error = whole(pattern).unwrap_err();
            assert_eq!(error.code(), "invalid_config", "{pattern}");
            assert!(error.to_string().contains("`incident_pattern`"), "{error}");
        }
    }
}
