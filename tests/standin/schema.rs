//! Checks of request bodies, with the wording of Python's jsonschema.
//!
//! Unknown members are ignored, as Mailu does: a misspelt field is a silent no-op.

use serde_json::{Map, Value};

use super::reply::Reply;

/// A member's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Boolean,
    TextList,
}

/// What one call's body must look like.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    pub required: &'static [&'static str],
    pub members: &'static [(&'static str, Kind)],
}

impl Schema {
    /// Returns the body's members, or the answer that refuses it.
    ///
    /// # Errors
    ///
    /// The 400 that Mailu would send.
    pub fn check<'a>(&self, body: &'a Value) -> Result<&'a Map<String, Value>, Reply> {
        let Some(members) = body.as_object() else {
            return Err(Reply::schema(
                "",
                &format!("{} is not of type 'object'", python(body)),
            ));
        };
        for name in self.required {
            if !members.contains_key(*name) {
                return Err(Reply::schema(
                    name,
                    &format!("'{name}' is a required property"),
                ));
            }
        }
        for (name, kind) in self.members {
            if let Some(value) = members.get(*name) {
                kind.check(name, value)?;
            }
        }
        Ok(members)
    }
}

impl Kind {
    fn check(self, name: &str, value: &Value) -> Result<(), Reply> {
        let wrong = |value: &Value, kind: &str| {
            Err(Reply::schema(
                name,
                &format!("{} is not of type '{kind}'", python(value)),
            ))
        };
        match self {
            Self::Text if !value.is_string() => wrong(value, "string"),
            Self::Boolean if !value.is_boolean() => wrong(value, "boolean"),
            Self::Integer if !(value.is_i64() || value.is_u64()) => wrong(value, "integer"),
            Self::TextList => match value.as_array() {
                None => wrong(value, "array"),
                Some(items) => items
                    .iter()
                    .find(|item| !item.is_string())
                    .map_or(Ok(()), |item| wrong(item, "string")),
            },
            _ => Ok(()),
        }
    }
}

/// Writes a value as Python's `repr` does.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(python).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| format!("'{name}': {}", python(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
    }
}
