//! Counters of a core's cache, by kind.

use sluice_core::Counter;
use sluice_protocols::plan::Service;

/// Counters of one kind of cached reads. Written by the core, read by anyone.
#[derive(Debug, Default)]
pub struct KindStats {
    /// Reads answered from the cache while fresh.
    pub hits: Counter,
    /// Reads answered with what was stale, while it was read anew.
    pub stale: Counter,
    /// Reads that waited for the same read of another.
    pub joined: Counter,
    /// Reads that had to be made.
    pub misses: Counter,
    /// Entries whose time was over.
    pub expired: Counter,
    /// Entries dropped since a change or a caller made them wrong.
    pub invalidated: Counter,
    /// Answers not kept, since something changed while they were on their way.
    pub outdated: Counter,
    /// Answers not kept, being too large.
    pub too_large: Counter,
    /// Entries given up for others.
    pub evicted: Counter,
    /// Bytes of those.
    pub evicted_bytes: Counter,
    /// Bytes now, keys and overhead included.
    pub bytes: Counter,
}

impl KindStats {
    pub(super) fn grow(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    pub(super) fn shrink(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes as u64));
    }

    /// Totals with their names, for the page.
    pub fn totals(&self) -> [(&'static str, u64); 10] {
        [
            ("hit", self.hits.get()),
            ("stale", self.stale.get()),
            ("joined", self.joined.get()),
            ("miss", self.misses.get()),
            ("expired", self.expired.get()),
            ("invalidated", self.invalidated.get()),
            ("outdated", self.outdated.get()),
            ("too_large", self.too_large.get()),
            ("evicted", self.evicted.get()),
            ("evicted_bytes", self.evicted_bytes.get()),
        ]
    }
}

/// Counters of one core's cache.
#[derive(Debug, Default)]
pub struct CacheStats {
    kinds: [KindStats; 3],
    /// Refreshes of stale entries that were not made since too many were under way.
    pub refreshes_refused: Counter,
}

impl CacheStats {
    /// The kinds, in the order of [`Self::of`].
    pub const KINDS: [Service; 3] = [Service::Gmail, Service::Calendar, Service::Drive];

    /// The counters of what is read from `service`.
    pub fn of(&self, service: Service) -> &KindStats {
        match service {
            Service::Gmail => &self.kinds[0],
            Service::Calendar => &self.kinds[1],
            Service::Drive => &self.kinds[2],
        }
    }
}
