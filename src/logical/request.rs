//! A request as an engine sees it.

use std::collections::BTreeMap;
use std::fmt;
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
/// `Debug` is safe to log: [`Data`] shows its keys only, and headers, which may carry tokens, show
/// their names.
#[derive(Clone)]
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

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every field by name: a new one does not compile until it is decided what it shows.
        let Self {
            id,
            operation,
            path,
            data,
            mount_point,
            display_name,
            entity_id,
            wrap_ttl,
            remote_addr,
            headers,
        } = self;
        f.debug_struct("Request")
            .field("id", id)
            .field("operation", operation)
            .field("path", path)
            .field("data", data)
            .field("mount_point", mount_point)
            .field("display_name", display_name)
            .field("entity_id", entity_id)
            .field("wrap_ttl", wrap_ttl)
            .field("remote_addr", remote_addr)
            .field("headers", &headers.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_names_of_headers_only() {
        let mut request = Request::new(Operation::Read, "acme/admin", Data::default());
        let values = vec![String::from("Bearer hunter2")];
        request
            .headers
            .insert(String::from("authorization"), values);
        let shown = format!("{request:?}");
        assert!(shown.contains("authorization") && shown.contains("acme/admin"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
