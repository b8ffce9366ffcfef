//! [`Other`]: a name that this version does not know.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of any vocabulary, in bytes.
const LONGEST: usize = 63;

/// A name of a closed vocabulary that a newer version of the plugin has written. History keeps it as
/// it is: it is shown and stored again unchanged, and says nothing else to this version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Other {
    length: u8,
    bytes: [u8; LONGEST],
}

impl Other {
    /// Takes a name: 1 to 63 of `a-z`, `0-9` and `_`; `None` for what no vocabulary has.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0)?;
        let mut bytes = [0; LONGEST];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        name.bytes().all(known).then_some(Self { length, bytes })
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.length));
        name.and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Other {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Other {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom("no name of a vocabulary"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EventName, Outcome, RotationType, Severity};
    use super::*;

    fn back<T: Serialize + for<'de> Deserialize<'de>>(text: &str) -> Option<String> {
        let read: T = serde_json::from_str(text).ok()?;
        serde_json::to_string(&read).ok()
    }

    #[test]
    fn unknown_names_are_kept_as_they_are() {
        for text in ["\"smtp_of_a_newer_version\"", "\"grave\"", "\"x9_\""] {
            assert_eq!(back::<EventName>(text).as_deref(), Some(text));
            assert_eq!(back::<Severity>(text).as_deref(), Some(text));
            assert_eq!(back::<Outcome>(text).as_deref(), Some(text));
            assert_eq!(back::<RotationType>(text).as_deref(), Some(text));
        }
        let known: Severity = serde_json::from_str("\"critical\"").unwrap();
        assert_eq!(known, Severity::Critical);
        let longest = format!("\"{}\"", "a".repeat(LONGEST));
        assert_eq!(back::<EventName>(&longest), Some(longest));
    }

    #[test]
    fn what_no_vocabulary_has_is_refused() {
        let long = format!("\"{}\"", "a".repeat(LONGEST + 1));
        for text in ["\"\"", "\"A\"", "\"a b\"", "5", "null", "{}", &long] {
            assert_eq!(back::<Severity>(text), None, "{text}");
        }
    }
}
