//! Changes and notices by the schedule: when, once, and what keeps them from happening.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::audit::EventName;
use vault_plugin_secrets_smtp::clock::Clock as _;
use vault_plugin_secrets_smtp::logical::{StaticSystemView, Storage as _, StorageEntry};
use vault_plugin_secrets_smtp::provider::connector;

use crate::support::engine::{EMAIL, FIRST, Host, Rig, parts};
use crate::support::faults::{Interruption, Plan};
use crate::support::mailu::standin::{self, Rule};

/// `acme` with a password of this age.
async fn imported(last_rotated: &str) -> Rig {
    let rig = Rig::configured().await;
    let body = json!({ "username": EMAIL, "password": FIRST, "last_rotated": last_rotated });
    rig.write("acme/admin", body).await.ok();
    rig.tick().await;
    rig
}

/// A host that sends a tick every minute until `until`.
async fn ticks_until(rig: &Rig, until: &str) {
    let until: DateTime<Utc> = until.parse().unwrap();
    while rig.clock.now() + TimeDelta::seconds(60) < until {
        rig.later(60);
        rig.tick().await;
    }
    let rest = (until - rig.clock.now()).num_seconds();
    rig.later(u64::try_from(rest).unwrap());
    rig.tick().await;
}

/// The engine is not there for some days; the next process begins with a tick.
async fn outage(rig: &mut Rig, days: u64) {
    rig.later(days * 86_400);
    rig.restart();
    rig.tick().await;
}

async fn next_rotation(rig: &Rig) -> Value {
    rig.read("acme/admin")
        .await
        .ok()
        .get("next_rotation")
        .clone()
}

async fn count(rig: &Rig, event: &str) -> usize {
    let events = rig.events("acme").await;
    let name = format!("smtp_credentials_{event}");
    events
        .iter()
        .filter(|event| event["event"] == name.as_str())
        .count()
}

/// What happened since the import.
async fn story(rig: &Rig) -> Vec<String> {
    let mut story = rig.story("acme").await;
    let imported = story.iter().position(|name| name == "imported").unwrap();
    story.split_off(imported + 1)
}

