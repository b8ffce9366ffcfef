//! [`Guard`]: what stands between the engine and the storage of its mount.
//!
//! Every write passes here, whoever makes it: a request, a tick, a worker. Two things are noticed in
//! this one place, and both are in memory only, because storage is what they are about:
//!
//! - *The host takes no write.* A host can be in a state in which reads are answered and each write
//!   is refused (Vault, when the mount was set up while its plugin could not be started): nothing
//!   works any more, and everything that is read looks well. So a refusal is remembered until a
//!   write is stored.
//! - *The storage is another mount's.* It carries the identifier of the mount that made it, beside
//!   the keys. Under another one nothing is written until somebody adopts it: two mounts on one
//!   account would each set its password behind the other's back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::error::Error;
use super::keys;
use crate::clock::Clock;
use crate::logical::{Mount, Storage, StorageEntry, StorageError};

/// The code of a storage that another mount has made.
pub(super) const FOREIGN_STORAGE: &str = "foreign_storage";
/// The code of a host that takes no write.
pub(super) const REFUSES_WRITES: &str = "storage_refuses_writes";

/// What is known of the mount's storage.
#[derive(Debug)]
pub(super) struct Guard {
    /// What the host calls this mount; empty if it does not say, and then nothing is compared.
    mount_uuid: String,
    // A blocking mutex: held only to look and to note.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    refused_since: Option<DateTime<Utc>>,
    owner: Owner,
    /// How often the storage was adopted: what was read before says nothing of whose it is now.
    adoptions: u64,
    /// Somebody adopts the storage, which is a write itself.
    adopting: bool,
}

/// Who made the storage.
#[derive(Clone, Debug, Default)]
enum Owner {
    /// The keyring was not read yet.
    #[default]
    Unread,
    /// This mount, or there is nothing to compare.
    Ours,
    /// Another mount.
    Foreign(Foreign),
}

/// A storage that another mount has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// What the host calls that mount.
    pub(super) uuid: String,
    /// Since when this process knows.
    pub(super) since: DateTime<Utc>,
}

impl Foreign {
    /// Returns why nothing is done.
    pub(super) fn error(&self) -> Error {
        Error::invalid(FOREIGN_STORAGE, self.text())
    }

    fn text(&self) -> String {
        format!(
            "this storage was made by another mount, {}: nothing is written and no secret is \
             opened. If it was copied here on purpose and that mount is gone, write \
             ops/adopt-storage confirm={}. Otherwise reload the plugin, and take the copy away if \
             this goes on.",
            self.uuid, self.uuid
        )
    }
}

impl Guard {
    /// Begins without having looked.
    pub(super) fn new(mount_uuid: String) -> Self {
        Self {
            mount_uuid,
            state: Mutex::default(),
        }
    }

    /// Returns what the host calls this mount; empty if it does not say.
    pub(super) fn mount_uuid(&self) -> &str {
        &self.mount_uuid
    }

    /// Returns the same mount with every write passing here.
    pub(super) fn over(self: &Arc<Self>, mount: &Mount, clock: &Arc<dyn Clock>) -> Mount {
        Mount {
            storage: Arc::new(Guarded {
                host: mount.clone(),
                guard: Arc::clone(self),
                clock: Arc::clone(clock),
            }),
            system: Arc::clone(&mount.system),
        }
    }

    /// Is asked before a keyring is read that is to be judged.
    pub(super) fn before_read(&self) -> BeforeRead {
        BeforeRead(self.state().adoptions)
    }

    /// Judges a keyring that was just read: `maker` is who made it, if it is another mount. One that
    /// was read before an adoption ended is not remembered.
    ///
    /// # Errors
    ///
    /// A 400 `foreign_storage`.
    pub(super) fn judge(
        &self,
        before: BeforeRead,
        maker: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let is_old = before.0 != state.adoptions;
        let Some(maker) = maker else {
            if !is_old {
                state.owner = Owner::Ours;
            }
            return Ok(());
        };
        let since = match &state.owner {
            Owner::Foreign(known) if known.uuid == maker => known.since,
            Owner::Foreign(_) | Owner::Unread | Owner::Ours => now,
        };
        let foreign = Foreign {
            uuid: maker.to_owned(),
            since,
        };
        let error = foreign.error();
        if !is_old {
            state.owner = Owner::Foreign(foreign);
        }
        Err(error)
    }

