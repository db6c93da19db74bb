//! The result of `mix` on the terminal.

use std::fmt::Write as _;

use super::figures::{Hits, MixResult, Part};
use crate::load::result::{Latency, LoadResult};
use crate::report::format::{bytes, count, digits, latency, or_dash, rate, shown_signs};

const HEAD: [&str; 11] =
    ["", "/s", "p50", "p95", "p99", "own p50", "p95", "p99", "less upstream", "p99", "CPU"];

/// What `Server-Timing` has, in words.
const PARTS: [(&str, &str); 8] = [
    ("own", "own"),
    ("queue", "own, no place to run it"),
    ("openai", "OpenAI"),
    ("google", "Google"),
    ("turn", "the user's command before"),
    ("quota", "quotas"),
    ("shared", "reads of others"),
    ("other", "other"),
];

/// Everything that is told, as lines of text.
pub(super) fn table(result: &MixResult) -> String {
    let mut out = String::new();
    let (machine, build) = (&result.machine, &result.build);
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let memory = bytes(machine.memory_bytes as f64);
    let commit = build.commit.as_deref().unwrap_or("unknown commit");
    let _ = writeln!(out, "{} x {}, {memory}, Linux {}", machine.cpus, machine.cpu_model, machine.kernel);
    let _ = writeln!(out, "{} ({commit}), {}, {}", build.version, build.rustc, build.profile);
    for part in &result.parts {
        write_part(&mut out, part);
    }
    out
}

fn write_part(out: &mut String, part: &Part) {
    let run = &part.mix.run;
    let _ = writeln!(
        out,
        "\n{}: {} users, {} connections, open loop, {:.0} s",
        part.name,
        count(run.users),
        run.connections,
        run.duration_s
    );
    if let Some(most) = part.most_per_s {
        let _ = writeln!(out, "the most in a closed loop: {} /s", rate(most));
    }
    if !part.is_sustained {
        let _ = writeln!(out, "THE RATE OF THE MIX WAS NOT SUSTAINED: it was lowered no further");
    }
    row(out, &HEAD.map(str::to_owned));
    row(out, &cells("mix", &part.mix, &part.mix.latency.corrected));
    for alone in &part.alone {
        let name = alone.run.mix.rsplit('/').next().unwrap_or_default();
        row(out, &cells(name, alone, &alone.latency.corrected));
    }
    let alone = if part.alone.is_empty() { "" } else { "each kind ran alone at half the rate; " };
    let _ = writeln!(out, "{alone}CPU is the gateway's, all threads, a command");
    let busy = part.mix.cpu.server_busy.map(|busy| format!("{:.0} %", busy * 1e2));
    let _ = writeln!(
        out,
        "in the mix the gateway took {} of a CPU, the load generator {:.0} %",
        or_dash(busy),
        part.mix.cpu.client_busy * 1e2
    );
    write_spent(out, &part.mix);
    if part.over_time.is_empty() {
        let ratios = part.caches.iter().filter_map(|(name, hits)| {
            Some(format!("{name} {:.1} % of {}", hits.ratio()? * 1e2, count(hits.hits + hits.misses)))
        });
        let _ = writeln!(out, "hits: {}", ratios.collect::<Vec<_>>().join(", "));
    } else {
        write_over_time(out, part);
    }
    let _ = writeln!(out, "calls to upstreams: {}", count(part.upstream_calls));
    let [local, pattern, model] =
        part.intents.shares().map(|share| or_dash(share.map(|share| format!("{:.1} %", share * 1e2))));
    let _ = writeln!(out, "understood: by rules {local}, by patterns {pattern}, by the model {model}");
    for run in std::iter::once(&part.mix).chain(&part.alone).filter(|run| run.client_limited.limited) {
        let _ = writeln!(out, "THE LOAD GENERATOR WAS THE LIMIT of {}:", run.run.mix);
        for sign in shown_signs(&run.client_limited.evidence) {
            let _ = writeln!(out, "  {sign}");
        }
    }
}

