//! Deleting an account's app tokens after an emergency reset: they log in beside the password and
//! survive its change.

use super::notes;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Mail};
use crate::engine::storage::record::AppTokenWork;
use crate::provider::{AppTokenId, EmailAddress, Refusal, Sent};

/// Tokens deleted in one tick; the next one goes on. Mailu sets no limit to their number.
const MOST_AT_ONCE: usize = 200;
/// Tokens deleted while somebody waits for the new password.
const MOST_IN_REQUEST: usize = 20;

/// Deletes some of the account's app tokens while the caller of a reset waits; ticks do the rest.
///
/// # Errors
///
/// Like [`revoke`].
pub(super) async fn begin(tenant: &mut LockedTenant) -> Result<(), Error> {
    revoke(tenant, MOST_IN_REQUEST).await
}

/// Goes on with [`revoke`] if its time has come. Not being able to is no error: what else is due
/// does not wait for it.
pub(in crate::engine) async fn revoke_if_due(tenant: &mut LockedTenant) -> Result<(), Error> {
    let now = tenant.engine.clock().now();
    let work = tenant.require_credential()?.app_tokens.as_ref();
    let due = work.and_then(|work| work.next_attempt);
    if due.is_none_or(|at| at > now) {
        return Ok(());
    }
    match revoke(tenant, MOST_AT_ONCE).await {
        Err(
            error @ (Error::Refused(_)
            | Error::Unreachable(_)
            | Error::BreakerOpen
            | Error::GaveWay),
        ) => {
            tracing::info!(tenant = %tenant.name, %error, "app tokens are left");
            Ok(())
        }
        outcome => outcome,
    }
}

/// Deletes the account's app tokens if a reset left that to do, and stores how far it came.
///
/// # Errors
///
/// What Mailu refused or [`Error::Unreachable`]: some are left, and a tick tries again.
async fn revoke(tenant: &mut LockedTenant, most: usize) -> Result<(), Error> {
    let credential = tenant.require_credential()?;
    let Some(work) = credential.app_tokens.clone() else {
        return Ok(());
    };
    if work.next_attempt.is_none() {
        return Ok(());
    }
    let address = mail::address(&credential.username)?;
    let (work, outcome) = go_on(tenant, &address, work, most).await;
    if matches!(outcome, Err(Error::BreakerOpen | Error::GaveWay)) {
        // Nobody was asked: it is still due when the breaker closes.
        return outcome;
    }
    if let Some(credential) = tenant.record.credential.as_mut() {
        credential.app_tokens = Some(work);
    }
    tenant.store().await?;
    outcome
}

async fn go_on(
    tenant: &LockedTenant,
    address: &EmailAddress,
    mut work: AppTokenWork,
    most: usize,
) -> (AppTokenWork, Result<(), Error>) {
    let outcome = match tenant.connect(tenant.purpose).await {
        Ok(mail) => delete_all(&mail, address, &mut work, most).await,
        Err(error) => Err(error),
    };
    let now = tenant.engine.clock().now();
    work.next_attempt = match &outcome {
        Ok(()) if work.left == 0 => None,
        Ok(()) => Some(now),
        Err(_some_left) => Some(notes::next_try(work.failures, now)),
    };
    work.failures = match &outcome {
        Ok(()) => 0,
        Err(_some_left) => work.failures.saturating_add(1),
    };
    (work, outcome)
}

/// Deletes until none is listed any more: somebody may make new ones meanwhile.
async fn delete_all(
    mail: &Mail,
    address: &EmailAddress,
    work: &mut AppTokenWork,
    most: usize,
) -> Result<(), Error> {
    let mut tried = 0;
    loop {
        let listed = mail.app_tokens(address).await?;
        // The 2.0 line has none.
        let tokens = listed.unwrap_or_default();
        work.left = count(tokens.len());
        if tokens.is_empty() || tried >= most {
            return Ok(());
        }
        for token in tokens.iter().take(most - tried) {
            if tried > 0 && mail.gives_way() {
                // An emergency waits for the server: the next tick goes on.
                return Ok(());
            }
            tried += 1;
            if delete(mail, token).await? {
                work.revoked = work.revoked.saturating_add(1);
            }
            work.left = work.left.saturating_sub(1);
        }
    }
}

/// Deletes one; returns whether it was still there.
async fn delete(mail: &Mail, token: &AppTokenId) -> Result<bool, Error> {
    match mail.delete_app_token(token).await {
        Sent::Acknowledged => Ok(true),
        Sent::Refused(Refusal::NoSuchAppToken) => Ok(false),
        Sent::Refused(refusal) => Err(Error::Refused(refusal)),
        Sent::Unknown(trouble) => Err(Error::Unreachable(trouble)),
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
