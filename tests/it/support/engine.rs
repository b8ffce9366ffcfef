//! The engine in process: the real backend and the real Mailu client over real TLS, against the
//! stand-in; storage in memory and a clock that moves only when told to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::mailu::standin::{Config, MailuStandin};
use vault_plugin_secrets_smtp::clock::ManualClock;
use vault_plugin_secrets_smtp::crypto::{Sensitive, sha256_hex};
use vault_plugin_secrets_smtp::engine::storage::record::TenantRecord;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::{Identifiers, RandomIdentifiers};
use vault_plugin_secrets_smtp::logical::{
    Backend, BackendInfo, Data, Error, MemoryStorage, Mount, Operation, Reply, Request, RequestId,
    Special, StaticSystemView, Storage, Wrap,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::{Connector, HashPool, connector};

/// The account of tenant `acme`, and the password it starts with.
pub(crate) const EMAIL: &str = "smtp-admin@example.test";
pub(crate) const FIRST: &str = "first-password-of-the-account";

/// An answer as plain values.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// What the host would say: 200, 204, 400, ...; 0 for the text that forwards to the active
    /// node.
    pub(crate) status: u16,
    /// The stable code of an error.
    pub(crate) code: String,
    /// The whole error text.
    pub(crate) text: String,
    pub(crate) data: Value,
    pub(crate) warnings: Vec<String>,
    /// A body that is not JSON, with its type.
    pub(crate) raw: Option<(String, String)>,
    /// For how long the host wraps the answer; `None` if it does not.
    pub(crate) wrap: Option<Duration>,
}

impl Answer {
    fn new(operation: Operation, reply: Reply) -> Self {
        let mut answer = Self {
            status: 200,
            code: String::new(),
            text: String::new(),
            data: Value::Null,
            warnings: Vec::new(),
            wrap: None,
            raw: None,
        };
        match reply {
            Ok(Some(response)) => {
                if let Some(data) = &response.data {
                    answer.data = Value::Object(data.as_map().clone());
                }
                answer.warnings = response.warnings;
                if let Some(Special::Raw(raw)) = response.special {
                    let body = String::from_utf8(raw.body).unwrap();
                    answer.raw = Some((raw.content_type, body));
                }
                answer.wrap = response.wrap.map(Wrap::ttl);
            }
            Ok(None) => {
                let reads = matches!(operation, Operation::Read | Operation::List);
                answer.status = if reads { 404 } else { 204 };
            }
            Err(error) => {
                answer.text = error.to_string();
                (answer.status, answer.code) = match error {
                    Error::User { code, .. } => (400, code.to_owned()),
                    Error::Status { status, code, .. } => (status, code.to_owned()),
                    Error::UnsupportedOperation => (405, String::new()),
                    Error::UnsupportedPath => (404, String::new()),
                    Error::ReadOnly => (0, String::from("read_only")),
                    Error::Storage(_) => (500, String::from("storage_error")),
                    Error::Internal(_) => (500, String::from("internal")),
                };
            }
        }
        answer
    }

    /// Returns an answered field.
    pub(crate) fn get(&self, name: &str) -> &Value {
        self.data.get(name).unwrap_or(&Value::Null)
    }

    pub(crate) fn text_of(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or_default()
    }

    /// Asserts a success and gives the answer on.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(matches!(self.status, 200 | 204), "{self:?}");
        self
    }

    /// Asserts an error of this status and code.
    #[track_caller]
    pub(crate) fn fails(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status, self.code.as_str()),
            (status, code),
            "{self:?}"
        );
        let begins = self.text.starts_with(&format!("{code}: "));
        assert!(
            begins || status == 0,
            "the text begins with its code: {self:?}"
        );
        self
    }
}

