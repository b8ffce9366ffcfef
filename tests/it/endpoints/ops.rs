//! `ops/reindex`, `ops/sweep`, and what the daily sweep repairs by itself.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::batches::{Fleet, server, tenant};
use crate::support::engine::Rig;
use crate::support::world::simulate;

/// Removes every pointer to the tenants; returns how many there were.
async fn lose_pointers(fleet: &Fleet) -> usize {
    let snapshot = fleet.world.storage.snapshot();
    let pointer = |key: &str| {
        ["open/", "due/", "account/"]
            .iter()
            .any(|it| key.starts_with(it))
    };
    let keys: Vec<String> = snapshot
        .entries()
        .map(|entry| entry.key.clone())
        .filter(|key| pointer(key))
        .collect();
    for key in &keys {
        fleet.world.storage.delete(key).await.unwrap();
    }
    keys.len()
}

async fn check_pointers(fleet: &Fleet, what: &str) {
    for index in 0..fleet.tenants {
        fleet.world.check_pointers(&tenant(index), true, what).await;
    }
}

#[test]
fn a_reindex_finds_everybody_again_slice_by_slice() {
    simulate(async {
        let mut fleet = Fleet::of(250, 5).await;
        fleet
            .host
            .write("t0003/pause", json!({ "until": "30d" }))
            .await
            .ok();
        let lost = lose_pointers(&fleet).await;
        assert_eq!(lost, 501);
        // An account that nobody has any more.
        let stale = StorageEntry::new("account/00ff", br#"{"tenant":"t0001"}"#.to_vec());
        fleet.world.storage.put(stale).await.unwrap();
        let started = fleet.host.write("ops/reindex", json!({})).await.ok();
        assert_eq!(started.get("started"), true);
        let again = fleet.host.write("ops/reindex", json!({})).await.ok();
        assert_eq!(again.get("started"), false);
        fleet.host.tick().await;
        let half = fleet.host.write("ops/reindex", json!({})).await.ok();
        assert_eq!(half.get("reindex")["tenants"], 200);
        // Another process goes on where it was.
        fleet.restart();
        for _ in 0..5 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        check_pointers(&fleet, "reindexed").await;
        let entry = fleet.world.storage.get("reindex").await.unwrap().unwrap();
        let progress: Value = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(progress["tenants"], 250);
        assert_eq!(
            (&progress["removed"], &progress["unreadable"]),
            (&json!(1), &json!(0))
        );
        assert!(progress["finished_at"].is_string());
        assert!(
            fleet
                .world
                .storage
                .get("account/00ff")
                .await
                .unwrap()
                .is_none()
        );
        fleet.plan.arm([]);
        fleet.host.tick().await;
        let calls = fleet.plan.calls();
        assert!(!calls.iter().any(|it| it.contains("reindex")), "{calls:?}");
        assert_eq!(fleet.writes(), [0; 250], "no password changed");
    });
}

/// Two records that storage refuses for good, to read and to write, and the pointer of an account:
/// each is tried ten times and counted, and the others do not wait for them.
#[test]
fn what_storage_refuses_for_good_does_not_keep_a_reindex_under_way() {
    simulate(async {
        let fleet = Fleet::of(6, 2).await;
        lose_pointers(&fleet).await;
        let stale = StorageEntry::new("account/00ff", br#"{"tenant":"t0001"}"#.to_vec());
        fleet.world.storage.put(stale).await.unwrap();
        let t0003 = fleet.world.record("t0003").await.unwrap();
        let day = t0003.credential.unwrap().due_day.unwrap();
        let pointer = format!("put due/{}/t0003", day.format("%Y%m%d"));
        fleet
            .plan
            .deny(&["get tenant/t0001", &pointer, "get account/00ff"]);
        fleet.host.write("ops/reindex", json!({})).await.ok();
        fleet.host.tick().await;
        for index in [0, 2, 4, 5] {
            let what = "not kept waiting";
            fleet.world.check_pointers(&tenant(index), true, what).await;
        }
        let progress = async || {
            let status = fleet.host.read("status").await.ok();
            status.get("reindex").clone()
        };
        assert!(progress().await["finished_at"].is_null());
        for _ in 0..25 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        let done = progress().await;
        assert!(done["finished_at"].is_string(), "{done}");
        assert_eq!(
            (&done["tenants"], &done["unreadable"]),
            (&json!(6), &json!(3))
        );
        // Once storage is well again, the next one finds everybody.
        fleet.plan.deny(&[]);
        fleet.host.write("ops/reindex", json!({})).await.ok();
        for _ in 0..3 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        assert_eq!(progress().await["unreadable"], 0);
        check_pointers(&fleet, "well again").await;
    });
}

/// What refuses only for some minutes is done within the same pass.
#[test]
fn what_storage_refuses_for_some_minutes_is_done_in_the_same_reindex() {
    simulate(async {
        let fleet = Fleet::of(3, 1).await;
        lose_pointers(&fleet).await;
        fleet.plan.deny(&["get tenant/t0001"]);
        fleet.host.write("ops/reindex", json!({})).await.ok();
        for tick in 0..10 {
            if tick == 4 {
                fleet.plan.deny(&[]);
            }
            fleet.host.tick().await;
            fleet.world.later(60).await;
        }
        let status = fleet.host.read("status").await.ok();
        let done = status.get("reindex");
        assert!(done["finished_at"].is_string(), "{done}");
        assert_eq!(
            (&done["tenants"], &done["unreadable"]),
            (&json!(3), &json!(0))
        );
        check_pointers(&fleet, "in the same pass").await;
    });
}

/// A tenant whose pointer to a past day got lost is found by nobody who looks at days.
#[test]
fn a_due_day_that_nobody_looks_at_any_more_is_planned_anew() {
    simulate(async {
        let fleet = Fleet::of(2, 1).await;
        let before = fleet.world.record("t0000").await.unwrap();
        let day = before.credential.unwrap().due_day.unwrap();
        fleet
            .world
            .storage
            .delete(&format!("due/{}/t0000", day.format("%Y%m%d")))
            .await
            .unwrap();
        for _ in 0..200 {
            fleet.world.later(24 * 3600).await;
            fleet.host.tick().await;
            fleet.host.tick().await;
        }
        let versions = |record: Option<
            vault_plugin_secrets_smtp::engine::storage::record::TenantRecord,
        >| { record.unwrap().credential.unwrap().versions.len() };
        // The daily sweep found it, within a week.
        assert!(versions(fleet.world.record("t0000").await) > 1);
        check_pointers(&fleet, "planned anew").await;
    });
}

/// A seventh of the tenants a day.
#[test]
fn the_sweep_finds_lost_pointers_within_a_week() {
    simulate(async {
        let fleet = Fleet::of(30, 3).await;
        lose_pointers(&fleet).await;
        let mut left = Vec::new();
        for _ in 0..8 {
            fleet.world.later(24 * 3600 + 60).await;
            fleet.host.tick().await;
            let keys = fleet.world.storage.snapshot();
            let due = keys
                .entries()
                .filter(|it| it.key.starts_with("due/"))
                .count();
            left.push(30 - due);
        }
        assert_eq!(left.last(), Some(&0), "{left:?}");
        assert!(left[0] > 15, "not all at once: {left:?}");
        check_pointers(&fleet, "swept").await;
    });
}

/// A server that a sweep could not ask is asked again within minutes, ever more rarely, and each
/// time once, whatever the number of its tenants.
#[test]
fn who_could_not_be_asked_is_asked_again_soon() {
    simulate(async {
        let fleet = Fleet::of(20, 2).await;
        fleet.world.mail.silence(&server(1), true);
        fleet.host.write("ops/sweep", json!({})).await.ok();
        fleet.host.tick().await;
        let foreign = crate::support::mailbox::Mailbox::new("foreign");
        fleet
            .world
            .mail
            .edit(&server(1), &super::super::batches::account("t0001"), |it| {
                *it = foreign
            });
        let begun = tokio::time::Instant::now();
        for _ in 0..30 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
        }
        fleet.world.mail.silence(&server(1), false);
        let mut found = None;
        for _ in 0..200 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
            let read = fleet.host.read("t0001/admin").await.ok();
            if read.get("state") == "drift" {
                found = Some(begun.elapsed().as_secs() / 60);
                break;
            }
        }
        let found = found.expect("found before the next day");
        assert!(found < 180, "{found} minutes");
        let again = fleet.host.write("ops/sweep", json!({})).await.ok();
        assert_eq!(again.get("sweep")["unasked"], 0);
    });
}

#[tokio::test]
async fn a_sweep_by_hand_joins_one_under_way() {
    let rig = Rig::created().await;
    rig.tick().await;
    let looks = rig.mailu.journal().len();
    let started = rig.write("ops/sweep", json!({})).await.ok();
    assert_eq!(started.get("started"), true);
    rig.backend.idle().await;
    assert_eq!(rig.mailu.journal().len(), looks + 1);
    let again = rig.write("ops/sweep", json!({})).await.ok();
    assert_eq!(again.get("started"), true, "the one before is over");
    rig.backend.idle().await;
}
