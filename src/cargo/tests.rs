//! Which test a finding belongs to.
//!
//! Under nextest a process is one test. Under libtest a thread is: libtest calls every test through
//! `test::__rust_begin_short_backtrace`, so the frame next to it names the test, in the thread's own stack or in the
//! stack that created the thread, up the chain of creation. The thread's name is second choice, as the kernel keeps
//! 15 bytes of it. rustdoc calls each of its tests `_doctest_main_<file>_<line>_<n>`, or `__doctest_<n>` where it merges
//! them into one program (edition 2024), which does not tell their names.

use crate::report::{Frame, Report, Thread};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

const TEST_CALLER: &str = "test::__rust_begin_short_backtrace";
const DOCTEST: &str = "_doctest_main_";
const LIBTEST_SPAWN: &str = "test::run_test";
const MERGED_DOCTEST: &str = "__doctest_";
/// Bytes of a thread's name that the kernel keeps.
const KERNEL_NAME_BYTES: usize = 15;

/// How a process relates to tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestContext {
    /// The process is this one test.
    One {
        /// The test binary's name.
        binary: String,
        /// The test's path.
        test: String,
    },
    /// The process may be a libtest binary or rustdoc's, with several tests.
    Libtest {
        /// The test binary's name.
        binary: String,
    },
}

impl Default for TestContext {
    fn default() -> TestContext {
        TestContext::Libtest { binary: String::new() }
    }
}

/// Whether the report is that of a libtest binary that lists its tests; rustdoc's merged tests would run instead.
pub fn is_libtest(report: &Report) -> bool {
    let merged = |frame: &Frame| frame.function.starts_with("doctest_runner");
    report.threads.iter().any(|thread| is_test_thread(thread) && !thread.created_at.iter().any(merged))
}

/// The tests of a libtest binary, by its own account; empty where it has none to give.
pub fn list(program: &Path) -> Vec<String> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Names the tests in the findings and in the report's list. `listed` are all tests of the binary, for names that the
/// kernel cut off.
pub fn attribute(report: &mut Report, context: &TestContext, listed: &[String]) {
    match context {
        TestContext::One { binary, test } => {
            let name = format!("{binary} {test}");
            for finding in &mut report.findings {
                finding.tests = vec![name.clone()];
            }
            report.tests = vec![name];
        }
        TestContext::Libtest { binary } => {
            let libtest = is_libtest(report);
            let threads = std::mem::take(&mut report.threads);
            for finding in &mut report.findings {
                let mut tests: Vec<String> = finding
                    .stacks
                    .iter()
                    .filter(|stack| stack.role != "allocated")
                    .filter_map(|stack| {
                        let named = in_frames(&stack.frames).or_else(|| in_chain(stack.thread.as_ref()?, &threads))?;
                        Some(whole(&named, listed))
                    })
                    .map(|test| format!("{binary} {test}"))
                    .collect();
                tests.sort();
                tests.dedup();
                finding.tests = tests;
            }
            let mut tests: Vec<String> = report.findings.iter().flat_map(|finding| finding.tests.clone()).collect();
            let ran = if libtest { ran(&threads, listed) } else { Vec::new() };
            let ran = ran.into_iter().map(|test| format!("{binary} {test}"));
            let new: Vec<String> =
                ran.filter(|name| !tests.iter().any(|test| test.starts_with(name.as_str()))).collect();
            tests.extend(new);
            tests.sort();
            tests.dedup();
            report.tests = tests;
            report.threads = threads;
        }
    }
}

/// The test that a thread belongs to: its own creation stack's, or its creator's, and so on.
fn in_chain(thread: &Thread, threads: &[Thread]) -> Option<String> {
    let mut thread = thread;
    for _ in 0..=threads.len() {
        if let Some(test) = in_frames(&thread.created_at) {
            return Some(test);
        }
        if is_test_thread(thread) {
            return Some(thread.name.clone()).filter(|name| !name.is_empty());
        }
        let creator = thread.created_by?;
        thread = threads.iter().find(|other| other.serial == creator)?;
    }
    None
}

