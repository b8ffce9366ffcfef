//! Failures in a loop: counted, told at the 1st, 10th, 100th, …, and what has to be remembered is not
//! pushed out by them.

use serde_json::{Value, json};

use crate::support::engine::Host;
use crate::support::faults::Plan;
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, FIRST, SERVER, World, simulate};

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

async fn count(host: &Host, name: &str) -> usize {
    let story = host.story("acme").await;
    story.iter().filter(|it| it.starts_with(name)).count()
}

async fn refused(host: &Host, times: usize) {
    for _ in 0..times {
        let answer = host.write("acme/rotate", json!({})).await;
        answer.fails(400, "mailu_no_such_account");
    }
}

fn puts(plan: &Plan) -> usize {
    let calls = plan.calls();
    calls
        .iter()
        .filter(|call| *call == "cas tenant/acme")
        .count()
}

/// What is stored of how often a caller failed.
async fn stored(world: &World) -> Vec<(String, u64)> {
    let record = world.record("acme").await.unwrap();
    let kinds = record.tally.failures.iter();
    kinds.map(|it| (it.user_id.clone(), it.count)).collect()
}

#[test]
fn a_client_that_fails_in_a_loop_stores_little_and_is_told_ever_less_often() {
    simulate(async {
        let (world, host, plan) = created().await;
        world.mail.remove(SERVER, ACCOUNT);
        plan.arm([]);
        let before = host.events("acme").await.len();
        refused(&host, 1_000).await;
        assert_eq!(
            count(&host, "rotation_failed").await,
            5,
            "1, 10, 100, 1,000 and the alert's"
        );
        let events = host.events("acme").await.len() - before;
        assert_eq!(events, 5 + 2, "the drift and the alert");
        assert!(puts(&plan) <= 5, "{}", puts(&plan));
        let status = host.read("acme/status").await.ok();
        assert_eq!(status.get("last_error")["attempts"], 1_000);
        let kind = &status.get("failures")[0];
        assert_eq!(kind["code"], "mailu_no_such_account");
        assert_eq!(kind["user_id"], "entity-of-userpass-alice");
        assert_eq!(kind["count"], 1_000);
        // Somebody else's are another kind.
        let mut bob = host.clone();
        bob.caller = String::from("userpass-bob");
        refused(&bob, 9).await;
        assert_eq!(count(&host, "rotation_failed").await, 6);
        refused(&bob, 1).await;
        assert_eq!(count(&host, "rotation_failed").await, 7);
    });
}

#[test]
fn what_was_counted_is_stored_with_the_next_put_and_hourly() {
    simulate(async {
        let (world, host, _plan) = created().await;
        world.mail.remove(SERVER, ACCOUNT);
        let alice = String::from("entity-of-userpass-alice");
        refused(&host, 4).await;
        assert_eq!(stored(&world).await, [(alice.clone(), 1)]);
        host.write("acme/pause", json!({ "until": "90d" }))
            .await
            .ok();
        assert_eq!(stored(&world).await, [(alice.clone(), 4)]);
        refused(&host, 1).await;
        world.later(3_599).await;
        host.tick().await;
        let before = host.events("acme").await.len();
        world.later(61).await;
        host.tick().await;
        assert_eq!(stored(&world).await, [(alice.clone(), 5)]);
        assert_eq!(host.events("acme").await.len(), before);
        // Another process goes on counting, and a success begins nothing anew.
        let next = world.sound_process();
        world.mail.put(SERVER, ACCOUNT, Mailbox::new(FIRST));
        next.write("acme/rotate", json!({})).await.ok();
        world.mail.remove(SERVER, ACCOUNT);
        world.later(3_600).await;
        let failed = count(&next, "rotation_failed").await;
        refused(&next, 4).await;
        assert_eq!(
            count(&next, "rotation_failed").await,
            failed + 1,
            "the drift's"
        );
        refused(&next, 1).await;
        assert_eq!(
            count(&next, "rotation_failed").await,
            failed + 2,
            "the tenth"
        );
    });
}

#[test]
fn a_failure_that_is_only_counted_survives_the_change_after_it() {
    simulate(async {
        let (world, host, _plan) = created().await;
        world.mail.remove(SERVER, ACCOUNT);
        refused(&host, 3).await;
        let status = host.read("acme/status").await.ok();
        assert_eq!(status.get("last_error")["attempts"], 3);
        world.mail.put(SERVER, ACCOUNT, Mailbox::new(FIRST));
        host.write("acme/rotate", json!({})).await.ok();
        let status = host.read("acme/status").await.ok();
        assert_eq!(status.get("last_error"), &Value::Null);
        assert_eq!(status.get("failures")[0]["count"], 3);
    });
}

/// More events than a record shows.
async fn push_everything_out(host: &Host) {
    for number in 0..20 {
        let body = json!({ "reason": format!("look {number}") });
        let mut other = host.clone();
        other.caller = format!("userpass-{number}");
        other.write("acme/reveal", body).await.ok();
    }
}

#[test]
fn what_answers_and_rules_remember_is_not_pushed_out_by_events() {
    simulate(async {
        let (world, host, _plan) = created().await;
        let hours = json!({ "work_hours": "Sat 09:00-12:00", "reveals_per_hour": 0 });
        host.write("config/alerts", hours).await.ok();
        let rotated = host.write_as("r-1", "acme/rotate", json!({})).await.ok();
        let pause = json!({ "until": "14d" });
        let paused = host.write_as("p-1", "acme/pause", pause.clone()).await.ok();
        let look = json!({ "reason": "on call" });
        host.write("acme/reveal", look.clone()).await.ok();
        push_everything_out(&host).await;
        world.later(60).await;
        // Sent again by the host, whose plugin died.
        let again = host.write_as("r-1", "acme/rotate", json!({})).await.ok();
        assert_eq!(again.get("event_id"), rotated.get("event_id"));
        assert_eq!(again.get("previous_version"), 1);
        let again = host.write_as("p-1", "acme/pause", pause).await.ok();
        assert_eq!(again.data, paused.data);
        // One alert for each entity and hour.
        let alerts = count(&host, "smtp_suspicious_activity(reveal_outside_hours)").await;
        assert_eq!(alerts, 21);
        host.write("acme/reveal", look).await.ok();
        assert_eq!(count(&host, "smtp_suspicious_activity").await, alerts);
    });
}
