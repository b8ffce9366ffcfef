//! Tests of the translation.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::json::NULL;
use super::time::{instant, nanoseconds, timestamp};
use super::*;
use crate::logical::{
    ActiveNode, Data, Error, HeldLease, Lease, MemoryStorage, Mount, Operation, READ_ONLY,
    RawResponse, Reply, Response, StaticSystemView, Wrap,
};
use crate::proto::pb;

/// The clock's reading in these tests.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn reply(answer: Reply) -> pb::HandleRequestReply {
    super::reply(answer, now())
}

fn answered(response: Response) -> pb::Response {
    let reply = reply(Ok(Some(response)));
    assert!(reply.err.is_none());
    reply.response.unwrap()
}

fn active_node() -> ActiveNode {
    let mount = Mount {
        storage: std::sync::Arc::new(MemoryStorage::new()),
        system: std::sync::Arc::new(StaticSystemView::default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(mount.active_node()).unwrap()
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

fn incoming(operation: &str, data: &str) -> pb::Request {
    pb::Request {
        operation: operation.to_owned(),
        path: String::from("a/b"),
        data: data.to_owned(),
        ..pb::Request::default()
    }
}

#[test]
fn resolve_path_is_refused_before_its_data_is_parsed() {
    let refused = request(incoming("resolve-path", "{not json")).unwrap_err();
    assert_eq!(refused, Error::UnsupportedOperation);
    assert_eq!(error(&refused).err_type, 5);
}

#[test]
fn an_operation_is_matched_exactly() {
    for unknown in ["", "Read", "recover", "read "] {
        let refused = request(incoming(unknown, NULL)).unwrap_err();
        assert_eq!(refused, Error::UnsupportedOperation, "{unknown:?}");
    }
}

#[test]
fn absent_data_is_no_data() {
    for absent in ["", "null", "{}"] {
        let request = request(incoming("read", absent)).unwrap();
        assert_eq!(request.data, Data::default(), "{absent:?}");
    }
}

#[test]
fn data_that_is_no_object_is_refused_without_quoting_it() {
    for bad in ["{", "[1]", "\"hunter2\"", "hunter2", "{\"a\":hunter2}"] {
        let refused = request(incoming("update", bad)).unwrap_err();
        assert!(!refused.to_string().contains("hunter2"));
        let reply = reply(Err(refused));
        let data: Value = serde_json::from_str(&reply.response.unwrap().data).unwrap();
        assert_eq!(data["data"]["code"], "invalid_json");
        assert!(data["error"].as_str().unwrap().starts_with("invalid_json:"));
        assert_eq!(data.as_object().unwrap().len(), 2);
    }
}

#[test]
fn what_the_host_knows_of_the_caller_arrives() {
    let translated = request(pb::Request {
        id: String::from("id-1"),
        mount_point: String::from("smtp/"),
        display_name: String::from("userpass-alice"),
        entity_id: String::from("entity-1"),
        wrap_info: Some(pb::RequestWrapInfo {
            ttl: 60_000_000_000,
            ..pb::RequestWrapInfo::default()
        }),
        client_token: String::from("hash"),
        client_token_accessor: String::from("accessor"),
        client_token_remaining_uses: 7,
        policy_override: true,
        unauthenticated: true,
        mount_type: String::from("smtp"),
        headers: HashMap::from([(
            String::from("X-Reason"),
            pb::Header {
                header: vec![String::from("one"), String::from("two")],
            },
        )]),
        connection: Some(pb::Connection {
            remote_addr: String::from("192.0.2.1"),
            remote_port: 40_000,
            peer_certificates_raw: vec![vec![0x30, 0xff]],
            ..pb::Connection::default()
        }),
        ..incoming("read", NULL)
    })
    .unwrap();
    assert_eq!(translated.id.as_str(), "id-1");
    assert_eq!(translated.mount_point, "smtp/");
    assert_eq!(translated.display_name, "userpass-alice");
    assert_eq!(translated.entity_id, "entity-1");
    assert_eq!(translated.wrap_ttl, Some(Duration::from_secs(60)));
    assert_eq!(translated.client_token.expose(), "hash");
    assert_eq!(translated.client_token_accessor.expose(), "accessor");
    assert_eq!(translated.client_token_remaining_uses, 7);
    assert!(translated.policy_override && translated.unauthenticated);
    assert_eq!(translated.mount_type, "smtp");
    assert_eq!(translated.headers["X-Reason"], ["one", "two"]);
    let from = translated.connection.unwrap();
    assert_eq!(from.remote_addr.as_deref(), Some("192.0.2.1"));
    assert_eq!(from.remote_port, Some(40_000));
    assert_eq!(from.peer_certificates, [[0x30, 0xff]]);
    assert!(from.proxied_certificates.is_empty() && translated.lease.is_none());
}

#[test]
fn nothing_is_neither_response_nor_error() {
    let reply = reply(Ok(None));
    assert!(reply.response.is_none() && reply.err.is_none());
}

#[test]
fn an_answer_without_data_says_null() {
    let reply = reply(Ok(Some(Response {
        warnings: vec![String::from("careful")],
        wrap: Some(Wrap::new(&active_node(), Duration::from_secs(900))),
        ..Response::default()
    })));
    let response = reply.response.unwrap();
    assert_eq!(response.data, "null");
    assert_eq!(response.warnings, ["careful"]);
    let wrap = response.wrap_info.unwrap();
    assert_eq!(wrap.ttl, 900_000_000_000);
    assert_eq!(wrap.creation_time.unwrap().seconds, 1_800_000_000);
}

#[test]
fn each_error_is_of_the_kind_the_host_knows() {
    let table = [
        (Error::status(409, "busy", "Wait."), 3, 409, "busy: Wait."),
        (Error::status(599, "busy", "Wait."), 3, 599, "busy: Wait."),
        // No error may look like a success, or like nothing HTTP knows.
        (Error::status(0, "busy", "Wait."), 3, 500, "busy: Wait."),
        (Error::status(200, "busy", "Wait."), 3, 500, "busy: Wait."),
        (Error::status(999, "busy", "Wait."), 3, 500, "busy: Wait."),
        (Error::UnsupportedOperation, 5, 0, "unsupported operation"),
        (Error::ReadOnly, 0, 0, READ_ONLY),
        (
            Error::UnsupportedPath,
            3,
            404,
            "unsupported_path: this mount has no such path. The mount's own path-help lists them.",
        ),
        (
            Error::Storage(String::from("full")),
            3,
            500,
            "storage_error: full",
        ),
        (Error::internal("bug"), 3, 500, "internal: bug"),
        (Error::user("bad", "No."), 3, 400, "bad: No."),
    ];
    for (given, kind, code, text) in table {
        let error = error(&given);
        assert_eq!((error.err_type, error.err_code), (kind, code), "{given}");
        assert_eq!(error.err_msg, text);
    }
}

#[test]
fn an_unchecked_existence_is_not_an_absent_one() {
    assert!(!existence(Ok(None)).check_found);
    let absent = existence(Ok(Some(false)));
    assert!(absent.check_found && !absent.exists);
    let failed = existence(Err(Error::ReadOnly));
    assert!(!failed.check_found && failed.err.is_some());
}

#[test]
fn a_lease_arrives_and_senseless_parts_of_it_do_not() {
    let secret = pb::Secret {
        lease_options: Some(pb::LeaseOptions {
            ttl: 60_000_000_000,
            renewable: true,
            increment: 30_000_000_000,
            issue_time: Some(timestamp(None, now())),
            max_ttl: -1,
        }),
        internal_data: String::from(r#"{"account":"a"}"#),
        lease_id: String::from("probe/lease/x"),
    };
    let request = |secret| {
        request(pb::Request {
            secret: Some(secret),
            ..incoming("renew", NULL)
        })
    };
    let lease = request(secret.clone()).unwrap().lease.unwrap();
    let expected = HeldLease {
        id: Some(String::from("probe/lease/x")),
        ttl: Some(Duration::from_secs(60)),
        max_ttl: None,
        renewable: true,
        increment: Some(Duration::from_secs(30)),
        issue_time: Some(now()),
        internal: Data::texts([("account", "a")]),
    };
    assert_eq!(lease, expected);
    // A lease that expires has no id; an old host may send less.
    let bare = request(pb::Secret::default()).unwrap().lease.unwrap();
    assert_eq!(bare, HeldLease::default());
    let broken = pb::Secret {
        internal_data: String::from("hunter2"),
        ..secret
    };
    let refused = request(broken).unwrap_err();
    assert!(matches!(&refused, Error::Internal(text) if !text.contains("hunter2")));
}

#[test]
fn a_new_lease_is_stamped_and_its_internal_data_is_json() {
    let lease = Lease::new(&active_node()).ttl(Duration::from_secs(60));
    let response = answered(Response::leased(Data::texts([("key", "value")]), lease));
    assert_eq!(response.data, r#"{"key":"value"}"#);
    let secret = response.secret.unwrap();
    let options = secret.lease_options.unwrap();
    assert_eq!((options.ttl, options.max_ttl), (60_000_000_000, 0));
    assert_eq!(options.issue_time, Some(timestamp(None, now())));
    assert!(!options.renewable);
    assert_eq!(
        (secret.internal_data.as_str(), secret.lease_id.as_str()),
        ("{}", "")
    );
}

#[test]
fn a_raw_answer_is_base64_with_a_status_the_host_survives() {
    for (given, sent) in [
        (200, 200),
        (307, 307),
        (599, 599),
        (100, 500),
        (0, 500),
        (1000, 500),
    ] {
        let raw = RawResponse {
            cache_control: Some(String::from("max-age=60")),
            www_authenticate: Some(String::from("Basic")),
            ..RawResponse::new(given, "text/html", "<p>Zm9v")
        };
        let answer = Response::raw(raw).header("X-One", "1").header("X-One", "2");
        let response = answered(answer);
        let fields = object(&response.data);
        assert_eq!(fields["http_status_code"], json!(sent));
        assert_eq!(fields["http_content_type"], "text/html");
        assert_eq!(fields["http_raw_body"], STANDARD.encode("<p>Zm9v"));
        assert_eq!(fields["http_raw_cache_control"], "max-age=60");
        assert_eq!(fields["http_www_authenticate"], "Basic");
        assert!(!fields.contains_key("http_raw_pragma"));
        assert!(response.secret.is_none());
        assert_eq!(response.headers["X-One"].header, ["1", "2"]);
    }
}

#[test]
fn an_instant_no_host_takes_back_is_replaced() {
    for (seconds, nanos) in [
        (i64::MIN, 0),
        (i64::MAX, 0),
        (0, -1),
        (0, 1_000_000_000),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
    ] {
        assert_eq!(
            instant(&Timestamp { seconds, nanos }),
            None,
            "{seconds} {nanos}"
        );
    }
    let too_late = DateTime::<Utc>::MAX_UTC;
    assert_eq!(timestamp(Some(too_late), now()), timestamp(None, now()));
}

#[test]
fn entities_arrive_whole() {
    use crate::proto::logical as identity;
    let sent = identity::Entity {
        id: String::from("e"),
        name: String::from("alice"),
        aliases: vec![identity::Alias {
            mount_type: String::from("userpass"),
            name: String::from("alice@userpass"),
            local: true,
            ..identity::Alias::default()
        }],
        metadata: HashMap::from([(String::from("team"), String::from("mail"))]),
        disabled: true,
        namespace_id: String::from("root"),
    };
    let entity = entity(sent);
    assert_eq!((entity.id.as_str(), entity.name.as_str()), ("e", "alice"));
    assert_eq!(entity.aliases[0].mount_type, "userpass");
    assert!(entity.aliases[0].local && entity.disabled);
    assert_eq!(entity.metadata["team"], "mail");
    assert_eq!(group(identity::Group::default()).name, "");
}

fn any_text() -> impl Strategy<Value = String> {
    ".{0,24}"
}

/// What a host may send for a lease; messages themselves have no `Debug`.
#[derive(Clone, Debug)]
struct Sent {
    times: Option<(i64, i64, i64)>,
    renewable: bool,
    stamp: Option<(i64, i32)>,
    internal: String,
    id: String,
}

impl Sent {
    fn message(&self) -> pb::Secret {
        let stamp = self.stamp;
        pb::Secret {
            lease_options: self
                .times
                .map(|(ttl, max_ttl, increment)| pb::LeaseOptions {
                    ttl,
                    renewable: self.renewable,
                    increment,
                    issue_time: stamp.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
                    max_ttl,
                }),
            internal_data: self.internal.clone(),
            lease_id: self.id.clone(),
        }
    }
}

fn any_lease() -> impl Strategy<Value = Sent> {
    let stamps = prop_oneof![
        any::<(i64, i32)>(),
        (-62_200_000_000_i64..253_500_000_000, 0..1_000_000_001),
    ];
    let internal = prop_oneof![any_text(), Just(String::from(r#"{"a":[1,"b"]}"#))];
    (
        any::<Option<(i64, i64, i64)>>(),
        any::<bool>(),
        proptest::option::of(stamps),
        internal,
        any_text(),
    )
        .prop_map(|(times, renewable, stamp, internal, id)| Sent {
            times,
            renewable,
            stamp,
            internal,
            id,
        })
}

proptest! {
    #[test]
    fn any_request_is_translated_or_refused(
        operation in prop_oneof![any_text(), Just(String::from("renew")), Just(String::from("read"))],
        data in any_text(),
        path in any_text(),
        lease in proptest::option::of(any_lease()),
        port: i32,
        wrap: i64,
        certificate: Vec<u8>,
        uses: i64,
    ) {
        let known = Operation::parse(&operation);
        let sent = pb::Request {
            path: path.clone(),
            secret: lease.map(|lease| lease.message()),
            wrap_info: Some(pb::RequestWrapInfo { ttl: wrap, ..Default::default() }),
            connection: Some(pb::Connection {
                remote_port: port,
                proxied_certificates_raw: vec![certificate],
                ..Default::default()
            }),
            client_token_remaining_uses: uses,
            replication_cluster: path.clone(),
            ..incoming(&operation, &data)
        };
        if let Ok(request) = request(sent) {
            prop_assert_eq!(Some(request.operation), known);
            prop_assert_eq!(request.path, path);
            prop_assert!(request.wrap_ttl.is_none() || wrap > 0);
        }
    }

    /// What a host sends for a lease and gets back with its renewal is the same, but for what
    /// makes no sense and what is not the plugin's to say.
    #[test]
    fn a_lease_survives_its_renewal(sent in any_lease()) {
        let secret = sent.message();
        let sent = pb::Request { secret: Some(secret.clone()), ..incoming("renew", NULL) };
        let Ok(request) = request(sent) else { return Ok(()) };
        let lease = request.lease.unwrap();
        let renewed = answered(Response::leased(Data::default(), lease.renewed())).secret.unwrap();
        let sent = secret.lease_options.unwrap_or_default();
        let back = renewed.lease_options.unwrap();
        prop_assert_eq!(back.ttl, sent.ttl.max(0));
        prop_assert_eq!(back.max_ttl, sent.max_ttl.max(0));
        prop_assert_eq!(back.renewable, sent.renewable);
        let stamp = back.issue_time.unwrap();
        match sent.issue_time.filter(|stamp| instant(stamp).is_some()) {
            Some(sent) => prop_assert_eq!(stamp, sent),
            None => prop_assert_eq!(stamp, timestamp(None, now())),
        }
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let (there, returned) = (parsed(&secret.internal_data), parsed(&renewed.internal_data));
        let nothing = Value::Object(Map::new());
        let same = there == returned || (there.is_null() && returned == nothing);
        prop_assert!(same);
    }

    #[test]
    fn durations_survive(nanos in 1..i64::MAX) {
        prop_assert_eq!(nanoseconds(duration(nanos)), nanos);
    }

    #[test]
    fn instants_survive(seconds in -62_135_596_800_i64..253_402_300_800, nanos in 0..1_000_000_000) {
        let sent = Timestamp { seconds, nanos };
        let there = instant(&sent);
        prop_assert!(there.is_some());
        prop_assert_eq!(timestamp(there, now()), sent);
    }
}
