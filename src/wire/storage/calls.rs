//! Single calls on a mount's storage, and what their outcomes mean.

use std::error::Error as _;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::logical::{READ_ONLY, StorageEntry, StorageError};
use crate::proto::pb;
use crate::proto::pb::storage_client::StorageClient;

/// How long a read may take.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(10);
/// The storage service of one mount.
pub(super) type Client = StorageClient<Channel>;

/// Get, in the given transaction; the empty one is none.
pub(super) async fn get_in(
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

/// Put, in the given transaction. Custody ends here: the message belongs to the gRPC library, which
/// frees it once it is sent (see `crypto::sensitive`).
pub(super) async fn put_in(
    client: &Client,
    mut entry: StorageEntry,
    txn: &str,
) -> Result<(), StorageError> {
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

/// Get, compare, Put, in the given transaction.
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
