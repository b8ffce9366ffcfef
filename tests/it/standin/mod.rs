//! The stand-in itself, against a real HTTP client and a real SMTP client.
//!
//! Every expectation here was observed on a running Mailu: if one fails, tests of the engine
//! against the stand-in mean nothing.

mod rig;

use std::time::Duration;

use lettre::transport::smtp::authentication::Mechanism;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::rig::{EMAIL, Rig, USER};
use crate::support::mailu::standin::{
    Config, Fault, HashShown, LoginAnswer, LoginService, Release, Rule, TokenSeen, sha256_hex,
};

#[tokio::test]
async fn a_password_change_replaces_the_hash_and_the_login() {
    let rig = Rig::start().await;
    let (_, before) = rig.get(USER).await;
    let answer = rig.patch(json!({ "raw_password": "second" })).await;
    let done = json!({ "code": 200, "message": format!("User {EMAIL} has been updated") });
    assert_eq!(answer, (200, done));
    let (_, after) = rig.get("/user/SMTP-Admin%40Example.Test").await;
    assert_ne!(before["password"], after["password"]);
    assert!(
        after["password"]
            .as_str()
            .unwrap()
            .starts_with("$bcrypt-sha256$v=2,t=2b,r=4$")
    );
    assert_eq!(after["change_pw_next_login"], json!(false));
    assert!(rig.mailu.password_fits(EMAIL, "second") && !rig.mailu.password_fits(EMAIL, "first"));
    assert_eq!(rig.mailu.login(EMAIL, "second").await, LoginAnswer::Good);
    rig.patch(json!({ "raw_password": "second" })).await;
    assert_ne!(
        rig.mailu.user(EMAIL).unwrap().hash,
        after["password"].as_str().unwrap()
    );
}

#[tokio::test]
async fn refusals_have_mailus_three_shapes() {
    let rig = Rig::start().await;
    let (status, body) = rig
        .call(Method::PATCH, "/user/no@example.test", Some(json!({})))
        .await;
    assert_eq!((status, &body["code"]), (404, &json!(404)));
    let schema = json!({
        "errors": { "raw_password": "123 is not of type 'string'" },
        "message": "Input payload validation failed",
    });
    assert_eq!(
        rig.patch(json!({ "raw_password": 123 })).await,
        (400, schema)
    );
    let (status, body) = rig.patch(json!([])).await;
    assert_eq!(
        (status, &body["errors"][""]),
        (400, &json!("[] is not of type 'object'"))
    );
    assert_eq!(rig.patch(json!({ "password": "typo" })).await.0, 200);
    assert!(rig.mailu.password_fits(EMAIL, "first"));
    let broken = rig
        .request(Method::PATCH, USER)
        .header("content-type", "application/json");
    assert_eq!(broken.body("{").send().await.unwrap().status(), 400);
    let untyped = rig.request(Method::PATCH, USER).body("{}");
    assert_eq!(untyped.send().await.unwrap().status(), 415);
    assert_eq!(rig.call(Method::PUT, USER, None).await.0, 405);
    for path in ["/user/", "/nothing", "/user/smtp-admin@example.test/"] {
        let answer = rig.request(Method::GET, path).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!(
            (answer.status(), kind),
            (StatusCode::NOT_FOUND, "text/html; charset=utf-8")
        );
    }
    let (status, body) = rig.get("/domain/nodot").await;
    assert_eq!((status, &body["code"]), (200, &json!(400)));
    let long = "x".repeat(4097);
    assert_eq!(rig.patch(json!({ "raw_password": long })).await.0, 500);
}

#[tokio::test]
async fn five_wrong_tokens_lock_out_the_right_one_for_an_hour() {
    let rig = Rig::start().await;
    let token = rig.mailu.token().to_owned();
    assert_eq!(rig.status_with(&token).await, 200);
    let url = format!("{}/api/v1/user", rig.mailu.url());
    for _ in 0..9 {
        assert_eq!(rig.client.get(&url).send().await.unwrap().status(), 401);
    }
    for header in ["wrong", "Bearer wrong", "Basic eDp5", "Token x"] {
        assert_eq!(rig.status_with(header).await, 403);
    }
    assert_eq!(rig.status_with(&format!("bearer {token}")).await, 403);
    let answer = rig.request(Method::GET, USER).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().get("retry-after").is_none());
    rig.mailu.advance(Duration::from_secs(3600));
    assert_eq!(rig.get(USER).await.0, 200);
    rig.mailu.set_token("another-token");
    assert_eq!(rig.get(USER).await.0, 403);
    assert_eq!(rig.mailu.journal().last().unwrap().token, TokenSeen::Wrong);
}

