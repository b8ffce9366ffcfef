//! scripts/audit-verify on logs made of the engine's own events, in the shape of the host's lines.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use tempfile::TempDir;
use vault_plugin_secrets_smtp::audit::{
    Actor, DetailKey, EXEMPT_RESPONSE_KEYS, Event, EventLog, EventName, NewEvent, RotationType,
};
use vault_plugin_secrets_smtp::tasks::Tasks;

use crate::support::envelopes::kept_by;
use crate::support::strangers::{LEVELS, bodies, nested};

/// Lines that a real OpenBao 2.7.2 wrote: answers that name events, and a read of the events.
const ANSWERS: &str = include_str!("fixtures/audit-answers.jsonl");

const PROVEN: i32 = 0;
const BROKEN: i32 = 1;
const UNREADABLE: i32 = 2;
const KEYS_MISSING: i32 = 3;
const WAITING: i32 = 4;

struct FixedKey;

impl DetailKey for FixedKey {
    fn detail_hash(&self, _details: &[u8]) -> [u8; 32] {
        [7; 32]
    }
}

/// `count` events of a tenant; every one with all fields that an event can have.
fn chain(tenant: &str, count: u32) -> Vec<Event> {
    branch(tenant, "first", count, count)
}

/// The same, of which the first `common` are those of every other branch.
fn branch(tenant: &str, lineage: &str, common: u32, count: u32) -> Vec<Event> {
    let start = DateTime::from_timestamp(1_790_000_000, 120_000_000).unwrap();
    let mut log = EventLog::default();
    for number in 0..count {
        let now = start + TimeDelta::seconds(i64::from(number));
        let mut new = NewEvent::new(EventName::Rotated, Actor::caller("e-1", "alice"), now);
        new.rotation_type = Some(RotationType::Manual);
        new.version = Some(u64::from(number) + 2);
        new.previous_version = Some(u64::from(number) + 1);
        new.previous_rotation = Some(start);
        new.reason = Some(String::from("sp\u{e4}t < \"früh\""));
        new.error_code = Some(String::from("unreachable"));
        new.request_id = String::from("6d09044e-04e5-32cb-4506-4e40974cb056");
        let lineage = if number < common { "first" } else { lineage };
        // The same in the common part of two storages.
        let mut id = format!("01K{:0>3}{:0>20}", log.seq() + 1, tenant.to_uppercase());
        if lineage != "first" {
            id.push('B');
        }
        log.append(tenant, (lineage, id), &FixedKey, new);
    }
    let mut events = log.events().to_vec();
    rehash(&mut events);
    events
}

/// Computes the hashes anew, in a second way: from the JSON, not from the engine's own structs.
fn rehash(events: &mut [Event]) {
    let mut previous = "0".repeat(64);
    for event in events {
        event.prev_hash.clone_from(&previous);
        event.hash = hash_of(&serde_json::to_value(&*event).unwrap());
        previous.clone_from(&event.hash);
    }
}

fn hash_of(event: &Value) -> String {
    let mut clear = event.as_object().unwrap().clone();
    for private in ["hash", "display_name", "reason", "incident_id"] {
        clear.remove(private);
    }
    let sorted: BTreeMap<_, _> = clear.into_iter().collect();
    vault_plugin_secrets_smtp::crypto::sha256_hex(&serde_json::to_vec(&sorted).unwrap())
}

/// What a device makes of an answer: strings are hashed unless their own key is exempt.
fn masked(value: &Value, key: &str, exempt: &[&str]) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.iter();
            let members = members.map(|(key, it)| (key.clone(), masked(it, key, exempt)));
            Value::Object(members.collect())
        }
        Value::Array(list) => list.iter().map(|it| masked(it, key, exempt)).collect(),
        Value::String(text) if !exempt.contains(&key) => {
            let digest = vault_plugin_secrets_smtp::crypto::sha256_hex(text.as_bytes());
            Value::String(format!("hmac-sha256:{digest}"))
        }
        other => other.clone(),
    }
}

fn answer_hashed(path: &str, data: &Value, exempt: &[&str]) -> String {
    let line = json!({
        "time": "2026-11-21T20:06:58.04553017Z",
        "type": "response",
        "auth": {"client_token": "hmac-sha256:f55b", "display_name": "approle"},
        "request": {
            "id": "07b5712d-5295-aa6a-b0d4-35f088e063d6",
            "operation": "update",
            "mount_point": "smtp/",
            "namespace": {"id": "root"},
            "path": format!("smtp/{path}"),
        },
        "response": {"mount_point": "smtp/", "data": masked(data, "", exempt)},
    });
    line.to_string()
}

fn answer(path: &str, data: &Value) -> String {
    answer_hashed(path, data, &EXEMPT_RESPONSE_KEYS)
}

fn emitted(event: &Event) -> String {
    let mut data = serde_json::to_value(event).unwrap();
    data["replayed"] = json!(false);
    answer(
        &format!("events/emit/{}/{}", event.tenant_id, event.seq),
        &data,
    )
}

fn flushed(events: &[Event]) -> String {
    answer("events/flush", &json!({"events": events, "receipt": "r-1"}))
}

/// The chains of one mount as they are stored, and the files of one run.
struct Story {
    dir: TempDir,
    stored: BTreeMap<String, Vec<Value>>,
}

struct Report {
    code: i32,
    json: Value,
    said: String,
}

impl Report {
    /// The first broken entry: kind, file name, line, tenant and number.
    fn first(&self) -> (String, String, u64, String, u64) {
        let first = &self.json["broken"][0];
        let file = Path::new(first["file"].as_str().expect("something is broken"));
        (
            first["kind"].as_str().unwrap().to_owned(),
            file.file_name().unwrap().to_str().unwrap().to_owned(),
            first["line"].as_u64().unwrap_or(0),
            first["tenant"].as_str().unwrap_or_default().to_owned(),
            first["seq"].as_u64().unwrap_or(0),
        )
    }

    fn kinds(&self) -> Vec<&str> {
        let broken = self.json["broken"].as_array().unwrap().iter();
        broken.map(|it| it["kind"].as_str().unwrap()).collect()
    }

    fn figure(&self, name: &str) -> u64 {
        self.json["summary"][name].as_u64().unwrap()
    }

    /// All is proven, or the whole report.
    fn proven(self) -> Self {
        assert_eq!(self.code, PROVEN, "{}\n{}", self.json, self.said);
        self
    }

    fn broken(self) -> Self {
        assert_eq!(self.code, BROKEN, "{}\n{}", self.json, self.said);
        self
    }
}

