//! Incidents: long waits, holds and polls that block, failures to take a lock, misuse.
//!
//! ```text
//! blocks .. blocked --------> a wait for anything but a lock: holds that lasted over it, the poll that it stopped
//! lock_waited --------------> a wait for a lock: acquisitions by others meanwhile, the poll that it stopped
//! poll_begins .. poll_ends -> a poll: time on the CPU, locks still held
//! failed .. succeeded ------> attempts to take one lock that fail in a row
//! misused
//! ```
//!
//! Only what lasts longer than a floor is recorded, so short waits cost a comparison. A poll reads the processor's time
//! stamp counter, and a clock only where it was long.
//!
//! Direction of error: of the locks held over one wait the latest [`AREAS`] have their cost to others measured. Failures that
//! go by unseen (a load that finds the lock taken) make a row of failures look shorter.

use super::slots::Slots;
use super::{CALLS, Call, contention, table};
use crate::check;
use crate::record;
use crate::thread::ThreadState;
use conprof_wire::incident::{BLOCKED_FLOOR_NS, IncidentKind, IncidentRow, LONG_FLOOR_NS, Misuse};
use conprof_wire::locks::{HELD_ALONE, HOLDS, HoldRow, LiveRow, Operation, operation_of};
use conprof_wire::recording::{NO_SITE, Table};
use conprof_wire::waits::WaitKind;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU64, Ordering};

/// Holds of which the waiting of others is measured while the holder blocks.
pub(super) const AREAS: usize = 4;
/// Locks of a thread whose failures are counted at once.
pub(super) const FAILURES: usize = 2;
/// Failures between two looks at the clock.
const FAILURES_PER_LOOK: u64 = 256;

/// The time stamp counter when the shim started.
static START_TICKS: AtomicU64 = AtomicU64::new(0);

static SLOTS: Slots = Slots::new();

/// Attempts to take one lock that failed, one after the other. All-zero bytes are an unused place.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Failures {
    address: u64,
    since: u64,
    latest: u64,
    count: u64,
    acquisitions: u64,
    lock: u32,
    access: u32,
    /// The lock held last, with its acquisition.
    held: u32,
    held_access: u32,
    holder: u32,
    /// The thread spins: it will not do anything else before it has the lock.
    spins: u32,
}

/// Where the lock's address lies in one of a thread's rows of failures, and the bytes of these: the short way looks for it.
pub(super) const FAILURE_ADDRESS: usize = core::mem::offset_of!(Failures, address);
pub(super) const FAILURE_BYTES: usize = size_of::<Failures>();
const _: () = assert!(FAILURES == 2, "the short way looks at two");

impl Failures {
    pub(super) const NONE: Failures = Failures {
        address: 0,
        since: 0,
        latest: 0,
        count: 0,
        acquisitions: 0,
        lock: 0,
        access: 0,
        held: 0,
        held_access: 0,
        holder: 0,
        spins: 0,
    };
}

pub(super) fn init() -> bool {
    START_TICKS.store(ticks(), Ordering::Relaxed);
    SLOTS.init(Table::Incidents)
}

/// What an incident is known by; the rest of a new row is zero.
fn row(kind: IncidentKind, detail: u32, thread: u32, lock: u32, access: u32) -> IncidentRow {
    IncidentRow {
        kind: kind as u32,
        detail,
        thread,
        lock,
        access,
        other_access: 0,
        other: 0,
        spawned: 0,
        task: 0,
        count: 0,
        total_ns: 0,
        max_ns: 0,
        most: 0,
        lost_ns: 0,
        at_ns: 0,
    }
}

/// The row that is known by the same as `new`, which is added where there is none.
fn find(new: &IncidentRow) -> Option<*mut IncidentRow> {
    let key = |row: &IncidentRow| (row.kind, row.detail, row.thread, row.lock, row.access, row.other_access, row.other);
    let hash = contention::mix(new.kind << 24 ^ new.thread, new.lock, new.access, new.other_access ^ new.detail << 28);
    if new.lock != 0 {
        table::reference(new.lock);
    }
    SLOTS.find_or_add(Table::Incidents, hash, |row| key(row) == key(new), new)
}

