//! What `batches` takes, refuses and answers.

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::logical::{Operation, ReplicationState, StaticSystemView};

use super::{Fleet, tenant};
use crate::support::engine::Rig;
use crate::support::world::simulate;

#[tokio::test]
async fn what_is_no_batch_is_refused_and_nothing_changes() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    let many: Vec<String> = (0..901).map(tenant).collect();
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({ "action": "rotate" }), "invalid_field"),
        (json!({ "action": "destroy", "all": true }), "invalid_field"),
        (
            json!({ "action": "rotate", "all": true, "tenants": "acme" }),
            "invalid_field",
        ),
        (json!({ "action": "rotate", "all": false }), "invalid_field"),
        (
            json!({ "action": "rotate", "tenants": many }),
            "invalid_field",
        ),
        (
            json!({ "action": "rotate", "tenants": "acme,NOT A NAME" }),
            "invalid_tenant",
        ),
        (json!({ "action": "reset", "all": true }), "missing_field"),
        (
            json!({ "action": "rotate", "all": true, "canary": -1 }),
            "invalid_field",
        ),
        (
            json!({ "action": "rotate", "all": true, "canary": 901 }),
            "invalid_field",
        ),
        (
            json!({ "action": "rotate", "all": true, "max_failures": 1_000_001 }),
            "invalid_field",
        ),
    ] {
        rig.write("batches", body).await.fails(400, code);
    }
    let nothing = "01K8Z5Y4N6D3T7Q2W9R1M0XVBC";
    assert_eq!(rig.read(&format!("batches/{nothing}")).await.status, 404);
    rig.write(&format!("batches/{nothing}/cancel"), json!({}))
        .await
        .fails(404, "unknown_batch");
    rig.read("batches/short").await.fails(400, "invalid_field");
    assert_eq!(rig.list("batches").await.status, 404);
    assert_eq!(rig.storage.snapshot(), before);
    let most: Vec<String> = (0..900).map(tenant).collect();
    let taken = rig
        .write("batches", json!({ "action": "rotate", "tenants": most }))
        .await
        .ok();
    assert_eq!(taken.get("total"), 900);
}

/// Six tenants of which four are in the way of an ordinary change, each in its own.
async fn obstructed() -> Fleet {
    let fleet = Fleet::of(6, 2).await;
    let host = fleet.host.clone();
    host.write("bare/config", crate::support::world::server())
        .await
        .ok();
    host.delete("t0001/admin").await.ok();
    let hold = json!({ "incident_id": "INC-1", "reason": "test", "hold": true });
    host.write("t0002/reset", hold).await.ok();
    host.write("t0003/pause", json!({ "until": "1h" }))
        .await
        .ok();
    fleet
        .world
        .mail
        .edit(&super::server(0), &super::account("t0004"), |mailbox| {
            *mailbox = crate::support::mailbox::Mailbox::new("foreign");
        });
    host.write("t0004/verify", json!({})).await.ok();
    fleet
}

/// A plan names what is in the way, and does nothing.
#[test]
fn a_dry_run_tells_what_would_be_done_and_changes_nothing() {
    simulate(async {
        let fleet = obstructed().await;
        let host = &fleet.host;
        let before = fleet.world.storage.snapshot();
        let body = json!({ "action": "rotate", "dry_run": true,
            "tenants": "t0000,t0001,t0002,t0003,t0004,t0005,bare,nobody,t0000" });
        let plan = host.write("batches", body).await.ok();
        assert_eq!(plan.get("total"), 8, "named twice is one");
        assert_eq!(
            (plan.get("changes"), plan.get("servers")),
            (&json!(2), &json!(2))
        );
        let skips: Vec<(&str, &str)> = plan
            .get("skips")
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["tenant"].as_str().unwrap(), it["code"].as_str().unwrap()))
            .collect();
        assert_eq!(
            skips,
            [
                ("t0001", "deleted"),
                ("t0002", "on_hold"),
                ("t0003", "paused"),
                ("t0004", "drift"),
                ("bare", "no_credential"),
                ("nobody", "unknown_tenant"),
            ]
        );
        assert_eq!(plan.get("skipped").as_array().unwrap().len(), 6);
        // An emergency regards neither hold nor pause nor drift, and is no second one.
        let reset =
            json!({ "action": "reset", "incident_id": "INC-1", "all": true, "dry_run": true });
        let plan = host.write("batches", reset).await.ok();
        assert_eq!(
            (plan.get("total"), plan.get("changes")),
            (&json!(7), &json!(4))
        );
        let codes: Vec<&Value> = plan
            .get("skipped")
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["code"])
            .collect();
        assert_eq!(codes, ["already_reset", "deleted", "no_credential"]);
        assert_eq!(fleet.world.storage.snapshot(), before);
        assert_eq!(host.list("batches").await.status, 404);
    });
}

#[tokio::test]
async fn a_standby_lists_and_forwards_everything_else() {
    let rig = Rig::created().await;
    let all = json!({ "action": "rotate", "all": true });
    let created = rig.write("batches", all.clone()).await.ok();
    let id = created.text_of("id");
    let standby = rig.process(StaticSystemView {
        replication_state: ReplicationState(0x6000),
        ..StaticSystemView::default()
    });
    assert_eq!(standby.list("batches").await.ok().get("keys"), &json!([id]));
    standby
        .read(&format!("batches/{id}"))
        .await
        .fails(0, "read_only");
    for (path, body) in [
        ("batches".to_owned(), all),
        (
            "batches".to_owned(),
            json!({ "action": "rotate", "all": true, "dry_run": true }),
        ),
        (format!("batches/{id}/cancel"), json!({})),
    ] {
        let answer = standby.send(Operation::Update, &path, body).await;
        answer.fails(0, "read_only");
    }
    let writes = rig.password_writes();
    standby.tick().await;
    assert_eq!(rig.password_writes(), writes, "a standby does no work");
    rig.tick().await;
    assert_eq!(rig.password_writes(), writes + 1);
}

/// The host sends a request again whose plugin died: it made its batch already.
#[tokio::test]
async fn a_request_that_is_sent_again_makes_no_second_batch() {
    let mut rig = Rig::created().await;
    let body = json!({ "action": "rotate", "tenants": "acme", "canary": 0 });
    let first = rig.write_as("one-id", "batches", body.clone()).await.ok();
    rig.restart();
    let again = rig.write_as("one-id", "batches", body.clone()).await.ok();
    assert_eq!(first.data, again.data);
    rig.tick().await;
    rig.later(600);
    rig.write_as("one-id", "batches", body.clone()).await.ok();
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.get("version"), 2);
    for _ in 0..20 {
        rig.write("batches", body.clone()).await.ok();
    }
    rig.write("batches", body)
        .await
        .fails(409, "too_many_batches");
    let keys = rig.list("batches").await.ok();
    assert_eq!(keys.get("keys").as_array().unwrap().len(), 21);
    assert!(rig.fits(&rig.password().await));
}
