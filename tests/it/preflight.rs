//! What is found before a coming change, over real TLS: it has to be known early enough to be
//! mended, and looking must change nothing.

use serde_json::{Value, json};

use vault_plugin_secrets_smtp::engine::storage::record::Preflight;
use vault_plugin_secrets_smtp::logical::{Storage as _, StorageEntry};

use crate::support::engine::{EMAIL, FIRST, Rig};
use crate::support::mailu::standin::{
    Config, Fault, HashShown, Media, Release, Rule, TokenSeen, Words,
};

async fn preflight(rig: &Rig) -> Preflight {
    let before = rig.record("acme").await;
    let writes = rig.password_writes();
    let found = rig.backend.preflight(&rig.mount, "acme").await.unwrap();
    assert_eq!(
        rig.record("acme").await,
        before,
        "looking changes no record"
    );
    assert_eq!(rig.password_writes(), writes, "looking sends nothing");
    found
}

/// The codes of the findings, as they are stored.
fn codes(found: &Preflight) -> Vec<String> {
    let codes = serde_json::to_value(&found.findings).unwrap();
    serde_json::from_value(codes).unwrap()
}

async fn findings(rig: &Rig) -> Vec<String> {
    codes(&preflight(rig).await)
}

/// `acme` with an imported password, its server at `url`.
async fn imported(url: &str, rig: &Rig) {
    let mut server = rig.server();
    server["mailu_url"] = json!(url);
    rig.write("acme/config", server).await.ok();
    rig.write(
        "acme/admin",
        json!({ "username": EMAIL, "password": FIRST }),
    )
    .await
    .ok();
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    let rig = Rig::created().await;
    let asked = rig.mailu.journal().len();
    let found = preflight(&rig).await;
    assert_eq!(codes(&found), [""; 0]);
    assert_eq!(found.at.to_rfc3339(), "2026-09-21T15:13:20+00:00");
    assert_eq!(found.mailu_version.as_deref(), Some("2024.06"));
    let end = found.certificate_expires_at.unwrap();
    assert_eq!(end.to_rfc3339(), "4096-01-01T00:00:00+00:00");
    let asked = &rig.mailu.journal()[asked..];
    let asked: Vec<(&str, &str)> = asked
        .iter()
        .map(|entry| (entry.method.as_str(), entry.path.as_str()))
        .collect();
    // The last one without the token, and about a token that no server has.
    let expected = [
        ("GET", "/api/v1/user/smtp-admin@example.test"),
        ("GET", "/api/v1/swagger.json"),
        ("PATCH", "/api/v1/token/0"),
    ];
    assert_eq!(asked, expected);
    let last = rig.mailu.journal().pop().unwrap();
    assert_eq!((last.token, last.applied), (TokenSeen::Missing, false));
}

#[tokio::test]
async fn a_certificate_that_ends_before_two_weeks_after_the_change_is_found() {
    let mut config = Config::default().user(EMAIL, FIRST);
    // So far ahead that the real clock, by which TLS is verified, is not there yet.
    config.certificate_end = 2080;
    let rig = Rig::with(config).await;
    rig.configure("acme").await;
    rig.write("acme/admin", json!({ "username": EMAIL }))
        .await
        .ok();
    let ends = chrono::DateTime::parse_from_rfc3339("2080-01-01T00:00:00Z").unwrap();
    let weeks = chrono::TimeDelta::weeks;
    for (policy, wait, found) in [
        // The change comes in ten weeks, two weeks before the end: that is enough.
        (weeks(10), weeks(12), Vec::new()),
        (
            weeks(10) + chrono::TimeDelta::seconds(1),
            weeks(12),
            vec!["tls_expires_soon"],
        ),
        (weeks(20), weeks(12), vec!["tls_expires_soon"]),
        // No change planned: what counts is today.
        (weeks(0), weeks(3), Vec::new()),
        (weeks(0), weeks(1), vec!["tls_expires_soon"]),
    ] {
        let now = ends.to_utc() - wait;
        edit(&rig, |credential| {
            credential["next_rotation"] = if policy == weeks(0) {
                Value::Null
            } else {
                json!((now + policy).to_rfc3339())
            };
        })
        .await;
        rig.clock.jump_to(now);
        let looked = preflight(&rig).await;
        assert_eq!(codes(&looked), found, "{policy} {wait}");
        assert_eq!(looked.certificate_expires_at, Some(ends.to_utc()));
    }
}

