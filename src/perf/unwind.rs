//! Stacks from registers and a copy of the stack.

use super::record::Registers;
use super::space::Space;
use framehop::x86_64::{CacheX86_64, Reg, UnwindRegsX86_64};
use framehop::{FrameAddress, Unwinder};

/// Deeper stacks are cut off.
const MOST_FRAMES: usize = 512;

/// What became of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Followed to its bottom.
    Whole,
    /// The copy was too short, or unwind information is missing.
    CutOff,
    /// The sample fell into conprof's own runtime, on a stack of its own.
    Runtime,
}

/// Marks, in place of an address, conprof's own runtime.
pub(super) const RUNTIME_FRAME: u64 = u64::MAX;
/// Marks, in place of an address, the kernel.
pub(super) const KERNEL_FRAME: u64 = u64::MAX - 1;
/// Marks, in place of an address, frames that are missing below.
pub(super) const CUT_OFF_FRAME: u64 = u64::MAX - 2;

/// Appends the addresses to look up, innermost first, to `frames`.
///
/// Frames of conprof's runtime are left out, but for one mark where the sample fell into it: who reads a file through an
/// interposed `read` is who called that. Generated code appears as the code that it was made from. A sample in the runtime whose
/// stack can't be followed (it has a stack of its own, of which the program's is no part) is the mark alone.
pub(super) fn unwind(
    space: &mut Space,
    cache: &mut CacheX86_64,
    sampled: Registers,
    stack: &[u8],
    frames: &mut Vec<u64>,
) -> Ending {
    let above = frames.len();
    let (ending, through_runtime) = walk(space, cache, sampled, stack, frames);
    if ending == Ending::CutOff && (through_runtime || frames.get(above) == Some(&RUNTIME_FRAME)) {
        frames.truncate(above);
        frames.push(RUNTIME_FRAME);
        return Ending::Runtime;
    }
    ending
}

/// Follows the stack; the second result is whether it ended inside the runtime.
fn walk(
    space: &mut Space,
    cache: &mut CacheX86_64,
    sampled: Registers,
    stack: &[u8],
    frames: &mut Vec<u64>,
) -> (Ending, bool) {
    let Registers { ip, sp: stack_start, bp } = sampled;
    let mut registers = UnwindRegsX86_64::new(ip, stack_start, bp);
    let mut read = |address: u64| {
        let offset = usize::try_from(address.wrapping_sub(stack_start)).map_err(|_| ())?;
        let bytes = stack.get(offset..offset.checked_add(8).ok_or(())?).ok_or(())?;
        Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| ())?))
    };
    let mut frame = FrameAddress::InstructionPointer(ip);
    for depth in 0..MOST_FRAMES {
        let address = frame.address_for_lookup();
        let in_runtime = space.in_runtime(address);
        if in_runtime {
            if depth == 0 {
                frames.push(RUNTIME_FRAME);
            }
        } else if space.in_module(address) {
            frames.push(address);
        } else if let Some((original, rsp_offset)) = space.original(address) {
            frames.push(original);
            frame = FrameAddress::InstructionPointer(original);
            registers.set(Reg::RSP, registers.get(Reg::RSP).wrapping_add(rsp_offset));
        } else if depth == 0 {
            frames.push(address);
        } else {
            return (Ending::CutOff, false);
        }
        match space.unwinder.unwind_frame(frame, &mut registers, cache, &mut read) {
            Ok(Some(caller)) => match FrameAddress::from_return_address(caller) {
                Some(caller) => frame = caller,
                None => return (Ending::Whole, false),
            },
            Ok(None) => return (Ending::Whole, false),
            Err(_) => return (Ending::CutOff, in_runtime),
        }
    }
    (Ending::CutOff, false)
}
