//! Timers in user space: a hierarchical wheel, and the futures that use it.
//!
//! [`TimerWheel`] knows no clock and no tasks; the reactor owns one for its
//! tasks, the QUIC endpoint another for its connections.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::executor::with_inner;

/// log2 of a tick in nanoseconds: 2^18 ns is about 0.26 ms, a quarter of the
/// 1 ms granularity that QUIC loss timers ask for (RFC 9002 section 6.1.2).
const TICK_SHIFT: u32 = 18;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Seven levels of 64 slots cover 2^42 ticks, some 36 years.
const LEVELS: usize = 7;
const LEVEL_TOP: u32 = 6;
const TICKS_MAX: u64 = 1 << (SLOT_BITS * 7);
const _: () = assert!(LEVEL_TOP as usize + 1 == LEVELS && TICKS_MAX == 1 << (SLOT_BITS * (LEVEL_TOP + 1)));
const NIL: u32 = u32::MAX;

/// Names a timer that has not fired. A key outlives its timer harmlessly: it
/// carries a generation, so cancelling late does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

struct Entry<T> {
    value: Option<T>,
    when: u64,
    generation: u32,
    level: u8,
    slot: u8,
    prev: u32,
    next: u32,
}

/// A hierarchical timing wheel: insert, cancel and fire in O(1), each timer
/// moved at most [`LEVELS`] times.
///
/// Never fires early; may fire up to one tick (0.26 ms) late, apart from how
/// late [`TimerWheel::advance`] is called.
pub struct TimerWheel<T> {
    origin: Instant,
    /// Ticks up to which timers have been fired.
    elapsed: u64,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    entries: Slab<Entry<T>>,
    generation: u32,
}

impl<T> TimerWheel<T> {
    /// An empty wheel; no timer may be due before `origin`.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            elapsed: 0,
            heads: [[NIL; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            entries: Slab::new(),
            generation: 0,
        }
    }

    /// Timers that have neither fired nor been cancelled.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a timer. A deadline in the past fires on the next
    /// [`advance`](Self::advance); one beyond the wheel's span (36 years) is
    /// clamped to it.
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        let when = self.tick_after(deadline).clamp(self.elapsed + 1, self.elapsed + TICKS_MAX - 1);
        self.generation = self.generation.wrapping_add(1);
        let entry = Entry {
            value: Some(value),
            when,
            generation: self.generation,
            level: 0,
            slot: 0,
            prev: NIL,
            next: NIL,
        };
        let index = u32::try_from(self.entries.insert(entry)).expect("fewer than 2^32 timers");
        self.link(index);
        TimerKey { index, generation: self.generation }
    }

    /// Takes a timer back; `None` when it has fired or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        self.unlink(key.index);
        self.entries.remove(key.index as usize).value
    }

    /// The value of a timer that is still set, to change it in place.
    pub fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// A time not after the earliest deadline: when to call
    /// [`advance`](Self::advance) next. It may be early (a coarse slot that must
    /// be spread over finer ones first), never late.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, _, tick) = self.next_slot()?;
        Some(self.origin + Duration::from_nanos(tick << TICK_SHIFT))
    }

    /// Fires every timer due at `now`, earliest slot first; timers within one
    /// tick fire in no particular order.
    pub fn advance(&mut self, now: Instant, mut fire: impl FnMut(T)) {
        let target = self.tick_before(now);
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            let mut index = std::mem::replace(&mut self.heads[level][slot], NIL);
            self.occupied[level] &= !(1 << slot);
            while index != NIL {
                let next = self.entries[index as usize].next;
                if self.entries[index as usize].when <= target {
                    let entry = self.entries.remove(index as usize);
                    fire(entry.value.expect("a set timer holds its value"));
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.elapsed = self.elapsed.max(target);
    }

    fn tick_before(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos >> TICK_SHIFT).unwrap_or(u64::MAX >> 1)
    }

    fn tick_after(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from((nanos + (1 << TICK_SHIFT) - 1) >> TICK_SHIFT).unwrap_or(u64::MAX >> 1)
    }

    /// The level is the highest group of six bits in which deadline and present
    /// differ: all timers of a slot at level 0 share their tick, at level 1
    /// their tick / 64, and so on.
    fn link(&mut self, index: u32) {
        let when = self.entries[index as usize].when;
        let differing = (self.elapsed ^ when) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVEL_TOP);
        #[allow(clippy::cast_possible_truncation, reason = "masked to six bits")]
        let slot = ((when >> (level * SLOT_BITS)) & (SLOTS as u64 - 1)) as u8;
        #[allow(clippy::cast_possible_truncation, reason = "below LEVELS")]
        let level = level as u8;
        let head = std::mem::replace(&mut self.heads[level as usize][slot as usize], index);
        self.occupied[level as usize] |= 1 << slot;
        let entry = &mut self.entries[index as usize];
        (entry.level, entry.slot, entry.prev, entry.next) = (level, slot, NIL, head);
        if head != NIL {
            self.entries[head as usize].prev = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { level, slot, prev, next, .. } = self.entries[index as usize];
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
            return;
        }
        self.heads[level as usize][slot as usize] = next;
        if next == NIL {
            self.occupied[level as usize] &= !(1 << slot);
        }
    }

    /// The earliest occupied slot and the tick at which it begins. Lower levels
    /// come first: all of level `n` lies within the present slot of `n + 1`.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            #[allow(clippy::cast_possible_truncation, reason = "below LEVELS")]
            let shift = level as u32 * SLOT_BITS;
            #[allow(clippy::cast_possible_truncation, reason = "masked to six bits")]
            let current = ((self.elapsed >> shift) & (SLOTS as u64 - 1)) as u32;
            let ahead = self.occupied[level].rotate_right(current).trailing_zeros();
            let slot = (current + ahead) as usize % SLOTS;
            let span = 1u64 << (shift + SLOT_BITS);
            let mut tick = (self.elapsed & !(span - 1)) + ((slot as u64) << shift);
            if tick < self.elapsed & !((1 << shift) - 1) {
                // Only the top level wraps around.
                tick += span;
            }
            return Some((level, slot, tick));
        }
        None
    }
}

