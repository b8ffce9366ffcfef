//! The mount's own events: what happened to settings and keyring, not to one tenant.

use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::Error;
use super::mount_change::State;
use super::outbox::Announced;
use super::storage::{self, MOUNT_LOG};
use crate::audit::{Actor, Event, EventLog, EventName, NewEvent, Outcome};
use crate::crypto::Keyring;
use crate::logical::{Mount, Request, StorageEntry};

const SCHEMA: u32 = 1;

/// The tenant name of mount events.
pub(super) const MOUNT: &str = "-";
/// The mount lock's name for the log.
pub(super) const LOCK: &str = "mountlog";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MountLog {
    schema: u32,
    lineage: String,
    log: EventLog,
    /// Changes that were begun and whose end is not told yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<OpenChange>,
}

/// A change that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenChange {
    /// The key of what is changed.
    pub(super) entry: String,
    /// What it held before: as long as it does, the change is not made.
    pub(super) before: State,
    /// How it was announced.
    pub(super) started: Event,
}

impl MountLog {
    /// Returns the latest events, oldest first.
    pub(super) fn events(&self) -> &[Event] {
        self.log.events()
    }

    /// Returns the numbered events and their chain.
    pub(super) const fn log(&self) -> &EventLog {
        &self.log
    }

    /// Returns the changes whose end is not told yet, oldest first.
    pub(super) fn open(&self) -> &[OpenChange] {
        &self.open
    }

    /// Reads the stored log.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(MOUNT_LOG, bytes, SCHEMA)?;
        let log: Self = storage::decode(MOUNT_LOG, bytes)?;
        storage::check_counts(MOUNT_LOG, &[log.log.seq()])?;
        Ok(log)
    }
}

impl Engine {
    /// Prepares the event of a change to the mount, as announced.
    pub(super) fn mount_event(
        &self,
        event: EventName,
        actor: Actor,
        request: &Request,
    ) -> NewEvent {
        let mut event = NewEvent::new(event, actor, self.clock().now());
        event.outcome = Outcome::Started;
        event.request_id = request.id.as_str().to_owned();
        event
    }

    /// Stores a mount event: once before the change and once after it, under the mount's lock,
    /// because the change lies in an entry of its own.
    pub(super) async fn announce_mount_event(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        event: &NewEvent,
    ) -> Result<Event, Error> {
        let _guard = self.mount_lock.lock(LOCK).await;
        let log = self.mount_log(mount).await?;
        self.append_to(mount, log, keyring, event, |_, _| {}).await
    }

    /// Stores the event of a change before it is made, and with it what the entry holds. Returns
    /// the event's identifier, by which [`Engine::end_change`] finds it.
    pub(super) async fn begin_change(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        event: &NewEvent,
        (entry, before): (&str, State),
    ) -> Result<String, Error> {
        let _guard = self.mount_lock.lock(LOCK).await;
        let log = self.mount_log(mount).await?;
        let open = |log: &mut MountLog, started: &Event| {
            log.open.push(OpenChange {
                entry: entry.to_owned(),
                before,
                started: started.clone(),
            });
        };
        let begun = self.append_to(mount, log, keyring, event, open).await;
        if begun.is_err() {
            // It may be stored all the same, and nothing is changed.
            self.open_changes.want();
        }
        Ok(begun?.event_id)
    }

    /// Stores the event of the change's end; the change is open until then.
    pub(super) async fn end_change(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        event: &NewEvent,
        begun: &str,
    ) -> Result<Event, Error> {
        let _guard = self.mount_lock.lock(LOCK).await;
        let log = self.mount_log(mount).await?;
        let close = |log: &mut MountLog, _: &Event| {
            log.open.retain(|it| it.started.event_id != begun);
        };
        self.append_to(mount, log, keyring, event, close).await
    }

    /// Like [`Engine::announce_mount_event`], but an event of the same name and request that is
    /// among the latest already is answered instead: whoever stored it died before he could say so.
    pub(super) async fn announce_mount_event_once(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        event: &NewEvent,
    ) -> Result<Event, Error> {
        let _guard = self.mount_lock.lock(LOCK).await;
        let log = self.mount_log(mount).await?;
        let same = |told: &&Event| told.event == event.event && told.request_id == event.request_id;
        if let Some(told) = log.log.events().iter().rev().find(same) {
            return Ok(told.clone());
        }
        self.append_to(mount, log, keyring, event, |_, _| {}).await
    }

    /// Appends to the log and stores it; under its lock.
    async fn append_to(
        &self,
        mount: &Mount,
        mut log: MountLog,
        keyring: &Keyring,
        event: &NewEvent,
        note: impl FnOnce(&mut MountLog, &Event) + Send,
    ) -> Result<Event, Error> {
        let known = log.log.seq();
        if let Some(through) = self.emission.delivered_through(MOUNT, known) {
            log.log.note_delivered_through(through);
        }
        if let Some((through, parked)) = self.emission.tried_through(MOUNT, known) {
            log.log.note_tried(through, parked);
        }
        let id = self.identifiers().ulid(event.timestamp)?;
        let told = log
            .log
            .append(MOUNT, (&log.lineage, id), keyring, event.clone());
        note(&mut log, &told);
        self.move_overflow(mount, MOUNT, &mut log.log).await?;
        let mut announced = Announced::default();
        let stored = self
            .store_mount_log(mount, &log, &told, &mut announced)
            .await;
        if let Err(error) = stored {
            self.emission.note_doubtful_pointer(MOUNT);
            // The log may have been stored all the same: whoever delivers judges what is left.
            if !announced.take_keys().is_empty() {
                self.outbox.forget();
            }
            return Err(error);
        }
        self.announced(&mut announced);
        self.events_stored(MOUNT, std::slice::from_ref(&told));
        self.wake_emission(mount);
        Ok(told)
    }

    /// Stores the log, and before it whom to tell of its newest event.
    async fn store_mount_log(
        &self,
        mount: &Mount,
        log: &MountLog,
        newest: &Event,
        announced: &mut Announced,
    ) -> Result<(), Error> {
        if newest.outcome != Outcome::Started {
            let channels = self.channels(mount).await?;
            self.announce(mount, &channels, (newest, None), announced)
                .await?;
        }
        self.point_to_events(mount, MOUNT, std::slice::from_ref(newest))
            .await?;
        let entry = StorageEntry::new(MOUNT_LOG, storage::encode(log)?);
        Ok(mount.storage.put(entry).await?)
    }

    async fn mount_log(&self, mount: &Mount) -> Result<MountLog, Error> {
        match load(mount).await? {
            Some(log) => Ok(log),
            None => Ok(MountLog {
                schema: SCHEMA,
                lineage: self.identifiers().hex()?,
                log: EventLog::default(),
                open: Vec::new(),
            }),
        }
    }
}

/// Reads the stored log; `None` if nothing ever happened to the mount.
pub(super) async fn load(mount: &Mount) -> Result<Option<MountLog>, Error> {
    let entry = mount.storage.get(MOUNT_LOG).await?;
    entry
        .map(|entry| MountLog::decode(&entry.value))
        .transpose()
}
