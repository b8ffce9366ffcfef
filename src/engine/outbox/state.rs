//! How a channel fares: what a read of it shows, kept over restarts.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::channels::Channel;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::logical::{Mount, StorageEntry};

/// The stored format.
const SCHEMA: u32 = 1;

/// A channel whose mail server refuses it for good is left alone for so long; a write of the channel
/// ends that, and a test that gets through.
pub(super) const CLOSED: Duration = Duration::from_secs(24 * 3600);

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
    pub(in crate::engine) failing_since: Option<DateTime<Utc>>,
    /// When its mail server refused it for good, until it takes something again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused_at: Option<DateTime<Utc>>,
}

/// Why something was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct ChannelError {
    /// The stable code.
    pub(in crate::engine) code: String,
    /// Since when.
    pub(in crate::engine) since: DateTime<Utc>,
    /// What was met and what to do, in words of this engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) message: Option<String>,
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
            refused_at: None,
        }
    }

    pub(super) fn note_delivered(&mut self, now: DateTime<Utc>) {
        self.delivered += 1;
        self.last_delivered_at = Some(now);
        self.last_error = None;
        self.failing_since = None;
        self.refused_at = None;
    }

    pub(super) fn note_failed(
        &mut self,
        (code, message): (&str, Option<String>),
        of_the_channel: bool,
        now: DateTime<Utc>,
    ) {
        let before = self.last_error.take();
        let since = before.as_ref().map_or(now, |error| error.since);
        // What is told again without being asked for again keeps its words.
        let same = before.filter(|error| error.code == code);
        self.last_error = Some(ChannelError {
            code: code.to_owned(),
            since,
            message: message.or_else(|| same?.message),
        });
        if of_the_channel {
            self.failing_since.get_or_insert(now);
        }
    }

    /// Returns for how long the channel is still left alone after a refusal for good; a write of it
    /// since then ends that. A refusal in what is the future by now says nothing.
    pub(super) fn closed_for(&self, channel: &Channel, now: DateTime<Utc>) -> Option<Duration> {
        let at = self.refused_at.filter(|at| channel.written_at < *at)?;
        let gone = (now - at).to_std().ok()?;
        CLOSED.checked_sub(gone).filter(|left| !left.is_zero())
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

    /// A channel took something: whoever refused it for good does not any more.
    pub(in crate::engine) async fn reopen_channel(
        &self,
        mount: &Mount,
        channel: &Channel,
    ) -> Result<(), Error> {
        self.outbox.works(&channel.name);
        let mut state = self.channel_state(mount, channel).await?;
        if state.refused_at.take().is_some() {
            self.store_channel_state(mount, &channel.name, &state)
                .await?;
        }
        Ok(())
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
