//! Which memory operands lie in the function's own frame, and whether an address into the frame escapes.
//!
//! Direction of error: a frame is said to escape whenever its address is copied into a register or stored, even if nobody
//! else ever sees it; then its accesses are checked, which costs time only.

use iced_x86::{Code, Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

/// What is known of a function's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// `rbp` holds the frame's address from the prologue on.
    pub rbp_is_frame: bool,
    /// An address into the frame may be known outside.
    pub escapes: bool,
}

impl Frame {
    /// Looks at all instructions of a function.
    pub fn of(instructions: &[Instruction], info: &mut impl FnMut(&Instruction) -> InstructionInfo) -> Frame {
        let mut sets_rbp = false;
        let mut other_rbp_writes = false;
        for instruction in instructions {
            if !mentions(instruction, Register::RBP) {
                continue;
            }
            let to_frame = match instruction.mnemonic() {
                Mnemonic::Mov => {
                    instruction.op0_register() == Register::RBP && instruction.op1_register() == Register::RSP
                }
                Mnemonic::Lea => {
                    instruction.op0_register() == Register::RBP && instruction.memory_base() == Register::RSP
                }
                _ => false,
            };
            sets_rbp |= to_frame;
            if !to_frame && !matches!(instruction.mnemonic(), Mnemonic::Pop | Mnemonic::Leave | Mnemonic::Push) {
                other_rbp_writes |= writes_register(instruction, Register::RBP, info);
            }
        }
        let rbp_is_frame = sets_rbp && !other_rbp_writes;
        let escapes = instructions.iter().any(|instruction| {
            leaks(instruction, Register::RSP, rbp_is_frame) || rbp_is_frame && leaks(instruction, Register::RBP, true)
        });
        Frame { rbp_is_frame, escapes }
    }

    /// Whether the instruction's memory operand is addressed relative to the frame.
    pub fn holds_operand_of(&self, instruction: &Instruction) -> bool {
        let base = instruction.memory_base();
        base == Register::RSP || self.rbp_is_frame && base == Register::RBP
    }
}

fn mentions(instruction: &Instruction, register: Register) -> bool {
    instruction.mnemonic() == Mnemonic::Leave
        || (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && instruction.op_register(operand).full_register() == register
        })
        || instruction.memory_base() == register
        || instruction.memory_index() == register
}

fn writes_register(
    instruction: &Instruction,
    register: Register,
    info: &mut impl FnMut(&Instruction) -> InstructionInfo,
) -> bool {
    info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == register
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
    })
}

/// Whether the instruction copies the frame's address, which `register` holds, anywhere but to `rsp` or `rbp`.
fn leaks(instruction: &Instruction, register: Register, rbp_is_frame: bool) -> bool {
    let is_frame_register = |r: Register| r == Register::RSP || rbp_is_frame && r == Register::RBP;
    if instruction.mnemonic() == Mnemonic::Lea {
        let uses = instruction.memory_base() == register || instruction.memory_index() == register;
        return uses && !is_frame_register(instruction.op0_register());
    }
    let reads_as_operand = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).full_register() == register
    });
    if !reads_as_operand {
        return false;
    }
    match instruction.mnemonic() {
        // Moves of the stack pointer itself, and saving the caller's rbp.
        Mnemonic::Sub | Mnemonic::Add | Mnemonic::And | Mnemonic::Mov | Mnemonic::Lea
            if instruction.op0_kind() == OpKind::Register && is_frame_register(instruction.op0_register()) =>
        {
            false
        }
        Mnemonic::Mov if register == Register::RBP => instruction.op1_register() == Register::RBP,
        Mnemonic::Push | Mnemonic::Pop => register == Register::RSP && instruction.code() != Code::Pop_r64,
        Mnemonic::Cmp | Mnemonic::Test => false,
        _ => true,
    }
}
