//! `<tenant>/rotate`: what becomes of a password; `waiting` has who waits for whom.

use serde_json::{Value, json};

use crate::support::engine::{EMAIL, Rig};
use crate::support::mailu::standin::{Fault, HashShown, LoginService, Media, Release, Rule, Words};
use crate::support::sinks::{Begins, MailSink};

async fn rotate(rig: &Rig) -> crate::support::engine::Answer {
    rig.write("acme/rotate", json!({})).await
}

/// Asserts that an open change answers the old password and has the live one among its
/// candidates; returns them, newest first.
#[track_caller]
fn uncertain(read: &crate::support::engine::Answer, proven: &str) -> Vec<String> {
    assert_eq!(read.get("state"), "uncertain", "{:?}", read.data);
    assert_eq!(read.text_of("password"), proven);
    assert_eq!(read.get("ttl"), 15);
    let candidates = read.get("candidates").as_array().unwrap();
    let text = |it: &Value| it["password"].as_str().unwrap().to_owned();
    candidates.iter().map(text).collect()
}

#[tokio::test]
async fn the_old_password_is_refused_the_new_one_accepted_and_storage_agrees() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    let body = json!({ "reason": "quarterly change" });
    let rotated = rig.write("acme/rotate", body).await.ok();
    let new = rig.settled().await;
    assert_ne!(new, old);
    assert!(!rig.fits(&old));
    for (name, value) in [
        ("tenant", json!("acme")),
        ("version", json!(2)),
        ("previous_version", json!(1)),
        ("last_rotated", json!("2026-09-21T15:13:20Z")),
        ("next_rotation", json!("2027-03-21T02:00:25Z")),
        ("event", json!("smtp_credentials_rotated")),
        ("seq", json!(5)),
    ] {
        assert_eq!(rotated.get(name), &value, "{name}");
    }
    let text = rotated.data.to_string();
    assert!(!text.contains(&old) && !text.contains(&new));
    assert_eq!(
        rig.list("acme/versions").await.get("keys"),
        &json!(["1", "2"])
    );
    let events = rig.events("acme").await;
    let last = events.last().unwrap();
    assert_eq!(last["event_id"], rotated.data["event_id"]);
    assert_eq!(last["seq"], rotated.data["seq"]);
    for (name, value) in [
        ("rotation_type", json!("manual")),
        ("version", json!(2)),
        ("previous_version", json!(1)),
        ("previous_rotation", json!("2026-09-21T14:13:20Z")),
        ("reason", json!("quarterly change")),
        ("user_id", json!("entity-of-userpass-alice")),
        ("display_name", json!("userpass-alice")),
        ("outcome", json!("success")),
    ] {
        assert_eq!(last[name], value, "{name}");
    }
    // The mark in Mailu names the send, and the administrator's own text stays.
    rig.mailu.set_field(EMAIL, "comment", json!("ask Ada"));
    rig.later(3600);
    rotate(&rig).await.ok();
    let comment = rig.mailu.comment(EMAIL).unwrap();
    let lineage = rig.record("acme").await.unwrap().lineage;
    assert!(
        comment.starts_with(&format!("ask Ada [smtp {lineage} 3 ")),
        "{comment}"
    );
}

