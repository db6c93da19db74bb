//! Embedded storage: RocksDB shards, commit writer, reader pool, records, the vault and the session cache.
//!
//! One data directory a node ([`directory`]), one RocksDB in it with a column family a shard, one write-ahead log.
//! Nothing here blocks a reactor:
//!
//! ```text
//! core: CoreStore::commit -> the turn's batches, joined by shard -> CommitLog -> commit writer: one synced write
//!       CoreStore::get    -> memory only, inline -> (not there) reader pool
//!       CoreStore::scan   -> reader pool
//! ```
//!
//! Invariants:
//! - every change goes through [`CommitLog`] as bytes; nothing else writes to the database;
//! - a commit that returned `Ok` is durable and visible;
//! - users' secrets are sealed before they are written ([`vault`]);
//! - values are validated when loaded; what fails is kept aside, never trusted and never dropped;
//! - every queue is bounded, every refusal counted ([`StoreStats`]).

#![deny(unsafe_code)]

pub mod audit;
pub mod batch;
mod config;
mod core_store;
mod database;
pub mod directory;
mod fence;
mod inbox;
pub mod key;
pub mod log;
pub mod quarantine;
mod read_only;
mod reader;
pub mod record;
pub mod session;
pub mod session_cache;
pub mod stats;
mod store;
#[cfg(test)]
mod test_util;
pub mod vault;
mod writer;

pub use audit::{AuditEntry, AuditEvent, AuditFault, AuditHead, AuditWalk};
pub use batch::Batch;
pub use config::{Durability, SCAN_BYTES_MAX, SCAN_ROWS_MAX, StoreConfig};
pub use core_store::{Commit, CoreStore, Driver};
pub use database::{MemoryUse, Page, ReadError};
pub use directory::OpenError;
pub use fence::{FENCED_MAX, FenceFull};
pub use inbox::Inbox;
pub use key::{Key, KeyRange, Kind};
pub use log::{CommitError, CommitLog, Sequence};
pub use read_only::ReadOnlyStore;
pub use record::{Loaded, Record, RecordError, Value};
pub use session::Session;
pub use session_cache::SessionCache;
pub use stats::StoreStats;
pub use store::Store;
pub use vault::{CoreVault, Vault};
