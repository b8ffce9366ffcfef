//! A batch in a real server, and the metrics as it hands them through.

use serde_json::json;

use super::harness::tests;
use super::rig::Rig;
use super::server::within_ticks;

tests! {
    a_batch_is_done_by_the_ticks_and_the_metrics_tell,
}

const ADMIN: &str = include_str!("../../scripts/policies/platform-admin.hcl");

async fn a_batch_is_done_by_the_ticks_and_the_metrics_tell() {
    let rig = Rig::shared("batches").await;
    rig.create("acme").await;
    // The policy of the documentation, for this mount.
    let policy = ADMIN.replace("\"smtp/", "\"batches/");
    let written = json!({ "policy": policy });
    rig.api
        .write("sys/policies/acl/batches-admin", written)
        .await
        .no_content();
    let wanted = json!({ "policies": ["batches-admin"], "no_default_policy": true });
    let token = rig.api.write("auth/token/create", wanted).await;
    let admin = rig
        .api
        .with_token(token.body["auth"]["client_token"].as_str().unwrap());

    let reset = json!({ "action": "reset", "all": true, "incident_id": "INC-1" });
    let refused = admin.write("batches/batches", reset).await;
    assert_eq!(refused.status, 403, "an emergency is the responder's");
    let all = json!({ "action": "rotate", "all": true, "reason": "a test" });
    let created = admin.write("batches/batches", all).await;
    let id = created.data()["id"].as_str().unwrap().to_owned();
    let listed = admin.list("batches/batches").await;
    assert_eq!(listed.data()["keys"], json!([id]));
    let path = format!("batches/batches/{id}");
    within_ticks("the batch is done", async || {
        let read = admin.read(&path).await;
        (read.data()["state"] == "done").then_some(())
    })
    .await;
    assert_eq!(admin.read(&path).await.data()["succeeded"], 1);
    assert_eq!(rig.admin("acme").await["version"], 2);
    rig.assert_live(&rig.password("acme").await).await;

    let status = admin.read("batches/status").await;
    assert_eq!(status.data()["tenants"], 1);
    let answer = admin
        .request("GET", "batches/metrics")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let body = answer.text().await.unwrap();
    let bulk = "smtp_rotations_total{type=\"bulk\",outcome=\"success\"} 1\n";
    assert!(body.contains(bulk), "{body}");
    assert!(!body.contains("acme"), "{body}");
    rig.assert_nothing_leaked();
}