#[tokio::test]
async fn too_soon_and_the_resent_request() {
    let rig = Rig::created().await;
    let first = rig.write_as("the-id", "acme/rotate", json!({})).await.ok();
    rotate(&rig).await.fails(409, "too_soon");
    rig.later(299);
    rotate(&rig).await.fails(409, "too_soon");
    // The host sends the same call again when the plugin died under it.
    for _ in 0..2 {
        let again = rig.write_as("the-id", "acme/rotate", json!({})).await.ok();
        for name in ["version", "previous_version", "event_id", "seq"] {
            assert_eq!(again.get(name), first.get(name), "{name}");
        }
    }
    rig.later(1);
    rotate(&rig).await.ok();
    // Even after another change: the same call never makes a second candidate.
    rig.later(3600);
    let again = rig.write_as("the-id", "acme/rotate", json!({})).await.ok();
    assert_eq!(again.get("version"), 2);
    assert_eq!(rig.read("acme/admin").await.get("version"), 3);
    rig.settled().await;
    assert_eq!(rig.password_writes(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_found_out_in_the_same_request() {
    for (fault, writes) in [
        (Fault::CutAfter, 1),
        (Fault::ErrorAfter, 1),
        (Fault::Garbage, 1),
        (Fault::HugeBody { bytes: 9_000_000 }, 1),
        (Fault::CutBefore, 2),
        (Fault::ErrorBefore, 2),
        (Fault::BadGateway, 2),
        (Fault::HtmlOk, 2),
        (Fault::Lie, 2),
    ] {
        let rig = Rig::created().await;
        let old = rig.settled().await;
        rig.mailu
            .fault(Rule::new(fault.clone()).method("PATCH").path("/user"));
        let rotated = rotate(&rig).await.ok();
        assert_eq!(rotated.get("version"), 2, "{fault:?}");
        assert_ne!(rig.read("acme/admin").await.text_of("password"), old);
        assert!(!rig.fits(&old));
        assert_eq!(rig.password_writes() - 1, writes, "{fault:?}");
        let journal = rig.mailu.journal();
        let mut sent: Vec<_> = journal
            .iter()
            .filter_map(|it| it.password_sha256.clone())
            .collect();
        sent.remove(0);
        sent.dedup();
        assert_eq!(sent.len(), 1, "the same candidate, {fault:?}");
        rig.write("acme/verify", json!({})).await.ok();
        let password = rig.password().await;
        assert!(rig.fits(&password));
    }
}

#[tokio::test]
async fn a_hung_server_leaves_both_passwords_in_sight_until_it_is_settled() {
    for (fault, applied) in [
        (Fault::HangBefore { ms: None }, false),
        (Fault::HangAfter { ms: None }, true),
        (Fault::ApplyLater, false),
    ] {
        for settle in ["rotate", "verify", "admin"] {
            let rig = Rig::created().await;
            let mut server = rig.server();
            server["request_timeout"] = json!(2);
            rig.write("acme/config", server).await.ok();
            let old = rig.settled().await;
            rig.mailu.fault(Rule::new(fault.clone()).method("PATCH"));
            // The look after the send does not come through either.
            rig.mailu
                .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
            rotate(&rig).await.fails(503, "mailu_unreachable");
            let read = rig.read("acme/admin").await.ok();
            let candidates = uncertain(&read, &old);
            assert_eq!(candidates.len(), 2);
            assert_eq!(rig.fits(&candidates[0]), applied);
            assert!(candidates.iter().any(|it| rig.fits(it)));
            rig.check_pointers("acme").await;
            let status = rig.read("acme/status").await.ok();
            assert_eq!(status.get("state"), "uncertain");
            assert_eq!(status.get("open_work")["sends"], 1);
            assert_eq!(status.get("last_error")["code"], "mailu_unreachable");
            // The late write lands before or while somebody settles.
            rig.mailu.release().await;
            rig.write(&format!("acme/{settle}"), json!({})).await.ok();
            assert_eq!(rig.settled().await, candidates[0], "{fault:?} {settle}");
            let status = rig.read("acme/status").await;
            assert_eq!(status.get("last_error"), &Value::Null);
            let story = rig.story("acme").await;
            assert_eq!(story.last().unwrap(), "rotated");
        }
    }
}

#[tokio::test]
async fn a_write_held_by_a_frozen_server_is_recognised_when_it_lands() {
    let rig = Rig::created().await;
    let mut server = rig.server();
    server["request_timeout"] = json!(2);
    rig.write("acme/config", server).await.ok();
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH").times(2));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    let candidates = uncertain(&rig.read("acme/admin").await, &old);
    assert!(rig.fits(&old), "nothing landed yet");
    // A restart in between forgets nothing.
    let mut rig = rig;
    rig.restart();
    assert_eq!(uncertain(&rig.read("acme/admin").await, &old), candidates);
    rig.mailu.release().await;
    assert!(rig.fits(&candidates[0]));
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, candidates[0]);
    let record = rig.record("acme").await.unwrap();
    assert_eq!(record.open.confirm_at.len(), 2, "it is looked at again");
    // A later change does not make the old write land any less.
    rig.later(300);
    rotate(&rig).await.ok();
    rig.settled().await;
    let record = rig.record("acme").await.unwrap();
    assert!(record.open.confirm_at.len() >= 2, "still");
}

/// What Mailu itself says of a body that does not fit its schema.
fn own_refusal() -> Fault {
    let body = r#"{"errors":{"comment":"x"},"message":"Input payload validation failed"}"#;
    Fault::Worded {
        committed: false,
        words: Words::new(400, Media::Json, body),
    }
}

#[tokio::test]
async fn a_refusal_ends_the_change_and_keeps_what_was_sent() {
    for (case, status, code) in [
        (0, 400, "mailu_token_refused"),
        (1, 400, "mailu_no_such_account"),
        (2, 400, "mailu_rejected"),
    ] {
        let rig = Rig::created().await;
        let old = rig.settled().await;
        match case {
            0 => rig.mailu.set_token("another-token"),
            1 => assert!(rig.mailu.delete(EMAIL)),
            _ => rig.mailu.fault(Rule::new(own_refusal()).method("PATCH")),
        }
        rotate(&rig).await.fails(status, code);
        let read = rig.read("acme/admin").await;
        // A missing account cannot have the stored password any more.
        let state = if case == 1 { "drift" } else { "settled" };
        assert_eq!(read.get("state"), state);
        assert_eq!(read.text_of("password"), old);
        let record = rig.record("acme").await.unwrap();
        assert_eq!(record.intent, None);
        // Only the last answered a send: the others were noticed by the look before it.
        let versions = &record.credential.unwrap().versions;
        let abandoned: Vec<u64> = versions
            .iter()
            .filter(|it| it.abandoned)
            .map(|it| it.number)
            .collect();
        assert_eq!(abandoned, if case == 2 { vec![2] } else { Vec::new() });
        rig.check_pointers("acme").await;
        let events = rig.events("acme").await;
        assert_eq!(events.last().unwrap()["error_code"], code);
        assert_eq!(events.last().unwrap()["outcome"], "failure");
    }
}

/// A proxy, a WAF or a gateway commits the change and words the answer itself.
#[tokio::test]
async fn whatever_a_front_says_after_the_effect_the_change_is_done() {
    for words in Words::of_fronts() {
        let rig = Rig::created().await;
        let old = rig.settled().await;
        let fault = Fault::Worded {
            committed: true,
            words: words.clone(),
        };
        rig.mailu.fault(Rule::new(fault).method("PATCH"));
        rotate(&rig).await.ok();
        let new = rig.settled().await;
        assert_ne!(new, old, "{words:?}");
        assert_eq!(rig.password_writes(), 2, "{words:?}");
        rig.write("acme/verify", json!({})).await.ok();
        // Nothing is stopped: by a person at once, by the engine itself when the hour is over.
        rig.later(301);
        rotate(&rig).await.ok();
        rig.settled().await;
    }
}

/// The same without its effect: nothing is lost, nothing is stopped, and the next try ends it.
#[tokio::test]
async fn whatever_a_front_says_instead_of_the_effect_nothing_is_lost() {
    for words in Words::of_fronts() {
        let rig = Rig::created().await;
        let old = rig.settled().await;
        let fault = Fault::Worded {
            committed: false,
            words: words.clone(),
        };
        rig.mailu.fault(Rule::new(fault).method("PATCH"));
        let answer = rotate(&rig).await;
        if answer.status != 200 {
            uncertain(&rig.read("acme/admin").await, &old);
            rotate(&rig).await.ok();
        }
        let new = rig.settled().await;
        assert_ne!(new, old, "{words:?}");
        let record = rig.record("acme").await.unwrap();
        assert_eq!(record.credential.unwrap().versions.len(), 2, "{words:?}");
    }
}

#[tokio::test]
async fn a_rate_limited_server_is_a_conflict_and_not_asked_again() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu.set_limits(0, 50);
    rig.mailu.forget_proven();
    rotate(&rig).await.fails(409, "mailu_rate_limited");
    assert_eq!(rig.mailu.journal().last().unwrap().status, Some(429));
    rig.mailu.forgive();
    rig.mailu.set_limits(5, 50);
    let calls = rig.mailu.journal().len();
    rig.later(299);
    rotate(&rig).await.fails(409, "mailu_rate_limited");
    assert_eq!(rig.mailu.journal().len(), calls, "not asked again");
    rig.later(1);
    assert_eq!(rig.settled().await, old);
    rotate(&rig).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_does_not_drop_the_candidate() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::ApplyLater).method("PATCH"));
    rig.mailu.fault(Rule::new(own_refusal()).method("PATCH"));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    let candidates = uncertain(&rig.read("acme/admin").await, &old);
    rig.mailu.release().await;
    assert!(rig.fits(&candidates[0]), "the late write landed");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, candidates[0]);
}

