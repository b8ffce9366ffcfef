//! What is written before the record that makes events true: where to find them.

use crate::audit::Event;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::TenantRecord;
use crate::engine::storage::{self, JournalEntry, TrailEntry};
use crate::logical::{Mount, StorageEntry};

impl LockedTenant {
    /// Puts the pointer to undelivered events back.
    pub(in crate::engine) async fn restore_event_pointer(&self) -> Result<(), Error> {
        let key = storage::undelivered_key(self.name.as_str());
        let pointer = StorageEntry::new(key, b"{}".to_vec());
        self.mount.storage.put(pointer).await?;
        self.engine.emission.note_pointer(self.name.as_str());
        Ok(())
    }
}

impl Engine {
    /// Writes the pointer of a log that is about to get these events, and their entries in the
    /// index by time. If the record is not stored then, both lead to nothing, and that is noticed.
    pub(in crate::engine) async fn point_to_events(
        &self,
        mount: &Mount,
        log: &str,
        events: &[Event],
    ) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        if !self.emission.has_pointer(log) {
            let key = storage::undelivered_key(log);
            let pointer = StorageEntry::new(key, b"{}".to_vec());
            mount.storage.put(pointer).await?;
        }
        for event in events {
            let key = storage::journal_key(event.timestamp.date_naive(), &event.event_id);
            let bytes = storage::encode(&JournalEntry::of(event))?;
            mount.storage.put(StorageEntry::new(key, bytes)).await?;
        }
        Ok(())
    }

    /// Reports whether a record has an event that no device took and that nothing leads to: its
    /// pointer got lost, or it was stored by a release that wrote none. Events are delivered in
    /// order, so the newest one tells of all.
    pub(in crate::engine) async fn lacks_event_pointer(
        &self,
        mount: &Mount,
        record: &TenantRecord,
    ) -> Result<bool, Error> {
        let (name, last) = (record.tenant.as_str(), record.log.seq());
        if last == record.log.delivered_through() || self.emission.has_pointer(name) {
            return Ok(false);
        }
        let trail = storage::trail_key(name, last);
        if let Some(kept) = mount.storage.get(&trail).await?
            && TrailEntry::decode(&trail, &kept.value)?.delivered
        {
            return Ok(false);
        }
        // Before storage was listed memory knows of none.
        let pointer = storage::undelivered_key(name);
        Ok(mount.storage.get(&pointer).await?.is_none())
    }

    /// These events of a log were stored.
    pub(in crate::engine) fn events_stored(&self, log: &str, events: &[Event]) {
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            self.emission
                .note_stored(log, (first.seq, last.seq), first.timestamp);
        }
    }
}
