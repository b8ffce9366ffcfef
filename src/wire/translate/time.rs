//! Durations and instants. A host sends neither with a unit of its own, so what makes no sense
//! counts as absent.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Utc};
use prost_types::Timestamp;

/// Reads nanoseconds; zero and less mean "none".
pub(in crate::wire) fn duration(nanoseconds: i64) -> Option<Duration> {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => None,
        Ok(nanoseconds) => Some(Duration::from_nanos(nanoseconds)),
    }
}

/// Writes nanoseconds; anything above 292 years becomes 292 years.
pub(super) fn nanoseconds(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| {
        i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// Reads an instant; `None` for what no host takes back.
pub(super) fn instant(timestamp: &Timestamp) -> Option<DateTime<Utc>> {
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    DateTime::from_timestamp(timestamp.seconds, nanos).filter(is_valid)
}

/// Writes an instant, or `now` in place of one that the host would refuse.
pub(super) fn timestamp(instant: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Timestamp {
    let instant = instant.filter(is_valid).unwrap_or(now);
    Timestamp {
        seconds: instant.timestamp(),
        // Above a billion in a leap second, which protobuf does not have.
        nanos: i32::try_from(instant.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(0),
    }
}

/// The range of protobuf's timestamps; Go fails on any other, and the request with it.
///
/// Source: `google/protobuf/timestamp.proto`.
fn is_valid(instant: &DateTime<Utc>) -> bool {
    (1..=9999).contains(&instant.year()) && instant.timestamp_subsec_nanos() < 1_000_000_000
}
