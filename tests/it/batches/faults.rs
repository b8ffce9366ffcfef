//! Fail at every storage and mail call of a small batch, before and after its effect; go on, or
//! start anew; assert that everybody has one new password that logs in, and that the batch says so.

use serde_json::json;

use super::{Fleet, tenant};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::world::{Left, World, simulate};

const TENANTS: usize = 3;

/// What is left behind by a created batch, with its id.
fn created(action: &str) -> (Left, String) {
    simulate(async {
        let fleet = Fleet::of(TENANTS, 2).await;
        let body = json!({ "action": action, "all": true, "incident_id": "INC-1",
            "max_failures": 100, "canary": 0 });
        let id = fleet.create(body).await;
        (fleet.world.left(), id)
    })
}

fn take_up(left: &Left) -> Fleet {
    let world = World::from(left);
    let plan = Plan::simulated();
    let host = world.process(&plan);
    Fleet {
        world,
        host,
        plan,
        tenants: TENANTS,
        servers: 2,
    }
}

/// The calls of the batch, by number.
fn calls(left: &Left) -> Vec<String> {
    simulate(async {
        let fleet = take_up(left);
        fleet.plan.arm([]);
        fleet.host.tick().await;
        fleet.plan.calls()
    })
}

fn point(left: &Left, id: &str, fault: Fault) {
    simulate(async {
        let mut fleet = take_up(left);
        fleet.plan.arm([fault]);
        let crashed = tokio::select! {
            () = fleet.host.tick() => false,
            () = fleet.plan.crashed() => true,
        };
        // Two servers at once: the order of their calls is not always the same.
        let name = fleet
            .plan
            .calls()
            .get(fault.at)
            .cloned()
            .unwrap_or_default();
        let what = format!("{fault:?} = {name}");
        if crashed {
            fleet.restart();
        } else {
            fleet.plan.arm([]);
        }
        for _ in 0..30 {
            fleet.world.later(60).await;
            fleet.host.tick().await;
            let stored = fleet.world.storage.snapshot();
            let open = stored.entries().any(|it| it.key.starts_with("open/"));
            if !open && fleet.read(id).await.get("end_event_id").is_string() {
                break;
            }
        }
        let read = fleet.read(id).await;
        assert_eq!(read.get("state"), "done", "{what}: {:?}", read.data);
        // Nobody is counted twice or forgotten.
        let count = |name: &str| read.get(name).as_u64().unwrap();
        let had = count("succeeded") + count("failed") + count("queued");
        assert_eq!(had, TENANTS as u64, "{what}: {:?}", read.data);
        // A change that its own record, or its mail server, got in the way of has failed.
        let hit = ["mail ", "server/", "cas tenant/"]
            .iter()
            .any(|it| name.contains(it));
        assert!(hit || count("failed") == 0, "{what}: {:?}", read.data);
        fleet.all_settled(&what).await;
        for index in 0..TENANTS {
            let record = fleet.world.record(&tenant(index)).await.unwrap();
            let versions = record.credential.unwrap().versions.len();
            assert!(versions <= 2, "{what}: {versions} versions");
            assert!(hit || versions == 2, "{what}: {versions} versions");
        }
        let told = fleet.told().await;
        let ended = told.iter().filter(|it| it.starts_with("smtp_batch_ended"));
        assert_eq!(ended.count(), 1, "{what}: {told:?}");
    });
}

fn every_point(action: &str) {
    let (left, id) = created(action);
    let calls = calls(&left);
    assert!(calls.len() > 30, "{calls:?}");
    for at in 0..calls.len() {
        for after in [false, true] {
            for kind in [Kind::Refused, Kind::Unknown, Kind::Crash] {
                point(&left, &id, Fault { at, kind, after });
            }
        }
    }
}

#[test]
fn a_batch_of_rotations_survives_every_fault() {
    every_point("rotate");
}

#[test]
fn a_batch_of_resets_survives_every_fault() {
    every_point("reset");
}
