//! Looking again at what was settled: late writes and foreign changes show up here.
//!
//! Run by ticks 2 and 15 minutes after every change, some seconds after one that a login may undo
//! (see `steps::late_writes`), and by the daily sweep wherever its cheap comparison found something.

use super::change::Change;
use super::steps::Announced;
use super::verify::conclude;
use super::{notes, read_account, settle, strangers};
use std::sync::Arc;
use std::time::Duration;

use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{self, Attempt, Live, Purpose};
use crate::engine::state::{self, State};
use crate::engine::storage::record::{FirstLook, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

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
        Err(error @ (Error::BreakerOpen | Error::GaveWay)) => return Err(error),
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
    let first = open.confirm_first.clone();
    if live != Live::NotYet {
        open.end_first_look(now);
    }
    if let Some(stranger) = strangers::stranger_of(&tenant.record, account.as_ref()) {
        strangers::note(&mut tenant, &stranger, live.version())?;
        return tenant.store().await;
    }
    conclude(&mut tenant, account.as_ref(), &live)?;
    let undone = first.filter(|first| is_undone(&tenant, first, &live));
    let again = live.version().filter(|live| must_set_again(&tenant, *live));
    if undone.is_some() || again.is_some() {
        // Until it is done, and if it cannot be begun now.
        tenant.record.open.confirm_later(now);
    }
    let reason = match &undone {
        Some(first) => {
            tenant.record.open.confirm_first = Some(FirstLook {
                at: notes::next_try(first.times, now),
                ..first.clone()
            });
            Some("a write that began before the change has undone it")
        }
        None => again.map(|_version| "a compromised password had become live again"),
    };
    tenant.store_if_changed().await?;
    match reason {
        Some(reason) => set_again(tenant, reason).await,
        None => Ok(()),
    }
}

/// So often a change that was undone is made again before it is a person's to find out by whom.
const MOST_TIMES: u32 = 8;

/// Reports whether the password from before the change is live again, by a write that began earlier.
fn is_undone(tenant: &LockedTenant, first: &FirstLook, live: &Live) -> bool {
    let credential = tenant.record.credential.as_ref();
    let current = credential.and_then(|kept| kept.current);
    let live = live.version();
    live.is_some()
        && live != current
        && live == first.before
        && first.times < MOST_TIMES
        && !strangers::is_noted(&tenant.record)
}

/// Waits for the look that a change still needs, as long as it is due by `until` (monotonic time), and
/// takes it. Returns what reads say then, and the number of the version whose value is current: it is
/// another than `version` if the change had to be made again.
pub(in crate::engine) async fn await_first_look(
    engine: &Arc<Engine>,
    mount: &Mount,
    name: &TenantName,
    version: u64,
    until: Duration,
) -> Result<(State, u64), Error> {
    let due = |record: &TenantRecord| {
        let first = record.open.confirm_first.as_ref()?;
        Some(
            (first.at - engine.clock().now())
                .to_std()
                .unwrap_or_default(),
        )
    };
    let record = engine.read_tenant(mount, name).await?;
    let due = record.as_deref().and_then(due);
    let left = until.saturating_sub(engine.clock().monotonic());
    if let Some(due) = due.filter(|due| *due + FOR_THE_LOOK <= left) {
        let (worker, at, who) = (Arc::clone(engine), mount.clone(), name.clone());
        // On a task of its own: the answer waits for it as long as it may, and it stores to its end.
        let looking = engine.tasks.spawn(async move {
            let stopping = worker.tasks.cancelled();
            tokio::select! {
                () = tokio::time::sleep(due) => Box::pin(look_now(&worker, &at, &who)).await,
                () = stopping.cancelled() => Ok(()),
            }
        });
        let looked = tokio::time::timeout(left.saturating_sub(FOR_THE_ANSWER), looking).await;
        if let Ok(Ok(Err(error))) = looked {
            return Err(error);
        }
    }
    let record = engine.read_tenant(mount, name).await?;
    let Some(record) = record.as_deref() else {
        return Ok((State::Uncertain, version));
    };
    let credential = record.credential.as_ref();
    let number = credential.map_or(version, |kept| kept.current_number_of(version));
    Ok((state::of(record), number))
}

/// What is left of a request's time for its answer.
const FOR_THE_ANSWER: Duration = Duration::from_millis(500);

/// What a look at Mailu may take within a request.
const FOR_THE_LOOK: Duration = Duration::from_secs(2);

async fn look_now(engine: &Arc<Engine>, mount: &Mount, name: &TenantName) -> Result<(), Error> {
    let mut tenant = engine
        .lock_tenant_at_server(mount, name, Purpose::Request, Attempt::First)
        .await?;
    let now = engine.clock().now();
    if tenant.record.intent.is_some() || tenant.record.live_credential().is_none() {
        return Ok(());
    }
    let Some(first) = &mut tenant.record.open.confirm_first else {
        return Ok(());
    };
    first.at = first.at.min(now);
    match confirm(tenant).await {
        // The next tick looks.
        Err(Error::Refused(_) | Error::Unreachable(_) | Error::BreakerOpen | Error::GaveWay) => {
            Ok(())
        }
        looked => looked,
    }
}

/// Tries a look that was due again later.
fn put_off(tenant: &mut LockedTenant) {
    let now = tenant.engine.clock().now();
    if !tenant.record.looks_now(now) {
        return;
    }
    let open = &mut tenant.record.open;
    let next = notes::next_try(open.settle_failures, now);
    open.settle_failures = open.settle_failures.saturating_add(1);
    open.drop_due_looks(now);
    match open.confirm_first.as_mut().filter(|first| first.at <= now) {
        Some(first) => first.at = next,
        None => open.look_at(next),
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
async fn set_again(mut tenant: LockedTenant, reason: &str) -> Result<(), Error> {
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
    let mut change = Change::automatic(RotationType::Automated, reason);
    change.source = Some(number);
    let announced = Announced::prepare(tenant, &change, &password).await?;
    settle::drive(announced).await.map(|_committed| ())
}
