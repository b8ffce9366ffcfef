//! The mail servers: real hashes, a usual latency, and whatever is wrong with them at the moment.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use vault_plugin_secrets_smtp::clock::Clock;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::provider::{
    Account, AppTokenId, Connector, EmailAddress, Login, MailProvider, ProviderConfig, ReadError,
    Refusal, Sent, ServerVersion, StoredHash, TlsFault, Trouble,
};

use super::clock::SimulatedClock;
use super::node::Life;

/// The cheapest rounds of bcrypt.
const ROUNDS: u32 = 4;
/// How long an answer takes.
pub(super) const LATENCY: Duration = Duration::from_millis(150);
/// How long a server that does not answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    /// Answers nothing in time.
    Silent,
    /// 500 to everything.
    Broken,
    /// Another token is set there.
    Refusing,
    /// Its certificate has expired.
    Expired,
}

/// Every mail server. Clones share them.
#[derive(Clone)]
pub(super) struct Mail(Arc<Shared>);

struct Shared {
    clock: Arc<SimulatedClock>,
    hash: fn(&str, u32) -> String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: HashMap<String, Server>,
    /// When which tenant's password became another one, in the order in which it happened.
    changes: Vec<(usize, DateTime<Utc>)>,
    /// Calls that came, to servers that are well.
    calls: u64,
    /// Calls that came to servers that are not.
    failed: u64,
    changing: usize,
    most_changing: usize,
}

struct Server {
    health: Health,
    accounts: Vec<Mailbox>,
}

#[derive(Clone)]
struct Mailbox {
    tenant: usize,
    address: String,
    password: String,
    hash: String,
    comment: String,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mail")
    }
}

impl Mail {
    pub(super) fn new(clock: &Arc<SimulatedClock>, hash: fn(&str, u32) -> String) -> Self {
        Self(Arc::new(Shared {
            clock: Arc::clone(clock),
            hash,
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Adds a tenant's account.
    pub(super) fn put(&self, server: &str, tenant: usize, address: &str, password: &str) {
        let mailbox = Mailbox {
            tenant,
            address: address.to_owned(),
            password: password.to_owned(),
            hash: (self.0.hash)(password, ROUNDS),
            comment: String::new(),
        };
        let mut state = self.state();
        let server = state.servers.entry(server.to_owned());
        let server = server.or_insert_with(|| Server {
            health: Health::Well,
            accounts: Vec::new(),
        });
        server.accounts.push(mailbox);
    }

    pub(super) fn set_health(&self, server: &str, health: Health) {
        self.state().servers.get_mut(server).unwrap().health = health;
    }

    /// What logs in to the account.
    pub(super) fn live(&self, server: &str, address: &str) -> String {
        let state = self.state();
        let accounts = &state.servers[server].accounts;
        let found = accounts.iter().find(|it| it.address == address);
        found.unwrap().password.clone()
    }

    /// Takes the changes since the last call of this.
    pub(super) fn take_changes(&self) -> Vec<(usize, DateTime<Utc>)> {
        std::mem::take(&mut self.state().changes)
    }

    /// How many calls came to servers that were well and to those that were not.
    pub(super) fn calls(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls, state.failed)
    }

    /// How many passwords were being set at the same time, at most.
    pub(super) fn most_changing(&self) -> usize {
        self.state().most_changing
    }

    /// Clients for a process.
    pub(super) fn connector(&self, life: &Life) -> Connector {
        let (mail, life) = (self.clone(), life.clone());
        Arc::new(move |config, _policy| {
            let ProviderConfig::Mailu(config) = config;
            Ok(Arc::new(Client {
                mail: mail.clone(),
                server: config.url.as_str().to_owned(),
                life: life.clone(),
            }) as Arc<dyn MailProvider>)
        })
    }
}

#[derive(Debug)]
struct Client {
    mail: Mail,
    server: String,
    life: Life,
}

/// Why a call has no answer of its own.
enum Failure {
    Refused(Refusal),
    Trouble(Trouble),
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Trouble(trouble) => Self::Trouble(trouble),
        }
    }
}

impl From<Failure> for Sent {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Trouble(trouble) => Self::Unknown(trouble),
        }
    }
}

