//! Programs behave under the shim as natively.

use super::launch::{compile, natively, with_plan, without_plan};
use conprof::wire::recording::{Counter, Phase};

fn same(name: &str, arguments: &[&str]) {
    let program = compile(name);
    let expected = natively(&program, arguments);
    for (kind, (outcome, header)) in
        [("without plan", without_plan(&program, arguments)), ("with plan", with_plan(&program, arguments))]
    {
        assert_eq!(outcome, expected, "{name} {arguments:?} {kind}");
        assert_eq!(header.degraded, 0, "{name} {arguments:?} {kind}");
        assert!(header.phase >= Phase::Running as u32, "{name} {arguments:?} {kind}");
    }
}

#[test]
fn checked_instructions_change_nothing_else() {
    let program = compile("registers.c");
    let expected = natively(&program, &[]);
    assert_eq!(expected.exit, Some(0));
    let (outcome, header) = with_plan(&program, &[]);
    assert_eq!(outcome, expected);
    for counter in [Counter::SlowAccesses, Counter::AtomicOperations, Counter::SyncOperations] {
        assert!(header.counter(counter) > 0, "{counter:?}");
    }
}

#[test]
fn signals_forks_and_unusual_threads() {
    let program = compile("signals_threads.c");
    let expected = natively(&program, &[]);
    let (outcome, header) = with_plan(&program, &[]);
    assert_eq!(outcome, expected);
    assert!(header.counter(Counter::Children) >= 3);
    assert!(header.counter(Counter::AdoptedThreads) >= 1, "the timer's threads are adopted");
}

#[test]
fn threads_are_wrapped_and_counted() {
    let program = compile("threads.rs");
    let expected = natively(&program, &[]);
    let (outcome, header) = with_plan(&program, &[]);
    assert_eq!(outcome, expected);
    assert_eq!(header.counts[0] + header.dropped[0], 1 + 8 + 100 + 1 + 3000);
    assert!(header.threads_peak >= 9);
    assert_eq!(header.counter(Counter::AdoptedThreads), 0);
    assert_eq!(header.phase, Phase::Exiting as u32);
}

#[test]
fn stack_overflows_end_alike() {
    same("ends.rs", &["overflow"]);
    same("ends.rs", &["overflow-thread"]);
}

#[test]
fn faults_end_alike() {
    for kind in ["segv", "wild", "abort", "div", "kill9"] {
        same("ends.rs", &[kind]);
    }
}

#[test]
fn exits_and_panics_end_alike() {
    for kind in ["exit-in-thread", "panic", "unwrap-catch", "backtrace"] {
        same("ends.rs", &[kind]);
    }
}

#[test]
fn environment_and_descriptors_are_the_users_own() {
    for kind in ["exec", "env"] {
        same("ends.rs", &[kind]);
    }
}

#[test]
fn signals_at_a_high_rate_change_nothing() {
    same("interrupted.c", &[]);
    same("interrupted.c", &["on its own stack"]);
}
