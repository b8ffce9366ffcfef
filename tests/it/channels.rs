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
    let some = test(&rig, body).await.ok();
    assert_eq!(some.get("delivered"), false);
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

/// Whatever it says no to, and however early, is told with its code and as what it is: for good or
/// for now.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "every stage, for good and for now")]
async fn a_no_of_a_mail_server_is_told_as_one() {
    for (begins, word, reply, code, told) in [
        (
            Begins::WithTls,
            "GREETING",
            "554 5.7.1 blocked-here",
            "notify_refused",
            "the connection with 554",
        ),
        (
            Begins::InClear,
            "GREETING",
            "421 4.3.2 full-up",
            "notify_busy",
            "the connection with 421",
        ),
        (
            Begins::WithStartTls,
            "EHLO",
            "501 5.5.2 bad-name",
            "notify_ehlo_refused",
            "ehlo_name",
        ),
        (
            Begins::WithTls,
            "EHLO",
            "550 not-you",
            "notify_ehlo_refused",
            "EHLO with 550",
        ),
        (
            Begins::WithTls,
            "EHLO",
            "451 come-later",
            "notify_busy",
            "EHLO with 451",
        ),
        (
            Begins::WithStartTls,
            "STARTTLS",
            "454 no-TLS-now",
            "notify_busy",
            "STARTTLS with 454",
        ),
        (
            Begins::WithTls,
            "AUTH",
            "454 come-later",
            "notify_busy",
            "AUTH with 454",
        ),
        (
            Begins::WithTls,
            "AUTH",
            "504 not-so",
            "notify_not_offered",
            "AUTH with 504",
        ),
        (
            Begins::InClear,
            "MAIL",
            "530 5.7.0 log-in",
            "notify_login_required",
            "MAIL FROM with 530",
        ),
        (
            Begins::WithTls,
            "MAIL",
            "550 by-no-means",
            "notify_denied",
            "MAIL FROM with 550",
        ),
        (
            Begins::WithTls,
            "MAIL",
            "452 full-up",
            "notify_busy",
            "MAIL FROM with 452",
        ),
        (
            Begins::WithTls,
            "DATA",
            "554 it-is-spam",
            "notify_rejected",
            "DATA with 554",
        ),
        (
            Begins::WithTls,
            "DATA",
            "451 come-later",
            "notify_deferred",
            "DATA with 451",
        ),
    ] {
        let rig = Rig::start().await;
        let sink = MailSink::start(begins).await;
        sink.replies(word, reply);
        let answer = test(&rig, email(&sink, begins)).await.fails(400, code);
        assert!(
            answer.text.contains(told),
            "{word} {reply}: {}",
            answer.text
        );
        let words = reply.rsplit_once(' ').unwrap().1;
        assert!(!answer.text.contains(words), "{}", answer.text);
        assert!(sink.mails().is_empty());
    }
}

#[tokio::test]
async fn a_mail_server_is_greeted_by_the_name_of_the_channel_and_as_it_understands() {
    let rig = Rig::start().await;
    let sink = MailSink::start(Begins::InClear).await;
    let mut body = email(&sink, Begins::InClear);
    test(&rig, body.clone()).await.ok();
    let own = sink.said()[0].clone();
    // This host's full name, or where the call came from.
    assert!(own.starts_with("EHLO ") && own.contains('.'), "{own}");
    for (given, said) in [
        ("Vault.ops.example", "EHLO vault.ops.example"),
        ("[IPv6:2001:DB8::1]", "EHLO [IPv6:2001:db8::1]"),
        ("", own.as_str()),
    ] {
        body["ehlo_name"] = json!(given);
        let before = sink.said().len();
        test(&rig, body.clone()).await.ok();
        assert_eq!(sink.said()[before], said);
        let read = rig.read("config/notify/it").await.ok();
        let kept = said.trim_start_matches("EHLO ");
        let kept = if given.is_empty() { "" } else { kept };
        assert_eq!(read.get("ehlo_name"), kept);
    }
    body["ehlo_name"] = json!("a b");
    rig.write("config/notify/it", body.clone())
        .await
        .fails(400, "invalid_channel");
    // It is no endpoint: it needs no secret.
    let other = json!({ "ehlo_name": "other.ops.example" });
    rig.patch("config/notify/it", other).await.ok();
    for code in ["500 what?", "502 not here"] {
        sink.replies("EHLO", code);
        let before = sink.said().len();
        rig.write("config/notify/it/test", json!({})).await.ok();
        let said = sink.said()[before..].to_vec();
        assert_eq!(
            said[..2],
            ["EHLO other.ops.example", "HELO other.ops.example"]
        );
    }
    // Who knows no EHLO offers no TLS, and gets nothing where that is asked for.
    let old = MailSink::start(Begins::WithStartTls).await;
    old.replies("EHLO", "502 what?");
    let answer = test(&rig, email(&old, Begins::WithStartTls)).await;
    answer.fails(400, "notify_not_offered");
    assert!(!old.said().iter().any(|it| it.starts_with("MAIL")));
}