impl<T> fmt::Debug for TimerWheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerWheel").field("len", &self.len()).field("elapsed", &self.elapsed).finish()
    }
}

/// A timer on the current reactor, see [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    key: Option<TimerKey>,
    done: bool,
}

/// Completes once the turn's clock has reached `deadline`.
///
/// # Panics
/// When polled outside a reactor.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None, done: false }
}

/// Completes once `duration` has passed since the turn's clock.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(crate::now() + duration)
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        with_inner(|inner| {
            let mut timers = inner.timers.borrow_mut();
            if let Some(key) = self.key {
                match timers.get_mut(key) {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => {
                        self.key = None;
                        self.done = true;
                        return Poll::Ready(());
                    }
                }
                return Poll::Pending;
            }
            if self.deadline <= inner.now() {
                self.done = true;
                return Poll::Ready(());
            }
            self.key = Some(timers.insert(self.deadline, cx.waker().clone()));
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // A sleep may be dropped after its reactor, when nothing is left to cancel.
            let _: Option<Option<Waker>> =
                crate::executor::try_with_inner(|inner| inner.timers.borrow_mut().cancel(key));
        }
    }
}

/// The deadline passed before the future completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline elapsed")]
pub struct Elapsed;

/// Runs `future` until `deadline`; the future is dropped when it is not done by
/// then. The future is polled first, so one that is ready wins over a deadline
/// already past.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep_until(deadline));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

    #[test]
    fn cancelled_timers_do_not_fire() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        let keep = wheel.insert(start + Duration::from_millis(5), "keep");
        let gone = wheel.insert(start + Duration::from_millis(5), "gone");
        assert_eq!(wheel.cancel(gone), Some("gone"));
        assert_eq!(wheel.cancel(gone), None);
        let mut fired = vec![];
        wheel.advance(start + Duration::from_millis(6), |v| fired.push(v));
        assert_eq!(fired, ["keep"]);
        assert_eq!(wheel.cancel(keep), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_key_of_a_fired_timer_never_cancels_its_successor() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        let old = wheel.insert(start, 1);
        wheel.advance(start + TICK * 2, |_| ());
        wheel.insert(start + TICK * 9, 2);
        assert_eq!(wheel.cancel(old), None);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn a_deadline_beyond_the_span_is_clamped() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        wheel.insert(start + Duration::from_secs(200 * 365 * 24 * 3600), ());
        assert!(wheel.next_deadline().is_some());
        wheel.advance(start + Duration::from_secs(3600), |()| panic!("fired early"));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64),
        Cancel(prop::sample::Index),
        Advance(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        // Spans from below a tick to days, so that every level is used.
        let micros = prop_oneof![0u64..2_000, 0u64..2_000_000, 0u64..400_000_000_000];
        prop::collection::vec(
            prop_oneof![
                4 => micros.clone().prop_map(Op::Insert),
                2 => any::<prop::sample::Index>().prop_map(Op::Cancel),
                3 => micros.prop_map(Op::Advance),
            ],
            1..120,
        )
    }

    proptest! {
        /// Against a plain list: nothing fires early, nothing later than one
        /// tick, nothing twice, and the reported deadline is never late.
        #[test]
        fn fires_what_a_list_would(ops in ops()) {
            let start = Instant::now();
            let mut now = start;
            let mut wheel = TimerWheel::new(start);
            let mut model: HashMap<usize, (Instant, TimerKey)> = HashMap::new();
            for (id, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(us) => {
                        let at = now + Duration::from_micros(us);
                        let key = wheel.insert(at, id);
                        model.insert(id, (at, key));
                    }
                    Op::Cancel(pick) => {
                        let mut live: Vec<_> = model.keys().copied().collect();
                        live.sort_unstable();
                        if !live.is_empty() {
                            let victim = *pick.get(&live);
                            let (_, key) = model.remove(&victim).unwrap();
                            prop_assert_eq!(wheel.cancel(key), Some(victim));
                        }
                    }
                    Op::Advance(us) => {
                        now += Duration::from_micros(us);
                        let mut fired = vec![];
                        wheel.advance(now, |id| fired.push(id));
                        for id in fired {
                            let (at, _) = model.remove(&id).expect("fired once, and only while set");
                            prop_assert!(at <= now, "fired early");
                        }
                        for (at, _) in model.values() {
                            prop_assert!(*at + TICK * 2 > now, "overdue by more than a tick");
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let earliest = model.values().map(|(at, _)| *at).min();
                match (wheel.next_deadline(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(at)) => prop_assert!(next <= at.max(now) + TICK * 2),
                    (next, at) => prop_assert!(false, "{next:?} against {at:?}"),
                }
            }
        }
    }
}
