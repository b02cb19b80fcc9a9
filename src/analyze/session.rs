//! A recording under analysis, once or again and again while the program runs.

use super::locks::Describe as _;
use super::locks::hot::hot_locks;
use super::locks::recorded::{Names, Recorded, Task};
use super::locks::tasks::long_polls;
use super::race::{self, RunFacts};
use super::sides::Context;
use crate::profile::Profile;
use crate::report::place;
use crate::report::{
    Coverage, DegradedCheck, Exit, Finding, Kind, LockRef, ModuleCoverage, Process, Report, SCHEMA, Thread, Verdict,
};
use crate::symbolize::{Sources, Symbolizer};
use crate::trace::{HeaderView, Recording, RunRecord, ThreadRows, TraceError};
use crate::wire::incident::IncidentRow;
use crate::wire::locks::{LiveRow, TaskRow, WAKERS_UNKNOWN};
use crate::wire::recording::*;
use crate::wire::waits::LockFiguresRow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Most frames of a thread's creation stack that are kept.
pub(super) const CREATION_FRAMES: usize = 64;
/// Threads whose creation stacks are in the report whatever happens; later ones have theirs where a finding names them. A program may
/// create threads by the ten thousand.
const CREATIONS: usize = 1000;

/// How the program ended, if it has.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Its process id.
    pub pid: u32,
    /// How; `None` while it runs.
    pub exit: Option<Exit>,
    /// Wall time so far.
    pub duration: Duration,
}

/// An opened recording with what is known about its process.
#[derive(Debug)]
pub struct Session {
    pub(super) recording: Recording,
    pub(super) run: RunRecord,
    pub(super) symbolizer: Symbolizer,
    sources: Option<Sources>,
    rows: ThreadRows,
    /// The same at the latest look for waits, which comes far more often.
    alive: ThreadRows,
    pub(super) threads: Vec<Thread>,
    slots: Vec<u32>,
    /// Nodes of the stacks that created the threads, by serial.
    pub(super) births: Vec<u32>,
    /// Modules read so far.
    modules: Vec<ModuleRow>,
    /// The latest look at locks and waits.
    looked: Recorded,
    /// Deadlocks and lost wake-ups that were seen while they lasted, by fingerprint.
    hangs: BTreeMap<String, Finding>,
}

/// What a look at the waits of a running program found.
#[derive(Debug, Default)]
pub struct WaitsNow {
    /// Deadlocks and lost wake-ups.
    pub findings: Vec<Finding>,
    /// Nothing from outside can end the wait: every thread is stuck.
    pub may_be_ended: bool,
}

impl Session {
    /// Takes a recording and the record of its run.
    pub fn new(recording: Recording, run: RunRecord) -> Session {
        let symbolizer = Symbolizer::new(&run.directory);
        let sources = run.store_source.then(|| Sources::new(&run.directory));
        Session {
            recording,
            run,
            symbolizer,
            sources,
            rows: ThreadRows::default(),
            alive: ThreadRows::default(),
            threads: Vec::new(),
            slots: Vec::new(),
            births: Vec::new(),
            modules: Vec::new(),
            looked: Recorded::default(),
            hangs: BTreeMap::new(),
        }
    }

    /// Number of finding rows now.
    pub fn finding_rows(&self) -> u64 {
        self.recording.header().map_or(0, |header| header.counts[Table::Findings as usize])
    }

    /// The findings in rows `from..to`, merged by fingerprint.
    pub fn findings(&mut self, from: u64, to: u64) -> Result<Vec<Finding>, TraceError> {
        let header = self.refresh()?;
        let facts = RunFacts {
            plan_flags: self.run.plan_flags,
            sync_objects_lost: header.counter(Counter::SyncObjectsLost),
            doubt: self.run.degraded.iter().find(|check| check.check == "races").map(|check| check.reason.as_str()),
        };
        let rows: Vec<FindingRow> = self.recording.collect(from, to.min(header.counts[Table::Findings as usize]));
        let mut context = Context {
            recording: &self.recording,
            symbolizer: &self.symbolizer,
            sources: self.sources.as_mut(),
            threads: &self.threads,
            slots: &self.slots,
            births: &self.births,
            main_bias: header.main_bias,
        };
        let mut findings = Vec::new();
        for row in rows {
            if let Some(finding) = race::finding(&mut context, &row, facts) {
                race::merge(&mut findings, finding);
            }
        }
        Ok(findings)
    }

