//! The bodies of a core's cache, bounded in bytes. Pure: the time is handed in.
//!
//! What stays is decided as S3-FIFO does: a newcomer waits in a small queue and moves to the main one only when it was
//! asked for meanwhile, so a user who reads through a thousand mails once does not push out what is read daily. What
//! the small queue lets go is remembered by its hash alone; when it comes again it goes to the main queue at once.
//!
//! Invariants:
//! - The bytes of all entries, with what was made of them, their keys and [`OVERHEAD_BYTES`] each, never exceed
//!   `bytes_max`.
//! - A user has at most [`ENTRIES_PER_USER_MAX`] entries, so dropping what a change made wrong looks at no more.
//! - Nothing is given out after `fresh + stale`.

use std::any::Any;
use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap, HashSet};
use sluice_protocols::google::resource::below_root;
use sluice_protocols::ids::UserId;
use sluice_protocols::plan::Service;

use super::stats::CacheStats;

/// What an entry takes beside body and key: its record, its places in queues and tables.
pub(super) const OVERHEAD_BYTES: usize = 256;
/// Entries of one user; beyond them the user's oldest goes.
const ENTRIES_PER_USER_MAX: usize = 512;
/// The share of the budget that newcomers may take: a tenth.
const SMALL_SHARE: usize = 10;
/// A single entry takes at most this share of the budget.
const ENTRY_SHARE: usize = 8;
/// Uses are counted up to here.
const USES_MAX: u8 = 3;

/// What was read: for whom, where, and exactly how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ReadKey {
    pub(crate) user: UserId,
    pub(crate) service: Service,
    /// Path and query.
    pub(crate) path: Box<str>,
}

impl ReadKey {
    /// The path below the service's root.
    pub(crate) fn resource(&self) -> &str {
        below_root(self.service, &self.path)
    }
}

/// A key to look up by.
#[derive(Clone, Copy, Hash)]
pub(super) struct KeyRef<'a> {
    pub(super) user: UserId,
    pub(super) service: Service,
    pub(super) path: &'a str,
}

impl KeyRef<'_> {
    pub(super) fn to_key(self) -> ReadKey {
        ReadKey { user: self.user, service: self.service, path: self.path.into() }
    }
}

impl Equivalent<Rc<ReadKey>> for KeyRef<'_> {
    fn equivalent(&self, key: &Rc<ReadKey>) -> bool {
        (self.user, self.service, self.path) == (key.user, key.service, &*key.path)
    }
}

/// An entry, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(u64);

/// An answer that is kept, with what was made of it.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) made: Option<Rc<dyn Any>>,
    pub(super) entry: EntryId,
}

/// What is there for a key.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Fresh(Body),
    /// It may be given out while it is read anew.
    Stale(Body),
    Nothing,
}

/// How long an entry is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) fresh: Duration,
    /// On top of that, while it is read anew.
    pub(super) stale: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Entry {
    key: Rc<ReadKey>,
    body: Bytes,
    /// What readers made of the body, and the bytes of that.
    made: Option<Rc<dyn Any>>,
    made_bytes: usize,
    stored_at: Instant,
    uses: u8,
    queue: Queue,
}

impl Entry {
    fn bytes(&self) -> usize {
        entry_bytes(&self.key, self.body.len()) + self.made_bytes
    }
}

fn entry_bytes(key: &ReadKey, body_bytes: usize) -> usize {
    body_bytes + key.path.len() + OVERHEAD_BYTES
}

/// See the module.
pub(super) struct Store {
    bytes_max: usize,
    life: Life,
    bytes: usize,
    small_bytes: usize,
    next_id: u64,
    entries: HashMap<u64, Entry, RandomState>,
    ids: HashMap<Rc<ReadKey>, u64, RandomState>,
    by_user: HashMap<UserId, VecDeque<u64>, RandomState>,
    /// Oldest first; ids of entries that are gone or have moved are void.
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, RandomState>,
    hasher: RandomState,
}

