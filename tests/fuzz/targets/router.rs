//! The router: any table and any path against a naive matcher; and the engine's own table with any
//! sequence of requests, whose errors must be usable and must not repeat a secret.

#![no_main]

use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

use fuzzing::json::Json;
use fuzzing::rig::{self, OPERATIONS, Rig};
use vault_plugin_secrets_smtp::logical::{
    Call, Data, Endpoint, Error, Handler, MemoryStorage, Mount, Operation, Reply, Request, Route,
    Router, Snapshot, StaticSystemView, UnknownFields,
};

#[derive(Arbitrary, Debug)]
enum Input {
    Table {
        routes: u64,
        asked: Vec<Asked>,
    },
    Engine {
        stored: u8,
        asked: Vec<Asked>,
        faults: Vec<u8>,
    },
}

#[derive(Arbitrary, Debug)]
struct Asked {
    operation: u8,
    path: Path,
    body: Vec<(Name, Given)>,
    again: bool,
}

#[derive(Arbitrary, Debug)]
enum Path {
    Segments(Vec<Segment>, bool),
    /// One of the engine's patterns, filled in.
    Pattern(u8, Vec<Segment>),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Segment {
    Word(u8),
    Text(String),
}

const WORDS: [&str; 16] = [
    "a", "b", "c", "acme", "other", "config", "tenants", "1", "2", ".", "..", "", "{a}", "A", "x0",
    "help",
];

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Text(String),
}

/// The names of fields; those of [`SECRETS`] hold the canary.
const NAMES: [&str; 40] = [
    "tenant",
    "version",
    "reason",
    "username",
    "mailu_url",
    "ca_cert",
    "tls_server_name",
    "smtp_address",
    "request_timeout",
    "verify_smtp",
    "webmail_url",
    "rotation_policy",
    "admin_emails",
    "last_rotated",
    "cas",
    "after",
    "limit",
    "detailed",
    "list",
    "force",
    "rotation_period",
    "check_schedule",
    "spread",
    "notify_before",
    "max_parallel",
    "min_rotation_interval",
    "refresh_interval",
    "wait",
    "password_bytes",
    "emergency_password_bytes",
    "password_encoding",
    "password_policy",
    "max_versions",
    "reveal_ttl",
    "rotate_after_reveal",
    "deleted_retention",
    "allowed_hosts",
    "mailu_marker",
    "audit_mode",
    "paused_until",
];
const SECRETS: [&str; 2] = ["password", "api_token"];
const CANARY: &str = "hunter2";

#[derive(Arbitrary, Debug)]
enum Given {
    /// What the field takes, most likely.
    Usual,
    Json(Json),
}

fn usual(name: &str) -> Value {
    Value::from(match name {
        "username" => "admin@acme.example",
        "mailu_url" => "https://mail.acme.example",
        "webmail_url" => "https://mail.acme.example/webmail",
        "smtp_address" => "mail.acme.example:465",
        "tls_server_name" => "mail.acme.example",
        "rotation_policy" => "90d",
        "admin_emails" => "a@acme.example,b@acme.example",
        "last_rotated" | "paused_until" => "2026-01-02T03:04:05Z",
        "check_schedule" => "0 2 * * *",
        "password_encoding" => "base64url",
        "audit_mode" => "required",
        "allowed_hosts" => "10.0.0.0/8,*.acme.example",
        "reason" => "because",
        "detailed" | "verify_smtp" | "mailu_marker" | "rotate_after_reveal" | "force" => "true",
        "cas" => "0",
        "refresh_interval" => "10m",
        "rotation_period" | "deleted_retention" => "30d",
        "password_bytes" | "emergency_password_bytes" => "24",
        _ => "2",
    })
}

fn segments(segments: &[Segment]) -> Vec<String> {
    let text = |segment: &Segment| match segment {
        Segment::Word(at) => WORDS[usize::from(*at) % WORDS.len()].to_owned(),
        Segment::Text(text) => text.clone(),
    };
    segments.iter().map(text).collect()
}