/// Adds an incident of `duration`, which has just ended.
fn add(new: &IncidentRow, duration: u64, most: u64, lost: u64, now: u64) {
    let Some(row) = find(new) else { return };
    // SAFETY: the row is in the mapping; both sides access the fields atomically.
    unsafe {
        AtomicU64::from_ptr(&raw mut (*row).count).fetch_add(1, Ordering::Relaxed);
        AtomicU64::from_ptr(&raw mut (*row).total_ns).fetch_add(duration, Ordering::Relaxed);
        AtomicU64::from_ptr(&raw mut (*row).most).fetch_max(most, Ordering::Relaxed);
        AtomicU64::from_ptr(&raw mut (*row).lost_ns).fetch_add(lost, Ordering::Relaxed);
        if AtomicU64::from_ptr(&raw mut (*row).max_ns).fetch_max(duration, Ordering::Relaxed) < duration {
            AtomicU64::from_ptr(&raw mut (*row).at_ns).store(now, Ordering::Relaxed);
        }
    }
}

/// Whether a thread still holds what a row says: a lock held alone is named by its row, too, unless it was given up unseen.
fn is_held(state: &ThreadState, hold: &HoldRow) -> bool {
    hold.shared != HELD_ALONE || table::owner(hold.lock) == state.serial + 1
}

/// The holds of a thread, oldest first: how many, and each by its place.
pub(super) fn holds(live: *mut LiveRow) -> (usize, impl Fn(usize) -> HoldRow) {
    // SAFETY: the row is in the recording's mapping; only this thread writes it.
    let count = if live.is_null() { 0 } else { unsafe { addr_of!((*live).hold_count).read() as usize }.min(HOLDS) };
    (count, move |at: usize| {
        // SAFETY: as above; `at` is below the count.
        unsafe { (addr_of!((*live).holds) as *const HoldRow).add(at).read() }
    })
}

/// The poll of a task that is under way, if the thread is in one and not back in its runtime.
pub(super) fn poll_under_way(state: &ThreadState) -> Option<usize> {
    let count = (state.lock.call_count as usize).min(CALLS);
    let calls = state.lock.calls.get(..count)?;
    for (at, call) in calls.iter().enumerate().rev() {
        if call.sp <= state.guest_sp {
            continue;
        }
        match operation_of(call.packed) {
            Some(Operation::Poll | Operation::PollRoot) => return Some(at),
            Some(Operation::Idle) => return None,
            _ => {}
        }
    }
    None
}

/// Whether blocking now would concern anybody: the thread holds a lock or polls a task.
pub(super) fn matters(state: &ThreadState) -> bool {
    holds(state.lock.live()).0 != 0 || poll_under_way(state).is_some()
}

/// The thread is about to block for something else than a lock.
pub(super) fn blocks(state: &mut ThreadState, now: u64) {
    let (count, hold) = holds(state.lock.live());
    for at in 0..count.min(AREAS) {
        let waiting = contention::waiting_ns(hold(count - 1 - at).lock, now);
        if let Some(area) = state.lock.areas.get_mut(at) {
            *area = waiting;
        }
    }
}

/// It has blocked.
pub(super) fn blocked(state: &mut ThreadState, kind: WaitKind, access: u32, since: u64, now: u64) {
    let duration = now.saturating_sub(since);
    if duration < BLOCKED_FLOOR_NS {
        return;
    }
    let (count, hold) = holds(state.lock.live());
    for at in 0..count.min(AREAS) {
        let held = hold(count - 1 - at);
        if !is_held(state, &held) {
            continue;
        }
        let before = state.lock.areas.get(at).copied().unwrap_or(0);
        let lost = contention::waiting_ns(held.lock, now).saturating_sub(before);
        let new = row(IncidentKind::BlockedHold, kind as u32, state.serial, held.lock, access);
        add(&IncidentRow { other_access: held.access, ..new }, duration, 0, lost, now);
    }
    stops_poll(state, kind, 0, access, duration, now, 0);
}

