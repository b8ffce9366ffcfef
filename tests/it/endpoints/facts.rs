//! One event for one fact: another endpoint, the end of a hold, and which settings changed.

use serde_json::{Value, json};

use crate::support::engine::{Host, Rig};
use crate::support::mailbox::Mailbox;
use crate::support::world::{FIRST, SERVER, World, simulate};
use vault_plugin_secrets_smtp::logical::Operation;

const TOKEN: &str = "token-of-the-mail-server";

async fn of_name(host: &Host, tenant: &str, name: &str) -> Vec<Value> {
    let mut events = host.events(tenant).await;
    events.retain(|event| event["event"] == name);
    events
}

#[test]
fn another_endpoint_is_an_event_of_its_own_with_both_hosts() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        let server = json!({ "mailu_url": SERVER, "api_token": TOKEN });
        host.write("acme/config", server).await.ok();
        let first = &of_name(&host, "acme", "smtp_tenant_config_changed").await[0];
        assert_eq!(first["changed"], json!(["api_token", "mailu_url"]));
        assert_eq!(first["severity"], "info");
        // The endpoint and other settings at once: two facts.
        let moved = json!({
            "mailu_url": "https://mail.elsewhere.test:8443", "api_token": "another-token",
            "smtp_address": "smtp.elsewhere.test:465", "request_timeout": "11s",
        });
        host.write("acme/config", moved).await.ok();
        let [endpoint] = of_name(&host, "acme", "smtp_tenant_endpoint_changed")
            .await
            .try_into()
            .unwrap();
        assert_eq!(endpoint["severity"], "critical");
        assert_eq!(endpoint["changed"], json!(["mailu_url", "smtp_address"]));
        assert_eq!(endpoint["old_host"], "mail.example.test");
        assert_eq!(
            endpoint["new_host"],
            "mail.elsewhere.test:8443, smtp smtp.elsewhere.test:465"
        );
        let settings = of_name(&host, "acme", "smtp_tenant_config_changed").await;
        assert_eq!(
            settings[1]["changed"],
            json!(["api_token", "request_timeout"])
        );
        // Other settings alone are none.
        host.write("acme/config", json!({ "verify_smtp": true }))
            .await
            .ok();
        host.write("acme/config", json!({ "api_token": TOKEN }))
            .await
            .ok();
        let settings = of_name(&host, "acme", "smtp_tenant_config_changed").await;
        assert_eq!(settings[2]["changed"], json!(["verify_smtp"]));
        assert_eq!(settings[3]["changed"], json!(["api_token"]));
        // Nor is a removal a setting.
        host.send(Operation::Delete, "acme/config", json!({}))
            .await
            .ok();
        let gone = of_name(&host, "acme", "smtp_tenant_endpoint_changed").await;
        assert_eq!(gone.len(), 2);
        assert_eq!(gone[1]["new_host"], Value::Null);
        assert!(
            gone[1]["old_host"]
                .as_str()
                .unwrap()
                .starts_with("mail.elsewhere.test")
        );
        let settings = of_name(&host, "acme", "smtp_tenant_config_changed").await;
        assert_eq!(settings.len(), 4);
        // The one that comes after it is not the tenant's first.
        let back = json!({ "mailu_url": SERVER, "api_token": TOKEN });
        host.write("acme/config", back).await.ok();
        let back = of_name(&host, "acme", "smtp_tenant_endpoint_changed").await;
        assert_eq!(back.len(), 3);
        assert_eq!(back[2]["severity"], "critical");
        assert_eq!(back[2]["new_host"], "mail.example.test");
    });
}

