//! What a change of the password is: its kind, who asked, why, and the event that ends it.

use crate::audit::{Actor, EventName, RotationType};

/// What is to be changed, and for whom.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Change {
    /// Why; `None` for the first password of a credential.
    pub(in crate::engine) rotation_type: Option<RotationType>,
    /// Who asked.
    pub(in crate::engine) actor: Actor,
    /// What they gave as reason.
    pub(in crate::engine) reason: Option<String>,
    /// The host's request.
    pub(in crate::engine) request_id: String,
}

/// The event of a completed change.
pub(super) const fn success_event(rotation_type: Option<RotationType>) -> EventName {
    match rotation_type {
        None => EventName::Stored,
        Some(
            RotationType::Automated
            | RotationType::Manual
            | RotationType::Bulk
            | RotationType::Reveal,
        ) => EventName::Rotated,
        Some(RotationType::Emergency) => EventName::EmergencyReset,
        Some(RotationType::Rollback) => EventName::RolledBack,
        Some(RotationType::Rehome) => EventName::Rehomed,
    }
}
