//! `sluice-bench load-diff`: two results side by side, and gates on what changed.
//!
//! Runs of another mix, protocol, mode or machine do not compare, and are refused
//! unless the caller insists; what differs less (kernel, pinning, rate) is noted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;

use super::format::{digits, printable};
use crate::load::result::{Latency, LoadResult};

/// Options of `sluice-bench load-diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// Result file to compare with
    pub base: PathBuf,
    /// Result file that is judged
    pub new: PathBuf,
    /// What may change and how far, such as `p99:+10%` (at most 10 % above the base), `throughput:-5%`
    /// (at most 5 % below) or `errors:+3` (at most 3 above); repeat for several
    #[arg(long = "gate", value_name = "METRIC:LIMIT")]
    pub gates: Vec<Gate>,
    /// Compare although mix, protocol, mode or machine differ
    #[arg(long)]
    pub anyway: bool,
}

/// How far a figure may move away from the base.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    metric: String,
    /// Allowed change with its sign, in per cent of the base or as it is.
    change: f64,
    is_percent: bool,
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no gate: write METRIC:+N%, METRIC:-N%, METRIC:+N or METRIC:-N");
        let (metric, limit) = text.rsplit_once(':').ok_or_else(wanted)?;
        let (number, is_percent) = limit.strip_suffix('%').map_or((limit, false), |number| (number, true));
        if metric.is_empty() || !number.starts_with(['+', '-']) {
            return Err(wanted());
        }
        let change: f64 = number.parse().map_err(|_| wanted())?;
        if !change.is_finite() {
            return Err(wanted());
        }
        Ok(Self { metric: metric.to_owned(), change, is_percent })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.change.is_sign_negative() { '-' } else { '+' };
        let unit = if self.is_percent { "%" } else { "" };
        write!(f, "{}:{sign}{}{unit}", self.metric, self.change.abs())
    }
}

impl Gate {
    /// Whether a change from `base` to `new` is allowed.
    fn holds(&self, base: f64, new: f64) -> bool {
        let allowed = if self.is_percent { base.abs() * self.change / 100.0 } else { self.change };
        if self.change.is_sign_negative() { new >= base + allowed } else { new <= base + allowed }
    }
}

/// One figure of both runs; `None` where a run did not measure it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name, as gates use it.
    pub metric: String,
    /// Unit for the reader.
    pub unit: &'static str,
    /// In the base.
    pub base: Option<f64>,
    /// In the judged run.
    pub new: Option<f64>,
    /// Broken gates on it.
    pub broken: Vec<String>,
}

/// The comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What differs between the runs besides the figures.
    pub notes: Vec<String>,
    /// All figures.
    pub rows: Vec<Row>,
}

impl Comparison {
    /// Whether every gate held.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.broken.is_empty())
    }
}

/// Compares two results.
///
/// # Errors
/// When the runs do not compare and `anyway` is not set, or a gate names a figure
/// that is not in both.
pub fn compare(
    base: &LoadResult,
    new: &LoadResult,
    gates: &[Gate],
    anyway: bool,
) -> anyhow::Result<Comparison> {
    let mut notes = differences(base, new);
    if !notes.is_empty() && !anyway {
        bail!("the runs do not compare ({}); --anyway does it all the same", notes.join("; "));
    }
    notes.extend(remarks(base, new));
    let (before, after) = (metrics(base), metrics(new));
    let mut rows: Vec<Row> = Vec::new();
    for (metric, unit, value) in before {
        let new = after.iter().find(|row| row.0 == metric).and_then(|row| row.2);
        rows.push(Row { metric, unit, base: value, new, broken: vec![] });
    }
    for gate in gates {
        let Some(row) = rows.iter_mut().find(|row| row.metric == gate.metric) else {
            let known: Vec<_> = rows.iter().map(|row| row.metric.as_str()).collect();
            bail!("no figure is called {:?}; there are {}", gate.metric, known.join(", "));
        };
        let (Some(base), Some(new)) = (row.base, row.new) else {
            bail!("{} was not measured in both runs, so {gate} cannot be judged", gate.metric);
        };
        if !gate.holds(base, new) {
            row.broken.push(gate.to_string());
        }
    }
    Ok(Comparison { notes, rows })
}

