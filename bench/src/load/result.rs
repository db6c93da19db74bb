//! The result of a load run, as it is kept in a file.
//!
//! Everything a reader needs to judge the figures stands beside them: what was run,
//! on which machine, from which build, on which CPUs. The terminal table, the
//! `.hgrm` file, the HTML page and `load-diff` are all made from this and nothing
//! else, so that a result file can be shown again later.
//!
//! Invariants:
//! - [`FORMAT`] changes when a field changes its meaning; new fields have defaults.
//! - Every number is finite; what was not measured is `None`, not zero.
//! - Nothing that names the machine's owner is kept (no host name, no address but
//!   the target's).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use super::machine::{Build, Machine};

/// Name and version of the file format.
pub const FORMAT: &str = "sluice-load/1";

/// Percentiles every latency is reported at, in per cent.
pub const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// One run and all that was measured in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LoadResult {
    /// [`FORMAT`].
    pub format: String,
    /// What was run.
    pub run: RunInfo,
    /// Where it ran.
    pub machine: Machine,
    /// Which build of the harness ran.
    pub build: Build,
    /// Which CPUs client and server had.
    pub pinning: Pinning,
    /// Counts over all scenarios.
    pub totals: Totals,
    /// Latency over all scenarios.
    pub latency: Latencies,
    /// CPU time.
    pub cpu: Cpu,
    /// A row a scenario.
    #[serde(default)]
    pub scenarios: Vec<Scenario>,
    /// A row a second of the measured time, in order.
    #[serde(default)]
    pub seconds: Vec<Second>,
    /// The server's memory over time, when its process was known.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Turns that kept a core of the server busy, when its metrics page was given.
    #[serde(default)]
    pub stalls: Option<Stalls>,
    /// Load levels that were tried one after the other, by rising rate.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// The most requests a second within each limit of the 99th percentile.
    #[serde(default)]
    pub frontier: Vec<FrontierPoint>,
    /// Latency at set shares of the most that is sustained.
    #[serde(default)]
    pub levels: Vec<Level>,
    /// Connections made, by kind of handshake.
    #[serde(default)]
    pub handshakes: Vec<Handshake>,
    /// Whether the client was what limited the run.
    pub client_limited: ClientLimited,
    /// What had to hold, and whether it did.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunInfo {
    /// The command line, one element an argument; secrets replaced by `***`.
    pub command: Vec<String>,
    /// When measuring began (RFC 3339, UTC).
    pub started_at: String,
    /// Seconds measured.
    pub duration_s: f64,
    /// Seconds before that, not measured.
    pub warmup_s: f64,
    /// Shape of the load: `constant`, `ramp`, `steps`, `spike`, `soak`, ...
    pub profile: String,
    /// `h3`, `h2` or `h1`.
    pub protocol: String,
    /// `open` (starts follow the clock) or `closed` (starts follow the answers).
    pub mode: String,
    /// Name of the scenario mix.
    pub mix: String,
    /// Server that was loaded, as given.
    pub target: String,
    /// Connections kept open.
    pub connections: u64,
    /// Users that requests were made for.
    pub users: u64,
    /// Threads of the client.
    pub threads: u64,
}

/// CPUs that were set aside; empty where nothing was pinned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pinning {
    /// CPUs of the client's threads.
    #[serde(default)]
    pub client_cpus: Vec<usize>,
    /// CPUs the server may run on (`Cpus_allowed_list`), when its process was known.
    #[serde(default)]
    pub server_cpus: Vec<usize>,
}

/// Counts of the measured time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests the profile called for.
    pub intended: u64,
    /// Requests begun.
    pub started: u64,
    /// Requests answered as expected.
    pub completed: u64,
    /// Starts left out since too many requests were under way.
    pub dropped: u64,
    /// Requests that failed or had an unexpected status.
    pub errors: u64,
    /// Completed requests a second.
    pub requests_per_s: f64,
    /// Connections made.
    pub connections: u64,
    /// Completed requests that took longer than the histograms hold, a minute; they
    /// count as a minute.
    #[serde(default)]
    pub saturated: u64,
    /// The first failure in words.
    #[serde(default)]
    pub first_error: Option<String>,
}

/// Latency counted in both ways.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Latencies {
    /// From the intended start: waiting for a free connection counts.
    pub corrected: Latency,
    /// From the moment the request was handed to the connection.
    pub uncorrected: Latency,
}

impl Latencies {
    /// Sums up two histograms of nanoseconds.
    pub fn of(corrected: &Histogram<u64>, uncorrected: &Histogram<u64>) -> Self {
        Self { corrected: Latency::of(corrected), uncorrected: Latency::of(uncorrected) }
    }
}

/// A distribution of latencies, all in microseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Values counted.
    pub count: u64,
    /// Smallest.
    pub min_us: f64,
    /// Mean.
    pub mean_us: f64,
    /// Standard deviation.
    pub stdev_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 75th percentile.
    pub p75_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// 99.99th percentile.
    pub p9999_us: f64,
    /// Largest.
    pub max_us: f64,
    /// The whole distribution, ascending: highest value of a bucket in
    /// nanoseconds, and how many fell into it. Whole numbers, so that the
    /// histogram can be read back without loss. At most a few thousand.
    #[serde(default)]
    pub buckets_ns: Vec<(u64, u64)>,
}

