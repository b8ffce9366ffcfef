//! What a client repeats is not done again, and whoever waits is bounded: in simulated time, with
//! the tenant's record held in the middle of being written.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::engine::{Answer, Host};
use crate::support::faults::Plan;
use crate::support::world::{ACCOUNT, SERVER, World, simulate};
use vault_plugin_secrets_smtp::logical::Operation;

/// `acme` has a credential; storage can be held.
async fn created() -> (World, Host, Plan) {
    let world = World::new();
    let plan = Plan::simulated();
    let host = world.process(&plan);
    world.configure(&host, "acme").await;
    let body = json!({ "username": ACCOUNT });
    host.write("acme/admin", body).await.ok();
    world.later(3600).await;
    (world, host, plan)
}

/// The next Put of the tenant's record waits.
fn hold(plan: &Plan) {
    plan.hold("cas tenant/acme");
}

async fn look(host: &Host) -> Answer {
    host.write("acme/reveal", json!({ "reason": "on call" }))
        .await
}

async fn count(host: &Host, event: &str) -> usize {
    let story = host.story("acme").await;
    story.iter().filter(|name| *name == event).count()
}

fn caller(host: &Host, name: &str) -> Host {
    let mut host = host.clone();
    host.caller = format!("userpass-{name}");
    host
}

#[test]
fn a_look_that_a_client_repeats_by_itself_is_one_look() {
    simulate(async {
        let (_world, host, plan) = created().await;
        host.write("config", json!({ "rotate_after_reveal": true }))
            .await
            .ok();
        hold(&plan);
        host.write("acme/pause", json!({ "until": "1d" }))
            .await
            .fails(503, "not_stored");
        for _ in 0..3 {
            look(&host).await.fails(503, "not_stored");
        }
        plan.release();
        let seen = look(&host).await.ok();
        assert!(!seen.text_of("password").is_empty());
        host.backend.idle().await;
        assert_eq!(count(&host, "revealed").await, 1);
        assert_eq!(
            count(&host, "smtp_suspicious_activity(many_reveals)").await,
            0
        );
        assert_eq!(
            host.events("acme").await.last().unwrap()["event_id"],
            seen.data["event_id"]
        );
        // Whoever looks once more is recorded once more.
        look(&host).await.ok();
        assert_eq!(count(&host, "revealed").await, 2);
    });
}

#[test]
fn a_look_that_nobody_waits_for_any_more_is_none() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        host.write("acme/pause", json!({ "until": "1d" }))
            .await
            .fails(503, "not_stored");
        look(&host).await.fails(503, "not_stored");
        plan.release();
        host.backend.idle().await;
        assert_eq!(count(&host, "revealed").await, 0);
        let credential = host.read("acme/admin").await.ok();
        assert_eq!(credential.get("state"), "settled");
    });
}

#[test]
fn a_recorded_look_waits_for_its_repeat_whatever_else_was_done_with_the_tenant() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        look(&host).await.fails(503, "not_stored");
        plan.release();
        host.backend.idle().await;
        assert_eq!(count(&host, "revealed").await, 1);
        let bob = caller(&host, "bob");
        bob.write("acme/verify", json!({})).await.ok();
        let seen = look(&host).await.ok();
        assert!(!seen.text_of("password").is_empty());
        assert_eq!(count(&host, "revealed").await, 1);
        // What was changed meanwhile is another look.
        hold(&plan);
        look(&host).await.fails(503, "not_stored");
        plan.release();
        bob.write("acme/rotate", json!({})).await.ok();
        let seen = look(&host).await.ok();
        assert_eq!(seen.get("version"), 2);
        assert_eq!(count(&host, "revealed").await, 3);
        // Nobody is shown what is gone.
        hold(&plan);
        look(&host).await.fails(503, "not_stored");
        plan.release();
        host.backend.idle().await;
        bob.delete("acme/admin").await.ok();
        look(&host).await.fails(409, "deleted");
    });
}

