//! Credentials that were found good and are believed for a while, by one core.
//!
//! Invariants:
//! - nothing is believed that was found before something of its user's was taken back ([`Revocations`]), nor longer than it
//!   is good itself;
//! - texts are compared in constant time, and their places are drawn by chance, so that nobody outside can make them meet.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_protocols::ids::UserId;

use super::{Principal, Revocations, same};
use crate::generations::Generations;

struct Belief<const N: usize> {
    text: [u8; N],
    principal: Rc<Principal>,
    until: Instant,
}

/// See the module. `!Send`: one a core and kind of credential.
pub(super) struct Beliefs<const N: usize> {
    entries: RefCell<Generations<Belief<N>>>,
    hasher: foldhash::fast::RandomState,
    life: Duration,
}

impl<const N: usize> Beliefs<N> {
    /// Holds at most `max`, each for `life` at most; those used least lately go first.
    pub(super) fn new(max: usize, life: Duration) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Self { entries: RefCell::new(Generations::new(max)), hasher, life }
    }

    /// Whose credential this is, when it was found good lately.
    pub(super) fn find(
        &self,
        text: &[u8; N],
        revocations: &Revocations,
        now: Instant,
    ) -> Option<Rc<Principal>> {
        let hash = self.hasher.hash_one(text);
        let mut entries = self.entries.borrow_mut();
        let entry = entries.find(hash, |entry| same(&entry.text, text))?;
        let is_believed = entry.until > now && revocations.is_current(entry.principal.stamp);
        is_believed.then(|| Rc::clone(&entry.principal))
    }

    /// Believes what was found good and is so for `left`; not what was taken back while it was looked up.
    pub(super) fn keep(
        &self,
        text: &[u8; N],
        principal: &Rc<Principal>,
        left: Duration,
        revocations: &Revocations,
        now: Instant,
    ) {
        if revocations.is_current(principal.stamp) {
            let until = now + left.min(self.life);
            let entry = Belief { text: *text, principal: Rc::clone(principal), until };
            let hash = self.hasher.hash_one(text);
            self.entries.borrow_mut().insert(hash, entry, |other| same(&other.text, text));
        }
    }

    /// Believes nothing any more.
    pub(super) fn clear(&self) {
        self.entries.borrow_mut().retain(|_| false);
    }

    /// Drops what is believed of a user who is erased.
    pub(super) fn forget(&self, user: &UserId) {
        self.entries.borrow_mut().retain(|entry| entry.principal.user != *user);
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.entries.borrow().len()
    }
}
