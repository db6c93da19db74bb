//! A budget of the whole process, spent by all cores, over a sliding window: exact, and without a lock.
//!
//! Time is cut into slots. A core claims units for the slot that runs from the shared [`Ledger`], a chunk at a time, and
//! spends them from its own [`Lease`] until the slot is over; what is left then goes back. So the shared words are
//! touched once a chunk and once a slot, and what a core does not need is anyone's in the next slot.
//!
//! Invariants:
//! - The sum of what is claimed in any `slots_max` slots that follow each other is never above the limit, except by what
//!   [`Ledger::charge`] adds for things that were done already. A stretch of time as long as the window touches at most
//!   `slots_max` slots, so no such stretch sees more than the limit spent.
//! - `sum` is never below what the slots of the window hold: a claim raises it first, and only what was taken out of a
//!   slot is taken from it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::minutes::Ring;

/// Fewest slots of a window: units go back only to one of the last [`RETURN_SLOTS_MAX`] slots, which must be far from
/// being cleared.
const SLOTS_MIN: usize = 8;
/// Units that were not used go back when their slot is not older than this.
const RETURN_SLOTS_MAX: u64 = 2;

/// Over what time a limit holds.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The length of a slot.
    pub slot: Duration,
    /// Slots that any stretch as long as the window can touch.
    pub slots_max: usize,
}

impl Span {
    /// A window of `window`, and `slack` for the time between the moment units are spent here and the one they are
    /// counted there.
    pub fn new(window: Duration, slack: Duration, slot: Duration) -> Self {
        let whole = (window + slack).as_nanos().div_ceil(slot.as_nanos().max(1));
        let slots_max = usize::try_from(whole).unwrap_or(usize::MAX - 1) + 1;
        Self { slot, slots_max: slots_max.max(SLOTS_MIN) }
    }
}

/// What all cores share of one budget.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    span: Span,
    epoch: Instant,
    /// Claimed in the window; may be above that for a moment.
    sum: AtomicU64,
    /// By slot, in a ring one longer than the window.
    claimed: Box<[AtomicU64]>,
    /// The slot up to which the ring is cleared.
    cleared: AtomicU64,
    /// Where what is used is written as well, for the next process.
    ring: OnceLock<Ring>,
}

impl Ledger {
    /// A budget of `limit` units in any window.
    pub fn new(limit: u64, span: Span, epoch: Instant) -> Self {
        let claimed = (0..=span.slots_max).map(|_| AtomicU64::new(0)).collect();
        let cleared = AtomicU64::new(first_slot(&span));
        Self { limit, span, epoch, sum: AtomicU64::new(0), claimed, cleared, ring: OnceLock::new() }
    }

    /// Units in any window.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Claimed in the window that ends now.
    pub fn used(&self, now: Instant) -> u64 {
        self.clear(self.slot(now));
        self.sum.load(Relaxed)
    }

    fn slot(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        let since = u64::try_from(elapsed / self.span.slot.as_nanos().max(1)).unwrap_or(u64::MAX);
        since.saturating_add(first_slot(&self.span))
    }

    fn cell(&self, slot: u64) -> &AtomicU64 {
        &self.claimed[usize::try_from(slot % self.claimed.len() as u64).unwrap_or(0)]
    }

    /// Takes out what has left the window when slot `current` runs.
    fn clear(&self, current: u64) {
        let length = self.claimed.len() as u64;
        loop {
            let cleared = self.cleared.load(SeqCst);
            if cleared >= current {
                return;
            }
            // After a long pause one round over the ring is enough.
            let next = (cleared + 1).max(current.saturating_sub(length - 1));
            if self.cleared.compare_exchange(cleared, next, SeqCst, SeqCst).is_err() {
                continue;
            }
            // Slot `next` begins: the one a window before it is out, and its cell is the next to be used.
            let gone = self.cell(next + 1).swap(0, SeqCst);
            self.sum.fetch_sub(gone, SeqCst);
        }
    }

    /// Takes `units` out of the window, if `ceiling` allows.
    fn claim(&self, units: u64, ceiling: u64, current: u64) -> bool {
        self.clear(current);
        let raise = |sum: u64| sum.checked_add(units).filter(|sum| *sum <= ceiling.min(self.limit));
        if self.sum.fetch_update(SeqCst, SeqCst, raise).is_err() {
            return false;
        }
        self.cell(current).fetch_add(units, SeqCst);
        if let Some(ring) = self.ring.get() {
            ring.add(units, self.begin_of(current));
        }
        true
    }

