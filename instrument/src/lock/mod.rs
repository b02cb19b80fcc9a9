//! Locks as things with owners: who holds what, in which order locks are taken, who waits for what.
//!
//! ```text
//! stubs, hook --acquired, released--> live row of the thread (in the recording), order log
//!             --call, called-------> stack of lock operations under way
//!             --wait, waited-------> live row: waiting
//! ```
//!
//! # Invariants
//! - A thread's live row is written by that thread only; the host reads it at any moment, also after a SIGKILL.
//! - Nothing here blocks or allocates; tables are of fixed size, and what finds no room is counted.
//! - Only waits that reached the kernel, or a libc function that may block, are published.
//!
//! Direction of error: a hold whose end was not seen stays until another thread takes the lock alone
//! (the lock's row names its owner, which the host compares).

mod contention;
mod convert;
mod incident;
mod order;
mod permit_waits;
mod permits;
mod slots;
mod stack_cache;
mod table;
mod task;
mod task_order;
pub mod uncontended;
mod wait;
mod walk;

pub use incident::misused;
pub use order::{created, joined, learns, publishes};
pub use stack_cache::place;
pub use wait::{futex_wait, futex_waited, wait, waited};

use crate::apply::plan;
use crate::check;
use crate::record::{self, table as rows};
use crate::thread::ThreadState;
use conprof_wire::incident::BLOCKED_FLOOR_NS;
use conprof_wire::locks::{
    HOLDS, HoldRow, LiveRow, ONCES, Operation, SLOW_PATH, Success, Type, operation_of, success_of, type_of,
};
use conprof_wire::recording::{CONFIG_LOCKS, Counter, NO_SITE, Table};
use conprof_wire::waits::WaitKind;
use core::ptr::{addr_of, addr_of_mut};

/// Lock operations of a thread that may be under way at once.
const CALLS: usize = 16;

/// A lock operation under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// Stack pointer at its entry: the call is over when a later one has a higher or equal one.
    sp: u64,
    /// First argument: the lock.
    address: u64,
    /// Second argument, or what it replaced.
    second: u64,
    packed: u64,
    site: u32,
    /// Of a poll, the access row of the call that spawned the task.
    access: u32,
    /// When the wait began, where this is the slow path of a lock and waits are measured; for a poll in ticks.
    since: u64,
    /// Acquisitions of the lock until then; for a poll its number, for permits the references to the task.
    acquisitions: u64,
    /// Of a poll, the time that it was blocked.
    blocked: u64,
    /// Serial, plus 1, of the thread that held the lock then.
    holder: u32,
    /// Row of the task polled, or that this is done for; 0 where there is none.
    task: u32,
}

impl Call {
    fn takes(&self) -> bool {
        operation_of(self.packed).is_some_and(Operation::takes)
    }
}

/// The lock part of a thread's state. All-zero bytes are a valid value.
#[repr(C)]
pub struct ThreadLock {
    live: u64,
    calls: [Call; CALLS],
    call_count: u32,
    /// Raised at thread creation, join and barriers, so that lock order seen after them is recorded again.
    phase: u32,
    /// Order rows that existed when the thread last published or learnt by structure.
    published: u32,
    learnt: u32,
    acquisitions: u64,
    /// When the present wait for anything but a lock's slow path began; 0 for none.
    wait_since: u64,
    /// What that wait is for, and where.
    wait_kind: u32,
    wait_access: u32,
    /// The lock that it is for, where it is for one, and its holder's serial plus 1.
    wait_lock: u32,
    wait_holder: u32,
    /// `rbp` of the target where it called the function interposed last; 0 where unknown.
    guest_bp: u64,
    /// Acquisitions of that lock when the wait began.
    wait_acquisitions: u64,
    /// Waiting for the locks held, when the present wait began: the latest hold first.
    areas: [u64; incident::AREAS],
    failures: [incident::Failures; incident::FAILURES],
    /// When the wait for the lock about to be taken ended; 0 where it was not waited for.
    waited_at: u64,
    /// Row of what the thread does outside tasks; 0 while it has none.
    own_task: u32,
    /// The lock of a future that is being dropped, where it hands on what it was given; 0 for none.
    cancelled: u32,
    /// Operations under way that take a lock.
    taking: u32,
    /// The thread's bit among the users of a lock.
    user: u64,
    /// What may take the short way when it is made again.
    places: [uncontended::Place; uncontended::PLACES],
    pairs: [uncontended::Pair; uncontended::PAIRS],
    /// Stacks that are known.
    stacks: stack_cache::StackCache,
}

