//! Work that outlives its request, and requests that join work already under way.
//!
//! A request waits at most the mount's `wait`; then it answers 503 `in_progress` and the work goes
//! on. The client's repeat (Go clients repeat a 503 by themselves) must find that work, not start
//! it again: it joins it while it runs, and is handed its outcome if it ended meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use crate::logical::Response;

/// How long the outcome of work whose requests all left is kept for a repeat.
const UNCLAIMED: Duration = Duration::from_secs(60);

type Outcome = Result<Option<Response>, Error>;

/// The joinable work of one mount.
#[derive(Default)]
pub(super) struct Joined {
    // A blocking mutex: held only for map operations.
    running: Mutex<HashMap<String, Work>>,
}

struct Work {
    started: Duration,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

impl Joined {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Work>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
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
    pub(super) async fn join<F>(&self, config: &MountConfig, key: String, work: F) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut outcome = self.start_or_join(key.clone(), work);
        let wait = Duration::from_secs(config.wait);
        let answered = match tokio::time::timeout(wait, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(answered)) => answered.clone(),
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

    fn start_or_join<F>(&self, key: String, work: F) -> watch::Receiver<Option<Outcome>>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let now = self.clock().monotonic();
        let mut running = self.joined.lock();
        running.retain(|_, work| {
            work.outcome.borrow().is_none() || now.saturating_sub(work.started) < UNCLAIMED
        });
        if let Some(work) = running.get(&key) {
            return work.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(
            key,
            Work {
                started: now,
                outcome: outcome.clone(),
            },
        );
        drop(running);
        self.tasks.spawn(async move {
            sender.send_replace(Some(work.await));
        });
        outcome
    }
}

/// The key under which a caller's repeats of one operation join.
pub(super) fn join_key(operation: &str, tenant: &str, caller: &crate::audit::Actor) -> String {
    // Names hold no control characters: the separator cannot be forged.
    format!(
        "{operation}\n{tenant}\n{}\n{}",
        caller.user_id, caller.display_name
    )
}
