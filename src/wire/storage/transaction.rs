//! Compare-and-put in a transaction of the host, on a task of its own from Begin to the end.
//!
//! What must stay true:
//!
//! - Whatever becomes of the caller, a transaction that was begun is committed or rolled back:
//!   the host keeps it in memory until then. Only the end of the process may leave one behind.
//! - No Rollback overtakes a Put. Calls on one connection are not ordered, and to the host an
//!   unknown transaction is none: a Put that comes after the Rollback would be written uncompared.
//!
//! Source: OpenBao `sdk/plugin/grpc_storage.go`; behaviour confirmed with OpenBao 2.7.2.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::calls::{Client, READ_DEADLINE, answered, failed, put_if, read};
use crate::logical::{StorageEntry, StorageError};
use crate::proto::pb;
use crate::tasks::Tasks;

/// What a host says when somebody else changed what a transaction had read.
///
/// Source: OpenBao `sdk/physical/physical.go` (`ErrTransactionCommitFailure`); seen on 2.7.2.
const COMMIT_FAILED: &str = "transaction commit failed";
/// How long a call without an answer may still be at work in the host.
const STILL_AT_WORK: Duration = READ_DEADLINE;

/// Writes `entry` if the stored value equals `expected`.
///
/// # Cancel safety
///
/// Dropping the future does not stop the write.
pub(super) async fn compare_and_put(
    client: &Client,
    tasks: &Tasks,
    entry: StorageEntry,
    expected: Option<&[u8]>,
) -> Result<(), StorageError> {
    let expected = expected.map(|value| Zeroizing::new(value.to_vec()));
    let (client, spawner) = (client.clone(), tasks.clone());
    let whole = tasks.spawn(async move {
        let id = begin(&client, &spawner).await?;
        let expected = expected.as_ref().map(|value| value.as_slice());
        let (outcome, ended) = match put_if(&client, entry, expected, &id).await {
            Ok(()) => {
                let outcome = commit(&client, &id).await;
                let ended = !matches!(outcome, Err(StorageError::Unknown(_)));
                (outcome, ended)
            }
            Err(error) => (Err(error), false),
        };
        if !ended {
            let wait = matches!(outcome, Err(StorageError::Unknown(_)));
            // The caller need not wait for this.
            spawner.spawn(roll_back(client, id, wait, spawner.cancelled()));
        }
        outcome
    });
    whole.await.unwrap_or_else(|ended| {
        let text = format!("the transaction was not followed to its end: {ended}");
        Err(StorageError::Unknown(text))
    })
}

/// Starts a transaction and returns its id. The call itself has no deadline, because the id comes
/// with its answer: if that is late it is awaited for the sake of the rollback only.
async fn begin(client: &Client, tasks: &Tasks) -> Result<String, StorageError> {
    let mut called = client.clone();
    let mut answer = Box::pin(async move {
        let reply = called.begin_tx(pb::Empty {}).await;
        let reply = reply.map_err(|status| failed(&status))?.into_inner();
        answered(&reply.err)?;
        Ok(reply.txn)
    });
    if let Ok(answer) = timeout(READ_DEADLINE, &mut answer).await {
        return answer;
    }
    let (client, stopping) = (client.clone(), tasks.cancelled());
    tasks.spawn(async move {
        let late = tokio::select! {
            () = stopping.cancelled() => return,
            late = answer => late,
        };
        if let Ok(id) = late {
            roll_back(client, id, false, stopping).await;
        }
    });
    let text = String::from("the host did not begin a transaction in time");
    Err(StorageError::Unknown(text))
}

async fn commit(client: &Client, id: &str) -> Result<(), StorageError> {
    let args = pb::EndTxArgs { txn: id.to_owned() };
    let reply = client.clone().commit(args).await;
    let text = reply.map_err(|status| failed(&status))?.into_inner().err;
    if text.contains(COMMIT_FAILED) {
        return Err(StorageError::Conflict);
    }
    answered(&text)
}

/// Ends a transaction that is not to be committed; with `wait` only when a call without an answer
/// must be done in the host. The end of the process does not wait for that: a transaction left in
/// the host's memory is a smaller harm than an uncompared write.
async fn roll_back(client: Client, id: String, wait: bool, stopping: CancellationToken) {
    if wait {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = sleep(STILL_AT_WORK) => {}
        }
    }
    let args = read(pb::EndTxArgs { txn: id });
    if let Err(status) = client.clone().rollback(args).await {
        tracing::debug!(code = ?status.code(), "a transaction was not rolled back");
    }
}