/// Offset in a thread's state of the target's `rbp` at the latest interposed call.
pub(crate) const GUEST_BP: usize =
    core::mem::offset_of!(ThreadState, lock) + core::mem::offset_of!(ThreadLock, guest_bp);

impl ThreadLock {
    /// A lock operation is under way; forgotten where there are too many.
    fn begin_call(&mut self, call: &Call) {
        if let Some(place) = self.calls.get_mut(self.call_count as usize) {
            *place = *call;
            self.call_count += 1;
            self.taking += u32::from(call.takes());
        }
    }

    /// The latest lock operation under way, which is over if `is_over` says so.
    fn end_call(&mut self, is_over: impl Fn(&Call) -> bool) -> Option<Call> {
        let at = (self.call_count as usize).checked_sub(1)?;
        let call = self.calls.get(at).copied().filter(is_over)?;
        self.call_count -= 1;
        self.taking = self.taking.saturating_sub(u32::from(call.takes()));
        Some(call)
    }

    fn live(&self) -> *mut LiveRow {
        self.live as *mut LiveRow
    }
}

/// Once, after the recording is set up.
pub fn init() -> bool {
    let ready = record::config() & CONFIG_LOCKS != 0 && table::init() && order::init();
    if ready {
        contention::init();
        uncontended::init();
    }
    ready
}

/// A thread's row of the recording is known: its state is fresh or used again.
pub fn thread_begins(state: &mut ThreadState) {
    if state.lock.user != 0 {
        // SAFETY: all-zero bytes are a valid value. It is large: what was never used is not touched.
        unsafe { (&raw mut state.lock).write_bytes(0, 1) };
    }
    state.lock.user = 1 << (state.serial % 64);
    if record::config() & CONFIG_LOCKS == 0 {
        return;
    }
    if let Some(row) = rows::row::<LiveRow>(Table::Live, state.serial) {
        state.lock.live = row as u64;
        rows::raise_count(Table::Live, state.serial);
    } else {
        record::count(Counter::LocksLost);
    }
}

/// The thread is gone.
pub fn thread_ends(state: &mut ThreadState) {
    if contention::is_on() {
        incident::thread_ends(state);
    }
    task::thread_ends(state);
    record::add(Counter::LockAcquisitions, state.lock.acquisitions);
    state.lock.acquisitions = 0;
    state.lock.live = 0;
}

/// The process is about to end.
pub fn exiting(state: &mut ThreadState) {
    if contention::is_on() {
        incident::thread_ends(state);
    }
    contention::exiting();
}

/// A site of the plan took a lock.
pub fn site_acquired(state: &mut ThreadState, address: usize, site: u32) {
    let packed = plan::site(site).0;
    let Some(operation) = operation_of(packed) else { return };
    if operation == Operation::TryPermits {
        return permits::tried(state, address, site);
    }
    if operation == Operation::TryUpgrade {
        return convert::upgraded(state, address, site);
    }
    // Inside a function that is the operation as a whole, that one's return is the acquisition.
    if outer(state, address as u64, |operation| operation.takes()) {
        return;
    }
    if check::is_on(state) {
        // The atomic operation itself orders.
        check::lock_taken(state, address, site, !operation.shares());
        holds_now(state, address, site, operation, type_of(packed), 0);
        return;
    }
    let access = uncontended::place(state, site);
    if let Some(hold) = holds_now(state, address, site, operation, type_of(packed), access)
        && state.lock.taking == 0
    {
        uncontended::remember(state, &hold);
    }
}

