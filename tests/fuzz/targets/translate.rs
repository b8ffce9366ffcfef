//! Messages to requests and back: every field arrives as it was sent, every answer is valid JSON
//! with the same data, every error has the kind and status that the host maps.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

use fuzzing::json::{Json, same};
use vault_plugin_secrets_smtp::logical::{Data, Error, READ_ONLY, Response};
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::wire::fuzzing as wire;

#[derive(Arbitrary, Debug)]
struct Input {
    asked: Asked,
    answer: Answer,
    found: Option<bool>,
}

#[derive(Arbitrary, Debug)]
struct Asked {
    operation: Result<u8, String>,
    data: Body,
    id: String,
    path: String,
    mount_point: String,
    display_name: String,
    entity_id: String,
    wrap_ttl: Option<i64>,
    connection: Option<(String, i32)>,
    headers: BTreeMap<String, Vec<String>>,
    other: [String; 4],
    remaining_uses: i64,
    flags: [bool; 2],
}

#[derive(Arbitrary, Debug)]
enum Body {
    Empty,
    Null,
    Object(Vec<(String, Json)>),
    Other(Json),
    Text(String),
    Deep(u16),
}

const OPERATIONS: [&str; 15] = [
    "create",
    "read",
    "update",
    "patch",
    "delete",
    "list",
    "scan",
    "help",
    "header",
    "renew",
    "revoke",
    "rollback",
    "resolve-path",
    "resolve-role",
    "alias-lookahead",
];

#[derive(Arbitrary, Debug)]
enum Answer {
    Nothing,
    Response {
        data: Option<Vec<(String, Json)>>,
        warnings: Vec<String>,
        wrap_ttl: Option<(u64, u32)>,
    },
    Error(Failure),
}

#[derive(Arbitrary, Debug)]
enum Failure {
    User(String),
    Status(u16, String),
    UnsupportedOperation,
    UnsupportedPath,
    ReadOnly,
    Storage(String),
    Internal(String),
}

impl Failure {
    /// The error, its kind for the host and its status.
    fn error(&self) -> (Error, u32, i64) {
        const CODED: u32 = 3;
        match self {
            Self::User(text) => (Error::user("invalid_field", text), CODED, 400),
            Self::Status(status, text) => {
                let status = 400 + status % 200;
                (
                    Error::status(status, "busy", text),
                    CODED,
                    i64::from(status),
                )
            }
            Self::UnsupportedOperation => (Error::UnsupportedOperation, 5, 0),
            Self::UnsupportedPath => (Error::UnsupportedPath, CODED, 404),
            Self::ReadOnly => (Error::ReadOnly, 0, 0),
            Self::Storage(text) => (Error::Storage(text.clone()), CODED, 500),
            Self::Internal(text) => (Error::internal(text), CODED, 500),
        }
    }
}

fn object(fields: &[(String, Json)]) -> Map<String, Value> {
    fields
        .iter()
        .map(|(name, value)| (name.clone(), value.value()))
        .collect()
}

impl Body {
    fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Null => String::from("null"),
            Self::Object(fields) => Value::Object(object(fields)).to_string(),
            Self::Other(json) => json.value().to_string(),
            Self::Text(text) => text.clone(),
            Self::Deep(depth) => {
                let depth = usize::from(depth % 1_000);
                format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth))
            }
        }
    }
}

