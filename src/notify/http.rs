//! One POST to a URL that may be a secret: what both HTTP channels do.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response};

use super::error::Error;
use super::registry::ConnectError;
use crate::network::http::{client, fault};
use crate::network::tls::client_config;
use crate::network::{NetworkPolicy, Scheme, WebUrl};

/// From resolving the name to the answer's head.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest rest a peer may ask for.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);

/// The way to one receiver.
pub(super) struct Poster {
    client: Client,
    url: WebUrl,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Poster {
    /// Prepares the way; does no network work.
    pub(super) fn new(
        url: &WebUrl,
        ca_cert: Option<&str>,
        policy: &NetworkPolicy,
    ) -> Result<Self, ConnectError> {
        let peer = url.peer();
        if peer.scheme == Scheme::Http && !policy.allows_plain(peer.host) {
            return Err(ConnectError::PlainText);
        }
        // A literal host never reaches the resolver.
        policy.check_literal(peer.host, peer.port)?;
        let client = client(peer, client_config(ca_cert)?, policy, TIMEOUT)
            .map_err(|_no_text| ConnectError::Client)?;
        Ok(Self {
            client,
            url: url.clone(),
        })
    }

    /// Sends `body` once; `seen` is what 409 means. The answer's body is never read.
    pub(super) async fn post(
        &self,
        headers: HeaderMap,
        body: Vec<u8>,
        seen: Result<(), Error>,
    ) -> Result<(), Error> {
        let answer = self
            .client
            .post(self.url.expose().expose())
            .headers(headers)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Bytes::from(body))
            .send()
            .await
            .map_err(|error| Error::Unreachable(fault(&error)))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            409 => seen,
            408 | 425 | 429 | 503 => Err(Error::Busy {
                retry_after: retry_after(&answer),
            }),
            300..=399 | 401 | 403 | 404 | 405 | 407 | 410 => Err(Error::Denied),
            400..=499 => Err(Error::Rejected),
            _ => Err(Error::Failing),
        }
    }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    patience(answer.headers().get(RETRY_AFTER)?.to_str().ok()?)
}

/// Reads `Retry-After` in seconds, of which some chats send fractions; a date is not worth a second
/// clock.
fn patience(text: &str) -> Option<Duration> {
    let text = text.trim();
    let decimal = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    if !text.bytes().all(decimal) {
        return None;
    }
    let seconds = text.parse::<f64>().ok()?;
    Some(Duration::try_from_secs_f64(seconds).map_or(MOST_PATIENCE, |rest| rest.min(MOST_PATIENCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_read_to_the_second_and_has_an_end() {
        for (text, rest) in [
            ("1", Some(1_000)),
            (" 30 ", Some(30_000)),
            ("0", Some(0)),
            ("0.65", Some(650)),
            ("1.5", Some(1_500)),
            ("86400", Some(3_600_000)),
            ("99999999999999999999999", Some(3_600_000)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1e3", None),
            ("soon", None),
            ("Sun, 29 Nov 2026 04:07:33 GMT", None),
        ] {
            assert_eq!(patience(text), rest.map(Duration::from_millis), "{text}");
        }
    }
}
