//! Counters of messages. Each is counted exactly once: as answered, as failed, or as cancelled.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{OutwardAnswer, OutwardError};

#[derive(Debug, Default)]
pub(crate) struct OutwardStats {
    pub(super) in_flight: AtomicU64,
    pub(super) cancelled: AtomicU64,
    answered: [AtomicU64; 5],
    failed: [AtomicU64; OutwardError::ALL.len()],
}

impl OutwardStats {
    pub(crate) fn fail(&self, error: OutwardError) {
        self.failed[error as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count(&self, outcome: &Result<OutwardAnswer, OutwardError>) {
        match outcome {
            Ok(answer) => {
                let class = usize::from(answer.status / 100).clamp(1, 5) - 1;
                self.answered[class].fetch_add(1, Relaxed);
            }
            Err(error) => self.fail(*error),
        }
    }

    pub(crate) fn snapshot(&self) -> OutwardSnapshot {
        OutwardSnapshot {
            in_flight: self.in_flight.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            answered: self.answered.each_ref().map(|count| count.load(Relaxed)),
            failed: self.failed.each_ref().map(|count| count.load(Relaxed)),
        }
    }
}

/// The counters of messages at one moment. Totals count from the start of the process.
#[derive(Clone, Debug)]
pub struct OutwardSnapshot {
    /// Attempts under way now.
    pub in_flight: u64,
    /// Attempts whose caller went away.
    pub cancelled: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub answered: [u64; 5],
    failed: [u64; OutwardError::ALL.len()],
}

impl OutwardSnapshot {
    /// How many attempts ended so.
    pub fn failed(&self, error: OutwardError) -> u64 {
        self.failed[error as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_own_counter() {
        let stats = OutwardStats::default();
        for (index, error) in OutwardError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
            (0..=index).for_each(|_| stats.count(&Err(error)));
        }
        for status in [204, 302, 500, 503, 0, 999] {
            stats.count(&Ok(OutwardAnswer { status, retry_after: None }));
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.answered, [1, 1, 1, 0, 3]);
        for (index, error) in OutwardError::ALL.into_iter().enumerate() {
            assert_eq!(snapshot.failed(error), index as u64 + 1);
        }
    }
}
