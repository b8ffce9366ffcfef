//! The sweep: every tenant's Mailu is asked once a day, and soon after this node became active,
//! whether it still holds what was last proven.
//!
//! The cheap comparison (one GET, no hash computed, no lock taken, nothing written) is of the hash
//! *text*, whose SHA-256 was kept at the last proof, and of the mark. Only where it differs the
//! tenant is locked and looked at for good.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use futures_util::stream::{self, StreamExt};

use super::PAGE;
use super::unasked::{Unasked, is_worth_asking_again};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::locked::open_token;
use crate::engine::mail::{self, Attempt, Purpose};
use crate::engine::rotation::{self, InDrift, Settled};
use crate::engine::schedule;
use crate::engine::storage;
use crate::engine::storage::record::{Credential, TenantRecord};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;
use crate::provider::Account;

/// From the beginning of one sweep to that of the next.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How long a difference waits for whoever has the tenant; after that it is looked at again with those
/// who could not be asked.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// After a sweep that storage ended.
const AGAIN: Duration = Duration::from_secs(600);
/// A change that waits for its settling for longer than this is found by nobody.
const OVERDUE: TimeDelta = TimeDelta::hours(1);

/// The sweeps of this process; storage knows nothing of them.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// One is under way.
    running: bool,
    /// When the next one may begin, monotonic; zero since this node became the active one.
    next: Duration,
    progress: SweepProgress,
    /// When one ended last, while this node has been the active one.
    ended_at: Option<DateTime<Utc>>,
    pub(super) unasked: Unasked,
}

/// How far the last sweep of this process is.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct SweepProgress {
    /// When it began; `None` before the first.
    pub(in crate::engine) started_at: Option<DateTime<Utc>>,
    /// When it ended; `None` before.
    pub(in crate::engine) finished_at: Option<DateTime<Utc>>,
    /// When this one, or the one before it, ended.
    pub(in crate::engine) last_end: Option<DateTime<Utc>>,
    /// Tenants looked at so far.
    pub(in crate::engine) tenants: u64,
    /// Those whose mail server did not show what was proven last.
    pub(in crate::engine) differed: u64,
    /// Pointers that had got lost.
    pub(in crate::engine) repaired: u64,
    /// Those whose mail server could not be asked yet; they are asked again.
    pub(in crate::engine) unasked: u64,
    /// Those whose mail server cannot be asked until somebody mends something.
    pub(in crate::engine) unaskable: u64,
}

impl Sweeps {
    pub(super) const fn note_difference(&mut self) {
        self.progress.differed += 1;
    }

    /// Another role: the next active tick sweeps.
    pub(super) fn forget(&mut self) {
        self.next = Duration::ZERO;
        self.ended_at = None;
        self.unasked = Unasked::default();
    }
}

/// A sweep under way; however it ends, the next one can begin.
#[derive(Debug)]
struct Sweeping(Arc<Engine>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.runner.state().sweeps.running = false;
    }
}

/// What is begun at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Everybody is looked at.
    All,
    /// Those who could not be asked are asked again.
    Unasked,
}

