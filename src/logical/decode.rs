//! Decoding of a request's data by its path's field table.
//!
//! Takes what Go's framework takes ("weak" decoding), because query parameters and the command
//! line send everything as strings. What must stay true: no error text repeats a value, since
//! errors are shown in clear in the host's audit log.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use super::field::wipe;
use super::fields::Typed;
use super::{Data, Error, Field, FieldType, Fields, Operation, instant, seconds};
use crate::crypto::Sensitive;

/// More items than a JSON body may hold at OpenBao (1,000 strings) are no list of ours.
const MAX_ITEMS: usize = 1_000;

/// A request's decoded fields and what the caller should be told about the others.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) fields: Fields,
    /// Names no field has.
    pub(super) ignored: Vec<String>,
    /// Names the path itself gives a value to, which wins.
    pub(super) replaced: Vec<&'static str>,
}

/// Reports whether an operation must name the required fields: a patch keeps what it does not name,
/// and reading or deleting sends no body.
pub(super) const fn demands(operation: Operation) -> bool {
    matches!(operation, Operation::Create | Operation::Update)
}

/// Decodes `data` by `declared`; `captures` are the names the path has values for. What some
/// endpoints refuse besides, [`super::strict`] has looked for before.
pub(super) fn decode(
    declared: &'static [Field],
    captures: &[&'static str],
    operation: Operation,
    mut data: Data,
) -> Result<Decoded, Error> {
    let mut values = BTreeMap::new();
    let mut ignored = Vec::new();
    let mut replaced = Vec::new();
    let names: Vec<String> = data.as_map().keys().cloned().collect();
    for name in names {
        if let Some(capture) = captures.iter().find(|capture| **capture == name) {
            replaced.push(*capture);
        } else if let Some(field) = declared.iter().find(|field| field.name == name) {
            let value = data.take(&name).unwrap_or_default();
            values.insert(field.name, typed(field, value)?);
        } else {
            ignored.push(name);
        }
    }
    // What no field takes is wiped: it may be a password under a misspelt name.
    drop(data);
    let required = declared.iter().filter(|field| field.required);
    for field in required.filter(|_field| demands(operation)) {
        if !captures.contains(&field.name) && is_missing(values.get(field.name)) {
            return Err(Error::user(
                "missing_field",
                format!(
                    "`{}` is required. Name it in the request. {}",
                    field.name, field.description
                ),
            ));
        }
    }
    ignored.sort_unstable();
    replaced.sort_unstable();
    Ok(Decoded {
        fields: Fields::new(declared, values),
        ignored,
        replaced,
    })
}

fn is_missing(value: Option<&Typed>) -> bool {
    match value {
        None | Some(Typed::Null) => true,
        Some(Typed::Text(text)) => text.is_empty(),
        Some(Typed::Secret(secret)) => secret.expose().is_empty(),
        Some(_) => false,
    }
}

/// Reports whether a field takes this text, as its declared default and example must be.
pub(super) fn takes(field: &Field, sample: &str) -> bool {
    typed(field, Value::from(sample)).is_ok()
}

fn typed(field: &Field, value: Value) -> Result<Typed, Error> {
    if value.is_null() {
        return Ok(Typed::Null);
    }
    match field.kind {
        FieldType::Text => checked(field, text(field, value)?).map(|text| trimmed(field, text)),
        FieldType::Secret => secret(field, value).map(Typed::Secret),
        FieldType::Integer => integer(field, &value).map(Typed::Integer),
        FieldType::Boolean => boolean(field, &value).map(Typed::Boolean),
        FieldType::Duration => duration(field, &value).map(Typed::Duration),
        FieldType::Instant => match &value {
            Value::String(text) => instant::parse(text)
                .map(Typed::Instant)
                .map_err(|reason| invalid(field, &reason.to_string())),
            _ => Err(invalid(field, &instant::InstantError.to_string())),
        },
        FieldType::TextList => texts(field, value).map(Typed::TextList),
        FieldType::Object | FieldType::ObjectList => {
            Err(invalid(field, "is only answered, not taken"))
        }
    }
}

/// Cuts the blanks around a text of one line, as around the items of a list: nobody means them, and
/// one cannot see them. A secret is taken as it is.
fn trimmed(field: &Field, text: String) -> Typed {
    let bare = text.trim();
    Typed::Text(if field.multiline || bare.len() == text.len() {
        text
    } else {
        bare.to_owned()
    })
}

fn invalid(field: &Field, rule: &str) -> Error {
    Error::user(
        "invalid_field",
        format!("`{}` {rule}. Correct the value and try again.", field.name),
    )
}

fn text(field: &Field, value: Value) -> Result<String, Error> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        // Go's weak decoding of a boolean.
        Value::Bool(truth) => Ok(String::from(if truth { "1" } else { "0" })),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(invalid(field, "must be a string")),
    }
}

