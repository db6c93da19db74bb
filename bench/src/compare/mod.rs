//! `sluice-bench compare h3`: the same small reply from Sluice's ingress, from quinn +
//! h3 on tokio, and from whichever of caddy, nginx and h2o the machine has, under the
//! same load, in one run.
//!
//! Each server is a process of its own with one worker on CPU 0; the load comes
//! from one thread on CPU 1. What counts is the server's CPU time a request, from
//! the kernel's accounting, since it does not depend on how fast the client is.
//! On loopback the kernel charges the delivery of a datagram to its sender, so the
//! servers' figures include putting the reply into the client's socket.

mod external;
mod headers;
mod peer;
mod servers;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use sluice_core::IoChoice;

use crate::load::{LoadArgs, run_load};
use external::{External, Kind};
pub(crate) use peer::{Peer, end_with_signals};
pub use servers::{ServeArgs, Stack, serve};

/// What to compare.
#[derive(Debug, Clone, Subcommand)]
pub enum CompareCommand {
    /// A 200-byte reply over HTTP/3: Sluice's ingress, quinn + h3, and caddy, nginx and h2o where they are
    H3(CompareArgs),
    /// Requests with the fields of a browser and a bearer token, with and without QPACK's dynamic table
    Headers(headers::HeadersArgs),
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
    /// Caddy to compare with, instead of the one in PATH
    #[arg(long, value_name = "PATH")]
    pub caddy: Option<PathBuf>,
    /// nginx to compare with: 1.25 or newer, with http_v3_module
    #[arg(long, value_name = "PATH")]
    pub nginx: Option<PathBuf>,
    /// h2o to compare with
    #[arg(long, value_name = "PATH")]
    pub h2o: Option<PathBuf>,
    /// Leave caddy, nginx and h2o out
    #[arg(long)]
    pub only_own: bool,
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
    /// Largest share of the peer's CPU time that passes `--gate`: what the data plane is meant to reach. On a machine
    /// shared with others runs lie up to an eighth apart.
    ratio_max: Option<f64>,
}

const CASES: [Case; 5] = [
    Case { name: "1x1", connections: 1, streams: 1, requests_per_connection: None, ratio_max: Some(0.65) },
    Case {
        name: "16x32",
        connections: 16,
        streams: 32,
        requests_per_connection: None,
        ratio_max: Some(0.25),
    },
    Case {
        name: "64x64",
        connections: 64,
        streams: 64,
        requests_per_connection: None,
        ratio_max: Some(0.25),
    },
    Case {
        name: "256x1",
        connections: 256,
        streams: 1,
        requests_per_connection: None,
        ratio_max: Some(0.38),
    },
    Case {
        name: "10-a-connection",
        connections: 8,
        streams: 1,
        requests_per_connection: Some(10),
        ratio_max: Some(0.6),
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

/// One peer in one case.
#[derive(Debug, Clone, Serialize)]
pub struct PeerRow {
    /// Which server.
    pub server: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of measuring a peer.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It answered every request of every run.
    Measured {
        /// Its figures.
        #[serde(flatten)]
        figures: Figures,
        /// Ours divided by its, in CPU time a request.
        cpu_ratio: f64,
    },
    /// It did not start, or a request came to nothing: in this case it has no figures.
    Failed {
        /// The first reason.
        failed: String,
    },
}

/// All servers in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Connections x streams.
    pub case: &'static str,
    /// Ours.
    pub sluice: Figures,
    /// The others; quinn + h3 first.
    pub peers: Vec<PeerRow>,
    /// Bound of the first peer's ratio, where one is set.
    pub ratio_max: Option<f64>,
}

impl Row {
    /// Holds the ratio beside the first peer to its bound.
    ///
    /// # Errors
    /// When it is above, or the peer failed so that there is none.
    fn hold_to_bound(&self) -> anyhow::Result<()> {
        let (Some(max), Some(peer)) = (self.ratio_max, self.peers.first()) else { return Ok(()) };
        match &peer.outcome {
            Outcome::Measured { cpu_ratio, .. } if *cpu_ratio > max => {
                bail!("{}: ratio {cpu_ratio:.2} is above its bound", self.case)
            }
            Outcome::Measured { .. } => Ok(()),
            Outcome::Failed { failed } => {
                bail!("{}: no ratio to hold to its bound, {} failed: {failed}", self.case, peer.server)
            }
        }
    }
}

/// All cases.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What was measured, for the reader.
    pub about: String,
    /// Which servers there are, and which were not found.
    pub servers: Vec<String>,
    /// A row a case.
    pub rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        for server in &self.servers {
            writeln!(f, "  {server}")?;
        }
        writeln!(
            f,
            "{:<16} {:<10} {:>8} {:>10} {:>10} {:>10} {:>12} {:>8}",
            "case", "server", "CPU us", "req/s", "p50 us", "p99 us", "client busy", "ours/it"
        )?;
        for row in &self.rows {
            line(f, row.case, "sluice", &row.sluice, None)?;
            for PeerRow { server, outcome } in &row.peers {
                match outcome {
                    Outcome::Measured { figures, cpu_ratio } => {
                        line(f, "", server, figures, Some(*cpu_ratio))?;
                    }
                    Outcome::Failed { failed } => writeln!(f, "{:<16} {server:<10} failed: {failed}", "")?,
                }
            }
        }
        Ok(())
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    case: &str,
    server: &str,
    of: &Figures,
    ratio: Option<f64>,
) -> fmt::Result {
    let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    let busy = format!("{:.0} %", of.client_busy * 1e2);
    writeln!(
        f,
        "{case:<16} {server:<10} {:>8.2} {:>10.0} {:>10.0} {:>10.0} {busy:>12} {ratio:>8}",
        of.cpu_us, of.requests_per_s, of.p50_us, of.p99_us
    )
}

