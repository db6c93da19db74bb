//! The sessions of one core's users, in memory, read in place.
//!
//! An entry is a [`Session`], validated bytes all of it: nothing is deserialised to read one. The
//! cache is bounded in bytes and in entries and gives up by CLOCK: a hand goes round the slots, takes the first
//! entry that was not read since the hand last passed, and clears the mark of those that were. A hit is one look-up
//! and one flag, without the list surgery of an exact LRU.
//!
//! Invariants:
//! - `bytes` is the sum of what the entries cost and never exceeds `bytes_max`;
//! - `index` leads to exactly the occupied slots, `free` to the empty ones;
//! - an entry is gone from the moment it expires, as the caller's clock tells.

use hashbrown::HashMap;
use sluice_protocols::ids::{SessionId, UserId};

use crate::session::Session;

/// What an entry costs besides its record's bytes: slot, index entry and allocation, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// How much a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCacheLimits {
    pub bytes_max: usize,
    pub entries_max: usize,
}

/// What a cache counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCacheStats {
    pub hits: u64,
    pub misses: u64,
    /// Entries given up for others.
    pub evictions: u64,
    /// Entries dropped because their time was over.
    pub expired: u64,
    /// Records not taken because they alone are over the limit.
    pub refused: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SessionCache {
    limits: SessionCacheLimits,
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    index: HashMap<SessionId, usize, foldhash::fast::RandomState>,
    hand: usize,
    bytes: usize,
    stats: SessionCacheStats,
}

#[derive(Debug)]
struct Entry {
    id: SessionId,
    session: Session,
    expires_ms: u64,
    /// Read since the hand last passed.
    read: bool,
}

impl Entry {
    fn cost(&self) -> usize {
        self.session.bytes() + ENTRY_OVERHEAD_BYTES
    }
}

