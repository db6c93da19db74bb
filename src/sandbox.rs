//! What the gateway may still do once it runs, and the command that shows it.
//!
//! Invariants:
//! - every key of the configuration that names a file has its place in [`plan`], or is read before the sandbox is entered;
//!   a test goes through the keys;
//! - nothing runs beside the first thread before the sandbox is entered;
//! - with `server.sandbox = "require"` a gateway that says it is ready has every layer in force.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sluice_tuning::sandbox::{
    self, Access, Bound, Ground, PathRule, Plan, Probe, Report, Sandbox, Verdict, replaceable,
};

use crate::config::{Config, SandboxMode};
use crate::vault::KeySource;

/// Read when names of upstreams are resolved, and replaced by whoever configures the network.
const RESOLVER: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// What else any program on the host may be made to read: modules that resolve names and the libraries they need, random
/// bytes, and what the process is told of itself.
const HOST: [&str; 9] = [
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/dev/urandom",
    "/proc/self",
    "/proc/sys/kernel/random/uuid",
    "/sys/devices/system/cpu/online",
];

/// Authorities that upstreams' certificates are checked by, where systems keep them.
const AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls",
    "/etc/pki/ca-trust/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// Variables that name other authorities: a file, and directories with colons between them.
const AUTHORITY_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How often it is looked whether names can still be resolved.
const RESOLVER_LOOK_EVERY: Duration = Duration::from_secs(60);

/// How the name of a killing signal is told.
const SIGSYS: i32 = 31;

/// What a start still holds, step by step; nothing where the sandbox is off.
#[derive(Debug)]
pub(crate) enum Confinement<S> {
    Off,
    On(S, SandboxMode),
}

/// Gives up what no start needs. Before any thread is started.
///
/// # Errors
/// Something is missing and `server.sandbox` requires it, or the process is confined only in part.
pub(crate) fn enter(config: &Config) -> anyhow::Result<Confinement<Sandbox>> {
    let mode = config.server.sandbox;
    if mode == SandboxMode::Off {
        tracing::info!("no sandbox, as server.sandbox says");
        return Ok(Confinement::Off);
    }
    make_data_directory(&config.server.data_dir);
    let sandbox = sandbox::enter(&plan(config)).context("server.sandbox")?;
    judge(sandbox.report(), mode)?;
    Ok(Confinement::On(sandbox, mode))
}

/// A rule is for a directory that is there. What is wrong with one that cannot be made is told when it is opened.
fn make_data_directory(path: &Path) {
    if let Err(error) = fs::create_dir_all(path) {
        tracing::debug!(%error, path = %path.display(), "the data directory cannot be made");
    }
}

fn judge(report: &Report, mode: SandboxMode) -> anyhow::Result<()> {
    let missing: Vec<String> = report.missing().map(|(name, layer)| format!("{name} is {layer}")).collect();
    if mode == SandboxMode::Require && !missing.is_empty() {
        bail!(
            "server.sandbox is \"require\", but {}; allow it on this host, or set \"auto\"",
            missing.join("; ")
        );
    }
    Ok(())
}

impl Confinement<Sandbox> {
    /// Starts something whose threads have no capabilities, and this name where they give themselves none.
    ///
    /// # Errors
    /// The thread for it could not be made.
    pub(crate) fn start<T: Send>(&self, name: &str, start: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        match self {
            Self::Off => Ok(start()),
            Self::On(sandbox, _) => Ok(sandbox.start(name, start)?),
        }
    }

    /// All sockets are bound.
    ///
    /// # Errors
    /// The kernel refused to take the capabilities that were kept for it.
    pub(crate) fn bound(self) -> anyhow::Result<Confinement<Bound>> {
        match self {
            Self::Off => Ok(Confinement::Off),
            Self::On(sandbox, mode) => Ok(Confinement::On(sandbox.bound()?, mode)),
        }
    }
}

