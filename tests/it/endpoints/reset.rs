//! `<tenant>/reset` and `<tenant>/release`: the emergency.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::engine::{Answer, EMAIL, Rig};
use crate::support::mailu::standin::{Fault, Media, Release, Rule, Words};

fn order(incident: &str) -> Value {
    json!({ "incident_id": incident, "reason": "laptop stolen" })
}

async fn reset(rig: &Rig, incident: &str) -> Answer {
    rig.write("acme/reset", order(incident)).await
}

/// Asserts that a reset ended with its password live, wrapped; returns the password.
#[track_caller]
fn done(rig: &Rig, answer: &Answer) -> String {
    assert_eq!(answer.get("state"), "done", "{answer:?}");
    assert_eq!(answer.wrap, Some(Duration::from_secs(900)));
    let password = answer.text_of("password").to_owned();
    assert!(rig.fits(&password));
    password
}

#[tokio::test]
async fn the_new_password_is_live_longer_and_wrapped_and_every_earlier_one_compromised() {
    let rig = Rig::created().await;
    rig.write("acme/rotate", json!({})).await.ok();
    let old = rig.settled().await;
    for _ in 0..3 {
        rig.mailu.add_token(EMAIL);
    }
    let answer = reset(&rig, "INC-1").await.ok();
    let password = done(&rig, &answer);
    assert!(!rig.fits(&old));
    assert_eq!((old.len(), password.len()), (44, 64));
    assert_eq!(rig.settled().await, password);
    for (name, value) in [
        ("username", json!(EMAIL)),
        ("version", json!(3)),
        ("expires_at", json!("2026-09-21T15:28:20Z")),
        ("tokens_revoked", json!(3)),
        ("tokens_left", json!(0)),
        ("repeated", json!(false)),
        ("event", json!("smtp_credentials_emergency_reset")),
    ] {
        assert_eq!(answer.get(name), &value, "{name}");
    }
    assert!(rig.mailu.tokens(EMAIL).is_empty());
    for (version, compromised) in [(1, true), (2, true), (3, false)] {
        let kept = rig.read(&format!("acme/versions/{version}")).await.ok();
        assert_eq!(kept.get("compromised"), compromised, "{version}");
        if compromised {
            assert_eq!(kept.get("incident_id"), "INC-1");
            assert_eq!(kept.get("reset_by"), "entity-of-userpass-alice");
            assert_eq!(kept.get("reset_at"), "2026-09-21T15:13:20Z");
        }
    }
    let events = rig.events("acme").await;
    let last = events.last().unwrap();
    assert_eq!(last["event_id"], answer.data["event_id"]);
    assert_eq!(last["severity"], "critical");
    assert_eq!(last["rotation_type"], "emergency");
    assert_eq!(last["incident_id"], "INC-1");
    let story = rig.story("acme").await;
    assert_eq!(
        story[story.len() - 2..],
        ["emergency_reset_started", "emergency_reset"]
    );
    // Nobody goes back to a compromised one.
    let back = json!({ "version": 2, "reason": "no" });
    rig.write("acme/rollback", back)
        .await
        .fails(400, "version_compromised");
    // A late write is looked for twice, and that ends by itself.
    for wait in [120, 780] {
        rig.later(wait);
        rig.tick().await;
        assert_eq!(rig.settled().await, password);
    }
    assert!(rig.record("acme").await.unwrap().open.confirm_at.is_empty());
}

#[tokio::test]
async fn nobody_waits_for_an_interval_and_app_tokens_can_be_kept() {
    let rig = Rig::created().await;
    rig.write("acme/rotate", json!({})).await.ok();
    rig.mailu.add_token(EMAIL);
    let mut body = order("INC-1");
    body["keep_app_tokens"] = json!(true);
    let answer = rig.write("acme/reset", body).await.ok();
    done(&rig, &answer);
    assert_eq!(rig.mailu.tokens(EMAIL).len(), 1);
    assert_eq!(answer.get("tokens_revoked"), 0);
}

