//! The log that lock order is derived from: new (held, taken) pairs, and structure.
//!
//! A pair is logged once for each place and phase of a thread; a phase ends at thread creation, join and barriers, so that
//! an occurrence that structure does not order is not hidden by an earlier one that it does. After [`PHASES`] phases a
//! thread's pairs count as of the last one.

use super::table;
use crate::check;
use crate::record::{self, table as rows};
use crate::rt::arena;
use crate::thread::ThreadState;
use conprof_wire::locks::{
    HELD_SHARED, HOLDS, HoldRow, LiveRow, NOTIFIED_HIGH, NOTIFIED_LOW, OTHER_SHARED, OTHERS, OrderKind, OrderRow, Type,
};
use conprof_wire::recording::{Counter, Table};
use core::ptr::addr_of;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Phases of a thread that are told apart.
const PHASES: u32 = 4;
/// Slots looked at before a pair counts as new.
const PROBES: usize = 16;

/// Pairs that were logged: the upper half of their hash, and the row plus 1.
static SEEN: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
static MASK: AtomicUsize = AtomicUsize::new(0);

pub(super) fn init() -> bool {
    let slots = (rows::capacity(Table::Orders) as usize * 2).next_power_of_two().max(PROBES);
    let Some(memory) = arena::pages(slots * size_of::<AtomicU64>()) else { return false };
    MASK.store(slots - 1, Ordering::Relaxed);
    SEEN.store(memory as *mut AtomicU64, Ordering::Relaxed);
    true
}

pub(super) const NONE: HoldRow = HoldRow { lock: 0, shared: 0, access: 0, reserved: 0 };

pub(super) fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Makes `new` the row of a pair that is not known, or counts one that is if `again` says that it is this one. Whether either was so.
pub(super) fn once(hash: u64, new: impl FnOnce() -> OrderRow, again: impl FnOnce(*mut OrderRow) -> bool) -> bool {
    let seen = SEEN.load(Ordering::Relaxed);
    if seen.is_null() {
        return true;
    }
    let mask = MASK.load(Ordering::Relaxed);
    let tag = hash & !0xffff_ffff | 1 << 63;
    let mut new = Some(new);
    for probe in 0..PROBES {
        // SAFETY: the index is masked to the slots.
        let slot = unsafe { &*seen.add((hash as usize).wrapping_add(probe) & mask) };
        let mut there = slot.load(Ordering::Relaxed);
        if there == 0 {
            let Some(make) = new.take() else { return true };
            // The slot is taken first, so that one pair is logged once.
            match slot.compare_exchange(0, tag, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    if let Some(row) = append(&make()) {
                        slot.store(tag | (u64::from(row) + 1), Ordering::Relaxed);
                    }
                    return true;
                }
                Err(other) => {
                    there = other;
                    new = Some(make);
                }
            }
        }
        if there & !0xffff_ffff == tag {
            let row = (there & 0xffff_ffff) as u32;
            if let Some(row) = row.checked_sub(1).and_then(|row| rows::row::<OrderRow>(Table::Orders, row)) {
                let is_it = again(row);
                if is_it {
                    // SAFETY: the row is in the mapping; the field is accessed atomically by both sides.
                    unsafe { AtomicU64::from_ptr(&raw mut (*row).count) }.fetch_add(1, Ordering::Relaxed);
                }
                return is_it;
            }
            return true;
        }
    }
    record::count(Counter::LocksLost);
    true
}

/// Adds a row to the log; `None` (counted) where there is no room.
pub(super) fn append(row: &OrderRow) -> Option<u32> {
    let index = rows::append(Table::Orders, row);
    if index.is_none() {
        record::count(Counter::LocksLost);
    }
    index
}

/// Whether an acquisition is logged by itself: the write lock of a type with readers.
pub(super) fn is_logged_alone(lock: Type, shares: bool) -> bool {
    !shares
        && matches!(
            lock,
            Type::StdRwLock | Type::ParkingLotRwLock | Type::SpinRwLock | Type::PthreadRwLock | Type::DashmapShard
        )
}

