//! The engine in this process: its clock set to the day that is wanted, its passwords known.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vault_plugin_secrets_smtp::clock::Clock;
use vault_plugin_secrets_smtp::crypto::Sensitive;
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::host_api::{self, HostApiOpener, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::logical::{
    Backend, BackendInfo, Cluster, Data, Entity, Group, MemoryStorage, Mount, Operation,
    ReplicationState, Request, RequestId, ServerVersion, StaticSystemView, Storage, SystemView,
    SystemViewError,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::HashPool;

use super::mail::Mail;
use super::storage::{Count, Counted};

/// The password that every account begins with.
pub const FIRST: &str = "first-password-of-the-account";

/// Real time, beginning at a given instant and set ahead when told to.
#[derive(Debug)]
pub struct SetClock {
    begun: Instant,
    wall: Mutex<DateTime<Utc>>,
}

impl SetClock {
    pub fn starting_at(now: DateTime<Utc>) -> Self {
        Self {
            begun: Instant::now(),
            wall: Mutex::new(now),
        }
    }

    /// Sets the wall clock to `now`.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.wall.lock().unwrap() = now - TimeDelta::from_std(self.begun.elapsed()).unwrap();
    }
}

impl Clock for SetClock {
    fn now(&self) -> DateTime<Utc> {
        let now = *self.wall.lock().unwrap() + self.begun.elapsed();
        DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// A host whose password policy hands out what was made before.
#[derive(Debug)]
struct View {
    host: StaticSystemView,
    passwords: Mutex<VecDeque<String>>,
}

#[async_trait]
impl SystemView for View {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        self.host.replication_state().await
    }

    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        self.host.local_mount().await
    }

    async fn tainted(&self) -> Result<bool, SystemViewError> {
        self.host.tainted().await
    }

    async fn caching_disabled(&self) -> Result<bool, SystemViewError> {
        self.host.caching_disabled().await
    }

    async fn mlock_enabled(&self) -> Result<bool, SystemViewError> {
        self.host.mlock_enabled().await
    }

    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        self.host.default_lease_ttl().await
    }

    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        self.host.max_lease_ttl().await
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, SystemViewError> {
        self.host.entity(id).await
    }

    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, SystemViewError> {
        self.host.groups_of_entity(id).await
    }

    async fn server_version(&self) -> Result<ServerVersion, SystemViewError> {
        self.host.server_version().await
    }

    async fn cluster(&self) -> Result<Cluster, SystemViewError> {
        self.host.cluster().await
    }

    async fn generate_password(&self, _policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        let next = self.passwords.lock().unwrap().pop_front();
        next.map(Sensitive::new).ok_or(SystemViewError::Unsupported)
    }
}

/// One process of the plugin with one mount.
pub struct Host {
    pub backend: Arc<SmtpBackend>,
    pub mount: Mount,
    pub storage: Arc<MemoryStorage>,
    pub count: Arc<Count>,
    pub clock: Arc<SetClock>,
}

impl Host {
    /// Starts one over `storage`.
    pub fn start(
        storage: &Arc<MemoryStorage>,
        mail: &Mail,
        pool: &HashPool,
        now: DateTime<Utc>,
        passwords: &[String],
    ) -> Self {
        Self::start_with(
            storage,
            mail,
            pool,
            (now, passwords),
            host_api::opener(Reach::default()),
        )
    }

    /// Starts one whose way to the host's own API is the given one.
    pub fn start_with(
        storage: &Arc<MemoryStorage>,
        mail: &Mail,
        pool: &HashPool,
        (now, passwords): (DateTime<Utc>, &[String]),
        host_api: HostApiOpener,
    ) -> Self {
        let clock = Arc::new(SetClock::starting_at(now));
        let count = Arc::new(Count::default());
        let parts = Parts {
            clock: Arc::clone(&clock) as _,
            identifiers: Arc::new(RandomIdentifiers),
            connector: mail.connector(),
            notifier: notifier(),
            host_api,
            hash_pool: pool.clone(),
            dev_loopback: false,
        };
        let mount = Mount {
            storage: Arc::new(Counted {
                inner: Arc::clone(storage) as Arc<dyn Storage>,
                count: Arc::clone(&count),
            }),
            system: Arc::new(View {
                host: StaticSystemView::default(),
                passwords: Mutex::new(passwords.iter().cloned().collect()),
            }),
        };
        Self {
            backend: Arc::new(SmtpBackend::new(parts, BackendInfo::default())),
            mount,
            storage: Arc::clone(storage),
            count,
            clock,
        }
    }

    /// Sends a request that has to succeed.
    pub async fn ask(&self, operation: Operation, path: &str, body: Value) -> Value {
        ask(&self.backend, &self.mount, operation, path, body).await
    }

    /// Lets events go by the host's own API, as an operator does.
    pub async fn deliver(&self) {
        let way = json!({
            "address": "http://127.0.0.1:8200", "role_id": "role-of-the-emitter",
            "secret_id": "secret-of-the-emitter",
        });
        self.ask(Operation::Update, "config/audit", way).await;
        self.idle().await;
        assert_eq!(self.undelivered().await, Some(0));
    }

    /// How many events wait for the devices, as the status says.
    pub async fn undelivered(&self) -> Option<u64> {
        let status = self.ask(Operation::Read, "status", json!({})).await;
        status["audit_delivery"]["undelivered"].as_u64()
    }

    /// Imports a tenant whose password was last changed at `last_rotated`.
    pub async fn import(&self, mail: &Mail, index: usize, last_rotated: DateTime<Utc>) {
        let (name, server) = (tenant(index), server(index));
        mail.put(&server, FIRST);
        let config = json!({ "mailu_url": server, "api_token": "token-of-the-mail-server" });
        self.ask(Operation::Create, &format!("{name}/config"), config)
            .await;
        let admin = json!({
            "username": format!("admin@{name}.example.test"),
            "password": FIRST,
            "last_rotated": last_rotated.to_rfc3339(),
            "webmail_url": format!("https://{name}.example.test/webmail"),
            "admin_emails": ["ops@example.test"],
        });
        let written = self
            .ask(Operation::Create, &format!("{name}/admin"), admin)
            .await;
        assert_eq!(written["proof"], "hash", "{written}");
    }

    /// Gives a tick; its work goes on.
    pub async fn tick(&self) {
        self.ask(Operation::Rollback, "", json!({})).await;
    }

    /// Waits until no work is under way.
    pub async fn idle(&self) {
        self.backend.idle().await;
    }
}

/// Sends a request that has to succeed.
pub async fn ask(
    backend: &SmtpBackend,
    mount: &Mount,
    operation: Operation,
    path: &str,
    body: Value,
) -> Value {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let body = body.as_object().cloned().unwrap_or_default();
    let mut request = Request::new(operation, path, Data::from_map(body));
    request.id = RequestId::new(format!("request-{number}"));
    request.mount_point = String::from("smtp/");
    match backend.handle_request(mount, request).await {
        Ok(Some(response)) => {
            let data = response.data.as_ref();
            Value::Object(data.map(|it| it.as_map().clone()).unwrap_or_default())
        }
        Ok(None) => Value::Null,
        Err(error) => panic!("{operation:?} {path}: {error}"),
    }
}

pub fn tenant(index: usize) -> String {
    format!("t{index:06}")
}

pub fn server(index: usize) -> String {
    format!("https://mail-{index}.example.test")
}
