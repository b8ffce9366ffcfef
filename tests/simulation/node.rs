//! A process of the plugin on a node of the cluster, and the node's storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use serde_json::{Map, Value};
use vault_plugin_secrets_smtp::engine::{Parts, SmtpBackend};
use vault_plugin_secrets_smtp::host_api::{self, Reach};
use vault_plugin_secrets_smtp::identifiers::RandomIdentifiers;
use vault_plugin_secrets_smtp::logical::{
    Backend, BackendInfo, Data, MemoryStorage, Mount, Operation, ReplicationState, Reply, Request,
    RequestId, StaticSystemView, Storage, StorageEntry, StorageError,
};
use vault_plugin_secrets_smtp::notify::notifier;
use vault_plugin_secrets_smtp::provider::HashPool;

use super::clock::SimulatedClock;
use super::mail::Mail;

/// Whether a process lives; a killed one calls nobody any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Life(Arc<AtomicBool>);

impl Life {
    /// Returns if the process lives, and never if it was killed.
    pub(super) async fn alive(&self) {
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The storage as one process reaches it.
#[derive(Debug)]
struct Link {
    storage: Arc<MemoryStorage>,
    life: Life,
    calls: AtomicU64,
    /// A standby's.
    read_only: AtomicBool,
}

impl Link {
    async fn enter(&self) {
        self.life.alive().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    async fn write(&self) -> Result<(), StorageError> {
        self.enter().await;
        if self.read_only.load(Ordering::Relaxed) {
            return Err(StorageError::ReadOnly);
        }
        Ok(())
    }
}

#[async_trait]
impl Storage for Link {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        self.enter().await;
        self.storage.get(key).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        self.write().await?;
        self.storage.put(entry).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.write().await?;
        self.storage.compare_and_put(entry, expected).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.write().await?;
        self.storage.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.enter().await;
        self.storage.list(prefix).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.enter().await;
        self.storage.list_page(prefix, after, limit).await
    }
}

/// One process with one mount.
#[derive(Debug)]
pub(super) struct Node {
    backend: SmtpBackend,
    mount: Mount,
    link: Arc<Link>,
    life: Life,
}

impl Node {
    pub(super) fn start(
        storage: &Arc<MemoryStorage>,
        mail: &Mail,
        clock: &Arc<SimulatedClock>,
    ) -> Self {
        let life = Life::default();
        let parts = Parts {
            clock: Arc::clone(clock) as _,
            identifiers: Arc::new(RandomIdentifiers),
            connector: mail.connector(&life),
            notifier: notifier(),
            host_api: host_api::opener(Reach::default()),
            hash_pool: HashPool::new(),
            dev_loopback: false,
        };
        let link = Arc::new(Link {
            storage: Arc::clone(storage),
            life: life.clone(),
            calls: AtomicU64::new(0),
            read_only: AtomicBool::new(false),
        });
        let mount = Mount {
            storage: Arc::clone(&link) as _,
            system: Arc::new(StaticSystemView::default()),
        };
        Self {
            backend: SmtpBackend::new(parts, BackendInfo::default()),
            mount,
            link,
            life,
        }
    }

    /// Makes it a standby, or the active node.
    pub(super) fn set_active(&mut self, active: bool) {
        self.link.read_only.store(!active, Ordering::Relaxed);
        let state = if active { 0x2020 } else { 0x6000 };
        self.mount.system = Arc::new(StaticSystemView {
            replication_state: ReplicationState(state),
            ..StaticSystemView::default()
        });
    }

    /// How often it has called storage.
    pub(super) fn storage_calls(&self) -> u64 {
        self.link.calls.load(Ordering::Relaxed)
    }

    /// Kills the process, whatever it is doing.
    pub(super) fn kill(&self) {
        self.life.end();
    }

    /// Ends the process as the host does.
    pub(super) async fn stop(&self) {
        self.backend.cleanup().await;
        self.life.end();
    }

    /// Gives the tick that the host gives each minute; its work goes on afterwards.
    pub(super) async fn tick(&self) {
        let reply = self.send(Operation::Rollback, "", Map::new()).await;
        assert!(matches!(reply, Ok(None)), "{reply:?}");
    }

    /// Waits until no work is under way.
    pub(super) async fn idle(&self) {
        self.backend.idle().await;
    }

    pub(super) async fn send(
        &self,
        operation: Operation,
        path: &str,
        body: Map<String, Value>,
    ) -> Reply {
        static REQUESTS: AtomicU64 = AtomicU64::new(1);
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::new(operation, path, Data::from_map(body));
        request.id = RequestId::new(format!("request-{number}"));
        request.display_name = String::from("userpass-operator");
        request.entity_id = String::from("entity-of-the-operator");
        request.mount_point = String::from("smtp/");
        self.backend.handle_request(&self.mount, request).await
    }

    /// Sends a request that has to succeed; returns what it answers.
    pub(super) async fn ask(&self, operation: Operation, path: &str, body: Value) -> Value {
        let body = body.as_object().cloned().unwrap_or_default();
        match self.send(operation, path, body).await {
            Ok(Some(response)) => {
                let data = response.data.as_ref();
                Value::Object(data.map(|it| it.as_map().clone()).unwrap_or_default())
            }
            Ok(None) => Value::Null,
            Err(error) => panic!("{operation:?} {path}: {error}"),
        }
    }
}
