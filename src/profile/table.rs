//! The lock table and the share of each thread's life that was waiting.

use super::{Class, Figures, Profile, mean_square, quantile_ns};
use crate::report::{LockSummary, ThreadTimes};
use std::fmt::Write;

/// Rows of the report, by total wait, descending.
pub fn lock_summaries(profile: &Profile) -> Vec<LockSummary> {
    let mut rows: Vec<LockSummary> = profile.locks.iter().map(summary).collect();
    rows.sort_by(|a, b| b.wait_ns.cmp(&a.wait_ns).then(b.acquisitions.cmp(&a.acquisitions)).then(a.name.cmp(&b.name)));
    rows
}

fn summary(figures: &Figures) -> LockSummary {
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let waits = figures.contended;
    LockSummary {
        name: figures.name.clone(),
        kind: figures.kind.clone(),
        address: format!("{:#x}", figures.address),
        acquisitions: figures.acquisitions,
        shared_acquisitions: figures.shared_acquisitions,
        contended: waits,
        // A wait with a time limit may end without an acquisition.
        contended_share: share(waits, figures.acquisitions).min(1.0),
        wait_ns: figures.wait_ns,
        max_wait_ns: figures.wait_max_ns,
        p50_wait_ns: quantile_ns(&figures.wait_histogram, 0.5, figures.wait_max_ns),
        p99_wait_ns: quantile_ns(&figures.wait_histogram, 0.99, figures.wait_max_ns),
        wait_deviation_ns: (waits as f64 * mean_square(&figures.wait_histogram, figures.wait_max_ns)).sqrt() as u64,
        hold_ns: figures.hold_ns,
        max_hold_ns: figures.hold_max_ns,
        p99_hold_ns: quantile_ns(&figures.hold_histogram, 0.99, figures.hold_max_ns),
        hold_samples: figures.hold_samples,
        waiters_peak: figures.waiters_peak,
        readers_peak: figures.readers_peak,
        overtakes: figures.overtakes,
        hand_off_fairness: if waits == 0 { 1.0 } else { share(waits, waits + figures.overtakes) },
    }
}

