//! Dead letters: tasks that failed for good in a way that might have passed, until they are redriven or purged.
//!
//! Invariants: a dead letter is written in the batch that ends its task; redriving takes it away in the batch that makes
//! the task pending again; one request at a time changes a dead letter. Redriven as it is, a task keeps its id and its
//! journal, so that nothing is done twice; one that was edited becomes a new task.

use std::rc::Rc;

use sluice_protocols::api::{DeadLetterEdit, TaskState};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_store::record::{TaskRecord, WaitsRecord, encode};
use sluice_store::{Batch, Key};

use super::accept::{entry_of, lane_of};
use super::complete::storage_problem;
use super::queue::Full;
use super::{Idle, Tasks, Unchanged, retry};
use crate::run::{codes, marks};

/// A dead letter nobody else may change until this is dropped.
struct Held<'a> {
    tasks: &'a Tasks,
    task: TaskId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.tasks.dead_in_flight.borrow_mut().remove(&self.task);
    }
}

/// Whether a dead letter was edited since its task failed.
pub(crate) fn is_edited(record: &TaskRecord) -> bool {
    codes::task_state(record.state) == TaskState::Queued
}

/// Changes a dead letter as its user wishes.
pub(crate) fn edit(record: &mut TaskRecord, edit: DeadLetterEdit) {
    if edit.command.is_some() || edit.plan.is_some() {
        record.state = codes::of_task_state(TaskState::Queued);
        record.steps = Vec::new();
        record.plan_json = None;
    }
    if let Some(command) = edit.command {
        record.command = command;
    }
    if let Some(Some(plan)) = edit.plan {
        record.plan_json = serde_json::to_string(&plan).ok();
    }
    if let Some(priority) = edit.priority {
        record.priority = codes::of_priority(priority);
    }
}

/// The task that a dead letter becomes again.
fn revived(mut record: TaskRecord, now_ms: u64, fresh: impl FnOnce() -> TaskId) -> TaskRecord {
    let allowed_ms = record.deadline_ms.saturating_sub(record.created_ms);
    if is_edited(&record) {
        record.id = fresh();
        record.created_ms = now_ms;
        record.attempts = 0;
        record.confirmed = false;
        (record.openai_us, record.google_us, record.total_us) = (0, 0, 0);
        record.waits = WaitsRecord::default();
    }
    retry::reopen(&mut record, 0);
    record.cancel_asked = false;
    record.retries = 0;
    record.deadline_ms = now_ms.saturating_add(allowed_ms);
    record
}

impl Tasks {
    /// A user's dead letter.
    pub(crate) async fn dead_letter(
        &self,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<TaskRecord, Unchanged> {
        let key = Key::dead_letter(&user, &task);
        let record = self.store.load::<TaskRecord>(shard, &key).await?.ok_or(Unchanged::NotFound)?;
        Ok(record.to_record())
    }

    /// Changes a user's dead letter and gives it as it is then.
    pub(crate) async fn edit_dead(
        &self,
        user: UserId,
        shard: ShardId,
        task: TaskId,
        changes: DeadLetterEdit,
    ) -> Result<TaskRecord, Unchanged> {
        let _held = self.hold_dead(task)?;
        let mut record = self.dead_letter(user, shard, task).await?;
        edit(&mut record, changes);
        let value = encode(&record).map_err(|error| Unchanged::Storage(storage_problem(&error)))?;
        let mut batch = Batch::new(shard);
        batch.put(&Key::dead_letter(&user, &task), value.as_bytes());
        self.commit_change(batch).await?;
        Ok(record)
    }

    /// Throws a user's dead letter away.
    pub(crate) async fn purge_dead(
        &self,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<(), Unchanged> {
        let _held = self.hold_dead(task)?;
        self.dead_letter(user, shard, task).await?;
        let mut batch = Batch::new(shard);
        batch.delete(&Key::dead_letter(&user, &task));
        self.commit_change(batch).await?;
        self.metrics.dead_letters_purged.add(1);
        Ok(())
    }

    /// Makes a user's dead letter a task again and gives that.
    pub(crate) async fn redrive_dead(
        self: &Rc<Self>,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<TaskRecord, Unchanged> {
        let _held = self.hold_dead(task)?;
        let dead = self.dead_letter(user, shard, task).await?;
        let now_ms = self.clock.unix_ms();
        let mut record = revived(dead, now_ms, || self.mint.task(now_ms));
        if record.id != task {
            marks::forget(&mut record);
        }
        marks::note(&mut record);
        let (lane, entry) = (lane_of(&record), entry_of(&record));
        let value = encode(&record).map_err(|error| Unchanged::Storage(storage_problem(&error)))?;
        self.queue.borrow_mut().reserve(lane, entry.priority).map_err(|Full| Unchanged::Full)?;
        let mut batch = Batch::new(shard);
        batch.delete(&Key::dead_letter(&user, &task));
        batch.put(&Key::task_pending(&user, &record.id), value.as_bytes());
        if record.id == task {
            batch.delete(&Key::task_finished(&user, &task));
        }
        if let Err(error) = self.commit_change(batch).await {
            self.queue.borrow_mut().release(lane, entry.priority);
            return Err(error);
        }
        self.finished.borrow_mut().remove(&record.id);
        self.metrics.dead_letters_redriven.add(1);
        self.register(shard, lane, entry, Idle::Queued, None, None);
        self.queue.borrow_mut().push_reserved(lane, entry);
        self.watches.changed(&task);
        self.start_ready();
        Ok(record)
    }

    fn hold_dead(&self, task: TaskId) -> Result<Held<'_>, Unchanged> {
        if !self.dead_in_flight.borrow_mut().insert(task) {
            return Err(Unchanged::Conflict("the dead letter is being changed by another request"));
        }
        Ok(Held { tasks: self, task })
    }

    async fn commit_change(&self, batch: Batch) -> Result<(), Unchanged> {
        let committed = self.store.commit(batch).await;
        committed.map(drop).map_err(|error| Unchanged::Storage(storage_problem(&error)))
    }
}
