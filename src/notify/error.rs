//! [`Error`]: why a message was not delivered, by what one does about it.

use std::time::Duration;

use crate::network::Fault;

/// Why a message was not delivered; never with the peer's own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The peer could not be spoken to.
    #[error("{0}")]
    Unreachable(Fault),
    /// The peer asks for patience: HTTP 408, 425, 429 or 503, SMTP 4xx before a recipient is named.
    #[error("the peer takes nothing at the moment")]
    Busy {
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The peer has a fault of its own: HTTP 5xx, or an answer that is not the protocol's.
    #[error("the peer failed")]
    Failing,
    /// The mail server does not offer TLS or a way to log in.
    #[error("the mail server does not offer what the channel needs")]
    NotOffered,
    /// The mail server refused user name and password.
    #[error("the mail server refused the login")]
    LoginRefused,
    /// The peer does not take anything from this channel: HTTP 3xx, 401, 403, 404, 405, 410, or a
    /// mail server that refuses the sender.
    #[error("the peer refuses this channel")]
    Denied,
    /// The peer does not take this message: HTTP 4xx, or SMTP 5xx for the recipient or the text.
    #[error("the peer refused this message")]
    Rejected,
    /// The peer does not take this message yet: SMTP 4xx for the recipient or the text.
    #[error("the peer does not take this message yet")]
    Deferred,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The channel: the next message would fare no better.
    Channel,
    /// This one message.
    Message,
}

impl Error {
    /// Returns the stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreachable(Fault::AddressRefused) => "address_refused",
            Self::Unreachable(Fault::Tls) => "notify_tls",
            Self::Unreachable(
                Fault::Unresolved | Fault::Unreachable | Fault::Timeout | Fault::Broken,
            ) => "notify_unreachable",
            Self::Busy { .. } => "notify_busy",
            Self::Failing => "notify_failing",
            Self::NotOffered => "notify_not_offered",
            Self::LoginRefused => "notify_login_refused",
            Self::Denied => "notify_denied",
            Self::Rejected => "notify_rejected",
            Self::Deferred => "notify_deferred",
        }
    }

    /// Returns what an operator does about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Unreachable(Fault::AddressRefused) => {
                "the channel's host leads to an address that is not allowed (loopback, \
                 link-local, private or unlisted). Check it, or list the network in \
                 allowed_hosts of the mount's config"
            }
            Self::Unreachable(Fault::Tls) => {
                "the certificate of the channel's host was not accepted. Check its name and \
                 validity, and set ca_cert (for mail also tls_server_name)"
            }
            Self::Unreachable(Fault::Unresolved) => {
                "the name of the channel's host does not resolve. Check it and the DNS of this \
                 server"
            }
            Self::Unreachable(Fault::Unreachable | Fault::Timeout | Fault::Broken) => {
                "the channel's host gave no answer. Check that it runs and that this server may \
                 reach it; for mail, that port and tls belong together (465: tls, 587: starttls)"
            }
            Self::Busy { .. } => {
                "the channel's host takes nothing at the moment (rate limit or overload). It is \
                 tried again"
            }
            Self::Failing => {
                "the channel's host reported an error of its own, or does not speak the protocol. \
                 Check its logs"
            }
            Self::NotOffered => {
                "the mail server offers no STARTTLS, or no login although the channel has a \
                 password. Check port, tls, username and password"
            }
            Self::LoginRefused => {
                "the mail server refused the login. Write username and password of the channel \
                 again"
            }
            Self::Denied => {
                "the channel's host refuses whatever comes from this channel. Check the URL (was \
                 it revoked, does it redirect?), for mail whether the server lets this sender \
                 relay"
            }
            Self::Rejected => {
                "the channel's host refused the message for good. For mail, check the addresses; \
                 for a webhook, what the receiver accepts"
            }
            Self::Deferred => {
                "the mail server does not take the message yet (greylisting, full mailbox). It is \
                 tried again"
            }
        }
    }

    /// Returns what the error is about.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Unreachable(_)
            | Self::Busy { .. }
            | Self::Failing
            | Self::NotOffered
            | Self::LoginRefused
            | Self::Denied => Scope::Channel,
            Self::Rejected | Self::Deferred => Scope::Message,
        }
    }

    /// Returns how long the peer wants to be left alone.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => retry_after,
            _ => None,
        }
    }
}
