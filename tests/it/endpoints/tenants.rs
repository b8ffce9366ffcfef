//! The lists of tenants, and what is no tenant's name.

use serde_json::json;
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::{EMAIL, Rig};

#[tokio::test]
async fn names_are_sorted_paged_and_detailed() {
    let rig = Rig::created().await;
    for tenant in ["zeta", "beta", "a-b_c"] {
        rig.configure(tenant).await;
    }
    let all = json!(["a-b_c", "acme", "beta", "zeta"]);
    for path in ["", "tenants", "tenants/"] {
        assert_eq!(rig.list(path).await.ok().get("keys"), &all, "{path:?}");
    }
    let page = |body| rig.send(Operation::List, "tenants", body);
    let second = page(json!({ "after": "acme", "limit": 1 })).await.ok();
    assert_eq!(second.get("keys"), &json!(["beta"]));
    let detailed = page(json!({ "detailed": true, "limit": 2 })).await.ok();
    assert_eq!(detailed.get("keys"), &json!(["a-b_c", "acme"]));
    let info = &detailed.get("key_info")["acme"];
    assert_eq!(info["state"], "settled");
    assert_eq!(info["next_rotation"], "2027-03-21T02:00:25Z");
    for body in [
        json!({ "limit": 0 }),
        json!({ "limit": 101, "detailed": true }),
    ] {
        page(body).await.fails(400, "invalid_field");
    }
}

const RESERVED: &str = "config tenants status metrics batches events approvals keyring ui ops \
    health help sys raw login creds roles static-cred static-role rotate rotate-root rotate-role \
    reset reveal verify audit notify export import policies incidents drill";

#[tokio::test]
async fn every_path_refuses_what_is_no_name() {
    let rig = Rig::start().await;
    let before = rig.storage.snapshot();
    let long = "x".repeat(65);
    let mut names: Vec<&str> = vec!["-a", "a-", "A", "a.b", "ä", "a b", "..", &long];
    names.extend(RESERVED.split_whitespace());
    let paths = [
        (Operation::Read, "config"),
        (Operation::Update, "config"),
        (Operation::Create, "config"),
        (Operation::Delete, "config"),
        (Operation::Read, "admin"),
        (Operation::Create, "admin"),
        (Operation::Update, "admin"),
        (Operation::Patch, "admin"),
        (Operation::Delete, "admin"),
        (Operation::Update, "rotate"),
        (Operation::Update, "verify"),
        (Operation::Read, "status"),
        (Operation::Read, "events"),
        (Operation::List, "versions"),
        (Operation::Read, "versions/1"),
        (Operation::Update, "undelete"),
        (Operation::Update, "destroy"),
    ];
    for name in names {
        for (operation, rest) in paths {
            let body = match (operation, rest) {
                (Operation::Delete, _) => json!({}),
                (_, "admin") => json!({ "username": EMAIL }),
                (_, "config") => json!({ "mailu_url": rig.mailu.url(), "api_token": "t" }),
                (_, "destroy") => json!({ "reason": "r", "confirm": name }),
                _ => json!({ "reason": "r" }),
            };
            let path = format!("{name}/{rest}");
            let answer = rig.send(operation, &path, body.clone()).await;
            let refused = answer.status == 400 && answer.code == "invalid_tenant";
            // No path at all: the host would not send it either.
            let unknown = name == ".." && answer.status == 404;
            // No name of a tenant, and no identifier of a batch either.
            let batch = name == "batches" && matches!(answer.status, 400 | 405);
            assert!(
                refused || unknown || batch,
                "{operation:?} {path}: {answer:?}"
            );
        }
    }
    assert_eq!(rig.storage.snapshot(), before);
    assert!(rig.mailu.journal().is_empty());
}
