//! Request and response data, and the declaration of a path's fields.
//!
//! [`Data`] is the edge where JSON enters and leaves; [`Field`] says what a path accepts and is
//! the one source of its decoding, its help text and its OpenAPI schema.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::Error;

/// A JSON object of named fields, as requests carry and responses return it.
///
/// `Debug` shows the names only: values may be secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Data(Map<String, Value>);

impl Drop for Data {
    fn drop(&mut self) {
        // A password in an answer or a request passes through here.
        for value in self.0.values_mut() {
            wipe(value);
        }
    }
}

/// Overwrites every text in a value.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Data {
    /// Builds data from any value that serialises to a JSON object.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if it serialises to something else; a defect of the caller.
    pub fn from_serialize<T: Serialize>(value: &T) -> Result<Self, Error> {
        match serde_json::to_value(value) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) | Err(_) => Err(Error::internal("an answer did not serialise to an object")),
        }
    }

    /// Builds the answer to a list.
    #[must_use]
    pub fn keys(keys: Vec<String>) -> Self {
        Self(Map::from_iter([(String::from("keys"), Value::from(keys))]))
    }

    /// Builds data of string fields.
    #[must_use]
    pub fn texts<const N: usize>(fields: [(&str, &str); N]) -> Self {
        let fields = fields.into_iter();
        Self(
            fields
                .map(|(name, text)| (String::from(name), Value::from(text)))
                .collect(),
        )
    }

    /// Returns a field that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Returns the names of the fields that another of the kind has with another value, or not at
    /// all.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let fields = self.0.iter();
        let differing = fields.filter(|(name, value)| other.0.get(*name) != Some(*value));
        differing.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the data without one field: stored entries carry some that no answer shows.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Wraps a parsed object; for `wire`.
    #[must_use]
    pub const fn from_map(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Borrows the object; for `wire`.
    #[must_use]
    pub const fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Takes a field out, so that decoding moves secrets instead of copying them.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// What values a field takes.
///
/// Query parameters and the command line's `key=value` arrive as strings, so every kind also takes
/// its usual text form, as Go's framework does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A string; numbers and booleans are taken as their text.
    Text,
    /// A string that is taken into custody. Only strings: a number's text could have changed on
    /// its way here, and with it the password.
    Secret,
    /// A whole number that fits 64 bits.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A span of whole seconds; see [`super::seconds::parse`] for the text forms.
    Duration,
    /// An RFC 3339 instant.
    Instant,
    /// A list of strings, or one string with commas.
    TextList,
    /// An object; only answered, never taken.
    Object,
    /// A list of objects; only answered, never taken.
    ObjectList,
}

/// One field of a path or of an answer: a capture, a parameter or an answered value.
///
/// Built in constants, because a route keeps `&'static` tables (in place: `const { &[..] }`):
///
/// ```
/// use vault_plugin_secrets_smtp::logical::Field;
///
/// const FIELDS: &[Field] = &[
///     Field::text("tenant", "Name of the tenant.").required(),
///     Field::duration("rotation_period", "Time between rotations.").default("180d"),
/// ];
/// assert!(FIELDS[0].required);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name on the wire.
    pub name: &'static str,
    /// What values it takes.
    pub kind: FieldType,
    /// One or two sentences for help and OpenAPI.
    pub description: &'static str,
    /// Whether a create or update without it is refused. A capture is always there, and no other
    /// operation demands anything.
    pub required: bool,
    /// What applies when the field is absent, as a text its kind would take. For help only:
    /// decoding does not fill it in, because an update must tell "absent" from "named".
    pub default: Option<&'static str>,
    /// A plausible value, for OpenAPI.
    pub example: Option<&'static str>,
    /// The longest text taken, in bytes of UTF-8; of each item for a list.
    pub max_bytes: usize,
    /// Whether line breaks and tabs are taken; every other control character never is.
    pub multiline: bool,
    /// Whether an answer may have null here.
    pub nullable: bool,
    /// Whether a `null` in a request restores the default, also where unknown parameters are
    /// refused ([`super::UnknownFields::Refused`]); there every other `null` is.
    pub resettable: bool,
    /// Every value there is; empty = any. For help and OpenAPI, as what follows: the handler is who
    /// refuses other values.
    pub values: &'static [&'static str],
    /// The smallest and the largest number.
    pub range: Option<(i64, i64)>,
    /// A regular expression (ECMA 262) that the whole text fits.
    pub pattern: Option<&'static str>,
    /// The fields of an object, or of each object of a list.
    pub fields: &'static [Self],
    /// Whether clients should stop using it.
    pub deprecated: bool,
}

