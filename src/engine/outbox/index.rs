//! [`Outbox`]: what this process knows of the entries in storage, and who is at work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::entry::{self, Entry};
use super::rest;
use crate::audit::{EventName, Severity};
use crate::clock::Clock;
use crate::engine::channels::{Channel, Channels};
use crate::keyed_lock::KeyedLock;

/// An attempt that is further ahead than any rest was written by a clock that was wrong.
pub(super) const FURTHEST: TimeDelta = TimeDelta::hours(2);

/// A host that asks for less is asked no sooner.
pub(super) const SHORTEST_REST: Duration = Duration::from_secs(1);
/// So many times in a row a host is believed that it will take something after the rest it asks
/// for.
const MOST_TRUSTED: u32 = 3;

/// The outbox of one mount, in memory.
#[derive(Debug, Default)]
pub(in crate::engine) struct Outbox {
    // A blocking mutex: held only for map operations.
    state: Mutex<State>,
    /// One per entry, for reading, changing and writing it back.
    pub(super) changes: KeyedLock,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Every entry by its event; `None` until storage was read.
    pub(super) known: Option<BTreeMap<String, Known>>,
    /// Somebody must look, whatever is due: a channel was written or removed.
    look: bool,
    /// A look is under way.
    looking: bool,
    /// Channels whose worker is under way.
    busy: HashSet<String>,
    /// Channels that failed: how often in a row, and until when they rest, monotonic.
    resting: HashMap<String, (u32, Duration)>,
    /// Events that a channel was not told of because there were too many.
    dropped: u64,
    /// Grows with every entry that was not known before.
    news: u64,
}

/// What is known of one entry.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) created_at: DateTime<Utc>,
    /// The event was found with its tenant.
    believed: bool,
    /// Critical, or of an emergency: it is told before all that is not.
    critical: bool,
    pub(super) open: Vec<Open>,
}

/// One delivery that is not done.
#[derive(Clone, Debug)]
pub(super) struct Open {
    channel: String,
    channel_id: String,
    to: Option<String>,
    next_attempt: DateTime<Utc>,
    dead_since: Option<DateTime<Utc>>,
    /// It was delivered and that could not be stored yet: it is not to be told again.
    told: bool,
    /// Which of several addresses of the channel have got it, stored or not.
    served: Vec<String>,
    /// Which of them the mail server refuses for good, stored or not.
    refused: Vec<String>,
}

/// One delivery for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) event_id: String,
    pub(super) to: Option<String>,
    pub(super) told: bool,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Undelivered {
    /// Deliveries that are still tried.
    pub(in crate::engine) pending: u64,
    /// Deliveries that were given up.
    pub(in crate::engine) dead: u64,
    /// What was dropped because too much waited or was given up, since this process started: one
    /// for each event and channel.
    pub(in crate::engine) dropped: u64,
    /// Since when the oldest of those that are still tried waits.
    pub(in crate::engine) oldest: Option<DateTime<Utc>>,
}

impl Open {
    /// Reports whether `channel`, in this life of it, makes this delivery.
    pub(super) fn is_for(&self, channel: &Channel) -> bool {
        self.channel == channel.name && self.channel_id == channel.id
    }

    /// Reports whether it was given up for good: nobody has written its channel since.
    pub(super) fn is_dead(&self, channel: Option<&Channel>) -> bool {
        let written_at = channel.map(|channel| channel.written_at);
        self.dead_since
            .is_some_and(|at| written_at.is_none_or(|written_at| written_at <= at))
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.next_attempt <= now || self.next_attempt - now > FURTHEST
    }
}

/// Reports whether an event is of an emergency, whatever its severity.
const fn is_a_reset(event: EventName) -> bool {
    matches!(
        event,
        EventName::EmergencyResetStarted | EventName::EmergencyReset
    )
}

/// Adds what is missing.
fn merge(into: &mut Vec<String>, from: &[String]) {
    for text in from {
        if !into.contains(text) {
            into.push(text.clone());
        }
    }
}

