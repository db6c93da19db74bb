//! What one user spent in the last window. A user belongs to one core, so nothing is shared.
//!
//! Invariant: no stretch as long as the window holds more than the limit, for the same reason as in a
//! [`Ledger`](super::Ledger): units count until every stretch that could hold them has passed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ledger::Span;

/// One user's window: at most one entry a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    spent: VecDeque<(u64, u64)>,
    sum: u64,
}

/// Slots as all windows of a core count them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) span: Span,
    pub(crate) epoch: Instant,
}

impl Slots {
    fn at(self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(elapsed / self.span.slot.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    fn begin_of(self, slot: u64) -> Instant {
        self.epoch + self.span.slot * u32::try_from(slot).unwrap_or(u32::MAX)
    }
}

impl Window {
    fn forget(&mut self, current: u64, slots: Slots) {
        while let Some((slot, units)) = self.spent.front().copied() {
            if slot + slots.span.slots_max as u64 > current {
                break;
            }
            self.spent.pop_front();
            self.sum -= units;
        }
    }

    /// Whether nothing counts any more.
    pub(crate) fn is_empty(&mut self, slots: Slots, now: Instant) -> bool {
        self.forget(slots.at(now), slots);
        self.sum == 0
    }

    /// How long until `units` fit under `limit`; `None` when they never do.
    pub(crate) fn wait(&mut self, units: u64, limit: u64, slots: Slots, now: Instant) -> Option<Duration> {
        let room = limit.checked_sub(units)?;
        self.forget(slots.at(now), slots);
        let mut sum = self.sum;
        if sum <= room {
            return Some(Duration::ZERO);
        }
        for (slot, units) in &self.spent {
            sum -= units;
            if sum <= room {
                let out = slots.begin_of(slot + slots.span.slots_max as u64);
                return Some(out.saturating_duration_since(now));
            }
        }
        None
    }

    /// Counts `units`.
    pub(crate) fn spend(&mut self, units: u64, slots: Slots, now: Instant) {
        let current = slots.at(now);
        self.sum += units;
        match self.spent.back_mut() {
            Some((slot, sum)) if *slot >= current => *sum += units,
            _ => self.spent.push_back((current, units)),
        }
    }

    /// Counts what an earlier process spent so long ago at the latest; oldest first, before anything is spent.
    pub(crate) fn restore(&mut self, units: u64, ago: Duration, slots: Slots, now: Instant) {
        let back = u64::try_from(ago.as_nanos() / slots.span.slot.as_nanos().max(1)).unwrap_or(u64::MAX);
        let (current, slots_max) = (slots.at(now), slots.span.slots_max as u64);
        if back >= slots_max {
            return;
        }
        let slot = current.saturating_sub(back);
        self.sum += units;
        match self.spent.back_mut() {
            Some((last, sum)) if *last >= slot => *sum += units,
            _ => self.spent.push_back((slot, units)),
        }
    }

    /// Takes back what was spent at `then` and not used.
    pub(crate) fn put_back(&mut self, units: u64, slots: Slots, then: Instant) {
        let slot = slots.at(then);
        if let Some((_, sum)) = self.spent.iter_mut().find(|(at, sum)| *at == slot && *sum >= units) {
            *sum -= units;
            self.sum -= units;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_minute_of_a_user_holds_more_than_the_limit_and_waits_are_true(
            limit in 1..500u64,
            steps in proptest::collection::vec((0..200u64, 0..20_000u64), 0..200),
        ) {
            let start = Instant::now();
            let span = Span::new(Duration::from_secs(60), Duration::from_secs(1), Duration::from_secs(1));
            let slots = Slots { span, epoch: start };
            let (mut window, mut now, mut spent) = (Window::default(), start, Vec::new());
            for (units, wait_ms) in steps {
                now += Duration::from_millis(wait_ms);
                match window.wait(units, limit, slots, now) {
                    None => prop_assert!(units > limit),
                    Some(wait) if wait.is_zero() => {
                        window.spend(units, slots, now);
                        spent.push((now, units));
                    }
                    Some(wait) => {
                        let mut window = window.clone();
                        prop_assert!(window.wait(units, limit, slots, now + wait) == Some(Duration::ZERO));
                    }
                }
                let minute = |at: &Instant| now.duration_since(*at) <= Duration::from_secs(61);
                let sum: u64 = spent.iter().filter(|(at, _)| minute(at)).map(|(_, units)| units).sum();
                prop_assert!(sum <= limit);
            }
        }
    }
}
