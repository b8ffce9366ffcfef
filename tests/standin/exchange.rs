//! One request from arrival to answer: fault, schema, token, hash, tables.
//!
//! The order inside is the framework's: unknown path, wrong method and a body that does not fit are
//! answered before the token is looked at. Source: flask-restx `Resource.dispatch_request`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use serde_json::{Map, Value};

use super::api::{Call, Route, perform};
use super::auth;
use super::config::{Release, Settings};
use super::faults::Fault;
use super::hash::{MAX_PASSWORD_CHARS, sha256_hex};
use super::journal::Entry;
use super::reply::Reply;
use super::shared::{Shared, lock};
use super::users::View;

/// A request whose body was read.
#[derive(Debug)]
pub struct Arrival {
    pub peer: IpAddr,
    pub listener: &'static str,
    pub parts: Parts,
    pub body: Vec<u8>,
}

/// What the listener does for the client.
#[derive(Debug)]
pub enum Answer {
    Send(Reply),
    /// Sends the body one byte at a time.
    Slowly(Reply, Duration),
    /// Sends 200 with a JSON body of that many bytes.
    Huge(u64),
    /// Closes the connection.
    Cut,
}

/// Writes a request into the journal and works on it to its end.
pub async fn exchange(shared: Arc<Shared>, arrival: Arrival) -> Answer {
    let settings = shared.settings();
    let path = arrival.parts.uri.path().to_owned();
    let method = arrival.parts.method.as_str().to_owned();
    let number = shared.journal.arrived(entry(&arrival, &settings));
    let below = path.strip_prefix("/api/v1").unwrap_or(&path);
    let password = password(&arrival.body);
    let (latency, fault) = shared.faults.take(&method, below, password.as_deref());
    tokio::time::sleep(latency).await;
    shared.journal.amend(number, |entry| {
        entry.fault = fault.as_ref().map(Fault::name)
    });
    let work = Work {
        shared: &shared,
        arrival: &arrival,
        number,
    };
    let cached = shared.cached(&work.arrival.parts, &settings);
    let answer = if let Some(reply) = cached {
        Answer::Send(reply)
    } else if settings.admin_down {
        Answer::Send(Reply::html(502, "Bad Gateway"))
    } else {
        let answer = work.under(fault).await;
        if let Answer::Send(reply) = &answer {
            shared.keep_in_cache(&work.arrival.parts, &settings, reply);
        }
        answer
    };
    let status = match &answer {
        Answer::Send(reply) | Answer::Slowly(reply, _) => Some(reply.status),
        Answer::Huge(_) => Some(200),
        Answer::Cut => None,
    };
    shared.journal.amend(number, |entry| entry.status = status);
    answer
}

/// The password that a request sets.
fn password(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body.get("raw_password")?.as_str()?.to_owned())
}

fn entry(arrival: &Arrival, settings: &Settings) -> Entry {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = &arrival.parts;
    let body: Option<Value> = serde_json::from_slice(&arrival.body).ok();
    let members = body.as_ref().and_then(Value::as_object);
    Entry {
        listener: arrival.listener,
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        content_type: header(headers, "content-type").map(str::to_owned),
        body_keys: members
            .map(|members| members.keys().cloned().collect())
            .unwrap_or_default(),
        password_sha256: members
            .and_then(|members| members.get("raw_password")?.as_str())
            .map(sha256_hex),
        token: auth::judge(header(headers, "authorization"), &settings.token),
        fault: None,
        status: None,
        applied: false,
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or_default())
}

/// The admin's side of one request.
#[derive(Clone, Copy, Debug)]
struct Work<'a> {
    shared: &'a Arc<Shared>,
    arrival: &'a Arrival,
    number: usize,
}

