//! The keyring: created once, kept twice, never guessed; rotated, looked at, trimmed.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::crypto::Keyring;
use vault_plugin_secrets_smtp::logical::{StaticSystemView, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{EMAIL, Host, Rig, parts};
use crate::support::faults::Plan;
use crate::support::mailu::standin::{Fault, Rule};

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

const ROTATE: &str = "config/keyring/rotate";
const TRIM: &str = "config/keyring/trim";

/// How many tenants need each key, by version, as a read says.
async fn used(rig: &Host) -> Vec<(u64, u64)> {
    let read = rig.read("config/keyring").await.ok();
    let versions = read.get("versions").as_array().unwrap();
    let pair = |it: &Value| {
        (
            it["version"].as_u64().unwrap(),
            it["tenants"].as_u64().unwrap(),
        )
    };
    versions.iter().map(pair).collect()
}

/// What the mount's own events say.
async fn mount_events(rig: &Rig) -> Vec<String> {
    let entry = rig.storage.get("mountlog").await.unwrap().unwrap();
    let log: Value = serde_json::from_slice(&entry.value).unwrap();
    let events = log["log"]["events"].as_array().unwrap();
    let text = |event: &Value| {
        let [name, outcome] = ["event", "outcome"].map(|key| event[key].as_str().unwrap());
        format!("{name} {outcome} {}", event["version"])
    };
    events.iter().map(text).collect()
}

#[tokio::test]
async fn a_rotation_reaches_every_secret_and_then_the_old_key_can_go() {
    let mut rig = Rig::created().await;
    for tenant in ["globex", "initech"] {
        rig.configure(tenant).await;
    }
    let password = rig.settled().await;
    assert_eq!(used(&rig).await, [(1, 3)]);
    let read = rig.read("config/keyring").await.ok();
    assert_eq!(read.get("rewrap"), &Value::Null);
    let trimmed = rig.write(TRIM, json!({})).await.ok();
    assert_eq!(trimmed.get("removed"), &json!([]));
    let rotated = rig.write(ROTATE, json!({})).await.ok();
    assert_eq!(rotated.get("version"), 2);
    assert_eq!(rotated.get("previous_version"), 1);
    assert_eq!(rotated.get("event"), "smtp_keyring_rotated");
    assert_eq!(
        bytes(&rig, "keyring").await,
        bytes(&rig, "keyring-copy").await
    );
    assert_eq!(used(&rig).await, [(1, 3), (2, 0)]);
    // What changes now is sealed by the new key, what does not can be read.
    rig.configure("umbrella").await;
    assert_eq!(used(&rig).await, [(1, 3), (2, 1)]);
    rig.write(TRIM, json!({}))
        .await
        .fails(409, "rewrap_unfinished");
    assert_eq!(rig.settled().await, password);

    rig.tick().await;
    assert_eq!(used(&rig).await, [(1, 0), (2, 4)]);
    let read = rig.read("config/keyring").await.ok();
    assert_eq!(read.get("latest"), 2);
    assert_eq!(read.get("scanned"), 4);
    assert_eq!(read.get("rewrap")["tenants"], 4);
    assert!(read.get("rewrap")["finished_at"].is_string());
    let before = rig.storage.snapshot();
    rig.tick().await;
    assert_eq!(rig.storage.snapshot(), before);

    let trimmed = rig.write(TRIM, json!({})).await.ok();
    assert_eq!(trimmed.get("removed"), &json!([{"version": 1}]));
    assert_eq!(trimmed.get("versions")[0]["version"], 2);
    assert_eq!(
        bytes(&rig, "keyring").await,
        bytes(&rig, "keyring-copy").await
    );
    for restarted in [false, true] {
        if restarted {
            rig.restart();
        }
        assert_eq!(used(&rig).await, [(2, 4)]);
        assert_eq!(rig.settled().await, password);
        rig.later(3600);
        rig.write("acme/verify", json!({})).await.ok();
    }
    let story = mount_events(&rig).await;
    let story = story.join(", ").replace("smtp_keyring_", "");
    assert_eq!(
        story,
        "rotated started 2, rotated success 2, trimmed started 2, trimmed success 2"
    );
}

#[tokio::test]
async fn an_open_change_keeps_its_candidate_through_rewrap_and_trim() {
    let mut rig = Rig::created().await;
    let rule = |method| Rule::new(Fault::CutAfter).method(method);
    rig.mailu.fault(rule("PATCH"));
    rig.mailu.fault(rule("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    let candidates = rig.read("acme/admin").await.ok().get("candidates").clone();
    assert_eq!(candidates.as_array().unwrap().len(), 2);
    rig.write(ROTATE, json!({})).await.ok();
    rig.tick().await;
    rig.write(TRIM, json!({})).await.ok();
    rig.restart();
    assert_eq!(
        rig.read("acme/admin").await.ok().get("candidates"),
        &candidates
    );
    rig.later(60);
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, candidates[0]["password"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_keeps_every_key() {
    let rig = Rig::created().await;
    rig.configure("globex").await;
    let whole = rig.storage.get("tenant/globex").await.unwrap().unwrap();
    spoil(&rig, "tenant/globex").await;
    rig.write(ROTATE, json!({})).await.ok();
    rig.tick().await;
    let read = rig.read("config/keyring").await.ok();
    assert_eq!(read.get("unreadable"), &json!(["globex"]));
    assert_eq!(read.get("rewrap")["unreadable"], json!(["globex"]));
    assert!(read.get("rewrap")["finished_at"].is_string());
    let before = rig.storage.snapshot();
    let refused = rig.write(TRIM, json!({})).await;
    assert!(refused.text.contains("tenant/globex"), "{refused:?}");
    refused.fails(409, "tenant_unreadable");
    assert_eq!(rig.storage.snapshot(), before);

    // Repaired, it is found to need the old key, and everything is looked at again.
    rig.storage.put(whole.clone()).await.unwrap();
    let refused = rig.write(TRIM, json!({})).await;
    assert!(refused.text.contains("globex"), "{refused:?}");
    refused.fails(409, "rewrap_unfinished");
    rig.tick().await;
    assert_eq!(used(&rig).await, [(1, 0), (2, 2)]);
    rig.write(TRIM, json!({})).await.ok();
    rig.settled().await;

    // A secret that does not open is not encrypted anew, and its key stays.
    let text = String::from_utf8(whole.value.clone()).unwrap();
    let moved = text.replace("globex", "hooli");
    rig.storage
        .put(StorageEntry::new("tenant/hooli", moved.into_bytes()))
        .await
        .unwrap();
    rig.write(ROTATE, json!({})).await.ok();
    rig.tick().await;
    let read = rig.read("config/keyring").await.ok();
    assert_eq!(read.get("rewrap")["unreadable"], json!(["hooli"]));
    rig.write(TRIM, json!({}))
        .await
        .fails(409, "rewrap_unfinished");
    let keyring = Keyring::from_bytes(&bytes(&rig, "keyring").await).unwrap();
    assert_eq!(keyring.versions().count(), 2);
}

#[tokio::test]
async fn the_rewrap_goes_on_in_slices_and_after_a_restart() {
    let mut rig = Rig::start().await;
    for number in 0..450 {
        rig.configure(&format!("tenant-{number:03}")).await;
    }
    rig.write(ROTATE, json!({})).await.ok();
    for looked_at in [200, 400, 450] {
        rig.restart();
        rig.tick().await;
        let read = rig.read("config/keyring").await.ok();
        assert_eq!(read.get("rewrap")["tenants"], looked_at);
        assert_eq!(used(&rig).await, [(1, 450 - looked_at), (2, looked_at)]);
        let finished = read.get("rewrap")["finished_at"].is_string();
        assert_eq!(finished, looked_at == 450);
    }
    let page = json!({ "limit": 100, "after": "tenant-399" });
    let operation = vault_plugin_secrets_smtp::logical::Operation::Read;
    let read = rig.send(operation, "config/keyring", page).await.ok();
    assert_eq!(read.get("scanned"), 50);
    assert_eq!(read.get("next"), &Value::Null);
    // Another rotation begins anew, and the end of the last rewrap is not taken for that of this.
    rig.write(ROTATE, json!({})).await.ok();
    let read = rig.read("config/keyring").await.ok();
    let rewrap = read.get("rewrap");
    assert_eq!(
        (&rewrap["version"], &rewrap["finished_at"]),
        (&json!(3), &Value::Null)
    );
    rig.tick().await;
    assert_eq!(used(&rig).await, [(1, 0), (2, 250), (3, 200)]);
}

/// A process whose storage calls are counted and held.
fn watched(rig: &Rig, plan: &Plan) -> Host {
    let parts = parts(&rig.clock, connector());
    Host::new(parts, plan.over(&rig.storage), StaticSystemView::default())
}

#[tokio::test]
async fn a_finished_rewrap_costs_a_tick_nothing() {
    let rig = Rig::created().await;
    let plan = Plan::default();
    let host = watched(&rig, &plan);
    for rotations in 0..2 {
        if rotations == 1 {
            host.write(ROTATE, json!({})).await.ok();
        }
        host.tick().await;
        plan.arm(None);
        rig.later(60);
        host.tick().await;
        // What every tick asks for, whatever has become of the keyring.
        let calls = plan.calls();
        let usual = |call: &String| {
            matches!(call.as_str(), "list open/" | "get config") || call.starts_with("list due/")
        };
        assert!(calls.iter().all(usual), "{calls:?}");
    }
}

#[tokio::test]
async fn a_change_of_a_password_under_way_is_waited_for() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let (rotated, ()) = tokio::join!(rig.write("acme/rotate", json!({})), async {
        rig.mailu.wait_held(1).await;
        rig.write(ROTATE, json!({})).await.ok();
        let tick = rig.tick();
        tokio::pin!(tick);
        assert!(futures_util::poll!(&mut tick).is_pending());
        rig.mailu.release().await;
        tick.await;
    });
    assert_eq!(rotated.ok().get("version"), 2);
    assert_eq!(used(&rig).await, [(1, 0), (2, 1)]);
    rig.write(TRIM, json!({})).await.ok();
    rig.settled().await;
}

/// A tenant that is stored for the first time by somebody who has the old keyring is in no list.
#[tokio::test]
async fn a_tenant_about_to_be_stored_is_waited_for_by_rewrap_and_trim() {
    let rig = Rig::created().await;
    let plan = Plan::default();
    let host = Arc::new(watched(&rig, &plan));
    host.read("acme/admin").await.ok();
    plan.hold("cas tenant/late");
    let body = rig.server();
    let (written, ()) = tokio::join!(host.write("late/config", body), async {
        plan.holds().await;
        host.write(ROTATE, json!({})).await.ok();
        let tick = host.tick();
        tokio::pin!(tick);
        assert!(futures_util::poll!(&mut tick).is_pending());
        tokio::task::yield_now().await;
        plan.release();
        tick.await;
    });
    written.ok();
    assert_eq!(used(&host).await, [(1, 0), (2, 2)]);
    host.write(TRIM, json!({})).await.ok();
    host.read("late/config").await.ok();
}

/// A trim relies on no rewrap: here one says that it is finished and is not.
#[tokio::test]
async fn a_trim_finds_the_late_tenant_by_itself() {
    let rig = Rig::created().await;
    let plan = Plan::default();
    let host = Arc::new(watched(&rig, &plan));
    host.write(ROTATE, json!({})).await.ok();
    host.tick().await;
    plan.hold("cas tenant/late");
    let body = rig.server();
    let (written, ()) = tokio::join!(host.write("late/config", body), async {
        plan.holds().await;
        host.write(ROTATE, json!({})).await.ok();
        // Everything that is listed has the newest key, and the progress says so.
        let finished = rig.storage.get("rewrap").await.unwrap().unwrap();
        host.write(
            "acme/destroy",
            json!({"confirm": "acme", "reason": "a test"}),
        )
        .await
        .ok();
        host.delete("acme/config").await.ok();
        let text = String::from_utf8(finished.value.clone()).unwrap();
        let text = text.replace("\"version\":2", "\"version\":3");
        let entry = StorageEntry::new("rewrap", text.into_bytes());
        rig.storage.put(entry).await.unwrap();
        let trim = host.write(TRIM, json!({}));
        tokio::pin!(trim);
        assert!(futures_util::poll!(&mut trim).is_pending());
        tokio::task::yield_now().await;
        plan.release();
        let refused = trim.await;
        assert!(refused.text.contains("late"), "{refused:?}");
        refused.fails(409, "rewrap_unfinished");
    });
    written.ok();
    assert_eq!(used(&host).await, [(1, 0), (2, 1), (3, 0)]);
    host.tick().await;
    assert_eq!(used(&host).await, [(1, 0), (2, 0), (3, 1)]);
    host.write(TRIM, json!({})).await.ok();
}

#[tokio::test]
async fn a_damaged_copy_stops_changes_of_the_keyring_only() {
    for lost in ["keyring", "keyring-copy"] {
        let mut rig = Rig::created().await;
        spoil(&rig, lost).await;
        rig.restart();
        let before = rig.storage.snapshot();
        rig.write(ROTATE, json!({}))
            .await
            .fails(409, "keyring_damaged");
        assert_eq!(rig.storage.snapshot(), before);
        rig.settled().await;
        rig.storage.delete(lost).await.unwrap();
        rig.write(ROTATE, json!({})).await.ok();
        assert_eq!(
            bytes(&rig, "keyring").await,
            bytes(&rig, "keyring-copy").await
        );
        rig.restart();
        rig.settled().await;
    }
}
