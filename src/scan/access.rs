//! What an instruction does to memory, from its encoding alone.

use super::frame::Frame;
use crate::elf::Image;
use crate::wire::site::Class;
use iced_x86::{Code, Instruction, InstructionInfo, MemorySize, Mnemonic, OpAccess, OpKind, Register};

/// What an instruction's memory operand means to the checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// No access to memory but the implicit stack traffic of `push`, `pop`, `call` and `ret`.
    None,
    /// An access that stays unchecked, and why.
    Skipped(&'static str),
    /// An access to check.
    Memory {
        /// By encoding: plain unless locked.
        class: Class,
        /// Bytes; of an element for string operations; 0 where masked or unknown.
        size: u16,
        /// Relative to the frame.
        stack: bool,
        /// Under a mask register or vector.
        masked: bool,
    },
    /// `syscall`
    Syscall,
}

/// Classifies an instruction, the `index`th of its function. `info` is its own.
pub(super) fn access_of(
    image: &Image<'_>,
    frame: &Frame,
    index: usize,
    instruction: &Instruction,
    info: &InstructionInfo,
) -> Access {
    if instruction.code() == Code::Syscall {
        return Access::Syscall;
    }
    if instruction.is_string_instruction() {
        return string_access(instruction);
    }
    let Some(operand) = (0..instruction.op_count()).find(|&operand| instruction.op_kind(operand) == OpKind::Memory)
    else {
        let implicit = (0..instruction.op_count()).any(|operand| {
            matches!(instruction.op_kind(operand), OpKind::MemorySegDI | OpKind::MemorySegRDI | OpKind::MemorySegEDI)
        });
        return if implicit { Access::Skipped("implicit address") } else { Access::None };
    };
    let class = match info.op_access(operand) {
        OpAccess::None | OpAccess::NoMemAccess => return Access::None,
        OpAccess::Read | OpAccess::CondRead => Class::Read,
        OpAccess::Write | OpAccess::CondWrite => Class::Write,
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => Class::ReadWrite,
    };
    let synchronises = instruction.has_lock_prefix() || is_exchange(instruction);
    match instruction.segment_prefix() {
        Register::FS => return Access::Skipped("tls"),
        Register::GS => return Access::Skipped("gs"),
        _ => {}
    }
    if instruction.is_vsib() {
        return Access::Skipped("gather or scatter");
    }
    if instruction.mnemonic() == Mnemonic::Xlatb {
        return Access::Skipped("implicit address");
    }
    let masked = is_masked(instruction);
    let size = if masked { 0 } else { operand_size(instruction.memory_size()) };
    let stack = frame.holds_operand_of(instruction);
    if stack && frame.is_private(index, instruction, size) && !synchronises {
        return Access::Skipped("stack");
    }
    if let Some(address) = constant_address(instruction)
        && image.is_read_only(address)
    {
        return Access::Skipped("read-only");
    }
    Access::Memory { class: if synchronises { Class::AtomicRmw } else { class }, size, stack, masked }
}

/// The effective address, where it is the same for every execution (before relocation).
pub(super) fn constant_address(instruction: &Instruction) -> Option<u64> {
    if instruction.is_ip_rel_memory_operand() {
        return Some(instruction.ip_rel_memory_address());
    }
    (instruction.memory_base() == Register::None && instruction.memory_index() == Register::None)
        .then(|| instruction.memory_displacement64())
}

/// `xchg` with memory locks without a prefix.
fn is_exchange(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Xchg
}

fn string_access(instruction: &Instruction) -> Access {
    let class = match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => Class::StringMove,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => Class::StringStore,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd | Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            return Access::Skipped("port i/o");
        }
        _ => Class::StringRead,
    };
    Access::Memory { class, size: operand_size(instruction.memory_size()), stack: false, masked: false }
}

fn is_masked(instruction: &Instruction) -> bool {
    instruction.has_op_mask()
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq
        )
}

/// Bytes of an operand, where the encoding fixes them.
fn operand_size(size: MemorySize) -> u16 {
    u16::try_from(size.size()).unwrap_or(0)
}
