//! The route table as a whole: help, OpenAPI, and what no path takes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::{Answer, EMAIL, Rig};
use crate::support::mailu::standin::{Fault, Rule};
use crate::support::sinks::HookSink;

/// Writable fields without default and example, and why.
const WITHOUT_SAMPLE: [(&str, &str); 6] = [
    ("password", "a secret that stands in a document is used"),
    ("api_token", "a secret that stands in a document is used"),
    ("hmac_key", "a secret that stands in a document is used"),
    ("secret_id", "a secret that stands in a document is used"),
    ("token", "a secret that stands in a document is used"),
    ("ca_cert", "a certificate has many lines"),
];

/// Paths that take nothing.
const WITHOUT_PARAMETERS: [&str; 5] = [
    "ops/reindex",
    "ops/sweep",
    "status",
    "metrics",
    "events/flush",
];

/// What the host's envelope calls its own members. A generated client reads an answer's fields
/// where the envelope is, so none may have one of these names.
const ENVELOPE: [&str; 8] = [
    "request_id",
    "lease_id",
    "renewable",
    "lease_duration",
    "data",
    "wrap_info",
    "warnings",
    "auth",
];

/// The OpenAPI document and which of its operations were seen.
struct Document {
    whole: Value,
    seen: BTreeSet<(String, String)>,
    /// What stands for `{id}`.
    id: String,
}

impl Document {
    async fn of(rig: &Rig) -> Self {
        let help = rig.send(Operation::Help, "", json!({})).await.ok();
        let whole = help.get("openapi").clone();
        let seen = BTreeSet::new();
        Self {
            whole,
            seen,
            id: String::new(),
        }
    }

    /// Every path with every method and what is said about it.
    fn operations(&self) -> Vec<(&str, &str, &Value)> {
        let mut all = Vec::new();
        for (path, item) in self.whole["paths"].as_object().unwrap() {
            for method in ["get", "head", "post", "patch", "delete"] {
                if let Some(operation) = item.get(method) {
                    all.push((path.as_str(), method, operation));
                }
            }
        }
        all
    }

    /// The schema of a request or response body, wherever it lies.
    fn schema(&self, body: &Value) -> Option<&Value> {
        let (_media, content) = body["content"].as_object()?.iter().next()?;
        let reference = content["schema"]["$ref"].as_str().expect("a reference");
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        let schema = &self.whole["components"]["schemas"][name];
        assert!(schema.is_object(), "{reference} leads nowhere");
        Some(schema)
    }

    fn assert_all_seen(&self) {
        let all = self.operations().into_iter();
        let all: BTreeSet<(String, String)> = all
            .map(|(path, method, _)| (path.to_owned(), method.to_owned()))
            .collect();
        assert_eq!(self.seen, all, "every operation was called");
    }

    /// Sends a request and requires that what it answers is what the document says.
    async fn call(&mut self, rig: &Rig, method: &str, path: &str, body: Value) -> Answer {
        let concrete = path.replace("{tenant}", "acme").replace("{version}", "1");
        let concrete = concrete.replace("{seq}", "1");
        let concrete = concrete.replace("{name}", "ops");
        let concrete = concrete.replace("{id}", &self.id);
        let concrete = concrete.trim_start_matches('/');
        let answer = match method {
            "post" => rig.write(concrete, body).await,
            "patch" => rig.patch(concrete, body).await,
            "delete" => rig.delete(concrete).await,
            _ if path.ends_with('/') => rig.send(Operation::List, concrete, body).await,
            _ => rig.send(Operation::Read, concrete, body).await,
        };
        let answer = answer.ok();
        let operation = &self.whole["paths"][path][method];
        // An answer of warnings only is a 200 without data as well.
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{method} {path}: {}", answer.status);
        match self.schema(response) {
            Some(schema) => fits(schema, &answer.data, &format!("{method} {path}")),
            None => assert!(answer.data.is_null(), "{method} {path}: {answer:?}"),
        }
        self.seen.insert((path.to_owned(), method.to_owned()));
        answer
    }
}

