//! A small seeded source of random numbers.
//!
//! Invariant: the sequence depends on the seed alone, on every machine and in
//! every version, so that a run can be repeated.

/// SplitMix64: one addition and one mixing a number, a period of 2^64. Good enough
/// to choose users and arrival times, and for nothing that must be unpredictable.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// The sequence of one `stream` (a thread, say) under a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream.wrapping_add(1))))
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Evenly in `0.0..1.0`.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly in `0..n`, without the bias of a remainder. `n` is at least 1.
    #[allow(clippy::cast_possible_truncation, reason = "the high half of the product is below n")]
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        // The common case of "never" costs no number.
        share > 0.0 && self.unit() < share
    }

    /// Exponentially distributed with mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_streams_differ() {
        let take = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(1, 0), take(1, 0));
        assert_ne!(take(1, 0), take(1, 1));
        assert_ne!(take(1, 0), take(2, 0));
    }

    #[test]
    fn numbers_are_spread_as_they_should_be() {
        let mut rng = Rng::new(7, 0);
        let mut counts = [0u32; 5];
        let mut sum = 0.0;
        for _ in 0..50_000 {
            counts[rng.below(5)] += 1;
            sum += rng.exponential();
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert!((0.98..1.02).contains(&(sum / 50_000.0)));
        assert!(!rng.chance(0.0) && rng.chance(1.0));
    }
}
