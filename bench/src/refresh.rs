//! `sluice-bench refresh`: many users' access tokens end at about the same time.
//!
//! A gateway and a simulator that this program starts and ends; each user has a connection (or is acted for by the operator's
//! service account) and asks for one small read of Gmail in each round, spread evenly over the window, in an open loop:
//!
//! | round | tokens of before | so each request |
//! |---|---|---|
//! | ended | none that is good | waits for a refresh |
//! | filled | none that is good | the same; what it leaves is near its end. Not reported |
//! | ahead | near their end | goes on with its token, which is renewed meanwhile |
//! | kept | good for long | costs what it costs without a refresh |
//!
//! The CPU of a refresh is that of a request of a round, less that of one of the last.
//!
//! Invariants:
//! - a round is over when the gateway has ended every refresh that it began, with a bound on the wait;
//! - lost is what failed, what was not begun, and what was refreshed more or less often than once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cpu::process_time;
use crate::load::{LoadOptions, RunOptions, Span, measure, observe};
use crate::mix::numbers::Numbers;
use crate::mix::scene::{Scene, SceneOptions};

/// What each user asks for: small, and nothing of it is remembered.
const PATH: &str = "/api/v1/gmail/labels";
/// Users at most: the simulator keeps a mailbox for each.
const USERS_MAX: usize = 200_000;
/// The window at most, in seconds: tokens of the round before must last over the next.
const WINDOW_S_MAX: f64 = 100.0;
/// Access tokens that a core keeps (`RunConfig::tokens_max`).
const TOKENS_PER_CORE: usize = 50_000;
/// How long refreshes may go on after the last request.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Lives of tokens: not used in their last 30 s; renewed in their last five minutes; neither.
const LIFE_S: [u64; 3] = [30, 300, 3_599];
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `sluice-bench refresh`.
#[derive(Debug, Clone, Args)]
pub struct RefreshArgs {
    #[command(flatten)]
    scene: SceneOptions,
    /// Users, 1 to 200000
    #[arg(long, default_value_t = 100_000)]
    users: usize,
    /// The time in which all of them come, at most 100s
    #[arg(long, default_value = "60s")]
    window: Span,
    /// Each refresh brings another refresh token, which is written before the access token is used
    #[arg(long, conflicts_with = "delegated")]
    rotate: bool,
    /// Nobody has a connection: the service account acts for all, by signed assertions
    #[arg(long)]
    delegated: bool,
    /// Median latency of the token endpoint, in milliseconds
    #[arg(long, default_value_t = 40)]
    oauth_latency_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Its name.
    pub name: &'static str,
    /// Requests that were to be made, and those answered well.
    pub intended: u64,
    pub completed: u64,
    /// Requests that failed, were left out, or were not begun.
    pub lost: u64,
    /// What the first that failed was answered.
    pub first_error: Option<String>,
    /// Completed requests a second.
    pub requests_per_s: f64,
    /// Latency of requests from their intended start, in milliseconds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Access tokens that the gateway got, and tries that failed.
    pub refreshes: u64,
    pub failures: u64,
    /// Requests that the token endpoint saw.
    pub asked: u64,
    /// The most of them at once.
    pub in_flight_peak: u64,
    /// Refresh tokens replaced, and access tokens that had to go for others.
    pub rotations: u64,
    pub evicted: u64,
    /// The gateway's CPU time a completed request, in microseconds.
    pub cpu_us: f64,
    /// The same for a refresh; nothing where there was none.
    pub refresh_cpu_us: Option<f64>,
}

