//! Settling an open intent: finding out what a sent candidate came to, and finishing it.
//!
//! Run by the next request that changes something of the tenant (and by ticks). The candidate is
//! never replaced while it may become live: it is proven, sent again, or kept as `abandoned`.

use chrono::{DateTime, TimeDelta, Utc};

use super::change::Change;
use super::steps::{Announced, Committed, SENDS_PER_OPERATION, Verdict};
use super::{notes, strangers};
use crate::audit::NewEvent;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::storage::record::{Credential, Intent, Version};
use crate::provider::{Refusal, Trouble};

/// After this many sends the candidate is not sent again.
const MOST_SENDS: u32 = 8;
/// After this time as well.
const LONGEST: TimeDelta = TimeDelta::hours(24);
/// A candidate is given up no earlier than this after its last send: a hung server may still
/// apply it.
const LAST_SEND_COOLED: TimeDelta = TimeDelta::minutes(15);
/// Between tries at a server that refuses the token or limits calls: what it grants an emergency.
const AFTER_LIMIT: TimeDelta = TimeDelta::minutes(15);

/// What became of an open intent.
#[derive(Debug)]
pub(in crate::engine) enum Settled {
    /// There was none, or it was dropped or given up: the tenant is free for a new change.
    Free(Box<LockedTenant>),
    /// The candidate is the current version now.
    Committed(Box<Committed>),
}

/// What to do when no stored value is live and that was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum InDrift {
    /// Nothing: a person has to decide.
    Stop,
    /// Send the candidate again: a person just decided.
    SendAgain,
}

/// Settles the tenant's open intent, if any.
///
/// # Errors
///
/// [`Error::Unsettled`] if it is still open, a 409 `drift` if no stored value is live.
pub(in crate::engine) async fn settle(
    mut tenant: LockedTenant,
    in_drift: InDrift,
) -> Result<Settled, Error> {
    let Some(intent) = &tenant.record.intent else {
        return Ok(Settled::Free(Box::new(tenant)));
    };
    if intent.sends == 0 && !intent.is_emergency() {
        // Announced only: Mailu never heard of it.
        drop_intent(&mut tenant);
        tenant.store().await?;
        return Ok(Settled::Free(Box::new(tenant)));
    }
    let was_drifting = tenant
        .record
        .credential
        .as_ref()
        .is_some_and(|kept| kept.drift.is_some());
    let behind_stranger =
        tenant.purpose == Purpose::Automatic && strangers::is_noted(&tenant.record);
    let announced = match Announced::resume(tenant).await {
        Ok(announced) => announced,
        Err((
            tenant,
            error @ (Error::Refused(_) | Error::Unreachable(_) | Error::Invalid { .. }),
        )) => {
            return Err(leave_open(tenant, &error).await);
        }
        Err((mut tenant, error @ Error::Conflict { .. })) => {
            // What Mailu's mark said is in the record now.
            return Err(tenant.store_if_changed().await.err().unwrap_or(error));
        }
        // Nothing was learnt of Mailu: the record's own trouble is the answer.
        Err((_unchanged, error)) => return Err(error),
    };
    if announced.is_emergency() {
        return settle_reset(announced).await;
    }
    let look = Look {
        in_drift,
        was_drifting,
        behind_stranger,
    };
    conclude(announced.judge().await?, look).await
}

/// What a verdict is judged by beside itself.
#[derive(Clone, Copy, Debug)]
struct Look {
    in_drift: InDrift,
    /// No stored value was live before, either.
    was_drifting: bool,
    /// The engine itself looks, behind a stranger that no person has looked at.
    behind_stranger: bool,
}

