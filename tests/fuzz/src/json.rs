//! JSON values out of the fuzzer's bytes.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use serde_json::{Number, Value};

/// Levels below a value; serde_json reads 128 in all.
const DEEPEST: usize = 100;

/// A JSON value that the fuzzer builds directly, instead of having to find its syntax.
#[derive(Arbitrary, Clone, Debug)]
pub enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Large(u64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Returns the value. A float that JSON does not have becomes null, and so does what lies deeper
    /// than its parsers go.
    #[must_use]
    pub fn value(&self) -> Value {
        self.at_depth(0)
    }

    fn at_depth(&self, depth: usize) -> Value {
        let below = |inner: &Self| inner.at_depth(depth + 1);
        match self {
            _ if depth > DEEPEST => Value::Null,
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Int(number) => Value::from(*number),
            Self::Large(number) => Value::from(*number),
            Self::Float(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(below).collect(),
            Self::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), below(value)))
                .collect(),
        }
    }
}

/// Reports whether two values are the same, floats up to the last digits: the parser does not
/// promise those.
#[must_use]
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || (one.is_f64() && other.is_f64()) && {
                    let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
                    (one - other).abs() <= one.abs() * 1e-14 + f64::MIN_POSITIVE
                }
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, value)| other.get(name).is_some_and(|it| same(value, it)))
        }
        _ => left == right,
    }
}