/// A server of the comparison.
enum Server {
    /// Ours, as a stack of this program.
    Sluice(&'static str),
    /// Another's, as a stack of this program.
    Stack(&'static str),
    External(External),
}

impl Server {
    fn name(&self) -> &'static str {
        match self {
            Self::Sluice(name) | Self::Stack(name) => name,
            Self::External(external) => external.kind.name(),
        }
    }

    fn start(&self) -> anyhow::Result<Peer> {
        match self {
            Self::Sluice(stack) | Self::Stack(stack) => Peer::start_own(stack, &[]),
            Self::External(external) => Peer::start_external(external),
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Sluice(_))
    }
}

/// The servers, ours first, and what to tell of them.
fn servers(args: &CompareArgs) -> anyhow::Result<(Vec<Server>, Vec<String>)> {
    let own = match args.io {
        IoChoice::Auto => "sluice",
        IoChoice::Uring => "sluice-uring",
        IoChoice::Epoll => "sluice-epoll",
    };
    let mut servers = vec![Server::Sluice(own), Server::Stack("quinn-h3")];
    let mut told = vec![
        format!("sluice: this build, I/O {}", args.io),
        "quinn-h3: quinn + h3 on tokio, current_thread; rustls and aws-lc-rs as they come".into(),
    ];
    if args.io != IoChoice::Epoll {
        servers.push(Server::Sluice("sluice-epoll"));
        told.push("sluice-epoll: this build, I/O epoll".into());
    }
    if args.only_own {
        return Ok((servers, told));
    }
    for kind in Kind::ALL {
        let given: Option<&Path> = match kind {
            Kind::Caddy => args.caddy.as_deref(),
            Kind::Nginx => args.nginx.as_deref(),
            Kind::H2o => args.h2o.as_deref(),
        };
        match External::find(kind, given)? {
            Ok(external) => {
                told.push(format!("{}: {}", kind.name(), external.version));
                servers.push(Server::External(external));
            }
            Err(reason) => told.push(reason),
        }
    }
    Ok((servers, told))
}

/// Runs the comparison.
pub fn run(command: &CompareCommand) -> anyhow::Result<()> {
    let args = match command {
        CompareCommand::H3(args) => args,
        CompareCommand::Headers(args) => return headers::run(args),
    };
    let cpus = std::thread::available_parallelism()?.get();
    if cpus < 2 {
        bail!("two CPUs are needed: one for the server, one for the load");
    }
    end_with_signals()?;
    let (servers, told) = servers(args)?;
    for line in &told {
        eprintln!("{line}");
    }
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| args.case.as_deref().is_none_or(|part| case.name.contains(part))) {
        rows.push(compare_case(case, &servers, args.runs, |server| measure(case, server, args))?);
    }
    let about = format!(
        "server CPU a request, one server thread on CPU 0, one client thread on CPU 1, 200-byte reply, \
         TLS 1.3, Sluice's I/O: {}, median of {} runs of {} s",
        args.io,
        args.runs.max(1),
        args.duration_s
    );
    let table = Table { about, servers: told, rows };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    // A peer that failed stands in the table: that is its affair, unless the gate needs it.
    if args.gate { table.rows.iter().try_for_each(Row::hold_to_bound) } else { Ok(()) }
}

