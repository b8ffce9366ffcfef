//! A mount's storage in the host, over the brokered connection.
//!
//! Reads have a deadline; Put, Delete and Commit have none, because giving up on one leaves its
//! effect unknown, and only the caller knows what that costs. A caller that may give up drops the
//! future; in [`transaction`] that stops nothing.

mod calls;
mod transaction;

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tonic::Code;
use tonic::transport::Channel;

use crate::logical::{Storage, StorageEntry, StorageError};
use crate::proto::pb;
use crate::proto::pb::storage_client::StorageClient;
use crate::tasks::Tasks;

use calls::{Client, answered, failed, get_in, put_if, put_in, read};

/// Largest message in either direction, in bytes; above the largest entry any storage takes.
const MAX_MESSAGE: usize = 16 << 20;

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
