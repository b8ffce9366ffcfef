//! Batches: many tenants' passwords changed by one request, a few at a time.
//!
//! A batch is one entry that holds everything a later process needs to go on; ticks do the work.
//! What must stay true:
//!
//! - a tenant is changed at most once by one batch, whatever dies in between: every change carries
//!   the batch's request id, and whoever takes a batch up looks for it in the tenant's record;
//! - one batch at a time, the oldest first, but resets before all others;
//! - a mount without batches costs no storage call at a tick.

mod control;
mod plan;
mod record;
mod turn;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(super) use control::{Created, Order};
pub(super) use plan::{MOST_NAMED, Plan};
pub(super) use record::{Action, Batch, State, Targets};

/// From one look at the kept batches to the next where nobody asked for one: old ones go.
const TIDY: Duration = Duration::from_secs(24 * 3600);

/// What this process knows of the mount's batches. Everything in it can be found in storage.
#[derive(Debug)]
pub(super) struct Batches {
    /// There may be a batch to go on with.
    wanted: AtomicBool,
    /// A run is under way.
    running: AtomicBool,
    /// A batch of resets waits: it goes before others, which rest meanwhile.
    emergency: AtomicBool,
    // A blocking mutex: held only for assignments.
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// The batch that is worked on.
    current: Option<String>,
    /// Batches that somebody cancelled since the stored ones were last looked at: their runs stop
    /// before the next tenant.
    cancelled: BTreeSet<String>,
    /// Tenants whose turns storage ended, and how often; empty again with the batch's end.
    stuck: BTreeMap<String, u32>,
    /// Batches whose end is counted and not yet stored as told.
    counted: BTreeSet<String>,
    /// When old batches are to be looked for, monotonic.
    tidy_at: Duration,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            // Nothing is known yet.
            wanted: AtomicBool::new(true),
            running: AtomicBool::new(false),
            emergency: AtomicBool::new(false),
            notes: Mutex::default(),
        }
    }
}

impl Batches {
    /// There may be something to do: a batch was created, or this node begins to write.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Returns the batch that is worked on.
    pub(super) fn current(&self) -> Option<String> {
        self.notes().current.clone()
    }

    fn cancel(&self, id: &str) {
        self.notes().cancelled.insert(id.to_owned());
    }

    fn is_cancelled(&self, id: &str) -> bool {
        self.notes().cancelled.contains(id)
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