impl Story {
    fn of(chains: &[&[Event]]) -> Self {
        let mut stored = BTreeMap::new();
        for chain in chains {
            let events = chain.iter().map(|it| {
                let mut event = serde_json::to_value(it).unwrap();
                event["delivered"] = json!(true);
                event
            });
            stored.insert(chain[0].tenant_id.clone(), events.collect());
        }
        Self {
            dir: tempfile::tempdir().unwrap(),
            stored,
        }
    }

    fn write(&self, name: &str, lines: &[String]) -> PathBuf {
        let mut text = lines.join("\n");
        text.push('\n');
        self.write_bytes(name, text.as_bytes())
    }

    fn write_bytes(&self, name: &str, content: &[u8]) -> PathBuf {
        let file = self.dir.path().join(name);
        fs::write(&file, content).unwrap();
        file
    }

    /// Judges logs without the trail.
    fn alone(&self, logs: &[&Path], options: &[&str]) -> Report {
        run(command(logs).arg("--log-only").args(options))
    }

    /// Judges logs against what is stored.
    fn against(&self, logs: &[&Path], options: &[&str]) -> Report {
        let dump = json!({"schema": 1, "mount": "smtp/", "tenants": self.stored});
        let trail = self.write_bytes("trail.json", dump.to_string().as_bytes());
        run(command(logs).arg("--trail").arg(trail).args(options))
    }

    /// One log, judged in both ways; the report against the trail.
    fn both(&self, lines: &[String]) -> Report {
        let log = self.write("audit.log", lines);
        self.alone(&[&log], &[]).proven();
        self.against(&[&log], &[])
    }
}

fn command(logs: &[&Path]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/audit-verify");
    let mut command = Command::new("python3");
    command.arg("-W").arg("error").arg(script).args(logs);
    for name in ["ADDR", "TOKEN", "CACERT", "NAMESPACE"] {
        command.env_remove(format!("BAO_{name}"));
        command.env_remove(format!("VAULT_{name}"));
    }
    command
}

fn run(command: &mut Command) -> Report {
    let output = command.arg("--json").output().expect("python3");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("Traceback"), "{said}");
    Report {
        code: output.status.code().unwrap(),
        json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        said,
    }
}

fn lines(chains: &[&[Event]]) -> Vec<String> {
    chains.iter().copied().flatten().map(emitted).collect()
}

#[test]
fn all_is_proven_in_any_order_rotated_packed_and_told_twice() {
    let (acme, mount) = (chain("acme", 9), chain("-", 3));
    let story = Story::of(&[&acme, &mount]);
    let mut all = lines(&[&acme, &mount]);
    // Answers of requests, a denied call, another mount, and a collector's flush.
    let rotated = json!({"event": "smtp_credentials_rotated", "event_id": acme[4].event_id,
        "seq": 5, "tenant": "acme"});
    all.push(answer("acme/rotate", &rotated));
    all.push(answer("acme/events", &json!({"events": acme})));
    all.push(answer("acme/status", &json!({"state": "settled"})));
    all.push(answer(
        "config/notify/ops/test",
        &json!({"event_id": "of a message"}),
    ));
    all.push(emitted(&chain("globex", 1)[0]).replace("smtp/", "other/"));
    let denied = emitted(&chain("globex", 2)[1]);
    all.push(denied.replacen("{\"auth\"", "{\"error\":\"permission denied\",\"auth\"", 1));
    all.push(flushed(&acme[2..6]));
    let replay = emitted(&acme[0]).replace("\"replayed\":false", "\"replayed\":true");
    all.push(replay);
    all.reverse();
    let report = story.both(&all).proven();
    assert_eq!(report.figure("events"), 12);
    assert_eq!(report.figure("stored"), 12);
    assert_eq!(report.figure("tenants"), 1);
    assert_eq!(report.figure("duplicates"), 5);
    assert_eq!(report.figure("replays"), 1);
    assert_eq!(report.figure("witnesses"), 10);
    assert_eq!(report.figure("broken"), 0);
    // The same in three files, one of them packed, the newest first, and one by a pipe.
    let (old, new) = all.split_at(7);
    let new = story.write("audit.log", new);
    let packed = story.dir.path().join("audit.log.1.gz");
    let plain = story.write("plain", old);
    let status = Command::new("python3")
        .args([
            "-c",
            "import gzip, sys; gzip.open(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read())",
        ])
        .args([&plain, &packed])
        .status();
    assert!(status.unwrap().success());
    story.against(&[&new, &packed], &["--complete"]).proven();
    story.alone(&[&packed, &new], &["--complete"]).proven();
    let mut piped = command(&[Path::new("-"), &packed]);
    piped.args(["--log-only", "--json"]).stdin(Stdio::piped());
    let mut child = piped.stdout(Stdio::null()).spawn().unwrap();
    let input = fs::read(&new).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(PROVEN));
    // A packed file that is cut off cannot be read to its end.
    let cut = fs::read(&packed).unwrap();
    let cut = story.write_bytes("cut.gz", &cut[..cut.len() / 2]);
    assert_eq!(story.alone(&[&new, &cut], &[]).code, UNREADABLE);
}

/// The event with the last byte of one field changed.
fn changed(event: &Event, key: &str) -> Value {
    let mut event = serde_json::to_value(event).unwrap();
    event[key] = match &event[key] {
        Value::Number(number) => json!(number.as_u64().unwrap() ^ 1),
        text => {
            let mut text = text.as_str().unwrap().to_owned();
            let last = text.pop().unwrap();
            text.push(char::from(last as u8 ^ 1));
            json!(text)
        }
    };
    event
}

