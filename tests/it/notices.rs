//! The outbox: what is stored is told, at least once, and a channel in trouble is in nobody's way.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{Operation, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::network::{SmtpReply, SmtpStage};
use vault_plugin_secrets_smtp::notify::Error;

use crate::support::engine::Host;
use crate::support::faults::{Fault, Interruption, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::notices::Does;
use crate::support::world::{ACCOUNT, FIRST, SERVER, World, simulate};

const HOOK: &str = "config/notify/hook";

fn webhook() -> Value {
    json!({
        "type": "webhook", "url": "https://hooks.ops.example/smtp",
        "hmac_key": "key-of-the-signature",
    })
}

fn email() -> Value {
    json!({
        "type": "email", "host": "smtp.ops.example", "from": "vault@ops.example",
        "to": ["oncall@ops.example"], "allowed_domains": ["acme.example"],
    })
}

/// `acme` has a credential and two addresses; the webhook is told of events.
async fn world() -> (World, Host, Plan) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    world.configure(&host, "acme").await;
    let body = json!({
        "username": ACCOUNT, "admin_emails": ["Admin@Acme.example", "other@evil.example"],
    });
    host.write("acme/admin", body).await.ok();
    world.quiet(&host, "acme").await;
    host.write(HOOK, webhook()).await.ok();
    world.later(3600).await;
    (world, host, plan)
}

/// Another tenant of the same server, that everybody has been told of.
async fn beta(world: &World, host: &Host) {
    let account = "smtp-beta@example.test";
    world.mail.put(SERVER, account, Mailbox::new(FIRST));
    world.configure(host, "beta").await;
    host.write("beta/admin", json!({ "username": account }))
        .await
        .ok();
    world.quiet(host, "beta").await;
    tick(world, host).await;
}

async fn rotate(world: &World, host: &Host) {
    world.later(3600).await;
    host.write("acme/rotate", json!({ "reason": "why" }))
        .await
        .ok();
}

async fn tick(world: &World, host: &Host) {
    world.later(60).await;
    host.tick().await;
}

async fn waiting(world: &World) -> Vec<String> {
    world.storage.list("outbox/").await.unwrap()
}

/// How often each `rotated` event was delivered to the webhook, by its identifier.
fn told(world: &World) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for message in world.notices.delivered() {
        if message.channel == "hook" {
            *told.entry(message.event_id).or_default() += 1;
        }
    }
    told
}

/// The identifiers of the events that the webhook is to be told of.
async fn wanted(host: &Host) -> Vec<String> {
    let events = host.events("acme").await;
    let wanted = events
        .iter()
        .filter(|event| event["event"] == "smtp_credentials_rotated");
    wanted
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_event_is_told_once_to_everyone_who_wants_it() {
    simulate(async {
        let (world, host, plan) = world().await;
        host.write("config/notify/ops", email()).await.ok();
        rotate(&world, &host).await;
        assert!(
            world.notices.delivered().is_empty(),
            "delivered by a tick only"
        );
        assert_eq!(waiting(&world).await.len(), 1);
        tick(&world, &host).await;
        let mut story = world.notices.story();
        story.sort();
        assert_eq!(
            story,
            [
                "hook rotated",
                "ops rotated",
                "ops>Admin@Acme.example rotated"
            ]
        );
        let message = &world.notices.delivered()[0];
        assert_eq!(
            (message.version, message.reason.as_deref()),
            (Some(2), Some("why"))
        );
        assert!(message.next_rotation.is_some());
        assert!(waiting(&world).await.is_empty());
        let ops = host.read("config/notify/ops").await.ok();
        assert_eq!(
            (ops.get("delivered"), ops.get("pending")),
            (&json!(2), &json!(0))
        );
        // A tick without anything to tell asks storage nothing for it.
        world.quiet(&host, "acme").await;
        plan.arm(None);
        tick(&world, &host).await;
        let calls = plan.calls();
        let ours = |call: &&String| ["outbox", "notif"].iter().any(|word| call.contains(word));
        assert_eq!(calls.iter().find(ours), None, "{calls:?}");
        assert_eq!(world.notices.story().len(), 3);
    });
}

/// Nobody asked for it, and the first failures may be a restart of the server: the third is for a
/// person.
#[test]
fn a_due_change_that_fails_is_told_once_when_it_is_for_a_person() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        let settings = json!({"check_schedule": "* * * * *", "spread": "0s"});
        host.write("config", settings).await.ok();
        world.configure(&host, "acme").await;
        let credential = json!({
            "username": ACCOUNT, "password": FIRST, "last_rotated": "2025-01-01T00:00:00Z",
        });
        host.write("acme/admin", credential).await.ok();
        host.write(HOOK, webhook()).await.ok();
        world.mail.silence(SERVER, true);
        let failures = async || {
            let events = host.events("acme").await;
            let failed = |event: &&Value| event["event"] == "smtp_credentials_rotation_failed";
            events.iter().filter(failed).count()
        };
        let mut minutes = 0;
        while failures().await < 2 {
            tick(&world, &host).await;
            minutes += 1;
            assert!(minutes < 10, "{:#?}", host.events("acme").await);
        }
        tick(&world, &host).await;
        assert_eq!(world.notices.story(), ["hook rotation_notice"]);
        while minutes < 120 {
            tick(&world, &host).await;
            minutes += 1;
        }
        assert!(failures().await > 5);
        let told = ["hook rotation_notice", "hook rotation_failed"];
        assert_eq!(world.notices.story(), told);
        let status = host.read("acme/status").await.ok();
        let error = status.get("last_error");
        assert!(error["attempts"].as_u64() > Some(5), "{error}");
        assert!(!error["next_attempt"].is_null(), "{error}");
    });
}