/// Does what a look at an open change calls for.
async fn conclude(verdict: Verdict, look: Look) -> Result<Settled, Error> {
    match verdict {
        Verdict::Live(proven) => Ok(Settled::Committed(Box::new(proven.commit().await?))),
        // Behind a stranger the engine itself sends nothing, however often it looks.
        Verdict::OtherLive(announced, _) | Verdict::CannotTell(announced, None)
            if look.behind_stranger =>
        {
            let mut tenant = announced.into_tenant();
            tenant.record.open.settle_at = None;
            let stored = tenant.store_if_changed().await;
            Err(stored.err().unwrap_or_else(strangers::error))
        }
        // A stop is not ended by a hash that says nothing.
        Verdict::CannotTell(announced, None)
            if look.was_drifting && look.in_drift == InDrift::Stop =>
        {
            Err(stop_in_drift(announced).await)
        }
        Verdict::OtherLive(announced, live) if is_exhausted(&announced) => {
            give_up(announced.into_tenant(), live).await
        }
        // Not being able to tell never ends an attempt: only a definite answer does.
        Verdict::OtherLive(announced, _) | Verdict::CannotTell(announced, None) => {
            drive_on(announced).await
        }
        Verdict::NoneLive(announced)
            if look.was_drifting && look.in_drift == InDrift::SendAgain =>
        {
            drive_on(announced).await
        }
        Verdict::NoneLive(announced) => Err(stop_in_drift(announced).await),
        Verdict::CannotTell(announced, Some(error)) => {
            Err(leave_open(announced.into_tenant(), &error).await)
        }
        Verdict::Refused(tenant, refusal) => {
            Err(drop_candidate(tenant, Error::Refused(refusal)).await)
        }
    }
}

/// Settles an emergency reset: whatever is live instead is overwritten, and it is never given up.
async fn settle_reset(announced: Announced) -> Result<Settled, Error> {
    if !announced.was_sent() {
        if announced.account_missing() && !announced.may_create() {
            let mut tenant = announced.into_tenant();
            notes::note_missing_account(&mut tenant)?;
            return Err(drop_candidate(tenant, Error::Refused(Refusal::NoSuchAccount)).await);
        }
        return drive_on(announced).await;
    }
    match announced.judge().await? {
        Verdict::Live(proven) => Ok(Settled::Committed(Box::new(proven.commit().await?))),
        Verdict::OtherLive(announced, _)
        | Verdict::CannotTell(announced, None)
        | Verdict::NoneLive(announced) => drive_on(announced).await,
        Verdict::CannotTell(announced, Some(error)) => {
            Err(leave_open(announced.into_tenant(), &error).await)
        }
        Verdict::Refused(tenant, refusal) => {
            Err(drop_candidate(tenant, Error::Refused(refusal)).await)
        }
    }
}

async fn drive_on(announced: Announced) -> Result<Settled, Error> {
    let committed = drive(announced).await?;
    Ok(Settled::Committed(Box::new(committed)))
}

/// Sends the candidate, at most [`SENDS_PER_OPERATION`] times, until it is proven.
pub(super) async fn drive(mut announced: Announced) -> Result<Committed, Error> {
    for _ in 0..SENDS_PER_OPERATION {
        let verdict = announced.send().await?.apply().await?.prove().await?;
        announced = match verdict {
            Verdict::Live(proven) => return proven.commit().await,
            Verdict::Refused(tenant, refusal) => {
                return Err(refused(tenant, refusal).await);
            }
            Verdict::OtherLive(again, _) | Verdict::CannotTell(again, None) => again,
            // Somebody set a password in between: an emergency overwrites it.
            Verdict::NoneLive(again) if again.is_emergency() => again,
            Verdict::NoneLive(open) => return Err(stop_in_drift(open).await),
            Verdict::CannotTell(open, Some(error)) => {
                return Err(leave_open(open.into_tenant(), &error).await);
            }
        };
    }
    let trouble = Error::Unreachable(Trouble::Unintelligible);
    Err(leave_open(announced.into_tenant(), &trouble).await)
}

/// Every send was refused. An emergency waits for what may be mended or pass, with its candidate.
async fn refused(tenant: LockedTenant, refusal: Refusal) -> Error {
    let emergency = tenant
        .record
        .intent
        .as_ref()
        .is_some_and(Intent::is_emergency);
    let passes = matches!(
        refusal,
        Refusal::Token | Refusal::RateLimited | Refusal::NoApi | Refusal::Redirect
    );
    if emergency && passes {
        leave_open(tenant, &Error::Refused(refusal)).await
    } else {
        drop_candidate(tenant, Error::Refused(refusal)).await
    }
}

