//! Raw system calls. They neither touch `errno` nor are cancellation points.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The largest errno a system call returns, negated.
const MAX_ERRNO: usize = 4095;

/// Makes a system call.
///
/// # Safety
/// As for the system call itself.
#[inline(always)]
pub unsafe fn call6(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
    let result: isize;
    // SAFETY: the caller answers for the call; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call of up to three arguments.
///
/// # Safety
/// As for the system call itself.
#[inline(always)]
pub unsafe fn call3(number: i64, a: usize, b: usize, c: usize) -> isize {
    // SAFETY: passed on.
    unsafe { call6(number, a, b, c, 0, 0, 0) }
}

/// Whether a raw result is an error.
#[inline(always)]
pub fn is_error(result: isize) -> bool {
    result as usize > usize::MAX - MAX_ERRNO
}

/// Maps anonymous private memory without reserving swap for it. `None` on failure.
pub fn map_anonymous(len: usize) -> Option<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map(0, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
}

/// `mmap`; `None` on failure.
pub fn map(address: usize, len: usize, protection: i32, flags: i32, fd: i32, offset: usize) -> Option<*mut u8> {
    // SAFETY: the callers pass either no address, or an address with MAP_FIXED_NOREPLACE, or one that is theirs.
    let result = unsafe {
        call6(libc::SYS_mmap, address, len, protection as usize, flags as usize, fd as isize as usize, offset)
    };
    (!is_error(result)).then_some(result as *mut u8)
}

/// `munmap` of memory that the runtime mapped itself.
pub fn unmap(address: *mut u8, len: usize) {
    // SAFETY: the memory is the runtime's own.
    unsafe { call3(libc::SYS_munmap, address as usize, len, 0) };
}

/// `mprotect`; whether it succeeded.
pub fn protect(address: usize, len: usize, protection: i32) -> bool {
    // SAFETY: the callers change only what they mapped or text that they patch.
    unsafe { call3(libc::SYS_mprotect, address, len, protection as usize) == 0 }
}

/// `madvise`; whether it succeeded.
pub fn advise(address: usize, len: usize, advice: i32) -> bool {
    // SAFETY: the callers advise on the runtime's own mappings.
    unsafe { call3(libc::SYS_madvise, address, len, advice as usize) == 0 }
}

/// Opens a file read-only; `None` on failure.
pub fn open_read(path: &[u8]) -> Option<i32> {
    debug_assert!(path.last() == Some(&0));
    // SAFETY: `path` is zero-terminated.
    let fd = unsafe {
        call6(
            libc::SYS_openat,
            libc::AT_FDCWD as isize as usize,
            path.as_ptr() as usize,
            (libc::O_RDONLY | libc::O_CLOEXEC) as usize,
            0,
            0,
            0,
        )
    };
    (!is_error(fd)).then_some(fd as i32)
}

/// `read`; the number of bytes, or a negated errno.
pub fn read(fd: i32, buffer: &mut [u8]) -> isize {
    // SAFETY: the buffer is valid for its length.
    unsafe { call3(libc::SYS_read, fd as usize, buffer.as_mut_ptr() as usize, buffer.len()) }
}

/// `write`, errors ignored.
pub fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: the buffer is valid for its length.
    unsafe { call3(libc::SYS_write, fd as usize, bytes.as_ptr() as usize, bytes.len()) };
}

/// `close`.
pub fn close(fd: i32) {
    // SAFETY: the descriptor is the runtime's own.
    unsafe { call3(libc::SYS_close, fd as usize, 0, 0) };
}

/// The process id, as the kernel has it now.
pub fn process_id() -> u32 {
    // SAFETY: no argument.
    unsafe { call3(libc::SYS_getpid, 0, 0, 0) as u32 }
}

/// The kernel's id of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: no argument.
    unsafe { call3(libc::SYS_gettid, 0, 0, 0) as u32 }
}

/// The calling thread's name as the kernel has it, zero-padded.
pub fn thread_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    unsafe { call3(libc::SYS_prctl, libc::PR_GET_NAME as usize, name.as_mut_ptr() as usize, 0) };
    name
}

/// Whether kernel thread `tid` of this process `pid` still exists.
pub fn thread_exists(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { call3(libc::SYS_tgkill, pid as usize, tid as usize, 0) != -(libc::ESRCH as isize) }
}

/// Whether input and output on a descriptor never block.
pub fn is_nonblocking(fd: i32) -> bool {
    // SAFETY: F_GETFL only asks.
    let flags = unsafe { call3(libc::SYS_fcntl, fd as usize, libc::F_GETFL as usize, 0) };
    flags >= 0 && flags & libc::O_NONBLOCK as isize != 0
}

/// Lets other threads run.
pub fn yield_now() {
    // SAFETY: no argument.
    unsafe { call3(libc::SYS_sched_yield, 0, 0, 0) };
}

/// Type of libc's `clock_gettime`.
pub type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

static CLOCK: AtomicUsize = AtomicUsize::new(0);

/// Lets [`monotonic_ns`] ask libc's function, which reads the clock without entering the kernel (vdso(7)).
pub fn set_clock(clock: ClockGettime) {
    CLOCK.store(clock as usize, Ordering::Relaxed);
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = CLOCK.load(Ordering::Relaxed);
    if clock == 0 {
        // SAFETY: `time` is valid for the write.
        unsafe { call3(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC as usize, &raw mut time as usize, 0) };
    } else {
        // SAFETY: only `set_clock` stores here, a function of this type; `time` is valid for the write. A monotonic clock exists,
        // so errno stays as it is.
        unsafe { core::mem::transmute::<usize, ClockGettime>(clock)(libc::CLOCK_MONOTONIC, &raw mut time) };
    }
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Bytes in the kernel's signal set.
pub const SIGSET_BYTES: usize = 8;

/// Replaces the calling thread's signal mask and returns the one before.
pub fn set_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both sets are valid for eight bytes.
    unsafe {
        call6(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK as usize,
            &raw const mask as usize,
            &raw mut before as usize,
            SIGSET_BYTES,
            0,
            0,
        )
    };
    before
}