#[test]
fn a_changed_byte_in_any_clear_field_is_named_with_its_line() {
    let stored = serde_json::to_value(&chain("acme", 1)[0]).unwrap();
    let present = EXEMPT_RESPONSE_KEYS
        .iter()
        .filter(|key| !stored[**key].is_null());
    let mut keys: Vec<&str> = present.copied().collect();
    keys.extend(["version", "previous_version"]);
    assert_eq!(
        keys.len(),
        18,
        "every clear field, the hash included: {keys:?}"
    );
    // A tenant for each field: in its third event that field is changed.
    let tenant = |at: usize| format!("tenant-{at:02}");
    let chains: Vec<Vec<Event>> = (0..keys.len()).map(|at| chain(&tenant(at), 5)).collect();
    let chains: Vec<&[Event]> = chains.iter().map(Vec::as_slice).collect();
    let story = Story::of(&chains);
    for flush in [false, true] {
        let mut all = lines(&chains);
        for (at, key) in keys.iter().enumerate() {
            let event = changed(&chains[at][2], key);
            all[at * 5 + 2] = if flush {
                answer("events/flush", &json!({"events": [event]}))
            } else {
                answer(&format!("events/emit/{}/3", tenant(at)), &event)
            };
        }
        let log = story.write("audit.log", &all);
        for report in [story.alone(&[&log], &[]), story.against(&[&log], &[])] {
            let report = report.broken();
            let broken = report.json["broken"].as_array().unwrap();
            for (at, key) in keys.iter().enumerate() {
                let line = at * 5 + 3;
                let mut here = broken.iter().filter(|it| it["line"] == line);
                let named = here.next().unwrap_or_else(|| panic!("{key}: {broken:#?}"));
                assert_eq!(named["kind"], "hash", "{key}");
                assert!(named["file"].as_str().unwrap().ends_with("audit.log"));
                if !flush {
                    // The request's path says which event it should have been.
                    assert_eq!(
                        (&named["tenant"], &named["seq"]),
                        (&json!(tenant(at)), &json!(3))
                    );
                }
            }
            // Without its number or tenant in a flush, it is also missed where it belongs.
            let expected = if flush { keys.len() + 2 } else { keys.len() };
            assert_eq!(broken.len(), expected, "and nothing else: {broken:#?}");
        }
        // The one that is named first is the first of the file, and only it is shown.
        let output = command(&[&log]).arg("--log-only").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let first = text.lines().nth(1).unwrap();
        assert!(first.contains("audit.log:3: tenant"), "{text}");
        assert!(
            text.contains(&format!("and {} more", if flush { 19 } else { 17 })),
            "{text}"
        );
    }
}

#[test]
fn an_event_under_another_name_is_not_that_event() {
    let acme = chain("acme", 3);
    let story = Story::of(&[&acme]);
    let mut all = lines(&[&acme]);
    all[1] = all[0].replace("emit/acme/1", "emit/acme/2");
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]).broken();
    let expected = (
        String::from("path"),
        String::from("audit.log"),
        2,
        String::from("acme"),
        2,
    );
    assert_eq!(report.first(), expected);
    assert_eq!(story.alone(&[&log], &[]).broken().first(), expected);
}

#[test]
fn a_removed_line_is_missed() {
    let (acme, globex) = (chain("acme", 5), chain("globex", 2));
    let story = Story::of(&[&acme, &globex]);
    let mut all = lines(&[&acme, &globex]);
    all.remove(3);
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]).broken();
    assert_eq!(report.kinds(), ["missing"]);
    assert_eq!(report.first().4, 4);
    assert_eq!(
        report.json["broken"][0]["event_id"],
        json!(acme[3].event_id)
    );
    let report = story.alone(&[&log], &[]).broken();
    assert_eq!(report.kinds(), ["gap"]);
    assert_eq!(report.first().2, 4, "the line after it");
    // Another tenant's log is not touched by it.
    story.against(&[&log], &["--tenant", "globex"]).proven();
    // The last one, and a tenant as a whole: only the trail knows.
    let log = story.write("audit.log", &lines(&[&acme[..4], &globex]));
    story.alone(&[&log], &[]).proven();
    assert_eq!(story.against(&[&log], &[]).broken().kinds(), ["missing"]);
    let log = story.write("audit.log", &lines(&[&acme]));
    story.alone(&[&log], &[]).proven();
    let report = story.against(&[&log], &[]).broken();
    assert_eq!(report.kinds(), ["missing", "missing"]);
    assert_eq!(report.first().3, "globex");
    // Older than what the operator still has.
    let after = "2026-09-21T15:00:00Z";
    story.against(&[&log], &["--since", after]).proven();
    // Newer than the copy of the log: the two last events of acme are of the seconds 23 and 24.
    let log = story.write("audit.log", &lines(&[&acme[..3], &globex]));
    let before = "2026-09-21T14:13:22.5Z";
    story.against(&[&log], &["--until", before]).proven();
    let report = story.against(&[&log], &["--until", "2026-09-21T14:13:23.5Z"]);
    assert_eq!(report.broken().kinds(), ["missing"]);
    let wrong = story.against(&[&log], &["--until", "yesterday"]);
    assert_eq!(wrong.code, UNREADABLE);
}

/// A line that only looks like hashed events excuses nothing that is missing.
#[test]
fn hashed_events_stand_for_no_more_than_they_are() {
    let (acme, globex) = (chain("acme", 5), chain("globex", 5));
    let story = Story::of(&[&acme, &globex]);
    let mut all = lines(&[&acme[..4], &globex[..4]]);
    let fifth = |event_id: &str| {
        let event = json!({
            "tenant_id": event_id, "event_id": event_id, "event": event_id, "seq": 5,
        });
        json!({"events": [event], "receipt": "r"})
    };
    // No HMAC of a device looks like this.
    all.push(answer("events/flush", &fifth("hmac-sha256:0")));
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]).broken();
    assert!(report.kinds().contains(&"missing"), "{}", report.json);
    all.pop();
    // One hashed event is one of the two that are missing, not both.
    all.push(answer_hashed("events/flush", &fifth("x"), &[]));
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]).broken();
    assert_eq!(report.kinds(), ["missing"], "{}", report.json);
    assert_eq!(report.figure("hashed"), 1);
}

#[test]
fn a_log_that_begins_later_is_told_and_complete_forbids_it() {
    let acme = chain("acme", 6);
    let mut story = Story::of(&[&acme]);
    let log = story.write("audit.log", &lines(&[&acme[3..]]));
    let report = story.alone(&[&log], &[]).proven();
    assert!(
        report.json["notes"]
            .to_string()
            .contains("begin with seq 4")
    );
    assert_eq!(
        story.alone(&[&log], &["--complete"]).broken().kinds(),
        ["gap"]
    );
    assert_eq!(story.against(&[&log], &[]).broken().kinds(), ["missing"; 3]);
    // The trail begins later than the log: its retention is over.
    story.stored.get_mut("acme").unwrap().drain(..3);
    let log = story.write("audit.log", &lines(&[&acme]));
    let report = story.against(&[&log], &[]).proven();
    assert!(
        report.json["notes"]
            .to_string()
            .contains("trail begins with seq 4")
    );
    // What is older than the trail is still held to its chain, across the border too.
    let log = story.write("audit.log", &lines(&[&acme[..1], &acme[2..]]));
    assert_eq!(story.against(&[&log], &[]).broken().kinds(), ["gap"]);
    let other = branch("acme", "other", 0, 3);
    let log = story.write("audit.log", &lines(&[&other, &acme[3..]]));
    let report = story.against(&[&log], &[]).broken();
    assert_eq!(report.first().4, 4, "{}", report.json);
}

