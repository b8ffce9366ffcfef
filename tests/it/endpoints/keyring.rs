//! The keyring in storage: created once, twice kept, never guessed.

use serde_json::json;
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::support::engine::{EMAIL, Rig};

async fn bytes(rig: &Rig, key: &str) -> Vec<u8> {
    let entry = rig.storage.get(key).await.unwrap().unwrap();
    assert!(entry.seal_wrap);
    entry.value.clone()
}

async fn spoil(rig: &Rig, key: &str) {
    let entry = StorageEntry::new(key, b"{\"damaged\":".to_vec());
    rig.storage.put(entry).await.unwrap();
}

#[tokio::test]
async fn it_is_created_once_and_kept_twice() {
    let mut rig = Rig::start().await;
    rig.configure("acme").await;
    let first = bytes(&rig, "keyring").await;
    assert_eq!(bytes(&rig, "keyring-copy").await, first);
    rig.restart();
    rig.write("acme/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    assert_eq!(bytes(&rig, "keyring").await, first);
    // Each copy serves alone.
    for lost in ["keyring", "keyring-copy"] {
        let before = rig.storage.snapshot();
        spoil(&rig, lost).await;
        rig.restart();
        rig.settled().await;
        rig.write("acme/verify", json!({})).await.ok();
        rig.storage.restore(&before);
        rig.storage.delete(lost).await.unwrap();
        rig.restart();
        rig.settled().await;
        // A write puts a missing copy back, once it looks again.
        rig.later(61);
        rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(bytes(&rig, lost).await, first);
    }
}

#[tokio::test]
async fn a_lost_keyring_stops_everything_and_nothing_is_written() {
    for damage in 0..3 {
        let mut rig = Rig::created().await;
        match damage {
            0 => {
                rig.storage.delete("keyring").await.unwrap();
                rig.storage.delete("keyring-copy").await.unwrap();
            }
            1 => {
                spoil(&rig, "keyring").await;
                spoil(&rig, "keyring-copy").await;
            }
            _ => {
                // A keyring of another mount next to the copy of this one.
                let other = Rig::configured().await;
                let foreign = bytes(&other, "keyring").await;
                let entry = StorageEntry::new("keyring", foreign);
                rig.storage.put(entry).await.unwrap();
            }
        }
        rig.restart();
        let before = rig.storage.snapshot();
        let calls = rig.mailu.journal().len();
        rig.read("acme/admin")
            .await
            .fails(500, "keyring_unreadable");
        for (path, body) in [
            ("config", json!({ "wait": 5 })),
            ("acme/config", rig.server()),
            ("new/config", rig.server()),
            ("acme/admin", json!({ "webmail_url": "https://x.test" })),
            ("acme/rotate", json!({})),
            ("acme/verify", json!({})),
            ("acme/destroy", json!({ "reason": "r", "confirm": "acme" })),
        ] {
            rig.write(path, body).await.fails(500, "keyring_unreadable");
        }
        rig.delete("acme/admin")
            .await
            .fails(500, "keyring_unreadable");
        assert_eq!(rig.storage.snapshot(), before);
        assert_eq!(rig.mailu.journal().len(), calls);
        // What needs no key is still answered.
        rig.read("acme/versions/1").await.ok();
        rig.read("acme/config").await.ok();
    }
}

#[tokio::test]
async fn a_record_does_not_open_under_another_keyring() {
    let mut rig = Rig::created().await;
    let other = Rig::configured().await;
    for key in ["keyring", "keyring-copy"] {
        let entry = StorageEntry::new(key, bytes(&other, key).await);
        rig.storage.put(entry).await.unwrap();
    }
    rig.restart();
    rig.read("acme/admin").await.fails(500, "secret_unreadable");
    rig.write("acme/rotate", json!({}))
        .await
        .fails(500, "secret_unreadable");
    assert_eq!(rig.password_writes(), 1);
}
