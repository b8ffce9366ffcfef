//! `config`.

use serde_json::json;

use crate::support::engine::{EMAIL, Rig};

#[tokio::test]
async fn the_defaults_and_a_partial_change() {
    let rig = Rig::start().await;
    let defaults = rig.read("config").await.ok();
    let expected = json!({
        "rotation_period": 15_552_000, "check_schedule": "0 2 * * *", "spread": 3600,
        "notify_before": 604_800, "max_parallel": 16, "min_rotation_interval": 300,
        "refresh_interval": 300, "wait": 8, "password_bytes": 32,
        "emergency_password_bytes": 48, "password_encoding": "base64", "password_policy": null,
        "max_versions": 10, "reveal_ttl": 900, "rotate_after_reveal": false,
        "deleted_retention": 2_592_000, "trail_retention": 34_560_000, "allowed_hosts": [], "mailu_marker": true,
        "audit_mode": "best_effort", "paused_until": null,
    });
    assert_eq!(defaults.data, expected);
    let body = json!({ "rotation_period": "90_days", "spread": "30m", "wait": "5" });
    rig.write("config", body).await.ok();
    let read = rig.read("config").await;
    assert_eq!(read.get("rotation_period"), 90 * 86_400);
    assert_eq!(read.get("spread"), 1800);
    assert_eq!(read.get("wait"), 5);
    assert_eq!(read.get("max_versions"), 10);
    let body = json!({ "rotation_period": null, "spread": null });
    rig.patch("config", body).await.ok();
    assert_eq!(rig.read("config").await.get("spread"), 3600);
}

#[tokio::test]
async fn what_settings_refuse() {
    let rig = Rig::start().await;
    rig.write("config", json!({ "wait": 9 })).await.ok();
    let before = rig.storage.snapshot();
    for (name, value, code) in [
        ("wait", json!(0), "invalid_config"),
        ("wait", json!(26), "invalid_config"),
        ("refresh_interval", json!("29s"), "invalid_config"),
        ("refresh_interval", json!("61m"), "invalid_config"),
        ("max_parallel", json!(-1), "invalid_config"),
        ("max_versions", json!(1), "invalid_config"),
        ("password_bytes", json!(15), "invalid_config"),
        ("password_encoding", json!("rot13"), "invalid_config"),
        ("check_schedule", json!("at night"), "invalid_config"),
        ("allowed_hosts", json!(["10.0.0.0/99"]), "invalid_config"),
        ("audit_mode", json!("never"), "invalid_config"),
        ("audit_mode", json!("required"), "audit_unproven"),
        ("wait", json!("soon"), "invalid_field"),
        ("max_versions", json!(2.5), "invalid_field"),
        ("check_schedule", json!("0 2 * * *\u{0}"), "invalid_field"),
        ("allowed_hosts", json!(["x".repeat(257)]), "too_long"),
        ("paused_until", json!("tomorrow"), "invalid_field"),
    ] {
        rig.write("config", json!({ name: value }))
            .await
            .fails(400, code);
    }
    assert_eq!(rig.storage.snapshot(), before);
    let warned = rig.write("config", json!({ "colour": "green" })).await.ok();
    assert_eq!(warned.warnings.len(), 1);
}

#[tokio::test]
async fn settings_shape_the_next_password() {
    let rig = Rig::created().await;
    for (encoding, bytes, length) in [("base64url", 48, 64), ("mailu_hex", 32, 32)] {
        let body = json!({ "password_encoding": encoding, "password_bytes": bytes });
        rig.write("config", body).await.ok();
        rig.later(3600);
        rig.write("acme/rotate", json!({})).await.ok();
        assert_eq!(rig.settled().await.len(), length, "{encoding}");
    }
    // The host of this test generates nothing: nothing is changed.
    let body = json!({ "password_policy": "strong" });
    let before = rig.storage.snapshot();
    rig.write("config", body)
        .await
        .fails(400, "password_policy_unusable");
    assert_eq!(rig.storage.snapshot(), before);
    rig.later(3600);
    rig.write("config", json!({ "mailu_marker": false }))
        .await
        .ok();
    rig.mailu.set_field(EMAIL, "comment", json!("mine"));
    rig.write("acme/rotate", json!({})).await.ok();
    assert_eq!(rig.mailu.comment(EMAIL).unwrap(), "mine");
    rig.settled().await;
}