/// A duration in at most five characters and a unit.
pub fn duration(ns: u64) -> String {
    let value = ns as f64;
    let (value, unit) = match ns {
        0 => return "0".to_owned(),
        1..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else if value < 100.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// The text table of the locks that cost most waiting, at most `rows` of them; empty where nobody waited.
pub fn lock_table(locks: &[LockSummary], rows: usize) -> String {
    let waited: Vec<&LockSummary> = locks.iter().filter(|l| l.wait_ns > 0).collect();
    if waited.is_empty() {
        return String::new();
    }
    let heads = ["wait", "max", "p50", "p99", "waits", "of", "hold p99", "max", "waiters", "fair", "lock"];
    let mut cells: Vec<Vec<String>> = vec![heads.iter().map(|h| (*h).to_owned()).collect()];
    for lock in waited.iter().take(rows) {
        cells.push(vec![
            duration(lock.wait_ns),
            duration(lock.max_wait_ns),
            duration(lock.p50_wait_ns),
            duration(lock.p99_wait_ns),
            lock.contended.to_string(),
            lock.acquisitions.to_string(),
            duration(lock.p99_hold_ns),
            duration(lock.max_hold_ns),
            lock.waiters_peak.to_string(),
            format!("{:.0} %", 100.0 * lock.hand_off_fairness),
            if lock.kind.is_empty() { lock.name.clone() } else { format!("{} ({})", lock.name, lock.kind) },
        ]);
    }
    let widths: Vec<usize> =
        (0..heads.len()).map(|c| cells.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &cells {
        let last = row.len() - 1;
        for (column, cell) in row.iter().enumerate() {
            if column == last {
                let _ = writeln!(text, "  {cell}");
            } else {
                let _ = write!(text, "{}{cell:>width$}", if column == 0 { "" } else { "  " }, width = widths[column]);
            }
        }
    }
    if waited.len() > rows {
        let rest = &waited[rows..];
        let total = duration(rest.iter().map(|l| l.wait_ns).sum());
        let _ = writeln!(text, "... and {} more locks with {total} of waiting: see report.json", rest.len());
    }
    text
}

/// How each thread spent its life: waiting for locks, idle, on the CPU as far as perf told.
pub fn thread_lives(profile: &Profile) -> Vec<ThreadTimes> {
    let mut times: Vec<ThreadTimes> = profile
        .threads
        .iter()
        .map(|thread| {
            let mut row = ThreadTimes { thread: thread.serial, ..ThreadTimes::default() };
            for wait in profile.waits.iter().filter(|w| w.thread == thread.serial) {
                match profile.class_of(wait.kind, wait.stack) {
                    Class::Lock => row.lock_wait_ns += wait.total_ns,
                    Class::Idle => row.idle_ns += wait.total_ns,
                }
            }
            if let Some(life) = profile.lives.iter().find(|l| l.tid == thread.tid) {
                row.life_ns = life.end_ns.saturating_sub(life.start_ns);
                row.preempted_ns = life.off_cpu.iter().filter(|s| s.2).map(|s| s.1.saturating_sub(s.0)).sum();
                row.voluntary_switches = life.voluntary_switches;
                row.preemptions = life.preemptions;
                row.migrations = life.migrations;
                row.page_faults = life.page_faults;
                row.cpu_ns = profile.samples.iter().filter(|s| s.tid == thread.tid).map(|s| s.weight_ns).sum();
            }
            if row.life_ns == 0 {
                row.life_ns = profile.duration_ns;
            }
            row.waiting_share = if row.life_ns == 0 { 0.0 } else { row.lock_wait_ns as f64 / row.life_ns as f64 };
            row
        })
        .collect();
    times.sort_by(|a, b| b.lock_wait_ns.cmp(&a.lock_wait_ns).then(a.thread.cmp(&b.thread)));
    times
}

#[cfg(test)]
mod tests {
    use super::super::{StackId, ThreadLife, Wait};
    use super::*;
    use crate::report::Thread;
    use crate::wire::waits::{NO_THREAD, WaitKind, histogram_bucket};

    #[test]
    fn the_table_is_sorted_and_cut() {
        let mut profile = Profile::default();
        for n in 0..12u64 {
            let mut figures = Figures {
                name: format!("lock {n}"),
                wait_ns: n * 1_000_000,
                contended: n,
                acquisitions: 100,
                ..Figures::default()
            };
            figures.wait_max_ns = 1_000_000;
            figures.wait_histogram[histogram_bucket(1_000_000)] = n as u32;
            profile.locks.push(figures);
        }
        let rows = lock_summaries(&profile);
        assert_eq!(rows[0].name, "lock 11");
        assert_eq!(rows[0].p50_wait_ns / 100_000, 9);
        let text = lock_table(&rows, 10);
        assert!(text.contains("lock 11") && !text.contains("lock 1\n"), "{text}");
        assert!(text.contains("... and 1 more locks with 1.00 ms of waiting"), "{text}");
        assert_eq!(lock_table(&[], 10), "");
    }

    #[test]
    fn fairness_is_the_share_that_went_to_those_who_waited() {
        let fairness = |contended, overtakes| {
            let figures = Figures { contended, overtakes, acquisitions: 100, ..Figures::default() };
            lock_summaries(&Profile { locks: vec![figures], ..Profile::default() })[0].hand_off_fairness
        };
        assert_eq!((fairness(10, 30), fairness(10, 0), fairness(0, 0)), (0.25, 1.0, 1.0));
    }

    #[test]
    fn a_thread_waits_for_a_share_of_its_own_life() {
        let mut profile = Profile { duration_ns: 1000, ..Profile::default() };
        profile.threads = vec![Thread { serial: 0, tid: 10, ..Thread::default() }];
        profile.lives = vec![ThreadLife { tid: 10, start_ns: 100, end_ns: 500, ..ThreadLife::default() }];
        let wait = |kind, thread, total_ns| Wait {
            lock: 0,
            kind,
            thread,
            stack: StackId(0),
            count: 1,
            total_ns,
            max_ns: total_ns,
        };
        // What tasks wait is nobody's time.
        profile.waits = vec![
            wait(WaitKind::Lock, 0, 100),
            wait(WaitKind::Receive, 0, 40),
            wait(WaitKind::Semaphore, NO_THREAD, 900),
        ];
        let lives = thread_lives(&profile);
        assert_eq!((lives.len(), lives[0].waiting_share, lives[0].idle_ns), (1, 0.25, 40));
    }

    #[test]
    fn durations_have_units() {
        for (ns, text) in
            [(0, "0"), (999, "999 ns"), (1500, "1.50 us"), (45_300_000, "45.3 ms"), (123_000_000_000, "123 s")]
        {
            assert_eq!(duration(ns), text);
        }
    }
}
