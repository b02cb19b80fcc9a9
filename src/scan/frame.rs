//! Which memory operands lie in the function's own frame, and which of those nobody else can know the address of.
//!
//! The stack pointer is followed through the function, so that every frame operand and every address taken into the frame has an
//! offset from the entry's stack pointer. Objects extend upwards from the addresses taken, so what lies below the lowest of them is private:
//! spills, and locals that never leave registers and the frame.
//!
//! Direction of error: where the stack pointer can't be followed, everything counts as shared as soon as any address into the
//! frame is copied; then its accesses are checked, which costs time only.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

/// What is known of a function's frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// `rbp` holds the frame's address from the prologue on.
    pub rbp_is_frame: bool,
    /// An address into the frame may be known outside.
    pub escapes: bool,
    layout: Option<Layout>,
}

impl Frame {
    /// Looks at all instructions of a function; `targets` are where control comes in from outside.
    pub fn of(
        instructions: &[Instruction],
        targets: &[u64],
        info: &mut impl FnMut(&Instruction) -> InstructionInfo,
    ) -> Frame {
        let mut sets_rbp = false;
        let mut other_rbp_writes = false;
        for instruction in instructions {
            if !mentions(instruction, Register::RBP) {
                continue;
            }
            let to_frame = sets_frame_pointer(instruction);
            sets_rbp |= to_frame;
            if !to_frame && !matches!(instruction.mnemonic(), Mnemonic::Pop | Mnemonic::Leave | Mnemonic::Push) {
                other_rbp_writes |= writes_register(instruction, Register::RBP, info);
            }
        }
        let rbp_is_frame = sets_rbp && !other_rbp_writes;
        let escapes = instructions.iter().any(|instruction| leaks_frame(instruction, rbp_is_frame));
        let layout = if escapes { Layout::of(instructions, targets, rbp_is_frame) } else { None };
        Frame { rbp_is_frame, escapes, layout }
    }

    /// Whether the instruction's memory operand is addressed relative to the frame.
    pub fn holds_operand_of(&self, instruction: &Instruction) -> bool {
        let base = instruction.memory_base();
        base == Register::RSP || self.rbp_is_frame && base == Register::RBP
    }

    /// Whether the frame operand of the instruction, the `index`th, of `size` bytes, is known to this function only.
    pub fn is_private(&self, index: usize, instruction: &Instruction, size: u16) -> bool {
        if !self.escapes {
            return true;
        }
        let Some(layout) = &self.layout else { return false };
        if size == 0 || instruction.memory_index() != Register::None {
            return false;
        }
        let offset = layout.offset(index, instruction);
        let lowest_shared = layout.taken.first().copied().unwrap_or(i64::MAX);
        offset.is_some_and(|offset| offset + i64::from(size) <= lowest_shared)
    }

    /// The slots that look like spills; `None` where the stack pointer can't be followed.
    pub fn spills(&self, instructions: &[Instruction]) -> Option<Spills> {
        let layout = self.layout.as_ref()?;
        let mut accesses = Vec::new();
        for (index, instruction) in instructions.iter().enumerate().filter(|(_, i)| self.holds_operand_of(i)) {
            if instruction.mnemonic() == Mnemonic::Lea {
                continue;
            }
            // What the size or the place of isn't known may be anywhere.
            let size = instruction.memory_size().size() as i64;
            let offset = layout.offset(index, instruction);
            match (offset, size, instruction.memory_index()) {
                (Some(offset), 1.., Register::None) => accesses.push((offset, size)),
                _ => return None,
            }
        }
        accesses.sort_unstable();
        accesses.dedup();
        Some(Spills { accesses, taken: layout.taken.clone() })
    }
}

/// Offsets are in bytes from the stack pointer at the function's entry, where its return address lies.
#[derive(Clone, Debug)]
struct Layout {
    /// `rsp` before each instruction.
    stack_pointer: Vec<Option<i64>>,
    /// `rbp` once it is the frame pointer.
    frame_pointer: Option<i64>,
    /// Addresses into the frame that are copied, lowest first.
    taken: Vec<i64>,
}

/// Which slots of a frame look like the register allocator's: used as a whole only, and nobody takes their address.
///
/// Direction of error: a field of an object whose address is taken further down may look so, too.
#[derive(Debug)]
pub(super) struct Spills {
    /// Offset and size of every direct access.
    accesses: Vec<(i64, i64)>,
    taken: Vec<i64>,
}

