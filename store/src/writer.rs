//! The commit writer: one thread that turns everything waiting into one synced write.
//!
//! Cores push submissions into a bounded queue without a lock. The writer takes all that wait (to a limit of
//! bytes), numbers the batches, writes them and each touched shard's `applied` as one atomic RocksDB batch, and
//! leaves the receipts: one wake for each core. While it writes, the next group gathers.
//!
//! Invariants:
//! - the order of a shard's batches is the order in which the writer took them; `applied` grows by one for each;
//! - a group is on disk as a whole or not at all;
//! - the first failed write stops the log: its group hears `Unknown`, everyone after it `Stopped`;
//! - every submission taken gets one receipt, also when the log stops or closes;
//! - the writer does not die: a panic in it ends the process, for promises would wait on it forever.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rocksdb::{WriteBatch, WriteOptions};
use smallvec::SmallVec;

use crate::audit::AuditHead;
use crate::batch::{Change, read_batch};
use crate::config::{Durability, StoreConfig};
use crate::database::{Database, write_options};
use crate::fence::Fence;
use crate::inbox::Inbox;
use crate::key::Key;
use crate::log::{CommitError, CommitLog, Entry, Receipt, Rejected, Sequence, Submission};
use crate::stats::StoreStats;

/// Bytes after which a group takes no further submission: a write of this size takes some ten milliseconds, and
/// all of its waiters wait for the last byte.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// What the writer writes to, so that a test can be the disk.
pub(crate) trait Disk: Send + 'static {
    /// Applies numbered entries in order, all or none, durable when it returns. An error means the outcome is
    /// unknown.
    fn write(&mut self, group: &[Submission]) -> Result<(), String>;

    /// The log closes: brings to the device what `write` left to the operating system.
    fn close(&mut self) {}
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterConfig {
    pub(crate) queue_max: usize,
    pub(crate) queue_bytes_max: usize,
}

impl WriterConfig {
    pub(crate) fn of(config: &StoreConfig) -> Self {
        Self { queue_max: config.commit_queue_max, queue_bytes_max: config.commit_queue_bytes_max }
    }
}

/// The commit log of one node, kept by RocksDB's synced write-ahead log.
pub(crate) struct RocksCommitLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    queue: ArrayQueue<Submission>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    /// The writer is about to park, or has: whoever clears this must unpark it.
    asleep: AtomicBool,
    closing: AtomicBool,
    stopped: OnceLock<Arc<str>>,
    stats: Arc<StoreStats>,
}

impl RocksCommitLog {
    /// Starts the writer. `applied` is each shard's last sequence, by index.
    pub(crate) fn start(
        config: WriterConfig,
        disk: impl Disk,
        applied: Vec<Sequence>,
        stats: Arc<StoreStats>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(config.queue_max),
            queued_bytes: AtomicUsize::new(0),
            queue_bytes_max: config.queue_bytes_max,
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            stopped: OnceLock::new(),
            stats,
        });
        let writer = Writer { shared: Arc::clone(&shared), disk, applied, group: Vec::new() };
        let writer = thread::Builder::new().name("commit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Why the log has stopped, once it has.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.shared.stopped.get().cloned()
    }

    fn wake_writer(&self) {
        // Pairs with the fence in `Writer::sleep`: either the writer sees what was pushed, or this sees it asleep.
        fence(Ordering::SeqCst);
        if self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Some(writer) = &self.writer
        {
            writer.thread().unpark();
        }
    }
}

impl CommitLog for RocksCommitLog {
    fn submit(&self, submission: Submission) -> Result<(), Rejected> {
        let shared = &self.shared;
        if let Some(reason) = shared.stopped.get() {
            shared.stats.commit.refused_stopped.add(1);
            return Err(Rejected { error: CommitError::Stopped { reason: Arc::clone(reason) }, submission });
        }
        let bytes = submission.bytes();
        let full = |submission| {
            shared.stats.commit.refused_full.add(1);
            Err(Rejected { error: CommitError::Overloaded, submission })
        };
        if shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > shared.queue_bytes_max {
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return full(submission);
        }
        if let Err(submission) = shared.queue.push(submission) {
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return full(submission);
        }
        self.wake_writer();
        Ok(())
    }

    fn depth(&self) -> usize {
        self.shared.queue.len()
    }
}

impl Drop for RocksCommitLog {
    /// Waits until everything taken was written and answered.
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.wake_writer();
        let Some(writer) = self.writer.take() else { return };
        // A waker run by the writer may hold the last handle; a thread cannot wait for itself.
        if writer.thread().id() != thread::current().id() {
            // The writer's own panics abort, so there is no error to hear of.
            let _ = writer.join();
        }
    }
}

struct Writer<D> {
    shared: Arc<Shared>,
    disk: D,
    applied: Vec<Sequence>,
    group: Vec<Submission>,
}

/// Ends the process when dropped by a panic.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                "a storage thread panicked: ending the process, for what it promised cannot be kept"
            );
            std::process::abort();
        }
    }
}

impl<D: Disk> Writer<D> {
    fn run(mut self) {
        let _guard = AbortOnPanic;
        loop {
            self.gather();
            if !self.group.is_empty() {
                self.commit();
            } else if self.shared.closing.load(Ordering::SeqCst) {
                // Nobody can submit any more: the log is being dropped, and dropping needs the only handle.
                self.disk.close();
                return;
            } else {
                self.sleep();
            }
        }
    }

