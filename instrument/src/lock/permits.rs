//! Permits of tokio's semaphores: which task holds and waits for which.
//!
//! ```text
//! acquires .. counts .. acquired, tried --> holds and waits of the task, by the word that counts a semaphore's permits
//! assigns, forgets, cancelled ------------> the same
//! ```
//!
//! All of tokio's locks, and its bounded channels, count permits of one kind of semaphore.
//!
//! Invariant: what finds no room is told: the task, or the lock, becomes unsure, and takes part in no finding.
//!
//! Direction of error: a hold whose holder is not known for sure makes its lock unsure; permits that were given back by another
//! task than their holder count as given back.

use super::task::{present, references, row, with};
use super::{CALLS, Call, ThreadState, table, task_order};
use crate::check;
use crate::record;
use conprof_wire::locks::*;
use conprof_wire::recording::Counter;
use core::sync::atomic::{AtomicU32, Ordering};

/// Words of a semaphore, its count of permits among them: a lock, a list's two ends, a flag and the count.
const SEMAPHORE_WORDS: usize = 5;

/// Position of the count in its word; below it is whether the semaphore is closed.
const COUNT_SHIFT: u32 = 1;

/// Words of a future that takes permits: a waiter's state, waker and neighbours, the semaphore, how many, and whether it queues.
const FUTURE_WORDS: usize = 8;

/// Offset of the count of permits in a semaphore, plus 1, once it is known.
static COUNT_OFFSET: AtomicU32 = AtomicU32::new(0);

/// A future that takes permits is about to be polled.
pub(super) fn acquires(state: &mut ThreadState, call: &mut Call) {
    call.task = present(state);
    call.acquisitions = with(call.task, |row| references(row)).unwrap_or(0);
}

/// Within that, the word that counts the permits is about to be changed.
pub(super) fn counts(state: &mut ThreadState, address: usize) {
    let sp = state.guest_sp;
    if let Some(call) = innermost(state, Operation::AcquirePermits, sp) {
        call.second = address as u64;
        // SAFETY: the target is about to change the word.
        let count = unsafe { (address as *const u64).read_volatile() } >> COUNT_SHIFT;
        call.since = call.since.max(count);
    }
}

/// The innermost call under way of one kind, of those that were entered with a stack pointer from `lowest_sp` on.
fn innermost(state: &mut ThreadState, which: Operation, lowest_sp: u64) -> Option<&mut Call> {
    let count = (state.lock.call_count as usize).min(CALLS);
    let calls = state.lock.calls.get_mut(..count).unwrap_or_default();
    calls.iter_mut().rev().find(|call| call.sp >= lowest_sp && operation_of(call.packed) == Some(which))
}

/// The lock whose permits the thread hands out to waiters just now; 0 for none.
pub(super) fn handed_out(state: &mut ThreadState) -> u32 {
    // What wakes a task is called by what hands out, so its own stack pointer is lower.
    let lowest_sp = state.guest_sp + 1;
    innermost(state, Operation::AssignPermits, lowest_sp).map_or(0, |call| call.second as u32)
}

/// A task is woken that waits for permits of a lock, which it is given; 0 where it is woken for something else.
pub(super) fn assigned(row: &mut TaskRow, lock: u32) {
    let waits = |wait: &&mut TaskWait| {
        wait.future != 0 && wait.lock == lock && wait.flags & (WAIT_OWN_WAKER | WAIT_ASSIGNED) == WAIT_OWN_WAKER
    };
    if lock != 0
        && let Some(wait) = row.waits.iter_mut().find(waits)
    {
        wait.flags |= WAIT_ASSIGNED;
    }
}

