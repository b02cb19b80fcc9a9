//! Reserves the shadow: four bytes for each byte of the shadowed window of addresses.
//!
//! An address is masked before its shadow is looked up, so the shadow of any value at all is inside the
//! reservation. Two addresses that differ only above the mask share shadow; with the full mask of 44 bits no
//! two mappings of a process of usual layout do.

use crate::rt::syscall;
use core::sync::atomic::{AtomicU64, Ordering};

static MASK: AtomicU64 = AtomicU64::new(0);
static BASE: AtomicU64 = AtomicU64::new(0);
static HARMLESS: AtomicU64 = AtomicU64::new(0);

/// Where the full shadow goes when the place is free: between non-PIE programs and everything else.
const PREFERRED_BASE: usize = 0x1000_0000_0000;
const PREFERRED_BITS: u32 = 44;
/// Below this the shadow is too small to tell mappings apart.
const SMALLEST_BITS: u32 = 40;

/// The key that a detached thread's inline checks compare with.
pub const HARMLESS_KEY: u64 = (1 << conprof_wire::state::EPOCH_SHIFT) | 0xff;

/// Reserves the shadow; whether there was a place.
pub fn reserve() -> bool {
    let Some(page) = syscall::map_anonymous(4096) else { return false };
    let cells = page as *mut u64;
    // SAFETY: the page is fresh.
    unsafe {
        for word in 0..3 {
            cells.add(word).write(HARMLESS_KEY);
        }
    }
    HARMLESS.store(page as u64, Ordering::Relaxed);
    let mut bits = PREFERRED_BITS;
    let mut wanted = PREFERRED_BASE;
    loop {
        let len = 4usize << bits;
        let fixed = if wanted != 0 { libc::MAP_FIXED_NOREPLACE } else { 0 };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        match syscall::map(wanted, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) {
            // A kernel before 4.17 takes the address as a hint only.
            Some(base) if wanted == 0 || base as usize == wanted => {
                accept(base as usize, len, bits);
                return true;
            }
            Some(elsewhere) => syscall::unmap(elsewhere, len),
            None => {}
        }
        if wanted != 0 {
            wanted = 0;
        } else if bits > SMALLEST_BITS {
            bits -= 1;
        } else {
            return false;
        }
    }
}

fn accept(base: usize, len: usize, bits: u32) {
    syscall::advise(base, len, libc::MADV_DONTDUMP);
    syscall::advise(base, len, libc::MADV_NOHUGEPAGE);
    syscall::advise(base, len, libc::MADV_WIPEONFORK);
    MASK.store(((1u64 << bits) - 1) & !7, Ordering::Relaxed);
    BASE.store(base as u64, Ordering::Relaxed);
}

/// Mask and base for `GsBlock::granule_mask` and `GsBlock::shadow_base`.
pub fn layout() -> (u64, u64) {
    (MASK.load(Ordering::Relaxed), BASE.load(Ordering::Relaxed))
}

/// Mask and base with which every inline check finds its own key and goes on.
pub fn harmless() -> (u64, u64) {
    (0, HARMLESS.load(Ordering::Relaxed))
}
