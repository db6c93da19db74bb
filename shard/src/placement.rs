//! Which core owns which shard.
//!
//! Invariant: every shard has exactly one owner, and all cores hold the same table.

use sluice_core::CoreId;
use sluice_protocols::ids::{ShardCount, ShardId, UserId};

/// The table from shards to cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    shards: ShardCount,
    owners: Box<[CoreId]>,
}

impl Placement {
    /// Deals the shards out in turn: shard `i` belongs to core `i % cores`.
    ///
    /// # Panics
    /// When `cores` is 0 or above [`CoreId::COUNT_MAX`]; configuration is checked before cores are made.
    pub fn dealt(shards: ShardCount, cores: usize) -> Self {
        assert!((1..=CoreId::COUNT_MAX).contains(&cores), "{cores} cores");
        let owner = |shard: ShardId| {
            let core = usize::from(shard.index()) % cores;
            CoreId::new(u16::try_from(core).expect("below COUNT_MAX"))
        };
        Self { shards, owners: shards.shards().map(owner).collect() }
    }

    /// The shard that keeps `user`.
    pub fn shard_of(&self, user: &UserId) -> ShardId {
        ShardId::of(user, self.shards)
    }

    /// The core that owns `shard`.
    pub fn owner(&self, shard: ShardId) -> CoreId {
        self.owners[usize::from(shard.index())]
    }

    /// The shards `core` owns, in order.
    pub fn owned_by(&self, core: CoreId) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.shards().filter(move |shard| self.owner(*shard) == core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_owner_whatever_the_number_of_cores() {
        let shards = ShardCount::new(10).unwrap();
        for cores in [1, 2, 3, 10, 16] {
            let placement = Placement::dealt(shards, cores);
            let mut owned: Vec<u16> = (0..cores)
                .flat_map(|core| placement.owned_by(CoreId::new(u16::try_from(core).unwrap())))
                .map(ShardId::index)
                .collect();
            owned.sort_unstable();
            assert_eq!(owned, (0..10).collect::<Vec<_>>(), "{cores} cores");
        }
    }

    #[test]
    fn a_users_shard_does_not_depend_on_the_number_of_cores() {
        let shards = ShardCount::new(256).unwrap();
        let user = UserId::from_bytes([7; 16]);
        let shard = Placement::dealt(shards, 1).shard_of(&user);
        assert_eq!(Placement::dealt(shards, 5).shard_of(&user), shard);
        assert_eq!(Placement::dealt(shards, 5).owner(shard).index(), usize::from(shard.index()) % 5);
    }
}
