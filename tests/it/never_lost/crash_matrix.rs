//! Fails at every storage and mail call of an operation, before and after its effect, alone and in
//! pairs; then a new process, ticks, and all must be well.
//!
//! The calls are counted by running, not listed by hand. Two faults are of one operation: the
//! second hits the same run, if it survived the first, or what recovers from it: the caller's
//! repeat or the next tick, in the same process or a new one.

use serde_json::{Value, json};

use super::{Before, Said, nothing_is_lost};
use crate::support::engine::{Answer, Host};
use crate::support::faults::{Fault, Kind, Plan};
use crate::support::world::{Left, World, every_start_has_its_end, simulate};

/// What is done.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write(&'static str, Value),
    Patch(&'static str, Value),
    Delete(&'static str),
    /// A minute later the host ticks.
    Tick,
}

impl Operation {
    async fn perform(&self, host: &Host) -> Option<Answer> {
        let answer = match self {
            Self::Write(path, body) => host.write(path, body.clone()).await,
            Self::Patch(path, body) => host.patch(path, body.clone()).await,
            Self::Delete(path) => host.delete(path).await,
            Self::Tick => {
                host.tick().await;
                return None;
            }
        };
        // A request that waited long enough was answered; its work goes on.
        host.backend.idle().await;
        Some(answer)
    }
}

/// One operation in one state of things.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) left: Left,
    pub(super) operation: Operation,
}

/// What follows a fault.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// The caller repeats; else the host ticks.
    repeat: bool,
    /// In the process that met the fault, if it lives.
    same_process: bool,
}

const RECOVERIES: [Recovery; 3] = [
    Recovery {
        repeat: true,
        same_process: false,
    },
    Recovery {
        repeat: false,
        same_process: false,
    },
    Recovery {
        repeat: true,
        same_process: true,
    },
];

/// How often something was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) calls: usize,
    pub(super) points: usize,
    pub(super) pairs: usize,
}

impl Case {
    /// Builds a state of things and takes it as the case's beginning.
    pub(super) fn new(
        name: &'static str,
        operation: Operation,
        state: impl Future<Output = World>,
    ) -> Self {
        Self {
            name,
            left: simulate(async { state.await.left() }),
            operation,
        }
    }

    /// Tries every point and every pair.
    pub(super) fn test(&self) -> Count {
        let [calls, _] = self.run(&[], &[], RECOVERIES[1]);
        let mut count = Count {
            calls: calls.len(),
            ..Count::default()
        };
        for (at, name) in calls.iter().enumerate() {
            for first in every_fault(at, name) {
                for recovery in RECOVERIES {
                    self.run(&[first], &[], recovery);
                    count.points += 1;
                }
            }
            for first in distinct_faults(at, name, at == 0) {
                self.pairs_with(first, &mut count);
            }
        }
        report(self.name, count);
        count
    }

    fn pairs_with(&self, first: Fault, count: &mut Count) {
        let recovery = RECOVERIES[count.pairs % RECOVERIES.len()];
        let [calls, recovering] = self.run(&[first], &[], recovery);
        for (at, name) in calls.iter().enumerate().skip(first.at + 1) {
            for second in distinct_faults(at, name, false) {
                let recovery = RECOVERIES[count.pairs % RECOVERIES.len()];
                self.run(&[first, second], &[], recovery);
                count.pairs += 1;
            }
        }
        for (at, name) in recovering.iter().enumerate() {
            for second in distinct_faults(at, name, false) {
                self.run(&[first], &[second], recovery);
                count.pairs += 1;
            }
        }
    }

    /// Runs the operation with the first faults, recovers with the second ones, and asserts that
    /// all is well; returns the calls of the operation and of the recovery.
    fn run(&self, first: &[Fault], second: &[Fault], recovery: Recovery) -> [Vec<String>; 2] {
        simulate(self.run_in_time(first, second, recovery))
    }

    async fn run_in_time(
        &self,
        first: &[Fault],
        second: &[Fault],
        recovery: Recovery,
    ) -> [Vec<String>; 2] {
        let what = format!("{}: {first:?}, then {second:?}, {recovery:?}", self.name);
        let world = World::from(&self.left);
        let before = Before::of(&world).await;
        world.later(60).await;

        let plan = Plan::simulated();
        plan.arm(first.iter().copied());
        let process = world.process(&plan);
        let answer = survived(&plan, self.operation.perform(&process)).await;
        let calls = plan.calls();
        let fresh = world.sound_process();
        nothing_is_lost(&world, &fresh, &before, &what).await;
        pointers_are_there(&world, &what).await;
        if let Some(Some(answer)) = &answer {
            answer_is_true(&world, &fresh, answer, &before, &what).await;
        }

        world.later(60).await;
        let now = Before::of(&world).await;
        let alive = answer.is_some() && recovery.same_process;
        let plan = if alive { plan } else { Plan::simulated() };
        let process = if alive { process } else { world.process(&plan) };
        plan.arm(second.iter().copied());
        let answer = if recovery.repeat {
            survived(&plan, self.operation.perform(&process)).await
        } else {
            survived(&plan, Operation::Tick.perform(&process)).await
        };
        let recovering = plan.calls();
        let fresh = world.sound_process();
        nothing_is_lost(&world, &fresh, &before, &what).await;
        if let Some(Some(answer)) = &answer {
            answer_is_true(&world, &fresh, answer, &now, &what).await;
        }

        all_is_well(&world, &before, &what).await;
        [calls, recovering]
    }
}

