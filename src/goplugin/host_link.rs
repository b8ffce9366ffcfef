//! Whether the host is still there.
//!
//! go-plugin has no watchdog of its own: if a host dies by SIGKILL, its plugins live on, holding
//! whatever they hold. Three signs are watched, because each can be missing: the connections are
//! gone (or never came), the broker stream ended, the parent process changed. (`PR_SET_PDEATHSIG`
//! is no help: it fires when the forking *thread* of a Go host ends.)
//!
//! A host that shuts a plugin down in good order closes the broker stream *before* it asks for the
//! shutdown, so a sign counts only once it has lasted a while.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a sign must last.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the first connection may take; hosts give a plugin one minute to start.
const FIRST_CONNECTION: Duration = Duration::from_secs(120);
/// How often the parent process is looked at.
const PARENT_INTERVAL: Duration = Duration::from_secs(2);

/// Why a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The host asked for it.
    Shutdown,
    /// The operating system or an operator asked for it.
    Terminated,
    /// The host went away without a word.
    HostLost,
}

/// What is known of the host's connections.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Connections open now.
    open: usize,
    /// There was one at some time.
    connected: bool,
    /// The broker stream was opened and has ended.
    broker_ended: bool,
}

impl State {
    const fn looks_lost(self) -> bool {
        self.broker_ended || (self.connected && self.open == 0)
    }
}

/// Shared knowledge of the link to the host. Clones see the same state.
#[derive(Clone, Debug)]
pub(super) struct HostLink {
    state: watch::Sender<State>,
    shutdown: CancellationToken,
    parent: u32,
}

impl HostLink {
    /// Starts watching. To be called before the host can know that this process runs, so that
    /// the parent seen here is the host.
    pub(super) fn new() -> Self {
        Self {
            parent: std::os::unix::process::parent_id(),
            state: watch::Sender::new(State::default()),
            shutdown: CancellationToken::new(),
        }
    }

    /// Counts a connection until the guard is dropped.
    pub(super) fn connection_opened(&self) -> ConnectionGuard {
        self.state.send_modify(|state| {
            state.open += 1;
            state.connected = true;
        });
        ConnectionGuard(self.clone())
    }

    /// Returns how many connections are open.
    pub(super) fn open_connections(&self) -> usize {
        self.state.borrow().open
    }

    /// Notes that the broker stream ended.
    pub(super) fn broker_ended(&self) {
        self.state.send_modify(|state| state.broker_ended = true);
    }

    /// Notes that the host asked for the end.
    pub(super) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Waits until the host asks for the end or is gone.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is consumed.
    pub(super) async fn ended(&self) -> Ending {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Ending::Shutdown,
            () = self.lost() => Ending::HostLost,
            () = self.orphaned() => Ending::HostLost,
        }
    }

    async fn lost(&self) {
        let mut state = self.state.subscribe();
        let first = state.wait_for(|state| state.connected);
        if tokio::time::timeout(FIRST_CONNECTION, first).await.is_err() {
            return;
        }
        loop {
            // The sender lives in self, so waiting cannot fail.
            let _ = state.wait_for(|state| state.looks_lost()).await;
            let recovered = state.wait_for(|state| !state.looks_lost());
            if tokio::time::timeout(PATIENCE, recovered).await.is_err() {
                return;
            }
        }
    }

    /// Waits until this process has another parent than it began with.
    async fn orphaned(&self) {
        let mut interval = tokio::time::interval(PARENT_INTERVAL);
        while std::os::unix::process::parent_id() == self.parent {
            interval.tick().await;
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct ConnectionGuard(HostLink);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0
            .state
            .send_modify(|state| state.open = state.open.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_comes_is_waited_for_two_minutes() {
        let link = HostLink::new();
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, link.lost()).await.is_err());
        assert_eq!(link.ended().await, Ending::HostLost);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_connection_counts_and_a_reconnect_saves() {
        let link = HostLink::new();
        let first = link.connection_opened();
        let second = link.connection_opened();
        drop(first);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, link.lost()).await.is_err());
        drop(second);
        let third = link.connection_opened();
        assert!(tokio::time::timeout(hour, link.lost()).await.is_err());
        drop(third);
        assert_eq!(link.ended().await, Ending::HostLost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_right_after_the_broker_ended_is_a_shutdown() {
        let link = HostLink::new();
        let _open = link.connection_opened();
        link.broker_ended();
        let (ending, ()) = tokio::join!(link.ended(), async {
            tokio::time::sleep(PATIENCE / 2).await;
            link.shut_down();
        });
        assert_eq!(ending, Ending::Shutdown);
    }
}
