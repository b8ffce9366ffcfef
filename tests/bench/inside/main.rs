//! Benchmarks of the schedule inside one process: what a check costs, what many tenants
//! cost, and what telling the audit devices adds to a rotation.
//! See `scripts/bench`, which builds and calls this.
//!
//! `bench-inside check [rounds of the hashes]...` `bench-inside scale [tenants]...` or
//! `bench-inside audit [milliseconds of a mail server's answer]...`
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a program that measures: it stops at the unexpected, prints, and asks the clock"
)]

mod audit;
mod check;
mod host;
mod loopback;
mod mail;
mod scale;
mod storage;

#[path = "../../standin/mod.rs"]
mod standin;

fn main() {
    let mut args = std::env::args().skip(1);
    let part = args.next().unwrap_or_default();
    let numbers: Vec<u32> = args.map(|text| text.parse().unwrap()).collect();
    let or = |usual: &[u32]| {
        if numbers.is_empty() {
            usual.to_vec()
        } else {
            numbers.clone()
        }
    };
    // The product's own runtime: one worker, blocking threads beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    match part.as_str() {
        "check" => runtime.block_on(check::check(&or(&[4, 13]))),
        "scale" => runtime.block_on(scale::scale(&or(&[1_000, 10_000, 100_000]))),
        "audit" => runtime.block_on(audit::audit(&or(&[0, 50]))),
        other => panic!("check, scale or audit, not {other:?}"),
    }
}
