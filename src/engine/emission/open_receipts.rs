//! [`OpenReceipts`]: what answers of `events/emit` carried, until somebody brings it back.
//!
//! The host gives an answer to nobody before a device took it, and writes this key of it hashed. So
//! who has the text has had the answer, and the line is in a device. In memory only: what another
//! process gave out proves nothing to this one, and the event is told again.

use std::collections::VecDeque;
use std::time::Duration;

use super::index::Emission;
use crate::audit::Event;
use crate::clock::Clock;
use crate::crypto;
use crate::engine::Engine;
use crate::engine::error::Error;

/// So many are out at once. The emitter has one; whoever else may call `events/emit` can only push
/// out its next answer, which is asked for again.
const MOST: usize = 64;
/// How long one is good: longer than the emitter waits for an answer.
const LIFE: Duration = Duration::from_secs(60);

/// What is out, oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenReceipts(VecDeque<Open>);

#[derive(Debug)]
struct Open {
    /// SHA-256 of the text: comparing tells nobody how much of it was right.
    digest: String,
    log: String,
    seq: u64,
    /// By the monotonic clock.
    until: Duration,
}

impl OpenReceipts {
    fn give(&mut self, (log, seq): (&str, u64), receipt: &str, now: Duration) {
        self.0.retain(|open| open.until > now);
        while self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(Open {
            digest: crypto::sha256_hex(receipt.as_bytes()),
            log: log.to_owned(),
            seq,
            until: now.saturating_add(LIFE),
        });
    }

    /// Reports whether this text was given out for this event and is still good; once.
    fn take(&mut self, (log, seq): (&str, u64), receipt: &str, now: Duration) -> bool {
        self.0.retain(|open| open.until > now);
        let digest = crypto::sha256_hex(receipt.as_bytes());
        let is_this = |open: &Open| open.digest == digest && open.log == log && open.seq == seq;
        let found = self.0.iter().position(is_this);
        found.and_then(|at| self.0.remove(at)).is_some()
    }
}

impl Engine {
    /// Makes the receipt of one answer that shows this event.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness.
    pub(in crate::engine) fn give_receipt(&self, event: &Event) -> Result<String, Error> {
        // From the operating system and not from the engine's identifiers, which need not be secret.
        let receipt = format!("{:032x}", crypto::random_u128()?);
        let now = self.clock().monotonic();
        let mut state = self.emission.state();
        state
            .receipts
            .give((&event.tenant_id, event.seq), &receipt, now);
        Ok(receipt)
    }
}

impl Emission {
    /// Takes a receipt back; reports whether this process gave it out for this event.
    pub(super) fn take_back(&self, event: (&str, u64), receipt: &str, clock: &dyn Clock) -> bool {
        let now = clock.monotonic();
        self.state().receipts.take(event, receipt, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    #[test]
    fn a_receipt_is_good_once_for_a_minute_and_for_its_event() {
        let mut open = OpenReceipts::default();
        open.give(("acme", 7), "r1", NOW);
        for (event, receipt) in [
            (("acme", 7), "r2"),
            (("acme", 7), ""),
            (("acme", 8), "r1"),
            (("globex", 7), "r1"),
        ] {
            assert!(!open.take(event, receipt, NOW), "{event:?} {receipt}");
        }
        assert!(open.take(("acme", 7), "r1", NOW), "trying others lost it");
        assert!(!open.take(("acme", 7), "r1", NOW), "twice");
        open.give(("acme", 7), "r3", NOW);
        assert!(!open.take(("acme", 7), "r3", NOW + LIFE));
        open.give(("acme", 7), "r4", NOW);
        let just = LIFE.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(open.take(("acme", 7), "r4", NOW + just));
    }

    #[test]
    fn so_many_are_out_and_no_more() {
        let mut open = OpenReceipts::default();
        for number in 0..1_000 {
            open.give(("acme", number), &format!("r{number}"), NOW);
        }
        assert_eq!(open.0.len(), MOST);
        assert!(!open.take(("acme", 935), "r935", NOW));
        assert!(open.take(("acme", 936), "r936", NOW));
        // What ended makes room for itself.
        open.give(("acme", 1), "late", NOW + LIFE);
        assert_eq!(open.0.len(), 1);
    }
}
