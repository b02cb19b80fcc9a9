//! Mappings: what is mapped anew is clean, what is unmapped is given up.

use super::{caller_is_checked, interpose, real};
use crate::check;
use crate::thread::{self, ThreadState};
use conprof_wire::recording::Interposed;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;

interpose! {
    mmap => map;
    mmap64 => map;
    munmap => unmap;
    mremap => remap;
    madvise => advise;
}

/// Longest mapping whose end is checked as a write of all of it, in bytes; a longer one is only forgotten.
const CHECKED_BYTES: usize = 1 << 20;

/// After a successful `mmap`.
pub(super) fn mapped(state: &mut ThreadState, start: usize, len: usize) {
    check::clean(state, start, len);
}

/// Before `munmap`.
pub(super) fn unmapping(state: &mut ThreadState, start: usize, len: usize, checked: bool) {
    crate::lock::freed(start, len);
    if checked && len <= CHECKED_BYTES && start.is_multiple_of(4096) {
        check::range(state, start, len, true, Interposed::Munmap);
    }
}

/// Whether the advice drops the pages' content.
pub(super) fn drops(advice: c_int) -> bool {
    matches!(advice, libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_REMOVE)
}

unsafe extern "C" fn map(address: Ptr, len: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> Ptr {
    // SAFETY: forwarded.
    let result = unsafe { real::mmap(address, len, protection, flags, fd, offset) };
    if result != libc::MAP_FAILED {
        thread::run(|state| mapped(state, result as usize, len));
    }
    result
}

unsafe extern "C" fn unmap(address: Ptr, len: usize) -> c_int {
    thread::run(|state| {
        let checked = caller_is_checked(state);
        unmapping(state, address as usize, len, checked);
    });
    // SAFETY: forwarded.
    unsafe { real::munmap(address, len) }
}

unsafe extern "C" fn remap(address: Ptr, len: usize, new_len: usize, flags: c_int, place: Ptr) -> Ptr {
    // SAFETY: forwarded.
    let result = unsafe { real::mremap(address, len, new_len, flags, place) };
    if result != libc::MAP_FAILED {
        thread::run(|state| {
            if result != address {
                mapped(state, result as usize, new_len);
            } else if new_len > len {
                mapped(state, result as usize + len, new_len - len);
            }
        });
    }
    result
}

unsafe extern "C" fn advise(address: Ptr, len: usize, advice: c_int) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::madvise(address, len, advice) };
    if result == 0 && drops(advice) {
        thread::run(|state| check::clean(state, address as usize, len));
    }
    result
}
