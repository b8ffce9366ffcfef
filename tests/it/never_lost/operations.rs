//! The operations that change something, in the states of things that matter to them.

use serde_json::{Value, json};

use super::crash_matrix::{Case, Count, Operation, Pairs};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::mailbox::Mailbox;
use crate::support::world::{ACCOUNT, FIRST, SERVER, Ticks, World, server};

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
pub(super) async fn created() -> World {
    let world = configured().await;
    let host = world.sound_process();
    host.write("acme/admin", username()).await.ok();
    world.later(10 * 86_400).await;
    world
}

/// The same, with a login under way that found an outdated hash.
pub(super) async fn login_under_way() -> World {
    let world = created().await;
    world.mail.outdate(SERVER, ACCOUNT);
    // What the engine proves is the outdated hash.
    world
        .sound_process()
        .write("acme/verify", json!({}))
        .await
        .ok();
    world.mail.begin_login(SERVER, ACCOUNT);
    world
}

/// A change whose answer and whose look were lost; `landed` if the server took it.
pub(super) async fn open(landed: bool) -> World {
    lost(created().await, "acme/rotate", json!({}), landed).await
}

/// Writes to a world whose mail server's answers are lost from the first password on.
async fn lost(world: World, path: &str, body: Value, landed: bool) -> World {
    let plan = Plan::simulated();
    plan.arm(None);
    let rehearsal = World::from(&world.left());
    let host = rehearsal.process(&plan);
    host.write(path, body.clone()).await.ok();
    let calls = plan.calls();
    let at = calls.iter().position(|it| it == "mail set_password");
    let at = at.unwrap();
    let lost = |at, after| Fault {
        at,
        kind: Kind::Refused,
        after,
    };
    plan.arm([lost(at, landed), lost(at + 1, false)]);
    let host = world.process(&plan);
    host.write(path, body).await;
    let record = world.record("acme").await.unwrap();
    assert!(record.sent_intent().is_some(), "{calls:?}");
    world.later(60).await;
    world
}

fn write(path: &'static str, body: Value) -> Operation {
    Operation::Write(path, body)
}

/// Runs a case, which must have had at least so many calls.
fn test(
    name: &'static str,
    operation: Operation,
    state: impl Future<Output = World>,
    least: usize,
) {
    let case = Case::new(name, operation, state);
    assert_walked(case.test(Ticks::ToTheNextWork, Pairs::All), least);
}

/// Like [`test`], with every tick of the host let through where only one fault is.
fn test_minutely(
    name: &'static str,
    operation: Operation,
    state: impl Future<Output = World>,
    least: usize,
) {
    let case = Case::new(name, operation, state);
    assert_walked(case.test(Ticks::EachMinute, Pairs::All), least);
}

/// Like [`test`] for the longest cases, whose steps other cases have as well: pairs are sampled.
fn test_sampled(
    name: &'static str,
    operation: Operation,
    state: impl Future<Output = World>,
    least: usize,
) {
    let case = Case::new(name, operation, state);
    assert_walked(case.test(Ticks::ToTheNextWork, Pairs::Sampled), least);
}

fn assert_walked(count: Count, least: usize) {
    assert!(
        count.calls >= least && count.pairs > count.calls,
        "{count:?}"
    );
}

/// A fault is told by the call it interrupts: whoever counts again meets the same calls.
#[test]
fn the_matrix_is_the_same_twice() {
    for (name, path, body) in [
        ("rotation", "acme/rotate", json!({})),
        ("reveal", "acme/reveal", json!({ "reason": "test" })),
    ] {
        let counted = || {
            let mut runs = Vec::new();
            let case = Case::new(name, write(path, body.clone()), created());
            let count = case.walk(Ticks::ToTheNextWork, Pairs::Sampled, &mut |called| {
                runs.push(called)
            });
            (count, runs)
        };
        let (first, second) = (counted(), counted());
        let differs = first
            .1
            .iter()
            .zip(&second.1)
            .find(|(one, other)| one != other);
        assert_eq!(differs, None, "{name}");
        assert_eq!(first.0, second.0, "{name}");
        assert_eq!(first.1.len(), second.1.len(), "{name}");
    }
}

pub(super) fn incident() -> Value {
    json!({ "incident_id": "INC-1", "reason": "test" })
}

/// A tenant with a second version.
async fn rotated() -> World {
    let world = created().await;
    let host = world.sound_process();
    host.write("acme/rotate", json!({})).await.ok();
    world.later(3600).await;
    world
}

/// A tenant whose reset waits for its server; `landed` if the server took the password.
async fn open_reset(landed: bool) -> World {
    lost(created().await, "acme/reset", incident(), landed).await
}

