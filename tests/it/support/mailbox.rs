//! Mail servers in memory, for tests that need thousands of them: no HTTP and no TLS, but the
//! stand-in's real password hashes. What they imitate is what the Mailu client makes of a server:
//! an effect, an answer, and no sure relation between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::faults::{Fault, Kind, Plan};
use super::mailu::standin::hash_password;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::provider::{
    Account, AppTokenId, Connector, EmailAddress, Login as Proven, MailProvider, ProviderConfig,
    ReadError, Refusal, Sent, ServerVersion, StoredHash, Trouble,
};

/// The cheapest rounds of bcrypt.
const ROUNDS: u32 = 4;
/// Other rounds than those of today.
const OUTDATED_ROUNDS: u32 = 5;
/// How long a server that answers nothing is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long for a single answer: what is tried after it belongs to the same request.
const LATE: Duration = Duration::from_secs(3);

/// Every mail server there is, by URL.
#[derive(Clone, Default)]
pub(crate) struct MailServers(Arc<Mutex<State>>);

/// All that the servers keep, for taking a test up where another one left it.
#[derive(Clone, Default)]
pub(crate) struct State {
    servers: BTreeMap<String, BTreeMap<String, Mailbox>>,
    late: Vec<Change>,
    arrived: Vec<(String, String)>,
    lies: usize,
    /// Servers that answer nothing in time.
    silent: BTreeSet<String>,
    looks: usize,
    /// Logins under way that found an outdated hash.
    logins: Vec<Login>,
}

/// A login under way. The servers hash its password again and write the whole column, whatever that
/// holds by then.
#[derive(Clone)]
struct Login {
    server: String,
    account: String,
    password: String,
    /// When it writes, once somebody changes the password; until then it is busy hashing.
    writes_at: Option<Instant>,
}

/// How long after a change a login that began before it writes.
const REHASH: Duration = Duration::from_secs(2);

/// One account.
#[derive(Clone)]
pub(crate) struct Mailbox {
    /// What logs in; the servers know it, so that tests need no hash to ask.
    pub(crate) password: String,
    pub(crate) hash: String,
    pub(crate) comment: String,
    pub(crate) enabled: bool,
    /// Numbers of tokens that log in beside the password.
    pub(crate) app_tokens: Vec<u64>,
}

impl Mailbox {
    pub(crate) fn new(password: &str) -> Self {
        Self::with_rounds(password, ROUNDS)
    }

    pub(crate) fn with_rounds(password: &str, rounds: u32) -> Self {
        Self {
            password: password.to_owned(),
            hash: hash_password(password, rounds),
            comment: String::new(),
            enabled: true,
            app_tokens: Vec::new(),
        }
    }
}

/// A request that arrived.
#[derive(Clone)]
struct Change {
    server: String,
    account: String,
    password: String,
    comment: Option<String>,
    create: bool,
}

impl fmt::Debug for MailServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MailServers")
    }
}

impl MailServers {
    /// The instants of another simulation say nothing here: what was about to be written is.
    pub(crate) fn with(state: &State) -> Self {
        let mut state = state.clone();
        state.write_logins(|_at| true);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap();
        if !state.logins.is_empty() {
            let now = Instant::now();
            state.write_logins(|at| at <= now);
        }
        state
    }

    /// Somebody logs in with what is live now, whose hash is outdated: whoever changes the password
    /// before that is done has it undone two seconds later.
    pub(crate) fn begin_login(&self, server: &str, account: &str) {
        let mut state = self.lock();
        let password = state.servers[server][account].password.clone();
        state.logins.push(Login {
            server: server.to_owned(),
            account: account.to_owned(),
            password,
            writes_at: None,
        });
    }

    /// Whether a login that found an outdated hash is under way.
    pub(crate) fn logs_in(&self, server: &str, account: &str) -> bool {
        let state = self.lock();
        let at = |login: &Login| login.server == server && login.account == account;
        state.logins.iter().any(at)
    }

