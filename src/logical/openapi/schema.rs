//! OpenAPI schemas of fields.

use serde_json::{Map, Value, json};

use super::super::{Field, FieldType, seconds};

/// Where a field is described: durations go in in many forms and come out as seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Answer,
}

/// Describes an object of `fields`; `demands` says whether the required ones are.
pub(super) fn object<'a>(
    fields: impl Iterator<Item = &'a Field> + Clone,
    direction: Direction,
    demands: bool,
) -> Value {
    let required: Vec<&str> = fields
        .clone()
        .filter(|field| demands && field.required)
        .map(|field| field.name)
        .collect();
    let properties: Map<String, Value> = fields
        .map(|field| (String::from(field.name), of(field, direction)))
        .collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if let (Value::Object(object), false) = (&mut object, required.is_empty()) {
        object.insert(String::from("required"), json!(required));
    }
    object
}

/// Describes one field.
pub(super) fn of(field: &Field, direction: Direction) -> Value {
    let (kind, format) = kind_and_format(field.kind, direction);
    let mut schema = Map::from_iter([
        (String::from("type"), Value::from(kind)),
        (String::from("description"), Value::from(field.description)),
    ]);
    let mut set = |name: &str, value: Value| schema.insert(String::from(name), value);
    if let Some(format) = format {
        set("format", Value::from(format));
    }
    match field.kind {
        FieldType::TextList => drop(set("items", json!({ "type": "string" }))),
        FieldType::ObjectList => {
            set("items", object(field.fields.iter(), direction, false));
        }
        FieldType::Object if !field.fields.is_empty() => {
            let Value::Object(mut described) = object(field.fields.iter(), direction, false) else {
                return Value::Null;
            };
            set("properties", described.remove("properties").into());
        }
        _ => {}
    }
    if field.nullable {
        set("nullable", Value::from(true));
    }
    if let Some(pattern) = field.pattern {
        set("pattern", Value::from(pattern));
    }
    if let (Some((low, high)), FieldType::Integer) = (field.range, field.kind) {
        set("minimum", Value::from(low));
        // No bound is no number that a client could take for one.
        if high < i64::MAX {
            set("maximum", Value::from(high));
        }
    }
    if !field.values.is_empty() {
        let values = field.values.iter().map(|value| Value::from(*value));
        // An enumeration is complete: null counts as a value of it.
        let null = (field.nullable && direction == Direction::Answer).then_some(Value::Null);
        set("enum", values.chain(null).collect());
    }
    if direction == Direction::Request && takes_text(field.kind) {
        set("maxLength", Value::from(field.max_bytes));
    }
    if field.deprecated {
        set("deprecated", Value::from(true));
    }
    if let Some(attributes) = display_attributes(field) {
        set("x-vault-displayAttrs", attributes);
    }
    describe_samples(field, direction, &mut schema);
    Value::Object(schema)
}

const fn kind_and_format(
    kind: FieldType,
    direction: Direction,
) -> (&'static str, Option<&'static str>) {
    match (kind, direction) {
        (FieldType::Text | FieldType::Secret, _) => ("string", None),
        (FieldType::Integer, _) => ("integer", Some("int64")),
        (FieldType::Boolean, _) => ("boolean", None),
        (FieldType::Duration, Direction::Request) => ("string", Some("duration")),
        (FieldType::Duration, Direction::Answer) => ("integer", Some("seconds")),
        (FieldType::Instant, _) => ("string", Some("date-time")),
        (FieldType::TextList | FieldType::ObjectList, _) => ("array", None),
        (FieldType::Object, _) => ("object", None),
    }
}

const fn takes_text(kind: FieldType) -> bool {
    matches!(kind, FieldType::Text | FieldType::Secret)
}

/// Source: Go `sdk/framework/path.go`, `DisplayAttributes`: what the web interface goes by.
fn display_attributes(field: &Field) -> Option<Value> {
    if field.kind == FieldType::Secret {
        Some(json!({ "sensitive": true }))
    } else if field.multiline {
        Some(json!({ "editType": "textarea" }))
    } else {
        None
    }
}

/// A default is what applies to a request that does not name the field; in an answer it is no more
/// than a plausible value.
fn describe_samples(field: &Field, direction: Direction, schema: &mut Map<String, Value>) {
    let mut set = |name: &str, text: &str| {
        let value = sample(field.kind, direction, text);
        schema.insert(String::from(name), value);
    };
    let (default, example) = match direction {
        Direction::Request => (field.default, field.example),
        Direction::Answer => (None, field.example.or(field.default)),
    };
    if let Some(text) = default {
        set("default", text);
    }
    if let Some(text) = example {
        set("example", text);
    }
}

/// Gives a declared sample its JSON type; [`crate::logical::Router::check`] has seen that it fits.
fn sample(kind: FieldType, direction: Direction, text: &str) -> Value {
    match (kind, direction) {
        (FieldType::Integer, _) => text.parse::<i64>().map_or(Value::Null, Value::from),
        (FieldType::Boolean, _) => Value::from(text == "true"),
        (FieldType::TextList, _) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect(),
        (FieldType::Duration, Direction::Answer) => {
            seconds::parse(text).map_or(Value::Null, |span| Value::from(span.as_secs()))
        }
        (FieldType::Duration, Direction::Request)
        | (FieldType::Text | FieldType::Secret | FieldType::Instant, _) => Value::from(text),
        // Objects have no text form; their fields say what they hold.
        (FieldType::Object | FieldType::ObjectList, _) => Value::Null,
    }
}
