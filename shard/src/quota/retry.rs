//! How often, and after which wait, a call is made again. Pure.
//!
//! Invariant: repeats never exceed `budget_percent` of the calls and a small allowance by time, so a sick service sees
//! little more load than a healthy one.

use std::time::{Duration, Instant};

use super::config::RetryLimits;

/// Budgets are counted in thousandths of a repeat.
const ONE: u64 = 1_000;
/// Seconds of the allowance that may be saved up, and repeats in any case.
const SAVED_S: u64 = 10;
const SAVED_MIN: u64 = 20;

/// A bucket of repeats: each call pays a share in, time the rest.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    saved: u64,
    saved_max: u64,
    per_call: u64,
    per_second: u64,
    filled_at: Instant,
}

impl RetryBudget {
    /// A core's own: of what a second allows it has its share.
    pub(crate) fn new(limits: &RetryLimits, cores: usize, now: Instant) -> Self {
        let per_second = u64::from(limits.budget_per_second) * ONE / cores.max(1) as u64;
        let saved_max = if limits.budget_percent == 0 && per_second == 0 {
            0
        } else {
            (per_second * SAVED_S).max(SAVED_MIN * ONE)
        };
        Self {
            saved: per_second,
            saved_max,
            per_call: u64::from(limits.budget_percent) * ONE / 100,
            per_second,
            filled_at: now,
        }
    }

    /// Counts a call.
    pub(crate) fn deposit(&mut self) {
        self.saved = (self.saved + self.per_call).min(self.saved_max);
    }

    /// Takes one repeat; `false` when the budget is spent.
    pub(crate) fn withdraw(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at);
        // Whole milliseconds only, and the clock moves by what was credited.
        let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        self.saved =
            self.saved.saturating_add(ms.saturating_mul(self.per_second) / 1_000).min(self.saved_max);
        self.filled_at += Duration::from_millis(ms);
        match self.saved.checked_sub(ONE) {
            Some(rest) => {
                self.saved = rest;
                true
            }
            None => false,
        }
    }
}

/// The wait before repeat number `repeat` (from 0): drawn by `lot` from nothing to the doubled base, and on top of what
/// was asked for.
pub(crate) fn wait(limits: &RetryLimits, repeat: u32, asked: Option<Duration>, lot: u32) -> Duration {
    let repeat = if asked.is_some() { 0 } else { repeat };
    let most = limits.backoff_base.saturating_mul(2u32.saturating_pow(repeat)).min(limits.backoff_max);
    asked.unwrap_or_default() + most.mul_f64(f64::from(lot) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_stay_a_share_of_the_calls_and_time_allows_some() {
        let now = Instant::now();
        let limits = RetryLimits { budget_percent: 20, budget_per_second: 0, ..RetryLimits::default() };
        let mut budget = RetryBudget::new(&limits, 1, now);
        (0..50).for_each(|_| budget.deposit());
        assert_eq!((0..50).filter(|_| budget.withdraw(now)).count(), 10);
        let limits = RetryLimits { budget_percent: 0, budget_per_second: 10, ..limits };
        let mut budget = RetryBudget::new(&limits, 2, now);
        let spend = |budget: &mut RetryBudget, now| (0..500).filter(|_| budget.withdraw(now)).count();
        assert_eq!(spend(&mut budget, now), 5);
        assert_eq!(spend(&mut budget, now + Duration::from_secs(1)), 5);
        assert_eq!(spend(&mut budget, now + Duration::from_secs(3_600)), 50);
    }

    #[test]
    fn waits_double_and_keep_what_was_asked() {
        let limits = RetryLimits::default();
        assert_eq!(wait(&limits, 0, None, u32::MAX), Duration::from_millis(100));
        assert_eq!(wait(&limits, 3, None, u32::MAX), Duration::from_millis(800));
        assert_eq!(wait(&limits, 30, None, u32::MAX), Duration::from_secs(5));
        assert_eq!(wait(&limits, 3, None, 0), Duration::ZERO);
        let asked = Some(Duration::from_secs(9));
        assert_eq!(wait(&limits, 3, asked, 0), Duration::from_secs(9));
    }
}
