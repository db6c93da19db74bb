//! `sluice-bench load`: load from a client that is cheap and honest about itself.
//!
//! In an open loop requests start by the clock whatever the server does, and latency
//! counts from the *intended* start, so that a server that stalls is charged for the
//! requests that had to wait (no coordinated omission). In a closed loop a set number
//! of requests is always under way, and the server sets the pace.
//!
//! How it is put together: [`args`] and the scenario file make a [`plan`]; a
//! [`profile`] is one or several trials; [`control`] runs a trial on threads, each with
//! an [`engine`] over a [`transport`] (HTTP/3 on our reactor, HTTP/2 and HTTP/1.1 by
//! hyper); [`record`]s are put together to a [`result`].
//!
//! Invariants:
//! - Every start that the schedule called for is completed, failed or dropped, and
//!   counted as one of them.
//! - When the client was the limit, the result says so, and how it is known.

mod args;
mod assemble;
mod control;
mod engine;
mod fixed;
mod h3;
pub mod machine;
pub(crate) mod observe;
mod plan;
mod pool;
mod profile;
mod record;
pub mod result;
mod rng;
mod runtime;
mod scenario;
mod schedule;
mod server;
mod tcp;
mod threshold;
mod timing;
mod transport;
mod users;

use anyhow::{Context, bail};

pub use self::args::{LoadOptions, RunOptions, Span};
pub use self::fixed::{LoadArgs, Summary, run_load};
pub use self::plan::{Protocol, Target};
use self::result::LoadResult;
use self::server::OwnServer;
pub use self::server::{ServeLoadArgs, serve};
use crate::report;

/// Runs the command; an error when a threshold did not hold, or nothing was answered.
pub fn run(options: LoadOptions) -> anyhow::Result<()> {
    let result = measure(options.clone())?;
    options.outputs.write(&result)?;
    print!("{}", report::table(&result));
    if let Some(failed) = result.thresholds.iter().find(|threshold| !threshold.passed) {
        let value = failed.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
        bail!("the threshold {} did not hold: {value}", failed.expression);
    }
    let totals = &result.totals;
    if totals.completed == 0 && totals.intended > 0 {
        let first = totals.first_error.as_deref().unwrap_or("every start was dropped");
        bail!("no request was answered; first: {first}");
    }
    // Without a threshold on them, errors are an error.
    let is_judged = result.thresholds.iter().any(|threshold| threshold.expression.contains("errors"));
    if totals.errors > 0 && !is_judged {
        let first = totals.first_error.as_deref().unwrap_or_default();
        bail!("{} requests failed; first: {first}", totals.errors);
    }
    Ok(())
}

/// Runs what the options ask for.
pub fn measure(options: LoadOptions) -> anyhow::Result<LoadResult> {
    let (options, file) = options.with_file()?;
    let own = if options.wants_own_server() {
        let program = std::env::current_exe().context("cannot find this program")?;
        let protocol = options.run.http.unwrap_or(Protocol::H3);
        // A client bound to another CPU leaves CPU 0 to the server.
        let cpu = options.run.cpu.filter(|cpu| *cpu > 0).map(|_| 0);
        Some(OwnServer::start(&program, protocol, cpu)?)
    } else {
        None
    };
    let settings =
        options.settle(file.as_deref(), own.as_ref().map(|server| (server.url.as_str(), server.pid())))?;
    let before = settings.metrics.as_deref().map(observe::fetch).transpose()?;
    let started_at = jiff::Timestamp::now().to_string();
    let combined = profile::run(&settings)?;
    let after = settings.metrics.as_deref().map(observe::fetch).transpose()?;
    let stalls = before.zip(after).map(|(before, after)| observe::stalls(before, after));
    let command = args::command_line(std::env::args());
    Ok(assemble::result(&settings, combined, started_at, command, stalls))
}
