//! Field decoding: a value of the declared kind and within its bounds, as an independent reading of
//! the same JSON has it, or a 400 that names the field and repeats nothing of the value.

#![no_main]

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

use fuzzing::json::Json;
use fuzzing::rig;
use vault_plugin_secrets_smtp::logical::{
    Call, Data, Endpoint, Error, Field, Fields, MemoryStorage, Mount, Operation, Patch, Request,
    Route, Router, StaticSystemView, UnknownFields, instant, seconds,
};

const FIELDS: &[Field] = &[
    Field::text("capture", "Of the path."),
    Field::text("text", "A text.").max_bytes(16),
    Field::text("lines", "A text with line breaks.").multiline(),
    Field::text("needed", "A text that must be there.").required(),
    Field::secret("secret", "A secret.").max_bytes(24),
    Field::secret("key", "A secret with line breaks.").multiline(),
    Field::integer("integer", "A number."),
    Field::boolean("boolean", "Yes or no."),
    Field::duration("duration", "A span."),
    Field::instant("instant", "An instant."),
    Field::texts("texts", "A list.").max_bytes(16),
    Field::object("object", "Only answered."),
];
const CANARY: &str = "hunter2";

#[derive(Arbitrary, Debug)]
struct Input {
    operation: u8,
    body: Vec<(Name, Given)>,
    span: Span,
    moment: Moment,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Given {
    Json(Json),
    /// A text with the canary in it.
    Poisoned(String, String),
    /// The text form of a number or a truth value.
    Number(i128),
    Truth(u8),
    Span(Span),
    Moment(Moment),
    List(Vec<String>, bool),
    Deep(u8),
}

/// A duration in Go's form.
#[derive(Arbitrary, Debug)]
struct Span(Vec<(u32, Option<u16>, u8)>);

const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

impl Span {
    fn text(&self) -> String {
        let part = |(whole, fraction, unit): &(u32, Option<u16>, u8)| {
            let (name, _) = UNITS[usize::from(*unit) % UNITS.len()];
            match fraction {
                Some(fraction) => format!("{whole}.{fraction:05}{name}"),
                None => format!("{whole}{name}"),
            }
        };
        self.0.iter().map(part).collect()
    }

    /// The length in 1/100,000 of a nanosecond.
    fn exact(&self) -> u128 {
        let part = |(whole, fraction, unit): &(u32, Option<u16>, u8)| {
            let (_, nanos) = UNITS[usize::from(*unit) % UNITS.len()];
            (u128::from(*whole) * 100_000 + u128::from(fraction.unwrap_or(0))) * nanos
        };
        self.0.iter().map(part).sum()
    }
}

#[derive(Arbitrary, Debug)]
struct Moment {
    year: u16,
    month: u8,
    day: u8,
    second_of_day: u32,
    nanos: Option<u32>,
    offset: Option<(bool, u8, u8)>,
}

impl Moment {
    fn text(&self) -> String {
        let second = self.second_of_day % 86_401;
        let (hour, minute, second) = match second {
            86_400 => (23, 59, 60),
            other => (other / 3_600, other / 60 % 60, other % 60),
        };
        let nanos = self
            .nanos
            .map(|nanos| format!(".{:09}", nanos % 1_000_000_000));
        let offset = match self.offset {
            None => String::from("Z"),
            Some((east, hours, minutes)) => {
                let sign = if east { '+' } else { '-' };
                format!("{sign}{:02}:{:02}", hours % 25, minutes % 61)
            }
        };
        format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}{}{offset}",
            self.year % 10_000,
            self.month % 14,
            self.day % 33,
            nanos.unwrap_or_default(),
        )
    }
}

impl Given {
    fn value(&self) -> Value {
        match self {
            Self::Json(json) => json.value(),
            Self::Poisoned(before, after) => Value::from(format!("{before}{CANARY}{after}")),
            Self::Number(number) => Value::from(format!("{number}")),
            Self::Truth(at) => {
                let words = [
                    "true", "FALSE", "t", "f", "1", "0", "True", "tRUE", "yes", "",
                ];
                Value::from(words[usize::from(*at) % words.len()])
            }
            Self::Span(span) => Value::from(span.text()),
            Self::Moment(moment) => Value::from(moment.text()),
            Self::List(items, true) => Value::from(items.join(",")),
            Self::List(items, false) => Value::from(items.clone()),
            Self::Deep(depth) => {
                (0..*depth).fold(Value::from(CANARY), |inner, _| Value::from(vec![inner]))
            }
        }
    }
}

type Seen = Mutex<Option<Fields>>;

