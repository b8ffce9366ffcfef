//! [`Sensitive`]: a value that is never shown and is wiped when dropped.
//!
//! Where custody ends. A secret is in a [`Sensitive`], in `logical::Data` or in a
//! `logical::StorageEntry`, all of which wipe it, from where it arrives to where it leaves. It
//! arrives in a gRPC message, whose text is wiped once it was read, and in HTTP bodies of a mail
//! server. It leaves in the message that is given to the gRPC library (an answer with a password;
//! the keyring on its way to the host's storage) and in the buffers of TLS and HTTP: those are the
//! libraries', are freed as soon as they are sent, and are not wiped. What is written for them is
//! written once, into a buffer of its final size.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A secret: redacted in `Debug`, without `Display` and without serde, wiped on drop.
///
/// Reading it is the greppable [`Sensitive::expose`]. Equality is in constant time for equal
/// lengths.
///
/// ```
/// use vault_plugin_secrets_smtp::crypto::Sensitive;
///
/// let secret = Sensitive::new(String::from("hunter2"));
/// assert_eq!(format!("{secret:?}"), "Sensitive(redacted)");
/// assert_eq!(secret.expose(), "hunter2");
/// ```
///
/// It cannot be printed by accident:
///
/// ```compile_fail
/// use vault_plugin_secrets_smtp::crypto::Sensitive;
///
/// println!("{}", Sensitive::new(String::from("hunter2")));
/// ```
pub struct Sensitive<T: Zeroize>(T);

impl<T: Zeroize> Sensitive<T> {
    /// Takes `value` into custody.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Borrows the secret. Every caller is a place where it could leak.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Borrows the secret for filling it in place.
    pub(super) const fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> Drop for Sensitive<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize + Clone> Clone for Sensitive<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(redacted)")
    }
}

impl<T: Zeroize + AsRef<[u8]>> PartialEq for Sensitive<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().ct_eq(other.0.as_ref()).into()
    }
}

impl<T: Zeroize + AsRef<[u8]>> Eq for Sensitive<T> {}

impl From<String> for Sensitive<String> {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}
