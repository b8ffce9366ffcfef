//! `<tenant>/versions`.

use serde_json::{Value, json};

use crate::support::engine::Rig;
use crate::support::mailu::standin::{Fault, Rule};

#[tokio::test]
async fn what_is_known_of_each_version() {
    let rig = Rig::created().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(3600);
    rig.mailu.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    let list = rig.list("acme/versions").await.ok();
    assert_eq!(list.get("keys"), &json!(["1", "2", "3"]));
    for (number, position, kind) in [
        (1, "previous", Value::Null),
        (2, "current", json!("manual")),
        (3, "candidate", json!("manual")),
    ] {
        let version = rig.read(&format!("acme/versions/{number}")).await.ok();
        assert_eq!(version.get("position"), position);
        assert_eq!(version.get("rotation_type"), &kind);
        assert_eq!(version.get("created_by"), "entity-of-userpass-alice");
        assert_eq!(version.get("compromised"), false);
        assert!(version.data.get("password").is_none());
    }
    assert_eq!(rig.read("acme/versions/4").await.status, 404);
    for wrong in ["x", "-1", "1.0"] {
        rig.read(&format!("acme/versions/{wrong}"))
            .await
            .fails(400, "invalid_field");
    }
}

#[tokio::test]
async fn old_versions_go_and_numbers_do_not_come_back() {
    let rig = Rig::created().await;
    rig.write("config", json!({ "max_versions": 2 })).await.ok();
    for _ in 0..3 {
        rig.later(100 * 86_400);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    assert_eq!(
        rig.list("acme/versions").await.get("keys"),
        &json!(["3", "4"])
    );
    rig.settled().await;
}
