//! Messages to requests and back: every field arrives as it was sent, every answer is valid JSON
//! with the same data, every error has the kind and status that the host maps.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

use chrono::{DateTime, Utc};
use fuzzing::json::{Json, same};
use vault_plugin_secrets_smtp::logical::{
    ActiveNode, Data, Error, HeldLease, Lease, MemoryStorage, Mount, READ_ONLY, RawResponse,
    Response, StaticSystemView, Wrap,
};
use vault_plugin_secrets_smtp::proto::pb;
use vault_plugin_secrets_smtp::wire::translate as wire;

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
    lease: Option<AskedLease>,
    connection: Option<(String, i32, [Vec<Vec<u8>>; 2])>,
    headers: BTreeMap<String, Vec<String>>,
    other: [String; 4],
    remaining_uses: i64,
    flags: [bool; 2],
}

#[derive(Arbitrary, Debug)]
struct AskedLease {
    id: String,
    ttl: i64,
    max_ttl: i64,
    increment: i64,
    renewable: bool,
    issued: Option<(i64, i32)>,
    internal: Body,
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
        headers: BTreeMap<String, Vec<String>>,
        lease: Option<AnsweredLease>,
    },
    Raw {
        status: u16,
        content_type: String,
        body: Vec<u8>,
    },
    Error(Failure),
}

#[derive(Arbitrary, Debug)]
struct AnsweredLease {
    ttl: Option<(u64, u32)>,
    max_ttl: Option<(u64, u32)>,
    renewable: bool,
    internal: Vec<(String, Json)>,
}

