//! What happens to a value that fails validation: it is never trusted and never dropped.
//!
//! The bytes are copied, in the same family, to a key made of their hash and their original key
//! ([`crate::key`]), so the same damage is kept once however often it is met and survives an overwrite of the
//! original, which stays where it is. A record of a newer schema is not damaged: it is refused and left alone.
//!
//! To look at them: scan [`range`] of a shard; [`original_key`] tells where a row came from.

use sluice_protocols::ids::ShardId;

use crate::batch::Batch;
use crate::database::ReadError;
use crate::key::{Key, KeyRange, Kind};
use crate::log::CommitError;
use crate::record::{Loaded, Record, RecordError, Value};
use crate::stats::StoreStats;

/// All quarantined values of a shard.
pub fn range() -> KeyRange {
    KeyRange::kind(Kind::Quarantine)
}

/// Where a quarantined value came from; `None` when `key` is not of quarantine.
pub fn original_key(key: &Key) -> Option<Key> {
    (key.kind() == Kind::Quarantine).then(|| Key::from_bytes(&key.as_bytes()[9..]).ok()).flatten()
}

/// A value that was refused; when it is damaged, also where a copy of it goes and the batch that puts it there.
pub(crate) struct RefusedValue {
    pub(crate) error: ReadError,
    pub(crate) copy: Option<(Key, Batch)>,
}

/// Makes a value a record, or says what to do about it. Counts and logs what is wrong.
pub(crate) fn validate<R: Record>(
    stats: &StoreStats,
    shard: ShardId,
    key: &Key,
    value: Value,
) -> Result<Loaded<R>, Box<RefusedValue>> {
    debug_assert!(R::KINDS.contains(&key.kind()), "{key:?} leads to no {} record", R::NAME);
    let (error, kept) = match Loaded::new_or_back(value) {
        Ok(loaded) => return Ok(loaded),
        Err(refused) => *refused,
    };
    let key = key.clone();
    if matches!(error, RecordError::Newer { .. }) {
        stats.records.newer.add(1);
        tracing::warn!(shard = shard.index(), ?key, %error, "record refused");
        return Err(Box::new(RefusedValue { error: ReadError::Newer { key, error }, copy: None }));
    }
    stats.records.damaged.add(1);
    tracing::error!(shard = shard.index(), ?key, %error, bytes = kept.as_bytes().len(), "record quarantined");
    let mut batch = Batch::new(shard);
    let copy = Key::quarantine(&key, kept.as_bytes());
    batch.put(&copy, kept.as_bytes());
    Err(Box::new(RefusedValue { error: ReadError::Quarantined { key, error }, copy: Some((copy, batch)) }))
}

/// Counts what became of a copy.
pub(crate) fn count_copy(stats: &StoreStats, error: Option<&CommitError>) {
    match error {
        None => stats.records.quarantined.add(1),
        Some(error) => {
            stats.records.quarantine_failed.add(1);
            tracing::error!(%error, "copy of a damaged record could not be written; the original still stands");
        }
    }
}