#[tokio::test]
async fn an_overdue_import_is_changed_by_the_next_check_and_nobody_asked() {
    let mut rig = imported("2026-01-01T00:00:00Z").await;
    // The check at 02:00 and the tenant's own 25 seconds of the hour that it is spread over.
    assert_eq!(next_rotation(&rig).await, "2026-09-22T02:00:25Z");
    ticks_until(&rig, "2026-09-22T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST);
    assert!(story(&rig).await.is_empty());
    ticks_until(&rig, "2026-09-22T02:00:25Z").await;
    let new = rig.settled().await;
    assert_ne!(new, FIRST);
    assert!(!rig.fits(FIRST));
    let wanted = ["rotation_notice", "rotation_started", "rotated"];
    assert_eq!(story(&rig).await, wanted);
    let events = rig.events("acme").await;
    let last = events.last().unwrap();
    assert_eq!(last["rotation_type"], "automated");
    assert_eq!(last["user_id"], "system");
    assert_eq!(last["previous_rotation"], "2026-01-01T00:00:00Z");
    // Its own slot again, 180 days later, although the change itself took its time.
    assert_eq!(next_rotation(&rig).await, "2027-03-21T02:00:25Z");
    rig.restart();
    ticks_until(&rig, "2026-09-24T06:00:00Z").await;
    assert_eq!(rig.settled().await, new);
    assert_eq!(rig.password_writes(), 1);
}

#[tokio::test]
async fn the_notice_comes_once_a_week_before() {
    let mut rig = imported("2026-04-01T02:00:00Z").await;
    assert_eq!(next_rotation(&rig).await, "2026-09-28T02:00:25Z");
    let status = rig.read("acme/status").await.ok();
    assert!(status.get("notice_sent_at").is_null());
    // A week before is past: the next check tells.
    ticks_until(&rig, "2026-09-22T02:00:24Z").await;
    assert_eq!(count(&rig, "rotation_notice").await, 0);
    ticks_until(&rig, "2026-09-22T02:00:25Z").await;
    assert_eq!(count(&rig, "rotation_notice").await, 1);
    let status = rig.read("acme/status").await.ok();
    assert_eq!(status.get("notice_sent_at"), "2026-09-22T02:00:25Z");
    rig.restart();
    ticks_until(&rig, "2026-09-28T02:00:24Z").await;
    assert_eq!(count(&rig, "rotation_notice").await, 1);
    assert_eq!(rig.settled().await, FIRST);
    ticks_until(&rig, "2026-09-28T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
    assert_eq!(count(&rig, "rotation_notice").await, 1);
    let status = rig.read("acme/status").await.ok();
    assert!(status.get("notice_sent_at").is_null(), "of the next change");
}

#[tokio::test]
async fn a_failing_change_is_tried_less_and_less_often_and_then_is_for_a_person() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.mailu.set_token("another-token");
    ticks_until(&rig, "2026-09-22T02:00:00Z").await;
    let mut failed = Vec::new();
    for minute in 0..24 * 60 {
        rig.later(60);
        rig.tick().await;
        if count(&rig, "rotation_failed").await > failed.len() {
            failed.push(minute);
        }
        if failed.len() == 6 {
            break;
        }
    }
    let pauses: Vec<i64> = failed.windows(2).map(|two| two[1] - two[0]).collect();
    for (pause, minutes) in pauses.iter().zip([1, 2, 4, 8, 16]) {
        let spread = minutes / 5 + 1;
        assert!((pause - minutes).abs() <= spread, "{pauses:?}");
    }
    let events = rig.events("acme").await;
    let severities: Vec<&Value> = events
        .iter()
        .filter(|event| event["event"] == "smtp_credentials_rotation_failed")
        .map(|event| &event["severity"])
        .collect();
    let told = severities
        .iter()
        .filter(|severity| **severity == "critical");
    assert_eq!(told.count(), 1, "{severities:?}");
    assert_eq!(severities[2], "critical");
    assert!(rig.record("acme").await.unwrap().attention().is_some());
    rig.check_pointers("acme").await;
    rig.settled().await;
    // The token is written anew: the next tick tries.
    let mut config = rig.server();
    config["api_token"] = json!("another-token");
    rig.write("acme/config", config).await.ok();
    rig.later(60);
    rig.tick().await;
    assert_ne!(rig.settled().await, FIRST);
    assert!(rig.record("acme").await.unwrap().attention().is_none());
}

#[tokio::test]
async fn a_drift_waits_for_a_person() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.mailu.set_password_directly(EMAIL, "somebody else's");
    rig.write("acme/verify", json!({})).await.ok();
    ticks_until(&rig, "2026-09-22T04:00:00Z").await;
    assert_eq!(rig.password_writes(), 0);
    assert!(rig.fits("somebody else's"));
    rig.check_pointers("acme").await;
    rig.mailu.set_password_directly(EMAIL, FIRST);
    rig.write("acme/verify", json!({})).await.ok();
    ticks_until(&rig, "2026-09-23T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST, "it waits for a check");
    ticks_until(&rig, "2026-09-23T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
}

#[tokio::test]
async fn a_paused_mount_is_left_alone_and_goes_on_with_the_first_check_after_it() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.write("config", json!({ "paused_until": "2026-09-24T12:00:00Z" }))
        .await
        .ok();
    ticks_until(&rig, "2026-09-25T02:00:24Z").await;
    assert!(story(&rig).await.is_empty());
    let ttl = rig.read("acme/admin").await.get("ttl").as_u64().unwrap();
    assert!(ttl >= 1);
    ticks_until(&rig, "2026-09-25T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
}

#[tokio::test]
async fn what_became_due_in_a_tenants_pause_waits_for_the_check_after_its_end() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    let pause = json!({ "until": "2026-09-24T12:00:00Z", "reason": "a migration" });
    rig.write("acme/pause", pause).await.ok();
    ticks_until(&rig, "2026-09-25T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST, "all pauses end at midnight");
    ticks_until(&rig, "2026-09-25T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
}

#[tokio::test]
async fn a_pause_that_is_lifted_early_holds_nobody() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.write("config", json!({ "paused_until": "2026-12-01T00:00:00Z" }))
        .await
        .ok();
    // Stored while the mount rests: its day must not be that of the pause's end.
    rig.write(
        "acme/admin",
        json!({ "webmail_url": "https://mail.example" }),
    )
    .await
    .ok();
    ticks_until(&rig, "2026-09-23T12:00:00Z").await;
    rig.write("config", json!({ "paused_until": "2026-09-23T12:00:00Z" }))
        .await
        .ok();
    ticks_until(&rig, "2026-09-24T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
}

#[tokio::test]
async fn after_an_outage_the_backlog_waits_for_one_check() {
    let mut rig = imported("2026-04-01T02:00:00Z").await;
    outage(&mut rig, 20).await;
    let held = rig.clock.now();
    for _ in 0..30 {
        rig.later(60);
        rig.tick().await;
    }
    assert!(story(&rig).await.is_empty());
    let next_check = "2026-10-12T02:00:25Z";
    assert!(held < next_check.parse::<DateTime<Utc>>().unwrap());
    ticks_until(&rig, "2026-10-12T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST);
    ticks_until(&rig, next_check).await;
    assert_ne!(rig.settled().await, FIRST);
    assert_eq!(count(&rig, "rotation_notice").await, 1);
    assert_eq!(rig.password_writes(), 1);
}

#[tokio::test]
async fn a_clock_that_is_ahead_for_an_hour_changes_nothing() {
    let rig = imported("2026-08-01T02:00:00Z").await;
    ticks_until(&rig, "2026-09-22T01:30:00Z").await;
    rig.clock.jump_to(rig.clock.now() + TimeDelta::days(200));
    for _ in 0..59 {
        rig.later(60);
        rig.tick().await;
    }
    rig.clock.jump_to(rig.clock.now() - TimeDelta::days(200));
    ticks_until(&rig, "2026-09-23T06:00:00Z").await;
    assert!(story(&rig).await.is_empty());
    assert_eq!(rig.settled().await, FIRST);
    // And what is due then is found as if nothing had been.
    assert_eq!(next_rotation(&rig).await, "2027-01-28T02:00:25Z");
    let calendar = rig.storage.get("schedule").await.unwrap().unwrap();
    let calendar: Value = serde_json::from_slice(&calendar.value).unwrap();
    assert_eq!(calendar["oldest"], "2026-09-22");
}

#[tokio::test]
async fn a_lost_or_damaged_schedule_loses_nobody() {
    for damage in [None, Some("{"), Some(r#"{"schema":1,"oldest":"never"}"#)] {
        let mut rig = imported("2026-01-01T00:00:00Z").await;
        ticks_until(&rig, "2026-09-22T01:59:00Z").await;
        match damage {
            Some(text) => {
                let entry = StorageEntry::new("schedule", text.as_bytes().to_vec());
                rig.storage.put(entry).await.unwrap();
            }
            None => rig.storage.delete("schedule").await.unwrap(),
        }
        rig.restart();
        ticks_until(&rig, "2026-09-22T02:01:00Z").await;
        assert_ne!(rig.settled().await, FIRST, "{damage:?}");
    }
}

#[tokio::test]
async fn a_shorter_period_reaches_everybody_and_nobody_at_once() {
    let mut rig = imported("2026-04-01T02:00:00Z").await;
    ticks_until(&rig, "2026-09-22T02:01:00Z").await;
    assert_eq!(count(&rig, "rotation_notice").await, 1);
    rig.write(
        "config",
        json!({ "rotation_period": "90d", "spread": "2h" }),
    )
    .await
    .ok();
    rig.restart();
    for _ in 0..2 {
        rig.later(60);
        rig.tick().await;
    }
    let text = next_rotation(&rig).await;
    let next: DateTime<Utc> = text.as_str().unwrap().parse().unwrap();
    let now = rig.clock.now();
    assert!(next >= now + TimeDelta::hours(2), "{text}");
    assert!(next <= now + TimeDelta::days(9), "{text}");
    assert_eq!(rig.settled().await, FIRST);
    // Placed once: later ticks move nothing.
    ticks_until(&rig, "2026-09-22T12:00:00Z").await;
    assert_eq!(next_rotation(&rig).await, text);
    // A longer one takes what is due back.
    rig.write("config", json!({ "rotation_period": "365d" }))
        .await
        .ok();
    for _ in 0..2 {
        rig.later(60);
        rig.tick().await;
    }
    let text = next_rotation(&rig).await;
    assert!(text.as_str().unwrap().starts_with("2027-04-01T0"), "{text}");
    let status = rig.read("acme/status").await.ok();
    assert!(
        status.get("notice_sent_at").is_null(),
        "it was of another day"
    );
    rig.check_pointers("acme").await;
}

#[tokio::test]
async fn pointers_that_lead_nowhere_are_removed() {
    let rig = imported("2026-09-01T00:00:00Z").await;
    for key in [
        "due/20260921/acme",
        "due/20260921/nobody",
        "open/acme",
        "open/nobody",
    ] {
        let entry = StorageEntry::new(key, b"{}".to_vec());
        rig.storage.put(entry).await.unwrap();
    }
    rig.later(60);
    rig.tick().await;
    rig.check_pointers("acme").await;
    rig.check_pointers("nobody").await;
}

#[tokio::test]
async fn a_quiet_tick_costs_four_calls() {
    let rig = imported("2026-09-01T00:00:00Z").await;
    let plan = Plan::default();
    let host = watched(&rig, &plan);
    host.tick().await;
    for minute in 0..30 {
        plan.arm(None);
        rig.later(60);
        host.tick().await;
        let calls = plan.calls();
        assert!(calls.len() <= 4, "minute {minute}: {calls:?}");
    }
}

/// Whatever storage call of a notice fails, before or after its effect: it is told, and once.
#[tokio::test]
async fn a_notice_is_told_once_whatever_fails() {
    let rig = imported("2026-04-01T02:00:00Z").await;
    ticks_until(&rig, "2026-09-22T02:00:00Z").await;
    let begun = rig.storage.snapshot();
    rig.later(60);
    let plan = Plan::default();
    let host = watched(&rig, &plan);
    plan.arm(None);
    host.tick().await;
    let calls = plan.calls();
    assert!(calls.len() > 4, "there is something to fail");
    for fault in Interruption::every(&calls) {
        rig.storage.restore(&begun);
        let plan = Plan::default();
        let host = watched(&rig, &plan);
        plan.interrupt(std::slice::from_ref(&fault));
        tokio::select! {
            biased;
            () = plan.crashed() => {}
            () = host.tick() => {}
        }
        assert_eq!(plan.ahead(), []);
        let plan = Plan::default();
        let fresh = watched(&rig, &plan);
        fresh.tick().await;
        fresh.tick().await;
        let record = rig.record("acme").await.unwrap();
        let events = record.log.events().iter();
        let notices = events.filter(|event| event.event == EventName::RotationNotice);
        assert_eq!(notices.count(), 1, "{fault:?}");
        rig.check_pointers("acme").await;
    }
}

/// A process whose storage calls are counted and fail as planned.
fn watched(rig: &Rig, plan: &Plan) -> Host {
    let parts = parts(&rig.clock, connector());
    Host::new(parts, plan.over(&rig.storage), StaticSystemView::default())
}

/// A record that nobody can read keeps its day's folder from being empty: it must not keep the days
/// after it from being looked at, nor make every tick dearer.
#[tokio::test]
async fn an_unreadable_record_is_taken_along_and_found_when_it_can_be_read() {
    let mut rig = imported("2026-01-01T00:00:00Z").await;
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let damaged = StorageEntry::new("tenant/acme", b"{".to_vec());
    rig.storage.put(damaged).await.unwrap();
    rig.restart();
    ticks_until(&rig, "2026-09-25T12:00:00Z").await;
    let days = rig.storage.list("due/").await.unwrap();
    assert_eq!(days, ["20260925/"]);
    let entry = StorageEntry::new("tenant/acme", entry.value.clone());
    rig.storage.put(entry).await.unwrap();
    rig.restart();
    ticks_until(&rig, "2026-09-26T02:01:00Z").await;
    assert_ne!(rig.settled().await, FIRST);
    rig.check_pointers("acme").await;
}

/// A pause that ends by itself ends between two checks.
#[tokio::test]
async fn what_became_due_in_a_tenant_s_pause_waits_for_the_check_after_it() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    let pause = json!({ "until": "2026-09-24T12:00:00Z", "reason": "migration" });
    rig.write("acme/pause", pause).await.ok();
    ticks_until(&rig, "2026-09-25T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST);
    assert!(rig.record("acme").await.unwrap().pause.is_none());
    ticks_until(&rig, "2026-09-25T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
    rig.check_pointers("acme").await;
}

/// Plans that no sound clock makes: mended by the pass over all pointers, and never by a change now.
#[tokio::test]
async fn a_missing_or_absurd_plan_goes_forward() {
    for absurd in [Value::Null, json!("2031-01-01T02:00:25Z")] {
        let mut rig = imported("2026-01-01T00:00:00Z").await;
        let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
        let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
        record["credential"]["next_rotation"] = absurd.clone();
        let bytes = serde_json::to_vec(&record).unwrap();
        let entry = StorageEntry::new("tenant/acme", bytes);
        rig.storage.put(entry).await.unwrap();
        rig.restart();
        rig.tick().await;
        rig.write("ops/reindex", json!({})).await.ok();
        for _ in 0..3 {
            rig.later(60);
            rig.tick().await;
        }
        assert_eq!(rig.settled().await, FIRST);
        let next = next_rotation(&rig).await;
        let next: DateTime<Utc> = next.as_str().unwrap().parse().unwrap();
        let ahead = next - rig.clock.now();
        assert!(
            ahead > TimeDelta::hours(1) && ahead < TimeDelta::days(9),
            "{absurd}: {next}"
        );
        rig.check_pointers("acme").await;
    }
}

/// A pass that is not finished when the settings are taken back has moved some.
#[tokio::test]
async fn settings_that_are_taken_back_half_way_leave_nobody_behind() {
    let rig = Rig::configured().await;
    for number in 0..230 {
        let body = json!({
            "username": format!("admin{number}@acme.example"), "password": FIRST,
            "last_rotated": "2026-09-01T02:00:00Z",
        });
        rig.write(&format!("t{number:03}/admin"), body).await.ok();
    }
    rig.tick().await;
    let plan = async |rig: &Rig| {
        let mut plan = Vec::new();
        for number in 0..230 {
            let read = rig.read(&format!("t{number:03}/admin")).await;
            plan.push(read.get("next_rotation").clone());
        }
        plan
    };
    let before = plan(&rig).await;
    rig.write("config", json!({ "rotation_period": "365d" }))
        .await
        .ok();
    for _ in 0..2 {
        rig.later(60);
        rig.tick().await;
    }
    let between = plan(&rig).await;
    assert!(between[0] != before[0] && between[229] == before[229]);
    rig.write("config", json!({ "rotation_period": "180d" }))
        .await
        .ok();
    for _ in 0..4 {
        rig.later(60);
        rig.tick().await;
    }
    assert_eq!(plan(&rig).await, before);
}

/// Each of them alone, and two in a row before the pass by the first has ended.
#[tokio::test]
async fn other_slots_bring_what_is_due_to_the_next_check_and_tell_nobody_twice() {
    let cases: [(Vec<Value>, &str); 5] = [
        (
            vec![json!({ "check_schedule": "0 5 * * *" })],
            "2026-09-28T05:00:25Z",
        ),
        (vec![json!({ "spread": 0 })], "2026-09-29T02:00:00Z"),
        (
            vec![json!({ "time_zone": "America/New_York" })],
            "2026-09-28T06:00:25Z",
        ),
        (
            vec![
                json!({ "check_schedule": "0 7 1 * *" }),
                json!({ "check_schedule": "0 9 * * *", "time_zone": "Europe/Berlin" }),
            ],
            "2026-09-28T07:00:25Z",
        ),
        (
            vec![
                json!({ "check_schedule": "0 4 1 * *", "spread": "6h" }),
                json!({ "check_schedule": "30 3 * * *", "spread": "1h" }),
            ],
            "2026-09-28T03:30:25Z",
        ),
    ];
    for (settings, next) in cases {
        let rig = imported("2026-04-01T02:00:00Z").await;
        ticks_until(&rig, "2026-09-28T02:00:00Z").await;
        assert_eq!(count(&rig, "rotation_notice").await, 1);
        // Due since some minutes; nobody has come to it yet.
        rig.later(600);
        for one in &settings {
            rig.write("config", one.clone()).await.ok();
            rig.tick().await;
        }
        for _ in 0..3 {
            rig.later(60);
            rig.tick().await;
        }
        assert_eq!(next_rotation(&rig).await, next, "{settings:?}");
        assert_eq!(rig.settled().await, FIRST, "{settings:?}");
        rig.check_pointers("acme").await;
        let then: DateTime<Utc> = next.parse().unwrap();
        ticks_until(&rig, &(then + TimeDelta::minutes(2)).to_rfc3339()).await;
        assert_ne!(rig.settled().await, FIRST, "{settings:?}");
        assert_eq!(count(&rig, "rotation_notice").await, 1, "{settings:?}");
    }
}

/// What was overdue when it was imported waits for nothing but a check.
#[tokio::test]
async fn what_waits_for_a_check_comes_at_the_next_one_there_is() {
    for (setting, next) in [
        (
            json!({ "check_schedule": "0 15 * * *" }),
            "2026-09-21T15:00:25Z",
        ),
        (
            json!({ "check_schedule": "0 * * * *", "spread": 0 }),
            "2026-09-21T15:00:00Z",
        ),
        (
            json!({ "time_zone": "America/Los_Angeles", "check_schedule": "30 7 * * *" }),
            "2026-09-21T14:30:25Z",
        ),
    ] {
        let rig = imported("2026-01-01T00:00:00Z").await;
        assert_eq!(next_rotation(&rig).await, "2026-09-22T02:00:25Z");
        rig.write("config", setting.clone()).await.ok();
        for _ in 0..3 {
            rig.later(60);
            rig.tick().await;
        }
        assert_eq!(next_rotation(&rig).await, next, "{setting}");
        rig.check_pointers("acme").await;
    }
}

#[tokio::test]
async fn nothing_waits_for_a_check_that_there_is_not_any_more() {
    let rig = imported("2026-04-01T02:00:00Z").await;
    let monthly = json!({ "check_schedule": "0 2 1 * *" });
    rig.write("config", monthly).await.ok();
    ticks_until(&rig, "2026-09-30T22:00:00Z").await;
    assert_eq!(next_rotation(&rig).await, "2026-10-01T02:00:25Z");
    // Ticks stop for some hours: the check within the next hour is not waited for.
    rig.later(3 * 3600 + 1800);
    rig.tick().await;
    ticks_until(&rig, "2026-10-01T02:10:00Z").await;
    assert_eq!(rig.settled().await, FIRST);
    let daily = json!({ "check_schedule": "0 5 * * *" });
    rig.write("config", daily).await.ok();
    ticks_until(&rig, "2026-10-01T04:59:00Z").await;
    assert_eq!(rig.settled().await, FIRST);
    ticks_until(&rig, "2026-10-01T05:02:00Z").await;
    assert_ne!(rig.settled().await, FIRST);
    assert_eq!(count(&rig, "rotation_notice").await, 1);
}

/// Of many whose period became shorter, each keeps a moment of his own: other slots are no reason to
/// change all of them in one night.
#[tokio::test]
async fn other_slots_do_not_bring_those_together_who_were_spread() {
    let rig = Rig::configured().await;
    for number in 0..40 {
        let body = json!({
            "username": format!("admin{number}@acme.example"), "password": FIRST,
            "last_rotated": "2026-05-01T02:00:00Z",
        });
        rig.write(&format!("t{number:02}/admin"), body).await.ok();
    }
    rig.tick().await;
    let days = async |settings: Value| {
        rig.write("config", settings).await.ok();
        for _ in 0..3 {
            rig.later(60);
            rig.tick().await;
        }
        let mut days = std::collections::BTreeSet::new();
        for number in 0..40 {
            let read = rig.read(&format!("t{number:02}/admin")).await;
            days.insert(read.text_of("next_rotation")[..10].to_owned());
        }
        days
    };
    let is_spread = |days: &std::collections::BTreeSet<String>| {
        days.len() > 5 && days.iter().all(|day| day.as_str() <= "2026-09-30")
    };
    let shorter = days(json!({ "rotation_period": "100d" })).await;
    assert!(is_spread(&shorter), "{shorter:?}");
    let other = days(json!({ "check_schedule": "0 4 * * *" })).await;
    assert!(is_spread(&other), "{other:?}");
    let yearly = days(json!({ "check_schedule": "0 2 1 1 *" })).await;
    assert_eq!(yearly.len(), 1, "{yearly:?}");
    let back = days(json!({ "check_schedule": "0 2 * * *" })).await;
    assert!(is_spread(&back), "{back:?}");
}

#[tokio::test]
async fn a_mistaken_schedule_can_be_taken_back() {
    let rig = imported("2026-05-01T02:00:00Z").await;
    let before = next_rotation(&rig).await;
    for (schedule, next) in [
        ("0 2 1 1 *", json!("2027-01-01T02:00:25Z")),
        ("0 2 * * *", before),
    ] {
        rig.write("config", json!({ "check_schedule": schedule }))
            .await
            .ok();
        for _ in 0..3 {
            rig.later(60);
            rig.tick().await;
        }
        assert_eq!(next_rotation(&rig).await, next, "{schedule}");
        rig.check_pointers("acme").await;
    }
}

#[tokio::test]
async fn a_pause_that_is_taken_back_lets_nobody_loose_between_two_checks() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    let pause = |until: Value| json!({ "paused_until": until });
    rig.write("config", pause(json!("2026-12-01T00:00:00Z")))
        .await
        .ok();
    ticks_until(&rig, "2026-09-24T12:00:00Z").await;
    rig.patch("config", pause(Value::Null)).await.ok();
    ticks_until(&rig, "2026-09-25T02:00:24Z").await;
    assert_eq!(rig.settled().await, FIRST);
    ticks_until(&rig, "2026-09-25T02:00:25Z").await;
    assert_ne!(rig.settled().await, FIRST);
}

/// Nor is a change told again that other checks move before it is due.
#[tokio::test]
async fn a_notice_is_not_given_again_because_the_checks_changed() {
    let rig = imported("2026-04-01T02:00:00Z").await;
    ticks_until(&rig, "2026-09-23T12:00:00Z").await;
    assert_eq!(count(&rig, "rotation_notice").await, 1);
}

/// The server dies with the password on its way: nobody asked, so somebody must be told.
#[tokio::test]
async fn a_change_that_stays_in_doubt_is_told_once() {
    let rehearsal = imported("2026-01-01T00:00:00Z").await;
    let asked = rehearsal.mailu.journal().len();
    ticks_until(&rehearsal, "2026-09-22T02:01:00Z").await;
    let calls = rehearsal.mailu.journal().split_off(asked);
    let looks = calls
        .iter()
        .take_while(|call| call.password_sha256.is_none())
        .filter(|call| call.method == "GET");

    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.mailu.fault(
        Rule::new(standin::Fault::CutBefore)
            .method("PATCH")
            .path("/user/"),
    );
    let down = Rule::new(standin::Fault::CutBefore).method("GET");
    rig.mailu.fault(down.after(looks.count()).times(1_000));
    ticks_until(&rig, "2026-09-22T02:01:00Z").await;
    for _ in 0..120 {
        rig.later(60);
        rig.tick().await;
    }
    assert_eq!(rig.read("acme/admin").await.get("state"), "uncertain");
    let events = rig.events("acme").await;
    let critical: Vec<&Value> = events
        .iter()
        .filter(|it| it["severity"] == "critical")
        .collect();
    assert_eq!(critical.len(), 1, "{critical:?}");
    assert_eq!(critical[0]["event"], "smtp_credentials_rotation_failed");
    rig.mailu.clear_faults();
    for _ in 0..12 {
        rig.later(60);
        rig.tick().await;
    }
    assert_ne!(rig.settled().await, FIRST);
}

/// Every try is stored: who needs a person is seen in between all the same.
#[tokio::test]
async fn who_needs_a_person_is_seen_whenever_one_looks() {
    let rig = imported("2026-01-01T00:00:00Z").await;
    rig.mailu.set_token("another-token");
    ticks_until(&rig, "2026-09-22T02:10:00Z").await;
    for minute in 0..120 {
        rig.later(60);
        rig.tick().await;
        let status = rig.read("status").await.ok();
        let attention = &status.get("attention")[0];
        assert_eq!(attention["tenant"], "acme", "minute {minute}");
        assert_eq!(attention["code"], "mailu_token_refused");
    }
}
