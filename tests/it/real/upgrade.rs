//! Two entries of the catalog side by side: how an operator moves a mount from one to the other.

use serde_json::json;

use super::rig::{Rig, revived};
use super::server::{PLUGIN, Product, Server, VERSION};

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
