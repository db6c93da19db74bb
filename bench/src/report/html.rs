//! The page: tiles with the figures that count, charts, then tables with all of them.

use std::fmt::Write;

use sluice_protocols::markup::escape;

use super::chart::{Axis, Bar, Bars, Lines, Scale, Series};
use super::format::{bytes, count, cpus, digits, latency, or_dash, rate, short, shown_signs};
use crate::load::result::{Latency, LoadResult, Threshold};

const STYLE: &str = include_str!("page.css");

/// The page as one file.
pub fn page(result: &LoadResult) -> String {
    let run = &result.run;
    let title =
        escape(&format!("Load on {}: {}, {} loop, {}", run.target, run.protocol, run.mode, run.profile));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<header><h1>{title}</h1>"
    );
    let _ = writeln!(
        out,
        "<p>{}, {} s measured after {} s of warm-up, mix {}</p></header>",
        escape(&run.started_at),
        short(run.duration_s),
        short(run.warmup_s),
        escape(&run.mix)
    );
    warnings(&mut out, result);
    tiles(&mut out, result);
    charts(&mut out, result);
    figures(&mut out, result);
    conditions(&mut out, result);
    out.push_str("</body></html>\n");
    out
}

fn warnings(out: &mut String, result: &LoadResult) {
    let limited = &result.client_limited;
    if limited.limited {
        let signs: String =
            shown_signs(&limited.evidence).iter().map(|sign| format!("<li>{}</li>", escape(sign))).collect();
        let _ = writeln!(
            out,
            "<section class=\"warn\"><strong>The client was the limit.</strong> \
             These figures say little of the server.<ul>{signs}</ul></section>"
        );
    }
    let broken: Vec<_> = result.thresholds.iter().filter(|threshold| !threshold.passed).collect();
    if !broken.is_empty() {
        let names: String = broken.iter().map(|one| format!("<li>{}</li>", threshold(one))).collect();
        let _ = writeln!(
            out,
            "<section class=\"warn\"><strong>Thresholds broken</strong><ul>{names}</ul></section>"
        );
    }
}

fn threshold(of: &Threshold) -> String {
    format!("{} (measured {})", escape(&of.expression), or_dash(of.value.map(digits)))
}

fn tiles(out: &mut String, result: &LoadResult) {
    let (totals, all) = (&result.totals, &result.latency.corrected);
    let mut tile = |name: &str, value: String, note: String| {
        let (name, value, note) = (escape(name), escape(&value), escape(&note));
        let _ = writeln!(out, "<div class=\"tile\"><h2>{name}</h2><b>{value}</b><span>{note}</span></div>");
    };
    // The closure holds `out`: the frame around the tiles is written by the caller's order.
    tile(
        "Throughput",
        format!("{} /s", rate(totals.requests_per_s)),
        format!("{} completed", count(totals.completed)),
    );
    tile(
        "Median",
        latency(all.p50_us),
        format!("uncorrected {}", latency(result.latency.uncorrected.p50_us)),
    );
    tile("p99", latency(all.p99_us), format!("uncorrected {}", latency(result.latency.uncorrected.p99_us)));
    tile("p99.9", latency(all.p999_us), format!("largest {}", latency(all.max_us)));
    let busy = result.cpu.server_busy.map(|busy| format!("{:.0} % of a CPU", busy * 1e2));
    tile(
        "Server CPU",
        or_dash(result.cpu.server_us_per_request.map(|us| format!("{} µs", digits(us)))),
        format!("a request; {}", busy.unwrap_or_else(|| "process not known".into())),
    );
    tile(
        "Lost",
        count(totals.errors + totals.dropped),
        format!("{} errors, {} dropped", count(totals.errors), count(totals.dropped)),
    );
}