impl Spills {
    /// Whether the frame operand of the instruction, the `index`th, of `size` bytes, is such a slot.
    pub fn holds(&self, frame: &Frame, index: usize, instruction: &Instruction, size: u16) -> bool {
        let Some(layout) = &frame.layout else { return false };
        let Some(start) = layout.offset(index, instruction) else { return false };
        let size = i64::from(size);
        let end = start + size;
        // No operand of a single access is longer than 64 bytes.
        let from = self.accesses.partition_point(|&(other, _)| other < start - 64);
        let mut near = self.accesses[from..].iter().take_while(|&&(other, _)| other < end);
        !self.taken.iter().any(|taken| (start..end).contains(taken))
            && near.all(|&(other, len)| other + len <= start || (other, len) == (start, size))
    }
}

impl Layout {
    fn of(instructions: &[Instruction], targets: &[u64], rbp_is_frame: bool) -> Option<Layout> {
        let mut layout =
            Layout { stack_pointer: vec![None; instructions.len()], frame_pointer: None, taken: Vec::new() };
        layout.follow(instructions, 0, 0)?;
        // Landing pads and table entries are reached with the stack pointer of the calls and jumps that lead there.
        let index_of = |address: u64| instructions.binary_search_by_key(&address, |i| i.ip()).ok();
        for target in targets.iter().filter_map(|&target| index_of(target)) {
            if layout.stack_pointer[target].is_none() {
                let body = layout.body(instructions)?;
                layout.follow(instructions, target, body)?;
            }
        }
        layout.body(instructions);
        for (index, instruction) in instructions.iter().enumerate().filter(|(_, i)| leaks_frame(i, rbp_is_frame)) {
            let offset = match instruction.mnemonic() {
                Mnemonic::Lea
                    if instruction.memory_index() == Register::None || instruction.memory_base() == Register::RSP =>
                {
                    layout.offset(index, instruction)
                }
                Mnemonic::Mov if instruction.op0_kind() == OpKind::Register => match instruction.op1_register() {
                    Register::RSP => layout.stack_pointer[index],
                    Register::RBP => layout.frame_pointer,
                    _ => None,
                },
                _ => None,
            };
            layout.taken.push(offset?);
        }
        layout.taken.sort_unstable();
        Some(layout)
    }

    /// Stack pointer of the function's calls and indirect jumps, if they all have the same.
    fn body(&self, instructions: &[Instruction]) -> Option<i64> {
        let leads_out = |i: &Instruction| matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        let mut known = instructions.iter().zip(&self.stack_pointer).filter(|(i, at)| leads_out(i) && at.is_some());
        let first = match known.next() {
            Some((_, at)) => (*at)?,
            None => {
                let jumps = instructions.iter().zip(&self.stack_pointer);
                jumps.filter(|(i, _)| i.flow_control() == FlowControl::IndirectBranch).find_map(|(_, at)| *at)?
            }
        };
        known.all(|(_, at)| *at == Some(first)).then_some(first)
    }

    /// Follows the stack pointer from an instruction on; `None` where it can't be followed.
    fn follow(&mut self, instructions: &[Instruction], from: usize, stack_pointer: i64) -> Option<()> {
        let index_of = |address: u64| instructions.binary_search_by_key(&address, |i| i.ip()).ok();
        let mut work = vec![(from, stack_pointer)];
        while let Some((mut at, mut stack_pointer)) = work.pop() {
            loop {
                match self.stack_pointer[at] {
                    Some(known) if known == stack_pointer => break,
                    Some(_) => return None,
                    None => self.stack_pointer[at] = Some(stack_pointer),
                }
                let instruction = &instructions[at];
                stack_pointer = self.after(instruction, stack_pointer)?;
                match instruction.flow_control() {
                    FlowControl::ConditionalBranch => {
                        work.extend(index_of(instruction.near_branch_target()).map(|target| (target, stack_pointer)));
                    }
                    FlowControl::UnconditionalBranch => {
                        work.extend(index_of(instruction.near_branch_target()).map(|target| (target, stack_pointer)));
                        break;
                    }
                    FlowControl::IndirectBranch | FlowControl::Return | FlowControl::Exception => break,
                    _ => {}
                }
                match instructions.get(at + 1) {
                    Some(next) if next.ip() == instruction.next_ip() => at += 1,
                    _ => break,
                }
            }
        }
        Some(())
    }

