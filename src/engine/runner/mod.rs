//! What the host's tick sets in motion.
//!
//! The host calls once a minute, on standbys too. The handler only asks for role and taint and
//! starts the run, which does everything else on tracked tasks: ticks do no network work, have no
//! timers, and a process that died is revived by the next one. What must stay true:
//!
//! - work waits for its own server only: each server has at most one worker, and all of them
//!   together half of `max_parallel`;
//! - a quiet tick costs one list of `open/`, whatever the number of tenants.

mod open_work;
mod rewrap;
mod sweep;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Engine;
use super::error::Error;
use crate::logical::Mount;
pub(super) use rewrap::{Rewrap, RewrapProgress};

/// Names read from a folder at once.
const PAGE: usize = 256;

/// What the runs of one mount have under way. Everything in it can be found again in storage.
#[derive(Debug, Default)]
pub(super) struct Runner {
    // A blocking mutex: held only for set operations.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A run is listing the open work.
    listing: bool,
    /// Servers that have a worker, or will have one when a place is free.
    busy: HashSet<String>,
    /// Workers that have a place.
    working: usize,
    /// The daily look at every tenant is under way.
    sweeping: bool,
    /// When the next one may begin, monotonic; zero since this node became the active one.
    next_sweep: Duration,
}

/// A run under way; however it ends, the next tick can begin one.
#[derive(Debug)]
struct Listing(Arc<Engine>);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.runner.state().listing = false;
    }
}

impl Runner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another role, another knowledge: the next active tick sweeps.
    pub(super) fn forget(&self) {
        self.state().next_sweep = Duration::ZERO;
    }
}

impl Engine {
    /// Takes the host's tick. Returns within a few questions to the host; never fails.
    pub(super) async fn tick(self: &Arc<Self>, mount: &Mount) {
        self.note_role(mount).await;
        if !self.role.is_active() || self.tasks.is_stopping() {
            return;
        }
        match mount.system.tainted().await {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                tracing::warn!(%error, "the host does not say whether the mount is being removed");
                return;
            }
        }
        self.begin_delivery(mount);
        if std::mem::replace(&mut self.runner.state().listing, true) {
            // The run of the last tick still waits for storage.
            return;
        }
        let listing = Listing(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            if let Err(error) = listing.0.run(&mount).await {
                tracing::warn!(%error, "this tick's work was not begun");
            }
        });
    }

    async fn run(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        self.begin_rewrap(mount);
        self.begin_open_work(mount).await?;
        self.begin_sweep(mount).await
    }
}
