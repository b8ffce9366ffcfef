//! The SMTP secrets engine: what is stored, what is sent to Mailu, in which order.
//!
//! Reading order: [`storage::record`] (the truth about a tenant), `locked` (how it is changed),
//! `rotation` (how a password changes), `paths` (what clients see).

mod config;
mod error;
mod joined;
mod keys;
mod lifecycle;
mod locked;
mod mail;
mod mount_log;
mod paths;
mod rotation;
mod schedule;
mod state;
pub mod storage;
mod tenant;

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::crypto::Keyring;
use crate::keyed_lock::KeyedLock;
use crate::logical::{Mount, Router};
use crate::provider::{Connector, HashPool, NetworkPolicy};
use crate::tasks::Tasks;
use config::MountConfig;
use error::Error;
use keys::Cached;

pub use lifecycle::SmtpBackend;

/// What the engine is built from; tests put their own clock and connector in.
#[derive(Clone)]
pub struct Parts {
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// Makes mail server clients.
    pub connector: Connector,
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
    parts: Parts,
    tasks: Tasks,
    /// One per tenant, for every change. Taken before any other lock.
    tenant_locks: KeyedLock,
    /// One per mail account, taken after the tenant's: one account belongs to one tenant.
    account_locks: KeyedLock,
    /// One per Mailu server: its admin hashes serially, parallel calls only queue there.
    server_locks: KeyedLock,
    /// For the keyring, the settings and the mount's own events.
    mount_lock: KeyedLock,
    keyring: Cached<Keyring>,
    config: Cached<MountConfig>,
    joined: joined::Joined,
}

impl Engine {
    fn new(parts: Parts) -> Self {
        Self {
            parts,
            tasks: Tasks::new(),
            tenant_locks: KeyedLock::new(),
            account_locks: KeyedLock::new(),
            server_locks: KeyedLock::new(),
            mount_lock: KeyedLock::new(),
            keyring: Cached::default(),
            config: Cached::default(),
            joined: joined::Joined::default(),
        }
    }

    fn clock(&self) -> &dyn Clock {
        &*self.parts.clock
    }

    /// Returns the mount's settings.
    async fn config(&self, mount: &Mount) -> Result<Arc<MountConfig>, Error> {
        if let Some(config) = self.config.fresh(self.clock()) {
            return Ok(config);
        }
        let epoch = self.config.epoch();
        let entry = mount.storage.get(storage::CONFIG).await?;
        let config = MountConfig::decode(entry.as_ref().map(|entry| entry.value.as_slice()))?;
        let config = Arc::new(config);
        self.config.fill(&config, epoch, self.clock());
        Ok(config)
    }

    /// Returns the keyring for reading; an error if the mount never had one.
    async fn keyring(&self, mount: &Mount) -> Result<Arc<Keyring>, Error> {
        if let Some(keyring) = self.keyring.fresh(self.clock()) {
            return Ok(keyring);
        }
        let epoch = self.keyring.epoch();
        let keyring = keys::load(&*mount.storage)
            .await?
            .ok_or(Error::Keyring("the mount has no keyring yet"))?
            .keyring;
        let keyring = Arc::new(keyring);
        self.keyring.fill(&keyring, epoch, self.clock());
        Ok(keyring)
    }

    /// Returns the keyring for writing, creating the first one on the active node.
    async fn keyring_for_writing(&self, mount: &Mount) -> Result<Arc<Keyring>, Error> {
        if let Some(keyring) = self.keyring.fresh(self.clock()) {
            return Ok(keyring);
        }
        let _mount_guard = self.mount_lock.lock("keyring").await;
        let epoch = self.keyring.epoch();
        let keyring = match keys::load(&*mount.storage).await? {
            Some(found) => keys::complete(&*mount.storage, found).await,
            None => keys::create(&*mount.storage, self.clock()).await?,
        };
        let keyring = Arc::new(keyring);
        self.keyring.fill(&keyring, epoch, self.clock());
        Ok(keyring)
    }

    /// Refuses on nodes that may not write, with the error by which the host forwards the request
    /// to the active node. Also asked by reads that a standby must not answer.
    async fn require_active_node(&self, mount: &Mount) -> Result<(), Error> {
        let state = mount.system.replication_state().await?;
        // Only performance secondaries make a difference for local mounts: ask only then.
        let local =
            !state.may_write(false) && state.may_write(true) && mount.system.local_mount().await?;
        if state.may_write(local) {
            Ok(())
        } else {
            Err(Error::Standby)
        }
    }

    /// Refuses on standbys and on mounts that are being removed; asked before anything else of
    /// every request that changes something.
    async fn require_active(&self, mount: &Mount) -> Result<(), Error> {
        self.require_active_node(mount).await?;
        if mount.system.tainted().await? {
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

    /// Returns the rules for every outgoing connection.
    fn network_policy(&self, config: &MountConfig) -> Result<NetworkPolicy, Error> {
        Ok(NetworkPolicy {
            allowed: config.address_rules()?,
            dev_loopback: self.parts.dev_loopback,
            refused: Vec::new(),
        })
    }
}

/// Builds the router and the engine of one mount.
fn assemble(parts: Parts) -> (Arc<Engine>, Router<Engine>) {
    (Arc::new(Engine::new(parts)), paths::router())
}
