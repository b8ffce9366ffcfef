//! Changes of what the mount stores beside its tenants: an event before, the Put, an event after.
//!
//! They lie in entries of their own, so the process can end, or storage refuse, between any two of
//! these three. The log of the mount's events says which change was begun and what its entry held
//! before: whoever comes next under the same lock, the caller's repeat or a tick, sees in storage
//! what became of it and tells that. So no setting is in force whose end is no event.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::keys::{self, Found};
use super::mount_log::{self, OpenChange};
use super::storage::{ALERTS, AUDIT_ACCESS, CHANNELS, CONFIG, KEYRING};
use super::{Engine, joined};
use crate::audit::{Actor, Event, NewEvent, Outcome};
use crate::crypto::{Keyring, sha256_hex};
use crate::logical::{Mount, StorageEntry, StorageError};

/// How long to wait before asking a storage whose connection broke what it holds: a write may
/// still be on its way.
const AFTER_BROKEN_CONNECTION: Duration = Duration::from_secs(10);

/// What a change does to its entry.
#[derive(Debug)]
pub(super) enum Write {
    /// It holds this from then on.
    Put(StorageEntry),
    /// It is gone from then on.
    Delete(String),
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// Whether changes may have been left open.
#[derive(Debug)]
pub(super) struct OpenChanges {
    wanted: AtomicBool,
}

impl Default for OpenChanges {
    fn default() -> Self {
        // By the process before this one.
        Self {
            wanted: AtomicBool::new(true),
        }
    }
}

impl OpenChanges {
    /// The next tick looks.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }
}

impl Engine {
    /// Changes one entry of the mount, with an event before and after it, and returns the latter.
    /// `written` is told as soon as the Put is over, whatever became of it. The caller holds the
    /// entry's lock and has told the ends of earlier changes by [`Engine::finish_changes`].
    ///
    /// # Errors
    ///
    /// What storage says, if the entry is as it was, or that cannot be told: then the end is told
    /// as soon as it can.
    pub(super) async fn change_mount(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        mut event: NewEvent,
        (write, written): (Write, impl FnOnce() + Send),
    ) -> Result<Event, Error> {
        let key = write.key().to_owned();
        let before = self.state_of(mount, &key).await?;
        let begun = self
            .begin_change(mount, keyring, &event, (&key, before.clone()))
            .await?;
        let put = match write {
            Write::Put(entry) => mount.storage.put(entry).await,
            Write::Delete(key) => mount.storage.delete(&key).await,
        };
        written();
        if let Err(error) = &put {
            // Until it is told.
            self.open_changes.want();
            if matches!(error, StorageError::Unknown(_)) {
                tokio::time::sleep(AFTER_BROKEN_CONNECTION).await;
            }
            match self.state_of(mount, &key).await {
                Ok(state) if state != before => {}
                Ok(_as_it_was) => {
                    event.outcome = Outcome::Failure;
                    // The next tick tells it if this does not.
                    let told = self.end_change(mount, keyring, &event, &begun).await;
                    put?;
                    return told;
                }
                Err(_unknown) => put?,
            }
        }
        joined::note_stored();
        event.outcome = Outcome::Success;
        let told = self.end_change(mount, keyring, &event, &begun).await;
        if told.is_err() {
            self.open_changes.want();
        }
        told
    }

    /// Tells how the changes of this entry ended that were begun and whose end was never told;
    /// returns the latest that was made. The caller holds the entry's lock.
    ///
    /// # Errors
    ///
    /// If that cannot be told now.
    pub(super) async fn finish_changes(
        &self,
        mount: &Mount,
        key: &str,
    ) -> Result<Option<Event>, Error> {
        let open = self.open_changes_of(mount, key).await?;
        if open.is_empty() {
            return Ok(None);
        }
        let keyring = self.keyring_for_writing(mount).await?;
        let state = self.state_of(mount, key).await?;
        self.tell_ends(mount, &keyring, open, &state).await
    }

