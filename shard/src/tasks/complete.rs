//! Runs one task and makes its end durable.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sluice_protocols::api::TaskState;
use sluice_protocols::ids::{ShardId, TaskId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{HistoryRecord, RecordError, TaskRecord, encode};
use sluice_store::{Batch, CommitError, Key, ReadError, Session, Value};

use super::Tasks;
use super::finished::Finished;
use super::queue::LaneId;
use super::retry::{Verdict, reopen};
use crate::run::marks::note;
use crate::run::{self, Brought, RunEnd, Told, codes};
use crate::sessions::Recent;
use crate::upstream::meter::micros;

/// Waits between attempts begin here and double.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest wait between attempts.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often the end of a task is handed to a full commit queue before the task is run again from its journal.
const COMMIT_ATTEMPTS_MAX: u32 = 8;

/// What the batch of an end takes beside the task: a turn, a session, a line of history.
const END_BYTES_USUAL: usize = 4 << 10;

/// Why an attempt at a task did not bring its end.
enum Setback {
    /// It may work later.
    Passing(Problem),
    /// Not in this process.
    Lasting(Problem),
}

impl From<ReadError> for Setback {
    fn from(error: ReadError) -> Self {
        let problem = storage_problem(&error);
        match error {
            ReadError::Overloaded | ReadError::Disk { .. } => Self::Passing(problem),
            ReadError::Closed
            | ReadError::Foreign { .. }
            | ReadError::Quarantined { .. }
            | ReadError::Newer { .. } => Self::Lasting(problem),
        }
    }
}

pub(super) fn storage_problem(error: &impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "the storage failed a task");
    let detail = "the storage failed; the command is kept and will be carried out later";
    Problem::new(ProblemKind::Storage, detail).with_retryable(false)
}

/// The waits of a loop that tries again, each twice as long as the one before.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(RETRY_WAIT_MIN)
    }

    pub(crate) async fn wait(&mut self) {
        sluice_core::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_WAIT_MAX);
    }
}

/// What came of taking a task up.
pub(super) enum Course {
    /// It ended, durably.
    Ended(Rc<Finished>),
    /// It is planned, durably, and has to be confirmed.
    Unconfirmed(Rc<Finished>),
    /// It is tried again, not before this moment; durably.
    PutBack(u64),
    /// This process will not end it; it stays promised.
    Left(Problem),
    /// There was no room for its first entry: nothing was written, nothing with an effect was begun.
    Refused,
}

/// The end of a task as it goes to disk.
struct End {
    task: TaskRecord,
    brought: Brought,
    told: Told,
    session: Option<Session>,
    /// It is set aside as a dead letter.
    is_dead: bool,
}