#[test]
fn forged_events_and_forks_are_found() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    // A fifth event that fits the chain, and a tenant that is nowhere stored.
    let longer = chain("acme", 5);
    assert_eq!(acme[3], longer[3]);
    let report = story.both(&lines(&[&longer])).broken();
    assert_eq!(report.kinds(), ["not_stored"]);
    assert_eq!((report.first().2, report.first().4), (5, 5));
    let report = story.both(&lines(&[&acme, &chain("globex", 1)])).broken();
    assert_eq!(report.first().3, "globex");
    // Storage went back by one event and went on: both branches are in the log.
    let mut both = lines(&[&acme]);
    let restored = branch("acme", "second", 3, 5);
    both.extend(lines(&[&restored[3..]]));
    let log = story.write("audit.log", &both);
    let report = story.alone(&[&log], &[]).broken();
    assert_eq!(report.kinds(), ["fork"]);
    assert_eq!(report.first().2, 5);
    assert!(
        report.json["broken"][0]["what"]
            .to_string()
            .contains("audit.log:4")
    );
    // Only the new branch is in the log, the trail has the old one.
    let report = story.both(&lines(&[&restored])).broken();
    assert_eq!(report.first().4, 4);
    // A new lineage that goes on where the old one ended is as it should be.
    Story::of(&[&restored]).both(&lines(&[&restored])).proven();
    // Changed and hashed anew: the next one does not follow.
    let mut changed = acme.clone();
    changed[1].version = Some(99);
    changed[1].hash = hash_of(&serde_json::to_value(&changed[1]).unwrap());
    let log = story.write("audit.log", &lines(&[&changed]));
    let report = story.alone(&[&log], &[]).broken();
    assert_eq!((report.kinds(), report.first().2), (vec!["chain"], 3));
    let report = story.against(&[&log], &[]).broken();
    assert_eq!(
        report.first().2,
        2,
        "the trail knows which of the two it is"
    );
    // The first one has nothing before it, and an identifier is used once.
    let log = story.write("audit.log", &lines(&[&other_first(&acme)]));
    assert_eq!(story.alone(&[&log], &[]).broken().kinds(), ["chain"]);
    let mut twice = acme.clone();
    twice[3].event_id.clone_from(&acme[0].event_id);
    rehash(&mut twice);
    let log = story.write("audit.log", &lines(&[&twice]));
    assert_eq!(story.alone(&[&log], &[]).broken().kinds(), ["reused_id"]);
}

fn other_first(events: &[Event]) -> Vec<Event> {
    let mut event = events[0].clone();
    event.prev_hash = "1".repeat(64);
    event.hash = hash_of(&serde_json::to_value(&event).unwrap());
    vec![event]
}

#[test]
fn the_trail_is_judged_too() {
    let acme = chain("acme", 5);
    let all = lines(&[&acme]);
    let mut story = Story::of(&[&acme]);
    story.stored.get_mut("acme").unwrap()[2]["user_id"] = json!("somebody-else");
    let report = story.both(&all).broken();
    assert_eq!(report.kinds(), ["hash"]);
    let (_, file, line, _, seq) = report.first();
    assert_eq!((file.as_str(), line, seq), ("trail", 0, 3));
    // An event that the trail lost is in the log and not stored.
    let mut story = Story::of(&[&acme]);
    story.stored.get_mut("acme").unwrap().remove(2);
    let report = story.both(&all).broken();
    assert_eq!(report.kinds(), ["not_stored", "gap"]);
}

#[test]
fn what_was_not_delivered_yet_waits() {
    let acme = chain("acme", 5);
    let mut story = Story::of(&[&acme]);
    for at in [2, 4] {
        story.stored.get_mut("acme").unwrap()[at]["delivered"] = json!(false);
    }
    // Number 5 is in the log already: its acknowledgement is under way.
    let mut all = lines(&[&acme]);
    all.remove(2);
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]);
    assert_eq!(report.code, WAITING, "{}", report.json);
    assert_eq!(
        report.json["waiting"],
        json!([{"tenant": "acme", "seq": 3}])
    );
    // The text for people says so too.
    let trail = story.dir.path().join("trail.json");
    let output = command(&[&log]).arg("--trail").arg(trail).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("waiting for their delivery: acme seq 3\n"),
        "{text}"
    );
}

#[test]
fn answers_are_witnesses_of_what_is_stored() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let mut all = lines(&[&acme]);
    let forged = json!({"event": "smtp_credentials_rotated", "event_id": "01KFORGED"});
    all.push(answer("acme/rotate", &forged));
    let report = story.both(&all).broken();
    assert_eq!(report.kinds(), ["witness"]);
    let (_, _, line, tenant, _) = report.first();
    assert_eq!((line, tenant.as_str()), (3, "acme"));
    assert_eq!(report.json["broken"][0]["event_id"], "01KFORGED");
    // Not in clear, it says nothing.
    all[2] = answer_hashed("acme/rotate", &forged, &[]);
    story.both(&all).proven();
    // Without the trail, an event that was named and never delivered is at least told.
    let log = story.write("audit.log", &lines(&[&acme[..1]]));
    let more = story.write(
        "more.log",
        &[answer("acme/events", &json!({"events": acme}))],
    );
    let report = story.alone(&[&log, &more], &[]).proven();
    assert!(
        report.json["notes"]
            .to_string()
            .contains("1 events are named in answers")
    );
}

#[test]
fn keys_that_are_not_exempt_are_explained() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    let data = |event: &Event| serde_json::to_value(event).unwrap();
    let bare = |event: &Event| {
        let path = format!("events/emit/acme/{}", event.seq);
        answer_hashed(&path, &data(event), &[])
    };
    let log = story.write("audit.log", &acme.iter().map(bare).collect::<Vec<_>>());
    for report in [story.alone(&[&log], &[]), story.against(&[&log], &[])] {
        assert_eq!(report.code, KEYS_MISSING, "{}{}", report.json, report.said);
        assert_eq!(report.figure("hashed"), 4);
        let keys = report.json["hashed_keys"].as_array().unwrap();
        assert!(keys.contains(&json!("event_id")), "{keys:?}");
    }
    let output = command(&[&log]).arg("--log-only").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("lacks audit_non_hmac_response_keys for: "),
        "{text}"
    );
    assert!(text.contains("sys/mounts/smtp/tune"), "{text}");
    // One key of an older list, in a flush.
    let most: Vec<&str> = EXEMPT_RESPONSE_KEYS
        .into_iter()
        .filter(|it| *it != "error_code")
        .collect();
    let flush = answer_hashed("events/flush", &json!({"events": acme}), &most);
    let log = story.write("audit.log", std::slice::from_ref(&flush));
    let report = story.against(&[&log], &[]);
    assert_eq!((report.code, report.figure("hashed")), (KEYS_MISSING, 4));
    assert_eq!(report.json["hashed_keys"], json!(["error_code"]));
    // Set too late for two of them; written once more, those are proven as well.
    let mut all = vec![bare(&acme[0]), bare(&acme[1])];
    all.extend(lines(&[&acme[2..]]));
    let log = story.write("audit.log", &all);
    for report in [story.alone(&[&log], &[]), story.against(&[&log], &[])] {
        assert_eq!((report.code, report.figure("hashed")), (KEYS_MISSING, 2));
    }
    all.extend(lines(&[&acme[..2]]));
    story.both(&all).proven();
}

