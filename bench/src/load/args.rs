//! Options of `sluice-bench load`: from the command line, and from the `[run]` table of
//! a scenario file below it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::plan::{Load, Plan, Protocol, Shares, Target};
use super::scenario::Mix;
use super::schedule::{Segment, spike};
use super::threshold::Condition;
use super::users::{Users, Zipf};
use crate::report::Outputs;

const CLIENTS: usize = 16;
const CLIENTS_MAX: usize = 100_000;
const STREAMS: usize = 32;
const STREAMS_MAX: usize = 10_000;
const RATE_MAX: f64 = 10e6;
const THREADS_MAX: usize = 64;
const STEPS: usize = 5;
const STEPS_MAX: usize = 100;
const DURATION: Duration = Duration::from_secs(10);
const DURATION_SOAK: Duration = Duration::from_secs(300);
const DURATION_MAX: Duration = Duration::from_secs(86_400);
const WARMUP: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);
const IN_FLIGHT: usize = 10_000;
const IN_FLIGHT_MAX: usize = 1_000_000;
/// The spike's height as a multiple of the rate, when none is given.
const SPIKE: f64 = 5.0;

/// A duration as people write it: `10`, `10s`, `1.5m`, `250ms`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let seconds = match unit {
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => bail!("{text:?}: the unit must be ms, s, m or h"),
        };
        let number: f64 = number.parse().with_context(|| format!("{text:?} is no duration"))?;
        Ok(Self(Duration::try_from_secs_f64(number * seconds)?))
    }
}

/// Rates at the beginning and the end, written `FROM..TO`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateRange {
    from: f64,
    to: f64,
}

impl FromStr for RateRange {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (from, to) = text.split_once("..").with_context(|| format!("{text:?} must be FROM..TO"))?;
        let read = |part: &str| part.trim().parse::<f64>().with_context(|| format!("{part:?} is no rate"));
        Ok(Self { from: read(from)?, to: read(to)? })
    }
}

macro_rules! deserialize_by_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a number or a text such as is given on the command line")
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|error| E::custom(format!("{error:#}")))
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    )*};
}

deserialize_by_text!(Span, RateRange);

/// Who decides when requests start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The clock
    Open,
    /// The answers
    Closed,
}

/// Shape of the load over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One rate, or as fast as answers come
    Constant,
    /// From one rate evenly to another (--ramp)
    Ramp,
    /// Several rates one after the other (--ramp, --steps), each measured by itself
    Steps,
    /// A rate, a burst, and the rate again (--rate, --spike-rate)
    Spike,
    /// As constant, for longer; watch memory and stalls
    Soak,
    /// The most that is sustained, then 20, 50 and 80 % of it
    Levels,
    /// The most requests a second at p99 within 1, 5, 10 and 50 ms
    Frontier,
}