    /// Makes the hash of an account outdated, as the server's next `CREDENTIAL_ROUNDS` does.
    pub(crate) fn outdate(&self, server: &str, account: &str) {
        self.edit(server, account, |mailbox| {
            mailbox.hash = hash_password(&mailbox.password, OUTDATED_ROUNDS);
        });
    }

    /// Puts the accounts back as they were, as a restore of the server's database does; what it
    /// has not worked on yet is still to come.
    pub(crate) fn restore(&self, state: &State) {
        self.lock().servers.clone_from(&state.servers);
    }

    /// Adds or replaces an account.
    pub(crate) fn put(&self, server: &str, account: &str, mailbox: Mailbox) {
        let mut state = self.lock();
        let accounts = state.servers.entry(server.to_owned()).or_default();
        accounts.insert(account.to_owned(), mailbox);
    }

    /// Changes an account, as an administrator there does.
    pub(crate) fn edit(&self, server: &str, account: &str, edit: impl FnOnce(&mut Mailbox)) {
        let mut state = self.lock();
        let accounts = state.servers.get_mut(server).unwrap();
        edit(accounts.get_mut(account).unwrap());
    }

    /// Removes an account.
    pub(crate) fn remove(&self, server: &str, account: &str) {
        let mut state = self.lock();
        state.servers.get_mut(server).unwrap().remove(account);
    }

    /// What logs in to the account; `None` if there is none.
    pub(crate) fn live(&self, server: &str, account: &str) -> Option<String> {
        let state = self.lock();
        let mailbox = state.servers.get(server)?.get(account)?;
        Some(mailbox.password.clone())
    }

    pub(crate) fn mailbox(&self, server: &str, account: &str) -> Option<Mailbox> {
        self.lock().servers.get(server)?.get(account).cloned()
    }

    /// How many requests that the servers did not answer are still to be worked on.
    pub(crate) fn late(&self) -> usize {
        self.lock().late.len()
    }

    /// Works on one of those now; returns its password.
    pub(crate) fn land(&self, index: usize) -> String {
        let mut state = self.lock();
        let change = state.late.remove(index);
        state.apply(&change);
        change.password
    }

    /// A server answers nothing in time any more, or again.
    pub(crate) fn silence(&self, server: &str, silent: bool) {
        let mut state = self.lock();
        if silent {
            state.silent.insert(server.to_owned());
        } else {
            state.silent.remove(server);
        }
    }

    /// How often an account was looked at.
    pub(crate) fn looks(&self) -> usize {
        self.lock().looks
    }

    /// How often a server said that it did what it did not.
    pub(crate) fn lies(&self) -> usize {
        self.lock().lies
    }

    /// Every password that arrived at the account and was not refused, in this order.
    pub(crate) fn arrived(&self, account: &str) -> Vec<String> {
        let state = self.lock();
        let of_account = state.arrived.iter().filter(|(to, _)| to == account);
        of_account.map(|(_, password)| password.clone()).collect()
    }

    /// Clients of these servers for a process that `plan` may kill.
    pub(crate) fn connector(&self, plan: &Plan) -> Connector {
        let (servers, plan) = (self.clone(), plan.clone());
        Arc::new(move |config, _policy| {
            let ProviderConfig::Mailu(config) = config;
            Ok(Arc::new(Client {
                servers: servers.clone(),
                server: config.url.as_str().to_owned(),
                plan: plan.clone(),
            }) as Arc<dyn MailProvider>)
        })
    }
}

