//! Writes that outlive their requests, and requests that join work already under way.
//!
//! A request waits at most the mount's `wait`; then it answers 503 `in_progress` and the work goes
//! on. The client's repeat (Go clients repeat a 503 by themselves) must find that work, not start
//! it again: it joins it while it runs, and is handed its outcome if it ended meanwhile. This is
//! the only way in which a handler changes anything. What must stay true:
//!
//! - The same path, caller and fields are one piece of work. The caller includes the token.
//! - An answer with a secret is rendered once, for the first waiter who is still there; what is
//!   kept for it is what opens the secret, not an answer.
//! - The work that goes on for a tenant is bounded: what is beyond is refused before it began.
//!   Emergencies have places of their own.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use super::storage::record::TenantRecord;
use super::tenant::TenantName;
use crate::crypto::ProcessKey;
use crate::logical::{Call, Mount, Operation, Request, Response};

/// How long the outcome of work whose requests all left is kept for a repeat. Clients that repeat
/// a 503 by themselves do so within seconds; a person who asks again later means it.
const UNCLAIMED: Duration = Duration::from_secs(15);

/// How many requests may wait for one tenant, or have left work behind that goes on: all of it runs
/// before what comes later.
const PLACES: usize = 8;

/// The places of emergencies, for each tenant.
const EMERGENCY_PLACES: usize = 8;

/// The places of work that is about no tenant.
const MOUNT_PLACES: usize = 64;

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

/// What two requests must have in common to share work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WorkKey {
    /// Empty if it is about the mount: no tenant has an empty name.
    tenant: String,
    path: String,
    /// Of the operation, the caller and every field; keyed.
    digest: [u8; 32],
    kept: Kept,
    /// The incident of an emergency.
    emergency: Option<String>,
    /// What is asked for needs no mail server to be stored: until it is, nothing is promised.
    promises: bool,
}

/// Whether an outcome that no request took waits for a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kept {
    /// For a while: repeating the work would change something again. What belongs to a tenant is
    /// forgotten when something else happens to it.
    ForRepeats,
    /// The same until anybody else writes the path: what is there then is another thing.
    UntilWritten,
    /// Not at all: the outcome is a statement about now.
    No,
}

impl WorkKey {
    /// Makes it an emergency for this incident, with the places of its own.
    pub(super) fn for_emergency(mut self, incident: &str) -> Self {
        self.emergency = Some(incident.to_owned());
        self.promised()
    }

    /// Makes it work that is stored before a mail server is asked: a request that stops waiting
    /// before that is told that nothing is promised.
    pub(super) fn promised(mut self) -> Self {
        self.promises = true;
        self
    }

    /// The same key for work on something that may have become another thing meanwhile.
    pub(super) fn on(mut self, what: &str) -> Self {
        self.path.push('\0');
        self.path.push_str(what);
        self
    }

    const fn places(&self) -> usize {
        match (&self.emergency, self.tenant.is_empty()) {
            (Some(_), _) => EMERGENCY_PLACES,
            (None, true) => MOUNT_PLACES,
            (None, false) => PLACES,
        }
    }

    /// Reports whether both take the same kind of place.
    fn shares_places(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.emergency.is_some() == other.emergency.is_some()
    }
}

/// Who still waits for a piece of work.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiters(Arc<AtomicUsize>);

