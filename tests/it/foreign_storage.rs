//! A storage that another mount has made: copied, or shown through the wrong door.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::engine::SmtpBackend;
use vault_plugin_secrets_smtp::logical::{
    BackendInfo, MemoryStorage, StaticSystemView, Storage as _, StorageEntry,
};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{EMAIL, FIRST, Host, Rig, parts};
use crate::support::faults::{Kind, Plan};

const A: &str = "6f3b1c52-74a1-4c9e-8d0f-0b7c2a9e51d3";
const B: &str = "0e8d7c11-1c1f-4b53-9a55-2f6d4c0e9b77";

/// A new process over `storage`, as the mount of this identifier.
fn mounted_over(rig: &Rig, storage: &Arc<MemoryStorage>, uuid: &str) -> Host {
    let parts = parts(&rig.clock, connector());
    let system = StaticSystemView::default();
    let mut host = Host::new(parts.clone(), Arc::clone(storage) as _, system);
    let info = BackendInfo {
        uuid: uuid.to_owned(),
    };
    host.backend = Arc::new(SmtpBackend::new(parts, info));
    host
}

fn mounted(rig: &Rig, uuid: &str) -> Host {
    mounted_over(rig, &rig.storage, uuid)
}

/// `acme` has a credential that the mount `A` has made.
async fn made_by_a() -> (Rig, Host) {
    let rig = Rig::start().await;
    let host = mounted(&rig, A);
    host.write("acme/config", rig.server()).await.ok();
    host.write("acme/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    rig.later(3600);
    (rig, host)
}

async fn codes(host: &Host) -> Vec<String> {
    let status = host.read("status").await.ok();
    let attention = status.get("attention").as_array().unwrap().iter();
    attention
        .map(|it| it["code"].as_str().unwrap().to_owned())
        .collect()
}

async fn gauge(host: &Host) -> bool {
    let (_, text) = host.read("metrics").await.ok().raw.unwrap();
    text.contains("\nsmtp_foreign_storage 1\n")
}

async fn adopt(host: &Host, confirm: &str) -> crate::support::engine::Answer {
    let body = json!({ "confirm": confirm, "reason": "moved" });
    host.write("ops/adopt-storage", body).await
}

#[tokio::test]
async fn under_another_mount_nothing_is_written_and_no_secret_is_opened() {
    let (rig, owner) = made_by_a().await;
    assert_eq!(codes(&owner).await, [""; 0]);
    let other = mounted(&rig, B);
    // A change is due, and an event waits for somebody.
    rig.later(400 * 86_400);
    let (before, asked) = (rig.storage.snapshot(), rig.mailu.journal().len());
    for _ in 0..3 {
        other.tick().await;
        rig.later(60);
    }
    let refused = other.read("acme/admin").await;
    let refused = refused.fails(400, "foreign_storage");
    assert!(refused.text.contains(A), "{}", refused.text);
    let why = json!({ "reason": "x" });
    for (path, body) in [
        ("acme/rotate", why.clone()),
        ("acme/reset", json!({ "incident_id": "I", "reason": "x" })),
        ("acme/reveal", why.clone()),
        ("acme/verify", json!({})),
        ("acme/config", rig.server()),
        ("globex/config", rig.server()),
        ("acme/admin", json!({ "webmail_url": "https://w.example" })),
        ("acme/destroy", json!({ "confirm": "acme", "reason": "x" })),
        ("config", json!({ "spread": "2h" })),
        ("config/keyring/rotate", json!({})),
        ("config/keyring/trim", json!({})),
        ("config/audit", json!({ "mode": "external" })),
        ("events/flush", json!({})),
        ("ops/reindex", json!({})),
        ("ops/sweep", json!({})),
        ("batches", json!({ "action": "rotate", "all": true })),
    ] {
        other.write(path, body).await.fails(400, "foreign_storage");
    }
    other
        .delete("acme/admin")
        .await
        .fails(400, "foreign_storage");
    other.tick().await;
    assert_eq!(rig.storage.snapshot(), before, "nothing was written");
    assert_eq!(rig.mailu.journal().len(), asked, "and nobody was asked");
    assert_eq!(codes(&other).await, ["foreign_storage"]);
    assert!(gauge(&other).await);
    // What is no secret can be looked at, to decide.
    assert_eq!(other.list("tenants").await.get("keys"), &json!(["acme"]));
    assert!(!gauge(&owner).await);
    owner.read("acme/admin").await.ok();
}

#[tokio::test]
async fn whoever_names_the_other_mount_adopts_its_storage() {
    let (rig, _) = made_by_a().await;
    let other = mounted(&rig, B);
    let before = rig.storage.snapshot();
    for confirm in [B, "x", &A[1..]] {
        let refused = adopt(&other, confirm).await;
        let refused = refused.fails(400, "confirm_mismatch");
        assert!(refused.text.contains(A), "{}", refused.text);
    }
    other
        .write("ops/adopt-storage", json!({ "confrm": A }))
        .await
        .fails(400, "unknown_field");
    assert_eq!(rig.storage.snapshot(), before);
    let adopted = adopt(&other, A).await.ok();
    assert_eq!(adopted.get("adopted"), true);
    assert_eq!(codes(&other).await, [""; 0]);
    assert!(!gauge(&other).await);
    let told = other
        .send(
            vault_plugin_secrets_smtp::logical::Operation::Read,
            "events",
            json!({ "tenant": "-", "event": "smtp_storage_adopted" }),
        )
        .await
        .ok();
    let told: Vec<(&Value, &Value, &Value)> = (told.get("events").as_array().unwrap().iter())
        .map(|event| (&event["outcome"], &event["severity"], &event["reason"]))
        .collect();
    let (critical, moved) = (json!("critical"), json!("moved"));
    assert_eq!(
        told,
        [
            (&json!("success"), &critical, &moved),
            (&json!("started"), &critical, &moved)
        ]
    );
    let read = other.read("acme/admin").await.ok();
    assert!(rig.fits(read.text_of("password")));
    other
        .write("acme/rotate", json!({ "reason": "x" }))
        .await
        .ok();
    // Again there is nothing to adopt; and the first mount is a stranger now, also after a restart.
    assert_eq!(adopt(&other, A).await.ok().get("adopted"), false);
    mounted(&rig, B).read("acme/admin").await.ok();
    mounted(&rig, A)
        .read("acme/admin")
        .await
        .fails(400, "foreign_storage");
}

/// Half of an adoption is none, and can be made whole.
#[tokio::test]
async fn an_interrupted_adoption_is_made_again() {
    for kept in ["keyring", "keyring-copy"] {
        let (rig, _) = made_by_a().await;
        let old = rig.storage.get(kept).await.unwrap().unwrap();
        adopt(&mounted(&rig, B), A).await.ok();
        rig.storage.put(old).await.unwrap();
        let other = mounted(&rig, B);
        other.read("acme/admin").await.fails(400, "foreign_storage");
        assert_eq!(adopt(&other, A).await.ok().get("adopted"), true);
        other.read("acme/admin").await.ok();
        mounted(&rig, B).read("acme/admin").await.ok();
    }
}

/// The copy was made, and then the first mount went on: what it set is not overwritten by a schedule.
#[tokio::test]
async fn after_an_adoption_every_tenant_is_verified_before_its_next_change() {
    let (rig, owner) = made_by_a().await;
    let without_marks = json!({ "mailu_marker": false });
    owner.write("config", without_marks).await.ok();
    let copy = Arc::new(MemoryStorage::new());
    copy.restore(&rig.storage.snapshot());
    owner
        .write("acme/rotate", json!({ "reason": "x" }))
        .await
        .ok();
    let live = owner.read("acme/admin").await.ok();
    let other = mounted_over(&rig, &copy, B);
    adopt(&other, A).await.ok();
    let batch = json!({ "action": "rotate", "all": true, "reason": "x" });
    let batch = other.write("batches", batch).await.ok();
    let path = format!("batches/{}", batch.text_of("id"));
    for _ in 0..5 {
        rig.later(60);
        other.tick().await;
    }
    let batch = other.read(&path).await.ok();
    assert_eq!(batch.get("succeeded"), 0, "{:?}", batch.data);
    assert!(rig.fits(live.text_of("password")), "it was overwritten");
    let read = other.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "drift");
    assert!(
        other
            .story("acme")
            .await
            .iter()
            .any(|it| it.starts_with("drift_detected"))
    );
}

