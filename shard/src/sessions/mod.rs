//! The sessions of one core's users: which one a command belongs to, and what it remembers.
//!
//! A session begins with its first command, or before when its user asks for one ([`begin`]), and lives for
//! [`SESSION_LIFE`]. Its id tells when it began, so a session whose first command is still on its way needs no record. A
//! command that names no session goes on with its user's newest one that has not expired, or begins one.
//!
//! Invariants:
//! - the record of a session is written before anybody knows its id, or else by the end of its tasks alone, one after
//!   the other (a lane of the queue);
//! - the cache holds what is durable: it is written after a commit, never before;
//! - a session that was ended is not written again: while it has tasks its record says it was over at the
//!   beginning of time (a tombstone, so that a restart knows too), afterwards it has none;
//! - a session is only ever shown to its own user.

mod begin;
mod json;
mod recent;

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocols::ids::{SessionId, ShardId, UserId};
use sluice_store::record::{Loaded, RecordError, SESSION_TURNS_MAX, SessionRecord, TurnRecord, first_turn};
use sluice_store::{Batch, CommitError, CoreStore, Key, KeyRange, Kind, ReadError, Session, SessionCache};

pub(crate) use begin::BeginError;
pub use recent::Recent;

use crate::auth::Principal;
use crate::clock::Clock;
use crate::config::{SESSION_LIFE, ShardConfig};
use crate::generations::Generations;
use crate::holds::Holds;
use crate::metrics::CoreMetrics;
use crate::mint::{Mint, session_began_ms};
use crate::tasks::queue::{LaneId, Queue};

/// How many of a user's newest sessions are looked at to find the current one. A user has one that has not
/// expired, beside those ended or expired since the last look, which is when they are removed.
const NEWEST_MAX: usize = 8;

/// When a session that began at `began_ms` is over.
pub(crate) fn expires_ms(began_ms: u64) -> u64 {
    let life_ms = u64::try_from(SESSION_LIFE.as_millis()).unwrap_or(u64::MAX);
    began_ms.saturating_add(life_ms)
}

/// A user's newest session.
struct Current {
    user: UserId,
    session: SessionId,
}

/// See the module.
pub(crate) struct Sessions {
    cache: RefCell<SessionCache>,
    current: RefCell<Generations<Current>>,
    hasher: foldhash::fast::RandomState,
    queue: Rc<RefCell<Queue>>,
    mint: Rc<Mint>,
    store: CoreStore,
    clock: Clock,
    metrics: Arc<CoreMetrics>,
    /// Counts what changes sessions, so that a read that was overtaken by a change does not undo it in the cache.
    changes: Cell<u64>,
    /// Who begins sessions, so that a count of them still holds when one more is written.
    beginning: Holds,
}

impl Sessions {
    pub(crate) fn new(
        config: &ShardConfig,
        store: CoreStore,
        clock: Clock,
        queue: Rc<RefCell<Queue>>,
        mint: Rc<Mint>,
        metrics: Arc<CoreMetrics>,
    ) -> Self {
        Self {
            cache: RefCell::new(SessionCache::new(config.session_cache)),
            current: RefCell::new(Generations::new(config.sessions_current_max)),
            hasher: foldhash::fast::RandomState::default(),
            queue,
            mint,
            store,
            clock,
            metrics,
            changes: Cell::new(0),
            beginning: Holds::default(),
        }
    }

    /// The session a command belongs to. `None`: the one it names is not there, or over, or another user's.
    pub(crate) async fn resolve(
        &self,
        who: &Principal,
        named: Option<SessionId>,
    ) -> Result<Option<SessionId>, ReadError> {
        match named {
            Some(session) => {
                let is_there = self.is_there(who, session).await?;
                Ok(is_there.then_some(session))
            }
            None => self.current(who).await.map(Some),
        }
    }

    async fn is_there(&self, who: &Principal, session: SessionId) -> Result<bool, ReadError> {
        let now_ms = self.clock.unix_ms();
        let lane = LaneId { user: who.user, session };
        let cached = self
            .cache
            .borrow_mut()
            .read(&session, now_ms, |session| session.record().user == *who.user.as_bytes());
        self.note_cache();
        if let Some(is_theirs) = cached {
            return Ok(is_theirs);
        }
        if self.is_at_work(lane) {
            return Ok(true);
        }
        let record = self.load(who.shard, lane).await?;
        Ok(record.is_some())
    }

