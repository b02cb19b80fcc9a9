//! All thread states, for reuse and for finding a thread by its `pthread_t`.

use super::{FLAG_LIVE, FRAMES, RUNTIME_STACK_BYTES, ThreadState};
use crate::record;
use crate::rt::lock::{SpinGuard, SpinLock};
use crate::rt::{arena, syscall};
use conprof_wire::recording::Counter;
use conprof_wire::state::Frame;
use core::sync::atomic::Ordering;

/// States that can exist; one for each slot of a shadow cell.
pub const CAPACITY: usize = 1 << conprof_wire::state::SLOT_BITS;

const GUARD_BYTES: usize = 4096;
const STATE_BYTES: usize = size_of::<ThreadState>().next_multiple_of(4096);
const FRAME_BYTES: usize = (FRAMES * size_of::<Frame>()).next_multiple_of(4096);

/// The table of states.
pub struct Registry {
    states: [*mut ThreadState; CAPACITY],
    len: usize,
    live: usize,
}

// SAFETY: the pointers are to memory of the runtime that is never unmapped.
unsafe impl Send for Registry {}

static REGISTRY: SpinLock<Registry> =
    SpinLock::new(Registry { states: [core::ptr::null_mut(); CAPACITY], len: 0, live: 0 });

/// The table, locked. The caller's guard is set.
pub fn lock() -> SpinGuard<'static, Registry> {
    REGISTRY.lock()
}

impl Registry {
    /// All states that were ever used, live or not.
    pub fn states(&self) -> &[*mut ThreadState] {
        self.states.get(..self.len).unwrap_or(&[])
    }

    /// A live state for which `wanted` holds.
    pub fn find_live(&self, mut wanted: impl FnMut(&ThreadState) -> bool) -> Option<*mut ThreadState> {
        self.states().iter().copied().find(|&state| {
            // SAFETY: states are never unmapped; the fields that `wanted` reads change only under this lock, or
            // are read with tolerance for another value.
            let state = unsafe { &*state };
            state.flags.load(Ordering::Relaxed) & FLAG_LIVE != 0 && wanted(state)
        })
    }

    /// Takes an unused state or makes a new one, and marks it live. `None` where there is no room.
    pub fn take(&mut self) -> Option<*mut ThreadState> {
        let unused = self.states().iter().copied().find(|&state| {
            // SAFETY: states are never unmapped.
            unsafe { (*state).flags.load(Ordering::Relaxed) & FLAG_LIVE == 0 }
        });
        let state = match unused {
            Some(state) => state,
            None => {
                let state = make()?;
                *self.states.get_mut(self.len)? = state;
                self.len += 1;
                state
            }
        };
        // SAFETY: as above.
        unsafe { (*state).flags.store(FLAG_LIVE, Ordering::Relaxed) };
        self.live += 1;
        record::raise_threads_peak(self.live as u64);
        Some(state)
    }

    /// Gives a state back.
    ///
    /// # Safety
    /// The state is live and its kernel thread is gone or never was.
    pub unsafe fn give_back(&mut self, state: *mut ThreadState) {
        // SAFETY: states are never unmapped.
        unsafe {
            (*state).flags.store(0, Ordering::Relaxed);
            (*state).gs.owner_fs = 0;
            (*state).generation = (*state).generation.wrapping_add(1);
        }
        self.live = self.live.saturating_sub(1);
    }
}

/// Maps a state: a guard page, the runtime stack, the state, the frames of the thread's own stack.
fn make() -> Option<*mut ThreadState> {
    let len = GUARD_BYTES + RUNTIME_STACK_BYTES + STATE_BYTES + FRAME_BYTES;
    let Some(memory) = arena::pages(len) else {
        record::count(Counter::FramesLost);
        return None;
    };
    syscall::protect(memory as usize, GUARD_BYTES, libc::PROT_NONE);
    let state_address = memory as usize + GUARD_BYTES + RUNTIME_STACK_BYTES;
    let state = state_address as *mut ThreadState;
    // SAFETY: the memory is fresh and zeroed, which is a valid state.
    unsafe {
        (*state).gs.self_address = state_address as u64;
        (*state).gs.runtime_stack_top = state_address as u64;
        (*state).own_frames = (state_address + STATE_BYTES) as u64;
    }
    Some(state)
}
