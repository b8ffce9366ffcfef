//! How a password changes: the operations over the typed steps.
//!
//! Read `steps` for the order of things, `settle` for what happens after a crash or a lost answer.

mod app_tokens;
mod change;
mod confirm;
mod held;
mod notes;
mod preflight;
mod reset;
mod retention;
mod settle;
mod steps;
mod strangers;
mod unfinished;
mod values;
mod verify;

use chrono::{DateTime, TimeDelta, Utc};

use super::error::Error;
use super::locked::LockedTenant;
use super::mail::Purpose;
use super::storage::record::{TenantRecord, Version};
use crate::audit::{Event, RotationType};
use crate::crypto::Sensitive;
use crate::provider::{Account, EmailAddress};
pub(super) use app_tokens::revoke_if_due as revoke_app_tokens_if_due;
pub(super) use change::Change;
pub(super) use confirm::{await_first_look, confirm};
pub(super) use held::{go_on as go_on_with_held, is_held};
pub(super) use notes::{note_live, record_refusal};
pub(super) use preflight::preflight;
pub(super) use reset::{
    Done, Outcome as ResetOutcome, Queued, Reset, release, renew as renew_reset, reset,
};
pub(super) use settle::{InDrift, Settled, settle};
use steps::Announced;
pub(super) use steps::Committed;
pub(super) use strangers::{
    STALE_STORAGE, Stranger, accept, owned_by_other, stranger_of, take_over,
};
pub(super) use unfinished::{abandon, drop_held as withdraw};
pub(super) use values::try_policy;
pub(super) use verify::{Verified, live_password, verify};

/// A completed change, as requests answer it.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) tenant: String,
    pub(super) version: u64,
    pub(super) previous_version: Option<u64>,
    pub(super) last_rotated: DateTime<Utc>,
    pub(super) next_rotation: Option<DateTime<Utc>>,
    /// `None` if it left the record already; it is in the trail then.
    pub(super) event: Option<Event>,
    pub(super) warnings: Vec<String>,
}

/// Changes the tenant's password on request. An open intent is settled and answered instead; a
/// request that was already answered (the host repeats one whose plugin died) is answered again.
///
/// # Errors
///
/// [`Error::UnknownTenant`], a 409 `too_soon`, and whatever the change itself meets.
pub(super) async fn rotate(tenant: LockedTenant, mut change: Change) -> Result<Changed, Error> {
    tenant.require_credential()?;
    if let Some(answered) = answered_before(&tenant, &change.request_id) {
        return Ok(answered);
    }
    let tenant = match settle(tenant, InDrift::SendAgain).await? {
        Settled::Free(tenant) => *tenant,
        Settled::Committed(committed) => return changed(*committed),
    };
    check_interval(&tenant)?;
    let password = next_value(&tenant, &mut change).await?;
    let announced = Announced::prepare(tenant, &change, &password).await?;
    changed(settle::drive(announced).await?)
}

/// Changes the tenant's password by the engine's own decision. Nothing happens while Mailu holds
/// something that a person has to look at.
///
/// # Errors
///
/// [`Error::HeldBack`] if it has to wait for the audit devices, and whatever the change itself
/// meets; the next try is in the record.
pub(super) async fn rotate_automatically(
    mut tenant: LockedTenant,
    rotation_type: RotationType,
    reason: &str,
) -> Result<(), Error> {
    let mut change = Change::automatic(rotation_type, reason);
    if tenant.require_credential()?.drift.is_some() {
        // No failure: nothing was tried, and the drift was told.
        notes::put_off(&mut tenant);
        return tenant.store().await;
    }
    let password = match next_value(&tenant, &mut change).await {
        Ok(password) => password,
        Err(error) => {
            notes::record_failure(&mut tenant, &change, &error).await;
            return Err(error);
        }
    };
    let announced = Announced::prepare(tenant, &change, &password).await?;
    let announced = held::await_audit(announced).await?;
    settle::drive(announced).await.map(|_committed| ())
}

/// Changes the tenant's password as part of a batch: once, however often a batch that was
/// interrupted comes back to the tenant. What a person has to decide is left alone.
///
/// # Errors
///
/// [`Error::UnknownTenant`] and its kind, and whatever the change itself meets.
pub(super) async fn rotate_in_batch(
    mut tenant: LockedTenant,
    mut change: Change,
) -> Result<(), Error> {
    tenant.require_credential()?;
    tenant.purpose = Purpose::Bulk;
    let tenant = match settle(tenant, InDrift::Stop).await? {
        Settled::Free(tenant) => *tenant,
        Settled::Committed(committed) => committed.tenant,
    };
    if made_before(&tenant.record, &change.request_id).is_some() {
        return Ok(());
    }
    let password = next_value(&tenant, &mut change).await?;
    let announced = Announced::prepare(tenant, &change, &password).await?;
    settle::drive(announced).await.map(|_committed| ())
}

/// Makes the password of an earlier version the current one again, as a new version. An open
/// change is settled first.
///
/// # Errors
///
/// A 400 `unknown_version` or `version_compromised`, a 409 `already_current`, and whatever the
/// change itself meets.
pub(super) async fn roll_back(
    tenant: LockedTenant,
    mut change: Change,
    number: u64,
) -> Result<Changed, Error> {
    tenant.require_credential()?;
    if let Some(answered) = answered_before(&tenant, &change.request_id) {
        return Ok(answered);
    }
    // What can be refused without asking Mailu is refused first.
    wanted_version(&tenant, number)?;
    let was_open = tenant.record.intent.is_some();
    let tenant = match settle(tenant, InDrift::SendAgain).await? {
        Settled::Free(tenant) => *tenant,
        Settled::Committed(committed) => committed.tenant,
    };
    // It may be what was just settled, or compromised by it.
    if let Some(answered) = answered_before(&tenant, &change.request_id) {
        return Ok(answered);
    }
    let password = wanted_version(&tenant, number)?;
    change.source = Some(number);
    let announced = match Announced::prepare(tenant, &change, &password).await {
        Err(error) if was_open => return Err(error.after_settling()),
        announced => announced?,
    };
    changed(settle::drive(announced).await?)
}

