//! From a stored event to the host's audit devices, at least once.
//!
//! ```text
//! undelivered/<log>, journal/… --Put--> the record with its new events
//! the emitter --request--> the host --audited--> events/emit/<log>/<seq> --answer--> the emitter
//! answer --Put--> trail/<log>/<seq>, delivered --Delete--> undelivered/<log>
//! ```
//!
//! What must stay true:
//!
//! - The host writes what `events/emit` answers, and that is what storage holds: nobody can make
//!   the devices record what did not happen. An answer acknowledges by the receipt that this process
//!   gave out with it, or that of a flush: knowing an event is not enough, and whoever else calls
//!   `events/emit` adds a line and changes nothing.
//! - An answer is an answer only after a device took it. What dies between the answer and the Put
//!   of the acknowledgement is told again, with the same `event_id`.
//! - A log (a tenant's, or the mount's) has its pointer in storage as long as it may hold something
//!   undelivered: written before the record, removed under the log's lock.
//! - The emitter is a task of its own. No request and no tick waits for it, because the host holds
//!   its state lock while it waits for them, and a pending step-down would stop the emitter's own
//!   requests. It asks whether this node is still the active one, and ends with the mount.
//! - One event after the other: within a log by number, logs in the order in which they came. What
//!   the host refuses ten times is parked, and keeps neither its log nor others from going on.

mod acknowledge;
mod announce;
mod collect;
mod index;
mod logs;
mod open_receipts;
mod progress;
mod receipt;
mod retention;
mod stalled;
mod way;

pub(super) use index::{Delivery, Emission, ExemptKeys, Waiting};
pub(super) use logs::{Found, Log};
pub(super) use receipt::{MOST_BYTES as MOST_RECEIPT_BYTES, Receipt};
pub(super) use retention::list_days;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Engine;
use super::error::Error;
use super::storage::{self, UNDELIVERED};
use crate::audit::Event;
use crate::host_api::{self, HostApi, Taken};
use crate::logical::{Mount, StorageEntry};
use crate::network::Fault;
use index::Way;
use storage::TrailEntry;

/// A host that takes longer for one event waits for something: a device that hangs costs it 10 to 20
/// seconds, all that is sound some milliseconds.
const SLOW: Duration = Duration::from_secs(5);
/// How many names are listed at once.
const PAGE: usize = 1_000;
/// Of so many logs it is found out at the start since when their events wait.
const SAMPLE: usize = 100;
/// After so many refusals an event is parked.
const MOST_REFUSALS: u32 = 10;
/// How long a log rests whose entries cannot be read.
const UNREADABLE: Duration = Duration::from_secs(600);
/// How long a log rests when storage failed.
const UNAVAILABLE: Duration = Duration::from_secs(30);
/// How long a log rests of which an older state was read than is stored.
const OUTDATED: Duration = Duration::from_secs(1);
/// The emitter waits so long by itself; for longer rests the next tick wakes it.
const OWN_REST: Duration = Duration::from_secs(10);
/// After so many failures a refused login is repeated after [`LOCKOUT`] only. Reading the mount's
/// tuning may have been one more.
const FREE_LOGINS: u32 = 1;
/// Longer than the host counts refused logins. At the fifth within that time it locks the role,
/// and then refuses a good secret as well. Source: Vault's and `OpenBao`'s "User lockout", 5 and
/// 15 minutes by default; seen with an `AppRole` in `OpenBao` 2.7.2.
const LOCKOUT: Duration = Duration::from_secs(16 * 60);

/// Why the emitter does not go on with a log.
#[derive(Debug)]
enum Stop {
    /// The host could not be told of anything.
    Host(host_api::Error),
    /// The host did not take this one event.
    Event(Box<Event>, host_api::Error),
    /// This process is no longer to deliver.
    Ending,
    /// The engine's own storage.
    Own(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

/// The way that a run delivers by, as long as nobody wrote another.
struct Current<'a> {
    api: &'a dyn HostApi,
    current: &'a CancellationToken,
}

/// A run under way; however it ends, another can begin.
struct Running(Arc<Engine>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.emission.state().running = false;
    }
}

