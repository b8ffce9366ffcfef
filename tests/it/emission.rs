//! Every event reaches the audit devices, at least once and in order, whatever fails on the way.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::host_api::Error;
use vault_plugin_secrets_smtp::logical::{Operation, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::network::{Fault as Net, TlsFault};

use crate::support::devices::Does;
use crate::support::engine::Host;
use crate::support::faults::{Interruption, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, FIRST, SERVER, World, simulate};

const WAY: &str = "config/audit";

fn way() -> Value {
    json!({
        "address": "https://127.0.0.1:8200", "role_id": "role-of-the-emitter",
        "secret_id": "secret-of-the-emitter",
    })
}

/// `acme` has a credential; nobody has said how events reach the devices.
async fn world() -> (World, Host, Plan) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    world.configure(&host, "acme").await;
    host.write("acme/admin", json!({ "username": ACCOUNT }))
        .await
        .ok();
    world.quiet(&host, "acme").await;
    world.later(3600).await;
    (world, host, plan)
}

/// The same, and everything so far was delivered.
async fn delivering() -> (World, Host, Plan) {
    let (world, host, plan) = world().await;
    host.write(WAY, way()).await.ok();
    tick(&world, &host).await;
    all_delivered(&world, &host, "at the start").await;
    (world, host, plan)
}

async fn tick(world: &World, host: &Host) {
    world.later(60).await;
    host.tick().await;
}

async fn rotate(world: &World, host: &Host) {
    world.later(3600).await;
    host.write("acme/rotate", json!({ "reason": "why" }))
        .await
        .ok();
    host.backend.idle().await;
}

async fn add_tenant(world: &World, host: &Host, tenant: &str) {
    let account = format!("smtp-{tenant}@example.test");
    world.mail.put(SERVER, &account, Mailbox::new(FIRST));
    world.configure(host, tenant).await;
    host.write(&format!("{tenant}/admin"), json!({ "username": account }))
        .await
        .ok();
    world.quiet(host, tenant).await;
}

async fn pointers(world: &World) -> Vec<String> {
    world.storage.list("undelivered/").await.unwrap()
}

async fn audit(host: &Host) -> (String, Value) {
    let status = host.read("status").await.ok();
    let word = status.text_of("audit").to_owned();
    (word, status.get("audit_delivery").clone())
}

/// Asserts that every stored event is in the devices, and nothing else is.
async fn all_delivered(world: &World, host: &Host, what: &str) {
    let lines = world.devices.lines();
    let tenants = world.storage.list("tenant/").await.unwrap();
    let mut stored = 0;
    for tenant in &tenants {
        for event in host.events(tenant).await {
            let told = lines.iter().any(|line| line["hash"] == event["hash"]);
            assert!(told, "{what}: {tenant} {event:#}");
            assert_eq!(event["delivered"], true, "{what}: {tenant} {event:#}");
            stored += 1;
        }
    }
    let of_mount = host
        .send(
            Operation::Read,
            "events",
            json!({ "tenant": "-", "limit": 200 }),
        )
        .await;
    for event in of_mount.get("events").as_array().unwrap() {
        let told = lines.iter().any(|line| line["hash"] == event["hash"]);
        assert!(told, "{what}: {event:#}");
        stored += 1;
    }
    let mut hashes: Vec<&str> = lines.iter().filter_map(|it| it["hash"].as_str()).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), stored, "{what}: nothing that is not stored");
    assert_eq!(pointers(world).await, [""; 0], "{what}");
    world.devices.check_chains(what);
}

#[test]
fn every_event_is_delivered_in_order_and_nothing_waits_for_that() {
    simulate(async {
        let (world, host, _) = world().await;
        // Without a way nothing is asked of anybody, and nothing is forgotten.
        assert_eq!(world.devices.calls(), [""; 0]);
        assert_eq!(audit(&host).await.0, "unproven");
        assert_eq!(pointers(&world).await, ["acme"]);
        host.write(WAY, way()).await.ok();
        host.backend.idle().await;
        assert_eq!(
            world.devices.story(),
            [
                "acme/1 smtp_tenant_config_changed",
                "acme/2 rotation_started",
                "acme/3 stored",
                "-/1 smtp_config_changed",
                "-/2 smtp_config_changed",
            ]
        );
        all_delivered(&world, &host, "after the first write").await;
        let (word, delivery) = audit(&host).await;
        assert_eq!(word, "delivering");
        assert_eq!(delivery["undelivered"], 0);
        // Opened once to be checked, and once to be used.
        let opened = world.devices.configs().pop().unwrap();
        assert_eq!(opened.address.as_str(), "https://127.0.0.1:8200");
        let shown = format!("{opened:?}");
        assert!(!shown.contains("secret-of-the-emitter"), "{shown}");
        // What a request does is delivered without a tick.
        rotate(&world, &host).await;
        all_delivered(&world, &host, "after a rotation").await;
        let line = world.devices.lines().pop().unwrap();
        assert_eq!(line["event"], "smtp_credentials_rotated");
        assert_eq!(line["replayed"], false);
        assert_eq!(line["tenant_id"], "acme");
        // A quiet tick asks nobody.
        let calls = world.devices.calls().len();
        tick(&world, &host).await;
        assert_eq!(world.devices.calls().len(), calls);
    });
}

