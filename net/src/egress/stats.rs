//! Counters of one upstream: plain atomics, written by the pool, read by the metrics page.
//!
//! Every answer and every refusal is counted exactly once, in `responses` or in `failures` or as cancelled.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the latency buckets in milliseconds; a last bucket takes everything slower.
pub const LATENCY_BOUNDS_MS: [u64; 14] =
    [1, 2, 5, 10, 25, 50, 100, 200, 300, 500, 1_000, 2_500, 10_000, 30_000];
const BUCKET_COUNT: usize = LATENCY_BOUNDS_MS.len() + 1;

/// Why a call ended without an answer from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The core's mailbox to the pool was full: the pool's threads cannot keep up.
    MailboxFull,
    /// Too many calls to this upstream were waiting already.
    QueueFull,
    /// The deadline passed.
    Deadline,
    /// No connection.
    Connect,
    /// The connection broke, or the answer made no sense.
    Broken,
    /// The body was over the limit.
    BodyTooLarge,
    /// The pool was stopping.
    ShuttingDown,
    /// The request could not be put into HTTP.
    Invalid,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::MailboxFull,
        Self::QueueFull,
        Self::Deadline,
        Self::Connect,
        Self::Broken,
        Self::BodyTooLarge,
        Self::ShuttingDown,
        Self::Invalid,
    ];

    /// The label value in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MailboxFull => "mailbox_full",
            Self::QueueFull => "queue_full",
            Self::Deadline => "deadline",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::BodyTooLarge => "body_too_large",
            Self::ShuttingDown => "shutting_down",
            Self::Invalid => "invalid",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) requests: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) retries_over_budget: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) piece_bytes: AtomicU64,
    pub(super) transfers: AtomicU64,
    pub(super) transfers_broken: AtomicU64,
    pub(super) transfers_left: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
    responses: [AtomicU64; 5],
    latency: [AtomicU64; BUCKET_COUNT],
    latency_sum_us: AtomicU64,
}

impl Stats {
    pub(super) fn fail(&self, reason: Reason) {
        self.failures[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn respond(&self, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.responses[class].fetch_add(1, Relaxed);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.latency[bucket(elapsed_us)].fetch_add(1, Relaxed);
        self.latency_sum_us.fetch_add(elapsed_us, Relaxed);
    }

    pub(super) fn snapshot(&self) -> UpstreamSnapshot {
        UpstreamSnapshot {
            requests: self.requests.load(Relaxed),
            attempts: self.attempts.load(Relaxed),
            retries: self.retries.load(Relaxed),
            retries_over_budget: self.retries_over_budget.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            queued: self.queued.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            piece_bytes: self.piece_bytes.load(Relaxed),
            transfers: self.transfers.load(Relaxed),
            transfers_broken: self.transfers_broken.load(Relaxed),
            transfers_left: self.transfers_left.load(Relaxed),
            failures: self.failures.each_ref().map(|count| count.load(Relaxed)),
            responses: self.responses.each_ref().map(|count| count.load(Relaxed)),
            latency: self.latency.each_ref().map(|count| count.load(Relaxed)),
            latency_sum: Duration::from_micros(self.latency_sum_us.load(Relaxed)),
        }
    }
}

fn bucket(elapsed_us: u64) -> usize {
    LATENCY_BOUNDS_MS.partition_point(|bound_ms| bound_ms * 1000 < elapsed_us)
}

/// The counters of one upstream at one moment. Totals count from the start of the process.
#[derive(Clone, Debug)]
pub struct UpstreamSnapshot {
    /// Calls asked for.
    pub requests: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts beyond the first of their call.
    pub retries: u64,
    /// Retries not made because the budget was spent.
    pub retries_over_budget: u64,
    /// Calls whose caller went away.
    pub cancelled: u64,
    /// Calls waiting for a free place now.
    pub queued: u64,
    /// Attempts under way now.
    pub in_flight: u64,
    /// Bytes of answers that were handed on in pieces.
    pub piece_bytes: u64,
    /// Answers that came in pieces.
    pub transfers: u64,
    /// Of those: broken off by the upstream, too long, or too slow.
    pub transfers_broken: u64,
    /// Of those: left by whoever read them.
    pub transfers_left: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub responses: [u64; 5],
    /// Answers by time from call to answer, bucket by bucket (not summed up); the last is the overflow.
    pub latency: [u64; BUCKET_COUNT],
    /// Sum of those times.
    pub latency_sum: Duration,
    failures: [u64; Reason::ALL.len()],
}

impl UpstreamSnapshot {
    /// How many calls failed for `reason`.
    pub fn failures(&self, reason: Reason) -> u64 {
        self.failures[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_belongs_to_the_bucket_below() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1_000), 0);
        assert_eq!(bucket(1_001), 1);
        assert_eq!(bucket(30_000_000), BUCKET_COUNT - 2);
        assert_eq!(bucket(30_000_001), BUCKET_COUNT - 1);
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        let stats = Stats::default();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            for _ in 0..=index {
                stats.fail(reason);
            }
        }
        let snapshot = stats.snapshot();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(snapshot.failures(reason), index as u64 + 1);
        }
    }

    #[test]
    fn answers_are_counted_by_class_and_strange_codes_do_not_panic() {
        let stats = Stats::default();
        for status in [200, 204, 404, 503, 0, 999] {
            stats.respond(status, Duration::from_millis(3));
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.responses, [1, 2, 0, 1, 2]);
        assert_eq!(snapshot.latency[2], 6);
        assert_eq!(snapshot.latency_sum, Duration::from_millis(18));
    }
}
