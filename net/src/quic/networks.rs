//! How many connections the clients of one network hold.

use std::num::NonZeroU32;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::Network;

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
