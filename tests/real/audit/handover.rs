//! The leader steps down while it delivers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vault_plugin_secrets_smtp::clock::{Clock as _, SystemClock};

use super::emitter::{Emitter, SOCKET, all_delivered};
use super::verifier::{Auditor, audit_file, emitted};
use crate::cluster::{Cluster, Roles};
use crate::harness::tests;
use crate::rig::Rig;
use crate::server::{Role, Server, Special, VERSION, until};

tests! {
    a_step_down_does_not_wait_for_the_emitter_and_loses_nothing,
}

/// How many answered events a node's file has.
fn count(node: &Server) -> usize {
    emitted(&audit_file(node)).len()
}

/// Has the leader step down; returns how long it took until the other one served the mount.
async fn step_down(cluster: &Cluster, mount: &str) -> (Duration, Roles) {
    let before = cluster.roles().await;
    let (leaves, comes) = (before.active.api(), before.standby.api());
    let clock = SystemClock::new();
    leaves.write("sys/step-down", json!({})).await.no_content();
    until("the other node serves", async || {
        let active = before.standby.role().await? == Role::Active;
        let served = comes.read(&format!("{mount}/acme/admin")).await.status == 200;
        (active && served).then_some(())
    })
    .await;
    let took = clock.monotonic();
    (took, cluster.roles().await)
}

/// Has events wait, and then begins to deliver them.
async fn busy(rig: &Rig, emitter: &Emitter) {
    let external = json!({
        "mode": "external", "address": null, "role_id": null, "secret_id": null,
    });
    rig.write("config/audit", external).await.no_content();
    for _ in 0..30 {
        rig.rotate("acme").await.data();
    }
    let before = count(&rig.server);
    emitter.deliver_at(rig, SOCKET, None).await;
    until("the emitter is at work", async || {
        (count(&rig.server) > before).then_some(())
    })
    .await;
}

async fn a_step_down_does_not_wait_for_the_emitter_and_loses_nothing() {
    let special = Special {
        configuration: String::from(r#"listener "unix" { address = "api.sock" }"#),
        ..Special::default()
    };
    let cluster = Cluster::special(&special).await;
    let (active, _) = cluster.rigs("smtp", Some(VERSION)).await;
    let auditor = Auditor::appointed(&active.server.api()).await;
    let emitter = Emitter::enable(active.server.api(), &[]).await;
    emitter.deliver_at(&active, SOCKET, None).await;
    active.create("acme").await;
    all_delivered(&active).await;

    let (idle, roles) = step_down(&cluster, "smtp").await;
    let mut rig = active.through(&roles.active);
    emitter_follows(&rig, &roles).await;

    busy(&rig, &emitter.through(&rig)).await;
    let (busy, roles) = step_down(&cluster, "smtp").await;
    let told = count(&roles.active);
    rig = rig.through(&roles.active);
    emitter_follows(&rig, &roles).await;
    assert!(count(&roles.active) > told, "the new leader goes on");
    show(idle, busy);
    let logs: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| audit_file(node))
        .collect();
    auditor.proves(&logs, &["--complete"]).await;
    for node in cluster.nodes() {
        rig.through(node).assert_nothing_leaked();
    }
}

/// Tells how long both took, for `cargo test -- --nocapture`: a time is no assertion.
#[expect(clippy::print_stdout, reason = "it is what the test shows")]
fn show(idle: Duration, busy: Duration) {
    let ratio = busy.as_secs_f64() / idle.as_secs_f64();
    println!("step-down: idle {idle:?}, busy {busy:?}, ratio {ratio:.2}");
}

/// Requires that the active node delivers everything, and its standby nothing.
async fn emitter_follows(rig: &Rig, roles: &Roles) {
    let silent = count(&roles.standby);
    let path = "smtp/events/emit/";
    let asked = |node: &Arc<Server>| {
        let records = node.audit_records().into_iter();
        let asked = records.filter(|record| {
            let asked = record["request"]["path"].as_str();
            asked.is_some_and(|asked| asked.starts_with(path))
        });
        asked.count()
    };
    let before = asked(&roles.standby);
    rig.rotate("acme").await.data();
    all_delivered(rig).await;
    assert_eq!(count(&roles.standby), silent);
    assert_eq!(asked(&roles.standby), before, "a standby asks for nothing");
}
