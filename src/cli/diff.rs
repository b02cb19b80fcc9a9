//! `conprof diff DIR1 DIR2`: which locks got better or worse, and a differential flame graph.

use super::exit;
use crate::launch::Refusal;
use crate::profile::Folded;
use crate::profile::diff::{compare, render};
use crate::report::Report;
use crate::report::flamegraph::{differential_lines, differential_svg};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Options of `conprof diff`.
#[derive(Debug, clap::Args)]
pub struct DiffOptions {
    /// Folder of the earlier run
    pub before: PathBuf,
    /// Folder of the later run
    pub after: PathBuf,
    /// Compare time per second of run instead of total time: for runs of different length
    #[arg(long)]
    pub per_second: bool,
    /// Write the differential flame graph to FILE, its stacks beside it [default: diff.svg in the later run's folder]
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

fn read(dir: &Path) -> anyhow::Result<(Report, Folded)> {
    let usage = |message: String, cure: &str| Refusal::new(exit::USAGE, message, cure);
    let path = dir.join("report.json");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        usage(format!("`{}` can't be read: {error}", path.display()), "give the folder of a `conprof run`")
    })?;
    let report = serde_json::from_str(&text).map_err(|error| {
        usage(format!("`{}` is no report: {error}", path.display()), "give the folder of a `conprof run`")
    })?;
    let folded = std::fs::read_to_string(dir.join("contention.folded")).unwrap_or_default();
    Ok((report, Folded::from_text(&folded)))
}

/// Runs the subcommand.
pub fn run(options: &DiffOptions) -> anyhow::Result<i32> {
    let (before, before_stacks) = read(&options.before)?;
    let (after, after_stacks) = read(&options.after)?;
    let duration = |report: &Report| report.processes.first().map_or(0, |process| process.duration_ns);
    let scale = match (duration(&before), duration(&after)) {
        (b, a) if options.per_second && b > 0 && a > 0 => a as f64 / b as f64,
        _ => 1.0,
    };
    print!("{}", render(&compare(&before.locks, &after.locks, scale)));
    let svg = options.svg.clone().unwrap_or_else(|| options.after.join("diff.svg"));
    let title = format!("Waiting for locks: {} against {}", options.after.display(), options.before.display());
    let picture = differential_svg(&before_stacks, &after_stacks, &title)?;
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("`{}` can't be written", path.display()))
    };
    write(&svg, &picture)?;
    let lines = differential_lines(&before_stacks, &after_stacks).join("\n") + "\n";
    write(&svg.with_extension("folded"), lines.as_bytes())?;
    println!("differential flame graph: {}", svg.display());
    Ok(0)
}