    /// Counts what a ring says that earlier processes used, and writes there from now on. Only for the start.
    pub(super) fn keep_in(&self, ring: Ring, now: Instant) {
        let current = self.slot(now);
        self.clear(current);
        for (ago, units) in ring.used(now) {
            // Written is when a slot began, which may have been in the second before.
            let ago_ms = u64::try_from(ago.saturating_sub(self.span.slot).as_millis()).unwrap_or(u64::MAX);
            let back = ago_ms / u64::try_from(self.slot_ms()).unwrap_or(1);
            if back < self.span.slots_max as u64 {
                self.sum.fetch_add(units, SeqCst);
                self.cell(current.saturating_sub(back)).fetch_add(units, SeqCst);
            }
        }
        let _once = self.ring.set(ring);
    }

    fn give_back(&self, units: u64, slot: u64, current: u64) {
        if units == 0 || current.saturating_sub(slot) > RETURN_SLOTS_MAX {
            return;
        }
        self.cell(slot).fetch_sub(units, SeqCst);
        self.sum.fetch_sub(units, SeqCst);
        if let Some(ring) = self.ring.get() {
            ring.take_back(units, self.begin_of(slot));
        }
    }

    /// Counts what was used without being claimed, whatever the limit.
    pub fn charge(&self, units: u64, now: Instant) {
        let current = self.slot(now);
        self.clear(current);
        self.sum.fetch_add(units, SeqCst);
        self.cell(current).fetch_add(units, SeqCst);
        if let Some(ring) = self.ring.get() {
            ring.add(units, self.begin_of(current));
        }
    }

    /// How long until `units` fit under `ceiling`, if nothing more is claimed. `None` when they never do.
    pub fn wait(&self, units: u64, ceiling: u64, now: Instant) -> Option<Duration> {
        let ceiling = ceiling.min(self.limit);
        let room = ceiling.checked_sub(units)?;
        let current = self.slot(now);
        self.clear(current);
        let mut sum = self.sum.load(Relaxed);
        if sum <= room {
            return Some(Duration::ZERO);
        }
        let slots = self.span.slots_max as u64;
        // Oldest first: slot `current - slots + 1` leaves the window when `current + 1` begins.
        for ahead in 1..=slots {
            let Some(slot) = (current + ahead).checked_sub(slots) else { continue };
            sum = sum.saturating_sub(self.cell(slot).load(Relaxed));
            if sum <= room {
                return Some(self.begin_of(current + ahead).saturating_duration_since(now));
            }
        }
        Some(self.begin_of(current + slots).saturating_duration_since(now))
    }

    fn begin_of(&self, slot: u64) -> Instant {
        self.epoch
            + Duration::from_nanos(u64::try_from(self.span.slot.as_nanos()).unwrap_or(u64::MAX))
                * u32::try_from(slot.saturating_sub(first_slot(&self.span))).unwrap_or(u32::MAX)
    }

    /// What is claimed in the window that ends now, oldest first: when its slot ended, in seconds from now (below 0 is
    /// past), and its units.
    pub fn history(&self, now: Instant) -> Vec<(i64, u64)> {
        let current = self.slot(now);
        self.clear(current);
        let oldest = (current + 1).saturating_sub(self.span.slots_max as u64);
        let end = |slot: u64| {
            let back = i64::try_from(current - slot).unwrap_or(i64::MAX);
            (self.left_ms(now, current) - back.saturating_mul(self.slot_ms()) + 500).div_euclid(1_000)
        };
        let slots = (oldest..=current).map(|slot| (end(slot), self.cell(slot).load(Relaxed)));
        slots.filter(|(_, units)| *units > 0).collect()
    }

    /// Counts what was used in a slot that ended so many seconds from now, before this process; nothing that has left
    /// the window. Only for the start.
    pub fn restore(&self, end_s: i64, units: u64, now: Instant) {
        let current = self.slot(now);
        self.clear(current);
        // Slots keep their places on the clock, but for less than a second.
        let back_ms = self.left_ms(now, current).saturating_sub(end_s.saturating_mul(1_000));
        let back = (back_ms + self.slot_ms() / 2).div_euclid(self.slot_ms()).max(0);
        let back = u64::try_from(back).unwrap_or(u64::MAX);
        if back >= self.span.slots_max as u64 {
            return;
        }
        self.sum.fetch_add(units, SeqCst);
        self.cell(current.saturating_sub(back)).fetch_add(units, SeqCst);
    }

