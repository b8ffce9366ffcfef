//! Soft deletion of a credential, its reversal, and its end.

use std::sync::Arc;

use chrono::TimeDelta;

use super::{event_of, optional_text, tenant};
use crate::audit::{EventName, NewEvent, Severity};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::joined::Kept;
use crate::engine::locked::LockedTenant;
use crate::engine::rotation;
use crate::engine::storage::record::{Deletion, Intent, OpenWork};
use crate::logical::{Call, Endpoint, Field, Mount, Operation, Reply, Route, UnknownFields};

pub(super) fn routes() -> [Route<Engine>; 2] {
    [
        Route {
            pattern: "{tenant}/undelete",
            synopsis: "Bring a deleted credential back.",
            description: "Undoes a soft delete within the mount's deleted_retention. Mailu was \
                          never touched, so the password is what it was.

    bao write smtp/acme/undelete reason=\"deleted by mistake\"",
            fields: &[super::TENANT, super::REASON],
            endpoints: vec![Endpoint {
                operations: &[Operation::Create, Operation::Update],
                summary: "Bring a deleted credential back.",
                unknown_fields: UnknownFields::Warned,
                answers: &[],
                handler: |engine, mount, call| Box::pin(undelete(engine, mount, call)),
            }],
            existence: None,
        },
        Route {
            pattern: "{tenant}/destroy",
            synopsis: "Remove a credential's passwords for good.",
            description: "Removes every stored password of the tenant; nothing brings them back. \
                          Mailu is not touched: whoever knows the live password can still log in. \
                          Version numbers and events go on if the tenant is created again.

    bao write smtp/acme/destroy confirm=acme reason=\"customer left\"",
            fields: const {
                &[
                    super::TENANT,
                    Field::text("reason", "Why this is done; kept in the event.")
                        .required()
                        .max_bytes(512)
                        .example("customer left"),
                    Field::text("confirm", "The tenant's name again.")
                        .required()
                        .example("acme"),
                ]
            },
            endpoints: vec![Endpoint {
                operations: &[Operation::Create, Operation::Update],
                summary: "Remove a credential's passwords for good.",
                unknown_fields: UnknownFields::Refused,
                answers: &[],
                handler: |engine, mount, call| Box::pin(destroy(engine, mount, call)),
            }],
            existence: None,
        },
    ]
}

pub(super) async fn delete(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    // A DELETE carries no body, so there is no reason to record.
    change(engine, mount, call, None, |locked, event, _call| {
        let now = event.timestamp;
        let retention = i64::try_from(locked.config.deleted_retention).unwrap_or(i64::MAX);
        let retention = TimeDelta::try_seconds(retention).unwrap_or(TimeDelta::MAX);
        refuse_unsettled(locked)?;
        // A change that was only announced was never sent; what it began has its end here.
        let open = locked.record.intent.as_ref();
        let deleted = locked.record.live_credential().is_none();
        if !deleted && open.is_some_and(|intent| intent.sends == 0) {
            rotation::withdraw(locked, "deleted")?;
        }
        let Some(credential) = locked.record.credential.as_mut() else {
            return Ok(false);
        };
        if credential.deleted.is_some() {
            return Ok(false);
        }
        credential.deleted = Some(Deletion {
            at: now,
            by: event.actor.clone(),
            kept_until: now.checked_add_signed(retention).unwrap_or(now),
        });
        event.event = EventName::Deleted;
        event.severity = Severity::Warning;
        event.version = credential.current;
        // Automatic work ends here. What was sent of a reset whose account is missing is kept like any
        // other value.
        if locked.record.sent_intent().is_some() {
            rotation::abandon(locked, "deleted")?;
        }
        locked.record.intent = None;
        locked.record.open.settle_at = None;
        Ok(true)
    })
    .await
}

