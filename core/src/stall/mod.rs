//! The stall detector: how long turns take, whose doing it was, and, of those that take too long, what the core
//! was at.
//!
//! A turn that takes over a millisecond is a stall: something computed, or blocked, where nothing should. Unless the
//! thread stood ready to run while the kernel gave its CPU to others: then the host is at fault, and the turn is counted
//! as preempted. A turn is known to be preempted when the thread used less than [`STALL`] of CPU time in it and did not
//! give up the CPU by itself. Both figures come from the kernel, and asking in every turn would cost more than many
//! turns do; so they are asked for at most every [`SAMPLE_EVERY`], and what cannot be told apart counts as a stall.
//!
//! While a turn lasts over [`STALL_LONG`], a watchdog thread ([`watch`]) has its stack logged.

pub(crate) mod signal;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::signal::{Usage, usage};
use self::watch::Watched;
use crate::CoreId;
use crate::stats::CoreStats;

/// Turns longer than this are counted.
pub(crate) const STALL: Duration = Duration::from_millis(1);
/// Turns longer than this are logged, with a stack.
pub(crate) const STALL_LONG: Duration = Duration::from_millis(25);
/// The thread's usage is asked for no more often than this: two short system calls in so much time are some three
/// thousandths of it at most.
const SAMPLE_EVERY: Duration = Duration::from_micros(250);

/// The detector of one core. Lives on its thread.
pub(crate) struct StallDetector {
    core: CoreId,
    stats: Arc<CoreStats>,
    watched: Option<Arc<Watched>>,
    /// When the usage was last asked for, and what it was.
    sampled: Option<(Instant, Usage)>,
}

impl StallDetector {
    /// A detector for the calling thread, which is watched until the detector is dropped.
    pub(crate) fn new(core: CoreId, stats: Arc<CoreStats>) -> Self {
        Self { core, stats, watched: None, sampled: None }
    }

    /// The calling thread begins to run the core's turns.
    pub(crate) fn enter_thread(&mut self) {
        // A task's panic may have ended the turns before.
        self.leave_thread();
        self.sampled = None;
        self.watched = Some(watch::start(self.core, Arc::clone(&self.stats)));
    }

    /// The core's turns end on this thread.
    pub(crate) fn leave_thread(&mut self) {
        if let Some(watched) = self.watched.take() {
            watch::stop(&watched);
        }
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn begin(&mut self, now: Instant) {
        if let Some(watched) = &self.watched {
            watched.begin();
        }
        self.sample_if_due(now);
    }

    /// The turn that began at `began` ends.
    #[inline]
    pub(crate) fn end(&mut self, began: Instant, now: Instant) {
        if let Some(watched) = &self.watched {
            watched.end();
        }
        let busy = now - began;
        let micros = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        self.stats.busy_us.add(micros);
        if busy < STALL {
            self.sample_if_due(now);
        } else {
            self.note(busy, micros, now);
        }
    }

    #[inline]
    fn sample_if_due(&mut self, now: Instant) {
        if self.sampled.is_none_or(|(at, _)| now.saturating_duration_since(at) >= SAMPLE_EVERY) {
            self.sampled = Some((now, usage()));
        }
    }

    #[cold]
    fn note(&mut self, busy: Duration, micros: u64, now: Instant) {
        let spent = usage();
        let before = self.sampled.replace((now, spent)).map(|(_, usage)| usage);
        if let Some(before) = before {
            let cpu_us = u64::try_from(spent.cpu.saturating_sub(before.cpu).as_micros()).unwrap_or(u64::MAX);
            let waits = spent.switches_own - before.switches_own;
            tracing::debug!(core = %self.core, busy_us = micros, cpu_us, waits, "a turn took over a millisecond");
        }
        if before.is_some_and(|before| was_preempted(before, spent)) {
            self.stats.turns_preempted.add(1);
            return;
        }
        self.stats.stalls.add(1);
        self.stats.stall_longest_us.raise(micros);
        if busy >= STALL_LONG {
            self.stats.stalls_long.add(1);
            tracing::warn!(core = %self.core, busy_ms = micros / 1000, "a turn kept the core busy");
        }
    }
}

/// Whether a turn over [`STALL`] that ends with `after` was the kernel's doing. `before` is from before the turn, so the
/// differences are at least those of the turn.
fn was_preempted(before: Usage, after: Usage) -> bool {
    after.cpu.saturating_sub(before.cpu) < STALL && after.switches_own == before.switches_own
}

impl Drop for StallDetector {
    fn drop(&mut self) {
        self.leave_thread();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn used(cpu_us: u64, switches_own: i64) -> Usage {
        Usage { cpu: Duration::from_micros(cpu_us), switches_own }
    }

    #[test]
    fn a_turn_is_preempted_only_if_it_neither_computed_nor_waited() {
        assert!(was_preempted(used(5_000, 7), used(5_400, 7)));
        // It computed for a millisecond or more.
        assert!(!was_preempted(used(5_000, 7), used(6_000, 7)));
        // It may have slept within the turn.
        assert!(!was_preempted(used(5_000, 7), used(5_100, 8)));
    }

    #[test]
    fn the_time_a_thread_used_is_that_of_the_moment() {
        // Long enough for many ticks of the kernel's clock, in pieces much shorter than one.
        for _ in 0..1_000 {
            let (began, before) = (Instant::now(), usage());
            while began.elapsed() < Duration::from_micros(100) {}
            let (after, lasted) = (usage(), began.elapsed());
            // A thread uses no more time than passes.
            assert!(after.cpu - before.cpu <= lasted + Duration::from_micros(50), "in {lasted:?}");
        }
    }

    #[test]
    fn a_turn_that_blocks_or_computes_is_a_stall() {
        let stats: Arc<CoreStats> = Arc::default();
        let mut detector = StallDetector::new(CoreId::new(0), Arc::clone(&stats));
        let began = Instant::now();
        detector.begin(began);
        std::thread::sleep(Duration::from_millis(2));
        detector.end(began, Instant::now());
        assert_eq!((stats.stalls.get(), stats.turns_preempted.get()), (1, 0));

        let began = Instant::now();
        detector.begin(began);
        let computed = usage().cpu + Duration::from_millis(2);
        while usage().cpu < computed {}
        detector.end(began, Instant::now());
        assert_eq!((stats.stalls.get(), stats.turns_preempted.get()), (2, 0));
        assert!(stats.stall_longest_us.get() >= 2_000);
        assert!(stats.busy_us.get() >= 4_000);
    }
}
