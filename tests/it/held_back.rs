//! `audit_mode=required`: nothing automatic is sent before a device has its beginning.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::host_api::Error;
use vault_plugin_secrets_smtp::logical::Storage as _;

use crate::support::devices::Does;
use crate::support::engine::Host;
use crate::support::faults::{Fault, Interruption, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, SERVER, World, every_start_has_its_end, simulate};

fn way() -> Value {
    json!({
        "address": "https://127.0.0.1:8200", "role_id": "role-of-the-emitter",
        "secret_id": "secret-of-the-emitter",
    })
}

/// `acme` is changed every hour by a check every minute, and each beginning must be in a device.
async fn required() -> (World, Host, Plan) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    world.configure(&host, "acme").await;
    host.write("acme/admin", json!({ "username": ACCOUNT }))
        .await
        .ok();
    world.quiet(&host, "acme").await;
    host.write("config/audit", way()).await.ok();
    host.backend.idle().await;
    let body = json!({
        "audit_mode": "required", "check_schedule": "* * * * *", "spread": 0,
        "rotation_period": "1h", "notify_before": 0, "min_rotation_interval": 0,
    });
    host.write("config", body).await.ok();
    for _ in 0..3 {
        tick(&world, &host).await;
    }
    (world, host, plan)
}

async fn tick(world: &World, host: &Host) {
    world.later(60).await;
    host.tick().await;
}

async fn ticks(world: &World, host: &Host, count: usize) {
    for _ in 0..count {
        tick(world, host).await;
    }
}

/// The names of `acme`'s events from `from` on.
async fn story(host: &Host, from: usize) -> Vec<String> {
    host.story("acme").await.split_off(from)
}

async fn version(host: &Host) -> u64 {
    let read = host.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "settled");
    read.get("version").as_u64().unwrap()
}

/// How many events of `acme` the devices have.
fn delivered(world: &World) -> usize {
    let lines = world.devices.lines();
    let mut seqs: Vec<u64> = lines
        .iter()
        .filter(|line| line["tenant_id"] == "acme")
        .filter_map(|line| line["seq"].as_u64())
        .collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs.len()
}

#[test]
fn it_is_accepted_only_after_a_delivery_within_the_hour() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        let required = json!({ "audit_mode": "required" });
        let refused = host.write("config", required.clone()).await;
        refused.fails(400, "audit_unproven");
        world.devices.always(Some(Does::Fails(Error::Failing)));
        host.write("config/audit", way()).await.ok();
        tick(&world, &host).await;
        host.write("config", required.clone())
            .await
            .fails(400, "audit_unproven");
        world.devices.always(None);
        ticks(&world, &host, 6).await;
        world.later(3700).await;
        host.write("config", required.clone())
            .await
            .fails(400, "audit_unproven");
        // A write asks for a new probe, also one that changes nothing.
        host.write("config/audit", json!({})).await.ok();
        host.backend.idle().await;
        host.write("config", required).await.ok();
        assert_eq!(host.read("config").await.get("audit_mode"), "required");
        host.delete("config/audit")
            .await
            .fails(409, "audit_required");
        // Other settings may be written later, whatever the devices do.
        world.later(86_400).await;
        host.write("config", json!({ "wait": 9 })).await.ok();
    });
}

/// The device has the beginning before Mailu hears anything.
#[test]
fn a_change_begins_in_the_device_and_then_at_mailu() {
    simulate(async {
        let (world, host, plan) = required().await;
        let before = version(&host).await;
        plan.arm([]);
        ticks(&world, &host, 61).await;
        assert_eq!(version(&host).await, before + 1);
        let calls = plan.calls();
        let sent = calls.iter().position(|call| call == "mail set_password");
        let told = calls.iter().position(|call| call == "device emit");
        assert!(told.unwrap() < sent.unwrap(), "{calls:?}");
        world.devices.check_chains("after a change");
    });
}