impl Path {
    fn text(&self, patterns: &[&'static str]) -> String {
        match self {
            Self::Segments(parts, slash) => {
                segments(parts).join("/") + if *slash { "/" } else { "" }
            }
            Self::Pattern(at, captures) => {
                let pattern = patterns[usize::from(*at) % patterns.len()];
                let mut captures = segments(captures).into_iter();
                let filled: Vec<String> = pattern
                    .split('/')
                    .map(|part| match part {
                        "{version}" => captures.next().unwrap_or_else(|| String::from("1")),
                        _ if part.starts_with('{') => {
                            captures.next().unwrap_or_else(|| String::from("acme"))
                        }
                        _ => part.to_owned(),
                    })
                    .collect();
                filled.join("/")
            }
            Self::Text(text) => text.clone(),
        }
    }
}

impl Asked {
    fn operation(&self) -> Operation {
        // Those that most paths take come more often.
        let usual = [Operation::Read, Operation::Update, Operation::Update];
        let at = usize::from(self.operation) % (OPERATIONS.len() + usual.len());
        *OPERATIONS.iter().chain(&usual).nth(at).unwrap()
    }

    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        for (name, given) in &self.body {
            let known = NAMES.len() + SECRETS.len();
            let name = match name {
                Name::Known(at) => {
                    let at = usize::from(*at) % known;
                    NAMES.get(at).unwrap_or_else(|| &SECRETS[at - NAMES.len()])
                }
                Name::Text(text) => text.as_str(),
            };
            let secret = SECRETS.contains(&name);
            let value = match given {
                Given::Usual if secret => Value::from(CANARY),
                Given::Usual => usual(name),
                Given::Json(json) => json.value(),
            };
            if secret {
                body.insert(name.to_owned(), poisoned(value));
            } else if !format!("{name}{value}").contains(CANARY) {
                body.insert(name.to_owned(), value);
            }
        }
        body
    }
}

/// Puts the canary into every text of a value, names included.
fn poisoned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::from(format!("{CANARY}{text}")),
        Value::Array(items) => items.into_iter().map(poisoned).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (format!("{CANARY}{name}"), poisoned(value)))
            .collect(),
        other => other,
    }
}

/// The path that is matched: clients and the host append a slash to some.
fn asked_path(operation: Operation, path: &str) -> &str {
    match operation {
        Operation::List
        | Operation::Scan
        | Operation::Help
        | Operation::Renew
        | Operation::Revoke => path.strip_suffix('/').unwrap_or(path),
        _ => path,
    }
}

/// The naive matcher: part by part, from the documentation.
fn matches(pattern: &str, path: &str) -> bool {
    if pattern.is_empty() || path.is_empty() {
        return pattern == path;
    }
    let (pattern, path): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), path.split('/').collect());
    let forbidden = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control)
    };
    pattern.len() == path.len()
        && !path.iter().any(|part| forbidden(part))
        && pattern
            .iter()
            .zip(&path)
            .all(|(pattern, part)| pattern.starts_with('{') || pattern == part)
}

/// Of all patterns that match, the one with the leftmost literal.
fn best<'a>(patterns: &[(usize, &'a str)], path: &str) -> Option<(usize, &'a str)> {
    let mut left: Vec<(usize, &str)> = patterns
        .iter()
        .filter(|(_, pattern)| matches(pattern, path))
        .copied()
        .collect();
    for at in 0..path.split('/').count() {
        let literal = |pattern: &str| {
            let part = pattern.split('/').nth(at);
            part.is_some_and(|part| !part.starts_with('{'))
        };
        if left.iter().any(|(_, pattern)| literal(pattern)) {
            left.retain(|(_, pattern)| literal(pattern));
        }
    }
    assert!(left.len() <= 1, "{left:?}");
    left.pop()
}

/// What the handler of a synthetic route saw: the route and its captures.
type Seen = Mutex<Option<(usize, Vec<String>)>>;

const ROUTES: usize = 40;

fn handlers() -> [Handler<Seen>; ROUTES] {
    fn saw<const N: usize>() -> Handler<Seen> {
        |seen, _mount, call: Call| {
            Box::pin(async move {
                let captures = (0..3)
                    .filter(|at| pool()[N].contains(&format!("{{x{at}}}")))
                    .map(|at| call.capture(&format!("x{at}")).to_owned())
                    .collect();
                *seen.lock().unwrap() = Some((N, captures));
                Ok(None)
            })
        }
    }
    macro_rules! table {
        ($($n:literal)*) => { [$(saw::<$n>()),*] };
    }
    table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
           33 34 35 36 37 38 39)
}

