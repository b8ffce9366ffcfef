//! From a record to its Mailu server: the client, the server's lock, the hash checks ([`live`]).
//!
//! Every call of a mail server's API goes through [`Mail`], and every answer is taken down in the
//! server's `stops`: no caller can forget it.

mod heard;
mod live;
mod place;
pub(super) mod stops;
mod turn;
mod unasked;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use super::locked::LockedTenant;
use super::storage;
use super::storage::record::{Intent, Server, TenantRecord};
use crate::crypto::Sensitive;
use crate::logical::Mount;
use crate::provider::{
    Account, AppTokenId, EmailAddress, EndpointUrl, Login, MailProvider, MailuConfig,
    ProviderConfig, ReadError, Sent, ServerVersion, SmtpAddress, Trouble,
};

use heard::Heard;
use stops::Caller;
use turn::{Closed, Place, Turn, Waiting};

pub(super) use live::Live;
pub(super) use place::{Attempt, ServerPlace, origin_of};
pub(super) use turn::Servers;
pub(super) use unasked::{UnaskedServer, UnaskedServers, Why};

/// A tenant's mail server, held exclusively: one call per server at a time.
pub(super) struct Mail {
    provider: Arc<dyn MailProvider>,
    pub(super) verify_smtp: bool,
    // Held across a call: the next one may go out only when the answer to it is taken down.
    turn: tokio::sync::Mutex<Turn>,
    place: Option<Arc<ServerPlace>>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// For whom a server is called: decides what a stored stop holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The engine's own work: waits for every stop.
    Automatic,
    /// A batch: somebody asked, but nobody looks at this one tenant. Waits for every stop as well;
    /// what fails is in the batch and is not tried again by itself.
    Bulk,
    /// Somebody asked.
    Request,
    /// An emergency.
    Reset,
}

impl Purpose {
    /// Reports whether nobody looks: then stops are waited for, and what a person has to decide is
    /// left to one.
    pub(super) const fn is_unattended(self) -> bool {
        matches!(self, Self::Automatic | Self::Bulk)
    }

    /// For whom a tick works: an emergency that waits is still somebody's.
    pub(super) fn of_the_engine(record: &TenantRecord) -> Self {
        if record.intent.as_ref().is_some_and(Intent::is_emergency) {
            Self::Reset
        } else {
            Self::Automatic
        }
    }
}

impl Mail {
    /// Makes a call that reads, or answers what the server is known to answer.
    async fn read<T>(
        &self,
        heard: impl FnOnce(&Result<T, ReadError>) -> Heard,
        call: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, Error> {
        if self.gives_way() {
            return Err(Error::GaveWay);
        }
        let mut turn = self.turn.lock().await;
        match turn.closed() {
            Some(Closed::Refused(refusal)) => return Err(Error::Refused(refusal)),
            Some(Closed::Trouble(trouble)) => return Err(Error::Unreachable(trouble)),
            None => {}
        }
        let answer = call.await;
        turn.hear(heard(&answer)).await;
        answer.map_err(read_error)
    }

    /// Reports whether an emergency waits for this server, and nothing was sent yet.
    pub(super) fn gives_way(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.gives_way())
    }

    /// Makes a call that changes a password: what it came to is found out before anybody else calls.
    async fn change(&self, call: impl Future<Output = Sent>) -> Sent {
        if let Some(place) = &self.place {
            place.note_send();
        }
        self.send(call).await
    }

    /// Makes a call that changes something, or answers what the server is known to answer.
    async fn send(&self, call: impl Future<Output = Sent>) -> Sent {
        let mut turn = self.turn.lock().await;
        match turn.closed() {
            Some(Closed::Refused(refusal)) => return Sent::Refused(refusal),
            Some(Closed::Trouble(trouble)) => return Sent::Unknown(trouble),
            None => {}
        }
        let sent = call.await;
        turn.hear(Heard::of_sent(&sent)).await;
        sent
    }

    /// See [`MailProvider::account`].
    pub(super) async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, Error> {
        self.read(Heard::of_read, self.provider.account(account))
            .await
    }

    /// See [`MailProvider::set_password`].
    pub(super) async fn set_password(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        self.change(self.provider.set_password(account, password, comment))
            .await
    }

    /// See [`MailProvider::create_account`].
    pub(super) async fn create_account(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        self.change(self.provider.create_account(account, password, comment))
            .await
    }

    /// See [`MailProvider::app_tokens`].
    pub(super) async fn app_tokens(
        &self,
        account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, Error> {
        let heard = |answer: &Result<Option<_>, _>| match answer {
            // The path is not known: nobody looked at the token.
            Ok(None) => Heard::Other,
            // Something was answered, be it a front's page: one tenant's list is no reason to
            // leave the server of others alone.
            Err(ReadError::Trouble(Trouble::Unintelligible)) => Heard::Other,
            Ok(Some(_)) | Err(_) => Heard::of_read(answer),
        };
        self.read(heard, self.provider.app_tokens(account)).await
    }

    /// See [`MailProvider::delete_app_token`].
    pub(super) async fn delete_app_token(&self, token: &AppTokenId) -> Sent {
        // Whether it was deleted is found out at any time: an emergency need not wait for that.
        self.send(self.provider.delete_app_token(token)).await
    }

    /// See [`MailProvider::server_version`]. Asked without a token and not telling why it fails:
    /// nothing is taken down of it.
    pub(super) async fn server_version(&self) -> ServerVersion {
        self.provider.server_version().await
    }

    /// See [`MailProvider::app_tokens_are_open`]. Asked without a token as well.
    pub(super) async fn app_tokens_are_open(&self) -> Option<bool> {
        self.provider.app_tokens_are_open().await
    }

    /// See [`MailProvider::certificate_expires_at`].
    pub(super) fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        self.provider.certificate_expires_at()
    }