impl Confinement<Bound> {
    /// The start is over. Says in one line what is in force.
    ///
    /// # Errors
    /// The start's system calls could not be taken from every thread, and `server.sandbox` requires it.
    pub(crate) fn seal(self) -> anyhow::Result<()> {
        let Self::On(bound, mode) = self else { return Ok(()) };
        match bound.seal() {
            Ok(report) => announce(&report),
            Err(error) if mode == SandboxMode::Require => return Err(error).context("server.sandbox"),
            Err(error) => {
                tracing::warn!(%error, "sandbox in force in part: a running gateway may what its start may")
            }
        }
        Ok(())
    }
}

fn announce(report: &Report) {
    let Report { landlock, seccomp, capabilities, is_root } = report;
    if report.missing().next().is_none() {
        tracing::info!(files = %landlock, calls = %seccomp, capabilities = %capabilities, "sandbox in force");
    } else {
        tracing::warn!(
            files = %landlock, calls = %seccomp, capabilities = %capabilities,
            "sandbox in force in part; this host lacks the rest"
        );
    }
    if *is_root {
        tracing::warn!(
            "running as root, who owns most files even without capabilities; give Sluice a user of its own"
        );
    }
}

/// Looks now and then whether names can still be resolved, and says once when they cannot: a file that was allowed by itself
/// and then replaced is not the file that was allowed.
pub(crate) async fn watch_resolver() {
    let mut watched = RESOLVER.to_vec();
    while !watched.is_empty() {
        tokio::time::sleep(RESOLVER_LOOK_EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            watched.retain(|path| !is_refused(path));
            watched
        });
        let Ok(left) = looked.await else { return };
        watched = left;
    }
}

/// Whether a file may not be read, which is said.
fn is_refused(path: &str) -> bool {
    let is_refused = fs::File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    if is_refused {
        tracing::error!(path, "replaced where the sandbox cannot follow; names may not resolve: restart");
    }
    is_refused
}

/// What must still work, by the configuration.
fn plan(config: &Config) -> Plan {
    let mut paths = BTreeSet::new();
    paths.insert(PathRule::new(&config.server.data_dir, Access::Write));
    let socket = config.admin.socket_path(&config.server);
    if let Some(directory) = socket.parent() {
        paths.insert(PathRule::new(directory, Access::Socket));
    }
    for path in replaced_files(config) {
        paths.extend(replaceable(&path));
    }
    for path in RESOLVER {
        paths.extend(replaceable(Path::new(path)));
    }
    let binary = std::env::current_exe().ok();
    let once = once_files(config);
    let fixed = HOST.into_iter().chain(AUTHORITIES).map(PathBuf::from);
    for path in fixed.chain(authorities_named()).chain(once).chain(binary) {
        paths.insert(PathRule::new(path, Access::Read));
    }
    paths.retain(|rule| rule.path.exists());
    Plan { paths: paths.into_iter().collect() }
}

/// Files that may be replaced while the gateway runs, which takes the new ones.
fn replaced_files(config: &Config) -> Vec<PathBuf> {
    let tls = &config.tls;
    let mut files: Vec<PathBuf> =
        tls.certificates.iter().flat_map(|pair| [pair.chain.clone(), pair.key.clone()]).collect();
    let optional = [&tls.certificate, &tls.key, &tls.ticket_key_file];
    files.extend(optional.into_iter().filter_map(|path| path.get()).map(Path::to_owned));
    files.extend(KeySource::of(config).files());
    let providers = config.identity.providers.iter();
    files.extend(providers.filter_map(|provider| provider.keys_file.get()).map(Path::to_owned));
    files
}

/// Files that are read once, while the gateway starts.
fn once_files(config: &Config) -> Vec<PathBuf> {
    let google = &config.google;
    let optional = [&config.openai.api_key_file, &google.client_secret_file, &google.service_account_file];
    optional.into_iter().filter_map(|path| path.get()).map(Path::to_owned).collect()
}

fn authorities_named() -> Vec<PathBuf> {
    let values = AUTHORITY_VARIABLES.into_iter().filter_map(std::env::var_os);
    values.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>()).collect()
}

// ---- the command line ----

/// What `sluice sandbox` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Enter the sandbox as `serve` would, try what it refuses and what must work, and say what came of it
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A file that anybody may read and that is none of the gateway's business
    #[arg(long, value_name = "FILE", default_value = "/etc/passwd")]
    outside: PathBuf,
    /// Make one attempt in this process
    #[arg(long, hide = true)]
    attempt: Option<String>,
}