#[test]
fn without_a_channel_an_event_costs_no_storage_call() {
    simulate(async {
        let (world, host, plan) = world().await;
        host.delete(HOOK).await.ok();
        rotate(&world, &host).await;
        world.later(10).await;
        plan.arm(None);
        host.write("acme/rotate", json!({}))
            .await
            .fails(409, "too_soon");
        host.write("config", json!({ "min_rotation_interval": 0 }))
            .await
            .ok();
        host.write("acme/rotate", json!({})).await.ok();
        let calls = plan.calls();
        assert!(calls.iter().any(|call| call.starts_with("cas tenant/acme")));
        let ours = |call: &&String| ["outbox", "notif"].iter().any(|word| call.contains(word));
        assert_eq!(calls.iter().find(ours), None, "{calls:?}");
    });
}

/// Every way in which the two Puts can fail: whatever the record has in the end was told, once, and
/// nothing else was.
#[test]
fn what_is_stored_is_told_and_nothing_else_wherever_it_fails() {
    let calls = simulate(async {
        let (world, host, plan) = world().await;
        world.later(3600).await;
        plan.arm(None);
        host.write("acme/rotate", json!({})).await.ok();
        plan.calls()
    });
    let ours = |call: &str| call.starts_with("put outbox/") || call.starts_with("cas tenant/acme");
    assert!(calls.iter().filter(|it| ours(it)).count() >= 3, "{calls:?}");
    let mut outcomes = BTreeMap::new();
    let faults = Interruption::every(&calls).into_iter();
    for fault in faults.filter(|it| ours(&it.call)) {
        let stored = simulate(one_fault(fault));
        *outcomes.entry(stored).or_insert(0) += 1;
    }
    // Both happened: a rotation that stayed undone, and one that was finished.
    assert!(!outcomes.is_empty(), "{outcomes:?}");
}

async fn one_fault(fault: Interruption) -> usize {
    let what = format!("{fault:?}");
    let kills = fault.kind == Kind::Crash;
    let (world, host, plan) = world().await;
    world.later(3600).await;
    plan.interrupt(&[fault]);
    let crashed = tokio::select! {
        biased;
        () = plan.crashed() => true,
        _answer = host.write("acme/rotate", json!({})) => false,
    };
    assert_eq!(plan.ahead(), [], "{what}");
    assert_eq!(crashed, kills, "{what}");
    // What the request left behind goes on, or does not.
    let host = if crashed { world.sound_process() } else { host };
    plan.arm(None);
    world.later(60).await;
    for _ in 0..25 {
        tick(&world, &host).await;
    }
    let wanted = wanted(&host).await;
    let once = wanted.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(told(&world), once, "{what}");
    assert!(waiting(&world).await.is_empty(), "{what}");
    wanted.len()
}

#[test]
fn a_process_killed_between_telling_and_noting_tells_again_with_the_same_identifier() {
    simulate(async {
        let (world, host, plan) = world().await;
        rotate(&world, &host).await;
        let entry = format!("delete outbox/{}", waiting(&world).await[0]);
        let entry: &'static str = entry.leak();
        plan.arm((0..200).map(|at| Fault {
            at,
            kind: Kind::Crash,
            after: false,
        }));
        plan.only(entry);
        tokio::select! {
            () = tick(&world, &host) => panic!("not killed"),
            () = plan.crashed() => {}
        }
        assert_eq!(world.notices.story(), ["hook rotated"]);
        let next = world.sound_process();
        tick(&world, &next).await;
        tick(&world, &next).await;
        assert_eq!(world.notices.story(), ["hook rotated", "hook rotated"]);
        assert_eq!(told(&world).len(), 1, "one event");
        assert!(waiting(&world).await.is_empty());
    });
}

#[test]
fn what_was_told_and_could_not_be_noted_is_not_told_again() {
    simulate(async {
        let (world, host, plan) = world().await;
        rotate(&world, &host).await;
        let entry: &'static str = format!("delete outbox/{}", waiting(&world).await[0]).leak();
        plan.arm((0..500).map(|at| Fault {
            at,
            kind: Kind::Refused,
            after: false,
        }));
        plan.only(entry);
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        assert_eq!(world.notices.story(), ["hook rotated"]);
        assert_eq!(waiting(&world).await.len(), 1);
        plan.arm(None);
        tick(&world, &host).await;
        assert_eq!(world.notices.story(), ["hook rotated"]);
        assert!(waiting(&world).await.is_empty());
    });
}

