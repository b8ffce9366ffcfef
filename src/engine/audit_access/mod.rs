//! How the host's own API is reached, as stored under `config/audit`.
//!
//! The secret of the login is sealed for this address and this role: what is changed elsewhere does
//! not open, so that no other server is ever sent it. The entry is kept in memory like the mount's
//! settings, because every outgoing connection asks which address it must not lead to.

mod sealing;

pub(super) use sealing::seal;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::Error;
use super::storage::{self, AUDIT_ACCESS};
use crate::crypto::Sealed;
use crate::host_api::Address;
use crate::logical::{Mount, StorageEntry};
use crate::network::NetworkPolicy;

/// The stored format.
const SCHEMA: u32 = 1;

/// How events reach the host's audit devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditAccess {
    /// The stored format.
    schema: u32,
    /// Random, new at every write; part of the ciphertext's binding.
    pub(super) id: String,
    /// When it was written last.
    pub(super) written_at: DateTime<Utc>,
    /// The way there.
    pub(super) way: Way,
}

/// The way to the audit devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Somebody outside calls `events/flush` and `events/ack`.
    External,
    /// This engine calls the host's own API.
    Loopback(Loopback),
}

/// What it takes to call the host's own API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loopback {
    /// Where to, and as whom.
    pub(super) endpoint: Endpoint,
    /// The secret of the login, which is sent there and nowhere else.
    pub(super) secret: Sealed,
}

/// Where the host's own API listens, and as whom it is called: what a secret is given for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// In its one spelling.
    pub(super) address: String,
    /// PEM certificates that replace the public roots.
    pub(super) ca_cert: Option<String>,
    /// The name the certificate must carry instead of the address's host.
    pub(super) tls_server_name: Option<String>,
    /// As whom.
    pub(super) login: LoginAs,
}

/// As whom the host's own API is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LoginAs {
    /// By an `AppRole`; the secret is its `secret_id`.
    AppRole {
        /// Where the auth method is mounted, namespace included.
        auth_path: String,
        /// The role.
        role_id: String,
    },
    /// By a periodic token, which is the secret.
    Token,
}

/// The word by which clients choose a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuditAccessMode {
    /// [`Way::Loopback`].
    Loopback,
    /// [`Way::External`].
    External,
}

impl AuditAccessMode {
    /// Returns the word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::External => "external",
        }
    }
}

impl AuditAccess {
    /// Returns what is stored.
    pub(super) fn entry(&self) -> Result<StorageEntry, Error> {
        Ok(StorageEntry::new(AUDIT_ACCESS, storage::encode(self)?))
    }

    /// Makes an entry that is not stored yet.
    pub(super) const fn new(id: String, written_at: DateTime<Utc>, way: Way) -> Self {
        Self {
            schema: SCHEMA,
            id,
            written_at,
            way,
        }
    }

    /// Reads the stored entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        storage::check_schema(AUDIT_ACCESS, bytes, SCHEMA)?;
        storage::decode(AUDIT_ACCESS, bytes)
    }

    /// Returns who carries events to the audit devices.
    pub(super) const fn mode(&self) -> AuditAccessMode {
        match self.way {
            Way::External => AuditAccessMode::External,
            Way::Loopback(_) => AuditAccessMode::Loopback,
        }
    }

    /// Returns how the host's own API is called, if this engine does so.
    pub(super) const fn loopback(&self) -> Option<&Loopback> {
        match &self.way {
            Way::External => None,
            Way::Loopback(loopback) => Some(loopback),
        }
    }

    /// Keeps every other connection away from the host's own API.
    fn refuse(&self, policy: &mut NetworkPolicy) {
        let address = self
            .loopback()
            .map(|it| Address::parse(&it.endpoint.address));
        let Some(Ok(address)) = address else { return };
        if let Some(literal) = address.socket_address() {
            policy.refused.push(literal);
        } else if let Some((host, port)) = address.host_and_port() {
            policy.refused_hosts.push((host.to_owned(), port));
        }
    }
}

impl Engine {
    /// Returns how the host's own API is reached; `None` if nobody has said so.
    pub(super) async fn audit_access(
        &self,
        mount: &Mount,
    ) -> Result<Arc<Option<AuditAccess>>, Error> {
        if let Some(access) = self.audit_access.fresh(&self.role, self.clock()) {
            return Ok(access);
        }
        let before = self.audit_access.before_get(self.clock());
        let access = match read(mount).await {
            Ok(access) => Arc::new(access),
            Err(error) => return Err(self.failed_read(mount, error).await),
        };
        self.audit_access.fill(&access, before);
        Ok(access)
    }

