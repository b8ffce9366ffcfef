//! A misspelt parameter of an act that cannot be undone: refused before anything happens.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Operation, ReplicationState, Snapshot, StaticSystemView};

use crate::support::engine::{EMAIL, FIRST, Host, Rig};

/// Everything that is stored, and how often Mailu was asked for anything.
fn all(rig: &Rig) -> (Snapshot, usize) {
    (rig.storage.snapshot(), rig.mailu.journal().len())
}

/// Sends each request and requires that it is refused with `code` and changes nothing at all.
async fn refused(rig: &Rig, code: &str, requests: &[(&str, Value, &str)]) {
    let before = all(rig);
    for (path, body, told) in requests {
        for wrapped in [false, true] {
            let answer = match wrapped {
                false => rig.write(path, body.clone()).await,
                true => rig.write_wrapped(path, body.clone()).await,
            };
            let answer = answer.fails(400, code);
            assert!(answer.wrap.is_none(), "{answer:?}");
            assert!(answer.text.contains(told), "{path} {body}: {}", answer.text);
        }
        assert_eq!(all(rig), before, "{path} {body} changed something");
    }
}

/// An incident with more than it takes.
fn incident(name: &str, value: Value) -> Value {
    json!({ "incident_id": "INC-1", "reason": "stolen", (name): value })
}

/// Acts with a misspelt parameter, and which one is told as nearest.
fn misspelt() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("acme/rotate", json!({ "Reason": "x" }), "`reason`"),
        ("acme/rotate", json!({ "cas": 1 }), "`reason`"),
        (
            "acme/reset",
            incident("keep-app-tokens", json!(true)),
            "`keep_app_tokens`",
        ),
        ("acme/reset", incident("Hold", json!(true)), "`hold`"),
        (
            "acme/reset",
            json!({ "incident-id": "INC-1", "reason": "stolen" }),
            "`incident_id`",
        ),
        (
            "acme/reset",
            incident("tenant", json!("globex")),
            "`tenant`",
        ),
        (
            "acme/reveal",
            json!({ "reason": "x", "break-glass": true }),
            "nearest",
        ),
        (
            "acme/rollback",
            json!({ "version": 1, "reason": "x", "Version": 2 }),
            "`version`",
        ),
        ("acme/release", json!({ "resaon": "x" }), "`reason`"),
        (
            "acme/destroy",
            json!({ "confirm": "acme", "reason": "x", "dry_run": true }),
            "nearest",
        ),
        (
            "batches",
            json!({ "action": "rotate", "all": true, "dry-run": true }),
            "`dry_run`",
        ),
        (
            "batches",
            json!({ "action": "rotate", "all": true, "Canary": 1 }),
            "`canary`",
        ),
        (
            "batches/01K8Z5Y4N6D3T7Q2W9R1M0XVBC/cancel",
            json!({ "why": "x" }),
            "`reason`",
        ),
        (
            "config/keyring/rotate",
            json!({ "because": "x" }),
            "nearest",
        ),
        ("config/keyring/trim", json!({ "dry_run": true }), "nearest"),
        ("acme/admin", json!({ "pasword": FIRST }), "`password`"),
        ("acme/admin", json!({ "CAS": 1 }), "`cas`"),
    ]
}

#[tokio::test]
async fn a_misspelt_parameter_of_an_act_is_refused_and_nothing_happens() {
    let rig = Rig::created().await;
    refused(&rig, "unknown_field", &misspelt()).await;
    rig.settled().await;
}

#[tokio::test]
async fn a_credential_is_not_made_with_a_generated_password_for_a_misspelt_or_empty_one() {
    let rig = Rig::configured().await;
    let with = |name: &str, value: Value| json!({ "username": EMAIL, (name): value });
    for (name, told) in [
        ("pasword", "`password`"),
        ("Password", "`password`"),
        ("PASSWORD", "`password`"),
        ("last-rotated", "`last_rotated`"),
        ("rotation-policy", "`rotation_policy`"),
        ("user_name", "`username`"),
    ] {
        let body = with(name, json!(FIRST));
        refused(&rig, "unknown_field", &[("acme/admin", body, told)]).await;
    }
    for name in ["password", "cas", "last_rotated"] {
        let body = with(name, Value::Null);
        let told = format!("`{name}` is null");
        refused(&rig, "invalid_field", &[("acme/admin", body, &told)]).await;
    }
    assert!(rig.fits(FIRST), "nobody's password was replaced");
    assert_eq!(rig.read("acme/admin").await.status, 404);
}

