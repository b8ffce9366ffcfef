//! A request as an engine sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Data, Operation};

/// The host's identifier of one client request, the one in its audit log.
///
/// Empty for ticks, renewals and revocations. The host repeats a request with the same id when
/// the plugin process had died under it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// Wraps the host's identifier.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the identifier, empty if the host gave none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One request to a mounted backend, already authorised by the host.
///
/// `Debug` is safe to log: [`Data`] shows its keys only.
#[derive(Clone, Debug)]
pub struct Request {
    /// The host's identifier of the request.
    pub id: RequestId,
    /// What is to be done.
    pub operation: Operation,
    /// The path below the mount, without leading slash; list paths may end in one.
    pub path: String,
    /// Body or query parameters.
    pub data: Data,
    /// The mount's path with its namespace, for example `team1/smtp/`.
    pub mount_point: String,
    /// What the host calls the caller, for example `userpass-alice`; empty if unknown.
    pub display_name: String,
    /// The caller's identity entity; empty for root and for tokens without one.
    pub entity_id: String,
    /// The wrapping TTL the client itself asked for.
    pub wrap_ttl: Option<Duration>,
    /// The client's address, where the host tells it.
    pub remote_addr: Option<String>,
    /// Request headers the mount lets through.
    pub headers: BTreeMap<String, Vec<String>>,
}

impl Request {
    /// Builds a bare request, as a tick or a test sends it.
    #[must_use]
    pub fn new(operation: Operation, path: &str, data: Data) -> Self {
        Self {
            id: RequestId::default(),
            operation,
            path: path.to_owned(),
            data,
            mount_point: String::new(),
            display_name: String::new(),
            entity_id: String::new(),
            wrap_ttl: None,
            remote_addr: None,
            headers: BTreeMap::new(),
        }
    }
}
