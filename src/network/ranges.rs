//! What kind of place an IP address is.
//!
//! Source: the IANA special-purpose address registries (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the rules say about an address before any operator's list is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Globally reachable.
    Public,
    /// Private, shared or reserved: reachable only in somebody's own network.
    Private,
    /// This machine.
    Loopback,
    /// Nothing a mail server can have: unspecified, link-local (cloud metadata), multicast, ….
    Never,
}

/// Classifies an address. IPv6 forms that carry an IPv4 address count as that address.
pub(super) fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

/// Returns the IPv4 address that a packet to this IPv6 address ends at, if the form carries one.
pub(super) fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let last = join(g, h);
    match (a, b, c, d, e, f) {
        // Mapped (RFC 4291 2.5.5.2), translated (RFC 2765), NAT64 (RFC 6052).
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => {
            Some(last)
        }
        // 6to4 (RFC 3056).
        (0x2002, high, low, ..) => Some(join(high, low)),
        _ => None,
    }
}

fn join(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (127, ..) => Reach::Loopback,
        // "This network", link-local with the metadata services, multicast, limited broadcast.
        (0 | 224..=239, ..) | (169, 254, _) => Reach::Never,
        _ if ip.is_broadcast() => Reach::Never,
        (10 | 240..=255, ..)
        | (100, 64..=127, _)
        | (172, 16..=31, _)
        | (192, 168, _)
        | (192, 0, 0 | 2)
        | (192, 88, 99)
        | (198, 18..=19, _)
        | (198, 51, 100)
        | (203, 0, 113) => Reach::Private,
        _ => Reach::Public,
    }
}

/// The IPv6 form of the Amazon EC2 metadata service, which lies in private space.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254);

fn reach_v6(ip: Ipv6Addr) -> Reach {
    if ip == Ipv6Addr::LOCALHOST {
        return Reach::Loopback;
    }
    if let Some(v4) = embedded_v4(ip) {
        return reach_v4(v4);
    }
    match ip.segments() {
        // Unspecified and IPv4-compatible, both without use; link-local; multicast.
        [0, 0, 0, 0, 0, 0, ..] | [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] => Reach::Never,
        _ if ip == METADATA_V6 => Reach::Never,
        // Protocol assignments with Teredo, benchmarking, ORCHID; documentation.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => {
            Reach::Private
        }
        // The one block that is handed out globally.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_its_reach() {
        for (text, expected) in [
            ("1.1.1.1", Reach::Public),
            ("172.15.255.255", Reach::Public),
            ("172.32.0.0", Reach::Public),
            ("100.128.0.1", Reach::Public),
            ("198.20.0.1", Reach::Public),
            ("10.0.0.1", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("192.0.0.8", Reach::Private),
            ("198.18.0.1", Reach::Private),
            ("203.0.113.9", Reach::Private),
            ("240.0.0.1", Reach::Private),
            ("127.0.0.1", Reach::Loopback),
            ("127.255.0.3", Reach::Loopback),
            ("0.0.0.0", Reach::Never),
            ("0.1.2.3", Reach::Never),
            ("169.254.169.254", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("239.255.255.255", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("2606:4700::1111", Reach::Public),
            ("2001:4860:4860::8888", Reach::Public),
            ("fc00::1", Reach::Private),
            ("fdff::1", Reach::Private),
            ("fec0::1", Reach::Private),
            ("2001:db8::1", Reach::Private),
            ("2001:0:1::1", Reach::Private),
            ("64:ff9b:1::1", Reach::Private),
            ("100::1", Reach::Private),
            ("::1", Reach::Loopback),
            ("::", Reach::Never),
            ("::7f00:1", Reach::Never),
            ("::8.8.8.8", Reach::Never),
            ("fe80::1", Reach::Never),
            ("febf::1", Reach::Never),
            ("ff02::1", Reach::Never),
            ("fd00:ec2::254", Reach::Never),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("::ffff:169.254.169.254", Reach::Never),
            ("::ffff:10.0.0.1", Reach::Private),
            ("::ffff:8.8.8.8", Reach::Public),
            ("::ffff:0:10.0.0.1", Reach::Private),
            ("64:ff9b::a9fe:a9fe", Reach::Never),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("64:ff9b::808:808", Reach::Public),
            ("2002:a9fe:a9fe::1", Reach::Never),
            ("2002:a00:1::1", Reach::Private),
            ("2002:808:808::1", Reach::Public),
        ] {
            assert_eq!(reach(text.parse().unwrap()), expected, "{text}");
        }
    }
}
