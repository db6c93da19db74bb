//! `sluice-bench`: the command line of the harness and of the simulator.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice_bench::{
    compare, connections, handshakes, intents, limiter, load, mix, reactors, refresh, report, sim,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load harness, upstream simulator and comparisons for Sluice.
#[derive(Debug, Parser)]
#[command(name = "sluice-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Simulate OpenAI and Google (tokens, Gmail, Calendar, Drive) on one port.
    Sim(Box<sim::SimArgs>),
    /// Load a server over HTTP/3, HTTP/2 or HTTP/1.1, by the clock or as fast as it answers.
    Load(Box<load::LoadOptions>),
    /// Measure the standard mix on a gateway and a simulator of our own, without and with upstream calls.
    Mix(mix::MixArgs),
    /// Measure a gateway whose users' access tokens end at about the same time.
    Refresh(refresh::RefreshArgs),
    /// Show a result of `load` again, as a table, page or percentile file.
    LoadShow(report::ShowArgs),
    /// Compare two results of `load`; exit code 1 when a gate broke, 2 when they cannot be compared.
    LoadDiff(report::diff::DiffArgs),
    /// Measure new, resumed and 0-RTT connections, beside quinn + h3.
    Handshakes(handshakes::HandshakesArgs),
    /// Compare Sluice with its peers on this machine.
    #[command(subcommand)]
    Compare(compare::CompareCommand),
    /// Measure what idle connections cost the server, in memory and CPU time.
    Connections(connections::ConnectionsArgs),
    /// Measure our reactor beside monoio, glommio and tokio on the same work.
    Reactors(reactors::ReactorsArgs),
    /// Measure the local parser of commands on annotated ones.
    Intents(intents::IntentsArgs),
    /// Measure what the limits on requests cost, and how exact they are on many cores.
    Limiter(limiter::LimiterArgs),
    /// Serve a fixed reply; what `compare` starts.
    #[command(hide = true)]
    ServeReply(compare::ServeArgs),
    /// Serve a fixed reply over any version of HTTP; what `load` starts.
    #[command(hide = true)]
    ServeLoad(load::ServeLoadArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Sim(args) => sim::run(*args),
        Command::Load(args) => load::run(*args),
        Command::Mix(args) => mix::run(&args),
        Command::Refresh(args) => refresh::run(&args),
        Command::LoadShow(args) => report::show(&args),
        Command::LoadDiff(args) => return Ok(report::diff::run(&args)),
        Command::Handshakes(args) => handshakes::run(&args),
        Command::Compare(command) => compare::run(&command),
        Command::Connections(args) => connections::run(&args),
        Command::Reactors(args) => reactors::run(&args),
        Command::Intents(args) => intents::run(&args),
        Command::Limiter(args) => limiter::run(&args),
        Command::ServeReply(args) => compare::serve(&args),
        Command::ServeLoad(args) => load::serve(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}