/// The candidate never can become live and is dropped: every send was refused, or there was none.
async fn drop_candidate(mut tenant: LockedTenant, error: Error) -> Error {
    let Some(intent) = drop_intent(&mut tenant) else {
        return Error::Defect("no candidate to drop");
    };
    let now = tenant.engine.clock().now();
    notes::note_error(&mut tenant, error.code());
    if tenant.purpose == Purpose::Automatic {
        notes::retry_later(&mut tenant);
    }
    let event = failure(&intent, error.code(), now);
    if let Err(error) = tenant.record_event(event) {
        return error;
    }
    // Until the refusal is stored the candidate counts as sent: then the doubt remains.
    match tenant.store().await {
        Ok(()) => error,
        Err(storage) => storage,
    }
}

/// Removes the intent; with it the credential, if this would have been its first password.
fn drop_intent(tenant: &mut LockedTenant) -> Option<Intent> {
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
async fn leave_open(mut tenant: LockedTenant, error: &Error) -> Error {
    let now = tenant.engine.clock().now();
    let open = &mut tenant.record.open;
    open.settle_at = Some(match error {
        // Asking again sooner only costs what the server's limiter counts.
        Error::Refused(Refusal::Token | Refusal::RateLimited) => now + AFTER_LIMIT,
        _ => notes::next_try(open.settle_failures, now),
    });
    open.settle_failures = open.settle_failures.saturating_add(1);
    notes::note_error(&mut tenant, error.code());
    match tenant.store().await {
        // Only what may pass by itself is worth a repeat; the rest says what to do.
        Ok(()) => match error {
            Error::Refused(_)
            | Error::Conflict { .. }
            | Error::Unreachable(Trouble::Tls | Trouble::AddressRefused) => error.clone(),
            _ => Error::Unsettled,
        },
        Err(storage) => storage,
    }
}

/// No stored value is live. Nothing is tried again by itself: a person has to decide.
async fn stop_in_drift(announced: Announced) -> Error {
    let code = if announced.account_missing() {
        "account_missing"
    } else {
        "foreign_password"
    };
    let mut tenant = announced.into_tenant();
    tenant.record.open.settle_at = None;
    notes::note_error(&mut tenant, "drift");
    let noted = notes::note_drift(&mut tenant, code, None);
    match noted {
        Ok(()) => tenant.store().await.err().unwrap_or_else(drift_error),
        Err(error) => error,
    }
}

/// The answer to a change that met a foreign password.
pub(in crate::engine) fn drift_error() -> Error {
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

fn is_exhausted(announced: &Announced) -> bool {
    let tenant = announced.tenant();
    let now = tenant.engine.clock().now();
    tenant.record.intent.as_ref().is_some_and(|intent| {
        intent.sends >= MOST_SENDS
            || intent
                .first_sent_at
                .is_some_and(|first| now - first >= LONGEST)
    })
}

/// Mailu never took the candidate: it is kept as an abandoned version, and the tenant is settled
/// again, once its last send is long enough ago. `live` is the version that Mailu holds.
async fn give_up(mut tenant: LockedTenant, live: Option<u64>) -> Result<Settled, Error> {
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
    notes::note_error(&mut tenant, "abandoned");
    let current = tenant
        .record
        .credential
        .as_ref()
        .and_then(|kept| kept.current);
    match live {
        Some(number) if live != current => {
            notes::note_drift(&mut tenant, "older_version", Some(number))?;
        }
        Some(_current) => {
            if let Some(credential) = tenant.record.credential.as_mut() {
                credential.drift = None;
                if let Some(version) = credential.current_version_mut() {
                    version.verified_at = Some(now);
                }
            }
        }
        None => {}
    }
    tenant.store().await?;
    Ok(Settled::Free(Box::new(tenant)))
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
    let event = failure(&intent, code, now);
    let credential = tenant
        .record
        .credential
        .as_mut()
        .ok_or(Error::Defect("no credential to abandon a candidate of"))?;
    if let Some(current) = credential.current_version_mut() {
        // What was sent may be live instead, until somebody looks.
        current.verified_at = None;
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
    tenant.record_event(event).map(|_event| ())
}

fn failure(intent: &Intent, code: &str, now: DateTime<Utc>) -> NewEvent {
    let mut event = Change::from(intent).failure(code, now);
    event.version = Some(intent.version);
    event
}