#[tokio::test]
async fn null_is_no_value_of_an_act_and_the_default_of_a_setting() {
    let rig = Rig::created().await;
    let incident = json!({ "incident_id": "INC-1", "reason": "stolen", "hold": null });
    let batch = json!({ "action": "rotate", "all": true, "dry_run": null });
    refused(
        &rig,
        "invalid_field",
        &[
            ("acme/reset", incident, "`hold` is null"),
            ("batches", batch, "`dry_run` is null"),
            ("acme/rotate", json!({ "reason": null }), "`reason` is null"),
            ("acme/admin", json!({ "password": null }), "`password`"),
            ("acme/admin", json!({ "username": null }), "`username`"),
        ],
    )
    .await;
    let before = all(&rig);
    for name in ["password", "cas", "username", "last_rotated"] {
        let answer = rig.patch("acme/admin", json!({ (name): null })).await;
        answer.fails(400, "invalid_field");
    }
    assert_eq!(all(&rig), before);
    let policy = json!({ "rotation_policy": "90_days", "webmail_url": "https://w.example" });
    rig.patch("acme/admin", policy).await.ok();
    let policy = json!({ "rotation_policy": null, "webmail_url": null, "admin_emails": null });
    rig.patch("acme/admin", policy).await.ok();
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("rotation_period"), 15_552_000, "{:?}", read.data);
    assert_eq!(read.text_of("webmail_url"), "");
}

#[tokio::test]
async fn a_deletion_takes_no_parameters() {
    let rig = Rig::created().await;
    let before = all(&rig);
    for body in [json!({ "cas": 7 }), json!({ "dry_run": "true" })] {
        let answer = rig.send(Operation::Delete, "acme/admin", body).await;
        answer.fails(400, "unknown_field");
    }
    assert_eq!(all(&rig), before);
    rig.delete("acme/admin").await.ok();
}

/// It may be the newer one, during an upgrade.
#[tokio::test]
async fn a_standby_leaves_the_verdict_to_the_active_node() {
    let rig = Rig::created().await;
    let standby = rig.process(StaticSystemView {
        replication_state: ReplicationState(0x6000),
        ..StaticSystemView::default()
    });
    for (path, body, _) in misspelt() {
        let answer = standby.send(Operation::Update, path, body).await;
        answer.fails(0, "read_only");
    }
}

#[tokio::test]
async fn settings_and_reads_go_on_with_a_warning() {
    let rig = Rig::created().await;
    let warned = async |host: &Host, operation, path: &str, body| {
        let answer = host.send(operation, path, body).await.ok();
        let text = "Endpoint ignored these unrecognized parameters: [no-such]";
        let warned = answer.warnings.iter().any(|warning| warning == text);
        assert!(warned, "{path}: {:?}", answer.warnings);
    };
    let with = |body: Value| {
        let mut body = body;
        body["no-such"] = json!(1);
        body
    };
    let (read, update) = (Operation::Read, Operation::Update);
    warned(&rig, read, "acme/admin", with(json!({}))).await;
    warned(&rig, read, "config", with(json!({}))).await;
    warned(&rig, update, "config", with(json!({ "spread": "2h" }))).await;
    warned(&rig, update, "acme/config", with(rig.server())).await;
    let until = json!({ "until": "1d" });
    warned(&rig, update, "acme/pause", with(until)).await;
    warned(&rig, update, "acme/verify", with(json!({}))).await;
}

#[tokio::test]
async fn help_and_openapi_say_which_paths_refuse() {
    let rig = Rig::start().await;
    let help = rig.send(Operation::Help, "", json!({})).await.ok();
    let paths = &help.get("openapi")["paths"];
    let said = |path: &str, method: &str| paths[path][method]["description"].as_str();
    assert!(said("/{tenant}/reset", "post").is_some_and(|it| it.contains("unknown_field")));
    assert!(said("/{tenant}/admin", "delete").is_some());
    assert_eq!(said("/{tenant}/config", "post"), None);
    let schemas = &help.get("openapi")["components"]["schemas"];
    let closed = |name: &str| schemas[name]["additionalProperties"].as_bool();
    assert_eq!(closed("SmtpWriteTenantResetRequest"), Some(false));
    assert_eq!(closed("SmtpWriteTenantConfigRequest"), None);
    let help = rig.send(Operation::Help, "acme/reset", json!({})).await;
    assert!(help.ok().text_of("help").contains("unknown_field"));
}
