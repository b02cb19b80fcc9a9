//! Children, the end of the process, and modules loaded later.
//!
//! Children run natively and are counted. A forked child is detached before its first instruction of the target
//! runs, or at its first entry into the runtime where it was forked by other means.

use super::{interpose, real};
use crate::apply::modules;
use crate::check;
use crate::record;
use crate::rt::syscall;
use crate::thread::{self, READY};
use conprof_wire::recording::{Counter, Phase};
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

type Ptr = *mut c_void;

interpose! {
    fork => forks;
    _Fork => forks_bare;
    posix_spawn => spawn;
    posix_spawnp => spawn_by_name;
    system => runs;
    popen => opens;
    _exit => exits;
    _Exit => exits;
}

fn forked(pid: c_int) -> c_int {
    if pid == 0 {
        if thread::ready() && !record::process_is_ours() {
            // The state is the forking thread's copy; entering notices that the process is another.
            thread::run(|_| {});
        }
    } else if pid > 0 {
        record::count(Counter::Children);
    }
    pid
}

unsafe extern "C" fn forks() -> c_int {
    // SAFETY: forwarded.
    forked(unsafe { real::fork() })
}

unsafe extern "C" fn forks_bare() -> c_int {
    // SAFETY: forwarded.
    forked(unsafe { real::_Fork() })
}

/// Interposes `vfork`, whose caller's frame must be the one that returns twice: counts and jumps on.
///
/// # Safety
/// As for `vfork`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() -> c_int {
    naked_asm!(
        "sub rsp, 8",
        "call {count}",
        "add rsp, 8",
        "jmp rax",
        count = sym count_vfork,
    )
}

/// Counts a child and gives the real `vfork`.
extern "C" fn count_vfork() -> Ptr {
    record::count(Counter::Children);
    let real = real::pointer::vfork.load(Ordering::Relaxed);
    if real.is_null() { real::pointer::fork.load(Ordering::Relaxed) } else { real }
}

fn spawned(result: c_int) -> c_int {
    if result == 0 {
        record::count(Counter::Children);
    }
    result
}

unsafe extern "C" fn spawn(pid: Ptr, path: Ptr, actions: Ptr, attributes: Ptr, argv: Ptr, envp: Ptr) -> c_int {
    // SAFETY: forwarded.
    spawned(unsafe { real::posix_spawn(pid, path, actions, attributes, argv, envp) })
}

unsafe extern "C" fn spawn_by_name(pid: Ptr, file: Ptr, actions: Ptr, attributes: Ptr, argv: Ptr, envp: Ptr) -> c_int {
    // SAFETY: forwarded.
    spawned(unsafe { real::posix_spawnp(pid, file, actions, attributes, argv, envp) })
}

unsafe extern "C" fn runs(command: Ptr) -> c_int {
    if !command.is_null() {
        record::count(Counter::Children);
    }
    // SAFETY: forwarded.
    unsafe { real::system(command) }
}

unsafe extern "C" fn opens(command: Ptr, mode: Ptr) -> Ptr {
    record::count(Counter::Children);
    // SAFETY: forwarded.
    unsafe { real::popen(command, mode) }
}

/// The process is about to end: what was left for later is recorded. A child of `vfork` does not count.
fn ending() {
    if thread::ready() && record::process_is_ours() && syscall::process_id() == record::process_id() {
        thread::run(check::exiting);
        record::set_phase(Phase::Exiting);
    }
}

unsafe extern "C" fn exits(status: c_int) {
    ending();
    // SAFETY: forwarded.
    unsafe { real::_exit(status) }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = finish;

/// Runs last, as the shim was initialised first.
extern "C" fn finish() {
    if READY.load(Ordering::Relaxed) != 0 {
        if record::process_is_ours() {
            modules::snapshot_new();
        }
        ending();
    }
}

/// Interposes `dlopen`, which looks at its caller's return address: notes and jumps on.
///
/// # Safety
/// As for `dlopen`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(path: *const u8, flags: c_int) -> Ptr {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {opening}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        opening = sym opening,
    )
}

/// Interposes `dlclose`: records the modules before one is gone.
///
/// # Safety
/// As for `dlclose`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlclose(handle: Ptr) -> c_int {
    naked_asm!(
        "push rdi",
        "call {closing}",
        "pop rdi",
        "jmp rax",
        closing = sym closing,
    )
}

/// What `dlopen` loads is recorded at the next thread's creation, `dlopen`, `dlclose` or the end.
extern "C" fn opening() -> Ptr {
    if thread::ready() && record::process_is_ours() {
        modules::snapshot_new();
        modules::expect_new();
    }
    real::address(&real::pointer::dlopen, b"dlopen\0")
}

extern "C" fn closing() -> Ptr {
    if thread::ready() && record::process_is_ours() {
        modules::snapshot_new();
    }
    real::address(&real::pointer::dlclose, b"dlclose\0")
}