#[test]
fn foreign_lines_are_a_note_and_a_cut_last_line_is_a_warning() {
    let acme = chain("acme", 3);
    let story = Story::of(&[&acme]);
    let mut all = lines(&[&acme]);
    let cut = format!("{}\n{}", all.join("\n"), &all[1][..200]);
    let log = story.write_bytes("audit.log", cut.as_bytes());
    let report = story.against(&[&log], &[]).proven();
    assert!(report.json["warnings"].to_string().contains("cut off"));
    let log = story.write_bytes("audit.log", format!("{cut}\n\n{}\n", all[1]).as_bytes());
    let report = story.against(&[&log], &[]).proven();
    assert!(
        report.json["notes"]
            .to_string()
            .contains("audit.log:4 is no")
    );
    assert_eq!(report.figure("foreign"), 1);
    for garbage in [b"[1]".as_slice(), b"\xff\xfe{", b"{\"a\":", &[b'['; 9999]] {
        let content = [garbage, b"\n", all.join("\n").as_bytes(), b"\n"].concat();
        let log = story.write_bytes("audit.log", &content);
        for report in [story.against(&[&log], &[]), story.alone(&[&log], &[])] {
            let report = report.proven();
            assert!(
                report.json["notes"]
                    .to_string()
                    .contains("audit.log:1 is no")
            );
        }
    }
    // A prefix is none; a key twice is: readers would not agree.
    all[0] = format!("<13>Nov 21 bao[7]: {}", all[0]);
    let report = story.both(&all).proven();
    assert!(
        report.json["notes"]
            .to_string()
            .contains("1 lines have a prefix")
    );
    all[2] = all[2].replace("\"seq\":3", "\"seq\":4,\"seq\":3");
    let log = story.write("audit.log", &all);
    assert_eq!(story.against(&[&log], &[]).broken().first().2, 3);
    // Lines in the right place of a wrong shape are taken as they are: no event.
    for shape in [
        json!(null),
        json!([]),
        json!("x"),
        json!({"events": {"a": 1}}),
        json!({"event_id": 5}),
    ] {
        all[2] = emitted(&acme[2]);
        let mut line: Value = serde_json::from_str(&all[2]).unwrap();
        line["response"]["data"] = shape;
        all.push(line.to_string());
    }
    let log = story.write("audit.log", &all);
    assert_eq!(
        story.against(&[&log], &[]).broken().kinds(),
        ["fields"],
        "the event without fields"
    );
}

/// It is said where what is missed may be.
#[test]
fn an_event_in_a_cut_line_is_missed() {
    let acme = chain("acme", 3);
    let story = Story::of(&[&acme]);
    let all = lines(&[&acme]);
    let hole = [&all[0], &all[1][..200], &all[2]].map(str::to_owned);
    let log = story.write("audit.log", &hole);
    let report = story.against(&[&log], &[]).broken();
    assert_eq!((report.kinds(), report.first().4), (vec!["missing"], 2));
    assert!(report.json["notes"].to_string().contains("may be in lines"));
    assert_eq!(story.alone(&[&log], &[]).broken().kinds(), ["gap"]);
}

/// A host's line with these bytes for the body of the request, and with those of its answer.
fn with_bodies(line: &str, request: &[u8], response: Option<&[u8]>) -> Vec<u8> {
    let mut line: Value = serde_json::from_str(line).unwrap();
    line["request"]["data"] = json!("@1");
    if response.is_some() {
        line["response"]["data"] = json!("@2");
    }
    let mut line = line.to_string().into_bytes();
    for (mark, body) in [(b"\"@1\"", Some(request)), (b"\"@2\"", response)] {
        if let Some(body) = body {
            let at = line.windows(4).position(|it| it == mark).unwrap();
            line.splice(at..at + 4, body.iter().copied());
        }
    }
    line.push(b'\n');
    line
}

#[test]
fn what_strangers_had_the_host_write_breaks_no_proof() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    let witness = json!({"event": "smtp_credentials_rotated", "event_id": acme[3].event_id});
    let mut all = bodies();
    // All that OpenBao and Vault 1.15 let through.
    all.push((String::from("10000 lists"), nested(10_000).into_bytes()));
    let count = all.len();
    let (mut log, mut broken) = (Vec::new(), Vec::new());
    for (_, body) in all {
        for line in lines(&[&acme]) {
            // Whoever calls `events/emit` can give a body of his own.
            log.extend(with_bodies(&line, &body, None));
        }
        log.extend(with_bodies(&answer("acme/reset", &json!({})), &body, None));
        log.extend(with_bodies(&answer("acme/rotate", &witness), &body, None));
        // Another engine answers what it was given, and an odd one at the mount too.
        let other = answer("x", &json!({})).replace("smtp/x", "sys/wrapping/unwrap");
        log.extend(with_bodies(&other, b"null", Some(&body)));
        log.extend(with_bodies(
            &answer("acme/x", &json!({})),
            &body,
            Some(&body),
        ));
        // What is broken is found all the same.
        let forged = emitted(&acme[2]).replace("\"outcome\":\"", "\"outcome\":\"-");
        broken.extend(with_bodies(&forged, &body, None));
        let twice = emitted(&acme[3]).replace("\"seq\":4", "\"seq\":5,\"seq\":4");
        let (start, end) = twice.split_once("\"path\":").unwrap();
        let twice = [
            start.as_bytes(),
            b"\"data\":",
            &body,
            b",\"path\":",
            end.as_bytes(),
        ];
        broken.extend(twice.concat());
        broken.push(b'\n');
    }
    let log = story.write_bytes("audit.log", &log);
    for report in [story.alone(&[&log], &[]), story.against(&[&log], &[])] {
        let report = report.proven();
        let figures = ["lines", "events", "witnesses"].map(|it| report.figure(it));
        assert_eq!(figures, [8 * count as u64, 4, count as u64]);
    }
    let broken = story.write_bytes("broken.log", &broken);
    let report = story.alone(&[&broken], &[]).broken();
    assert_eq!(
        report.kinds(),
        ["hash", "fields"].repeat(count),
        "{}",
        report.json
    );
}

