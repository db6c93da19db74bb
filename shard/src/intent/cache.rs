//! The patterns a core has learned, bounded in bytes, each forgotten after the same time.
//!
//! Invariants:
//! - `bytes` is the sum over the entries and never above the limit;
//! - `order` has every entry once, oldest first, so what is over time stands at its front.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use sluice_protocols::intent::pattern::{PatternKey, PlanTemplate};

/// What an entry costs beside key and template: its places in map and queue.
const ENTRY_BYTES: usize = 160;

/// Bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes, keys and bookkeeping included; zero keeps nothing.
    pub bytes_max: usize,
    /// How long an entry is used; zero keeps nothing.
    pub ttl: Duration,
}

/// What putting an entry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Whether it is kept: not when it alone is larger than the cache.
    pub kept: bool,
    /// Entries that made room.
    pub evicted: u64,
}

/// Templates by their key. `!Send`: one a core.
#[derive(Debug)]
pub struct PatternCache {
    limits: CacheLimits,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<PatternKey, Entry, foldhash::fast::RandomState>,
    order: VecDeque<PatternKey>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    template: Rc<PlanTemplate>,
    bytes: usize,
    expires_ms: u64,
}

impl PatternCache {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self { limits, inner: RefCell::default() }
    }

    /// Whether it keeps nothing at all.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.limits.bytes_max == 0 || self.limits.ttl.is_zero()
    }

    /// The template of this key, unless it is too old.
    pub fn get(&self, key: &PatternKey, now_ms: u64) -> Option<Rc<PlanTemplate>> {
        let inner = self.inner.borrow();
        inner
            .entries
            .get(key)
            .filter(|entry| now_ms < entry.expires_ms)
            .map(|entry| Rc::clone(&entry.template))
    }

    /// Keeps a template; one that is there for the key stays, so that its time runs out.
    pub fn put(&self, key: PatternKey, template: PlanTemplate, now_ms: u64) -> Stored {
        let mut stored = Stored::default();
        let bytes = 2 * key.as_str().len() + template.bytes() + ENTRY_BYTES;
        if self.is_off() || bytes > self.limits.bytes_max {
            return stored;
        }
        let inner = &mut *self.inner.borrow_mut();
        while inner.oldest().is_some_and(|oldest| oldest.expires_ms <= now_ms) {
            inner.drop_oldest();
        }
        if inner.entries.contains_key(&key) {
            return stored;
        }
        while inner.bytes + bytes > self.limits.bytes_max {
            inner.drop_oldest();
            stored.evicted += 1;
        }
        let ttl_ms = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry { template: Rc::new(template), bytes, expires_ms: now_ms.saturating_add(ttl_ms) };
        inner.bytes += bytes;
        inner.order.push_back(key.clone());
        inner.entries.insert(key, entry);
        stored.kept = true;
        stored
    }

    /// Entries and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.borrow();
        (inner.entries.len(), inner.bytes)
    }
}

impl Inner {
    fn oldest(&self) -> Option<&Entry> {
        self.entries.get(self.order.front()?)
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.order.pop_front().and_then(|key| self.entries.remove(&key)) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::intent::pattern::{Normalised, normalise};
    use sluice_protocols::plan::Plan;

    use super::*;

    fn entry(topic: &str) -> (Normalised, PlanTemplate) {
        let now = "2026-11-25T09:40:00+01:00[Europe/Berlin]".parse().expect("a moment");
        let command = normalise(&format!("mail by Anna about {topic}"), &now).expect("normalised");
        let json = format!(
            r#"{{"decision":"act","reason":null,"steps":[{{"id":"s1","after":[],"call":{{"operation":"gmail.search","query":"from:anna {topic}","limit":10}}}}]}}"#
        );
        let plan = Plan::from_model_json(&json).expect("a plan");
        let template = PlanTemplate::new(&command, &plan).expect("a template");
        (command, template)
    }

    fn cache(bytes_max: usize) -> PatternCache {
        PatternCache::new(CacheLimits { bytes_max, ttl: Duration::from_secs(10) })
    }

    #[test]
    fn a_pattern_is_forgotten_after_its_time_and_learned_anew() {
        let cache = cache(1 << 20);
        let (command, template) = entry("budget");
        assert!(cache.put(command.key().clone(), template.clone(), 1_000).kept);
        assert!(cache.get(command.key(), 10_999).is_some());
        // Learning it again does not prolong it.
        assert!(!cache.put(command.key().clone(), template.clone(), 9_000).kept);
        assert!(cache.get(command.key(), 11_000).is_none());
        assert!(cache.put(command.key().clone(), template, 11_000).kept);
        assert!(cache.get(command.key(), 20_999).is_some());
        assert_eq!(cache.size().0, 1);
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_makes_room() {
        let (first, template) = entry("aaaa");
        let one = cache(1 << 20);
        one.put(first.key().clone(), template.clone(), 0);
        let (_, bytes) = one.size();
        let cache = cache(2 * bytes);
        let topics = ["aaaa", "bbbb", "cccc"];
        let stored: Vec<Stored> = topics
            .iter()
            .map(|topic| {
                let (command, template) = entry(topic);
                cache.put(command.key().clone(), template, 0)
            })
            .collect();
        assert_eq!(stored[2], Stored { kept: true, evicted: 1 });
        assert_eq!(cache.size(), (2, 2 * bytes));
        assert!(cache.get(first.key(), 0).is_none());
        assert!(cache.get(entry("cccc").0.key(), 0).is_some());
    }

    #[test]
    fn a_cache_without_room_or_time_keeps_nothing() {
        let (command, template) = entry("budget");
        for limits in [
            CacheLimits { bytes_max: 0, ttl: Duration::from_secs(1) },
            CacheLimits { bytes_max: 1 << 20, ttl: Duration::ZERO },
            CacheLimits { bytes_max: 100, ttl: Duration::from_secs(1) },
        ] {
            let cache = PatternCache::new(limits);
            assert_eq!(cache.put(command.key().clone(), template.clone(), 0), Stored::default());
            assert_eq!(cache.size(), (0, 0));
        }
    }
}
