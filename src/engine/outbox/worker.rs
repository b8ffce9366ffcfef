//! The worker of one channel: tells what is due, one after the other, and notes how that ended.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::believe::Belief;
use super::entry::{Delivery, Entry};
use super::index::{SHORTEST_REST, Unit};
use super::state::CLOSED;
use super::{ChannelState, rest};
use crate::engine::Engine;
use crate::engine::channels::Channel;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::storage;
use crate::logical::Mount;
use crate::notify::{self, Scope};

/// What could not be delivered for so long is given up.
const PATIENCE: TimeDelta = TimeDelta::hours(24);
/// How often a message is refused for good before it is given up.
const MOST_REFUSALS: u32 = 5;

/// A host that asks for so much patience at most is waited for, instead of for the next tick.
const WORTH_WAITING: Duration = Duration::from_secs(60);
/// So many times in a row, without anything delivered in between.
const MOST_WAITS: u32 = 3;

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    error: Option<notify::Error>,
    code: &'static str,
    pub(super) scope: Scope,
    /// Whether the message was refused for good.
    pub(super) refused: bool,
    /// Whether a mail server says that a repeat would be answered the same.
    pub(super) for_good: bool,
    retry_after: Option<Duration>,
}

impl From<notify::Error> for Failure {
    fn from(error: notify::Error) -> Self {
        let for_good = error.is_permanent();
        Self {
            error: Some(error),
            code: error.code(),
            scope: error.scope(),
            refused: matches!(error, notify::Error::Rejected)
                || (for_good && error.scope() == Scope::Message),
            for_good,
            retry_after: error.retry_after(),
        }
    }
}

impl Failure {
    /// An address was refused for good before.
    pub(super) const REFUSED: Self = Self {
        error: None,
        code: notify::Error::Rejected.code(),
        scope: Scope::Message,
        refused: true,
        for_good: true,
        retry_after: None,
    };

    /// What this process met before it could ask the channel's host.
    const fn before_asking(code: &'static str, scope: Scope) -> Self {
        Self {
            error: None,
            code,
            scope,
            refused: false,
            for_good: false,
            retry_after: None,
        }
    }

    /// Returns how long the channel rests at least.
    const fn rest(&self) -> Option<Duration> {
        if self.for_good {
            Some(CLOSED)
        } else {
            self.retry_after
        }
    }

    /// Returns how long to wait for the host before it is asked again without a tick.
    fn wait(&self, waits: u32) -> Option<Duration> {
        let asked = self.retry_after?.max(SHORTEST_REST);
        (asked <= WORTH_WAITING && waits < MOST_WAITS).then_some(asked)
    }

    /// What happened, in words; `None` if the code says it all.
    fn words(&self) -> Option<String> {
        self.error.map(notify::Error::explain)
    }
}

/// How one unit ended.
#[derive(Debug)]
enum Told {
    Delivered,
    /// There was nothing to tell, or it cannot be judged yet.
    Nothing,
    /// The channel was written meanwhile: the rest is another worker's.
    Outdated,
    /// The channel's host takes it after so long, it says.
    Later(Duration),
    Failed(Failure),
}

/// The channel as it was when the worker began.
struct Peer {
    usable: Result<Arc<dyn notify::Channel>, Failure>,
    config: Arc<MountConfig>,
}

/// What a worker has to tell, in order. Asked of the index anew whenever that has got something: what
/// is critical overtakes what waits.
#[derive(Default)]
struct Queue {
    /// What was taken, and when: by the index's count of news.
    taken: Option<(u64, VecDeque<Unit>)>,
    /// What this worker has had its turn with.
    done: HashSet<(String, Option<String>)>,
}

impl Queue {
    fn next(&mut self, work: &AtWork) -> Option<Unit> {
        let outbox = &work.engine.outbox;
        let news = outbox.news();
        let known = self.taken.as_ref().is_some_and(|(then, _)| *then == news);
        if !known {
            let due = outbox.due(&work.channel, work.engine.clock().now());
            let left = due
                .into_iter()
                .filter(|unit| !self.done.contains(&key(unit)));
            self.taken = Some((news, left.collect()));
        }
        let unit = self.taken.as_mut()?.1.pop_front()?;
        self.done.insert(key(&unit));
        Some(unit)
    }

