//! The SMTP secrets engine: what is stored, what is sent to Mailu, in which order.
//!
//! Reading order: [`storage::record`] (the truth about a tenant), `locked` (how it is changed),
//! `rotation` (how a password changes), `paths` (what clients see).

mod audit_access;
mod batch;
mod cache;
mod census;
mod channels;
mod config;
mod counters;
mod emission;
mod error;
mod failures;
mod finding;
mod guard;
mod hint;
mod joined;
mod keyring;
mod keys;
mod left_out;
mod lifecycle;
mod locked;
mod mail;
mod mount_change;
mod mount_log;
mod outbox;
mod paths;
mod rotation;
mod runner;
mod schedule;
mod state;
pub mod storage;
mod tenant;
mod trusted;
mod watch;
mod zone;

use std::fmt;
use std::sync::{Arc, Weak};

use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::crypto::Keyring;
use crate::host_api::HostApiOpener;
use crate::identifiers::Identifiers;
use crate::keyed_lock::KeyedLock;
use crate::logical::{Mount, Router};
use crate::notify::Notifier;
use crate::provider::{Connector, HashPool, NetworkPolicy};
use crate::tasks::Tasks;
use audit_access::AuditAccess;
use cache::{Records, Role, Single};
use channels::Channels;
use config::MountConfig;
use error::Error;
use guard::Guard;
use runner::Rewrap;

pub use lifecycle::SmtpBackend;

/// What the engine is built from; tests put their own clock and connector in.
#[derive(Clone)]
pub struct Parts {
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// The source of identifiers.
    pub identifiers: Arc<dyn Identifiers>,
    /// Makes mail server clients.
    pub connector: Connector,
    /// Makes notification channels.
    pub notifier: Notifier,
    /// Makes clients of the host's own API.
    pub host_api: HostApiOpener,
    /// Where password hashes are computed, shared by all mounts of the process.
    pub hash_pool: HashPool,
    /// Development only: plain http and loopback addresses are allowed.
    pub dev_loopback: bool,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("dev_loopback", &self.dev_loopback)
            .finish_non_exhaustive()
    }
}

/// One mount's engine. Holds nothing that storage does not.
#[derive(Debug)]
pub struct Engine {
    /// Itself, for tasks that outlive the call in which they begin.
    me: Weak<Self>,
    /// When this process began to serve the mount.
    started_at: DateTime<Utc>,
    parts: Parts,
    /// Through which every write of the mount goes.
    guard: Arc<Guard>,
    tasks: Tasks,
    /// One per tenant, for every change. Taken before any other lock but a server's place.
    tenant_locks: KeyedLock,
    /// Who wants a tenant's lock with the place at its server comes one after the other: taken before
    /// both.
    tenant_queues: KeyedLock,
    /// One per mail account, taken after the tenant's: one account belongs to one tenant.
    account_locks: KeyedLock,
    /// One per Mailu server: its admin hashes serially, parallel calls only queue there.
    server_locks: KeyedLock,
    /// For the keyring, the settings, the notification channels, the way to the host's own API, the
    /// rules of alerts, and the mount's own events.
    mount_lock: KeyedLock,
    role: Role,
    keyring: Single<Keyring>,
    rewrap: Rewrap,
    config: Single<MountConfig>,
    channels: Single<Channels>,
    audit_access: Single<Option<AuditAccess>>,
    alerts: Single<watch::Rules>,
    watch: watch::Remembered,
    outbox: outbox::Outbox,
    emission: emission::Emission,
    records: Records,
    servers: mail::Servers,
    unasked: mail::UnaskedServers,
    joined: joined::Joined,
    open_changes: mount_change::OpenChanges,
    failures: failures::Failures,
    trusted_time: trusted::TrustedTime,
    runner: runner::Runner,
    batches: batch::Batches,
    counters: counters::Counters,
    reindex: runner::Reindex,
}

