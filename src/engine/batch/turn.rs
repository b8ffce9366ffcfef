//! One tenant's turn in a batch.

use std::sync::Arc;

use super::plan::{Intended, is_of_one_tenant};
use super::record::{Action, Batch, Turn};
use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::{Attempt, Purpose};
use crate::engine::rotation::{self, Change, Reset, ResetOutcome};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

impl Engine {
    /// Gives one tenant its turn.
    ///
    /// # Errors
    ///
    /// Only what is wrong with the node, the mount or its storage; the turn is not over then.
    pub(super) async fn turn(
        self: &Arc<Self>,
        mount: &Mount,
        batch: &Batch,
        name: &str,
    ) -> Result<Turn, Error> {
        let Ok(name) = TenantName::parse(name) else {
            return Ok(Turn::Skipped("invalid_tenant"));
        };
        let mut attempt = Attempt::First;
        loop {
            match Box::pin(self.turn_once(mount, batch, &name, attempt)).await {
                // An emergency was at its server: it begins again.
                Err(Error::GaveWay) if !self.tasks.is_stopping() => attempt = Attempt::Again,
                turn => return turn,
            }
        }
    }

    async fn turn_once(
        self: &Arc<Self>,
        mount: &Mount,
        batch: &Batch,
        name: &TenantName,
        attempt: Attempt,
    ) -> Result<Turn, Error> {
        let locked = match batch.action {
            Action::Rotate => {
                let purpose = Purpose::Bulk;
                self.lock_tenant_at_server(mount, name, purpose, attempt)
                    .await
            }
            // Stored first; the server comes after it.
            Action::Reset => self.lock_tenant_urgently(mount, name).await,
        };
        let locked = match locked {
            Ok(locked) => locked,
            Err(error) if is_of_one_tenant(&error) => return Ok(Turn::Failed(error.code())),
            Err(error) => return Err(error),
        };
        let id = batch.change_id();
        if rotation::made_before(&locked.record, &id).is_some() {
            // This batch was here before something died.
            return Ok(Turn::Succeeded);
        }
        let intended = Intended {
            action: batch.action,
            incident_id: batch.incident_id.as_deref(),
            change_id: &id,
        };
        let known = locked.record.revision > 0;
        let record = known.then_some(&*locked.record);
        if let Some(code) = intended.obstacle(record, self.clock().now()) {
            return Ok(Turn::Skipped(code));
        }
        match Box::pin(change(locked, batch, id)).await {
            Ok(turn) => Ok(turn),
            // Its outcome is open; ticks settle it.
            Err(Error::Unsettled) => Ok(Turn::Failed("unsettled")),
            Err(error) if is_of_one_tenant(&error) => Ok(Turn::Failed(error.code())),
            Err(error) => Err(error),
        }
    }
}

async fn change(locked: LockedTenant, batch: &Batch, id: String) -> Result<Turn, Error> {
    let change = Change {
        rotation_type: Some(match batch.action {
            Action::Rotate => RotationType::Bulk,
            Action::Reset => RotationType::Emergency,
        }),
        actor: batch.created_by.clone(),
        reason: batch.reason.clone(),
        incident_id: batch.incident_id.clone(),
        source: None,
        again: None,
        take_over: false,
        request_id: id,
    };
    match batch.action {
        Action::Rotate => {
            Box::pin(rotation::rotate_in_batch(locked, change)).await?;
            Ok(Turn::Succeeded)
        }
        Action::Reset => {
            let order = Reset {
                arrived: locked.engine.clock().now(),
                change,
                hold: false,
                keep_app_tokens: false,
                shown: false,
            };
            match rotation::reset(locked, order).await? {
                ResetOutcome::Done(_) => Ok(Turn::Succeeded),
                ResetOutcome::Queued(_) => Ok(Turn::Queued),
            }
        }
    }
}
