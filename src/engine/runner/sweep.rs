//! The sweep: every tenant's Mailu is asked once a day, and soon after this node became active,
//! whether it still holds what was last proven.
//!
//! The cheap comparison (one GET, no hash computed, no lock taken, nothing written) is of the hash
//! *text*, whose SHA-256 was kept at the last proof, and of the mark. Only where it differs the
//! tenant is locked and looked at for good.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::{PAGE, Sweep};
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
const INTERVAL: Duration = Duration::from_hours(24);

impl Engine {
    /// Starts the sweep if it is time.
    pub(super) async fn begin_sweep(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        let now = self.clock().monotonic();
        {
            let mut state = self.runner.state();
            match state.sweep {
                Sweep::UnderWay => return Ok(()),
                Sweep::Began(at) if now.saturating_sub(at) < INTERVAL => return Ok(()),
                Sweep::Began(_) | Sweep::Never => state.sweep = Sweep::UnderWay,
            }
        }
        // A quarter of the places: it is the least urgent work.
        let parallel = match self.config(mount).await {
            Ok(config) => usize::try_from(config.max_parallel / 4).unwrap_or(1).max(1),
            Err(error) => {
                self.runner.state().sweep = Sweep::Never;
                return Err(error);
            }
        };
        let (engine, mount) = (Arc::clone(self), mount.clone());
        self.tasks.spawn(async move {
            let outcome = engine.sweep(&mount, parallel).await;
            engine.runner.state().sweep = match outcome {
                Ok(()) => Sweep::Began(now),
                Err(error) => {
                    tracing::warn!(%error, "the sweep ended early and begins again");
                    Sweep::Never
                }
            };
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
        if record.sent_intent().is_some() {
            // Whoever settles it looks. A change that was stopped waits for a person, but what it
            // sent may have landed since.
            return Ok(record.open.settle_at.is_none());
        }
        let keyring = self.keyring(mount).await?;
        let token = open_token(&keyring, &record, &server.api_token)?;
        let config = self.config(mount).await?;
        let address = mail::address(&credential.username)?;
        let mail = self
            .connect(mount, &config, server, token, Purpose::Automatic)
            .await?;
        let account = mail.account(&address).await.map_err(mail::read_error)?;
        Ok(!is_as_proven(&record, credential, account.as_ref()))
    }

    async fn look_closely(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<(), Error> {
        let mut tenant = self.lock_tenant(mount, name).await?;
        tenant.purpose = Purpose::Automatic;
        if tenant.record.live_credential().is_none() {
            return Ok(());
        }
        if tenant.record.sent_intent().is_none() {
            return rotation::confirm(tenant).await;
        }
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