/// One process of the plugin with one mount.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) backend: Arc<SmtpBackend>,
    pub(crate) mount: Mount,
    /// Where the host's identifiers of requests come from.
    pub(crate) identifiers: Arc<dyn Identifiers>,
    /// What the host calls the caller.
    pub(crate) caller: String,
    /// The callers have identity entities.
    pub(crate) entities: bool,
    /// The accessor of the caller's token.
    pub(crate) token: String,
    /// What the host calls the mount.
    pub(crate) mount_point: String,
    /// `Debug` of every request and reply so far.
    pub(crate) debugged: Arc<Mutex<String>>,
}

impl Host {
    pub(crate) fn new(parts: Parts, storage: Arc<dyn Storage>, system: StaticSystemView) -> Self {
        let identifiers = Arc::clone(&parts.identifiers);
        let backend = SmtpBackend::new(parts, BackendInfo::default());
        Self {
            backend: Arc::new(backend),
            identifiers,
            mount: Mount {
                storage,
                system: Arc::new(system),
            },
            caller: String::from("userpass-alice"),
            entities: true,
            token: String::from("accessor-1"),
            mount_point: String::from("smtp/"),
            debugged: Arc::default(),
        }
    }

    /// Never the same in two processes: that would be a request sent again.
    pub(crate) fn request_id(&self) -> String {
        format!("request-{}", self.identifiers.hex().unwrap())
    }

    fn request(&self, operation: Operation, path: &str, body: Value) -> Request {
        let fields: Map<String, Value> = body.as_object().cloned().unwrap_or_default();
        let mut request = Request::new(operation, path, Data::from_map(fields));
        request.id = RequestId::new(self.request_id());
        request.display_name.clone_from(&self.caller);
        if self.entities {
            request.entity_id = format!("entity-of-{}", self.caller);
        }
        request.client_token_accessor = Sensitive::new(self.token.clone());
        request.mount_point.clone_from(&self.mount_point);
        request
    }

    /// Sends a request of any operation.
    pub(crate) async fn send(&self, operation: Operation, path: &str, body: Value) -> Answer {
        let request = self.request(operation, path, body);
        self.send_request(request).await
    }

    async fn send_request(&self, request: Request) -> Answer {
        let operation = request.operation;
        let shown = format!("{request:?}\n");
        self.debugged.lock().unwrap().push_str(&shown);
        let reply = self.backend.handle_request(&self.mount, request).await;
        let shown = format!("{reply:?}\n");
        self.debugged.lock().unwrap().push_str(&shown);
        Answer::new(operation, reply)
    }

    /// Writes as the host does: the existence check decides between create and update.
    pub(crate) async fn write(&self, path: &str, body: Value) -> Answer {
        let mut request = self.request(Operation::Update, path, body);
        let exists = self
            .backend
            .existence_check(&self.mount, request.clone())
            .await;
        match exists {
            Ok(Some(false)) => request.operation = Operation::Create,
            Ok(_) => {}
            Err(error) => return Answer::new(Operation::Update, Err(error)),
        }
        self.send_request(request).await
    }

    /// Writes with the host's request id given, as a resent request has it.
    pub(crate) async fn write_as(&self, id: &str, path: &str, body: Value) -> Answer {
        let mut request = self.request(Operation::Update, path, body);
        request.id = RequestId::new(id);
        self.send_request(request).await
    }

    /// Writes as a client does that wants its answer wrapped.
    pub(crate) async fn write_wrapped(&self, path: &str, body: Value) -> Answer {
        let mut request = self.request(Operation::Update, path, body);
        request.wrap_ttl = Some(Duration::from_secs(60));
        self.send_request(request).await
    }

    /// Gives the tick that the host gives each minute, and waits until its work is done.
    pub(crate) async fn tick(&self) {
        self.send(Operation::Rollback, "", json!({})).await.ok();
        self.backend.idle().await;
    }

    pub(crate) async fn read(&self, path: &str) -> Answer {
        self.send(Operation::Read, path, json!({})).await
    }

