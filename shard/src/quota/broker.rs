//! A core's way to the upstreams: every call enters here, waits its turn, and tells how it ended.
//!
//! Invariants:
//! - A call that cannot get its units before its deadline is refused at once, with the time after which it could.
//! - A [`Permit`] that is dropped gives back its place, and its units too unless the call was sent.
//! - Of the places that commands and requests have on the core, an upstream holds no more than so many times those that no
//!   upstream holds, so that what asks another has some, however long this one takes and however many do.
//! - Someone wakes those who wait: a call that ends, or a task that lives as long as anyone waits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use sluice_net::egress::Upstream;
use sluice_protocols::ids::UserId;

use super::breaker::{BreakerState, Verdict};
use super::breakers::{Breakers, Leaves};
use super::gate::{Ask, Block, Gate, Grant};
use super::hedge::{Latencies, Operation};
use super::retry::RetryBudget;
use super::stats::QuotaStats;
use super::{Class, Quotas};

/// How often those who wait for units look again at the latest; a slot of the windows.
const LOOK: Duration = Duration::from_millis(250);
/// Users passed over when one call ends.
const LOOKS_MAX: usize = 32;

/// Why a call may not be made. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The upstream's units do not last; so long, where that is known.
    Limited(Option<Duration>),
    /// It was failing and is left alone; so long.
    Open(Duration),
    /// Too many calls wait.
    Full,
    /// No place came free in time.
    Late,
    /// It holds as many places of commands and requests as it may.
    Crowded,
}

/// When to come again to an upstream that holds as many places as it may: by then calls that hang are given up, or its
/// breaker is open.
pub(crate) const CROWDED_WAIT: Duration = Duration::from_secs(5);

struct Door {
    gate: RefCell<Gate>,
    breakers: RefCell<Breakers>,
    retries: RefCell<RetryBudget>,
    latencies: RefCell<Latencies>,
    waiting: RefCell<HashMap<u64, Rc<Turn>, RandomState>>,
    places: Cell<usize>,
    is_watched: Cell<bool>,
}

/// Where someone who waits is told that it is their turn.
#[derive(Default)]
struct Turn {
    grant: RefCell<Option<Grant>>,
    waker: RefCell<Option<Waker>>,
}

/// See the module. `!Send`: one a core.
pub struct Broker {
    doors: [Door; Upstream::ALL.len()],
    quotas: Arc<Quotas>,
    stats: Arc<QuotaStats>,
}

impl Broker {
    /// A core's share of `quotas`.
    pub fn new(quotas: Arc<Quotas>, stats: Arc<QuotaStats>) -> Self {
        let now = Instant::now();
        let doors = Upstream::ALL.map(|upstream| Door {
            gate: RefCell::new(quotas.gate(upstream)),
            breakers: RefCell::new(Breakers::new(quotas.config().breaker, now)),
            retries: RefCell::new(RetryBudget::new(&quotas.config().retry, quotas.cores(), now)),
            latencies: RefCell::default(),
            waiting: RefCell::default(),
            places: Cell::new(0),
            is_watched: Cell::new(false),
        });
        Self { doors, quotas, stats }
    }

    /// Settings.
    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    fn door(&self, upstream: Upstream) -> &Door {
        &self.doors[upstream as usize]
    }

