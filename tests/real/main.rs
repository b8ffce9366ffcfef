//! The plugin inside a real server, against the Mailu stand-in over real TLS and SMTP.
//!
//! Needs an OpenBao binary in `SMTP_TEST_BAO`; `./scripts/test` provides it. With
//! `SMTP_TEST_VAULT` all of it runs in that Vault instead. `SMTP_TEST_PLUGIN` replaces the
//! plugin's binary, for example by a released one. `SMTP_TEST_OPENAPI` is the folder with the
//! OpenAPI tools.
//!
//! Here is only what needs a real host: what it makes of our answers, what it writes about them,
//! how it starts, kills and revives us. What a host cannot do is in [`product`], in one table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::missing_panics_doc,
    clippy::needless_pass_by_value,
    reason = "a test that meets the unexpected shall stop there and then, and has no API"
)]

mod acl;
mod api;
mod audit;
mod batches;
mod cluster;
mod commands;
mod crash;
mod errors;
mod foreign;
mod handover;
mod harness;
mod help;
mod notices;
mod openapi;
mod panics;
mod process;
mod product;
mod promises;
mod reset;
mod rig;
mod schedule;
mod sdk;
mod server;
mod soak;
mod standby;
mod story;
mod support;
mod taint;
mod threads;
mod upgrade;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First those that wait for ticks: they take longest, whatever the machine.
    let tests = [
        audit::tests(),
        schedule::tests(),
        soak::tests(),
        notices::tests(),
        reset::tests(),
        promises::tests(),
        handover::tests(),
        batches::tests(),
        commands::tests(),
        standby::tests(),
        acl::tests(),
        crash::tests(),
        errors::tests(),
        foreign::tests(),
        help::tests(),
        openapi::tests(),
        panics::tests(),
        sdk::tests(),
        story::tests(),
        taint::tests(),
        threads::tests(),
        upgrade::tests(),
    ];
    harness::run(tests.into_iter().flatten().collect())
}
