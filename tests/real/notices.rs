//! Notifications out of a real server: after a tick, and not twice after the plugin was killed.

use serde_json::{Value, json};

use super::harness::tests;
use super::rig::{EMAIL, Rig, revived};
use super::server::within_ticks;
use crate::support::sinks::{Begins, HookSink, MailSink};

tests! {
    a_rotation_is_told_after_a_tick_and_not_again_after_a_kill,
}

async fn a_rotation_is_told_after_a_tick_and_not_again_after_a_kill() {
    let rig = Rig::alone("smtp").await;
    let mail = MailSink::start(Begins::WithStartTls).await;
    let hook = HookSink::start().await;
    let ops = json!({
        "type": "email", "host": "localhost", "port": mail.address.port(),
        "ca_cert": mail.authority.pem(), "username": "vault", "password": "right",
        "from": "vault@ops.test", "to": ["oncall@ops.test"], "allowed_domains": ["acme.test"],
    });
    rig.write("config/notify/ops", ops).await.no_content();
    let receiver = json!({
        "type": "webhook", "url": hook.url("/hook"), "ca_cert": hook.authority.pem(),
        "hmac_key": "key-of-the-signature-1b9f",
    });
    rig.write("config/notify/hook", receiver).await.no_content();
    let listed = rig.list("config/notify").await;
    assert_eq!(listed.data()["keys"], json!(["hook", "ops"]));
    let tested = rig.write("config/notify/ops/test", json!({})).await;
    assert_eq!(tested.data()["delivered"], true);
    let changed = rig
        .write("config/notify/hook", json!({"url": hook.url("/other")}))
        .await;
    assert_eq!(changed.status, 400, "{}", changed.body);
    assert!(
        changed.error().contains("secret_required"),
        "{}",
        changed.body
    );

    rig.create("acme").await;
    let addresses = json!({"username": EMAIL, "admin_emails": ["admin@acme.test"]});
    rig.write("acme/admin", addresses).await;
    let rotated = rig.rotate("acme").await;
    let rotated = rotated.data()["event_id"].clone();
    // The test message, and two of the rotation.
    within_ticks("the mails and the document are there", async || {
        (mail.mails().len() == 3 && hook.posted().len() == 1).then_some(())
    })
    .await;
    let body: Value = serde_json::from_slice(&hook.posted()[0].body).unwrap();
    assert_eq!(body["event_id"], rotated);
    assert!(mail.mails().iter().all(|mail| mail.secured));

    // A new process reads the outbox, and finds nothing to tell but what is new.
    rig.server.kill_plugin().await;
    let again = revived(async || rig.rotate("acme").await).await;
    let again = again.data()["event_id"].clone();
    within_ticks("the second one is there", async || {
        (mail.mails().len() >= 5 && hook.posted().len() >= 2).then_some(())
    })
    .await;
    let told = hook.posted();
    let told: Vec<Value> = told
        .iter()
        .map(|posted| serde_json::from_slice::<Value>(&posted.body).unwrap()["event_id"].clone())
        .collect();
    assert_eq!(told, [rotated, again]);
    assert_eq!(mail.mails().len(), 5);
    let read = rig.read("config/notify/hook").await;
    assert_eq!(read.data()["delivered"], 2);
    assert_eq!(read.data()["last_error"], Value::Null);
    rig.assert_nothing_leaked();
}