/// Runs all rounds and prints them.
///
/// # Errors
/// When gateway or simulator do not start, or something was lost.
pub fn run(args: &RefreshArgs) -> anyhow::Result<()> {
    let window: Duration = args.window.into();
    ensure!((1..=USERS_MAX).contains(&args.users), "--users is 1 to {USERS_MAX}");
    ensure!((1.0..=WINDOW_S_MAX).contains(&window.as_secs_f64()), "--window is 1s to {WINDOW_S_MAX}s");
    let (scene, mut rounds) = (start(args)?, Vec::new());
    let rig = Rig { args, scene: &scene, window };
    rounds.push(rig.round("ended", LIFE_S[0], 1)?);
    rig.round("filled", LIFE_S[1], 1)?;
    rounds.push(rig.round("ahead", LIFE_S[2], 1)?);
    rounds.push(rig.round("kept", LIFE_S[2], 0)?);
    let plain_us = rounds.last().map_or(0.0, |round| round.cpu_us);
    for round in rounds.iter_mut().filter(|round| round.refreshes > 0) {
        round.refresh_cpu_us = Some(round.cpu_us - plain_us);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rounds)?);
    } else {
        print!("{}", table(args, &rounds));
    }
    let lost: u64 = rounds.iter().map(|round| round.lost).sum();
    let why = rounds.iter().find_map(|round| round.first_error.as_deref()).unwrap_or("see the table");
    ensure!(lost == 0, "{lost} were lost: {why}");
    Ok(())
}

fn start(args: &RefreshArgs) -> anyhow::Result<Scene> {
    // Reads are not remembered, and whoever comes is let in.
    let settings =
        ["cache.read_bytes_per_core=0", "egress.queue_max=200000", "quota.waiting_per_core_max=200000"];
    let latencies = [
        format!("--oauth-latency-ms={}", args.oauth_latency_ms),
        "--gmail-latency-ms=0".to_owned(),
        format!("--token-lifetime-s={}", LIFE_S[0]),
    ];
    let sim: Vec<&str> = latencies.iter().map(String::as_str).collect();
    Scene::start(&args.scene, &settings, &sim, args.users, args.delegated)
}

struct Rig<'a> {
    args: &'a RefreshArgs,
    scene: &'a Scene,
    window: Duration,
}

