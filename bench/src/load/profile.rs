//! Profiles: which trials a run is made of, and what they say together.

use std::time::Duration;

use super::args::{Profile, Settings};
use super::assemble::{Combined, level, step};
use super::control::{self, Trial};
use super::plan::{Load, Plan};
use super::result::{FrontierPoint, Level, Step};
use super::schedule::Segment;

/// Limits of the 99th percentile that the frontier is drawn for.
const LIMITS_MS: [f64; 4] = [1.0, 5.0, 10.0, 50.0];
/// Where the search begins when no rate is given.
const FRONTIER_START: f64 = 1_000.0;
/// Doublings from there, and halvings of the gap for each limit: at most
/// 14 + 4 x 4 trials.
const DOUBLINGS_MAX: usize = 14;
const BISECTIONS: usize = 4;
/// A trial kept up when it completed this share of what was called for, ...
const KEPT_UP: f64 = 0.99;
/// ... and lost at most this one.
const LOST_MAX: f64 = 0.001;
const LEVELS_PERCENT: [f64; 3] = [20.0, 50.0, 80.0];

/// Runs all trials of the settings' profile.
pub(super) fn run(settings: &Settings) -> anyhow::Result<Combined> {
    match settings.profile {
        Profile::Constant | Profile::Ramp | Profile::Spike | Profile::Soak => {
            Ok(Combined::of(control::run(&settings.plan, "")?))
        }
        Profile::Steps => run_steps(settings),
        Profile::Levels => run_levels(settings),
        Profile::Frontier => run_frontier(settings),
    }
}

/// The plan at one rate, for this long.
fn at_rate(settings: &Settings, rate: f64, duration: Duration) -> Plan {
    let segments = vec![Segment::constant(duration, rate)];
    Plan { load: Load::Open { segments, is_random: settings.is_random }, duration, ..settings.plan.clone() }
}

fn run_steps(settings: &Settings) -> anyhow::Result<Combined> {
    let count = u32::try_from(settings.steps.len()).unwrap_or(u32::MAX).max(1);
    let duration = settings.plan.duration / count;
    let mut all: Option<Combined> = None;
    let mut steps = Vec::new();
    for (index, rate) in settings.steps.iter().enumerate() {
        let label = format!("step {}/{count}, {rate:.0}/s  ", index + 1);
        let trial = control::run(&at_rate(settings, *rate, duration), &label)?;
        steps.push(step(*rate, &trial));
        match &mut all {
            Some(all) => all.append(trial),
            None => all = Some(Combined::of(trial)),
        }
    }
    let mut all = all.ok_or_else(|| anyhow::anyhow!("there is no step"))?;
    all.steps = steps;
    Ok(all)
}

fn run_levels(settings: &Settings) -> anyhow::Result<Combined> {
    let most = control::run(&settings.plan, "the most  ")?;
    let rate = most.rate();
    let mut levels: Vec<Level> = Vec::new();
    let mut limits = most.client_limits();
    for percent in LEVELS_PERCENT {
        let asked = rate * percent / 100.0;
        anyhow::ensure!(asked > 0.0, "nothing was answered, so there is no share of it");
        let label = format!("{percent:.0} %, {asked:.0}/s  ");
        let trial = control::run(&at_rate(settings, asked, settings.plan.duration), &label)?;
        limits.extend(trial.client_limits().into_iter().map(|sign| format!("at {percent:.0} %: {sign}")));
        levels.push(level(percent, &trial));
    }
    let mut all = Combined::of(most);
    all.levels = levels;
    all.client_limits = limits;
    Ok(all)
}

fn run_frontier(settings: &Settings) -> anyhow::Result<Combined> {
    let mut best: Option<(f64, Trial)> = None;
    let mut limits = Vec::new();
    let found = search(settings.rate.unwrap_or(FRONTIER_START), |rate| {
        let trial =
            control::run(&at_rate(settings, rate, settings.plan.duration), &format!("{rate:.0}/s  "))?;
        let tried = Tried::of(rate, &trial);
        limits.extend(trial.client_limits().into_iter().map(|sign| format!("at {rate:.0}/s: {sign}")));
        let is_best = best.as_ref().is_none_or(|(kept, _)| rate > *kept);
        if best.is_none() || (is_best && tried.is_within(LIMITS_MS[LIMITS_MS.len() - 1])) {
            best = Some((rate, trial));
        }
        anyhow::Ok(tried)
    })?;
    let (_, trial) = best.ok_or_else(|| anyhow::anyhow!("no rate was tried"))?;
    let mut all = Combined::of(trial);
    all.client_limits = limits;
    (all.frontier, all.steps) = (points(&found), found.into_iter().map(|tried| tried.step).collect());
    Ok(all)
}

/// One rate and what came of it.
#[derive(Debug, Clone)]
struct Tried {
    step: Step,
    kept_up: bool,
    is_client_limited: bool,
}

impl Tried {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn of(rate: f64, trial: &Trial) -> Self {
        let step = step(rate, trial);
        let lost = step.lost as f64 / trial.outcome.intended.max(1) as f64;
        Self {
            kept_up: step.requests_per_s >= rate * KEPT_UP && lost <= LOST_MAX,
            is_client_limited: !trial.client_limits().is_empty(),
            step,
        }
    }