#[tokio::test]
async fn the_same_caller_gets_the_same_version_again_for_a_quarter_of_an_hour() {
    let mut rig = Rig::created().await;
    let first = reset(&rig, "INC-1").await.ok();
    let password = done(&rig, &first);
    rig.later(14 * 60);
    let again = reset(&rig, "INC-1").await.ok();
    assert_eq!(done(&rig, &again), password);
    assert_eq!(again.get("repeated"), true);
    assert_eq!(again.get("version"), first.get("version"));
    assert_eq!(again.get("event"), "smtp_credentials_revealed");
    assert_eq!(rig.password_writes(), 2, "the creation and one reset");
    // Somebody else, another incident, or later: a new password each time.
    rig.host.caller = String::from("userpass-bob");
    let other = done(&rig, &reset(&rig, "INC-1").await.ok());
    assert_ne!(other, password);
    let incident = done(&rig, &reset(&rig, "INC-2").await.ok());
    assert_ne!(incident, other);
    rig.later(15 * 60);
    assert_ne!(done(&rig, &reset(&rig, "INC-2").await.ok()), incident);
}

#[tokio::test]
async fn a_resent_request_is_answered_with_what_it_made() {
    let mut rig = Rig::created().await;
    let first = rig.write_as("id-1", "acme/reset", order("INC-1")).await;
    let password = done(&rig, &first);
    rig.later(20 * 60);
    rig.restart();
    let again = rig.write_as("id-1", "acme/reset", order("INC-1")).await;
    assert_eq!(done(&rig, &again), password);
    assert_eq!(rig.password_writes(), 2);
}

#[tokio::test]
async fn concurrent_requests_for_one_incident_make_one_password() {
    let rig = Rig::created().await;
    let bob = {
        let mut host = rig.host.clone();
        host.caller = String::from("userpass-bob");
        host
    };
    let (one, other) = tokio::join!(
        reset(&rig, "INC-1"),
        bob.write("acme/reset", order("INC-1"))
    );
    assert_eq!(done(&rig, &one), done(&rig, &other));
    assert_eq!(rig.password_writes(), 2);
    let revealed = rig.story("acme").await;
    assert_eq!(revealed.last().unwrap(), "revealed", "the joiner's look");
}

#[tokio::test]
async fn it_supersedes_an_open_change_whose_value_is_kept() {
    let rig = Rig::created().await;
    // A rotation whose send may land at any time.
    rig.mailu
        .fault(Rule::new(Fault::ApplyLater).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    let password = done(&rig, &reset(&rig, "INC-1").await.ok());
    assert_eq!(rig.settled().await, password);
    let superseded = rig.read("acme/versions/2").await.ok();
    assert_eq!(superseded.get("position"), "abandoned");
    assert_eq!(superseded.get("compromised"), true);
    let story = rig.story("acme").await;
    assert!(story.contains(&String::from("rotation_failed(superseded)")));
    // It lands after all: noticed at the next look, critical, and overwritten once.
    rig.mailu.release().await;
    assert!(!rig.fits(&password));
    rig.later(120);
    rig.tick().await;
    // Whether something undid it is the next tick's to see.
    rig.later(60);
    rig.tick().await;
    assert_eq!(rig.settled().await, password);
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("version"), 4, "the same value, set again");
    let events = rig.events("acme").await;
    let drift = events.iter().find(|it| it["error_code"] == "older_version");
    assert_eq!(drift.unwrap()["severity"], "critical");
}

