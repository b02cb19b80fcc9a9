//! Memory of the runtime: whole mappings that are never returned.
//!
//! Memory is type-stable: what was once a thread state or a sync object stays one, so a stale pointer
//! reads an older value of the same type and never something else.

use super::lock::SpinLock;
use super::syscall;

/// Bytes mapped at a time for small objects.
const CHUNK_BYTES: usize = 256 * 1024;

struct Chunk {
    next: usize,
    end: usize,
}

static CHUNK: SpinLock<Chunk> = SpinLock::new(Chunk { next: 0, end: 0 });

/// Zeroed memory of `len` bytes, page-aligned, for large tables. `None` where the system refuses.
pub fn pages(len: usize) -> Option<*mut u8> {
    let len = len.checked_next_multiple_of(4096)?;
    let memory = syscall::map_anonymous(len)?;
    syscall::advise(memory as usize, len, libc::MADV_DONTDUMP);
    Some(memory)
}

/// Zeroed memory of `len` bytes aligned to `align`, a power of two up to 4096, never to be freed.
/// `None` where the system refuses. Takes the arena's lock.
pub fn allocate(len: usize, align: usize) -> Option<*mut u8> {
    if len >= CHUNK_BYTES / 4 {
        return pages(len);
    }
    let mut chunk = CHUNK.lock();
    let start = chunk.next.checked_next_multiple_of(align)?;
    if start.checked_add(len)? <= chunk.end {
        chunk.next = start + len;
        return Some(start as *mut u8);
    }
    let memory = pages(CHUNK_BYTES)?;
    chunk.next = memory as usize + len;
    chunk.end = memory as usize + CHUNK_BYTES;
    Some(memory)
}
