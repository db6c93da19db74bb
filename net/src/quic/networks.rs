//! How many connections the clients of one network hold.
//!
//! A network is what one client can have to itself: an IPv4 address, or 64 bits of IPv6 addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// An IPv4 address, or the first 64 bits of an IPv6 address.
///
/// Both are one number: what an IPv4 address comes to is the beginning of IPv6 addresses that nobody has (RFC 4291
/// section 2.5: 0000::/8), but for the loopback address and those that stand for IPv4, which are taken for what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(u64);

impl Network {
    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(u32::from(address))),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Self(u64::MAX),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                Self(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

/// Connections by network, as many for each as it may have. Holds nothing of networks without connections.
#[derive(Debug)]
pub(crate) struct Networks {
    // Clients choose their addresses: the hash is one that they cannot foresee.
    held: HashMap<Network, u32, foldhash::quality::RandomState>,
    max: Option<NonZeroU32>,
}

impl Networks {
    /// `max` connections each; `None` counts nothing.
    pub(crate) fn new(max: Option<NonZeroU32>) -> Self {
        Self { held: HashMap::default(), max }
    }

    /// Whether one more would be let in.
    pub(crate) fn has_room(&self, network: Network) -> bool {
        self.max.is_none_or(|max| self.held.get(&network).is_none_or(|held| *held < max.get()))
    }

    /// Counts one more, if there is room.
    pub(crate) fn enter(&mut self, network: Network) -> bool {
        let Some(max) = self.max else { return true };
        let held = self.held.entry(network).or_insert(0);
        let has_room = *held < max.get();
        *held += u32::from(has_room);
        has_room
    }

    /// Counts one less.
    pub(crate) fn leave(&mut self, network: Network) {
        let Entry::Occupied(mut entry) = self.held.entry(network) else { return };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
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
    }

    #[test]
    fn each_network_has_its_own_share_and_nothing_is_kept_of_those_that_left() {
        let mut networks = Networks::new(NonZeroU32::new(2));
        let (one, other) = (network("192.0.2.1"), network("192.0.2.2"));
        assert!(networks.enter(one) && networks.has_room(one) && networks.enter(one));
        assert!(!networks.has_room(one) && !networks.enter(one) && networks.enter(other));
        networks.leave(one);
        assert!(networks.has_room(one) && networks.enter(one) && !networks.enter(one));
        networks.leave(one);
        networks.leave(one);
        networks.leave(other);
        assert!(networks.held.is_empty());
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let mut networks = Networks::new(None);
        let one = network("192.0.2.1");
        assert!((0..100).all(|_| networks.has_room(one) && networks.enter(one)));
        assert!(networks.held.is_empty());
        networks.leave(one);
    }
}
