//! What a core remembers of its users' reads from Gmail, Calendar and Drive.
//!
//! A read is answered from here while it is fresh; for a while longer it is answered with what is stale and read
//! anew behind the caller's back. Reads that are the same share one call.
//!
//! Invariants:
//! - Only bodies of answers to an [`ApiCall`] come in ([`ReadBody`]); OAuth tokens travel by other types and have no
//!   [`Service`](sluice_protocols::plan::Service).
//! - A key begins with the user, and nothing is looked up or dropped without one.
//! - A change drops what it made wrong when it ends, however it ends, and forbids answers that were on their way then
//!   to be kept. For `settle` after it nothing of that service is kept for the user: searches lag behind changes.
//! - What decides about an effect (was it sent? is it so already?) is never read from here: see `Google::read_fresh`.

mod stats;
mod store;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sluice_protocols::google::ApiCall;
use sluice_protocols::google::resource::{Dirt, Tag};
use sluice_protocols::ids::UserId;
use sluice_protocols::plan::Service;

pub use stats::{CacheStats, KindStats};
pub(crate) use store::ReadKey;

use crate::signal::Signal;
use crate::upstream::CallError;
use store::{Body, EntryId, Found, KeyRef, Life, Store};

/// Refreshes of stale entries under way at once; beyond them the next reader tries again.
const REFRESHES_MAX: usize = 64;
/// Reads under way that others may join; beyond them a read is made for its caller alone.
const FLIGHTS_MAX: usize = 4_096;
/// Changes whose settling is remembered; with more, the oldest is forgotten.
const SETTLING_MAX: usize = 65_536;

/// Settings of a core's cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of all bodies, what was made of them, keys and overhead; 0 keeps nothing. Default 32 MiB.
    pub bytes_max: usize,
    /// How long a read is fresh. Default 5 min.
    pub fresh: Duration,
    /// How long after that it may be given out while it is read anew. Default 1 min.
    pub stale: Duration,
    /// How long after a change nothing of the changed service is kept. Default 3 s.
    pub settle: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            bytes_max: 32 << 20,
            fresh: Duration::from_secs(300),
            stale: Duration::from_secs(60),
            settle: Duration::from_secs(3),
        }
    }
}

/// The body of an answer to an [`ApiCall`] that changes nothing: all that may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadBody(Bytes);

impl ReadBody {
    /// `None` for a call that may have an effect.
    pub(crate) fn of(call: &ApiCall, body: Bytes) -> Option<Self> {
        (call.method == "GET").then_some(Self(body))
    }

    /// The bytes.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// What is made of an answer, so that those who find the answer here need not make it again.
pub(crate) trait Made: Any {
    /// The bytes it takes, about.
    fn bytes(&self) -> usize;
}

/// An answer that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    body: ReadBody,
    made: Option<Rc<dyn Any>>,
    entry: EntryId,
}

impl Kept {
    /// The bytes.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.body.into_bytes()
    }

    /// The same, looked at.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body.0
    }

    /// What was made of it, if that is of this type.
    pub(crate) fn made<M: Made>(&self) -> Option<Rc<M>> {
        self.made.clone()?.downcast().ok()
    }
}

impl From<Body> for Kept {
    fn from(body: Body) -> Self {
        let Body { bytes, made, entry } = body;
        Self { body: ReadBody(bytes), made, entry }
    }
}

/// What came of a read that others wait for: `None` when whoever made it went away or failed for reasons of its own.
type Landed = Option<Result<ReadBody, CallError>>;

/// A user's reads of one core. `!Send`.
pub struct ReadCache {
    store: RefCell<Store>,
    flights: RefCell<HashMap<ReadKey, Rc<Signal<Landed>>, RandomState>>,
    settling: RefCell<Settling>,
    refreshes: Cell<usize>,
    config: CacheConfig,
    stats: Arc<CacheStats>,
}

/// What a reader does next.
pub(crate) enum Read {
    /// There is an answer; when it is stale and nobody does so yet, the ticket says to read it anew.
    Kept(Kept, Option<Ticket>),
    /// Wait for another's read.
    Join(Joined),
    /// Make the call, and hand the answer to the ticket.
    Make(Ticket),
}

/// A read of another.
pub(crate) struct Joined(Rc<Signal<Landed>>);

impl Joined {
    /// What it brought; `None` when that says nothing about ours.
    pub(crate) async fn land(self) -> Landed {
        self.0.wait().await
    }
}

impl ReadCache {
    /// An empty cache.
    pub fn new(config: CacheConfig, stats: Arc<CacheStats>) -> Self {
        let life = Life { fresh: config.fresh, stale: config.stale };
        Self {
            store: RefCell::new(Store::new(config.bytes_max, life)),
            flights: RefCell::default(),
            settling: RefCell::default(),
            refreshes: Cell::new(0),
            config,
            stats,
        }
    }

    /// Looks a read up.
    pub(crate) fn read(self: &Rc<Self>, user: UserId, call: &ApiCall, now: Instant) -> Read {
        let key = KeyRef { user, service: call.service, path: &call.path };
        let kind = self.stats.of(call.service);
        let found = self.store.borrow_mut().get(&key, now, &self.stats);
        match found {
            Found::Fresh(body) => {
                kind.hits.add(1);
                return Read::Kept(body.into(), None);
            }
            Found::Stale(body) => {
                kind.stale.add(1);
                return Read::Kept(body.into(), self.refresh(key.to_key()));
            }
            Found::Nothing => {}
        }
        let key = key.to_key();
        if let Some(flight) = self.flights.borrow().get(&key) {
            kind.joined.add(1);
            return Read::Join(Joined(Rc::clone(flight)));
        }
        kind.misses.add(1);
        Read::Make(self.ticket(key, false))
    }

