//! The secret of the login: sealed for one address and one role, and sealed anew after a rotation
//! of the keyring.

use std::collections::BTreeSet;

use super::{AuditAccess, Endpoint, LoginAs, Loopback, Way};
use crate::crypto::{self, Binding, Keyring, Sealed, Sensitive};
use crate::engine::Engine;
use crate::engine::error::Error;
use crate::engine::storage::{self, AUDIT_ACCESS};
use crate::host_api::{Address, HostApiConfig, Login};
use crate::logical::Mount;

impl LoginAs {
    /// Returns the name of the login's secret.
    pub(in crate::engine) const fn secret_name(&self) -> &'static str {
        match self {
            Self::AppRole { .. } => "secret_id",
            Self::Token => "token",
        }
    }
}

impl Endpoint {
    /// Returns where the secret may be sent, as the ciphertext's associated data has it. Each part
    /// has its length, so that no two endpoints have one text.
    fn text(&self) -> String {
        let digest = self.ca_cert.as_ref();
        let digest = digest.map(|pem| crypto::sha256_hex(pem.as_bytes()));
        let (auth_path, role_id) = match &self.login {
            LoginAs::AppRole { auth_path, role_id } => (auth_path.as_str(), role_id.as_str()),
            LoginAs::Token => ("", ""),
        };
        let parts = [
            self.address.as_str(),
            self.tls_server_name.as_deref().unwrap_or_default(),
            digest.as_deref().unwrap_or_default(),
            auth_path,
            role_id,
        ];
        parts.map(|part| format!("{}:{part}", part.len())).join("|")
    }

    /// Returns what it takes to call the host's own API there.
    ///
    /// # Errors
    ///
    /// [`Error::Defect`] for an address that was not checked.
    pub(in crate::engine) fn with(
        &self,
        secret: Sensitive<String>,
    ) -> Result<HostApiConfig, Error> {
        Ok(HostApiConfig {
            address: Address::parse(&self.address)
                .map_err(|_checked| Error::Defect("a stored audit address does not parse"))?,
            ca_cert: self.ca_cert.clone(),
            tls_server_name: self.tls_server_name.clone(),
            login: match &self.login {
                LoginAs::AppRole { auth_path, role_id } => Login::AppRole {
                    mount_path: auth_path.clone(),
                    role_id: role_id.clone(),
                    secret_id: secret,
                },
                LoginAs::Token => Login::Token(secret),
            },
        })
    }
}

/// Encrypts the secret of a login that may be sent to `endpoint`.
pub(in crate::engine) fn seal(
    keyring: &Keyring,
    id: &str,
    endpoint: &Endpoint,
    secret: &Sensitive<String>,
) -> Result<Sealed, Error> {
    let text = endpoint.text();
    keyring
        .seal(&binding(id, endpoint, &text), secret)
        .map_err(|_rng| Error::Defect("encryption failed"))
}

const fn binding<'a>(id: &'a str, endpoint: &'a Endpoint, text: &'a str) -> Binding<'a> {
    Binding {
        // No tenant has such a name: theirs have no slash.
        tenant: AUDIT_ACCESS,
        incarnation: id,
        field: endpoint.login.secret_name(),
        id: "",
        endpoint: text,
    }
}

impl AuditAccess {
    /// Decrypts the login's secret; `None` if there is no login.
    pub(in crate::engine) fn open_secret(
        &self,
        keyring: &Keyring,
    ) -> Result<Option<Sensitive<String>>, Error> {
        let Some(loopback) = self.loopback() else {
            return Ok(None);
        };
        let text = loopback.endpoint.text();
        let binding = binding(&self.id, &loopback.endpoint, &text);
        let opened = keyring.open(&binding, &loopback.secret);
        opened.map(Some).map_err(Error::Unopenable)
    }

    /// Returns what it takes to call the host's own API, the secret opened.
    ///
    /// # Errors
    ///
    /// [`Error::Defect`] for [`Way::External`]: ask [`AuditAccess::mode`] first.
    pub(in crate::engine) fn open(&self, keyring: &Keyring) -> Result<HostApiConfig, Error> {
        let missing = Error::Defect("somebody outside carries the events: there is no login");
        let (Some(loopback), Some(secret)) = (self.loopback(), self.open_secret(keyring)?) else {
            return Err(missing);
        };
        loopback.endpoint.with(secret)
    }

