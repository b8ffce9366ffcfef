//! What the fuzzers call of the stored formats; no interface itself.

use super::{TrailEntry, decode_tenant, encode, tenant_key};
use crate::crypto::Keyring;
use crate::engine::config::MountConfig;
use crate::engine::error::Error;
use crate::engine::mail::stops::Stops;
use crate::engine::mount_log::MountLog;

/// The kinds of stored entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The record of the tenant `acme`.
    Tenant,
    /// The mount's settings.
    Config,
    /// The mount's own events.
    MountLog,
    /// An event that left its record.
    Trail,
    /// What is held back from a mail server.
    Stops,
    /// The keys.
    Keyring,
}

/// Reads an entry and writes it again.
///
/// # Errors
///
/// The text by which it is refused.
pub fn recode(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let json = match kind {
        Kind::Tenant => decode_tenant(&tenant_key("acme"), bytes).and_then(|entry| encode(&entry)),
        Kind::Config => MountConfig::decode(Some(bytes)).and_then(|entry| encode(&entry)),
        Kind::MountLog => MountLog::decode(bytes).and_then(|entry| encode(&entry)),
        Kind::Trail => TrailEntry::decode("trail/acme/1", bytes).and_then(|entry| encode(&entry)),
        Kind::Stops => Stops::decode("server/x", bytes).and_then(|entry| encode(&entry)),
        Kind::Keyring => {
            return Keyring::from_bytes(bytes)
                .map(|keyring| keyring.to_bytes().expose().clone())
                .map_err(|error| error.to_string());
        }
    };
    json.map_err(|error: Error| error.to_string())
}
