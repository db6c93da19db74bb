//! The RocksDB of a node: one column family a shard, tuned so that memory is budgeted for the node.
//!
//! Invariants:
//! - families are `s0000`, `s0001`, ... one for each shard, all made with the directory and never later;
//! - nothing writes here but the commit writer;
//! - [`Database::get_in_memory`] does no IO, so a reactor may call it; the other reads may block.
//!
//! Families are looked up by name (a map of some hundred short strings, tens of nanoseconds) where a thread cannot
//! keep them: handles borrow from the database, and holding both in one struct would need unsafe code to save
//! less than a tenth of the read that follows.

use std::path::Path;

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, CompactOptions, DB, DBCompressionType,
    DBRecoveryMode, ErrorKind, InfoLogger, LogLevel, Options, ReadOptions, ReadTier, WriteBatch,
    WriteBufferManager, WriteOptions,
};
use sluice_protocols::ids::{ShardCount, ShardId};

use crate::config::{Durability, SCAN_BYTES_MAX, SCAN_ROWS_MAX, StoreConfig};
use crate::key::{Key, KeyRange};
use crate::log::Sequence;
use crate::record::{RecordError, Value};

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The reader pool's queue is full. Answer 503 and try again later.
    #[error("too many reads wait for the disk")]
    Overloaded,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// The disk or its file system failed. Look at the machine.
    #[error("reading from disk failed: {reason}")]
    Disk { reason: String },
    /// A key or counter on disk has no layout this version knows. Run the version that wrote it.
    #[error("the store holds something this version does not know: {reason}")]
    Foreign { reason: String },
    /// The record fails validation. Its bytes stand where they were, with a copy in quarantine.
    #[error("{key:?}: {error}; its bytes are kept in quarantine")]
    Quarantined { key: Key, error: RecordError },
    /// The record was written by a newer Sluice. Run that version.
    #[error("{key:?}: {error}")]
    Newer { key: Key, error: RecordError },
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order asked for.
    pub rows: Vec<(Key, Value)>,
    /// Where to go on when a limit ended the scan; there may be nothing there.
    pub next: Option<KeyRange>,
}

/// Memory RocksDB accounts for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    pub block_cache_bytes: usize,
    pub write_buffer_bytes: usize,
}

/// Which rows, how many, which way.
#[derive(Debug, Clone)]
pub(crate) struct ScanRequest {
    pub(crate) range: KeyRange,
    pub(crate) limit: usize,
    pub(crate) reverse: bool,
}

pub(crate) struct Database {
    db: DB,
    names: Vec<String>,
    in_memory: ReadOptions,
    block_cache: Cache,
    write_buffers: WriteBufferManager,
    /// What the database was opened with; it counts by these.
    options: Options,
}

/// What a read that may not do IO found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InMemory {
    Known(Option<Value>),
    /// Only the disk can tell.
    Unknown,
}

