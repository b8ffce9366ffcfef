//! [`LockedTenant`]: the only way to change a tenant's record.
//!
//! Holds the tenant's lock, the record as read, and the exact bytes it was read from. What must
//! stay true:
//!
//! - pointers are written before the record that needs them and removed after the record that
//!   does not, all under the lock;
//! - a Put of the record is never abandoned: whatever the host answers, the bytes in storage
//!   decide which state holds, and until they could be read the tenant takes no change.

mod account;
mod announce;
mod pointer;
mod repair;
mod sealing;
mod suspicion;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::config::MountConfig;
use super::error::Error;
use super::mail::{Purpose, ServerPlace, origin_of};
use super::schedule;
use super::storage::record::{Credential, TenantRecord};
use super::storage::{self, MAX_RECORD_BYTES};
use super::tenant::TenantName;
use super::watch;
use crate::audit::{Event, EventName, NewEvent, Outcome};
use crate::crypto::Keyring;
use crate::keyed_lock::KeyGuard;
use crate::logical::{Mount, Storage, StorageEntry, StorageError};

/// How long to wait before asking a storage whose connection broke what it holds: a write may
/// still be on its way.
const AFTER_BROKEN_CONNECTION: Duration = Duration::from_secs(10);

pub(super) use sealing::{open_password, open_token};

/// Room kept free in a record: two more versions and a full set of events with the longest texts.
const RESERVE_BYTES: usize = 64 * 1024;

/// One tenant under its lock.
#[derive(Debug)]
pub(super) struct LockedTenant {
    pub(super) engine: Arc<Engine>,
    pub(super) mount: Mount,
    pub(super) name: TenantName,
    pub(super) keyring: Arc<Keyring>,
    pub(super) config: Arc<MountConfig>,
    /// The record as it will be stored next. Changed freely; [`LockedTenant::store`] makes it
    /// true, and on any doubt it is replaced by what storage holds.
    pub(super) record: Box<TenantRecord>,
    /// For whom Mailu is called under this lock.
    pub(super) purpose: Purpose,
    /// The place at the record's server, if it was taken with the lock.
    pub(super) place: Option<Arc<ServerPlace>>,
    /// How many hashes were computed under this lock.
    pub(super) hash_checks: usize,
    /// What storage holds; `None` if there is no entry.
    stored: Option<Vec<u8>>,
    /// The schedule left the tenant alone, as storage has it.
    rested: bool,
    /// The number of the last stored event.
    stored_seq: u64,
    /// The pointers that belong to what storage holds.
    pointers: BTreeMap<String, Vec<u8>>,
    /// Who is told of events, and what was written for that.
    telling: announce::Telling,
    /// What is suspicious, and what was found so.
    suspicion: suspicion::Suspicion,
    /// Locks of accounts claimed here, held until the record's fate is known.
    accounts: Vec<KeyGuard>,
    _guard: KeyGuard,
}

