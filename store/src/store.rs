//! The handle on an open data directory, shared by all threads, and its face for ordinary threads.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sluice_protocols::ids::{ShardCount, ShardId, UserId};
use smallvec::SmallVec;

use crate::audit::{AuditHead, read_entry};
use crate::batch::Batch;
use crate::config::StoreConfig;
use crate::database::{Database, MemoryUse, Page, ReadError, ScanRequest};
use crate::directory::{Directory, OpenError};
use crate::fence::{Fence, FenceFull};
use crate::inbox::Inbox;
use crate::key::{Key, KeyRange, Kind};
use crate::log::{CommitError, CommitLog, Entry, Sequence, Submission};
use crate::quarantine;
use crate::reader::ReaderPool;
use crate::record::{Loaded, Record, Value};
use crate::stats::StoreStats;
use crate::writer::{RocksCommitLog, RocksDisk, WriterConfig};

/// An open data directory. Clones share it; it is closed with the last of them (a [`crate::CoreStore`] holds one),
/// which waits until everything taken was written.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Fields are dropped in this order: the log writes what it has taken, the pool answers what it was asked, the
/// database closes, and only then another process may lock the directory.
struct Inner {
    log: RocksCommitLog,
    readers: ReaderPool,
    database: Arc<Database>,
    stats: Arc<StoreStats>,
    fence: Arc<Fence>,
    config: StoreConfig,
    _directory: Directory,
}

