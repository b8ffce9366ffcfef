//! Requests that wait, leave, join, and come at the same time.

use std::time::Duration;

use serde_json::json;

use crate::support::engine::{Answer, EMAIL, Rig};
use crate::support::mailu::standin::{Fault, Rule};

async fn rotate(rig: &Rig) -> Answer {
    rig.write("acme/rotate", json!({})).await
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_joined_by_its_repeat() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "wait": 2 })).await.ok();
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let old = rig.password().await;
    rotate(&rig).await.fails(503, "in_progress");
    rig.mailu.wait_held(1).await;
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "uncertain");
    assert_eq!(read.text_of("password"), old);
    let (repeated, ()) = tokio::join!(rotate(&rig), rig.mailu.release());
    assert_eq!(repeated.ok().get("version"), 2);
    rig.settled().await;
    assert_eq!(
        rig.password_writes(),
        2,
        "one for the creation, one for both"
    );
}

/// Whoever waits for somebody else's change has stored nothing, whatever it is about.
#[tokio::test]
async fn who_waits_behind_a_change_is_promised_nothing() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "wait": 2 })).await.ok();
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    rotate(&rig).await.fails(503, "in_progress");
    rig.mailu.wait_held(1).await;
    let mut bob = rig.host.clone();
    bob.caller = String::from("userpass-bob");
    let why = json!({ "reason": "why" });
    let (rotated, rolled, written, seen) = tokio::join!(
        bob.write("acme/rotate", why.clone()),
        bob.write("acme/rollback", json!({ "version": 1, "reason": "why" })),
        bob.write("acme/admin", json!({ "webmail_url": "https://w.example" })),
        bob.write("acme/reveal", why.clone()),
    );
    for answer in [rotated, rolled, written, seen] {
        let answer = answer.fails(503, "not_stored");
        assert!(answer.text.contains("nothing is promised"), "{answer:?}");
    }
    // A question promises nothing, and goes on.
    bob.write("acme/verify", json!({}))
        .await
        .fails(503, "in_progress");
    rig.mailu.release().await;
    rig.host.backend.idle().await;
    rig.settled().await;
}

#[tokio::test]
async fn an_outcome_nobody_took_does_not_answer_another_request() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "wait": 2 })).await.ok();
    for case in ["another reason", "deleted meanwhile"] {
        rig.later(3600);
        rig.mailu
            .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
        rotate(&rig).await.fails(503, "in_progress");
        rig.mailu.wait_held(1).await;
        rig.mailu.release().await;
        if case == "another reason" {
            // It waits for its turn and is judged by what is true then.
            let leaked = rig
                .write("acme/rotate", json!({ "reason": "leaked" }))
                .await;
            leaked.fails(409, "too_soon");
        } else {
            rig.delete("acme/admin").await.ok();
            rotate(&rig).await.fails(409, "deleted");
        }
    }
}

#[tokio::test]
async fn a_creation_that_waited_too_long_is_joined_by_its_repeat() {
    let rig = Rig::configured().await;
    rig.write("config", json!({ "wait": 2 })).await.ok();
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let body = json!({ "username": EMAIL, "cas": 0 });
    rig.write("acme/admin", body.clone())
        .await
        .fails(503, "in_progress");
    rig.mailu.wait_held(1).await;
    let (repeated, ()) = tokio::join!(rig.write("acme/admin", body), rig.mailu.release());
    assert_eq!(repeated.ok().get("event"), "smtp_credentials_stored");
    rig.settled().await;
}

#[tokio::test]
async fn a_cancelled_request_does_not_stop_the_work() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    {
        let request = rotate(&rig);
        tokio::select! {
            _ = request => panic!("the server is frozen"),
            () = rig.mailu.wait_held(1) => {}
        }
    }
    rig.mailu.release().await;
    // Whoever asks next waits for the tenant's lock.
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("version"), 2);
    rig.settled().await;
    assert_eq!(rig.password_writes(), 2);
}

#[tokio::test]
async fn two_at_once_lose_nothing() {
    let mut rig = Rig::created().await;
    let config = json!({ "min_rotation_interval": 0 });
    rig.write("config", config).await.ok();
    let (one, two) = tokio::join!(rotate(&rig), rotate(&rig));
    assert_eq!(one.ok().get("version"), two.ok().get("version"));
    assert_eq!(rig.password_writes(), 2, "the same caller joins");
    rig.settled().await;
    let bob = {
        let mut bob = rig.host.clone();
        bob.caller = String::from("userpass-bob");
        bob
    };
    let (one, two) = tokio::join!(rotate(&rig), bob.write("acme/rotate", json!({})));
    let versions = [one.ok(), two.ok()].map(|it| it.get("version").as_u64().unwrap());
    assert_eq!(versions[0].max(versions[1]), 4);
    rig.settled().await;
    rig.restart();
    rig.settled().await;
    rig.events("acme").await;
}

#[tokio::test]
async fn an_old_leader_that_wakes_up_loses_nothing() {
    let mut rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let old = rig.host.clone();
    let old_leader = old.write("acme/rotate", json!({}));
    tokio::pin!(old_leader);
    tokio::select! {
        _ = &mut old_leader => panic!("the server is frozen"),
        () = rig.mailu.wait_held(1) => {}
    }
    // Another node took over: it settles what it finds and changes the password once more.
    rig.restart();
    rig.write("acme/verify", json!({})).await.ok();
    let second = rig.settled().await;
    rig.later(300);
    rig.write("acme/rotate", json!({})).await.ok();
    let third = rig.settled().await;
    let (late, ()) = tokio::join!(old_leader, rig.mailu.release());
    late.fails(409, "conflict");
    // Its write brought back the second password, and the next look says so.
    assert!(rig.fits(&second));
    assert_eq!(rig.password().await, third);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 2);
    assert_eq!(rig.password().await, second);
    rig.later(300);
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
    rig.events("acme").await;
}

#[tokio::test]
async fn tenants_on_other_servers_do_not_wait_for_a_hung_one() {
    let rig = Rig::created().await;
    let healthy = Rig::start().await;
    let server = json!({
        "mailu_url": healthy.mailu.url(),
        "ca_cert": healthy.mailu.ca_pem(),
        "api_token": healthy.mailu.token(),
    });
    rig.write("other/config", server).await.ok();
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let hung = rotate(&rig);
    tokio::pin!(hung);
    tokio::select! {
        _ = &mut hung => panic!("the server is frozen"),
        () = rig.mailu.wait_held(1) => {}
    }
    let other = rig.write("other/admin", json!({ "username": EMAIL }));
    let other = tokio::time::timeout(Duration::from_secs(5), other).await;
    other.expect("not behind the hung server").ok();
    let (rotated, ()) = tokio::join!(hung, rig.mailu.release());
    rotated.ok();
    rig.settled().await;
}
