//! [`Address`]: where the host's own API listens, as an operator writes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::network::Scheme;
use crate::network::endpoint::{Checked, EndpointError, Query, authority, checked};
use crate::network::http::Peer;
use crate::network::policy::{literal, may_be_host_api};

/// The one name that is this machine.
const LOCALHOST: &str = "localhost";
/// What an address on a unix socket begins with.
const UNIX: &str = "unix://";
/// Longest path of a socket, in bytes. Source: `sun_path` of Linux's `unix(7)`, without its end.
const MAX_SOCKET_PATH: usize = 107;

/// Where the host's own API listens: `https://host[:port]`, `http://` to this machine alone, or
/// `unix:///absolute/path`. Without a port it is the scheme's own, 443 or 80.
///
/// ```
/// use vault_plugin_secrets_smtp::host_api::Address;
///
/// let address = Address::parse("https://Vault.Example:8200/").unwrap();
/// assert_eq!(address.as_str(), "https://vault.example:8200");
/// assert!(Address::parse("http://127.0.0.1:8200").is_ok());
/// assert!(Address::parse("http://vault.example:8200").is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    place: Place,
}

/// Where a connection goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A host that is resolved, or a literal address.
    Tcp {
        scheme: Scheme,
        host: String,
        port: u16,
    },
    /// A socket on this machine, which speaks plain HTTP.
    Unix(PathBuf),
}

/// Why a text is no address of the host's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressError {
    /// None of the three forms, or more than 2,048 bytes.
    #[error(
        "not of the form https://host:port, http://127.0.0.1:port or unix:///absolute/path (no \
         path behind the host, no query, no user name)"
    )]
    Form,
    /// Plain text to another machine, by which the token could be read on the way.
    #[error("http:// is for loopback addresses and localhost only; use https://")]
    PlainText,
    /// An address at which no server listens.
    #[error("link-local, multicast and unspecified addresses are never called")]
    Never,
    /// The path of a socket that no socket can have.
    #[error("the path of a unix socket is absolute, without . and .., and has at most 107 bytes")]
    SocketPath,
}

impl Address {
    /// Parses an address and brings it into one spelling.
    ///
    /// # Errors
    ///
    /// [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return Self::parse_unix(path);
        }
        let Checked {
            url,
            scheme,
            host,
            port,
        } = checked(text, Query::Refused).map_err(|error| match error {
            EndpointError::Address(_) => AddressError::Never,
            _ => AddressError::Form,
        })?;
        if url.path() != "/" {
            return Err(AddressError::Form);
        }
        let local = scheme == Scheme::Http;
        match literal(&host) {
            Some(ip) if !may_be_host_api(ip, false) => return Err(AddressError::Never),
            Some(ip) if !may_be_host_api(ip, local) => return Err(AddressError::PlainText),
            None if local && host != LOCALHOST => return Err(AddressError::PlainText),
            Some(_) | None => {}
        }
        Ok(Self {
            text: format!("{}://{}", scheme.as_str(), authority(&host, port, scheme)),
            place: Place::Tcp { scheme, host, port },
        })
    }

    fn parse_unix(path: &str) -> Result<Self, AddressError> {
        if !is_plain_path(path) || path.len() > MAX_SOCKET_PATH {
            return Err(AddressError::SocketPath);
        }
        Ok(Self {
            text: format!("{UNIX}{path}"),
            place: Place::Unix(PathBuf::from(path)),
        })
    }

    /// Returns the one spelling of this address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host as it is written, lower-case and without brackets, and the port; `None` for
    /// a unix socket.
    #[must_use]
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        match &self.place {
            Place::Tcp { host, port, .. } => Some((host, *port)),
            Place::Unix(_) => None,
        }
    }

    /// Returns the socket address if the host is a literal one.
    #[must_use]
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let (host, port) = self.host_and_port()?;
        Some(SocketAddr::new(literal(host)?, port))
    }

    /// Returns whom a client connects to; the host of a unix socket is never resolved.
    pub(super) fn peer(&self) -> Peer<'_> {
        match &self.place {
            Place::Tcp { scheme, host, port } => Peer {
                scheme: *scheme,
                host,
                port: *port,
            },
            Place::Unix(_) => Peer {
                scheme: Scheme::Http,
                host: LOCALHOST,
                port: Scheme::Http.default_port(),
            },
        }
    }

    /// Returns the unix socket.
    pub(super) fn socket_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Tcp { .. } => None,
            Place::Unix(path) => Some(path),
        }
    }

    /// Reports whether a connection may go to this address of the host: also a name may lead to
    /// another machine one day, and what is sent there in plain text is a token. `localhost` is this
    /// machine whatever a resolver says, because nobody had to name it.
    pub(super) fn allows(&self, ip: IpAddr) -> bool {
        let peer = self.peer();
        may_be_host_api(ip, peer.scheme == Scheme::Http || peer.host == LOCALHOST)
    }
}

