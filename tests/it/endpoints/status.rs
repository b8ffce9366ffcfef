//! `<tenant>/status`.

use serde_json::{Value, json};

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