fn router() -> &'static Router<Seen> {
    static ROUTER: OnceLock<Router<Seen>> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let router = Router::new(vec![Route {
            pattern: "{capture}/x",
            synopsis: "",
            description: "",
            fields: FIELDS,
            endpoints: vec![Endpoint {
                operations: &[
                    Operation::Create,
                    Operation::Update,
                    Operation::Patch,
                    Operation::Read,
                ],
                summary: "",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |seen: Arc<Seen>, _mount, call: Call| {
                    Box::pin(async move {
                        assert_eq!(call.capture("capture"), "acme");
                        *seen.lock().unwrap() = Some(call.fields);
                        Ok(None)
                    })
                },
            }],
            existence: None,
        }]);
        router.check().unwrap();
        router
    })
}

/// Unicode 16, `Cc`, `Zl`, `Zp`, bidirectional controls and what has no width.
fn deceives(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0..=0x1f | 0x7f..=0x9f | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e)
        || matches!(code, 0x2060..=0x2064 | 0x2066..=0x2069 | 0xfeff)
}

fn fits(text: &str, field: &Field) -> bool {
    let secret = field.name == "secret" || field.name == "key";
    let bad = |c: char| if secret { c.is_control() } else { deceives(c) };
    let allowed = |c: char| field.multiline && "\n\r\t".contains(c);
    text.len() <= field.max_bytes && !text.chars().any(|c| bad(c) && !allowed(c))
}

/// What a scalar is as a text.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some(String::from("1")),
        Value::Bool(false) => Some(String::from("0")),
        _ => None,
    }
}

fn as_boolean(value: &Value) -> Option<bool> {
    let text = match value {
        Value::Bool(truth) => return Some(*truth),
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return None,
    };
    match text.as_str() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text
            .trim()
            .parse::<i128>()
            .ok()
            .and_then(|n| n.try_into().ok()),
        _ => None,
    }
}

fn as_list(value: &Value, field: &Field) -> Option<Vec<String>> {
    let items = match value {
        Value::Array(items) => items.iter().map(as_text).collect::<Option<Vec<_>>>()?,
        other => as_text(other)?.split(',').map(str::to_owned).collect(),
    };
    if items.len() > 1_000 {
        return None;
    }
    let items: Vec<String> = items
        .iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect();
    items.iter().all(|item| fits(item, field)).then_some(items)
}

/// Whether the field takes the value; `None` where only the properties of the outcome are known.
fn takes(field: &Field, value: &Value) -> Option<bool> {
    if value.is_null() {
        return Some(true);
    }
    Some(match field.name {
        "text" | "lines" | "needed" => as_text(value).is_some_and(|text| fits(&text, field)),
        "secret" | "key" => value.as_str().is_some_and(|text| fits(text, field)),
        "integer" => as_integer(value).is_some(),
        "boolean" => as_boolean(value).is_some(),
        "texts" => as_list(value, field).is_some(),
        "object" => false,
        "duration" => match value {
            Value::Number(number) if !number.is_f64() => number
                .as_u64()
                .is_some_and(|it| it <= seconds::LONGEST.as_secs()),
            Value::String(_) | Value::Number(_) => return None,
            _ => false,
        },
        "instant" => match value {
            Value::String(_) => return None,
            _ => false,
        },
        _ => unreachable!(),
    })
}

fn patch<T>(patch: Patch<T>, value: Option<&Value>) -> Option<T> {
    assert_eq!(patch.is_absent(), value.is_none());
    assert_eq!(patch.is_null(), value.is_some_and(Value::is_null));
    patch.set()
}

fn check_span(span: Duration) {
    assert!(span <= seconds::LONGEST && span.subsec_nanos() == 0);
    let seconds = span.as_secs();
    let forms = [
        format!("{seconds}"),
        format!("{seconds}s"),
        format!(" {seconds}.0s"),
        format!(
            "{}h{}m{}s",
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60
        ),
        format!("{}d{}s", seconds / 86_400, seconds % 86_400),
    ];
    for form in forms {
        assert_eq!(seconds::parse(&form), Ok(span), "{form}");
    }
}

fn check_instant(instant: DateTime<Utc>) {
    let text = instant::format(&instant);
    assert_eq!(instant::parse(&text), Ok(instant), "{text}");
    assert!(text.ends_with('Z') && text.len() <= 30, "{text}");
}