/// Waits for `work` unless the process is killed meanwhile.
async fn survived<T>(plan: &Plan, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = plan.crashed() => None,
        done = work => Some(done),
    }
}

/// The end of every case: no more faults, the host ticks.
async fn all_is_well(world: &World, before: &Before, what: &str) {
    let host = world.sound_process();
    world.quiet(&host, "acme").await;
    let mut said = Said::of(&host, "acme", what).await;
    if matches!(said, Said::Uncertain(_)) {
        host.write("acme/verify", json!({})).await;
        said = Said::of(&host, "acme", what).await;
    }
    let live = world.live();
    match said {
        Said::Settled(password) => {
            assert_eq!(Some(&password), live.as_ref(), "{what}: settled is a lie");
            let stored = world.stored("acme").await;
            assert!(stored.values().any(|it| *it == password), "{what}");
        }
        Said::Nothing => {
            let record = world.record("acme").await;
            let credential = record.and_then(|record| record.credential);
            let deleted = credential.is_some_and(|it| it.deleted.is_some());
            let destroyed = host
                .events("acme")
                .await
                .iter()
                .any(|event| event["event"] == "smtp_credentials_destroyed");
            assert!(
                deleted || destroyed || live == before.live,
                "{what}: nothing is stored and Mailu has something new"
            );
        }
        Said::Drift => assert!(before.drift, "{what}: nobody else changed anything"),
        Said::Held | Said::Uncertain(_) => panic!("{what}: still {said:?}"),
    }
    pointers_are_there(world, what).await;
    every_start_has_its_end(&host.events("acme").await, what);
}

async fn pointers_are_there(world: &World, what: &str) {
    world.check_pointers("acme", false, what).await;
}

/// A success was a success, and what was refused as unchanged is unchanged.
async fn answer_is_true(world: &World, host: &Host, answer: &Answer, before: &Before, what: &str) {
    let read = host.read("acme/admin").await;
    let changed = answer.status == 200 && answer.get("event_id").is_string();
    let changed = changed && !answer.get("tenant").is_null() || answer.get("state") == "done";
    let open = answer.get("state") == "uncertain" || answer.get("state") == "queued";
    if changed && !open {
        assert_eq!(read.get("version"), answer.get("version"), "{what}");
        assert_eq!(read.get("state"), "settled", "{what}");
    }
    if !before.open && answer.text.contains("Nothing was changed") {
        assert_eq!(world.live(), before.live, "{what}: {answer:?}");
    }
}

/// Whether a call can change anything.
fn changes(name: &str) -> bool {
    [
        "put ",
        "cas ",
        "delete ",
        "mail set_",
        "mail create",
        "mail delete",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// Every way in which this call can fail.
fn every_fault(at: usize, name: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for after in [false, true] {
        for kind in [Kind::Refused, Kind::Unknown, Kind::Crash] {
            // A lost connection to a mail server has one form only.
            if kind != Kind::Unknown || !name.starts_with("mail ") {
                faults.push(Fault { at, kind, after });
            }
        }
    }
    faults
}

/// Those of them that leave different things behind: a question has no effect to come before or
/// after, and a process killed before a call is one killed after the last that had an effect.
fn distinct_faults(at: usize, name: &str, first: bool) -> Vec<Fault> {
    let fault = |kind, after| Fault { at, kind, after };
    let mut faults = vec![fault(Kind::Refused, false)];
    if changes(name) {
        faults.push(fault(Kind::Refused, true));
        faults.push(fault(Kind::Crash, true));
    }
    // A broken connection is told from an error where the record is written only.
    if name.starts_with("cas ") {
        faults.push(fault(Kind::Unknown, true));
    }
    if first {
        faults.push(fault(Kind::Crash, false));
    }
    faults
}

/// Tells how much was covered; shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "a test says how many points it found")]
fn report(name: &str, count: Count) {
    let Count {
        calls,
        points,
        pairs,
    } = count;
    println!("{name}: {calls} calls, {points} single faults, {pairs} pairs");
}
