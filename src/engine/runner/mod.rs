//! What the host's tick sets in motion.
//!
//! The host calls once a minute, on standbys too. The handler only asks for role and taint and
//! starts the run, which does everything else on tracked tasks: ticks do no network work, have no
//! timers, and a process that died is revived by the next one. What must stay true:
//!
//! - work waits for its own server only: each server has at most one worker, and each kind of work
//!   has its places (see `places`);
//! - a quiet tick costs one list of `open/` and two of days of `due/`, whatever the
//!   number of tenants.

mod agenda;
mod calendar;
mod due;
mod open_work;
mod places;
mod placing;
mod reindex;
mod rewrap;
mod scheduled;
mod sweep;
mod unasked;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use super::schedule::Rest;
use super::storage::record::TenantRecord;
use super::tenant::TenantName;
use crate::logical::Mount;
use agenda::Agenda;
pub(super) use agenda::Known;
pub(super) use calendar::{Calendar, Expiry, Sight};
pub(super) use due::server_of;
pub(super) use places::Class;
use places::Places;
pub(super) use reindex::{Reindex, ReindexProgress};
pub(super) use rewrap::{Rewrap, RewrapProgress};
pub(super) use sweep::SweepProgress;
use sweep::Sweeps;

/// Names read from a folder at once.
const PAGE: usize = 4096;

/// What the runs of one mount have under way. Everything in it can be found again in storage.
#[derive(Debug, Default)]
pub(super) struct Runner {
    // A blocking mutex: held only for set operations.
    state: Mutex<State>,
    pub(super) places: Arc<Places>,
}

#[derive(Debug, Default)]
struct State {
    /// A run is listing the work.
    listing: bool,
    /// Servers that have a worker, or will have one when a place is free.
    busy: HashSet<String>,
    /// What the records say that ticks look at.
    agenda: Agenda,
    /// What storage holds of the schedule.
    calendar: Option<Calendar>,
    /// The last tick that this process took as the active node.
    last_tick: Option<Sight>,
    sweeps: Sweeps,
}

/// A run under way; however it ends, the next tick can begin one.
#[derive(Debug)]
struct Listing(Arc<Engine>);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.runner.state().listing = false;
    }
}

/// A server that has a worker; however that ends, the next tick may begin another.
#[derive(Debug)]
pub(super) struct Busy(Arc<Engine>, String);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.runner.state().busy.remove(&self.1);
    }
}

impl Runner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another role, another knowledge: the next active tick reads and sweeps.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.sweeps.forget();
        state.agenda = Agenda::default();
        state.calendar = None;
        state.last_tick = None;
    }

    /// Shows everything that ticks know of tenants, in no order; returns the last tick.
    pub(super) fn look(&self, mut see: impl FnMut(&TenantName, &Known)) -> Option<Sight> {
        let state = self.state();
        for (tenant, known) in state.agenda.entries() {
            see(tenant, known);
        }
        state.last_tick
    }

    /// Begins to know everything anew.
    fn forget_agenda(&self) {
        self.state().agenda = Agenda::default();
    }

    /// A tenant's record was stored by another node, or it is not known which record holds.
    pub(super) fn forget_tenant(&self, name: &TenantName) {
        self.state().agenda.forget(name);
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
        self.joined.forget_old(self.clock().monotonic());
        if let Err(error) = self.require_own_storage(mount).await {
            // Neither are another mount's events told, nor its passwords changed.
            tracing::warn!(%error, "nothing is done by itself");
            return;
        }
        self.begin_delivery(mount);
        self.begin_emission(mount);
        if std::mem::replace(&mut self.runner.state().listing, true) {
            // The run of the last tick still waits for storage.
            return;
        }
        self.counters.note_tick();
        let listing = Listing(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            if let Err(error) = listing.0.run(&mount).await {
                tracing::warn!(%error, "this tick's work was not begun");
            }
        });
    }

    async fn run(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        self.begin_storing_failures(mount);
        self.begin_finishing_changes(mount);
        self.begin_rewrap(mount);
        self.begin_reindex(mount);
        let config = self.config(mount).await?;
        let calendar = self.calendar(mount, &config).await?;
        self.begin_due_work(mount, &config, &calendar).await?;
        if let Err(error) = self.go_on_placing(mount, &config).await {
            tracing::warn!(%error, "placing the tenants anew goes on with the next tick");
        }
        if let Err(error) = self.tell_of_stall(mount).await {
            tracing::warn!(%error, "that changes wait for the audit devices is told later");
        }
        // After what cannot wait has taken its places.
        self.begin_batches(mount);
        self.begin_sweep(mount).await
    }

    /// Takes a server for work that is not begun by a request; `None` if it has a worker.
    pub(super) fn occupy(self: &Arc<Self>, server: &str) -> Option<Busy> {
        let free = self.runner.state().busy.insert(server.to_owned());
        free.then(|| Busy(Arc::clone(self), server.to_owned()))
    }

    /// A tenant's record was stored.
    pub(super) fn note_stored(
        &self,
        name: &TenantName,
        record: &TenantRecord,
        config: &MountConfig,
    ) {
        let of = agenda::Stored {
            config,
            rest: self.rest(config),
            now: self.clock().now(),
        };
        let known = due::known(Some(record), config, of.rest, of.now);
        let mut state = self.runner.state();
        state.agenda.forget(name);
        state.agenda.learn_stored(name, known, of);
    }

    /// Until when the whole mount's schedule rests, as far as is known.
    fn rest(&self, config: &MountConfig) -> Rest {
        let state = self.runner.state();
        let calendar = state.calendar.as_ref();
        Rest {
            paused_until: config.paused_until,
            held_until: calendar.and_then(|calendar| calendar.held_until),
        }
    }
}
