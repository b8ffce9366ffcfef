//! Randomness from the operating system.

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

/// Draws 128 random bits, for identifiers.
///
/// # Errors
///
/// [`RandomError`] if the operating system gives no randomness.
pub fn random_u128() -> Result<u128, RandomError> {
    public_bytes::<16>().map(u128::from_be_bytes)
}