impl Rig<'_> {
    /// Every user once, with tokens of this life given out from now on; `each` is how often each is refreshed.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn round(&self, name: &'static str, life_s: u64, each: u64) -> anyhow::Result<Round> {
        if !self.args.json {
            eprintln!("round {name}");
        }
        let rotate = self.args.rotate;
        let plan = format!("[oauth]\ntoken_lifetime_s = {life_s}\nrotate_refresh_tokens = {rotate}\n");
        post(&self.scene.sim_url, "/_sim/plan", &plan)?;
        post(&self.scene.sim_url, "/_sim/peaks", "")?;
        let (before, asked) = (self.scene.numbers()?, self.asked()?.0);
        let cpu = process_time(self.scene.pid())?;
        let result = measure(self.options())?;
        let totals = &result.totals;
        let due = totals.completed * each;
        let counted = self.settled(&before, due)?;
        let cpu = process_time(self.scene.pid())? - cpu;
        let (asked_since, in_flight_peak) = self.asked()?;
        let refreshes = counted.count("run_token_refreshes", &[]);
        let unlike = refreshes.abs_diff(due);
        Ok(Round {
            name,
            intended: totals.intended,
            completed: totals.completed,
            lost: totals.intended - totals.completed.min(totals.intended) + unlike,
            first_error: totals.first_error.clone(),
            requests_per_s: totals.requests_per_s,
            p50_ms: result.latency.corrected.p50_us / 1e3,
            p99_ms: result.latency.corrected.p99_us / 1e3,
            refreshes,
            failures: counted.count("run_token_refresh_failures", &[]),
            asked: asked_since - asked,
            in_flight_peak,
            rotations: counted.count("run_token_rotations", &[]),
            evicted: counted.count("run_tokens_evicted", &[]),
            cpu_us: cpu.as_secs_f64() * 1e6 / totals.completed.max(1) as f64,
            refresh_cpu_us: None,
        })
    }

    /// What was counted since `before`, once all refreshes that are due have ended.
    fn settled(&self, before: &Numbers, due: u64) -> anyhow::Result<Numbers> {
        let limit = Instant::now() + SETTLE_MAX;
        loop {
            let counted = self.scene.numbers()?.since(before);
            let ended =
                counted.count("run_token_refreshes", &[]) + counted.count("run_token_refresh_failures", &[]);
            if ended >= due || Instant::now() >= limit {
                return Ok(counted);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Requests that the token endpoint has seen, and the most of them at once.
    fn asked(&self) -> anyhow::Result<(u64, u64)> {
        let url = format!("{}/_sim/state?user=nobody", self.scene.sim_url);
        let state: Value = serde_json::from_str(&observe::fetch_text(&url)?).context("odd state")?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        Ok((number(&state["requests"]["oauth.token"]), number(&state["oauth"]["in_flight_peak"])))
    }

    #[allow(clippy::cast_precision_loss, reason = "at most 200,000 users")]
    fn options(&self) -> LoadOptions {
        let scene = self.scene;
        LoadOptions {
            run: RunOptions {
                path: Some(PATH.to_owned()),
                rate: Some(self.args.users as f64 / self.window.as_secs_f64()),
                duration: Some(self.window.into()),
                warm_up: Some(Duration::ZERO.into()),
                in_turn: Some(true),
                in_flight_max: Some(USERS_MAX),
                ..scene.run_options()
            },
            quiet: true,
            ..LoadOptions::default()
        }
    }
}

/// Posts a text to the simulator.
fn post(base: &str, path: &str, body: &str) -> anyhow::Result<()> {
    let authority = base.strip_prefix("http://").context("the simulator speaks http")?;
    let mut stream = TcpStream::connect(authority).context("no simulator")?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    stream.set_write_timeout(Some(HTTP_TIMEOUT))?;
    let head = format!("POST {path} HTTP/1.0\r\nhost: {authority}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.split(' ').nth(1) == Some("200"), "the simulator refused {path}: {answer}");
    Ok(())
}

fn table(args: &RefreshArgs, rounds: &[Round]) -> String {
    let how = match (args.delegated, args.rotate) {
        (true, _) => "by the service account",
        (false, true) => "by connections whose refresh tokens rotate",
        (false, false) => "by connections",
    };
    let mut out = format!(
        "{} users within {:.0} s, {how}; {} core(s)\n\n",
        args.users,
        Duration::from(args.window).as_secs_f64(),
        args.scene.cores
    );
    let head = [
        "",
        "requests",
        "/s",
        "lost",
        "p50 ms",
        "p99 ms",
        "refreshes",
        "failed",
        "asked",
        "in flight",
        "rotated",
        "evicted",
        "CPU us",
        "a refresh",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for round in rounds {
        rows.push([
            round.name.to_owned(),
            round.completed.to_string(),
            format!("{:.0}", round.requests_per_s),
            round.lost.to_string(),
            format!("{:.1}", round.p50_ms),
            format!("{:.1}", round.p99_ms),
            round.refreshes.to_string(),
            round.failures.to_string(),
            round.asked.to_string(),
            round.in_flight_peak.to_string(),
            round.rotations.to_string(),
            round.evicted.to_string(),
            format!("{:.0}", round.cpu_us),
            round.refresh_cpu_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}")),
        ]);
    }
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            out.push_str(&match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        out.push('\n');
    }
    let per_core = args.users.div_ceil(args.scene.cores.max(1));
    if per_core > TOKENS_PER_CORE {
        out.push_str(&format!(
            "\nA core keeps {TOKENS_PER_CORE} tokens, and has {per_core} users here: what had to go is fetched again.\n"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_a_round_and_a_word_on_what_does_not_fit() {
        let round = |name, refreshes| Round {
            name,
            intended: 10,
            completed: 10,
            lost: 0,
            first_error: None,
            requests_per_s: 5.0,
            p50_ms: 1.0,
            p99_ms: 2.0,
            refreshes,
            failures: 0,
            asked: refreshes,
            in_flight_peak: 3,
            rotations: 0,
            evicted: 0,
            cpu_us: 100.0,
            refresh_cpu_us: (refreshes > 0).then_some(40.0),
        };
        let args = RefreshArgs {
            scene: SceneOptions { sluice: None, cores: 1, set: Vec::new() },
            users: 60_000,
            window: Duration::from_secs(60).into(),
            rotate: false,
            delegated: false,
            oauth_latency_ms: 40,
            json: false,
        };
        let table = table(&args, &[round("ended", 10), round("kept", 0)]);
        let rows: Vec<&str> =
            table.lines().filter(|line| line.starts_with("ended") || line.starts_with("kept")).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].ends_with(" 40") && rows[1].ends_with(" -"), "{table}");
        assert!(table.contains("keeps 50000 tokens"), "{table}");
    }
}
