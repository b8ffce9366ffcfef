//! The sweep: every tenant's Mailu is asked once a day, and soon after this node became active,
//! whether it still holds what was last proven.
//!
//! The cheap comparison (one GET, no hash computed, no lock taken, nothing written) is of the hash
//! *text*, whose SHA-256 was kept at the last proof, and of the mark. Only where it differs the
//! tenant is locked and looked at for good.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::stream::{self, StreamExt};

use super::PAGE;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::open_token;
use crate::engine::mail::{self, Purpose};
use crate::engine::rotation::{self, InDrift, Settled};
use crate::engine::storage;
use crate::engine::storage::record::{Credential, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;
use crate::provider::Account;

/// From the beginning of one sweep to that of the next.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// After a sweep that storage ended.
const AGAIN: Duration = Duration::from_secs(600);
/// A change that waits for its settling for longer than this is found by nobody.
const OVERDUE: TimeDelta = TimeDelta::hours(1);

/// A sweep under way; however it ends, the next one can begin.
#[derive(Debug)]
struct Sweeping(Arc<Engine>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.runner.state().sweeping = false;
    }
}

impl Engine {
    /// Starts the sweep if it is time.
    pub(super) async fn begin_sweep(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        let now = self.clock().monotonic();
        // A quarter of the places: it is the least urgent work.
        let parallel = self.config(mount).await?.max_parallel / 4;
        let parallel = usize::try_from(parallel).unwrap_or(1).max(1);
        {
            let mut state = self.runner.state();
            if state.sweeping || now < state.next_sweep {
                return Ok(());
            }
            state.sweeping = true;
            state.next_sweep = now + INTERVAL;
        }
        let sweeping = Sweeping(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = &sweeping.0;
            if let Err(error) = engine.sweep(&mount, parallel).await {
                tracing::warn!(%error, "the sweep ended early and begins again");
                let mut state = engine.runner.state();
                state.next_sweep = state.next_sweep.min(now + AGAIN);
            }
        });
        Ok(())
    }

    async fn sweep(self: &Arc<Self>, mount: &Mount, parallel: usize) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let page = mount
                .storage
                .list_page(storage::TENANTS, &after, PAGE)
                .await?;
            let names = page.iter().filter_map(|name| TenantName::parse(name).ok());
            stream::iter(names)
                .for_each_concurrent(parallel, |name| self.sweep_one(mount, name))
                .await;
            match page.last() {
                Some(last) if page.len() == PAGE && !self.tasks.is_stopping() => {
                    after.clone_from(last);
                }
                _ => return Ok(()),
            }
        }
    }

    async fn sweep_one(self: &Arc<Self>, mount: &Mount, name: TenantName) {
        if self.tasks.is_stopping() {
            return;
        }
        let checked = match self.differs(mount, &name).await {
            Ok(true) => self.look_closely(mount, &name).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            tracing::debug!(tenant = %name, %error, "the sweep learnt nothing");
        }
    }

    /// The cheap comparison.
    async fn differs(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<bool, Error> {
        let Some(record) = self.read_tenant(mount, name).await? else {
            return Ok(false);
        };
        let (Some(credential), Some(server)) = (record.live_credential(), &record.server) else {
            return Ok(false);
        };
        if let Some(intent) = &record.intent {
            // Whoever settles it looks. A change that was stopped waits for a person, but what it
            // sent may have landed since; one that is overdue has lost its pointer.
            let now = self.clock().now();
            let at = record.settles_at(intent, now);
            return Ok(at.is_none_or(|at| now - at > OVERDUE));
        }
        let keyring = self.keyring(mount).await?;
        let token = open_token(&keyring, &record, &server.api_token)?;
        let config = self.config(mount).await?;
        let address = mail::address(&credential.username)?;
        let mail = self
            .connect(
                name.as_str(),
                mount,
                &config,
                server,
                token,
                Purpose::Automatic,
            )
            .await?;
        let account = mail.account(&address).await.map_err(mail::read_error)?;
        Ok(!is_as_proven(&record, credential, account.as_ref()))
    }

    async fn look_closely(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<(), Error> {
        // Whoever has the tenant now looks by himself.
        let Some(mut tenant) = self.try_lock_tenant(mount, name).await? else {
            return Ok(());
        };
        tenant.purpose = Purpose::of_the_engine(&tenant.record);
        if tenant.record.live_credential().is_none() {
            return Ok(());
        }
        if tenant.record.intent.is_none() {
            return rotation::confirm(tenant).await;
        }
        tenant.restore_work_pointer().await?;
        match rotation::settle(tenant, InDrift::Stop).await? {
            Settled::Free(_) | Settled::Committed(_) => Ok(()),
        }
    }
}

/// Reports whether Mailu shows exactly what it showed when the current version was last proven.
fn is_as_proven(record: &TenantRecord, credential: &Credential, account: Option<&Account>) -> bool {
    let known = credential
        .current_version()
        .and_then(|version| version.hash_fingerprint.as_deref());
    let shown = account
        .and_then(|account| account.hash.as_ref())
        .map(|hash| hash.fingerprint());
    credential.drift.is_none()
        && known.is_some()
        && known == shown.as_deref()
        && rotation::mark_of_stranger(record, account).is_none()
}
