//! The locks a thread holds, as lock sets of its accesses.
//!
//! Direction of error: a lock beyond [`CAPACITY`] is not in the set; a lock that another thread gives up stays in it; a
//! holder's compare-exchange of its own lock's word that fails takes it out. Lock sets explain findings, they do not make them.

use super::who;
use crate::record;
use crate::thread::ThreadState;
use conprof_wire::recording::LockSetRow;

/// Locks that are remembered at once.
pub const CAPACITY: usize = 32;

/// A lock held.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Held {
    lock: u64,
    acquired_at: u32,
    shared: u32,
}

/// The lock was taken by the access of `site`.
pub fn acquired(state: &mut ThreadState, lock: usize, site: u32, exclusive: bool) {
    let acquired_at = who::row_of_site(state, site);
    let check = &mut state.check;
    let Some(place) = check.held.get_mut(check.held_len as usize) else { return };
    *place = Held { lock: lock as u64, acquired_at, shared: u32::from(!exclusive) };
    check.held_len += 1;
    check.lock_set = on_top(check.lock_set, place);
}

/// The lock is about to be given up: its latest acquisition is over.
pub fn released(state: &mut ThreadState, lock: usize) {
    let check = &mut state.check;
    let len = (check.held_len as usize).min(CAPACITY);
    let Some(held) = check.held.get_mut(..len) else { return };
    let Some(place) = held.iter().rposition(|held| held.lock == lock as u64) else { return };
    let mut rest = held.iter_mut().skip(place);
    if let Some(mut gap) = rest.next() {
        for next in rest {
            *gap = *next;
            gap = next;
        }
    }
    check.held_len = len as u32 - 1;
    let mut set = 0;
    for held in check.held.iter().take(len - 1) {
        set = on_top(set, held);
    }
    check.lock_set = set;
}

fn on_top(parent: u32, held: &Held) -> u32 {
    record::context::lock_set(&LockSetRow {
        lock: held.lock,
        parent,
        acquired_at: held.acquired_at,
        shared: held.shared,
        reserved: 0,
    })
}