#[test]
fn of_two_who_wait_for_one_look_one_is_shown_it() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        let release = async {
            plan.holds().await;
            plan.release();
        };
        let (one, two, ()) = tokio::join!(look(&host), look(&host), release);
        let mut answers = [one, two];
        answers.sort_by_key(|answer| answer.status);
        let [shown, refused] = answers;
        assert!(!shown.ok().text_of("password").is_empty());
        refused.fails(409, "shown_to_another");
        assert_eq!(count(&host, "revealed").await, 1);
    });
}

#[test]
fn waiters_are_bounded_and_emergencies_have_places_of_their_own() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        host.write("acme/pause", json!({ "until": "1d" }))
            .await
            .fails(503, "not_stored");
        let looks = (0..20).map(|number| {
            let host = host.clone();
            let body = json!({ "reason": format!("look {number}") });
            async move { host.write("acme/reveal", body).await }
        });
        let codes = |answers: &[Answer], code: &str| {
            let those = answers
                .iter()
                .filter(|it| (it.status, it.code.as_str()) == (503, code));
            those.count()
        };
        let answers = join_all(looks).await;
        // What was left behind has a place as well.
        assert_eq!(codes(&answers, "not_stored"), 7, "{answers:?}");
        assert_eq!(codes(&answers, "busy"), 13);
        assert!(
            answers
                .iter()
                .all(|it| it.code != "busy" || it.text.contains("Nothing was begun"))
        );
        let orders = (0..12).map(|number| {
            let host = caller(&host, &format!("responder-{number}"));
            // The last two are for the incident of the first.
            let incident = if number < 10 { number } else { 0 };
            let body = json!({ "incident_id": format!("INC-{incident}"), "reason": "stolen" });
            async move { host.write("acme/reset", body).await }
        });
        let answers = join_all(orders).await;
        // The tenant is somebody else's, so nothing is promised yet; two wait for another's reset.
        let left = codes(&answers, "not_stored");
        assert_eq!(left, 10, "{answers:?}");
        assert_eq!(codes(&answers[8..10], "busy"), 2);
        plan.release();
        host.backend.idle().await;
        assert_eq!(count(&host, "revealed").await, 0);
    });
}

/// Work that was left has a place: the repeat that joins it needs no other one.
#[test]
fn a_repeat_joins_its_own_work_when_all_places_are_taken() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        host.write("acme/pause", json!({ "until": "1d" }))
            .await
            .fails(503, "not_stored");
        let ask = |number: usize| {
            let host = host.clone();
            let body = json!({ "reason": format!("look {number}") });
            async move { host.write("acme/reveal", body).await }
        };
        for answer in join_all((0..7).map(ask)).await {
            answer.fails(503, "not_stored");
        }
        // All eight are taken by what was left.
        ask(7).await.fails(503, "busy");
        for number in 0..7 {
            ask(number).await.fails(503, "not_stored");
        }
        let pause = json!({ "until": "1d" });
        host.write("acme/pause", pause)
            .await
            .fails(503, "not_stored");
        // A second one who waits beside the first takes a place, and there is none.
        let (one, two) = tokio::join!(ask(0), ask(0));
        let mut codes = [one.code, two.code];
        codes.sort();
        assert_eq!(codes, ["busy", "not_stored"]);
        plan.release();
        host.backend.idle().await;
        assert_eq!(count(&host, "revealed").await, 0);
    });
}

/// What is made or tidied up beside it is not what was asked for.
#[test]
fn a_put_beside_it_is_no_promise() {
    simulate(async {
        let world = World::new();
        let plan = Plan::simulated();
        let host = world.process(&plan);
        // The first write of a mount makes its keyring.
        plan.hold("put config");
        let body = json!({ "max_versions": 7 });
        host.write("config", body.clone())
            .await
            .fails(503, "not_stored");
        assert!(plan.calls().iter().any(|call| call == "cas keyring"));
        plan.release();
        host.write("config", body).await.ok();
        assert_eq!(host.read("config").await.get("max_versions"), 7);
    });
}

