//! A small language for the tests of the lock analyses: threads are numbers, locks letters, places lines.

use super::lock_order::{Edge, Orders, Write};
use super::structure::{Structural, moments_of_edges};
use super::{Describe, Hold, Lock, LockId, LockRules, Locks, Mode, Place};
use crate::report::{Frame, LockRef, Thread};
use std::collections::HashMap;

/// Names by number: thread 1 is `t1`, lock 0 is `A`, place 7 is `app.rs:7` in `f7`.
pub struct Plain;

impl Describe for Plain {
    fn thread(&self, serial: u32) -> Thread {
        Thread { serial, name: format!("t{serial}"), ..Thread::default() }
    }

    fn frames(&self, place: Place) -> Vec<Frame> {
        vec![Frame { function: format!("f{}", place.0), file: "app.rs".to_owned(), line: place.0, ..Frame::default() }]
    }

    fn lock(&self, lock: LockId) -> LockRef {
        let name = char::from(b'A' + lock.0 as u8).to_string();
        LockRef { name, kind: "std::sync::Mutex".to_owned(), ..LockRef::default() }
    }
}

/// A step of a thread.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Take a lock.
    Take(Hold),
    /// Take a lock without waiting.
    Try(Hold),
    /// Give the latest hold of a lock up.
    Give(LockId),
    /// A structural event of this thread.
    Structural(Structural),
}

/// A lock by its letter.
pub fn lock(name: char) -> LockId {
    LockId(name as u32 - 'A' as u32)
}

fn hold(name: char, mode: Mode, line: u32) -> Hold {
    Hold { lock: lock(name), mode, place: Place(line) }
}

/// Takes `name` at `line`.
pub fn take(name: char, line: u32) -> Step {
    Step::Take(hold(name, Mode::Exclusive, line))
}

/// Takes `name` for reading at `line`.
pub fn read(name: char, line: u32) -> Step {
    Step::Take(hold(name, Mode::Shared, line))
}

/// Tries to take `name` at `line`.
pub fn attempt(name: char, line: u32) -> Step {
    Step::Try(hold(name, Mode::Exclusive, line))
}

/// Gives `name` up.
pub fn give(name: char) -> Step {
    Step::Give(lock(name))
}

/// Runs steps of (thread, step) as a recorder would see them.
pub fn record(steps: &[(u32, Step)]) -> Orders {
    let mut held: HashMap<u32, Vec<Hold>> = HashMap::new();
    let mut events = Vec::new();
    let mut orders = Orders::default();
    let mut write_edges = Vec::new();
    let mut next_edge = 0;
    let mut edge_of = Vec::new();
    for &(thread, step) in steps {
        let holds = held.entry(thread).or_default();
        match step {
            Step::Take(new) | Step::Try(new) => {
                for (i, old) in holds.iter().enumerate() {
                    let mut others = holds.clone();
                    others.remove(i);
                    events.push(Structural::Edge { thread, edge: next_edge });
                    edge_of.push(next_edge);
                    next_edge += 1;
                    orders.edges.push(Edge {
                        thread,
                        held: *old,
                        wanted: new,
                        by_try: matches!(step, Step::Try(_)),
                        others,
                        moment: Default::default(),
                        count: 1,
                        doubt: None,
                    });
                }
                if new.mode == Mode::Exclusive {
                    events.push(Structural::Edge { thread, edge: next_edge });
                    write_edges.push(next_edge);
                    next_edge += 1;
                    orders.writes.push(Write { thread, hold: new, others: holds.clone(), moment: Default::default() });
                }
                holds.push(new);
            }
            Step::Give(lock) => {
                if let Some(at) = holds.iter().rposition(|h| h.lock == lock) {
                    holds.remove(at);
                }
            }
            Step::Structural(event) => events.push(event),
        }
    }
    let moments = moments_of_edges(&events, next_edge);
    for (edge, at) in orders.edges.iter_mut().zip(edge_of) {
        edge.moment = moments[at].clone();
    }
    for (write, at) in orders.writes.iter_mut().zip(write_edges) {
        write.moment = moments[at].clone();
    }
    orders
}

/// Locks `A`.. of the given rules, each a class of its own.
pub fn locks(count: u32, rules: LockRules) -> Locks {
    Locks((0..count).map(|class| Lock { class, rules }).collect())
}

/// The rules of std's and parking_lot's reader-writer locks.
pub const FAIR: LockRules = LockRules { readers_wait_behind_writers: true, is_reentrant: false, is_handed_over: false };

/// The rules of a mutex, or of a lock whose readers pass waiting writers.
pub const PLAIN: LockRules =
    LockRules { readers_wait_behind_writers: false, is_reentrant: false, is_handed_over: false };
