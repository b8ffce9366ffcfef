//! The emergency reset: no regard to the old password, never refused for what is open.
//!
//! It is the same machine as a rotation. What differs: it supersedes an open change (whose
//! candidate is kept), marks every earlier version as compromised, waits in the record while Mailu
//! is down, and ends with the account's app tokens gone.
//!
//! Marks, hold, intent and "started" event are **one Put before anybody is asked**: whatever becomes
//! of the request, of the process or of the mail server after it, the emergency takes effect, and
//! reads say so from then on. Hold and marks belong to the credential, not to the attempt.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::app_tokens;
use super::change::Change;
use super::settle::{InDrift, Settled, settle};
use super::steps::{Announced, Committed, put_intent, record_started};
use super::unfinished::abandon;
use super::{retention, values};
use crate::audit::{Actor, Event, EventName, RotationType};
use crate::crypto::Sensitive;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{Attempt, Purpose};
use crate::engine::storage::record::{AppTokenWork, Compromise, Credential, Hold, Intent, Version};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// For so long the same entity gets the same version again.
const REPEATABLE: TimeDelta = TimeDelta::minutes(15);

/// How many who join an open reset have an event each.
const MOST_JOINED: usize = 16;

/// What is asked for.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Reset {
    /// Who, why, for which incident; of type emergency.
    pub(in crate::engine) change: Change,
    /// The password is not handed out by `admin` until it is released.
    pub(in crate::engine) hold: bool,
    /// The account's app tokens are left alone.
    pub(in crate::engine) keep_app_tokens: bool,
    /// Somebody gets the password as an answer: one that was made before is then handed out once
    /// more, which is recorded.
    pub(in crate::engine) shown: bool,
    /// When the request arrived: a reset that ended after that was joined.
    pub(in crate::engine) arrived: DateTime<Utc>,
}

/// How far a reset came within its request.
#[derive(Debug)]
pub(in crate::engine) enum Outcome {
    /// The new password is live.
    Done(Box<Done>),
    /// Mailu cannot be asked, or its answer is open: ticks go on with it.
    Queued(Box<Queued>),
}

/// A completed reset.
#[derive(Debug)]
pub(in crate::engine) struct Done {
    pub(in crate::engine) username: String,
    pub(in crate::engine) password: Sensitive<String>,
    pub(in crate::engine) webmail_url: Option<String>,
    pub(in crate::engine) version: u64,
    /// The event of this answer: the reset's, or that the password was handed out once more;
    /// `None` if that is shown to nobody.
    pub(in crate::engine) event: Option<Event>,
    pub(in crate::engine) tokens: Option<AppTokenWork>,
    /// The version had been made before this request asked for it.
    pub(in crate::engine) repeated: bool,
    pub(in crate::engine) warnings: Vec<String>,
}

/// A reset that goes on by itself.
#[derive(Debug)]
pub(in crate::engine) struct Queued {
    pub(in crate::engine) version: u64,
    /// Whether the password was sent already: then it may be live.
    pub(in crate::engine) sent: bool,
    /// The "started" event; `None` if it left the record already.
    pub(in crate::engine) event: Option<Event>,
    /// Why it could not be finished now.
    pub(in crate::engine) cause: Error,
    pub(in crate::engine) next_attempt: Option<DateTime<Utc>>,
}

