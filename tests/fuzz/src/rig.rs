//! The real engine over storage in memory and a mail server that does what the input says.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use vault_plugin_secrets_smtp::clock::ManualClock;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::logical::{
    Backend, BackendInfo, Data, Error, MemoryStorage, Mount, Operation, Reply, Request, RequestId,
    StaticSystemView,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{
    Account, AppTokenId, EmailAddress, HashPool, Login, MailProvider, ReadError, Refusal, Sent,
    ServerVersion, TlsFault, Trouble,
};

/// Every operation a request may have, `resolve-path` and those of auth engines included.
pub const OPERATIONS: [Operation; 15] = [
    Operation::Create,
    Operation::Read,
    Operation::Update,
    Operation::Patch,
    Operation::Delete,
    Operation::List,
    Operation::Scan,
    Operation::Help,
    Operation::Header,
    Operation::Renew,
    Operation::Revoke,
    Operation::Rollback,
    Operation::ResolvePath,
    Operation::ResolveRole,
    Operation::AliasLookahead,
];

/// Runs a future on this thread; time jumps to whatever is waited for.
pub fn run<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A mail server whose calls fail where the script says.
#[derive(Debug)]
struct ScriptedMail {
    script: Mutex<VecDeque<u8>>,
    accounts: Mutex<BTreeMap<String, String>>,
}

/// What a call comes to, if not to what it asks.
enum Fault {
    Refused(Refusal),
    Trouble(Trouble),
}

impl ScriptedMail {
    fn fault(&self) -> Option<Fault> {
        let step = self.script.lock().unwrap().pop_front()?;
        Some(match step {
            0 => Fault::Refused(Refusal::Token),
            1 => Fault::Refused(Refusal::RateLimited),
            2 => Fault::Refused(Refusal::NoSuchAccount),
            3 => Fault::Refused(Refusal::NoSuchDomain),
            4 => Fault::Refused(Refusal::Conflict),
            5 => Fault::Refused(Refusal::Invalid),
            6 => Fault::Trouble(Trouble::Redirect),
            7 => Fault::Trouble(Trouble::NoApi),
            8 => Fault::Trouble(Trouble::Unresolved),
            9 => Fault::Trouble(Trouble::AddressRefused),
            10 => Fault::Trouble(Trouble::Unreachable),
            11 => Fault::Trouble(Trouble::Tls(TlsFault::Expired)),
            12 => Fault::Trouble(Trouble::Timeout),
            13 => Fault::Trouble(Trouble::Broken),
            14 => Fault::Trouble(Trouble::ServerError),
            15 => Fault::Trouble(Trouble::Unintelligible),
            16 => Fault::Trouble(Trouble::TooLarge),
            _ => return None,
        })
    }

    fn change(&self, account: &EmailAddress, comment: Option<&str>, create: bool) -> Sent {
        match self.fault() {
            Some(Fault::Refused(refusal)) => return Sent::Refused(refusal),
            Some(Fault::Trouble(trouble)) => return Sent::Unknown(trouble),
            None => {}
        }
        let mut accounts = self.accounts.lock().unwrap();
        match (accounts.get_mut(&account.folded()), create) {
            (Some(_), true) => Sent::Refused(Refusal::Conflict),
            (None, false) => Sent::Refused(Refusal::NoSuchAccount),
            (None, true) => {
                let comment = comment.unwrap_or_default().to_owned();
                accounts.insert(account.folded(), comment);
                Sent::Acknowledged
            }
            (Some(stored), false) => {
                if let Some(comment) = comment {
                    comment.clone_into(stored);
                }
                Sent::Acknowledged
            }
        }
    }

