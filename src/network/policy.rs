//! [`NetworkPolicy`]: which addresses may be connected to, and the resolution that obeys it.

use std::net::{IpAddr, SocketAddr};

use super::Fault;
use super::ranges::{Reach, reach};
use super::rules::AddressRule;

/// The rules for every outgoing connection.
///
/// With an empty `allowed` list, public addresses are allowed. With a list, only what it names is,
/// and what it names may be private. Loopback, link-local, multicast, unspecified addresses and
/// the refused ones are never allowed, in any spelling; `dev_loopback` lifts this for loopback
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The mount's `allowed_hosts`.
    pub allowed: Vec<AddressRule>,
    /// Allows loopback, and plain text to it: only where the process was started for development.
    pub dev_loopback: bool,
    /// Addresses that no list can allow: the host's own API.
    pub refused: Vec<SocketAddr>,
    /// The same by lower-case name and port, where no address is written.
    pub refused_hosts: Vec<(String, u16)>,
}

/// Why an address may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressRefusal {
    /// Loopback, link-local, multicast, unspecified or the host's own API.
    #[error("loopback, link-local, multicast and the host's own addresses are never called")]
    Never,
    /// A private or reserved range that `allowed_hosts` does not list.
    #[error("a private address must be listed in allowed_hosts")]
    Private,
    /// `allowed_hosts` is set and lists neither the name nor the address.
    #[error("allowed_hosts does not list this host")]
    NotListed,
}

impl NetworkPolicy {
    /// Decides about one address of `host`, the name or literal the operator gave.
    ///
    /// # Errors
    ///
    /// [`AddressRefusal`] if nothing may be sent there.
    pub fn check(&self, host: &str, address: SocketAddr) -> Result<(), AddressRefusal> {
        let ip = address.ip().to_canonical();
        if self
            .refused
            .iter()
            .any(|one| one.ip().to_canonical() == ip && one.port() == address.port())
        {
            return Err(AddressRefusal::Never);
        }
        self.check_name(host, address.port())?;
        let reach = reach(ip);
        match reach {
            // Only the address itself: a translated one would leave this machine.
            Reach::Loopback if self.dev_loopback && ip.is_loopback() => return Ok(()),
            Reach::Loopback | Reach::Never => return Err(AddressRefusal::Never),
            Reach::Public | Reach::Private => {}
        }
        let listed = self.allowed.iter().any(|rule| rule.lists(host, ip));
        match reach {
            _ if listed => Ok(()),
            Reach::Public if self.allowed.is_empty() => Ok(()),
            Reach::Private if self.allowed.is_empty() => Err(AddressRefusal::Private),
            _ => Err(AddressRefusal::NotListed),
        }
    }

    /// Refuses what is the host's own API by its name.
    fn check_name(&self, host: &str, port: u16) -> Result<(), AddressRefusal> {
        let refused = |(name, at): &(String, u16)| *at == port && name.eq_ignore_ascii_case(host);
        if self.refused_hosts.iter().any(refused) {
            Err(AddressRefusal::Never)
        } else {
            Ok(())
        }
    }

    /// Decides, without any network, what can be decided about a host as it is written: a literal
    /// address entirely, a name only if no address could make it allowed.
    ///
    /// # Errors
    ///
    /// [`AddressRefusal`] if no connection to this host can be allowed.
    pub fn check_literal(&self, host: &str, port: u16) -> Result<(), AddressRefusal> {
        if let Some(ip) = literal(host) {
            return self.check(host, SocketAddr::new(ip, port));
        }
        self.check_name(host, port)?;
        if is_local_name(host) {
            return if self.dev_loopback {
                Ok(())
            } else {
                Err(AddressRefusal::Never)
            };
        }
        let possible = self.dev_loopback
            || self.allowed.is_empty()
            || self
                .allowed
                .iter()
                .any(|rule| rule.is_network() || rule.lists_name(host));
        if possible {
            Ok(())
        } else {
            Err(AddressRefusal::NotListed)
        }
    }

    /// Decides about a host without any network, if that is possible: `None` where it depends on the
    /// addresses that its name has.
    pub(crate) fn decides(&self, host: &str, port: u16) -> Option<bool> {
        if self.check_literal(host, port).is_err() {
            return Some(false);
        }
        let listed = self.allowed.iter().any(|rule| rule.lists_name(host));
        (listed || literal(host).is_some() || is_local_name(host)).then_some(true)
    }

