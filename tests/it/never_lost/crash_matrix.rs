//! Fails at every storage and mail call of an operation, before and after its effect, alone and in
//! pairs; then a new process, ticks, and all must be well.
//!
//! The calls are counted by running, not listed by hand, and a fault is told by the call that it
//! interrupts, not by a number: the same run calls the same twice, and a fault that hits nothing is
//! an error of the matrix. Two faults are of one operation: the second hits the same run, if it
//! survived the first, or what recovers from it: the caller's repeat or the next tick, in the same
//! process or a new one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Before, Said, nothing_is_lost};
use crate::support::engine::{Answer, Host};
use crate::support::faults::{Interruption, Kind, Plan, sets_a_password};
use crate::support::world::{Left, Ticks, World, every_start_has_its_end, simulate};

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

/// Which pairs of faults are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    All,
    /// All whose two calls change something, and a quarter of the others: another one each day, as
    /// [`Pairs::turn`] says. All of them with `SMTP_MATRIX_PAIRS=all`, which `scripts/soak matrix`
    /// sets.
    Sampled,
}

impl Pairs {
    /// The quarter of today: `scripts/test` takes it from the day of the commit, so that a run that
    /// was red is red again.
    fn turn() -> usize {
        let turn = std::env::var("SMTP_MATRIX_TURN").unwrap_or_default();
        turn.parse::<usize>().unwrap_or(0) % 4
    }

    fn in_force(self) -> Self {
        let all = std::env::var("SMTP_MATRIX_PAIRS").is_ok_and(|pairs| pairs == "all");
        if all { Self::All } else { self }
    }
}

/// How often something was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) calls: usize,
    pub(super) points: usize,
    pub(super) pairs: usize,
    /// Pairs that were left to another day.
    pub(super) left: usize,
}

/// What an operation and its recovery called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    operation: Vec<String>,
    recovery: Vec<String>,
}

/// A walk through every run of a case.
struct Walk<'a> {
    case: &'a Case,
    count: Count,
    /// What the operation called with one fault: the same whatever comes after it.
    interrupted: BTreeMap<String, Vec<String>>,
    /// Whether ticks in between are let through, where only one fault is.
    ticks: Ticks,
    pairs: Pairs,
    /// Is told of every run.
    visit: &'a mut dyn FnMut(Called),
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

    /// Tries every point, and pairs.
    pub(super) fn test(&self, ticks: Ticks, pairs: Pairs) -> Count {
        let count = self.walk(ticks, pairs.in_force(), &mut |_called| {});
        report(self.name, count);
        count
    }

    /// Like [`Case::test`], telling what every run called.
    pub(super) fn walk(&self, ticks: Ticks, pairs: Pairs, visit: &mut dyn FnMut(Called)) -> Count {
        let mut walk = Walk {
            case: self,
            count: Count::default(),
            interrupted: BTreeMap::new(),
            ticks,
            pairs,
            visit,
        };
        walk.through();
        walk.count
    }

    /// Runs the operation with the first faults, recovers with the second ones, and asserts that
    /// all is well.
    fn run(&self, faults: [&[Interruption]; 2], recovery: Recovery, ticks: Ticks) -> Called {
        simulate(self.run_in_time(faults, recovery, ticks))
    }

    async fn run_in_time(
        &self,
        [first, second]: [&[Interruption]; 2],
        recovery: Recovery,
        ticks: Ticks,
    ) -> Called {
        let what = format!("{}: {first:?}, then {second:?}, {recovery:?}", self.name);
        let world = World::from(&self.left);
        let before = Before::of(&world).await;
        world.later(60).await;

        let plan = Plan::simulated();
        plan.interrupt(first);
        let process = world.process(&plan);
        let answer = survived(&plan, self.operation.perform(&process)).await;
        let operation = plan.calls();
        assert_eq!(plan.ahead(), [], "{what}: not in {operation:?}");
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
        plan.interrupt(second);
        let answer = if recovery.repeat {
            survived(&plan, self.operation.perform(&process)).await
        } else {
            survived(&plan, Operation::Tick.perform(&process)).await
        };
        let recovering = plan.calls();
        assert_eq!(plan.ahead(), [], "{what}: not in {recovering:?}");
        let fresh = world.sound_process();
        nothing_is_lost(&world, &fresh, &before, &what).await;
        if let Some(Some(answer)) = &answer {
            answer_is_true(&world, &fresh, answer, &now, &what).await;
        }

        all_is_well(&world, &before, ticks, &what).await;
        Called {
            operation,
            recovery: recovering,
        }
    }
}

