//! Random histories: requests, ticks, faults, late effects, restores, in any order.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::history::{Faults, Request, Step, Who, run};
use crate::support::faults::{Fault, Kind};

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![3 => Just(Who::Acme), 1 => Just(Who::Beta)]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        6 => Just(Request::Rotate),
        3 => Just(Request::Verify),
        1 => Just(Request::Read),
        1 => Just(Request::Adopt),
        1 => Just(Request::Patch),
        1 => Just(Request::Delete),
        1 => Just(Request::Undelete),
        2 => Just(Request::Reset),
        1 => Just(Request::ResetAndHold),
        1 => Just(Request::Release),
        2 => Just(Request::RollBack),
        1 => Just(Request::Reveal),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        3 => Just(Kind::Refused),
        2 => Just(Kind::Unknown),
        2 => Just(Kind::Crash),
        4 => Just(Kind::Late),
        1 => Just(Kind::Lie),
        2 => Just(Kind::Token),
        2 => Just(Kind::Worded),
        1 => Just(Kind::Hidden),
    ];
    (0_usize..24, kind, any::<bool>()).prop_map(|(at, kind, after)| Fault { at, kind, after })
}

/// What becomes of a password that is sent: the doubtful and the refused in any order.
fn fate() -> impl Strategy<Value = Option<Fault>> {
    let kind = prop_oneof![
        6 => Just(Kind::Late),
        4 => Just(Kind::Token),
        3 => Just(Kind::Worded),
        3 => Just(Kind::Refused),
        1 => Just(Kind::Crash),
        1 => Just(Kind::Lie),
    ];
    let fault = (kind, any::<bool>()).prop_map(|(kind, after)| Fault { at: 0, kind, after });
    proptest::option::weighted(0.9, fault)
}

fn faults() -> impl Strategy<Value = Faults> {
    let calls = prop_oneof![1 => Just(Vec::new()), 1 => vec(fault(), 1..3)];
    let sends = prop_oneof![1 => Just(Vec::new()), 1 => vec(fate(), 1..4)];
    let some = (calls, sends).prop_map(|(calls, sends)| Faults { calls, sends });
    prop_oneof![1 => Just(Faults::default()), 3 => some]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (vec((who(), request()), 1..3), faults()).prop_map(|(all, faults)| Step::Ask(all, faults)),
        4 => faults().prop_map(Step::Tick),
        1 => Just(Step::Quarter),
        3 => (0_u32..7200).prop_map(Step::Later),
        1 => (-600_i32..600).prop_map(Step::Jump),
        2 => Just(Step::Restart),
        5 => Just(Step::Land),
        2 => who().prop_map(Step::Login),
        1 => who().prop_map(Step::Foreign),
        1 => Just(Step::KeepStorage),
        1 => Just(Step::RestoreStorage),
        1 => Just(Step::KeepMail),
        1 => Just(Step::RestoreMail),
    ]
}

/// Histories in one run of the tests, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 10_000;

/// Runs one of two shares of them, the same ones each time: a red run is about the change that it
/// tests. `SMTP_MODEL_SEED` chooses others (any number). What fails is shrunk and printed as code
/// for a test of its own: no file of seeds is kept, because a seed means another history after
/// every change of a strategy.
fn histories(share: u64) {
    let ordered = std::env::var("PROPTEST_CASES");
    let cases = ordered.map_or(CASES, |cases| cases.parse().unwrap());
    let config = Config {
        cases: cases / 2,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = std::env::var("SMTP_MODEL_SEED");
    let seed: u64 = seed.map_or(0, |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..16].copy_from_slice(&share.to_be_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, random).run(&vec(step(), 1..11), |steps| {
        run(&steps);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn half_of_the_random_histories() {
    histories(1);
}

#[test]
fn the_other_half_of_the_random_histories() {
    histories(2);
}
