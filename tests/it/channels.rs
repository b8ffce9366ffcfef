//! The real channels against real servers: over TLS, through the engine.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::crypto::hmac_sha256;

use crate::support::engine::{Answer, EMAIL, Rig};
use crate::support::mailu::standin::Authority;
use crate::support::sinks::{Begins, HookSink, MailSink, Posted};

const KEY: &str = "key-of-the-signature";

fn email(sink: &MailSink, begins: Begins) -> Value {
    let tls = match begins {
        Begins::WithTls => "tls",
        Begins::WithStartTls => "starttls",
        Begins::InClear => "none",
    };
    let mut body = json!({
        "type": "email", "host": "localhost", "port": sink.address.port(), "tls": tls,
        "from": "vault@ops.test", "to": ["oncall@ops.test"], "allowed_domains": ["acme.test"],
    });
    if begins != Begins::InClear {
        body["ca_cert"] = json!(sink.authority.pem());
        body["username"] = json!("vault");
        body["password"] = json!("right");
    }
    body
}

fn webhook(sink: &HookSink) -> Value {
    json!({
        "type": "webhook", "url": sink.url("/hook"), "hmac_key": KEY,
        "ca_cert": sink.authority.pem(),
    })
}

async fn test(rig: &Rig, body: Value) -> Answer {
    // A write keeps what it does not name.
    rig.delete("config/notify/it").await.ok();
    rig.write("config/notify/it", body).await.ok();
    rig.write("config/notify/it/test", json!({})).await
}

/// Asserts that the request is signed as the documentation says.
fn check_signature(posted: &Posted) {
    let timestamp = &posted.headers["x-smtp-timestamp"];
    let signed = [timestamp.as_bytes(), b".", &posted.body].concat();
    let expected = hex::encode(hmac_sha256(KEY.as_bytes(), &signed));
    assert_eq!(posted.headers["x-smtp-signature"], format!("v1={expected}"));
}

#[tokio::test]
async fn mail_goes_through_either_kind_of_tls() {
    for begins in [Begins::WithTls, Begins::WithStartTls] {
        let rig = Rig::start().await;
        let sink = MailSink::start(begins).await;
        let sent = test(&rig, email(&sink, begins)).await.ok();
        let mails = sink.mails();
        assert_eq!(mails.len(), 1);
        let mail = &mails[0];
        assert!(mail.secured);
        assert_eq!(mail.login.as_deref(), Some("vault:right"));
        assert_eq!(mail.from, "MAIL FROM:<vault@ops.test>");
        assert_eq!(mail.to, ["RCPT TO:<oncall@ops.test>"]);
        let id = format!("<{}.it@ops.test>", sent.text_of("event_id"));
        assert_eq!(mail.header("Message-ID"), id);
        assert_eq!(
            mail.header("Subject"),
            "[smtp] Test of the notification channel it"
        );
        assert_eq!(mail.header("Date"), "Mon, 21 Sep 2026 14:13:20 +0000");
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        assert_eq!(mail.header("MIME-Version"), "1.0");
        assert_eq!(mail.header("To"), "oncall@ops.test");
        assert!(mail.header("Content-Type").starts_with("text/plain"));
    }
}

#[tokio::test]
async fn what_a_mail_server_does_is_told_by_a_code() {
    let rig = Rig::start().await;
    let sink = MailSink::start(Begins::WithStartTls).await;
    let good = email(&sink, Begins::WithStartTls);
    let other = Authority::new().unwrap();
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    for (name, value, code) in [
        ("password", json!("wrong"), "notify_login_refused"),
        ("ca_cert", json!(other.pem()), "notify_tls"),
        ("tls_server_name", json!("mail.other.test"), "notify_tls"),
        ("host", json!("127.0.0.1"), "notify_tls"),
        ("port", json!(closed), "notify_unreachable"),
        ("to", json!(["a@refused.test"]), "notify_rejected"),
        ("to", json!(["a@later.test"]), "notify_deferred"),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let answer = test(&rig, body).await.fails(400, code);
        assert!(
            !answer.text.contains("unknown user"),
            "nothing of the peer's text"
        );
    }
    assert!(sink.mails().is_empty());
    // A wrong address keeps the mail from nobody else.
    let mut body = good.clone();
    body["to"] = json!(["a@refused.test", "b@ops.test"]);
    test(&rig, body).await.ok();
    assert_eq!(sink.mails()[0].to, ["RCPT TO:<b@ops.test>"]);
    // Who promises STARTTLS must offer it, and never gets the password otherwise.
    let clear = MailSink::start(Begins::InClear).await;
    let mut body = good;
    body["port"] = json!(clear.address.port());
    test(&rig, body).await.fails(400, "notify_not_offered");
    // In development, and to loopback, it may do without.
    test(&rig, email(&clear, Begins::InClear)).await.ok();
    assert!(!clear.mails()[0].secured);
}