/// The tests that ran, by their threads. Several listed tests may begin with the name that the kernel kept; all of them
/// ran where as many threads have it.
fn ran(threads: &[Thread], listed: &[String]) -> Vec<String> {
    let mut cut: BTreeMap<&str, usize> = BTreeMap::new();
    for thread in threads.iter().filter(|thread| is_test_thread(thread)) {
        *cut.entry(&thread.name).or_default() += 1;
    }
    let mut tests = Vec::new();
    for (name, count) in cut {
        let begins =
            |test: &&String| if name.len() < KERNEL_NAME_BYTES { *test == name } else { test.starts_with(name) };
        let matching: Vec<&String> = listed.iter().filter(begins).collect();
        if !matching.is_empty() && matching.len() <= count {
            tests.extend(matching.into_iter().cloned());
        } else {
            tests.push(name.to_owned());
        }
    }
    tests
}

/// The whole name where only one listed test begins so.
fn whole(name: &str, listed: &[String]) -> String {
    if name.len() < KERNEL_NAME_BYTES || listed.iter().any(|test| test == name) {
        return name.to_owned();
    }
    let mut matching = listed.iter().filter(|test| test.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(only), None) => only.clone(),
        _ => name.to_owned(),
    }
}

/// Whether libtest created the thread for a test; a thread that a test created has libtest further up its stack.
fn is_test_thread(thread: &Thread) -> bool {
    let names = || thread.created_at.iter().map(|frame| frame.function.as_str());
    names().any(|name| name.starts_with(LIBTEST_SPAWN)) && !names().any(|name| name.starts_with(TEST_CALLER))
}

/// The test whose body is on this stack.
fn in_frames(frames: &[Frame]) -> Option<String> {
    let names = || frames.iter().map(|frame| frame.function.as_str());
    if let Some(test) = names().find_map(doctest) {
        return Some(test);
    }
    let caller = names().position(|name| name.starts_with(TEST_CALLER))?;
    let body = names().take(caller).collect::<Vec<_>>().into_iter().rev().find(|name| !is_glue(name))?;
    let path = body.split("::{closure").next().unwrap_or(body).split("::{{closure").next().unwrap_or(body);
    // libtest's names begin below the crate.
    Some(path.split_once("::").map_or(path, |(_, rest)| rest).to_owned())
}

/// Calls through function pointers and boxed closures.
fn is_glue(name: &str) -> bool {
    name.contains("core::ops::function::") || name.contains("alloc::boxed::") || name.contains("FnOnce")
}