/// Reports whether there is such a channel, in this life of it.
pub(super) fn has_owner(channels: &Channels, name: &str, id: &str) -> bool {
    // What cannot be read at the moment may be mended.
    channels.find(name).is_some_and(|channel| channel.id == id)
        || channels.unreadable.iter().any(|kept| kept == name)
}

impl State {
    /// What is due for a channel. Critical events come first; of the others, and of these, what was
    /// tried least recently: one message that always fails must not keep the others waiting.
    fn due(&self, channel: &Channel, now: DateTime<Utc>) -> Vec<Unit> {
        let mut due = Vec::new();
        for (event_id, entry) in self.known.iter().flatten() {
            for open in entry.open.iter().filter(|open| open.is_for(channel)) {
                let revived = open.dead_since.is_some();
                if !open.is_dead(Some(channel)) && (revived || open.is_due(now)) {
                    let unit = Unit {
                        event_id: event_id.clone(),
                        to: open.to.clone(),
                        told: open.told,
                    };
                    due.push(((!entry.critical, open.next_attempt), unit));
                }
            }
        }
        due.sort_by_key(|(turn, _)| *turn);
        due.into_iter().map(|(_, unit)| unit).collect()
    }
}

impl Outbox {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a few map operations: none of them panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another role, another knowledge; or nobody knows what storage has.
    pub(in crate::engine) fn forget(&self) {
        let mut state = self.state();
        state.known = None;
        state.resting.clear();
    }

    /// A channel was written or removed: what was given up or waits for it is looked at.
    pub(in crate::engine) fn channel_written(&self, name: &str) {
        let mut state = self.state();
        state.resting.remove(name);
        state.look = true;
    }

    /// Reports whether there is anything to look at, and begins; [`Outbox::end`] must follow.
    pub(super) fn begin(&self, clock: &dyn Clock) -> bool {
        let now = clock.now();
        let mut state = self.state();
        let waits = match &state.known {
            None => true,
            Some(known) => {
                let mut open = known.values().flat_map(|entry| &entry.open);
                (state.look && !known.is_empty())
                    || open.any(|open| match open.dead_since {
                        None => open.is_due(now),
                        Some(at) => now - at >= entry::KEPT,
                    })
            }
        };
        waits && !std::mem::replace(&mut state.looking, true)
    }

    pub(super) fn end(&self) {
        self.state().looking = false;
    }

    /// Reports whether storage must be read first. From here on the index takes notes.
    pub(super) fn begin_reading(&self) -> bool {
        let mut state = self.state();
        let begins = state.known.is_none();
        if begins {
            state.known = Some(BTreeMap::new());
            state.look = true;
        }
        begins
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().known.as_ref().is_none_or(BTreeMap::is_empty)
    }

    /// Counts an event that a channel is not told of.
    pub(super) fn note_dropped(&self) {
        self.state().dropped += 1;
    }

    /// Notes an entry as it is stored now.
    pub(super) fn note(&self, entry: &Entry, believed: bool) {
        let mut state = self.state();
        // Nobody has read storage yet: whoever does finds it there.
        let Some(known) = &mut state.known else {
            return;
        };
        let open = entry.deliveries.iter();
        let open = open.filter(|delivery| delivery.delivered_at.is_none());
        let open = open.map(|delivery| Open {
            channel: delivery.channel.clone(),
            channel_id: delivery.channel_id.clone(),
            to: delivery.to.clone(),
            next_attempt: delivery.next_attempt,
            dead_since: delivery.dead_since,
            told: false,
            served: delivery.served.clone(),
            refused: delivery.refused.clone(),
        });
        let mut noted = Known {
            created_at: entry.created_at,
            believed,
            critical: entry.event.severity == Severity::Critical || is_a_reset(entry.event.event),
            open: open.collect(),
        };
        if let Some(before) = known.get(&entry.event.event_id) {
            noted.believed |= before.believed;
            for open in &mut noted.open {
                let same = |it: &&Open| it.channel == open.channel && it.to == open.to;
                let Some(before) = before.open.iter().find(same) else {
                    continue;
                };
                open.told = before.told;
                merge(&mut open.served, &before.served);
                // Somebody wrote the channel since it was given up: everyone is asked again.
                if before.dead_since.is_none() {
                    merge(&mut open.refused, &before.refused);
                }
            }
        }
        let before = known.insert(entry.event.event_id.clone(), noted);
        state.news += u64::from(before.is_none());
    }

