//! From a channel's configuration to a channel: the one list of the ways to tell people.

use std::fmt;
use std::sync::Arc;

use super::Channel;
use super::email::Email;
use super::slack::Slack;
use super::webhook::Webhook;
use crate::crypto::Sensitive;
use crate::network::{AddressRefusal, CaError, NetworkPolicy, ServerNameError, WebUrl};

/// What is needed to use one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelConfig {
    /// Mail over a relay or submission server.
    Email(EmailConfig),
    /// An incoming webhook of Slack, or of a chat that takes the same.
    Slack(SlackConfig),
    /// A signed JSON document.
    Webhook(WebhookConfig),
}

/// What is needed to send mail.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailConfig {
    /// The mail server: a host name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// The name the certificate must carry instead of the host's.
    pub tls_server_name: Option<String>,
    /// PEM certificates that replace the public roots.
    pub ca_cert: Option<String>,
    /// How to log in, if the server wants it.
    pub login: Option<MailLogin>,
    /// What the engine calls itself in EHLO; `None` = this host's full name or its address.
    pub ehlo_name: Option<String>,
    /// The sender's address.
    pub from: String,
    /// Whom messages to [`super::Recipient::Channel`] go to.
    pub to: Vec<String>,
}

impl fmt::Debug for EmailConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmailConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("login", &self.login.is_some())
            .field("from", &self.from)
            .field("to", &self.to.len())
            .finish_non_exhaustive()
    }
}

/// User name and password at a mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailLogin {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Sensitive<String>,
}

/// How a connection to a mail server is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// It begins in clear and must be upgraded before anything is said.
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// None: only to a loopback address, and only in development.
    None,
}

/// What is needed to write to a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlackConfig {
    /// The incoming webhook; whoever knows it may write.
    pub url: WebUrl,
    /// PEM certificates that replace the public roots.
    pub ca_cert: Option<String>,
}

/// What is needed to call a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where the document is posted.
    pub url: WebUrl,
    /// The key of the signature; its UTF-8 bytes are used.
    pub hmac_key: Sensitive<String>,
    /// PEM certificates that replace the public roots.
    pub ca_cert: Option<String>,
}

/// Why no channel can be made from a configuration; nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address rules forbid the host.
    #[error("{0}")]
    Address(#[from] AddressRefusal),
    /// No TLS without the development policy, or not to loopback.
    #[error("without TLS only a loopback address is called, and only in development")]
    PlainText,
    /// The CA certificate.
    #[error("{0}")]
    Ca(#[from] CaError),
    /// The name to verify.
    #[error("{0}")]
    ServerName(#[from] ServerNameError),
    /// A mail address that cannot stand in a header.
    #[error("a mail address is not one")]
    MailAddress,
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client,
}

/// Makes a channel from a configuration, under the address rules of the moment. Tests put recording
/// channels here.
///
/// Does no network work: resolving and connecting happen in each delivery.
pub type Notifier = Arc<
    dyn Fn(&ChannelConfig, &NetworkPolicy) -> Result<Arc<dyn Channel>, ConnectError> + Send + Sync,
>;

/// Returns the notifier for real channels.
#[must_use]
pub fn notifier() -> Notifier {
    Arc::new(|config, policy| {
        Ok(match config {
            ChannelConfig::Email(config) => Arc::new(Email::new(config, policy)?),
            ChannelConfig::Slack(config) => Arc::new(Slack::new(config, policy)?),
            ChannelConfig::Webhook(config) => Arc::new(Webhook::new(config, policy)?),
        })
    })
}
