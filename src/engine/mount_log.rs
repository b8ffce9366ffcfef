//! The mount's own events: what happened to settings and keyring, not to one tenant.

use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::Error;
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
        self.append_to(mount, log, keyring, event).await
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
        self.append_to(mount, log, keyring, event).await
    }

    /// Appends to the log and stores it; under its lock.
    async fn append_to(
        &self,
        mount: &Mount,
        mut log: MountLog,
        keyring: &Keyring,
        event: &NewEvent,
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