#[tokio::test]
async fn while_mailu_is_down_it_waits_and_a_tick_finishes_it() {
    let mut rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu.add_token(EMAIL);
    rig.mailu.set_admin_down(true);
    let answer = reset(&rig, "INC-1").await.ok();
    assert_eq!(answer.get("state"), "queued");
    assert_eq!(answer.wrap, None);
    assert_eq!(answer.get("password"), &Value::Null);
    assert_eq!(
        answer.get("event"),
        "smtp_credentials_emergency_reset_started"
    );
    assert!(answer.warnings[0].contains("not changed yet"), "{answer:?}");
    assert_eq!(rig.read("acme/versions/1").await.get("compromised"), true);
    // It is in force, and its password is for a reveal only.
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "uncertain");
    assert_eq!(read.get("compromised"), true);
    assert_eq!(read.text_of("password"), old);
    let listed = read.get("candidates").as_array().unwrap();
    assert!(listed.iter().all(|it| it["version"] == 1), "{listed:?}");
    let look = json!({ "reason": "on call" });
    let revealed = rig.write("acme/reveal", look.clone()).await.ok();
    let waiting = revealed.get("candidates")[0]["password"].clone();
    // Asked again, it is the same reset; a restart forgets nothing.
    assert_eq!(reset(&rig, "INC-1").await.ok().get("state"), "queued");
    rig.restart();
    rig.tick().await;
    assert!(rig.fits(&old), "Mailu is still down");
    rig.mailu.set_admin_down(false);
    rig.later(600);
    rig.tick().await;
    // Whether something undid it is the next tick's to see.
    rig.later(60);
    rig.tick().await;
    let password = rig.settled().await;
    assert_eq!(waiting, password);
    assert!(!rig.fits(&old) && rig.mailu.tokens(EMAIL).is_empty());
    let revealed = rig.write("acme/reveal", look).await.ok();
    assert_eq!(revealed.text_of("password"), password);
    assert_eq!(revealed.get("state"), "settled");
    let started = rig.story("acme").await;
    let started = started.iter().filter(|it| it.starts_with("emergency"));
    assert_eq!(started.count(), 2, "one start, one end");
}

#[tokio::test]
async fn a_second_incident_takes_over_the_reset_that_waits() {
    let rig = Rig::created().await;
    rig.mailu.set_admin_down(true);
    for incident in ["INC-1", "INC-2"] {
        let answer = reset(&rig, incident).await.ok();
        assert_eq!(answer.get("version"), 2, "the same candidate");
    }
    rig.mailu.set_admin_down(false);
    let answer = reset(&rig, "INC-2").await.ok();
    assert_eq!(rig.settled().await, done(&rig, &answer));
    assert_eq!(
        rig.read("acme/versions/1").await.get("incident_id"),
        "INC-1"
    );
}

#[tokio::test]
async fn what_a_queued_reset_waits_for_is_said_once() {
    for trouble in ["down", "token", "account", "no api"] {
        let rig = Rig::created().await;
        match trouble {
            "down" => rig.mailu.set_admin_down(true),
            "token" => rig.mailu.set_token("another-token"),
            "account" => {
                rig.mailu.delete(EMAIL);
            }
            _ => rig
                .mailu
                .fault(Rule::new(Fault::HtmlOk).method("GET").times(20)),
        }
        let answer = reset(&rig, "INC-1").await.ok();
        assert_eq!(answer.get("state"), "queued", "{trouble}");
        let text = &answer.warnings[0];
        let sentences = text
            .split(['.', ':', ';'])
            .map(|it| it.trim().to_lowercase());
        let sentences: Vec<String> = sentences.filter(|it| !it.is_empty()).collect();
        for (at, one) in sentences.iter().enumerate() {
            let begin: String = one.chars().take(24).collect();
            let again = sentences[..at].iter().any(|it| it.contains(&begin));
            assert!(!again, "{trouble}: {text}");
        }
    }
}

#[tokio::test]
async fn a_lost_answer_leaves_it_queued_and_the_repeat_joins_it() {
    for fault in [Fault::CutAfter, Fault::CutBefore, Fault::ErrorAfter] {
        let rig = Rig::created().await;
        rig.mailu.fault(Rule::new(fault.clone()).method("PATCH"));
        rig.mailu
            .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
        let answer = reset(&rig, "INC-1").await.ok();
        assert_eq!(answer.get("state"), "queued", "{fault:?}");
        let read = rig.read("acme/admin").await.ok();
        assert_eq!(read.get("state"), "uncertain");
        assert_eq!(read.get("candidates").as_array().unwrap().len(), 1);
        let answer = reset(&rig, "INC-1").await.ok();
        assert_eq!(rig.settled().await, done(&rig, &answer), "{fault:?}");
        assert_eq!(answer.get("version"), 2);
    }
}