/// A site of the plan did not get a lock, or is about to look at one or to change how it is held.
pub fn site_failed(state: &mut ThreadState, address: usize, site: u32) {
    let packed = plan::site(site).0;
    let Some(operation) = operation_of(packed) else { return };
    if operation.converts() || operation.looks() {
        return convert::site(state, address, site, operation);
    }
    // Where a slow path exists, its entry tells.
    let tells = operation.is_try() || type_of(packed).spins();
    if tells && contention::is_on() && !state.lock.live().is_null() {
        incident::failed(state, address, site, operation);
    }
}

/// Whether it matters to anybody that the thread blocks now.
pub fn minds_blocking(state: &ThreadState) -> bool {
    contention::is_on() && incident::matters(state)
}

/// The thread is about to block in the kernel for something outside, which matters: when, never 0, and the target's `rbp`.
pub fn blocks(state: &mut ThreadState) -> (u64, u64) {
    let now = record::time_ns();
    incident::blocks(state, now);
    (now.max(1), state.lock.guest_bp)
}

/// Whether what began then lasted long enough to be told.
pub fn took_long(since: u64) -> bool {
    record::time_ns().saturating_sub(since) >= BLOCKED_FLOOR_NS
}

/// It has blocked since then, for long.
pub fn blocked(state: &mut ThreadState, kind: WaitKind, since: u64, guest_bp: u64) {
    state.lock.guest_bp = guest_bp;
    let access = check::place(state, NO_SITE);
    incident::blocked(state, kind, access, since, record::time_ns());
}

/// A site of the plan is about to give a lock up.
pub fn site_released(state: &mut ThreadState, address: usize, site: u32) {
    match operation_of(plan::site(site).0) {
        Some(Operation::MayUnlock) => may_release(state, address, site),
        Some(Operation::CountPermits) => permits::counts(state, address),
        _ => gave_up(state, address, site),
    }
}

/// An atomic operation is about to be made: one that gives a lock up, or by its holder an exchange of a lock word.
pub fn atomic_before(state: &mut ThreadState, address: usize, site: u32) {
    match operation_of(plan::site(site).0) {
        Some(Operation::CountPermits) => return permits::counts(state, address),
        Some(operation) if operation.gives_up() => return gave_up(state, address, site),
        _ => {}
    }
    let live = state.lock.live();
    // SAFETY: the row is in the recording's mapping.
    if !live.is_null() && unsafe { addr_of!((*live).hold_count).read() } != 0 {
        may_release(state, address, site);
    }
}

fn may_release(state: &mut ThreadState, address: usize, site: u32) {
    if operation_of(plan::site(site).0) == Some(Operation::MayUnlock)
        && let Some(index) = table::find(address)
        && holds(state.lock.live(), index)
    {
        gave_up(state, address, site);
    }
}

/// Whether the thread holds the lock in any way.
fn holds(live: *mut LiveRow, lock: u32) -> bool {
    if live.is_null() {
        return false;
    }
    // SAFETY: as in `remove`.
    unsafe {
        let count = (addr_of!((*live).hold_count).read() as usize).min(HOLDS);
        let holds = addr_of!((*live).holds) as *const HoldRow;
        (0..count).any(|at| holds.add(at).read().lock == lock)
    }
}

/// A lock was taken. `access` is the row of the place, or 0. Gives the hold that was noted.
pub fn acquired(
    state: &mut ThreadState,
    address: usize,
    site: u32,
    operation: Operation,
    lock: Type,
    access: u32,
) -> Option<HoldRow> {
    check::lock_acquired(state, address, site, !operation.shares());
    holds_now(state, address, site, operation, lock, access)
}

