//! The host's tick: settling, second looks, the sweep.

use chrono::{DateTime, Utc};
use serde_json::json;
use vault_plugin_secrets_smtp::clock::Clock as _;

use crate::support::engine::{EMAIL, Rig};
use crate::support::mailu::standin::{Fault, HashShown, Rule};

/// A rotation whose answer and whose look were lost.
async fn open_change(fault: Fault) -> Rig {
    let rig = Rig::created().await;
    rig.tick().await;
    rig.mailu.fault(Rule::new(fault).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    rig
}

#[tokio::test]
async fn a_tick_settles_what_a_request_left_open() {
    for fault in [Fault::CutAfter, Fault::CutBefore, Fault::ErrorAfter] {
        let mut rig = open_change(fault.clone()).await;
        rig.restart();
        let calls = rig.mailu.journal().len();
        rig.later(59);
        rig.tick().await;
        let writes = rig.password_writes();
        assert!(
            writes <= 2 && rig.mailu.journal().len() <= calls + 1,
            "not yet"
        );
        rig.later(1);
        rig.tick().await;
        rig.settled().await;
        assert_eq!(rig.read("acme/admin").await.get("version"), 2, "{fault:?}");
        let story = rig.story("acme").await;
        assert_eq!(story.last().unwrap(), "rotated");
    }
}

#[tokio::test]
async fn tries_come_further_and_further_apart() {
    let rig = open_change(Fault::CutBefore).await;
    rig.mailu.set_admin_down(true);
    let mut tried = Vec::new();
    let mut before = rig.mailu.journal().len();
    for minute in 1..=36 {
        rig.later(60);
        rig.tick().await;
        let calls = rig.mailu.journal().len();
        if calls > before {
            tried.push(minute);
        }
        before = calls;
    }
    assert_eq!(tried, [1, 3, 7, 15, 25, 35]);
    rig.mailu.set_admin_down(false);
    rig.later(600);
    rig.tick().await;
    rig.settled().await;
    assert!(rig.read("acme/status").await.get("last_error").is_null());
}

#[tokio::test]
async fn a_change_that_mailu_never_takes_is_given_up_and_says_so() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(20));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    for _ in 0..60 {
        rig.later(60);
        rig.tick().await;
        let read = rig.read("acme/admin").await;
        assert_eq!(read.text_of("password"), old);
    }
    assert_eq!(rig.settled().await, old);
    assert_eq!(rig.password_writes(), 1 + 8, "eight sends");
    let abandoned = rig.read("acme/versions/2").await.ok();
    assert_eq!(abandoned.get("position"), "abandoned");
    let story = rig.story("acme").await;
    assert_eq!(story.last().unwrap(), "rotation_failed(abandoned)");
    assert_eq!(
        rig.read("acme/status").await.get("last_error"),
        &json!(null)
    );
    // The next change takes a new value.
    rig.mailu.clear_faults();
    rig.write("acme/rotate", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("version"), 3);
}

#[tokio::test]
async fn a_drift_is_never_fought_over_by_itself() {
    let rig = open_change(Fault::CutBefore).await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    let writes = rig.password_writes();
    for _ in 0..10 {
        rig.later(600);
        rig.tick().await;
    }
    assert_eq!(rig.password_writes(), writes);
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert!(rig.mailu.password_fits(EMAIL, "foreign"));
    let drifts = rig.story("acme").await;
    let drifts = drifts.iter().filter(|it| it.starts_with("drift"));
    assert_eq!(drifts.count(), 1, "told once");
    rig.check_pointers("acme").await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_write_that_lands_after_the_settling_is_noticed_within_minutes() {
    let rig = Rig::created().await;
    rig.tick().await;
    let first = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::ApplyLater).method("PATCH"));
    rig.write("acme/rotate", json!({})).await.ok();
    let second = rig.settled().await;
    rig.later(300);
    rig.write("acme/rotate", json!({})).await.ok();
    let third = rig.settled().await;
    // The hung server applies the first send of version 2.
    rig.mailu.release().await;
    assert!(rig.fits(&second));
    rig.later(600);
    rig.tick().await;
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.get("live_version"), 2);
    assert_eq!(read.text_of("password"), second);
    assert!(second != first && second != third);
    rig.check_pointers("acme").await;
}

