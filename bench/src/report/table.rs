//! The result on the terminal.

use std::fmt::Write;

use super::format::{bytes, count, cpus, digits, latency, or_dash, printable, rate, short, shown_signs};
use crate::load::result::{Latency, LoadResult};

/// The whole result as lines of text.
pub fn table(result: &LoadResult) -> String {
    let mut out = String::new();
    head(&mut out, result);
    totals(&mut out, result);
    latencies(&mut out, result);
    levels(&mut out, result);
    handshakes(&mut out, result);
    foot(&mut out, result);
    out
}

fn head(out: &mut String, result: &LoadResult) {
    let (run, machine, build) = (&result.run, &result.machine, &result.build);
    line(out, "run", &format!("{}, {} loop, {}, mix {}", run.protocol, run.mode, run.profile, run.mix));
    line(
        out,
        "",
        &format!(
            "{} connections, {} users, {} s after {} s of warm-up",
            count(run.connections),
            count(run.users),
            short(run.duration_s),
            short(run.warmup_s)
        ),
    );
    let memory = bytes(to_f64(machine.memory_bytes));
    line(
        out,
        "machine",
        &format!("{} x {}, {memory}, Linux {}", machine.cpus, machine.cpu_model, machine.kernel),
    );
    let commit = build.commit.as_deref().unwrap_or("unknown commit");
    line(out, "build", &format!("{} ({commit}), {}, {}", build.version, build.rustc, build.profile));
    let (client, server) = (cpus(&result.pinning.client_cpus), cpus(&result.pinning.server_cpus));
    line(out, "CPUs", &format!("client {client}; server {server}"));
}

fn totals(out: &mut String, result: &LoadResult) {
    let totals = &result.totals;
    let _ = writeln!(out);
    line(
        out,
        "completed",
        &format!("{} requests, {} /s", count(totals.completed), rate(totals.requests_per_s)),
    );
    let lost =
        format!("{} errors, {} dropped, of {} intended", totals.errors, totals.dropped, totals.intended);
    line(out, "lost", &lost);
    if let Some(error) = &totals.first_error {
        line(out, "", &format!("first: {error}"));
    }
    if let Some(us) = result.cpu.server_us_per_request {
        let busy = result.cpu.server_busy.map(|busy| format!(", {:.0} % of a CPU", busy * 1e2));
        line(out, "server CPU", &format!("{} µs a request{}", digits(us), busy.unwrap_or_default()));
    }
    let (us, busy) = (result.cpu.client_us_per_request, result.cpu.client_busy);
    line(out, "client CPU", &format!("{} µs a request, threads {:.0} % busy", digits(us), busy * 1e2));
    if let Some(memory) = &result.memory {
        let last = memory.rss_bytes.last().map_or(0, |(_, bytes)| *bytes);
        let slope = bytes(memory.slope_bytes_per_min);
        let sure = memory.slope_ci95_bytes_per_min.map(|half| format!(" ± {}", bytes(half)));
        let sure = sure.unwrap_or_default();
        line(out, "memory", &format!("{} at the end, {slope}{sure} a minute", bytes(to_f64(last))));
    }
    if let Some(stalls) = &result.stalls {
        let longest = latency(stalls.longest_us);
        let text = format!(
            "{} turns over 1 ms, {} over 25 ms; longest ever {longest}",
            stalls.over_1ms, stalls.over_25ms
        );
        line(out, "stalls", &text);
    }
    if totals.saturated > 0 {
        line(out, "", &format!("{} requests took longer than a minute and count as one", totals.saturated));
    }
}

fn latencies(out: &mut String, result: &LoadResult) {
    let _ = write!(out, "\n{:<24}{:>9}", "latency", "count");
    for (name, _) in Latency::default().named() {
        let _ = write!(out, " {name:>9}");
    }
    let _ = writeln!(out);
    row(out, "all", &result.latency.corrected);
    row(out, "all, uncorrected", &result.latency.uncorrected);
    for scenario in &result.scenarios {
        row(out, &scenario.name, &scenario.latency.corrected);
        if let Some(own) = &scenario.own {
            row(out, &format!("{}, the server's own", scenario.name), own);
        }
        for (kind, count) in scenario.failures.iter() {
            line(out, "", &format!("{count} x {kind}"));
        }
    }
}

fn row(out: &mut String, name: &str, of: &Latency) {
    let _ = write!(out, "{:<24}{:>9}", shortened(name), of.count);
    for (_, value) in of.named() {
        let _ = write!(out, " {:>9}", latency(value));
    }
    let _ = writeln!(out);
}

fn levels(out: &mut String, result: &LoadResult) {
    if !result.frontier.is_empty() {
        let _ = writeln!(out, "\nmost requests a second");
    }
    for point in &result.frontier {
        let least = if point.is_lower_bound { "at least " } else { "" };
        let most = point.requests_per_s.map(|most| format!("{least}{} /s", rate(most)));
        let cpu = point.server_cpu_us.map(|us| format!(", {} µs of server CPU a request", digits(us)));
        let text = format!("{}{}", most.unwrap_or_else(|| "none".into()), cpu.unwrap_or_default());
        line(out, &format!("p99 <= {} ms", short(point.p99_limit_ms)), &text);
    }
    if !result.levels.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<14}{:>10}{:>10}{:>10}{:>10}{:>14}",
            "level", "/s", "p50", "p99", "p99.9", "server µs"
        );
    }
    for level in &result.levels {
        let (p50, p99, p999) = (level.latency.p50_us, level.latency.p99_us, level.latency.p999_us);
        let _ = writeln!(
            out,
            "{:<14}{:>10}{:>10}{:>10}{:>10}{:>14}",
            format!("{} %", short(level.percent)),
            rate(level.requests_per_s),
            latency(p50),
            latency(p99),
            latency(p999),
            or_dash(level.server_cpu_us.map(digits))
        );
    }
}

fn handshakes(out: &mut String, result: &LoadResult) {
    if !result.handshakes.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<14}{:>10}{:>10}{:>10}{:>12}{:>12}{:>14}{:>14}",
            "handshake", "count", "failed", "fallback", "connect p50", "p99", "1st answer p50", "p99"
        );
    }
    for kind in &result.handshakes {
        let _ = writeln!(
            out,
            "{:<14}{:>10}{:>10}{:>10}{:>12}{:>12}{:>14}{:>14}",
            shortened(&kind.kind),
            kind.count,
            kind.failed,
            kind.fallbacks,
            latency(kind.connect.p50_us),
            latency(kind.connect.p99_us),
            latency(kind.first_answer.p50_us),
            latency(kind.first_answer.p99_us)
        );
    }
}

fn foot(out: &mut String, result: &LoadResult) {
    if result.client_limited.limited {
        let _ = writeln!(out, "\nTHE CLIENT WAS THE LIMIT: these figures say little of the server");
        for sign in shown_signs(&result.client_limited.evidence) {
            line(out, "", &sign);
        }
    }
    if !result.thresholds.is_empty() {
        let _ = writeln!(out);
    }
    for threshold in &result.thresholds {
        let mark = if threshold.passed { "held" } else { "BROKEN" };
        let value = or_dash(threshold.value.map(digits));
        line(out, mark, &format!("{} (measured {value})", threshold.expression));
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<14}{}", printable(text));
}

/// A name that leaves the columns where they are.
fn shortened(name: &str) -> String {
    const CHARS_MAX: usize = 23;
    let name = printable(name);
    if name.chars().count() <= CHARS_MAX {
        return name;
    }
    name.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn to_f64(value: u64) -> f64 {
    value as f64
}
