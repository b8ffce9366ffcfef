//! Two versions in the catalog side by side, each with a file of its own: how an operator moves a
//! mount from one to the other.

use std::sync::Arc;

use serde_json::json;

use super::cluster::Cluster;
use super::harness::tests;
use super::process::{program, runs};
use super::product::Product;
use super::rig::{Rig, revived};
use super::server::{NEXT, PLUGIN, Role, Server, VERSION, until};

tests! {
    a_mount_moves_from_one_catalog_entry_to_another,
    a_pair_moves_to_another_file_and_back,
}

async fn a_mount_moves_from_one_catalog_entry_to_another() {
    let rig = Rig::alone("smtp").await;
    rig.server.register(Some(NEXT)).await;
    rig.create("acme").await;
    let password = rig.password("acme").await;
    let old = rig.server.plugin();

    tune(&rig, NEXT).await;
    assert_eq!(rig.server.plugin(), old, "until it is reloaded");
    rig.server.reload().await;
    assert_eq!(rig.password("acme").await, password);
    assert_ne!(runs_file(&rig.server, NEXT).await, old);
    let mount = rig.api.read("sys/mounts/smtp").await;
    assert_eq!(mount.data()["running_plugin_version"], NEXT);

    // Nobody runs the old entry any more: it can go, and the mount lives on, also when revived.
    let path = format!("sys/plugins/catalog/secret/{PLUGIN}?version={VERSION}");
    rig.api.delete(&path).await.no_content();
    assert_eq!(rig.api.read(&path).await.status, 404);
    rig.server.kill_plugin().await;
    revived(async || rig.rotate("acme").await).await.data();
    rig.assert_live(&rig.password("acme").await).await;
}

/// Waits until `node` runs the plugin's file for `version`, and returns its process.
async fn runs_file(node: &Server, version: &str) -> u32 {
    until("the node runs the other file", async || {
        let plugins = node.plugins();
        let [plugin] = plugins[..] else { return None };
        let file = program(plugin)?;
        (file.file_name()? == format!("{PLUGIN}-{version}").as_str()).then_some(plugin)
    })
    .await
}

async fn tune(rig: &Rig, version: &str) {
    let version = json!({"plugin_version": version});
    let tuned = rig.api.write("sys/mounts/smtp/tune", version);
    tuned.await.no_content();
}

async fn a_pair_moves_to_another_file_and_back() {
    let cluster = Cluster::start().await;
    cluster.register(Some(NEXT)).await;
    let (active, standby) = cluster.rigs("smtp", Some(VERSION)).await;
    active.create("acme").await;
    let first = active.password("acme").await;
    let mut olds = Vec::new();
    let runners = cluster.runners().await;
    for node in &runners {
        olds.push(runs_file(node, VERSION).await);
    }

    tune(&active, NEXT).await;
    let now: Vec<_> = runners.iter().map(|node| node.plugin()).collect();
    assert_eq!(now, olds, "until they are reloaded");
    active.server.reload_everywhere().await;
    for (node, old) in runners.iter().zip(olds) {
        assert_ne!(runs_file(node, NEXT).await, old);
        assert!(!runs(old));
    }
    for node in cluster.nodes() {
        cluster.wait_mounted(node, "smtp").await;
    }
    assert_eq!(active.password("acme").await, first);
    assert_eq!(standby.password("acme").await, first);
    assert_eq!(standby.rotate("acme").await.data()["version"], 2);

    // Back: what the newer one wrote is read by the older one.
    tune(&active, VERSION).await;
    active.server.reload_everywhere().await;
    for node in &runners {
        runs_file(node, VERSION).await;
    }
    for node in cluster.nodes() {
        cluster.wait_mounted(node, "smtp").await;
    }
    let second = active.password("acme").await;
    active.assert_live(&second).await;
    assert_eq!(standby.password("acme").await, second);
    assert_eq!(standby.rotate("acme").await.data()["version"], 3);

    comes_back_after_seal_and_restart(&cluster, &active).await;
    active.assert_nothing_leaked();
    standby.assert_nothing_leaked();
}

/// Seals a node, with which its plugin ends, and unseals it.
async fn is_sealed_and_unsealed(cluster: &Cluster, node: &Arc<Server>) {
    let runners = cluster.runners().await;
    let runs_one = runners.iter().any(|runner| Arc::ptr_eq(runner, node));
    let plugins = until("the node has its plugin, if it runs one", async || {
        let plugins = node.plugins();
        (plugins.len() == usize::from(runs_one)).then_some(plugins)
    })
    .await;
    let is_standby = node.role().await == Some(Role::Standby);
    let sealed = node.api().write("sys/seal", json!({})).await;
    if Product::tested() == Product::Vault && is_standby {
        // It seals no standby, and says what to do instead.
        let told = (sealed.status, sealed.error());
        let restart = "vault cannot seal when in standby mode; please restart instead";
        assert_eq!(told, (500, restart));
        node.stop("TERM");
        node.start_again().await;
    } else {
        sealed.no_content();
    }
    until("the plugin of a sealed node ends", async || {
        (!plugins.iter().any(|plugin| runs(*plugin))).then_some(())
    })
    .await;
    node.unseal().await;
}

async fn comes_back_after_seal_and_restart(cluster: &Cluster, rig: &Rig) {
    let roles = cluster.roles().await;
    let password = rig.through(&roles.active).password("acme").await;
    // The standby's, where it has one.
    let runners = cluster.runners().await;
    let killed = runners
        .iter()
        .find(|node| Arc::ptr_eq(node, &roles.standby));
    let killed = Arc::clone(killed.unwrap_or(&roles.active));
    killed.kill_plugin().await;
    let path = rig.path("acme/admin");
    let api = roles.standby.api();
    let read = revived(async || api.read(&path).await).await;
    assert_eq!(read.data()["password"], *password, "by a new process");

    is_sealed_and_unsealed(cluster, &roles.standby).await;
    is_sealed_and_unsealed(cluster, &cluster.roles().await.active).await;
    let roles = cluster.roles().await;
    roles.standby.stop("TERM");
    roles.standby.start_again().await;
    roles.standby.unseal().await;
    let roles = cluster.roles().await;
    for node in [&roles.active, &roles.standby] {
        cluster.wait_mounted(node, "smtp").await;
        assert_eq!(rig.through(node).password("acme").await, password);
    }
    rig.through(&roles.standby).rotate("acme").await.data();
    rig.assert_live(&rig.through(&roles.active).password("acme").await)
        .await;

    // The processes end with the last mount.
    let runners = cluster.runners().await;
    let plugins: Vec<_> = runners.iter().map(|node| node.plugin()).collect();
    let api = roles.standby.api();
    api.delete("sys/mounts/smtp").await.no_content();
    for plugin in plugins {
        until("the last mount's plugin ends on each node", async || {
            (!runs(plugin)).then_some(())
        })
        .await;
    }
    for node in cluster.nodes() {
        // Who is killed has no time to remove its socket.
        let left = usize::from(Arc::ptr_eq(node, &killed));
        let files = node.temporary_files();
        assert_eq!(files.len(), left, "{files:?}");
    }
}
