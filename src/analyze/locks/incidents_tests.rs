//! What makes an incident a finding, and what keeps it from being one.

use super::incidents::{Holder, Incidents, Lasting, Thresholds};
use super::scenario::Plain;
use super::{LockId, Mode, Place};
use crate::report::{Confidence, Finding, Kind};
use crate::wire::incident::{IncidentKind, IncidentRow, Misuse};
use crate::wire::locks::{LockRow, Type};
use crate::wire::waits::WaitKind;

const MS: u64 = 1_000_000;

fn row(kind: IncidentKind, detail: u32, thread: u32, lock: u32, access: u32) -> IncidentRow {
    IncidentRow {
        kind: kind as u32,
        detail,
        thread,
        lock,
        access,
        other_access: 0,
        other: 0,
        spawned: 0,
        task: 0,
        count: 1,
        total_ns: 0,
        max_ns: 0,
        most: 0,
        lost_ns: 0,
        at_ns: 0,
    }
}

/// Three locks, each used by two threads.
fn findings(rows: Vec<IncidentRow>, lasting: Vec<Lasting>) -> Vec<Finding> {
    let lock = LockRow { users: 3, ..LockRow::new(8, Type::StdMutex, 1) };
    let holders = vec![Holder { thread: 9, lock: LockId(1), place: Place(90), count: 30, caused_ns: 300 * MS }];
    let incidents = Incidents { rows, lasting, holders, locks: vec![lock; 3] };
    incidents.findings(&Thresholds::default(), &Plain)
}

fn held(kind: WaitKind, max_ms: u64, lost_ms: u64) -> IncidentRow {
    IncidentRow {
        other_access: 20,
        max_ns: max_ms * MS,
        total_ns: max_ms * MS,
        lost_ns: lost_ms * MS,
        ..row(IncidentKind::BlockedHold, kind as u32, 1, 1, 21)
    }
}

#[test]
fn a_lock_held_over_a_sleep_is_found_by_what_it_costs() {
    let found = findings(vec![held(WaitKind::Sleep, 50, 40)], Vec::new());
    assert_eq!(found[0].kind, Kind::LockHeldAcrossBlockingCall);
    assert_eq!(found[0].confidence, Confidence::Confirmed);
    assert!(found[0].title.contains("sleeps while it holds `B`"), "{}", found[0].title);
    let roles: Vec<&str> = found[0].stacks.iter().map(|stack| stack.role.as_str()).collect();
    assert_eq!(roles, ["waiting", "held"]);
    // Nobody lost time: it could have been otherwise.
    let found = findings(vec![held(WaitKind::Sleep, 50, 0)], Vec::new());
    assert_eq!(found[0].confidence, Confidence::Possible);
    assert!(findings(vec![held(WaitKind::Sleep, 5, 4)], Vec::new()).is_empty());
}

#[test]
fn a_lock_of_one_thread_may_be_held_for_as_long_as_it_likes() {
    assert!(findings(vec![IncidentRow { lock: 7, ..held(WaitKind::Sleep, 500, 0) }], Vec::new()).is_empty());
}

#[test]
fn receivers_that_queue_are_no_fault() {
    let queue = IncidentRow { other_access: 21, ..held(WaitKind::Receive, 500, 900) };
    let waiter = |line| IncidentRow { max_ns: 400 * MS, ..row(IncidentKind::LongWait, 0, 2, 1, line) };
    assert!(findings(vec![queue, waiter(21)], Vec::new()).is_empty());
    // Somebody who wants something else of the lock waits as well.
    assert_eq!(findings(vec![queue, waiter(33)], Vec::new()).len(), 1);
}

#[test]
fn a_wait_is_starvation_if_others_take_the_lock_again_and_again() {
    let wait =
        |max_ms: u64, most| IncidentRow { max_ns: max_ms * MS, most, ..row(IncidentKind::LongWait, 0, 2, 1, 21) };
    let found = findings(vec![wait(300, 40)], Vec::new());
    assert_eq!(found[0].kind, Kind::Starvation);
    assert!(found[0].title.contains("waits 300 ms for `B` while others take it 40 times"), "{}", found[0].title);
    assert_eq!(found[0].stacks[1].thread.as_ref().map(|thread| thread.serial), Some(9));
    assert!(found[0].notes[0].contains("T9 't9' 30 times (300 ms of waiting)"), "{:?}", found[0].notes);
    // In a queue every other thread comes first once; a short wait is nobody's starvation.
    assert!(findings(vec![wait(300, 5)], Vec::new()).is_empty());
    assert!(findings(vec![wait(100, 4000)], Vec::new()).is_empty());
}

#[test]
fn a_wait_that_never_ends_starves() {
    let lasting = |duration_ms: u64| Lasting {
        thread: 2,
        lock: LockId(1),
        mode: Mode::Exclusive,
        place: Place(21),
        duration_ns: duration_ms * MS,
        overtakes: 90,
    };
    assert_eq!(findings(Vec::new(), vec![lasting(900)])[0].kind, Kind::Starvation);
    assert!(findings(Vec::new(), vec![lasting(90)]).is_empty());
}

fn failing(thread: u32, lock: u32, held: u32, most: u64) -> IncidentRow {
    IncidentRow {
        other: held,
        other_access: 10 * thread,
        max_ns: 500 * MS,
        most,
        lost_ns: most,
        ..row(IncidentKind::Failing, 1, thread, lock, 10 * thread + 1)
    }
}

#[test]
fn two_that_hold_what_the_other_tries_for_are_in_a_livelock() {
    let found = findings(vec![failing(1, 1, 2, 900), failing(2, 2, 1, 800)], Vec::new());
    assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::Livelock]);
    assert_eq!(found[0].waits_for.len(), 2);
    // A few failures are patience.
    assert!(findings(vec![failing(1, 1, 2, 9), failing(2, 2, 1, 9)], Vec::new()).is_empty());
}

#[test]
fn one_that_tries_in_vain_starves() {
    let found = findings(vec![failing(1, 1, 0, 900)], Vec::new());
    assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::Starvation]);
}

#[test]
fn spinning_for_a_lock_whose_holder_sleeps_is_a_livelock() {
    let spins = IncidentRow { detail: 0, thread: 2, ..failing(2, 1, 0, 1) };
    let found = findings(vec![spins, held(WaitKind::Sleep, 450, 430)], Vec::new());
    let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::LockHeldAcrossBlockingCall, Kind::Livelock]);
    assert!(findings(vec![spins], Vec::new()).is_empty());
}

#[test]
fn misuse_names_the_holder() {
    let misuse = |how: Misuse| row(IncidentKind::Misuse, how as u32, 2, 1, 21);
    let found = findings(vec![IncidentRow { other: 4, ..misuse(Misuse::UnlockByOther) }], Vec::new());
    assert_eq!(found[0].kind, Kind::LockMisuse);
    assert!(found[0].title.contains("which thread T3 't3' holds"), "{}", found[0].title);
    assert!(findings(vec![misuse(Misuse::DestroyOfHeld)], Vec::new())[0].title.contains("destroys `B`"));
}
