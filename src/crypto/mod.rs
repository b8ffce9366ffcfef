//! Secrets in memory and at rest: custody, the encryption envelope, the password generator.
//!
//! Knows nothing of Vault, Mailu or storage. Everything random comes from the operating system on
//! every call, because a process may be forked, snapshotted and resumed; there is no generator
//! state of our own to duplicate.
//!
//! What must stay true: a plaintext and a key live in [`Sensitive`] only, and a [`Sealed`] opens
//! under exactly the [`Binding`] it was sealed for.

mod digest;
mod envelope;
mod keyring;
mod maker;
mod password;
mod random;
mod sensitive;

pub(crate) use digest::sha256;
pub use digest::{ProcessKey, hmac_sha256, sha256_hex};
pub use envelope::{Binding, OpenError, SealError, Sealed, SealedParseError};
pub use keyring::{Keyring, KeyringError, KeyringVersion};
pub use maker::Maker;
pub use password::{PasswordEncoding, PasswordShape, PasswordShapeError};
pub use random::{RandomError, random_u128};
pub use sensitive::Sensitive;
