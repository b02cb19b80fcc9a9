//! `conprof run`: plan, start, watch, report.

use super::exit;
use super::options::{Format, Record, RunOptions};
use super::outputs::{self, Acceptance};
use super::pictures;
use super::watch::Watcher;
use super::words::Words;
use crate::analyze::Thresholds;
use crate::cargo::runner::Runner;
use crate::gate::FailOn;
use crate::launch::{
    self, LockRows, Observer as _, OutDir, Outcome, Planned, Program, RecordingOptions, Refusal, SuperviseOptions,
};
use crate::merge::{Relation, merge};
use crate::os::{self, Ended};
use crate::plan::Tactic;
use crate::report::{DegradedCheck, Exit, Kind, Report, place, text};
use crate::trace::{RECORDING, RUN_RECORD, RunRecord};
use crate::wire::recording::{
    CONFIG_CONTENTION, CONFIG_HALT_ON_ERROR, CONFIG_LOCKS, CONFIG_RACES, CONFIG_RECORD_FULL, CONFIG_REPORT_BENIGN,
};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Runs the subcommand and returns the exit status; does not return where the program died by a signal and nothing gates.
pub fn run(options: &RunOptions) -> anyhow::Result<i32> {
    let usage = |message: String| Refusal::new(exit::USAGE, message, "");
    let runner = crate::cargo::runner::detect_here(&options.command);
    if runner.lists {
        return Err(launch::replace(&options.command).into());
    }
    let quiet = options.quiet || options.session.is_some();
    let words = Words::new(options.log.as_deref(), quiet, options.verbose)?.with_color(options.color);
    let fail_on = FailOn::parse(&options.fail_on).map_err(usage)?;
    let checks = Checks::parse(options.checks.as_deref())?;
    let acceptance =
        Acceptance::read((&options.suppressions, &options.suppress), options.baseline.as_deref(), fail_on, &words)?;
    let program = launch::resolve(&options.command, options.allow_unchecked)?;
    let session = options.session.as_ref().map(|folder| folder.join("runs"));
    let results = session.as_deref().or(runner.results.as_deref());
    let out = OutDir::prepare(options.out.as_deref(), results, &program.path)?;
    let mut rows = LockRows::default();
    for row in &options.lock_row {
        rows.add(row).map_err(|error| usage(format!("--lock-row `{row}`: {}", error.reason)))?;
    }
    let planned = plan(&program, options, checks.tactic(), &rows, &words)?;
    let record = run_record(options, &program, planned.as_ref(), &checks)?;
    out.write(RUN_RECORD, &record.to_json()).with_context(|| cannot_write(out.path()))?;
    if !record.degraded.is_empty() {
        let first = Report {
            coverage: crate::report::Coverage { degraded: record.degraded.clone(), ..Default::default() },
            ..Default::default()
        };
        words.say(&text::degraded(&first, words.style));
    }

    let mut reports = Vec::new();
    let mut last = None;
    let mut said = None;
    let mut told = HashSet::new();
    for number in 1..=options.repeat {
        let run = One {
            options,
            program: &program,
            planned: planned.as_ref(),
            record: &record,
            out: &out,
            words: &words,
            acceptance: &acceptance,
            runner: &runner,
            number,
        };
        let (outcome, report, said_early, told_early) = run.go()?;
        let found = report.findings.iter().any(|finding| finding.gating);
        reports.push(report);
        last = Some(outcome);
        said = said_early;
        told.extend(told_early);
        if found && options.until_finding {
            break;
        }
    }
    let Some(outcome) = last else { return Ok(exit::INTERNAL) };
    let mut report = merge(reports, Relation::Repeats);
    acceptance.apply(&mut report);
    outputs::write(&out, &report, &options.format, !runner.under_cargo)?;
    if options.format.contains(&Format::Github) {
        outputs::add_step_summary(&report);
    }
    let findings = outputs::findings_text(&report, &options.format, &told, words.style);
    let mut late = report.clone();
    late.coverage.degraded.retain(|check| !record.degraded.contains(check));
    words.say(&text::degraded(&late, words.style));
    if said.as_ref() != Some(&findings) {
        words.say(&findings);
    }
    words.say(&pictures::table(&report));
    words.say(&text::summary(&report, &out.file("report.json").display().to_string(), words.style));
    Ok(status(options, &report, &outcome, checks.named))
}

/// The exit status; dies by the program's signal where that is what a parent must see.
fn status(options: &RunOptions, report: &Report, outcome: &Outcome, checks_named: bool) -> i32 {
    // What gates a session is decided when its results are merged.
    if report.findings.iter().any(|finding| finding.gating) && options.session.is_none() {
        return options.exitcode;
    }
    let incomplete = report.counters.get("incomplete").is_some_and(|n| *n > 0);
    if incomplete && (options.require_complete || checks_named) {
        return exit::INCOMPLETE;
    }
    if outcome.timed_out {
        return exit::TIMEOUT;
    }
    match outcome.ended {
        Ended::Code(code) => code,
        Ended::Signal(signal) => os::die_by(signal),
    }
}

