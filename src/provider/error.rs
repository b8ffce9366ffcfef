//! Failures of a mail server, by what one does about them; never with the server's own text.

use crate::network::Fault;

/// A "no", by Mailu or by what stands before it: what a *change* came to, only a look tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// 401 or 403: the API token is wrong. Do not repeat: each try burns the server's limiter.
    #[error("Mailu refused the API token")]
    Token,
    /// 429: too many refused calls from this network, for up to an hour.
    #[error("Mailu refuses calls from this address for up to an hour (rate limit)")]
    RateLimited,
    /// 404 for the account.
    #[error("Mailu has no such account")]
    NoSuchAccount,
    /// 404 for the app token to be deleted: it is gone.
    #[error("Mailu has no such app token")]
    NoSuchAppToken,
    /// 404 for the domain of an account to be created.
    #[error("Mailu has no such mail domain")]
    NoSuchDomain,
    /// 409: the account exists, or the domain is full.
    #[error("Mailu reports a conflict: the account exists or its domain is full")]
    Conflict,
    /// 400, 405 or 415: this Mailu does not take the request.
    #[error("Mailu rejected the request as invalid")]
    Invalid,
    /// A 3xx that was not followed: the URL is not that of the API.
    #[error("the server answered with a redirect, which is never followed")]
    Redirect,
    /// An HTML or non-API 404: no Mailu API below this URL.
    #[error("there is no Mailu API at this URL")]
    NoApi,
}

/// No definite answer: for a change, the effect is unknown unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Trouble {
    /// The name did not resolve; nothing was sent.
    #[error("the server's name does not resolve")]
    Unresolved,
    /// Every address of the name is forbidden by the address rules; nothing was sent.
    #[error("the server's address is not allowed")]
    AddressRefused,
    /// No connection, or a TLS handshake that did not end in time; nothing was sent.
    #[error("no connection to the server")]
    Unreachable,
    /// TLS failed (wrong name, unknown CA, expired); nothing was sent.
    #[error("the server's TLS certificate was not accepted")]
    Tls,
    /// The time was over.
    #[error("the server did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection to the server broke")]
    Broken,
    /// 5xx.
    #[error("the server reported an internal error")]
    ServerError,
    /// An answer that Mailu does not give.
    #[error("the server's answer was not understood")]
    Unintelligible,
    /// More bytes than any Mailu answer has.
    #[error("the server's answer was too large")]
    TooLarge,
}

impl Trouble {
    /// Reports whether the request certainly never reached the server.
    #[must_use]
    pub const fn before_sending(self) -> bool {
        matches!(
            self,
            Self::Unresolved | Self::AddressRefused | Self::Unreachable | Self::Tls
        )
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unresolved => Self::Unresolved,
            Fault::AddressRefused => Self::AddressRefused,
            Fault::Unreachable => Self::Unreachable,
            Fault::Tls => Self::Tls,
            Fault::Timeout => Self::Timeout,
            Fault::Broken => Self::Broken,
        }
    }
}