impl Latency {
    /// Sums up a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |percentile: f64| micros(histogram.value_at_percentile(percentile));
        let buckets = histogram.iter_recorded();
        Self {
            count: histogram.len(),
            min_us: micros(histogram.min()),
            mean_us: histogram.mean() / 1e3,
            stdev_us: histogram.stdev() / 1e3,
            p50_us: at(50.0),
            p75_us: at(75.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            p9999_us: at(99.99),
            max_us: micros(histogram.max()),
            buckets_ns: buckets.map(|b| (b.value_iterated_to(), b.count_at_value())).collect(),
        }
    }

    /// The value at a percentile, in microseconds, from the buckets: as exact as those are.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    pub fn at(&self, percentile: f64) -> f64 {
        let rank = ((self.count as f64 * percentile / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets_ns.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(self.max_us, |(value, _)| micros(*value))
    }

    /// The percentiles with their names, and the largest value.
    pub fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("p50", self.p50_us),
            ("p75", self.p75_us),
            ("p90", self.p90_us),
            ("p99", self.p99_us),
            ("p99.9", self.p999_us),
            ("p99.99", self.p9999_us),
            ("max", self.max_us),
        ]
    }
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds up to 104 days are exact")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// CPU time of the measured time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// The server's a completed request, in microseconds; its process was known.
    #[serde(default)]
    pub server_us_per_request: Option<f64>,
    /// The client's a completed request, in microseconds.
    pub client_us_per_request: f64,
    /// Share of the time the server was on a CPU; 1 is one CPU all the time.
    #[serde(default)]
    pub server_busy: Option<f64>,
    /// The same of each client thread on average; near 1 the client is the limit.
    pub client_busy: f64,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scenario {
    /// Name in the mix.
    pub name: String,
    /// Share of the mix, relative to the others.
    pub weight: f64,
    /// Requests completed as expected.
    pub requests: u64,
    /// Requests that were not.
    pub errors: u64,
    /// Answers by status, expected or not.
    #[serde(default)]
    pub statuses: BTreeMap<u16, u64>,
    /// Failures without an answer, by kind (`timeout`, `reset`, `lost`, ...).
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// Its latency.
    pub latency: Latencies,
    /// What the server says it took itself (`own` of `Server-Timing`), where it says so.
    #[serde(default)]
    pub own: Option<Latency>,
    /// Of the same answers: the corrected latency less what the server waited for others.
    #[serde(default)]
    pub beside_upstream: Option<Latency>,
    /// Of the same answers: how long each part took that the server tells of, by its name. An answer without it counts as 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<String, Latency>,
}

/// One second of the measured time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since measuring began, at its start.
    pub at_s: u32,
    /// Requests the profile called for.
    pub intended: u64,
    /// Requests completed as expected.
    pub completed: u64,
    /// Requests that were not.
    pub errors: u64,
    /// Starts left out.
    pub dropped: u64,
    /// Median of the corrected latency, in microseconds; 0 when nothing completed.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// Largest of the same.
    pub max_us: f64,
    /// The server's CPU time a request, in microseconds.
    #[serde(default)]
    pub server_cpu_us: Option<f64>,
}

/// The server's resident memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Seconds since measuring began, and bytes; ascending.
    pub rss_bytes: Vec<(f64, u64)>,
    /// Slope of a straight line through the samples, in bytes a minute.
    pub slope_bytes_per_min: f64,
    /// Half the width of the slope's 95 % confidence interval, in bytes a minute, as
    /// if samples were independent; `None` for fewer than three.
    #[serde(default)]
    pub slope_ci95_bytes_per_min: Option<f64>,
}

/// What the server's metrics page says of its cores, over the whole run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stalls {
    /// Turns that took longer than 1 ms.
    pub over_1ms: u64,
    /// Turns that took longer than 25 ms.
    pub over_25ms: u64,
    /// The longest turn of the server's life, in microseconds.
    pub longest_us: f64,
    /// What that was before the run; the same figure means that the run had none longer.
    pub longest_before_us: f64,
}

impl Memory {
    /// From samples; the slope is that of least squares, 0 for fewer than two.
    #[allow(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
    pub fn of(rss_bytes: Vec<(f64, u64)>) -> Self {
        let count = rss_bytes.len().max(1) as f64;
        let mean_at = rss_bytes.iter().map(|(at, _)| at).sum::<f64>() / count;
        let mean = rss_bytes.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / count;
        let (mut product, mut square) = (0.0, 0.0);
        for (at, bytes) in &rss_bytes {
            product += (at - mean_at) * (*bytes as f64 - mean);
            square += (at - mean_at).powi(2);
        }
        let slope = if square > 0.0 { product / square } else { 0.0 };
        let residual = |(at, bytes): &(f64, u64)| *bytes as f64 - mean - slope * (at - mean_at);
        let rest: f64 = rss_bytes.iter().map(|sample| residual(sample).powi(2)).sum();
        let freedom = count - 2.0;
        let ci95 = (freedom >= 1.0 && square > 0.0)
            .then(|| student_t95(freedom) * (rest / freedom / square).sqrt() * 60.0);
        Self { rss_bytes, slope_bytes_per_min: slope * 60.0, slope_ci95_bytes_per_min: ci95 }
    }
}

