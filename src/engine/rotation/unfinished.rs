//! How an attempt goes on without a commit: dropped, left open, stopped, given up.

use chrono::{DateTime, TimeDelta, Utc};

use super::change::Change;
use super::notes;
use super::retention;
use super::settle::Settled;
use super::steps::Announced;
use crate::audit::{NewEvent, RotationType, Severity};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::storage::record::{ATTENTION_AFTER, Credential, HELD_BACK, Intent, Version};
use crate::provider::Refusal;

/// After this many sends the candidate is not sent again.
const MOST_SENDS: u32 = 8;
/// After this time as well.
const LONGEST: TimeDelta = TimeDelta::hours(24);
/// A candidate is given up no earlier than this after its last send: a hung server may still
/// apply it.
const LAST_SEND_COOLED: TimeDelta = TimeDelta::minutes(15);
/// Between tries at a server that refuses the token or limits calls: what it grants an emergency.
const AFTER_LIMIT: TimeDelta = TimeDelta::minutes(15);

/// How long a reset of an account that is missing waits before it looks again, at most.
const LONGEST_PARK_MINUTES: i64 = 60;

/// The account of a reset is missing: the reset is parked, since a backup may bring the account back
/// with the password that is to end. Looked for after 1, 2, 4, ... minutes, up to an hour.
pub(super) async fn park(mut tenant: LockedTenant) -> Error {
    let now = tenant.engine.clock().now();
    let error = Error::Refused(Refusal::NoSuchAccount);
    if let Err(error) = notes::note_missing_account(&mut tenant) {
        return error;
    }
    let open = &mut tenant.record.open;
    let minutes = 1_i64
        .checked_shl(open.settle_failures)
        .unwrap_or(LONGEST_PARK_MINUTES);
    let minutes = minutes.clamp(1, LONGEST_PARK_MINUTES);
    open.settle_at = Some(now + TimeDelta::minutes(minutes));
    open.settle_failures = open.settle_failures.saturating_add(1);
    notes::note_error(&mut tenant, &error);
    tenant.store().await.err().unwrap_or(error)
}

/// A send was refused, and a look after it shows that the candidate is not live: `live` is the
/// version that is. The candidate is kept all the same (the refusal may be a front's, of a repeat
/// whose first copy still hangs): an emergency waits with it, any other change ends and leaves it
/// as an abandoned version. A first password alone leaves nothing behind, where there is no account
/// that it could have been set for.
pub(super) async fn refused(open: Announced, live: Option<u64>, refusal: Refusal) -> Error {
    let error = Error::Refused(refusal);
    let (missing, first, emergency) = (
        open.account_missing(),
        open.may_create(),
        open.is_emergency(),
    );
    let mut tenant = open.into_tenant();
    if first && missing {
        return drop_candidate(tenant, error).await;
    }
    if missing && let Err(error) = notes::note_missing_account(&mut tenant) {
        return error;
    }
    if emergency && missing {
        return park(tenant).await;
    }
    if emergency || first {
        return leave_open(tenant, &error).await;
    }
    match keep_refused(&mut tenant, live, &error).await {
        Ok(()) => error,
        Err(storage) => storage,
    }
}

async fn keep_refused(
    tenant: &mut LockedTenant,
    live: Option<u64>,
    error: &Error,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let Some(intent) = tenant.record.intent.take() else {
        return Err(Error::Defect("no candidate to keep"));
    };
    notes::note_error(tenant, error);
    if tenant.purpose == Purpose::Automatic {
        notes::retry_later(tenant);
    }
    let mut event = failure(&intent, error.code(), now);
    notes::raise_severity(tenant, &mut event);
    keep(tenant, intent)?;
    if live.is_some() {
        note_live(tenant, live)?;
    }
    tenant.record_event(event)?;
    tenant.store().await
}

/// The candidate never can become live and is dropped: there was no send, or no account that it
/// could have been set for.
pub(super) async fn drop_candidate(mut tenant: LockedTenant, error: Error) -> Error {
    let Some(intent) = drop_intent(&mut tenant) else {
        return Error::Defect("no candidate to drop");
    };
    let now = tenant.engine.clock().now();
    notes::note_error(&mut tenant, &error);
    if tenant.purpose == Purpose::Automatic {
        notes::retry_later(&mut tenant);
    }
    let mut event = failure(&intent, error.code(), now);
    notes::raise_severity(&tenant, &mut event);
    if let Err(error) = tenant.record_event(event) {
        return error;
    }
    // Until the refusal is stored the candidate counts as sent: then the doubt remains.
    match tenant.store().await {
        Ok(()) => error,
        Err(storage) => storage,
    }
}

