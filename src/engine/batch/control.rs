//! Batches in storage: creating, looking, cancelling, and the end that is told once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::record::{Action, Batch, NewBatch, State, Targets};
use crate::audit::{EventName, NewEvent, Outcome, Severity};
use crate::engine::error::Error;
use crate::engine::storage::{self, BATCHES};
use crate::engine::{Engine, joined};
use crate::logical::{Mount, StorageEntry, StorageError};

/// Batches that may wait for their turn.
const MOST_WAITING: usize = 20;
/// Batches that are kept after their end, and for how long.
const MOST_KEPT: usize = 100;
const KEPT: TimeDelta = TimeDelta::days(90);
/// How long to wait before asking a storage whose connection broke what it holds.
const AFTER_BROKEN_CONNECTION: Duration = Duration::from_secs(10);
/// The name of the lock over all batches' entries.
const LOCK: &str = "batch";

/// What a request asks for.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Order {
    pub(in crate::engine) action: Action,
    pub(in crate::engine) targets: Targets,
    pub(in crate::engine) canary: u64,
    pub(in crate::engine) max_failures: u64,
    /// Of type `smtp_batch_started`: who, why, for which incident.
    pub(in crate::engine) event: NewEvent,
}

/// A batch and whether this request made it.
#[derive(Debug)]
pub(in crate::engine) struct Created {
    pub(in crate::engine) batch: Batch,
    /// How many others come first.
    pub(in crate::engine) ahead: u64,
}