#[test]
fn a_body_hides_no_event_that_is_missed() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    for levels in LEVELS {
        let mut all = lines(&[&acme]);
        all.remove(2);
        let body = format!("{{\"junk\":{}}}", nested(levels));
        let log: Vec<Vec<u8>> = all
            .iter()
            .map(|line| with_bodies(line, body.as_bytes(), None))
            .collect();
        let log = story.write_bytes("audit.log", &log.concat());
        let report = story.against(&[&log], &[]).broken();
        assert_eq!((report.kinds(), report.first().4), (vec!["missing"], 3));
    }
}

#[test]
fn what_is_no_audit_line_is_told_once_a_log() {
    let acme = chain("acme", 3);
    let story = Story::of(&[&acme]);
    let cut = |address: &str| {
        let request = format!("\"path\":\"smtp/acme/reset\",\"remote_address\":\"{address}\"");
        format!("{{\"type\":\"request\",\"request\":{{{request},\"data\":{{\"junk\":[[")
    };
    let mut all = lines(&[&acme]);
    all.insert(1, cut("203.0.113.9"));
    all.insert(3, String::from("garbage"));
    all.push(cut("198.51.100.7"));
    let log = story.write("audit.log", &all);
    let report = story.against(&[&log], &[]).proven();
    let notes = report.json["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    let note = notes[0].as_str().unwrap();
    let told = "audit.log:2 is no audit line, nor are 2 more up to line 6; \
        from 198.51.100.7, 203.0.113.9";
    assert!(note.ends_with(told), "{note}");
    assert_eq!((report.figure("events"), report.figure("foreign")), (3, 3));
    // One without any is no audit log: nothing is said about the others.
    let other = story.write("other.log", &[String::from("[1]")]);
    let report = story.against(&[&log, &other], &[]);
    assert_eq!(report.code, UNREADABLE, "{}", report.json);
    assert!(
        report.said.contains("other.log: has no audit line"),
        "{}",
        report.said
    );
}

#[test]
fn lines_are_proven_whatever_is_around_them() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    let mut all = lines(&[&acme]);
    all.push(answer("acme/status", &json!({"state": "settled"})));
    let mut forged = all.clone();
    forged[2] = forged[2].replace("\"outcome\":\"", "\"outcome\":\"-");
    let kept = kept_by(&all).into_iter().zip(kept_by(&forged));
    for ((who, log), (_, forged)) in kept {
        let log = story.write_bytes("audit.log", &log);
        for report in [story.against(&[&log], &[]), story.alone(&[&log], &[])] {
            assert_eq!(report.code, PROVEN, "{who}: {}{}", report.json, report.said);
            let figures = ["lines", "events", "foreign"].map(|it| report.figure(it));
            assert_eq!(figures, [5, 4, 0], "{who}");
        }
        // What is in them is judged as without.
        let log = story.write_bytes("audit.log", &forged);
        for report in [story.against(&[&log], &[]), story.alone(&[&log], &[])] {
            assert_eq!(report.code, BROKEN, "{who}: {}{}", report.json, report.said);
            assert!(report.kinds().contains(&"hash"), "{who}: {}", report.json);
        }
    }
    // The log of the server itself between them: no line of it accuses anybody.
    let server = [
        "2026-11-21T20:06:58.045Z [INFO]  core: vault is unsealed {\"a\":1}",
        "{\"@level\":\"info\",\"@message\":\"core: post-unseal setup complete\"}",
        "",
    ];
    let between = |it: &String| [it.as_str(), server[0], server[1], server[2]].join("\n");
    let log = story.write("audit.log", &all.iter().map(between).collect::<Vec<_>>());
    let report = story.against(&[&log], &[]).proven();
    assert_eq!(report.figure("foreign"), 10);
}

/// What a stranger had the host write looks like a line of its own only to a careless reader.
#[test]
fn an_event_in_a_body_is_none() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let all = lines(&[&acme]);
    for prefix in ["", "bao-1: ", "{bao-1} "] {
        let body = format!("{{\"a\":{}}}", all[1]);
        let mut log = format!("{prefix}{}\n", all[0]).into_bytes();
        log.extend(prefix.as_bytes());
        log.extend(with_bodies(
            &answer("acme/x", &json!({})),
            body.as_bytes(),
            None,
        ));
        // Cut off right after it by something on the way.
        log.extend(prefix.as_bytes());
        let line = with_bodies(&answer("acme/x", &json!({})), body.as_bytes(), None);
        let at = line.windows(4).position(|it| it == b"\"a\":").unwrap() + 4;
        log.extend(&line[..at + all[1].len()]);
        log.push(b'\n');
        let log = story.write_bytes("audit.log", &log);
        let report = story.against(&[&log], &[]).broken();
        assert_eq!(report.kinds(), ["missing"], "{prefix}: {}", report.json);
    }
}

#[test]
fn what_is_no_audit_log_gets_no_verdict() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let all = lines(&[&acme]).join("\n");
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(all.encode_utf16())
        .flat_map(u16::to_be_bytes)
        .collect();
    let unknown = format!("{}\n", json!({"x": all}));
    for log in [
        utf16,
        unknown.into_bytes(),
        b"BZh91AY&SY".to_vec(),
        b"{}x{}\n".to_vec(),
    ] {
        let log = story.write_bytes("audit.log", &log);
        for report in [story.against(&[&log], &[]), story.alone(&[&log], &[])] {
            assert_eq!(report.code, UNREADABLE, "{}{}", report.json, report.said);
            assert!(report.said.contains("audit.log: "), "{}", report.said);
        }
    }
}

#[test]
fn a_proof_of_nothing_is_none() {
    let acme = chain("acme", 3);
    let story = Story::of(&[&acme]);
    let log = story.write("audit.log", &lines(&[&acme]));
    let empty = story.write_bytes("empty.log", b"");
    let none = Story::of(&[]);
    let long_after = ["--since", "2027-01-01T00:00:00Z"];
    for (report, said) in [
        (none.against(&[&empty], &[]), "is stored"),
        (none.against(&[], &["--all"]), "name the audit logs"),
        (
            story.against(&[&log], &["--tenant", "nobody"]),
            "of tenant nobody",
        ),
        (
            story.alone(&[&log], &["--tenant", "nobody"]),
            "of tenant nobody",
        ),
        (story.alone(&[&empty], &[]), "the logs have no event"),
        // Nothing that is stored is of the time for which there is a log.
        (story.against(&[&empty], &long_after), "of the logs' time"),
    ] {
        assert_eq!(report.code, UNREADABLE, "{said}: {}", report.json);
        assert!(report.said.contains(said), "{said}: {}", report.said);
    }
    story.against(&[&log], &long_after).proven();
}

