//! Creating a credential with a generated password.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{Config, Fault, HashShown, Media, Release, Rule, Words};

fn create() -> Value {
    json!({ "username": EMAIL })
}

#[tokio::test]
async fn an_existing_account_gets_a_new_password_that_is_proven() {
    let rig = Rig::configured().await;
    let body = json!({
        "username": EMAIL,
        "webmail_url": "https://mail.example.test/webmail",
        "admin_emails": ["ops@example.test"],
        "cas": 0,
    });
    let written = rig.write("acme/admin", body).await.ok();
    assert_eq!(written.get("version"), 1);
    assert_eq!(written.get("state"), "settled");
    assert_eq!(written.get("proof"), "hash");
    assert_eq!(written.get("event"), "smtp_credentials_stored");
    assert_eq!(written.get("password"), &Value::Null);
    let password = rig.settled().await;
    assert!(!rig.fits(FIRST), "the old password is dead");
    assert_eq!(password.len(), 44, "32 bytes in base64");
    let read = rig.read("acme/admin").await.ok();
    for (name, value) in [
        ("username", json!(EMAIL)),
        ("webmail_url", json!("https://mail.example.test/webmail")),
        ("admin_emails", json!(["ops@example.test"])),
        ("rotation_policy", json!("180_days")),
        ("rotation_period", json!(180 * 86_400)),
        ("ttl", json!(300)),
        ("version", json!(1)),
        ("proof", json!("hash")),
        ("created_at", json!("2026-09-21T14:13:20Z")),
        ("last_rotated", json!("2026-09-21T14:13:20Z")),
        ("last_vault_rotation", json!("2026-09-21T14:13:20Z")),
        ("verified_at", json!("2026-09-21T14:13:20Z")),
        ("next_rotation", json!("2027-03-21T02:00:25Z")),
    ] {
        assert_eq!(read.get(name), &value, "{name}");
    }
    assert!(read.data.get("candidates").is_none());
    assert!(read.data.get("live_version").is_none());
    let story = rig.story("acme").await;
    let expected = ["smtp_tenant_config_changed", "rotation_started", "stored"];
    assert_eq!(story, expected);
    assert!(rig.mailu.comment(EMAIL).unwrap().starts_with("[smtp "));
}

#[tokio::test]
async fn a_missing_account_is_created_as_administrator() {
    for release in [Release::V2024_06, Release::V2_0] {
        let rig = Rig::with(Config {
            release,
            ..Config::default()
        })
        .await;
        rig.configure("acme").await;
        rig.write("acme/admin", create()).await.ok();
        rig.settled().await;
        let user = rig.mailu.user(EMAIL).unwrap();
        assert_eq!(user.fields["global_admin"], true);
        assert_eq!(rig.password_writes(), 1);
    }
}

#[tokio::test]
async fn a_missing_domain_is_refused_and_leaves_only_the_failure() {
    let rig = Rig::configured().await;
    let body = json!({ "username": "admin@elsewhere.test" });
    rig.write("acme/admin", body)
        .await
        .fails(400, "mailu_no_such_domain");
    nothing_was_created(&rig, "rotation_failed(mailu_no_such_domain)").await;
    // The number of the dropped candidate is not given again; everything else begins anew.
    rig.write("acme/admin", create()).await.ok();
    rig.settled().await;
}

/// Asserts that a failed creation left its event and no credential.
async fn nothing_was_created(rig: &Rig, last_event: &str) {
    assert_eq!(rig.read("acme/admin").await.status, 404);
    assert_eq!(rig.list("acme/versions").await.status, 404);
    let record = rig.record("acme").await.unwrap();
    assert_eq!(record.credential, None);
    assert_eq!(record.intent, None);
    rig.check_pointers("acme").await;
    assert_eq!(rig.story("acme").await.last().unwrap(), last_event);
    assert!(rig.fits(FIRST), "Mailu was not changed");
}