#[tokio::test]
async fn a_look_that_cannot_be_taken_is_put_off() {
    let rig = Rig::created().await;
    rig.tick().await;
    rig.mailu.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    rig.write("acme/rotate", json!({})).await.ok();
    rig.mailu.set_admin_down(true);
    for _ in 0..5 {
        rig.later(180);
        rig.tick().await;
        let record = rig.record("acme").await.unwrap();
        assert!(!record.open.confirm_at.is_empty());
        rig.check_pointers("acme").await;
    }
    rig.mailu.set_admin_down(false);
    for _ in 0..3 {
        rig.later(600);
        rig.tick().await;
    }
    let record = rig.record("acme").await.unwrap();
    assert!(record.open.confirm_at.is_empty());
    rig.settled().await;
}

#[tokio::test]
async fn the_sweep_comes_with_the_first_tick_and_daily_and_costs_one_look() {
    let tenants = |rig: &Rig| {
        let entries = rig.storage.snapshot();
        let of_tenants = entries.entries().filter(|it| it.key.starts_with("tenant/"));
        of_tenants.map(|it| it.value.clone()).collect::<Vec<_>>()
    };
    let mut rig = Rig::created().await;
    rig.tick().await;
    let before = tenants(&rig);
    let quiet = rig.mailu.journal().len();
    for _ in 0..20 {
        rig.later(3600);
        rig.tick().await;
    }
    assert_eq!(rig.mailu.journal().len(), quiet, "once a day");
    rig.later(4 * 3600);
    rig.tick().await;
    assert_eq!(rig.mailu.journal().len(), quiet + 1, "one GET");
    assert_eq!(tenants(&rig), before, "and nothing is written");
    rig.restart();
    rig.tick().await;
    assert_eq!(rig.mailu.journal().len(), quiet + 2);
}

#[tokio::test]
async fn the_sweep_notices_a_foreign_and_an_older_password_and_their_end() {
    let mut rig = Rig::created().await;
    let first = rig.settled().await;
    rig.write("acme/rotate", json!({})).await.ok();
    let second = rig.settled().await;
    let current = rig.mailu.user(EMAIL).unwrap().hash;
    for (password, live, answered) in [
        ("foreign", json!(null), &second),
        (first.as_str(), json!(1), &first),
    ] {
        rig.mailu.set_password_directly(EMAIL, password);
        rig.restart();
        rig.tick().await;
        let read = rig.read("acme/admin").await;
        assert_eq!(read.get("state"), "drift", "{live}");
        assert_eq!(read.get("live_version"), &live);
        assert_eq!(read.text_of("password"), answered);
    }
    rig.mailu.set_hash_directly(EMAIL, &current);
    rig.restart();
    rig.tick().await;
    assert_eq!(rig.settled().await, second);
}

#[tokio::test]
async fn the_sweep_says_nothing_about_hashes_it_cannot_check() {
    for shown in [HashShown::Hidden, HashShown::OtherScheme] {
        let rig = Rig::created().await;
        rig.mailu.set_hash_shown(shown);
        rig.tick().await;
        let read = rig.read("acme/admin").await;
        assert_eq!(read.get("state"), "settled", "{shown:?}");
    }
}

#[tokio::test]
async fn a_storage_that_went_back_is_noticed_and_nothing_is_changed_by_itself() {
    let mut rig = Rig::created().await;
    let old = rig.settled().await;
    let earlier = rig.storage.snapshot();
    rig.write("acme/rotate", json!({})).await.ok();
    let newer = rig.settled().await;
    rig.storage.restore(&earlier);
    rig.restart();
    let lineage = rig.record("acme").await.unwrap().lineage;
    rig.tick().await;
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.text_of("password"), old, "what is known");
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "stale_storage");
    assert_ne!(rig.record("acme").await.unwrap().lineage, lineage);
    // Looked at again and again, told once, and never changed.
    let writes = rig.password_writes();
    for _ in 0..3 {
        rig.later(86_400);
        rig.tick().await;
    }
    assert_eq!(rig.password_writes(), writes);
    assert!(rig.fits(&newer));
    let story = rig.story("acme").await;
    let told = story
        .iter()
        .filter(|it| *it == "drift_detected(stale_storage)");
    assert_eq!(told.count(), 1, "{story:?}");
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
    rig.later(86_400);
    rig.tick().await;
    rig.settled().await;
}

