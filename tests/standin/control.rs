//! The control API of the program: what a test in the same process calls directly, as JSON.
//!
//! It is plain HTTP on loopback and asks for no token: whoever reaches it owns the stand-in.
//!
//! | Call | Body | Answer |
//! |---|---|---|
//! | `GET /journal` | | `{"http": [...], "smtp": [...]}` |
//! | `POST /fault` | a rule, `{"fault": {"kind": "cut_after"}, "method": "PATCH", "path": "/user/", "after": 0, "times": 1}` | `{}` |
//! | `POST /clear-faults` | | `{}` |
//! | `POST /release` | | `{}`, when held requests and late writes are done |
//! | `POST /check-password` | `{"email", "password"}` | `{"fits": bool}` |
//! | `POST /smtp-login` | `{"email", "password"}` | `{"answer": "good" or "refused", "limited" or "down"}` |
//! | `POST /set-password` | `{"email", "password"}` | `{}`; a change the client does not know of |
//! | `POST /disable`, `POST /delete` | `{"email"}` | `{}` |
//! | `POST /token` | `{"token"}` | `{}`; the new API token |
//! | `POST /admin` | `{"down": bool}` | `{}` |
//! | `POST /forgive` | | `{}`; empties the limits |
//! | `POST /advance` | `{"seconds"}` | `{}`; moves the stand-in's time |
//!
//! Fault kinds are the names in `faults.rs` in snake case; `ms`, `bytes` and `location` stand
//! beside `kind`.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use serde_json::{Value, json};

use super::faults::Rule;
use super::hash;
use super::login::{ELSEWHERE, LoginAnswer, login};
use super::reply::Reply;
use super::shared::{Shared, lock};

/// Carries out one control request.
pub async fn answer(shared: &Arc<Shared>, parts: &Parts, body: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/journal") => {
            let (http, smtp) = (shared.journal.entries(), shared.journal.logins());
            Reply::json(200, &json!({ "http": http, "smtp": smtp }))
        }
        ("POST", "/check-password") => {
            let user = lock(&shared.tables).user(text("email")).cloned();
            let fits = user.is_some_and(|user| hash::verify(text("password"), &user.hash));
            Reply::json(200, &json!({ "fits": fits }))
        }
        ("POST", "/smtp-login") => {
            let answer = login(shared, ELSEWHERE, text("email"), text("password")).await;
            Reply::json(200, &json!({ "answer": name(answer) }))
        }
        ("POST", command) => match order(shared, command, &body).await {
            Ok(()) => Reply::json(200, &json!({})),
            Err(refusal) => refusal,
        },
        _ => unknown(),
    }
}

/// Carries out a request whose only answer is that it was done.
async fn order(shared: &Arc<Shared>, command: &str, body: &Value) -> Result<(), Reply> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match command {
        "/fault" => {
            let rule = serde_json::from_value::<Rule>(body.clone())
                .map_err(|error| Reply::message(400, &error.to_string()))?;
            shared.faults.add(rule);
        }
        "/clear-faults" => shared.faults.clear(),
        "/release" => shared.faults.release().await,
        "/set-password" => {
            let hash = shared.hash_in_turn(text("password").to_owned()).await;
            lock(&shared.tables).set_hash(text("email"), hash);
        }
        "/disable" => {
            if let Some(user) = lock(&shared.tables).user_mut(text("email")) {
                user.fields.insert("enabled".to_owned(), Value::Bool(false));
            }
        }
        "/delete" => {
            lock(&shared.tables).remove_user(text("email"));
        }
        "/token" => text("token").clone_into(&mut lock(&shared.settings).token),
        "/admin" => {
            let down = body
                .get("down")
                .and_then(Value::as_bool)
                .unwrap_or_default();
            lock(&shared.settings).admin_down = down;
        }
        "/forgive" => lock(&shared.limits).forgive(),
        "/advance" => {
            let seconds = body
                .get("seconds")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            shared.clock.advance(Duration::from_secs(seconds));
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

fn name(answer: LoginAnswer) -> &'static str {
    match answer {
        LoginAnswer::Good => "good",
        LoginAnswer::Refused => "refused",
        LoginAnswer::Limited => "limited",
        LoginAnswer::Down => "down",
    }
}

fn unknown() -> Reply {
    Reply::message(404, "no such control call")
}
