//! The Mailu stand-in as a program, for development without a Mailu.
//!
//! Prints one line of JSON once every listener is ready, then runs until SIGTERM or SIGINT:
//! `{"url", "http_url", "control_url", "smtps_port", "submission_port", "token", "ca_pem"}`.
//! The control API is described in `control.rs`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that is talked to by scripts, never loaded by Vault"
)]

#[path = "mod.rs"]
mod standin;

use std::io::{self, Write as _};
use std::process::ExitCode;

use standin::{Config, MailuStandin, Release};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: mailu-standin [--port N] [--smtp-port N] [--submission-port N]
    [--control-port N] [--token TOKEN] [--domain DOMAIN] [--name HOST]...
    [--user EMAIL:PASSWORD]... [--rounds 4..31] [--ca-out FILE] [--mode 2.0|2024.06]";

#[tokio::main]
async fn main() -> ExitCode {
    let Some((config, ca_out)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(config, ca_out).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mailu-standin: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the flags; `None` for anything unknown or malformed.
fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(Config, Option<String>)> {
    let mut config = Config {
        control_port: Some(0),
        ..Config::default()
    };
    let mut ca_out = None;
    while let Some(flag) = arguments.next() {
        let value = arguments.next()?;
        match flag.as_str() {
            "--port" => config.https_port = value.parse().ok()?,
            "--smtp-port" => config.smtps_port = value.parse().ok()?,
            "--submission-port" => config.submission_port = value.parse().ok()?,
            "--control-port" => config.control_port = Some(value.parse().ok()?),
            "--token" => config.token = value,
            "--domain" => config.domain = value,
            "--name" => config.names.push(value),
            "--user" => {
                let (email, password) = value.split_once(':')?;
                config = config.user(email, password);
            }
            "--rounds" => {
                config.rounds = value
                    .parse()
                    .ok()
                    .filter(|rounds| (4..=31).contains(rounds))?;
            }
            "--ca-out" => ca_out = Some(value),
            "--mode" => {
                config.release = match value.as_str() {
                    "2.0" => Release::V2_0,
                    "2024.06" => Release::V2024_06,
                    _ => return None,
                };
            }
            _ => return None,
        }
    }
    Some((config, ca_out))
}

async fn run(config: Config, ca_out: Option<String>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let standin = MailuStandin::start(config).await?;
    if let Some(file) = ca_out {
        std::fs::write(file, standin.ca_pem())?;
    }
    let ready = serde_json::json!({
        "url": standin.url(),
        "http_url": standin.http_url(),
        "control_url": standin.control_url(),
        "smtps_port": standin.smtps_port(),
        "submission_port": standin.submission_port(),
        "token": standin.token(),
        "ca_pem": standin.ca_pem(),
    });
    println!("{ready}");
    io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    standin.stop().await;
    Ok(())
}