impl Field {
    /// The longest text a field takes unless it says otherwise, in bytes.
    pub const DEFAULT_MAX_BYTES: usize = 2_048;

    const fn new(name: &'static str, kind: FieldType, description: &'static str) -> Self {
        Self {
            name,
            kind,
            description,
            required: false,
            default: None,
            example: None,
            max_bytes: Self::DEFAULT_MAX_BYTES,
            multiline: false,
            nullable: false,
            resettable: false,
            values: &[],
            range: None,
            pattern: None,
            fields: &[],
            deprecated: false,
        }
    }

    /// Declares a [`FieldType::Text`].
    #[must_use]
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Text, description)
    }

    /// Declares a [`FieldType::Secret`].
    #[must_use]
    pub const fn secret(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Secret, description)
    }

    /// Declares a [`FieldType::Integer`].
    #[must_use]
    pub const fn integer(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Integer, description)
    }

    /// Declares a [`FieldType::Boolean`].
    #[must_use]
    pub const fn boolean(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Boolean, description)
    }

    /// Declares a [`FieldType::Duration`].
    #[must_use]
    pub const fn duration(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Duration, description)
    }

    /// Declares a [`FieldType::Instant`].
    #[must_use]
    pub const fn instant(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Instant, description)
    }

    /// Declares a [`FieldType::Object`].
    #[must_use]
    pub const fn object(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::Object, description)
    }

    /// Declares a [`FieldType::ObjectList`].
    #[must_use]
    pub const fn objects(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::ObjectList, description)
    }

    /// Says that an answer may have null here.
    #[must_use]
    pub const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// Says that a `null` in a request restores the default.
    #[must_use]
    pub const fn resettable(mut self) -> Self {
        self.resettable = true;
        self
    }

    /// Declares a [`FieldType::TextList`].
    #[must_use]
    pub const fn texts(name: &'static str, description: &'static str) -> Self {
        Self::new(name, FieldType::TextList, description)
    }

    /// Refuses creates and updates without this field, or with an empty text in it.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Documents what applies when the field is absent.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Documents a plausible value.
    #[must_use]
    pub const fn example(mut self, value: &'static str) -> Self {
        self.example = Some(value);
        self
    }

    /// Sets the longest text taken, in bytes.
    #[must_use]
    pub const fn max_bytes(mut self, limit: usize) -> Self {
        self.max_bytes = limit;
        self
    }

    /// Documents the only values there are.
    #[must_use]
    pub const fn one_of(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    /// Documents the smallest and the largest number.
    #[must_use]
    pub const fn range(mut self, low: i64, high: i64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Documents the regular expression (ECMA 262) that the whole text fits.
    #[must_use]
    pub const fn pattern(mut self, pattern: &'static str) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// Documents what an object, or each object of a list, holds.
    #[must_use]
    pub const fn of(mut self, fields: &'static [Self]) -> Self {
        self.fields = fields;
        self
    }

    /// Documents that clients should stop using the field.
    #[must_use]
    pub const fn deprecated(mut self) -> Self {
        self.deprecated = true;
        self
    }

    /// Takes line breaks and tabs, as a PEM certificate needs them.
    #[must_use]
    pub const fn multiline(mut self) -> Self {
        self.multiline = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_data_shows_names_only() {
        let data =
            Data::from_serialize(&std::collections::BTreeMap::from([("password", "hunter2")]))
                .unwrap();
        assert_eq!(format!("{data:?}"), r#"["password"]"#);
    }

    #[test]
    fn an_answer_must_be_an_object() {
        assert!(matches!(
            Data::from_serialize(&[1, 2]),
            Err(Error::Internal(_))
        ));
    }
}
