//! The plugin is killed while it delivers: what was not acknowledged is told again.

use std::time::Duration;

use serde_json::json;

use super::emitter::{Emitter, all_delivered};
use super::verifier::{Auditor, audit_file, events};
use super::wire::Wire;
use crate::harness::tests;
use crate::rig::{Rig, revived};
use crate::server::until;

tests! {
    a_killed_emitter_tells_the_same_event_again,
}

async fn a_killed_emitter_tells_the_same_event_again() {
    let rig = Rig::alone("smtp").await;
    let wire = Wire::to(rig.server.address()).await;
    let auditor = Auditor::appointed(&rig.server.api()).await;
    let emitter = Emitter::enable(rig.server.api(), &["127.0.0.1/32"]).await;
    emitter.deliver_at(&rig, &wire.address, None).await;
    rig.create("acme").await;
    all_delivered(&rig).await;

    // The device has the line, the plugin never hears of it.
    let log = audit_file(&rig.server);
    let told = events(&log).len();
    wire.hold(true);
    let rotated = rig.rotate("acme").await;
    wire.wait_held().await;
    let event = events(&log).split_off(told).remove(0);
    let stored = async || {
        let answer = rig.read("acme/events").await;
        let events = answer.data()["events"].as_array().unwrap().clone();
        let found = events
            .into_iter()
            .find(|it| it["event_id"] == event["event_id"]);
        found.unwrap()
    };
    assert_eq!(stored().await["delivered"], false);
    rig.server.kill_plugin().await;
    wire.hold(false);
    revived(async || rig.read("acme/admin").await).await;
    all_delivered(&rig).await;
    assert_eq!(stored().await["delivered"], true);
    let again = events(&log).into_iter();
    let mut again: Vec<_> = again
        .filter(|it| it["event_id"] == event["event_id"])
        .collect();
    assert_eq!(again.len(), 2, "{again:#?}");
    // Each answer has a receipt of its own, which the log has hashed.
    for line in &mut again {
        let receipt = line.as_object_mut().unwrap().remove("receipt");
        let receipt = receipt.expect("a receipt");
        assert!(receipt.as_str().unwrap().starts_with("hmac-sha256:"));
    }
    assert_eq!(again[0], again[1]);
    assert_eq!(again[1]["replayed"], false);
    rotated.data();

    killed_at_random(&rig).await;
    all_delivered(&rig).await;
    auditor.proves(&[log], &["--complete"]).await;
    rig.assert_nothing_leaked();
}

/// Kills the plugin at some moments of its deliveries.
async fn killed_at_random(rig: &Rig) {
    for round in 0..10 {
        // Writes wake the emitter of a process that has found its way once.
        revived(async || rig.rotate("acme").await).await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        rig.server.kill_plugin().await;
        let settings = json!({"min_rotation_interval": "0s"});
        revived(async || rig.write("config", settings.clone()).await).await;
        until("the tenant answers", async || {
            (rig.read("acme/admin").await.status == 200).then_some(())
        })
        .await;
    }
}
