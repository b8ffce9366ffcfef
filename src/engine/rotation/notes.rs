//! What a change leaves in the record besides the password: failures, drift, their events.

use super::steps::Change;
use crate::audit::{Actor, EventName, NewEvent, Outcome, RotationType, Severity};
use crate::crypto;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Drift, LastError};
use crate::provider::{Account, marker};

/// A generation in Mailu's marker above the stored one means that storage went back in time or
/// that another cluster acts on the account: this node starts a new lineage.
pub(super) fn notice_newer_marker(
    tenant: &mut LockedTenant,
    seen: Option<&Account>,
    first: bool,
) -> Result<(), Error> {
    let Some(found) = seen.and_then(|account| marker::find(&account.comment)) else {
        return Ok(());
    };
    if found.generation <= tenant.record.generation {
        return Ok(());
    }
    tenant.record.generation = found.generation;
    if first {
        // An earlier life of this account; nothing here is stale.
        return Ok(());
    }
    let now = tenant.engine.clock().now();
    tenant.record.lineage = crypto::random_id()?;
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Critical;
    event.outcome = Outcome::Failure;
    event.error_code = Some(String::from("stale_storage"));
    tenant.record_event(event)?;
    Ok(())
}

/// Records that a change failed before anything was sent. What the change had put into the record
/// is forgotten: only the failure is stored.
pub(super) async fn record_failure(tenant: &mut LockedTenant, change: &Change, error: &Error) {
    if let Err(error) = tenant.forget_changes() {
        tracing::warn!(tenant = %tenant.name, %error, "a failure could not be recorded");
        return;
    }
    let now = tenant.engine.clock().now();
    tenant.record.last_attempt = Some(now);
    note_error(tenant, error.code());
    let mut event = NewEvent::new(EventName::RotationFailed, change.actor.clone(), now);
    event.severity = Severity::Warning;
    event.outcome = Outcome::Failure;
    event.rotation_type = change.rotation_type;
    event.reason.clone_from(&change.reason);
    event.error_code = Some(error.code().to_owned());
    event.request_id.clone_from(&change.request_id);
    let recorded = match tenant.record_event(event) {
        Ok(_event) => tenant.store().await,
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The change did not happen either way; its caller gets the first error.
        tracing::warn!(tenant = %tenant.name, %error, "a failure could not be recorded");
    }
}

/// Remembers the last failure for `status`.
pub(super) fn note_error(tenant: &mut LockedTenant, code: &'static str) {
    let now = tenant.engine.clock().now();
    let earlier = tenant
        .record
        .last_error
        .take()
        .filter(|earlier| earlier.code == code);
    tenant.record.last_error = Some(match earlier {
        Some(earlier) => LastError {
            attempts: earlier.attempts.saturating_add(1),
            ..earlier
        },
        None => LastError {
            code: code.to_owned(),
            since: now,
            attempts: 1,
        },
    });
}

/// Marks the credential as drifted and records the event, once per drift.
pub(in crate::engine) fn note_drift(
    tenant: &mut LockedTenant,
    code: &'static str,
    live_version: Option<u64>,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let Some(credential) = tenant.record.credential.as_mut() else {
        return Ok(());
    };
    let same = credential
        .drift
        .as_ref()
        .is_some_and(|drift| drift.code == code && drift.live_version == live_version);
    if same {
        return Ok(());
    }
    credential.drift = Some(Drift {
        code: code.to_owned(),
        live_version,
        since: now,
    });
    let current = credential.current;
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = Severity::Warning;
    event.outcome = Outcome::Failure;
    event.version = live_version;
    event.previous_version = current;
    event.error_code = Some(code.to_owned());
    tenant.record_event(event)?;
    Ok(())
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
