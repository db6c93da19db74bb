//! `sluice-bench mix`: what a command costs, by one command.
//!
//! The standard mix runs through a gateway and a simulator that this program starts and ends, in two parts:
//!
//! - *cached*: everything is understood without the model and read from the caches, so the gateway is all there is to
//!   measure. The most is found in a closed loop; what is reported is the highest rate below it that an open loop
//!   sustains.
//! - *upstream*: nothing is remembered, so each command calls OpenAI or Google, which take as long as the real ones, with
//!   quotas that are out of the way.
//!
//! After the mix each kind of command runs alone, so that the server's CPU time is that kind's. A third part says what
//! caches are worth where nobody warmed them (`cold`).
//!
//! Invariants:
//! - Latencies are those of an open loop, from the intended start.
//! - Where the load generator was the limit, or anything failed, the table says so.

mod cold;
mod figures;
pub(crate) mod numbers;
pub(crate) mod scene;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

pub use figures::{Hits, MixResult, Part, Sources};

use crate::load::result::LoadResult;
use crate::load::{LoadOptions, RunOptions, Span, measure};
use cold::ColdArgs;
use scene::{Scene, SceneOptions};

/// The kinds of the standard mix.
const KINDS: [&str; 4] = ["intent", "gmail", "calendar", "drive"];
/// Rates tried below the most, as shares of it.
const SHARES: [f64; 6] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4];
/// A rate is sustained when this share of it was completed in time, ...
const KEPT_UP: f64 = 0.99;
/// ... at most this one was lost, ...
const LOST_MAX: f64 = 0.001;
/// ... and the 99th percentile, upstreams left out, stayed within this.
const P99_US_MAX: f64 = 50_000.0;
/// The caches are warm when no more than this share of the reads of a trial was missed.
const MISSES_MAX: f64 = 0.001;
/// Trials until they are.
const WARM_UPS_MAX: usize = 8;
/// The rate at which a kind runs alone, as a share of that of the mix.
const ALONE: f64 = 0.5;
/// Commands of the standard mix that the model is asked about each time: what it declines is remembered for sessions alone
/// that remember nothing, and of the plans of the others no pattern can be proved to hold.
const ASKED: [&str; 4] = [
    "turn on the lights in the kitchen",
    "play some music",
    "find mails from last week",
    "what's on my calendar tomorrow and show my unread mails",
];
/// Users of the cached part: what they read fits into the gateway's caches.
const USERS_CACHED: usize = 200;

/// Which part to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    /// Without upstream calls
    Cached,
    /// Every command calls its upstreams
    Upstream,
    /// Nothing is warmed: hit ratios
    Cold,
}

/// Options of `sluice-bench mix`.
#[derive(Debug, Clone, Args)]
pub struct MixArgs {
    #[command(flatten)]
    scene: SceneOptions,
    /// Run this part alone
    #[arg(long)]
    part: Option<PartName>,
    #[command(flatten)]
    cold: ColdArgs,
    /// Commands a second with upstream calls
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Users with upstream calls, who come in turn
    #[arg(long, default_value_t = 1_000)]
    users: usize,
    /// Time measured of each run
    #[arg(long, default_value = "5s")]
    duration: Span,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress
    #[arg(long)]
    quiet: bool,
}

/// Runs all parts and prints the table.
///
/// # Errors
/// When gateway or simulator do not start, a run cannot be made, or the gateway fails commands.
pub fn run(args: &MixArgs) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    let is_run = |part| args.part.is_none_or(|only| only == part);
    if is_run(PartName::Cached) {
        parts.push(cached(args).context("without upstream calls")?);
    }
    if is_run(PartName::Upstream) {
        parts.push(upstream(args).context("with upstream calls")?);
    }
    if is_run(PartName::Cold) {
        parts.push(cold::run(args).context("with nothing warmed")?);
    }
    let result = MixResult::new(parts);
    if let Some(path) = &args.json {
        std::fs::write(path, result.to_json()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table::table(&result));
    // Real commands may ask for what is not there.
    let excused = |part: &&Part| args.cold.may_fail() && !part.over_time.is_empty();
    let counted = result.parts.iter().filter(|part| !excused(part));
    let failed: u64 = counted.flat_map(Part::runs).map(|run| run.totals.errors).sum();
    ensure!(failed == 0, "{failed} commands failed; first: {}", result.first_error());
    Ok(())
}

fn cached(args: &MixArgs) -> anyhow::Result<Part> {
    let cache = format!("cache.read_bytes_per_core={}", 512 << 20);
    // Nothing grows old meanwhile.
    let settings = [cache.as_str(), "cache.read_fresh_ms=3600000"];
    let zero = ["openai", "oauth", "gmail", "calendar", "drive"].map(|name| format!("--{name}-latency-ms=0"));
    let sim: Vec<&str> = zero.iter().map(String::as_str).collect();
    let scene = Scene::start(&args.scene, &settings, &sim, USERS_CACHED, false)?;
    let trials = Trials { args, scene: &scene, without: &ASKED };
    trials.warm_caches()?;
    let before = scene.numbers()?;
    let most = trials.closed()?.totals.requests_per_s;
    ensure!(most > 0.0, "nothing was answered");
    let mix = trials.sustained(most)?;
    let alone = trials.kinds(mix.totals.requests_per_s * ALONE)?;
    let counted = scene.numbers()?.since(&before);
    let is_sustained = is_kept_up(&mix, intended_per_s(&mix));
    let part = Part::new("answered without upstream calls", mix, alone, &counted);
    Ok(Part { most_per_s: Some(most), is_sustained, ..part })
}

