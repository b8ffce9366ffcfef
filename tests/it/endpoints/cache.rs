//! What reads are answered from memory, and that memory never outlives the truth.

use std::sync::Arc;

use serde_json::json;
use vault_plugin_secrets_smtp::logical::{
    Backend as _, Operation, ReplicationState, StaticSystemView,
};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{Host, Rig, parts};
use crate::support::faults::Plan;

fn node(state: u32) -> StaticSystemView {
    StaticSystemView {
        replication_state: ReplicationState(state),
        ..StaticSystemView::default()
    }
}

/// A process whose storage calls are counted.
async fn counted(rig: &Rig, system: StaticSystemView) -> (Host, Plan) {
    let plan = Plan::default();
    let parts = parts(&rig.clock, connector());
    let host = Host::new(parts, plan.over(&rig.storage), system);
    host.backend.initialize(&host.mount).await.unwrap();
    plan.arm(None);
    (host, plan)
}

const ACTIVE: u32 = 0x2020;
const STANDBY: u32 = 0x6000;

#[tokio::test]
async fn the_active_node_asks_storage_once_for_what_it_reads_often() {
    let rig = Rig::created().await;
    let (host, plan) = counted(&rig, node(ACTIVE)).await;
    let first = host.read("acme/admin").await.ok();
    assert!(!plan.calls().is_empty());
    plan.arm(None);
    for _ in 0..3 {
        let again = host.read("acme/admin").await.ok();
        assert_eq!(again.data, first.data);
        rig.later(15);
    }
    for path in ["acme/versions/1", "acme/config", "acme/status"] {
        host.read(path).await.ok();
    }
    assert_eq!(plan.calls(), Vec::<String>::new());
    // What reached storage past this process is found within a minute.
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(15);
    assert_eq!(host.read("acme/admin").await.ok().get("version"), 2);
}

#[tokio::test]
async fn a_change_is_read_at_once_and_without_a_call() {
    let rig = Rig::created().await;
    let (host, plan) = counted(&rig, node(ACTIVE)).await;
    let old = host.read("acme/admin").await.ok();
    host.write("acme/rotate", json!({})).await.ok();
    plan.arm(None);
    let new = host.read("acme/admin").await.ok();
    assert_eq!(plan.calls(), Vec::<String>::new());
    assert_eq!(new.get("version"), 2);
    assert_ne!(new.text_of("password"), old.text_of("password"));
    assert!(rig.fits(new.text_of("password")));
    // What the mount says for all of them counts at once as well.
    host.write("config", json!({ "refresh_interval": "60s" }))
        .await
        .ok();
    assert_eq!(host.read("acme/admin").await.ok().get("ttl"), 60);
}

#[tokio::test]
async fn a_standby_believes_itself_ten_seconds_and_a_notice_at_once() {
    let rig = Rig::created().await;
    let (standby, plan) = counted(&rig, node(STANDBY)).await;
    let version = async || standby.read("acme/admin").await.ok().get("version").clone();
    assert_eq!(version().await, 1);
    rig.write("acme/rotate", json!({})).await.ok();
    plan.arm(None);
    rig.later(9);
    assert_eq!(version().await, 1, "the notice is late");
    assert_eq!(plan.calls(), Vec::<String>::new());
    rig.later(1);
    assert_eq!(version().await, 2, "the notice is lost");
    rig.later(300);
    assert_eq!(version().await, 2);
    rig.write("acme/rotate", json!({})).await.ok();
    standby.backend.invalidate_key("tenant/acme").await;
    assert_eq!(version().await, 3);
}

#[tokio::test]
async fn a_tick_that_finds_another_role_empties_the_memory() {
    let rig = Rig::created().await;
    let (mut host, plan) = counted(&rig, node(ACTIVE)).await;
    let tick = async |host: &Host| {
        host.send(Operation::Rollback, "", json!({})).await;
        plan.arm(None);
    };
    let asks = async |host: &Host| {
        plan.arm(None);
        host.read("acme/admin").await.ok();
        !plan.calls().is_empty()
    };
    assert!(asks(&host).await && !asks(&host).await);
    tick(&host).await;
    assert!(!asks(&host).await, "nothing changed");
    for (state, trust) in [(STANDBY, 10), (ACTIVE, 60)] {
        host.mount.system = Arc::new(node(state));
        tick(&host).await;
        assert!(asks(&host).await, "{state:#x}");
        rig.later(trust - 1);
        assert!(!asks(&host).await, "{state:#x}");
        rig.later(1);
        assert!(asks(&host).await, "{state:#x}");
    }
}

#[tokio::test]
async fn where_the_operator_turned_caches_off_storage_is_asked_each_time() {
    let rig = Rig::created().await;
    let system = StaticSystemView {
        caching_disabled: true,
        ..node(ACTIVE)
    };
    let (host, plan) = counted(&rig, system).await;
    for _ in 0..2 {
        plan.arm(None);
        host.read("acme/admin").await.ok();
        assert!(plan.calls().contains(&String::from("get tenant/acme")));
    }
}
