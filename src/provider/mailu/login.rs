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
use crate::network::connect::connect;
use crate::network::hello_name::hello_name;
use crate::network::smtp::{Dialogue, Failed, SmtpStage};
use crate::network::tls::{ServerNameError, client_config, parse_server_name};
use crate::provider::registry::{ConnectError, MailuConfig};
use crate::provider::{
    EmailAddress, Fault, Login, LoginFault, NetworkPolicy, SmtpAddress, TlsFault,
};

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
        let (verdict, mut dialogue) = match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(fault)) => return Login::Failed(fault),
            Err(_elapsed) => return Login::Failed(LoginFault::Unreachable(Fault::Timeout)),
        };
        // The verdict stands, however the connection ends.
        let _farewell = tokio::time::timeout(FAREWELL, dialogue.quit()).await;
        verdict
    }

    async fn authenticate(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
    ) -> Result<(Login, Dialogue<TlsStream<TcpStream>>), LoginFault> {
        let (name, mut dialogue) = self.connect().await?;
        let offer = dialogue.hello(&name).await?;
        let mechanism = offer.mechanism.ok_or(LoginFault::NotOffered)?;
        let code = dialogue
            .authenticate(mechanism, account.as_str(), password)
            .await?;
        let verdict = match code {
            SUCCEEDED => Login::Accepted,
            CREDENTIALS_INVALID => Login::Refused,
            code => Login::Failed(SmtpStage::Login.failed(code).into()),
        };
        Ok((verdict, dialogue))
    }

    /// Connects and shakes hands; there is no way to a dialogue about a password but through here.
    /// Gives the name to say over this connection, too.
    async fn connect(&self) -> Result<(String, Dialogue<TlsStream<TcpStream>>), LoginFault> {
        let (host, port) = (self.address.host(), self.address.port());
        let addresses = self.policy.resolve(host, port).await?;
        let stream = connect(&addresses, self.timeout).await?;
        let local = stream.local_addr().map_err(|_no_text| Fault::Broken)?;
        let name = hello_name(None, local.ip());
        if self.implicit_tls {
            let mut dialogue = self.secure(stream).await?;
            dialogue.greeting().await?;
            return Ok((name, dialogue));
        }
        let mut plain = Dialogue::new(stream);
        plain.greeting().await?;
        if !plain.hello(&name).await?.starttls {
            return Err(LoginFault::NotOffered);
        }
        let dialogue = self.secure(plain.start_tls().await?).await?;
        Ok((name, dialogue))
    }

    async fn secure(&self, stream: TcpStream) -> Result<Dialogue<TlsStream<TcpStream>>, Fault> {
        match self.tls.connect(self.name.clone(), stream).await {
            Ok(stream) => Ok(Dialogue::new(stream)),
            Err(error) => Err(TlsFault::of(&error).map_or(Fault::Broken, Fault::Tls)),
        }
    }
}

impl From<Failed> for LoginFault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Broken => Self::Unreachable(Fault::Broken),
            Failed::Said(reply) => Self::Said(reply),
        }
    }
}