/// A row for each cache: the whole run, and each of its quarters. One without look-ups is told as such.
fn write_over_time(out: &mut String, part: &Part) {
    let percent = |hits: Option<&Hits>| {
        or_dash(hits.and_then(Hits::ratio).map(|ratio| format!("{:.1} %", ratio * 1e2)))
    };
    let quarters: String = (1..=part.over_time.len()).map(|number| format!(" {number:>9}.")).collect();
    let _ = writeln!(out, "{:<18} {:>10} {:>9} of the quarters:{quarters}", "hits", "look-ups", "whole");
    for (name, hits) in &part.caches {
        let _ = write!(
            out,
            "{name:<18} {:>10} {:>9} {:16}",
            count(hits.hits + hits.misses),
            percent(Some(hits)),
            ""
        );
        for quarter in &part.over_time {
            let _ = write!(out, " {:>10}", percent(quarter.get(name)));
        }
        let _ = writeln!(out);
    }
    out.push_str("a ratio that still rises from quarter to quarter is that of a run that was too short\n");
}

/// Where the time of the mix went, as the gateway tells it: a row for each part that any answer tells of, over all answers.
fn write_spent(out: &mut String, run: &LoadResult) {
    let parts = PARTS.iter().filter_map(|(name, words)| Some((words, spent(run, name)?)));
    let rows: Vec<_> = parts.filter(|(_, of)| none_of(of) < of.count).collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "{:<26} {:>8} {:>9} {:>9} {:>9}",
        "where the time went", "commands", "p50", "p95", "p99"
    );
    for (words, of) in rows {
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let share = (of.count - none_of(&of)) as f64 / of.count as f64;
        let _ = write!(out, "{words:<26} {:>8}", format!("{:.1} %", share * 1e2));
        for percentile in [50.0, 95.0, 99.0] {
            let _ = write!(out, " {:>9}", latency(of.at(percentile)));
        }
        let _ = writeln!(out);
    }
}

/// How long one part took, over all scenarios; an answer that does not tell of it spent nothing there.
fn spent(run: &LoadResult, name: &str) -> Option<Latency> {
    told(run, |index| {
        let scenario = &run.scenarios[index];
        let count = scenario.own.as_ref()?.count;
        let nothing = || Latency { count, buckets_ns: vec![(0, count)], ..Latency::default() };
        Some(match name {
            "own" => scenario.own.clone()?,
            name => scenario.spent.get(name).cloned().unwrap_or_else(nothing),
        })
    })
}

/// Answers that spent nothing there.
fn none_of(of: &Latency) -> u64 {
    of.buckets_ns.iter().filter(|(value, _)| *value == 0).map(|(_, count)| count).sum()
}

/// A distribution over all scenarios of a run, as far as it was told.
fn told(run: &LoadResult, which: impl Fn(usize) -> Option<Latency>) -> Option<Latency> {
    let mut buckets = std::collections::BTreeMap::<u64, u64>::new();
    for latency in (0..run.scenarios.len()).filter_map(which) {
        for (value, count) in latency.buckets_ns {
            *buckets.entry(value).or_default() += count;
        }
    }
    let count = buckets.values().sum();
    (count > 0).then(|| Latency { count, buckets_ns: buckets.into_iter().collect(), ..Latency::default() })
}

/// What is left of the latency without what the server waited for others, over all scenarios.
pub(super) fn beside_upstream(run: &LoadResult) -> Option<Latency> {
    told(run, |index| run.scenarios[index].beside_upstream.clone())
}

fn cells(name: &str, run: &LoadResult, of: &Latency) -> [String; 11] {
    let at = |of: &Option<Latency>, percentile| or_dash(of.as_ref().map(|of| latency(of.at(percentile))));
    let own = told(run, |index| run.scenarios[index].own.clone());
    let rest = beside_upstream(run);
    let lost = run.totals.errors + run.totals.dropped;
    let name = if lost > 0 { format!("{name} ({lost} lost)") } else { name.to_owned() };
    [
        name,
        rate(run.totals.requests_per_s),
        latency(of.at(50.0)),
        latency(of.at(95.0)),
        latency(of.at(99.0)),
        at(&own, 50.0),
        at(&own, 95.0),
        at(&own, 99.0),
        at(&rest, 50.0),
        at(&rest, 99.0),
        or_dash(run.cpu.server_us_per_request.map(|us| format!("{} µs", digits(us)))),
    ]
}

