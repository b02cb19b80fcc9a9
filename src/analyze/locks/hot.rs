//! Locks whose waits cost a large share of the threads' time.
//!
//! ```text
//! figures, waits, blames (Profile) --share of the threads' time--> the locks above the threshold --> findings
//! ```
//!
//! The threads' time is the sum of their lives without what they idled, and at least the duration of the run: so neither a
//! parked pool makes a lock look cool, nor a nap of everybody else makes it look hot. Direction of error: time in which a holder
//! was preempted, as on a busy machine, is taken off the waiting as if each preemption had hit a holder with as many
//! waiters as the lock ever had; what is above the threshold only with that time is "possible", as is what was
//! measured while races were checked.

use super::finding::{self, at};
use super::incidents::duration;
use crate::profile::{Class, Profile, StackId, thread_lives};
use crate::report::place::FIRST_TASK;
use crate::report::{Confidence, Finding, Kind, LockRef, Stack, Thread, ThreadTimes};
use crate::wire::waits::NO_THREAD;
use std::collections::BTreeMap;

/// Less waiting for one lock than this costs nobody much.
const LEAST_WAITING_NS: u64 = 50_000_000;
/// A place with at least this share of a lock's waiting, in percent, is shown.
const SHOWN_PERCENT: u64 = 25;
/// Most places shown of each role.
const PLACES_SHOWN: usize = 3;
/// A hold that is shorter on average is not what makes others wait: how often the lock is taken is.
const SHORT_HOLD_NS: u64 = 20_000;

/// Time by thread and stack of one lock, by stack.
type ByStack = BTreeMap<StackId, (u64, BTreeMap<u32, u64>)>;

/// The locks whose waits cost at least `percent` of the threads' time. `lock` describes one by its place in
/// [`Profile::locks`].
pub fn hot_locks(profile: &Profile, percent: u32, lock: &dyn Fn(usize) -> LockRef) -> Vec<Finding> {
    let lives = thread_lives(profile);
    let time_ns = threads_time(&lives, profile.duration_ns);
    let preempted_ns: u64 = lives.iter().map(|life| life.preempted_ns).sum();
    let threshold = (time_ns.saturating_mul(u64::from(percent)) / 100).max(LEAST_WAITING_NS);
    let mut findings = Vec::new();
    for (index, figures) in profile.locks.iter().enumerate() {
        let waiting = waiting(profile, index);
        let waited_ns: u64 = waiting.values().map(|(ns, _)| ns).sum();
        if waited_ns < threshold || limits(&figures.kind) {
            continue;
        }
        let by_preemption = preempted_ns.saturating_mul(u64::from(figures.waiters_peak));
        let mut notes = vec![format!(
            "{} of {} acquisitions waited, for {} in total, {} at most; the threads' time without what they idled was {}.",
            figures.contended,
            figures.acquisitions,
            duration(waited_ns),
            duration(figures.wait_max_ns),
            duration(time_ns)
        )];
        let confidence = if profile.distorted {
            notes.push(
                "Checking races makes holds and waits longer; `--checks contention` measures without.".to_owned(),
            );
            Confidence::Possible
        } else if waited_ns.saturating_sub(by_preemption) < threshold {
            notes.push("The machine was busy: holders were preempted while others waited.".to_owned());
            Confidence::Possible
        } else if profile.lives.is_empty() {
            Confidence::Likely
        } else {
            Confidence::Confirmed
        };
        let described = lock(index);
        let name = described.name.clone();
        let (acquired, released) = blames(profile, index);
        let mut stacks = shown(profile, "waiting", &waiting, &described);
        stacks.extend(shown(profile, "held", &acquired, &described));
        stacks.extend(shown(profile, "released", &released, &described).into_iter().take(1));
        let share = 100 * waited_ns / time_ns.max(1);
        let title = format!("waiting for `{name}` costs {share} % of the threads' time");
        let held_at = stacks.iter().find(|stack| stack.role == "held").map(|stack| at(&stack.frames));
        let mean_hold = figures.hold_ns.checked_div(figures.hold_samples);
        let fix = fix(&name, held_at.as_deref(), mean_hold, figures.shared_acquisitions != 0);
        if let (Some(mean), Some(at)) = (mean_hold, &held_at) {
            notes.push(format!("A hold took {} on average; most waiting was for holds taken at {at}.", duration(mean)));
        }
        let mut finding = finding::finding(Kind::HotLock, confidence, title, fix, stacks);
        finding.id = finding::fingerprint(Kind::HotLock, &identity(profile, index, described));
        finding.count = figures.contended.max(1);
        finding.notes = notes;
        findings.push((waited_ns, finding));
    }
    findings.sort_by_key(|(waited_ns, _)| std::cmp::Reverse(*waited_ns));
    let mut findings: Vec<Finding> = findings.into_iter().map(|(_, finding)| finding).collect();
    let mut known = std::collections::BTreeSet::new();
    findings.retain(|finding| known.insert(finding.id.clone()));
    findings
}