#[tokio::test]
async fn a_foreign_password_is_overwritten_whenever_it_was_set() {
    let rig = Rig::created().await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    let answer = reset(&rig, "INC-1").await.ok();
    assert_eq!(rig.settled().await, done(&rig, &answer));
    rig.mailu.set_password_directly(EMAIL, "foreign again");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    let answer = reset(&rig, "INC-2").await.ok();
    assert_eq!(rig.settled().await, done(&rig, &answer));
}

#[tokio::test]
async fn a_lying_server_is_never_believed_and_the_reset_never_given_up() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(30));
    assert_eq!(reset(&rig, "INC-1").await.ok().get("state"), "queued");
    for _ in 0..12 {
        rig.later(900);
        rig.tick().await;
        assert_eq!(rig.read("acme/admin").await.get("state"), "uncertain");
    }
    rig.mailu.clear_faults();
    rig.later(900);
    rig.tick().await;
    // Whether something undid it is the next tick's to see.
    rig.later(60);
    rig.tick().await;
    rig.settled().await;
    // Every eight sends in vain another value is tried, until enough of them are kept.
    assert_eq!(rig.read("acme/admin").await.get("version"), 5);
}

/// Some thing before Mailu refuses passwords with these characters, in words of its own.
fn refuse(rig: &Rig, characters: &str) {
    let words = Words::new(400, Media::Html, "<html><body>Not here</body></html>");
    let fault = Fault::Worded {
        committed: false,
        words,
    };
    let rule = Rule::new(fault).method("PATCH").times(10_000);
    rig.mailu.fault(rule.characters(characters));
}

#[tokio::test]
async fn a_value_that_a_front_never_lets_through_does_not_hold_a_reset_up() {
    let rig = Rig::created().await;
    refuse(&rig, "+/");
    // One in eight has neither of them.
    let mut number = 0;
    let queued = loop {
        number += 1;
        let answer = reset(&rig, &format!("INC-{number}")).await.ok();
        if answer.get("state") == "queued" {
            break answer;
        }
        rig.later(3600);
        rig.tick().await;
    };
    let first = queued.get("version").as_u64().unwrap();
    let mut ticks = 0;
    while rig.record("acme").await.unwrap().intent.is_some() {
        rig.later(900);
        rig.tick().await;
        ticks += 1;
        assert!(ticks < 10, "{:?}", rig.record("acme").await);
    }
    rig.later(60);
    rig.tick().await;
    let password = rig.settled().await;
    let plain = |it: char| it.is_ascii_alphanumeric() || "-_".contains(it);
    assert!(password.len() == 64 && password.chars().all(plain));
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("version"), first + 1);
    let before = rig.read(&format!("acme/versions/{first}")).await.ok();
    assert_eq!(before.get("position"), "abandoned");
    assert_eq!(before.get("compromised"), true);
    // It is the reset's own.
    let credential = rig.record("acme").await.unwrap().credential.unwrap();
    let version = credential.versions.last().unwrap();
    assert_eq!(version.number, first + 1);
    assert_eq!(version.incident_id, Some(format!("INC-{number}")));
}

