//! Writes that outlive their requests, and requests that join work already under way.
//!
//! A request waits at most the mount's `wait`; then it answers 503 `in_progress` and the work goes
//! on, or `not_stored` if what it is about is not stored by then. The client's repeat (Go clients repeat a 503 by themselves) must find that work, not start
//! it again: it joins it while it runs, and is handed its outcome if it ended meanwhile. This is
//! the only way in which a handler changes anything. What must stay true:
//!
//! - The same path, caller and fields are one piece of work. The caller includes the token.
//! - An answer with a secret is rendered once, for the first waiter who is still there; what is
//!   kept for it is what opens the secret, not an answer.
//! - The work that goes on for a tenant is bounded: what is beyond is refused before it began.
//!   Emergencies have places of their own.

mod key;
mod work;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use super::storage::record::TenantRecord;
use super::tenant::TenantName;
use crate::crypto::ProcessKey;
use crate::logical::{Call, Mount, Operation, Response};
pub(super) use key::{Kept, WorkKey, token_of};
use work::{Answer, STORED, Secret, Stored, Waiting, Work};
pub(super) use work::{Waiters, note_stored};

/// What a write answers.
pub(super) type Outcome = Result<Option<Response>, Error>;

/// Makes the answer with a secret, from the tenant's record as it is now (`None` if there is none).
pub(super) type Render = Box<dyn FnOnce(Option<&TenantRecord>) -> Result<Rendered, Error> + Send>;

/// What became of an answer with a secret.
#[derive(Debug)]
pub(super) enum Rendered {
    /// The answer.
    Shown(Box<Response>),
    /// It is not what the tenant's record says any more: the work begins anew.
    Stale,
}

/// How work ended that may answer a secret.
pub(super) enum Ended {
    /// With what every waiter may see.
    ForAll(Box<Option<Response>>),
    /// With a secret for one of them.
    ForOne(Render),
    /// Without having done anything, because nobody waited any more.
    Nobody,
}

/// Work that was begun.
pub(super) type Begun = Pin<Box<dyn Future<Output = Result<Ended, Error>> + Send>>;

/// Begins work; is told who waits for it.
pub(super) type Begin<'a> = dyn FnMut(Waiters) -> Begun + Send + 'a;

/// The joinable work of one mount.
#[derive(Default)]
pub(super) struct Joined {
    // A blocking mutex: held only for map operations.
    running: Mutex<HashMap<WorkKey, Work>>,
    /// Callers and fields are told apart under it.
    key: OnceLock<ProcessKey>,
}

/// How a request takes part.
enum Part {
    /// It began the work, or joined its own.
    Own(Waiting),
    /// There is no place for it: it waits for the work of somebody else for the same incident.
    Behind(Waiting),
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

    /// Forgets outcomes of a tenant that nobody took: something else happens to it now. What opens
    /// a secret is judged by the record when it is taken.
    pub(super) fn forget_outcomes(&self, tenant: &TenantName) {
        self.lock().retain(|key, work| {
            let stays = |answer: &Option<(Answer, Duration)>| {
                matches!(answer, None | Some((Answer::ForOne(_), _)))
            };
            key.tenant != tenant.as_str() || stays(&work.answer.borrow())
        });
    }

    /// Reports whether what goes on is more than a wait for somebody else: work that promises
    /// something has stored it.
    fn has_promised(&self, key: &WorkKey) -> bool {
        let running = self.lock();
        let waits = |work: &Work| work.is_running() && !work.stored.is_set();
        // Nothing of its own: it waits behind another one, and what it asks for beside may differ.
        !(key.promises && running.get(key).is_none_or(waits))
    }

    /// Forgets outcomes that nobody took in time.
    pub(super) fn forget_old(&self, now: Duration) {
        self.lock()
            .retain(|key, work| work.is_joinable(key.kept, now));
    }

    /// The answer was taken. Another request that joined may have begun anew meanwhile.
    fn taken(&self, key: &WorkKey, waiting: &Waiting) {
        let mut running = self.lock();
        let own = |work: &Work| work.answer.same_channel(&waiting.answer);
        if running.get(key).is_some_and(own) {
            running.remove(key);
        }
    }

    fn key(&self) -> Result<&ProcessKey, Error> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let made = ProcessKey::generate()?;
        Ok(self.key.get_or_init(|| made))
    }
}

impl Engine {
    /// Returns until when, in monotonic time, a request that arrives now waits.
    pub(super) fn waits_until(&self, config: &MountConfig) -> Duration {
        self.clock().monotonic() + Duration::from_secs(config.wait)
    }

    /// Returns what a request shares with its repeats.
    ///
    /// # Errors
    ///
    /// [`Error::Random`] for the first one of a process.
    pub(super) fn work_key(&self, call: &Call, kept: Kept) -> Result<WorkKey, Error> {
        let request = &call.request;
        let operation = match request.operation {
            // The host tells them apart by whether there is something, which the work changes.
            Operation::Create | Operation::Update => "write",
            other => other.as_str(),
        };
        let [accessor, token, id] = token_of(request);
        let asked = call.asked();
        let digest = self.joined.key()?.digest(&[
            operation.as_bytes(),
            request.entity_id.as_bytes(),
            request.display_name.as_bytes(),
            accessor.as_bytes(),
            token.as_bytes(),
            id.as_bytes(),
            asked.expose(),
        ]);
        Ok(WorkKey {
            tenant: call.find_capture("tenant").unwrap_or_default().to_owned(),
            path: request.path.clone(),
            digest,
            kept,
            emergency: None,
            promises: true,
        })
    }

