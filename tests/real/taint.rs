//! Mounts that are removed, and processes with nothing left to do.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::harness::tests;
use super::process::runs;
use super::rig::Rig;
use super::server::{PLUGIN, Server, VERSION, until};
use crate::support::mailu::standin::{Fault, Rule};

tests! {
    a_mount_that_is_removed_with_a_change_open_is_not_touched_again,
    registration_leaves_nothing_behind,
}

/// What is stored for the mount with this id, seen from outside.
async fn stored(server: &Server, uuid: &str) -> Value {
    let listed = server.api().list(&format!("sys/raw/logical/{uuid}/")).await;
    assert!(matches!(listed.status, 200 | 404), "{}", listed.body);
    listed.body["data"]["keys"].clone()
}

async fn a_mount_that_is_removed_with_a_change_open_is_not_touched_again() {
    let server = Server::start().await;
    let other = Rig::mounted(Arc::clone(&server), "smtp-other").await;
    other.create("acme").await;
    let rig = Rig::mounted(Arc::clone(&server), "smtp").await;
    rig.write("config", json!({"wait": 2})).await.no_content();
    rig.create("acme").await;
    let mount = rig.api.read("sys/mounts/smtp").await;
    let uuid = mount.data()["uuid"].as_str().unwrap().to_owned();
    assert!(stored(&server, &uuid).await.is_array());

    rig.mailu
        .fault(Rule::new(Fault::HangBefore { ms: None }).method("PATCH"));
    assert_eq!(rig.rotate("acme").await.code(), "in_progress");
    let calls = rig.mailu.journal().len();
    rig.api.delete("sys/mounts/smtp").await.no_content();
    assert_eq!(stored(&server, &uuid).await, Value::Null, "all is gone");

    // The held change fails now, for a mount that is not there any more. Otherwise it would be sent
    // again; here it may at most be looked at.
    rig.mailu.release().await;
    other.rotate("acme").await.data();
    other.rotate("acme").await.data();
    assert_eq!(stored(&server, &uuid).await, Value::Null, "and stays so");
    let later = rig.mailu.journal().split_off(calls);
    assert!(later.iter().all(|call| call.method == "GET"), "{later:#?}");
    assert_eq!(other.admin("acme").await["version"], 3);

    // The process ends with its last mount, and its socket goes.
    let plugin = server.plugin();
    other.api.delete("sys/mounts/smtp-other").await.no_content();
    until("the plugin of the last mount ends", async || {
        (!runs(plugin)).then_some(())
    })
    .await;
    assert_eq!(server.temporary_files(), Vec::<PathBuf>::new());
    rig.assert_nothing_leaked();
}

/// The host starts the program for each registration, to ask for its version.
async fn registration_leaves_nothing_behind() {
    let server = Server::start().await;
    let nothing_is_left = async || {
        until("the short processes ended", async || {
            (server.plugins().is_empty() && server.temporary_files().is_empty()).then_some(())
        })
        .await;
    };
    nothing_is_left().await;
    let refused = server.try_register(Some("v9.9.9")).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(
        refused.error().contains(VERSION.trim_start_matches('v')),
        "{}",
        refused.error()
    );
    nothing_is_left().await;
    let path = format!("sys/plugins/catalog/secret/{}?version=v9.9.9", PLUGIN);
    assert_eq!(server.api().read(&path).await.status, 404);
    // Without a version the host takes the one that the program reports.
    server.register(None).await;
    nothing_is_left().await;
    let path = format!("sys/plugins/catalog/secret/{PLUGIN}?version={VERSION}");
    let entry = server.api().read(&path).await;
    assert_eq!(entry.data()["command"], format!("{PLUGIN}-unversioned"));
}