    /// Returns the other mount that made the storage; `None` also before the keyring was read.
    pub(super) fn foreign(&self) -> Option<Foreign> {
        match &self.state().owner {
            Owner::Foreign(foreign) => Some(foreign.clone()),
            Owner::Unread | Owner::Ours => None,
        }
    }

    /// Reports whether the keyring is still to be read.
    pub(super) fn is_unread(&self) -> bool {
        !self.mount_uuid.is_empty() && matches!(self.state().owner, Owner::Unread)
    }

    /// Another role, another knowledge.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        *state = State {
            adoptions: state.adoptions,
            ..State::default()
        };
    }

    /// Lets writes pass as long as what is returned lives.
    pub(super) fn adopting(self: &Arc<Self>) -> Adopting {
        self.state().adopting = true;
        Adopting(Arc::clone(self))
    }

    /// Returns since when the host takes no write.
    pub(super) fn refuses_writes_since(&self) -> Option<DateTime<Utc>> {
        self.state().refused_since
    }

    fn may_not_write(&self) -> Option<Foreign> {
        if self.state().adopting {
            None
        } else {
            self.foreign()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was known when a read began.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeforeRead(u64);

/// An adoption under way; however it ends, the keyring is judged anew.
#[derive(Debug)]
pub(super) struct Adopting(Arc<Guard>);

impl Drop for Adopting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.adopting = false;
        state.adoptions += 1;
        state.owner = Owner::Unread;
    }
}

/// The host's storage behind the guard.
struct Guarded {
    host: Mount,
    guard: Arc<Guard>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("host", &self.host)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl Guarded {
    /// Refuses to write into another mount's storage.
    async fn may_write(&self) -> Result<(), StorageError> {
        if self.guard.is_unread() {
            // A keyring that cannot be read says nothing; whoever needs it says that.
            if let Err(error) = keys::load(&*self.host.storage, &self.guard, &*self.clock).await {
                tracing::debug!(%error, "the keyring was not compared with the mount");
            }
        }
        match self.guard.may_not_write() {
            None => Ok(()),
            Some(foreign) => {
                let text = format!("{FOREIGN_STORAGE}: {}", foreign.text());
                Err(StorageError::Refused(text))
            }
        }
    }

    /// Remembers a refusal until the next stored write. What a node that is no longer the active
    /// one is refused says nothing about the mount; a lost answer is none.
    async fn note(&self, written: Result<(), StorageError>) -> Result<(), StorageError> {
        match &written {
            Ok(()) => {
                self.guard.state().refused_since = None;
            }
            Err(StorageError::Refused(_)) if self.host.active_node().await.is_ok() => {
                let mut state = self.guard.state();
                if state.refused_since.is_none() {
                    state.refused_since = Some(self.clock.now());
                    tracing::error!("the server refuses to store what this mount writes");
                }
            }
            Err(
                StorageError::Refused(_)
                | StorageError::ReadOnly
                | StorageError::Conflict
                | StorageError::Unknown(_),
            ) => {}
        }
        written
    }
}

#[async_trait]
impl Storage for Guarded {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        self.host.storage.get(key).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        self.may_write().await?;
        let written = self.host.storage.put(entry).await;
        self.note(written).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.may_write().await?;
        let written = self.host.storage.compare_and_put(entry, expected).await;
        self.note(written).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.may_write().await?;
        let written = self.host.storage.delete(key).await;
        self.note(written).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.host.storage.list(prefix).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.host.storage.list_page(prefix, after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::logical::{MemoryStorage, ReplicationState, StaticSystemView};

    /// Answers every write the same.
    #[derive(Debug)]
    struct Answers(Result<(), StorageError>, MemoryStorage);

    #[async_trait]
    impl Storage for Answers {
        async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
            self.1.get(key).await
        }

        async fn put(&self, _entry: StorageEntry) -> Result<(), StorageError> {
            self.0.clone()
        }

        async fn compare_and_put(
            &self,
            _entry: StorageEntry,
            _expected: Option<&[u8]>,
        ) -> Result<(), StorageError> {
            self.0.clone()
        }

        async fn delete(&self, _key: &str) -> Result<(), StorageError> {
            self.0.clone()
        }

        async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
            self.1.list(prefix).await
        }

