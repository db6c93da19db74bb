//! A circuit breaker: stops asking a service that does not answer, and finds out when it does again. Pure.
//!
//! ```text
//! closed --many failures--> open --time--> half open --probes good--> closed
//!                             ^----------a probe bad----'
//! ```
//! Each core has its own for each upstream and operation ([`super::breakers`]): they share nothing, so a core that meets
//! the trouble learns of it by its own calls.
//!
//! Invariants:
//! - While open, nothing passes; while half open, at most [`PROBES_MAX`] calls are under way.
//! - Every call that was let through is ended by exactly one `end`.

use std::time::{Duration, Instant};

/// Calls under way while half open; as many good ones in a row close it.
const PROBES_MAX: u32 = 2;
/// The rolling rate looks back over so many buckets of a second.
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default 10.
    pub failures_in_a_row: u32,
    /// Share of failures in the last 10 s that opens it, in percent. Default 50.
    pub failure_percent: u32,
    /// Calls in the last 10 s below which the share says nothing. Default 20.
    pub calls_min: u32,
    /// How long it stays open at first; doubled with each probe that fails. Default 2 s.
    pub open: Duration,
    /// The longest it stays open. Default 30 s.
    pub open_max: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures_in_a_row: 10,
            failure_percent: 50,
            calls_min: 20,
            open: Duration::from_secs(2),
            open_max: Duration::from_secs(30),
        }
    }
}

/// How a call that was let through ended, as far as it tells whether the service works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, whatever it said.
    Good,
    /// It failed, broke off or was too slow.
    Bad,
    /// Nothing was learned: the call was given up here.
    Nothing,
}

/// How a breaker stands, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { under_way: u32, good: u32 },
}

/// See the module.
pub(crate) struct Breaker {
    config: BreakerConfig,
    state: State,
    /// How long it will stay open the next time.
    open: Duration,
    in_a_row: u32,
    /// Good and bad calls, by second.
    buckets: [(u32, u32); BUCKETS],
    newest: u64,
    epoch: Instant,
    /// Counts the times it opened: calls from before say nothing about now.
    generation: u64,
    opened: u64,
}

/// The leave to make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    generation: u64,
    is_probe: bool,
}