fn charts(out: &mut String, result: &LoadResult) {
    let time = Axis { label: "seconds", scale: Scale::Linear };
    let over_time =
        |name: &str, colour, value: &dyn Fn(&crate::load::result::Second) -> Option<f64>| Series {
            name: name.into(),
            colour,
            points: result.seconds.iter().filter_map(|s| Some((f64::from(s.at_s), value(s)?))).collect(),
        };
    let latency = Lines {
        title: "Latency over time",
        x: time.clone(),
        y: Axis { label: "milliseconds", scale: Scale::Log },
        series: vec![
            over_time("p50", 1, &|s| (s.completed > 0).then_some(s.p50_us / 1e3)),
            over_time("p99", 2, &|s| (s.completed > 0).then_some(s.p99_us / 1e3)),
            over_time("largest", 3, &|s| (s.completed > 0).then_some(s.max_us / 1e3)),
        ],
        limits: vec![],
    };
    chart(out, latency.title, "Corrected: from the intended start of each request.", latency.svg());
    percentiles(out, result);
    frontier(out, result);
    cpu(out, result, over_time("server", 1, &|s| s.server_cpu_us));
    let throughput = Lines {
        title: "Requests a second over time",
        x: time.clone(),
        y: Axis { label: "requests a second", scale: Scale::Linear },
        series: vec![
            over_time("intended", 4, &|s| (s.intended > 0).then_some(real(s.intended))),
            over_time("completed", 1, &|s| Some(real(s.completed))),
            over_time("errors and dropped", 2, &|s| Some(real(s.errors + s.dropped))),
        ],
        limits: vec![],
    };
    chart(out, throughput.title, "", throughput.svg());
    if let Some(memory) = &result.memory {
        let points =
            memory.rss_bytes.iter().map(|(at, bytes)| (*at, real(*bytes) / 1024.0 / 1024.0)).collect();
        let lines = Lines {
            title: "Memory of the server",
            x: time,
            y: Axis { label: "MiB resident", scale: Scale::Linear },
            series: vec![Series { name: "resident".into(), colour: 1, points }],
            limits: vec![],
        };
        let sure = memory.slope_ci95_bytes_per_min.map(|half| format!(" ± {}", bytes(half)));
        let slope = format!(
            "A straight line through it rises by {}{} a minute.",
            bytes(memory.slope_bytes_per_min),
            sure.unwrap_or_default()
        );
        chart(out, lines.title, &slope, lines.svg());
    }
}

fn percentiles(out: &mut String, result: &LoadResult) {
    let lines = Lines {
        title: "Latency by percentile",
        x: Axis { label: "percentile", scale: Scale::Percentile },
        y: Axis { label: "milliseconds", scale: Scale::Log },
        series: vec![
            Series { name: "corrected".into(), colour: 1, points: distribution(&result.latency.corrected) },
            Series {
                name: "uncorrected".into(),
                colour: 2,
                points: distribution(&result.latency.uncorrected),
            },
        ],
        limits: vec![],
    };
    chart(out, lines.title, "How far the lines part is what waiting for a turn cost.", lines.svg());
}

/// Points 1/(1-percentile) and milliseconds, evenly spread over the drawn scale.
fn distribution(of: &Latency) -> Vec<(f64, f64)> {
    let total: u64 = of.buckets_ns.iter().map(|(_, count)| count).sum();
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut up_to = 0;
    for (nanos, count) in &of.buckets_ns {
        up_to += count;
        // The last has no percentile below 100 %: drawn where one more request would be.
        let inverse = real(total) / real((total - up_to).max(1));
        let is_new = points.last().is_none_or(|(last, _)| inverse / last > 1.02 || up_to == total);
        if is_new {
            points.push((inverse, real(*nanos) / 1e6));
        }
    }
    points
}

