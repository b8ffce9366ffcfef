//! What a killed plugin, a killed server, a seal and a reload leave behind: everything.

use std::sync::Arc;

use serde_json::json;

use super::harness::tests;
use super::process::runs;
use super::rig::{EMAIL, Rig, revived};
use super::server::until;
use crate::support::mailu::standin::{Fault, Rule};

tests! {
    a_plugin_killed_at_rest_is_back_at_the_next_request,
    a_plugin_killed_in_a_rotation_loses_nothing,
    seal_restart_and_a_killed_server_keep_everything,
}

async fn a_plugin_killed_at_rest_is_back_at_the_next_request() {
    let rig = Rig::alone("smtp").await;
    rig.create("acme").await;
    let before = rig.admin("acme").await;
    let killed = rig.server.plugin();
    rig.server.kill_plugin().await;

    let admin = revived(async || rig.read("acme/admin").await).await;
    assert_eq!(admin.data()["password"], before["password"]);
    assert_ne!(rig.server.plugin(), killed);
    rig.server.kill_plugin().await;
    let rotated = revived(async || rig.rotate("acme").await).await;
    assert_eq!(rotated.data()["version"], 2, "one change, not two");
    rig.assert_live(&rig.password("acme").await).await;

    let reloaded = rig.server.plugin();
    rig.server.reload().await;
    assert_eq!(rig.admin("acme").await["version"], 2);
    assert_ne!(rig.server.plugin(), reloaded);

    two_mounts_share_a_process_and_nothing_else(&rig).await;
    rig.assert_nothing_leaked();
}

async fn two_mounts_share_a_process_and_nothing_else(rig: &Rig) {
    let other = Rig::mounted(Arc::clone(&rig.server), "smtp-other").await;
    assert_eq!(other.list("").await.status, 404);
    rig.server.plugin();
    other.create("acme").await;
    assert_ne!(other.password("acme").await, rig.password("acme").await);
    let first = rig.read("acme/events").await.data()["events"][0].clone();
    let second = other.read("acme/events").await.data()["events"][0].clone();
    assert_ne!(first["lineage"], second["lineage"]);
    // The process serves the first mount still when the second one goes.
    rig.api.delete("sys/mounts/smtp-other").await.no_content();
    assert_eq!(rig.admin("acme").await["version"], 2);
    rig.server.plugin();
}

/// Kills the plugin while Mailu has a rotation's new password in its hands; returns that password.
///
/// The host answers 500, or, if it noticed the death in time, sends the request again with the
/// same id: then that one settles what the first began.
async fn killed_while_sending(rig: &Rig, fault: Fault, old: &str) -> String {
    rig.mailu.fault(Rule::new(fault).method("PATCH"));
    let (cut, ()) = tokio::join!(rig.rotate("acme"), async {
        rig.until_held().await;
        rig.server.kill_plugin().await;
    });
    let admin = revived(async || rig.read("acme/admin").await).await;
    let admin = admin.data();
    let candidate = match cut.status {
        500 => {
            assert_eq!(admin["state"], "uncertain");
            assert_eq!(admin["password"], old);
            &admin["candidates"][0]["password"]
        }
        200 => {
            assert_eq!(admin["state"], "settled");
            assert_eq!(admin["version"], cut.data()["version"]);
            &admin["password"]
        }
        other => panic!("{other}: {}", cut.body),
    };
    candidate.as_str().unwrap().to_owned()
}

async fn a_plugin_killed_in_a_rotation_loses_nothing() {
    let rig = Rig::alone("smtp").await;
    rig.create("acme").await;
    let first = rig.password("acme").await;

    // Mailu sits on the new password when the plugin dies, and takes it afterwards.
    let candidate = killed_while_sending(&rig, Fault::Hold { ms: None }, &first).await;
    rig.mailu.release().await;
    rig.assert_live(&candidate).await;
    let verified = rig.write("acme/verify", json!({})).await;
    assert_eq!(verified.data()["state"], "settled");
    let admin = rig.admin("acme").await;
    assert_eq!(
        (&admin["version"], &admin["password"]),
        (&json!(2), &json!(candidate))
    );

    // And again, but Mailu never gets it: a rotation settles by sending the same value.
    let candidate = killed_while_sending(&rig, Fault::HangBefore { ms: None }, &candidate).await;
    rig.mailu.release().await;
    let rotated = rig.rotate("acme").await;
    assert!(rotated.data()["version"].as_u64() >= Some(3));
    let versions = rig.list("acme/versions").await;
    assert_eq!(versions.data()["keys"][2], "3");
    rig.assert_live(&rig.password("acme").await).await;
    if rotated.data()["version"] == 3 {
        assert_eq!(rig.password("acme").await, candidate);
    }
    rig.assert_nothing_leaked();
}

async fn seal_restart_and_a_killed_server_keep_everything() {
    let rig = Rig::alone("smtp").await;
    rig.create("acme").await;
    let before = rig.admin("acme").await;

    let plugin = rig.server.plugin();
    rig.api.write("sys/seal", json!({})).await.no_content();
    until("the plugin of a sealed server ends", async || {
        (!runs(plugin)).then_some(())
    })
    .await;
    assert_eq!(rig.read("acme/admin").await.status, 503);
    rig.server.unseal_alone().await;
    assert_eq!(rig.admin("acme").await["password"], before["password"]);

    let plugin = rig.server.plugin();
    rig.server.stop("KILL");
    until("the plugin of a killed server ends", async || {
        (!runs(plugin)).then_some(())
    })
    .await;
    rig.server.start_again().await;
    rig.server.unseal_alone().await;
    assert_eq!(rig.admin("acme").await["password"], before["password"]);

    let plugin = rig.server.plugin();
    rig.server.stop("TERM");
    assert!(!runs(plugin), "a server that stops takes its plugins along");
    rig.server.start_again().await;
    rig.server.unseal_alone().await;
    let admin = rig.admin("acme").await;
    assert_eq!(admin["password"], before["password"]);
    assert_eq!(admin["username"], EMAIL);
    rig.rotate("acme").await.data();
    rig.assert_live(&rig.password("acme").await).await;
    rig.assert_nothing_leaked();
}