impl Engine {
    /// Goes on delivering in the background if there is anything to deliver and a way to do so.
    /// Waits for nothing and asks nobody.
    pub(super) fn begin_emission(self: &Arc<Self>, mount: &Mount) {
        self.emission.take_up_left();
        self.go_on_emitting(mount);
    }

    fn go_on_emitting(self: &Arc<Self>, mount: &Mount) {
        if self.tasks.is_stopping() || !self.role.is_active() {
            return;
        }
        let Some(current) = self.emission.begin(self.clock()) else {
            return;
        };
        let running = Running(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = Arc::clone(&running.0);
            let emitted = engine.emit(&mount, &current).await;
            drop(running);
            if let Err(error) = emitted {
                tracing::warn!(%error, "events for the audit devices wait");
                engine
                    .emission
                    .note_failure((error.code(), None), None, engine.clock());
                return;
            }
            // What was stored, or written anew, while this run came to its end found it running.
            if current.is_cancelled() {
                engine.go_on_emitting(&mount);
            } else {
                engine.wake_emission(&mount);
            }
        });
    }

    /// Like [`Engine::begin_emission`], right after something was stored: only where the way to the
    /// devices is known, so that a mount without one asks storage nothing for it.
    pub(super) fn wake_emission(&self, mount: &Mount) {
        let known = matches!(self.emission.state().way, Way::Loopback(_));
        if let Some(engine) = self.me.upgrade().filter(|_| known) {
            engine.go_on_emitting(mount);
        }
    }

    /// One run. It ends with the mount, and when `current` says that another way was written.
    async fn emit(
        self: &Arc<Self>,
        mount: &Mount,
        current: &CancellationToken,
    ) -> Result<(), Error> {
        self.read_undelivered(mount).await?;
        let Some(api) = self.way(mount, current).await? else {
            self.emission.note_no_way();
            return Ok(());
        };
        let way = Current {
            api: &*api,
            current,
        };
        self.read_tuning(&way).await;
        while let Some(log) = self.next_log(current).await {
            match self.emit_log(mount, &way, &log).await {
                Ok(()) => self.finish_log(mount, &log).await,
                Err(Stop::Ending) => {
                    self.emission.enqueue(&log);
                    return Ok(());
                }
                Err(Stop::Own(error)) => self.postpone_unreadable(&log, &error),
                Err(Stop::Event(event, error)) => {
                    self.refused(mount, &log, *event, error).await;
                }
                Err(Stop::Host(error)) => {
                    if !self.rest_after(&log, error, current).await {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets a log rest whose events the engine's own storage keeps from being delivered.
    fn postpone_unreadable(&self, log: &str, error: &Error) {
        tracing::warn!(log, %error, "its events wait");
        let rest = if matches!(error, Error::Entry { .. }) {
            let (code, now) = (error.code(), self.clock().now());
            self.emission.note_trouble(log, code, now);
            UNREADABLE
        } else {
            UNAVAILABLE
        };
        self.emission.postpone(log, rest, self.clock());
    }

    /// Returns the log whose turn it is, after a short sleep if the next one rests.
    async fn next_log(&self, current: &CancellationToken) -> Option<String> {
        loop {
            if current.is_cancelled() || self.tasks.is_stopping() {
                return None;
            }
            if let Some(log) = self.emission.next_log(self.clock()) {
                return Some(log);
            }
            let rest = self.emission.next_rest(self.clock())?;
            if rest > OWN_REST {
                return None;
            }
            tokio::select! {
                biased;
                () = self.interrupted(current) => return None,
                () = self.emission.stored.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Returns when a run is to end.
    async fn interrupted(&self, current: &CancellationToken) {
        let cancelled = self.tasks.cancelled();
        tokio::select! {
            biased;
            () = current.cancelled() => {}
            () = cancelled.cancelled() => {}
        }
    }

    /// Delivers what a log has.
    async fn emit_log(
        self: &Arc<Self>,
        mount: &Mount,
        way: &Current<'_>,
        name: &str,
    ) -> Result<(), Stop> {
        let Some(log) = self.read_log(mount, name).await? else {
            // There is no such log: the pointer was written for a record that was never stored.
            self.emission.note_read(name, (0, 0));
            return Ok(());
        };
        for seq in self.emission.note_log(name, log.events()) {
            let found = if self.emission.is_fresh(name, seq) {
                log.events().find(seq).cloned().map(Found::fresh)
            } else {
                None
            };
            let found = match found {
                Some(found) => Some(found),
                None => self.find_event(mount, &log, seq).await?,
            };
            match found {
                Some(found) if self.is_parked(&found) => {
                    self.emission.note_parked(name, seq);
                }
                Some(found) if !found.delivered => {
                    let following = log.events().find(seq + 1).map(|next| next.timestamp);
                    self.emission.note_oldest(name, found.event.timestamp);
                    self.emit_event(mount, way, &found.event).await?;
                    self.emission.note_delivered(name, seq, following);
                }
                Some(_) => self.emission.note_delivered(name, seq, None),
                None => {
                    tracing::error!(log = name, seq, "an event is not stored any more");
                    self.emission.note_delivered(name, seq, None);
                }
            }
        }
        Ok(())
    }

    /// Reports whether an event was refused so often that it is not tried by itself.
    fn is_parked(&self, found: &Found) -> bool {
        let refused = !found.delivered && found.refusals >= MOST_REFUSALS;
        refused && !self.emission.state().tries_anew
    }

    /// Tells the host of one event, and stores that a device took it.
    async fn emit_event(
        &self,
        mount: &Mount,
        way: &Current<'_>,
        event: &Event,
    ) -> Result<(), Stop> {
        if self.tasks.is_stopping() || !self.role.is_active() {
            return Err(Stop::Ending);
        }
        let mount_point = self.emission.state().mount_point.clone();
        let asked_at = self.clock().monotonic();
        let told = tokio::select! {
            biased;
            told = way.api.emit(&mount_point, &event.tenant_id, event.seq) => told,
            () = self.interrupted(way.current) => return Err(Stop::Ending),
        };
        self.note_pace(&told, asked_at);
        match told {
            Ok(taken) if self.is_passage(event, &taken) => {}
            Ok(_) => return Err(Stop::Host(host_api::Error::Unintelligible)),
            // What is refused, or failed at, alone must not keep all others out; what everything
            // meets is no event's fault.
            Err(error @ (host_api::Error::Refused | host_api::Error::Failing))
                if self.emission.failed_alone(&event.tenant_id) =>
            {
                return Err(Stop::Event(Box::new(event.clone()), error));
            }
            Err(error) => return Err(Stop::Host(error)),
        }
        if !way.current.is_cancelled() {
            self.emission.note_works(self.clock().now());
        }
        Ok(self.acknowledge(mount, event).await?)
    }

    /// Notes how long the host took; a connection that did not come about says nothing of it.
    fn note_pace(&self, told: &Result<Taken, host_api::Error>, asked_at: Duration) {
        let took = self.clock().monotonic().saturating_sub(asked_at);
        let slow = match told {
            Err(host_api::Error::Unreachable(Fault::Timeout)) => true,
            Err(host_api::Error::Unreachable(_)) => return,
            Ok(_) | Err(_) => took >= SLOW,
        };
        self.emission.note_pace(slow, self.clock().now());
    }

    /// Reports whether an answer came through the host, and so through a device: it is about this
    /// event and carries what this process gave out for it within the last minute. What names the
    /// event can be read by many, so a server of somebody's own could answer that.
    fn is_passage(&self, event: &Event, taken: &Taken) -> bool {
        let log = (event.tenant_id.as_str(), event.seq);
        let given = self.emission.take_back(log, &taken.receipt, self.clock());
        given && taken.event_id == event.event_id && taken.hash == event.hash
    }

    /// Rests after the host could not be told; reports whether to go on.
    async fn rest_after(
        &self,
        log: &str,
        error: host_api::Error,
        current: &CancellationToken,
    ) -> bool {
        let asked = match error {
            host_api::Error::Limited { retry_after } => retry_after,
            host_api::Error::LoginRefused if self.emission.failures() >= FREE_LOGINS => {
                Some(LOCKOUT)
            }
            _ => None,
        };
        let rest =
            self.emission
                .note_failure((error.code(), error.tls_fault()), asked, self.clock());
        tracing::warn!(code = error.code(), "the audit devices do not take events");
        self.emission.postpone(log, Duration::ZERO, self.clock());
        if rest > OWN_REST {
            return false;
        }
        tokio::select! {
            biased;
            () = self.interrupted(current) => false,
            () = tokio::time::sleep(rest) => true,
        }
    }

    /// Notes that the host does not take one event.
    async fn refused(&self, mount: &Mount, log: &str, event: Event, error: host_api::Error) {
        let (seq, event_id) = (event.seq, event.event_id.clone());
        let clock = self.clock();
        let refusals = self
            .emission
            .note_refusal(log, (seq, 0), MOST_REFUSALS, clock);
        tracing::warn!(
            log,
            seq,
            event_id,
            refusals,
            code = error.code(),
            "the server does not take this event"
        );
        if refusals >= MOST_REFUSALS
            && let Err(error) = self.park(mount, event, refusals).await
        {
            // Then it is tried again after the next start.
            tracing::warn!(log, seq, %error, "not noted as refused");
        }
        self.emission.enqueue(log);
    }

    /// Reads once which logs have something undelivered.
    async fn read_undelivered(&self, mount: &Mount) -> Result<(), Error> {
        let _guard = self.emission.listing.lock().await;
        let current = {
            let state = self.emission.state();
            if state.read {
                return Ok(());
            }
            state.role.clone()
        };
        let mut after = String::new();
        loop {
            let page = mount.storage.list_page(UNDELIVERED, &after, PAGE).await?;
            for log in &page {
                self.emission.note_pointer(log);
            }
            match page.into_iter().next_back() {
                Some(last) => after = last,
                None => break,
            }
        }
        self.read_oldest(mount).await;
        let mut state = self.emission.state();
        // Another role since it began: what was listed then was forgotten.
        state.read = !current.is_cancelled();
        Ok(())
    }

    /// Finds out since when events wait, of some logs: who restarts must not look young.
    async fn read_oldest(&self, mount: &Mount) {
        for name in self.emission.logs().into_iter().take(SAMPLE) {
            // What cannot be read is met again by whoever delivers.
            let Ok(Some(log)) = self.read_log(mount, &name).await else {
                continue;
            };
            let first = log.events().delivered_through() + 1;
            let kept = log.events().events().iter().find(|it| it.seq >= first);
            if let Some(event) = kept {
                self.emission.note_oldest(&name, event.timestamp);
            }
        }
    }

    /// Notes in storage that the host refused an event.
    async fn park(&self, mount: &Mount, event: Event, refusals: u32) -> Result<(), Error> {
        let _guard = self.emission.trail.lock(&event.tenant_id).await;
        let key = storage::trail_key(&event.tenant_id, event.seq);
        if let Some(kept) = mount.storage.get(&key).await?
            && TrailEntry::decode(&key, &kept.value)?.delivered
        {
            // A collector acknowledged it meanwhile.
            return Ok(());
        }
        let bytes = storage::encode(&TrailEntry::refused(event, refusals))?;
        Ok(mount.storage.put(StorageEntry::new(key, bytes)).await?)
    }
}