    fn checks(&self, kind: &str) -> bool {
        self.run.checks.iter().any(|check| check == kind)
    }

    /// Rows of the log that lock order is derived from.
    pub fn order_rows(&self) -> u64 {
        self.recording.header().map_or(0, |header| header.counts[Table::Orders as usize])
    }

    /// The waits of threads now, as (serial, number of the wait), of those that no time limit ends.
    pub fn waiters(&mut self) -> Vec<(u32, u64)> {
        let Ok(header) = self.recording.header() else { return Vec::new() };
        self.alive.refresh(&self.recording, header.counts[Table::Threads as usize]);
        let mut waiters = Vec::new();
        self.recording.rows_at(self.alive.running(), |serial, live: LiveRow| {
            if live.sequence & 1 == 1 && live.wait_timed == 0 {
                waiters.push((serial as u32, live.sequence));
            }
        });
        self.recording.rows::<TaskRow>(0, header.counts[Table::Tasks as usize], |index, task| {
            let waits = task.waits.iter().any(|wait| wait.future != 0);
            if waits && task.state == 0 && task.wakers != WAKERS_UNKNOWN {
                waiters.push((index as u32 | place::FIRST_TASK, task.sequence));
            }
            true
        });
        waiters
    }

    /// The inversions in the lock order so far.
    pub fn inversions(&mut self) -> Result<Vec<Finding>, TraceError> {
        if !self.checks("lock-order-inversion") {
            return Ok(Vec::new());
        }
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        let mut findings = recorded.inversions(&names);
        // A task that queues for a lock makes its edge, so one that is deadlocked has made it.
        findings.retain(|finding| !self.hangs.values().any(|hang| is_of_locks_of(finding, hang)));
        Ok(findings)
    }

    /// The lock-order graph by names of locks.
    pub fn lock_order(&mut self) -> Result<Vec<crate::report::LockOrder>, TraceError> {
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        if recorded.order_rows() == 0 {
            return Ok(Vec::new());
        }
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        Ok(recorded.lock_order(&names))
    }

    /// What incidents tell: starvation, livelock, locks held across blocking calls, blocked tasks, misuse.
    fn incidents(&mut self, ending: &Ending) -> Result<Vec<Finding>, TraceError> {
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        let now_ns = u64::try_from(ending.duration.as_nanos()).unwrap_or(u64::MAX);
        let incidents = recorded.incidents(&self.recording, &header, now_ns);
        if incidents.rows.is_empty() && incidents.lasting.is_empty() {
            return Ok(Vec::new());
        }
        let thresholds = self.run.thresholds;
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        let mut findings = incidents.findings(&thresholds, &names);
        findings.retain(|finding| self.checks(place::words(finding.kind).name));
        Ok(findings)
    }

    /// Polls of tasks that took long without blocking, with what samples of the processor say they did.
    pub fn long_polls(&mut self, profile: &Profile) -> Result<Vec<Finding>, TraceError> {
        if !self.checks("blocking-in-async") {
            return Ok(Vec::new());
        }
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        let rows: Vec<IncidentRow> = self.recording.collect(0, header.counts[Table::Incidents as usize]);
        let threshold = self.run.thresholds.poll_ns;
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        Ok(long_polls(&rows, threshold, header.start_ns, profile, &names))
    }

    /// Locks whose waits cost much of the threads' time.
    pub fn hot_locks(&mut self, profile: &Profile) -> Result<Vec<Finding>, TraceError> {
        if !self.checks("hot-lock") {
            return Ok(Vec::new());
        }
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        let percent = self.run.thresholds.hot_lock_percent;
        let figures: Vec<LockFiguresRow> = self.recording.collect(0, header.counts[Table::LockFigures as usize]);
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        let lock = |index: usize| match figures.get(index).and_then(|row| recorded.lock_of(row)) {
            Some(lock) => names.lock(lock),
            None => profile.locks.get(index).map_or_else(LockRef::default, |figures| LockRef {
                name: figures.name.clone(),
                kind: figures.kind.clone(),
                address: format!("{:#x}", figures.address),
                ..LockRef::default()
            }),
        };
        Ok(hot_locks(profile, percent, &lock))
    }

