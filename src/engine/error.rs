//! Everything that can go wrong in the engine, and the single map to what a client sees.
//!
//! Permanent conditions are 400, 403, 404 or 409: Go clients repeat 5xx and 429 by themselves.
//! 503 is kept for work that a repeat joins.

use super::storage::record::HELD_BACK;
use crate::crypto;
use crate::logical::{self, StorageError, SystemViewError};
use crate::provider::{Refusal, TlsFault, Trouble};

/// Why the engine did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The tenant's name is outside the grammar or reserved.
    #[error("invalid tenant name: {0}")]
    InvalidTenant(&'static str),
    /// The mount has no such tenant.
    #[error("unknown tenant")]
    UnknownTenant,
    /// The mount has no such notification channel.
    #[error("unknown channel")]
    UnknownChannel,
    /// A field's value is not acceptable; code and text are for the caller.
    #[error("{code}: {message}")]
    Invalid {
        /// The stable code.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The request does not fit the state of things (HTTP 409).
    #[error("{code}: {message}")]
    Conflict {
        /// The stable code.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// Mailu refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Mailu could not be asked and nothing was sent.
    #[error("{0}")]
    Unreachable(Trouble),
    /// The server gave no answer several times in a row: automatic work leaves it alone for some
    /// minutes. Nothing was sent, and nobody waited.
    #[error("the server gave no answer several times in a row and is left alone")]
    BreakerOpen,
    /// Mailu could not be asked for the rest, after an open change was settled.
    #[error("{0}")]
    Interrupted(Trouble),
    /// A password was sent and its outcome is open.
    #[error("the outcome of the change at Mailu is not known yet")]
    Unsettled,
    /// The mail server is somebody else's: an emergency waits for it, or it could not be waited for.
    /// The work begins again from what is stored; a tick's with the next one.
    #[error("the mail server is busy")]
    GaveWay,
    /// The request stopped waiting, and nothing that it asked for is stored.
    #[error("nothing is stored yet")]
    NotStored,
    /// The work goes on after the request stopped waiting for it.
    #[error("the work goes on")]
    InProgress,
    /// Too much waits for the tenant, or for the mount, already.
    #[error("too many requests wait")]
    Busy,
    /// Another request that waited for the same work was answered with its secret.
    #[error("the answer was shown to another request")]
    ShownToAnother,
    /// An automatic change waits until an audit device has its beginning.
    #[error("the change waits for the audit devices")]
    HeldBack,
    /// The tenant has a server at most, but no credential.
    #[error("the tenant has no credential")]
    NoCredential,
    /// The credential was deleted softly.
    #[error("the credential was deleted")]
    Deleted,
    /// An emergency reset holds the credential back.
    #[error("the credential is on hold")]
    OnHold,
    /// An answer did not have the shape of one.
    #[error(transparent)]
    Answer(#[from] logical::Error),
    /// This node may not change anything.
    #[error("not the active node")]
    Standby,
    /// The mount is being removed.
    #[error("the mount is being removed")]
    Tainted,
    /// The keyring is missing or unreadable while tenants exist.
    #[error("the keyring cannot be read: {0}")]
    Keyring(&'static str),
    /// A stored ciphertext does not open.
    #[error("a stored secret cannot be opened: {0}")]
    Unopenable(crypto::OpenError),
    /// A stored entry cannot be understood.
    #[error("the stored entry {key} cannot be read: {why}")]
    Entry {
        /// The storage key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The host could not answer about itself.
    #[error("the host did not answer: {0}")]
    Host(#[from] SystemViewError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] crypto::RandomError),
    /// A defect in this plugin.
    #[error("defect: {0}")]
    Defect(&'static str),
}

impl Error {
    /// The same error of a request that has settled an open change before: something was changed.
    pub(crate) fn after_settling(self) -> Self {
        match self {
            Self::Unreachable(trouble) => Self::Interrupted(trouble),
            other => other,
        }
    }

    /// Builds a 400.
    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid {
            code,
            message: message.into(),
        }
    }

    /// Builds a 409.
    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict {
            code,
            message: message.into(),
        }
    }

    /// Returns which fault of TLS it was: they share a code.
    pub(crate) const fn tls_fault(&self) -> Option<TlsFault> {
        match self {
            Self::Unreachable(Trouble::Tls(fault)) | Self::Interrupted(Trouble::Tls(fault)) => {
                Some(*fault)
            }
            _ => None,
        }
    }

    /// Returns the stable code, as events and `status` show it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::InvalidTenant(_) => "invalid_tenant",
            Self::UnknownTenant => "unknown_tenant",
            Self::UnknownChannel => "unknown_channel",
            Self::Invalid { code, .. } | Self::Conflict { code, .. } => code,
            Self::Refused(refusal) => refusal_code(*refusal),
            Self::Unreachable(trouble) | Self::Interrupted(trouble) => trouble_code(*trouble),
            Self::BreakerOpen | Self::Unsettled => "mailu_unreachable",
            Self::InProgress => "in_progress",
            Self::Busy | Self::GaveWay => "busy",
            Self::NotStored => "not_stored",
            Self::ShownToAnother => "shown_to_another",
            Self::HeldBack => HELD_BACK,
            Self::NoCredential => "unknown_tenant",
            Self::Deleted => "deleted",
            Self::OnHold => "on_hold",
            Self::Answer(_) => "internal",
            Self::Standby => "standby",
            Self::Tainted => "tainted",
            Self::Keyring(_) => "keyring_unreadable",
            Self::Unopenable(_) => "secret_unreadable",
            Self::Entry { .. } => "record_unreadable",
            Self::Storage(StorageError::Conflict) => "conflict",
            Self::Storage(_) => "storage_error",
            Self::Host(_) => "host_error",
            Self::Random(_) | Self::Defect(_) => "internal",
        }
    }
}

/// The stable code of a definite refusal.
pub(crate) const fn refusal_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Token => "mailu_token_refused",
        Refusal::RateLimited => "mailu_rate_limited",
        Refusal::NoSuchAccount => "mailu_no_such_account",
        Refusal::NoSuchAppToken => "mailu_no_such_app_token",
        Refusal::NoSuchDomain => "mailu_no_such_domain",
        Refusal::Conflict => "mailu_conflict",
        Refusal::Invalid => "mailu_rejected",
    }
}

/// The stable code of an unusable answer.
pub(crate) const fn trouble_code(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::AddressRefused => "address_refused",
        Trouble::Tls(_) => "mailu_tls",
        Trouble::Denied { .. } => "unrecognised_refusal",
        Trouble::Redirect => "mailu_redirect",
        Trouble::NoApi => "mailu_no_api",
        Trouble::Unresolved
        | Trouble::Unreachable
        | Trouble::Timeout
        | Trouble::Broken
        | Trouble::ServerError
        | Trouble::Busy { .. }
        | Trouble::Cached
        | Trouble::Unintelligible
        | Trouble::TooLarge => "mailu_unreachable",
    }
}