fn check_request(asked: &Asked) {
    let operation = match &asked.operation {
        Ok(at) => OPERATIONS[usize::from(*at) % OPERATIONS.len()],
        Err(text) => text,
    };
    let text = asked.data.text();
    let [cluster, token, accessor, mount_type] = asked.other.clone();
    let message = pb::Request {
        id: asked.id.clone(),
        replication_cluster: cluster,
        operation: operation.to_owned(),
        path: asked.path.clone(),
        data: text.clone(),
        headers: asked
            .headers
            .iter()
            .map(|(name, values)| {
                (
                    name.clone(),
                    pb::Header {
                        header: values.clone(),
                    },
                )
            })
            .collect(),
        client_token: token,
        client_token_accessor: accessor,
        display_name: asked.display_name.clone(),
        mount_point: asked.mount_point.clone(),
        mount_type,
        wrap_info: asked.wrap_ttl.map(|ttl| pb::RequestWrapInfo {
            ttl,
            ..pb::RequestWrapInfo::default()
        }),
        client_token_remaining_uses: asked.remaining_uses,
        entity_id: asked.entity_id.clone(),
        policy_override: asked.flags[0],
        unauthenticated: asked.flags[1],
        connection: asked
            .connection
            .clone()
            .map(|(remote_addr, remote_port)| pb::Connection {
                remote_addr,
                remote_port,
                ..pb::Connection::default()
            }),
        ..pb::Request::default()
    };
    let known = OPERATIONS.contains(&operation) && operation != "resolve-path";
    let request = match wire::request(message) {
        Err(Error::UnsupportedOperation) => return assert!(!known, "{operation:?}"),
        Err(error) => {
            let Error::User { code, .. } = error else {
                panic!("{error:?}")
            };
            assert!(known && code == "invalid_json");
            // Depth is bounded, so that a hostile body cannot exhaust the stack.
            let object = serde_json::from_str::<Map<String, Value>>(&text).is_ok();
            assert!(!object && !text.is_empty() && text != "null", "{text:?}");
            // The same text whatever was sent: nothing of it is repeated.
            let other = pb::Request {
                operation: String::from("read"),
                data: String::from("{"),
                ..pb::Request::default()
            };
            return assert_eq!(wire::request(other).unwrap_err(), error);
        }
        Ok(request) => request,
    };
    assert!(known);
    assert_eq!(request.operation.as_str(), operation);
    assert_eq!(request.id.as_str(), asked.id);
    assert_eq!(request.path, asked.path);
    assert_eq!(request.mount_point, asked.mount_point);
    assert_eq!(request.display_name, asked.display_name);
    assert_eq!(request.entity_id, asked.entity_id);
    let ttl = asked.wrap_ttl.filter(|ttl| *ttl > 0);
    assert_eq!(
        request.wrap_ttl.map(|ttl| ttl.as_nanos()),
        ttl.map(|ttl| ttl as u128)
    );
    let address = asked
        .connection
        .as_ref()
        .map(|(address, _)| address.as_str());
    assert_eq!(
        request.remote_addr.as_deref(),
        address.filter(|it| !it.is_empty())
    );
    assert_eq!(request.headers, asked.headers);
    let expected = match &asked.data {
        Body::Object(fields) => object(fields),
        _ if text.is_empty() || text == "null" => Map::new(),
        _ => serde_json::from_str(&text).unwrap(),
    };
    let (data, expected) = (request.data.as_map().clone(), Value::Object(expected));
    assert!(same(&Value::Object(data), &expected), "{text}");
    // Names show, values do not.
    let names: Vec<&String> = request.data.as_map().keys().collect();
    assert_eq!(format!("{:?}", request.data), format!("{names:?}"));
}

/// Parses what becomes the client's data.
fn json(text: &str) -> Value {
    assert!(!text.is_empty(), "the host fails on empty data");
    serde_json::from_str(text).unwrap()
}

fn check_error(message: &pb::ProtoError, kind: u32, status: i64, error: &Error) {
    assert_eq!(
        (message.err_type, message.err_code),
        (kind, status),
        "{error}"
    );
    assert_eq!(message.err_msg, error.to_string());
    assert!(
        !message.err_msg.is_empty(),
        "an empty text is no error to the host"
    );
    if matches!(error, Error::ReadOnly) {
        assert_eq!(message.err_msg, READ_ONLY);
    }
}

fn check_answer(answer: &Answer) {
    match answer {
        Answer::Nothing => {
            let reply = wire::reply(Ok(None));
            assert!(reply.response.is_none() && reply.err.is_none());
        }
        Answer::Response {
            data,
            warnings,
            wrap_ttl,
        } => {
            let data = data.as_ref().map(|fields| object(fields));
            let wrap_ttl = wrap_ttl.map(|(secs, nanos)| Duration::new(secs >> 1, nanos));
            let mut response = match data.clone() {
                Some(fields) => Response::data(Data::from_map(fields)),
                None => Response::default(),
            };
            response.warnings.clone_from(warnings);
            response.wrap_ttl = wrap_ttl;
            let reply = wire::reply(Ok(Some(response)));
            assert!(reply.err.is_none());
            let message = reply.response.unwrap();
            let expected = data.map_or(Value::Null, Value::Object);
            assert!(same(&json(&message.data), &expected), "{}", message.data);
            assert_eq!(&message.warnings, warnings);
            let ttl = wrap_ttl.map(|ttl| i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX));
            assert_eq!(message.wrap_info.map(|wrap| wrap.ttl), ttl);
            assert!(message.redirect.is_empty() && message.secret.is_none());
        }
        Answer::Error(failure) => {
            let (error, kind, status) = failure.error();
            check_error(&wire::error(&error), kind, status, &error);
            let reply = wire::reply(Err(error.clone()));
            if let Error::User { code, .. } = &error {
                // The one form whose text and code reach the client of a 400.
                assert!(reply.err.is_none());
                let data = json(&reply.response.unwrap().data);
                let expected = serde_json::json!({
                    "error": error.to_string(),
                    "data": { "code": code },
                });
                assert_eq!(data, expected);
            } else {
                assert!(reply.response.is_none());
                check_error(&reply.err.unwrap(), kind, status, &error);
            }
            let found = wire::existence(Err(error.clone()));
            assert!(!found.check_found && !found.exists);
            check_error(&found.err.unwrap(), kind, status, &error);
        }
    }
}

fuzz_target!(|input: Input| {
    check_request(&input.asked);
    check_answer(&input.answer);
    let reply = wire::existence(Ok(input.found));
    assert!(reply.err.is_none());
    assert_eq!(reply.check_found.then_some(reply.exists), input.found);
});
