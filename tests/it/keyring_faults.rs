//! Fail at every storage call of a rotation of the keyring, of a slice of the rewrap and of a trim,
//! before and after its effect; start anew on what is stored; assert that every secret opens and
//! that nothing is sealed by a key that is not in both copies; repeat; assert that it is done.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::crypto::Keyring;
use vault_plugin_secrets_smtp::logical::{
    MemoryStorage, Snapshot, StaticSystemView, Storage as _, StorageEntry,
};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{Host, Rig, parts};
use crate::support::faults::{Interruption, Kind, Plan};

const ROTATE: &str = "config/keyring/rotate";
const TRIM: &str = "config/keyring/trim";

/// What is done under faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rotate,
    Rewrap,
    Trim,
}

impl Step {
    async fn run(self, host: &Host) -> u16 {
        match self {
            Self::Rotate => host.write(ROTATE, json!({})).await.status,
            Self::Trim => host.write(TRIM, json!({})).await.status,
            Self::Rewrap => {
                host.tick().await;
                204
            }
        }
    }
}

struct Bench {
    rig: Rig,
    stored: Snapshot,
    password: String,
}

impl Bench {
    /// Two tenants, one with a password, before `step`.
    async fn before(step: Step) -> Self {
        let rig = Rig::created().await;
        rig.configure("globex").await;
        // Longer than the engine lets a broken storage connection rest.
        rig.write("config", json!({ "wait": 25 })).await.ok();
        let password = rig.settled().await;
        if step == Step::Trim {
            Step::Rotate.run(&rig).await;
            Step::Rewrap.run(&rig).await;
        }
        Self {
            stored: rig.storage.snapshot(),
            rig,
            password,
        }
    }

    fn process(&self, storage: &Arc<MemoryStorage>) -> Host {
        let parts = parts(&self.rig.clock, connector());
        Host::new(parts, Arc::clone(storage) as _, StaticSystemView::default())
    }

    fn begin(&self) -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::new());
        storage.restore(&self.stored);
        storage
    }

    /// Runs the step under a fault; `None` if the process was killed.
    async fn run(
        &self,
        step: Step,
        fault: Option<&Interruption>,
        plan: &Plan,
        storage: &Arc<MemoryStorage>,
    ) -> Option<Host> {
        let parts = parts(&self.rig.clock, connector());
        let host = Host::new(parts, plan.over(storage), StaticSystemView::default());
        if step == Step::Rewrap {
            // Whatever else a first tick has to do is done before.
            host.tick().await;
            Step::Rotate.run(&host).await;
        }
        plan.interrupt(fault.map_or(&[], std::slice::from_ref));
        tokio::select! {
            biased;
            () = plan.crashed() => None,
            _ = step.run(&host) => Some(host),
        }
    }

    async fn test(&self, step: Step) -> usize {
        let plan = Plan::default();
        self.run(step, None, &plan, &self.begin()).await.unwrap();
        let calls = plan.calls();
        let faults = Interruption::every(&calls);
        for fault in &faults {
            let what = format!("{step:?} {fault:?}");
            self.point(step, fault, &what).await;
        }
        report(format!(
            "{step:?}: {} calls, {} fault points",
            calls.len(),
            faults.len()
        ));
        faults.len()
    }

    async fn point(&self, step: Step, fault: &Interruption, what: &str) {
        let plan = Plan::default();
        let storage = self.begin();
        let survivor = self.run(step, Some(fault), &plan, &storage).await;
        assert_eq!(plan.ahead(), [], "{what}");
        let crashed = fault.kind == Kind::Crash;
        // A fault whose answer nobody waits for kills a process that has answered.
        assert!(survivor.is_none() || !crashed, "{what}");
        self.sound(&storage, what).await;
        let fresh = self.process(&storage);
        // The process goes on with what storage holds, as does a new one.
        for (host, new) in survivor.iter().chain([&fresh]).zip(["hooli", "initech"]) {
            self.opens(host, what).await;
            let path = format!("{new}/config");
            host.write(&path, self.rig.server()).await.ok();
            self.sound(&storage, what).await;
        }
        for step in [Step::Rotate, Step::Rewrap, Step::Trim] {
            let status = step.run(&fresh).await;
            assert!(matches!(status, 200 | 204), "{what}: {step:?} {status}");
            self.sound(&storage, what).await;
        }
        let copies = [
            keys(&storage, "keyring").await,
            keys(&storage, "keyring-copy").await,
        ];
        assert_eq!(copies[0], copies[1], "{what}");
        assert_eq!(copies[0].len(), 1, "{what}");
        self.opens(&fresh, what).await;
        self.opens(&self.process(&storage), what).await;
    }

    /// Every secret opens.
    async fn opens(&self, host: &Host, what: &str) {
        let read = host.read("acme/admin").await.ok();
        assert_eq!(read.get("state"), "settled", "{what}");
        assert_eq!(read.text_of("password"), self.password, "{what}");
    }

    /// Nothing is sealed by a key that one of the copies lacks.
    async fn sound(&self, storage: &MemoryStorage, what: &str) {
        let copies = [
            keys(storage, "keyring").await,
            keys(storage, "keyring-copy").await,
        ];
        let snapshot = storage.snapshot();
        let records = snapshot
            .entries()
            .filter(|it| it.key.starts_with("tenant/"));
        for record in records {
            let text = std::str::from_utf8(&record.value).unwrap();
            for piece in text.split("\"v").skip(1) {
                let Some(Ok(version)) = piece.split_once(':').map(|it| it.0.parse()) else {
                    continue;
                };
                for copy in &copies {
                    assert!(copy.contains(&version), "{what}: {version} not in {copy:?}");
                }
            }
        }
    }
}