#[tokio::test]
async fn a_webhook_gets_one_signed_document() {
    let rig = Rig::start().await;
    let sink = HookSink::start().await;
    let sent = test(&rig, webhook(&sink)).await.ok();
    let posted = sink.posted();
    assert_eq!(posted.len(), 1);
    assert_eq!(posted[0].line, "POST /hook");
    assert_eq!(posted[0].headers["x-smtp-event"], "test");
    assert_eq!(
        posted[0].headers["x-smtp-event-id"],
        sent.text_of("event_id")
    );
    assert_eq!(posted[0].headers["x-smtp-timestamp"], "1790000000");
    assert_eq!(posted[0].headers["content-type"], "application/json");
    check_signature(&posted[0]);
    for (head, code) in [
        ("302 Found\r\nlocation: /elsewhere\r\n", "notify_denied"),
        ("401 Unauthorized\r\n", "notify_denied"),
        ("410 Gone\r\n", "notify_denied"),
        ("400 Bad Request\r\n", "notify_rejected"),
        ("413 Content Too Large\r\n", "notify_rejected"),
        (
            "429 Too Many Requests\r\nretry-after: 120\r\n",
            "notify_busy",
        ),
        ("503 Service Unavailable\r\n", "notify_busy"),
        ("500 Internal Server Error\r\n", "notify_failing"),
    ] {
        sink.answers(head);
        rig.write("config/notify/it/test", json!({}))
            .await
            .fails(400, code);
    }
    assert!(
        sink.posted()
            .iter()
            .all(|posted| posted.line == "POST /hook")
    );
    let mut body = webhook(&sink);
    body["ca_cert"] = json!(Authority::new().unwrap().pem());
    test(&rig, body).await.fails(400, "notify_tls");
}

#[tokio::test]
async fn a_chat_gets_blocks_of_plain_text() {
    let rig = Rig::start().await;
    let sink = HookSink::start().await;
    let body = json!({
        "type": "slack", "url": sink.url("/services/T0/B0/secret"),
        "ca_cert": sink.authority.pem(),
    });
    test(&rig, body).await.ok();
    let posted = sink.posted().remove(0);
    assert_eq!(posted.line, "POST /services/T0/B0/secret");
    let body: Value = serde_json::from_slice(&posted.body).unwrap();
    assert_eq!(body["text"], "Test of the notification channel it");
    let blocks = body["blocks"].as_array().unwrap();
    assert!(
        blocks
            .iter()
            .all(|block| block["text"]["type"] == "plain_text")
    );
}

/// From the change of a password to the inboxes, hostile words and all.
#[tokio::test]
async fn a_rotation_is_told_to_everyone() {
    let rig = Rig::configured().await;
    let mail = MailSink::start(Begins::WithTls).await;
    let hook = HookSink::start().await;
    rig.write("config/notify/ops", email(&mail, Begins::WithTls))
        .await
        .ok();
    rig.write("config/notify/hook", webhook(&hook)).await.ok();
    let body = json!({
        "username": EMAIL, "admin_emails": ["admin@acme.test", "x@evil.test", "x@refused.test"],
    });
    rig.write("acme/admin", body).await.ok();
    rig.later(3600);
    let reason = "<!channel> see https://evil.example/x";
    let rotated = rig
        .write("acme/rotate", json!({ "reason": reason }))
        .await
        .ok();
    rig.tick().await;
    rig.tick().await;
    let mails = mail.mails();
    let mut to: Vec<&str> = mails
        .iter()
        .flat_map(|mail| &mail.to)
        .map(String::as_str)
        .collect();
    to.sort_unstable();
    assert_eq!(
        to,
        ["RCPT TO:<admin@acme.test>", "RCPT TO:<oncall@ops.test>"]
    );
    let password = rig.password().await;
    for mail in &mails {
        assert_eq!(
            mail.header("Subject"),
            "[smtp] acme: the password was changed"
        );
        assert!(!mail.text.contains("://evil") && !mail.text.contains(&password));
    }
    let posted = hook.posted();
    assert_eq!(posted.len(), 1);
    check_signature(&posted[0]);
    let body: Value = serde_json::from_slice(&posted[0].body).unwrap();
    assert_eq!(body["event_id"], rotated.get("event_id").clone());
    assert_eq!(body["event"], "smtp_credentials_rotated");
    assert_eq!(
        (&body["tenant"], &body["version"]),
        (&json!("acme"), &json!(2))
    );
    assert_eq!(body["reason"], reason);
    assert!(!String::from_utf8_lossy(&posted[0].body).contains(&password));
    let read = rig.read("config/notify/hook").await.ok();
    assert_eq!(read.get("delivered"), 1);
}
