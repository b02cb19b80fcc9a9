//! Short looks ahead from an instruction: whether its result is used, and whether a load only feeds a selection.
//!
//! Direction of error: a result is taken to be used, and a load to be meant, unless a bounded look along every path shows otherwise.

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits,
};

/// Instructions looked at along all paths together.
const BUDGET: usize = 64;

/// A function's instructions, ascending, and scratch space.
pub(super) struct Dataflow<'a, 'f> {
    pub instructions: &'a [Instruction],
    pub factory: &'f mut InstructionInfoFactory,
}

impl Dataflow<'_, '_> {
    fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |instruction| instruction.ip()).ok()
    }

    /// Whether neither the register nor the flags that a locked instruction leaves are ever looked at.
    pub fn result_unused(&mut self, index: usize) -> bool {
        let instruction = self.instructions[index];
        let register = match instruction.mnemonic() {
            Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => return false,
            Mnemonic::Xadd | Mnemonic::Xchg => {
                let operand = if instruction.op0_kind() == OpKind::Register { 0 } else { 1 };
                Some(instruction.op_register(operand).full_register())
            }
            _ => None,
        };
        let flags = instruction.rflags_modified();
        self.dead_after(index, register, flags)
    }

    fn dead_after(&mut self, index: usize, register: Option<Register>, flags: u32) -> bool {
        let mut budget = BUDGET;
        let mut seen = Vec::new();
        let Some(next) = self.index_of(self.instructions[index].next_ip()) else { return false };
        let mut work = vec![(next, register, flags)];
        while let Some((mut at, mut register, mut flags)) = work.pop() {
            loop {
                if register.is_none() && flags == RflagsBits::NONE {
                    break;
                }
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                if seen.contains(&(at, register, flags)) {
                    break;
                }
                seen.push((at, register, flags));
                let instruction = self.instructions[at];
                if instruction.rflags_read() & flags != 0 {
                    return false;
                }
                flags &= !instruction.rflags_modified();
                if let Some(wanted) = register {
                    let info = self.factory.info_options(&instruction, InstructionInfoOptions::NONE);
                    let mut overwritten = false;
                    for used in info.used_registers() {
                        if used.register().full_register() != wanted {
                            continue;
                        }
                        match used.access() {
                            OpAccess::Write if used.register().size() >= 4 => overwritten = true,
                            OpAccess::Write | OpAccess::CondWrite | OpAccess::NoMemAccess | OpAccess::None => {}
                            _ if is_zeroing(&instruction) => overwritten = true,
                            _ => return false,
                        }
                    }
                    if overwritten {
                        register = None;
                    }
                }
                let next = self.index_of(instruction.next_ip());
                match instruction.flow_control() {
                    FlowControl::Next => {}
                    FlowControl::Call | FlowControl::IndirectCall => {
                        // Flags do not survive a call, nor do registers that are neither arguments nor preserved.
                        flags = RflagsBits::NONE;
                        match register {
                            Some(Register::RAX | Register::R10 | Register::R11) => register = None,
                            Some(
                                Register::RDI
                                | Register::RSI
                                | Register::RDX
                                | Register::RCX
                                | Register::R8
                                | Register::R9,
                            ) => return false,
                            _ => {}
                        }
                    }
                    FlowControl::ConditionalBranch => {
                        let Some(target) = self.index_of(instruction.near_branch_target()) else { return false };
                        work.push((target, register, flags));
                    }
                    FlowControl::UnconditionalBranch => {
                        let Some(target) = self.index_of(instruction.near_branch_target()) else { return false };
                        at = target;
                        continue;
                    }
                    FlowControl::Return => {
                        let dead = matches!(
                            register,
                            None | Some(
                                Register::RCX
                                    | Register::RSI
                                    | Register::RDI
                                    | Register::R8
                                    | Register::R9
                                    | Register::R10
                                    | Register::R11
                            )
                        );
                        if !dead {
                            return false;
                        }
                        break;
                    }
                    FlowControl::Exception => break,
                    _ => return false,
                }
                let Some(next) = next else { return false };
                at = next;
            }
        }
        true
    }

    /// Whether a load's value only ever takes part in a selection (`cmov`, blend, mask), so that the program may not have asked
    /// for it.
    pub fn is_speculative_load(&mut self, index: usize) -> bool {
        let load = self.instructions[index];
        if selects_memory(&load) {
            return true;
        }
        let loads_register = load.op_count() >= 2
            && load.op0_kind() == OpKind::Register
            && load.op1_kind() == OpKind::Memory
            && is_move(load.mnemonic());
        if !loads_register {
            return false;
        }
        let value = load.op0_register().full_register();
        let mut selected = false;
        for instruction in self.instructions[index + 1..].iter().take(24) {
            let reads_value = reads(self.factory, instruction, value);
            if reads_value {
                if !selects_register(instruction, value) {
                    return false;
                }
                selected = true;
            }
            if overwrites(self.factory, instruction, value) {
                return selected;
            }
            if instruction.flow_control() != FlowControl::Next {
                return false;
            }
        }
        false
    }
}

