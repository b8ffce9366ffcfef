//! The host's encrypted storage, private to one mount.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroize;

/// One stored value.
#[derive(Clone, PartialEq, Eq)]
pub struct StorageEntry {
    /// The key, relative to the mount, without leading slash.
    pub key: String,
    /// The value; at most about 1 MiB on raft.
    pub value: Vec<u8>,
    /// Asks the host to wrap the value with its seal as well, where the seal supports it.
    pub seal_wrap: bool,
}

impl StorageEntry {
    /// Builds an entry that is not seal-wrapped.
    pub fn new(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self {
            key: key.into(),
            value,
            seal_wrap: false,
        }
    }
}

impl Drop for StorageEntry {
    fn drop(&mut self) {
        // The keyring passes through here.
        self.value.zeroize();
    }
}

impl fmt::Debug for StorageEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageEntry")
            .field("key", &self.key)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("seal_wrap", &self.seal_wrap)
            .finish()
    }
}

/// Why a storage call failed, by what the caller may conclude.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StorageError {
    /// This node is a standby; nothing was written.
    #[error("cannot write to readonly storage")]
    ReadOnly,
    /// [`Storage::compare_and_put`] found another value than expected; nothing was written.
    #[error("the entry was changed by someone else")]
    Conflict,
    /// The host answered with an error. For a write, the effect is not certain.
    #[error("{0}")]
    Refused(String),
    /// No answer arrived (the connection broke): the effect of a write is unknown.
    #[error("{0}")]
    Unknown(String),
}

/// Storage calls of one mount. Not usable before Initialize, which is why no constructor gets one.
///
/// # Cancel safety
///
/// Dropping the future of a write leaves its effect unknown.
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync {
    /// Reads an entry; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError>;

    /// Writes an entry.
    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError>;

    /// Writes an entry if the stored value still equals `expected` (`None`: no entry).
    ///
    /// Atomic where the host has transactions; elsewhere a Get followed by a Put, which the
    /// caller's own lock must make safe.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] if the stored value differs, else as [`Storage::put`].
    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError>;

    /// Removes an entry; removing a missing one is no error.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// Lists one level below `prefix` (empty, or ending in `/`), sorted; folders end in `/`.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Like [`Storage::list`], but only keys after `after` (exclusive; empty = from the start)
    /// and at most `limit` of them.
    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError>;
}
