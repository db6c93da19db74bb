//! Real processes for the whole-system tests: the simulator of the upstreams and
//! the gateway, each on ports the system chooses, ended when dropped.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod asker;
pub mod browser;
pub mod forbid;
pub mod front;
pub mod h3;
pub mod issuer;
pub mod lot;
pub mod metrics;
pub mod node;
pub mod python;
pub mod raw;
pub mod receiver;
pub mod routes;
pub mod scene;

use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

/// Most tests ask more in a minute than a user or an address may; `limits.rs` is about that. Settings of a test come after
/// and win.
const NO_LIMITS: [&str; 7] = [
    "rate.user_per_minute=0",
    "rate.user_per_hour=0",
    "rate.user_concurrent_max=0",
    "rate.address_per_minute=0",
    "rate.address_per_hour=0",
    "rate.unauthorized_per_minute=0",
    "rate.unauthorized_per_hour=0",
];

/// For tasks that do not end by themselves, made by a call that hangs: longer than any test.
pub const PATIENT: [&str; 2] = ["egress.attempt_timeout_ms=600000", "limits.command_timeout_ms=600000"];

/// The gateway's binary, made for these tests.
pub const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A master key for gateways whose tests are about something else.
pub const MASTER_KEYS: &str = "1:7f1c6f0d3a5b9e2480c1d7e6f5a4b3928170615243342516f708e9dacbbcad9e";

/// The harness, built beside the gateway by `--workspace`.
pub fn bench_binary() -> PathBuf {
    let beside = Path::new(SLUICE).with_file_name("sluice-bench");
    assert!(beside.exists(), "{} is missing: run with --workspace", beside.display());
    beside
}

/// Whether this host has every layer of the sandbox.
pub fn is_confined() -> bool {
    sluice_tuning::sandbox::is_available()
}

