//! The client over HTTP: TCP with TLS, or a unix socket.

use std::fmt;
use std::sync::Arc;

use super::{HostApiOpener, OpenError};

/// Where the host's API listens.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no address of the host's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the address is none of the host's API")]
pub struct AddressError;

impl Address {
    /// Parses `https://…`, `http://` to a loopback address, or `unix:///…`.
    ///
    /// # Errors
    ///
    /// [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Ok(Self(text.to_owned()))
    }
}

/// Returns what makes clients.
#[must_use]
pub fn opener() -> HostApiOpener {
    Arc::new(|_config| Err(OpenError::Client))
}