impl Store {
    /// Opens the data directory, or makes it when it is missing or empty, and starts the storage threads. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the directory or the settings, and what to do.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        check(&config)?;
        let began = Instant::now();
        let directory = Directory::open(&config.path, config.shard_count)?;
        let database = Database::open(&directory.database_path(), &config).map_err(|error| {
            OpenError::Database { path: directory.database_path(), reason: error.into_string() }
        })?;
        let database = Arc::new(database);
        let stats = Arc::new(StoreStats::new());
        let applied = read_applied(&database, &config)?;
        let audits = read_audit_heads(&database, &config)?;
        let fence = Arc::<Fence>::default();
        let (disk_fence, disk_stats) = (Arc::clone(&fence), Arc::clone(&stats));
        let disk = RocksDisk::new(Arc::clone(&database), config.durability, audits, disk_fence, disk_stats);
        let threads = |source| OpenError::Threads { source };
        let log = RocksCommitLog::start(WriterConfig::of(&config), disk, applied, Arc::clone(&stats))
            .map_err(threads)?;
        let readers = ReaderPool::start(&config, &database, &stats).map_err(threads)?;
        let (shards, took_ms) = (config.shard_count.get(), began.elapsed().as_millis());
        tracing::info!(path = %config.path.display(), shards, durability = ?config.durability, took_ms, "store opened");
        Ok(Self {
            inner: Arc::new(Inner { log, readers, database, stats, fence, config, _directory: directory }),
        })
    }

    /// How many shards the directory was made with.
    pub fn shard_count(&self) -> ShardCount {
        self.inner.config.shard_count
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        &self.inner.config.path
    }

    /// Everything counted since the store was opened.
    pub fn stats(&self) -> &StoreStats {
        &self.inner.stats
    }

    /// Memory RocksDB accounts for now.
    pub fn memory_use(&self) -> MemoryUse {
        self.inner.database.memory_use()
    }

    /// Look-ups in the block cache since the store was opened: hits and misses.
    pub fn block_cache_reads(&self) -> (u64, u64) {
        self.inner.database.block_cache_reads()
    }

    /// The log all changes go through.
    pub fn log(&self) -> &dyn CommitLog {
        &self.inner.log
    }

    /// Why the store takes no more writes, once one failed.
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.inner.log.stopped()
    }

    /// Reads waiting for the reader pool now.
    pub fn reader_depth(&self) -> usize {
        self.inner.readers.depth()
    }

    pub(crate) fn commit_queue_bytes_max(&self) -> usize {
        self.inner.config.commit_queue_bytes_max
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn readers(&self) -> &ReaderPool {
        &self.inner.readers
    }

    pub(crate) fn stats_shared(&self) -> &Arc<StoreStats> {
        &self.inner.stats
    }

    /// The last batch applied to `shard`. Blocks on the disk: not for a reactor.
    ///
    /// # Errors
    /// [`ReadError::Disk`] or [`ReadError::Foreign`].
    pub fn applied_blocking(&self, shard: ShardId) -> Result<Sequence, ReadError> {
        self.inner.database.applied(shard)
    }

    /// The end of a shard's audit log. Blocks on the disk: not for a reactor.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn audit_head_blocking(&self, shard: ShardId) -> Result<AuditHead, ReadError> {
        let value = self.get_blocking(shard, &Key::audit_head())?;
        // One that is damaged is no head: whoever verifies then finds that the chain does not end there.
        Ok(value.and_then(|value| AuditHead::from_value(value.as_bytes())).unwrap_or_default())
    }

    /// Reads a key. Blocks on the disk: not for a reactor.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn get_blocking(&self, shard: ShardId, key: &Key) -> Result<Option<Value>, ReadError> {
        self.inner.database.get(shard, key)
    }

    /// Reads and validates a record. Blocks on the disk: not for a reactor.
    ///
    /// # Errors
    /// [`ReadError::Disk`]; [`ReadError::Quarantined`] after the damaged bytes were copied aside;
    /// [`ReadError::Newer`].
    pub fn load_blocking<R: Record>(
        &self,
        shard: ShardId,
        key: &Key,
    ) -> Result<Option<Loaded<R>>, ReadError> {
        let Some(value) = self.get_blocking(shard, key)? else { return Ok(None) };
        match quarantine::validate::<R>(self.stats(), shard, key, value) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(refused) => {
                if let Some((_, copy)) = refused.copy {
                    quarantine::count_copy(self.stats(), self.write_blocking(vec![copy]).err().as_ref());
                }
                Err(refused.error)
            }
        }
    }

    /// Reads at most `limit` rows of a range. Blocks on the disk: not for a reactor.
    ///
    /// # Errors
    /// [`ReadError::Disk`] or [`ReadError::Foreign`].
    pub fn scan_blocking(
        &self,
        shard: ShardId,
        range: KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Page, ReadError> {
        self.inner.database.scan(shard, &ScanRequest { range, limit, reverse })
    }

    /// Commits batches, one sequence for each, through the same log as the cores. They land in one write; do not
    /// rely on that across shards, which a replicated log would not keep. Blocks until it is durable: not for a
    /// reactor.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn write_blocking(&self, batches: Vec<Batch>) -> Result<SmallVec<[Sequence; 4]>, CommitError> {
        if let Some(large) = batches.iter().find(|batch| batch.size() > crate::batch::BATCH_BYTES_MAX) {
            return Err(CommitError::TooLarge { bytes: large.size() });
        }
        let inbox = Inbox::new();
        let entries = batches.into_iter().map(Entry::new).collect();
        self.inner
            .log
            .submit(Submission::new(entries, 0, Arc::clone(&inbox)))
            .map_err(|rejected| rejected.error)?;
        inbox.wait().outcome
    }

    /// Has nothing written of a user from here on, for they are erased: whatever is put under a key of theirs is dropped,
    /// and counted. What a write holds that was handed over later than this comes behind everything that still got in.
    ///
    /// # Errors
    /// [`FenceFull`].
    pub fn fence(&self, user: &UserId) -> Result<(), FenceFull> {
        self.inner.fence.put_up(user)
    }

    /// As [`Self::purge_blocking`], of many ranges.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn purge_all_blocking(&self, ranges: &[(ShardId, KeyRange)]) -> Result<(), ReadError> {
        self.flush_blocking()?;
        ranges.iter().for_each(|(shard, range)| self.inner.database.rewrite(*shard, range));
        Ok(())
    }

    /// Makes sure that older values of a range are in no file any more, after they were overwritten or deleted: flushes
    /// the store, so that its log is begun anew, and rewrites the range's tables. Blocks for long.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn purge_blocking(&self, shard: ShardId, range: &KeyRange) -> Result<(), ReadError> {
        self.purge_all_blocking(&[(shard, range.clone())])
    }

    /// Moves everything in memory into tables, so that the next start has no log to replay. Blocks for long.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn flush_blocking(&self) -> Result<(), ReadError> {
        self.inner.database.flush().map_err(|error| ReadError::Disk { reason: error.into_string() })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}

