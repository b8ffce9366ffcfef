//! Soft deletion, its reversal, and the end.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, Rig};
use crate::support::mailu::standin::{Fault, Rule};

#[tokio::test]
async fn a_deleted_credential_comes_back_as_it_was() {
    let rig = Rig::created().await;
    let password = rig.settled().await;
    let writes = rig.mailu.journal().len();
    rig.delete("acme/admin").await.ok();
    rig.delete("acme/admin").await.ok();
    assert_eq!(rig.read("acme/admin").await.status, 404);
    assert_eq!(rig.list("acme/versions").await.status, 404);
    assert_eq!(rig.read("acme/status").await.get("deleted"), true);
    rig.check_pointers("acme").await;
    for path in ["acme/rotate", "acme/verify"] {
        rig.write(path, json!({})).await.fails(409, "deleted");
    }
    rig.write("acme/admin", json!({ "username": EMAIL }))
        .await
        .fails(409, "deleted");
    // The account stays taken meanwhile.
    rig.configure("other").await;
    rig.write("other/admin", json!({ "username": EMAIL }))
        .await
        .fails(409, "account_taken");
    rig.write("acme/undelete", json!({ "reason": "mistake" }))
        .await
        .ok();
    assert_eq!(rig.settled().await, password);
    assert_eq!(rig.mailu.journal().len(), writes, "Mailu was not asked");
    let story = rig.story("acme").await;
    assert_eq!(story[story.len() - 2..], ["deleted", "undeleted"]);
}

#[tokio::test]
async fn a_destroyed_credential_leaves_counters_and_server() {
    let rig = Rig::created().await;
    for (body, code) in [
        (
            json!({ "reason": "over", "confirm": "other" }),
            "confirm_mismatch",
        ),
        (json!({ "reason": "over" }), "missing_field"),
        (json!({ "confirm": "acme" }), "missing_field"),
    ] {
        rig.write("acme/destroy", body).await.fails(400, code);
    }
    rig.settled().await;
    let before = rig.record("acme").await.unwrap();
    let body = json!({ "reason": "over", "confirm": "acme" });
    rig.write("acme/destroy", body.clone()).await.ok();
    let record = rig.record("acme").await.unwrap();
    assert_eq!(record.credential, None);
    assert_ne!(record.incarnation, before.incarnation);
    rig.check_pointers("acme").await;
    rig.write("acme/destroy", body)
        .await
        .fails(404, "unknown_tenant");
    // A new life goes on counting, with the token that was stored.
    let created = rig
        .write("acme/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    assert_eq!(created.get("version"), 2);
    rig.settled().await;
    rig.events("acme").await;
}

#[tokio::test]
async fn an_open_change_is_not_deleted() {
    let rig = Rig::created().await;
    rig.mailu.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    rig.delete("acme/admin").await.fails(409, "unsettled");
    let body = json!({ "reason": "over", "confirm": "acme" });
    // Destroying it is possible: a tenant whose server is gone for ever must be removable.
    rig.write("acme/destroy", body).await.ok();
    assert_eq!(rig.read("acme/status").await.get("state"), &Value::Null);
    assert_eq!(rig.record("acme").await.unwrap().intent, None);
    rig.check_pointers("acme").await;
}
