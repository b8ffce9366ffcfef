//! The admin API: statuses, shapes, tokens, releases, certificates.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::rig::{EMAIL, Rig, USER};
use crate::support::mailu::standin::{Config, HashShown, LoginAnswer, Release, TokenSeen};

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
