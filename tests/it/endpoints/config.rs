//! `config`.

use std::sync::Arc;

use serde_json::json;
use vault_plugin_secrets_smtp::logical::{StaticSystemView, Storage as _};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{EMAIL, Host, Rig, parts};

#[tokio::test]
async fn the_defaults_and_a_partial_change() {
    let rig = Rig::start().await;
    let defaults = rig.read("config").await.ok();
    let expected = json!({
        "rotation_period": 15_552_000, "check_schedule": "0 2 * * *", "time_zone": "UTC", "spread": 3600,
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

/// How many events of changed settings the mount has.
async fn told(rig: &Rig) -> usize {
    let log = rig.storage.get("mountlog").await.unwrap();
    log.map_or(0, |log| {
        let log = String::from_utf8(log.value.clone()).unwrap();
        log.matches("smtp_config_changed").count()
    })
}

#[tokio::test]
async fn a_delete_restores_every_default_and_is_told_once() {
    let rig = Rig::start().await;
    for (path, body) in [
        (
            "config",
            json!({ "wait": 9, "time_zone": "Europe/Berlin", "allowed_hosts": "*.example" }),
        ),
        (
            "config/alerts",
            json!({ "drift": false, "work_hours": "07:00-19:00", "time_zone": "Asia/Tokyo" }),
        ),
    ] {
        let defaults = rig.read(path).await.ok().data;
        rig.delete(path).await.ok();
        let untouched = rig.storage.snapshot();
        rig.write(path, body).await.ok();
        assert_ne!(rig.storage.snapshot(), untouched);
        let before = told(&rig).await;
        rig.delete(path).await.ok();
        assert_eq!(rig.read(path).await.ok().data, defaults, "{path}");
        assert_eq!(told(&rig).await, before + 2, "{path}: begun and done");
        let stored = rig.storage.snapshot();
        rig.delete(path).await.ok();
        assert_eq!(rig.storage.snapshot(), stored, "{path}: nothing to do");
    }
}

/// What a tool that describes settings does every hour.
#[tokio::test]
async fn the_same_settings_again_are_no_event_and_store_nothing() {
    let rig = Rig::created().await;
    let server = rig.server();
    for (path, body) in [
        (
            "config",
            json!({
                "rotation_period": "90d", "spread": "2h", "check_schedule": "0 3 * * *",
                "time_zone": "Europe/Berlin", "max_versions": "12", "password_bytes": 32.0,
            }),
        ),
        (
            "config/alerts",
            json!({ "work_hours": "Mon-Fri 07:00-19:00", "time_zone": "Europe/Berlin" }),
        ),
        (
            "config/notify/ops",
            json!({
                "type": "email", "host": "SMTP.ops.example", "username": "vault@ops.example",
                "password": "relay", "from": "vault@ops.example", "to": "oncall@ops.example",
                "allowed_domains": "Acme.example", "events": "smtp_credentials_rotated",
            }),
        ),
        (
            "config/notify/chat",
            json!({ "type": "slack", "url": "https://hooks.chat.example/services/T0/B0/x" }),
        ),
        (
            "config/notify/hook",
            json!({
                "type": "webhook", "url": "https://hooks.ops.example/smtp",
                "hmac_key": "key-of-the-signature",
            }),
        ),
        ("acme/config", server),
        (
            "acme/admin",
            json!({
                "username": EMAIL, "rotation_policy": "90d", "admin_emails": "ops@acme.example",
                "webmail_url": "https://mail.acme.example/",
            }),
        ),
    ] {
        rig.write(path, body.clone()).await.ok();
        let (stored, before) = (rig.storage.snapshot(), told(&rig).await);
        for _ in 0..2 {
            rig.later(3600);
            rig.write(path, body.clone()).await.ok();
            rig.patch(path, body.clone()).await.ok();
            assert_eq!(told(&rig).await, before, "{path}");
            // When a channel was written last says what is tried again.
            let is_channel = path.starts_with("config/notify");
            assert!(is_channel || rig.storage.snapshot() == stored, "{path}");
        }
    }
    // Another secret for the same endpoint is a change.
    let body = json!({ "password": "another" });
    let before = told(&rig).await;
    rig.patch("config/notify/ops", body).await.ok();
    assert!(told(&rig).await > before);
}

/// The process as it is on a server: nothing of this machine is reached.
fn strict(rig: &Rig) -> Host {
    let mut parts = parts(&rig.clock, connector());
    parts.dev_loopback = false;
    let storage = Arc::clone(&rig.storage) as _;
    Host::new(parts, storage, StaticSystemView::default())
}

/// Writes a list; returns the warnings.
async fn allow(host: &Host, list: &[&str]) -> Vec<String> {
    let body = json!({ "allowed_hosts": list });
    host.write("config", body).await.ok().warnings
}

async fn serve(host: &Host, tenant: &str, url: &str) {
    let body = json!({ "mailu_url": url, "api_token": "t" });
    let path = format!("{tenant}/config");
    host.write(&path, body).await.ok();
}

#[tokio::test]
async fn a_list_that_leaves_somebody_out_is_told_with_the_numbers() {
    let rig = Rig::start().await;
    let host = strict(&rig);
    assert!(
        allow(&host, &["10.0.0.0/8", "192.168.0.0/16"])
            .await
            .is_empty()
    );
    for number in 1..=7 {
        serve(
            &host,
            &format!("t{number}"),
            &format!("https://192.168.0.{number}"),
        )
        .await;
    }
    serve(&host, "far", "https://10.1.2.3").await;
    let mail = json!({
        "type": "email", "host": "10.0.0.9", "from": "vault@ops.example",
        "to": ["oncall@ops.example"],
    });
    host.write("config/notify/ops", mail).await.ok();
    let told = allow(&host, &["10.0.0.0/8"]).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("7 tenants (t1, t2, t3, t4, t5, …)"),
        "{told:?}"
    );
    // Who was out already is not told again.
    let told = allow(&host, &["10.0.0.0/16", "172.16.0.0/12"]).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("1 tenant (far)"), "{told:?}");
    assert!(allow(&host, &["10.0.0.0/8"]).await.is_empty());
    assert!(allow(&host, &["10.0.0.0/8"]).await.is_empty(), "no change");
    // The defaults are public addresses.
    let told = host.delete("config").await.ok().warnings;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("1 tenant (far)"), "{told:?}");
    assert!(told[1].contains("1 notification channel (ops)"), "{told:?}");
}

