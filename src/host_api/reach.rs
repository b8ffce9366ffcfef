//! [`Reach`]: where the host's own API may be looked for.
//!
//! Whoever may write `config/audit` chooses an address that this process then calls, and a mount's
//! settings (`allowed_hosts`) neither open nor close it: one entry there would shut out every public
//! mail server. So what is not this machine's loopback is named by whoever runs the server, in the
//! environment of the plugin's process.

use std::path::{Path, PathBuf};

use super::address::{Address, is_local, socket_directory};

/// Directories of unix sockets, separated by commas.
const SOCKETS: &str = "SMTP_AUDIT_SOCKETS";
/// Addresses as `config/audit` has them, or `host[:port]` for an https one, separated by commas.
const ADDRESSES: &str = "SMTP_AUDIT_ADDRESSES";

/// Where the host's own API may be: this machine's loopback, and what the process's environment
/// names. By default nothing is named.
///
/// ```
/// use vault_plugin_secrets_smtp::host_api::{Address, Reach};
///
/// let reach = Reach::from_env(|name| match name {
///     "SMTP_AUDIT_SOCKETS" => Some(String::from("/run/openbao")),
///     "SMTP_AUDIT_ADDRESSES" => Some(String::from("vault.example:8200")),
///     _ => None,
/// });
/// let admits = |text: &str| reach.admits(&Address::parse(text).unwrap());
/// assert!(admits("https://127.0.0.1:8200") && admits("https://vault.example:8200"));
/// assert!(admits("unix:///run/openbao/api.sock") && !admits("unix:///run/docker.sock"));
/// assert!(!admits("https://vault.example") && !admits("https://10.0.0.5:8200"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    sockets: Vec<PathBuf>,
    addresses: Vec<Address>,
    unusable: usize,
}

impl Reach {
    /// Reads the two variables. An entry that is none admits nothing and is counted.
    #[must_use]
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let mut reach = Self::default();
        for entry in entries(&lookup(SOCKETS).unwrap_or_default()) {
            match socket_directory(entry) {
                Some(directory) => reach.sockets.push(directory),
                None => reach.unusable += 1,
            }
        }
        for entry in entries(&lookup(ADDRESSES).unwrap_or_default()) {
            let address = if entry.contains("://") {
                Address::parse(entry)
            } else {
                Address::parse(&format!("https://{entry}"))
            };
            match address {
                Ok(address) => reach.addresses.push(address),
                Err(_no_address) => reach.unusable += 1,
            }
        }
        reach
    }

    /// Reports whether an address may be called. A socket has to lie below a named directory, as
    /// its path is written: what links there is for whoever owns the directory.
    #[must_use]
    pub fn admits(&self, address: &Address) -> bool {
        let below = |path: &Path| {
            let mut directories = self.sockets.iter();
            directories.any(|directory| path != directory && path.starts_with(directory))
        };
        is_local(address)
            || self.addresses.contains(address)
            || address.socket_path().is_some_and(below)
    }

    /// Returns how many entries of the environment are neither address nor directory.
    #[must_use]
    pub const fn unusable(&self) -> usize {
        self.unusable
    }
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(sockets: &str, addresses: &str) -> Reach {
        Reach::from_env(|name| match name {
            SOCKETS => Some(sockets.to_owned()),
            ADDRESSES => Some(addresses.to_owned()),
            _ => None,
        })
    }

    fn admits(reach: &Reach, address: &str) -> bool {
        reach.admits(&Address::parse(address).unwrap())
    }

    #[test]
    fn without_the_environment_only_loopback_is_called() {
        let reach = reach("", "");
        assert_eq!(reach, Reach::default());
        for address in [
            "https://127.0.0.1:8200",
            "https://127.1.2.3:8200",
            "https://[::1]:8200",
            "https://localhost:8200",
            "http://localhost:8200",
            "http://127.0.0.1:8200",
        ] {
            assert!(admits(&reach, address), "{address}");
        }
        for address in [
            "https://10.0.0.5:8200",
            "https://1.1.1.1",
            "https://vault.example:8200",
            "https://localhost.example",
            "https://localhost.localdomain:8200",
            "unix:///run/openbao/api.sock",
            "unix:///proc/self/cwd/api.sock",
        ] {
            assert!(!admits(&reach, address), "{address}");
        }
    }

    #[test]
    fn a_named_address_is_called_as_it_is_written_and_no_other() {
        let named = " vault.example:8200 ,https://10.0.0.5:8200,[fd00::1]:8200,vault.example";
        let reach = reach("", named);
        assert_eq!(reach.unusable(), 0);
        for address in [
            "https://Vault.Example:8200/",
            "https://vault.example",
            "https://10.0.0.5:8200",
            "https://[fd00::1]:8200",
        ] {
            assert!(admits(&reach, address), "{address}");
        }
        for address in [
            "https://vault.example:8201",
            "https://10.0.0.5",
            "https://10.0.0.6:8200",
            "https://evil.vault.example:8200",
        ] {
            assert!(!admits(&reach, address), "{address}");
        }
    }

    #[test]
    fn a_socket_lies_below_a_named_directory() {
        let reach = reach("/run/openbao/, /srv/vault", "unix:///run/one.sock");
        assert_eq!(reach.unusable(), 0);
        for address in [
            "unix:///run/openbao/api.sock",
            "unix:///run/openbao/deep/api.sock",
            "unix:///srv/vault/a",
            "unix:///run/one.sock",
        ] {
            assert!(admits(&reach, address), "{address}");
        }
        for address in [
            "unix:///run/openbao",
            "unix:///run/openbaoevil/api.sock",
            "unix:///run/docker.sock",
            "unix:///srv/a",
        ] {
            assert!(!admits(&reach, address), "{address}");
        }
    }

    #[test]
    fn what_is_no_entry_admits_nothing_and_is_counted() {
        let reach = reach(
            "run/openbao,/run/../etc,/run/./x,//,",
            "http://vault.example:8200,*,10.0.0.0/8,https://169.254.169.254,unix://x,a b",
        );
        assert_eq!(reach.unusable(), 4 + 6);
        assert!(!admits(&reach, "https://10.0.0.5"));
        assert!(!admits(&reach, "unix:///etc/x"));
    }
}