/// A person's change goes on, and what was found is told before it.
#[tokio::test]
async fn a_persons_change_after_an_adoption_tells_of_what_it_replaces() {
    for (foreign, found) in [(true, true), (false, false)] {
        let (rig, _) = made_by_a().await;
        let other = mounted(&rig, B);
        adopt(&other, A).await.ok();
        if foreign {
            rig.mailu.set_password_directly(EMAIL, FIRST);
        }
        rig.later(3600);
        other
            .write("acme/rotate", json!({ "reason": "x" }))
            .await
            .ok();
        let story = other.story("acme").await;
        let told = story.iter().position(|it| it.starts_with("drift_detected"));
        assert_eq!(told.is_some(), found, "{story:?}");
        let read = other.read("acme/admin").await.ok();
        assert!(rig.fits(read.text_of("password")));
        // Once: what was proven since is not looked for again.
        let before = rig.mailu.journal().len();
        rig.later(3600);
        other
            .write("acme/rotate", json!({ "reason": "y" }))
            .await
            .ok();
        assert!(rig.mailu.journal().len() > before);
        let again = other.story("acme").await;
        let drifts = |story: &[String]| {
            let found = story.iter().filter(|it| it.starts_with("drift_detected"));
            found.count()
        };
        assert_eq!(drifts(&again), drifts(&story));
    }
}

