//! Work that cannot wait for the next check: open changes, second looks, app tokens, the end of a
//! reveal or of a pause. Its pointers are in `open/`; when it is due is in the records.

use std::sync::Arc;

use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::config::AuditMode;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::rotation::{self, InDrift, Settled};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

impl Engine {
    /// Does what is due of one tenant.
    pub(super) async fn work_on(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<(), Error> {
        if self.is_held_back(mount, name).await? {
            return Ok(());
        }
        // Whoever has the tenant settles it, or the next tick does: this place is for others.
        let record = self.read_tenant(mount, name).await?;
        let purpose = record.as_deref().map(Purpose::of_the_engine);
        let purpose = purpose.unwrap_or(Purpose::Automatic);
        let locked = self.try_lock_tenant_at_server(mount, name, purpose);
        let Some(mut tenant) = locked.await? else {
            return Ok(());
        };
        tenant.purpose = Purpose::of_the_engine(&tenant.record);
        let now = self.clock().now();
        if tenant
            .record
            .pause
            .as_ref()
            .is_some_and(|it| it.until <= now)
        {
            tenant.record.pause = None;
            tenant.store().await?;
        }
        if tenant.record.next_work(now).is_none_or(|at| at > now) {
            return Ok(());
        }
        let settles = tenant.record.intent.as_ref().is_some_and(|intent| {
            let at = tenant.record.settles_at(intent, now);
            at.is_some_and(|at| at <= now)
        });
        if rotation::is_held(&tenant) && tenant.record.live_credential().is_some() {
            // What a reset left to do waits for no audit device.
            rotation::revoke_app_tokens_if_due(&mut tenant).await?;
        }
        tenant = rotation::go_on_with_held(tenant).await?;
        if settles && tenant.record.intent.is_some() {
            tenant = match rotation::settle(tenant, InDrift::Stop).await? {
                Settled::Free(tenant) => *tenant,
                Settled::Committed(committed) => committed.tenant,
            };
        }
        if tenant.record.live_credential().is_none() {
            return Ok(());
        }
        rotation::revoke_app_tokens_if_due(&mut tenant).await?;
        // The emergency is over: what follows is the engine's own work again.
        tenant.purpose = Purpose::Automatic;
        self.look_again(tenant).await
    }

    /// Reports whether the tenant's change waits for the audit devices and nothing has changed
    /// about that, as far as memory knows: then a tick takes no lock for it.
    async fn is_held_back(&self, mount: &Mount, name: &TenantName) -> Result<bool, Error> {
        let config = self.config(mount).await?;
        let Some(record) = self.read_tenant(mount, name).await? else {
            return Ok(false);
        };
        let Some(intent) = record.intent.as_ref().filter(|it| it.may_be_held()) else {
            return Ok(false);
        };
        let now = self.clock().now();
        let rests = config.paused_until.is_some_and(|until| until > now)
            || record.pause.is_some()
            || record
                .live_credential()
                .is_none_or(|kept| kept.drift.is_some() || kept.app_tokens.is_some());
        let told = self
            .emission
            .is_delivered(name.as_str(), intent.started_seq);
        Ok(config.audit_mode == AuditMode::Required && !rests && told == Some(false))
    }

    /// Confirms what was settled, or changes what somebody saw.
    async fn look_again(self: &Arc<Self>, tenant: LockedTenant) -> Result<(), Error> {
        let now = self.clock().now();
        if tenant.record.intent.is_some() {
            return Ok(());
        }
        if tenant.record.looks_now(now) {
            // Its own rotation, if one is due as well, comes with the next tick.
            return rotation::confirm(tenant).await;
        }
        let rests = tenant.config.paused_until.is_some_and(|until| until > now)
            || tenant.record.paused_at(now).is_some();
        if !rests && tenant.record.rotate_at(now).is_some_and(|at| at <= now) {
            let reason = "the password was revealed and its time is over";
            return rotation::rotate_automatically(tenant, RotationType::Reveal, reason).await;
        }
        Ok(())
    }
}