#[test]
fn mounts_are_told_apart_and_a_moved_one_is_followed() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    let mut all = lines(&[&acme]);
    let moved = |line: &String, mount: &str| line.replace("\"smtp/", &format!("\"{mount}"));
    // Another engine with the same tenant at another mount.
    let others = branch("acme", "other", 0, 4);
    all.extend(lines(&[&others]).iter().map(|it| moved(it, "mail/")));
    story.both(&all).proven();
    // Moved after two events.
    let mut all = lines(&[&acme[..2]]);
    all.extend(
        lines(&[&acme[2..]])
            .iter()
            .map(|it| moved(it, "post/office/")),
    );
    let log = story.write("audit.log", &all);
    story.against(&[&log], &[]).broken();
    let both = ["--mount", "post/office", "--mount", "smtp/"];
    story.against(&[&log], &both).proven();
    // In a namespace the host writes the path without it.
    let log = story.write(
        "audit.log",
        &lines(&[&acme])
            .iter()
            .map(|it| it.replace("{\"id\":\"root\"}", "{\"id\":\"W\",\"path\":\"team1/\"}"))
            .collect::<Vec<_>>(),
    );
    story.alone(&[&log], &["--mount", "team1/smtp"]).proven();
    assert_eq!(
        story.alone(&[&log], &[]).code,
        UNREADABLE,
        "no event of this mount"
    );
}

#[test]
fn lines_of_a_real_server_are_understood() {
    let answers: Vec<Value> = ANSWERS
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    // The recorded reads of the events, made into what is stored.
    let mut stored = BTreeMap::new();
    for line in &answers {
        let events = line["response"]["data"]["events"].as_array();
        for event in events.into_iter().flatten() {
            stored.insert(event["seq"].as_u64().unwrap(), event.clone());
        }
    }
    assert!(stored.len() > 10, "{}", stored.len());
    let emit = |event: &Value| {
        let mut line = answers
            .iter()
            .find(|it| it["response"]["data"]["events"].is_array());
        let mut line = line.take().unwrap().clone();
        line["request"]["path"] = json!(format!("smtp/events/emit/acme/{}", event["seq"]));
        line["response"]["data"] = event.clone();
        line.to_string()
    };
    let mut story = Story::of(&[]);
    story
        .stored
        .insert(String::from("acme"), stored.values().cloned().collect());
    let mut all: Vec<String> = stored.values().map(emit).collect();
    all.extend(ANSWERS.lines().map(str::to_owned));
    let report = story.both(&all).proven();
    assert_eq!(report.figure("events"), stored.len() as u64);
    assert!(report.figure("witnesses") > 10);
    // Without the last one, the answer that named it is a witness.
    story.stored.get_mut("acme").unwrap().pop();
    all.retain(|line| !line.contains(&format!("emit/acme/{}\"", stored.len())));
    assert_eq!(story.both(&all).broken().kinds(), ["witness"]);
}

#[test]
fn what_cannot_be_read_is_said_and_no_verdict() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let log = story.write("audit.log", &lines(&[&acme]));
    let absent = story.dir.path().join("absent");
    assert_eq!(story.against(&[&absent], &[]).code, UNREADABLE);
    assert_eq!(
        run(&mut command(&[&log])).code,
        UNREADABLE,
        "no server is named"
    );
    assert_eq!(
        run(command(&[&log]).arg("--trail").arg(&log)).code,
        UNREADABLE
    );
    assert_eq!(run(command(&[]).arg("--log-only")).code, UNREADABLE);
    assert_eq!(
        run(command(&[&log, &log]).arg("--log-only")).code,
        UNREADABLE
    );
    let other = story.against(&[&log], &["--mount", "other/"]);
    assert_eq!(other.code, UNREADABLE, "the trail is of another mount");
}

/// A host that answers pages of two, as the contract of the paths says.
struct Served {
    chains: BTreeMap<String, Vec<Value>>,
    mount: String,
}

impl Served {
    fn answer(&self, request: &Request) -> Option<Value> {
        let uri = request.uri();
        let path = uri.path().strip_prefix(&format!("/v1/{}", self.mount))?;
        let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let query: BTreeMap<String, String> = query.into_owned().collect();
        let after = query.get("after").map_or("", String::as_str);
        if request.method().as_str() == "LIST" {
            assert_eq!(path, "tenants");
            let names = self.chains.keys().filter(|it| *it != "-");
            let left: Vec<_> = names.filter(|it| it.as_str() > after).collect();
            return (!left.is_empty()).then(|| json!({ "keys": left }));
        }
        let tenant = match path {
            "events" => query.get("tenant")?.clone(),
            of_tenant => of_tenant.strip_suffix("/events")?.to_owned(),
        };
        let mut left = self.chains.get(&tenant)?.clone();
        if let Ok(after) = after.trim_start_matches("before ").parse::<u64>() {
            left.retain(|event| event["seq"].as_u64().unwrap() < after);
        }
        left.reverse();
        let more = left.len() > 2;
        left.truncate(2);
        let next = &left.last()?["seq"];
        let next = match (more, path) {
            (false, _) => json!(null),
            (true, "events") => json!(format!("before {next}")),
            (true, _) => next.clone(),
        };
        Some(json!({"events": left, "next": next}))
    }
}

