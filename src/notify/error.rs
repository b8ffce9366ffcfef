//! [`Error`]: why a message was not delivered, by what one does about it.

use std::time::Duration;

use crate::network::{Fault, SmtpReply, SmtpStage};

/// Why a message was not delivered; never with the peer's own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The peer could not be spoken to.
    #[error("{0}")]
    Unreachable(Fault),
    /// The peer asks for patience: HTTP 408, 425, 429 or 503.
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
    /// The peer does not take anything from this channel: HTTP 3xx, 401, 403, 404, 405, 407, 410.
    #[error("the peer refuses this channel")]
    Denied,
    /// The peer does not take this message: any other HTTP 4xx.
    #[error("the peer refused this message")]
    Rejected,
    /// The peer does not take this message yet.
    #[error("the peer does not take this message yet")]
    Deferred,
    /// The mail server said no, at this stage and with this code.
    #[error("the mail server answered {} with {}", .0.stage.as_str(), .0.code)]
    Smtp(SmtpReply),
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The channel: the next message would fare no better.
    Channel,
    /// This one message.
    Message,
}

/// What a mail server's no is about.
#[derive(Clone, Copy)]
enum No {
    /// It takes nothing at the moment.
    Busy,
    /// It takes no connection from here.
    Connection,
    /// It does not like how this side introduces itself.
    Name,
    /// It does not do what the channel needs.
    NotOffered,
    /// It wants a login, and got none.
    LoginWanted,
    /// It refuses the login.
    Login,
    /// It refuses the sender.
    Sender,
    /// It refuses the message for good.
    Message,
    /// It does not take the message yet.
    NotYet,
}

/// Source: RFC 5321, section 4.2.3; RFC 4954, section 6 (530, 534, 538).
const fn no(reply: SmtpReply) -> No {
    use SmtpStage::{Greeting, Hello, Login, Recipient, Sender, StartTls, Text};
    match (reply.stage, reply.code) {
        // "Service not available", "insufficient system storage".
        (Recipient | Text, 421 | 452) => No::Busy,
        (Recipient | Text, ..=499) => No::NotYet,
        (_, ..=499) => No::Busy,
        (Greeting, _) => No::Connection,
        (Hello, _) => No::Name,
        (StartTls, _) | (Login, 500..=504 | 534 | 538) => No::NotOffered,
        (Login, _) => No::Login,
        (Sender | Recipient | Text, 530) => No::LoginWanted,
        (Sender, _) => No::Sender,
        (Recipient | Text, _) => No::Message,
    }
}

impl Error {
    /// Returns the stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreachable(Fault::AddressRefused) => "address_refused",
            Self::Unreachable(Fault::Tls(_)) => "notify_tls",
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
            Self::Smtp(reply) => match no(reply) {
                No::Busy => "notify_busy",
                No::Connection => "notify_refused",
                No::Name => "notify_ehlo_refused",
                No::NotOffered => "notify_not_offered",
                No::LoginWanted => "notify_login_required",
                No::Login => "notify_login_refused",
                No::Sender => "notify_denied",
                No::Message => "notify_rejected",
                No::NotYet => "notify_deferred",
            },
        }
    }

    /// Returns what was met and what an operator does about it, without a full stop.
    #[must_use]
    pub fn explain(self) -> String {
        match self {
            Self::Unreachable(Fault::Tls(why)) => {
                format!("TLS with the channel's host failed: {}", why.told())
            }
            Self::Smtp(reply) => format!("{self}: {}", of_reply(reply)),
            other => other.hint().to_owned(),
        }
    }

    /// Returns what an operator does about it.
    const fn hint(self) -> &'static str {
        match self {
            Self::Unreachable(Fault::AddressRefused) => {
                "the channel's host leads to an address that is not allowed (loopback, \
                 link-local, private or unlisted). Check it, or list the network in \
                 allowed_hosts of the mount's config"
            }
            Self::Unreachable(Fault::Tls(why)) => why.remedy(),
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
                 it revoked, does it redirect?)"
            }
            Self::Rejected => {
                "the channel's host refused the message for good. Check what the receiver accepts"
            }
            Self::Deferred => "the channel's host does not take the message yet. It is tried again",
            Self::Smtp(reply) => of_reply(reply),
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
            Self::Smtp(reply) => match no(reply) {
                No::Message | No::NotYet => Scope::Message,
                No::Busy
                | No::Connection
                | No::Name
                | No::NotOffered
                | No::LoginWanted
                | No::Login
                | No::Sender => Scope::Channel,
            },
        }
    }

    /// Reports whether a mail server says that the same would be answered the same: whoever repeats
    /// it is taken for a spammer.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::LoginRefused => true,
            Self::Smtp(reply) => reply.is_permanent(),
            Self::Unreachable(_)
            | Self::Busy { .. }
            | Self::Failing
            | Self::NotOffered
            | Self::Denied
            | Self::Rejected
            | Self::Deferred => false,
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

