//! The emergency through the real host: wrapped by the plugin, unwrapped once, nowhere else.

use serde_json::{Value, json};

use super::api::Answer;
use super::harness::tests;
use super::rig::Rig;
use super::server::within_ticks;

tests! {
    it_is_unwrapped_once_and_its_password_is_nowhere_else,
    while_mailu_is_down_it_waits_for_a_tick,
    a_standby_forwards_it,
}

fn order() -> Value {
    json!({"incident_id": "INC-1", "reason": "laptop stolen"})
}

/// Unwraps an answer that the plugin had wrapped; returns what was in it and the token.
async fn unwrap(rig: &Rig, wrapped: &Answer) -> (Answer, String) {
    assert_eq!(wrapped.status, 200, "{}", wrapped.body);
    assert_eq!(wrapped.body["data"], Value::Null);
    let info = &wrapped.body["wrap_info"];
    let ttl = info["ttl"].as_u64().expect("a wrapped answer");
    assert!((1..=900).contains(&ttl), "{ttl}");
    let token = info["token"].as_str().unwrap().to_owned();
    let unwrapper = rig.api.with_token(&token);
    let opened = unwrapper.write("sys/wrapping/unwrap", json!({})).await;
    (opened, token)
}

async fn it_is_unwrapped_once_and_its_password_is_nowhere_else() {
    let rig = Rig::shared("reset").await;
    rig.create("acme").await;
    let old = rig.password("acme").await;
    rig.mailu.add_token(super::rig::EMAIL);
    // The client wants it longer; the mount's reveal_ttl is the shorter one and wins.
    let request = rig.api.request("POST", &rig.path("acme/reset"));
    let request = request.header("X-Vault-Wrap-TTL", "2h").json(&order());
    let wrapped = rig.api.send(request).await;
    let (opened, token) = unwrap(&rig, &wrapped).await;
    let data = opened.data();
    let password = data["password"].as_str().unwrap();
    assert_eq!(data["state"], "done");
    assert_eq!(data["tokens_revoked"], 1);
    assert_eq!(data["username"], super::rig::EMAIL);
    rig.assert_live(password).await;
    rig.assert_dead(&old).await;
    assert_eq!(rig.password("acme").await, password);
    let again = rig.api.with_token(&token);
    let again = again.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(again.status, 400, "once: {}", again.body);
    // A person's look is the same.
    let look = rig.write("acme/reveal", json!({"reason": "on call"})).await;
    let (opened, _) = unwrap(&rig, &look).await;
    assert_eq!(opened.data()["password"], password);
    // The event is told by a path that is not wrapped.
    let events = rig.read("acme/events").await;
    let names: Vec<&str> = events.data()["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(
        names[..3],
        [
            "smtp_credentials_revealed",
            "smtp_credentials_emergency_reset",
            "smtp_credentials_emergency_reset_started"
        ]
    );
    rig.assert_nothing_leaked();
}

async fn while_mailu_is_down_it_waits_for_a_tick() {
    let rig = Rig::shared("reset-queued").await;
    rig.create("acme").await;
    let old = rig.password("acme").await;
    rig.mailu.set_admin_down(true);
    let queued = rig.write("acme/reset", order()).await;
    assert_eq!(queued.data()["state"], "queued", "{}", queued.body);
    assert_eq!(queued.body["wrap_info"], Value::Null);
    rig.mailu.set_admin_down(false);
    within_ticks("a tick has finished the reset", async || {
        let status = rig.read("acme/status").await;
        status.data()["open_work"].is_null().then_some(())
    })
    .await;
    let look = rig.write("acme/reveal", json!({"reason": "on call"})).await;
    let (opened, _) = unwrap(&rig, &look).await;
    let password = opened.data()["password"].as_str().unwrap();
    rig.assert_live(password).await;
    rig.assert_dead(&old).await;
    rig.assert_nothing_leaked();
}

/// The answer to a request through a standby is the active node's, and wrapped there.
async fn a_standby_forwards_it() {
    let cluster = super::cluster::Cluster::shared().await;
    let version = Some(super::server::VERSION);
    let (active, standby) = cluster.rigs("reset", version).await;
    active.create("acme").await;
    let wrapped = standby.write("acme/reset", order()).await;
    let (opened, _) = unwrap(&standby, &wrapped).await;
    let password = opened.data()["password"].as_str().unwrap();
    active.assert_live(password).await;
    active.assert_nothing_leaked();
    standby.assert_nothing_leaked();
}
