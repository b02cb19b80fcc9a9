//! Async tasks as units: where each was spawned, whether it is polled or woken.
//!
//! ```text
//! spawned, poll_begins .. poll_ends, woken --> TaskRow of the task
//! permits -----------------------------------> what it holds and waits for
//! ```
//!
//! A task is known by the address of its header, which begins with its state: what of it is read here has been the same since
//! tokio 1.0 (`tokio::runtime::task::state`). How many wakers of a task exist follows from it: if they are as many as its futures
//! that wait for permits with the task's own waker, nothing else can wake the task.
//!
//! # Invariants
//! - A row changes under its word. The header is read only under it, while the row has the task's address: freeing the
//!   task's memory takes the address away first ([`gone`]).
//! - Tasks that find no room are counted, and take part in no finding.

use super::{Call, ThreadState, incident, permits, table, task_order};
use crate::check;
use crate::record::{self, table as rows};
use crate::rt::lock::{give_word, take_word};
use conprof_wire::locks::*;
use conprof_wire::recording::{Counter, Table};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Bits of a task's state (`tokio::runtime::task::state`): it is polled, or has ended; it is to be polled; a handle awaits it.
const RUNNING: u64 = 1;
const COMPLETE: u64 = 2;
const NOTIFIED: u64 = 4;
const JOIN_INTEREST: u64 = 8;
/// Position of the number of references in it.
const REFERENCES_SHIFT: u32 = 6;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

pub(super) fn row(index: u32) -> Option<*mut TaskRow> {
    if index == 0 { None } else { rows::row::<TaskRow>(Table::Tasks, index) }
}

/// Changes a row, or looks at one that others change.
pub(super) fn with<R>(index: u32, change: impl FnOnce(&mut TaskRow) -> R) -> Option<R> {
    let row = row(index)?;
    // SAFETY: the row is in the recording's mapping, where nothing else refers to this field but atomically.
    let word = unsafe { AtomicU32::from_ptr(&raw mut (*row).word) };
    take_word(word);
    // SAFETY: as above; the field is accessed atomically by both sides.
    let sequence = unsafe { AtomicU64::from_ptr(&raw mut (*row).sequence) };
    let before = sequence.load(Ordering::Relaxed) & !1;
    sequence.store(before + 1, Ordering::Relaxed);
    core::sync::atomic::fence(Ordering::Release);
    // SAFETY: the word makes this the only writer; the host only reads.
    let result = change(unsafe { &mut *row });
    // Release: pairs with the host's reading of an even number.
    sequence.store(before + 2, Ordering::Release);
    give_word(word);
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
pub(super) fn find(address: usize) -> Option<u32> {
    table::find(address).filter(|index| table::lock_type(*index) == Type::Task)
}

/// The task that the thread polls, or the row of what it does outside tasks.
pub(super) fn present(state: &mut ThreadState) -> u32 {
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
        let next = TaskRow { sequence: row.sequence, word: row.word, ..TaskRow::NONE };
        core::mem::replace(row, next)
    });
    let Some(kept) = kept else { return };
    permits::gone(&kept);
    // What it took and did not give back, somebody else may have by now.
    for hold in kept.holds.iter().take(kept.hold_count as usize) {
        table::mark_unsure(hold.lock);
    }
    if kept.state & TASK_WOKEN != 0 {
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
    let access = check::place(state, site);
    let spawner = state.serial + 1;
    let parent = present(state);
    let (parent, born) = with(parent, task_order::births).unwrap_or((NO_PARENT, 0));
    could_run(state, index, |row| {
        row.spawned = access;
        row.spawner = spawner;
        (row.parent, row.born) = (parent, born);
        row.polls == 0
    });
}

/// A task is woken.
pub(super) fn woken(state: &mut ThreadState, address: usize) {
    let Some(index) = find(address) else { return };
    let lock = permits::handed_out(state);
    could_run(state, index, |row| {
        let is_it = row.address == address as u64;
        if is_it {
            permits::assigned(row, lock);
        }
        is_it
    });
}

/// Marks a task as one that could run now, if `is_to_be` says so and it is not marked yet.
fn could_run(state: &ThreadState, index: u32, is_to_be: impl FnOnce(&mut TaskRow) -> bool) {
    let ticks = incident::ticks();
    let is_new = with(index, |row| {
        let is_new = is_to_be(row) && row.state & TASK_WOKEN == 0;
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
    could_run(state, call.task, |row| {
        // The task may have ended and be gone, or be polled by another thread already.
        if row.address != call.address || u64::from(row.polls) != call.acquisitions {
            return false;
        }
        row.state &= !TASK_POLLED;
        let header = header(row);
        if header & (RUNNING | COMPLETE | NOTIFIED) == 0 {
            // The list of the runtime's tasks has a reference, and so has a handle; the rest are wakers.
            let others = 1 + u64::from(header & JOIN_INTEREST != 0);
            let wakers = (header >> REFERENCES_SHIFT).checked_sub(others);
            row.wakers = wakers.and_then(|wakers| u32::try_from(wakers).ok()).unwrap_or(WAKERS_UNKNOWN);
        }
        header & NOTIFIED != 0 && header & COMPLETE == 0
    });
}

/// The state of a task, from under its row's word; 0 where the row is no task's.
fn header(row: &TaskRow) -> u64 {
    if row.is_thread != 0 || row.address == 0 {
        return 0;
    }
    // SAFETY: the row has the task's address, so its memory is not freed before the row's word is given back.
    unsafe { (row.address as *const u64).read_volatile() }
}

/// Whether a task has ended.
pub(super) fn is_complete(row: &TaskRow) -> bool {
    header(row) & COMPLETE != 0
}

/// References to a task that is being polled, as its header counts them; 0 where the row is no task's.
pub(super) fn references(row: &TaskRow) -> u64 {
    header(row) >> REFERENCES_SHIFT
}
