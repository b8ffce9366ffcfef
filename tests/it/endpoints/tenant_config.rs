//! `<tenant>/config`.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::StaticSystemView;
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{EMAIL, Host, Rig, parts};
use crate::support::mailu::standin::{Config, HashShown, MailuStandin};

#[tokio::test]
async fn the_server_is_read_back_without_its_token() {
    let rig = Rig::configured().await;
    let read = rig.read("acme/config").await.ok();
    let expected = json!({
        "mailu_url": rig.mailu.url(),
        "ca_cert": rig.mailu.ca_pem().trim(),
        "tls_server_name": "",
        "smtp_address": "",
        "request_timeout": 10,
        "verify_smtp": false,
    });
    assert_eq!(read.data, expected);
    // The same again is no event.
    rig.configure("acme").await;
    assert_eq!(rig.story("acme").await, ["smtp_tenant_config_changed"]);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "every field in every way")]
async fn every_change_of_the_endpoint_needs_the_token() {
    let rig = Rig::configured().await;
    let all = json!({
        "tls_server_name": "mail.example.test",
        "smtp_address": "mail.example.test:465",
        "api_token": rig.mailu.token(),
    });
    rig.write("acme/config", all).await.ok();
    let before = rig.storage.snapshot();
    for field in ["mailu_url", "ca_cert", "tls_server_name", "smtp_address"] {
        let other = match field {
            "mailu_url" => json!("https://elsewhere.test"),
            "ca_cert" => json!(
                MailuStandin::start(Config::default())
                    .await
                    .unwrap()
                    .ca_pem()
            ),
            "tls_server_name" => json!("elsewhere.test"),
            _ => json!("elsewhere.test:587"),
        };
        let empty = if field == "mailu_url" {
            None
        } else {
            Some(json!(""))
        };
        for value in [Some(other), empty].into_iter().flatten() {
            let change = json!({ field: value });
            rig.write("acme/config", change.clone())
                .await
                .fails(400, "token_required");
            rig.patch("acme/config", change)
                .await
                .fails(400, "token_required");
        }
        if field != "mailu_url" {
            rig.patch("acme/config", json!({ field: null }))
                .await
                .fails(400, "token_required");
        }
        let with_empty_token = json!({ field: "", "api_token": "" });
        let refused = rig.write("acme/config", with_empty_token).await;
        assert_eq!(refused.status, 400);
    }
    rig.write("acme/config", json!({ "mailu_url": "", "api_token": "t" }))
        .await
        .fails(400, "missing_field");
    assert_eq!(rig.storage.snapshot(), before);
    // What is no endpoint needs none.
    let body = json!({ "request_timeout": "30s", "verify_smtp": true });
    rig.patch("acme/config", body).await.ok();
    let read = rig.read("acme/config").await;
    assert_eq!(read.get("request_timeout"), 30);
    assert_eq!(read.get("smtp_address"), "mail.example.test:465");
    rig.write(
        "new/config",
        json!({ "mailu_url": "https://elsewhere.test" }),
    )
    .await
    .fails(400, "token_required");
    rig.write("new/config", json!({ "api_token": "t" }))
        .await
        .fails(400, "missing_field");
}

#[tokio::test]
async fn what_a_server_must_look_like() {
    let rig = Rig::start().await;
    let url = rig.mailu.url();
    for body in [
        json!({ "mailu_url": "no url" }),
        json!({ "mailu_url": "ftp://mail.example.test" }),
        json!({ "mailu_url": "https://u:p@mail.example.test" }),
        json!({ "mailu_url": "https://mail.example.test?x=1" }),
        json!({ "mailu_url": url, "ca_cert": "no pem" }),
        json!({ "mailu_url": url, "tls_server_name": "no name" }),
        json!({ "mailu_url": url, "smtp_address": "no-port" }),
        json!({ "mailu_url": url, "smtp_address": "host:0" }),
    ] {
        let mut body = body;
        body["api_token"] = json!("t");
        rig.write("acme/config", body)
            .await
            .fails(400, "invalid_server");
    }
    let long_url = format!("https://x.test/{}", "x".repeat(2048));
    for (name, value, code) in [
        ("request_timeout", json!(0), "invalid_field"),
        ("request_timeout", json!(61), "invalid_field"),
        ("verify_smtp", json!("perhaps"), "invalid_field"),
        ("api_token", json!("a\nb"), "invalid_field"),
        ("api_token", json!("x".repeat(1025)), "too_long"),
        ("api_token", json!(7), "invalid_field"),
        ("mailu_url", json!("https://x.test/\u{0}"), "invalid_field"),
        ("mailu_url", json!(long_url), "too_long"),
        ("ca_cert", json!("x".repeat(65 * 1024)), "too_long"),
        ("ca_cert", json!("a\u{0}"), "invalid_field"),
    ] {
        let mut body = json!({ "mailu_url": url, "api_token": "t" });
        body[name] = value;
        rig.write("acme/config", body).await.fails(400, code);
    }
    assert_eq!(rig.read("acme/config").await.status, 404);
}