/// It was polled; `result` is 0 once it has its permits, 2 while it waits.
pub(super) fn acquired(state: &mut ThreadState, call: &Call, site: u32, result: u64) {
    let future = call.address;
    let outcome = result as u8;
    // Without a look at the count, the task's budget was used up: nothing has changed.
    let counted = call.second != 0 && outcome != 1;
    if !counted {
        if outcome != 2 {
            cancelled(state, future as usize);
        }
        return;
    }
    let access = check::place(state, site);
    let Some(lock) = table::find_or_add(call.second as usize, Type::TokioPermits, access) else {
        with(call.task, |row| row.state |= TASK_UNSURE);
        return;
    };
    let most = table::note_permits(lock, call.since);
    let shares = !takes_all(future, most);
    let wanted = HoldRow { lock, shared: u32::from(shares), access, reserved: 0 };
    if outcome == 0 {
        with(call.task, |row| forget(row, future));
        task_order::taken(state, call.task, &wanted, most);
        holds_now(call.task, lock, access, shares);
        return;
    }
    let references_before = call.acquisitions;
    let now = record::time_ns();
    with(call.task, |row| {
        let references = references(row);
        let polls = row.polls;
        let known = row.waits.iter().position(|wait| wait.future == future);
        let free = || row.waits.iter().position(|wait| wait.future == 0);
        let Some(wait) = known.or_else(free).and_then(|at| row.waits.get_mut(at)) else {
            row.state |= TASK_UNSURE;
            return;
        };
        if known.is_none() {
            *wait = TaskWait { future, since_ns: now, lock, access, polls, flags: 0 };
        }
        wait.polls = polls;
        // It was given this task's waker, or another in place of it.
        if references > references_before {
            wait.flags |= WAIT_OWN_WAKER;
        } else if references < references_before {
            wait.flags &= !WAIT_OWN_WAKER;
        }
        wait.flags &= !WAIT_ASSIGNED;
    });
    task_order::taken(state, call.task, &wanted, most);
}

/// Whether a future wants all permits that there are: a lock alone.
fn takes_all(future: u64, most: u32) -> bool {
    // One of its words says how many it wants; the others are addresses, flags and how many it still lacks.
    // SAFETY: the future, which was just polled, has this many words.
    let mut words = (0..FUTURE_WORDS).map(|at| unsafe { (future as *const u64).add(at).read_volatile() });
    most <= 1 || words.any(|word| word == u64::from(most))
}

/// Takes an element out, so that those after it move up.
fn take_out<T: Copy + Default>(all: &mut [T], at: usize) {
    let mut next = T::default();
    for place in all.iter_mut().skip(at).rev() {
        core::mem::swap(place, &mut next);
    }
}

/// Takes a wait out of a row; whether it was there.
fn forget(row: &mut TaskRow, future: u64) -> bool {
    let Some(at) = row.waits.iter().position(|wait| wait.future == future) else { return false };
    take_out(&mut row.waits, at);
    true
}

fn holds_now(task: u32, lock: u32, access: u32, shares: bool) {
    if table::receiver(lock) != 0 {
        // Whoever takes these permits does not keep them.
        return;
    }
    let has_room = with(task, |row| {
        let count = row.hold_count as usize;
        let hold = HoldRow { lock, shared: 1, access, reserved: row.spawns };
        let same = row.holds.iter().take(count).position(|hold| hold.lock == lock);
        // Messages that were sent before the receiver was known.
        let sent = || row.holds.iter().take(count).position(|hold| table::receiver(hold.lock) != 0);
        let at = same.or_else(|| if count < TASK_HOLDS { Some(count) } else { sent() });
        let Some(place) = at.and_then(|at| row.holds.get_mut(at)) else { return false };
        let before = if same.is_some() { place.shared & !TASK_HOLD_SHARED } else { 0 };
        let mode = if shares { TASK_HOLD_SHARED } else { 0 };
        *place = HoldRow { shared: before.saturating_add(1) | mode, ..hold };
        if at == Some(count) {
            row.hold_count += 1;
        }
        true
    });
    if has_room != Some(true) {
        record::count(Counter::LocksLost);
        table::mark_unsure(lock);
    }
}

