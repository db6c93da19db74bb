//! What a user does to a task that has not ended: cancels it, or confirms its plan.
//!
//! Invariants:
//! - A task that waits is cancelled by one batch (pending away, finished, history), before anybody is told; while it is on
//!   its way the task is out of the queue, so it is not begun meanwhile; when the batch fails, it is back.
//! - Who ends a task names the wait it is in; one that has gone on since is left alone.
//! - That a task which runs will be cancelled is told only once the wish is on disk, or the task has ended.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sluice_protocols::api::{StepState, TaskState};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{StepRecord, TaskRecord, encode};
use sluice_store::{Batch, Key};

use super::accept::{entry_of, lane_of};
use super::complete::storage_problem;
use super::finished::Finished;
use super::queue::{Full, LaneId};
use super::{Found, Idle, Outcome, Phase, Tasks, Unchanged};
use crate::cancel::Cancel;
use crate::run::{NOT_BEGUN, codes};
use crate::signal::Wait;

/// What a wish to cancel came to.
pub(crate) enum Cancelled {
    /// The task has ended as cancelled.
    Ended(Rc<Finished>),
    /// It ran, and the wish will not be lost: it ends, or has by now, as soon as what it has sent off is known.
    Asked(Found),
}

/// How often it is looked whether a user's tasks have ended.
const ENDING_LOOK: Duration = Duration::from_millis(5);

/// How long it is waited until a wish is on disk: the journal tries for some five seconds while the commit queue is full.
const KEPT_WITHIN: Duration = Duration::from_secs(10);