#[test]
fn an_entry_without_its_event_is_removed_and_not_told() {
    simulate(async {
        let (world, host, _) = world().await;
        rotate(&world, &host).await;
        let id = waiting(&world).await.remove(0);
        let real = world
            .storage
            .get(&format!("outbox/{id}"))
            .await
            .unwrap()
            .unwrap();
        let text = String::from_utf8(real.value.clone()).unwrap();
        let other = format!("{}{}", &id[..25], if id.ends_with('0') { '1' } else { '0' });
        let unused = if id.ends_with('Z') { 'Y' } else { 'Z' };
        for (key, text) in [
            (other.clone(), text.replace(&id, &other)),
            // The same event, with other words of the same person.
            (id.clone(), text.replace("\"why\"", "\"other\"")),
            (format!("{}{unused}", &id[..25]), text.clone()),
            (String::from("damaged"), String::from("{")),
        ] {
            let key = format!("outbox/{key}");
            let entry = StorageEntry::new(key, text.into_bytes());
            world.storage.put(entry).await.unwrap();
        }
        let next = world.sound_process();
        for _ in 0..3 {
            tick(&world, &next).await;
        }
        assert!(world.notices.delivered().is_empty());
        // What cannot be read is left to be looked at.
        let left = waiting(&world).await;
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.contains(&String::from("damaged")));
    });
}

/// A writer has put the entry and is about to put the record: nobody may take it for stale.
#[test]
fn an_entry_is_not_judged_while_its_writer_is_at_work() {
    simulate(async {
        let (world, _, _) = world().await;
        let plan = Plan::simulated();
        let host = world.process(&plan);
        plan.hold("put open/acme");
        world.later(3600).await;
        let writer = host.clone();
        let body = json!({ "incident_id": "INC-7", "reason": "stolen" });
        let resetting = async { writer.write("acme/reset", body).await };
        let looking = async {
            plan.holds().await;
            // Before the record, and after the entry.
            assert_eq!(waiting(&world).await.len(), 1);
            for _ in 0..3 {
                host.send(Operation::Rollback, "", json!({})).await.ok();
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            assert!(world.notices.delivered().is_empty());
            assert_eq!(waiting(&world).await.len(), 1);
            plan.release();
        };
        tokio::join!(resetting, looking);
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        let story = world.notices.story();
        assert_eq!(
            story,
            ["hook emergency_reset_started", "hook emergency_reset"]
        );
        assert!(waiting(&world).await.is_empty());
    });
}

/// The writer was killed, and its Put of the record reaches a slow storage after the next process
/// has looked.
#[test]
fn an_entry_whose_record_is_still_on_its_way_is_not_removed() {
    simulate(async {
        let (world, host, _) = world().await;
        let before = world.storage.get("tenant/acme").await.unwrap().unwrap();
        rotate(&world, &host).await;
        let after = world.storage.get("tenant/acme").await.unwrap().unwrap();
        let entry = waiting(&world).await;
        assert_eq!(entry.len(), 1);
        world.storage.put(before).await.unwrap();
        let next = world.sound_process();
        tick(&world, &next).await;
        assert_eq!(told(&world).get(&entry[0]), None);
        assert!(waiting(&world).await.contains(&entry[0]));
        world.storage.put(after).await.unwrap();
        let last = world.sound_process();
        tick(&world, &last).await;
        assert_eq!(told(&world).get(&entry[0]), Some(&1));
        assert!(!waiting(&world).await.contains(&entry[0]));
    });
}

#[test]
fn a_channel_that_hangs_delays_only_itself() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write("config/notify/ops", email()).await.ok();
        world.notices.let_it("hook", Does::Hangs);
        for round in 1..=3 {
            rotate(&world, &host).await;
            host.send(Operation::Rollback, "", json!({})).await.ok();
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            assert_eq!(world.notices.story().len(), 2 * round);
            assert_eq!(world.notices.attempts("hook"), 1);
        }
        assert_eq!(waiting(&world).await.len(), 3);
    });
}

#[test]
fn a_channel_that_fails_is_asked_ever_more_rarely_and_catches_up() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Failing));
        for _ in 0..4 {
            rotate(&world, &host).await;
        }
        for _ in 0..60 {
            tick(&world, &host).await;
        }
        // After 1, 2, 4, 8, 16 and 32 minutes, and not once per message.
        let attempts = world.notices.attempts("hook");
        assert!((5..=7).contains(&attempts), "{attempts}");
        let read = host.read(HOOK).await.ok();
        assert_eq!(
            (read.get("pending"), read.get("dead")),
            (&json!(4), &json!(0))
        );
        assert_eq!(read.get("last_error")["code"], "notify_failing");
        world.notices.mend("hook");
        for _ in 0..65 {
            tick(&world, &host).await;
        }
        assert_eq!(told(&world).len(), 4);
        let read = host.read(HOOK).await.ok();
        assert_eq!(
            (read.get("pending"), read.get("delivered")),
            (&json!(0), &json!(4))
        );
        assert_eq!(read.get("last_error"), &Value::Null);
    });
}

