//! How a channel fares: what a read of it shows, kept over restarts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::channels::Channel;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::logical::{Mount, StorageEntry};

/// The stored format.
const SCHEMA: u32 = 1;

/// How a channel fares, under `notified/<name>`. Written once after each run of its worker: what a
/// killed process had not written is not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct ChannelState {
    schema: u32,
    /// Which life of the channel.
    channel_id: String,
    /// How many messages were delivered.
    pub(in crate::engine) delivered: u64,
    pub(in crate::engine) last_delivered_at: Option<DateTime<Utc>>,
    /// The last failure, until the next success.
    pub(in crate::engine) last_error: Option<ChannelError>,
    /// Since when the channel itself fails, and not only a message.
    pub(super) failing_since: Option<DateTime<Utc>>,
}

/// Why something was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct ChannelError {
    /// The stable code.
    pub(in crate::engine) code: String,
    /// Since when.
    pub(in crate::engine) since: DateTime<Utc>,
}

impl ChannelState {
    fn new(channel: &Channel) -> Self {
        Self {
            schema: SCHEMA,
            channel_id: channel.id.clone(),
            delivered: 0,
            last_delivered_at: None,
            last_error: None,
            failing_since: None,
        }
    }

    pub(super) fn note_delivered(&mut self, now: DateTime<Utc>) {
        self.delivered += 1;
        self.last_delivered_at = Some(now);
        self.last_error = None;
        self.failing_since = None;
    }

    pub(super) fn note_failed(&mut self, code: &str, of_the_channel: bool, now: DateTime<Utc>) {
        let since = self.last_error.as_ref().map_or(now, |error| error.since);
        self.last_error = Some(ChannelError {
            code: code.to_owned(),
            since,
        });
        if of_the_channel {
            self.failing_since.get_or_insert(now);
        }
    }
}

impl Engine {
    /// Reads how a channel fares. What is not readable or of an earlier life counts for nothing.
    pub(in crate::engine) async fn channel_state(
        &self,
        mount: &Mount,
        channel: &Channel,
    ) -> Result<ChannelState, Error> {
        let key = storage::notified_key(&channel.name);
        let Some(found) = mount.storage.get(&key).await? else {
            return Ok(ChannelState::new(channel));
        };
        let decoded = storage::check_schema(&key, &found.value, SCHEMA)
            .and_then(|_| storage::decode::<ChannelState>(&key, &found.value));
        Ok(match decoded {
            Ok(state) if state.channel_id == channel.id => state,
            Ok(_) => ChannelState::new(channel),
            Err(error) => {
                tracing::warn!(%error, "how a channel fares is not readable");
                ChannelState::new(channel)
            }
        })
    }

    pub(super) async fn store_channel_state(
        &self,
        mount: &Mount,
        name: &str,
        state: &ChannelState,
    ) -> Result<(), Error> {
        let entry = StorageEntry::new(storage::notified_key(name), storage::encode(state)?);
        Ok(mount.storage.put(entry).await?)
    }

    /// Forgets how a removed channel fared.
    pub(in crate::engine) async fn forget_channel_state(
        &self,
        mount: &Mount,
        name: &str,
    ) -> Result<(), Error> {
        Ok(mount.storage.delete(&storage::notified_key(name)).await?)
    }
}