fn row(out: &mut String, cells: &[String; 11]) {
    let _ = write!(out, "{:<18}", cells[0]);
    for (index, cell) in cells.iter().enumerate().skip(1) {
        let width = if index == 8 { 14 } else { 9 };
        let _ = write!(out, " {cell:>width$}");
    }
    let _ = writeln!(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::{RunInfo, Scenario};
    use crate::mix::Sources;

    fn distribution(values_us: &[u64]) -> Latency {
        let mut histogram = hdrhistogram::Histogram::<u64>::new(3).unwrap();
        values_us.iter().for_each(|us| histogram.record(us * 1_000).unwrap());
        Latency::of(&histogram)
    }

    fn run(mix: &str) -> LoadResult {
        let own = |values: &[u64]| Scenario { own: Some(distribution(values)), ..Scenario::default() };
        let google = [("google".to_owned(), distribution(&[80_000; 50]))].into();
        let mut run = LoadResult {
            run: RunInfo { mix: mix.into(), users: 200, ..RunInfo::default() },
            scenarios: vec![own(&[100; 50]), Scenario { spent: google, ..own(&[900; 50]) }],
            ..LoadResult::default()
        };
        run.latency.corrected = distribution(&(1..=1_000).collect::<Vec<_>>());
        run.cpu.server_us_per_request = Some(80.0);
        run
    }

    #[test]
    fn the_table_has_every_kind_and_percentiles_of_all_of_it() {
        let mix = run("standard");
        assert!((mix.latency.corrected.at(95.0) - 950.0).abs() < 1.0);
        let own = told(&mix, |index| mix.scenarios[index].own.clone()).unwrap();
        assert!(own.at(50.0) < 101.0 && own.at(51.0) > 899.0);
        let part = Part {
            name: "tried".into(),
            most_per_s: Some(12_345.0),
            is_sustained: false,
            upstream_calls: 3,
            mix,
            alone: vec![run("standard/gmail")],
            caches: [("keys".to_owned(), Hits { hits: 3, misses: 1 })].into(),
            intents: Sources { local: 1, pattern: 1, model: 0 },
            over_time: Vec::new(),
        };
        let quarter = |hits, misses| [("keys".to_owned(), Hits { hits, misses })].into();
        let cold = Part {
            name: "not warmed".into(),
            alone: Vec::new(),
            over_time: vec![quarter(0, 1), quarter(3, 0)],
            ..part.clone()
        };
        let text = table(&MixResult::new(vec![cold]));
        assert!(!text.contains("ran alone"), "{text}");
        let row = |name: &str| -> Vec<&str> {
            text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect()
        };
        assert_eq!(row("Google "), ["Google", "50.0", "%", "0", "µs", "80.0", "ms", "80.0", "ms"]);
        assert_eq!(row("own ")[..3], ["own", "100.0", "%"]);
        assert!(!text.contains("quotas"), "what nobody waited for has no row: {text}");
        assert_eq!(row("keys"), ["keys", "4", "75.0", "%", "0.0", "%", "100.0", "%"]);
        let text = table(&MixResult::new(vec![part]));
        for piece in [
            "tried: 200 users",
            "closed loop: 12,345 /s",
            "\nmix ",
            "\ngmail ",
            "80.0 µs",
            "keys 75.0 % of 4",
            "NOT SUSTAINED",
            "calls to upstreams: 3",
            "by rules 50.0 %, by patterns 50.0 %, by the model 0.0 %",
        ] {
            assert!(text.contains(piece), "{piece}: {text}");
        }
    }
}