/// Every pattern of up to three parts, each `a`, `b` or a capture.
fn pool() -> &'static [&'static str] {
    static POOL: OnceLock<Vec<&'static str>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut patterns = vec![String::new()];
        let mut longest = vec![String::new()];
        for at in 0..3 {
            let parts = [String::from("a"), String::from("b"), format!("{{x{at}}}")];
            longest = longest
                .iter()
                .flat_map(|before| parts.iter().map(move |part| format!("{before}/{part}")))
                .map(|pattern| pattern.trim_start_matches('/').to_owned())
                .collect();
            patterns.extend(longest.clone());
        }
        let leaked = |pattern: String| &*pattern.leak();
        patterns.into_iter().map(leaked).collect()
    })
}

const READS: &[Operation] = &[Operation::Read, Operation::List];
const WRITES: &[Operation] = &[Operation::Update, Operation::Delete];

fn synthetic(routes: u64, asked: &[Asked]) {
    let handlers = handlers();
    let chosen: Vec<(usize, &'static str)> = pool()
        .iter()
        .copied()
        .enumerate()
        .filter(|(at, _)| routes & (1 << at) != 0)
        .collect();
    let operations = |at: usize| if at.is_multiple_of(2) { READS } else { WRITES };
    let mut table: Vec<Route<Seen>> = chosen
        .iter()
        .map(|(at, pattern)| Route {
            pattern,
            synopsis: "",
            description: "",
            fields: &[],
            endpoints: vec![Endpoint {
                operations: operations(*at),
                summary: "",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: handlers[*at],
            }],
            existence: None,
        })
        .collect();
    // The order must not matter.
    let by = routes as usize % table.len().max(1);
    table.rotate_left(by);
    let router = Router::new(table);
    let seen = Arc::new(Seen::default());
    let mount = Mount {
        storage: Arc::new(MemoryStorage::new()),
        system: Arc::new(StaticSystemView::default()),
    };
    for asked in asked.iter().take(8) {
        let (operation, path) = (asked.operation(), asked.path.text(pool()));
        *seen.lock().unwrap() = None;
        let request = Request::new(operation, &path, Data::default());
        let reply = rig::run(router.handle(&seen, &mount, request));
        let seen = seen.lock().unwrap().take();
        let expected = best(&chosen, asked_path(operation, &path));
        if operation == Operation::Help {
            let known = matches!(path.trim_end_matches('/'), "" | "help") || expected.is_some();
            assert_eq!(reply.is_ok(), known, "{path:?} {reply:?}");
            continue;
        }
        match expected {
            None => {
                assert_eq!(reply.unwrap_err(), Error::UnsupportedPath, "{path:?}");
                assert_eq!(seen, None);
            }
            Some((at, pattern)) if operations(at).contains(&operation) => {
                reply.unwrap();
                let (route, captures) = seen.unwrap();
                assert_eq!(route, at, "{path:?}: {pattern:?} and {:?}", pool()[route]);
                let mut captures = captures.into_iter();
                let joined: Vec<String> = pattern
                    .split('/')
                    .map(|part| match part.starts_with('{') {
                        true => captures.next().unwrap(),
                        false => part.to_owned(),
                    })
                    .collect();
                assert_eq!(joined.join("/"), asked_path(operation, &path));
                assert_eq!(captures.next(), None);
            }
            Some(_) => {
                assert_eq!(seen, None);
                let error = reply.unwrap_err();
                rig::check_error(&error);
                assert!(matches!(
                    error,
                    Error::Status {
                        status: 405,
                        code: "unsupported_operation",
                        ..
                    }
                ));
            }
        }
    }
}

/// What is stored when the requests begin, and the secrets in it.
struct Stored {
    snapshot: Snapshot,
    secrets: Vec<String>,
}

/// Nothing; a server; a server and a credential.
fn stored() -> &'static [Stored; 3] {
    static STORED: OnceLock<[Stored; 3]> = OnceLock::new();
    STORED.get_or_init(|| {
        [0, 1, 2].map(|number| {
            let rig = Rig::new(MemoryStorage::new(), &[]);
            let mut secrets = vec![String::from(CANARY)];
            rig::run(async {
                let body = |names: &[&str]| -> Map<String, Value> {
                    let field = |name: &&str| ((*name).to_owned(), usual(name));
                    names.iter().map(field).collect()
                };
                if number > 0 {
                    let mut server = body(&["mailu_url", "smtp_address"]);
                    server.insert(String::from("api_token"), Value::from(CANARY));
                    let write = rig.ask(Operation::Update, "acme/config", server);
                    write.await.unwrap();
                }
                if number > 1 {
                    let write = rig.ask(Operation::Create, "acme/admin", body(&["username"]));
                    write.await.unwrap();
                    let read = rig.ask(Operation::Read, "acme/admin", Map::new()).await;
                    let data = read.unwrap().unwrap().data.unwrap();
                    secrets.push(data.as_map()["password"].as_str().unwrap().to_owned());
                }
                rig.end().await;
            });
            Stored {
                snapshot: rig.storage.snapshot(),
                secrets,
            }
        })
    })
}

