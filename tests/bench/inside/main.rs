//! Benchmarks of the schedule inside one process: what a check costs, and what many tenants cost.
//! See `scripts/bench`, which builds and calls this.
//!
//! `bench-inside check` or `bench-inside scale`
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

mod check;
mod host;
mod mail;
mod scale;
mod storage;

#[path = "../../standin/mod.rs"]
mod standin;

fn main() {
    let part = std::env::args().nth(1).unwrap_or_default();
    // The product's own runtime: one worker, blocking threads beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    match part.as_str() {
        "check" => runtime.block_on(check::check()),
        "scale" => runtime.block_on(scale::scale()),
        other => panic!("check or scale, not {other:?}"),
    }
}
