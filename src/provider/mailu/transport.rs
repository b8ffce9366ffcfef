//! Bytes to and from one Mailu server: checked addresses, verified TLS, bounded size and time.
//!
//! Every call opens a connection of its own: what the last call proved about name, address and
//! certificate is never assumed for the next, and a changed setting acts at once.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{
    ACCEPT, AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, RETRY_AFTER,
};
use reqwest::tls::TlsInfo;
use reqwest::{Client, Method, Response};
use zeroize::Zeroizing;

use super::error::{MAX_REFUSAL, depends_on_body, is_refusal};
use crate::crypto::Sensitive;
use crate::network::http::{self, Peer, fault};
use crate::network::tls::{certificate_end, client_config, parse_server_name};
use crate::network::{NetworkPolicy, Scheme};
use crate::provider::Trouble;
use crate::provider::registry::{ConnectError, MailuConfig, check_token};

/// Largest answer to a call about one account, in bytes; real ones have some thousands.
pub(super) const MAX_ANSWER: usize = 256 * 1024;

/// The way to one server.
pub(super) struct Transport {
    client: Client,
    base: String,
    /// `Some` if the URL carries the certificate's name instead of the host's.
    host_header: Option<HeaderValue>,
    bearer: HeaderValue,
    /// When the certificate of the last answer ends. A blocking mutex: held to copy it only.
    certificate_end: Mutex<Option<DateTime<Utc>>>,
}

/// An answer, read as far as its meaning depends on it.
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The media type with its parameters.
    pub(super) content_type: Option<String>,
    /// `Retry-After`, if it was given in seconds.
    pub(super) retry_after: Option<u32>,
    /// Whether a cache says that it gave the answer: any `Age` but 0.
    pub(super) cached: bool,
    /// The body; may hold a hash or an echoed password.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// One request.
pub(super) struct Call<'a> {
    /// The method.
    pub(super) method: Method,
    /// The path below the API's base.
    pub(super) path: &'a str,
    /// The JSON body.
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    /// Whether the server's token goes with it.
    pub(super) authorized: bool,
    /// Largest body accepted, in bytes.
    pub(super) limit: usize,
}

impl Transport {
    /// Prepares the way; does no network work.
    pub(super) fn new(config: &MailuConfig, policy: &NetworkPolicy) -> Result<Self, ConnectError> {
        let url = &config.url;
        if url.scheme() == Scheme::Http && !policy.allows_plain(url.host()) {
            return Err(ConnectError::PlainHttp);
        }
        // A literal host never reaches the resolver below.
        policy.check_literal(url.host(), url.port())?;
        let server_name = match &config.tls_server_name {
            Some(name) if url.scheme() == Scheme::Https => Some(parse_server_name(name)?),
            _ => None,
        };
        let host_header = match &server_name {
            Some(_) => Some(
                HeaderValue::from_str(&url.authority()).map_err(|_no_text| ConnectError::Client)?,
            ),
            None => None,
        };
        let tls = client_config(config.ca_cert.as_deref())?;
        let peer = Peer {
            scheme: url.scheme(),
            host: url.host(),
            port: url.port(),
        };
        let client = http::client(peer, tls, policy, config.request_timeout)
            .map_err(|_no_text| ConnectError::Client)?;
        Ok(Self {
            client,
            base: url.api_base(server_name.as_deref()),
            host_header,
            bearer: bearer(&config.api_token)?,
            certificate_end: Mutex::default(),
        })
    }

    /// Sends one request and reads the answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; Mailu still applies a change it has received.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Answer, Trouble> {
        let url = format!("{}{}", self.base, call.path);
        let fresh = call.method == Method::GET;
        let mut request = self
            .client
            .request(call.method, url)
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        if fresh {
            request = request.header(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(host) = &self.host_header {
            request = request.header(HOST, host.clone());
        }
        if call.authorized {
            request = request.header(AUTHORIZATION, self.bearer.clone());
        }
        if let Some(body) = call.body {
            request = request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(Bytes::from_owner(body));
        }
        let response = request.send().await.map_err(|error| fault(&error))?;
        self.note_certificate(&response);
        read(response, call.limit).await
    }

    /// Returns when the certificate ends that the last answer came under, if it is known.
    pub(super) fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        *self
            .certificate_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_certificate(&self, response: &Response) {
        let shown = response.extensions().get::<TlsInfo>();
        let end = shown
            .and_then(TlsInfo::peer_certificate)
            .and_then(certificate_end);
        *self
            .certificate_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = end;
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// Makes the header from a token of printable ASCII.
fn bearer(token: &Sensitive<String>) -> Result<HeaderValue, ConnectError> {
    check_token(token)?;
    let text = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text).map_err(|_no_text| ConnectError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read(mut response: Response, limit: usize) -> Result<Answer, Trouble> {
    let status = response.status().as_u16();
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let retry_after = seconds(response.headers(), &RETRY_AFTER);
    let ages = response.headers().get_all(AGE).iter();
    let cached = ages.map(HeaderValue::as_bytes).any(|age| age != b"0");
    let body = if is_refusal(status) {
        // A status that costs Mailu's limiter a try counts, whatever becomes of its body.
        body(&mut response, MAX_REFUSAL).await.unwrap_or_default()
    } else if depends_on_body(status) {
        body(&mut response, limit).await?
    } else {
        Zeroizing::default()
    };
    Ok(Answer {
        status,
        content_type,
        retry_after,
        cached,
        body,
    })
}

/// Reads a header that counts seconds; more than fit are as many as fit.
fn seconds(headers: &HeaderMap, name: &HeaderName) -> Option<u32> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

async fn body(response: &mut Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let announced = response.content_length().unwrap_or(0);
    if announced > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(Trouble::TooLarge);
    }
    let mut body = Zeroizing::new(Vec::new());
    body.reserve_exact(limit);
    while let Some(chunk) = response.chunk().await.map_err(|error| fault(&error))? {
        if chunk.len() > limit - body.len() {
            return Err(Trouble::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_cannot_stand_in_a_header_is_refused() {
        for text in ["", "a b", "a\r\nX: y", "t\u{f6}ken"] {
            let token = Sensitive::new(text.to_owned());
            assert_eq!(bearer(&token).unwrap_err(), ConnectError::Token, "{text}");
        }
        let value = bearer(&Sensitive::new("abc".to_owned())).unwrap();
        assert_eq!(value, "Bearer abc");
        assert!(value.is_sensitive());
    }
}