impl Work<'_> {
    async fn under(self, fault: Option<Fault>) -> Answer {
        let timeout = || Answer::Send(Reply::html(504, "Gateway Time-out"));
        let Some(fault) = fault else {
            return Answer::Send(self.run(true).await);
        };
        match fault {
            Fault::CutBefore => Answer::Cut,
            Fault::CutAfter => {
                self.run(true).await;
                Answer::Cut
            }
            Fault::HangBefore { ms } => {
                self.wait(ms).await;
                timeout()
            }
            Fault::HangAfter { ms } => {
                self.run(true).await;
                self.wait(ms).await;
                timeout()
            }
            Fault::Hold { ms } => self.hold(ms).await,
            Fault::ApplyLater => {
                self.apply_later();
                timeout()
            }
            Fault::BadGateway => Answer::Send(Reply::html(502, "Bad Gateway")),
            Fault::ErrorBefore => Answer::Send(Reply::internal_error()),
            Fault::ErrorAfter => {
                self.run(true).await;
                Answer::Send(Reply::internal_error())
            }
            Fault::Lie => Answer::Send(self.run(false).await),
            Fault::SlowBody { ms } => {
                Answer::Slowly(self.run(true).await, Duration::from_millis(ms))
            }
            Fault::HugeBody { bytes } => {
                self.run(true).await;
                Answer::Huge(bytes)
            }
            Fault::HtmlOk => Answer::Send(Reply::html(200, "OK")),
            Fault::Redirect { location } => Answer::Send(Reply::redirect(302, location)),
            Fault::Worded { committed, words } => {
                if committed {
                    self.run(true).await;
                }
                Answer::Send(Reply::worded(&words))
            }
            Fault::Garbage => {
                self.run(true).await;
                Answer::Send(Reply::garbage())
            }
            // Already waited for, before the other rules.
            Fault::Latency { .. } => Answer::Send(self.run(true).await),
        }
    }

    async fn wait(self, limit: Option<u64>) {
        self.shared
            .faults
            .hold()
            .wait(limit, &self.shared.stop)
            .await;
    }

    async fn hold(self, limit: Option<u64>) -> Answer {
        let mut held = self.shared.faults.hold();
        if held.wait(limit, &self.shared.stop).await {
            Answer::Send(self.run(true).await)
        } else {
            Answer::Cut
        }
    }

    /// Leaves the request to a task that commits it at the next release.
    fn apply_later(self) {
        let (shared, number) = (Arc::clone(self.shared), self.number);
        let Arrival {
            peer,
            listener,
            parts,
            body,
        } = self.arrival;
        let (peer, listener) = (*peer, *listener);
        let arrival = Arrival {
            peer,
            listener,
            parts: parts.clone(),
            body: body.clone(),
        };
        // Held from now on: a release that follows the answer must find it.
        let mut held = shared.faults.hold();
        self.shared.tasks.spawn(async move {
            if held.wait(None, &shared.stop).await {
                Work {
                    shared: &shared,
                    arrival: &arrival,
                    number,
                }
                .run(true)
                .await;
            }
        });
    }

    /// Answers honestly; with `commit` off, on a copy of the tables.
    async fn run(self, commit: bool) -> Reply {
        let reply = self.answer(commit).await.unwrap_or_else(|refusal| refusal);
        let is_write = self.arrival.parts.method != Method::GET;
        // The one 200 that is a refusal carries another code, but only reads can get it.
        if commit && is_write && reply.status == 200 {
            self.shared
                .journal
                .amend(self.number, |entry| entry.applied = true);
        }
        reply
    }

    /// Passes the framework's checks, then the token's, then does the work.
    async fn answer(self, commit: bool) -> Result<Reply, Reply> {
        let settings = self.shared.settings();
        let Parts { uri, headers, .. } = &self.arrival.parts;
        let path = match uri.path() {
            "/health" => return Ok(Reply::empty()),
            "/api/v1" => return Ok(Reply::redirect(308, "/api/v1/".to_owned())),
            "/api/v1/" => return Ok(Reply::html(200, "Swagger UI")),
            path => path
                .strip_prefix("/api/v1")
                .ok_or_else(Reply::not_found_page)?,
        };
        let route = Route::find(path, settings.release).ok_or_else(Reply::not_found_page)?;
        let method = self.arrival.parts.method.as_str();
        if !route.allows(method) {
            let text = "The method is not allowed for the requested URL.";
            return Err(Reply::message(405, text));
        }
        if route == Route::Swagger {
            return Ok(super::swagger::document(settings.release));
        }
        let body = match route.schema(method) {
            Some(schema) => {
                let body = parse(headers, &self.arrival.body, settings.release)?;
                schema.check(&body)?.clone()
            }
            None => Map::new(),
        };
        let seen = auth::judge(header(headers, "authorization"), &settings.token);
        let open = settings.open_tokens && matches!(route, Route::Token(_)) && method == "PATCH";
        if !open {
            auth::admit(self.shared, seen, self.arrival.peer)?;
        }
        let hash = self.hash(&route, &body).await?;
        let call = Call {
            route,
            method: method.to_owned(),
            only: header(headers, "x-fields").map(str::to_owned),
            body,
            hash,
            view: View {
                hash_shown: settings.hash_shown,
                release: settings.release,
            },
            date: self.shared.clock.date(),
        };
        let mut tables = lock(&self.shared.tables);
        if commit {
            Ok(perform(&mut tables, call))
        } else {
            Ok(perform(&mut tables.clone(), call))
        }
    }

    /// Hashes the body's password, if the call takes one.
    async fn hash(self, route: &Route, body: &Map<String, Value>) -> Result<Option<String>, Reply> {
        match body.get("raw_password").and_then(Value::as_str) {
            Some(password) if route.takes_password() => {
                if password.chars().count() > MAX_PASSWORD_CHARS {
                    return Err(Reply::internal_error());
                }
                Ok(Some(self.shared.hash_in_turn(password.to_owned()).await))
            }
            _ => Ok(None),
        }
    }
}

/// Reads a body as JSON.
fn parse(headers: &HeaderMap, body: &[u8], release: Release) -> Result<Value, Reply> {
    let kind = header(headers, "content-type").unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let broken = || {
        let text = "The browser (or proxy) sent a request that this server could not understand.";
        Reply::message(400, text)
    };
    if kind != "application/json" && !kind.ends_with("+json") {
        return Err(match release {
            Release::V2_0 => broken(),
            Release::V2024_06 => Reply::message(
                415,
                "Did not attempt to load JSON data because the request Content-Type was not \
                 'application/json'.",
            ),
        });
    }
    serde_json::from_slice(body).map_err(|_error| broken())
}

/// Answers a request on the plain port: into the journal, then 301 to https on `port`.
pub fn redirect(shared: &Shared, arrival: &Arrival, port: u16) -> Reply {
    let mut entry = entry(arrival, &shared.settings());
    entry.status = Some(301);
    shared.journal.arrived(entry);
    let headers = &arrival.parts.headers;
    let host = header(headers, "host").unwrap_or("localhost");
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    Reply::redirect(301, format!("https://{host}:{port}{}", arrival.parts.uri))
}
