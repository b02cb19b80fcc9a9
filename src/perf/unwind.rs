//! Stacks from registers and a copy of the stack.

use super::record::Registers;
use super::space::Space;
use framehop::Unwinder;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64};

/// Deeper stacks are cut off.
const MOST_FRAMES: usize = 512;

/// What became of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Followed to its bottom.
    Whole,
    /// The copy was too short, or unwind information is missing.
    CutOff,
    /// The sample fell into conprof's own runtime.
    Runtime,
}

/// Marks, in place of an address, conprof's own runtime.
pub(super) const RUNTIME_FRAME: u64 = u64::MAX;
/// Marks, in place of an address, the kernel.
pub(super) const KERNEL_FRAME: u64 = u64::MAX - 1;
/// Marks, in place of an address, frames that are missing below.
pub(super) const CUT_OFF_FRAME: u64 = u64::MAX - 2;

/// Appends the addresses to look up, innermost first, to `frames`.
pub(super) fn unwind(
    space: &mut Space,
    cache: &mut CacheX86_64,
    registers: Registers,
    stack: &[u8],
    frames: &mut Vec<u64>,
) -> Ending {
    let Registers { ip, sp: stack_start, bp } = registers;
    let mut registers = UnwindRegsX86_64::new(ip, stack_start, bp);
    let mut pc = ip;
    if !space.in_module(pc) {
        if space.in_runtime(pc) {
            frames.push(RUNTIME_FRAME);
            return Ending::Runtime;
        }
        if let Some((original, rsp_offset)) = space.original(pc) {
            pc = original;
            registers = UnwindRegsX86_64::new(pc, stack_start.wrapping_add(rsp_offset), bp);
        }
    }
    let mut read = |address: u64| {
        let offset = usize::try_from(address.wrapping_sub(stack_start)).map_err(|_| ())?;
        let bytes = stack.get(offset..offset.checked_add(8).ok_or(())?).ok_or(())?;
        Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| ())?))
    };
    let mut iter = space.unwinder.iter_frames(pc, registers, cache, &mut read);
    let mut found = 0;
    loop {
        match iter.next() {
            Ok(Some(frame)) => {
                frames.push(frame.address_for_lookup());
                found += 1;
                if found == MOST_FRAMES {
                    return Ending::CutOff;
                }
            }
            Ok(None) => return Ending::Whole,
            Err(_) => return Ending::CutOff,
        }
    }
}
