//! What the values are: rkyv records behind one schema byte.
//!
//! ```text
//! value := rkyv archive of the record's type at that schema | schema u8
//! ```
//! The schema stands last, so that the archive begins where the buffer does and keeps its alignment (16 bytes).
//!
//! Invariants:
//! - a record is validated once, when it becomes a [`Loaded`], and read in place from then on;
//! - old schemas stay readable: [`Record::upgrade`] reads every schema this type ever had;
//! - a newer schema is refused, never guessed at;
//! - a secret is written sealed or not at all ([`StoredSecret`]);
//! - what fails validation is never returned as a record. The store keeps the bytes (see [`crate::quarantine`]).

mod account;
mod connection;
mod context;
mod loaded;
mod secret;
mod task;
mod types;
mod webhook;

pub use account::{
    ActivityRecord, ArchivedKeyRecord, ArchivedUserRecord, BrowserSessionRecord, ErasureRecord,
    IdentityRecord, KeyRecord, KeyUse, UserRecord,
};
pub use connection::{
    ArchivedConnectionRecord, ConnectionRecord, ConnectionState, ConsentRecord, ConsentsRecord,
    RevocationRecord,
};
pub use context::{
    ArchivedContextChunkRecord, ContextChunkRecord, ContextDocumentRecord, ContextOrphanRecord,
    ContextSnapshotRecord,
};
pub use loaded::Loaded;
pub use secret::{PlainText, Sealed, StoredSecret};
pub use task::{
    ActingAccount, ArchivedActingAccount, ArchivedIdempotencyRecord, ArchivedKeyedTask, ArchivedTaskRecord,
    IdempotencyRecord, KeyedTask, TaskRecord, WaitsRecord,
};
pub use types::first_turn;
pub use types::{
    ArchivedDataKeyRecord, ArchivedHistoryRecord, ArchivedItemRecord, ArchivedLimitRecord,
    ArchivedLimitStateRecord, ArchivedNameRecord, ArchivedPreferencesRecord, ArchivedSessionRecord,
    ArchivedStepRecord, ArchivedTurnRecord, ArchivedWorkflowRecord, DataKeyRecord, HistoryRecord, ItemRecord,
    LimitRecord, LimitStateRecord, NameRecord, PreferencesRecord, Provider, SESSION_TURNS_MAX, SessionRecord,
    StepRecord, TurnRecord, TurnRecordV1, WorkflowRecord,
};
pub use webhook::{
    ArchivedAttemptRecord, ArchivedAttemptsRecord, ArchivedDeliveryRecord, ArchivedWebhookRecord,
    AttemptRecord, AttemptsRecord, DeliveryRecord, WebhookRecord,
};

use std::cell::Cell;

use rkyv::Archive;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

use crate::batch::VALUE_BYTES_MAX;
use crate::key::Kind;

/// A type that is stored as a value.
///
/// To change a record's fields: keep the old struct under a private name, add one to `SCHEMA`, and read the old
/// one in `upgrade`.
pub trait Record:
    for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>
    + Archive<
        Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
                      + rkyv::Deserialize<Self, HighDeserializer<rancor::Error>>,
    > + Sized
    + 'static
{
    /// What errors and logs call it.
    const NAME: &'static str;
    /// The kinds of key it may stand under.
    const KINDS: &'static [Kind];
    /// The schema written today, from 1.
    const SCHEMA: u8;

    /// Reads an archive of an older `schema` and gives today's record; `None` for a schema there never was.
    ///
    /// `archive` has 16-byte alignment and has not been validated.
    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        let _ = (schema, archive);
        None
    }

    /// Whether all its secrets are sealed. What has one that is not came from an older schema; it can be read, but not
    /// written.
    fn is_sealed(&self) -> bool {
        true
    }
}

/// Why bytes are not the record they should be, or a record cannot become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes fail validation: restore the record, or look at the copy in quarantine.
    #[error("{record} record is damaged: {reason}")]
    Damaged { record: &'static str, reason: String },
    /// Written by a newer Sluice: run that version, or one newer still.
    #[error(
        "{record} record has schema {found}; this version reads up to {known}: run the version that wrote it"
    )]
    Newer { record: &'static str, found: u8, known: u8 },
    /// Make the record smaller: nothing was written.
    #[error("{record} record of {bytes} bytes is over the limit of {VALUE_BYTES_MAX}")]
    TooLarge { record: &'static str, bytes: usize },
    /// Seal the secret first ([`crate::vault`]): nothing was written.
    #[error("{record} record holds a secret that is not sealed")]
    Unsealed { record: &'static str },
}

/// A value as it came from the store: bytes nobody has validated yet, aligned so that they can be.
#[derive(Clone)]
pub struct Value(AlignedVec);

impl Value {
    /// Copies bytes to where a record can be read in place.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut aligned = AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        Self(aligned)
    }

    /// The bytes, schema and all.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_aligned(self) -> AlignedVec {
        self.0
    }
}

impl std::fmt::Debug for Value {
    /// Says the size alone: values hold what users wrote.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

/// The bytes a record is stored as.
///
/// # Errors
/// [`RecordError::TooLarge`] when they would exceed [`VALUE_BYTES_MAX`]; [`RecordError::Unsealed`].
pub fn encode<R: Record>(record: &R) -> Result<Value, RecordError> {
    if record.is_sealed() { archive(record) } else { Err(RecordError::Unsealed { record: R::NAME }) }
}

/// As [`encode`], sealed or not: for what stays in memory.
fn archive<R: Record>(record: &R) -> Result<Value, RecordError> {
    // Serialising into memory fails on lengths beyond 2^31 alone, which is too large as well.
    let too_large = |bytes| RecordError::TooLarge { record: R::NAME, bytes };
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let written = rkyv::api::high::to_bytes_in::<_, rancor::Error>(record, scratch);
    let mut bytes = written.map_err(|_| too_large(usize::MAX))?;
    bytes.push(R::SCHEMA);
    let value =
        if bytes.len() > VALUE_BYTES_MAX { Err(too_large(bytes.len())) } else { Ok(Value::copy_of(&bytes)) };
    if bytes.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(bytes);
    }
    value
}

/// A scratch buffer is kept up to this size; the largest records are rare.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// Where records are written before their length is known: growing a buffer anew for each would copy it several
    /// times, and what is kept of sessions would keep the room it did not need.
    static SCRATCH: Cell<AlignedVec> = Cell::default();
}

/// Validates a value and gives the record, owned. Use [`Loaded`] to read in place instead.
///
/// # Errors
/// As [`Loaded::new`].
pub fn decode<R: Record>(value: Value) -> Result<R, RecordError> {
    Loaded::new(value).map(|loaded| loaded.to_record())
}

#[cfg(test)]
mod tests;