/// The plugin's process is killed after the answer and before the acknowledgement.
#[test]
fn what_is_not_acknowledged_is_told_again_with_the_same_identifier() {
    simulate(async {
        let (world, host, plan) = delivering().await;
        let told = world.devices.lines().len();
        let key = "put trail/acme/00000000000000000004";
        plan.arm_named(key, 0, Kind::Crash, false);
        let crashed = tokio::select! {
            () = rotate(&world, &host) => false,
            () = plan.crashed() => true,
        };
        assert!(crashed);
        assert_eq!(world.devices.lines().len(), told + 1);
        let host = world.sound_process();
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "after the kill").await;
        let lines = world.devices.lines();
        let fourth = |line: &&Value| line["tenant_id"] == "acme" && line["seq"] == 4;
        let mut fourth: Vec<Value> = lines.iter().filter(fourth).cloned().collect();
        assert_eq!(fourth.len(), 2);
        let receipts = fourth
            .iter_mut()
            .map(|line| line.as_object_mut().unwrap().remove("receipt"));
        let receipts: Vec<Option<Value>> = receipts.collect();
        assert_ne!(receipts[0], receipts[1], "each answer has its own");
        assert_eq!(fourth[0], fourth[1], "the same event, not replayed");
    });
}

#[test]
fn an_answer_that_got_lost_is_asked_for_again() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.next([Does::LosesAnswer, Does::Hangs]);
        rotate(&world, &host).await;
        tick(&world, &host).await;
        all_delivered(&world, &host, "after lost answers").await;
        let seqs: Vec<u64> = world
            .devices
            .lines()
            .iter()
            .filter(|line| line["tenant_id"] == "acme")
            .filter_map(|line| line["seq"].as_u64())
            .collect();
        assert_eq!(seqs, [1, 2, 3, 4, 4, 4, 5]);
        assert_eq!(audit(&host).await.0, "delivering");
    });
}

#[test]
fn while_the_host_fails_events_wait_and_status_says_why() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let errors = [
            (Error::Failing, "audit_failing"),
            (Error::LoginRefused, "audit_login_refused"),
            (Error::Denied, "audit_denied"),
            (Error::Unreachable(Net::Unreachable), "audit_unreachable"),
            (Error::Unreachable(Net::Tls(TlsFault::Expired)), "audit_tls"),
            (Error::Unreachable(Net::Timeout), "audit_slow"),
            (Error::Unintelligible, "audit_wrong_answer"),
            (Error::Limited { retry_after: None }, "audit_limited"),
        ];
        for (error, code) in errors {
            world.devices.always(Some(Does::Fails(error)));
            let calls = world.devices.calls().len();
            rotate(&world, &host).await;
            for _ in 0..5 {
                tick(&world, &host).await;
            }
            let (word, delivery) = audit(&host).await;
            assert_eq!(
                (word.as_str(), &delivery["error_code"]),
                ("failing", &json!(code))
            );
            assert_eq!(delivery["undelivered"], 2);
            let hint = delivery["hint"].as_str().unwrap();
            let verdict = hint.contains("certificate, or one of its chain, has expired. ");
            assert_eq!(verdict, code == "audit_tls", "{hint}");
            assert!(delivery["oldest"].is_string());
            // 1, 2, 4, … seconds: not more than a few calls in five minutes. Logins are fewer, lest
            // the host lock the role: five within a quarter of an hour would do.
            let (few, rest) = match error {
                Error::LoginRefused => (2..=2, 17),
                _ => (4..=10, 6),
            };
            let calls = world.devices.calls().len() - calls;
            assert!(few.contains(&calls), "{code}: {calls} calls");
            world.devices.always(None);
            for _ in 0..rest {
                tick(&world, &host).await;
            }
            all_delivered(&world, &host, code).await;
            assert_eq!(audit(&host).await.0, "delivering");
        }
    });
}

/// One device hangs beside a good one: everything is delivered, and every request waits.
#[test]
fn a_host_that_takes_long_for_each_event_is_told() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let told = async || {
            let status = host.read("status").await.ok();
            let attention = status.get("attention").as_array().unwrap().clone();
            let mut slow = attention.iter().filter(|it| it["code"] == "audit_slow");
            slow.next().cloned()
        };
        assert_eq!(told().await, None);
        world.devices.takes(std::time::Duration::from_secs(20));
        rotate(&world, &host).await;
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "slowly").await;
        assert_eq!(audit(&host).await.0, "delivering");
        let slow = told().await.expect("a device hangs");
        assert_eq!(slow["tenant"], "-");
        assert!(slow["hint"].as_str().unwrap().contains("device"), "{slow}");
        let since = slow["since"].clone();
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(told().await.expect("still")["since"], since);
        world.devices.takes(std::time::Duration::ZERO);
        rotate(&world, &host).await;
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        assert_eq!(told().await, None);
        // It answers nothing at all any more.
        world
            .devices
            .always(Some(Does::Fails(Error::Unreachable(Net::Timeout))));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(audit(&host).await.1["error_code"], "audit_slow");
        assert!(told().await.is_some());
    });
}

