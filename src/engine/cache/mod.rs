//! What is kept in memory so that a read need not ask storage: ciphertext records, the mount's
//! settings and its keyring.
//!
//! Nothing here is the only copy of anything: every entry may be dropped at any time. What must
//! stay true:
//!
//! - The active node is the only writer, and each of its writes goes past the memory first: it is
//!   emptied before the Put, filled again only with what storage was seen to hold afterwards, and
//!   a fill whose Get began before any of that is thrown away.
//! - A standby hears of changes by `invalidate_key`, which may come late or never (a restored
//!   snapshot): there nothing is believed for longer than ten seconds.
//! - The active node hears of nothing that it did not write itself. Two things can reach storage
//!   past it: an operator's write to raw storage, and a Put of a killed predecessor that the host
//!   still had in hand. So nothing is believed for longer than a minute there.
//! - Which of both this node is was asked at Initialize and is asked again by each tick and each
//!   write. As long as nobody could tell, it counts as a standby; with a change of it everything
//!   is dropped.
//! - Where the operator turned the host's caches off, nothing is believed at all.

mod records;
mod single;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) use records::Records;
pub(super) use single::Single;

/// How long a standby believes what it has in memory.
const STANDBY: Duration = Duration::from_secs(10);
/// How long the active node does.
const ACTIVE: Duration = Duration::from_secs(60);

/// What this node is, as far as memory depends on it.
#[derive(Debug, Default)]
pub(super) struct Role {
    active: AtomicBool,
    caching_disabled: AtomicBool,
}

impl Role {
    /// Notes whether this node may write; returns whether that is new.
    pub(super) fn note(&self, may_write: bool) -> bool {
        self.active.swap(may_write, Ordering::Relaxed) != may_write
    }

    /// Reports whether this node is known to write.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Notes whether the operator turned caches off.
    pub(super) fn note_caching_disabled(&self, disabled: bool) {
        self.caching_disabled.store(disabled, Ordering::Relaxed);
    }

    /// How long something is believed from the moment before storage was asked for it.
    fn trust(&self) -> Duration {
        if self.caching_disabled.load(Ordering::Relaxed) {
            Duration::ZERO
        } else if self.active.load(Ordering::Relaxed) {
            ACTIVE
        } else {
            STANDBY
        }
    }

    /// Reports whether what storage held at `asked` may be believed at `now`; both monotonic.
    fn believes(&self, asked: Duration, now: Duration) -> bool {
        now.saturating_sub(asked) < self.trust()
    }
}

/// The moment before storage was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// How many invalidations there had been.
    epoch: u64,
    /// Monotonic time.
    at: Duration,
}