#[test]
fn what_is_given_up_is_kept_shown_and_tried_again_when_the_channel_is_written() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Denied));
        rotate(&world, &host).await;
        rotate(&world, &host).await;
        for _ in 0..60 {
            world.later(1_800).await;
            host.tick().await;
        }
        let read = host.read(HOOK).await.ok();
        assert_eq!(
            (read.get("pending"), read.get("dead")),
            (&json!(0), &json!(2))
        );
        assert_eq!(read.get("last_error")["code"], "notify_denied");
        let attempts = world.notices.attempts("hook");
        tick(&world, &host).await;
        assert_eq!(world.notices.attempts("hook"), attempts);
        // A new process knows it, too.
        let next = world.sound_process();
        tick(&world, &next).await;
        assert_eq!(next.read(HOOK).await.get("dead"), 2);
        world.notices.mend("hook");
        world.later(60).await;
        next.patch(HOOK, json!({})).await.ok();
        tick(&world, &next).await;
        assert_eq!(told(&world).len(), 2);
        let read = next.read(HOOK).await.ok();
        assert_eq!(
            (read.get("dead"), read.get("delivered")),
            (&json!(0), &json!(2))
        );
        assert!(waiting(&world).await.is_empty());
    });
}

#[test]
fn a_message_refused_for_good_is_given_up_and_keeps_nobody_waiting() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Rejected));
        rotate(&world, &host).await;
        for _ in 0..40 {
            tick(&world, &host).await;
        }
        assert_eq!(world.notices.attempts("hook"), 5);
        assert_eq!(host.read(HOOK).await.get("dead"), 1);
        world.notices.mend("hook");
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(told(&world).len(), 1);
        // What was given up goes after 30 days.
        world.later(31 * 24 * 3600).await;
        host.tick().await;
        assert!(waiting(&world).await.is_empty());
        assert_eq!(host.read(HOOK).await.get("dead"), 0);
    });
}

#[test]
fn with_a_channel_goes_what_waits_for_it() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Failing));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(waiting(&world).await.len(), 1);
        host.delete(HOOK).await.ok();
        world.notices.mend("hook");
        // One of the same name is another channel.
        host.write(HOOK, webhook()).await.ok();
        tick(&world, &host).await;
        assert!(waiting(&world).await.is_empty());
        assert!(world.notices.delivered().is_empty());
        assert_eq!(
            world.storage.list("notified/").await.unwrap(),
            Vec::<String>::new()
        );
    });
}

/// The record of `beta` is damaged after an event of it was to be told; its entry comes first.
#[test]
fn what_cannot_be_judged_is_given_up_in_the_end_and_is_in_nobodys_way() {
    simulate(async {
        let (world, host, _) = world().await;
        beta(&world, &host).await;
        let before = world.notices.story().len();
        world.later(3600).await;
        host.write("beta/rotate", json!({})).await.ok();
        let mut damaged = world.storage.get("tenant/beta").await.unwrap().unwrap();
        damaged.value = b"{".to_vec();
        world.storage.put(damaged).await.unwrap();
        world.later(60).await;
        host.write("acme/rotate", json!({})).await.ok();
        // Both wait for a process that knows nothing of either.
        assert_eq!(waiting(&world).await.len(), 2);
        let next = world.sound_process();
        next.tick().await;
        assert_eq!(world.notices.story()[before..], ["hook rotated"]);
        assert_eq!(waiting(&world).await.len(), 1);
        for _ in 0..60 {
            world.later(1_800).await;
            next.tick().await;
        }
        let read = next.read(HOOK).await.ok();
        assert_eq!(
            (read.get("pending"), read.get("dead")),
            (&json!(0), &json!(1))
        );
        assert_eq!(world.notices.story()[before..], ["hook rotated"]);
    });
}

/// What can be read when the outbox is looked at, and no more when it is to be removed or told.
#[test]
fn an_entry_that_is_damaged_later_is_in_nobodys_way() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write("config/notify/ops", email()).await.ok();
        world.notices.let_it("hook", Does::Fails(Error::Failing));
        world.notices.let_it("ops", Does::Fails(Error::Failing));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        let damaged = waiting(&world).await.remove(0);
        put(&world, &damaged, String::from("{")).await;
        // With the channel goes what waits for it, the damaged one too.
        host.delete("config/notify/ops").await.ok();
        world.notices.mend("hook");
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(world.notices.story(), ["hook rotated"]);
        assert_eq!(waiting(&world).await, [damaged]);
    });
}

