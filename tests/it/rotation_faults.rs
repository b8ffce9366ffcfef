//! The crash test: fail at every storage and mail call of an operation, before and after
//! its effect; start anew on what is stored; assert that no password was lost and nothing is lied
//! about; settle; assert that all is well.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Snapshot, StaticSystemView, Storage as _};

use crate::support::engine::{Answer, EMAIL, FIRST, Host, Rig, parts, pointers};
use crate::support::faults::{Interruption, Kind, Plan};

/// One operation and the state of things before it.
struct Case {
    rig: Rig,
    stored: Snapshot,
    /// The account's hash and comment before; `None` if there is no account.
    account: Option<(String, String)>,
    start: DateTime<Utc>,
    path: &'static str,
    body: Value,
}

impl Case {
    async fn new(rig: Rig, path: &'static str, body: Value) -> Self {
        // Longer than the engine lets a broken storage connection rest.
        rig.write("config", json!({ "wait": 25 })).await.ok();
        let user = rig.mailu.user(EMAIL);
        Self {
            stored: rig.storage.snapshot(),
            account: user.map(|user| (user.hash.clone(), user.comment())),
            start: rig.clock.now(),
            rig,
            path,
            body,
        }
    }

    /// Puts Mailu back and returns a copy of the storage as it was.
    fn begin(&self) -> Arc<MemoryStorage> {
        // The day decides on pointers, and with them on the numbers of the calls.
        self.rig.clock.jump_to(self.start);
        match &self.account {
            Some((hash, comment)) => {
                self.rig.mailu.set_hash_directly(EMAIL, hash);
                self.rig.mailu.set_field(EMAIL, "comment", json!(comment));
            }
            None => {
                self.rig.mailu.delete(EMAIL);
            }
        }
        let storage = Arc::new(MemoryStorage::new());
        storage.restore(&self.stored);
        storage
    }

    /// Runs the operation in a process with this fault; returns the process with its answer, or
    /// `None` if it was killed.
    async fn run(&self, plan: &Plan, storage: &Arc<MemoryStorage>) -> Option<(Host, Answer)> {
        let parts = parts(&self.rig.clock, plan.connector());
        let host = Host::new(parts, plan.over(storage), StaticSystemView::default());
        let answer = tokio::select! {
            answer = host.write(self.path, self.body.clone()) => answer,
            () = plan.crashed() => return None,
        };
        Some((host, answer))
    }

    async fn test(&self) -> usize {
        let plan = Plan::default();
        plan.arm(None);
        let storage = self.begin();
        let (_, answer) = self.run(&plan, &storage).await.unwrap();
        assert!(answer.ok().code.is_empty());
        let calls = plan.calls();
        let faults = Interruption::every(&calls);
        for fault in &faults {
            let what = format!("{} {fault:?}", self.path);
            self.point(fault, &what).await;
        }
        report(format!(
            "{}: {} calls, {} fault points",
            self.path,
            calls.len(),
            faults.len()
        ));
        faults.len()
    }

    async fn point(&self, fault: &Interruption, what: &str) {
        let plan = Plan::default();
        plan.interrupt(std::slice::from_ref(fault));
        let storage = self.begin();
        let outcome = self.run(&plan, &storage).await;
        assert_eq!(plan.ahead(), [], "{what}");
        assert_eq!(outcome.is_none(), fault.kind == Kind::Crash, "{what}");
        let parts = parts(
            &self.rig.clock,
            vault_plugin_secrets_smtp::provider::connector(),
        );
        let host = Host::new(
            parts,
            Arc::clone(&storage) as _,
            StaticSystemView::default(),
        );
        if let Some((before, answer)) = &outcome {
            self.answer_is_true(&host, answer, what).await;
            // What the process kept in memory is what storage holds.
            let (kept, stored) = (before.read("acme/admin"), host.read("acme/admin"));
            assert_eq!(kept.await.data, stored.await.data, "{what}");
        }
        self.nothing_is_lost(&host, what).await;
        self.pointers_are_there(&storage, fault, what).await;
        host.events("acme").await;

        // The caller repeats, which settles.
        let repeated = host.write(self.path, self.body.clone()).await;
        let too_soon = repeated.code == "too_soon";
        assert!(
            too_soon || matches!(repeated.status, 200 | 204),
            "{what}: {repeated:?}"
        );
        // Until then a login that began before may undo what nobody has seen.
        self.rig.later(10);
        host.write("acme/verify", json!({})).await.ok();
        self.is_settled(&host, &storage, what).await;
        self.rig.later(3600);
        host.write("acme/rotate", json!({})).await.ok();
        self.is_settled(&host, &storage, what).await;
    }