/// Each address has its answer, and a mail that not everyone could have is not told as one that was
/// delivered.
#[tokio::test]
async fn a_test_answers_for_each_address() {
    let rig = Rig::start().await;
    let sink = MailSink::start(Begins::WithTls).await;
    let mut body = email(&sink, Begins::WithTls);
    let one = test(&rig, body.clone()).await.ok();
    let delivered = |address: &str| json!({"address": address, "delivered": true, "error_code": null, "error": null});
    assert_eq!(one.get("addresses"), &json!([delivered("oncall@ops.test")]));
    body["to"] = json!(["a@ops.test", "b@refused.test", "c@later.test", "d@ops.test"]);
    let some = test(&rig, body.clone()).await.ok();
    assert_eq!(some.get("delivered"), false);
    let addresses = some.get("addresses");
    assert_eq!(addresses[0], delivered("a@ops.test"));
    assert_eq!(addresses[3], delivered("d@ops.test"));
    assert_eq!(addresses[1]["error_code"], "notify_rejected");
    assert_eq!(addresses[2]["error_code"], "notify_deferred");
    assert!(addresses[1]["error"].as_str().unwrap().contains("550"));
    let told = sink
        .mails()
        .iter()
        .map(|it| it.to.join(","))
        .collect::<Vec<_>>();
    let to = |name: &str| format!("RCPT TO:<{name}@ops.test>");
    assert_eq!(told, [to("oncall"), to("a"), to("d")]);
    body["to"] = json!(["a@ops.test", "d@ops.test"]);
    assert_eq!(test(&rig, body.clone()).await.ok().get("delivered"), true);
    // Nobody could have it, and why is told for each.
    body["to"] = json!(["c@later.test", "b@refused.test"]);
    let none = test(&rig, body.clone()).await.fails(400, "notify_deferred");
    assert!(
        none.text.contains("c@later.test: notify_deferred"),
        "{}",
        none.text
    );
    assert!(
        none.text.contains("b@refused.test: notify_rejected"),
        "{}",
        none.text
    );
    // What the whole channel fails with is met once.
    body["password"] = json!("wrong");
    let before = sink.said().len();
    test(&rig, body).await.fails(400, "notify_login_refused");
    let logins = sink.said()[before..]
        .iter()
        .filter(|it| it.starts_with("AUTH"))
        .count();
    assert_eq!(logins, 1);
}

/// What a chat or a flow engine gives out has its key in the query.
#[tokio::test]
async fn a_url_with_a_query_is_called_as_it_is_and_shown_without_its_path() {
    const PATH: &str = "/workflows/a1/invoke?api-version=1&sig=secret-of-the-url&x=a%2Fb";
    let rig = Rig::start().await;
    let sink = HookSink::start().await;
    let chat = json!({
        "type": "slack", "url": sink.url(PATH), "ca_cert": sink.authority.pem(),
    });
    test(&rig, chat).await.ok();
    let mut hook = webhook(&sink);
    hook["url"] = json!(sink.url(PATH));
    let mut shown = test(&rig, hook.clone()).await.ok().data.to_string();
    for posted in sink.posted() {
        assert_eq!(posted.line, format!("POST {PATH}"));
    }
    assert_eq!(sink.posted().len(), 2);
    let origin = sink.url("");
    let read = rig.read("config/notify/it").await.ok();
    assert_eq!(read.get("url"), &json!(origin));
    shown.push_str(&read.data.to_string());
    sink.answers("500 Internal Server Error\r\n");
    let failed = rig.write("config/notify/it/test", json!({})).await;
    shown.push_str(&failed.fails(400, "notify_failing").text);
    for entry in rig.storage.snapshot().entries() {
        shown.push_str(&String::from_utf8_lossy(&entry.value));
    }
    assert!(!shown.contains("secret-of-the-url"), "{shown}");
    // It stays when only another field, or another key, is given, and goes when it is replaced.
    sink.answers("200 OK\r\n");
    rig.patch(
        "config/notify/it",
        json!({ "hmac_key": "another-key-of-the-signature" }),
    )
    .await
    .ok();
    rig.patch("config/notify/it", json!({ "events": [] }))
        .await
        .ok();
    rig.write("config/notify/it/test", json!({})).await.ok();
    assert_eq!(sink.posted().last().unwrap().line, format!("POST {PATH}"));
    for body in [
        json!({ "url": sink.url("/x?sig=other") }),
        json!({ "ca_cert": null, "hmac_key": KEY }),
        json!({ "ca_cert": null }),
    ] {
        let answer = rig.patch("config/notify/it", body).await;
        answer.fails(400, "secret_required");
    }
    rig.write("config/notify/it", webhook(&sink)).await.ok();
    rig.write("config/notify/it/test", json!({})).await.ok();
    assert_eq!(sink.posted().last().unwrap().line, "POST /hook");
    let read = rig.read("config/notify/it").await.ok();
    assert_eq!(read.get("url"), &json!(sink.url("/hook")));
    // A rotation of the keyring takes the URL along.
    rig.write("config/notify/it", hook).await.ok();
    rig.write("config/keyring/rotate", json!({})).await.ok();
    rig.tick().await;
    rig.write("config/keyring/trim", json!({})).await.ok();
    rig.write("config/notify/it/test", json!({})).await.ok();
    assert_eq!(sink.posted().last().unwrap().line, format!("POST {PATH}"));
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

/// A receiver that follows an older reading of the documentation refuses what it has seen.
#[tokio::test]
async fn a_receiver_that_refuses_a_repeat_has_got_the_message() {
    let rig = Rig::configured().await;
    let hook = HookSink::start().await;
    rig.write("config/notify/hook", webhook(&hook)).await.ok();
    // The identifier of a test cannot have been seen: this is another conflict.
    hook.answers("409 Conflict\r\n");
    let refused = rig.write("config/notify/hook/test", json!({})).await;
    refused.fails(400, "notify_rejected");
    rig.write("acme/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.tick().await;
    rig.tick().await;
    let read = rig.read("config/notify/hook").await.ok();
    assert_eq!(
        (read.get("delivered"), read.get("pending")),
        (&json!(1), &json!(0))
    );
    assert!(read.get("last_error").is_null(), "{:?}", read.data);
    assert_eq!(hook.posted().len(), 2);
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