impl Tasks {
    /// Runs a task until it has ended or this process cannot end it.
    ///
    /// One that was begun before its first entry was durable is dropped where there was no room for that. Nothing is left of
    /// it then: the answer to the first entry comes at the end of the turn in which the task was begun and is looked at
    /// before anything else is; whatever was handed over in that turn after it, for the same shard, was refused with it;
    /// and what has an effect waits for an entry that is durable.
    pub(super) async fn carry_out(&self, lane: LaneId, task: TaskId) -> Course {
        let mut first = self.pending.borrow_mut().get_mut(&task).and_then(|entry| entry.first.take());
        let mut work = pin!(self.go_on(lane, task));
        poll_fn(|cx| {
            let answer = first.as_mut().map_or(Poll::Pending, |first| Pin::new(first).poll(cx));
            if let Poll::Ready(answer) = answer {
                first = None;
                match answer {
                    Ok(_) => self.metrics.commands_accepted.add(1),
                    Err(CommitError::Overloaded) => return Poll::Ready(Course::Refused),
                    // The storage has stopped: the end of the task fails as well.
                    Err(_) => {}
                }
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    async fn go_on(&self, lane: LaneId, task: TaskId) -> Course {
        let mut backoff = Backoff::new();
        loop {
            match self.attempt(lane, task).await {
                Ok(course) => return course,
                Err(Setback::Lasting(problem)) => return Course::Left(problem),
                Err(Setback::Passing(problem)) if !self.may_retry() => return Course::Left(problem),
                Err(Setback::Passing(_)) => {
                    self.metrics.tasks_retried.add(1);
                    backoff.wait().await;
                }
            }
        }
    }

    async fn attempt(&self, lane: LaneId, task: TaskId) -> Result<Course, Setback> {
        let (shard, cancel, fresh) = {
            let mut pending = self.pending.borrow_mut();
            let entry = pending.get_mut(&task).expect("a running task is registered");
            let fresh = entry.record.take().zip(entry.arrived);
            (
                entry.shard,
                entry.cancel.clone(),
                fresh.map(|(record, arrived)| (record, arrived, entry.passage)),
            )
        };
        let (mut record, arrived) = match fresh {
            Some((record, arrived, passage)) => {
                self.metrics.waited(codes::priority(record.priority), micros(arrived.elapsed()));
                (TaskRecord { waits: passage.waits(), ..*record }, Some(arrived))
            }
            None => (self.read_pending(shard, lane, task).await?, None),
        };
        if record.cancel_asked {
            // An earlier process was told.
            cancel.set();
            cancel.keep();
        }
        let session = self.sessions.for_task(shard, lane, record.created_ms).await?;
        if let Some(arrived) = arrived {
            record.total_us = micros(arrived.elapsed());
        }
        let recent = session.as_ref().map(Recent::of).unwrap_or_default();
        let (task, brought) = match self.runner.run(shard, record, &recent, &cancel).await {
            RunEnd::Final(task, brought) => (task, brought),
            // The wish came while the plan was written down.
            RunEnd::Unconfirmed(task) if cancel.is_set() => (self.given_up(task), Brought::default()),
            RunEnd::Unconfirmed(task) if self.unconfirmed() < self.unconfirmed_max => {
                return Ok(Course::Unconfirmed(Finished::of(lane.user, &run::view_of(&task))));
            }
            RunEnd::Unconfirmed(task) => (self.not_set_aside(task), Brought::default()),
            RunEnd::Interrupted(_, problem) => return Err(Setback::Passing(problem)),
        };
        let verdict = match cancel.is_set() {
            true => Verdict::End,
            false => self.retry.judge(&task, self.clock.unix_ms(), self.mint.random()),
        };
        let task = match verdict {
            Verdict::Again(not_before_ms) => {
                self.write_again(shard, lane, &task, not_before_ms).await?;
                if !cancel.is_set() {
                    return Ok(Course::PutBack(not_before_ms));
                }
                // The wish came while that was written down: it does not wait for the next attempt.
                self.given_up(task)
            }
            Verdict::End | Verdict::DeadLetter => task,
        };
        let is_dead = verdict == Verdict::DeadLetter;
        let told = run::told(&task, &brought);
        self.complete(shard, lane, End { task, brought, told, session, is_dead }).await.map(Course::Ended)
    }

    /// A task that should wait for its confirmation where there is no place for it.
    fn not_set_aside(&self, mut task: TaskRecord) -> TaskRecord {
        let problem = Problem::new(ProblemKind::Overloaded, "too many tasks wait for their confirmation");
        task.state = codes::of_task_state(TaskState::Failed);
        task.answer = Some(format!("I could not carry that out: {}.", problem.detail()));
        task.error_json = serde_json::to_string(&problem.with_retryable(false)).ok();
        task.finished_ms = Some(self.clock.unix_ms().max(task.created_ms));
        task
    }

    /// Makes it durable that a task is tried again.
    async fn write_again(
        &self,
        shard: ShardId,
        lane: LaneId,
        task: &TaskRecord,
        not_before_ms: u64,
    ) -> Result<(), Setback> {
        let mut task = task.clone();
        reopen(&mut task, not_before_ms);
        note(&mut task);
        let key = Key::task_pending(&lane.user, &task.id);
        let value = encode(&task).map_err(|error| Setback::Lasting(storage_problem(&error)))?;
        self.commit_patiently(|| {
            let mut batch = Batch::new(shard);
            batch.put(&key, value.as_bytes());
            batch
        })
        .await?;
        tracing::info!(task = %task.id, retries = task.retries, "a task is tried again later");
        Ok(())
    }

    /// Makes the end of a task durable that its session does not remember.
    pub(super) async fn end_without_turn(
        &self,
        shard: ShardId,
        lane: LaneId,
        task: TaskRecord,
    ) -> Result<Rc<Finished>, Problem> {
        let brought = Brought::default();
        let told = run::told(&task, &brought);
        let end = End { task, brought, told, session: None, is_dead: false };
        self.complete(shard, lane, end).await.map_err(|setback| match setback {
            Setback::Passing(problem) | Setback::Lasting(problem) => problem,
        })
    }

    async fn read_pending(&self, shard: ShardId, lane: LaneId, task: TaskId) -> Result<TaskRecord, Setback> {
        let key = Key::task_pending(&lane.user, &task);
        match self.store.load::<TaskRecord>(shard, &key).await? {
            Some(record) => Ok(run::recovered(record.to_record())),
            None => {
                tracing::error!(%task, "a pending task is not on disk");
                let problem =
                    Problem::new(ProblemKind::Internal, "the command was lost").with_retryable(false);
                Err(Setback::Lasting(problem))
            }
        }
    }

    /// Commits the end of a task: pending away, finished, session, history, and what webhooks are to be told of it, in one
    /// batch.
    async fn complete(&self, shard: ShardId, lane: LaneId, mut end: End) -> Result<Rc<Finished>, Setback> {
        note(&mut end.task);
        let (mut session, mut announced) = (None, None);
        self.commit_patiently(|| {
            // What the batch before had is given back first.
            drop(announced.take());
            let (mut batch, written) = self.end_batch(shard, lane, &mut end);
            session = written;
            announced = Some(self.webhooks.announce_end(&mut batch, &end.task));
            batch
        })
        .await?;
        if let Some(announced) = announced {
            announced.take_up();
        }
        if let Some(session) = session {
            self.keep_session(lane, session);
        }
        if end.is_dead {
            self.metrics.dead_letters_made.add(1);
            tracing::warn!(task = %end.task.id, retries = end.task.retries, "a task became a dead letter");
        }
        Ok(Finished::told(&end.task, end.told.body))
    }

    /// Commits what `make` makes, again while the commit queue is full, a bounded number of times.
    async fn commit_patiently(&self, mut make: impl FnMut() -> Batch) -> Result<(), Setback> {
        let mut backoff = Backoff::new();
        let mut attempts = 0;
        loop {
            let error = match self.store.commit(make()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            attempts += 1;
            let problem = storage_problem(&error);
            match error {
                CommitError::Overloaded if attempts < COMMIT_ATTEMPTS_MAX => backoff.wait().await,
                CommitError::Overloaded => return Err(Setback::Passing(problem)),
                CommitError::TooLarge { .. }
                | CommitError::Unknown { .. }
                | CommitError::Stopped { .. }
                | CommitError::Closed => return Err(Setback::Lasting(problem)),
            }
        }
    }

    fn end_batch(&self, shard: ShardId, lane: LaneId, end: &mut End) -> (Batch, Option<Session>) {
        let task = encode_shrinking(end);
        let mut batch = Batch::with_capacity(shard, task.as_bytes().len() + END_BYTES_USUAL);
        // Where it ends in the turn in which it came, that it was pending is not written.
        batch.delete_new(&Key::task_pending(&lane.user, &end.task.id));
        batch.put(&Key::task_finished(&lane.user, &end.task.id), task.as_bytes());
        if end.is_dead {
            batch.put(&Key::dead_letter(&lane.user, &end.task.id), task.as_bytes());
        }
        let session = end.session.as_ref().and_then(|session| {
            let record = session.record();
            let mut handles = record.handles.map(|number| number.to_native());
            let turn = run::turn_of(&end.task, &end.brought, record.next_turn.to_native(), &mut handles);
            self.sessions.write_turn(lane, session, &turn, handles, &mut batch)
        });
        let history = HistoryRecord {
            task: end.task.id,
            at_ms: end.task.created_ms,
            command: end.task.command.clone(),
            state: end.task.state,
            answer: end.task.answer.clone(),
            services: end.told.services,
            operations: end.told.operations.clone(),
        };
        match encode(&history) {
            Ok(history) => {
                let key = Key::history(&lane.user, end.task.created_ms, &end.task.id);
                batch.put(&key, history.as_bytes());
            }
            Err(error) => tracing::error!(%error, task = %end.task.id, "a task is not in the history"),
        }
        (batch, session)
    }

    /// Keeps a session that is durable now, unless its user ended it meanwhile.
    fn keep_session(&self, lane: LaneId, session: Session) {
        if !self.queue.borrow().is_ended(lane) {
            self.sessions.keep(session);
        }
    }
}

/// The value of a finished task. One that is too large loses first what its steps read, then the steps: the end
/// itself must be kept.
fn encode_shrinking(end: &mut End) -> Value {
    let shrink: [fn(&mut TaskRecord); 2] = [
        |task| task.steps.iter_mut().for_each(|step| (step.text, step.outcome_json) = (None, None)),
        |task| (task.steps, task.plan_json) = (Vec::new(), None),
    ];
    let mut shrink = shrink.into_iter();
    loop {
        match encode(&end.task) {
            Ok(value) => return value,
            Err(error @ RecordError::TooLarge { .. }) => {
                tracing::warn!(%error, task = %end.task.id, "a finished task is kept without what its steps read");
                let smaller = shrink.next().expect("a task without steps is far below the limit");
                smaller(&mut end.task);
                end.told = run::told(&end.task, &end.brought);
            }
            Err(error) => unreachable!("encoding fails on size alone: {error}"),
        }
    }
}
