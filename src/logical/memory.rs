//! [`MemoryStorage`]: the reference implementation of [`Storage`].
//!
//! For tests and simulations. Where hosts differ it is the strictest of them, so that an engine
//! that works on it works everywhere; nothing outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Storage, StorageEntry, StorageError};

/// Every byte of a storage at one moment. `Debug` shows keys and sizes only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, StorageEntry>);

impl Snapshot {
    /// Returns the entries in key order.
    pub fn entries(&self) -> impl Iterator<Item = &StorageEntry> {
        self.0.values()
    }
}

/// Storage in memory; each call is atomic. A page of at most 0 keys is empty.
///
/// Source for the rules: OpenBao 2.7 and Vault as observed through a plugin (keys with `..` are
/// refused by Vault, larger values than about 1 MiB by raft).
#[derive(Default)]
pub struct MemoryStorage {
    // A blocking mutex: it is never held across an await.
    entries: Mutex<BTreeMap<String, StorageEntry>>,
    read_only: AtomicBool,
}

impl MemoryStorage {
    /// The largest value taken, in bytes: what raft was seen to take before it adds its own.
    pub const MAX_VALUE_BYTES: usize = 1_048_000;

    /// Builds an empty, writable storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes writes fail with [`StorageError::ReadOnly`], as on a standby node, or work again.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::SeqCst);
    }

    /// Copies everything that is stored.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().clone())
    }

    /// Puts everything back as it was, as an operator's restore does, even if read-only.
    pub fn restore(&self, snapshot: &Snapshot) {
        *self.lock() = snapshot.0.clone();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, StorageEntry>> {
        // A panic between lock and unlock cannot leave the map half-written.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<(), StorageError> {
        if self.read_only.load(Ordering::SeqCst) {
            Err(StorageError::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn accept(&self, entry: &StorageEntry) -> Result<(), StorageError> {
        check_key(&entry.key)?;
        self.writable()?;
        if entry.value.len() > Self::MAX_VALUE_BYTES {
            return Err(refused("put failed due to value being too large"));
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("entries", &self.lock().len())
            .field("read_only", &self.read_only)
            .finish()
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        check_key(key)?;
        Ok(self.lock().get(key).cloned())
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        self.accept(&entry)?;
        self.lock().insert(entry.key.clone(), entry);
        Ok(())
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        self.accept(&entry)?;
        let mut entries = self.lock();
        let stored = entries.get(&entry.key);
        if stored.map(|stored| stored.value.as_slice()) != expected {
            return Err(StorageError::Conflict);
        }
        entries.insert(entry.key.clone(), entry);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        check_key(key)?;
        self.writable()?;
        self.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_page(prefix, "", usize::MAX).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        if !prefix.is_empty() {
            let folder = prefix.strip_suffix('/');
            check_key(folder.ok_or_else(|| refused("a list prefix must end in a slash"))?)?;
        }
        let entries = self.lock();
        let names: BTreeSet<&str> = entries
            .range(prefix.to_owned()..)
            .map_while(|(key, _)| key.strip_prefix(prefix))
            .map(one_level)
            .collect();
        Ok(names
            .into_iter()
            .filter(|name| !name.is_empty() && *name > after)
            .take(limit)
            .map(String::from)
            .collect())
    }
}

/// Cuts a key after its first slash: a folder is listed once, whatever is in it.
fn one_level(key: &str) -> &str {
    key.split_inclusive('/').next().unwrap_or("")
}

fn check_key(key: &str) -> Result<(), StorageError> {
    if key.is_empty() || key.contains("..") || key.split('/').any(|part| matches!(part, "" | ".")) {
        return Err(refused("relative paths not supported"));
    }
    Ok(())
}

fn refused(text: &str) -> StorageError {
    StorageError::Refused(String::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn filled() -> MemoryStorage {
        let storage = MemoryStorage::new();
        for key in [
            "st/dir/b", "st/dir/a", "st/a", "st/dir.x", "st/z", "sta", "config",
        ] {
            storage
                .put(StorageEntry::new(key, key.as_bytes().to_vec()))
                .await
                .unwrap();
        }
        storage
    }

    #[tokio::test]
    async fn a_list_is_one_level_sorted_with_folders() {
        let storage = filled().await;
        assert_eq!(storage.list("").await.unwrap(), ["config", "st/", "sta"]);
        // As the host sorts: by the shown name, slash included.
        assert_eq!(
            storage.list("st/").await.unwrap(),
            ["a", "dir.x", "dir/", "z"]
        );
        assert_eq!(storage.list("st/dir/").await.unwrap(), ["a", "b"]);
        assert!(storage.list("none/").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_gap_or_repetition() {
        let storage = filled().await;
        let mut seen: Vec<String> = Vec::new();
        for length in [3, 1, 0] {
            let after = seen.last().cloned().unwrap_or_default();
            let page = storage.list_page("st/", &after, 3).await.unwrap();
            assert_eq!(page.len(), length);
            seen.extend(page);
        }
        assert_eq!(seen, storage.list("st/").await.unwrap());
    }

    #[tokio::test]
    async fn compare_and_put_writes_only_over_what_was_expected() {
        let storage = MemoryStorage::new();
        let entry = |value: &[u8]| StorageEntry::new("k", value.to_vec());
        let cas = |value, expected| storage.compare_and_put(entry(value), expected);
        assert_eq!(cas(b"1", Some(b"0")).await, Err(StorageError::Conflict));
        assert_eq!(cas(b"1", None).await, Ok(()));
        assert_eq!(cas(b"2", None).await, Err(StorageError::Conflict));
        assert_eq!(cas(b"2", Some(b"1")).await, Ok(()));
        assert_eq!(storage.get("k").await.unwrap().unwrap().value, b"2");
    }

    #[tokio::test]
    async fn a_read_only_storage_reads_and_never_writes() {
        let storage = filled().await;
        let before = storage.snapshot();
        storage.set_read_only(true);
        let entry = StorageEntry::new("config", Vec::new());
        assert_eq!(
            storage.put(entry.clone()).await,
            Err(StorageError::ReadOnly)
        );
        let cas = storage.compare_and_put(entry, Some(b"config")).await;
        assert_eq!(cas, Err(StorageError::ReadOnly));
        assert_eq!(storage.delete("config").await, Err(StorageError::ReadOnly));
        assert_eq!(storage.snapshot(), before);
        assert!(storage.get("config").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_snapshot_brings_every_byte_back() {
        let storage = filled().await;
        let before = storage.snapshot();
        storage.delete("config").await.unwrap();
        storage.delete("config").await.unwrap();
        storage
            .put(StorageEntry::new("st/a", vec![1]))
            .await
            .unwrap();
        assert_ne!(storage.snapshot(), before);
        storage.restore(&before);
        assert_eq!(storage.snapshot(), before);
        assert_eq!(before.entries().count(), 7);
    }

    #[tokio::test]
    async fn keys_and_values_a_host_would_refuse_are_refused() {
        let storage = MemoryStorage::new();
        for key in ["", "/a", "a/", "a//b", "a/../b", "a..b", "./a"] {
            let put = storage.put(StorageEntry::new(key, Vec::new())).await;
            assert!(matches!(put, Err(StorageError::Refused(_))), "{key}");
        }
        let size = MemoryStorage::MAX_VALUE_BYTES;
        let put = |size| storage.put(StorageEntry::new("k", vec![0; size]));
        assert_eq!(put(size).await, Ok(()));
        assert!(put(size + 1).await.is_err());
        assert!(storage.list("st").await.is_err());
    }
}
