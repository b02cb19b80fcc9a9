//! `conprof merge DIR...`: one report of many, with the exit rules of a run, for test shards and repeated runs.

use super::exit;
use super::options::Format;
use super::outputs::{self, Acceptance};
use super::words::Words;
use crate::gate::FailOn;
use crate::launch::{OutDir, Refusal};
use crate::merge::{Relation, merge};
use crate::report::{Exit, Report, Verdict, store, text};
use clap::Args;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// How deep below a folder results are looked for.
const MAX_DEPTH: u32 = 4;

/// What decides about findings, as options of several subcommands.
#[derive(Clone, Debug, Args)]
pub struct JudgeOptions {
    /// Kinds of finding that make the exit status 66 [default: what the runs had]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub fail_on: Option<Vec<String>>,
    /// Exit status when a finding gates
    #[arg(long, value_name = "N", default_value_t = exit::FINDINGS, value_parser = clap::value_parser!(i32).range(0..=255))]
    pub exitcode: i32,
    /// Exit with 69 if a check that was asked for could not be done
    #[arg(long)]
    pub require_complete: bool,
    /// File of suppressions (may be given several times)
    #[arg(long, value_name = "FILE")]
    pub suppressions: Vec<PathBuf>,
    /// A suppression, as a line of such a file (may be given several times)
    #[arg(long, value_name = "LINE")]
    pub suppress: Vec<String>,
    /// Baseline or earlier report.json whose findings do not gate
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Also write DIR/report.<format>; `text`, `tsan` and `github` choose what stderr shows
    #[arg(long, value_name = "FORMAT", value_enum, value_delimiter = ',', default_value = "text")]
    pub format: Vec<Format>,
    /// Say nothing; the exit status and DIR tell
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `conprof merge`.
#[derive(Debug, Args)]
pub struct MergeOptions {
    /// Folders of runs, folders that hold such folders, or report.json files
    #[arg(required = true)]
    pub dirs: Vec<PathBuf>,
    /// Put the merged result into DIR [default: a new folder below conprof-out]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The runs are the same thing repeated: each finding says in how many it was seen
    #[arg(long)]
    pub repeats: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub judge: JudgeOptions,
}

/// Runs the subcommand and returns the exit status.
pub fn run(options: &MergeOptions) -> anyhow::Result<i32> {
    let mut files = Vec::new();
    for dir in &options.dirs {
        let before = files.len();
        collect(dir, MAX_DEPTH, &mut files);
        if files.len() == before {
            let reason = format!("`{}` holds no report.json", dir.display());
            return Err(Refusal::new(exit::USAGE, reason, "name folders that `conprof run` wrote").into());
        }
    }
    let mut reports = Vec::new();
    for file in files {
        reports.push(store::load(&file).map_err(|error| Refusal::new(exit::USAGE, format!("{error:#}"), ""))?);
    }
    let relation = if options.repeats { Relation::Repeats } else { Relation::Parts };
    let out = OutDir::prepare(options.out.as_deref(), None, Path::new("merged"))?;
    let report = finish(merge(reports, relation), &options.judge, &out)?;
    Ok(status(&report, &options.judge, None))
}

/// The report files in `dir`, in order of names; what lies below a folder of a run is part of that run.
pub(super) fn collect(dir: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    let own = dir.join(store::REPORT_FILE);
    if dir.is_file() {
        files.push(dir.to_owned());
    } else if own.is_file() {
        files.push(own);
    } else if depth > 0 {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        // A link such as `latest` would count a run twice.
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            collect(&folder, depth - 1, files);
        }
    }
}

/// Judges a merged report, writes it, and says what it says.
pub(super) fn finish(mut report: Report, judge: &JudgeOptions, out: &OutDir) -> anyhow::Result<Report> {
    let words = Words::new(None, judge.quiet, 0)?;
    let accepts = !judge.suppressions.is_empty() || !judge.suppress.is_empty() || judge.baseline.is_some();
    if judge.fail_on.is_some() || accepts {
        let fail_on = match &judge.fail_on {
            Some(names) => FailOn::parse(names).map_err(|why| Refusal::new(exit::USAGE, why, ""))?,
            None => FailOn::default(),
        };
        let files = (&judge.suppressions[..], &judge.suppress[..]);
        Acceptance::read(files, judge.baseline.as_deref(), fail_on, &words)?.apply(&mut report);
    }
    outputs::write(out, &report, &judge.format, true)?;
    if judge.format.contains(&Format::Github) {
        outputs::add_step_summary(&report);
    }
    words.say(&text::degraded(&report, words.style));
    words.say(&outputs::findings_text(&report, &judge.format, &HashSet::new(), words.style));
    words.say(&text::summary(&report, &out.file(store::REPORT_FILE).display().to_string(), words.style));
    Ok(report)
}

/// The exit status: 66, 69, the status of what ran them, or of the first process that failed.
pub(super) fn status(report: &Report, judge: &JudgeOptions, of_runner: Option<i32>) -> i32 {
    if report.findings.iter().any(|finding| finding.gating) {
        return judge.exitcode;
    }
    if judge.require_complete && report.verdict == Verdict::Incomplete {
        return exit::INCOMPLETE;
    }
    let failed = report.processes.iter().find_map(|process| match process.exit {
        Some(Exit::Code(0)) | None => None,
        Some(Exit::Code(code)) => Some(code),
        Some(Exit::Signal(signal)) => Some(128 + signal),
    });
    of_runner.or(failed).unwrap_or(0)
}