impl Waiters {
    /// Reports whether anybody would see an answer.
    pub(super) fn is_any_left(&self) -> bool {
        self.count() > 0
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
enum Answer {
    ForAll(Box<Outcome>),
    ForOne(Arc<Mutex<Option<Render>>>),
    Nobody,
}

struct Work {
    /// The answer and when it came.
    answer: watch::Receiver<Option<(Answer, Duration)>>,
    waiters: Waiters,
    /// Whether a tenant's record was stored by it.
    stored: Arc<AtomicBool>,
}

tokio::task_local! {
    /// Where the work that runs here notes that it has stored a tenant's record.
    static STORED: Arc<AtomicBool>;
}

/// Notes that the work which runs here has stored a tenant's record.
pub(super) fn note_stored() {
    // Outside of joined work nobody waits.
    let _nobody = STORED.try_with(|stored| stored.store(true, Ordering::SeqCst));
}

impl Work {
    /// Reports whether a request may still join: the work runs, or its outcome waits to be taken.
    fn is_joinable(&self, kept: Kept, now: Duration) -> bool {
        match &*self.answer.borrow() {
            Some((Answer::Nobody, _)) => false,
            Some((_, ended)) => kept != Kept::No && now.saturating_sub(*ended) < UNCLAIMED,
            None => self.is_running(),
        }
    }

    fn is_running(&self) -> bool {
        // A sender that is gone without an outcome panicked.
        self.answer.borrow().is_none() && self.answer.has_changed().is_ok()
    }

    /// How many places it takes: each who waits has one, and work that everybody left has one.
    fn places(&self) -> usize {
        if self.is_running() {
            self.waiters.count().max(1)
        } else {
            0
        }
    }

    fn wait(&self) -> Waiting {
        Waiting::new(self, self.waiters.clone())
    }

    /// Waits for its end, not for its answer.
    fn wait_aside(&self) -> Waiting {
        Waiting::new(self, Waiters::default())
    }
}

/// One who waits, until dropped.
struct Waiting {
    answer: watch::Receiver<Option<(Answer, Duration)>>,
    waiters: Waiters,
}

impl Waiting {
    fn new(work: &Work, waiters: Waiters) -> Self {
        waiters.0.fetch_add(1, Ordering::SeqCst);
        Self {
            answer: work.answer.clone(),
            waiters,
        }
    }

    async fn ended(&mut self) -> Result<Answer, Error> {
        let lost = || Error::Defect("joined work ended without an outcome");
        let ended = self.answer.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_panicked| Error::Defect("a background task failed"))?;
        ended
            .as_ref()
            .map(|(answer, _)| answer.clone())
            .ok_or_else(lost)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.0.fetch_sub(1, Ordering::SeqCst);
    }
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
        let waits = |work: &Work| work.is_running() && !work.stored.load(Ordering::SeqCst);
        !(key.promises && running.get(key).is_some_and(waits))
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

/// What a caller's token is told apart by. A caller of whom nothing is known is nobody but this
/// request's.
pub(super) fn token_of(request: &Request) -> [&str; 3] {
    let accessor = request.client_token_accessor.expose().as_str();
    let token = request.client_token.expose().as_str();
    let unknown = accessor.is_empty() && token.is_empty() && request.entity_id.is_empty();
    let id = if unknown { request.id.as_str() } else { "" };
    [accessor, token, id]
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
            promises: false,
        })
    }

    /// Runs `work` to its end on a tracked task and waits for it at most the mount's `wait`; a
    /// request with the same key joins it instead of starting it again.
    ///
    /// # Errors
    ///
    /// [`Error::InProgress`] if it goes on, [`Error::Busy`] if too many wait already, the work's
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
                    let render = render.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let render = render.ok_or(Error::ShownToAnother)?;
                    if let Rendered::Shown(response) = render(record.as_deref())? {
                        return Ok(Some(*response));
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
            Some(work) if !(is_full && work.is_running()) => return Ok(Part::Own(work.wait())),
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
            stored: Arc::default(),
        };
        let stored = Arc::clone(&work.stored);
        let waiting = work.wait();
        running.insert(key.clone(), work);
        drop(running);
        let work = begin(waiting.waiters.clone());
        let clock = Arc::clone(&self.parts.clock);
        self.tasks.spawn(async move {
            let answer = match STORED.scope(stored, work).await {
                Ok(Ended::ForAll(response)) => Answer::ForAll(Box::new(Ok(*response))),
                Ok(Ended::ForOne(render)) => Answer::ForOne(Arc::new(Mutex::new(Some(render)))),
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
