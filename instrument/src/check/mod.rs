//! The detector's entries, as the rest of the shim calls them.
//!
//! All are called with the thread's guard set, on the runtime stack unless they say otherwise, with
//! `state.guest_sp` set. They never block, and touch no memory of the target but through its shadow.

#![allow(clippy::needless_pass_by_ref_mut)]

use crate::thread::ThreadState;
use conprof_wire::recording::Interposed;

/// The detector's part of a thread's state. All-zero bytes are a valid value; states are used again.
#[repr(C)]
pub struct ThreadCheck {
    unused: u64,
}

/// Once, before any other; the recording and the shadow are set up.
pub fn init() {}

/// The main thread's state is installed.
pub fn thread_main(_state: &mut ThreadState) {}
/// `parent` is about to create the thread of `child`, whose state is fresh or used again.
pub fn thread_create(_parent: &mut ThreadState, _child: &mut ThreadState) {}
/// First thing in the new thread; its stack was cleaned.
pub fn thread_start(_child: &mut ThreadState) {}
/// A thread that nobody wrapped: its clock joins those of all others. Runs with all signals blocked.
pub fn thread_adopt(_state: &mut ThreadState) {}
/// `child`'s kernel thread is gone; `joiner` acquires its final clock.
pub fn thread_join(_joiner: &mut ThreadState, _child: &mut ThreadState) {}
/// The thread is gone (joined, detached or never created): its slot may be used again. The registry is locked.
pub fn thread_end(_child: &mut ThreadState) {}
/// Slot and first epoch of the thread, for its row in the recording.
pub fn identity(_state: &ThreadState) -> (u32, u64) {
    (0, 0)
}

/// A plain or unknown access of a site.
pub fn access(_state: &mut ThreadState, _address: usize, _site: u32) {}
/// Before an atomic operation.
pub fn atomic_before(_state: &mut ThreadState, _address: usize, _site: u32) {}
/// After an atomic operation.
pub fn atomic_after(_state: &mut ThreadState, _address: usize, _site: u32) {}
/// Before a string instruction, with its `rcx`, `rsi`, `rdi` and whether it counts down.
pub fn string_operation(_state: &mut ThreadState, _site: u32, _rcx: u64, _rsi: usize, _rdi: usize, _down: bool) {}
/// Into or out of code that is not understood.
pub fn opaque(_state: &mut ThreadState, _site: u32) {}

/// An interposed function or system call reads or writes the range.
pub fn range(_state: &mut ThreadState, _start: usize, _len: usize, _write: bool, _by: Interposed) {}
/// The memory is fresh: what was accessed there before is forgotten. May be called off the runtime stack.
pub fn clean(_state: &mut ThreadState, _start: usize, _len: usize) {}
/// A block was allocated; it is fresh. After the real allocation.
pub fn allocated(_state: &mut ThreadState, _block: usize, _len: usize) {}
/// A block is about to be freed: a write to all of it. Before the real free.
pub fn freed(_state: &mut ThreadState, _block: usize, _len: usize) {}
/// A block is about to be freed by code that is not checked: forgotten. Before the real free.
pub fn freed_unchecked(_state: &mut ThreadState, _block: usize, _len: usize) {}

/// Joins the thread's clock into the object `key` (an address, or a value of `hook::key`).
pub fn release(_state: &mut ThreadState, _key: usize) {}
/// Joins the object's clock into the thread's.
pub fn acquire(_state: &mut ThreadState, _key: usize) {}
/// The object is gone.
pub fn destroy(_state: &mut ThreadState, _key: usize) {}
/// A lock was taken (acquires too). `site` is `NO_SITE` for interposed functions.
pub fn lock_acquired(_state: &mut ThreadState, _lock: usize, _site: u32, _exclusive: bool) {}
/// A lock is about to be given up (releases too).
pub fn lock_released(_state: &mut ThreadState, _lock: usize, _site: u32) {}
/// The process is about to end.
pub fn exiting(_state: &mut ThreadState) {}
