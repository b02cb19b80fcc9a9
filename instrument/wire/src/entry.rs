//! Entry points of the shim that generated code calls, by index into the plan's slot table.
//!
//! # Calling convention of the data stubs
//!
//! Generated code first moves `rsp` down by [`RED_ZONE`](super::state::RED_ZONE) bytes, pushes the
//! effective address, pushes the site index (a sign-extended `imm32`) and calls through the slot:
//!
//! ```text
//!   lea  rsp, [rsp-128]
//!   push <address>            ; absent for entries without an address
//!   push <site index>
//!   call [rip+slot]           ; the stub pops its arguments (`ret 16` or `ret 8`)
//!   lea  rsp, [rsp+128]
//! ```
//!
//! A stub preserves every general register, every vector register, and the flags; it needs at most
//! 160 bytes of the guest's stack below its arguments and runs the rest on the thread's own runtime stack.

/// Index of an entry point in the slot table of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Entry {
    /// `call [slot]` as the first instruction of a copied function, at its entry, with no argument
    /// and `rsp` not moved: `[rsp]` is the return into the copy, `[rsp+8]` the function's own return address.
    /// Preserves all general registers; the flags are lost.
    FunctionEntry = 0,
    /// Plain read of 1, 2, 4 or 8 bytes: address and site index. Any alignment.
    Read1 = 1,
    Read2 = 2,
    Read4 = 3,
    Read8 = 4,
    /// Plain write of 1, 2, 4 or 8 bytes: address and site index. Any alignment.
    Write1 = 5,
    Write2 = 6,
    Write4 = 7,
    Write8 = 8,
    /// Any other plain or unknown access: address and site index; class and size come from the site table.
    Access = 9,
    /// Before an atomic operation, or an unknown store or read-modify-write: address and site index.
    /// Releases into the address's sync object where the site stores; gives the lock up where it does that.
    AtomicBefore = 10,
    /// After an atomic operation, or an unknown load: address (computed before the operation) and site index.
    /// Acquires where the site loads.
    AtomicAfter = 11,
    /// Before `rep movs`/`rep stos`/`rep cmps`/`rep scas` or their single forms: site index only;
    /// the stub reads `rcx`, `rsi`, `rdi` as the instruction would.
    StringOperation = 12,
    /// Before a `syscall` instruction: site index only; the stub reads the call's registers.
    SyscallBefore = 13,
    /// After a `syscall` instruction: site index only; the stub reads `rax`. The call's number and arguments
    /// were kept in the thread's state by [`Entry::SyscallBefore`].
    SyscallAfter = 14,
    /// Into or out of code that conprof does not understand: site index only; releases into and acquires
    /// from one common sync object, so that what crosses such code is ordered.
    Opaque = 15,
    /// On the success edge of a lock's acquiring compare-exchange: address and site index.
    LockAcquired = 16,
    /// Before the instruction that gives a lock up: address and site index.
    LockReleased = 17,
    /// Before a call of, or at the entry of, a function that is a lock operation: site index only; the
    /// stub reads `rdi` and `rsi`.
    LockCall = 18,
    /// After such a call, or before its return: site index only; the stub reads `rax`.
    LockReturn = 19,
    /// [`Entry::AtomicAfter`] and, where ZF is set, [`Entry::LockAcquired`]: after a lock's acquiring compare-exchange.
    LockTried = 20,
    /// Before an instruction that may give up a lock that the thread holds: address and site index.
    LockMayRelease = 21,
    /// Where a lock's acquiring compare-exchange failed and nothing else tells, and before an instruction that changes how a lock is
    /// held or looks whether it is: address and site index.
    LockFailed = 22,
}

/// Entries in a slot table, unused ones included.
pub const SLOT_COUNT: usize = 64;

/// First slot of the hooks: slot `HOOK_BASE + hook as usize` holds the shim's replacement for a
/// function of the target (see [`Hook`]).
pub const HOOK_BASE: usize = 32;

/// A function of the target's own code that the shim replaces as a whole, because it belongs to the
/// malloc family of a statically linked allocator.
///
/// At its original entry stands a jump to a thunk: `mov r11, <address of the unchecked copy>;
/// jmp [slot]`. The replacement is entered with the function's own arguments and may call the copy in `r11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// `void *malloc(size_t)`
    Malloc = 0,
    /// `void free(void *)`
    Free = 1,
    /// `void *calloc(size_t, size_t)`
    Calloc = 2,
    /// `void *realloc(void *, size_t)`
    Realloc = 3,
    /// `void *aligned_alloc(size_t alignment, size_t size)`, `memalign`
    AlignedAlloc = 4,
    /// `int posix_memalign(void **, size_t, size_t)`
    PosixMemalign = 5,
    /// jemalloc's `void *mallocx(size_t, int flags)`
    Mallocx = 6,
    /// jemalloc's `void *rallocx(void *, size_t, int flags)`
    Rallocx = 7,
    /// jemalloc's `size_t xallocx(void *, size_t, size_t, int flags)`
    Xallocx = 8,
    /// jemalloc's `void sdallocx(void *, size_t, int flags)`; also mimalloc's `mi_free_size`
    Sdallocx = 9,
    /// mimalloc's `void *mi_malloc_aligned(size_t size, size_t alignment)`, `mi_zalloc_aligned`
    MiMallocAligned = 10,
    /// mimalloc's `void *mi_realloc_aligned(void *, size_t size, size_t alignment)`
    MiReallocAligned = 11,
}
