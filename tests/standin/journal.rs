//! What arrived, so that a test can assert on it: never a password, only its SHA-256.

use std::sync::Mutex;

use serde::Serialize;

use super::shared::lock;

/// What the `Authorization` header held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSeen {
    Missing,
    Wrong,
    Right,
}

/// One HTTP request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Which listener took it: `https`, `wrong_name`, `expired` or `http`.
    pub listener: &'static str,
    pub method: String,
    /// As sent, before any decoding.
    pub path: String,
    pub query: Option<String>,
    pub content_type: Option<String>,
    /// The names of the JSON body's members, sorted; empty when there is no JSON object.
    pub body_keys: Vec<String>,
    /// SHA-256 of `raw_password` in lower-case hex.
    pub password_sha256: Option<String>,
    pub token: TokenSeen,
    /// The fault that met the request, by its name.
    pub fault: Option<String>,
    /// What the client was sent; `None` while it waits and when the connection was cut.
    pub status: Option<u16>,
    /// Whether a write took effect.
    pub applied: bool,
}

/// One AUTH command on the mail side.
#[derive(Clone, Debug, Serialize)]
pub struct SmtpLogin {
    pub email: String,
    pub password_sha256: String,
    pub mechanism: &'static str,
    /// Whether the line was encrypted; a client that sends a password before STARTTLS shows here.
    pub tls: bool,
    /// The reply's code.
    pub code: u16,
}

/// Both records, in order of arrival.
#[derive(Debug, Default)]
pub struct Journal {
    http: Mutex<Vec<Entry>>,
    smtp: Mutex<Vec<SmtpLogin>>,
}

impl Journal {
    /// Adds a request; the number refers to it later.
    pub fn arrived(&self, entry: Entry) -> usize {
        let mut entries = lock(&self.http);
        entries.push(entry);
        entries.len() - 1
    }

    pub fn amend(&self, number: usize, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.http).get_mut(number) {
            change(entry);
        }
    }

    pub fn login(&self, login: SmtpLogin) {
        lock(&self.smtp).push(login);
    }

    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.http).clone()
    }

    pub fn logins(&self) -> Vec<SmtpLogin> {
        lock(&self.smtp).clone()
    }
}
