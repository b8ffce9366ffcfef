//! Work by the schedule: the notice of a coming change, and the change.

use std::sync::Arc;

use crate::audit::{Actor, EventName, NewEvent, RotationType, Severity};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::rotation;
use crate::engine::schedule::{self, Planned, Work};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

impl Engine {
    /// Looks whether the coming change can be expected to succeed, and records its notice: once
    /// per change, in the same Put as the fact that it was given. Reports whether the change
    /// itself is due as well.
    ///
    /// # Errors
    ///
    /// That storage failed: nothing was recorded, and the next tick begins again.
    pub(super) async fn send_notice(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<bool, Error> {
        let Some(mut tenant) = self.take_due(mount, name, Work::Notice).await? else {
            return Ok(false);
        };
        let now = self.clock().now();
        let verdict = rotation::preflight(&mut tenant).await;
        let grave = verdict.findings.iter().any(|finding| finding.prevents());
        let mut event = NewEvent::new(EventName::RotationNotice, Actor::system(), now);
        event.rotation_type = Some(RotationType::Automated);
        event.severity = if grave {
            Severity::Warning
        } else {
            Severity::Info
        };
        event.error_code = verdict
            .findings
            .first()
            .map(|finding| finding.code().to_owned());
        if let Some(credential) = tenant.record.credential.as_mut() {
            event.version = credential.current;
            event.previous_rotation = Some(credential.last_rotated);
            credential.notice_sent_at = Some(now);
            credential.preflight = Some(verdict);
        }
        tenant.record_event(event)?;
        tenant.store().await?;
        Ok(self.is_planned(&tenant, Work::Rotation))
    }

    /// Changes a password whose time has come.
    ///
    /// # Errors
    ///
    /// Whatever the change meets; the next try is in the record.
    pub(super) async fn rotate_by_schedule(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<(), Error> {
        let Some(tenant) = self.take_due(mount, name, Work::Rotation).await? else {
            return Ok(());
        };
        let reason = "scheduled rotation";
        rotation::rotate_automatically(tenant, RotationType::Automated, reason).await
    }

    /// Locks the tenant if this work is still due under the lock; `None` if it is not, or if
    /// somebody else has the tenant.
    async fn take_due(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        work: Work,
    ) -> Result<Option<LockedTenant>, Error> {
        let locked = self.try_lock_tenant_at_server(mount, name, Purpose::Automatic);
        let Some(tenant) = locked.await? else {
            return Ok(None);
        };
        let due = tenant.record.intent.is_none() && self.is_planned(&tenant, work);
        Ok(due.then_some(tenant))
    }

    fn is_planned(&self, tenant: &LockedTenant, work: Work) -> bool {
        let now = self.clock().now();
        let rest = self.rest(&tenant.config);
        let planned = schedule::planned(&tenant.record, &tenant.config, rest, now);
        planned.is_some_and(|planned: Planned| planned.work == work && planned.at <= now)
    }
}
