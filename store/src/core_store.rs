//! The store as one core sees it. `!Send`; nothing here blocks.
//!
//! Commits made in one turn of the reactor are joined by shard and handed to the log once, when the turn has
//! nothing else to run. A [`Driver`] task does that, and wakes the waiters when receipts come back: one wake from
//! the commit writer a group, then wakes within the core.
//!
//! Invariants:
//! - batches a core commits for a shard keep their order;
//! - a batch is handed over whether or not its [`Commit`] is still awaited: dropping the future gives up the answer,
//!   not the change;
//! - submissions get their receipts in the order they were handed over (the log keeps it).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hashbrown::HashSet;
use sluice_protocols::ids::{ShardCount, ShardId};
use smallvec::SmallVec;

use crate::batch::{BATCH_BYTES_MAX, Batch};
use crate::database::{InMemory, Page, ReadError, ScanRequest};
use crate::inbox::Inbox;
use crate::key::{Key, KeyRange};
use crate::log::{CommitError, Entry, Receipt, Sequence, Submission};
use crate::quarantine;
use crate::record::{Loaded, Record, Value};
use crate::stats::CoreReadStats;
use crate::store::Store;

/// Distinct damaged values a core copies into quarantine; beyond it they are only counted and logged, so that a
/// disk gone bad is not written full. The originals stand in any case.
const QUARANTINE_COPIES_MAX: usize = 1_024;

/// One core's access to the store. Clones are the same access.
#[derive(Clone)]
pub struct CoreStore {
    handle: Rc<Handle>,
}

/// Tells the driver when the last clone is gone.
struct Handle {
    core: Rc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.closed.set(true);
        self.core.wake_driver();
    }
}

struct Core {
    store: Store,
    stats: Arc<CoreReadStats>,
    turn: RefCell<Turn>,
    /// Handed over, no receipt yet; oldest first.
    in_flight: RefCell<VecDeque<InFlight>>,
    inbox: Arc<Inbox>,
    driver: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    next_ticket: Cell<u64>,
    /// Copies of damaged values made or on their way, by the key of the copy.
    quarantined: RefCell<HashSet<Key, foldhash::fast::RandomState>>,
}

/// What was committed since the last hand-over.
struct Turn {
    joined: Vec<Joined>,
    /// By shard index: 1 + the place in `joined` that later batches of the shard go to, 0 for none.
    places: Vec<u32>,
    /// Bytes of all batches; at most what the log may hold, for more it would refuse.
    bytes: usize,
    bytes_max: usize,
}

struct Joined {
    batch: Batch,
    waiters: Waiters,
}

type Waiters = SmallVec<[Rc<Waiter>; 2]>;

struct InFlight {
    ticket: u64,
    /// In the order of the submission's entries.
    waiters: Vec<Waiters>,
}

/// Where a [`Commit`] finds its answer.
#[derive(Default)]
struct Waiter {
    /// The commit puts a damaged record's copy under this key: counted when answered, for nobody waits.
    copy: Option<Key>,
    outcome: Cell<Option<Result<Sequence, CommitError>>>,
    waker: Cell<Option<Waker>>,
}