    /// Runs `work` to its end on a tracked task and waits for it at most the mount's `wait`; a
    /// request with the same key joins it instead of starting it again.
    ///
    /// # Errors
    ///
    /// [`Error::InProgress`] if it goes on, [`Error::NotStored`] if it has not stored yet what it
    /// promises, [`Error::Busy`] if too many wait already, the work's
    /// own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the work running.
    pub(super) fn join<'a, F>(
        &'a self,
        config: &'a MountConfig,
        key: WorkKey,
        work: F,
    ) -> impl Future<Output = Outcome> + Send + 'a
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        // Where it lies does not move: what changes a password is large.
        let mut work = Some(Box::pin(work));
        async move {
            let mut begin = |_waiters| -> Begun {
                let work = work.take();
                Box::pin(async move {
                    match work {
                        Some(work) => work.await.map(|answer| Ended::ForAll(Box::new(answer))),
                        None => Err(Error::Defect("work that is for all began twice")),
                    }
                })
            };
            let part = self.take_part(&key, &mut begin, None);
            self.in_time(config, &key, part).await
        }
    }

    /// Like [`Engine::join`] for work whose answer may have a secret of the tenant. `begin` is told
    /// who waits, and is asked again if what was kept for a repeat is not true any more.
    ///
    /// # Errors
    ///
    /// As [`Engine::join`]; [`Error::ShownToAnother`] for all but one of those who waited.
    pub(super) async fn join_for_one(
        &self,
        mount: &Mount,
        config: &MountConfig,
        (key, name): (WorkKey, &TenantName),
        begin: &mut Begin<'_>,
    ) -> Outcome {
        let part = self.take_part(&key, begin, Some((mount, name)));
        self.in_time(config, &key, part).await
    }

    async fn take_part(
        &self,
        key: &WorkKey,
        begin: &mut Begin<'_>,
        tenant: Option<(&Mount, &TenantName)>,
    ) -> Outcome {
        loop {
            let mut waiting = match self.start_or_join(key, begin)? {
                Part::Own(waiting) => waiting,
                Part::Behind(mut waiting) => {
                    waiting.ended().await?;
                    continue;
                }
            };
            match waiting.ended().await? {
                Answer::Nobody => self.joined.taken(key, &waiting),
                Answer::ForAll(outcome) => {
                    self.joined.taken(key, &waiting);
                    return *outcome;
                }
                Answer::ForOne(render) => {
                    let record = match tenant {
                        Some((mount, name)) => self.read_tenant(mount, name).await?,
                        None => None,
                    };
                    // From here on nothing waits: who takes it is there to see it.
                    self.joined.taken(key, &waiting);
                    if let Some(response) = render.show(record.as_deref())? {
                        return Ok(Some(response));
                    }
                }
            }
        }
    }

    fn start_or_join(&self, key: &WorkKey, begin: &mut Begin<'_>) -> Result<Part, Error> {
        let now = self.clock().monotonic();
        let mut running = self.joined.lock();
        running.retain(|key, work| work.is_joinable(key.kept, now));
        let sharing = running.iter().filter(|(other, _)| key.shares_places(other));
        let is_full = sharing.map(|(_, work)| work.places()).sum::<usize>() >= key.places();
        match running.get(key) {
            // Work that everybody left has its place: the first who joins it takes no other one.
            Some(work) if !is_full || !work.is_running() || !work.waiters.is_any_left() => {
                return Ok(Part::Own(work.wait()));
            }
            None if !is_full => {}
            _ => {
                let incident = |other: &WorkKey| {
                    key.emergency.is_some()
                        && other.tenant == key.tenant
                        && other.emergency == key.emergency
                };
                let mut ahead = running.iter().filter(|(other, _)| incident(other));
                let ahead = ahead.find(|(_, work)| work.is_running());
                return ahead
                    .map(|(_, work)| Part::Behind(work.wait_aside()))
                    .ok_or(Error::Busy);
            }
        }
        running.retain(|other, work| {
            let replaced = other.kept == Kept::UntilWritten
                && (&other.tenant, &other.path) == (&key.tenant, &key.path);
            work.is_running() || !replaced
        });
        let (sender, answer) = watch::channel(None);
        let work = Work {
            answer,
            waiters: Waiters::default(),
            stored: Stored::default(),
        };
        let stored = work.stored.clone();
        let waiting = work.wait();
        running.insert(key.clone(), work);
        drop(running);
        let work = begin(waiting.waiters.clone());
        let clock = Arc::clone(&self.parts.clock);
        self.tasks.spawn(async move {
            let answer = match STORED.scope(stored, work).await {
                Ok(Ended::ForAll(response)) => Answer::ForAll(Box::new(Ok(*response))),
                Ok(Ended::ForOne(render)) => Answer::ForOne(Arc::new(Secret::new(render))),
                Ok(Ended::Nobody) => Answer::Nobody,
                Err(error) => Answer::ForAll(Box::new(Err(error))),
            };
            sender.send_replace(Some((answer, clock.monotonic())));
        });
        Ok(Part::Own(waiting))
    }

    /// Waits at most the mount's `wait`.
    async fn in_time(
        &self,
        config: &MountConfig,
        key: &WorkKey,
        answer: impl Future<Output = Outcome>,
    ) -> Outcome {
        let wait = Duration::from_secs(config.wait);
        match tokio::time::timeout(wait, answer).await {
            Ok(outcome) => outcome,
            Err(_elapsed) if self.joined.has_promised(key) => Err(Error::InProgress),
            Err(_elapsed) => Err(Error::NotStored),
        }
    }
}
