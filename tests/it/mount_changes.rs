//! Changes of what the mount stores beside its tenants, interrupted between the event before, the
//! Put and the event after it: no setting is in force whose end is no event.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::Host;
use crate::support::faults::{Kind, Plan};
use crate::support::world::{World, simulate};

/// What is changed, and the call that changes it.
#[derive(Clone, Copy, Debug)]
struct Change {
    operation: Operation,
    path: &'static str,
    call: &'static str,
}

const WRITE: Operation = Operation::Update;

const CHANGES: [Change; 7] = [
    Change::new(WRITE, "config", "put config"),
    Change::new(WRITE, "config/alerts", "put config/alerts"),
    Change::new(WRITE, "config/notify/ops", "put config/notify/ops"),
    Change::new(
        Operation::Delete,
        "config/notify/old",
        "delete config/notify/old",
    ),
    Change::new(WRITE, "config/audit", "put config/audit"),
    Change::new(Operation::Delete, "config/audit", "delete config/audit"),
    Change::new(WRITE, "config/keyring/rotate", "cas keyring-copy"),
];

impl Change {
    const fn new(operation: Operation, path: &'static str, call: &'static str) -> Self {
        Self {
            operation,
            path,
            call,
        }
    }

    fn body(self) -> Value {
        match (self.operation, self.path) {
            (WRITE, "config") => json!({ "allowed_hosts": "0.0.0.0/0" }),
            (WRITE, "config/alerts") => json!({ "reveals_per_hour": 7 }),
            (WRITE, "config/notify/ops") => json!({ "type": "webhook",
                "url": "https://hooks.ops.example/smtp", "hmac_key": "key-of-the-signature" }),
            (WRITE, "config/audit") => json!({ "mode": "external" }),
            _ => json!({}),
        }
    }

    async fn ask(self, host: &Host) -> crate::support::engine::Answer {
        host.send(self.operation, self.path, self.body()).await
    }
}

/// A mount with something to change; storage can fail.
async fn rig() -> (World, Plan, Host) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    host.write("config", json!({ "max_versions": 7 }))
        .await
        .ok();
    host.write("config/audit", json!({ "mode": "external" }))
        .await
        .ok();
    let channel = json!({ "type": "webhook", "url": "https://hooks.old.example/smtp",
        "hmac_key": "key-of-the-signature" });
    host.write("config/notify/old", channel).await.ok();
    (world, plan, host)
}

/// The mount's events, oldest first.
async fn events(host: &Host) -> Vec<Value> {
    let only = json!({ "tenant": "-", "limit": 200 });
    let read = host.send(Operation::Read, "events", only).await.ok();
    let mut events = read.get("events").as_array().cloned().unwrap();
    events.reverse();
    events
}

/// How the changes of these events ended, each by the request that made it.
fn ends(events: &[Value], what: &str) -> Vec<String> {
    let started = events.iter().filter(|it| it["outcome"] == "started");
    let end = |begun: &Value| {
        let same = |it: &&Value| {
            it["request_id"] == begun["request_id"]
                && (&it["event"], &it["changed"]) == (&begun["event"], &begun["changed"])
                && it["outcome"] != "started"
        };
        let ends: Vec<_> = events.iter().filter(same).collect();
        assert_eq!(ends.len(), 1, "{what}: the ends of {begun:#}");
        assert_eq!(ends[0]["user_id"], begun["user_id"], "{what}");
        ends[0]["outcome"].as_str().unwrap().to_owned()
    };
    started.map(end).collect()
}

/// A write whose end is not stored answers an error, and its repeat finds the setting in force.
#[test]
fn a_repeat_tells_the_end_that_could_not_be_told() {
    for change in CHANGES {
        simulate(async {
            let (_world, plan, host) = rig().await;
            let before = events(&host).await.len();
            plan.arm_named("put mountlog", 1, Kind::Refused, false);
            change.ask(&host).await.fails(500, "storage_error");
            assert_eq!(plan.ahead(), [], "{change:?}");
            change.ask(&host).await.ok();
            let told = events(&host).await;
            let ends = ends(&told[before..], &format!("{change:?}"));
            assert!(!ends.is_empty() && ends.iter().all(|it| it == "success"));
        });
    }
}

/// Nobody has to ask again: the process that comes next sees what became of it.
#[test]
fn a_change_that_a_crash_cut_off_is_told_by_the_next_process() {
    for change in CHANGES {
        for after in [true, false] {
            simulate(async {
                let (world, plan, host) = rig().await;
                let before = events(&host).await.len();
                plan.arm_named(change.call, 0, Kind::Crash, after);
                tokio::select! {
                    answer = change.ask(&host) => panic!("{change:?}: {answer:?}"),
                    () = plan.crashed() => {}
                }
                let next = world.sound_process();
                for _ in 0..2 {
                    next.tick().await;
                    next.backend.idle().await;
                }
                let told = events(&next).await;
                let what = format!("{change:?}, after its effect: {after}");
                // What is done by half is completed.
                let is_made = after || change.call == "cas keyring-copy";
                let end = if is_made { "success" } else { "failure" };
                assert_eq!(ends(&told[before..], &what), [end], "{what}");
            });
        }
    }
}

/// What storage says is not what became of it.
#[test]
fn a_put_whose_answer_got_lost_is_told_as_what_it_did() {
    for change in CHANGES {
        for (kind, after, end) in [
            (Kind::Unknown, true, "success"),
            (Kind::Refused, true, "success"),
            (Kind::Refused, false, "failure"),
        ] {
            simulate(async {
                let (_world, plan, host) = rig().await;
                let before = events(&host).await.len();
                plan.arm_named(change.call, 0, kind, after);
                let first = change.ask(&host).await;
                let what = format!("{change:?} {kind:?} {after}: {first:?}");
                assert_eq!(first.status < 300, kind != Kind::Unknown && after, "{what}");
                // A keyring of which one copy was changed is completed.
                let is_half = !after && change.call == "cas keyring-copy";
                if is_half {
                    host.tick().await;
                }
                host.backend.idle().await;
                let told = events(&host).await;
                let told = ends(&told[before..], &what);
                let end = if is_half { "success" } else { end };
                assert_eq!(told, [end], "{what}");
            });
        }
    }
}
