//! The rewrap: after a rotation of the keyring every stored secret is encrypted anew.
//!
//! A pass goes through all tenants by name, a slice at each tick, and keeps its place in one entry.
//! What must stay true: a pass that is finished has left no ciphertext of an older key in a record
//! that can be read.
//!
//! - Records written behind the pass's place are sealed by the newest key, because a change takes
//!   the keyring when it has the tenant's lock, and memory has the new one since before the pass
//!   began.
//! - `config/audit` and the notification channels, of which there are few, come last and all at once, under the lock
//!   that their writers have.
//! - Changes under way at that time may hold the older one: their tenants, told by the locks, come
//!   first and are waited for. The changes of an earlier process ended with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::error::Error;
use crate::engine::storage::{self, REWRAP, TENANTS};
use crate::engine::tenant::TenantName;
use crate::engine::{Engine, keys};
use crate::logical::{Mount, StorageEntry};

/// How many tenants are looked at in one tick.
const SLICE: usize = 200;
/// How many unreadable tenants are named; there may be more.
const MOST_NAMES: usize = 100;
const SCHEMA: u32 = 1;

/// What this process knows of the pass, so that a tick without work asks nobody.
#[derive(Debug)]
pub(in crate::engine) struct Rewrap {
    /// Grows whenever there may be something to do.
    wanted: AtomicU64,
    /// What was wanted when the changes under way were waited for.
    begun: AtomicU64,
    /// What was wanted when there was nothing left to do.
    settled: AtomicU64,
    /// A slice is under way.
    under_way: AtomicBool,
}

impl Default for Rewrap {
    fn default() -> Self {
        Self {
            wanted: AtomicU64::new(1),
            begun: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            under_way: AtomicBool::new(false),
        }
    }
}

impl Rewrap {
    /// There may be something to do: another key seals now, or this node begins to write.
    pub(in crate::engine) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::SeqCst);
    }

    fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::SeqCst)
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst) == self.wanted()
    }

    fn settle(&self, wanted: u64) {
        self.settled.store(wanted, Ordering::SeqCst);
    }
}

/// How far a pass is, under `rewrap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct RewrapProgress {
    schema: u32,
    /// The version that everything is to be sealed by.
    pub(in crate::engine) version: u32,
    /// The last tenant looked at; empty at the start.
    pub(in crate::engine) after: String,
    /// How many were looked at.
    pub(in crate::engine) tenants: u64,
    /// Those of them whose record or secrets could not be read, at most 100 by name.
    pub(in crate::engine) unreadable: Vec<String>,
    pub(in crate::engine) started_at: DateTime<Utc>,
    /// When the last one was looked at.
    pub(in crate::engine) finished_at: Option<DateTime<Utc>>,
}

impl RewrapProgress {
    const fn new(version: u32, now: DateTime<Utc>) -> Self {
        Self {
            schema: SCHEMA,
            version,
            after: String::new(),
            tenants: 0,
            unreadable: Vec::new(),
            started_at: now,
            finished_at: None,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(REWRAP, bytes, SCHEMA)?;
        storage::decode(REWRAP, bytes)
    }

    fn note_unreadable(&mut self, name: &str) {
        if self.unreadable.len() < MOST_NAMES {
            self.unreadable.push(name.to_owned());
        }
    }
}

impl Engine {
    /// Goes on with the rewrap in the background, by a bounded number of tenants. Nothing is asked
    /// of anybody if there is nothing to do. Never fails: the next tick goes on.
    pub(super) fn begin_rewrap(self: &Arc<Self>, mount: &Mount) {
        // A slice may wait for a tenant's lock; the next tick does not wait for it.
        if self.rewrap.is_settled() || self.rewrap.under_way.swap(true, Ordering::SeqCst) {
            return;
        }
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks.spawn(async move {
            match engine.rewrap_slice(&mount, engine.rewrap.wanted()).await {
                Ok(()) | Err(Error::Standby | Error::Tainted) => {}
                Err(error) => tracing::warn!(%error, "the rewrap rests until the next tick"),
            }
            engine.rewrap.under_way.store(false, Ordering::SeqCst);
        });
    }

    /// Returns how far the last pass came; `None` if there never was one.
    pub(in crate::engine) async fn rewrap_progress(
        &self,
        mount: &Mount,
    ) -> Result<Option<RewrapProgress>, Error> {
        let Some(entry) = mount.storage.get(REWRAP).await? else {
            return Ok(None);
        };
        match RewrapProgress::decode(&entry.value) {
            Ok(progress) => Ok(Some(progress)),
            // Only a place to go on from: without it everything is looked at again.
            Err(error) => {
                tracing::warn!(%error, "the rewrap's progress is not readable");
                Ok(None)
            }
        }
    }