#[tokio::test]
async fn an_open_change_of_a_storage_that_went_back_is_not_sent_again() {
    let mut rig = open_change(Fault::CutBefore).await;
    let earlier = rig.storage.snapshot();
    rig.later(3600);
    rig.write("acme/verify", json!({})).await.ok();
    rig.later(3600);
    rig.write("acme/rotate", json!({})).await.ok();
    let live = rig.settled().await;
    rig.storage.restore(&earlier);
    rig.restart();
    let writes = rig.password_writes();
    for _ in 0..5 {
        rig.later(3600);
        rig.tick().await;
    }
    assert_eq!(rig.password_writes(), writes);
    assert!(rig.fits(&live));
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
}

#[tokio::test]
async fn a_second_cluster_with_the_same_record_is_noticed() {
    let rig = Rig::created().await;
    rig.tick().await;
    // A copy of the storage lives on elsewhere, and rotates as often as this one.
    let copy = std::sync::Arc::new(vault_plugin_secrets_smtp::logical::MemoryStorage::new());
    copy.restore(&rig.storage.snapshot());
    rig.write("acme/rotate", json!({})).await.ok();
    let parts =
        crate::support::engine::parts(&rig.clock, vault_plugin_secrets_smtp::provider::connector());
    let other = crate::support::engine::Host::new(parts, copy as _, Default::default());
    other.write("acme/rotate", json!({})).await.ok();
    rig.later(86_400);
    rig.tick().await;
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "other_owner");
}

#[tokio::test]
async fn a_person_who_looks_ends_the_suspicion_if_all_is_well() {
    let mut rig = Rig::created().await;
    let old = rig.settled().await;
    // Somebody copied the mark of another cluster into the comment.
    rig.mailu
        .set_field(EMAIL, "comment", json!("[smtp other 99 other]"));
    rig.restart();
    rig.tick().await;
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.text_of("password"), old, "which is live");
    rig.later(86_400);
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, old);
    rig.later(86_400);
    rig.tick().await;
    assert_eq!(rig.settled().await, old);
}

#[tokio::test]
async fn an_import_takes_the_mark_of_an_earlier_life_over() {
    let rig = Rig::configured().await;
    let foreign = json!("ask Ada [smtp other 99 other]");
    rig.mailu.set_field(EMAIL, "comment", foreign);
    let import = json!({ "username": EMAIL, "password": crate::support::engine::FIRST });
    let mut take_over = import.clone();
    rig.write("acme/admin", import)
        .await
        .fails(400, "other_owner");
    assert_eq!(rig.read("acme/admin").await.status, 404);
    take_over["take_over"] = json!(true);
    rig.write("acme/admin", take_over).await.ok();
    rig.tick().await;
    rig.settled().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.later(86_400);
    rig.tick().await;
    rig.settled().await;
    assert!(
        rig.mailu
            .comment(EMAIL)
            .unwrap()
            .starts_with("ask Ada [smtp ")
    );
}

#[tokio::test]
async fn a_deleted_or_unconfigured_tenant_is_left_alone() {
    let rig = open_change(Fault::CutAfter).await;
    rig.later(60);
    rig.tick().await;
    rig.settled().await;
    rig.delete("acme/admin").await.ok();
    rig.check_pointers("acme").await;
    let calls = rig.mailu.journal().len();
    for _ in 0..3 {
        rig.later(86_400);
        rig.tick().await;
    }
    assert_eq!(rig.mailu.journal().len(), calls);
}

#[tokio::test]
async fn a_pointer_without_work_is_removed() {
    let rig = Rig::created().await;
    let entry = |key| vault_plugin_secrets_smtp::logical::StorageEntry::new(key, b"{}".to_vec());
    use vault_plugin_secrets_smtp::logical::Storage as _;
    for key in ["open/acme", "open/gone", "open/NOT A NAME"] {
        rig.storage.put(entry(key)).await.unwrap();
    }
    rig.tick().await;
    let left = rig.storage.list("open/").await.unwrap();
    assert_eq!(left, ["NOT A NAME"]);
    rig.settled().await;
}

#[tokio::test]
async fn a_standby_and_a_mount_that_goes_away_do_nothing() {
    use vault_plugin_secrets_smtp::logical::{ReplicationState, StaticSystemView};
    let rig = open_change(Fault::CutAfter).await;
    rig.later(3600);
    let calls = rig.mailu.journal().len();
    for system in [
        StaticSystemView {
            replication_state: ReplicationState(0x6000),
            ..StaticSystemView::default()
        },
        StaticSystemView {
            tainted: true,
            ..StaticSystemView::default()
        },
    ] {
        rig.process(system).tick().await;
    }
    assert_eq!(rig.mailu.journal().len(), calls);
}