/// What makes figures of two runs say nothing of each other.
fn differences(base: &LoadResult, new: &LoadResult) -> Vec<String> {
    let mix = |result: &LoadResult| {
        let scenarios = result.scenarios.iter().map(|s| format!("{} {}", s.name, digits(s.weight)));
        format!("{} [{}]", result.run.mix, scenarios.collect::<Vec<_>>().join(", "))
    };
    let machine = |result: &LoadResult| {
        let machine = &result.machine;
        format!("{} x {}, {}", machine.cpus, machine.cpu_model, machine.arch)
    };
    let pairs = [
        ("protocol", base.run.protocol.clone(), new.run.protocol.clone()),
        ("mode", base.run.mode.clone(), new.run.mode.clone()),
        ("profile", base.run.profile.clone(), new.run.profile.clone()),
        ("mix", mix(base), mix(new)),
        ("machine", machine(base), machine(new)),
    ];
    differing(pairs)
}

/// What a reader should know besides.
fn remarks(base: &LoadResult, new: &LoadResult) -> Vec<String> {
    let pinning = |result: &LoadResult| {
        format!("client {:?} server {:?}", result.pinning.client_cpus, result.pinning.server_cpus)
    };
    let size =
        |result: &LoadResult| format!("{} connections, {} users", result.run.connections, result.run.users);
    let seconds = |result: &LoadResult| format!("{} s", digits(result.run.duration_s));
    let pairs = [
        ("kernel", base.machine.kernel.clone(), new.machine.kernel.clone()),
        ("memory", base.machine.memory_bytes.to_string(), new.machine.memory_bytes.to_string()),
        ("governor", base.machine.governor.clone(), new.machine.governor.clone()),
        ("pinning", pinning(base), pinning(new)),
        ("size", size(base), size(new)),
        ("duration", seconds(base), seconds(new)),
        ("compiler", base.build.rustc.clone(), new.build.rustc.clone()),
        ("build", base.build.profile.clone(), new.build.profile.clone()),
    ];
    let mut notes = differing(pairs);
    for (name, result) in [("base", base), ("new", new)] {
        if result.client_limited.limited {
            notes.push(format!("in the {name} run the client was the limit"));
        }
        if !result.passed() {
            notes.push(format!("the {name} run broke thresholds of its own"));
        }
    }
    notes
}

fn differing<const N: usize>(pairs: [(&str, String, String); N]) -> Vec<String> {
    let differing = pairs.into_iter().filter(|(_, base, new)| base != new);
    differing.map(|(name, base, new)| format!("{name}: {base:?}, then {new:?}")).collect()
}

type Metric = (String, &'static str, Option<f64>);

fn metrics(result: &LoadResult) -> Vec<Metric> {
    let mut all: Vec<Metric> = Vec::new();
    let mut add = |name: &str, unit, value| all.push((name.to_owned(), unit, value));
    let totals = &result.totals;
    add("throughput", "/s", Some(totals.requests_per_s));
    add("errors", "", Some(real(totals.errors)));
    add("dropped", "", Some(real(totals.dropped)));
    add("cpu", "µs", result.cpu.server_us_per_request);
    add("client-cpu", "µs", Some(result.cpu.client_us_per_request));
    add("rss-slope", "B/min", result.memory.as_ref().map(|memory| memory.slope_bytes_per_min));
    add("stalls", "", result.stalls.as_ref().map(|stalls| real(stalls.over_1ms)));
    let of = |latency: &Latency| latency.count > 0;
    let all_latencies = [("", &result.latency.corrected), ("uncorrected/", &result.latency.uncorrected)];
    for (prefix, latency) in all_latencies {
        add(&format!("{prefix}mean"), "µs", of(latency).then_some(latency.mean_us));
        for (name, value) in latency.named() {
            add(&format!("{prefix}{name}"), "µs", of(latency).then_some(value));
        }
    }
    for scenario in &result.scenarios {
        let latency = &scenario.latency.corrected;
        for (name, value) in [("p50", latency.p50_us), ("p99", latency.p99_us)] {
            add(&format!("{}/{name}", scenario.name), "µs", of(latency).then_some(value));
        }
    }
    for point in &result.frontier {
        add(&format!("frontier-{}ms", point.p99_limit_ms), "/s", point.requests_per_s);
    }
    for level in &result.levels {
        let latency = &level.latency;
        for (name, value) in [("p50", latency.p50_us), ("p99", latency.p99_us), ("p99.9", latency.p999_us)] {
            add(&format!("level-{}/{name}", level.percent), "µs", Some(value));
        }
    }
    for kind in &result.handshakes {
        let ready = &kind.connect;
        add(&format!("handshake-{}/p50", kind.kind), "µs", of(ready).then_some(ready.p50_us));
    }
    all
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn real(value: u64) -> f64 {
    value as f64
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {}", printable(note))?;
        }
        writeln!(f, "{:<28} {:>12} {:>12}  {:<6} {:>7}", "figure", "base", "new", "unit", "ratio")?;
        for row in &self.rows {
            let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), digits);
            let ratio = match (row.base, row.new) {
                (Some(base), Some(new)) if base != 0.0 => format!("{:.2}", new / base),
                _ => "-".into(),
            };
            let broken: String =
                row.broken.iter().map(|gate| format!("  BROKEN {}", printable(gate))).collect();
            let name = printable(&row.metric);
            let (base, new, unit) = (shown(row.base), shown(row.new), row.unit);
            writeln!(f, "{name:<28} {base:>12} {new:>12}  {unit:<6} {ratio:>7}{broken}")?;
        }
        Ok(())
    }
}