#[test]
fn a_changed_endpoint_is_told_by_default_and_counts_as_a_look() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        let hook = json!({
            "type": "webhook", "url": "https://hooks.ops.example/smtp",
            "hmac_key": "key-of-the-signature",
        });
        host.write("config/notify/hook", hook).await.ok();
        let tenants: Vec<_> = (0..6).map(|number| format!("tenant-{number}")).collect();
        for tenant in &tenants {
            let path = format!("{tenant}/config");
            let server = json!({ "mailu_url": SERVER, "api_token": TOKEN });
            host.write(&path, server).await.ok();
            world.later(60).await;
            let url = format!("https://{tenant}.elsewhere.test");
            let moved = json!({ "mailu_url": url, "api_token": TOKEN });
            host.write(&path, moved).await.ok();
        }
        let alerts = of_name(&host, "tenant-5", "smtp_suspicious_activity").await;
        assert_eq!(alerts[0]["error_code"], "many_reveals");
        world.later(60).await;
        host.tick().await;
        let story = world.notices.story();
        let told = story.iter().filter(|it| it.contains("endpoint_changed"));
        assert_eq!(told.count(), 6, "{story:?}");
        let message = &world.notices.delivered()[0];
        assert_eq!(message.old_host.as_deref(), Some("mail.example.test"));
        assert_eq!(message.new_host.as_deref(), Some("tenant-0.elsewhere.test"));
    });
}

#[test]
fn the_end_of_a_hold_and_settings_of_a_credential_say_what_they_are() {
    simulate(async {
        let world = World::new();
        let host = world.sound_process();
        let account = "held@example.test";
        world.mail.put(SERVER, account, Mailbox::new(FIRST));
        world.configure(&host, "acme").await;
        host.write("acme/admin", json!({ "username": account }))
            .await
            .ok();
        let order = json!({ "incident_id": "INC-1", "reason": "stolen", "hold": true });
        host.write("acme/reset", order).await.ok();
        host.write("acme/release", json!({ "reason": "over" }))
            .await
            .ok();
        let [released] = of_name(&host, "acme", "smtp_hold_released")
            .await
            .try_into()
            .unwrap();
        assert_eq!(released["severity"], "warning");
        assert_eq!(released["reason"], "over");
        // A second one ends nothing.
        host.write("acme/release", json!({ "reason": "over" }))
            .await
            .ok();
        assert_eq!(of_name(&host, "acme", "smtp_hold_released").await.len(), 1);
        let settings = json!({ "admin_emails": "ops@example.test", "rotation_policy": "manual" });
        host.write("acme/admin", settings).await.ok();
        let settings = of_name(&host, "acme", "smtp_tenant_config_changed").await;
        let changed = &settings.last().unwrap()["changed"];
        assert_eq!(changed, &json!(["admin_emails", "rotation_policy"]));
    });
}

#[tokio::test]
async fn a_written_setting_of_the_mount_is_named() {
    let rig = Rig::start().await;
    let hook = json!({
        "type": "webhook", "url": "https://hooks.ops.example/smtp", "hmac_key": "key-of-the-signature",
    });
    for (path, body, changed) in [
        (
            "config",
            json!({ "reveal_ttl": "5m", "spread": "1h", "max_parallel": 4 }),
            json!(["max_parallel", "reveal_ttl"]),
        ),
        (
            "config/alerts",
            json!({ "drift": false }),
            json!(["alerts.drift"]),
        ),
        (
            "config/audit",
            json!({ "mode": "external" }),
            json!(["audit.mode"]),
        ),
        (
            "config/notify/ops",
            hook,
            json!(["notify.ops.hmac_key", "notify.ops.type", "notify.ops.url"]),
        ),
    ] {
        rig.later(1);
        rig.write(path, body).await.ok();
        rig.later(1);
        let events = rig.read("events").await.ok();
        assert_eq!(events.get("events")[0]["changed"], changed, "{path}");
    }
    for (path, changed) in [
        ("config/audit", "audit"),
        ("config/notify/ops", "notify.ops"),
    ] {
        rig.later(1);
        rig.delete(path).await.ok();
        let events = rig.read("events").await.ok();
        assert_eq!(
            events.get("events")[0]["changed"],
            json!([changed]),
            "{path}"
        );
    }
}
