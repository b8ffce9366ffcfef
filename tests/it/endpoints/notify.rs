//! `config/notify`.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{
    Operation, ReplicationState, StaticSystemView, Storage as _,
};
use vault_plugin_secrets_smtp::notify::{ChannelConfig, Error};

use crate::support::engine::{Host, Rig};
use crate::support::faults::Plan;
use crate::support::notices::Does;
use crate::support::world::{World, simulate};

const PASSWORD: &str = "password-of-the-relay";
const SLACK_URL: &str = "https://hooks.chat.example/services/T0/B0/secret-of-the-chat";
const HMAC_KEY: &str = "key-of-the-signature";

fn email() -> Value {
    json!({
        "type": "email", "host": "smtp.ops.example", "username": "vault@ops.example",
        "password": PASSWORD, "from": "vault@ops.example", "to": ["oncall@ops.example"],
        "allowed_domains": ["Acme.example"],
    })
}

fn slack() -> Value {
    json!({ "type": "slack", "url": SLACK_URL })
}

fn webhook() -> Value {
    json!({ "type": "webhook", "url": "https://hooks.ops.example/smtp", "hmac_key": HMAC_KEY })
}

#[tokio::test]
async fn channels_are_written_read_listed_and_removed() {
    let rig = Rig::start().await;
    assert_eq!(rig.list("config/notify").await.status, 404);
    rig.write("config/notify/ops", email()).await.ok();
    rig.write("config/notify/chat", slack()).await.ok();
    rig.write("config/notify/hook", webhook()).await.ok();
    let listed = rig.list("config/notify").await.ok();
    assert_eq!(listed.data, json!({ "keys": ["chat", "hook", "ops"] }));
    rig.tick().await;
    let read = rig.read("config/notify/ops").await.ok();
    assert_eq!(
        read.data,
        json!({
            "name": "ops", "type": "email", "events": [], "host": "smtp.ops.example",
            "port": 587, "tls": "starttls", "tls_server_name": "", "ca_cert": "", "ehlo_name": "",
            "username": "vault@ops.example", "from": "vault@ops.example",
            "to": ["oncall@ops.example"], "allowed_domains": ["acme.example"],
            "written_at": "2026-09-21T14:13:20Z", "delivered": 0, "last_delivered_at": null,
            "pending": 0, "dead": 0, "last_error": null,
        })
    );
    let read = rig.read("config/notify/chat").await.ok();
    assert_eq!(read.get("url"), "https://hooks.chat.example:443");
    let read = rig.read("config/notify/hook").await.ok();
    assert_eq!(read.get("url"), "https://hooks.ops.example/smtp");
    rig.delete("config/notify/chat").await.ok();
    rig.delete("config/notify/chat").await.ok();
    assert_eq!(rig.read("config/notify/chat").await.status, 404);
    let body = json!({ "events": ["smtp_credentials_drift_detected"] });
    rig.patch("config/notify/hook", body).await.ok();
    let read = rig.read("config/notify/hook").await.ok();
    assert_eq!(
        read.get("events"),
        &json!(["smtp_credentials_drift_detected"])
    );
    rig.patch("config/notify/hook", json!({ "events": null }))
        .await
        .ok();
    assert_eq!(
        rig.read("config/notify/hook").await.get("events"),
        &json!([])
    );
}

#[tokio::test]
async fn every_write_is_an_event_before_and_after() {
    let rig = Rig::start().await;
    rig.write("config/notify/ops", email()).await.ok();
    rig.delete("config/notify/ops").await.ok();
    let log = rig.storage.get("mountlog").await.unwrap().unwrap();
    let log: Value = serde_json::from_slice(&log.value).unwrap();
    let events = log["log"]["events"].as_array().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["event"].as_str().unwrap(),
                event["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let change = [
        ("smtp_config_changed", "started"),
        ("smtp_config_changed", "success"),
    ];
    assert_eq!(told, [change, change].concat());
}

