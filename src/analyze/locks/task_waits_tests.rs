//! Snapshots of tasks, and what is found in them.

use super::*;
use crate::report::Frame;

struct Plain;

impl Describe for Plain {
    fn thread(&self, serial: u32) -> Thread {
        Thread { serial, ..Thread::default() }
    }

    fn frames(&self, place: Place) -> Vec<Frame> {
        vec![Frame {
            function: format!("app::f{}", place.0),
            file: "app.rs".to_owned(),
            line: place.0,
            ..Frame::default()
        }]
    }

    fn lock(&self, lock: LockId) -> LockRef {
        LockRef { name: format!("L{}", lock.0), ..LockRef::default() }
    }
}

fn task(id: u32, wakers: u32) -> TaskAt {
    TaskAt {
        id,
        number: u64::from(id),
        spawned: Place(100 + id),
        spawner: Some(0),
        thread: None,
        wakers: Some(wakers),
        waits: Vec::new(),
        holds: Vec::new(),
    }
}

fn wait(lock: u32, since_ns: u64) -> WaitAt {
    WaitAt { lock: LockId(lock), place: Place(lock), since_ns, is_assigned: false, has_own_waker: true }
}

fn hold(lock: u32) -> HoldAt {
    HoldAt { lock: LockId(lock), place: Place(10 + lock), has_spawned_since: false, is_owned: false }
}

fn lock(kind: Permits) -> PermitLock {
    PermitLock { kind, is_unsure: false, is_handed_over: false, receiver: None }
}

fn two_mutexes() -> TaskSnapshot {
    let one = TaskAt { holds: vec![hold(1)], waits: vec![wait(2, 10)], ..task(1, 1) };
    let two = TaskAt { holds: vec![hold(2)], waits: vec![wait(1, 20)], ..task(2, 1) };
    let locks = [(LockId(1), lock(Permits::Mutex)), (LockId(2), lock(Permits::Mutex))];
    TaskSnapshot { tasks: vec![one, two], locks: locks.into(), now_ns: 100 }
}

fn confidences(snapshot: &TaskSnapshot) -> Vec<Confidence> {
    explain(snapshot, &Plain).iter().map(|finding| finding.confidence).collect()
}

#[test]
fn two_tasks_that_hold_what_the_other_wants() {
    let findings = explain(&two_mutexes(), &Plain);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].confidence, Confidence::Confirmed);
    assert_eq!(
        findings[0].title,
        "task 1 spawned at app.rs:101 and task 2 spawned at app.rs:102 wait for each other for `L2` and `L1`"
    );
    let roles: Vec<&str> = findings[0].stacks.iter().map(|stack| stack.role.as_str()).collect();
    assert_eq!(roles, ["waiting", "waiting", "held", "held"]);
}

#[test]
fn what_may_go_on_is_no_deadlock() {
    // Another waker: a timer, a socket, a channel.
    let mut snapshot = two_mutexes();
    snapshot.tasks[1].wakers = Some(2);
    assert_eq!(confidences(&snapshot), []);
    // It is polled, or to be polled.
    snapshot.tasks[1].wakers = None;
    assert_eq!(confidences(&snapshot), []);
    // Its waker leads to the task through another one, which may have more.
    let mut snapshot = two_mutexes();
    snapshot.tasks[1].waits[0].has_own_waker = false;
    assert_eq!(confidences(&snapshot), []);
    // The guard may be elsewhere.
    let mut snapshot = two_mutexes();
    snapshot.tasks[1].holds[0].has_spawned_since = true;
    assert_eq!(confidences(&snapshot), []);
    // The holder is not known for sure, or there is none.
    let mut snapshot = two_mutexes();
    snapshot.locks.get_mut(&LockId(2)).expect("known").is_unsure = true;
    assert_eq!(confidences(&snapshot), []);
    let mut snapshot = two_mutexes();
    snapshot.tasks[1].holds.clear();
    assert_eq!(confidences(&snapshot), []);
    let mut snapshot = two_mutexes();
    snapshot.locks.get_mut(&LockId(1)).expect("known").is_handed_over = true;
    assert_eq!(confidences(&snapshot), []);
}

