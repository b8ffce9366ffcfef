//! The route table as a whole: help, OpenAPI, and what no path takes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::Rig;

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