/// Storage does not answer for one tenant, whose event comes first.
#[test]
fn what_cannot_be_read_comes_last() {
    simulate(async {
        let (world, host, _) = world().await;
        beta(&world, &host).await;
        let before = world.notices.story().len();
        world.later(3600).await;
        host.write("beta/rotate", json!({})).await.ok();
        world.later(60).await;
        host.write("acme/rotate", json!({})).await.ok();
        let plan = Plan::simulated();
        let next = world.process(&plan);
        plan.arm((0..2_000).map(|at| Fault {
            at,
            kind: Kind::Refused,
            after: false,
        }));
        plan.only("get tenant/beta");
        for _ in 0..3 {
            tick(&world, &next).await;
        }
        assert_eq!(world.notices.story()[before..], ["hook rotated"]);
        plan.arm(None);
        for _ in 0..3 {
            tick(&world, &next).await;
        }
        assert_eq!(
            world.notices.story()[before..],
            ["hook rotated", "hook rotated"]
        );
        assert!(waiting(&world).await.is_empty());
    });
}

/// Somebody corrects where a channel leads while its worker is at work.
#[test]
fn what_follows_a_write_of_the_channel_or_the_settings_goes_the_new_way() {
    for (path, body, place) in [
        (
            HOOK,
            json!({ "url": "https://elsewhere.ops.example/x", "hmac_key": "another-key-of-it" }),
            "elsewhere",
        ),
        (
            "config",
            json!({ "allowed_hosts": ["10.0.0.0/8"] }),
            "hooks",
        ),
    ] {
        simulate(async {
            let (world, host, plan) = world().await;
            rotate(&world, &host).await;
            rotate(&world, &host).await;
            let first = wanted(&host).await.remove(0);
            plan.hold(&format!("delete outbox/{first}"));
            let ticking = tick(&world, &host);
            let writing = async {
                plan.holds().await;
                host.patch(path, body).await.ok();
                plan.release();
            };
            tokio::join!(ticking, writing);
            assert_eq!(world.notices.story().len(), 1, "{path}");
            tick(&world, &host).await;
            let places = world.notices.places();
            assert_eq!(places.len(), 2, "{path}");
            assert!(places[0].contains("hooks.ops"), "{}", places[0]);
            assert!(places[1].contains(place), "{}", places[1]);
        });
    }
}

/// The channel fails for a day; somebody mends it while its worker gives up what waited.
#[test]
fn what_is_mended_meanwhile_is_not_given_up() {
    simulate(async {
        let (world, host, plan) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Denied));
        rotate(&world, &host).await;
        rotate(&world, &host).await;
        tick(&world, &host).await;
        world.later(25 * 3600).await;
        // What was tried least recently comes first.
        let second = wanted(&host).await.remove(1);
        plan.hold(&format!("put outbox/{second}"));
        let giving_up = tick(&world, &host);
        let mending = async {
            plan.holds().await;
            world.later(1).await;
            world.notices.mend("hook");
            host.patch(HOOK, json!({})).await.ok();
            plan.release();
        };
        tokio::join!(giving_up, mending);
        assert_eq!(world.notices.attempts("hook"), 2);
        for _ in 0..3 {
            tick(&world, &host).await;
        }
        assert_eq!(told(&world).len(), 2);
        assert!(waiting(&world).await.is_empty());
    });
}

/// The channel is written while its worker is at work, and a tick comes before that one ends.
#[test]
fn what_was_given_up_is_tried_again_even_if_the_channel_was_busy() {
    simulate(async {
        let (world, host, plan) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Rejected));
        rotate(&world, &host).await;
        for _ in 0..40 {
            tick(&world, &host).await;
        }
        assert_eq!(host.read(HOOK).await.get("dead"), 1);
        world.notices.mend("hook");
        rotate(&world, &host).await;
        let new = wanted(&host).await.remove(1);
        plan.hold(&format!("delete outbox/{new}"));
        let ticking = tick(&world, &host);
        let writing = async {
            plan.holds().await;
            host.patch(HOOK, json!({})).await.ok();
            host.send(Operation::Rollback, "", json!({})).await.ok();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            plan.release();
        };
        tokio::join!(ticking, writing);
        assert_eq!(told(&world).len(), 1);
        tick(&world, &host).await;
        assert_eq!(told(&world).len(), 2);
        assert!(waiting(&world).await.is_empty());
    });
}

