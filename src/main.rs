//! The plugin binary: composes the parts, serves, and maps the outcome to an exit code.

mod console;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::goplugin::Logging;
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{HashPool, connector};
use vault_plugin_secrets_smtp::wire::{Plugin, ServerInfo, serve};

/// Development only: with `1` the engine talks to loopback addresses, and plain http to them alone.
const DEV_LOOPBACK: &str = "SMTP_DEV_ALLOW_LOOPBACK";

fn main() -> ExitCode {
    console::answer().unwrap_or_else(|| match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => console::failed(&*error),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    // One worker: most of a request's time is the server's, and what takes long here, password
    // hashes and name look-ups, has threads of its own. A second one costs memory and wake-ups.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let clock = Arc::new(SystemClock::new());
    let parts = Parts {
        clock: Arc::clone(&clock) as _,
        identifiers: Arc::new(RandomIdentifiers),
        connector: connector(),
        notifier: notifier(),
        host_api: host_api::opener(Reach::from_env(|name| std::env::var(name).ok())),
        hash_pool: HashPool::new(),
        dev_loopback: std::env::var(DEV_LOOPBACK).is_ok_and(|value| value == "1"),
    };
    let served = runtime.block_on(serve(Plugin {
        version: env!("CARGO_PKG_VERSION"),
        logging: Logging {
            level_variable: "SMTP_LOG_LEVEL",
            target: env!("CARGO_CRATE_NAME"),
        },
        clock,
        server: ServerInfo::parse(|name| std::env::var(name).ok()),
        factory: Arc::new(move |info| Arc::new(SmtpBackend::new(parts.clone(), info))),
    }));
    // A password hash under way must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(served?)
}