#[test]
fn a_quota_is_obeyed() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let retry_after = Some(std::time::Duration::from_secs(1800));
        world
            .devices
            .next([Does::Fails(Error::Limited { retry_after })]);
        let calls = world.devices.calls().len();
        rotate(&world, &host).await;
        for _ in 0..29 {
            tick(&world, &host).await;
        }
        assert_eq!(world.devices.calls().len(), calls + 1, "it rests as asked");
        tick(&world, &host).await;
        tick(&world, &host).await;
        all_delivered(&world, &host, "after the quota").await;
    });
}

/// What the host never takes is set aside, and nothing else waits for it.
#[test]
fn an_event_that_is_refused_ten_times_is_parked() {
    simulate(async {
        let (world, host, _) = delivering().await;
        add_tenant(&world, &host, "beta").await;
        world
            .devices
            .never("acme/4", Some(Does::Fails(Error::Refused)));
        rotate(&world, &host).await;
        host.write("beta/rotate", json!({ "reason": "why" }))
            .await
            .ok();
        for _ in 0..60 {
            tick(&world, &host).await;
        }
        let tries = |world: &World| {
            let calls = world.devices.calls();
            calls.iter().filter(|call| *call == "acme/4").count()
        };
        // Until something else was taken it could still be the server.
        let tried = tries(&world);
        assert!((11..=20).contains(&tried), "{tried}");
        let lines = world.devices.lines();
        let has = |tenant: &str, seq: u64| {
            let mut lines = lines.iter();
            lines.any(|line| line["tenant_id"] == tenant && line["seq"] == seq)
        };
        assert!(has("acme", 5) && has("beta", 5) && !has("acme", 4));
        let status = host.read("status").await.ok();
        assert_eq!(status.get("audit_delivery")["parked"], 1);
        let attention = &status.get("attention")[0];
        assert_eq!(
            (&attention["tenant"], &attention["code"]),
            (&json!("acme"), &json!("event_parked"))
        );
        // Another process knows, and does not try.
        let other = world.sound_process();
        for _ in 0..3 {
            tick(&world, &other).await;
        }
        assert_eq!(tries(&world), tried);
        assert_eq!(audit(&other).await.1["parked"], 1);
        // Somebody wrote the way again: it is tried anew.
        world.devices.never("acme/4", None);
        other.write(WAY, json!({})).await.ok();
        other.backend.idle().await;
        tick(&world, &other).await;
        all_delivered(&world, &other, "after it was parked").await;
        assert_eq!(audit(&other).await.1["parked"], 0);
    });
}

/// What came behind it is not looked at again and again because of it.
#[test]
fn a_parked_event_does_not_make_every_process_begin_at_it() {
    simulate(async {
        let (world, host, _) = delivering().await;
        add_tenant(&world, &host, "beta").await;
        world
            .devices
            .never("acme/4", Some(Does::Fails(Error::Refused)));
        rotate(&world, &host).await;
        host.write("beta/rotate", json!({ "reason": "why" }))
            .await
            .ok();
        for _ in 0..60 {
            tick(&world, &host).await;
        }
        assert_eq!(audit(&host).await.1["parked"], 1);
        for _ in 0..20 {
            rotate(&world, &host).await;
        }
        let events = host.events("acme").await.len();
        assert!(events > 40, "{events}");
        let plan = Plan::simulated();
        plan.arm(None);
        let other = world.process(&plan);
        for _ in 0..3 {
            tick(&world, &other).await;
        }
        assert_eq!(audit(&other).await.1["parked"], 1);
        let calls = plan.calls();
        let looks = calls
            .iter()
            .filter(|call| call.starts_with("get trail/acme/"));
        assert!(looks.count() < 10, "{calls:?}");
        // It is still tried anew, alone, when somebody writes the way.
        world.devices.never("acme/4", None);
        other.write(WAY, json!({})).await.ok();
        other.backend.idle().await;
        tick(&world, &other).await;
        all_delivered(&world, &other, "after it was parked").await;
        // And a process that knows no better finds that it was taken.
        let third = world.sound_process();
        tick(&world, &third).await;
        assert_eq!(audit(&third).await.1["parked"], 0);
        all_delivered(&world, &third, "by the third").await;
    });
}