/// Asserts that an answer is usable and that nothing but the credential's own reads tells a secret.
fn check_reply(operation: Operation, path: &str, reply: &Reply, secrets: &[String]) {
    let tells_one = |text: &str| secrets.iter().any(|secret| text.contains(secret));
    let shown = format!("{reply:?}");
    assert!(!tells_one(&shown), "{shown}");
    match reply {
        Err(error) => {
            assert!(
                !matches!(error, Error::Internal(_) | Error::Storage(_)),
                "{operation:?} {path:?}: {error}"
            );
            rig::check_error(error);
        }
        Ok(Some(answer)) => {
            for warning in &answer.warnings {
                assert!(!warning.is_empty() && warning.len() < 5_000);
                assert!(!warning.contains(char::is_control), "{warning:?}");
            }
            let reads = operation == Operation::Read && path.starts_with(|c| c != '/');
            let tells = path.ends_with("/admin") || path.contains("/versions/");
            if let Some(data) = &answer.data
                && !(reads && tells)
            {
                let text = serde_json::to_string(data.as_map()).unwrap();
                assert!(!tells_one(&text), "{operation:?} {path:?}: {text}");
            }
        }
        Ok(None) => {}
    }
}

fn engine(stored: &Stored, asked: &[Asked], faults: &[u8]) {
    let rig = Rig::new(MemoryStorage::new(), faults);
    rig.storage.restore(&stored.snapshot);
    let patterns: Vec<&'static str> = rig.backend.paths().iter().map(|(path, _)| *path).collect();
    let table: Vec<(usize, &str)> = patterns.iter().copied().enumerate().collect();
    rig::run(async {
        for asked in asked.iter().take(12) {
            let (operation, path) = (asked.operation(), asked.path.text(&patterns));
            // Secrets belong in the body; a path is in clear in every log.
            if path.contains(CANARY) {
                continue;
            }
            let reply = match asked.again {
                true => rig.ask_again(operation, &path, asked.body()).await,
                false => rig.ask(operation, &path, asked.body()).await,
            };
            check_reply(operation, &path, &reply, &stored.secrets);
            let mut known = best(&table, asked_path(operation, &path)).is_some();
            known |=
                operation == Operation::Help && matches!(path.trim_end_matches('/'), "" | "help");
            match operation {
                Operation::Rollback => assert!(matches!(reply, Ok(None))),
                Operation::Renew | Operation::Revoke => {
                    assert_eq!(reply.unwrap_err(), Error::UnsupportedOperation);
                }
                _ => {
                    let unknown = matches!(reply, Err(Error::UnsupportedPath));
                    assert_eq!(unknown, !known, "{operation:?} {path:?} {reply:?}");
                }
            }
            if let Err(error) = rig.exists(&path).await {
                rig::check_error(&error);
            }
        }
        rig.end().await;
    });
    // At rest and in the log as well.
    let log = rig::logged();
    let rest = rig.storage.snapshot();
    for secret in &stored.secrets {
        assert!(!log.contains(secret), "{log}");
        for entry in rest.entries() {
            let mut windows = entry.value.windows(secret.len());
            let found = windows.any(|window| window == secret.as_bytes());
            assert!(!found, "{}", entry.key);
        }
    }
}

fuzz_target!(|input: Input| {
    match &input {
        Input::Table { routes, asked } => synthetic(*routes, asked),
        Input::Engine {
            stored: at,
            asked,
            faults,
        } => engine(&stored()[usize::from(at % 3)], asked, faults),
    }
});
