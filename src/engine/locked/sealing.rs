//! Encrypting and decrypting a record's secrets, each bound to tenant, life, field and endpoint.

use std::sync::Arc;

use super::LockedTenant;
use crate::crypto::{self, Binding, Keyring, Sealed, Sensitive};
use crate::engine::error::Error;
use crate::engine::storage;
use crate::engine::storage::record::{Server, TenantRecord};

impl LockedTenant {
    /// Returns what an imported password is recognised by, in hex.
    pub(in crate::engine) fn password_hash(&self, password: &Sensitive<String>) -> String {
        let incarnation = &self.record.incarnation;
        hex::encode(self.keyring.password_hash(incarnation, password))
    }

    /// Encrypts a password as the version with this number, bound to the record's endpoint.
    pub(in crate::engine) fn seal_password(
        &self,
        number: u64,
        password: &Sensitive<String>,
    ) -> Result<Sealed, Error> {
        seal(
            &self.keyring,
            &self.record,
            "password",
            &number.to_string(),
            password,
        )
    }

    /// Decrypts the password of the version with this number.
    pub(in crate::engine) fn open_password(
        &self,
        number: u64,
        sealed: &Sealed,
    ) -> Result<Sensitive<String>, Error> {
        open_password(&self.keyring, &self.record, number, sealed)
    }

    /// Encrypts the API token, bound to the record's endpoint.
    pub(in crate::engine) fn seal_token(&self, token: &Sensitive<String>) -> Result<Sealed, Error> {
        seal(&self.keyring, &self.record, "api_token", "", token)
    }

    /// Decrypts the API token.
    pub(in crate::engine) fn open_token(
        &self,
        sealed: &Sealed,
    ) -> Result<Sensitive<String>, Error> {
        open(&self.keyring, &self.record, "api_token", "", sealed)
    }

    /// Replaces the server, encrypting every password anew: the binding names the endpoint.
    pub(in crate::engine) fn replace_server(&mut self, server: Server) -> Result<(), Error> {
        let mut passwords = Vec::new();
        if let Some(credential) = &self.record.credential {
            for version in &credential.versions {
                passwords.push((
                    version.number,
                    self.open_password(version.number, &version.password)?,
                ));
            }
        }
        let candidate = match &self.record.intent {
            Some(intent) => Some((
                intent.version,
                self.open_password(intent.version, &intent.candidate)?,
            )),
            None => None,
        };
        self.record.server = Some(server);
        for (number, password) in &passwords {
            let sealed = self.seal_password(*number, password)?;
            let versions = self
                .record
                .credential
                .iter_mut()
                .flat_map(|kept| &mut kept.versions);
            for version in versions.filter(|version| version.number == *number) {
                version.password = sealed.clone();
            }
        }
        if let Some((number, password)) = candidate {
            let sealed = self.seal_password(number, &password)?;
            if let Some(intent) = &mut self.record.intent {
                intent.candidate = sealed;
            }
        }
        Ok(())
    }
}

impl LockedTenant {
    /// Encrypts with the newest key whatever an older one encrypted, and stores the record;
    /// returns whether there was anything to do.
    ///
    /// # Errors
    ///
    /// On an error nothing was stored.
    pub(in crate::engine) async fn rewrap(&mut self) -> Result<bool, Error> {
        let latest = self.keyring.latest();
        let is_new = |bytes: &[u8]| storage::sealed_by(bytes).iter().all(|it| *it == latest);
        // Without an entry there is nothing, and nothing is to be made of it.
        if self.stored.as_deref().is_none_or(is_new) {
            return Ok(false);
        }
        let before = (*self.record).clone();
        self.seal_anew(&before)?;
        if !is_new(&storage::encode(&self.record)?) {
            *self.record = before;
            return Err(Error::Entry {
                key: storage::tenant_key(self.name.as_str()),
                why: "the stored entry has a ciphertext in a place where none belongs",
            });
        }
        self.store().await?;
        Ok(true)
    }

