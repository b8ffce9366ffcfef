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
//!   the devices record what did not happen. Only the emitter's own request, or the receipt of a
//!   flush, acknowledges: whoever else calls `events/emit` adds a line and changes nothing.
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
mod receipt;
mod retention;
mod stalled;

pub(super) use index::{Delivery, Emission, ExemptKeys, Waiting};
pub(super) use logs::{Found, Log};
pub(super) use receipt::{MOST_BYTES as MOST_RECEIPT_BYTES, Receipt};
pub(super) use retention::list_days;

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::audit_access::AuditAccessMode;
use super::error::Error;
use super::storage::{self, UNDELIVERED};
use crate::audit::{EXEMPT_RESPONSE_KEYS, Event};
use crate::host_api::{self, HostApi};
use crate::logical::{Mount, StorageEntry};
use index::Way;
use storage::TrailEntry;

/// How many names are listed at once.
const PAGE: usize = 1_000;
/// After so many refusals an event is parked.
const MOST_REFUSALS: u32 = 10;
/// How long a log rests whose entries cannot be read.
const UNREADABLE: Duration = Duration::from_secs(600);
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
/// How often the mount's tuning is read.
const TUNING: Duration = Duration::from_secs(3600);

/// Why the emitter does not go on with a log.
#[derive(Debug)]
enum Stop {
    /// The host could not be told of anything.
    Host(host_api::Error),
    /// The host did not take this one event.
    Event(Event, host_api::Error),
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
        if self.tasks.is_stopping() || !self.emission.may_work(self.clock()) {
            return;
        }
        self.emission.state().running = true;
        let running = Running(Arc::clone(self));
        let mount = mount.clone();
        self.tasks.spawn(async move {
            let engine = Arc::clone(&running.0);
            let emitted = engine.emit(&mount).await;
            drop(running);
            match emitted {
                // What was stored while this run came to its end found it still running, and so
                // did who wrote another way.
                Ok(()) if engine.role.is_active() => engine.go_on_emitting(&mount),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "events for the audit devices wait for the next tick");
                }
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

    async fn emit(self: &Arc<Self>, mount: &Mount) -> Result<(), Error> {
        self.read_undelivered(mount).await?;
        let Some(mut api) = self.way(mount).await? else {
            return Ok(());
        };
        self.read_tuning(&*api).await;
        while let Some(log) = self.next_log().await {
            match self.emit_log(mount, &*api, &log).await {
                Ok(()) => self.finish_log(mount, &log).await,
                Err(Stop::Ending) => return Ok(()),
                Err(Stop::Own(error)) => {
                    tracing::warn!(log, %error, "its events wait");
                    self.emission.postpone(&log, UNREADABLE, self.clock());
                }
                Err(Stop::Event(event, error)) => {
                    self.refused(mount, &log, event, error).await;
                }
                Err(Stop::Host(_)) if !self.emission.goes_by(&api) => {
                    // Another way was written meanwhile, of which this says nothing.
                    self.emission.postpone(&log, Duration::ZERO, self.clock());
                    let Some(present) = self.way(mount).await? else {
                        return Ok(());
                    };
                    api = present;
                }
                Err(Stop::Host(error)) => {
                    if !self.rest_after(&log, error).await {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the log whose turn it is; waits for one that rests because it was just written.
    async fn next_log(&self) -> Option<String> {
        loop {
            if let Some(log) = self.emission.next_log(self.clock()) {
                return Some(log);
            }
            let rest = self.emission.shortest_rest(self.clock());
            let rest = rest.filter(|rest| *rest <= OUTDATED)?;
            let cancelled = self.tasks.cancelled();
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = cancelled.cancelled() => return None,
            }
        }
    }

    /// Delivers what a log has.
    async fn emit_log(
        self: &Arc<Self>,
        mount: &Mount,
        api: &dyn HostApi,
        name: &str,
    ) -> Result<(), Stop> {
        let Some(log) = self.read_log(mount, name).await? else {
            // There is no such log: the pointer was written for a record that was never stored.
            self.emission.note_read(name, (0, 0));
            return Ok(());
        };
        let (through, last) = (log.events().delivered_through(), log.events().seq());
        let first = self.emission.note_read(name, (through, last));
        for seq in first..=last {
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
                    self.emit_event(mount, api, &found.event).await?;
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
        api: &dyn HostApi,
        event: &Event,
    ) -> Result<(), Stop> {
        if self.tasks.is_stopping() || !self.role.is_active() {
            return Err(Stop::Ending);
        }
        let mount_point = self.emission.state().mount_point.clone();
        let cancelled = self.tasks.cancelled();
        let told = tokio::select! {
            told = api.emit(&mount_point, &event.tenant_id, event.seq) => told,
            () = cancelled.cancelled() => return Err(Stop::Ending),
        };
        match told {
            Ok(taken) if taken.event_id == event.event_id && taken.hash == event.hash => {}
            Ok(_) => return Err(Stop::Host(host_api::Error::Unintelligible)),
            Err(error @ host_api::Error::Refused) => return Err(Stop::Event(event.clone(), error)),
            // A device that fails at one line only must not keep all others out.
            Err(error @ host_api::Error::Failing)
                if self.emission.failed_alone(&event.tenant_id) =>
            {
                return Err(Stop::Event(event.clone(), error));
            }
            Err(error) => return Err(Stop::Host(error)),
        }
        self.emission.note_works(self.clock().now());
        Ok(self.acknowledge(mount, event).await?)
    }

    /// Rests after the host could not be told; reports whether to go on.
    async fn rest_after(&self, log: &str, error: host_api::Error) -> bool {
        let asked = match error {
            host_api::Error::Limited { retry_after } => retry_after,
            host_api::Error::LoginRefused if self.emission.failures() >= FREE_LOGINS => {
                Some(LOCKOUT)
            }
            _ => None,
        };
        let rest = self
            .emission
            .note_failure(error.code(), asked, self.clock());
        tracing::warn!(code = error.code(), "the audit devices do not take events");
        self.emission.postpone(log, Duration::ZERO, self.clock());
        if rest > OWN_REST {
            return false;
        }
        let cancelled = self.tasks.cancelled();
        tokio::select! {
            () = tokio::time::sleep(rest) => true,
            () = cancelled.cancelled() => false,
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
        if self.emission.state().read {
            return Ok(());
        }
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
        self.emission.state().read = true;
        Ok(())
    }

    /// Returns the way to the host's own API, if events are to go that way.
    async fn way(&self, mount: &Mount) -> Result<Option<Arc<dyn HostApi>>, Error> {
        if matches!(self.emission.state().way, Way::Unread) {
            let way = self.open_way(mount).await?;
            self.emission.state().way = way;
        }
        match &self.emission.state().way {
            Way::Loopback(api) => Ok(Some(Arc::clone(api))),
            Way::Unread | Way::Unset | Way::External => Ok(None),
        }
    }

    /// Makes the way that the settings name.
    async fn open_way(&self, mount: &Mount) -> Result<Way, Error> {
        let access = self.audit_access(mount).await?;
        let Some(access) = access.as_ref() else {
            return Ok(Way::Unset);
        };
        if access.mode() == AuditAccessMode::External {
            return Ok(Way::External);
        }
        let keyring = self.keyring(mount).await?;
        let api = (self.parts.host_api)(&access.open(&keyring)?, &self.parts.clock);
        api.map(Way::Loopback)
            .map_err(|_checked| Error::Defect("a stored way to the audit devices does not open"))
    }

    /// Looks now and then whether the mount shows the events' fields in clear.
    async fn read_tuning(&self, api: &dyn HostApi) {
        let now = self.clock().monotonic();
        let mount_point = {
            let mut state = self.emission.state();
            if state.tuning_at > now || state.mount_point.is_empty() {
                return;
            }
            state.tuning_at = now + TUNING;
            state.mount_point.clone()
        };
        let cancelled = self.tasks.cancelled();
        let keys = tokio::select! {
            keys = api.exempt_keys(&mount_point) => keys,
            () = cancelled.cancelled() => return,
        };
        let found = match keys {
            Ok(Some(exempt)) => {
                let missing: Vec<&'static str> = EXEMPT_RESPONSE_KEYS
                    .into_iter()
                    .filter(|key| !exempt.iter().any(|one| one == key))
                    .collect();
                if missing.is_empty() {
                    ExemptKeys::Complete
                } else {
                    ExemptKeys::Missing(missing)
                }
            }
            Ok(None) => ExemptKeys::Unknown,
            Err(error) => {
                // Delivering meets the same, and says so.
                tracing::debug!(code = error.code(), "the mount's tuning was not read");
                self.emission.state().tuning_at = Duration::ZERO;
                return;
            }
        };
        self.emission.state().exempt_keys = found;
    }

    /// Notes in storage that the host refused an event.
    async fn park(&self, mount: &Mount, event: Event, refusals: u32) -> Result<(), Error> {
        let _guard = self.emission.trail.lock(&event.tenant_id).await;
        let key = storage::trail_key(&event.tenant_id, event.seq);
        let bytes = storage::encode(&TrailEntry::refused(event, refusals))?;
        Ok(mount.storage.put(StorageEntry::new(key, bytes)).await?)
    }
}
