//! What a change leaves in the record besides the password: failures, drift, their events.

use chrono::{DateTime, TimeDelta, Utc};

use super::change::Change;
use super::strangers;
use crate::audit::{Actor, EventName, NewEvent, Outcome, RotationType, Severity};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::storage::record::{ATTENTION_AFTER, Drift, LastError, Proof};
use crate::engine::{hint, schedule};
use crate::provider::Refusal;

/// Minutes between the engine's own tries.
const BACK_OFF_MINUTES: [i64; 5] = [1, 2, 4, 8, 10];

/// Between the schedule's tries: the first pause, doubled with each failure up to the longest. Up
/// to a fifth less keeps tenants that failed together from coming back together.
const FIRST_RETRY: TimeDelta = TimeDelta::minutes(1);
const LONGEST_RETRY: TimeDelta = TimeDelta::hours(6);
const JITTER_PER_MILLE: u64 = 200;

/// When the schedule tries again after so many failures in a row.
fn next_scheduled_try(tenant: &str, failures: u32, now: DateTime<Utc>) -> DateTime<Utc> {
    let doubled = FIRST_RETRY.checked_mul(1 << failures.min(10));
    let pause = doubled.map_or(LONGEST_RETRY, |pause| pause.min(LONGEST_RETRY));
    let share = schedule::share(tenant, &format!("retry {failures}"), JITTER_PER_MILLE);
    let per_mille = i32::try_from(1_000 - share).unwrap_or(1_000);
    now + pause * per_mille / 1_000
}

/// When the engine tries again by itself after so many failures in a row.
pub(super) fn next_try(failures: u32, now: DateTime<Utc>) -> DateTime<Utc> {
    let failures = usize::try_from(failures).unwrap_or(usize::MAX);
    let minutes = BACK_OFF_MINUTES.get(failures).or(BACK_OFF_MINUTES.last());
    now + TimeDelta::minutes(minutes.copied().unwrap_or(10))
}

/// Records that a change failed before anything was sent. What the change had put into the record
/// is forgotten: only the failure is stored.
pub(super) async fn record_failure(tenant: &mut LockedTenant, change: &Change, error: &Error) {
    if matches!(error, Error::GaveWay) {
        // It begins again.
        return;
    }
    if matches!(error, Error::BreakerOpen) && !is_scheduled(change.rotation_type, change.source) {
        // Nothing was tried, and the work is still due. The schedule's tries have an end of their
        // own: a server that is down for long must be seen.
        return;
    }
    if let Err(error) = tenant.forget_changes() {
        tracing::warn!(tenant = %tenant.name, %error, "a failure could not be recorded");
        return;
    }
    let now = tenant.engine.clock().now();
    tenant.record.last_attempt = Some(now);
    let drift = |tenant: &LockedTenant| tenant.record.credential.as_ref()?.drift.clone();
    let known = drift(tenant);
    if matches!(error, Error::Refused(Refusal::NoSuchAccount))
        && let Err(error) = note_missing_account(tenant)
    {
        tracing::warn!(tenant = %tenant.name, %error, "a drift could not be recorded");
    }
    note_error(tenant, error);
    if tenant.purpose == Purpose::Automatic {
        retry_later(tenant);
    }
    let counted = tenant.purpose == Purpose::Request
        && is_counted(tenant, change, error.code(), drift(tenant) != known);
    if counted {
        tenant.engine.counters.note_counted(change.rotation_type);
    }
    if counted && tenant.put_failures_off() {
        return;
    }
    let mut event = change.failure(error.code(), now);
    raise_severity(tenant, &mut event);
    let recorded = match (!counted).then(|| tenant.record_event(event)).transpose() {
        Ok(_event) => tenant.store().await,
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The change did not happen either way; its caller gets the first error.
        tracing::warn!(tenant = %tenant.name, %error, "a failure could not be recorded");
    }
}

/// Counts a request's failure, and reports whether it has no event of its own: a client that fails in
/// a loop stores nothing each time. The 1st, 10th, 100th, … of a code and caller have an event, and
/// so has one that is suspicious, or that showed something new about the credential.
fn is_counted(
    tenant: &mut LockedTenant,
    change: &Change,
    code: &'static str,
    is_new: bool,
) -> bool {
    let now = tenant.engine.clock().now();
    let tally = &mut tenant.record.tally;
    let count = tally.count(code, &change.actor.user_id, now);
    if is_power_of_ten(count) || is_new || tenant.tells_of_refusal(code) {
        return false;
    }
    if hint::is_refusal(code) {
        tenant.record.tally.note_refusal(now);
    }
    true
}

fn is_power_of_ten(count: u64) -> bool {
    count
        .checked_ilog10()
        .is_some_and(|digits| count == 10_u64.pow(digits))
}