impl Engine {
    /// Stores a batch; the next tick begins it. A request that the host sends again gets the batch
    /// it made.
    ///
    /// # Errors
    ///
    /// A 409 `too_many_batches`; whatever storage says.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(in crate::engine) async fn create_batch(
        &self,
        mount: &Mount,
        order: Order,
    ) -> Result<Created, Error> {
        let keyring = self.keyring_for_writing(mount).await?;
        let total = self.count_targets(mount, &order.targets).await?;
        let _guard = self.mount_lock.lock(LOCK).await;
        let kept = self.kept_batches(mount).await?;
        let waiting = kept.iter().filter(|batch| !batch.is_over()).count();
        let resent = |batch: &&Batch| {
            batch.request_id == order.event.request_id && !batch.request_id.is_empty()
        };
        if let Some(batch) = kept.iter().rev().find(resent).cloned() {
            let before = |other: &&Batch| !other.is_over() && batch.waits_for(other);
            let ahead = kept.iter().filter(before).count() as u64;
            return Ok(Created { batch, ahead });
        }
        if waiting >= MOST_WAITING {
            return Err(Error::conflict(
                "too_many_batches",
                "20 batches wait for their turn already. Cancel some, or wait.",
            ));
        }
        let now = self.clock().now();
        let started = self
            .announce_mount_event(mount, &keyring, &order.event)
            .await?;
        let batch = Batch::from(NewBatch {
            id: self.identifiers().ulid(now)?,
            action: order.action,
            targets: order.targets,
            total,
            reason: order.event.reason.clone(),
            incident_id: order.event.incident_id.clone(),
            canary: order.canary,
            max_failures: order.max_failures,
            created_by: order.event.actor.clone(),
            created_at: now,
            request_id: order.event.request_id.clone(),
            event_id: started.event_id,
            seq: started.seq,
        });
        if let Err(error) = self.put_new(mount, &batch).await {
            let event = ended_event(&batch, Some(error.code()), now);
            self.announce_mount_event(mount, &keyring, &event).await?;
            return Err(error);
        }
        if batch.action == Action::Reset {
            self.batches.emergency.store(true, Ordering::SeqCst);
        }
        joined::note_stored();
        self.batches.want();
        let before = |other: &&Batch| !other.is_over() && batch.waits_for(other);
        let ahead = kept.iter().filter(before).count() as u64;
        Ok(Created { batch, ahead })
    }

    /// Stores a new batch, or finds out that it is not there.
    async fn put_new(&self, mount: &Mount, batch: &Batch) -> Result<(), Error> {
        let Err(error) = self.put_batch(mount, batch).await else {
            return Ok(());
        };
        if matches!(error, Error::Storage(StorageError::Unknown(_))) {
            tokio::time::sleep(AFTER_BROKEN_CONNECTION).await;
        }
        match self.load_batch(mount, &batch.id).await {
            Ok(Some(_stored)) => Ok(()),
            Ok(None) => Err(error),
            Err(again) => {
                // If it is there, it will be found and done: its "started" event stands.
                self.batches.want();
                Err(again)
            }
        }
    }

    /// Reads a batch; `None` if there is none.
    pub(in crate::engine) async fn load_batch(
        &self,
        mount: &Mount,
        id: &str,
    ) -> Result<Option<Batch>, Error> {
        let key = storage::batch_key(id);
        let Some(entry) = mount.storage.get(&key).await? else {
            return Ok(None);
        };
        Batch::decode(&key, &entry.value).map(Some)
    }

    /// Stops a batch before its next tenant; one that is over is answered as it is. `None` if there
    /// is no such batch. `event` says who and why.
    ///
    /// # Cancel safety
    ///
    /// None: run on a tracked task.
    pub(in crate::engine) async fn cancel_batch(
        &self,
        mount: &Mount,
        id: &str,
        event: NewEvent,
    ) -> Result<Option<Batch>, Error> {
        let now = self.clock().now();
        let cancel = |batch: &mut Batch| {
            let code = Some("cancelled");
            batch.finish(State::Cancelled, code, event.actor, event.reason, now);
        };
        let Some(batch) = self.update_batch(mount, id, cancel).await? else {
            return Ok(None);
        };
        joined::note_stored();
        self.batches.cancel(id);
        // If this cannot be told now, the next tick does.
        self.batches.want();
        self.tell_end(mount, batch).await.map(Some)
    }

    /// Changes a stored batch; `None` if it is gone. Nothing is written if nothing changed.
    pub(super) async fn update_batch(
        &self,
        mount: &Mount,
        id: &str,
        change: impl FnOnce(&mut Batch) + Send,
    ) -> Result<Option<Batch>, Error> {
        let _guard = self.mount_lock.lock(LOCK).await;
        let Some(before) = self.load_batch(mount, id).await? else {
            return Ok(None);
        };
        let mut batch = before.clone();
        change(&mut batch);
        if batch != before {
            self.put_batch(mount, &batch).await?;
        }
        Ok(Some(batch))
    }

    /// Records the end of a batch, once.
    pub(super) async fn tell_end(&self, mount: &Mount, batch: Batch) -> Result<Batch, Error> {
        let Some(end) = batch.end.as_ref().filter(|end| end.event_id.is_none()) else {
            return Ok(batch);
        };
        let keyring = self.keyring_for_writing(mount).await?;
        let mut event = ended_event(&batch, end.code.as_deref(), self.clock().now());
        event.actor = end.by.clone();
        event.reason.clone_from(&end.reason);
        let told = self
            .announce_mount_event_once(mount, &keyring, &event)
            .await?;
        let note = |batch: &mut Batch| {
            let end = batch.end.as_mut();
            if let Some(end) = end.filter(|end| end.event_id.is_none()) {
                end.event_id = Some(told.event_id);
                // Who tells it at the same time, or again because this was not stored, counts none.
                if self.batches.notes().counted.insert(batch.id.clone()) {
                    self.counters.note_batch(batch.state);
                }
            }
        };
        let noted = self.update_batch(mount, &batch.id, note).await?;
        self.batches.notes().counted.remove(&batch.id);
        Ok(noted.unwrap_or(batch))
    }

    /// Reads every batch that is kept, oldest first, and removes those that are not kept any more.
    pub(super) async fn kept_batches(&self, mount: &Mount) -> Result<Vec<Batch>, Error> {
        let mut kept = Vec::new();
        for id in mount.storage.list(BATCHES).await? {
            match self.load_batch(mount, &id).await {
                Ok(Some(batch)) => kept.push(batch),
                Ok(None) => {}
                Err(error @ Error::Entry { .. }) => {
                    tracing::warn!(batch = %id, %error, "a batch is not readable and is left alone");
                }
                Err(error) => return Err(error),
            }
        }
        // In the order in which they were created, whatever the clock did.
        kept.sort_by_key(|batch| batch.seq);
        // While the time is not believed nothing goes for its age.
        let now = self.trusted();
        let told = |batch: &Batch| batch.end.as_ref().is_some_and(|it| it.event_id.is_some());
        let mut excess = kept
            .iter()
            .filter(|batch| told(batch))
            .count()
            .saturating_sub(MOST_KEPT);
        let mut left = Vec::new();
        for batch in kept {
            let ended = batch.end.as_ref().map(|end| end.at);
            let old = ended
                .zip(now)
                .is_some_and(|(at, now)| now.is_past(at, KEPT));
            if told(&batch) && (old || excess > 0) {
                excess = excess.saturating_sub(1);
                mount.storage.delete(&storage::batch_key(&batch.id)).await?;
            } else {
                left.push(batch);
            }
        }
        Ok(left)
    }

    async fn put_batch(&self, mount: &Mount, batch: &Batch) -> Result<(), Error> {
        let key = storage::batch_key(&batch.id);
        let entry = StorageEntry::new(key, storage::encode(batch)?);
        Ok(mount.storage.put(entry).await?)
    }
}

/// The event of a batch's end, by the engine itself.
fn ended_event(batch: &Batch, code: Option<&str>, now: DateTime<Utc>) -> NewEvent {
    let mut event = NewEvent::new(EventName::BatchEnded, batch.created_by.clone(), now);
    if let Some(code) = code {
        event.outcome = Outcome::Failure;
        event.severity = Severity::Warning;
        event.error_code = Some(code.to_owned());
    }
    event.incident_id.clone_from(&batch.incident_id);
    event.request_id = batch.change_id();
    event
}