/// A process without the development variable.
fn strict(rig: &Rig) -> Host {
    let mut parts = parts(&rig.clock, connector());
    parts.dev_loopback = false;
    let storage = std::sync::Arc::clone(&rig.storage) as _;
    Host::new(parts, storage, StaticSystemView::default())
}

#[tokio::test]
async fn addresses_that_are_not_allowed_are_refused_when_written() {
    let rig = Rig::start().await;
    let host = strict(&rig);
    for url in [
        "http://mail.example.test",
        "https://127.0.0.1",
        "https://[::1]:8443",
        "https://0.0.0.0",
        "https://169.254.169.254",
        "https://10.1.2.3",
        "https://192.168.1.1",
        "https://[fe80::1]",
        "https://[::ffff:127.0.0.1]",
        "https://224.0.0.1",
        "https://2130706433",
    ] {
        let body = json!({ "mailu_url": url, "api_token": "t" });
        host.write("acme/config", body)
            .await
            .fails(400, "invalid_server");
    }
    let body = json!({ "allowed_hosts": ["10.0.0.0/8", "127.0.0.0/8"] });
    host.write("config", body).await.ok();
    for (url, status) in [
        ("https://10.1.2.3", 204),
        ("https://10.1.2.4", 204),
        ("https://192.168.1.1", 400),
        ("https://127.0.0.1", 400),
    ] {
        let body = json!({ "mailu_url": url, "api_token": "t" });
        let written = host.write("acme/config", body).await;
        assert_eq!(written.status, status, "{url} {written:?}");
    }
}

#[tokio::test]
async fn a_process_for_development_speaks_plain_http_to_this_machine_alone() {
    let rig = Rig::start().await;
    let body = json!({ "allowed_hosts": ["10.0.0.0/8", "*.example.test"] });
    rig.write("config", body).await.ok();
    for (url, status) in [
        ("http://mail.example.test", 400),
        ("http://10.1.2.3", 400),
        ("http://[fd00::1]:8080", 400),
        ("http://localhost.example.test", 400),
        ("http://127.0.0.1:8080", 204),
        ("http://localhost", 204),
        ("http://[::1]", 204),
        ("https://10.1.2.3", 204),
    ] {
        let body = json!({ "mailu_url": url, "api_token": "t" });
        let written = rig.write("acme/config", body).await;
        assert_eq!(written.status, status, "{url} {written:?}");
        let hook =
            json!({ "type": "webhook", "url": format!("{url}/x"), "hmac_key": "k".repeat(32) });
        let written = rig.write("config/notify/hook", hook).await;
        assert_eq!(written.status, status, "{url} {written:?}");
    }
}

#[tokio::test]
async fn names_that_lead_to_loopback_are_refused_when_connecting() {
    let rig = Rig::start().await;
    let host = strict(&rig);
    let written = host.write("acme/config", rig.server()).await;
    if written.status == 204 {
        let body = json!({ "username": EMAIL });
        host.write("acme/admin", body)
            .await
            .fails(400, "address_refused");
    } else {
        written.fails(400, "invalid_server");
    }
    assert!(rig.mailu.journal().is_empty());
}

#[tokio::test]
async fn another_server_is_for_rehome() {
    let rig = Rig::created().await;
    let other = Rig::start().await;
    let before = rig.read("acme/config").await.ok().data;
    let server = json!({
        "mailu_url": other.mailu.url(),
        "ca_cert": other.mailu.ca_pem(),
        "api_token": other.mailu.token(),
    });
    rig.write("acme/config", server.clone())
        .await
        .fails(409, "use_rehome");
    other.mailu.delete(EMAIL);
    rig.write("acme/config", server.clone())
        .await
        .fails(409, "use_rehome");
    // The right account and a hash that cannot be checked prove nothing.
    other
        .mailu
        .set_password_directly(EMAIL, &rig.password().await);
    other.mailu.set_hash_shown(HashShown::Hidden);
    rig.write("acme/config", server.clone())
        .await
        .fails(409, "use_rehome");
    other.mailu.set_admin_down(true);
    rig.write("acme/config", server.clone())
        .await
        .fails(503, "mailu_unreachable");
    other.mailu.set_admin_down(false);
    other.mailu.set_hash_shown(HashShown::Real);
    // What is known of that server, its token, is no part of the tenant.
    let after = rig.read("acme/config").await.ok().data;
    assert_eq!(after, before);
    // That somebody tried is told, and counted from then on.
    let story = rig.story("acme").await;
    let told = story
        .iter()
        .filter(|it| *it == "rotation_failed(use_rehome)");
    assert_eq!(told.count(), 1, "{story:?}");
    let status = rig.read("acme/status").await.ok();
    let kinds = status.get("failures").as_array().unwrap();
    let kind = kinds.iter().find(|kind| kind["code"] == "use_rehome");
    assert_eq!(kind.map(|kind| kind["count"].clone()), Some(json!(3)));
    for entry in other.mailu.journal() {
        assert_eq!(entry.password_sha256, None, "no password left the house");
    }
    // It turns out to be the same one.
    rig.write("acme/config", server).await.ok();
    assert_eq!(
        rig.read("acme/config").await.get("mailu_url"),
        &json!(other.mailu.url())
    );
    rig.check_pointers("acme").await;
}