/// Runs the command: 0 when all gates held, 1 when one broke, 2 when the input
/// cannot be used.
pub fn run(args: &DiffArgs) -> ExitCode {
    let compared = read(&args.base)
        .and_then(|base| Ok((base, read(&args.new)?)))
        .and_then(|(base, new)| compare(&base, &new, &args.gates, args.anyway));
    match compared {
        Ok(comparison) => {
            print!("{comparison}");
            if comparison.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("load-diff: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<LoadResult> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    LoadResult::from_json(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::tests::example;

    fn gate(text: &str) -> Gate {
        text.parse().unwrap()
    }

    fn compared(new: &LoadResult, gates: &[&str]) -> Comparison {
        let gates: Vec<_> = gates.iter().map(|text| gate(text)).collect();
        compare(&example(), new, &gates, false).unwrap()
    }

    #[test]
    fn a_gate_lets_through_what_it_allows_and_no_more() {
        let mut new = example();
        new.latency.corrected.p99_us *= 1.09;
        new.totals.requests_per_s *= 0.96;
        let gates = ["p99:+10%", "throughput:-5%", "cpu:+5%", "errors:+0"];
        assert!(compared(&new, &gates).passed());
        new.latency.corrected.p99_us *= 1.02;
        let broken = compared(&new, &gates);
        assert!(!broken.passed());
        let row = broken.rows.iter().find(|row| row.metric == "p99").unwrap();
        assert_eq!(row.broken, ["p99:+10%"]);
        assert!(broken.to_string().contains("BROKEN p99:+10%"), "{broken}");
        new = example();
        new.totals.requests_per_s *= 0.94;
        assert!(!compared(&new, &gates).passed());
    }

    #[test]
    fn gates_on_zero_and_on_plain_numbers_work() {
        let mut new = example();
        new.totals.errors = 4;
        assert!(compared(&new, &["errors:+3"]).passed());
        assert!(!compared(&new, &["errors:+2"]).passed());
        let mut base = example();
        base.totals.errors = 0;
        let broken = compare(&base, &new, &[gate("errors:+10%")], false).unwrap();
        assert!(!broken.passed(), "from zero, any rise is too much");
    }

    #[test]
    fn an_improvement_breaks_no_gate() {
        let mut new = example();
        new.latency.corrected.p99_us /= 3.0;
        new.totals.requests_per_s *= 2.0;
        new.cpu.server_us_per_request = Some(0.5);
        assert!(compared(&new, &["p99:+0%", "throughput:-0%", "cpu:+0%"]).passed());
    }

    #[test]
    fn runs_that_do_not_compare_are_refused_or_noted() {
        type Change = fn(&mut LoadResult);
        let changes: [(&str, Change); 5] = [
            ("protocol", |r| r.run.protocol = "h2".into()),
            ("mode", |r| r.run.mode = "closed".into()),
            ("mix", |r| r.scenarios[0].weight = 1.0),
            ("mix", |r| r.run.mix = "mine".into()),
            ("machine", |r| r.machine.cpu_model = "another".into()),
        ];
        for (name, change) in changes {
            let mut new = example();
            change(&mut new);
            let refused = compare(&example(), &new, &[], false).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("--anyway"), "{refused}");
            let comparison = compare(&example(), &new, &[], true).unwrap();
            assert!(comparison.notes.iter().any(|note| note.starts_with(name)), "{comparison}");
        }
        let mut new = example();
        new.machine.kernel = "6.12.0".into();
        new.client_limited.limited = true;
        let notes = compared(&new, &[]).notes.join("\n");
        assert!(notes.contains("kernel") && notes.contains("client was the limit"), "{notes}");
    }

    #[test]
    fn gates_that_cannot_be_judged_are_refused() {
        for text in ["p99", "p99:10%", ":+1%", "p99:+x%", "p99:+inf%", "p99:+NaN"] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
        let mut new = example();
        new.cpu.server_us_per_request = None;
        let refused = |text: &str| compare(&example(), &new, &[gate(text)], false).unwrap_err().to_string();
        assert!(refused("cpu:+5%").contains("not measured in both"));
        assert!(refused("latency:+5%").contains("no figure is called"));
    }
}
