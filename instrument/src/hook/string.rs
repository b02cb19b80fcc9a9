//! String functions of libc: what they read and write, for callers in the checked module.

use super::{real, run_for_caller};
use crate::check;
use conprof_wire::recording::Interposed;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;

macro_rules! interpose_string {
    ($($name:ident => $policy:path;)*) => {$(
        #[doc = concat!("Interposes `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As for the function interposed.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "mov rax, [rsp]",
                "sub rax, [rip+{text}]",
                "cmp rax, [rip+{len}]",
                "jae 2f",
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

interpose_string! {
    mempcpy => copy_to_end;
    memchr => find_byte;
    memrchr => find_last_byte;
    strnlen => string_len_limited;
    strcpy => string_copy;
    stpcpy => string_copy_to_end;
    strncpy => string_copy_limited;
    strcat => string_append;
    strcmp => string_compare;
    strncmp => string_compare_limited;
    strchr => string_find;
    strrchr => string_find_last;
}

fn reads(start: Ptr, len: usize, by: Interposed) {
    if len != 0 {
        run_for_caller(|state| check::range(state, start as usize, len, false, by));
    }
}

fn copies(to: Ptr, from: Ptr, len: usize, by: Interposed) {
    if len != 0 {
        run_for_caller(|state| {
            check::range(state, from as usize, len, false, by);
            check::range(state, to as usize, len, true, by);
        });
    }
}

/// Length with the terminating zero.
unsafe fn whole(text: Ptr) -> usize {
    // SAFETY: the callers hand on what they were given as a string.
    unsafe { real::strlen(text) + 1 }
}

unsafe extern "C" fn copy_to_end(to: Ptr, from: Ptr, len: usize) -> Ptr {
    copies(to, from, len, Interposed::Memcpy);
    // SAFETY: forwarded.
    unsafe { real::mempcpy(to, from, len) }
}

unsafe extern "C" fn find_byte(text: Ptr, byte: c_int, len: usize) -> Ptr {
    // SAFETY: forwarded.
    let found = unsafe { real::memchr(text, byte, len) };
    let read = if found.is_null() { len } else { found as usize - text as usize + 1 };
    reads(text, read, Interposed::OtherString);
    found
}

unsafe extern "C" fn find_last_byte(text: Ptr, byte: c_int, len: usize) -> Ptr {
    // SAFETY: forwarded.
    let found = unsafe { real::memrchr(text, byte, len) };
    let start = if found.is_null() { text } else { found };
    reads(start, text as usize + len - start as usize, Interposed::OtherString);
    found
}

unsafe extern "C" fn string_len_limited(text: Ptr, limit: usize) -> usize {
    // SAFETY: forwarded.
    let len = unsafe { real::strnlen(text, limit) };
    reads(text, len.saturating_add(1).min(limit), Interposed::Strlen);
    len
}

unsafe extern "C" fn string_copy(to: Ptr, from: Ptr) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        copies(to, from, whole(from), Interposed::Strcpy);
        real::strcpy(to, from)
    }
}

unsafe extern "C" fn string_copy_to_end(to: Ptr, from: Ptr) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        copies(to, from, whole(from), Interposed::Strcpy);
        real::stpcpy(to, from)
    }
}

unsafe extern "C" fn string_copy_limited(to: Ptr, from: Ptr, limit: usize) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        reads(from, real::strnlen(from, limit).saturating_add(1).min(limit), Interposed::Strcpy);
        if limit != 0 {
            run_for_caller(|state| check::range(state, to as usize, limit, true, Interposed::Strcpy));
        }
        real::strncpy(to, from, limit)
    }
}

unsafe extern "C" fn string_append(to: Ptr, from: Ptr) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        let old = whole(to);
        reads(to, old, Interposed::Strcpy);
        copies(to.wrapping_byte_add(old - 1), from, whole(from), Interposed::Strcpy);
        real::strcat(to, from)
    }
}

/// Bytes up to and including the first difference or the end of the strings.
unsafe fn common(left: Ptr, right: Ptr, limit: usize) -> usize {
    let (left, right) = (left as *const u8, right as *const u8);
    let mut index = 0;
    // SAFETY: the strings are readable up to their end, and the loop stops there.
    unsafe {
        while index < limit && *left.add(index) == *right.add(index) && *left.add(index) != 0 {
            index += 1;
        }
    }
    index.saturating_add(1).min(limit)
}

unsafe extern "C" fn string_compare(left: Ptr, right: Ptr) -> c_int {
    // SAFETY: forwarded.
    unsafe {
        let len = common(left, right, usize::MAX);
        reads(left, len, Interposed::Strcmp);
        reads(right, len, Interposed::Strcmp);
        real::strcmp(left, right)
    }
}

unsafe extern "C" fn string_compare_limited(left: Ptr, right: Ptr, limit: usize) -> c_int {
    // SAFETY: forwarded.
    unsafe {
        let len = common(left, right, limit);
        reads(left, len, Interposed::Strcmp);
        reads(right, len, Interposed::Strcmp);
        real::strncmp(left, right, limit)
    }
}

unsafe extern "C" fn string_find(text: Ptr, byte: c_int) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        let found = real::strchr(text, byte);
        let len = if found.is_null() { whole(text) } else { found as usize - text as usize + 1 };
        reads(text, len, Interposed::OtherString);
        found
    }
}

unsafe extern "C" fn string_find_last(text: Ptr, byte: c_int) -> Ptr {
    // SAFETY: forwarded.
    unsafe {
        reads(text, whole(text), Interposed::OtherString);
        real::strrchr(text, byte)
    }
}