impl Store {
    pub(super) fn new(bytes_max: usize, life: Life) -> Self {
        Self {
            bytes_max,
            life,
            bytes: 0,
            small_bytes: 0,
            next_id: 0,
            entries: HashMap::default(),
            ids: HashMap::default(),
            by_user: HashMap::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: HashSet::default(),
            hasher: RandomState::default(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&mut self, key: &KeyRef<'_>, now: Instant, stats: &CacheStats) -> Found {
        let Some(&id) = self.ids.get(key) else { return Found::Nothing };
        let Some(entry) = self.entries.get_mut(&id) else { return Found::Nothing };
        let age = now.saturating_duration_since(entry.stored_at);
        if age >= self.life.fresh + self.life.stale {
            stats.of(key.service).expired.add(1);
            self.remove(id, stats);
            return Found::Nothing;
        }
        entry.uses = (entry.uses + 1).min(USES_MAX);
        let body = Body { bytes: entry.body.clone(), made: entry.made.clone(), entry: EntryId(id) };
        if age < self.life.fresh { Found::Fresh(body) } else { Found::Stale(body) }
    }

    /// Keeps a copy of `body`, unless it is too large.
    pub(super) fn put(&mut self, key: ReadKey, body: &[u8], now: Instant, stats: &CacheStats) {
        if let Some(&id) = self.ids.get(&key) {
            self.remove(id, stats);
        }
        let bytes = entry_bytes(&key, body.len());
        if bytes > self.bytes_max / ENTRY_SHARE {
            stats.of(key.service).too_large.add(1);
            return;
        }
        self.make_place_of_user(key.user, stats);
        while self.bytes + bytes > self.bytes_max && self.evict(stats) {}
        let hash = self.hasher.hash_one(&key);
        let queue = if self.ghost_set.remove(&hash) { Queue::Main } else { Queue::Small };
        let (id, key) = (self.next_id, Rc::new(key));
        self.next_id += 1;
        match queue {
            Queue::Small => {
                self.small.push_back(id);
                self.small_bytes += bytes;
            }
            Queue::Main => self.main.push_back(id),
        }
        self.bytes += bytes;
        stats.of(key.service).grow(bytes);
        self.by_user.entry(key.user).or_default().push_back(id);
        self.ids.insert(Rc::clone(&key), id);
        // A copy of its own: the body that came may be a part of something larger.
        let body = Bytes::copy_from_slice(body);
        self.entries
            .insert(id, Entry { key, body, made: None, made_bytes: 0, stored_at: now, uses: 0, queue });
    }

    /// Keeps what was made of an entry's body with it, if the entry is there still and that is not too large for one.
    pub(super) fn attach(
        &mut self,
        entry: EntryId,
        made: Rc<dyn Any>,
        made_bytes: usize,
        stats: &CacheStats,
    ) {
        let EntryId(id) = entry;
        let Some(entry) = self.entries.get(&id) else { return };
        let before = entry.made_bytes;
        if entry.bytes() - before + made_bytes > self.bytes_max / ENTRY_SHARE {
            return;
        }
        while self.bytes - before + made_bytes > self.bytes_max && self.evict(stats) {}
        // It may be what had to go.
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.made, entry.made_bytes) = (Some(made), made_bytes);
        let kind = stats.of(entry.key.service);
        kind.shrink(before);
        kind.grow(made_bytes);
        self.bytes = self.bytes - before + made_bytes;
        if entry.queue == Queue::Small {
            self.small_bytes = self.small_bytes - before + made_bytes;
        }
    }

    /// Drops a user's entries for which `is_dirty` holds; how many.
    pub(super) fn drop_user(
        &mut self,
        user: &UserId,
        stats: &CacheStats,
        is_dirty: impl Fn(&ReadKey) -> bool,
    ) -> usize {
        let Some(ids) = self.by_user.get(user) else { return 0 };
        let dirty = |id: &&u64| self.entries.get(*id).is_some_and(|entry| is_dirty(&entry.key));
        let dirty: Vec<u64> = ids.iter().filter(dirty).copied().collect();
        for id in &dirty {
            if let Some(service) = self.remove(*id, stats) {
                stats.of(service).invalidated.add(1);
            }
        }
        dirty.len()
    }

    fn make_place_of_user(&mut self, user: UserId, stats: &CacheStats) {
        let oldest = match self.by_user.get(&user) {
            Some(ids) if ids.len() >= ENTRIES_PER_USER_MAX => ids.front().copied(),
            _ => None,
        };
        if let Some(oldest) = oldest {
            self.evict_entry(oldest, stats);
        }
    }

    /// Lets one entry go; `false` when there is none.
    fn evict(&mut self, stats: &CacheStats) -> bool {
        // Each round voids a place, moves an entry to the main queue, takes a use away, or ends.
        loop {
            let from_small = self.small_bytes * SMALL_SHARE > self.bytes_max || self.main.is_empty();
            let next = if from_small { self.small.pop_front() } else { self.main.pop_front() };
            let Some(id) = next else {
                if self.small.is_empty() && self.main.is_empty() {
                    return false;
                }
                continue;
            };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            match (entry.queue, entry.uses) {
                (Queue::Small, 0) => {
                    let hash = self.hasher.hash_one(&*entry.key);
                    self.remember(hash);
                    self.evict_entry(id, stats);
                    return true;
                }
                (Queue::Small, _) => {
                    self.small_bytes -= entry.bytes();
                    entry.queue = Queue::Main;
                    entry.uses = 0;
                    self.main.push_back(id);
                }
                (Queue::Main, 0) => {
                    self.evict_entry(id, stats);
                    return true;
                }
                (Queue::Main, _) => {
                    entry.uses -= 1;
                    self.main.push_back(id);
                }
            }
        }
    }

    fn remember(&mut self, hash: u64) {
        if self.ghost_set.insert(hash) {
            self.ghosts.push_back(hash);
        }
    }

    fn evict_entry(&mut self, id: u64, stats: &CacheStats) {
        let Some(bytes) = self.entries.get(&id).map(Entry::bytes) else { return };
        if let Some(service) = self.remove(id, stats) {
            stats.of(service).evicted.add(1);
            stats.of(service).evicted_bytes.add(bytes as u64);
        }
    }

    fn remove(&mut self, id: u64, stats: &CacheStats) -> Option<Service> {
        let entry = self.entries.remove(&id)?;
        let bytes = entry.bytes();
        self.ids.remove(&*entry.key);
        self.bytes -= bytes;
        if entry.queue == Queue::Small {
            self.small_bytes -= bytes;
        }
        stats.of(entry.key.service).shrink(bytes);
        if let Some(ids) = self.by_user.get_mut(&entry.key.user) {
            if let Some(at) = ids.iter().position(|other| *other == id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                self.by_user.remove(&entry.key.user);
            }
        }
        self.sweep();
        Some(entry.key.service)
    }

    /// Entries that were dropped leave void places behind; the queues are swept when most of them are void.
    fn sweep(&mut self) {
        while self.ghosts.len() > self.entries.len().max(16) {
            let Some(oldest) = self.ghosts.pop_front() else { break };
            self.ghost_set.remove(&oldest);
        }
        let most = 2 * self.entries.len() + 16;
        if self.small.len() + self.main.len() > most {
            let entries = &self.entries;
            let lives = |id: &u64, queue| entries.get(id).is_some_and(|entry| entry.queue == queue);
            self.small.retain(|id| lives(id, Queue::Small));
            self.main.retain(|id| lives(id, Queue::Main));
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let sum: usize = self.entries.values().map(Entry::bytes).sum();
        assert_eq!(sum, self.bytes);
        assert!(self.bytes <= self.bytes_max, "{} of {}", self.bytes, self.bytes_max);
        let small = self.entries.values().filter(|entry| entry.queue == Queue::Small);
        assert_eq!(small.map(Entry::bytes).sum::<usize>(), self.small_bytes);
        assert_eq!(self.ids.len(), self.entries.len());
        assert_eq!(self.by_user.values().map(VecDeque::len).sum::<usize>(), self.entries.len());
        assert!(self.by_user.values().all(|ids| !ids.is_empty() && ids.len() <= ENTRIES_PER_USER_MAX));
        assert!(self.small.len() + self.main.len() <= 2 * self.entries.len() + 17);
        assert!(self.ghosts.len() <= self.entries.len().max(16) + 1);
    }
}
