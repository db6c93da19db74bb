//! Which addresses messages may go to: those of the public Internet, and what the operator allows besides.
//!
//! The lists follow IANA's registries of special-purpose addresses (RFC 6890). For IPv6 it is the other way round than for
//! IPv4: only global unicast (2000::/3) is let through, so that whatever embeds an IPv4 address elsewhere (mapped
//! `::ffff:0:0/96`, compatible `::/96`, NAT64 `64:ff9b::/96`) is refused without a look at what it embeds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Special-purpose IPv4: no host of the public Internet is there.
const SPECIAL_V4: [Ipv4Net; 15] = [
    // This network (RFC 791).
    v4([0, 0, 0, 0], 8),
    // Private (RFC 1918).
    v4([10, 0, 0, 0], 8),
    // Shared by carriers, for their NAT (RFC 6598).
    v4([100, 64, 0, 0], 10),
    // Loopback (RFC 1122).
    v4([127, 0, 0, 0], 8),
    // Link-local (RFC 3927), with the metadata services of clouds.
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    // Protocol assignments (RFC 6890).
    v4([192, 0, 0, 0], 24),
    // Documentation (RFC 5737), here and below.
    v4([192, 0, 2, 0], 24),
    // Relays of 6to4, deprecated (RFC 7526).
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    // Benchmarks (RFC 2544).
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Multicast (RFC 5771).
    v4([224, 0, 0, 0], 4),
    // Reserved (RFC 1112), with the broadcast address.
    v4([240, 0, 0, 0], 4),
];

/// Global unicast (RFC 4291).
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0], 3);

/// Special-purpose IPv6 within it.
const SPECIAL_V6: [Ipv6Net; 4] = [
    // Protocol assignments (RFC 2928): Teredo, benchmarks, ORCHID.
    v6([0x2001, 0], 23),
    // Documentation (RFC 3849, RFC 9637).
    v6([0x2001, 0xdb8], 32),
    v6([0x3fff, 0], 20),
    // 6to4, which embeds IPv4 (RFC 3056).
    v6([0x2002, 0], 16),
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), prefix)
}

const fn v6(first: [u16; 2], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first[0], first[1], 0, 0, 0, 0, 0, 0), prefix)
}

/// Whether an address is a host's of the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !SPECIAL_V6.iter().any(|network| network.contains(&address))
        }
    }
}

/// Whether messages may go to an address, where these networks are allowed besides the public Internet. An allowed IPv4
/// network does not allow the IPv6 forms of its addresses.
pub(super) fn is_allowed(address: IpAddr, besides: &[IpNet]) -> bool {
    is_public(address) || besides.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, besides: &[&str]) -> bool {
        let besides: Vec<IpNet> = besides.iter().map(|network| network.parse().expect("a network")).collect();
        is_allowed(address.parse().expect("an address"), &besides)
    }

    #[test]
    fn hosts_of_the_public_internet_are_allowed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2600::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
        ] {
            assert!(allowed(address, &[]), "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for address in [
            // This network, private, shared, loopback, link-local.
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.255.255",
            // Assignments, documentation, 6to4 relays, benchmarks, multicast, reserved, broadcast.
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            // Unspecified, loopback, compatible, mapped, translated.
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::a00:1",
            // Discard, SRv6, unique local, link-local, site-local, multicast.
            "100::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456:789a::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            // Teredo, benchmarks, ORCHID, documentation, 6to4.
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff::1",
        ] {
            assert!(!allowed(address, &[]), "{address}");
        }
    }

    #[test]
    fn a_network_that_is_allowed_besides_is_allowed_in_its_own_form_alone() {
        assert!(allowed("10.1.2.3", &["10.1.0.0/16"]));
        assert!(!allowed("10.2.2.3", &["10.1.0.0/16"]));
        assert!(!allowed("::ffff:10.1.2.3", &["10.1.0.0/16"]));
        assert!(allowed("::ffff:10.1.2.3", &["::ffff:10.1.0.0/112"]));
        assert!(allowed("127.0.0.1", &["fd00::/8", "127.0.0.1/32"]));
        assert!(!allowed("127.0.0.2", &["fd00::/8", "127.0.0.1/32"]));
        assert!(allowed("fd00::1", &["fd00::/8"]));
    }
}
