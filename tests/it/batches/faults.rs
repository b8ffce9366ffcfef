//! Fail at every storage and mail call of a small batch, before and after its effect; go on, or
//! start anew; assert that everybody has one new password that logs in, and that the batch says so.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Fleet, tenant};
use crate::support::faults::{Kind, Plan};
use crate::support::world::{Left, World, simulate};

const TENANTS: usize = 3;

/// A process that has swept, and a batch that no tick has seen yet; with its id.
async fn begin(left: &Left, action: &str) -> (Fleet, String) {
    let world = World::from(left);
    let plan = Plan::simulated();
    let host = world.process(&plan);
    let fleet = Fleet {
        world,
        host,
        plan,
        tenants: TENANTS,
        servers: 2,
    };
    fleet.host.tick().await;
    fleet.world.later(60).await;
    let body = json!({ "action": action, "all": true, "incident_id": "INC-1",
        "max_failures": 100, "canary": 0 });
    let id = fleet.create(body).await;
    (fleet, id)
}

/// A call of the batch by its name and how many of that name come before it: with two servers at
/// once, the order of all calls is not always the same. The batch's own id is `ID`.
type Call = (String, usize);

/// The calls of the batch's tick.
fn calls(left: &Left, action: &str) -> Vec<Call> {
    simulate(async {
        let (fleet, id) = begin(left, action).await;
        fleet.plan.arm([]);
        fleet.host.tick().await;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let named = fleet.plan.calls().into_iter().map(|name| {
            let name = name.replace(&id, "ID");
            let count = seen.entry(name.clone()).or_default();
            *count += 1;
            (name, *count - 1)
        });
        named.collect()
    })
}

/// The ways in which a call can fail that leave something different behind. A read has no effect,
/// so it leaves the same before and after; dying in it, or before a write, is dying after the
/// write that came before. A mail server that refuses and one whose connection breaks look alike.
fn ways(name: &str) -> Vec<(Kind, bool)> {
    let is_any = |of: &[&str]| of.iter().any(|it| name.starts_with(it));
    if is_any(&["mail set_password", "mail create", "mail delete"]) {
        vec![
            (Kind::Refused, false),
            (Kind::Refused, true),
            (Kind::Crash, true),
        ]
    } else if is_any(&["mail "]) {
        vec![(Kind::Refused, false)]
    } else if is_any(&["get ", "list "]) {
        vec![(Kind::Refused, false), (Kind::Unknown, false)]
    } else {
        let kinds = [Kind::Refused, Kind::Unknown];
        let both = kinds.into_iter().flat_map(|it| [(it, false), (it, true)]);
        both.chain([(Kind::Crash, true)]).collect()
    }
}

fn point(left: &Left, action: &str, (name, before): &Call, (kind, after): (Kind, bool)) {
    simulate(async {
        let (mut fleet, id) = begin(left, action).await;
        let what = format!("{kind:?}, after its effect: {after}, of {name} number {before}");
        let call = name.replace("ID", &id);
        fleet.plan.arm_named(&call, *before, kind, after);
        let crashed = tokio::select! {
            () = fleet.host.tick() => false,
            () = fleet.plan.crashed() => true,
        };
        assert_eq!(fleet.plan.ahead(), [], "{what} did not come");
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
            if !open && fleet.read(&id).await.get("end_event_id").is_string() {
                break;
            }
        }
        let read = fleet.read(&id).await;
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
    let left = simulate(async { Fleet::of(TENANTS, 2).await.world.left() });
    let calls = calls(&left, action);
    assert!(calls.len() > 30, "{calls:?}");
    for call in &calls {
        for way in ways(&call.0) {
            point(&left, action, call, way);
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