    /// Reports whether a host may be spoken to without TLS: this machine, where the process was
    /// started for development, and nothing else.
    pub(crate) fn allows_plain(&self, host: &str) -> bool {
        let loopback =
            literal(host).map_or_else(|| is_local_name(host), |ip| ip.to_canonical().is_loopback());
        self.dev_loopback && loopback
    }

    /// Resolves `host` and keeps the addresses that may be connected to, in the resolver's order.
    ///
    /// The caller must connect to one of these addresses and not resolve again.
    ///
    /// # Errors
    ///
    /// [`Fault::Unresolved`] if the name has no address, [`Fault::AddressRefused`] if it has
    /// only forbidden ones.
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept; dropping the future only wastes the look-up.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        resolve(host, port, |address| self.check(host, address).is_ok()).await
    }
}

/// Reports whether an address can be the host's own API, which lies in the operator's network or on
/// this machine, where no tenant's mail server may be. `local` leaves only this machine.
pub(crate) fn may_be_host_api(ip: IpAddr, local: bool) -> bool {
    let ip = ip.to_canonical();
    match reach(ip) {
        // Only the address itself: a translated one would leave this machine.
        Reach::Loopback => ip.is_loopback(),
        Reach::Never => false,
        Reach::Public | Reach::Private => !local,
    }
}

/// Returns every address of `host`, whatever the rules say of them; `None` if it has none now. For
/// saying what rules would do: nothing may be connected to by it.
pub(crate) async fn look_up(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    resolve(host, port, |_any| true).await.ok()
}

/// Resolves `host` and keeps the addresses that `allows` lets through, as
/// [`NetworkPolicy::resolve`] does by its rules.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    allows: impl Fn(SocketAddr) -> bool,
) -> Result<Vec<SocketAddr>, Fault> {
    let found: Vec<SocketAddr> = match literal(host) {
        Some(ip) => vec![SocketAddr::new(ip, port)],
        None => tokio::net::lookup_host((host, port))
            .await
            .map_err(|_no_text| Fault::Unresolved)?
            .collect(),
    };
    if found.is_empty() {
        return Err(Fault::Unresolved);
    }
    let allowed: Vec<SocketAddr> = found.into_iter().filter(|one| allows(*one)).collect();
    if allowed.is_empty() {
        Err(Fault::AddressRefused)
    } else {
        Ok(allowed)
    }
}

