//! The tasks of one core's users, from the promise to the end.
//!
//! ```text
//! accept:  reserve a place -> commit the pending record -> into the queue -> promise (202, or wait)
//! run:     queue -> runner (journals as it goes) -> ONE batch: pending away, finished, session, history -> tell
//! restart: scan the pending records of every owned shard -> into the queue, by task id -> ready
//! ```
//! Invariants:
//! - nothing is promised before its record is durable, and nothing is written when there is no place to run it;
//! - a task that was promised ends up finished, or stays pending on disk for the next start: there is no third way;
//! - who waits for a task is told its end only after that is durable.

mod complete;
pub(crate) mod finished;
pub(crate) mod queue;
mod recover;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use sluice_protocols::api::{TaskState, TaskView};
use sluice_protocols::ids::{ShardId, TaskId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::{TaskRecord, TurnRecord, encode};
use sluice_store::{Batch, CommitError, CoreStore, Key, ReadError};

use crate::config::ShardConfig;
use crate::env::Env;
use crate::metrics::{CoreMetrics, EndState};
use crate::run::{self, RunEnd};
use crate::sessions::Sessions;
use crate::signal::{Signal, Wait};
use finished::{Finished, FinishedTasks};
use queue::{LaneId, Queue};

/// How often a drain looks whether the last task has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// The future of a run.
pub type RunFuture<'a> = Pin<Box<dyn Future<Output = RunEnd> + 'a>>;

/// What carries tasks out. [`Env`] does, by [`run::run`]; tests bring their own.
pub trait Runner: 'static {
    /// As [`run::run`].
    fn run<'a>(&'a self, shard: ShardId, task: TaskRecord, recent: &'a [TurnRecord]) -> RunFuture<'a>;
}

impl Runner for Env {
    fn run<'a>(&'a self, shard: ShardId, task: TaskRecord, recent: &'a [TurnRecord]) -> RunFuture<'a> {
        Box::pin(run::run(self, shard, task, recent))
    }
}

/// What those who wait for a task are told.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// It ended, durably.
    Finished(Rc<Finished>),
    /// This process will not end it; it stays promised.
    Left(Problem),
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

struct Pending {
    shard: ShardId,
    lane: LaneId,
    /// The record while the task waits; one that is not here is read from the store when its turn comes.
    /// Boxed, so that the table of pending tasks stays small: growing it moves every entry, in one turn.
    record: Option<Box<TaskRecord>>,
    /// When its command arrived; `None` when that was in an earlier process.
    arrived: Option<Instant>,
    is_running: bool,
    signal: Rc<Signal<Outcome>>,
}

