//! The encryption envelope: a secret at rest, bound to the place it belongs to.
//!
//! AES-256-GCM (NIST SP 800-38D) with a fresh random 96-bit nonce. The key is derived per tenant
//! and incarnation, so one key never comes near the 2^32 random nonces the standard allows
//! (section 8.3), and a re-created tenant shares no key with its predecessor. Field, id and
//! endpoint are associated data: what is moved elsewhere does not open.
//!
//! Lengths are not hidden.

use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Sensitive;
use super::digest::{canonical, derive};
use super::random::{RandomError, public_bytes};

/// Separates our derived keys from any other use of the same master key.
const KEY_LABEL: &str = "vault-plugin-secrets-smtp/v1";

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Where a sealed secret belongs. It opens only under an equal binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The tenant's name.
    pub tenant: &'a str,
    /// The identifier of this life of the tenant's record; differs after re-creation.
    pub incarnation: &'a str,
    /// What the secret is, for example `password`.
    pub field: &'a str,
    /// The version or attempt it belongs to.
    pub id: &'a str,
    /// The server it may be sent to, in a canonical form; empty if it is sent to none.
    pub endpoint: &'a str,
}

impl Binding<'_> {
    fn key_info(&self) -> Vec<u8> {
        canonical(&[KEY_LABEL, self.tenant, self.incarnation])
    }

    fn associated_data(&self) -> Vec<u8> {
        canonical(&[
            self.tenant,
            self.incarnation,
            self.field,
            self.id,
            self.endpoint,
        ])
    }
}

/// A secret at rest: nonce, ciphertext and tag, with the version of the key that opens it.
///
/// Its text form, used in storage, is `v<key version>:<base64>`. `Debug` shows no bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sealed {
    key_version: u32,
    /// Nonce, ciphertext, tag.
    bytes: Vec<u8>,
}

impl Sealed {
    /// Returns the version of the master key that opens it.
    #[must_use]
    pub const fn key_version(&self) -> u32 {
        self.key_version
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Sealed(v{}, {} bytes)",
            self.key_version,
            self.bytes.len()
        )
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:{}", self.key_version, STANDARD.encode(&self.bytes))
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        sealed.to_string()
    }
}

/// Why a text is not a [`Sealed`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealedParseError {
    /// It does not begin with `v<key version>:`.
    #[error("the sealed value has no key version")]
    KeyVersion,
    /// The rest is not standard base64 with padding.
    #[error("the sealed value is not base64")]
    Base64,
    /// Too short to hold a nonce and a tag.
    #[error("the sealed value is too short")]
    Short,
}

impl FromStr for Sealed {
    type Err = SealedParseError;

    fn from_str(text: &str) -> Result<Self, SealedParseError> {
        let (version, bytes) = text
            .strip_prefix('v')
            .and_then(|rest| rest.split_once(':'))
            .ok_or(SealedParseError::KeyVersion)?;
        let key_version: u32 = version
            .parse()
            .map_err(|_reason| SealedParseError::KeyVersion)?;
        // One text per value: no `v+1`, no `v01`.
        if key_version.to_string() != version {
            return Err(SealedParseError::KeyVersion);
        }
        let bytes = STANDARD
            .decode(bytes)
            .map_err(|_reason| SealedParseError::Base64)?;
        if bytes.len() < NONCE_BYTES + TAG_BYTES {
            return Err(SealedParseError::Short);
        }
        Ok(Self { key_version, bytes })
    }
}

impl TryFrom<String> for Sealed {
    type Error = SealedParseError;

    fn try_from(text: String) -> Result<Self, SealedParseError> {
        text.parse()
    }
}

/// Why a secret could not be sealed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// No nonce could be made.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The keyring has no version at all.
    #[error("the keyring is empty")]
    NoKey,
    /// The text is longer than AES-GCM takes (64 GiB).
    #[error("the secret is too long to seal")]
    TooLong,
}

/// Why a sealed secret did not open.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    /// The keyring does not have this version: it was trimmed, or is an older copy.
    #[error("the keyring has no version {0}")]
    UnknownKey(u32),
    /// The bytes were changed, moved from another binding, or sealed under another keyring.
    #[error("the sealed value does not belong here or was changed")]
    Refused,
    /// It opened to something that is not text; a defect of whoever sealed it.
    #[error("the sealed value is not text")]
    NotText,
}

pub(super) fn seal(
    master: &Sensitive<[u8; 32]>,
    key_version: u32,
    binding: &Binding<'_>,
    secret: &Sensitive<String>,
) -> Result<Sealed, SealError> {
    seal_with_nonce(master, key_version, binding, secret, public_bytes()?)
}

/// Apart from [`seal`] only so that a test can fix the nonce. Reusing one would reveal both texts.
fn seal_with_nonce(
    master: &Sensitive<[u8; 32]>,
    key_version: u32,
    binding: &Binding<'_>,
    secret: &Sensitive<String>,
    nonce: [u8; NONCE_BYTES],
) -> Result<Sealed, SealError> {
    let key = derive(master, &binding.key_info());
    let payload = Payload {
        msg: secret.expose().as_bytes(),
        aad: &binding.associated_data(),
    };
    let ciphertext = Aes256Gcm::new(key.expose().into())
        .encrypt(&Nonce::from(nonce), payload)
        .map_err(|_opaque| SealError::TooLong)?;
    let mut bytes = Vec::with_capacity(NONCE_BYTES + ciphertext.len());
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&ciphertext);
    Ok(Sealed { key_version, bytes })
}

