//! The engine's mark in the comment of a Mailu account, next to what an administrator wrote.
//!
//! Mailu has no compare-and-set, but it stores password and comment in one commit: the comment
//! tells which attempt a password came from. The mark is a hint for recognising other writers,
//! never a proof that a password is live.

use std::fmt;

use super::Marker;

/// Longest comment written, in characters: the width of Mailu's database column.
const MAX_COMMENT: usize = 255;

const OPEN: &str = "[smtp ";

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{OPEN}{} {} {}]",
            self.lineage, self.generation, self.attempt
        )
    }
}

/// Returns `comment` with `marker` as its only mark, at the end; `None` if that exceeds Mailu's
/// 255 characters, or if the marker could not be found again. The administrator's text is never
/// cut.
///
/// ```
/// use vault_plugin_secrets_smtp::provider::{Marker, marker};
///
/// let mark = Marker { lineage: "L".into(), generation: 3, attempt: "A".into() };
/// let comment = marker::append("ask Ada [smtp L 2 Z]", &mark).unwrap();
/// assert_eq!(comment, "ask Ada [smtp L 3 A]");
/// assert_eq!(marker::find(&comment), Some(mark));
/// ```
#[must_use]
pub fn append(comment: &str, marker: &Marker) -> Option<String> {
    let mark = marker.to_string();
    if parse(&mark).as_ref() != Some(marker) {
        return None;
    }
    let mut text = without_marks(comment);
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(&mark);
    (text.chars().count() <= MAX_COMMENT).then_some(text)
}

/// Returns the last mark in `comment`.
#[must_use]
pub fn find(comment: &str) -> Option<Marker> {
    pieces(comment).filter_map(|(mark, _)| parse(mark)).last()
}

/// Yields each `[smtp …]` candidate with the text before it since the previous one.
fn pieces(comment: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = comment;
    std::iter::from_fn(move || {
        let open = rest.find(OPEN)?;
        let end = open + rest.get(open..)?.find(']')?;
        // The nearest opening before the end: an administrator may have written an unfinished one.
        let start = rest.get(..end)?.rfind(OPEN)?;
        let (before, from) = rest.split_at_checked(start)?;
        let (mark, after) = from.split_at_checked(end + 1 - start)?;
        rest = after;
        Some((mark, before))
    })
}

fn parse(mark: &str) -> Option<Marker> {
    let inside = mark.strip_prefix(OPEN)?.strip_suffix(']')?;
    let mut words = inside.split(' ');
    let lineage = word(words.next()?)?;
    let generation = words.next()?;
    let attempt = word(words.next()?)?;
    if words.next().is_some() {
        return None;
    }
    let number: u64 = generation.parse().ok()?;
    (number.to_string() == generation).then_some(Marker {
        lineage,
        generation: number,
        attempt,
    })
}

fn word(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Removes well-formed marks; what only resembles one is the administrator's own text.
fn without_marks(comment: &str) -> String {
    let mut kept = String::new();
    let mut seen = 0;
    for (mark, before) in pieces(comment) {
        seen += before.len() + mark.len();
        kept.push_str(before);
        if parse(mark).is_none() {
            kept.push_str(mark);
        } else if kept.ends_with(' ') {
            kept.pop();
        }
    }
    kept.push_str(comment.get(seen..).unwrap_or_default());
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mark_is_found_again_and_replaced_in_any_text(
            text in "(?s).{0,40}(\\[smtp [a-z0-9 ]{0,9}\\]?){0,3}.{0,20}",
            generation: u64,
        ) {
            let once = append(&text, &marker(1)).unwrap();
            let twice = append(&once, &marker(generation)).unwrap();
            prop_assert_eq!(find(&twice), Some(marker(generation)));
            let one_mark = twice.matches(&marker(1).to_string()).count();
            prop_assert_eq!(one_mark, usize::from(generation == 1));
        }
    }

    fn marker(generation: u64) -> Marker {
        Marker {
            lineage: "01J".to_owned(),
            generation,
            attempt: "01K".to_owned(),
        }
    }

    #[test]
    fn the_administrators_text_survives_any_number_of_marks() {
        for text in [
            "",
            "ask Ada",
            "tabs\tand ümlauts",
            "[smtp server]",
            "[smtp a b c]",
            "a [smtp ",
        ] {
            let once = append(text, &marker(1)).unwrap();
            let twice = append(&once, &marker(2)).unwrap();
            assert_eq!(find(&once), Some(marker(1)), "{text}");
            assert_eq!(find(&twice), Some(marker(2)), "{text}");
            assert_eq!(twice, append(text, &marker(2)).unwrap(), "{text}");
            assert!(twice.starts_with(text), "{text}");
        }
        let middle = append("before [smtp 01J 1 01K] after", &marker(2)).unwrap();
        assert_eq!(middle, "before after [smtp 01J 2 01K]");
    }

    #[test]
    fn a_full_comment_is_left_without_a_mark() {
        let mark = marker(7).to_string();
        let room = MAX_COMMENT - mark.len() - 1;
        assert!(append(&"ü".repeat(room), &marker(7)).is_some());
        assert_eq!(append(&"ü".repeat(room + 1), &marker(7)), None);
    }

    #[test]
    fn what_only_resembles_a_mark_is_none() {
        for text in [
            "",
            "[smtp]",
            "[smtp 01J 1]",
            "[smtp 01J x 01K]",
            "[smtp 01J 01 01K]",
            "[smtp 01J 1 01K extra]",
            "[smtp 01J 1 01K",
            "[smtp 01J 18446744073709551616 01K]",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
        let odd = Marker {
            lineage: "a b".to_owned(),
            ..marker(1)
        };
        assert_eq!(append("", &odd), None);
    }
}
