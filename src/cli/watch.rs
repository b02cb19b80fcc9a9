//! Looks at the recording while the program runs: says what is found, sees hangs, and makes the report.

use super::outputs;
use super::pictures::{self, Perf};
use super::run::One;
use crate::analyze::{Ending, Session};
use crate::cargo::tests;
use crate::launch::{self, Observer};
use crate::report::{Exit, Finding, Process, Report, SCHEMA, Verdict, text};
use crate::trace::Recording;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often the lock order is looked at, at most.
const ORDERS_EVERY: Duration = Duration::from_millis(400);
/// How often waits are looked at, at most.
const WAITS_EVERY: Duration = Duration::from_millis(150);

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
pub(super) struct Watcher<'a> {
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
    /// Of these, the ones told in full.
    pub(super) told: HashSet<String>,
    /// Tests of a libtest binary, once asked for.
    listed: Option<Vec<String>>,
    /// Text of the findings, where it was said before the end.
    pub(super) said: Option<String>,
    perf: Perf,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(run: &'a One<'a>) -> Watcher<'a> {
        let rate_hz = if run.is_one_of_many() { 0 } else { run.options.sample_rate };
        Watcher {
            run,
            session: None,
            start: Instant::now(),
            pid: 0,
            seen: 0,
            orders: 0,
            orders_at: Instant::now(),
            waits: Waits::default(),
            announced: HashSet::new(),
            told: HashSet::new(),
            listed: None,
            said: None,
            perf: Perf::prepare(rate_hz, run.words),
        }
    }

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
                tracing::debug!("looked at {} waits; stuck for good: {}", self.waits.seen.len(), waits.may_be_ended);
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
            self.told.extend(report.findings.into_iter().map(|finding| finding.id));
        } else {
            for finding in &report.findings {
                self.run.words.say(&format!("{}\n", text::live_line(finding)));
            }
        }
    }

    pub(super) fn report(&mut self, exit: Option<Exit>, duration: Duration) -> Report {
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
        self.run.localise(&mut report);
        self.run.acceptance.apply(&mut report);
        report
    }

    /// Puts the lock table into the report and writes the pictures; their failure does not take the findings along.
    pub(super) fn pictures(&mut self, report: &mut Report, exit: Option<Exit>, duration: Duration) {
        let (collected, coverage) = std::mem::take(&mut self.perf).finish();
        report.coverage.perf = coverage;
        let Some(session) = &mut self.session else { return };
        let ending = Ending { pid: self.pid, exit, duration };
        let written = pictures::profile(session, &ending, collected.as_ref(), report).and_then(|profile| {
            pictures::fill(report, &profile);
            let mut late = Report { findings: session.long_polls(&profile)?, ..Report::default() };
            late.findings.extend(session.hot_locks(&profile)?);
            self.run.localise(&mut late);
            report.findings.extend(late.findings);
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
        tracing::info!("the program runs as process {pid}");
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
        let findings = outputs::findings_text(&report, &self.run.options.format, &self.told, words.style);
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