/// A child process that prints one line when it is ready.
struct Process {
    child: Child,
    // Kept open, so that the child can go on printing.
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command, ready: &str) -> anyhow::Result<(Self, String)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("piped")?);
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                bail!("{command:?} ended before it was ready: {status}");
            }
            if let Some(rest) = line.trim().strip_prefix(ready) {
                return Ok((Self { child, stdout }, rest.trim().to_owned()));
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {pid}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The simulator of OpenAI and Google.
pub struct Sim {
    process: Process,
    /// Base URL, without a slash at the end.
    pub url: String,
}

impl Sim {
    /// Starts with low latencies; `options` come after and win.
    pub fn start(options: &[&str]) -> Self {
        let mut command = Command::new(bench_binary());
        command.args(["sim", "--listen", "127.0.0.1:0", "--seed", "7"]);
        for service in ["openai", "gmail", "calendar", "drive"] {
            command.args([&format!("--{service}-latency-ms"), "2"]);
        }
        command.args(options);
        let (process, url) = Process::start(&mut command, "listening on").expect("the simulator starts");
        Self { process, url }
    }
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    settings: Settings,
    /// The shared port, IPv4.
    pub address: SocketAddr,
    /// The own port of each core, IPv4.
    pub core_ports: Vec<u16>,
    /// The I/O backend its cores use.
    pub io: String,
    /// Base URL of metrics and health over HTTP/1.1.
    pub metrics: String,
}

#[derive(Clone)]
struct Settings {
    sim: String,
    directory: PathBuf,
    options: Vec<String>,
}

impl Settings {
    fn new(sim: &Sim, directory: &Path, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { sim: sim.url.clone(), directory: directory.to_owned(), options }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(SLUICE);
        let sim = &self.sim;
        command
            .env("SLUICE_SERVER__DATA_DIR", &self.directory)
            .env("SLUICE_OPENAI__BASE_URL", sim)
            .env("SLUICE_OPENAI__API_KEY", "sk-simulated")
            .env("SLUICE_GOOGLE__TOKEN_URL", format!("{sim}/token"))
            .env("SLUICE_GOOGLE__AUTH_URL", format!("{sim}/o/oauth2/v2/auth"))
            .env("SLUICE_GOOGLE__GMAIL_URL", sim)
            .env("SLUICE_GOOGLE__CALENDAR_URL", sim)
            .env("SLUICE_GOOGLE__DRIVE_URL", sim)
            .env("SLUICE_GOOGLE__CLIENT_ID", "test")
            .env("SLUICE_GOOGLE__CLIENT_SECRET", "test")
            .args(["--set", "listen.port=0", "--set", "listen.addresses=127.0.0.1"])
            .args(["--set", "admin.listen=127.0.0.1:0", "--set", "server.pin=false"])
            // Where the host has all of it, every test of a gateway is one of what the sandbox must let through.
            .args(["--set", if is_confined() { "server.sandbox=require" } else { "server.sandbox=auto" }])
            // Most tests are about what the model plans; `intents.rs`, `kills.rs` and `isolation.rs` are about the rest.
            .args(["--set", "intent.local=false", "--set", "intent.pattern_ttl_s=0"]);
        for option in NO_LIMITS {
            command.args(["--set", option]);
        }
        for option in &self.options {
            command.args(["--set", option]);
        }
        if !self.options.iter().any(|option| option.starts_with("vault.")) {
            command.env("SLUICE_VAULT__KEYS", MASTER_KEYS);
        }
        command
    }
}

impl Gateway {
    /// Starts on a directory; `options` are `key=value` settings.
    pub fn start(sim: &Sim, directory: &Path, options: &[&str]) -> Self {
        Self::launch(Settings::new(sim, directory, options))
    }

    /// The binary with the settings it would start with, without a subcommand.
    pub fn command(sim: &Sim, directory: &Path, options: &[&str]) -> Command {
        Settings::new(sim, directory, options).command()
    }

    /// As [`Self::start`], with arguments for `serve` and a last word on how the process is started.
    pub fn start_with(
        sim: &Sim,
        directory: &Path,
        options: &[&str],
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let settings = Settings::new(sim, directory, options);
        let mut command = settings.command();
        command.arg("serve").args(arguments);
        prepare(&mut command);
        Self::spawn(settings, &mut command)
    }

    fn launch(settings: Settings) -> Self {
        let mut command = settings.command();
        Self::spawn(settings, command.arg("serve"))
    }

    fn spawn(settings: Settings, command: &mut Command) -> Self {
        let (process, line) = Process::start(command, "sluice is ready:").expect("the gateway starts");
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|part| part.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name} in {line:?}"))
                .to_owned()
        };
        let io = field("io=");
        // The suite runs once for each backend: the word of it must not get lost on the way.
        let is_chosen = command.get_args().any(|argument| argument == "--io");
        if let (Ok(asked), false) = (std::env::var("SLUICE_IO"), is_chosen)
            && matches!(&*asked, "uring" | "epoll")
        {
            assert_eq!(io == "epoll", asked == "epoll", "the gateway runs on {io}, and not on {asked}");
        }
        let address = line.split_whitespace().next().and_then(|url| url.strip_prefix("https://"));
        Self {
            address: address.expect("an address").parse().expect("an address"),
            core_ports: field("core-ports=").split(',').map(|port| port.parse().expect("a port")).collect(),
            io,
            metrics: field("metrics="),
            process,
            settings,
        }
    }

    /// Ends it as a crash would, and starts it again on the same directory.
    pub fn crash_and_restart(self) -> Self {
        let settings = self.settings.clone();
        drop(self); // SIGKILL, then wait
        Self::launch(settings)
    }

    /// As [`Self::crash_and_restart`], with a second crash `life` after the new process began, which may be
    /// before it is ready.
    pub fn crash_twice_and_restart(self, life: Duration) -> Self {
        let settings = self.settings.clone();
        drop(self); // SIGKILL, then wait
        let mut command = settings.command();
        let short_lived = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut short_lived = short_lived.expect("the gateway starts");
        thread::sleep(life);
        short_lived.kill().expect("SIGKILL");
        short_lived.wait().expect("it was started");
        Self::launch(settings)
    }

    /// Asks it to stop and waits; the exit status must be success.
    pub fn stop(mut self) {
        self.process.signal("TERM");
        let status = self.process.child.wait().expect("it was started");
        assert!(status.success(), "the gateway stopped with {status}");
    }

    /// Asks it to stop, waits, and gives what it printed after it was ready.
    pub fn stop_and_read(mut self) -> String {
        self.process.signal("TERM");
        let mut text = String::new();
        self.process.stdout.read_to_string(&mut text).expect("UTF-8");
        let status = self.process.child.wait().expect("it was started");
        assert!(status.success(), "the gateway stopped with {status}");
        text
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The certificate authority that clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.settings.directory.join("tls").join("ca.pem")
    }

    /// Runs an administrative command and returns what it printed.
    pub fn admin(&self, arguments: &[&str]) -> String {
        let output = self.settings.command().args(arguments).output().expect("the command line runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Adds a user, connected with the simulated account of the same name, and
    /// returns an API key.
    pub fn user(&self, name: &str) -> String {
        let key = self.lone_user(name);
        self.admin(&["user", "connect", name, "--refresh-token", &format!("sim-refresh-{name}")]);
        key
    }

    /// Adds a user who has connected nothing, and returns an API key.
    pub fn lone_user(&self, name: &str) -> String {
        self.admin(&[
            "user",
            "add",
            name,
            "--email",
            &format!("{name}@example.com"),
            "--time-zone",
            "Europe/Berlin",
        ]);
        self.admin(&["key", "add", name])
    }
}
