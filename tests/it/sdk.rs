//! The lower layers under a host in Rust: what a server may do that a real one at hand does not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{
    Backend as _, BackendInfo, Data, Error, MemoryStorage, Mount as Mounted, Operation,
    ReplicationState, Request, StaticSystemView, Storage as _,
};
use vault_plugin_secrets_smtp::proto::pb;

use crate::support::host::{Host, Identity, InProcess, Mount};
use crate::support::host_services::MapStorage;
use crate::support::probe::Probe;

/// The plugin with the probe as its backend, inside the test, and a mount of it.
struct Fixture {
    mount: Mount,
    _kept: (Host, InProcess, tempfile::TempDir),
}

impl Fixture {
    async fn new(storage: &MapStorage) -> Self {
        let (identity, dir) = (Identity::new(), tempfile::tempdir().unwrap());
        let factory = Arc::new(|info| Arc::new(Probe(info)) as _);
        let plugin = InProcess::start(&identity, dir.path(), factory);
        let mut host = Host::connect(identity, &plugin.handshake, dir.path()).await;
        let mount = host.mount("one", storage.clone()).await;
        Self {
            mount,
            _kept: (host, plugin, dir),
        }
    }

    async fn send(&self, request: pb::Request) -> pb::HandleRequestReply {
        let call = self.mount.call(pb::HandleRequestArgs {
            storage_id: 0,
            request: Some(request),
        });
        let reply = self.mount.client().handle_request(call).await;
        reply.unwrap().into_inner()
    }
}

fn request(operation: &str, path: &str) -> pb::Request {
    pb::Request {
        operation: operation.to_owned(),
        path: path.to_owned(),
        data: String::from("null"),
        ..pb::Request::default()
    }
}

/// Writes with a comparison and lists a page, three times each.
async fn compare_and_page(mount: &Mount) {
    for key in ["a", "b", "c"] {
        let write = r#"{"value":"1","expected":""}"#;
        mount.answered("update", &format!("kv/{key}"), write).await;
    }
    for _ in 0..3 {
        let page = r#"{"after":"a","limit":1}"#;
        let page = mount.answered("list", "kv/", page).await;
        assert_eq!(page, json!({"keys": ["b"]}));
    }
}

#[tokio::test]
async fn what_a_host_has_is_asked_once_for_each_mount() {
    for (storage, begins, pages, lists) in [
        (MapStorage::transactional(), 3, 3, 0),
        // The first OpenBao releases: every page is one, no transaction is begun.
        (MapStorage::paged(), 0, 3, 0),
        // Vault: one page is asked for in vain.
        (MapStorage::default(), 0, 1, 3),
    ] {
        let fixture = Fixture::new(&storage).await;
        storage.take_calls();
        compare_and_page(&fixture.mount).await;
        let calls = storage.take_calls();
        let count = |name: &str| calls.iter().filter(|call| *call == name).count();
        assert_eq!(count("is_transactional"), 1, "{calls:?}");
        assert_eq!(count("begin"), begins, "{calls:?}");
        assert_eq!(count("list_page"), pages, "{calls:?}");
        assert_eq!(count("list"), lists, "{calls:?}");
        assert_eq!(count("put"), 3, "{calls:?}");
    }
}

#[tokio::test]
async fn a_lease_is_issued_renewed_and_revoked() {
    let storage = MapStorage::transactional();
    let fixture = Fixture::new(&storage).await;
    let issued = fixture.send(request("read", "lease/acme")).await;
    let answer = issued.response.unwrap();
    let secret = answer.secret.unwrap();
    let options = secret.lease_options.unwrap();
    assert_eq!(options.ttl, 600_000_000_000);
    assert!(options.renewable && options.issue_time.is_some());
    assert_eq!(storage.stored("accounts/acme").unwrap(), b"live");

    let renewal = pb::Request {
        data: answer.data.clone(),
        secret: Some(pb::Secret {
            lease_id: String::from("probe/lease/acme/x"),
            lease_options: Some(pb::LeaseOptions {
                increment: 30_000_000_000,
                ..options
            }),
            ..secret.clone()
        }),
        ..request("renew", "lease/acme")
    };
    let renewed = fixture.send(renewal.clone()).await.response.unwrap();
    let lease = renewed.secret.unwrap();
    assert_eq!(lease.internal_data, secret.internal_data);
    let terms = lease.lease_options.unwrap();
    assert_eq!(terms.ttl, 900_000_000_000);
    // Not stamped anew.
    assert_eq!(terms.issue_time, options.issue_time);
    assert_eq!(renewed.data, answer.data);
    assert_eq!(storage.stored("accounts/acme").unwrap(), b"renewed 30");

    let revocation = pb::Request {
        operation: String::from("revoke"),
        ..renewal
    };
    let revoked = fixture.send(revocation).await;
    assert!(revoked.response.is_none() && revoked.err.is_none());
    let stored = storage.stored("accounts/acme").unwrap();
    assert_eq!(String::from_utf8(stored).unwrap(), "revoked acme true true");
}

