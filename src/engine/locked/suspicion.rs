//! Alerts about a record's new events, appended in the Put that stores them.
//!
//! Nobody waits here for another tenant: of two looks of one entity at the same time both may be the
//! one that is told.

use std::sync::Arc;

use super::LockedTenant;
use crate::audit::{Event, EventName};
use crate::engine::error::Error;
use crate::engine::watch::{self, Rule, Rules};

/// What a locked tenant knows of the rules.
#[derive(Debug)]
pub(super) struct Suspicion {
    rules: Arc<Rules>,
    /// Alerts in the record that is about to be stored, to be remembered once it is: who, and
    /// which.
    given: Vec<(String, String)>,
}

impl Suspicion {
    pub(super) const fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            given: Vec::new(),
        }
    }

    /// Returns the rules.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The record was not stored: nothing was given.
    pub(super) fn forget(&mut self) {
        self.given.clear();
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
            let mut found = watch::by_record(&self.suspicion.rules, &mut self.record, event);
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
        // Whoever chooses an endpoint reads the next password: that is as good as a look.
        let sees = matches!(
            event.event,
            EventName::Revealed | EventName::TenantEndpointChanged
        );
        if sees && rules.settings.reveals_per_hour > 0 {
            let noted = self.engine.note_reveal(&self.mount, &event.user_id, &rules);
            return noted
                .await
                .then(|| self.give(event, Rule::ManyReveals, Rule::ManyReveals.code()));
        }
        let alert = watch::unmatched_incident(&rules, event)?;
        let asked = self.engine.was_given(&self.mount, &event.user_id, &alert);
        (!asked.await).then(|| self.give(event, Rule::IncidentUnmatched, &alert))
    }

    fn give(&mut self, event: &Event, rule: Rule, alert: &str) -> Rule {
        let given = (event.user_id.clone(), alert.to_owned());
        self.suspicion.given.push(given);
        rule
    }

    /// The record was stored: its alerts are not given again.
    pub(super) async fn alerts_are_true(&mut self) {
        for (who, alert) in std::mem::take(&mut self.suspicion.given) {
            self.engine.note_given(&self.mount, &who, &alert).await;
        }
    }
}
