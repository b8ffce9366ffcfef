//! Encrypting and decrypting a record's secrets, each bound to tenant, life, field and endpoint.

use super::LockedTenant;
use crate::crypto::{self, Binding, Keyring, Sealed, Sensitive};
use crate::engine::error::Error;
use crate::engine::storage::record::{Server, TenantRecord};

impl LockedTenant {
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
    let endpoint = endpoint_binding(record.server.as_ref());
    let binding = Binding {
        tenant: &record.tenant,
        incarnation: &record.incarnation,
        field,
        id,
        endpoint: &endpoint,
    };
    keyring
        .seal(&binding, secret)
        .map_err(|_rng| Error::Defect("encryption failed"))
}

fn open(
    keyring: &Keyring,
    record: &TenantRecord,
    field: &str,
    id: &str,
    sealed: &Sealed,
) -> Result<Sensitive<String>, Error> {
    let endpoint = endpoint_binding(record.server.as_ref());
    let binding = Binding {
        tenant: &record.tenant,
        incarnation: &record.incarnation,
        field,
        id,
        endpoint: &endpoint,
    };
    keyring.open(&binding, sealed).map_err(Error::Unopenable)
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
