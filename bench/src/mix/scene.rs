//! A gateway and a simulator of their own, in a directory that goes with them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use tempfile::TempDir;

use super::numbers::Numbers;
use crate::load::{RunOptions, observe};

/// Limits on requests and quotas of upstreams that are never met: they are not what is measured.
const NO_QUOTAS: [&str; 15] = [
    "rate.user_per_minute=0",
    "rate.user_per_hour=0",
    "rate.user_concurrent_max=0",
    "rate.address_per_minute=0",
    "rate.address_per_hour=0",
    "quota.gmail_project_units_per_minute=0",
    "quota.gmail_user_units_per_minute=0",
    "quota.gmail_units_per_day=0",
    "quota.calendar_project_units_per_minute=0",
    "quota.calendar_user_units_per_minute=0",
    "quota.calendar_units_per_day=0",
    "quota.drive_project_units_per_minute=0",
    "quota.drive_user_units_per_minute=0",
    "quota.drive_units_per_day=0",
    "quota.openai_requests_per_minute=0",
];
/// Of what a process said before it failed, this much is shown.
const TAIL_BYTES: usize = 2_000;

/// A child that says in a line when it is ready; ended when dropped.
struct Process {
    child: Child,
    // Kept open, so that the child can go on printing.
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it and gives what its line says after `ready`. What it logs goes to `log`.
    fn start(command: &mut Command, ready: &str, log: &Path) -> anyhow::Result<(Self, String)> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = BufReader::new(child.stdout.take().context("its output was asked for")?);
        let mut process = Self { child, _stdout: stdout };
        loop {
            let mut line = String::new();
            if process._stdout.read_line(&mut line)? == 0 {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let tail = &said[said.floor_char_boundary(said.len().saturating_sub(TAIL_BYTES))..];
                bail!("{name} ended before it was ready: {tail}");
            }
            if let Some(rest) = line.trim().strip_prefix(ready) {
                return Ok((process, rest.trim().to_owned()));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which gateway, and how it is set.
#[derive(Debug, Clone, Args)]
pub(crate) struct SceneOptions {
    /// The gateway's program [default: sluice, beside this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) sluice: Option<PathBuf>,
    /// Cores of the gateway
    #[arg(long, default_value_t = 1)]
    pub(crate) cores: usize,
    /// Override one key of the gateway's configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// See the module. Fields are dropped in this order: the gateway first, the directory last.
pub(crate) struct Scene {
    gateway: Process,
    _sim: Process,
    pub(crate) url: String,
    pub(crate) ca: PathBuf,
    pub(crate) keys: PathBuf,
    pub(crate) metrics: String,
    pub(crate) sim_url: String,
    cores: usize,
    _directory: TempDir,
}

impl Scene {
    /// Starts both, with `users` users whose keys are in a file: connected, or where `delegated` says so acted for by the
    /// simulator's service account.
    pub(crate) fn start(
        args: &SceneOptions,
        settings: &[&str],
        sim_options: &[&str],
        users: usize,
        delegated: bool,
    ) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("cannot find this program")?;
        let sluice = args.sluice.clone().unwrap_or_else(|| this.with_file_name("sluice"));
        ensure!(sluice.exists(), "{} is missing; build it, or name it with --sluice", sluice.display());
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut command = Command::new(&this);
        command.args(["sim", "--listen", "127.0.0.1:0", "--seed", "1"]).args(sim_options);
        let account = directory.path().join("account.json");
        if delegated {
            command.arg("--service-account-out").arg(&account);
        }
        let (sim, sim_url) = Process::start(&mut command, "listening on", &directory.path().join("sim.log"))?;
        // Beside the data, as a gateway wants it.
        let master_keys = directory.path().join("master.keys");
        let made = Command::new(&sluice).args(["vault", "keygen", "--out"]).arg(&master_keys).output()?;
        ensure!(made.status.success(), "no master key: {}", String::from_utf8_lossy(&made.stderr));
        let program = || {
            let mut command = Command::new(&sluice);
            command.env("SLUICE_VAULT__KEY_FILE", &master_keys);
            configure(&mut command, &sim_url, directory.path());
            command.args(["--set", &format!("server.cores={}", args.cores)]);
            if delegated {
                command.env("SLUICE_GOOGLE__SERVICE_ACCOUNT_FILE", &account);
                command.args(["--set", "google.delegated_domains=example.com"]);
            }
            for setting in NO_QUOTAS.iter().chain(settings) {
                command.args(["--set", setting]);
            }
            for setting in &args.set {
                command.args(["--set", setting]);
            }
            command
        };
        let mut serve = program();
        serve.arg("serve");
        let (gateway, line) =
            Process::start(&mut serve, "sluice is ready:", &directory.path().join("gateway.log"))?;
        let url = line.split_whitespace().next().context("the gateway did not say where it listens")?;
        let metrics = line.split_whitespace().find_map(|part| part.strip_prefix("metrics="));
        let metrics = metrics.context("the gateway did not say where its metrics are")?;
        let keys = directory.path().join("keys");
        let mut seed = program();
        seed.args(["user", "seed", "--count", &users.to_string()]).arg("--keys-out").arg(&keys);
        if !delegated {
            seed.args(["--refresh-token-prefix", "sim-refresh-"]);
        }
        let seeded = seed.output()?;
        ensure!(seeded.status.success(), "no users: {}", String::from_utf8_lossy(&seeded.stderr));
        Ok(Self {
            url: url.to_owned(),
            metrics: format!("{metrics}/metrics"),
            ca: directory.path().join("data").join("tls").join("ca.pem"),
            keys,
            cores: args.cores,
            sim_url,
            gateway,
            _sim: sim,
            _directory: directory,
        })
    }

    /// The gateway's process.
    pub(crate) fn pid(&self) -> u32 {
        self.gateway.child.id()
    }

    /// Of a run what each against this gateway has in common.
    pub(crate) fn run_options(&self) -> RunOptions {
        RunOptions {
            url: Some(self.url.clone()),
            ca: Some(self.ca.clone()),
            keys: Some(self.keys.clone()),
            pid: Some(self.pid()),
            // The gateway shares the machine with us: who watches the clock takes its CPU.
            no_spin: Some(true),
            server_cores: Some(self.cores),
            ..RunOptions::default()
        }
    }

    /// What the gateway counts.
    pub(crate) fn numbers(&self) -> anyhow::Result<Numbers> {
        Ok(Numbers::read(&observe::fetch_text(&self.metrics)?))
    }
}

/// What every command of the gateway's is given here.
fn configure(command: &mut Command, sim: &str, directory: &Path) {
    command
        .env("SLUICE_SERVER__DATA_DIR", directory.join("data"))
        .env("SLUICE_OPENAI__BASE_URL", sim)
        .env("SLUICE_OPENAI__API_KEY", "sk-simulated")
        .env("SLUICE_GOOGLE__TOKEN_URL", format!("{sim}/token"))
        .env("SLUICE_GOOGLE__GMAIL_URL", sim)
        .env("SLUICE_GOOGLE__CALENDAR_URL", sim)
        .env("SLUICE_GOOGLE__DRIVE_URL", sim)
        .env("SLUICE_GOOGLE__CLIENT_ID", "mix")
        .env("SLUICE_GOOGLE__CLIENT_SECRET", "mix")
        .args(["--set", "listen.port=0", "--set", "listen.addresses=127.0.0.1"])
        .args(["--set", "admin.listen=127.0.0.1:0", "--set", "server.pin=false"]);
}
