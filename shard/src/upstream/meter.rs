//! How long a task waited for others: the wall time during which at least one call was under way.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The waiting times of one task.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) openai: Busy,
    pub(crate) google: Busy,
}

/// Adds up the time during which at least one guard is alive: parallel calls count once.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    under_way: Cell<u32>,
    since: Cell<Option<Instant>>,
    total: Cell<Duration>,
}

impl Busy {
    /// Begins a call; it ends when the guard is dropped.
    ///
    /// Reads the clock itself: the turn's clock would count our own work of a turn as the other's.
    pub(crate) fn begin(&self) -> Under<'_> {
        self.begin_at(Instant::now())
    }

    fn begin_at(&self, now: Instant) -> Under<'_> {
        if self.under_way.get() == 0 {
            self.since.set(Some(now));
        }
        self.under_way.set(self.under_way.get() + 1);
        Under(self)
    }

    fn end_at(&self, now: Instant) {
        self.under_way.set(self.under_way.get() - 1);
        if self.under_way.get() == 0
            && let Some(since) = self.since.take()
        {
            self.total.set(self.total.get() + now.saturating_duration_since(since));
        }
    }

    /// Microseconds so far, a call under way included.
    pub(crate) fn total_us(&self) -> u64 {
        let open = self.since.get().map(|since| since.elapsed()).unwrap_or_default();
        micros(self.total.get() + open)
    }
}

/// Whole microseconds of a duration.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Under<'a>(&'a Busy);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.end_at(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_calls_count_once_and_gaps_do_not_count() {
        let busy = Busy::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let end = |guard: Under<'_>, ms| {
            std::mem::forget(guard);
            busy.end_at(at(ms));
        };
        let first = busy.begin_at(at(0));
        let second = busy.begin_at(at(10));
        end(first, 20);
        end(second, 30);
        let third = busy.begin_at(at(100));
        end(third, 105);
        assert_eq!(busy.total_us(), 35_000);
    }
}