#[test]
fn while_no_device_takes_the_beginning_nothing_is_changed() {
    simulate(async {
        let (world, host, _) = required().await;
        let (before, told) = (version(&host).await, host.events("acme").await.len());
        let password = world.live();
        world.devices.always(Some(Does::Fails(Error::Failing)));
        ticks(&world, &host, 180).await;
        // Announced once, and not every minute.
        assert_eq!(story(&host, told).await, ["rotation_started"]);
        assert_eq!((version(&host).await, world.live()), (before, password));
        let status = host.read("status").await.ok();
        assert_eq!(status.get("audit"), "failing");
        assert_eq!(status.get("audit_delivery")["held_back"], 1);
        let attention = &status.get("attention")[0];
        assert_eq!(attention["code"], "audit_held_back");
        let of_acme = host.read("acme/status").await.ok();
        assert_eq!(of_acme.get("last_error")["code"], "audit_held_back");
        // The device works again: it goes on by itself, and its log is in order.
        world.devices.always(None);
        ticks(&world, &host, 8).await;
        assert_eq!(version(&host).await, before + 1);
        assert_eq!(story(&host, told).await, ["rotation_started", "rotated"]);
        let status = host.read("status").await.ok();
        assert_eq!(status.get("attention"), &json!([]));
        assert_eq!(status.get("audit_delivery")["held_back"], 0);
        assert_eq!(delivered(&world), host.events("acme").await.len());
        let lines = world.devices.lines();
        let seqs = lines.iter().filter(|line| line["tenant_id"] == "acme");
        let seqs: Vec<u64> = seqs.filter_map(|line| line["seq"].as_u64()).collect();
        assert!(seqs.is_sorted(), "{seqs:?}");
    });
}

/// Whoever answers an emergency, and whoever asks for a change, waits for no device.
#[test]
fn a_person_waits_for_no_device_and_takes_the_place_of_what_waits() {
    simulate(async {
        for (path, body, event) in [
            ("acme/rotate", json!({ "reason": "why" }), "rotated"),
            (
                "acme/reset",
                json!({ "reason": "why", "incident_id": "INC-1" }),
                "emergency_reset",
            ),
        ] {
            let (world, host, _) = required().await;
            let told = host.events("acme").await.len();
            world.devices.always(Some(Does::Fails(Error::Failing)));
            ticks(&world, &host, 70).await;
            assert_eq!(story(&host, told).await, ["rotation_started"]);
            host.write(path, body).await.ok();
            let story = story(&host, told).await;
            assert_eq!(story[1], "rotation_failed(superseded)", "{story:?}");
            assert_eq!(story.last().unwrap(), event, "{story:?}");
            let status = host.read("acme/status").await.ok();
            assert_eq!(status.get("state"), "settled");
            assert!(status.get("last_error").is_null(), "{status:?}");
            every_start_has_its_end(&host.events("acme").await, path);
        }
    });
}

#[test]
fn what_waits_is_withdrawn_when_it_is_not_to_happen_any_more() {
    simulate(async {
        let until = "2026-10-21T00:00:00Z";
        let pause = json!({ "until": until, "reason": "why" });
        for (path, body, code) in [
            ("acme/pause", pause, "paused"),
            ("config", json!({ "paused_until": until }), "paused"),
        ] {
            let (world, host, _) = required().await;
            let told = host.events("acme").await.len();
            world.devices.always(Some(Does::Fails(Error::Failing)));
            ticks(&world, &host, 70).await;
            host.write(path, body).await.ok();
            ticks(&world, &host, 2).await;
            let story = story(&host, told).await;
            let withdrawn = format!("rotation_failed({code})");
            assert!(story.contains(&withdrawn), "{path}: {story:?}");
            world.devices.always(None);
            ticks(&world, &host, 10).await;
            assert_eq!(version(&host).await, 1, "{path}");
            let after = host.story("acme").await.split_off(told);
            let begun = after.iter().filter(|it| *it == "rotation_started").count();
            assert_eq!(begun, 1, "{path}: {after:?}");
        }
    });
}

