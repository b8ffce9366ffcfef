//! `<tenant>/rollback`: an earlier password becomes current again.

use serde_json::json;

use crate::support::engine::{EMAIL, Rig};
use crate::support::mailu::standin::{Fault, Rule};

/// `acme` with two versions; returns the passwords.
async fn two_versions() -> (Rig, String, String) {
    let rig = Rig::created().await;
    let first = rig.settled().await;
    rig.write("acme/rotate", json!({})).await.ok();
    let second = rig.settled().await;
    (rig, first, second)
}

fn back_to(version: u64) -> serde_json::Value {
    json!({ "version": version, "reason": "a consumer cannot be updated" })
}

#[tokio::test]
async fn the_earlier_password_is_live_again_as_a_new_version() {
    let (rig, first, second) = two_versions().await;
    let answer = rig.write("acme/rollback", back_to(1)).await.ok();
    assert_eq!(answer.get("version"), 3);
    assert_eq!(answer.get("previous_version"), 2);
    assert_eq!(answer.get("event"), "smtp_credentials_rolled_back");
    assert!(!answer.data.to_string().contains(&first));
    assert_eq!(rig.settled().await, first);
    assert!(!rig.fits(&second));
    let kept = rig.read("acme/versions/3").await;
    assert_eq!(kept.get("rotation_type"), "rollback");
    let record = rig.record("acme").await.unwrap();
    let version = record.credential.unwrap().versions.pop().unwrap();
    assert_eq!(version.source, Some(1));
    // After each of the two changes.
    assert_eq!(record.open.confirm_at.len(), 4, "it is looked at again");
    let events = rig.events("acme").await;
    assert_eq!(events.last().unwrap()["rotation_type"], "rollback");
    // And back, without waiting for an interval.
    rig.write("acme/rollback", back_to(2)).await.ok();
    assert_eq!(rig.settled().await, second);
}

#[tokio::test]
async fn what_cannot_be_gone_back_to_changes_nothing() {
    let (rig, _, _) = two_versions().await;
    let before = rig.storage.snapshot();
    rig.write("acme/rollback", back_to(9))
        .await
        .fails(400, "unknown_version");
    rig.write("acme/rollback", back_to(2))
        .await
        .fails(409, "already_current");
    for body in [
        json!({}),
        json!({ "version": 1 }),
        json!({ "reason": "x" }),
        json!({ "version": 0, "reason": "x" }),
        json!({ "version": -1, "reason": "x" }),
    ] {
        let answer = rig.write("acme/rollback", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    rig.write("other/rollback", back_to(1))
        .await
        .fails(404, "unknown_tenant");
    assert_eq!(rig.storage.snapshot(), before);
}

#[tokio::test]
async fn an_open_change_is_settled_first() {
    let (rig, first, _) = two_versions().await;
    rig.later(3600);
    rig.mailu.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    let answer = rig.write("acme/rollback", back_to(1)).await.ok();
    assert_eq!(answer.get("version"), 4);
    assert_eq!(rig.settled().await, first);
    let story = rig.story("acme").await;
    assert_eq!(
        story[story.len() - 3..],
        ["rotated", "rotation_started", "rolled_back"]
    );
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_a_tick() {
    for fault in [Fault::CutAfter, Fault::CutBefore] {
        let (mut rig, first, _) = two_versions().await;
        rig.mailu.fault(Rule::new(fault.clone()).method("PATCH"));
        rig.mailu
            .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
        rig.write("acme/rollback", back_to(1))
            .await
            .fails(503, "mailu_unreachable");
        rig.restart();
        rig.later(60);
        rig.tick().await;
        assert_eq!(rig.settled().await, first, "{fault:?}");
        assert_eq!(rig.read("acme/admin").await.get("version"), 3);
    }
}

#[tokio::test]
async fn a_resent_request_is_answered_with_what_it_made() {
    let (rig, first, _) = two_versions().await;
    for _ in 0..2 {
        let answer = rig.write_as("id-1", "acme/rollback", back_to(1)).await.ok();
        assert_eq!(answer.get("version"), 3);
    }
    assert_eq!(rig.settled().await, first);
    assert_eq!(rig.password_writes(), 3);
}

#[tokio::test]
async fn in_drift_the_current_one_can_be_set_again() {
    let (rig, _, second) = two_versions().await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    rig.write("acme/rollback", back_to(2)).await.ok();
    assert_eq!(rig.settled().await, second);
}
