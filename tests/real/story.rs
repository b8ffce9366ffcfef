//! The life of a credential, as an operator and a client live it.

use serde_json::{Value, json};

use super::harness::tests;
use super::rig::{EMAIL, FIRST, Rig};

tests! {
    openbao_tells_the_whole_story,
}

/// The host's: the name is from a time when only OpenBao was tested.
async fn openbao_tells_the_whole_story() {
    let rig = Rig::shared("story").await;
    mount_settings(&rig).await;
    let first = creation(&rig).await;
    rotation(&rig, &first).await;
    records(&rig).await;
    lists(&rig).await;
    settings(&rig).await;
    deletion(&rig).await;
    audit_names_what_happened(&rig);
    assert_eq!(rig.api.seen().secrets.len(), 3, "one password a version");
    rig.assert_nothing_leaked();
}

async fn mount_settings(rig: &Rig) {
    let written = rig.write("config", json!({"refresh_interval": "10m", "wait": 20}));
    written.await.no_content();
    let read = rig.read("config").await;
    assert_eq!(read.data()["refresh_interval"], 600);
    assert_eq!(read.data()["wait"], 20);
    assert_eq!(read.data()["rotation_period"], 180 * 86_400);
}

/// Returns the generated password.
async fn creation(rig: &Rig) -> String {
    let created = rig.create("acme").await;
    assert_eq!(created.data()["version"], 1);
    assert_eq!(created.data()["state"], "settled");
    assert_eq!(created.data()["proof"], "hash", "a login never outranks it");
    assert_eq!(created.data()["event"], "smtp_credentials_stored");
    let config = rig.read("acme/config").await;
    assert_eq!(config.data()["mailu_url"], rig.mailu.url());
    assert!(config.data().get("api_token").is_none());

    let admin = rig.admin("acme").await;
    assert_eq!(admin["username"], EMAIL);
    assert_eq!(admin["ttl"], 600, "refresh_interval");
    assert_eq!(admin["last_rotated"], admin["last_vault_rotation"]);
    let password = admin["password"].as_str().unwrap();
    rig.assert_live(password).await;
    rig.assert_dead(FIRST).await;
    password.to_owned()
}

async fn rotation(rig: &Rig, first: &str) {
    let rotated = rig.rotate("acme").await;
    let data = rotated.data();
    assert_eq!(data["version"], 2);
    assert_eq!(data["previous_version"], 1);
    assert_eq!(data["event"], "smtp_credentials_rotated");
    assert!(data.get("password").is_none());

    let admin = rig.admin("acme").await;
    let second = admin["password"].as_str().unwrap();
    assert_eq!(admin["version"], 2);
    assert_ne!(second, first);
    rig.assert_live(second).await;
    rig.assert_dead(first).await;
    // The engine's own proof went over SMTP as well, encrypted, with the new value only.
    let logins = rig.mailu.smtp_journal();
    assert_eq!(logins.len(), 2, "{logins:?}");
    assert!(logins.iter().all(|login| login.tls && login.code == 235));

    let verified = rig.write("acme/verify", json!({})).await;
    assert_eq!(verified.data()["state"], "settled");
    assert_eq!(verified.data()["live_version"], 2);
    assert_eq!(verified.data()["mailu_version"], "2024.06");
}

async fn records(rig: &Rig) {
    let versions = rig.list("acme/versions").await;
    assert_eq!(versions.data()["keys"], json!(["1", "2"]));
    let previous = rig.read("acme/versions/1").await;
    assert_eq!(previous.data()["position"], "previous");
    let current = rig.read("acme/versions/2").await;
    assert_eq!(current.data()["position"], "current");
    assert_eq!(current.data()["rotation_type"], "manual");

    let status = rig.read("acme/status").await;
    assert_eq!(status.data()["state"], "settled");
    assert_eq!(status.data()["open_work"], Value::Null);
    assert_eq!(status.data()["last_error"], Value::Null);

    let events = rig.read("acme/events").await;
    let events = events.data()["events"].as_array().unwrap();
    assert_eq!(events[0]["event"], "smtp_credentials_rotated");
    assert_eq!(events[0]["reason"], "a test");
    let numbers: Vec<u64> = events.iter().filter_map(|it| it["seq"].as_u64()).collect();
    let gapless: Vec<u64> = (1..=numbers.len() as u64).rev().collect();
    assert_eq!(numbers, gapless);
    for pair in events.windows(2) {
        assert_eq!(pair[0]["prev_hash"], pair[1]["hash"]);
    }
}