fn holds_now(
    state: &mut ThreadState,
    address: usize,
    site: u32,
    operation: Operation,
    lock: Type,
    access: u32,
) -> Option<HoldRow> {
    let live = state.lock.live();
    if live.is_null() {
        return None;
    }
    state.lock.acquisitions += 1;
    let access = if access != 0 { access } else { check::place(state, site) };
    let index = table::find_or_add(address, lock, access)?;
    table::note_user(index, state.serial);
    let taken = HoldRow { lock: index, shared: operation.hold(), access, reserved: u32::from(operation.is_try()) };
    if taken.shared == 0 {
        // What this thread still seems to hold of it was given up unseen.
        remove(live, index, Some(0));
        table::set_owner(index, state.serial + 1);
    }
    order::taken(state, live, &taken, lock);
    push(live, &taken);
    if contention::is_on() {
        incident::succeeded(state, address);
    }
    contention::acquired(state, index, access, operation.shares());
    Some(taken)
}

/// A lock is about to be given up.
pub fn released(state: &mut ThreadState, address: usize, site: u32) {
    check::lock_released(state, address, site);
    holds_no_more(state, address, site);
}

/// A lock is about to be given up by an atomic operation, which orders by itself.
fn gave_up(state: &mut ThreadState, address: usize, site: u32) {
    check::lock_given_up(state, address);
    holds_no_more(state, address, site);
}

fn holds_no_more(state: &mut ThreadState, address: usize, site: u32) {
    let live = state.lock.live();
    if live.is_null() {
        return;
    }
    let Some(index) = table::find(address) else { return };
    let hold = remove(live, index, None);
    let hold = hold.unwrap_or_default();
    let shares = hold.shared != 0;
    if !shares {
        table::set_owner(index, 0);
    }
    contention::released(state, index, site, hold.access, shares);
}

/// An interposed function wakes waiters of the object at an address.
pub fn notified(state: &mut ThreadState, object: usize) {
    if !state.lock.live().is_null() {
        order::notified(state, object, NO_SITE);
    }
}

/// The object at an address is gone, or about to be made anew.
pub fn gone(address: usize) {
    table::gone(address);
}

/// Memory is about to change owner: the locks in it are gone.
pub fn freed(start: usize, len: usize) {
    table::freed(start, len);
}

fn push(live: *mut LiveRow, hold: &HoldRow) {
    // SAFETY: the row is in the recording's mapping; only this thread writes it.
    unsafe {
        let count = addr_of!((*live).hold_count).read();
        if (count as usize) < HOLDS {
            (addr_of_mut!((*live).holds) as *mut HoldRow).add(count as usize).write_volatile(*hold);
        } else {
            record::count(Counter::LocksLost);
        }
        addr_of_mut!((*live).hold_count).write_volatile(count.wrapping_add(1).min(HOLDS as u32));
    }
}

/// Removes the latest hold of a lock, of the given mode if one is given.
fn remove(live: *mut LiveRow, lock: u32, shared: Option<u32>) -> Option<HoldRow> {
    // SAFETY: as in `push`; indices stay below the count, which is at most HOLDS.
    unsafe {
        let count = (addr_of!((*live).hold_count).read() as usize).min(HOLDS);
        let holds = addr_of_mut!((*live).holds) as *mut HoldRow;
        let mut at = count;
        while at > 0 {
            at -= 1;
            let hold = holds.add(at).read();
            if hold.lock == lock && shared.is_none_or(|shared| hold.shared == shared) {
                while at + 1 < count {
                    holds.add(at).write_volatile(holds.add(at + 1).read());
                    at += 1;
                }
                addr_of_mut!((*live).hold_count).write_volatile(count as u32 - 1);
                return Some(hold);
            }
        }
    }
    None
}

/// Whether the thread holds the lock alone.
fn holds_alone(live: *mut LiveRow, lock: u32) -> bool {
    // SAFETY: as in `remove`.
    unsafe {
        let count = (addr_of!((*live).hold_count).read() as usize).min(HOLDS);
        let holds = addr_of!((*live).holds) as *const HoldRow;
        (0..count).any(|at| {
            let hold = holds.add(at).read();
            hold.lock == lock && hold.shared == 0
        })
    }
}

