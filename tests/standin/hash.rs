//! passlib's bcrypt-sha256, version 2, the scheme Mailu stores.
//!
//! `$bcrypt-sha256$v=2,t=2b,r=<rounds>$<salt22>$<digest31>`, where bcrypt hashes the base64 of
//! HMAC-SHA256(key = the salt's text, password). Source: passlib 1.7.4 `handlers/bcrypt.py`.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Mailu answers 500 to a longer password. Source: passlib `MAX_PASSWORD_SIZE`.
pub const MAX_PASSWORD_CHARS: usize = 4096;

/// bcrypt's own base64: another alphabet, no padding, unused last bits ignored.
const BCRYPT64: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Hashes `password` with a new salt.
pub fn hash(password: &str, rounds: u32) -> String {
    with_salt(password, rounds, rand::random())
}

/// Reports whether `password` is what `stored` was made from; false for any other scheme.
pub fn verify(password: &str, stored: &str) -> bool {
    let mut parts = stored.split('$').skip(1);
    let (Some("bcrypt-sha256"), Some(settings), Some(salt)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let rounds = settings
        .strip_prefix("v=2,t=2b,r=")
        .and_then(|rounds| rounds.parse().ok());
    let salt = BCRYPT64
        .decode(salt)
        .ok()
        .and_then(|salt| salt.try_into().ok());
    match (rounds, salt) {
        (Some(rounds), Some(salt)) => with_salt(password, rounds, salt) == stored,
        _ => false,
    }
}

/// Returns the rounds of a hash; `None` for any other scheme.
pub fn rounds(stored: &str) -> Option<u32> {
    let settings = stored.strip_prefix("$bcrypt-sha256$v=2,t=2b,r=")?;
    settings.split('$').next()?.parse().ok()
}

fn with_salt(password: &str, rounds: u32, salt: [u8; 16]) -> String {
    let salt_text = BCRYPT64.encode(salt);
    let mut mac = Hmac::<Sha256>::new_from_slice(salt_text.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(password.as_bytes());
    let key = STANDARD.encode(mac.finalize().into_bytes());
    let parts = bcrypt::hash_with_salt(key, rounds, salt)
        .expect("the configuration's rounds are within 4 to 31");
    let text = parts.format_for_version(bcrypt::Version::TwoB);
    // "$2b$04$" and 22 characters of salt precede the digest.
    let digest: String = text.chars().skip(29).collect();
    format!("$bcrypt-sha256$v=2,t=2b,r={rounds}${salt_text}${digest}")
}

/// Returns the lower-case hex SHA-256 of `text`: how journals name a password.
pub fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `passlib.hash.bcrypt_sha256` (passlib 1.7.4, bcrypt 4.0.1).
    const VECTORS: [(&str, &str); 4] = [
        (
            "correct horse battery staple",
            "$bcrypt-sha256$v=2,t=2b,r=4$Ub.wnr0i10HPOn8WWC9wqu$NMqBOnXd71pGl6Fj62fyqh4mpA6Ydeu",
        ),
        (
            "",
            "$bcrypt-sha256$v=2,t=2b,r=12$Px4mKAZKsGQUiSj9/vkVVu$K9DeDLOf3rXfoZfZ5vXwf5VRfV1AXsu",
        ),
        (
            "ü€😀 :%41+/=",
            "$bcrypt-sha256$v=2,t=2b,r=4$biD3MJ8lxWSLytz.3O75mu$lFF7R2H.jxLEsLVPadFGa/9vbe1arLy",
        ),
        (
            // 200 characters: far past bcrypt's own limit of 72 bytes.
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "$bcrypt-sha256$v=2,t=2b,r=4$CuG9AX8f2l930VpPyos9.u$/nuEFECL2G/TU5U9LwUCsCtjptxqEwi",
        ),
    ];

    #[test]
    fn passlib_and_this_code_agree() {
        for (password, stored) in VECTORS {
            assert!(verify(password, stored), "{password}");
            assert!(!verify(&format!("{password}."), stored), "{password}");
        }
    }

    #[test]
    fn a_new_hash_has_a_new_salt_and_fits_its_password_only() {
        let (one, two) = (hash("s3cret", 4), hash("s3cret", 4));
        assert_ne!(one, two);
        assert!(verify("s3cret", &one) && verify("s3cret", &two));
        assert!(!verify("s3crex", &one));
        assert!(one.starts_with("$bcrypt-sha256$v=2,t=2b,r=4$"));
    }

    #[test]
    fn other_schemes_and_damage_never_fit() {
        for stored in ["", "x", "$2b$04$abc", "$bcrypt-sha256$v=2,t=2b,r=4$short$x"] {
            assert!(!verify("", stored), "{stored}");
        }
    }
}
