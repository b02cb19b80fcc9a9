//! Stacks without frames that functions leave: the target's own stack is walked by the plan's unwind rows.
//!
//! In a plan that only watches locks, functions run as they are and push nothing. A stack is asked for on contended
//! paths only, and costs a search per frame.
//!
//! Invariant: reads stay inside the guest stack that the thread runs on, as the registry knows it.
//! Direction of error: where the rows end (libraries, hand-written code, an unknown `rbp`) the stack ends early.

use crate::apply::{pc_map, plan};
use crate::record;
use crate::stubs::Saved;
use crate::thread::ThreadState;
use conprof_wire::plan::{UNWIND_RBP, UNWIND_RSP, UnwindRow};
use conprof_wire::recording::{AccessRow, NO_SITE};
use conprof_wire::state::{Frame, RED_ZONE};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

/// Frames that are followed.
const DEPTH: usize = 192;

/// The access row of a site, or of the interposed function called last for `NO_SITE`, with where the return addresses lie and what
/// they are, innermost first, as far as there is room; and how many there are.
#[cold]
#[inline(never)]
pub(super) fn place_with_slots(state: &mut ThreadState, site: u32, slots: &mut [(u64, u64)]) -> (u32, usize) {
    let mut addresses = [const { MaybeUninit::<u64>::uninit() }; DEPTH];
    let len = if plan::unwind_rows().is_empty() { 0 } else { walk(state, site, &mut addresses, slots) };
    let mut node = 0;
    if len == 0 {
        node = state.context();
    }
    for address in addresses.get(..len).unwrap_or_default().iter().rev() {
        // SAFETY: `walk` has written as many as it says.
        node = record::context::node(node, unsafe { address.assume_init() });
    }
    let slot = state.serial as u16;
    (record::context::access(&AccessRow { site, node, lock_set: 0, slot, interposed: 0 }), len)
}

/// Program counter, stack pointer and `rbp` of the target at the site whose stub brought us here.
fn at_site(state: &ThreadState, site: u32) -> (u64, u64, u64) {
    // SAFETY: the stub that brought us here has left `rbp` in the first word of the runtime's stack, and in the second
    // the address of the block that it saved on the target's stack.
    let (bp, saved) = unsafe {
        let top = state.gs.runtime_stack_top as *const u64;
        (*top.sub(1), &*(*top.sub(2) as *const Saved))
    };
    // Where no register was free, one was pushed before the stub's arguments.
    let lowered = pc_map::original(saved.return_address).map_or(RED_ZONE as u64, |original| original.rsp_offset);
    let sp = state.guest_sp.wrapping_add(lowered).wrapping_sub(RED_ZONE as u64);
    (plan::site_pc(site), sp, bp)
}

/// Return addresses from the innermost frame on; how many.
fn walk(state: &ThreadState, site: u32, addresses: &mut [MaybeUninit<u64>; DEPTH], slots: &mut [(u64, u64)]) -> usize {
    let mut len = 0;
    let mut add = |slot: u64, address: u64| {
        if let Some(place) = slots.get_mut(len) {
            *place = (slot, address);
        }
        if let Some(place) = addresses.get_mut(len) {
            place.write(address);
            len += 1;
            return true;
        }
        false
    };
    let (mut pc, mut sp, mut bp) = if site == NO_SITE {
        // SAFETY: the top of the shadow stack is always a frame.
        let frame = unsafe { *(state.gs.frames_top as *const Frame) };
        if frame.return_address == 0 || !add(frame.sp, frame.return_address) {
            return 0;
        }
        (frame.return_address.wrapping_sub(1), frame.sp.wrapping_add(8), state.lock.guest_bp)
    } else {
        at_site(state, site)
    };
    let read = |address: u64| {
        let inside = address % 8 == 0 && address.wrapping_sub(state.gs.stack_low) < state.gs.stack_len;
        // SAFETY: the address lies in the guest stack, above its present pointer.
        (inside && address >= state.guest_sp).then(|| unsafe { *(address as *const u64) })
    };
    while let Some(row) = row(pc) {
        let base = match row.base {
            UNWIND_RSP => sp,
            UNWIND_RBP => bp,
            _ => break,
        };
        let frame = base.wrapping_add(i64::from(row.frame_offset) as u64);
        // A caller's frame lies above: a chain of frames can't go in circles.
        if frame <= sp {
            break;
        }
        let Some(return_address) = read(frame.wrapping_sub(8)).filter(|address| *address != 0) else { break };
        if row.rbp_offset != 0 {
            let Some(saved) = read(frame.wrapping_add(i64::from(row.rbp_offset) as u64)) else { break };
            bp = saved;
        }
        if !add(frame.wrapping_sub(8), return_address) {
            break;
        }
        (pc, sp) = (return_address.wrapping_sub(1), frame);
    }
    len
}

/// The row for an address of the checked module.
fn row(pc: u64) -> Option<&'static UnwindRow> {
    let offset = pc.wrapping_sub(plan::TEXT_START.load(Ordering::Relaxed));
    if offset >= plan::TEXT_LEN.load(Ordering::Relaxed) {
        return None;
    }
    let rows = plan::unwind_rows();
    let after = rows.partition_point(|row| u64::from(row.start) <= offset);
    rows.get(after.checked_sub(1)?)
}
