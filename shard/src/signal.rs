//! Something that happens once, and those on the same core who wait for it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

/// A value that is set once. Invariant: a [`Wait`] that was dropped has left no waker behind.
pub(crate) struct Signal<T> {
    value: RefCell<Option<T>>,
    waiting: RefCell<SmallVec<[(u64, Waker); 1]>>,
    next: Cell<u64>,
}

impl<T: Clone> Signal<T> {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { value: RefCell::new(None), waiting: RefCell::default(), next: Cell::new(0) })
    }

    /// Sets the value and wakes everybody; a later value is ignored.
    pub(crate) fn set(&self, value: T) {
        if self.value.borrow().is_some() {
            return;
        }
        *self.value.borrow_mut() = Some(value);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Whether the value is there.
    pub(crate) fn is_set(&self) -> bool {
        self.value.borrow().is_some()
    }

    /// Waits for the value.
    pub(crate) fn wait(self: &Rc<Self>) -> Wait<T> {
        let number = self.next.get();
        self.next.set(number + 1);
        Wait { signal: Rc::clone(self), number }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }
}

/// The wait for a [`Signal`].
pub(crate) struct Wait<T> {
    signal: Rc<Signal<T>>,
    number: u64,
}

impl<T: Clone> Future for Wait<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.signal.value.borrow().as_ref() {
            return Poll::Ready(value.clone());
        }
        let mut waiting = self.signal.waiting.borrow_mut();
        match waiting.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => waiting.push((self.number, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<T> Drop for Wait<T> {
    fn drop(&mut self) {
        let mut waiting = self.signal.waiting.borrow_mut();
        if let Some(place) = waiting.iter().position(|(number, _)| *number == self.number) {
            waiting.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T: Clone>(wait: &mut Wait<T>) -> Poll<T> {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn all_who_wait_get_the_first_value() {
        let signal = Signal::new();
        let (mut one, mut two) = (signal.wait(), signal.wait());
        assert_eq!(poll(&mut one), Poll::Pending);
        signal.set(7);
        signal.set(8);
        assert_eq!((poll(&mut one), poll(&mut two)), (Poll::Ready(7), Poll::Ready(7)));
    }

    #[test]
    fn who_gave_up_waiting_leaves_nothing_behind() {
        let signal = Signal::<u8>::new();
        let mut waits: Vec<_> = (0..10).map(|_| signal.wait()).collect();
        for wait in &mut waits {
            let _ = poll(wait);
            let _ = poll(wait);
        }
        assert_eq!(signal.waiting(), 10);
        drop(waits);
        assert_eq!(signal.waiting(), 0);
    }
}