    /// As [`Engine::finish_changes`], of the keyring as it was found; under its lock.
    pub(super) async fn finish_keyring_changes(
        &self,
        mount: &Mount,
        found: &Found,
    ) -> Result<Option<Event>, Error> {
        let open = self.open_changes_of(mount, KEYRING).await?;
        let state = keyring_state(found);
        self.tell_ends(mount, &found.keyring, open, &state).await
    }

    async fn open_changes_of(&self, mount: &Mount, key: &str) -> Result<Vec<OpenChange>, Error> {
        let log = mount_log::load(mount).await?;
        let mut open = log.map(|log| log.open().to_vec()).unwrap_or_default();
        open.retain(|change| change.entry == key);
        Ok(open)
    }

    async fn tell_ends(
        &self,
        mount: &Mount,
        keyring: &Keyring,
        open: Vec<OpenChange>,
        state: &State,
    ) -> Result<Option<Event>, Error> {
        let mut latest = None;
        for change in open {
            let mut event = again(&change.started, self.clock().now());
            let is_made = *state != change.before;
            event.outcome = if is_made {
                Outcome::Success
            } else {
                Outcome::Failure
            };
            let begun = &change.started.event_id;
            let told = self.end_change(mount, keyring, &event, begun).await?;
            if is_made {
                latest = Some(told);
            }
        }
        Ok(latest)
    }

    /// Tells the ends that were never told, in the background, after the role changed or one could
    /// not be told. Never fails: the next tick tries again.
    pub(super) fn begin_finishing_changes(self: &Arc<Self>, mount: &Mount) {
        if !self.open_changes.wanted.swap(false, Ordering::SeqCst) {
            return;
        }
        let engine = Arc::clone(self);
        let mount = mount.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.finish_all_changes(&mount).await {
                engine.open_changes.want();
                tracing::warn!(%error, "how a change of the mount ended is told later");
            }
        });
    }

    async fn finish_all_changes(&self, mount: &Mount) -> Result<(), Error> {
        let log = mount_log::load(mount).await?;
        let open = log.as_ref().map(mount_log::MountLog::open);
        let entries = open.unwrap_or_default().iter().map(|it| it.entry.clone());
        for key in entries.collect::<BTreeSet<_>>() {
            // One that is completed is not done by half.
            self.keyring_for_writing(mount).await?;
            let _guard = self.mount_lock.lock(lock_of(&key)).await;
            self.require_active(mount).await?;
            if key != KEYRING {
                self.finish_changes(mount, &key).await?;
            } else if let Some(found) = keys::read(&*mount.storage).await? {
                self.finish_keyring_changes(mount, &found).await?;
            }
        }
        Ok(())
    }

    /// Returns what an entry holds.
    async fn state_of(&self, mount: &Mount, key: &str) -> Result<State, Error> {
        let entry = mount.storage.get(key).await?;
        Ok(State(entry.map(|entry| sha256_hex(&entry.value))))
    }
}

/// The lock under which an entry is changed.
fn lock_of(key: &str) -> &'static str {
    match key {
        CONFIG => "config",
        ALERTS => "alerts",
        AUDIT_ACCESS => "audit",
        _ if key.starts_with(CHANNELS) => "notify",
        _ => "keyring",
    }
}

/// What an entry held: a digest, nothing if it was not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State(Option<String>);

/// What can be seen of a keyring without its keys.
pub(super) fn keyring_state(found: &Found) -> State {
    let keyring = &found.keyring;
    let versions: Vec<u32> = keyring.versions().map(|it| it.version).collect();
    let maker = keyring.maker().map_or("", |maker| maker.uuid());
    let seen = format!("{maker} {} {versions:?}", keyring.latest());
    State(Some(sha256_hex(seen.as_bytes())))
}

/// The same event once more, of another outcome.
fn again(started: &Event, now: chrono::DateTime<chrono::Utc>) -> NewEvent {
    let actor = Actor {
        user_id: started.user_id.clone(),
        display_name: started.display_name.clone(),
        token: String::new(),
    };
    let mut event = NewEvent::new(started.event, actor, now);
    event.severity = started.severity;
    event.version = started.version;
    event.previous_version = started.previous_version;
    event.reason.clone_from(&started.reason);
    event.changed.clone_from(&started.changed);
    event.request_id.clone_from(&started.request_id);
    event
}
