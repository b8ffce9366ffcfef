//! [`WebUrl`]: a URL that is called as it is written, and may be a secret itself.

use std::fmt;

use super::endpoint::{Checked, EndpointError, Query, Scheme, checked};
use super::http::Peer;
use super::policy::NetworkPolicy;
use crate::crypto::Sensitive;

/// A checked URL with its path. Only its origin is ever shown: whoever knows the path of an
/// incoming webhook may write there.
#[derive(Clone, PartialEq, Eq)]
pub struct WebUrl {
    text: Sensitive<String>,
    is_secret: bool,
    scheme: Scheme,
    host: String,
    port: u16,
}

impl WebUrl {
    /// Parses a URL: https, no credentials, no fragment, nothing that had to be repaired. It may have
    /// a query, as those of many chats do.
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
        } = checked(text, Query::Allowed)?;
        if scheme == Scheme::Http && !policy.allows_plain(&host) {
            return Err(EndpointError::Scheme);
        }
        policy.check_literal(&host, port)?;
        Ok(Self {
            is_secret: url.query().is_some(),
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

    /// Reports whether the URL is a secret whatever it is used for: a query carries keys.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.is_secret
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
        assert!(!url.is_secret());
        for text in [
            "https://chat.example/v1/spaces/A/messages?key=k-e_y&token=to%2Fken%3D",
            "https://prod-1.chat.example:8443/workflows/a/triggers/manual/paths/invoke?sv=1.0&sig=s",
            "https://zulip.example/api/v1/external/slack?api_key=k&stream=a/../b",
            "https://zulip.example/?",
        ] {
            let url = WebUrl::parse(text, &policy).unwrap();
            assert_eq!(url.expose().expose(), text);
            assert!(url.is_secret(), "{text}");
            let shown = format!("{} {url:?}", url.origin());
            assert!(!shown.contains('?') && !shown.contains("key"), "{shown}");
        }
        for refused in [
            "http://hooks.chat.example/x",
            "https://user:word@hooks.chat.example/x",
            "https://user@hooks.chat.example/x?token=1",
            "https://hooks.chat.example/x#part",
            "https://hooks.chat.example/x?token=1#part",
            "https://hooks.chat.example/x?token=a b",
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