    fn is_within(&self, limit_ms: f64) -> bool {
        self.kept_up && self.step.p99_us <= limit_ms * 1e3
    }
}

/// Doubles the rate until the widest limit breaks, then halves the gap between the
/// highest rate within and the lowest beyond, limit by limit. What was tried for one
/// limit counts for all. Returns all that was tried, by rising rate.
fn search(start: f64, mut measure: impl FnMut(f64) -> anyhow::Result<Tried>) -> anyhow::Result<Vec<Tried>> {
    let widest = LIMITS_MS[LIMITS_MS.len() - 1];
    let mut tried: Vec<Tried> = Vec::new();
    let mut rate = start;
    for _ in 0..DOUBLINGS_MAX {
        let result = measure(rate)?;
        let is_over = !result.is_within(widest);
        tried.push(result);
        if is_over {
            break;
        }
        rate *= 2.0;
    }
    for limit in LIMITS_MS.iter().rev() {
        for _ in 0..BISECTIONS {
            let Some((low, high)) = gap(&tried, *limit) else { break };
            tried.push(measure((low + high) / 2.0)?);
        }
    }
    tried.sort_by(|a, b| a.step.rate_per_s.total_cmp(&b.step.rate_per_s));
    Ok(tried)
}

/// The highest rate within the limit (0 when none is) and the lowest beyond it above
/// that; `None` when nothing was beyond or the gap is below a fiftieth.
fn gap(tried: &[Tried], limit: f64) -> Option<(f64, f64)> {
    let rates = |is_within: bool| {
        tried.iter().filter(move |one| one.is_within(limit) == is_within).map(|one| one.step.rate_per_s)
    };
    let low = rates(true).fold(0.0, f64::max);
    let high = rates(false).filter(|rate| *rate > low).fold(f64::INFINITY, f64::min);
    (high.is_finite() && high - low > high / 50.0).then_some((low, high))
}

fn points(tried: &[Tried]) -> Vec<FrontierPoint> {
    let point = |limit: &f64| {
        let best = tried
            .iter()
            .filter(|one| one.is_within(*limit))
            .max_by(|a, b| a.step.requests_per_s.total_cmp(&b.step.requests_per_s));
        let beyond = tried
            .iter()
            .filter(|one| !one.is_within(*limit))
            .find(|one| best.is_none_or(|best| one.step.rate_per_s > best.step.rate_per_s));
        FrontierPoint {
            p99_limit_ms: *limit,
            requests_per_s: best.map(|best| best.step.requests_per_s),
            p99_us: best.map(|best| best.step.p99_us),
            server_cpu_us: best.and_then(|best| best.step.server_cpu_us),
            is_lower_bound: beyond.is_none_or(|beyond| beyond.is_client_limited),
        }
    };
    LIMITS_MS.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose 99th percentile grows as that of a queue does.
    fn model(most: f64, client_most: f64) -> impl FnMut(f64) -> anyhow::Result<Tried> {
        move |rate| {
            let p99_us = if rate < most { 200.0 / (1.0 - rate / most) } else { 1e6 };
            let step = Step { rate_per_s: rate, requests_per_s: rate.min(most), p99_us, ..Step::default() };
            Ok(Tried { step, kept_up: rate < most, is_client_limited: rate > client_most })
        }
    }

    #[test]
    fn the_search_closes_in_on_each_limit() {
        let tried = search(1_000.0, model(100_000.0, f64::INFINITY)).unwrap();
        assert!(tried.len() <= DOUBLINGS_MAX + LIMITS_MS.len() * BISECTIONS, "{}", tried.len());
        assert!(tried.is_sorted_by(|a, b| a.step.rate_per_s <= b.step.rate_per_s));
        for (point, limit) in points(&tried).iter().zip(LIMITS_MS) {
            // The limit is reached where 200 us / (1 - load) is.
            let exact = 100_000.0 * (1.0 - 0.2 / limit);
            let found = point.requests_per_s.unwrap();
            assert!(found <= exact && found > exact * 0.93, "{limit} ms: {found} of {exact}");
            assert!(!point.is_lower_bound);
        }
    }

    #[test]
    fn a_limit_never_kept_has_no_rate() {
        let tried = search(1_000.0, |rate| {
            let step = Step { rate_per_s: rate, requests_per_s: rate, p99_us: 3_000.0, ..Step::default() };
            Ok(Tried { step, kept_up: rate < 10_000.0, is_client_limited: false })
        });
        let points = points(&tried.unwrap());
        assert_eq!(points[0].requests_per_s, None);
        assert!(points[1].requests_per_s.unwrap() > 9_000.0);
    }

    #[test]
    fn a_client_at_its_end_makes_it_a_lower_bound() {
        let points = points(&search(1_000.0, model(100_000.0, 50_000.0)).unwrap());
        assert!(points.iter().all(|point| point.is_lower_bound));
        let endless = search(1.0, model(1e12, f64::INFINITY)).unwrap();
        assert_eq!(endless.len(), DOUBLINGS_MAX, "the search ends");
        assert!(super::points(&endless).iter().all(|point| point.is_lower_bound));
    }
}
