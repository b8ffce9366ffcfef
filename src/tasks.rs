//! Tracked background tasks: the only caller of `tokio::spawn`.
//!
//! A host may cancel a request at any instant, which drops the handler's future. Work that must
//! not stop half-way (a password change after its first send) is spawned here: the request waits
//! for it as long as it likes, the task runs on, and the mount's Cleanup waits for it briefly.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of background tasks with one cancellation signal.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// Creates an empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `work` on the runtime. Dropping the returned handle does not stop it.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that spawns, tracked"
    )]
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(work))
    }

    /// Waits until no task runs; more may be started meanwhile.
    pub async fn idle(&self) {
        // A tracker is waited for in its closed state only; that keeps nothing out of it.
        self.tracker.close();
        self.tracker.wait().await;
        if !self.is_stopping() {
            self.tracker.reopen();
        }
    }

    /// Returns the signal that [`Tasks::stop`] gives; tasks that loop must watch it.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Reports whether [`Tasks::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Signals cancellation and waits until every task ended or `grace` passed.
    ///
    /// Returns whether all tasks ended in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the signal given and the tasks running.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
    }
}
