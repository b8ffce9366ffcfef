//! Bytes to and from the host's own API: verified TLS or this machine, bounded size and time.
//!
//! Unlike other peers this one keeps a connection open between calls: events come in bursts, and it
//! is one server that was told by the operator of the mount.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;
use zeroize::Zeroizing;

use super::{Error, HostApiConfig, OpenError};
use crate::crypto::Sensitive;
use crate::network::Scheme;
use crate::network::endpoint::authority;
use crate::network::http::{builder, fault};
use crate::network::tls::{client_config, parse_server_name};

/// From resolving the name to the last byte of the answer. A server that waits for one hanging audit
/// device beside a good one answers after 20 seconds (seen with Vault 2.x): whoever gave up earlier
/// would have the good device take the same event again and again.
const TIMEOUT: Duration = Duration::from_secs(45);
/// Of it for the connection: what ends here was never sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection is kept without a call.
const IDLE: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// What real answers fit into, in bytes: they have less than two thousand. Wiping 256 KiB after each
/// event took 0.15 ms.
const USUAL_ANSWER: usize = 8 * 1024;
/// The longest rest the server may ask for.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);

/// Carries the token. Source: Vault's and `OpenBao`'s HTTP API, "Authentication".
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
/// Says that a program meant this request for the server; listeners may demand it. Source: Vault's
/// and `OpenBao`'s agent configuration, `require_request_header`.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The way to one server.
pub(super) struct Transport {
    client: Client,
    base: Url,
}

/// One request.
pub(super) struct Call<'a> {
    /// The method.
    pub(super) method: Method,
    /// The segments of the path below `/v1/`, not yet encoded.
    pub(super) path: Vec<&'a str>,
    /// The JSON body.
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    /// As whom.
    pub(super) token: Option<&'a Sensitive<String>>,
}

impl Transport {
    /// Prepares the way; does no network work.
    pub(super) fn new(config: &HostApiConfig) -> Result<Self, OpenError> {
        let address = config.address.clone();
        let peer = config.address.peer();
        let name = match &config.tls_server_name {
            Some(name) if peer.scheme == Scheme::Https => Some(parse_server_name(name)?),
            _ => None,
        };
        // The certificate is checked for the URL's host, which need not be the one connected to.
        let shown = authority(name.as_deref().unwrap_or(peer.host), peer.port, peer.scheme);
        let base = Url::parse(&format!("{}://{shown}/v1", peer.scheme.as_str()))
            .map_err(|_no_text| OpenError::Client)?;
        let tls = client_config(config.ca_cert.as_deref())?;
        let allows = move |_host: &str, to: std::net::SocketAddr| address.allows(to.ip());
        let mut client = builder(peer, tls, allows, TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE);
        if let Some(path) = config.address.socket_path() {
            client = client.unix_socket(path);
        }
        let client = client.build().map_err(|_no_text| OpenError::Client)?;
        Ok(Self { client, base })
    }

    /// Sends one request and reads the answer to it.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let mut request = self
            .client
            .request(call.method, self.url(&call.path)?)
            .header(REQUEST, HeaderValue::from_static("true"));
        if let Some(token) = call.token {
            // A token that cannot stand in a header is none of this server's.
            let mut value =
                HeaderValue::from_str(token.expose()).map_err(|_no_text| Error::Denied)?;
            value.set_sensitive(true);
            request = request.header(TOKEN, value);
        }
        if let Some(body) = call.body {
            request = request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(Bytes::from_owner(body));
        }
        let response = request
            .send()
            .await
            .map_err(|error| Error::Unreachable(fault(&error)))?;
        meaning(&response)?;
        let body = read(response).await?;
        serde_json::from_slice(&body).map_err(|_no_text| Error::Unintelligible)
    }

    /// Returns the URL of a path. What would leave its place in it is refused.
    fn url(&self, path: &[&str]) -> Result<Url, Error> {
        let odd = |segment: &&str| matches!(*segment, "" | "." | "..");
        let mut url = self.base.clone();
        if path.iter().any(odd) {
            return Err(Error::Refused);
        }
        match url.path_segments_mut() {
            Ok(mut segments) => segments.extend(path),
            Err(()) => return Err(Error::Refused),
        };
        Ok(url)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// The part of every answer that is about the call itself.
#[derive(Deserialize)]
pub(super) struct Data<T> {
    /// What was asked for.
    pub(super) data: T,
}

/// Decides by the status. Source: Vault's and `OpenBao`'s HTTP API, "HTTP status codes": 412 is a
/// node that is behind, 472 and 473 a secondary or standby that does not forward.
fn meaning(response: &Response) -> Result<(), Error> {
    match response.status().as_u16() {
        200 => Ok(()),
        403 => Err(Error::Denied),
        429 => Err(Error::Limited {
            retry_after: retry_after(response),
        }),
        412 | 472 | 473 | 500..=599 => Err(Error::Failing),
        400..=499 => Err(Error::Refused),
        _ => Err(Error::Unintelligible),
    }
}

/// Reads `Retry-After` in seconds, which is what these servers send.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = seconds.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MOST_PATIENCE))
}

/// Reads a body; it may hold a token.
async fn read(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Error> {
    let announced = response.content_length().unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > MAX_ANSWER {
        return Err(Error::Unintelligible);
    }
    // A buffer that grew by itself would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(announced.max(USUAL_ANSWER)));
    loop {
        let chunk = response.chunk().await;
        let Some(chunk) = chunk.map_err(|error| Error::Unreachable(fault(&error)))? else {
            return Ok(body);
        };
        if chunk.len() > MAX_ANSWER - body.len() {
            return Err(Error::Unintelligible);
        }
        if chunk.len() > body.capacity() - body.len() {
            let mut larger = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
}
