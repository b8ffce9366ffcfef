//! [`Receipt`]: what a flush hands out, so that only who was answered can acknowledge.
//!
//! The host gives an answer to nobody before a device took it. Whoever has a receipt has seen the
//! answer that it came with, so the events in it are in a device. It carries their numbers and
//! hashes under a key of the keyring: nothing is stored for it, and another node understands it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::audit::Event;
use crate::crypto::Keyring;
use crate::engine::error::Error;

/// The longest receipt: 100 events with the longest names and numbers, and some room.
pub(in crate::engine) const MOST_BYTES: usize = 24 * 1024;

/// What was handed out.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::engine) struct Receipt {
    /// Tenant, number and the first 16 digits of the hash of each event.
    events: Vec<(String, u64, String)>,
}

impl Receipt {
    /// Lists events.
    pub(in crate::engine) fn of<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let short = |event: &Event| event.hash.chars().take(16).collect();
        Self {
            events: events
                .map(|event| (event.tenant_id.clone(), event.seq, short(event)))
                .collect(),
        }
    }

    /// Returns tenant and number of each event.
    pub(in crate::engine) fn events(&self) -> impl Iterator<Item = (&str, u64)> {
        self.events.iter().map(|(log, seq, _)| (log.as_str(), *seq))
    }

    /// Reports whether this stored event is the one that was handed out.
    pub(in crate::engine) fn names(&self, event: &Event) -> bool {
        self.events.iter().any(|(log, seq, hash)| {
            *log == event.tenant_id && *seq == event.seq && event.hash.starts_with(hash)
        })
    }

    /// Writes it as text.
    ///
    /// # Errors
    ///
    /// Never in practice.
    pub(in crate::engine) fn sign(&self, keyring: &Keyring) -> Result<String, Error> {
        let list = serde_json::to_vec(self)
            .map_err(|_not_shown| Error::Defect("a receipt did not serialise"))?;
        let mac = keyring.receipt_mac(&list);
        Ok(format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&list),
            URL_SAFE_NO_PAD.encode(mac)
        ))
    }

    /// Reads a receipt that this mount handed out.
    ///
    /// # Errors
    ///
    /// A 400 `invalid_receipt` for anything else.
    pub(in crate::engine) fn verify(text: &str, keyring: &Keyring) -> Result<Self, Error> {
        let invalid = || {
            Error::invalid(
                "invalid_receipt",
                "this is no receipt of this mount. Write events/flush and pass on the receipt that \
                 it answers.",
            )
        };
        let (list, mac) = text.trim().split_once('.').ok_or_else(invalid)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let list = decode(list).ok_or_else(invalid)?;
        let mac = decode(mac).ok_or_else(invalid)?;
        if !keyring.is_receipt_mac(&list, &mac) {
            return Err(invalid());
        }
        serde_json::from_slice(&list).map_err(|_not_shown| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Actor, EventLog, EventName, NewEvent};
    use crate::engine::storage::fixture;
    use crate::identifiers::{Identifiers, RandomIdentifiers};

    #[test]
    fn only_what_this_mount_signed_is_a_receipt() {
        let keyring = Keyring::generate(fixture::now()).unwrap();
        let identifiers: &dyn Identifiers = &RandomIdentifiers;
        let mut log = EventLog::default();
        for _ in 0..100 {
            let event = NewEvent::new(EventName::Rotated, Actor::system(), fixture::now());
            let id = identifiers.ulid(event.timestamp).unwrap();
            log.append(&"t".repeat(64), ("l1", id), &keyring, event);
        }
        let receipt = Receipt::of(log.events().iter());
        let text = receipt.sign(&keyring).unwrap();
        assert!(text.len() <= MOST_BYTES, "{}", text.len());
        assert_eq!(Receipt::verify(&text, &keyring).unwrap(), receipt);
        assert!(receipt.names(&log.events()[99]));

        let other = Keyring::generate(fixture::now()).unwrap();
        let mut changed = text.clone().into_bytes();
        changed[10] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        for (text, keyring) in [
            (text.as_str(), &other),
            (&changed, &keyring),
            ("", &keyring),
            (".", &keyring),
            ("e30.", &keyring),
        ] {
            let error = Receipt::verify(text, keyring).unwrap_err();
            assert_eq!(error.code(), "invalid_receipt");
        }
    }
}
