//! `sluice-bench handshakes`: what a connection costs that is new, resumed, or
//! speaks at once (0-RTT): from connecting to the first answer, and in the
//! server's CPU time. Beside it quinn + h3 with the same TLS settings.
//!
//! Each server is a process of its own with one thread on CPU 0; the client is
//! one thread on CPU 1, on Sluice's own client. Latency comes from one connection
//! at a time, the rate and the CPU time from several. CPU time a connection
//! covers all of it: handshake, one request with a 200-byte answer, close.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_core::{CoreId, Reactor, ReactorConfig, spawn};
use sluice_net::client::{Client, ClientError, ConnectOptions};
use sluice_net::tls::{Trust, client_crypto};
use sluice_protocols::http::RequestHead;

use crate::compare::{Peer, end_with_signals};
use crate::cpu::process_time;

const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const SERVER_NAME: &str = "localhost";
/// Connections before anything is measured: they warm both sides up and leave the first sessions.
const WARMUP_CONNECTIONS: usize = 50;
/// How often, and how long each time, a connection is kept for the session that it may still bring.
const SESSION_WAITS_MAX: u32 = 100;
const SESSION_WAIT: Duration = Duration::from_micros(500);

/// Options of `handshakes`.
#[derive(Debug, Clone, Args)]
pub struct HandshakesArgs {
    /// Seconds measured for each figure
    #[arg(long, default_value_t = 2.0)]
    pub duration_s: f64,
    /// Connections at once while the rate is measured
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Only Sluice, without quinn + h3
    #[arg(long)]
    pub alone: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// With certificate and signature.
    Full,
    /// With an earlier session.
    Resumed,
    /// With an earlier session, and the request in the first flight.
    Early,
}

impl Way {
    const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Early];

    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Early => "0-RTT",
        }
    }

    fn options(self) -> ConnectOptions {
        let (resume, early_data) = (self != Self::Full, self == Self::Early);
        ConnectOptions { resume, early_data, ..ConnectOptions::default() }
    }
}

/// What one server needs for connections of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which server.
    pub server: &'static str,
    /// Which kind of connections.
    pub way: Way,
    /// Connections a second, several at once.
    pub connections_per_s: f64,
    /// Server CPU time a connection, in microseconds.
    pub cpu_us: f64,
    /// Median from connecting to the first answer, one at a time, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
    /// Share of the connections that went the way they were meant to.
    pub as_meant: f64,
}

/// All rows.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What was measured, for the reader.
    pub about: String,
    /// A row for each server and kind.
    pub rows: Vec<Row>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        writeln!(f, "server     kind      conn/s   server us    p50 us    p99 us  as meant")?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<10} {:<8} {:>7.0} {:>11.1} {:>9} {:>9} {:>8.1} %",
                row.server,
                row.way.name(),
                row.connections_per_s,
                row.cpu_us,
                row.p50_us,
                row.p99_us,
                row.as_meant * 100.0
            )?;
        }
        Ok(())
    }
}

/// Runs the bench.
pub fn run(args: &HandshakesArgs) -> anyhow::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two CPUs are needed: one for the server, one for the client");
    }
    end_with_signals()?;
    let stacks: &[&'static str] = if args.alone { &["sluice"] } else { &["sluice", "quinn-h3"] };
    let mut rows = Vec::new();
    for stack in stacks {
        for way in Way::ALL {
            eprintln!("{stack}: {}", way.name());
            rows.push(measure(stack, way, args)?);
        }
    }
    let about = format!(
        "connect, GET, 200-byte answer, close; one server thread on CPU 0, one client thread on CPU 1; {} s for each \
         figure; latency one at a time, rate and CPU {} at once",
        args.duration_s, args.connections
    );
    let table = Table { about, rows };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}

