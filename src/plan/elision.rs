//! Which checks of a straight line of code repeat an earlier one.
//!
//! Within a basic block, an access whose operand, size and registers are unchanged since an earlier check needs
//! none of its own: no epoch of this thread can have begun in between, so the detector would find the granule
//! covered. A check of a write covers a later read. Every label, call, synchronising site and unknown site ends
//! what is known.

use super::liveness::{Set, bit};
use iced_x86::{Instruction, Register};

#[derive(Clone, Copy, PartialEq, Eq)]
struct Operand {
    base: Register,
    index: Register,
    scale: u32,
    displacement: u64,
}

impl Operand {
    fn of(instruction: &Instruction) -> Operand {
        Operand {
            base: instruction.memory_base(),
            index: instruction.memory_index(),
            scale: instruction.memory_index_scale(),
            displacement: instruction.memory_displacement64(),
        }
    }
}

struct Known {
    operand: Operand,
    size: usize,
    write: bool,
    registers: Set,
}

/// Checks already made on the way through a basic block.
#[derive(Default)]
pub(crate) struct Covered {
    known: Vec<Known>,
}

/// More operands than this are not remembered.
const MEMORY: usize = 16;

impl Covered {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    /// Whether the access is covered by an earlier check.
    pub(crate) fn covers(&self, instruction: &Instruction, size: usize, write: bool) -> bool {
        let operand = Operand::of(instruction);
        self.known.iter().any(|k| k.operand == operand && k.size >= size && (k.write || !write))
    }

    /// Remembers a check just made.
    pub(crate) fn add(&mut self, instruction: &Instruction, size: usize, write: bool) {
        let registers = bit(instruction.memory_base()) | bit(instruction.memory_index());
        if self.known.len() == MEMORY {
            self.known.remove(0);
        }
        self.known.push(Known { operand: Operand::of(instruction), size, write, registers });
    }

    /// Forgets what depends on registers in `written`.
    pub(crate) fn written(&mut self, written: Set) {
        self.known.retain(|k| k.registers & written == 0);
    }
}
