//! The part in which nothing is warmed on purpose: what caches are worth to users as they come.
//!
//! Users are drawn by Zipf and come at moments of their own, upstreams take as long as the real ones, and everything that
//! the gateway remembers is empty when measuring begins and as large, and remembered as long, as it is unless told
//! otherwise. So every ratio holds the misses of those who come for the first time. It is told for each quarter of the run
//! as well: what is still rising was not measured for long enough.
//!
//! The number that decides how well reads are remembered is how often one user comes while a read is fresh. A hundred
//! users for each command a second is what a million users at 10,000 a second are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use super::figures::{self, Hits, Part};
use super::numbers::Numbers;
use super::scene::Scene;
use super::{MixArgs, intended_per_s, is_kept_up};
use crate::load::observe::fetch_text;
use crate::load::result::LoadResult;
use crate::load::{LoadOptions, RunOptions, Span, measure};

/// Parts of the run of which ratios are told one by one.
const QUARTERS: u32 = 4;
/// Users for each command a second.
const USERS_A_RATE: f64 = 100.0;
/// The share of the rate that must have been sent. Of 24,000 that come by chance (200 a second for two minutes) 0.65 % are one
/// standard deviation, so this is more than seven.
const COME: f64 = 0.95;

/// Options of the part.
#[derive(Debug, Clone, Args)]
pub(crate) struct ColdArgs {
    /// Commands a second where nothing is warmed
    #[arg(long, default_value_t = 200.0)]
    cold_rate: f64,
    /// Users there [default: a hundred for each command a second]
    #[arg(long)]
    cold_users: Option<usize>,
    /// How uneven they are: user k comes 1/k^S as often
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    zipf: f64,
    /// Time measured there; what is read is fresh for five minutes
    #[arg(long, default_value = "2m")]
    cold_duration: Span,
    /// Real commands there (JSON lines, annotated) in place of the mix's own; those that cannot be done are told as lost
    #[arg(long, value_name = "FILE")]
    commands: Option<PathBuf>,
}

impl ColdArgs {
    /// Whether commands may fail.
    pub(super) fn may_fail(&self) -> bool {
        self.commands.is_some()
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and bounded by the seeding"
    )]
    fn users(&self) -> usize {
        self.cold_users.unwrap_or_else(|| (self.cold_rate * USERS_A_RATE).ceil() as usize).max(1)
    }
}

/// Runs the part.
pub(super) fn run(args: &MixArgs) -> anyhow::Result<Part> {
    let cold = &args.cold;
    ensure!(cold.cold_rate > 0.0, "--cold-rate must be above 0");
    let annotations = cold.commands.as_ref().map(|path| path.display().to_string());
    let sim: Vec<&str> = annotations.iter().flat_map(|path| ["--annotations", path.as_str()]).collect();
    let scene = Scene::start(&args.scene, &[], &sim, cold.users(), false)?;
    let options = LoadOptions {
        run: RunOptions {
            metrics: Some(scene.metrics.clone()),
            commands: cold.commands.clone(),
            rate: Some(cold.cold_rate),
            random: Some(true),
            duration: Some(cold.cold_duration),
            warm_up: Some(Duration::ZERO.into()),
            zipf: Some(cold.zipf),
            ..scene.run_options()
        },
        quiet: args.quiet,
        ..LoadOptions::default()
    };
    if !args.quiet {
        eprintln!("the mix at {:.0} commands a second, nothing warmed", cold.cold_rate);
    }
    let before = scene.numbers()?;
    let quarter = Duration::from(cold.cold_duration) / QUARTERS;
    let metrics = scene.metrics.as_str();
    let (mix, between) = thread::scope(|scope| {
        let watching = scope.spawn(move || watch(metrics, quarter));
        let mix = measure(options);
        (mix, watching.join())
    });
    let (mix, between) = (mix?, between.map_err(|_| anyhow::anyhow!("the metrics were not watched"))??);
    let after = scene.numbers()?;
    let name = format!(
        "nothing warmed: users by Zipf {:?}, {:.0} commands a second by chance, upstreams as the simulator has them",
        cold.zipf, cold.cold_rate
    );
    // Users who come by chance are not quite as many as the rate says.
    let is_sustained = has_come(&mix, cold.cold_rate) && is_kept_up(&mix, intended_per_s(&mix));
    let part = Part::new(&name, mix, Vec::new(), &after.since(&before));
    let over_time = over_time(std::iter::once(&before).chain(&between).chain([&after]));
    Ok(Part { is_sustained, over_time, ..part })
}

/// Whether as many were sent as the rate says, but for chance.
fn has_come(mix: &LoadResult, rate: f64) -> bool {
    intended_per_s(mix) >= rate * COME
}

/// What is counted at the end of each quarter but the last.
fn watch(metrics: &str, quarter: Duration) -> anyhow::Result<Vec<Numbers>> {
    let mut between = Vec::new();
    for _ in 1..QUARTERS {
        thread::sleep(quarter);
        between.push(Numbers::read(&fetch_text(metrics).context("while the mix ran")?));
    }
    Ok(between)
}

/// The look-ups between each page and the next.
fn over_time<'a>(pages: impl Iterator<Item = &'a Numbers>) -> Vec<BTreeMap<String, Hits>> {
    let pages: Vec<&Numbers> = pages.collect();
    pages.windows(2).map(|pair| figures::caches(&pair[1].since(pair[0]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::{RunInfo, Totals};

    #[test]
    fn fewer_than_the_rate_says_are_not_that_rate() {
        let sent = |intended| LoadResult {
            run: RunInfo { duration_s: 10.0, ..RunInfo::default() },
            totals: Totals { intended, ..Totals::default() },
            ..LoadResult::default()
        };
        assert!(has_come(&sent(1_900), 200.0) && has_come(&sent(2_100), 200.0));
        assert!(!has_come(&sent(1_899), 200.0));
    }

    #[test]
    fn look_ups_are_told_for_each_stretch_between_two_pages() {
        let page = |hits: u64, misses: u64| {
            Numbers::read(&format!("sluice_keys_hits_total {hits}\nsluice_keys_misses_total {misses}\n"))
        };
        let pages = [page(0, 0), page(1, 9), page(7, 13), page(16, 14)];
        let keys: Vec<Hits> = over_time(pages.iter()).iter().map(|caches| caches["keys"]).collect();
        let hits = |hits, misses| Hits { hits, misses };
        assert_eq!(keys, [hits(1, 9), hits(6, 4), hits(9, 1)]);
        assert!(over_time(pages[..1].iter()).is_empty());
    }

    #[test]
    fn there_are_as_many_users_as_the_rate_asks_for() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            cold: ColdArgs,
        }
        let users = |line: &str| {
            <Line as clap::Parser>::try_parse_from(line.split(' ')).map(|line| line.cold.users()).unwrap()
        };
        assert_eq!(users("mix --cold-rate 10.5"), 1_050);
        assert_eq!(users("mix --cold-rate 10 --cold-users 7"), 7);
        assert_eq!(users("mix"), 20_000);
    }
}
