//! Every stored format, pinned: its schema, the names of its fields and all variants of its enums,
//! one file for each kind of entry under `fixtures/formats/`.
//!
//! A build must never write an entry that another one with the same schema cannot read: it would be
//! "damaged" there instead of "newer". So a change here needs a new schema, and then a new pin:
//!
//! ```text
//! SMTP_PIN_FORMATS=1 cargo test --locked --test it formats::
//! ```
//!
//! Taken from the text of the sources, as they are compiled: no other list has to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A kind of stored entry, its outermost type, and where that is.
const KINDS: [(&str, &str, &str); 17] = [
    ("account", "AccountOwner", "engine/locked/pointer.rs"),
    ("alerts", "AlertSettings", "engine/watch/settings.rs"),
    ("audit-access", "AuditAccess", "engine/audit_access/mod.rs"),
    ("batch", "Batch", "engine/batch/record.rs"),
    ("channel", "Channel", "engine/channels/mod.rs"),
    ("config", "MountConfig", "engine/config.rs"),
    ("journal", "JournalEntry", "engine/storage/mod.rs"),
    ("mountlog", "MountLog", "engine/mount_log.rs"),
    ("notified", "ChannelState", "engine/outbox/state.rs"),
    ("outbox", "Entry", "engine/outbox/entry.rs"),
    ("reindex", "ReindexProgress", "engine/runner/reindex.rs"),
    ("rewrap", "RewrapProgress", "engine/runner/rewrap.rs"),
    ("schedule", "Calendar", "engine/runner/calendar.rs"),
    ("server", "Stops", "engine/mail/stops/mod.rs"),
    ("tenant", "TenantRecord", "engine/storage/record/mod.rs"),
    ("trail", "TrailEntry", "engine/storage/mod.rs"),
    ("watch", "Memory", "engine/watch/memory.rs"),
];

/// Formats that are no JSON and pinned by their own tests.
const BINARY: [&str; 1] = ["crypto/keyring.rs"];

/// One type that is stored.
#[derive(Debug)]
struct Definition {
    file: String,
    lines: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

/// Every source with the text of its product code.
fn texts() -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    sources(&root(), &mut paths);
    let name = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    let text = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        code.to_owned()
    };
    paths.iter().map(|path| (name(path), text(path))).collect()
}

/// The types of a source that are read from storage: name and definition.
fn definitions(file: &str, text: &str) -> Vec<(String, Definition)> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        if !line.starts_with("#[derive(") || !line.contains("Deserialize") {
            continue;
        }
        let mut at = start + 1;
        let mut kept = Vec::new();
        while lines[at].starts_with("#[") {
            // An attribute may have several lines.
            let mut attribute = lines[at].to_owned();
            while !attribute.ends_with(']') {
                at += 1;
                attribute.push_str(lines[at]);
            }
            if attribute.starts_with("#[serde") {
                kept.push(attribute);
            }
            at += 1;
        }
        let head = lines[at];
        let words: Vec<&str> = head
            .split([' ', '(', '{', '<', ';'])
            .filter(|word| !word.is_empty())
            .collect();
        let Some(place) = words
            .iter()
            .position(|word| matches!(*word, "struct" | "enum"))
        else {
            continue;
        };
        let (kind, name) = (words[place], words[place + 1].to_owned());
        kept.push(format!("{kind} {name}"));
        if head.ends_with('{') {
            let mut depth = 1;
            while depth > 0 {
                at += 1;
                let line = lines[at];
                depth += line.matches('{').count();
                depth -= line.matches('}').count();
                if depth > 0 || line != "}" {
                    kept.push(line.trim_start_matches("pub ").to_owned());
                }
            }
        } else {
            kept.push(head.to_owned());
        }
        let file = file.to_owned();
        found.push((name, Definition { file, lines: kept }));
    }
    found
}

/// How much of their paths two files share.
fn nearness(one: &str, other: &str) -> usize {
    let pairs = one.split('/').zip(other.split('/'));
    pairs.take_while(|(one, other)| one == other).count() + usize::from(one == other)
}

