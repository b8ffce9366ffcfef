//! From a provider's configuration to a client: the one list of mail servers the engine knows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::MailProvider;
use super::mailu::MailuClient;
use crate::crypto::Sensitive;
use crate::network::{
    AddressRefusal, CaError, EndpointUrl, NetworkPolicy, ServerNameError, SmtpAddress,
};

/// What is needed to reach one mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderConfig {
    /// A Mailu server with its admin API.
    Mailu(MailuConfig),
}

/// What is needed to reach one Mailu server.
#[derive(Clone, PartialEq, Eq)]
pub struct MailuConfig {
    /// The server's URL.
    pub url: EndpointUrl,
    /// PEM certificates that replace the public roots; see [`super::parse_ca`].
    pub ca_cert: Option<String>,
    /// The name that the certificate must carry instead of the host's; see
    /// [`super::parse_server_name`].
    pub tls_server_name: Option<String>,
    /// Where [`MailProvider::login`] logs in.
    pub smtp_address: Option<SmtpAddress>,
    /// The server's one API token, without `Bearer`.
    pub api_token: Sensitive<String>,
    /// How long one call may take, from resolving the name to the last byte.
    pub request_timeout: Duration,
}

impl fmt::Debug for MailuConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailuConfig")
            .field("url", &self.url.as_str())
            .field("ca_cert", &self.ca_cert.is_some())
            .field("tls_server_name", &self.tls_server_name)
            .field("smtp_address", &self.smtp_address)
            .field("api_token", &self.api_token)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// Why no client can be made from a configuration; nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address rules forbid the URL or the SMTP address.
    #[error("{0}")]
    Address(#[from] AddressRefusal),
    /// Plain http without the development policy.
    #[error("plain http is for development only")]
    PlainHttp,
    /// The CA certificate.
    #[error("{0}")]
    Ca(#[from] CaError),
    /// The server name.
    #[error("{0}")]
    ServerName(#[from] ServerNameError),
    /// The token is empty or cannot stand in a header.
    #[error("the API token must be printable ASCII without spaces")]
    Token,
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built")]
    Client,
}

/// Checks that an API token can be sent: printable ASCII without spaces, not empty.
///
/// # Errors
///
/// [`ConnectError::Token`] for any other text.
pub fn check_token(token: &Sensitive<String>) -> Result<(), ConnectError> {
    let token = token.expose();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ConnectError::Token);
    }
    Ok(())
}

/// Makes a client from a configuration, under the address rules of the moment. Tests put failing
/// providers here.
///
/// Does no network work: resolving and connecting happen in each call.
pub type Connector = Arc<
    dyn Fn(&ProviderConfig, &NetworkPolicy) -> Result<Arc<dyn MailProvider>, ConnectError>
        + Send
        + Sync,
>;

/// Returns the connector for real servers.
#[must_use]
pub fn connector() -> Connector {
    Arc::new(|config, policy| match config {
        ProviderConfig::Mailu(config) => {
            let client = MailuClient::new(config, policy)?;
            Ok(Arc::new(client) as Arc<dyn MailProvider>)
        }
    })
}
