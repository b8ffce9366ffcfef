//! What the rules remember of people over all tenants, for an hour.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::crypto;
use crate::engine::error::Error;
use crate::engine::storage::{self, WATCH};

/// The stored format.
const SCHEMA: u32 = 1;
/// How many people are remembered; the one who was seen longest ago goes first.
const MOST_PEOPLE: usize = 256;
/// How many looks, and how many alerts, are remembered of each; the oldest go first.
const MOST_EACH: usize = 64;
/// An identity longer than this is remembered by its hash; in bytes.
const LONGEST_NAME: usize = 128;
/// For how long: in seconds.
pub(super) const HOUR: i64 = 3_600;

/// The stored entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// The stored format.
    schema: u32,
    /// By identity.
    people: BTreeMap<String, Person>,
}

/// What is remembered of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    /// When they looked at a password, in Unix seconds, oldest first.
    reveals: Vec<i64>,
    /// When which alert was given because of them.
    alerts: BTreeMap<String, i64>,
}

/// The memory as it was last read or written, as long as this node is the one that writes. Not
/// read again in between: what a failed Put left out of storage is only here.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    // A blocking mutex: held only to copy an `Arc`.
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    memory: Option<Arc<Memory>>,
    /// Counts how often it was forgotten: what was read before is not kept.
    epoch: u64,
}

impl Remembered {
    pub(super) fn kept(&self) -> Option<Arc<Memory>> {
        self.slot().memory.clone()
    }

    /// To be asked before what [`Remembered::keep`] keeps was read.
    pub(super) fn epoch(&self) -> u64 {
        self.slot().epoch
    }

    /// Keeps what was read, unless somebody was faster: that one's is newer.
    pub(super) fn keep(&self, memory: &Arc<Memory>, epoch: u64) {
        let mut slot = self.slot();
        if slot.epoch == epoch {
            slot.memory.get_or_insert_with(|| Arc::clone(memory));
        }
    }

    /// Changes what is kept; returns the answer and what is to be stored. `None` if it was forgotten
    /// meanwhile.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Memory) -> T,
    ) -> Option<(T, Arc<Memory>)> {
        let mut slot = self.slot();
        let memory = slot.memory.as_mut()?;
        let answer = change(Arc::make_mut(memory));
        Some((answer, Arc::clone(memory)))
    }

    /// Another node may write from now on.
    pub(crate) fn forget(&self) {
        let mut slot = self.slot();
        slot.memory = None;
        slot.epoch += 1;
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            people: BTreeMap::new(),
        }
    }
}

impl Memory {
    /// Reads the stored entry.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(WATCH, bytes, SCHEMA)?;
        let memory: Self = storage::decode(WATCH, bytes)?;
        let within = |it: &Person| it.reveals.len() <= MOST_EACH && it.alerts.len() <= MOST_EACH;
        if memory.people.len() <= MOST_PEOPLE && memory.people.values().all(within) {
            Ok(memory)
        } else {
            Err(storage::damaged(WATCH))
        }
    }

    /// Remembers a look, and returns how many there were of this one within the hour.
    pub(super) fn note_reveal(&mut self, who: &str, now: i64) -> usize {
        self.forget_old(now);
        let person = self.people.entry(key(who)).or_default();
        person.reveals.push(now);
        let excess = person.reveals.len().saturating_sub(MOST_EACH);
        person.reveals.drain(..excess);
        let count = person.reveals.len();
        self.make_room();
        count
    }

    /// Reports whether an alert was given because of this one within the hour.
    pub(super) fn was_given(&self, who: &str, alert: &str, now: i64) -> bool {
        let person = self.people.get(&key(who));
        let at = person.and_then(|person| person.alerts.get(alert));
        at.is_some_and(|at| is_recent(*at, now))
    }

    /// Remembers that an alert was given.
    pub(super) fn note_alert(&mut self, who: &str, alert: &str, now: i64) {
        self.forget_old(now);
        let alerts = &mut self.people.entry(key(who)).or_default().alerts;
        if alerts.len() >= MOST_EACH {
            let oldest = alerts.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(alert, _)| alert.clone()) {
                alerts.remove(&oldest);
            }
        }
        alerts.insert(alert.to_owned(), now);
        self.make_room();
    }

    /// Forgets what is older than an hour, and what seems to come from the future: a clock that
    /// was set back must not accuse anybody.
    fn forget_old(&mut self, now: i64) {
        self.people.retain(|_, person| {
            person.reveals.retain(|at| is_recent(*at, now));
            person.alerts.retain(|_, at| is_recent(*at, now));
            person.last_seen().is_some()
        });
    }

    fn make_room(&mut self) {
        while self.people.len() > MOST_PEOPLE {
            let oldest = self.people.iter().min_by_key(|(_, it)| it.last_seen());
            let Some(oldest) = oldest.map(|(who, _)| who.clone()) else {
                return;
            };
            self.people.remove(&oldest);
        }
    }
}