/// A device that fails at one line only must not keep all others out.
#[test]
fn an_event_at_which_the_host_fails_blocks_nobody() {
    simulate(async {
        let (world, host, _) = delivering().await;
        add_tenant(&world, &host, "beta").await;
        world
            .devices
            .never("acme/4", Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        for round in 0..40 {
            if round % 4 == 0 {
                host.write("beta/rotate", json!({ "reason": "why" })).await;
            }
            world.later(600).await;
            host.tick().await;
        }
        let lines = world.devices.lines();
        let of_beta = lines
            .iter()
            .filter(|line| line["tenant_id"] == "beta")
            .count();
        let beta = host.events("beta").await;
        assert_eq!(of_beta, beta.len(), "beta does not wait");
        assert_eq!(audit(&host).await.1["parked"], 1);
    });
}

/// The address leads to another server: what it answers proves nothing.
#[test]
fn an_answer_about_another_event_acknowledges_nothing() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let other = "01K8Z5Y4N6D3T7Q2W9R1M0XVBC";
        world.devices.always(Some(Does::LiesAbout(other)));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        let (word, delivery) = audit(&host).await;
        assert_eq!(
            (word.as_str(), &delivery["error_code"]),
            ("failing", &json!("audit_wrong_answer"))
        );
        assert_eq!(pointers(&world).await, ["acme"]);
    });
}

/// Whoever may write `config/audit` may point it at a server of their own, and whoever may list
/// events knows what to answer there.
#[test]
fn a_server_that_knows_every_event_acknowledges_nothing() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let last = host.events("acme").await.len();
        let lines = world.devices.lines();
        let first: &'static str = lines[0]["receipt"].as_str().unwrap().to_owned().leak();
        rotate_unheard(&world, &host, Does::Knows("")).await;
        let undelivered = format!("acme/{}", last + 1);
        for does in [
            Does::Knows("00000000000000000000000000000000"),
            // What an earlier answer carried, which was brought back then.
            Does::Knows(first),
            Does::Replays,
            // Fresh, and of this process, but about another event or another log.
            Does::Borrows("acme/1"),
            Does::Borrows("-/1"),
        ] {
            world.devices.always(Some(does));
            let asked = world.devices.calls().len();
            world.later(400).await;
            host.tick().await;
            let calls = world.devices.calls();
            assert!(calls[asked..].contains(&undelivered), "{does:?}: {calls:?}");
            is_not_acknowledged(&world, &host, last, &format!("{does:?}")).await;
        }
        world.devices.always(None);
        world.later(400).await;
        host.tick().await;
        all_delivered(&world, &host, "by the server itself").await;
    });
}

/// A receipt proves passage: within a minute, to the process that gave it out, once.
#[test]
fn a_receipt_ends_with_its_minute_and_with_its_process() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let last = host.events("acme").await.len();
        // A device has the line and the answer got lost; somebody else brings it back.
        let lost = async |what: &str| {
            let kept = Does::LosesAnswer;
            world.devices.always(Some(kept));
            world.later(400).await;
            host.tick().await;
            is_not_acknowledged(&world, &host, last, what).await;
            world.devices.always(Some(Does::Replays));
        };
        rotate_unheard(&world, &host, Does::Fails(Error::Failing)).await;
        lost("lost").await;
        world.later(61).await;
        host.tick().await;
        is_not_acknowledged(&world, &host, last, "after a minute").await;
        lost("lost again").await;
        let another = world.sound_process();
        another.tick().await;
        is_not_acknowledged(&world, &another, last, "by another process").await;
        world.devices.always(None);
        world.later(400).await;
        another.tick().await;
        all_delivered(&world, &another, "at the end").await;
    });
}

/// A rotation while the way does nothing but this.
async fn rotate_unheard(world: &World, host: &Host, does: Does) {
    world.devices.always(Some(does));
    rotate(world, host).await;
}

/// Asserts that the first event after number `last` is stored as undelivered, and told so.
async fn is_not_acknowledged(world: &World, host: &Host, last: usize, what: &str) {
    let events = host.events("acme").await;
    assert_eq!(events[last]["delivered"], false, "{what}");
    assert_eq!(pointers(world).await, ["acme"], "{what}");
    let (word, delivery) = audit(host).await;
    assert_eq!(word, "failing", "{what}: {delivery}");
    let waiting = delivery["undelivered"].as_u64();
    assert!(waiting >= Some(1), "{what}: {delivery}");
}

#[test]
fn a_wrapped_call_is_answered_no_receipt() {
    simulate(async {
        let (_world, host, _) = delivering().await;
        let wrapped = host.write_wrapped("events/emit/acme/1", json!({})).await;
        wrapped.fails(400, "wrapped_emit");
        let plain = host.write("events/emit/acme/1", json!({})).await.ok();
        let again = host.write("events/emit/acme/1", json!({})).await.ok();
        let receipt = plain.text_of("receipt");
        assert_eq!(receipt.len(), 32, "{receipt}");
        assert_ne!(receipt, again.text_of("receipt"), "a fresh one each time");
        assert!(
            !EXEMPT_RESPONSE_KEYS.contains(&"receipt"),
            "hashed in the log"
        );
    });
}