/// The threads' time without what they idled, at least the run's duration.
fn threads_time(lives: &[ThreadTimes], duration_ns: u64) -> u64 {
    let busy: u64 = lives.iter().map(|life| life.life_ns.saturating_sub(life.idle_ns)).sum();
    busy.max(duration_ns).max(1)
}

/// Waiting for these is what they are for: they limit how many do something at once.
fn limits(kind: &str) -> bool {
    matches!(kind, "sem_t" | "tokio::sync::Semaphore" | "tokio::sync::mpsc" | "channel")
}

fn waiting(profile: &Profile, lock: usize) -> ByStack {
    let mut waiting = ByStack::new();
    for wait in profile.waits.iter().filter(|wait| wait.lock == lock) {
        if profile.class_of(wait.kind, wait.stack) == Class::Lock {
            add(&mut waiting, wait.stack, wait.thread, wait.total_ns);
        }
    }
    waiting
}

/// What holds caused, by where they were acquired and by where they were released.
fn blames(profile: &Profile, lock: usize) -> (ByStack, ByStack) {
    let (mut acquired, mut released) = (ByStack::new(), ByStack::new());
    for blame in profile.blames.iter().filter(|blame| blame.lock == lock) {
        add(&mut acquired, blame.acquired, blame.thread, blame.total_ns);
        if blame.released != StackId::default() {
            add(&mut released, blame.released, blame.thread, blame.total_ns);
        }
    }
    (acquired, released)
}

fn add(all: &mut ByStack, stack: StackId, thread: u32, ns: u64) {
    let (total, threads) = all.entry(stack).or_default();
    *total += ns;
    *threads.entry(thread).or_default() += ns;
}

/// Stacks of the places with much of the time, the most costly first, each by the thread that it cost or took the most.
fn shown(profile: &Profile, role: &str, all: &ByStack, lock: &LockRef) -> Vec<Stack> {
    let sum: u64 = all.values().map(|(ns, _)| ns).sum();
    let mut places: Vec<_> = all.iter().filter(|(_, (ns, _))| ns.saturating_mul(100) >= sum * SHOWN_PERCENT).collect();
    places.sort_by_key(|(_, (ns, _))| std::cmp::Reverse(*ns));
    if places.is_empty() {
        places.extend(all.iter().max_by_key(|(_, (ns, _))| *ns));
    }
    let stack = |(stack, (_, threads)): (&StackId, &(u64, BTreeMap<u32, u64>))| {
        let frames = profile.stacks.frames(*stack).to_vec();
        let serial = threads.iter().max_by_key(|(_, ns)| **ns).map_or(0, |(serial, _)| *serial);
        let thread = match serial {
            NO_THREAD => Some(Thread { serial: FIRST_TASK, name: "tasks".to_owned(), ..Thread::default() }),
            serial => profile.threads.iter().find(|thread| thread.serial == serial).cloned(),
        };
        Stack {
            role: role.to_owned(),
            thread: Some(thread.unwrap_or_else(|| Thread { serial, ..Thread::default() })),
            lock: Some(lock.clone()),
            lost: if frames.is_empty() { "the stack was not recorded".to_owned() } else { String::new() },
            frames,
            ..Stack::default()
        }
    };
    places.into_iter().take(PLACES_SHOWN).map(stack).collect()
}

/// What the fingerprint is made of: the lock's name where it was declared with one; otherwise the place that waited the most, as which
/// places wait much may differ from run to run.
fn identity(profile: &Profile, lock: usize, described: LockRef) -> Vec<Stack> {
    let is_declared = !described.name.contains([' ', ':']);
    let top = shown(profile, "waiting", &waiting(profile, lock), &described).into_iter().next();
    let named = Stack {
        role: described.name.clone(),
        lock: Some(LockRef { kind: described.kind.clone(), ..LockRef::default() }),
        ..Stack::default()
    };
    if is_declared { vec![named] } else { top.into_iter().collect() }
}

