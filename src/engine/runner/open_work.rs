//! Work that cannot wait for the next check: open changes, second looks, app tokens, the end of a
//! reveal. Its pointers are in `open/`; when it is due is in the records.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::PAGE;
use crate::audit::RotationType;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::LockedTenant;
use crate::engine::mail::Purpose;
use crate::engine::rotation::{self, InDrift, Settled};
use crate::engine::storage;
use crate::engine::storage::record::TenantRecord;
use crate::engine::tenant::TenantName;
use crate::logical::Mount;
use crate::provider::EndpointUrl;

/// Due tenants by the server they have to wait for.
type Due = BTreeMap<String, Vec<TenantName>>;

/// A server that has a worker; however that ends, the next tick may begin another.
#[derive(Debug)]
struct Busy(Arc<Engine>, String);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.runner.state().busy.remove(&self.1);
    }
}

/// A place that is taken.
#[derive(Debug)]
struct Working<'a>(&'a Engine);

impl<'a> Working<'a> {
    fn new(engine: &'a Engine) -> Self {
        engine.runner.state().working += 1;
        Self(engine)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.0.runner.state();
        state.working = state.working.saturating_sub(1);
    }
}

impl Engine {
    /// Starts a worker for every server with due work that has none.
    pub(super) async fn begin_open_work(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        let mut due = self.due_work(mount).await?;
        let parallel = usize::try_from(self.config(mount).await?.max_parallel / 2).unwrap_or(1);
        due.retain(|server, _| self.runner.state().busy.insert(server.clone()));
        if due.is_empty() {
            return Ok(());
        }
        // What earlier ticks began counts; one place is always left, or hanging servers take all.
        let free = parallel.saturating_sub(self.runner.state().working).max(1);
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks.spawn(async move {
            let places = Semaphore::new(free);
            let workers = due.into_iter().map(|(server, tenants)| {
                let server = Busy(Arc::clone(&engine), server);
                let (engine, mount, places) = (&engine, &mount, &places);
                async move {
                    // The semaphore is never closed.
                    let _place = places.acquire().await;
                    let _working = Working::new(engine);
                    engine.work_at(mount, &tenants).await;
                    drop(server);
                }
            });
            join_all(workers).await;
        });
        Ok(())
    }

    /// Follows the pointers; what is due is in the records.
    async fn due_work(self: &Arc<Self>, mount: &Mount) -> Result<Due, Error> {
        let mut due = Due::new();
        let mut after = String::new();
        loop {
            let page = mount
                .storage
                .list_page(storage::OPEN_WORK, &after, PAGE)
                .await?;
            for name in &page {
                let Ok(name) = TenantName::parse(name) else {
                    continue;
                };
                match self.read_tenant(mount, &name).await {
                    Ok(record) => {
                        if self.is_due(record.as_deref()) {
                            due.entry(server_of(record.as_deref()))
                                .or_default()
                                .push(name);
                        }
                    }
                    Err(error) => tracing::warn!(tenant = %name, %error, "open work not read"),
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(last),
                _ => return Ok(due),
            }
        }
    }

    /// A pointer without work behind it is due as well: to be removed.
    fn is_due(&self, record: Option<&TenantRecord>) -> bool {
        let Some(record) = record else { return true };
        let now = self.clock().now();
        match record.next_work(now) {
            Some(at) => at <= now,
            None => record.intent.is_none(),
        }
    }

    /// Does the due work of one server's tenants, one after the other.
    async fn work_at(self: &Arc<Self>, mount: &Mount, tenants: &[TenantName]) {
        for name in tenants {
            if self.tasks.is_stopping() {
                return;
            }
            match self.work_on(mount, name).await {
                Ok(()) => {}
                // The place is for another server.
                Err(Error::BreakerOpen) => return,
                Err(error) => {
                    tracing::info!(tenant = %name, %error, "open work is left for later");
                }
            }
        }
    }

    /// Does what is due of one tenant.
    async fn work_on(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<(), Error> {
        // Whoever has the tenant settles it, or the next tick does: this place is for others.
        let Some(mut tenant) = self.try_lock_tenant(mount, name).await? else {
            return Ok(());
        };
        tenant.purpose = Purpose::of_the_engine(&tenant.record);
        if !self.is_due(Some(&tenant.record)) {
            return Ok(());
        }
        let now = self.clock().now();
        if tenant.record.next_work(now).is_none() {
            tenant.remove_stale_work().await;
            return Ok(());
        }
        let settles = tenant.record.intent.as_ref().is_some_and(|intent| {
            let at = tenant.record.settles_at(intent, now);
            at.is_some_and(|at| at <= now)
        });
        if settles {
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

/// The server a tenant's work waits for; tenants without one wait for nobody.
pub(in crate::engine) fn server_of(record: Option<&TenantRecord>) -> String {
    record
        .and_then(|record| record.server.as_ref())
        .and_then(|server| EndpointUrl::parse_stored(&server.mailu_url).ok())
        .map_or_else(String::new, |url| url.origin())
}
