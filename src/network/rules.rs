//! [`AddressRule`]: one entry of an operator's list of hosts that may be called.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::host::{Host, host_name};
use super::policy::is_local_name;
use super::ranges::{Reach, embedded_v4, reach};

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
            return parse_network(address, bits)
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

    /// Returns what an operator should know of an entry that is taken all the same; `None` if it means
    /// what it says. `dev_loopback` is that of the policy.
    #[must_use]
    pub fn remark(text: &str, dev_loopback: bool) -> Option<String> {
        let rule = Self::parse(text).ok()?;
        let network = match &rule.0 {
            Rule::Host(name) if is_local_name(name) && !dev_loopback => return Some(never()),
            Rule::Below(suffix) if suffix == ".localhost" && !dev_loopback => return Some(never()),
            Rule::Host(_) | Rule::Below(_) => return None,
            Rule::Network(network) => *network,
        };
        let within = |blocks: &[&str]| {
            let blocks = blocks
                .iter()
                .filter_map(|block| block.parse::<IpNet>().ok());
            blocks.into_iter().any(|block| block.contains(&network))
        };
        if within(&LOOPBACK) {
            // Where it was started for development no list is asked.
            return (!dev_loopback).then(never);
        }
        if within(&["::ffff:0:0/96"]) {
            return Some(String::from(
                "never applies: such addresses are compared as IPv4. Write the IPv4 network",
            ));
        }
        if within(&NEVER) || matches!(reach(network.addr()), Reach::Never) && is_single(network) {
            return Some(never());
        }
        if let Some(wide) = width(network) {
            return Some(wide);
        }
        let (address, bits) = text.split_once('/')?;
        let written = parse_network(address, bits)?;
        (written != network).then(|| format!("has bits beside the network; it means {network}"))
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

/// This machine.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// What is refused whatever a list says; single addresses aside.
const NEVER: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/96",
    "fe80::/10",
    "ff00::/8",
];

fn never() -> String {
    String::from(
        "never applies: loopback, link-local, multicast and unspecified addresses are never called",
    )
}

fn is_single(network: IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// Says how much a network lists that is larger than any private one.
fn width(network: IpNet) -> Option<String> {
    let bits = network.max_prefix_len() - network.prefix_len();
    let widest = match network {
        IpNet::V4(_) => 24,
        // fc00::/7.
        IpNet::V6(_) => 121,
    };
    let private = "private ones of everybody among them";
    match (bits > widest, network.prefix_len()) {
        (false, _) => None,
        (true, 0) => Some(format!(
            "lists all 2^{bits} addresses of its kind, {private}"
        )),
        // The one block of IPv6 that is handed out globally holds none.
        (true, _)
            if "2000::/3"
                .parse::<IpNet>()
                .is_ok_and(|it| it.contains(&network)) =>
        {
            None
        }
        (true, _) => Some(format!("lists 2^{bits} addresses, it may be {private}")),
    }
}

/// Reads a network; its address has the grammar of every host.
fn parse_network(address: &str, bits: &str) -> Option<IpNet> {
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
    fn an_entry_that_does_not_mean_what_it_says_has_a_remark() {
        let remark = |text: &str| AddressRule::remark(text, false).unwrap_or_default();
        for text in [
            "127.0.0.1",
            "127.0.0.0/8",
            "127.1.2.3/16",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.0.0/16",
            "169.254.169.254",
            "fe80::/10",
            "fe80::1",
            "224.0.0.0/4",
            "ff02::1",
            "0.0.0.0",
            "255.255.255.255",
            "fd00:ec2::254",
            "localhost",
            "API.localhost",
            "*.localhost",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(remark(text).contains("never applies"), "{text}");
        }
        assert!(remark("0.0.0.0/0").contains("all 2^32 addresses"));
        assert!(remark("::/0").contains("all 2^128 addresses"));
        assert!(remark("10.1.2.3/0").contains("all 2^32 addresses"));
        assert!(remark("0.0.0.0/1").contains("2^31 addresses"));
        assert!(remark("10.1.2.3/8").contains("it means 10.0.0.0/8"));
        assert!(remark("fd00::1/8").contains("it means fd00::/8"));
        for text in [
            "10.0.0.0/8",
            "10.1.2.3",
            "10.1.2.3/32",
            "::ffff:10.0.0.1",
            "fc00::/7",
            "2000::/3",
            "2001:db8::/32",
            "mail.acme.example",
            "*.mail.internal",
        ] {
            assert_eq!(AddressRule::remark(text, false), None, "{text}");
        }
        for text in ["127.0.0.1", "::1", "localhost", "*.localhost"] {
            assert_eq!(AddressRule::remark(text, true), None, "{text}");
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
