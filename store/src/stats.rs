//! What the store counts. Plain atomics: written by the storage threads and by the cores, read by whoever asks.
//!
//! A core counts its own reads in a [`CoreReadStats`] that no other core writes, so counting is a plain load and
//! store on the hot path. Totals are monotonic; gauges say so.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A counter that only grows, or a maximum.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// For a counter with one writer: no locked instruction.
    fn add_alone(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    fn raise_to(&self, value: u64) {
        self.0.fetch_max(value, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts values in fixed buckets.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [Counter; N],
    beyond: Counter,
    sum: Counter,
}

/// A histogram as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Upper bound (inclusive) of each bucket and how many values fell into it alone; the last has no bound.
    pub buckets: Vec<(Option<u64>, u64)>,
    pub sum: u64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            buckets: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            sum: Counter::default(),
        }
    }

    pub(crate) fn record(&self, value: u64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        self.buckets.get(index).unwrap_or(&self.beyond).add(1);
        self.sum.add(value);
    }

    /// All buckets. Values recorded meanwhile may be in `sum` and not yet in a bucket, or the other way round.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let bounded = self.bounds.iter().zip(&self.buckets).map(|(bound, count)| (Some(*bound), count.get()));
        HistogramSnapshot {
            buckets: bounded.chain([(None, self.beyond.get())]).collect(),
            sum: self.sum.get(),
        }
    }
}

/// Upper bounds of commit latency in microseconds: from a disk cache's answer to a device in trouble.
const LATENCY_US_BOUNDS: [u64; 15] = [
    50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 204_800, 819_200, 3_276_800,
];

/// Upper bounds of batches in a group.
const GROUP_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// Everything counted.
#[derive(Debug)]
pub struct StoreStats {
    pub commit: CommitStats,
    pub reader: ReaderStats,
    pub records: RecordStats,
    cores: Mutex<Vec<Arc<CoreReadStats>>>,
}

/// What the commit writer does.
#[derive(Debug)]
pub struct CommitStats {
    /// Groups written, each by one write (and one sync).
    pub groups: Counter,
    /// Batches written, a shard's batches of one turn counting as one.
    pub batches: Counter,
    /// Bytes of batches written.
    pub bytes: Counter,
    /// Submissions not taken because the queue was full. Add disks, or shed earlier.
    pub refused_full: Counter,
    /// Submissions not taken because an earlier write failed. Restart.
    pub refused_stopped: Counter,
    /// Records not written since their user was erased.
    pub held_back: Counter,
    /// Writes that failed: 0, or 1 and the log has stopped.
    pub failures: Counter,
    /// Nanoseconds spent in writes, syncs included.
    pub write_ns: Counter,
    /// The longest of them.
    pub write_ns_max: Counter,
    /// Microseconds from hand-over to receipt, by submission.
    pub latency_us: Histogram<15>,
    /// Batches in a group, by group.
    pub group_batches: Histogram<11>,
}

impl CommitStats {
    pub(crate) fn wrote(&self, batches: u64, bytes: u64, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.groups.add(1);
        self.batches.add(batches);
        self.bytes.add(bytes);
        self.write_ns.add(took_ns);
        self.write_ns_max.raise_to(took_ns);
        self.group_batches.record(batches);
    }
}

/// What the reader pool does.
#[derive(Debug, Default)]
pub struct ReaderStats {
    /// Reads of one key done by a thread of the pool.
    pub gets: Counter,
    /// Scans done by a thread of the pool.
    pub scans: Counter,
    /// Reads not taken because the queue was full. Add threads or memory.
    pub refused_full: Counter,
    /// Reads nobody waited for any more when their turn came.
    pub abandoned: Counter,
    /// Reads that failed on the disk.
    pub failures: Counter,
}

/// What was found wrong with records.
#[derive(Debug, Default)]
pub struct RecordStats {
    /// Reads that met a record which fails validation.
    pub damaged: Counter,
    /// Damaged values copied into quarantine.
    pub quarantined: Counter,
    /// Copies into quarantine that could not be written or would have been too many; the original still stands.
    pub quarantine_failed: Counter,
    /// Reads that met a record of a newer schema.
    pub newer: Counter,
}

