//! Who of a core's users is at their documents just now: turns, places and pins.
//!
//! Invariants:
//! - Of one user, one request at a time reads and changes what is kept of documents and snapshots (a turn), in the order
//!   in which they came; at most [`TURNS_WAITING_MAX`] wait. No turn lasts while content passes.
//! - A generation that is pinned (its content passes) keeps its chunks, whether or not anything refers to it.
//! - At most [`TRANSFERS_PER_USER_MAX`] contents of a user pass at once.
//! - A user who does nothing costs nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use hashbrown::HashMap;
use sluice_protocols::ids::{GenerationId, UserId};

/// Requests of a user that may wait for their turn.
pub(crate) const TURNS_WAITING_MAX: usize = 32;
/// Contents of a user's documents that may pass at once.
pub(crate) const TRANSFERS_PER_USER_MAX: usize = 8;

/// Too many are there already. Try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of yours are at your context documents")]
pub(crate) struct Crowded;

/// See the module.
#[derive(Default)]
pub(crate) struct Desks(RefCell<HashMap<UserId, Desk, foldhash::fast::RandomState>>);

#[derive(Default)]
struct Desk {
    is_taken: bool,
    waiting: VecDeque<Rc<Waiter>>,
    pins: HashMap<GenerationId, usize, foldhash::fast::RandomState>,
    transfers: usize,
}

#[derive(Default)]
struct Waiter {
    is_due: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Desks {
    fn with<T>(&self, user: UserId, act: impl FnOnce(&mut Desk) -> T) -> T {
        let mut desks = self.0.borrow_mut();
        let desk = desks.entry(user).or_default();
        let done = act(desk);
        let is_idle =
            !desk.is_taken && desk.waiting.is_empty() && desk.pins.is_empty() && desk.transfers == 0;
        if is_idle {
            desks.remove(&user);
        }
        done
    }

    /// Waits for the user's turn; it lasts until what is given is dropped.
    pub(crate) async fn turn(self: &Rc<Self>, user: UserId) -> Result<Turn, Crowded> {
        let waiter = Rc::<Waiter>::default();
        let queued = self.with(user, |desk| {
            if !desk.is_taken {
                desk.is_taken = true;
                waiter.is_due.set(true);
                return Ok(());
            }
            if desk.waiting.len() >= TURNS_WAITING_MAX {
                return Err(Crowded);
            }
            desk.waiting.push_back(Rc::clone(&waiter));
            Ok(())
        });
        queued?;
        // From here on it is given back however this ends.
        let turn = Turn { desks: Rc::clone(self), user, waiter };
        poll_fn(|cx| {
            if turn.waiter.is_due.get() {
                return Poll::Ready(());
            }
            *turn.waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(turn)
    }

    /// Keeps a generation's chunks until what is given is dropped.
    pub(crate) fn pin(self: &Rc<Self>, user: UserId, generation: GenerationId) -> Pin {
        self.with(user, |desk| *desk.pins.entry(generation).or_default() += 1);
        Pin { desks: Rc::clone(self), user, generation }
    }

    /// Whether content of it passes.
    pub(crate) fn is_pinned(&self, user: UserId, generation: &GenerationId) -> bool {
        self.0.borrow().get(&user).is_some_and(|desk| desk.pins.contains_key(generation))
    }

    /// Takes a place for content that passes, until what is given is dropped.
    pub(crate) fn transfer(self: &Rc<Self>, user: UserId) -> Result<Transfer, Crowded> {
        self.with(user, |desk| {
            if desk.transfers >= TRANSFERS_PER_USER_MAX {
                return Err(Crowded);
            }
            desk.transfers += 1;
            Ok(())
        })?;
        Ok(Transfer { desks: Rc::clone(self), user })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// One user's turn, or the wait for it.
pub(crate) struct Turn {
    desks: Rc<Desks>,
    user: UserId,
    waiter: Rc<Waiter>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.desks.with(self.user, |desk| {
            if !self.waiter.is_due.get() {
                desk.waiting.retain(|waiting| !Rc::ptr_eq(waiting, &self.waiter));
                return None;
            }
            let next = desk.waiting.pop_front();
            desk.is_taken = next.is_some();
            next
        });
        if let Some(next) = next {
            next.is_due.set(true);
            let waker = next.waker.borrow_mut().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// Keeps a generation.
pub(crate) struct Pin {
    desks: Rc<Desks>,
    user: UserId,
    generation: GenerationId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.desks.with(self.user, |desk| match desk.pins.get_mut(&self.generation) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                desk.pins.remove(&self.generation);
            }
        });
    }
}

/// The place of a content that passes.
pub(crate) struct Transfer {
    desks: Rc<Desks>,
    user: UserId,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.desks.with(self.user, |desk| desk.transfers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    const ANNA: UserId = UserId::from_bytes([1; 16]);

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn ready<F: Future>(future: F) -> F::Output {
        match poll(pin!(future)) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn turns_come_in_order_also_past_those_who_gave_up() {
        let desks = Rc::<Desks>::default();
        let first = ready(desks.turn(ANNA)).unwrap();
        let (mut second, mut third) = (Box::pin(desks.turn(ANNA)), Box::pin(desks.turn(ANNA)));
        let mut gives_up = Box::pin(desks.turn(ANNA));
        assert!(poll(second.as_mut()).is_pending() && poll(gives_up.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(gives_up);
        // Another user does not wait.
        drop(ready(desks.turn(UserId::from_bytes([2; 16]))).unwrap());
        drop(first);
        assert!(poll(third.as_mut()).is_pending());
        // Due, and dropped before it was seen.
        drop(second);
        let Poll::Ready(Ok(third)) = poll(third.as_mut()) else { panic!("it is due") };
        drop(third);
        assert_eq!(desks.len(), 0);
    }

    #[test]
    fn waits_and_places_are_bounded() {
        let desks = Rc::<Desks>::default();
        let first = ready(desks.turn(ANNA)).unwrap();
        let mut waits: Vec<_> = (0..TURNS_WAITING_MAX).map(|_| Box::pin(desks.turn(ANNA))).collect();
        assert!(waits.iter_mut().all(|wait| poll(wait.as_mut()).is_pending()));
        assert!(ready(desks.turn(ANNA)).is_err());
        drop((waits, first));
        let places: Vec<_> = (0..TRANSFERS_PER_USER_MAX).map(|_| desks.transfer(ANNA).unwrap()).collect();
        assert!(desks.transfer(ANNA).is_err());
        drop(places);
        assert!(desks.transfer(ANNA).is_ok());
        assert_eq!(desks.len(), 0);
    }

    #[test]
    fn a_generation_is_pinned_until_its_last_pin_is_gone() {
        let (desks, generation) = (Rc::<Desks>::default(), GenerationId::from_bytes([3; 16]));
        let (one, two) = (desks.pin(ANNA, generation), desks.pin(ANNA, generation));
        drop(one);
        assert!(desks.is_pinned(ANNA, &generation));
        drop(two);
        assert!(!desks.is_pinned(ANNA, &generation));
        assert_eq!(desks.len(), 0);
    }
}
