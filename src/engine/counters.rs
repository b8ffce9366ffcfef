//! What this process counted since it started, for `metrics`. Nothing of it is stored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Engine;
use super::batch;
use super::error::Error;
use super::storage;
use super::watch::Rule;
use crate::audit::{Event, EventName, Outcome, RotationType};
use crate::logical::Mount;

/// Names listed at once when tenants are counted.
const PAGE: usize = 1_000;

/// Every kind of change, with its name in answers and metrics.
pub(super) const TYPES: [(RotationType, &str); 7] = [
    (RotationType::Automated, "automated"),
    (RotationType::Manual, "manual"),
    (RotationType::Emergency, "emergency"),
    (RotationType::Bulk, "bulk"),
    (RotationType::Rollback, "rollback"),
    (RotationType::Reveal, "reveal"),
    (RotationType::Rehome, "rehome"),
];

/// How a change ended.
pub(super) const OUTCOMES: [&str; 2] = ["success", "failure"];

/// How a batch ended.
pub(super) const BATCH_ENDS: [&str; 3] = ["done", "stopped", "cancelled"];

/// The counters of one mount.
#[derive(Debug, Default)]
pub(super) struct Counters {
    // A blocking mutex: held only to count.
    counts: Mutex<Counts>,
    drifts: AtomicU64,
    notices: AtomicU64,
    ticks: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By kind and outcome.
    changes: BTreeMap<(&'static str, &'static str), u64>,
    batches: BTreeMap<&'static str, u64>,
    /// Alerts, by rule.
    alerts: BTreeMap<&'static str, u64>,
    /// How many tenants there are, once they were counted.
    tenants: Option<u64>,
    /// Tenants stored for the first time since the process started.
    new_tenants: u64,
}

impl Counters {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a stored event of a tenant.
    pub(super) fn note(&self, event: &Event) {
        match event.event {
            EventName::DriftDetected => {
                self.drifts.fetch_add(1, Ordering::Relaxed);
            }
            EventName::RotationNotice => {
                self.notices.fetch_add(1, Ordering::Relaxed);
            }
            EventName::SuspiciousActivity => self.note_alert(event),
            _ => {}
        }
        let outcome = match event.event {
            EventName::Rotated
            | EventName::EmergencyReset
            | EventName::RolledBack
            | EventName::Rehomed => "success",
            EventName::RotationFailed => "failure",
            _ => return,
        };
        let kind = TYPES
            .iter()
            .find(|(kind, _)| Some(*kind) == event.rotation_type);
        if let Some((_, kind)) = kind.filter(|_| event.outcome != Outcome::Started) {
            *self.counts().changes.entry((kind, outcome)).or_default() += 1;
        }
    }

    /// Counts a failed change that has no event of its own.
    pub(super) fn note_counted(&self, rotation_type: Option<RotationType>) {
        let kind = TYPES.iter().find(|(kind, _)| Some(*kind) == rotation_type);
        if let Some((_, kind)) = kind {
            *self.counts().changes.entry((kind, "failure")).or_default() += 1;
        }
    }

    fn note_alert(&self, event: &Event) {
        let code = event.error_code.as_deref();
        let mut rules = Rule::ALL.into_iter().map(Rule::code);
        if let Some(rule) = rules.find(|rule| code == Some(rule)) {
            *self.counts().alerts.entry(rule).or_default() += 1;
        }
    }

    pub(super) fn note_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_batch(&self, state: batch::State) {
        let end = match state {
            batch::State::Done => "done",
            batch::State::Stopped => "stopped",
            batch::State::Cancelled => "cancelled",
            batch::State::Canary | batch::State::Running => return,
        };
        *self.counts().batches.entry(end).or_default() += 1;
    }

    /// A tenant's record was stored for the first time. It stays for ever, destroyed or not.
    pub(super) fn note_tenant(&self) {
        let mut counts = self.counts();
        counts.new_tenants += 1;
        counts.tenants = counts.tenants.map(|tenants| tenants + 1);
    }

    /// Another node may store tenants from now on.
    pub(super) fn forget_tenants(&self) {
        self.counts().tenants = None;
    }

    pub(super) fn changes(&self, kind: &str, outcome: &str) -> u64 {
        let counts = self.counts();
        counts
            .changes
            .iter()
            .find(|((of_kind, of_outcome), _)| *of_kind == kind && *of_outcome == outcome)
            .map_or(0, |(_, count)| *count)
    }

    pub(super) fn batches(&self, end: &str) -> u64 {
        self.counts().batches.get(end).copied().unwrap_or(0)
    }

    pub(super) fn alerts(&self, rule: Rule) -> u64 {
        self.counts().alerts.get(rule.code()).copied().unwrap_or(0)
    }

    pub(super) fn drifts(&self) -> u64 {
        self.drifts.load(Ordering::Relaxed)
    }

    pub(super) fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    pub(super) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

impl Engine {
    /// Returns how many tenants are stored. They are listed once, page by page, when this node
    /// became the active one; later ones are counted as they come.
    pub(super) async fn tenants(&self, mount: &Mount) -> Result<u64, Error> {
        let new_before = {
            let counts = self.counters.counts();
            if let Some(tenants) = counts.tenants {
                return Ok(tenants);
            }
            counts.new_tenants
        };
        let (mut tenants, mut after) = (0, String::new());
        loop {
            let page = mount
                .storage
                .list_page(storage::TENANTS, &after, PAGE)
                .await?;
            tenants += page.len() as u64;
            match page.last() {
                Some(last) if page.len() >= PAGE => after.clone_from(last),
                _ => break,
            }
        }
        let mut counts = self.counters.counts();
        if counts.new_tenants == new_before {
            counts.tenants = Some(tenants);
        }
        // Else some came while they were counted: once more with the next question.
        Ok(tenants)
    }
}