async fn serve(State(served): State<Arc<Served>>, request: Request) -> Response {
    let token = request.headers().get("x-vault-token");
    if token.is_none_or(|it| it != "s.of-the-auditor") {
        return (StatusCode::FORBIDDEN, r#"{"errors":["permission denied"]}"#).into_response();
    }
    if !request
        .uri()
        .path()
        .starts_with(&format!("/v1/{}", served.mount))
    {
        let text = r#"{"errors":["no handler for route"]}"#;
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match served.answer(&request) {
        Some(data) => json!({ "data": data }).to_string().into_response(),
        None => (StatusCode::NOT_FOUND, r#"{"errors":[]}"#).into_response(),
    }
}

async fn in_background(mut command: Command) -> Report {
    let ran = tokio::task::spawn_blocking(move || run(&mut command));
    ran.await.unwrap()
}

#[tokio::test]
async fn the_trail_is_read_from_a_server_in_pages_and_kept() {
    let (acme, globex, mount) = (chain("acme", 5), chain("globex", 2), chain("-", 4));
    let story = Story::of(&[&acme, &globex, &mount]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(Served {
        chains: story.stored.clone(),
        mount: String::from("smtp/"),
    });
    let router = Router::new().fallback(serve).with_state(served);
    let tasks = Tasks::new();
    let server = tasks.spawn(async move { axum::serve(listener, router).await });
    let mut all = lines(&[&acme, &globex, &mount]);
    let log = story.write("audit.log", &all);
    let kept = story.dir.path().join("kept.json");
    let asked = |token: &str, logs: &[&Path]| {
        let mut asked = command(logs);
        asked.env("BAO_ADDR", &address).env("BAO_TOKEN", token);
        asked
    };
    let mut dumping = asked("s.of-the-auditor", &[&log]);
    dumping.arg("--dump-trail").arg(&kept);
    let report = in_background(dumping).await.proven();
    assert_eq!((report.figure("stored"), report.figure("tenants")), (11, 2));
    let mut offline = command(&[&log]);
    offline.arg("--trail").arg(&kept);
    in_background(offline).await.proven();
    let dump: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(dump["tenants"], json!(story.stored));
    assert_eq!(
        (&dump["schema"], &dump["mount"]),
        (&json!(1), &json!("smtp/"))
    );
    // A line less, and one that nobody stored: also by the server's own word.
    all.remove(0);
    all.push(emitted(&chain("nobody", 1)[0]));
    let log = story.write("audit.log", &all);
    let report = in_background(asked("s.of-the-auditor", &[&log]))
        .await
        .broken();
    assert_eq!(report.kinds(), ["not_stored", "missing"]);
    // Refused, or another mount: no verdict, and the token is not repeated.
    let report = in_background(asked("s.of-somebody", &[&log])).await;
    assert_eq!(report.code, UNREADABLE);
    assert!(
        report.said.contains("HTTP 403") && !report.said.contains("s.of"),
        "{}",
        report.said
    );
    let mut elsewhere = asked("s.of-the-auditor", &[&log]);
    elsewhere.args(["--mount", "mail/"]);
    let report = in_background(elsewhere).await;
    assert_eq!(report.code, UNREADABLE, "{}", report.json);
    assert!(report.said.contains("does not exist"), "{}", report.said);
    server.abort();
}

/// A host that has this mount, and what is stored in it.
async fn host(mount: &str, story: &Story) -> (String, impl Drop + use<>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(Served {
        chains: story.stored.clone(),
        mount: mount.to_owned(),
    });
    let router = Router::new().fallback(serve).with_state(served);
    let tasks = Tasks::new();
    let server = tasks.spawn(async move { axum::serve(listener, router).await });
    (address, Stopped(move || server.abort()))
}

struct Stopped<F: Fn()>(F);

impl<F: Fn()> Drop for Stopped<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[tokio::test]
async fn the_namespace_is_part_of_what_is_asked_and_shown() {
    let acme = chain("acme", 4);
    let story = Story::of(&[&acme]);
    let (address, _running) = host("team1/smtp/", &story).await;
    let inside =
        |it: &String| it.replace("{\"id\":\"root\"}", "{\"id\":\"W\",\"path\":\"team1/\"}");
    let log = story.write(
        "audit.log",
        &lines(&[&acme]).iter().map(inside).collect::<Vec<_>>(),
    );
    let asked = |namespace: &str, mount: &[&str]| {
        let mut asked = command(&[&log]);
        asked.env("BAO_ADDR", &address).args(mount);
        asked.env("BAO_TOKEN", "s.of-the-auditor");
        if !namespace.is_empty() {
            asked.env("BAO_NAMESPACE", namespace);
        }
        in_background(asked)
    };
    for (namespace, mount) in [
        ("team1", &[][..]),
        ("team1/", &["--mount", "smtp"]),
        ("team1", &["--mount", "team1/smtp/"]),
        ("", &["--mount", "team1/smtp"]),
        ("root", &["--mount", "team1/smtp"]),
    ] {
        let report = asked(namespace, mount).await;
        assert_eq!(
            report.code, PROVEN,
            "{namespace} {mount:?}: {}{}",
            report.json, report.said
        );
        assert_eq!(report.json["mounts"], json!(["team1/smtp/"]));
        assert_eq!(report.figure("stored"), 4);
    }
    // Another namespace, none, and one inside another: no proof of nothing.
    for (namespace, mount) in [
        ("team2", &[][..]),
        ("", &[]),
        ("other", &["--mount", "team1/smtp"]),
    ] {
        let report = asked(namespace, mount).await;
        assert_eq!(report.code, UNREADABLE, "{namespace}: {}", report.json);
        assert!(report.said.contains("namespace right?"), "{}", report.said);
        let whole = format!("{address}/v1/{namespace}");
        assert!(report.said.contains(&whole), "{}", report.said);
    }
}

#[tokio::test]
async fn a_host_that_has_nothing_stored_proves_nothing() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let (address, _running) = host("smtp/", &Story::of(&[])).await;
    let empty = story.write_bytes("empty.log", b"");
    let dump = story.dir.path().join("dump.json");
    for arguments in [
        vec![empty.as_os_str()],
        vec!["--dump-trail".as_ref(), dump.as_os_str()],
    ] {
        let mut asked = command(&[]);
        asked.env("BAO_ADDR", &address).args(arguments);
        asked.env("BAO_TOKEN", "s.of-the-auditor");
        let report = in_background(asked).await;
        assert_eq!(report.code, UNREADABLE, "{}", report.json);
        assert!(
            report.said.contains("is stored at smtp/"),
            "{}",
            report.said
        );
    }
}

#[tokio::test]
async fn no_message_has_a_secret_in_it() {
    let acme = chain("acme", 2);
    let story = Story::of(&[&acme]);
    let (address, _running) = host("smtp/", &story).await;
    let log = story.write("audit.log", &lines(&[&acme]));
    let asked = |address: &str, token: &str| {
        let mut asked = command(&[&log]);
        asked.env("BAO_ADDR", address).env("BAO_TOKEN", token);
        in_background(asked)
    };
    // As a file has it.
    for end in ["\n", "\r\n", " \n"] {
        asked(&address, &format!("s.of-the-auditor{end}"))
            .await
            .proven();
    }
    let with_password = address.replace("http://", "http://alice:s.of-alice@");
    let no_port = address.replace("http://", "http://s.of-alice:");
    for (address, token) in [
        (address.as_str(), "s.of-the\nauditor"),
        (&address, "s.of-the\rauditor"),
        (&address, "s.of-the auditor"),
        (&address, "s.of-th\u{e4}-auditor"),
        (&address, "s.of-the-auditor\u{2026}"),
        (&address, "s.of-the\u{7f}auditor"),
        ("http://127.0.0.1:1", "s.of-the-auditor"),
        (&with_password, "s.of-the-auditor"),
        (&no_port, "s.of-the-auditor"),
        ("s.of-alice", "s.of-the-auditor"),
        ("http://[s.of-alice", "s.of-the-auditor"),
        ("http://127.0.0.1\n.s.of-alice", "s.of-the-auditor"),
    ] {
        let report = asked(address, token).await;
        assert_eq!(report.code, UNREADABLE, "{address}: {}", report.json);
        assert!(!report.said.is_empty() && report.said.lines().count() == 1);
        assert!(!report.said.contains("s.of"), "{}", report.said);
    }
}
