//! Randomness from the operating system, and identifiers made of it.

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroize;

use super::Sensitive;

/// The operating system gave no randomness; nothing was made.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the operating system gave no randomness")]
pub struct RandomError;

/// Fills secret bytes once they are in custody.
pub(super) fn secret_bytes<T>(blank: T) -> Result<Sensitive<T>, RandomError>
where
    T: AsMut<[u8]> + Zeroize,
{
    let mut secret = Sensitive::new(blank);
    fill(secret.expose_mut().as_mut())?;
    Ok(secret)
}

/// Returns public random bytes, as a nonce is.
pub(super) fn public_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    SysRng
        .try_fill_bytes(bytes)
        .map_err(|_os_error| RandomError)
}

/// Makes an identifier nobody else makes: 128 random bits as 32 lower-case hex digits.
///
/// # Errors
///
/// [`RandomError`] if the operating system gives no randomness.
pub fn random_id() -> Result<String, RandomError> {
    public_bytes::<16>().map(hex::encode)
}

/// Draws 128 random bits, for identifiers that are not written as hex.
///
/// # Errors
///
/// [`RandomError`] if the operating system gives no randomness.
pub fn random_u128() -> Result<u128, RandomError> {
    public_bytes::<16>().map(u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_32_hex_digits_and_differ() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    }
}