/// What an operator does about a mail server's no.
const fn of_reply(reply: SmtpReply) -> &'static str {
    match no(reply) {
        No::Busy => "it takes nothing at the moment. It is tried again",
        No::Connection => {
            "it takes no connections from this server. Ask who runs it to let this address in (is \
             it on a block list?)"
        }
        No::Name => {
            "it does not accept the name that this side gives. Set ehlo_name of the channel to a \
             full host name that resolves to this server, or ask who runs it"
        }
        No::NotOffered => {
            "it does not do what the channel needs (TLS or this kind of login). Check port, tls, \
             username and password"
        }
        No::LoginWanted => {
            "it wants a login. Write username and password of the channel, or let this server relay"
        }
        No::Login => "it refused the login. Write username and password of the channel again",
        No::Sender => {
            "it does not take mail from this sender. Check `from`, and whether the login or this \
             server may relay"
        }
        No::Message => "it refused the message for good. Check the addresses and its log",
        No::NotYet => {
            "it does not take the message yet (greylisting, full mailbox). It is tried again"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::TlsFault;

    /// No stage and no code is silence, and what is for good is never what is for now.
    #[test]
    fn every_no_of_a_mail_server_has_a_code_a_scope_and_a_text_of_its_own() {
        use Scope::{Channel, Message};
        use SmtpStage::{Greeting, Hello, Login, Recipient, Sender, StartTls, Text};
        for (stage, code, word, scope) in [
            (Greeting, 421, "notify_busy", Channel),
            (Greeting, 450, "notify_busy", Channel),
            (Greeting, 521, "notify_refused", Channel),
            (Greeting, 554, "notify_refused", Channel),
            (Hello, 421, "notify_busy", Channel),
            (Hello, 501, "notify_ehlo_refused", Channel),
            (Hello, 550, "notify_ehlo_refused", Channel),
            (StartTls, 454, "notify_busy", Channel),
            (StartTls, 502, "notify_not_offered", Channel),
            (Login, 454, "notify_busy", Channel),
            (Login, 504, "notify_not_offered", Channel),
            (Login, 534, "notify_not_offered", Channel),
            (Login, 535, "notify_login_refused", Channel),
            (Login, 550, "notify_login_refused", Channel),
            (Sender, 451, "notify_busy", Channel),
            (Sender, 530, "notify_login_required", Channel),
            (Sender, 550, "notify_denied", Channel),
            (Recipient, 421, "notify_busy", Channel),
            (Recipient, 450, "notify_deferred", Message),
            (Recipient, 452, "notify_busy", Channel),
            (Recipient, 530, "notify_login_required", Channel),
            (Recipient, 550, "notify_rejected", Message),
            (Text, 451, "notify_deferred", Message),
            (Text, 554, "notify_rejected", Message),
        ] {
            let error = Error::Smtp(SmtpReply { stage, code });
            assert_eq!((error.code(), error.scope()), (word, scope), "{error}");
            assert_eq!(error.is_permanent(), code >= 500, "{error}");
            let told = error.explain();
            assert!(told.contains(&code.to_string()), "{told}");
            assert!(told.contains(stage.as_str()), "{told}");
            assert!(!told.ends_with('.') && told.len() > 60, "{told}");
        }
    }

    #[test]
    fn every_verdict_on_a_certificate_has_a_text_of_its_own() {
        let mut told = std::collections::BTreeSet::new();
        for fault in TlsFault::ALL {
            let error = Error::Unreachable(Fault::Tls(fault));
            assert_eq!(error.code(), "notify_tls");
            assert!(told.insert(error.explain()), "{fault}");
        }
        assert_eq!(told.len(), TlsFault::ALL.len());
    }
}
