//! The typed values of a request's fields.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Field, FieldType};
use crate::crypto::Sensitive;

/// What a request says about one field: nothing, `null`, or a value.
///
/// In a merge patch the three mean "keep", "back to the default" and "set" (RFC 7396).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patch<T> {
    /// The field is not in the request.
    #[default]
    Absent,
    /// The field is `null`.
    Null,
    /// The field has a value.
    Set(T),
}

impl<T> Patch<T> {
    /// Returns the value, if the request has one.
    pub fn set(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// Reports whether the request does not name the field at all.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Reports whether the request says `null`.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Applies `f` to a value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Patch<U> {
        match self {
            Self::Absent => Patch::Absent,
            Self::Null => Patch::Null,
            Self::Set(value) => Patch::Set(f(value)),
        }
    }

    /// Applies a check or conversion that may fail to a value.
    ///
    /// # Errors
    ///
    /// What `f` returns.
    pub fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Patch<U>, E> {
        match self {
            Self::Absent => Ok(Patch::Absent),
            Self::Null => Ok(Patch::Null),
            Self::Set(value) => f(value).map(Patch::Set),
        }
    }

    /// Borrows the value.
    pub const fn as_ref(&self) -> Patch<&T> {
        match self {
            Self::Absent => Patch::Absent,
            Self::Null => Patch::Null,
            Self::Set(value) => Patch::Set(value),
        }
    }

    /// Applies the patch to a stored value: keeps it, replaces it by `default`, or sets it.
    pub fn apply(self, stored: &mut T, default: T) {
        match self {
            Self::Absent => {}
            Self::Null => *stored = default,
            Self::Set(value) => *stored = value,
        }
    }
}

/// One decoded value.
#[derive(Clone)]
pub(super) enum Typed {
    Null,
    Text(String),
    Secret(Sensitive<String>),
    Integer(i64),
    Boolean(bool),
    Duration(Duration),
    Instant(DateTime<Utc>),
    TextList(Vec<String>),
}

impl Typed {
    /// How many bytes [`Typed::write`] adds.
    fn size(&self) -> usize {
        1 + match self {
            Self::Null => 0,
            Self::Text(text) => 8 + text.len(),
            Self::Secret(secret) => 8 + secret.expose().len(),
            Self::Boolean(_) => 1,
            Self::Integer(_) => 8,
            Self::Duration(_) | Self::Instant(_) => 12,
            Self::TextList(texts) => 8 + texts.iter().map(|text| 8 + text.len()).sum::<usize>(),
        }
    }

    /// Adds the kind and the value.
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Null => bytes.push(0),
            Self::Text(text) => {
                bytes.push(1);
                put(bytes, text);
            }
            Self::Secret(secret) => {
                bytes.push(2);
                put(bytes, secret.expose());
            }
            Self::Integer(number) => {
                bytes.push(3);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
            Self::Boolean(truth) => bytes.extend_from_slice(&[4, u8::from(*truth)]),
            Self::Duration(span) => {
                bytes.push(5);
                bytes.extend_from_slice(&span.as_secs().to_be_bytes());
                bytes.extend_from_slice(&span.subsec_nanos().to_be_bytes());
            }
            Self::Instant(at) => {
                bytes.push(6);
                bytes.extend_from_slice(&at.timestamp().to_be_bytes());
                bytes.extend_from_slice(&at.timestamp_subsec_nanos().to_be_bytes());
            }
            Self::TextList(texts) => {
                bytes.push(7);
                bytes.extend_from_slice(&(texts.len() as u64).to_be_bytes());
                for text in texts {
                    put(bytes, text);
                }
            }
        }
    }
}

/// Adds a text behind its length, so that no border between two can move.
fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A request's fields, decoded and checked against their declarations.
///
/// Captures of the path are not in it; see [`super::Call::capture`]. Asking for a field that was
/// not declared with that kind is a defect: it fails in debug builds and is "absent" in release
/// builds. `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Fields {
    declared: &'static [Field],
    values: BTreeMap<&'static str, Typed>,
}

impl Fields {
    pub(super) const fn new(
        declared: &'static [Field],
        values: BTreeMap<&'static str, Typed>,
    ) -> Self {
        Self { declared, values }
    }

    fn get(&self, name: &str, kind: FieldType) -> Option<&Typed> {
        debug_assert!(
            self.declared
                .iter()
                .any(|field| field.name == name && field.kind == kind),
            "field {name} is not declared as {kind:?}"
        );
        self.values.get(name)
    }