async fn lists(rig: &Rig) {
    let written = rig.write("zeta/config", rig.server_config());
    written.await.no_content();
    for path in ["", "tenants"] {
        let list = rig.list(path).await;
        assert_eq!(list.data()["keys"], json!(["acme", "zeta"]), "{path:?}");
    }
    let paged = rig.list("tenants?after=acme&limit=5").await;
    assert_eq!(paged.data()["keys"], json!(["zeta"]));
    let detailed = rig.list("tenants?detailed=true").await;
    let info = &detailed.data()["key_info"];
    assert_eq!(info["acme"]["state"], "settled");
    assert_eq!(info["zeta"]["state"], Value::Null);
    // What the command line can send: `bao read smtp/tenants list=true detailed=true`.
    let by_get = rig.read("tenants?list=true&detailed=true").await;
    assert_eq!(by_get.data(), detailed.data());
}

async fn settings(rig: &Rig) {
    let path = rig.path("acme/admin");
    let webmail =
        json!({"webmail_url": "https://mail.example.test/webmail", "rotation_policy": "90d"});
    rig.api.patch(&path, webmail).await.data();
    let admin = rig.admin("acme").await;
    assert_eq!(admin["webmail_url"], "https://mail.example.test/webmail");
    assert_eq!(admin["rotation_period"], 90 * 86_400);

    rig.api
        .patch(&path, json!({"webmail_url": null}))
        .await
        .data();
    let admin = rig.admin("acme").await;
    assert_eq!(admin["webmail_url"], "");
    assert_eq!(admin["rotation_period"], 90 * 86_400, "not named, so kept");
    assert_eq!(admin["version"], 2, "settings make no version");
}

async fn deletion(rig: &Rig) {
    let password = rig.password("acme").await;
    rig.delete("acme/admin").await.no_content();
    assert_eq!(rig.read("acme/admin").await.status, 404);
    rig.assert_live(&password).await;
    rig.write("acme/undelete", json!({})).await.no_content();
    assert_eq!(rig.password("acme").await, password);

    let doubtful = rig.write("acme/destroy", json!({"reason": "left", "confirm": "acne"}));
    assert_eq!(doubtful.await.code(), "confirm_mismatch");
    let destroyed = rig.write("acme/destroy", json!({"reason": "left", "confirm": "acme"}));
    destroyed.await.no_content();
    assert_eq!(rig.read("acme/admin").await.status, 404);
    rig.assert_live(&password).await;

    // Numbers go on where they were.
    let created = rig.write("acme/admin", json!({"username": EMAIL})).await;
    assert_eq!(created.data()["version"], 3);
    rig.assert_live(&rig.password("acme").await).await;
    rig.assert_dead(&password).await;
}

/// An auditor reads the line of a rotation: what happened is in clear, what is private is not.
fn audit_names_what_happened(rig: &Rig) {
    let path = rig.path("acme/rotate");
    let records = rig.server.audit_records();
    let answered = records
        .iter()
        .find(|record| record["type"] == "response" && record["request"]["path"] == *path)
        .expect("the rotation's answer");
    assert!(answered["auth"]["display_name"].is_string(), "who");
    let data = &answered["response"]["data"];
    assert_eq!(data["event"], "smtp_credentials_rotated");
    assert_eq!(data["event_id"].as_str().unwrap().len(), 26, "a ULID");
    assert_eq!(data["version"], 2);
    assert!(data["last_rotated"].as_str().unwrap().ends_with('Z'));
    let reason = &answered["request"]["data"]["reason"];
    assert!(reason.as_str().unwrap().starts_with("hmac-sha256:"));
}