/// See the module.
pub(crate) struct Tasks {
    queue: Rc<RefCell<Queue>>,
    pending: RefCell<HashMap<TaskId, Pending, foldhash::fast::RandomState>>,
    finished: RefCell<FinishedTasks>,
    sessions: Rc<Sessions>,
    runner: Box<dyn Runner>,
    store: CoreStore,
    metrics: Arc<CoreMetrics>,
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
        store: CoreStore,
        metrics: Arc<CoreMetrics>,
    ) -> Rc<Self> {
        Rc::new(Self {
            queue,
            pending: RefCell::default(),
            finished: RefCell::new(FinishedTasks::new(config.finished_max, config.finished_bytes_max)),
            sessions,
            runner,
            store,
            metrics,
            waits: Cell::new(0),
            waits_max: config.waits_max,
            accepting: Cell::new(0),
            is_draining: Cell::new(false),
        })
    }

    /// Makes a task durable and queues it. `Ok` is the promise.
    pub(crate) async fn accept(
        self: &Rc<Self>,
        shard: ShardId,
        record: TaskRecord,
        arrived: Instant,
    ) -> Result<Rc<Signal<Outcome>>, NotAccepted> {
        let lane = LaneId { user: record.user, session: record.session };
        self.queue.borrow_mut().reserve(lane).map_err(|queue::Full| {
            self.metrics.commands_refused_full.add(1);
            NotAccepted::Full
        })?;
        self.accepting.set(self.accepting.get() + 1);
        let written = self.write_pending(shard, &record).await;
        self.accepting.set(self.accepting.get() - 1);
        if let Err(error) = written {
            self.queue.borrow_mut().release(lane);
            return Err(error);
        }
        self.metrics.commands_accepted.add(1);
        let task = record.id;
        let signal = self.register(shard, lane, task, Some((record, arrived)));
        self.queue.borrow_mut().push_reserved(lane, task);
        self.start_ready();
        Ok(signal)
    }

    async fn write_pending(&self, shard: ShardId, record: &TaskRecord) -> Result<(), NotAccepted> {
        let value = encode(record).map_err(|_| NotAccepted::TooLarge)?;
        let mut batch = Batch::new(shard);
        batch.put(&Key::task_pending(&record.user, &record.id), value.as_bytes());
        self.store.commit(batch).await.map(drop).map_err(NotAccepted::Storage)
    }

    fn register(
        &self,
        shard: ShardId,
        lane: LaneId,
        task: TaskId,
        fresh: Option<(TaskRecord, Instant)>,
    ) -> Rc<Signal<Outcome>> {
        let signal = Signal::new();
        let (record, arrived) = fresh.unzip();
        let record = record.map(Box::new);
        let entry = Pending { shard, lane, record, arrived, is_running: false, signal: Rc::clone(&signal) };
        self.pending.borrow_mut().insert(task, entry);
        signal
    }

    /// Starts what may run.
    fn start_ready(self: &Rc<Self>) {
        while !self.is_draining.get() {
            let Some((lane, task)) = self.queue.borrow_mut().next() else { break };
            self.pending.borrow_mut().get_mut(&task).expect("a queued task is registered").is_running = true;
            let tasks = Rc::clone(self);
            sluice_core::spawn(async move { tasks.run_one(lane, task).await });
        }
        self.note_depth();
    }

    fn note_depth(&self) {
        let queue = self.queue.borrow();
        self.metrics.tasks_queued.set(queue.queued() as u64);
        self.metrics.tasks_running.set(queue.running() as u64);
    }

    async fn run_one(self: Rc<Self>, lane: LaneId, task: TaskId) {
        let outcome = self.carry_out(lane, task).await;
        let entry = self.pending.borrow_mut().remove(&task).expect("a running task is registered");
        match &outcome {
            Outcome::Finished(finished) => {
                self.finished.borrow_mut().insert(task, Rc::clone(finished));
                self.metrics.end(EndState::from(finished.state));
            }
            Outcome::Left(problem) => {
                tracing::error!(%task, %problem, "a task is left for the next start");
                self.metrics.end(EndState::Left);
            }
        }
        entry.signal.set(outcome);
        self.queue.borrow_mut().finish(lane);
        self.start_ready();
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
            let mut view = run::view_of(&record.to_record());
            if self.is_running(&task) && view.state == TaskState::Queued {
                view.state = TaskState::Running;
            }
            return Ok(Some(Found::Pending(Box::new(view))));
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

    fn queued_view(&self, user: UserId, task: &TaskId) -> Option<TaskView> {
        let pending = self.pending.borrow();
        let entry = pending.get(task).filter(|entry| entry.lane.user == user)?;
        entry.record.as_deref().map(run::view_of)
    }

    fn is_running(&self, task: &TaskId) -> bool {
        self.pending.borrow().get(task).is_some_and(|entry| entry.is_running)
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
        self.leave(|entry| !entry.is_running);
        while (self.queue.borrow().running() > 0 || self.accepting.get() > 0) && sluice_core::now() < deadline
        {
            sluice_core::sleep_until(deadline.min(sluice_core::now() + DRAIN_LOOK)).await;
        }
        self.leave(|_| true);
        self.queue.borrow().running()
    }

    /// Tells those who wait for certain tasks that this process will not end them.
    fn leave(&self, which: impl Fn(&Pending) -> bool) {
        let pending = self.pending.borrow();
        let signals: Vec<_> =
            pending.values().filter(|entry| which(entry)).map(|entry| Rc::clone(&entry.signal)).collect();
        drop(pending);
        for signal in signals {
            signal.set(Outcome::Left(left_problem()));
        }
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