/// Forged calls, by whomever: the host records that they were made, and nothing else happens.
#[test]
fn nobody_else_can_acknowledge_or_invent_an_event() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        let before = world.storage.snapshot();
        let forged = json!({
            "event": "smtp_credentials_revealed", "seq": 4, "hash": "0", "delivered": true,
            "tenant_id": "beta", "replayed": true,
        });
        let genuine = host.events("acme").await;
        let answer = host.write("events/emit/acme/4", forged).await.ok();
        for (name, value) in genuine[3].as_object().unwrap() {
            if name != "delivered" {
                assert_eq!(answer.get(name), value, "{name}");
            }
        }
        assert_eq!(answer.get("replayed"), false);
        let again = host.write("events/emit/acme/3", json!({})).await.ok();
        assert_eq!(again.get("replayed"), true, "that one was delivered");
        for path in [
            "events/emit/acme/6",
            "events/emit/acme/0",
            "events/emit/beta/1",
        ] {
            host.write(path, json!({}))
                .await
                .fails(404, "unknown_event");
        }
        host.write("events/emit/acme/x", json!({}))
            .await
            .fails(400, "invalid_field");
        for receipt in ["", "x", "e30.e30", "eyJldmVudHMiOltdfQ.AAAA"] {
            let body = json!({ "receipt": receipt });
            let refused = host.write("events/ack", body).await;
            assert_eq!(refused.status, 400, "{receipt}: {refused:?}");
        }
        let after = world.storage.snapshot();
        assert!(before.entries().eq(after.entries()), "nothing was changed");
        world.devices.always(None);
        for _ in 0..6 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "after forged calls").await;
    });
}

/// No credential in the plugin: a collector fetches and acknowledges.
#[test]
fn a_collector_outside_gets_everything_once_it_acknowledges() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write(WAY, json!({ "mode": "external" })).await.ok();
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(world.devices.calls(), [""; 0], "nobody is called");
        let flushed = host.write("events/flush", json!({})).await.ok();
        let events = flushed.get("events").as_array().unwrap().clone();
        assert_eq!(events.len(), 5 + 2);
        let again = host.write("events/flush", json!({})).await.ok();
        assert_eq!(
            again.get("events"),
            flushed.get("events"),
            "until it is acknowledged"
        );
        let receipt = json!({ "receipt": flushed.get("receipt") });
        // Another process understands it.
        let other = world.sound_process();
        let acknowledged = other.write("events/ack", receipt.clone()).await.ok();
        assert_eq!(acknowledged.get("acknowledged"), 7);
        let repeated = other.write("events/ack", receipt).await.ok();
        assert_eq!(repeated.get("acknowledged"), 0);
        let empty = other.write("events/flush", json!({})).await.ok();
        assert_eq!(empty.get("events"), &json!([]));
        assert!(empty.get("receipt").is_null());
        assert_eq!(pointers(&world).await, [""; 0]);
        assert_eq!(audit(&other).await.0, "delivering");
        // Who does not come for an hour is seen.
        rotate(&world, &other).await;
        tick(&world, &other).await;
        assert_eq!(audit(&other).await.0, "delivering");
        world.later(3700).await;
        other.tick().await;
        let (word, delivery) = audit(&other).await;
        assert_eq!(
            (word.as_str(), &delivery["error_code"]),
            ("failing", &json!("audit_not_collected"))
        );
    });
}

/// More than a hundred wait: each flush has its own hundred, in order.
#[test]
fn a_flush_has_a_hundred_events_at_most() {
    simulate(async {
        let (world, host, _) = world().await;
        for _ in 0..60 {
            rotate(&world, &host).await;
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let flushed = host.write("events/flush", json!({})).await.ok();
            let events = flushed.get("events").as_array().unwrap();
            seen.extend(events.iter().map(|event| event["seq"].as_u64().unwrap()));
            if !events.is_empty() {
                let receipt = json!({ "receipt": flushed.get("receipt") });
                host.write("events/ack", receipt).await.ok();
            }
        }
        assert_eq!(seen, (1..=123).collect::<Vec<u64>>());
    });
}

#[test]
fn a_standby_sends_nothing_and_forwards_what_is_asked() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        world.devices.always(None);
        let calls = world.devices.calls().len();
        let standby = world.standby();
        for path in ["events/emit/acme/1", "events/flush", "events/ack"] {
            standby
                .write(path, json!({ "receipt": "x" }))
                .await
                .fails(0, "read_only");
        }
        standby.read("events").await.fails(0, "read_only");
        tick(&world, &standby).await;
        assert_eq!(world.devices.calls().len(), calls);
    });
}

#[test]
fn a_moved_mount_is_called_where_it_is() {
    simulate(async {
        let (world, mut host, _) = delivering().await;
        host.mount_point = String::from("team1/mail-smtp/");
        world.devices.serve(&host);
        rotate(&world, &host).await;
        all_delivered(&world, &host, "after the move").await;
        assert_eq!(
            world.devices.mount_points().pop().unwrap(),
            "team1/mail-smtp/"
        );
    });
}