/// Permits were taken at once.
pub(super) fn tried(state: &mut ThreadState, address: usize, site: u32) {
    let task = present(state);
    let access = check::place(state, site);
    if let Some(lock) = table::find_or_add(address, Type::TokioPermits, access) {
        // SAFETY: the target has just changed the word.
        let left = unsafe { (address as *const u64).read_volatile() } >> COUNT_SHIFT;
        holds_now(task, lock, access, left != 0);
    }
}

/// The lock of a semaphore; 0 where nobody has taken permits of it.
pub(super) fn lock_of(semaphore: usize) -> u32 {
    let find = |offset: usize| {
        table::find(semaphore.wrapping_add(offset)).filter(|lock| table::lock_type(*lock) == Type::TokioPermits)
    };
    if let Some(offset) = COUNT_OFFSET.load(Ordering::Relaxed).checked_sub(1) {
        return find(offset as usize).unwrap_or(0);
    }
    for offset in (0..SEMAPHORE_WORDS).map(|word| word * 8) {
        if let Some(lock) = find(offset) {
            COUNT_OFFSET.store(offset as u32 + 1, Ordering::Relaxed);
            return lock;
        }
    }
    0
}

/// Permits are about to be handed to those who wait, and the rest to the semaphore.
pub(super) fn assigns(state: &mut ThreadState, call: &mut Call) {
    let permits = core::mem::replace(&mut call.second, 0);
    let lock = lock_of(call.address as usize);
    call.second = u64::from(lock);
    let was_cancelled = core::mem::replace(&mut state.lock.cancelled, 0);
    if lock == 0 || permits == 0 || was_cancelled == lock {
        return;
    }
    let task = present(state);
    call.task = task;
    if with(task, |row| give_back(row, lock, permits)) != Some(true) {
        // What another task took: a message was received, or a guard was handed over.
        let receiver = with(task, |row| receiver_of(task, row.number, row.spawns));
        table::note_receiver(lock, receiver.unwrap_or(SEVERAL_RECEIVERS));
    }
}

/// Permits of a semaphore, or of one in an `Arc`, are forgotten: somebody may add others in place of them one day, or nobody.
pub(super) fn forgets(semaphore: usize) {
    for offset in [0, 2 * size_of::<usize>()] {
        let lock = lock_of(semaphore.wrapping_add(offset));
        if lock != 0 {
            table::mark_unsure(lock);
        }
    }
}

/// Takes a hold of a lock out of a row, or all where several permits were given back in one.
fn give_back(row: &mut TaskRow, lock: u32, permits: u64) -> bool {
    let count = (row.hold_count as usize).min(TASK_HOLDS);
    let Some(at) = row.holds.iter().take(count).position(|hold| hold.lock == lock) else { return false };
    if let Some(hold) = row.holds.get_mut(at).filter(|hold| permits == 1 && hold.shared & !TASK_HOLD_SHARED > 1) {
        hold.shared -= 1;
        return true;
    }
    take_out(&mut row.holds, at);
    row.hold_count -= 1;
    true
}

/// A future that takes permits is dropped, or ends without them.
pub(super) fn cancelled(state: &mut ThreadState, future: usize) {
    let task = present(state);
    let known = row(task).and_then(|row| {
        // SAFETY: the row is in the recording's mapping; only the task's own poll adds waits.
        unsafe { (*(&raw const (*row).waits)).iter().find(|wait| wait.future == future as u64).copied() }
    });
    let Some(known) = known else { return };
    let was_assigned = with(task, |row| {
        let was_assigned = row.waits.iter().any(|wait| wait.future == known.future && wait.flags & WAIT_ASSIGNED != 0);
        forget(row, known.future);
        was_assigned
    });
    if was_assigned == Some(true) {
        // It hands on what it was given, which nobody has held.
        state.lock.cancelled = known.lock;
    }
}