/// Removes a change that was announced and never sent, in memory, and records that it ended so.
pub(in crate::engine) fn drop_held(
    tenant: &mut LockedTenant,
    code: &'static str,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let error = tenant.record.last_error.take();
    tenant.record.last_error = error.filter(|error| error.code != HELD_BACK);
    let Some(intent) = drop_intent(tenant) else {
        return Ok(());
    };
    let mut event = failure(&intent, code, now);
    event.severity = Severity::Info;
    tenant.record_event(event).map(|_event| ())
}

/// Removes the intent; with it the credential, if this would have been its first password.
pub(super) fn drop_intent(tenant: &mut LockedTenant) -> Option<Intent> {
    let intent = tenant.record.intent.take()?;
    tenant.record.open.settle_at = None;
    tenant.record.open.settle_failures = 0;
    // A failed creation leaves no credential behind.
    let unborn = |kept: &Credential| kept.versions.is_empty();
    if tenant.record.credential.as_ref().is_some_and(unborn) {
        tenant.record.credential = None;
    }
    Some(intent)
}

/// The outcome stays open: reads say `uncertain`, ticks and requests try again.
pub(super) async fn leave_open(mut tenant: LockedTenant, error: &Error) -> Error {
    let now = tenant.engine.clock().now();
    let open = &mut tenant.record.open;
    open.settle_at = Some(match error {
        // Asking again sooner only costs what the server's limiter counts.
        Error::Refused(Refusal::Token | Refusal::RateLimited) => now + AFTER_LIMIT,
        _ => notes::next_try(open.settle_failures, now),
    });
    open.settle_failures = open.settle_failures.saturating_add(1);
    notes::note_error(&mut tenant, error);
    if let Err(error) = tell_of_doubt(&mut tenant, error.code(), now) {
        return error;
    }
    match tenant.store().await {
        // Only what may pass by itself is worth a repeat; the rest says what to do.
        Ok(()) => match error {
            Error::Refused(_) | Error::Conflict { .. } | Error::Invalid { .. } => error.clone(),
            Error::Unreachable(trouble) if trouble.is_permanent() => error.clone(),
            _ => Error::Unsettled,
        },
        Err(storage) => storage,
    }
}

/// Not every stored value was compared with the account's hash: the next look goes on, within a
/// minute. That is no failure, and nothing is decided by it.
pub(super) async fn go_on_comparing(mut tenant: LockedTenant) -> Error {
    let now = tenant.engine.clock().now();
    tenant.record.open.settle_at = Some(notes::next_try(0, now));
    tenant.store().await.err().unwrap_or(Error::Unsettled)
}

/// A change that nobody asked for is in doubt and does not come out of it: told once, because the
/// event of its end may be far away.
fn tell_of_doubt(
    tenant: &mut LockedTenant,
    code: &'static str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let Some(intent) = &tenant.record.intent else {
        return Ok(());
    };
    let by_itself = matches!(
        intent.rotation_type,
        Some(RotationType::Automated | RotationType::Reveal | RotationType::Bulk)
    );
    if !by_itself || tenant.record.open.settle_failures != ATTENTION_AFTER {
        return Ok(());
    }
    let mut event = failure(intent, code, now);
    event.severity = Severity::Critical;
    tenant.record_event(event).map(|_event| ())
}

/// No stored value is live. Nothing is tried again by itself: a person has to decide.
pub(super) async fn stop_in_drift(announced: Announced) -> Error {
    let code = if announced.account_missing() {
        "account_missing"
    } else {
        "foreign_password"
    };
    let mut tenant = announced.into_tenant();
    tenant.record.open.settle_at = None;
    notes::note_code(&mut tenant, "drift");
    let noted = notes::note_drift(&mut tenant, code, None);
    match noted {
        Ok(()) => tenant.store().await.err().unwrap_or_else(drift_error),
        Err(error) => error,
    }
}

/// The answer to a change that met a foreign password.
fn drift_error() -> Error {
    Error::conflict(
        "drift",
        "Mailu holds a password that this engine did not set; every password that was sent is \
         kept. Find out who changed it. Rotating again overwrites it.",
    )
}

/// The candidate was sent often enough; it is given up when its last send cannot land any more.
fn not_taken(live: Option<u64>, cooled: DateTime<Utc>) -> Error {
    let live = live.map_or_else(
        || String::from("an older password is still live"),
        |number| format!("version {number} is still live"),
    );
    Error::conflict(
        "not_taken",
        format!(
            "Mailu did not take the new password, and {live}. The change is given up after {}, when \
             a late answer is not to be expected any more; write <tenant>/verify or \
             <tenant>/rotate then.",
            crate::logical::instant::format(&cooled),
        ),
    )
}

pub(super) fn is_exhausted(announced: &Announced) -> bool {
    let tenant = announced.tenant();
    let now = tenant.engine.clock().now();
    tenant.record.intent.as_ref().is_some_and(|intent| {
        intent.sends >= MOST_SENDS
            || intent
                .first_sent_at
                .is_some_and(|first| now - first >= LONGEST)
    })
}

