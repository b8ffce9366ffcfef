//! Requests, from the host.

use zeroize::Zeroizing;

use super::{json, lease, time};
use crate::crypto::Sensitive;
use crate::logical::{Connection, Error, Operation, Request, RequestId};
use crate::proto::pb;

/// Reads a request.
///
/// The operation is looked at first and data last: `resolve-path` arrives before authentication
/// with whatever body somebody sent, so that body is not even parsed.
///
/// # Errors
///
/// [`Error::UnsupportedOperation`] for `resolve-path` and for operations this build does not know;
/// [`Error::User`] `invalid_json` for data that is not a JSON object; [`Error::Internal`] for a
/// lease whose internal data is not.
pub fn request(mut request: pb::Request) -> Result<Request, Error> {
    // Wiped in the end, parsed or not: it may hold a password.
    let text = Zeroizing::new(std::mem::take(&mut request.data));
    let operation = match Operation::parse(&request.operation) {
        None | Some(Operation::ResolvePath) => return Err(Error::UnsupportedOperation),
        Some(operation) => operation,
    };
    let headers = request.headers.into_iter();
    let data = json::read(&text).ok_or_else(|| {
        Error::user(
            "invalid_json",
            "The request data is not a JSON object. Send an object of named fields.",
        )
    })?;
    Ok(Request {
        id: RequestId::new(request.id),
        operation,
        path: request.path,
        data,
        lease: request.secret.map(lease::held).transpose()?,
        mount_point: request.mount_point,
        mount_type: request.mount_type,
        mount_accessor: request.mount_accessor,
        display_name: request.display_name,
        entity_id: request.entity_id,
        client_token: Sensitive::new(request.client_token),
        client_token_accessor: Sensitive::new(request.client_token_accessor),
        client_token_remaining_uses: request.client_token_remaining_uses,
        unauthenticated: request.unauthenticated,
        policy_override: request.policy_override,
        wrap_ttl: request.wrap_info.and_then(|wrap| time::duration(wrap.ttl)),
        connection: request.connection.map(connection),
        headers: headers
            .map(|(name, values)| (name, values.header))
            .collect(),
    })
}

fn connection(from: pb::Connection) -> Connection {
    Connection {
        remote_addr: Some(from.remote_addr).filter(|address| !address.is_empty()),
        remote_port: u16::try_from(from.remote_port)
            .ok()
            .filter(|port| *port != 0),
        peer_certificates: from.peer_certificates_raw,
        proxied_certificates: from.proxied_certificates_raw,
    }
}
