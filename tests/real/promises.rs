//! What stands before Mailu, who logs in meanwhile, and what a crash leaves of an emergency.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::tests;
use super::rig::{EMAIL, FIRST, Rig};
use super::server::{until, within_ticks};
use crate::support::mailu::standin::{Fault, Rehash, Rule, Words};

tests! {
    whatever_a_front_says_nothing_is_lost_and_nothing_is_stopped,
    a_reset_that_was_answered_503_outlives_a_killed_server,
    a_login_with_the_old_password_does_not_make_settled_a_lie,
    a_policy_of_one_character_is_refused_and_a_reset_asks_none,
}

const OTHER: &str = "other@example.test";

fn order(incident: &str) -> Value {
    json!({"incident_id": incident, "reason": "laptop stolen"})
}

async fn whatever_a_front_says_nothing_is_lost_and_nothing_is_stopped() {
    let rig = Rig::shared("fronts").await;
    rig.create("acme").await;
    for words in Words::of_fronts() {
        let old = rig.password("acme").await;
        let fault = Fault::Worded {
            committed: true,
            words: words.clone(),
        };
        rig.mailu.fault(Rule::new(fault).method("PATCH"));
        let rotated = rig.rotate("acme").await;
        assert_eq!(rotated.status, 200, "{words:?} {}", rotated.body);
        let admin = rig.admin("acme").await;
        assert_eq!(admin["state"], "settled", "{words:?}");
        rig.assert_live(admin["password"].as_str().unwrap()).await;
        rig.assert_dead(&old).await;
        let verified = rig.write("acme/verify", json!({})).await;
        assert_eq!(verified.data()["state"], "settled", "{words:?}");
        let next = rig.rotate("acme").await;
        assert_eq!(next.status, 200, "{words:?} {}", next.body);
    }
    rig.assert_nothing_leaked();
}

/// Whoever asked was told that it goes on: marks, hold, intent and event are stored by then.
async fn a_reset_that_was_answered_503_outlives_a_killed_server() {
    let rig = Rig::alone("smtp").await;
    rig.create("acme").await;
    rig.write("config", json!({"wait": "2s"}))
        .await
        .no_content();
    let old = rig.password("acme").await;
    // Another tenant's look holds the server.
    rig.mailu.set_password_directly(OTHER, FIRST);
    rig.write("beta/config", rig.server_config())
        .await
        .no_content();
    rig.write("beta/admin", json!({"username": OTHER}))
        .await
        .data();
    let hold = Rule::new(Fault::Hold { ms: None }).method("GET");
    rig.mailu.fault(hold.path("/user/other"));
    let mut body = order("INC-7");
    body["hold"] = json!(true);
    let (hung, reset) = tokio::join!(rig.write("beta/verify", json!({})), async {
        rig.until_held().await;
        rig.write("acme/reset", body).await
    });
    assert_eq!(hung.status, 503, "{}", hung.body);
    let answered = reset.status == 503 && reset.error().starts_with("in_progress");
    assert!(answered, "{} {}", reset.status, reset.body);
    rig.server.stop("KILL");
    rig.mailu.release().await;
    rig.server.start_again().await;
    rig.server.unseal_alone().await;
    let held = until("the mount answers", async || {
        let held = rig.read("acme/admin").await;
        (held.status == 403).then_some(held)
    })
    .await;
    assert!(held.error().starts_with("on_hold"), "{}", held.body);
    let version = rig.read("acme/versions/1").await;
    assert_eq!(version.data()["compromised"], true);
    let events = rig.read("acme/events").await;
    let started = events.data()["events"].as_array().unwrap().iter();
    let started = started.filter(|it| it["event"] == "smtp_credentials_emergency_reset_started");
    assert_eq!(started.count(), 1);
    within_ticks("a tick has finished the reset", async || {
        let status = rig.read("acme/status").await;
        let status = status.data();
        let done = status["open_work"].is_null() && status["state"] == "settled";
        done.then_some(())
    })
    .await;
    rig.write("acme/release", json!({"reason": "over"}))
        .await
        .no_content();
    rig.assert_live(&rig.password("acme").await).await;
    rig.assert_dead(&old).await;
}

/// A login that found an outdated hash writes the old password over the new one, after the proof.
async fn a_login_with_the_old_password_does_not_make_settled_a_lie() {
    let rig = Rig::shared("logins").await;
    rig.create("acme").await;
    let rotate = json!({"reason": "a test"});
    for (path, body) in [("acme/rotate", rotate), ("acme/reset", order("INC-1"))] {
        let old = rig.password("acme").await;
        let rounds = if path == "acme/rotate" { 5 } else { 6 };
        rig.mailu.set_rounds(rounds);
        rig.mailu.set_rehash(Rehash::Held);
        assert!(rig.logs_in(&old).await);
        let change = rig.write(path, body);
        let undone = async {
            until("the new password is set", async || {
                (!rig.mailu.password_fits(EMAIL, &old)).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            rig.mailu.set_rehash(Rehash::AtOnce);
            rig.mailu.release().await;
            assert!(rig.mailu.password_fits(EMAIL, &old), "it is undone");
            let admin = rig.admin("acme").await;
            assert_ne!(admin["state"], "settled", "{admin}");
        };
        let (changed, ()) = tokio::join!(change, undone);
        assert_eq!(changed.status, 200, "{}", changed.body);
        let settled = within_ticks("it is made again", async || {
            let admin = rig.admin("acme").await;
            (admin["state"] == "settled").then_some(admin)
        })
        .await;
        rig.assert_live(settled["password"].as_str().unwrap()).await;
        rig.assert_dead(&old).await;
    }
    rig.assert_nothing_leaked();
}

async fn a_policy_of_one_character_is_refused_and_a_reset_asks_none() {
    let rig = Rig::shared("policies").await;
    rig.create("acme").await;
    let one = "length=40\nrule \"charset\" { charset = \"a\" }";
    let good = "length=40\nrule \"charset\" { charset = \"abcdefghijklmnopqrstuvwxyz0123456789\" }";
    let api = rig.server.api();
    for (name, policy) in [("one", one), ("good", good)] {
        let path = format!("sys/policies/password/{name}");
        let written = api.write(&path, json!({"policy": policy})).await;
        assert_eq!(written.status, 204, "{}", written.body);
    }
    for name in ["one", "there-is-none"] {
        let refused = rig.write("config", json!({"password_policy": name})).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.error().starts_with("password_policy_unusable"));
    }
    rig.write("config", json!({"password_policy": "good"}))
        .await
        .no_content();
    let rotated = rig.rotate("acme").await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    // It is made worthless afterwards: no change sets what it gives, and an emergency asks nobody.
    let written = api
        .write("sys/policies/password/good", json!({"policy": one}))
        .await;
    assert_eq!(written.status, 204, "{}", written.body);
    let old = rig.password("acme").await;
    let refused = rig.rotate("acme").await;
    assert!(
        refused.error().starts_with("password_policy_unusable"),
        "{}",
        refused.body
    );
    assert_eq!(rig.password("acme").await, old);
    let reset = rig.write("acme/reset", order("INC-2")).await;
    assert_eq!(reset.status, 200, "{}", reset.body);
    let new = rig.password("acme").await;
    assert_ne!(new, old);
    rig.assert_live(&new).await;
    rig.assert_dead(&old).await;
}
