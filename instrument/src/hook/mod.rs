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
pub mod sleep;
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
                // For walking the target's stack: what runs from here on may change it.
                "mov gs:[{guest_bp}], rbp",
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
                guest_bp = const crate::lock::GUEST_BP,
                policy = sym $policy,
                real = sym crate::hook::real::pointer::$name,
            )
        }
    )*};
}
pub(crate) use interpose;

use crate::apply::pc_map;
use crate::lock;

use crate::apply::plan::is_checked_text;
use crate::thread::ThreadState;
use conprof_wire::state::Frame;
use conprof_wire::waits::WaitKind;

/// Makes a call that may block for something outside.
pub(crate) fn blocking<R>(kind: WaitKind, call: impl FnOnce() -> R) -> R {
    blocking_unless(|| false, kind, call)
}

/// Makes a call that blocks for input or output on a descriptor, unless that is in non-blocking mode (O_NONBLOCK in open(2)): where
/// such a call takes long, the processor was somebody else's.
pub(crate) fn blocking_on<R>(fd: core::ffi::c_int, call: impl FnOnce() -> R) -> R {
    blocking_unless(|| crate::rt::syscall::is_nonblocking(fd), WaitKind::Outside, call)
}

fn blocking_unless<R>(never: impl FnOnce() -> bool, kind: WaitKind, call: impl FnOnce() -> R) -> R {
    let (mut since, mut guest_bp) = (0, 0);
    if let Some(state) = crate::thread::enter() {
        let matters = lock::minds_blocking(state);
        crate::thread::leave(state);
        if matters {
            crate::thread::run(|state| (since, guest_bp) = lock::blocks(state));
        }
    }
    let result = call();
    if since != 0 && lock::took_long(since) && !never() {
        crate::thread::run(|state| lock::blocked(state, kind, since, guest_bp));
    }
    result
}

/// Whether the function that called the interposer is one that runs as a checked copy: the place its call returns
/// to, in the original text, is then patched with a jump into generated code. What allocators and other native
/// functions do through libc is not checked, like the rest of what they do.
pub fn caller_is_checked(state: &ThreadState) -> bool {
    // SAFETY: the top of the shadow stack is always a frame.
    let frame = unsafe { *(state.gs.frames_top as *const Frame) };
    let site = frame.return_address;
    if !is_checked_text(site) || !is_checked_text(site.wrapping_add(JUMP_BYTES)) {
        return false;
    }
    // SAFETY: both ends are in the module's text, which is readable.
    let (opcode, distance) = unsafe { (*(site as *const u8), ((site + 1) as *const i32).read_unaligned()) };
    match opcode {
        JUMP => pc_map::is_generated(site.wrapping_add(JUMP_BYTES).wrapping_add(distance as i64 as u64)),
        // To a jump near by, where there was no room for a long one.
        SHORT_JUMP => true,
        _ => false,
    }
}

const JUMP: u8 = 0xe9;
const JUMP_BYTES: u64 = 5;
const SHORT_JUMP: u8 = 0xeb;

/// Runs `body` inside the runtime where races are checked; all else would be for nothing.
pub fn run_where_checked(body: impl FnOnce(&mut ThreadState)) {
    if crate::check::is_checking() {
        crate::thread::run(body);
    }
}

/// Runs `body` inside the runtime if the interposer's caller is checked and the thread is not inside a statically
/// linked allocator.
pub fn run_for_caller(body: impl FnOnce(&mut ThreadState)) {
    run_where_checked(|state| {
        if state.allocator_depth == 0 && caller_is_checked(state) {
            body(state);
        }
    });
}

/// Runs `body` inside the runtime, unless the thread is inside a statically linked allocator.
pub fn run_outside_allocator(body: impl FnOnce(&mut ThreadState)) {
    crate::thread::run(|state| {
        if state.allocator_depth == 0 {
            body(state);
        }
    });
}
