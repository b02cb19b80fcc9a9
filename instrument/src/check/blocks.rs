//! Which heap block an address is in: one word for each 16 bytes of memory, beside the shadow.
//!
//! ```text
//! word of a block's first unit:   63..36 node | 35..17 thread | 16 freed | 15..0 size in bytes
//! word of its second unit, for blocks of 64 KB and more:   63..16 size | 15..0 0xfffe
//! ```
//! A size of 0xffff says that the second unit has it. A freed block keeps its word until another block begins there, so that an
//! access after the free is still told where; blocks that are not freed come first.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const UNIT_SHIFT: u32 = 4;
const FREED: u64 = 1 << 16;
const SIZE_MASK: u64 = 0xffff;
const SIZE_ELSEWHERE: u64 = 0xffff;
const IS_SIZE: u64 = 0xfffe;
const THREAD_SHIFT: u32 = 17;
const THREAD_MASK: u64 = (1 << 19) - 1;
const NODE_SHIFT: u32 = 36;
const NODE_MASK: u64 = (1 << 28) - 1;
/// Units that are looked at backwards from an address.
const REACH: usize = (16 << 20) >> UNIT_SHIFT;

static BASE: AtomicUsize = AtomicUsize::new(0);
static MASK: AtomicUsize = AtomicUsize::new(0);

/// Takes over memory of half a window; without it, blocks are not known.
pub fn init(mask: usize, memory: Option<*mut u8>) {
    MASK.store(mask | 7, Ordering::Relaxed);
    BASE.store(memory.map_or(0, |memory| memory as usize), Ordering::Relaxed);
}

fn word(address: usize) -> Option<&'static AtomicU64> {
    let base = BASE.load(Ordering::Relaxed);
    let unit = (address & MASK.load(Ordering::Relaxed)) >> UNIT_SHIFT;
    // SAFETY: the memory has a word for each unit of the window and is never unmapped.
    (base != 0).then(|| unsafe { &*((base + unit * 8) as *const AtomicU64) })
}

/// A block begins.
pub fn allocated(block: usize, len: usize, node: u32, thread: u32) {
    let Some(first) = word(block) else { return };
    let size = if (len as u64) < IS_SIZE { len as u64 } else { SIZE_ELSEWHERE };
    if size == SIZE_ELSEWHERE
        && let Some(second) = word(block.wrapping_add(1 << UNIT_SHIFT))
    {
        second.store((len as u64) << 16 | IS_SIZE, Ordering::Relaxed);
    }
    let node = if u64::from(node) <= NODE_MASK { u64::from(node) } else { 0 };
    let thread = u64::from(thread).min(THREAD_MASK);
    first.store(node << NODE_SHIFT | thread << THREAD_SHIFT | size, Ordering::Relaxed);
}

/// A block is about to end.
pub fn freed(block: usize) {
    if let Some(first) = word(block) {
        let old = first.load(Ordering::Relaxed);
        if old != 0 {
            first.store(old | FREED, Ordering::Relaxed);
        }
    }
}

/// Size of the block that begins at an address, as it was asked for; 0 where none is known.
pub fn size_of(block: usize) -> usize {
    word(block).map_or(0, |first| decode(block, first.load(Ordering::Relaxed)).map_or(0, |block| block.size as usize))
}

/// A block as the reports tell it.
#[derive(Clone, Copy)]
pub struct Block {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Node of the allocation.
    pub node: u32,
    /// Serial of the allocating thread.
    pub thread: u32,
    freed: bool,
}

fn decode(start: usize, first: u64) -> Option<Block> {
    if first == 0 || first & SIZE_MASK == IS_SIZE {
        return None;
    }
    let size = if first & SIZE_MASK == SIZE_ELSEWHERE {
        word(start.wrapping_add(1 << UNIT_SHIFT))?.load(Ordering::Relaxed) >> 16
    } else {
        first & SIZE_MASK
    };
    let thread = first >> THREAD_SHIFT & THREAD_MASK;
    Some(Block {
        start: start as u64,
        size,
        node: (first >> NODE_SHIFT & NODE_MASK) as u32,
        thread: if thread == THREAD_MASK { u32::MAX } else { thread as u32 },
        freed: first & FREED != 0,
    })
}

/// The block that an address is in, or was in last.
#[cold]
pub fn find(address: usize) -> Option<Block> {
    let mut gone = None;
    let mut start = address & !((1 << UNIT_SHIFT) - 1);
    for _ in 0..REACH {
        if let Some(block) = decode(start, word(start)?.load(Ordering::Relaxed)) {
            if (address as u64).wrapping_sub(block.start) < block.size {
                if !block.freed {
                    return Some(block);
                }
                gone = gone.or(Some(block));
            } else if !block.freed {
                // Blocks do not overlap: nothing further back reaches here.
                return gone;
            }
        }
        start = start.wrapping_sub(1 << UNIT_SHIFT);
    }
    gone
}