/// A function that is a lock operation is entered.
pub fn call(state: &mut ThreadState, site: u32, first: usize, second: usize) {
    let packed = plan::site(site).0;
    let Some(operation) = operation_of(packed) else { return };
    // At a function's entry its return address lies there; elsewhere a word of the caller's frame.
    // SAFETY: the target's stack is readable at its stack pointer.
    let returns_to = unsafe { (state.guest_sp as *const u64).read_unaligned() };
    if plan::is_quiet_text(returns_to) {
        // Quiet code takes and gives up its locks unseen but for what it calls: half of that would be a lock held for ever.
        return;
    }
    if operation.gives_up() {
        return released(state, first, site);
    }
    if operation == Operation::Notify || operation == Operation::Unpark {
        return order::notified(state, first, site);
    }
    if operation.converts() || operation.looks() {
        return convert::site(state, first, site, operation);
    }
    match operation {
        Operation::Wake => return task::woken(state, first),
        Operation::CountPermits => return permits::counts(state, first),
        Operation::CancelPermits => return permits::cancelled(state, first),
        Operation::ForgetPermits => return permits::forgets(first),
        _ => {}
    }
    let sp = state.guest_sp;
    while let Some(over) = state.lock.end_call(|call| call.sp <= sp) {
        leave_once(state.lock.live(), &over);
        contention::abandoned(&over);
    }
    if operation == Operation::UpgradeWait && outer(state, first as u64, Operation::takes) {
        // The last step of taking the lock, as a writer does.
        return;
    }
    let mut call = Call {
        sp,
        address: first as u64,
        second: second as u64,
        packed,
        site,
        access: 0,
        since: 0,
        acquisitions: 0,
        blocked: 0,
        holder: 0,
        task: 0,
    };
    if packed & SLOW_PATH != 0 && contention::is_on() && call.takes() {
        if let Some(lock) = contention::lock_of(state, &call, site) {
            contention::begin(lock, &mut call);
        }
    }
    match operation {
        Operation::WaitCondvar => {
            // The mutex is given up for as long as the wait lasts.
            let live = state.lock.live();
            if let Some(mutex) = table::find(second)
                && !live.is_null()
                && let Some(hold) = remove(live, mutex, Some(0))
            {
                call.access = hold.access;
                table::set_owner(mutex, 0);
            }
        }
        Operation::Once => {
            let live = state.lock.live();
            call.second = enter_once(live, first as u64);
        }
        Operation::Barrier => publishes(state, first),
        Operation::MeetTasks => task_order::meets(state),
        Operation::Poll => {
            if contention::is_on() {
                incident::poll_begins(state, &mut call);
            }
            task::poll_begins(state, &mut call);
        }
        Operation::AcquirePermits => permits::acquires(state, &mut call),
        // It waits as one who wants the lock alone; its own hold is not in the way.
        Operation::UpgradeWait => convert::upgrade_waits(state, first, site),
        Operation::AssignPermits => permits::assigns(state, &mut call),
        _ => {}
    }
    state.lock.begin_call(&call);
}

/// Notes an initialisation; its place, or [`ONCES`] where there is none.
fn enter_once(live: *mut LiveRow, address: u64) -> u64 {
    if !live.is_null() {
        // SAFETY: as in `push`; indices stay below ONCES.
        unsafe {
            let onces = addr_of_mut!((*live).onces) as *mut u64;
            for place in 0..ONCES {
                if onces.add(place).read() == 0 {
                    onces.add(place).write_volatile(address);
                    return place as u64;
                }
            }
        }
    }
    ONCES as u64
}

/// The initialisation of a call is over, one way or another.
fn leave_once(live: *mut LiveRow, call: &Call) {
    let is_once = operation_of(call.packed) == Some(Operation::Once);
    if is_once && !live.is_null() && (call.second as usize) < ONCES {
        // SAFETY: as in `enter_once`.
        unsafe { (addr_of_mut!((*live).onces) as *mut u64).add(call.second as usize).write_volatile(0) };
    }
}