#[tokio::test]
async fn a_token_refused_after_an_unknown_outcome_is_said_and_not_tried_again() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    rig.mailu.set_token("another-token");
    let calls = rig.mailu.journal().len();
    rotate(&rig).await.fails(400, "mailu_token_refused");
    assert_eq!(rig.mailu.journal().len(), calls + 1, "one refused call");
    let candidates = uncertain(&rig.read("acme/admin").await, &old);
    rig.mailu.set_token(rig.mailu.token());
    rotate(&rig).await.fails(400, "mailu_token_refused");
    assert_eq!(rig.mailu.journal().len(), calls + 1, "it is known");
    rig.later(3720);
    rotate(&rig).await.ok();
    assert_eq!(rig.settled().await, candidates[0]);
}

#[tokio::test]
async fn a_server_that_lies_is_never_believed() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(100));
    for _ in 0..3 {
        rotate(&rig).await.fails(503, "mailu_unreachable");
        let candidates = uncertain(&rig.read("acme/admin").await, &old);
        assert!(rig.fits(&candidates[1]));
        rig.later(600);
    }
    rig.mailu.clear_faults();
    rotate(&rig).await.ok();
    assert_ne!(rig.settled().await, old);
}

#[tokio::test]
async fn under_another_encoding_a_person_goes_on_with_another_value_at_once() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(2));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    let candidate = uncertain(&rig.read("acme/admin").await, &old).remove(0);
    let encoding = json!({ "password_encoding": "mailu_hex" });
    rig.write("config", encoding).await.ok();
    rotate(&rig).await.ok();
    let new = rig.settled().await;
    assert!(new.len() == 32 && new.chars().all(|it| it.is_ascii_hexdigit()));
    let version = rig.read("acme/versions/2").await.ok();
    assert_eq!(version.get("position"), "abandoned");
    // It lands after all, and is known.
    rig.mailu.set_password_directly(EMAIL, &candidate);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 2);
}

