//! [`Session`]: the token of one client, and how it is come by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::transport::{Call, Transport};
use super::{Error, Login};
use crate::clock::Clock;
use crate::crypto::Sensitive;

/// How long a token that the server did not renew is used before it is asked again: a policy may
/// have been mended meanwhile.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// The longest life of a token that is believed.
const MAX_LIFE: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Who a client is. One lock over logging in: two calls at once need one token.
pub(super) struct Session {
    login: Login,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
}

/// The token in use.
struct Held {
    token: Sensitive<String>,
    /// When it is to be replaced or renewed, by the monotonic clock; `None`: never.
    refresh_at: Option<Duration>,
}

/// A token for one call.
pub(super) struct Grant {
    /// The token.
    pub(super) token: Sensitive<String>,
    /// Whether another one could help if the server refuses this one.
    pub(super) replaceable: bool,
}

impl Session {
    pub(super) fn new(login: Login, clock: Arc<dyn Clock>) -> Self {
        Self {
            login,
            clock,
            held: Mutex::new(None),
        }
    }

    /// Returns a token that is valid as far as this side knows, logging in or renewing if it is
    /// time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a token at the server that nobody uses, until it ends by
    /// itself.
    pub(super) async fn token(&self, transport: &Transport) -> Result<Grant, Error> {
        let mut held = self.held.lock().await;
        let now = self.clock.monotonic();
        if let Some(held) = held.as_ref()
            && held.refresh_at.is_none_or(|at| now < at)
        {
            return Ok(Grant {
                token: held.token.clone(),
                replaceable: matches!(self.login, Login::AppRole { .. }),
            });
        }
        let next = match &self.login {
            Login::AppRole {
                mount_path,
                role_id,
                secret_id,
            } => {
                *held = None;
                let auth = log_in(transport, mount_path, role_id, secret_id).await?;
                Held {
                    refresh_at: part_of_life(&auth, now, 2),
                    token: auth.client_token,
                }
            }
            Login::Token(token) => Held {
                refresh_at: renew(transport, token, now).await?,
                token: token.clone(),
            },
        };
        let token = next.token.clone();
        *held = Some(next);
        Ok(Grant {
            token,
            replaceable: false,
        })
    }

    /// Gives up a token that the server refused, unless another call has done so.
    pub(super) async fn forget(&self, refused: &Sensitive<String>) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.token == *refused) {
            *held = None;
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// The part of an answer that is about a token.
#[derive(Deserialize)]
struct Answer {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(deserialize_with = "sensitive")]
    client_token: Sensitive<String>,
    /// In seconds; zero for a token without an end.
    lease_duration: u64,
}

fn sensitive<'de, D: Deserializer<'de>>(from: D) -> Result<Sensitive<String>, D::Error> {
    String::deserialize(from).map(Sensitive::new)
}

#[derive(Serialize)]
struct Credentials<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

/// Logs in by an `AppRole`. Source: Vault's and `OpenBao`'s HTTP API, "Log in with `AppRole`".
async fn log_in(
    transport: &Transport,
    mount_path: &str,
    role_id: &str,
    secret_id: &Sensitive<String>,
) -> Result<Auth, Error> {
    let credentials = Credentials {
        role_id,
        secret_id: secret_id.expose(),
    };
    // Room for every character escaped: a buffer that grew would leave copies behind.
    let most = 64 + 6 * (role_id.len() + secret_id.expose().len());
    let mut body = Zeroizing::new(Vec::with_capacity(most));
    serde_json::to_writer(&mut *body, &credentials).map_err(|_no_text| Error::LoginRefused)?;
    let mut path: Vec<&str> = mount_path.split('/').collect();
    path.push("login");
    let call = Call {
        method: Method::POST,
        path,
        body: Some(body),
        token: None,
    };
    let answer: Answer = transport.call(call).await.map_err(|error| match error {
        Error::Denied | Error::Refused => Error::LoginRefused,
        other => other,
    })?;
    if answer.auth.client_token.expose().is_empty() {
        return Err(Error::Unintelligible);
    }
    Ok(answer.auth)
}

/// Renews a periodic token and returns when to do so again. A token that cannot be renewed may
/// still be good. Source: Vault's and `OpenBao`'s HTTP API, "Renew a token (self)".
async fn renew(
    transport: &Transport,
    token: &Sensitive<String>,
    now: Duration,
) -> Result<Option<Duration>, Error> {
    let call = Call {
        method: Method::POST,
        path: vec!["auth", "token", "renew-self"],
        body: Some(Zeroizing::new(b"{}".to_vec())),
        token: Some(token),
    };
    match transport.call::<Answer>(call).await {
        Ok(answer) => Ok(part_of_life(&answer.auth, now, 1)),
        Err(Error::Denied | Error::Refused) => Ok(now.checked_add(RENEW_AGAIN)),
        Err(error) => Err(error),
    }
}

/// Returns when so many thirds of a token's life are over.
fn part_of_life(auth: &Auth, now: Duration, thirds: u32) -> Option<Duration> {
    if auth.lease_duration == 0 {
        return None;
    }
    let life = Duration::from_secs(auth.lease_duration).min(MAX_LIFE);
    now.checked_add(life * thirds / 3)
}