/// A mail server has never seen the second address and lets it wait.
#[test]
fn each_address_of_a_channel_is_told_once_whatever_becomes_of_the_others() {
    simulate(async {
        let (world, host, _) = world().await;
        host.delete(HOOK).await.ok();
        let mut ops = with_no_addresses(email());
        ops["to"] = json!(["a@ops.example", "later@ops.example", "wrong@ops.example"]);
        host.write("config/notify/ops", ops).await.ok();
        let deferred = Does::FailsFor("later@ops.example", Error::Deferred);
        world.notices.let_it("ops", deferred);
        rotate(&world, &host).await;
        tick(&world, &host).await;
        let mut story = vec!["ops>a@ops.example rotated", "ops>wrong@ops.example rotated"];
        assert_eq!(world.notices.story(), story);
        let read = host.read("config/notify/ops").await.ok();
        assert_eq!(read.get("pending"), 1);
        assert_eq!(read.get("last_error")["code"], "notify_deferred");
        // A later process knows who has got it.
        let next = world.sound_process();
        world.later(600).await;
        next.tick().await;
        assert_eq!(world.notices.story(), story);
        world.notices.mend("ops");
        world.later(600).await;
        next.tick().await;
        story.push("ops>later@ops.example rotated");
        assert_eq!(world.notices.story(), story);
        assert!(waiting(&world).await.is_empty());
        // A wrong address shows, and keeps the message from nobody.
        let wrong = Does::FailsFor("wrong@ops.example", Error::Rejected);
        world.notices.let_it("ops", wrong);
        rotate(&world, &next).await;
        for _ in 0..40 {
            tick(&world, &next).await;
        }
        story.push("ops>a@ops.example rotated");
        story.push("ops>later@ops.example rotated");
        assert_eq!(world.notices.story(), story);
        assert_eq!(next.read("config/notify/ops").await.get("dead"), 1);
    });
}

/// A no of a mail server's.
const fn no(stage: SmtpStage, code: u16) -> Error {
    Error::Smtp(SmtpReply { stage, code })
}

/// Some of a channel's addresses are wrong, others only not known yet.
#[test]
fn an_address_that_is_refused_for_good_is_asked_for_once() {
    const EACH: &[(&str, Error)] = &[
        ("wrong@ops.example", no(SmtpStage::Recipient, 550)),
        ("later@ops.example", no(SmtpStage::Recipient, 450)),
    ];
    simulate(async {
        let (world, host, _) = world().await;
        host.delete(HOOK).await.ok();
        let mut ops = with_no_addresses(email());
        ops["to"] = json!(["wrong@ops.example", "a@ops.example", "later@ops.example"]);
        host.write("config/notify/ops", ops).await.ok();
        world.notices.let_it("ops", Does::FailsForEach(EACH));
        rotate(&world, &host).await;
        for _ in 0..10 {
            tick(&world, &host).await;
        }
        let asked = |whom: &str| {
            let line = format!("ops>{whom}@ops.example rotated");
            world
                .notices
                .asked()
                .iter()
                .filter(|it| **it == line)
                .count()
        };
        assert_eq!((asked("wrong"), asked("a")), (1, 1));
        assert!(asked("later") > 2);
        let read = host.read("config/notify/ops").await.ok();
        assert_eq!(read.get("pending"), 1, "{:?}", read.data);
        // A later process knows it, too.
        let next = world.sound_process();
        world.later(900).await;
        next.tick().await;
        assert_eq!((asked("wrong"), asked("a")), (1, 1));
        // Once nobody is left who may still get it, it is given up, and that shows.
        const WRONG: &[(&str, Error)] = &[EACH[0]];
        world.notices.let_it("ops", Does::FailsForEach(WRONG));
        for _ in 0..3 {
            world.later(3_600).await;
            next.tick().await;
        }
        assert_eq!(world.notices.story().len(), 2);
        let read = next.read("config/notify/ops").await.ok();
        assert_eq!(
            (read.get("pending"), read.get("dead")),
            (&json!(0), &json!(1))
        );
        assert_eq!(read.get("last_error")["code"], "notify_rejected");
        assert_eq!(asked("wrong"), 1);
        let found = attention(&next).await;
        assert_eq!(found, [("ops".to_owned(), "channel_dead".to_owned())]);
        // Whoever writes the channel says that it is mended: then it is asked again.
        world.notices.mend("ops");
        next.patch("config/notify/ops", json!({})).await.ok();
        tick(&world, &next).await;
        assert_eq!(
            (asked("wrong"), asked("a"), asked("later")),
            (2, 1, asked("later"))
        );
        assert_eq!(world.notices.story().len(), 3);
        assert!(waiting(&world).await.is_empty());
        assert!(attention(&next).await.is_empty());
    });
}

/// Channel and code of what `status` lists.
async fn attention(host: &Host) -> Vec<(String, String)> {
    let status = host.read("status").await.ok();
    let listed = status.get("attention").as_array().unwrap().iter();
    let text = |it: &Value| it.as_str().unwrap().to_owned();
    listed
        .filter(|it| !it["channel"].is_null())
        .map(|it| {
            assert_eq!(it["tenant"], "-");
            assert!(it["hint"].as_str().unwrap().contains("config/notify"));
            (text(&it["channel"]), text(&it["code"]))
        })
        .collect()
}

