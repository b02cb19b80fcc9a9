//! Creation, join and detachment of threads.
//!
//! A thread's end is not the return of its start routine, since destructors of thread-local data run after
//! it: its state stays until a join has returned or the kernel thread is gone.

use super::{interpose, real};
use crate::apply::modules;
use crate::lock;
use crate::record;
use crate::rt::syscall;
use crate::thread::{self, FLAG_DETACHED, ThreadState};
use conprof_wire::waits::WaitKind;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    pthread_create => create;
    pthread_join => join;
    pthread_tryjoin_np => join_try;
    pthread_timedjoin_np => join_timed;
    pthread_clockjoin_np => join_clock;
    pthread_detach => detach;
    pthread_setname_np => set_name;
    thrd_create => c11_create;
    thrd_join => c11_join;
    thrd_detach => c11_detach;
}

/// Stack of threads created without attributes, in bytes, as glibc took it at start-up.
static DEFAULT_STACK_BYTES: AtomicU64 = AtomicU64::new(0);

/// glibc's default where the limit is "unlimited".
const ARCH_STACK_DEFAULT_BYTES: u64 = 2 << 20;

fn default_stack_bytes() -> u64 {
    let known = DEFAULT_STACK_BYTES.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the write.
    unsafe { syscall::call6(libc::SYS_prlimit64, 0, libc::RLIMIT_STACK as usize, 0, &raw mut limit as usize, 0, 0) };
    let bytes = if limit.rlim_cur == libc::RLIM_INFINITY { ARCH_STACK_DEFAULT_BYTES } else { limit.rlim_cur };
    DEFAULT_STACK_BYTES.store(bytes, Ordering::Relaxed);
    bytes
}

/// Entry of a wrapped thread: installs its state, then jumps to the target's start routine, so that no
/// frame of the shim is on the thread's stack.
#[unsafe(naked)]
unsafe extern "C" fn thread_entry(state: *mut ThreadState) {
    naked_asm!(
        ".cfi_startproc",
        "push rdi",
        ".cfi_def_cfa_offset 16",
        "call {started}",
        "pop rdi",
        ".cfi_def_cfa_offset 8",
        "mov rax, [rdi+{start}]",
        "mov rdi, [rdi+{start}+8]",
        "jmp rax",
        ".cfi_endproc",
        started = sym started,
        start = const core::mem::offset_of!(ThreadState, start),
    )
}

unsafe extern "C" fn started(state: *mut ThreadState) {
    if !record::process_is_ours() {
        return;
    }
    // SAFETY: `thread_entry` is started with the state that was made for it only.
    unsafe { thread::started(state) };
}

/// Creates a thread through `real`, wrapped.
fn creates(start: Ptr, argument: Ptr, stack_bytes: u64, detached: bool, real: impl FnOnce(Ptr, Ptr) -> c_int) -> c_int {
    let mut child = None;
    if thread::ready() {
        modules::snapshot_new();
        thread::run(|state| child = thread::created(state, [start as usize, argument as usize], stack_bytes));
    }
    let Some(child) = child else { return real(start, argument) };
    if detached {
        // SAFETY: the thread does not exist yet, so the state is ours.
        unsafe { (*child).flags.fetch_or(FLAG_DETACHED, Ordering::Relaxed) };
    }
    let result = real(thread_entry as *const () as Ptr, child as Ptr);
    if result != 0 {
        // SAFETY: no thread was created.
        thread::run(|_| unsafe { thread::not_created(child) });
    }
    result
}

unsafe extern "C" fn create(out: *mut u64, attributes: Ptr, start: Ptr, argument: Ptr) -> c_int {
    let mut stack_bytes = default_stack_bytes();
    let mut detached = false;
    if !attributes.is_null() {
        let (mut size, mut state) = (0usize, 0);
        // SAFETY: the target passed initialised attributes.
        unsafe {
            if real::pthread_attr_getstacksize(attributes, &raw mut size) == 0 && size != 0 {
                stack_bytes = size as u64;
            }
            real::pthread_attr_getdetachstate(attributes, &raw mut state);
        }
        detached = state == libc::PTHREAD_CREATE_DETACHED;
    }
    creates(start, argument, stack_bytes, detached, |start, argument| {
        // SAFETY: forwarded.
        unsafe { real::pthread_create(out, attributes, start, argument) }
    })
}

