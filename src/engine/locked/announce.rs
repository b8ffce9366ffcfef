//! Who is told of a record's new events: written before the record, like a pointer, and taken back if
//! the record was not stored.

use std::sync::Arc;

use super::LockedTenant;
use crate::engine::channels::Channels;
use crate::engine::error::Error;
use crate::engine::outbox::Announced;
use crate::engine::storage;

/// What a locked tenant knows of notifications.
#[derive(Debug)]
pub(super) struct Telling {
    channels: Arc<Channels>,
    /// Written for the record that is about to be stored.
    announced: Announced,
}

impl Telling {
    pub(super) fn new(channels: Arc<Channels>) -> Self {
        Self {
            channels,
            announced: Announced::default(),
        }
    }
}

impl LockedTenant {
    /// Writes an entry of the outbox for each event that the stored record does not have and that
    /// some channel wants. Without a channel this costs nothing.
    pub(super) async fn announce_events(&mut self) -> Result<(), Error> {
        if self.telling.channels.list.is_empty() {
            return Ok(());
        }
        let known = match &self.stored {
            Some(bytes) => {
                let key = storage::tenant_key(self.name.as_str());
                storage::decode_tenant(&key, bytes)?.log.seq()
            }
            None => 0,
        };
        let Telling {
            channels,
            announced,
        } = &mut self.telling;
        let credential = self.record.credential.as_ref();
        let events = self.record.log.events().iter();
        for event in events.filter(|event| event.seq > known) {
            self.engine
                .announce(&self.mount, channels, (event, credential), announced)
                .await?;
        }
        Ok(())
    }

    /// The record was stored: its events are delivered from the next tick on.
    pub(super) fn events_are_true(&mut self) {
        self.engine.announced(&mut self.telling.announced);
    }

    /// The record may still be stored: whoever reads the outbox next finds out.
    pub(super) fn leave_announcements(&mut self) {
        if !self.telling.announced.take_keys().is_empty() {
            self.engine.outbox.forget();
        }
    }

    /// The record was not stored: nobody is told.
    pub(super) async fn take_announcements_back(&mut self) {
        for key in self.telling.announced.take_keys() {
            if let Err(error) = self.mount.storage.delete(&key).await {
                // Found and judged stale by whoever reads the outbox next.
                self.engine.outbox.forget();
                tracing::warn!(tenant = %self.name, %error, "stale notification not removed");
            }
        }
    }
}