/// A mail server that refuses the channel itself for good is not asked again with every message and
/// every hour: whoever does that is put on lists.
#[test]
fn a_channel_that_is_refused_for_good_is_left_alone_for_a_day() {
    for refusal in [
        no(SmtpStage::Greeting, 554),
        no(SmtpStage::Hello, 501),
        no(SmtpStage::StartTls, 502),
        no(SmtpStage::Login, 535),
        no(SmtpStage::Sender, 550),
    ] {
        simulate(async {
            let (world, host, _) = world().await;
            world.notices.let_it("hook", Does::Fails(refusal));
            rotate(&world, &host).await;
            tick(&world, &host).await;
            assert_eq!(world.notices.attempts("hook"), 1);
            let found = [("hook".to_owned(), "channel_failing".to_owned())];
            assert_eq!(attention(&host).await, found, "at once: {refusal}");
            let read = host.read(HOOK).await.ok();
            let words = read.get("last_error")["message"].as_str().unwrap();
            assert!(words.contains("answered"), "{words}");
            for _ in 0..11 {
                rotate(&world, &host).await;
                world.later(3_600).await;
                host.tick().await;
            }
            assert_eq!(world.notices.attempts("hook"), 1, "{refusal}");
            // A later process knows it, too.
            drop(host);
            let host = world.sound_process();
            tick(&world, &host).await;
            assert_eq!(world.notices.attempts("hook"), 1, "{refusal}");
            assert_eq!(attention(&host).await, found);
            // After that once more.
            world.later(3 * 3_600).await;
            host.tick().await;
            assert_eq!(world.notices.attempts("hook"), 2, "{refusal}");
            world.later(600).await;
            host.tick().await;
            assert_eq!(world.notices.attempts("hook"), 2, "{refusal}");
            // A test that gets through ends it, and so does a write.
            world.notices.mend("hook");
            if refusal == no(SmtpStage::Hello, 501) {
                host.write("config/notify/hook/test", json!({})).await.ok();
            } else {
                host.patch(HOOK, json!({})).await.ok();
            }
            world.later(3_600).await;
            host.tick().await;
            assert!(told(&world).len() > 8, "{:?}", told(&world));
            assert_eq!(host.read(HOOK).await.get("last_error"), &Value::Null);
        });
    }
}

/// What is refused for now is tried again soon, at whatever stage.
#[test]
fn a_channel_that_is_refused_for_now_is_tried_again() {
    for refusal in [
        no(SmtpStage::Greeting, 421),
        no(SmtpStage::Hello, 451),
        no(SmtpStage::Login, 454),
        no(SmtpStage::Sender, 452),
        no(SmtpStage::Text, 451),
    ] {
        simulate(async {
            let (world, host, _) = world().await;
            world.notices.let_it("hook", Does::Fails(refusal));
            rotate(&world, &host).await;
            for _ in 0..4 {
                tick(&world, &host).await;
            }
            assert!(world.notices.attempts("hook") > 1, "{refusal}");
            assert!(attention(&host).await.is_empty(), "not for long yet");
            if refusal == no(SmtpStage::Greeting, 421) {
                world.later(2 * 3_600).await;
                host.tick().await;
                let found = [("hook".to_owned(), "channel_failing".to_owned())];
                assert_eq!(attention(&host).await, found);
            }
            world.notices.mend("hook");
            world.later(3_600).await;
            host.tick().await;
            host.tick().await;
            assert_eq!(told(&world).len(), 1, "{refusal}");
            assert!(attention(&host).await.is_empty());
        });
    }
}

/// The queue of a chat that takes one message a second is empty after as many seconds, not after as
/// many ticks.
#[test]
fn a_queue_empties_at_the_pace_of_its_channel_and_what_is_critical_comes_first() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write("config", json!({ "min_rotation_interval": 0 }))
            .await
            .ok();
        for _ in 0..30 {
            host.write("acme/rotate", json!({})).await.ok();
        }
        let body = json!({ "incident_id": "INC-7", "reason": "stolen" });
        host.write("acme/reset", body).await.ok();
        world.notices.let_it("hook", Does::OneASecond);
        world.later(60).await;
        let before = world.clock.now();
        host.tick().await;
        let took = (world.clock.now() - before).num_seconds();
        let story = world.notices.story();
        let (first, rest) = story.split_at(2);
        let resets = ["hook emergency_reset_started", "hook emergency_reset"];
        assert_eq!(first, resets);
        assert_eq!(rest.len(), 30, "{rest:?}");
        assert!((31..60).contains(&took), "{took}");
        assert!(waiting(&world).await.is_empty());
        let read = host.read(HOOK).await.ok();
        assert_eq!(read.get("delivered"), 32);
    });
}

/// A reset is made while the channel still works off what was there before.
#[test]
fn what_is_critical_overtakes_a_queue_that_is_being_told() {
    simulate(async {
        let (world, host, _) = world().await;
        host.write("config", json!({ "min_rotation_interval": 0 }))
            .await
            .ok();
        for _ in 0..30 {
            host.write("acme/rotate", json!({})).await.ok();
        }
        world.notices.let_it("hook", Does::OneASecond);
        world.later(60).await;
        let resetting = async {
            tokio::time::sleep(std::time::Duration::from_millis(5_500)).await;
            let told = world.notices.story().len();
            let body = json!({ "incident_id": "INC-7", "reason": "stolen" });
            host.write("acme/reset", body).await.ok();
            told
        };
        let (told, ()) = tokio::join!(resetting, host.tick());
        let story = world.notices.story();
        assert!((3..10).contains(&told), "{told}");
        assert_eq!(story.len(), 32);
        let resets = story.iter().skip(told).take(4);
        let resets = resets.filter(|it| it.contains("reset")).count();
        assert_eq!(resets, 2, "{story:?}");
    });
}