fn reads(factory: &mut InstructionInfoFactory, instruction: &Instruction, register: Register) -> bool {
    factory.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE).used_registers().iter().any(|used| {
        used.register().full_register() == register
            && !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::None | OpAccess::NoMemAccess)
    })
}

fn overwrites(factory: &mut InstructionInfoFactory, instruction: &Instruction, register: Register) -> bool {
    factory.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE).used_registers().iter().any(|used| {
        used.register().full_register() == register && matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite)
    })
}

/// `xor r, r` and `sub r, r`, whose reads mean nothing.
fn is_zeroing(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
}

fn is_move(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Movd
            | M::Movq
            | M::Movss
            | M::Movsd
            | M::Movups
            | M::Movaps
            | M::Movupd
            | M::Movapd
            | M::Movdqu
            | M::Movdqa
            | M::Vmovups
            | M::Vmovaps
            | M::Vmovupd
            | M::Vmovapd
            | M::Vmovdqu
            | M::Vmovdqa
            | M::Vmovss
            | M::Vmovsd
            | M::Vmovd
            | M::Vmovq
            | M::Pmovzxbd
            | M::Pmovzxdq
            | M::Vmovdqu8
            | M::Vmovdqu16
            | M::Vmovdqu32
            | M::Vmovdqu64
    )
}

/// Selections whose memory operand may be thrown away.
fn selects_memory(instruction: &Instruction) -> bool {
    is_selection(instruction.mnemonic())
        && instruction.op_kind(instruction.op_count().saturating_sub(1)) == OpKind::Memory
        || is_mask(instruction.mnemonic()) && has_memory(instruction) && is_vector(instruction)
}

fn selects_register(instruction: &Instruction, register: Register) -> bool {
    let source = (1..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).full_register() == register
    });
    let target = instruction.op0_kind() == OpKind::Register && instruction.op0_register().full_register() == register;
    is_selection(instruction.mnemonic()) && source
        || is_mask(instruction.mnemonic()) && is_vector(instruction) && (source || target)
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

fn is_vector(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_vector_register()
}

fn is_selection(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle
            | M::Cmovne
            | M::Cmovno
            | M::Cmovnp
            | M::Cmovns
            | M::Cmovo
            | M::Cmovp
            | M::Cmovs
            | M::Blendvps
            | M::Blendvpd
            | M::Pblendvb
            | M::Vblendvps
            | M::Vblendvpd
            | M::Vpblendvb
            | M::Blendps
            | M::Blendpd
            | M::Pblendw
            | M::Vpblendmd
            | M::Vpblendmq
    )
}

fn is_mask(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Pand
            | M::Pandn
            | M::Andps
            | M::Andpd
            | M::Andnps
            | M::Andnpd
            | M::Vpand
            | M::Vpandn
            | M::Vandps
            | M::Vandpd
            | M::Vandnps
            | M::Vandnpd
            | M::Vpandd
            | M::Vpandq
    )
}
