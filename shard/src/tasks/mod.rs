//! The tasks of one core's users, from the promise to the end.
//!
//! ```text
//! accept:  reserve a place -> commit the pending record -> into the queue -> promise (202)
//!          its caller waits: the same, but begun while the commit is on its way; the end is what is promised.
//!          One that ends in the turn in which it came leaves its end alone: that it was pending is not written
//! run:     queue -> runner (journals as it goes) -> ONE batch: pending away, finished, session, history, webhooks -> tell
//!                                                -> failed, may pass: pending record anew, not before -> queue
//!                                                -> attempts used up: the one batch, with a dead letter in it
//!                                                -> to be confirmed: out of the queue, until confirm or cancel
//! restart: scan the pending records of every owned shard -> into the queue, by priority and task id -> ready
//! ```
//! Invariants:
//! - nothing is promised before its record is durable, and nothing is written when there is no place to run it;
//! - a task that was promised ends up finished, or stays pending on disk for the next start: there is no third way;
//! - who waits for a task is told its end only after that is durable.

mod accept;
mod change;
mod complete;
pub(crate) mod dead;
pub(crate) mod finished;
pub(crate) mod keyed;
mod list;
mod pending;
pub(crate) mod queue;
mod recover;
mod retry;
mod sweep;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_protocols::api::{Priority, TaskState, TaskView};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::TaskRecord;
use sluice_store::{Commit, CommitError, CoreStore, Key, Kind, ReadError};

use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::config::ShardConfig;
use crate::env::Env;
use crate::metrics::{CoreMetrics, EndState};
use crate::mint::Mint;
use crate::run::{self, RunEnd};
use crate::sessions::{Recent, Sessions};
use crate::signal::{Signal, Wait};
use crate::watch::Watches;
use crate::webhooks::Webhooks;
pub(crate) use change::Cancelled;
pub(crate) use complete::Backoff;
use complete::Course;
use finished::{Finished, FinishedTasks};
use pending::{Idle, Passage, Pending, PendingTasks, Phase};
use queue::{Entry, LaneId, Queue};
use retry::RetryLimits;
pub(crate) use retry::may_pass;

/// How often a drain looks whether the last task has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// The future of a run.
pub type RunFuture<'a> = Pin<Box<dyn Future<Output = RunEnd> + 'a>>;

/// What carries tasks out. [`Env`] does, by [`run::run`]; tests bring their own.
pub trait Runner: 'static {
    /// As [`run::run`].
    fn run<'a>(
        &'a self,
        shard: ShardId,
        task: TaskRecord,
        recent: &'a Recent,
        cancel: &'a Cancel,
    ) -> RunFuture<'a>;
}

impl Runner for Env {
    fn run<'a>(
        &'a self,
        shard: ShardId,
        task: TaskRecord,
        recent: &'a Recent,
        cancel: &'a Cancel,
    ) -> RunFuture<'a> {
        Box::pin(run::run(self, shard, task, recent, cancel))
    }
}

/// What those who wait for a task are told.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// It ended, or waits to be confirmed; durably.
    Finished(Rc<Finished>),
    /// This process will not end it; it stays promised.
    Left(Problem),
    /// The storage did not take it in: it was never promised, and nothing was done.
    Refused,
}

/// Why a command was not accepted. Nothing was promised.
#[derive(Debug)]
pub(crate) enum NotAccepted {
    /// No place in the queue; nothing was written.
    Full,
    /// The storage did not take it.
    Storage(CommitError),
    /// The record is too large to be written.
    TooLarge,
}

/// What is known of a task that a user asks for.
pub(crate) enum Found {
    Finished(Rc<Finished>),
    Pending(Box<TaskView>),
}

