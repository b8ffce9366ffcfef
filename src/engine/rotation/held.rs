//! Changes that wait for the audit devices: with `audit_mode=required` nothing automatic is sent
//! before a device has its "started" event.
//!
//! The change is announced and stored like any other, and goes on from there: at once if the event
//! is delivered within seconds, else with the tick after that. Mailu has not heard of it meanwhile,
//! so reads stay settled, and any request that changes the tenant takes its place.

use std::time::Duration;

use super::notes;
use super::settle::{self, drive};
use super::steps::Announced;
use super::unfinished::{drop_candidate, drop_held};
use crate::engine::config::AuditMode;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::storage::record::{HELD_BACK, Intent};
use crate::provider::Refusal;

/// How long a worker waits for the delivery before it leaves the rest to a tick: so often, for so
/// long, as long as no emergency waits for the server.
const SLICES: u32 = 20;
const SLICE: Duration = Duration::from_millis(250);

/// Stores an automatic change as announced and waits until a device has its beginning, if the
/// mount's settings ask for that.
///
/// # Errors
///
/// [`Error::HeldBack`]: the announced change waits in the record.
pub(super) async fn await_audit(mut announced: Announced) -> Result<Announced, Error> {
    if announced.tenant().config.audit_mode == AuditMode::BestEffort {
        return Ok(announced);
    }
    announced.store().await?;
    let tenant = announced.tenant();
    let started = tenant.record.intent.as_ref().map(|it| it.started_seq);
    let started = started.ok_or(Error::Defect("no intent to announce"))?;
    let (engine, name) = (&tenant.engine, tenant.name.as_str());
    engine.begin_emission(&tenant.mount);
    let (emission, stopping) = (&engine.emission, engine.tasks.cancelled());
    if emission.is_resting(engine.clock()) {
        return Err(hold(announced.into_tenant()).await);
    }
    for _ in 0..SLICES {
        if emission
            .wait_for((name, started), SLICE, stopping.clone())
            .await
        {
            return Ok(announced);
        }
        if announced.tenant().gives_way() || engine.tasks.is_stopping() {
            break;
        }
    }
    if announced.tenant().engine.tasks.is_stopping() {
        // The next process finds what was announced.
        return Err(Error::HeldBack);
    }
    Err(hold(announced.into_tenant()).await)
}

/// Leaves the announced change in the record, for a tick and for people to see.
async fn hold(mut tenant: LockedTenant) -> Error {
    notes::note_code(&mut tenant, HELD_BACK);
    match tenant.store().await {
        Ok(()) => Error::HeldBack,
        Err(error) => error,
    }
}

/// Reports whether the change in the record was announced for a device, and never sent.
pub(in crate::engine) fn is_held(tenant: &LockedTenant) -> bool {
    let intent = tenant.record.intent.as_ref();
    intent.is_some_and(Intent::may_be_held)
}

/// Goes on with a change that was announced, if a device has its beginning now; a tick does.
///
/// # Errors
///
/// [`Error::HeldBack`] while it waits, and whatever the change itself meets.
pub(in crate::engine) async fn go_on(tenant: LockedTenant) -> Result<LockedTenant, Error> {
    if !is_held(&tenant) {
        return Ok(tenant);
    }
    let now = tenant.engine.clock().now();
    let mount_rests = tenant.config.paused_until.is_some_and(|until| until > now);
    let credential = tenant.record.live_credential();
    let why_not = if mount_rests || tenant.record.paused_at(now).is_some() {
        Some("paused")
    } else if credential.is_some_and(|kept| kept.drift.is_some()) {
        Some("drift")
    } else if credential.is_none() {
        Some("deleted")
    } else {
        None
    };
    if let Some(code) = why_not {
        let mut tenant = tenant;
        drop_held(&mut tenant, code)?;
        tenant.store().await?;
        return Ok(tenant);
    }
    if tenant.config.audit_mode == AuditMode::Required && !is_told(&tenant).await? {
        return Err(Error::HeldBack);
    }
    let announced = match Announced::resume(tenant).await {
        Ok(announced) => announced,
        Err((_unchanged, error)) if is_own(&error) => return Err(error),
        // Like a change that fails before it is announced: a later try begins anew.
        Err((tenant, error)) => return Err(drop_candidate(tenant, error).await),
    };
    if announced.account_missing() && !announced.may_create() {
        let mut tenant = announced.into_tenant();
        notes::note_missing_account(&mut tenant)?;
        return Err(drop_candidate(tenant, Error::Refused(Refusal::NoSuchAccount)).await);
    }
    drive(announced).await.map(|committed| committed.tenant)
}

/// Reports whether a device has the beginning of the change in the record.
async fn is_told(tenant: &LockedTenant) -> Result<bool, Error> {
    let Some(intent) = &tenant.record.intent else {
        return Ok(false);
    };
    let (engine, name) = (&tenant.engine, tenant.name.as_str());
    if let Some(told) = engine.emission.is_delivered(name, intent.started_seq) {
        return Ok(told);
    }
    let log = engine.read_log(&tenant.mount, name).await?;
    let log = log.ok_or(Error::Defect("no record to go on with"))?;
    let started = engine
        .find_event(&tenant.mount, &log, intent.started_seq)
        .await?;
    Ok(started.is_some_and(|found| found.delivered))
}

/// Reports whether an error says nothing against the change: the next tick tries again.
const fn is_own(error: &Error) -> bool {
    matches!(
        error,
        Error::Storage(_)
            | Error::Host(_)
            | Error::Standby
            | Error::Tainted
            | Error::BreakerOpen
            | Error::GaveWay
    )
}

/// What a held change means for whoever else comes to the tenant: the engine's own work leaves it
/// alone, and everybody else takes its place.
///
/// # Errors
///
/// [`Error::HeldBack`] for the engine's own work.
pub(super) async fn make_way(mut tenant: LockedTenant) -> Result<settle::Settled, Error> {
    if tenant.purpose == Purpose::Automatic && is_held(&tenant) {
        return Err(Error::HeldBack);
    }
    drop_held(&mut tenant, "superseded")?;
    tenant.store().await?;
    Ok(settle::Settled::Free(Box::new(tenant)))
}