#[test]
fn status_says_whether_the_mount_shows_the_events() {
    simulate(async {
        let (world, host, _) = world().await;
        let keys = |host: &Host| {
            let host = host.clone();
            async move { audit(&host).await.1["exempt_keys"].clone() }
        };
        assert_eq!(keys(&host).await, "unknown");
        host.write(WAY, way()).await.ok();
        host.backend.idle().await;
        assert_eq!(keys(&host).await, "unknown", "the emitter may not look");
        world.devices.exempt(Some(&EXEMPT_RESPONSE_KEYS));
        host.write(WAY, json!({})).await.ok();
        host.backend.idle().await;
        assert_eq!(keys(&host).await, "complete");
        let some: Vec<&str> = EXEMPT_RESPONSE_KEYS[2..].to_vec();
        world.devices.exempt(Some(&some));
        host.write(WAY, json!({})).await.ok();
        host.backend.idle().await;
        assert_eq!(keys(&host).await, "missing");
        assert_eq!(
            audit(&host).await.1["missing_keys"],
            json!(["event", "event_id"])
        );
    });
}

/// Every call of a rotation and of its delivery fails once, in every way.
#[test]
fn whatever_fails_once_every_stored_event_is_delivered() {
    let calls = simulate(async {
        let (world, host, plan) = delivering().await;
        plan.arm([]);
        rotate(&world, &host).await;
        plan.calls()
    });
    assert!(calls.iter().any(|call| call == "device emit"), "{calls:?}");
    for fault in Interruption::every(&calls) {
        let what = format!("{fault:?}");
        simulate(async {
            let (world, mut host, plan) = delivering().await;
            plan.interrupt(&[fault]);
            world.later(3600).await;
            let body = json!({ "reason": "why" });
            let work = async {
                let _answer = host.write("acme/rotate", body).await;
                host.backend.idle().await;
            };
            let crashed = tokio::select! {
                biased;
                () = plan.crashed() => true,
                () = work => false,
            };
            assert_eq!(plan.ahead(), [], "{what}");
            if crashed {
                host = world.sound_process();
            } else {
                plan.arm([]);
            }
            world.quiet(&host, "acme").await;
            for _ in 0..12 {
                tick(&world, &host).await;
            }
            all_delivered(&world, &host, &what).await;
        });
    }
}

/// Storage comes back from a backup: what it holds is delivered again, with the same identifiers.
#[test]
fn after_a_restore_what_waited_then_is_delivered() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        let backup = world.left();
        world.devices.always(None);
        for _ in 0..6 {
            tick(&world, &host).await;
        }
        let before = world.devices.lines();
        let restored = World::from(&backup);
        let host = restored.sound_process();
        for _ in 0..3 {
            tick(&restored, &host).await;
        }
        let told = restored.devices.lines();
        assert_eq!(told.len(), 2);
        for line in told {
            let same = before.iter().any(|it| it["event_id"] == line["event_id"]);
            assert!(same, "{line:#}");
        }
    });
}

/// A pointer that got lost, or a record of a release that wrote none.
#[test]
fn what_nothing_leads_to_is_found_by_the_repair() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        world.storage.delete("undelivered/acme").await.unwrap();
        world.devices.always(None);
        let host = world.sound_process();
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        assert!(
            !world
                .devices
                .story()
                .contains(&String::from("acme/5 rotated"))
        );
        host.write("ops/reindex", json!({})).await.ok();
        for _ in 0..5 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "after the repair").await;
    });
}

async fn sweep(world: &World, host: &Host) {
    host.write("ops/sweep", json!({})).await.ok();
    tick(world, host).await;
    tick(world, host).await;
}

/// A bit more, so that a wall clock that says something else is believed.
async fn a_day_of_ticks(world: &World, host: &Host) {
    for _ in 0..25 {
        world.later(3600).await;
        host.tick().await;
    }
}

/// Twenty days with a change each, and a clock that is set ahead by a hundred then.
async fn twenty_days(retention: &str) -> (World, Host) {
    let (world, host, _) = delivering().await;
    let config = json!({ "trail_retention": retention, "rotation_period": "3650d" });
    host.write("config", config).await.ok();
    for _ in 0..20 {
        rotate(&world, &host).await;
        world.later(86_400).await;
        host.tick().await;
    }
    // The record lets go of what is old.
    for _ in 0..20 {
        rotate(&world, &host).await;
    }
    world.clock.jump(chrono::TimeDelta::days(100));
    (world, host)
}

/// How many days of the history are left, those of the jump and after it aside.
async fn days_left(world: &World) -> usize {
    let days = world.storage.list("journal/").await.unwrap();
    let first = days.first().cloned().unwrap_or_default();
    let old = days.iter().filter(|day| day.as_str() < "20261101/");
    assert!(!first.is_empty());
    old.count()
}