#[tokio::test]
async fn a_changed_endpoint_needs_its_secret_again() {
    let rig = Rig::start().await;
    rig.write("config/notify/ops", email()).await.ok();
    rig.write("config/notify/chat", slack()).await.ok();
    rig.write("config/notify/hook", webhook()).await.ok();
    let before = rig.storage.snapshot();
    let ca = rig.mailu.ca_pem().to_owned();
    for (channel, body) in [
        ("ops", json!({ "host": "smtp.evil.example" })),
        ("ops", json!({ "port": 2525 })),
        ("ops", json!({ "tls": "tls" })),
        ("ops", json!({ "tls_server_name": "smtp.evil.example" })),
        ("ops", json!({ "username": "somebody@ops.example" })),
        ("ops", json!({ "ca_cert": ca })),
        ("ops", json!({ "password": null })),
        ("chat", json!({ "ca_cert": ca })),
        ("hook", json!({ "url": "https://hooks.evil.example/smtp" })),
        ("hook", json!({ "ca_cert": ca })),
        (
            "hook",
            json!({ "type": "email", "host": "a.example", "username": "u", "from": "a@b.example", "to": ["c@d.example"] }),
        ),
    ] {
        let path = format!("config/notify/{channel}");
        rig.patch(&path, body).await.fails(400, "secret_required");
    }
    assert_eq!(rig.storage.snapshot(), before, "nothing was touched");
    // What does not lead elsewhere needs no secret, and with the secret everything may change.
    let body = json!({ "to": ["b@ops.example"], "from": "c@ops.example", "allowed_domains": [] });
    rig.patch("config/notify/ops", body).await.ok();
    let body = json!({ "host": "smtp.new.example", "tls": "tls", "password": "another" });
    rig.patch("config/notify/ops", body).await.ok();
    assert_eq!(rig.read("config/notify/ops").await.get("tls"), "tls");
    let body = json!({ "username": null });
    rig.patch("config/notify/ops", body).await.ok();
    rig.patch("config/notify/ops", json!({ "host": "smtp.open.example" }))
        .await
        .ok();
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

fn refused_mail() -> Vec<(Value, &'static str)> {
    vec![
        (json!({}), "missing_field"),
        (json!({ "type": "pigeon" }), "invalid_field"),
        (with(email(), "host", json!("")), "missing_field"),
        (
            with(email(), "host", json!("https://smtp.ops.example")),
            "invalid_channel",
        ),
        (
            with(email(), "host", json!("127.0.0.2.evil..")),
            "invalid_channel",
        ),
        (
            with(email(), "host", json!("169.254.169.254")),
            "invalid_channel",
        ),
        (with(email(), "host", json!("10.0.0.1")), "invalid_channel"),
        (with(email(), "tls", json!("none")), "invalid_channel"),
        (with(email(), "tls", json!("ssl")), "invalid_channel"),
        (with(email(), "from", json!("vault")), "invalid_channel"),
        (with(email(), "to", json!([])), "missing_field"),
        (
            with(email(), "to", json!(["a@b.example>,<c@d.example"])),
            "invalid_channel",
        ),
        (
            with(email(), "to", json!(vec!["a@b.example"; 21])),
            "invalid_channel",
        ),
        (
            with(email(), "allowed_domains", json!(["*.example"])),
            "invalid_channel",
        ),
        (
            with(email(), "allowed_domains", json!(["a@b.example"])),
            "invalid_channel",
        ),
        (with(email(), "username", json!("")), "missing_field"),
        (with(email(), "password", json!("a\r\nb")), "invalid_field"),
        (
            with(email(), "ca_cert", json!("garbage")),
            "invalid_channel",
        ),
        (
            with(email(), "events", json!(["rotated"])),
            "invalid_channel",
        ),
        (with(email(), "url", json!(SLACK_URL)), "invalid_field"),
        (
            with(
                slack(),
                "url",
                json!("https://hooks.chat.example/x#token=y"),
            ),
            "invalid_channel",
        ),
    ]
}

fn refused_web() -> Vec<(Value, &'static str)> {
    vec![
        (
            with(slack(), "url", json!("https://127.1.1.1.nip/ x")),
            "invalid_channel",
        ),
        (with(slack(), "url", json!("")), "missing_field"),
        (with(slack(), "hmac_key", json!(HMAC_KEY)), "invalid_field"),
        (with(webhook(), "hmac_key", json!("short")), "invalid_field"),
        (with(webhook(), "hmac_key", json!("")), "secret_required"),
        (
            with(webhook(), "url", json!("ftp://hooks.ops.example/smtp")),
            "invalid_channel",
        ),
        (
            with(webhook(), "to", json!(["a@b.example"])),
            "invalid_field",
        ),
    ]
}

#[tokio::test]
async fn what_channels_refuse() {
    let rig = Rig::start().await;
    rig.write("config/notify/ops", email()).await.ok();
    let before = rig.storage.snapshot();
    for (body, code) in refused_mail().into_iter().chain(refused_web()) {
        let shown = body.to_string();
        let answer = rig.write("config/notify/new", body).await;
        assert_eq!(answer.code, code, "{shown}: {}", answer.text);
        assert_eq!(answer.status, 400);
        for secret in [PASSWORD, "secret-of-the-chat", HMAC_KEY] {
            assert!(!answer.text.contains(secret), "{shown}: {}", answer.text);
        }
    }
    for name in ["Ops", "-ops", "o ps", "ops.x"] {
        let path = format!("config/notify/{name}");
        rig.write(&path, slack())
            .await
            .fails(400, "invalid_channel");
    }
    rig.patch("config/notify/new", slack())
        .await
        .fails(404, "unknown_channel");
    rig.write("config/notify/new/test", json!({}))
        .await
        .fails(404, "unknown_channel");
    assert_eq!(rig.storage.snapshot(), before);
}

#[tokio::test]
async fn there_are_at_most_twenty() {
    let rig = Rig::start().await;
    for number in 0..20 {
        let path = format!("config/notify/chat-{number}");
        rig.write(&path, slack()).await.ok();
    }
    let full = rig.write("config/notify/more", slack()).await;
    full.fails(400, "too_many_channels");
    rig.write("config/notify/chat-7", slack()).await.ok();
    rig.delete("config/notify/chat-7").await.ok();
    rig.write("config/notify/more", slack()).await.ok();
}

#[tokio::test]
async fn standbys_read_and_forward_writes() {
    let rig = Rig::start().await;
    rig.write("config/notify/ops", email()).await.ok();
    let standby = rig.process(StaticSystemView {
        replication_state: ReplicationState(0x200),
        ..StaticSystemView::default()
    });
    rig.storage.set_read_only(true);
    let before = rig.storage.snapshot();
    for (operation, path) in [
        (Operation::Update, "config/notify/ops"),
        (Operation::Patch, "config/notify/ops"),
        (Operation::Create, "config/notify/new"),
        (Operation::Delete, "config/notify/ops"),
        (Operation::Update, "config/notify/ops/test"),
    ] {
        standby
            .send(operation, path, email())
            .await
            .fails(0, "read_only");
    }
    let read = standby.read("config/notify/ops").await.ok();
    assert_eq!(read.get("pending"), &Value::Null);
    standby.list("config/notify").await.ok();
    assert_eq!(rig.storage.snapshot(), before);
}

async fn channels(world: &World, host: &Host) {
    for (name, body) in [("chat", slack()), ("hook", webhook()), ("ops", email())] {
        host.write(&format!("config/notify/{name}"), body)
            .await
            .ok();
    }
    assert!(
        world
            .storage
            .get("config/notify/ops")
            .await
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_test_is_sent_now_and_says_what_is_wrong() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        channels(&world, &host).await;
        let sent = host.write("config/notify/ops/test", json!({})).await.ok();
        assert_eq!(sent.get("delivered"), true);
        assert_eq!(world.notices.story(), ["ops test"]);
        let ChannelConfig::Email(used) = world.notices.last_config() else {
            panic!("another channel");
        };
        assert_eq!(used.login.unwrap().password.expose(), PASSWORD);
        for (error, code) in [
            (Error::LoginRefused, "notify_login_refused"),
            (Error::Denied, "notify_denied"),
            (Error::Failing, "notify_failing"),
            (Error::Busy { retry_after: None }, "notify_busy"),
        ] {
            world.notices.let_it("chat", Does::Fails(error));
            let answer = host.write("config/notify/chat/test", json!({})).await;
            answer.fails(400, code);
        }
    });
}

