//! One SMTP AUTH: the full path a mail client takes.
//!
//! A failed login counts against the account at Mailu's limiter, so the caller decides when one is
//! worth it. A refusal proves little: wrong, disabled, locked and tokens-only look the same. What
//! must stay true: the password goes through verified TLS only, to who shows a certificate for the
//! host of the API, and an acceptance came through it too.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::crypto::Sensitive;
use crate::network::smtp::{Broken, Dialogue};
use crate::network::tls::{ServerNameError, client_config, parse_server_name};
use crate::provider::registry::{ConnectError, MailuConfig};
use crate::provider::{EmailAddress, Login, NetworkPolicy, SmtpAddress};

/// "Authentication succeeded". Source: RFC 4954, section 6.
const SUCCEEDED: u16 = 235;
/// "Authentication credentials invalid". Source: RFC 4954, section 6.
const CREDENTIALS_INVALID: u16 = 535;

/// How long the farewell after the verdict may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way to one SMTP submission service.
pub(super) struct SmtpLogin {
    address: SmtpAddress,
    /// Whether TLS begins with the first byte.
    pub(super) implicit_tls: bool,
    tls: TlsConnector,
    /// The name the certificate must carry.
    name: ServerName<'static>,
    timeout: Duration,
    policy: NetworkPolicy,
}

impl SmtpLogin {
    /// Prepares the way if the configuration has an SMTP address; does no network work.
    pub(super) fn new(
        config: &MailuConfig,
        policy: &NetworkPolicy,
    ) -> Result<Option<Self>, ConnectError> {
        let Some(address) = &config.smtp_address else {
            return Ok(None);
        };
        policy.check_literal(address.host(), address.port())?;
        // Not the address's own: whoever may choose an address would choose one that answers any
        // password. The service is the server's if it shows the server's certificate.
        let name = match &config.tls_server_name {
            Some(name) => parse_server_name(name)?,
            None => config.url.host().to_owned(),
        };
        let name = ServerName::try_from(name).map_err(|_no_text| ServerNameError)?;
        let tls = client_config(config.ca_cert.as_deref())?;
        Ok(Some(Self {
            address: address.clone(),
            implicit_tls: address.implicit_tls(),
            tls: TlsConnector::from(Arc::new(tls)),
            name,
            timeout: config.request_timeout,
            policy: policy.clone(),
        }))
    }

    /// Logs in once, and out again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the server may still count the attempt.
    pub(super) async fn attempt(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
    ) -> Login {
        // PLAIN cannot carry NUL, Mailu stores line ends and cannot log in with them.
        if password.expose().chars().any(char::is_control) {
            return Login::CannotTell;
        }
        let attempt = self.authenticate(account, password);
        let Ok(Ok((verdict, mut dialogue))) = tokio::time::timeout(self.timeout, attempt).await
        else {
            return Login::CannotTell;
        };
        // The verdict stands, however the connection ends.
        let _farewell = tokio::time::timeout(FAREWELL, dialogue.quit()).await;
        verdict
    }

    async fn authenticate(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
    ) -> Result<(Login, Dialogue<TlsStream<TcpStream>>), Broken> {
        let mut dialogue = self.connect().await?;
        let mechanism = dialogue.hello().await?.mechanism.ok_or(Broken)?;
        let code = dialogue
            .authenticate(mechanism, account.as_str(), password)
            .await?;
        let verdict = match code {
            SUCCEEDED => Login::Accepted,
            CREDENTIALS_INVALID => Login::Refused,
            // "Transient negative completion". Source: RFC 5321, section 4.2.1.
            400..=499 => Login::NotNow,
            _ => Login::CannotTell,
        };
        Ok((verdict, dialogue))
    }

    /// Connects and shakes hands; there is no way to a dialogue about a password but through here.
    async fn connect(&self) -> Result<Dialogue<TlsStream<TcpStream>>, Broken> {
        let (host, port) = (self.address.host(), self.address.port());
        let addresses = self.policy.resolve(host, port).await;
        let addresses = addresses.map_err(|_trouble| Broken)?;
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        if self.implicit_tls {
            let mut dialogue = self.secure(stream).await?;
            dialogue.greeting().await?;
            return Ok(dialogue);
        }
        let mut plain = Dialogue::new(stream);
        plain.greeting().await?;
        if !plain.hello().await?.starttls {
            return Err(Broken);
        }
        self.secure(plain.start_tls().await?).await
    }

    async fn secure(&self, stream: TcpStream) -> Result<Dialogue<TlsStream<TcpStream>>, Broken> {
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        Ok(Dialogue::new(stream))
    }
}
