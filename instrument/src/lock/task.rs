//! Async tasks as units: where each was spawned, whether it is polled or woken, which permits it holds and waits for.
//!
//! ```text
//! spawned, poll_begins .. poll_ends, woken --> TaskRow of the task
//! acquires .. counts .. acquired, tried -----> its holds and waits, by the word that counts a semaphore's permits
//! assigns, forgets, cancelled ----------------> the same
//! ```
//!
//! All of tokio's locks, and its bounded channels, count permits of one kind of semaphore. A task is known by the address of its
//! header, which begins with its state: what of it is read here has been the same since tokio 1.0
//! (`tokio::runtime::task::state`). How many wakers of a task exist follows from it: if they are as many as its futures that wait
//! for permits with the task's own waker, nothing else can wake the task.
//!
//! # Invariants
//! - A row changes under its word. The header is read only under it, while the row has the task's address: freeing the
//!   task's memory takes the address away first ([`gone`]).
//! - What finds no room is told: the task, or the lock, becomes unsure, and takes part in no finding.
//!
//! Direction of error: a hold whose holder is not known for sure makes its lock unsure; permits that were given back by another
//! task than their holder count as given back.

use super::{CALLS, Call, ThreadState, incident, stack_cache, table};
use crate::record::{self, table as rows};
use crate::rt::syscall;
use conprof_wire::locks::*;
use conprof_wire::recording::{Counter, Table};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Spins before the processor is given away.
const SPINS: u32 = 200;

/// Bits of a task's state (`tokio::runtime::task::state`): it is polled, or has ended; it is to be polled; a handle awaits it.
const RUNNING: u64 = 1;
const COMPLETE: u64 = 2;
const NOTIFIED: u64 = 4;
const JOIN_INTEREST: u64 = 8;
/// Position of the number of references in it.
const REFERENCES_SHIFT: u32 = 6;

/// Words of a semaphore, its count of permits among them: a lock, a list's two ends, a flag and the count.
const SEMAPHORE_WORDS: usize = 5;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Offset of the count of permits in a semaphore, plus 1, once it is known.
static COUNT_OFFSET: AtomicU32 = AtomicU32::new(0);

fn row(index: u32) -> Option<*mut TaskRow> {
    if index == 0 { None } else { rows::row::<TaskRow>(Table::Tasks, index) }
}

/// Changes a row, or looks at one that others change.
fn with<R>(index: u32, change: impl FnOnce(&mut TaskRow) -> R) -> Option<R> {
    let row = row(index)?;
    // SAFETY: the row is in the recording's mapping, where nothing else refers to this field but atomically.
    let word = unsafe { AtomicU32::from_ptr(&raw mut (*row).word) };
    let mut spins = 0u32;
    // Acquire: pairs with the release below.
    while word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(SPINS) {
            syscall::yield_now();
        }
        core::hint::spin_loop();
    }
    // SAFETY: as above; the field is accessed atomically by both sides.
    let sequence = unsafe { AtomicU64::from_ptr(&raw mut (*row).sequence) };
    let before = sequence.load(Ordering::Relaxed) & !1;
    sequence.store(before + 1, Ordering::Relaxed);
    core::sync::atomic::fence(Ordering::Release);
    // SAFETY: the word makes this the only writer; the host only reads.
    let result = change(unsafe { &mut *row });
    // Release: pairs with the acquire above, and with the host's reading of an even number.
    sequence.store(before + 2, Ordering::Release);
    word.store(0, Ordering::Release);
    Some(result)
}

/// The row of the task at an address, made where there is none; 0 where there is no room (counted).
fn of(address: usize) -> u32 {
    let Some(index) = table::find_or_add(address, Type::Task, 0) else { return 0 };
    let known = with(index, |row| {
        if row.address != address as u64 {
            begin(row, address);
        }
    });
    if known.is_none() {
        record::count(Counter::LocksLost);
        return 0;
    }
    rows::raise_count(Table::Tasks, index);
    index
}

fn begin(row: &mut TaskRow, address: usize) {
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed) + 1;
    *row = TaskRow { sequence: row.sequence, word: row.word, address: address as u64, number, ..TaskRow::NONE };
}

/// The row of a task that is known.
fn find(address: usize) -> Option<u32> {
    table::find(address).filter(|index| table::lock_type(*index) == Type::Task)
}