#[tokio::test]
async fn a_hanging_server_keeps_no_other_tenant_waiting() {
    let rig = open_change(Fault::CutAfter).await;
    let slow = crate::support::mailu::standin::MailuStandin::start(
        crate::support::mailu::standin::Config::default().user(EMAIL, "x"),
    )
    .await
    .unwrap();
    let server = json!({
        "mailu_url": slow.url(), "ca_cert": slow.ca_pem(), "api_token": slow.token(),
    });
    rig.write("slow/config", server).await.ok();
    rig.write("slow/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    slow.fault(Rule::new(Fault::CutAfter).method("PATCH"));
    slow.fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.later(3600);
    rig.write("slow/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    slow.fault(Rule::new(Fault::Hold { ms: None }).times(9));
    rig.later(60);
    let tick = rig.send(
        vault_plugin_secrets_smtp::logical::Operation::Rollback,
        "",
        json!({}),
    );
    tick.await.ok();
    slow.wait_held(1).await;
    // While the one hangs, the other becomes settled.
    while rig.read("acme/admin").await.get("state") != "settled" {
        tokio::task::yield_now().await;
    }
    rig.settled().await;
    slow.release().await;
    rig.backend.idle().await;
    let read = rig.read("slow/admin").await;
    assert_eq!(read.get("state"), "settled");
}

/// What a tick would have to do next, as the record says.
async fn next_work(rig: &Rig) -> Option<DateTime<Utc>> {
    let now = rig.clock.now();
    rig.record("acme").await.unwrap().next_work(now)
}

#[tokio::test]
async fn nothing_waits_when_all_is_settled() {
    let rig = open_change(Fault::CutAfter).await;
    assert!(next_work(&rig).await.unwrap() > rig.clock.now());
    for _ in 0..4 {
        rig.later(600);
        rig.tick().await;
    }
    assert_eq!(next_work(&rig).await, None);
    rig.settled().await;
}

/// A glitch of a year, put right again.
const YEAR: u64 = 365 * 86_400;

#[tokio::test]
async fn a_clock_that_was_ahead_locks_nobody_out() {
    let rig = Rig::created().await;
    let right = rig.clock.now();
    rig.later(YEAR);
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    rig.clock.jump_to(right);
    rig.tick().await;
    rig.settled().await;
    // Looks planned by that clock do not push the new ones out.
    for _ in 0..3 {
        rig.later(3600);
        rig.tick().await;
    }
    assert_eq!(next_work(&rig).await, None);
    // A reset of that time is no repeat of today's.
    let order = json!({ "incident_id": "INC-1", "reason": "x" });
    let right = rig.clock.now();
    rig.later(YEAR);
    let first = rig.write("acme/reset", order.clone()).await.ok();
    rig.clock.jump_to(right);
    let second = rig.write("acme/reset", order).await.ok();
    assert_ne!(first.text_of("password"), second.text_of("password"));
    assert_eq!(rig.settled().await, second.text_of("password"));
}

#[tokio::test]
async fn a_given_up_change_is_given_up_whatever_the_clock_was() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(99));
    let right = rig.clock.now();
    rig.later(YEAR);
    for _ in 0..4 {
        rig.write("acme/rotate", json!({}))
            .await
            .fails(503, "mailu_unreachable");
    }
    rig.write("acme/rotate", json!({}))
        .await
        .fails(409, "not_taken");
    // Somebody who only asks is told what is live.
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 1);
    rig.clock.jump_to(right);
    rig.mailu.clear_faults();
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_lost_pointer_is_found_by_the_sweep() {
    use vault_plugin_secrets_smtp::logical::Storage as _;
    for kind in ["change", "reset"] {
        let mut rig = open_change(Fault::CutAfter).await;
        if kind == "reset" {
            rig.mailu.set_admin_down(true);
            let order = json!({ "incident_id": "INC-1", "reason": "x" });
            rig.write("acme/reset", order).await.ok();
            rig.mailu.set_admin_down(false);
        }
        rig.storage.delete("open/acme").await.unwrap();
        rig.restart();
        rig.later(7200);
        rig.tick().await;
        rig.later(60);
        rig.tick().await;
        rig.settled().await;
    }
}