        async fn list_page(
            &self,
            prefix: &str,
            after: &str,
            limit: usize,
        ) -> Result<Vec<String>, StorageError> {
            self.1.list_page(prefix, after, limit).await
        }
    }

    fn refused() -> StorageError {
        StorageError::Refused(String::from("cannot write to storage during setup"))
    }

    /// Makes each kind of write on a node of this state; tells which are remembered as refused.
    async fn remembered(answer: Result<(), StorageError>, state: u32) -> [bool; 3] {
        let mut seen = [false; 3];
        for (kind, seen) in seen.iter_mut().enumerate() {
            let guard = Arc::new(Guard::new(String::new()));
            let mount = Mount {
                storage: Arc::new(Answers(answer.clone(), MemoryStorage::new())),
                system: Arc::new(StaticSystemView {
                    replication_state: ReplicationState(state),
                    ..StaticSystemView::default()
                }),
            };
            let clock: Arc<dyn Clock> = Arc::new(ManualClock::starting_at(DateTime::UNIX_EPOCH));
            let storage = guard.over(&mount, &clock).storage;
            let entry = StorageEntry::new("a", Vec::new());
            let written = match kind {
                0 => storage.put(entry).await,
                1 => storage.compare_and_put(entry, None).await,
                _ => storage.delete("a").await,
            };
            assert_eq!(written, answer, "the answer is passed on");
            *seen = guard.refuses_writes_since().is_some();
        }
        seen
    }

    #[tokio::test]
    async fn what_the_host_refuses_the_active_node_is_remembered() {
        const ACTIVE: u32 = 0x2020;
        const STANDBY: u32 = 0x6000;
        assert_eq!(remembered(Err(refused()), ACTIVE).await, [true; 3]);
        let lost = StorageError::Unknown(String::from("gone"));
        for (answer, state) in [
            // The role changed meanwhile.
            (Err(refused()), STANDBY),
            (Err(StorageError::ReadOnly), ACTIVE),
            (Err(StorageError::Conflict), ACTIVE),
            (Err(lost), ACTIVE),
            (Ok(()), ACTIVE),
        ] {
            let seen = remembered(answer.clone(), state).await;
            assert_eq!(seen, [false; 3], "{answer:?} {state:#x}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_remembered_from_the_first_one_to_the_next_stored_write() {
        let clock = Arc::new(ManualClock::starting_at(DateTime::UNIX_EPOCH));
        let guard = Arc::new(Guard::new(String::new()));
        let write = async |answer: Result<(), StorageError>| {
            let mount = Mount {
                storage: Arc::new(Answers(answer, MemoryStorage::new())),
                system: Arc::new(StaticSystemView::default()),
            };
            let clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
            let storage = guard.over(&mount, &clock).storage;
            let _answer = storage.put(StorageEntry::new("a", Vec::new())).await;
        };
        let first = Some(DateTime::UNIX_EPOCH);
        write(Err(refused())).await;
        clock.advance(std::time::Duration::from_secs(60));
        write(Err(refused())).await;
        write(Err(StorageError::ReadOnly)).await;
        assert_eq!(guard.refuses_writes_since(), first);
        write(Ok(())).await;
        assert_eq!(guard.refuses_writes_since(), None);
    }

    #[test]
    fn what_was_read_before_an_adoption_says_nothing_after_it() {
        let guard = Arc::new(Guard::new(String::from("mine")));
        let before = guard.before_read();
        assert!(guard.judge(before, Some("other"), now()).is_err());
        assert!(guard.foreign().is_some());
        // A slow read of the old copy ends after the adoption, and after a read of the new one.
        let slow = guard.before_read();
        drop(guard.adopting());
        assert!(guard.is_unread());
        guard.judge(guard.before_read(), None, now()).unwrap();
        assert!(guard.judge(slow, Some("other"), now()).is_err());
        assert_eq!(guard.foreign(), None);
        // What is read now counts.
        assert!(
            guard
                .judge(guard.before_read(), Some("other"), now())
                .is_err()
        );
        assert!(guard.foreign().is_some());
    }

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}
