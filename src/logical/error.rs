//! Errors a backend may answer, one variant per kind the host distinguishes.

use super::{StorageError, SystemViewError};

/// The text by which a host recognises "forward this request to the active node".
///
/// Source: OpenBao `sdk/logical/error.go` (`ErrReadOnly`); seen forwarding on OpenBao 2.7.2.
pub const READ_ONLY: &str = "cannot write to readonly storage";

/// What a host says to every write of a mount that it set up while the plugin could not be started,
/// and goes on saying after a reload, a tune and a remount of it.
///
/// Source: seen with Vault 1.15.5, 1.21.0 and 2.1.0; Vault issue 23159.
const DURING_SETUP: &str = "cannot write to storage during setup";
/// What ends that.
const AFTER_SETUP: &str = "Nothing was stored. A reload does not end this: seal and unseal this \
                           server, restart it, or let another node become the active one; if \
                           sys/leader shows no other one after a step-down, seal that node.";

/// Why a request was not answered.
///
/// Every text is shown to the client and written in clear to the host's audit log: no secret, no
/// text from a third party.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The caller's mistake: HTTP 400 with `errors: ["<code>: <message>"]` and `data.code`.
    #[error("{code}: {message}")]
    User {
        /// Stable, lower-case with underscores.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// Any other HTTP status; the text begins with the code. The way to say 401, 403, 409, 412 and
    /// the rest: the host's own kinds for some of them lose the text.
    #[error("{code}: {message}")]
    Status {
        /// The HTTP status, 400 to 599; `wire` makes 500 of anything else.
        status: u16,
        /// Stable, lower-case with underscores.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// An operation this build does not know: HTTP 405, in the host's own words.
    #[error("unsupported operation")]
    UnsupportedOperation,
    /// No such path: HTTP 404.
    #[error("unsupported_path: this mount has no such path. The mount's own path-help lists them.")]
    UnsupportedPath,
    /// This node may not write; the host forwards the request to the active node. The active node
    /// itself answers a redirect to itself (seen on OpenBao 2.7.2): to be said on standbys only.
    #[error("{READ_ONLY}")]
    ReadOnly,
    /// The host's storage failed: HTTP 500, the host's own text.
    #[error("storage_error: {0}")]
    Storage(String),
    /// A defect in the plugin: HTTP 500. The text must not hold request data.
    #[error("internal: {0}")]
    Internal(String),
}

impl Error {
    /// Builds a 400 with a stable code.
    pub fn user(code: &'static str, message: impl Into<String>) -> Self {
        Self::User {
            code,
            message: message.into(),
        }
    }

    /// Builds an error with another HTTP status.
    pub fn status(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::Status {
            status,
            code,
            message: message.into(),
        }
    }

    /// Builds an HTTP 500 for a defect in the plugin.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::ReadOnly => Self::ReadOnly,
            StorageError::Conflict => Self::status(
                409,
                "conflict",
                "the entry was changed by someone else at the same time. Try again.",
            ),
            StorageError::Refused(text) if text.contains(DURING_SETUP) => {
                Self::Storage(format!("{text}. {AFTER_SETUP}"))
            }
            StorageError::Refused(text) | StorageError::Unknown(text) => Self::Storage(text),
        }
    }
}

impl From<SystemViewError> for Error {
    fn from(error: SystemViewError) -> Self {
        match error {
            SystemViewError::Unsupported => Self::status(
                501,
                "unsupported_by_server",
                "this server does not have what the request needs. A newer server may.",
            ),
            SystemViewError::Failed(text) => Self::status(500, "server_error", text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_race_for_an_entry_is_no_failure_of_storage() {
        let Error::Status { status, code, .. } = StorageError::Conflict.into() else {
            panic!("not a status")
        };
        assert_eq!((status, code), (409, "conflict"));
    }
}