fn stops_poll(state: &mut ThreadState, kind: WaitKind, lock: u32, access: u32, duration: u64, now: u64, holder: u32) {
    let Some(at) = poll_under_way(state) else { return };
    let Some(poll) = state.lock.calls.get_mut(at) else { return };
    poll.blocked += duration;
    if duration >= BLOCKED_FLOOR_NS {
        let (address, spawned) = (poll.address, poll.access);
        let new = row(IncidentKind::BlockedPoll, kind as u32, state.serial, lock, access);
        let new = IncidentRow { task: address, other: holder, spawned, ..new };
        add(&new, duration, super::task::runnable(), 0, now);
    }
}

/// A wait for a lock is over.
pub(super) fn lock_waited(
    state: &mut ThreadState,
    lock: u32,
    (kind, access): (WaitKind, u32),
    (since, now): (u64, u64),
    acquisitions: u64,
    holder: u32,
) {
    let duration = now.saturating_sub(since);
    if duration >= LONG_FLOOR_NS {
        let others = contention::acquisitions(lock).saturating_sub(acquisitions);
        add(&row(IncidentKind::LongWait, kind as u32, state.serial, lock, access), duration, others, 0, now);
    }
    stops_poll(state, kind, lock, access, duration, now, holder);
}

/// What so many ticks are in nanoseconds, by how many there were until `now`.
fn nanoseconds(ticks_long: u64, now: u64) -> u64 {
    let ticks_per_us = ticks().saturating_sub(START_TICKS.load(Ordering::Relaxed)) / (now / 1000).max(1);
    ticks_long.saturating_mul(1000) / ticks_per_us.max(1)
}

/// A task is polled that was woken so many ticks ago, or that is the first poll of.
pub(super) fn polled_late(state: &ThreadState, task: u64, spawned: u32, ticks_late: u64) {
    // No processor counts slower than one tick a nanosecond.
    if ticks_late < LONG_FLOOR_NS || !contention::is_on() {
        return;
    }
    let now = record::time_ns();
    let late = nanoseconds(ticks_late, now);
    if late >= LONG_FLOOR_NS {
        let new = row(IncidentKind::LatePoll, 0, state.serial, 0, spawned);
        add(&IncidentRow { task, spawned, ..new }, late, super::task::runnable(), 0, now);
    }
}

pub(super) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it; the kernel lets user code read it unless a process asks for a fault.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A poll begins.
pub(super) fn poll_begins(state: &ThreadState, call: &mut Call) {
    call.since = ticks();
    call.second = holds(state.lock.live()).0 as u64;
}

/// A poll ends, at a site of the function that made it.
pub(super) fn poll_ends(state: &mut ThreadState, call: &Call, site: u32) {
    let (count, hold) = holds(state.lock.live());
    let root = operation_of(call.packed) == Some(Operation::PollRoot);
    let end = ticks();
    let lasted = end.saturating_sub(call.since);
    // No processor counts slower than one tick a nanosecond.
    if !root && lasted >= LONG_FLOOR_NS {
        let now = record::time_ns();
        let duration = nanoseconds(lasted, now);
        let burnt = duration.saturating_sub(call.blocked);
        if burnt >= LONG_FLOOR_NS {
            let access = check::place(state, site);
            let new = row(IncidentKind::LongPoll, 0, state.serial, 0, access);
            let new = IncidentRow { task: call.address, spawned: call.access, ..new };
            add(&new, burnt, super::task::runnable(), 0, now);
        }
    }
    if !root && count > call.second as usize {
        let access = check::place(state, site);
        for at in call.second as usize..count {
            let held = hold(at);
            if !is_held(state, &held) {
                continue;
            }
            let new = row(IncidentKind::HeldAcrossAwait, 0, state.serial, held.lock, access);
            let new = IncidentRow { task: call.address, other_access: held.access, spawned: call.access, ..new };
            add(&new, 0, 0, 0, record::time_ns());
        }
    }
}