#[tokio::test]
async fn a_server_is_rebuilt_through_the_api_and_duplicates_are_409() {
    let rig = Rig::with(Config::default()).await;
    let domain = json!({ "name": "acme.test", "max_users": 1 });
    let user = json!({ "email": "A@acme.test", "raw_password": "p", "global_admin": true });
    assert_eq!(
        rig.call(Method::POST, "/user", Some(user.clone())).await.0,
        404
    );
    assert_eq!(
        rig.call(Method::POST, "/domain", Some(domain.clone()))
            .await
            .0,
        200
    );
    assert_eq!(rig.call(Method::POST, "/domain", Some(domain)).await.0, 409);
    assert_eq!(
        rig.call(Method::POST, "/user", Some(user.clone())).await.0,
        200
    );
    assert_eq!(rig.call(Method::POST, "/user", Some(user)).await.0, 409);
    let more = json!({ "email": "b@acme.test", "raw_password": "p" });
    assert_eq!(rig.call(Method::POST, "/user", Some(more)).await.0, 409);
    let (_, user) = rig.get("/user/a@acme.test").await;
    assert_eq!(
        (&user["global_admin"], &user["enabled"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        (&user["quota_bytes"], &user["reply_body"]),
        (&json!(1_000_000_000), &Value::Null)
    );
    let trimmed = rig
        .request(Method::GET, "/user")
        .header("x-fields", "email,enabled");
    let trimmed: Value = trimmed.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        trimmed,
        json!([{ "email": "a@acme.test", "enabled": true }])
    );
    assert_eq!(
        rig.call(Method::DELETE, "/user/a@acme.test", None).await.0,
        200
    );
    assert_eq!(
        rig.call(Method::DELETE, "/user/a@acme.test", None).await.0,
        404
    );
}

#[tokio::test]
async fn tokens_open_the_mailbox_and_survive_a_password_change() {
    let rig = Rig::start().await;
    let body = json!({ "email": EMAIL, "comment": "c", "token": "mine" });
    let (status, token) = rig.call(Method::POST, "/token", Some(body)).await;
    let secret = token["token"].as_str().unwrap();
    assert_eq!(
        (status, token["id"].is_number(), secret.len()),
        (200, true, 32)
    );
    let (_, listed) = rig.get("/tokenuser/smtp-admin@example.test").await;
    assert!(listed[0]["id"].is_string() && listed[0].get("token").is_none());
    rig.patch(json!({ "raw_password": "second" })).await;
    rig.mailu.set_require_tokens(true);
    assert_eq!(rig.mailu.login(EMAIL, secret).await, LoginAnswer::Good);
    assert_eq!(rig.mailu.login(EMAIL, "second").await, LoginAnswer::Refused);
    assert_eq!(rig.call(Method::DELETE, "/token/1", None).await.0, 200);
    assert_eq!(rig.call(Method::DELETE, "/token/1", None).await.0, 404);
    assert_eq!(rig.mailu.login(EMAIL, secret).await, LoginAnswer::Refused);
    let strict = json!({ "AuthorizedIP": ["10.0.0.1/24"] });
    let path = "/tokenuser/smtp-admin@example.test";
    assert_eq!(rig.call(Method::POST, path, Some(strict)).await.0, 400);
}

#[tokio::test]
async fn release_2_0_lacks_tokens_and_says_500_for_a_duplicate() {
    let config = Config {
        release: Release::V2_0,
        ..Config::default()
    };
    let rig = Rig::with(config.user(EMAIL, "first")).await;
    assert_eq!(rig.get("/token").await, (404, Value::Null));
    let user = json!({ "email": EMAIL, "raw_password": "p" });
    assert_eq!(rig.call(Method::POST, "/user", Some(user)).await.0, 500);
    assert!(rig.get(USER).await.1.get("change_pw_next_login").is_none());
    let untyped = rig.request(Method::PATCH, USER).body("{}");
    assert_eq!(untyped.send().await.unwrap().status(), 400);
    let url = format!("{}/api/v1/swagger.json", rig.mailu.url());
    let document: Value = rig
        .client
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(document["paths"].as_object().unwrap().len(), 15);
}

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
    let rig = Rig::start().await;
    for (number, (fault, status, applied)) in cases.into_iter().enumerate() {
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
async fn certificates_that_must_be_refused_are_and_the_plain_port_redirects() {
    let rig = Rig::start().await;
    for base in [rig.mailu.wrong_name_url(), rig.mailu.expired_url()] {
        assert!(
            rig.client
                .get(format!("{base}/api/v1/user"))
                .send()
                .await
                .is_err()
        );
    }
    assert!(rig.mailu.journal().is_empty());
    let plain = format!("{}/api/v1/user?x=1", rig.mailu.http_url());
    let answer = rig.client.post(plain).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 301);
    let target = format!("{}/api/v1/user?x=1", rig.mailu.url());
    assert_eq!(answer.headers()["location"].to_str().unwrap(), target);
    assert_eq!(rig.mailu.journal()[0].listener, "http");
}

#[tokio::test]
async fn smtp_takes_the_password_on_both_ports_and_says_what_dovecot_says() {
    let rig = Rig::start().await;
    for implicit in [true, false] {
        for mechanism in [Mechanism::Plain, Mechanism::Login] {
            let answer = rig.smtp(implicit, mechanism, "first").await;
            assert_eq!(answer, "235 2.7.0 Logged in.", "{implicit} {mechanism}");
        }
    }
    let refused = rig.smtp(true, Mechanism::Plain, "wrong").await;
    assert!(
        refused.contains("(535): 5.7.8 Authentication failed."),
        "{refused}"
    );
    rig.mailu.set_login_service(LoginService::Down);
    let down = rig.smtp(false, Mechanism::Login, "first").await;
    assert!(down.contains("(454): 4.7.0"), "{down}");
    rig.mailu.set_login_service(LoginService::Up);
    rig.mailu.disable(EMAIL);
    assert!(
        rig.smtp(true, Mechanism::Plain, "first")
            .await
            .contains("535")
    );
    let logins = rig.mailu.smtp_journal();
    assert_eq!(logins.iter().filter(|login| login.code == 235).count(), 4);
    assert!(logins.iter().all(|login| login.tls && login.email == EMAIL));
}

#[tokio::test]
async fn fifty_failures_lock_a_user_and_only_time_or_a_hex_password_help() {
    let rig = Rig::start().await;
    rig.mailu.set_limits(1000, 50);
    for _ in 0..50 {
        assert_eq!(rig.mailu.login(EMAIL, "wrong").await, LoginAnswer::Refused);
    }
    assert!(rig.mailu.is_locked(EMAIL));
    rig.patch(json!({ "raw_password": "reset" })).await;
    assert_eq!(rig.mailu.login(EMAIL, "reset").await, LoginAnswer::Limited);
    assert!(
        rig.smtp(true, Mechanism::Plain, "reset")
            .await
            .contains("535")
    );
    let hex = "0123456789abcdef0123456789abcdef";
    rig.patch(json!({ "raw_password": hex })).await;
    assert_eq!(rig.mailu.login(EMAIL, hex).await, LoginAnswer::Good);
    // That success exempts its address, and no other.
    rig.patch(json!({ "raw_password": "third" })).await;
    assert_eq!(rig.mailu.login(EMAIL, "third").await, LoginAnswer::Good);
    assert!(
        rig.smtp(true, Mechanism::Plain, "third")
            .await
            .contains("535")
    );
    rig.mailu.advance(Duration::from_secs(24 * 3600));
    assert!(
        rig.smtp(true, Mechanism::Plain, "third")
            .await
            .starts_with("235")
    );
}

#[tokio::test]
async fn the_hash_can_be_absent_or_of_another_scheme() {
    let rig = Rig::start().await;
    rig.mailu.set_hash_shown(HashShown::Hidden);
    assert!(rig.get(USER).await.1.get("password").is_none());
    rig.mailu.set_hash_shown(HashShown::OtherScheme);
    let (_, user) = rig.get(USER).await;
    assert!(
        !user["password"]
            .as_str()
            .unwrap()
            .starts_with("$bcrypt-sha256$")
    );
    rig.mailu.set_admin_down(true);
    assert_eq!(rig.get(USER).await, (502, Value::Null));
}

#[tokio::test]
async fn a_password_sent_in_the_clear_is_refused_and_recorded() {
    let rig = Rig::start().await;
    let address = ("127.0.0.1", rig.mailu.submission_port());
    let mut stream = TcpStream::connect(address).await.unwrap();
    // base64 of NUL, "a", NUL, "b"; then a line that no server takes.
    let long = "x".repeat(3000);
    let dialogue = format!("EHLO c\r\nAUTH PLAIN AGEAYg==\r\n{long}\r\nNOOP\r\nQUIT\r\n");
    stream.write_all(dialogue.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let codes: Vec<&str> = answers.lines().map(|line| &line[..4]).collect();
    assert_eq!(
        codes,
        [
            "220 ", "250-", "250-", "250-", "250 ", "530 ", "500 ", "250 ", "221 "
        ][..]
    );
    assert!(!answers.contains("AUTH PLAIN LOGIN"));
    let logins = rig.mailu.smtp_journal();
    assert_eq!(
        (logins.len(), logins[0].tls, logins[0].code),
        (1, false, 530)
    );
    assert_eq!(logins[0].password_sha256, sha256_hex("b"));
}

#[tokio::test]
async fn the_api_and_the_mail_side_share_one_limiter() {
    let rig = Rig::start().await;
    let neighbour = "127.0.0.77".parse().unwrap();
    // An existing user's failures charge the network once an hour, unknown users every time.
    for _ in 0..10 {
        rig.mailu.login_from(neighbour, EMAIL, "wrong").await;
    }
    assert_eq!(rig.get(USER).await.0, 200);
    for _ in 0..4 {
        rig.mailu
            .login_from(neighbour, "nobody@example.test", "wrong")
            .await;
    }
    assert_eq!(rig.get(USER).await.0, 429);
    rig.mailu.forgive();
    assert_eq!(rig.get(USER).await.0, 200);
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
