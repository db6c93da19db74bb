//! `sluice-bench`: the command line of the harness and of the simulator.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use sluice_bench::sim;

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sim(args) => sim::run(*args),
    }
}