fn fix(name: &str, held_at: Option<&str>, mean_hold_ns: Option<u64>, is_shared: bool) -> String {
    let taken = held_at.map_or(String::new(), |at| format!(" (taken at {at})"));
    let or_else = if is_shared {
        "give readers a snapshot that they read without it"
    } else {
        "split it into several that guard a part each"
    };
    match mean_hold_ns {
        Some(mean) if mean < SHORT_HOLD_NS => {
            format!(
                "Take `{name}`{taken} less often, as by doing more in one hold or by adding up in each thread first, or {or_else}."
            )
        }
        _ => format!("Do less while `{name}` is held{taken}, or {or_else}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Blame, Figures, ThreadLife, Wait};
    use crate::report::Frame;
    use crate::wire::waits::WaitKind;

    fn profile(wait_ms: u64, idle_ms: u64) -> Profile {
        let ms = 1_000_000;
        let mut profile = Profile { duration_ns: 1000 * ms, ..Profile::default() };
        let frames =
            |name: &str| vec![Frame { function: name.into(), file: "src/main.rs".into(), line: 3, ..Frame::default() }];
        profile.threads = (0..2).map(|serial| Thread { serial, tid: 10 + serial, ..Thread::default() }).collect();
        profile.lives =
            (10..12).map(|tid| ThreadLife { tid, start_ns: 0, end_ns: 1000 * ms, ..ThreadLife::default() }).collect();
        profile.locks.push(Figures {
            name: "CACHE".into(),
            kind: "std::sync::Mutex".into(),
            contended: 9,
            acquisitions: 10,
            hold_ns: 50 * ms,
            hold_samples: 10,
            waiters_peak: 1,
            ..Figures::default()
        });
        let waits = profile.stacks.intern(frames("app::waits"));
        let holds = profile.stacks.intern(frames("app::holds"));
        let wait = |lock, kind, total_ns| Wait { lock, kind, thread: 1, stack: waits, count: 9, total_ns, max_ns: ms };
        profile.waits = vec![wait(0, WaitKind::Lock, wait_ms * ms), wait(usize::MAX, WaitKind::Receive, idle_ms * ms)];
        let total_ns = wait_ms * ms;
        profile.blames =
            vec![Blame { lock: 0, thread: 0, acquired: holds, released: holds, count: 9, total_ns, max_ns: ms }];
        profile
    }

    fn found(profile: &Profile) -> Vec<Finding> {
        hot_locks(profile, 20, &|_| LockRef { name: "CACHE".into(), ..LockRef::default() })
    }

    #[test]
    fn a_lock_is_hot_from_its_share_on() {
        assert!(found(&profile(399, 0)).is_empty());
        let findings = found(&profile(500, 0));
        assert_eq!(findings.len(), 1);
        let finding = &findings[0];
        assert_eq!(finding.confidence, Confidence::Confirmed);
        assert_eq!(finding.title, "waiting for `CACHE` costs 25 % of the threads' time");
        assert_eq!(
            finding.fix,
            "Do less while `CACHE` is held (taken at src/main.rs:3), or split it into several that guard a part each."
        );
        let roles: Vec<&str> = finding.stacks.iter().map(|stack| stack.role.as_str()).collect();
        assert_eq!(roles, ["waiting", "held", "released"]);
        assert_eq!(finding.stacks[1].thread.as_ref().map(|thread| thread.serial), Some(0));
    }

    #[test]
    fn idle_time_is_nobodys_time_but_a_nap_of_all_is() {
        // A pool that is parked for most of the run does not hide the lock.
        assert_eq!(found(&profile(300, 700)).len(), 1);
        // Nor does it make one hot that costs little of the run.
        assert!(found(&profile(150, 900)).is_empty());
    }

    #[test]
    fn what_a_busy_machine_or_race_checks_may_have_caused_is_possible() {
        let mut busy = profile(500, 0);
        busy.lives[0].off_cpu = vec![(0, 200_000_000, true)];
        assert_eq!(found(&busy)[0].confidence, Confidence::Possible);
        let distorted = Profile { distorted: true, ..profile(500, 0) };
        assert_eq!(found(&distorted)[0].confidence, Confidence::Possible);
    }

    #[test]
    fn limits_are_waited_for_by_design() {
        let mut limited = profile(500, 0);
        limited.locks[0].kind = "tokio::sync::Semaphore".into();
        assert!(found(&limited).is_empty());
    }
}
