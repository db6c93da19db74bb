//! The command line of `sluice-bench sim`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::civil::Date;

use super::{Latencies, SimConfig};

/// Flags of `sluice-bench sim`; of one given twice, the last counts.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct SimArgs {
    /// Address to listen on; port 0 lets the kernel choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seed of the mailboxes and of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Median latency of the Responses API, in milliseconds.
    #[arg(long, default_value_t = 120)]
    openai_latency_ms: u64,
    /// Median latency of the token endpoint, in milliseconds.
    #[arg(long, default_value_t = 40)]
    oauth_latency_ms: u64,
    /// Median latency of Gmail, in milliseconds.
    #[arg(long, default_value_t = 80)]
    gmail_latency_ms: u64,
    /// Median latency of Calendar, in milliseconds.
    #[arg(long, default_value_t = 60)]
    calendar_latency_ms: u64,
    /// Median latency of Drive, in milliseconds.
    #[arg(long, default_value_t = 120)]
    drive_latency_ms: u64,
    /// Sigma of the log-normal latency; 0 makes every latency the median.
    #[arg(long, default_value_t = 0.3)]
    latency_sigma: f64,
    /// Share of requests (0 to 1) that fail at random, half of them after their effect.
    #[arg(long, default_value_t = 0.0)]
    error_rate: f64,
    /// The day the simulated world lives on [default: the current date].
    #[arg(long, value_name = "YYYY-MM-DD")]
    today: Option<Date>,
    /// Zone every calendar is kept in.
    #[arg(long, default_value = "Europe/Berlin")]
    time_zone: String,
    /// Life of an access token, in seconds.
    #[arg(long, default_value_t = 3_599)]
    token_lifetime_s: u64,
    /// Annotated commands (JSONL), looked up before the rules; may be repeated.
    #[arg(long, value_name = "FILE")]
    annotations: Vec<PathBuf>,
    /// Plan file (TOML): latencies by operation, quotas, faults, OAuth and OpenAI manners.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Hold every answer of Google's side against the discovery documents.
    #[arg(long)]
    check_answers: bool,
    /// Make a service account that may act for every user, and write its key file (JSON, as Google gives it).
    #[arg(long, value_name = "FILE")]
    service_account_out: Option<PathBuf>,
    /// Threads that serve [default: one for each CPU].
    #[arg(long)]
    threads: Option<usize>,
}

impl SimArgs {
    fn into_config(self) -> anyhow::Result<SimConfig> {
        ensure!((0.0..=1.0).contains(&self.error_rate), "--error-rate must lie between 0 and 1");
        ensure!((0.0..=3.0).contains(&self.latency_sigma), "--latency-sigma must lie between 0 and 3");
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(SimConfig {
            plan: self.plan.map(read).transpose()?,
            check_answers: self.check_answers,
            service_account: self.service_account_out,
            listen: self.listen,
            seed: self.seed,
            latencies: Latencies {
                openai: Duration::from_millis(self.openai_latency_ms),
                oauth: Duration::from_millis(self.oauth_latency_ms),
                gmail: Duration::from_millis(self.gmail_latency_ms),
                calendar: Duration::from_millis(self.calendar_latency_ms),
                drive: Duration::from_millis(self.drive_latency_ms),
            },
            latency_sigma: self.latency_sigma,
            error_rate: self.error_rate,
            today: self.today,
            time_zone: self.time_zone,
            token_lifetime: Duration::from_secs(self.token_lifetime_s),
            annotations: self.annotations,
        })
    }
}

/// Runs the simulator until it is interrupted or terminated. Prints one line,
/// `listening on http://ADDR`, when it is ready.
///
/// # Errors
/// When a flag is out of range or the simulator cannot start.
pub fn run(args: SimArgs) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        ensure!((1..=256).contains(&threads), "--threads must lie between 1 and 256");
        runtime.worker_threads(threads);
    }
    let config = args.into_config()?;
    runtime.enable_all().build()?.block_on(async {
        let sim = super::start(config).await?;
        println!("listening on {}", sim.base_url());
        std::io::stdout().flush()?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(()),
            _ = terminate.recv() => Ok(()),
            ended = sim.wait() => ended,
        }
    })
}