    pub(super) fn remove(&self, event_id: &str) {
        if let Some(known) = &mut self.state().known {
            known.remove(event_id);
        }
    }

    pub(super) fn is_believed(&self, event_id: &str) -> bool {
        let state = self.state();
        let known = state.known.as_ref().and_then(|known| known.get(event_id));
        known.is_some_and(|known| known.believed)
    }

    /// Puts a delivery behind the others, in memory alone: it could not be looked at.
    pub(super) fn postpone(&self, event_id: &str, channel: &str, clock: &dyn Clock) {
        let next_attempt = clock.now() + rest(event_id, 1);
        let mut state = self.state();
        let known = state.known.as_mut().and_then(|it| it.get_mut(event_id));
        let open = known.into_iter().flat_map(|known| &mut known.open);
        for open in open.filter(|it| it.channel == channel) {
            open.next_attempt = next_attempt;
        }
    }

    /// Notes that a message was delivered, which is not stored yet.
    pub(super) fn note_told(&self, event_id: &str, channel: &str, to: Option<&str>) {
        let mut state = self.state();
        let known = state.known.as_mut().and_then(|it| it.get_mut(event_id));
        let open = known.into_iter().flat_map(|known| &mut known.open);
        for open in open.filter(|it| it.channel == channel && it.to.as_deref() == to) {
            open.told = true;
        }
    }

    /// Notes that one of several addresses of a channel has got a message.
    pub(super) fn note_served(&self, event_id: &str, channel: &str, address: &str) {
        let mut state = self.state();
        let known = state.known.as_mut().and_then(|it| it.get_mut(event_id));
        let open = known.into_iter().flat_map(|known| &mut known.open);
        for open in open.filter(|it| it.channel == channel && it.to.is_none()) {
            open.served.push(address.to_owned());
        }
    }

    /// Notes that the mail server refuses a message for one of several addresses of a channel for
    /// good.
    pub(super) fn note_refused(&self, event_id: &str, channel: &str, address: &str) {
        let mut state = self.state();
        let known = state.known.as_mut().and_then(|it| it.get_mut(event_id));
        let open = known.into_iter().flat_map(|known| &mut known.open);
        for open in open.filter(|it| it.channel == channel && it.to.is_none()) {
            open.refused.push(address.to_owned());
        }
    }

    /// Which of several addresses of a channel have got a message, and which cannot have it.
    pub(super) fn settled(&self, event_id: &str, channel: &str) -> (Vec<String>, Vec<String>) {
        let state = self.state();
        let known = state.known.as_ref().and_then(|it| it.get(event_id));
        let mut open = known.into_iter().flat_map(|known| &known.open);
        let open = open.find(|it| it.channel == channel && it.to.is_none());
        open.map(|it| (it.served.clone(), it.refused.clone()))
            .unwrap_or_default()
    }

    /// Everyone is asked again: the channel was written since the message was given up.
    pub(super) fn forget_refused(&self, event_id: &str, channel: &str) {
        let mut state = self.state();
        let known = state.known.as_mut().and_then(|it| it.get_mut(event_id));
        let open = known.into_iter().flat_map(|known| &mut known.open);
        for open in open.filter(|it| it.channel == channel) {
            open.refused.clear();
        }
    }

    /// Grows with every entry that was not known before: whoever has taken what is due knows by it
    /// whether there may be more.
    pub(super) fn news(&self) -> u64 {
        self.state().news
    }

    /// What is due for a channel now, in the order it is to be told.
    pub(super) fn due(&self, channel: &Channel, now: DateTime<Utc>) -> Vec<Unit> {
        self.state().due(channel, now)
    }

