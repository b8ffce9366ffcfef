//! The simulation at any size; see `scripts/simulate`, which builds and calls this.
//!
//! `simulate [tenants] [days] [seed] [minutes between ticks outside of checks] [days between sweeps]`
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "a program that simulates: it stops at the unexpected, prints, and asks the clock"
)]

#[path = "mod.rs"]
mod simulation;
#[path = "../standin/mod.rs"]
mod standin;

use std::time::Instant;

use simulation::{Settings, run};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| {
        let text = args.next();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let settings = Settings {
        tenants: usize::try_from(number(100_000)).unwrap(),
        days: u32::try_from(number(400)).unwrap(),
        seed: number(1),
        quiet_minutes: u32::try_from(number(1)).unwrap(),
        sweep_days: u32::try_from(number(20)).unwrap(),
        hash: standin::hash_password,
        tell: |text| println!("{text}"),
    };
    let begun = Instant::now();
    let figures = run(&settings);
    println!("{figures}");
    println!(
        "real time                       {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    println!(
        "memory                          {}",
        peak.unwrap_or_default().trim_start_matches("VmHWM:").trim()
    );
}