/// Resets the tenant's password.
///
/// # Errors
///
/// [`Error::UnknownTenant`] and its kind; a refusal that no repeat mends (the account is missing).
pub(in crate::engine) async fn reset(
    mut tenant: LockedTenant,
    order: Reset,
) -> Result<Outcome, Error> {
    tenant.require_credential()?;
    tenant.purpose = Purpose::Reset;
    if let Some(number) = made_before(&tenant, &order) {
        return repeat(tenant, &order, number).await;
    }
    if let Some(place) = tenant.place.take() {
        // It is for those who have stored what they do there.
        drop(place);
    }
    let open = tenant.record.intent.as_ref();
    let joins = open.is_some_and(|intent| {
        intent.is_emergency() && intent.incident_id == order.change.incident_id
    });
    if joins {
        if joins_first(&mut tenant, &order.change.actor) {
            // Somebody else wants it as well: that is told even if it stays queued.
            record_started(&mut tenant, &order.change)?;
        }
        tighten(&mut tenant, &order);
    } else {
        announce(&mut tenant, &order)?;
    }
    tenant.record.open.settle_at = Some(tenant.engine.clock().now());
    tenant.store().await?;
    let (engine, mount, name) = (
        Arc::clone(&tenant.engine),
        tenant.mount.clone(),
        tenant.name.clone(),
    );
    drop(tenant);
    let settled = settle_at_server(&engine, &mount, &name, &order).await;
    match settled {
        Ok(Settled::Committed(committed)) => finish(*committed, &order, joins).await,
        // A tick was faster, or a reset for another incident, which goes on with this one's password.
        Ok(Settled::Free(tenant)) => match made_meanwhile(&tenant, &order) {
            Some(number) => repeat(*tenant, &order, number).await,
            None => queued(&tenant, Error::Unsettled),
        },
        Err(cause) => {
            let tenant = engine.lock_tenant(&mount, &name).await?;
            match made_meanwhile(&tenant, &order) {
                Some(number) => repeat(tenant, &order, number).await,
                None => queued(&tenant, cause),
            }
        }
    }
}

/// Settles the stored reset, before everybody else who waits for the server and the tenant.
async fn settle_at_server(
    engine: &Arc<Engine>,
    mount: &Mount,
    name: &TenantName,
    order: &Reset,
) -> Result<Settled, Error> {
    let locked = engine.lock_tenant_at_server(mount, name, Purpose::Reset, Attempt::First);
    let tenant = locked.await?;
    let open = tenant.record.intent.as_ref();
    let is_open = open.is_some_and(|intent| {
        intent.is_emergency() && intent.incident_id == order.change.incident_id
    });
    if !is_open {
        return Ok(Settled::Free(Box::new(tenant)));
    }
    Box::pin(settle(tenant, InDrift::SendAgain)).await
}

/// The version that this request, or one it joins, has made already.
fn made_before(tenant: &LockedTenant, order: &Reset) -> Option<u64> {
    let credential = tenant.record.credential.as_ref()?;
    let current = credential.current_version()?;
    let version = credential.made_as(current);
    let change = &order.change;
    let this_incident = version.rotation_type == Some(RotationType::Emergency)
        && version.incident_id == change.incident_id
        && current.compromised.is_none();
    if !this_incident || tenant.record.intent.is_some() || credential.drift.is_some() {
        return None;
    }
    let now = tenant.engine.clock().now();
    let resent = !change.request_id.is_empty() && version.request_id == change.request_id;
    // By a clock that was ahead it may seem to come from the future: that is no repeat.
    let age = now - credential.last_rotated;
    let recent = (TimeDelta::zero()..REPEATABLE).contains(&age);
    let same_caller = version.created_by == change.actor && recent;
    let joined = order.arrived <= credential.last_rotated && recent;
    (resent || same_caller || joined).then_some(current.number)
}

/// [`made_before`] for a reset that was stored: one for another incident that was done since then has
/// taken its password over.
fn made_meanwhile(tenant: &LockedTenant, order: &Reset) -> Option<u64> {
    made_before(tenant, order).or_else(|| {
        let credential = tenant.record.credential.as_ref()?;
        let current = credential.current_version()?;
        let made = credential.made_as(current).rotation_type == Some(RotationType::Emergency);
        let settled = tenant.record.intent.is_none() && credential.drift.is_none();
        let after = order.arrived <= credential.last_rotated && current.compromised.is_none();
        (made && settled && after).then_some(current.number)
    })
}

/// Hands out a version once more: that is a reading by a human, and recorded as one.
async fn repeat(mut tenant: LockedTenant, order: &Reset, number: u64) -> Result<Outcome, Error> {
    let now = tenant.engine.clock().now();
    if let Some(credential) = &mut tenant.record.credential {
        // It may ask for more care than the first one did, never for less.
        if order.hold && credential.hold.is_none() {
            credential.hold = Some(hold(&order.change, now));
        }
        if !order.keep_app_tokens && credential.app_tokens.is_none() {
            credential.app_tokens = Some(all_tokens(now));
        }
    }
    let event = if order.shown {
        let mut event = order.change.event(EventName::Revealed, now);
        event.version = Some(number);
        Some(tenant.record_event(event)?)
    } else {
        None
    };
    tenant.store_if_changed().await?;
    done(&tenant, number, event, true, Vec::new())
}

