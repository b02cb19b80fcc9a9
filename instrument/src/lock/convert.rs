//! Holds that change their mode, readers to writers and back, and attempts that fail by a mere look.
//!
//! An upgrade that waits for readers gives its hold up for as long as it waits: to them it is a writer in the queue, and its own hold
//! is not in its way. Once the readers are gone it holds the lock alone.
//!
//! A function that tries may look at the lock's word before its compare-exchange, and give up. What it saw is not known
//! here; that somebody held the lock then is, since a holder is noted after it took the lock and until it gives it up.
//! Direction of error: an attempt between the two is not counted.

use super::{contention, holds, holds_no_more, holds_now, incident, table};
use crate::apply::plan;
use crate::check;
use crate::thread::ThreadState;
use conprof_wire::locks::{
    HELD_ALONE, HELD_SHARED, HELD_UPGRADABLE, HOLDS, HoldRow, LiveRow, Operation, Type, type_of,
};
use core::ptr::{addr_of, addr_of_mut};

/// A site, or a call, that changes how the thread holds a lock, or looks at one.
pub(super) fn site(state: &mut ThreadState, address: usize, site: u32, operation: Operation) {
    match operation {
        Operation::Upgrade => upgraded(state, address, site),
        Operation::Downgrade => downgraded(state, address, site, HELD_SHARED),
        Operation::DowngradeToUpgradable => downgraded(state, address, site, HELD_UPGRADABLE),
        Operation::LookExclusive => looked(state, address, site, Operation::TryExclusive),
        Operation::LookShared => looked(state, address, site, Operation::TryShared),
        _ => {}
    }
}

/// The thread holds alone what it held to read.
pub(super) fn upgraded(state: &mut ThreadState, address: usize, site: u32) {
    take_alone(state, address, site, type_of(plan::site(site).0));
}

fn take_alone(state: &mut ThreadState, address: usize, site: u32, lock: Type) {
    upgrade_waits(state, address, site);
    if check::is_on(state) {
        check::lock_taken(state, address, site, true);
    }
    holds_now(state, address, site, Operation::LockExclusive, lock, 0);
}

/// The thread waits for the readers in its way.
pub(super) fn upgrade_waits(state: &mut ThreadState, address: usize, site: u32) {
    if table::find(address).is_some_and(|index| holds(state.lock.live(), index)) {
        check::lock_given_up(state, address);
        holds_no_more(state, address, site);
    }
}

/// The wait for the readers in the way is over.
pub(super) fn upgrade_waited(state: &mut ThreadState, address: usize, site: u32, lock: Type, took: bool) {
    if took {
        return take_alone(state, address, site, lock);
    }
    if check::is_on(state) {
        check::lock_taken(state, address, site, false);
    }
    holds_now(state, address, site, Operation::TryUpgradable, lock, 0);
}

/// The thread's hold is of another mode from now on, its place stays.
fn downgraded(state: &mut ThreadState, address: usize, site: u32, mode: u32) {
    let live = state.lock.live();
    let Some(index) = table::find(address) else { return };
    let Some((before, access)) = change(live, index, mode) else { return };
    check::lock_given_up(state, address);
    if check::is_on(state) {
        check::lock_taken(state, address, site, false);
    }
    if before == HELD_ALONE {
        table::set_owner(index, 0);
        contention::released(state, index, site, access, false);
        contention::acquired(state, index, access, true);
    }
}

/// Changes the mode of the thread's latest hold of a lock; gives the mode before and the place.
fn change(live: *mut LiveRow, lock: u32, mode: u32) -> Option<(u32, u32)> {
    if live.is_null() {
        return None;
    }
    // SAFETY: the row is in the recording's mapping; only this thread writes it. Indices stay below the count, which is at
    // most HOLDS.
    unsafe {
        let count = (addr_of!((*live).hold_count).read() as usize).min(HOLDS);
        let holds = addr_of_mut!((*live).holds) as *mut HoldRow;
        let at = (0..count).rev().find(|at| holds.add(*at).read().lock == lock)?;
        let hold = holds.add(at).read();
        holds.add(at).write_volatile(HoldRow { shared: mode, ..hold });
        Some((hold.shared, hold.access))
    }
}

/// The thread looks whether it can take the lock.
fn looked(state: &mut ThreadState, address: usize, site: u32, operation: Operation) {
    if !contention::is_on() || state.lock.live().is_null() {
        return;
    }
    let is_held =
        |lock: u32| table::owner(lock) != 0 || operation == Operation::TryExclusive && contention::has_readers(lock);
    if table::find(address).is_some_and(is_held) {
        incident::failed(state, address, site, operation);
    }
}
