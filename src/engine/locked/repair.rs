//! Pointers that got lost or stale, and what is counted of a stored record.

use chrono::NaiveDate;

use super::{LockedTenant, pointer};
use crate::engine::error::Error;
use crate::engine::storage;
use crate::logical::StorageEntry;

impl LockedTenant {
    /// Puts the pointer to open work back if the record needs one: it may have got lost.
    pub(in crate::engine) async fn restore_work_pointer(&self) -> Result<(), Error> {
        let key = storage::open_key(self.name.as_str());
        let Some(value) = self.pointers.get(&key) else {
            return Ok(());
        };
        let entry = StorageEntry::new(key, value.clone());
        Ok(self.mount.storage.put(entry).await?)
    }

    /// Puts every pointer back that the record needs and that got lost; returns how many those
    /// were. A due day that is past already is planned anew, because nobody looks there any more.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(in crate::engine) async fn repair_pointers(
        &mut self,
        oldest: NaiveDate,
    ) -> Result<u64, Error> {
        let credential = self.record.live_credential();
        if pointer::is_missed(credential, oldest) {
            self.store().await?;
            return Ok(1);
        }
        let mut repaired = 0;
        for (key, value) in self.pointers.clone() {
            let found = self.mount.storage.get(&key).await?;
            if found.is_some_and(|entry| entry.value == value) {
                continue;
            }
            if storage::is_account_key(&key) {
                // Unless another tenant owns it, as its record says.
                self.claim_account().await?;
            }
            self.mount
                .storage
                .put(StorageEntry::new(key, value))
                .await?;
            self.accounts.clear();
            repaired += 1;
        }
        Ok(repaired)
    }

    /// Removes the pointer of a mail account if the record, as stored, does not need it.
    pub(in crate::engine) async fn remove_stale_account(&self, key: &str) {
        self.remove_unneeded([key.to_owned()].iter()).await;
    }

    /// Removes the pointer to open work if the record, as stored, does not need it: somebody died
    /// between two Puts.
    pub(in crate::engine) async fn remove_stale_work(&self) {
        let key = storage::open_key(self.name.as_str());
        self.remove_unneeded([key].iter()).await;
    }

    /// Removes the pointer from a day to this tenant if the record, as stored, does not need it.
    pub(in crate::engine) async fn remove_stale_day(&self, day: NaiveDate) {
        let key = storage::due_key(day, self.name.as_str());
        self.remove_unneeded([key].iter()).await;
    }

    /// Removes those of `keys` that the record, as stored, does not need.
    pub(super) async fn remove_unneeded(&self, keys: impl Iterator<Item = &String>) {
        for key in keys.filter(|key| !self.pointers.contains_key(*key)) {
            // A pointer left behind is judged stale by whoever follows it: not worth an error.
            let removed = if storage::is_account_key(key) {
                self.release_account(key).await
            } else {
                self.mount.storage.delete(key).await.map_err(Error::from)
            };
            if let Err(error) = removed {
                tracing::warn!(tenant = %self.name, %error, "stale pointer not removed");
            }
        }
    }

    /// Counts what the record that was just stored tells for the first time.
    pub(super) fn count(&mut self, is_new: bool) {
        let log = &self.record.log;
        // A new lineage begins to count anew.
        let before = self.stored_seq.min(log.seq());
        for event in log.events().iter().filter(|event| event.seq > before) {
            self.engine.counters.note(event);
        }
        if is_new {
            self.engine.counters.note_tenant();
        }
        self.stored_seq = log.seq();
    }
}