/// Records that a request was refused by what is stored here or at Mailu, and nothing was tried; the
/// record is stored as it is. With `always` it has an event each time: the caller bounds how often.
pub(in crate::engine) async fn record_refusal(
    tenant: &mut LockedTenant,
    change: &Change,
    code: &'static str,
    always: bool,
) -> Result<(), Error> {
    let counted = is_counted(tenant, change, code, always);
    if counted && tenant.put_failures_off() {
        return Ok(());
    }
    if !counted {
        let now = tenant.engine.clock().now();
        tenant.record_event(change.failure(code, now))?;
    }
    tenant.store().await
}

/// An automatic change waits for a person: asked again after the longest pause.
pub(super) fn put_off(tenant: &mut LockedTenant) {
    let now = tenant.engine.clock().now();
    tenant.record.open.retry_at = Some(next_try(u32::MAX, now));
}

/// Reports whether a change is one of the schedule.
pub(super) fn is_scheduled(rotation_type: Option<RotationType>, source: Option<u64>) -> bool {
    rotation_type == Some(RotationType::Automated) && source.is_none()
}

/// An automatic change failed: the next one waits longer.
pub(super) fn retry_later(tenant: &mut LockedTenant) {
    let now = tenant.engine.clock().now();
    let revealed = tenant.record.rotate_at(now).is_some_and(|at| at <= now);
    let open = &mut tenant.record.open;
    open.retry_at = Some(if revealed {
        next_try(open.retry_failures, now)
    } else {
        next_scheduled_try(tenant.name.as_str(), open.retry_failures, now)
    });
    open.retry_failures = open.retry_failures.saturating_add(1);
}

/// The failure after which a person has to look is told as such, once: alerts go by it.
pub(super) fn raise_severity(tenant: &LockedTenant, event: &mut NewEvent) {
    let automatic = tenant.purpose == Purpose::Automatic;
    if automatic && tenant.record.open.retry_failures == ATTENTION_AFTER {
        event.severity = Severity::Critical;
    }
}

/// Mailu has no such account: a stored password cannot be live any more, and reads must say so.
pub(super) fn note_missing_account(tenant: &mut LockedTenant) -> Result<(), Error> {
    let credential = tenant.record.credential.as_ref();
    if credential.is_some_and(|kept| kept.current.is_some()) {
        note_drift(tenant, "account_missing", None)?;
    }
    Ok(())
}

/// Remembers the last failure for `status`, and which fault it was of those that share a code.
pub(super) fn note_error(tenant: &mut LockedTenant, error: &Error) {
    note_code(tenant, error.code());
    if let (Some(last), Some(fault)) = (&mut tenant.record.last_error, error.tls_fault()) {
        last.tls_fault = Some(fault.as_str().to_owned());
    }
}

/// Remembers the last failure for `status` by its code.
pub(super) fn note_code(tenant: &mut LockedTenant, code: &'static str) {
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
            tls_fault: None,
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
        version.proof = Proof::Hash;
        version.verified_at = Some(now);
        version.shaken = false;
        version.hash_fingerprint = fingerprint;
    }
    tenant.record.last_error = None;
    // Looks that were due are done.
    tenant.record.open.drop_due_looks(now);
    tenant.record.open.end_first_look(now);
}

/// Marks the credential as drifted and records the event, once per drift.
pub(in crate::engine) fn note_drift(
    tenant: &mut LockedTenant,
    code: &'static str,
    live_version: Option<u64>,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    // The look came after every send so far, even if the clock went back in between, and after the
    // announcement of an emergency, which is in force from there on.
    let intent = tenant.record.intent.as_ref();
    let announced = intent.filter(|it| it.is_emergency() && it.sends == 0);
    let announced = announced.map(|it| it.announced_at);
    let last_sent = intent.and_then(|it| it.last_sent_at).or(announced);
    let looked_at = last_sent.map_or(now, |sent| sent.max(now));
    let Some(credential) = tenant.record.credential.as_mut() else {
        return Ok(());
    };
    if let Some(drift) = credential.drift.as_mut()
        && strangers::is_strangers(&drift.code)
    {
        // The graver of the two stays until a person has decided.
        drift.live_version = live_version;
        // What was sent over it was looked at.
        if let Some(sent) = last_sent {
            drift.since = drift.since.max(sent);
        }
        return Ok(());
    }
    if let Some(drift) = credential.drift.as_mut()
        && drift.code == code
        && drift.live_version == live_version
    {
        if let Some(sent) = last_sent {
            drift.since = drift.since.max(sent);
        }
        return Ok(());
    }
    credential.drift = Some(Drift {
        code: code.to_owned(),
        live_version,
        since: looked_at,
        set_again: false,
    });
    let current = credential.current;
    let live = live_version.and_then(|number| credential.version(number));
    let compromised = live.is_some_and(|version| version.compromised.is_some());
    let mut event = NewEvent::new(EventName::DriftDetected, Actor::system(), now);
    event.severity = if compromised {
        Severity::Critical
    } else {
        Severity::Warning
    };
    event.outcome = Outcome::Failure;
    event.version = live_version;
    event.previous_version = current;
    event.error_code = Some(code.to_owned());
    tenant.record_event(event)?;
    Ok(())
}
