//! `conprof run`: plan, start, watch, report.

use super::exit;
use super::options::{Format, Record, RunOptions};
use super::outputs::{self, Acceptance};
use super::pictures::{self, Perf};
use super::words::Words;
use crate::analyze::{Ending, Session};
use crate::cargo::{runner::Runner, tests};
use crate::gate::FailOn;
use crate::launch::{self, Observer, OutDir, Outcome, Planned, Program, RecordingOptions, Refusal, SuperviseOptions};
use crate::merge::{Relation, merge};
use crate::os::{self, Ended};
use crate::plan::Tactic;
use crate::report::place;
use crate::report::{DegradedCheck, Exit, Finding, Kind, Process, Report, SCHEMA, Verdict, text};
use crate::trace::{RECORDING, RUN_RECORD, Recording, RunRecord};
use crate::wire::recording::{
    CONFIG_CONTENTION, CONFIG_HALT_ON_ERROR, CONFIG_LOCKS, CONFIG_RACES, CONFIG_RECORD_FULL, CONFIG_REPORT_BENIGN,
};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often the lock order is looked at, at most.
const ORDERS_EVERY: Duration = Duration::from_millis(400);
/// How often waits are looked at, at most.
const WAITS_EVERY: Duration = Duration::from_millis(150);

/// Kinds of finding that this version looks for.
const IMPLEMENTED: [Kind; 4] = [Kind::DataRace, Kind::Deadlock, Kind::LostWakeup, Kind::LockOrderInversion];

