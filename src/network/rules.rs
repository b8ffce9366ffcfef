//! [`AddressRule`]: one entry of an operator's list of hosts that may be called.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::host::{Host, host_name};
use super::ranges::embedded_v4;

/// Longest entry, in bytes: that of a host name.
const MAX_RULE: usize = 253;

/// One entry of `allowed_hosts`: a network, an address, a host name or `*.` and a domain.
///
/// ```
/// use vault_plugin_secrets_smtp::provider::AddressRule;
///
/// for good in ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "mail.acme.example", "*.mail.internal"] {
///     assert!(AddressRule::parse(good).is_ok());
/// }
/// assert!(AddressRule::parse("*").is_err());
/// assert!(AddressRule::parse("10.0.0.0/33").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressRule(Rule);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Rule {
    Network(IpNet),
    Host(String),
    /// Keeps the leading dot, so that a suffix match cannot end inside a label.
    Below(String),
}

/// The text is no entry for `allowed_hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressRuleError {
    /// Empty, or longer than a host name can be.
    #[error("an allowed host has 1 to 253 characters")]
    Length,
    /// Has a `/` but is no network.
    #[error("not a network such as 10.0.0.0/8 or fd00::/8")]
    Network,
    /// Is no host name and no `*.` followed by one.
    #[error(
        "not an address, a network, a host name or *. and a domain. Write a name with other \
         letters as xn--… if it is not taken"
    )]
    Host,
}

impl AddressRule {
    /// Parses one entry. Host names get their one spelling, networks their first address.
    ///
    /// # Errors
    ///
    /// [`AddressRuleError`] says which form was meant and not met.
    pub fn parse(text: &str) -> Result<Self, AddressRuleError> {
        if text.is_empty() || text.len() > MAX_RULE {
            return Err(AddressRuleError::Length);
        }
        if let Some((address, bits)) = text.split_once('/') {
            return network(address, bits)
                .map(|network| Self(Rule::Network(network.trunc())))
                .ok_or(AddressRuleError::Network);
        }
        if let Some(domain) = text.strip_prefix("*.") {
            let domain = host_name(domain).ok_or(AddressRuleError::Host)?;
            return Ok(Self(Rule::Below(format!(".{domain}"))));
        }
        Ok(Self(match Host::parse(text) {
            Ok(Host::Address(ip)) => Rule::Network(IpNet::from(ip.to_canonical())),
            Ok(Host::Name(name)) => Rule::Host(name),
            Err(_no_host) => return Err(AddressRuleError::Host),
        }))
    }

    /// Reports whether this entry lists the host, by name or by address.
    pub(super) fn lists(&self, host: &str, ip: IpAddr) -> bool {
        match &self.0 {
            Rule::Network(network) => {
                network.contains(&ip)
                    || matches!(ip, IpAddr::V6(v6)
                        if embedded_v4(v6).is_some_and(|v4| network.contains(&IpAddr::V4(v4))))
            }
            Rule::Host(_) | Rule::Below(_) => self.lists_name(host),
        }
    }

    /// Reports whether this entry lists the host by its name.
    pub(super) fn lists_name(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match &self.0 {
            Rule::Network(_) => false,
            Rule::Host(name) => *name == host,
            Rule::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }

    /// Reports whether only an address can tell if this entry applies.
    pub(super) const fn is_network(&self) -> bool {
        matches!(self.0, Rule::Network(_))
    }
}

/// Reads a network; its address has the grammar of every host.
fn network(address: &str, bits: &str) -> Option<IpNet> {
    match Host::parse(address) {
        Ok(Host::Address(ip)) => format!("{ip}/{bits}").parse().ok(),
        Ok(Host::Name(_)) | Err(_) => None,
    }
}

impl FromStr for AddressRule {
    type Err = AddressRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                write!(f, "{}", network.addr())
            }
            Rule::Network(network) => write!(f, "{network}"),
            Rule::Host(name) => f.write_str(name),
            Rule::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(rule: &str, host: &str, ip: &str) -> bool {
        AddressRule::parse(rule)
            .unwrap()
            .lists(host, ip.parse().unwrap())
    }

    #[test]
    fn a_rule_keeps_its_meaning_through_its_text() {
        for (given, kept) in [
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("FD00::/8", "fd00::/8"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("Mail.Acme.Example", "mail.acme.example"),
            ("*.Mail.internal", "*.mail.internal"),
            ("Mail.Acme.Example.", "mail.acme.example"),
            ("m\u{fc}ller.example", "xn--mller-kva.example"),
            ("*.m\u{fc}ller.example.", "*.xn--mller-kva.example"),
            ("[FD00::1]", "fd00::1"),
            ("[fd00::]/8", "fd00::/8"),
        ] {
            let rule = AddressRule::parse(given).unwrap();
            assert_eq!(rule.to_string(), kept);
            assert_eq!(AddressRule::parse(kept).unwrap(), rule);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_by_kind() {
        let long = "a".repeat(254);
        for (text, why) in [
            ("", AddressRuleError::Length),
            (long.as_str(), AddressRuleError::Length),
            ("10.0.0.0/33", AddressRuleError::Network),
            ("https://mail.example", AddressRuleError::Network),
            ("*", AddressRuleError::Host),
            ("*.", AddressRuleError::Host),
            ("mail.*.example", AddressRuleError::Host),
            ("10.1.2", AddressRuleError::Host),
            ("mail.example:443", AddressRuleError::Host),
            ("mail example", AddressRuleError::Host),
        ] {
            assert_eq!(AddressRule::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn networks_match_addresses_and_patterns_match_whole_labels() {
        assert!(lists("10.0.0.0/8", "x", "10.255.0.1"));
        assert!(!lists("10.0.0.0/8", "x", "11.0.0.1"));
        assert!(lists("10.0.0.0/8", "x", "64:ff9b::a00:1"));
        assert!(lists("*.mail.internal", "a.b.MAIL.internal", "10.0.0.1"));
        assert!(!lists("*.mail.internal", "mail.internal", "10.0.0.1"));
        assert!(!lists("*.mail.internal", "evilmail.internal", "10.0.0.1"));
        assert!(lists("mail.internal", "Mail.Internal", "10.0.0.1"));
        assert!(!lists("mail.internal", "x.mail.internal", "10.0.0.1"));
    }
}