    /// A success was a success, and what was refused as unchanged is unchanged.
    async fn answer_is_true(&self, host: &Host, answer: &Answer, what: &str) {
        let read = host.read("acme/admin").await;
        if answer.status == 200 && answer.get("state") != "uncertain" {
            assert_eq!(read.get("version"), answer.get("version"), "{what}");
            assert_eq!(read.get("state"), "settled", "{what}");
        }
        if answer.text.contains("Nothing was changed") {
            let unchanged = self
                .account
                .as_ref()
                .map(|(hash, _)| self.rig.mailu.user(EMAIL).unwrap().hash == *hash);
            assert_ne!(unchanged, Some(false), "{what}");
        }
    }

    /// What logs in at Mailu is stored, and no read says otherwise.
    async fn nothing_is_lost(&self, host: &Host, what: &str) {
        let read = host.read("acme/admin").await;
        if read.status == 404 {
            let hash = self.rig.mailu.user(EMAIL).map(|user| user.hash);
            let before = self.account.as_ref().map(|(hash, _)| hash.clone());
            assert_eq!(hash, before, "{what}: nothing stored, so nothing sent");
            return;
        }
        assert_eq!(read.status, 200, "{what}: {read:?}");
        let fits = |it: &Value| self.rig.fits(it["password"].as_str().unwrap());
        if read.get("state") == "settled" {
            assert!(fits(&read.data), "{what}: settled is a lie");
            return;
        }
        assert_eq!(read.get("state"), "uncertain", "{what}");
        let candidates = read.get("candidates").as_array().unwrap();
        let untouched = match &self.account {
            Some((hash, _)) => self.rig.mailu.user(EMAIL).unwrap().hash == *hash,
            None => self.rig.mailu.user(EMAIL).is_none(),
        };
        // Before a first password, Mailu may still have what nobody told the engine.
        let first = read.get("version") == 1 && self.path == "acme/admin";
        let known = candidates.iter().any(fits);
        assert!(known || (first && untouched), "{what}: {read:?}");
    }

    /// Every pointer the record needs is there. A killed process may leave one too many, and so does
    /// one whose write nobody answered; whoever follows it finds it stale.
    async fn pointers_are_there(&self, storage: &MemoryStorage, fault: &Interruption, what: &str) {
        let (needed, found) = pointers(storage, "acme").await;
        assert!(needed.is_subset(&found), "{what}: {needed:?} in {found:?}");
        let stale = found.difference(&needed).count();
        // Removing a pointer may fail by itself; an account's is read before it is removed.
        let call = fault.call.as_str();
        let removal = call.starts_with("delete ") || call.starts_with("get account/");
        assert!(
            matches!(fault.kind, Kind::Crash | Kind::Unknown) || removal || stale == 0,
            "{what}: {found:?} but {needed:?}"
        );
    }

    async fn is_settled(&self, host: &Host, storage: &MemoryStorage, what: &str) {
        let read = host.read("acme/admin").await.ok();
        assert_eq!(read.get("state"), "settled", "{what}: {read:?}");
        assert!(self.rig.fits(read.text_of("password")), "{what}");
        let (needed, found) = pointers(storage, "acme").await;
        assert!(needed.is_subset(&found), "{what}: {needed:?} in {found:?}");
        host.events("acme").await;
    }
}

/// Tells how much was covered; shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "a test says how many points it found")]
fn report(line: String) {
    println!("{line}");
}

fn username() -> Value {
    json!({ "username": EMAIL })
}

#[tokio::test]
async fn a_creation_for_an_existing_account() {
    let rig = Rig::configured().await;
    let case = Case::new(rig, "acme/admin", username()).await;
    assert!(case.test().await > 80);
}

#[tokio::test]
async fn a_creation_of_a_missing_account() {
    let rig = Rig::configured().await;
    rig.mailu.delete(EMAIL);
    let case = Case::new(rig, "acme/admin", username()).await;
    assert!(case.test().await > 80);
}

#[tokio::test]
async fn an_import() {
    let rig = Rig::configured().await;
    let mut body = username();
    body["password"] = json!(FIRST);
    let case = Case::new(rig, "acme/admin", body).await;
    assert!(case.test().await > 50);
}

#[tokio::test]
async fn a_rotation() {
    let rig = Rig::created().await;
    rig.later(10 * 86_400);
    let case = Case::new(rig, "acme/rotate", json!({ "reason": "test" })).await;
    assert!(case.test().await > 60);
}

#[tokio::test]
async fn a_rotation_proven_by_login() {
    let rig = Rig::created().await;
    let mut server = rig.server();
    server["smtp_address"] = json!(format!("localhost:{}", rig.mailu.submission_port()));
    server["verify_smtp"] = json!(true);
    rig.write("acme/config", server).await.ok();
    rig.later(10 * 86_400);
    let case = Case::new(rig, "acme/rotate", json!({})).await;
    assert!(case.test().await > 80);
}