unsafe extern "C" fn c11_create(out: *mut u64, start: Ptr, argument: Ptr) -> c_int {
    creates(start, argument, default_stack_bytes(), false, |start, argument| {
        // SAFETY: forwarded.
        unsafe { real::thrd_create(out, start, argument) }
    })
}

/// Times to look for a thread that was created but has not come to say so.
const JOIN_ATTEMPTS: usize = 10_000;

fn joins(thread: u64, is_timed: bool, join: impl FnOnce() -> c_int) -> c_int {
    let mut child = None;
    for _ in 0..JOIN_ATTEMPTS {
        let mut starting = false;
        thread::run(|_| (child, starting) = thread::find_joinable(thread));
        if child.is_some() || !starting {
            break;
        }
        syscall::yield_now();
    }
    thread::run(|state| {
        // SAFETY: states are never unmapped.
        let target = child.map_or(0, |(child, _)| unsafe { (*child).serial }.wrapping_add(1));
        lock::wait(state, WaitKind::Join, thread as usize, 0, target, is_timed);
    });
    let result = join();
    thread::run(lock::waited);
    if result == 0 {
        thread::run(|state| {
            if let Some(child) = child.or_else(|| thread::find_joinable(thread).0) {
                thread::joined(state, child);
            }
        });
    }
    result
}

unsafe extern "C" fn join(thread: u64, result: *mut Ptr) -> c_int {
    // SAFETY: forwarded.
    joins(thread, false, || unsafe { real::pthread_join(thread, result) })
}

unsafe extern "C" fn join_try(thread: u64, result: *mut Ptr) -> c_int {
    // SAFETY: forwarded.
    joins(thread, true, || unsafe { real::pthread_tryjoin_np(thread, result) })
}

unsafe extern "C" fn join_timed(thread: u64, result: *mut Ptr, time: Time) -> c_int {
    // SAFETY: forwarded.
    joins(thread, true, || unsafe { real::pthread_timedjoin_np(thread, result, time) })
}

unsafe extern "C" fn join_clock(thread: u64, result: *mut Ptr, clock: c_int, time: Time) -> c_int {
    // SAFETY: forwarded.
    joins(thread, true, || unsafe { real::pthread_clockjoin_np(thread, result, clock, time) })
}

unsafe extern "C" fn c11_join(thread: u64, result: *mut c_int) -> c_int {
    // SAFETY: forwarded.
    joins(thread, false, || unsafe { real::thrd_join(thread, result) })
}

/// Notes before the detachment, since afterwards the thread may be gone and its identity another's.
fn detaches(thread: u64, detach: impl FnOnce() -> c_int) -> c_int {
    for _ in 0..JOIN_ATTEMPTS {
        let (mut found, mut starting) = (false, false);
        thread::run(|_| (found, starting) = thread::set_detached(thread));
        if found || !starting {
            break;
        }
        syscall::yield_now();
    }
    detach()
}

unsafe extern "C" fn detach(thread: u64) -> c_int {
    // SAFETY: forwarded.
    detaches(thread, || unsafe { real::pthread_detach(thread) })
}

unsafe extern "C" fn c11_detach(thread: u64) -> c_int {
    // SAFETY: forwarded.
    detaches(thread, || unsafe { real::thrd_detach(thread) })
}

unsafe extern "C" fn set_name(thread: u64, name: *const u8) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::pthread_setname_np(thread, name) };
    if result == 0 {
        let mut bytes = [0u8; 16];
        // SAFETY: the call succeeded, so the name is a string of up to 15 bytes.
        unsafe { crate::rt::memory::copy(bytes.as_mut_ptr(), name, crate::rt::memory::string_len(name).min(15)) };
        thread::run(|_| {
            if let Some(serial) = thread::serial_of(thread) {
                record::thread_name(serial, &bytes);
            }
        });
    }
    result
}