impl Database {
    /// Makes a database with a family for each shard at `path`, which must not exist, and closes it again.
    pub(crate) fn create(path: &Path, shards: ShardCount) -> Result<(), rocksdb::Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        options.set_info_logger(log_to_tracing());
        drop(DB::open_cf(&options, path, family_names(shards))?);
        Ok(())
    }

    /// Opens the database at `path`; it must have exactly the families of `config.shard_count`.
    pub(crate) fn open(path: &Path, config: &StoreConfig) -> Result<Self, rocksdb::Error> {
        let block_cache = Cache::new_hyper_clock_cache(config.block_cache_bytes, 0);
        let write_buffers = WriteBufferManager::new_write_buffer_manager(config.write_buffer_bytes, false);
        let names = family_names(config.shard_count);
        let family = family_options(config, &block_cache);
        let mut options = database_options(config);
        options.set_write_buffer_manager(&write_buffers);
        let families = names.iter().map(|name| (name.as_str(), family.clone()));
        let db = DB::open_cf_with_opts(&options, path, families)?;
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        Ok(Self { db, names, in_memory, block_cache, write_buffers, options })
    }

    /// Opens the database at `path` as it is now, beside whoever writes to it.
    pub(crate) fn open_read_only(path: &Path, shards: ShardCount) -> Result<Self, rocksdb::Error> {
        let config = StoreConfig::new(path, shards);
        let block_cache = Cache::new_hyper_clock_cache(READ_ONLY_CACHE_BYTES, 0);
        let write_buffers = WriteBufferManager::new_write_buffer_manager(config.write_buffer_bytes, false);
        let names = family_names(shards);
        let family = family_options(&config, &block_cache);
        let mut options = Options::default();
        // What is at the end of the log may be half written.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_info_logger(log_to_tracing());
        let families = names.iter().map(|name| (name.as_str(), family.clone()));
        let db = DB::open_cf_with_opts_for_read_only(&options, path, families, false)?;
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        Ok(Self { db, names, in_memory, block_cache, write_buffers, options })
    }

    pub(crate) fn family(&self, shard: ShardId) -> &ColumnFamily {
        self.names
            .get(usize::from(shard.index()))
            .and_then(|name| self.db.cf_handle(name))
            .expect("a shard id is made with the directory's shard count, and each shard has a family")
    }

    /// All families by shard index, for threads that keep them.
    pub(crate) fn families(&self) -> Vec<&ColumnFamily> {
        self.names.iter().map(|name| self.db.cf_handle(name).expect("opened with all its families")).collect()
    }

    /// Reads what write buffers and block cache can tell. Never touches the disk.
    pub(crate) fn get_in_memory(&self, shard: ShardId, key: &Key) -> Result<InMemory, ReadError> {
        match self.db.get_pinned_cf_opt(self.family(shard), key.as_bytes(), &self.in_memory) {
            Ok(value) => Ok(InMemory::Known(value.map(|value| Value::copy_of(&value)))),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(InMemory::Unknown),
            Err(error) => Err(disk(error)),
        }
    }

    /// Reads a key. May block on the disk.
    pub(crate) fn get(&self, shard: ShardId, key: &Key) -> Result<Option<Value>, ReadError> {
        let value = self.db.get_pinned_cf(self.family(shard), key.as_bytes()).map_err(disk)?;
        Ok(value.map(|value| Value::copy_of(&value)))
    }

    /// Reads a range. May block on the disk. Stops at the request's limit, at [`SCAN_ROWS_MAX`] rows, and after
    /// the row that reaches [`SCAN_BYTES_MAX`].
    pub(crate) fn scan(&self, shard: ShardId, request: &ScanRequest) -> Result<Page, ReadError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(request.range.start());
        if let Some(end) = request.range.end() {
            options.set_iterate_upper_bound(end);
        }
        let limit = request.limit.min(SCAN_ROWS_MAX);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(shard), options);
        if request.reverse {
            rows.seek_to_last()
        } else {
            rows.seek_to_first()
        }
        let mut page = Page { rows: Vec::new(), next: None };
        let mut bytes = 0;
        while let Some((key, value)) = rows.item() {
            if page.rows.len() == limit || bytes >= SCAN_BYTES_MAX {
                page.next = Some(match page.rows.last() {
                    Some((last, _)) => request.range.clone().resume_after(last, request.reverse),
                    None => request.range.clone(),
                });
                return Ok(page);
            }
            let key =
                Key::from_bytes(key).map_err(|error| ReadError::Foreign { reason: error.to_string() })?;
            bytes += value.len();
            page.rows.push((key, Value::copy_of(value)));
            if request.reverse { rows.prev() } else { rows.next() }
        }
        rows.status().map_err(disk)?;
        Ok(page)
    }

    /// The last batch applied to the shard. May block on the disk.
    pub(crate) fn applied(&self, shard: ShardId) -> Result<Sequence, ReadError> {
        let Some(value) = self.get(shard, &Key::applied())? else { return Ok(Sequence::ZERO) };
        let number = value.as_bytes().try_into().map(u64::from_be_bytes).map_err(|_| ReadError::Foreign {
            reason: format!("`applied` of shard {shard} has {} bytes instead of 8", value.as_bytes().len()),
        })?;
        Ok(Sequence::from_number(number))
    }

    /// Applies a group as a whole, durable as asked.
    pub(crate) fn write(&self, group: WriteBatch, options: &WriteOptions) -> Result<(), rocksdb::Error> {
        self.db.write_opt(group, options)
    }

    /// Brings the log to the device, whatever the durability of single commits.
    pub(crate) fn sync(&self) -> Result<(), rocksdb::Error> {
        self.db.flush_wal(true)
    }

    /// Moves write buffers of all shards into tables.
    pub(crate) fn flush(&self) -> Result<(), rocksdb::Error> {
        self.families().into_iter().try_for_each(|family| self.db.flush_cf(family))
    }

    /// Rewrites the tables that hold keys of the range, to the last level, so that only the newest values are left.
    pub(crate) fn rewrite(&self, shard: ShardId, range: &KeyRange) {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_cf_opt(self.family(shard), Some(range.start()), range.end(), &options);
    }

    /// Look-ups in the block cache since the database was opened: hits and misses.
    pub(crate) fn block_cache_reads(&self) -> (u64, u64) {
        let count = |ticker| self.options.get_ticker_count(ticker);
        (count(Ticker::BlockCacheHit), count(Ticker::BlockCacheMiss))
    }

    pub(crate) fn memory_use(&self) -> MemoryUse {
        MemoryUse {
            block_cache_bytes: self.block_cache.get_usage(),
            write_buffer_bytes: self.write_buffers.get_usage(),
        }
    }
}