/// What is told of a task that is given up between two attempts.
const BETWEEN_ATTEMPTS: &str = "Cancelled before it was tried again; its steps tell what was done before.";

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
                let (cancel, end) = {
                    let pending = self.pending.borrow();
                    let entry = pending.get(&task).ok_or(Unchanged::NotFound)?;
                    (entry.cancel.clone(), entry.signal.wait())
                };
                self.metrics.tasks_cancel_asked.add(1);
                cancel.set();
                kept(&cancel, end).await?;
                self.find(user, shard, task).await?.map(Cancelled::Asked).ok_or(Unchanged::NotFound)
            }
            Phase::Idle(idle) => self.give_up(lane, task, idle, None).await.map(Cancelled::Ended),
        }
    }

    /// Ends all tasks of a user who is erased: those that wait are cancelled, those that run are told to end, and are waited
    /// for until `limit`. Says whether none is left. Nothing of it is written any more; what has ended is forgotten.
    pub(crate) async fn end_all_of(self: &Rc<Self>, user: UserId, limit: Instant) -> bool {
        loop {
            let theirs: Vec<TaskId> = {
                let pending = self.pending.borrow();
                let theirs = pending.iter().filter(|(_, _, entry)| entry.lane.user == user);
                theirs.map(|(task, _, _)| *task).collect()
            };
            for task in &theirs {
                match self.phase_of(user, task) {
                    Some((Phase::Idle(idle), lane)) => {
                        // One that fails is met again in the next round.
                        drop(self.give_up(lane, *task, idle, None).await);
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
        self.pending.borrow().iter().any(|(_, _, entry)| entry.lane.user == *user)
    }

    /// Ends a task that nobody works on, and says why in its answer; that it was cancelled, without a reason.
    ///
    /// # Errors
    /// [`Unchanged::Conflict`] for one that waits for something else, or for nothing, by now; the storage's.
    pub(super) async fn give_up(
        self: &Rc<Self>,
        lane: LaneId,
        task: TaskId,
        idle: Idle,
        reason: Option<&str>,
    ) -> Result<Rc<Finished>, Unchanged> {
        let phase = Phase::Idle(idle);
        if self.pending.borrow_mut().advance(&task, phase, Phase::Changing).is_none() {
            return Err(Unchanged::Conflict(CHANGING));
        }
        if idle == Idle::Queued {
            let removed = self.queue.borrow_mut().remove(lane, &task);
            self.note_turn(removed.and_then(|removed| removed.next));
        }
        match self.end_unrun(lane, task, reason).await {
            Ok(finished) => {
                self.settle(&task, Outcome::Finished(Rc::clone(&finished)));
                self.note_unconfirmed();
                self.start_ready();
                Ok(finished)
            }
            Err(problem) => {
                let priority = self.at_work(&task, Phase::Changing, phase, |entry| entry.priority);
                if idle == Idle::Queued {
                    // When it was due is read from its record in time; at worst it is tried a little early.
                    let entry = super::queue::Entry { task, priority, not_before_ms: 0 };
                    self.queue.borrow_mut().push_promised(lane, entry);
                    self.start_ready();
                }
                Err(problem)
            }
        }
    }

    async fn end_unrun(
        &self,
        lane: LaneId,
        task: TaskId,
        reason: Option<&str>,
    ) -> Result<Rc<Finished>, Unchanged> {
        let (shard, record) = self.stored(lane, &task).await?;
        let mut record = self.given_up(record);
        if let Some(reason) = reason {
            record.answer = Some(reason.to_owned());
        }
        self.end_without_turn(shard, lane, record).await.map_err(Unchanged::Storage)
    }

    /// A task that does not run, as one that was cancelled.
    pub(super) fn given_up(&self, mut task: TaskRecord) -> TaskRecord {
        let is_untouched = |step: &StepRecord| codes::step_state(step.state) == StepState::Pending;
        let answer = if task.steps.iter().all(is_untouched) { NOT_BEGUN } else { BETWEEN_ATTEMPTS };
        task.state = codes::of_task_state(TaskState::Cancelled);
        task.answer = Some(answer.to_owned());
        task.error_json = None;
        task.finished_ms = Some(self.clock.unix_ms().max(task.created_ms));
        task
    }

    /// Lets a task run whose user has seen its plan.
    pub(crate) async fn confirm(
        self: &Rc<Self>,
        user: UserId,
        task: TaskId,
    ) -> Result<TaskRecord, Unchanged> {
        let (phase, lane) = self.phase_of(user, &task).ok_or(Unchanged::NotFound)?;
        let unconfirmed = Phase::Idle(Idle::Unconfirmed);
        if self.pending.borrow_mut().advance(&task, unconfirmed, Phase::Changing).is_none() {
            return Err(Unchanged::Conflict(match phase {
                Phase::Changing => CHANGING,
                Phase::Idle(_) | Phase::Running => "the task does not wait for a confirmation",
            }));
        }
        let confirmed = self.confirm_stored(lane, &task).await;
        let to = if confirmed.is_ok() { Phase::Idle(Idle::Queued) } else { unconfirmed };
        self.at_work(&task, Phase::Changing, to, |_| ());
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
        let entry = pending.get(task).filter(|entry| entry.lane.user == user)?;
        Some((pending.phase(task)?, entry.lane))
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

/// Waits until a wish cannot be lost any more: it is on disk, or its task has ended.
///
/// # Errors
/// That it may be: this process will not end the task, or its storage takes nothing for now. The wish stands in this process
/// all the same.
async fn kept(cancel: &Cancel, end: Wait<Outcome>) -> Result<(), Unchanged> {
    let (mut on_disk, mut end) = (pin!(cancel.kept()), pin!(end));
    let known = poll_fn(|cx| {
        if on_disk.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        end.as_mut().poll(cx).map(Some)
    });
    match sluice_core::timeout_at(sluice_core::now() + KEPT_WITHIN, known).await {
        Ok(None | Some(Outcome::Finished(_))) => Ok(()),
        // A wish may be repeated, other than a command.
        Ok(Some(Outcome::Left(problem))) => Err(Unchanged::Storage(problem.with_retryable(true))),
        Ok(Some(Outcome::Refused)) => Err(Unchanged::NotFound),
        Err(_) => {
            let problem = Problem::new(ProblemKind::Storage, "the wish could not be stored yet; ask again");
            Err(Unchanged::Storage(problem.with_retry_after_s(5)))
        }
    }
}
