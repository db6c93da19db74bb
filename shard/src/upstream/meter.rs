//! What a task waited for: the wall time during which something was under way that is not our own work.
//!
//! Invariant: a moment counts once, for the first of [`Wait`] that is under way then, so the parts never add up to more
//! than the whole.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::{Duration, Instant};

use sluice_protocols::api::Timing;

/// What can be waited for. Where several are under way at once, the one that comes first here is what is waited for:
/// a call that waits for its units holds nobody up while another is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// An answer of OpenAI's, repeats and the waits between them included.
    OpenAi,
    /// An answer of Google's, those of its token endpoint included.
    Google,
    /// Units of a quota, or a place among the calls under way.
    Quota,
    /// A read that was already on its way for somebody else.
    Shared,
}

/// How many kinds there are.
const KINDS: usize = Wait::Shared as usize + 1;

/// The waiting times of one task.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    under_way: [Cell<u32>; KINDS],
    /// Since when the first of those under way is that; meaningless while none is.
    since: Cell<Option<Instant>>,
    totals: [Cell<Duration>; KINDS],
}

impl Meter {
    /// Begins a wait; it ends when the guard is dropped.
    ///
    /// Reads the clock itself: the turn's clock would count our own work of a turn as waiting.
    pub(crate) fn begin(&self, wait: Wait) -> Under<'_> {
        self.begin_at(wait, Instant::now())
    }

    /// Waits for a future that may be ready at once, which then counts as no wait and costs no look at the clock.
    pub(crate) async fn during<F: Future>(&self, wait: Wait, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut under = None;
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && under.is_none() {
                under = Some(self.begin(wait));
            }
            polled
        })
        .await
    }

    fn begin_at(&self, wait: Wait, now: Instant) -> Under<'_> {
        self.count_until(now);
        let under_way = &self.under_way[wait as usize];
        under_way.set(under_way.get() + 1);
        Under { meter: self, wait }
    }

    fn end_at(&self, wait: Wait, now: Instant) {
        self.count_until(now);
        let under_way = &self.under_way[wait as usize];
        under_way.set(under_way.get() - 1);
    }

    fn first(&self) -> Option<usize> {
        self.under_way.iter().position(|count| count.get() > 0)
    }

    fn count_until(&self, now: Instant) {
        let since = self.since.replace(Some(now));
        if let (Some(kind), Some(since)) = (self.first(), since) {
            let total = &self.totals[kind];
            total.set(total.get() + now.saturating_duration_since(since));
        }
    }

    /// Microseconds so far, what is under way included.
    pub(crate) fn total_us(&self, wait: Wait) -> u64 {
        let is_open = self.first() == Some(wait as usize);
        let open = self.since.get().filter(|_| is_open).map(|since| since.elapsed());
        micros(self.totals[wait as usize].get() + open.unwrap_or_default())
    }

    /// Where the time since `began` went.
    pub(crate) fn timing(&self, began: Instant) -> Timing {
        let parts = Timing {
            openai_us: self.total_us(Wait::OpenAi),
            google_us: self.total_us(Wait::Google),
            quota_us: self.total_us(Wait::Quota),
            shared_us: self.total_us(Wait::Shared),
            ..Timing::default()
        };
        parts.of_total(micros(began.elapsed()))
    }
}

/// Whole microseconds of a duration.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A wait under way.
#[derive(Debug)]
pub(crate) struct Under<'a> {
    meter: &'a Meter,
    wait: Wait,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.meter.end_at(self.wait, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Begins and ends waits at given milliseconds.
    struct Script {
        meter: Meter,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            Self { meter: Meter::default(), start: Instant::now() }
        }

        fn begin(&self, wait: Wait, ms: u64) {
            std::mem::forget(self.meter.begin_at(wait, self.start + Duration::from_millis(ms)));
        }

        fn end(&self, wait: Wait, ms: u64) {
            self.meter.end_at(wait, self.start + Duration::from_millis(ms));
        }

        fn totals_ms(&self) -> [u64; KINDS] {
            let waits = [Wait::OpenAi, Wait::Google, Wait::Quota, Wait::Shared];
            waits.map(|wait| self.meter.total_us(wait) / 1_000)
        }
    }

    #[test]
    fn overlapping_calls_count_once_and_gaps_do_not_count() {
        let script = Script::new();
        script.begin(Wait::Google, 0);
        script.begin(Wait::Google, 10);
        script.end(Wait::Google, 20);
        script.end(Wait::Google, 30);
        script.begin(Wait::Google, 100);
        script.end(Wait::Google, 105);
        assert_eq!(script.totals_ms(), [0, 35, 0, 0]);
    }

    #[test]
    fn a_moment_counts_for_the_first_of_what_is_under_way() {
        let script = Script::new();
        script.begin(Wait::Shared, 0);
        script.begin(Wait::Quota, 5);
        script.begin(Wait::Google, 15);
        script.end(Wait::Quota, 20);
        script.end(Wait::Google, 40);
        script.end(Wait::Shared, 47);
        script.begin(Wait::OpenAi, 60);
        script.end(Wait::OpenAi, 62);
        assert_eq!(script.totals_ms(), [2, 25, 10, 12]);
    }

    #[test]
    fn what_is_ready_at_once_is_no_wait() {
        let meter = Meter::default();
        let mut cx = Context::from_waker(Waker::noop());
        let ready = pin!(meter.during(Wait::Quota, std::future::ready(7)));
        assert_eq!(ready.poll(&mut cx), Poll::Ready(7));
        assert_eq!(meter.since.get(), None, "the clock was not looked at");
        let mut pending = Box::pin(meter.during(Wait::Quota, std::future::pending::<()>()));
        assert!(pending.as_mut().poll(&mut cx).is_pending() && pending.as_mut().poll(&mut cx).is_pending());
        assert_eq!(meter.under_way[Wait::Quota as usize].get(), 1);
        drop(pending);
        assert_eq!(meter.under_way[Wait::Quota as usize].get(), 0);
    }

    #[test]
    fn what_is_under_way_counts_so_far() {
        let meter = Meter::default();
        let began = Instant::now() - Duration::from_secs(2);
        let _under = meter.begin_at(Wait::Quota, began);
        assert!(meter.total_us(Wait::Quota) >= 2_000_000);
        assert_eq!(meter.total_us(Wait::Google), 0);
    }
}
