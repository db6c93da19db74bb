//! What a load run's result looks like to people and to other programs: a table on
//! the terminal, the percentile file that HdrHistogram plotters read, one HTML page,
//! and the comparison of two results.
//!
//! Invariants:
//! - Everything is made from a [`LoadResult`] alone, so a kept file can be shown again.
//! - The page needs nothing but itself: no script, no font, no address is loaded.
//! - Names from the run are escaped wherever they go.

mod chart;
pub mod diff;
pub(crate) mod format;
pub mod hgrm;
mod html;
mod table;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::load::result::LoadResult;

pub use html::page;
pub use table::table;

/// Files to write a result to; also options of the commands that write them.
#[derive(Debug, Clone, Default, Args)]
pub struct Outputs {
    /// Write the whole result to this file (JSON)
    #[arg(long = "json", value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the corrected latency's percentiles to this file, for HdrHistogram plotters
    #[arg(long = "hgrm", value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write a page with charts to this file
    #[arg(long = "html", value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Outputs {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, result: &LoadResult) -> anyhow::Result<()> {
        let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
            None => Ok(()),
            Some(path) => {
                std::fs::write(path, text()).with_context(|| format!("cannot write {}", path.display()))
            }
        };
        write(&self.json, &|| result.to_json())?;
        write(&self.hgrm, &|| hgrm::write(&result.latency.corrected))?;
        write(&self.html, &|| page(result))
    }
}

/// Options of `sluice-bench load-show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// Result file of `sluice-bench load`
    pub file: PathBuf,
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Shows a result file again.
///
/// # Errors
/// When it cannot be read or the outputs cannot be written.
pub fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let result = LoadResult::from_json(&text).with_context(|| args.file.display().to_string())?;
    args.outputs.write(&result)?;
    print!("{}", table(&result));
    Ok(())
}

#[cfg(test)]
mod tests;