#[tokio::test]
async fn the_same_server_under_another_name_keeps_the_password() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(3600);
    let second = rig.settled().await;
    let mut server = rig.server();
    server["mailu_url"] = json!(rig.mailu.url().replace("localhost", "127.0.0.1"));
    rig.write("acme/config", server.clone()).await.ok();
    assert_eq!(rig.settled().await, second);
    // And under another CA: its bundle grew by one.
    let other = MailuStandin::start(Config::default()).await.unwrap();
    server["ca_cert"] = json!(format!("{}{}", rig.mailu.ca_pem(), other.ca_pem()));
    rig.write("acme/config", server.clone()).await.ok();
    assert_eq!(rig.settled().await, second);
    // One that does not fit is no proof.
    server["ca_cert"] = json!(other.ca_pem());
    rig.write("acme/config", server)
        .await
        .fails(400, "mailu_tls");
    // Every version was taken over, and the password still changes.
    rig.mailu.set_password_directly(EMAIL, &old);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 1);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
    // A new token alone is asked nothing and used from then on.
    rig.mailu.set_token("the-next-token");
    rig.later(3600);
    rig.write("acme/rotate", json!({}))
        .await
        .fails(400, "mailu_token_refused");
    let calls = rig.mailu.journal().len();
    rig.write("acme/config", json!({ "api_token": "the-next-token" }))
        .await
        .ok();
    assert_eq!(rig.mailu.journal().len(), calls);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}

/// Its server's name or certificate may be what stands in the way of its settling.
#[tokio::test]
async fn an_endpoint_changes_under_an_open_change_if_it_is_the_same_server() {
    use crate::support::mailu::standin::{Fault, Rule};
    for (fault, settle) in [(Fault::CutAfter, "verify"), (Fault::CutBefore, "tick")] {
        let rig = Rig::created().await;
        rig.mailu.fault(Rule::new(fault.clone()).method("PATCH"));
        rig.mailu
            .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
        rig.write("acme/rotate", json!({}))
            .await
            .fails(503, "mailu_unreachable");
        let elsewhere = MailuStandin::start(Config::default().user(EMAIL, "another"));
        let elsewhere = elsewhere.await.unwrap();
        let other = json!({
            "mailu_url": elsewhere.url(),
            "ca_cert": elsewhere.ca_pem(),
            "api_token": elsewhere.token(),
        });
        rig.write("acme/config", other)
            .await
            .fails(409, "use_rehome");
        let mut server = rig.server();
        server["mailu_url"] = json!(rig.mailu.url().replace("localhost", "127.0.0.1"));
        rig.write("acme/config", server).await.ok();
        rig.mailu.set_token("the-next-token");
        rig.write("acme/config", json!({ "api_token": "the-next-token" }))
            .await
            .ok();
        if settle == "tick" {
            rig.tick().await;
        } else {
            rig.write("acme/verify", json!({})).await.ok();
        }
        rig.settled().await;
        assert_eq!(rig.read("acme/admin").await.get("version"), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_token_that_does_not_open_is_replaced_by_the_one_given() {
    use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};
    let rig = Rig::created().await;
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    let foreign = record["credential"]["versions"][0]["password"].clone();
    record["server"]["api_token"] = foreign;
    let entry = StorageEntry::new("tenant/acme", serde_json::to_vec(&record).unwrap());
    rig.storage.put(entry).await.unwrap();
    rig.write("acme/verify", json!({}))
        .await
        .fails(500, "secret_unreadable");
    rig.configure("acme").await;
    rig.write("acme/verify", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_taken_account_is_not_taken_by_a_changed_server() {
    let rig = Rig::created().await;
    let import = json!({ "username": EMAIL, "password": rig.password().await });
    rig.write("other/admin", import).await.ok();
    rig.write("other/config", rig.server())
        .await
        .fails(409, "account_taken");
    assert_eq!(rig.read("other/config").await.status, 404);
    rig.settled().await;
}

#[tokio::test]
async fn a_server_goes_only_without_a_credential() {
    let rig = Rig::created().await;
    rig.delete("acme/config")
        .await
        .fails(409, "credential_exists");
    rig.delete("acme/admin").await.ok();
    rig.delete("acme/config")
        .await
        .fails(409, "credential_exists");
    let body = json!({ "reason": "over", "confirm": "acme" });
    rig.write("acme/destroy", body).await.ok();
    assert_eq!(rig.read("acme/config").await.status, 200);
    rig.delete("acme/config").await.ok();
    assert_eq!(rig.read("acme/config").await.status, 404);
    rig.delete("acme/config").await.ok();
    let record = rig.record("acme").await.unwrap();
    assert_eq!(record.server, None);
    rig.check_pointers("acme").await;
    let null = rig.read("acme/admin").await;
    assert_eq!((null.status, null.data), (404, Value::Null));
}
