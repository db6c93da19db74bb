//! When requests are to start: arrival rates over time, whatever the answers do.
//!
//! Everything follows from the expected number of starts up to a time, `N(t)`. Evenly
//! spaced starts are where it crosses whole numbers; random ones (Poisson) where it
//! crosses sums of exponential steps, which holds for any rate that changes with time.
//! A thread takes a share of it, and its starts lie between those of the others.

use std::time::Duration;

use super::rng::Rng;

/// A span over which the rate goes evenly from one value to another, in starts a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Segment {
    pub(super) duration: Duration,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Segment {
    pub(super) fn constant(duration: Duration, rate: f64) -> Self {
        Self { duration, from: rate, to: rate }
    }

    fn count(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.duration.as_secs_f64()
    }

    /// Seconds into the segment at which `count` starts are expected, `0..=count()`.
    fn when(&self, count: f64) -> f64 {
        // At the very beginning of a rise from nothing the formula below is 0 / 0.
        if count <= 0.0 {
            return 0.0;
        }
        let slope = (self.to - self.from) / self.duration.as_secs_f64();
        // Solves from·t + slope·t²/2 = count in the form that stays exact for small slopes.
        let root = (self.from * self.from + 2.0 * slope * count).max(0.0).sqrt();
        let t = 2.0 * count / (self.from + root);
        t.min(self.duration.as_secs_f64())
    }
}

/// A burst: `base` for a third of the time, `peak` for a sixth, then `base` again,
/// so that recovery shows as well.
pub(super) fn spike(duration: Duration, base: f64, peak: f64) -> Vec<Segment> {
    vec![
        Segment::constant(duration / 3, base),
        Segment::constant(duration / 6, peak),
        Segment::constant(duration - duration / 3 - duration / 6, base),
    ]
}

/// Evenly spaced rates from `from` to `to`, both included.
#[allow(clippy::cast_precision_loss, reason = "a handful of steps")]
pub(super) fn steps(from: f64, to: f64, count: usize) -> Vec<f64> {
    match count {
        0 => Vec::new(),
        1 => vec![to],
        _ => (0..count).map(|n| from + (to - from) * n as f64 / (count - 1) as f64).collect(),
    }
}

/// The starts of one thread, as times from the beginning.
#[derive(Debug)]
pub(super) struct Arrivals {
    segments: Vec<Segment>,
    current: usize,
    /// Time and expected starts at the beginning of the current segment.
    time_before: f64,
    count_before: f64,
    /// Where in all threads' starts the next one of this thread lies.
    next: f64,
    threads: f64,
    random: Option<Rng>,
}

impl Arrivals {
    /// Thread `index` of `threads`; with `random` the starts come at random moments.
    #[allow(clippy::cast_precision_loss, reason = "a handful of threads")]
    pub(super) fn new(segments: Vec<Segment>, index: usize, threads: usize, random: Option<Rng>) -> Self {
        let threads = threads as f64;
        let mut arrivals = Self {
            segments,
            current: 0,
            time_before: 0.0,
            count_before: 0.0,
            next: index as f64,
            threads,
            random,
        };
        if arrivals.random.is_some() {
            arrivals.next = 0.0;
            arrivals.step();
        }
        arrivals
    }

    fn step(&mut self) {
        self.next += match &mut self.random {
            Some(rng) => rng.exponential() * self.threads,
            None => self.threads,
        };
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let segment = self.segments.get(self.current)?;
            let within = self.next - self.count_before;
            if within < segment.count() {
                let at = self.time_before + segment.when(within);
                self.step();
                return Some(Duration::from_secs_f64(at));
            }
            self.time_before += segment.duration.as_secs_f64();
            self.count_before += segment.count();
            self.current += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn all(segments: &[Segment], threads: usize, seed: Option<u64>) -> Vec<Duration> {
        let mut times: Vec<_> = (0..threads)
            .flat_map(|index| {
                let rng = seed.map(|seed| Rng::new(seed, index as u64));
                Arrivals::new(segments.to_vec(), index, threads, rng)
            })
            .collect();
        times.sort();
        times
    }

    #[test]
    fn a_constant_rate_is_evenly_spaced_over_all_threads() {
        for threads in [1, 3] {
            let times = all(&[Segment::constant(2 * SECOND, 100.0)], threads, None);
            assert_eq!(times.len(), 200);
            for (n, time) in times.iter().enumerate() {
                assert!((time.as_secs_f64() - 0.01 * n as f64).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_ramp_starts_as_many_as_the_area_under_it() {
        let ramp = Segment { duration: 10 * SECOND, from: 0.0, to: 100.0 };
        let times = all(&[ramp], 1, None);
        assert_eq!(times.len(), 500);
        // Half of the time is a quarter of the area.
        assert_eq!(times.iter().filter(|time| **time < 5 * SECOND).count(), 125);
        assert_eq!(times[0], Duration::ZERO);
        let down = Segment { duration: 10 * SECOND, from: 100.0, to: 0.0 };
        assert_eq!(all(&[down], 1, None).iter().filter(|time| **time < 5 * SECOND).count(), 375);
    }

    #[test]
    fn segments_follow_each_other_without_a_gap() {
        let times = all(&spike(6 * SECOND, 10.0, 1000.0), 2, None);
        let within =
            |from: f64, to: f64| times.iter().filter(|time| (from..to).contains(&time.as_secs_f64())).count();
        assert_eq!((within(0.0, 2.0), within(2.0, 3.0), within(3.0, 6.0)), (20, 1000, 30));
    }

    #[test]
    fn a_rate_of_zero_starts_nothing_and_ends() {
        let pause = Segment::constant(SECOND, 0.0);
        assert_eq!(all(&[pause], 1, None).len(), 0);
        let times = all(&[pause, Segment::constant(SECOND, 5.0)], 1, None);
        assert_eq!(times.len(), 5);
        assert!(times[0] >= SECOND);
        assert_eq!(all(&[], 1, None).len(), 0);
    }

    #[test]
    fn random_arrivals_keep_the_rate_and_repeat_with_their_seed() {
        let segments = [Segment::constant(20 * SECOND, 1000.0)];
        let times = all(&segments, 4, Some(9));
        assert_eq!(times, all(&segments, 4, Some(9)));
        assert_ne!(times, all(&segments, 4, Some(10)));
        // The count is Poisson too: 20,000 with a standard deviation of 141.
        assert!((19_300..20_700).contains(&times.len()), "{}", times.len());
        // Of exponential gaps 1 - 1/e are shorter than the mean.
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < Duration::from_millis(1)).count();
        let share = short as f64 / times.len() as f64;
        assert!((share - 0.632).abs() < 0.015, "{share}");
    }

    #[test]
    fn steps_reach_both_ends() {
        assert_eq!(steps(100.0, 400.0, 4), [100.0, 200.0, 300.0, 400.0]);
        assert_eq!(steps(1.0, 9.0, 1), [9.0]);
    }
}
