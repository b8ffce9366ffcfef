//! Channels that a person has to look at.

use chrono::{DateTime, TimeDelta, Utc};

use crate::engine::Engine;
use crate::engine::error::Error;
use crate::logical::Mount;

/// A channel that fails for so long fails not only for a moment.
const LONG: TimeDelta = TimeDelta::hours(1);

/// The code of a channel that fails for long, or is refused for good.
pub(in crate::engine) const CHANNEL_FAILING: &str = "channel_failing";
/// The code of a channel with messages that were given up.
pub(in crate::engine) const CHANNEL_DEAD: &str = "channel_dead";

/// A channel that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct ChannelTrouble {
    pub(in crate::engine) channel: String,
    pub(in crate::engine) code: &'static str,
    pub(in crate::engine) since: DateTime<Utc>,
}

impl Engine {
    /// Finds the channels that fail for long, or have given something up. Storage is asked only for
    /// those with something that waits.
    pub(in crate::engine) async fn channels_in_trouble(
        &self,
        mount: &Mount,
    ) -> Result<Vec<ChannelTrouble>, Error> {
        let now = self.clock().now();
        let mut found = Vec::new();
        for channel in &self.channels(mount).await?.list {
            let waiting = self.outbox.undelivered(Some(channel)).unwrap_or_default();
            if waiting.pending == 0 && waiting.dead == 0 {
                continue;
            }
            let state = self.channel_state(mount, channel).await?;
            let closed = state.closed_for(channel, now).is_some();
            let long = |since: &DateTime<Utc>| closed || now - *since >= LONG;
            let failing = state.failing_since.filter(long);
            let failing = failing.map(|since| (CHANNEL_FAILING, since));
            let dead = self.outbox.dead_since(channel);
            let dead = dead.map(|since| (CHANNEL_DEAD, since));
            found.extend(failing.or(dead).map(|(code, since)| ChannelTrouble {
                channel: channel.name.clone(),
                code,
                since,
            }));
        }
        Ok(found)
    }
}
