//! `sluice command`: sends a command over HTTP/3 and shows what came of it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use sluice_core::{CoreId, Reactor, ReactorConfig, timeout_at};
use sluice_net::CoreCount;
use sluice_net::client::{Client, ClientConnection, ClientResponse};
use sluice_net::tls::{DEVELOPMENT_CA_FILE, Trust, client_crypto};
use sluice_protocols::api::{
    CommandRequest, DEADLINE_MS_MAX, DEADLINE_MS_MIN, Mode, Priority, TaskState, TaskView,
};
use sluice_protocols::http::RequestHead;
use sluice_protocols::ids::{ApiKey, SessionId, ShardCount};
use sluice_protocols::problem::Problem;
use sluice_shard::Placement;

use crate::config::Config;
use crate::show;
use crate::tls::TLS_DIR;

/// The gateway's own bound for a command is a minute; this leaves room for it.
const TIMEOUT: Duration = Duration::from_secs(90);
/// What one poll of a queued command waits for at most (`Prefer: wait`), in seconds.
const POLL_WAIT_S: u64 = 30;

/// Options of `sluice command`.
#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    /// The command in plain language
    text: String,
    /// API key
    #[arg(long, env = "SLUICE_API_KEY", hide_env_values = true)]
    key: String,
    /// Gateway; by default the first address of the configuration
    #[arg(long, env = "SLUICE_URL")]
    url: Option<String>,
    /// Certificate authority to trust (PEM); by default the one of the data directory, if it is there
    #[arg(long, env = "SLUICE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Wait for the answer, queue the command and poll, or only show what would be done
    #[arg(long, default_value = "sync")]
    mode: ModeArg,
    /// How urgent it is
    #[arg(long, default_value = "normal")]
    priority: PriorityArg,
    /// How long it may take, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(i64::from(DEADLINE_MS_MIN)..=i64::from(DEADLINE_MS_MAX)))]
    deadline: Option<u32>,
    /// Session to go on with; by default the newest
    #[arg(long)]
    session: Option<SessionId>,
    /// Succeed only when the task ends in this state; without it, unless it failed
    #[arg(long)]
    expect: Option<Expect>,
    /// Print the task as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Sync,
    Async,
    Preview,
}

impl ModeArg {
    fn mode(self) -> Mode {
        match self {
            Self::Sync => Mode::Sync,
            Self::Async => Mode::Async,
            Self::Preview => Mode::Preview,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PriorityArg {
    High,
    Normal,
    Batch,
}

impl PriorityArg {
    fn priority(self) -> Priority {
        match self {
            Self::High => Priority::High,
            Self::Normal => Priority::Normal,
            Self::Batch => Priority::Batch,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expect {
    Done,
    Declined,
    Failed,
}

impl Expect {
    fn state(self) -> TaskState {
        match self {
            Self::Done => TaskState::Done,
            Self::Declined => TaskState::Declined,
            Self::Failed => TaskState::Failed,
        }
    }
}

/// Runs the command; fails when it was not done.
pub(crate) fn run(config: &Config, args: &CommandArgs) -> anyhow::Result<()> {
    let key = ApiKey::parse(&args.key).context("the API key is not one; it looks like sk_...")?;
    let (authority, address) = target(config, args)?;
    let files = authorities(config, args)?;
    let tls = client_crypto(Trust::Files(&files))?;
    let mut request = CommandRequest::new(args.text.as_str());
    request.mode = args.mode.mode();
    request.priority = args.priority.priority();
    request.deadline_ms = args.deadline;
    request.session = args.session;
    let call = Call {
        authority,
        address,
        key: args.key.clone(),
        home: home(config, &key),
        body: serde_json::to_vec(&request)?.into(),
        is_json: args.json,
    };
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0)))?;
    let task = reactor.block_on(call.run(tls))??;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&task)?);
    } else {
        print!("{}", show::task(&task));
    }
    match args.expect {
        Some(expect) if task.state != expect.state() => {
            bail!("the command ended in another state than expected")
        }
        None if task.state == TaskState::Failed => bail!("the command failed"),
        _ => Ok(()),
    }
}