    /// Has every tenant looked at again.
    pub(in crate::engine) async fn restart_rewrap(
        &self,
        mount: &Mount,
        version: u32,
    ) -> Result<(), Error> {
        let _guard = self.mount_lock.lock("rewrap").await;
        let progress = RewrapProgress::new(version, self.clock().now());
        self.store_progress(mount, &progress).await?;
        self.rewrap.want();
        Ok(())
    }

    async fn rewrap_slice(self: &Arc<Self>, mount: &Mount, wanted: u64) -> Result<(), Error> {
        let _guard = self.mount_lock.lock("rewrap").await;
        self.require_active(mount).await?;
        // A mount without a keyring gets none by a tick.
        if keys::load(&*mount.storage, &self.guard, self.clock())
            .await?
            .is_none()
        {
            self.rewrap.settle(wanted);
            return Ok(());
        }
        let keyring = self.keyring_for_writing(mount).await?;
        if keyring.versions().count() < 2 {
            self.rewrap.settle(wanted);
            return Ok(());
        }
        let latest = keyring.latest();
        let now = self.clock().now();
        let mut progress = self
            .rewrap_progress(mount)
            .await?
            .filter(|progress| progress.version == latest)
            .unwrap_or_else(|| RewrapProgress::new(latest, now));
        if progress.finished_at.is_none() {
            if self.rewrap.begun.load(Ordering::SeqCst) != wanted {
                self.wait_for_older_changes(mount).await?;
                self.rewrap.begun.store(wanted, Ordering::SeqCst);
            }
            let outcome = self.rewrap_page(mount, &mut progress).await;
            self.store_progress(mount, &progress).await?;
            outcome?;
        }
        if progress.finished_at.is_some() {
            self.rewrap.settle(wanted);
        }
        Ok(())
    }

    /// Waits for every change that may have taken an older keyring, and seals anew what it stored.
    async fn wait_for_older_changes(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        for name in self.tenant_locks.held() {
            let name = TenantName::parse(&name)?;
            let sealed = match self.lock_tenant(mount, &name).await {
                Ok(mut locked) => locked.rewrap().await,
                Err(error) => Err(error),
            };
            match sealed {
                Ok(_) => {}
                // It is among those that the pass comes to, and reported there.
                Err(error) if is_of_this_tenant(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Looks at the next tenants and moves the place behind each.
    async fn rewrap_page(
        self: &Arc<Self>,
        mount: &Mount,
        progress: &mut RewrapProgress,
    ) -> Result<(), Error> {
        let names = mount.storage.list_page(TENANTS, &progress.after, SLICE);
        let names = names.await?;
        for name in &names {
            if self.tasks.is_stopping() {
                return Ok(());
            }
            match self.rewrap_tenant(mount, name, progress.version).await {
                Ok(()) => {}
                Err(error) if is_of_this_tenant(&error) => {
                    tracing::warn!(tenant = %name, %error, "not encrypted anew");
                    progress.note_unreadable(name);
                }
                Err(error) => return Err(error),
            }
            progress.after.clone_from(name);
            progress.tenants += 1;
        }
        if names.len() < SLICE {
            for key in self.rewrap_channels(mount).await? {
                progress.note_unreadable(&key);
            }
            if let Some(key) = self.rewrap_audit_access(mount).await? {
                progress.note_unreadable(key);
            }
            progress.finished_at = Some(self.clock().now());
            tracing::info!(
                version = progress.version,
                tenants = progress.tenants,
                unreadable = progress.unreadable.len(),
                "the rewrap is finished"
            );
        }
        Ok(())
    }

    /// Seals one tenant's secrets anew; takes its lock only if there is something to do.
    async fn rewrap_tenant(
        self: &Arc<Self>,
        mount: &Mount,
        name: &str,
        latest: u32,
    ) -> Result<(), Error> {
        let parsed = TenantName::parse(name)?;
        let key = storage::tenant_key(name);
        let Some(entry) = mount.storage.get(&key).await? else {
            return Ok(());
        };
        storage::decode_tenant(&key, &entry.value)?;
        if storage::sealed_by(&entry.value)
            .iter()
            .all(|version| *version == latest)
        {
            return Ok(());
        }
        self.lock_tenant(mount, &parsed).await?.rewrap().await?;
        Ok(())
    }

    async fn store_progress(&self, mount: &Mount, progress: &RewrapProgress) -> Result<(), Error> {
        let entry = StorageEntry::new(REWRAP, storage::encode(progress)?);
        mount.storage.put(entry).await?;
        Ok(())
    }
}

/// Tells what is wrong with one tenant from what is wrong with the node, the mount or its storage.
const fn is_of_this_tenant(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidTenant(_) | Error::Entry { .. } | Error::Unopenable(_) | Error::Defect(_)
    )
}
