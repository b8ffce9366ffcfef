//! Whether an entry tells the truth: its event lies with its tenant, or in the mount's log.

use std::sync::Arc;

use chrono::TimeDelta;

use super::entry::Entry;
use super::index::FURTHEST;
use crate::audit::Event;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::mount_log::{self, MountLog};
use crate::engine::storage::{self, TrailEntry};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// How long a Put may still be on its way after the process that asked for it was killed. An entry
/// that is younger is not called stale, whatever lock is free.
const ON_ITS_WAY: TimeDelta = TimeDelta::minutes(2);

/// What became of an entry's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// It is stored.
    True,
    /// It never was, and never will be.
    Stale,
    /// Somebody may be about to store it.
    Open,
}

impl Engine {
    /// Judges an entry. Without a lock as long as the answer is yes.
    pub(super) async fn believe(
        self: &Arc<Self>,
        mount: &Mount,
        entry: &Entry,
    ) -> Result<Belief, Error> {
        let event = &entry.event;
        if self.outbox.is_believed(&event.event_id) {
            return Ok(Belief::True);
        }
        if event.tenant_id == mount_log::MOUNT {
            return self.believe_mount(mount, entry).await;
        }
        let Ok(name) = TenantName::parse(&event.tenant_id) else {
            // No tenant has such a name: nobody can make it true.
            self.remove_stale(mount, event).await?;
            return Ok(Belief::Stale);
        };
        let record = self.read_tenant(mount, &name).await?;
        let has = |events: &[Event]| events.iter().any(|stored| stored == event);
        if record.is_some_and(|record| has(record.log.events())) {
            return Ok(Belief::True);
        }
        if is_in_trail(mount, event).await? {
            return Ok(Belief::True);
        }
        if self.is_on_its_way(entry) {
            return Ok(Belief::Open);
        }
        // Whoever has the tenant's lock may store the record at any moment.
        let Some(locked) = self.try_lock_tenant(mount, &name).await? else {
            return Ok(Belief::Open);
        };
        if has(locked.record.log.events()) || is_in_trail(mount, event).await? {
            return Ok(Belief::True);
        }
        self.remove_stale(mount, event).await?;
        drop(locked);
        Ok(Belief::Stale)
    }

    fn is_on_its_way(&self, entry: &Entry) -> bool {
        let age = self.clock().now() - entry.created_at;
        // What is far ahead was written by a clock that was wrong.
        age < ON_ITS_WAY && age > -FURTHEST
    }

    async fn believe_mount(&self, mount: &Mount, entry: &Entry) -> Result<Belief, Error> {
        let event = &entry.event;
        let Some(guard) = self.mount_lock.try_lock(mount_log::LOCK) else {
            return Ok(Belief::Open);
        };
        let log = mount_log::load(mount).await?;
        let has = |log: MountLog| log.events().iter().any(|stored| stored == event);
        if log.is_some_and(has) || is_in_trail(mount, event).await? {
            return Ok(Belief::True);
        }
        if self.is_on_its_way(entry) {
            return Ok(Belief::Open);
        }
        self.remove_stale(mount, event).await?;
        drop(guard);
        Ok(Belief::Stale)
    }

    /// Removes an entry while nobody can make it true.
    async fn remove_stale(&self, mount: &Mount, event: &Event) -> Result<(), Error> {
        tracing::info!(
            tenant = event.tenant_id,
            event_id = event.event_id,
            "a notification of something that did not happen is removed"
        );
        let _guard = self.outbox.changes.lock(&event.event_id).await;
        let key = storage::outbox_key(&event.event_id);
        mount.storage.delete(&key).await?;
        self.outbox.remove(&event.event_id);
        Ok(())
    }
}

async fn is_in_trail(mount: &Mount, event: &Event) -> Result<bool, Error> {
    let key = storage::trail_key(&event.tenant_id, event.seq);
    let Some(found) = mount.storage.get(&key).await? else {
        return Ok(false);
    };
    Ok(TrailEntry::decode(&key, &found.value)?.event == *event)
}
