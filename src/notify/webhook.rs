//! A webhook: one signed JSON document per message.
//!
//! The receiver verifies: `HMAC-SHA256(key, timestamp + "." + body)` in lower-case hex equals what
//! stands behind `v1=` in [`SIGNATURE_HEADER`], where `timestamp` is the text of
//! [`TIMESTAMP_HEADER`] and `body` the bytes as received; the timestamp is at most some minutes
//! old. A message may come again: one whose [`EVENT_ID_HEADER`] was seen before is answered 2xx and
//! dropped; 409 is taken for that, too.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::http::Poster;
use super::registry::{ConnectError, WebhookConfig};
use super::{Channel, Error, Explained, Message, text};
use crate::audit::{EventName, Outcome, RotationType, Severity};
use crate::crypto::{Sensitive, hmac_sha256};
use crate::logical::instant;
use crate::network::NetworkPolicy;

/// When the request was signed: seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-smtp-timestamp";
/// `v1=` and the signature in hex.
pub const SIGNATURE_HEADER: &str = "x-smtp-signature";
/// The event's identifier, the same whenever it is told again.
pub const EVENT_ID_HEADER: &str = "x-smtp-event-id";
/// The event's name, or `test`.
pub const EVENT_HEADER: &str = "x-smtp-event";

/// Computes the value of [`SIGNATURE_HEADER`].
///
/// ```
/// use vault_plugin_secrets_smtp::notify::signature;
///
/// // printf '1790000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
/// let signed = signature(b"0123456789abcdef", "1790000000", b"{}");
/// assert!(signed.starts_with("v1="));
/// assert_ne!(signed, signature(b"0123456789abcdef", "1790000001", b"{}"));
/// ```
#[must_use]
pub fn signature(key: &[u8], timestamp: &str, body: &[u8]) -> String {
    let mut signed = Vec::with_capacity(timestamp.len() + 1 + body.len());
    signed.extend_from_slice(timestamp.as_bytes());
    signed.push(b'.');
    signed.extend_from_slice(body);
    format!("v1={}", hex::encode(hmac_sha256(key, &signed)))
}

/// A receiver of signed documents.
#[derive(Debug)]
pub(super) struct Webhook {
    poster: Poster,
    key: Sensitive<String>,
}

impl Webhook {
    pub(super) fn new(
        config: &WebhookConfig,
        policy: &NetworkPolicy,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            poster: Poster::new(&config.url, config.ca_cert.as_deref(), policy)?,
            key: config.hmac_key.clone(),
        })
    }
}

#[async_trait]
impl Channel for Webhook {
    async fn deliver(&self, message: &Message) -> Result<(), Error> {
        let body = document(message).map_err(|_no_text| Error::Rejected)?;
        let timestamp = message.sent_at.timestamp().to_string();
        let signed = signature(self.key.expose().as_bytes(), &timestamp, &body);
        let event = message.event.map_or("test", EventName::as_str);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (TIMESTAMP_HEADER, timestamp.as_str()),
            (SIGNATURE_HEADER, signed.as_str()),
            (EVENT_ID_HEADER, message.event_id.as_str()),
            (EVENT_HEADER, event),
        ] {
            let value = HeaderValue::from_str(value).map_err(|_no_text| Error::Rejected)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        // A receiver that refuses what it has seen before has got it. A test's identifier is new.
        let seen = match message.event {
            Some(_) => Ok(()),
            None => Err(Error::Rejected),
        };
        self.poster.post(headers, body, seen).await
    }
}

/// The document that a webhook receives. Free text is as people wrote it.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    event: &'a str,
    event_id: &'a str,
    tenant: &'a str,
    severity: Severity,
    outcome: Outcome,
    rotation_type: Option<RotationType>,
    version: Option<u64>,
    previous_version: Option<u64>,
    #[serde(serialize_with = "instant::serialize")]
    timestamp: DateTime<Utc>,
    #[serde(serialize_with = "instant::serialize")]
    next_rotation: Option<DateTime<Utc>>,
    error: Option<Note<'a>>,
    findings: Vec<Note<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    changed: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    old_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_host: Option<&'a str>,
    incident_id: Option<&'a str>,
    reason: Option<&'a str>,
    display_name: &'a str,
    summary: String,
}

#[derive(Serialize)]
struct Note<'a> {
    code: &'a str,
    meaning: &'a str,
    hint: &'a str,
}

impl<'a> From<&'a Explained> for Note<'a> {
    fn from(explained: &'a Explained) -> Self {
        Self {
            code: &explained.code,
            meaning: &explained.meaning,
            hint: &explained.hint,
        }
    }
}

fn document(message: &Message) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Document {
        schema: 1,
        event: message.event.map_or("test", EventName::as_str),
        event_id: &message.event_id,
        tenant: &message.tenant,
        severity: message.severity,
        outcome: message.outcome,
        rotation_type: message.rotation_type,
        version: message.version,
        previous_version: message.previous_version,
        timestamp: message.timestamp,
        next_rotation: message.next_rotation,
        error: message.error.as_ref().map(Note::from),
        findings: message.findings.iter().map(Note::from).collect(),
        changed: &message.changed,
        old_host: message.old_host.as_deref(),
        new_host: message.new_host.as_deref(),
        incident_id: message.incident_id.as_deref(),
        reason: message.reason.as_deref(),
        display_name: &message.display_name,
        summary: text::summary(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text::example;

    /// Computed independently:
    /// `printf '1790000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`.
    #[test]
    fn the_signature_is_the_one_that_other_tools_compute() {
        assert_eq!(
            signature(b"0123456789abcdef", "1790000000", b"{\"a\":1}"),
            "v1=d569e4518fe6f4620fd6639233427e7df5e5394d8f14c85c1063b8d90a724dcb"
        );
    }

    #[test]
    fn free_text_stays_within_its_string() {
        let hostile = "\",\"severity\":\"info\r\n<!channel> *x* https://evil.example";
        let mut message = example();
        message.reason = Some(hostile.to_owned());
        let body = document(&message).unwrap();
        let text = String::from_utf8(body.clone()).unwrap();
        assert!(!text.contains('\n') && !text.contains('\r'));
        #[derive(serde::Deserialize)]
        struct Read {
            severity: String,
            reason: String,
            summary: String,
        }
        let read: Read = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (read.severity.as_str(), read.reason.as_str()),
            ("critical", hostile)
        );
        assert!(!read.summary.contains("evil"));
    }
}
