//! The work of a batch: page by page, every tenant's turn, and what became of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::plan::names_after;
use super::record::{Action, Batch, State, Turn};
use super::{Batches, TIDY};
use crate::audit::Actor;
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::runner::{Class, server_of};
use crate::engine::tenant::TenantName;
use crate::logical::Mount;

/// Tenants whose turns are under way or done and not yet behind the stored place.
const PAGE: usize = 128;
/// Progress is stored after so many turns, or after so long.
const SAVE_AFTER: usize = 25;
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// After so many ends by storage a tenant's turn counts as failed.
const MOST_TRIES: u32 = 3;

/// A run under way; however it ends, the next tick can begin one.
#[derive(Debug)]
struct Running(Arc<Engine>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.batches.notes().current = None;
        self.0.batches.running.store(false, Ordering::SeqCst);
    }
}

impl Batches {
    /// Reports whether a run is to begin now, and then takes its place.
    fn begin(&self, now: Duration) -> bool {
        {
            let mut notes = self.notes();
            if now >= notes.tidy_at {
                notes.tidy_at = now + TIDY;
                self.want();
            }
        }
        self.wanted.load(Ordering::SeqCst) && !self.running.swap(true, Ordering::SeqCst)
    }

    /// Counts an end by storage; reports whether the tenant has had its tries.
    fn is_stuck(&self, tenant: &str) -> bool {
        let mut notes = self.notes();
        let tries = notes.stuck.entry(tenant.to_owned()).or_default();
        *tries += 1;
        *tries >= MOST_TRIES
    }
}

impl Engine {
    /// Goes on with the oldest batch in the background. Nothing is asked of anybody if there is
    /// none. Never fails: the next tick goes on.
    pub(in crate::engine) fn begin_batches(self: &Arc<Self>, mount: &Mount) {
        if !self.batches.begin(self.clock().monotonic()) {
            return;
        }
        let running = Running(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = &running.0;
            // Before anything is looked at: whoever creates one meanwhile wants it again.
            engine.batches.wanted.store(false, Ordering::SeqCst);
            if let Err(error) = engine.run_batches(&mount).await {
                engine.batches.want();
                tracing::warn!(%error, "the batches rest until the next tick");
            }
        });
    }

    /// Runs every batch that is not over, and tells the end of those that are.
    async fn run_batches(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        loop {
            self.require_active(mount).await?;
            self.batches.notes().cancelled.clear();
            // Whoever creates one from here on is heard by the run that begins now.
            self.batches.emergency.store(false, Ordering::SeqCst);
            let kept = self.kept_batches(mount).await?;
            for batch in kept.iter().filter(|batch| batch.is_over()) {
                self.tell_end(mount, batch.clone()).await?;
            }
            let open = || kept.iter().filter(|batch| !batch.is_over());
            let emergency = open().find(|batch| batch.action == Action::Reset);
            let Some(next) = emergency.or_else(|| open().next()) else {
                return Ok(());
            };
            self.batches.notes().current = Some(next.id.clone());
            Box::pin(self.run_batch(mount, &next.id)).await?;
            if self.tasks.is_stopping() {
                return Ok(());
            }
        }
    }

    /// Runs one batch to its end, page by page.
    async fn run_batch(self: &Arc<Self>, mount: &Mount, id: &str) -> Result<(), Error> {
        loop {
            let Some(batch) = self.load_batch(mount, id).await? else {
                return Ok(());
            };
            if batch.is_over() {
                self.batches.notes().stuck.clear();
                return self.tell_end(mount, batch).await.map(drop);
            }
            let taken = usize::try_from(batch.taken).unwrap_or(usize::MAX);
            let page = names_after(mount, &batch.targets, &batch.after, taken, PAGE).await?;
            if page.is_empty() {
                let now = self.clock().now();
                let done =
                    |batch: &mut Batch| batch.finish(State::Done, None, Actor::system(), None, now);
                self.update_batch(mount, id, done).await?;
                continue;
            }
            let run = Run::new(self, mount, batch);
            match run.batch.state {
                State::Canary => run.canary(&page).await,
                State::Running | State::Done | State::Stopped | State::Cancelled => {
                    run.all(&page).await?;
                }
            }
            let rests = run.rests();
            run.finish(&page).await?;
            if rests || self.tasks.is_stopping() {
                return Ok(());
            }
        }
    }
}

/// A page under way.
struct Run<'a> {
    engine: &'a Arc<Engine>,
    mount: &'a Mount,
    /// As it was when the page began.
    batch: Batch,
    /// Failures so far, those that are not stored yet included.
    failed: AtomicU64,
    /// Nobody else gets a turn.
    ended: AtomicBool,
    unsaved: Mutex<Unsaved>,
}

#[derive(Debug, Default)]
struct Unsaved {
    turns: Vec<(String, Turn)>,
    /// When they were last stored, monotonic.
    saved_at: Duration,
    /// What ended the page before its time.
    error: Option<Error>,
}

