//! What a user does to a task that has not ended: cancels it, or confirms its plan.
//!
//! Invariants: a task that waits is cancelled by one batch (pending away, finished, history), before anybody is told;
//! while it is on its way the task is out of the queue, so it is not begun meanwhile; when the batch fails, it is back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use sluice_protocols::api::{TaskState, TaskView};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_store::record::{TaskRecord, encode};
use sluice_store::{Batch, Key};

use super::accept::{entry_of, lane_of};
use super::complete::storage_problem;
use super::finished::Finished;
use super::queue::{Full, LaneId};
use super::{Found, Outcome, Phase, Tasks, Unchanged};
use crate::run::{NOT_BEGUN, codes};

/// What a wish to cancel came to.
pub(crate) enum Cancelled {
    /// The task has ended as cancelled.
    Ended(Rc<Finished>),
    /// It runs; it ends as soon as what it has sent off is known.
    Asked(Box<TaskView>),
}

/// How often it is looked whether a user's tasks have ended.
const ENDING_LOOK: Duration = Duration::from_millis(5);

const CHANGING: &str = "the task is being changed by another request";

impl Tasks {
    /// Cancels a user's task.
    pub(crate) async fn cancel(
        self: &Rc<Self>,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<Cancelled, Unchanged> {
        let Some((phase, lane)) = self.phase_of(user, &task) else {
            return match self.find(user, shard, task).await? {
                Some(Found::Finished(end)) if end.state == TaskState::Cancelled => Ok(Cancelled::Ended(end)),
                Some(Found::Finished(_)) => Err(Unchanged::Conflict("the task has ended")),
                Some(Found::Pending(_)) => Err(Unchanged::Conflict("the task goes on after a restart")),
                None => Err(Unchanged::NotFound),
            };
        };
        match phase {
            Phase::Changing => Err(Unchanged::Conflict(CHANGING)),
            Phase::Running => {
                if let Some(entry) = self.pending.borrow().get(&task) {
                    entry.cancel.set();
                }
                self.metrics.tasks_cancel_asked.add(1);
                match self.find(user, shard, task).await? {
                    Some(Found::Pending(view)) => Ok(Cancelled::Asked(view)),
                    Some(Found::Finished(end)) => Ok(Cancelled::Ended(end)),
                    None => Err(Unchanged::NotFound),
                }
            }
            Phase::Waiting | Phase::Unconfirmed => {
                self.give_up(lane, task, phase, NOT_BEGUN).await.map(Cancelled::Ended)
            }
        }
    }

    /// Ends all tasks of a user who is erased: those that wait are cancelled, those that run are told to end, and are waited
    /// for until `limit`. Says whether none is left. Nothing of it is written any more; what has ended is forgotten.
    pub(crate) async fn end_all_of(self: &Rc<Self>, user: UserId, limit: Instant) -> bool {
        loop {
            let theirs: Vec<TaskId> = {
                let pending = self.pending.borrow();
                pending.iter().filter(|(_, entry)| entry.lane.user == user).map(|(task, _)| *task).collect()
            };
            for task in &theirs {
                match self.phase_of(user, task) {
                    Some((phase @ (Phase::Waiting | Phase::Unconfirmed), lane)) => {
                        // One that fails is met again in the next round.
                        drop(self.give_up(lane, *task, phase, NOT_BEGUN).await);
                    }
                    Some((Phase::Running, _)) => {
                        if let Some(entry) = self.pending.borrow().get(task) {
                            entry.cancel.set();
                        }
                    }
                    Some((Phase::Changing, _)) | None => {}
                }
            }
            self.finished.borrow_mut().remove_user(&user);
            if theirs.is_empty() || sluice_core::now() >= limit {
                return theirs.is_empty();
            }
            sluice_core::sleep(ENDING_LOOK).await;
        }
    }

    /// Whether a user has tasks that are not at their end. Walks all there are: for what is asked for rarely.
    pub(crate) fn has_any_of(&self, user: &UserId) -> bool {
        self.pending.borrow().values().any(|entry| entry.lane.user == *user)
    }

    /// Ends a task that does not run.
    pub(super) async fn give_up(
        self: &Rc<Self>,
        lane: LaneId,
        task: TaskId,
        phase: Phase,
        answer: &str,
    ) -> Result<Rc<Finished>, Unchanged> {
        self.set_phase(&task, Phase::Changing);
        if phase == Phase::Waiting {
            let removed = self.queue.borrow_mut().remove(lane, &task);
            self.note_turn(removed.and_then(|removed| removed.next));
        }
        match self.end_unrun(lane, task, answer).await {
            Ok(finished) => {
                self.settle(&task, Outcome::Finished(Rc::clone(&finished)));
                self.note_unconfirmed();
                self.start_ready();
                Ok(finished)
            }
            Err(problem) => {
                self.set_phase(&task, phase);
                if phase == Phase::Waiting {
                    let priority = self.pending.borrow()[&task].priority;
                    // When it was due is read from its record in time; at worst it is tried a little early.
                    let entry = super::queue::Entry { task, priority, not_before_ms: 0 };
                    self.queue.borrow_mut().push_promised(lane, entry);
                    self.start_ready();
                }
                Err(problem)
            }
        }
    }

    async fn end_unrun(&self, lane: LaneId, task: TaskId, answer: &str) -> Result<Rc<Finished>, Unchanged> {
        let (shard, mut record) = self.stored(lane, &task).await?;
        record.state = codes::of_task_state(TaskState::Cancelled);
        record.answer = Some(answer.to_owned());
        record.finished_ms = Some(self.clock.unix_ms().max(record.created_ms));
        self.end_without_turn(shard, lane, record).await.map_err(Unchanged::Storage)
    }

    /// Lets a task run whose user has seen its plan.
    pub(crate) async fn confirm(
        self: &Rc<Self>,
        user: UserId,
        task: TaskId,
    ) -> Result<TaskRecord, Unchanged> {
        let (phase, lane) = self.phase_of(user, &task).ok_or(Unchanged::NotFound)?;
        match phase {
            Phase::Unconfirmed => {}
            Phase::Changing => return Err(Unchanged::Conflict(CHANGING)),
            Phase::Waiting | Phase::Running => {
                return Err(Unchanged::Conflict("the task does not wait for a confirmation"));
            }
        }
        self.set_phase(&task, Phase::Changing);
        let confirmed = self.confirm_stored(lane, &task).await;
        let mut pending = self.pending.borrow_mut();
        let entry = pending.get_mut(&task).expect("a task that is being changed is registered");
        entry.phase = if confirmed.is_ok() { Phase::Waiting } else { Phase::Unconfirmed };
        drop(pending);
        if let Ok(record) = &confirmed {
            self.queue.borrow_mut().push_reserved(lane_of(record), entry_of(record));
            self.note_unconfirmed();
            self.start_ready();
        }
        confirmed
    }

    async fn confirm_stored(&self, lane: LaneId, task: &TaskId) -> Result<TaskRecord, Unchanged> {
        let (shard, mut record) = self.stored(lane, task).await?;
        let allowed_ms = record.deadline_ms.saturating_sub(record.created_ms);
        record.state = codes::of_task_state(TaskState::Queued);
        record.confirmed = true;
        record.deadline_ms = self.clock.unix_ms().saturating_add(allowed_ms);
        let priority = codes::priority(record.priority);
        self.queue.borrow_mut().reserve(lane, priority).map_err(|Full| Unchanged::Full)?;
        let mut batch = Batch::new(shard);
        let value = encode(&record).map_err(|error| Unchanged::Storage(storage_problem(&error)))?;
        batch.put(&Key::task_pending(&lane.user, task), value.as_bytes());
        match self.store.commit(batch).await {
            Ok(_) => Ok(record),
            Err(error) => {
                self.queue.borrow_mut().release(lane, priority);
                Err(Unchanged::Storage(storage_problem(&error)))
            }
        }
    }

    fn phase_of(&self, user: UserId, task: &TaskId) -> Option<(Phase, LaneId)> {
        let pending = self.pending.borrow();
        pending.get(task).filter(|entry| entry.lane.user == user).map(|entry| (entry.phase, entry.lane))
    }

    /// The record of a task that does not run, as it is on disk.
    async fn stored(&self, lane: LaneId, task: &TaskId) -> Result<(ShardId, TaskRecord), Unchanged> {
        let (shard, record) = {
            let pending = self.pending.borrow();
            let entry = pending.get(task).ok_or(Unchanged::NotFound)?;
            (entry.shard, entry.record.as_deref().cloned())
        };
        if let Some(record) = record {
            return Ok((shard, record));
        }
        let key = Key::task_pending(&lane.user, task);
        let record = self.store.load::<TaskRecord>(shard, &key).await?.ok_or(Unchanged::NotFound)?;
        Ok((shard, record.to_record()))
    }
}
