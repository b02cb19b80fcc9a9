//! Interposed functions of libc: each a few lines of policy around the real function.
//!
//! An exported function is a thunk: it forwards at once where nothing is recorded, else pushes a frame for
//! itself, so that the caller is the top of the calling context, and jumps to its policy.
//!
//! The thunks keep `rsp`, so the real function's own arguments on the stack would not be found; no
//! interposed function has more than six arguments.

pub mod alloc;
pub mod io;
pub mod key;
pub mod mapping;
pub mod memory;
pub mod mutex;
pub mod process;
pub mod real;
pub mod rwlock;
pub mod semaphore;
pub mod signal;
pub mod string;
pub mod syscall;
pub mod thread;

/// Exports `$name`, which runs `$policy` when the runtime is ready and the real function otherwise.
macro_rules! interpose {
    ($($name:ident => $policy:path;)*) => {$(
        #[doc = concat!("Interposes `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As for the function interposed.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "cmp byte ptr [rip+{ready}], 0",
                "je 2f",
                "call {entry}",
                "jmp {policy}",
                "2:",
                "mov r11, [rip+{real}]",
                "test r11, r11",
                "jz 3f",
                "jmp r11",
                "3:",
                "jmp {policy}",
                ready = sym crate::thread::READY,
                entry = sym crate::stubs::function_entry,
                policy = sym $policy,
                real = sym crate::hook::real::pointer::$name,
            )
        }
    )*};
}
pub(crate) use interpose;

use crate::apply::plan::is_checked_text;
use crate::thread::ThreadState;
use conprof_wire::state::Frame;

/// Whether the function that called the interposer is in the checked module.
pub fn caller_is_checked(state: &ThreadState) -> bool {
    // SAFETY: the top of the shadow stack is always a frame.
    let frame = unsafe { *(state.gs.frames_top as *const Frame) };
    is_checked_text(frame.return_address)
}
