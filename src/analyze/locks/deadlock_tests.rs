use super::super::Place;
use super::super::scenario::{FAIR, PLAIN, Plain, lock};
use super::super::waits_for::{Held, Missed};
use super::*;

fn waiting(serial: u32, what: Awaited, holds: &[(char, Mode)]) -> ThreadAt {
    let wait = Wait { what, since_ns: 1_000, is_timed: false, place: Place(100 + serial), peers: None, missed: None };
    ThreadAt { activity: Activity::Waiting(wait), ..running(serial, holds) }
}

fn running(serial: u32, holds: &[(char, Mode)]) -> ThreadAt {
    let held = |(i, (name, mode)): (usize, &(char, Mode))| Held {
        lock: lock(*name),
        mode: *mode,
        place: Place(10 * serial + i as u32),
        since_ns: 500,
    };
    ThreadAt { serial, activity: Activity::Running, holds: holds.iter().enumerate().map(held).collect() }
}

fn ended(serial: u32, holds: &[(char, Mode)]) -> ThreadAt {
    ThreadAt { activity: Activity::Ended, ..running(serial, holds) }
}

fn timed(mut thread: ThreadAt) -> ThreadAt {
    if let Activity::Waiting(wait) = &mut thread.activity {
        wait.is_timed = true;
    }
    thread
}

fn with_peers(mut thread: ThreadAt, peers: &[u32]) -> ThreadAt {
    if let Activity::Waiting(wait) = &mut thread.activity {
        wait.peers = Some(peers.to_vec());
    }
    thread
}

fn wants(name: char) -> Awaited {
    Awaited::Lock { lock: lock(name), mode: Mode::Exclusive }
}

fn wants_to_read(name: char) -> Awaited {
    Awaited::Lock { lock: lock(name), mode: Mode::Shared }
}

fn at_rules(threads: Vec<ThreadAt>, rules: LockRules) -> Hang {
    explain(&Snapshot { threads, has_signal_handlers: false, now_ns: 2_000_000_000 }, &|_| rules, &Plain)
}

fn at_once(threads: Vec<ThreadAt>) -> Hang {
    at_rules(threads, PLAIN)
}

fn only(hang: &Hang) -> &Finding {
    assert_eq!(hang.findings.len(), 1, "{:#?}", hang.findings.iter().map(|f| &f.title).collect::<Vec<_>>());
    &hang.findings[0]
}

use Mode::{Exclusive, Shared};

#[test]
fn two_threads_and_two_locks() {
    let hang = at_once(vec![
        waiting(0, Awaited::Join { thread: 1 }, &[]),
        waiting(1, wants('B'), &[('A', Exclusive)]),
        waiting(2, wants('A'), &[('B', Exclusive)]),
    ]);
    let finding = only(&hang);
    assert_eq!((finding.kind, finding.confidence), (Kind::Deadlock, Confidence::Confirmed));
    let waits: Vec<_> =
        finding.waits_for.iter().map(|w| (w.thread.as_str(), w.lock.as_str(), w.holder.as_str())).collect();
    assert_eq!(waits, [("thread T1 't1'", "B", "thread T2 't2'"), ("thread T2 't2'", "A", "thread T1 't1'")]);
    let roles: Vec<_> = finding.stacks.iter().map(|s| s.role.as_str()).collect();
    assert_eq!(roles, ["waiting", "held", "waiting", "held"]);
    assert!(finding.notes.iter().any(|n| n.contains("main thread")), "{:?}", finding.notes);
    assert!(hang.may_be_ended);
}

