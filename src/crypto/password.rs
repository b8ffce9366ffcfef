//! The password generator.
//!
//! Entropy: every random bit of the operating system ends up in the password and nothing else
//! does, so a password of `n` bytes has exactly `8 n` bits: 256 for the usual 32 bytes, 384 for
//! the 48 of an emergency, 128 for [`PasswordEncoding::MailuHex`]. 128 bits, the least this module
//! makes, are beyond any search.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::Sensitive;
use super::random::{RandomError, secret_bytes};

/// How random bytes become a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordEncoding {
    /// Base64 with `+`, `/` and padding (RFC 4648, section 4): 44 characters for 32 bytes.
    #[default]
    Base64,
    /// Base64 with `-` and `_`, unpadded (RFC 4648, section 5): 43 characters for 32 bytes.
    #[serde(rename = "base64url")]
    Base64Url,
    /// 32 lower-case hex digits, whatever the number of bytes: 128 bits.
    ///
    /// Mailu takes a password of this shape for an app token and skips its login limiter, so that
    /// nobody can lock the account out by failing logins.
    MailuHex,
}

impl PasswordEncoding {
    const NAMES: [(Self, &'static str); 3] = [
        (Self::Base64, "base64"),
        (Self::Base64Url, "base64url"),
        (Self::MailuHex, "mailu_hex"),
    ];

    /// Returns the name operators use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for PasswordEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PasswordEncoding {
    type Err = PasswordShapeError;

    fn from_str(name: &str) -> Result<Self, PasswordShapeError> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(encoding, _)| *encoding)
            .ok_or(PasswordShapeError::Encoding)
    }
}

/// Why a password shape is refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PasswordShapeError {
    /// Fewer bytes could be searched; more gain nothing and meet limits of mail clients.
    #[error(
        "must be {} to {} bytes",
        PasswordShape::MIN_BYTES,
        PasswordShape::MAX_BYTES
    )]
    Bytes,
    /// Not the name of an encoding.
    #[error("must be base64, base64url or mailu_hex")]
    Encoding,
}

/// How passwords are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordShape {
    bytes: usize,
    encoding: PasswordEncoding,
}

impl PasswordShape {
    /// The fewest random bytes: 128 bits.
    pub const MIN_BYTES: usize = 16;
    /// The most random bytes: 512 bits.
    pub const MAX_BYTES: usize = 64;
    const MAILU_HEX_BYTES: usize = 16;

    /// Checks and keeps a shape. `bytes` counts random bytes, not characters.
    ///
    /// # Errors
    ///
    /// [`PasswordShapeError::Bytes`] outside 16 to 64.
    pub const fn new(bytes: usize, encoding: PasswordEncoding) -> Result<Self, PasswordShapeError> {
        if bytes < Self::MIN_BYTES || bytes > Self::MAX_BYTES {
            return Err(PasswordShapeError::Bytes);
        }
        Ok(Self { bytes, encoding })
    }

    /// Returns the same shape without the characters that something on the way may not take: letters,
    /// digits, `-` and `_` are left, and no random bit is lost.
    #[must_use]
    pub const fn plain(self) -> Self {
        let encoding = match self.encoding {
            PasswordEncoding::Base64 | PasswordEncoding::Base64Url => PasswordEncoding::Base64Url,
            PasswordEncoding::MailuHex => PasswordEncoding::MailuHex,
        };
        Self {
            bytes: self.bytes,
            encoding,
        }
    }

    /// Makes a password.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system gives no randomness.
    pub fn generate(self) -> Result<Sensitive<String>, RandomError> {
        let raw = secret_bytes(vec![0; self.random_bytes()])?;
        Ok(Sensitive::new(match self.encoding {
            PasswordEncoding::Base64 => STANDARD.encode(raw.expose()),
            PasswordEncoding::Base64Url => URL_SAFE_NO_PAD.encode(raw.expose()),
            PasswordEncoding::MailuHex => hex::encode(raw.expose()),
        }))
    }

    const fn random_bytes(self) -> usize {
        match self.encoding {
            PasswordEncoding::MailuHex => Self::MAILU_HEX_BYTES,
            PasswordEncoding::Base64 | PasswordEncoding::Base64Url => self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PasswordEncoding::{Base64, Base64Url, MailuHex};
    use super::*;

    fn generated(bytes: usize, encoding: PasswordEncoding) -> Sensitive<String> {
        let shape = PasswordShape::new(bytes, encoding).unwrap();
        shape.generate().unwrap()
    }

    #[test]
    fn a_plain_one_has_letters_digits_and_two_marks_and_as_many_bits() {
        for (encoding, plain) in [
            (Base64, Base64Url),
            (Base64Url, Base64Url),
            (MailuHex, MailuHex),
        ] {
            let shape = PasswordShape::new(48, encoding).unwrap().plain();
            assert_eq!(shape, PasswordShape::new(48, plain).unwrap());
            let password = shape.generate().unwrap();
            let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(password.expose().bytes().all(taken));
        }
    }

    #[test]
    fn every_random_byte_is_in_the_password() {
        for bytes in [16, 32, 48, 64] {
            let password = generated(bytes, Base64);
            assert_eq!(STANDARD.decode(password.expose()).unwrap().len(), bytes);
            let password = generated(bytes, Base64Url);
            assert_eq!(
                URL_SAFE_NO_PAD.decode(password.expose()).unwrap().len(),
                bytes
            );
        }
        assert_eq!(generated(32, Base64).expose().len(), 44);
        assert_eq!(generated(48, Base64).expose().len(), 64);
    }

    #[test]
    fn mailu_hex_is_what_mailu_takes_for_a_token() {
        let password = generated(48, MailuHex);
        assert_eq!(password.expose().len(), 32);
        assert!(
            password
                .expose()
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        );
    }

    #[test]
    fn passwords_differ() {
        assert_ne!(generated(32, Base64), generated(32, Base64));
    }

    #[test]
    fn weak_and_endless_shapes_are_refused() {
        for bytes in [0, 15, 65, usize::MAX] {
            assert_eq!(
                PasswordShape::new(bytes, Base64),
                Err(PasswordShapeError::Bytes)
            );
        }
    }

    #[test]
    fn names_agree_with_serde() {
        for (encoding, name) in PasswordEncoding::NAMES {
            assert_eq!(name.parse(), Ok(encoding));
            assert_eq!(
                serde_json::to_string(&encoding).unwrap(),
                format!("{name:?}")
            );
        }
        assert_eq!(
            "hex".parse::<PasswordEncoding>(),
            Err(PasswordShapeError::Encoding)
        );
    }
}
