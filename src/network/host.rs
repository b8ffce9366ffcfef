//! One grammar for hosts, wherever an operator writes one.
//!
//! A name may be written with any letters, in any case and with the dot that ends a full name; its
//! one spelling is lower-case ASCII (`xn--…`) without that dot. An address is written as the system
//! writes it, of version 6 with or without brackets. What only a resolver would take for an address
//! (`127.1`, `0x7f.1`) is neither.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::DnsName;

/// A host as it is written, in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// The text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "not a host name or an address, such as mail.acme.example, 192.0.2.1 or 2001:db8::1. Write a \
     name with other letters as xn--… if it is not taken"
)]
pub struct HostError;

impl Host {
    /// Parses a host without a port.
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match bracketed {
            Some(inside) => match inside.parse() {
                Ok(IpAddr::V6(ip)) => Ok(Self::Address(IpAddr::V6(ip))),
                Ok(IpAddr::V4(_)) | Err(_) => Err(HostError),
            },
            None => match text.parse() {
                Ok(ip) => Ok(Self::Address(ip)),
                Err(_no_address) => host_name(text).map(Self::Name).ok_or(HostError),
            },
        }
    }
}

impl fmt::Display for Host {
    /// Without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(ip) => write!(f, "{ip}"),
        }
    }
}

/// Checks a host without a port, a name or an address with or without brackets, and returns its one
/// spelling: names in lower-case ASCII without the dot at their end, addresses without brackets.
///
/// # Errors
///
/// [`HostError`] for anything else.
///
/// ```
/// use vault_plugin_secrets_smtp::network::parse_host;
///
/// assert_eq!(parse_host("Mail.m\u{fc}ller.example.").unwrap(), "mail.xn--mller-kva.example");
/// assert_eq!(parse_host("[2001:DB8::1]").unwrap(), "2001:db8::1");
/// assert!(parse_host("mail.example:465").is_err());
/// ```
pub fn parse_host(text: &str) -> Result<String, HostError> {
    Host::parse(text).map(|host| host.to_string())
}

/// Returns the one spelling of a host name; `None` for addresses and anything else.
pub(crate) fn host_name(text: &str) -> Option<String> {
    // The URL standard would decode it; a typing error should not be repaired silently.
    if text.contains('%') {
        return None;
    }
    let Ok(url::Host::Domain(name)) = url::Host::parse(text) else {
        return None;
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    let checked = DnsName::try_from(name).ok()?;
    // `1.2.3` and `0x7f.1` are names to a certificate and addresses to a resolver.
    let last = name.rsplit('.').next()?;
    let numeric = last.is_empty() || last.starts_with(|first: char| first.is_ascii_digit());
    (!numeric).then(|| checked.as_ref().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_taken_and_has_one() {
        for (text, spelling) in [
            ("mail.acme.example", "mail.acme.example"),
            ("Mail.Acme.Example.", "mail.acme.example"),
            ("m\u{fc}ller.example", "xn--mller-kva.example"),
            ("M\u{dc}LLER.example.", "xn--mller-kva.example"),
            ("mu\u{308}ller.example", "xn--mller-kva.example"),
            (
                "\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}",
                "xn--r8jz45g.xn--zckzah",
            ),
            ("XN--MLLER-KVA.example", "xn--mller-kva.example"),
            ("localhost.", "localhost"),
            ("192.0.2.1", "192.0.2.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!(host.to_string(), spelling, "{text}");
            assert_eq!(Host::parse(spelling), Ok(host));
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "[]",
            "a b",
            "a..example",
            "mail.example..",
            ".example",
            "mail.example:443",
            "mail.example/",
            "user@mail.example",
            "https://mail.example",
            "m%C3%BCller.example",
            "xn--a.example",
            "xn--.example",
            "127.1",
            "0x7f.1",
            "1.2.3.4.5",
            "192.0.2.1.",
            "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
            "[192.0.2.1]",
            "[mail.example]",
            "[::1",
            "fe80::1%eth0",
            "*.example",
        ] {
            assert_eq!(Host::parse(text), Err(HostError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_spelling_is_its_own(text in "(?s).{0,40}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }
    }
}