#[test]
fn an_emergency_without_a_place_of_its_own_joins_the_reset_of_its_incident() {
    simulate(async {
        let (_world, host, plan) = created().await;
        let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
        let hosts: Vec<_> = (0..10)
            .map(|it| caller(&host, &format!("r-{it}")))
            .collect();
        hold(&plan);
        let orders = hosts
            .iter()
            .map(|host| host.write("acme/reset", order.clone()));
        let release = async {
            plan.holds().await;
            plan.release();
        };
        let (answers, ()) = tokio::join!(join_all(orders), release);
        let passwords: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.ok().text_of("password").to_owned())
            .collect();
        assert!(
            passwords
                .iter()
                .all(|it| *it == passwords[0] && !it.is_empty())
        );
        // Each who was shown it is recorded: one by the reset, the others as having looked.
        assert_eq!(count(&host, "emergency_reset").await, 1);
        assert_eq!(count(&host, "revealed").await, 9);
    });
}

/// It waits behind those of its incident, and what it asks for beside them is not begun.
#[test]
fn an_emergency_that_only_waits_for_another_is_promised_nothing() {
    simulate(async {
        let (_world, host, plan) = created().await;
        hold(&plan);
        host.write("acme/pause", json!({ "until": "1d" }))
            .await
            .fails(503, "not_stored");
        let orders = (0..9).map(|number| {
            let host = caller(&host, &format!("responder-{number}"));
            let hold = number == 8;
            let body = json!({ "incident_id": "INC-1", "reason": "stolen", "hold": hold });
            async move { host.write("acme/reset", body).await }
        });
        for answer in join_all(orders).await {
            answer.fails(503, "not_stored");
        }
        plan.release();
        host.backend.idle().await;
    });
}

/// What needs no mail server is stored by the end of the wait, or nothing is promised.
#[test]
fn a_write_that_is_not_stored_in_time_is_promised_nothing() {
    simulate(async {
        let (world, host, plan) = created().await;
        let server = json!({ "api_token": "another", "request_timeout": "11s" });
        let channel = json!({ "type": "webhook", "url": "https://hooks.ops.example/smtp",
            "hmac_key": "key-of-the-signature" });
        let batch = json!({ "action": "rotate", "tenants": "acme", "reason": "x" });
        for (held, path, body) in [
            ("cas tenant/acme", "acme/config", server),
            ("put config", "config", json!({ "max_versions": 7 })),
            (
                "put config/alerts",
                "config/alerts",
                json!({ "reveals_per_hour": 7 }),
            ),
            ("put config/notify/ops", "config/notify/ops", channel),
            ("put batch/", "batches", batch),
        ] {
            plan.hold(held);
            host.write(path, body.clone())
                .await
                .fails(503, "not_stored");
            plan.release();
            host.backend.idle().await;
            // The work went on; a repeat finds its end.
            let repeated = host.write(path, body).await;
            assert!(matches!(repeated.status, 200 | 204), "{path}: {repeated:?}");
        }
        drop(world);
    });
}

#[test]
fn callers_without_an_entity_are_told_apart_by_their_tokens() {
    simulate(async {
        let (_world, mut host, _plan) = created().await;
        host.entities = false;
        host.caller = String::from("token");
        let mut other = host.clone();
        other.token = String::from("accessor-2");
        let rotate = json!({});
        let (one, two) = tokio::join!(
            host.write("acme/rotate", rotate.clone()),
            other.write("acme/rotate", rotate.clone()),
        );
        one.ok();
        two.fails(409, "too_soon");
        // Nothing is known of these two: they are not one.
        for unknown in [&mut host, &mut other] {
            unknown.token = String::new();
        }
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
        let (one, two) = tokio::join!(
            host.write("acme/rotate", rotate.clone()),
            other.write("acme/rotate", rotate),
        );
        one.ok();
        two.fails(409, "too_soon");
    });
}

#[test]
fn a_reset_is_repeated_for_the_same_token_only() {
    simulate(async {
        let (_world, mut host, _plan) = created().await;
        let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
        for entities in [true, false] {
            host.entities = entities;
            host.token = String::from("accessor-1");
            tokio::time::advance(std::time::Duration::from_secs(3600)).await;
            let first = host.write("acme/reset", order.clone()).await.ok();
            let again = host.write("acme/reset", order.clone()).await.ok();
            assert_eq!(again.get("version"), first.get("version"));
            assert_eq!(again.get("repeated"), true);
            host.token = String::from("accessor-2");
            tokio::time::advance(std::time::Duration::from_secs(60)).await;
            let other = host.write("acme/reset", order.clone()).await.ok();
            assert_ne!(other.get("version"), first.get("version"));
            assert_eq!(other.get("repeated"), false);
        }
        let stored = host
            .mount
            .storage
            .get("tenant/acme")
            .await
            .unwrap()
            .unwrap();
        let stored = String::from_utf8(stored.value.clone()).unwrap();
        assert!(
            !stored.contains("accessor-"),
            "a digest is kept, not the accessor"
        );
    });
}