    /// The stack pointer after an instruction.
    fn after(&mut self, instruction: &Instruction, stack_pointer: i64) -> Option<i64> {
        if sets_frame_pointer(instruction) {
            let value = match instruction.mnemonic() {
                Mnemonic::Lea => stack_pointer + instruction.memory_displacement64() as i64,
                _ => stack_pointer,
            };
            if self.frame_pointer.is_some_and(|known| known != value) {
                return None;
            }
            self.frame_pointer = Some(value);
            return Some(stack_pointer);
        }
        let writes_stack_pointer = instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RSP
            && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push);
        match instruction.mnemonic() {
            Mnemonic::Call => Some(stack_pointer),
            Mnemonic::Leave => self.frame_pointer.map(|frame| frame + 8),
            Mnemonic::Sub if writes_stack_pointer => Some(stack_pointer - immediate(instruction)?),
            Mnemonic::Add if writes_stack_pointer => Some(stack_pointer + immediate(instruction)?),
            Mnemonic::Mov if writes_stack_pointer && instruction.op1_register() == Register::RBP => self.frame_pointer,
            Mnemonic::Lea if writes_stack_pointer && instruction.memory_index() == Register::None => {
                let base = match instruction.memory_base() {
                    Register::RSP => stack_pointer,
                    Register::RBP => self.frame_pointer?,
                    _ => return None,
                };
                Some(base + instruction.memory_displacement64() as i64)
            }
            _ if writes_stack_pointer => None,
            _ => Some(stack_pointer + i64::from(instruction.stack_pointer_increment())),
        }
    }

    /// Offset of the instruction's memory operand, its index left aside.
    fn offset(&self, index: usize, instruction: &Instruction) -> Option<i64> {
        let base = match instruction.memory_base() {
            Register::RSP => self.stack_pointer[index]?,
            Register::RBP => self.frame_pointer?,
            _ => return None,
        };
        base.checked_add(instruction.memory_displacement64() as i64)
    }
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    match instruction.op1_kind() {
        OpKind::Immediate8to64 => Some(instruction.immediate8to64()),
        OpKind::Immediate32to64 => Some(instruction.immediate32to64()),
        _ => None,
    }
}

/// `mov rbp, rsp` or `lea rbp, [rsp+...]`.
fn sets_frame_pointer(instruction: &Instruction) -> bool {
    let to_rbp = instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RBP;
    match instruction.mnemonic() {
        Mnemonic::Mov => to_rbp && instruction.op1_register() == Register::RSP,
        Mnemonic::Lea => {
            to_rbp && instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None
        }
        _ => false,
    }
}

fn leaks_frame(instruction: &Instruction, rbp_is_frame: bool) -> bool {
    leaks(instruction, Register::RSP, rbp_is_frame) || rbp_is_frame && leaks(instruction, Register::RBP, true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory};

    fn frame(code: &[u8]) -> (Frame, Vec<Instruction>) {
        let instructions: Vec<_> = Decoder::with_ip(64, code, 0x1000, DecoderOptions::NONE).into_iter().collect();
        let mut factory = InstructionInfoFactory::new();
        (Frame::of(&instructions, &[], &mut |i| factory.info(i).clone()), instructions)
    }

    #[test]
    fn slots_below_the_lowest_address_taken_are_private() {
        // push rbx; sub rsp, 0x20; mov [rsp+8], rdi; lea rdi, [rsp+0x10]; mov [rsp+0x10], rax; call next; add rsp, 0x20; pop rbx; ret
        let code = b"\x53\x48\x83\xec\x20\x48\x89\x7c\x24\x08\x48\x8d\x7c\x24\x10\x48\x89\x44\x24\x10\xe8\x00\x00\x00\x00\x48\x83\xc4\x20\x5b\xc3";
        let (frame, instructions) = frame(code);
        assert!(frame.escapes);
        assert!(frame.is_private(2, &instructions[2], 8));
        assert!(!frame.is_private(4, &instructions[4], 8));
        assert!(!frame.is_private(2, &instructions[2], 16), "reaches into the shared object");
    }

    #[test]
    fn a_moving_stack_pointer_shares_all() {
        // sub rsp, rax; mov [rsp+8], rdi; lea rdi, [rsp+0x10]; ret
        let (frame, instructions) = frame(b"\x48\x29\xc4\x48\x89\x7c\x24\x08\x48\x8d\x7c\x24\x10\xc3");
        assert!(frame.escapes && !frame.is_private(1, &instructions[1], 8));
    }
}
