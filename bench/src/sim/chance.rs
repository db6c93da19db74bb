//! The simulator's time and luck: a clock that may live on another day, and
//! seeded random numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// Real time, moved by whole days when the world is to live on another date.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    offset: SignedDuration,
    zone: TimeZone,
    zone_name: String,
}

impl Clock {
    pub(crate) fn new(today: Option<Date>, zone_name: &str) -> anyhow::Result<Self> {
        let zone = TimeZone::get(zone_name).with_context(|| format!("unknown time zone {zone_name:?}"))?;
        let offset = match today {
            None => SignedDuration::ZERO,
            Some(today) => {
                let real = Timestamp::now().to_zoned_datetime(zone.clone()).date();
                today.duration_since(real)
            }
        };
        Ok(Self { offset, zone, zone_name: zone_name.to_owned() })
    }

    /// The instant it is in the simulated world.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.offset).unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn now_civil(&self) -> ZonedDateTime {
        self.now().to_zoned_datetime(self.zone.clone())
    }

    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    pub(crate) fn zone_name(&self) -> &str {
        &self.zone_name
    }
}

/// One step of SplitMix64: a well-mixed number from any number.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a, so that a name gives the same number in every run.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// A seeded sequence for one thread, used while a mailbox is made.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A seeded sequence shared by every request.
#[derive(Debug)]
pub(crate) struct Luck(AtomicU64);

impl Luck {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(mix(seed)))
    }

    pub(crate) fn next(&self) -> u64 {
        mix(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "both numbers are at most 2^53")]
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    /// A log-normal latency with this median; never more than a hundred medians.
    pub(crate) fn latency(&self, median: Duration, sigma: f64) -> Duration {
        if median.is_zero() || sigma == 0.0 {
            return median;
        }
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median.mul_f64((sigma * normal).exp().min(100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (a, b) = (Luck::new(7), Luck::new(7));
        assert!((0..100).all(|_| a.next() == b.next()));
        assert_ne!(Luck::new(7).next(), Luck::new(8).next());
    }

    #[test]
    fn the_median_of_the_latency_is_the_one_asked_for() {
        let luck = Luck::new(1);
        let median = Duration::from_millis(100);
        let mut drawn: Vec<_> = (0..2_001).map(|_| luck.latency(median, 0.3)).collect();
        drawn.sort();
        assert!(drawn[1_000] > Duration::from_millis(95) && drawn[1_000] < Duration::from_millis(105));
        assert!(drawn[0] < Duration::from_millis(60) && drawn[2_000] > Duration::from_millis(160));
        assert_eq!(luck.latency(median, 0.0), median);
    }

    #[test]
    fn the_world_can_live_on_another_day() {
        let clock = Clock::new(Some(jiff::civil::date(2030, 2, 3)), "Europe/Berlin").unwrap();
        let today = clock.now_civil().date();
        // A midnight may pass between the two readings.
        assert!([jiff::civil::date(2030, 2, 3), jiff::civil::date(2030, 2, 4)].contains(&today));
        assert!(Clock::new(None, "Mars/Olympus").is_err());
    }
}