#[test]
fn every_write_of_a_tenant_is_joined_by_its_repeats() {
    simulate(async {
        let (_world, host, plan) = created().await;
        let write = Operation::Update;
        let steps: [(Operation, &str, Value); 7] = [
            (write, "acme/pause", json!({ "until": "14d" })),
            (write, "acme/resume", json!({})),
            (write, "acme/config", json!({ "request_timeout": "11s" })),
            (
                write,
                "acme/admin",
                json!({ "admin_emails": "ops@example.test" }),
            ),
            (Operation::Delete, "acme/admin", json!({})),
            (write, "acme/undelete", json!({ "reason": "by mistake" })),
            (
                write,
                "acme/destroy",
                json!({ "reason": "left", "confirm": "acme" }),
            ),
        ];
        for (operation, path, body) in steps {
            let before = host.events("acme").await.len();
            hold(&plan);
            for _ in 0..3 {
                let answer = host.send(operation, path, body.clone()).await;
                // Nothing is promised before it is stored.
                answer.fails(503, "not_stored");
            }
            plan.release();
            host.send(operation, path, body.clone()).await.ok();
            host.backend.idle().await;
            let events = host.events("acme").await;
            assert!(
                events.len() - before <= 1,
                "{path}: {:#?}",
                &events[before..]
            );
        }
    });
}

#[test]
fn a_write_of_settings_is_joined_until_somebody_writes_something_else() {
    simulate(async {
        let (_world, host, plan) = created().await;
        let events = async || {
            let read = host.read("events").await.ok();
            let events = read.get("events").as_array().cloned().unwrap_or_default();
            let own = |event: &&Value| event["event"] == "smtp_config_changed";
            let seqs = events.iter().filter(own).map(|event| event["seq"].clone());
            seqs.collect::<Vec<_>>().len()
        };
        let before = events().await;
        plan.hold("put config");
        for _ in 0..3 {
            let body = json!({ "reveal_ttl": "5m" });
            host.write("config", body).await.fails(503, "not_stored");
        }
        plan.release();
        host.write("config", json!({ "reveal_ttl": "5m" }))
            .await
            .ok();
        assert_eq!(events().await - before, 2, "before and after");
        // An outcome that waits for its repeat is not the answer to what is another change by now.
        plan.hold("put config");
        let body = json!({ "reveal_ttl": "6m" });
        host.write("config", body).await.fails(503, "not_stored");
        plan.release();
        host.backend.idle().await;
        host.write("config", json!({ "reveal_ttl": "7m" }))
            .await
            .ok();
        host.write("config", json!({ "reveal_ttl": "6m" }))
            .await
            .ok();
        assert_eq!(host.read("config").await.get("reveal_ttl"), 360);
    });
}

/// A reset that stays open is asked for again and again, with a new token each time.
#[test]
fn whoever_polls_an_open_reset_is_told_once() {
    simulate(async {
        let (world, mut host, _plan) = created().await;
        world.mail.silence(SERVER, true);
        let order = json!({ "incident_id": "INC-1", "reason": "stolen" });
        for _ in 0..3 {
            for token in ["accessor-1", "accessor-2"] {
                host.token = String::from(token);
                host.write("acme/reset", order.clone()).await;
                world.later(60).await;
            }
        }
        assert_eq!(count(&host, "emergency_reset_started").await, 2);
        for number in 0..40 {
            host.token = format!("another-{number}");
            host.write("acme/reset", order.clone()).await;
            world.later(60).await;
        }
        let told = count(&host, "emergency_reset_started").await;
        assert!((3..=17).contains(&told), "{told}");
    });
}