#[tokio::test]
async fn the_live_version_is_not_dropped_before_another_one_is_live() {
    let mut rig = Rig::created().await;
    let first = rig.settled().await;
    let restored = rig.mailu.user(EMAIL).unwrap();
    for _ in 0..3 {
        rig.later(100 * 86_400);
        rig.write("acme/rotate", json!({})).await.ok();
    }
    // Mailu is restored from an old backup, and settled versions are no longer wanted.
    rig.write("config", json!({ "max_versions": 2 })).await.ok();
    rig.mailu.set_hash_directly(EMAIL, &restored.hash);
    rig.restart();
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.text_of("password"), first);
    rig.later(3600);
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    let read = rig.read("acme/admin").await.ok();
    assert!(read.data.to_string().contains(&first), "it is live");
    // When the new one is, the old one goes.
    rig.write("acme/verify", json!({})).await.ok();
    // The hash was not that of the last proof: whether a login writes it back is seen first.
    rig.later(60);
    rig.tick().await;
    rig.settled().await;
    let kept = rig.list("acme/versions").await;
    assert_eq!(kept.get("keys"), &json!(["4", "5"]));
}

#[tokio::test]
async fn behind_a_stranger_a_tick_never_sends_however_often_it_looks() {
    // An older stored version is live: without the mark the change would go on.
    let mut rig = open_change(Fault::CutBefore).await;
    let old = rig.mailu.user(EMAIL).unwrap().hash;
    rig.mailu
        .set_field(EMAIL, "comment", json!("[smtp other 99 other]"));
    rig.mailu.set_hash_directly(EMAIL, &old);
    let writes = rig.password_writes();
    for _ in 0..4 {
        rig.restart();
        rig.later(86_400);
        rig.tick().await;
        rig.mailu.set_hash_shown(HashShown::Hidden);
    }
    assert_eq!(rig.password_writes(), writes);
    rig.mailu.set_hash_shown(HashShown::Real);
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    // A person decides.
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_compromised_value_behind_a_stranger_is_for_a_person() {
    let mut rig = Rig::created().await;
    let old = rig.mailu.user(EMAIL).unwrap().hash;
    let order = json!({ "incident_id": "INC-1", "reason": "x" });
    rig.write("acme/reset", order).await.ok();
    let writes = rig.password_writes();
    rig.mailu.set_hash_directly(EMAIL, &old);
    rig.mailu
        .set_field(EMAIL, "comment", json!("[smtp other 99 other]"));
    for _ in 0..3 {
        rig.restart();
        rig.later(86_400);
        rig.tick().await;
    }
    assert_eq!(rig.password_writes(), writes);
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "other_owner");
}

#[tokio::test]
async fn an_undeleted_credential_is_looked_at_with_the_next_tick() {
    let rig = Rig::created().await;
    rig.tick().await;
    rig.delete("acme/admin").await.ok();
    rig.mailu.set_password_directly(EMAIL, "foreign");
    rig.write("acme/undelete", json!({})).await.ok();
    rig.check_pointers("acme").await;
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
}

#[tokio::test]
async fn an_acknowledgement_that_nobody_could_check_is_checked_later() {
    let rig = Rig::created().await;
    rig.tick().await;
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1).times(2));
    rig.write("acme/rotate", json!({})).await.ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("proof"), "acknowledged");
    assert_eq!(read.get("state"), "uncertain", "nobody has seen it");
    rig.later(120);
    rig.tick().await;
    assert_eq!(rig.read("acme/admin").await.get("proof"), "hash");
}

#[tokio::test]
async fn a_change_that_a_lie_stopped_behind_a_stranger_waits_for_a_person() {
    let mut rig = Rig::created().await;
    let earlier = rig.storage.snapshot();
    let order = json!({ "incident_id": "INC-1", "reason": "x" });
    rig.write("acme/reset", order).await.ok();
    rig.storage.restore(&earlier);
    rig.restart();
    rig.mailu.fault(Rule::new(Fault::Lie).method("PATCH"));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(409, "drift");
    for _ in 0..3 {
        assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
        rig.later(3600);
        rig.tick().await;
        assert_eq!(next_work(&rig).await, None);
    }
    rig.write("acme/rotate", json!({})).await.ok();
    rig.settled().await;
}
