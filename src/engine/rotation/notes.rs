//! What a change leaves in the record besides the password: failures, drift, their events.

use super::change::Change;
use crate::audit::{Actor, EventName, NewEvent, Outcome, Severity};
use crate::crypto;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::{Drift, LastError, Proof};
use crate::provider::{Account, Refusal, marker};

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
    let has_password = tenant
        .record
        .credential
        .as_ref()
        .is_some_and(|it| it.current.is_some());
    if has_password && matches!(error, Error::Refused(Refusal::NoSuchAccount)) {
        // The stored password cannot be live any more: reads must say so.
        if let Err(error) = note_drift(tenant, "account_missing", None) {
            tracing::warn!(tenant = %tenant.name, %error, "a drift could not be recorded");
        }
    }
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

/// Records that the current version was found live by its hash.
pub(in crate::engine) fn note_live(tenant: &mut LockedTenant, fingerprint: Option<String>) {
    let now = tenant.engine.clock().now();
    let Some(credential) = tenant.record.credential.as_mut() else {
        return;
    };
    credential.drift = None;
    if let Some(version) = credential.current_version_mut() {
        // A login proves more than a hash: it is not taken back.
        if version.proof != Proof::Login {
            version.proof = Proof::Hash;
        }
        version.verified_at = Some(now);
        version.hash_fingerprint = fingerprint;
    }
    tenant.record.last_error = None;
    // Looks that were due are done.
    tenant.record.open.confirm_at.retain(|at| *at > now);
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
        set_again: false,
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
