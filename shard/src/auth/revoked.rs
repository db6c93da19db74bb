//! What takes a believed credential back at once, on every core.
//!
//! A credential that a core believes carries the stamp of its user at the time it was checked. Whoever changes what a
//! user may do (revokes a key, disables the user, gives another role) raises the user's stamp after the change is
//! durable and before it is acknowledged; a belief with an older stamp is checked anew. So a revocation that was
//! acknowledged bites with the next request, on whatever core, and cannot get lost in a queue. The price is one load a
//! request of a line that only revocations write.
//!
//! Invariant: a stamp is read before the records that the belief rests on, so that a belief cannot be newer than it says.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use sluice_protocols::ids::UserId;
use xxhash_rust::xxh3::xxh3_64;

/// Users share them; one that is raised costs the others of it a check. 32 KiB.
const SLOTS: usize = 4_096;

/// The stamps of all users, one for the process.
#[derive(Debug)]
pub struct Revocations(Box<[AtomicU64]>);

/// A user's stamp at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    slot: u16,
    count: u64,
}

impl Default for Revocations {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Revocations {
    /// Has everything that is believed of this user checked anew. Call it when the change is durable.
    pub fn revoke(&self, user: &UserId) {
        self.0[usize::from(slot_of(user))].fetch_add(1, Release);
    }

    /// The user's stamp. Read it before what the belief rests on.
    pub(crate) fn stamp(&self, user: &UserId) -> Stamp {
        let slot = slot_of(user);
        Stamp { slot, count: self.0[usize::from(slot)].load(Acquire) }
    }

    /// Whether nothing was taken back since.
    pub(crate) fn is_current(&self, stamp: Stamp) -> bool {
        self.0[usize::from(stamp.slot)].load(Acquire) == stamp.count
    }
}

fn slot_of(user: &UserId) -> u16 {
    // The high bits: the low ones pick the shard.
    let slot = (xxh3_64(user.as_bytes()) >> 52) as usize & (SLOTS - 1);
    u16::try_from(slot).expect("fewer slots than 2^16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_current_until_its_user_is_revoked() {
        let revocations = Revocations::default();
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let (of_anna, of_bert) = (revocations.stamp(&anna), revocations.stamp(&bert));
        assert_ne!(of_anna.slot, of_bert.slot, "chosen so that they do not share one");
        revocations.revoke(&anna);
        assert!(!revocations.is_current(of_anna) && revocations.is_current(of_bert));
        let again = revocations.stamp(&anna);
        assert!(revocations.is_current(again) && again != of_anna);
    }
}
