//! Importing an existing password, and adopting one that was set elsewhere.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::HashShown;

fn import(password: &str) -> Value {
    json!({ "username": EMAIL, "password": password })
}

#[tokio::test]
async fn a_live_password_is_imported_and_proven() {
    let rig = Rig::configured().await;
    let mut body = import(FIRST);
    body["last_rotated"] = json!("2026-08-01T00:00:00Z");
    let written = rig.write("acme/admin", body).await.ok();
    assert_eq!(written.get("proof"), "hash");
    assert_eq!(written.get("event"), "smtp_credentials_imported");
    assert_eq!(rig.settled().await, FIRST);
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("last_rotated"), "2026-08-01T00:00:00Z");
    assert_eq!(read.get("next_rotation"), "2027-01-28T02:00:25Z");
    assert_eq!(rig.password_writes(), 0);
}

#[tokio::test]
async fn a_password_that_is_not_live_is_not_stored() {
    let rig = Rig::configured().await;
    rig.write("acme/admin", import("something else"))
        .await
        .fails(400, "password_not_live");
    // Another name for it: nothing was compared.
    rig.mailu.delete(EMAIL);
    rig.write("acme/admin", import(FIRST))
        .await
        .fails(400, "mailu_no_such_account");
    assert_eq!(rig.read("acme/admin").await.status, 404);
    rig.check_pointers("acme").await;
}

#[tokio::test]
async fn what_cannot_be_checked_is_stored_as_imported() {
    let rig = Rig::start().await;
    // No server at all.
    let written = rig.write("acme/admin", import(FIRST)).await.ok();
    assert_eq!(written.get("proof"), "imported");
    assert_eq!(written.warnings.len(), 1);
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "uncertain");
    assert_eq!(read.get("ttl"), 15);
    assert_eq!(read.get("verified_at"), &Value::Null);
    assert_eq!(read.get("candidates")[0]["password"], FIRST);
    rig.write("acme/verify", json!({}))
        .await
        .fails(400, "no_server");
    rig.write("acme/rotate", json!({}))
        .await
        .fails(400, "no_server");
    assert_eq!(rig.password().await, FIRST);
    // The server comes later and has the password.
    rig.configure("acme").await;
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, FIRST);
    rig.write("acme/rotate", json!({})).await.ok();
    assert_ne!(rig.settled().await, FIRST);
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_does_not_stop_an_import() {
    for trouble in 0..3 {
        let rig = Rig::configured().await;
        match trouble {
            0 => rig.mailu.set_admin_down(true),
            1 => rig.mailu.set_token("another-token"),
            _ => rig.mailu.set_hash_shown(HashShown::Hidden),
        }
        let written = rig.write("acme/admin", import(FIRST)).await.ok();
        assert_eq!(written.get("proof"), "imported");
        assert_eq!(written.get("state"), "uncertain");
        assert!(written.warnings[0].contains("<tenant>/verify"));
        assert_eq!(rig.password().await, FIRST);
    }
}

#[tokio::test]
async fn what_an_import_refuses() {
    let rig = Rig::configured().await;
    for (body, code) in [
        (
            json!({ "username": EMAIL, "password": "" }),
            "invalid_field",
        ),
        (
            json!({ "username": EMAIL, "password": "a\u{1}b" }),
            "invalid_field",
        ),
        (
            json!({ "username": EMAIL, "password": "line\nbreak" }),
            "invalid_field",
        ),
        (
            json!({ "username": EMAIL, "password": 12_345_678 }),
            "invalid_field",
        ),
        (
            json!({ "username": EMAIL, "password": "x".repeat(501) }),
            "too_long",
        ),
        (
            json!({ "username": EMAIL, "last_rotated": "2026-01-01T00:00:00Z" }),
            "invalid_field",
        ),
        (
            json!({ "username": EMAIL, "password": FIRST, "last_rotated": "2036-01-01T00:00:00Z" }),
            "invalid_field",
        ),
    ] {
        let refused = rig.write("acme/admin", body.clone()).await.fails(400, code);
        let given = body["password"].as_str().unwrap_or("12345678");
        assert!(
            given.is_empty() || !refused.text.contains(given),
            "{refused:?}"
        );
    }
    assert_eq!(rig.read("acme/admin").await.status, 404);
}