/// What the vault does ([`crate::vault`]).
#[derive(Debug, Default)]
pub struct VaultStats {
    /// Secrets sealed.
    pub sealed: Counter,
    /// Sealed secrets to be opened.
    pub opened: Counter,
    /// Secrets read that an older version left as they are. Run `sluice vault rotate`.
    pub opened_plain: Counter,
    /// Secrets and data keys that did not open: damaged, moved, or sealed under another key. Look at the log.
    pub refused: Counter,
    /// Data keys made.
    pub keys_made: Counter,
    /// Data keys unwrapped, since the core did not have them.
    pub keys_unwrapped: Counter,
    /// Data keys a core dropped for others.
    pub keys_evicted: Counter,
    /// Data keys wrapped under a newer master version.
    pub keys_wrapped_anew: Counter,
    /// Secrets of older records sealed by a rotation.
    pub sealed_late: Counter,
    /// Data keys destroyed.
    pub keys_destroyed: Counter,
    /// Changes given up, for another wrote the same record for too long.
    pub busy: Counter,
}

/// What one core read without leaving it.
#[derive(Debug, Default)]
pub struct CoreReadStats {
    inline: Counter,
    pooled: Counter,
}

impl CoreReadStats {
    pub(crate) fn count_inline(&self) {
        self.inline.add_alone(1);
    }

    pub(crate) fn count_pooled(&self) {
        self.pooled.add_alone(1);
    }
}

/// Reads of one key by the cores.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReadTotals {
    /// Answered inline, from write buffers or the block cache.
    pub inline: u64,
    /// Handed to the reader pool.
    pub pooled: u64,
}

impl StoreStats {
    pub(crate) fn new() -> Self {
        Self {
            commit: CommitStats {
                groups: Counter::default(),
                batches: Counter::default(),
                bytes: Counter::default(),
                refused_full: Counter::default(),
                held_back: Counter::default(),
                refused_stopped: Counter::default(),
                failures: Counter::default(),
                write_ns: Counter::default(),
                write_ns_max: Counter::default(),
                latency_us: Histogram::new(&LATENCY_US_BOUNDS),
                group_batches: Histogram::new(&GROUP_BOUNDS),
            },
            reader: ReaderStats::default(),
            records: RecordStats::default(),
            cores: Mutex::default(),
        }
    }

    /// Counters for one more core, summed up by [`Self::reads`]. One for each [`crate::CoreStore`] ever made, so
    /// that totals never fall.
    pub(crate) fn add_core(&self) -> Arc<CoreReadStats> {
        let stats = Arc::new(CoreReadStats::default());
        self.cores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stats));
        stats
    }

    /// Reads of one key by all cores together.
    pub fn reads(&self) -> ReadTotals {
        let cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        cores.iter().fold(ReadTotals::default(), |sum, core| ReadTotals {
            inline: sum.inline + core.inline.get(),
            pooled: sum.pooled + core.pooled.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_counts_below_it() {
        let histogram = Histogram::new(&[1, 2, 4]);
        for value in [0, 1, 2, 3, 4, 5, 100] {
            histogram.record(value);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets, [(Some(1), 2), (Some(2), 1), (Some(4), 2), (None, 2)]);
        assert_eq!(snapshot.sum, 115);
    }

    #[test]
    fn bounds_rise() {
        assert!(LATENCY_US_BOUNDS.is_sorted() && GROUP_BOUNDS.is_sorted());
    }

    #[test]
    fn reads_of_all_cores_add_up() {
        let stats = StoreStats::new();
        let (one, two) = (stats.add_core(), stats.add_core());
        one.count_inline();
        two.count_inline();
        two.count_pooled();
        assert_eq!(stats.reads(), ReadTotals { inline: 2, pooled: 1 });
    }
}