fn frontier(out: &mut String, result: &LoadResult) {
    let bars = Bars {
        title: "Throughput frontier",
        x: "99th percentile within",
        y: "requests a second",
        bars: result
            .frontier
            .iter()
            .map(|point| {
                let least = if point.is_lower_bound { "≥ " } else { "" };
                let label = point.requests_per_s.map(|most| format!("{least}{}", rate(most)));
                let label = label.unwrap_or_else(|| "none".into());
                Bar { name: format!("{} ms", short(point.p99_limit_ms)), value: point.requests_per_s, label }
            })
            .collect(),
    };
    chart(
        out,
        bars.title,
        "The most requests a second whose 99th percentile stays within a limit.",
        bars.svg(),
    );
    let of = |name: &str, colour, value: fn(&crate::load::result::Step) -> f64| {
        let points = result.steps.iter().map(|step| (step.requests_per_s, value(step) / 1e3)).collect();
        Series { name: name.into(), colour, points: by_rate(points) }
    };
    let lines = Lines {
        title: "Latency by load",
        x: Axis { label: "requests a second", scale: Scale::Linear },
        y: Axis { label: "milliseconds", scale: Scale::Log },
        series: vec![of("p50", 1, |s| s.p50_us), of("p99", 2, |s| s.p99_us), of("p99.9", 3, |s| s.p999_us)],
        limits: if result.steps.is_empty() {
            vec![]
        } else {
            let limits = result.frontier.iter().map(|point| point.p99_limit_ms);
            limits.map(|limit| (limit, format!("{} ms", short(limit)))).collect()
        },
    };
    chart(out, lines.title, "Each load level that was tried.", lines.svg());
}