fn upstream(args: &MixArgs) -> anyhow::Result<Part> {
    let settings = [
        "cache.read_bytes_per_core=0",
        "intent.pattern_ttl_s=0",
        "egress.openai_concurrency_max=4096",
        "egress.google_concurrency_max=4096",
    ];
    let scene = Scene::start(&args.scene, &settings, &[], args.users, false)?;
    let trials = Trials { args, scene: &scene, without: &[] };
    // Everybody has come twice then: access tokens are there, and what is usual of the upstreams is known.
    #[allow(clippy::cast_precision_loss, reason = "at most a million users")]
    let round = Duration::from_secs_f64(2.0 * args.users as f64 / args.rate);
    trials.open(None, args.rate, round)?;
    let before = scene.numbers()?;
    // Its percentiles are to be believed to the 99th.
    let mix = trials.open(None, args.rate, 2 * Duration::from(args.duration))?;
    let alone = trials.kinds(args.rate * ALONE)?;
    let counted = scene.numbers()?.since(&before);
    let is_sustained = is_kept_up(&mix, args.rate);
    let part = Part::new("every command calls its upstreams", mix, alone, &counted);
    Ok(Part { is_sustained, ..part })
}

/// The runs against one gateway.
struct Trials<'a> {
    args: &'a MixArgs,
    scene: &'a Scene,
    /// Commands that are left out.
    without: &'a [&'a str],
}

impl Trials<'_> {
    fn options(&self, only: Option<&str>, duration: Duration) -> LoadOptions {
        let scene = self.scene;
        LoadOptions {
            run: RunOptions {
                metrics: Some(scene.metrics.clone()),
                only: only.map(str::to_owned),
                duration: Some(duration.into()),
                in_turn: Some(true),
                ..scene.run_options()
            },
            without: self.without.iter().map(|text| (*text).to_owned()).collect(),
            quiet: self.args.quiet,
            ..LoadOptions::default()
        }
    }

    fn closed(&self) -> anyhow::Result<LoadResult> {
        self.say("the most, in a closed loop");
        measure(self.options(None, self.args.duration.into()))
    }

    fn open(&self, only: Option<&str>, rate: f64, duration: Duration) -> anyhow::Result<LoadResult> {
        self.say(&format!("{} at {rate:.0} commands a second", only.unwrap_or("the mix")));
        let mut options = self.options(only, duration);
        options.run.rate = Some(rate);
        measure(options)
    }

    /// Runs until what is asked for is remembered.
    fn warm_caches(&self) -> anyhow::Result<()> {
        for _trial in 0..WARM_UPS_MAX {
            self.say("warming the caches");
            let before = self.scene.numbers()?;
            measure(self.options(None, Duration::from_secs(3)))?;
            let reads = figures::reads(&self.scene.numbers()?.since(&before));
            if reads.hits > 0 && reads.ratio().is_some_and(|ratio| 1.0 - ratio <= MISSES_MAX) {
                return Ok(());
            }
        }
        bail!("the gateway's caches do not get warm: what is read does not fit, or is not remembered")
    }

    /// The highest rate of those below the most that is kept up; the lowest tried where none is, of which the table says so.
    fn sustained(&self, most: f64) -> anyhow::Result<LoadResult> {
        for share in SHARES {
            let result = self.open(None, most * share, 2 * Duration::from(self.args.duration))?;
            if is_kept_up(&result, most * share) || share == SHARES[SHARES.len() - 1] {
                return Ok(result);
            }
        }
        bail!("no rate was tried")
    }

    /// Each kind alone.
    fn kinds(&self, rate: f64) -> anyhow::Result<Vec<LoadResult>> {
        KINDS.iter().map(|kind| self.open(Some(kind), rate, self.args.duration.into())).collect()
    }

    fn say(&self, what: &str) {
        if !self.args.quiet {
            eprintln!("{what}");
        }
    }
}

/// Commands a second that there were.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn intended_per_s(result: &LoadResult) -> f64 {
    result.totals.intended as f64 / result.run.duration_s
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn is_kept_up(result: &LoadResult, rate: f64) -> bool {
    let totals = &result.totals;
    let lost = (totals.errors + totals.dropped) as f64 / totals.intended.max(1) as f64;
    totals.requests_per_s >= rate * KEPT_UP
        && lost <= LOST_MAX
        && table::beside_upstream(result).is_none_or(|rest| rest.at(99.0) <= P99_US_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::{Latency, Scenario, Totals};

    fn result(requests_per_s: f64, errors: u64, p99_us: u64) -> LoadResult {
        let rest = Latency { count: 1, buckets_ns: vec![(p99_us * 1_000, 1)], ..Latency::default() };
        LoadResult {
            totals: Totals { intended: 10_000, errors, requests_per_s, ..Totals::default() },
            scenarios: vec![Scenario { beside_upstream: Some(rest), ..Scenario::default() }],
            ..LoadResult::default()
        }
    }

    #[test]
    fn a_rate_is_kept_up_in_number_in_time_and_without_loss() {
        assert!(is_kept_up(&result(995.0, 10, 49_000), 1_000.0));
        assert!(!is_kept_up(&result(980.0, 0, 1_000), 1_000.0));
        assert!(!is_kept_up(&result(1_000.0, 11, 1_000), 1_000.0));
        assert!(!is_kept_up(&result(1_000.0, 0, 51_000), 1_000.0));
    }
}