    /// Takes one of the places that an upstream may hold; for as long as it is asked, or waited for. It always has one.
    ///
    /// A bound for each that shrinks with what is left keeps some for the others without keeping any unused when all is
    /// well (dynamic thresholds, Choudhury and Hahne 1998, where queues share the memory of a switch): with three quarters
    /// in percent one that hangs holds three quarters, two together six sevenths, three nine tenths.
    pub(crate) fn occupy(self: &Rc<Self>, upstream: Upstream) -> Result<Occupied, Denied> {
        let places = &self.door(upstream).places;
        let own = places.get();
        // Who waits for a token has a place of the service that it is for, too: it is one place of the core's.
        let held = match upstream {
            Upstream::OAuth => own,
            _ => Upstream::ALL
                .iter()
                .filter(|of| **of != Upstream::OAuth)
                .map(|of| self.door(*of).places.get())
                .sum(),
        };
        let config = self.quotas.config();
        let free = config.places.saturating_sub(held);
        if own > 0 && own * (100 - config.places_percent) >= config.places_percent * free {
            self.stats.of(upstream).denied(Denied::Crowded);
            return Err(Denied::Crowded);
        }
        places.set(places.get() + 1);
        self.stats.of(upstream).places.set(places.get() as u64);
        Ok(Occupied { broker: Rc::clone(self), upstream })
    }

    /// Waits for leave to make a call, until `limit`.
    pub(crate) async fn enter(
        self: &Rc<Self>,
        upstream: Upstream,
        kind: (Class, Operation),
        ask: Ask,
        limit: Instant,
    ) -> Result<Permit, Denied> {
        let result = self.try_enter(upstream, kind, ask, limit).await;
        if let Err(denied) = &result {
            self.stats.of(upstream).denied(*denied);
        }
        result
    }

    async fn try_enter(
        self: &Rc<Self>,
        upstream: Upstream,
        kind: (Class, Operation),
        ask: Ask,
        limit: Instant,
    ) -> Result<Permit, Denied> {
        let now = sluice_core::now();
        let door = self.door(upstream);
        if let Some(wait) = door.breakers.borrow().closed_for(kind.0, kind.1, now) {
            return Err(Denied::Open(wait));
        }
        let wants_probe = self.quotas.wants_probe(upstream, now);
        let cool = self.quotas.cool_down(upstream, now);
        let entered = door.gate.borrow_mut().enter(&ask, cool, now);
        let entered = entered.and_then(|grant| {
            if !wants_probe || self.quotas.begin_probe(upstream, now) {
                return Ok(grant);
            }
            // Another core finds out how long it still takes.
            door.gate.borrow_mut().give_back(&grant, false, now);
            Err(Block::Project(self.quotas.cool_down(upstream, now)))
        });
        let grant = match entered {
            Ok(grant) => grant,
            Err(block) => {
                self.refuse_hopeless(door, &ask, block, limit, now)?;
                self.wait(upstream, ask, limit).await?
            }
        };
        self.publish(upstream);
        let mut permit =
            Permit { broker: Rc::clone(self), upstream, kind, grant, leaves: None, was_sent: false };
        // Only now: who waits for units must not hold up the probes of others.
        let leaves = door.breakers.borrow_mut().begin(kind.0, kind.1, sluice_core::now());
        permit.leaves = Some(leaves.map_err(Denied::Open)?);
        Ok(permit)
    }

    /// Refuses what cannot be let in before its deadline.
    fn refuse_hopeless(
        &self,
        door: &Door,
        ask: &Ask,
        block: Block,
        limit: Instant,
        now: Instant,
    ) -> Result<(), Denied> {
        let project = door.gate.borrow().project_wait(ask, now);
        let own = match block {
            Block::Never => return Err(Denied::Limited(None)),
            Block::Users => return Err(Denied::Full),
            Block::User(wait) | Block::Project(wait) => wait,
            Block::UserPlaces | Block::Places => Duration::ZERO,
        };
        let wait = project.ok_or(Denied::Limited(None))?.max(own);
        if now + wait > limit { Err(Denied::Limited(Some(wait))) } else { Ok(()) }
    }

