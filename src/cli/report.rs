//! `conprof report DIR`: renders again what a run found.
//!
//! A finished run's report.json says everything. While the program runs, and where conprof was killed, the
//! recording is analysed instead, as far as the program's file is still there.

use super::exit;
use super::options::Format;
use super::outputs::{self, Acceptance};
use super::words::Words;
use crate::analyze::{Ending, Session};
use crate::gate::FailOn;
use crate::launch::Refusal;
use crate::report::text::Style;
use crate::report::{Report, json};
use crate::trace::{RECORDING, Recording, RunRecord};
use clap::Args;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `conprof report`.
#[derive(Debug, Args)]
pub struct ReportOptions {
    /// Folder of the run, such as conprof-out/latest
    pub dir: PathBuf,
    /// How to render
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub format: Format,
    /// File of suppressions (may be given several times)
    #[arg(long, value_name = "FILE")]
    pub suppressions: Vec<PathBuf>,
    /// Earlier report.json whose findings do not gate
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Show every frame and counter
    #[arg(short, long)]
    pub verbose: bool,
}

/// Runs the subcommand and returns the exit status.
pub fn run(options: &ReportOptions) -> anyhow::Result<i32> {
    let words = Words::new(None, false, u8::from(options.verbose))?;
    let mut report = load(&options.dir, &words)?;
    if !options.suppressions.is_empty() || options.baseline.is_some() {
        let fail_on =
            RunRecord::read(&options.dir).ok().and_then(|run| FailOn::parse(&run.fail_on).ok()).unwrap_or_default();
        Acceptance::read((&options.suppressions, &[]), options.baseline.as_deref(), fail_on, &words)?
            .apply(&mut report);
    }
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = outputs::whole(
        &report,
        options.format,
        &options.dir.display().to_string(),
        Style { color, everything: options.verbose },
    );
    if options.format == Format::Github {
        outputs::add_step_summary(&report);
    }
    outputs::print(&text)
}

fn load(dir: &Path, words: &Words) -> anyhow::Result<Report> {
    let stored = match std::fs::read_to_string(dir.join("report.json")) {
        Ok(text) => Some(json::parse(&text).map_err(|why| Refusal::new(exit::USAGE, why, "run it again"))?),
        Err(_) => None,
    };
    let finished = stored.as_ref().is_some_and(|report| report.processes.iter().all(|process| process.exit.is_some()));
    if finished && let Some(report) = stored {
        return Ok(report);
    }
    match (from_recording(dir), stored) {
        (Ok(report), _) => Ok(report),
        (Err(why), Some(report)) => {
            words.say(&format!("conprof: showing the last report that was written: {why:#}\n"));
            Ok(report)
        }
        (Err(why), None) => Err(Refusal::new(
            exit::USAGE,
            format!("`{}` holds no report: {why:#}", dir.display()),
            "name the folder of a run, such as conprof-out/latest",
        )
        .into()),
    }
}

fn from_recording(dir: &Path) -> anyhow::Result<Report> {
    let run = RunRecord::read(dir)?;
    let recording = Recording::open(&dir.join(RECORDING))?;
    let fail_on = FailOn::parse(&run.fail_on).unwrap_or_default();
    let pid = recording.header()?.pid;
    let running = RunRecord::is_running(dir);
    let started = std::fs::metadata(dir.join(crate::trace::RUN_RECORD)).and_then(|m| m.modified()).ok();
    let duration = started.filter(|_| running).and_then(|at| at.elapsed().ok()).unwrap_or(Duration::ZERO);
    let mut report = Session::new(recording, run).report(&Ending { pid, exit: None, duration })?;
    if report.verdict == crate::report::Verdict::Incomplete {
        report.counters.insert("incomplete".to_string(), 1);
    }
    Acceptance::for_kinds(fail_on).apply(&mut report);
    Ok(report)
}
