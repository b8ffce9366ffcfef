//! `<tenant>/events`.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Operation, Storage as _, StorageEntry};

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

#[tokio::test]
async fn history_keeps_the_names_that_a_newer_version_has_written() {
    let mut rig = Rig::created().await;
    // More than a record shows: some of it is in the trail.
    for number in 0..20 {
        let look = json!({ "reason": format!("look {number}") });
        rig.write("acme/reveal", look).await.ok();
    }
    let of_newer = |text: &str| {
        text.replace(
            "smtp_credentials_revealed",
            "smtp_credentials_of_a_newer_version",
        )
        .replace("\"severity\":\"info\"", "\"severity\":\"notable\"")
        .replace("\"outcome\":\"success\"", "\"outcome\":\"partly\"")
    };
    let mut keys = vec![String::from("tenant/acme")];
    let trail = rig.storage.list("trail/acme/").await.unwrap();
    assert!(!trail.is_empty());
    keys.extend(trail.iter().map(|name| format!("trail/acme/{name}")));
    for key in &keys {
        let entry = rig.storage.get(key).await.unwrap().unwrap();
        let text = of_newer(std::str::from_utf8(&entry.value).unwrap());
        let entry = StorageEntry::new(key.as_str(), text.into_bytes());
        rig.storage.put(entry).await.unwrap();
    }
    rig.restart();
    let unknown = |events: &[Value]| {
        let those = events.iter().filter(|event| {
            event["event"] == "smtp_credentials_of_a_newer_version"
                && event["severity"] == "notable"
                && event["outcome"] == "partly"
        });
        those.count()
    };
    assert_eq!(unknown(&rig.events("acme").await), 20);
    // A change writes the record anew, and moves more of it to the trail.
    rig.write("acme/rotate", json!({})).await.ok();
    rig.write("acme/pause", json!({ "until": "1d" })).await.ok();
    assert_eq!(unknown(&rig.events("acme").await), 20);
    rig.settled().await;
    // What is decided by a name must be known.
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let text = String::from_utf8(entry.value.clone()).unwrap();
    let text = text.replace(
        "\"rotation_type\":\"manual\",\"incident_id\"",
        "\"rotation_type\":\"x\",\"incident_id\"",
    );
    let entry = StorageEntry::new("tenant/acme", text.into_bytes());
    rig.storage.put(entry).await.unwrap();
    rig.restart();
    rig.write("acme/rotate", json!({}))
        .await
        .fails(500, "record_unreadable");
}
