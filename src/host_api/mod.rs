//! The host's own API, as the engine calls it: only a request that goes through the server reaches
//! the server's audit devices, so what the engine does by itself is told to it by such requests.
//!
//! Knows addresses, logins and the answers of a Vault or OpenBao server; nothing of events' content,
//! of storage or of retries: each call is made once and says how it ended. What must stay true:
//!
//! - A token lives in the memory of one client only, and nothing of a login is ever shown.
//! - Nothing the server says is passed on: an [`Error`] is one of a closed list.
//! - Nothing here is ever awaited while the host waits for this plugin: the host holds its state
//!   lock then, and a pending step-down would make both wait for each other (seen).

mod address;
mod client;
mod reach;
mod session;
#[cfg(test)]
mod tests;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::crypto::Sensitive;
use crate::network::{Fault, TlsFault};

pub use address::{Address, AddressError};
pub use client::opener;
pub use reach::Reach;

/// A way to the host's own API that logs in by itself.
///
/// A call takes at most 45 seconds, because a server with one hanging audit device beside a good one
/// answers after 20 (seen with Vault 2.x); logging in before it, and once more if the server refuses
/// the token, each as long again. So no request and no tick ever waits for one.
///
/// # Cancel safety
///
/// Dropping a future leaves open whether the server took the request.
#[async_trait]
pub trait HostApi: fmt::Debug + Send + Sync {
    /// Calls `<mount_point>events/emit/<tenant>/<seq>` once; `mount_point` is what the host calls
    /// the mount, namespace included (`team1/smtp/`). An answer means that at least one audit
    /// device took it, if the server has any.
    ///
    /// # Errors
    ///
    /// [`Error`]; the event may have been written all the same where it says so.
    async fn emit(&self, mount_point: &str, tenant: &str, seq: u64) -> Result<Taken, Error>;

    /// Reads the mount's `audit_non_hmac_response_keys`; `None` if the server does not tell.
    ///
    /// # Errors
    ///
    /// [`Error`].
    async fn exempt_keys(&self, mount_point: &str) -> Result<Option<Vec<String>>, Error>;
}

/// What the server answered to an event: compared with what was meant and with what was given out,
/// because the address may lead to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The event's identifier.
    pub event_id: String,
    /// The event's hash.
    pub hash: String,
    /// What the engine gave out with this very answer. Identifier and hash can be known to others;
    /// this proves that the answer came through the server, which answers nobody before a device
    /// took it.
    pub receipt: String,
}

/// How to reach the host's own API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostApiConfig {
    /// Where it listens.
    pub address: Address,
    /// PEM certificates that replace the public roots.
    pub ca_cert: Option<String>,
    /// The name the certificate must carry instead of the address's host.
    pub tls_server_name: Option<String>,
    /// As whom.
    pub login: Login,
}

/// As whom the host's own API is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// By an `AppRole`, whose batch token lives for minutes.
    AppRole {
        /// Where the auth method is mounted, namespace included: `auth/approle`.
        mount_path: String,
        /// The role.
        role_id: String,
        /// Its secret.
        secret_id: Sensitive<String>,
    },
    /// By a periodic token, which is renewed.
    Token(Sensitive<String>),
}

/// Makes clients, which ask the clock how old their tokens are; tests put their own in.
pub type HostApiOpener = Arc<
    dyn Fn(&HostApiConfig, &Arc<dyn Clock>) -> Result<Arc<dyn HostApi>, OpenError> + Send + Sync,
>;

/// Why there is no client for a configuration; no network was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// The certificates cannot be used.
    #[error("{0}")]
    Ca(#[from] crate::network::CaError),
    /// The name that the certificate must carry is none.
    #[error("{0}")]
    ServerName(#[from] crate::network::ServerNameError),
    /// The address is not in reach.
    #[error(
        "`address` is neither a loopback address nor named by the plugin's environment ({unusable} \
         of its entries cannot be used): name it in SMTP_AUDIT_ADDRESSES, a socket's directory in \
         SMTP_AUDIT_SOCKETS, or write https://127.0.0.1:port"
    )]
    OutOfReach {
        /// How many entries of the environment are neither address nor directory.
        unusable: usize,
    },
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client,
}

/// Why a call did not end well; never with a text of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// No answer. Behind a [`Fault::Timeout`] or [`Fault::Broken`] the server may have taken it.
    #[error("the server was not reached: {0}")]
    Unreachable(Fault),
    /// Logging in or renewing the token was refused.
    #[error("the server refused the login")]
    LoginRefused,
    /// A fresh token may not make this call.
    #[error("the token may not make this call")]
    Denied,
    /// A quota: later again.
    #[error("the server limits calls")]
    Limited {
        /// What the server asked for.
        retry_after: Option<Duration>,
    },
    /// The call was answered with a 4xx: repeating it does not help.
    #[error("the server refused the call")]
    Refused,
    /// The call was answered with a 5xx: sealed, without a leader, or no audit device takes it.
    #[error("the server or its audit devices fail")]
    Failing,
    /// The answer is none of a Vault or OpenBao server, or none of this engine.
    #[error("the answer is not the expected one")]
    Unintelligible,
}

impl Error {
    /// Returns which fault of TLS it was: they share a code.
    #[must_use]
    pub const fn tls_fault(self) -> Option<TlsFault> {
        match self {
            Self::Unreachable(Fault::Tls(fault)) => Some(fault),
            _ => None,
        }
    }

    /// Returns the stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreachable(Fault::Tls(_)) => "audit_tls",
            // It was connected to, and gave no answer.
            Self::Unreachable(Fault::Timeout) => "audit_slow",
            Self::Unreachable(_) => "audit_unreachable",
            Self::LoginRefused => "audit_login_refused",
            Self::Denied => "audit_denied",
            Self::Limited { .. } => "audit_limited",
            Self::Refused => "audit_refused",
            Self::Failing => "audit_failing",
            Self::Unintelligible => "audit_wrong_answer",
        }
    }
}
