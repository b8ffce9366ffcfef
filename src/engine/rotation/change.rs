//! What a change of the password is: its kind, who asked, why, and the event that ends it.

use chrono::{DateTime, Utc};

use crate::audit::{Actor, EventName, NewEvent, Outcome, RotationType, Severity};
use crate::engine::storage::record::Intent;

/// What is to be changed, and for whom.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Change {
    /// Why; `None` for the first password of a credential.
    pub(in crate::engine) rotation_type: Option<RotationType>,
    /// Who asked.
    pub(in crate::engine) actor: Actor,
    /// What they gave as reason.
    pub(in crate::engine) reason: Option<String>,
    /// The incident of an emergency reset.
    pub(in crate::engine) incident_id: Option<String>,
    /// The version whose password is to be set again.
    pub(in crate::engine) source: Option<u64>,
    /// The abandoned version whose value is sent again instead of a new one; the new version takes
    /// its place.
    pub(in crate::engine) again: Option<u64>,
    /// A first password may be set though another mount or cluster has marked the account.
    pub(in crate::engine) take_over: bool,
    /// The host's request.
    pub(in crate::engine) request_id: String,
}

impl Change {
    /// A change by the engine itself.
    pub(super) fn automatic(rotation_type: RotationType, reason: &str) -> Self {
        Self {
            rotation_type: Some(rotation_type),
            actor: Actor::system(),
            reason: Some(reason.to_owned()),
            incident_id: None,
            source: None,
            again: None,
            take_over: false,
            request_id: String::new(),
        }
    }

    /// Prepares an event of this change.
    pub(super) fn event(&self, name: EventName, now: DateTime<Utc>) -> NewEvent {
        let mut event = NewEvent::new(name, self.actor.clone(), now);
        event.rotation_type = self.rotation_type;
        event.reason.clone_from(&self.reason);
        event.incident_id.clone_from(&self.incident_id);
        event.request_id.clone_from(&self.request_id);
        event
    }

    /// Prepares the event of a change that ended without effect.
    pub(super) fn failure(&self, code: &str, now: DateTime<Utc>) -> NewEvent {
        let mut event = self.event(EventName::RotationFailed, now);
        event.severity = Severity::Warning;
        event.outcome = Outcome::Failure;
        event.error_code = Some(code.to_owned());
        event
    }
}

impl From<&Intent> for Change {
    fn from(intent: &Intent) -> Self {
        Self {
            rotation_type: intent.rotation_type,
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            incident_id: intent.incident_id.clone(),
            source: intent.source,
            again: None,
            take_over: false,
            request_id: intent.request_id.clone(),
        }
    }
}

/// The event of a change that was announced.
pub(super) const fn started_event(rotation_type: Option<RotationType>) -> EventName {
    match rotation_type {
        Some(RotationType::Emergency) => EventName::EmergencyResetStarted,
        _ => EventName::RotationStarted,
    }
}

/// The event of a completed change.
pub(super) const fn success_event(rotation_type: Option<RotationType>) -> EventName {
    match rotation_type {
        None => EventName::Stored,
        Some(
            RotationType::Automated
            | RotationType::Manual
            | RotationType::Bulk
            | RotationType::Reveal
            // No record has one: it is refused when it is read.
            | RotationType::Other(_),
        ) => EventName::Rotated,
        Some(RotationType::Emergency) => EventName::EmergencyReset,
        Some(RotationType::Rollback) => EventName::RolledBack,
        Some(RotationType::Rehome) => EventName::Rehomed,
    }
}
