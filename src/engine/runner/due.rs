//! Which tenants have work for this tick, found by their pointers, and the workers that do it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, Utc};
use futures_util::stream::{self, StreamExt};

use super::agenda::Known;
use super::calendar::Calendar;
use super::places::Class;
use super::{Busy, PAGE};
use crate::engine::Engine;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::schedule::{self, Rest, Work};
use crate::engine::state;
use crate::engine::storage::record::{ATTENTION_AFTER, TenantRecord};
use crate::engine::storage::{self, OPEN_WORK};
use crate::engine::tenant::TenantName;
use crate::logical::{Mount, StorageEntry};
use crate::provider::EndpointUrl;

/// Records read at once.
const READERS: usize = 8;
/// Days looked at in one tick: after years without one, the next ticks go on.
const MOST_DAYS: usize = 400;
/// Pointers tidied up in one tick; the others are still there for the next one.
const MOST_STRAYS: usize = 200;

/// What one server's worker has to do in this tick.
#[derive(Debug, Default)]
pub(super) struct ServerWork {
    pub(super) open: Vec<TenantName>,
    pub(super) notices: Vec<TenantName>,
    pub(super) rotations: Vec<TenantName>,
}

/// The tenants that pointers lead to.
#[derive(Debug, Default)]
struct Listed {
    open: Vec<TenantName>,
    due: Vec<(NaiveDate, TenantName)>,
    /// The first day that may hold something.
    oldest: Option<NaiveDate>,
}

/// Pointers that lead to nothing, or to another day.
#[derive(Debug)]
enum Stray {
    Open(TenantName),
    Day(NaiveDate, TenantName),
    /// Of a past day, and nothing will be done today: the folder must not stay for its sake.
    Past(TenantName),
    /// The same, and the record cannot be read.
    Unreadable(NaiveDate, TenantName),
}

impl Engine {
    /// Starts a worker for every server with due work that has none.
    pub(super) async fn begin_due_work(
        self: &Arc<Self>,
        mount: &Mount,
        config: &Arc<MountConfig>,
        calendar: &Calendar,
    ) -> Result<(), Error> {
        let now = self.clock().now();
        let rest = self.rest(config);
        self.runner.state().agenda.begin(config, rest);
        // While the whole mount rests, its schedule is not even looked at.
        let rests = rest.ends().is_some_and(|until| until > now);
        let days = if rests { None } else { Some(calendar.oldest) };
        let listed = self.list_pointers(mount, days, now).await?;
        self.read_unknown(mount, config, rest, &listed).await;
        let (work, strays) = self.sort_out(&listed, now);
        let most = config.max_parallel;
        for (server, work) in work {
            if let Some(busy) = self.occupy(&server) {
                let (engine, mount) = (Arc::clone(self), mount.clone());
                self.tasks
                    .spawn(async move { engine.serve(&mount, work, most, busy).await });
            }
        }
        for stray in strays.into_iter().take(MOST_STRAYS) {
            self.remove_stray(mount, stray).await;
        }
        if let Some(oldest) = listed.oldest.filter(|oldest| *oldest != calendar.oldest) {
            let mut calendar = calendar.clone();
            calendar.oldest = oldest;
            self.store_calendar(mount, &calendar).await?;
        }
        Ok(())
    }