/// The name of a doctest out of its function: by file and line, or by number where rustdoc merges all into one program.
fn doctest(name: &str) -> Option<String> {
    if let Some((_, rest)) = name.split_once(MERGED_DOCTEST) {
        return Some(format!("doctest {}", rest.split(':').next().unwrap_or_default()));
    }
    let (_, rest) = name.split_once(DOCTEST)?;
    let mut parts = rest.split(':').next().unwrap_or_default().rsplitn(3, '_');
    let (_number, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("doctest {file} line {line}"))
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::report::{Confidence, Finding, Kind, SeenIn, Stack};

    fn frames(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| Frame { function: (*name).to_owned(), ..Frame::default() }).collect()
    }

    fn report(stacks: Vec<Stack>, threads: Vec<Thread>) -> Report {
        let finding = Finding {
            id: "0".repeat(16),
            kind: Kind::DataRace,
            confidence: Confidence::Confirmed,
            gating: true,
            suppressed: false,
            baseline: false,
            seen_in: SeenIn { k: 1, n: 1 },
            title: String::new(),
            fix: String::new(),
            count: 1,
            tests: vec![],
            stacks,
            waits_for: vec![],
            location: None,
            notes: vec![],
        };
        Report { findings: vec![finding], threads, ..Report::default() }
    }

    fn libtest() -> TestContext {
        TestContext::Libtest { binary: "app".to_owned() }
    }

    const TEST_BODY: [&str; 4] = [
        "app::cache::tests::it_races::{closure#0}",
        "<app::cache::tests::it_races::{closure#0} as core::ops::function::FnOnce<()>>::call_once",
        "test::__rust_begin_short_backtrace::<(), fn()>",
        "test::run_test::{closure#0}",
    ];

    #[test]
    fn the_tests_own_stack_names_it() {
        let stack = Stack {
            frames: frames(&[&["app::cache::put", "app::cache::tests::it_races"], &TEST_BODY[..]].concat()),
            ..Stack::default()
        };
        let mut report = report(vec![stack], vec![]);
        attribute(&mut report, &libtest(), &[]);
        assert_eq!(report.findings[0].tests, ["app cache::tests::it_races"]);
    }

    #[test]
    fn a_thread_is_traced_through_its_creators() {
        let test = Thread {
            serial: 1,
            name: "cache::tests::i".to_owned(),
            created_by: Some(0),
            created_at: frames(&["std::thread::spawn", "test::run_test"]),
            ..Thread::default()
        };
        let worker = Thread {
            serial: 2,
            created_by: Some(1),
            created_at: frames(&[&["std::thread::spawn", "app::cache::start"], &TEST_BODY[..]].concat()),
            ..Thread::default()
        };
        let helper = Thread {
            serial: 3,
            created_by: Some(2),
            created_at: frames(&["std::thread::spawn", "app::pool::run"]),
            ..Thread::default()
        };
        let other = Thread {
            serial: 4,
            name: "net::tests::ok".to_owned(),
            created_by: Some(0),
            created_at: frames(&["test::run_test"]),
            ..Thread::default()
        };
        let stack = Stack { thread: Some(helper.clone()), frames: frames(&["app::pool::step"]), ..Stack::default() };
        let mut report = report(vec![stack], vec![test, worker, helper, other]);
        attribute(&mut report, &libtest(), &[]);
        assert_eq!(report.findings[0].tests, ["app cache::tests::it_races"]);
        assert_eq!(report.tests, ["app cache::tests::it_races", "app net::tests::ok"]);
    }

    #[test]
    fn doctests_are_named_by_file_and_line() {
        let stack = Stack {
            frames: frames(&["rust_out::main::_doctest_main_src_lib_rs_12_0::{closure#0}", "rust_out::main"]),
            ..Stack::default()
        };
        let mut report = report(vec![stack], vec![]);
        attribute(&mut report, &TestContext::Libtest { binary: "rust_out".to_owned() }, &[]);
        assert_eq!(report.findings[0].tests, ["rust_out doctest src_lib_rs line 12"]);
    }

    #[test]
    fn a_process_of_nextest_is_one_test() {
        let mut report = report(vec![], vec![]);
        attribute(&mut report, &TestContext::One { binary: "b".to_owned(), test: "t".to_owned() }, &[]);
        assert_eq!((report.tests, report.findings[0].tests.clone()), (vec!["b t".to_owned()], vec!["b t".to_owned()]));
    }

    #[test]
    fn a_plain_program_has_no_tests() {
        let thread = Thread {
            serial: 1,
            name: "worker".to_owned(),
            created_by: Some(0),
            created_at: frames(&["app::main"]),
            ..Thread::default()
        };
        let stack = Stack { thread: Some(thread.clone()), frames: frames(&["app::work"]), ..Stack::default() };
        let mut report = report(vec![stack], vec![thread]);
        attribute(&mut report, &libtest(), &[]);
        assert!(report.tests.is_empty() && report.findings[0].tests.is_empty());
    }

    #[test]
    fn names_that_the_kernel_cut_are_completed_where_one_test_fits() {
        let listed = ["cache::tests::it_races", "net::tests::ok", "net::tests::okay_too"].map(str::to_owned);
        assert_eq!(whole("cache::tests::i", &listed), "cache::tests::it_races");
        assert_eq!(whole("net::tests::ok", &listed), "net::tests::ok");
        assert_eq!(whole("nobody::knows::", &listed), "nobody::knows::");
        let thread =
            |name: &str| Thread { name: name.to_owned(), created_at: frames(&["test::run_test"]), ..Thread::default() };
        let both = [thread("net::tests::ok"), thread("net::tests::oka"), thread("cache::tests::i")];
        assert_eq!(ran(&both, &listed), ["cache::tests::it_races", "net::tests::ok", "net::tests::okay_too"]);
        let alike = ["net::tests::okay_1", "net::tests::okay_2"].map(str::to_owned);
        assert_eq!(ran(&[thread("net::tests::oka")], &alike), ["net::tests::oka"], "one of two ran");
        assert_eq!(ran(&[thread("net::tests::oka"), thread("net::tests::oka")], &alike), alike);
    }

    #[test]
    fn a_merged_doctest_has_its_number() {
        let body = [
            "app::add",
            "doctest_bundle_2024::__doctest_7::main",
            "doctest_runner_2024::__doctest_7::TEST::{closure#0}",
        ];
        let stack = Stack { frames: frames(&body), ..Stack::default() };
        let mut report = report(vec![stack], vec![]);
        attribute(&mut report, &TestContext::Libtest { binary: "app::doc".to_owned() }, &[]);
        assert_eq!(report.tests, ["app::doc doctest 7"]);
    }
}
