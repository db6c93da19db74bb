//! Tasks that ended lately, ready to be told to whoever asks.
//!
//! Invariants: at most `entries_max` entries and `bytes_max` bytes of bodies; the oldest goes first.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use hashbrown::HashMap;
use sluice_protocols::api::{TaskState, TaskView, Timing};
use sluice_protocols::ids::{TaskId, UserId};
use sluice_protocols::problem::Problem;
use sluice_store::record::TaskRecord;

use crate::run::{self, codes};

/// The end of a task.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) user: UserId,
    pub(crate) state: TaskState,
    /// Its view as JSON.
    pub(crate) body: Bytes,
    pub(crate) timing: Timing,
    /// Why it failed.
    pub(crate) error: Option<Problem>,
}

impl Finished {
    /// The end of a task whose view is written already.
    pub(crate) fn told(task: &TaskRecord, body: Bytes) -> Rc<Self> {
        Rc::new(Self {
            user: task.user,
            state: codes::task_state(task.state),
            body,
            timing: run::timing(task),
            error: run::error_of(task),
        })
    }

    /// Writes the view of a final task.
    pub(crate) fn of(user: UserId, view: &TaskView) -> Rc<Self> {
        Rc::new(Self {
            user,
            state: view.state,
            body: view_json(view),
            timing: view.timing.unwrap_or_default(),
            error: view.error.clone(),
        })
    }
}

/// A task's view as JSON.
pub(crate) fn view_json(view: &TaskView) -> Bytes {
    // A view has texts, numbers and lists alone: writing it to memory does not fail.
    serde_json::to_vec(view).map(Bytes::from).unwrap_or_default()
}

/// See the module.
pub(crate) struct FinishedTasks {
    entries: HashMap<TaskId, Rc<Finished>, foldhash::fast::RandomState>,
    /// In the order they came; exactly the keys of `entries`.
    order: VecDeque<TaskId>,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

impl FinishedTasks {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self { entries: HashMap::default(), order: VecDeque::new(), bytes: 0, entries_max, bytes_max }
    }

    pub(crate) fn get(&self, task: &TaskId) -> Option<&Rc<Finished>> {
        self.entries.get(task)
    }

    /// Takes a task in; one that is over the limits by itself, or is here already, changes nothing.
    pub(crate) fn insert(&mut self, task: TaskId, finished: Rc<Finished>) {
        let cost = finished.body.len();
        if cost > self.bytes_max || self.entries_max == 0 || self.entries.contains_key(&task) {
            return;
        }
        while self.order.len() >= self.entries_max || self.bytes + cost > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.entries.remove(&oldest).expect("`order` has exactly the keys of `entries`");
            self.bytes -= gone.body.len();
        }
        self.bytes += cost;
        self.order.push_back(task);
        self.entries.insert(task, finished);
    }

    /// Forgets the tasks of a user who is erased.
    pub(crate) fn remove_user(&mut self, user: &UserId) {
        let theirs = self.entries.iter().filter(|(_, finished)| finished.user == *user);
        let theirs: Vec<TaskId> = theirs.map(|(task, _)| *task).collect();
        theirs.iter().for_each(|task| self.remove(task));
    }

    /// Forgets a task: it has not ended any more.
    pub(crate) fn remove(&mut self, task: &TaskId) {
        if let Some(gone) = self.entries.remove(task) {
            self.bytes -= gone.body.len();
            self.order.retain(|other| other != task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(bytes: usize) -> Rc<Finished> {
        Rc::new(Finished {
            user: UserId::from_bytes([1; 16]),
            state: TaskState::Done,
            body: Bytes::from(vec![b' '; bytes]),
            timing: Timing::default(),
            error: None,
        })
    }

    fn task(number: u64) -> TaskId {
        TaskId::new(number, [0; 10])
    }

    #[test]
    fn the_oldest_goes_when_entries_or_bytes_run_out() {
        let mut tasks = FinishedTasks::new(3, 100);
        (0..5).for_each(|number| tasks.insert(task(number), finished(10)));
        assert!(tasks.get(&task(1)).is_none() && tasks.get(&task(2)).is_some());
        tasks.insert(task(9), finished(85));
        assert!(tasks.get(&task(3)).is_none() && tasks.get(&task(4)).is_some());
        assert_eq!((tasks.entries.len(), tasks.order.len(), tasks.bytes), (2, 2, 95));
    }

    #[test]
    fn what_is_too_large_displaces_nobody() {
        let mut tasks = FinishedTasks::new(3, 100);
        tasks.insert(task(1), finished(50));
        tasks.insert(task(2), finished(101));
        tasks.insert(task(1), finished(60));
        assert_eq!((tasks.entries.len(), tasks.bytes), (1, 50));
        tasks.remove(&task(1));
        tasks.remove(&task(1));
        assert_eq!((tasks.entries.len(), tasks.order.len(), tasks.bytes), (0, 0, 0));
    }
}
