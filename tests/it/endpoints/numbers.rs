//! Numbers that no field can hold.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::Operation;

use crate::support::engine::Rig;

/// Every number and span that a path takes, with its path.
async fn numeric_fields(rig: &Rig) -> Vec<(String, String)> {
    let help = rig.send(Operation::Help, "", json!({})).await.ok();
    let document = help.get("openapi");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let content = &item["post"]["requestBody"]["content"];
        let Some((_, content)) = content.as_object().and_then(|it| it.iter().next()) else {
            continue;
        };
        let reference = content["schema"]["$ref"].as_str().unwrap();
        let name = reference.rsplit('/').next().unwrap();
        let fields = &document["components"]["schemas"][name]["properties"];
        for (field, schema) in fields.as_object().unwrap() {
            if schema["type"] == "integer" || schema["format"] == "duration" {
                let path = path.replace("{tenant}", "acme").replace("{name}", "ops");
                let path = path.trim_start_matches('/').replace("{id}", "x");
                found.push((path, field.clone()));
            }
        }
    }
    found
}

#[tokio::test]
async fn a_number_of_any_size_is_refused_under_its_own_field_s_name() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    let fields = numeric_fields(&rig).await;
    assert!(fields.len() > 20, "{fields:?}");
    for (path, field) in fields {
        for value in [
            json!(18_446_744_073_709_551_615_u64),
            json!(18_446_744_073_709_551_616.0_f64),
            json!(-9_223_372_036_854_775_809.0_f64),
            json!(1e300),
            json!("18446744073709551616"),
            json!("-18446744073709551616"),
        ] {
            let mut body = json!({});
            body[&field] = value.clone();
            let refused = rig.write(&path, body).await;
            assert_eq!(refused.status, 400, "{path} {field} {value}: {refused:?}");
            let named = refused.text.contains(&format!("`{field}`"));
            assert!(named, "{path} {field} {value}: {refused:?}");
            for wrong in ["must be seconds", "must be a whole number"] {
                assert!(!refused.text.contains(wrong), "{path} {field}: {refused:?}");
            }
        }
    }
    assert_eq!(rig.storage.snapshot(), before);
}

#[tokio::test]
async fn a_mail_channel_s_port_is_refused_as_the_port() {
    let rig = Rig::start().await;
    for port in [0_i64, -1, 65_536, 70_000, i64::MAX] {
        let body = json!({
            "type": "email", "host": "smtp.ops.example", "port": port,
            "from": "vault@ops.example", "to": ["oncall@ops.example"],
        });
        let refused = rig.write("config/notify/ops", body).await;
        let refused = refused.fails(400, "invalid_channel");
        assert!(refused.text.contains("`port`"), "{port}: {refused:?}");
        assert!(!refused.text.contains("`host`"), "{port}: {refused:?}");
    }
    let body: Value = json!({
        "type": "email", "host": "smtp.ops.example", "port": 65_535,
        "from": "vault@ops.example", "to": ["oncall@ops.example"],
    });
    rig.write("config/notify/ops", body).await.ok();
}