impl Waiter {
    fn finish(&self, outcome: Result<Sequence, CommitError>) {
        self.outcome.set(Some(outcome));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The answer to a commit. The change is on its way whether or not this is awaited.
#[must_use = "a promise may leave only after the commit came true"]
pub struct Commit {
    waiter: Rc<Waiter>,
}

impl Future for Commit {
    type Output = Result<Sequence, CommitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.waiter.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.waiter.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The task that hands over a core's commits and brings back their receipts. Runs until the last clone of its
/// [`CoreStore`] is gone and everything handed over was answered.
#[must_use = "no commit comes true until the driver runs"]
pub struct Driver {
    core: Rc<Core>,
}

impl CoreStore {
    /// Access for the core whose reactor runs the caller; spawns its driver there.
    pub fn new(store: &Store) -> Self {
        let (core_store, driver) = Self::detached(store);
        sluice_core::spawn(driver.run(sluice_core::quiesce));
        core_store
    }

    /// Access and its driver, for a thread with an executor of its own.
    pub fn detached(store: &Store) -> (Self, Driver) {
        let core = Rc::new(Core {
            store: store.clone(),
            stats: store.stats_shared().add_core(),
            turn: RefCell::new(Turn::new(store.shard_count(), store.commit_queue_bytes_max())),
            in_flight: RefCell::default(),
            inbox: Inbox::new(),
            driver: RefCell::default(),
            closed: Cell::new(false),
            next_ticket: Cell::new(0),
            quarantined: RefCell::default(),
        });
        (Self { handle: Rc::new(Handle { core: Rc::clone(&core) }) }, Driver { core })
    }

    /// The store all cores share.
    pub fn store(&self) -> &Store {
        &self.handle.core.store
    }

    /// Commits a batch with the turn it is called in, before the future is first polled. `Ok` when it is durable
    /// and visible. Batches of one shard that were joined have the same sequence.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(&self, batch: Batch) -> Commit {
        self.handle.core.commit(batch)
    }

    /// Reads a key: inline when memory can tell, else by the reader pool.
    ///
    /// # Errors
    /// [`ReadError::Overloaded`], [`ReadError::Closed`], [`ReadError::Disk`].
    pub async fn get(&self, shard: ShardId, key: &Key) -> Result<Option<Value>, ReadError> {
        let core = &self.handle.core;
        if let InMemory::Known(value) = core.store.database().get_in_memory(shard, key)? {
            core.stats.count_inline();
            return Ok(value);
        }
        core.stats.count_pooled();
        core.store.readers().get(shard, key.clone())?.await.unwrap_or(Err(ReadError::Closed))
    }

    /// Reads and validates a record. A damaged one is copied into quarantine.
    ///
    /// # Errors
    /// As [`Self::get`]; [`ReadError::Quarantined`]; [`ReadError::Newer`].
    pub async fn load<R: Record>(&self, shard: ShardId, key: &Key) -> Result<Option<Loaded<R>>, ReadError> {
        let Some(value) = self.get(shard, key).await? else { return Ok(None) };
        self.validate(shard, key, value).map(Some)
    }

    /// Makes a row of a scan a record. A damaged one is copied into quarantine.
    ///
    /// # Errors
    /// [`ReadError::Quarantined`], [`ReadError::Newer`].
    pub fn validate<R: Record>(
        &self,
        shard: ShardId,
        key: &Key,
        value: Value,
    ) -> Result<Loaded<R>, ReadError> {
        quarantine::validate(self.store().stats(), shard, key, value).map_err(|refused| {
            if let Some((copy, batch)) = refused.copy {
                self.handle.core.quarantine(copy, batch);
            }
            refused.error
        })
    }

    /// Reads at most `limit` rows (and at most [`crate::SCAN_ROWS_MAX`]) of a range by the reader pool.
    ///
    /// # Errors
    /// [`ReadError::Overloaded`], [`ReadError::Closed`], [`ReadError::Disk`], [`ReadError::Foreign`].
    pub async fn scan(
        &self,
        shard: ShardId,
        range: KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Page, ReadError> {
        let request = ScanRequest { range, limit, reverse };
        self.store().readers().scan(shard, request)?.await.unwrap_or(Err(ReadError::Closed))
    }

    /// Submissions handed over that have no receipt yet.
    pub fn in_flight(&self) -> usize {
        self.handle.core.in_flight.borrow().len()
    }
}

impl Core {
    fn commit(&self, batch: Batch) -> Commit {
        let waiter = Rc::new(Waiter::default());
        self.add(batch, Rc::clone(&waiter));
        Commit { waiter }
    }

    fn add(&self, batch: Batch, waiter: Rc<Waiter>) {
        let bytes = batch.size();
        if bytes > BATCH_BYTES_MAX {
            return self.finish(&waiter, Err(CommitError::TooLarge { bytes }));
        }
        if !self.turn.borrow().has_room(bytes) {
            self.store.stats().commit.refused_full.add(1);
            return self.finish(&waiter, Err(CommitError::Overloaded));
        }
        let first = self.turn.borrow_mut().add(batch, waiter);
        if first {
            self.wake_driver();
        }
    }

    fn finish(&self, waiter: &Waiter, outcome: Result<Sequence, CommitError>) {
        if let Some(copy) = &waiter.copy {
            quarantine::count_copy(self.store.stats(), outcome.as_ref().err());
            if outcome.is_err() {
                // The next reader of the record tries again.
                self.quarantined.borrow_mut().remove(copy);
            }
        }
        waiter.finish(outcome);
    }

    fn wake_driver(&self) {
        let waker = self.driver.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Copies a damaged value aside, once, without anybody waiting for it.
    fn quarantine(&self, copy: Key, batch: Batch) {
        let known = self.quarantined.borrow().len();
        if known >= QUARANTINE_COPIES_MAX {
            self.store.stats().records.quarantine_failed.add(1);
        } else if self.quarantined.borrow_mut().insert(copy.clone()) {
            self.add(batch, Rc::new(Waiter { copy: Some(copy), ..Waiter::default() }));
        }
    }

    /// Hands the turn over. Whatever is refused is answered at once.
    fn hand_over(&self) {
        let joined = self.turn.borrow_mut().take();
        if joined.is_empty() {
            return;
        }
        let (batches, waiters): (Vec<_>, Vec<_>) = joined.into_iter().map(|j| (j.batch, j.waiters)).unzip();
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let entries = batches.into_iter().map(Entry::new).collect();
        match self.store.log().submit(Submission::new(entries, ticket, Arc::clone(&self.inbox))) {
            Ok(()) => self.in_flight.borrow_mut().push_back(InFlight { ticket, waiters }),
            Err(rejected) => self.answer(waiters, &Err(rejected.error)),
        }
    }

    fn receive(&self, receipt: &Receipt) {
        let oldest =
            self.in_flight.borrow_mut().pop_front().expect("a receipt answers a submission in flight");
        assert_eq!(oldest.ticket, receipt.ticket, "receipts come in the order of hand-over");
        self.answer(oldest.waiters, &receipt.outcome);
    }

    /// Gives each waiter its entry's sequence, or all of them the error.
    fn answer(&self, waiters: Vec<Waiters>, outcome: &Result<SmallVec<[Sequence; 4]>, CommitError>) {
        for (index, waiters) in waiters.into_iter().enumerate() {
            for waiter in waiters {
                let outcome = outcome.as_ref().map(|sequences| sequences[index]).map_err(CommitError::clone);
                self.finish(&waiter, outcome);
            }
        }
    }

    /// Ready when there is something to do: receipts came, the turn has commits, or all handles are gone.
    fn poll_work(&self, cx: &Context<'_>, receipts: &mut Vec<Receipt>) -> Poll<()> {
        let arrived = self.inbox.poll_take(cx, receipts).is_ready();
        let idle = self.turn.borrow().joined.is_empty();
        let done = self.closed.get() && self.in_flight.borrow().is_empty();
        if arrived || !idle || done {
            return Poll::Ready(());
        }
        *self.driver.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Driver {
    /// Runs the driver; `end_of_turn` gives a future that resumes when the executor has nothing else to run.
    pub async fn run<F: Future<Output = ()>>(self, end_of_turn: impl Fn() -> F) {
        let core = self.core;
        let mut receipts = Vec::new();
        loop {
            poll_fn(|cx| core.poll_work(cx, &mut receipts)).await;
            for receipt in receipts.drain(..) {
                core.receive(&receipt);
            }
            if !core.turn.borrow().joined.is_empty() {
                end_of_turn().await;
                core.hand_over();
            } else if core.closed.get() && core.in_flight.borrow().is_empty() {
                return;
            }
        }
    }
}

impl Turn {
    fn new(shards: ShardCount, bytes_max: usize) -> Self {
        Self { joined: Vec::new(), places: vec![0; usize::from(shards.get())], bytes: 0, bytes_max }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.bytes_max
    }

    /// Adds a batch; says whether it is the turn's first.
    fn add(&mut self, batch: Batch, waiter: Rc<Waiter>) -> bool {
        let shard = usize::from(batch.shard().index());
        let place = self.places[shard].checked_sub(1);
        let batch = match place.map(|place| &mut self.joined[place as usize]) {
            None => batch,
            Some(joined) => {
                let before = joined.batch.size();
                match joined.batch.join(batch) {
                    Ok(()) => {
                        // It may have become smaller, see `Batch::put_new`.
                        self.bytes = self.bytes - before + joined.batch.size();
                        joined.waiters.push(waiter);
                        return false;
                    }
                    // Too large together: it goes behind, as a batch of its own.
                    Err(batch) => batch,
                }
            }
        };
        self.bytes += batch.size();
        self.joined.push(Joined { batch, waiters: SmallVec::from_iter([waiter]) });
        self.places[shard] =
            u32::try_from(self.joined.len()).expect("bytes_max keeps a turn far below 2^32 batches");
        self.joined.len() == 1
    }

    fn take(&mut self) -> Vec<Joined> {
        for joined in &self.joined {
            self.places[usize::from(joined.batch.shard().index())] = 0;
        }
        self.bytes = 0;
        std::mem::take(&mut self.joined)
    }
}