/// The root of the repository that `folder` lies in, or of the workspace where there is no repository.
pub(super) fn repository(folder: &Path) -> Option<&Path> {
    let above = |name: &'static str| folder.ancestors().find(move |folder| folder.join(name).exists());
    above(".git").or_else(|| above("Cargo.lock"))
}

fn cannot_write(path: &Path) -> String {
    format!("`{}` can't be written", path.display())
}

/// What is to be checked.
struct Checks {
    kinds: Vec<Kind>,
    /// Waits are to be measured.
    contention: bool,
    /// The user named them.
    named: bool,
}

/// Name of the group of checks that measures waits.
const CONTENTION: &str = "contention";

impl Checks {
    fn parse(names: Option<&[String]>) -> Result<Checks, Refusal> {
        let named = names.is_some();
        let all = ["all".to_owned()];
        let names = names.unwrap_or(&all);
        let has = |wanted: &str| names.iter().any(|name| name.trim() == wanted);
        let mut kinds = FailOn::parse(names).map_err(|message| Refusal::new(exit::USAGE, message, ""))?.0;
        if kinds.contains(&Kind::DataRace) && !has(&kind_name(Kind::HotLock)) {
            // Checking races makes holds and waits longer: what looks hot then may not be.
            kinds.retain(|kind| *kind != Kind::HotLock);
        }
        Ok(Checks { kinds, contention: has(CONTENTION) || has("all"), named })
    }
}

impl Checks {
    /// Without races, only locks need to be watched, and the rest of the program runs as it is.
    fn tactic(&self) -> Tactic {
        if self.kinds.contains(&Kind::DataRace) { Tactic::Races } else { Tactic::Locks }
    }
}

/// Checks that need locks to be followed.
const LOCK_CHECKS: [&str; 3] = ["deadlock", "lost-wakeup", "lock-order-inversion"];
/// Checks that need waits to be measured.
const WAIT_CHECKS: [&str; 7] = [
    CONTENTION,
    "starvation",
    "livelock",
    "lock-held-across-blocking-call",
    "blocking-in-async",
    "lock-misuse",
    "hot-lock",
];

fn kind_name(kind: Kind) -> String {
    place::words(kind).name.to_string()
}

