//! One SMTP AUTH: the full path a mail client takes.
//!
//! A failed login counts against the account at Mailu's limiter, so the caller decides when one is
//! worth it. A refusal proves little: wrong, disabled, locked and tokens-only look the same. What
//! must stay true: the password goes through verified TLS only, and an acceptance came through it
//! too.

use std::time::Duration;

use futures_util::FutureExt;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;

use crate::crypto::Sensitive;
use crate::provider::registry::{ConnectError, MailuConfig};
use crate::provider::tls::{CaError, parse_ca, parse_server_name};
use crate::provider::{EmailAddress, Login, NetworkPolicy, SmtpAddress};

/// "Authentication credentials invalid". Source: RFC 4954, section 6.
const CREDENTIALS_INVALID: u16 = 535;

/// How long the farewell after the verdict may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way to one SMTP submission service.
pub(super) struct SmtpLogin {
    address: SmtpAddress,
    /// Whether TLS begins with the first byte.
    pub(super) implicit_tls: bool,
    tls: TlsParameters,
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
        let name = match &config.tls_server_name {
            Some(name) => parse_server_name(name)?,
            None => address.host().to_owned(),
        };
        let builder = TlsParameters::builder(name);
        let builder = match &config.ca_cert {
            Some(pem) => {
                parse_ca(pem)?;
                let roots = Certificate::from_pem(pem.as_bytes())
                    .map_err(|_no_text| ConnectError::Ca(CaError::Malformed))?;
                builder
                    .certificate_store(CertificateStore::None)
                    .add_root_certificate(roots)
            }
            None => builder.certificate_store(CertificateStore::WebpkiRoots),
        };
        let tls = builder
            .build_rustls()
            .map_err(|_no_text| ConnectError::Client)?;
        Ok(Some(Self {
            address: address.clone(),
            implicit_tls: address.implicit_tls(),
            tls,
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
        let Ok(Some((verdict, mut connection))) = tokio::time::timeout(self.timeout, attempt).await
        else {
            return Login::CannotTell;
        };
        // The verdict stands, however the connection ends.
        let _farewell = tokio::time::timeout(FAREWELL, connection.quit()).await;
        verdict
    }

    async fn authenticate(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
    ) -> Option<(Login, AsyncSmtpConnection)> {
        let (host, port) = (self.address.host(), self.address.port());
        let addresses = self.policy.resolve(host, port).await.ok()?;
        let hello = ClientId::default();
        let first = self.implicit_tls.then(|| self.tls.clone());
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            addresses.as_slice(),
            Some(self.timeout),
            &hello,
            first,
            None,
        )
        .await
        .ok()?;
        if !connection.is_encrypted() {
            connection.starttls(self.tls.clone(), &hello).await.ok()?;
            // Somebody on the path may have sent answers ahead of the handshake, in clear; the
            // SMTP client keeps them and would take them for the server's. Nothing was asked, so
            // an answer that is there already is such a one.
            if connection.read_response().now_or_never().is_some() {
                return None;
            }
        }
        if !connection.is_encrypted() {
            return None;
        }
        let credentials = Credentials::new(account.as_str().to_owned(), password.expose().clone());
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let verdict = match connection.auth(&mechanisms, &credentials).await {
            Ok(response) if response.has_code(235) => Login::Accepted,
            Err(error) if error.status().map(u16::from) == Some(CREDENTIALS_INVALID) => {
                Login::Refused
            }
            Ok(_) | Err(_) => Login::CannotTell,
        };
        Some((verdict, connection))
    }
}
