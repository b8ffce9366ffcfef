//! [`TenantName`]: the one grammar of tenant names.

use std::fmt;

use super::error::Error;

/// Names that no tenant may have, for ever: they are, or may become, paths of the mount.
pub(crate) const RESERVED: [&str; 32] = [
    "config",
    "tenants",
    "status",
    "metrics",
    "batches",
    "events",
    "approvals",
    "keyring",
    "ui",
    "ops",
    "health",
    "help",
    "sys",
    "raw",
    "login",
    "creds",
    "roles",
    "static-cred",
    "static-role",
    "rotate",
    "rotate-root",
    "rotate-role",
    "reset",
    "reveal",
    "verify",
    "audit",
    "notify",
    "export",
    "import",
    "policies",
    "incidents",
    "drill",
];

/// A tenant's name: `[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?`, not reserved.
///
/// A tenant is this engine's static role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TenantName(String);

impl TenantName {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidTenant`] if it does not fit the grammar or is reserved.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| edge(byte) || byte == b'_' || byte == b'-';
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(inner)
            && text.bytes().next().is_some_and(edge)
            && text.bytes().next_back().is_some_and(edge);
        if !fits {
            return Err(Error::InvalidTenant(
                "a tenant name has 1 to 64 characters of a-z, 0-9, `_` and `-`, and begins and \
                 ends with a letter or digit",
            ));
        }
        if RESERVED.contains(&text) {
            return Err(Error::InvalidTenant(
                "this name is reserved for the mount's own paths. Choose another",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the name.
    #[must_use]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_inside_the_grammar() {
        for name in ["a", "acme", "a-b_c", "0", &"x".repeat(64)] {
            assert!(TenantName::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_outside_the_grammar() {
        let long = "x".repeat(65);
        for name in [
            "", "-a", "a-", "_", "A", "a.b", "a b", "ä", "a/b", "..", "a\n", &long,
        ] {
            assert!(TenantName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn reserved_names() {
        for name in RESERVED {
            assert!(TenantName::parse(name).is_err(), "{name}");
        }
        assert!(TenantName::parse("config2").is_ok());
    }
}