    pub(crate) async fn list(&self, path: &str) -> Answer {
        self.send(Operation::List, path, json!({})).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Operation::Patch, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Operation::Delete, path, json!({})).await
    }

    /// Returns every event of a tenant, oldest first, after checking numbers and chain.
    pub(crate) async fn events(&self, tenant: &str) -> Vec<Value> {
        let read = self
            .send(
                Operation::Read,
                &format!("{tenant}/events"),
                json!({ "limit": 200 }),
            )
            .await;
        let mut events = read.get("events").as_array().cloned().unwrap_or_default();
        events.reverse();
        let mut before = "0".repeat(64);
        for (event, number) in events.iter().zip(1_u64..) {
            assert_eq!(event["seq"], number, "no gap: {events:#?}");
            assert_eq!(event["prev_hash"], before, "chained: {event:#}");
            before = event["hash"].as_str().unwrap().to_owned();
        }
        events
    }

    /// Returns the names of a tenant's events, without the common prefix, oldest first.
    pub(crate) async fn story(&self, tenant: &str) -> Vec<String> {
        let name = |event: &Value| {
            let name = event["event"].as_str().unwrap_or_default();
            let name = name.strip_prefix("smtp_credentials_").unwrap_or(name);
            match event["error_code"].as_str() {
                Some(code) => format!("{name}({code})"),
                None => name.to_owned(),
            }
        };
        self.events(tenant).await.iter().map(name).collect()
    }
}

/// A stand-in, a storage, a clock and a first process of the plugin.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) mailu: MailuStandin,
    pub(crate) storage: Arc<MemoryStorage>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) host: Host,
}

impl std::ops::Deref for Rig {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Rig {
    /// An account exists in Mailu; the mount is empty.
    pub(crate) async fn start() -> Self {
        Self::with(Config::default().user(EMAIL, FIRST)).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let mailu = MailuStandin::start(config).await.unwrap();
        let storage = Arc::new(MemoryStorage::new());
        let start = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let clock = Arc::new(ManualClock::starting_at(start));
        let host = Host::new(
            parts(&clock, connector()),
            Arc::clone(&storage) as _,
            StaticSystemView::default(),
        );
        Self {
            mailu,
            storage,
            clock,
            host,
        }
    }

    /// `acme` has its server.
    pub(crate) async fn configured() -> Self {
        let rig = Self::start().await;
        rig.configure("acme").await;
        rig
    }

    /// `acme` has its server and a credential with a generated, proven password.
    pub(crate) async fn created() -> Self {
        let rig = Self::configured().await;
        rig.write("acme/admin", json!({ "username": EMAIL }))
            .await
            .ok();
        rig.later(3600);
        rig
    }

    pub(crate) fn server(&self) -> Value {
        json!({
            "mailu_url": self.mailu.url(),
            "ca_cert": self.mailu.ca_pem(),
            "api_token": self.mailu.token(),
        })
    }

    pub(crate) async fn configure(&self, tenant: &str) {
        self.write(&format!("{tenant}/config"), self.server())
            .await
            .ok();
    }

    /// A new process of the plugin on the same storage, as after a crash.
    pub(crate) fn restart(&mut self) {
        self.host = self.process(StaticSystemView::default());
    }

    /// Another process on the same storage.
    pub(crate) fn process(&self, system: StaticSystemView) -> Host {
        let parts = parts(&self.clock, connector());
        Host::new(parts, Arc::clone(&self.storage) as _, system)
    }

    pub(crate) fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn password(&self) -> String {
        let read = self.read("acme/admin").await.ok();
        read.text_of("password").to_owned()
    }

    /// Asserts that `acme` is settled on a password that Mailu has; returns it.
    #[track_caller]
    pub(crate) fn settled(&self) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        async move {
            let read = self.read("acme/admin").await.ok();
            let password = read.text_of("password").to_owned();
            assert_eq!(read.get("state"), "settled", "{place}: {:?}", read.data);
            assert!(self.fits(&password), "{place}: Mailu has another password");
            self.check_pointers("acme").await;
            password
        }
    }

    pub(crate) fn fits(&self, password: &str) -> bool {
        self.mailu.password_fits(EMAIL, password)
    }

    /// Writes that set a password, in the order in which they arrived.
    pub(crate) fn password_writes(&self) -> usize {
        let journal = self.mailu.journal();
        journal
            .iter()
            .filter(|entry| entry.password_sha256.is_some())
            .count()
    }