    /// Looks for threads that can never go on. A wait counts from the second look on. `tasks` are the process's kernel threads;
    /// without them the process is gone, and what it recorded last counts.
    pub fn look_at_waits(&mut self, tasks: Option<&[Task]>, now_ns: u64) -> Result<WaitsNow, TraceError> {
        let (deadlock, lost) = (self.checks("deadlock"), self.checks("lost-wakeup"));
        if !deadlock && !lost {
            return Ok(WaitsNow::default());
        }
        let header = self.refresh()?;
        let recorded = Recorded::read(&self.recording);
        if tasks.is_none() {
            self.looked = Recorded::read(&self.recording);
        }
        let snapshot = recorded.snapshot(&self.looked, tasks, now_ns);
        let before = std::mem::take(&mut self.looked);
        let mut context = self.context(&header);
        let names = Names::new(&mut context, &recorded);
        let mut hang = recorded.hang(&snapshot, &names);
        hang.findings.extend(recorded.task_deadlocks(&before, now_ns, &names));
        self.looked = recorded;
        hang.findings.retain(|finding| if finding.kind == Kind::Deadlock { deadlock } else { lost });
        for finding in &hang.findings {
            self.hangs.entry(finding.id.clone()).or_insert_with(|| finding.clone());
        }
        Ok(WaitsNow { findings: hang.findings, may_be_ended: hang.may_be_ended })
    }