/// A search tries rates in an order of its own; the line goes from left to right.
fn by_rate(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn cpu(out: &mut String, result: &LoadResult, over_time: Series) {
    let steps = result.steps.iter().filter_map(|step| Some((step.requests_per_s, step.server_cpu_us?)));
    let steps = by_rate(steps.collect());
    let (label, series) = if steps.len() > 1 {
        ("requests a second", Series { name: "server".into(), colour: 1, points: steps })
    } else {
        ("seconds", over_time)
    };
    let lines = Lines {
        title: "CPU a request",
        x: Axis { label, scale: Scale::Linear },
        y: Axis { label: "microseconds", scale: Scale::Linear },
        series: vec![series],
        limits: vec![],
    };
    chart(out, lines.title, "The server's time on a CPU, divided by the completed requests.", lines.svg());
}

fn chart(out: &mut String, title: &str, note: &str, svg: Option<String>) {
    if let Some(svg) = svg {
        let (title, note) = (escape(title), escape(note));
        let _ = writeln!(out, "<figure><figcaption><h2>{title}</h2>{note}</figcaption>{svg}</figure>");
    }
}

/// A table; the first column names the row.
fn table(out: &mut String, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "<section><h2>{}</h2><div class=\"scroll\"><table><thead><tr>", escape(title));
    for name in header {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></section>\n");
}

fn figures(out: &mut String, result: &LoadResult) {
    let row = |name: String, of: &Latency| {
        let mut cells = vec![name, count(of.count), latency(of.mean_us)];
        cells.extend(of.named().map(|(_, value)| latency(value)));
        cells
    };
    let mut rows = vec![
        row("all".into(), &result.latency.corrected),
        row("all, uncorrected".into(), &result.latency.uncorrected),
    ];
    for scenario in &result.scenarios {
        rows.push(row(scenario.name.clone(), &scenario.latency.corrected));
        rows.push(row(format!("{}, uncorrected", scenario.name), &scenario.latency.uncorrected));
    }
    let header = ["latency", "count", "mean", "p50", "p75", "p90", "p99", "p99.9", "p99.99", "max"];
    table(out, "Latency", &header, rows);
    let scenarios = result.scenarios.iter().map(|scenario| {
        let statuses = scenario.statuses.iter().map(|(status, n)| format!("{n} x {status}"));
        let failures = scenario.failures.iter().map(|(kind, n)| format!("{n} x {kind}"));
        let answers = statuses.chain(failures).collect::<Vec<_>>().join(", ");
        let (requests, errors) = (count(scenario.requests), count(scenario.errors));
        vec![scenario.name.clone(), short(scenario.weight), requests, errors, answers]
    });
    table(out, "Scenarios", &["scenario", "weight", "completed", "errors", "answers"], scenarios.collect());
    let levels = result.levels.iter().map(|level| {
        vec![
            format!("{} %", short(level.percent)),
            rate(level.requests_per_s),
            latency(level.latency.p50_us),
            latency(level.latency.p99_us),
            latency(level.latency.p999_us),
            or_dash(level.server_cpu_us.map(|us| format!("{} µs", digits(us)))),
        ]
    });
    let header = ["share of the most", "requests a second", "p50", "p99", "p99.9", "server CPU a request"];
    table(out, "At a share of the most it sustains", &header, levels.collect());
    let handshakes = result.handshakes.iter().map(|kind| {
        vec![
            kind.kind.clone(),
            count(kind.count),
            count(kind.failed),
            count(kind.fallbacks),
            latency(kind.connect.p50_us),
            latency(kind.connect.p99_us),
            latency(kind.first_answer.p50_us),
            latency(kind.first_answer.p99_us),
        ]
    });
    let header = [
        "handshake",
        "count",
        "failed",
        "fell back",
        "ready p50",
        "ready p99",
        "first answer p50",
        "first answer p99",
    ];
    table(out, "Handshakes", &header, handshakes.collect());
    let frontier = result.frontier.iter().map(|point| {
        let least = if point.is_lower_bound { "at least " } else { "" };
        vec![
            format!("{} ms", short(point.p99_limit_ms)),
            or_dash(point.requests_per_s.map(|most| format!("{least}{}", rate(most)))),
            or_dash(point.p99_us.map(latency)),
            or_dash(point.server_cpu_us.map(|us| format!("{} µs", digits(us)))),
        ]
    });
    let header = ["p99 within", "requests a second", "p99 there", "server CPU a request"];
    table(out, "Frontier", &header, frontier.collect());
    let thresholds = result.thresholds.iter().map(|threshold| {
        let verdict = if threshold.passed { "held" } else { "broken" };
        vec![threshold.expression.clone(), or_dash(threshold.value.map(digits)), verdict.into()]
    });
    table(out, "Thresholds", &["threshold", "measured", "verdict"], thresholds.collect());
}

fn conditions(out: &mut String, result: &LoadResult) {
    let (run, machine, build) = (&result.run, &result.machine, &result.build);
    let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let rows = [
        ("command", run.command.join(" ")),
        ("started", run.started_at.clone()),
        ("load", format!("{}, {} loop, {}, mix {}", run.protocol, run.mode, run.profile, run.mix)),
        (
            "clients",
            format!(
                "{} connections, {} users, {} threads",
                count(run.connections),
                count(run.users),
                run.threads
            ),
        ),
        ("connections made", count(result.totals.connections)),
        ("intended, started", format!("{}, {}", count(result.totals.intended), count(result.totals.started))),
        ("longer than a minute", count(result.totals.saturated)),
        (
            "stalls of the server",
            result.stalls.as_ref().map_or_else(
                || "not asked for".into(),
                |s| {
                    format!(
                        "{} turns over 1 ms, {} over 25 ms, longest ever {}",
                        s.over_1ms,
                        s.over_25ms,
                        latency(s.longest_us)
                    )
                },
            ),
        ),
        ("first error", result.totals.first_error.clone().unwrap_or_else(|| "none".into())),
        ("client CPU", format!("{} µs a request", digits(result.cpu.client_us_per_request))),
        ("client busy", format!("{:.0} % of its threads' time", result.cpu.client_busy * 1e2)),
        ("client limit", result.client_limited.evidence.join("; ")),
        ("CPU model", or_unknown(&machine.cpu_model)),
        ("CPUs", format!("{}{}", machine.cpus, if machine.is_virtual { ", virtual machine" } else { "" })),
        ("memory", bytes(real(machine.memory_bytes))),
        ("kernel", format!("Linux {}, {}", or_unknown(&machine.kernel), machine.arch)),
        ("governor", if machine.governor.is_empty() { "none".into() } else { machine.governor.clone() }),
        ("pinning of the client", cpus(&result.pinning.client_cpus)),
        ("pinning of the server", cpus(&result.pinning.server_cpus)),
        ("version", format!("{}, commit {}", build.version, build.commit.as_deref().unwrap_or("unknown"))),
        ("compiler", format!("{}, {}", build.rustc, build.profile)),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(out, "Run, machine, build and pinning", &["what", "value"], rows);
}

#[allow(clippy::cast_precision_loss, reason = "shown with few digits")]
fn real(value: u64) -> f64 {
    value as f64
}
