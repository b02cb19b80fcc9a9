//! Calls that only block: sleeping, waiting for a disk, for a name or for a child.

use super::{blocking, interpose, real};
use conprof_wire::waits::WaitKind;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;
type Time = *const libc::timespec;

interpose! {
    nanosleep => nanoseconds;
    clock_nanosleep => until;
    usleep => microseconds;
    sleep => seconds;
    fsync => sync;
    fdatasync => sync_data;
    flock => lock_file;
    getaddrinfo => resolve;
    waitpid => wait_for;
    wait4 => wait_with_usage;
    waitid => wait_by_id;
}

unsafe extern "C" fn nanoseconds(time: Time, rest: Ptr) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Sleep, || unsafe { real::nanosleep(time, rest) })
}

unsafe extern "C" fn until(clock: c_int, flags: c_int, time: Time, rest: Ptr) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Sleep, || unsafe { real::clock_nanosleep(clock, flags, time, rest) })
}

unsafe extern "C" fn microseconds(time: u32) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Sleep, || unsafe { real::usleep(time) })
}

unsafe extern "C" fn seconds(time: u32) -> u32 {
    // SAFETY: forwarded.
    blocking(WaitKind::Sleep, || unsafe { real::sleep(time) })
}

unsafe extern "C" fn sync(fd: c_int) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::fsync(fd) })
}

unsafe extern "C" fn sync_data(fd: c_int) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::fdatasync(fd) })
}

unsafe extern "C" fn lock_file(fd: c_int, operation: c_int) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::flock(fd, operation) })
}

unsafe extern "C" fn resolve(node: Ptr, service: Ptr, hints: Ptr, result: Ptr) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::getaddrinfo(node, service, hints, result) })
}

unsafe extern "C" fn wait_for(pid: i32, status: Ptr, options: c_int) -> i32 {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::waitpid(pid, status, options) })
}

unsafe extern "C" fn wait_with_usage(pid: i32, status: Ptr, options: c_int, usage: Ptr) -> i32 {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::wait4(pid, status, options, usage) })
}

unsafe extern "C" fn wait_by_id(kind: c_int, id: u32, info: Ptr, options: c_int) -> c_int {
    // SAFETY: forwarded.
    blocking(WaitKind::Outside, || unsafe { real::waitid(kind, id, info, options) })
}