    /// Returns a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Patch<&str> {
        match self.get(name, FieldType::Text) {
            Some(Typed::Text(text)) => Patch::Set(text),
            other => null_or_absent(other),
        }
    }

    /// Returns a secret.
    #[must_use]
    pub fn secret(&self, name: &str) -> Patch<Sensitive<String>> {
        match self.get(name, FieldType::Secret) {
            Some(Typed::Secret(secret)) => Patch::Set(secret.clone()),
            other => null_or_absent(other),
        }
    }

    /// Returns a whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Patch<i64> {
        match self.get(name, FieldType::Integer) {
            Some(Typed::Integer(number)) => Patch::Set(*number),
            other => null_or_absent(other),
        }
    }

    /// Returns a truth value.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Patch<bool> {
        match self.get(name, FieldType::Boolean) {
            Some(Typed::Boolean(truth)) => Patch::Set(*truth),
            other => null_or_absent(other),
        }
    }

    /// Returns a span of whole seconds, at most a hundred years.
    #[must_use]
    pub fn duration(&self, name: &str) -> Patch<Duration> {
        match self.get(name, FieldType::Duration) {
            Some(Typed::Duration(span)) => Patch::Set(*span),
            other => null_or_absent(other),
        }
    }

    /// Returns an instant.
    #[must_use]
    pub fn instant(&self, name: &str) -> Patch<DateTime<Utc>> {
        match self.get(name, FieldType::Instant) {
            Some(Typed::Instant(instant)) => Patch::Set(*instant),
            other => null_or_absent(other),
        }
    }

    /// Returns a list of texts, each trimmed and not empty.
    #[must_use]
    pub fn texts(&self, name: &str) -> Patch<Vec<String>> {
        match self.get(name, FieldType::TextList) {
            Some(Typed::TextList(texts)) => Patch::Set(texts.clone()),
            other => null_or_absent(other),
        }
    }

    /// Returns every named field and its value as bytes: two requests give the same only if they
    /// name the same fields with the same values, however they wrote them. Secrets are in it.
    pub(super) fn canonical(&self) -> Sensitive<Vec<u8>> {
        let size = self
            .values
            .iter()
            .map(|(name, value)| 8 + name.len() + value.size());
        // Of the final size from the start: growing would leave copies of secrets behind.
        let mut bytes = Vec::with_capacity(size.sum());
        for (name, value) in &self.values {
            put(&mut bytes, name);
            value.write(&mut bytes);
        }
        Sensitive::new(bytes)
    }

    /// Returns the names of the fields that the request names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// Reports whether the request names no declared field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.keys()).finish()
    }
}

const fn null_or_absent<T>(value: Option<&Typed>) -> Patch<T> {
    match value {
        Some(Typed::Null) => Patch::Null,
        _ => Patch::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_keeps_resets_or_sets() {
        let after = |patch: Patch<i32>| {
            let mut stored = 7;
            patch.apply(&mut stored, 1);
            stored
        };
        assert_eq!(
            [Patch::Absent, Patch::Null, Patch::Set(3)].map(after),
            [7, 1, 3]
        );
    }

    #[test]
    fn debug_shows_names_only() {
        const DECLARED: &[Field] = &[Field::secret("password", "")];
        let secret = Sensitive::new(String::from("hunter2"));
        let fields = Fields::new(
            DECLARED,
            BTreeMap::from([("password", Typed::Secret(secret))]),
        );
        assert_eq!(format!("{fields:?}"), r#"["password"]"#);
        assert_eq!(fields.secret("password").set().unwrap().expose(), "hunter2");
    }

    #[test]
    fn only_the_same_fields_with_the_same_values_have_the_same_bytes() {
        let fields = |values: Vec<(&'static str, Typed)>| {
            Fields::new(&[], values.into_iter().collect()).canonical()
        };
        let text = |text: &str| Typed::Text(text.to_owned());
        let list = |texts: &[&str]| Typed::TextList(texts.iter().map(|it| (*it).into()).collect());
        let all = [
            fields(vec![]),
            fields(vec![("a", Typed::Null)]),
            fields(vec![("a", text(""))]),
            fields(vec![("a", text("bc"))]),
            fields(vec![("ab", text("c"))]),
            fields(vec![("a", text("b")), ("c", text(""))]),
            fields(vec![(
                "a",
                Typed::Secret(Sensitive::new(String::from("bc"))),
            )]),
            fields(vec![("a", Typed::Integer(1))]),
            fields(vec![("a", Typed::Integer(-1))]),
            fields(vec![("a", Typed::Boolean(true))]),
            fields(vec![("a", Typed::Boolean(false))]),
            fields(vec![("a", Typed::Duration(Duration::from_secs(1)))]),
            fields(vec![("a", Typed::Duration(Duration::from_millis(1)))]),
            fields(vec![("a", Typed::Instant(DateTime::UNIX_EPOCH))]),
            fields(vec![("a", list(&[]))]),
            fields(vec![("a", list(&["", "b"]))]),
            fields(vec![("a", list(&["b", ""]))]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one.expose().len(), one.expose().capacity());
            for other in all.iter().skip(index + 1) {
                assert!(one != other, "{index}");
            }
        }
        assert!(fields(vec![("a", text("bc"))]) == all[3]);
    }

    #[test]
    #[should_panic(expected = "not declared")]
    #[cfg(debug_assertions)]
    fn an_undeclared_field_is_a_defect() {
        let _ = Fields::default().text("tenant");
    }
}