#[test]
fn no_more_than_eight_days_of_the_history_go_within_a_day() {
    simulate(async {
        let (world, mut host) = twenty_days("90d").await;
        let all = days_left(&world).await;
        assert!(all >= 20, "{all}");
        // Something happens by the new clock, so that it does not look like a lost one.
        rotate(&world, &host).await;
        sweep(&world, &host).await;
        assert_eq!(days_left(&world).await, all, "not believed yet");
        for gone in [8, 16] {
            a_day_of_ticks(&world, &host).await;
            sweep(&world, &host).await;
            // A day stays in sight while a record still holds one of its events.
            let left = days_left(&world).await;
            assert!(
                (all - gone..=all - gone + 2).contains(&left),
                "{left} of {all}"
            );
            // Not by asking again, nor after a restart.
            host = world.sound_process();
            sweep(&world, &host).await;
            assert_eq!(days_left(&world).await, left);
        }
    });
}

#[test]
fn a_retention_that_a_person_made_smaller_is_their_word_for_what_it_names() {
    simulate(async {
        let (world, host) = twenty_days("365d").await;
        let all = days_left(&world).await;
        rotate(&world, &host).await;
        a_day_of_ticks(&world, &host).await;
        sweep(&world, &host).await;
        assert_eq!(days_left(&world).await, all);
        let config = json!({ "trail_retention": "60d" });
        host.write("config", config).await.ok();
        sweep(&world, &host).await;
        // But what records still hold.
        assert!(days_left(&world).await <= 2);
    });
}

#[test]
fn delivered_events_go_when_they_are_old_and_others_stay() {
    simulate(async {
        let (world, host, _) = delivering().await;
        for _ in 0..20 {
            rotate(&world, &host).await;
        }
        let trail = |world: &World| {
            let storage = std::sync::Arc::clone(&world.storage);
            async move { storage.list("trail/acme/").await.unwrap().len() }
        };
        assert_eq!(trail(&world).await, 43);
        host.write("config", json!({ "trail_retention": "30d" }))
            .await
            .ok();
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        for _ in 0..20 {
            rotate(&world, &host).await;
        }
        // 42 are undelivered, the last 16 of them in the record alone.
        assert_eq!(trail(&world).await, 43 + 26);
        world.clock.jump(chrono::TimeDelta::days(40));
        // A clock that was set makes nothing old, whatever happens by it.
        sweep(&world, &host).await;
        assert_eq!(trail(&world).await, 43 + 26);
        host.write("config", json!({ "wait": 9 })).await.ok();
        sweep(&world, &host).await;
        assert_eq!(trail(&world).await, 43 + 26);
        // One that has stood for a day of ticks does.
        a_day_of_ticks(&world, &host).await;
        sweep(&world, &host).await;
        assert_eq!(trail(&world).await, 26, "what was never delivered stays");
        let page = host
            .send(Operation::Read, "acme/events", json!({ "limit": 200 }))
            .await
            .ok();
        let events = page.get("events").as_array().unwrap();
        assert_eq!(events.len(), 42);
        assert!(page.get("next").is_null());
        world.devices.always(None);
        host.write(WAY, json!({})).await.ok();
        host.backend.idle().await;
        tick(&world, &host).await;
        assert_eq!(pointers(&world).await, [""; 0]);
        world.devices.check_chains("after the retention");
    });
}

#[test]
fn lists_of_all_events_are_newest_first_and_filtered() {
    simulate(async {
        let (world, host, _) = delivering().await;
        add_tenant(&world, &host, "beta").await;
        for _ in 0..3 {
            rotate(&world, &host).await;
        }
        let noon = world.clock.now() + chrono::TimeDelta::seconds(1);
        world.later(2 * 86_400).await;
        host.write("beta/rotate", json!({ "reason": "why" }))
            .await
            .ok();
        let read = |body: Value| {
            let host = host.clone();
            async move { host.send(Operation::Read, "events", body).await.ok() }
        };
        let mut all = Vec::new();
        let mut body = json!({ "limit": 3 });
        loop {
            let page = read(body.clone()).await;
            all.extend(page.get("events").as_array().unwrap().clone());
            if page.get("next").is_null() {
                break;
            }
            body["after"] = page.get("next").clone();
        }
        let total = host.events("acme").await.len() + host.events("beta").await.len() + 2;
        assert_eq!(all.len(), total);
        let times: Vec<&str> = all
            .iter()
            .filter_map(|it| it["timestamp"].as_str())
            .collect();
        assert!(times.is_sorted_by(|one, next| one >= next), "{times:?}");
        let of =
            |page: &crate::support::engine::Answer| page.get("events").as_array().unwrap().clone();
        let rotated = read(json!({ "event": "smtp_credentials_rotated" })).await;
        assert_eq!(of(&rotated).len(), 4);
        let since = read(json!({ "since": noon.to_rfc3339() })).await;
        assert_eq!(of(&since).len(), 2);
        let beta = read(json!({ "tenant": "beta", "limit": 2 })).await;
        assert_eq!(of(&beta).len(), 2);
        let next = json!({ "tenant": "beta", "after": beta.get("next") });
        assert_eq!(of(&read(next).await).len(), 3);
        for body in [
            json!({ "limit": 0 }),
            json!({ "event": "smtp_nothing" }),
            json!({ "after": "yesterday" }),
            json!({ "tenant": "beta", "after": "01K8Z5Y4N6D3T7Q2W9R1M0XVBC" }),
        ] {
            let answer = host.send(Operation::Read, "events", body.clone()).await;
            assert_eq!(
                (answer.status, answer.code.as_str()),
                (400, "invalid_field"),
                "{body}"
            );
        }
    });
}