fn measure(server: &'static str, way: Way, args: &HandshakesArgs) -> anyhow::Result<Row> {
    let early: &[&str] = if way == Way::Early { &["--early-data"] } else { &[] };
    let peer = Peer::start_own(server, early)?;
    let (address, pid) = (peer.address, peer.pid());
    let (duration, connections) = (Duration::from_secs_f64(args.duration_s), args.connections.max(1));
    let reactor = Reactor::new(ReactorConfig { cpu: Some(1), ..ReactorConfig::new(CoreId::new(0)) })?;
    let (alone, together, cpu) = reactor.block_on(async move {
        let client = Client::start(client_crypto(Trust::AnyServer)?, address, IDLE_TIMEOUT)?;
        let warmup = Caller::new(client, address, way.options());
        for _ in 0..WARMUP_CONNECTIONS {
            warmup.visit().await?;
        }
        let alone = warmup.again().run(1, duration).await?;
        let before = process_time(pid)?;
        let together = warmup.again().run(connections, duration).await?;
        anyhow::Ok((alone, together, process_time(pid)?.saturating_sub(before)))
    })??;
    let count = together.latency.len();
    if alone.latency.is_empty() || count == 0 {
        bail!("{server}: no connection was finished in time");
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of a short run")]
    let (count, total) = (count as f64, (count + alone.latency.len()) as f64);
    #[allow(clippy::cast_precision_loss, reason = "counts of a short run")]
    let as_meant = (alone.as_meant(way) + together.as_meant(way)) as f64 / total;
    Ok(Row {
        server,
        way,
        connections_per_s: count / together.took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
        p50_us: alone.latency.value_at_quantile(0.5),
        p99_us: alone.latency.value_at_quantile(0.99),
        as_meant,
    })
}

/// What came of a run.
struct Outcome {
    latency: Histogram<u64>,
    full: u64,
    resumed: u64,
    early: u64,
    took: Duration,
}

impl Outcome {
    fn new() -> Self {
        let latency = Histogram::new(3).expect("three digits are allowed");
        Self { latency, full: 0, resumed: 0, early: 0, took: Duration::ZERO }
    }

    fn as_meant(&self, way: Way) -> u64 {
        match way {
            Way::Full => self.full,
            Way::Resumed => self.resumed,
            Way::Early => self.early,
        }
    }
}

struct Caller {
    client: Client,
    address: SocketAddr,
    options: ConnectOptions,
    head: RequestHead,
    outcome: RefCell<Outcome>,
}

impl Caller {
    fn new(client: Client, address: SocketAddr, options: ConnectOptions) -> Self {
        let head = RequestHead::build("GET", "/", SERVER_NAME);
        Self { client, address, options, head, outcome: RefCell::new(Outcome::new()) }
    }

    /// The same, with nothing counted yet.
    fn again(&self) -> Rc<Self> {
        Rc::new(Self::new(self.client.clone(), self.address, self.options))
    }

    async fn run(self: Rc<Self>, connections: usize, duration: Duration) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let caller = Rc::clone(&self);
                spawn(async move {
                    while began.elapsed() < duration {
                        caller.visit().await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        Ok(Outcome { took: began.elapsed(), ..self.outcome.replace(Outcome::new()) })
    }

    /// One connection with one request.
    async fn visit(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let connection = self.client.connect_with(self.address, SERVER_NAME, &self.options).await?;
        let answer = match connection.request(&self.head, Bytes::new()).await {
            // What a client has to do then is part of the latency.
            Err(ClientError::EarlyDataRejected) => connection.request(&self.head, Bytes::new()).await?,
            answer => answer?,
        };
        let latency = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if answer.head.status() != 200 {
            bail!("status {}", answer.head.status());
        }
        connection.established().await?;
        // A session for the next connection comes with the server's last word on the handshake, which in 0-RTT is
        // later than the answer. Waiting for it is no part of the latency.
        for _ in 0..SESSION_WAITS_MAX {
            if connection.stats().is_none_or(|stats| stats.frame_rx.handshake_done > 0) {
                break;
            }
            sluice_core::sleep(SESSION_WAIT).await;
        }
        let mut outcome = self.outcome.borrow_mut();
        outcome.latency.saturating_record(latency);
        let is_resumed = connection.was_resumed().unwrap_or(false);
        outcome.full += u64::from(!is_resumed);
        outcome.resumed += u64::from(is_resumed);
        outcome.early += u64::from(connection.early_data_accepted().unwrap_or(false));
        Ok(())
    }
}
