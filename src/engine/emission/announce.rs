//! What is written before the record that makes events true: where to find them.

use crate::audit::Event;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage::{self, JournalEntry};
use crate::logical::{Mount, StorageEntry};

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

    /// These events of a log were stored.
    pub(in crate::engine) fn events_stored(&self, log: &str, events: &[Event]) {
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            self.emission
                .note_stored(log, (first.seq, last.seq), first.timestamp);
        }
    }
}