    async fn list_pointers(
        &self,
        mount: &Mount,
        oldest: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<Listed, Error> {
        let mut listed = Listed {
            open: names(mount, OPEN_WORK).await?,
            ..Listed::default()
        };
        let Some(oldest) = oldest else {
            return Ok(listed);
        };
        let today = now.date_naive();
        let mut drained = true;
        for day in oldest
            .iter_days()
            .take(MOST_DAYS)
            .take_while(|day| *day <= today)
        {
            let due = names(mount, &storage::due_folder(day)).await?;
            drained &= due.is_empty();
            // Yesterday's stays: a pointer computed before midnight may still be on its way.
            if drained && day.succ_opt().is_some_and(|next| next < today) {
                listed.oldest = day.checked_add_days(Days::new(1));
            }
            listed.due.extend(due.into_iter().map(|name| (day, name)));
        }
        Ok(listed)
    }

    /// Reads the records that the agenda does not know.
    async fn read_unknown(
        self: &Arc<Self>,
        mount: &Mount,
        config: &MountConfig,
        rest: Rest,
        listed: &Listed,
    ) {
        let unknown: Vec<TenantName> = {
            let mut state = self.runner.state();
            let all = listed
                .open
                .iter()
                .chain(listed.due.iter().map(|(_, name)| name));
            let all: BTreeSet<TenantName> = all.cloned().collect();
            state.agenda.keep_only(&all);
            let unknown = |name: &TenantName| {
                let known = state.agenda.get(name);
                known.is_none_or(|known| known.unreadable)
            };
            all.into_iter().filter(unknown).collect()
        };
        stream::iter(unknown)
            .for_each_concurrent(READERS, |name| async move {
                match self.read_tenant(mount, &name).await {
                    Ok(record) => {
                        let now = self.clock().now();
                        let known = known(record.as_deref(), config, rest, now);
                        self.runner.state().agenda.learn(name, known);
                    }
                    Err(error) => {
                        tracing::warn!(tenant = %name, %error, "due work not read");
                        if matches!(error, Error::Entry { .. }) {
                            let now = self.clock().now();
                            let mut state = self.runner.state();
                            let since = state.agenda.since(&name).unwrap_or(now);
                            state.agenda.learn(name, Known::unreadable(since));
                        }
                    }
                }
            })
            .await;
    }

    /// Sorts what is due by the server it waits for.
    fn sort_out(
        &self,
        listed: &Listed,
        now: DateTime<Utc>,
    ) -> (BTreeMap<String, ServerWork>, Vec<Stray>) {
        let state = self.runner.state();
        let mut work: BTreeMap<String, ServerWork> = BTreeMap::new();
        let mut strays = Vec::new();
        for name in &listed.open {
            let Some(known) = state.agenda.get(name) else {
                continue;
            };
            if !known.is_open && !known.unreadable {
                strays.push(Stray::Open(name.clone()));
            } else if known.open_at.is_some_and(|at| at <= now) {
                let server = work.entry(known.server.clone()).or_default();
                server.open.push(name.clone());
            }
        }
        let today = now.date_naive();
        for (day, name) in &listed.due {
            let Some(known) = state.agenda.get(name) else {
                continue;
            };
            if known.unreadable {
                if *day < today {
                    strays.push(Stray::Unreadable(*day, name.clone()));
                }
                continue;
            }
            if known.due_day != Some(*day) {
                strays.push(Stray::Day(*day, name.clone()));
                continue;
            }
            let planned = known.planned;
            if *day < today && planned.is_none_or(|planned| planned.at.date_naive() > today) {
                strays.push(Stray::Past(name.clone()));
            }
            let Some(planned) = planned.filter(|planned| planned.at <= now) else {
                continue;
            };
            let server = work.entry(known.server.clone()).or_default();
            match planned.work {
                Work::Notice => server.notices.push(name.clone()),
                Work::Rotation => server.rotations.push(name.clone()),
            }
        }
        (work, strays)
    }

    /// Judges a pointer under the tenant's lock: removes it if the record does not need it, and
    /// moves it if it leads to the past. Whoever has the lock knows better.
    async fn remove_stray(self: &Arc<Self>, mount: &Mount, stray: Stray) {
        let done = match &stray {
            Stray::Open(name) => self.remove_stray_work(mount, name).await,
            Stray::Day(day, name) => self.remove_stray_day(mount, name, Some(*day)).await,
            Stray::Past(name) => self.remove_stray_day(mount, name, None).await,
            Stray::Unreadable(day, name) => self.carry_on(mount, name, *day).await,
        };
        if let Err(error) = done {
            tracing::warn!(?stray, %error, "a stale pointer is left");
        }
    }

    async fn remove_stray_work(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<(), Error> {
        if let Some(tenant) = self.try_lock_tenant(mount, name).await? {
            tenant.remove_stale_work().await;
        }
        Ok(())
    }

    async fn remove_stray_day(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        day: Option<NaiveDate>,
    ) -> Result<(), Error> {
        let Some(mut tenant) = self.try_lock_tenant(mount, name).await? else {
            return Ok(());
        };
        let today = self.clock().now().date_naive();
        let stored = tenant.record.live_credential();
        if stored.is_some_and(|kept| kept.due_day.is_some_and(|day| day < today)) {
            // Storing moves it: no pointer is written for a past day.
            tenant.store().await?;
        }
        if let Some(day) = day {
            tenant.remove_stale_day(day).await;
        }
        Ok(())
    }

    /// Takes the pointer to a record that cannot be read along to today: its folder must not be
    /// listed for ever, and the tenant must be found when the record can be read again.
    async fn carry_on(
        &self,
        mount: &Mount,
        name: &TenantName,
        day: NaiveDate,
    ) -> Result<(), Error> {
        let Some(_guard) = self.tenant_locks.try_lock(name.as_str()) else {
            return Ok(());
        };
        let today = self.clock().now().date_naive();
        let key = storage::due_key(today, name.as_str());
        let pointer = StorageEntry::new(key, b"{}".to_vec());
        mount.storage.put(pointer).await?;
        let past = storage::due_key(day, name.as_str());
        Ok(mount.storage.delete(&past).await?)
    }

    /// Does the work of one server's tenants, one after the other. Boxed, because most of a crowd
    /// only waits for a place.
    async fn serve(self: &Arc<Self>, mount: &Mount, mut work: ServerWork, most: u64, busy: Busy) {
        for name in &work.open {
            let _place = self.runner.places.take(Class::Settling, most).await;
            if !self.goes_on(name, Box::pin(self.work_on(mount, name)).await) {
                return;
            }
        }
        for name in work.notices {
            let _place = self.runner.places.take(Class::Notice, most).await;
            match Box::pin(self.send_notice(mount, &name)).await {
                Ok(true) => work.rotations.push(name),
                Ok(false) => {}
                Err(error) => tracing::info!(tenant = %name, %error, "the notice waits"),
            }
            if self.tasks.is_stopping() {
                return;
            }
        }
        for name in &work.rotations {
            let _place = self.runner.places.take(Class::Rotation, most).await;
            if !self.goes_on(name, Box::pin(self.rotate_by_schedule(mount, name)).await) {
                return;
            }
        }
        drop(busy);
    }

    /// Reports whether the server's next tenant is worth a try.
    fn goes_on(&self, name: &TenantName, outcome: Result<(), Error>) -> bool {
        match outcome {
            Ok(()) => {}
            // The place is for another server.
            Err(Error::BreakerOpen) => return false,
            Err(error) => tracing::info!(tenant = %name, %error, "work is left for later"),
        }
        !self.tasks.is_stopping()
    }
}

/// Lists the tenants of a folder.
async fn names(mount: &Mount, folder: &str) -> Result<Vec<TenantName>, Error> {
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = mount.storage.list_page(folder, &after, PAGE).await?;
        names.extend(page.iter().filter_map(|name| TenantName::parse(name).ok()));
        match page.last() {
            Some(last) if page.len() >= PAGE => after.clone_from(last),
            _ => return Ok(names),
        }
    }
}

/// What the agenda keeps of a record.
pub(super) fn known(
    record: Option<&TenantRecord>,
    config: &MountConfig,
    rest: Rest,
    now: DateTime<Utc>,
) -> Known {
    let credential = record.and_then(TenantRecord::live_credential);
    let pause = record.and_then(|record| record.pause.as_ref());
    let pause_ends = pause.map(|pause| pause.until);
    let next_work = record.and_then(|record| record.next_work(now));
    let planned = record
        // An open change is settled first, and then there is another plan.
        .filter(|record| record.intent.is_none())
        .and_then(|record| schedule::planned(record, config, rest, now));
    let attention = record.and_then(TenantRecord::attention);
    let reading = record.zip(credential);
    Known {
        server: server_of(record),
        open_at: next_work.into_iter().chain(pause_ends).min(),
        planned,
        due_day: credential.and_then(|kept| kept.due_day),
        is_open: record.is_some_and(TenantRecord::is_open),
        state: reading
            .and_then(|(record, kept)| state::read(record, kept))
            .map(|reading| reading.state),
        next_rotation: credential.and_then(|kept| kept.next_rotation),
        paused_until: pause_ends,
        attention: attention.map(|attention| (attention.code.to_owned(), attention.since)),
        unreadable: false,
        failing: record.is_some_and(|record| record.open.retry_failures >= ATTENTION_AFTER),
    }
}

/// The server a tenant's work waits for; tenants without one wait for nobody.
pub(in crate::engine) fn server_of(record: Option<&TenantRecord>) -> String {
    record
        .and_then(|record| record.server.as_ref())
        .and_then(|server| EndpointUrl::parse_stored(&server.mailu_url).ok())
        .map_or_else(String::new, |url| url.origin())
}