impl Leave {
    /// Whether the call finds out how the service is.
    pub(crate) const fn is_probe(self) -> bool {
        self.is_probe
    }
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig, now: Instant) -> Self {
        Self {
            config,
            state: State::Closed,
            open: config.open,
            in_a_row: 0,
            buckets: [(0, 0); BUCKETS],
            newest: 0,
            epoch: now,
            generation: 0,
            opened: 0,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// How long it lets nothing through yet; `None` when a call may be tried.
    pub(crate) fn closed_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            _ => None,
        }
    }

    /// Lets a call through, or says how long to wait before asking again.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<Leave, Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until - now);
            }
            self.state = State::HalfOpen { under_way: 0, good: 0 };
        }
        let generation = self.generation;
        match &mut self.state {
            State::HalfOpen { under_way, .. } if *under_way >= PROBES_MAX => Err(Duration::from_secs(1)),
            State::HalfOpen { under_way, .. } => {
                *under_way += 1;
                Ok(Leave { generation, is_probe: true })
            }
            State::Closed | State::Open { .. } => Ok(Leave { generation, is_probe: false }),
        }
    }

    /// A call ended.
    pub(crate) fn end(&mut self, leave: Leave, verdict: Verdict, now: Instant) {
        if leave.generation != self.generation {
            return;
        }
        if leave.is_probe {
            return self.end_probe(verdict, now);
        }
        let bucket = self.bucket(now);
        match verdict {
            Verdict::Nothing => {}
            Verdict::Good => {
                bucket.0 += 1;
                self.in_a_row = 0;
            }
            Verdict::Bad => {
                bucket.1 += 1;
                self.in_a_row += 1;
                if self.in_a_row >= self.config.failures_in_a_row || self.rate_is_bad() {
                    self.trip(now);
                }
            }
        }
    }

    fn end_probe(&mut self, verdict: Verdict, now: Instant) {
        let State::HalfOpen { under_way, good } = &mut self.state else { return };
        *under_way -= 1;
        match verdict {
            Verdict::Nothing => {}
            Verdict::Bad => {
                self.open = (self.open * 2).min(self.config.open_max);
                self.trip(now);
            }
            Verdict::Good => {
                *good += 1;
                if *good >= PROBES_MAX {
                    self.state = State::Closed;
                    self.generation += 1;
                    self.open = self.config.open;
                    self.in_a_row = 0;
                    self.buckets = [(0, 0); BUCKETS];
                }
            }
        }
    }

    fn trip(&mut self, now: Instant) {
        self.state = State::Open { until: now + self.open };
        self.generation += 1;
        self.opened += 1;
        self.in_a_row = 0;
    }

    fn bucket(&mut self, now: Instant) -> &mut (u32, u32) {
        let at = now.saturating_duration_since(self.epoch).as_secs() / BUCKET.as_secs();
        let gone = at.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 1..=gone {
            self.buckets[index(self.newest + step)] = (0, 0);
        }
        if gone == BUCKETS as u64 {
            self.buckets = [(0, 0); BUCKETS];
        }
        self.newest = self.newest.max(at);
        &mut self.buckets[index(self.newest)]
    }

    fn rate_is_bad(&self) -> bool {
        let (good, bad) =
            self.buckets.iter().fold((0, 0), |(good, bad), bucket| (good + bucket.0, bad + bucket.1));
        let all = good + bad;
        all >= self.config.calls_min && bad * 100 >= all * self.config.failure_percent
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at % BUCKETS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn call(breaker: &mut Breaker, verdict: Verdict, now: Instant) -> bool {
        match breaker.begin(now) {
            Ok(leave) => {
                breaker.end(leave, verdict, now);
                true
            }
            Err(_) => false,
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_good_probes_close_it() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), start);
        for _ in 0..9 {
            assert!(call(&mut breaker, Verdict::Bad, start));
        }
        assert!(call(&mut breaker, Verdict::Good, start));
        for _ in 0..9 {
            assert!(call(&mut breaker, Verdict::Bad, start));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(call(&mut breaker, Verdict::Bad, start));
        assert_eq!(breaker.begin(start), Err(2 * SECOND));
        let later = start + 2 * SECOND;
        let (first, second) =
            (breaker.begin(later).expect("a probe"), breaker.begin(later).expect("a probe"));
        assert!(breaker.begin(later).is_err());
        breaker.end(first, Verdict::Good, later);
        breaker.end(second, Verdict::Good, later);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_bad_probe_opens_it_for_longer_and_a_lost_one_is_made_again() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), now);
        (0..10).for_each(|_| assert!(call(&mut breaker, Verdict::Bad, now)));
        for seconds in [4, 8, 16, 30, 30] {
            now += 60 * SECOND;
            assert!(call(&mut breaker, Verdict::Nothing, now));
            assert!(call(&mut breaker, Verdict::Bad, now));
            assert_eq!(breaker.begin(now), Err(seconds * SECOND));
        }
        assert_eq!(breaker.opened(), 6);
    }

    #[test]
    fn a_share_of_failures_opens_it_and_old_ones_are_forgotten() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), start);
        for _ in 0..9 {
            assert!(call(&mut breaker, Verdict::Good, start) && call(&mut breaker, Verdict::Bad, start));
        }
        let later = start + 11 * SECOND;
        for _ in 0..9 {
            assert!(call(&mut breaker, Verdict::Good, later) && call(&mut breaker, Verdict::Bad, later));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(call(&mut breaker, Verdict::Good, later) && call(&mut breaker, Verdict::Bad, later));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_about_now() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), start);
        let old: Vec<Leave> = (0..20).map(|_| breaker.begin(start).expect("closed")).collect();
        for leave in old {
            breaker.end(leave, Verdict::Bad, start);
        }
        assert_eq!(breaker.opened(), 1);
    }

    proptest! {
        #[test]
        fn at_most_the_probes_pass_while_it_heals(
            steps in proptest::collection::vec((0..3u8, 0..4_000u64, any::<bool>()), 0..300),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(BreakerConfig::default(), now);
            let mut under_way: Vec<Leave> = Vec::new();
            for (verdict, wait_ms, begins) in steps {
                now += Duration::from_millis(wait_ms);
                if begins {
                    under_way.extend(breaker.begin(now));
                } else if let Some(leave) = under_way.pop() {
                    let verdict = [Verdict::Good, Verdict::Bad, Verdict::Bad][usize::from(verdict)];
                    breaker.end(leave, verdict, now);
                }
                let probes = under_way.iter().filter(|leave| leave.is_probe && leave.generation == breaker.generation);
                prop_assert!(probes.count() <= PROBES_MAX as usize);
                // However it stands, it lets a call through after its longest pause, once its probes have ended.
                if let Err(wait) = breaker.begin(now) {
                    prop_assert!(wait <= Duration::from_secs(30));
                } else if let Ok(leave) = breaker.begin(now) {
                    breaker.end(leave, Verdict::Nothing, now);
                }
            }
        }
    }
}
