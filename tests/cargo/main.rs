//! `cargo conprof`, and conprof as the runner of cargo and nextest, on a user's workspace with tests that race and pass.

#[path = "../schema/mod.rs"]
mod schema;

use conprof::report::{Report, store};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

/// A copy of the workspace in a folder of its own.
struct Workspace(tempfile::TempDir);

impl Workspace {
    fn new() -> Workspace {
        let dir = tempfile::tempdir().expect("a folder");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cargo/workspace"), dir.path());
        Workspace(dir)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    /// A command in the workspace, without what cargo and nextest told this test.
    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["300", program]).args(words).current_dir(self.0.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let told = name.starts_with("NEXTEST") || name == "CARGO" || name.starts_with("CARGO_");
            if (told && name != "CARGO_HOME") || name == "CONPROF_OPTIONS" {
                command.env_remove(name);
            }
        }
        let folder = Path::new(env!("CARGO_BIN_EXE_cargo-conprof")).parent().expect("a folder");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).expect("a path"));
        command
    }

    fn cargo(&self, words: &[&str]) -> Output {
        self.command("cargo", words).output().expect("cargo starts")
    }

    fn latest(&self) -> Report {
        load(&self.path("target/conprof/latest"))
    }
}

/// A folder's report, which is what the published schema says.
fn load(dir: &Path) -> Report {
    schema::assert_valid(&std::fs::read_to_string(dir.join(store::REPORT_FILE)).expect("report.json"));
    store::load(dir).expect("a report")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file");
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn primary_file(report: &Report) -> String {
    conprof::report::place::primary_of(&report.findings[0]).expect("a frame").file.clone()
}

#[test]
fn cargo_conprof_test_runs_everything_and_names_the_tests() {
    let workspace = Workspace::new();
    let output = workspace.cargo(&["conprof", "--format", "junit,sarif", "test"]);
    assert_eq!(output.status.code(), Some(66), "{}", stderr(&output));
    assert!(stdout(&output).contains("money_adds_up ... ok"), "cargo's own output stays");
    let report = workspace.latest();
    assert_eq!(report.findings.len(), 1, "one finding from three programs");
    assert_eq!(
        report.findings[0].tests,
        [
            "counter tests::counting_from_two_threads_races",
            "counter::doc doctest 0",
            "integration from_outside_it_races_too"
        ]
    );
    for test in ["bank tests::money_adds_up", "counter tests::counting_alone_is_fine_however_long_the_name"] {
        assert!(report.tests.iter().any(|name| name == test), "{test} is not in {:?}", report.tests);
    }
    assert_eq!(primary_file(&report), "members/counter/src/lib.rs", "paths count from the root");
    let latest = workspace.path("target/conprof/latest");
    let junit = std::fs::read_to_string(latest.join("report.xml")).expect("JUnit");
    assert!(junit.contains("classname=\"bank\"") && junit.contains("failures=\"3\""), "{junit}");
    assert!(latest.join("report.html").is_file() && latest.join("report.sarif").is_file());
    let text = stderr(&output);
    assert!(text.contains("error[data-race]") && text.contains("counting_from_two_threads_races"), "{text}");
    assert!(text.contains("= again: cargo conprof test tests::counting_from_two_threads_races"), "{text}");
    assert!(!workspace.path("conprof-out").exists() && !workspace.path("members/counter/conprof-out").exists());

    // What is accepted does not gate; what failed still fails.
    let id = &report.findings[0].id;
    let suppress = format!("fingerprint:{id} # known");
    let words = ["conprof", "--suppress", &suppress, "test", "--workspace", "--lib"];
    assert_eq!(workspace.cargo(&words).status.code(), Some(0));
    let failing = workspace.command("cargo", &words).env("BANK_FAILS", "1").output().expect("cargo starts");
    assert_eq!(failing.status.code(), Some(101), "{}", stderr(&failing));
    let both = workspace.command("cargo", &["conprof", "test", "--lib"]).env("BANK_FAILS", "1").output();
    assert_eq!(both.expect("cargo starts").status.code(), Some(66), "findings before failures");
    let report = workspace.latest();
    assert!(report.tests.iter().any(|name| name.starts_with("counter")), "tests after the failing one ran");

    // Nothing runs where nothing builds.
    std::fs::write(workspace.path("members/bank/src/lib.rs"), "nonsense").expect("written");
    let broken = workspace.cargo(&["conprof", "test"]);
    assert_eq!(broken.status.code(), Some(101));
    assert!(stderr(&broken).contains("error: expected"), "{}", stderr(&broken));
}

#[test]
fn cargo_conprof_nextest_gives_each_test_its_findings() {
    let workspace = Workspace::new();
    let output = workspace.cargo(&["conprof", "nextest", "run"]);
    assert_eq!(output.status.code(), Some(66), "{}", stderr(&output));
    let report = workspace.latest();
    assert_eq!(
        report.findings[0].tests,
        ["counter tests::counting_from_two_threads_races", "counter::integration from_outside_it_races_too"]
    );
    assert_eq!(report.tests.len(), 6);
    assert_eq!(report.processes.len(), 6, "the list phase leaves nothing");
}

#[test]
fn a_deadlock_in_a_test_ends_and_names_the_test() {
    let workspace = Workspace::new();
    for (subcommand, test) in [
        (&["test", "-p", "bank", "--lib"][..], "bank tests::opposite_transfers"),
        (&["nextest", "run", "-p", "bank"], "bank tests::opposite_transfers"),
    ] {
        let words = [&["conprof", "--run-options", "--hang-after=2s"], subcommand].concat();
        let output = workspace.command("cargo", &words).env("BANK_DEADLOCKS", "1").output().expect("cargo starts");
        assert_eq!(output.status.code(), Some(66), "{}", stderr(&output));
        let report = workspace.latest();
        let deadlocks: Vec<_> =
            report.findings.iter().filter(|finding| finding.kind == conprof::report::Kind::Deadlock).collect();
        assert_eq!(deadlocks.len(), 1, "{}", stderr(&output));
        assert_eq!(deadlocks[0].tests, [test], "{}", stderr(&output));
        assert!(deadlocks[0].gating && stderr(&output).contains("error[deadlock]"), "{}", stderr(&output));
    }
    assert!(workspace.latest().tests.iter().any(|name| name == "bank tests::money_adds_up"));
}

#[test]
fn conprof_is_a_runner_for_nextest() {
    let workspace = Workspace::new();
    let runner = format!("{} run --", env!("CARGO_BIN_EXE_conprof"));
    let output = workspace.command("cargo", &["nextest", "run", "--no-fail-fast"]).env(RUNNER, &runner).output();
    let output = output.expect("cargo starts");
    assert_eq!(output.status.code(), Some(100), "two tests fail: {}", stderr(&output));
    assert!(stderr(&output).contains("6 tests run: 4 passed, 2 failed"), "{}", stderr(&output));
    let results = workspace.path("target/conprof");
    let runs: Vec<_> = std::fs::read_dir(&results).expect("results").flatten().collect();
    assert_eq!(runs.len(), 1, "one folder for the run of nextest");
    assert!(!workspace.path("conprof-out").exists() && !workspace.path("members/counter/conprof-out").exists());

    let merged = workspace.path("merged");
    let words = ["merge", "--out", "merged", "--format", "github", "target/conprof"];
    let output = workspace.command(env!("CARGO_BIN_EXE_conprof"), &words).output().expect("conprof starts");
    assert_eq!(output.status.code(), Some(66));
    assert!(stderr(&output).contains("::error file=members/counter/src/lib.rs,line="), "{}", stderr(&output));
    let report = load(&merged);
    assert_eq!((report.processes.len(), report.findings.len()), (6, 1));
}

#[test]
fn conprof_is_a_runner_for_cargo_run() {
    let workspace = Workspace::new();
    let runner = format!("{} run --", env!("CARGO_BIN_EXE_conprof"));
    let run = |threads: &str| {
        let mut command = workspace.command("cargo", &["run", "-q", "-p", "counter", "--", threads]);
        command.env(RUNNER, &runner).output().expect("cargo starts")
    };
    let clean = run("1");
    assert_eq!((clean.status.code(), stdout(&clean).as_str()), (Some(0), "counted\n"), "{}", stderr(&clean));
    let racy = run("2");
    assert_eq!((racy.status.code(), stdout(&racy).as_str()), (Some(66), "counted\n"), "{}", stderr(&racy));
    assert!(workspace.path("target/conprof").is_dir() && !workspace.path("conprof-out").exists());
}

#[test]
fn cargo_conprof_run_and_bench_use_their_own_target_folder() {
    let workspace = Workspace::new();
    let output = workspace.cargo(&["conprof", "run", "--release", "-p", "counter", "--", "2"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(66), "counted\n"), "{}", stderr(&output));
    assert!(workspace.path("target/conprof-build/release/counter").is_file());
    let report = workspace.latest();
    assert_eq!(primary_file(&report), "members/counter/src/lib.rs", "release builds get line tables");
    let output = workspace.cargo(&["conprof", "bench", "-p", "bank"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = workspace.cargo(&["conprof", "build"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("runs no program"), "{}", stderr(&output));
}