/// Why a task or a dead letter was not changed.
#[derive(Debug)]
pub(crate) enum Unchanged {
    /// There is none of this id, or it is another user's.
    NotFound,
    /// Its state does not allow it; the text says why.
    Conflict(&'static str),
    /// No place in the queue.
    Full,
    /// The storage failed.
    Storage(Problem),
}

impl From<ReadError> for Unchanged {
    fn from(error: ReadError) -> Self {
        Self::Storage(crate::routes::read_problem(&error))
    }
}

/// What tasks are kept with.
pub(crate) struct Means {
    pub(crate) store: CoreStore,
    pub(crate) clock: Clock,
    pub(crate) mint: Rc<Mint>,
    pub(crate) metrics: Arc<CoreMetrics>,
    pub(crate) watches: Rc<Watches>,
    pub(crate) webhooks: Rc<Webhooks>,
}

/// See the module.
pub(crate) struct Tasks {
    queue: Rc<RefCell<Queue>>,
    pending: RefCell<PendingTasks>,
    finished: RefCell<FinishedTasks>,
    sessions: Rc<Sessions>,
    runner: Box<dyn Runner>,
    store: CoreStore,
    clock: Clock,
    mint: Rc<Mint>,
    metrics: Arc<CoreMetrics>,
    watches: Rc<Watches>,
    webhooks: Rc<Webhooks>,
    retry: RetryLimits,
    unconfirmed_max: usize,
    unconfirmed_life: Duration,
    idempotency_life: Duration,
    /// Idempotency keys that are being written.
    keys_in_flight: RefCell<hashbrown::HashSet<Key, foldhash::fast::RandomState>>,
    /// Dead letters that are being changed.
    dead_in_flight: RefCell<hashbrown::HashSet<TaskId, foldhash::fast::RandomState>>,
    /// When the queue is next looked at for tasks that are due, in milliseconds since 1970; `u64::MAX` for never.
    alarm_ms: Cell<u64>,
    waits: Cell<usize>,
    waits_max: usize,
    /// Commits of new tasks on their way.
    accepting: Cell<usize>,
    is_draining: Cell<bool>,
}

impl Tasks {
    pub(crate) fn new(
        config: &ShardConfig,
        queue: Rc<RefCell<Queue>>,
        sessions: Rc<Sessions>,
        runner: Box<dyn Runner>,
        means: Means,
    ) -> Rc<Self> {
        let Means { store, clock, mint, metrics, watches, webhooks } = means;
        Rc::new(Self {
            queue,
            pending: RefCell::default(),
            finished: RefCell::new(FinishedTasks::new(config.finished_max, config.finished_bytes_max)),
            sessions,
            runner,
            store,
            clock,
            mint,
            metrics,
            watches,
            webhooks,
            retry: RetryLimits::new(config),
            unconfirmed_max: config.unconfirmed_max,
            unconfirmed_life: config.unconfirmed_life,
            idempotency_life: config.idempotency_life,
            keys_in_flight: RefCell::default(),
            dead_in_flight: RefCell::default(),
            alarm_ms: Cell::new(u64::MAX),
            waits: Cell::new(0),
            waits_max: config.waits_max,
            accepting: Cell::new(0),
            is_draining: Cell::new(false),
        })
    }

    fn register(
        &self,
        shard: ShardId,
        lane: LaneId,
        entry: Entry,
        idle: Idle,
        fresh: Option<(TaskRecord, Instant)>,
        first: Option<Commit>,
    ) -> Rc<Signal<Outcome>> {
        let signal = Signal::new();
        let (record, arrived) = fresh.unzip();
        let pending = Pending {
            shard,
            lane,
            priority: entry.priority,
            cancel: Cancel::default(),
            record: record.map(Box::new),
            first,
            arrived,
            passage: Passage::new(sluice_core::now()),
            signal: Rc::clone(&signal),
        };
        self.pending.borrow_mut().insert(entry.task, idle, pending);
        signal
    }

    /// Starts what may run.
    fn start_ready(self: &Rc<Self>) {
        while !self.is_draining.get() {
            let Some((lane, task)) = self.queue.borrow_mut().next(self.clock.unix_ms()) else { break };
            self.at_work(&task, Phase::Idle(Idle::Queued), Phase::Running, |entry| {
                entry.passage.begun = sluice_core::now();
            });
            let tasks = Rc::clone(self);
            sluice_core::spawn(async move { tasks.run_one(lane, task).await });
        }
        self.set_alarm();
        self.note_depth();
    }

    /// Moves a task on that is where its caller has it, and does something to it.
    fn at_work<R>(&self, task: &TaskId, from: Phase, to: Phase, act: impl FnOnce(&mut Pending) -> R) -> R {
        let mut pending = self.pending.borrow_mut();
        act(pending.advance(task, from, to).expect("a task at work stays where it is"))
    }

    /// Looks at the queue again when the next task is due that is not yet. An alarm that was overtaken by an earlier
    /// one only looks once more.
    fn set_alarm(self: &Rc<Self>) {
        let Some(due_ms) = self.queue.borrow().due_ms() else { return };
        if self.is_draining.get() || due_ms >= self.alarm_ms.get() {
            return;
        }
        self.alarm_ms.set(due_ms);
        let wait = Duration::from_millis(due_ms.saturating_sub(self.clock.unix_ms()).max(1));
        let tasks = Rc::clone(self);
        sluice_core::spawn(async move {
            sluice_core::sleep(wait).await;
            if tasks.alarm_ms.get() == due_ms {
                tasks.alarm_ms.set(u64::MAX);
            }
            tasks.start_ready();
        });
    }

