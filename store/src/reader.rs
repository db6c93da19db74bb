//! The reader pool: a few threads that block on the disk, so that no core does.
//!
//! Invariants: at most `reader_queue_max` reads wait, a further one is refused at once; every read taken is
//! answered, or its answer's sender dropped; a read nobody waits for any more is skipped.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use sluice_protocols::ids::ShardId;

use crate::config::StoreConfig;
use crate::database::{Database, Page, ReadError, ScanRequest};
use crate::inbox::{Reply, ReplyFuture, reply};
use crate::key::Key;
use crate::record::Value;
use crate::stats::StoreStats;
use crate::writer::AbortOnPanic;

type Answer<T> = Result<T, ReadError>;

enum Job {
    Get { shard: ShardId, key: Key, answer: Reply<Answer<Option<Value>>> },
    Scan { shard: ShardId, request: ScanRequest, answer: Reply<Answer<Page>> },
}

/// The threads and their queue. Dropping it answers what was taken, then ends the threads.
pub(crate) struct ReaderPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    queue_max: usize,
    database: Arc<Database>,
    stats: Arc<StoreStats>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closing: bool,
}

impl Shared {
    /// Held to move one job; runs no foreign code, so poison means nothing.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReaderPool {
    pub(crate) fn start(
        config: &StoreConfig,
        database: &Arc<Database>,
        stats: &Arc<StoreStats>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            queue_max: config.reader_queue_max,
            database: Arc::clone(database),
            stats: Arc::clone(stats),
        });
        let mut pool = Self { shared, threads: Vec::new() };
        for index in 0..config.reader_threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("read-{index}");
            pool.threads.push(thread::Builder::new().name(name).spawn(move || run(&shared))?);
        }
        Ok(pool)
    }

    /// Reads a key.
    pub(crate) fn get(
        &self,
        shard: ShardId,
        key: Key,
    ) -> Result<ReplyFuture<Answer<Option<Value>>>, ReadError> {
        let (answer, future) = reply();
        self.push(Job::Get { shard, key, answer })?;
        Ok(future)
    }

    /// Reads a range.
    pub(crate) fn scan(
        &self,
        shard: ShardId,
        request: ScanRequest,
    ) -> Result<ReplyFuture<Answer<Page>>, ReadError> {
        let (answer, future) = reply();
        self.push(Job::Scan { shard, request, answer })?;
        Ok(future)
    }

    /// Reads waiting now.
    pub(crate) fn depth(&self) -> usize {
        self.shared.queue().jobs.len()
    }

    fn push(&self, job: Job) -> Result<(), ReadError> {
        let mut queue = self.shared.queue();
        if queue.jobs.len() >= self.shared.queue_max {
            drop(queue);
            self.shared.stats.reader.refused_full.add(1);
            return Err(ReadError::Overloaded);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Drop for ReaderPool {
    fn drop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A waker run by a reader may hold the last handle; a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                // A reader's own panics abort, so there is no error to hear of.
                let _ = thread.join();
            }
        }
    }
}

fn run(shared: &Shared) {
    let _guard = AbortOnPanic;
    while let Some(job) = next(shared) {
        match job {
            Job::Get { answer, .. } if answer.is_abandoned() => shared.stats.reader.abandoned.add(1),
            Job::Scan { answer, .. } if answer.is_abandoned() => shared.stats.reader.abandoned.add(1),
            Job::Get { shard, key, answer } => {
                shared.stats.reader.gets.add(1);
                answer.give(counted(shared, shared.database.get(shard, &key)));
            }
            Job::Scan { shard, request, answer } => {
                shared.stats.reader.scans.add(1);
                answer.give(counted(shared, shared.database.scan(shard, &request)));
            }
        }
    }
}

/// The next job; waits for one. `None` when the pool closes and nothing is left.
fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        if queue.closing {
            return None;
        }
        queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

fn counted<T>(shared: &Shared, answer: Answer<T>) -> Answer<T> {
    if let Err(error) = &answer {
        shared.stats.reader.failures.add(1);
        tracing::error!(%error, "read failed");
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyRange, Kind};
    use crate::test_util::block_on;
    use sluice_protocols::ids::{ShardCount, UserId};

    fn config(path: &std::path::Path, reader_threads: usize) -> StoreConfig {
        let base = StoreConfig::new(path.join("db"), ShardCount::new(1).unwrap());
        StoreConfig { reader_threads, reader_queue_max: 2, ..base }
    }

    fn pool(config: &StoreConfig) -> (ReaderPool, Arc<StoreStats>) {
        Database::create(&config.path, config.shard_count).unwrap();
        let database = Arc::new(Database::open(&config.path, config).unwrap());
        let stats = Arc::new(StoreStats::new());
        (ReaderPool::start(config, &database, &stats).unwrap(), stats)
    }

    fn shard() -> ShardId {
        ShardId::new(0, ShardCount::new(1).unwrap()).unwrap()
    }

    fn key() -> Key {
        Key::user(&UserId::from_bytes([1; 16]))
    }

    #[test]
    fn a_full_queue_refuses_and_a_closing_pool_leaves_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        // No thread takes anything, so the queue stays as it is.
        let (pool, stats) = pool(&config(dir.path(), 0));
        let first = pool.get(shard(), key()).unwrap();
        let second = pool.get(shard(), key()).unwrap();
        assert_eq!(pool.get(shard(), key()).unwrap_err(), ReadError::Overloaded);
        assert_eq!((pool.depth(), stats.reader.refused_full.get()), (2, 1));
        drop(pool);
        assert_eq!((block_on(first), block_on(second)), (None, None));
    }

    #[test]
    fn what_was_taken_is_answered_before_the_threads_end() {
        let dir = tempfile::tempdir().unwrap();
        let (pool, stats) = pool(&config(dir.path(), 1));
        let read = pool.get(shard(), key()).unwrap();
        let request = ScanRequest { range: KeyRange::kind(Kind::User), limit: 1, reverse: false };
        let scan = pool.scan(shard(), request).unwrap();
        drop(pool);
        assert_eq!(block_on(read), Some(Ok(None)));
        assert!(block_on(scan).unwrap().unwrap().rows.is_empty());
        assert_eq!((stats.reader.gets.get(), stats.reader.scans.get()), (1, 1));
    }

    #[test]
    fn a_read_nobody_waits_for_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let (pool, stats) = pool(&config(dir.path(), 0));
        drop(pool.get(shard(), key()).unwrap());
        pool.shared.queue().closing = true;
        run(&pool.shared);
        assert_eq!((stats.reader.gets.get(), stats.reader.abandoned.get()), (0, 1));
    }
}