impl Engine {
    fn new(parts: Parts, mount_uuid: String, me: Weak<Self>) -> Self {
        Self {
            me,
            started_at: parts.clock.now(),
            parts,
            guard: Arc::new(Guard::new(mount_uuid)),
            tasks: Tasks::new(),
            tenant_locks: KeyedLock::new(),
            tenant_queues: KeyedLock::new(),
            account_locks: KeyedLock::new(),
            server_locks: KeyedLock::new(),
            mount_lock: KeyedLock::new(),
            role: Role::default(),
            keyring: Single::default(),
            rewrap: Rewrap::default(),
            config: Single::default(),
            channels: Single::default(),
            audit_access: Single::default(),
            alerts: Single::default(),
            watch: watch::Remembered::default(),
            outbox: outbox::Outbox::default(),
            emission: emission::Emission::default(),
            records: Records::new(),
            servers: mail::Servers::default(),
            unasked: mail::UnaskedServers::default(),
            joined: joined::Joined::default(),
            open_changes: mount_change::OpenChanges::default(),
            failures: failures::Failures::default(),
            trusted_time: trusted::TrustedTime::default(),
            runner: runner::Runner::default(),
            batches: batch::Batches::default(),
            counters: counters::Counters::default(),
            reindex: runner::Reindex::default(),
        }
    }

    fn clock(&self) -> &dyn Clock {
        &*self.parts.clock
    }

    fn identifiers(&self) -> &dyn Identifiers {
        &*self.parts.identifiers
    }

    /// Returns the mount's settings.
    async fn config(&self, mount: &Mount) -> Result<Arc<MountConfig>, Error> {
        if let Some(config) = self.config.fresh(&self.role, self.clock()) {
            return Ok(config);
        }
        let before = self.config.before_get(self.clock());
        let entry = mount.storage.get(storage::CONFIG).await?;
        let config = MountConfig::decode(entry.as_ref().map(|entry| entry.value.as_slice()));
        let config = match config {
            Ok(config) => Arc::new(config),
            Err(error) => return Err(self.failed_read(mount, error).await),
        };
        self.config.fill(&config, before);
        Ok(config)
    }

