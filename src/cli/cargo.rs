//! `cargo conprof run|test|bench|nextest ...`: builds with debuginfo, runs everything under conprof, merges.

use super::exit;
use super::merge::{self, JudgeOptions};
use crate::cargo::Invocation;
use crate::cargo::runner::RESULTS_FOLDER;
use crate::launch::{OutDir, Refusal};
use crate::merge::{Relation, merge as merge_reports};
use crate::report::store;
use anyhow::Context as _;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo conprof`.
#[derive(Debug, Args)]
pub struct CargoOptions {
    /// Put the merged result into DIR [default: a new folder below target/conprof, linked as target/conprof/latest]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Options for each `conprof run`, separated by blanks, such as `--checks=races --history=4M`
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub run_options: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub judge: JudgeOptions,
    /// run, test, bench or nextest, with cargo's own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "SUBCOMMAND [ARGS]")]
    pub command: Vec<OsString>,
}

/// Runs the subcommand and returns the exit status.
pub fn run(options: &CargoOptions) -> anyhow::Result<i32> {
    let usage = |why: String| Refusal::new(exit::USAGE, why, "see `cargo conprof --help`");
    let invocation = Invocation::parse(&options.command).map_err(usage)?;
    let target = match invocation.target_option() {
        Some(folder) => std::path::absolute(folder)?,
        None => target_folder(&invocation)?,
    };
    let root = target.join(RESULTS_FOLDER);
    let out = OutDir::prepare(options.out.as_deref(), Some(&root), Path::new(&invocation.subcommand))?;
    let folder = std::fs::canonicalize(out.path()).context("the folder of results is gone")?;
    let myself = std::env::current_exe().context("conprof's own path is unknown")?;
    let mut runner = vec![text(&myself)?, "run".to_owned(), "--session".to_owned(), text(&folder)?];
    runner.extend(options.run_options.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned));
    runner.push("--".to_owned());
    let plan = invocation.plan(&target, &runner, &|name| std::env::var_os(name)).map_err(usage)?;
    let status = Command::new(cargo())
        .args(&plan.arguments)
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .status()
        .map_err(|error| Refusal::new(exit::NOT_FOUND, format!("cargo can't be started: {error}"), "install it"))?;
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));

    let mut files = Vec::new();
    merge::collect(&folder.join("runs"), 1, &mut files);
    if files.is_empty() {
        // Nothing was run: cargo has said why.
        return Ok(status);
    }
    let mut reports = Vec::new();
    for file in files {
        match store::load(&file) {
            Ok(report) => reports.push(report),
            Err(error) => eprintln!("conprof: {error:#}"),
        }
    }
    let report = merge::finish(merge_reports(reports, Relation::Parts), &options.judge, &out)?;
    Ok(merge::status(&report, &options.judge, Some(status)))
}

/// The cargo that called, or the one in the path.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn text(path: &Path) -> Result<String, Refusal> {
    let words = path.to_str().map(str::to_owned);
    words.ok_or_else(|| Refusal::new(exit::USAGE, format!("`{}` is no text", path.display()), "rename it"))
}

/// Cargo's target folder for the workspace that the invocation is about.
fn target_folder(invocation: &Invocation) -> anyhow::Result<PathBuf> {
    let output = Command::new(cargo())
        .args(invocation.metadata_arguments())
        .output()
        .map_err(|error| Refusal::new(exit::NOT_FOUND, format!("cargo can't be started: {error}"), "install it"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Refusal::new(exit::USAGE, why, "").into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(folder))
}