impl State {
    fn write_logins(&mut self, is_due: impl Fn(Instant) -> bool) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.logins)
            .into_iter()
            .partition(|login| login.writes_at.is_some_and(&is_due));
        self.logins = later;
        for login in due {
            let accounts = self.servers.get_mut(&login.server);
            let mailbox = accounts.and_then(|accounts| accounts.get_mut(&login.account));
            if let Some(mailbox) = mailbox {
                mailbox.hash = hash_password(&login.password, ROUNDS);
                mailbox.password = login.password;
            }
        }
    }

    fn check(&self, change: &Change) -> Option<Refusal> {
        let accounts = self.servers.get(&change.server);
        let exists = accounts.is_some_and(|them| them.contains_key(&change.account));
        match (exists, change.create) {
            (false, false) => Some(Refusal::NoSuchAccount),
            (true, true) => Some(Refusal::Conflict),
            _ => None,
        }
    }

    fn apply(&mut self, change: &Change) {
        if self.check(change).is_some() {
            return;
        }
        let accounts = self.servers.entry(change.server.clone()).or_default();
        let before = accounts.remove(&change.account);
        let mut mailbox = Mailbox::new(&change.password);
        if let Some(before) = before {
            mailbox.comment = before.comment;
            mailbox.enabled = before.enabled;
            mailbox.app_tokens = before.app_tokens;
        }
        if let Some(comment) = &change.comment {
            mailbox.comment.clone_from(comment);
        }
        accounts.insert(change.account.clone(), mailbox);
        for login in &mut self.logins {
            let same = login.server == change.server && login.account == change.account;
            if same && login.writes_at.is_none() {
                login.writes_at = Some(Instant::now() + REHASH);
            }
        }
    }
}

#[derive(Debug)]
struct Client {
    servers: MailServers,
    server: String,
    plan: Plan,
}

impl Client {
    /// Waits as long as one waits for a server that does not answer; returns whether it is one.
    async fn is_silent(&self) -> bool {
        let silent = self.servers.lock().silent.contains(&self.server);
        if silent {
            tokio::time::sleep(TIMEOUT).await;
        }
        silent
    }

    async fn change(&self, name: &str, change: Change) -> Sent {
        self.plan.alive().await;
        if self.is_silent().await {
            return Sent::Unknown(Trouble::Timeout);
        }
        let name = format!("mail {name}");
        self.plan.wait_if_held(&name).await;
        let fault = self.plan.enter(name);
        let refused = {
            let mut state = self.servers.lock();
            let refused = state.check(&change);
            let lost = fault.is_some_and(|fault| {
                fault.kind.loses() || !fault.after && fault.kind != Kind::Hidden
            });
            state.lies += usize::from(fault.is_some_and(|fault| fault.kind == Kind::Lie));
            let late = fault.is_some_and(|fault| fault.kind == Kind::Late);
            if refused.is_none() && fault.is_none_or(|fault| fault.kind != Kind::Token) {
                let arrival = (change.account.clone(), change.password.clone());
                state.arrived.push(arrival);
            }
            match (late, lost) {
                (true, _) => state.late.push(change),
                (false, true) => {}
                (false, false) => state.apply(&change),
            }
            refused
        };
        match fault.map(|fault| fault.kind) {
            None | Some(Kind::Hidden) => refused.map_or(Sent::Acknowledged, Sent::Refused),
            Some(kind) => self.answer(kind).await,
        }
    }

    /// What a call that changes something answers in spite of its effect.
    async fn answer(&self, kind: Kind) -> Sent {
        match kind {
            Kind::Lie => Sent::Acknowledged,
            Kind::Worded => Sent::Refused(Refusal::Invalid),
            Kind::Token => Sent::Refused(Refusal::Token),
            Kind::Refused | Kind::Unknown | Kind::Hidden => Sent::Unknown(Trouble::Broken),
            Kind::Late => {
                tokio::time::sleep(LATE).await;
                Sent::Unknown(Trouble::Timeout)
            }
            Kind::Crash => {
                self.plan.die().await;
                Sent::Unknown(Trouble::Broken)
            }
        }
    }