impl Engine {
    /// Takes the tenant's lock, checks that this node may change things, and loads the record
    /// (an empty one if there is none). Callers have asked the same before they began to wait, so
    /// that a standby forwards at once; the role may have changed since.
    pub(super) async fn lock_tenant(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<LockedTenant, Error> {
        let guard = self.tenant_locks.lock(name.as_str()).await;
        self.load_locked(mount, name, guard).await
    }

    /// Like [`Engine::lock_tenant`], before all who are no emergency.
    pub(super) async fn lock_tenant_urgently(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<LockedTenant, Error> {
        let guard = self.tenant_locks.lock_urgently(name.as_str()).await;
        self.load_locked(mount, name, guard).await
    }

    /// Like [`Engine::lock_tenant`]; `None` if somebody else has the lock or waits for it.
    pub(super) async fn try_lock_tenant(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<Option<LockedTenant>, Error> {
        match self.tenant_locks.try_lock(name.as_str()) {
            Some(guard) => self.load_locked(mount, name, guard).await.map(Some),
            None => Ok(None),
        }
    }

    async fn load_locked(
        self: &Arc<Self>,
        mount: &Mount,
        name: &TenantName,
        guard: KeyGuard,
    ) -> Result<LockedTenant, Error> {
        self.joined.forget_outcomes(name);
        self.require_active(mount).await?;
        let config = self.config(mount).await?;
        let keyring = self.keyring_for_writing(mount).await?;
        self.learn_trusted(mount).await;
        let stored = read_bytes(&*mount.storage, name.as_str()).await?;
        let mut record = self.decode_or_new(name, stored.as_deref())?;
        self.failures.add_to(name, &mut record);
        let pointers = pointer::pointers(&record)?;
        // A pause that is over and still stored counts: nobody has taken its end into account.
        let rested = record.pause.is_some() || schedule::rests(&record, self.clock().now());
        let stored_seq = record.log.seq();
        let telling = announce::Telling::new(self.channels(mount).await?);
        let suspicion = suspicion::Suspicion::new(Box::pin(self.rules(mount)).await?);
        Ok(LockedTenant {
            engine: Arc::clone(self),
            mount: mount.clone(),
            name: name.clone(),
            keyring,
            config,
            record: Box::new(record),
            purpose: Purpose::Request,
            place: None,
            hash_checks: 0,
            stored_seq,
            stored,
            rested,
            pointers,
            telling,
            suspicion,
            accounts: Vec::new(),
            _guard: guard,
        })
    }

    /// Reads a tenant's record without its lock, from memory if it is there; `None` if there is
    /// none.
    pub(super) async fn read_tenant(
        &self,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<Option<Arc<TenantRecord>>, Error> {
        if let Some(record) = self.records.fresh(name.as_str(), &self.role, self.clock()) {
            return Ok(Some(record));
        }
        self.load_tenant(mount, name).await
    }

    /// Reads a tenant's record without its lock, from storage; `None` if there is none.
    pub(super) async fn load_tenant(
        &self,
        mount: &Mount,
        name: &TenantName,
    ) -> Result<Option<Arc<TenantRecord>>, Error> {
        let before = self.records.before_get(self.clock());
        let key = storage::tenant_key(name.as_str());
        let Some(entry) = mount.storage.get(&key).await? else {
            return Ok(None);
        };
        let record = match storage::decode_tenant(&key, &entry.value) {
            Ok(record) => Arc::new(record),
            Err(error) => return Err(self.failed_read(mount, error).await),
        };
        let bytes = entry.value.len();
        self.records.fill(&record, bytes, before);
        Ok(Some(record))
    }

    fn decode_or_new(
        &self,
        name: &TenantName,
        stored: Option<&[u8]>,
    ) -> Result<TenantRecord, Error> {
        match stored {
            Some(bytes) => storage::decode_tenant(&storage::tenant_key(name.as_str()), bytes),
            None => Ok(TenantRecord::new(
                name.as_str(),
                self.identifiers().hex()?,
                self.identifiers().hex()?,
                self.clock().now(),
            )),
        }
    }
}

impl LockedTenant {
    /// Returns the credential.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTenant`] if nothing is stored, [`Error::NoCredential`] if only a server is,
    /// [`Error::Deleted`] if it was deleted softly.
    pub(super) fn require_credential(&self) -> Result<&Credential, Error> {
        match &self.record.credential {
            Some(credential) if credential.deleted.is_some() => Err(Error::Deleted),
            Some(credential) => Ok(credential),
            None if self.stored.is_some() => Err(Error::NoCredential),
            None => Err(Error::UnknownTenant),
        }
    }

    /// Returns what the tenant's mail server is told apart by; empty if there is none.
    pub(super) fn server_name(&self) -> &str {
        let server = self.record.server.as_ref();
        server.map_or("", |server| &server.mailu_url)
    }

    /// Appends an event to the record; it becomes true with the next [`LockedTenant::store`].
    pub(super) fn record_event(&mut self, event: NewEvent) -> Result<Event, Error> {
        let lineage = self.record.lineage.clone();
        let id = self.engine.identifiers().ulid(event.timestamp)?;
        let log = &mut self.record.log;
        let event = log.append(self.name.as_str(), (&lineage, id), &*self.keyring, event);
        if is_answer(&event) {
            self.record.tally.note_answer(&event);
        }
        Ok(event)
    }

    /// Keeps failures that were counted in the record, without storing them. Returns false if they
    /// have to be stored now.
    pub(super) fn put_failures_off(&self) -> bool {
        let now = self.engine.clock().monotonic();
        let known = self.stored.is_some();
        known && !self.engine.failures.keep(&self.name, &self.record, now)
    }

    /// Reports whether one more refusal is to be told as suspicious.
    pub(super) fn tells_of_refusal(&self, code: &str) -> bool {
        let now = self.engine.clock().now();
        watch::is_refusal_told(self.suspicion.rules(), &self.record, code, now)
    }

    /// Makes the record true.
    ///
    /// # Errors
    ///
    /// On an error nothing was stored and the record is again what storage holds: the caller's
    /// change did not happen.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(super) async fn store(&mut self) -> Result<(), Error> {
        match self.try_store().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let name = self.name.as_str();
                self.engine.emission.note_doubtful_pointer(name);
                // A write that nobody answered may still land, and so may any while the mount goes
                // away: what leads to the record stays then. Whoever follows it asks the record.
                let lost = matches!(error, Error::Storage(StorageError::Unknown(_)));
                self.undo(lost || self.engine.tasks.is_stopping()).await?;
                Err(error)
            }
        }
    }

    /// Goes back to what storage holds after a change that did not happen; with the pointers and the
    /// notifications that were written for it, unless it may still happen.
    async fn undo(&mut self, may_land: bool) -> Result<(), Error> {
        let written = pointer::pointers(&self.record);
        self.forget_changes()?;
        if may_land {
            self.leave_announcements();
        } else {
            self.remove_unneeded(written?.keys()).await;
            self.take_announcements_back().await;
        }
        Ok(())
    }

    /// Makes sure that the record has room for what may follow: a change that Mailu hears of must
    /// always be committable, and an emergency reset after it.
    ///
    /// # Errors
    ///
    /// A 400 `record_full`.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        Self::check_room_of(&self.record)
    }

