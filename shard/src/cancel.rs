//! The wish that a task be given up, as it reaches whatever works on it.
//!
//! Invariants: a wish is never taken back, and who looks late sees it all the same; it is told as kept only once it is durable.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::signal::{Signal, Wait};

/// See the module. Clones are the same wish.
#[derive(Clone)]
pub struct Cancel {
    wish: Rc<Signal<()>>,
    kept: Rc<Signal<()>>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self { wish: Signal::new(), kept: Signal::new() }
    }
}

impl Cancel {
    /// Wishes it.
    pub fn set(&self) {
        self.wish.set(());
    }

    /// Whether it was wished.
    pub fn is_set(&self) -> bool {
        self.wish.is_set()
    }

    /// Waits until it is wished.
    pub(crate) fn wished(&self) -> Wait<()> {
        self.wish.wait()
    }

    /// Says that the wish is on disk, where whoever takes the task up finds it.
    pub(crate) fn keep(&self) {
        self.kept.set(());
    }

    /// Waits until the wish is on disk.
    pub(crate) fn kept(&self) -> Wait<()> {
        self.kept.wait()
    }

    /// The output of `work`, or `None` when the wish came first: `work` is dropped then, and with it every call
    /// it waits for.
    pub async fn unless<F: Future>(&self, work: F) -> Option<F::Output> {
        let (mut work, mut wish) = (pin!(work), pin!(self.wished()));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => wish.as_mut().poll(cx).map(|()| None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::{Context, Waker};

    use super::*;

    fn now<F: Future>(work: F) -> Poll<F::Output> {
        pin!(work).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn work_ends_by_itself_or_by_the_wish() {
        let cancel = Cancel::default();
        assert_eq!(now(cancel.unless(ready(7))), Poll::Ready(Some(7)));
        assert!(now(cancel.unless(pending::<u8>())).is_pending() && !cancel.is_set());
        cancel.clone().set();
        assert_eq!(now(cancel.unless(pending::<u8>())), Poll::Ready(None));
        // What is done at once is not thrown away.
        assert_eq!(now(cancel.unless(ready(7))), Poll::Ready(Some(7)));
    }
}