/// A function that is a lock operation is about to return, with `result` in `rax`.
pub fn called(state: &mut ThreadState, site: u32, result: u64) {
    let sp = state.guest_sp;
    let mut found = None;
    while let Some(top) = state.lock.end_call(|call| call.sp <= sp) {
        if top.sp == sp && top.site == site {
            found = Some(top);
            break;
        }
        contention::abandoned(&top);
    }
    let Some(call) = found else { return };
    let Some(operation) = operation_of(call.packed) else { return };
    let live = state.lock.live();
    match operation {
        Operation::WaitCondvar => {
            if let Some(mutex) = table::find(call.second as usize)
                && call.access != 0
                && !live.is_null()
                && !holds_alone(live, mutex)
            {
                table::set_owner(mutex, state.serial + 1);
                push(live, &HoldRow { lock: mutex, shared: 0, access: call.access, reserved: 0 });
            }
        }
        Operation::Once => {
            leave_once(live, &call);
            learns(state, call.address as usize);
            publishes(state, call.address as usize);
        }
        Operation::Barrier => learns(state, call.address as usize),
        Operation::Poll => {
            if contention::is_on() {
                incident::poll_ends(state, &call, site);
            }
            task::poll_ends(state, &call);
        }
        Operation::Spawn => task::spawned(state, result as usize, site),
        Operation::AcquirePermits => permits::acquired(state, &call, site, result),
        Operation::MeetTasks => task_order::met(state),
        Operation::AwaitTask => task_order::awaited(state, call.address as usize),
        Operation::TryPermits if result as u8 == 0 => permits::tried(state, call.address as usize, site),
        Operation::TryPermits => {}
        Operation::TryUpgrade if success(&call, result) => convert::upgraded(state, call.address as usize, site),
        Operation::TryUpgrade => {}
        _ if operation.takes() => {
            let success = success(&call, result);
            // The outermost operation on the lock is the acquisition.
            let nested = outer(state, call.address, |operation| operation.takes());
            let access = match table::find(call.address as usize) {
                Some(lock) => contention::end(state, lock, &call, site, success),
                None => 0,
            };
            if operation == Operation::UpgradeWait {
                convert::upgrade_waited(state, call.address as usize, site, type_of(call.packed), success);
            } else if success && !nested {
                acquired(state, call.address as usize, site, operation, type_of(call.packed), access);
            } else if !success
                && (operation.is_try() || type_of(call.packed).spins())
                && contention::is_on()
                && !live.is_null()
            {
                incident::failed(state, call.address as usize, site, operation);
            }
        }
        _ => {}
    }
}

/// Whether what a function returned means that it succeeded.
fn success(call: &Call, result: u64) -> bool {
    match success_of(call.packed) {
        Success::Always => true,
        Success::Zero => result as u8 == 0,
        Success::NotZero => result as u8 != 0,
    }
}

/// Whether an operation under way concerns the lock.
fn outer(state: &ThreadState, address: u64, which: impl Fn(Operation) -> bool) -> bool {
    let count = (state.lock.call_count as usize).min(CALLS);
    state.lock.calls.iter().take(count).any(|call| {
        call.address == address && call.sp > state.guest_sp && operation_of(call.packed).is_some_and(&which)
    })
}

/// An interposed function that tries did not get a lock.
pub fn interposed_failed(state: &mut ThreadState, address: usize, exclusive: bool) {
    if contention::is_on() && !state.lock.live().is_null() {
        let operation = if exclusive { Operation::TryExclusive } else { Operation::TryShared };
        incident::failed(state, address, NO_SITE, operation);
    }
}

/// An interposed function took a lock.
pub fn interposed_acquired(state: &mut ThreadState, address: usize, exclusive: bool, is_try: bool, lock: Type) {
    let operation = match (exclusive, is_try) {
        (true, false) => Operation::LockExclusive,
        (true, true) => Operation::TryExclusive,
        (false, false) => Operation::LockShared,
        (false, true) => Operation::TryShared,
    };
    acquired(state, address, NO_SITE, operation, lock, 0);
}