/// Runs the subcommand and returns the exit status; does not return where the program died by a signal and nothing gates.
pub fn run(options: &RunOptions) -> anyhow::Result<i32> {
    let usage = |message: String| Refusal::new(exit::USAGE, message, "");
    let runner = crate::cargo::runner::detect_here(&options.command);
    if runner.lists {
        return Err(launch::replace(&options.command).into());
    }
    let quiet = options.quiet || options.session.is_some();
    let words = Words::new(options.log.as_deref(), quiet, options.verbose > 0)?.with_color(options.color);
    let fail_on = FailOn::parse(&options.fail_on).map_err(usage)?;
    let checks = Checks::parse(options.checks.as_deref())?;
    let acceptance =
        Acceptance::read((&options.suppressions, &options.suppress), options.baseline.as_deref(), fail_on, &words)?;
    let program = launch::resolve(&options.command, options.allow_unchecked)?;
    let session = options.session.as_ref().map(|folder| folder.join("runs"));
    let results = session.as_deref().or(runner.results.as_deref());
    let out = OutDir::prepare(options.out.as_deref(), results, &program.path)?;
    let planned = plan(&program, options, checks.tactic(), &words)?;
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
        let (outcome, report, said_early) = run.go()?;
        let found = report.findings.iter().any(|finding| finding.gating);
        reports.push(report);
        last = Some(outcome);
        said = said_early;
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
    let findings = outputs::findings_text(&report, &options.format, words.style);
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
fn repository(folder: &Path) -> Option<&Path> {
    let above = |name: &'static str| folder.ancestors().find(move |folder| folder.join(name).exists());
    above(".git").or_else(|| above("Cargo.lock"))
}

fn cannot_write(path: &Path) -> String {
    format!("`{}` can't be written", path.display())
}

/// What is to be checked.
struct Checks {
    kinds: Vec<Kind>,
    /// Named ones that this version can't do.
    impossible: Vec<Kind>,
    /// Waits are to be measured.
    contention: bool,
    /// The user named them.
    named: bool,
}

/// Name of the group of checks that measures waits.
const CONTENTION: &str = "contention";

impl Checks {
    fn parse(names: Option<&[String]>) -> Result<Checks, Refusal> {
        let all = |named| Checks { kinds: IMPLEMENTED.to_vec(), impossible: Vec::new(), contention: true, named };
        let Some(names) = names else { return Ok(all(false)) };
        if names.iter().any(|name| name == "all") {
            return Ok(all(true));
        }
        let contention = names.iter().any(|name| name.trim() == CONTENTION);
        // The group is asked for its pictures and its lock table.
        let others: Vec<&String> = names.iter().filter(|name| name.trim() != CONTENTION).collect();
        let others: Vec<&str> = others.iter().map(|name| name.as_str()).collect();
        let kinds = FailOn::parse(&others).map_err(|message| Refusal::new(exit::USAGE, message, ""))?.0;
        let (kinds, impossible) = kinds.into_iter().partition(|kind| IMPLEMENTED.contains(kind));
        Ok(Checks { kinds, impossible, contention, named: true })
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

fn kind_name(kind: Kind) -> String {
    crate::report::place::words(kind).name.to_string()
}

/// Scans and plans, with a bar on a terminal where it takes long enough to be seen.
fn plan(program: &Program, options: &RunOptions, tactic: Tactic, words: &Words) -> anyhow::Result<Option<Planned>> {
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
    let planned = launch::obtain_plan(image, &program.path, tactic, &progress);
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    match planned {
        Ok(planned) => {
            let from = if planned.cached { "from the cache" } else { "made" };
            words.detail(&format!("plan {from} in {:.0?}", start.elapsed()));
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
    for kind in &checks.impossible {
        let name = kind_name(*kind);
        degraded.push(DegradedCheck {
            reason: format!("this version of conprof can't check for {name}"),
            cure: format!("leave {name} out of --checks"),
            check: name,
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
            let mut names: Vec<String> =
                checks.kinds.iter().chain(&checks.impossible).map(|kind| kind_name(*kind)).collect();
            names.extend(checks.contention.then(|| CONTENTION.to_string()));
            names
        },
        store_source: !options.no_source,
    })
}

/// One of the runs of `--repeat`.
struct One<'a> {
    options: &'a RunOptions,
    program: &'a Program,
    planned: Option<&'a Planned>,
    record: &'a RunRecord,
    out: &'a OutDir,
    words: &'a Words,
    acceptance: &'a Acceptance,
    runner: &'a Runner,
    number: u32,
}

impl One<'_> {
    /// Starts the program, waits for its end, and gives its report and the findings said before the end, if any were.
    fn go(&self) -> anyhow::Result<(Outcome, Report, Option<String>)> {
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
        let mut watcher = Watcher {
            run: self,
            session: None,
            start: Instant::now(),
            pid: 0,
            seen: 0,
            orders: 0,
            orders_at: Instant::now(),
            waits: Waits::default(),
            announced: HashSet::new(),
            listed: None,
            said: None,
            perf: Perf::prepare(if self.is_one_of_many() { 0 } else { self.options.sample_rate }, self.words),
        };
        let options = SuperviseOptions {
            program: &self.program.path,
            arguments: &self.options.command,
            prepared,
            timeout: self.options.timeout,
        };
        let outcome = launch::supervise(options, &mut watcher).map_err(|error| self.not_executed(&error))?;
        watcher.poll();
        let exit = match outcome.ended {
            Ended::Code(code) => Exit::Code(code),
            Ended::Signal(signal) => Exit::Signal(signal),
        };
        let mut report = watcher.report(Some(exit), outcome.duration);
        watcher.pictures(&mut report, Some(exit), outcome.duration);
        if self.planned.is_some() {
            if self.is_one_of_many() && self.options.record == Record::Findings {
                // There may be thousands of processes; their reports are what is merged.
                let _ = std::fs::remove_file(&recording_path);
            } else {
                // Not every file system can give space back.
                let _ = launch::trim_recording(&recording_path);
            }
        }
        Ok((outcome, report, watcher.said))
    }

    /// Whether a test runner starts many such processes: then each is kept cheap, and pictures are for merges.
    fn is_one_of_many(&self) -> bool {
        self.runner.under_cargo || self.options.session.is_some()
    }

    fn recording_path(&self) -> PathBuf {
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
        if self.record.checks.iter().any(|check| check == CONTENTION) {
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

/// What is known of the waits of the program's threads.
#[derive(Debug, Default)]
struct Waits {
    /// Those seen at the latest poll.
    seen: Vec<(u32, u64)>,
    /// Those of the latest analysis, and when it was.
    analysed: Vec<(u32, u64)>,
    at: Option<Instant>,
    /// Analyses of the same waits so far.
    looks: u32,
    /// Since when every thread is stuck.
    stuck_since: Option<Instant>,
}

/// Looks at the recording while the program runs.
struct Watcher<'a> {
    run: &'a One<'a>,
    session: Option<Session>,
    start: Instant,
    pid: u32,
    /// Finding rows looked at.
    seen: u64,
    /// Rows of the lock-order log looked at, and when.
    orders: u64,
    orders_at: Instant,
    waits: Waits,
    announced: HashSet<String>,
    /// Tests of a libtest binary, once asked for.
    listed: Option<Vec<String>>,
    /// Text of the findings, where it was said before the end.
    said: Option<String>,
    perf: Perf,
}

impl Watcher<'_> {
    fn poll_findings(&mut self) {
        let Some(session) = &mut self.session else { return };
        let rows = session.finding_rows();
        if rows <= self.seen {
            return;
        }
        let Ok(findings) = session.findings(self.seen, rows) else { return };
        self.seen = rows;
        self.announce(findings, false);
    }

    fn poll_orders(&mut self) {
        let Some(session) = &mut self.session else { return };
        let rows = session.order_rows();
        if rows <= self.orders || self.orders_at.elapsed() < ORDERS_EVERY {
            return;
        }
        (self.orders, self.orders_at) = (rows, Instant::now());
        if let Ok(findings) = session.inversions() {
            self.announce(findings, false);
        }
    }

    /// Looks for threads that can never go on; whether the program hangs for so long that it is to be ended.
    fn poll_waits(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        let now = session.waiters();
        let lasting = !now.is_empty() && now.iter().any(|wait| self.waits.seen.contains(wait));
        self.waits.seen = now;
        // The same waits are looked at ever more rarely: what they mean changes only by what other threads do.
        let same = self.waits.analysed == self.waits.seen;
        let pause = WAITS_EVERY * if same { 1 << self.waits.looks.min(4) } else { 1 };
        if lasting && self.waits.at.is_none_or(|at| at.elapsed() >= pause) {
            self.waits.at = Some(Instant::now());
            self.waits.looks = if same { self.waits.looks + 1 } else { 0 };
            let before = std::mem::replace(&mut self.waits.analysed, self.waits.seen.clone());
            let tasks = launch::tasks(self.pid);
            if let Ok(waits) = session.look_at_waits(Some(&tasks), 0) {
                let since = self.waits.stuck_since.filter(|_| before == self.waits.analysed);
                self.waits.stuck_since = waits.may_be_ended.then(|| since.unwrap_or_else(Instant::now));
                self.announce(waits.findings, true);
            }
        }
        let limit = self.run.options.hang_after;
        !limit.is_zero() && self.waits.stuck_since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Says findings that were not said before, as a line or in full.
    fn announce(&mut self, findings: Vec<Finding>, in_full: bool) {
        let mut report = Report { findings, ..Report::default() };
        self.run.acceptance.apply(&mut report);
        report
            .findings
            .retain(|finding| !finding.suppressed && !finding.baseline && self.announced.insert(finding.id.clone()));
        if in_full && !report.findings.is_empty() {
            self.run.words.say(&text::findings(&report, self.run.words.style));
        } else {
            for finding in &report.findings {
                self.run.words.say(&format!("{}\n", text::live_line(finding)));
            }
        }
    }

    fn report(&mut self, exit: Option<Exit>, duration: Duration) -> Report {
        let ending = Ending { pid: self.pid, exit, duration };
        let mut report = match self.session.as_mut().map(|session| session.report(&ending)) {
            Some(Ok(report)) => report,
            Some(Err(error)) => {
                self.run.words.say(&format!("conprof: {error}\n"));
                self.without_recording(&ending, Verdict::InternalError)
            }
            None => self.without_recording(&ending, Verdict::Incomplete),
        };
        if !self.run.record.degraded.iter().all(|d| d.check == "races") && report.verdict == Verdict::Clean {
            report.verdict = Verdict::Incomplete;
        }
        if report.verdict == Verdict::Incomplete {
            report.counters.insert("incomplete".to_string(), 1);
        }
        self.name_tests(&mut report);
        if let Some(root) = repository(&self.run.record.directory) {
            place::localise(&mut report, &self.run.record.directory, root);
        }
        place::strip_path_prefix(&mut report, self.run.options.strip_path_prefix.as_deref().unwrap_or_default());
        self.run.acceptance.apply(&mut report);
        report
    }

    /// Puts the lock table into the report and writes the pictures; their failure does not take the findings along.
    fn pictures(&mut self, report: &mut Report, exit: Option<Exit>, duration: Duration) {
        let (collected, coverage) = std::mem::take(&mut self.perf).finish();
        report.coverage.perf = coverage;
        let Some(session) = &mut self.session else { return };
        let ending = Ending { pid: self.pid, exit, duration };
        let written = pictures::profile(session, &ending, collected.as_ref(), report).and_then(|profile| {
            pictures::fill(report, &profile);
            report.lock_order = session.lock_order()?;
            if self.run.is_one_of_many() {
                // A process of a test runner is kept cheap.
                return Ok(());
            }
            pictures::write(self.run.out, &profile, collected.is_some(), self.pid)
        });
        if let Err(error) = written {
            self.run.words.say(&format!("conprof: the pictures could not be made: {error:#}\n"));
        }
    }

    fn name_tests(&mut self, report: &mut Report) {
        let libtest = matches!(self.run.runner.tests, tests::TestContext::Libtest { .. }) && tests::is_libtest(report);
        if libtest && self.run.runner.under_cargo && self.listed.is_none() {
            self.listed = Some(tests::list(&self.run.program.path));
        }
        tests::attribute(report, &self.run.runner.tests, self.listed.as_deref().unwrap_or_default());
    }

    fn without_recording(&self, ending: &Ending, verdict: Verdict) -> Report {
        let record = self.run.record;
        Report {
            schema: SCHEMA,
            verdict,
            processes: vec![Process {
                program: record.program_as_given.clone(),
                pid: ending.pid,
                exit: ending.exit,
                duration_ns: u64::try_from(ending.duration.as_nanos()).unwrap_or(u64::MAX),
            }],
            coverage: crate::report::Coverage { degraded: record.degraded.clone(), ..Default::default() },
            command: record.command.clone(),
            conprof_version: record.conprof_version.clone(),
            ..Report::default()
        }
    }

    fn write_now(&mut self) -> Report {
        let report = self.report(None, self.start.elapsed());
        if let Err(error) =
            outputs::write(self.run.out, &report, &self.run.options.format, !self.run.runner.under_cargo)
        {
            self.run.words.say(&format!("conprof: {error:#}\n"));
        }
        report
    }
}

impl Observer for Watcher<'_> {
    fn started(&mut self, pid: u32) {
        self.pid = pid;
        self.perf.started(pid, &self.run.recording_path(), self.run.planned);
        if self.run.planned.is_some() {
            match Recording::open(&self.run.recording_path()) {
                Ok(recording) => self.session = Some(Session::new(recording, self.run.record.clone())),
                Err(error) => self.run.words.say(&format!("conprof: {error}\n")),
            }
        }
    }

    fn poll(&mut self) -> bool {
        self.poll_findings();
        self.poll_orders();
        self.poll_waits()
    }

    fn interrupted(&mut self) {
        self.poll();
        let report = self.write_now();
        let words = self.run.words;
        let findings = outputs::findings_text(&report, &self.run.options.format, words.style);
        words.say(&findings);
        words.say(&text::summary(&report, &self.run.out.file("report.json").display().to_string(), words.style));
        self.said = Some(findings);
    }

    fn timed_out(&mut self) {
        self.poll();
        self.write_now();
    }
}

impl std::fmt::Debug for Watcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("pid", &self.pid).field("seen", &self.seen).finish_non_exhaustive()
    }
}
