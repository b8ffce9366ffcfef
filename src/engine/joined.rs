//! Work that outlives its request, and requests that join work already under way.
//!
//! A request waits at most the mount's `wait`; then it answers 503 `in_progress` and the work goes
//! on. The client's repeat (Go clients repeat a 503 by themselves) must find that work, not start
//! it again: it joins it while it runs, and is handed its outcome if it ended meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use super::channels::Channel;
use super::config::MountConfig;
use super::error::Error;
use super::tenant::TenantName;
use crate::audit::{Actor, NewEvent};
use crate::logical::Response;

/// How long the outcome of work whose requests all left is kept for a repeat. Clients that repeat
/// a 503 by themselves do so within seconds; a person who asks again later means it.
const UNCLAIMED: Duration = Duration::from_secs(15);

type Outcome = Result<Option<Response>, Error>;

/// The joinable work of one mount.
#[derive(Default)]
pub(super) struct Joined {
    // A blocking mutex: held only for map operations.
    running: Mutex<HashMap<WorkKey, Work>>,
}

/// What two requests must have in common to share work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkKey {
    operation: &'static str,
    tenant: String,
    user_id: String,
    display_name: String,
    /// What else was asked for.
    detail: String,
}

impl WorkKey {
    pub(super) fn new(
        operation: &'static str,
        tenant: &TenantName,
        caller: &Actor,
        detail: String,
    ) -> Self {
        Self {
            operation,
            tenant: tenant.as_str().to_owned(),
            user_id: caller.user_id.clone(),
            display_name: caller.display_name.clone(),
            detail,
        }
    }

    /// The key of work that is about the mount and no tenant, by the event it begins with.
    pub(super) fn of_mount(operation: &'static str, event: &NewEvent) -> Self {
        Self {
            operation,
            // No tenant has an empty name.
            tenant: String::new(),
            user_id: event.actor.user_id.clone(),
            display_name: event.actor.display_name.clone(),
            detail: event.reason.clone().unwrap_or_default(),
        }
    }

    /// The key of work that is about a notification channel, as it was written last.
    pub(super) fn of_channel(operation: &'static str, channel: &Channel, caller: &Actor) -> Self {
        Self {
            operation,
            tenant: String::new(),
            user_id: caller.user_id.clone(),
            display_name: caller.display_name.clone(),
            detail: format!("{}\0{}\0{}", channel.name, channel.id, channel.written_at),
        }
    }

    /// The same key for a request that asks for something particular.
    pub(super) fn with_detail(mut self, detail: &str) -> Self {
        self.detail.push('\0');
        self.detail.push_str(detail);
        self
    }
}

struct Work {
    /// The outcome and when it came.
    outcome: watch::Receiver<Option<(Outcome, Duration)>>,
    kept: Kept,
}

/// Whether an outcome that no request took waits for a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// For a while: repeating the work would change something again.
    ForRepeats,
    /// Not at all: the outcome is a statement about now.
    No,
}

impl Work {
    /// Reports whether a request may still join: the work runs, or its outcome waits to be taken.
    fn is_joinable(&self, now: Duration) -> bool {
        match &*self.outcome.borrow() {
            Some((_, ended)) => {
                self.kept == Kept::ForRepeats && now.saturating_sub(*ended) < UNCLAIMED
            }
            // A sender that is gone without an outcome panicked.
            None => self.outcome.has_changed().is_ok(),
        }
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

impl Joined {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkKey, Work>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets outcomes of a tenant that nobody took: something else happens to it now.
    pub(super) fn forget_outcomes(&self, tenant: &TenantName) {
        self.lock()
            .retain(|key, work| key.tenant != tenant.as_str() || work.outcome.borrow().is_none());
    }
}

impl Engine {
    /// Returns until when, in monotonic time, a request that arrives now waits.
    pub(super) fn waits_until(&self, config: &MountConfig) -> Duration {
        self.clock().monotonic() + Duration::from_secs(config.wait)
    }

    /// Runs `work` to its end on a tracked task and waits for it at most the mount's `wait`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the work running.
    pub(super) async fn finish<T, F>(&self, config: &MountConfig, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let task = self.tasks.spawn(work);
        match tokio::time::timeout(Duration::from_secs(config.wait), task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panicked)) => Err(Error::Defect("a background task failed")),
            Err(_elapsed) => Err(Error::InProgress),
        }
    }

    /// Like [`Engine::finish`], but a request with the same `key` joins the work instead of
    /// starting it again.
    pub(super) async fn join<F>(
        &self,
        config: &MountConfig,
        key: WorkKey,
        kept: Kept,
        work: F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut outcome = self.start_or_join(key.clone(), kept, work);
        let wait = Duration::from_secs(config.wait);
        let answered = match tokio::time::timeout(wait, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(answered)) => answered.clone().map(|(outcome, _ended)| outcome),
            Ok(Err(_panicked)) => Some(Err(Error::Defect("a background task failed"))),
            Err(_elapsed) => return Err(Error::InProgress),
        };
        let mut running = self.joined.lock();
        let own = |work: &Work| work.outcome.same_channel(&outcome);
        // Another request that joined may have taken this outcome away and begun anew.
        if running.get(&key).is_some_and(own) {
            running.remove(&key);
        }
        drop(running);
        answered.unwrap_or(Err(Error::Defect("joined work ended without an outcome")))
    }

    fn start_or_join<F>(
        &self,
        key: WorkKey,
        kept: Kept,
        work: F,
    ) -> watch::Receiver<Option<(Outcome, Duration)>>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let now = self.clock().monotonic();
        let mut running = self.joined.lock();
        running.retain(|_, work| work.is_joinable(now));
        if let Some(work) = running.get(&key) {
            return work.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(
            key,
            Work {
                outcome: outcome.clone(),
                kept,
            },
        );
        drop(running);
        let clock = Arc::clone(&self.parts.clock);
        self.tasks.spawn(async move {
            let outcome = work.await;
            sender.send_replace(Some((outcome, clock.monotonic())));
        });
        outcome
    }
}
