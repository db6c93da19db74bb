//! What a store is opened with.

use std::path::PathBuf;

use sluice_protocols::ids::ShardCount;

use crate::key::KEY_BYTES_MAX;

/// What an acknowledged commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Loss of power: every group of commits is synced to the device.
    Fsync,
    /// Death of the process, but not of the machine: the operating system holds what was written.
    Os,
}

/// Settings of a store. All memory is for the whole node, whatever the number of shards.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; made when it is missing or empty.
    pub path: PathBuf,
    /// Used when the directory is made; must be the same ever after.
    pub shard_count: ShardCount,
    pub durability: Durability,
    /// Uncompressed blocks, indexes and filters kept in memory, in bytes.
    pub block_cache_bytes: usize,
    /// Changes kept in memory before they are flushed to tables, in bytes, all shards together.
    pub write_buffer_bytes: usize,
    /// Write-ahead log kept before the families that hold it back are flushed, in bytes. Bounds recovery time.
    pub wal_bytes_max: u64,
    /// Threads that read what is not in memory, 1 to 256.
    pub reader_threads: usize,
    /// Reads that may wait for such a thread, all cores together.
    pub reader_queue_max: usize,
    /// Submissions (one a core and turn) that may wait for the commit writer.
    pub commit_queue_max: usize,
    /// Bytes that may wait for the commit writer.
    pub commit_queue_bytes_max: usize,
    /// Table files kept open.
    pub open_files_max: u16,
    /// Threads that flush and compact.
    pub background_jobs: u8,
}

impl StoreConfig {
    /// The default for every setting: 256 MiB of block cache, 128 MiB of write buffers, commits synced.
    pub fn new(path: impl Into<PathBuf>, shard_count: ShardCount) -> Self {
        Self {
            path: path.into(),
            shard_count,
            durability: Durability::Fsync,
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 128 << 20,
            wal_bytes_max: 512 << 20,
            reader_threads: 4,
            reader_queue_max: 4_096,
            commit_queue_max: 4_096,
            commit_queue_bytes_max: 64 << 20,
            open_files_max: 2_048,
            background_jobs: 2,
        }
    }
}

/// Most rows one scan returns. With the longest keys that is 256 KiB of them.
pub const SCAN_ROWS_MAX: usize = 1_000;

/// Bytes of values after which a scan stops early; one value may go beyond.
pub const SCAN_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(SCAN_ROWS_MAX * KEY_BYTES_MAX < 1 << 20);
