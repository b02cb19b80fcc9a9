//! The malloc family, libc's and that of a statically linked allocator.
//!
//! Memory that changes owner is clean. A free counts as a write of the whole block, marked before the real
//! free, since another thread may get the block the moment it is free; a block is cleaned after the real malloc.

use super::{caller_is_checked, interpose, real, run_outside_allocator};
use crate::check;
use crate::lock;
use crate::thread;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

type Ptr = *mut c_void;

interpose! {
    malloc => allocate;
    free => release;
    calloc => allocate_zeroed;
    realloc => reallocate;
    memalign => allocate_aligned;
    aligned_alloc => allocate_aligned;
    posix_memalign => allocate_posix;
    reallocarray => reallocate_array;
    valloc => allocate_page;
    pvalloc => allocate_pages;
}

/// A block of libc's: all that a free will mark is cleaned, which may be more than was asked for.
fn allocated(block: Ptr, len: usize) -> Ptr {
    if !block.is_null() && check::is_checking() {
        let usable = usable(block);
        thread::run(|state| {
            check::allocated(state, block as usize, len);
            if usable > len {
                check::clean(state, block as usize + len, usable - len);
            }
        });
    }
    block
}

/// A block of a statically linked allocator, whose free marks what was asked for.
fn allocated_exactly(block: Ptr, len: usize) -> Ptr {
    if !block.is_null() && check::is_checking() {
        run_outside_allocator(|state| check::allocated(state, block as usize, len));
    }
    block
}

/// Calls a function of a static allocator. What it copies is not checked: a block that it moves into is cleaned
/// only when it is handed out.
fn inside<R>(call: impl FnOnce() -> R) -> R {
    thread::run(|state| state.allocator_depth += 1);
    let result = call();
    thread::run(|state| state.allocator_depth = state.allocator_depth.saturating_sub(1));
    result
}

/// `len` is 0 where it is not known.
fn freeing(block: Ptr, len: usize) {
    if !check::is_checking() {
        return locks_freed(block, len);
    }
    run_outside_allocator(|state| {
        lock::freed(block as usize, if len == 0 { check::block_size(block as usize) } else { len });
        if caller_is_checked(state) {
            check::freed(state, block as usize, len);
        } else {
            check::freed_unchecked(state, block as usize, len);
        }
    });
}

/// Where only locks are watched: they are gone. On the caller's stack, since it takes little of it.
fn locks_freed(block: Ptr, len: usize) {
    if let Some(state) = thread::enter() {
        if state.allocator_depth == 0 {
            lock::freed(block as usize, len);
        }
        thread::leave(state);
    }
}

fn usable(block: Ptr) -> usize {
    // SAFETY: the caller frees the block, so it is one of this allocator's.
    unsafe { real::malloc_usable_size(block) }
}

unsafe extern "C" fn allocate(len: usize) -> Ptr {
    // SAFETY: forwarded.
    allocated(unsafe { real::malloc(len) }, len)
}

unsafe extern "C" fn allocate_zeroed(count: usize, size: usize) -> Ptr {
    // SAFETY: forwarded.
    allocated(unsafe { real::calloc(count, size) }, count.wrapping_mul(size))
}

unsafe extern "C" fn allocate_aligned(alignment: usize, len: usize) -> Ptr {
    // SAFETY: forwarded; `aligned_alloc` is `memalign` in glibc.
    allocated(unsafe { real::memalign(alignment, len) }, len)
}

unsafe extern "C" fn allocate_posix(out: *mut Ptr, alignment: usize, len: usize) -> c_int {
    // SAFETY: forwarded.
    let result = unsafe { real::posix_memalign(out, alignment, len) };
    if result == 0 {
        // SAFETY: the call succeeded, so it wrote the block there.
        allocated(unsafe { *out }, len);
    }
    result
}

unsafe extern "C" fn allocate_page(len: usize) -> Ptr {
    // SAFETY: forwarded.
    allocated(unsafe { real::valloc(len) }, len)
}

unsafe extern "C" fn allocate_pages(len: usize) -> Ptr {
    // SAFETY: forwarded.
    allocated(unsafe { real::pvalloc(len) }, len)
}

unsafe extern "C" fn reallocate(block: Ptr, len: usize) -> Ptr {
    if !block.is_null() {
        freeing(block, usable(block));
    }
    // SAFETY: forwarded.
    allocated(unsafe { real::realloc(block, len) }, len)
}

unsafe extern "C" fn reallocate_array(block: Ptr, count: usize, size: usize) -> Ptr {
    if !block.is_null() {
        freeing(block, usable(block));
    }
    // SAFETY: forwarded.
    allocated(unsafe { real::reallocarray(block, count, size) }, count.wrapping_mul(size))
}

unsafe extern "C" fn release(block: Ptr) {
    if !block.is_null() {
        freeing(block, usable(block));
    }
    // SAFETY: forwarded.
    unsafe { real::free(block) }
}

