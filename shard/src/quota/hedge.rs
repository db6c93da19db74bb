//! When a read has taken so long that a second copy of it is worth its price. Pure.
//!
//! A core learns how long each operation takes in a small histogram, and asks again after the time that 95 of 100 answers
//! stay below. What is learned fades: when a histogram is full, all of it is halved.
//!
//! Invariant: a histogram holds less than [`SAMPLES_MAX`] samples, and a core at most [`OPERATIONS_MAX`] of them.

use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sluice_protocols::google::ApiCall;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Operations of one upstream that are told apart; there are some dozen.
pub(super) const OPERATIONS_MAX: usize = 64;
/// Before so many answers nothing is known of the slowest twentieth.
const SAMPLES_MIN: u32 = 100;
const SAMPLES_MAX: u32 = 4_096;
/// Four buckets for each doubling from a millisecond on: 17 doublings are two minutes.
const BUCKETS: usize = 4 * 17;
/// The share of answers that comes before a second copy leaves, in percent.
const PERCENT: u32 = 95;

/// Whether slow reads are asked for twice.
#[derive(Clone, Copy, Debug)]
pub struct HedgeConfig {
    /// Whether they are. Default `true`.
    pub is_on: bool,
    /// The shortest wait before the second copy. Default 20 ms.
    pub after_min: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { is_on: true, after_min: Duration::from_millis(20) }
    }
}

/// What is asked for, apart from of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operation(u64);

impl Operation {
    /// The one that an upstream has that has but one.
    pub(crate) const ONLY: Self = Self(0);

    /// Of a call; ids do not count.
    pub(crate) fn of(call: &ApiCall) -> Self {
        let segments = call.resource().split('/');
        // Collections stand at even places, ids at odd ones.
        let start = segments.clone().count() as u64 * 2 + u64::from(call.path.contains("alt=media"));
        let start = xxh3_64_with_seed(call.method.as_bytes(), start);
        Self(segments.step_by(2).fold(start, |seed, segment| xxh3_64_with_seed(segment.as_bytes(), seed)))
    }

    #[cfg(test)]
    pub(super) const fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// How long one operation takes.
#[derive(Clone, Debug)]
struct Histogram {
    buckets: [u32; BUCKETS],
    count: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0 }
    }
}

/// The bucket a time falls into.
fn bucket(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1_000);
    // Whole doublings of a millisecond, and the quarter of the doubling.
    let doublings = (us / 1_000).ilog2();
    let quarter = (us * 4 / (1_000u64 << doublings)).saturating_sub(4).min(3);
    let bucket = u64::from(doublings) * 4 + quarter;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let (doublings, quarter) = (bucket / 4, bucket % 4);
    Duration::from_micros((1_000u64 << doublings) * (quarter as u64 + 5) / 4)
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        self.buckets[bucket(took)] += 1;
        self.count += 1;
        if self.count >= SAMPLES_MAX {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            self.count = self.buckets.iter().sum();
        }
    }

    fn slow(&self) -> Option<Duration> {
        if self.count < SAMPLES_MIN {
            return None;
        }
        let wanted = self.count * PERCENT / 100;
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        });
        found.map(end_of)
    }
}

/// What a core knows of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Latencies(HashMap<Operation, Histogram, RandomState>);

impl Latencies {
    /// Takes note of an answer.
    pub(crate) fn add(&mut self, operation: Operation, took: Duration) {
        if self.0.len() < OPERATIONS_MAX || self.0.contains_key(&operation) {
            self.0.entry(operation).or_default().add(took);
        }
    }

    /// The time that nearly all answers stay below, once there were enough.
    pub(crate) fn slow(&self, operation: Operation) -> Option<Duration> {
        self.0.get(&operation)?.slow()
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::google::{drive, gmail};

    use super::*;

    #[test]
    fn operations_are_told_apart_and_ids_are_not() {
        let of = |id| Operation::of(&gmail::get_message(id, gmail::Format::Full));
        assert_eq!(of("a"), of("b"));
        assert_ne!(of("a"), Operation::of(&gmail::list_messages("a", 1)));
        assert_ne!(Operation::of(&drive::get_file("a")), Operation::of(&drive::download_file("a")));
        assert_ne!(of("a"), Operation::of(&gmail::trash_message("a", true)));
        assert_ne!(Operation::of(&gmail::get_draft("a")), Operation::of(&gmail::delete_draft("a")));
    }

    #[test]
    fn a_time_lies_below_the_end_of_its_bucket_and_not_far() {
        for us in [1u64, 999, 1_000, 1_249, 1_250, 3_999, 4_000, 80_000, 1_234_567] {
            let (took, end) = (Duration::from_micros(us), end_of(bucket(Duration::from_micros(us))));
            assert!(took < end && end <= took.max(Duration::from_millis(1)).mul_f64(1.2501), "{us}: {end:?}");
        }
        assert_eq!(bucket(Duration::from_secs(86_400)), BUCKETS - 1);
    }

    #[test]
    fn the_slow_twentieth_is_known_after_enough_answers_and_follows_the_service() {
        let mut latencies = Latencies::default();
        let operation = Operation::of(&gmail::list_messages("a", 1));
        for number in 0..SAMPLES_MIN {
            assert_eq!(latencies.slow(operation), None);
            let ms = if number % 50 == 0 { 900 } else { 80 };
            latencies.add(operation, Duration::from_millis(ms));
        }
        let slow = latencies.slow(operation).unwrap();
        assert!(slow > Duration::from_millis(80) && slow < Duration::from_millis(100), "{slow:?}");
        (0..3 * SAMPLES_MAX).for_each(|_| latencies.add(operation, Duration::from_millis(400)));
        assert!(latencies.slow(operation).unwrap() > Duration::from_millis(400));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut latencies = Latencies::default();
        (0..1_000).for_each(|number| latencies.add(Operation(number), Duration::from_millis(1)));
        assert_eq!(latencies.0.len(), OPERATIONS_MAX);
    }
}