#[test]
fn a_creation_for_an_existing_account() {
    test_minutely(
        "creation",
        write("acme/admin", username()),
        configured(),
        13,
    );
}

#[test]
fn a_creation_of_a_missing_account() {
    let state = async {
        let world = configured().await;
        world.mail.remove(SERVER, ACCOUNT);
        world
    };
    test(
        "creation of the account",
        write("acme/admin", username()),
        state,
        13,
    );
}

#[test]
fn an_import() {
    let mut body = username();
    body["password"] = json!(FIRST);
    test("import", write("acme/admin", body), configured(), 8);
}

#[test]
fn a_rotation() {
    test_minutely("rotation", write("acme/rotate", json!({})), created(), 11);
}

#[test]
fn a_rotation_that_a_login_undoes() {
    let operation = write("acme/rotate", json!({}));
    test_sampled("a login undoes it", operation, login_under_way(), 10);
}

#[test]
fn a_reset_that_a_login_undoes() {
    let operation = write("acme/reset", incident());
    test_sampled("a login undoes a reset", operation, login_under_way(), 10);
}

#[test]
fn a_rotation_over_a_change_that_landed() {
    test(
        "rotation, open landed",
        write("acme/rotate", json!({})),
        open(true),
        5,
    );
}

#[test]
fn a_rotation_over_a_change_that_did_not_land() {
    test(
        "rotation, open lost",
        write("acme/rotate", json!({})),
        open(false),
        8,
    );
}

#[test]
fn the_settling_of_a_change_that_landed() {
    test(
        "verify, open landed",
        write("acme/verify", json!({})),
        open(true),
        8,
    );
}

#[test]
fn the_settling_of_a_change_that_did_not_land() {
    test(
        "verify, open lost",
        write("acme/verify", json!({})),
        open(false),
        8,
    );
}

#[test]
fn a_tick_over_a_change_that_landed() {
    test("tick, open landed", Operation::Tick, open(true), 5);
}

#[test]
fn a_tick_over_a_change_that_did_not_land() {
    test("tick, open lost", Operation::Tick, open(false), 8);
}

#[test]
fn a_reset() {
    let state = async {
        let world = rotated().await;
        world
            .mail
            .edit(SERVER, ACCOUNT, |it| it.app_tokens = vec![3, 5]);
        world
    };
    test_minutely("reset", write("acme/reset", incident()), state, 14);
}

#[test]
fn a_reset_over_a_change_that_landed() {
    test_sampled(
        "reset, open landed",
        write("acme/reset", incident()),
        open(true),
        8,
    );
}

#[test]
fn a_reset_over_a_change_that_did_not_land() {
    test_sampled(
        "reset, open lost",
        write("acme/reset", incident()),
        open(false),
        8,
    );
}

#[test]
fn a_repeated_reset_that_landed() {
    test_sampled(
        "reset again, landed",
        write("acme/reset", incident()),
        open_reset(true),
        8,
    );
}

#[test]
fn a_repeated_reset_that_did_not_land() {
    test_sampled(
        "reset again, lost",
        write("acme/reset", incident()),
        open_reset(false),
        8,
    );
}

#[test]
fn a_reset_over_one_for_another_incident() {
    let mut body = incident();
    body["incident_id"] = json!("INC-2");
    test_sampled(
        "reset over a reset",
        write("acme/reset", body),
        open_reset(false),
        8,
    );
}

#[test]
fn a_tick_over_a_reset() {
    test_sampled("tick, reset lost", Operation::Tick, open_reset(false), 8);
}

#[test]
fn a_rollback() {
    let body = json!({ "version": 1, "reason": "test" });
    test_minutely("rollback", write("acme/rollback", body), rotated(), 10);
}

#[test]
fn a_rollback_over_a_change_that_landed() {
    let body = json!({ "version": 1, "reason": "test" });
    test_sampled(
        "rollback, open landed",
        write("acme/rollback", body),
        open(true),
        8,
    );
}

#[test]
fn a_reveal() {
    test(
        "reveal",
        write("acme/reveal", json!({ "reason": "test" })),
        created(),
        3,
    );
}

#[test]
fn a_change_of_settings() {
    let body = json!({ "rotation_policy": "90_days" });
    test("patch", Operation::Patch("acme/admin", body), created(), 4);
}

#[test]
fn a_deletion() {
    test("delete", Operation::Delete("acme/admin"), created(), 4);
}

#[test]
fn an_undeletion() {
    let state = async {
        let world = created().await;
        world.sound_process().delete("acme/admin").await.ok();
        world
    };
    test("undelete", write("acme/undelete", json!({})), state, 4);
}

#[test]
fn a_destruction() {
    let body = json!({ "confirm": "acme", "reason": "test" });
    test("destroy", write("acme/destroy", body), created(), 4);
}

