//! What a mount may ask of its host besides storage.
//!
//! Left out on purpose:
//!
//! - `ResponseWrapData`: OpenBao answers it with "no namespace". Force wrapping in the answer
//!   instead ([`super::Wrap`]).
//! - What only Vault has: identity tokens, rotation jobs, events and observations. No such server
//!   was at hand to prove them on, and an engine that relies on one does not run on OpenBao.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{Entity, Group};
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

/// The server's version. Informative: features are found out by behaviour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerVersion {
    /// For example `2.7.2`.
    pub version: String,
    /// For example `rc1`; mostly empty.
    pub prerelease: String,
    /// For example `ent`; mostly empty.
    pub metadata: String,
}

/// The cluster the node belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// May be empty.
    pub name: String,
    /// The cluster's UUID.
    pub id: String,
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

    /// Reports whether the operator turned the host's caches off; a plugin should follow.
    async fn caching_disabled(&self) -> Result<bool, SystemViewError>;

    /// Reports whether the host locks its memory against swapping.
    async fn mlock_enabled(&self) -> Result<bool, SystemViewError>;

    /// Returns the mount's default lease time.
    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError>;

    /// Returns the mount's longest lease time.
    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError>;

    /// Looks an entity up; `None` if there is none of this id. The empty id, which callers
    /// without an entity have, is not asked about.
    async fn entity(&self, id: &str) -> Result<Option<Entity>, SystemViewError>;

    /// Returns the groups an entity is in, directly or through other groups.
    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, SystemViewError>;

    /// Returns the server's version.
    async fn server_version(&self) -> Result<ServerVersion, SystemViewError>;

    /// Returns the cluster's name and id.
    async fn cluster(&self) -> Result<Cluster, SystemViewError>;

    /// Lets the host make a password by one of its password policies.
    async fn generate_password(&self, policy: &str) -> Result<Sensitive<String>, SystemViewError>;
}

/// A system view with fixed answers, for engines run without a host. The default is the active
/// node of a cluster with 32 days of lease time that knows nobody.
#[derive(Clone, Debug)]
pub struct StaticSystemView {
    /// Answer to [`SystemView::replication_state`].
    pub replication_state: ReplicationState,
    /// Answer to [`SystemView::local_mount`].
    pub local_mount: bool,
    /// Answer to [`SystemView::tainted`].
    pub tainted: bool,
    /// Answer to [`SystemView::caching_disabled`].
    pub caching_disabled: bool,
    /// Answer to [`SystemView::default_lease_ttl`].
    pub default_lease_ttl: Duration,
    /// Answer to [`SystemView::max_lease_ttl`].
    pub max_lease_ttl: Duration,
    /// Whom [`SystemView::entity`] knows, by their ids.
    pub entities: BTreeMap<String, Entity>,
    /// Answers to [`SystemView::groups_of_entity`], by the entities' ids.
    pub groups: BTreeMap<String, Vec<Group>>,
    /// Answer to [`SystemView::server_version`].
    pub server_version: ServerVersion,
    /// Answer to [`SystemView::cluster`].
    pub cluster: Cluster,
}

impl Default for StaticSystemView {
    fn default() -> Self {
        let month = Duration::from_secs(32 * 24 * 3600);
        Self {
            replication_state: ReplicationState(0x2020),
            local_mount: false,
            tainted: false,
            caching_disabled: false,
            default_lease_ttl: month,
            max_lease_ttl: month,
            entities: BTreeMap::new(),
            groups: BTreeMap::new(),
            server_version: ServerVersion::default(),
            cluster: Cluster::default(),
        }
    }
}

#[async_trait]
impl SystemView for StaticSystemView {
    async fn replication_state(&self) -> Result<ReplicationState, SystemViewError> {
        Ok(self.replication_state)
    }

    async fn local_mount(&self) -> Result<bool, SystemViewError> {
        Ok(self.local_mount)
    }

    async fn tainted(&self) -> Result<bool, SystemViewError> {
        Ok(self.tainted)
    }

    async fn caching_disabled(&self) -> Result<bool, SystemViewError> {
        Ok(self.caching_disabled)
    }

    async fn mlock_enabled(&self) -> Result<bool, SystemViewError> {
        Ok(false)
    }

    async fn default_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        Ok(self.default_lease_ttl)
    }

    async fn max_lease_ttl(&self) -> Result<Duration, SystemViewError> {
        Ok(self.max_lease_ttl)
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, SystemViewError> {
        Ok(self.entities.get(id).cloned())
    }

    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, SystemViewError> {
        Ok(self.groups.get(id).cloned().unwrap_or_default())
    }

    async fn server_version(&self) -> Result<ServerVersion, SystemViewError> {
        Ok(self.server_version.clone())
    }

    async fn cluster(&self) -> Result<Cluster, SystemViewError> {
        Ok(self.cluster.clone())
    }

    async fn generate_password(&self, _policy: &str) -> Result<Sensitive<String>, SystemViewError> {
        Err(SystemViewError::Unsupported)
    }
}
