//! The commit log: the one seam through which all changes pass, as bytes.
//!
//! Whoever changes a shard hands encoded batches ([`crate::batch`]) to a [`CommitLog`] and hears, once each, what
//! became of them. Today [`crate::writer::RocksCommitLog`] stands behind it; a replicated log can.
//!
//! Invariants:
//! - the log fixes the order of a shard's batches and numbers them 1, 2, 3, ... without a gap ([`Sequence`]);
//! - batches one caller submits for a shard keep their order;
//! - a receipt with `Ok` means: on disk as [`crate::Durability`] says, and visible to reads;
//! - every submission taken gets exactly one receipt;
//! - after a failed write nothing more is taken: what is on disk is then unknown until the directory is opened again.

use std::sync::Arc;
use std::time::Instant;

use sluice_protocols::ids::ShardId;
use smallvec::SmallVec;

use crate::batch::{BATCH_BYTES_MAX, Batch};
use crate::inbox::Inbox;

/// Which batch of its shard: 1 for the first ever, 0 for none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The sequence of the batch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a shard does not see 2^64 batches"))
    }
}

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a commit did not come true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written. Answer 503 and try again later.
    #[error("the commit queue is full")]
    Overloaded,
    /// Nothing was written. Split the change.
    #[error("a batch of {bytes} bytes is over the limit of {BATCH_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// Whether it was written is unknown: only opening the directory again tells. Promise nothing.
    #[error("the write failed, whether it took effect is unknown until a restart: {reason}")]
    Unknown { reason: Arc<str> },
    /// Nothing was written, nor will anything be: an earlier write failed. Restart the process.
    #[error("storage takes no more writes since one failed: {reason}")]
    Stopped { reason: Arc<str> },
    /// Nothing was written: the store is being closed.
    #[error("the store is closed")]
    Closed,
}

/// One shard's batch on its way through the log.
#[derive(Debug)]
pub struct Entry {
    /// The shard the bytes are for.
    pub shard: ShardId,
    /// An encoded batch.
    pub bytes: Vec<u8>,
    /// Given by the log where it fixes the order.
    pub sequence: Sequence,
}

impl Entry {
    /// An entry not yet numbered.
    pub fn new(batch: Batch) -> Self {
        Self { shard: batch.shard(), bytes: batch.into_bytes(), sequence: Sequence::ZERO }
    }
}

/// What one caller hands over at once; lands in the log as a whole, in order.
#[derive(Debug)]
pub struct Submission {
    pub(crate) entries: Vec<Entry>,
    pub(crate) ticket: u64,
    pub(crate) reply: Arc<Inbox>,
    pub(crate) handed_over: Instant,
}

impl Submission {
    /// `reply` gets one [`Receipt`] with this `ticket`.
    pub fn new(entries: Vec<Entry>, ticket: u64, reply: Arc<Inbox>) -> Self {
        Self { entries, ticket, reply, handed_over: Instant::now() }
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes.len()).sum()
    }
}

/// What became of a submission.
#[derive(Debug)]
pub struct Receipt {
    pub ticket: u64,
    /// The sequences of the entries, in their order.
    pub outcome: Result<SmallVec<[Sequence; 4]>, CommitError>,
}

/// A submission that was not taken, and why; there will be no receipt.
#[derive(Debug)]
pub struct Rejected {
    pub error: CommitError,
    pub submission: Submission,
}

/// Where changes go.
pub trait CommitLog: Send + Sync + 'static {
    /// Takes a submission or gives it back, at once: never waits, never does IO.
    ///
    /// # Errors
    /// [`CommitError::Overloaded`], [`CommitError::Stopped`] or [`CommitError::Closed`], with the submission.
    fn submit(&self, submission: Submission) -> Result<(), Rejected>;

    /// Submissions waiting now.
    fn depth(&self) -> usize;
}