#[tokio::test]
async fn a_later_password_is_ignored_refused_or_adopted() {
    let rig = Rig::configured().await;
    rig.write("acme/admin", import(FIRST)).await.ok();
    rig.later(3600);
    // The same again: a repeated import.
    let again = rig.write("acme/admin", import(FIRST)).await.ok();
    assert_eq!(again.warnings.len(), 1, "{again:?}");
    rig.write("acme/rotate", json!({})).await.ok();
    let second = rig.settled().await;
    // After a rotation the repeated import must not undo it.
    let again = rig.write("acme/admin", import(FIRST)).await.ok();
    assert_eq!(again.warnings.len(), 1, "{again:?}");
    assert_eq!(rig.settled().await, second);
    rig.write("acme/admin", json!({ "password": "foreign password" }))
        .await
        .fails(400, "password_needs_cas");
    for cas in [0, 1, 7] {
        rig.write("acme/admin", json!({ "password": "foreign", "cas": cas }))
            .await
            .fails(409, "cas_mismatch");
    }
    rig.write("acme/admin", json!({ "password": "foreign", "cas": 2 }))
        .await
        .fails(400, "password_not_live");
    assert_eq!(rig.settled().await, second);
    rig.mailu.set_password_directly(EMAIL, "foreign password");
    let adopted = rig
        .write(
            "acme/admin",
            json!({ "password": "foreign password", "cas": 2 }),
        )
        .await
        .ok();
    assert_eq!(adopted.get("event"), "smtp_credentials_adopted");
    assert_eq!(adopted.get("version"), 3);
    assert_eq!(rig.settled().await, "foreign password");
    assert_eq!(rig.password_writes(), 1);
}

#[tokio::test]
async fn an_adopted_earlier_password_is_its_new_version_and_no_drift() {
    let rig = Rig::created().await;
    let first = rig.password().await;
    let backup = rig.mailu.user(EMAIL).unwrap().hash;
    rig.write("acme/rotate", json!({})).await.ok();
    // Somebody restores Mailu's database: the very same hash text as at the first proof.
    rig.mailu.set_hash_directly(EMAIL, &backup);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("state"), "drift");
    assert_eq!(verified.get("live_version"), 1);
    let body = json!({ "password": first, "cas": 2 });
    rig.write("acme/admin", body).await.ok();
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 3);
    assert_eq!(rig.settled().await, first);
}

#[tokio::test]
async fn an_unchecked_adoption_keeps_the_proven_password_in_sight() {
    let rig = Rig::created().await;
    let proven = rig.password().await;
    rig.mailu.set_admin_down(true);
    let body = json!({ "password": "not yet known", "cas": 1 });
    rig.write("acme/admin", body).await.ok();
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "uncertain");
    let candidates = read.get("candidates").as_array().unwrap();
    let holds = |password: &str| candidates.iter().any(|it| it["password"] == password);
    assert!(holds("not yet known") && holds(&proven), "{candidates:?}");
}

#[tokio::test]
async fn a_resent_adoption_is_answered_again() {
    let rig = Rig::created().await;
    rig.mailu.set_password_directly(EMAIL, "foreign password");
    let body = json!({ "password": "foreign password", "cas": 1 });
    for _ in 0..2 {
        let adopted = rig
            .write_as("the-id", "acme/admin", body.clone())
            .await
            .ok();
        assert_eq!(adopted.get("version"), 2);
        assert_eq!(adopted.get("event"), "smtp_credentials_adopted");
    }
}

/// Whoever names the version and hits its password has learned it: that is never silent.
#[tokio::test]
async fn a_password_that_turns_out_to_be_the_current_one_leaves_a_trace() {
    let rig = Rig::created().await;
    let mut body = import(&rig.password().await);
    body["cas"] = json!(1);
    for _ in 0..3 {
        let answer = rig.write("acme/admin", body.clone()).await.ok();
        assert_eq!(answer.get("version"), 1);
    }
    let story = rig.story("acme").await;
    let told = story
        .iter()
        .filter(|it| *it == "rotation_failed(password_is_current)");
    assert_eq!(told.count(), 1, "{story:?}");
    let status = rig.read("acme/status").await.ok();
    let kinds = status.get("failures").as_array().unwrap();
    let kind = kinds
        .iter()
        .find(|kind| kind["code"] == "password_is_current");
    assert_eq!(kind.map(|kind| kind["count"].clone()), Some(json!(3)));
}

