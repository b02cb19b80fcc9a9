//! The report: what `report.json` holds (its schema is published in docs/), and what every format renders.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the schema; a removal or a change of meaning raises it.
pub const SCHEMA: u32 = 1;

/// A whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Outcome.
    pub verdict: Verdict,
    /// Processes covered, main program first.
    pub processes: Vec<Process>,
    /// What was and was not seen.
    pub coverage: Coverage,
    /// Findings, most important first.
    pub findings: Vec<Finding>,
    /// Locks seen, by total wait, descending.
    pub locks: Vec<LockSummary>,
    /// Threads seen, by serial.
    pub threads: Vec<Thread>,
    /// How each thread spent its life, by lock waiting, descending; empty where contention was not profiled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thread_times: Vec<ThreadTimes>,
    /// Race checks were on while waits and holds were measured, so their times are longer than natively.
    #[serde(default)]
    pub times_distorted: bool,
    /// Suppressions given and how often each matched.
    #[serde(default)]
    pub suppressions: Vec<SuppressionUse>,
    /// Findings in the baseline that were not found this time: the fingerprint, then the rest of the line.
    #[serde(default)]
    pub baseline_gone: Vec<String>,
    /// Counts worth showing: threads, synchronising operations, children not checked ...
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// The command, for "run it again"; absent with `--redact-args`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Version of conprof that wrote it.
    #[serde(default)]
    pub conprof_version: String,
    /// Folder that relative paths in frames start from, relative to the repository's root; empty where it is the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_folder: String,
    /// What the threads did when, for the timeline; a selection where there is much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Span>,
    /// Edges of the lock-order graph beyond those that the findings show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lock_order: Vec<LockOrder>,
    /// Tests that ran in the processes covered, passing ones too: `binary test::path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<String>,
}

/// Outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every requested check was done and found nothing that gates.
    #[default]
    Clean,
    /// Something gates.
    Findings,
    /// A requested check could not be done on the main program.
    Incomplete,
    /// conprof failed.
    InternalError,
}

/// A process of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Path as given.
    pub program: String,
    /// Process id.
    pub pid: u32,
    /// How it ended; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Wall time in nanoseconds.
    pub duration_ns: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// By exit, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What was and was not seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Modules of the target, main program first.
    pub modules: Vec<ModuleCoverage>,
    /// Checks that could not be done, or not fully.
    pub degraded: Vec<DegradedCheck>,
    /// Events that did not fit into the recording.
    pub dropped_events: u64,
    /// perf: whether sampling ran, and if not, why and the cure.
    #[serde(default)]
    pub perf: PerfCoverage,
}

/// A module and how well it was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModuleCoverage {
    /// Path.
    pub path: String,
    /// Hexadecimal build id; empty where unknown.
    pub build_id: String,
    /// `full`, `line-tables`, `symbols-only`, `stripped`, `not-scanned`.
    pub debuginfo: String,
    /// Accesses by class.
    pub accesses_by_class: BTreeMap<String, u64>,
    /// Sites checked or tracked.
    pub instrumented: u64,
    /// Sites not, by reason.
    pub skipped_by_reason: BTreeMap<String, u64>,
}

/// A check that could not be done, or not fully.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DegradedCheck {
    /// `races`, `locks`, `contention`, `perf` ...
    pub check: String,
    /// Why.
    pub reason: String,
    /// What the user can do.
    pub cure: String,
}

/// Whether perf sampling ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerfCoverage {
    /// It ran.
    pub available: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What would allow it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

/// Kinds of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Two unordered accesses, at least one a write.
    DataRace,
    /// A cycle in the lock order that could deadlock.
    LockOrderInversion,
    /// A cycle of waits that did.
    Deadlock,
    /// A waiter whom nobody is left to wake.
    LostWakeup,
    /// A waiter who waits out of proportion.
    Starvation,
    /// Threads that keep failing without progress.
    Livelock,
    /// A lock that costs much waiting.
    HotLock,
    /// A lock held across a blocking call.
    LockHeldAcrossBlockingCall,
    /// An async worker blocked.
    BlockingInAsync,
    /// A lock used against its rules.
    LockMisuse,
}