/// Changes the stored credential of `acme` and starts a new process.
async fn edit(rig: &Rig, edit: impl FnOnce(&mut Value)) {
    let entry = rig.storage.get("tenant/acme").await.unwrap().unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    edit(&mut record["credential"]);
    let value = serde_json::to_vec(&record).unwrap();
    let entry = StorageEntry::new("tenant/acme", value);
    rig.storage.put(entry).await.unwrap();
}

/// Where nobody listens.
fn nobody() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://localhost:{}", free.local_addr().unwrap().port())
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_is_another_thing_than_no_server() {
    for (place, found) in [
        ("another name", "tls_invalid"),
        ("the past", "tls_invalid"),
        ("no listener", "unreachable"),
        ("no name", "unreachable"),
        // Whatever is there is not the API.
        ("a redirect", "unreachable"),
    ] {
        let rig = Rig::start().await;
        let url = match place {
            "another name" => rig.mailu.wrong_name_url(),
            "the past" => rig.mailu.expired_url(),
            "no listener" => nobody(),
            "no name" => String::from("https://nobody.invalid"),
            _ => rig.mailu.http_url(),
        };
        imported(&url, &rig).await;
        let looked = preflight(&rig).await;
        assert_eq!(codes(&looked), [found], "{url}");
        assert_eq!(looked.certificate_expires_at, None, "{url}");
        assert_eq!(looked.mailu_version, None, "{url}");
        let fault = match place {
            "another name" => Some("other_name"),
            "the past" => Some("expired"),
            _ => None,
        };
        assert_eq!(looked.tls_fault.as_deref(), fault, "{url}");
    }
}