/// What is pinned of a kind: its schema, and every type that an entry is made of.
fn pin(
    texts: &BTreeMap<String, String>,
    known: &BTreeMap<String, Vec<Definition>>,
    (kind, outermost, file): (&str, &str, &str),
) -> String {
    let text = &texts[file];
    let declared = text
        .split_once(&format!("struct {outermost}"))
        .map_or("", |(_, rest)| rest);
    let number = |text: &str| {
        let (_, rest) = text.split_once("SCHEMA: u32 = ")?;
        rest.split_once(';')
            .map(|(number, _)| number.parse::<u32>().unwrap())
    };
    // An entry without one has never changed, and must not.
    let schema = number(declared).or_else(|| number(text)).unwrap_or(0);
    let mut pinned = format!("{kind}, schema {schema}\n");
    let mut waiting = vec![(outermost.to_owned(), file.to_owned())];
    let mut seen = BTreeSet::new();
    while let Some((name, from)) = waiting.pop() {
        let Some(all) = known.get(&name) else {
            continue;
        };
        let nearest = all.iter().max_by_key(|it| nearness(&it.file, &from));
        let Some(definition) = nearest.filter(|it| seen.insert((name, it.file.clone()))) else {
            continue;
        };
        pinned.push('\n');
        for line in &definition.lines {
            writeln!(pinned, "{line}").unwrap();
            let names = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let types = names.filter(|it| it.starts_with(|c: char| c.is_ascii_uppercase()));
            waiting.extend(types.map(|it| (it.to_owned(), definition.file.clone())));
        }
    }
    pinned
}

fn pins() -> Vec<(PathBuf, String)> {
    let texts = texts();
    let mut known: BTreeMap<String, Vec<Definition>> = BTreeMap::new();
    for (file, text) in &texts {
        for (name, definition) in definitions(file, text) {
            known.entry(name).or_default().push(definition);
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/formats");
    let pin = |kind: &(&str, &str, &str)| {
        let path = folder.join(format!("{}.txt", kind.0));
        (path, pin(&texts, &known, *kind))
    };
    KINDS.iter().map(pin).collect()
}

#[test]
fn no_stored_format_changes_without_a_new_schema() {
    let write = std::env::var_os("SMTP_PIN_FORMATS").is_some();
    for (path, found) in pins() {
        if write {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &found).unwrap();
        }
        let pinned = fs::read_to_string(&path).unwrap_or_default();
        let schema = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        let what = if schema(&pinned) == schema(&found) {
            "was changed without a new schema: give it one (or undo the change)"
        } else {
            "has a new schema"
        };
        assert!(
            pinned == found,
            "{} {what}, then pin it anew as the head of this file says.\n--- pinned\n{pinned}\n+++ \
             found\n{found}",
            path.display()
        );
    }
}

#[test]
fn every_format_with_a_schema_is_pinned() {
    for (file, text) in texts() {
        let pinned = KINDS.iter().filter(|(_, _, it)| *it == file).count();
        let schemas = text.matches("SCHEMA: u32 = ").count();
        assert!(
            pinned >= schemas || BINARY.contains(&file.as_str()),
            "{file} has a stored format that is not in the list"
        );
    }
}

#[test]
fn a_pin_has_what_a_reader_needs() {
    let pinned = |kind: &str| {
        let of_kind = |(path, _): &(PathBuf, String)| path.ends_with(format!("{kind}.txt"));
        pins().into_iter().find(of_kind).unwrap().1
    };
    let tenant = pinned("tenant");
    for part in [
        "tenant, schema ",
        "struct TenantRecord",
        // Several types deep, in other files, and an enum's variants with their stored names.
        "struct EventLog",
        "pub display_name",
        "#[serde(rename = \"smtp_credentials_rotated\")]",
        "enum Proof",
        "Acknowledged,",
        "enum Severity",
        "struct Failures",
        "count: u64",
    ] {
        assert!(
            tenant.contains(part.trim_start_matches("pub ")),
            "{part}:\n{tenant}"
        );
    }
    assert!(
        !tenant.contains("since: Duration"),
        "not the type of another module"
    );
    assert!(pinned("schedule").contains("struct Expiry"));
    assert!(pinned("audit-access").contains("enum Way"));
    assert!(pinned("trail").contains("delivered: bool"));
}