    /// Counts a question in; `Ok(true)` if the hash is hidden in the answer.
    async fn ask(&self, name: &str) -> Result<bool, ReadError> {
        self.plan.alive().await;
        if self.is_silent().await {
            return Err(ReadError::Trouble(Trouble::Timeout));
        }
        let name = format!("mail {name}");
        self.plan.wait_if_held(&name).await;
        let Some(fault) = self.plan.enter(name) else {
            return Ok(false);
        };
        match fault.kind {
            Kind::Hidden | Kind::Lie => Ok(true),
            Kind::Token => Err(ReadError::Refused(Refusal::Token)),
            Kind::Refused | Kind::Unknown | Kind::Worded => {
                Err(ReadError::Trouble(Trouble::Broken))
            }
            Kind::Late => {
                tokio::time::sleep(LATE).await;
                Err(ReadError::Trouble(Trouble::Timeout))
            }
            Kind::Crash => {
                self.plan.die().await;
                Err(ReadError::Trouble(Trouble::Broken))
            }
        }
    }

    fn mailbox(&self, account: &EmailAddress) -> Option<Mailbox> {
        self.servers.mailbox(&self.server, &account.folded())
    }

    fn change_of(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
        create: bool,
    ) -> Change {
        Change {
            server: self.server.clone(),
            account: account.folded(),
            password: password.expose().clone(),
            comment: comment.map(str::to_owned),
            create,
        }
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
        let change = self.change_of(account, password, comment, false);
        self.change("set_password", change).await
    }

    async fn create_account(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        let change = self.change_of(account, password, comment, true);
        self.change("create_account", change).await
    }

    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        let hidden = self.ask("account").await?;
        self.servers.lock().looks += 1;
        Ok(self.mailbox(account).map(|mailbox| Account {
            hash: (!hidden).then(|| StoredHash::new(mailbox.hash)),
            enabled: mailbox.enabled,
            comment: mailbox.comment,
            forwarding: false,
            auto_reply: false,
            change_at_login: false,
            administrator: Some(true),
        }))
    }

    async fn app_tokens(
        &self,
        account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError> {
        self.ask("app_tokens").await?;
        let mailbox = self.mailbox(account);
        let mailbox = mailbox.ok_or(ReadError::Refused(Refusal::NoSuchAccount))?;
        let id = |number: &u64| AppTokenId::parse(&number.to_string()).unwrap();
        Ok(Some(mailbox.app_tokens.iter().map(id).collect()))
    }

    async fn delete_app_token(&self, token: &AppTokenId) -> Sent {
        self.plan.alive().await;
        let fault = self.plan.enter(String::from("mail delete_app_token"));
        let lost = |fault: Fault| fault.kind.loses() || !fault.after && fault.kind != Kind::Hidden;
        let mut existed = false;
        if !fault.is_some_and(lost) {
            let mut state = self.servers.lock();
            for mailbox in state.servers.get_mut(&self.server).unwrap().values_mut() {
                let before = mailbox.app_tokens.len();
                mailbox
                    .app_tokens
                    .retain(|it| it.to_string() != token.as_str());
                existed |= mailbox.app_tokens.len() < before;
            }
        }
        match fault.map(|fault| fault.kind) {
            None | Some(Kind::Hidden) if existed => Sent::Acknowledged,
            None | Some(Kind::Hidden) => Sent::Refused(Refusal::NoSuchAppToken),
            Some(kind) => self.answer(kind).await,
        }
    }

    async fn server_version(&self) -> ServerVersion {
        match self.ask("server_version").await {
            Ok(_) => ServerVersion::Mailu2024,
            Err(_) => ServerVersion::Unknown,
        }
    }

    async fn app_tokens_are_open(&self) -> Option<bool> {
        Some(false)
    }

    fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        // These servers have no TLS.
        None
    }

    async fn login(&self, account: &EmailAddress, password: &Sensitive<String>) -> Proven {
        if self.ask("login").await.is_err() {
            return Proven::CannotTell;
        }
        let mailbox = self.mailbox(account);
        match mailbox.filter(|mailbox| mailbox.enabled) {
            Some(mailbox) if mailbox.password == *password.expose() => Proven::Accepted,
            _ => Proven::Refused,
        }
    }
}