#[tokio::test]
async fn under_another_encoding_an_open_reset_has_another_value_at_once() {
    for sent in [false, true] {
        let rig = Rig::created().await;
        if sent {
            refuse(&rig, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        } else {
            rig.mailu.set_admin_down(true);
        }
        assert_eq!(reset(&rig, "INC-1").await.ok().get("state"), "queued");
        let encoding = json!({ "password_encoding": "mailu_hex" });
        rig.write("config", encoding).await.ok();
        rig.mailu.set_admin_down(false);
        rig.mailu.clear_faults();
        refuse(&rig, "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/=-_");
        rig.later(900);
        rig.tick().await;
        rig.later(60);
        rig.tick().await;
        let password = rig.settled().await;
        let hex = |it: char| it.is_ascii_hexdigit() && !it.is_ascii_uppercase();
        assert!(password.len() == 32 && password.chars().all(hex), "{sent}");
        let kept = rig.read("acme/versions/2").await;
        assert_eq!(kept.status, if sent { 200 } else { 404 }, "{kept:?}");
    }
}

#[tokio::test]
async fn a_missing_account_is_told_at_once_and_looked_for() {
    let rig = Rig::created().await;
    rig.mailu.delete(EMAIL);
    let answer = reset(&rig, "INC-1").await.ok();
    assert_eq!(answer.get("state"), "queued");
    assert!(answer.warnings[0].contains("no such account"), "{answer:?}");
    let read = rig.read("acme/admin").await.ok();
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.get("compromised"), true);
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "account_missing");
    let record = rig.record("acme").await.unwrap();
    assert!(record.intent.is_some_and(|it| it.is_emergency()));
    rig.check_pointers("acme").await;
}

/// That the account is gone was known before the reset was ordered: reads go on saying so.
#[tokio::test]
async fn a_missing_account_that_was_known_is_told_as_well() {
    let rig = Rig::created().await;
    rig.mailu.delete(EMAIL);
    rig.write("acme/verify", json!({})).await;
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    rig.later(60);
    let answer = reset(&rig, "INC-1").await.ok();
    assert_eq!(answer.get("state"), "queued");
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "account_missing");
}

#[tokio::test]
async fn on_hold_the_password_is_for_a_reveal_until_it_is_released() {
    let rig = Rig::created().await;
    rig.mailu.set_admin_down(true);
    let mut body = order("INC-1");
    body["hold"] = json!(true);
    rig.write("acme/reset", body.clone()).await.ok();
    rig.read("acme/admin").await.fails(403, "on_hold");
    rig.mailu.set_admin_down(false);
    let answer = rig.write("acme/reset", body).await.ok();
    let password = done(&rig, &answer);
    rig.read("acme/admin").await.fails(403, "on_hold");
    assert!(rig.read("acme/status").await.get("hold").is_object());
    let revealed = rig
        .write("acme/reveal", json!({ "reason": "on call" }))
        .await;
    assert_eq!(revealed.text_of("password"), password);
    rig.write("acme/release", json!({ "reason": "over" }))
        .await
        .ok();
    assert_eq!(rig.settled().await, password);
    let seq = rig.record("acme").await.unwrap().log.seq();
    rig.write("acme/release", json!({})).await.ok();
    let after = rig.record("acme").await.unwrap().log.seq();
    assert_eq!(seq, after, "nothing was held any more");
}

#[tokio::test]
async fn app_tokens_that_could_not_be_deleted_are_tried_again() {
    let rig = Rig::created().await;
    for _ in 0..2 {
        rig.mailu.add_token(EMAIL);
    }
    rig.mailu
        .fault(Rule::new(Fault::ErrorBefore).method("DELETE").after(1));
    let answer = reset(&rig, "INC-1").await.ok();
    let password = done(&rig, &answer);
    assert_eq!(answer.get("tokens_revoked"), 1);
    assert_eq!(answer.get("tokens_left"), 1);
    assert!(answer.warnings.iter().any(|it| it.contains("app tokens")));
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("app_tokens")["left"], 1);
    rig.check_pointers("acme").await;
    rig.later(60);
    rig.tick().await;
    assert!(rig.mailu.tokens(EMAIL).is_empty());
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("app_tokens")["left"], 0);
    assert_eq!(status.get("app_tokens")["revoked"], 2);
    assert_eq!(rig.settled().await, password);
}

#[tokio::test]
async fn a_server_of_the_first_line_has_no_app_tokens() {
    let rig = Rig::created().await;
    rig.mailu.set_release(Release::V2_0);
    let answer = reset(&rig, "INC-1").await.ok();
    done(&rig, &answer);
    assert_eq!(answer.get("tokens_left"), 0);
}

