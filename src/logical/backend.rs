//! The trait an engine implements and what it is handed.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, Reply, Request, Storage, SystemView};

/// What a backend may call back into: its own storage and its host. One per mount.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The mount's private storage.
    pub storage: Arc<dyn Storage>,
    /// The host's view of the mount.
    pub system: Arc<dyn SystemView>,
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

/// A secrets engine, mounted once per instance.
///
/// # Cancel safety
///
/// The host may drop any of these futures at any await (client gone, 90 s limit); work that must
/// finish belongs on a tracked task.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// Returns the special paths; must not need storage.
    fn special_paths(&self) -> SpecialPaths;

    /// Called once, with storage usable (read-only on a standby). Blocks the mount: no network.
    ///
    /// # Errors
    ///
    /// An error leaves the mount without backend at a reload: only defects may fail here.
    async fn initialize(&self, mount: &Mount) -> Result<(), Error>;

    /// Answers one request of any operation but [`super::Operation::ResolvePath`], which `wire`
    /// answers itself.
    async fn handle_request(&self, mount: &Mount, request: Request) -> Reply;

    /// Tells whether the path's entry exists: `None` = unchecked (the host then says `update`).
    /// The request comes without its data.
    ///
    /// # Errors
    ///
    /// A storage error fails the request before it is authorised.
    async fn existence_check(&self, mount: &Mount, request: Request)
    -> Result<Option<bool>, Error>;

    /// Another node changed this key: drop what is cached of it.
    async fn invalidate_key(&self, key: &str);

    /// The mount goes away from this process; must return within about a second.
    async fn cleanup(&self);
}
