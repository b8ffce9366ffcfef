//! A mount's storage in the host, over the brokered connection.
//!
//! Reads have a deadline; Put, Delete and Commit have none, because giving up on one leaves its
//! effect unknown, and only the caller knows what that costs. A caller that may give up drops the
//! future; in [`super::transaction`] that stops nothing.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::transaction;
use crate::logical::{READ_ONLY, Storage, StorageEntry, StorageError};
use crate::proto::pb;
use crate::proto::pb::storage_client::StorageClient;
use crate::tasks::Tasks;

/// How long a read may take.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Largest message in either direction, in bytes; above the largest entry any storage takes.
const MAX_MESSAGE: usize = 16 << 20;
/// The storage service of one mount.
pub(super) type Client = StorageClient<Channel>;

/// `pb.Storage` as [`Storage`].
///
/// What the host can do is found out by asking, at the first call that wants to know and not
/// before: at registration there is no storage behind the connection.
#[derive(Debug)]
pub(super) struct HostStorage {
    client: Client,
    tasks: Tasks,
    transactional: OnceCell<bool>,
    /// The host answered that it does not know ListPage.
    without_pages: AtomicBool,
}

impl HostStorage {
    pub(super) fn new(channel: Channel, tasks: Tasks) -> Self {
        Self {
            client: StorageClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            tasks,
            transactional: OnceCell::new(),
            without_pages: AtomicBool::new(false),
        }
    }

    /// Asks once whether the host has transactions; a failed question is asked again.
    async fn is_transactional(&self) -> Result<bool, StorageError> {
        let ask = || async {
            match self
                .client
                .clone()
                .is_transactional(read(pb::Empty {}))
                .await
            {
                Ok(reply) => Ok(reply.into_inner().transactional),
                Err(status) if status.code() == Code::Unimplemented => Ok(false),
                Err(status) => Err(failed(&status)),
            }
        };
        self.transactional.get_or_try_init(ask).await.copied()
    }
}

async fn get_in(
    client: &Client,
    key: &str,
    txn: &str,
) -> Result<Option<StorageEntry>, StorageError> {
    let args = pb::StorageGetArgs {
        key: key.to_owned(),
        txn: txn.to_owned(),
    };
    let reply = client.clone().get(read(args)).await;
    let reply = reply.map_err(|status| failed(&status))?.into_inner();
    answered(&reply.err)?;
    Ok(reply.entry.map(|entry| StorageEntry {
        key: entry.key,
        value: entry.value,
        seal_wrap: entry.seal_wrap,
    }))
}

async fn put_in(client: &Client, mut entry: StorageEntry, txn: &str) -> Result<(), StorageError> {
    let args = pb::StoragePutArgs {
        entry: Some(pb::StorageEntry {
            key: std::mem::take(&mut entry.key),
            value: std::mem::take(&mut entry.value),
            seal_wrap: entry.seal_wrap,
        }),
        txn: txn.to_owned(),
    };
    let reply = client.clone().put(args).await;
    answered(&reply.map_err(|status| failed(&status))?.into_inner().err)
}

/// Get, compare, Put, in the given transaction; the empty one is none.
pub(super) async fn put_if(
    client: &Client,
    entry: StorageEntry,
    expected: Option<&[u8]>,
    txn: &str,
) -> Result<(), StorageError> {
    let stored = get_in(client, &entry.key, txn).await?;
    if stored.as_ref().map(|stored| stored.value.as_slice()) != expected {
        return Err(StorageError::Conflict);
    }
    put_in(client, entry, txn).await
}

#[async_trait]
impl Storage for HostStorage {
    async fn get(&self, key: &str) -> Result<Option<StorageEntry>, StorageError> {
        get_in(&self.client, key, "").await
    }

    async fn put(&self, entry: StorageEntry) -> Result<(), StorageError> {
        put_in(&self.client, entry, "").await
    }

    async fn compare_and_put(
        &self,
        entry: StorageEntry,
        expected: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        if self.is_transactional().await? {
            transaction::compare_and_put(&self.client, &self.tasks, entry, expected).await
        } else {
            put_if(&self.client, entry, expected, "").await
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let args = pb::StorageDeleteArgs {
            key: key.to_owned(),
            txn: String::new(),
        };
        let reply = self.client.clone().delete(args).await;
        answered(&reply.map_err(|status| failed(&status))?.into_inner().err)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let args = pb::StorageListArgs {
            prefix: prefix.to_owned(),
            txn: String::new(),
        };
        let reply = self.client.clone().list(read(args)).await;
        let reply = reply.map_err(|status| failed(&status))?.into_inner();
        answered(&reply.err)?;
        let mut keys = reply.keys;
        keys.sort_unstable();
        Ok(keys)
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        if limit == 0 {
            // The host takes this for "all".
            return Ok(Vec::new());
        }
        if !self.without_pages.load(Ordering::Relaxed) {
            let args = pb::StorageListPageArgs {
                prefix: prefix.to_owned(),
                after: after.to_owned(),
                limit: i32::try_from(limit).unwrap_or(i32::MAX),
                txn: String::new(),
            };
            match self.client.clone().list_page(read(args)).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    answered(&reply.err)?;
                    return Ok(reply.keys);
                }
                Err(status) if status.code() == Code::Unimplemented => {
                    self.without_pages.store(true, Ordering::Relaxed);
                }
                Err(status) => return Err(failed(&status)),
            }
        }
        let mut keys = self.list(prefix).await?;
        keys.retain(|key| key.as_str() > after);
        keys.truncate(limit);
        Ok(keys)
    }
}

/// Gives a call that changes nothing its deadline.
pub(super) fn read<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(READ_DEADLINE);
    request
}

/// Judges the error text of a call that succeeded at the gRPC level; empty is none.
pub(super) fn answered(text: &str) -> Result<(), StorageError> {
    if text.is_empty() {
        Ok(())
    } else if text.contains(READ_ONLY) {
        Err(StorageError::ReadOnly)
    } else {
        Err(StorageError::Refused(text.to_owned()))
    }
}

/// Judges a gRPC error: did the host answer, or did no answer arrive?
pub(super) fn failed(status: &Status) -> StorageError {
    let text = status.message();
    // A status with a source was made on this side, of a broken connection.
    let unanswered = status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted
        );
    if unanswered {
        StorageError::Unknown(text.to_owned())
    } else if text.contains(READ_ONLY) {
        StorageError::ReadOnly
    } else {
        StorageError::Refused(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_read_only_text_is_found_inside_others() {
        let wrapped = format!("1 error occurred: {READ_ONLY}");
        assert_eq!(answered(&wrapped), Err(StorageError::ReadOnly));
        assert_eq!(failed(&Status::unknown(wrapped)), StorageError::ReadOnly);
        assert_eq!(answered(""), Ok(()));
    }

    #[test]
    fn a_broken_connection_is_not_an_answer() {
        for status in [
            Status::unavailable("gone"),
            Status::cancelled("gone"),
            Status::deadline_exceeded("gone"),
            Status::from_error(Box::new(std::io::Error::other("gone"))),
        ] {
            assert!(
                matches!(failed(&status), StorageError::Unknown(_)),
                "{status:?}"
            );
        }
        assert_eq!(
            failed(&Status::unknown("missing storage implementation")),
            StorageError::Refused(String::from("missing storage implementation"))
        );
    }
}