    fn context(&mut self, header: &HeaderView) -> Context<'_> {
        Context {
            recording: &self.recording,
            symbolizer: &self.symbolizer,
            sources: self.sources.as_mut(),
            threads: &self.threads,
            slots: &self.slots,
            births: &self.births,
            main_bias: header.main_bias,
        }
    }

    /// The whole report as of now, before suppressions, baseline and gating.
    pub fn report(&mut self, ending: &Ending) -> Result<Report, TraceError> {
        let mut findings = self.findings(0, u64::MAX)?;
        findings.extend(self.inversions()?);
        findings.extend(self.hangs.values().cloned());
        findings.extend(self.incidents(ending)?);
        let header = self.recording.header()?;
        let degraded = self.degraded(&header);
        let verdict = if self.is_incomplete(&header) { Verdict::Incomplete } else { Verdict::Clean };
        Ok(Report {
            schema: SCHEMA,
            verdict,
            processes: vec![Process {
                program: self.run.program_as_given.clone(),
                pid: ending.pid,
                exit: ending.exit,
                duration_ns: u64::try_from(ending.duration.as_nanos()).unwrap_or(u64::MAX),
            }],
            coverage: Coverage {
                modules: self.module_coverage(),
                degraded,
                dropped_events: header.dropped.iter().fold(0, |sum, n| sum.saturating_add(*n)),
                ..Coverage::default()
            },
            threads: self.threads_for(&findings, &header),
            findings,
            counters: self.counters(&header),
            command: self.run.command.clone(),
            conprof_version: self.run.conprof_version.clone(),
            ..Report::default()
        })
    }

    /// Reads modules and threads that have appeared since.
    pub(super) fn refresh(&mut self) -> Result<HeaderView, TraceError> {
        let header = self.recording.header()?;
        self.modules = self.recording.collect(0, header.counts[Table::Modules as usize]);
        for row in &self.modules {
            let path = module_path(row);
            let path = if path.is_empty() { self.run.program.clone() } else { PathBuf::from(path) };
            self.symbolizer.add_module(path, row.bias, (row.start, row.end));
        }
        let main_name = |rows: &ThreadRows| rows.all().first().map(|row| row.name);
        let named_before = main_name(&self.rows);
        let mut looked = self.rows.refresh(&self.recording, header.counts[Table::Threads as usize]);
        let main_name = main_name(&self.rows);
        if main_name != named_before {
            // Threads that are called as the main one have no name of their own.
            looked = (0..self.rows.all().len() as u64).collect();
        }
        for serial in looked {
            let index = serial as usize;
            let Some(row) = self.rows.all().get(index).copied() else { continue };
            set(&mut self.slots, index, row.slot);
            set(&mut self.births, index, row.created_at);
            // A thread's creation does not change, and symbolising it is the costly part.
            let created_at = match self.threads.get_mut(index) {
                Some(thread) if thread.tid == row.tid => std::mem::take(&mut thread.created_at),
                _ if index < CREATIONS => self.context(&header).creation_with_sources(serial as u32),
                _ => Vec::new(),
            };
            let thread = Thread {
                serial: serial as u32,
                tid: row.tid,
                name: if serial > 0 && Some(row.name) == main_name { String::new() } else { thread_name(&row) },
                created_by: (row.creator != u32::MAX).then_some(row.creator),
                created_at,
                start_ns: None,
                end_ns: None,
                running: row.finished == 0 && header.phase != Phase::Exiting as u32,
            };
            set(&mut self.threads, index, thread);
        }
        Ok(header)
    }

    /// The threads, with the creations of all those that a finding's threads descend from.
    fn threads_for(&mut self, findings: &[Finding], header: &HeaderView) -> Vec<Thread> {
        let mut threads = self.threads.clone();
        let named = findings.iter().flat_map(|finding| &finding.stacks).filter_map(|stack| stack.thread.as_ref());
        let named: Vec<u32> = named.map(|thread| thread.serial).collect();
        let context = self.context(header);
        for serial in named {
            let mut next = Some(serial);
            // Bounded: a recording may hold a circle.
            for _ in 0..CREATION_FRAMES {
                let Some(thread) = next.and_then(|serial| threads.get_mut(serial as usize)) else { break };
                if thread.created_at.is_empty() {
                    thread.created_at = context.creation(thread.serial);
                }
                next = thread.created_by;
            }
        }
        threads
    }

    fn module_coverage(&self) -> Vec<ModuleCoverage> {
        let mut modules = vec![self.run.coverage.clone()];
        for row in &self.modules {
            let path = module_path(row);
            if !path.is_empty() && !path.contains("conprof-shim") && !path.starts_with("/proc/self/fd/") {
                modules.push(ModuleCoverage {
                    path,
                    debuginfo: "not-scanned".to_string(),
                    ..ModuleCoverage::default()
                });
            }
        }
        modules
    }

    /// Whether races could not be checked at all on the main program.
    fn is_incomplete(&self, header: &HeaderView) -> bool {
        let asked = self.run.checks.iter().any(|check| check == "data-race");
        let failed = [
            Degraded::WrongProgram,
            Degraded::NoShadow,
            Degraded::TextProtected,
            Degraded::NoRoomForCode,
            Degraded::NoGs,
        ];
        asked
            && (header.phase < Phase::Running as u32
                || self.run.plan_flags & crate::wire::plan::FLAG_NO_RACES != 0
                || self.run.degraded.iter().any(|check| check.check == "races")
                || failed.into_iter().any(|what| header.is_degraded(what)))
    }

    fn degraded(&self, header: &HeaderView) -> Vec<DegradedCheck> {
        let mut all = self.run.degraded.clone();
        let mut add = |reason: &str, cure: &str| {
            all.push(DegradedCheck { check: "races".to_string(), reason: reason.to_string(), cure: cure.to_string() });
        };
        if header.phase == Phase::NotStarted as u32 && self.run.degraded.is_empty() {
            add(
                "conprof's runtime did not start in the program",
                "see that nothing clears LD_PRELOAD before the program starts",
            );
        }
        if header.is_degraded(Degraded::WrongProgram) {
            add(
                "the program that ran is not the file that was scanned",
                "run it again; if it was being rebuilt, wait for that",
            );
        }
        if header.is_degraded(Degraded::NoShadow) {
            add(
                "the address space for shadow memory could not be reserved",
                "lift the limit: ulimit -v unlimited; or sysctl vm.overcommit_memory=0",
            );
        }
        if header.is_degraded(Degraded::TextProtected) {
            add(
                "a security policy forbids changing the program's code in memory",
                "run it without that policy (SELinux execmod, systemd MemoryDenyWriteExecute)",
            );
        }
        if header.is_degraded(Degraded::NoRoomForCode) {
            add(
                "there is no free address range for generated code near the program",
                "run it with address randomisation as usual: without `setarch -R`, with ulimit -s 8192",
            );
        }
        if header.is_degraded(Degraded::NoGs) {
            add(
                "the processor's gs register is taken or can't be set",
                "allow the system call arch_prctl in the program's seccomp filter",
            );
        }
        if self.run.plan_flags & crate::wire::plan::FLAG_SYNC_SITE_LOST != 0 {
            add(
                "a synchronising instruction could not be instrumented, so races are shown as possible and do not gate",
                "conprof scan shows which",
            );
        }
        if header.counter(Counter::SyncObjectsLost) > 0 {
            add(
                "memory for synchronisation objects ran out, so races are shown as possible and do not gate",
                "give the process more memory",
            );
        }
        all
    }

    fn counters(&self, header: &HeaderView) -> BTreeMap<String, u64> {
        let named = [
            ("threads", header.counts[Table::Threads as usize]),
            ("threads alive at once", header.threads_peak),
            ("accesses reached the runtime", header.counter(Counter::SlowAccesses)),
            ("sync operations", header.counter(Counter::SyncOperations)),
            ("sync objects", header.counter(Counter::SyncObjects)),
            ("atomic operations", header.counter(Counter::AtomicOperations)),
            ("unknown accesses", header.counter(Counter::UnknownAccesses)),
            ("children not checked", header.counter(Counter::Children)),
            ("adopted threads", header.counter(Counter::AdoptedThreads)),
            ("deferred signals", header.counter(Counter::DeferredSignals)),
            ("nested entries", header.counter(Counter::NestedEntries)),
            ("benign patterns withheld", header.counter(Counter::Benign)),
            ("atomic addresses withheld", header.counter(Counter::AtomicAddress)),
            ("frames lost", header.counter(Counter::FramesLost)),
            ("stack switches", header.counter(Counter::StackSwitches)),
            ("threads dropped", header.dropped[Table::Threads as usize]),
            ("contexts dropped", header.dropped[Table::Nodes as usize]),
            ("access rows dropped", header.dropped[Table::Accesses as usize]),
            ("findings dropped", header.dropped[Table::Findings as usize]),
            ("events dropped", header.dropped[Table::Events as usize]),
        ];
        named.into_iter().filter(|(_, value)| *value > 0).map(|(name, value)| (name.to_string(), value)).collect()
    }
}

