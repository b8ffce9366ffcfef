//! Hashes, key derivation and the one way structured data becomes bytes for them.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::Sensitive;
use super::random::{RandomError, secret_bytes};

/// Returns the lower-case hex SHA-256 (FIPS 180-4) of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(sha256(bytes))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the HMAC-SHA256 (RFC 2104) of `bytes` under `key`, which may have any length.
#[must_use]
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "HMAC is defined for keys of every length (RFC 2104, section 2)"
)]
pub fn hmac_sha256(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// A random key that is never stored: what is hashed under it can be told apart for as long as the
/// process lives, and says nothing to anybody else.
#[derive(Debug)]
pub struct ProcessKey(Sensitive<[u8; 32]>);

impl ProcessKey {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, RandomError> {
        secret_bytes([0; 32]).map(Self)
    }

    /// Returns the HMAC-SHA256 (RFC 2104) of the parts, each behind its length: different parts
    /// never give the same. They are not copied.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "HMAC is defined for keys of every length (RFC 2104, section 2)"
    )]
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("any key length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Derives a 256-bit key by HKDF-SHA256 (RFC 5869).
///
/// Without salt: the input is uniformly random already (section 3.1 makes it optional), and `info`
/// separates the uses.
#[expect(
    clippy::expect_used,
    reason = "32 bytes are within HKDF-SHA256's limit of 8,160 (RFC 5869, section 2.3)"
)]
pub(super) fn derive(master: &Sensitive<[u8; 32]>, info: &[u8]) -> Sensitive<[u8; 32]> {
    let mut key = Sensitive::new([0; 32]);
    Hkdf::<Sha256>::new(None, master.expose())
        .expand(info, key.expose_mut())
        .expect("32 bytes of output");
    key
}

/// Joins parts so that different parts never give the same bytes: each is preceded by its length.
///
/// Plain concatenation would make tenant `ab` with field `c` the same as tenant `a` with field
/// `bc`, and a ciphertext movable between them.
pub(super) fn canonical(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_standards_message() {
        // FIPS 180-4 example "abc".
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn hmac_of_rfc_4231_case_2() {
        assert_eq!(
            hex::encode(hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn hkdf_of_a_fixed_key() {
        // RFC 5869 by hand with HMAC: PRK = HMAC(zeros, IKM); T(1) = HMAC(PRK, info || 0x01).
        let master = Sensitive::new([0x0b; 32]);
        let prk = hmac_sha256(&[0; 32], master.expose());
        let expected = hmac_sha256(&prk, b"info\x01");
        assert_eq!(derive(&master, b"info").expose(), &expected);
    }

    #[test]
    fn a_digest_is_of_the_key_and_of_each_part() {
        let key = ProcessKey::generate().unwrap();
        assert_eq!(key.digest(&[b"ab", b"c"]), key.digest(&[b"ab", b"c"]));
        assert_ne!(key.digest(&[b"ab", b"c"]), key.digest(&[b"a", b"bc"]));
        assert_ne!(key.digest(&[b"a", b""]), key.digest(&[b"a"]));
        let other = ProcessKey::generate().unwrap();
        assert_ne!(key.digest(&[b"a"]), other.digest(&[b"a"]));
    }

    #[test]
    fn moving_a_border_between_parts_changes_the_bytes() {
        assert_ne!(canonical(&["ab", "c"]), canonical(&["a", "bc"]));
        assert_ne!(canonical(&["a", ""]), canonical(&["a"]));
        assert_eq!(canonical(&["a"]), b"\0\0\0\0\0\0\0\x01a");
    }
}
