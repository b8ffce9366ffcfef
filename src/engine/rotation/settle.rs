//! Settling an open intent: finding out what a sent candidate came to, and finishing it.
//!
//! Run by the next request that changes something of the tenant (and by ticks). The candidate is
//! never replaced while it may become live: it is proven, sent again, or kept as `abandoned`.

use super::steps::{Announced, Committed, SENDS_PER_OPERATION, Verdict};
use super::unfinished::{
    give_up, give_up_now, go_on_comparing, is_exhausted, is_in_vain, is_of_other_encoding,
    leave_open, park, refused, stop_in_drift,
};
use super::{held, reset, strangers};
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::storage::record::Intent;
use crate::provider::Trouble;

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
/// [`Error::Unsettled`] if it is still open, [`Error::HeldBack`] if it waits for the audit devices,
/// a 409 `drift` if no stored value is live.
pub(in crate::engine) async fn settle(
    tenant: LockedTenant,
    in_drift: InDrift,
) -> Result<Settled, Error> {
    let Some(intent) = &tenant.record.intent else {
        return Ok(Settled::Free(Box::new(tenant)));
    };
    if intent.sends == 0 && !intent.is_emergency() {
        // Announced only: Mailu never heard of it.
        return held::make_way(tenant).await;
    }
    let was_drifting = tenant
        .record
        .credential
        .as_ref()
        .is_some_and(|kept| kept.drift.is_some());
    let behind_stranger = tenant.purpose.is_unattended() && strangers::is_noted(&tenant.record);
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
        // An emergency stays open, whatever is in its way.
        Err((tenant, error)) if is_own_trouble(&tenant, &error) => {
            return Err(leave_open(tenant, &error).await);
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

/// Reports whether an emergency cannot go on because of what is stored: a token or a password that
/// does not open. It is tried again later, as with a server that is down.
fn is_own_trouble(tenant: &LockedTenant, error: &Error) -> bool {
    let emergency = tenant
        .record
        .intent
        .as_ref()
        .is_some_and(Intent::is_emergency);
    emergency && matches!(error, Error::Unopenable(_) | Error::Defect(_))
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
            Err(stored
                .err()
                .unwrap_or_else(|| strangers::error(&tenant.record)))
        }
        // A stop is not ended by a hash that says nothing.
        Verdict::CannotTell(announced, None)
            if look.was_drifting && look.in_drift == InDrift::Stop =>
        {
            Err(stop_in_drift(announced).await)
        }
        // A person goes on with another kind of value: this one is kept, and no longer waited for.
        Verdict::OtherLive(announced, live)
            if look.in_drift == InDrift::SendAgain && is_of_other_encoding(&announced) =>
        {
            give_up_now(announced.into_tenant(), live).await
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
        Verdict::NotYet(announced) => Err(go_on_comparing(announced.into_tenant()).await),
    }
}

/// Settles an emergency reset: whatever is live instead is overwritten, and it is never given up. Only
/// its candidate is, for another one: one that the server never takes, or that is of a kind which the
/// mount makes no more.
async fn settle_reset(mut announced: Announced) -> Result<Settled, Error> {
    if announced.account_missing() && !announced.may_create() {
        return Err(park(announced.into_tenant()).await);
    }
    if !announced.was_sent() {
        if is_of_other_encoding(&announced) {
            reset::renew_candidate(&mut announced)?;
        }
        return drive_on(announced).await;
    }
    match announced.judge().await? {
        Verdict::Live(proven) => Ok(Settled::Committed(Box::new(proven.commit().await?))),
        Verdict::OtherLive(mut announced, _) | Verdict::NoneLive(mut announced)
            if is_of_other_encoding(&announced) || is_in_vain(&announced) =>
        {
            reset::renew_candidate(&mut announced)?;
            drive_on(announced).await
        }
        Verdict::CannotTell(mut announced, None) if is_of_other_encoding(&announced) => {
            reset::renew_candidate(&mut announced)?;
            drive_on(announced).await
        }
        Verdict::OtherLive(announced, _)
        | Verdict::CannotTell(announced, None)
        | Verdict::NoneLive(announced) => drive_on(announced).await,
        Verdict::CannotTell(announced, Some(error)) => {
            Err(leave_open(announced.into_tenant(), &error).await)
        }
        Verdict::NotYet(announced) => Err(go_on_comparing(announced.into_tenant()).await),
    }
}

async fn drive_on(announced: Announced) -> Result<Settled, Error> {
    let committed = drive(announced).await?;
    Ok(Settled::Committed(Box::new(committed)))
}

/// Sends the candidate, at most [`SENDS_PER_OPERATION`] times, until it is proven.
pub(super) async fn drive(mut announced: Announced) -> Result<Committed, Error> {
    let mut trouble = Trouble::Unintelligible;
    for _ in 0..SENDS_PER_OPERATION {
        let applied = announced.send().await?.apply().await?;
        let looked = Box::pin(applied.prove()).await?;
        trouble = looked.trouble.unwrap_or(trouble);
        announced = match (looked.verdict, looked.refusal) {
            (Verdict::Live(proven), _) => return proven.commit().await,
            // A send of unknown outcome among them may land at any time: that is no end.
            (Verdict::OtherLive(open, live), Some(refusal)) if open.was_only_refused() => {
                return Err(refused(open, live, refusal).await);
            }
            (Verdict::NoneLive(open), Some(refusal))
                if open.account_missing() && open.was_only_refused() =>
            {
                return Err(refused(open, None, refusal).await);
            }
            // What stands before Mailu worded this; at once it would do so again.
            (Verdict::OtherLive(open, _) | Verdict::CannotTell(open, None), _)
                if trouble.is_worded() =>
            {
                return Err(leave_open(open.into_tenant(), &Error::Unreachable(trouble)).await);
            }
            (Verdict::OtherLive(again, _) | Verdict::CannotTell(again, None), _) => again,
            // Somebody set a password in between: an emergency overwrites it.
            (Verdict::NoneLive(again), _) if again.is_emergency() => again,
            (Verdict::NoneLive(open), _) => return Err(stop_in_drift(open).await),
            (Verdict::NotYet(open), _) => return Err(go_on_comparing(open.into_tenant()).await),
            (Verdict::CannotTell(open, Some(error)), _) => {
                return Err(leave_open(open.into_tenant(), &error).await);
            }
        };
    }
    let error = Error::Unreachable(trouble);
    Err(leave_open(announced.into_tenant(), &error).await)
}
