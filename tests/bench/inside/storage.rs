//! A storage that counts its calls and how long they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use vault_plugin_secrets_smtp::logical::{Storage, StorageEntry, StorageError};

/// What was called so far.
#[derive(Debug, Default)]
pub struct Count {
    calls: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Count {
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    async fn count<T>(&self, call: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = call.await;
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
        self.count.count(self.inner.get(key)).await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        self.count.count(self.inner.put(entry)).await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        let call = self.inner.compare_and_put(entry, expected);
        self.count.count(call).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.count.count(self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.count.count(self.inner.list(prefix)).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let call = self.inner.list_page(prefix, after, limit);
        self.count.count(call).await
    }
}
