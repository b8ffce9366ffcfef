//! The active node changes while a password does.

use serde_json::{Value, json};

use super::cluster::{Cluster, Roles};
use super::harness::tests;
use super::product::{Need, Product};
use super::rig::{Rig, revived};
use super::server::{VERSION, until, within_ticks};
use crate::support::mailu::standin::{Fault, Rule};

tests! {
    a_change_outlives_whoever_began_it,
    a_snapshot_put_back_leaves_a_mount_that_works,
}

/// The rig through the node that is active now, and through its standby.
fn rigs(rig: &Rig, roles: &Roles) -> (Rig, Rig) {
    (rig.through(&roles.active), rig.through(&roles.standby))
}

/// Reads until the node answers: its mounts come back one after the other.
async fn admin(rig: &Rig) -> Value {
    until("the node answers for the mount", async || {
        let answer = rig.read("acme/admin").await;
        (answer.status == 200).then(|| answer.body["data"].clone())
    })
    .await
}

/// Requires an open change of `old`; returns the password that was sent.
fn candidate(admin: &Value, old: &str) -> String {
    assert_eq!(admin["state"], "uncertain");
    assert_eq!(admin["password"], old);
    let candidate = &admin["candidates"][0]["password"];
    candidate.as_str().unwrap().to_owned()
}

/// Requires that the node says settled, with a password that Mailu takes; returns it.
async fn settled(rig: &Rig, version: u64) -> String {
    let admin = until("the node says settled", async || {
        let answer = rig.read("acme/admin").await;
        let admin = answer.body["data"].clone();
        (admin["state"] == "settled" && admin["version"] == version).then_some(admin)
    })
    .await;
    let password = admin["password"].as_str().unwrap().to_owned();
    rig.assert_live(&password).await;
    password
}

async fn a_change_outlives_whoever_began_it() {
    let cluster = Cluster::start().await;
    let (active, standby) = cluster.rigs("smtp", Some(VERSION)).await;
    let written = active.write("config", json!({"wait": 2}));
    written.await.no_content();
    standby.create("acme").await;
    settled(&active, 1).await;
    steps_down_while_it_rotates(&cluster, &active).await;
    let version = steps_down_after_its_plugin_was_killed(&cluster, &active).await;
    is_killed_while_it_rotates(&cluster, &active, version).await;
    for node in cluster.nodes() {
        active.through(node).assert_nothing_leaked();
    }
}

/// Mailu sits on the new password while the leader steps down, and takes it from a leader that is
/// none any more.
async fn steps_down_while_it_rotates(cluster: &Cluster, rig: &Rig) {
    let (active, standby) = rigs(rig, &cluster.roles().await);
    let first = settled(&active, 1).await;
    let leader = active.server.plugin();
    let hold = Rule::new(Fault::Hold { ms: None }).method("PATCH");
    active.mailu.fault(hold);
    let (cut, roles) = tokio::join!(active.rotate("acme"), async {
        active.until_held().await;
        cluster.step_down().await
    });
    let told = (cut.status, cut.code());
    assert_eq!(told, (503, "in_progress"), "{}", cut.body);
    assert_eq!(roles.active.address(), standby.server.address());

    let (active, standby) = rigs(rig, &roles);
    let second = candidate(&admin(&active).await, &first);
    candidate(&admin(&standby).await, &first);
    // Where standbys run the plugin, a new process takes its place.
    let successors = usize::from(Product::tested().can(Need::PluginOnStandby));
    until(
        "the old leader's plugin is another process or none",
        async || {
            let plugins = standby.server.plugins();
            (plugins.len() == successors && !plugins.contains(&leader)).then_some(())
        },
    )
    .await;
    active.mailu.release().await;
    let sent = password_writes(&active);
    assert_eq!(standby.rotate("acme").await.data()["version"], 2);
    assert_eq!(settled(&active, 2).await, second);
    assert_eq!(settled(&standby, 2).await, second);
    assert_eq!(password_writes(&active), sent, "found out, not sent again");
}