/// What an operator does about a definite refusal.
pub(crate) const fn refusal_hint(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Token => {
            "Mailu refused the API token (401 or 403). Check API_TOKEN on the Mailu server and \
             write it to <tenant>/config: another token is tried at once. The refused one is tried \
             again once an hour (by an emergency reset after 15 minutes); until then no call is \
             made with it"
        }
        Refusal::RateLimited => {
            "Mailu refuses calls from this network for up to an hour (rate limit), or would do so \
             after more wrong API tokens: this mount allows itself 3 refused calls per server and \
             hour. Wait for up to an hour (an emergency reset tries after 15 minutes), and add the \
             Vault servers to AUTH_RATELIMIT_EXEMPTION on the Mailu server"
        }
        Refusal::NoSuchAccount => {
            "Mailu has no such account. Check the username, or create the account in Mailu"
        }
        Refusal::NoSuchAppToken => {
            "Mailu has no such app token (any more). Nothing needs to be done"
        }
        Refusal::NoSuchDomain => {
            "Mailu does not have the account's mail domain. Create the domain in Mailu, or check \
             the username"
        }
        Refusal::Conflict => {
            "Mailu reports a conflict: the domain has reached its max_users, or the account \
             exists. Check the domain in Mailu"
        }
        Refusal::Invalid => {
            "Mailu rejected the request as invalid. Check that the username is an address Mailu \
             accepts and that the server is a supported Mailu (2.0 or later)"
        }
    }
}

