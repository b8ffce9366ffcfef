//! A request as an engine sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Data, HeldLease, Operation};
use crate::crypto::Sensitive;

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

/// Where a request came from, as far as the host tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The client's address; `None` on a unix listener.
    pub remote_addr: Option<String>,
    /// The client's port.
    pub remote_port: Option<u16>,
    /// The certificates of the client's own TLS connection in DER, its own first. OpenBao only.
    pub peer_certificates: Vec<Vec<u8>>,
    /// The certificates a trusted proxy says the client showed, in DER. OpenBao only.
    pub proxied_certificates: Vec<Vec<u8>>,
}

/// One request to a mounted backend, already authorised by the host unless it says
/// [`Request::unauthenticated`].
///
/// `Debug` is safe to log: [`Data`] shows its keys only, and headers, which may carry tokens, show
/// their names.
///
/// Never told by a host: the caller's policies, metadata and time of login.
#[derive(Clone)]
pub struct Request {
    /// The host's identifier of the request.
    pub id: RequestId,
    /// What is to be done.
    pub operation: Operation,
    /// The path below the mount, without leading slash; list paths may end in one.
    pub path: String,
    /// Body or query parameters; what was answered with the lease for renewal and revocation.
    pub data: Data,
    /// The lease to be renewed or revoked; of no other request.
    pub lease: Option<HeldLease>,
    /// The mount's path with its namespace, for example `team1/smtp/`.
    pub mount_point: String,
    /// The mount's type, the name the plugin is registered under.
    pub mount_type: String,
    /// The mount's accessor; empty where the host does not tell it (OpenBao 2.7).
    pub mount_accessor: String,
    /// What the host calls the caller, for example `userpass-alice`; empty if unknown.
    pub display_name: String,
    /// The caller's identity entity; empty for root and for tokens without one.
    pub entity_id: String,
    /// A hash of the caller's token: the same for each of its requests to this mount, another at
    /// every other mount, of no use anywhere else.
    pub client_token: Sensitive<String>,
    /// The accessor of the caller's token, with which the token can be looked up and revoked.
    /// Empty for batch tokens.
    pub client_token_accessor: Sensitive<String>,
    /// How often the token can be used after this; 0 = no limit or not told.
    pub client_token_remaining_uses: i64,
    /// The path is a special one that needs no token, and there was none.
    pub unauthenticated: bool,
    /// The caller asked to override soft-mandatory policies of Vault Enterprise.
    pub policy_override: bool,
    /// The wrapping TTL the client itself asked for.
    pub wrap_ttl: Option<Duration>,
    /// Where the request came from; `None` for the host's own.
    pub connection: Option<Connection>,
    /// Request headers the mount lets through (`passthrough_request_headers`); names as the host
    /// writes them. See [`Request::header`].
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
            lease: None,
            mount_point: String::new(),
            mount_type: String::new(),
            mount_accessor: String::new(),
            display_name: String::new(),
            entity_id: String::new(),
            client_token: Sensitive::new(String::new()),
            client_token_accessor: Sensitive::new(String::new()),
            client_token_remaining_uses: 0,
            unauthenticated: false,
            policy_override: false,
            wrap_ttl: None,
            connection: None,
            headers: BTreeMap::new(),
        }
    }

    /// Returns the first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter();
        let (_, values) = named.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        values.first().map(String::as_str)
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
            lease,
            mount_point,
            mount_type,
            mount_accessor,
            display_name,
            entity_id,
            client_token: _,
            client_token_accessor: _,
            client_token_remaining_uses,
            unauthenticated,
            policy_override,
            wrap_ttl,
            connection,
            headers,
        } = self;
        let address = connection.as_ref().map(|from| &from.remote_addr);
        f.debug_struct("Request")
            .field("id", id)
            .field("operation", operation)
            .field("path", path)
            .field("data", data)
            .field("lease", lease)
            .field("mount_point", mount_point)
            .field("mount_type", mount_type)
            .field("mount_accessor", mount_accessor)
            .field("display_name", display_name)
            .field("entity_id", entity_id)
            .field("client_token_remaining_uses", client_token_remaining_uses)
            .field("unauthenticated", unauthenticated)
            .field("policy_override", policy_override)
            .field("wrap_ttl", wrap_ttl)
            .field("remote_addr", &address)
            .field("headers", &headers.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_names_and_no_values() {
        let mut request = Request::new(
            Operation::Renew,
            "acme/admin",
            Data::texts([("k", "hunter2")]),
        );
        let values = vec![String::from("Bearer hunter2")];
        request
            .headers
            .insert(String::from("authorization"), values);
        request.client_token = Sensitive::new(String::from("hunter2"));
        request.client_token_accessor = Sensitive::new(String::from("hunter2"));
        request.lease = Some(HeldLease {
            internal: Data::texts([("account", "hunter2")]),
            ..HeldLease::default()
        });
        let shown = format!("{request:?}");
        for name in ["authorization", "acme/admin", "account"] {
            assert!(shown.contains(name), "{shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_header_is_found_in_any_case() {
        let mut request = Request::new(Operation::Read, "", Data::default());
        let values = vec![String::from("one"), String::from("two")];
        request.headers.insert(String::from("X-Reason"), values);
        assert_eq!(request.header("x-reason"), Some("one"));
        assert_eq!(request.header("x-other"), None);
    }
}