#[tokio::test]
async fn a_standby_refuses_before_anything_is_done() {
    let storage = Arc::new(MemoryStorage::new());
    let mount = Mounted {
        storage: Arc::clone(&storage) as _,
        system: Arc::new(StaticSystemView {
            replication_state: ReplicationState(0x6000),
            ..StaticSystemView::default()
        }),
    };
    let probe = Probe(BackendInfo::default());
    for path in ["lease/acme", "wrapped/acme"] {
        let request = Request::new(Operation::Read, path, Data::default());
        let answer = probe.handle_request(&mount, request).await;
        assert_eq!(answer.map(drop).unwrap_err(), Error::ReadOnly, "{path}");
    }
    assert_eq!(storage.list("").await.unwrap(), Vec::<String>::new());
}

#[test]
fn the_probe_s_own_table_has_no_defect() {
    assert_eq!(crate::support::probe::routes::router().check(), Ok(()));
}

#[tokio::test]
async fn entities_are_found_unknown_or_a_failure() {
    let fixture = Fixture::new(&MapStorage::default()).await;
    let ask = async |entity_id: &str| {
        let asked = pb::Request {
            entity_id: entity_id.to_owned(),
            ..request("read", "whoami")
        };
        let reply = fixture.send(asked).await;
        match reply.err {
            Some(error) => Err((error.err_code, error.err_msg)),
            None => Ok(serde_json::from_str::<Value>(&reply.response.unwrap().data).unwrap()),
        }
    };
    let known = ask("e-1").await.unwrap();
    assert_eq!(
        (&known["entity"], &known["groups"]),
        (&json!("alice"), &json!(["operators"]))
    );
    for nobody in ["", "e-2"] {
        let unknown = ask(nobody).await.unwrap();
        assert_eq!(
            (&unknown["entity"], &unknown["groups"]),
            (&json!(null), &json!([]))
        );
    }
    let failed = ask("broken").await.unwrap_err();
    assert_eq!(
        failed,
        (
            500,
            String::from("server_error: the identity store is gone")
        )
    );
    // This host has no PluginEnv.
    let missing = fixture.mount.refused("read", "host", "null").await;
    assert_eq!(missing.err_code, 501);
    assert!(missing.err_msg.starts_with("unsupported_by_server: "));
}

#[tokio::test]
async fn nothing_a_host_sends_ends_the_process() {
    let fixture = Fixture::new(&MapStorage::default()).await;
    let senseless = pb::Request {
        replication_cluster: String::from("\u{0}"),
        secret: Some(pb::Secret {
            lease_options: Some(pb::LeaseOptions {
                ttl: i64::MIN,
                increment: i64::MAX,
                issue_time: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: i32::MIN,
                }),
                ..pb::LeaseOptions::default()
            }),
            ..pb::Secret::default()
        }),
        wrap_info: Some(pb::RequestWrapInfo {
            ttl: i64::MIN,
            ..pb::RequestWrapInfo::default()
        }),
        connection: Some(pb::Connection {
            remote_port: i32::MIN,
            ..pb::Connection::default()
        }),
        auth: vec![0xff; 64],
        client_token_remaining_uses: -1,
        ..request("renew", "lease/acme")
    };
    let renewed = fixture.send(senseless).await.response.unwrap();
    let options = renewed.secret.unwrap().lease_options.unwrap();
    assert!((0..=9999 * 31_556_952).contains(&options.issue_time.unwrap().seconds));
    for operation in ["", "recover", "READ", "renew\0"] {
        let reply = fixture.send(request(operation, "whoami")).await;
        assert_eq!(reply.err.unwrap().err_type, 5, "{operation:?}");
    }
    let call = fixture.mount.call(pb::HandleRequestArgs {
        storage_id: 7,
        request: None,
    });
    let reply = fixture.mount.client().handle_request(call).await.unwrap();
    assert_eq!(reply.into_inner().err.unwrap().err_type, 5);
    let patience = Duration::from_secs(30);
    let panicked = tokio::time::timeout(patience, fixture.send(request("read", "panic"))).await;
    assert_eq!(panicked.unwrap().err.unwrap().err_code, 500);
    fixture.mount.answered("read", "whoami", "null").await;
}