/// What an operator does about an unusable answer that was just met, and why it is one.
pub(crate) fn trouble_text(trouble: Trouble) -> String {
    match trouble {
        Trouble::Tls(why) => format!(
            "TLS with the Mailu server failed: {} (ca_cert and tls_server_name are in \
             <tenant>/config)",
            why.told()
        ),
        trouble => trouble_hint(trouble).to_owned(),
    }
}

/// What an operator does about an unusable answer of which only the code was kept.
pub(crate) const fn trouble_hint(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Unresolved => {
            "the name in mailu_url does not resolve. Check it and the DNS of this server"
        }
        Trouble::AddressRefused => {
            "the name in mailu_url leads to an address that is not allowed (loopback, link-local, \
             private or unlisted). Check it, or list the network in allowed_hosts of the mount's \
             config"
        }
        Trouble::Unreachable => {
            "no connection to the Mailu server. Check that it runs and that this server may \
             reach it"
        }
        Trouble::Tls(_) => {
            "the Mailu server's certificate was not accepted. Write <tenant>/verify to learn why; \
             ca_cert and tls_server_name are in <tenant>/config"
        }
        Trouble::Timeout => {
            "the Mailu server did not answer in time. Check its load, or raise request_timeout \
             in <tenant>/config"
        }
        Trouble::Broken => {
            "the connection to the Mailu server broke. Check the server and try again"
        }
        Trouble::ServerError => {
            "the Mailu server reported an internal error. Check its logs and try again"
        }
        Trouble::Denied { .. } => {
            "something before Mailu refused the call (401 or 403 in other words than Mailu's): a \
             proxy, WAF or login page. Let the Vault servers through to /api/ with their \
             Authorization header. At most 3 calls an hour are risked per server, because Mailu may \
             count them; writing api_token to <tenant>/config tries again at once"
        }
        Trouble::Busy { .. } => {
            "something before Mailu asks to call later (429 or 503). It is tried again within 10 \
             minutes; let the Vault servers call /api/ without a limit there"
        }
        Trouble::Redirect => {
            "the server answered with a redirect, which is never followed. Set mailu_url to the \
             final https address, and check that API=true is set on the Mailu server and that no \
             proxy before it answers errors with redirects"
        }
        Trouble::NoApi => {
            "there is no Mailu API at this URL. Check mailu_url and that API=true is set on the \
             Mailu server"
        }
        Trouble::Cached => {
            "the answer came from a cache before the Mailu server, which proves nothing. Exclude \
             /api/ from caching there"
        }
        Trouble::Unintelligible | Trouble::TooLarge => {
            "the server's answer is not one that Mailu gives. Check mailu_url"
        }
    }
}

