//! What a server tells a plugin through its environment, besides go-plugin's own variables.
//!
//! Left out: `PLUGIN_METADATA_MODE`, because servers set it to true only where they speak the
//! protocol before 5, which starts without mutual TLS and is refused for that.

/// Which product the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// HashiCorp Vault, or unknown: what only OpenBao has must not be relied on.
    #[default]
    Vault,
    /// OpenBao, which sets both its own variables and Vault's.
    OpenBao,
}

/// The server as seen before the first call. Informative: features are found out by behaviour.
///
/// Source: OpenBao `sdk/helper/pluginutil/env.go`; values seen on OpenBao 2.7.2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The product.
    pub flavour: Flavour,
    /// The server's version, for example `2.7.2`.
    pub version: Option<String>,
    /// The server would have the process lock its memory against swapping, which it does not do:
    /// that takes system calls this crate has no safe way to make. Swap is the machine's to turn
    /// off or encrypt. OpenBao no longer asks for it.
    pub asks_for_mlock: bool,
}

impl ServerInfo {
    /// Parses the variables.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let either = |name: &str| {
            lookup(&format!("BAO_{name}")).or_else(|| lookup(&format!("VAULT_{name}")))
        };
        Self {
            flavour: match lookup("BAO_VERSION") {
                Some(_) => Flavour::OpenBao,
                None => Flavour::Vault,
            },
            version: either("VERSION"),
            asks_for_mlock: either("PLUGIN_MLOCK_ENABLED").as_deref() == Some("true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parse(variables: &[(&str, &str)]) -> ServerInfo {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        ServerInfo::parse(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn openbao_is_known_by_its_own_variables() {
        let info = parse(&[("BAO_VERSION", "2.7.2"), ("VAULT_VERSION", "2.7.2")]);
        assert_eq!(info.flavour, Flavour::OpenBao);
        assert_eq!(info.version.as_deref(), Some("2.7.2"));
        assert!(!info.asks_for_mlock);
    }

    #[test]
    fn vault_has_only_one_set() {
        let info = parse(&[
            ("VAULT_VERSION", "1.20.0"),
            ("VAULT_PLUGIN_MLOCK_ENABLED", "true"),
        ]);
        assert_eq!(info.flavour, Flavour::Vault);
        assert_eq!(info.version.as_deref(), Some("1.20.0"));
        assert!(info.asks_for_mlock);
    }
}
