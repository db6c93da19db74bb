//! When users and their keys were last here: kept in memory, and written now and then.
//!
//! Invariants:
//! - a user's record is written by the core that owns the user, at most once in [`WRITTEN_EVERY`] for each key and for
//!   the user's tokens together, and never while a request waits for it;
//! - at most [`WRITES_MAX`] of a core's writes are under way; what has no place is written with a later use.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::Duration;

use sluice_protocols::ids::{KeyId, ShardId, UserId};
use sluice_store::record::{ActivityRecord, KeyUse, encode};
use sluice_store::{Batch, CoreStore, Key, ReadError};

use super::{Credential, Principal};
use crate::generations::Generations;

/// How much later than a use the store may know of it.
pub(crate) const WRITTEN_EVERY: Duration = Duration::from_secs(15 * 60);
/// Writes under way.
const WRITES_MAX: usize = 256;
/// Credentials whose last use is remembered.
const SEEN_MAX: usize = 65_536;
/// Keys in a user's record; the ones longest unused go. More than a user may have.
const KEYS_MAX: usize = 100;

/// The credentials one core has seen used.
pub(crate) struct Activity {
    seen: RefCell<Generations<Seen>>,
    hasher: foldhash::fast::RandomState,
    writes: Cell<usize>,
}

struct Seen {
    user: UserId,
    credential: Credential,
    used_ms: u64,
    written_ms: u64,
}

impl Activity {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            seen: RefCell::new(Generations::new(SEEN_MAX)),
            hasher: foldhash::fast::RandomState::default(),
            writes: Cell::new(0),
        })
    }

    /// Notes a use; has it written if that was not done lately. Says whether it had to be left for later.
    pub(crate) fn note(self: &Rc<Self>, store: &CoreStore, who: &Principal, unix_ms: u64) -> bool {
        let every_ms = u64::try_from(WRITTEN_EVERY.as_millis()).unwrap_or(u64::MAX);
        let is_it = |seen: &Seen| seen.user == who.user && seen.credential == who.credential;
        let hash = self.hasher.hash_one((who.user, who.credential));
        let mut seen = self.seen.borrow_mut();
        let written_ms = match seen.find(hash, is_it) {
            Some(entry) => {
                entry.used_ms = entry.used_ms.max(unix_ms);
                entry.written_ms
            }
            None => 0,
        };
        // A clock that stepped back writes nothing anew.
        if written_ms > 0 && unix_ms < written_ms.saturating_add(every_ms) {
            return false;
        }
        if self.writes.get() >= WRITES_MAX {
            return true;
        }
        let entry =
            Seen { user: who.user, credential: who.credential, used_ms: unix_ms, written_ms: unix_ms };
        seen.insert(hash, entry, is_it);
        drop(seen);
        self.writes.set(self.writes.get() + 1);
        let (activity, store) = (Rc::clone(self), store.clone());
        let (user, shard, credential) = (who.user, who.shard, who.credential);
        sluice_core::spawn(async move {
            if !write(&store, shard, user, credential, unix_ms).await {
                activity.forget(user, credential);
            }
            activity.writes.set(activity.writes.get() - 1);
        });
        false
    }

    /// Drops what is remembered of a user who is erased.
    pub(crate) fn forget_user(&self, user: &UserId) {
        self.seen.borrow_mut().retain(|seen| seen.user != *user);
    }

    /// The next use writes again.
    fn forget(&self, user: UserId, credential: Credential) {
        let hash = self.hasher.hash_one((user, credential));
        let is_it = |seen: &Seen| seen.user == user && seen.credential == credential;
        self.seen.borrow_mut().remove(hash, is_it);
    }

    /// When a key was last used: what memory knows, or else what was written.
    pub(crate) fn key_used_ms(
        &self,
        user: UserId,
        key: KeyId,
        written: Option<&ActivityRecord>,
    ) -> Option<u64> {
        let written = written.and_then(|record| record.keys.iter().find(|known| known.key == key));
        let credential = Credential::Key(key);
        self.used_ms(user, credential).into_iter().chain(written.map(|known| known.used_ms)).max()
    }

    fn used_ms(&self, user: UserId, credential: Credential) -> Option<u64> {
        let hash = self.hasher.hash_one((user, credential));
        let is_it = |seen: &Seen| seen.user == user && seen.credential == credential;
        self.seen.borrow_mut().find(hash, is_it).map(|seen| seen.used_ms)
    }
}

/// What was written of a user.
pub(crate) async fn written(
    store: &CoreStore,
    shard: ShardId,
    user: &UserId,
) -> Result<Option<ActivityRecord>, ReadError> {
    Ok(store.load::<ActivityRecord>(shard, &Key::activity(user)).await?.map(|record| record.to_record()))
}

/// Says whether it was written.
async fn write(
    store: &CoreStore,
    shard: ShardId,
    user: UserId,
    credential: Credential,
    unix_ms: u64,
) -> bool {
    // Of two keys of one user that are used at once one may be lost here; memory knows it, and a later write.
    let record = match written(store, shard, &user).await {
        Ok(record) => record.unwrap_or(ActivityRecord { active_ms: 0, keys: Vec::new() }),
        // It is told and counted where it was read; what is damaged begins anew.
        Err(ReadError::Quarantined { .. }) => ActivityRecord { active_ms: 0, keys: Vec::new() },
        Err(_) => return false,
    };
    let Ok(value) = encode(&with_use(record, credential, unix_ms)) else { return false };
    let mut batch = Batch::new(shard);
    batch.put(&Key::activity(&user), value.as_bytes());
    store.commit(batch).await.is_ok()
}

fn with_use(mut record: ActivityRecord, credential: Credential, unix_ms: u64) -> ActivityRecord {
    record.active_ms = record.active_ms.max(unix_ms);
    if let Credential::Key(key) = credential {
        record.keys.retain(|known| known.key != key);
        record.keys.push(KeyUse { key, used_ms: unix_ms });
        record.keys.sort_by_key(|known| std::cmp::Reverse(known.used_ms));
        record.keys.truncate(KEYS_MAX);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_used_last_are_kept() {
        let mut record = ActivityRecord { active_ms: 5, keys: Vec::new() };
        let key = |number: u64| KeyId::from_bytes(number.to_be_bytes());
        for number in 0..=KEYS_MAX as u64 {
            record = with_use(record, Credential::Key(key(number)), 10 + number);
        }
        record = with_use(record, Credential::Key(key(1)), 1_000);
        record = with_use(record, Credential::Token(key(1), crate::auth::Signer::from_bytes([0; 16])), 900);
        assert_eq!((record.active_ms, record.keys.len()), (1_000, KEYS_MAX));
        assert_eq!(record.keys[0], KeyUse { key: key(1), used_ms: 1_000 });
        assert!(record.keys.iter().all(|known| known.key != key(0)));
    }
}
