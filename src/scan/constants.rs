//! Registers that hold the address of constants, within straight-line code: `lea r, [rip+table]` before a read of `[r+4*i]`.
//!
//! Direction of error: an index is taken to stay in the read-only section that the address points into.

use crate::elf::{Image, Svma};
use iced_x86::{FlowControl, Instruction, InstructionInfo, Mnemonic, OpAccess, Register};

/// Which registers hold such an address at the current instruction.
pub(super) struct ReadOnlyBases<'a, 'i> {
    image: &'i Image<'a>,
    targets: &'i [Svma],
    held: Vec<Register>,
}

impl<'a, 'i> ReadOnlyBases<'a, 'i> {
    /// Starts at a function's entry; `targets` are the places where other control flow comes in.
    pub fn new(image: &'i Image<'a>, targets: &'i [Svma]) -> ReadOnlyBases<'a, 'i> {
        ReadOnlyBases { image, targets, held: Vec::new() }
    }

    /// Whether the instruction's memory operand is relative to such an address.
    pub fn addresses(&self, instruction: &Instruction) -> bool {
        !self.held.is_empty() && self.held.contains(&instruction.memory_base())
    }

    /// Goes on to the next instruction.
    pub fn step(&mut self, instruction: &Instruction, info: &InstructionInfo) {
        if !self.held.is_empty() {
            let at_target = self.targets.binary_search(&Svma(instruction.ip())).is_ok();
            if at_target || instruction.flow_control() != FlowControl::Next {
                // A conditional branch's fall-through keeps the registers, but may be a branch target as well.
                self.held.clear();
            } else {
                self.held.retain(|&held| {
                    !info.used_registers().iter().any(|used| {
                        used.register().full_register() == held
                            && matches!(
                                used.access(),
                                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
                            )
                    })
                });
            }
        }
        if instruction.mnemonic() == Mnemonic::Lea
            && instruction.is_ip_rel_memory_operand()
            && self.image.is_read_only(instruction.ip_rel_memory_address())
        {
            self.held.push(instruction.op0_register().full_register());
        }
    }
}
