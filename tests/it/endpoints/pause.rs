//! `<tenant>/pause`, `<tenant>/resume` and the pause of the mount.

use serde_json::{Value, json};

use crate::support::engine::Rig;

#[tokio::test]
async fn a_pause_begins_is_replaced_and_ends() {
    let rig = Rig::created().await;
    let body = json!({ "until": "14d", "reason": "migration" });
    let paused = rig.write("acme/pause", body.clone()).await.ok();
    assert_eq!(paused.get("until"), "2026-10-05T15:13:20Z");
    assert_eq!(paused.get("seq"), 4);
    let status = rig.read("acme/status").await.ok();
    assert_eq!(status.get("paused_until"), "2026-10-05T15:13:20Z");
    assert_eq!(status.get("pause_reason"), "migration");
    // The same once more says nothing new; a later one does.
    let again = rig.write("acme/pause", body.clone()).await.ok();
    assert_eq!(
        (again.get("seq"), again.get("until")),
        (&Value::Null, paused.get("until"))
    );
    rig.later(60);
    let moved = rig.write("acme/pause", body).await.ok();
    assert_eq!(moved.get("until"), "2026-10-05T15:14:20Z");
    let ended = rig
        .write("acme/resume", json!({ "reason": "done" }))
        .await
        .ok();
    assert_eq!(
        (ended.get("seq"), ended.get("until")),
        (&json!(6), &Value::Null)
    );
    assert!(
        rig.write("acme/resume", json!({}))
            .await
            .ok()
            .get("seq")
            .is_null()
    );
    assert!(rig.read("acme/status").await.get("paused_until").is_null());
    let told = rig.events("acme").await.split_off(3);
    let told: Vec<_> = told
        .iter()
        .map(|it| {
            (
                it["event"].as_str().unwrap(),
                it["outcome"].as_str().unwrap(),
                &it["reason"],
            )
        })
        .collect();
    let (name, why) = ("smtp_rotation_paused", json!("migration"));
    assert_eq!(
        told,
        [
            (name, "started", &why),
            (name, "started", &why),
            (name, "success", &json!("done"))
        ]
    );
}

/// The host sends a request again whose plugin died: the pause does not get longer by it.
#[tokio::test]
async fn a_pause_that_is_sent_again_is_answered_again() {
    let mut rig = Rig::created().await;
    let body = json!({ "until": "1h" });
    let first = rig
        .write_as("one-id", "acme/pause", body.clone())
        .await
        .ok();
    rig.restart();
    rig.later(5);
    let again = rig.write_as("one-id", "acme/pause", body).await.ok();
    assert_eq!(first.data, again.data);
    assert_eq!(rig.events("acme").await.len(), 4);
}

#[tokio::test]
async fn a_pause_that_is_over_counts_as_none() {
    let rig = Rig::created().await;
    rig.write("acme/pause", json!({ "until": 3600 })).await.ok();
    rig.later(3600);
    assert!(rig.read("acme/status").await.get("paused_until").is_null());
    let resumed = rig.write("acme/resume", json!({})).await.ok();
    assert!(resumed.get("event_id").is_null());
    assert_eq!(rig.events("acme").await.len(), 4, "nobody ended it");
}

#[tokio::test]
async fn what_cannot_be_paused_is_refused_and_nothing_changes() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    for until in [
        "",
        "soon",
        "0",
        "91d",
        "2026-09-21T15:13:20Z",
        "2027-09-21T15:13:20Z",
        "-1d",
    ] {
        let refused = rig.write("acme/pause", json!({ "until": until })).await;
        assert_eq!(refused.status, 400, "{until}: {refused:?}");
    }
    rig.write("nobody/pause", json!({ "until": "1h" }))
        .await
        .fails(404, "unknown_tenant");
    rig.write("nobody/resume", json!({}))
        .await
        .fails(404, "unknown_tenant");
    let far = json!({ "paused_until": "2026-12-21T15:13:20Z" });
    rig.write("config", far).await.fails(400, "invalid_config");
    assert_eq!(rig.storage.snapshot(), before);
    rig.delete("acme/admin").await.ok();
    rig.write("acme/pause", json!({ "until": "1h" }))
        .await
        .fails(409, "deleted");
    let near = json!({ "paused_until": "2026-12-20T15:13:20Z" });
    rig.write("config", near).await.ok();
}

/// The end of a reveal waits for it; what a person asks for does not.
#[tokio::test]
async fn nothing_is_rotated_by_itself_meanwhile() {
    let rig = Rig::created().await;
    rig.tick().await;
    rig.write("config", json!({ "rotate_after_reveal": true }))
        .await
        .ok();
    rig.write("acme/reveal", json!({ "reason": "look" }))
        .await
        .ok();
    rig.write("acme/pause", json!({ "until": "2h" })).await.ok();
    rig.later(3600);
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.get("version"), 1);
    rig.write("acme/rotate", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("version"), 2);
    rig.write("acme/reveal", json!({ "reason": "look" }))
        .await
        .ok();
    rig.write("acme/resume", json!({})).await.ok();
    // The look at the change before comes first.
    for _ in 0..2 {
        rig.later(3600);
        rig.tick().await;
    }
    assert_eq!(rig.read("acme/admin").await.get("version"), 3);
}
