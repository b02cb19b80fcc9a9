//! The part of a thread's state that generated code and stubs reach through `%gs`.
//!
//! The shim's own thread state begins with [`GsBlock`]; its address is the thread's gs base. The
//! offsets below are compiled into plans, so changing one changes [`VERSION`](super::VERSION).

/// Bytes below `rsp` that the ABI lets a leaf function use (System V ABI, 3.2.2).
pub const RED_ZONE: usize = 128;

/// First bytes of a thread's state.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct GsBlock {
    /// This block's own address.
    pub self_address: u64,
    /// The owner's `fs` base; another value at entry means that gs was inherited by an unwrapped thread.
    pub owner_fs: u64,
    /// `address & granule_mask` is the address within the shadowed window, rounded down to a granule.
    pub granule_mask: u64,
    /// Shadow of `a` is at `shadow_base + 4 * (a & granule_mask)`.
    pub shadow_base: u64,
    /// The cell that a full-granule access of this thread would store now, `mask` = 0xff.
    pub key: u64,
    /// Address of the topmost [`Frame`] of the current shadow stack; frames grow upward.
    pub frames_top: u64,
    /// Frames may be pushed while `frames_top < frames_limit`.
    pub frames_limit: u64,
    /// Lowest address of the guest stack that the current shadow stack describes.
    pub stack_low: u64,
    /// Length in bytes of that guest stack.
    pub stack_len: u64,
    /// Initial `rsp` of the runtime's own stack for this thread, 16-byte aligned.
    pub runtime_stack_top: u64,
    /// 1 while the thread is inside the runtime.
    pub guard: u32,
    /// Not zero while a signal waits for the thread to leave the runtime.
    pub signals_pending: u32,
}

const _: () = assert!(size_of::<GsBlock>() == 128);

/// Offset of [`GsBlock::owner_fs`] and so on, for assembly and generated code.
pub const OWNER_FS: i32 = core::mem::offset_of!(GsBlock, owner_fs) as i32;
/// Offset of [`GsBlock::granule_mask`].
pub const GRANULE_MASK: i32 = core::mem::offset_of!(GsBlock, granule_mask) as i32;
/// Offset of [`GsBlock::shadow_base`].
pub const SHADOW_BASE: i32 = core::mem::offset_of!(GsBlock, shadow_base) as i32;
/// Offset of [`GsBlock::key`].
pub const KEY: i32 = core::mem::offset_of!(GsBlock, key) as i32;
/// Offset of [`GsBlock::frames_top`].
pub const FRAMES_TOP: i32 = core::mem::offset_of!(GsBlock, frames_top) as i32;
/// Offset of [`GsBlock::frames_limit`].
pub const FRAMES_LIMIT: i32 = core::mem::offset_of!(GsBlock, frames_limit) as i32;
/// Offset of [`GsBlock::stack_low`].
pub const STACK_LOW: i32 = core::mem::offset_of!(GsBlock, stack_low) as i32;
/// Offset of [`GsBlock::stack_len`].
pub const STACK_LEN: i32 = core::mem::offset_of!(GsBlock, stack_len) as i32;
/// Offset of [`GsBlock::runtime_stack_top`].
pub const RUNTIME_STACK_TOP: i32 = core::mem::offset_of!(GsBlock, runtime_stack_top) as i32;
/// Offset of [`GsBlock::guard`].
pub const GUARD: i32 = core::mem::offset_of!(GsBlock, guard) as i32;
/// Offset of [`GsBlock::signals_pending`].
pub const SIGNALS_PENDING: i32 = core::mem::offset_of!(GsBlock, signals_pending) as i32;

/// One entry of a shadow stack: a function that was entered and, as far as the stack pointer tells, not left.
///
/// A frame is dead when a later entry has a higher or equal `sp`; so no exit event exists and
/// unwinding or `longjmp` cannot confuse it. The bottom frame has `sp == u64::MAX`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// `rsp` at the function's entry, which is where its return address lies.
    pub sp: u64,
    /// The function's return address: the caller's program counter plus the length of the call.
    pub return_address: u64,
    /// Index of the calling-context node for this frame and all below it; 0 where not yet interned.
    pub node: u32,
    /// Unused.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Frame>() == 24);

/// Shadow layout: each granule of 8 application bytes has 4 words of 8 bytes.
///
/// ```text
/// word 0: write cell   the latest plain write
/// word 1: read cell    the latest plain read
/// word 2: extra cell   an older access of another thread or other bytes, of either kind
/// word 3: ids          three access ids of 21 bits, for words 0, 1, 2 from the low end; bit 63 is zero
///
/// cell   63   62                23 22       10   9      8     7      0
///      | tag | epoch (40 bits)    |  slot 13  | read | freed | byte mask |
/// ```
///
/// `tag` in word 0 says that the granule has a sync object: the low 32 bits are then its index, and the
/// other words are unused (the object holds the granule's cells). A cell of 0 is empty. `read` is set only in
/// word 2. The inline check of a write compares word 0 with the thread's key, that of a read word 1 and then word 0.
pub const GRANULE_SHIFT: u32 = 3;
/// Bytes of shadow for one granule.
pub const SHADOW_BYTES: u64 = 32;
/// Bits of an epoch.
pub const EPOCH_BITS: u32 = 40;
/// Bits of a slot.
pub const SLOT_BITS: u32 = 13;
/// Position of the slot in a cell.
pub const SLOT_SHIFT: u32 = 10;
/// Position of the epoch in a cell.
pub const EPOCH_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
/// Bit of a cell that marks a read (word 2 only).
pub const CELL_READ: u64 = 1 << 9;
/// Bit of a cell that marks a write made by freeing the memory.
pub const CELL_FREED: u64 = 1 << 8;
/// Bit of word 0 that marks a granule with a sync object.
pub const SYNC_TAG: u64 = 1 << 63;
/// Bits of an access id.
pub const ACCESS_ID_BITS: u32 = 21;

const _: () = assert!(EPOCH_SHIFT + EPOCH_BITS == 63);