#[test]
fn what_waits_for_stuck_threads_in_any_way_is_no_second_finding() {
    // A scope's thread waits to be unparked by the end of one of two threads that are stuck, and the main thread for a message of it.
    let hang = at_once(vec![
        waiting(0, Awaited::Receive, &[]),
        waiting(1, Awaited::Park, &[]),
        waiting(2, wants('B'), &[('A', Exclusive)]),
        waiting(3, wants('A'), &[('B', Exclusive)]),
    ]);
    let finding = only(&hang);
    assert!(finding.notes.iter().any(|n| n.contains("left to wake main thread and thread T1")), "{:?}", finding.notes);
    assert!(hang.may_be_ended);
    // Threads that only ever wait for each other are one.
    let hang = at_once(vec![
        with_peers(waiting(0, Awaited::Receive, &[]), &[1]),
        with_peers(waiting(1, Awaited::Receive, &[]), &[0]),
        waiting(2, wants('B'), &[('A', Exclusive)]),
        waiting(3, wants('A'), &[('B', Exclusive)]),
    ]);
    assert_eq!(hang.findings.len(), 2);
}

#[test]
fn locks_of_one_name_are_no_upgrade() {
    struct OneName;
    impl Describe for OneName {
        fn thread(&self, serial: u32) -> crate::report::Thread {
            Plain.thread(serial)
        }
        fn frames(&self, place: Place) -> Vec<crate::report::Frame> {
            Plain.frames(place)
        }
        fn lock(&self, _: LockId) -> LockRef {
            Plain.lock(lock('A'))
        }
    }
    let threads = vec![waiting(1, wants('B'), &[('A', Exclusive)]), waiting(2, wants('A'), &[('B', Exclusive)])];
    let hang = explain(&Snapshot { threads, has_signal_handlers: false, now_ns: 0 }, &|_| PLAIN, &OneName);
    assert!(only(&hang).title.ends_with("wait for each other for `A` and `A`"), "{}", hang.findings[0].title);
}

#[test]
fn the_test_harness_is_no_watchdog() {
    struct Harness;
    impl Describe for Harness {
        fn thread(&self, serial: u32) -> crate::report::Thread {
            Plain.thread(serial)
        }
        fn frames(&self, place: Place) -> Vec<crate::report::Frame> {
            let function = if place == Place(100) { "test::run_tests::<console>" } else { "app::work" };
            vec![crate::report::Frame { function: function.to_owned(), ..Default::default() }]
        }
        fn lock(&self, lock: LockId) -> LockRef {
            Plain.lock(lock)
        }
    }
    let stuck = [waiting(1, wants('B'), &[('A', Exclusive)]), waiting(2, wants('A'), &[('B', Exclusive)])];
    let with = |timer: ThreadAt| {
        let threads = std::iter::once(timed(timer)).chain(stuck.clone()).collect();
        explain(&Snapshot { threads, has_signal_handlers: false, now_ns: 0 }, &|_| PLAIN, &Harness).may_be_ended
    };
    assert!(with(waiting(0, Awaited::Receive, &[])));
    assert!(!with(waiting(3, Awaited::Receive, &[])), "the program's own timer");
}

#[test]
fn a_running_thread_prevents_the_ending_not_the_finding() {
    let cycle = || vec![waiting(1, wants('B'), &[('A', Exclusive)]), waiting(2, wants('A'), &[('B', Exclusive)])];
    for other in [running(3, &[]), timed(waiting(3, Awaited::Park, &[])), waiting(3, Awaited::Outside("a socket"), &[])]
    {
        let mut threads = cycle();
        threads.push(other);
        let hang = at_once(threads);
        assert_eq!(only(&hang).kind, Kind::Deadlock);
        assert!(!hang.may_be_ended);
        assert_eq!(hang.stuck, [1, 2]);
    }
}

#[test]
fn cycles_of_any_length_and_two_at_once() {
    let ring = |first: u32, count: u32, base: u8| {
        (0..count).map(move |i| {
            let letter = |n: u32| char::from(base + (n % count) as u8);
            waiting(first + i, wants(letter(i + 1)), &[(letter(i), Exclusive)])
        })
    };
    let hang = at_once(ring(1, 6, b'A').chain(ring(10, 3, b'P')).collect());
    assert_eq!(hang.findings.len(), 2);
    assert_eq!((hang.findings[0].waits_for.len(), hang.findings[1].waits_for.len()), (6, 3));
}

#[test]
fn a_lock_taken_twice_by_its_owner() {
    let hang = at_once(vec![waiting(0, wants('A'), &[('A', Exclusive)])]);
    assert!(only(&hang).title.contains("which it holds itself"), "{}", hang.findings[0].title);
    assert!(hang.may_be_ended);
}

