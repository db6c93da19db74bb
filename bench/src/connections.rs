//! `sluice-bench connections`: what idle connections cost the server.
//!
//! The server is a process of its own on CPU 0, and its resident memory is what
//! counts, everything included. One client thread on CPU 1 opens the connections,
//! a thousand from each loopback address, makes requests on each and keeps them
//! open without a word.

use std::cell::Cell;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use sluice_core::{CoreId, Reactor, ReactorConfig, sleep, spawn};
use sluice_net::client::{Client, ClientConnection};
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use crate::compare::Peer;
use crate::cpu::{process_time, resident_bytes};

/// Longer than the measurement takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Connections from one address: far fewer than a server would see from one
/// client behind a translator, and 100,000 need a hundred addresses.
const PER_ADDRESS: usize = 1_000;
/// Handshakes under way at once.
const WORKERS: usize = 64;
/// How long acknowledgements and probes of the path may take to settle.
const SETTLE: Duration = Duration::from_secs(3);

/// Options of `sluice-bench connections`.
#[derive(Debug, Clone, Args)]
pub struct ConnectionsArgs {
    /// Connections, 1 to 200000
    #[arg(long, default_value_t = 100_000)]
    pub count: usize,
    /// Requests made on each before it idles
    #[arg(long, default_value_t = 1)]
    pub requests: usize,
    /// Seconds over which the idle server's CPU time is measured
    #[arg(long, default_value_t = 5.0)]
    pub idle_s: f64,
    /// Exit with an error when a connection takes more bytes than this
    #[arg(long)]
    pub bytes_max: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ConnectionsReport {
    /// Connections held open.
    pub connections: usize,
    /// Requests made on each.
    pub requests: usize,
    /// The server's resident memory before the first, in bytes.
    pub resident_before_bytes: u64,
    /// And with all of them idle.
    pub resident_after_bytes: u64,
    /// The difference for each connection, in bytes.
    pub bytes_per_connection: f64,
    /// Connections opened a second, request included.
    pub opened_per_s: f64,
    /// Share of a CPU that the server used with all of them idle.
    pub idle_cpu: f64,
}

impl fmt::Display for ConnectionsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} idle connections, {} request(s) made on each", self.connections, self.requests)?;
        writeln!(
            f,
            "server memory  {:.1} MB before, {:.1} MB after: {:.0} bytes a connection",
            self.resident_before_bytes as f64 / 1e6,
            self.resident_after_bytes as f64 / 1e6,
            self.bytes_per_connection
        )?;
        writeln!(f, "opened         {:.0} a second", self.opened_per_s)?;
        writeln!(f, "idle           {:.2} % of a CPU", self.idle_cpu * 100.0)
    }
}

/// Runs the measurement.
pub fn run(args: &ConnectionsArgs) -> anyhow::Result<()> {
    if !(1..=200_000).contains(&args.count) {
        bail!("--count is 1 to 200000");
    }
    let idle_s = IDLE_TIMEOUT.as_secs().to_string();
    let peer = Peer::start_own("sluice", &["--idle-timeout-s", &idle_s])?;
    let (remote, pid, args_inside) = (peer.address, peer.pid(), args.clone());
    let cpus = std::thread::available_parallelism()?.get();
    let cpu = (cpus > 1).then_some(1);
    let reactor = Reactor::new(ReactorConfig { cpu, ..ReactorConfig::new(CoreId::new(0)) })?;
    let report = reactor.block_on(async move { measure(&args_inside, remote, pid).await })??;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    match args.bytes_max {
        Some(max) if report.bytes_per_connection > max => {
            bail!("{:.0} bytes a connection; at most {max} were allowed", report.bytes_per_connection)
        }
        _ => Ok(()),
    }
}

async fn measure(args: &ConnectionsArgs, remote: SocketAddr, pid: u32) -> anyhow::Result<ConnectionsReport> {
    let clients = clients(args.count)?;
    // What the server has anyway, such as its buffers, is there after a first one.
    drop(open(&clients[0], remote, 1).await?);
    let resident_before_bytes = resident_bytes(pid)?;
    let began = Instant::now();
    let next = Rc::new(Cell::new(0));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (clients, next) = (Rc::clone(&clients), Rc::clone(&next));
            let (count, requests) = (args.count, args.requests);
            spawn(async move {
                let mut opened = Vec::new();
                while next.get() < count {
                    let number = next.replace(next.get() + 1);
                    opened.push(open(&clients[number / PER_ADDRESS], remote, requests).await?);
                }
                anyhow::Ok(opened)
            })
        })
        .collect();
    let mut connections = Vec::with_capacity(args.count);
    for worker in workers {
        connections.extend(worker.await?);
    }
    let opened_per_s = args.count as f64 / began.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    let (busy_before, idle_since) = (process_time(pid)?, Instant::now());
    sleep(Duration::try_from_secs_f64(args.idle_s).context("--idle-s is no time")?).await;
    let idle_cpu = (process_time(pid)? - busy_before).as_secs_f64() / idle_since.elapsed().as_secs_f64();
    let resident_after_bytes = resident_bytes(pid)?;
    if let Some(gone) = connections.iter().position(|connection| connection.stats().is_none()) {
        bail!("connection {gone} was lost before its time");
    }
    let more = resident_after_bytes.saturating_sub(resident_before_bytes);
    Ok(ConnectionsReport {
        connections: connections.len(),
        requests: args.requests,
        resident_before_bytes,
        resident_after_bytes,
        bytes_per_connection: more as f64 / args.count as f64,
        opened_per_s,
        idle_cpu,
    })
}

/// A client for each thousand connections, each with a loopback address.
fn clients(count: usize) -> anyhow::Result<Rc<[Client]>> {
    let tls = client_crypto(Trust::AnyServer)?;
    let mut clients = Vec::new();
    for n in 0..count.div_ceil(PER_ADDRESS) {
        let local = Ipv4Addr::new(127, 0, 8, u8::try_from(n + 1)?);
        clients.push(Client::start_from(tls.clone(), (local, 0).into(), IDLE_TIMEOUT)?);
    }
    Ok(clients.into())
}

async fn open(client: &Client, remote: SocketAddr, requests: usize) -> anyhow::Result<ClientConnection> {
    let connection = client.connect(remote, "localhost", None).await?;
    let head = RequestHead::build("GET", "/", "localhost");
    for _ in 0..requests {
        let answer = connection.request(&head, Bytes::new()).await?;
        if answer.head.status() != 200 {
            bail!("answered {}", answer.head.status());
        }
    }
    Ok(connection)
}