#[tokio::test]
async fn a_candidate_is_abandoned_after_its_last_send_and_kept() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(8));
    for _ in 0..4 {
        rotate(&rig).await.fails(503, "mailu_unreachable");
    }
    let candidate = uncertain(&rig.read("acme/admin").await, &old).remove(0);
    // Eight sends: not sent again, but kept open while it may still land.
    rig.later(899);
    let waits = rotate(&rig).await;
    assert!(waits.text.contains("version 1 is still live"), "{waits:?}");
    waits.fails(409, "not_taken");
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 1, "who asks is told");
    assert_eq!(rig.password_writes(), 9);
    rig.later(1);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("state"), "settled");
    assert_eq!(rig.settled().await, old);
    let version = rig.read("acme/versions/2").await.ok();
    assert_eq!(version.get("position"), "abandoned");
    assert!(
        rig.story("acme")
            .await
            .contains(&String::from("rotation_failed(abandoned)"))
    );
    rotate(&rig).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("version"), 3);
    let new = rig.settled().await;
    // Something on the way may not have liked its characters.
    let plain = |it: char| it.is_ascii_alphanumeric() || "-_".contains(it);
    assert!(candidate.ends_with('=') && new.chars().all(plain));
    // It lands after all: a stored version, so drift says which.
    rig.mailu.set_password_directly(EMAIL, &candidate);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 2);
    assert_eq!(rig.password().await, candidate);
    assert_ne!(new, candidate);
}