/// Reports whether the mount has another `password_encoding` than the one that the candidate was made
/// by.
pub(super) fn is_of_other_encoding(announced: &Announced) -> bool {
    let tenant = announced.tenant();
    let intent = tenant.record.intent.as_ref();
    let made_by = intent.and_then(|intent| intent.encoding);
    made_by.is_some_and(|encoding| encoding != tenant.config.password_encoding)
}

/// Reports whether an emergency's candidate, of which a look has just said that it is not live, was
/// sent so often that another one is worth a try. With enough that were sent in vain it is not: whoever
/// refuses whatever is sent does not make the record grow.
pub(super) fn is_in_vain(announced: &Announced) -> bool {
    let record = &announced.tenant().record;
    let sends = record.intent.as_ref().map_or(0, |intent| intent.sends);
    let kept = record.credential.as_ref();
    sends >= MOST_SENDS && kept.is_some_and(retention::has_room_for_vain)
}

/// The candidate is kept as an abandoned version at once, and the tenant is settled again: somebody
/// goes on with another value, which is looked after if this one lands late.
pub(super) async fn give_up_now(
    mut tenant: LockedTenant,
    live: Option<u64>,
) -> Result<Settled, Error> {
    abandon(&mut tenant, "abandoned")?;
    note_live(&mut tenant, live)?;
    tenant.store().await?;
    Ok(Settled::Free(Box::new(tenant)))
}

/// Mailu never took the candidate: it is kept as an abandoned version, and the tenant is settled
/// again, once its last send is long enough ago. `live` is the version that Mailu holds.
pub(super) async fn give_up(mut tenant: LockedTenant, live: Option<u64>) -> Result<Settled, Error> {
    let now = tenant.engine.clock().now();
    let last_sent = tenant
        .record
        .intent
        .as_ref()
        .and_then(|intent| intent.last_sent_at);
    let cooled = last_sent.and_then(|sent| sent.checked_add_signed(LAST_SEND_COOLED));
    // A clock that was ahead when it was sent does not make anybody wait for that day.
    let waits = |cooled: &DateTime<Utc>| now < *cooled && *cooled - now <= LAST_SEND_COOLED;
    if let Some(cooled) = cooled.filter(waits) {
        return Err(leave_open(tenant, &not_taken(live, cooled)).await);
    }
    abandon(&mut tenant, "abandoned")?;
    notes::note_code(&mut tenant, "abandoned");
    note_live(&mut tenant, live)?;
    tenant.store().await?;
    Ok(Settled::Free(Box::new(tenant)))
}

/// Notes which version a look has just found live, in memory, after the candidate was kept.
fn note_live(tenant: &mut LockedTenant, live: Option<u64>) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let current = tenant
        .record
        .credential
        .as_ref()
        .and_then(|kept| kept.current);
    match live {
        Some(number) if live != current => {
            notes::note_drift(tenant, "older_version", Some(number))?;
        }
        Some(_current) => {
            if let Some(credential) = tenant.record.credential.as_mut() {
                credential.drift = None;
                if let Some(version) = credential.current_version_mut() {
                    version.verified_at = Some(now);
                    version.shaken = false;
                }
            }
        }
        None => {}
    }
    Ok(())
}

/// Keeps the open candidate as an abandoned version, in memory: it may still become live. `code`
/// says why, in the event.
pub(in crate::engine) fn abandon(
    tenant: &mut LockedTenant,
    code: &'static str,
) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let Some(intent) = tenant.record.intent.take() else {
        return Ok(());
    };
    let mut event = failure(&intent, code, now);
    if notes::is_scheduled(intent.rotation_type, intent.source) {
        // A day of tries: the next one is none of the next minute, and a person should look.
        event.severity = Severity::Critical;
        notes::retry_later(tenant);
    }
    keep(tenant, intent)?;
    tenant.record_event(event).map(|_event| ())
}

/// Keeps a candidate that was sent as an abandoned version, in memory.
fn keep(tenant: &mut LockedTenant, intent: Intent) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let credential = tenant
        .record
        .credential
        .as_mut()
        .ok_or(Error::Defect("no credential to abandon a candidate of"))?;
    if let Some(current) = credential.current_version_mut() {
        // What was sent may be live instead, until somebody looks.
        current.shaken = true;
    }
    credential.versions.push(Version {
        // Doubtful even if every outcome is known: nothing proved where it went.
        doubtful: true,
        abandoned: true,
        ..intent.into_version()
    });
    tenant.record.open.settle_at = None;
    tenant.record.open.settle_failures = 0;
    tenant.record.open.confirm_later(now);
    Ok(())
}

fn failure(intent: &Intent, code: &str, now: DateTime<Utc>) -> NewEvent {
    let mut event = Change::from(intent).failure(code, now);
    event.version = Some(intent.version);
    event
}
