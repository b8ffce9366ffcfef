//! The probe of the integration tests as a program, to be started by a real server.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a part of the tests"
)]

#[path = "../it/support/probe/mod.rs"]
mod probe;

use vault_plugin_secrets_smtp::goplugin::{Error, Logging};
use vault_plugin_secrets_smtp::wire::{Plugin, serve};

use probe::Probe;

const LOGGING: Logging = Logging {
    level_variable: "PROBE_LOG_LEVEL",
    target: "vault_plugin_secrets_smtp",
};

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(Plugin::new(env!("CARGO_PKG_VERSION"), LOGGING, Probe)).await
}