    fn gather(&mut self) {
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(submission) = self.shared.queue.pop()
        {
            bytes += submission.bytes();
            self.group.push(submission);
        }
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn sleep(&self) {
        self.shared.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.shared.queue.is_empty() && !self.shared.closing.load(Ordering::SeqCst) {
            thread::park();
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
    }

    /// Writes the group and answers it.
    fn commit(&mut self) {
        if let Some(reason) = self.shared.stopped.get().cloned() {
            self.shared.stats.commit.refused_stopped.add(self.group.len() as u64);
            return self.answer(Some(&CommitError::Stopped { reason }));
        }
        self.number();
        let began = Instant::now();
        match self.disk.write(&self.group) {
            Ok(()) => {
                self.count(began.elapsed());
                self.answer(None);
            }
            Err(reason) => self.stop(&reason),
        }
    }

    /// Fixes the order: here and nowhere else.
    fn number(&mut self) {
        for entry in self.group.iter_mut().flat_map(|submission| &mut submission.entries) {
            let applied = &mut self.applied[usize::from(entry.shard.index())];
            *applied = applied.next();
            entry.sequence = *applied;
        }
    }

    fn count(&self, took: Duration) {
        let stats = &self.shared.stats.commit;
        let batches = self.group.iter().map(|submission| submission.entries.len() as u64).sum();
        let bytes = self.group.iter().map(|submission| submission.bytes() as u64).sum();
        stats.wrote(batches, bytes, took);
        for submission in &self.group {
            let waited_us = submission.handed_over.elapsed().as_micros();
            stats.latency_us.record(u64::try_from(waited_us).unwrap_or(u64::MAX));
        }
    }

    /// What is on disk is unknown from here on, and so is each shard's next sequence.
    fn stop(&mut self, reason: &str) {
        tracing::error!(reason, "commit failed: storage takes no more writes until a restart");
        self.shared.stats.commit.failures.add(1);
        let reason: Arc<str> = reason.into();
        self.shared.stopped.get_or_init(|| Arc::clone(&reason));
        self.answer(Some(&CommitError::Unknown { reason }));
    }

    /// Leaves all receipts, then wakes each inbox once.
    fn answer(&mut self, error: Option<&CommitError>) {
        let mut inboxes: SmallVec<[Arc<Inbox>; 8]> = SmallVec::new();
        for submission in self.group.drain(..) {
            let outcome = match error {
                None => Ok(submission.entries.iter().map(|entry| entry.sequence).collect()),
                Some(error) => Err(error.clone()),
            };
            submission.reply.leave(Receipt { ticket: submission.ticket, outcome });
            if !inboxes.iter().any(|inbox| Arc::ptr_eq(inbox, &submission.reply)) {
                inboxes.push(submission.reply);
            }
        }
        inboxes.iter().for_each(|inbox| inbox.wake());
    }
}

/// Applies entries to the database: the changes of each, and its shard's `applied`.
pub(crate) struct RocksDisk {
    database: Arc<Database>,
    options: WriteOptions,
    durability: Durability,
    /// The end of each shard's audit log, by index. What a write that fails has added is of no meaning: it was the last.
    audits: Vec<AuditHead>,
    fence: Arc<Fence>,
    stats: Arc<StoreStats>,
}

impl RocksDisk {
    /// `audits` is the end of each shard's audit log, by index.
    pub(crate) fn new(
        database: Arc<Database>,
        durability: Durability,
        audits: Vec<AuditHead>,
        fence: Arc<Fence>,
        stats: Arc<StoreStats>,
    ) -> Self {
        Self { database, options: write_options(durability), durability, audits, fence, stats }
    }

    fn build(&mut self, group: &[Submission]) -> Result<WriteBatch, String> {
        let bytes: usize = group.iter().map(|submission| submission.bytes()).sum();
        // Behind each change stand its tag, family and lengths; a quarter more spares most regrowth.
        let mut changes = WriteBatch::with_capacity_bytes(bytes + bytes / 4);
        let (applied_key, head_key) = (Key::applied(), Key::audit_head());
        let fence = self.fence.standing();
        let mut held_back = 0;
        for entry in group.iter().flat_map(|submission| &submission.entries) {
            let family = self.database.family(entry.shard);
            let audit = &mut self.audits[usize::from(entry.shard.index())];
            let before = *audit;
            read_batch(&entry.bytes, entry.shard, |change| match change {
                Change::Put { key, .. } if fence.holds_back(key) => held_back += 1,
                Change::Put { key, value } => changes.put_cf(family, key, value),
                Change::Delete { key } => changes.delete_cf(family, key),
                Change::Audit { body } => {
                    let (head, key, value) = audit.append(entry.shard, body);
                    changes.put_cf(family, key.as_bytes(), value);
                    *audit = head;
                }
            })
            .map_err(|error| format!("batch {} of shard {}: {error}", entry.sequence, entry.shard))?;
            if *audit != before {
                changes.put_cf(family, head_key.as_bytes(), audit.to_value());
            }
            changes.put_cf(family, applied_key.as_bytes(), applied_value(entry));
        }
        self.stats.commit.held_back.add(held_back);
        Ok(changes)
    }
}

fn applied_value(entry: &Entry) -> [u8; 8] {
    entry.sequence.number().to_be_bytes()
}

impl Disk for RocksDisk {
    fn write(&mut self, group: &[Submission]) -> Result<(), String> {
        let changes = self.build(group)?;
        self.database.write(changes, &self.options).map_err(rocksdb::Error::into_string)
    }

    fn close(&mut self) {
        if self.durability == Durability::Os
            && let Err(error) = self.database.sync()
        {
            tracing::error!(%error, "the log could not be synced at close");
        }
    }
}

#[cfg(test)]
mod tests;
