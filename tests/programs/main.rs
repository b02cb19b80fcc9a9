//! Runs programs that others wrote under conprof: ripgrep and fd over a large source tree, and the test binaries of
//! concurrent crates. Output and exit status are as natively, and nothing is found.
//!
//! Everything is built from crates.io with line tables, once, into the target folder.

mod build;
mod run;
#[path = "../schema/mod.rs"]
mod schema;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far above what any of them takes, also on a loaded machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Searches and listings of a tree of sources; `TREE` is its path.
const TOOLS: &[(&str, &str, &[&str])] = &[
    ("ripgrep::literal", "rg", &["-n", "--no-heading", "-j4", "unsafe impl", "TREE"]),
    ("ripgrep::regex", "rg", &["-c", "-j3", r"\b\w+Error\b", "TREE"]),
    ("ripgrep::unicode_case", "rg", &["-i", "-l", "straße|mutex", "TREE"]),
    ("ripgrep::multiline", "rg", &["-U", "-c", r"fn \w+\(\)\s*\{\n\s*loop", "TREE"]),
    ("ripgrep::nothing", "rg", &["zqxj-nothing-has-this-zqxj", "TREE"]),
    ("fd::all", "fd", &["-H", ".", "TREE"]),
    ("fd::pattern", "fd", &["-e", "rs", "-j", "3", "^mod", "TREE"]),
    ("fd::exec", "fd", &["--glob", "Cargo.toml.orig", "TREE", "-x", "basename"]),
];

/// Test binaries: crate, the test target (`lib` for the unit tests), and arguments.
const TESTS: &[(&str, &str, &[&str])] = &[
    ("crossbeam-channel", "array", &[]),
    ("crossbeam-channel", "list", &[]),
    ("crossbeam-channel", "zero", &[]),
    ("crossbeam-channel", "mpsc", &[]),
    ("crossbeam-channel", "select", &[]),
    ("crossbeam-channel", "golang", &[]),
    ("crossbeam-channel", "tick", &[]),
    ("crossbeam-deque", "fifo", &[]),
    ("crossbeam-deque", "injector", &[]),
    ("crossbeam-deque", "lifo", &[]),
    ("crossbeam-deque", "steal", &[]),
    ("crossbeam-utils", "parker", &[]),
    ("crossbeam-utils", "sharded_lock", &[]),
    ("crossbeam-utils", "thread", &[]),
    ("crossbeam-utils", "wait_group", &[]),
    ("once_cell", "lib", &[]),
    ("parking_lot", "lib", &[]),
    ("parking_lot", "issue_203", &[]),
    ("parking_lot", "issue_392", &[]),
    ("dashmap", "lib", &[]),
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for &(name, tool, tool_arguments) in TOOLS {
        trials.push(Trial::test(name, move || check_tool(name, tool, tool_arguments)));
    }
    trials.push(Trial::test("ripgrep::where_it_waits", check_waits));
    for &(package, target, test_arguments) in TESTS {
        let name = format!("{package}::{target}");
        trials.push(Trial::test(name.clone(), move || check_tests(&name, package, target, test_arguments)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn check_tool(name: &str, tool: &str, arguments: &[&str]) -> Result<(), Failed> {
    let program = build::tool(tool)?;
    let tree = build::source_tree()?;
    let arguments: Vec<PathBuf> =
        arguments.iter().map(|&part| if part == "TREE" { tree.clone() } else { part.into() }).collect();
    let native = run::native(&program, &arguments, LIMIT)?;
    let outcome = run::under_conprof(name, &program, &arguments, LIMIT)?;
    outcome.must_be_clean()?;
    if sorted(&native.stdout) != sorted(&outcome.ended.stdout) {
        return Err(
            format!("stdout differs: {} bytes, then {}", native.stdout.len(), outcome.ended.stdout.len()).into()
        );
    }
    same_status(&native, &outcome.ended)
}

/// ripgrep's workers share a work-stealing deque and the lock of their output: little lock waiting next to much idling, and
/// stacks of the processor's time that reach down to the thread's start.
fn check_waits() -> Result<(), Failed> {
    let program = build::tool("rg")?;
    let arguments = ["-c", "-j3", r"\b\w+Error\b"].map(PathBuf::from).into_iter().chain([build::source_tree()?]);
    let arguments: Vec<PathBuf> = arguments.collect();
    let native = run::native(&program, &arguments, LIMIT)?;
    let outcome = run::with_options("waits", &["--checks", "contention"], &program, &arguments, LIMIT)?;
    outcome.must_be_clean()?;
    if sorted(&native.stdout) != sorted(&outcome.ended.stdout) {
        return Err("stdout differs".into());
    }
    for name in ["contention.svg", "blame.svg", "idle.svg", "offcpu.svg", "timeline.chrome.json", "block.pb.gz"] {
        if !outcome.folder.join(name).exists() {
            return Err(format!("no {name}").into());
        }
    }
    let life: u64 = outcome.report.thread_times.iter().map(|times| times.life_ns).sum();
    let waiting: u64 = outcome.report.thread_times.iter().map(|times| times.lock_wait_ns).sum();
    if life == 0 || waiting * 4 > life {
        return Err(format!("{waiting} ns of {life} ns are lock waiting").into());
    }
    if !outcome.report.coverage.perf.available {
        eprintln!("SKIPPED: stacks of the processor's time: {}", outcome.report.coverage.perf.reason);
        return same_status(&native, &outcome.ended);
    }
    let count = |name| outcome.report.counters.get(name).copied().unwrap_or(0);
    let (samples, cut_off) = (count("cpu samples"), count("cpu samples with a stack cut off"));
    if samples == 0 || cut_off * 10 > samples {
        return Err(format!("{cut_off} of {samples} stacks are cut off").into());
    }
    let folded = std::fs::read_to_string(outcome.folder.join("cpu.folded"))?;
    if !folded.lines().any(|line| line.contains("thread_start") && line.contains("ignore::walk::Worker::run")) {
        return Err(format!("no worker's whole stack in\n{folded}").into());
    }
    same_status(&native, &outcome.ended)
}

fn check_tests(name: &str, package: &str, target: &str, arguments: &[&str]) -> Result<(), Failed> {
    let program = build::test_binary(package, target)?;
    let arguments: Vec<PathBuf> = arguments.iter().map(PathBuf::from).collect();
    let native = run::native(&program, &arguments, LIMIT)?;
    let outcome = run::under_conprof(name, &program, &arguments, LIMIT)?;
    outcome.must_be_clean()?;
    if native.status.success() && !outcome.ended.stdout.contains("test result: ok.") {
        return Err(format!("the tests do not pass:\n{}", outcome.ended.stdout).into());
    }
    same_status(&native, &outcome.ended)
}

fn same_status(native: &run::Ended, under: &run::Ended) -> Result<(), Failed> {
    if native.status == under.status {
        return Ok(());
    }
    Err(format!("natively {}, under conprof {}\n{}", native.status, under.status, under.stderr).into())
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The folder that everything is built in.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("programs")
}
