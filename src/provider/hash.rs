//! [`StoredHash`]: does the hash a mail server stores fit a password?
//!
//! This is the engine's proof: offline, without a login and without Mailu's limiters. What must
//! stay true: only a computed mismatch is [`HashCheck::DoesNotFit`]; whatever cannot be computed
//! is [`HashCheck::CannotTell`] and proves nothing.
//!
//! Source: passlib's `bcrypt_sha256` version 2, as Mailu stores it:
//! `$bcrypt-sha256$v=2,t=2b,r=<rounds>$<22 salt characters>$<31 digest characters>`, where bcrypt
//! is given the padded base64 of HMAC-SHA256(key = salt text, message = password).

use std::fmt;

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::Sensitive;

/// Longest password Mailu hashes, in bytes; passlib refuses more.
const MAX_PASSWORD: usize = 4_096;

/// Fewest rounds (log2) that bcrypt defines.
const MIN_ROUNDS: u32 = 4;

/// Most rounds (log2) that are computed: 16 is about three seconds, each more doubles it, and the
/// number is chosen by the server.
const MAX_ROUNDS: u32 = 16;

/// Longest hash text kept, in bytes; those of Mailu have fewer than 90.
const MAX_TEXT: usize = 1_024;

/// The alphabet in which bcrypt writes salts and digests.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(&BCRYPT, NO_PAD);

/// The password hash a mail server stores for an account.
///
/// Opaque and never shown: a hash can be attacked offline.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredHash(Sensitive<String>);

/// What a stored hash says about a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashCheck {
    /// The server stores exactly this password.
    Fits,
    /// The server stores another one.
    DoesNotFit,
    /// Nothing was learnt.
    CannotTell(NoVerdict),
}

/// Why a hash says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoVerdict {
    /// Another scheme, as accounts carried over from old Mailu versions may have.
    #[error("the stored hash has another scheme than bcrypt-sha256")]
    OtherScheme,
    /// The scheme's name, but not its form.
    #[error("the stored hash is malformed")]
    Malformed,
    /// Rounds outside 4 to 16.
    #[error("the stored hash asks for too many rounds")]
    Rounds,
    /// The password has more than 4,096 bytes.
    #[error("the password is too long to have been hashed")]
    Password,
    /// The computation could not run.
    #[error("the hash check did not run")]
    NotRun,
}

impl StoredHash {
    /// Takes the text of a hash into custody, whatever it is.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(Sensitive::new(text))
    }

    /// Returns the hex SHA-256 of the hash text.
    ///
    /// Mailu salts every change anew, so an equal fingerprint means an unchanged password without
    /// any bcrypt.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.0.expose().as_bytes()))
    }

    /// Returns the rounds (log2) that a check computes: each more doubles its time. `None` if it
    /// computes nothing.
    #[must_use]
    pub fn rounds(&self) -> Option<u32> {
        Parts::parse(self.0.expose()).ok().map(|parts| parts.rounds)
    }

    /// Computes whether this hash fits `password`.
    ///
    /// Takes about 0.2 s at 12 rounds and up to some seconds at 16: call it through
    /// [`HashPool::check`](super::HashPool::check) from async code.
    #[must_use]
    pub fn check(&self, password: &Sensitive<String>) -> HashCheck {
        let parts = match Parts::parse(self.0.expose()) {
            Ok(parts) => parts,
            Err(reason) => return HashCheck::CannotTell(reason),
        };
        if password.expose().len() > MAX_PASSWORD {
            return HashCheck::CannotTell(NoVerdict::Password);
        }
        match parts.digest_of(password) {
            Ok(digest) if bool::from(digest.ct_eq(&parts.digest)) => HashCheck::Fits,
            Ok(_) => HashCheck::DoesNotFit,
            Err(reason) => HashCheck::CannotTell(reason),
        }
    }
}

impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredHash(redacted)")
    }
}

struct Parts<'text> {
    rounds: u32,
    salt_text: &'text str,
    salt: [u8; 16],
    digest: [u8; 23],
}

impl<'text> Parts<'text> {
    fn parse(text: &'text str) -> Result<Self, NoVerdict> {
        if text.len() > MAX_TEXT {
            return Err(NoVerdict::Malformed);
        }
        let rest = text
            .strip_prefix("$bcrypt-sha256$")
            .ok_or(NoVerdict::OtherScheme)?;
        let Some(rest) = rest.strip_prefix("v=2,t=2b,r=") else {
            // Version 1 and other bcrypt types, which Mailu never wrote.
            return Err(NoVerdict::OtherScheme);
        };
        let mut fields = rest.split('$');
        let (Some(rounds), Some(salt_text), Some(digest), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(NoVerdict::Malformed);
        };
        let number: u32 = rounds.parse().map_err(|_no_text| NoVerdict::Malformed)?;
        if number.to_string() != rounds {
            return Err(NoVerdict::Malformed);
        }
        if !(MIN_ROUNDS..=MAX_ROUNDS).contains(&number) {
            return Err(NoVerdict::Rounds);
        }
        Ok(Self {
            rounds: number,
            salt_text,
            salt: decode(salt_text)?,
            digest: decode(digest)?,
        })
    }

