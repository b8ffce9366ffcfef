//! [`Agenda`]: what the records behind `open/` and the due days' folders say, so that a tick reads
//! a record once and not every minute.
//!
//! A copy of records, no truth: whatever stores a tenant's record replaces its entry, and what
//! another node stored makes it forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};

use crate::engine::config::MountConfig;
use crate::engine::schedule::{Planned, Rest};
use crate::engine::state::State;
use crate::engine::tenant::TenantName;

/// What is known of one tenant's record.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Known {
    /// The server it waits for; empty if it has none.
    pub(in crate::engine) server: String,
    /// When open work is to be done; `None` if nothing waits for a tick.
    pub(in crate::engine) open_at: Option<DateTime<Utc>>,
    /// What the schedule does next.
    pub(in crate::engine) planned: Option<Planned>,
    /// The folder that leads to it.
    pub(in crate::engine) due_day: Option<NaiveDate>,
    /// Whether it belongs into `open/`.
    pub(in crate::engine) is_open: bool,
    /// What reads of the credential say.
    pub(in crate::engine) state: Option<State>,
    /// When the credential's next change is planned.
    pub(in crate::engine) next_rotation: Option<DateTime<Utc>>,
    /// The end of the tenant's pause.
    pub(in crate::engine) paused_until: Option<DateTime<Utc>>,
    /// Code and beginning of what a person has to look at.
    pub(in crate::engine) attention: Option<(String, DateTime<Utc>)>,
    /// The schedule's last change failed, and it is tried again.
    pub(in crate::engine) failing: bool,
    /// Nothing else is known: the record cannot be read.
    pub(in crate::engine) unreadable: bool,
}

impl Known {
    /// What is known of a record that cannot be read.
    pub(super) fn unreadable(since: DateTime<Utc>) -> Self {
        Self {
            server: String::new(),
            open_at: None,
            planned: None,
            due_day: None,
            is_open: false,
            state: None,
            next_rotation: None,
            paused_until: None,
            attention: Some((String::from("record_unreadable"), since)),
            failing: false,
            unreadable: true,
        }
    }
}

/// By what and when a stored record was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) config: &'a MountConfig,
    pub(super) rest: Rest,
    pub(super) now: DateTime<Utc>,
}

/// What was known when the entries were made: settings and rests of the mount.
type Basis = (Arc<MountConfig>, Rest);

/// What is known of the tenants that ticks look at.
#[derive(Debug, Default)]
pub(in crate::engine) struct Agenda {
    basis: Option<Basis>,
    known: BTreeMap<TenantName, Known>,
    /// Stored anew since the tick under way began to read: what it read may be older.
    changed: BTreeSet<TenantName>,
}

impl Agenda {
    /// Begins a tick's reading.
    pub(super) fn begin(&mut self, config: &Arc<MountConfig>, rest: Rest) {
        let basis = (Arc::clone(config), rest);
        if self.basis.as_ref() != Some(&basis) {
            self.known.clear();
            self.basis = Some(basis);
        }
        self.changed.clear();
    }

    /// A record was stored: what was read of it before is not to be believed.
    pub(super) fn forget(&mut self, name: &TenantName) {
        self.known.remove(name);
        self.changed.insert(name.clone());
    }

    /// Keeps what was just stored, if that belongs to what ticks look at: nobody disappears from
    /// `status` until the next tick because something was noted about him.
    pub(super) fn learn_stored(&mut self, name: &TenantName, known: Known, of: Stored<'_>) {
        let today = of.now.date_naive();
        let looked_at = known.is_open || known.due_day.is_some_and(|day| day <= today);
        let basis = self.basis.as_ref();
        let same = basis.is_some_and(|(config, rest)| **config == *of.config && *rest == of.rest);
        if looked_at && same {
            self.known.insert(name.clone(), known);
        }
    }

    /// Keeps what was read, unless the record was stored in the meantime.
    pub(super) fn learn(&mut self, name: TenantName, known: Known) {
        if !self.changed.contains(&name) {
            self.known.insert(name, known);
        }
    }

    pub(super) fn get(&self, name: &TenantName) -> Option<&Known> {
        self.known.get(name)
    }

    /// Since when the tenant's record is known to be unreadable.
    pub(super) fn since(&self, name: &TenantName) -> Option<DateTime<Utc>> {
        let known = self.known.get(name).filter(|known| known.unreadable)?;
        known.attention.as_ref().map(|(_, since)| *since)
    }

    /// Forgets everyone whom no pointer leads to any more.
    pub(super) fn keep_only(&mut self, listed: &BTreeSet<TenantName>) {
        let changed = &self.changed;
        self.known
            .retain(|name, _| listed.contains(name) || changed.contains(name));
    }

    /// Returns everything known, by tenant.
    pub(in crate::engine) fn entries(&self) -> impl Iterator<Item = (&TenantName, &Known)> {
        self.known.iter()
    }
}