/// Remembers who joins an open reset, in memory; reports whether it is the first time. Whoever asks
/// again and again, or always with another token, is told no more than so often.
fn joins_first(tenant: &mut LockedTenant, actor: &Actor) -> bool {
    let Some(intent) = &mut tenant.record.intent else {
        return false;
    };
    let is_known = intent.actor == *actor || intent.joined_by.contains(actor);
    if is_known || intent.joined_by.len() >= MOST_JOINED {
        return false;
    }
    intent.joined_by.push(actor.clone());
    true
}

/// A second request for the same incident may ask for more care, never for less.
fn tighten(tenant: &mut LockedTenant, order: &Reset) {
    let now = tenant.engine.clock().now();
    if let Some(intent) = &mut tenant.record.intent {
        intent.keep_app_tokens &= order.keep_app_tokens;
    }
    if let Some(credential) = &mut tenant.record.credential
        && order.hold
    {
        credential
            .hold
            .get_or_insert_with(|| hold(&order.change, now));
    }
}

/// Puts the reset into the record, in memory. The candidate of an unsettled reset for another
/// incident is used for this one: it is no older than the emergency, and the record cannot grow
/// with every try.
fn announce(tenant: &mut LockedTenant, order: &Reset) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    match &mut tenant.record.intent {
        Some(open) if open.is_emergency() => {
            open.actor = order.change.actor.clone();
            open.joined_by.clear();
            open.reason.clone_from(&order.change.reason);
            open.incident_id.clone_from(&order.change.incident_id);
            open.request_id.clone_from(&order.change.request_id);
            record_started(tenant, &order.change)?;
        }
        _ => {
            if tenant.record.intent.is_some() {
                abandon(tenant, "superseded")?;
            }
            let password = values::emergency(tenant)?;
            put_intent(tenant, &order.change, &password)?;
            if let Some(intent) = &mut tenant.record.intent {
                intent.keep_app_tokens = order.keep_app_tokens;
            }
        }
    }
    tighten(tenant, order);
    if let Some(credential) = &mut tenant.record.credential {
        mark_compromised(credential, &order.change, now);
    }
    make_room(tenant)
}

/// Gives an open reset another candidate, in memory: the one before is kept as an abandoned version if
/// it was ever sent. Everything else of the reset stays what it is.
pub(super) fn renew_candidate(announced: &mut Announced) -> Result<(), Error> {
    let tenant = announced.tenant_mut();
    let Some(open) = tenant.record.intent.clone() else {
        return Err(Error::Defect("no candidate to renew"));
    };
    if open.sends > 0 {
        abandon(tenant, "abandoned")?;
    } else {
        tenant.record.intent = None;
    }
    let password = values::emergency(tenant)?;
    put_intent(tenant, &Change::from(&open), &password)?;
    if let Some(intent) = &mut tenant.record.intent {
        intent.keep_app_tokens = open.keep_app_tokens;
    }
    let now = tenant.engine.clock().now();
    if let Some(credential) = &mut tenant.record.credential {
        mark_compromised(credential, &Change::from(&open), now);
    }
    make_room(tenant)
}

/// Begins again what a deletion ended, in memory: a reset whose marks are on the current password.
pub(in crate::engine) fn renew(tenant: &mut LockedTenant) -> Result<(), Error> {
    let credential = tenant.record.live_credential();
    let current = credential.and_then(Credential::current_version);
    let marked = current.and_then(|version| version.compromised.clone());
    let Some(marked) = marked.filter(|_| tenant.record.intent.is_none()) else {
        return Ok(());
    };
    let now = tenant.engine.clock().now();
    let reason = "the credential was deleted before its reset was done";
    let order = Reset {
        change: Change {
            incident_id: Some(marked.incident_id),
            ..Change::automatic(RotationType::Emergency, reason)
        },
        hold: false,
        keep_app_tokens: false,
        shown: false,
        arrived: now,
    };
    announce(tenant, &order)?;
    tenant.record.open.settle_at = Some(now);
    Ok(())
}

/// Marks every version; those of an earlier incident keep its name.
fn mark_compromised(credential: &mut Credential, change: &Change, now: DateTime<Utc>) {
    for version in &mut credential.versions {
        version.compromised.get_or_insert_with(|| Compromise {
            incident_id: change.incident_id.clone().unwrap_or_default(),
            reset_by: change.actor.user_id.clone(),
            reset_at: now,
        });
    }
}