    fn note_depth(&self) {
        let queue = self.queue.borrow();
        self.metrics.tasks_queued.set(queue.queued() as u64);
        self.metrics.tasks_running.set(queue.running() as u64);
        for (priority, cells) in Priority::ALL.into_iter().zip(&self.metrics.priorities) {
            cells.queued.set(queue.queued_of(priority) as u64);
            cells.running.set(queue.running_of(priority) as u64);
            cells.oldest_ms.set(queue.oldest_of(priority).map_or(0, |task| task.unix_ms()));
        }
    }

    async fn run_one(self: Rc<Self>, lane: LaneId, task: TaskId) {
        match self.carry_out(lane, task).await {
            Course::Ended(finished) => {
                self.settle(&task, Outcome::Finished(finished));
                self.finish(lane);
            }
            Course::Unconfirmed(view) => {
                self.set_aside(&task, view);
                self.finish(lane);
            }
            Course::PutBack(not_before_ms) => self.put_back(lane, task, not_before_ms),
            Course::Left(problem) => {
                tracing::error!(%task, %problem, "a task is left for the next start");
                self.settle(&task, Outcome::Left(problem));
                self.finish(lane);
            }
            Course::Refused => {
                self.settle(&task, Outcome::Refused);
                self.finish(lane);
            }
        }
        self.start_ready();
    }

    /// Lets the next task of a lane have its turn.
    fn finish(&self, lane: LaneId) {
        let next = self.queue.borrow_mut().finish(lane);
        self.note_turn(next);
    }

    /// Notes that it is a task's turn in its session from now on.
    fn note_turn(&self, next: Option<TaskId>) {
        let Some(next) = next else { return };
        if let Some(entry) = self.pending.borrow_mut().get_mut(&next) {
            entry.passage.ready = sluice_core::now();
        }
    }

    /// Forgets a task that this process is done with, and tells those who wait for it.
    fn settle(&self, task: &TaskId, outcome: Outcome) {
        let entry = self.pending.borrow_mut().remove(task).expect("a task at work is registered");
        match &outcome {
            Outcome::Finished(finished) => {
                self.finished.borrow_mut().insert(*task, Rc::clone(finished));
                self.metrics.end(EndState::from(finished.state));
            }
            Outcome::Left(_) => self.metrics.end(EndState::Left),
            // It never was one.
            Outcome::Refused => {}
        }
        entry.signal.set(outcome);
        self.watches.changed(task);
    }

    fn put_back(&self, lane: LaneId, task: TaskId, not_before_ms: u64) {
        let (from, to) = (Phase::Running, Phase::Idle(Idle::Queued));
        let priority = self.at_work(&task, from, to, |entry| entry.priority);
        self.metrics.tasks_put_back.add(1);
        self.watches.changed(&task);
        self.queue.borrow_mut().put_back(lane, Entry { task, priority, not_before_ms });
    }

    /// Keeps a task until it is confirmed or cancelled, and shows its plan to those who wait for it.
    fn set_aside(&self, task: &TaskId, view: Rc<Finished>) {
        let (from, to) = (Phase::Running, Phase::Idle(Idle::Unconfirmed));
        let signal =
            self.at_work(task, from, to, |entry| std::mem::replace(&mut entry.signal, Signal::new()));
        self.note_unconfirmed();
        signal.set(Outcome::Finished(view));
    }

    fn unconfirmed(&self) -> usize {
        self.pending.borrow().unconfirmed()
    }

    fn note_unconfirmed(&self) {
        self.metrics.tasks_unconfirmed.set(self.unconfirmed() as u64);
    }