/// Clients repeat a 503 by themselves: the repeats join the message that is under way.
#[test]
fn a_test_that_takes_long_is_one_message_however_often_it_is_repeated() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        channels(&world, &host).await;
        world.notices.let_it("hook", Does::Hangs);
        for _ in 0..3 {
            let answer = host.write("config/notify/hook/test", json!({})).await;
            answer.fails(503, "not_stored");
        }
        assert_eq!(world.notices.attempts("hook"), 1);
        // Once somebody mended the channel it is another test.
        world.notices.mend("hook");
        host.patch("config/notify/hook", json!({})).await.ok();
        host.write("config/notify/hook/test", json!({})).await.ok();
        assert_eq!(world.notices.story(), ["hook test"]);
        // And each one after that.
        host.write("config/notify/hook/test", json!({})).await.ok();
        assert_eq!(world.notices.story(), ["hook test", "hook test"]);
    });
}

/// Written with an older key, a channel works on, is sealed anew, and holds a trim up until then.
#[test]
fn a_rotation_of_the_keyring_renews_the_channels() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        channels(&world, &host).await;
        host.write("config/keyring/rotate", json!({})).await.ok();
        let usage = host.read("config/keyring").await.ok();
        assert_eq!(usage.get("versions")[0]["channels"], 3);
        assert_eq!(usage.get("versions")[1]["channels"], 0);
        host.write("config/keyring/trim", json!({}))
            .await
            .fails(409, "rewrap_unfinished");
        host.tick().await;
        let usage = host.read("config/keyring").await.ok();
        assert_eq!(usage.get("versions")[0]["channels"], 0, "{:?}", usage.data);
        assert_eq!(usage.get("versions")[1]["channels"], 3);
        host.write("config/keyring/trim", json!({})).await.ok();
        let after = world.sound_process();
        after.write("config/notify/ops/test", json!({})).await.ok();
        after.write("config/notify/hook/test", json!({})).await.ok();
        assert_eq!(world.notices.story(), ["ops test", "hook test"]);
    });
}

