//! Threads of the target as the runtime knows them.
//!
//! A [`ThreadState`] is made by the creating thread, installed by the new thread before anything else of
//! it runs, kept after the thread's end until it is joined (its final clock is wanted then) or, for a
//! detached thread, until the kernel thread is gone, and then used again for a later thread.
//!
//! Architecture invariant: a state is found only through the gs base, and belongs to the thread whose
//! `fs` base it names. A thread that nobody wrapped inherits the gs base of another, which every entry
//! notices by that comparison; it is then given a state of its own ([`adopt`]).

mod enter;
mod life;
pub mod registry;
pub mod stacks;

pub use enter::{adopt, enter, leave, on_runtime_stack, run};
pub use life::{
    created, detach_slow, find_joinable, install_main, joined, not_created, serial_of, set_detached, started,
};

use crate::check::ThreadCheck;
use conprof_wire::state::{Frame, GsBlock};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Bytes of the runtime's own stack of a thread.
pub const RUNTIME_STACK_BYTES: usize = 64 * 1024;
/// Frames that the shadow stack of a thread's own stack holds. The memory is committed as it is used.
pub const FRAMES: usize = 256 * 1024;

/// What the runtime knows of a thread. All-zero bytes are a valid, unused state.
#[repr(C, align(64))]
pub struct ThreadState {
    /// What generated code and stubs reach; must be first.
    pub gs: GsBlock,
    /// Stack pointer of the target at the current entry: frames below it are dead.
    pub guest_sp: u64,
    /// Bottom frame of the current shadow stack.
    pub frames_base: u64,
    /// The shadow stack in use (see [`stacks`]).
    pub current_stack: stacks::Current,
    /// The thread's own stack: lowest address, length, and topmost frame while another stack is in use.
    pub own_stack: [u64; 3],
    /// Kernel thread id.
    pub tid: u32,
    /// Row of the recording's thread table.
    pub serial: u32,
    /// Bits of `FLAG_*`.
    pub flags: AtomicU32,
    /// Times the state was used for a thread before.
    pub generation: u32,
    /// Start routine and argument of the target's thread.
    pub start: [usize; 2],
    /// Length in bytes of the stack that the thread was created with.
    pub stack_bytes: u64,
    /// Shadow stack of the thread's own stack: bottom frame.
    pub own_frames: u64,
    /// Calls of a statically linked allocator's functions that the thread is inside: what these copy and call
    /// among themselves is the allocator's own affair.
    pub allocator_depth: u32,
    /// Control and routine of the one-time initialisation that this thread is about to run.
    pub once: [usize; 2],
    /// Number and arguments of the system call that is being made, and its site.
    pub system_call: SystemCall,
    /// A signal that waits until the runtime is left.
    pub deferred: crate::hook::signal::Deferred,
    /// The detector's part.
    pub check: ThreadCheck,
    /// Locks held and lock operations under way.
    pub lock: crate::lock::ThreadLock,
}

/// A system call between `SyscallBefore` and `SyscallAfter`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SystemCall {
    /// Number, then six arguments.
    pub registers: [u64; 7],
}

/// The state is in use, its thread may be running.
pub const FLAG_LIVE: u32 = 1;
/// Nobody will join the thread.
pub const FLAG_DETACHED: u32 = 2;
/// The thread has started (its `owner_fs` and `tid` are set).
pub const FLAG_STARTED: u32 = 4;

/// 1 once the runtime is initialised and the process is the one that was started: entries may use `%gs`.
///
/// Every thread that exists from then on inherits a gs base that points to some state.
pub static READY: AtomicU8 = AtomicU8::new(0);

/// Whether entries may use `%gs`.
#[inline(always)]
pub fn ready() -> bool {
    // Relaxed: set before a second thread exists.
    READY.load(Ordering::Relaxed) != 0
}

impl ThreadState {
    /// The frames of the current shadow stack that are alive at `guest_sp`, as (bottom, top): both
    /// inclusive, the bottom one is not a function.
    pub fn live_frames(&mut self) -> (*mut Frame, *mut Frame) {
        let base = self.frames_base as *mut Frame;
        let mut top = self.gs.frames_top as *mut Frame;
        // SAFETY: frames between base and top are initialised; the bottom one's sp is u64::MAX, so the loop ends there.
        unsafe {
            while (*top).sp < self.guest_sp {
                top = top.sub(1);
            }
        }
        self.gs.frames_top = top as u64;
        (base, top)
    }

    /// The calling-context node of the live frames: who called the function that runs now. 0 where there is none.
    pub fn context(&mut self) -> u32 {
        let (base, top) = self.live_frames();
        let top = if self.current_stack == 0 { self.without_stale(base, top) } else { top };
        crate::record::context::intern(base, top)
    }

    /// The topmost frame, once frames that returned unnoticed are dropped: below the frames of functions that code without entry events
    /// called, a frame may lie that only looks alive. Its return address is not on the stack any more, unless by chance.
    ///
    /// Frames that were looked at before are looked at again down to the first that is there. Only the thread's own stack is read,
    /// which stays mapped. Direction of error: a stale frame may stay, no live one is dropped.
    fn without_stale(&mut self, base: *mut Frame, top: *mut Frame) -> *mut Frame {
        let (low, len) = (self.gs.stack_low, self.gs.stack_len);
        let is_there = |frame: &Frame| {
            let outside = frame.sp % 8 != 0 || frame.sp < self.guest_sp || frame.sp.wrapping_sub(low) >= len;
            // SAFETY: the address lies in the thread's own stack, above its present pointer.
            outside || unsafe { *(frame.sp as *const u64) } == frame.return_address
        };
        // SAFETY: the frames from base to top are initialised, and this thread's.
        let top = unsafe {
            let mut known = top;
            while known > base && (*known).node == 0 {
                known = known.sub(1);
            }
            let mut kept = known;
            while kept > base && !is_there(&*kept) {
                kept = kept.sub(1);
            }
            if kept == known && known == top {
                return top;
            }
            let mut from = known;
            while from < top {
                from = from.add(1);
                if is_there(&*from) {
                    kept = kept.add(1);
                    *kept = *from;
                }
            }
            kept
        };
        self.gs.frames_top = top as u64;
        top
    }

    /// Whether no one will join the thread.
    pub fn is_detached(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & FLAG_DETACHED != 0
    }
}
