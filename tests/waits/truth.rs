//! conprof's waits against what the programs measure around each lock in the same run.

use crate::program::{Run, fixture, time_in};

/// Largest difference from the program's own measurement.
const TOLERANCE: f64 = 0.1;

#[track_caller]
pub fn agrees(conprof: u64, truth: u64, what: &str) {
    let error = (conprof as f64 / truth as f64 - 1.0).abs();
    println!("{what}: conprof {conprof} ns, the program {truth} ns, {:.2} % off", 100.0 * error);
    assert!(error <= TOLERANCE, "{what}: conprof {conprof} ns, the program {truth} ns");
}

#[test]
fn the_wait_is_the_light_threads_and_the_blame_the_hogs() {
    let run = Run::new(&[], &fixture("hog"));
    let contention = run.folded("contention");
    agrees(contention.total(), run.truth(), "hog");
    assert!(time_in(&contention, "hog::light") as f64 > 0.9 * contention.total() as f64);
    let blame = run.folded("blame");
    // Blames add up to waits, whoever held the lock.
    agrees(blame.total(), contention.total(), "blame");
    assert!(time_in(&blame, "hog::hog") as f64 > 0.9 * blame.total() as f64, "{}", blame.to_text());
    assert_eq!(time_in(&run.folded("idle"), "hog::light"), 0);

    let report = run.report();
    let lock = &report.locks[0];
    assert_eq!((lock.kind.as_str(), lock.acquisitions), ("std::sync::Mutex", 241), "{lock:?}");
    agrees(lock.wait_ns, run.truth(), "the lock's row");
    assert!(lock.p50_wait_ns <= lock.p99_wait_ns && lock.p99_wait_ns <= lock.max_wait_ns, "{lock:?}");
    assert!(lock.max_hold_ns >= 4_000_000 && lock.waiters_peak == 2, "{lock:?}");
    assert!(report.thread_times.iter().any(|t| t.waiting_share > 0.1), "{:?}", report.thread_times);
    let stderr = run.stderr();
    assert!(stderr.contains("locks by waiting time") && stderr.contains("--checks contention"), "{stderr}");
    assert!(report.times_distorted);
}

#[test]
fn without_race_checks_nothing_is_distorted() {
    let run = Run::new(&["--checks", "contention"], &fixture("hog"));
    agrees(run.folded("contention").total(), run.truth(), "hog");
    assert!(!run.report().times_distorted && !run.stderr().contains("distorted"), "{}", run.stderr());
    assert!(run.text("report.html").contains("hot-lock"), "what the lock costs is a finding then");
}

#[test]
fn a_crowd_at_one_lock_is_blamed_by_a_part_of_its_holds() {
    let run = Run::new(&["--checks", "contention"], &fixture("crowd"));
    let contention = run.folded("contention");
    let lock = &run.report().locks[0];
    assert_eq!(lock.acquisitions, 120_001, "{lock:?}");
    assert!(lock.contended > 0 && lock.hold_samples < lock.acquisitions / 4, "{lock:?}");
    // The program counts acquisitions that did not wait as well, and with each of them two readings of the clock.
    assert!(
        contention.total() <= run.truth() && contention.total() > run.truth() / 2,
        "{} of {}",
        contention.total(),
        run.truth()
    );
    let blame = run.folded("blame");
    let share = blame.total() as f64 / contention.total() as f64;
    assert!((0.6..1.6).contains(&share), "{} of {}", blame.total(), contention.total());
    let slow = time_in(&blame, "crowd::slow") as f64 / blame.total() as f64;
    assert!((0.5..0.95).contains(&slow), "{slow}: {}", blame.to_text());
}

#[test]
fn the_sharded_twin_waits_next_to_never() {
    let run = Run::new(&[], &fixture("sharded"));
    let waited = run.folded("contention").total();
    assert!(waited < 2_000_000, "{waited} ns");
}

#[test]
fn readers_that_wait_for_a_writer_are_measured() {
    let run = Run::new(&[], &fixture("rwlock"));
    let contention = run.folded("contention");
    agrees(contention.total(), run.truth(), "rwlock");
    assert!(time_in(&contention, "look_up") > 0);
    let blame = run.folded("blame");
    assert!(time_in(&blame, "publish") as f64 > 0.8 * blame.total() as f64, "{}", blame.to_text());
    let lock = &run.report().locks[0];
    assert_eq!((lock.kind.as_str(), lock.shared_acquisitions > 0), ("std::sync::RwLock", true), "{lock:?}");
}

#[test]
fn waiting_for_jobs_is_idle() {
    let run = Run::new(&[], &fixture("idle_pool"));
    let idle = run.folded("idle");
    let contention = run.folded("contention");
    assert!(time_in(&idle, "wait_for_job") > 100_000_000, "{}", idle.to_text());
    assert!(time_in(&idle, "[waits for a thread's end]") > 0, "{}", idle.to_text());
    // The channel's own lock may be waited for, briefly.
    assert!(time_in(&contention, "wait_for_job") < time_in(&idle, "wait_for_job") / 20, "{}", contention.to_text());
    assert!(contention.total() < idle.total() / 20, "{}", contention.to_text());
}

#[test]
fn a_parking_lot_work_queue_is_measured() {
    let run = Run::new(&[], &fixture("work_queue"));
    agrees(run.folded("contention").total(), run.truth(), "work_queue");
    assert!(time_in(&run.folded("blame"), "take_and_log") > 0);
    assert_eq!(run.report().locks[0].kind, "parking_lot::Mutex");
}

#[test]
fn a_rayon_program_is_measured() {
    let run = Run::new(&[], &fixture("rayon_totals"));
    let contention = run.folded("contention");
    agrees(time_in(&contention, "rayon_totals::add"), run.truth(), "rayon_totals");
}

#[test]
fn a_tokio_echo_server_is_measured() {
    let run = Run::new(&[], &fixture("echo"));
    let contention = run.folded("contention");
    agrees(time_in(&contention, "echo::count"), run.truth(), "echo");
}