    /// Since when something that was given up lies there for a channel.
    pub(in crate::engine) fn dead_since(&self, channel: &Channel) -> Option<DateTime<Utc>> {
        let state = self.state();
        let known = state.known.iter().flat_map(BTreeMap::values);
        let open = known.flat_map(|entry| &entry.open);
        open.filter(|open| open.is_for(channel) && open.is_dead(Some(channel)))
            .filter_map(|open| open.dead_since)
            .min()
    }

    /// Reports whether somebody was to look, whatever is due, and begins to. Asked before the
    /// channels are read: what is written after that is looked at again.
    pub(super) fn take_look(&self) -> bool {
        std::mem::take(&mut self.state().look)
    }

    /// Not everything was looked at.
    pub(super) fn look_again(&self) {
        self.state().look = true;
    }

    /// The entries with a delivery that nobody is to make any more.
    pub(super) fn ownerless(&self, channels: &Channels, now: DateTime<Utc>) -> Vec<String> {
        let state = self.state();
        let gone = |open: &Open| {
            let old = open.dead_since.is_some_and(|at| now - at >= entry::KEPT);
            old || !has_owner(channels, &open.channel, &open.channel_id)
        };
        let known = state.known.iter().flatten();
        let found = known.filter(|(_, entry)| entry.open.iter().any(gone));
        found.map(|(event_id, _)| event_id.clone()).collect()
    }

    /// Takes every channel that is free and has something due, and says whether there was one that
    /// is not free; [`Outbox::release`] must follow for each.
    pub(super) fn take_due(&self, channels: &Channels, clock: &dyn Clock) -> (Vec<Channel>, bool) {
        let (now, monotonic) = (clock.now(), clock.monotonic());
        let mut state = self.state();
        let (mut taken, mut skipped) = (Vec::new(), false);
        for channel in &channels.list {
            if state.due(channel, now).is_empty() {
                continue;
            }
            let rests = state.resting.get(&channel.name);
            let rests = rests.is_some_and(|(_, until)| monotonic < *until);
            if rests || state.busy.contains(&channel.name) {
                skipped = true;
            } else {
                taken.push(channel.clone());
            }
        }
        for channel in &taken {
            state.busy.insert(channel.name.clone());
        }
        (taken, skipped)
    }

    /// A worker ended.
    pub(super) fn release(&self, channel: &str) {
        self.state().busy.remove(channel);
    }

    /// Lets a channel rest after a failure of its own: for as long as its host asked, to the
    /// second, unless it keeps asking.
    pub(super) fn rest(&self, channel: &str, asked: Option<Duration>, clock: &dyn Clock) {
        let mut state = self.state();
        let failures = state
            .resting
            .get(channel)
            .map_or(0, |(failures, _)| *failures);
        let failures = failures.saturating_add(1);
        let usual = rest(channel, failures);
        let rests = match asked {
            Some(asked) if failures <= MOST_TRUSTED => asked.max(SHORTEST_REST),
            Some(asked) => asked.max(usual),
            None => usual,
        };
        let until = clock.monotonic() + rests;
        state.resting.insert(channel.to_owned(), (failures, until));
    }

    /// The channel works.
    pub(in crate::engine) fn works(&self, channel: &str) {
        self.state().resting.remove(channel);
    }

    /// Returns how much waits, for one channel or all; `None` before this process has read it.
    pub(in crate::engine) fn undelivered(&self, channel: Option<&Channel>) -> Option<Undelivered> {
        let state = self.state();
        let mut sum = Undelivered {
            dropped: state.dropped,
            ..Undelivered::default()
        };
        for entry in state.known.as_ref()?.values() {
            let own = |open: &&Open| channel.is_none_or(|it| open.is_for(it));
            for open in entry.open.iter().filter(own) {
                if open.is_dead(channel) {
                    sum.dead += 1;
                } else {
                    sum.pending += 1;
                    let oldest = sum
                        .oldest
                        .map_or(entry.created_at, |it| it.min(entry.created_at));
                    sum.oldest = Some(oldest);
                }
            }
        }
        Some(sum)
    }
}
