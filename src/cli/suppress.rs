//! `conprof suppress DIR ID`: writes the line that suppresses a finding.

use super::exit;
use super::outputs::print;
use crate::launch::Refusal;
use crate::report::store;
use crate::suppress::{line_for, wider_lines};
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;

/// Arguments of `conprof suppress`.
#[derive(Debug, Args)]
pub struct SuppressOptions {
    /// Folder of the run, or a report.json
    pub dir: PathBuf,
    /// The finding's id, or the beginning of it; all open findings without it
    pub id: Option<String>,
    /// Why it is accepted, for those who read the file later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Append to FILE instead of writing to stdout
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Runs the subcommand and returns the exit status.
pub fn run(options: &SuppressOptions) -> anyhow::Result<i32> {
    let usage = |error: anyhow::Error| Refusal::new(exit::USAGE, format!("{error:#}"), "");
    let report = store::load(&options.dir).map_err(usage)?;
    let findings = match &options.id {
        Some(id) => vec![store::find(&report, id).map_err(usage)?],
        None => report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline).collect(),
    };
    let reason = options.reason.as_deref();
    let lines: String = findings.iter().map(|finding| line_for(finding, reason) + "\n").collect();
    let Some(path) = &options.file else {
        let wider: String = match findings.as_slice() {
            [finding] => wider_lines(finding).iter().map(|line| format!("{line}\n")).collect(),
            _ => String::new(),
        };
        return print(&(lines + &wider));
    };
    let write = || std::fs::File::options().create(true).append(true).open(path)?.write_all(lines.as_bytes());
    write()
        .map_err(|error| Refusal::new(exit::USAGE, format!("`{}` can't be written: {error}", path.display()), ""))?;
    let (count, path) = (findings.len(), path.display());
    eprintln!("conprof: {count} added to {path}; `conprof run --suppressions {path} ...` reads it");
    Ok(0)
}