    pub(crate) async fn record(&self, tenant: &str) -> Option<TenantRecord> {
        record(&self.storage, tenant).await
    }

    /// Asserts that the pointers to a tenant are those its record needs, and no others.
    pub(crate) async fn check_pointers(&self, tenant: &str) {
        let (needed, found) = pointers(&self.storage, tenant).await;
        assert_eq!(found, needed, "pointers of {tenant}");
    }
}

pub(crate) fn parts(clock: &Arc<ManualClock>, connector: Connector) -> Parts {
    Parts {
        clock: Arc::clone(clock) as _,
        identifiers: Arc::new(RandomIdentifiers),
        connector,
        notifier: notifier(),
        host_api: host_api::opener(reach()),
        hash_pool: HashPool::new(),
        dev_loopback: true,
    }
}

/// What the environment of the tests' processes names.
fn reach() -> Reach {
    Reach::from_env(|name| match name {
        "SMTP_AUDIT_SOCKETS" => Some(String::from("/run/openbao")),
        "SMTP_AUDIT_ADDRESSES" => Some(String::from("https://vault.example")),
        _ => None,
    })
}

pub(crate) async fn record(storage: &MemoryStorage, tenant: &str) -> Option<TenantRecord> {
    let entry = storage.get(&format!("tenant/{tenant}")).await.unwrap()?;
    Some(serde_json::from_slice(&entry.value).unwrap())
}

/// Returns the pointers a tenant's record needs and those that are stored, derived here from the
/// documented format and not by the engine's own code.
pub(crate) async fn pointers(
    storage: &MemoryStorage,
    tenant: &str,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut needed = BTreeSet::new();
    if let Some(record) = record(storage, tenant).await {
        let kept = record.credential.as_ref();
        let kept = kept.filter(|kept| kept.deleted.is_none());
        let looks = !record.open.confirm_at.is_empty();
        let waits = kept.is_some_and(|kept| {
            let tokens = kept.app_tokens.as_ref();
            let seen = kept.drift.is_some()
                || (record.open.retry_failures >= 3 && record.last_error.is_some())
                || tokens.is_some_and(|it| it.failures >= 3);
            looks
                || seen
                || kept.rotate_at.is_some()
                || tokens.is_some_and(|it| it.next_attempt.is_some())
        });
        if record.intent.is_some() || record.pause.is_some() || waits {
            needed.insert(format!("open/{tenant}"));
        }
        if let Some(credential) = &record.credential {
            // In drift a person decides first.
            let next = credential.next_rotation.filter(|_| {
                credential.deleted.is_none()
                    && credential.drift.is_none()
                    && credential.current.is_some()
            });
            assert_eq!(
                next.is_some(),
                credential.due_day.is_some() && kept.is_some()
            );
            if let Some((next, day)) = next.zip(credential.due_day) {
                // Between a week before and the change; an overdue one is on a later day.
                let earliest = next - chrono::TimeDelta::days(8);
                assert!(
                    day >= earliest.date_naive(),
                    "{tenant} is looked at too early"
                );
                needed.insert(format!("due/{}/{tenant}", day.format("%Y%m%d")));
            }
            if let Some(server) = &record.server {
                let url = &server.mailu_url;
                let text = format!("{}:{url}{}", url.len(), credential.username.to_lowercase());
                needed.insert(format!("account/{}", sha256_hex(text.as_bytes())));
            }
        }
    }
    let owner = format!("{{\"tenant\":\"{tenant}\"}}");
    let found = storage.snapshot();
    let found = found.entries().filter_map(|entry| {
        let key = entry.key.as_str();
        let pointer = (key.starts_with("open/") || key.starts_with("due/"))
            && key.ends_with(&format!("/{tenant}"));
        let account = key.starts_with("account/") && entry.value == owner.as_bytes();
        (pointer || account).then(|| key.to_owned())
    });
    (needed, found.collect())
}
