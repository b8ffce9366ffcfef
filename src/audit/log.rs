//! The numbered, chained log of one tenant (or of the mount), as it lies in a record.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::event::{Event, NewEvent};
use crate::crypto;

/// How many events that no device takes are kept by number; the next one is begun at again.
const MAX_PARKED: usize = 64;

/// How many events stay in a record; older ones move to the trail.
pub const MAX_IN_RECORD: usize = 16;

const FIRST_PREV_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Computes the keyed hash over an event's private fields.
pub trait DetailKey {
    /// Returns the 32-byte HMAC of `details` under a key of the mount.
    fn detail_hash(&self, details: &[u8]) -> [u8; 32];
}

impl DetailKey for crypto::Keyring {
    fn detail_hash(&self, details: &[u8]) -> [u8; 32] {
        Self::detail_hash(self, details)
    }
}

/// The latest events of one tenant and the state of its chain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLog {
    /// The last number given; 0 before the first event.
    seq: u64,
    /// The `hash` of the last event.
    head: String,
    /// Every event up to this number was delivered to an audit device; later ones may be as well.
    delivered_through: u64,
    /// Every event up to this number was delivered, or is among `parked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried_through: Option<u64>,
    /// Those up to it that no device took: refused so often that they are not tried by themselves.
    /// They keep nobody who reads the log from going on behind them.
    parked: Vec<u64>,
    /// Oldest first, at most [`MAX_IN_RECORD`] once [`EventLog::overflow`] was taken.
    events: Vec<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            seq: 0,
            head: FIRST_PREV_HASH.to_owned(),
            delivered_through: 0,
            tried_through: None,
            parked: Vec::new(),
            events: Vec::new(),
        }
    }
}

impl EventLog {
    /// Numbers, chains and appends an event of this lineage, under an identifier of its own (a ULID
    /// of its instant); returns it as it will be stored.
    pub fn append(
        &mut self,
        tenant: &str,
        (lineage, event_id): (&str, String),
        key: &dyn DetailKey,
        new: NewEvent,
    ) -> Event {
        let seq = self.seq + 1;
        let details = PrivateFields {
            changed: &new.changed,
            display_name: &new.actor.display_name,
            incident_id: new.incident_id.as_deref(),
            new_host: new.new_host.as_deref(),
            old_host: new.old_host.as_deref(),
            reason: new.reason.as_deref(),
        };
        let mut event = Event {
            event: new.event,
            event_id,
            seq,
            lineage: lineage.to_owned(),
            prev_hash: self.head.clone(),
            hash: String::new(),
            detail_hash: hex::encode(key.detail_hash(&canonical(&details))),
            tenant_id: tenant.to_owned(),
            user_id: new.actor.user_id,
            display_name: new.actor.display_name,
            timestamp: new.timestamp,
            severity: new.severity,
            rotation_type: new.rotation_type,
            version: new.version,
            previous_version: new.previous_version,
            previous_rotation: new.previous_rotation,
            reason: new.reason,
            incident_id: new.incident_id,
            changed: new.changed,
            old_host: new.old_host,
            new_host: new.new_host,
            outcome: new.outcome,
            error_code: new.error_code,
            request_id: new.request_id,
        };
        event.hash = chain_hash(&event);
        self.seq = seq;
        self.head.clone_from(&event.hash);
        self.events.push(event.clone());
        event
    }

    /// Returns the last number given.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns up to which number every event is known to be delivered; there may be more.
    #[must_use]
    pub const fn delivered_through(&self) -> u64 {
        self.delivered_through
    }

    /// Every event up to this number was delivered.
    pub fn note_delivered_through(&mut self, seq: u64) {
        self.delivered_through = self.delivered_through.max(seq.min(self.seq));
        self.parked
            .retain(|parked| *parked > self.delivered_through);
    }

    /// Returns up to which number every event was delivered or is among [`EventLog::parked`].
    #[must_use]
    pub fn tried_through(&self) -> u64 {
        let through = self.delivered_through;
        self.tried_through
            .map_or(through, |tried| tried.max(through))
    }

    /// Returns the events up to [`EventLog::tried_through`] that were not delivered, in order.
    #[must_use]
    pub fn parked(&self) -> &[u64] {
        &self.parked
    }

    /// Every event up to `through` was delivered, but for those in `parked`.
    pub fn note_tried(&mut self, through: u64, parked: impl IntoIterator<Item = u64>) {
        let through = through.min(self.seq);
        let known = self.delivered_through;
        let open = parked.into_iter();
        let mut open: Vec<u64> = open
            .filter(|seq| (known + 1..=through).contains(seq))
            .collect();
        open.sort_unstable();
        let tried = open.get(MAX_PARKED).map_or(through, |first| first - 1);
        open.truncate(MAX_PARKED);
        // Where nothing is parked, what was delivered says it.
        self.tried_through = Some(tried).filter(|_| !open.is_empty());
        self.parked = open;
    }

    /// Returns the event of this number, if it is kept here.
    #[must_use]
    pub fn find(&self, seq: u64) -> Option<&Event> {
        self.events.iter().find(|event| event.seq == seq)
    }

    /// Returns the events kept here, oldest first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns the oldest events beyond [`MAX_IN_RECORD`]; they go to the trail before the record
    /// is stored without them.
    #[must_use]
    pub fn overflow(&self) -> &[Event] {
        let excess = self.events.len().saturating_sub(MAX_IN_RECORD);
        self.events.get(..excess).unwrap_or_default()
    }

