//! The outbox: from a stored event to a delivered notification, at least once.
//!
//! ```text
//! record with new events --Put--> outbox/<event_id>, then the record itself
//! tick --> the entries that are due --> a worker per channel --> Channel::deliver --> noted
//! ```
//!
//! What must stay true:
//!
//! - An entry is written before the record that makes its event true, and believed only when that
//!   record (or its trail) really has the event: a crash between the two leaves a stale entry, which
//!   is removed, and never an event that nobody is told of. It is judged under the tenant's lock,
//!   because a writer who has it may be about to store the record; and not within its first two
//!   minutes, because the Put of a writer who was killed may still be on its way.
//! - Nothing but that one Put stands between an event and its record. Without a channel there is
//!   not even that.
//! - Each channel has one worker, which tells one after the other, what is critical first: a channel
//!   that hangs delays only itself, and after a failure of the channel the rest of its messages wait
//!   with it. A worker begins with a tick and goes on by itself until nothing is left, at the pace
//!   that the channel's host asks for.
//! - A message counts as delivered when that is stored. A process killed in between tells it
//!   again, with the same `event_id`.
//! - What is in memory here is an index of `outbox/`, read once after this node became the active
//!   one, so that a tick without anything due asks storage nothing.

mod believe;
mod bounds;
mod enqueue;
mod entry;
mod facts;
mod index;
mod recipients;
mod state;
mod trouble;
mod worker;

pub(super) use enqueue::Announced;
pub(super) use index::{Outbox, Undelivered};
pub(super) use state::ChannelState;
pub(super) use trouble::{CHANNEL_DEAD, CHANNEL_FAILING, ChannelTrouble};

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::channels::Channels;
use super::error::Error;
use super::schedule;
use super::storage::{self, OUTBOX};
use crate::logical::Mount;
use entry::Entry;

/// How many names are listed at once.
const PAGE: usize = 500;
/// The longest rest between two attempts.
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// The first one; it doubles each time.
const FIRST_REST: Duration = Duration::from_secs(60);

impl Engine {
    /// Goes on delivering in the background. Nothing is asked of anybody if nothing is due. Never
    /// fails: the next tick goes on.
    pub(super) fn begin_delivery(self: &Arc<Self>, mount: &Mount) {
        if !self.outbox.begin(self.clock()) {
            return;
        }
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks.spawn(async move {
            if let Err(error) = engine.deliver(&mount).await {
                tracing::warn!(%error, "notifications wait for the next tick");
            }
            engine.outbox.end();
        });
    }

    async fn deliver(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        if self.outbox.begin_reading()
            && let Err(error) = self.read_outbox(mount).await
        {
            self.outbox.forget();
            return Err(error);
        }
        if self.outbox.is_empty() {
            return Ok(());
        }
        let look = self.outbox.take_look();
        let skipped = self.begin_channels(mount).await;
        // What was revived waits for a channel that is busy, and is due at no time of its own.
        if look && !matches!(skipped, Ok(false)) {
            self.outbox.look_again();
        }
        skipped.map(drop)
    }

    /// Starts the workers of the channels that have something to tell; reports whether one of them
    /// could not begin.
    async fn begin_channels(self: &Arc<Self>, mount: &Mount) -> Result<bool, Error> {
        let channels = self.channels(mount).await?;
        let removed = self.remove_ownerless(mount, &channels).await;
        if let Err(error) = &removed {
            // What is left of it is in nobody's way.
            tracing::warn!(%error, "notifications without a receiver stay for now");
        }
        let (due, skipped) = self.outbox.take_due(&channels, self.clock());
        for channel in due {
            self.begin_channel(mount, channel);
        }
        Ok(skipped || removed.is_err())
    }

    /// Reads what storage has into the index.
    async fn read_outbox(&self, mount: &Mount) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let page = mount.storage.list_page(OUTBOX, &after, PAGE).await?;
            for event_id in &page {
                let key = storage::outbox_key(event_id);
                let Some(found) = mount.storage.get(&key).await? else {
                    continue;
                };
                match Entry::decode(&key, &found.value) {
                    Ok(entry) => self.outbox.note(&entry, false),
                    Err(error) => tracing::warn!(%error, "a notification cannot be read"),
                }
            }
            match page.into_iter().next_back() {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Drops what nobody is to be told any more: its channel is gone, it was given up long ago, or
    /// too much was given up since.
    async fn remove_ownerless(&self, mount: &Mount, channels: &Channels) -> Result<(), Error> {
        let mut drops = self.outbox.surplus(channels);
        for event_id in self.outbox.ownerless(channels, self.clock().now()) {
            drops.entry(event_id).or_default();
        }
        for (event_id, surplus) in drops {
            let now = self.clock().now();
            self.change_entry(mount, &event_id, |entry| {
                entry.deliveries.retain(|delivery| {
                    let kept = delivery.dead_since.is_none_or(|at| {
                        now - at < entry::KEPT && !surplus.contains(&delivery.channel)
                    });
                    kept && index::has_owner(channels, &delivery.channel, &delivery.channel_id)
                });
            })
            .await?;
            for _ in surplus {
                self.outbox.note_dropped();
            }
        }
        Ok(())
    }

    /// Changes a stored entry; it goes when nobody is left to be told.
    async fn change_entry(
        &self,
        mount: &Mount,
        event_id: &str,
        change: impl FnOnce(&mut Entry) + Send,
    ) -> Result<(), Error> {
        let _guard = self.outbox.changes.lock(event_id).await;
        let key = storage::outbox_key(event_id);
        let Some(found) = mount.storage.get(&key).await? else {
            self.outbox.remove(event_id);
            return Ok(());
        };
        let mut entry = match Entry::decode(&key, &found.value) {
            Ok(entry) => entry,
            Err(error) => {
                // It may be a newer release's. Here it says nothing, and is in nobody's way.
                tracing::warn!(%error, "a notification cannot be read");
                self.outbox.remove(event_id);
                return Ok(());
            }
        };
        change(&mut entry);
        if entry.is_done() {
            mount.storage.delete(&key).await?;
            self.outbox.remove(event_id);
        } else {
            let bytes = storage::encode(&entry)?;
            let entry_put = crate::logical::StorageEntry::new(key, bytes);
            mount.storage.put(entry_put).await?;
            // A change says nothing of the event: who believes it has noted that.
            self.outbox.note(&entry, false);
        }
        Ok(())
    }
}

/// How long `what` rests after this many failures in a row: 1, 2, 4, … minutes up to an hour, up to
/// a tenth less, so that what failed together does not come back together.
fn rest(what: &str, failures: u32) -> Duration {
    let doubled = 1_u32 << failures.saturating_sub(1).min(6);
    let rest = (FIRST_REST * doubled).min(LONGEST_REST);
    let less = schedule::share(what, "rest", 1_000);
    rest - rest / 10 * u32::try_from(less).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rests_double_up_to_an_hour_and_vary_by_a_tenth() {
        for (failures, minutes) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (u32::MAX, 60),
        ] {
            let longest = Duration::from_secs(minutes * 60);
            let rests: BTreeSet<_> = (0..50).map(|it| rest(&it.to_string(), failures)).collect();
            assert!(rests.len() > 25, "{failures}: {rests:?}");
            for rest in rests {
                assert!(
                    rest <= longest && rest >= longest * 9 / 10,
                    "{failures}: {rest:?}"
                );
            }
        }
    }
}
