//! The reindex: every pointer is rebuilt from the records, on request.
//!
//! A pass goes through all tenants by name, a slice at each tick, and keeps its place in one entry;
//! then through the pointers of mail accounts, of which it removes those that no record needs.
//! Stale pointers to open work and of days are removed by the ticks that follow them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage::{self, ACCOUNTS, REINDEX, TENANTS};
use crate::engine::tenant::TenantName;
use crate::logical::{Mount, StorageEntry, StorageError};

/// How many tenants, or accounts, are looked at in one tick.
const SLICE: usize = 200;
/// Entries that storage refused; the pass waits for them before it takes more.
const MOST_LEFT: usize = 100;
/// After so many tries an entry that storage refuses counts as unreadable.
const MOST_TRIES: u32 = 10;
const SCHEMA: u32 = 1;

/// What this process knows of the pass, so that a tick without work asks nobody.
#[derive(Debug)]
pub(in crate::engine) struct Reindex {
    /// There may be something to do.
    wanted: AtomicBool,
    /// A slice is under way.
    under_way: AtomicBool,
}

impl Default for Reindex {
    fn default() -> Self {
        Self {
            // Nothing is known yet.
            wanted: AtomicBool::new(true),
            under_way: AtomicBool::new(false),
        }
    }
}

impl Reindex {
    /// There may be something to do: somebody asked, or this node begins to write.
    pub(in crate::engine) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }
}

/// A slice under way; however it ends, the next tick goes on.
#[derive(Debug)]
struct Slice(Arc<Engine>);

impl Drop for Slice {
    fn drop(&mut self) {
        self.0.reindex.under_way.store(false, Ordering::SeqCst);
    }
}

/// How far a pass is, under `reindex`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct ReindexProgress {
    schema: u32,
    /// The last tenant, or the last account, looked at; empty at the start of each.
    after: String,
    /// All tenants were looked at, and the accounts follow.
    accounts: bool,
    /// Tenants, or accounts, that storage refused, with the number of tries.
    left: BTreeMap<String, u32>,
    /// How many tenants were looked at.
    pub(in crate::engine) tenants: u64,
    /// How many pointers were put back.
    pub(in crate::engine) repaired: u64,
    /// How many pointers of mail accounts were removed.
    pub(in crate::engine) removed: u64,
    /// How many records or pointers could not be read.
    pub(in crate::engine) unreadable: u64,
    pub(in crate::engine) started_at: DateTime<Utc>,
    pub(in crate::engine) finished_at: Option<DateTime<Utc>>,
}

impl ReindexProgress {
    const fn new(now: DateTime<Utc>) -> Self {
        Self {
            schema: SCHEMA,
            after: String::new(),
            accounts: false,
            left: BTreeMap::new(),
            tenants: 0,
            repaired: 0,
            removed: 0,
            unreadable: 0,
            started_at: now,
            finished_at: None,
        }
    }

    /// One entry is not done. What storage refuses is tried again at later ticks, and in the end
    /// passed over like what is damaged: it must not keep the others from their pointers.
    fn note_trouble(&mut self, name: &str, error: &Error) {
        let tries = self.left.remove(name).unwrap_or(0) + 1;
        if matches!(error, Error::Storage(_)) && tries < MOST_TRIES {
            self.left.insert(name.to_owned(), tries);
            return;
        }
        tracing::warn!(entry = %name, %error, "not reindexed");
        self.unreadable += 1;
    }

    /// All tenants are done, or all accounts.
    fn turn(&mut self, now: DateTime<Utc>) {
        if !self.accounts {
            self.accounts = true;
            self.after = String::new();
            return;
        }
        self.finished_at = Some(now);
        tracing::info!(
            tenants = self.tenants,
            repaired = self.repaired,
            removed = self.removed,
            unreadable = self.unreadable,
            "the reindex is finished"
        );
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(REINDEX, bytes, SCHEMA)?;
        storage::decode(REINDEX, bytes)
    }
}

impl Engine {
    /// Begins a pass, unless one is under way; returns its progress and whether it is a new one.
    pub(in crate::engine) async fn reindex_now(
        &self,
        mount: &Mount,
    ) -> Result<(ReindexProgress, bool), Error> {
        let _guard = self.mount_lock.lock("reindex").await;
        let known = self.reindex_progress(mount).await?;
        self.reindex.want();
        match known {
            Some(progress) if progress.finished_at.is_none() => Ok((progress, false)),
            _ => {
                let progress = ReindexProgress::new(self.clock().now());
                self.store_reindex(mount, &progress).await?;
                Ok((progress, true))
            }
        }
    }

    /// Returns how far the last pass came; `None` if there never was one.
    pub(in crate::engine) async fn reindex_progress(
        &self,
        mount: &Mount,
    ) -> Result<Option<ReindexProgress>, Error> {
        let Some(entry) = mount.storage.get(REINDEX).await? else {
            return Ok(None);
        };
        match ReindexProgress::decode(&entry.value) {
            Ok(progress) => Ok(Some(progress)),
            // Only a place to go on from: whoever asks again begins anew.
            Err(error) => {
                tracing::warn!(%error, "the reindex's progress is not readable");
                Ok(None)
            }
        }
    }

