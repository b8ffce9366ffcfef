//! Stored entries: whatever storage returns is refused with a text of our own, or is read without
//! loss, and then the engine works on it without a panic and writes nothing that it cannot read.

#![no_main]

use std::alloc::System;
use std::sync::OnceLock;

use cap::Cap;
use chrono::{DateTime, FixedOffset};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

use fuzzing::json::Json;
use fuzzing::rig::{self, Rig};
use vault_plugin_secrets_smtp::crypto::sha256_hex;
use vault_plugin_secrets_smtp::engine::storage::fuzzing::{Kind, recode};
use vault_plugin_secrets_smtp::logical::{
    MemoryStorage, Operation, Snapshot, Storage, StorageEntry,
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

#[derive(Arbitrary, Debug)]
enum Input {
    /// A real entry with changes, and what is asked of the engine then.
    Changed {
        base: u8,
        edits: Vec<Edit>,
        bytes: Vec<(u16, u8)>,
        asked: Vec<u8>,
        faults: Vec<u8>,
    },
    Raw(u8, Vec<u8>),
    Keyring(Ring),
}

#[derive(Arbitrary, Debug)]
struct Edit {
    /// Which value, counted through the whole entry.
    at: u16,
    change: Change,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Set(Json),
    Usual(u8),
    Remove,
    Add(String, Json),
    /// The value of another place.
    Copy(u16),
    Repeat(u8),
}

#[derive(Arbitrary, Debug)]
struct Ring {
    schema: u8,
    count: i8,
    versions: Vec<(u32, i64)>,
    ascending: bool,
    checksum: bool,
    tail: Vec<u8>,
    cut: u8,
}

const KINDS: [Kind; 5] = [
    Kind::Tenant,
    Kind::Config,
    Kind::MountLog,
    Kind::Trail,
    Kind::Stops,
];

/// The SHA-256 of `https://mail.acme.example:443`, the server of the bases.
const STOPS: &str = "server/265720de8914522f4bcb929f7734f7530b0647c0e044f7c1ae076a33ffa129b4";

fn key(kind: Kind) -> &'static str {
    match kind {
        Kind::Tenant => "tenant/acme",
        Kind::Config => "config",
        Kind::MountLog => "mountlog",
        Kind::Trail => "trail/acme/00000000000000000001",
        Kind::Stops => STOPS,
        Kind::Keyring => "keyring",
    }
}

