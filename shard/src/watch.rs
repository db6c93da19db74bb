//! Who looks on while a task of this core runs.
//!
//! A watcher is told that something may have changed, not what: it reads the task's record, which tells all that
//! happened so far. So nothing queues up for a slow watcher; what it missed it finds when it looks again.
//!
//! Invariants: one entry for each task that is watched, gone with its last watcher; a change is never missed, also when
//! it comes between a look and the wait for the next.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use hashbrown::HashMap;
use sluice_protocols::ids::TaskId;

/// The tasks of one core that are watched.
#[derive(Default)]
pub struct Watches(RefCell<HashMap<TaskId, Topic, foldhash::fast::RandomState>>);

#[derive(Default)]
struct Topic {
    changes: u64,
    watchers: usize,
    /// At most one for each watcher, by its number.
    waiting: Vec<(u64, Waker)>,
    next: u64,
}

impl Watches {
    /// Begins to watch a task.
    pub(crate) fn watch(self: &Rc<Self>, task: TaskId) -> Watch {
        let mut topics = self.0.borrow_mut();
        let topic = topics.entry(task).or_default();
        topic.watchers += 1;
        topic.next += 1;
        Watch { watches: Rc::clone(self), task, number: topic.next, seen: topic.changes }
    }

    /// Whether anybody looks on.
    pub(crate) fn is_watched(&self, task: &TaskId) -> bool {
        self.0.borrow().contains_key(task)
    }

    /// Says that something about a task has changed, durably.
    pub(crate) fn changed(&self, task: &TaskId) {
        let waiting = match self.0.borrow_mut().get_mut(task) {
            Some(topic) => {
                topic.changes += 1;
                std::mem::take(&mut topic.waiting)
            }
            None => return,
        };
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Says that something has changed about every task.
    pub(crate) fn all_changed(&self) {
        let tasks: Vec<TaskId> = self.0.borrow().keys().copied().collect();
        tasks.iter().for_each(|task| self.changed(task));
    }
}

/// One who watches a task.
pub(crate) struct Watch {
    watches: Rc<Watches>,
    task: TaskId,
    number: u64,
    seen: u64,
}

impl Watch {
    /// Waits for a change since the last wait ended. Gives the number of changes.
    pub(crate) async fn changed(&mut self) -> u64 {
        poll_fn(|cx| {
            let mut topics = self.watches.0.borrow_mut();
            let Some(topic) = topics.get_mut(&self.task) else { return Poll::Pending };
            let news = topic.changes - self.seen;
            if news > 0 {
                self.seen = topic.changes;
                return Poll::Ready(news);
            }
            match topic.waiting.iter_mut().find(|(number, _)| *number == self.number) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => topic.waiting.push((self.number, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut topics = self.watches.0.borrow_mut();
        let Some(topic) = topics.get_mut(&self.task) else { return };
        topic.watchers -= 1;
        topic.waiting.retain(|(number, _)| *number != self.number);
        if topic.watchers == 0 {
            topics.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn task(number: u64) -> TaskId {
        TaskId::new(number, [0; 10])
    }

    fn poll(watch: &mut Watch) -> Poll<u64> {
        pin!(watch.changed()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn changes_between_looks_are_told_once_and_together() {
        let watches = Rc::<Watches>::default();
        watches.changed(&task(1));
        let mut one = watches.watch(task(1));
        assert!(poll(&mut one).is_pending());
        watches.changed(&task(1));
        watches.changed(&task(1));
        watches.changed(&task(2));
        assert_eq!((poll(&mut one), poll(&mut one)), (Poll::Ready(2), Poll::Pending));
        watches.all_changed();
        assert_eq!(poll(&mut one), Poll::Ready(1));
    }

    #[test]
    fn who_goes_leaves_nothing_behind() {
        let watches = Rc::<Watches>::default();
        let (mut one, two) = (watches.watch(task(1)), watches.watch(task(1)));
        assert!(poll(&mut one).is_pending() && poll(&mut one).is_pending());
        assert_eq!(watches.0.borrow()[&task(1)].waiting.len(), 1);
        drop(one);
        assert!(watches.is_watched(&task(1)) && watches.0.borrow()[&task(1)].waiting.is_empty());
        drop(two);
        assert!(!watches.is_watched(&task(1)));
    }
}
