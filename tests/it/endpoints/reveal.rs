//! `<tenant>/reveal`: a human looks.

use std::time::Duration;

use serde_json::json;

use crate::support::engine::Rig;

#[tokio::test]
async fn a_look_is_wrapped_and_recorded() {
    let rig = Rig::created().await;
    let password = rig.settled().await;
    let look = json!({ "reason": "on call" });
    let revealed = rig.write("acme/reveal", look).await.ok();
    assert_eq!(revealed.text_of("password"), password);
    assert_eq!(revealed.wrap, Some(Duration::from_secs(900)));
    assert_eq!(revealed.get("expires_at"), "2026-09-21T15:28:20Z");
    assert!(revealed.get("rotates_at").is_null());
    let events = rig.events("acme").await;
    let last = events.last().unwrap();
    assert_eq!(last["event"], "smtp_credentials_revealed");
    assert_eq!(last["reason"], "on call");
    assert_eq!(last["user_id"], "entity-of-userpass-alice");
    assert_eq!(last["event_id"], revealed.data["event_id"]);
    rig.check_pointers("acme").await;
    rig.write("acme/reveal", json!({}))
        .await
        .fails(400, "missing_field");
    rig.write("other/reveal", json!({ "reason": "x" }))
        .await
        .fails(404, "unknown_tenant");
}

#[tokio::test]
async fn what_was_seen_is_changed_when_the_time_is_over_if_the_mount_says_so() {
    let mut rig = Rig::created().await;
    let config = json!({ "rotate_after_reveal": true, "reveal_ttl": "5m" });
    rig.write("config", config).await.ok();
    let seen = rig.settled().await;
    let look = json!({ "reason": "on call" });
    let revealed = rig.write("acme/reveal", look.clone()).await.ok();
    assert_eq!(revealed.wrap, Some(Duration::from_secs(300)));
    assert_eq!(revealed.get("rotates_at"), "2026-09-21T15:18:20Z");
    rig.check_pointers("acme").await;
    // A later look does not put it off, a restart does not forget it.
    rig.later(240);
    let again = rig.write("acme/reveal", look).await.ok();
    assert_eq!(again.get("rotates_at"), "2026-09-21T15:18:20Z");
    rig.restart();
    rig.tick().await;
    assert_eq!(rig.settled().await, seen);
    // Mailu is down when it is due: tried again.
    rig.mailu.set_admin_down(true);
    rig.later(60);
    rig.tick().await;
    rig.mailu.set_admin_down(false);
    rig.tick().await;
    assert_eq!(rig.settled().await, seen, "it waits a minute");
    rig.later(60);
    rig.tick().await;
    assert_ne!(rig.settled().await, seen);
    assert!(!rig.fits(&seen));
    let events = rig.events("acme").await;
    let last = events.last().unwrap();
    assert_eq!(last["event"], "smtp_credentials_rotated");
    assert_eq!(last["rotation_type"], "reveal");
    assert_eq!(last["user_id"], "system");
    let quiet = rig.password().await;
    rig.later(600);
    rig.tick().await;
    assert_eq!(rig.settled().await, quiet, "once");
}

#[tokio::test]
async fn a_paused_mount_does_not_change_what_was_seen() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "rotate_after_reveal": true }))
        .await
        .ok();
    rig.write("config", json!({ "paused_until": "2026-09-21T20:00:00Z" }))
        .await
        .ok();
    let seen = rig.settled().await;
    rig.write("acme/reveal", json!({ "reason": "on call" }))
        .await
        .ok();
    rig.later(3600);
    rig.tick().await;
    assert_eq!(rig.settled().await, seen);
    rig.later(4 * 3600);
    rig.tick().await;
    assert_ne!(rig.settled().await, seen);
}

#[tokio::test]
async fn what_was_seen_of_an_open_reset_is_changed_as_well() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "rotate_after_reveal": true }))
        .await
        .ok();
    rig.mailu.set_admin_down(true);
    let order = json!({ "incident_id": "INC-1", "reason": "x" });
    rig.write("acme/reset", order).await.ok();
    let look = json!({ "reason": "on call" });
    let revealed = rig.write("acme/reveal", look).await.ok();
    let seen = revealed.get("candidates")[0]["password"].clone();
    rig.mailu.set_admin_down(false);
    rig.later(60);
    rig.tick().await;
    // Whether something undid it is the next tick's to see.
    rig.later(60);
    rig.tick().await;
    assert_eq!(rig.settled().await, seen);
    for _ in 0..3 {
        rig.later(900);
        rig.tick().await;
    }
    assert_ne!(rig.settled().await, seen);
}