#[tokio::test]
async fn without_cas_nobody_learns_whose_a_password_is() {
    let rig = Rig::configured().await;
    rig.write("acme/admin", import(FIRST)).await.ok();
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    let current = rig.settled().await;
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    let newest = rig.settled().await;
    let before = rig.password_writes();
    // The current one, an earlier one, any other.
    let given = [newest.as_str(), current.as_str(), "any other", "x", "y"];
    let mut texts = Vec::new();
    for password in given {
        let answer = rig.write("acme/admin", import(password)).await;
        texts.push(answer.clone().fails(400, "password_needs_cas").text);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let story = rig.story("acme").await;
    let count = |name: &str| story.iter().filter(|it| *it == name).count();
    assert_eq!(count("rotation_failed(password_needs_cas)"), 5);
    assert_eq!(count("smtp_suspicious_activity(password_tries)"), 1);
    // Nothing is compared any more that day, the imported one included.
    let compared = rig.mailu.journal().len();
    for password in ["z", FIRST, newest.as_str()] {
        let answer = rig.write("acme/admin", import(password)).await;
        answer.fails(409, "too_many_tries");
    }
    let settings = json!({ "admin_emails": "ops@example.test" });
    rig.write("acme/admin", settings).await.ok();
    assert_eq!(rig.mailu.journal().len(), compared);
    let status = rig.read("acme/status").await.ok();
    let kinds = status.get("failures").as_array().unwrap();
    let counted = |code: &str| {
        let kind = kinds.iter().find(|kind| kind["code"] == code);
        kind.map(|kind| kind["count"].clone())
    };
    assert_eq!(counted("password_needs_cas"), Some(json!(5)));
    assert_eq!(counted("too_many_tries"), Some(json!(3)));
    // A restart gives nobody more tries; a day does.
    let mut rig = rig;
    rig.restart();
    let answer = rig.write("acme/admin", import("z")).await;
    answer.fails(409, "too_many_tries");
    rig.later(24 * 3600);
    rig.write("acme/admin", import(FIRST)).await.ok();
    let answer = rig.write("acme/admin", import("z")).await;
    answer.fails(400, "password_needs_cas");
    assert_eq!(rig.password_writes(), before);
    assert_eq!(rig.settled().await, newest);
}

#[tokio::test]
async fn the_imported_password_is_left_alone_for_ever_compromised_or_not() {
    let mut rig = Rig::configured().await;
    rig.write("acme/admin", import(FIRST)).await.ok();
    let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
    rig.write("acme/reset", order).await.ok();
    let current = rig.settled().await;
    rig.restart();
    let again = rig.write("acme/admin", import(FIRST)).await.ok();
    assert!(again.warnings[0].contains("compromised"), "{again:?}");
    assert_eq!(rig.settled().await, current);
    // With `cas` it is refused whatever Mailu has, and that is counted.
    rig.mailu.set_password_directly(EMAIL, FIRST);
    let mut body = import(FIRST);
    body["cas"] = json!(2);
    let refused = rig.write("acme/admin", body).await;
    refused.fails(400, "version_compromised");
    // Versions are pruned; what was imported is known all the same.
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.write("config", json!({ "max_versions": 2 })).await.ok();
    for _ in 0..6 {
        rig.later(100 * 86_400);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    let again = rig.write("acme/admin", import(FIRST)).await.ok();
    assert_eq!(again.warnings.len(), 1, "{again:?}");
    let kept = rig.record("acme").await.unwrap().credential.unwrap();
    assert_eq!(kept.imported.len(), 1);
    assert!(!kept.imported[0].contains(FIRST));
    let story = rig.story("acme").await;
    assert!(story.contains(&String::from("rotation_failed(version_compromised)")));
}

#[tokio::test]
async fn comparisons_with_what_mailu_has_are_counted() {
    let rig = Rig::configured().await;
    for _ in 0..3 {
        let answer = rig.write("acme/admin", import("a guess")).await;
        answer.fails(400, "password_not_live");
    }
    assert_eq!(
        rig.story("acme").await,
        [
            "smtp_tenant_config_changed",
            "rotation_failed(password_not_live)"
        ]
    );
    let status = rig.read("acme/status").await.ok();
    assert_eq!(status.get("failures")[0]["count"], 3);
}
