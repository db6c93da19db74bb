//! How the storage threads answer a core: two small meeting places between one waiting side and one telling side.
//!
//! - [`Inbox`]: many receipts, one owner. The commit writer leaves all of a group's receipts for a core and wakes it
//!   once.
//! - [`reply`]: one value, one waiter. What a pooled read answers through.
//!
//! Both wake by plain [`Waker`]s, outside their lock. Invariant: a waker that was registered is woken after
//! whatever came next, so no wake is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::log::Receipt;

/// The critical sections below run no foreign code, so a poisoned lock still guards sound data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receipts for one owner. Bounded by the submissions the owner has in flight, each of which leaves one.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<InboxState>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct InboxState {
    receipts: Vec<Receipt>,
    waker: Option<Waker>,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Leaves a receipt without waking anyone. Call [`Self::wake`] after the last of a group.
    pub(crate) fn leave(&self, receipt: Receipt) {
        lock(&self.state).receipts.push(receipt);
    }

    /// Wakes the owner, if it waits.
    pub(crate) fn wake(&self) {
        let waker = lock(&self.state).waker.take();
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves what has arrived into `into`; registers the waker when there was nothing.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, into: &mut Vec<Receipt>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.receipts.is_empty() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        into.append(&mut state.receipts);
        Poll::Ready(())
    }

    /// Blocks the calling thread for the next receipt.
    pub(crate) fn wait(&self) -> Receipt {
        let mut state = lock(&self.state);
        loop {
            if let Some(receipt) = state.receipts.pop() {
                return receipt;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[derive(Debug)]
enum Slot<T> {
    Empty(Option<Waker>),
    Full(T),
    /// Taken, or given up by either side.
    Closed,
}

/// The telling half of [`reply`]. Dropping it unused wakes the waiter with `None`.
#[derive(Debug)]
pub(crate) struct Reply<T>(Arc<Mutex<Slot<T>>>);

/// The waiting half of [`reply`].
#[derive(Debug)]
pub(crate) struct ReplyFuture<T>(Arc<Mutex<Slot<T>>>);

/// A place for one value that another thread will give.
pub(crate) fn reply<T>() -> (Reply<T>, ReplyFuture<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty(None)));
    (Reply(Arc::clone(&slot)), ReplyFuture(slot))
}

impl<T> Reply<T> {
    /// Gives the value.
    pub(crate) fn give(self, value: T) {
        self.set(Slot::Full(value));
    }

    /// Whether nobody waits any more, so that the work can be spared.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*lock(&self.0), Slot::Closed)
    }

    fn set(&self, next: Slot<T>) {
        let mut slot = lock(&self.0);
        if !matches!(*slot, Slot::Empty(_)) {
            return;
        }
        let before = std::mem::replace(&mut *slot, next);
        drop(slot);
        if let Slot::Empty(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.set(Slot::Closed);
    }
}

impl<T> Future for ReplyFuture<T> {
    /// `None` when the telling half was dropped unused.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.0);
        if let Slot::Empty(waker) = &mut *slot {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Full(value) => Poll::Ready(Some(value)),
            Slot::Empty(_) | Slot::Closed => Poll::Ready(None),
        }
    }
}

impl<T> Drop for ReplyFuture<T> {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *lock(&self.0), Slot::Closed);
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{CountingWaker, block_on};

    #[test]
    fn a_value_given_by_another_thread_wakes_the_waiter() {
        let (give, wait) = reply();
        let thread = std::thread::spawn(move || give.give(7));
        assert_eq!(block_on(wait), Some(7));
        thread.join().unwrap();
    }

    #[test]
    fn a_telling_half_that_goes_away_ends_the_wait() {
        let (give, wait) = reply::<u8>();
        let thread = std::thread::spawn(move || drop(give));
        assert_eq!(block_on(wait), None);
        thread.join().unwrap();
    }

    #[test]
    fn a_waiter_that_goes_away_is_noticed() {
        let (give, wait) = reply::<u8>();
        assert!(!give.is_abandoned());
        drop(wait);
        assert!(give.is_abandoned());
        give.give(1);
    }

    #[test]
    fn receipts_of_a_group_cost_one_wake() {
        let inbox = Inbox::new();
        let (counter, waker) = CountingWaker::new();
        let mut taken = Vec::new();
        assert!(inbox.poll_take(&Context::from_waker(&waker), &mut taken).is_pending());
        for ticket in 0..3 {
            inbox.leave(Receipt { ticket, outcome: Ok(smallvec::SmallVec::new()) });
        }
        inbox.wake();
        assert_eq!(counter.count(), 1);
        assert!(inbox.poll_take(&Context::from_waker(&waker), &mut taken).is_ready());
        assert_eq!(taken.iter().map(|receipt| receipt.ticket).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