fn disk(error: rocksdb::Error) -> ReadError {
    ReadError::Disk { reason: error.into_string() }
}

fn family_names(shards: ShardCount) -> Vec<String> {
    shards.shards().map(|shard| format!("s{:04}", shard.index())).collect()
}

/// How writes of this durability are done.
pub(crate) fn write_options(durability: Durability) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(durability == Durability::Fsync);
    options
}

fn database_options(config: &StoreConfig) -> Options {
    let mut options = Options::default();
    // A missing database or family is damage, not a wish for an empty one.
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    options.set_paranoid_checks(true);
    // The tail of the log may be torn by a crash; what was synced lies before the tear.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A log file that was synced and is gone is an error at the next start, not a shorter history.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(config.wal_bytes_max);
    options.set_max_open_files(i32::from(config.open_files_max));
    options.set_max_background_jobs(i32::from(config.background_jobs));
    // Spread the write-back of large tables, so that a commit's sync does not wait behind all of it.
    options.set_bytes_per_sync(1 << 20);
    // Counts alone: histograms and timers would read the clock on every read and write.
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    // A dump walks all families; what is worth watching is read from outside.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_info_logger(log_to_tracing());
    options
}

/// What RocksDB has to say from a warning up, in our log. Its own log files begin with every option of every
/// family, over a megabyte at each start.
fn log_to_tracing() -> InfoLogger {
    InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Warn => tracing::warn!(target: "rocksdb", message),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", message),
        LogLevel::Debug | LogLevel::Info | LogLevel::Header => {}
    })
}

fn family_options(config: &StoreConfig, block_cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(block_cache));
    // What is flushed is compacted soon, and compressed then: doing it at once would do it twice.
    options.set_compression_per_level(&[DBCompressionType::None, DBCompressionType::Lz4]);
    options.set_level_compaction_dynamic_level_bytes(true);
    // The manager flushes the fullest family when all together reach the budget; this bound only keeps a single
    // busy shard from taking more than a quarter of it.
    options.set_write_buffer_size((config.write_buffer_bytes / 4).max(ARENA_BLOCK_BYTES * 4));
    // One that is being flushed must not stop the writes of all: RocksDB stops the whole node for a full family.
    options.set_max_write_buffer_number(4);
    // Idle families must cost little: 256 of them hold 4 MiB once each was written to.
    options.set_arena_block_size(ARENA_BLOCK_BYTES);
    options
}

/// Enough for the few reads that are made beside a gateway.
const READ_ONLY_CACHE_BYTES: usize = 8 << 20;

/// First and further allocations of a write buffer.
const ARENA_BLOCK_BYTES: usize = 16 << 10;

fn table_options(block_cache: &Cache) -> BlockBasedOptions {
    let mut options = BlockBasedOptions::default();
    options.set_block_cache(block_cache);
    // Indexes and filters count against the one budget too, but are the last to go.
    options.set_cache_index_and_filter_blocks(true);
    options.set_cache_index_and_filter_blocks_with_high_priority(true);
    options.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // 10 bits a key: one useless read in a hundred.
    options.set_bloom_filter(10.0, false);
    options.set_optimize_filters_for_memory(true);
    options.set_format_version(6);
    options
}