#[test]
fn a_new_token_of_the_server() {
    test("config", write("acme/config", server()), created(), 4);
}

#[test]
fn the_first_server_of_a_mount() {
    let state = async { World::new() };
    test("first config", write("acme/config", server()), state, 10);
}

#[test]
fn settings_of_the_mount() {
    let body = json!({ "max_versions": 5 });
    test("mount config", write("config", body), created(), 3);
}

#[test]
fn a_new_version_of_the_keyring() {
    let operation = write("config/keyring/rotate", json!({}));
    test("keyring", operation, rotated(), 5);
}

#[test]
fn a_rotation_proven_by_login() {
    let state = async {
        let world = created().await;
        let host = world.sound_process();
        let mut body = server();
        body["smtp_address"] = json!("mail.example.test:465");
        body["verify_smtp"] = json!(true);
        host.write("acme/config", body).await.ok();
        world.later(60).await;
        world
    };
    test_sampled(
        "rotation, login",
        write("acme/rotate", json!({})),
        state,
        14,
    );
}

#[test]
fn an_adoption_of_a_foreign_password() {
    let body = json!({ "password": "set by somebody else", "cas": 1 });
    let state = async {
        let world = created().await;
        world.mail.edit(SERVER, ACCOUNT, |mailbox| {
            *mailbox = Mailbox::new("set by somebody else");
        });
        let host = world.sound_process();
        host.write("acme/verify", json!({})).await.ok();
        world
    };
    test("adoption", write("acme/admin", body), state, 7);
}

/// A change that the server said it took, and did not, until the engine stopped sending it.
async fn never_taken() -> World {
    let world = created().await;
    let plan = Plan::simulated();
    let lies = (0..40).map(|at| Fault {
        at,
        kind: Kind::Lie,
        after: false,
    });
    for _ in 0..8 {
        let host = world.process(&plan);
        // Only what is said about a password is a lie, not what is shown of the account.
        plan.arm(lies.clone());
        plan.only("mail set_password");
        host.write("acme/rotate", json!({})).await;
    }
    world.later(16 * 60).await;
    world
}

#[test]
fn a_verification_that_gives_a_change_up() {
    test(
        "verify, never taken",
        write("acme/verify", json!({})),
        never_taken(),
        8,
    );
}

#[test]
fn a_tick_that_gives_a_change_up() {
    test("tick, never taken", Operation::Tick, never_taken(), 8);
}

#[test]
fn a_tick_over_app_tokens_that_are_left() {
    let state = async {
        let world = rotated().await;
        world
            .mail
            .edit(SERVER, ACCOUNT, |it| it.app_tokens = vec![3, 5]);
        let plan = Plan::simulated();
        plan.arm((0..40).map(|at| Fault {
            at,
            kind: Kind::Refused,
            after: false,
        }));
        plan.only("mail app_tokens");
        world
            .process(&plan)
            .write("acme/reset", incident())
            .await
            .ok();
        world.later(60).await;
        world
    };
    test_sampled("tick, app tokens", Operation::Tick, state, 8);
}

#[test]
fn a_tick_after_a_reveal() {
    let state = async {
        let world = created().await;
        let host = world.sound_process();
        let body = json!({ "rotate_after_reveal": true });
        host.write("config", body).await.ok();
        host.write("acme/reveal", json!({ "reason": "test" }))
            .await
            .ok();
        world.later(16 * 60).await;
        world
    };
    test_sampled("tick, revealed", Operation::Tick, state, 11);
}

/// A compromised password has become live behind a reset, and that was noticed.
pub(super) async fn compromised_live() -> World {
    let world = created().await;
    let plan = Plan::simulated();
    plan.arm((0..40).map(|at| Fault {
        at,
        kind: Kind::Late,
        after: false,
    }));
    plan.only("mail set_password");
    world.process(&plan).write("acme/rotate", json!({})).await;
    world.later(60).await;
    let host = world.sound_process();
    host.write("acme/reset", incident()).await.ok();
    world.mail.land(0);
    host.write("acme/verify", json!({})).await.ok();
    world.later(120).await;
    world
}

#[test]
fn a_tick_that_finds_a_compromised_password_live() {
    test_sampled("tick, set again", Operation::Tick, compromised_live(), 8);
}

#[test]
fn a_tick_that_tells_and_changes_what_is_due() {
    let state = async {
        let world = created().await;
        world.later(190 * 86_400).await;
        world
    };
    test_sampled("tick, due", Operation::Tick, state, 14);
}

#[test]
fn a_tick_that_tells_of_a_coming_change() {
    let state = async {
        let world = created().await;
        world.later(166 * 86_400).await;
        world
    };
    test("tick, notice", Operation::Tick, state, 6);
}
