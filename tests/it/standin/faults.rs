//! Ordered failures: what is applied, what is answered, what the journal says.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::rig::{EMAIL, Rig, USER};
use crate::support::mailu::standin::{Config, Fault, Rehash, Rule, Words, sha256_hex};

#[tokio::test]
async fn faults_before_the_commit_leave_the_password_and_faults_after_it_do_not() {
    let cases = [
        (Fault::CutBefore, None, false),
        (Fault::CutAfter, None, true),
        (Fault::HangBefore { ms: Some(1) }, Some(504), false),
        (Fault::HangAfter { ms: Some(1) }, Some(504), true),
        (Fault::Hold { ms: Some(1) }, Some(200), true),
        (Fault::BadGateway, Some(502), false),
        (Fault::ErrorBefore, Some(500), false),
        (Fault::ErrorAfter, Some(500), true),
        (Fault::Lie, Some(200), false),
        (Fault::SlowBody { ms: 0 }, Some(200), true),
        (Fault::HugeBody { bytes: 100_000 }, Some(200), true),
        (Fault::HtmlOk, Some(200), false),
        (
            Fault::Redirect {
                location: "https://elsewhere.test/".to_owned(),
            },
            Some(302),
            false,
        ),
        (Fault::Garbage, Some(200), true),
    ];
    let worded = Words::of_fronts().into_iter().flat_map(|words| {
        [true, false].map(|committed| {
            let status = Some(words.status);
            let words = words.clone();
            (Fault::Worded { committed, words }, status, committed)
        })
    });
    let cases = cases.into_iter().chain(worded);
    let rig = Rig::start().await;
    for (number, (fault, status, applied)) in cases.enumerate() {
        let password = format!("password {number}");
        rig.mailu
            .fault(Rule::new(fault.clone()).method("PATCH").path("/user/"));
        assert_eq!(rig.get(USER).await.0, 200, "not meant: {fault:?}");
        let body = json!({ "raw_password": password });
        let answer = rig.request(Method::PATCH, USER).json(&body).send().await;
        assert_eq!(
            answer.ok().map(|a| a.status().as_u16()),
            status,
            "{fault:?}"
        );
        assert_eq!(
            rig.mailu.password_fits(EMAIL, &password),
            applied,
            "{fault:?}"
        );
        let entry = rig.mailu.journal().pop().unwrap();
        assert_eq!(
            (entry.status, entry.applied),
            (status, applied),
            "{fault:?}"
        );
        assert_eq!(entry.fault, Some(fault.name()));
        assert_eq!(entry.body_keys, ["raw_password"]);
        assert_eq!(entry.password_sha256, Some(sha256_hex(&password)));
        let arrived = rig.mailu.journal().len();
        assert_eq!(arrived, 2 * (number + 1), "one GET, one PATCH each");
    }
}

#[tokio::test]
async fn a_late_write_lands_at_the_release_even_when_its_client_is_gone() {
    let rig = Rig::start().await;
    rig.mailu
        .fault(Rule::new(Fault::ApplyLater).method("PATCH"));
    assert_eq!(rig.patch(json!({ "raw_password": "late" })).await.0, 504);
    assert!(rig.mailu.password_fits(EMAIL, "first"));
    rig.mailu.release().await;
    assert!(rig.mailu.password_fits(EMAIL, "late"));

    rig.mailu
        .fault(Rule::new(Fault::Hold { ms: None }).method("PATCH"));
    let body = json!({ "raw_password": "held" });
    let request = rig.request(Method::PATCH, USER).json(&body).send();
    tokio::select! {
        _ = request => unreachable!("a held request has no answer"),
        () = rig.mailu.wait_held(1) => {}
    }
    assert!(rig.mailu.password_fits(EMAIL, "late"));
    rig.mailu.release().await;
    assert!(rig.mailu.password_fits(EMAIL, "held"));
}

