//! The tasks of one core that have not ended, and where each stands.
//!
//! Invariants: whoever moves a task on says where it stands, and moves nothing that has gone on meanwhile; how many wait to
//! be confirmed is counted as they come and go, for every cancellation and every preview asks.

use std::rc::Rc;
use std::time::Instant;

use hashbrown::HashMap;
use sluice_protocols::api::Priority;
use sluice_protocols::ids::{ShardId, TaskId};
use sluice_store::Commit;
use sluice_store::record::{TaskRecord, WaitsRecord};

use super::Outcome;
use super::queue::LaneId;
use crate::cancel::Cancel;
use crate::signal::Signal;
use crate::upstream::meter::micros;

/// Where a task stands that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody works on it.
    Idle(Idle),
    Running,
    /// Being confirmed or cancelled.
    Changing,
}

/// What a task waits for that nobody works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// For its turn, in the queue.
    Queued,
    /// For its user to confirm its plan.
    Unconfirmed,
}

/// A task's way through the queue, by the reactor's clock: what begins in the turn in which it came did not wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) queued: Instant,
    /// When the command before it in its session ended, or was cancelled; as `queued` where there was none.
    pub(super) ready: Instant,
    pub(super) begun: Instant,
}

impl Passage {
    pub(super) fn new(now: Instant) -> Self {
        Self { queued: now, ready: now, begun: now }
    }

    /// What it waited for: first its turn in its session, then a place.
    pub(super) fn waits(&self) -> WaitsRecord {
        WaitsRecord {
            turn_us: micros(self.ready.saturating_duration_since(self.queued)),
            queue_us: micros(self.begun.saturating_duration_since(self.ready)),
            ..WaitsRecord::default()
        }
    }
}

/// What a core knows of a task that has not ended.
pub(super) struct Pending {
    pub(super) shard: ShardId,
    pub(super) lane: LaneId,
    pub(super) priority: Priority,
    pub(super) cancel: Cancel,
    /// The record while the task waits; one that is not here is read from the store when its turn comes.
    /// Boxed, so that the table of pending tasks stays small: growing it moves every entry, in one turn.
    pub(super) record: Option<Box<TaskRecord>>,
    /// Of a task that was begun before it was durable: what becomes of its first entry.
    pub(super) first: Option<Commit>,
    /// When its command arrived; `None` when that was in an earlier process.
    pub(super) arrived: Option<Instant>,
    pub(super) passage: Passage,
    pub(super) signal: Rc<Signal<Outcome>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct PendingTasks {
    tasks: HashMap<TaskId, (Phase, Pending), foldhash::fast::RandomState>,
    unconfirmed: usize,
}

impl PendingTasks {
    /// Takes a task in that waits for this.
    pub(super) fn insert(&mut self, task: TaskId, idle: Idle, entry: Pending) {
        let phase = Phase::Idle(idle);
        let before = self.tasks.insert(task, (phase, entry));
        self.unconfirmed =
            self.unconfirmed + unconfirmed(phase) - before.map_or(0, |(phase, _)| unconfirmed(phase));
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<&Pending> {
        self.tasks.get(task).map(|(_, entry)| entry)
    }

    pub(super) fn get_mut(&mut self, task: &TaskId) -> Option<&mut Pending> {
        self.tasks.get_mut(task).map(|(_, entry)| entry)
    }

    pub(super) fn phase(&self, task: &TaskId) -> Option<Phase> {
        self.tasks.get(task).map(|(phase, _)| *phase)
    }

    /// Moves a task from one phase into another and gives it; `None`, and nothing is changed, where it is not there or
    /// stands elsewhere.
    #[must_use]
    pub(super) fn advance(&mut self, task: &TaskId, from: Phase, to: Phase) -> Option<&mut Pending> {
        let (phase, entry) = self.tasks.get_mut(task).filter(|(phase, _)| *phase == from)?;
        *phase = to;
        self.unconfirmed = self.unconfirmed + unconfirmed(to) - unconfirmed(from);
        Some(entry)
    }

    pub(super) fn remove(&mut self, task: &TaskId) -> Option<Pending> {
        let (phase, entry) = self.tasks.remove(task)?;
        self.unconfirmed -= unconfirmed(phase);
        Some(entry)
    }

    /// Tasks that wait to be confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TaskId, Phase, &Pending)> {
        self.tasks.iter().map(|(task, (phase, entry))| (task, *phase, entry))
    }
}

/// What a task in this phase counts for.
fn unconfirmed(phase: Phase) -> usize {
    usize::from(phase == Phase::Idle(Idle::Unconfirmed))
}
