//! Durations on the wire: many ways in, whole seconds out.
//!
//! `#[serde(with = "logical::seconds")]` on a `Duration` or an `Option<Duration>` writes seconds.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// The longest span taken: a hundred years of 365.25 days. Anything above is a slip of the
/// keyboard, and additions to an instant cannot overflow below it.
pub const LONGEST: Duration = Duration::from_secs(3_155_760_000);

const NANOS: u128 = 1_000_000_000;

/// Why a text is not a duration. Does not repeat the text.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    /// The text has none of the known forms.
    #[error("must be seconds (3600) or a duration such as 90m, 1h30m, 2d or 180_days")]
    Form,
    /// Negative durations mean nothing here.
    #[error("must not be negative")]
    Negative,
    /// Answers are whole seconds; nothing else is stored.
    #[error("must be whole seconds")]
    Fraction,
    /// More than [`LONGEST`].
    #[error("must be at most 100 years")]
    TooLong,
}

/// Parses a duration.
///
/// Takes plain seconds (`3600`), Go's form with a day added (`1h30m`, `1.5h`, `2d12h`; units `ns`,
/// `us`, `ms`, `s`, `m`, `h`, `d` = 24 h) and `180_days`.
///
/// Source: Go `time.ParseDuration`; HashiCorp `parseutil.ParseDurationSecond` for seconds and `d`.
///
/// ```
/// use std::time::Duration;
/// use vault_plugin_secrets_smtp::logical::seconds;
///
/// assert_eq!(seconds::parse("1h30m"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(seconds::parse("180_days"), seconds::parse("180d"));
/// assert_eq!(seconds::parse("-1s"), Err(seconds::DurationError::Negative));
/// ```
///
/// # Errors
///
/// A [`DurationError`] saying what to write instead.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let days = text
        .strip_suffix("_days")
        .or_else(|| text.strip_suffix("_day"));
    let nanos = if let Some(days) = days {
        amount(days, 86_400 * NANOS)?
    } else if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        amount(text, NANOS)?
    } else {
        go_form(text)?
    };
    from_nanos(nanos)
}

/// Takes a count of seconds as JSON numbers carry it.
pub(super) fn from_count(seconds: u64) -> Result<Duration, DurationError> {
    from_nanos(u128::from(seconds) * NANOS)
}

fn from_nanos(nanos: u128) -> Result<Duration, DurationError> {
    if nanos > LONGEST.as_nanos() {
        return Err(DurationError::TooLong);
    }
    if !nanos.is_multiple_of(NANOS) {
        return Err(DurationError::Fraction);
    }
    u64::try_from(nanos / NANOS)
        .map(Duration::from_secs)
        .map_err(|_beyond_u64| DurationError::TooLong)
}

/// Sums up `<number><unit>` pairs.
fn go_form(text: &str) -> Result<u128, DurationError> {
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_while(after, |c| !(c.is_ascii_digit() || c == '.'));
        let part = amount(number, unit_nanos(unit).ok_or(DurationError::Form)?)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    Ok(total)
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !keep(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

const fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit.as_bytes() {
        b"ns" => 1,
        b"us" => 1_000,
        b"ms" => 1_000_000,
        b"s" => NANOS,
        b"m" => 60 * NANOS,
        b"h" => 3_600 * NANOS,
        b"d" => 86_400 * NANOS,
        _ => return None,
    })
}

/// Multiplies a decimal number with a unit, exactly: no floats, so no rounding.
fn amount(number: &str, unit: u128) -> Result<u128, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(DurationError::Form);
    }
    let whole: u128 = match whole {
        "" => 0,
        // Digits only, so the one way to fail is to be too large.
        _ => whole.parse().map_err(|_overflow| DurationError::TooLong)?,
    };
    let mut total = whole.checked_mul(unit).ok_or(DurationError::TooLong)?;
    let mut place = unit;
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        // Zeros may follow for ever; behind the last nanosecond the place is zero itself.
        if digit != 0 && (place == 0 || !place.is_multiple_of(10)) {
            return Err(DurationError::Fraction);
        }
        place /= 10;
        total = total
            .checked_add(u128::from(digit) * place)
            .ok_or(DurationError::TooLong)?;
    }
    Ok(total)
}

/// Serialises a `Duration` as whole seconds, an empty `Option` as `null`.
///
/// # Errors
///
/// The serialiser's.
pub fn serialize<'a, T, S>(span: &'a T, serializer: S) -> Result<S::Ok, S::Error>
where
    &'a T: Into<Option<&'a Duration>>,
    S: Serializer,
{
    let seconds: Option<u64> = span.into().map(Duration::as_secs);
    seconds.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_forms_are_taken() {
        for (text, seconds) in [
            ("0", 0),
            ("3600", 3_600),
            (" 15m ", 900),
            ("1h30m", 5_400),
            ("1.5h", 5_400),
            (".5m", 30),
            ("2d", 172_800),
            ("1d12h30m5s", 131_405),
            ("1500ms500ms", 2),
            ("180_days", 15_552_000),
            ("1_day", 86_400),
            ("36525d", 3_155_760_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        use DurationError::{Form, Fraction, Negative, TooLong};
        for (text, reason) in [
            ("", Form),
            (".", Form),
            ("soon", Form),
            ("h", Form),
            ("1h 30m", Form),
            ("1w", Form),
            ("1.2.3", Form),
            ("180_months", Form),
            ("_days", Form),
            ("5m3", Form),
            ("٣s", Form),
            ("-5m", Negative),
            ("-0", Negative),
            ("1500ms", Fraction),
            ("0.5", Fraction),
            ("0.0000000001s", Fraction),
            ("0.00010ns", Fraction),
            ("3600.00000000001", Fraction),
            ("36526d", TooLong),
            ("3155760001", TooLong),
            ("99999999999999999999999999999999999999999999", TooLong),
            ("340282366920938463463374607431768211455h", TooLong),
        ] {
            assert_eq!(parse(text), Err(reason), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0_u64..=3_155_760_000) {
            let expected = Ok(Duration::from_secs(seconds));
            prop_assert_eq!(parse(&seconds.to_string()), expected);
            let (days, rest) = (seconds / 86_400, seconds % 86_400);
            let (hours, rest) = (rest / 3_600, rest % 3_600);
            let go = format!("{days}d{hours}h{}m{}s", rest / 60, rest % 60);
            prop_assert_eq!(parse(&go), expected);
        }

        #[test]
        fn no_text_panics_or_exceeds_the_limit(text in "[0-9.a-z_ -]{0,40}|.{0,20}") {
            if let Ok(span) = parse(&text) {
                prop_assert!(span <= LONGEST);
                prop_assert_eq!(span.subsec_nanos(), 0);
            }
        }
    }

    #[test]
    fn seconds_and_null_are_written() {
        #[derive(Serialize)]
        struct Answer {
            #[serde(with = "super")]
            ttl: Duration,
            #[serde(with = "super")]
            rest: Option<Duration>,
        }
        let answer = Answer {
            ttl: Duration::from_millis(2_900),
            rest: None,
        };
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(json, r#"{"ttl":2,"rest":null}"#);
    }
}
