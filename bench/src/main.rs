//! `sluice-bench`: the command line of the harness and of the simulator.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use sluice_bench::{compare, load, sim};

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
    /// Load a server over HTTP/3, in a closed loop or at a constant rate.
    Load(Box<load::LoadArgs>),
    /// Compare Sluice with its peers on this machine.
    #[command(subcommand)]
    Compare(compare::CompareCommand),
    /// Serve a fixed reply; what `compare` starts.
    #[command(hide = true)]
    ServeReply(compare::ServeArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim(args) => sim::run(*args),
        Command::Load(args) => load::run(&args),
        Command::Compare(command) => compare::run(&command),
        Command::ServeReply(args) => compare::serve(&args),
    }
}
