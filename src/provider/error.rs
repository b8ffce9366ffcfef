//! Failures of a mail server, by what one does about them; never with the server's own text.

use crate::network::{Fault, TlsFault};

/// Mailu's own "no", told by status and words. Of a *change* it says only that one copy of the
/// request was refused: a front may have repeated it. What it came to, a look tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The API token is wrong. Do not repeat: each try burns the server's limiter.
    #[error("Mailu refused the API token")]
    Token,
    /// Too many refused calls from this network, for up to an hour.
    #[error("Mailu refuses calls from this address for up to an hour (rate limit)")]
    RateLimited,
    /// There is no such account.
    #[error("Mailu has no such account")]
    NoSuchAccount,
    /// There is no app token of that number: it is gone.
    #[error("Mailu has no such app token")]
    NoSuchAppToken,
    /// The domain of an account to be created is missing.
    #[error("Mailu has no such mail domain")]
    NoSuchDomain,
    /// The account exists, or the domain is full.
    #[error("Mailu reports a conflict: the account exists or its domain is full")]
    Conflict,
    /// This Mailu does not take the request.
    #[error("Mailu rejected the request as invalid")]
    Invalid,
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
    /// TLS failed; nothing was sent.
    #[error("{0}")]
    Tls(TlsFault),
    /// The time was over.
    #[error("the server did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection to the server broke")]
    Broken,
    /// 5xx.
    #[error("the server reported an internal error")]
    ServerError,
    /// 401 or 403 in other words than Mailu's. The token may be right; still, Mailu may have counted
    /// it, so few of these are risked.
    #[error("something before Mailu refused the call (HTTP {status})")]
    Denied {
        /// The status.
        status: u16,
    },
    /// 429, or 503 with `Retry-After`, in other words than Mailu's.
    #[error("something before Mailu asks to call later")]
    Busy {
        /// `Retry-After` in seconds, as it was given.
        retry_after: Option<u32>,
    },
    /// A 3xx, which is never followed: the URL is not that of the API, or a front words errors so.
    #[error("the server answered with a redirect, which is never followed")]
    Redirect,
    /// An HTML 404, or a page instead of data: no Mailu API below this URL, or a front words errors
    /// so.
    #[error("there is no Mailu API at this URL")]
    NoApi,
    /// A look was answered from a cache: it says nothing of now.
    #[error("the answer came from a cache before the server")]
    Cached,
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
            Self::Unresolved | Self::AddressRefused | Self::Unreachable | Self::Tls(_)
        )
    }

    /// Reports whether an answer came, and one that is no 401, 403 or 429.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(
            self,
            Self::ServerError | Self::Unintelligible | Self::TooLarge | Self::Cached
        )
    }

    /// Reports whether this lasts until somebody does something: a repeat is answered the same.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::AddressRefused
                | Self::Tls(_)
                | Self::Denied { .. }
                | Self::Redirect
                | Self::NoApi
        )
    }

    /// Reports whether something before Mailu worded the answer on purpose: sending the same again
    /// at once would be answered the same.
    #[must_use]
    pub const fn is_worded(self) -> bool {
        matches!(
            self,
            Self::Denied { .. } | Self::Busy { .. } | Self::Redirect | Self::NoApi
        )
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unresolved => Self::Unresolved,
            Fault::AddressRefused => Self::AddressRefused,
            Fault::Unreachable => Self::Unreachable,
            Fault::Tls(why) => Self::Tls(why),
            Fault::Timeout => Self::Timeout,
            Fault::Broken => Self::Broken,
        }
    }
}
