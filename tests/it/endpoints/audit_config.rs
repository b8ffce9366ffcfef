//! `config/audit`.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::engine::Parts;
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::logical::{
    Operation, ReplicationState, StaticSystemView, Storage as _, StorageEntry,
};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{Answer, Host, Rig, parts};

const PATH: &str = "config/audit";
const SECRET_ID: &str = "secret-id-of-the-role";
const TOKEN: &str = "s.periodic-token";

fn role() -> Value {
    json!({ "address": "https://127.0.0.1:8200/", "role_id": "role-1", "secret_id": SECRET_ID })
}

fn periodic() -> Value {
    json!({ "address": "unix:///run/openbao/api.sock", "token": TOKEN })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// Everything that is stored, as text.
fn stored(rig: &Rig) -> String {
    let snapshot = rig.storage.snapshot();
    let text = |entry: &StorageEntry| String::from_utf8_lossy(&entry.value).into_owned();
    let entries: Vec<String> = snapshot.entries().map(text).collect();
    entries.join("\n")
}

/// The entry itself.
async fn entry(rig: &Rig) -> Value {
    let entry = rig.storage.get(PATH).await.unwrap().unwrap();
    serde_json::from_slice(&entry.value).unwrap()
}

/// Names and outcomes of the mount's events.
async fn mount_events(rig: &Rig) -> Vec<String> {
    let Some(log) = rig.storage.get("mountlog").await.unwrap() else {
        return Vec::new();
    };
    let log: Value = serde_json::from_slice(&log.value).unwrap();
    let events = log["log"]["events"].as_array().unwrap().iter();
    let text = |event: &Value| {
        let [name, outcome] = ["event", "outcome"].map(|key| event[key].as_str().unwrap());
        format!("{name} {outcome}")
    };
    events.map(text).collect()
}

#[tokio::test]
async fn what_was_written_is_read_without_its_secrets() {
    let rig = Rig::start().await;
    assert_eq!(rig.read(PATH).await.status, 404);
    let mut said: Vec<Answer> = Vec::new();
    said.push(rig.write(PATH, role()).await.ok());
    let read = rig.read(PATH).await.ok();
    assert_eq!(
        read.data,
        json!({
            "mode": "loopback", "address": "https://127.0.0.1:8200", "ca_cert": null,
            "tls_server_name": null, "auth_path": "auth/approle", "role_id": "role-1",
            "secret_id_set": true, "token_set": false, "written_at": "2026-09-21T14:13:20Z",
        })
    );
    said.push(read);
    rig.later(60);
    let ca = rig.mailu.ca_pem().trim().to_owned();
    let body = json!({
        "ca_cert": ca, "tls_server_name": "Vault.Example", "auth_path": "team1/auth/approle/",
        "secret_id": SECRET_ID,
    });
    said.push(rig.patch(PATH, body).await.ok());
    let read = rig.read(PATH).await.ok();
    assert_eq!(read.get("ca_cert"), &json!(ca));
    assert_eq!(read.get("tls_server_name"), "vault.example");
    assert_eq!(read.get("auth_path"), "team1/auth/approle");
    assert_eq!(read.get("role_id"), "role-1", "what is not named is kept");
    assert_eq!(read.get("written_at"), "2026-09-21T14:14:20Z");
    // A null restores the default.
    let body = json!({ "ca_cert": null, "tls_server_name": null, "auth_path": null, "secret_id": SECRET_ID });
    rig.patch(PATH, body).await.ok();
    let read = rig.read(PATH).await.ok();
    assert_eq!(read.get("auth_path"), "auth/approle");
    assert_eq!(read.get("ca_cert"), &Value::Null);

    said.push(rig.write(PATH, periodic()).await.ok());
    let read = rig.read(PATH).await.ok();
    assert_eq!(
        read.data,
        json!({
            "mode": "loopback", "address": "unix:///run/openbao/api.sock", "ca_cert": null,
            "tls_server_name": null, "auth_path": null, "role_id": null,
            "secret_id_set": false, "token_set": true, "written_at": "2026-09-21T14:14:20Z",
        })
    );
    said.push(read);
    for secret in [SECRET_ID, TOKEN] {
        assert!(!stored(&rig).contains(secret), "stored in clear");
        for answer in &said {
            assert!(!answer.text.contains(secret) && !answer.data.to_string().contains(secret));
        }
    }
    rig.delete(PATH).await.ok();
    rig.delete(PATH).await.ok();
    assert_eq!(rig.read(PATH).await.status, 404);
    assert!(rig.storage.get(PATH).await.unwrap().is_none());
}

#[tokio::test]
async fn a_collector_outside_needs_nothing_and_leaves_nothing() {
    let rig = Rig::start().await;
    rig.write(PATH, role()).await.ok();
    rig.write(PATH, json!({ "mode": "external" })).await.ok();
    let read = rig.read(PATH).await.ok();
    assert_eq!(
        read.data,
        json!({
            "mode": "external", "address": null, "ca_cert": null, "tls_server_name": null,
            "auth_path": null, "role_id": null, "secret_id_set": false, "token_set": false,
            "written_at": "2026-09-21T14:13:20Z",
        })
    );
    assert_eq!(entry(&rig).await["way"], "external");
    // Nothing of what was there before comes back.
    rig.patch(PATH, json!({ "mode": "loopback" }))
        .await
        .fails(400, "invalid_audit_config");
    rig.patch(
        PATH,
        json!({ "mode": null, "address": "https://127.0.0.1:8200" }),
    )
    .await
    .fails(400, "invalid_audit_config");
    rig.patch(PATH, with(role(), "mode", json!("loopback")))
        .await
        .ok();
    assert_eq!(rig.read(PATH).await.get("secret_id_set"), true);
}

#[tokio::test]
async fn a_changed_address_or_role_needs_its_secret_again() {
    let rig = Rig::start().await;
    let ca = rig.mailu.ca_pem().to_owned();
    rig.write(PATH, role()).await.ok();
    let before = rig.storage.snapshot();
    for body in [
        json!({ "address": "https://127.0.0.1:8201" }),
        json!({ "address": "https://vault.evil.example" }),
        json!({ "address": "unix:///run/evil.sock" }),
        json!({ "ca_cert": ca }),
        json!({ "tls_server_name": "vault.evil.example" }),
        json!({ "auth_path": "auth/other" }),
        json!({ "role_id": "role-2" }),
        json!({ "secret_id": null }),
    ] {
        let shown = body.to_string();
        let answer = rig.patch(PATH, body).await;
        assert_eq!(answer.code, "secret_required", "{shown}: {}", answer.text);
        assert_eq!(answer.status, 400);
    }
    assert_eq!(rig.storage.snapshot(), before, "nothing was touched");
    for body in [
        json!({ "address": "https://vault.example", "secret_id": "another" }),
        json!({ "role_id": "role-2", "secret_id": "another" }),
        // The same in another spelling is no change.
        json!({ "address": "HTTPS://Vault.Example:443/", "auth_path": "auth/approle" }),
    ] {
        rig.patch(PATH, body).await.ok();
    }
    rig.write(PATH, periodic()).await.ok();
    let before = rig.storage.snapshot();
    for body in [
        json!({ "address": "https://127.0.0.1:8200" }),
        json!({ "tls_server_name": "vault.evil.example" }),
        json!({ "role_id": "role-2" }),
    ] {
        rig.patch(PATH, body).await.fails(400, "secret_required");
    }
    assert_eq!(rig.storage.snapshot(), before);
    rig.patch(PATH, json!({})).await.ok();
    assert_eq!(rig.read(PATH).await.get("token_set"), true);
}

/// Writes that lack something, or have something that cannot be used.
fn refused() -> Vec<Value> {
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    vec![
        json!({}),
        json!({ "role_id": "r", "secret_id": SECRET_ID }),
        json!({ "address": "https://127.0.0.1:8200" }),
        json!({ "address": "https://127.0.0.1:8200", "secret_id": SECRET_ID }),
        json!({ "mode": "none" }),
        with(role(), "mode", json!("external")),
        json!({ "mode": "external", "token": TOKEN }),
        json!({ "mode": "external", "auth_path": "auth/approle" }),
        with(role(), "token", json!(TOKEN)),
        with(periodic(), "role_id", json!("r")),
        with(periodic(), "auth_path", json!("auth/approle")),
        with(role(), "address", json!("127.0.0.1:8200")),
        with(role(), "address", json!("http://vault.example:8200")),
        with(role(), "address", json!("http://10.0.0.5:8200")),
        with(role(), "address", json!("https://169.254.169.254")),
        with(role(), "address", json!("https://vault.example/v1")),
        with(role(), "address", json!("https://u:w@vault.example")),
        with(role(), "address", json!("https://vault.example?x=y")),
        with(role(), "address", json!("https://10.0.0.5:8200")),
        with(role(), "address", json!("https://vault.evil.example")),
        with(role(), "address", json!("https://vault.example:8200")),
        with(periodic(), "address", json!("unix:///run/docker.sock")),
        with(role(), "address", json!("unix:///run/../api.sock")),
        with(role(), "address", json!("unix://run/api.sock")),
        with(role(), "ca_cert", json!("garbage")),
        with(role(), "ca_cert", json!(key)),
        with(role(), "tls_server_name", json!("10.0.0.5")),
        with(role(), "auth_path", json!("approle")),
        with(role(), "auth_path", json!("auth/../sys")),
        with(role(), "auth_path", json!("auth/app role")),
        with(role(), "auth_path", json!("auth//approle")),
        with(role(), "auth_path", json!("auth/")),
        with(role(), "role_id", json!("a b")),
        with(role(), "secret_id", json!("secret-id-of-the-role ä")),
        with(periodic(), "token", json!("s.periodic-token x")),
    ]
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let rig = Rig::start().await;
    for first in [true, false] {
        if !first {
            // Also over what is there: a refused write leaves it as it is.
            rig.write(PATH, json!({ "mode": "external" })).await.ok();
        }
        let before = rig.storage.snapshot();
        for mut body in refused() {
            if !first && body.get("mode").is_none() {
                body["mode"] = json!("loopback");
            }
            let shown = body.to_string();
            let answer = rig.write(PATH, body).await;
            assert_eq!(
                answer.code, "invalid_audit_config",
                "{shown}: {}",
                answer.text
            );
            assert_eq!(answer.status, 400, "{shown}");
            for secret in [SECRET_ID, TOKEN] {
                assert!(!answer.text.contains(secret), "{shown}: {}", answer.text);
            }
        }
        let cut = with(role(), "secret_id", json!("secret-id-of-the-role\n"));
        rig.write(PATH, cut).await.fails(400, "invalid_field");
        let long = with(role(), "address", json!("a".repeat(2049)));
        rig.write(PATH, long).await.fails(400, "too_long");
        assert_eq!(rig.storage.snapshot(), before, "nothing was touched");
        // The same with every field in order is taken.
        let sound = with(role(), "mode", json!("loopback"));
        rig.write(PATH, sound).await.ok();
        rig.delete(PATH).await.ok();
    }
}

#[tokio::test]
async fn every_write_is_an_event_before_and_after_even_an_unchanged_one() {
    let rig = Rig::start().await;
    rig.write(PATH, role()).await.ok();
    let first = entry(&rig).await;
    rig.write(PATH, json!({})).await.ok();
    let second = entry(&rig).await;
    assert_ne!(first["id"], second["id"], "new at every write");
    rig.write(PATH, json!({ "address": "x" }))
        .await
        .fails(400, "invalid_audit_config");
    rig.delete(PATH).await.ok();
    rig.delete(PATH).await.ok();
    let change = ["smtp_config_changed started", "smtp_config_changed success"];
    assert_eq!(mount_events(&rig).await, [change, change, change].concat());
}

#[tokio::test]
async fn what_automatic_changes_wait_for_is_not_removed() {
    let mut rig = Rig::start().await;
    rig.write("config", json!({ "max_parallel": 4 })).await.ok();
    rig.write(PATH, role()).await.ok();
    let config = rig.storage.get("config").await.unwrap().unwrap();
    let text = String::from_utf8(config.value.clone()).unwrap();
    let required = text.replace("best_effort", "required");
    assert_ne!(required, text);
    let required = StorageEntry::new("config", required.into_bytes());
    rig.storage.put(required).await.unwrap();
    rig.restart();
    let before = rig.storage.snapshot();
    rig.delete(PATH).await.fails(409, "audit_required");
    assert_eq!(rig.storage.snapshot(), before);
    rig.storage
        .put(StorageEntry::new("config", text.into_bytes()))
        .await
        .unwrap();
    rig.restart();
    rig.delete(PATH).await.ok();
}

#[tokio::test]
async fn standbys_read_and_forward_writes() {
    let rig = Rig::start().await;
    rig.write(PATH, role()).await.ok();
    let standby = rig.process(StaticSystemView {
        replication_state: ReplicationState(0x200),
        ..StaticSystemView::default()
    });
    rig.storage.set_read_only(true);
    let before = rig.storage.snapshot();
    for operation in [
        Operation::Create,
        Operation::Update,
        Operation::Patch,
        Operation::Delete,
    ] {
        let answer = standby.send(operation, PATH, role()).await;
        answer.fails(0, "read_only");
    }
    assert_eq!(standby.read(PATH).await.ok().get("role_id"), "role-1");
    assert_eq!(rig.storage.snapshot(), before);
}

/// No tenant can have the engine call the server that it runs in.
#[tokio::test]
async fn the_audit_address_is_refused_for_every_other_connection() {
    let rig = Rig::created().await;
    let password = rig.settled().await;
    let url = rig.server()["mailu_url"].as_str().unwrap().to_owned();
    let body = json!({ "address": url, "role_id": "r", "secret_id": SECRET_ID });
    rig.write(PATH, body).await.ok();
    rig.write("globex/config", rig.server())
        .await
        .fails(400, "invalid_server");
    let calls = rig.mailu.journal().len();
    rig.later(3600);
    let answer = rig.write("acme/rotate", json!({})).await;
    assert_eq!(answer.code, "invalid_server", "{}", answer.text);
    assert!(answer.text.contains("the host's own"), "{}", answer.text);
    let hook = json!({ "type": "webhook", "url": url, "hmac_key": "key-of-the-signature" });
    rig.write("config/notify/hook", hook)
        .await
        .fails(400, "invalid_channel");
    assert_eq!(rig.mailu.journal().len(), calls, "nobody was called");
    rig.delete(PATH).await.ok();
    rig.write("globex/config", rig.server()).await.ok();
    rig.write("acme/verify", json!({})).await.ok();
    assert!(rig.fits(&rig.password().await) && rig.fits(&password));
}

/// Written with an older key, the login works on, is sealed anew, and holds a trim up until then.
#[tokio::test]
async fn a_rotation_of_the_keyring_renews_the_login() {
    let mut rig = Rig::start().await;
    rig.write(PATH, role()).await.ok();
    rig.write("config/keyring/rotate", json!({})).await.ok();
    let used = async |rig: &Rig| {
        let read = rig.read("config/keyring").await.ok();
        let versions = read.get("versions").as_array().unwrap().clone();
        versions
            .iter()
            .map(|it| it["audit"].as_bool().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(used(&rig).await, [true, false]);
    rig.write("config/keyring/trim", json!({}))
        .await
        .fails(409, "rewrap_unfinished");
    let id = entry(&rig).await["id"].clone();
    rig.tick().await;
    assert_eq!(used(&rig).await, [false, true]);
    assert_eq!(entry(&rig).await["id"], id, "nobody wrote it");
    rig.write("config/keyring/trim", json!({})).await.ok();
    rig.restart();
    // The secret is kept, which takes opening it.
    rig.patch(PATH, json!({})).await.ok();
    assert_eq!(rig.read(PATH).await.get("secret_id_set"), true);
}

/// What nobody can read stops neither passwords nor its own removal, but it does stop a trim.
#[tokio::test]
async fn a_damaged_entry_is_told_and_can_be_removed() {
    let mut rig = Rig::created().await;
    rig.write("config/keyring/rotate", json!({})).await.ok();
    let damaged = StorageEntry::new(PATH, b"{\"schema\":1}".to_vec());
    rig.storage.put(damaged).await.unwrap();
    rig.restart();
    rig.tick().await;
    let read = rig.read("config/keyring").await.ok();
    assert_eq!(read.get("unreadable"), &json!([PATH]));
    assert_eq!(read.get("rewrap")["unreadable"], json!([PATH]));
    rig.write("config/keyring/trim", json!({}))
        .await
        .fails(409, "audit_config_unreadable");
    rig.read(PATH).await.fails(500, "record_unreadable");
    rig.write(PATH, role())
        .await
        .fails(500, "record_unreadable");
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.delete(PATH).await.ok();
    rig.write(PATH, role()).await.ok();
    rig.write("config/keyring/trim", json!({})).await.ok();
}

/// A secret that was moved to another address behind the engine's back is not sent there.
#[tokio::test]
async fn an_altered_address_does_not_get_the_secret() {
    let mut rig = Rig::start().await;
    rig.write(PATH, role()).await.ok();
    let mut altered = entry(&rig).await;
    altered["way"]["loopback"]["endpoint"]["address"] = json!("https://vault.evil.example");
    let altered = StorageEntry::new(PATH, altered.to_string().into_bytes());
    rig.storage.put(altered).await.unwrap();
    rig.restart();
    let before = rig.storage.snapshot();
    let answer = rig.patch(PATH, json!({})).await;
    assert_eq!(answer.status, 500, "{}", answer.text);
    assert_eq!(rig.storage.snapshot(), before);
    rig.write(PATH, role()).await.ok();
}

/// What reaches mail servers says nothing about the server's own API.
#[tokio::test]
async fn allowed_hosts_neither_opens_nor_closes_an_address() {
    let rig = Rig::start().await;
    let allowed = json!({ "allowed_hosts": ["10.0.0.0/8", "vault.evil.example"] });
    rig.write("config", allowed).await.ok();
    for address in ["https://10.0.0.5:8200", "https://vault.evil.example"] {
        let answer = rig.write(PATH, with(role(), "address", json!(address)));
        let answer = answer.await.fails(400, "invalid_audit_config");
        assert!(answer.text.contains("SMTP_AUDIT_ADDRESSES"), "{answer:?}");
    }
    rig.write(PATH, role()).await.ok();
    rig.write(PATH, periodic()).await.ok();
}

/// What was in reach when it was written, and is not any more: nobody is called, and that is told.
#[tokio::test]
async fn an_address_that_the_environment_no_longer_names_is_not_called() {
    let rig = Rig::start().await;
    rig.write(PATH, periodic()).await.ok();
    let parts = Parts {
        host_api: host_api::opener(Reach::default()),
        ..parts(&rig.clock, connector())
    };
    let system = StaticSystemView::default();
    let host = Host::new(parts, std::sync::Arc::clone(&rig.storage) as _, system);
    host.tick().await;
    let status = host.read("status").await.ok();
    let delivery = status.get("audit_delivery");
    assert_eq!(delivery["error_code"], "audit_out_of_reach", "{delivery}");
    let hint = delivery["hint"].as_str().unwrap();
    assert!(hint.contains("SMTP_AUDIT_SOCKETS"), "{hint}");
    host.patch(PATH, json!({}))
        .await
        .fails(400, "invalid_audit_config");
    host.write(PATH, role()).await.ok();
}
