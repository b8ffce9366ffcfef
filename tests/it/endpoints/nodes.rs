//! Standby nodes, and mounts that are being removed.

use serde_json::json;
use vault_plugin_secrets_smtp::logical::{
    Operation, ReplicationState, StaticSystemView, Storage as _, StorageEntry,
};

use crate::support::engine::{EMAIL, Rig};

const WRITES: [(Operation, &str); 15] = [
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
    (Operation::Update, "config/keyring/rotate"),
    (Operation::Update, "config/keyring/trim"),
];

/// What each of them takes; acts that cannot be undone refuse anything else.
fn body(rig: &Rig, (operation, path): (Operation, &str)) -> serde_json::Value {
    match path {
        "acme/admin" if operation == Operation::Delete => json!({}),
        "acme/admin" | "new/admin" => json!({ "username": EMAIL }),
        "acme/rotate" | "acme/undelete" => json!({ "reason": "why" }),
        "config/keyring/rotate" | "config/keyring/trim" => json!({ "reason": "why" }),
        "acme/destroy" => json!({ "reason": "why", "confirm": "acme" }),
        "config" => json!({ "wait": 5 }),
        _ => rig.server(),
    }
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
            let answer = standby
                .send(operation, path, body(&rig, (operation, path)))
                .await;
            answer.fails(0, "read_only");
        }
        // What may lag behind the active node is asked there.
        for path in ["acme/status", "acme/events", "config/keyring"] {
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
        let answer = rig
            .send(operation, path, body(&rig, (operation, path)))
            .await;
        // Nothing there to undo, or nothing to change.
        if matches!(path, "acme/undelete" | "config/keyring/trim") {
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
        let answer = tainted
            .send(operation, path, body(&rig, (operation, path)))
            .await;
        answer.fails(409, "tainted");
    }
    assert_eq!(rig.storage.snapshot(), before);
    assert_eq!(rig.mailu.journal().len(), calls);
    tainted.read("acme/admin").await.ok();
}

#[tokio::test]
async fn what_a_standby_cannot_read_is_left_to_the_active_node() {
    let rig = Rig::created().await;
    for key in ["tenant/acme", "config"] {
        let before = rig.storage.snapshot();
        // As a newer release on the active node writes it.
        let entry = StorageEntry::new(key, br#"{"schema":9}"#.to_vec());
        rig.storage.put(entry).await.unwrap();
        let process = |state| {
            rig.process(StaticSystemView {
                replication_state: ReplicationState(state),
                ..StaticSystemView::default()
            })
        };
        let (standby, active) = (process(0x6000), process(0x2020));
        let paths: &[&str] = match key {
            "config" => &["config", "acme/admin"],
            _ => &["acme/admin", "acme/config", "acme/versions/1"],
        };
        for path in paths {
            standby.read(path).await.fails(0, "read_only");
            assert_eq!(active.read(path).await.status, 500, "{path}");
        }
        // The existence check comes first and must not stand in the way of forwarding.
        for path in ["acme/admin", "acme/config"] {
            let body = json!({ "username": EMAIL });
            standby.write(path, body).await.fails(0, "read_only");
        }
        rig.storage.restore(&before);
    }
}