/// The settings are taken back while changes wait: they go on at once.
#[test]
fn what_waits_goes_on_when_nobody_requires_it_any_more() {
    simulate(async {
        let (world, host, _) = required().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        ticks(&world, &host, 70).await;
        let before = version(&host).await;
        host.write("config", json!({ "audit_mode": "best_effort" }))
            .await
            .ok();
        ticks(&world, &host, 2).await;
        assert_eq!(version(&host).await, before + 1);
        every_start_has_its_end(&host.events("acme").await, "best effort");
    });
}

#[test]
fn after_a_day_people_are_told_once() {
    simulate(async {
        let (world, host, _) = required().await;
        let hook = json!({
            "type": "webhook", "url": "https://hooks.ops.example/smtp",
            "hmac_key": "key-of-the-signature",
        });
        host.write("config/notify/hook", hook).await.ok();
        let stalls = |world: &World| {
            let story = world.notices.story();
            let stalled = |line: &&String| line.contains("smtp_audit_stalled");
            story.iter().filter(stalled).count()
        };
        world.devices.always(Some(Does::Fails(Error::Failing)));
        ticks(&world, &host, 60).await;
        for _ in 0..23 {
            world.later(3_600).await;
            host.tick().await;
        }
        assert_eq!(stalls(&world), 0);
        for _ in 0..4 {
            world.later(3_600).await;
            host.tick().await;
        }
        ticks(&world, &host, 3).await;
        assert_eq!(stalls(&world), 1);
        // Another process does not tell it again.
        let host = world.sound_process();
        ticks(&world, &host, 5).await;
        assert_eq!(stalls(&world), 1);
        world.devices.always(None);
        ticks(&world, &host, 10).await;
        let lines = world.devices.lines();
        let stalled = lines.iter().find(|it| it["event"] == "smtp_audit_stalled");
        assert_eq!(stalled.unwrap()["severity"], "critical");
    });
}

/// Every call of a tick that makes a change fails once, in every way: afterwards the change was
/// made, the password is known, and the device has everything.
#[test]
fn whatever_fails_once_the_change_is_made_and_told() {
    let (before, calls) = simulate(async {
        let (world, host, plan) = required().await;
        let version_before = version(&host).await;
        for before in 0.. {
            world.later(60).await;
            plan.arm([]);
            host.tick().await;
            if version(&host).await > version_before {
                return (before, plan.calls());
            }
        }
        unreachable!()
    });
    let told = calls.iter().position(|call| call == "device emit");
    assert!(told.is_some(), "{calls:?}");
    for fault in Interruption::every(&calls) {
        let what = format!("{fault:?}");
        simulate(one_fault(fault, before, &what));
    }
}

async fn one_fault(fault: Interruption, ticks_before: usize, what: &str) {
    let (world, mut host, plan) = required().await;
    ticks(&world, &host, ticks_before).await;
    let before = version(&host).await;
    world.later(60).await;
    plan.interrupt(&[fault]);
    let crashed = tokio::select! {
        biased;
        () = plan.crashed() => true,
        () = host.tick() => false,
    };
    assert_eq!(plan.ahead(), [], "{what}");
    if crashed {
        host = world.sound_process();
    } else {
        plan.arm([]);
    }
    ticks(&world, &host, 30).await;
    assert!(version(&host).await > before, "{what}");
    let stored = world.stored("acme").await;
    let live = world.live().unwrap();
    assert!(stored.values().any(|password| *password == live), "{what}");
    let events = host.events("acme").await;
    every_start_has_its_end(&events, what);
    for event in &events {
        assert_eq!(event["delivered"], true, "{what}: {event:#}");
    }
    world.devices.check_chains(what);
    let left = world.storage.list("undelivered/").await.unwrap();
    assert_eq!(left, [""; 0], "{what}");
}

/// The process ends between the announcement and what it says about waiting.
#[test]
fn what_was_announced_before_a_crash_is_seen_to_wait() {
    simulate(async {
        let (world, host, plan) = required().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        // The announcement is the last thing that this process stores.
        for _ in 0..120 {
            world.later(60).await;
            plan.arm_named("cas tenant/acme", 1, Kind::Crash, false);
            let crashed = tokio::select! {
                () = host.tick() => false,
                () = plan.crashed() => true,
            };
            if crashed {
                break;
            }
        }
        let host = world.sound_process();
        ticks(&world, &host, 2).await;
        let status = host.read("status").await.ok();
        assert_eq!(status.get("audit_delivery")["held_back"], 1);
        assert_eq!(status.get("attention")[0]["code"], "audit_held_back");
    });
}