/// The proof that an answer with a lease or a wrap needs, as the active node gives it.
static ACTIVE: LazyLock<ActiveNode> = LazyLock::new(|| {
    let mount = Mount {
        storage: Arc::new(MemoryStorage::new()),
        system: Arc::new(StaticSystemView::default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(mount.active_node()).unwrap()
});

fn span((seconds, nanos): (u64, u32)) -> Duration {
    Duration::new(seconds >> 1, nanos)
}

/// What a duration is to the host.
fn nanos(span: Option<Duration>) -> i64 {
    span.map_or(0, |span| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
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

impl AskedLease {
    fn message(&self) -> pb::Secret {
        let issued = self
            .issued
            .map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
        pb::Secret {
            lease_options: Some(pb::LeaseOptions {
                ttl: self.ttl,
                max_ttl: self.max_ttl,
                renewable: self.renewable,
                increment: self.increment,
                issue_time: issued,
            }),
            internal_data: self.internal.text(),
            lease_id: self.id.clone(),
        }
    }

    fn check(&self, held: &HeldLease) {
        let positive = |nanos: i64| u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
        let span = |nanos| positive(nanos).map(Duration::from_nanos);
        assert_eq!(held.id.clone().unwrap_or_default(), self.id);
        assert_eq!(held.ttl, span(self.ttl));
        assert_eq!(held.max_ttl, span(self.max_ttl));
        assert_eq!(held.increment, span(self.increment));
        assert_eq!(held.renewable, self.renewable);
        // An instant is taken as it is or not at all.
        if let Some(taken) = held.issue_time {
            let sent = self.issued.unwrap();
            assert_eq!(
                (taken.timestamp(), taken.timestamp_subsec_nanos()),
                (sent.0, sent.1 as u32)
            );
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
    let message =
        pb::Request {
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
            secret: asked.lease.as_ref().map(AskedLease::message),
            connection: asked.connection.clone().map(
                |(remote_addr, remote_port, [peer, proxied])| pb::Connection {
                    remote_addr,
                    remote_port,
                    peer_certificates_raw: peer,
                    proxied_certificates_raw: proxied,
                    ..pb::Connection::default()
                },
            ),
            ..pb::Request::default()
        };
    let known = OPERATIONS.contains(&operation) && operation != "resolve-path";
    let request = match wire::request(message) {
        Err(Error::UnsupportedOperation) => return assert!(!known, "{operation:?}"),
        Err(Error::Internal(_)) => {
            // Only a lease that was never ours.
            let internal = asked.lease.as_ref().unwrap().internal.text();
            let object = serde_json::from_str::<Map<String, Value>>(&internal).is_ok();
            return assert!(!object && !internal.is_empty() && internal != "null");
        }
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
    assert_eq!(request.lease.is_some(), asked.lease.is_some());
    if let (Some(held), Some(lease)) = (&request.lease, &asked.lease) {
        lease.check(held);
    }
    assert_eq!(request.connection.is_some(), asked.connection.is_some());
    if let (Some(taken), Some((address, port, [peer, proxied]))) =
        (&request.connection, &asked.connection)
    {
        assert_eq!(taken.remote_addr.as_deref().unwrap_or_default(), address);
        let valid = u16::try_from(*port).unwrap_or(0);
        assert_eq!(taken.remote_port.unwrap_or(0), valid);
        assert_eq!(&taken.peer_certificates, peer);
        assert_eq!(&taken.proxied_certificates, proxied);
    }
    let [_, token, accessor, _] = &asked.other;
    assert_eq!(request.client_token.expose(), token);
    assert_eq!(request.client_token_accessor.expose(), accessor);
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

impl AnsweredLease {
    fn lease(&self) -> Lease {
        let mut lease = Lease::new(&ACTIVE).internal(Data::from_map(object(&self.internal)));
        lease.ttl = self.ttl.map(span);
        lease.max_ttl = self.max_ttl.map(span);
        lease.renewable = self.renewable;
        lease
    }

    fn check(&self, secret: &pb::Secret) {
        let options = secret.lease_options.as_ref().unwrap();
        assert_eq!(options.ttl, nanos(self.ttl.map(span)));
        assert_eq!(options.max_ttl, nanos(self.max_ttl.map(span)));
        assert_eq!(options.renewable, self.renewable);
        let issued = options.issue_time.as_ref().unwrap();
        assert_eq!(issued.seconds, now().timestamp());
        let expected = Value::Object(object(&self.internal));
        assert!(same(&json(&secret.internal_data), &expected));
        // What the host hands back at the end of the lease is what was given.
        let request = wire::request(pb::Request {
            operation: String::from("revoke"),
            secret: Some(secret.clone()),
            ..pb::Request::default()
        });
        let back = request.unwrap().lease.unwrap().internal.as_map().clone();
        assert!(same(&Value::Object(back), &expected));
    }
}

/// The issue time of what is answered.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
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
            let reply = wire::reply(Ok(None), now());
            assert!(reply.response.is_none() && reply.err.is_none());
        }
        Answer::Response {
            data,
            warnings,
            wrap_ttl,
            headers,
            lease,
        } => {
            let data = data.as_ref().map(|fields| object(fields));
            let wrap_ttl = wrap_ttl.map(span);
            let answered = || Data::from_map(data.clone().unwrap_or_default());
            let mut response = match (&data, lease) {
                (_, Some(lease)) => Response::leased(answered(), lease.lease()),
                (Some(_), None) => Response::data(answered()),
                (None, None) => Response::default(),
            };
            response.warnings.clone_from(warnings);
            response.headers.clone_from(headers);
            response.wrap = wrap_ttl.map(|ttl| Wrap::new(&ACTIVE, ttl));
            let reply = wire::reply(Ok(Some(response)), now());
            assert!(reply.err.is_none());
            let message = reply.response.unwrap();
            let nothing = if lease.is_some() {
                Value::Object(Map::new())
            } else {
                Value::Null
            };
            let expected = data.map_or(nothing, Value::Object);
            assert!(same(&json(&message.data), &expected), "{}", message.data);
            assert_eq!(&message.warnings, warnings);
            assert_eq!(
                message.wrap_info.map(|wrap| wrap.ttl),
                wrap_ttl.map(|ttl| nanos(Some(ttl)))
            );
            let sent = message
                .headers
                .into_iter()
                .map(|(name, it)| (name, it.header));
            assert_eq!(&sent.collect::<BTreeMap<_, _>>(), headers);
            assert!(message.redirect.is_empty());
            assert_eq!(message.secret.is_some(), lease.is_some());
            if let (Some(secret), Some(lease)) = (message.secret, lease) {
                lease.check(&secret);
            }
        }
        Answer::Raw {
            status,
            content_type,
            body,
        } => {
            let answer = RawResponse::new(*status, content_type, body.clone());
            let message = wire::reply(Ok(Some(Response::raw(answer))), now())
                .response
                .unwrap();
            let data = json(&message.data);
            let sent = data["http_status_code"].as_u64().unwrap();
            let valid = (200..=599).contains(status);
            assert_eq!(sent, if valid { u64::from(*status) } else { 500 });
            assert_eq!(
                data["http_content_type"],
                Value::from(content_type.as_str())
            );
            let text = data["http_raw_body"].as_str().unwrap();
            assert_eq!(&STANDARD.decode(text).unwrap(), body);
            assert!(message.secret.is_none());
        }
        Answer::Error(failure) => {
            let (error, kind, status) = failure.error();
            check_error(&wire::error(&error), kind, status, &error);
            let reply = wire::reply(Err(error.clone()), now());
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
