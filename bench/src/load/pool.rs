//! The connections of one thread.
//!
//! Invariants:
//! - A place carries at most `streams` requests at once; those that find no room wait
//!   in the order they came, and a place that becomes free goes to the first of them.
//! - A place without a connection is connected by the first who needs it; whoever
//!   comes meanwhile waits for that attempt and shares its outcome.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::transport::Failure;

struct Place<C> {
    connection: Option<Rc<C>>,
    attempt: Option<Rc<Attempt<C>>>,
    load: usize,
}

/// A connection being made, and who waits for it.
struct Attempt<C> {
    outcome: RefCell<Option<Result<Rc<C>, Failure>>>,
    waiting: RefCell<Vec<Waker>>,
}

#[derive(Default)]
struct Ticket {
    place: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
}

/// See the module's documentation.
pub(super) struct Pool<C> {
    places: RefCell<Vec<Place<C>>>,
    streams: usize,
    /// Where the search for room begins.
    next: Cell<usize>,
    load: Cell<usize>,
    queue: RefCell<VecDeque<Rc<Ticket>>>,
}

/// Room for one request on a place; given back when dropped.
pub(super) struct Room<C> {
    pool: Rc<Pool<C>>,
    pub(super) place: usize,
}

impl<C> Pool<C> {
    pub(super) fn new(places: usize, streams: usize) -> Rc<Self> {
        let place = || Place { connection: None, attempt: None, load: 0 };
        Rc::new(Self {
            places: RefCell::new((0..places).map(|_| place()).collect()),
            streams,
            next: Cell::new(0),
            load: Cell::new(0),
            queue: RefCell::default(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.places.borrow().len()
    }

    /// Room on a given place, at once; for loops that keep to the bound themselves.
    pub(super) fn take(self: &Rc<Self>, place: usize) -> Room<C> {
        self.places.borrow_mut()[place].load += 1;
        self.load.set(self.load.get() + 1);
        Room { pool: Rc::clone(self), place }
    }

    /// Room on whichever place has it next, in turn.
    pub(super) async fn room(self: &Rc<Self>) -> Room<C> {
        if self.queue.borrow().is_empty()
            && let Some(place) = self.find()
        {
            return self.take(place);
        }
        let ticket = Rc::new(Ticket::default());
        self.queue.borrow_mut().push_back(Rc::clone(&ticket));
        let mut waiting = Waiting { pool: self, ticket, is_done: false };
        poll_fn(|cx| match waiting.ticket.place.get() {
            Some(place) => {
                waiting.is_done = true;
                Poll::Ready(Room { pool: Rc::clone(self), place })
            }
            None => {
                *waiting.ticket.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn find(&self) -> Option<usize> {
        let places = self.places.borrow();
        if self.load.get() >= places.len() * self.streams {
            return None;
        }
        let start = self.next.get();
        let found = (0..places.len())
            .map(|step| (start + step) % places.len())
            .find(|place| places[*place].load < self.streams)?;
        self.next.set((found + 1) % places.len());
        Some(found)
    }

    fn release(&self, place: usize) {
        // The room passes to the first in the queue without being free in between.
        if let Some(first) = self.queue.borrow_mut().pop_front() {
            first.place.set(Some(place));
            if let Some(waker) = first.waker.borrow_mut().take() {
                waker.wake();
            }
            return;
        }
        self.places.borrow_mut()[place].load -= 1;
        self.load.set(self.load.get() - 1);
    }

    /// The place's connection, made by `connect` when there is none.
    pub(super) async fn connection<F>(&self, place: usize, connect: F) -> Result<Rc<C>, Failure>
    where
        F: Future<Output = Result<Rc<C>, Failure>>,
    {
        let (attempt, is_ours) = {
            let mut places = self.places.borrow_mut();
            let place = &mut places[place];
            if let Some(connection) = &place.connection {
                return Ok(Rc::clone(connection));
            }
            match &place.attempt {
                Some(attempt) => (Rc::clone(attempt), false),
                None => {
                    let attempt =
                        Rc::new(Attempt { outcome: RefCell::default(), waiting: RefCell::default() });
                    place.attempt = Some(Rc::clone(&attempt));
                    (attempt, true)
                }
            }
        };
        if is_ours {
            let mut guard = AttemptGuard { pool: self, place, attempt };
            let outcome = connect.await;
            guard.settle(outcome.clone());
            return outcome;
        }
        poll_fn(|cx| match &*attempt.outcome.borrow() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                attempt.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Puts another connection in a place; requests under way keep the old one.
    pub(super) fn replace(&self, place: usize, connection: Rc<C>) {
        self.places.borrow_mut()[place].connection = Some(connection);
    }

    /// Forgets a connection that is of no further use, if it is still the place's.
    pub(super) fn forget(&self, place: usize, connection: &Rc<C>) {
        let slot = &mut self.places.borrow_mut()[place].connection;
        if slot.as_ref().is_some_and(|kept| Rc::ptr_eq(kept, connection)) {
            *slot = None;
        }
    }
}

/// A place in the queue; gives on what it was handed when it is dropped unused.
struct Waiting<'a, C> {
    pool: &'a Rc<Pool<C>>,
    ticket: Rc<Ticket>,
    is_done: bool,
}

impl<C> Drop for Waiting<'_, C> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        match self.ticket.place.get() {
            Some(place) => self.pool.release(place),
            None => self.pool.queue.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.ticket)),
        }
    }
}

/// Sees to it that an attempt that is given up leaves nobody waiting.
struct AttemptGuard<'a, C> {
    pool: &'a Pool<C>,
    place: usize,
    attempt: Rc<Attempt<C>>,
}

impl<C> AttemptGuard<'_, C> {
    fn settle(&mut self, outcome: Result<Rc<C>, Failure>) {
        {
            let place = &mut self.pool.places.borrow_mut()[self.place];
            if let Ok(connection) = &outcome {
                place.connection = Some(Rc::clone(connection));
            }
            place.attempt = None;
        }
        *self.attempt.outcome.borrow_mut() = Some(outcome);
        self.attempt.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

impl<C> Drop for AttemptGuard<'_, C> {
    fn drop(&mut self) {
        if self.attempt.outcome.borrow().is_none() {
            self.settle(Err(Failure::new("connect", "the attempt to connect was given up")));
        }
    }
}

impl<C> Drop for Room<C> {
    fn drop(&mut self) {
        self.pool.release(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn room_goes_round_and_then_to_the_first_who_waits() {
        let pool = Pool::<()>::new(2, 1);
        let Poll::Ready(a) = poll(pin!(pool.room())) else { panic!("there is room") };
        let Poll::Ready(b) = poll(pin!(pool.room())) else { panic!("there is room") };
        assert_eq!((a.place, b.place), (0, 1));
        let (mut first, mut second) = (pin!(pool.room()), pin!(pool.room()));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        drop(b);
        assert!(poll(second.as_mut()).is_pending(), "it came later");
        let Poll::Ready(c) = poll(first.as_mut()) else { panic!("it was first") };
        assert_eq!(c.place, 1);
        drop(a);
        assert!(poll(second.as_mut()).is_ready());
    }

    #[test]
    fn room_handed_to_one_who_gave_up_goes_on() {
        let pool = Pool::<()>::new(1, 1);
        let Poll::Ready(a) = poll(pin!(pool.room())) else { panic!("there is room") };
        let mut gone = Box::pin(pool.room());
        let mut quiet = Box::pin(pool.room());
        assert!(poll(gone.as_mut()).is_pending() && poll(quiet.as_mut()).is_pending());
        let mut last = pin!(pool.room());
        assert!(poll(last.as_mut()).is_pending());
        drop(quiet);
        drop(a);
        drop(gone);
        assert!(poll(last.as_mut()).is_ready());
        assert_eq!(pool.load.get(), 0, "all is given back");
    }

    #[test]
    fn one_connects_and_all_share_the_outcome() {
        let pool = Pool::<u8>::new(1, 4);
        let made = Cell::new(0);
        let gate = Cell::new(false);
        let connect = || async {
            made.set(made.get() + 1);
            poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending }).await;
            Ok(Rc::new(7u8))
        };
        let (mut a, mut b) = (pin!(pool.connection(0, connect())), pin!(pool.connection(0, connect())));
        assert!(poll(a.as_mut()).is_pending() && poll(b.as_mut()).is_pending());
        gate.set(true);
        let Poll::Ready(Ok(first)) = poll(a.as_mut()) else { panic!("connected") };
        let Poll::Ready(Ok(second)) = poll(b.as_mut()) else { panic!("connected") };
        assert!(Rc::ptr_eq(&first, &second) && made.get() == 1);
        pool.replace(0, Rc::new(8));
        pool.forget(0, &first);
        let Poll::Ready(Ok(kept)) = poll(pin!(pool.connection(0, connect()))) else { panic!("there") };
        assert_eq!((*kept, made.get()), (8, 1), "forgetting the old one leaves the new");
        pool.forget(0, &kept);
        assert!(poll(pin!(pool.connection(0, connect()))).is_ready());
        assert_eq!(made.get(), 2);
    }

    #[test]
    fn an_attempt_that_is_given_up_fails_for_those_who_wait() {
        let pool = Pool::<u8>::new(1, 4);
        let mut first = Box::pin(pool.connection(0, std::future::pending()));
        let mut second = pin!(pool.connection(0, std::future::pending()));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        drop(first);
        let Poll::Ready(Err(failure)) = poll(second.as_mut()) else { panic!("it is told") };
        assert_eq!(failure.kind, "connect");
    }
}
