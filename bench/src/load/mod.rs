//! `sluice-bench load`: HTTP/3 load from the project's own client.
//!
//! Two loops. Closed: `connections x streams` requests are always under way, so
//! the server sets the pace. Open (`--rate`): requests start at a constant rate
//! whatever the server does, and latency counts from the *intended* start, so a
//! server that stalls is charged for the requests that had to wait (no coordinated
//! omission). Starts that find the bound of requests in flight reached are
//! dropped and counted.

pub mod machine;
mod report;
pub mod result;
mod run;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

pub use self::report::{Outcome, Summary};
pub use self::run::run_load;

/// Options of `sluice-bench load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Server, as https://HOST:PORT
    #[arg(long, default_value = "https://127.0.0.1:4433")]
    pub url: String,
    /// Certificate authority to trust (PEM); without it nothing is verified
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// API key sent as a bearer token; repeat for several users
    #[arg(long = "key")]
    pub keys: Vec<String>,
    /// HTTP method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// Path and query
    #[arg(long, default_value = "/livez")]
    pub path: String,
    /// Body, sent as application/json
    #[arg(long)]
    pub body: Option<String>,
    /// Connections
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Requests under way on each connection (closed loop)
    #[arg(long, default_value_t = 32)]
    pub streams: usize,
    /// Requests a second in all (open loop); without it the loop is closed
    #[arg(long)]
    pub rate: Option<f64>,
    /// Most requests under way in an open loop; starts beyond it are dropped
    #[arg(long, default_value_t = 10_000)]
    pub in_flight_max: usize,
    /// Requests on a connection before it is closed and made anew (closed loop)
    #[arg(long)]
    pub requests_per_connection: Option<u64>,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    pub duration_s: f64,
    /// Seconds before that, not measured
    #[arg(long, default_value_t = 1.0)]
    pub warmup_s: f64,
    /// Client threads, each with its own reactor
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// CPU of the first client thread; the others follow
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Process whose CPU time is divided by the requests
    #[arg(long)]
    pub pid: Option<u32>,
    /// Cores of the server: connections are spread over them by their first ID
    #[arg(long)]
    pub server_cores: Option<usize>,
    /// Expect this status; others count as errors
    #[arg(long, default_value_t = 200)]
    pub expect: u16,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

impl LoadArgs {
    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_s)
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_s)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.connections == 0 || self.streams == 0 || self.threads == 0 {
            bail!("--connections, --streams and --threads must be at least 1");
        }
        if self.threads > self.connections {
            bail!("--threads must not exceed --connections: each thread needs one");
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 10e6)) {
            bail!("--rate must lie between 0 and 10,000,000 a second");
        }
        if self.rate.is_some() && self.requests_per_connection.is_some() {
            bail!("--requests-per-connection goes with a closed loop; leave --rate out");
        }
        if !(self.duration_s > 0.0 && self.duration_s <= 86_400.0 && (0.0..=3600.0).contains(&self.warmup_s))
        {
            bail!("--duration-s must be at most a day, --warmup-s at most an hour");
        }
        Ok(())
    }
}

/// Where to send to, taken from a URL.
#[derive(Debug, Clone)]
pub struct Target {
    /// Resolved address.
    pub address: SocketAddr,
    /// Name for TLS and `:authority`.
    pub host: String,
    /// Host and port as given.
    pub authority: String,
}

impl Target {
    /// Reads `https://HOST:PORT`.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest =
            url.strip_prefix("https://").with_context(|| format!("{url:?} must start with https://"))?;
        let authority = rest.trim_end_matches('/').to_owned();
        let (host, port) = authority.rsplit_once(':').unwrap_or((&authority, "443"));
        let port: u16 = port.parse().with_context(|| format!("odd port in {url:?}"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = (host.as_str(), port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self { address, host, authority })
    }
}

/// Runs the command.
pub fn run(args: &LoadArgs) -> anyhow::Result<()> {
    args.check()?;
    let summary = run_load(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{summary}");
    }
    if summary.errors > 0 {
        bail!("{} requests failed; first: {}", summary.errors, summary.first_error.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_address_and_names() {
        let target = Target::parse("https://127.0.0.1:4433/").unwrap();
        assert_eq!(target.address, "127.0.0.1:4433".parse().unwrap());
        assert_eq!(target.authority, "127.0.0.1:4433");
        let target = Target::parse("https://[::1]:4433").unwrap();
        assert_eq!((target.host.as_str(), target.address.port()), ("::1", 4433));
        assert!(Target::parse("http://127.0.0.1:1").is_err());
        assert!(Target::parse("https://127.0.0.1:x").is_err());
    }
}