#[tokio::test]
async fn an_abandoned_value_is_found_behind_many_later_versions() {
    let rig = Rig::created().await;
    rig.mailu
        .fault(Rule::new(Fault::Lie).method("PATCH").times(8));
    for _ in 0..4 {
        rotate(&rig).await.fails(503, "mailu_unreachable");
    }
    let old = rig.password().await;
    let candidate = uncertain(&rig.read("acme/admin").await, &old).remove(0);
    rig.later(900);
    rig.write("acme/verify", json!({})).await.ok();
    for _ in 0..13 {
        rig.later(300);
        rotate(&rig).await.ok();
    }
    rig.mailu.set_password_directly(EMAIL, &candidate);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 2);
}

#[tokio::test]
async fn a_hidden_hash_never_blocks_for_ever() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu.set_hash_shown(HashShown::Hidden);
    rig.mailu
        .fault(Rule::new(Fault::ErrorBefore).method("PATCH").times(8));
    for _ in 0..4 {
        rotate(&rig).await.fails(503, "mailu_unreachable");
        rig.later(3600);
    }
    let candidates = uncertain(&rig.read("acme/admin").await, &old);
    // The server works again: the same candidate is sent until a definite answer.
    rotate(&rig).await.ok();
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("proof"), "acknowledged");
    assert_eq!(rig.settled().await, candidates[0]);
}

#[tokio::test]
async fn other_servers_and_hashes() {
    for shown in [HashShown::Hidden, HashShown::OtherScheme] {
        let rig = Rig::created().await;
        rig.mailu.set_hash_shown(shown);
        rotate(&rig).await.ok();
        assert_eq!(rig.read("acme/admin").await.get("proof"), "acknowledged");
        rig.settled().await;
    }
    let rig = Rig::created().await;
    rig.mailu.set_release(Release::V2_0);
    rotate(&rig).await.ok();
    rig.settled().await;
    rig.mailu.disable(EMAIL);
    rig.later(3600);
    rotate(&rig).await.ok();
    rig.settled().await;
}

#[tokio::test]
async fn a_login_is_tried_once_and_never_outranks_a_hash() {
    let rig = Rig::created().await;
    let mut server = rig.server();
    server["smtp_address"] = json!(format!("localhost:{}", rig.mailu.submission_port()));
    server["verify_smtp"] = json!(true);
    rig.write("acme/config", server).await.ok();
    rotate(&rig).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("proof"), "hash");
    rig.settled().await;
    let logins = rig.mailu.smtp_journal();
    assert_eq!(
        (logins.len(), logins[0].code, logins[0].tls),
        (1, 235, true)
    );
    // Refused: a warning and no second try.
    rig.mailu.set_require_tokens(true);
    rig.later(3600);
    let rotated = rotate(&rig).await.ok();
    assert_eq!(rotated.warnings.len(), 1);
    assert_eq!(rig.read("acme/admin").await.get("proof"), "hash");
    rig.settled().await;
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.mailu.smtp_journal().len(), 2);
    // A mail side that is not ready, or limits logins: nothing is wrong with its address.
    rig.mailu.set_require_tokens(false);
    rig.mailu.set_login_service(LoginService::Down);
    rig.later(3600);
    let warnings = rotate(&rig).await.ok().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("put the login off"), "{warnings:?}");
    assert!(!warnings[0].contains("smtp_address"), "{warnings:?}");
    rig.settled().await;
    assert_eq!(rig.mailu.smtp_journal().len(), 3);
    // Never for a disabled user: each try would count against it.
    rig.mailu.set_login_service(LoginService::Up);
    rig.mailu.disable(EMAIL);
    rig.later(3600);
    assert_eq!(rotate(&rig).await.ok().warnings.len(), 1);
    rig.settled().await;
    assert_eq!(rig.mailu.smtp_journal().len(), 3);
    // Where there is no hash to look at, it is more than Mailu's word.
    rig.mailu.set_field(EMAIL, "enabled", json!(true));
    rig.mailu.set_hash_shown(HashShown::Hidden);
    rig.later(3600);
    rotate(&rig).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("proof"), "login");
    rig.mailu.set_hash_shown(HashShown::Real);
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("proof"), "hash");
}