    async fn wait(self: &Rc<Self>, upstream: Upstream, ask: Ask, limit: Instant) -> Result<Grant, Denied> {
        let door = self.door(upstream);
        let id = door.gate.borrow_mut().line_up(ask).ok_or(Denied::Full)?;
        let turn = Rc::new(Turn::default());
        door.waiting.borrow_mut().insert(id, Rc::clone(&turn));
        self.stats.of(upstream).waited.add(1);
        let waiting = Waiting { broker: Rc::clone(self), upstream, id, ask, turn };
        self.admit(upstream, LOOKS_MAX);
        self.watch(upstream);
        match sluice_core::timeout_at(limit, waiting).await {
            Ok(grant) => Ok(grant),
            Err(_) => {
                let now = sluice_core::now();
                match door.gate.borrow().project_wait(&ask, now) {
                    Some(wait) if wait.is_zero() => Err(Denied::Late),
                    wait => Err(Denied::Limited(wait)),
                }
            }
        }
    }

    /// Lets in who may go now.
    fn admit(&self, upstream: Upstream, looks: usize) {
        let door = self.door(upstream);
        let now = sluice_core::now();
        if door.waiting.borrow().is_empty() {
            return self.publish(upstream);
        }
        let is_probe = self.quotas.wants_probe(upstream, now) && self.quotas.begin_probe(upstream, now);
        let admitted = if is_probe {
            door.gate.borrow_mut().admit_up_to(1, looks, Duration::ZERO, now)
        } else {
            let cool = self.quotas.cool_down(upstream, now);
            door.gate.borrow_mut().admit(looks, cool, now)
        };
        if is_probe && admitted.is_empty() {
            self.quotas.end_probe(upstream, now);
        }
        for (id, grant) in admitted {
            let Some(turn) = door.waiting.borrow_mut().remove(&id) else { continue };
            *turn.grant.borrow_mut() = Some(grant);
            if let Some(waker) = turn.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        self.publish(upstream);
    }

    /// A task that looks after those who wait, as long as there are any.
    fn watch(self: &Rc<Self>, upstream: Upstream) {
        if self.door(upstream).is_watched.replace(true) {
            return;
        }
        let broker = Rc::clone(self);
        sluice_core::spawn(async move {
            while !broker.door(upstream).waiting.borrow().is_empty() {
                sluice_core::sleep(LOOK).await;
                broker.admit(upstream, usize::MAX);
            }
            broker.door(upstream).is_watched.set(false);
        });
    }

    /// Calls that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self, upstream: Upstream) -> usize {
        self.door(upstream).gate.borrow().waiting()
    }

    fn publish(&self, upstream: Upstream) {
        let gate = self.door(upstream).gate.borrow();
        let stats = self.stats.of(upstream);
        stats.waiting.set(gate.waiting() as u64);
        stats.under_way.set(gate.under_way() as u64);
    }

    /// Takes note that an upstream limits us: all, or one user.
    pub(crate) fn limited(&self, upstream: Upstream, user: Option<UserId>, said: Option<Duration>) {
        let now = sluice_core::now();
        let stats = self.stats.of(upstream);
        match user {
            Some(user) => {
                stats.limited_user.add(1);
                let first = self.quotas.config().cool_down;
                self.door(upstream).gate.borrow_mut().cool_user(user, said, first, now);
            }
            None => {
                stats.limited_project.add(1);
                self.quotas.cool(upstream, said, now);
            }
        }
    }

    /// Takes note that an upstream answered and limited nobody.
    pub(crate) fn not_limited(&self, upstream: Upstream) {
        self.quotas.answers(upstream);
    }

    /// Counts a call for the budget of repeats.
    pub(crate) fn count_call(&self, upstream: Upstream) {
        self.door(upstream).retries.borrow_mut().deposit();
        self.stats.of(upstream).calls.add(1);
    }

    /// Whether a call may be made again.
    pub(crate) fn may_retry(&self, upstream: Upstream) -> bool {
        let allowed = self.door(upstream).retries.borrow_mut().withdraw(sluice_core::now());
        let stats = self.stats.of(upstream);
        if allowed {
            stats.retries.add(1)
        } else {
            stats.retries_over_budget.add(1)
        }
        allowed
    }

