//! A data directory as it stood at one moment, for looking at it beside the gateway that uses it.
//!
//! Invariants:
//! - nothing in the directory is written, its lock included, so whoever uses it goes on undisturbed;
//! - what was acknowledged before the directory was opened is seen; what comes later is not.

use std::path::Path;

use sluice_protocols::ids::{ShardCount, ShardId};

use crate::database::{Database, Page, ReadError, ScanRequest};
use crate::directory::{self, OpenError};
use crate::key::{Key, KeyRange};
use crate::record::{Loaded, Record, Value};

/// How often the opening is tried: a gateway that moves its log into tables meanwhile takes files away.
const OPENINGS_MAX: usize = 5;

/// See the module. Everything here blocks: not for a reactor.
pub struct ReadOnlyStore {
    database: Database,
    shard_count: ShardCount,
}

impl ReadOnlyStore {
    /// Reads the directory at `path`, whether or not a process uses it.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the directory.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (shard_count, database) = directory::look(path)?;
        let mut failed = None;
        for _opening in 0..OPENINGS_MAX {
            match Database::open_read_only(&database, shard_count) {
                Ok(database) => return Ok(Self { database, shard_count }),
                Err(error) => failed = Some(error),
            }
        }
        let reason = failed.map_or_else(String::new, rocksdb::Error::into_string);
        Err(OpenError::Database { path: database, reason })
    }

    /// How many shards the directory was made with.
    pub fn shard_count(&self) -> ShardCount {
        self.shard_count
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`ReadError::Disk`]; [`ReadError::Foreign`] for a damaged one, or one of a newer version, which is left as it is.
    pub fn load<R: Record>(&self, shard: ShardId, key: &Key) -> Result<Option<Loaded<R>>, ReadError> {
        self.database.get(shard, key)?.map(Self::validate).transpose()
    }

    /// Reads at most `limit` rows of a range.
    ///
    /// # Errors
    /// [`ReadError::Disk`] or [`ReadError::Foreign`].
    pub fn scan(
        &self,
        shard: ShardId,
        range: KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Page, ReadError> {
        self.database.scan(shard, &ScanRequest { range, limit, reverse })
    }

    /// Makes a row of a scan a record.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn validate<R: Record>(value: Value) -> Result<Loaded<R>, ReadError> {
        Loaded::new(value).map_err(|error| ReadError::Foreign { reason: error.to_string() })
    }
}

impl std::fmt::Debug for ReadOnlyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnlyStore").field("shards", &self.shard_count.get()).finish_non_exhaustive()
    }
}
