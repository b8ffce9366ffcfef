//! `<tenant>/status`.

use serde_json::{Value, json};

use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::support::engine::Rig;

#[tokio::test]
async fn from_nothing_to_a_failure_with_a_hint() {
    let rig = Rig::configured().await;
    let status = rig.read("acme/status").await.ok();
    for name in ["state", "next_rotation", "open_work", "last_error", "drift"] {
        assert_eq!(status.get(name), &Value::Null, "{name}");
    }
    let rig = Rig::created().await;
    let status = rig.read("acme/status").await.ok();
    assert_eq!(status.get("state"), "settled");
    assert_eq!(status.get("next_rotation"), "2027-03-21T02:00:25Z");
    rig.mailu.set_token("another-token");
    for attempts in 1..=2 {
        rig.write("acme/rotate", json!({}))
            .await
            .fails(400, "mailu_token_refused");
        let status = rig.read("acme/status").await.ok();
        assert_eq!(status.get("state"), "settled");
        let error = status.get("last_error");
        assert_eq!(error["code"], "mailu_token_refused");
        assert_eq!(error["attempts"], attempts);
        assert!(error["hint"].as_str().unwrap().len() > 10);
        assert_eq!(status.get("last_attempt"), "2026-09-21T15:13:20Z");
    }
    rig.mailu.set_token(rig.mailu.token());
    rig.later(3720);
    rig.write("acme/rotate", json!({})).await.ok();
    assert_eq!(
        rig.read("acme/status").await.get("last_error"),
        &Value::Null
    );
}

#[tokio::test]
async fn what_a_preflight_found_comes_with_what_to_do() {
    let mut rig = Rig::created().await;
    assert_eq!(rig.read("acme/status").await.get("preflight"), &Value::Null);
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    record["credential"]["preflight"] = json!({
        "at": "2026-09-21T16:00:00Z",
        "findings": ["token_refused", "tls_expires_soon"],
        "mailu_version": "2024.06",
        "certificate_expires_at": "2026-10-01T00:00:00Z",
    });
    let value = serde_json::to_vec(&record).unwrap();
    let entry = StorageEntry::new("tenant/acme", value);
    rig.storage.put(entry).await.unwrap();
    rig.restart();
    let status = rig.read("acme/status").await.ok();
    let mut found = status.get("preflight").clone();
    for finding in found["findings"].as_array_mut().unwrap() {
        let finding = finding.as_object_mut().unwrap();
        for text in ["message", "hint"] {
            let text = finding.remove(text).unwrap();
            assert!(text.as_str().unwrap().len() > 10, "{text}");
        }
    }
    let expected = json!({
        "at": "2026-09-21T16:00:00Z",
        "findings": [{ "code": "token_refused" }, { "code": "tls_expires_soon" }],
        "mailu_version": "2024.06",
        "certificate_expires_at": "2026-10-01T00:00:00Z",
    });
    assert_eq!(found, expected);
}