    /// A user's task, if there is one: what it is now.
    pub(crate) async fn find(
        &self,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<Option<Found>, ReadError> {
        if let Some(finished) = self.recent(user, &task) {
            return Ok(Some(Found::Finished(finished)));
        }
        if let Some(view) = self.queued_view(user, &task) {
            return Ok(Some(Found::Pending(Box::new(view))));
        }
        // Pending before finished: a task may end between the two reads, and then it is found by the second.
        if let Some(record) = self.store.load::<TaskRecord>(shard, &Key::task_pending(&user, &task)).await? {
            return Ok(Some(Found::Pending(Box::new(self.pending_view(&record.to_record())))));
        }
        let record = self.store.load::<TaskRecord>(shard, &Key::task_finished(&user, &task)).await?;
        Ok(record.map(|record| {
            let finished = Finished::of(user, &run::view_of(&record.to_record()));
            self.finished.borrow_mut().insert(task, Rc::clone(&finished));
            Found::Finished(finished)
        }))
    }

    /// A user's task that ended lately.
    pub(crate) fn recent(&self, user: UserId, task: &TaskId) -> Option<Rc<Finished>> {
        let finished = self.finished.borrow().get(task).filter(|finished| finished.user == user).cloned();
        if finished.is_some() {
            self.metrics.finished_hits.add(1);
        }
        finished
    }

    /// A user's task as its record stands, durably.
    pub(crate) async fn record(
        &self,
        user: UserId,
        shard: ShardId,
        task: TaskId,
    ) -> Result<Option<TaskRecord>, ReadError> {
        let queued = {
            let pending = self.pending.borrow();
            pending.get(&task).filter(|entry| entry.lane.user == user).and_then(|entry| entry.record.clone())
        };
        if let Some(record) = queued {
            return Ok(Some(*record));
        }
        // Pending before finished, as in `find`.
        for kind in [Kind::TaskPending, Kind::TaskFinished] {
            if let Some(record) =
                self.store.load::<TaskRecord>(shard, &Key::task_of(kind, &user, &task)).await?
            {
                return Ok(Some(record.to_record()));
            }
        }
        Ok(None)
    }

    /// Whether this process has a task to bring to its end.
    pub(crate) fn is_in_hand(&self, user: UserId, task: &TaskId) -> bool {
        let pending = self.pending.borrow();
        pending.get(task).is_some_and(|entry| entry.lane.user == user && !entry.signal.is_set())
    }

    fn queued_view(&self, user: UserId, task: &TaskId) -> Option<TaskView> {
        let pending = self.pending.borrow();
        let entry = pending.get(task).filter(|entry| entry.lane.user == user)?;
        entry.record.as_deref().map(run::view_of)
    }

    /// A pending task as its record and this core know it.
    fn pending_view(&self, record: &TaskRecord) -> TaskView {
        let mut view = run::view_of(record);
        if self.is_running(&view.id) && view.state == TaskState::Queued {
            view.state = TaskState::Running;
        }
        view
    }

    fn is_running(&self, task: &TaskId) -> bool {
        self.pending.borrow().phase(task) == Some(Phase::Running)
    }

    /// Waits for the end of a user's pending task, until `deadline`. `None`: the task is not pending, too many
    /// wait already, or the time ran out.
    pub(crate) async fn wait(&self, user: UserId, task: &TaskId, deadline: Instant) -> Option<Outcome> {
        let wait = self.begin_wait(user, task)?;
        let _place = WaitPlace::new(self)?;
        sluice_core::timeout_at(deadline, wait).await.ok()
    }

    fn begin_wait(&self, user: UserId, task: &TaskId) -> Option<Wait<Outcome>> {
        let pending = self.pending.borrow();
        pending.get(task).filter(|entry| entry.lane.user == user).map(|entry| entry.signal.wait())
    }

    /// Starts nothing more and waits for what runs, until `deadline`. Whatever is left stays on disk for the next
    /// start, and whoever waits for it is told so. Gives the number of tasks that were still running.
    pub(crate) async fn drain(&self, deadline: Instant) -> usize {
        self.is_draining.set(true);
        self.leave(|phase| phase != Phase::Running);
        while (self.queue.borrow().running() > 0 || self.accepting.get() > 0) && sluice_core::now() < deadline
        {
            sluice_core::sleep_until(deadline.min(sluice_core::now() + DRAIN_LOOK)).await;
        }
        self.leave(|_| true);
        self.queue.borrow().running()
    }

    /// Tells those who wait for certain tasks that this process will not end them.
    fn leave(&self, which: impl Fn(Phase) -> bool) {
        let pending = self.pending.borrow();
        let those = pending.iter().filter(|(_, phase, _)| which(*phase));
        let signals: Vec<_> = those.map(|(_, _, entry)| Rc::clone(&entry.signal)).collect();
        drop(pending);
        for signal in signals {
            signal.set(Outcome::Left(left_problem()));
        }
        self.watches.all_changed();
    }

    /// Whether a task should be tried again in this process.
    fn may_retry(&self) -> bool {
        !self.is_draining.get() && self.store.store().stopped().is_none()
    }
}

fn left_problem() -> Problem {
    let detail = "the server is shutting down; the command is kept and will be carried out after the restart";
    // Sending the command again would do it twice.
    Problem::new(ProblemKind::ShuttingDown, detail).with_retryable(false)
}

/// One of the places for those who wait.
struct WaitPlace<'a>(&'a Tasks);

impl<'a> WaitPlace<'a> {
    fn new(tasks: &'a Tasks) -> Option<Self> {
        if tasks.waits.get() >= tasks.waits_max {
            tasks.metrics.waits_refused.add(1);
            return None;
        }
        tasks.waits.set(tasks.waits.get() + 1);
        tasks.metrics.waits.set(tasks.waits.get() as u64);
        Some(Self(tasks))
    }
}

impl Drop for WaitPlace<'_> {
    fn drop(&mut self) {
        self.0.waits.set(self.0.waits.get() - 1);
        self.0.metrics.waits.set(self.0.waits.get() as u64);
    }
}