/// Measures all servers in one case, in turns.
///
/// # Errors
/// When one of ours fails. A peer that does is not tried again in this case, and the rest goes on.
fn compare_case(
    case: &Case,
    servers: &[Server],
    runs: usize,
    mut measure: impl FnMut(&Server) -> anyhow::Result<Figures>,
) -> anyhow::Result<Row> {
    let runs = runs.max(1);
    let mut results: Vec<Result<Vec<Figures>, String>> = servers.iter().map(|_| Ok(Vec::new())).collect();
    // Runs alternate, so that a change of the machine's mood hits all.
    for run in 0..runs {
        eprintln!("{}: run {} of {runs}", case.name, run + 1);
        for (server, result) in servers.iter().zip(&mut results) {
            let Ok(figures) = result else { continue };
            match measure(server) {
                Ok(of_run) => figures.push(of_run),
                Err(error) if server.is_ours() => {
                    return Err(error.context(format!("{}, {}", server.name(), case.name)));
                }
                Err(error) => {
                    eprintln!("{}: {} failed: {error:#}", case.name, server.name());
                    *result = Err(format!("{error:#}"));
                }
            }
        }
    }
    let mut medians = results.into_iter().map(|result| result.map(median));
    let sluice = medians.next().and_then(Result::ok).context("ours is always there")?;
    let peers = servers.iter().skip(1).zip(medians).map(|(server, result)| PeerRow {
        server: server.name(),
        outcome: match result {
            Ok(figures) => Outcome::Measured { figures, cpu_ratio: sluice.cpu_us / figures.cpu_us },
            Err(failed) => Outcome::Failed { failed },
        },
    });
    Ok(Row { case: case.name, sluice, peers: peers.collect(), ratio_max: case.ratio_max })
}

fn measure(case: &Case, server: &Server, args: &CompareArgs) -> anyhow::Result<Figures> {
    let peer = server.start()?;
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
        let first = summary.first_error.unwrap_or_default();
        bail!("{} of {} requests failed; first: {first}", summary.errors, summary.errors + summary.requests);
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

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: Figures =
        Figures { cpu_us: 4.0, requests_per_s: 1e5, p50_us: 9.0, p99_us: 20.0, client_busy: 0.5 };
    const SERVERS: [Server; 3] =
        [Server::Sluice("sluice"), Server::Stack("quinn-h3"), Server::Sluice("sluice-epoll")];

    /// Three runs of the first case, in which `failing` answers only the first.
    fn compared(failing: &str) -> anyhow::Result<Row> {
        let mut asked = 0;
        compare_case(&CASES[0], &SERVERS, 3, |server| {
            asked += usize::from(server.name() == failing);
            match server.name() {
                name if name == failing && asked > 1 => {
                    assert_eq!(asked, 2, "tried again after it failed");
                    Err(anyhow::anyhow!("refused").context("7 of 9 requests failed"))
                }
                "quinn-h3" => Ok(Figures { cpu_us: 16.0, ..FIGURES }),
                _ => Ok(FIGURES),
            }
        })
    }

    #[test]
    fn a_peer_that_fails_is_told_of_and_the_others_are_measured() {
        let row = compared("quinn-h3").unwrap();
        let refused = row.hold_to_bound().unwrap_err().to_string();
        assert!(refused.contains("quinn-h3 failed: 7 of 9 requests failed: refused"), "{refused}");
        let table = Table { about: String::new(), servers: vec![], rows: vec![row] };
        let json = serde_json::to_value(&table).unwrap();
        let peers = &json["rows"][0]["peers"];
        let reason = "7 of 9 requests failed: refused";
        assert_eq!(peers[0], serde_json::json!({ "server": "quinn-h3", "failed": reason }));
        assert_eq!((&peers[1]["server"], &peers[1]["cpu_ratio"]), (&"sluice-epoll".into(), &1.0.into()));
        assert!(peers[1].get("failed").is_none());
        let printed = table.to_string();
        let of = |name: &str| printed.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        assert!(of("quinn-h3").ends_with(&format!("failed: {reason}")), "{printed}");
        assert!(of("sluice-epoll").trim_end().ends_with("1.00"), "{printed}");
    }

    #[test]
    fn a_server_of_ours_that_fails_ends_the_comparison() {
        for ours in ["sluice", "sluice-epoll"] {
            let error = format!("{:#}", compared(ours).unwrap_err());
            assert_eq!(error, format!("{ours}, 1x1: 7 of 9 requests failed: refused"));
        }
    }

    #[test]
    fn a_ratio_is_held_to_its_bound() {
        let mut row = compared("none").unwrap();
        row.hold_to_bound().unwrap();
        row.ratio_max = Some(0.2);
        assert_eq!(row.hold_to_bound().unwrap_err().to_string(), "1x1: ratio 0.25 is above its bound");
        row.ratio_max = None;
        row.hold_to_bound().unwrap();
    }
}
