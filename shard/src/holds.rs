//! One at a time for each user: those who would change the same thing wait for each other.
//!
//! Invariants: of a user at most one [`Hold`] exists; whoever waits is a request under way, so the ingress bounds them.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use sluice_protocols::ids::UserId;

use crate::signal::Signal;

/// See the module.
#[derive(Default)]
pub(crate) struct Holds(RefCell<HashMap<UserId, Rc<Signal<()>>, foldhash::fast::RandomState>>);

/// A user's turn, until it is dropped.
pub(crate) struct Hold<'a> {
    holds: &'a Holds,
    user: UserId,
}

impl Holds {
    /// Waits until nobody else has the user's turn, and takes it.
    pub(crate) async fn take(&self, user: UserId) -> Hold<'_> {
        loop {
            let before = match self.0.borrow_mut().entry(user) {
                Entry::Vacant(place) => {
                    place.insert(Signal::new());
                    return Hold { holds: self, user };
                }
                Entry::Occupied(held) => held.get().wait(),
            };
            before.await;
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let held = self.holds.0.borrow_mut().remove(&self.user);
        held.expect("the turn was this hold's").set(());
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_next_has_its_turn_when_the_one_before_is_dropped_and_other_users_do_not_wait() {
        let holds = Holds::default();
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(holds.take(anna)).poll(&mut context) else { panic!("nobody has it") };
        let mut second = pin!(holds.take(anna));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(pin!(holds.take(bert)).poll(&mut context).is_ready());
        drop(first);
        assert!(second.as_mut().poll(&mut context).is_ready());
        assert!(holds.0.borrow().is_empty());
    }
}