    /// Notes that `config/audit` was written or removed: whoever waits for the host's own API may
    /// try again.
    pub(super) fn audit_access_written(&self, mount: &Mount) {
        self.audit_access.forget();
        self.emission.forget_way();
        if let Some(engine) = self.me.upgrade() {
            engine.begin_emission(mount);
        }
    }

    /// Stores how the host's own API is reached. The caller holds the lock of `config/audit`.
    pub(super) async fn put_audit_access(
        &self,
        mount: &Mount,
        access: &AuditAccess,
    ) -> Result<(), Error> {
        let put = mount.storage.put(access.entry()?).await;
        // Whatever became of the Put, the copy in memory may be wrong now.
        self.audit_access.forget();
        Ok(put?)
    }

    /// Adds the host's own API to what `policy` refuses. An entry that cannot be read stops nobody:
    /// no password waits for how its events are told.
    pub(super) async fn refuse_audit_address(
        &self,
        mount: &Mount,
        policy: &mut NetworkPolicy,
    ) -> Result<(), Error> {
        match self.audit_access(mount).await {
            Ok(access) => {
                if let Some(access) = access.as_ref() {
                    access.refuse(policy);
                }
                Ok(())
            }
            Err(error @ Error::Entry { .. }) => {
                tracing::warn!(%error, "the audit address is not known and not refused");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads the entry from storage.
pub(super) async fn read(mount: &Mount) -> Result<Option<AuditAccess>, Error> {
    let entry = mount.storage.get(AUDIT_ACCESS).await?;
    entry.map(|it| AuditAccess::decode(&it.value)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::fixture;

    fn text() -> &'static str {
        std::str::from_utf8(fixture::AUDIT_ACCESS_V1.trim_ascii()).unwrap()
    }

    #[test]
    fn the_frozen_format_survives_a_round_trip() {
        let access = AuditAccess::decode(text().as_bytes()).unwrap();
        assert_eq!(access.mode(), AuditAccessMode::Loopback);
        let written = storage::encode(&access).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), text());
        assert_eq!(
            storage::sealed_by(text().as_bytes())
                .into_iter()
                .collect::<Vec<_>>(),
            [1]
        );
        for other in [
            r#"{"schema":1,"id":"a","written_at":"2026-09-21T14:13:20Z","way":"external"}"#,
            r#"{"schema":1,"id":"a","written_at":"2026-09-21T14:13:20Z","way":{"loopback":{"endpoint":{"address":"unix:///run/a","ca_cert":null,"tls_server_name":null,"login":"token"},"secret":"v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}}}"#,
        ] {
            let access = AuditAccess::decode(other.as_bytes()).unwrap();
            let written = storage::encode(&access).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), other);
        }
    }

    #[test]
    fn a_newer_and_a_damaged_entry_are_refused() {
        for damaged in [
            text().replacen("\"schema\":1", "\"schema\":2", 1),
            text().replacen("\"address\"", "\"adress\"", 1),
            text().replacen("{\"schema\"", "{\"more\":1,\"schema\"", 1),
            String::new(),
        ] {
            let error = AuditAccess::decode(damaged.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "record_unreadable");
        }
    }

    #[test]
    fn an_address_is_refused_by_what_is_written() {
        let refused = |address: &str| {
            let mut access = AuditAccess::decode(text().as_bytes()).unwrap();
            let Way::Loopback(loopback) = &mut access.way else {
                panic!("the fixture is one");
            };
            loopback.endpoint.address = address.to_owned();
            let mut policy = NetworkPolicy::default();
            access.refuse(&mut policy);
            (policy.refused, policy.refused_hosts)
        };
        let literal = "10.0.0.5:8200".parse().unwrap();
        assert_eq!(refused("https://10.0.0.5:8200"), (vec![literal], vec![]));
        assert_eq!(
            refused("https://vault.example"),
            (vec![], vec![("vault.example".to_owned(), 443)])
        );
        assert_eq!(refused("unix:///run/vault.sock"), (vec![], vec![]));
    }
}
