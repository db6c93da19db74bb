//! What must come out the same whoever comes first: tasks on a real core and store, whose commits wait at a gate.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use sluice_core::{CoreId, Reactor, ReactorConfig, spawn, yield_now};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::api::Mode;
use sluice_protocols::ids::ShardCount;
use sluice_store::record::{IdempotencyRecord, WaitsRecord, encode};
use sluice_store::vault::Keyring;
use sluice_store::{Batch, CoreVault, KeyRange, Store, StoreConfig, Vault};

use super::keyed::KeyUse;
use super::queue::QueueLimits;
use super::*;
use crate::env::RunConfig;
use crate::run::codes;
use crate::webhooks;

const NOW_MS: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The least there may be: room for one batch of the largest size.
const QUEUE_BYTES: usize = 8 << 20;
/// Only so that a hang is a failure.
const HANG: Duration = Duration::from_secs(60);

/// Where the core's commits wait, once it is closed.
#[derive(Default)]
struct Gate {
    is_closed: Cell<bool>,
    is_waited_at: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    async fn pass(self: Rc<Self>) {
        sluice_core::quiesce().await;
        poll_fn(|cx| {
            self.is_waited_at.set(self.is_closed.get());
            if !self.is_closed.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn close(&self) {
        self.is_closed.set(true);
    }

    fn open(&self) {
        self.is_closed.set(false);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Does what a command's first word says: `fail` fails in a way that may pass, `plan` waits to be confirmed; all else is
/// done. What ends with `shut` closes the gate before anything of it is written.
struct Scripted {
    store: CoreStore,
    gate: Rc<Gate>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Runner for Scripted {
    fn run<'a>(
        &'a self,
        shard: ShardId,
        mut task: TaskRecord,
        _: &'a Recent,
        cancel: &'a Cancel,
    ) -> RunFuture<'a> {
        Box::pin(async move {
            self.log.borrow_mut().push(task.command.clone());
            if task.command.ends_with("shut") {
                self.gate.close();
            }
            let is_plan = task.command.starts_with("plan");
            if is_plan && !task.confirmed {
                task.state = codes::of_task_state(TaskState::AwaitingConfirmation);
                let mut batch = Batch::new(shard);
                let key = Key::task_pending(&task.user, &task.id);
                batch.put(&key, encode(&task).expect("it fits").as_bytes());
                self.store.commit(batch).await.expect("committed");
                return RunEnd::Unconfirmed(task);
            }
            let state = match task.command.starts_with("fail") {
                _ if cancel.is_set() => TaskState::Cancelled,
                true => TaskState::Failed,
                false => TaskState::Done,
            };
            task.state = codes::of_task_state(state);
            if state == TaskState::Failed {
                let problem = Problem::new(ProblemKind::UpstreamUnavailable, "Gmail is down");
                task.error_json = serde_json::to_string(&problem).ok();
            }
            task.answer = Some(format!("{} it is", state.name()));
            task.finished_ms = Some(task.created_ms);
            RunEnd::Final(task, run::Brought::default())
        })
    }
}

/// What outlives a core.
struct World {
    store: Store,
    vault: Vault,
    egress: Egress,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let count = ShardCount::new(1).expect("a count");
        let mut config = StoreConfig::new(directory.path().join("data"), count);
        config.commit_queue_bytes_max = QUEUE_BYTES;
        let store = Store::open(config).expect("a store");
        let vault = Vault::open(&store, Keyring::generate().expect("keys")).expect("a vault");
        let nowhere = || UpstreamConfig::new("http://127.0.0.1:9");
        let upstreams = PerUpstream {
            openai: nowhere(),
            oauth: nowhere(),
            gmail: nowhere(),
            calendar: nowhere(),
            drive: nowhere(),
        };
        let egress = Egress::start(EgressConfig::new(upstreams)).expect("the pool");
        Self { store, vault, egress, _directory: directory }
    }

    /// Runs something on a core; when that is over, everything else on it is as well, as by a kill.
    fn on_core<F: Future<Output = ()> + 'static>(&self, body: impl FnOnce(Rc<Core>) -> F + 'static) {
        let (store, vault, egress) = (self.store.clone(), self.vault.clone(), self.egress.clone());
        let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).expect("a reactor");
        let run = async move {
            let core = Core::start(&store, &vault, egress);
            let limit = sluice_core::now() + HANG;
            sluice_core::timeout_at(limit, body(core)).await.expect("it does not hang");
        };
        reactor.block_on(run).expect("the ring works");
    }

    fn on_disk(&self, kind: Kind) -> Vec<TaskRecord> {
        let page = self.store.scan_blocking(shard(), KeyRange::kind(kind), 100, false).expect("read");
        page.rows.into_iter().map(|(_, value)| sluice_store::record::decode(value).expect("one")).collect()
    }
}

fn shard() -> ShardId {
    ShardId::of(&user(), ShardCount::new(1).expect("a count"))
}

fn user() -> UserId {
    UserId::from_bytes([5; 16])
}

struct Core {
    tasks: Rc<Tasks>,
    store: CoreStore,
    mint: Rc<Mint>,
    clock: Clock,
    gate: Rc<Gate>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Core {
    fn start(store: &Store, vault: &Vault, egress: Egress) -> Rc<Self> {
        let gate = Rc::new(Gate::default());
        let (core_store, driver) = CoreStore::detached(store);
        let own = Rc::clone(&gate);
        spawn(driver.run(move || Rc::clone(&own).pass()));
        let config = ShardConfig::new(RunConfig::new("key", "model", "client", "secret"));
        let (clock, mint) = (Clock::manual(NOW_MS), Rc::new(Mint::new()));
        let metrics = Arc::<CoreMetrics>::default();
        let limits = QueueLimits { queued_max: 100, running_max: 100, running_per_user_max: 100 };
        let queue = Rc::new(RefCell::new(Queue::new(limits)));
        let sessions = Rc::new(Sessions::new(
            &config,
            core_store.clone(),
            clock.clone(),
            Rc::clone(&queue),
            Rc::clone(&mint),
            Arc::clone(&metrics),
        ));
        let webhooks = Webhooks::new(
            &config.webhooks,
            webhooks::Means {
                store: core_store.clone(),
                vault: CoreVault::new(vault.clone(), core_store.clone(), 16),
                egress,
                clock: clock.clone(),
                mint: Rc::clone(&mint),
                metrics: Arc::clone(&metrics),
            },
        );
        let log = Rc::<RefCell<Vec<String>>>::default();
        let runner = Scripted { store: core_store.clone(), gate: Rc::clone(&gate), log: Rc::clone(&log) };
        let means = Means {
            store: core_store.clone(),
            clock: clock.clone(),
            mint: Rc::clone(&mint),
            metrics,
            watches: Rc::default(),
            webhooks,
        };
        let tasks = Tasks::new(&config, queue, sessions, Box::new(runner), means);
        Rc::new(Self { tasks, store: core_store, mint, clock, gate, log })
    }

    /// A task of a session of its own.
    fn record(&self, command: &str, mode: Mode) -> TaskRecord {
        let now_ms = self.clock.unix_ms();
        TaskRecord {
            id: self.mint.task(now_ms),
            user: user(),
            session: self.mint.session(now_ms),
            command: command.to_owned(),
            mode: codes::of_mode(mode),
            state: codes::of_task_state(TaskState::Queued),
            priority: codes::of_priority(Priority::default()),
            time_zone: "UTC".to_owned(),
            created_ms: now_ms,
            deadline_ms: now_ms + DAY_MS,
            deadline_asked: false,
            confirmed: false,
            finished_ms: None,
            attempts: 0,
            retries: 0,
            not_before_ms: 0,
            last_error_json: None,
            plan_json: None,
            steps: Vec::new(),
            answer: None,
            error_json: None,
            openai_us: 0,
            google_us: 0,
            total_us: 0,
            events: Vec::new(),
            account: None,
            waits: WaitsRecord::default(),
            cancel_asked: false,
        }
    }

    async fn promise(&self, command: &str) -> TaskId {
        let record = self.record(command, Mode::Async);
        let task = record.id;
        self.tasks.reserve(&record).expect("a place");
        let promised = self.tasks.promise(shard(), vec![record], None, sluice_core::now()).await;
        assert!(promised.is_ok());
        task
    }

    fn phase(&self, task: &TaskId) -> Option<Phase> {
        self.tasks.pending.borrow().phase(task)
    }

    /// Cancels a task from beside; the wish has come when this is over.
    async fn cancel(self: &Rc<Self>, task: TaskId) -> sluice_core::JoinHandle<Result<Cancelled, Unchanged>> {
        let core = Rc::clone(self);
        let cancelled = spawn(async move { core.tasks.cancel(user(), shard(), task).await });
        // It says what it wishes before it waits for anything.
        yield_now().await;
        cancelled
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            sluice_core::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A task that has ended: its state and its answer.
    async fn end(&self, task: &TaskId) -> (TaskState, String) {
        self.until(|core| core.phase(task).is_none()).await;
        let found = self.tasks.find(user(), shard(), *task).await.expect("it is read");
        let Some(Found::Finished(end)) = found else { panic!("it has not ended") };
        let body: serde_json::Value = serde_json::from_slice(&end.body).expect("a view");
        (end.state, body["answer"].as_str().expect("an answer").to_owned())
    }
}

#[test]
fn the_sweep_ends_no_preview_that_was_cancelled_or_confirmed_meanwhile() {
    let world = World::new();
    world.on_core(|core| async move {
        let mut plans = Vec::new();
        for number in 0..3 {
            plans.push(core.promise(&format!("plan {number}")).await);
            core.until(|core| core.tasks.unconfirmed() == number + 1).await;
        }
        core.clock.set(NOW_MS + DAY_MS);
        core.gate.close();
        let swept = Rc::clone(&core);
        let sweep = spawn(async move { swept.tasks.sweep(&[]).await });
        core.until(|core| core.gate.is_waited_at.get()).await;
        let (begun, rest): (Vec<TaskId>, Vec<TaskId>) =
            plans.into_iter().partition(|task| core.phase(task) == Some(Phase::Changing));
        let ([begun], [cancelled, confirmed]) = (begun.as_slice(), rest.as_slice()) else {
            panic!("the sweep ends one by one")
        };
        assert_eq!(core.tasks.unconfirmed(), 2);
        let cancel = core.cancel(*cancelled).await;
        let (confirmer, task) = (Rc::clone(&core), *confirmed);
        let confirm = spawn(async move { confirmer.tasks.confirm(user(), task).await.is_ok() });
        yield_now().await;
        assert_eq!(core.tasks.unconfirmed(), 0);
        core.gate.open();
        assert!(matches!(cancel.await, Ok(Cancelled::Ended(end)) if end.state == TaskState::Cancelled));
        assert!(confirm.await);
        sweep.await;
        let swept = (TaskState::Cancelled, "Cancelled, since it was not confirmed in time.".to_owned());
        assert_eq!(core.end(begun).await, swept);
        assert_eq!(core.end(cancelled).await, (TaskState::Cancelled, run::NOT_BEGUN.to_owned()));
        assert_eq!(core.end(confirmed).await, (TaskState::Done, "done it is".to_owned()));
        assert_eq!((core.tasks.unconfirmed(), core.tasks.metrics.tasks_unconfirmed.get()), (0, 0));
    });
    assert!(world.on_disk(Kind::TaskPending).is_empty());
    assert_eq!(world.on_disk(Kind::TaskFinished).len(), 3);
}

#[test]
fn a_plan_that_is_cancelled_while_it_is_written_down_waits_for_no_confirmation() {
    World::new().on_core(|core| async move {
        let task = core.promise("plan it and shut").await;
        core.until(|core| core.gate.is_waited_at.get()).await;
        let cancel = core.cancel(task).await;
        core.gate.open();
        let told = cancel.await;
        assert!(
            matches!(told, Ok(Cancelled::Asked(Found::Finished(end))) if end.state == TaskState::Cancelled)
        );
        assert_eq!(core.end(&task).await, (TaskState::Cancelled, run::NOT_BEGUN.to_owned()));
        assert_eq!(core.tasks.unconfirmed(), 0);
    });
}

#[test]
fn a_task_that_is_cancelled_while_its_failure_is_written_down_waits_for_no_attempt() {
    let world = World::new();
    world.on_core(|core| async move {
        let task = core.promise("fail and shut").await;
        core.until(|core| core.gate.is_waited_at.get()).await;
        let cancel = core.cancel(task).await;
        core.gate.open();
        // The clock stands still: no other attempt is ever due.
        let told = cancel.await;
        assert!(
            matches!(told, Ok(Cancelled::Asked(Found::Finished(end))) if end.state == TaskState::Cancelled)
        );
        assert_eq!(core.end(&task).await.0, TaskState::Cancelled);
        assert_eq!(core.log.borrow().len(), 1);
    });
    assert!(world.on_disk(Kind::TaskPending).is_empty() && world.on_disk(Kind::DeadLetter).is_empty());
}

#[test]
fn a_wish_that_an_earlier_process_kept_is_heeded_by_the_next() {
    let world = World::new();
    world.on_core(|core| async move {
        let wished = |command: &str| TaskRecord { cancel_asked: true, ..core.record(command, Mode::Async) };
        let planned =
            TaskRecord { state: codes::of_task_state(TaskState::AwaitingConfirmation), ..wished("plan it") };
        let later = TaskRecord { not_before_ms: NOW_MS + DAY_MS, retries: 1, ..wished("do it") };
        let unwished = core.record("do it", Mode::Async);
        let mut batch = Batch::new(shard());
        for record in [planned, later, unwished] {
            let key = Key::task_pending(&record.user, &record.id);
            batch.put(&key, encode(&record).expect("it fits").as_bytes());
        }
        core.store.commit(batch).await.expect("committed");
    });
    world.on_core(|core| async move {
        core.tasks.recover(vec![shard()], &core.mint).await;
        core.until(|core| core.tasks.pending.borrow().iter().next().is_none()).await;
        assert_eq!(core.tasks.metrics.tasks_recovered.get(), 3);
    });
    let ended = world.on_disk(Kind::TaskFinished);
    let states: Vec<_> = ended.iter().map(|task| codes::task_state(task.state)).collect();
    assert_eq!(states, [TaskState::Cancelled, TaskState::Cancelled, TaskState::Done]);
}

/// What is written of a key that is used now.
fn keyed(core: &Core, key: &Key) -> (Key, IdempotencyRecord) {
    let record = IdempotencyRecord {
        user: user(),
        request: [0; 32],
        created_ms: core.clock.unix_ms(),
        answer_json: None,
        tasks: Vec::new(),
    };
    (key.clone(), record)
}

/// Uses a key that is not known.
async fn use_key(core: &Core, hash: &[u8; 32]) {
    let used = core.tasks.key_use(user(), shard(), hash).await.expect("it is read");
    let KeyUse::Held(held, None) = used else { panic!("it is known") };
    let record = core.record("do it", Mode::Async);
    core.tasks.reserve(&record).expect("a place");
    let keyed = Some(keyed(core, held.key()));
    let promised = core.tasks.promise(shard(), vec![record], keyed, sluice_core::now()).await;
    assert!(promised.is_ok());
}

#[test]
fn the_sweep_of_keys_keeps_one_that_is_used_anew() {
    World::new().on_core(|core| async move {
        let [old, anew, held] = [[1; 32], [2; 32], [3; 32]];
        for hash in [old, anew, held] {
            use_key(&core, &hash).await;
        }
        core.clock.set(NOW_MS + DAY_MS);
        let keys = || core.store.scan(shard(), KeyRange::kind(Kind::Idempotency), 10, false);
        let page = keys().await.expect("read");
        assert_eq!(page.rows.len(), 3);
        // After the sweep has read them one is used anew, and another is about to be.
        use_key(&core, &anew).await;
        let holds = core.tasks.key_use(user(), shard(), &held).await.expect("it is read");
        assert!(core.tasks.sweep_keys(shard(), page.rows).await.is_ok());
        let left: Vec<Key> = keys().await.expect("read").rows.into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [Key::idempotency(&user(), &anew), Key::idempotency(&user(), &held)]);
        let known = core.tasks.key_use(user(), shard(), &anew).await.expect("it is read");
        assert!(matches!(known, KeyUse::Held(_, Some(_))), "a repeat would be carried out once more");
        // Nothing is held by the sweep any more.
        let known = core.tasks.key_use(user(), shard(), &old).await.expect("it is read");
        assert!(matches!(known, KeyUse::Held(_, None)));
        drop(holds);
    });
}

#[test]
fn a_command_that_is_waited_for_is_refused_where_the_commit_queue_is_full() {
    let world = World::new();
    world.on_core(|core| async move {
        let begin = || {
            let record = core.record("do it", Mode::Sync);
            core.tasks.reserve(&record).expect("a place");
            core.tasks.begin(shard(), record, sluice_core::now()).expect("it is begun")
        };
        core.gate.close();
        let mut filling = Batch::new(shard());
        for number in 0..4 {
            // With their keys there is less room left than any task takes.
            filling.put(&Key::idempotency(&user(), &[number; 32]), &vec![0; QUEUE_BYTES / 4 - 100]);
        }
        let filling = core.store.commit(filling);
        let refused = begin();
        assert!(matches!(refused.wait().await, Outcome::Refused));
        assert!(core.log.borrow().is_empty(), "nothing of it is begun");
        assert!(core.tasks.pending.borrow().iter().next().is_none());
        assert_eq!((core.tasks.queue.borrow().running(), core.tasks.metrics.commands_accepted.get()), (0, 0));
        core.gate.open();
        filling.await.expect("committed");
        // Sent again, it is done.
        let Outcome::Finished(end) = begin().wait().await else { panic!("it does not end") };
        assert_eq!((end.state, core.tasks.metrics.commands_accepted.get()), (TaskState::Done, 1));
    });
    assert!(world.on_disk(Kind::TaskPending).is_empty());
    assert_eq!(world.on_disk(Kind::TaskFinished).len(), 1);
}
