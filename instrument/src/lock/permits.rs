//! Permits of tokio's semaphores: which task holds and waits for which.
//!
//! ```text
//! acquires .. counts .. acquired, tried --> holds and waits of the task, by the word that counts a semaphore's permits
//! assigns, forgets, cancelled ------------> the same
//! each of these ---permit_waits-----------> how long it took, and who is to blame
//! ```
//!
//! All of tokio's locks, and its bounded channels, count permits of one kind of semaphore.
//!
//! Invariant: what finds no room is told: the task, or the lock, becomes unsure, and takes part in no finding.
//!
//! Direction of error: a hold whose holder is not known for sure makes its lock unsure; permits that were given back by another
//! task than their holder count as given back.

use super::permit_waits::{Ended, Unit, Waited};
use super::task::{present, references, row, with};
use super::{CALLS, Call, ThreadState, contention, permit_waits, table, task_order};
use crate::check;
use crate::record;
use conprof_wire::locks::*;
use conprof_wire::recording::Counter;
use conprof_wire::waits::TASK_IS_THREAD;
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
        let wait = with(call.task, |row| forget(row, future).map(|wait| (wait, unit(row)))).flatten();
        if let Some((wait, unit)) = wait {
            waits_no_more(&wait, unit, state.serial, true);
        }
        task_order::taken(state, call.task, &wanted, most);
        holds_now(call.task, lock, access, shares, wait.is_some());
        return;
    }
    let references_before = call.acquisitions;
    let now = record::time_ns();
    let is_new = with(call.task, |row| {
        let references = references(row);
        let polls = row.polls;
        let known = row.waits.iter().position(|wait| wait.future == future);
        let free = || row.waits.iter().position(|wait| wait.future == 0);
        let Some(wait) = known.or_else(free).and_then(|at| row.waits.get_mut(at)) else {
            row.state |= TASK_UNSURE;
            return false;
        };
        if known.is_none() {
            *wait = TaskWait { future, since_ns: now, lock, access, holder: u32::MAX, ..TaskWait::default() };
        }
        wait.polls = polls;
        // It was given this task's waker, or another in place of it.
        if references > references_before {
            wait.flags |= WAIT_OWN_WAKER;
        } else if references < references_before {
            wait.flags &= !WAIT_OWN_WAKER;
        }
        wait.flags &= !WAIT_ASSIGNED;
        known.is_none()
    });
    if is_new == Some(true) {
        let (holder, for_signal) = permit_waits::waits(lock, now);
        with(call.task, |row| {
            if let Some(wait) = row.waits.iter_mut().find(|wait| wait.future == future) {
                wait.holder = holder;
                wait.flags |= if for_signal { WAIT_FOR_SIGNAL } else { 0 };
            }
        });
    }
    task_order::taken(state, call.task, &wanted, most);
}

/// Whether a future wants all permits that there are: a lock alone.
fn takes_all(future: u64, most: u32) -> bool {
    // One of its words says how many it wants; the others are addresses, flags and how many it still lacks.
    // SAFETY: the future, which was just polled, has this many words.
    let mut words = (0..FUTURE_WORDS).map(|at| unsafe { (future as *const u64).add(at).read_volatile() });
    most <= 1 || words.any(|word| word == u64::from(most))
}

/// A row's task, as what waits or holds.
fn unit(row: &TaskRow) -> Unit {
    let number = match row.is_thread {
        0 => row.number as u32 & !TASK_IS_THREAD,
        _ => row.thread.wrapping_sub(1) | TASK_IS_THREAD,
    };
    Unit { number, spawned: row.spawned }
}

/// A wait that was recorded is over. `thread` is the serial of the thread that ends it.
pub(super) fn waits_no_more(wait: &TaskWait, unit: Unit, thread: u32, took: bool) {
    if contention::is_on() {
        let for_signal = wait.flags & WAIT_FOR_SIGNAL != 0;
        let waited = Waited { unit, access: wait.access, since_ns: wait.since_ns, holder: wait.holder, for_signal };
        permit_waits::waited(wait.lock, &waited, thread, record::time_ns(), took);
    }
}

