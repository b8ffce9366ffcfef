//! Neighbours that mean harm: a provisioner who edits raw storage, a tenant that loops, a mail
//! server that lies to ticks and resets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vault_plugin_secrets_smtp::engine::storage::record::TenantRecord;
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::support::engine::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{Config, Fault, MailuStandin, Rule};

/// Edits a stored record behind the engine's back, as somebody with raw storage may.
async fn edit(rig: &mut Rig, tenant: &str, change: impl FnOnce(&mut Value)) {
    let key = format!("tenant/{tenant}");
    let entry = rig.storage.get(&key).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    change(&mut record);
    let bytes = serde_json::to_vec(&record).unwrap();
    let entry = StorageEntry::new(key, bytes);
    rig.storage.put(entry).await.unwrap();
    rig.restart();
}

/// Everything that calls Mailu, by a person and by the tick.
async fn call_mailu(rig: &Rig, tenant: &str) -> BTreeSet<(u16, String)> {
    let mut answers = BTreeSet::new();
    let incident = json!({ "incident_id": "INC-1", "reason": "x" });
    for (path, body) in [
        ("verify", json!({})),
        ("rotate", json!({})),
        ("reset", incident),
    ] {
        let answer = rig.write(&format!("{tenant}/{path}"), body).await;
        answers.insert((answer.status, answer.code));
    }
    rig.later(86_400);
    rig.tick().await;
    answers
}

#[tokio::test]
async fn an_endpoint_edited_in_storage_is_sent_neither_token_nor_password() {
    let evil = MailuStandin::start(Config::default().user(EMAIL, FIRST));
    let evil = evil.await.unwrap();
    for member in ["mailu_url", "ca_cert", "tls_server_name"] {
        let mut rig = Rig::created().await;
        let known = rig.settled().await;
        let (url, ca) = (evil.url(), evil.ca_pem().to_owned());
        edit(&mut rig, "acme", |record| {
            let server = &mut record["server"];
            match member {
                "mailu_url" => {
                    server["mailu_url"] = json!(url);
                    server["ca_cert"] = json!(ca);
                }
                "ca_cert" => server["ca_cert"] = json!(ca),
                _ => server["tls_server_name"] = json!("localhost"),
            }
        })
        .await;
        let (before, calls) = (rig.record("acme").await, rig.mailu.journal().len());
        let answers = call_mailu(&rig, "acme").await;
        let refused = (500, String::from("secret_unreadable"));
        // An emergency is in force all the same, and waits.
        let queued = (200, String::new());
        assert_eq!(answers, BTreeSet::from([queued, refused]), "{member}");
        assert!(evil.journal().is_empty(), "{member}");
        assert_eq!(rig.mailu.journal().len(), calls, "{member}");
        let (before, after) = (before.unwrap(), rig.record("acme").await.unwrap());
        let passwords = |record: &TenantRecord| {
            let versions = &record.credential.as_ref().unwrap().versions;
            let sealed = versions.iter().map(|it| it.password.clone());
            sealed.collect::<Vec<_>>()
        };
        assert_eq!(passwords(&after), passwords(&before), "{member}");
        let sent = after.intent.is_some_and(|intent| intent.sends > 0);
        assert!(!sent, "{member}: nothing was sent");
        assert!(rig.fits(&known));
        rig.read("acme/admin").await.fails(500, "secret_unreadable");
    }
}