impl Engine {
    /// Starts the sweep if it is time, or asks again whom the last one could not ask.
    pub(super) async fn begin_sweep(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        let now = self.clock().monotonic();
        // A quarter of the places: it is the least urgent work.
        let parallel = self.config(mount).await?.max_parallel / 4;
        let parallel = usize::try_from(parallel).unwrap_or(1).max(1);
        let round = {
            let mut state = self.runner.state();
            let sweeps = &mut state.sweeps;
            let round = if now >= sweeps.next {
                Round::All
            } else if sweeps.unasked.is_due(now) {
                Round::Unasked
            } else {
                return Ok(());
            };
            if std::mem::replace(&mut sweeps.running, true) {
                return Ok(());
            }
            if round == Round::All {
                sweeps.next = now + INTERVAL;
                sweeps.unasked = Unasked::default();
                sweeps.progress = SweepProgress {
                    started_at: Some(self.clock().now()),
                    ..SweepProgress::default()
                };
            }
            round
        };
        let sweeping = Sweeping(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = &sweeping.0;
            if round == Round::Unasked {
                return engine.ask_again(&mount, parallel).await;
            }
            if let Err(error) = engine.sweep(&mount, parallel).await {
                tracing::warn!(%error, "the sweep ended early and begins again");
                let mut state = engine.runner.state();
                state.sweeps.next = state.sweeps.next.min(now + AGAIN);
            }
        });
        Ok(())
    }

    /// Starts a sweep now, unless one is under way; reports whether it did.
    pub(in crate::engine) async fn sweep_now(
        self: &Arc<Self>,
        mount: &Mount,
    ) -> Result<bool, Error> {
        {
            let mut state = self.runner.state();
            if state.sweeps.running && state.sweeps.progress.finished_at.is_none() {
                return Ok(false);
            }
            state.sweeps.next = Duration::ZERO;
        }
        // While some are asked again, the next tick begins.
        self.begin_sweep(mount).await?;
        Ok(true)
    }

    /// Returns how far the last sweep is.
    pub(in crate::engine) fn sweep_progress(&self) -> SweepProgress {
        let state = self.runner.state();
        SweepProgress {
            unasked: state.sweeps.unasked.count(),
            last_end: state.sweeps.ended_at,
            ..state.sweeps.progress.clone()
        }
    }

    async fn sweep(self: &Arc<Self>, mount: &Mount, parallel: usize) -> Result<(), Error> {
        // Of a seventh of the tenants, every day of another one, the pointers are looked after as
        // well: three Gets each, so that 100,000 tenants cost one Get every other second and a
        // pointer that got lost is back within a week.
        let week_day = self
            .clock()
            .now()
            .date_naive()
            .num_days_from_ce()
            .unsigned_abs()
            % 7;
        let mut after = String::new();
        loop {
            let page = mount
                .storage
                .list_page(storage::TENANTS, &after, PAGE)
                .await?;
            let names = page.iter().filter_map(|name| TenantName::parse(name).ok());
            stream::iter(names)
                .for_each_concurrent(parallel, |name| async move {
                    if schedule::share(name.as_str(), "reindex", 7) == u64::from(week_day) {
                        self.repair(mount, &name).await;
                    }
                    self.sweep_one(mount, name).await;
                })
                .await;
            match page.last() {
                Some(last) if page.len() == PAGE && !self.tasks.is_stopping() => {
                    after.clone_from(last);
                }
                _ => break,
            }
        }
        let config = self.config(mount).await?;
        if let Err(error) = self.expire_events(mount, &config).await {
            tracing::warn!(%error, "old events stay until the next sweep");
        }
        let now = self.clock().now();
        let mut state = self.runner.state();
        state.sweeps.progress.finished_at = Some(now);
        state.sweeps.ended_at = Some(now);
        let monotonic = self.clock().monotonic();
        state.sweeps.unasked.end_round(monotonic);
        Ok(())
    }

    async fn repair(self: &Arc<Self>, mount: &Mount, name: &TenantName) {
        if self.tasks.is_stopping() {
            return;
        }
        match self.repair_tenant(mount, name).await {
            Ok(repaired) => self.runner.state().sweeps.progress.repaired += repaired,
            Err(error) => tracing::warn!(tenant = %name, %error, "pointers were not looked after"),
        }
    }

    async fn sweep_one(self: &Arc<Self>, mount: &Mount, name: TenantName) {
        if self.tasks.is_stopping() {
            return;
        }
        let outcome = self.ask(mount, &name).await;
        let mut state = self.runner.state();
        let sweeps = &mut state.sweeps;
        sweeps.progress.tenants += 1;
        match outcome {
            Ok(differed) => sweeps.progress.differed += u64::from(differed),
            Err(error) if is_worth_asking_again(&error) => sweeps.unasked.add(name),
            Err(_logged) => sweeps.progress.unaskable += 1,
        }
    }

    /// Asks one tenant's mail server; reports whether it showed something else.
    pub(super) async fn ask(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<bool, Error> {
        let checked = match self.differs(mount, name).await {
            Ok(true) => self.look_closely(mount, name).await.map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => Err(error),
        };
        if let Err(error) = &checked {
            tracing::debug!(tenant = %name, %error, "the sweep learnt nothing");
        }
        checked
    }

    /// The cheap comparison.
    async fn differs(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<bool, Error> {
        let Some(record) = self.read_tenant(mount, name).await? else {
            return Ok(false);
        };
        let (Some(credential), Some(server)) = (record.live_credential(), &record.server) else {
            return Ok(false);
        };
        // What waits for the audit devices was never sent: Mailu has what was proven last.
        let sent = record.intent.as_ref().filter(|it| !it.may_be_held());
        if let Some(intent) = sent {
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
        let place = self.take_server_of(&record, Purpose::Automatic).await?;
        let mail = self
            .connect(
                name.as_str(),
                mount,
                &config,
                server,
                token,
                (Purpose::Automatic, Some(place)),
            )
            .await?;
        let account = mail.account(&address).await?;
        Ok(!is_as_proven(&record, credential, account.as_ref()))
    }

    async fn look_closely(self: &Arc<Self>, mount: &Mount, name: &TenantName) -> Result<(), Error> {
        // Whoever has the tenant need not look at Mailu: a note in the record takes the same lock.
        let locked = tokio::time::timeout(
            LOCK_PATIENCE,
            self.lock_tenant_at_server(mount, name, Purpose::Automatic, Attempt::First),
        );
        let mut tenant = locked.await.map_err(|_elapsed| Error::InProgress)??;
        tenant.purpose = Purpose::of_the_engine(&tenant.record);
        if tenant.record.live_credential().is_none() {
            return Ok(());
        }
        if rotation::is_held(&tenant) {
            // What Mailu holds instead comes first.
            rotation::withdraw(&mut tenant, "superseded")?;
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
        && rotation::stranger_of(record, account).is_none()
}
