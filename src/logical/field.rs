//! Request and response data: the edge where JSON becomes typed and back.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Error;

/// A JSON object of named fields, as requests carry and responses return it.
///
/// `Debug` shows the names only: values may be secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Data(Map<String, Value>);

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
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
