//! `<tenant>/verify`.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, Rig};
use crate::support::mailu::standin::{Fault, HashShown, Release, Rule};

#[tokio::test]
async fn what_mailu_says_of_a_healthy_account() {
    let rig = Rig::created().await;
    let verified = rig.write("acme/verify", json!({})).await.ok();
    for (name, value) in [
        ("state", json!("settled")),
        ("version", json!(1)),
        ("live_version", json!(1)),
        ("enabled", json!(true)),
        ("app_tokens", json!(0)),
        ("mailu_version", json!("2024.06")),
    ] {
        assert_eq!(verified.get(name), &value, "{name}");
    }
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("verified_at"), "2026-09-21T15:13:20Z");
    assert_eq!(rig.password_writes(), 1);
    assert!(rig.mailu.smtp_journal().is_empty(), "no login");
    rig.mailu.set_release(Release::V2_0);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("mailu_version"), "2.0");
    assert_eq!(verified.get("app_tokens"), &Value::Null);
}

#[tokio::test]
async fn a_foreign_password_is_drift_with_a_null_live_version() {
    let rig = Rig::created().await;
    let stored = rig.settled().await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    for _ in 0..2 {
        let verified = rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(verified.get("state"), "drift");
        assert_eq!(verified.get("live_version"), &Value::Null);
    }
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.data.get("live_version"), Some(&Value::Null));
    assert_eq!(read.text_of("password"), stored);
    assert_eq!(read.get("ttl"), 15);
    let story = rig.story("acme").await;
    let drifts = story.iter().filter(|it| it.starts_with("drift")).count();
    assert_eq!(drifts, 1, "once per drift: {story:?}");
    // Put back by whoever changed it: settled again.
    rig.mailu.set_password_directly(EMAIL, &stored);
    rig.write("acme/verify", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn an_older_version_that_is_live_is_named_and_answered() {
    let rig = Rig::created().await;
    let first = rig.settled().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.mailu.set_password_directly(EMAIL, &first);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("state"), "drift");
    assert_eq!(verified.get("live_version"), 1);
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("live_version"), 1);
    assert_eq!(read.get("version"), 1);
    assert_eq!(read.text_of("password"), first);
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["live_version"], 1);
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_missing_account_is_drift() {
    let rig = Rig::created().await;
    rig.mailu.delete(EMAIL);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("state"), "drift");
    assert_eq!(verified.get("enabled"), &Value::Null);
    assert_eq!(verified.warnings.len(), 1);
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "account_missing");
}

#[tokio::test]
async fn nothing_is_concluded_from_what_cannot_be_told() {
    let rig = Rig::created().await;
    let before = rig.settled().await;
    for shown in [HashShown::Hidden, HashShown::OtherScheme] {
        rig.mailu.set_hash_shown(shown);
        let verified = rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(verified.get("state"), "settled");
        assert_eq!(verified.get("live_version"), &Value::Null);
        assert!(
            verified
                .warnings
                .iter()
                .any(|it| it.contains("no password hash"))
        );
    }
    rig.mailu.set_admin_down(true);
    let stored = rig.storage.snapshot();
    rig.write("acme/verify", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    assert_eq!(rig.storage.snapshot(), stored);
    rig.mailu.set_admin_down(false);
    rig.mailu.set_token("another-token");
    rig.write("acme/verify", json!({}))
        .await
        .fails(400, "mailu_token_refused");
    assert_eq!(rig.settled().await, before);
}

#[tokio::test]
async fn what_an_operator_is_warned_of() {
    let rig = Rig::created().await;
    rig.mailu.disable(EMAIL);
    rig.mailu.set_field(EMAIL, "forward_enabled", json!(true));
    rig.mailu.set_field(EMAIL, "reply_enabled", json!(true));
    rig.mailu.set_field(EMAIL, "global_admin", json!(false));
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("enabled"), false);
    for word in ["disabled", "forwarded", "automatic reply", "administrator"] {
        assert!(
            verified.warnings.iter().any(|it| it.contains(word)),
            "{word}"
        );
    }
}

/// Without API=true, and with WEBROOT_REDIRECT, Mailu shows its login page to a look.
#[tokio::test]
async fn a_login_page_instead_of_data_is_no_api() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::HtmlOk).method("GET").times(20));
    let refused = rig.write("acme/verify", json!({})).await;
    refused.fails(400, "mailu_no_api");
    let status = rig.read("status").await.ok();
    assert_eq!(status.get("servers")[0]["code"], "no_api");
}

/// A cache before the server heeds the URL and nothing else, as nginx does: a proof from it is none.
#[tokio::test]
async fn a_cache_before_the_server_proves_nothing() {
    let rig = Rig::created().await;
    rig.mailu
        .set_cached_for(std::time::Duration::from_secs(3600));
    let old = rig.settled().await;
    rig.write("acme/verify", json!({})).await.ok();
    rig.mailu.set_password_directly(EMAIL, "somebody else's");
    rig.later(900);
    rig.mailu.advance(std::time::Duration::from_secs(900));
    rig.tick().await;
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    rig.write("acme/rotate", json!({})).await.ok();
    assert_ne!(rig.password().await, old);
    let queries = rig.mailu.journal();
    let queries: Vec<_> = queries.iter().filter(|it| it.method == "GET").collect();
    let mut texts: Vec<_> = queries.iter().filter_map(|it| it.query.clone()).collect();
    let looks = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), looks, "no two looks are the same question");
}

/// Twelve versions and more: what is compared in one look is bounded, and "none" is said when all
/// were.
#[tokio::test]
async fn none_is_said_only_when_every_version_was_compared() {
    let rig = Rig::created().await;
    let config = json!({ "min_rotation_interval": "0s", "max_versions": 40 });
    rig.write("config", config).await.ok();
    let first = rig.settled().await;
    for _ in 0..24 {
        rig.write("acme/rotate", json!({})).await.ok();
        rig.later(60);
    }
    let current = rig.settled().await;
    rig.mailu.set_password_directly(EMAIL, &first);
    // The first eleven do not fit: nothing is known yet.
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), &json!(null));
    assert!(
        verified.warnings.iter().any(|it| it.contains("not every")),
        "{verified:?}"
    );
    assert_eq!(rig.read("acme/admin").await.text_of("password"), current);
    assert_ne!(rig.read("acme/admin").await.get("state"), "drift");
    for _ in 0..4 {
        rig.later(60);
        rig.tick().await;
    }
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift", "{read:?}");
    assert_eq!(read.get("live_version"), 1);
    // A password that is none of them, and none is said of it before.
    rig.mailu.set_password_directly(EMAIL, "somebody else's");
    rig.write("acme/verify", json!({})).await.ok();
    for _ in 0..4 {
        rig.later(60);
        rig.tick().await;
    }
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("live_version"), &json!(null), "{read:?}");
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "foreign_password");
}