    /// Whether a session has tasks, has not been ended and is not over.
    fn is_at_work(&self, lane: LaneId) -> bool {
        let queue = self.queue.borrow();
        queue.has_lane(lane)
            && !queue.is_ended(lane)
            && expires_ms(session_began_ms(&lane.session)) > self.clock.unix_ms()
    }

    async fn current(&self, who: &Principal) -> Result<SessionId, ReadError> {
        if let Some(session) = self.remembered(&who.user) {
            return Ok(session);
        }
        let found = self.newest_stored(who).await?;
        // Another command of the user may have settled it meanwhile.
        if let Some(session) = self.remembered(&who.user) {
            return Ok(session);
        }
        let session = found.unwrap_or_else(|| {
            self.metrics.sessions_created.add(1);
            self.mint.session(self.clock.unix_ms())
        });
        self.remember(who.user, session);
        Ok(session)
    }

    /// The user's session as far as this core knows without asking the store.
    fn remembered(&self, user: &UserId) -> Option<SessionId> {
        let now_ms = self.clock.unix_ms();
        let is_live = |session: &SessionId| expires_ms(session_began_ms(session)) > now_ms;
        let hash = self.hasher.hash_one(user);
        let known =
            self.current.borrow_mut().find(hash, |entry| entry.user == *user).map(|entry| entry.session);
        if let Some(session) = known.filter(is_live) {
            return Some(session);
        }
        let at_work = self.queue.borrow().newest_session(user).filter(is_live)?;
        self.remember(*user, at_work);
        Some(at_work)
    }

    pub(crate) fn remember(&self, user: UserId, session: SessionId) {
        let hash = self.hasher.hash_one(user);
        self.current.borrow_mut().insert(hash, Current { user, session }, |entry| entry.user == user);
    }

    fn forget(&self, lane: LaneId) {
        let hash = self.hasher.hash_one(lane.user);
        let is_it = |entry: &Current| entry.user == lane.user && entry.session == lane.session;
        self.current.borrow_mut().remove(hash, is_it);
    }

    /// The newest session on disk that is not over; those that are over and have no task are removed.
    async fn newest_stored(&self, who: &Principal) -> Result<Option<SessionId>, ReadError> {
        let range = KeyRange::of_user(Kind::Session, &who.user);
        let page = self.store.scan(who.shard, range, NEWEST_MAX, true).await?;
        let now_ms = self.clock.unix_ms();
        let mut removed = Batch::new(who.shard);
        let mut newest = None;
        for (key, value) in page.rows {
            let Some(session) = key.session_id() else { continue };
            // A damaged one is passed over; its bytes are kept in quarantine.
            let Ok(record) = self.store.validate::<SessionRecord>(who.shard, &key, value) else { continue };
            let lane = LaneId { user: who.user, session };
            if record.get().expires_ms.to_native() <= now_ms {
                if !self.queue.borrow().has_lane(lane) {
                    remove(&mut removed, lane, record.get().next_turn.to_native());
                }
            } else if !self.queue.borrow().is_ended(lane) {
                newest = newest.or(Some(session));
            }
        }
        if !removed.is_empty() {
            // Nobody waits: what is not removed now is found again next time.
            drop(self.store.commit(removed));
        }
        Ok(newest)
    }

    /// A session that is not over, from the store into the cache.
    async fn load(&self, shard: ShardId, lane: LaneId) -> Result<Option<Session>, ReadError> {
        let changes = self.changes.get();
        let Some(session) = self.stored(shard, lane).await? else { return Ok(None) };
        if session.record().expires_ms.to_native() <= self.clock.unix_ms() {
            return Ok(None);
        }
        if self.changes.get() == changes {
            self.keep(session.clone());
        }
        Ok(Some(session))
    }

