//! Leases, in both directions.

use chrono::{DateTime, Utc};

use super::{json, time};
use crate::logical::{Error, HeldLease, Lease};
use crate::proto::pb;

/// Reads the lease of a renewal or revocation.
///
/// # Errors
///
/// [`Error::Internal`] for internal data that is not what this plugin once sent: better a
/// revocation that is tried again than one that did not know what to revoke.
pub(super) fn held(secret: pb::Secret) -> Result<HeldLease, Error> {
    let options = secret.lease_options.unwrap_or_default();
    let internal = json::read(&secret.internal_data)
        .ok_or_else(|| Error::internal("the lease's internal data is not a JSON object"))?;
    Ok(HeldLease {
        id: Some(secret.lease_id).filter(|id| !id.is_empty()),
        ttl: time::duration(options.ttl),
        max_ttl: time::duration(options.max_ttl),
        renewable: options.renewable,
        increment: time::duration(options.increment),
        issue_time: options.issue_time.as_ref().and_then(time::instant),
        internal,
    })
}

/// Writes a lease. The host fails without an issue time and without internal data.
pub(super) fn secret(lease: &Lease, now: DateTime<Utc>) -> pb::Secret {
    pb::Secret {
        lease_options: Some(pb::LeaseOptions {
            ttl: time::nanoseconds(lease.ttl),
            max_ttl: time::nanoseconds(lease.max_ttl),
            renewable: lease.renewable,
            increment: 0,
            issue_time: Some(time::timestamp(lease.issue_time(), now)),
        }),
        internal_data: json::written(&lease.internal),
        // The host's to give.
        lease_id: String::new(),
    }
}