/// Compares what came out with what went in.
fn check_fields(fields: &Fields, body: &Map<String, Value>) {
    for field in FIELDS.iter().filter(|field| field.name != "capture") {
        let (name, value) = (field.name, body.get(field.name));
        assert_ne!(
            value.and_then(|value| takes(field, value)),
            Some(false),
            "{name} {value:?}"
        );
        match name {
            "text" | "lines" | "needed" => {
                let text = patch(fields.text(name), value);
                assert_eq!(text.map(str::to_owned), value.and_then(as_text));
            }
            "secret" | "key" => {
                let secret = patch(fields.secret(name), value);
                let secret = secret.as_ref().map(|secret| secret.expose().as_str());
                assert_eq!(secret, value.and_then(Value::as_str));
            }
            "integer" => {
                let number = patch(fields.integer(name), value);
                assert_eq!(number, value.and_then(as_integer));
            }
            "boolean" => {
                let truth = patch(fields.boolean(name), value);
                assert_eq!(truth, value.and_then(as_boolean));
            }
            "texts" => {
                let texts = patch(fields.texts(name), value);
                assert_eq!(texts, value.and_then(|value| as_list(value, field)));
            }
            "duration" => {
                if let Some(span) = patch(fields.duration(name), value) {
                    check_span(span);
                    if let Some(seconds) = value.and_then(Value::as_u64) {
                        assert_eq!(span.as_secs(), seconds);
                    }
                }
            }
            "instant" => {
                if let Some(instant) = patch(fields.instant(name), value) {
                    check_instant(instant);
                }
            }
            "object" => assert!(value.is_none_or(Value::is_null)),
            _ => unreachable!(),
        }
    }
    assert!(!format!("{fields:?}").contains(CANARY));
}

/// A code, the field's name, and nothing of its value.
fn check_refusal(error: &Error, body: &Map<String, Value>, demands: bool) {
    rig::check_error(error);
    let Error::User { code, message } = error else {
        panic!("{error:?}");
    };
    let name = message.split('`').nth(1).unwrap();
    let field = FIELDS.iter().find(|field| field.name == name).unwrap();
    assert!(message.starts_with(&format!("`{name}` ")), "{message}");
    assert!(!message.contains(CANARY), "{message}");
    assert!(message.len() < 200, "{message}");
    match *code {
        "missing_field" => {
            assert!(demands && field.required);
            let value = body.get(name);
            assert!(value.is_none_or(|value| value.is_null() || value == ""));
        }
        "invalid_field" | "too_long" => {
            let value = body.get(name).unwrap();
            assert_ne!(takes(field, value), Some(true), "{name} {value} {message}");
        }
        other => panic!("{other}"),
    }
}

fn check_text_forms(input: &Input) {
    let (text, exact) = (input.span.text(), input.span.exact());
    let unit = 100_000 * 1_000_000_000;
    match seconds::parse(&text) {
        Ok(span) => {
            check_span(span);
            assert_eq!(u128::from(span.as_secs()) * unit, exact, "{text}");
        }
        Err(seconds::DurationError::Form) => assert!(text.is_empty()),
        // Parts of a nanosecond are refused even where they add up to whole ones.
        Err(seconds::DurationError::Fraction) => {
            assert!(
                exact % unit != 0 || text.contains("ns") || text.contains("us"),
                "{text}"
            );
        }
        Err(seconds::DurationError::TooLong) => {
            assert!(exact > seconds::LONGEST.as_nanos() * 100_000, "{text}");
        }
        Err(error) => panic!("{text}: {error}"),
    }
    if let Ok(instant) = instant::parse(&input.moment.text()) {
        check_instant(instant);
    }
}

fuzz_target!(|input: Input| {
    check_text_forms(&input);
    let operations = [
        Operation::Create,
        Operation::Update,
        Operation::Patch,
        Operation::Read,
    ];
    let operation = operations[usize::from(input.operation) % operations.len()];
    let mut body = Map::new();
    for (name, given) in &input.body {
        let name = match name {
            Name::Known(at) => FIELDS[usize::from(*at) % FIELDS.len()].name,
            Name::Text(text) => text,
        };
        body.insert(name.to_owned(), given.value());
    }
    let seen = Arc::new(Seen::default());
    let mount = Mount {
        storage: Arc::new(MemoryStorage::new()),
        system: Arc::new(StaticSystemView::default()),
    };
    let request = Request::new(operation, "acme/x", Data::from_map(body.clone()));
    let reply = rig::run(router().handle(&seen, &mount, request));
    let demands = matches!(operation, Operation::Create | Operation::Update);
    let declared = |name: &str| FIELDS.iter().any(|field| field.name == name);
    match reply {
        Err(error) => check_refusal(&error, &body, demands),
        Ok(answer) => {
            let fields = seen.lock().unwrap().take().unwrap();
            check_fields(&fields, &body);
            if demands {
                assert!(
                    fields
                        .text("needed")
                        .set()
                        .is_some_and(|text| !text.is_empty())
                );
            }
            let strange = body.keys().filter(|name| !declared(name)).count();
            let replaced = usize::from(body.contains_key("capture"));
            let warnings = answer.map_or(0, |answer| answer.warnings.len());
            let expected = usize::from(strange > 0) + replaced;
            assert!(warnings == expected || operation == Operation::Read);
        }
    }
});