#[tokio::test]
async fn the_first_server_of_a_mount() {
    let rig = Rig::start().await;
    let body = rig.server();
    let mut case = Case::new(rig, "acme/config", body).await;
    for key in ["keyring", "keyring-copy", "mountlog"] {
        case.rig.storage.delete(key).await.unwrap();
    }
    case.stored = case.rig.storage.snapshot();
    let plan = Plan::default();
    plan.arm(None);
    let storage = case.begin();
    let (_, answer) = case.run(&plan, &storage).await.unwrap();
    answer.ok();
    let calls = plan.calls();
    let faults = Interruption::every(&calls);
    for fault in &faults {
        let plan = Plan::default();
        plan.interrupt(std::slice::from_ref(fault));
        let storage = case.begin();
        let answer = case.run(&plan, &storage).await;
        assert_eq!(plan.ahead(), []);
        assert_eq!(answer.is_none(), fault.kind == Kind::Crash, "{fault:?}");
        let real = vault_plugin_secrets_smtp::provider::connector();
        let parts = parts(&case.rig.clock, real);
        let host = Host::new(
            parts,
            Arc::clone(&storage) as _,
            StaticSystemView::default(),
        );
        let written = host.write("acme/config", case.body.clone()).await;
        assert_eq!(written.status, 204, "{fault:?} {written:?}");
        host.write("acme/admin", username()).await.ok();
        case.is_settled(&host, &storage, &format!("{fault:?}"))
            .await;
    }
    report(format!(
        "first config: {} calls, {} fault points",
        calls.len(),
        faults.len()
    ));
}

#[tokio::test]
async fn a_changed_name_of_the_server() {
    let rig = Rig::created().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(3600);
    let mut server = rig.server();
    server["mailu_url"] = json!(rig.mailu.url().replace("localhost", "127.0.0.1"));
    let case = Case::new(rig, "acme/config", server).await;
    assert!(case.test().await > 50);
}

/// A change whose answer and whose look were lost; `landed` if Mailu took it.
async fn open_change(landed: bool) -> Rig {
    use crate::support::mailu::standin::{Fault, Rule};
    let rig = Rig::created().await;
    rig.later(10 * 86_400);
    let fault = if landed {
        Fault::CutAfter
    } else {
        Fault::CutBefore
    };
    rig.mailu.fault(Rule::new(fault).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    rig.later(60);
    rig
}

#[tokio::test]
async fn the_settling_of_a_change_that_landed() {
    let case = Case::new(open_change(true).await, "acme/verify", json!({})).await;
    assert!(case.test().await > 50);
}

#[tokio::test]
async fn the_settling_of_a_change_that_did_not_land() {
    let case = Case::new(open_change(false).await, "acme/rotate", json!({})).await;
    assert!(case.test().await > 50);
}

#[tokio::test]
async fn the_abandoning_of_a_change_that_never_landed() {
    use crate::support::mailu::standin::{Fault, Rule};
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(8));
    for _ in 0..4 {
        rig.write("acme/rotate", json!({}))
            .await
            .fails(503, "mailu_unreachable");
    }
    rig.later(900);
    let case = Case::new(rig, "acme/verify", json!({})).await;
    assert!(case.test().await > 50);
}

/// A write that nobody answered may land later: what leads to it must be there then.
#[tokio::test]
async fn an_unanswered_write_keeps_the_pointers_that_it_needs() {
    let rig = Rig::created().await;
    for _ in 0..3 {
        rig.tick().await;
    }
    let case = Case::new(rig, "acme/rotate", json!({})).await;
    let plan = Plan::default();
    plan.arm_named("cas tenant/acme", 0, Kind::Unknown, false);
    let storage = case.begin();
    let (_, answer) = case.run(&plan, &storage).await.unwrap();
    assert_ne!(answer.status, 200, "{answer:?}");
    assert_eq!(plan.ahead(), []);
    let (needed, found) = pointers(&storage, "acme").await;
    assert!(!needed.contains("open/acme"), "as stored: {needed:?}");
    assert!(found.contains("open/acme"), "as it may be soon: {found:?}");
    // Whoever follows it asks the record.
    let parts = parts(&case.rig.clock, plan.connector());
    let host = Host::new(
        parts,
        Arc::clone(&storage) as _,
        StaticSystemView::default(),
    );
    host.tick().await;
    host.backend.idle().await;
    let (needed, found) = pointers(&storage, "acme").await;
    assert_eq!(found, needed);
}