    /// Drops what [`EventLog::overflow`] returned.
    pub fn drop_overflow(&mut self) {
        let excess = self.events.len().saturating_sub(MAX_IN_RECORD);
        self.events.drain(..excess);
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

/// The fields that stay hidden in the audit log, in alphabetical order.
#[derive(Serialize)]
struct PrivateFields<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    changed: &'a [String],
    display_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incident_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The fields that are in clear in the audit log without `hash`, in alphabetical order: what
/// serde writes of it is the canonical JSON.
#[derive(Serialize)]
struct ClearFields<'a> {
    detail_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
    event: super::EventName,
    event_id: &'a str,
    lineage: &'a str,
    outcome: super::Outcome,
    prev_hash: &'a str,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::logical::instant::serialize"
    )]
    previous_rotation: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_version: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_type: Option<super::RotationType>,
    seq: u64,
    severity: super::Severity,
    tenant_id: &'a str,
    #[serde(serialize_with = "crate::logical::instant::serialize")]
    timestamp: DateTime<Utc>,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

/// Computes an event's `hash` from its other clear fields.
fn chain_hash(event: &Event) -> String {
    let clear = ClearFields {
        detail_hash: &event.detail_hash,
        error_code: event.error_code.as_deref(),
        event: event.event,
        event_id: &event.event_id,
        lineage: &event.lineage,
        outcome: event.outcome,
        prev_hash: &event.prev_hash,
        previous_rotation: event.previous_rotation,
        previous_version: event.previous_version,
        request_id: &event.request_id,
        rotation_type: event.rotation_type,
        seq: event.seq,
        severity: event.severity,
        tenant_id: &event.tenant_id,
        timestamp: event.timestamp,
        user_id: &event.user_id,
        version: event.version,
    };
    crypto::sha256_hex(&canonical(&clear))
}

fn canonical<T: Serialize>(fields: &T) -> Vec<u8> {
    // Plain structs of strings and numbers: serialising them cannot fail.
    serde_json::to_vec(fields).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Actor, EventName};

    struct FixedKey;

    impl DetailKey for FixedKey {
        fn detail_hash(&self, _details: &[u8]) -> [u8; 32] {
            [7; 32]
        }
    }

    #[test]
    fn what_is_parked_keeps_nobody_from_going_on_behind_it() {
        let mut log = EventLog::default();
        for number in 0..200 {
            log.append("acme", named(), &FixedKey, event(&number.to_string()));
        }
        log.note_delivered_through(3);
        log.note_tried(150, [90, 4, 2]);
        assert_eq!((log.delivered_through(), log.tried_through()), (3, 150));
        assert_eq!(log.parked(), [4, 90]);
        // Somebody tries them anew.
        log.note_tried(3, []);
        assert_eq!((log.tried_through(), log.parked().len()), (3, 0));
        log.note_tried(900, 4..=200);
        assert_eq!((log.tried_through(), log.parked().len()), (67, 64));
        log.note_delivered_through(66);
        assert_eq!(log.parked(), [67]);
        log.note_tried(180, []);
        assert_eq!((log.tried_through(), log.parked().len()), (66, 0));
        log.note_delivered_through(200);
        assert_eq!((log.tried_through(), log.parked().len()), (200, 0));
    }

    fn event(reason: &str) -> NewEvent {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let mut event = NewEvent::new(EventName::Rotated, Actor::caller("e-1", "alice"), now);
        event.reason = Some(reason.to_owned());
        event
    }

    fn named() -> (&'static str, String) {
        ("l1", String::from("01K5P1Q2R3S4T5V6W7X8Y9Z0AB"))
    }

    #[test]
    fn numbers_have_no_gap_and_every_hash_names_the_one_before() {
        let mut log = EventLog::default();
        for _ in 0..20 {
            log.append("acme", named(), &FixedKey, event("why"));
        }
        let mut previous = FIRST_PREV_HASH.to_owned();
        for (index, stored) in log.events().iter().enumerate() {
            assert_eq!(stored.seq, index as u64 + 1);
            assert_eq!(stored.prev_hash, previous);
            assert_eq!(stored.hash, chain_hash(stored));
            previous.clone_from(&stored.hash);
        }
        assert_eq!(log.overflow().len(), 4);
        log.drop_overflow();
        assert_eq!(log.events().first().map(|event| event.seq), Some(5));
        let next = log.append("acme", named(), &FixedKey, event("why"));
        assert_eq!(next.seq, 21);
    }

    #[test]
    fn the_hash_is_the_sha256_of_sorted_clear_fields_and_holds_no_private_text() {
        let mut log = EventLog::default();
        let stored = log.append("acme", named(), &FixedKey, event("private reason"));
        let text = format!(
            "{{\"detail_hash\":\"{}\",\"event\":\"smtp_credentials_rotated\",\"event_id\":\"{}\",\
             \"lineage\":\"l1\",\"outcome\":\"success\",\"prev_hash\":\"{FIRST_PREV_HASH}\",\"seq\":1,\
             \"severity\":\"info\",\"tenant_id\":\"acme\",\"timestamp\":\"2026-09-21T14:13:20Z\",\
             \"user_id\":\"e-1\"}}",
            hex::encode([7; 32]),
            stored.event_id
        );
        assert_eq!(stored.hash, crypto::sha256_hex(text.as_bytes()));
    }
}