#[tokio::test]
async fn a_ciphertext_moved_to_another_tenant_or_version_does_not_open() {
    let mut rig = Rig::with(
        Config::default()
            .user(EMAIL, FIRST)
            .user("b@example.test", "x"),
    )
    .await;
    for (tenant, user) in [("acme", EMAIL), ("other", "b@example.test")] {
        rig.configure(tenant).await;
        let body = json!({ "username": user });
        rig.write(&format!("{tenant}/admin"), body).await.ok();
    }
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    let stolen = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let stolen: Value = serde_json::from_slice(&stolen.value).unwrap();
    let versions = &stolen["credential"]["versions"];
    let (first, second) = (
        versions[0]["password"].clone(),
        versions[1]["password"].clone(),
    );
    // Into another tenant's record.
    edit(&mut rig, "other", |record| {
        record["credential"]["versions"][0]["password"] = first.clone();
    })
    .await;
    rig.read("other/admin")
        .await
        .fails(500, "secret_unreadable");
    // Into another version of the same record.
    edit(&mut rig, "acme", |record| {
        record["credential"]["versions"][1]["password"] = first;
        record["credential"]["versions"][0]["password"] = second;
    })
    .await;
    rig.read("acme/admin").await.fails(500, "secret_unreadable");
    // The whole record under another name.
    let moved = serde_json::to_vec(&stolen).unwrap();
    let entry = StorageEntry::new("tenant/thief", moved);
    rig.storage.put(entry).await.unwrap();
    rig.read("thief/admin")
        .await
        .fails(500, "record_unreadable");
    // A token from one tenant's server to another's.
    edit(&mut rig, "other", |record| {
        record["server"]["api_token"] = stolen["server"]["api_token"].clone();
    })
    .await;
    rig.write("other/verify", json!({}))
        .await
        .fails(500, "secret_unreadable");
}

/// What a server may answer to a look, and what the engine must not conclude from it.
#[tokio::test]
async fn a_lying_look_concludes_nothing() {
    let evil = MailuStandin::start(Config::default()).await.unwrap();
    for fault in [
        Fault::HtmlOk,
        Fault::Garbage,
        Fault::HugeBody { bytes: 64 << 20 },
        Fault::Redirect {
            location: format!("{}/api/v1/user/{EMAIL}", evil.url()),
        },
        Fault::BadGateway,
        Fault::CutBefore,
    ] {
        let rig = Rig::created().await;
        let known = rig.settled().await;
        rig.mailu
            .fault(Rule::new(fault.clone()).method("GET").times(20));
        rig.tick().await;
        let verified = rig.write("acme/verify", json!({})).await;
        assert!(
            matches!(verified.status, 400 | 503),
            "{fault:?} {verified:?}"
        );
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(read.get("state"), "settled", "{fault:?}");
        assert_eq!(read.text_of("password"), known);
        rig.mailu.clear_faults();
        rig.settled().await;
    }
    assert!(evil.journal().is_empty(), "no redirect is followed");
}

#[tokio::test]
async fn a_forged_hash_is_drift_at_most_and_31_rounds_are_not_computed() {
    let rig = Rig::created().await;
    let known = rig.settled().await;
    let digest = "a".repeat(31);
    for (hash, state) in [
        // An hour and more of work each.
        (
            format!("$bcrypt-sha256$v=2,t=2b,r=31$abcdefghijklmnopqrstuu${digest}"),
            "settled",
        ),
        (
            format!("$bcrypt-sha256$v=2,t=2b,r=99$abcdefghijklmnopqrstuu${digest}"),
            "settled",
        ),
        (String::from("$bcrypt-sha256$v=2,t=2b"), "settled"),
        (format!("$6$salt${digest}"), "settled"),
        ("x".repeat(100_000), "settled"),
        // Somebody's own.
        (
            format!("$bcrypt-sha256$v=2,t=2b,r=4$abcdefghijklmnopqrstuu${digest}"),
            "drift",
        ),
    ] {
        rig.mailu.set_hash_directly(EMAIL, &hash);
        rig.later(86_400);
        rig.tick().await;
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(read.get("state"), state, "{hash:.60}");
        assert_eq!(read.text_of("password"), known);
    }
    assert_eq!(
        rig.password_writes(),
        1,
        "and nothing is sent because of it"
    );
}

