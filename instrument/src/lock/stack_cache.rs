//! Access rows of stacks that a thread was seen with before, found by comparing the return addresses that lie on the stack.
//!
//! A future is polled through the same few functions for many places of the program, so its direct caller tells nothing. An entry
//! remembers where each return address lay and what it was; where all are the same, so is the stack, and no unwind row is
//! searched.
//!
//! Invariant: only words between the stack pointer and the outermost frame of the walk are read, as in the walk itself.
//! Direction of error: stacks deeper than [`FRAMES`] are never remembered.

use super::walk;
use crate::check;
use crate::thread::ThreadState;

/// Frames of a stack that are compared.
const FRAMES: usize = 28;
/// Stacks of one site and stack pointer.
const WAYS: usize = 4;
/// Sets of stacks; a power of two.
const SETS: usize = 4;

/// A stack that is known. All-zero bytes match none.
#[derive(Clone, Copy)]
#[repr(C)]
struct Known {
    sp: u64,
    site: u32,
    access: u32,
    len: u32,
    unused: u32,
    /// Offsets of the return addresses from the stack pointer.
    offsets: [u32; FRAMES],
    addresses: [u64; FRAMES],
}

impl Known {
    const NONE: Known =
        Known { sp: 0, site: 0, access: 0, len: 0, unused: 0, offsets: [0; FRAMES], addresses: [0; FRAMES] };

    fn matches(&self, sp: u64, site: u32) -> bool {
        if self.sp != sp || self.site != site || self.access == 0 {
            return false;
        }
        let len = (self.len as usize).min(FRAMES);
        let mut pairs = self.offsets.iter().zip(&self.addresses).take(len);
        // SAFETY: innermost first: a frame whose inner frames are the same has its return address where it was, above the stack
        // pointer in the frame of a function that has not returned.
        pairs.all(|(offset, address)| unsafe { (sp.wrapping_add(u64::from(*offset)) as *const u64).read() } == *address)
    }
}

/// Stacks that a thread was seen with. All-zero bytes are a valid value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct StackCache {
    sets: [[Known; WAYS]; SETS],
    next: u32,
    unused: u32,
}

impl StackCache {
    pub(super) const NONE: StackCache = StackCache { sets: [[Known::NONE; WAYS]; SETS], next: 0, unused: 0 };
}

/// The access row of a site at whose stub the thread is.
pub(super) fn place(state: &mut ThreadState, site: u32) -> u32 {
    if check::is_on(state) {
        return check::place(state, site);
    }
    let sp = state.guest_sp;
    let set = (u64::from(site) ^ sp >> 4) as usize & (SETS - 1);
    if let Some(known) = state.lock.stacks.sets.get(set)
        && let Some(known) = known.iter().find(|known| known.matches(sp, site))
    {
        return known.access;
    }
    let mut new = Known { sp, site, ..Known::NONE };
    let mut slots = [(0u64, 0u64); FRAMES];
    let (access, len) = walk::place_with_slots(state, site, &mut slots);
    if len == 0 || len > FRAMES {
        return access;
    }
    let places = new.offsets.iter_mut().zip(new.addresses.iter_mut());
    for ((slot, address), (offset_place, address_place)) in slots.iter().take(len).zip(places) {
        let Ok(offset) = u32::try_from(slot.wrapping_sub(sp)) else { return access };
        (*offset_place, *address_place) = (offset, *address);
    }
    new.access = access;
    new.len = len as u32;
    let way = state.lock.stacks.next as usize % WAYS;
    state.lock.stacks.next = state.lock.stacks.next.wrapping_add(1);
    if let Some(place) = state.lock.stacks.sets.get_mut(set).and_then(|set| set.get_mut(way)) {
        *place = new;
    }
    access
}
