//! [`Fault`]: how far a connection came.

use super::TlsFault;

/// Why a peer could not be spoken to; never with a text of the peer's or the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The name did not resolve; nothing was sent.
    #[error("the name does not resolve")]
    Unresolved,
    /// Every address of the name is forbidden by the address rules; nothing was sent.
    #[error("the address is not allowed")]
    AddressRefused,
    /// No connection, or a TLS handshake that did not end in time; nothing was sent.
    #[error("no connection")]
    Unreachable,
    /// TLS failed; nothing was sent.
    #[error("{0}")]
    Tls(TlsFault),
    /// The time was over; it may have been sent.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke; it may have been sent.
    #[error("the connection broke")]
    Broken,
}