/// How sure conprof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Weaker evidence; never gates.
    Possible,
    /// Gates; something about it is inferred.
    Likely,
    /// Gates; seen.
    Confirmed,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Fingerprint: 16 hexadecimal digits, stable across runs, rebuilds and line shifts.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// How sure.
    pub confidence: Confidence,
    /// Whether it gates the exit status.
    pub gating: bool,
    /// Matched by a suppression.
    pub suppressed: bool,
    /// In the baseline.
    pub baseline: bool,
    /// In how many of the merged runs it was seen.
    pub seen_in: SeenIn,
    /// One sentence: what happened.
    pub title: String,
    /// One sentence: what would fix it.
    pub fix: String,
    /// Occurrences.
    pub count: u64,
    /// Tests it was seen in.
    #[serde(default)]
    pub tests: Vec<String>,
    /// Stacks, each with its role.
    pub stacks: Vec<Stack>,
    /// For deadlocks: who waits for whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<WaitsFor>,
    /// What the memory is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Further sentences (why only "possible", what history option keeps more ...).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// In how many runs a finding was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenIn {
    /// Runs it was seen in.
    pub k: u32,
    /// Runs merged.
    pub n: u32,
}

/// A stack with what it stands for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// `write`, `read`, `atomic-write`, `atomic-read`, `free`, `held`, `wanted`, `waiting`, `allocated`, `created`, `acquired`, `spawned` ...
    pub role: String,
    /// Whose stack it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    /// Size of the access in bytes, for accesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// The lock it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockRef>,
    /// Locks the thread held there.
    #[serde(default)]
    pub locks_held: Vec<LockRef>,
    /// Innermost first; inlined frames are frames of their own. Empty where the stack is lost: `lost` says why.
    pub frames: Vec<Frame>,
    /// Why there are no frames.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lost: String,
}

/// A lock, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRef {
    /// Name a person recognises.
    pub name: String,
    /// `std::sync::Mutex` and so on; empty where unknown.
    #[serde(default)]
    pub kind: String,
    /// Its type as Rust writes it, `Mutex<HashMap<u64, Account>>`; empty where debuginfo has no types.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_name: String,
    /// Run-time address, hexadecimal.
    #[serde(default)]
    pub address: String,
    /// `exclusive` or `shared`.
    #[serde(default)]
    pub mode: String,
    /// Where it was acquired, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acquired: Vec<Frame>,
}

impl LockRef {
    /// `ACCOUNTS: Mutex<HashMap<u64, Account>>`, as far as known.
    pub fn declared(&self) -> String {
        if self.type_name.is_empty() { self.name.clone() } else { format!("{}: {}", self.name, self.type_name) }
    }
}

/// A frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled, without hash; `<unknown>` where there is no symbol.
    pub function: String,
    /// Path as debuginfo has it, made relative where it lies below the current directory; empty where unknown.
    pub file: String,
    /// From 1; 0 where unknown.
    pub line: u32,
    /// From 1; 0 where unknown.
    pub column: u32,
    /// Inlined into the next frame.
    pub inlined: bool,
    /// Path of the module.
    pub module: String,
    /// Static address in the module.
    pub module_offset: u64,
    /// Lines of source around `line`, stored for other machines: first line number and text. Absent with `--no-source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceExcerpt>,
}

/// Some lines of source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceExcerpt {
    /// Number of the first line.
    pub first_line: u32,
    /// The lines.
    pub lines: Vec<String>,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// conprof's number for it, in order of creation; 0 is the main thread, and from [`FIRST_TASK`](super::place::FIRST_TASK) on
    /// it is a task of an async runtime.
    pub serial: u32,
    /// Kernel thread id.
    pub tid: u32,
    /// Name; empty where it has none.
    pub name: String,
    /// Serial of the creating thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<u32>,
    /// Where it was created, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created_at: Vec<Frame>,
    /// Still running when the report was made.
    #[serde(default)]
    pub running: bool,
    /// Nanoseconds from the start of the run to its start; absent where not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ns: Option<u64>,
    /// Nanoseconds from the start of the run to its end; absent where not recorded or still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ns: Option<u64>,
}

