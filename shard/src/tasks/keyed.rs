//! Requests that carry an `Idempotency-Key`: the first makes its tasks, a later one is told of them.
//!
//! A key of a change at Google without a task is written alone: see [`crate::routes::once`].
//!
//! Invariants: what a key stands for is written in the batch of the tasks it made, so there is never one without the
//! other; while that is on its way the key is held, and a second request is told so.

use sluice_protocols::ids::{ShardId, UserId};
use sluice_store::record::IdempotencyRecord;
use sluice_store::{Key, ReadError};

use super::Tasks;

/// A key that is held until this is dropped.
pub(crate) struct HeldKey<'a> {
    tasks: &'a Tasks,
    key: Key,
}

impl HeldKey<'_> {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for HeldKey<'_> {
    fn drop(&mut self) {
        self.tasks.keys_in_flight.borrow_mut().remove(&self.key);
    }
}

/// What a key stands for.
pub(crate) enum KeyUse<'a> {
    /// What is written of it, if it was used before; it is held for the caller.
    Held(HeldKey<'a>, Option<IdempotencyRecord>),
    /// Somebody else holds it.
    InFlight,
}

impl Tasks {
    /// Looks a user's key up; `hash` is the SHA-256 of it.
    pub(crate) async fn key_use(
        &self,
        user: UserId,
        shard: ShardId,
        hash: &[u8; 32],
    ) -> Result<KeyUse<'_>, ReadError> {
        let Some(held) = self.hold_key(Key::idempotency(&user, hash)) else { return Ok(KeyUse::InFlight) };
        let record = self.remembered(shard, &held).await?;
        if record.is_some() {
            self.metrics.idempotency_hits.add(1);
        }
        Ok(KeyUse::Held(held, record))
    }

    /// Holds a key, unless somebody else does.
    pub(super) fn hold_key(&self, key: Key) -> Option<HeldKey<'_>> {
        let is_free = self.keys_in_flight.borrow_mut().insert(key.clone());
        is_free.then(|| HeldKey { tasks: self, key })
    }

    /// What a held key stands for, as long as its time is not over.
    pub(super) async fn remembered(
        &self,
        shard: ShardId,
        held: &HeldKey<'_>,
    ) -> Result<Option<IdempotencyRecord>, ReadError> {
        let record = self.store.load::<IdempotencyRecord>(shard, held.key()).await?;
        Ok(record.map(|record| record.to_record()).filter(|record| !self.is_forgotten(record)))
    }

    /// Whether a key's time is over.
    pub(super) fn is_forgotten(&self, record: &IdempotencyRecord) -> bool {
        let life_ms = u64::try_from(self.idempotency_life.as_millis()).unwrap_or(u64::MAX);
        record.created_ms.saturating_add(life_ms) <= self.clock.unix_ms()
    }
}
