//! Futures of one task, run side by side within it.
//!
//! They are polled together whenever the task wakes: at most [`CALLS_AT_ONCE_MAX`] of them, so that costs less
//! than a task for each would, and dropping the set drops them all.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// Most calls that one step, and most steps that one task, has under way at once.
pub(super) const CALLS_AT_ONCE_MAX: usize = 10;

/// Futures that run side by side. Their outputs come in the order they are done.
pub(super) struct JoinSet<'a, T> {
    running: Vec<Pin<Box<dyn Future<Output = T> + 'a>>>,
    done: Vec<T>,
}

impl<'a, T> JoinSet<'a, T> {
    pub(super) fn new() -> Self {
        Self { running: Vec::new(), done: Vec::new() }
    }

    /// Adds a future; it is first polled when the set is.
    pub(super) fn push(&mut self, future: impl Future<Output = T> + 'a) {
        self.running.push(Box::pin(future));
    }

    /// How many are not done.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].as_mut().poll(cx) {
                Poll::Ready(output) => {
                    self.done.push(output);
                    // The order among the running ones does not matter; this one's place has a new future now.
                    drop(self.running.swap_remove(index));
                }
                Poll::Pending => index += 1,
            }
        }
    }

    /// Everything that is done, as soon as something is; nothing when the set is empty.
    pub(super) async fn next_done(&mut self) -> Vec<T> {
        poll_fn(|cx| {
            self.poll_all(cx);
            if self.done.is_empty() && !self.running.is_empty() {
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut self.done))
        })
        .await
    }

    /// Waits for something else while the set goes on.
    pub(super) async fn go_on_during<F: Future>(&mut self, other: F) -> F::Output {
        let mut other = pin!(other);
        poll_fn(|cx| {
            let output = other.as_mut().poll(cx);
            self.poll_all(cx);
            output
        })
        .await
    }
}

/// The outputs of `make` over `inputs`, in their order, with at most [`CALLS_AT_ONCE_MAX`] under way.
pub(super) async fn map_bounded<I, T, F: Future<Output = T>>(
    inputs: impl IntoIterator<Item = I>,
    make: impl Fn(I) -> F,
) -> Vec<T> {
    let mut inputs = inputs.into_iter().enumerate();
    let mut set = JoinSet::new();
    let mut outputs: Vec<(usize, T)> = Vec::new();
    loop {
        while set.running() < CALLS_AT_ONCE_MAX
            && let Some((index, input)) = inputs.next()
        {
            let future = make(input);
            set.push(async move { (index, future.await) });
        }
        let done = set.next_done().await;
        if done.is_empty() {
            break;
        }
        outputs.extend(done);
    }
    outputs.sort_unstable_by_key(|(index, _)| *index);
    outputs.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::task::Waker;

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn all_are_polled_and_done_ones_come_together() {
        let polled = RefCell::new(Vec::new());
        let mut set = JoinSet::new();
        for name in 0..4 {
            let polled = &polled;
            set.push(async move {
                polled.borrow_mut().push(name);
                if name == 2 {
                    std::future::pending::<()>().await;
                }
                name
            });
        }
        let mut done = {
            let next = pin!(set.next_done());
            let Poll::Ready(done) = poll(next) else { panic!("three are done") };
            done
        };
        done.sort_unstable();
        assert_eq!(done, [0, 1, 3]);
        polled.borrow_mut().sort_unstable();
        assert_eq!(*polled.borrow(), [0, 1, 2, 3]);
        assert_eq!(set.running(), 1);
        assert!(poll(pin!(set.next_done())).is_pending());
    }

    #[test]
    fn the_set_goes_on_while_something_else_is_waited_for() {
        let mut set = JoinSet::new();
        set.push(async { 7 });
        assert!(poll(pin!(set.go_on_during(std::future::pending::<()>()))).is_pending());
        assert_eq!(set.running(), 0);
        assert_eq!(poll(pin!(set.next_done())), Poll::Ready(vec![7]));
        assert_eq!(poll(pin!(set.next_done())), Poll::Ready(vec![]));
    }

    #[test]
    fn a_bounded_map_keeps_order_and_bound() {
        let under_way = Cell::new(0usize);
        let most = Cell::new(0usize);
        let work = async |number: usize| {
            under_way.set(under_way.get() + 1);
            most.set(most.get().max(under_way.get()));
            let mut polls = number % 3;
            poll_fn(|_| {
                polls = polls.saturating_sub(1);
                if polls == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            under_way.set(under_way.get() - 1);
            number * 10
        };
        let mut all = pin!(map_bounded(0..25, work));
        let outputs = loop {
            if let Poll::Ready(outputs) = poll(all.as_mut()) {
                break outputs;
            }
        };
        assert_eq!(outputs, (0..25).map(|number| number * 10).collect::<Vec<_>>());
        assert!(most.get() > 1 && most.get() <= CALLS_AT_ONCE_MAX, "{}", most.get());
    }
}
