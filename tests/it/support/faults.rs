//! A storage and a mail provider that fail at call number N, before or after its effect.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::logical::{MemoryStorage, Storage, StorageEntry, StorageError};
use vault_plugin_secrets_smtp::provider::{
    Account, AppTokenId, Connector, EmailAddress, Login, MailProvider, ReadError, Sent,
    ServerVersion, Trouble, connector,
};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The host answers with an error; for a mail server, the connection breaks.
    Refused,
    /// The connection to the host breaks.
    Unknown,
    /// The process is killed: the call never returns, nothing after it happens.
    Crash,
    /// The mail server says that it did it, and did not.
    Lie,
    /// The mail server does not answer in time, and does it later, when told to.
    Late,
    /// A front words the answer: a refusal, whatever became of the request.
    Worded,
    /// The mail server refuses the token.
    Token,
    /// The mail server shows no password hash.
    Hidden,
}

impl Kind {
    /// Whether a change never has its effect.
    pub(crate) const fn loses(self) -> bool {
        matches!(self, Self::Lie | Self::Token)
    }
}

/// Which call fails and whether its effect happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) kind: Kind,
    pub(crate) after: bool,
}

/// A fault at a call that is told by its name, so that it hits that call or none.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Interruption {
    /// What is interrupted, as [`Plan::calls`] names it.
    pub(crate) call: String,
    /// How many of this name come before it.
    pub(crate) nth: usize,
    pub(crate) kind: Kind,
    pub(crate) after: bool,
}

impl Interruption {
    /// At call number `at` of a run that called these.
    pub(crate) fn at(calls: &[String], at: usize, (kind, after): (Kind, bool)) -> Self {
        let call = calls[at].clone();
        let nth = calls[..at].iter().filter(|other| **other == call).count();
        Self {
            call,
            nth,
            kind,
            after,
        }
    }

    /// Every way in which a run that called these can fail once, in their order.
    pub(crate) fn every(calls: &[String]) -> Vec<Self> {
        let ways = |name: &str| {
            let kinds = [Kind::Refused, Kind::Unknown, Kind::Crash];
            // A lost connection to a mail server has one form only.
            let mail = name.starts_with("mail ");
            let kinds = kinds
                .into_iter()
                .filter(move |kind| !mail || *kind != Kind::Unknown);
            let worded = sets_a_password(name).then_some(Kind::Worded);
            let kinds = kinds.chain(worded);
            kinds.flat_map(|kind| [(kind, false), (kind, true)])
        };
        let points = calls.iter().enumerate();
        points
            .flat_map(|(at, name)| ways(name).map(move |way| Self::at(calls, at, way)))
            .collect()
    }
}

/// Whether a call gives a mail server a password.
pub(crate) fn sets_a_password(name: &str) -> bool {
    matches!(name, "mail set_password" | "mail create_account")
}

impl fmt::Debug for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.after { "after" } else { "before" };
        write!(f, "{:?} {when} {:?}", self.kind, self.call)?;
        if self.nth > 0 {
            write!(f, " number {}", self.nth + 1)?;
        }
        Ok(())
    }
}

/// Counts calls and fails one of them; shared by a storage and a provider of one process.
#[derive(Clone, Default)]
pub(crate) struct Plan(Arc<Shared>);

/// Calls of one plan, from one arming to the next: far more than anything needs.
const ENDLESS: usize = 400_000;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    crashed: Notify,
    holding: Notify,
    released: Notify,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    faults: Vec<Fault>,
    only: Option<&'static str>,
    /// Calls that storage refuses for good, by name.
    denied: Vec<String>,
    /// The calls that fail by their names, whatever their numbers; one that was hit is gone.
    named: Vec<Interruption>,
    /// What becomes of the next passwords that are set, whatever number their calls have.
    sends: VecDeque<Option<Fault>>,
    /// The test's time is paused from the start: nobody waits for anything.
    simulated: bool,
    paused: bool,
    dead: bool,
    /// The call that waits, before its effect.
    held: Option<String>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan")
    }
}

impl Plan {
    /// For tests whose time is paused from the start.
    pub(crate) fn simulated() -> Self {
        let plan = Self::default();
        plan.0.state.lock().unwrap().simulated = true;
        plan
    }

    /// Begins to count from 0, with these faults ahead.
    pub(crate) fn arm(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.0.state.lock().unwrap();
        state.calls.clear();
        state.faults = faults.into_iter().collect();
        state.only = None;
        state.named.clear();
        state.sends.clear();
    }