/// A lock was taken, and is not among the thread's holds yet.
pub(super) fn taken(state: &mut ThreadState, live: *mut LiveRow, taken: &HoldRow, lock: Type) {
    let thread = state.serial;
    let phase = state.lock.phase.min(PHASES - 1);
    let is_alone = is_logged_alone(lock, taken.shared != 0);
    // SAFETY: the row is in the recording's mapping; only this thread writes it. Indices stay below HOLDS.
    let (count, holds) = unsafe {
        ((addr_of!((*live).hold_count).read() as usize).min(HOLDS), addr_of!((*live).holds) as *const HoldRow)
    };
    if count == 0 && !is_alone {
        return;
    }
    // SAFETY: as above.
    let hold = |at: usize| unsafe { holds.add(at).read() };
    // A hold that was given up unseen, or handed over, is none.
    let is_held = |hold: &HoldRow| hold.shared != 0 || table::owner(hold.lock) == thread + 1;
    let others = |except: usize| {
        let mut others = [0u32; OTHERS];
        let mut places = others.iter_mut();
        for at in 0..count {
            let other = hold(at);
            if at != except
                && is_held(&other)
                && let Some(place) = places.next()
            {
                *place = other.lock | if other.shared == HELD_SHARED { OTHER_SHARED } else { 0 };
            }
        }
        others
    };
    let base = mix(
        mix(u64::from(thread) << 8 | u64::from(phase), u64::from(taken.lock) << 32 | u64::from(taken.access)),
        u64::from(taken.shared) << 1 | u64::from(taken.reserved),
    );
    let row = |kind: OrderKind, held: HoldRow, others: [u32; OTHERS]| {
        table::reference(taken.lock);
        if held.lock != 0 {
            table::reference(held.lock);
        }
        for other in others {
            if other != 0 {
                table::reference(other & !OTHER_SHARED);
            }
        }
        OrderRow { kind: kind as u32, thread, object: 0, held, wanted: *taken, others, count: 1 }
    };
    if is_alone {
        once(mix(base, 0x77), || row(OrderKind::Write, NONE, others(usize::MAX)), |_| true);
    }
    for at in 0..count {
        let held = hold(at);
        if !is_held(&held) {
            continue;
        }
        let mut hash = mix(base, u64::from(held.lock) << 32 | u64::from(held.access) ^ u64::from(held.shared) << 31);
        if count > 1 {
            for other in others(at) {
                hash = mix(hash, u64::from(other));
            }
        }
        once(hash, || row(OrderKind::Edge, held, others(at)), |_| true);
    }
}

pub(super) fn log(kind: OrderKind, thread: u32, object: u64, access: u32) {
    let wanted = HoldRow { access, ..NONE };
    let row = OrderRow { kind: kind as u32, thread, object, held: NONE, wanted, others: [0; OTHERS], count: 1 };
    append(&row);
}

/// `parent` is about to create the thread of serial `child`.
pub fn created(parent: &mut ThreadState, child: u32) {
    parent.lock.phase = parent.lock.phase.saturating_add(1);
    log(OrderKind::Create, parent.serial, u64::from(child), 0);
}

/// `joiner` has joined the thread of serial `child`.
pub fn joined(joiner: &mut ThreadState, child: u32) {
    joiner.lock.phase = joiner.lock.phase.saturating_add(1);
    log(OrderKind::Join, joiner.serial, u64::from(child), 0);
}

/// What the thread did is published at a barrier or by an initialisation. Logged only where something to be
/// ordered was logged since the last time, so that barriers in loops do not fill the log.
pub fn publishes(state: &mut ThreadState, object: usize) {
    let now = rows::count(Table::Orders);
    if now != state.lock.published {
        log(OrderKind::Release, state.serial, object as u64, 0);
        state.lock.published = now + 1;
        state.lock.phase = state.lock.phase.saturating_add(1);
    }
}

/// The thread learns what was published.
pub fn learns(state: &mut ThreadState, object: usize) {
    let now = rows::count(Table::Orders);
    if now != state.lock.learnt {
        log(OrderKind::Acquire, state.serial, object as u64, 0);
        state.lock.learnt = now + 1;
        state.lock.phase = state.lock.phase.saturating_add(1);
    }
}

/// The thread wakes waiters of the object. One row for each object and place, with the time of the latest.
pub(super) fn notified(state: &mut ThreadState, object: usize, site: u32) {
    let access = check::place(state, site);
    let thread = state.serial;
    let now = record::time_ns();
    let mut others = [0; OTHERS];
    others[NOTIFIED_LOW] = now as u32;
    others[NOTIFIED_HIGH] = (now >> 32) as u32;
    let new = || OrderRow {
        kind: OrderKind::Notify as u32,
        thread,
        object: object as u64,
        held: NONE,
        wanted: HoldRow { access, ..NONE },
        others,
        count: 1,
    };
    // SAFETY: the row is in the mapping; the reader takes any value of the field.
    once(mix(mix(0x6e, object as u64), u64::from(access)), new, |row| {
        // SAFETY: as above.
        unsafe { (&raw mut (*row).others).write_volatile(others) };
        true
    });
}