/// Sets an element, which is at most the one after the last.
fn set<T>(all: &mut Vec<T>, index: usize, value: T) {
    match all.get_mut(index) {
        Some(place) => *place = value,
        None => all.push(value),
    }
}

fn thread_name(row: &ThreadRow) -> String {
    let len = row.name.iter().position(|byte| *byte == 0).unwrap_or(row.name.len());
    String::from_utf8_lossy(&row.name[..len]).into_owned()
}

fn module_path(row: &ModuleRow) -> String {
    let len = row.path.iter().position(|byte| *byte == 0).unwrap_or(row.path.len());
    String::from_utf8_lossy(&row.path[..len]).into_owned()
}

/// Whether an inversion among tasks is about locks that a deadlock is about.
fn is_of_locks_of(inversion: &Finding, hang: &Finding) -> bool {
    let addresses = |finding: &Finding| -> Vec<String> {
        finding.stacks.iter().filter_map(|stack| stack.lock.as_ref()).map(|lock| lock.address.clone()).collect()
    };
    let is_task =
        |stack: &crate::report::Stack| stack.thread.as_ref().is_some_and(|thread| thread.serial >= place::FIRST_TASK);
    let of_hang = addresses(hang);
    inversion.stacks.iter().any(is_task) && addresses(inversion).iter().all(|address| of_hang.contains(address))
}