/// An attempt to take a lock failed.
pub(super) fn failed(state: &mut ThreadState, address: usize, site: u32, operation: Operation) {
    let Some(lock) = table::find(address) else { return };
    let find = |failures: &Failures| failures.address == address as u64;
    let at = state.lock.failures.iter().position(find);
    if let Some(failures) = at.and_then(|at| state.lock.failures.get_mut(at)) {
        failures.count += 1;
        if failures.count.is_power_of_two() || failures.count % FAILURES_PER_LOOK == 0 {
            failures.latest = record::time_ns();
            failures.holder = table::owner(lock);
            // At once, as the thread may never get to an end.
            let failures = *failures;
            add_failures(state.serial, &failures, failures.latest);
        }
        return;
    }
    let access = check::place(state, site);
    let (count, hold) = holds(state.lock.live());
    let held = count.checked_sub(1).map(hold).unwrap_or_default();
    let now = record::time_ns();
    let spins = !operation.is_try();
    let new = Failures {
        address: address as u64,
        since: now,
        latest: now,
        count: 1,
        acquisitions: contention::acquisitions(lock),
        lock,
        access,
        held: held.lock,
        held_access: held.access,
        holder: table::owner(lock),
        spins: u32::from(spins),
    };
    if spins {
        contention::spins(lock, now);
    }
    // The older one makes room.
    state.lock.failures.rotate_right(1);
    if let Some(place) = state.lock.failures.first_mut() {
        let oldest = core::mem::replace(place, new);
        if oldest.address != 0 {
            over(state, &oldest, false);
        }
    }
}

/// The lock at an address was taken: a row of failures is over.
pub(super) fn succeeded(state: &mut ThreadState, address: usize) {
    if let Some(failures) = state.lock.failures.iter_mut().find(|failures| failures.address == address as u64) {
        let failures = core::mem::replace(failures, Failures::NONE);
        over(state, &failures, true);
    }
}

fn over(state: &mut ThreadState, failures: &Failures, took: bool) {
    let now = record::time_ns();
    let end = if took { now } else { failures.latest };
    if failures.spins != 0 {
        let what = (WaitKind::Lock, failures.access);
        contention::spun(state, failures.lock, what, (failures.since, now), failures.holder, took);
        lock_waited(state, failures.lock, what, (failures.since, now), failures.acquisitions, failures.holder);
    }
    add_failures(state.serial, failures, end);
}

/// Records a row of failures as of `now`, once more where it went on.
fn add_failures(thread: u32, failures: &Failures, now: u64) {
    let duration = now.saturating_sub(failures.since);
    if duration < LONG_FLOOR_NS {
        return;
    }
    let is_try = u32::from(failures.spins == 0);
    let new = row(IncidentKind::Failing, is_try, thread, failures.lock, failures.access);
    let others = contention::acquisitions(failures.lock).saturating_sub(failures.acquisitions);
    let new = IncidentRow { other: failures.held, other_access: failures.held_access, ..new };
    let Some(row) = find(&new) else { return };
    // SAFETY: as in `add`.
    unsafe {
        AtomicU64::from_ptr(&raw mut (*row).count).fetch_max(1, Ordering::Relaxed);
        if AtomicU64::from_ptr(&raw mut (*row).max_ns).fetch_max(duration, Ordering::Relaxed) < duration {
            AtomicU64::from_ptr(&raw mut (*row).at_ns).store(now, Ordering::Relaxed);
            AtomicU64::from_ptr(&raw mut (*row).most).store(failures.count, Ordering::Relaxed);
            // Failures cost nobody's waiting: here are the acquisitions by others instead.
            AtomicU64::from_ptr(&raw mut (*row).lost_ns).store(others, Ordering::Relaxed);
        }
    }
}

/// The thread ends, or the process does: what is still failing counts as well.
pub(super) fn thread_ends(state: &mut ThreadState) {
    for at in 0..FAILURES {
        if let Some(failures) = state.lock.failures.get_mut(at) {
            let failures = core::mem::replace(failures, Failures::NONE);
            if failures.address != 0 {
                over(state, &failures, false);
            }
        }
    }
}

/// A lock was used against its rules, by the interposed function called last.
pub fn misused(state: &mut ThreadState, lock: usize, lock_type: conprof_wire::locks::Type, how: Misuse) {
    if !contention::is_on() {
        return;
    }
    let access = check::place(state, NO_SITE);
    let Some(lock) = table::find_or_add(lock, lock_type, access) else { return };
    let new = row(IncidentKind::Misuse, how as u32, state.serial, lock, access);
    let holder = table::owner(lock);
    add(&IncidentRow { other: holder, ..new }, 0, 0, 0, record::time_ns());
}
