//! Into the outbox: what is written before the record that makes an event true.

use super::entry::{Delivery, Entry};
use crate::audit::{Event, EventName};
use crate::engine::Engine;
use crate::engine::channels::Channels;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::storage::record::Credential;
use crate::logical::{Mount, StorageEntry};

/// Entries that were written for events that are not true yet.
#[derive(Debug, Default)]
pub(in crate::engine) struct Announced {
    entries: Vec<Entry>,
}

impl Announced {
    /// Returns the keys of the entries and forgets them: their events did not become true.
    pub(in crate::engine) fn take_keys(&mut self) -> Vec<String> {
        let entries = std::mem::take(&mut self.entries);
        let keys = entries.iter();
        keys.map(|entry| storage::outbox_key(&entry.event.event_id))
            .collect()
    }
}

impl Engine {
    /// Writes an entry for an event that somebody is to be told of; `announced` names it even if
    /// the Put's outcome is unknown.
    pub(in crate::engine) async fn announce(
        &self,
        mount: &Mount,
        channels: &Channels,
        (event, credential): (&Event, Option<&Credential>),
        announced: &mut Announced,
    ) -> Result<(), Error> {
        let now = self.clock().now();
        let deliveries = self.deliveries(channels, event, credential);
        if deliveries.is_empty() {
            return Ok(());
        }
        let findings = match (event.event, credential.and_then(|it| it.preflight.as_ref())) {
            (EventName::RotationNotice, Some(preflight)) => preflight.findings.clone(),
            _ => Vec::new(),
        };
        let next = credential.and_then(|credential| credential.next_rotation);
        let entry = Entry::new(event.clone(), next, findings, deliveries, now);
        let key = storage::outbox_key(&event.event_id);
        let bytes = storage::encode(&entry)?;
        announced.entries.push(entry);
        Ok(mount.storage.put(StorageEntry::new(key, bytes)).await?)
    }

    /// The events of `announced` became true: they are delivered from the next tick on.
    pub(in crate::engine) fn announced(&self, announced: &mut Announced) {
        for entry in announced.entries.drain(..) {
            self.outbox.note(&entry, true);
        }
    }

    /// Returns whom to tell of an event. A channel for which too much waits is left out.
    fn deliveries(
        &self,
        channels: &Channels,
        event: &Event,
        credential: Option<&Credential>,
    ) -> Vec<Delivery> {
        let now = self.clock().now();
        let mut deliveries = Vec::new();
        for channel in channels.list.iter().filter(|it| it.wants(event)) {
            if self.outbox.is_full(channel, event) {
                self.outbox.note_dropped();
                tracing::warn!(
                    channel = channel.name,
                    tenant = event.tenant_id,
                    event = event.event.as_str(),
                    event_id = event.event_id,
                    "too much waits for this channel: it is not told of this event"
                );
                continue;
            }
            deliveries.push(Delivery::new(channel, None, now));
            let addresses = credential.map_or(&[][..], |it| it.admin_emails.as_slice());
            for address in channel.addresses(event, addresses) {
                deliveries.push(Delivery::new(channel, Some(address.to_owned()), now));
            }
        }
        deliveries
    }
}
