//! Secrets in memory and at rest: custody, the encryption envelope, the password generator.
//!
//! Knows nothing of Vault, Mailu or storage.

mod sensitive;

pub use sensitive::Sensitive;