fn target(config: &Config, args: &CommandArgs) -> anyhow::Result<(String, SocketAddr)> {
    let Some(url) = &args.url else {
        let address = config.listen.sockets().next().context("listen.addresses is empty")?;
        return Ok((address.to_string(), address));
    };
    let authority = url.strip_prefix("https://").context("--url must start with https://")?;
    let authority = authority.trim_end_matches('/');
    let with_port = if authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        authority.to_owned()
    } else {
        format!("{authority}:443")
    };
    let mut addresses = with_port.to_socket_addrs().with_context(|| format!("cannot resolve {authority}"))?;
    let address = addresses.next().with_context(|| format!("{authority} has no address"))?;
    Ok((authority.to_owned(), address))
}

fn authorities(config: &Config, args: &CommandArgs) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(file) = &args.ca {
        return Ok(vec![file.clone()]);
    }
    let development = config.server.data_dir.join(TLS_DIR).join(DEVELOPMENT_CA_FILE);
    if development.exists() {
        return Ok(vec![development]);
    }
    // Where most systems keep the authorities they trust.
    let system = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
    if system.exists() {
        return Ok(vec![system]);
    }
    bail!("no certificate authority to trust; name one with --ca")
}

/// The core that owns the key's user, when the configuration is the gateway's: the
/// connection then lands there. A wrong guess costs one hop, nothing else.
fn home(config: &Config, key: &ApiKey) -> Option<(CoreId, CoreCount)> {
    let cores = match usize::try_from(config.server.cores).ok()? {
        0 => sluice_tuning::allowed_cpus().ok()?.len(),
        count => count,
    };
    let shards = ShardCount::new(u16::try_from(config.server.shards).ok()?)?;
    let placement = Placement::dealt(shards, cores);
    let owner = placement.owner(placement.shard_of(&key.user()));
    Some((owner, CoreCount::new(cores)?))
}

struct Call {
    authority: String,
    address: SocketAddr,
    key: String,
    home: Option<(CoreId, CoreCount)>,
    body: Bytes,
    is_json: bool,
}

impl Call {
    async fn run(self, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<TaskView> {
        let deadline = sluice_core::now() + TIMEOUT;
        timeout_at(deadline, self.exchange(tls)).await.context("no answer in time")?
    }

    async fn exchange(&self, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<TaskView> {
        let client = Client::start(tls, self.address, TIMEOUT)?;
        let host = self.address.ip().to_string();
        let name = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        let name = if name.starts_with('[') { host.as_str() } else { name };
        let connection = client
            .connect(self.address, name, self.home)
            .await
            .with_context(|| format!("cannot reach the gateway at {}", self.authority))?;
        let head = self.head("POST", "/api/v1/command")?.try_with("content-type", "application/json")?;
        let response = connection.request(&head, self.body.clone()).await?;
        match response.head.status() {
            202 => self.poll(&connection, &response).await,
            _ => read_task(&response),
        }
    }

    fn head(&self, method: &str, path: &str) -> anyhow::Result<RequestHead> {
        let head = RequestHead::try_build(method, path, &self.authority)?;
        Ok(head.try_with("authorization", &format!("Bearer {}", self.key))?)
    }

    async fn poll(
        &self,
        connection: &ClientConnection,
        accepted: &ClientResponse,
    ) -> anyhow::Result<TaskView> {
        let location = accepted.head.header("location").context("accepted, but without a location")?;
        if !self.is_json {
            println!("queued: {location}");
        }
        loop {
            let head = self.head("GET", location)?.try_with("prefer", &format!("wait={POLL_WAIT_S}"))?;
            let response = connection.request(&head, Bytes::new()).await?;
            let task = read_task(&response)?;
            if !matches!(task.state, TaskState::Queued | TaskState::Running) {
                return Ok(task);
            }
        }
    }
}

/// The task in an answer; for a command that failed, the one in its problem.
fn read_task(response: &ClientResponse) -> anyhow::Result<TaskView> {
    let status = response.head.status();
    if (200..300).contains(&status) {
        return serde_json::from_slice(&response.body).context("the gateway's answer is not a task");
    }
    let problem: Problem = serde_json::from_slice(&response.body)
        .with_context(|| format!("status {status}: {}", String::from_utf8_lossy(&response.body)))?;
    if let Some(task) = problem.task() {
        return Ok(serde_json::from_value(task.clone())?);
    }
    bail!("{} ({status}): {}", problem.kind().title(), problem.detail())
}
