//! [`WebUrl`]: a URL that is called as it is written, and may be a secret itself.

use std::fmt;

use super::endpoint::{Checked, EndpointError, Scheme, checked};
use super::http::Peer;
use super::policy::NetworkPolicy;
use crate::crypto::Sensitive;

/// A checked URL with its path. Only its origin is ever shown: whoever knows the path of an
/// incoming webhook may write there.
#[derive(Clone, PartialEq, Eq)]
pub struct WebUrl {
    text: Sensitive<String>,
    scheme: Scheme,
    host: String,
    port: u16,
}

impl WebUrl {
    /// Parses a URL: https, no credentials, no query, no fragment, nothing that had to be repaired.
    ///
    /// # Errors
    ///
    /// [`EndpointError`]; addresses that `policy` forbids are refused here, before any network.
    pub fn parse(text: &str, policy: &NetworkPolicy) -> Result<Self, EndpointError> {
        let Checked {
            url,
            scheme,
            host,
            port,
        } = checked(text)?;
        if scheme == Scheme::Http && !policy.allows_plain(&host) {
            return Err(EndpointError::Scheme);
        }
        policy.check_literal(&host, port)?;
        Ok(Self {
            text: Sensitive::new(url.into()),
            scheme,
            host,
            port,
        })
    }

    /// Returns the whole URL.
    #[must_use]
    pub const fn expose(&self) -> &Sensitive<String> {
        &self.text
    }

    /// Returns `scheme://host:port`, which is no secret.
    #[must_use]
    pub fn origin(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("{}://{host}:{}", self.scheme.as_str(), self.port)
    }

    /// Returns whom to connect to.
    pub(crate) fn peer(&self) -> Peer<'_> {
        Peer {
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
        }
    }
}

impl fmt::Debug for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebUrl").field(&self.origin()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_called_as_written_and_shown_without_its_path() {
        let policy = NetworkPolicy::default();
        let url = WebUrl::parse("https://Hooks.Chat.example/services/T0/B0/secret", &policy);
        let url = url.unwrap();
        assert_eq!(
            url.expose().expose(),
            "https://hooks.chat.example/services/T0/B0/secret"
        );
        assert_eq!(url.origin(), "https://hooks.chat.example:443");
        assert!(!format!("{url:?}").contains("secret"));
        for refused in [
            "http://hooks.chat.example/x",
            "https://user:word@hooks.chat.example/x",
            "https://hooks.chat.example/x?token=1",
            "https://127.0.0.1/x",
            "https://169.254.169.254/x",
            "https://10.0.0.1/x",
            "https://hooks.chat.example/a/../b",
            "hooks.chat.example/x",
        ] {
            assert!(WebUrl::parse(refused, &policy).is_err(), "{refused}");
        }
    }
}
