//! Shadow stacks: one for each guest stack that a thread runs on.
//!
//! The rule that makes exit events unnecessary, "a frame whose stack pointer is not above a later entry's
//! is dead", holds within one stack. Signal stacks and coroutines are other stacks, with shadow stacks of
//! their own, found by address range in one table for the whole process, since a coroutine may go on in
//! another thread. Direction of error: where a range is judged wrongly (two coroutines in one mapping),
//! calling frames are missing or stale in a stack trace; no race is invented or missed by it.

use super::ThreadState;
use crate::record;
use crate::rt::lock::SpinLock;
use crate::rt::{arena, syscall};
use conprof_wire::recording::Counter;
use conprof_wire::state::Frame;

/// Other stacks that are remembered at once; the oldest is replaced.
const CAPACITY: usize = 1024;
/// Frames of another stack.
const FRAMES: usize = 8 * 1024;

/// Which shadow stack a thread uses: 0 its own, else the index in the table plus one.
pub type Current = u32;

#[derive(Clone, Copy)]
struct Other {
    low: u64,
    len: u64,
    base: u64,
    top: u64,
    /// The thread that last used it, which may still have the current top in its registers.
    user: *mut ThreadState,
}

struct Table {
    entries: [Other; CAPACITY],
    len: usize,
    next: usize,
}

// SAFETY: the pointers are to memory of the runtime that is never unmapped.
unsafe impl Send for Table {}

static TABLE: SpinLock<Table> = SpinLock::new(Table {
    entries: [Other { low: 0, len: 0, base: 0, top: 0, user: core::ptr::null_mut() }; CAPACITY],
    len: 0,
    next: 0,
});

/// Starts an empty shadow stack at `base`.
///
/// # Safety
/// `base` is the first of a shadow stack's frames.
pub unsafe fn clear(base: u64) {
    let bottom = Frame { sp: u64::MAX, return_address: 0, node: 0, reserved: 0 };
    // SAFETY: promised by the caller.
    unsafe { *(base as *mut Frame) = bottom };
}

/// Lets the thread use the shadow stack of its own stack, emptied.
pub fn reset_own(state: &mut ThreadState, low: u64, len: u64) {
    // SAFETY: the registry made `own_frames`.
    unsafe { clear(state.own_frames) };
    state.current_stack = 0;
    state.gs.stack_low = low;
    state.gs.stack_len = len;
    state.own_stack = [low, len, state.own_frames];
    use_frames(state, state.own_frames, state.own_frames, super::FRAMES);
}

fn use_frames(state: &mut ThreadState, base: u64, top: u64, frames: usize) {
    state.frames_base = base;
    state.gs.frames_top = top;
    state.gs.frames_limit = base + ((frames - 1) * size_of::<Frame>()) as u64;
}

/// Switches to the shadow stack of the guest stack that `sp` is on. The guard is set.
#[cold]
pub fn switch_slow(state: &mut ThreadState, sp: u64) {
    record::count(Counter::StackSwitches);
    let mut table = TABLE.lock();
    let me: *mut ThreadState = state;
    // What this thread knows of the stack it leaves.
    match state.current_stack {
        0 => state.own_stack[2] = state.gs.frames_top,
        index => {
            if let Some(other) = table.entries.get_mut(index as usize - 1)
                && other.user == me
                && other.base == state.frames_base
            {
                other.top = state.gs.frames_top;
            }
        }
    }
    let [own_low, own_len, own_top] = state.own_stack;
    if sp.wrapping_sub(own_low) < own_len {
        state.current_stack = 0;
        state.gs.stack_low = own_low;
        state.gs.stack_len = own_len;
        use_frames(state, state.own_frames, own_top, super::FRAMES);
        return;
    }
    let len = table.len;
    let known = table.entries.iter().take(len).position(|other| sp.wrapping_sub(other.low) < other.len);
    let index = match known {
        Some(index) => index,
        None => match add(&mut table, sp) {
            Some(index) => index,
            None => {
                // No memory for another shadow stack: the thread's own one serves, emptied by the sp rule.
                state.gs.stack_low = 0;
                state.gs.stack_len = u64::MAX;
                state.current_stack = 0;
                use_frames(state, state.own_frames, own_top, super::FRAMES);
                return;
            }
        },
    };
    let Some(other) = table.entries.get_mut(index) else { return };
    if other.user != me && !other.user.is_null() {
        // SAFETY: states are never unmapped; that thread runs on another stack now, or has left its top here.
        unsafe {
            if (*other.user).frames_base == other.base {
                other.top = (*other.user).gs.frames_top;
            }
        }
    }
    other.user = me;
    state.current_stack = index as u32 + 1;
    state.gs.stack_low = other.low;
    state.gs.stack_len = other.len;
    use_frames(state, other.base, other.top, FRAMES);
}

/// Adds an entry for the mapping that `sp` is in.
fn add(table: &mut Table, sp: u64) -> Option<usize> {
    let (low, len) = crate::apply::maps::mapping_of(sp).unwrap_or((sp & !0xfff, 4096));
    let index = if table.len < CAPACITY {
        let base = arena::pages(FRAMES * size_of::<Frame>())? as u64;
        let index = table.len;
        table.entries.get_mut(index)?.base = base;
        table.len += 1;
        index
    } else {
        let index = table.next % CAPACITY;
        table.next = index + 1;
        index
    };
    let other = table.entries.get_mut(index)?;
    // SAFETY: `base` was made by an arena for this entry.
    unsafe { clear(other.base) };
    *other = Other { low, len, base: other.base, top: other.base, user: core::ptr::null_mut() };
    Some(index)
}

/// Gives the memory of shadow stacks back after a thread's end, so that a deep recursion does not cost forever.
pub fn trim(state: &ThreadState) {
    const KEPT: u64 = 64 * 1024;
    let used = state.gs.frames_top.saturating_sub(state.own_frames);
    if used > KEPT {
        let bytes = super::FRAMES * size_of::<Frame>();
        syscall::advise(state.own_frames as usize, bytes & !4095, libc::MADV_DONTNEED);
    }
}
