//! Requests of each user that are under way on the core.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashMap;
use sluice_protocols::ids::UserId;

/// Counts them. At most as many users are in here as the core has requests, which the ingress bounds.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_user: RefCell<HashMap<UserId, u32, foldhash::fast::RandomState>>,
}

impl Places {
    /// Takes a place, until what is given is dropped; none when the user has `max` already.
    pub(super) fn enter(self: &Rc<Self>, user: UserId, max: u32) -> Option<Place> {
        let mut by_user = self.by_user.borrow_mut();
        let count = by_user.entry(user).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(by_user);
        Some(Place { places: Rc::clone(self), user })
    }

    #[cfg(test)]
    fn users(&self) -> usize {
        self.by_user.borrow().len()
    }
}

/// A request under way: it goes with the answer, and with whatever is dropped unanswered.
#[derive(Debug)]
pub(crate) struct Place {
    places: Rc<Places>,
    user: UserId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_user = self.places.by_user.borrow_mut();
        if let Some(count) = by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_each_users_own_and_come_back_when_dropped() {
        let places: Rc<Places> = Rc::default();
        let (ada, bob) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let held: Vec<_> = (0..3).map(|_| places.enter(ada, 3).unwrap()).collect();
        assert!(places.enter(ada, 3).is_none());
        let other = places.enter(bob, 3).unwrap();
        drop(held);
        assert_eq!(places.users(), 1);
        assert!(places.enter(ada, 1).is_some());
        drop(other);
        assert_eq!(places.users(), 0);
    }
}