/// The line of a wrapped answer has no data: whoever gets a receipt so has put nothing into a device.
#[test]
fn a_wrapped_flush_is_refused() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write(WAY, json!({ "mode": "external" })).await.ok();
        let wrapped = host.write_wrapped("events/flush", json!({})).await;
        wrapped.fails(400, "wrapped_flush");
        assert_eq!(pointers(&world).await, ["-", "acme"]);
    });
}

/// A pointer got lost, and the tenant changes before the repair comes.
#[test]
fn what_nothing_leads_to_is_not_taken_for_delivered() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        world.storage.delete("undelivered/acme").await.unwrap();
        world.devices.always(None);
        let host = world.sound_process();
        tick(&world, &host).await;
        for _ in 0..12 {
            rotate(&world, &host).await;
        }
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "after changes").await;
    });
}

/// Something else answers at the address, with 404 for everything: no event is to blame.
#[test]
fn a_server_that_refuses_everything_parks_nothing() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Refused)));
        rotate(&world, &host).await;
        for _ in 0..60 {
            tick(&world, &host).await;
        }
        let (word, delivery) = audit(&host).await;
        assert_eq!(word, "failing");
        assert_eq!(delivery["error_code"], "audit_refused");
        assert_eq!(delivery["parked"], 0);
        world.devices.always(None);
        for _ in 0..6 {
            tick(&world, &host).await;
        }
        all_delivered(&world, &host, "after the mend").await;
    });
}

/// The way is taken away while the emitter is at work by it, and sleeps.
#[test]
fn a_way_that_was_removed_is_used_no_more() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        world.later(3600).await;
        let body = json!({ "reason": "why" });
        host.write("acme/rotate", body).await.ok();
        host.delete(WAY).await.ok();
        world.devices.always(None);
        host.backend.idle().await;
        let calls = world.devices.calls().len();
        for _ in 0..5 {
            tick(&world, &host).await;
        }
        assert_eq!(world.devices.calls().len(), calls);
        assert_eq!(audit(&host).await.0, "unproven");
        let required = json!({ "audit_mode": "required" });
        host.write("config", required)
            .await
            .fails(400, "audit_unproven");
        host.write(WAY, way()).await.ok();
        host.backend.idle().await;
        all_delivered(&world, &host, "by the new way").await;
    });
}

/// The secret of the way does not open: that is no silence.
#[test]
fn a_way_that_cannot_be_opened_is_told() {
    simulate(async {
        let (world, host, _) = delivering().await;
        let entry = world.storage.get("config/audit").await.unwrap().unwrap();
        let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
        value["id"] = json!("another");
        let bytes = serde_json::to_vec(&value).unwrap();
        let entry = StorageEntry::new("config/audit", bytes);
        world.storage.put(entry).await.unwrap();
        let host = {
            drop(host);
            world.sound_process()
        };
        tick(&world, &host).await;
        let (word, delivery) = audit(&host).await;
        assert_eq!(
            (word.as_str(), &delivery["error_code"]),
            ("failing", &json!("secret_unreadable"))
        );
    });
}

/// A restart does not make old events young.
#[test]
fn status_knows_since_when_events_wait_after_a_restart() {
    simulate(async {
        let (world, host, _) = delivering().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        rotate(&world, &host).await;
        let since = world.clock.now();
        world.later(7200).await;
        let host = world.sound_process();
        tick(&world, &host).await;
        let oldest = audit(&host).await.1["oldest"].clone();
        let oldest: chrono::DateTime<chrono::Utc> = oldest.as_str().unwrap().parse().unwrap();
        assert!(
            (since - oldest).num_seconds().abs() < 60,
            "{oldest} {since}"
        );
    });
}

/// A collector's receipts say nothing where the settings name no way for it.
#[test]
fn where_no_way_is_set_nothing_proves_one() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        host.write("config", json!({ "max_versions": 7 }))
            .await
            .ok();
        let collect = async || {
            let flushed = host.write("events/flush", json!({})).await.ok();
            let receipt = json!({ "receipt": flushed.text_of("receipt") });
            host.write("events/ack", receipt).await.ok();
        };
        collect().await;
        let required = json!({ "audit_mode": "required" });
        host.write("config", required.clone())
            .await
            .fails(400, "audit_unproven");
        tick(&world, &host).await;
        host.write("config", required.clone())
            .await
            .fails(400, "audit_unproven");
        host.write(WAY, json!({ "mode": "external" })).await.ok();
        tick(&world, &host).await;
        collect().await;
        host.write("config", required).await.ok();
    });
}