    /// Keeps what was made of an answer with it, for as long as it is kept.
    pub(crate) fn keep_made<M: Made>(&self, kept: &Kept, made: &Rc<M>) {
        let (bytes, made) = (made.bytes(), Rc::clone(made));
        self.store.borrow_mut().attach(kept.entry, made, bytes, &self.stats);
    }

    fn ticket(self: &Rc<Self>, key: ReadKey, is_refresh: bool) -> Ticket {
        let flight = Signal::new();
        let mut flights = self.flights.borrow_mut();
        if flights.len() < FLIGHTS_MAX {
            flights.insert(key.clone(), Rc::clone(&flight));
        }
        Ticket { cache: Rc::clone(self), key, flight, is_refresh }
    }

    /// A ticket to read a stale entry anew, if nobody does and there are not too many.
    fn refresh(self: &Rc<Self>, key: ReadKey) -> Option<Ticket> {
        if self.flights.borrow().contains_key(&key) {
            return None;
        }
        if self.refreshes.get() >= REFRESHES_MAX {
            self.stats.refreshes_refused.add(1);
            return None;
        }
        self.refreshes.set(self.refreshes.get() + 1);
        Some(self.ticket(key, true))
    }

    /// Takes note of a change by `user` that has ended, or may have.
    pub(crate) fn changed(&self, user: UserId, dirt: Dirt, now: Instant) {
        let is_dirty = |key: &ReadKey| dirt.covers(key.service, key.resource());
        self.drop_where(user, is_dirty);
        let until = now + self.config.settle;
        self.settling.borrow_mut().note(user, dirt.service(), until, now);
    }

    /// Drops what `user` reads under these tags; how many entries.
    pub fn invalidate(&self, user: UserId, tags: &[Tag]) -> usize {
        self.drop_where(user, |key| tags.iter().any(|tag| tag.covers(key.service, key.resource())))
    }

    /// Drops all that is kept of a user: they want what is so now, or their account changed.
    pub fn forget(&self, user: UserId) -> usize {
        self.drop_where(user, |_| true)
    }

    fn drop_where(&self, user: UserId, is_dirty: impl Fn(&ReadKey) -> bool) -> usize {
        // What is on its way was asked for before: nobody new joins it, and nothing of it is kept.
        self.flights.borrow_mut().retain(|key, _| key.user != user || !is_dirty(key));
        self.store.borrow_mut().drop_user(&user, &self.stats, is_dirty)
    }

    /// Reads of a service that joined one under way, so far.
    #[cfg(test)]
    pub(crate) fn joined(&self, service: Service) -> u64 {
        self.stats.of(service).joined.get()
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.store.borrow().bytes()
    }

    /// Entries kept.
    pub fn len(&self) -> usize {
        self.store.borrow().len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadCache")
            .field("len", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The right, and the duty, to make a read that others may wait for. Dropped unused, it tells them to look again.
pub(crate) struct Ticket {
    cache: Rc<ReadCache>,
    key: ReadKey,
    flight: Rc<Signal<Landed>>,
    is_refresh: bool,
}

impl Ticket {
    /// Hands in the answer: keeps it, unless something changed meanwhile, and gives it to those who wait.
    pub(crate) fn land(self, answer: &Result<ReadBody, CallError>, now: Instant) {
        if let Ok(body) = answer {
            self.keep(body, now);
        }
        let is_for_all = match answer {
            Ok(_) => true,
            // What Google says of the thing asked for is the same for all; a deadline is the caller's own.
            Err(CallError::Refused { error, .. }) => !error.fault.is_retryable(),
            Err(_) => false,
        };
        self.close();
        self.flight.set(is_for_all.then(|| answer.clone()));
    }

    fn keep(&self, body: &ReadBody, now: Instant) {
        let cache = &self.cache;
        let settles = cache.settling.borrow_mut().is_settling(&self.key, now);
        if !self.is_current() || settles {
            cache.stats.of(self.key.service).outdated.add(1);
            return;
        }
        if cache.config.bytes_max > 0 {
            cache.store.borrow_mut().put(self.key.clone(), &body.0, now, &cache.stats);
        }
    }

    /// Whether no change came between.
    fn is_current(&self) -> bool {
        self.cache.flights.borrow().get(&self.key).is_some_and(|known| Rc::ptr_eq(known, &self.flight))
    }

    fn close(&self) {
        if self.is_current() {
            self.cache.flights.borrow_mut().remove(&self.key);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close();
        self.flight.set(None);
        if self.is_refresh {
            self.cache.refreshes.set(self.cache.refreshes.get() - 1);
        }
    }
}

/// Changes of the last moments.
#[derive(Default)]
struct Settling {
    until: HashMap<(UserId, Service), Instant, RandomState>,
    order: VecDeque<(Instant, UserId, Service)>,
}

impl Settling {
    fn note(&mut self, user: UserId, service: Service, until: Instant, now: Instant) {
        self.forget_settled(now);
        self.until.insert((user, service), until);
        self.order.push_back((until, user, service));
        if self.order.len() > SETTLING_MAX {
            self.pop();
        }
    }

    fn is_settling(&mut self, key: &ReadKey, now: Instant) -> bool {
        self.forget_settled(now);
        self.until.contains_key(&(key.user, key.service))
    }

    fn forget_settled(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, ..)| *until <= now) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some((until, user, service)) = self.order.pop_front() else { return };
        // A later change of the same service has a place of its own.
        if self.until.get(&(user, service)) == Some(&until) {
            self.until.remove(&(user, service));
        }
    }
}
