//! The trait an engine implements and what it is handed.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{ActiveNode, Error, Reply, Request, Storage, SystemView};

/// What a backend may call back into: its own storage and its host. One per mount.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The mount's private storage.
    pub storage: Arc<dyn Storage>,
    /// The host's view of the mount.
    pub system: Arc<dyn SystemView>,
}

impl Mount {
    /// Requires that this node may write, issue leases and force wrapping. To be asked before
    /// anything else is done.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] on a standby, by which the host sends the request to the active node;
    /// what becomes of a [`super::SystemViewError`] if the host does not say which it is.
    pub async fn active_node(&self) -> Result<ActiveNode, Error> {
        let state = self.system.replication_state().await?;
        // Only performance secondaries make a difference for local mounts: ask only then.
        let local =
            !state.may_write(false) && state.may_write(true) && self.system.local_mount().await?;
        if state.may_write(local) {
            Ok(ActiveNode(()))
        } else {
            Err(Error::ReadOnly)
        }
    }
}

/// What a backend is told when it is set up, before storage may be used.
#[derive(Clone, Debug, Default)]
pub struct BackendInfo {
    /// Stable per mount across restarts; names the mount in logs.
    pub uuid: String,
}

/// Path lists the host reads once, when the mount is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialPaths {
    /// Paths that need `sudo`; exact or with a trailing `*`. `+` does not work here (seen).
    pub root: Vec<String>,
    /// Paths served without a token.
    pub unauthenticated: Vec<String>,
    /// Storage prefixes that are not replicated.
    pub local_storage: Vec<String>,
    /// Storage prefixes to be wrapped by the seal.
    pub seal_wrap_storage: Vec<String>,
}

/// A secrets engine, mounted once per instance. An engine that is a table of routes and needs no
/// more is a [`super::RoutedBackend`].
///
/// # Cancel safety
///
/// The host may drop any of these futures at any await (client gone, 90 s limit); work that must
/// finish belongs on a tracked task.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// Returns the special paths; must not need storage. None unless implemented.
    fn special_paths(&self) -> SpecialPaths {
        SpecialPaths::default()
    }

    /// Called once, with storage usable (read-only on a standby). Blocks the mount: no network.
    ///
    /// # Errors
    ///
    /// An error leaves the mount without backend at a reload: only defects may fail here.
    async fn initialize(&self, _mount: &Mount) -> Result<(), Error> {
        Ok(())
    }

    /// Answers one request of any operation but [`super::Operation::ResolvePath`], which `wire`
    /// answers itself.
    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply;

    /// Tells whether the path's entry exists: `None` = unchecked (the host then says `update`).
    /// The request comes without its data.
    ///
    /// # Errors
    ///
    /// A storage error fails the request before it is authorised.
    async fn existence_check(
        &self,
        _mount: &Mount,
        _request: Request,
    ) -> Result<Option<bool>, Error> {
        Ok(None)
    }

    /// Another node changed this key: drop what is cached of it.
    async fn invalidate_key(&self, _key: &str) {}

    /// The mount goes away from this process; must return within about a second.
    async fn cleanup(&self) {}
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryStorage, ReplicationState, StaticSystemView};
    use super::*;

    #[tokio::test]
    async fn only_a_node_that_may_write_is_the_active_one() {
        for (state, local_mount, active) in [
            (0x2020, false, true),
            (0x3000, false, true),
            (0x6000, false, false),
            (0x6000, true, false),
            (0x40, false, false),
            (0x40, true, true),
            (0x240, true, false),
        ] {
            let mount = Mount {
                storage: Arc::new(MemoryStorage::new()),
                system: Arc::new(StaticSystemView {
                    replication_state: ReplicationState(state),
                    local_mount,
                    ..StaticSystemView::default()
                }),
            };
            let answer = mount.active_node().await.map(drop);
            let wanted = if active { Ok(()) } else { Err(Error::ReadOnly) };
            assert_eq!(answer, wanted, "{state:#x} {local_mount}");
        }
    }
}