/// A host that always asks for one more second is not asked every second.
#[test]
fn a_channel_that_keeps_asking_for_patience_is_not_hammered() {
    simulate(async {
        let (world, host, _) = world().await;
        let busy = Error::Busy {
            retry_after: Some(std::time::Duration::from_secs(1)),
        };
        world.notices.let_it("hook", Does::Fails(busy));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        assert_eq!(world.notices.attempts("hook"), 4);
        for _ in 0..60 {
            tick(&world, &host).await;
        }
        let attempts = world.notices.attempts("hook");
        assert!((8..40).contains(&attempts), "{attempts}");
        world.notices.mend("hook");
        world.later(3_600).await;
        host.tick().await;
        assert_eq!(told(&world).len(), 1);
    });
}

/// Copies the only entry that waits, so that there are `count` of them, each altered.
async fn multiply(world: &World, count: usize, alter: impl Fn(String) -> String) {
    let id = waiting(world).await.remove(0);
    let text = stored(world, &id).await;
    for number in 1..count {
        let other = format!("{}{number:06}", &id[..20]);
        put(world, &other, alter(text.replace(&id, &other))).await;
    }
}

async fn stored(world: &World, id: &str) -> String {
    let key = format!("outbox/{id}");
    let entry = world.storage.get(&key).await.unwrap().unwrap();
    String::from_utf8(entry.value.clone()).unwrap()
}

async fn put(world: &World, id: &str, text: String) {
    let entry = StorageEntry::new(format!("outbox/{id}"), text.into_bytes());
    world.storage.put(entry).await.unwrap();
}

/// Who is told by the entries that were written since `before`.
async fn told_since(world: &World, before: &[String]) -> Vec<String> {
    let mut told = Vec::new();
    for id in waiting(world).await {
        if !before.contains(&id) {
            let entry: Value = serde_json::from_str(&stored(world, &id).await).unwrap();
            let event = entry["event"]["event"].as_str().unwrap();
            let event = event.strip_prefix("smtp_credentials_").unwrap();
            for delivery in entry["deliveries"].as_array().unwrap() {
                let channel = delivery["channel"].as_str().unwrap();
                told.push(format!("{channel} {event}"));
            }
        }
    }
    told.sort();
    told
}

#[test]
fn a_channel_for_which_too_much_waits_is_told_what_went_wrong_and_no_completions() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Failing));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        multiply(&world, 10_000, |text| text).await;
        let next = world.sound_process();
        // The rest of the only one that was tried is not over: the others are not judged.
        next.tick().await;
        let before = waiting(&world).await;
        assert!(before.len() >= 10_000, "{}", before.len());
        next.write("config", json!({ "min_rotation_interval": 0 }))
            .await
            .ok();
        let ops = with_no_addresses(email());
        next.write("config/notify/ops", ops).await.ok();
        next.write("acme/rotate", json!({})).await.ok();
        // The others are told of everything.
        assert_eq!(told_since(&world, &before).await, ["ops rotated"]);
        let before = waiting(&world).await;
        let body = json!({ "incident_id": "INC-7", "reason": "stolen" });
        next.write("acme/reset", body).await.ok();
        assert_eq!(
            told_since(&world, &before).await,
            [
                "hook emergency_reset",
                "hook emergency_reset_started",
                "ops emergency_reset",
                "ops emergency_reset_started",
            ]
        );
        let status = next.read("status").await.ok();
        assert_eq!(status.get("notifications")["dropped"], 1);
    });
}

/// The channel's URL was revoked months ago: what was given up takes no place from what is new.
#[test]
fn what_was_given_up_does_not_count_as_waiting_and_is_not_kept_without_end() {
    simulate(async {
        let (world, host, _) = world().await;
        world.notices.let_it("hook", Does::Fails(Error::Failing));
        rotate(&world, &host).await;
        tick(&world, &host).await;
        let dead_since = format!("\"dead_since\":{}", json!(world.clock.now()));
        multiply(&world, 12_100, |text| {
            text.replace("\"dead_since\":null", &dead_since)
        })
        .await;
        let next = world.sound_process();
        world.notices.mend("hook");
        next.tick().await;
        let read = next.read(HOOK).await.ok();
        assert_eq!(read.get("dead"), 2_000, "the newest are kept");
        let status = next.read("status").await.ok();
        assert_eq!(status.get("notifications")["dropped"], 10_099);
        let before = waiting(&world).await;
        rotate(&world, &next).await;
        assert_eq!(told_since(&world, &before).await, ["hook rotated"]);
    });
}

fn with_no_addresses(mut channel: Value) -> Value {
    channel["allowed_domains"] = json!([]);
    channel
}