    /// A session as it is on disk.
    async fn stored(&self, shard: ShardId, lane: LaneId) -> Result<Option<Session>, ReadError> {
        let key = Key::session(&lane.user, &lane.session);
        let Some(record) = self.store.load::<SessionRecord>(shard, &key).await? else { return Ok(None) };
        let range = KeyRange::turns(&lane.user, &lane.session);
        // The newest, for what is older than those is not remembered any more.
        let page = self.store.scan(shard, range, SESSION_TURNS_MAX, true).await?;
        // A damaged turn is passed over; its bytes are kept in quarantine.
        let turns = page.rows.into_iter();
        let turns =
            turns.filter_map(|(key, value)| self.store.validate::<TurnRecord>(shard, &key, value).ok());
        let session = Session::new(record, turns);
        session.map(Some).map_err(|error| ReadError::Foreign { reason: error.to_string() })
    }

    /// What a task that was accepted at `accepted_ms` may refer to, and what its end will be added to. `None` when
    /// the session was ended, or was over already: then nothing is remembered.
    ///
    /// # Errors
    /// When the store cannot tell for now. A damaged record counts as a new session.
    pub(crate) async fn for_task(
        &self,
        shard: ShardId,
        lane: LaneId,
        accepted_ms: u64,
    ) -> Result<Option<Session>, ReadError> {
        let began_ms = session_began_ms(&lane.session);
        if self.queue.borrow().is_ended(lane) {
            return Ok(None);
        }
        let now_ms = self.clock.unix_ms();
        let is_theirs = |session: &Session| session.record().user == *lane.user.as_bytes();
        let cached = self.cache.borrow_mut().read(&lane.session, now_ms, Session::clone).filter(is_theirs);
        self.note_cache();
        let found = match cached.map_or_else(|| Err(()), |session| Ok(Some(session))) {
            Ok(found) => Ok(found),
            Err(()) => self.stored(shard, lane).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(error @ ReadError::Quarantined { .. }) => {
                tracing::error!(%error, "a session begins anew");
                None
            }
            Err(error) => return Err(error),
        };
        let session = match found {
            Some(session) => session,
            None => live(&fresh(lane, began_ms))
                .map_err(|error| ReadError::Foreign { reason: error.to_string() })?,
        };
        Ok((session.record().expires_ms.to_native() > accepted_ms).then_some(session))
    }

    /// Adds a task's turn to the batch of the task's end, and to the session, whose handles are numbered up to `handles`
    /// then. Gives what to [`Self::keep`] once that is durable.
    pub(crate) fn write_turn(
        &self,
        lane: LaneId,
        session: &Session,
        turn: &TurnRecord,
        handles: [u16; 3],
        batch: &mut Batch,
    ) -> Option<Session> {
        if self.queue.borrow().is_ended(lane) {
            return None;
        }
        let old = session.to_record();
        let record = SessionRecord {
            next_turn: old.next_turn.max(turn.number.saturating_add(1)),
            handles,
            turns: Vec::new(),
            ..old.clone()
        };
        let (record, turn) = match (Loaded::of(&record), Loaded::of(turn)) {
            (Ok(record), Ok(turn)) => (record, turn),
            (Err(error), _) | (_, Err(error)) => {
                // Turns are bounded in number and in size, so this one is a fault of ours; the task's end counts.
                tracing::error!(%error, session = %lane.session, "a turn is not remembered");
                return None;
            }
        };
        let key_of = |number| Key::turn(&lane.user, &lane.session, number);
        if !old.turns.is_empty() {
            for inner in session.loaded_turns() {
                batch.put(&key_of(inner.get().number.to_native()), inner.as_bytes());
            }
        }
        let next = session.with_turn(record, turn);
        for forgotten in old.first_turn()..next.to_record().first_turn() {
            batch.delete(&key_of(forgotten));
        }
        batch.put(&Key::session(&lane.user, &lane.session), next.record_bytes());
        let turn = next.loaded_turns().last().expect("the turn just added");
        batch.put(&key_of(turn.get().number.to_native()), turn.as_bytes());
        Some(next)
    }

    /// Keeps what a commit made durable.
    pub(crate) fn keep(&self, session: Session) {
        self.note_change();
        self.cache.borrow_mut().insert(session, self.clock.unix_ms());
        self.note_cache();
    }

    /// The JSON of a user's session when it is in the cache: read in place, written directly.
    pub(crate) fn cached_json(&self, lane: LaneId) -> Option<Bytes> {
        let now_ms = self.clock.unix_ms();
        let found = self.cache.borrow_mut().read(&lane.session, now_ms, |session| {
            (session.record().user == *lane.user.as_bytes()).then(|| json::of(session))
        });
        self.note_cache();
        found.flatten()
    }