/// The 97.5th percentile of Student's t with this many degrees of freedom (1 or more),
/// by the Cornish-Fisher expansion around the normal distribution's: within 1 % from 5
/// on, 4 % too small at 3, useless at 1.
fn student_t95(freedom: f64) -> f64 {
    const Z: f64 = 1.959_964;
    let first = (Z.powi(3) + Z) / 4.0;
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
    Z + first / freedom + second / (freedom * freedom)
}

/// One load level of a run that tried several.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Step {
    /// Requests a second that were called for.
    pub rate_per_s: f64,
    /// Requests a second that were completed.
    pub requests_per_s: f64,
    /// Median of the corrected latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// 99.9th percentile of the same.
    pub p999_us: f64,
    /// The server's CPU time a request, in microseconds.
    #[serde(default)]
    pub server_cpu_us: Option<f64>,
    /// Requests failed, and starts left out.
    pub lost: u64,
    /// Share of the time the client's threads were busy.
    pub client_busy: f64,
}

/// The most requests a second within a limit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FrontierPoint {
    /// Limit of the 99th percentile, in milliseconds.
    pub p99_limit_ms: f64,
    /// Requests a second; `None` when no level that was tried stayed within.
    #[serde(default)]
    pub requests_per_s: Option<f64>,
    /// 99th percentile there, in microseconds.
    #[serde(default)]
    pub p99_us: Option<f64>,
    /// The server's CPU time a request there, in microseconds.
    #[serde(default)]
    pub server_cpu_us: Option<f64>,
    /// The client or the end of the search was the limit: the server may do more.
    #[serde(default)]
    pub is_lower_bound: bool,
}

/// Latency at a share of the most that is sustained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Level {
    /// Share of the most, in per cent.
    pub percent: f64,
    /// Requests a second there.
    pub requests_per_s: f64,
    /// Corrected latency there.
    pub latency: Latency,
    /// The server's CPU time a request, in microseconds.
    #[serde(default)]
    pub server_cpu_us: Option<f64>,
}

/// Connections made by one kind of handshake.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Handshake {
    /// `full`, `resumed` or `0-rtt`.
    pub kind: String,
    /// How many succeeded.
    pub count: u64,
    /// How many failed.
    pub failed: u64,
    /// How many of a better kind fell back to this one (0-RTT refused, ticket too old).
    #[serde(default)]
    pub fallbacks: u64,
    /// From the call to the connection's readiness.
    pub connect: Latency,
    /// From the call to the first answer.
    pub first_answer: Latency,
}

/// Whether the client limited the run, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClientLimited {
    /// The figures say more of the client than of the server.
    pub limited: bool,
    /// A sentence for each sign.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// One condition on the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Threshold {
    /// As given, such as `p99<5ms`.
    pub expression: String,
    /// What was measured, in the unit of the expression.
    #[serde(default)]
    pub value: Option<f64>,
    /// Whether it held.
    pub passed: bool,
}

impl LoadResult {
    /// An empty result of this build on this machine.
    pub fn new(run: RunInfo, pinning: Pinning) -> Self {
        Self {
            format: FORMAT.into(),
            run,
            machine: Machine::read(),
            build: Build::of_this_program(),
            pinning,
            ..Self::default()
        }
    }

    /// Whether all thresholds held.
    pub fn passed(&self) -> bool {
        self.thresholds.iter().all(|threshold| threshold.passed)
    }

    /// Reads a result file.
    ///
    /// # Errors
    /// When it is not JSON, of another format, or holds what cannot be.
    pub fn from_json(text: &str) -> Result<Self, ResultError> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(ResultError::Json)?;
        match value.get("format").and_then(|format| format.as_str()) {
            Some(FORMAT) => {}
            Some(other) => return Err(ResultError::Format(other.chars().take(40).collect())),
            None => return Err(ResultError::NoFormat),
        }
        let result: Self = serde_json::from_value(value).map_err(ResultError::Json)?;
        if result.latency.corrected.buckets_ns.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(ResultError::Buckets);
        }
        Ok(result)
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// A file is not a result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Not JSON, or a field is missing or of another type.
    #[error("not a readable result: {0}")]
    Json(serde_json::Error),
    /// Some other JSON.
    #[error("it has no \"format\" and so is no result of `sluice-bench load`")]
    NoFormat,
    /// Of a version this program does not know.
    #[error("its format is {0:?}; this program reads {FORMAT:?}")]
    Format(String),
    /// Edited or damaged.
    #[error("its latency buckets are not ascending")]
    Buckets,
}

/// CPU time a request in microseconds; `None` without requests.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn per_request_us(time: Duration, requests: u64) -> Option<f64> {
    (requests > 0).then(|| time.as_secs_f64() * 1e6 / requests as f64)
}

#[cfg(test)]
pub(crate) mod tests;
