//! Standby nodes, and mounts that are being removed.

use serde_json::json;
use vault_plugin_secrets_smtp::logical::{Operation, ReplicationState, StaticSystemView};

use crate::support::engine::{EMAIL, Rig};

const WRITES: [(Operation, &str); 13] = [
    (Operation::Update, "config"),
    (Operation::Patch, "config"),
    (Operation::Update, "acme/config"),
    (Operation::Create, "new/config"),
    (Operation::Delete, "acme/config"),
    (Operation::Update, "acme/admin"),
    (Operation::Create, "new/admin"),
    (Operation::Patch, "acme/admin"),
    (Operation::Delete, "acme/admin"),
    (Operation::Update, "acme/rotate"),
    (Operation::Update, "acme/verify"),
    (Operation::Update, "acme/undelete"),
    (Operation::Update, "acme/destroy"),
];

fn body(rig: &Rig) -> serde_json::Value {
    let mut body = rig.server();
    body["username"] = json!(EMAIL);
    body["reason"] = json!("why");
    body["confirm"] = json!("acme");
    body["wait"] = json!(5);
    body
}

#[tokio::test]
async fn a_standby_answers_reads_and_forwards_the_rest_before_anything_is_touched() {
    for state in [0x6000, 0x200, 0x40] {
        let rig = Rig::created().await;
        let standby = rig.process(StaticSystemView {
            replication_state: ReplicationState(state),
            ..StaticSystemView::default()
        });
        rig.storage.set_read_only(true);
        let before = rig.storage.snapshot();
        let calls = rig.mailu.journal().len();
        for (operation, path) in WRITES {
            let answer = standby.send(operation, path, body(&rig)).await;
            answer.fails(0, "read_only");
        }
        // What may lag behind the active node is asked there.
        for path in ["acme/status", "acme/events"] {
            standby.read(path).await.fails(0, "read_only");
        }
        assert_eq!(rig.storage.snapshot(), before);
        assert_eq!(rig.mailu.journal().len(), calls);
        let read = standby.read("acme/admin").await.ok();
        assert!(rig.fits(read.text_of("password")));
        for path in ["config", "acme/config", "acme/versions/1"] {
            standby.read(path).await.ok();
        }
        for path in ["", "tenants", "acme/versions"] {
            standby.list(path).await.ok();
        }
    }
}

#[tokio::test]
async fn a_node_that_steps_down_forwards() {
    let rig = Rig::created().await;
    rig.storage.set_read_only(true);
    let before = rig.storage.snapshot();
    let old = rig.settled().await;
    for (operation, path) in WRITES {
        let answer = rig.send(operation, path, body(&rig)).await;
        // Nothing there to undo, or nothing to change.
        if path == "acme/undelete" {
            continue;
        }
        if (operation, path) == (Operation::Delete, "acme/config") {
            answer.fails(409, "credential_exists");
        } else if (operation, path) == (Operation::Create, "new/admin") {
            answer.fails(400, "no_server");
        } else if !matches!(path, "acme/config" | "acme/admin") || operation == Operation::Delete {
            answer.fails(0, "read_only");
        }
    }
    assert_eq!(rig.storage.snapshot(), before);
    assert_eq!(rig.settled().await, old);
    assert_eq!(
        rig.password_writes(),
        1,
        "nothing was sent that could not be stored"
    );
}

#[tokio::test]
async fn a_tainted_mount_changes_nothing() {
    let rig = Rig::created().await;
    let tainted = rig.process(StaticSystemView {
        tainted: true,
        ..StaticSystemView::default()
    });
    let before = rig.storage.snapshot();
    let calls = rig.mailu.journal().len();
    for (operation, path) in WRITES {
        let answer = tainted.send(operation, path, body(&rig)).await;
        answer.fails(409, "tainted");
    }
    assert_eq!(rig.storage.snapshot(), before);
    assert_eq!(rig.mailu.journal().len(), calls);
    tainted.read("acme/admin").await.ok();
}
