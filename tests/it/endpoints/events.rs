//! `<tenant>/events`.

use serde_json::json;
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::Rig;

#[tokio::test]
async fn events_leave_the_record_and_stay_readable_without_gap() {
    let rig = Rig::created().await;
    for _ in 0..12 {
        rig.later(3600);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    let record = rig.record("acme").await.unwrap();
    assert_eq!(record.log.events().len(), 16);
    let events = rig.events("acme").await;
    assert_eq!(events.len(), 3 + 24);
    // In pages, newest first, each number once.
    let mut after = json!(null);
    let mut seen = Vec::new();
    loop {
        let mut body = json!({ "limit": 5 });
        if !after.is_null() {
            body["after"] = after;
        }
        let page = rig.send(Operation::Read, "acme/events", body).await.ok();
        let events = page.get("events").as_array().unwrap();
        seen.extend(events.iter().map(|event| event["seq"].as_u64().unwrap()));
        after = page.get("next").clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(seen, (1..=27).rev().collect::<Vec<u64>>());
    for limit in [0, 201, -1] {
        rig.send(Operation::Read, "acme/events", json!({ "limit": limit }))
            .await
            .fails(400, "invalid_field");
    }
}