#[tokio::test]
async fn a_login_hashes_an_outdated_password_again_and_may_undo_a_change() {
    let rig = Rig::start().await;
    let hash = || rig.mailu.user(EMAIL).unwrap().hash;
    let first = hash();
    assert!(rig.logs_in("first").await);
    assert_eq!(hash(), first, "it is of today");
    rig.mailu.set_rounds(5);
    assert!(!rig.logs_in("wrong").await);
    assert_eq!(hash(), first);
    assert!(rig.logs_in("first").await);
    assert!(hash().contains("r=5") && rig.mailu.password_fits(EMAIL, "first"));
    rig.mailu.set_rounds(6);
    rig.mailu.set_rehash(Rehash::Held);
    assert!(rig.logs_in("first").await);
    assert_eq!(rig.patch(json!({ "raw_password": "second" })).await.0, 200);
    assert!(rig.mailu.password_fits(EMAIL, "second"));
    rig.mailu.release().await;
    assert!(rig.mailu.password_fits(EMAIL, "first"), "the whole column");
}

#[tokio::test]
async fn a_cache_heeds_the_url_and_nothing_else() {
    let rig = Rig::start().await;
    rig.mailu.set_cached_for(Duration::from_secs(60));
    let look = async |query: &str| {
        let request = rig.request(Method::GET, &format!("{USER}{query}"));
        let answer = request.header("cache-control", "no-cache").send();
        let answer = answer.await.unwrap();
        let age = answer.headers().get("age").cloned();
        (age, answer.text().await.unwrap())
    };
    let (age, first) = look("").await;
    assert_eq!(age, None);
    assert_eq!(rig.patch(json!({ "raw_password": "second" })).await.0, 200);
    rig.mailu.advance(Duration::from_secs(7));
    let (age, again) = look("").await;
    assert_eq!(
        (age.unwrap().to_str().unwrap(), again),
        ("7", first.clone())
    );
    assert_ne!(look("?_=1").await.1, first);
    rig.mailu.advance(Duration::from_secs(60));
    assert_eq!(look("").await.0, None);
}

#[tokio::test]
async fn password_changes_wait_for_each_other() {
    let rig = Rig::start().await;
    let delay = Duration::from_millis(40);
    rig.mailu.set_hash_delay(delay);
    let start = tokio::time::Instant::now();
    let (one, two) = tokio::join!(
        rig.patch(json!({ "raw_password": "one" })),
        rig.patch(json!({ "raw_password": "two" })),
    );
    assert_eq!((one.0, two.0), (200, 200));
    assert!(start.elapsed() >= 2 * delay);
}

#[tokio::test]
async fn the_control_api_orders_faults_and_checks_passwords() {
    let config = Config {
        control_port: Some(0),
        ..Config::default()
    };
    let rig = Rig::with(config.user(EMAIL, "first")).await;
    let control = rig.mailu.control_url().unwrap();
    let post = async |path: &str, body: Value| -> (u16, Value) {
        let request = rig.client.post(format!("{control}{path}")).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let fault = json!({ "fault": { "kind": "apply_later" }, "method": "PATCH", "path": "/user/" });
    assert_eq!(post("/fault", fault).await.0, 200);
    assert_eq!(
        post("/fault", json!({ "fault": { "kind": "typo" } }))
            .await
            .0,
        400
    );
    assert_eq!(rig.patch(json!({ "raw_password": "late" })).await.0, 504);
    let late = json!({ "email": EMAIL, "password": "late" });
    assert_eq!(
        post("/check-password", late.clone()).await.1,
        json!({ "fits": false })
    );
    assert_eq!(post("/release", json!({})).await.0, 200);
    assert_eq!(
        post("/check-password", late.clone()).await.1,
        json!({ "fits": true })
    );
    assert_eq!(
        post("/smtp-login", late).await.1,
        json!({ "answer": "good" })
    );
    let journal = rig
        .client
        .get(format!("{control}/journal"))
        .send()
        .await
        .unwrap();
    let journal = journal.text().await.unwrap();
    assert!(journal.contains(&sha256_hex("late")) && !journal.contains("\"late\""));
}