    /// Encrypts anew every secret of the record, which is equal to `before`.
    fn seal_anew(&mut self, before: &TenantRecord) -> Result<(), Error> {
        let keyring = Arc::clone(&self.keyring);
        let mut changed = before.clone();
        let renew = |secret: &mut Sealed, server: Option<&Server>, field, id: &str| {
            if secret.key_version() == keyring.latest() {
                return Ok(());
            }
            let opened = open_at(&keyring, before, server, field, id, secret)?;
            *secret = seal_at(&keyring, before, server, field, id, &opened)?;
            Ok::<_, Error>(())
        };
        let here = before.server.as_ref();
        if let Some(server) = &mut changed.server {
            renew(&mut server.api_token, here, "api_token", "")?;
        }
        for version in changed
            .credential
            .iter_mut()
            .flat_map(|it| &mut it.versions)
        {
            let id = version.number.to_string();
            renew(&mut version.password, here, "password", &id)?;
        }
        if let Some(intent) = &mut changed.intent {
            let id = intent.version.to_string();
            renew(&mut intent.candidate, here, "password", &id)?;
            if let Some(target) = &mut intent.target {
                let there = target.clone();
                renew(&mut target.api_token, Some(&there), "api_token", "")?;
            }
        }
        *self.record = changed;
        Ok(())
    }
}

/// Decrypts the API token of a record that is only read.
pub(in crate::engine) fn open_token(
    keyring: &Keyring,
    record: &TenantRecord,
    sealed: &Sealed,
) -> Result<Sensitive<String>, Error> {
    open(keyring, record, "api_token", "", sealed)
}

/// Decrypts a password of a record that is only read.
pub(in crate::engine) fn open_password(
    keyring: &Keyring,
    record: &TenantRecord,
    number: u64,
    sealed: &Sealed,
) -> Result<Sensitive<String>, Error> {
    open(keyring, record, "password", &number.to_string(), sealed)
}

fn seal(
    keyring: &Keyring,
    record: &TenantRecord,
    field: &str,
    id: &str,
    secret: &Sensitive<String>,
) -> Result<Sealed, Error> {
    seal_at(keyring, record, record.server.as_ref(), field, id, secret)
}

fn open(
    keyring: &Keyring,
    record: &TenantRecord,
    field: &str,
    id: &str,
    sealed: &Sealed,
) -> Result<Sensitive<String>, Error> {
    open_at(keyring, record, record.server.as_ref(), field, id, sealed)
}

/// Encrypts a secret that may be sent to `server`.
fn seal_at(
    keyring: &Keyring,
    record: &TenantRecord,
    server: Option<&Server>,
    field: &str,
    id: &str,
    secret: &Sensitive<String>,
) -> Result<Sealed, Error> {
    let endpoint = endpoint_binding(server);
    keyring
        .seal(&binding(record, &endpoint, field, id), secret)
        .map_err(|_rng| Error::Defect("encryption failed"))
}

/// Decrypts a secret that may be sent to `server`.
fn open_at(
    keyring: &Keyring,
    record: &TenantRecord,
    server: Option<&Server>,
    field: &str,
    id: &str,
    sealed: &Sealed,
) -> Result<Sensitive<String>, Error> {
    let endpoint = endpoint_binding(server);
    keyring
        .open(&binding(record, &endpoint, field, id), sealed)
        .map_err(Error::Unopenable)
}

const fn binding<'a>(
    record: &'a TenantRecord,
    endpoint: &'a str,
    field: &'a str,
    id: &'a str,
) -> Binding<'a> {
    Binding {
        tenant: record.tenant.as_str(),
        incarnation: record.incarnation.as_str(),
        field,
        id,
        endpoint,
    }
}

/// The endpoint as part of every ciphertext's associated data: where the secret may be sent.
fn endpoint_binding(server: Option<&Server>) -> String {
    let Some(server) = server else {
        return String::from("none");
    };
    let ca = server
        .ca_cert
        .as_deref()
        .map_or_else(String::new, |pem| crypto::sha256_hex(pem.as_bytes()));
    format!(
        "{}|{}|{}|{}",
        server.mailu_url,
        ca,
        server.tls_server_name.as_deref().unwrap_or_default(),
        server.smtp_address.as_deref().unwrap_or_default(),
    )
}