/// A stretch of a thread's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Serial of the thread.
    pub thread: u32,
    /// Nanoseconds from the start of the run.
    pub start_ns: u64,
    /// Nanoseconds from the start of the run.
    pub end_ns: u64,
    /// `wait`, `hold`, `blocked`, `finding` ...
    pub what: String,
    /// Name of the lock it is about; empty where it is about none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lock: String,
}

/// An edge of the lock-order graph: `to` was acquired while `from` was held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOrder {
    /// Name of the lock held.
    pub from: String,
    /// Name of the lock acquired.
    pub to: String,
    /// How often.
    pub count: u64,
}

/// An edge of the wait-for graph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsFor {
    /// Who waits.
    pub thread: String,
    /// For what.
    pub lock: String,
    /// Who has it.
    pub holder: String,
}

/// What memory a race is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Location {
    /// A static or constant.
    Global {
        /// Demangled name.
        name: String,
        /// Size in bytes.
        size: u64,
        /// Offset of the access in it.
        offset: u64,
        /// Run-time address, hexadecimal.
        address: String,
        /// Where it is declared; empty where unknown.
        file: String,
        /// From 1; 0 where unknown.
        line: u32,
    },
    /// A heap block.
    Heap {
        /// Run-time address of the block, hexadecimal.
        address: String,
        /// Size in bytes.
        size: u64,
        /// Offset of the access in it.
        offset: u64,
        /// Serial of the allocating thread.
        thread: u32,
        /// Allocation stack, innermost first.
        frames: Vec<Frame>,
    },
    /// A thread's stack.
    Stack {
        /// Serial of the thread.
        thread: u32,
        /// Run-time address, hexadecimal.
        address: String,
    },
    /// Anything else.
    Unknown {
        /// Run-time address, hexadecimal.
        address: String,
    },
}

/// A lock's figures. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockSummary {
    /// Name a person recognises.
    pub name: String,
    /// Catalogue kind.
    pub kind: String,
    /// Run-time address, hexadecimal.
    pub address: String,
    /// Acquisitions.
    pub acquisitions: u64,
    /// Of these, shared.
    pub shared_acquisitions: u64,
    /// Acquisitions that waited.
    pub contended: u64,
    /// The same as a share of all, 0 to 1.
    pub contended_share: f64,
    /// Total wait.
    pub wait_ns: u64,
    /// Longest wait.
    pub max_wait_ns: u64,
    /// Median wait of those that waited.
    pub p50_wait_ns: u64,
    /// 99th percentile of the same.
    pub p99_wait_ns: u64,
    /// Standard deviation of the total, taking waits as independent: what another run may differ by.
    pub wait_deviation_ns: u64,
    /// Total hold over the sampled acquisitions.
    pub hold_ns: u64,
    /// Longest of these holds.
    pub max_hold_ns: u64,
    /// 99th percentile of these holds.
    pub p99_hold_ns: u64,
    /// Acquisitions whose hold was measured.
    pub hold_samples: u64,
    /// Most waiters at once.
    pub waiters_peak: u32,
    /// Most shared holders at once.
    pub readers_peak: u32,
    /// Acquisitions by a thread that had not waited while others did.
    pub overtakes: u64,
    /// Of the acquisitions made while somebody waited, the share that went to a waiter, 0 to 1.
    pub hand_off_fairness: f64,
}

/// How a thread spent its life. Times are in nanoseconds; those that only perf tells are 0 without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadTimes {
    /// Serial of the thread.
    pub thread: u32,
    /// From its first sign of life to its last; the run's duration where perf did not tell.
    pub life_ns: u64,
    /// Waiting for locks.
    pub lock_wait_ns: u64,
    /// Lock waiting as a share of its life, 0 to 1.
    pub waiting_share: f64,
    /// Waiting for lack of work.
    pub idle_ns: u64,
    /// On the CPU, by samples.
    pub cpu_ns: u64,
    /// Ready to run, but preempted.
    pub preempted_ns: u64,
    /// Times it left the CPU by its own will.
    pub voluntary_switches: u64,
    /// Times it was preempted.
    pub preemptions: u64,
    /// Changes of CPU.
    pub migrations: u64,
    /// Page faults.
    pub page_faults: u64,
}

/// A suppression and its use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionUse {
    /// The line as written.
    pub line: String,
    /// Findings it matched.
    pub hits: u64,
}
