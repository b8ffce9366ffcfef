//! The host does not take events for a while, or in another place: they wait, and are delivered.

use std::sync::Arc;

use serde_json::json;

use super::emitter::{Emitter, SOCKET, all_delivered, allow, text};
use super::verifier::{Auditor, audit_file};
use crate::harness::tests;
use crate::rig::Rig;
use crate::server::{PLUGIN, Server, Special, until, within_ticks};
use vault_plugin_secrets_smtp::audit::EXEMPT_RESPONSE_KEYS;

tests! {
    events_wait_for_a_login_a_quota_and_go_on_elsewhere,
    a_mount_in_a_namespace_is_delivered_by_a_role_above_or_beside_it needs [Namespaces],
}

/// Waits until `status` says that deliveries fail for this reason.
pub(super) async fn until_failing(rig: &Rig, code: &str) {
    within_ticks("deliveries fail", async || {
        let status = rig.read("status").await;
        let status = &status.body["data"];
        let failing = status["audit"] == "failing";
        (failing && status["audit_delivery"]["error_code"] == code).then_some(())
    })
    .await;
}

async fn events_wait_for_a_login_a_quota_and_go_on_elsewhere() {
    let listener = r#"listener "unix" { address = "api.sock" }"#;
    let special = Special {
        configuration: listener.to_owned(),
        ..Special::default()
    };
    let server = Server::special(&special).await;
    let rig = Rig::mounted(Arc::clone(&server), "smtp").await;
    let emitter = Emitter::enable(server.api(), &["127.0.0.1/32"]).await;
    let secret = emitter.deliver_at(&rig, server.address(), None).await;
    rig.create("acme").await;
    all_delivered(&rig).await;

    login_refused(&rig, &emitter, &secret).await;
    quota(&rig, &emitter).await;
    let moved = moved(&rig).await;
    over_a_unix_socket(&moved).await;
    let log = [audit_file(&server)];
    let auditor = Auditor::of(&server.api(), &["moved/smtp"]).await;
    let mounts = ["--complete", "--mount", "moved/smtp", "--mount", "smtp"];
    auditor.proves(&log, &mounts).await;
    rig.assert_nothing_leaked();
    moved.assert_nothing_leaked();
}

/// The secret is destroyed; a batch token cannot be, but a new process has none.
async fn login_refused(rig: &Rig, emitter: &Emitter, secret: &str) {
    emitter.destroy(secret).await;
    rig.server.reload().await;
    rig.rotate("acme").await.data();
    until_failing(rig, "audit_login_refused").await;
    let status = rig.read("status").await;
    let delivery = &status.data()["audit_delivery"];
    assert!(delivery["undelivered"].as_u64() >= Some(1), "{delivery}");
    assert!(delivery["failing_since"].is_string(), "{delivery}");
    // Nobody has told it: after three the engine rests, and the host does not lock the role.
    let refused = async || {
        let log = rig.server.log();
        log.matches("code=audit_login_refused").count()
    };
    until("the engine rests", async || {
        (refused().await >= 3).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert_eq!(refused().await, 3);
    emitter.deliver_at(rig, rig.server.address(), None).await;
    all_delivered(rig).await;
}

/// A rate limit on the whole mount meets the engine as well.
async fn quota(rig: &Rig, emitter: &Emitter) {
    let external = json!({
        "mode": "external", "address": null, "role_id": null, "secret_id": null,
    });
    rig.write("config/audit", external).await.no_content();
    for _ in 0..4 {
        rig.rotate("acme").await.data();
    }
    let operator = rig.server.api();
    let quota = json!({"path": "smtp/", "rate": 3, "interval": "40s"});
    let path = "sys/quotas/rate-limit/smtp";
    operator.write(path, quota).await.no_content();
    emitter.deliver_at(rig, rig.server.address(), None).await;
    until("the engine met the limit", async || {
        rig.server.log().contains("audit_limited").then_some(())
    })
    .await;
    operator.delete(path).await.no_content();
    all_delivered(rig).await;
}

/// The mount gets another path.
async fn moved(rig: &Rig) -> Rig {
    let operator = rig.server.api();
    allow(&operator, &["smtp", "moved/smtp"]).await;
    let wanted = json!({"from": "smtp", "to": "moved/smtp"});
    let moving = operator.write("sys/remount", wanted).await;
    let path = format!(
        "sys/remount/status/{}",
        text(&moving.data()["migration_id"])
    );
    until("the mount is moved", async || {
        let status = operator.read(&path).await;
        let status = &status.body["data"]["migration_info"]["status"];
        (status == "success").then_some(())
    })
    .await;
    let mut moved = rig.through(&rig.server);
    moved.mount = String::from("moved/smtp");
    moved.rotate("acme").await.data();
    all_delivered(&moved).await;
    moved
}

/// No address, so no CIDR; a periodic token.
async fn over_a_unix_socket(rig: &Rig) {
    let operator = rig.server.api();
    let wanted = json!({
        "policies": ["smtp-emitter"], "no_default_policy": true, "no_parent": true,
        "period": "1h",
    });
    let made = operator.write("auth/token/create", wanted).await;
    let token = text(&made.body["auth"]["client_token"]);
    rig.api.seen().secrets.insert(token.clone());
    let way = json!({
        "address": SOCKET, "token": token,
        "role_id": null, "secret_id": null, "auth_path": null,
    });
    rig.write("config/audit", way).await.no_content();
    rig.rotate("acme").await.data();
    all_delivered(rig).await;
}

async fn a_mount_in_a_namespace_is_delivered_by_a_role_above_or_beside_it() {
    let server = Server::start().await;
    let operator = server.api();
    let made = operator.write("sys/namespaces/team1", json!({})).await;
    made.data();
    let mount = json!({
        "type": PLUGIN,
        "config": {"audit_non_hmac_response_keys": EXEMPT_RESPONSE_KEYS},
    });
    let mounted = operator.write("team1/sys/mounts/smtp", mount).await;
    mounted.no_content();
    let rig = Rig::at(Arc::clone(&server), "team1/smtp").await;
    rig.create("acme").await;
    let auditor = Auditor::of(&operator, &["team1/smtp"]).await;
    let proves = async || {
        let mount = ["--complete", "--mount", "team1/smtp"];
        let log = [audit_file(&server)];
        auditor.proves(&log, &mount).await;
    };

    let emitter = Emitter::enable(server.api(), &["127.0.0.1/32"]).await;
    allow(&operator, &["team1/smtp"]).await;
    emitter.deliver_at(&rig, server.address(), None).await;
    let delivery = all_delivered(&rig).await;
    assert_eq!(delivery["exempt_keys"], "complete", "{delivery}");
    proves().await;

    let inside = Emitter::within(server.api(), "team1/").await;
    inside.deliver_at(&rig, server.address(), None).await;
    rig.rotate("acme").await.data();
    let delivery = all_delivered(&rig).await;
    assert_eq!(delivery["exempt_keys"], "complete", "{delivery}");
    let read = rig.read("config/audit").await;
    assert_eq!(read.data()["auth_path"], "team1/auth/approle");
    proves().await;
    rig.assert_nothing_leaked();
}
