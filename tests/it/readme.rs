//! The README against the code: what it lists exists, and what exists is listed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use vault_plugin_secrets_smtp::audit::{EXEMPT_RESPONSE_KEYS, EventName};
use vault_plugin_secrets_smtp::clock::SystemClock;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::logical::BackendInfo;
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{HashPool, connector};

const README: &str = include_str!("../../README.md");

/// The text between the heading and the next one of the same level.
fn section(heading: &str) -> &'static str {
    let start = format!("\n## {heading}\n");
    let (_, rest) = README.split_once(&start).expect("a heading of the README");
    rest.split_once("\n## ").map_or(rest, |(body, _)| body)
}

/// What stands in back ticks in the first cell of every row.
fn first_cells(section: &'static str) -> Vec<&'static str> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| line.split_once(" |").expect("the first cell ends").0)
        .flat_map(|cell| cell.split('`').step_by(2))
        .filter(|code| !code.is_empty())
        .collect()
}

#[test]
fn the_endpoint_table_lists_exactly_the_routes() {
    let parts = Parts {
        clock: Arc::new(SystemClock::new()),
        identifiers: Arc::new(RandomIdentifiers),
        connector: connector(),
        notifier: notifier(),
        host_api: host_api::opener(Reach::default()),
        hash_pool: HashPool::new(),
        dev_loopback: false,
    };
    let routes: BTreeSet<String> = SmtpBackend::new(parts, BackendInfo::default())
        .paths()
        .into_iter()
        .map(|(pattern, _)| pattern.replace('{', "<").replace('}', ">"))
        .collect();
    let rows = first_cells(section("Endpoints"));
    let listed: BTreeSet<String> = rows
        .iter()
        .map(|path| path.strip_prefix("smtp/").expect("a path of the mount"))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, routes);
    assert_eq!(rows.len(), routes.len(), "a path is listed twice");
}

#[test]
fn the_keys_in_clear_are_those_of_the_engine() {
    let (_, block) = section("Audit")
        .split_once("```text\n")
        .expect("the block of keys");
    let (block, _) = block.split_once("```").expect("the block ends");
    let listed: Vec<&str> = block.split(',').map(str::trim).collect();
    assert_eq!(listed, EXEMPT_RESPONSE_KEYS);
}

#[test]
fn every_event_is_named() {
    let listed: BTreeSet<&str> = first_cells(section("Audit"))
        .into_iter()
        .filter(|name| name.starts_with("smtp_"))
        .collect();
    // Nothing in this version moves a credential to another server.
    let known = EventName::ALL
        .iter()
        .filter(|it| **it != EventName::Rehomed);
    assert_eq!(listed, known.map(|event| event.as_str()).collect());
}

#[test]
fn every_error_code_of_the_table_exists() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut text = String::new();
    read_all(&source, &mut text);
    let errors = first_cells(section("Errors"));
    let of_attention = first_cells(section("Monitor"))
        .into_iter()
        .filter(|code| !code.starts_with("smtp_"));
    assert!(!errors.is_empty());
    for code in errors.into_iter().chain(of_attention) {
        assert!(
            text.contains(&format!("\"{code}\"")) || text.contains(&format!("\"{code}: ")),
            "no source names the error code {code}"
        );
    }
}

/// The commands of a text, each with its continued lines, from `bao write` or `vault write` on.
fn writes(text: &str) -> Vec<String> {
    let joined = text.replace("\\\\\n", " ").replace("\\\n", " ");
    let mut writes = Vec::new();
    for line in joined.lines() {
        for command in ["bao write ", "vault write "] {
            for (at, _) in line.match_indices(command) {
                let rest = &line[at + command.len()..];
                let end = rest
                    .find(['`', '#', ')', '"', '|', ';'])
                    .unwrap_or(rest.len());
                writes.push(rest[..end].trim().to_owned());
            }
        }
    }
    writes
}

/// The command line takes a write without a parameter only with `-f`, on both hosts.
#[test]
fn a_write_without_parameters_is_forced() {
    let mut text = README.to_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    read_all(&root.join("src"), &mut text);
    let mut seen = 0;
    for command in writes(&text) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (flags, words): (Vec<&str>, Vec<&str>) = words
            .into_iter()
            .partition(|it| it.starts_with('-') && it.len() > 1);
        let Some((path, parameters)) = words.split_first() else {
            continue;
        };
        // A sentence that names the command, or a command whose end is a text in quotes.
        if !path.contains('/') || parameters.iter().any(|it| !it.contains('=') && *it != "-") {
            continue;
        }
        seen += 1;
        let forced = flags.iter().any(|it| *it == "-f" || *it == "-force");
        assert!(forced || !parameters.is_empty(), "bao write {command}");
    }
    assert!(seen > 30, "{seen} commands");
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("its entry").path();
        if path.is_dir() {
            read_all(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).expect("a source file"));
        }
    }
}

#[test]
fn the_files_it_links_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next().expect("the link ends");
        let file = target.split('#').next().unwrap_or_default();
        (!file.is_empty() && !file.contains("://")).then_some(file)
    });
    for file in links {
        assert!(root.join(file).exists(), "{file} is linked and missing");
    }
}
