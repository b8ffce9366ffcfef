//! The state that listeners, accessors and the control API share.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use axum::http::request::Parts;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::config::{Config, Settings};
use super::faults::Faults;
use super::hash;
use super::journal::Journal;
use super::limits::Limits;
use super::reply::Reply;
use super::tables::Tables;

/// Everything behind the listeners. No two of the locks are ever held together.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub settings: Mutex<Settings>,
    pub tables: Mutex<Tables>,
    pub limits: Mutex<Limits>,
    pub faults: Faults,
    pub journal: Journal,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Hashing is serial in Mailu: password changes and logins wait in one queue.
    queue: tokio::sync::Mutex<()>,
    /// Looks that the edge has answered, by URL, with the stand-in's time of the answer.
    cache: Mutex<HashMap<String, (Reply, Duration)>>,
}

impl Shared {
    pub fn new(config: &Config) -> Self {
        let clock = Clock::start();
        Self {
            tables: Mutex::new(Tables::with(config)),
            settings: Mutex::new(Settings::from(config)),
            limits: Mutex::new(Limits::default()),
            faults: Faults::default(),
            journal: Journal::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            queue: tokio::sync::Mutex::new(()),
            cache: Mutex::default(),
            clock,
        }
    }

    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Answers a look from the edge's cache, if it has one and knows it.
    pub fn cached(&self, request: &Parts, settings: &Settings) -> Option<Reply> {
        if request.method != Method::GET {
            return None;
        }
        let (mut reply, at) = lock(&self.cache).get(&request.uri.to_string())?.clone();
        let age = self.clock.now().saturating_sub(at);
        reply
            .headers
            .push(("age".to_owned(), age.as_secs().to_string()));
        (age < settings.cached_for).then_some(reply)
    }

    pub fn keep_in_cache(&self, request: &Parts, settings: &Settings, reply: &Reply) {
        let kept = request.method == Method::GET && reply.status == 200;
        if kept && !settings.cached_for.is_zero() {
            let answer = (reply.clone(), self.clock.now());
            lock(&self.cache).insert(request.uri.to_string(), answer);
        }
    }

    /// Hashes in the queue, as slowly as the settings say.
    pub async fn hash_in_turn(&self, password: String) -> String {
        let Settings {
            rounds, hash_delay, ..
        } = self.settings();
        self.in_turn(hash_delay, move || hash::hash(&password, rounds))
            .await
    }

    /// Runs `work` off the runtime's threads, after all earlier work.
    pub async fn in_turn<T: Send + 'static>(
        &self,
        delay: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let _turn = self.queue.lock().await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        tokio::task::spawn_blocking(work)
            .await
            .expect("hashing does not panic")
    }
}

/// Locks, also after a panic elsewhere: every critical section leaves its data whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
