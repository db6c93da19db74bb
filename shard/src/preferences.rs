//! What users prefer, as their commands need it, and how it is changed.
//!
//! Invariants:
//! - what is shown and used is durable: a change is in the cache after its commit, never before;
//! - a user's changes follow one another, each made of what the one before left;
//! - what a command uses was read from the store at most `preferences_life` ago, and every change of this process since
//!   is in it. A read that was overtaken by a change is not kept.
//!
//! `custom` is not cached: no command needs it, and it is by far the largest.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_protocols::api::{Preferences, PreferencesView, Priority};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_store::record::PreferencesRecord;
use sluice_store::{Batch, CommitError, CoreStore, Key, ReadError};

use crate::clock::timestamp_of;
use crate::env::RunStats;
use crate::generations::Generations;
use crate::holds::Holds;
use crate::run::codes;

/// What commands use of a user's preferences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) time_zone: Option<Box<str>>,
    pub(crate) language: Option<Box<str>>,
    pub(crate) priority: Option<Priority>,
    /// Operations that need a confirmation.
    pub(crate) confirm: Box<[Box<str>]>,
}

struct Entry {
    user: UserId,
    used: Rc<Used>,
    until: Instant,
}

/// Why preferences were not changed.
#[derive(Debug)]
pub(crate) enum Unchanged {
    /// The change is refused.
    Refused(Problem),
    Read(ReadError),
    Commit(CommitError),
}

/// The preferences of one core's users.
pub(crate) struct PreferenceCache {
    store: CoreStore,
    entries: RefCell<Generations<Entry>>,
    hasher: foldhash::fast::RandomState,
    life: Duration,
    holds: Holds,
    /// Counts changes, so that a read that one of them overtook is not kept.
    changes: Cell<u64>,
    stats: Arc<RunStats>,
}

impl PreferenceCache {
    pub(crate) fn new(store: CoreStore, entries_max: usize, life: Duration, stats: Arc<RunStats>) -> Self {
        Self {
            store,
            entries: RefCell::new(Generations::new(entries_max)),
            hasher: foldhash::fast::RandomState::default(),
            life,
            holds: Holds::default(),
            changes: Cell::new(0),
            stats,
        }
    }

    /// What a user's commands use.
    ///
    /// # Errors
    /// When the store cannot tell, or what it holds is damaged.
    pub(crate) async fn used(&self, shard: ShardId, user: UserId) -> Result<Rc<Used>, ReadError> {
        let now = sluice_core::now();
        let hash = self.hasher.hash_one(user);
        let known = self
            .entries
            .borrow_mut()
            .find(hash, |entry| entry.user == user)
            .and_then(|entry| (entry.until > now).then(|| Rc::clone(&entry.used)));
        if let Some(used) = known {
            self.stats.preferences_hits.add(1);
            return Ok(used);
        }
        self.stats.preferences_misses.add(1);
        let changes = self.changes.get();
        let record = self.record(shard, user).await?;
        let used = Rc::new(record.as_ref().map(used_of).unwrap_or_default());
        if self.changes.get() == changes {
            self.keep(user, Rc::clone(&used), now);
        }
        Ok(used)
    }

    /// A user's preferences as they are stored.
    ///
    /// # Errors
    /// As [`Self::used`].
    pub(crate) async fn view(&self, shard: ShardId, user: UserId) -> Result<PreferencesView, ReadError> {
        let record = self.record(shard, user).await?;
        Ok(record.as_ref().map_or_else(unset, view_of))
    }

    /// Changes a user's preferences, durably, and gives them as they are then. `change` makes the new ones of those that
    /// are stored; where they are equal nothing is written.
    pub(crate) async fn change(
        &self,
        shard: ShardId,
        user: UserId,
        now_ms: u64,
        change: impl FnOnce(&PreferencesView) -> Result<Preferences, Problem>,
    ) -> Result<PreferencesView, Unchanged> {
        let _turn = self.holds.take(user).await;
        let before = self.view(shard, user).await.map_err(Unchanged::Read)?;
        let preferences = change(&before).map_err(Unchanged::Refused)?;
        if preferences == before.preferences {
            return Ok(before);
        }
        let record = record_of(user, &preferences, now_ms);
        let mut batch = Batch::new(shard);
        batch.put_record(&Key::preferences(&user), &record).map_err(|error| {
            // Every member is bounded, so this one is a fault of ours.
            tracing::error!(%error, "preferences do not fit");
            Unchanged::Refused(Problem::new(ProblemKind::PayloadTooLarge, "the preferences are too large"))
        })?;
        self.store.commit(batch).await.map_err(Unchanged::Commit)?;
        self.changes.set(self.changes.get() + 1);
        self.keep(user, Rc::new(used_of(&record)), sluice_core::now());
        self.stats.preferences_changed.add(1);
        Ok(view_of(&record))
    }

    /// Drops what is remembered of a user who is erased.
    pub(crate) fn forget(&self, user: UserId) {
        // A read that is under way keeps nothing.
        self.changes.set(self.changes.get() + 1);
        self.entries.borrow_mut().remove(self.hasher.hash_one(user), |entry| entry.user == user);
    }

    fn keep(&self, user: UserId, used: Rc<Used>, now: Instant) {
        let entry = Entry { user, used, until: now + self.life };
        self.entries.borrow_mut().insert(self.hasher.hash_one(user), entry, |entry| entry.user == user);
    }

    async fn record(&self, shard: ShardId, user: UserId) -> Result<Option<PreferencesRecord>, ReadError> {
        let loaded = self.store.load::<PreferencesRecord>(shard, &Key::preferences(&user)).await?;
        Ok(loaded.map(|loaded| loaded.to_record()))
    }
}

fn unset() -> PreferencesView {
    PreferencesView { preferences: Preferences::default(), updated: None }
}

fn priority_of(number: u8) -> Option<Priority> {
    (number != 0).then(|| codes::priority(number))
}

fn used_of(record: &PreferencesRecord) -> Used {
    Used {
        time_zone: record.time_zone.as_deref().map(Box::from),
        language: record.language.as_deref().map(Box::from),
        priority: priority_of(record.priority),
        confirm: record.confirm.iter().map(|name| Box::from(name.as_str())).collect(),
    }
}

pub(crate) fn view_of(record: &PreferencesRecord) -> PreferencesView {
    PreferencesView {
        preferences: Preferences {
            time_zone: record.time_zone.clone(),
            language: record.language.clone(),
            priority: priority_of(record.priority),
            confirm: record.confirm.clone(),
            // It was an object when it was written.
            custom: serde_json::from_str(&record.custom_json).unwrap_or_default(),
        },
        updated: Some(timestamp_of(record.updated_ms)),
    }
}

fn record_of(user: UserId, preferences: &Preferences, updated_ms: u64) -> PreferencesRecord {
    PreferencesRecord {
        user,
        updated_ms,
        time_zone: preferences.time_zone.clone(),
        language: preferences.language.clone(),
        priority: preferences.priority.map_or(0, codes::of_priority),
        confirm: preferences.confirm.clone(),
        custom_json: serde_json::Value::Object(preferences.custom.clone()).to_string(),
    }
}