    /// [`LockedTenant::check_room`] of a record as it will be.
    pub(super) fn check_room_of(record: &TenantRecord) -> Result<(), Error> {
        if storage::encode(record)?.len() + RESERVE_BYTES <= MAX_RECORD_BYTES {
            return Ok(());
        }
        Err(Error::invalid(
            "record_full",
            "the tenant's record would exceed 256 KiB. Lower max_versions in the mount's config \
             so that settled versions are dropped, or shorten ca_cert.",
        ))
    }

    /// Like [`LockedTenant::store`], but leaves storage alone if nothing changed.
    pub(super) async fn store_if_changed(&mut self) -> Result<(), Error> {
        if self.stored.as_deref() == Some(storage::encode(&self.record)?.as_slice()) {
            return Ok(());
        }
        self.store().await
    }

    async fn try_store(&mut self) -> Result<(), Error> {
        self.record.revision += 1;
        let now = self.engine.clock().now();
        let rests = schedule::rests(&self.record, now);
        if self.rested && !rests {
            schedule::end_rest(&mut self.record, &self.config, now);
        }
        let due_day = schedule::due_day(&self.record, &self.config, now);
        if let Some(credential) = self.record.credential.as_mut() {
            credential.due_day = due_day;
        }
        Box::pin(self.add_alerts()).await?;
        self.announce_events().await?;
        let events = self.point_to_new_events().await?;
        let bytes = storage::encode(&self.record)?;
        let wanted = pointer::pointers(&self.record)?;
        for (key, value) in &wanted {
            if self.pointers.get(key) != Some(value) {
                self.mount
                    .storage
                    .put(StorageEntry::new(key.as_str(), value.clone()))
                    .await?;
            }
        }
        let is_new = self.stored.is_none();
        self.put_record(bytes).await?;
        super::joined::note_stored();
        self.rested = rests;
        self.count(is_new);
        // Of one that is deleted or destroyed nobody asks any more.
        let asked = self.record.live_credential().is_some() || self.record.last_version == 0;
        let origin = asked.then(|| origin_of(&self.record)).flatten();
        let unasked = &self.engine.unasked;
        unasked.keep(self.name.as_str(), origin.as_deref());
        self.engine.failures.stored(&self.name);
        self.events_are_true();
        self.engine.events_stored(self.name.as_str(), &events);
        self.engine.wake_emission(&self.mount);
        let before = std::mem::replace(&mut self.pointers, wanted);
        // The record's fate is known: claimed accounts need no lock any more.
        self.accounts.clear();
        Box::pin(self.alerts_are_true()).await;
        self.remove_unneeded(before.keys()).await;
        Ok(())
    }