#[tokio::test]
async fn a_failed_look_at_mailu_leaves_no_half_credential() {
    let cases = [
        (Fault::CutBefore, 503, "mailu_unreachable"),
        (Fault::ErrorBefore, 503, "mailu_unreachable"),
        (Fault::BadGateway, 503, "mailu_unreachable"),
        // The login page of a Mailu without API=true.
        (Fault::HtmlOk, 400, "mailu_no_api"),
        (
            Fault::Redirect {
                location: String::from("https://elsewhere.test/"),
            },
            400,
            "mailu_redirect",
        ),
    ];
    let rig = Rig::configured().await;
    for (fault, status, code) in cases {
        rig.mailu.fault(Rule::new(fault).method("GET"));
        rig.write("acme/admin", create()).await.fails(status, code);
        nothing_was_created(&rig, &format!("rotation_failed({code})")).await;
    }
    assert_eq!(rig.password_writes(), 0);
    let status = rig.read("acme/status").await.ok();
    assert_eq!(status.get("last_error")["code"], "mailu_redirect");
    // The next try is a creation again, with all it checks.
    rig.write("acme/admin", json!({}))
        .await
        .fails(400, "missing_field");
    let body = json!({ "username": EMAIL, "cas": 0 });
    rig.write("acme/admin", body).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_once_and_not_repeated() {
    let rig = Rig::configured().await;
    rig.mailu.set_token("another-token");
    rig.write("acme/admin", create())
        .await
        .fails(400, "mailu_token_refused");
    let refused = rig.mailu.journal();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].status, Some(403));
    nothing_was_created(&rig, "rotation_failed(mailu_token_refused)").await;
}

#[tokio::test]
async fn a_certificate_of_another_name_or_from_the_past_is_named() {
    let rig = Rig::start().await;
    for (url, why) in [
        (
            rig.mailu.wrong_name_url(),
            "certificate is for another name. ",
        ),
        (rig.mailu.expired_url(), "has expired. "),
        (rig.mailu.url(), "certificate is not known, or the chain "),
    ] {
        let mut server = rig.server();
        if url == rig.mailu.url() {
            server["ca_cert"] = Value::Null;
        }
        server["mailu_url"] = json!(url);
        rig.write("acme/config", server).await.ok();
        let refused = rig.write("acme/admin", create()).await;
        let refused = refused.fails(400, "mailu_tls");
        assert!(refused.text.contains(why), "{}", refused.text);
        // Whoever looks later is told the same.
        let status = rig.read("acme/status").await.ok();
        for told in [status.get("last_error"), status.get("server_unasked")] {
            assert!(told["hint"].as_str().unwrap().contains(why), "{told}");
        }
        let mount = rig.read("status").await.ok();
        let servers = mount.get("servers").as_array().unwrap();
        let told = |it: &Value| it["hint"].as_str().unwrap().contains(why);
        assert!(servers.iter().any(told), "{servers:?}");
    }
    assert!(rig.mailu.journal().is_empty(), "no request got through");
    // The certificate's own name makes it acceptable.
    let mut server = rig.server();
    server["mailu_url"] = json!(rig.mailu.wrong_name_url());
    server["tls_server_name"] = json!("stranger.invalid");
    rig.write("acme/config", server).await.ok();
    rig.write("acme/admin", create()).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_dead_server_is_unreachable() {
    let rig = Rig::start().await;
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let mut server = rig.server();
    server["mailu_url"] = json!(format!("https://localhost:{port}"));
    rig.write("acme/config", server).await.ok();
    rig.write("acme/admin", create())
        .await
        .fails(503, "mailu_unreachable");
    nothing_was_created(&rig, "rotation_failed(mailu_unreachable)").await;
}

#[tokio::test]
async fn what_a_creation_needs() {
    let rig = Rig::start().await;
    rig.write("acme/admin", create())
        .await
        .fails(400, "no_server");
    rig.configure("acme").await;
    rig.write("acme/admin", json!({}))
        .await
        .fails(400, "missing_field");
    rig.write("acme/admin", json!({ "username": EMAIL, "cas": 1 }))
        .await
        .fails(409, "cas_mismatch");
    rig.patch("acme/admin", create())
        .await
        .fails(404, "unknown_tenant");
    rig.write("acme/rotate", json!({}))
        .await
        .fails(404, "unknown_tenant");
    assert!(rig.mailu.journal().is_empty());
    assert_eq!(rig.story("acme").await.len(), 1, "the server's event only");
}

#[tokio::test]
async fn a_lost_answer_of_the_creation_is_found_out_in_the_same_request() {
    let rig = Rig::with(Config::default()).await;
    rig.configure("acme").await;
    rig.mailu
        .fault(Rule::new(Fault::CutAfter).method("POST").path("/user"));
    let written = rig.write("acme/admin", create()).await.ok();
    assert_eq!(written.get("proof"), "hash");
    rig.settled().await;
    assert_eq!(rig.password_writes(), 1);
}

#[tokio::test]
async fn a_creation_that_mailu_lies_about_is_not_settled() {
    let rig = Rig::with(Config::default()).await;
    rig.configure("acme").await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("POST").times(2));
    rig.write("acme/admin", create())
        .await
        .fails(503, "mailu_unreachable");
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "uncertain");
    assert_eq!(read.get("candidates")[0]["version"], 1);
    assert!(rig.mailu.user(EMAIL).is_none());
    // The repeat finishes it with the same candidate.
    rig.write("acme/admin", create()).await.ok();
    assert_eq!(rig.settled().await, read.text_of("password"));
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_does_not_drop_the_candidate() {
    let rig = Rig::with(Config::default()).await;
    rig.configure("acme").await;
    // The first POST takes effect only later; the second meets a full domain.
    rig.mailu.fault(Rule::new(Fault::ApplyLater).method("POST"));
    let full = r#"{"code":409,"message":"Too many users for domain example.test"}"#;
    let words = Words::new(409, Media::Json, full);
    let refusal = Fault::Worded {
        committed: false,
        words,
    };
    rig.mailu.fault(Rule::new(refusal).method("POST"));
    rig.write("acme/admin", create())
        .await
        .fails(503, "mailu_unreachable");
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "uncertain");
    rig.mailu.release().await;
    assert!(rig.fits(read.text_of("password")), "the late write landed");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, read.text_of("password"));
}