#[test]
fn owned_guards_make_it_only_possible_and_semaphores_likely() {
    let mut snapshot = two_mutexes();
    snapshot.tasks[0].holds[0].is_owned = true;
    assert_eq!(confidences(&snapshot), [Confidence::Possible]);
    let mut snapshot = two_mutexes();
    snapshot.locks.get_mut(&LockId(1)).expect("known").kind = Permits::Semaphore;
    assert_eq!(confidences(&snapshot), [Confidence::Likely]);
    // Another holder of the semaphore can go on.
    snapshot.tasks.push(TaskAt { holds: vec![hold(1)], ..task(3, 0) });
    assert_eq!(confidences(&snapshot), []);
}

#[test]
fn a_future_left_behind_has_what_its_task_awaits() {
    let given = WaitAt { is_assigned: true, place: Place(7), ..wait(1, 10) };
    let one = TaskAt { waits: vec![given, wait(1, 20)], ..task(1, 1) };
    let behind = TaskAt { waits: vec![wait(1, 30)], ..task(2, 1) };
    let mut snapshot = TaskSnapshot {
        tasks: vec![one, behind],
        locks: [(LockId(1), lock(Permits::Mutex))].into(),
        ..TaskSnapshot::default()
    };
    let findings = explain(&snapshot, &Plain);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].title.contains("which a future of its own has that it does not poll"), "{}", findings[0].title);
    assert!(findings[0].notes.iter().any(|note| note.contains("task 2 spawned at")), "{:?}", findings[0].notes);
    // As long as something else may wake the task, it may come to poll it.
    snapshot.tasks[0].wakers = Some(2);
    assert_eq!(confidences(&snapshot), []);
}

#[test]
fn channels_full_both_ways() {
    let one = TaskAt { waits: vec![wait(1, 10)], ..task(1, 1) };
    let two = TaskAt { waits: vec![wait(2, 20)], ..task(2, 1) };
    let channel =
        |receiver: u32| PermitLock { receiver: Some(receiver), is_handed_over: true, ..lock(Permits::Channel) };
    let mut snapshot = TaskSnapshot {
        tasks: vec![one, two],
        locks: [(LockId(1), channel(2)), (LockId(2), channel(1))].into(),
        ..TaskSnapshot::default()
    };
    assert_eq!(confidences(&snapshot), [Confidence::Likely]);
    snapshot.locks.get_mut(&LockId(1)).expect("known").receiver = None;
    assert_eq!(confidences(&snapshot), []);
}

#[test]
fn a_reader_behind_a_writer_behind_itself() {
    let reader = TaskAt { holds: vec![hold(1)], waits: vec![wait(1, 20)], ..task(1, 1) };
    let writer = TaskAt { waits: vec![wait(1, 10)], ..task(2, 1) };
    let mut snapshot = TaskSnapshot {
        tasks: vec![reader, writer],
        locks: [(LockId(1), lock(Permits::RwLock))].into(),
        ..TaskSnapshot::default()
    };
    assert_eq!(confidences(&snapshot), [Confidence::Confirmed]);
    assert!(explain(&snapshot, &Plain)[0].title.contains("takes `L1` twice"));
    // The writer may give up.
    snapshot.tasks[1].wakers = Some(2);
    assert_eq!(confidences(&snapshot), []);
}

#[test]
fn a_task_that_takes_two_permits_of_a_semaphore() {
    let greedy = |id: u32| TaskAt { holds: vec![hold(1)], waits: vec![wait(1, u64::from(id))], ..task(id, 1) };
    let locks = [(LockId(1), lock(Permits::Semaphore))];
    let mut snapshot = TaskSnapshot { tasks: vec![greedy(1)], locks: locks.into(), ..TaskSnapshot::default() };
    assert_eq!(confidences(&snapshot), []);
    snapshot.tasks.push(greedy(2));
    assert_eq!(confidences(&snapshot), [Confidence::Likely]);
}
