//! What a mount may ask of its host besides storage.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::crypto::Sensitive;

/// The node's part in replication, a bit set of the host.
///
/// Source: OpenBao `sdk/helper/consts/replication.go`; seen on 2.7.2: active node 0x2020 or
/// 0x3000 (single node), standby 0x6000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationState(pub u32);

impl ReplicationState {
    const PERFORMANCE_SECONDARY: u32 = 0x40;
    const DR_SECONDARY: u32 = 0x200;
    const PERFORMANCE_STANDBY: u32 = 0x4000;

    /// Reports whether this node may change things: it is neither standby nor secondary, or the
    /// mount is local to a performance secondary. The rule of the Go engines.
    #[must_use]
    pub const fn may_write(self, local_mount: bool) -> bool {
        self.0 & (Self::PERFORMANCE_STANDBY | Self::DR_SECONDARY) == 0
            && (local_mount || self.0 & Self::PERFORMANCE_SECONDARY == 0)
    }
}

/// The host did not answer a system view call.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SystemViewError {
    /// The host is older than this call.
    #[error("the host does not support this call")]
    Unsupported,
    /// The call failed.
    #[error("{0}")]
    Failed(String),
}

/// Calls back into the host about the mount itself.
#[async_trait]
pub trait SystemView: fmt::Debug + Send + Sync {
    /// Returns the node's part in replication.
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError>;

    /// Reports whether the mount is local to this cluster.
    async fn local_mount(&self) -> Result<bool, SystemViewError>;

    /// Reports whether the mount is being removed.
    async fn tainted(&self) -> Result<bool, SystemViewError>;

    /// Returns the mount's default lease time.
    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError>;

    /// Returns the mount's longest lease time.
    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError>;

    /// Lets the host make a password by one of its password policies.
    async fn generate_password(&self, policy: &str) -> Result<Sensitive<String>, SystemViewError>;
}

/// A system view with fixed answers, for engines run without a host.
#[derive(Clone, Debug)]
pub struct StaticSystemView {
    /// Answer to [`SystemView::replication_state`].
    pub replication_state: ReplicationState,
    /// Answer to [`SystemView::tainted`].
    pub tainted: bool,
}

impl Default for StaticSystemView {
    fn default() -> Self {
        Self {
            replication_state: ReplicationState(0x2020),
            tainted: false,
        }
    }
}

#[async_trait]
impl SystemView for StaticSystemView {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        Ok(self.replication_state)
    }

    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        Ok(false)
    }

    async fn tainted(&self) -> Result<bool, SystemViewError> {
        Ok(self.tainted)
    }

    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        Ok(Duration::from_secs(32 * 24 * 3600))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        Ok(Duration::from_secs(32 * 24 * 3600))
    }

    async fn generate_password(&self, _policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        Err(SystemViewError::Unsupported)
    }
}