    /// Storage refuses every call of these names, until it is told otherwise.
    pub(crate) fn deny(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned());
        self.0.state.lock().unwrap().denied = names.collect();
    }

    /// Lets a call of this name fail, the one that has `before` ones of its name before it.
    pub(crate) fn arm_named(&self, name: &str, before: usize, kind: Kind, after: bool) {
        self.interrupt(&[Interruption {
            call: name.to_owned(),
            nth: before,
            kind,
            after,
        }]);
    }

    /// Begins to count from 0, with these interruptions ahead.
    pub(crate) fn interrupt(&self, interruptions: &[Interruption]) {
        self.arm([]);
        self.0.state.lock().unwrap().named = interruptions.to_vec();
    }

    /// The interruptions whose calls did not come yet.
    pub(crate) fn ahead(&self) -> Vec<Interruption> {
        self.0.state.lock().unwrap().named.clone()
    }

    /// Lets the faults hit calls of this name only.
    pub(crate) fn only(&self, name: &'static str) {
        self.0.state.lock().unwrap().only = Some(name);
    }

    /// Says what becomes of the next passwords that are set.
    pub(crate) fn arm_sends(&self, sends: impl IntoIterator<Item = Option<Fault>>) {
        self.0.state.lock().unwrap().sends = sends.into_iter().collect();
    }

    /// Returns what was called since [`Plan::arm`].
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.state.lock().unwrap().calls.clone()
    }

    /// Returns when the process was killed.
    pub(crate) async fn crashed(&self) {
        self.0.crashed.notified().await;
    }

    /// Lets the next call of this name wait, before its effect, until it is released.
    /// A name that ends with a slash stands for all that begin so.
    pub(crate) fn hold(&self, name: &str) {
        self.0.state.lock().unwrap().held = Some(name.to_owned());
    }

    /// Returns when the call of [`Plan::hold`] waits.
    pub(crate) async fn holds(&self) {
        self.0.holding.notified().await;
    }

    pub(crate) fn release(&self) {
        self.0.released.notify_one();
    }

    /// Waits, if this call is the one of [`Plan::hold`].
    pub(crate) async fn wait_if_held(&self, name: &str) {
        let held = {
            let mut state = self.0.state.lock().unwrap();
            let is = |held: &str| held == name || held.ends_with('/') && name.starts_with(held);
            state.held.take_if(|held| is(held)).is_some()
        };
        if held {
            self.0.holding.notify_one();
            self.0.released.notified().await;
        }
    }

    /// Counts a call in; returns how it fails.
    pub(crate) fn enter(&self, name: String) -> Option<Fault> {
        let mut state = self.0.state.lock().unwrap();
        if state.paused {
            state.paused = false;
            tokio::time::resume();
        }
        let number = state.calls.len();
        assert!(
            number < ENDLESS,
            "no end: {:?}",
            &state.calls[number - 20..]
        );
        let record = name.starts_with("cas tenant/") || name.starts_with("cas keyring");
        let send = match name.as_str() {
            "mail set_password" => state.sends.pop_front().flatten(),
            _ => None,
        };
        let hit = state.only.is_none_or(|only| only == name);
        let denied = state.denied.contains(&name).then_some(Fault {
            at: number,
            kind: Kind::Refused,
            after: false,
        });
        let before = || state.calls.iter().filter(|call| **call == name).count();
        let meant = |it: &Interruption| it.call == name && it.nth == before();
        let named = state.named.iter().position(meant);
        let named = named
            .map(|index| state.named.remove(index))
            .map(|it| Fault {
                at: number,
                kind: it.kind,
                after: it.after,
            });
        state.calls.push(name);
        let fault = state.faults.iter().find(|fault| fault.at == number);
        let fault = fault.copied().filter(|_| hit);
        let fault = send.or(denied).or(named).or(fault);
        // The engine lets a broken storage connection rest for seconds: skip them.
        if record && !state.simulated && fault.is_some_and(|fault| fault.kind == Kind::Unknown) {
            state.paused = true;
        }
        fault
    }

    /// Kills the process, whatever it is doing.
    pub(crate) fn kill(&self) {
        self.0.state.lock().unwrap().dead = true;
    }

    /// Kills the process: never returns.
    pub(crate) async fn die(&self) {
        self.0.state.lock().unwrap().dead = true;
        self.0.crashed.notify_one();
        std::future::pending::<()>().await;
    }

    /// A killed process calls nobody any more.
    pub(crate) async fn alive(&self) {
        if self.0.state.lock().unwrap().dead {
            std::future::pending::<()>().await;
        }
    }

    async fn storage<T>(
        &self,
        name: String,
        effect: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        self.alive().await;
        self.wait_if_held(&name).await;
        let Some(fault) = self.enter(name) else {
            return effect.await;
        };
        if fault.after {
            effect.await?;
        }
        match fault.kind {
            Kind::Refused | Kind::Lie | Kind::Late | Kind::Worded | Kind::Token | Kind::Hidden => {
                Err(StorageError::Refused(String::from("ordered")))
            }
            Kind::Unknown => {
                if self.0.state.lock().unwrap().paused {
                    tokio::time::pause();
                }
                Err(StorageError::Unknown(String::from("ordered")))
            }
            Kind::Crash => {
                self.die().await;
                Err(StorageError::Refused(String::from("dead")))
            }
        }
    }

    async fn mail<T>(&self, name: &str, lost: T, effect: impl Future<Output = T>) -> T {
        self.alive().await;
        let Some(fault) = self.enter(format!("mail {name}")) else {
            return effect.await;
        };
        if fault.after {
            effect.await;
        }
        if fault.kind == Kind::Crash {
            self.die().await;
        }
        lost
    }

    /// Wraps a storage.
    pub(crate) fn over(&self, inner: &Arc<MemoryStorage>) -> Arc<dyn Storage> {
        Arc::new(FaultyStorage {
            inner: Arc::clone(inner),
            plan: self.clone(),
        })
    }

    /// Wraps the clients of the real connector.
    pub(crate) fn connector(&self) -> Connector {
        let real = connector();
        let plan = self.clone();
        Arc::new(move |config, policy| {
            Ok(Arc::new(FaultyProvider {
                inner: real(config, policy)?,
                plan: plan.clone(),
            }) as Arc<dyn MailProvider>)
        })
    }
}