/// Requires that `value` is what `schema` says, to its last member.
fn fits(schema: &Value, value: &Value, place: &str) {
    let kind = match value {
        Value::Null => {
            assert_eq!(schema["nullable"], true, "{place} is null");
            return;
        }
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert_eq!(schema["type"], kind, "{place}: {value}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{place}: {value}");
    }
    if let Some(number) = value.as_i64() {
        assert!(
            number >= schema["minimum"].as_i64().unwrap_or(i64::MIN),
            "{place}: {number}"
        );
        assert!(
            number <= schema["maximum"].as_i64().unwrap_or(i64::MAX),
            "{place}: {number}"
        );
    }
    if schema["format"] == "date-time" {
        let text = value.as_str().unwrap();
        assert!(
            chrono::DateTime::parse_from_rfc3339(text).is_ok(),
            "{place}: {text}"
        );
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(&schema["items"], item, &format!("{place}[{index}]"));
    }
    // An object without known members is a map; its description says of what.
    if let (Some(members), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, member) in members {
            let described = known.get(name);
            let described = described.unwrap_or_else(|| panic!("{place} has an unknown {name}"));
            fits(described, member, &format!("{place}.{name}"));
        }
    }
}

#[tokio::test]
async fn every_path_explains_itself_in_a_terminal() {
    let rig = Rig::start().await;
    let paths = rig.backend.paths();
    assert!(paths.len() >= 13, "{paths:?}");
    let mount = rig.send(Operation::Help, "", json!({})).await.ok();
    for (pattern, synopsis) in paths {
        assert!(mount.text_of("help").contains(synopsis), "{pattern}");
        let concrete = pattern
            .replace("{tenant}", "acme")
            .replace("{name}", "ops")
            .replace("{version}", "1");
        let help = rig.send(Operation::Help, &concrete, json!({})).await.ok();
        let text = help.text_of("help");
        assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(100), "{pattern} is {widest:?} wide:\n{text}");
        assert!(text.contains(" bao "), "{pattern} has no example:\n{text}");
        if !pattern.is_empty() {
            assert!(text.contains(synopsis), "{pattern}: {text}");
            for heading in ["PARAMETERS", "OPERATIONS", "DESCRIPTION"] {
                if heading == "PARAMETERS" && WITHOUT_PARAMETERS.contains(&pattern) {
                    continue;
                }
                let heading = format!("\n## {heading}\n\n");
                let (_, section) = text.split_once(&heading).expect(&heading);
                assert!(!section.trim_start().starts_with('#'), "{pattern}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn the_openapi_document_leaves_nothing_undescribed() {
    let rig = Rig::start().await;
    let document = Document::of(&rig).await;
    let said = |value: &Value| value.as_str().is_some_and(|text| text.len() > 3);
    let mut described = BTreeSet::new();
    for item in document.whole["paths"].as_object().unwrap().values() {
        assert!(said(&item["description"]), "{item}");
        for parameter in item["parameters"].as_array().into_iter().flatten() {
            check_field(&parameter["schema"], "a path parameter", true);
        }
    }
    let mut ids = BTreeSet::new();
    for (path, method, operation) in document.operations() {
        let place = format!("{method} {path}");
        described.insert(path.trim_matches('/'));
        assert!(said(&operation["summary"]), "{place}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(id.starts_with("smtp-") && ids.insert(id), "{place}: {id}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(said(&parameter["description"]), "{place}: {parameter}");
            if parameter["schema"]["enum"] != json!(["true"]) {
                check_field(&parameter["schema"], &place, true);
            }
        }
        if let Some(schema) = document.schema(&operation["requestBody"]) {
            check_members(schema, &place, true);
        }
        let responses = operation["responses"].as_object().unwrap();
        for status in ["400", "403", "404", "409", "503"] {
            let schema = document.schema(&responses[status]).expect(status);
            check_members(schema, &place, false);
        }
        for (status, response) in responses {
            assert!(
                status.parse::<u16>().is_ok(),
                "{place}: a host fails on {status}"
            );
            assert!(response["description"].is_string(), "{place} {status}");
        }
        if let Some(schema) = document.schema(&responses["200"]) {
            check_members(schema, &place, false);
            for name in schema["properties"].as_object().unwrap().keys() {
                // Its one client is the emitter, and the log has the event as it is stored.
                let emits = place.contains("/events/emit/");
                assert!(
                    emits || !ENVELOPE.contains(&name.as_str()),
                    "{place}: {name}"
                );
            }
        }
    }
    for (pattern, _) in rig.backend.paths() {
        assert!(
            described.contains(pattern),
            "{pattern} is not in the document"
        );
    }
}

fn check_members(schema: &Value, place: &str, writable: bool) {
    let members = schema["properties"].as_object().unwrap();
    for (name, member) in members {
        let listed = WITHOUT_SAMPLE.iter().any(|(known, _)| known == name);
        check_field(member, &format!("{place} {name}"), writable && !listed);
    }
}

/// A field has a type and a description, and its samples are values that it takes.
fn check_field(schema: &Value, place: &str, wants_sample: bool) {
    assert!(schema["type"].is_string(), "{place}: {schema}");
    let description = schema["description"].as_str().unwrap_or_default();
    assert!(
        description.len() > 3 && description.ends_with('.'),
        "{place}: {schema}"
    );
    let samples = ["default", "example"].map(|name| &schema[name]);
    let samples: Vec<&Value> = samples.into_iter().filter(|it| !it.is_null()).collect();
    assert!(
        !wants_sample || !samples.is_empty(),
        "{place} has no default and no example"
    );
    for sample in samples {
        fits(schema, sample, place);
    }
    if schema["properties"].is_object() {
        check_members(schema, place, false);
    }
    if schema["items"]["properties"].is_object() {
        check_members(&schema["items"], place, false);
    }
}

/// A client generated from the document must find every field an answer has, of the right type.
#[tokio::test]
async fn answers_are_what_the_openapi_document_says() {
    let rig = Rig::start().await;
    let mut document = Document::of(&rig).await;
    let none = || json!({});
    let (config, admin) = ("/{tenant}/config", "/{tenant}/admin");
    for body in [
        json!({"max_versions": 5, "bogus": 1}),
        json!({"spread": "2h"}),
    ] {
        document.call(&rig, "post", "/config", body).await;
    }
    document.call(&rig, "patch", "/config", none()).await;
    document.call(&rig, "get", "/config", none()).await;
    document.call(&rig, "post", config, rig.server()).await;
    let timeout = json!({"request_timeout": 1});
    document.call(&rig, "patch", config, timeout).await;
    document.call(&rig, "get", config, none()).await;
    document.call(&rig, "get", "/{tenant}/status", none()).await;
    let created = document.call(&rig, "post", admin, json!({"username": EMAIL}));
    assert!(created.await.get("event_id").is_string());
    document
        .call(&rig, "patch", admin, json!({"rotation_policy": "manual"}))
        .await;
    document.call(&rig, "get", admin, none()).await;
    rig.later(3600);
    document
        .call(&rig, "post", "/{tenant}/rotate", none())
        .await;
    document
        .call(&rig, "post", "/{tenant}/verify", none())
        .await;
    answers_about_a_pause(&mut document, &rig).await;
    rig.later(3600);
    answers_of_an_incident(&mut document, &rig).await;
    rig.later(3600);
    answers_in_doubt(&mut document, &rig).await;

    document.call(&rig, "get", "/", none()).await;
    document
        .call(&rig, "get", "/tenants/", json!({"detailed": "true"}))
        .await;
    document
        .call(&rig, "get", "/{tenant}/versions/", none())
        .await;
    document
        .call(&rig, "get", "/{tenant}/versions/{version}", none())
        .await;
    document.call(&rig, "delete", admin, none()).await;
    document
        .call(&rig, "post", "/{tenant}/undelete", none())
        .await;
    document.call(&rig, "delete", admin, none()).await;
    let sure = json!({"confirm": "acme", "reason": "a test"});
    document.call(&rig, "post", "/{tenant}/destroy", sure).await;
    document.call(&rig, "get", "/{tenant}/events", none()).await;
    document.call(&rig, "delete", config, none()).await;

    answers_about_events(&mut document, &rig).await;
    answers_about_batches(&mut document, &rig).await;
    answers_about_keys(&mut document, &rig).await;
    answers_about_channels(&mut document, &rig).await;
    answers_about_alerts(&mut document, &rig).await;
    document.assert_all_seen();
}

async fn answers_about_a_pause(document: &mut Document, rig: &Rig) {
    let pause = json!({"until": "1h"});
    document.call(rig, "post", "/{tenant}/pause", pause).await;
    let status = "/{tenant}/status";
    document.call(rig, "get", status, json!({})).await;
    let resume = "/{tenant}/resume";
    document.call(rig, "post", resume, json!({})).await;
}

async fn answers_about_events(document: &mut Document, rig: &Rig) {
    document.call(rig, "get", "/events", json!({})).await;
    let emit = "/events/emit/{tenant}/{seq}";
    document.call(rig, "post", emit, json!({})).await;
    let flushed = document.call(rig, "post", "/events/flush", json!({})).await;
    let receipt = json!({"receipt": flushed.get("receipt")});
    document.call(rig, "post", "/events/ack", receipt).await;
    answers_about_the_audit_devices(document, rig).await;
}

async fn answers_about_batches(document: &mut Document, rig: &Rig) {
    let all = json!({"action": "rotate", "all": true});
    let created = document.call(rig, "post", "/batches", all.clone()).await;
    let id = created.text_of("id").to_owned();
    document.id.clone_from(&id);
    let mut plan = all;
    plan["dry_run"] = json!(true);
    document.call(rig, "post", "/batches", plan).await;
    document.call(rig, "get", "/batches/", json!({})).await;
    let cancel = "/batches/{id}/cancel";
    document.call(rig, "post", cancel, json!({})).await;
    document.call(rig, "get", "/batches/{id}", json!({})).await;
    document.call(rig, "post", "/ops/reindex", json!({})).await;
    document.call(rig, "post", "/ops/sweep", json!({})).await;
    let adopt = json!({"confirm": "the-mount-before"});
    document
        .call(rig, "post", "/ops/adopt-storage", adopt)
        .await;
    rig.backend.idle().await;
    rig.tick().await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    rig.write("acme/verify", json!({})).await;
    document
        .call(
            rig,
            "post",
            "/batches",
            json!({"action": "rotate", "all": true}),
        )
        .await;
    document.call(rig, "get", "/status", json!({})).await;
    document.call(rig, "get", "/metrics", json!({})).await;
}

async fn answers_about_keys(document: &mut Document, rig: &Rig) {
    let none = || json!({});
    let (keyring, trim) = ("/config/keyring", "/config/keyring/trim");
    document.call(rig, "get", keyring, none()).await;
    document.call(rig, "post", trim, none()).await;
    rig.configure("acme").await;
    let rotate = "/config/keyring/rotate";
    document.call(rig, "post", rotate, none()).await;
    for _ in 0..2 {
        let read = document.call(rig, "get", keyring, json!({"limit": 1}));
        assert_eq!(read.await.get("next"), "acme");
        rig.tick().await;
    }
    let trimmed = document.call(rig, "post", trim, none()).await;
    assert_eq!(trimmed.get("removed"), &json!([{"version": 1}]));
}

async fn answers_about_the_audit_devices(document: &mut Document, rig: &Rig) {
    let path = "/config/audit";
    let role = json!({
        "address": "https://127.0.0.1:8200", "role_id": "r", "secret_id": "s",
        "ca_cert": rig.mailu.ca_pem(), "tls_server_name": "vault.example",
    });
    document.call(rig, "post", path, role).await;
    document.call(rig, "get", path, json!({})).await;
    let periodic = json!({"token": "s.periodic"});
    document.call(rig, "patch", path, periodic).await;
    document.call(rig, "get", path, json!({})).await;
    let external = json!({"mode": "external"});
    document.call(rig, "post", path, external).await;
    document.call(rig, "get", path, json!({})).await;
    document.call(rig, "delete", path, json!({})).await;
}

async fn answers_about_channels(document: &mut Document, rig: &Rig) {
    let none = || json!({});
    let channel = "/config/notify/{name}";
    let sink = HookSink::start().await;
    let email = json!({
        "type": "email", "host": "smtp.ops.example", "from": "vault@ops.example",
        "to": ["oncall@ops.example"],
    });
    document.call(rig, "post", channel, email).await;
    document.call(rig, "get", channel, none()).await;
    let hook = json!({
        "type": "webhook", "url": sink.url("/hook"), "ca_cert": sink.authority.pem(),
        "hmac_key": "key-of-the-signature",
    });
    document.call(rig, "post", channel, hook).await;
    let events = json!({"events": ["smtp_config_changed"]});
    document.call(rig, "patch", channel, events).await;
    let test = "/config/notify/{name}/test";
    document.call(rig, "post", test, none()).await;
    // An event of the mount that is told, and one that is not taken.
    for (head, wait) in [("200 OK\r\n", 9), ("500 Internal Server Error\r\n", 10)] {
        sink.answers(head);
        rig.patch("config", json!({ "wait": wait })).await.ok();
        rig.later(60);
        rig.tick().await;
        document.call(rig, "get", channel, none()).await;
    }
    let read = document.call(rig, "get", channel, none()).await;
    assert!(read.get("last_delivered_at").is_string(), "{read:?}");
    assert_eq!(read.get("last_error")["code"], "notify_failing");
    document.call(rig, "get", "/config/notify/", none()).await;
    document.call(rig, "delete", channel, none()).await;
}

async fn answers_about_alerts(document: &mut Document, rig: &Rig) {
    let path = "/config/alerts";
    document.call(rig, "get", path, json!({})).await;
    let body = json!({"work_hours": ["Mon-Fri 07:00-19:00"], "incident_pattern": "INC-[0-9]+"});
    document.call(rig, "post", path, body).await;
    let body = json!({"time_zone": "Europe/Berlin"});
    document.call(rig, "patch", path, body).await;
    document.call(rig, "get", path, json!({})).await;
    for path in [path, "/config"] {
        document.call(rig, "delete", path, json!({})).await;
        document.call(rig, "get", path, json!({})).await;
    }
}

/// An earlier password again, and an emergency.
async fn answers_of_an_incident(document: &mut Document, rig: &Rig) {
    let back = json!({"version": 1, "reason": "a test"});
    let reset = json!({"incident_id": "INC-1", "reason": "a test"});
    let because = json!({"reason": "a test"});
    for (path, body) in [
        ("/{tenant}/rollback", back),
        ("/{tenant}/reset", reset),
        ("/{tenant}/reveal", because.clone()),
        ("/{tenant}/release", because),
    ] {
        document.call(rig, "post", path, body).await;
    }
}

/// A change whose outcome is open, and a password that somebody else set.
async fn answers_in_doubt(document: &mut Document, rig: &Rig) {
    let none = || json!({});
    let admin = "/{tenant}/admin";
    rig.mailu
        .fault(Rule::new(Fault::HangBefore { ms: None }).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", none())
        .await
        .fails(503, "mailu_unreachable");
    let read = document.call(rig, "get", admin, none()).await;
    assert_eq!(read.get("candidates").as_array().unwrap().len(), 2);
    let status = document.call(rig, "get", "/{tenant}/status", none()).await;
    assert!(status.get("open_work").is_object() && status.get("last_error").is_object());
    rig.mailu.release().await;
    document.call(rig, "post", "/{tenant}/verify", none()).await;

    // A password that somebody else set.
    rig.mailu.set_password_directly(EMAIL, "foreign");
    let verified = document.call(rig, "post", "/{tenant}/verify", none()).await;
    assert_eq!(verified.get("live_version"), &Value::Null);
    let read = document.call(rig, "get", admin, none()).await;
    assert_eq!(read.get("state"), "drift");
    let status = document.call(rig, "get", "/{tenant}/status", none()).await;
    assert!(status.get("drift").is_object());
}

/// What the document says of the settings' values is what the engine enforces.
#[tokio::test]
async fn documented_ranges_and_values_are_those_enforced() {
    let rig = Rig::start().await;
    let document = Document::of(&rig).await;
    let schema = document.schema(&document.whole["paths"]["/config"]["post"]["requestBody"]);
    let mut ranges = 0;
    for (name, field) in schema.unwrap()["properties"].as_object().unwrap() {
        let set = async |value: Value| rig.write("config", json!({ name: value })).await;
        if let (Some(low), Some(high)) = (field["minimum"].as_i64(), field["maximum"].as_i64()) {
            set(json!(low)).await.ok();
            set(json!(high)).await.ok();
            set(json!(low - 1)).await.fails(400, "invalid_config");
            set(json!(high + 1)).await.fails(400, "invalid_config");
            ranges += 1;
        }
        for value in field["enum"].as_array().into_iter().flatten() {
            match value.as_str() {
                Some("required") => drop(set(value.clone()).await.fails(400, "audit_unproven")),
                _ => drop(set(value.clone()).await.ok()),
            }
        }
        if field["enum"].is_array() {
            set(json!("another")).await.fails(400, "invalid_config");
            ranges += 1;
        }
    }
    assert_eq!(ranges, 6);
}

#[tokio::test]
async fn other_operations_and_paths_are_told_apart() {
    let rig = Rig::created().await;
    for (operation, path, status) in [
        (Operation::Read, "acme/rotate", 405),
        (Operation::Delete, "acme/rotate", 405),
        (Operation::Update, "acme/status", 405),
        (Operation::Update, "acme/versions/1", 405),
        (Operation::Read, "", 405),
        (Operation::Update, "tenants", 405),
        (Operation::Read, "acme", 404),
        (Operation::Read, "acme/nothing", 404),
        (Operation::Read, "acme/admin/more", 404),
        (Operation::Renew, "acme/admin", 405),
        (Operation::Revoke, "acme/admin", 405),
    ] {
        let answer = rig.send(operation, path, json!({})).await;
        assert_eq!(answer.status, status, "{operation:?} {path}: {answer:?}");
    }
    let before = rig.storage.snapshot();
    let tick = rig.send(Operation::Rollback, "", Value::Null).await;
    assert_eq!(tick.status, 204);
    assert_eq!(rig.storage.snapshot(), before);
}

/// The host decides by it which ACL capability a write needs.
#[tokio::test]
async fn a_write_is_a_creation_until_there_is_something() {
    use vault_plugin_secrets_smtp::logical::{Backend as _, Data, Request};
    let exists = |rig: &Rig, path: &'static str| {
        let host = rig.host.clone();
        async move {
            let request = Request::new(Operation::Update, path, Data::default());
            host.backend
                .existence_check(&host.mount, request)
                .await
                .unwrap()
        }
    };
    let rig = Rig::start().await;
    for path in ["acme/config", "acme/admin", "UPPER/admin"] {
        assert_eq!(exists(&rig, path).await, Some(false), "{path}");
    }
    rig.configure("acme").await;
    assert_eq!(exists(&rig, "acme/config").await, Some(true));
    assert_eq!(exists(&rig, "acme/admin").await, Some(false));
    let rig = Rig::created().await;
    assert_eq!(exists(&rig, "acme/admin").await, Some(true));
    rig.delete("acme/admin").await.ok();
    assert_eq!(exists(&rig, "acme/admin").await, Some(false));
}

#[tokio::test]
async fn only_the_keyring_is_a_special_path() {
    use vault_plugin_secrets_smtp::logical::{Backend as _, SpecialPaths};
    let rig = Rig::start().await;
    // No path is served without a token, and none relies on sudo: `+` would not work there.
    let expected = SpecialPaths {
        seal_wrap_storage: vec![String::from("keyring"), String::from("keyring-copy")],
        ..SpecialPaths::default()
    };
    assert_eq!(rig.backend.special_paths(), expected);
}
