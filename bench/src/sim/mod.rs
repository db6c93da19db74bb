//! The upstream simulator: OpenAI's Responses API and chat completions, Google's OAuth,
//! Gmail, Calendar and Drive on one port, without an account. `docs/simulator.md` is for its users.
//!
//! It is a witness, so it shares no code with the gateway: it parses requests and
//! writes answers with rules of its own, refuses what the real services refuse,
//! and counts every side effect (`GET /_sim/state`).
//!
//! Invariants:
//! - A request that was received whole is carried out even when its client goes
//!   away, as at a real server: the handler runs in its own task and the response
//!   may be lost.
//! - The side effect of a request happens at one instant under one lock, after
//!   the larger part of the simulated latency and before the rest of it.
//! - The content of a mailbox depends on the seed, the user's name and the date
//!   alone; what happens to it afterwards stays until `POST /_sim/reset`.

mod args;
mod chance;
mod conn;
mod control;
mod fault;
mod google;
mod openai;
pub(crate) mod parse;
mod plan;
mod quota;
mod schema;
mod serve;
mod spec;
mod stream;
mod wire;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::civil::Date;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use args::{SimArgs, run};

/// Medians of the simulated latencies, each of a log-normal distribution.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latencies {
    /// OpenAI's Responses API.
    pub openai: Duration,
    /// Google's token endpoint.
    pub oauth: Duration,
    /// Gmail, every method alike.
    pub gmail: Duration,
    /// Calendar, every method alike.
    pub calendar: Duration,
    /// Drive, every method alike.
    pub drive: Duration,
}

/// What the simulator is to be. [`SimConfig::default`] answers at once, without
/// errors, on a port chosen by the kernel.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Address to listen on; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Seed of the mailboxes and of every random choice.
    pub seed: u64,
    /// Median latencies; zero answers at once.
    pub latencies: Latencies,
    /// Sigma of the log-normal latency; 0 makes every latency the median.
    pub latency_sigma: f64,
    /// Share of upstream requests (0 to 1) that fail at random, half of them
    /// before their side effect and half after it.
    pub error_rate: f64,
    /// The day the simulated world lives on; `None` is the real one.
    pub today: Option<Date>,
    /// IANA name of the zone every calendar is kept in.
    pub time_zone: String,
    /// How long an access token lives.
    pub token_lifetime: Duration,
    /// JSONL files of annotated commands, looked up before the rules.
    pub annotations: Vec<PathBuf>,
    /// A plan file's text: latencies, quotas, faults (see `docs/simulator.md`).
    pub plan: Option<String>,
    /// Holds every answer of Google's side against the discovery documents and counts those that do not fit.
    pub check_answers: bool,
    /// Where the key file of a service account is written that may act for every simulated user; `None` has none.
    pub service_account: Option<PathBuf>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 1,
            latencies: Latencies::default(),
            latency_sigma: 0.0,
            error_rate: 0.0,
            today: None,
            time_zone: "Europe/Berlin".to_owned(),
            token_lifetime: Duration::from_secs(3_599),
            annotations: Vec::new(),
            plan: None,
            check_answers: false,
            service_account: None,
        }
    }
}

/// A running simulator. Dropping it ends it.
#[derive(Debug)]
pub struct Sim {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Sim {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR`, the base of every path it serves.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Runs until the listener fails or the task is stopped.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        (&mut self.task).await.context("the simulator's task ended")??;
        Ok(())
    }

    /// Stops accepting and ends every connection.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a simulator on the current tokio runtime.
///
/// # Errors
/// When the address cannot be bound, the zone is unknown, the plan makes no sense, or an
/// annotations file cannot be read.
pub async fn start(config: SimConfig) -> anyhow::Result<Sim> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let addr = listener.local_addr()?;
    let account = |path: &PathBuf| google::ServiceAccount::make(path, &format!("http://{addr}/token"));
    let service_account = config.service_account.as_ref().map(account).transpose()?;
    let state = Arc::new(serve::State::new(config, service_account)?);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        tokio::select! {
            ended = serve::listen(listener, state) => ended,
            _ = stopped => Ok(()),
        }
    });
    Ok(Sim { addr, stop: Some(stop), task })
}

/// The rules that turn a command into a plan, without the server around them:
/// `context` is what the gateway sends as its `Context: ` message.
pub fn plan(command: &str, context: &serde_json::Value) -> serde_json::Value {
    parse::plan(command, &parse::Context::from_json(context)).to_json()
}