/// A replacement for a function of a static allocator: pushes a frame, hands the copy's address, which is in
/// `r11`, on as one more argument, and jumps to the policy.
macro_rules! replace {
    ($($name:ident: $argument:literal => $policy:path;)*) => {$(
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                "cmp byte ptr [rip+{ready}], 0",
                "je 2f",
                "call {entry}",
                concat!("mov ", $argument, ", r11"),
                "jmp {policy}",
                "2:",
                "jmp r11",
                ready = sym crate::thread::READY,
                entry = sym crate::stubs::function_entry,
                policy = sym $policy,
            )
        }
    )*};
}

replace! {
    static_malloc: "rsi" => copied_malloc;
    static_free: "rsi" => copied_free;
    static_two: "rdx" => copied_two;
    static_calloc: "rdx" => copied_calloc;
    static_realloc: "rdx" => copied_realloc;
    static_posix: "rcx" => copied_posix;
    static_mallocx: "rdx" => copied_mallocx;
    static_rallocx: "rcx" => copied_rallocx;
    static_xallocx: "r8" => copied_xallocx;
    static_sdallocx: "rcx" => copied_sdallocx;
}

type One = unsafe extern "C" fn(usize) -> Ptr;
type Two = unsafe extern "C" fn(usize, usize) -> Ptr;
type Three = unsafe extern "C" fn(usize, usize, usize) -> Ptr;
type Four = unsafe extern "C" fn(usize, usize, usize, usize) -> usize;

unsafe extern "C" fn copied_malloc(len: usize, copy: One) -> Ptr {
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(len) }), len)
}

unsafe extern "C" fn copied_free(block: usize, copy: One) {
    if block != 0 {
        freeing(block as Ptr, 0);
    }
    // SAFETY: `copy` is the function that this replaces.
    inside(|| unsafe { copy(block) });
}

/// `aligned_alloc(alignment, size)`.
unsafe extern "C" fn copied_two(alignment: usize, len: usize, copy: Two) -> Ptr {
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(alignment, len) }), len)
}

unsafe extern "C" fn copied_calloc(count: usize, size: usize, copy: Two) -> Ptr {
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(count, size) }), count.wrapping_mul(size))
}

unsafe extern "C" fn copied_realloc(block: usize, len: usize, copy: Two) -> Ptr {
    if block != 0 {
        freeing(block as Ptr, 0);
    }
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(block, len) }), len)
}

unsafe extern "C" fn copied_posix(out: *mut Ptr, alignment: usize, len: usize, copy: Three) -> c_int {
    // SAFETY: `copy` is the function that this replaces.
    let result = inside(|| unsafe { copy(out as usize, alignment, len) }) as usize as c_int;
    if result == 0 {
        // SAFETY: the call succeeded, so it wrote the block there.
        allocated_exactly(unsafe { *out }, len);
    }
    result
}

/// `mallocx(size, flags)`, `mi_malloc_aligned(size, alignment)`.
unsafe extern "C" fn copied_mallocx(len: usize, flags: usize, copy: Two) -> Ptr {
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(len, flags) }), len)
}

/// `rallocx(block, size, flags)`, `mi_realloc_aligned(block, size, alignment)`.
unsafe extern "C" fn copied_rallocx(block: usize, len: usize, flags: usize, copy: Three) -> Ptr {
    if block != 0 {
        freeing(block as Ptr, 0);
    }
    // SAFETY: `copy` is the function that this replaces.
    allocated_exactly(inside(|| unsafe { copy(block, len, flags) }), len)
}

/// `xallocx(block, size, extra, flags)` resizes in place; what it adds is fresh.
unsafe extern "C" fn copied_xallocx(block: usize, len: usize, extra: usize, flags: usize, copy: Four) -> usize {
    // SAFETY: `copy` is the function that this replaces.
    inside(|| unsafe { copy(block, len, extra, flags) })
}

/// `sdallocx(block, size, flags)`, `mi_free_size(block, size)`.
unsafe extern "C" fn copied_sdallocx(block: usize, len: usize, flags: usize, copy: Three) {
    if block != 0 {
        freeing(block as Ptr, len);
    }
    // SAFETY: `copy` is the function that this replaces.
    inside(|| unsafe { copy(block, len, flags) });
}

/// The slot table's second part, by `wire::entry::Hook`.
pub fn table() -> [u64; 12] {
    let hooks: [unsafe extern "C" fn(); 12] = [
        static_malloc,
        static_free,
        static_calloc,
        static_realloc,
        static_two,
        static_posix,
        static_mallocx,
        static_rallocx,
        static_xallocx,
        static_sdallocx,
        static_mallocx,
        static_rallocx,
    ];
    hooks.map(|hook| hook as *const () as u64)
}
