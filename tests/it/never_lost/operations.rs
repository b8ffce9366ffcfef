//! The operations that change something, in the states of things that matter to them.

use serde_json::{Value, json};

use super::crash_matrix::{Case, Operation};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::world::{ACCOUNT, FIRST, SERVER, World, server};

fn username() -> Value {
    json!({ "username": ACCOUNT })
}

/// The tenant has its server.
async fn configured() -> World {
    let world = World::new();
    world.configure(&world.sound_process(), "acme").await;
    world
}

/// The tenant has a proven password, ten days old.
async fn created() -> World {
    let world = configured().await;
    let host = world.sound_process();
    host.write("acme/admin", username()).await.ok();
    world.later(10 * 86_400).await;
    world
}

/// A change whose answer and whose look were lost; `landed` if the server took it.
async fn open(landed: bool) -> World {
    let world = created().await;
    let plan = Plan::simulated();
    plan.arm(None);
    let left = world.left();
    let rehearsal = World::from(&left);
    let host = rehearsal.process(&plan);
    host.write("acme/rotate", json!({})).await.ok();
    let at = plan.calls().iter().position(|it| it == "mail set_password");
    let at = at.unwrap();
    let lost = |at, after| Fault {
        at,
        kind: Kind::Refused,
        after,
    };
    plan.arm([lost(at, landed), lost(at + 1, false)]);
    let host = world.process(&plan);
    host.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    world.later(60).await;
    world
}

fn write(path: &'static str, body: Value) -> Operation {
    Operation::Write(path, body)
}

#[test]
fn a_creation_for_an_existing_account() {
    let operation = write("acme/admin", username());
    let count = Case::new("creation", operation, configured()).test();
    assert!(count.points > 150 && count.pairs > 150, "{count:?}");
}

#[test]
fn a_rotation() {
    let operation = write("acme/rotate", json!({}));
    let count = Case::new("rotation", operation, created()).test();
    assert!(count.points > 150 && count.pairs > 150, "{count:?}");
}

#[test]
fn the_settling_of_a_change_that_landed() {
    let operation = write("acme/verify", json!({}));
    let count = Case::new("settling, landed", operation, open(true)).test();
    assert!(count.points > 150 && count.pairs > 150, "{count:?}");
}
