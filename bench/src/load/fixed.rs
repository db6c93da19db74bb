//! One request, over and over, for programs that need a few figures: `compare`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::control;
use super::plan::{Load, Plan, Protocol, Shares, Target};
use super::record::Outcome;
use super::result::per_request_us;
use super::scenario::Mix;
use super::schedule::Segment;
use super::users::{Users, Zipf};

/// Most a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to send, and how much of it.
#[derive(Debug, Clone)]
pub struct LoadArgs {
    /// Server, as https://HOST:PORT.
    pub url: String,
    /// Certificate authority to trust (PEM); without it nothing is verified.
    pub ca: Option<PathBuf>,
    /// API keys sent as bearer tokens, in turn.
    pub keys: Vec<String>,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Body, sent as application/json.
    pub body: Option<String>,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each connection (closed loop).
    pub streams: usize,
    /// Requests a second in all (open loop); without it the loop is closed.
    pub rate: Option<f64>,
    /// Most requests under way in an open loop; starts beyond it are dropped.
    pub in_flight_max: usize,
    /// Requests on a connection before it is closed and made anew (closed loop).
    pub requests_per_connection: Option<u64>,
    /// Seconds measured.
    pub duration_s: f64,
    /// Seconds before that, not measured.
    pub warmup_s: f64,
    /// Client threads, each with its own reactor.
    pub threads: usize,
    /// CPU of the first client thread; the others follow.
    pub cpu: Option<usize>,
    /// Process whose CPU time is divided by the requests.
    pub pid: Option<u32>,
    /// Cores of the server: connections are spread over them by their first ID.
    pub server_cores: Option<usize>,
    /// Expect this status; others count as errors.
    pub expect: u16,
    /// Kept for callers that print.
    pub json: bool,
}

/// Percentiles of the corrected latency, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Requests answered as expected in the measured time.
    pub requests: u64,
    /// The same, a second.
    pub requests_per_s: f64,
    /// Requests that failed or had an unexpected status.
    pub errors: u64,
    /// Starts dropped (open loop).
    pub dropped: u64,
    /// Latency from the intended start.
    pub latency: Percentiles,
    /// CPU time of the server a request, when its pid was given.
    pub server_cpu_us: Option<f64>,
    /// CPU time of the client a request.
    pub client_cpu_us: f64,
    /// Share of the time the client's threads were busy; near 1 they were the limit.
    pub client_busy: f64,
    /// The first failure.
    pub first_error: Option<String>,
}

/// Runs the load.
///
/// # Errors
/// When the server cannot be reached or the arguments make no request.
pub fn run_load(args: &LoadArgs) -> anyhow::Result<Summary> {
    ensure!(args.threads >= 1 && args.threads <= args.connections, "each thread needs a connection");
    let users = if args.keys.is_empty() { Users::anonymous(1)? } else { Users::from_keys(&args.keys)? };
    let with_key = !args.keys.is_empty();
    let mix = Mix::single(&args.method, &args.path, args.body.as_deref(), args.expect, with_key)?;
    let duration = Duration::try_from_secs_f64(args.duration_s)?;
    let load = match args.rate {
        Some(rate) => Load::Open { segments: vec![Segment::constant(duration, rate)], is_random: false },
        None => Load::Closed,
    };
    let plan = Plan {
        target: Target::parse(&args.url)?,
        protocol: Protocol::H3,
        authorities: args.ca.iter().cloned().collect(),
        mix: Arc::new(mix),
        zipf: Zipf::new(users.count(), 0.0)?,
        in_turn: false,
        users: Arc::new(users),
        load,
        warmup: Duration::try_from_secs_f64(args.warmup_s)?,
        duration,
        timeout: TIMEOUT,
        clients: args.connections,
        streams: args.streams.max(1),
        in_flight_max: args.in_flight_max.max(1),
        shares: Shares::default(),
        requests_per_connection: args.requests_per_connection,
        threads: args.threads,
        cpu: args.cpu,
        server_cores: args.server_cores,
        seed: 1,
        spin: true,
        pid: args.pid,
        is_quiet: true,
    };
    let trial = control::run(&plan, "")?;
    Ok(Summary {
        requests: trial.outcome.completed_in_time,
        requests_per_s: trial.rate(),
        errors: trial.outcome.errors(),
        dropped: trial.outcome.dropped,
        latency: percentiles(&trial.outcome),
        server_cpu_us: trial.server_cpu_us(),
        client_cpu_us: per_request_us(trial.outcome.client_cpu, trial.outcome.completed_in_time)
            .unwrap_or(0.0),
        client_busy: trial.client_busy(),
        first_error: trial.outcome.first_error.clone(),
    })
}

#[allow(clippy::cast_precision_loss, reason = "latencies below a minute fit 53 bits")]
fn percentiles(outcome: &Outcome) -> Percentiles {
    let (corrected, _) = outcome.latencies();
    let at = |quantile| corrected.value_at_quantile(quantile) as f64 / 1e3;
    Percentiles { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) }
}