pub(crate) fn run(config: &Config, command: &SandboxCommand) -> anyhow::Result<()> {
    let SandboxCommand::Check(args) = command;
    match &args.attempt {
        Some(name) => attempt(config, args, name),
        None => check(config),
    }
}

/// Every attempt in a process of its own, with the arguments of this one.
fn check(config: &Config) -> anyhow::Result<()> {
    if !config.server.data_dir.is_dir() {
        bail!(
            "{} is not there: start a gateway once, or name its data directory",
            config.server.data_dir.display()
        );
    }
    let binary = std::env::current_exe().context("cannot find this program")?;
    let mut wrong = 0;
    for probe in Probe::ALL {
        let mut command = Command::new(&binary);
        command.args(std::env::args_os().skip(1)).arg("--attempt").arg(probe.name).stdin(Stdio::null());
        let output = command.output().context("cannot start this program again")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (verdict, detail) = match (output.status.signal(), said.trim_end_matches('\n').split_once('\t')) {
            (Some(SIGSYS), _) => (Some(Verdict::Kills), "SIGSYS"),
            (None, Some(("works", detail))) => (Some(Verdict::Works), detail),
            (None, Some(("fails", detail))) => (Some(Verdict::Fails), detail),
            _ => (None, "no answer"),
        };
        let is_right = verdict == Some(probe.expected);
        wrong += usize::from(!is_right);
        let verdict = verdict.map_or("ended", Verdict::name);
        let note = if is_right { "as it should" } else { "NOT as it should" };
        println!("{}\t{verdict}\t{note}\t{detail}", probe.name);
        if !is_right {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    if wrong > 0 {
        bail!("{wrong} of {} attempts did not go as they should", Probe::ALL.len());
    }
    Ok(())
}

/// Goes the way of `serve` into the sandbox, whatever `server.sandbox` says, and makes the attempt there.
fn attempt(config: &Config, args: &CheckArgs, name: &str) -> anyhow::Result<()> {
    let probe = Probe::named(name).with_context(|| format!("there is no attempt {name:?}"))?;
    let ground = Ground { writable: config.server.data_dir.clone(), outside: args.outside.clone() };
    let sandbox = sandbox::enter(&plan(config))?;
    for (name, layer) in sandbox.report().missing() {
        eprintln!("{name} is {layer}");
    }
    sandbox.start("nothing", || ())?;
    sandbox.bound()?.seal()?;
    match probe.attempt(&ground) {
        Ok(()) => println!("works\t"),
        Err(error) => println!("fails\t{error}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::path_keys;

    fn allowed(plan: &Plan, path: &str) -> Vec<Access> {
        let under = |rule: &&PathRule| Path::new(path).starts_with(&rule.path);
        plan.paths.iter().filter(under).map(|rule| rule.access).collect()
    }

    #[test]
    fn every_key_that_names_a_file_is_thought_of() {
        let handled = [
            "admin.socket",
            "google.client_secret_file",
            "google.service_account_file",
            "identity.providers",
            "openai.api_key_file",
            "server.data_dir",
            "tls.certificate",
            "tls.certificates",
            "tls.key",
            "tls.ticket_key_file",
            "vault.key_file",
        ];
        assert_eq!(path_keys(), handled, "see that `plan` allows it, then add it here");
    }

    #[test]
    fn data_may_be_written_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        fs::create_dir(&data).expect("made");
        let mut config = Config::default();
        config.server.data_dir.clone_from(&data);
        let plan = plan(&config);
        let written: Vec<_> = plan.paths.iter().filter(|rule| rule.access == Access::Write).collect();
        assert_eq!(written, [&PathRule::new(&data, Access::Write)]);
        assert!(allowed(&plan, "/etc/shadow").is_empty());
        assert!(allowed(&plan, "/root/.ssh/id_ed25519").is_empty());
        assert_eq!(allowed(&plan, "/etc/hosts"), [Access::Read]);
    }
}