#[tokio::test]
async fn a_hidden_hash_leaves_an_acknowledgement_as_proof() {
    for shown in [HashShown::Hidden, HashShown::OtherScheme] {
        let rig = Rig::configured().await;
        rig.mailu.set_hash_shown(shown);
        let written = rig.write("acme/admin", create()).await.ok();
        assert_eq!(written.get("proof"), "acknowledged");
        rig.settled().await;
        // Seen again, the hash is a better proof.
        rig.mailu.set_hash_shown(HashShown::Real);
        rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(rig.read("acme/admin").await.get("proof"), "hash");
    }
}

#[tokio::test]
async fn one_account_belongs_to_one_tenant() {
    let rig = Rig::created().await;
    rig.configure("other").await;
    rig.write("other/admin", json!({ "username": EMAIL.to_uppercase() }))
        .await
        .fails(409, "account_taken");
    let import = json!({ "username": EMAIL, "password": rig.password().await });
    rig.write("other/admin", import)
        .await
        .fails(409, "account_taken");
    assert_eq!(rig.read("other/admin").await.status, 404);
    rig.settled().await;
    // Destroyed, the account is free again; its pointer went with the credential.
    let body = json!({ "reason": "moved", "confirm": "acme" });
    rig.write("acme/destroy", body).await.ok();
    rig.check_pointers("acme").await;
    // Its mark is still there: whoever owned it may go on.
    rig.write("other/admin", create())
        .await
        .fails(400, "other_owner");
    let mut take_over = create();
    take_over["take_over"] = json!(true);
    rig.write("other/admin", take_over).await.ok();
    rig.check_pointers("other").await;
}

#[tokio::test]
async fn a_stale_account_pointer_is_not_believed() {
    use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};
    let rig = Rig::created().await;
    let snapshot = rig.storage.snapshot();
    let key = snapshot
        .entries()
        .find(|entry| entry.key.starts_with("account/"))
        .map(|entry| entry.key.clone())
        .unwrap();
    for owner in ["nobody", "../config", "other"] {
        let body = json!({ "reason": "again", "confirm": "acme" });
        rig.write("acme/destroy", body).await.ok();
        let value = json!({ "tenant": owner }).to_string().into_bytes();
        rig.storage
            .put(StorageEntry::new(key.as_str(), value))
            .await
            .unwrap();
        rig.write("acme/admin", create()).await.ok();
        rig.settled().await;
    }
}

#[tokio::test]
async fn a_resent_creation_is_answered_again() {
    let rig = Rig::configured().await;
    let body = json!({ "username": EMAIL, "cas": 0 });
    let first = rig
        .write_as("the-id", "acme/admin", body.clone())
        .await
        .ok();
    let password = rig.settled().await;
    let again = rig.write_as("the-id", "acme/admin", body).await.ok();
    assert_eq!(again.get("version"), first.get("version"));
    assert_eq!(rig.settled().await, password);
    assert_eq!(rig.password_writes(), 1);
}