    /// See [`MailProvider::login`].
    pub(super) async fn login(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
    ) -> Login {
        self.provider.login(account, password).await
    }

    /// Lets others call the server: what follows is a login, not a call of its API.
    pub(super) fn release_server(&mut self) {
        self.place = None;
    }
}

impl Engine {
    /// Builds a client for `server`, whose place is `place`, or taken if it is free. A refused new
    /// token is charged to `tenant`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] without a call if the server's stops say so; where nobody
    /// looks also [`Error::BreakerOpen`]; [`Error::GaveWay`] if the place is somebody else's.
    pub(super) async fn connect(
        &self,
        tenant: &str,
        mount: &Mount,
        config: &MountConfig,
        server: &Server,
        api_token: Sensitive<String>,
        (purpose, place): (Purpose, Option<Arc<ServerPlace>>),
    ) -> Result<Mail, Error> {
        let policy = self.network_policy(mount, config).await?;
        // Syntax only: the connector checks the address rules, which may have changed since.
        let url = EndpointUrl::parse_stored(&server.mailu_url)
            .map_err(|_checked| Error::Defect("a stored mailu_url does not parse"))?;
        let smtp_address = server
            .smtp_address
            .as_deref()
            .map(SmtpAddress::parse)
            .transpose()
            .map_err(|_checked| Error::Defect("a stored smtp_address does not parse"))?;
        let origin = url.origin();
        let keyring = self.keyring(mount).await?;
        let written_at = server.token_written_at;
        let caller = Caller::new(&keyring, &origin, tenant, &api_token, purpose, written_at);
        let provider = ProviderConfig::Mailu(MailuConfig {
            url,
            ca_cert: server.ca_cert.clone(),
            tls_server_name: server.tls_server_name.clone(),
            smtp_address,
            api_token,
            request_timeout: Duration::from_secs(server.request_timeout_seconds),
        });
        let provider = (self.parts.connector)(&provider, &policy).map_err(|error| {
            let now = self.clock().now();
            self.unasked
                .met((&origin, tenant), Why::Unreachable, now, None);
            Error::invalid(
                "invalid_server",
                format!("{error}. Write <tenant>/config again."),
            )
        })?;
        let place = place.filter(|place| place.is_at(&origin));
        let read = place.as_ref().and_then(|place| place.take_waiting(&caller));
        let waiting = match read {
            Some(waiting) => waiting,
            None => Waiting::begin(self.place_of(mount, &origin, tenant), caller).await?,
        };
        let place = place.or_else(|| self.try_take_server(&origin, purpose));
        let place = place.ok_or(Error::GaveWay)?;
        let turn = waiting.admit().await?;
        Ok(Mail {
            provider,
            verify_smtp: server.verify_smtp,
            turn: tokio::sync::Mutex::new(turn),
            place: Some(place),
        })
    }

    fn place_of(&self, mount: &Mount, origin: &str, tenant: &str) -> Place {
        Place {
            storage: Arc::clone(&mount.storage),
            clock: Arc::clone(&self.parts.clock),
            servers: self.servers.clone(),
            key: storage::server_key(origin),
            server: origin.to_owned(),
            unasked: self.unasked.clone(),
            tenant: tenant.to_owned(),
        }
    }
}

impl LockedTenant {
    /// Returns when a person's next call with the record's token would be made, if it is held back
    /// now. Asks nobody.
    ///
    /// # Errors
    ///
    /// That storage failed, or that the token does not open.
    pub(super) async fn held_until(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let Some(server) = &self.record.server else {
            return Ok(None);
        };
        let url = EndpointUrl::parse_stored(&server.mailu_url)
            .map_err(|_checked| Error::Defect("a stored mailu_url does not parse"))?;
        let origin = url.origin();
        let token = self.open_token(&server.api_token)?;
        let keyring = self.engine.keyring(&self.mount).await?;
        let caller = Caller::new(
            &keyring,
            &origin,
            self.name.as_str(),
            &token,
            Purpose::Request,
            server.token_written_at,
        );
        let place = self
            .engine
            .place_of(&self.mount, &origin, self.name.as_str());
        place.held_until(&caller).await
    }

    /// Connects to the record's server.
    ///
    /// # Errors
    ///
    /// A 400 `no_server` if none is configured.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Mail, Error> {
        let server = self.record.server.as_ref().ok_or_else(no_server)?;
        let token = self.open_token(&server.api_token)?;
        self.engine
            .connect(
                self.name.as_str(),
                &self.mount,
                &self.config,
                server,
                token,
                (purpose, self.place.clone()),
            )
            .await
    }
}

/// The error of everything that needs a server where none is configured.
pub(super) fn no_server() -> Error {
    Error::invalid(
        "no_server",
        "this tenant has no Mailu server yet. Write mailu_url and api_token to <tenant>/config \
         first.",
    )
}

/// Parses a stored username.
pub(super) fn address(username: &str) -> Result<EmailAddress, Error> {
    EmailAddress::parse(username)
        .map_err(|_checked| Error::Defect("a stored username is not an address"))
}

/// A failed read, as the caller sees it.
pub(super) const fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Refused(refusal) => Error::Refused(refusal),
        ReadError::Trouble(trouble) => Error::Unreachable(trouble),
    }
}
