//! From trials to a result.

use std::collections::BTreeMap;

use super::args::{Mode, Profile, Settings};
use super::control::Trial;
use super::record::Outcome;
use super::result::{
    ClientLimited, Cpu, FrontierPoint, Handshake as HandshakeRow, Latencies, Latency, Level, LoadResult,
    Memory, Pinning, RunInfo, Scenario, Stalls, Step, Totals, per_request_us,
};
use super::timing::Part;
use super::transport::Handshake;
use crate::cpu;

/// One trial or several put together, and what was found beside.
#[derive(Debug)]
pub(super) struct Combined {
    trial: Trial,
    pub(super) steps: Vec<Step>,
    pub(super) frontier: Vec<FrontierPoint>,
    pub(super) levels: Vec<Level>,
    pub(super) client_limits: Vec<String>,
}

impl Combined {
    pub(super) fn of(trial: Trial) -> Self {
        let client_limits = trial.client_limits();
        Self { trial, steps: vec![], frontier: vec![], levels: vec![], client_limits }
    }

    /// Adds a trial that followed.
    pub(super) fn append(&mut self, next: Trial) {
        self.client_limits.extend(next.client_limits());
        let all = &mut self.trial;
        let offset_s = all.duration.as_secs_f64();
        // Rows are whole seconds; a step of 2.5 s leaves its last one half empty.
        let offset = u32::try_from(all.seconds.len()).unwrap_or(u32::MAX);
        for mut row in next.seconds {
            row.at_s = row.at_s.saturating_add(offset);
            all.seconds.push(row);
        }
        all.rss.extend(next.rss.into_iter().map(|(at, bytes)| (at + offset_s, bytes)));
        all.server_cpu = all.server_cpu.zip(next.server_cpu).map(|(ours, theirs)| ours + theirs);
        all.duration += next.duration;
        all.outcome.merge(next.outcome);
    }
}

/// A row of the steps.
pub(super) fn step(rate: f64, trial: &Trial) -> Step {
    let (corrected, _) = trial.outcome.latencies();
    let latency = Latency::of(&corrected);
    Step {
        rate_per_s: rate,
        requests_per_s: trial.rate(),
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        p999_us: latency.p999_us,
        server_cpu_us: trial.server_cpu_us(),
        lost: trial.outcome.errors() + trial.outcome.dropped,
        client_busy: trial.client_busy(),
    }
}

/// A row of the levels.
pub(super) fn level(percent: f64, trial: &Trial) -> Level {
    let (corrected, _) = trial.outcome.latencies();
    Level {
        percent,
        requests_per_s: trial.rate(),
        latency: Latency::of(&corrected),
        server_cpu_us: trial.server_cpu_us(),
    }
}

/// The result of a run.
pub(super) fn result(
    settings: &Settings,
    combined: Combined,
    started_at: String,
    command: Vec<String>,
    stalls: Option<Stalls>,
) -> LoadResult {
    let Combined { trial, steps, frontier, levels, client_limits } = combined;
    let plan = &settings.plan;
    let info = RunInfo {
        command,
        started_at,
        duration_s: trial.duration.as_secs_f64(),
        warmup_s: plan.warmup.as_secs_f64(),
        profile: profile_name(settings.profile).into(),
        protocol: plan.protocol.name().into(),
        mode: match settings.mode {
            Mode::Open => "open",
            Mode::Closed => "closed",
        }
        .into(),
        mix: plan.mix.name.clone(),
        target: settings.url.clone(),
        connections: plan.clients as u64,
        users: plan.users.count() as u64,
        threads: plan.threads as u64,
    };
    let pinning = Pinning {
        client_cpus: plan.cpu.map(|cpu| (cpu..cpu + plan.threads).collect()).unwrap_or_default(),
        server_cpus: plan.pid.and_then(|pid| cpu::allowed_cpus(pid).ok()).unwrap_or_default(),
    };
    let (corrected, uncorrected) = trial.outcome.latencies();
    let mut result = LoadResult::new(info, pinning);
    result.totals = totals(&trial);
    result.latency = Latencies::of(&corrected, &uncorrected);
    result.cpu = cpu_rows(&trial);
    result.scenarios = scenarios(settings, &trial.outcome);
    result.handshakes = handshakes(&trial.outcome);
    result.seconds = trial.seconds;
    result.memory = (!trial.rss.is_empty()).then(|| Memory::of(trial.rss));
    result.stalls = stalls;
    (result.steps, result.frontier, result.levels) = (steps, frontier, levels);
    result.client_limited = ClientLimited { limited: !client_limits.is_empty(), evidence: client_limits };
    result.thresholds = settings.conditions.iter().map(|condition| condition.judge(&result)).collect();
    result
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Constant => "constant",
        Profile::Ramp => "ramp",
        Profile::Steps => "steps",
        Profile::Spike => "spike",
        Profile::Soak => "soak",
        Profile::Levels => "levels",
        Profile::Frontier => "frontier",
    }
}

fn totals(trial: &Trial) -> Totals {
    let outcome = &trial.outcome;
    Totals {
        intended: outcome.intended,
        started: outcome.started,
        completed: outcome.completed(),
        dropped: outcome.dropped,
        errors: outcome.errors(),
        requests_per_s: trial.rate(),
        connections: outcome.connections(),
        saturated: outcome.saturated,
        first_error: outcome.first_error.clone(),
    }
}

fn cpu_rows(trial: &Trial) -> Cpu {
    let requests = trial.outcome.completed_in_time;
    Cpu {
        server_us_per_request: trial.server_cpu_us(),
        client_us_per_request: per_request_us(trial.outcome.client_cpu, requests).unwrap_or(0.0),
        server_busy: trial.server_cpu.map(|used| used.as_secs_f64() / trial.duration.as_secs_f64()),
        client_busy: trial.client_busy(),
    }
}

fn scenarios(settings: &Settings, outcome: &Outcome) -> Vec<Scenario> {
    let plans = &settings.plan.mix.scenarios;
    plans
        .iter()
        .zip(&outcome.scenarios)
        .map(|(plan, seen)| Scenario {
            name: plan.name.clone(),
            weight: plan.weight,
            requests: seen.corrected.len(),
            errors: seen.errors,
            statuses: seen.statuses.clone(),
            failures: seen
                .failures
                .iter()
                .map(|(kind, count)| ((*kind).to_owned(), *count))
                .collect::<BTreeMap<_, _>>(),
            latency: Latencies::of(&seen.corrected, &seen.uncorrected),
            own: seen.spent.get(Part::Own as usize).map(Latency::of),
            beside_upstream: (!seen.spent.is_empty()).then(|| Latency::of(&seen.beside_upstream)),
            spent: Part::ALL
                .iter()
                .zip(&seen.spent)
                .filter(|(_, histogram)| histogram.max() > 0)
                .map(|(part, histogram)| (part.name().to_owned(), Latency::of(histogram)))
                .collect(),
        })
        .collect()
}

fn handshakes(outcome: &Outcome) -> Vec<HandshakeRow> {
    Handshake::ALL
        .iter()
        .zip(&outcome.handshakes)
        .filter(|(_, seen)| seen.count + seen.failed > 0)
        .map(|(kind, seen)| HandshakeRow {
            kind: kind.name().into(),
            count: seen.count,
            failed: seen.failed,
            fallbacks: seen.fallbacks,
            connect: Latency::of(&seen.connect),
            first_answer: Latency::of(&seen.first_answer),
        })
        .collect()
}