/// The library takes a trusted CA without looking at its time; others look.
#[tokio::test]
async fn a_given_ca_that_has_expired_is_told_at_the_write_and_before_the_change() {
    let until = |year| {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let rig = Rig::created().await;
    for (more, told) in [
        (until(2040), None),
        (
            format!("# old\n{}", until(2021)),
            Some("Certificate 2 of ca_cert has expired on 2021-12-31"),
        ),
    ] {
        let mut server = rig.server();
        server["ca_cert"] = json!(format!("{}{more}", rig.mailu.ca_pem()));
        let written = rig.write("acme/config", server.clone()).await.ok();
        let warned: Vec<_> = written.warnings.iter().collect();
        assert_eq!(warned.len(), usize::from(told.is_some()), "{warned:?}");
        let said = |text: &str| warned.iter().any(|it| it.starts_with(text));
        assert!(told.is_none_or(said), "{warned:?}");
        let expected = if told.is_some() {
            &["ca_expired"][..]
        } else {
            &[]
        };
        assert_eq!(findings(&rig).await, expected);
        let hook = json!({
            "type": "webhook", "url": "https://hooks.ops.example/smtp",
            "hmac_key": "key-of-the-signature", "ca_cert": server["ca_cert"],
        });
        let written = rig.write("config/notify/hook", hook).await.ok();
        assert_eq!(written.warnings.len(), usize::from(told.is_some()));
        let audit = json!({
            "address": "https://127.0.0.1:8200", "role_id": "r", "secret_id": "s",
            "ca_cert": server["ca_cert"],
        });
        let written = rig.write("config/audit", audit).await.ok();
        assert_eq!(written.warnings.len(), usize::from(told.is_some()));
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_account_is_found() {
    let rig = Rig::created().await;
    rig.mailu.disable(EMAIL);
    assert_eq!(findings(&rig).await, ["account_disabled"]);
    rig.mailu.set_password_directly(EMAIL, "somebody else's");
    assert_eq!(findings(&rig).await, ["drift", "account_disabled"]);
    rig.mailu.set_hash_shown(HashShown::Hidden);
    assert_eq!(findings(&rig).await, ["live_unknown", "account_disabled"]);
    rig.mailu.delete(EMAIL);
    assert_eq!(findings(&rig).await, ["account_missing"]);
}

#[tokio::test]
async fn an_older_password_that_is_live_is_drift_and_so_is_a_strangers_mark() {
    let rig = Rig::created().await;
    let first = rig.password().await;
    rig.write("acme/rotate", json!({})).await.ok();
    assert_eq!(findings(&rig).await, [""; 0]);
    let second = rig.password().await;
    rig.mailu.set_password_directly(EMAIL, &first);
    assert_eq!(findings(&rig).await, ["drift"]);
    rig.mailu.set_password_directly(EMAIL, &second);
    assert_eq!(findings(&rig).await, [""; 0]);
    let mark = json!("[smtp dddddddddddddddddddddddddddddddd 99 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]");
    rig.mailu.set_field(EMAIL, "comment", mark);
    assert_eq!(findings(&rig).await, ["other_owner"]);
}

#[tokio::test]
async fn a_comment_without_room_for_the_mark_is_found_and_never_cut() {
    let rig = Rig::created().await;
    let lineage = rig.record("acme").await.unwrap().lineage;
    // "[smtp <32> <generation> <32>]" and the space before it.
    let mark = 1 + 6 + lineage.len() + 1 + 1 + 1 + 32 + 1;
    for (length, found) in [
        (0, vec![]),
        (255 - mark, vec![]),
        (255 - mark + 1, vec!["mark_does_not_fit"]),
        (255, vec!["mark_does_not_fit"]),
    ] {
        // Characters, not bytes.
        let comment = "ü".repeat(length);
        rig.mailu.set_field(EMAIL, "comment", json!(comment));
        assert_eq!(findings(&rig).await, found, "{length}");
        let told = rig.write("acme/verify", json!({})).await.ok().warnings;
        let told = told.iter().filter(|it| it.contains("no room")).count();
        assert_eq!(told, found.len(), "{length}");
        rig.write("acme/rotate", json!({})).await.ok();
        let kept = rig.mailu.user(EMAIL).unwrap().comment().to_owned();
        assert!(kept.starts_with(&comment), "{length}: {kept}");
        assert_eq!(kept.contains("[smtp "), found.is_empty(), "{length}");
        rig.later(600);
    }
    // Without marks there is nothing to fit.
    rig.write("config", json!({ "mailu_marker": false }))
        .await
        .ok();
    assert_eq!(findings(&rig).await, [""; 0]);
}

#[tokio::test]
async fn a_server_whose_app_tokens_anybody_edits_is_found() {
    let rig = Rig::created().await;
    let told = async || {
        let answer = rig.write("acme/verify", json!({})).await.ok();
        let warnings = answer.warnings.into_iter();
        let told: Vec<String> = warnings
            .filter(|it| it.contains("CVE-2026-49217"))
            .collect();
        told
    };
    assert_eq!(told().await, [""; 0], "a release without it");
    // Whether the account has tokens does not matter: it may have some tomorrow.
    rig.mailu.set_open_tokens(true);
    assert_eq!(findings(&rig).await, ["app_tokens_open"]);
    let warnings = told().await;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("anybody can edit"), "{warnings:?}");
    rig.mailu.set_open_tokens(false);
    rig.mailu.add_token(EMAIL);
    assert_eq!(findings(&rig).await, [""; 0]);
    assert_eq!(told().await, [""; 0]);
    // Something before Mailu answers in its place, and asks for no header: nothing is known then.
    for words in [
        Words::new(404, Media::Html, "<html>"),
        Words::new(404, Media::Json, r#"{"message":"no Route matched"}"#),
        Words::new(401, Media::Html, "<html>"),
        Words::new(403, Media::Json, r#"{"message":"Forbidden"}"#),
        Words::new(405, Media::Json, r#"{"message":"not allowed"}"#),
        Words::new(200, Media::Html, "<html>"),
    ] {
        let committed = false;
        rig.mailu.fault(
            Rule::new(Fault::Worded {
                committed,
                words: words.clone(),
            })
            .path("/token/0")
            .times(2),
        );
        assert_eq!(findings(&rig).await, [""; 0], "{words:?}");
        let warnings = told().await;
        assert!(warnings[0].starts_with("it could not be told"), "{words:?}");
    }
    // Nothing of it costs a try at the limiter: the server is asked as before.
    rig.write("acme/verify", json!({})).await.ok();
    rig.mailu.set_release(Release::V2_0);
    assert_eq!(told().await, [""; 0], "it has no app tokens");
}

#[tokio::test]
async fn a_change_that_is_open_is_found_and_stays_open() {
    let rig = Rig::created().await;
    rig.mailu.fault(Rule::new(Fault::CutBefore).method("PATCH"));
    // The look after the send does not come through either.
    rig.mailu
        .fault(Rule::new(Fault::CutBefore).method("GET").after(1));
    rig.write("acme/rotate", json!({}))
        .await
        .fails(503, "mailu_unreachable");
    assert_eq!(findings(&rig).await, ["unsettled"]);
}

#[tokio::test]
async fn a_release_of_the_old_line_and_one_that_is_not_told_are_found() {
    let rig = Rig::created().await;
    rig.mailu.set_release(Release::V2_0);
    let found = preflight(&rig).await;
    assert_eq!(codes(&found), ["mailu_old"]);
    assert_eq!(found.mailu_version.as_deref(), Some("2.0"));
    rig.mailu
        .fault(Rule::new(Fault::BadGateway).path("/swagger.json"));
    let found = preflight(&rig).await;
    assert_eq!(codes(&found), ["mailu_unknown"]);
    assert_eq!(found.mailu_version, None);
}

#[tokio::test]
async fn a_refused_token_is_found_once_and_then_left_alone() {
    let rig = Rig::created().await;
    rig.mailu.set_token("another-token");
    assert_eq!(findings(&rig).await, ["token_refused"]);
    let asked = rig.mailu.journal().len();
    // The certificate is not seen any more: no call is made.
    let found = preflight(&rig).await;
    assert_eq!(codes(&found), ["token_refused"]);
    assert_eq!(found.certificate_expires_at, None);
    assert_eq!(rig.mailu.journal().len(), asked);
}

#[tokio::test]
async fn a_server_that_rests_after_refused_calls_is_found() {
    let config = Config::default().user(EMAIL, FIRST);
    let rig = Rig::with(config).await;
    // Nothing was accepted yet, so the wrong tokens of others use up what all new ones have.
    for (tenant, token) in [("globex", "a"), ("initech", "b"), ("umbrella", "c")] {
        let mut server = rig.server();
        server["api_token"] = json!(token);
        rig.write(&format!("{tenant}/config"), server).await.ok();
        let admin = json!({ "username": format!("{tenant}@example.test"), "password": FIRST });
        rig.write(&format!("{tenant}/admin"), admin).await;
    }
    imported(&rig.mailu.url(), &rig).await;
    assert_eq!(findings(&rig).await, ["limiter_busy"]);
    rig.later(63 * 60);
    assert_eq!(findings(&rig).await, [""; 0]);
}

#[tokio::test]
async fn a_server_that_gave_no_answers_is_not_asked_again_at_once() {
    let rig = Rig::created().await;
    rig.mailu.set_admin_down(true);
    for _ in 0..3 {
        assert_eq!(findings(&rig).await, ["unreachable"]);
    }
    let asked = rig.mailu.journal().len();
    assert_eq!(findings(&rig).await, ["unreachable"]);
    assert_eq!(rig.mailu.journal().len(), asked, "its breaker is open");
}

#[tokio::test]
async fn a_tenant_without_a_server_has_one_finding() {
    let rig = Rig::start().await;
    rig.write(
        "acme/admin",
        json!({ "username": EMAIL, "password": FIRST }),
    )
    .await
    .ok();
    assert_eq!(findings(&rig).await, ["no_server"]);
}

#[tokio::test]
async fn the_notice_a_week_before_the_change_carries_the_verdict() {
    let rig = Rig::created().await;
    rig.mailu.set_release(Release::V2_0);
    rig.mailu.disable(EMAIL);
    rig.later(172 * 24 * 3600);
    // Ticks had stopped, so the schedule waits for a check; the notice comes with the next one.
    for _ in 0..60 {
        rig.later(55 * 60);
        rig.tick().await;
    }
    let status = rig.read("acme/status").await.ok();
    let found = status.get("preflight");
    let codes: Vec<&str> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["account_disabled", "mailu_old"]);
    assert_eq!(found["mailu_version"], "2.0");
    assert_eq!(found["at"], *status.get("notice_sent_at"));
    let story = rig.story("acme").await;
    let notice = "rotation_notice(account_disabled)";
    assert_eq!(story.last().unwrap(), notice, "{story:?}");
    assert_eq!(story.iter().filter(|event| *event == notice).count(), 1);
}
