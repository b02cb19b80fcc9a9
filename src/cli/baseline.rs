//! `conprof baseline DIR > FILE`: today's findings, so that only new ones gate.

use super::exit;
use super::outputs::print;
use crate::baseline::Baseline;
use crate::launch::Refusal;
use crate::report::store;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `conprof baseline`.
#[derive(Debug, Args)]
pub struct BaselineOptions {
    /// Folder of the run, or a report.json
    pub dir: PathBuf,
}

/// Runs the subcommand and returns the exit status.
pub fn run(options: &BaselineOptions) -> anyhow::Result<i32> {
    let report = store::load(&options.dir).map_err(|error| Refusal::new(exit::USAGE, format!("{error:#}"), ""))?;
    print(&Baseline::of(&report).to_text())
}
