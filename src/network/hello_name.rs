//! What this side calls itself towards a mail server.
//!
//! Source: RFC 5321, sections 2.3.5 (a full name) and 4.1.3 (an address literal, for a client that
//! has none). Servers refuse names of one label, and some an address of loopback.

use std::fs;
use std::net::IpAddr;
use std::sync::LazyLock;

use super::host::{Host, host_name};

/// Where the kernel tells the host's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// Where a name of one label may have its full one.
const HOSTS: &str = "/etc/hosts";

/// This host's full name, if it has one. Read once: two files of a few bytes.
static OWN: LazyLock<Option<String>> = LazyLock::new(|| {
    let hostname = fs::read_to_string(HOSTNAME).ok()?;
    full_name(&hostname, &fs::read_to_string(HOSTS).unwrap_or_default())
});

/// The text is no name for EHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "must be a host name, such as vault.ops.example, or an address, such as [192.0.2.1] or \
     [IPv6:2001:db8::1]"
)]
pub struct HelloNameError;

/// Checks a name for EHLO and returns its one spelling: an address stands in brackets.
///
/// # Errors
///
/// [`HelloNameError`] for anything but a host name or an address.
///
/// ```
/// use vault_plugin_secrets_smtp::network::parse_hello_name;
///
/// assert_eq!(parse_hello_name("Vault.ops.example").unwrap(), "vault.ops.example");
/// assert_eq!(parse_hello_name("[ipv6:2001:DB8::1]").unwrap(), "[IPv6:2001:db8::1]");
/// assert_eq!(parse_hello_name("192.0.2.1").unwrap(), "[192.0.2.1]");
/// assert!(parse_hello_name("vault ops").is_err());
/// ```
pub fn parse_hello_name(text: &str) -> Result<String, HelloNameError> {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    // As the standard writes an address, and as everybody does.
    let address = match inside.and_then(|inside| inside.split_at_checked(5)) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse().map(IpAddr::V6).ok()
        }
        _ => inside.and_then(|inside| inside.parse().ok()),
    };
    match (address, Host::parse(text)) {
        (Some(address), _) | (None, Ok(Host::Address(address))) => Ok(literal(address)),
        (None, Ok(Host::Name(name))) => Ok(name),
        (None, Err(_no_host)) => Err(HelloNameError),
    }
}

/// Returns the name to say over a connection from `local`: the given one, this host's full name, or
/// that address.
pub(crate) fn hello_name(given: Option<&str>, local: IpAddr) -> String {
    match given.or(OWN.as_deref()) {
        Some(name) => name.to_owned(),
        None => literal(local.to_canonical()),
    }
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// Finds the full name of a host in what it is called and in its table of names.
fn full_name(hostname: &str, hosts: &str) -> Option<String> {
    let hostname = hostname.trim().trim_end_matches('.');
    if let Some(name) = full(hostname) {
        return Some(name);
    }
    let lines = hosts.lines();
    let lines = lines.map(|line| line.split('#').next().unwrap_or_default());
    lines
        .map(|line| line.split_whitespace().skip(1))
        .filter(|names| {
            let mut names = names.clone();
            !hostname.is_empty() && names.any(|name| name.eq_ignore_ascii_case(hostname))
        })
        .flatten()
        .find_map(full)
}

/// A name of at least two labels that is not only this machine's own.
fn full(name: &str) -> Option<String> {
    let name = host_name(name)?;
    let local = name
        .split('.')
        .any(|label| label == "localhost" || label == "localdomain");
    (name.contains('.') && !local).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_of_a_host_is_found_where_it_has_one() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.9 old.ops.example vault\n\
                     127.0.1.1\tVault.ops.example vault # own\n10.0.0.7 db.ops.example db\n";
        for (hostname, hosts, name) in [
            ("vault.ops.example\n", "", Some("vault.ops.example")),
            ("Vault.Ops.example.", "", Some("vault.ops.example")),
            ("vault\n", hosts, Some("vault.ops.example")),
            ("VAULT", hosts, Some("vault.ops.example")),
            ("vault", "", None),
            ("db2", hosts, None),
            ("", hosts, None),
            ("localhost.localdomain", hosts, None),
            ("vault", "127.0.0.1 localhost.localdomain vault", None),
            ("vault 1.ops.example", "", None),
        ] {
            assert_eq!(full_name(hostname, hosts).as_deref(), name, "{hostname}");
        }
    }

    #[test]
    fn a_host_without_a_name_says_the_address_it_calls_from() {
        for (address, said) in [
            ("10.0.0.7", "[10.0.0.7]"),
            ("::ffff:10.0.0.7", "[10.0.0.7]"),
            ("2001:db8::7", "[IPv6:2001:db8::7]"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(literal(address.to_canonical()), said);
            assert_eq!(parse_hello_name(said).as_deref(), Ok(said));
        }
        let given = hello_name(Some("me.ops.example"), IpAddr::from([10, 0, 0, 7]));
        assert_eq!(given, "me.ops.example");
    }

    #[test]
    fn every_spelling_of_a_host_is_taken_for_ehlo() {
        for (given, said) in [
            ("Vault.Ops.example.", "vault.ops.example"),
            ("m\u{fc}ller.example", "xn--mller-kva.example"),
            ("192.0.2.1", "[192.0.2.1]"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("2001:DB8::1", "[IPv6:2001:db8::1]"),
            ("[2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("[ipv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(parse_hello_name(given).as_deref(), Ok(said), "{given}");
            assert_eq!(parse_hello_name(said).as_deref(), Ok(said));
        }
    }

    #[test]
    fn what_is_no_name_for_ehlo_is_refused() {
        for text in [
            "",
            "a b.example",
            "a.example\r\nMAIL FROM:<x@y.example>",
            "[a.example]",
            "[IPv6:10.0.0.7]",
            "[IPv6:]",
            "[10.0.0.7",
            "https://a.example",
        ] {
            assert_eq!(parse_hello_name(text), Err(HelloNameError), "{text}");
        }
    }
}
