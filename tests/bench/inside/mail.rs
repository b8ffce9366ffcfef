//! Mail servers of the benchmarks: an answer after a given time, real hashes that cost this machine
//! nothing when they are made, and servers that hang.
//!
//! A Mailu hashes on its own machine. Here the passwords are known beforehand (a password policy
//! hands them out), so their hashes are made before anything is measured.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::provider::{
    Account, AppTokenId, Connector, EmailAddress, Login, MailProvider, ProviderConfig, ReadError,
    Refusal, Sent, ServerVersion, StoredHash, Trouble,
};

/// How long a hanging server is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Every mail server. Clones share them.
#[derive(Clone, Default)]
pub struct Mail(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    latency: Duration,
    /// Hashes that were made before, by password.
    hashes: HashMap<String, String>,
    hasher: Option<fn(&str) -> String>,
    /// Accounts by server: the password's hash and the comment.
    accounts: HashMap<String, (String, String)>,
    hanging: HashSet<String>,
    calls: u64,
    /// When passwords were set, by server.
    set: Vec<(String, Instant)>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mail")
    }
}

impl Mail {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Learns hashes that were made before.
    pub fn learn(&self, hashes: impl IntoIterator<Item = (String, String)>) {
        self.state().hashes.extend(hashes);
    }

    /// From now on hashes passwords that it has not learnt.
    #[allow(dead_code, reason = "for bench-plugin, which shares this file")]
    pub fn hash_by(&self, hasher: fn(&str) -> String) {
        self.state().hasher = Some(hasher);
    }

    /// Like [`Mail::put`] if there is no such account yet.
    #[allow(dead_code, reason = "for bench-plugin, which shares this file")]
    pub fn know(&self, server: &str, password: &str) {
        if !self.state().accounts.contains_key(server) {
            self.put(server, password);
        }
    }

    /// Adds an account with a password whose hash is known.
    pub fn put(&self, server: &str, password: &str) {
        let mut state = self.state();
        let hash = state.hashes[password].clone();
        let account = (hash, String::new());
        state.accounts.insert(server.to_owned(), account);
    }

    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    pub fn hang(&self, server: &str) {
        self.state().hanging.insert(server.to_owned());
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many passwords were set, and when the last one.
    pub fn last_set(&self) -> (usize, Option<Instant>) {
        let state = self.state();
        (state.set.len(), state.set.iter().map(|it| it.1).max())
    }

    pub fn connector(&self) -> Connector {
        let mail = self.clone();
        Arc::new(move |config, _policy| {
            let ProviderConfig::Mailu(config) = config;
            Ok(Arc::new(Client {
                mail: mail.clone(),
                server: config.url.as_str().to_owned(),
            }) as Arc<dyn MailProvider>)
        })
    }
}

#[derive(Debug)]
pub struct Client {
    pub mail: Mail,
    pub server: String,
}

impl Client {
    async fn answer(&self) -> Result<(), Trouble> {
        let (latency, hangs) = {
            let mut state = self.mail.state();
            state.calls += 1;
            (state.latency, state.hanging.contains(&self.server))
        };
        if hangs {
            tokio::time::sleep(TIMEOUT).await;
            return Err(Trouble::Timeout);
        }
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
        Ok(())
    }
}

#[async_trait]
impl MailProvider for Client {
    async fn set_password(
        &self,
        _account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        if let Err(trouble) = self.answer().await {
            return Sent::Unknown(trouble);
        }
        let mut state = self.mail.state();
        let hash = match (state.hasher, state.hashes.get(password.expose())) {
            (Some(hash), None) => hash(password.expose()),
            _ => state.hashes[password.expose()].clone(),
        };
        let account = state.accounts.get_mut(&self.server).unwrap();
        account.0 = hash;
        if let Some(comment) = comment {
            comment.clone_into(&mut account.1);
        }
        state.set.push((self.server.clone(), Instant::now()));
        Sent::Acknowledged
    }

    async fn create_account(
        &self,
        _account: &EmailAddress,
        _password: &Sensitive<String>,
        _comment: Option<&str>,
    ) -> Sent {
        unreachable!("every account exists");
    }

    async fn account(&self, _account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        self.answer().await.map_err(ReadError::Trouble)?;
        let (hash, comment) = self.mail.state().accounts[&self.server].clone();
        Ok(Some(Account {
            hash: Some(StoredHash::new(hash)),
            enabled: true,
            comment,
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
        self.answer().await.map_err(ReadError::Trouble)?;
        Ok(Some(Vec::new()))
    }

    async fn delete_app_token(&self, _token: &AppTokenId) -> Sent {
        Sent::Refused(Refusal::NoSuchAppToken)
    }

    async fn server_version(&self) -> ServerVersion {
        match self.answer().await {
            Ok(()) => ServerVersion::Mailu2024,
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
