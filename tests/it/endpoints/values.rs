//! The one door for values: what a policy of the host gives is tried, and looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::logical::{
    Cluster, Entity, Group, ReplicationState, ServerVersion, StaticSystemView, SystemView,
    SystemViewError,
};

use crate::support::engine::Rig;

/// A host that generates passwords by policies named after what they give.
#[derive(Debug, Default)]
struct Policies {
    plain: StaticSystemView,
    asked: AtomicU64,
}

/// Forty characters that differ with the number.
fn good(number: u64) -> String {
    let digest = vault_plugin_secrets_smtp::crypto::sha256_hex(&number.to_be_bytes());
    digest[..40].to_owned()
}

#[async_trait]
impl SystemView for Policies {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        self.plain.replication_state().await
    }
    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        self.plain.local_mount().await
    }
    async fn tainted(&self) -> Result<bool, SystemViewError> {
        self.plain.tainted().await
    }
    async fn caching_disabled(&self) -> Result<bool, SystemViewError> {
        self.plain.caching_disabled().await
    }
    async fn mlock_enabled(&self) -> Result<bool, SystemViewError> {
        self.plain.mlock_enabled().await
    }
    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        self.plain.default_lease_ttl().await
    }
    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        self.plain.max_lease_ttl().await
    }
    async fn entity(&self, id: &str) -> Result<Option<Entity>, SystemViewError> {
        self.plain.entity(id).await
    }
    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, SystemViewError> {
        self.plain.groups_of_entity(id).await
    }
    async fn server_version(&self) -> Result<ServerVersion, SystemViewError> {
        self.plain.server_version().await
    }
    async fn cluster(&self) -> Result<Cluster, SystemViewError> {
        self.plain.cluster().await
    }
    async fn generate_password(&self, policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let text = match policy {
            "good" => good(number),
            // Good while it is tried, and then always the same.
            "turns" => good(number.min(70)),
            "one" => "a".repeat(40),
            "sixteen bits" => format!("{:0>40}", format!("{:04x}", number % 0x1_0000)),
            "short" => good(number)[..15].to_owned(),
            "long" => good(number).repeat(13),
            "line" => format!("{}\n", good(number)),
            "blank" => format!(" {}", good(number)),
            "foreign" => format!("{}\u{e9}", good(number)),
            _ => return Err(SystemViewError::Unsupported),
        };
        Ok(Sensitive::new(text))
    }
}

async fn rig() -> (Rig, Arc<Policies>) {
    let mut rig = Rig::created().await;
    let policies = Arc::new(Policies::default());
    rig.host.mount.system = Arc::clone(&policies) as _;
    rig.write("config", json!({ "min_rotation_interval": "0s" }))
        .await
        .ok();
    (rig, policies)
}

#[tokio::test]
async fn a_policy_is_tried_when_it_is_written() {
    let (rig, policies) = rig().await;
    for (policy, told) in [
        ("one", "same password twice"),
        ("sixteen bits", "bits"),
        ("short", "16 to 500"),
        ("long", "16 to 500"),
        ("line", "16 to 500"),
        ("blank", "16 to 500"),
        ("foreign", "16 to 500"),
        ("no such policy", "did not generate"),
    ] {
        let answer = rig
            .write("config", json!({ "password_policy": policy }))
            .await;
        assert!(answer.text.contains(told), "{policy}: {}", answer.text);
        answer.fails(400, "password_policy_unusable");
        let config = rig.read("config").await;
        assert_eq!(config.get("password_policy"), &json!(null), "{policy}");
    }
    rig.write("config", json!({ "password_policy": "good" }))
        .await
        .ok();
    let asked = policies.asked.load(Ordering::Relaxed);
    rig.write("acme/rotate", json!({})).await.ok();
    // One to use, and three that must differ from it.
    assert_eq!(policies.asked.load(Ordering::Relaxed), asked + 4);
    assert_eq!(rig.settled().await, good(asked));
}

/// The policy itself is changed later, where nobody tries it: the very first of its passwords that is
/// used is looked at beside others.
#[tokio::test]
async fn a_policy_that_gives_one_password_by_now_sets_none() {
    let (rig, policies) = rig().await;
    rig.write("config", json!({ "password_policy": "turns" }))
        .await
        .ok();
    let before = rig.settled().await;
    let writes = rig.password_writes();
    policies.asked.store(70, Ordering::Relaxed);
    rig.write("acme/rotate", json!({}))
        .await
        .fails(400, "password_policy_unusable");
    assert_eq!(rig.password_writes(), writes, "nothing was sent");
    assert_eq!(rig.settled().await, before);
}

/// A policy that gave good passwords once: what it gives is looked at each time, so no change sets a
/// password that is kept, and an emergency does not ask it.
#[tokio::test]
async fn no_change_sets_a_password_that_is_kept_and_an_emergency_asks_no_policy() {
    let (rig, policies) = rig().await;
    rig.write("config", json!({ "password_policy": "good" }))
        .await
        .ok();
    policies.asked.store(70, Ordering::Relaxed);
    rig.write("acme/rotate", json!({})).await.ok();
    let first = rig.settled().await;
    assert_eq!(first, good(70));
    let writes = rig.password_writes();
    policies.asked.store(70, Ordering::Relaxed);
    rig.write("acme/rotate", json!({}))
        .await
        .fails(400, "password_policy_unusable");
    assert_eq!(rig.password_writes(), writes, "nothing was sent");
    assert_eq!(rig.settled().await, first);
    let asked = policies.asked.load(Ordering::Relaxed);
    let order = json!({ "incident_id": "INC-1", "reason": "x" });
    let reset = rig.write("acme/reset", order).await.ok();
    assert_eq!(policies.asked.load(Ordering::Relaxed), asked, "not asked");
    let new = reset.text_of("password").to_owned();
    assert_ne!(new, first);
    assert_eq!(new.len(), 64, "48 bytes in base64");
    assert!(rig.fits(&new) && !rig.fits(&first));
}
