//! One entry of the outbox: the facts of an event and what became of telling each who is told.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::Event;
use crate::engine::channels::Channel;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::storage::record::Finding;

/// The stored format.
const SCHEMA: u32 = 1;
/// What was given up is kept for so long.
pub(super) const KEPT: TimeDelta = TimeDelta::days(30);

/// The facts of an event that is being told, under `outbox/<event_id>`. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    schema: u32,
    pub(super) created_at: DateTime<Utc>,
    /// The event as it is stored with its tenant; only if it really is, this entry is believed.
    pub(super) event: Event,
    /// When the schedule changes the password next.
    pub(super) next_rotation: Option<DateTime<Utc>>,
    /// What a preflight found, for a notice.
    pub(super) findings: Vec<Finding>,
    /// Who is told.
    pub(super) deliveries: Vec<Delivery>,
}

/// One who is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delivery {
    pub(super) channel: String,
    /// Which life of the channel: what was meant for another one is not told to this one.
    pub(super) channel_id: String,
    /// One of the tenant's addresses instead of the channel's own.
    pub(super) to: Option<String>,
    /// How often it failed.
    pub(super) attempts: u32,
    /// How often the message itself was refused for good.
    pub(super) refusals: u32,
    pub(super) next_attempt: DateTime<Utc>,
    /// When it failed first.
    pub(super) failing_since: Option<DateTime<Utc>>,
    /// The code of the last failure.
    pub(super) last_error: Option<String>,
    pub(super) delivered_at: Option<DateTime<Utc>>,
    /// When it was given up.
    pub(super) dead_since: Option<DateTime<Utc>>,
    /// Which of several addresses of the channel have got it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) served: Vec<String>,
    /// Which of them the mail server refuses for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<String>,
}

impl Entry {
    pub(super) fn new(
        event: Event,
        next_rotation: Option<DateTime<Utc>>,
        findings: Vec<Finding>,
        deliveries: Vec<Delivery>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            created_at: now,
            event,
            next_rotation,
            findings,
            deliveries,
        }
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(key, bytes, SCHEMA)?;
        let entry: Self = storage::decode(key, bytes)?;
        if storage::outbox_key(&entry.event.event_id) == key {
            Ok(entry)
        } else {
            Err(storage::damaged(key))
        }
    }

    /// Reports whether nobody is left to be told.
    pub(super) fn is_done(&self) -> bool {
        let mut deliveries = self.deliveries.iter();
        deliveries.all(|delivery| delivery.delivered_at.is_some())
    }
}

impl Delivery {
    pub(super) fn new(channel: &Channel, to: Option<String>, now: DateTime<Utc>) -> Self {
        Self {
            channel: channel.name.clone(),
            channel_id: channel.id.clone(),
            to,
            attempts: 0,
            refusals: 0,
            next_attempt: now,
            failing_since: None,
            last_error: None,
            delivered_at: None,
            dead_since: None,
            served: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Adds who has got it, and who cannot have it, to those that are noted.
    pub(super) fn add_settled(&mut self, (served, refused): (Vec<String>, Vec<String>)) {
        for (noted, addresses) in [(&mut self.served, served), (&mut self.refused, refused)] {
            for address in addresses {
                if !noted.contains(&address) {
                    noted.push(address);
                }
            }
        }
    }

    /// Reports whether this is what `channel`, in this life of it, is to tell `to`.
    pub(super) fn is_for(&self, channel: &Channel, to: Option<&str>) -> bool {
        self.channel == channel.name && self.channel_id == channel.id && self.to.as_deref() == to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first stored format, as the manual has it: what was once written is read for ever.
    const FROZEN: &str = r#"{"schema":1,"created_at":"2026-09-21T14:13:20Z","event":{"event":"smtp_credentials_rotation_notice","event_id":"01K8Z5Y4N6D3T7Q2W9R1M0XVBC","seq":7,"lineage":"l1","prev_hash":"00","hash":"11","detail_hash":"22","tenant_id":"acme","user_id":"system","timestamp":"2026-09-21T14:13:20Z","severity":"info","outcome":"success"},"next_rotation":"2026-09-28T14:13:20Z","findings":["drift"],"deliveries":[{"channel":"ops","channel_id":"c1","to":"admin@acme.example","attempts":2,"refusals":1,"next_attempt":"2026-09-21T14:17:20Z","failing_since":"2026-09-21T14:14:20Z","last_error":"notify_rejected","delivered_at":null,"dead_since":null}]}"#;
    const KEY: &str = "outbox/01K8Z5Y4N6D3T7Q2W9R1M0XVBC";

    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let entry = Entry::decode(KEY, FROZEN.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(storage::encode(&entry).unwrap()).unwrap(),
            FROZEN
        );
        assert!(!entry.is_done());
    }

    #[test]
    fn a_newer_a_moved_and_a_damaged_entry_are_refused() {
        let newer = FROZEN.replacen("\"schema\":1", "\"schema\":2", 1);
        let unknown = FROZEN.replacen("\"schema\":1", "\"schema\":1,\"surprise\":1", 1);
        for (key, text) in [
            (KEY, newer.as_str()),
            (KEY, unknown.as_str()),
            (KEY, "{}"),
            ("outbox/01K8Z5Y4N6D3T7Q2W9R1M0XVBD", FROZEN),
        ] {
            let error = Entry::decode(key, text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "record_unreadable");
        }
    }
}
