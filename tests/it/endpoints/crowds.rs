//! Many requests at once: they change a password once, and a server that hangs is nobody else's
//! trouble. By order and count, not by the clock on the wall.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::json;

use crate::support::engine::{Host, Rig};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, SERVER, World, simulate};
use vault_plugin_secrets_smtp::logical::Operation;
use vault_plugin_secrets_smtp::provider::HashPool;

const CROWD: usize = 50;

#[tokio::test]
async fn fifty_rotations_at_once_change_the_password_once() {
    let rig = Rig::created().await;
    let before = rig.password_writes();
    let callers = (0..CROWD).map(|number| {
        let mut host = rig.host.clone();
        // Half of them are one caller, who repeats.
        if number % 2 == 0 {
            host.caller = format!("userpass-{number}");
        }
        host
    });
    let callers: Vec<Host> = callers.collect();
    let rotations = callers
        .iter()
        .map(|host| host.write("acme/rotate", json!({})));
    let answers = join_all(rotations).await;
    let changed = answers.iter().filter(|answer| answer.status == 200);
    assert!(changed.clone().all(|answer| *answer.get("version") == 2));
    let refused = |code: &str| answers.iter().filter(|it| it.code == code).count();
    let (changed, busy) = (changed.count(), refused("busy"));
    assert!(changed >= 1);
    assert_eq!(changed + refused("too_soon") + busy, CROWD, "{answers:?}");
    // No more than eight of them waited.
    assert!(busy >= CROWD - 8, "{answers:?}");
    assert_eq!(rig.password_writes() - before, 1);
    rig.settled().await;
}

fn server(number: usize) -> String {
    format!("https://mail-{number}.example.test")
}

/// Fifty tenants, each with a server of its own.
async fn fifty() -> (World, Host) {
    let world = World::new();
    let host = world.sound_process();
    for number in 0..CROWD {
        let url = server(number);
        world
            .mail
            .put(&url, ACCOUNT, Mailbox::new("first-password"));
        let body = json!({ "mailu_url": url, "api_token": "token-of-the-mail-server" });
        host.write(&format!("tenant-{number}/config"), body)
            .await
            .ok();
        let body = json!({ "username": ACCOUNT });
        host.write(&format!("tenant-{number}/admin"), body)
            .await
            .ok();
    }
    world.later(3600).await;
    (world, host)
}

#[test]
fn a_hanging_server_does_not_delay_the_rotation_of_others() {
    simulate(async {
        let (world, host) = fifty().await;
        world.mail.silence(&server(0), true);
        let begun = tokio::time::Instant::now();
        let rotate = async |number: usize| {
            let path = format!("tenant-{number}/rotate");
            let answer = host.write(&path, json!({})).await;
            (answer.code, begun.elapsed())
        };
        let answers = join_all((0..CROWD).map(rotate)).await;
        for (code, after) in answers.iter().skip(1) {
            assert_eq!((code.as_str(), *after), ("", Duration::ZERO));
        }
        let (code, after) = &answers[0];
        // The silent server was not even asked to change anything.
        assert_eq!(code, "not_stored");
        assert!(*after >= Duration::from_secs(8));
    });
}

#[test]
fn a_hanging_server_does_not_delay_the_ticks_work_for_others() {
    simulate(async {
        let (world, host) = fifty().await;
        drop(host);
        let plan = Plan::simulated();
        plan.arm((0..60 * CROWD).map(|at| Fault {
            at,
            kind: Kind::Late,
            after: false,
        }));
        plan.only("mail set_password");
        let host = world.process(&plan);
        let paths: Vec<_> = (0..CROWD).map(|it| format!("tenant-{it}/rotate")).collect();
        join_all(paths.iter().map(|path| host.write(path, json!({})))).await;
        host.backend.idle().await;

        world.mail.silence(&server(0), true);
        world.later(120).await;
        let host = world.sound_process();
        let begun = tokio::time::Instant::now();
        host.send(Operation::Rollback, "", json!({})).await.ok();
        let is_open = async |number: usize| {
            let record = world.record(&format!("tenant-{number}")).await;
            record.is_some_and(|record| record.intent.is_some())
        };
        for number in 1..CROWD {
            while is_open(number).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        // Less than one call of the server that hangs takes.
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(is_open(0).await);
    });
}

#[tokio::test]
async fn reads_are_answered_while_a_hash_is_computed() {
    let mut world = World::new();
    world.hash_pool = HashPool::with_places(2);
    let host = world.sound_process();
    world.configure(&host, "acme").await;
    let first = "imported-password";
    world
        .mail
        .put(SERVER, ACCOUNT, Mailbox::with_rounds(first, 12));
    let looks = world.mail.looks();
    let (done, reads) = (Cell::new(false), Cell::new(0));
    let import = async {
        let body = json!({ "username": ACCOUNT, "password": first });
        host.write("acme/admin", body).await.ok();
        done.set(true);
    };
    // One thread for everything: what blocks it lets nobody read.
    let read = async {
        while !done.get() {
            host.send(Operation::Read, "acme/config", json!({}))
                .await
                .ok();
            if world.mail.looks() > looks && !done.get() {
                reads.set(reads.get() + 1);
            }
            tokio::task::yield_now().await;
        }
    };
    join(import, read).await;
    assert!(reads.get() > 0, "no read between the look and its verdict");
}