    fn slot_ms(&self) -> i64 {
        i64::try_from(self.span.slot.as_millis()).unwrap_or(i64::MAX).max(1)
    }

    /// How long the slot that runs still does.
    fn left_ms(&self, now: Instant, current: u64) -> i64 {
        let left = self.begin_of(current + 1).saturating_duration_since(now);
        i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The number of the slot that runs when the process starts: those of a whole window come before it.
fn first_slot(span: &Span) -> u64 {
    span.slots_max as u64
}

/// One core's hold on a budget.
#[derive(Debug)]
pub(crate) struct Lease {
    ledger: Arc<Ledger>,
    chunk: u64,
    units: u64,
    slot: u64,
}

/// The slot units were spent in: where they go back to when they were not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent(u64);

impl Lease {
    /// A core claims about a quarter of its share of a slot at once.
    pub(crate) fn new(ledger: Arc<Ledger>, cores: usize) -> Self {
        let parts = (ledger.span.slots_max as u64).saturating_mul(cores.max(1) as u64).saturating_mul(4);
        let chunk = (ledger.limit / parts.max(1)).max(1);
        Self { ledger, chunk, units: 0, slot: 0 }
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Spends `units`, if that stays under `ceiling`.
    pub(crate) fn take(&mut self, units: u64, ceiling: u64, now: Instant) -> Option<Spent> {
        let current = self.ledger.slot(now);
        if self.slot != current {
            self.ledger.give_back(self.units, self.slot, current);
            self.units = 0;
            self.slot = current;
        }
        if let Some(missing) = units.checked_sub(self.units).filter(|missing| *missing > 0) {
            let chunk = missing.max(self.chunk);
            let claimed =
                [chunk, missing].into_iter().find(|ask| self.ledger.claim(*ask, ceiling, current))?;
            self.units += claimed;
        }
        self.units -= units;
        Some(Spent(current))
    }

    /// Gives back what was not used after all. Units spent too long ago stay spent.
    pub(crate) fn put_back(&mut self, units: u64, spent: Spent, now: Instant) {
        if spent.0 == self.slot {
            self.units += units;
        } else {
            self.ledger.give_back(units, spent.0, self.ledger.slot(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn span() -> Span {
        Span::new(Duration::from_secs(60), SECOND, SECOND)
    }

    #[test]
    fn a_window_is_spent_once_and_comes_back_slot_by_slot() {
        let start = Instant::now();
        let ledger = Arc::new(Ledger::new(100, span(), start));
        let mut lease = Lease::new(Arc::clone(&ledger), 1);
        assert!(lease.take(60, 100, start).is_some());
        let later = start + Duration::from_secs(10);
        assert!(lease.take(40, 100, later).is_some());
        assert!(lease.take(1, 100, later).is_none());
        assert_eq!(ledger.wait(1, 100, later), Some(Duration::from_secs(52)));
        assert_eq!(ledger.wait(61, 100, later), Some(Duration::from_secs(62)));
        assert_eq!(ledger.wait(101, 100, later), None);
        assert!(lease.take(1, 100, start + Duration::from_millis(61_999)).is_none());
        assert!(lease.take(60, 100, start + Duration::from_secs(62)).is_some());
        assert!(lease.take(1, 100, start + Duration::from_secs(62)).is_none());
    }

    #[test]
    fn what_a_core_does_not_use_is_anyones_in_the_next_slot() {
        let start = Instant::now();
        let ledger = Arc::new(Ledger::new(100_000, span(), start));
        let mut cores: Vec<Lease> = (0..2).map(|_| Lease::new(Arc::clone(&ledger), 2)).collect();
        assert!(cores[0].take(1, 100_000, start).is_some());
        assert!(ledger.used(start) > 1);
        assert!(cores[0].take(0, 100_000, start + SECOND).is_some());
        assert_eq!(ledger.used(start + SECOND), 1);
        assert!(cores[1].take(99_999, 100_000, start + SECOND).is_some());
        assert!(cores[0].take(1, 100_000, start + SECOND).is_none());
    }

    #[test]
    fn a_pause_of_any_length_leaves_an_empty_window() {
        let start = Instant::now();
        for seconds in [62, 63, 124, 125, 1_000_000] {
            let ledger = Arc::new(Ledger::new(10, span(), start));
            let mut lease = Lease::new(Arc::clone(&ledger), 1);
            for second in 0..10 {
                assert!(lease.take(1, 10, start + second * SECOND).is_some());
            }
            let later = start + 9 * SECOND + seconds * SECOND;
            assert_eq!(ledger.used(later), 0, "{seconds}");
            assert!(lease.take(10, 10, later).is_some());
        }
    }

    #[test]
    fn what_was_used_before_the_start_leaves_the_window_in_its_time() {
        let start = Instant::now();
        let old = Ledger::new(100, span(), start);
        old.charge(30, start);
        old.charge(20, start + 40 * SECOND);
        let saved = start + 50 * SECOND;
        assert_eq!(old.history(saved), [(-49, 30), (-9, 20)]);
        let new = Arc::new(Ledger::new(100, span(), saved));
        for (end_s, units) in old.history(saved) {
            new.restore(end_s, units, saved);
        }
        new.restore(-61, 1_000, saved);
        assert_eq!((new.used(saved), new.history(saved)), (50, old.history(saved)));
        let mut lease = Lease::new(Arc::clone(&new), 1);
        assert!(lease.take(51, 100, saved).is_none() && lease.take(50, 100, saved).is_some());
        for (seconds, used) in [(11, 100), (12, 70), (51, 70), (52, 50), (61, 50), (62, 0)] {
            assert_eq!(new.used(saved + seconds * SECOND), used, "{seconds}");
        }
    }

    #[test]
    fn what_was_used_unasked_is_paid_for_later() {
        let start = Instant::now();
        let ledger = Arc::new(Ledger::new(10, span(), start));
        let mut lease = Lease::new(Arc::clone(&ledger), 1);
        ledger.charge(25, start);
        assert!(lease.take(1, 10, start).is_none());
        assert!(lease.take(1, 10, start + 62 * SECOND).is_some());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take { core: usize, units: u64, share: u64 },
        PutBack { core: usize },
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..4usize, 0..120u64, 50..=100u64)
                .prop_map(|(core, units, share)| Step::Take { core, units, share }),
            1 => (0..4usize).prop_map(|core| Step::PutBack { core }),
            4 => prop_oneof![0..50u64, 0..3_000u64, 0..70_000u64].prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// The exact model: every unit with the moment it was spent; no stretch of 60 s may hold more than the limit.
        #[test]
        fn no_stretch_of_the_window_ever_holds_more_than_the_limit(limit in 1..2_000u64, steps in steps()) {
            let start = Instant::now();
            let mut now = start;
            let ledger = Arc::new(Ledger::new(limit, span(), start));
            let mut cores: Vec<Lease> = (0..4).map(|_| Lease::new(Arc::clone(&ledger), 4)).collect();
            let mut spent: Vec<(Instant, u64)> = Vec::new();
            let mut last: [Option<(u64, Spent, usize)>; 4] = [None; 4];
            for step in steps {
                match step {
                    Step::Take { core, units, share } => {
                        let ceiling = limit * share / 100;
                        if let Some(slot) = cores[core].take(units, ceiling, now) {
                            last[core] = Some((units, slot, spent.len()));
                            spent.push((now, units));
                        }
                    }
                    Step::PutBack { core } => {
                        if let Some((units, slot, at)) = last[core].take() {
                            cores[core].put_back(units, slot, now);
                            spent[at].1 = 0;
                        }
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                let window = spent.iter().rev().take_while(|(at, _)| now.duration_since(*at) <= 61 * SECOND);
                prop_assert!(window.map(|(_, units)| units).sum::<u64>() <= limit);
                prop_assert!(ledger.used(now) <= limit);
            }
            // Nothing is lost: after a whole window of rest all of it is there again.
            let rested = now + 70 * SECOND;
            prop_assert!(cores[0].take(limit, limit, rested).is_some());
        }
    }

    #[test]
    fn threads_that_race_never_take_more_than_there_is() {
        let start = Instant::now();
        let ledger = Arc::new(Ledger::new(10_000, span(), start));
        let taken: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let mut lease = Lease::new(Arc::clone(&ledger), 4);
                    scope
                        .spawn(move || (0..20_000).filter(|_| lease.take(1, 10_000, start).is_some()).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("ends") as u64).sum()
        });
        assert!(taken <= 10_000 && taken > 9_000, "{taken}");
    }
}
