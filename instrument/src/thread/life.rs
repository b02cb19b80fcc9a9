//! Birth, end and join of threads.

use super::registry::{self, Registry};
use super::{FLAG_DETACHED, FLAG_LIVE, FLAG_STARTED, ThreadState, stacks};
use crate::rt::{cpu, syscall};
use crate::{apply, check, lock, record};
use conprof_wire::recording::{Counter, ThreadRow};
use conprof_wire::state::GsBlock;
use core::sync::atomic::Ordering;

/// `ThreadRow::origin` of a thread that was wrapped at its creation.
const ORIGIN_WRAPPED: u32 = 0;
/// `ThreadRow::origin` of the main thread.
const ORIGIN_MAIN: u32 = 1;
/// `ThreadRow::origin` of an adopted thread.
const ORIGIN_ADOPTED: u32 = 2;

/// Stack that is assumed below an adopted thread's stack pointer's mapping end, in bytes, where maps cannot be read.
const ASSUMED_STACK_BYTES: u64 = 8 << 20;

/// Sets up the calling thread as the main thread; whether that worked.
pub fn install_main() -> bool {
    let Some(state) = registry::lock().take() else { return false };
    // SAFETY: the state is fresh and nobody else's.
    let state = unsafe { &mut *state };
    let (low, len) = apply::maps::main_stack();
    prepare(state);
    state.gs.owner_fs = cpu::thread_pointer();
    state.tid = syscall::thread_id();
    state.flags.fetch_or(FLAG_STARTED, Ordering::Relaxed);
    stacks::reset_own(state, low, len);
    check::thread_main(state);
    publish(state, u32::MAX, 0, ORIGIN_MAIN);
    cpu::set_gs_base(state as *mut ThreadState as u64)
}

/// The parts of the gs block that are the same for all threads.
fn prepare(state: &mut ThreadState) {
    state.allocator_depth = 0;
    let (mask, base) = apply::shadow::layout();
    let gs: &mut GsBlock = &mut state.gs;
    gs.granule_mask = mask;
    gs.shadow_base = base;
    gs.guard = 0;
    gs.signals_pending = 0;
}

fn publish(state: &mut ThreadState, creator: u32, created_at: u32, origin: u32) {
    let (slot, first_epoch) = check::identity(state);
    let row = ThreadRow {
        tid: state.tid,
        slot,
        creator,
        created_at,
        first_epoch,
        finished: 0,
        origin,
        stack_low: state.gs.stack_low,
        stack_high: state.gs.stack_low.wrapping_add(state.gs.stack_len),
        name: if origin == ORIGIN_WRAPPED { [0; 16] } else { syscall::thread_name() },
    };
    state.serial = record::thread(&row);
    lock::thread_begins(state);
}

/// Makes the state of a thread that `parent` is about to create. `None` where there is no room.
pub fn created(parent: &mut ThreadState, start: [usize; 2], stack_bytes: u64) -> Option<*mut ThreadState> {
    let mut registry = registry::lock();
    reap(&mut registry);
    let child = registry.take()?;
    drop(registry);
    // SAFETY: the state was just taken, nobody else knows it.
    let state = unsafe { &mut *child };
    prepare(state);
    state.start = start;
    state.stack_bytes = stack_bytes;
    state.gs.stack_low = 0;
    state.gs.stack_len = 0;
    state.tid = 0;
    check::thread_create(parent, state);
    let created_at = parent.context();
    publish(state, parent.serial, created_at, ORIGIN_WRAPPED);
    lock::created(parent, state.serial);
    Some(child)
}

/// Takes back the state of a thread that could not be created.
///
/// # Safety
/// `child` came from [`created`] and no thread runs with it.
pub unsafe fn not_created(child: *mut ThreadState) {
    // SAFETY: promised by the caller.
    unsafe { end(&mut registry::lock(), child) };
}

/// Installs the state in the new thread, before anything else of it runs.
///
/// # Safety
/// `state` came from [`created`] and is this thread's.
pub unsafe fn started(state: *mut ThreadState) {
    cpu::set_gs_base(state as u64);
    // SAFETY: the state is this thread's from here on.
    let state = unsafe { &mut *state };
    state.gs.guard = 1;
    state.tid = syscall::thread_id();
    let fs = cpu::thread_pointer();
    // glibc puts the control block and the static TLS at the top of the stack, whoever allocated it.
    let high = (fs + 0x1000) & !0xfff;
    let len = state.stack_bytes.max(0x4000);
    stacks::reset_own(state, high.saturating_sub(len), len);
    state.gs.owner_fs = fs;
    {
        let mut registry = registry::lock();
        let this: *mut ThreadState = state;
        // Whoever had this control block before is gone.
        end_others_at(&mut registry, fs, this);
        state.flags.fetch_or(FLAG_STARTED, Ordering::Relaxed);
    }
    record::thread_started(state.serial, state.tid, state.gs.stack_low, high);
    record::thread_name(state.serial, &syscall::thread_name());
    super::on_runtime_stack(state, |state| {
        check::clean(state, state.gs.stack_low as usize, state.gs.stack_len as usize);
        check::thread_start(state);
    });
    super::leave(state);
}

fn end_others_at(registry: &mut Registry, fs: u64, this: *mut ThreadState) {
    while let Some(older) = registry.find_live(|other| !core::ptr::eq(other, this) && other.gs.owner_fs == fs) {
        // SAFETY: its control block belongs to a newer thread, so its kernel thread is gone.
        unsafe { end(registry, older) };
    }
}

