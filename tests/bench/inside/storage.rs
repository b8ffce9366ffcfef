//! A storage that counts its calls, by what they do and to which folder, and how long they take.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use vault_plugin_secrets_smtp::logical::{Storage, StorageEntry, StorageError};

/// What was called so far.
#[derive(Debug, Default)]
pub struct Count {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
    kinds: Mutex<Kinds>,
}

/// How many calls there were by what they do and to which folder: `("Put", "trail/")`.
pub type Kinds = BTreeMap<(&'static str, String), u64>;

impl Count {
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    pub fn kinds(&self) -> Kinds {
        let kinds = self.kinds.lock();
        kinds.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn count<T>(&self, does: &'static str, key: &str, call: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = call.await;
        let folder = key.split_inclusive('/').next().unwrap_or_default();
        let kind = (does, folder.to_owned());
        let kinds = self.kinds.lock();
        *kinds
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let taken = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(taken, Ordering::Relaxed);
        answer
    }
}

/// A storage whose calls are counted.
#[derive(Debug)]
pub struct Counted {
    pub inner: Arc<dyn Storage>,
    pub count: Arc<Count>,
}

#[async_trait]
impl Storage for Counted {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        self.count.count("Get", key, self.inner.get(key)).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        let key = entry.key.clone();
        self.count.count("Put", &key, self.inner.put(entry)).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        let key = entry.key.clone();
        let call = self.inner.compare_and_put(entry, expected);
        self.count.count("Put", &key, call).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.count
            .count("Delete", key, self.inner.delete(key))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.count
            .count("List", prefix, self.inner.list(prefix))
            .await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let call = self.inner.list_page(prefix, after, limit);
        self.count.count("List", prefix, call).await
    }
}
