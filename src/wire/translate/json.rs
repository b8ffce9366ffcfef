//! JSON texts and [`Data`]: the only place where request and response JSON is parsed and written.

use serde_json::{Map, Value};

use crate::logical::Data;

/// What absent data looks like, in both directions. An empty text would fail in the host.
pub(super) const NULL: &str = "null";

/// Reads data; `None` for what is no JSON object. The parser's own message may quote the input and
/// is dropped.
pub(super) fn read(text: &str) -> Option<Data> {
    if text.is_empty() || text == NULL {
        return Some(Data::default());
    }
    serde_json::from_str::<Map<String, Value>>(text)
        .ok()
        .map(Data::from_map)
}

/// Writes data; always valid JSON.
pub(super) fn written(data: &Data) -> String {
    serde_json::to_string(data.as_map()).unwrap_or_else(|_never| NULL.to_owned())
}