impl Walk<'_> {
    fn through(&mut self) {
        let calls = self.run([&[], &[]], RECOVERIES[1]).operation;
        self.count.calls = calls.len();
        for first in Interruption::every(&calls) {
            for recovery in RECOVERIES {
                self.run([std::slice::from_ref(&first), &[]], recovery);
                self.count.points += 1;
            }
        }
        for (at, name) in calls.iter().enumerate() {
            for fault in distinct_faults(name, at == 0) {
                self.pairs_with(at, &Interruption::at(&calls, at, fault));
            }
        }
    }

    fn pairs_with(&mut self, first_at: usize, first: &Interruption) {
        let recovery = self.next_recovery();
        let alone = std::slice::from_ref(first);
        let called = self.run([alone, &[]], recovery);
        let first_changes = changes(&first.call);
        for (at, name) in called.operation.iter().enumerate().skip(first_at + 1) {
            for fault in distinct_faults(name, false) {
                if self.leaves(first_changes && changes(name)) {
                    continue;
                }
                let second = Interruption::at(&called.operation, at, fault);
                let recovery = self.next_recovery();
                self.run([&[first.clone(), second], &[]], recovery);
                self.count.pairs += 1;
            }
        }
        for (at, name) in called.recovery.iter().enumerate() {
            for fault in distinct_faults(name, false) {
                if self.leaves(first_changes && changes(name)) {
                    continue;
                }
                let second = Interruption::at(&called.recovery, at, fault);
                self.run([alone, &[second]], recovery);
                self.count.pairs += 1;
            }
        }
    }

    /// Reports whether a pair is left to another day, and counts it then.
    fn leaves(&mut self, both_change: bool) -> bool {
        let pair = self.count.pairs + self.count.left;
        let leaves = self.pairs == Pairs::Sampled && !both_change && pair % 4 != Pairs::turn();
        self.count.left += usize::from(leaves);
        leaves
    }

    fn next_recovery(&self) -> Recovery {
        RECOVERIES[self.count.pairs % RECOVERIES.len()]
    }

    fn run(&mut self, faults: [&[Interruption]; 2], recovery: Recovery) -> Called {
        let single = faults[0].len() + faults[1].len() < 2;
        let ticks = if single {
            self.ticks
        } else {
            Ticks::ToTheNextWork
        };
        let called = self.case.run(faults, recovery, ticks);
        if faults[0].len() < 2 {
            let calls = called.operation.clone();
            let key = format!("{:?}", faults[0]);
            let known = self.interrupted.entry(key).or_insert(calls);
            assert_eq!(*known, called.operation, "{faults:?}: not the same twice");
        }
        (self.visit)(called.clone());
        called
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
async fn all_is_well(world: &World, before: &Before, ticks: Ticks, what: &str) {
    let host = world.sound_process();
    world.quiet_by(ticks, &host, "acme").await;
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
    // `drift`: a login undid it, and it is being made again while this is answered.
    let open = ["uncertain", "queued", "drift"]
        .iter()
        .any(|state| answer.get("state") == *state);
    if changed && !open {
        assert_eq!(
            read.get("version"),
            answer.get("version"),
            "{what}: {answer:?}"
        );
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

/// Those ways in which this call can fail that leave different things behind: a question has no effect to come before or
/// after, and a process killed before a call is one killed after the last that had an effect.
fn distinct_faults(name: &str, first: bool) -> Vec<(Kind, bool)> {
    let mut faults = vec![(Kind::Refused, false)];
    if changes(name) {
        faults.push((Kind::Refused, true));
        faults.push((Kind::Crash, true));
    }
    if sets_a_password(name) {
        faults.extend([(Kind::Worded, false), (Kind::Worded, true)]);
    }
    // A broken connection is told from an error where the record is written only.
    if name.starts_with("cas ") {
        faults.push((Kind::Unknown, true));
    }
    if first {
        faults.push((Kind::Crash, false));
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
        left,
    } = count;
    println!("{name}: {calls} calls, {points} single faults, {pairs} pairs, {left} left out");
}