impl SessionCache {
    /// An empty cache. With a limit of 0 it never holds anything.
    pub fn new(limits: SessionCacheLimits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            hand: 0,
            bytes: 0,
            stats: SessionCacheStats::default(),
        }
    }

    /// Calls `look` with the session in place, when it is here and has not expired at `now_ms`. The caller checks
    /// that the session belongs to the user who asks.
    pub fn read<T>(&mut self, id: &SessionId, now_ms: u64, look: impl FnOnce(&Session) -> T) -> Option<T> {
        let Some(slot) = self.live(id, now_ms) else {
            self.stats.misses += 1;
            return None;
        };
        self.stats.hits += 1;
        let entry = self.slots[slot].as_mut().expect("the index leads to occupied slots");
        entry.read = true;
        Some(look(&entry.session))
    }

    /// Puts a session in, over what was there for its id. Gives the older ones up to make room; a session over the
    /// limit by itself, or already expired at `now_ms`, is not kept, nor is what was there.
    pub fn insert(&mut self, session: Session, now_ms: u64) {
        let archived = session.record();
        let (id, expires_ms) = (SessionId::from_bytes(archived.id), archived.expires_ms.to_native());
        self.remove(&id);
        // A record that just arrived has not been read: one that never is goes at the hand's first pass.
        let entry = Entry { id, session, expires_ms, read: false };
        if expires_ms <= now_ms {
            self.stats.expired += 1;
        } else if entry.cost() > self.limits.bytes_max || self.limits.entries_max == 0 {
            self.stats.refused += 1;
        } else {
            self.make_room(entry.cost());
            self.occupy(entry);
        }
    }

    /// Drops a session; says whether it was here.
    pub fn remove(&mut self, id: &SessionId) -> bool {
        match self.index.get(id) {
            Some(&slot) => {
                self.vacate(slot);
                true
            }
            None => false,
        }
    }

    /// Drops the sessions of a user who is erased. Walks the cache.
    pub fn remove_user(&mut self, user: &UserId) {
        let is_theirs = |entry: &Entry| entry.session.record().user == *user.as_bytes();
        let slots: Vec<usize> =
            (0..self.slots.len()).filter(|slot| self.slots[*slot].as_ref().is_some_and(is_theirs)).collect();
        slots.into_iter().for_each(|slot| self.vacate(slot));
    }

    /// Drops everything, as when the shards of this core move.
    pub fn clear(&mut self) {
        *self = Self { stats: self.stats, ..Self::new(self.limits) };
    }

    /// Sessions held, expired ones that nobody asked for included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes held, overhead included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was counted since the cache was made.
    pub fn stats(&self) -> SessionCacheStats {
        self.stats
    }

    /// The slot of an entry that has not expired; one that has is dropped.
    fn live(&mut self, id: &SessionId, now_ms: u64) -> Option<usize> {
        let slot = *self.index.get(id)?;
        let expires_ms = self.slots[slot].as_ref().map_or(0, |entry| entry.expires_ms);
        if expires_ms > now_ms {
            return Some(slot);
        }
        self.stats.expired += 1;
        self.vacate(slot);
        None
    }

    /// Gives entries up until one of `cost` bytes fits.
    fn make_room(&mut self, cost: usize) {
        // Terminates: the first round clears every mark, the second takes something; `cost` alone fits.
        while self.bytes + cost > self.limits.bytes_max || self.index.len() >= self.limits.entries_max {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            match &mut self.slots[slot] {
                Some(entry) if entry.read => entry.read = false,
                Some(_) => {
                    self.vacate(slot);
                    self.stats.evictions += 1;
                }
                None => {}
            }
        }
    }

    fn occupy(&mut self, entry: Entry) {
        self.bytes += entry.cost();
        let id = entry.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        };
        self.index.insert(id, slot);
    }

    fn vacate(&mut self, slot: usize) {
        let entry = self.slots[slot].take().expect("only occupied slots are vacated");
        self.bytes -= entry.cost();
        self.index.remove(&entry.id);
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Loaded, SessionRecord, TurnRecordV1};
    use proptest::prelude::*;
    use sluice_protocols::ids::UserId;
    use std::collections::HashMap as Model;

    fn session(id: u8, next_turn: u32, expires_ms: u64) -> Session {
        session_with(id, next_turn, expires_ms, Vec::new())
    }

    fn session_with(id: u8, next_turn: u32, expires_ms: u64, turns: Vec<TurnRecordV1>) -> Session {
        let (id, user) = (SessionId::from_bytes([id; 16]), UserId::from_bytes([1; 16]));
        let handles = [0; 3];
        let record = SessionRecord { id, user, created_ms: 0, expires_ms, next_turn, handles, turns };
        Session::new(Loaded::of(&record).unwrap(), []).unwrap()
    }

    fn id(byte: u8) -> SessionId {
        SessionId::from_bytes([byte; 16])
    }

    fn cache(entries: usize) -> SessionCache {
        SessionCache::new(SessionCacheLimits { bytes_max: 1 << 20, entries_max: entries })
    }

    fn turn(cache: &mut SessionCache, byte: u8) -> Option<u32> {
        cache.read(&id(byte), 0, |session| session.record().next_turn.to_native())
    }

    #[test]
    fn a_session_is_read_in_place_and_replaced_by_a_newer_one() {
        let mut cache = cache(4);
        assert_eq!(turn(&mut cache, 1), None);
        cache.insert(session(1, 5, 100), 0);
        assert_eq!(turn(&mut cache, 1), Some(5));
        cache.insert(session(1, 6, 100), 0);
        assert_eq!(turn(&mut cache, 1), Some(6));
        assert_eq!(cache.len(), 1);
        assert_eq!((cache.stats().hits, cache.stats().misses), (2, 1));
    }

    #[test]
    fn what_was_read_outlives_what_was_not() {
        let mut cache = cache(2);
        cache.insert(session(1, 1, 100), 0);
        cache.insert(session(2, 1, 100), 0);
        turn(&mut cache, 1);
        cache.insert(session(3, 1, 100), 0);
        assert!(turn(&mut cache, 1).is_some());
        assert!(turn(&mut cache, 2).is_none());
        assert_eq!(cache.stats().evictions, 1);
    }

    #[test]
    fn a_session_is_gone_the_millisecond_it_expires() {
        let mut cache = cache(2);
        cache.insert(session(1, 1, 100), 0);
        assert!(cache.read(&id(1), 99, |_| ()).is_some());
        assert!(cache.read(&id(1), 100, |_| ()).is_none());
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.insert(session(1, 1, 100), 100);
        assert!(cache.is_empty());
        assert_eq!(cache.stats().expired, 2);
    }

    #[test]
    fn a_session_over_the_limit_is_refused_and_evicts_nobody() {
        let small = session(1, 1, 100);
        let limits = SessionCacheLimits { bytes_max: small.bytes() + ENTRY_OVERHEAD_BYTES, entries_max: 9 };
        let mut cache = SessionCache::new(limits);
        cache.insert(small, 0);
        let large = TurnRecordV1 {
            number: 1,
            task: sluice_protocols::ids::TaskId::new(0, [0; 10]),
            command: "x".repeat(4_096),
            answer: None,
            state: 0,
            at_ms: 0,
            items: Vec::new(),
        };
        cache.insert(session_with(2, 2, 100, vec![large]), 0);
        assert!(turn(&mut cache, 1).is_some() && turn(&mut cache, 2).is_none());
        assert_eq!(cache.stats().refused, 1);
    }

    #[test]
    fn a_cache_of_nothing_holds_nothing() {
        let mut cache = cache(0);
        cache.insert(session(1, 1, 100), 0);
        assert!(cache.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u32, u64),
        Read(u8),
        Remove(u8),
        Wait(u64),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..20, any::<u32>(), 0u64..100).prop_map(|(id, turn, life)| Step::Insert(id, turn, life)),
            8 => (0u8..20).prop_map(Step::Read),
            2 => (0u8..20).prop_map(Step::Remove),
            2 => (0u64..20).prop_map(Step::Wait),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a map that forgets nothing: a hit is what was last put in and is still valid, the limits hold,
        /// and without pressure nothing is missed.
        #[test]
        fn agrees_with_a_model(steps in proptest::collection::vec(step(), 1..200), entries in 0usize..24) {
            let cost = session(0, 0, 1).bytes() + ENTRY_OVERHEAD_BYTES;
            let limits = SessionCacheLimits { bytes_max: cost * 20, entries_max: entries };
            let mut cache = SessionCache::new(limits);
            let mut model: Model<u8, (u32, u64)> = Model::new();
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Insert(id, turn, life) => {
                        cache.insert(session(id, turn, now_ms + life), now_ms);
                        model.insert(id, (turn, now_ms + life));
                    }
                    Step::Read(byte) => {
                        let found = cache.read(&id(byte), now_ms, |session| session.record().next_turn.to_native());
                        let expected = model.get(&byte).filter(|(_, expires)| *expires > now_ms).map(|(turn, _)| *turn);
                        prop_assert!(found == expected || (found.is_none() && entries < 20));
                    }
                    Step::Remove(byte) => {
                        cache.remove(&id(byte));
                        model.remove(&byte);
                    }
                    Step::Wait(ms) => now_ms += ms,
                    Step::Clear => {
                        cache.clear();
                        model.clear();
                    }
                }
                prop_assert!(cache.bytes() <= limits.bytes_max && cache.len() <= entries);
                prop_assert_eq!(cache.bytes(), cache.slots.iter().flatten().map(Entry::cost).sum::<usize>());
                prop_assert_eq!(cache.len() + cache.free.len(), cache.slots.len());
            }
        }
    }
}