/// Values at the edges of what the fields hold.
fn usual(at: u8) -> Value {
    let values = [
        json!(0),
        json!(1),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(u32::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!("+262142-12-31T23:59:59.999999999Z"),
        json!("-262143-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:60-23:59"),
        json!("2026-11-21T06:47:00.5+02:00"),
        json!("1970-01-01T00:00:00Z"),
        json!("+262142-12-31"),
        json!("-262143-01-01"),
        json!("2026-11-21"),
        json!(""),
        json!("acme"),
        json!("v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        json!("v4294967295:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        json!("hash"),
        json!("login"),
        json!("imported"),
        json!("manual"),
        json!("mount"),
        json!({"every": 0}),
        json!({"every": u64::MAX}),
        json!("automated"),
        json!("https://mail.acme.example"),
        json!("admin@acme.example"),
        json!(true),
        json!(false),
        Value::Null,
    ];
    values[usize::from(at) % values.len()].clone()
}

/// The storage of a mount with a history, and the secrets in it.
struct Base {
    snapshot: Snapshot,
    secrets: Vec<String>,
}

impl Base {
    fn entry(&self, key: &str) -> Option<&[u8]> {
        let mut entries = self.snapshot.entries();
        let found = entries.find(|entry| entry.key == key);
        found.map(|entry| entry.value.as_slice())
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A settled tenant; one whose last change is in doubt; one deleted softly.
fn bases() -> &'static [Base; 3] {
    static BASES: OnceLock<[Base; 3]> = OnceLock::new();
    BASES.get_or_init(|| {
        [0, 1, 2].map(|number| {
            let rig = Rig::new(MemoryStorage::new(), &[]);
            let mut secrets = vec![String::from("token-of-the-server")];
            rig::run(async {
                let server = json!({
                    "mailu_url": "https://mail.acme.example",
                    "api_token": secrets[0],
                    "smtp_address": "mail.acme.example:465",
                });
                let update = Operation::Update;
                rig.ask(
                    update,
                    "config",
                    object(json!({"min_rotation_interval": 0})),
                )
                .await
                .unwrap();
                rig.ask(update, "acme/config", object(server))
                    .await
                    .unwrap();
                let admin = json!({"username": "admin@acme.example"});
                rig.ask(Operation::Create, "acme/admin", object(admin))
                    .await
                    .unwrap();
                rig.ask(update, "acme/rotate", Map::new()).await.unwrap();
                let read = rig.ask(Operation::Read, "acme/admin", Map::new()).await;
                let data = read.unwrap().unwrap().data.unwrap();
                secrets.push(data.as_map()["password"].as_str().unwrap().to_owned());
                if number == 2 {
                    rig.ask(Operation::Delete, "acme/admin", Map::new())
                        .await
                        .unwrap();
                }
                rig.end().await;
            });
            let mut snapshot = rig.storage.snapshot();
            if number == 1 {
                // A look that succeeds; then nothing is answered, so the send is in doubt.
                let rig = Rig::new(MemoryStorage::new(), &[255, 12, 12, 12, 12, 12, 12]);
                rig.storage.restore(&snapshot);
                rig::run(async {
                    let rotate = rig.ask(Operation::Update, "acme/rotate", Map::new());
                    rotate.await.unwrap_err();
                    rig.end().await;
                });
                snapshot = rig.storage.snapshot();
            }
            let base = Base { snapshot, secrets };
            let record = original(&base, Kind::Tenant);
            assert_eq!(
                record["credential"]["versions"].as_array().unwrap().len(),
                2
            );
            assert_eq!(record["intent"].is_object(), number == 1);
            assert_eq!(record["credential"]["deleted"].is_object(), number == 2);
            base
        })
    })
}

/// What the first release stored, every field filled: an oracle that this build did not write.
const FROZEN: &[u8] = include_bytes!("../../it/fixtures/tenant-v1.json");

/// A real entry of the kind.
fn original(base: &Base, kind: Kind) -> Value {
    let stored = |key: &str| -> Option<Value> { serde_json::from_slice(base.entry(key)?).ok() };
    match kind {
        Kind::Trail => {
            let record = stored("tenant/acme").unwrap();
            json!({
                "schema": 1,
                "delivered": false,
                "refusals": 0,
                "event": record["log"]["events"][0],
            })
        }
        Kind::Stops => json!({
            "schema": 1,
            "refused": [
                { "at": "2026-09-21T14:13:20Z", "charged": "02", "reset": false },
                { "at": "2026-09-21T14:13:20.500Z", "charged": null, "reset": true },
            ],
            "tokens": [{ "token": "00", "tried_at": "2026-09-21T14:13:20Z" }],
            "accepted": "01",
            "limited": { "tried_at": "2026-09-21T14:13:20Z", "times": 1 },
            "breaker": { "opened_at": "2026-09-21T14:13:20Z", "times": 3 },
        }),
        other => stored(key(other)).unwrap(),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Finds the value with this number, counted depth first.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, left)),
        _ => None,
    }
}

fn edit(entry: &mut Value, edits: &[Edit]) {
    for edit in edits.iter().take(16) {
        let total = count(entry);
        let copied = match edit.change {
            Change::Copy(from) => {
                let found = nth(entry, &mut (usize::from(from) % total)).unwrap();
                // Copies of copies would double each time.
                if count(found) > 64 {
                    Value::Null
                } else {
                    found.clone()
                }
            }
            _ => Value::Null,
        };
        let place = nth(entry, &mut (usize::from(edit.at) % total)).unwrap();
        match (&edit.change, place) {
            (Change::Set(json), place) => *place = json.value(),
            (Change::Usual(at), place) => *place = usual(*at),
            (Change::Copy(_), place) => *place = copied,
            (Change::Remove, Value::Object(fields)) => {
                let name = fields
                    .keys()
                    .nth(usize::from(edit.at) % fields.len().max(1))
                    .cloned();
                if let Some(name) = name {
                    fields.remove(&name);
                }
            }
            (Change::Remove, Value::Array(items)) => {
                items.pop();
            }
            (Change::Add(name, json), Value::Object(fields)) => {
                fields.insert(name.clone(), json.value());
            }
            (Change::Add(_, json), Value::Array(items)) => items.push(json.value()),
            (Change::Repeat(times), Value::Array(items)) => {
                if let Some(last) = items.last().cloned() {
                    items.extend(std::iter::repeat_n(last, usize::from(*times)));
                }
            }
            (Change::Repeat(times), Value::String(text)) => {
                *text = text.repeat(usize::from(*times).min(1 + 4_096 / text.len().max(1)));
            }
            (Change::Remove | Change::Add(..) | Change::Repeat(_), place) => *place = Value::Null,
        }
    }
}

/// Reports whether what is written says what was read, in the one form for it.
fn faithful(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            let kept = written.iter().all(|(name, value)| match read.get(name) {
                Some(before) => faithful(before, value),
                None => value.is_null(),
            });
            let dropped = |(name, value): (&String, &Value)| {
                written.contains_key(name) || value.is_null() || value == ""
            };
            kept && read.iter().all(dropped)
        }
        (Value::Array(read), Value::Array(written)) => {
            read.len() == written.len()
                && read
                    .iter()
                    .zip(written)
                    .all(|(read, written)| faithful(read, written))
        }
        // Two other forms that serde takes: fields in order, and a name with nothing in it.
        (Value::Array(_), Value::Object(_)) => true,
        (Value::Object(read), Value::String(name)) => {
            read.len() == 1 && read.get(name).is_some_and(Value::is_null)
        }
        (Value::String(read), Value::String(written)) => {
            let instant = |text: &str| text.parse::<DateTime<FixedOffset>>();
            let date = |text: &str| text.parse::<chrono::NaiveDate>();
            read == written
                || matches!((instant(read), instant(written)), (Ok(one), Ok(other)) if one == other)
                || matches!((date(read), date(written)), (Ok(one), Ok(other)) if one == other)
        }
        _ => read == written,
    }
}