    /// Encrypts the secret with the newest key; returns whether there was anything to do.
    fn seal_anew(&mut self, keyring: &Keyring) -> Result<bool, Error> {
        let old = |it: &Loopback| it.secret.key_version() != keyring.latest();
        if !self.loopback().is_some_and(old) {
            return Ok(false);
        }
        let secret = self.open_secret(keyring)?;
        let (Way::Loopback(loopback), Some(secret)) = (&mut self.way, secret) else {
            return Ok(false);
        };
        loopback.secret = seal(keyring, &self.id, &loopback.endpoint, &secret)?;
        Ok(true)
    }
}

impl Engine {
    /// Encrypts the login's secret with the newest key; returns the entry's key if that failed.
    pub(in crate::engine) async fn rewrap_audit_access(
        &self,
        mount: &Mount,
    ) -> Result<Option<&'static str>, Error> {
        let _guard = self.mount_lock.lock("audit").await;
        let keyring = self.keyring_for_writing(mount).await?;
        let sealed = match super::read(mount).await {
            Ok(None) => return Ok(None),
            Ok(Some(mut access)) => access.seal_anew(&keyring).map(|new| new.then_some(access)),
            Err(error @ Error::Entry { .. }) => Err(error),
            Err(error) => return Err(error),
        };
        match sealed {
            Ok(Some(access)) => self.put_audit_access(mount, &access).await?,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "config/audit is not encrypted anew");
                return Ok(Some(AUDIT_ACCESS));
            }
        }
        Ok(None)
    }

    /// Returns the versions of the keyring that the login depends on: an empty set if there is no
    /// entry, none if it cannot be read.
    pub(in crate::engine) async fn sealed_audit_access(
        &self,
        mount: &Mount,
    ) -> Result<Option<BTreeSet<u32>>, Error> {
        let _guard = self.mount_lock.lock("audit").await;
        let Some(entry) = mount.storage.get(AUDIT_ACCESS).await? else {
            return Ok(Some(BTreeSet::new()));
        };
        let readable = AuditAccess::decode(&entry.value).is_ok();
        Ok(readable.then(|| storage::sealed_by(&entry.value)))
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            address: "https://127.0.0.1:8200".to_owned(),
            ca_cert: None,
            tls_server_name: None,
            login: LoginAs::AppRole {
                auth_path: "auth/approle".to_owned(),
                role_id: "role".to_owned(),
            },
        }
    }

    #[test]
    fn a_secret_opens_for_the_endpoint_it_was_given_for_only() {
        let now = DateTime::UNIX_EPOCH;
        let keyring = Keyring::generate(now).unwrap();
        let secret = Sensitive::new("secret".to_owned());
        let sealed = seal(&keyring, "a1", &endpoint(), &secret).unwrap();
        let opened = |id: &str, endpoint: Endpoint| {
            let secret = sealed.clone();
            let way = Way::Loopback(Loopback { endpoint, secret });
            AuditAccess::new(id.to_owned(), now, way).open(&keyring)
        };
        let config = opened("a1", endpoint()).unwrap();
        let Login::AppRole { secret_id, .. } = config.login else {
            panic!("an AppRole");
        };
        assert_eq!(secret_id, secret);
        let role = |auth_path: &str, role_id: &str| Endpoint {
            login: LoginAs::AppRole {
                auth_path: auth_path.to_owned(),
                role_id: role_id.to_owned(),
            },
            ..endpoint()
        };
        for other in [
            Endpoint {
                address: "https://127.0.0.1:8201".to_owned(),
                ..endpoint()
            },
            Endpoint {
                ca_cert: Some(String::new()),
                ..endpoint()
            },
            Endpoint {
                tls_server_name: Some("vault.example".to_owned()),
                ..endpoint()
            },
            Endpoint {
                login: LoginAs::Token,
                ..endpoint()
            },
            role("auth/other", "role"),
            role("auth/approle", "other"),
        ] {
            let error = opened("a1", other.clone()).unwrap_err();
            assert!(matches!(error, Error::Unopenable(_)), "{other:?}: {error}");
        }
        assert!(opened("a2", endpoint()).is_err());
        let external = AuditAccess::new("a1".to_owned(), now, Way::External);
        assert!(matches!(external.open(&keyring), Err(Error::Defect(_))));
        assert_eq!(external.open_secret(&keyring).unwrap(), None);
    }
}