/// What is moved to another channel, or given another endpoint behind the engine's back, does not
/// open.
#[test]
fn a_channel_that_was_moved_or_altered_does_not_open() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        channels(&world, &host).await;
        let entry = world
            .storage
            .get("config/notify/hook")
            .await
            .unwrap()
            .unwrap();
        let text = String::from_utf8(entry.value.clone()).unwrap();
        for (key, altered) in [
            (
                "config/notify/hook",
                text.replace("hooks.ops", "hooks.evil"),
            ),
            ("config/notify/moved", text.replace("\"hook\"", "\"moved\"")),
        ] {
            let mut entry = entry.clone();
            entry.key = key.to_owned();
            entry.value = altered.into_bytes();
            world.storage.put(entry).await.unwrap();
            let path = format!("{key}/test");
            let fresh = world.sound_process();
            fresh
                .write(&path, json!({}))
                .await
                .fails(500, "secret_unreadable");
        }
        assert!(world.notices.delivered().is_empty());
    });
}

/// No secret of a channel is in storage in clear, in an answer, or in what is debugged.
#[test]
fn no_secret_of_a_channel_shows() {
    simulate(async {
        let world = World::new();
        let host = world.process(&Plan::simulated());
        channels(&world, &host).await;
        world.configure(&host, "acme").await;
        let body =
            json!({ "username": "smtp-admin@example.test", "admin_emails": ["a@acme.example"] });
        host.write("acme/admin", body).await.ok();
        world.notices.let_it("chat", Does::Fails(Error::Denied));
        world.later(3600).await;
        host.write("acme/rotate", json!({})).await.ok();
        host.tick().await;
        assert_eq!(
            world.notices.story().len(),
            3,
            "{:?}",
            world.notices.story()
        );
        let mut shown = host.debugged.lock().unwrap().clone();
        for name in ["ops", "chat", "hook"] {
            let read = host.read(&format!("config/notify/{name}")).await.ok();
            shown.push_str(&read.data.to_string());
        }
        shown.push_str(&format!("{:?}", world.notices.last_config()));
        shown.push_str(&format!("{:?}", world.notices.delivered()));
        for entry in world.storage.snapshot().entries() {
            shown.push_str(&String::from_utf8_lossy(&entry.value));
        }
        let passwords = world.stored("acme").await;
        let passwords = passwords.values().map(String::as_str);
        for secret in passwords.chain([PASSWORD, "secret-of-the-chat", HMAC_KEY]) {
            assert!(!shown.contains(secret), "{secret}");
        }
    });
}
