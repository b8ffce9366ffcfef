//! The mounts of this process, by the id the server tells them apart with.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::Instrument;

use crate::logical::{Backend, Error, Mount};

/// The metadata key with the mount's id.
///
/// Source: OpenBao `sdk/helper/pluginutil/multiplexing.go`.
const MULTIPLEX_ID: &str = "multiplex_id";

/// One mount.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) uuid: String,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) mount: Mount,
}

impl Instance {
    /// Lets the backend clean up; a panic in it stays there.
    pub(super) async fn clean_up(&self) {
        let span = tracing::info_span!("cleanup", mount = self.uuid);
        let _logged_by_the_hook = guarded(async {
            self.backend.cleanup().await;
            Ok(())
        })
        .instrument(span)
        .await;
    }
}

/// Runs a backend's `work` and makes an error of a panic. Its text is not looked at: it may hold a
/// secret. The place is logged by the panic hook.
///
/// Unwind safety is the backend's: state shared between requests is behind locks and in storage.
pub(super) async fn guarded<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|_text| {
            Err(Error::internal(
                "a defect in the plugin; the server's log names the place",
            ))
        })
}

/// The id of a mount in this process: new for each process, and empty where the server does not
/// put several mounts into one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MultiplexId(String);

impl MultiplexId {
    /// Reads the id from a call's metadata; without one it is the empty id.
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        let id = metadata
            .get(MULTIPLEX_ID)
            .and_then(|value| value.to_str().ok());
        Self(id.unwrap_or_default().to_owned())
    }
}

/// The table of mounts. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Instances(Arc<Mutex<BTreeMap<MultiplexId, Arc<Instance>>>>);

impl Instances {
    /// Adds a mount and returns the one it replaces.
    pub(super) fn insert(&self, id: MultiplexId, instance: Instance) -> Option<Arc<Instance>> {
        self.table().insert(id, Arc::new(instance))
    }

    /// Finds the mount a call is meant for.
    ///
    /// # Errors
    ///
    /// The gRPC error that servers know for an unknown id.
    pub(super) fn find(&self, metadata: &MetadataMap) -> Result<Arc<Instance>, Status> {
        self.table()
            .get(&MultiplexId::of(metadata))
            .cloned()
            .ok_or_else(|| Status::unknown("no backend instance found"))
    }

    /// Takes a mount out: no further call finds it.
    pub(super) fn remove(&self, id: &MultiplexId) -> Option<Arc<Instance>> {
        self.table().remove(id)
    }

    /// Takes all mounts out and cleans them up, all at the same time.
    pub(super) async fn clean_up_all(&self) {
        let all = std::mem::take(&mut *self.table());
        join_all(all.values().map(|instance| instance.clean_up())).await;
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<MultiplexId, Arc<Instance>>> {
        // Never held across an await, and every change is one call on the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
