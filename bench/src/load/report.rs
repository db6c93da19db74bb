//! Results of a load run.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies up to a minute, in nanoseconds, to three digits.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What one client thread saw.
#[derive(Debug)]
pub struct Outcome {
    /// From the intended start (open loop) or the real one (closed), in ns.
    pub corrected: Histogram<u64>,
    /// From the moment the request was really handed to the client, in ns.
    pub uncorrected: Histogram<u64>,
    /// Requests that failed or had an unexpected status.
    pub errors: u64,
    /// Starts dropped since too many requests were under way.
    pub dropped: u64,
    /// The first failure, to name it.
    pub first_error: Option<String>,
    /// CPU time of the client's thread while measuring.
    pub client_cpu: Duration,
    /// Connections made while measuring.
    pub connections: u64,
}

impl Default for Outcome {
    fn default() -> Self {
        let histogram = || Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("constant bounds are valid");
        Self {
            corrected: histogram(),
            uncorrected: histogram(),
            errors: 0,
            dropped: 0,
            first_error: None,
            client_cpu: Duration::ZERO,
            connections: 0,
        }
    }
}

impl Outcome {
    pub(super) fn note(&mut self, corrected: Duration, uncorrected: Duration) {
        self.corrected.saturating_record(nanos(corrected));
        self.uncorrected.saturating_record(nanos(uncorrected));
    }

    pub(super) fn fail(&mut self, error: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(error);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.corrected.add(&other.corrected).expect("same bounds");
        self.uncorrected.add(&other.uncorrected).expect("same bounds");
        self.errors += other.errors;
        self.dropped += other.dropped;
        self.client_cpu += other.client_cpu;
        self.connections += other.connections;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LATENCY_NS_MAX)
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
}

impl Latency {
    #[allow(clippy::cast_precision_loss, reason = "latencies below a minute fit 53 bits")]
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// A run's result.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Requests answered as expected while measuring.
    pub requests: u64,
    /// The same, a second.
    pub requests_per_s: f64,
    /// Requests that failed or had an unexpected status.
    pub errors: u64,
    /// Starts dropped (open loop).
    pub dropped: u64,
    /// Connections made while measuring.
    pub connections: u64,
    /// Latency from the intended start.
    pub latency: Latency,
    /// Latency from the real start.
    pub latency_uncorrected: Latency,
    /// CPU time of the server a request, when its pid was given.
    pub server_cpu_us: Option<f64>,
    /// CPU time of the client a request.
    pub client_cpu_us: f64,
    /// Share of the time the client's busiest resource, its threads, was busy;
    /// near 1 the client was the limit.
    pub client_busy: f64,
    /// The first failure.
    pub first_error: Option<String>,
}

impl Summary {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(super) fn new(outcome: Outcome, elapsed: Duration, threads: usize, server: Option<Duration>) -> Self {
        let requests = outcome.corrected.len();
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
        Self {
            requests,
            requests_per_s: requests as f64 / elapsed.as_secs_f64(),
            errors: outcome.errors,
            dropped: outcome.dropped,
            connections: outcome.connections,
            latency: Latency::of(&outcome.corrected),
            latency_uncorrected: Latency::of(&outcome.uncorrected),
            server_cpu_us: server.map(per_request),
            client_cpu_us: per_request(outcome.client_cpu),
            client_busy: outcome.client_cpu.as_secs_f64() / elapsed.as_secs_f64() / threads as f64,
            first_error: outcome.first_error,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests      {:>12}  {:>12.0} /s", self.requests, self.requests_per_s)?;
        writeln!(f, "errors        {:>12}  dropped {}", self.errors, self.dropped)?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, l: &Latency| {
            writeln!(
                f,
                "{name:<13} p50 {:>9.1}  p90 {:>9.1}  p99 {:>9.1}  p99.9 {:>9.1}  max {:>9.1}  us",
                l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us
            )
        };
        line(f, "latency", &self.latency)?;
        line(f, "uncorrected", &self.latency_uncorrected)?;
        if let Some(cpu) = self.server_cpu_us {
            writeln!(f, "server CPU    {cpu:>12.2}  us a request")?;
        }
        writeln!(
            f,
            "client CPU    {:>12.2}  us a request, {:.0} % busy",
            self.client_cpu_us,
            self.client_busy * 1e2
        )?;
        if self.client_busy > 0.95 {
            writeln!(f, "the client was the limit: give it more threads or a lower rate")?;
        }
        Ok(())
    }
}