/// A look at the tenant takes the place of what waits; the day of waiting goes on.
#[test]
fn looks_at_tenants_do_not_keep_people_from_being_told() {
    simulate(async {
        let (world, host, _) = required().await;
        let hook = json!({
            "type": "webhook", "url": "https://hooks.ops.example/smtp",
            "hmac_key": "key-of-the-signature",
        });
        host.write("config/notify/hook", hook).await.ok();
        world.devices.always(Some(Does::Fails(Error::Failing)));
        ticks(&world, &host, 60).await;
        for _ in 0..30 {
            host.write("acme/verify", json!({})).await.ok();
            ticks(&world, &host, 60).await;
        }
        let story = world.notices.story();
        let stalls = story.iter().filter(|it| it.contains("smtp_audit_stalled"));
        assert_eq!(stalls.count(), 1, "{story:?}");
    });
}

#[test]
fn a_tenant_that_is_deleted_leaves_no_change_without_its_end() {
    simulate(async {
        let (world, host, _) = required().await;
        world.devices.always(Some(Does::Fails(Error::Failing)));
        ticks(&world, &host, 70).await;
        host.delete("acme/admin").await.ok();
        every_start_has_its_end(&host.events("acme").await, "deleted");
        host.write("acme/undelete", json!({})).await.ok();
        let status = host.read("acme/status").await.ok();
        assert!(status.get("last_error").is_null(), "{status:?}");
    });
}

/// Four values were sent in vain, one of them still hangs before Mailu, and the fifth change, which is
/// to send it again, waits for the devices: whoever takes the change's place, the value stays known.
#[test]
fn a_value_that_is_to_be_sent_again_is_not_lost_with_the_change_that_waits() {
    for ends in ["verify", "sweep", "pause", "reset"] {
        simulate(async {
            let (world, host, plan) = required().await;
            let refused = Fault {
                at: 0,
                kind: Kind::Worded,
                after: false,
            };
            for _ in 0..4 {
                plan.arm_sends([Some(refused)]);
                host.write("acme/rotate", json!({}))
                    .await
                    .fails(400, "mailu_rejected");
            }
            let kept = world.stored("acme").await;
            let (_, hangs) = kept.last_key_value().unwrap();
            let told = host.events("acme").await.len();
            world.devices.always(Some(Does::Fails(Error::Failing)));
            ticks(&world, &host, 90).await;
            assert_eq!(story(&host, told).await, ["rotation_started"], "{ends}");
            match ends {
                "pause" => {
                    let pause = json!({ "until": "1d" });
                    host.write("acme/pause", pause).await.ok();
                    ticks(&world, &host, 2).await;
                }
                "reset" => {
                    world.mail.silence(SERVER, true);
                    let reset = json!({ "incident_id": "INC-1", "reason": "x" });
                    let _stored = host.write("acme/reset", reset).await;
                    host.backend.idle().await;
                    world.mail.silence(SERVER, false);
                }
                _ => {}
            }
            // It lands.
            world
                .mail
                .edit(SERVER, ACCOUNT, |it| *it = Mailbox::new(hangs));
            if ends == "sweep" {
                host.write("ops/sweep", json!({})).await.ok();
                ticks(&world, &host, 3).await;
            } else {
                host.write("acme/verify", json!({})).await;
            }
            let stored = world.stored("acme").await;
            let live = world.live().unwrap();
            assert!(stored.values().any(|it| *it == live), "{ends}: {stored:?}");
            if ends != "reset" {
                let read = host.read("acme/admin").await.ok();
                assert_eq!(read.get("state"), "drift", "{ends}");
                assert_eq!(read.text_of("password"), live, "{ends}");
            }
        });
    }
}
