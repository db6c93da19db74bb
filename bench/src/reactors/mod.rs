//! `sluice-bench reactors`: our reactor, monoio, glommio and tokio (current_thread) on the same work.
//!
//! What counts is the CPU time of the thread under test for one unit of work, from the kernel's accounting of
//! that thread: it does not depend on how fast the other side is. Throughput and latency stand beside it.
//! The thread under test runs on CPU 0, whatever drives it on CPU 1; runs of the runtimes alternate, so that a
//! change of the machine's mood hits all of them, and the median counts.
//!
//! Each runtime's module has one function for each kind of work, all of the same shape, written as one would
//! write for that runtime. What a runtime cannot do says so in the table.

mod glommio;
mod monoio;
mod ours;
mod peer;
mod table;
mod tokio;
mod wake;
mod work;

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use sluice_core::IoChoice;

pub use table::{Cell, Figures, Row, Table};
pub use work::{PLACES_NONE, Places};

/// Options of `reactors`.
#[derive(Debug, Clone, Args)]
pub struct ReactorsArgs {
    /// Seconds measured in each case
    #[arg(long, default_value_t = 2.0)]
    pub duration_s: f64,
    /// Runs of each case; the median counts
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Only the rows whose name contains this
    #[arg(long)]
    pub row: Option<String>,
    /// Only the runtimes whose name contains this; ours by uring always stays, since ratios refer to it
    #[arg(long)]
    pub runtime: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Who is measured, in the order of the table's columns. The first is what ratios refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Our reactor on io_uring.
    SluiceUring,
    /// Our reactor on epoll.
    SluiceEpoll,
    /// tokio, current_thread.
    Tokio,
    /// monoio on io_uring.
    Monoio,
    /// glommio.
    Glommio,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::SluiceUring, Self::SluiceEpoll, Self::Tokio, Self::Monoio, Self::Glommio];

    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SluiceUring => "sluice-uring",
            Self::SluiceEpoll => "sluice-epoll",
            Self::Tokio => "tokio",
            Self::Monoio => "monoio",
            Self::Glommio => "glommio",
        }
    }
}

/// The kinds of work, a row each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Single datagrams of 1,200 bytes sent back, 64 in flight.
    EchoPlain,
    /// Trains of 16 such datagrams, sent and received as one by GSO and GRO, 4 in flight.
    EchoTrains,
    /// 100,000 timers set at once; half of them cancelled, the others fire over 300 ms.
    Timers,
    /// One message to another core and its answer, one at a time.
    PingPong,
    /// Three cores send, one receives, as fast as bounded queues of 1,024 let them.
    FanIn,
    /// A plain thread wakes a task of a runtime that sleeps.
    ForeignWake,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::EchoPlain, Self::EchoTrains, Self::Timers, Self::PingPong, Self::FanIn, Self::ForeignWake];

    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EchoPlain => "udp-echo",
            Self::EchoTrains => "udp-echo-gso",
            Self::Timers => "timers-100k",
            Self::PingPong => "ping-pong",
            Self::FanIn => "fan-in-3",
            Self::ForeignWake => "foreign-wake",
        }
    }

    /// What CPU time is given for.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::EchoPlain | Self::EchoTrains => "datagram",
            Self::Timers => "timer",
            Self::PingPong => "round trip, both cores",
            Self::FanIn => "message, receiver",
            Self::ForeignWake => "wake",
        }
    }

    /// What latency is measured from and to.
    pub const fn latency(self) -> Option<&'static str> {
        match self {
            Self::EchoPlain | Self::EchoTrains | Self::FanIn => None,
            Self::Timers => Some("lateness"),
            Self::PingPong => Some("round trip"),
            Self::ForeignWake => Some("wake to poll"),
        }
    }
}

