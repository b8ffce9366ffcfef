//! Looking again at what was settled: late writes and foreign changes show up here.
//!
//! Run by ticks 2 and 15 minutes after every change that may have left a write on its way, and by
//! the daily sweep wherever its cheap comparison found something.

use super::change::Change;
use super::steps::Announced;
use super::verify::conclude;
use super::{notes, read_account, settle, strangers};
use crate::audit::RotationType;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Live};

/// Asks Mailu which stored password is live and records what came out. Sends nothing, unless a
/// compromised password has become live: then the current one is set again, once.
///
/// # Errors
///
/// What Mailu refused or [`Error::Unreachable`]: nothing is concluded, and a look that was due is
/// put off.
pub(in crate::engine) async fn confirm(mut tenant: LockedTenant) -> Result<(), Error> {
    let address = mail::address(&tenant.require_credential()?.username)?;
    let account = match read_account(&tenant, &address).await {
        Ok(account) => account,
        // Nobody was asked: it is still due when the breaker closes.
        Err(Error::BreakerOpen) => return Err(Error::BreakerOpen),
        Err(error) => {
            put_off(&mut tenant);
            tenant.store_if_changed().await?;
            return Err(error);
        }
    };
    let live = match &account {
        Some(account) => tenant.find_live(account).await?,
        None => Live::None,
    };
    let now = tenant.engine.clock().now();
    let open = &mut tenant.record.open;
    open.drop_due_looks(now);
    open.settle_failures = 0;
    if let Some(mark) = strangers::mark_of_stranger(&tenant.record, account.as_ref()) {
        strangers::note(&mut tenant, &mark, live.version())?;
        return tenant.store().await;
    }
    conclude(&mut tenant, account.as_ref(), &live)?;
    let again = live.version().filter(|live| must_set_again(&tenant, *live));
    if again.is_some() {
        // Until it is done, and if it cannot be begun now.
        tenant.record.open.confirm_later(now);
    }
    tenant.store_if_changed().await?;
    match again {
        Some(_compromised) => set_again(tenant).await,
        None => Ok(()),
    }
}

/// Tries a look that was due again later.
fn put_off(tenant: &mut LockedTenant) {
    let now = tenant.engine.clock().now();
    let open = &mut tenant.record.open;
    let waiting = open.confirm_at.len();
    open.drop_due_looks(now);
    if open.confirm_at.len() < waiting {
        let next = notes::next_try(open.settle_failures, now);
        open.settle_failures = open.settle_failures.saturating_add(1);
        open.confirm_at.insert(0, next);
        open.confirm_at.sort_unstable();
    }
}

/// Reports whether the live version must not be used, and the current one was not set again
/// because of that before: a second time would be a fight with somebody.
fn must_set_again(tenant: &LockedTenant, live: u64) -> bool {
    let Some(credential) = &tenant.record.credential else {
        return false;
    };
    let (Some(current), Some(live)) = (credential.current_version(), credential.version(live))
    else {
        return false;
    };
    let done = credential
        .drift
        .as_ref()
        .is_none_or(|drift| drift.set_again);
    !strangers::is_noted(&tenant.record)
        && live.compromised.is_some()
        && current.compromised.is_none()
        && !current.was_set_again()
        && !done
}

/// Sets the current password again, as a new version: a compromised one had become live.
async fn set_again(mut tenant: LockedTenant) -> Result<(), Error> {
    let current = tenant
        .record
        .credential
        .as_ref()
        .and_then(|kept| kept.current_version())
        .ok_or(Error::Defect("no current version to set again"))?;
    let (number, password) = (
        current.number,
        tenant.open_password(current.number, &current.password)?,
    );
    // Stored with the intent: whatever becomes of it, it is not begun twice.
    if let Some(drift) = tenant
        .record
        .credential
        .as_mut()
        .and_then(|kept| kept.drift.as_mut())
    {
        drift.set_again = true;
    }
    let mut change = Change::automatic(
        RotationType::Automated,
        "a compromised password had become live again",
    );
    change.source = Some(number);
    let announced = Announced::prepare(tenant, &change, &password).await?;
    settle::drive(announced).await.map(|_committed| ())
}