    /// What could not have its turn yet is to have it, after what is more urgent by then.
    fn put_back(&mut self, unit: &Unit) {
        self.done.remove(&key(unit));
        self.taken = None;
    }

    /// What is left to tell.
    fn rest(&mut self, work: &AtWork) -> Vec<Unit> {
        std::iter::from_fn(|| self.next(work)).collect()
    }
}

fn key(unit: &Unit) -> (String, Option<String>) {
    (unit.event_id.clone(), unit.to.clone())
}

/// A worker under way; however it ends, the channel is free again.
pub(super) struct AtWork {
    pub(super) engine: Arc<Engine>,
    pub(super) channel: Channel,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.engine.outbox.release(&self.channel.name);
    }
}

impl Engine {
    /// Starts the worker of a channel that has something due.
    pub(super) fn begin_channel(self: &Arc<Self>, mount: &Mount, channel: Channel) {
        let work = AtWork {
            engine: Arc::clone(self),
            channel,
        };
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let name = &work.channel.name;
            if let Err(error) = work.run(&mount).await {
                tracing::warn!(channel = name, %error, "the channel waits for the next tick");
            }
        });
    }

    /// Makes a stored channel usable, its secret opened.
    pub(in crate::engine) async fn connect_channel(
        &self,
        mount: &Mount,
        channel: &Channel,
    ) -> Result<Arc<dyn notify::Channel>, Error> {
        let config = self.config(mount).await?;
        let policy = self.network_policy(mount, &config).await?;
        let keyring = self.keyring(mount).await?;
        let usable = channel.usable(&keyring, &policy)?;
        (self.parts.notifier)(&usable, &policy)
            .map_err(|error| Error::invalid("invalid_channel", format!("{error}.")))
    }
}

impl AtWork {
    async fn run(&self, mount: &Mount) -> Result<(), Error> {
        let engine = &self.engine;
        let mut state = engine.channel_state(mount, &self.channel).await?;
        let name = &self.channel.name;
        // The process that was refused may have been another one.
        if let Some(left) = state.closed_for(&self.channel, engine.clock().now()) {
            engine.outbox.rest(name, Some(left), engine.clock());
            return Ok(());
        }
        let before = state.clone();
        let outcome = self.tell_all(mount, &mut state).await;
        if state != before {
            engine.store_channel_state(mount, name, &state).await?;
        }
        outcome
    }

    async fn connect(&self, mount: &Mount) -> Result<Peer, Error> {
        let config = self.engine.config(mount).await?;
        let usable = match self.engine.connect_channel(mount, &self.channel).await {
            Ok(usable) => Ok(usable),
            Err(error @ (Error::Invalid { .. } | Error::Unopenable(_))) => {
                Err(Failure::before_asking(error.code(), Scope::Channel))
            }
            Err(error) => return Err(error),
        };
        Ok(Peer { usable, config })
    }

    /// Reports whether the worker may go on: nobody has written the channel or the mount's settings
    /// since it began, and this node still delivers. Asks storage only after such a write.
    async fn goes_on(&self, mount: &Mount, peer: &Peer) -> Result<bool, Error> {
        let engine = &self.engine;
        if engine.tasks.is_stopping() || !engine.role.is_active() {
            return Ok(false);
        }
        let channels = engine.channels(mount).await?;
        let same = channels.find(&self.channel.name) == Some(&self.channel);
        Ok(same && engine.config(mount).await? == peer.config)
    }

