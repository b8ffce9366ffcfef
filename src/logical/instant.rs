//! Instants on the wire: RFC 3339 in any offset in, UTC with `Z` out.
//!
//! `#[serde(with = "logical::instant")]` on a `DateTime<Utc>` or an `Option` of it.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

/// Why a text is not an instant. Does not repeat the text.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be an RFC 3339 instant such as 2026-11-21T06:47:00Z")]
pub struct InstantError;

/// Parses an RFC 3339 instant and converts it to UTC.
///
/// # Errors
///
/// [`InstantError`] for any other text, and for an instant that has no RFC 3339 form in UTC: its
/// offset takes it out of the years 0 to 9999.
pub fn parse(text: &str) -> Result<DateTime<Utc>, InstantError> {
    DateTime::parse_from_rfc3339(text.trim())
        .map(|instant| instant.with_timezone(&Utc))
        .ok()
        .filter(|instant| (0..=9999).contains(&instant.year()))
        .ok_or(InstantError)
}

/// Formats an instant as answers show it: no fraction if it is zero, else milliseconds or finer.
#[must_use]
pub fn format(instant: &DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Serialises a `DateTime<Utc>` by [`format()`], an empty `Option` as `null`.
///
/// # Errors
///
/// The serialiser's.
pub fn serialize<'a, T, S>(instant: &'a T, serializer: S) -> Result<S::Ok, S::Error>
where
    &'a T: Into<Option<&'a DateTime<Utc>>>,
    S: Serializer,
{
    let text: Option<String> = instant.into().map(format);
    text.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_utc_and_fractions_stay() {
        let shown = |text| parse(text).map(|instant| format(&instant));
        assert_eq!(
            shown("2026-11-21T08:47:00+02:00").unwrap(),
            "2026-11-21T06:47:00Z"
        );
        assert_eq!(
            shown("2026-11-21T06:47:00.120Z").unwrap(),
            "2026-11-21T06:47:00.120Z"
        );
        for text in [
            "",
            "2026-11-21",
            "1795243620",
            "2026-02-30T00:00:00Z",
            // In UTC these are in the years -1 and 10000, which RFC 3339 cannot write.
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(shown(text), Err(InstantError), "{text}");
        }
    }

    #[test]
    fn instants_and_null_are_written() {
        #[derive(Serialize)]
        struct Answer {
            #[serde(with = "super")]
            at: DateTime<Utc>,
            #[serde(with = "super")]
            until: Option<DateTime<Utc>>,
        }
        let at = parse("2026-11-21T06:47:00Z").unwrap();
        let json = serde_json::to_string(&Answer { at, until: None }).unwrap();
        assert_eq!(json, r#"{"at":"2026-11-21T06:47:00Z","until":null}"#);
    }
}
