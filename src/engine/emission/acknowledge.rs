//! What is stored of a delivery: that a device took an event, and that a log has nothing left.

use std::sync::Arc;

use super::OUTDATED;
use crate::audit::{Event, EventLog};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::mount_log;
use crate::engine::storage::{self, TrailEntry};
use crate::logical::{Mount, StorageEntry};

impl Engine {
    /// Stores that a device took this event. One Put, and nothing else changes.
    pub(in crate::engine) async fn acknowledge(
        &self,
        mount: &Mount,
        event: &Event,
    ) -> Result<(), Error> {
        let _guard = self.emission.trail.lock(&event.tenant_id).await;
        let key = storage::trail_key(&event.tenant_id, event.seq);
        let bytes = storage::encode(&TrailEntry::delivered(event.clone()))?;
        Ok(mount.storage.put(StorageEntry::new(key, bytes)).await?)
    }

    /// Moves the oldest events out of a log that is about to be stored; those that were delivered
    /// lie in the trail already.
    pub(in crate::engine) async fn move_overflow(
        &self,
        mount: &Mount,
        name: &str,
        log: &mut EventLog,
    ) -> Result<(), Error> {
        for event in log.overflow() {
            if event.seq <= log.delivered_through() {
                continue;
            }
            // An acknowledgement must not be overwritten.
            let _guard = self.emission.trail.lock(name).await;
            if self.emission.is_delivered(name, event.seq) == Some(true) {
                continue;
            }
            let key = storage::trail_key(name, event.seq);
            if let Some(kept) = mount.storage.get(&key).await?
                && TrailEntry::decode(&key, &kept.value).is_ok_and(|kept| kept.event == *event)
            {
                continue;
            }
            let entry = storage::encode(&TrailEntry::undelivered(event.clone()))?;
            mount.storage.put(StorageEntry::new(key, entry)).await?;
        }
        log.drop_overflow();
        Ok(())
    }

    /// Removes the pointer of a log that has nothing left to deliver. Whoever has the log's lock
    /// may be about to store an event.
    pub(super) async fn finish_log(self: &Arc<Self>, mount: &Mount, name: &str) {
        if !self.emission.is_done(name) {
            if self.emission.has_more(name) {
                // What was read was older than what is stored.
                self.emission.postpone(name, OUTDATED, self.clock());
            }
            return;
        }
        let guard = if name == mount_log::MOUNT {
            self.mount_lock.try_lock(mount_log::LOCK)
        } else {
            self.tenant_locks.try_lock(name)
        };
        let Some(_guard) = guard else {
            self.emission.leave(name);
            return;
        };
        // Asked again under the lock: nobody is about to store one now.
        if !self.emission.is_done(name) {
            self.emission.leave(name);
            return;
        }
        match mount.storage.delete(&storage::undelivered_key(name)).await {
            Ok(()) => self.emission.remove(name),
            Err(error) => {
                // It says that there may be something, which costs a look.
                tracing::warn!(log = name, %error, "stale pointer not removed");
                self.emission.leave(name);
            }
        }
    }
}
