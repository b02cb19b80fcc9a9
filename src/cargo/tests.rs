//! Which test a finding belongs to.
//!
//! Under nextest a process is one test. Under libtest a thread is: libtest calls every test through
//! `test::__rust_begin_short_backtrace`, so the frame next to it names the test, in the thread's own stack or in the
//! stack that created the thread, up the chain of creation. The thread's name is second choice, as the kernel keeps
//! 15 bytes of it. rustdoc calls each of its tests `_doctest_main_<file>_<line>_<n>`.

use crate::report::{Frame, Report, Thread};

const TEST_CALLER: &str = "test::__rust_begin_short_backtrace";
const DOCTEST: &str = "_doctest_main_";
const LIBTEST_SPAWN: &str = "test::run_test";

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

/// Names the tests in the findings and in the report's list.
pub fn attribute(report: &mut Report, context: &TestContext) {
    match context {
        TestContext::One { binary, test } => {
            let name = format!("{binary} {test}");
            for finding in &mut report.findings {
                finding.tests = vec![name.clone()];
            }
            report.tests = vec![name];
        }
        TestContext::Libtest { binary } => {
            let threads = std::mem::take(&mut report.threads);
            for finding in &mut report.findings {
                let mut tests: Vec<String> = finding
                    .stacks
                    .iter()
                    .filter(|stack| stack.role != "allocated")
                    .filter_map(|stack| in_frames(&stack.frames).or_else(|| in_chain(stack.thread.as_ref()?, &threads)))
                    .map(|test| format!("{binary} {test}"))
                    .collect();
                tests.sort();
                tests.dedup();
                finding.tests = tests;
            }
            let mut tests: Vec<String> = report.findings.iter().flat_map(|finding| finding.tests.clone()).collect();
            for thread in threads.iter().filter(|thread| is_test_thread(thread)) {
                let known = tests.iter().any(|test| test.starts_with(&format!("{binary} {}", thread.name)));
                if !known {
                    tests.push(format!("{binary} {}", thread.name));
                }
            }
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

fn is_test_thread(thread: &Thread) -> bool {
    thread.created_at.iter().any(|frame| frame.function.starts_with(LIBTEST_SPAWN)) && thread.name != "main"
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

/// `src_lib_rs_12_0` out of a doctest's function, as `doctest src_lib_rs line 12`.
fn doctest(name: &str) -> Option<String> {
    let start = name.find(DOCTEST)? + DOCTEST.len();
    let rest = name[start..].split(':').next().unwrap_or_default();
    let mut parts = rest.rsplitn(3, '_');
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
        attribute(&mut report, &libtest());
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
        attribute(&mut report, &libtest());
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
        attribute(&mut report, &TestContext::Libtest { binary: "rust_out".to_owned() });
        assert_eq!(report.findings[0].tests, ["rust_out doctest src_lib_rs line 12"]);
    }

    #[test]
    fn a_process_of_nextest_is_one_test() {
        let mut report = report(vec![], vec![]);
        attribute(&mut report, &TestContext::One { binary: "b".to_owned(), test: "t".to_owned() });
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
        attribute(&mut report, &libtest());
        assert!(report.tests.is_empty() && report.findings[0].tests.is_empty());
    }
}