impl<'a> Run<'a> {
    fn new(engine: &'a Arc<Engine>, mount: &'a Mount, batch: Batch) -> Self {
        Self {
            engine,
            mount,
            failed: AtomicU64::new(batch.failed),
            ended: AtomicBool::new(false),
            unsaved: Mutex::new(Unsaved {
                saved_at: engine.clock().monotonic(),
                ..Unsaved::default()
            }),
            batch,
        }
    }

    fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports whether a batch of resets waits, for which this one rests.
    fn rests(&self) -> bool {
        self.batch.action != Action::Reset && self.engine.batches.emergency.load(Ordering::SeqCst)
    }

    fn goes_on(&self) -> bool {
        !self.rests()
            && !self.ended.load(Ordering::SeqCst)
            && self.failed.load(Ordering::SeqCst) <= self.batch.max_failures
            && !self.engine.batches.is_cancelled(&self.batch.id)
            && !self.engine.tasks.is_stopping()
    }

    fn end(&self, error: Error) {
        self.ended.store(true, Ordering::SeqCst);
        self.unsaved().error.get_or_insert(error);
    }

    /// One after the other, each stored before the next begins, as long as the canary lasts.
    async fn canary(&self, page: &[String]) {
        for name in page {
            if self.batch.had_turn.contains(name) {
                continue;
            }
            if !self.goes_on() {
                return;
            }
            self.take_turn(name).await;
            match self.save(None).await {
                Ok(Some(State::Canary)) => {}
                Ok(_) => return,
                Err(error) => return self.end(error),
            }
        }
    }

    /// Server by server, as many at once as the settings allow.
    async fn all(&self, page: &[String]) -> Result<(), Error> {
        // One at a time at each server, as everywhere; settling there is not kept waiting. Who
        // gets a place is decided for every tenant anew.
        let mut servers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in page {
            if !self.batch.had_turn.contains(name) {
                let server = self.server(name).await;
                servers.entry(server).or_default().push(name);
            }
        }
        stream::iter(servers)
            .for_each_concurrent(None, |(_server, names)| self.all_of_server(names))
            .await;
        Ok(())
    }

    async fn all_of_server(&self, names: Vec<&str>) {
        for name in names {
            if !self.goes_on() {
                return;
            }
            self.take_turn(name).await;
            let now = self.engine.clock().monotonic();
            let due = {
                let unsaved = self.unsaved();
                let many = unsaved.turns.len() >= SAVE_AFTER;
                many || now.saturating_sub(unsaved.saved_at) >= SAVE_EVERY
            };
            if due && let Err(error) = self.save(None).await {
                self.end(error);
            }
        }
    }

    /// The server a tenant waits for. One whose record cannot be read waits for nobody: its turn
    /// says why.
    async fn server(&self, name: &str) -> String {
        let Ok(parsed) = TenantName::parse(name) else {
            return String::new();
        };
        let record = self.engine.read_tenant(self.mount, &parsed).await;
        server_of(record.ok().flatten().as_deref())
    }

    /// Gives a tenant its turn, once there is a place for it.
    async fn take_turn(&self, name: &str) {
        let most = match self.engine.config(self.mount).await {
            Ok(config) => config.max_parallel,
            Err(error) => return self.end(error),
        };
        let _place = self.engine.runner.places.take(Class::Rotation, most).await;
        if !self.goes_on() {
            return;
        }
        let turn = match self.engine.turn(self.mount, &self.batch, name).await {
            Ok(turn) => turn,
            Err(Error::Storage(error)) if self.engine.batches.is_stuck(name) => {
                tracing::warn!(tenant = %name, %error, "storage ended the turn again and again");
                Turn::Failed("storage_error")
            }
            Err(error) => return self.end(error),
        };
        if let Turn::Failed(code) = turn {
            tracing::info!(tenant = %name, code, batch = %self.batch.id, "not changed");
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        self.unsaved().turns.push((name.to_owned(), turn));
    }

    /// Stores what became of the turns so far, and behind `page` the place; returns how far the
    /// batch is then, or `None` if it is gone.
    async fn save(&self, page: Option<&[String]>) -> Result<Option<State>, Error> {
        let now = self.engine.clock();
        let (now, monotonic) = (now.now(), now.monotonic());
        let turns = {
            let mut unsaved = self.unsaved();
            unsaved.saved_at = monotonic;
            std::mem::take(&mut unsaved.turns)
        };
        let note = |batch: &mut Batch| {
            for (name, turn) in &turns {
                batch.note(name, turn, now);
            }
            if let Some(page) = page {
                batch.turn_page(page);
            }
        };
        let saved = self
            .engine
            .update_batch(self.mount, &self.batch.id, note)
            .await;
        match saved {
            Ok(batch) => {
                if batch.as_ref().is_none_or(Batch::is_over) {
                    self.ended.store(true, Ordering::SeqCst);
                }
                Ok(batch.map(|batch| batch.state))
            }
            Err(error) => {
                // They are told with the next attempt; noting a turn twice counts it once.
                self.unsaved().turns.extend(turns);
                Err(error)
            }
        }
    }

    /// Stores the rest of the page.
    async fn finish(&self, page: &[String]) -> Result<(), Error> {
        self.save(Some(page)).await?;
        match self.unsaved().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
