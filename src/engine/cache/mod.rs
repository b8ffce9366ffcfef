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
//! - Which of both this node is was asked at Initialize and is asked again by each tick and each
//!   write. As long as nobody could tell, it counts as a standby.

mod records;
mod single;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) use records::Records;
pub(super) use single::Single;

/// How long a standby believes what it has in memory.
const STANDBY: Duration = Duration::from_secs(10);
/// How long the active node believes settings and keyring. Nobody else writes them; the bound is
/// for what no plugin can see, such as an operator's write to raw storage.
const ACTIVE_SINGLE: Duration = Duration::from_secs(60);

/// This node's part, as far as memory depends on it.
#[derive(Debug, Default)]
pub(super) struct Role {
    active: AtomicBool,
}

impl Role {
    /// Notes whether this node may write.
    pub(super) fn note(&self, may_write: bool) {
        self.active.store(may_write, Ordering::Relaxed);
    }

    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
}

/// Reports whether something filled at `filled` may still be believed at `now`; both monotonic.
fn is_fresh(filled: Duration, now: Duration, bound: Option<Duration>) -> bool {
    bound.is_none_or(|bound| now.saturating_sub(filled) < bound)
}
