//! The plugin binary: composes the parts, serves, and maps the outcome to an exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;
use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::goplugin::Logging;
use vault_plugin_secrets_smtp::provider::{HashPool, connector};
use vault_plugin_secrets_smtp::wire::{Plugin, ServerInfo, serve};

const NAME: &str = env!("CARGO_PKG_NAME");
/// Development only: with `1` the engine talks plain http and to loopback addresses.
const DEV_LOOPBACK: &str = "SMTP_DEV_ALLOW_LOOPBACK";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const HELP: &str = include_str!("help.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => match run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => say(std::io::stderr(), &format!("{NAME}: {error}\n"), 1),
        },
        ["--version"] => say(std::io::stdout(), &format!("{NAME} {VERSION}\n"), 0),
        ["--help" | "-h"] => say(std::io::stdout(), HELP, 0),
        ["--audit-keys"] => say(
            std::io::stdout(),
            &format!("{}\n", EXEMPT_RESPONSE_KEYS.join(",")),
            0,
        ),
        _ => say(std::io::stderr(), &format!("unknown argument\n\n{HELP}"), 2),
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // Two workers: one may be busy encrypting while the other keeps the broker and the connection
    // alive. More cost throughput, because most of a request's time is the server's.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let clock = Arc::new(SystemClock::new());
    let parts = Parts {
        clock: Arc::clone(&clock) as _,
        connector: connector(),
        hash_pool: HashPool::new(),
        dev_loopback: std::env::var(DEV_LOOPBACK).is_ok_and(|value| value == "1"),
    };
    let served = runtime.block_on(serve(Plugin {
        version: VERSION,
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

fn say(mut out: impl Write, text: &str, code: u8) -> ExitCode {
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}