/// What each check costs is the server's choice, and the proofs of all servers wait for each other.
#[tokio::test]
async fn of_a_costly_hash_two_checks_are_computed_and_nothing_is_concluded() {
    let rig = Rig::created().await;
    // Real work of seconds: longer than a request waits on a busy machine.
    rig.write("config", json!({ "wait": 25 })).await.ok();
    for _ in 0..2 {
        rig.later(3600);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    let (known, digest) = (rig.settled().await, "a".repeat(31));
    // With three versions kept, all are checked of one hash and two of the other.
    for (rounds, state) in [(15, "settled"), (4, "drift")] {
        let hash = format!("$bcrypt-sha256$v=2,t=2b,r={rounds}$abcdefghijklmnopqrstuu${digest}");
        rig.mailu.set_hash_directly(EMAIL, &hash);
        let verified = rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(verified.get("state"), state, "{rounds}");
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(read.text_of("password"), known);
    }
}

#[tokio::test]
async fn a_server_that_lies_about_a_reset_is_not_believed() {
    for fault in [Fault::Lie, Fault::HtmlOk, Fault::ErrorBefore] {
        let rig = Rig::created().await;
        let old = rig.settled().await;
        rig.mailu
            .fault(Rule::new(fault.clone()).method("PATCH").times(9));
        let body = json!({ "incident_id": "INC-1", "reason": "x" });
        let answer = rig.write("acme/reset", body.clone()).await.ok();
        assert_eq!(answer.get("state"), "queued", "{fault:?}");
        assert!(answer.get("password").is_null() && rig.fits(&old));
        rig.mailu.clear_faults();
        let answer = rig.write("acme/reset", body).await.ok();
        assert_eq!(answer.get("state"), "done");
        assert_eq!(rig.settled().await, answer.text_of("password"));
    }
}

#[tokio::test]
async fn a_looping_tenant_changes_nothing_at_mailu_and_does_not_grow_its_record() {
    let rig = Rig::created().await;
    rig.write("acme/rotate", json!({})).await.ok();
    let writes = rig.password_writes();
    let mut sizes = Vec::new();
    for _ in 0..40 {
        rig.write("acme/rotate", json!({}))
            .await
            .fails(409, "too_soon");
        rig.write("acme/verify", json!({})).await.ok();
        let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
        sizes.push(entry.value.len());
    }
    assert_eq!(rig.password_writes(), writes);
    let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(most - least < 200, "{least} to {most} bytes");
    // As often as it may: old versions go, the record stays within bounds.
    for _ in 0..60 {
        rig.later(300);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    assert!(entry.value.len() < 64 << 10, "{} bytes", entry.value.len());
    rig.settled().await;
}

/// A full record refuses a rotation before Mailu hears of it, and never a reset.
#[tokio::test]
async fn a_reset_is_never_refused_for_the_record_s_size() {
    let mut rig = Rig::created().await;
    edit(&mut rig, "acme", |record| {
        let versions = record["credential"]["versions"].as_array_mut().unwrap();
        let mut filler = versions[0].clone();
        filler["request_id"] = json!("r".repeat(8 << 10));
        // Young and settled: an ordinary change would keep them all.
        for number in 2..=26 {
            filler["number"] = json!(number);
            versions.push(filler.clone());
        }
        record["last_version"] = json!(26);
    })
    .await;
    let writes = rig.password_writes();
    rig.write("acme/rotate", json!({}))
        .await
        .fails(400, "record_full");
    assert_eq!(rig.password_writes(), writes);
    let body = json!({ "incident_id": "INC-1", "reason": "x" });
    let answer = rig.write("acme/reset", body).await.ok();
    assert_eq!(answer.get("state"), "done");
    assert_eq!(answer.get("version"), 27);
    assert!(rig.fits(answer.text_of("password")));
    let record = rig.record("acme").await.unwrap();
    let kept = record.credential.unwrap().versions;
    assert!(
        kept.iter().any(|version| version.number == 1),
        "the last one"
    );
}