/// Scans and plans, with a bar on a terminal where it takes long enough to be seen.
fn plan(
    program: &Program,
    options: &RunOptions,
    tactic: Tactic,
    rows: &LockRows,
    words: &Words,
) -> anyhow::Result<Option<Planned>> {
    const LARGE: usize = 2 << 20;
    let Some(image) = program.image.as_deref().filter(|_| program.unchecked.is_none()) else { return Ok(None) };
    let start = Instant::now();
    let bar: OnceLock<ProgressBar> = OnceLock::new();
    let draw = words.may_draw() && image.len() > LARGE;
    let progress = |done: u64, total: u64| {
        if draw {
            let bar = bar.get_or_init(|| {
                let style = ProgressStyle::with_template("conprof: scanning {bar:30} {percent:>3}%");
                ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let planned = launch::obtain_plan(image, &program.path, tactic, rows, &progress);
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    match planned {
        Ok(planned) => {
            let from = if planned.cached { "from the cache" } else { "made" };
            tracing::info!("plan {from} in {:.0?}", start.elapsed());
            Ok(Some(planned))
        }
        Err(error) if options.allow_unchecked => {
            words.say(&format!("conprof: not checked: {error:#}\n"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn run_record(
    options: &RunOptions,
    program: &Program,
    planned: Option<&Planned>,
    checks: &Checks,
) -> anyhow::Result<RunRecord> {
    let about = planned.map(|planned| planned.about.clone()).unwrap_or_default();
    let mut degraded = about.degraded;
    if let Some(refusal) = &program.unchecked {
        degraded.push(DegradedCheck {
            check: "races".into(),
            reason: refusal.reason.clone(),
            cure: refusal.cure.clone(),
        });
    } else if planned.is_none() {
        degraded.push(DegradedCheck {
            check: "races".into(),
            reason: "the program could not be scanned".into(),
            cure: "see the reason above".into(),
        });
    }
    let command = options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Ok(RunRecord {
        conprof_version: env!("CARGO_PKG_VERSION").to_string(),
        program: std::fs::canonicalize(&program.path).unwrap_or_else(|_| program.path.clone()),
        program_as_given: program.path.display().to_string(),
        command: (!options.redact_args).then_some(command),
        directory: std::env::current_dir().context("the current folder is gone")?,
        coverage: about.coverage,
        degraded,
        plan_flags: about.flags,
        fail_on: options.fail_on.clone(),
        checks: {
            let mut names: Vec<String> = checks.kinds.iter().map(|kind| kind_name(*kind)).collect();
            names.extend(checks.contention.then(|| CONTENTION.to_string()));
            names
        },
        store_source: !options.no_source,
        thresholds: thresholds(options),
    })
}

fn thresholds(options: &RunOptions) -> Thresholds {
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Thresholds {
        blocking_ns: ns(options.blocking_after),
        poll_ns: ns(options.poll_after),
        starvation_ns: ns(options.starvation_after),
        livelock_ns: ns(options.livelock_after),
        hot_lock_percent: options.hot_lock_share,
    }
}

/// One of the runs of `--repeat`.
pub(super) struct One<'a> {
    pub(super) options: &'a RunOptions,
    pub(super) program: &'a Program,
    pub(super) planned: Option<&'a Planned>,
    pub(super) record: &'a RunRecord,
    pub(super) out: &'a OutDir,
    pub(super) words: &'a Words,
    pub(super) acceptance: &'a Acceptance,
    pub(super) runner: &'a Runner,
    number: u32,
}

impl One<'_> {
    /// Starts the program, waits for its end, and gives its report, the text of the findings where it was said before the end, and
    /// the findings that were told in full when they were found.
    fn go(&self) -> anyhow::Result<(Outcome, Report, Option<String>, HashSet<String>)> {
        let recording_path = self.recording_path();
        let prepared = match self.planned {
            Some(planned) => {
                let recording = launch::create_recording(&recording_path, &self.recording_options(planned))
                    .map_err(|error| self.no_recording(&error))?;
                launch::prepare(planned.plan.as_ref(), Some(recording))
            }
            None => launch::prepare(None, None),
        }
        .context("conprof's runtime can't be handed to the program")?;
        let mut watcher = Watcher::new(self);
        let options = SuperviseOptions {
            program: &self.program.path,
            arguments: &self.options.command,
            prepared,
            timeout: self.options.timeout,
        };
        tracing::debug!("recording: {}", recording_path.display());
        let outcome = launch::supervise(options, &mut watcher).map_err(|error| self.not_executed(&error))?;
        watcher.poll();
        let exit = match outcome.ended {
            Ended::Code(code) => Exit::Code(code),
            Ended::Signal(signal) => Exit::Signal(signal),
        };
        tracing::info!("the program ended after {:.3?}: {:?}", outcome.duration, outcome.ended);
        let start = Instant::now();
        let mut report = watcher.report(Some(exit), outcome.duration);
        tracing::info!("report made in {:.0?}", start.elapsed());
        let start = Instant::now();
        watcher.pictures(&mut report, Some(exit), outcome.duration);
        tracing::debug!("waits added up in {:.0?}", start.elapsed());
        if self.planned.is_some() {
            if self.is_one_of_many() && self.options.record == Record::Findings {
                // There may be thousands of processes; their reports are what is merged.
                let _ = std::fs::remove_file(&recording_path);
            } else {
                // Not every file system can give space back.
                let _ = launch::trim_recording(&recording_path);
            }
        }
        Ok((outcome, report, watcher.said, watcher.told))
    }

    /// Whether a test runner starts many such processes: then each is kept cheap, and pictures are for merges.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.runner.under_cargo || self.options.session.is_some()
    }

    /// Makes paths those that a person would write.
    pub(super) fn localise(&self, report: &mut Report) {
        if let Some(root) = repository(&self.record.directory) {
            place::localise(report, &self.record.directory, root);
        }
        place::strip_path_prefix(report, self.options.strip_path_prefix.as_deref().unwrap_or_default());
    }

    pub(super) fn recording_path(&self) -> PathBuf {
        match self.number {
            1 => self.out.file(RECORDING),
            number => self.out.file(&format!("{RECORDING}-{number}")),
        }
    }

    fn recording_options(&self, planned: &Planned) -> RecordingOptions {
        let mut config = 0;
        if self.record.checks.iter().any(|check| check == "data-race") {
            config |= CONFIG_RACES;
        }
        if self.record.checks.iter().any(|check| LOCK_CHECKS.contains(&check.as_str())) {
            config |= CONFIG_LOCKS;
        }
        if self.record.checks.iter().any(|check| WAIT_CHECKS.contains(&check.as_str())) {
            // Waits are measured where locks have owners.
            config |= CONFIG_CONTENTION | CONFIG_LOCKS;
        }
        if self.options.record == Record::Full {
            config |= CONFIG_RECORD_FULL;
        }
        if self.options.halt_on_error {
            config |= CONFIG_HALT_ON_ERROR;
        }
        if self.options.report_benign {
            config |= CONFIG_REPORT_BENIGN;
        }
        RecordingOptions {
            config,
            max_bytes: self.options.max_recording,
            nodes: self.options.history,
            sites: planned.sites(),
        }
    }

    fn no_recording(&self, error: &std::io::Error) -> Refusal {
        Refusal::new(
            exit::USAGE,
            format!("the recording can't be made in `{}`: {error}", self.out.path().display()),
            "free some disk space, give --out a folder on another disk, or lower --max-recording; the program was not started",
        )
    }

    fn not_executed(&self, error: &std::io::Error) -> Refusal {
        let name = self.program.path.display();
        match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::new(
                exit::NOT_FOUND,
                format!("`{name}` can't be executed: its loader is missing"),
                "build it for this system",
            ),
            _ => Refusal::new(
                exit::NOT_EXECUTABLE,
                format!("`{name}` can't be executed: {error}"),
                "run it without conprof to see whether that works",
            ),
        }
    }
}