impl From<Error> for logical::Error {
    fn from(error: Error) -> Self {
        let code = error.code();
        match error {
            Error::InvalidTenant(why) => Self::user(code, format!("{why}.")),
            Error::Invalid { message, .. } => Self::user(code, message),
            Error::Conflict { message, .. } => Self::status(409, code, message),
            Error::Refused(Refusal::RateLimited) => Self::status(
                409,
                code,
                format!("{}.", refusal_hint(Refusal::RateLimited)),
            ),
            Error::Refused(refusal) => Self::user(code, format!("{}.", refusal_hint(refusal))),
            Error::Unreachable(trouble) if trouble.is_permanent() => {
                Self::user(code, format!("{}.", trouble_text(trouble)))
            }
            Error::Interrupted(trouble) => Self::status(
                503,
                code,
                format!(
                    "{}. What was open is settled; repeat the request for the rest.",
                    trouble_text(trouble)
                ),
            ),
            Error::Unreachable(trouble) => Self::status(
                503,
                code,
                format!("{}. Nothing was changed.", trouble_text(trouble)),
            ),
            Error::Standby | Error::Storage(StorageError::ReadOnly) => Self::ReadOnly,
            Error::Keyring(why) => Self::status(
                500,
                code,
                format!(
                    "{why}. Nothing was written. Restore the mount's storage from a backup or a \
                     raft snapshot."
                ),
            ),
            Error::Entry { key, why } => {
                Self::status(500, code, format!("{key}: {why}. Nothing was written."))
            }
            Error::Host(why) => Self::status(500, code, format!("the host did not answer: {why}.")),
            Error::Storage(storage) => Self::from(storage),
            Error::Random(error) => Self::internal(error.to_string()),
            Error::Defect(what) => Self::internal(what),
            Error::Answer(error) => error,
            Error::NoCredential => Self::status(404, code, NO_CREDENTIAL),
            Error::Deleted => Self::status(409, code, DELETED),
            Error::OnHold => Self::status(403, code, ON_HOLD),
            Error::UnknownTenant => Self::status(404, code, UNKNOWN_TENANT),
            Error::UnknownChannel => Self::status(404, code, UNKNOWN_CHANNEL),
            Error::BreakerOpen => Self::status(503, code, BREAKER_OPEN),
            Error::Unsettled => Self::status(503, code, UNSETTLED),
            Error::InProgress => Self::status(503, code, IN_PROGRESS),
            Error::Busy | Error::GaveWay => Self::status(503, code, BUSY),
            Error::NotStored => Self::status(503, code, NOT_STORED),
            Error::ShownToAnother => Self::status(409, code, SHOWN_TO_ANOTHER),
            Error::HeldBack => Self::status(409, code, HELD_BACK_TEXT),
            Error::Tainted => Self::status(409, code, TAINTED),
            Error::Unopenable(_) => Self::status(500, code, UNOPENABLE),
        }
    }
}

const UNKNOWN_TENANT: &str =
    "there is no such tenant on this mount. Write <tenant>/config or <tenant>/admin first.";
const UNKNOWN_CHANNEL: &str =
    "there is no such notification channel on this mount. Write config/notify/<name> first.";
const NO_CREDENTIAL: &str = "the tenant has no credential yet. Write <tenant>/admin first.";
const DELETED: &str = "the credential was deleted and is still kept. Bring it back with \
                       <tenant>/undelete, or remove it for good with <tenant>/destroy.";
const ON_HOLD: &str = "an emergency reset holds this credential back. Ask a platform administrator \
                       to release it.";
const BREAKER_OPEN: &str = "the Mailu server gave no answer several times in a row. It is tried \
                            again within 10 minutes. Nothing was changed.";
const UNSETTLED: &str = "the password was sent and Mailu's answer is open; both passwords are \
                         kept. Repeat the request to settle it, or read <tenant>/status.";
const IN_PROGRESS: &str = "the work goes on in the background. Repeat the request to join it.";
const BUSY: &str = "too many requests wait already. Nothing was begun. Repeat the request later; an \
                    emergency reset has places of its own.";
const SHOWN_TO_ANOTHER: &str = "several requests waited for this answer, and another one of them \
                                was shown the password. Write <tenant>/reveal to look at it.";
const NOT_STORED: &str = "nothing is stored and nothing is promised yet: what is asked for waits for \
                          somebody else's work, for an answer of the server, or for storage. \
                          Repeat the request.";
const HELD_BACK_TEXT: &str = "the change waits until an audit device has taken its beginning. Read \
                              status for what the audit devices lack.";
const TAINTED: &str = "the mount is being removed; nothing is changed any more.";
const UNOPENABLE: &str = "a stored secret does not open with this mount's keyring: the entry was \
                          moved or altered, or the keyring is not the one it was written with. \
                          Nothing was changed.";
