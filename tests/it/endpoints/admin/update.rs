//! Updating what is not the password.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, FIRST, Rig};

#[tokio::test]
async fn a_write_keeps_what_it_does_not_name_and_null_restores_the_default() {
    let rig = Rig::created().await;
    let body = json!({
        "webmail_url": "https://mail.example.test/webmail",
        "admin_emails": "a@example.test,b@example.test",
        "rotation_policy": "90d",
    });
    rig.write("acme/admin", body).await.ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("rotation_policy"), "90d", "as it was written");
    assert_eq!(read.get("rotation_period"), 90 * 86_400);
    assert_eq!(read.get("next_rotation"), "2026-12-21T02:00:25Z");
    rig.check_pointers("acme").await;
    rig.patch("acme/admin", json!({ "webmail_url": null }))
        .await
        .ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("webmail_url"), "");
    assert_eq!(
        read.get("admin_emails"),
        &json!(["a@example.test", "b@example.test"])
    );
    rig.patch("acme/admin", json!({ "rotation_policy": "manual" }))
        .await
        .ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("rotation_policy"), "manual");
    assert_eq!(read.get("rotation_period"), 0);
    assert_eq!(read.get("next_rotation"), &Value::Null);
    rig.check_pointers("acme").await;
    // A period that is long over does not rotate at once.
    rig.later(100 * 86_400);
    rig.patch("acme/admin", json!({ "rotation_policy": "60s" }))
        .await
        .ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("next_rotation"), "2026-12-31T02:00:25Z");
    let nulls = json!({ "rotation_policy": null, "admin_emails": null });
    rig.patch("acme/admin", nulls).await.ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("rotation_policy"), "180_days");
    assert_eq!(read.get("admin_emails"), &json!([]));
    rig.settled().await;
}

/// A tool that describes a credential compares what it wrote with what it reads.
#[tokio::test]
async fn a_policy_is_read_in_the_form_in_which_it_was_written() {
    let rig = Rig::created().await;
    for (written, period) in [
        ("90d", 90 * 86_400),
        ("90_days", 90 * 86_400),
        ("2160h", 90 * 86_400),
        ("7776000", 90 * 86_400),
        ("7776000s", 90 * 86_400),
        ("36h30m", 131_400),
        ("manual", 0),
    ] {
        let body = json!({ "rotation_policy": written });
        rig.write("acme/admin", body.clone()).await.ok();
        let stored = rig.storage.snapshot();
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(read.get("rotation_policy"), written);
        assert_eq!(read.get("rotation_period"), period, "{written}");
        rig.write("acme/admin", body).await.ok();
        assert_eq!(rig.storage.snapshot(), stored, "{written}");
    }
}

/// Nothing is asked for: whatever is under way, and whatever the server does.
#[tokio::test]
async fn what_describes_a_credential_is_written_again_while_a_change_is_open() {
    let rig = Rig::configured().await;
    let body = json!({
        "username": EMAIL, "password": FIRST, "rotation_policy": "90d",
        "admin_emails": "ops@acme.example",
    });
    rig.write("acme/admin", body.clone()).await.ok();
    rig.mailu.set_admin_down(true);
    let order = json!({ "incident_id": "INC-1", "reason": "a test" });
    let queued = rig.write("acme/reset", order).await.ok();
    assert_eq!(queued.get("state"), "queued");
    let stored = rig.storage.snapshot();
    for _ in 0..2 {
        let again = rig.write("acme/admin", body.clone()).await.ok();
        assert!(again.get("event").is_null(), "{again:?}");
        assert_eq!(again.warnings.len(), 1, "{again:?}");
    }
    assert_eq!(rig.storage.snapshot(), stored);
}

#[tokio::test]
async fn the_same_again_changes_nothing() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    let body = json!({ "username": EMAIL.to_uppercase(), "cas": 1, "admin_emails": [] });
    let same = rig.write("acme/admin", body).await.ok();
    assert_eq!(same.get("version"), 1);
    assert_eq!(same.get("event"), &Value::Null);
    assert_eq!(rig.storage.snapshot(), before);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table, one row per refusal")]
async fn what_an_update_refuses() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    let emails = |count: usize| -> Vec<String> {
        (0..count).map(|n| format!("a{n}@example.test")).collect()
    };
    for (body, status, code) in [
        (
            json!({ "username": "b@example.test" }),
            400,
            "username_fixed",
        ),
        (json!({ "username": "no address" }), 400, "invalid_field"),
        (json!({ "admin_emails": emails(11) }), 400, "invalid_field"),
        (
            json!({ "admin_emails": ["no address"] }),
            400,
            "invalid_field",
        ),
        (json!({ "admin_emails": [7] }), 400, "invalid_field"),
        (
            json!({ "webmail_url": "ftp://example.test" }),
            400,
            "invalid_field",
        ),
        (
            json!({ "webmail_url": "https://u:p@example.test" }),
            400,
            "invalid_field",
        ),
        (
            json!({ "webmail_url": format!("https://example.test/{}", "x".repeat(2048)) }),
            400,
            "too_long",
        ),
        (
            json!({ "webmail_url": "https://example.test/\u{7}" }),
            400,
            "invalid_field",
        ),
        (
            json!({ "rotation_policy": "sometimes" }),
            400,
            "invalid_field",
        ),
        (json!({ "rotation_policy": "59s" }), 400, "invalid_field"),
        (json!({ "rotation_policy": "3651d" }), 400, "invalid_field"),
        (json!({ "cas": -1 }), 400, "invalid_field"),
        (json!({ "cas": "one" }), 400, "invalid_field"),
        (json!({ "cas": 0 }), 409, "cas_mismatch"),
        (json!({ "cas": 2 }), 409, "cas_mismatch"),
    ] {
        rig.write("acme/admin", body.clone())
            .await
            .fails(status, code);
    }
    assert_eq!(rig.storage.snapshot(), before);
    rig.write("acme/admin", json!({ "admin_emails": emails(10) }))
        .await
        .ok();
    let unknown = rig
        .write("acme/admin", json!({ "colour": "green", "cas": 1 }))
        .await
        .ok();
    assert!(unknown.warnings[0].contains("colour"), "{unknown:?}");
}

#[tokio::test]
async fn a_write_settles_what_is_open_first() {
    use crate::support::mailu::standin::{Fault, Rule};
    let rig = Rig::created().await;
    // The write arrives and the look after it does not.
    rig.mailu.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    assert_eq!(rig.read("acme/admin").await.get("state"), "uncertain");
    let body = json!({ "webmail_url": "https://mail.example.test" });
    let written = rig.write("acme/admin", body).await.ok();
    assert_eq!(written.get("version"), 2);
    assert_eq!(written.get("state"), "settled");
    rig.settled().await;
    assert_eq!(rig.password_writes(), 2);
}