#[test]
fn a_reader_that_wants_to_write() {
    let hang = at_rules(vec![waiting(1, wants('A'), &[('A', Shared)]), running(2, &[])], FAIR);
    assert!(only(&hang).title.contains("which it reads itself"), "{}", hang.findings[0].title);
}

#[test]
fn two_readers_that_both_want_to_write() {
    let hang = at_rules(vec![waiting(1, wants('A'), &[('A', Shared)]), waiting(2, wants('A'), &[('A', Shared)])], FAIR);
    assert!(!hang.findings.is_empty() && hang.findings.iter().all(|f| f.kind == Kind::Deadlock));
}

#[test]
fn a_recursive_read_with_a_writer_between() {
    let threads = || vec![waiting(1, wants_to_read('A'), &[('A', Shared)]), waiting(2, wants('A'), &[])];
    let hang = at_rules(threads(), FAIR);
    assert!(only(&hang).title.contains("twice"), "{}", hang.findings[0].title);
    assert!(at_rules(threads(), PLAIN).findings.is_empty(), "a reader that passes waiting writers will go on");
}

#[test]
fn a_thread_joined_while_a_lock_is_held_that_it_needs() {
    let hang = at_once(vec![waiting(0, Awaited::Join { thread: 1 }, &[('A', Exclusive)]), waiting(1, wants('A'), &[])]);
    let finding = only(&hang);
    assert!(finding.title.contains("joined"), "{}", finding.title);
    assert!(finding.fix.contains("`A`"), "{}", finding.fix);
}

#[test]
fn threads_that_join_each_other() {
    let hang =
        at_once(vec![waiting(1, Awaited::Join { thread: 2 }, &[]), waiting(2, Awaited::Join { thread: 1 }, &[])]);
    assert_eq!(only(&hang).kind, Kind::Deadlock);
}

#[test]
fn initialisations_that_need_each_other_or_themselves() {
    let hang = at_once(vec![
        waiting(1, Awaited::Once { runner: Some(2) }, &[]),
        waiting(2, Awaited::Once { runner: Some(1) }, &[]),
    ]);
    assert!(only(&hang).title.contains("initialisations"));
    let alone = at_once(vec![waiting(1, Awaited::Once { runner: Some(1) }, &[])]);
    assert!(only(&alone).title.contains("itself"));
}

#[test]
fn an_owner_that_is_gone() {
    let hang = at_once(vec![waiting(0, wants('A'), &[]), ended(1, &[('A', Exclusive)])]);
    assert!(only(&hang).title.contains("never gave up"), "{}", hang.findings[0].title);
    let busy = at_once(vec![waiting(0, wants('A'), &[]), ended(1, &[('A', Exclusive)]), running(2, &[])]);
    assert_eq!(busy.findings.len(), 1);
    assert!(!busy.may_be_ended);
}

#[test]
fn channels_full_both_ways() {
    let hang = at_once(vec![
        waiting(0, Awaited::Join { thread: 1 }, &[]),
        waiting(1, Awaited::Send, &[]),
        waiting(2, Awaited::Send, &[]),
    ]);
    let finding = only(&hang);
    assert_eq!(finding.kind, Kind::Deadlock);
    assert!(finding.title.contains("room in a channel"), "{}", finding.title);
}

#[test]
fn a_receiver_that_keeps_a_sender() {
    let hang = at_once(vec![waiting(0, Awaited::Receive, &[])]);
    let finding = only(&hang);
    assert_eq!(finding.kind, Kind::Deadlock);
    assert!(finding.fix.contains("senders"), "{}", finding.fix);
    assert!(hang.may_be_ended);
}