    /// Returns the keyring for reading; an error if the mount never had one.
    async fn keyring(&self, mount: &Mount) -> Result<Arc<Keyring>, Error> {
        if let Some(keyring) = self.keyring.fresh(&self.role, self.clock()) {
            return Ok(keyring);
        }
        let before = self.keyring.before_get(self.clock());
        let found = match keys::load(&*mount.storage, &self.guard, self.clock()).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Error::Keyring("the mount has no keyring yet")),
            Err(error) => Err(error),
        };
        let keyring = match found {
            Ok(found) => Arc::new(found.keyring),
            Err(error) => return Err(self.failed_read(mount, error).await),
        };
        self.keyring.fill(&keyring, before);
        Ok(keyring)
    }

    /// Returns the keyring for writing, creating the first one on the active node.
    async fn keyring_for_writing(&self, mount: &Mount) -> Result<Arc<Keyring>, Error> {
        if let Some(keyring) = self.keyring.fresh(&self.role, self.clock()) {
            return Ok(keyring);
        }
        let _mount_guard = self.mount_lock.lock("keyring").await;
        let before = self.keyring.before_get(self.clock());
        let storage = &*mount.storage;
        let Some(found) = keys::load(storage, &self.guard, self.clock()).await? else {
            let keyring = keys::create(storage, &self.guard, self.clock()).await?;
            let keyring = Arc::new(keyring);
            self.keyring.fill(&keyring, before);
            return Ok(keyring);
        };
        let sealed_with = found.keyring.latest();
        let keyring = Arc::new(keys::complete(storage, found, &self.guard).await);
        if keyring.latest() == sealed_with {
            self.keyring.fill(&keyring, before);
        } else {
            self.replace_keyring(&keyring);
        }
        Ok(keyring)
    }

    /// Puts a keyring into memory that was just stored and read back, for good: a read under way
    /// may have begun before. The caller holds the keyring's lock.
    fn replace_keyring(&self, keyring: &Arc<Keyring>) {
        self.keyring.forget();
        let before = self.keyring.before_get(self.clock());
        self.keyring.fill(keyring, before);
        self.rewrap.want();
    }

    /// Refuses on nodes that may not write, with the error by which the host forwards the request
    /// to the active node. Also asked by reads that a standby must not answer.
    async fn require_active_node(&self, mount: &Mount) -> Result<(), Error> {
        let active = mount.active_node().await;
        // What holds for one role is not to be believed in the other. Unknown counts as standby.
        if self.role.note(active.is_ok()) {
            self.guard.forget();
            self.records.forget_all();
            self.runner.forget();
            self.servers.forget_all();
            self.unasked.forget_all();
            self.failures.forget_all();
            self.trusted_time.forget();
            self.keyring.forget();
            self.config.forget();
            self.channels.forget();
            self.audit_access.forget();
            self.alerts.forget();
            self.watch.forget();
            self.outbox.forget();
            self.emission.forget();
            self.rewrap.want();
            self.batches.want();
            self.open_changes.want();
            self.reindex.want();
            self.counters.forget_tenants();
        }
        match active {
            Ok(_proof) => Ok(()),
            Err(crate::logical::Error::ReadOnly) => Err(Error::Standby),
            Err(unknown) => Err(unknown.into()),
        }
    }

    /// Asks the host what this node may believe of what it keeps in memory.
    async fn note_role(&self, mount: &Mount) {
        if let Err(error) = self.require_active_node(mount).await {
            tracing::debug!(%error, "this node does not write, as far as it knows");
        }
        // A host that does not say is one without the switch.
        let disabled = mount.system.caching_disabled().await;
        self.role.note_caching_disabled(disabled.unwrap_or(false));
    }

    /// Refuses on standbys, on mounts that are being removed and in a storage that another mount has
    /// made; asked before anything else of every request that changes something.
    async fn require_active(&self, mount: &Mount) -> Result<(), Error> {
        self.require_active_anywhere(mount).await?;
        self.require_own_storage(mount).await
    }

    /// Refuses in a storage that another mount has made.
    async fn require_own_storage(&self, mount: &Mount) -> Result<(), Error> {
        if self.guard.is_unread() {
            // A keyring that is missing or unreadable says nothing of whose it is; whoever needs it
            // says what is wrong with it.
            match keys::load(&*mount.storage, &self.guard, self.clock()).await {
                Ok(_) | Err(Error::Keyring(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match self.guard.foreign() {
            Some(foreign) => Err(foreign.error()),
            None => Ok(()),
        }
    }

    /// Like [`Engine::require_active`] in anybody's storage: for who adopts it.
    async fn require_active_anywhere(&self, mount: &Mount) -> Result<(), Error> {
        // Both are round trips to the host: ask at once.
        let tainted = mount.system.tainted();
        let (active, tainted) = tokio::join!(self.require_active_node(mount), tainted);
        active?;
        if tainted? {
            Err(Error::Tainted)
        } else {
            Ok(())
        }
    }

    /// What a failed read means on this node: a standby's copy of keyring and record may be of
    /// different ages, so the active node is asked instead.
    async fn failed_read(&self, mount: &Mount, error: Error) -> Error {
        match error {
            Error::Keyring(_) | Error::Unopenable(_) | Error::Entry { .. } => {
                self.require_active_node(mount).await.err().unwrap_or(error)
            }
            other => other,
        }
    }

    /// Returns the rules for every outgoing connection but the one to the host's own API.
    async fn network_policy(
        &self,
        mount: &Mount,
        config: &MountConfig,
    ) -> Result<NetworkPolicy, Error> {
        let mut policy = NetworkPolicy {
            allowed: config.address_rules()?,
            dev_loopback: self.parts.dev_loopback,
            ..NetworkPolicy::default()
        };
        self.refuse_audit_address(mount, &mut policy).await?;
        Ok(policy)
    }
}

/// Builds the router and the engine of one mount.
fn assemble(parts: Parts, mount_uuid: String) -> (Arc<Engine>, Router<Engine>) {
    let engine = Arc::new_cyclic(|me| Engine::new(parts, mount_uuid, Weak::clone(me)));
    (engine, paths::router())
}
