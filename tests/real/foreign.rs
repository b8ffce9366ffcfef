//! The storage of one mount shown to another one, as a copy that somebody made.

use std::sync::Arc;

use serde_json::json;

use super::api::Answer;
use super::harness::tests;
use super::rig::Rig;

tests! {
    a_copied_storage_is_not_used_until_it_is_adopted,
}

fn assert_foreign(answer: &Answer) {
    let code = answer.code();
    assert_eq!(
        (answer.status, code),
        (400, "foreign_storage"),
        "{}",
        answer.body
    );
}

async fn a_copied_storage_is_not_used_until_it_is_adopted() {
    let rig = Rig::alone("smtp").await;
    rig.create("acme").await;
    let other = Rig::mounted(Arc::clone(&rig.server), "smtp-copy").await;
    let operator = rig.server.api();
    let (from, to) = (rig.raw_root().await, other.raw_root().await);
    for (key, value) in rig.raw_entries().await {
        let copy = key.replacen(&from, &to, 1);
        let entry = json!({ "value": value, "encoding": "base64" });
        operator.write(&copy, entry).await.no_content();
    }
    rig.server.reload().await;

    let refused = other.read("acme/admin").await;
    assert_foreign(&refused);
    let (before, asked) = (other.raw_entries().await, rig.mailu.journal().len());
    assert_foreign(&other.rotate("acme").await);
    let reset = json!({ "incident_id": "INC-1", "reason": "stolen" });
    assert_foreign(&other.write("acme/reset", reset).await);
    assert_foreign(&other.write("config", json!({ "spread": "2h" })).await);
    let status = other.read("status").await;
    let first = &status.data()["attention"][0];
    assert_eq!(first["code"], "foreign_storage", "{}", status.body);
    assert!(before == other.raw_entries().await, "something was written");
    assert_eq!(rig.mailu.journal().len(), asked);
    // A reload changes nothing for the mount that made it.
    rig.rotate("acme").await.data();

    let (_, rest) = refused.error().split_once("confirm=").unwrap();
    let confirm = rest.split('.').next().unwrap();
    let mismatch = json!({ "confirm": "somebody" });
    let mismatch = other.write("ops/adopt-storage", mismatch).await;
    assert_eq!(
        (mismatch.status, mismatch.code()),
        (400, "confirm_mismatch")
    );
    let adopted = json!({ "confirm": confirm, "reason": "moved" });
    let adopted = other.write("ops/adopt-storage", adopted).await;
    assert_eq!(adopted.data()["adopted"], true);
    assert_eq!(other.admin("acme").await["version"], 1, "as it was copied");
    // The first mount went on since: that is found before the copy changes anything.
    other.rotate("acme").await.data();
    let events = other.read("acme/events").await;
    let events = events.data()["events"].as_array().unwrap();
    let drift = |event: &&serde_json::Value| event["event"] == "smtp_credentials_drift_detected";
    assert!(events.iter().any(|event| drift(&event)), "{events:#?}");
    rig.assert_live(&other.password("acme").await).await;
    rig.assert_nothing_leaked();
}