/// A reset is never refused for the record's size: settled history goes first.
fn make_room(tenant: &mut LockedTenant) -> Result<(), Error> {
    let now = tenant.engine.trusted();
    while tenant.check_room().is_err() {
        let credential = tenant.record.credential.as_mut();
        let dropped = credential.is_some_and(|kept| retention::drop_oldest(kept, now));
        if !dropped {
            tracing::warn!(tenant = %tenant.name, "the record is over its size for a reset");
            return Ok(());
        }
    }
    Ok(())
}

fn hold(change: &Change, now: DateTime<Utc>) -> Hold {
    Hold {
        incident_id: change.incident_id.clone().unwrap_or_default(),
        since: now,
    }
}

/// What a reset changes in the credential when its password is live, in the same Put.
pub(super) fn conclude(credential: &mut Credential, intent: &Intent, now: DateTime<Utc>) {
    mark_compromised(credential, &Change::from(intent), now);
    if !intent.keep_app_tokens {
        credential.app_tokens = Some(all_tokens(now));
    } else if !has_token_work(credential) {
        // What an earlier reset has begun goes on.
        credential.app_tokens = None;
    }
}

fn has_token_work(credential: &Credential) -> bool {
    let work = credential.app_tokens.as_ref();
    work.is_some_and(|work| work.next_attempt.is_some())
}

/// The deletion of every app token, not begun.
const fn all_tokens(now: DateTime<Utc>) -> AppTokenWork {
    AppTokenWork {
        revoked: 0,
        left: 0,
        next_attempt: Some(now),
        failures: 0,
    }
}

async fn finish(committed: Committed, order: &Reset, joined: bool) -> Result<Outcome, Error> {
    let Committed {
        mut tenant,
        mut event,
        version,
        mut warnings,
        ..
    } = committed;
    if let Err(error) = app_tokens::begin(&mut tenant).await {
        warnings.push(format!(
            "the account's app tokens were not all deleted ({}); they still log in. It is tried \
             again; see <tenant>/status.",
            error.code()
        ));
    }
    if order.shown && joined && event.request_id != order.change.request_id {
        // The reset's own event names whoever began it.
        let now = tenant.engine.clock().now();
        let mut seen = order.change.event(EventName::Revealed, now);
        seen.version = Some(version);
        event = tenant.record_event(seen)?;
        tenant.store().await?;
    }
    warnings.push(String::from(
        "whoever still uses an old password can lock the account at Mailu for up to a day: bring \
         the new one to every consumer soon.",
    ));
    done(&tenant, version, Some(event), joined, warnings)
}

fn done(
    tenant: &LockedTenant,
    number: u64,
    event: Option<Event>,
    repeated: bool,
    warnings: Vec<String>,
) -> Result<Outcome, Error> {
    let credential = tenant.require_credential()?;
    let version: &Version = credential
        .version(number)
        .ok_or(Error::Defect("a reset without its version"))?;
    Ok(Outcome::Done(Box::new(Done {
        username: credential.username.clone(),
        password: tenant.open_password(number, &version.password)?,
        webmail_url: credential.webmail_url.clone(),
        version: number,
        event,
        tokens: credential.app_tokens.clone(),
        repeated,
        warnings,
    })))
}

/// Tells a reset that waits for Mailu from one that failed.
fn queued(tenant: &LockedTenant, cause: Error) -> Result<Outcome, Error> {
    let open = tenant.record.intent.as_ref();
    let open = open.filter(|intent| intent.is_emergency());
    let Some(open) = open else {
        return Err(cause);
    };
    let started = |event: &&Event| event.seq == open.started_seq;
    Ok(Outcome::Queued(Box::new(Queued {
        version: open.version,
        sent: open.sends > 0,
        event: tenant.record.log.events().iter().find(started).cloned(),
        cause,
        next_attempt: tenant.record.open.settle_at,
    })))
}

/// Lets `admin` hand the password out again; returns whether it was held.
pub(in crate::engine) fn release(tenant: &mut LockedTenant) -> Result<bool, Error> {
    tenant.require_credential()?;
    let credential = tenant.record.credential.as_mut();
    Ok(credential.is_some_and(|kept| kept.hold.take().is_some()))
}
