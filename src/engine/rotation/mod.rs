//! How a password changes: the operations over the typed steps.
//!
//! Read `steps` for the order of things, `settle` for what happens after a crash or a lost answer.

mod change;
mod notes;
mod retention;
mod settle;
mod steps;
mod verify;

use chrono::{DateTime, TimeDelta, Utc};

use super::error::Error;
use super::locked::LockedTenant;
use super::storage::record::{TenantRecord, Version};
use crate::audit::{Event, Outcome};
use crate::crypto::Sensitive;
use crate::provider::{Account, EmailAddress};
pub(super) use change::Change;
pub(super) use notes::note_live;
pub(super) use settle::{InDrift, Settled, abandon, settle};
use steps::Announced;
pub(super) use steps::Committed;
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
pub(super) async fn rotate(tenant: LockedTenant, change: Change) -> Result<Changed, Error> {
    tenant.require_credential()?;
    if let Some(answered) = answered_before(&tenant, &change.request_id) {
        return Ok(answered);
    }
    let tenant = match settle(tenant, InDrift::SendAgain).await? {
        Settled::Free(tenant) => tenant,
        Settled::Committed(committed) => return changed(*committed),
    };
    check_interval(&tenant)?;
    let password = new_password(&tenant).await?;
    let announced = Announced::prepare(tenant, change, &password).await?;
    changed(settle::drive(announced).await?)
}

/// Sets the first password of the credential that the caller put into the record, in memory.
pub(super) async fn first_password(
    tenant: LockedTenant,
    change: Change,
) -> Result<Committed, Error> {
    let password = new_password(&tenant).await?;
    let announced = Announced::prepare(tenant, change, &password).await?;
    settle::drive(announced).await
}

/// Reads the account of a credential, for checks that send nothing.
pub(super) async fn read_account(
    tenant: &LockedTenant,
    username: &EmailAddress,
) -> Result<Option<Account>, Error> {
    let mail = tenant.connect(tenant.purpose).await?;
    mail.account(username)
        .await
        .map_err(super::mail::read_error)
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
    let told = |event: &&Event| {
        event.request_id == request_id
            && event.version == Some(version.number)
            && event.outcome == Outcome::Success
    };
    Some((version, record.log.events().iter().rev().find(told)))
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

/// Makes a new password by the mount's settings.
async fn new_password(tenant: &LockedTenant) -> Result<Sensitive<String>, Error> {
    let Some(policy) = &tenant.config.password_policy else {
        return tenant
            .config
            .password_shape()?
            .generate()
            .map_err(|_rng| Error::Defect("the random number generator failed"));
    };
    let unusable = |why: &str| {
        Error::invalid(
            "password_policy_unusable",
            format!(
                "{why}. Check password_policy in the mount's config and the policy at \
                 sys/policies/password/."
            ),
        )
    };
    let password = tenant
        .mount
        .system
        .generate_password(policy)
        .await
        .map_err(|_host_text| unusable("the host did not generate a password by this policy"))?;
    // SMTP AUTH PLAIN breaks on long lines and on anything a line cannot carry.
    let length = password.expose().len();
    let printable = password
        .expose()
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte));
    if !(16..=500).contains(&length) || !printable {
        return Err(unusable(
            "the policy must generate 16 to 500 printable ASCII characters",
        ));
    }
    Ok(password)
}
