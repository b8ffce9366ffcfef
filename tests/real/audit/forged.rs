//! Who calls `events/emit` and `events/ack` with anything made up gets what is stored, or nothing.

use serde_json::{Value, json};

use super::emitter::{Emitter, all_delivered};
use super::verifier::{Auditor, audit_file};
use crate::api::Api;
use crate::harness::tests;
use crate::rig::Rig;

tests! {
    what_is_made_up_changes_nothing,
}

const COLLECTOR: &str = include_str!("../../../scripts/policies/collector.hcl");
/// What stored events wait for, as the program says it.
const WAITING: i32 = 4;

/// What everybody is told of it.
async fn told(rig: &Rig) -> [Value; 3] {
    let status = rig.read("status").await.data()["audit_delivery"].clone();
    let events = rig.read("acme/events").await.data().clone();
    [status, events, rig.read("events").await.data().clone()]
}

/// Requires that `api` gets nothing but stored events, whatever it sends.
async fn emits_what_is_stored(rig: &Rig, api: &Api) {
    let stored = rig.read("acme/events").await;
    let stored = stored.data()["events"].as_array().unwrap();
    let forged = json!({
        "event": "smtp_credentials_destroyed", "event_id": "01FORGEDFORGEDFORGEDFORGED",
        "tenant": "globex", "tenant_id": "globex", "seq": 99, "hash": "f".repeat(64),
        "delivered": true, "replayed": true,
    });
    for event in stored {
        let path = rig.path(&format!("events/emit/acme/{}", event["seq"]));
        for body in [json!({}), forged.clone()] {
            let answer = api.write(&path, body).await;
            for key in ["event", "event_id", "tenant_id", "hash", "seq"] {
                assert_eq!(answer.data()[key], event[key], "{key}");
            }
        }
    }
    for path in ["acme/0", "acme/99", "globex/1", "acme/18446744073709551615"] {
        let path = rig.path(&format!("events/emit/{path}"));
        let answer = api.write(&path, forged.clone()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "unknown_event"),
            "{path}"
        );
    }
}

/// Requires that no made-up receipt is taken; `foreign` is one of another mount.
async fn refuses_receipts(rig: &Rig, api: &Api, foreign: &str) {
    let list = "eyJldmVudHMiOltbImFjbWUiLDEsIjAwMDAwMDAwMDAwMDAwMDAiXV19";
    let mac = foreign.split_once('.').unwrap().1;
    for receipt in ["x", "e30.AAAA", &format!("{list}.{mac}"), foreign] {
        let answer = api
            .write(&rig.path("events/ack"), json!({ "receipt": receipt }))
            .await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_receipt"));
    }
    let answer = api.write(&rig.path("events/ack"), json!({})).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

async fn what_is_made_up_changes_nothing() {
    let rig = Rig::alone("smtp").await;
    let operator = rig.server.api();
    let auditor = Auditor::appointed(&operator).await;
    let emitter = Emitter::enable(rig.server.api(), &["127.0.0.1/32"]).await;
    let address = rig.server.address().to_owned();
    let secret = emitter.deliver_at(&rig, &address, None).await;
    let yearly = json!({"check_schedule": "0 0 1 1 *"});
    rig.write("config", yearly).await.no_content();
    rig.create("acme").await;
    all_delivered(&rig).await;
    emitter.destroy(&secret).await;
    // From here on a collector delivers, and none is there yet.
    let external = json!({
        "mode": "external", "address": null, "role_id": null, "secret_id": null,
    });
    rig.write("config/audit", external).await.no_content();
    rig.rotate("acme").await.data();

    let other = Rig::mounted(std::sync::Arc::clone(&rig.server), "smtp-other").await;
    other.create("acme").await;
    let foreign = other.write("events/flush", json!({})).await;
    let foreign = foreign.data()["receipt"].as_str().unwrap().to_owned();

    let token = emitter.log_in(&rig).await;
    let (before, said) = (rig.raw_entries().await, told(&rig).await);
    // The rotation's two, and that the way was changed.
    assert!(said[0]["undelivered"].as_u64() >= Some(3), "{}", said[0]);
    emits_what_is_stored(&rig, &rig.api).await;
    emits_what_is_stored(&rig, &token).await;
    refuses_receipts(&rig, &rig.api, &foreign).await;
    for path in [
        "acme/admin",
        "acme/events",
        "events",
        "status",
        "config/audit",
    ] {
        assert_eq!(token.read(&rig.path(path)).await.status, 403, "{path}");
    }
    for path in ["events/flush", "events/ack", "acme/rotate"] {
        let answer = token.write(&rig.path(path), json!({})).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    assert!(before == rig.raw_entries().await, "storage changed");
    assert_eq!(told(&rig).await, said);
    let log = [audit_file(&rig.server)];
    let verdict = auditor.verify(&log, &[]).await;
    assert_eq!(verdict.code, WAITING, "{}", verdict.text);
    assert!(!rig.server.audit().contains("FORGED"));

    is_collected(&rig, &operator).await;
    auditor.proves(&log, &["--complete"]).await;
    rig.assert_nothing_leaked();
}

/// Somebody with the handed-out policy fetches and acknowledges what is left.
async fn is_collected(rig: &Rig, operator: &Api) {
    let policy = json!({ "policy": COLLECTOR });
    let written = operator.write("sys/policies/acl/collector", policy).await;
    written.no_content();
    let wanted = json!({"policies": ["collector"], "no_default_policy": true});
    let made = operator.write("auth/token/create", wanted).await;
    let token = made.body["auth"]["client_token"].as_str().unwrap();
    let collector = rig.api.with_token(token);
    let flushed = collector.write(&rig.path("events/flush"), json!({})).await;
    let flushed = flushed.data();
    let count = flushed["events"].as_array().unwrap().len();
    let receipt = json!({ "receipt": flushed["receipt"] });
    for (acknowledged, what) in [(count, "first"), (0, "again")] {
        let answer = collector
            .write(&rig.path("events/ack"), receipt.clone())
            .await;
        assert_eq!(answer.data()["acknowledged"], acknowledged, "{what}");
    }
}
