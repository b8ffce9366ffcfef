//! Alerts about a record's new events, appended in the Put that stores them.

use std::sync::Arc;

use super::LockedTenant;
use crate::audit::{Event, EventName};
use crate::engine::error::Error;
use crate::engine::watch::{self, Rule, Rules};
use crate::keyed_lock::KeyGuard;

/// What a locked tenant knows of the rules.
#[derive(Debug)]
pub(super) struct Suspicion {
    rules: Arc<Rules>,
    /// Alerts in the record that is about to be stored, to be remembered once it is: who, and
    /// which.
    given: Vec<(String, String)>,
    /// Held until the record's fate is known, so that of two looks of one entity at different
    /// tenants the second knows whether the first was told.
    guard: Option<KeyGuard>,
}

impl Suspicion {
    pub(super) const fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            given: Vec::new(),
            guard: None,
        }
    }

    /// The record was not stored: nothing was given.
    pub(super) fn forget(&mut self) {
        self.given.clear();
        self.guard = None;
    }
}

impl LockedTenant {
    /// Appends an alert for each event that the stored record does not have and that some rule
    /// finds suspicious.
    pub(super) async fn add_alerts(&mut self) -> Result<(), Error> {
        let known = self.stored_seq;
        let events = self.record.log.events().iter();
        let new: Vec<Event> = events.filter(|event| event.seq > known).cloned().collect();
        for event in &new {
            let mut found = watch::by_record(&self.suspicion.rules, &self.record, event);
            found.extend(self.by_memory(event).await);
            for rule in found {
                let alert = rule.alert(event);
                self.record_event(alert)?;
                tracing::warn!(
                    tenant = %self.name,
                    rule = rule.code(),
                    event_id = event.event_id,
                    "suspicious activity"
                );
            }
        }
        Ok(())
    }

    /// What the rules make of an event that need what happened at other tenants.
    async fn by_memory(&mut self, event: &Event) -> Option<Rule> {
        let rules = Arc::clone(&self.suspicion.rules);
        if event.event == EventName::Revealed && rules.settings.reveals_per_hour > 0 {
            self.wait_for(&event.user_id).await;
            let noted = self.engine.note_reveal(&self.mount, &event.user_id, &rules);
            return noted
                .await
                .then(|| self.give(event, Rule::ManyReveals, Rule::ManyReveals.code()));
        }
        let alert = watch::unmatched_incident(&rules, event)?;
        self.wait_for(&event.user_id).await;
        let asked = self.engine.was_given(&self.mount, &event.user_id, &alert);
        (!asked.await).then(|| self.give(event, Rule::IncidentUnmatched, &alert))
    }

    fn give(&mut self, event: &Event, rule: Rule, alert: &str) -> Rule {
        let given = (event.user_id.clone(), alert.to_owned());
        self.suspicion.given.push(given);
        rule
    }

    /// Waits for other tenants' records about the same entity. Whoever holds such a lock takes no
    /// other one of them, so nobody waits for each other.
    async fn wait_for(&mut self, who: &str) {
        if self.suspicion.guard.is_none() {
            let key = format!("watch {who}");
            self.suspicion.guard = Some(self.engine.mount_lock.lock(&key).await);
        }
    }

    /// The record was stored: its alerts are not given again.
    pub(super) async fn alerts_are_true(&mut self) {
        for (who, alert) in std::mem::take(&mut self.suspicion.given) {
            self.engine.note_given(&self.mount, &who, &alert).await;
        }
        self.suspicion.guard = None;
    }
}