    async fn tell_all(&self, mount: &Mount, state: &mut ChannelState) -> Result<(), Error> {
        let (engine, name) = (&self.engine, self.channel.name.as_str());
        let peer = self.connect(mount).await?;
        let mut queue = Queue::default();
        let mut waits = 0;
        while let Some(unit) = queue.next(self) {
            if !self.goes_on(mount, &peer).await? {
                return Ok(());
            }
            let now = engine.clock().now();
            match self.try_to_tell(mount, &unit, &peer, state, waits).await? {
                Told::Nothing => {}
                Told::Outdated => return Ok(()),
                Told::Delivered => {
                    waits = 0;
                    engine.outbox.works(name);
                    let mended = state.last_error.is_some();
                    state.note_delivered(now);
                    if mended {
                        // What is left may take hours, in which nobody shall be alarmed.
                        engine.store_channel_state(mount, name, state).await?;
                    }
                }
                Told::Later(rest) => {
                    waits += 1;
                    queue.put_back(&unit);
                    tokio::select! {
                        () = tokio::time::sleep(rest) => {}
                        () = self.stopped() => return Ok(()),
                    }
                }
                Told::Failed(failure) => {
                    let of_the_channel = failure.scope == Scope::Channel;
                    state.note_failed((failure.code, failure.words()), of_the_channel, now);
                    tracing::warn!(channel = name, code = failure.code, "not delivered");
                    if of_the_channel {
                        state.refused_at = failure.for_good.then_some(now);
                        engine.outbox.rest(name, failure.rest(), engine.clock());
                        let left = queue.rest(self);
                        return self.bury(mount, left, (&peer, failure), state).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until the process is to stop.
    async fn stopped(&self) {
        self.engine.tasks.cancelled().cancelled().await;
    }

    /// Tells one message. What cannot be judged, because what is stored of it or of its tenant is
    /// damaged, is tried again like a message that was refused, and stands in nobody's way; after
    /// any other error, which the next message would meet as well, it comes last.
    async fn try_to_tell(
        &self,
        mount: &Mount,
        unit: &Unit,
        peer: &Peer,
        state: &ChannelState,
        waits: u32,
    ) -> Result<Told, Error> {
        let name = self.channel.name.as_str();
        let outcome = match self.tell(mount, unit, peer, state, waits).await {
            Err(error @ Error::Entry { .. }) => {
                let event_id = unit.event_id.as_str();
                tracing::warn!(channel = name, event_id, %error, "not told of for now");
                let failure = Failure::before_asking(error.code(), Scope::Message);
                let noted = self.note_failed(mount, unit, failure, state).await;
                noted.map(|()| Told::Nothing)
            }
            outcome => outcome,
        };
        if outcome.is_err() {
            let outbox = &self.engine.outbox;
            outbox.postpone(&unit.event_id, name, self.engine.clock());
        }
        outcome
    }

    /// Tells one message, unless it is not to be told.
    async fn tell(
        &self,
        mount: &Mount,
        unit: &Unit,
        peer: &Peer,
        state: &ChannelState,
        waits: u32,
    ) -> Result<Told, Error> {
        let engine = &self.engine;
        let to = unit.to.as_deref();
        if unit.told {
            self.note_delivered(mount, unit).await?;
            return Ok(Told::Nothing);
        }
        let Some(entry) = self.read(mount, unit).await? else {
            return Ok(Told::Nothing);
        };
        if engine.believe(mount, &entry).await? != Belief::True {
            return Ok(Told::Nothing);
        }
        engine.outbox.note(&entry, true);
        let name = self.channel.name.as_str();
        let outcome = match &peer.usable {
            Ok(usable) => self.deliver(usable.as_ref(), &entry, to).await,
            Err(failure) => Err(*failure),
        };
        match outcome {
            Ok(()) => {
                engine.outbox.note_told(&unit.event_id, name, to);
                self.note_delivered(mount, unit).await?;
                Ok(Told::Delivered)
            }
            // A failure of what the channel was says nothing of what it is.
            Err(_) if !self.goes_on(mount, peer).await? => Ok(Told::Outdated),
            Err(failure) => match failure.wait(waits) {
                Some(rest) => Ok(Told::Later(rest)),
                None => {
                    self.note_failed(mount, unit, failure, state).await?;
                    Ok(Told::Failed(failure))
                }
            },
        }
    }

    /// Reads the entry of a unit, if it still has something to tell.
    async fn read(&self, mount: &Mount, unit: &Unit) -> Result<Option<Entry>, Error> {
        let key = storage::outbox_key(&unit.event_id);
        let Some(found) = mount.storage.get(&key).await? else {
            self.engine.outbox.remove(&unit.event_id);
            return Ok(None);
        };
        let entry = match Entry::decode(&key, &found.value) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!(%error, "a notification cannot be read");
                self.engine.outbox.remove(&unit.event_id);
                return Ok(None);
            }
        };
        let to = unit.to.as_deref();
        let mut deliveries = entry.deliveries.iter();
        let open = deliveries.any(|it| it.is_for(&self.channel, to) && it.delivered_at.is_none());
        if !open {
            self.engine.outbox.note(&entry, false);
        }
        Ok(open.then_some(entry))
    }

    async fn note_delivered(&self, mount: &Mount, unit: &Unit) -> Result<(), Error> {
        let now = self.engine.clock().now();
        self.change(mount, unit, |delivery, _| delivery.delivered_at = Some(now))
            .await
    }

    async fn note_failed(
        &self,
        mount: &Mount,
        unit: &Unit,
        failure: Failure,
        state: &ChannelState,
    ) -> Result<(), Error> {
        let now = self.engine.clock().now();
        let trusted = self.engine.trusted();
        let channel_since = state
            .failing_since
            .filter(|_| failure.scope == Scope::Channel);
        let written_at = self.channel.written_at;
        self.change(mount, unit, |delivery, created_at| {
            // Somebody wrote the channel since it was given up: it begins anew.
            if delivery.dead_since.is_some_and(|at| at < written_at) {
                delivery.dead_since = None;
                delivery.failing_since = None;
                delivery.refusals = 0;
                delivery.attempts = 0;
                delivery.refused.clear();
            }
            delivery.attempts = delivery.attempts.saturating_add(1);
            delivery.refusals += u32::from(failure.refused);
            delivery.last_error = Some(failure.code.to_owned());
            let own_since = *delivery.failing_since.get_or_insert(now);
            let since = channel_since.map_or(own_since, |since| since.min(own_since));
            let since = since.max(created_at).max(written_at);
            let late = trusted.is_some_and(|trusted| trusted.is_past(since, PATIENCE));
            let refused = failure.for_good && failure.scope == Scope::Message;
            if late || refused || delivery.refusals >= MOST_REFUSALS {
                delivery.dead_since = Some(now);
            }
            let rest = rest(&unit.event_id, delivery.attempts)
                .max(failure.retry_after.unwrap_or_default());
            delivery.next_attempt = now + rest;
        })
        .await
    }

    /// Gives up what waited for as long as the channel failed, without asking it for each.
    async fn bury(
        &self,
        mount: &Mount,
        units: Vec<Unit>,
        (peer, failure): (&Peer, Failure),
        state: &ChannelState,
    ) -> Result<(), Error> {
        let Some(trusted) = self.engine.trusted() else {
            return Ok(());
        };
        let failing = |at: DateTime<Utc>| trusted.is_past(at, PATIENCE);
        if !state.failing_since.is_some_and(failing) || !failing(self.channel.written_at) {
            return Ok(());
        }
        for unit in units {
            if !self.goes_on(mount, peer).await? {
                return Ok(());
            }
            let Some(entry) = self.read(mount, &unit).await? else {
                continue;
            };
            if failing(entry.created_at) && !unit.told {
                self.note_failed(mount, &unit, failure, state).await?;
            }
        }
        Ok(())
    }

    /// Changes what is stored of this unit; the closure is given when its entry was made, too.
    async fn change(
        &self,
        mount: &Mount,
        unit: &Unit,
        change: impl FnOnce(&mut Delivery, DateTime<Utc>) + Send,
    ) -> Result<(), Error> {
        let (channel, to) = (&self.channel, unit.to.as_deref());
        self.engine
            .change_entry(mount, &unit.event_id, |entry| {
                let created_at = entry.created_at;
                let mut deliveries = entry.deliveries.iter_mut();
                if let Some(delivery) = deliveries.find(|it| it.is_for(channel, to)) {
                    change(delivery, created_at);
                    if to.is_none() {
                        let settled = self.engine.outbox.settled(&unit.event_id, &channel.name);
                        delivery.add_settled(settled);
                    }
                }
            })
            .await
    }
}