    fn digest_of(&self, password: &Sensitive<String>) -> Result<[u8; 23], NoVerdict> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.salt_text.as_bytes())
            .map_err(|_no_text| NoVerdict::NotRun)?;
        mac.update(password.expose().as_bytes());
        let key = Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()));
        // bcrypt ends its key with a zero byte: 45 of at most 72 bytes, so nothing is cut.
        let mut terminated = Zeroizing::new(Vec::with_capacity(key.len() + 1));
        terminated.extend_from_slice(key.as_bytes());
        terminated.push(0);
        let full = bcrypt::bcrypt(self.rounds, self.salt, &terminated);
        full.first_chunk().copied().ok_or(NoVerdict::NotRun)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], NoVerdict> {
    BCRYPT_BASE64
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(NoVerdict::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with passlib 1.7.4 over bcrypt 4.0.
    const VECTORS: [(&str, &str); 6] = [
        (
            "hunter2",
            "$bcrypt-sha256$v=2,t=2b,r=4$N3W/u8y9qu4RnHJc6iumuO$Z9nAfNfPTEOtmOCDdXgaQz1hm9TfF0G",
        ),
        (
            "",
            "$bcrypt-sha256$v=2,t=2b,r=4$KqMNSQhj.7bswRKAk3PVt.$DkcD6id963yNZX9XYPk2QlgqLtfISKu",
        ),
        (
            "pässwörd 🔑 :%41+/=",
            "$bcrypt-sha256$v=2,t=2b,r=4$2wTXVhuX4YAwfuBD7GGcre$CIhPpFKDxB4Dy0G0NMT2qqXrNMWUkw.",
        ),
        (
            "0123456789abcdef0123456789abcdef",
            "$bcrypt-sha256$v=2,t=2b,r=4$V/VmY0IpaqxZIAGfaX8iqu$gPlIjKjLWTJ/TifVbH8bEE/Ig4iMxVa",
        ),
        (
            "correct horse",
            "$bcrypt-sha256$v=2,t=2b,r=12$E5OBf74s2RxHkYYn.5bFLO$Tp1X2T6eEwkxMA/v9uJqcMoGiLdgnpS",
        ),
        (
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$bcrypt-sha256$v=2,t=2b,r=5$pS9P5UNxs716RVSdXDKgSu$DI8XYBezcHr2X1ubkYAooHrgvzw3H8i",
        ),
    ];

    const LONGEST: &str =
        "$bcrypt-sha256$v=2,t=2b,r=4$248RPjR4Hf6S1KT3bROty.$yrSvSSDMccI1DERoYtbRU9EfgO6PrO.";

    fn check(hash: &str, password: &str) -> HashCheck {
        StoredHash::new(hash.to_owned()).check(&Sensitive::new(password.to_owned()))
    }

    #[test]
    fn hashes_made_by_passlib_fit_their_password_only() {
        for (password, hash) in VECTORS {
            assert_eq!(check(hash, password), HashCheck::Fits, "{hash}");
            let other = format!("{password}x");
            assert_eq!(check(hash, &other), HashCheck::DoesNotFit, "{hash}");
        }
    }

    #[test]
    fn nothing_is_cut_from_a_long_password() {
        let longest = "x".repeat(4_096);
        assert_eq!(check(LONGEST, &longest), HashCheck::Fits);
        let last_differs = format!("{}y", "x".repeat(4_095));
        assert_eq!(check(LONGEST, &last_differs), HashCheck::DoesNotFit);
        let longer = "x".repeat(4_097);
        assert_eq!(
            check(LONGEST, &longer),
            HashCheck::CannotTell(NoVerdict::Password)
        );
    }

    #[test]
    fn what_cannot_be_computed_is_no_verdict() {
        let salt = "N3W/u8y9qu4RnHJc6iumuO";
        let digest = "Z9nAfNfPTEOtmOCDdXgaQz1hm9TfF0G";
        let scheme = "$bcrypt-sha256$v=2,t=2b,r=";
        for (hash, reason) in [
            (String::new(), NoVerdict::OtherScheme),
            (
                "$2b$04$90pHL0rIWt.LvES3091K1eHYR1FxmoJrEHJJ1kDAQ9Lusru11amYq".to_owned(),
                NoVerdict::OtherScheme,
            ),
            (
                "$bcrypt-sha256$2b,4$O8SDe8uG.Dqs22NQkZJlju$muoLVxmOpmyljeWauBJO/WsvCn7Oagu"
                    .to_owned(),
                NoVerdict::OtherScheme,
            ),
            (format!("{scheme}17${salt}${digest}"), NoVerdict::Rounds),
            (format!("{scheme}31${salt}${digest}"), NoVerdict::Rounds),
            (format!("{scheme}3${salt}${digest}"), NoVerdict::Rounds),
            (format!("{scheme}04${salt}${digest}"), NoVerdict::Malformed),
            (format!("{scheme}-4${salt}${digest}"), NoVerdict::Malformed),
            (format!("{scheme}4${salt}${digest}$x"), NoVerdict::Malformed),
            (format!("{scheme}4${salt}"), NoVerdict::Malformed),
            (format!("{scheme}4$short${digest}"), NoVerdict::Malformed),
            (format!("{scheme}4${salt}${digest}."), NoVerdict::Malformed),
            (
                format!("{scheme}4$N3W+u8y9qu4RnHJc6iumuO${digest}"),
                NoVerdict::Malformed,
            ),
        ] {
            assert_eq!(
                check(&hash, "hunter2"),
                HashCheck::CannotTell(reason),
                "{hash}"
            );
        }
    }

    #[test]
    fn a_hash_is_never_shown_but_can_be_recognised() {
        let (_, text) = VECTORS[0];
        let hash = StoredHash::new(text.to_owned());
        assert_eq!(format!("{hash:?}"), "StoredHash(redacted)");
        assert_eq!(hash.fingerprint().len(), 64);
        let same = StoredHash::new(text.to_owned());
        assert_eq!(hash.fingerprint(), same.fingerprint());
        let other = StoredHash::new(VECTORS[1].1.to_owned());
        assert_ne!(hash.fingerprint(), other.fingerprint());
    }
}