impl Client {
    /// The way to the server, and what is wrong there.
    async fn arrive(&self) -> Result<(), Failure> {
        self.life.alive().await;
        let health = {
            let mut state = self.mail.state();
            let health = state.servers[&self.server].health;
            if health == Health::Well {
                state.calls += 1;
            } else {
                state.failed += 1;
            }
            health
        };
        match health {
            Health::Well => {
                tokio::time::sleep(LATENCY / 2).await;
                self.life.alive().await;
                Ok(())
            }
            Health::Silent => {
                tokio::time::sleep(TIMEOUT).await;
                Err(Failure::Trouble(Trouble::Timeout))
            }
            Health::Broken => {
                tokio::time::sleep(LATENCY).await;
                Err(Failure::Trouble(Trouble::ServerError))
            }
            Health::Refusing => {
                tokio::time::sleep(LATENCY).await;
                Err(Failure::Refused(Refusal::Token))
            }
            Health::Expired => {
                tokio::time::sleep(LATENCY).await;
                Err(Failure::Trouble(Trouble::Tls(TlsFault::Expired)))
            }
        }
    }

    /// The way back.
    async fn leave(&self) {
        tokio::time::sleep(LATENCY / 2).await;
        self.life.alive().await;
    }

    fn mailbox(&self, account: &EmailAddress) -> Option<Mailbox> {
        let state = self.mail.state();
        let accounts = &state.servers[&self.server].accounts;
        let found = accounts.iter().find(|it| it.address == account.as_str());
        found.cloned()
    }
}

#[async_trait]
impl MailProvider for Client {
    async fn set_password(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        {
            let mut state = self.mail.state();
            state.changing += 1;
            state.most_changing = state.most_changing.max(state.changing);
        }
        let arrived = self.arrive().await;
        let sent = match arrived {
            Err(failure) => failure.into(),
            Ok(()) => {
                let hash = (self.mail.0.hash)(password.expose(), ROUNDS);
                let now = self.mail.0.clock.now();
                let known = {
                    let mut state = self.mail.state();
                    let state = &mut *state;
                    let server = state.servers.get_mut(&self.server).unwrap();
                    let mut accounts = server.accounts.iter_mut();
                    let mailbox = accounts.find(|it| it.address == account.as_str());
                    mailbox.map(|mailbox| {
                        let changed = mailbox.password != *password.expose();
                        mailbox.password.clone_from(password.expose());
                        mailbox.hash = hash;
                        if let Some(comment) = comment {
                            comment.clone_into(&mut mailbox.comment);
                        }
                        let tenant = mailbox.tenant;
                        if changed {
                            state.changes.push((tenant, now));
                        }
                    })
                };
                self.leave().await;
                known.map_or(Sent::Refused(Refusal::NoSuchAccount), |()| {
                    Sent::Acknowledged
                })
            }
        };
        self.mail.state().changing -= 1;
        sent
    }

    async fn create_account(
        &self,
        _account: &EmailAddress,
        _password: &Sensitive<String>,
        _comment: Option<&str>,
    ) -> Sent {
        unreachable!("every account exists");
    }

    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        self.arrive().await?;
        let mailbox = self.mailbox(account);
        self.leave().await;
        Ok(mailbox.map(|mailbox| Account {
            hash: Some(StoredHash::new(mailbox.hash)),
            enabled: true,
            comment: mailbox.comment,
            forwarding: false,
            auto_reply: false,
            change_at_login: false,
            administrator: Some(true),
        }))
    }

    async fn app_tokens(
        &self,
        _account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError> {
        self.arrive().await?;
        self.leave().await;
        Ok(Some(Vec::new()))
    }

    async fn delete_app_token(&self, _token: &AppTokenId) -> Sent {
        Sent::Refused(Refusal::NoSuchAppToken)
    }

    async fn server_version(&self) -> ServerVersion {
        match self.arrive().await {
            Ok(()) => {
                self.leave().await;
                ServerVersion::Mailu2024
            }
            Err(_) => ServerVersion::Unknown,
        }
    }

    async fn app_tokens_are_open(&self) -> Option<bool> {
        None
    }

    fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        None
    }

    async fn login(&self, _account: &EmailAddress, _password: &Sensitive<String>) -> Login {
        Login::CannotTell
    }
}