/// Reports whether a name means this machine (RFC 6761, section 6.3).
pub(super) fn is_local_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Reads a host that is an address, with or without the brackets of a URL.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str]) -> NetworkPolicy {
        NetworkPolicy {
            allowed: rules
                .iter()
                .map(|rule| AddressRule::parse(rule).unwrap())
                .collect(),
            ..NetworkPolicy::default()
        }
    }

    fn check(policy: &NetworkPolicy, host: &str, ip: &str) -> Result<(), AddressRefusal> {
        policy.check(host, SocketAddr::new(ip.parse().unwrap(), 443))
    }

    #[test]
    fn an_empty_list_means_public_addresses() {
        let policy = policy(&[]);
        assert_eq!(check(&policy, "m.example", "1.1.1.1"), Ok(()));
        assert_eq!(
            check(&policy, "m.example", "10.0.0.1"),
            Err(AddressRefusal::Private)
        );
        assert_eq!(
            check(&policy, "m.example", "127.0.0.1"),
            Err(AddressRefusal::Never)
        );
    }

    #[test]
    fn a_list_allows_what_it_names_and_nothing_else() {
        let policy = policy(&["10.0.0.0/8", "*.mail.internal"]);
        assert_eq!(check(&policy, "m.example", "10.9.9.9"), Ok(()));
        assert_eq!(check(&policy, "a.mail.internal", "192.168.0.1"), Ok(()));
        assert_eq!(check(&policy, "a.mail.internal", "1.1.1.1"), Ok(()));
        assert_eq!(
            check(&policy, "m.example", "1.1.1.1"),
            Err(AddressRefusal::NotListed)
        );
        assert_eq!(
            check(&policy, "m.example", "192.168.0.1"),
            Err(AddressRefusal::NotListed)
        );
    }

    #[test]
    fn no_list_reaches_loopback_metadata_or_the_host() {
        let mut policy = policy(&["0.0.0.0/0", "::/0", "*.mail.internal"]);
        policy.refused = vec!["10.0.0.5:8200".parse().unwrap()];
        for ip in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "0.0.0.0",
        ] {
            assert_eq!(
                check(&policy, "a.mail.internal", ip),
                Err(AddressRefusal::Never),
                "{ip}"
            );
        }
        for own in ["10.0.0.5:8200", "[::ffff:10.0.0.5]:8200"] {
            assert_eq!(
                policy.check("a.mail.internal", own.parse().unwrap()),
                Err(AddressRefusal::Never)
            );
        }
        assert_eq!(check(&policy, "a.mail.internal", "10.0.0.5"), Ok(()));
        policy.refused_hosts = vec![("vault.mail.internal".to_owned(), 8200)];
        let by_name = |host: &str, port| {
            let literal = policy.check_literal(host, port);
            let resolved = policy.check(host, SocketAddr::new([10, 0, 0, 9].into(), port));
            assert_eq!(literal, resolved, "{host}:{port}");
            literal
        };
        let never = Err(AddressRefusal::Never);
        assert_eq!(by_name("vault.mail.internal", 8200), never);
        assert_eq!(by_name("VAULT.mail.internal", 8200), never);
        assert_eq!(by_name("vault.mail.internal", 443), Ok(()));
        assert_eq!(by_name("a.mail.internal", 8200), Ok(()));
    }

    #[test]
    fn the_development_policy_adds_loopback_and_nothing_else() {
        let mut policy = policy(&["mail.internal"]);
        policy.dev_loopback = true;
        assert_eq!(check(&policy, "127.0.0.1", "127.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "localhost", "::1"), Ok(()));
        for ip in ["169.254.169.254", "0.0.0.0", "64:ff9b::7f00:1"] {
            assert_eq!(check(&policy, "x", ip), Err(AddressRefusal::Never), "{ip}");
        }
    }

    #[test]
    fn what_is_written_is_decided_without_a_network() {
        let open = policy(&[]);
        assert_eq!(open.check_literal("[::1]", 443), Err(AddressRefusal::Never));
        assert_eq!(
            open.check_literal("10.0.0.1", 443),
            Err(AddressRefusal::Private)
        );
        assert_eq!(
            open.check_literal("a.localhost", 443),
            Err(AddressRefusal::Never)
        );
        assert_eq!(open.check_literal("mail.acme.example", 443), Ok(()));
        let named = policy(&["mail.internal"]);
        assert_eq!(
            named.check_literal("mail.acme.example", 443),
            Err(AddressRefusal::NotListed)
        );
        let networks = policy(&["10.0.0.0/8"]);
        assert_eq!(networks.check_literal("mail.acme.example", 443), Ok(()));
    }

    #[test]
    fn the_hosts_own_api_may_be_on_this_machine_and_never_among_metadata() {
        for (ip, anywhere, here) in [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("::ffff:127.0.0.1", true, true),
            ("10.0.0.5", true, false),
            ("1.1.1.1", true, false),
            ("fd00::5", true, false),
            ("64:ff9b::7f00:1", false, false),
            ("169.254.169.254", false, false),
            ("fd00:ec2::254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("224.0.0.1", false, false),
        ] {
            let parsed = ip.parse().unwrap();
            assert_eq!(may_be_host_api(parsed, false), anywhere, "{ip}");
            assert_eq!(may_be_host_api(parsed, true), here, "{ip}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_to_checked_addresses_only() {
        let mut policy = policy(&[]);
        assert_eq!(
            policy.resolve("localhost", 443).await,
            Err(Fault::AddressRefused)
        );
        assert_eq!(
            policy.resolve("169.254.169.254", 80).await,
            Err(Fault::AddressRefused)
        );
        policy.dev_loopback = true;
        let found = policy.resolve("localhost", 443).await.unwrap();
        assert!(
            found
                .iter()
                .all(|one| one.ip().is_loopback() && one.port() == 443)
        );
    }
}