/// The password of the version to go back to.
fn wanted_version(tenant: &LockedTenant, number: u64) -> Result<Sensitive<String>, Error> {
    let credential = tenant.require_credential()?;
    let version = credential.version(number).ok_or_else(|| {
        Error::invalid(
            "unknown_version",
            "no such version is kept. List <tenant>/versions for those that are; an open change's \
             candidate is none yet.",
        )
    })?;
    if version.compromised.is_some() {
        return Err(Error::invalid(
            "version_compromised",
            "this version was compromised and is never used again. Choose another, or write \
             <tenant>/rotate.",
        ));
    }
    let settled = credential.drift.is_none() && tenant.record.intent.is_none();
    if credential.current == Some(number) && settled {
        return Err(Error::conflict(
            "already_current",
            "this is the current version. Choose an earlier one.",
        ));
    }
    tenant.open_password(number, &version.password)
}

/// Sets the first password of the credential that the caller put into the record, in memory.
pub(super) async fn first_password(
    tenant: LockedTenant,
    change: Change,
) -> Result<Committed, Error> {
    let password = values::ordinary(&tenant).await?;
    let announced = Announced::prepare(tenant, &change, &password).await?;
    settle::drive(announced).await
}

/// Reads the account of a credential, for checks that send nothing.
pub(super) async fn read_account(
    tenant: &LockedTenant,
    username: &EmailAddress,
) -> Result<Option<Account>, Error> {
    let mail = tenant.connect(tenant.purpose).await?;
    mail.account(username).await
}

fn changed(committed: Committed) -> Result<Changed, Error> {
    let Committed {
        tenant,
        event,
        version,
        previous_version,
        warnings,
    } = committed;
    let credential = tenant
        .record
        .credential
        .as_ref()
        .ok_or(Error::Defect("no credential after a change"))?;
    Ok(Changed {
        tenant: tenant.name.as_str().to_owned(),
        version,
        previous_version,
        last_rotated: credential.last_rotated,
        next_rotation: credential.next_rotation,
        event: Some(event),
        warnings,
    })
}

/// The version that an earlier arrival of this request made, with its event: the host sends a
/// request again, with the same id, if the plugin died under it. The event is `None` if it left
/// the record already.
pub(super) fn made_before<'a>(
    record: &'a TenantRecord,
    request_id: &str,
) -> Option<(&'a Version, Option<&'a Event>)> {
    let credential = record.credential.as_ref()?;
    let made = |version: &&Version| version.request_id == request_id && !version.abandoned;
    let version = credential
        .versions
        .iter()
        .rev()
        .find(made)
        .filter(|_| !request_id.is_empty())?;
    let mut told = record.tally.answers_to(request_id);
    let told = told.find(|event| event.version == Some(version.number));
    Some((version, told))
}

fn answered_before(tenant: &LockedTenant, request_id: &str) -> Option<Changed> {
    let credential = tenant.record.credential.as_ref()?;
    let (version, event) = made_before(&tenant.record, request_id)?;
    let event = event.cloned();
    Some(Changed {
        tenant: tenant.name.as_str().to_owned(),
        version: version.number,
        previous_version: event.as_ref().and_then(|event| event.previous_version),
        last_rotated: credential.last_rotated,
        next_rotation: credential.next_rotation,
        event,
        warnings: Vec::new(),
    })
}

/// Keeps a looping client from wearing out Mailu; the creation itself does not count.
fn check_interval(tenant: &LockedTenant) -> Result<(), Error> {
    let Some(credential) = &tenant.record.credential else {
        return Ok(());
    };
    let rotated = credential
        .current_version()
        .is_some_and(|kept| kept.rotation_type.is_some());
    let interval = i64::try_from(tenant.config.min_rotation_interval).unwrap_or(i64::MAX);
    let Some(interval) = TimeDelta::try_seconds(interval) else {
        return Ok(());
    };
    let since = tenant.engine.clock().now() - credential.last_rotated;
    // A clock that went back must not block rotation until it has caught up.
    if !rotated || since < TimeDelta::zero() || since >= interval {
        return Ok(());
    }
    let wait = (interval - since).num_seconds().max(1);
    Err(Error::conflict(
        "too_soon",
        format!(
            "the password was changed {} seconds ago and min_rotation_interval is {} seconds. \
             Try again in {wait} seconds.",
            since.num_seconds(),
            interval.num_seconds(),
        ),
    ))
}

/// The value of an ordinary change: a new one, unless so many were sent in vain that the youngest of
/// them is sent again. Whoever refuses whatever is sent does not make the record grow.
async fn next_value(
    tenant: &LockedTenant,
    change: &mut Change,
) -> Result<Sensitive<String>, Error> {
    let credential = tenant.record.credential.as_ref();
    // After a look at the password only a value that nobody can have seen is a new one.
    let seen = change.rotation_type == Some(RotationType::Reveal);
    let credential = credential.filter(|_credential| !seen);
    if let Some(version) = credential.and_then(retention::youngest_in_vain) {
        change.again = Some(version.number);
        return tenant.open_password(version.number, &version.password);
    }
    values::ordinary(tenant).await
}