/// The task that the thread polls, or the row of what it does outside tasks.
fn present(state: &mut ThreadState) -> u32 {
    if let Some(at) = incident::poll_under_way(state)
        && let Some(call) = state.lock.calls.get(at)
        && operation_of(call.packed) == Some(Operation::Poll)
    {
        return call.task;
    }
    if state.lock.own_task == 0 && !state.lock.live().is_null() {
        let address = core::ptr::from_ref(state) as usize;
        let own = of(address);
        let serial = state.serial;
        with(own, |row| {
            row.is_thread = 1;
            row.thread = serial + 1;
        });
        state.lock.own_task = own;
    }
    state.lock.own_task
}

/// The thread is gone.
pub(super) fn thread_ends(state: &mut ThreadState) {
    if state.lock.own_task != 0 {
        state.lock.own_task = 0;
        table::gone(core::ptr::from_ref(state) as usize);
    }
}

/// The memory of a task is about to be freed.
pub(super) fn gone(index: u32) {
    let kept = with(index, |row| {
        let kept = (row.holds, row.hold_count, row.state);
        *row = TaskRow { sequence: row.sequence, word: row.word, ..TaskRow::NONE };
        kept
    });
    let Some((holds, count, state)) = kept else { return };
    // What it took and did not give back, somebody else may have by now.
    for hold in holds.iter().take(count as usize) {
        table::mark_unsure(hold.lock);
    }
    if state & TASK_WOKEN != 0 {
        LOST_RUNNABLE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tasks that were gone before they were polled.
static LOST_RUNNABLE: AtomicI64 = AtomicI64::new(0);

fn add_runnable(state: &ThreadState, change: i64) {
    let live = state.lock.live();
    if !live.is_null() {
        // SAFETY: the row is in the recording's mapping; only this thread writes the field.
        unsafe {
            let field = &raw mut (*live).runnable;
            field.write_volatile(field.read().wrapping_add(change));
        }
    }
}

/// Tasks that could run now, and do not.
pub(super) fn runnable() -> u64 {
    let mut sum = LOST_RUNNABLE.load(Ordering::Relaxed).wrapping_neg();
    for serial in 0..rows::count(Table::Live) {
        if let Some(live) = rows::row::<LiveRow>(Table::Live, serial) {
            // SAFETY: as above; another thread's latest value is good enough.
            sum = sum.wrapping_add(unsafe { (&raw const (*live).runnable).read_volatile() });
        }
    }
    u64::try_from(sum).unwrap_or(0)
}

/// A function that makes tasks is about to return one.
pub(super) fn spawned(state: &mut ThreadState, address: usize, site: u32) {
    // A header begins a cell, which is aligned to cache lines.
    if address == 0 || !address.is_multiple_of(64) || state.lock.live().is_null() {
        return;
    }
    let index = of(address);
    if with(index, |row| row.spawned != 0).unwrap_or(true) {
        return;
    }
    let access = stack_cache::place(state, site);
    let spawner = state.serial + 1;
    let ticks = incident::ticks();
    let is_first = with(index, |row| {
        row.spawned = access;
        row.spawner = spawner;
        let is_first = row.polls == 0 && row.state & TASK_WOKEN == 0;
        if is_first {
            row.state |= TASK_WOKEN;
            row.woken_ticks = ticks;
        }
        is_first
    });
    if is_first == Some(true) {
        add_runnable(state, 1);
    }
    let parent = present(state);
    with(parent, |row| row.spawns = row.spawns.wrapping_add(1));
}

/// A task is woken.
pub(super) fn woken(state: &mut ThreadState, address: usize) {
    let Some(index) = find(address) else { return };
    let ticks = incident::ticks();
    let lock = hands_out(state);
    let is_new = with(index, |row| {
        if row.address != address as u64 {
            return false;
        }
        if lock != 0 {
            let waits = |wait: &&mut TaskWait| {
                wait.future != 0 && wait.lock == lock && wait.flags & (WAIT_OWN_WAKER | WAIT_ASSIGNED) == WAIT_OWN_WAKER
            };
            if let Some(wait) = row.waits.iter_mut().find(waits) {
                wait.flags |= WAIT_ASSIGNED;
            }
        }
        let is_new = row.state & TASK_WOKEN == 0;
        if is_new {
            row.state |= TASK_WOKEN;
            row.woken_ticks = ticks;
        }
        is_new
    });
    if is_new == Some(true) {
        add_runnable(state, 1);
    }
}

/// The lock whose permits the thread hands out to waiters just now; 0 for none.
fn hands_out(state: &ThreadState) -> u32 {
    let count = (state.lock.call_count as usize).min(CALLS);
    let calls = state.lock.calls.get(..count).unwrap_or_default();
    let is = |call: &&Call| call.sp > state.guest_sp && operation_of(call.packed) == Some(Operation::AssignPermits);
    calls.iter().rev().find(is).map_or(0, |call| call.second as u32)
}

/// A poll begins.
pub(super) fn poll_begins(state: &mut ThreadState, call: &mut Call) {
    let index = of(call.address as usize);
    call.task = index;
    let thread = state.serial + 1;
    let late = with(index, |row| {
        row.polls = row.polls.wrapping_add(1);
        row.thread = thread;
        row.wakers = WAKERS_UNKNOWN;
        let was_woken = row.state & TASK_WOKEN != 0;
        row.state = row.state & !TASK_WOKEN | TASK_POLLED;
        (was_woken, row.woken_ticks, row.spawned, row.polls)
    });
    let Some((was_woken, woken_ticks, spawned, polls)) = late else { return };
    call.acquisitions = u64::from(polls);
    // The task may be gone when the poll ends.
    call.access = spawned;
    if was_woken {
        add_runnable(state, -1);
        let ticks = incident::ticks();
        incident::polled_late(state, call.address, spawned, ticks.saturating_sub(woken_ticks));
    }
}

/// A poll ends.
pub(super) fn poll_ends(state: &mut ThreadState, call: &Call) {
    let ticks = incident::ticks();
    let is_new = with(call.task, |row| {
        // The task may have ended and be gone, or be polled by another thread already.
        if row.address != call.address || u64::from(row.polls) != call.acquisitions {
            return false;
        }
        row.state &= !TASK_POLLED;
        // SAFETY: the row has the task's address, so its memory is not freed before the row's word is given back.
        let header = unsafe { (call.address as *const u64).read_volatile() };
        if header & (RUNNING | COMPLETE | NOTIFIED) == 0 {
            // The list of the runtime's tasks has a reference, and so has a handle; the rest are wakers.
            let others = 1 + u64::from(header & JOIN_INTEREST != 0);
            let wakers = (header >> REFERENCES_SHIFT).checked_sub(others);
            row.wakers = wakers.and_then(|wakers| u32::try_from(wakers).ok()).unwrap_or(WAKERS_UNKNOWN);
            return false;
        }
        let is_new = header & NOTIFIED != 0 && header & COMPLETE == 0 && row.state & TASK_WOKEN == 0;
        if is_new {
            row.state |= TASK_WOKEN;
            row.woken_ticks = ticks;
        }
        is_new
    });
    if is_new == Some(true) {
        add_runnable(state, 1);
    }
}

/// References to a task, as its header counts them; 0 where the row is no task's.
fn references(row: &TaskRow) -> u64 {
    if row.is_thread != 0 || row.address == 0 {
        return 0;
    }
    // SAFETY: as in `poll_ends`; the task is being polled.
    unsafe { (row.address as *const u64).read_volatile() >> REFERENCES_SHIFT }
}

/// A future that takes permits is about to be polled.
pub(super) fn acquires(state: &mut ThreadState, call: &mut Call) {
    call.task = present(state);
    call.acquisitions = with(call.task, |row| references(row)).unwrap_or(0);
}

/// Within that, the word that counts the permits is about to be changed.
pub(super) fn counts(state: &mut ThreadState, address: usize) {
    let sp = state.guest_sp;
    let count = (state.lock.call_count as usize).min(CALLS);
    let calls = state.lock.calls.get_mut(..count).unwrap_or_default();
    let is = |call: &&mut Call| call.sp >= sp && operation_of(call.packed) == Some(Operation::AcquirePermits);
    if let Some(call) = calls.iter_mut().rev().find(is) {
        call.second = address as u64;
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
    let access = stack_cache::place(state, site);
    let Some(lock) = table::find_or_add(call.second as usize, Type::TokioPermits, access) else {
        with(call.task, |row| row.state |= TASK_UNSURE);
        return;
    };
    if outcome == 0 {
        with(call.task, |row| forget(row, future));
        holds_now(call.task, lock, access);
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

fn holds_now(task: u32, lock: u32, access: u32) {
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
        let before = if same.is_some() { place.shared } else { 0 };
        *place = HoldRow { shared: before.saturating_add(1), ..hold };
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
    let access = stack_cache::place(state, site);
    if let Some(lock) = table::find_or_add(address, Type::TokioPermits, access) {
        holds_now(task, lock, access);
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
    if let Some(hold) = row.holds.get_mut(at).filter(|hold| permits == 1 && hold.shared > 1) {
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