/// Reports whether an address is this machine's loopback.
pub(super) fn is_local(address: &Address) -> bool {
    match &address.place {
        Place::Tcp { host, .. } => match literal(host) {
            Some(ip) => may_be_host_api(ip, true),
            None => host == LOCALHOST,
        },
        Place::Unix(_) => false,
    }
}

/// Reads the path of a directory; a slash at its end means nothing.
pub(super) fn socket_directory(path: &str) -> Option<PathBuf> {
    let path = path.strip_suffix('/').unwrap_or(path);
    is_plain_path(path).then(|| PathBuf::from(path))
}

/// Reports whether a path is absolute and has no segment that leads elsewhere than it looks.
fn is_plain_path(path: &str) -> bool {
    let mut segments = path.split('/');
    // An absolute path begins with an empty segment and has no other.
    let absolute = segments.next() == Some("");
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    let mut segments = segments.peekable();
    let named = segments.peek().is_some();
    absolute && named && !path.contains(char::is_control) && !segments.any(odd)
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for (given, kept) in [
            ("https://Vault.Example:8200/", "https://vault.example:8200"),
            ("https://vault.example", "https://vault.example"),
            ("https://vault.example:443", "https://vault.example"),
            ("https://127.0.0.1:8200", "https://127.0.0.1:8200"),
            ("https://[::1]:8200", "https://[::1]:8200"),
            ("https://10.0.0.5:8200", "https://10.0.0.5:8200"),
            ("https://localhost:8200", "https://localhost:8200"),
            ("http://127.1:8200", "http://127.0.0.1:8200"),
            ("HTTP://LocalHost:8200", "http://localhost:8200"),
            ("http://[::1]:8200", "http://[::1]:8200"),
            ("unix:///run/vault/api.sock", "unix:///run/vault/api.sock"),
        ] {
            let address = Address::parse(given).unwrap();
            assert_eq!(address.as_str(), kept);
            assert_eq!(Address::parse(kept), Ok(address));
        }
        let literal = Address::parse("https://[::1]:8200").unwrap();
        assert_eq!(literal.socket_address(), "[::1]:8200".parse().ok());
        let named = Address::parse("https://vault.example").unwrap();
        assert_eq!(named.host_and_port(), Some(("vault.example", 443)));
        assert_eq!(named.socket_address(), None);
        let socket = Address::parse("unix:///run/a").unwrap();
        assert_eq!(socket.host_and_port(), None);
    }

    #[test]
    fn what_is_no_address_is_refused_by_kind() {
        let long = format!("https://{}.example", "a".repeat(2_048));
        let deep = format!("unix:///{}", "a".repeat(107));
        for (text, why) in [
            ("", AddressError::Form),
            ("vault.example:8200", AddressError::Form),
            ("ftp://vault.example", AddressError::Form),
            ("https://vault.example/v1", AddressError::Form),
            ("https://vault.example?x", AddressError::Form),
            ("https://vault.example/#x", AddressError::Form),
            ("https://user@vault.example", AddressError::Form),
            ("https://user:word@vault.example", AddressError::Form),
            ("https://vault.example:0", AddressError::Form),
            ("https://vault.example:99999", AddressError::Form),
            (" https://vault.example", AddressError::Form),
            (long.as_str(), AddressError::Form),
            ("http://vault.example:8200", AddressError::PlainText),
            ("http://localhost.example:8200", AddressError::PlainText),
            ("http://10.0.0.5:8200", AddressError::PlainText),
            ("http://1.1.1.1:8200", AddressError::PlainText),
            ("http://169.254.169.254", AddressError::Never),
            ("https://169.254.169.254", AddressError::Never),
            ("https://[fe80::1]:8200", AddressError::Never),
            ("https://0.0.0.0:8200", AddressError::Never),
            ("https://[::]:8200", AddressError::Never),
            ("https://224.0.0.1", AddressError::Never),
            ("https://[64:ff9b::7f00:1]", AddressError::Never),
            ("unix://run/vault.sock", AddressError::SocketPath),
            ("unix:///", AddressError::SocketPath),
            ("unix:///run/", AddressError::SocketPath),
            ("unix:///run//a", AddressError::SocketPath),
            ("unix:///run/../a", AddressError::SocketPath),
            ("unix:///run/\u{7}", AddressError::SocketPath),
            (deep.as_str(), AddressError::SocketPath),
        ] {
            assert_eq!(Address::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn plain_text_stays_on_this_machine_whatever_a_name_resolves_to() {
        let other = "10.0.0.5".parse().unwrap();
        let here = "127.0.0.1".parse().unwrap();
        let plain = Address::parse("http://localhost:8200").unwrap();
        assert!(plain.allows(here) && !plain.allows(other));
        let tls = Address::parse("https://localhost:8200").unwrap();
        assert!(tls.allows(here) && !tls.allows(other), "nobody named it");
        let named = Address::parse("https://vault.example:8200").unwrap();
        assert!(named.allows(here) && named.allows(other));
        assert!(!named.allows("169.254.169.254".parse().unwrap()));
    }
}