/// Refuses settings that cannot work, by name.
fn check(config: &StoreConfig) -> Result<(), OpenError> {
    let refuse = |setting, allowed: &str| Err(OpenError::Setting { setting, allowed: allowed.to_owned() });
    let write_buffer_bytes_min = usize::from(config.shard_count.get()) * (64 << 10);
    if !(1..=256).contains(&config.reader_threads) {
        return refuse("reader_threads", "1 to 256");
    }
    if config.reader_queue_max == 0 {
        return refuse("reader_queue_max", "1 or more");
    }
    if config.commit_queue_max == 0 {
        return refuse("commit_queue_max", "1 or more");
    }
    if config.commit_queue_bytes_max < crate::batch::BATCH_BYTES_MAX {
        return refuse("commit_queue_bytes_max", "8 MiB or more, so that the largest batch fits");
    }
    if config.block_cache_bytes < 1 << 20 {
        return refuse("block_cache_bytes", "1 MiB or more");
    }
    if config.write_buffer_bytes < write_buffer_bytes_min {
        return refuse("write_buffer_bytes", &format!("{write_buffer_bytes_min} (64 KiB a shard) or more"));
    }
    if config.open_files_max < 64 {
        return refuse("open_files_max", "64 or more");
    }
    if config.background_jobs == 0 {
        return refuse("background_jobs", "1 or more");
    }
    Ok(())
}

/// Where each shard's audit log goes on.
fn read_audit_heads(database: &Database, config: &StoreConfig) -> Result<Vec<AuditHead>, OpenError> {
    let heads = config.shard_count.shards().map(|shard| audit_head(database, shard));
    heads
        .collect::<Result<_, _>>()
        .map_err(|error| OpenError::Database { path: config.path.clone(), reason: error.to_string() })
}

/// The end that the head record names or that the last entry is. Where they differ somebody has been at them: the later one
/// counts, so that nothing is written over, and a gap stays one.
fn audit_head(database: &Database, shard: ShardId) -> Result<AuditHead, ReadError> {
    let named = database.get(shard, &Key::audit_head())?;
    let named = named.and_then(|value| AuditHead::from_value(value.as_bytes())).unwrap_or_default();
    let request = ScanRequest { range: KeyRange::kind(Kind::AuditEntry), limit: 1, reverse: true };
    let page = database.scan(shard, &request)?;
    let last = page.rows.first().map(|(key, value)| {
        let hash = read_entry(value.as_bytes()).map_or([0; 32], |entry| entry.hash);
        AuditHead { sequence: key.audit_sequence().unwrap_or_default(), hash }
    });
    let last = last.unwrap_or_default();
    if named == last {
        return Ok(named);
    }
    tracing::error!(%shard, named = named.sequence, last = last.sequence, "the audit log was tampered with: verify it");
    Ok(if last.sequence > named.sequence { last } else { named })
}

fn read_applied(database: &Database, config: &StoreConfig) -> Result<Vec<Sequence>, OpenError> {
    config
        .shard_count
        .shards()
        .map(|shard| database.applied(shard))
        .collect::<Result<_, _>>()
        .map_err(|error| OpenError::Database { path: config.path.clone(), reason: error.to_string() })
}