/// Tells how much was covered; shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "a test says how many points it found")]
fn report(line: String) {
    println!("{line}");
}

async fn keys(storage: &MemoryStorage, key: &str) -> BTreeSet<u32> {
    let entry = storage.get(key).await.unwrap().unwrap();
    let keyring = Keyring::from_bytes(&entry.value).unwrap();
    keyring.versions().map(|it| it.version).collect()
}

#[tokio::test]
async fn a_rotation_of_the_keyring() {
    let bench = Bench::before(Step::Rotate).await;
    assert!(bench.test(Step::Rotate).await > 60);
}

#[tokio::test]
async fn a_slice_of_the_rewrap() {
    let bench = Bench::before(Step::Rewrap).await;
    assert!(bench.test(Step::Rewrap).await > 60);
}

#[tokio::test]
async fn a_trim_of_the_keyring() {
    let bench = Bench::before(Step::Trim).await;
    assert!(bench.test(Step::Trim).await > 80);
}

/// The states that a write leaves which was given up and landed later, and those that a restore of
/// one copy makes.
#[tokio::test]
async fn copies_of_different_age() {
    let bench = Bench::before(Step::Rotate).await;
    let storage = bench.begin();
    let host = bench.process(&storage);
    let mut ages: Vec<Vec<u8>> = Vec::new();
    for step in [Step::Rotate, Step::Rewrap, Step::Trim] {
        let entry = storage.get("keyring").await.unwrap().unwrap();
        ages.push(entry.value.clone());
        assert!(matches!(step.run(&host).await, 200 | 204));
    }
    let [one, both] = [&ages[0], &ages[1]];
    let entry = storage.get("keyring").await.unwrap().unwrap();
    let two = &entry.value;
    // The record needs version 2 only.
    for (first, second, status) in [
        (both, two, 200),
        (two, both, 200),
        // Older than what seals: it still opens, and the next write completes the copy.
        (both, one, 200),
        (one, both, 500),
        (one, two, 500),
        (two, one, 500),
    ] {
        for (key, value) in [("keyring", first), ("keyring-copy", second)] {
            let mut entry = StorageEntry::new(key, value.clone());
            entry.seal_wrap = true;
            storage.put(entry).await.unwrap();
        }
        let host = bench.process(&storage);
        let read = host.read("acme/admin").await;
        assert_eq!(read.status, status, "{read:?}");
        let before = storage.snapshot();
        let written = host.write("hooli/config", bench.rig.server()).await;
        if status == 500 {
            written.fails(500, "keyring_unreadable");
            assert_eq!(storage.snapshot(), before);
        } else {
            written.ok();
            assert_eq!(keys(&storage, "keyring").await, BTreeSet::from([1, 2]));
            assert_eq!(keys(&storage, "keyring-copy").await, BTreeSet::from([1, 2]));
            assert_eq!(
                host.read("acme/admin").await.ok().get("password"),
                &Value::from(bench.password.as_str())
            );
        }
    }
}