fn secret(field: &Field, value: Value) -> Result<Sensitive<String>, Error> {
    let mut value = value;
    let Value::String(text) = &mut value else {
        wipe(&mut value);
        return Err(invalid(field, "must be a string"));
    };
    let text = std::mem::take(text);
    // In custody first: a refused secret is wiped as well.
    let secret = Sensitive::new(text);
    check(field, secret.expose(), char::is_control)?;
    Ok(secret)
}

fn checked(field: &Field, text: String) -> Result<String, Error> {
    check(field, &text, deceives)?;
    Ok(text)
}

/// Reports whether a character can make a text look like another one where it is shown: controls,
/// line and paragraph separators, marks of writing direction, characters without width.
///
/// Source: Unicode 16, `Cc`, `Zl`, `Zp`, property `Bidi_Control`; UTR 36, section 2.
pub(super) fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Refuses texts that are too long, and characters that could forge a line in a log. A secret is
/// never shown, so it may hold what only deceives the eye.
fn check(field: &Field, text: &str, refused: fn(char) -> bool) -> Result<(), Error> {
    if text.len() > field.max_bytes {
        return Err(too_long(field, field.max_bytes, "bytes"));
    }
    let allowed = |c: char| !refused(c) || (field.multiline && matches!(c, '\n' | '\r' | '\t'));
    if text.chars().all(allowed) {
        Ok(())
    } else {
        Err(invalid(
            field,
            "must not contain control or invisible characters",
        ))
    }
}

fn too_long(field: &Field, limit: usize, unit: &str) -> Error {
    Error::user(
        "too_long",
        format!(
            "`{}` may have at most {limit} {unit}. Shorten it.",
            field.name
        ),
    )
}

fn integer(field: &Field, value: &Value) -> Result<i64, Error> {
    let read = match value {
        // One written as `3.0` or `1e3` goes by its digits.
        Value::Number(number) => number.as_i64().map_or_else(|| whole(&digits(number)), Ok),
        Value::String(text) => whole(text.trim()),
        _ => Err("must be a whole number"),
    };
    read.map_err(|reason| match field.range {
        Some((low, high)) if reason == OUT_OF_RANGE => {
            invalid(field, &format!("must be from {low} to {high}"))
        }
        _ => invalid(field, reason),
    })
}

/// What no field can hold.
const OUT_OF_RANGE: &str = "must be a number that fits 64 bits";

/// Reads digits with a sign; a number that is whole but does not fit is told as that.
fn whole(text: &str) -> Result<i64, &'static str> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_too_large) if is_whole => Err(OUT_OF_RANGE),
        Err(_no_number) => Err("must be a whole number"),
    }
}

/// Writes a JSON number without an exponent, and without a fraction that is zero: `1e20` is what
/// numbers of 65 bits and more have become on their way here.
fn digits(number: &Number) -> String {
    match (number.is_f64(), number.as_f64()) {
        (true, Some(float)) => format!("{float}"),
        _ => number.to_string(),
    }
}

