//! Entering and leaving the runtime from interposers and handlers.

use super::{ThreadState, life, ready};
use crate::hook::signal;
use crate::record;
use crate::rt::cpu;
use conprof_wire::recording::Counter;
use conprof_wire::state::OWNER_FS;
use core::arch::naked_asm;
use core::sync::atomic::{Ordering, compiler_fence};

/// Enters the runtime: sets the guard and gives the thread's state, or `None` where nothing may be
/// recorded: before initialisation, in a forked child, from within the runtime, without memory.
///
/// Everything entered is left by [`leave`].
#[inline]
pub fn enter() -> Option<&'static mut ThreadState> {
    if !ready() {
        return None;
    }
    // SAFETY: the runtime is ready, so every thread's gs base points to a state.
    let owner = unsafe { cpu::read_gs::<OWNER_FS>() };
    let state = if owner == cpu::thread_pointer() {
        // SAFETY: as above.
        (unsafe { cpu::state_address() }) as *mut ThreadState
    } else {
        adopt()
    };
    if state.is_null() {
        return None;
    }
    if !record::process_is_ours() {
        // SAFETY: the state is this thread's.
        unsafe { life::detach_slow(state) };
        return None;
    }
    // SAFETY: the state is this thread's own, and the guard, checked here, makes the reference the only one.
    unsafe {
        let guard = &raw mut (*state).gs.guard;
        if guard.read_volatile() != 0 {
            record::count(Counter::NestedEntries);
            return None;
        }
        guard.write_volatile(1);
        compiler_fence(Ordering::SeqCst);
        let state = &mut *state;
        // What handlers left on top while a real function ran is below this, the interposer's frame above it.
        state.guest_sp = cpu::stack_pointer();
        Some(state)
    }
}

/// Leaves the runtime and lets a deferred signal in.
#[inline]
pub fn leave(state: &mut ThreadState) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the field is this thread's.
    unsafe { (&raw mut state.gs.guard).write_volatile(0) };
    // SAFETY: as above.
    if unsafe { (&raw const state.gs.signals_pending).read_volatile() } != 0 {
        signal::deliver_slow(state);
    }
}

/// Runs `body` inside the runtime, on the runtime's own stack; does nothing where [`enter`] gives `None`.
#[inline]
pub fn run(body: impl FnOnce(&mut ThreadState)) {
    if let Some(state) = enter() {
        on_runtime_stack(state, |state| {
            // On the runtime's stack, as the guest's may be a few KB and this may read the process's map.
            if state.guest_sp.wrapping_sub(state.gs.stack_low) >= state.gs.stack_len {
                super::stacks::switch_slow(state, state.guest_sp);
            }
            state.live_frames();
            body(state);
        });
        leave(state);
    }
}

/// Runs `body` on the runtime's own stack of this thread. The guard is set.
#[inline]
pub fn on_runtime_stack<F: FnOnce(&mut ThreadState)>(state: &mut ThreadState, body: F) {
    struct Call<F> {
        body: Option<F>,
        state: *mut ThreadState,
    }
    unsafe extern "C" fn call<F: FnOnce(&mut ThreadState)>(data: *mut Call<F>) {
        // SAFETY: `data` is the value below, which outlives the call; its state is the caller's exclusive reference.
        unsafe {
            if let Some(body) = (*data).body.take() {
                body(&mut *(*data).state);
            }
        }
    }
    let top = state.gs.runtime_stack_top;
    let mut data = Call { body: Some(body), state };
    // SAFETY: the guard is set, so nobody else uses the runtime stack.
    unsafe { call_on_stack(call::<F> as *const () as u64, &raw mut data as u64, top) };
}

#[unsafe(naked)]
unsafe extern "C" fn call_on_stack(function: u64, data: u64, stack_top: u64) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rsp, rdx",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}

/// Gives the calling thread, which runs with another thread's gs base, a state of its own.
/// Null where that cannot be or in a forked child.
#[cold]
#[inline(never)]
pub extern "C" fn adopt() -> *mut ThreadState {
    if !record::process_is_ours() {
        return core::ptr::null_mut();
    }
    life::adopted().unwrap_or(core::ptr::null_mut())
}
