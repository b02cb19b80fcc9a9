//! What each build of a program allows: a test per cell of the table in docs/limits.md.

use crate::program::{c, conprof, finish, report, rust_as, text};
use serde_json::Value;
use std::path::Path;

/// A race, an inversion of two locks and a wait for one of them.
const PROGRAM: &str = r#"
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

static FIRST: Mutex<u64> = Mutex::new(0);
static SECOND: Mutex<u64> = Mutex::new(0);
static mut HITS: u64 = 0;

#[inline(never)]
fn bump() {
    unsafe { HITS += 1 };
}

#[inline(never)]
fn add(one: &Mutex<u64>, other: &Mutex<u64>) {
    let from = one.lock().unwrap();
    *other.lock().unwrap() += *from;
}

fn main() {
    for thread in [thread::spawn(bump), thread::spawn(bump)] {
        thread.join().unwrap();
    }
    thread::spawn(|| add(&FIRST, &SECOND)).join().unwrap();
    thread::spawn(|| add(&SECOND, &FIRST)).join().unwrap();
    let held = FIRST.lock().unwrap();
    let waiting = thread::spawn(|| *FIRST.lock().unwrap() += 1);
    thread::sleep(Duration::from_millis(100));
    drop(held);
    waiting.join().unwrap();
    println!("done");
}
"#;

/// What a run of one build said.
struct Seen {
    status: Option<i32>,
    words: String,
    report: Value,
    contention: String,
}

fn run(name: &str, flags: &[&str], options: &[&str]) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let program = rust_as(name, PROGRAM, flags);
    let program = program.to_str().expect("UTF-8");
    let words = [&["run", "--out", "out"], options, &["--", program]].concat();
    let output = finish(conprof(folder.path(), &words));
    assert_eq!(text(&output.stdout), "done\n", "{name}");
    let out = folder.path().join("out");
    Seen {
        status: output.status.code(),
        words: text(&output.stderr),
        report: report(&out),
        contention: std::fs::read_to_string(out.join("contention.folded")).unwrap_or_default(),
    }
}

impl Seen {
    /// Confidence and gating of the findings of a kind.
    fn found(&self, kind: &str) -> Vec<(&str, bool)> {
        let findings = self.report["findings"].as_array().expect("a list").iter();
        findings
            .filter(|finding| finding["kind"] == kind)
            .map(|f| (f["confidence"].as_str().expect("a word"), f["gating"] == true))
            .collect()
    }

    fn waits(&self) -> bool {
        let locks = self.report["locks"].as_array().expect("a list");
        locks.iter().any(|lock| lock["wait_ns"].as_u64().is_some_and(|ns| ns > 10_000_000))
            && !self.contention.is_empty()
    }

    /// The first words name what could not be done and the cure, the last line as well, and so does the verdict.
    fn assert_races_off(&self, cure: &str) {
        assert_eq!(self.status, Some(0), "the program's own: {}", self.words);
        assert!(self.words.starts_with("warning: races: "), "{}", self.words);
        let last = self.words.trim_end().lines().last().unwrap_or_default();
        assert!(last.starts_with("INCOMPLETE: races NOT checked: ") && last.contains(cure), "{}", self.words);
        assert_eq!(self.report["verdict"], "incomplete");
        assert!(self.found("data-race").iter().all(|(confidence, gates)| *confidence == "possible" && !gates));
    }
}

#[test]
fn full_debuginfo_allows_everything() {
    let seen = run("build-full", &["-g"], &[]);
    assert_eq!(seen.status, Some(66), "{}", seen.words);
    assert_eq!(seen.found("data-race"), [("confirmed", true)], "{}", seen.words);
    assert!(seen.words.contains("`FIRST` and `SECOND` are taken in opposite orders"), "{}", seen.words);
    assert!(seen.waits());
    assert_eq!(seen.report["coverage"]["modules"][0]["debuginfo"], "full");
}

#[test]
fn line_tables_allow_everything() {
    let seen = run("build-lines", &["-O", "-Cdebuginfo=line-tables-only"], &[]);
    assert_eq!(seen.status, Some(66), "{}", seen.words);
    assert_eq!(seen.found("data-race"), [("confirmed", true)], "{}", seen.words);
    assert_eq!(seen.found("lock-order-inversion").len(), 1, "{}", seen.words);
    assert!(seen.waits());
    assert_eq!(seen.report["coverage"]["modules"][0]["debuginfo"], "line-tables");
}

#[test]
fn a_program_at_a_fixed_address_is_no_different() {
    let seen = run("build-fixed", &["-g", "-Crelocation-model=static"], &[]);
    assert_eq!(seen.status, Some(66), "{}", seen.words);
    assert_eq!(seen.found("data-race"), [("confirmed", true)], "{}", seen.words);
    assert_eq!(seen.found("lock-order-inversion").len(), 1, "{}", seen.words);
    assert!(seen.waits());
}

#[test]
fn symbols_only_allow_waits() {
    for (name, strip) in [("build-symbols", "-Cstrip=debuginfo"), ("build-symbols-and-std", "-Cstrip=none")] {
        let seen = run(name, &["-O", strip], &[]);
        seen.assert_races_off("CARGO_PROFILE_RELEASE_DEBUG=line-tables-only");
        assert!(seen.waits(), "{}", seen.words);
        assert_eq!(seen.report["coverage"]["modules"][0]["debuginfo"], "symbols-only");
    }
}

#[test]
fn a_stripped_program_allows_samples_only() {
    let seen = run("build-stripped", &["-O", "-Cstrip=symbols"], &[]);
    seen.assert_races_off("CARGO_PROFILE_RELEASE_STRIP=none");
    assert!(seen.found("lock-order-inversion").is_empty());
    assert_eq!(seen.report["coverage"]["modules"][0]["debuginfo"], "stripped");
}

#[test]
fn what_was_asked_for_by_name_fails_the_run_where_it_cannot_be_done() {
    for options in [["--require-complete"].as_slice(), &["--checks", "races"]] {
        let seen = run("build-symbols", &["-O", "-Cstrip=debuginfo"], options);
        assert_eq!(seen.status, Some(69), "{options:?}: {}", seen.words);
    }
}

#[test]
fn folded_functions_make_races_possible() {
    let flags = ["-O", "-Cdebuginfo=line-tables-only", "-Clink-arg=-fuse-ld=lld", "-Clink-arg=-Wl,--icf=all"];
    let seen = run("build-folded", &flags, &[]);
    seen.assert_races_off("link without --icf=all");
    assert_eq!(seen.found("data-race"), [("possible", false)], "{}", seen.words);
    assert!(seen.waits());
}

#[test]
fn c_without_debuginfo_is_told_how_to_compile() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = c("plain-c", "int main(void) { return 0; }", &["-g0", "-s"]);
    let output = finish(conprof(folder.path(), &["run", "--out", "out", "--", program.to_str().expect("UTF-8")]));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("compile and link with -g and do not strip"), "{}", text(&output.stderr));
    assert!(Path::new(&folder.path().join("out/report.json")).exists());
}
