//! Failures of requests that were counted and are not stored yet.
//!
//! A client that fails in a loop writes nothing each time: its failures are counted here, and stored
//! with the record's next Put, with the 10th, 100th, … of their kind, and hourly. What must stay
//! true: what is here is newer than the record in storage, because both change under the tenant's
//! lock only; a process that dies loses at most an hour of counting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Engine;
use super::storage::record::{LastError, Tally, TenantRecord};
use super::tenant::TenantName;
use crate::logical::Mount;

/// For how long failures are only counted.
const STORED_AFTER: Duration = Duration::from_secs(3_600);

/// The counted failures of one mount.
#[derive(Debug, Default)]
pub(super) struct Failures {
    // A blocking mutex: held only for map operations.
    pending: Mutex<HashMap<String, Pending>>,
}

/// What differs from the stored record.
#[derive(Clone, Debug)]
struct Pending {
    tally: Tally,
    last_error: Option<LastError>,
    last_attempt: Option<DateTime<Utc>>,
    /// Since when it was not stored, by the monotonic clock.
    since: Duration,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a record as it was read what is not stored of it.
    pub(super) fn add_to(&self, name: &TenantName, record: &mut TenantRecord) {
        if let Some(pending) = self.lock().get(name.as_str()) {
            record.tally = pending.tally.clone();
            record.last_error.clone_from(&pending.last_error);
            record.last_attempt = pending.last_attempt;
        }
    }

    /// Keeps what a record says until it is stored. Returns whether that has been put off for long
    /// enough.
    pub(super) fn keep(&self, name: &TenantName, record: &TenantRecord, now: Duration) -> bool {
        let mut all = self.lock();
        let since = all.get(name.as_str()).map_or(now, |earlier| earlier.since);
        let pending = Pending {
            tally: record.tally.clone(),
            last_error: record.last_error.clone(),
            last_attempt: record.last_attempt,
            since,
        };
        all.insert(name.as_str().to_owned(), pending);
        now.saturating_sub(since) >= STORED_AFTER
    }

    /// The record was stored with everything that is kept here.
    pub(super) fn stored(&self, name: &TenantName) {
        self.lock().remove(name.as_str());
    }

    /// Another node may write from now on.
    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Returns the tenants whose failures were put off for long enough, and puts them off anew.
    fn overdue(&self, now: Duration) -> Vec<TenantName> {
        let mut all = self.lock();
        let overdue = all
            .iter_mut()
            .filter(|(_, pending)| now.saturating_sub(pending.since) >= STORED_AFTER);
        overdue
            .filter_map(|(name, pending)| {
                pending.since = now;
                TenantName::parse(name).ok()
            })
            .collect()
    }
}

impl Engine {
    /// Stores what was only counted for an hour.
    pub(super) fn begin_storing_failures(self: &Arc<Self>, mount: &Mount) {
        let overdue = self.failures.overdue(self.clock().monotonic());
        if overdue.is_empty() {
            return;
        }
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks.spawn(async move {
            for name in overdue {
                let stored = match engine.lock_tenant(&mount, &name).await {
                    Ok(mut locked) => locked.store_if_changed().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = stored {
                    tracing::warn!(tenant = %name, %error, "failures are counted and not stored");
                }
            }
        });
    }
}
