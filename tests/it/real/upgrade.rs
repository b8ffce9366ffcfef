//! Two entries of the catalog side by side: how an operator moves a mount from one to the other.

use std::path::PathBuf;

use serde_json::json;

use super::cluster::Cluster;
use super::process::{program, runs};
use super::rig::{Rig, revived};
use super::server::{PLUGIN, Product, Server, VERSION, until};

/// The host refuses a version number that the program does not report, so one program can stand
/// in the catalog twice only as a version and as none.
#[tokio::test]
async fn a_mount_moves_from_one_catalog_entry_to_another() {
    let server = Server::start(Product::OpenBao).await;
    server.register(None).await;
    server.mount("smtp", None).await;
    let rig = Rig::at(server, "smtp").await;
    rig.create("acme").await;
    let password = rig.password("acme").await;
    let old = rig.server.plugin();

    let version = json!({"plugin_version": VERSION});
    rig.api
        .write("sys/mounts/smtp/tune", version)
        .await
        .no_content();
    assert_eq!(rig.server.plugin(), old, "until it is reloaded");
    rig.server.reload().await;
    assert_eq!(rig.password("acme").await, password);
    assert_ne!(rig.server.plugin(), old);
    let mount = rig.api.read("sys/mounts/smtp").await;
    assert_eq!(mount.data()["running_plugin_version"], VERSION);

    // Nobody runs the old entry any more: it can go, and the mount lives on, also when revived.
    let path = format!("sys/plugins/catalog/secret/{PLUGIN}");
    rig.api.delete(&path).await.no_content();
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

#[tokio::test]
async fn a_pair_moves_to_another_file_and_back() {
    let cluster = Cluster::start().await;
    cluster.register(None).await;
    let (active, standby) = cluster.rigs("smtp", None).await;
    active.create("acme").await;
    let first = active.password("acme").await;
    let mut olds = Vec::new();
    for node in cluster.nodes() {
        olds.push(runs_file(node, "unversioned").await);
    }

    tune(&active, VERSION).await;
    let now: Vec<_> = cluster.nodes().iter().map(|node| node.plugin()).collect();
    assert_eq!(now, olds, "until they are reloaded");
    active.server.reload_everywhere().await;
    for (node, old) in cluster.nodes().iter().zip(olds) {
        assert_ne!(runs_file(node, VERSION).await, old);
        assert!(!runs(old));
        cluster.wait_mounted(node, "smtp").await;
    }
    assert_eq!(active.password("acme").await, first);
    assert_eq!(standby.password("acme").await, first);
    assert_eq!(standby.rotate("acme").await.data()["version"], 2);

    // Back: what the newer one wrote is read by the older one.
    tune(&active, "").await;
    active.server.reload_everywhere().await;
    for node in cluster.nodes() {
        runs_file(node, "unversioned").await;
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

async fn comes_back_after_seal_and_restart(cluster: &Cluster, rig: &Rig) {
    let roles = cluster.roles().await;
    let password = rig.through(&roles.active).password("acme").await;
    let plugin = roles.active.plugin();
    let sealed = roles.active.api().write("sys/seal", json!({})).await;
    sealed.no_content();
    until("the plugin of a sealed node ends", async || {
        (!runs(plugin)).then_some(())
    })
    .await;
    roles.active.unseal().await;
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

    // Both processes end with the last mount.
    let plugins = cluster.nodes().each_ref().map(|node| node.plugin());
    let api = roles.standby.api();
    api.delete("sys/mounts/smtp").await.no_content();
    for plugin in plugins {
        until("the last mount's plugin ends on each node", async || {
            (!runs(plugin)).then_some(())
        })
        .await;
    }
    for node in cluster.nodes() {
        assert_eq!(node.temporary_files(), Vec::<PathBuf>::new());
    }
}