#[derive(Debug)]
struct FaultyStorage {
    inner: Arc<MemoryStorage>,
    plan: Plan,
}

#[async_trait]
impl Storage for FaultyStorage {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        let name = format!("get {}", shown(key));
        self.plan.storage(name, self.inner.get(key)).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        let name = format!("put {}", shown(&entry.key));
        self.plan.storage(name, self.inner.put(entry)).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        let name = format!("cas {}", entry.key);
        let effect = self.inner.compare_and_put(entry, expected);
        self.plan.storage(name, effect).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let name = format!("delete {}", shown(key));
        self.plan.storage(name, self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let name = format!("list {prefix}");
        self.plan.storage(name, self.inner.list(prefix)).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let name = format!("list {prefix}");
        let effect = self.inner.list_page(prefix, after, limit);
        self.plan.storage(name, effect).await
    }
}

#[derive(Debug)]
struct FaultyProvider {
    inner: Arc<dyn MailProvider>,
    plan: Plan,
}

#[async_trait]
impl MailProvider for FaultyProvider {
    async fn set_password(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        let effect = self.inner.set_password(account, password, comment);
        let lost = Sent::Unknown(Trouble::Broken);
        self.plan.mail("set_password", lost, effect).await
    }

    async fn create_account(
        &self,
        account: &EmailAddress,
        password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        let effect = self.inner.create_account(account, password, comment);
        let lost = Sent::Unknown(Trouble::Broken);
        self.plan.mail("create_account", lost, effect).await
    }

    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        let lost = Err(ReadError::Trouble(Trouble::Broken));
        self.plan
            .mail("account", lost, self.inner.account(account))
            .await
    }

    async fn app_tokens(
        &self,
        account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError> {
        let lost = Err(ReadError::Trouble(Trouble::Broken));
        self.plan
            .mail("app_tokens", lost, self.inner.app_tokens(account))
            .await
    }

    async fn delete_app_token(&self, token: &AppTokenId) -> Sent {
        let lost = Sent::Unknown(Trouble::Broken);
        let effect = self.inner.delete_app_token(token);
        self.plan.mail("delete_app_token", lost, effect).await
    }

    async fn server_version(&self) -> ServerVersion {
        let effect = self.inner.server_version();
        self.plan
            .mail("server_version", ServerVersion::Unknown, effect)
            .await
    }

    async fn app_tokens_are_open(&self) -> Option<bool> {
        self.inner.app_tokens_are_open().await
    }

    fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        self.inner.certificate_expires_at()
    }

    async fn login(&self, account: &EmailAddress, password: &Sensitive<String>) -> Login {
        let effect = self.inner.login(account, password);
        self.plan.mail("login", Login::CannotTell, effect).await
    }
}

/// A key without what differs from run to run: an event's identifier is drawn by chance.
fn shown(key: &str) -> &str {
    match key.rsplit_once('/') {
        Some((folder, _event_id)) if key.starts_with("journal/") => folder,
        _ => key,
    }
}