    /// How long to wait for an answer before the read is asked for a second time, where enough is known of it.
    pub(crate) fn hedge_after(&self, upstream: Upstream, operation: Operation) -> Option<Duration> {
        let hedge = self.quotas.config().hedge;
        let slow = self.door(upstream).latencies.borrow().slow(operation).filter(|_| hedge.is_on)?;
        Some(slow.max(hedge.after_min))
    }

    /// Takes note of how long an answer took.
    pub(crate) fn answered(&self, upstream: Upstream, operation: Operation, took: Duration) {
        self.door(upstream).latencies.borrow_mut().add(operation, took);
    }

    /// Leave for a second copy of a read, if there is room for it now, the budget of repeats has one, and nothing says
    /// that the service is in trouble.
    pub(crate) fn enter_hedge(
        self: &Rc<Self>,
        upstream: Upstream,
        operation: Operation,
        ask: &Ask,
    ) -> Option<Permit> {
        let (now, door, kind) = (sluice_core::now(), self.door(upstream), (Class::Read, operation));
        let is_well = door.breakers.borrow().is_closed(kind.0, kind.1)
            && self.quotas.cool_down(upstream, now).is_zero()
            && !self.quotas.wants_probe(upstream, now);
        if !is_well || !door.retries.borrow_mut().withdraw(now) {
            return None;
        }
        let grant = door.gate.borrow_mut().enter(ask, Duration::ZERO, now).ok()?;
        let mut permit =
            Permit { broker: Rc::clone(self), upstream, kind, grant, leaves: None, was_sent: false };
        permit.leaves = Some(door.breakers.borrow_mut().begin(kind.0, kind.1, now).ok()?);
        self.stats.of(upstream).hedges.add(1);
        Some(permit)
    }