macro_rules! options {
    ($($(#[$meta:meta])* $name:ident: $type:ty,)*) => {
        /// Options that may stand in a file as well; those given on the command line win.
        #[derive(Debug, Clone, Default, Args, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct RunOptions {
            $($(#[$meta])* pub $name: Option<$type>,)*
        }

        impl RunOptions {
            /// What is missing here is taken from there.
            fn or(self, below: Self) -> Self {
                Self { $($name: self.$name.or(below.$name),)* }
            }
        }
    };
}

options! {
    /// Server, as https://HOST:PORT; without it a small one of our own is started
    #[arg(long)]
    url: String,
    /// Certificate authority to trust (PEM); needed for servers beyond this machine
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// API keys, one a line; of lines with tabs the last column
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// Real commands (JSON lines with text and scenario) in place of the mix's own
    #[arg(long, value_name = "FILE")]
    commands: PathBuf,
    /// Of the mix, this scenario alone
    #[arg(long, value_name = "NAME")]
    only: String,
    /// Send one kind of request only: this path
    #[arg(long)]
    path: String,
    /// Its method
    #[arg(long)]
    method: String,
    /// Its body, sent as application/json
    #[arg(long)]
    body: String,
    /// The status that is expected of it
    #[arg(long)]
    expect: u16,
    /// Version of HTTP
    #[arg(long)]
    http: Protocol,
    /// Whether the clock or the answers decide when requests start [default: open with a rate]
    #[arg(long)]
    mode: Mode,
    /// Shape of the load over time
    #[arg(long)]
    profile: Profile,
    /// Requests a second in all
    #[arg(long)]
    rate: f64,
    /// Rates from the beginning to the end, as FROM..TO
    #[arg(long)]
    ramp: RateRange,
    /// Number of steps of the profile `steps`
    #[arg(long)]
    steps: usize,
    /// Rate at the height of the spike [default: five times --rate]
    #[arg(long)]
    spike_rate: f64,
    /// Start at random moments (a Poisson process) instead of evenly
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    random: bool,
    /// Connections
    #[arg(long, alias = "connections")]
    clients: usize,
    /// Requests at once on each connection; with HTTP/1.1 always 1
    #[arg(long)]
    streams: usize,
    /// Requests under way in an open loop, waiting ones included; starts beyond it are dropped
    #[arg(long)]
    in_flight_max: usize,
    /// Time measured, such as 30s or 5m; of steps, all together; of levels and frontier, each
    #[arg(long, alias = "duration-s")]
    duration: Span,
    /// Time before that, not measured
    #[arg(long, alias = "warmup-s")]
    warm_up: Span,
    /// Longest a request may take
    #[arg(long)]
    timeout: Span,
    /// Users that requests are made for [default: as many as there are keys]
    #[arg(long)]
    users: usize,
    /// How uneven users are: user k comes 1/k^S as often; 0 makes all alike
    #[arg(long, value_name = "S")]
    zipf: f64,
    /// Share of requests (0 to 1) that bring a new connection
    #[arg(long, value_name = "SHARE")]
    new_connection_share: f64,
    /// Share of those that resume a session
    #[arg(long, value_name = "SHARE")]
    resumption_share: f64,
    /// Share of those that send the request as early data (0-RTT)
    #[arg(long, value_name = "SHARE")]
    early_data_share: f64,
    /// Requests on a connection before it is replaced (closed loop)
    #[arg(long)]
    requests_per_connection: u64,
    /// Take users one after the other instead of by lot
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    in_turn: bool,
    /// Client threads
    #[arg(long, alias = "threads")]
    cores: usize,
    /// CPU of the first client thread; the others follow
    #[arg(long)]
    cpu: usize,
    /// Cores of the server: connections are spread over them by their first ID
    #[arg(long)]
    server_cores: usize,
    /// Server process: its CPU time and memory are measured
    #[arg(long)]
    pid: u32,
    /// Its metrics page (http://...): stalls before and after
    #[arg(long, value_name = "URL")]
    metrics: String,
    /// Seed of every random choice
    #[arg(long)]
    seed: u64,
    /// Sleep until each start instead of watching the clock just before it: cheaper, later
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    no_spin: bool,
}

/// Options of `sluice-bench load`.
#[derive(Debug, Clone, Default, Args)]
pub struct LoadOptions {
    #[command(flatten)]
    pub run: RunOptions,
    /// Trust whatever certificate the server has
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Start a small server of our own and load that
    #[arg(long = "self", conflicts_with = "url")]
    pub own: bool,
    /// API key; repeat for several users
    #[arg(long = "key", conflicts_with = "keys")]
    pub key: Vec<String>,
    /// Scenarios (TOML); its table [run] may hold any of these options
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// A command of the mix that is not sent; repeat for several
    #[arg(long = "without", value_name = "TEXT")]
    pub without: Vec<String>,
    /// What must hold, such as p99<10ms, errors<0.1%, gmail:p95<50ms; repeat for several
    #[arg(long = "threshold", value_name = "CONDITION")]
    pub thresholds: Vec<String>,
    #[command(flatten)]
    pub outputs: Outputs,
    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

/// `[run]` of a scenario file.
#[derive(Debug, Default, Deserialize)]
struct RunFile {
    #[serde(default)]
    run: RunTable,
}

#[derive(Debug, Default, Deserialize)]
struct RunTable {
    #[serde(default)]
    thresholds: Vec<String>,
    #[serde(flatten)]
    options: toml::Table,
}

/// Everything decided, save the server to start when none is named.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) plan: Plan,
    pub(super) profile: Profile,
    pub(super) mode: Mode,
    pub(super) url: String,
    pub(super) steps: Vec<f64>,
    /// Whether open loops start at random moments.
    pub(super) is_random: bool,
    /// Where a search for the most begins.
    pub(super) rate: Option<f64>,
    pub(super) metrics: Option<String>,
    pub(super) conditions: Vec<Condition>,
}

impl LoadOptions {
    /// Reads the scenario file's `[run]` below the command line.
    pub(super) fn with_file(mut self) -> anyhow::Result<(Self, Option<String>)> {
        let Some(path) = &self.scenario else { return Ok((self, None)) };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let place = || format!("in {}", path.display());
        let file: RunFile = toml::from_str(&text).with_context(place)?;
        let below: RunOptions = file.run.options.try_into().with_context(place)?;
        self.run = self.run.or(below);
        if self.thresholds.is_empty() {
            self.thresholds = file.run.thresholds;
        }
        Ok((self, Some(text)))
    }

    /// Whether a server of our own is to be started.
    pub(super) fn wants_own_server(&self) -> bool {
        self.own || self.run.url.is_none()
    }

    /// Decides everything; `own` is the address of a server just started.
    pub(super) fn settle(
        &self,
        scenarios: Option<&str>,
        own: Option<(&str, u32)>,
    ) -> anyhow::Result<Settings> {
        let run = &self.run;
        let url = match own {
            Some((url, _)) => url.to_owned(),
            None => run.url.clone().context("--url is missing")?,
        };
        let target = Target::parse(&url)?;
        if run.ca.is_none() && !self.insecure && !target.address.ip().is_loopback() {
            bail!("give --ca, or --insecure to trust whatever answers at {url}");
        }
        let protocol = run.http.unwrap_or(Protocol::H3);
        let mut mix = self.mix(scenarios, own.is_some())?;
        mix = mix.without(&self.without)?;
        if let Some(name) = &run.only {
            mix = mix.only(name)?;
        }
        let users = self.users(&mix)?;
        let by_rate = if run.ramp.is_some() { Profile::Ramp } else { Profile::Constant };
        let profile = run.profile.unwrap_or(by_rate);
        let mode = self.mode(profile)?;
        let default = if profile == Profile::Soak { DURATION_SOAK } else { DURATION };
        let duration = run.duration.map_or(default, |span| span.0);
        ensure!(
            !duration.is_zero() && duration <= DURATION_MAX,
            "--duration must be above 0 and at most a day"
        );
        let load = match mode {
            Mode::Closed => Load::Closed,
            Mode::Open => Load::Open {
                segments: self.segments(profile, duration)?,
                is_random: run.random == Some(true),
            },
        };
        let clients = bounded("--clients", run.clients, CLIENTS, CLIENTS_MAX)?;
        let threads = bounded("--cores", run.cores, 1, THREADS_MAX)?;
        ensure!(threads <= clients, "--cores {threads}: each thread needs one of the --clients {clients}");
        let zipf = Zipf::new(users.count(), run.zipf.unwrap_or(0.0))?;
        ensure!(run.in_turn != Some(true) || run.zipf.is_none(), "--in-turn goes without --zipf");
        let plan = Plan {
            target,
            protocol,
            authorities: run.ca.iter().cloned().collect(),
            mix: Arc::new(mix),
            users: Arc::new(users),
            zipf,
            in_turn: run.in_turn == Some(true),
            load,
            warmup: run.warm_up.map_or(WARMUP, |span| span.0),
            duration,
            timeout: run.timeout.map_or(TIMEOUT, |span| span.0),
            clients,
            streams: bounded("--streams", run.streams, STREAMS, STREAMS_MAX)?,
            in_flight_max: bounded("--in-flight-max", run.in_flight_max, IN_FLIGHT, IN_FLIGHT_MAX)?,
            shares: self.shares(protocol)?,
            requests_per_connection: run.requests_per_connection,
            threads,
            cpu: run.cpu,
            server_cores: run.server_cores,
            seed: run.seed.unwrap_or(1),
            spin: run.no_spin != Some(true),
            pid: run.pid.or_else(|| own.map(|(_, pid)| pid)),
            is_quiet: self.quiet,
        };
        ensure!(plan.warmup <= Duration::from_secs(3_600), "--warm-up must be at most an hour");
        let timeouts = Duration::from_millis(1)..=Duration::from_secs(60);
        ensure!(timeouts.contains(&plan.timeout), "--timeout must be 1ms to 60s");
        let conditions: Vec<Condition> =
            self.thresholds.iter().map(|text| text.parse()).collect::<anyhow::Result<_>>()?;
        for name in conditions.iter().filter_map(Condition::scenario) {
            let is_known = plan.mix.scenarios.iter().any(|scenario| scenario.name == name);
            ensure!(is_known, "a threshold names the scenario {name:?}, which the mix has not");
        }
        let steps = self.step_rates(profile)?;
        Ok(Settings {
            plan,
            profile,
            mode,
            url,
            steps,
            is_random: run.random == Some(true),
            rate: run.rate,
            metrics: run.metrics.clone(),
            conditions,
        })
    }

    fn mix(&self, scenarios: Option<&str>, is_own: bool) -> anyhow::Result<Mix> {
        let run = &self.run;
        let commands = run.commands.as_deref();
        let has_keys = run.keys.is_some() || !self.key.is_empty();
        let is_single =
            run.path.is_some() || run.method.is_some() || run.body.is_some() || run.expect.is_some();
        if let (Some(text), Some(path)) = (scenarios, &self.scenario)
            && text.contains("[[scenario]]")
        {
            ensure!(!is_single, "--path, --method, --body and --expect go without --scenario");
            let name = path.file_stem().map_or_else(|| "mix".into(), |stem| stem.to_string_lossy());
            return Mix::parse(text, &name, commands).with_context(|| format!("in {}", path.display()));
        }
        if is_single || !has_keys {
            ensure!(commands.is_none(), "--commands goes with a mix of commands, which needs --keys");
            let default = if is_own { "/" } else { "/livez" };
            let path = run.path.as_deref().unwrap_or(default);
            let method = run.method.as_deref().unwrap_or("GET");
            return Mix::single(method, path, run.body.as_deref(), run.expect.unwrap_or(200), has_keys);
        }
        Mix::standard(commands)
    }

    fn users(&self, mix: &Mix) -> anyhow::Result<Users> {
        let users = match &self.run.keys {
            Some(path) => Users::read(path)?,
            None if !self.key.is_empty() => Users::from_keys(&self.key)?,
            None => {
                ensure!(!mix.needs_keys(), "the mix {:?} needs keys: give --keys or --key", mix.name);
                return Users::anonymous(self.run.users.unwrap_or(1));
            }
        };
        match self.run.users {
            Some(count) => users.limit(count),
            None => Ok(users),
        }
    }

    fn mode(&self, profile: Profile) -> anyhow::Result<Mode> {
        let run = &self.run;
        let has_rate = run.rate.is_some() || run.ramp.is_some();
        let mode = match profile {
            Profile::Constant | Profile::Soak => {
                let by_rate = if has_rate { Mode::Open } else { Mode::Closed };
                run.mode.unwrap_or(by_rate)
            }
            Profile::Ramp | Profile::Steps | Profile::Spike => Mode::Open,
            // Both run the closed loop first and open ones after it.
            Profile::Levels | Profile::Frontier => Mode::Closed,
        };
        match run.mode {
            Some(Mode::Closed) if mode == Mode::Open => {
                bail!("this profile starts by the clock: --mode open")
            }
            Some(Mode::Closed) if has_rate && profile != Profile::Frontier => {
                bail!("--rate and --ramp go with --mode open")
            }
            Some(Mode::Open) if !has_rate && mode == Mode::Open => {
                bail!("--mode open needs --rate or --ramp")
            }
            _ => {}
        }
        ensure!(
            run.requests_per_connection.is_none_or(|count| count > 0 && mode == Mode::Closed),
            "--requests-per-connection must be at least 1 and goes with a closed loop"
        );
        Ok(mode)
    }

    fn rate(&self) -> anyhow::Result<f64> {
        check_rate("--rate", self.run.rate.context("--rate is missing")?)
    }

    fn range(&self) -> anyhow::Result<RateRange> {
        let range = self.run.ramp.context("--ramp FROM..TO is missing")?;
        ensure!(range.from >= 0.0 && range.to >= 0.0, "--ramp: rates must not be negative");
        check_rate("--ramp", range.from.max(range.to))?;
        Ok(range)
    }

    fn segments(&self, profile: Profile, duration: Duration) -> anyhow::Result<Vec<Segment>> {
        match profile {
            Profile::Ramp => {
                let range = self.range()?;
                Ok(vec![Segment { duration, from: range.from, to: range.to }])
            }
            Profile::Spike => {
                let base = self.rate()?;
                let peak = check_rate("--spike-rate", self.run.spike_rate.unwrap_or(base * SPIKE))?;
                Ok(spike(duration, base, peak))
            }
            Profile::Steps => Ok(Vec::new()),
            _ => Ok(vec![Segment::constant(duration, self.rate()?)]),
        }
    }

    fn step_rates(&self, profile: Profile) -> anyhow::Result<Vec<f64>> {
        if profile != Profile::Steps {
            ensure!(self.run.steps.is_none(), "--steps goes with --profile steps");
            return Ok(Vec::new());
        }
        let range = self.range()?;
        ensure!(range.from > 0.0, "--ramp: the first step must have a rate above 0");
        let count = bounded("--steps", self.run.steps, STEPS, STEPS_MAX)?;
        Ok(super::schedule::steps(range.from, range.to, count))
    }

    fn shares(&self, protocol: Protocol) -> anyhow::Result<Shares> {
        let run = &self.run;
        let share = |name: &str, value: Option<f64>| {
            let value = value.unwrap_or(0.0);
            ensure!((0.0..=1.0).contains(&value), "{name} must lie between 0 and 1");
            Ok(value)
        };
        let shares = Shares {
            new_connection: share("--new-connection-share", run.new_connection_share)?,
            resumption: share("--resumption-share", run.resumption_share)?,
            early_data: share("--early-data-share", run.early_data_share)?,
        };
        ensure!(
            shares.resumption + shares.early_data <= 1.0,
            "--resumption-share and --early-data-share are shares of the new connections: at most 1 together"
        );
        ensure!(
            shares.new_connection > 0.0 || shares.resumption + shares.early_data == 0.0,
            "--resumption-share and --early-data-share need --new-connection-share"
        );
        ensure!(shares.early_data == 0.0 || protocol == Protocol::H3, "--early-data-share needs --http 3");
        Ok(shares)
    }
}

fn check_rate(name: &str, rate: f64) -> anyhow::Result<f64> {
    ensure!(rate > 0.0 && rate <= RATE_MAX, "{name} must lie between 0 and 10,000,000 a second");
    Ok(rate)
}

fn bounded(name: &str, value: Option<usize>, default: usize, max: usize) -> anyhow::Result<usize> {
    let value = value.unwrap_or(default);
    ensure!((1..=max).contains(&value), "{name} must be 1 to {max}");
    Ok(value)
}

/// The command line as it may be kept: keys are replaced.
pub(super) fn command_line(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    arguments
        .enumerate()
        .map(|(index, argument)| {
            if std::mem::replace(&mut is_secret, argument == "--key") {
                return "***".to_owned();
            }
            if argument.starts_with("--key=") {
                return "--key=***".to_owned();
            }
            // The program by its name: where it lies is nobody's business.
            match Path::new(&argument).file_name() {
                Some(name) if index == 0 => name.to_string_lossy().into_owned(),
                _ => argument,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: LoadOptions,
    }

    fn settle(line: &str) -> anyhow::Result<Settings> {
        let line = format!("x --url https://127.0.0.1:1 {line}");
        let options = Cli::try_parse_from(line.split_whitespace())?.options;
        let (options, file) = options.with_file()?;
        options.settle(file.as_deref(), None)
    }

    #[test]
    fn the_load_follows_from_what_is_given() {
        let settings = settle("").unwrap();
        assert!(matches!(settings.plan.load, Load::Closed));
        assert_eq!(settings.plan.mix.name, "GET /livez");
        let settings = settle("--rate 100 --duration 2m --key sk_a --key sk_b").unwrap();
        let Load::Open { segments, is_random: false } = &settings.plan.load else { panic!("open") };
        assert_eq!(segments, &[Segment::constant(Duration::from_secs(120), 100.0)]);
        assert_eq!((settings.plan.mix.name.as_str(), settings.plan.users.count()), ("standard", 2));
        let settings = settle("--ramp 0..500 --duration 10").unwrap();
        assert_eq!(settings.profile, Profile::Ramp);
        let settings = settle("--profile steps --ramp 100..300 --steps 3").unwrap();
        assert_eq!(settings.steps, [100.0, 200.0, 300.0]);
        let settings = settle("--profile soak").unwrap();
        assert_eq!((settings.plan.duration, settings.mode), (DURATION_SOAK, Mode::Closed));
        let settings =
            settle("--connections 3 --threads 2 --duration-s 0.5 --warmup-s 0 --http 1.1").unwrap();
        assert_eq!((settings.plan.clients, settings.plan.threads), (3, 2));
        assert_eq!(settings.plan.duration, Duration::from_millis(500));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "--mode open",
            "--mode closed --rate 5",
            "--rate 0",
            "--rate -3",
            "--rate 1e9",
            "--ramp 5",
            "--profile steps",
            "--profile spike",
            "--steps 4",
            "--clients 0",
            "--cores 20",
            "--duration 0",
            "--duration 25h",
            "--duration 5x",
            "--timeout 2m",
            "--zipf -1",
            "--zipf 1 --in-turn",
            "--users 2 --key sk_a",
            "--commands x.jsonl",
            "--resumption-share 0.5",
            "--new-connection-share 1.5",
            "--new-connection-share 1 --resumption-share 0.6 --early-data-share 0.5",
            "--new-connection-share 1 --early-data-share 0.5 --http 2",
            "--rate 5 --requests-per-connection 10",
            "--threshold p99",
            "--threshold gmail:p99<5ms",
            "--http 4",
            "--ca a --insecure",
            "--self",
        ] {
            assert!(settle(line).is_err(), "{line} was taken");
        }
        let options = Cli::try_parse_from(["x", "--url", "https://192.0.2.1:443"]).unwrap().options;
        assert!(options.settle(None, None).is_err(), "a stranger must be trusted by name");
    }

    #[test]
    fn a_file_sets_what_the_command_line_leaves_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(
            r#"
            [run]
            rate = 200
            duration = "30s"
            warm-up = 2
            http = "2"
            thresholds = ["errors<1%"]
            [[scenario]]
            name = "a"
            weight = 1
            request = [{ path = "/a" }]
            "#,
        );
        let settings = settle(&format!("--scenario {} --duration 5", path.display())).unwrap();
        assert_eq!(settings.plan.duration, Duration::from_secs(5));
        assert_eq!(settings.plan.warmup, Duration::from_secs(2));
        assert_eq!((settings.plan.protocol, settings.rate), (Protocol::H2, Some(200.0)));
        assert_eq!((settings.plan.mix.name.as_str(), settings.conditions.len()), ("mine", 1));
        write("[run]\ncolour = 'red'\n");
        assert!(
            format!("{:#}", settle(&format!("--scenario {}", path.display())).unwrap_err())
                .contains("colour")
        );
    }

    #[test]
    fn keys_are_not_kept() {
        let line = ["/a/b/sluice-bench", "load", "--key", "sk_1", "--key=sk_2", "--rate", "5"];
        assert_eq!(
            command_line(line.iter().map(|part| (*part).to_owned())),
            ["sluice-bench", "load", "--key", "***", "--key=***", "--rate", "5"]
        );
    }
}