/// What keeps a login from a verdict is told as what it is, and is not said again.
#[tokio::test]
async fn a_no_before_the_login_is_told_with_its_code() {
    for (word, reply, trusted, told) in [
        (
            "GREETING",
            "554 blocked-here",
            true,
            "the connection with 554",
        ),
        ("GREETING", "421 come-later", true, "at the moment"),
        ("EHLO", "550 not-you", true, "EHLO with 550"),
        ("STARTTLS", "454 come-later", true, "STARTTLS with 454"),
        ("AUTH", "454 come-later", true, "AUTH with 454"),
        ("NOOP", "250 ok", false, "certificate is not known"),
    ] {
        let rig = Rig::created().await;
        let sink = MailSink::start(Begins::WithStartTls).await;
        sink.replies(word, reply);
        let mut server = rig.server();
        server["smtp_address"] = json!(format!("localhost:{}", sink.address.port()));
        server["verify_smtp"] = json!(true);
        if trusted {
            let both = format!("{}{}", rig.mailu.ca_pem(), sink.authority.pem());
            server["ca_cert"] = json!(both);
        }
        rig.write("acme/config", server).await.ok();
        let rotated = rotate(&rig).await.ok();
        assert_eq!(rotated.warnings.len(), 1, "{word} {reply}");
        let warning = &rotated.warnings[0];
        assert!(warning.contains(told), "{word} {reply}: {warning}");
        let words = reply.split_once(' ').unwrap().1;
        assert!(!warning.contains(words), "{warning}");
        rig.settled().await;
        let said = sink.said().len();
        rig.write("acme/verify", json!({})).await.ok();
        assert_eq!(sink.said().len(), said, "once for each version");
    }
}

#[tokio::test]
async fn a_mark_from_the_future_is_critical_and_begins_a_new_lineage() {
    for generation in [9, u64::MAX] {
        let rig = Rig::created().await;
        let lineage = rig.record("acme").await.unwrap().lineage;
        let comment = format!("[smtp {lineage} {generation} elsewhere]");
        rig.mailu.set_field(EMAIL, "comment", json!(comment));
        rotate(&rig).await.ok();
        rig.settled().await;
        let record = rig.record("acme").await.unwrap();
        assert_ne!(record.lineage, lineage);
        let story = rig.story("acme").await;
        assert!(
            story.contains(&String::from("drift_detected(stale_storage)")),
            "{story:?}"
        );
    }
}

#[tokio::test]
async fn out_of_drift() {
    let rig = Rig::created().await;
    rig.mailu.set_password_directly(EMAIL, "foreign");
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.read("acme/admin").await.get("state"), "drift");
    rotate(&rig).await.ok();
    rig.settled().await;
    assert!(!rig.fits("foreign"));
    // A foreign change while the outcome is open: nothing is sent until a person decides.
    rig.later(3600);
    let old = rig.settled().await;
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    rig.mailu.set_password_directly(EMAIL, "foreign again");
    let writes = rig.password_writes();
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("state"), "drift");
    rotate_answers_drift(&rig, &old).await;
    assert_eq!(rig.password_writes(), writes);
    rotate(&rig).await.ok();
    rig.settled().await;
    assert_eq!(
        rig.read("acme/versions/2").await.get("position"),
        "previous"
    );
}

#[tokio::test]
async fn a_password_set_by_hand_is_adopted_although_a_change_is_open() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    let candidate = uncertain(&rig.read("acme/admin").await, &old).remove(0);
    rig.mailu.set_password_directly(EMAIL, "set by hand");
    let writes = rig.password_writes();
    let adopt = json!({ "password": "set by hand", "cas": 1 });
    assert_eq!(rig.write("acme/admin", adopt).await.ok().get("version"), 3);
    assert_eq!(rig.password_writes(), writes);
    assert_eq!(rig.settled().await, "set by hand");
    let given_up = rig.read("acme/versions/2").await.ok();
    assert_eq!(given_up.get("position"), "abandoned");
    // What was sent is kept and recognised if it lands late.
    rig.mailu.set_password_directly(EMAIL, &candidate);
    let verified = rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(verified.get("live_version"), 2);
}

