//! What holds wherever a host or a mail address is written: one grammar, one spelling that is kept.

use serde_json::{Value, json};

use crate::support::engine::Rig;
use crate::support::faults::Plan;
use crate::support::mailu::standin::Config;
use crate::support::world::{World, simulate};

/// What is written, and what is kept of it.
const SPELLINGS: [(&str, &str); 7] = [
    ("mail.acme.example", "mail.acme.example"),
    ("Mail.ACME.example", "mail.acme.example"),
    ("mail.acme.example.", "mail.acme.example"),
    (" mail.acme.example ", "mail.acme.example"),
    ("m\u{fc}ller.example", "xn--mller-kva.example"),
    ("M\u{dc}LLER.example.", "xn--mller-kva.example"),
    ("xn--mller-kva.example", "xn--mller-kva.example"),
];

fn mail(change: &Value) -> Value {
    let mut body = json!({
        "type": "email", "host": "smtp.ops.example", "from": "vault@ops.example",
        "to": ["oncall@ops.example"],
    });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn server(change: &Value) -> Value {
    let mut body = json!({ "mailu_url": "https://mail.acme.example", "api_token": "t" });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_host_has_one_grammar_in_every_field() {
    simulate(async {
        let world = World::new();
        let host = world.process(&Plan::simulated());
        for (given, kept) in SPELLINGS {
            let bare = given.trim();
            let body = server(&json!({
                "mailu_url": format!("https://{bare}:8443/"), "tls_server_name": given,
                "smtp_address": format!("{bare}:465"),
            }));
            host.write("acme/config", body.clone()).await.ok();
            let read = host.read("acme/config").await.ok();
            assert_eq!(read.get("mailu_url"), &format!("https://{kept}:8443"));
            assert_eq!(read.get("tls_server_name"), kept, "{given}");
            assert_eq!(read.get("smtp_address"), &format!("{kept}:465"));
            // The same again, in another spelling or not, is no other endpoint.
            let mut same = body;
            same.as_object_mut().unwrap().remove("api_token");
            host.write("acme/config", same).await.ok();
            let body = mail(&json!({
                "host": given, "tls_server_name": given, "ehlo_name": given,
                "from": format!("vault@{bare}"), "to": [format!("on'call@{bare}")],
                "allowed_domains": [given],
            }));
            host.write("config/notify/ops", body).await.ok();
            let read = host.read("config/notify/ops").await.ok();
            for field in ["host", "tls_server_name", "ehlo_name"] {
                assert_eq!(read.get(field), kept, "{field} {given}");
            }
            assert_eq!(read.get("allowed_domains"), &json!([kept]));
            for field in [read.text_of("from"), read.get("to")[0].as_str().unwrap()] {
                let domain = field.split_once('@').unwrap().1;
                assert!(domain.eq_ignore_ascii_case(kept), "{field} {given}");
            }
            let hook = json!({
                "type": "webhook", "url": format!("https://{bare}:8443/hook"),
                "hmac_key": "key-of-the-signature",
            });
            host.write("config/notify/hook", hook).await.ok();
            let read = host.read("config/notify/hook").await.ok();
            assert_eq!(read.get("url"), &format!("https://{kept}:8443/hook"));
            let allowed = json!({ "allowed_hosts": [given, format!("*.{bare}")] });
            host.write("config", allowed).await.ok();
            let to_it = server(&json!({ "mailu_url": format!("https://{kept}") }));
            host.write("beta/config", to_it).await.ok();
            let below = server(&json!({ "mailu_url": format!("https://a.{bare}") }));
            host.write("beta/config", below).await.ok();
            host.write("config", json!({ "allowed_hosts": [] }))
                .await
                .ok();
        }
    });
}

/// With and without brackets, where no port follows; a name is asked for where an address is none.
#[test]
fn an_address_is_written_with_or_without_brackets() {
    simulate(async {
        let world = World::new();
        let host = world.process(&Plan::simulated());
        for (given, kept, allowed) in [
            ("2606:4700::1111", "2606:4700::1111", "[2606:4700::1111]"),
            ("[2606:4700::1111]", "2606:4700::1111", "2606:4700::/32"),
            ("[2606:4700:0::1111]", "2606:4700::1111", "[2606:4700::]/32"),
            ("1.1.1.1", "1.1.1.1", "1.1.1.1"),
        ] {
            let rules = json!({ "allowed_hosts": [allowed] });
            host.write("config", rules).await.ok();
            let body = mail(&json!({ "host": given }));
            host.write("config/notify/ops", body).await.ok();
            let read = host.read("config/notify/ops").await.ok();
            assert_eq!(read.get("host"), kept);
        }
        host.write("config", json!({ "allowed_hosts": [] }))
            .await
            .ok();
        // Every spelling of what is never called is never called.
        for never in [
            "::1",
            "[::1]",
            "localhost.",
            "LOCALHOST",
            "127.0.0.1",
            "[::ffff:127.0.0.1]",
        ] {
            let body = mail(&json!({ "host": never }));
            let refused = host.write("config/notify/ops", body).await;
            let refused = refused.fails(400, "invalid_channel");
            assert!(refused.text.contains("loopback"), "{}", refused.text);
        }
    });
}

/// A text names the field and how a host is written.
#[test]
fn what_is_no_host_is_refused_and_told_how_to_write_it() {
    simulate(async {
        let world = World::new();
        let host = world.process(&Plan::simulated());
        let ops = async |change: Value| {
            let refused = host.write("config/notify/ops", mail(&change)).await;
            refused.fails(400, "invalid_channel").text
        };
        for no_host in [
            "a b",
            "127.1",
            "xn--a.example",
            "m%C3%BCller.example",
            "a..b",
        ] {
            let address = format!("a@{no_host}");
            for (field, value) in [
                ("host", no_host),
                ("tls_server_name", no_host),
                ("ehlo_name", no_host),
                ("allowed_domains", no_host),
                ("from", address.as_str()),
                ("to", address.as_str()),
            ] {
                let told = ops(json!({ field: value })).await;
                assert!(told.contains(field), "{no_host}: {told}");
            }
            for (field, value) in [
                ("mailu_url", format!("https://{no_host}/")),
                ("smtp_address", format!("{no_host}:465")),
                ("tls_server_name", no_host.to_owned()),
            ] {
                let body = server(&json!({ field: value }));
                let told = host.write("acme/config", body).await;
                let told = told.fails(400, "invalid_server").text;
                assert!(told.contains(field), "{no_host}: {told}");
            }
            let rules = json!({ "allowed_hosts": [no_host] });
            let told = host.write("config", rules).await;
            assert!(told.fails(400, "invalid_config").text.contains("xn--"));
        }
        assert!(ops(json!({ "host": "a b" })).await.contains("xn--"));
        assert!(ops(json!({ "port": 65_536 })).await.contains("`port`"));
    });
}

/// What Mailu takes before the `@` is taken, and is the same account in every call.
#[tokio::test]
async fn an_account_may_have_every_name_that_mailu_takes() {
    for name in [
        "o'brien",
        "a%b",
        "r&d",
        "100%25",
        "a#b?c=d",
        "{x}|~`^!$*",
        "J.D_e-f+g",
    ] {
        let account = format!("{name}@example.test");
        let rig = Rig::with(Config::default().user(&account, "first")).await;
        rig.configure("acme").await;
        let body = json!({ "username": format!(" {account}"), "admin_emails": [account] });
        rig.write("acme/admin", body).await.ok();
        rig.later(3600);
        rig.write("acme/rotate", json!({})).await.ok();
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(
            (read.get("username"), read.get("state")),
            (&json!(account), &json!("settled"))
        );
        let password = read.text_of("password");
        assert!(rig.mailu.password_fits(&account, password), "{account}");
        rig.write(
            "acme/reset",
            json!({ "incident_id": "INC-7", "reason": "test" }),
        )
        .await
        .ok();
        let verified = rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(verified.get("state"), "settled", "{account}");
    }
    let rig = Rig::start().await;
    for name in [
        "a/b", "a b", "\"a\"", "a@b", "", "\u{e4}", "a\\b", "a,b", "<a>",
    ] {
        let body = json!({ "username": format!("{name}@example.test") });
        let refused = rig.write("beta/admin", body).await;
        refused.fails(400, "invalid_field");
    }
}