fn boolean(field: &Field, value: &Value) -> Result<bool, Error> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => match number.as_u64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        },
        // Go's `strconv.ParseBool`.
        Value::String(text) => match text.trim() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
            _ => None,
        },
        _ => None,
    }
    .ok_or_else(|| invalid(field, "must be true or false"))
}

fn duration(field: &Field, value: &Value) -> Result<std::time::Duration, Error> {
    match value {
        Value::Number(number) => count(number),
        Value::String(text) => seconds::parse(text),
        _ => Err(seconds::DurationError::Form),
    }
    .map_err(|reason| invalid(field, &reason.to_string()))
}

/// Numbers are seconds. One written as `3600.0` or `1e3` goes by its digits.
fn count(number: &Number) -> Result<std::time::Duration, seconds::DurationError> {
    match (number.as_u64(), number.as_i64()) {
        (Some(seconds), _) => seconds::from_count(seconds),
        (None, Some(_)) => Err(seconds::DurationError::Negative),
        (None, None) => seconds::parse(&digits(number)),
    }
}

fn texts(field: &Field, value: Value) -> Result<Vec<String>, Error> {
    let no_list = |_item: Error| invalid(field, "must be a list of strings");
    let too_many = || too_long(field, MAX_ITEMS, "items");
    // Counted before anything is made of them.
    let items: Vec<String> = match value {
        Value::Array(items) if items.len() > MAX_ITEMS => return Err(too_many()),
        Value::Array(items) => items
            .into_iter()
            .map(|item| text(field, item).map_err(no_list))
            .collect::<Result<_, _>>()?,
        other => {
            let all = text(field, other).map_err(no_list)?;
            if all.split(',').nth(MAX_ITEMS).is_some() {
                return Err(too_many());
            }
            all.split(',').map(String::from).collect()
        }
    };
    items
        .iter()
        .map(|item| item.trim())
        .filter(|item| !item.is_empty())
        .map(|item| checked(field, item.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Patch;
    use super::*;

    const FIELDS: &[Field] = &[
        Field::text("tenant", "Name of the tenant."),
        Field::text("reason", "Why.").max_bytes(16),
        Field::text("ca_cert", "PEM.").multiline(),
        Field::secret("password", "The password."),
        Field::integer("version", "A version."),
        Field::integer("limit", "How many.").range(1, 100),
        Field::boolean("hold", "Whether to hold."),
        Field::duration("wait", "How long."),
        Field::instant("until", "Until when."),
        Field::texts("admins", "Who."),
    ];
    const REQUIRED: &[Field] = &[
        Field::text("tenant", "Name of the tenant.").required(),
        Field::text("reason", "Why.").required(),
        Field::secret("token", "The token.").required(),
    ];

    fn data(value: Value) -> Data {
        match value {
            Value::Object(fields) => Data::from_map(fields),
            _ => panic!("not an object"),
        }
    }

    fn fields(value: Value) -> Result<Fields, Error> {
        decode(FIELDS, &["tenant"], Operation::Update, data(value)).map(|decoded| decoded.fields)
    }

    fn refusal(value: Value) -> (&'static str, String) {
        match fields(value) {
            Err(Error::User { code, message }) => (code, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_takes_its_json_and_its_text_form() {
        for both in [
            json!({"version": 3, "hold": true, "wait": 90, "admins": ["a@b.test", " c@d.test "]}),
            json!({"version": "3", "hold": "true", "wait": "90s", "admins": "a@b.test,c@d.test,"}),
            json!({"version": 3, "hold": 1, "wait": 90.0, "admins": ["a@b.test", "", "c@d.test"]}),
        ] {
            let fields = fields(both).unwrap();
            assert_eq!(fields.integer("version"), Patch::Set(3));
            assert_eq!(fields.boolean("hold"), Patch::Set(true));
            assert_eq!(
                fields.duration("wait"),
                Patch::Set(std::time::Duration::from_secs(90))
            );
            assert_eq!(
                fields.texts("admins").set().unwrap(),
                ["a@b.test", "c@d.test"]
            );
        }
        let fields = fields(json!({"reason": 12, "until": "2026-11-21T07:47:00+01:00"})).unwrap();
        assert_eq!(fields.text("reason"), Patch::Set("12"));
        let until = fields.instant("until").set().unwrap();
        assert_eq!(instant::format(&until), "2026-11-21T06:47:00Z");
    }

    #[test]
    fn blanks_around_a_text_mean_nothing_and_those_of_a_secret_do() {
        let blank = json!({
            "reason": " a  b\u{a0}", "admins": " a@b.test , c@d.test", "ca_cert": " x\n",
            "password": " p ",
        });
        let fields = fields(blank).unwrap();
        assert_eq!(fields.text("reason"), Patch::Set("a  b"));
        let admins = fields.texts("admins").set().unwrap();
        assert_eq!(admins, ["a@b.test", "c@d.test"]);
        assert_eq!(fields.text("ca_cert"), Patch::Set(" x\n"));
        assert_eq!(fields.secret("password").set().unwrap().expose(), " p ");
    }

    #[test]
    fn absent_null_and_empty_are_told_apart() {
        let fields = fields(json!({"wait": null, "reason": ""})).unwrap();
        assert_eq!(fields.duration("wait"), Patch::Null);
        assert_eq!(fields.text("reason"), Patch::Set(""));
        assert!(fields.integer("version").is_absent());
        assert!(!fields.is_empty());
    }

    #[test]
    fn wrong_values_are_refused_without_being_repeated() {
        for (name, value) in [
            ("reason", json!(["hunter2"])),
            ("reason", json!({"a": "hunter2"})),
            ("reason", json!("a\nhunter2")),
            ("reason", json!("a\u{85}hunter2")),
            ("ca_cert", json!("a\u{1b}hunter2")),
            ("ca_cert", json!("a\u{2028}hunter2")),
            ("reason", json!("\u{202e}hunter2")),
            ("reason", json!("\u{feff}hunter2")),
            ("reason", json!("a\u{200b}hunter2")),
            ("admins", json!(["a\u{2069}hunter2"])),
            ("admins", json!("a\u{61c}hunter2")),
            ("password", json!(12_345)),
            ("password", json!("hunter2\r")),
            ("version", json!("hunter2")),
            ("version", json!(1.5)),
            ("version", json!(18_446_744_073_709_551_615_u64)),
            ("version", json!([3])),
            ("version", json!("0x10")),
            ("version", json!("-")),
            ("hold", json!("hunter2")),
            ("hold", json!(2)),
            ("wait", json!("hunter2")),
            ("wait", json!(-1)),
            ("wait", json!(1.5)),
            ("wait", json!(3_155_760_001_u64)),
            ("wait", json!([1])),
            ("until", json!("hunter2")),
            ("until", json!(1_795_243_620)),
            ("admins", json!([["hunter2"]])),
            ("admins", json!({"a": 1})),
            ("admins", json!(["a\nhunter2"])),
        ] {
            let shown = value.to_string();
            let (code, message) = refusal(json!({ name: value }));
            assert_eq!(code, "invalid_field", "{name} {shown}");
            assert!(message.starts_with(&format!("`{name}` must ")), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_told_as_that_and_not_as_no_number() {
        // 2^64 has become a float on its way here.
        for huge in [
            json!(18_446_744_073_709_551_615_u64),
            json!(18_446_744_073_709_551_616.0_f64),
            json!(1e300),
            json!("18446744073709551616"),
            json!("9".repeat(400)),
        ] {
            let (_, message) = refusal(json!({ "wait": huge }));
            assert!(message.contains("at most 100 years"), "{huge} {message}");
            let (_, message) = refusal(json!({ "version": huge }));
            assert!(message.contains("fits 64 bits"), "{huge} {message}");
            let (_, message) = refusal(json!({ "limit": huge }));
            assert!(message.contains("from 1 to 100"), "{huge} {message}");
        }
        for low in [json!(-1e300), json!("-99999999999999999999")] {
            let (_, message) = refusal(json!({ "wait": low }));
            assert!(message.contains("negative"), "{low} {message}");
            let (_, message) = refusal(json!({ "version": low }));
            assert!(message.contains("fits 64 bits"), "{low} {message}");
        }
        for part in [json!(1.5), json!(1e-7), json!("0.5")] {
            let (_, message) = refusal(json!({ "wait": part }));
            assert!(message.contains("whole seconds"), "{part} {message}");
            let (_, message) = refusal(json!({ "version": part }));
            assert!(message.contains("whole number"), "{part} {message}");
        }
        let fields = fields(json!({ "version": 3.0, "wait": 1e3, "limit": "+7" })).unwrap();
        assert_eq!(fields.integer("version"), Patch::Set(3));
        assert_eq!(fields.integer("limit"), Patch::Set(7));
        let wait = std::time::Duration::from_secs(1_000);
        assert_eq!(fields.duration("wait"), Patch::Set(wait));
    }

    #[test]
    fn only_a_multiline_field_takes_line_breaks() {
        let pem = "-----BEGIN-----\r\n\tx\n";
        let fields = fields(json!({ "ca_cert": pem })).unwrap();
        assert_eq!(fields.text("ca_cert"), Patch::Set(pem));
    }

    #[test]
    fn the_limit_counts_bytes() {
        assert!(fields(json!({"reason": "ä".repeat(8)})).is_ok());
        let (code, message) = refusal(json!({"reason": "ä".repeat(9)}));
        assert_eq!(code, "too_long");
        assert!(message.contains("`reason` may have at most 16 bytes"));
        for many in [json!(",".repeat(1_000)), json!(vec!["a"; 1_001])] {
            let (code, _) = refusal(json!({ "admins": many }));
            assert_eq!(code, "too_long");
        }
        assert!(fields(json!({"admins": vec!["a"; 1_000]})).is_ok());
    }

    #[test]
    fn words_and_secrets_of_any_language_are_taken() {
        let fields = fields(json!({"reason": "\u{e4}\u{5e9} \u{1f512}", "password": "\u{200d}x"}));
        let fields = fields.unwrap();
        assert_eq!(fields.text("reason"), Patch::Set("\u{e4}\u{5e9} \u{1f512}"));
        assert_eq!(
            fields.secret("password").set().unwrap().expose(),
            "\u{200d}x"
        );
    }

    #[test]
    fn what_is_required_must_be_named_and_not_empty() {
        let decode = |operation, data| decode(REQUIRED, &["tenant"], operation, data);
        let missing = |value| match decode(Operation::Create, data(value)) {
            Err(Error::User {
                code: "missing_field",
                message,
            }) => message.split('`').nth(1).unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(json!({"token": "t"})), "reason");
        assert_eq!(missing(json!({"token": "t", "reason": ""})), "reason");
        assert_eq!(missing(json!({"token": "t", "reason": "  "})), "reason");
        assert_eq!(missing(json!({"token": "t", "reason": null})), "reason");
        assert_eq!(missing(json!({"reason": "r", "token": ""})), "token");
        let complete = data(json!({"reason": "r", "token": "t"}));
        let fields = decode(Operation::Update, complete).unwrap().fields;
        assert_eq!(fields.secret("token").set().unwrap().expose(), "t");
        for operation in [Operation::Patch, Operation::Read, Operation::Delete] {
            let fields = decode(operation, data(json!({}))).unwrap().fields;
            assert!(fields.text("reason").is_absent());
        }
    }

    #[test]
    fn the_path_wins_over_the_body_and_unknown_names_are_reported() {
        let body = data(json!({"zz": 1, "tenant": ["x"], "aa": 1, "hold": false}));
        let decoded = decode(FIELDS, &["tenant"], Operation::Update, body).unwrap();
        assert_eq!(decoded.ignored, ["aa", "zz"]);
        assert_eq!(decoded.replaced, ["tenant"]);
        assert!(decoded.fields.text("tenant").is_absent());
    }
}