/// One runtime does one kind of work for about `duration`.
///
/// # Errors
/// When the runtime cannot do it on this machine, or at all; the message says why.
pub fn measure(runtime: Runtime, work: Work, duration: Duration, places: Places) -> anyhow::Result<Figures> {
    match work {
        Work::EchoPlain => peer::measure_echo(runtime, 1, duration, places),
        Work::EchoTrains => peer::measure_echo(runtime, work::TRAIN_LEN, duration, places),
        Work::Timers => {
            let timers: fn(_, _) -> _ = match runtime {
                Runtime::SluiceUring => |places, duration| ours::timers(IoChoice::Uring, places, duration),
                Runtime::SluiceEpoll => |places, duration| ours::timers(IoChoice::Epoll, places, duration),
                Runtime::Tokio => tokio::timers,
                Runtime::Monoio => monoio::timers,
                Runtime::Glommio => glommio::timers,
            };
            work::measure_timers(timers, duration, places)
        }
        Work::PingPong => match runtime {
            Runtime::SluiceUring => ours::ping_pong(IoChoice::Uring, duration, places),
            Runtime::SluiceEpoll => ours::ping_pong(IoChoice::Epoll, duration, places),
            Runtime::Tokio => tokio::ping_pong(duration, places),
            Runtime::Monoio => monoio::ping_pong(duration, places),
            Runtime::Glommio => glommio::ping_pong(duration, places),
        },
        Work::FanIn => match runtime {
            Runtime::SluiceUring => ours::fan_in(IoChoice::Uring, duration, places),
            Runtime::SluiceEpoll => ours::fan_in(IoChoice::Epoll, duration, places),
            Runtime::Tokio => tokio::fan_in(duration, places),
            Runtime::Monoio => monoio::fan_in(duration, places),
            Runtime::Glommio => glommio::fan_in(duration, places),
        },
        Work::ForeignWake => {
            let block_on: fn(_, _) -> _ = match runtime {
                Runtime::SluiceUring => |places, task| ours::block_on_wait(IoChoice::Uring, places, task),
                Runtime::SluiceEpoll => |places, task| ours::block_on_wait(IoChoice::Epoll, places, task),
                Runtime::Tokio => tokio::block_on_wait,
                Runtime::Monoio => monoio::block_on_wait,
                Runtime::Glommio => glommio::block_on_wait,
            };
            wake::measure(block_on, duration, places)
        }
    }
}

/// Runs the matrix and prints it.
///
/// # Errors
/// When the machine has one CPU, or our own reactor cannot do some work.
pub fn run(args: &ReactorsArgs) -> anyhow::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two CPUs are needed: one for the reactor, one for what drives it");
    }
    let duration = Duration::try_from_secs_f64(args.duration_s)?;
    let runs = args.runs.max(1);
    let mut rows = Vec::new();
    for work in Work::ALL.into_iter().filter(|work| matches(args.row.as_deref(), work.name())) {
        let runtimes: Vec<_> = Runtime::ALL
            .into_iter()
            .filter(|&runtime| runtime == Runtime::ALL[0] || matches(args.runtime.as_deref(), runtime.name()))
            .collect();
        let mut results: Vec<Vec<anyhow::Result<Figures>>> = runtimes.iter().map(|_| vec![]).collect();
        for run in 1..=runs {
            eprintln!("{}: run {run} of {runs}", work.name());
            for (runtime, results) in runtimes.iter().zip(&mut results) {
                // What failed once says why; it need not say it again.
                if results.iter().all(Result::is_ok) {
                    results.push(measure(*runtime, work, duration, Places::PINNED));
                }
            }
        }
        rows.push(Row::new(work, runtimes.into_iter().zip(results)));
    }
    let about = format!(
        "CPU time of the thread under test (CPU 0) for a unit of work; what drives it runs on CPU 1; median of \
         {runs} runs of {} s; ratio: sluice-uring divided by the other, below 1 ours is cheaper",
        args.duration_s
    );
    let table = Table { about, rows };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    match table.rows.iter().flat_map(|row| &row.cells).find_map(|cell| match &cell.result {
        Err(reason) if cell.runtime.starts_with("sluice") => Some(reason),
        _ => None,
    }) {
        Some(reason) => bail!("our own reactor failed: {reason}"),
        None => Ok(()),
    }
}

fn matches(part: Option<&str>, name: &str) -> bool {
    part.is_none_or(|part| name.contains(part))
}
