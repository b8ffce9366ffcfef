//! How much may wait for one channel, and how much of what was given up is kept for it.
//!
//! Each channel has bounds of its own: one that nobody mends must not silence the others. What was
//! given up waits for nothing, so it does not count towards what waits.

use std::collections::BTreeMap;

use super::index::{Known, Outbox};
use crate::audit::{Event, EventName, Severity};
use crate::engine::channels::{Channel, Channels};

/// With so many entries that wait for a channel it is told of no completion any more, only of what
/// went wrong or needs somebody.
const FULL: usize = 10_000;
/// With so many it is told of what is critical only.
const OVERFULL: usize = 12_000;
/// With so many it is told of nothing.
const TO_THE_BRIM: usize = 14_000;
/// So many entries that were given up are kept for a channel, the newest ones.
const MOST_DEAD: usize = 2_000;

/// Reports whether an event can be spared when much waits: a completion that nobody has to act on.
fn is_spare(event: &Event) -> bool {
    let needed = matches!(
        event.event,
        EventName::RotationNotice | EventName::EmergencyResetStarted | EventName::EmergencyReset
    );
    event.severity == Severity::Info && !needed
}

impl Outbox {
    /// Reports whether so much waits for `channel` that it is not told of `event`.
    pub(super) fn is_full(&self, channel: &Channel, event: &Event) -> bool {
        let most = match event.severity {
            Severity::Critical => TO_THE_BRIM,
            _ if is_spare(event) => FULL,
            _ => OVERFULL,
        };
        let state = self.state();
        let mut waiting = state.known.iter().flat_map(BTreeMap::values);
        // The answer does not need the whole count.
        waiting
            .by_ref()
            .filter(|it| waits(it, channel))
            .nth(most - 1)
            .is_some()
    }

    /// Returns the entries of which more was given up for a channel than is kept, oldest first, and
    /// for which channels.
    pub(super) fn surplus(&self, channels: &Channels) -> BTreeMap<String, Vec<String>> {
        let state = self.state();
        let mut surplus = BTreeMap::<_, Vec<_>>::new();
        for channel in &channels.list {
            let known = state.known.iter().flatten();
            let dead = known.filter(|(_, entry)| is_dead(entry, channel));
            let mut dead: Vec<_> = dead.map(|(id, entry)| (entry.created_at, id)).collect();
            let over = dead.len().saturating_sub(MOST_DEAD);
            if over == 0 {
                continue;
            }
            tracing::warn!(
                channel = channel.name,
                over,
                "too much was given up for a channel: the oldest is dropped"
            );
            dead.sort_unstable();
            for (_, event_id) in dead.into_iter().take(over) {
                let channels = surplus.entry(event_id.clone()).or_default();
                channels.push(channel.name.clone());
            }
        }
        surplus
    }
}

fn waits(entry: &Known, channel: &Channel) -> bool {
    let mut open = entry.open.iter();
    open.any(|open| open.is_for(channel) && !open.is_dead(Some(channel)))
}

fn is_dead(entry: &Known, channel: &Channel) -> bool {
    let mut open = entry.open.iter();
    open.any(|open| open.is_for(channel) && open.is_dead(Some(channel)))
}