#[test]
fn a_nested_monitor() {
    let threads = || {
        vec![
            waiting(1, Awaited::Condvar, &[('A', Exclusive)]),
            waiting(2, wants('A'), &[]),
            waiting(0, Awaited::Join { thread: 1 }, &[]),
        ]
    };
    let finding_of = |threads| {
        let hang = at_once(threads);
        let finding = only(&hang).clone();
        assert_eq!(finding.kind, Kind::Deadlock);
        assert!(finding.title.contains("while it holds `A`"), "{}", finding.title);
        (finding, hang.may_be_ended)
    };
    assert!(finding_of(threads()).1);
    // A ticking thread that has never used the condition variable changes nothing, where the peers are known.
    let mut ticking = threads();
    ticking[0] = with_peers(ticking[0].clone(), &[1, 2]);
    ticking.push(timed(waiting(3, Awaited::Park, &[])));
    let (finding, may_be_ended) = finding_of(ticking);
    assert_eq!(finding.confidence, Confidence::Likely);
    assert!(!may_be_ended);
}

#[test]
fn unknown_peers_keep_a_waiter_alive() {
    let hang = at_once(vec![
        waiting(1, Awaited::Condvar, &[('A', Exclusive)]),
        waiting(2, wants('A'), &[]),
        timed(waiting(3, Awaited::Park, &[])),
    ]);
    assert!(hang.findings.is_empty());
}

#[test]
fn a_wake_up_that_came_too_early() {
    let mut waiter = waiting(1, Awaited::Condvar, &[]);
    if let Activity::Waiting(wait) = &mut waiter.activity {
        wait.missed = Some(Missed { thread: 2, place: Place(7), time_ns: 900 });
    }
    let hang = at_once(vec![waiting(0, Awaited::Join { thread: 1 }, &[]), waiter, ended(2, &[])]);
    let finding = only(&hang);
    assert_eq!(finding.kind, Kind::LostWakeup);
    assert!(finding.stacks.iter().any(|s| s.role == "notify" && s.frames[0].line == 7));
    assert!(finding.title.contains("thread T2"), "{}", finding.title);
}

#[test]
fn a_parked_thread_that_nobody_is_left_to_unpark() {
    let hang = at_once(vec![waiting(0, Awaited::Park, &[]), ended(1, &[])]);
    assert_eq!(only(&hang).kind, Kind::LostWakeup);
}

#[test]
fn what_must_never_count_as_a_hang() {
    for outside in ["epoll", "a pipe", "a child process", "a signal", "a socket", "a terminal"] {
        let hang = at_once(vec![
            waiting(0, Awaited::Outside(outside), &[]),
            waiting(1, Awaited::Condvar, &[]),
            waiting(2, Awaited::Receive, &[]),
        ]);
        assert!(hang.findings.is_empty() && !hang.may_be_ended, "{outside}");
    }
    // An idle pool behind a main thread that sleeps.
    let pool = at_once(vec![
        timed(waiting(0, Awaited::Futex, &[])),
        waiting(1, Awaited::Condvar, &[]),
        waiting(2, Awaited::Condvar, &[]),
    ]);
    assert!(pool.findings.is_empty() && !pool.may_be_ended);
    // ctrlc and `recv()`: the handler's thread reads a pipe.
    let ctrlc = at_once(vec![waiting(0, Awaited::Receive, &[]), waiting(1, Awaited::Outside("a pipe"), &[])]);
    assert!(ctrlc.findings.is_empty());
    // A semaphore that a handler posts.
    let semaphore =
        Snapshot { threads: vec![waiting(0, Awaited::Semaphore, &[])], has_signal_handlers: true, now_ns: 0 };
    assert!(!explain(&semaphore, &|_| PLAIN, &Plain).may_be_ended);
}

#[test]
fn a_lock_that_is_free_or_of_an_unknown_owner_is_no_deadlock_while_anyone_runs() {
    let hang = at_once(vec![waiting(1, wants('A'), &[]), running(2, &[])]);
    assert!(hang.findings.is_empty());
    let all = at_once(vec![waiting(1, wants('A'), &[])]);
    assert!(all.may_be_ended, "nobody is left who could wake it");
}

#[test]
fn a_long_hold_is_no_deadlock() {
    let hang = at_once(vec![waiting(1, wants('A'), &[]), timed(waiting(2, Awaited::Park, &[('A', Exclusive)]))]);
    assert!(hang.findings.is_empty() && !hang.may_be_ended);
}
