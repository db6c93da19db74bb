//! `sluice-bench compare h3`: the same small reply from Sluice's ingress and from
//! quinn + h3 on tokio, under the same load, in one run.
//!
//! Each server is a process of its own with one thread on CPU 0; the load comes
//! from one thread on CPU 1. What counts is the server's CPU time a request, from
//! the kernel's accounting, since it does not depend on how fast the client is.
//! On loopback the kernel charges the delivery of a datagram to its sender, so the
//! servers' figures include putting the reply into the client's socket.

mod peer;
mod servers;

use std::fmt;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use sluice_core::IoChoice;

use crate::load::{LoadArgs, run_load};
use peer::Peer;
pub use servers::{ServeArgs, Stack, serve};

/// What to compare.
#[derive(Debug, Clone, Subcommand)]
pub enum CompareCommand {
    /// A 200-byte reply over HTTP/3: Sluice's ingress and quinn + h3
    H3(CompareArgs),
}

/// Options of `compare h3`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Seconds measured in each case
    #[arg(long, default_value_t = 3.0)]
    pub duration_s: f64,
    /// Runs of each case; the median counts
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Only the cases whose name contains this
    #[arg(long)]
    pub case: Option<String>,
    /// How Sluice does I/O: auto, uring or epoll
    #[arg(long, default_value_t)]
    pub io: IoChoice,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Exit with an error when a ratio is above its bound
    #[arg(long)]
    pub gate: bool,
}

struct Case {
    name: &'static str,
    connections: usize,
    streams: usize,
    requests_per_connection: Option<u64>,
    /// Largest share of the peer's CPU time that passes `--gate`.
    ratio_max: Option<f64>,
}

const CASES: [Case; 5] = [
    Case { name: "1x1", connections: 1, streams: 1, requests_per_connection: None, ratio_max: None },
    Case { name: "16x32", connections: 16, streams: 32, requests_per_connection: None, ratio_max: Some(0.4) },
    Case { name: "64x64", connections: 64, streams: 64, requests_per_connection: None, ratio_max: None },
    Case { name: "256x1", connections: 256, streams: 1, requests_per_connection: None, ratio_max: Some(0.6) },
    Case {
        name: "10-a-connection",
        connections: 8,
        streams: 1,
        requests_per_connection: Some(10),
        ratio_max: None,
    },
];

/// One server's figures in one case.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Server CPU time a request, in microseconds.
    pub cpu_us: f64,
    /// Requests a second.
    pub requests_per_s: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// How busy the client was; near 1 it was the limit.
    pub client_busy: f64,
}

/// Both servers in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Connections x streams.
    pub case: &'static str,
    /// Ours.
    pub sluice: Figures,
    /// quinn + h3 on a tokio current_thread runtime.
    pub quinn_h3: Figures,
    /// Ours divided by theirs, in CPU time a request.
    pub cpu_ratio: f64,
    /// The bound, where one is set.
    pub ratio_max: Option<f64>,
}

/// All cases.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What was measured, for the reader.
    pub about: String,
    /// A row a case.
    pub rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        writeln!(f, "case             sluice us   req/s   | quinn+h3 us   req/s   | ratio")?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<16} {:>8.2} {:>9.0}  | {:>10.2} {:>9.0}  | {:.2}",
                row.case,
                row.sluice.cpu_us,
                row.sluice.requests_per_s,
                row.quinn_h3.cpu_us,
                row.quinn_h3.requests_per_s,
                row.cpu_ratio
            )?;
        }
        Ok(())
    }
}

/// Runs the comparison.
pub fn run(command: &CompareCommand) -> anyhow::Result<()> {
    let CompareCommand::H3(args) = command;
    let cpus = std::thread::available_parallelism()?.get();
    if cpus < 2 {
        bail!("two CPUs are needed: one for the server, one for the load");
    }
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| args.case.as_deref().is_none_or(|part| case.name.contains(part))) {
        let own = if args.io == IoChoice::Epoll { "sluice-epoll" } else { "sluice" };
        // Runs alternate, so that a change of the machine's mood hits both.
        let (mut ours, mut theirs) = (vec![], vec![]);
        for run in 0..args.runs.max(1) {
            eprintln!("{}: run {} of {}", case.name, run + 1, args.runs.max(1));
            ours.push(measure(case, own, args)?);
            theirs.push(measure(case, "quinn-h3", args)?);
        }
        let (sluice, quinn_h3) = (median(ours), median(theirs));
        let cpu_ratio = sluice.cpu_us / quinn_h3.cpu_us;
        rows.push(Row { case: case.name, sluice, quinn_h3, cpu_ratio, ratio_max: case.ratio_max });
    }
    let about = format!(
        "server CPU a request, one server thread on CPU 0, one client thread on CPU 1, 200-byte reply, \
         TLS 1.3, Sluice's I/O: {}, median of {} runs of {} s",
        args.io,
        args.runs.max(1),
        args.duration_s
    );
    let table = Table { about, rows };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    let over = table.rows.iter().find(|row| row.ratio_max.is_some_and(|max| row.cpu_ratio > max));
    match over {
        Some(row) if args.gate => bail!("{}: ratio {:.2} is above its bound", row.case, row.cpu_ratio),
        _ => Ok(()),
    }
}

fn measure(case: &Case, stack: &str, args: &CompareArgs) -> anyhow::Result<Figures> {
    let peer = Peer::start(stack)?;
    let load = LoadArgs {
        url: format!("https://{}", peer.address),
        ca: None,
        keys: vec![],
        method: "GET".into(),
        path: "/".into(),
        body: None,
        connections: case.connections,
        streams: case.streams,
        rate: None,
        in_flight_max: 0,
        requests_per_connection: case.requests_per_connection,
        duration_s: args.duration_s,
        warmup_s: 1.0,
        threads: 1,
        cpu: Some(1),
        pid: Some(peer.pid()),
        server_cores: None,
        expect: 200,
        json: false,
    };
    let summary = run_load(&load)?;
    if summary.errors > 0 {
        bail!("{stack}, {}: {}", case.name, summary.first_error.unwrap_or_default());
    }
    Ok(Figures {
        cpu_us: summary.server_cpu_us.context("the server's pid was given")?,
        requests_per_s: summary.requests_per_s,
        p50_us: summary.latency.p50_us,
        p99_us: summary.latency.p99_us,
        client_busy: summary.client_busy,
    })
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    figures[figures.len() / 2]
}