async fn undelete(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let reason = optional_text(&call, "reason");
    change(engine, mount, call, reason, |locked, event, _call| {
        let Some(credential) = locked.record.credential.as_mut() else {
            return Err(Error::NoCredential);
        };
        if credential.deleted.take().is_none() {
            return Ok(false);
        }
        event.event = EventName::Undeleted;
        event.version = credential.current;
        // A reset that the deletion ended goes on: its marks say that the password must not stay.
        rotation::renew_reset(locked)?;
        // Nobody has looked at Mailu meanwhile: the next tick does.
        if !locked.record.looks_now(event.timestamp) {
            locked.record.open.confirm_at.insert(0, event.timestamp);
        }
        Ok(true)
    })
    .await
}

async fn destroy(engine: Arc<Engine>, mount: Mount, call: Call) -> Reply {
    let name = tenant(&call)?;
    if call.fields.text("confirm").set() != Some(name.as_str()) {
        return Err(crate::logical::Error::user(
            "confirm_mismatch",
            "`confirm` must repeat the tenant's name: this cannot be undone.",
        ));
    }
    let reason = optional_text(&call, "reason");
    change(engine, mount, call, reason, |locked, event, call| {
        // An open change does not stand in the way: a tenant whose server is gone for ever must be
        // removable, and whoever confirms the name gives up every password, a candidate included.
        if rotation::is_held(locked) {
            rotation::withdraw(locked, "deleted")?;
        }
        let Some(credential) = locked.record.credential.take() else {
            return Err(Error::NoCredential);
        };
        event.event = EventName::Destroyed;
        event.severity = Severity::Warning;
        event.version = credential.current;
        locked.record.intent = None;
        locked.record.open = OpenWork::default();
        locked.record.pause = None;
        locked.record.last_error = None;
        // A new life: nothing that was encrypted before opens in it. The server's token is
        // encrypted anew; versions and events keep counting.
        let server = locked.record.server.as_ref();
        // One that does not open any more goes with its server.
        let token = server.and_then(|kept| locked.open_token(&kept.api_token).ok());
        if token.is_none() && locked.record.server.is_some() {
            super::tenant_config::take_away(locked, call)?;
        }
        locked.record.incarnation = locked.engine.identifiers().hex()?;
        let sealed = token.map(|token| locked.seal_token(&token)).transpose()?;
        if let (Some(server), Some(sealed)) = (&mut locked.record.server, sealed) {
            server.api_token = sealed;
        }
        Ok(true)
    })
    .await
}

/// Runs one change of the record that needs no Mailu. `apply` fills in the event and says whether
/// anything changed.
async fn change<F>(
    engine: Arc<Engine>,
    mount: Mount,
    call: Call,
    reason: Option<String>,
    apply: F,
) -> Reply
where
    F: FnOnce(&mut LockedTenant, &mut NewEvent, &Call) -> Result<bool, Error> + Send + 'static,
{
    let name = tenant(&call)?;
    engine.require_active(&mount).await?;
    let config = engine.config(&mount).await?;
    let key = engine.work_key(&call, Kept::ForRepeats)?;
    let worker = Arc::clone(&engine);
    let work = async move {
        let mut locked = worker.lock_tenant(&mount, &name).await?;
        let now = worker.clock().now();
        let mut event = event_of(&call, EventName::Deleted, now);
        event.reason = reason;
        if apply(&mut locked, &mut event, &call)? {
            locked.record_event(event)?;
            locked.store().await?;
        }
        Ok(None)
    };
    Ok(engine.join(&config, key, work).await?)
}

fn refuse_unsettled(locked: &LockedTenant) -> Result<(), Error> {
    let credential = locked.record.credential.as_ref();
    let drift = credential.and_then(|kept| kept.drift.as_ref());
    let missing = drift.is_some_and(|drift| drift.code == "account_missing");
    let waits = |intent: &Intent| intent.sends > 0 && !(intent.is_emergency() && missing);
    if !locked.record.intent.as_ref().is_some_and(waits) {
        return Ok(());
    }
    Err(Error::conflict(
        "unsettled",
        "a change of the password is open: its outcome at Mailu is not known. Settle it first by \
         writing <tenant>/verify or <tenant>/rotate.",
    ))
}