    /// The JSON of a user's session; `None` when there is none.
    pub(crate) async fn json(&self, shard: ShardId, lane: LaneId) -> Result<Option<Bytes>, ReadError> {
        if let Some(json) = self.cached_json(lane) {
            return Ok(Some(json));
        }
        if let Some(session) = self.load(shard, lane).await? {
            return Ok(Some(json::of(&session)));
        }
        // Begun by a command that is still on its way.
        let record = self.is_at_work(lane).then(|| fresh(lane, session_began_ms(&lane.session)));
        Ok(record.and_then(|record| live(&record).ok()).map(|session| json::of(&session)))
    }

    /// Ends a user's session, durably. `Ok(false)`: there is none.
    pub(crate) async fn end(&self, shard: ShardId, lane: LaneId) -> Result<bool, EndError> {
        let stored = self.load(shard, lane).await?;
        if stored.is_none() && !self.is_at_work(lane) {
            return Ok(false);
        }
        let key = Key::session(&lane.user, &lane.session);
        let mut batch = Batch::new(shard);
        // From here on no task of the session writes it. One more turn may have been written since it was read.
        let is_at_work = self.queue.borrow_mut().set_ended(lane, true);
        let next_turn = stored.map_or(1, |session| session.record().next_turn.to_native());
        remove(&mut batch, lane, next_turn.saturating_add(1));
        if is_at_work {
            let tombstone = SessionRecord { expires_ms: 0, ..fresh(lane, session_began_ms(&lane.session)) };
            match Loaded::of(&tombstone) {
                Ok(tombstone) => batch.put(&key, tombstone.as_bytes()),
                Err(_) => batch.delete(&key),
            };
        }
        self.drop_cached(lane);
        let committed = self.store.commit(batch).await;
        // What was read or asked while the commit was on its way must not bring the session back.
        self.drop_cached(lane);
        if let Err(error) = committed {
            self.queue.borrow_mut().set_ended(lane, false);
            return Err(error.into());
        }
        self.metrics.sessions_ended.add(1);
        Ok(true)
    }

    /// Drops what is remembered of a user who is erased.
    pub(crate) fn forget_user(&self, user: UserId) {
        self.note_change();
        self.cache.borrow_mut().remove_user(&user);
        let hash = self.hasher.hash_one(user);
        self.current.borrow_mut().remove(hash, |entry| entry.user == user);
        self.note_cache();
    }

    fn drop_cached(&self, lane: LaneId) {
        self.note_change();
        self.cache.borrow_mut().remove(&lane.session);
        self.forget(lane);
        self.note_cache();
    }

    fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    fn note_cache(&self) {
        let cache = self.cache.borrow();
        let stats = cache.stats();
        self.metrics.session_cache_hits.set(stats.hits);
        self.metrics.session_cache_misses.set(stats.misses);
        self.metrics.session_cache_evictions.set(stats.evictions);
        self.metrics.session_cache_expired.set(stats.expired);
        self.metrics.session_cache_refused.set(stats.refused);
        self.metrics.session_cache_bytes.set(cache.bytes() as u64);
        self.metrics.sessions_active.set(cache.len() as u64);
    }
}

/// Why a session was not ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndError {
    /// The store could not tell whether there is one: try again.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The end was not written: try again.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// A session without turns.
fn fresh(lane: LaneId, began_ms: u64) -> SessionRecord {
    SessionRecord {
        id: lane.session,
        user: lane.user,
        created_ms: began_ms,
        expires_ms: expires_ms(began_ms),
        next_turn: 1,
        handles: [0; 3],
        turns: Vec::new(),
    }
}

/// A session that no turn was stored of.
fn live(record: &SessionRecord) -> Result<Session, RecordError> {
    Session::new(Loaded::of(record)?, [])
}

/// Removes the record and the turns of a session.
fn remove(batch: &mut Batch, lane: LaneId, next_turn: u32) {
    batch.delete(&Key::session(&lane.user, &lane.session));
    for number in first_turn(next_turn)..next_turn {
        batch.delete(&Key::turn(&lane.user, &lane.session, number));
    }
}