impl Person {
    fn last_seen(&self) -> Option<i64> {
        self.reveals
            .iter()
            .chain(self.alerts.values())
            .max()
            .copied()
    }
}

fn is_recent(at: i64, now: i64) -> bool {
    at <= now && now.saturating_sub(at) < HOUR
}

fn key(who: &str) -> String {
    if who.len() <= LONGEST_NAME {
        who.to_owned()
    } else {
        crypto::sha256_hex(who.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture::WATCH_V1;

    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let memory = Memory::decode(WATCH_V1).unwrap();
        assert!(memory.was_given("entity-1", "many_reveals", 1_790_000_100));
        let written = storage::encode(&memory).unwrap();
        assert_eq!(written, WATCH_V1.trim_ascii_end());
        let text = std::str::from_utf8(WATCH_V1).unwrap();
        for (right, wrong) in [
            (":1,", ":2,"),
            ("reveals", "reveal"),
            ("[1790", "[\"x\",1790"),
        ] {
            let spoilt = text.replacen(right, wrong, 1);
            assert_ne!(spoilt, text);
            let error = Memory::decode(spoilt.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "record_unreadable");
        }
        let many = vec!["1"; MOST_EACH + 1].join(",");
        let spoilt =
            format!(r#"{{"schema":1,"people":{{"a":{{"reveals":[{many}],"alerts":{{}}}}}}}}"#);
        Memory::decode(spoilt.as_bytes()).unwrap_err();
    }

    #[test]
    fn a_look_counts_for_an_hour_and_never_from_the_future() {
        let mut memory = Memory::default();
        assert_eq!(memory.note_reveal("a", 1_000), 1);
        assert_eq!(memory.note_reveal("b", 1_000), 1);
        assert_eq!(memory.note_reveal("a", 1_000 + HOUR - 1), 2);
        assert_eq!(
            memory.note_reveal("a", 1_000 + HOUR),
            2,
            "the first is over"
        );
        assert_eq!(memory.note_reveal("a", 1_000), 1, "the clock went back");
        memory.note_alert("a", "many_reveals", 1_000);
        assert!(memory.was_given("a", "many_reveals", 1_000 + HOUR - 1));
        assert!(!memory.was_given("a", "many_reveals", 1_000 + HOUR));
        assert!(!memory.was_given("a", "many_reveals", 999));
        assert!(!memory.was_given("b", "many_reveals", 1_000));
    }

    #[test]
    fn it_never_grows_beyond_its_bounds() {
        let mut memory = Memory::default();
        let long = "x".repeat(LONGEST_NAME + 1);
        for at in 0..100 {
            memory.note_reveal(&long, at);
            memory.note_alert(&long, &format!("alert {at}"), at);
        }
        assert_eq!(memory.note_reveal(&long, 100), MOST_EACH);
        assert!(memory.was_given(&long, "alert 99", 100));
        assert!(!memory.was_given(&long, "alert 1", 100));
        for person in 0..300 {
            memory.note_reveal(&format!("person {person}"), 101 + person);
        }
        let stored = storage::encode(&memory).unwrap();
        assert_eq!(Memory::decode(&stored).unwrap(), memory);
        assert_eq!(memory.people.len(), MOST_PEOPLE);
        assert!(!memory.people.contains_key("person 0"));
        assert!(memory.people.contains_key("person 299"));
        assert!(memory.people.keys().all(|who| who.len() <= LONGEST_NAME));
    }
}