    fn read(&self) -> Result<(), ReadError> {
        match self.fault() {
            Some(Fault::Refused(refusal)) => Err(ReadError::Refused(refusal)),
            Some(Fault::Trouble(trouble)) => Err(ReadError::Trouble(trouble)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl MailProvider for ScriptedMail {
    async fn set_password(
        &self,
        account: &EmailAddress,
        _password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        self.change(account, comment, false)
    }

    async fn create_account(
        &self,
        account: &EmailAddress,
        _password: &Sensitive<String>,
        comment: Option<&str>,
    ) -> Sent {
        self.change(account, comment, true)
    }

    async fn account(&self, account: &EmailAddress) -> Result<Option<Account>, ReadError> {
        self.read()?;
        let accounts = self.accounts.lock().unwrap();
        Ok(accounts.get(&account.folded()).map(|comment| Account {
            hash: None,
            enabled: true,
            comment: comment.clone(),
            forwarding: false,
            auto_reply: false,
            change_at_login: false,
            administrator: None,
        }))
    }

    async fn app_tokens(
        &self,
        _account: &EmailAddress,
    ) -> Result<Option<Vec<AppTokenId>>, ReadError> {
        self.read().map(|()| Some(Vec::new()))
    }

    async fn delete_app_token(&self, _token: &AppTokenId) -> Sent {
        match self.fault() {
            Some(Fault::Trouble(trouble)) => Sent::Unknown(trouble),
            Some(Fault::Refused(refusal)) => Sent::Refused(refusal),
            None => Sent::Refused(Refusal::NoSuchAppToken),
        }
    }

    async fn server_version(&self) -> ServerVersion {
        ServerVersion::Unknown
    }

    async fn app_tokens_are_open(&self) -> Option<bool> {
        None
    }

    fn certificate_expires_at(&self) -> Option<DateTime<Utc>> {
        None
    }

    async fn login(&self, _account: &EmailAddress, _password: &Sensitive<String>) -> Login {
        match self.fault() {
            None => Login::Accepted,
            Some(Fault::Refused(_)) => Login::Refused,
            Some(Fault::Trouble(_)) => Login::CannotTell,
        }
    }
}

/// One mount of the engine.
pub struct Rig {
    pub backend: SmtpBackend,
    pub storage: Arc<MemoryStorage>,
    mount: Mount,
    requests: AtomicU64,
}

impl Rig {
    /// Mounts the engine on `storage`; the mail server has one account and follows `script`: one
    /// byte for each call, what to do instead of what was asked, nothing left = no faults.
    #[must_use]
    pub fn new(storage: MemoryStorage, script: &[u8]) -> Self {
        capture_logs();
        let mail = Arc::new(ScriptedMail {
            script: Mutex::new(script.iter().copied().collect()),
            accounts: Mutex::new(BTreeMap::from([(
                String::from("admin@acme.example"),
                String::new(),
            )])),
        });
        let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let parts = Parts {
            clock: Arc::new(ManualClock::starting_at(start)),
            identifiers: Arc::new(RandomIdentifiers),
            connector: Arc::new(move |_config, _policy| Ok(Arc::clone(&mail) as _)),
            notifier: notifier(),
            host_api: host_api::opener(Reach::default()),
            hash_pool: HashPool::new(),
            dev_loopback: false,
        };
        let storage = Arc::new(storage);
        Self {
            backend: SmtpBackend::new(parts, BackendInfo::default()),
            mount: Mount {
                storage: Arc::clone(&storage) as _,
                system: Arc::new(StaticSystemView::default()),
            },
            storage,
            requests: AtomicU64::new(1),
        }
    }

    /// Sends a new request and returns what the host would get.
    pub async fn ask(&self, operation: Operation, path: &str, body: Map<String, Value>) -> Reply {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.ask_again(operation, path, body).await
    }

    /// Sends a request under the identifier of the one before, as the host does when the process
    /// had died.
    pub async fn ask_again(
        &self,
        operation: Operation,
        path: &str,
        body: Map<String, Value>,
    ) -> Reply {
        let mut request = Request::new(operation, path, Data::from_map(body));
        let number = self.requests.load(Ordering::Relaxed);
        request.id = RequestId::new(format!("request-{number}"));
        request.mount_point = String::from("smtp/");
        request.display_name = String::from("userpass-alice");
        self.backend.handle_request(&self.mount, request).await
    }

    /// Asks whether an entry exists.
    pub async fn exists(&self, path: &str) -> Result<Option<bool>, Error> {
        let request = Request::new(Operation::Update, path, Data::default());
        self.backend.existence_check(&self.mount, request).await
    }

    /// Waits for work under way.
    pub async fn end(&self) {
        self.backend.cleanup().await;
    }
}

/// Asserts that an error is one a client can work with: a stable code first, a status that is an
/// error, one line of text.
pub fn check_error(error: &Error) {
    let text = error.to_string();
    let code = match error {
        Error::User { code, message } => {
            assert!(!message.is_empty());
            Some(*code)
        }
        Error::Status {
            status,
            code,
            message,
        } => {
            assert!((400..=599).contains(status) && !message.is_empty());
            Some(*code)
        }
        Error::UnsupportedPath => Some("unsupported_path"),
        Error::Storage(_) => Some("storage_error"),
        Error::Internal(_) => Some("internal"),
        // Words of the host, by which it knows them.
        Error::UnsupportedOperation | Error::ReadOnly => None,
    };
    if let Some(code) = code {
        assert!(!code.is_empty());
        assert!(
            code.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{code}"
        );
        assert!(text.starts_with(&format!("{code}: ")), "{text}");
    }
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.len() < 2_000, "{text}");
}

thread_local! {
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Returns what this thread has logged since it was last asked.
#[must_use]
pub fn logged() -> String {
    LOG.with_borrow_mut(std::mem::take)
}

fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Capture);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        LOG.with_borrow_mut(|log| event.record(&mut Show(log)));
    }

    fn on_new_span(&self, span: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        LOG.with_borrow_mut(|log| span.record(&mut Show(log)));
    }
}

struct Show<'a>(&'a mut String);

impl Visit for Show<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(self.0, "{}={value:?}", field.name()).unwrap();
    }
}
