//! Whom a bound for one client is for.

use std::net::IpAddr;

/// An IPv4 address, or the 64 bits of an IPv6 network, since a single client has all addresses of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl Network {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Multicast, which is nobody's address, leaves room for those of the other kind.
            IpAddr::V4(address) => Self((0xffff_ffff << 32) | u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                // `::/64`, where `::1` is, would be 0.
                Self(((a << 48) | (b << 32) | (c << 16) | d).max(1))
            }
        }
    }

    /// The network as a number, which is never 0.
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn a_network_is_an_address_or_64_bits_of_addresses() {
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_ne!(network("::1"), network("0.0.0.0"));
        assert_eq!(network("::1"), network("::2"));
        assert_ne!(network("::1").to_bits(), 0);
    }
}