    /// A second copy was answered first.
    pub(crate) fn hedge_won(&self, upstream: Upstream) {
        self.stats.of(upstream).hedges_won.add(1);
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// A place that an upstream holds.
pub(crate) struct Occupied {
    broker: Rc<Broker>,
    upstream: Upstream,
}

impl Occupied {
    /// Which upstream it is.
    pub(crate) const fn upstream(&self) -> Upstream {
        self.upstream
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let places = &self.broker.door(self.upstream).places;
        places.set(places.get() - 1);
        self.broker.stats.of(self.upstream).places.set(places.get() as u64);
    }
}

/// Someone who waits.
struct Waiting {
    broker: Rc<Broker>,
    upstream: Upstream,
    id: u64,
    ask: Ask,
    turn: Rc<Turn>,
}

impl Future for Waiting {
    type Output = Grant;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        if let Some(grant) = self.turn.grant.borrow_mut().take() {
            return Poll::Ready(grant);
        }
        *self.turn.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    /// Who goes away leaves the line, or gives back what was just granted.
    fn drop(&mut self) {
        let door = self.broker.door(self.upstream);
        if door.waiting.borrow_mut().remove(&self.id).is_some() {
            door.gate.borrow_mut().leave(self.id, &self.ask);
        } else if let Some(grant) = self.turn.grant.borrow_mut().take() {
            door.gate.borrow_mut().give_back(&grant, false, sluice_core::now());
            self.broker.admit(self.upstream, LOOKS_MAX);
        }
    }
}

/// The leave to make one call.
pub(crate) struct Permit {
    broker: Rc<Broker>,
    upstream: Upstream,
    kind: (Class, Operation),
    grant: Grant,
    leaves: Option<Leaves>,
    was_sent: bool,
}

impl Permit {
    /// From here on the units are spent, whatever becomes of the call.
    pub(crate) fn sent(&mut self) {
        self.was_sent = true;
    }

    /// What the call came to; its place is given on when this is dropped. `was_sent`: whether the upstream may have
    /// seen it. `tokens`: what it used, where that is known.
    pub(crate) fn judge(&mut self, verdict: Verdict, was_sent: bool, tokens: Option<u64>) {
        self.was_sent = was_sent;
        let now = sluice_core::now();
        let door = self.broker.door(self.upstream);
        if let Some(leaves) = self.leaves.take() {
            self.note(verdict);
            door.breakers.borrow_mut().end(self.kind, leaves, verdict, now);
        }
        if let Some(used) = tokens {
            door.gate.borrow_mut().correct_tokens(&self.grant, used, now);
        }
    }

    fn note(&self, verdict: Verdict) {
        let stats = self.broker.stats.of(self.upstream);
        if verdict == Verdict::Bad {
            stats.failures.add(1);
        }
        stats.units.add(self.grant.ask_units);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = sluice_core::now();
        let door = self.broker.door(self.upstream);
        let mut breakers = door.breakers.borrow_mut();
        if let Some(leaves) = self.leaves.take() {
            breakers.end(self.kind, leaves, Verdict::Nothing, now);
        }
        let stats = self.broker.stats.of(self.upstream);
        for class in [Class::Read, Class::Write] {
            let cell = &stats.breakers[class as usize];
            cell.0.set(match breakers.state(class, now) {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            });
            cell.1.set(breakers.opened(class));
        }
        drop(breakers);
        door.gate.borrow_mut().give_back(&self.grant, self.was_sent, now);
        self.broker.admit(self.upstream, LOOKS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::QuotaConfig;

    fn broker(places: usize, places_percent: usize) -> Rc<Broker> {
        let config = QuotaConfig { places, places_percent, ..QuotaConfig::default() };
        Rc::new(Broker::new(Quotas::new(config, 1), Arc::default()))
    }

    /// What each of these holds when they take places in turn until none gets another.
    fn filled(broker: &Rc<Broker>, upstreams: &[Upstream]) -> (Vec<Occupied>, Vec<usize>) {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            taken.extend(upstreams.iter().filter_map(|upstream| broker.occupy(*upstream).ok()));
            if taken.len() == before {
                let held = upstreams.iter().map(|upstream| broker.door(*upstream).places.get());
                return (taken, held.collect());
            }
        }
    }

    #[test]
    fn however_many_upstreams_hang_others_find_places() {
        use Upstream::{Calendar, Drive, Gmail, OpenAi};
        let broker = broker(1_000, 75);
        for (hanging, held, beside) in [
            (&[Gmail][..], &[750][..], 188),
            (&[Gmail, OpenAi], &[429, 429], 107),
            (&[Gmail, OpenAi, Calendar], &[300, 300, 300], 75),
        ] {
            let (taken, of_each) = filled(&broker, hanging);
            assert_eq!(of_each, held);
            assert_eq!(broker.occupy(hanging[0]).err(), Some(Denied::Crowded));
            assert_eq!(filled(&broker, &[Drive]).1, [beside]);
            drop(taken);
        }
        // All is given back, and one alone has its whole share again.
        assert_eq!(filled(&broker, &[Drive]).1, [750]);
        assert_eq!(broker.stats.of(Drive).places.get(), 0);
    }

    #[test]
    fn waits_for_tokens_are_not_counted_beside_what_they_are_for() {
        use Upstream::{Calendar, Gmail, OAuth};
        let broker = broker(8, 75);
        let (_taken, held) = filled(&broker, &[Gmail, OAuth]);
        assert_eq!(held, [6, 6]);
        assert_eq!(filled(&broker, &[Calendar]).1, [2]);
    }

    #[test]
    fn an_upstream_has_one_place_at_least_and_all_where_that_is_set() {
        use Upstream::{Calendar, Gmail};
        let small = broker(1, 1);
        let (_gmail, held) = filled(&small, &[Gmail]);
        assert_eq!((held, filled(&small, &[Calendar]).1), (vec![1], vec![1]));
        assert_eq!(filled(&broker(8, 100), &[Gmail]).1, [8]);
    }
}