pub(super) fn open(
    master: &Sensitive<[u8; 32]>,
    binding: &Binding<'_>,
    sealed: &Sealed,
) -> Result<Sensitive<String>, OpenError> {
    let (nonce, ciphertext) = sealed
        .bytes
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(OpenError::Refused)?;
    let key = derive(master, &binding.key_info());
    let payload = Payload {
        msg: ciphertext,
        aad: &binding.associated_data(),
    };
    let plain = Aes256Gcm::new(key.expose().into())
        .decrypt(&Nonce::from(*nonce), payload)
        .map_err(|_opaque| OpenError::Refused)?;
    String::from_utf8(plain)
        .map(Sensitive::new)
        .map_err(|error| {
            // Wiped on the way out.
            drop(Sensitive::new(error.into_bytes()));
            OpenError::NotText
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Binding<'static> = Binding {
        tenant: "acme",
        incarnation: "5e1f",
        field: "password",
        id: "3",
        endpoint: "https://mail.acme.test:443",
    };

    fn master(byte: u8) -> Sensitive<[u8; 32]> {
        Sensitive::new([byte; 32])
    }

    fn secret() -> Sensitive<String> {
        Sensitive::new(String::from("correct horse"))
    }

    #[test]
    fn it_opens_where_it_was_sealed_and_nowhere_else() {
        let sealed = seal(&master(1), 1, &HERE, &secret()).unwrap();
        assert_eq!(open(&master(1), &HERE, &sealed), Ok(secret()));
        assert_eq!(open(&master(2), &HERE, &sealed), Err(OpenError::Refused));
        let elsewhere = [
            Binding {
                tenant: "acmf",
                ..HERE
            },
            Binding {
                incarnation: "5e20",
                ..HERE
            },
            Binding {
                field: "api_token",
                ..HERE
            },
            Binding { id: "4", ..HERE },
            Binding {
                endpoint: "https://evil.test:443",
                ..HERE
            },
            Binding {
                field: "passwor",
                id: "d3",
                ..HERE
            },
        ];
        for binding in elsewhere {
            assert_eq!(
                open(&master(1), &binding, &sealed),
                Err(OpenError::Refused),
                "{binding:?}"
            );
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealed = seal(&master(1), 1, &HERE, &secret()).unwrap();
        for index in 0..sealed.bytes.len() {
            let mut changed = sealed.clone();
            changed.bytes[index] ^= 1;
            assert_eq!(open(&master(1), &HERE, &changed), Err(OpenError::Refused));
        }
        let mut cut = sealed;
        cut.bytes.pop();
        assert_eq!(open(&master(1), &HERE, &cut), Err(OpenError::Refused));
    }

    #[test]
    fn two_seals_of_one_secret_differ() {
        let one = seal(&master(1), 1, &HERE, &secret()).unwrap();
        assert_ne!(one, seal(&master(1), 1, &HERE, &secret()).unwrap());
    }

    #[test]
    fn the_stored_form_is_this_one_for_ever() {
        // Computed independently (Python: hmac, hashlib, cryptography's AESGCM).
        let sealed = seal_with_nonce(&master(7), 2, &HERE, &secret(), [9; 12]).unwrap();
        assert_eq!(
            sealed.to_string(),
            "v2:CQkJCQkJCQkJCQkJLoNOltW+q89Kq0CpTdErUz8s6wNOVI0n0SgzXnQ="
        );
    }

    #[test]
    fn parsing_says_what_is_wrong() {
        use SealedParseError::{Base64, KeyVersion, Short};
        for (text, reason) in [
            ("", KeyVersion),
            ("1:AAAA", KeyVersion),
            ("v1", KeyVersion),
            ("v:AAAA", KeyVersion),
            ("v01:AAAA", KeyVersion),
            ("v+1:AAAA", KeyVersion),
            ("v4294967296:AAAA", KeyVersion),
            ("v1:AA*A", Base64),
            ("v1:AAA", Base64),
            ("v1:AAAA", Short),
        ] {
            assert_eq!(text.parse::<Sealed>(), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_sealed_value_survives_its_text_form(
            key_version: u32,
            bytes in proptest::collection::vec(any::<u8>(), 28..80),
        ) {
            let sealed = Sealed { key_version, bytes };
            let json = serde_json::to_string(&sealed).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sealed>(&json).unwrap(), sealed);
        }

        #[test]
        fn what_parses_is_written_back_the_same(text in "v[0-9]{1,4}:[A-Za-z0-9+/]{36,40}={0,2}") {
            if let Ok(sealed) = text.parse::<Sealed>() {
                prop_assert_eq!(sealed.to_string(), text);
            }
        }
    }
}