/// Configuration management repeats what it imported: that must not end a change whose send may
/// still land.
#[tokio::test]
async fn naming_the_current_password_does_not_give_an_open_change_up() {
    let rig = Rig::created().await;
    let old = rig.settled().await;
    rig.mailu
        .fault(Rule::new(Fault::ApplyLater).method("PATCH"));
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rotate(&rig).await.fails(503, "mailu_unreachable");
    let candidate = uncertain(&rig.read("acme/admin").await, &old).remove(0);
    // Settling sends again and is not heard: the change stays open and its value is kept.
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("PATCH").times(2));
    let repeated = json!({ "password": old, "cas": 1 });
    rig.write("acme/admin", repeated)
        .await
        .fails(503, "mailu_unreachable");
    assert_eq!(uncertain(&rig.read("acme/admin").await, &old)[0], candidate);
    rig.mailu.clear_faults();
    rig.mailu.release().await;
    rig.write("acme/verify", json!({})).await.ok();
    assert_eq!(rig.settled().await, candidate);
    assert_eq!(rig.read("acme/versions/2").await.get("position"), "current");
}

async fn rotate_answers_drift(rig: &Rig, old: &str) {
    let read = rig.read("acme/admin").await;
    assert_eq!(read.get("state"), "drift");
    assert_eq!(read.get("live_version"), &Value::Null);
    assert!(read.data.get("live_version").is_some());
    assert_eq!(read.text_of("password"), old);
    let status = rig.read("acme/status").await;
    assert_eq!(status.get("drift")["code"], "foreign_password");
}

#[tokio::test]
async fn what_a_rotation_refuses() {
    let rig = Rig::created().await;
    let before = rig.storage.snapshot();
    for (reason, code) in [
        (json!("x".repeat(513)), "too_long"),
        (json!("a\u{0}b"), "invalid_field"),
        (json!(["a"]), "invalid_field"),
    ] {
        rig.write("acme/rotate", json!({ "reason": reason }))
            .await
            .fails(400, code);
    }
    let chosen = json!({ "password": "chosen", "reason": "x".repeat(512) });
    let refused = rig.write("acme/rotate", chosen).await;
    let refused = refused.fails(400, "unknown_field");
    assert!(refused.text.contains("password"));
    assert!(!refused.text.contains("chosen"));
    assert_eq!(rig.storage.snapshot(), before);
    let longest = json!({ "reason": "x".repeat(512) });
    rig.write("acme/rotate", longest).await.ok();
    rig.settled().await;
}

/// Mailu's own form for new users sets it: the next login on the web would change the password.
#[tokio::test]
async fn a_change_ends_the_duty_to_change_the_password_on_the_web() {
    for release in [Release::V2024_06, Release::V2_0] {
        let rig = Rig::created().await;
        rig.mailu.set_release(release);
        rig.mailu
            .set_field(EMAIL, "change_pw_next_login", json!(true));
        let knows = release != Release::V2_0;
        let verified = rig.write("acme/verify", json!({})).await.ok();
        let told = verified
            .warnings
            .iter()
            .any(|it| it.contains("change_pw_next_login"));
        assert_eq!(told, knows, "{verified:?}");
        rotate(&rig).await.ok();
        rig.settled().await;
        let duty = &rig.mailu.user(EMAIL).unwrap().fields["change_pw_next_login"];
        assert_eq!(duty, &json!(!knows));
        let journal = rig.mailu.journal();
        let change = journal.iter().rfind(|it| it.method == "PATCH").unwrap();
        let named = change
            .body_keys
            .contains(&String::from("change_pw_next_login"));
        assert_eq!(named, knows, "{change:?}");
    }
}