/// The texts by which entries of this kind are refused, whatever is in them.
fn refusals(kind: Kind) -> Vec<String> {
    let moved = String::from_utf8(bases()[0].entry("tenant/acme").unwrap().to_vec())
        .unwrap()
        .replacen("\"tenant\":\"acme\"", "\"tenant\":\"other\"", 1);
    ["", "{\"schema\":4000000000}", "{\"schema\":0}", &moved]
        .map(|text| recode(kind, text.as_bytes()))
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Reads and writes an entry; `None` if it is refused.
fn recoded(kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    let before = ALLOCATOR.total_allocated();
    let outcome = recode(kind, bytes);
    let allocated = ALLOCATOR.total_allocated() - before;
    assert!(
        allocated <= 64 * bytes.len() + (1 << 16),
        "{allocated} for {}",
        bytes.len()
    );
    match outcome {
        Err(text) => {
            assert!(refusals(kind).contains(&text), "{text}");
            None
        }
        Ok(written) => {
            assert_eq!(
                recode(kind, &written).as_ref(),
                Ok(&written),
                "the form is not one"
            );
            Some(written)
        }
    }
}

fn json_entry(kind: Kind, bytes: &[u8]) -> bool {
    let Some(written) = recoded(kind, bytes) else {
        return false;
    };
    let read: Value = serde_json::from_slice(bytes).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert!(faithful(&read, &written), "{read}\n{written}");
    true
}

fn asked(at: u8) -> (Operation, &'static str, Value) {
    let table = [
        (Operation::Read, "acme/admin", Value::Null),
        (Operation::Read, "acme/status", Value::Null),
        (Operation::Read, "acme/config", Value::Null),
        (Operation::Read, "acme/events", json!({"limit": 200})),
        (Operation::List, "acme/versions", Value::Null),
        (Operation::Read, "acme/versions/1", Value::Null),
        (Operation::Read, "acme/versions/2", Value::Null),
        (Operation::Update, "acme/rotate", Value::Null),
        (
            Operation::Update,
            "acme/rotate",
            json!({"reason": "because"}),
        ),
        (Operation::Update, "acme/verify", Value::Null),
        (
            Operation::Update,
            "acme/admin",
            json!({"rotation_policy": "30d"}),
        ),
        (
            Operation::Update,
            "acme/admin",
            json!({"rotation_policy": null}),
        ),
        (
            Operation::Create,
            "acme/admin",
            json!({"username": "admin@acme.example"}),
        ),
        (
            Operation::Update,
            "acme/config",
            json!({"request_timeout": "20s"}),
        ),
        (
            Operation::Update,
            "acme/config",
            json!({"mailu_url": "https://new.acme.example", "api_token": "another-token"}),
        ),
        (Operation::Delete, "acme/admin", Value::Null),
        (Operation::Update, "acme/undelete", Value::Null),
        (
            Operation::Update,
            "acme/destroy",
            json!({"confirm": "acme", "reason": "gone"}),
        ),
        (Operation::Delete, "acme/config", Value::Null),
        (Operation::List, "tenants", json!({"detailed": true})),
        (Operation::Read, "config", Value::Null),
        (Operation::Update, "config", json!({"max_versions": 3})),
        (
            Operation::Patch,
            "config",
            json!({"rotation_period": "3650d"}),
        ),
        (Operation::Rollback, "", Value::Null),
    ];
    table[usize::from(at) % table.len()].clone()
}

/// Lets the engine work on the entry.
fn engine(base: &Base, kind: Kind, bytes: &[u8], requests: &[u8], faults: &[u8]) {
    let storage = MemoryStorage::new();
    storage.restore(&base.snapshot);
    let rig = Rig::new(storage, faults);
    rig::run(async {
        let entry = StorageEntry::new(key(kind), bytes.to_vec());
        if rig.storage.put(entry).await.is_err() {
            return;
        }
        for (operation, path, body) in requests.iter().take(8).map(|at| asked(*at)) {
            let reply = rig.ask(operation, path, object(body)).await;
            if let Err(error) = reply {
                rig::check_error(&error);
                let text = format!("{error:?}");
                assert!(!base.secrets.iter().any(|it| text.contains(it)), "{text}");
            }
        }
        rig.end().await;
    });
    let log = rig::logged();
    assert!(!base.secrets.iter().any(|it| log.contains(it)), "{log}");
    for entry in rig.storage.snapshot().entries() {
        let kind = match entry.key.as_str() {
            "tenant/acme" => Kind::Tenant,
            "config" => Kind::Config,
            "mountlog" => Kind::MountLog,
            "keyring" | "keyring-copy" => Kind::Keyring,
            server if server.starts_with("server/") => Kind::Stops,
            _ => continue,
        };
        if entry.value != bytes {
            let read = recode(kind, &entry.value);
            assert!(read.is_ok(), "{kind:?} was written and cannot be read");
        }
    }
}

/// Whether these bytes are which mount a keyring was made for: an instant or none, and its name.
fn is_maker(tail: &[u8]) -> bool {
    let Some((adopted, rest)) = tail.split_first_chunk::<8>() else {
        return false;
    };
    let Some((length, name)) = rest.split_first_chunk::<2>() else {
        return false;
    };
    let adopted = i64::from_be_bytes(*adopted);
    let instant = adopted == i64::MIN || DateTime::from_timestamp_millis(adopted).is_some();
    instant
        && usize::from(u16::from_be_bytes(*length)) == name.len()
        && (1..=255).contains(&name.len())
        && name.iter().all(u8::is_ascii_graphic)
}

fn ring(ring: &Ring) {
    let mut versions = ring.versions.clone();
    if ring.ascending {
        versions.sort_unstable_by_key(|(version, _)| *version);
        versions.dedup_by_key(|(version, _)| *version);
    }
    let mut bytes = b"smtpkeys".to_vec();
    let schema = u32::from(ring.schema % 4);
    bytes.extend(schema.to_be_bytes());
    bytes.extend([7; 32]);
    let count = (versions.len() as i64).wrapping_add(i64::from(ring.count % 2)) as u32;
    bytes.extend(count.to_be_bytes());
    for (version, created_at) in &versions {
        bytes.extend(version.to_be_bytes());
        bytes.extend(created_at.to_be_bytes());
        bytes.extend([*version as u8; 32]);
    }
    bytes.extend(&ring.tail);
    let mut sum = sha256_hex(&bytes);
    if !ring.checksum {
        sum = sha256_hex(sum.as_bytes());
    }
    bytes.extend((0..32).map(|at| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap()));
    bytes.truncate(bytes.len() - usize::from(ring.cut).min(bytes.len()));
    let in_range = |millis: i64| DateTime::from_timestamp_millis(millis).is_some();
    let tail = match schema {
        1 => ring.tail.is_empty(),
        2 => is_maker(&ring.tail),
        _ => false,
    };
    let good = tail
        && ring.checksum
        && ring.cut == 0
        && count as usize == versions.len()
        && versions.first().is_some_and(|(version, _)| *version > 0)
        && versions.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && versions.iter().all(|(_, millis)| in_range(*millis));
    let before = ALLOCATOR.total_allocated();
    let outcome = recode(Kind::Keyring, &bytes);
    let allocated = ALLOCATOR.total_allocated() - before;
    assert!(allocated <= 64 * bytes.len() + (1 << 16));
    match outcome {
        Ok(written) => {
            assert_eq!(written, bytes, "two stored forms of one keyring");
            assert!(good, "{versions:?}");
        }
        Err(text) => {
            assert!(!good, "{text}");
            assert!(text.len() < 200 && !text.contains(char::is_control));
        }
    }
}

fuzz_target!(|input: Input| {
    match &input {
        Input::Changed {
            base,
            edits,
            bytes,
            asked,
            faults,
        } => {
            let kind = KINDS[usize::from(base / 4) % KINDS.len()];
            let frozen = base % 4 == 3 && kind == Kind::Tenant;
            let base = &bases()[usize::from(base % 4 % 3)];
            let mut entry = match frozen {
                true => serde_json::from_slice(FROZEN).unwrap(),
                false => original(base, kind),
            };
            edit(&mut entry, edits);
            let mut text = serde_json::to_vec(&entry).unwrap();
            for (at, byte) in bytes.iter().take(4) {
                let at = usize::from(*at) % text.len();
                text[at] = *byte;
            }
            if json_entry(kind, &text) || edits.len() == 1 {
                engine(base, kind, &text, asked, faults);
            }
        }
        Input::Raw(5, bytes) => {
            if let Ok(written) = recode(Kind::Keyring, bytes) {
                assert_eq!(&written, bytes);
            }
        }
        Input::Raw(kind, bytes) => {
            json_entry(KINDS[usize::from(*kind) % KINDS.len()], bytes);
        }
        Input::Keyring(entry) => ring(entry),
    }
});
