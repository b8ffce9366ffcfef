//! Reading a credential, and what a read refuses to open.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::support::engine::{EMAIL, Rig};

/// Changes a record behind the engine's back; a new process comes upon it.
async fn change_record(rig: &mut Rig, tenant: &str, change: impl FnOnce(&mut Value)) {
    rig.restart();
    let key = format!("tenant/{tenant}");
    let entry = rig.storage.get(&key).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    change(&mut record);
    let entry = StorageEntry::new(key, record.to_string().into_bytes());
    rig.storage.put(entry).await.unwrap();
}

async fn two_tenants() -> Rig {
    let rig = Rig::created().await;
    rig.configure("other").await;
    let body = json!({ "username": "second@example.test" });
    rig.write("other/admin", body).await.ok();
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(3600);
    rig
}

#[tokio::test]
async fn a_moved_ciphertext_does_not_open() {
    let mut rig = two_tenants().await;
    let foreign = rig.record("other").await.unwrap().credential.unwrap();
    let foreign = json!(foreign.versions[0].password);
    let own = rig.record("acme").await.unwrap().credential.unwrap();
    let older = json!(own.versions[0].password);
    let before = rig.storage.snapshot();
    for moved in [foreign, older] {
        rig.storage.restore(&before);
        change_record(&mut rig, "acme", |record| {
            record["credential"]["versions"][1]["password"] = moved;
        })
        .await;
        let spoilt = rig.storage.snapshot();
        rig.read("acme/admin").await.fails(500, "secret_unreadable");
        rig.write("acme/admin", json!({ "password": "x", "cas": 2 }))
            .await
            .fails(500, "secret_unreadable");
        assert_eq!(rig.storage.snapshot(), spoilt, "nothing was written");
    }
    // A token from elsewhere is not sent anywhere.
    rig.storage.restore(&before);
    let token = json!(rig.record("other").await.unwrap().server.unwrap().api_token);
    change_record(&mut rig, "acme", |record| {
        record["server"]["api_token"] = token;
    })
    .await;
    let calls = rig.mailu.journal().len();
    rig.write("acme/verify", json!({}))
        .await
        .fails(500, "secret_unreadable");
    assert_eq!(rig.mailu.journal().len(), calls);
    // Another endpoint under the same ciphertexts opens none of them.
    rig.storage.restore(&before);
    change_record(&mut rig, "acme", |record| {
        record["server"]["mailu_url"] = json!("https://elsewhere.test");
    })
    .await;
    rig.read("acme/admin").await.fails(500, "secret_unreadable");
    rig.write("acme/rotate", json!({}))
        .await
        .fails(500, "secret_unreadable");
    rig.storage.restore(&before);
    rig.restart();
    rig.settled().await;
}

#[tokio::test]
async fn a_moved_or_newer_record_is_refused_and_not_written_over() {
    let mut rig = two_tenants().await;
    let entry = rig.storage.get("tenant/other").await.unwrap().unwrap();
    let moved = StorageEntry::new("tenant/acme", entry.value.clone());
    rig.storage.put(moved).await.unwrap();
    rig.restart();
    let spoilt = rig.storage.snapshot();
    for newer in [false, true] {
        if newer {
            change_record(&mut rig, "other", |record| record["schema"] = json!(5)).await;
        }
        let tenant = if newer { "other" } else { "acme" };
        let before = rig.storage.snapshot();
        let path = |rest: &str| format!("{tenant}/{rest}");
        rig.read(&path("admin"))
            .await
            .fails(500, "record_unreadable");
        for (rest, body) in [
            ("rotate", json!({})),
            ("verify", json!({})),
            ("admin", json!({ "username": EMAIL })),
            ("config", rig.server()),
            ("destroy", json!({ "reason": "r", "confirm": tenant })),
        ] {
            rig.write(&path(rest), body)
                .await
                .fails(500, "record_unreadable");
        }
        assert_eq!(rig.storage.snapshot(), before);
    }
    rig.storage.restore(&spoilt);
    rig.restart();
    // The list shows both all the same.
    let body = json!({ "detailed": true });
    let list = rig
        .send(
            vault_plugin_secrets_smtp::logical::Operation::List,
            "tenants",
            body,
        )
        .await
        .ok();
    assert_eq!(list.get("keys"), &json!(["acme", "other"]));
    assert_eq!(list.get("key_info")["acme"]["error"], "record_unreadable");
    assert_eq!(list.get("key_info")["other"]["state"], "settled");
}

#[tokio::test]
async fn a_tenant_that_is_not_there() {
    let rig = Rig::start().await;
    for path in [
        "acme/admin",
        "acme/config",
        "acme/status",
        "acme/events",
        "acme/versions/1",
    ] {
        assert_eq!(rig.read(path).await.status, 404, "{path}");
    }
    for path in ["acme/versions", "", "tenants"] {
        assert_eq!(rig.list(path).await.status, 404, "{path}");
    }
    rig.write("acme/verify", json!({}))
        .await
        .fails(404, "unknown_tenant");
    rig.write("acme/undelete", json!({}))
        .await
        .fails(404, "unknown_tenant");
    let body = json!({ "reason": "r", "confirm": "acme" });
    rig.write("acme/destroy", body)
        .await
        .fails(404, "unknown_tenant");
    assert!(rig.record("acme").await.is_none(), "no record came from it");
}