/// The leader's plugin dies with a new password in its hands, and then the leader steps down at
/// rest. Returns the version after it.
async fn steps_down_after_its_plugin_was_killed(cluster: &Cluster, rig: &Rig) -> u64 {
    let (active, _) = rigs(rig, &cluster.roles().await);
    let second = settled(&active, 2).await;
    let hang = Rule::new(Fault::HangBefore { ms: None }).method("PATCH");
    active.mailu.fault(hang);
    let (cut, ()) = tokio::join!(active.rotate("acme"), async {
        active.until_held().await;
        active.server.kill_plugin().await;
    });
    active.mailu.release().await;
    let (active, standby) = rigs(rig, &cluster.step_down().await);
    // The host may have repeated the request of the dead plugin.
    if cut.status != 200 {
        candidate(&admin(&active).await, &second);
    }
    let rotated = revived(async || standby.rotate("acme").await).await;
    let version = rotated.data()["version"].as_u64().unwrap();
    assert_eq!(version, if cut.status == 200 { 4 } else { 3 });
    let now = settled(&active, version).await;
    assert_eq!(settled(&standby, version).await, now);
    let versions = active.list("acme/versions").await;
    let versions = versions.data()["keys"].as_array().unwrap().len();
    assert_eq!(u64::try_from(versions), Ok(version), "one version each");
    version
}

/// The leader itself is killed. Two nodes need each other: nothing goes on until it is back.
async fn is_killed_while_it_rotates(cluster: &Cluster, rig: &Rig, version: u64) {
    let (active, _) = rigs(rig, &cluster.roles().await);
    let old = settled(&active, version).await;
    let hold = Rule::new(Fault::Hold { ms: None }).method("PATCH");
    active.mailu.fault(hold);
    let path = active.path("acme/rotate");
    let request = active.api.request("POST", &path).json(&json!({}));
    let (cut, ()) = tokio::join!(request.send(), async {
        active.until_held().await;
        active.server.stop("KILL");
    });
    assert!(cut.is_err(), "the connection died with the server");
    active.server.start_again().await;
    active.server.unseal().await;

    let (active, standby) = rigs(rig, &cluster.roles().await);
    let sent = candidate(&admin(&active).await, &old);
    assert_eq!(candidate(&admin(&standby).await, &old), sent);
    active.mailu.release().await;
    let rotated = standby.rotate("acme").await;
    assert_eq!(rotated.data()["version"], version + 1);
    assert_eq!(settled(&active, version + 1).await, sent);
    assert_eq!(settled(&standby, version + 1).await, sent);
}

/// How often Mailu was sent a password.
fn password_writes(rig: &Rig) -> usize {
    let journal = rig.mailu.journal();
    journal
        .iter()
        .filter(|call| call.password_sha256.is_some())
        .count()
}

async fn a_snapshot_put_back_leaves_a_mount_that_works() {
    let cluster = Cluster::start().await;
    let (active, standby) = cluster.rigs("smtp", Some(VERSION)).await;
    active.create("acme").await;
    let first = settled(&active, 1).await;
    let taken = active.api.request("GET", "sys/storage/raft/snapshot");
    let snapshot = taken.send().await.unwrap().bytes().await.unwrap();
    active.rotate("acme").await.data();
    let second = settled(&standby, 2).await;

    let restore = active.api.request("POST", "sys/storage/raft/snapshot");
    active.api.send(restore.body(snapshot)).await.no_content();
    let roles = cluster.roles().await;
    let (active, standby) = rigs(&active, &roles);
    // Storage is where it was; Mailu is not, and nobody has asked it yet.
    for rig in [&active, &standby] {
        until("the node has the old state", async || {
            let answer = rig.read("acme/admin").await;
            let admin = &answer.body["data"];
            (admin["version"] == 1 && admin["password"] == *first).then_some(())
        })
        .await;
    }
    active.assert_live(&second).await;

    // Nobody asks: the next tick's sweep finds that Mailu holds a password nobody here knows, and
    // the mark of a later change.
    for rig in [&active, &standby] {
        within_ticks("the node says drift", async || {
            (admin(rig).await["state"] == "drift").then_some(())
        })
        .await;
    }
    let status = standby.read("acme/status").await;
    let drift = &status.data()["drift"];
    assert_eq!(drift["code"], "stale_storage", "{}", status.body);
    assert_eq!(drift["live_version"], Value::Null);
    let rotated = standby.rotate("acme").await;
    let version = rotated.data()["version"].as_u64().unwrap();
    let third = settled(&active, version).await;
    assert_eq!(settled(&standby, version).await, third);
    active.assert_dead(&second).await;
    active.assert_nothing_leaked();
    standby.assert_nothing_leaked();
}