#[tokio::test]
async fn names_that_a_list_leaves_out_are_counted_too() {
    let rig = Rig::start().await;
    let host = strict(&rig);
    allow(
        &host,
        &["*.acme.example", "hooks.ops.example", "10.0.0.0/8"],
    )
    .await;
    serve(&host, "acme", "https://mail.acme.example:8443").await;
    let smtp =
        json!({ "smtp_address": "mx.acme.example:465", "verify_smtp": true, "api_token": "t" });
    host.write("acme/config", smtp).await.ok();
    let hook = json!({
        "type": "webhook", "url": "https://hooks.ops.example/smtp", "hmac_key": "k".repeat(32),
    });
    host.write("config/notify/hook", hook).await.ok();
    assert!(allow(&host, &["*.example"]).await.is_empty());
    // Its mail server alone.
    let told = allow(&host, &["mail.acme.example", "*.ops.example"]).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("1 tenant (acme)"), "{told:?}");
    allow(&host, &["*.example"]).await;
    let told = allow(&host, &["elsewhere.example"]).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("1 tenant (acme)"), "{told:?}");
    assert!(
        told[1].contains("1 notification channel (hook)"),
        "{told:?}"
    );
}

#[tokio::test]
async fn settings_that_do_not_do_what_they_seem_to_are_told() {
    let rig = Rig::start().await;
    let host = strict(&rig);
    let list = [
        "0.0.0.0/0",
        "10.1.2.3/8",
        "127.0.0.1",
        "fe80::/10",
        "10.0.0.0/8",
    ];
    let told = allow(&host, &list).await;
    assert_eq!(told.len(), 4, "{told:?}");
    for (told, parts) in told.iter().zip([
        ["entry 1", "0.0.0.0/0", "all 2^32 addresses"],
        ["entry 2", "10.1.2.3/8", "it means 10.0.0.0/8"],
        ["entry 3", "127.0.0.1", "never applies"],
        ["entry 4", "fe80::/10", "never applies"],
    ]) {
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
    let wrong = json!({ "allowed_hosts": ["10.0.0.0/8", "mail example"] });
    let refused = host.write("config", wrong).await;
    let refused = refused.fails(400, "invalid_config");
    assert!(refused.text.contains("entry 2"), "{refused:?}");
    for (body, word) in [
        (json!({ "paused_until": "2020-01-01T00:00:00Z" }), "is past"),
        (json!({ "rotation_period": "1d" }), "`notify_before`"),
    ] {
        let told = host.write("config", body).await.ok().warnings;
        assert!(told.len() == 1 && told[0].contains(word), "{told:?}");
    }
    let told = host
        .write("config", json!({ "wait": 9 }))
        .await
        .ok()
        .warnings;
    assert!(told.is_empty(), "nothing to do with it: {told:?}");
}