#[tokio::test]
async fn bad_input_changes_nothing() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({ "incident_id": "INC-1" }), "missing_field"),
        (json!({ "reason": "x" }), "missing_field"),
        (json!({ "incident_id": "", "reason": "x" }), "missing_field"),
        (
            json!({ "incident_id": "I".repeat(129), "reason": "x" }),
            "too_long",
        ),
        (
            json!({ "incident_id": "INC\n1", "reason": "x" }),
            "invalid_field",
        ),
    ] {
        rig.write("acme/reset", body).await.fails(400, code);
    }
    rig.write("other/reset", order("INC-1"))
        .await
        .fails(404, "unknown_tenant");
    assert_eq!(rig.storage.snapshot(), before);
    assert_eq!(rig.password_writes(), 1);
}

#[tokio::test]
async fn it_goes_on_although_storage_went_back() {
    let mut rig = Rig::created().await;
    let earlier = rig.storage.snapshot();
    rig.write("acme/rotate", json!({})).await.ok();
    rig.storage.restore(&earlier);
    rig.restart();
    rig.mailu.set_admin_down(true);
    assert_eq!(reset(&rig, "INC-1").await.ok().get("state"), "queued");
    rig.mailu.set_admin_down(false);
    rig.later(60);
    rig.tick().await;
    // Whether something undid it is the next tick's to see.
    rig.later(60);
    rig.tick().await;
    rig.settled().await;
}

#[tokio::test]
async fn an_administrative_write_does_not_end_it() {
    let rig = Rig::created().await;
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    let mut body = order("INC-1");
    body["hold"] = json!(true);
    let queued = rig.write("acme/reset", body).await.ok();
    assert_eq!(queued.get("state"), "queued");
    // Whoever took the account over offers its password as the new one.
    rig.mailu
        .set_password_directly(EMAIL, "the-intruder-s-password");
    let adopt = json!({ "password": "the-intruder-s-password", "cas": 1 });
    rig.write("acme/admin", adopt)
        .await
        .fails(409, "cas_mismatch");
    assert!(
        !rig.fits("the-intruder-s-password"),
        "the reset was finished"
    );
    rig.read("acme/admin").await.fails(403, "on_hold");
    let look = json!({ "reason": "on call" });
    let revealed = rig.write("acme/reveal", look).await.ok();
    assert!(rig.fits(revealed.text_of("password")));
}

#[tokio::test]
async fn a_repeat_may_ask_for_more_care_and_never_for_less() {
    let rig = Rig::created().await;
    rig.mailu.add_token(EMAIL);
    let mut body = order("INC-1");
    body["keep_app_tokens"] = json!(true);
    rig.write("acme/reset", body.clone()).await.ok();
    assert_eq!(rig.mailu.tokens(EMAIL).len(), 1);
    rig.read("acme/admin").await.ok();
    let stricter = json!({ "incident_id": "INC-1", "reason": "x", "hold": true });
    let again = rig.write("acme/reset", stricter).await.ok();
    assert_eq!(again.get("repeated"), true);
    rig.read("acme/admin").await.fails(403, "on_hold");
    rig.tick().await;
    assert!(rig.mailu.tokens(EMAIL).is_empty());
    // Unfinished work of one reset is not ended by the next one's wish to keep tokens.
    rig.mailu.add_token(EMAIL);
    rig.mailu
        .fault(Rule::new(Fault::ErrorBefore).method("DELETE"));
    reset(&rig, "INC-2").await.ok();
    body["incident_id"] = json!("INC-3");
    rig.write("acme/reset", body).await.ok();
    rig.later(60);
    rig.tick().await;
    assert!(rig.mailu.tokens(EMAIL).is_empty());
}

#[tokio::test]
async fn many_app_tokens_do_not_keep_the_answer_waiting() {
    let rig = Rig::created().await;
    for _ in 0..50 {
        rig.mailu.add_token(EMAIL);
    }
    let answer = reset(&rig, "INC-1").await.ok();
    assert_eq!(answer.get("tokens_revoked"), 20);
    assert_eq!(answer.get("tokens_left"), 30);
    rig.tick().await;
    assert!(rig.mailu.tokens(EMAIL).is_empty());
    rig.settled().await;
}
