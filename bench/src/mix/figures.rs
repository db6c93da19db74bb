//! What `mix` measured, as it is kept in a file.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::numbers::Numbers;
use crate::load::result::{Build, LoadResult, Machine};

/// Name and version of the file format.
pub(super) const FORMAT: &str = "sluice-mix/1";

/// Both parts, and where they were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixResult {
    /// [`FORMAT`].
    pub format: String,
    pub machine: Machine,
    pub build: Build,
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it was, in words.
    pub name: String,
    /// Commands a second in a closed loop, where that was tried.
    pub most_per_s: Option<f64>,
    /// Whether the rate of the mix was kept up.
    pub is_sustained: bool,
    /// Calls to OpenAI and Google, over all runs.
    pub upstream_calls: u64,
    /// The mix in an open loop.
    pub mix: LoadResult,
    /// Each kind alone, in an open loop.
    pub alone: Vec<LoadResult>,
    /// Look-ups of each cache, over all runs.
    pub caches: BTreeMap<String, Hits>,
    /// Who understood the commands, over all runs.
    pub intents: Sources,
    /// Look-ups of each cache by quarters of the mix, where nothing was warmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over_time: Vec<BTreeMap<String, Hits>>,
}

/// Look-ups of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    pub hits: u64,
    pub misses: u64,
}

/// Commands by who understood them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    pub local: u64,
    pub pattern: u64,
    pub model: u64,
}

impl Hits {
    /// The share of hits; `None` when nothing was looked up.
    pub fn ratio(&self) -> Option<f64> {
        share(self.hits, self.hits + self.misses)
    }
}

impl Sources {
    /// The share of each: by rules, by a pattern, by the model.
    pub fn shares(&self) -> [Option<f64>; 3] {
        let all = self.local + self.pattern + self.model;
        [self.local, self.pattern, self.model].map(|count| share(count, all))
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

impl MixResult {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self { format: FORMAT.into(), machine: Machine::read(), build: Build::of_this_program(), parts }
    }

    pub(super) fn to_json(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).map(|text| text + "\n").context("the result cannot be written down")
    }

    /// All runs that are reported.
    pub(super) fn runs(&self) -> impl Iterator<Item = &LoadResult> {
        self.parts.iter().flat_map(Part::runs)
    }

    pub(super) fn first_error(&self) -> &str {
        self.runs().find_map(|run| run.totals.first_error.as_deref()).unwrap_or("unknown")
    }
}

impl Part {
    pub(super) fn new(name: &str, mix: LoadResult, alone: Vec<LoadResult>, counted: &Numbers) -> Self {
        Self {
            name: name.to_owned(),
            most_per_s: None,
            is_sustained: true,
            upstream_calls: counted.count("quota_calls", &[]),
            mix,
            alone,
            caches: caches(counted),
            intents: sources(counted),
            over_time: Vec::new(),
        }
    }

    /// Its runs, that of the mix first.
    pub(super) fn runs(&self) -> impl Iterator<Item = &LoadResult> {
        std::iter::once(&self.mix).chain(&self.alone)
    }
}

/// Reads of all services.
pub(super) fn reads(counted: &Numbers) -> Hits {
    reads_of(counted, &[])
}

fn reads_of(counted: &Numbers, labels: &[&str]) -> Hits {
    let of = |event: &str| {
        let event = format!("event=\"{event}\"");
        let labels: Vec<&str> = labels.iter().copied().chain([event.as_str()]).collect();
        counted.count("cache_reads", &labels)
    };
    Hits { hits: of("hit") + of("stale"), misses: of("miss") + of("joined") }
}

/// Look-ups of each cache.
pub(super) fn caches(counted: &Numbers) -> BTreeMap<String, Hits> {
    let single = |hits: &str, misses: &str| Hits {
        hits: counted.count(hits, &[]),
        misses: counted.count(misses, &[]),
    };
    let services = ["gmail", "calendar", "drive"];
    let services = services
        .map(|service| (format!("{service} reads"), reads_of(counted, &[&format!("kind=\"{service}\"")])));
    let others = [
        ("access tokens", single("run_access_tokens_hits", "run_access_tokens_misses")),
        ("preferences", single("run_preferences_hits", "run_preferences_misses")),
        ("sessions", single("session_cache_hits", "session_cache_misses")),
        ("keys", single("keys_hits", "keys_misses")),
        ("patterns", single("run_intents_pattern", "run_patterns_missed")),
        ("blocks", single("store_block_cache_hits", "store_block_cache_misses")),
    ];
    services.into_iter().chain(others.map(|(name, hits)| (name.to_owned(), hits))).collect()
}

fn sources(counted: &Numbers) -> Sources {
    Sources {
        local: counted.count("run_intents_local", &[]),
        pattern: counted.count("run_intents_pattern", &[]),
        model: counted.count("run_intents_model", &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_follow_from_the_page() {
        let page = Numbers::read(
            "sluice_cache_reads_total{core=\"0\",kind=\"gmail\",event=\"hit\"} 90\n\
             sluice_cache_reads_total{core=\"0\",kind=\"gmail\",event=\"stale\"} 5\n\
             sluice_cache_reads_total{core=\"0\",kind=\"gmail\",event=\"miss\"} 4\n\
             sluice_cache_reads_total{core=\"1\",kind=\"gmail\",event=\"joined\"} 1\n\
             sluice_cache_reads_total{core=\"0\",kind=\"gmail\",event=\"evicted\"} 7\n\
             sluice_cache_reads_total{core=\"0\",kind=\"drive\",event=\"hit\"} 5\n\
             sluice_run_access_tokens_hits_total{core=\"0\"} 8\nsluice_run_access_tokens_misses_total{core=\"0\"} 2\n\
             sluice_run_intents_local_total{core=\"0\"} 3\nsluice_run_intents_pattern_total{core=\"0\"} 1\n",
        );
        let caches = caches(&page);
        assert_eq!(caches["gmail reads"], Hits { hits: 95, misses: 5 });
        assert_eq!(caches["gmail reads"].ratio(), Some(0.95));
        assert_eq!(caches["access tokens"].ratio(), Some(0.8));
        assert_eq!((caches["calendar reads"].ratio(), reads(&page).hits), (None, 100));
        assert_eq!(sources(&page).shares(), [Some(0.75), Some(0.25), Some(0.0)]);
    }
}
