//! The server's HTTP API, as a client sees it; remembers every secret and every other text it saw.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

const HEADER: &str = "X-Vault-Token";

/// A client with a token.
#[derive(Clone, Debug)]
pub(super) struct Api {
    client: Client,
    address: String,
    token: String,
    seen: Arc<Mutex<Seen>>,
}

/// What came back: secrets, and answers without them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) secrets: BTreeSet<String>,
    pub(super) texts: Vec<String>,
}

/// An answer; a body that is no JSON counts as null.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Api {
    pub(super) fn new(address: &str, token: &str) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            // A standby that sent its client elsewhere would not be transparent: show it.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            client,
            address: address.to_owned(),
            token: token.to_owned(),
            seen: Arc::default(),
        }
    }

    /// The same client with another token; what it sees is remembered together.
    pub(super) fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The same client at another node; what it sees is remembered together.
    pub(super) fn at(&self, address: &str) -> Self {
        Self {
            address: address.to_owned(),
            ..self.clone()
        }
    }

    /// A token of exactly these rights: paths with their capabilities.
    pub(super) async fn with_policy(&self, name: &str, rules: &[(&str, &[&str])]) -> Self {
        let rule = |(path, can): &(&str, &[&str])| {
            format!("path \"{path}\" {{ capabilities = {can:?} }}\n")
        };
        let policy: String = rules.iter().map(rule).collect();
        let path = format!("sys/policies/acl/{name}");
        let written = self.write(&path, serde_json::json!({ "policy": policy }));
        written.await.no_content();
        let wanted = serde_json::json!({"policies": [name], "no_default_policy": true});
        let made = self.write("auth/token/create", wanted).await;
        self.with_token(made.body["auth"]["client_token"].as_str().unwrap())
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}/v1/{path}", self.address);
        self.client.request(method, url).header(HEADER, &self.token)
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.answer(request.send().await.unwrap()).await
    }

    async fn answer(&self, answer: reqwest::Response) -> Answer {
        let status = answer.status().as_u16();
        let body = answer.json().await.unwrap_or_default();
        self.remember(&body);
        Answer { status, body }
    }

    /// Sends a request that may meet a dead server; `None` if no answer came.
    pub(super) async fn attempt(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let request = self.request(method, path);
        let request = if method == "GET" {
            request
        } else {
            request.json(body)
        };
        let answer = request.send().await.ok()?;
        Some(self.answer(answer).await)
    }

    pub(super) async fn read(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub(super) async fn list(&self, path: &str) -> Answer {
        self.send(self.request("LIST", path)).await
    }

    pub(super) async fn write(&self, path: &str, body: Value) -> Answer {
        self.send(self.request("POST", path).json(&body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: Value) -> Answer {
        let kind = "application/merge-patch+json";
        // First: `json` keeps a content type that is there already.
        let request = self.request("PATCH", path).header("content-type", kind);
        let request = request.json(&body);
        self.send(request).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    /// Reports whether anything answers, sealed or not.
    pub(super) async fn reaches_server(&self) -> bool {
        let request = self.request("GET", "sys/seal-status");
        request.send().await.is_ok()
    }

    pub(super) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn remember(&self, body: &Value) {
        let mut body = body.clone();
        let mut seen = self.seen();
        take_passwords(&mut body, &mut seen.secrets);
        seen.texts.push(body.to_string());
    }
}

/// Moves every value under `password` from `body` to `secrets`.
fn take_passwords(body: &mut Value, secrets: &mut BTreeSet<String>) {
    match body {
        Value::Object(members) => {
            if let Some(Value::String(password)) = members.remove("password") {
                secrets.insert(password);
            }
            members
                .values_mut()
                .for_each(|member| take_passwords(member, secrets));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| take_passwords(item, secrets)),
        _ => {}
    }
}

impl Answer {
    /// The data of an answer that must be 200.
    pub(super) fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        &self.body["data"]
    }

    /// Requires 204, or 200 with nothing to say.
    pub(super) fn no_content(&self) {
        assert!(
            matches!(self.status, 200 | 204),
            "{}: {}",
            self.status,
            self.body
        );
    }

    /// The answer's first error, bare: the host wraps coded errors in a list of its own.
    pub(super) fn error(&self) -> &str {
        let text = self.body["errors"][0].as_str().unwrap_or_default();
        let text = text.trim_start_matches("1 error occurred:\n\t* ");
        text.trim_end()
    }

    /// The stable code in front of the error's text.
    pub(super) fn code(&self) -> &str {
        self.error().split_once(": ").map_or("", |(code, _)| code)
    }

    pub(super) fn warnings(&self) -> String {
        self.body["warnings"].to_string()
    }
}
