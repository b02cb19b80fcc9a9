//! Waits of tasks for locks of tokio, against what the tasks measure themselves in the same run.

use crate::program::{Run, dev_fixture, fixture, time_in};
use crate::truth::agrees;
use std::path::Path;

/// Who waits for which lock, at which its holder is, where the holder releases it.
const LOCKS: [(&str, &str, &str, &str); 4] = [
    ("look_up", "tokio::sync::Mutex", "task_locks::refill", "[released in task_locks::refill"),
    ("convert", "tokio::sync::RwLock", "task_locks::publish", "[released in task_locks::publish"),
    ("download", "tokio::sync::Semaphore", "task_locks::download", "[released in task_locks::download"),
    ("produce", "tokio::sync::mpsc", "task_locks::consume", "[released in task_locks::consume"),
];

fn run(program: &Path, mode: &str, options: &[&str]) -> Run {
    Run::with(options, program, |command| {
        command.arg(mode);
    })
}

#[track_caller]
fn agrees_for_each_lock(run: &Run) {
    let report = run.report();
    let (contention, blame, idle) = (run.folded("contention"), run.folded("blame"), run.folded("idle"));
    for (waiter, kind, holder, released) in LOCKS {
        let [lock] = &report.locks.iter().filter(|lock| lock.kind == kind).collect::<Vec<_>>()[..] else {
            panic!("one {kind}: {:#?}", report.locks)
        };
        agrees(lock.wait_ns, run.truth_of(waiter), kind);
        assert!(lock.contended > 20 && lock.contended <= lock.acquisitions, "{lock:?}");
        assert!(lock.p50_wait_ns <= lock.p99_wait_ns && lock.p99_wait_ns <= lock.max_wait_ns, "{lock:?}");
        assert!(lock.waiters_peak >= 2 && lock.hand_off_fairness > 0.5, "{lock:?}");
        assert!(kind.ends_with("mpsc") || lock.max_hold_ns >= 3_000_000, "{lock:?}");
        assert_eq!(lock.shared_acquisitions != 0, kind.ends_with("RwLock"), "{lock:?}");
        // Those who wait are there with their own functions, below the place that spawned them.
        // Its thread may wait for a lock of the runtime's meanwhile: that is the thread's.
        let waits = |stack: &str| {
            let is_threads = stack.contains("lock_contended");
            stack.contains(&format!("task_locks::{waiter}")) && stack.contains("Acquire as") && !is_threads
        };
        let mut stacks = contention.iter().filter(|(stack, _)| waits(stack));
        assert!(stacks.all(|(stack, _)| stack.contains("task_locks::main")), "{}", contention.to_text());
        let of_lock = |folded: &conprof::profile::Folded, parts: &[&str]| -> u64 {
            let short = kind.rsplit("::").next().unwrap_or(kind);
            let of_lock = folded.iter().filter(|(stack, _)| stack.starts_with(short));
            of_lock.filter(|(stack, _)| parts.iter().all(|part| stack.contains(part))).map(|(_, ns)| ns).sum()
        };
        // A runtime's own `Mutex` may be waited for a little as well.
        let blamed = of_lock(&blame, &[holder, released]);
        assert!(
            blamed as f64 > 0.85 * lock.wait_ns as f64,
            "{kind}: {blamed} of {}: {}",
            lock.wait_ns,
            blame.to_text()
        );
        assert!(time_in(&contention, &format!("task_locks::{waiter}")) as f64 > 0.8 * lock.wait_ns as f64);
        assert_eq!(time_in(&idle, "Acquire as"), 0, "{}", idle.to_text());
    }
    // Whoever held a lock, blames add up to waits.
    agrees(blame.total(), contention.total(), "blame");
    // No thread waited for these.
    assert_eq!(time_in(&run.folded("offcpu"), "task_locks::produce"), 0);
    assert!(run.stderr().contains("tokio::sync::Semaphore"), "{}", run.stderr());
}

#[test]
fn tasks_on_several_workers_are_measured() {
    agrees_for_each_lock(&run(&fixture("task_locks"), "multi", &["--checks", "contention"]));
}

#[test]
fn tasks_on_one_thread_are_measured() {
    agrees_for_each_lock(&run(&fixture("task_locks"), "current", &["--checks", "contention"]));
}

#[test]
fn tasks_of_unoptimised_programs_are_measured() {
    for mode in ["multi", "current"] {
        agrees_for_each_lock(&run(&dev_fixture("task_locks"), mode, &["--checks", "contention"]));
    }
}

#[test]
fn tasks_are_measured_while_races_are_checked() {
    agrees_for_each_lock(&run(&fixture("task_locks"), "multi", &[]));
}

#[test]
fn tasks_with_locks_of_their_own_wait_next_to_never() {
    for program in [fixture("task_locks"), dev_fixture("task_locks")] {
        let run = run(&program, "sharded", &["--checks", "contention"]);
        let report = run.report();
        let locks = report.locks.iter().filter(|lock| lock.kind.starts_with("tokio::"));
        let waited: u64 = locks.map(|lock| lock.wait_ns).sum();
        assert!(waited < 2_000_000, "{:#?}", report.locks);
    }
}

#[test]
fn waits_of_tasks_have_tracks_of_their_own() {
    let run = run(&fixture("task_locks"), "multi", &["--checks", "contention"]);
    let trace: serde_json::Value = serde_json::from_str(&run.text("timeline.chrome.json")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let of_phase = |phase: &str| -> Vec<&serde_json::Value> { events.iter().filter(|e| e["ph"] == phase).collect() };
    let (begins, ends) = (of_phase("b"), of_phase("e"));
    assert!(begins.len() > 100 && begins.len() == ends.len(), "{} begin, {} end", begins.len(), ends.len());
    for (begin, end) in begins.iter().zip(&ends) {
        assert_eq!((&begin["id"], &begin["name"], &begin["cat"]), (&end["id"], &end["name"], &end["cat"]));
        assert!(begin["id"].is_u64() && begin["ts"].as_f64() <= end["ts"].as_f64());
    }
    let held = begins.iter().filter(|e| {
        let holder = e["args"]["held by"].as_str().unwrap_or_default();
        e["args"]["task"].as_str().is_some_and(|task| task.starts_with("task ")) && holder.starts_with("task ")
    });
    assert!(held.count() > 100, "a task's wait names the task that holds the lock");
    let firefox = run.text("timeline.firefox.json");
    assert!(firefox.contains("waits for Semaphore"), "the Firefox profile has a task's waits as well");
}