/// Makes a state for the calling thread, which nobody wrapped. Called without guard; signals are blocked meanwhile.
pub fn adopted() -> Option<*mut ThreadState> {
    let mask = syscall::set_signal_mask(!0);
    let state = adopt_blocked();
    syscall::set_signal_mask(mask);
    state
}

fn adopt_blocked() -> Option<*mut ThreadState> {
    let fs = cpu::thread_pointer();
    let address = {
        let mut registry = registry::lock();
        reap(&mut registry);
        end_others_at(&mut registry, fs, core::ptr::null_mut());
        registry.take()?
    };
    // SAFETY: the state was just taken, nobody else knows it.
    let state = unsafe { &mut *address };
    prepare(state);
    state.gs.owner_fs = fs;
    state.tid = syscall::thread_id();
    state.flags.fetch_or(FLAG_STARTED | FLAG_DETACHED, Ordering::Relaxed);
    if !cpu::set_gs_base(address as u64) {
        return None;
    }
    let marker = 0u8;
    let sp = &raw const marker as u64;
    let (low, len) =
        apply::maps::mapping_of(sp).unwrap_or((sp.saturating_sub(ASSUMED_STACK_BYTES), 2 * ASSUMED_STACK_BYTES));
    stacks::reset_own(state, low, len);
    state.gs.guard = 1;
    super::on_runtime_stack(state, |state| {
        record::count(Counter::AdoptedThreads);
        check::thread_adopt(state);
        publish(state, u32::MAX, 0, ORIGIN_ADOPTED);
    });
    state.gs.guard = 0;
    Some(address)
}

/// Ends detached threads whose kernel thread is gone.
fn reap(registry: &mut Registry) {
    let pid = record::process_id();
    while let Some(gone) = registry.find_live(|state| {
        let flags = state.flags.load(Ordering::Relaxed);
        flags & FLAG_DETACHED != 0 && flags & FLAG_STARTED != 0 && !syscall::thread_exists(pid, state.tid)
    }) {
        // SAFETY: the kernel thread is gone and nobody joins it.
        unsafe { end(registry, gone) };
    }
}

/// # Safety
/// The state is live and its kernel thread is gone or never was.
unsafe fn end(registry: &mut Registry, state: *mut ThreadState) {
    // SAFETY: nobody else uses the state of a thread that is gone; the registry is locked.
    unsafe {
        check::thread_end(&mut *state);
        lock::thread_ends(&mut *state);
        record::thread_finished((*state).serial);
        stacks::trim(&*state);
        registry.give_back(state);
    }
}

/// A state and its generation, which tells a later use of the state apart.
pub type Child = (*mut ThreadState, u32);

fn find(registry: &Registry, thread: u64) -> (Option<*mut ThreadState>, bool) {
    let joinable = |state: &ThreadState| state.flags.load(Ordering::Relaxed) & FLAG_DETACHED == 0;
    let found = registry.find_live(|state| joinable(state) && state.gs.owner_fs == thread);
    let starting = found.is_none()
        && registry
            .find_live(|state| joinable(state) && state.flags.load(Ordering::Relaxed) & FLAG_STARTED == 0)
            .is_some();
    (found, starting)
}

/// The live, not detached state of the thread whose `pthread_t` is given; else whether some thread was created
/// and has not started, so that it may be that one.
pub fn find_joinable(thread: u64) -> (Option<Child>, bool) {
    let (found, starting) = find(&registry::lock(), thread);
    // SAFETY: states are never unmapped.
    (found.map(|state| (state, unsafe { (*state).generation })), starting)
}

/// The serial of the live thread whose `pthread_t` is given.
pub fn serial_of(thread: u64) -> Option<u32> {
    let state = registry::lock().find_live(|state| state.gs.owner_fs == thread)?;
    // SAFETY: states are never unmapped.
    Some(unsafe { (*state).serial })
}

/// After a successful join of the thread that [`find_joinable`] gave: acquires its final clock and ends it.
pub fn joined(joiner: &mut ThreadState, (child, generation): Child) {
    // SAFETY: the kernel thread is gone, and the state stays its own until it is given back here.
    unsafe {
        if (*child).generation != generation || (*child).flags.load(Ordering::Relaxed) & FLAG_LIVE == 0 {
            return;
        }
        check::thread_join(joiner, &mut *child);
        lock::joined(joiner, (*child).serial);
        end(&mut registry::lock(), child);
    }
}

/// Notes that nobody will join the thread. Whether it was found, and as for [`find_joinable`].
pub fn set_detached(thread: u64) -> (bool, bool) {
    let (found, starting) = find(&registry::lock(), thread);
    if let Some(state) = found {
        // SAFETY: states are never unmapped.
        unsafe { (*state).flags.fetch_or(FLAG_DETACHED, Ordering::Relaxed) };
    }
    (found.is_some(), starting)
}

/// Makes a forked child run on without checks: entries forward, and inline checks always pass.
///
/// # Safety
/// `state` is the calling thread's.
#[cold]
pub unsafe fn detach_slow(state: *mut ThreadState) {
    super::READY.store(0, Ordering::Relaxed);
    let (mask, base) = apply::shadow::harmless();
    // SAFETY: promised by the caller.
    unsafe {
        (*state).gs.granule_mask = mask;
        (*state).gs.shadow_base = base;
        (*state).gs.key = apply::shadow::HARMLESS_KEY;
        (*state).gs.guard = 0;
        (*state).gs.signals_pending = 0;
    }
}
