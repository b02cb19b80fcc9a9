//! `memcpy` and its kin.
//!
//! These names are also what the compiler calls from within the shim itself. A caller in the shim gets the
//! scalar versions, which use no vector register; a caller outside the checked module gets libc's at once.

use super::{real, run_for_caller};
use crate::check;
use crate::rt::memory as scalar;
use conprof_wire::recording::Interposed;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;

unsafe extern "C" {
    /// Start of the shim in memory, from the linker.
    static __ehdr_start: u8;
    /// End of the shim's code, from the linker.
    static etext: u8;
}

macro_rules! interpose_memory {
    ($($name:ident, $scalar:path => $policy:path;)*) => {$(
        #[doc = concat!("Interposes `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As for the function interposed.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "mov rax, [rsp]",
                "lea r11, [rip+{start}]",
                "lea r10, [rip+{end}]",
                "sub r10, r11",
                "mov rcx, rax",
                "sub rcx, r11",
                "cmp rcx, r10",
                "jb {scalar}",
                "sub rax, [rip+{text}]",
                "cmp rax, [rip+{len}]",
                "jae 2f",
                "cmp byte ptr [rip+{ready}], 0",
                "je 2f",
                "call {entry}",
                "jmp {policy}",
                "2:",
                "jmp qword ptr [rip+{real}]",
                start = sym __ehdr_start,
                end = sym etext,
                scalar = sym $scalar,
                text = sym crate::apply::plan::TEXT_START,
                len = sym crate::apply::plan::CHECKED_LEN,
                ready = sym crate::thread::READY,
                entry = sym crate::stubs::function_entry,
                policy = sym $policy,
                real = sym real::pointer::$name,
            )
        }
    )*};
}

interpose_memory! {
    memcpy, scalar::copy => copy;
    memmove, scalar::copy_overlapping => copy_overlapping;
    memset, scalar::fill => fill;
    memcmp, scalar::compare => compare;
    bcmp, scalar::compare => compare;
    strlen, scalar::string_len => string_len;
}

fn copies(to: Ptr, from: Ptr, len: usize, by: Interposed) {
    if len != 0 {
        run_for_caller(|state| {
            check::range(state, from as usize, len, false, by);
            check::range(state, to as usize, len, true, by);
        });
    }
}

unsafe extern "C" fn copy(to: Ptr, from: Ptr, len: usize) -> Ptr {
    copies(to, from, len, Interposed::Memcpy);
    // SAFETY: forwarded.
    unsafe { real::memcpy(to, from, len) }
}

unsafe extern "C" fn copy_overlapping(to: Ptr, from: Ptr, len: usize) -> Ptr {
    copies(to, from, len, Interposed::Memmove);
    // SAFETY: forwarded.
    unsafe { real::memmove(to, from, len) }
}

unsafe extern "C" fn fill(to: Ptr, byte: c_int, len: usize) -> Ptr {
    if len != 0 {
        run_for_caller(|state| check::range(state, to as usize, len, true, Interposed::Memset));
    }
    // SAFETY: forwarded.
    unsafe { real::memset(to, byte, len) }
}

unsafe extern "C" fn compare(left: Ptr, right: Ptr, len: usize) -> c_int {
    if len != 0 {
        // The comparison may stop at the first difference; what lies behind it is not read by the program's intent.
        // SAFETY: forwarded.
        let read = unsafe { equal_prefix(left as *const u8, right as *const u8, len) };
        run_for_caller(|state| {
            check::range(state, left as usize, read, false, Interposed::Memcmp);
            check::range(state, right as usize, read, false, Interposed::Memcmp);
        });
    }
    // SAFETY: forwarded.
    unsafe { real::memcmp(left, right, len) }
}

/// Bytes up to and including the first difference.
unsafe fn equal_prefix(left: *const u8, right: *const u8, len: usize) -> usize {
    // SAFETY: the caller promises `len` readable bytes.
    unsafe {
        let mut index = 0;
        while index + 8 <= len
            && (left.add(index) as *const u64).read_unaligned() == (right.add(index) as *const u64).read_unaligned()
        {
            index += 8;
        }
        while index < len && *left.add(index) == *right.add(index) {
            index += 1;
        }
        (index + 1).min(len)
    }
}

unsafe extern "C" fn string_len(text: Ptr) -> usize {
    // SAFETY: forwarded.
    let len = unsafe { real::strlen(text) };
    run_for_caller(|state| check::range(state, text as usize, len + 1, false, Interposed::Strlen));
    len
}