#[tokio::test]
async fn a_host_that_does_not_say_which_mount_it_is_compares_nothing() {
    // Made without, then read by one that says it: the first write names it.
    let rig = Rig::created().await;
    let plain = rig.storage.snapshot();
    let host = mounted(&rig, A);
    host.read("acme/admin").await.ok();
    assert_eq!(rig.storage.snapshot(), plain, "a read writes nothing");
    mounted(&rig, B).read("acme/admin").await.ok();
    host.write("acme/rotate", json!({ "reason": "x" }))
        .await
        .ok();
    for key in ["keyring", "keyring-copy"] {
        let entry = rig.storage.get(key).await.unwrap().unwrap();
        let named = entry.value.windows(A.len()).any(|it| it == A.as_bytes());
        assert!(named, "{key}");
    }
    mounted(&rig, B)
        .read("acme/admin")
        .await
        .fails(400, "foreign_storage");
    mounted(&rig, "").read("acme/admin").await.ok();
    mounted(&rig, A).read("acme/admin").await.ok();
    // Only one of the copies was named when the process died.
    let unnamed = plain.entries().find(|it| it.key == "keyring").unwrap();
    let unnamed = StorageEntry {
        key: unnamed.key.clone(),
        value: unnamed.value.clone(),
        seal_wrap: true,
    };
    rig.storage.put(unnamed).await.unwrap();
    mounted(&rig, B)
        .read("acme/admin")
        .await
        .fails(400, "foreign_storage");
    rig.later(3600);
    let host = mounted(&rig, A);
    host.write("acme/rotate", json!({ "reason": "x" }))
        .await
        .ok();
    let entry = rig.storage.get("keyring").await.unwrap().unwrap();
    assert!(entry.value.windows(A.len()).any(|it| it == A.as_bytes()));
}

/// A rotation and a trim of the keyring keep whose it is.
#[tokio::test]
async fn changes_of_the_keyring_keep_its_mount() {
    let (rig, owner) = made_by_a().await;
    owner.write("config/keyring/rotate", json!({})).await.ok();
    for _ in 0..3 {
        rig.later(60);
        owner.tick().await;
    }
    owner.write("config/keyring/trim", json!({})).await.ok();
    mounted(&rig, A).read("acme/admin").await.ok();
    mounted(&rig, B)
        .read("acme/admin")
        .await
        .fails(400, "foreign_storage");
}

/// The adoption is in force and its end could not be told: the repeat tells it and says so.
#[tokio::test]
async fn an_adoption_whose_end_was_not_told_is_told_by_its_repeat() {
    let (rig, _) = made_by_a().await;
    let plan = Plan::default();
    let parts = parts(&rig.clock, connector());
    let system = StaticSystemView::default();
    let mut other = Host::new(parts.clone(), plan.over(&rig.storage), system);
    let info = BackendInfo { uuid: B.to_owned() };
    other.backend = Arc::new(SmtpBackend::new(parts, info));
    plan.arm_named("put mountlog", 1, Kind::Refused, false);
    adopt(&other, A).await.fails(500, "storage_error");
    let adopted = adopt(&other, A).await.ok();
    assert_eq!(adopted.get("adopted"), true);
    assert_eq!(adopted.get("event"), "smtp_storage_adopted");
    let only = json!({ "tenant": "-", "event": "smtp_storage_adopted" });
    let read = vault_plugin_secrets_smtp::logical::Operation::Read;
    let told = other.send(read, "events", only).await.ok();
    let told = told.get("events").as_array().unwrap().iter();
    let outcomes: Vec<_> = told.map(|event| event["outcome"].clone()).collect();
    assert_eq!(outcomes, ["success", "started"]);
    assert_eq!(adopt(&other, A).await.ok().get("adopted"), false);
}
