//! The route table as a whole: help, OpenAPI, and what no path takes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::{EMAIL, Rig};

#[tokio::test]
async fn every_path_explains_itself_and_is_in_the_openapi_document() {
    let rig = Rig::start().await;
    let paths = rig.backend.paths();
    assert!(paths.len() >= 13, "{paths:?}");
    let mount = rig.send(Operation::Help, "", json!({})).await.ok();
    let document = mount.data.to_string();
    let openapi = mount.get("openapi");
    let described: BTreeSet<&str> = openapi["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(|path| path.trim_matches('/'))
        .collect();
    for (pattern, synopsis) in paths {
        let concrete = pattern
            .replace("{tenant}", "acme")
            .replace("{version}", "1");
        let help = rig.send(Operation::Help, &concrete, json!({})).await.ok();
        let text = help.data.to_string();
        assert!(
            pattern.is_empty() || text.contains(synopsis),
            "{pattern}: {text}"
        );
        assert!(document.contains(synopsis), "{pattern}");
        assert!(
            pattern.is_empty() || described.contains(pattern),
            "{pattern}: {described:?}"
        );
    }
}

/// A client generated from the document must find every field an answer has, of the right type.
#[tokio::test]
async fn answers_are_what_the_openapi_document_says() {
    let rig = Rig::created().await;
    let help = rig.send(Operation::Help, "", json!({})).await.ok();
    let paths = &help.get("openapi")["paths"];
    let rotated = rig.write("acme/rotate", json!({})).await.ok();
    let verified = rig.write("acme/verify", json!({})).await.ok();
    rig.mailu.set_password_directly(EMAIL, "foreign");
    rig.write("acme/verify", json!({})).await.ok();
    for (path, method, answer) in [
        ("/config", "get", rig.read("config").await.ok()),
        (
            "/{tenant}/config",
            "get",
            rig.read("acme/config").await.ok(),
        ),
        ("/{tenant}/admin", "get", rig.read("acme/admin").await.ok()),
        ("/{tenant}/rotate", "post", rotated),
        ("/{tenant}/verify", "post", verified),
        (
            "/{tenant}/status",
            "get",
            rig.read("acme/status").await.ok(),
        ),
        (
            "/{tenant}/events",
            "get",
            rig.read("acme/events").await.ok(),
        ),
        (
            "/{tenant}/versions/{version}",
            "get",
            rig.read("acme/versions/1").await.ok(),
        ),
    ] {
        let content = &paths[path][method]["responses"]["200"]["content"];
        let properties = &content["application/json"]["schema"]["properties"];
        for (name, value) in answer.data.as_object().unwrap() {
            let schema = &properties[name];
            let fits = match value {
                Value::Null => schema["nullable"] == true,
                Value::Bool(_) => schema["type"] == "boolean",
                Value::Number(_) => schema["type"] == "integer",
                Value::String(_) => schema["type"] == "string",
                Value::Array(_) => schema["type"] == "array",
                Value::Object(_) => schema["type"] == "object",
            };
            assert!(fits, "{path} {method}: {name} is no {schema}");
        }
    }
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
