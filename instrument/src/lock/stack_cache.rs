//! Access rows of stacks that a thread was seen with before, found by comparing the return addresses that lie on the stack.
//!
//! A lock is taken, a future polled and a call interposed for many places of the program through the same few functions, so the
//! direct caller tells little. An entry remembers where each return address lay and what it was; where all are the same, so is the
//! stack, and no unwind row is searched.
//!
//! Invariant: only words between the stack pointer and the outermost frame of the walk are read, as in the walk itself.
//! Direction of error: stacks deeper than [`FRAMES`] are never remembered.

use super::walk;
use crate::thread::ThreadState;

/// Frames of a stack that are compared.
const FRAMES: usize = 40;
/// Stacks of one site and stack pointer.
const WAYS: usize = 4;
/// Sets of stacks; a power of two.
const SETS: usize = 16;

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

    fn matches(&self, state: &ThreadState, site: u32) -> bool {
        let sp = state.guest_sp;
        if self.sp != sp || self.site != site || self.access == 0 {
            return false;
        }
        let len = (self.len as usize).min(FRAMES);
        let mut pairs = self.offsets.iter().zip(&self.addresses).take(len);
        pairs.all(|(offset, address)| {
            let slot = sp.wrapping_add(u64::from(*offset));
            let inside = slot.wrapping_sub(state.gs.stack_low) < state.gs.stack_len;
            // SAFETY: the address lies in the guest stack, above its present pointer.
            inside && unsafe { (slot as *const u64).read() } == *address
        })
    }

    fn callers(&self) -> Option<Callers> {
        let caller = |at: usize| {
            let offset = *self.offsets.get(at).filter(|_| at < self.len as usize)?;
            Some((self.sp.wrapping_add(u64::from(offset)), *self.addresses.get(at)?))
        };
        Some([caller(0)?, caller(1).or_else(|| caller(0))?])
    }
}

/// The two innermost return addresses of a stack, each after where it lies. One that is alone stands for both.
pub(super) type Callers = [(u64, u64); 2];

/// Stacks that a thread was seen with. All-zero bytes are a valid value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct StackCache {
    sets: [[Known; WAYS]; SETS],
    next: u32,
    unused: u32,
}

/// The access row of a site at whose stub the thread is, or of the interposed function called last for `NO_SITE`.
pub fn place(state: &mut ThreadState, site: u32) -> u32 {
    place_with_callers(state, site).0
}

/// The same, with the callers where these are known.
pub(super) fn place_with_callers(state: &mut ThreadState, site: u32) -> (u32, Option<Callers>) {
    let sp = state.guest_sp;
    let set = (u64::from(site) ^ sp >> 4) as usize & (SETS - 1);
    if let Some(known) = state.lock.stacks.sets.get(set)
        && let Some(known) = known.iter().find(|known| known.matches(state, site))
    {
        return (known.access, known.callers());
    }
    let mut new = Known { sp, site, ..Known::NONE };
    let mut slots = [(0u64, 0u64); FRAMES];
    let (access, len) = walk::place_with_slots(state, site, &mut slots);
    let places = new.offsets.iter_mut().zip(new.addresses.iter_mut());
    for ((slot, address), (offset_place, address_place)) in slots.iter().take(len).zip(places) {
        let Ok(offset) = u32::try_from(slot.wrapping_sub(sp)) else { return (access, None) };
        (*offset_place, *address_place) = (offset, *address);
    }
    new.access = access;
    new.len = len as u32;
    let callers = new.callers();
    if (1..=FRAMES).contains(&len) {
        let way = state.lock.stacks.next as usize % WAYS;
        state.lock.stacks.next = state.lock.stacks.next.wrapping_add(1);
        if let Some(place) = state.lock.stacks.sets.get_mut(set).and_then(|set| set.get_mut(way)) {
            *place = new;
        }
    }
    (access, callers)
}