/// The waits of a task that is gone.
pub(super) fn gone(row: &TaskRow) {
    for wait in row.waits.iter().filter(|wait| wait.future != 0) {
        waits_no_more(wait, unit(row), 0, false);
    }
}

/// Takes an element out, so that those after it move up.
fn take_out<T: Copy + Default>(all: &mut [T], at: usize) {
    let mut next = T::default();
    for place in all.iter_mut().skip(at).rev() {
        core::mem::swap(place, &mut next);
    }
}

/// Takes a wait out of a row, if it is there.
fn forget(row: &mut TaskRow, future: u64) -> Option<TaskWait> {
    let at = row.waits.iter().position(|wait| wait.future == future)?;
    let wait = row.waits.get(at).copied();
    take_out(&mut row.waits, at);
    wait
}

fn holds_now(task: u32, lock: u32, access: u32, shares: bool, waited: bool) {
    let mark = match with(task, |row| unit(row)) {
        Some(unit) if contention::is_on() => permit_waits::taken(lock, unit, access, waited),
        _ => HoldMark::default(),
    };
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
        if let Some(place) = at.and_then(|at| row.marks.get_mut(at)) {
            // Of several holds the latest is measured, and only if it is the last one left.
            let share_ns = if before == 0 { 0 } else { place.share_ns };
            *place = HoldMark { since_ns: mark.since_ns, share_ns: share_ns.wrapping_add(mark.share_ns) };
        }
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
        holds_now(task, lock, access, left != 0, false);
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
    let given = with(task, |row| (give_back(row, lock, permits), unit(row)));
    let (ended, unit) = given.map_or((None, None), |(ended, unit)| (ended, Some(unit)));
    if let Some(unit) = unit.filter(|_| contention::is_on()) {
        let site = call.site;
        permit_waits::given_back(lock, unit, ended.as_ref(), permits, || check::place(state, site));
    }
    if ended.is_none() {
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
            permit_waits::forgotten(lock);
        }
    }
}

/// Takes a hold of a lock out of a row, or all where several permits were given back in one.
fn give_back(row: &mut TaskRow, lock: u32, permits: u64) -> Option<Ended> {
    let count = (row.hold_count as usize).min(TASK_HOLDS);
    let at = row.holds.iter().take(count).position(|hold| hold.lock == lock)?;
    let (hold, mark) = (row.holds.get_mut(at)?, row.marks.get_mut(at)?);
    let mut ended = Ended { access: hold.access, mark: *mark, holds: hold.shared & !TASK_HOLD_SHARED };
    if permits == 1 && ended.holds > 1 {
        // Which of them ends is not known: one of the average.
        let share_ns = mark.share_ns / u64::from(ended.holds);
        ended.mark = HoldMark { since_ns: 0, share_ns };
        ended.holds = 1;
        mark.share_ns -= share_ns;
        hold.shared -= 1;
        return Some(ended);
    }
    take_out(&mut row.holds, at);
    take_out(&mut row.marks, at);
    row.hold_count -= 1;
    Some(ended)
}

/// A future that takes permits is dropped, or ends without them.
pub(super) fn cancelled(state: &mut ThreadState, future: usize) {
    let task = present(state);
    let known = row(task).and_then(|row| {
        // SAFETY: the row is in the recording's mapping; only the task's own poll adds waits.
        unsafe { (*(&raw const (*row).waits)).iter().find(|wait| wait.future == future as u64).copied() }
    });
    let Some(known) = known else { return };
    let forgotten = with(task, |row| forget(row, known.future).map(|wait| (wait, unit(row)))).flatten();
    let Some((wait, unit)) = forgotten else { return };
    waits_no_more(&wait, unit, state.serial, false);
    if wait.flags & WAIT_ASSIGNED != 0 {
        // It hands on what it was given, which nobody has held.
        state.lock.cancelled = wait.lock;
    }
}