    /// Goes on with the pass in the background, by a bounded number of tenants. Nothing is asked
    /// of anybody if there is nothing to do. Never fails: the next tick goes on.
    pub(super) fn begin_reindex(self: &Arc<Self>, mount: &Mount) {
        let reindex = &self.reindex;
        if !reindex.wanted.load(Ordering::SeqCst) || reindex.under_way.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let slice = Slice(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = &slice.0;
            match engine.reindex_slice(&mount).await {
                Ok(()) | Err(Error::Standby | Error::Tainted) => {}
                Err(error) => tracing::warn!(%error, "the reindex rests until the next tick"),
            }
        });
    }

    async fn reindex_slice(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        let _guard = self.mount_lock.lock("reindex").await;
        self.require_active(mount).await?;
        let known = self.reindex_progress(mount).await?;
        let Some(mut progress) = known.filter(|progress| progress.finished_at.is_none()) else {
            self.reindex.wanted.store(false, Ordering::SeqCst);
            return Ok(());
        };
        let outcome = self.reindex_next(mount, &mut progress).await;
        self.store_reindex(mount, &progress).await?;
        outcome
    }

    /// Looks again at what storage refused, then at the next tenants or accounts, and moves the
    /// place behind each.
    async fn reindex_next(
        self: &Arc<Self>,
        mount: &Mount,
        progress: &mut ReindexProgress,
    ) -> Result<(), Error> {
        let again: Vec<String> = progress.left.keys().cloned().collect();
        let folder = if progress.accounts { ACCOUNTS } else { TENANTS };
        let mut page = Vec::new();
        let takes_more = again.len() < MOST_LEFT;
        if takes_more {
            let names = mount.storage.list_page(folder, &progress.after, SLICE);
            page = names.await?;
        }
        for name in &again {
            if self.tasks.is_stopping() {
                return Ok(());
            }
            self.reindex_one(mount, progress, name).await?;
        }
        for name in &page {
            if self.tasks.is_stopping() {
                return Ok(());
            }
            let broken = match self.reindex_one(mount, progress, name).await {
                // It waits among those that are left.
                Err(error @ Error::Storage(StorageError::Unknown(_))) => Some(error),
                other => other.map(|()| None)?,
            };
            progress.after.clone_from(name);
            progress.tenants += u64::from(!progress.accounts);
            if let Some(error) = broken {
                return Err(error);
            }
        }
        if takes_more && page.len() < SLICE && progress.left.is_empty() {
            progress.turn(self.clock().now());
        }
        Ok(())
    }

    /// Looks at one tenant or account.
    ///
    /// # Errors
    ///
    /// What is wrong with the node or the mount; a connection to storage that broke, and then the
    /// entry is among those that are left.
    async fn reindex_one(
        self: &Arc<Self>,
        mount: &Mount,
        progress: &mut ReindexProgress,
        name: &str,
    ) -> Result<(), Error> {
        let done = if progress.accounts {
            let key = format!("{ACCOUNTS}{name}");
            let removed = self.remove_if_stale(mount, &key).await;
            removed.map(|removed| progress.removed += u64::from(removed))
        } else {
            let repaired = match TenantName::parse(name) {
                Ok(name) => self.repair_tenant(mount, &name).await,
                Err(error) => Err(error),
            };
            repaired.map(|repaired| progress.repaired += repaired)
        };
        match done {
            Ok(()) => {
                progress.left.remove(name);
                Ok(())
            }
            Err(
                error @ (Error::Standby
                | Error::Tainted
                | Error::Keyring(_)
                | Error::Host(_)
                | Error::Storage(StorageError::ReadOnly)
                | Error::Random(_)),
            ) => Err(error),
            Err(error) => {
                progress.note_trouble(name, &error);
                match error {
                    // The others would only wait for it as well.
                    Error::Storage(StorageError::Unknown(_)) => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn remove_if_stale(self: &Arc<Self>, mount: &Mount, key: &str) -> Result<bool, Error> {
        let Some(owner) = self.stale_owner(mount, key).await? else {
            return Ok(false);
        };
        let tenant = self.lock_tenant(mount, &owner).await?;
        tenant.remove_stale_account(key).await;
        Ok(true)
    }

    /// Puts back what is missing of a tenant's pointers; returns how many. Takes the tenant's lock
    /// only if something is.
    pub(super) async fn repair_tenant(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<u64, Error> {
        let today = self.clock().now().date_naive();
        let oldest = {
            let state = self.runner.state();
            let calendar = state.calendar.as_ref();
            calendar
                .map_or(today, |calendar| calendar.oldest)
                .min(today)
        };
        // A plan that only a wrong clock can have made, or none, is replaced as well.
        self.mend_plan(mount, name).await?;
        let Some(record) = self.load_tenant(mount, name).await? else {
            return Ok(0);
        };
        let untold = self.lacks_event_pointer(mount, &record).await?;
        if !untold && !self.lacks_pointers(mount, &record, oldest).await? {
            return Ok(0);
        }
        let mut tenant = self.lock_tenant(mount, name).await?;
        if untold {
            tenant.restore_event_pointer().await?;
        }
        let repaired = tenant.repair_pointers(oldest).await?;
        Ok(repaired + u64::from(untold))
    }

    async fn store_reindex(&self, mount: &Mount, progress: &ReindexProgress) -> Result<(), Error> {
        let entry = StorageEntry::new(REINDEX, storage::encode(progress)?);
        Ok(mount.storage.put(entry).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    #[test]
    fn the_frozen_format_reads_and_is_written_back_byte_for_byte() {
        let frozen = fixture::REINDEX_V1.trim_ascii();
        let read = ReindexProgress::decode(frozen).unwrap();
        assert_eq!((read.tenants, read.repaired, read.removed), (240, 12, 2));
        assert_eq!(read.left.get("initech"), Some(&3));
        assert_eq!(storage::encode(&read).unwrap(), frozen);
    }
}