    /// Writes the record and finds out what became of it, however long that takes.
    async fn put_record(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let key = storage::tenant_key(self.name.as_str());
        let writing = self.engine.records.write(self.name.as_str());
        if let Err(error) = self.put_and_judge(&key, bytes).await {
            // What ticks have read before is not to be believed, whatever became of it.
            self.engine.runner.forget_tenant(&self.name);
            return Err(error);
        }
        let stored = self.stored.as_deref().unwrap_or_default();
        match storage::decode_tenant(&key, stored) {
            Ok(record) => {
                self.engine.note_stored(&self.name, &record, &self.config);
                writing.stored(&Arc::new(record), stored.len(), self.engine.clock());
            }
            // What cannot be read back is for the next read to report: it was stored all the same.
            Err(_unreadable) => self.engine.runner.forget_tenant(&self.name),
        }
        Ok(())
    }

    /// [`LockedTenant::put_record`] without the memory: what storage holds decides.
    async fn put_and_judge(&mut self, key: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let entry = StorageEntry::new(key, bytes.clone());
        let written = self
            .mount
            .storage
            .compare_and_put(entry, self.stored.as_deref())
            .await;
        let error = match written {
            Ok(()) => {
                self.stored = Some(bytes);
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::warn!(tenant = %self.name, %error, "storing the record failed, reading it back");
        let mut wait = matches!(error, StorageError::Unknown(_));
        loop {
            if wait {
                tokio::time::sleep(AFTER_BROKEN_CONNECTION).await;
            }
            match read_bytes(&*self.mount.storage, self.name.as_str()).await {
                Ok(found) if found.as_deref() == Some(bytes.as_slice()) => {
                    self.stored = Some(bytes);
                    return Ok(());
                }
                Ok(found) => {
                    self.stored = found;
                    return Err(error.into());
                }
                // Until storage tells which state holds, this tenant's lock stays taken. When
                // the mount goes away the lock goes with it and the next process reads anew.
                Err(again) if !self.engine.tasks.is_stopping() => {
                    tracing::warn!(tenant = %self.name, error = %again, "storage does not answer");
                    wait = true;
                }
                Err(_stopping) => return Err(error.into()),
            }
        }
    }

    /// Writes what leads to the events that the stored record does not have, and returns them;
    /// makes room for them in the record.
    async fn point_to_new_events(&mut self) -> Result<Vec<Event>, Error> {
        let name = self.name.as_str();
        let log = &mut self.record.log;
        let stored = self.stored_seq.min(log.seq());
        if let Some(through) = self.engine.emission.delivered_through(name, stored) {
            log.note_delivered_through(through);
        }
        if let Some((through, parked)) = self.engine.emission.tried_through(name, stored) {
            log.note_tried(through, parked);
        }
        let new = log.events().iter().filter(|event| event.seq > stored);
        let new: Vec<Event> = new.cloned().collect();
        self.engine.move_overflow(&self.mount, name, log).await?;
        self.engine.point_to_events(&self.mount, name, &new).await?;
        Ok(new)
    }

    /// Goes back to what storage holds.
    pub(super) fn forget_changes(&mut self) -> Result<(), Error> {
        *self.record = self
            .engine
            .decode_or_new(&self.name, self.stored.as_deref())?;
        self.engine.failures.add_to(&self.name, &mut self.record);
        self.pointers = pointer::pointers(&self.record)?;
        self.stored_seq = self.record.log.seq();
        self.accounts.clear();
        self.suspicion.forget();
        Ok(())
    }
}

/// Reports whether a request that is sent again is answered with this event once more.
const fn is_answer(event: &Event) -> bool {
    match event.event {
        EventName::RotationPaused => true,
        EventName::Stored
        | EventName::Imported
        | EventName::Adopted
        | EventName::Rotated
        | EventName::RolledBack
        | EventName::Rehomed
        | EventName::EmergencyReset => matches!(event.outcome, Outcome::Success),
        _ => false,
    }
}

async fn read_bytes(host: &dyn Storage, tenant: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let entry = host.get(&storage::tenant_key(tenant)).await?;
    // The entry wipes itself when dropped: take a copy of its (encrypted) value.
    Ok(entry.map(|entry| entry.value.clone()))
}
