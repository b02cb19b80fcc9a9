//! Where indirect jumps go: resolves the compilers' jump tables, and tells them from tail calls.
//!
//! Only a target that is *computed* can hide: one loaded as a whole pointer is in a relocation, in the data of a non-PIE
//! program or in a `lea`, all of which the caller collects. So `jmp [memory]` and `jmp register` after a plain 64-bit load, a
//! call or the function's entry are fine (tail calls, computed gotos), unless the memory is a slot of the frame, into which a
//! computation that does not change in a loop is spilled. A register that was added to must lead back to
//! `lea base, [rip+table]`, and the table is read until an entry is no instruction boundary of the
//! function. The bounds check before a table is not consulted: half of the tables have none.

use super::decode::LinearBoundaries;
use super::functions::Bounds;
use crate::elf::Image;
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What the indirect jumps of a function can reach.
#[derive(Default)]
pub(super) struct Tables {
    /// (jump, target) as read from tables, ascending, without duplicates.
    pub edges: Vec<(u64, u64)>,
    /// A jump computes its target in a way that is not understood.
    pub unresolved: bool,
}

/// Longest table that is read.
const MAX_ENTRIES: usize = 1 << 16;

/// Resolves the indirect jumps among `instructions`, which are ascending; `known` are edges found before.
pub(super) fn resolve(
    image: &Image<'_>,
    functions: &[Bounds<'_>],
    bounds: &Bounds<'_>,
    instructions: &[Instruction],
    roots: &[u64],
    known: &[(u64, u64)],
) -> Tables {
    let mut search = Search::new(image, instructions, roots, known);
    let mut unresolved = false;
    let mut jumps = Vec::new();
    for (index, instruction) in instructions.iter().enumerate() {
        if instruction.flow_control() != FlowControl::IndirectBranch {
            continue;
        }
        let mut found = Sources::default();
        search.followed.clear();
        match instruction.op0_kind() {
            OpKind::Register => search.jump_register(instruction.op0_register(), index, &mut found),
            OpKind::Memory => search.loaded_target(index, &mut found),
            _ => found.unresolved = true,
        }
        unresolved |= found.unresolved;
        if !found.relative.is_empty() || !found.absolute.is_empty() {
            jumps.push((instruction.ip(), found));
        }
    }
    let mut edges = BTreeSet::new();
    if !jumps.is_empty() {
        let boundaries = LinearBoundaries::of(image, bounds);
        let cold = ColdPart::of(image, functions, bounds, instructions);
        let inside = |target: u64| {
            boundaries.contains(target)
                || cold.contains(target)
                || instructions.binary_search_by_key(&target, |i| i.ip()).is_ok()
        };
        let starts: BTreeSet<u64> = jumps.iter().flat_map(|(_, found)| &found.relative).copied().collect();
        for (jump, found) in &jumps {
            let before = edges.len();
            for &table in &found.relative {
                let limit = starts.range(table + 1..).next().map_or(u64::MAX, |&next| next);
                let entries = image.bytes_at(table).chunks_exact(4).take(MAX_ENTRIES).enumerate();
                let targets = entries
                    .take_while(|&(at, _)| table + 4 * (at as u64) < limit)
                    .map(|(_, entry)| i32::from_le_bytes(entry.try_into().expect("four bytes")))
                    .map(|entry| table.wrapping_add_signed(i64::from(entry)))
                    .take_while(|&target| inside(target));
                edges.extend(targets.map(|target| (*jump, target)));
            }
            // Some candidates are other constants that share the register; none at all is a table not understood.
            unresolved |= !found.relative.is_empty() && edges.len() == before;
            for &table in &found.absolute {
                let entries = image.bytes_at(table).chunks_exact(8).take(MAX_ENTRIES);
                let targets = entries
                    .map(|entry| u64::from_le_bytes(entry.try_into().expect("eight bytes")))
                    .take_while(|&target| inside(target));
                edges.extend(targets.map(|target| (*jump, target)));
            }
        }
    }
    Tables { edges: edges.into_iter().collect(), unresolved }
}

/// The rarely used part that GCC splits off a function, which its tables may point into: where its own conditional branches
/// leave for, since those otherwise stay inside.
struct ColdPart {
    parts: Vec<LinearBoundaries>,
}

impl ColdPart {
    fn of(image: &Image<'_>, functions: &[Bounds<'_>], bounds: &Bounds<'_>, instructions: &[Instruction]) -> ColdPart {
        let mut starts = BTreeSet::new();
        for instruction in instructions.iter().filter(|i| i.flow_control() == FlowControl::ConditionalBranch) {
            let target = instruction.near_branch_target();
            if !bounds.contains(target) {
                let at = functions.partition_point(|function| function.start <= target);
                starts.extend(at.checked_sub(1).filter(|&at| functions[at].contains(target)));
            }
        }
        ColdPart { parts: starts.into_iter().map(|at| LinearBoundaries::of(image, &functions[at])).collect() }
    }

    fn contains(&self, address: u64) -> bool {
        self.parts.iter().any(|part| part.contains(address))
    }
}

#[derive(Default)]
struct Sources {
    /// Tables of 4-byte offsets from the table's own start.
    relative: Vec<u64>,
    /// Tables of 8-byte addresses.
    absolute: Vec<u64>,
    unresolved: bool,
}

impl Sources {
    fn add_relative(&mut self, bases: Vec<u64>) {
        self.unresolved |= bases.is_empty();
        self.relative.extend(bases);
    }
}

struct Search<'a, 'b> {
    image: &'b Image<'a>,
    instructions: &'b [Instruction],
    predecessors: HashMap<usize, Vec<usize>>,
    /// `mov [slot], register` by the slot's base and displacement.
    stores: HashMap<(Register, u64), Vec<(usize, Register)>>,
    /// (register, instruction) pairs that the current question has asked for already.
    followed: HashSet<(Register, usize)>,
    info: InstructionInfoFactory,
}

impl<'a, 'b> Search<'a, 'b> {
    fn new(
        image: &'b Image<'a>,
        instructions: &'b [Instruction],
        roots: &[u64],
        edges: &[(u64, u64)],
    ) -> Search<'a, 'b> {
        let index_of = |address: u64| instructions.binary_search_by_key(&address, |i| i.ip()).ok();
        let mut predecessors: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut calls = Vec::new();
        let mut stores: HashMap<(Register, u64), Vec<(usize, Register)>> = HashMap::new();
        for (index, instruction) in instructions.iter().enumerate() {
            if instruction.code() == Code::Mov_rm64_r64
                && instruction.op0_kind() == OpKind::Memory
                && is_frame_slot(instruction)
            {
                let slot = (instruction.memory_base(), instruction.memory_displacement64());
                stores.entry(slot).or_default().push((index, instruction.op1_register()));
            }
            match instruction.flow_control() {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    if let Some(target) = index_of(instruction.near_branch_target()) {
                        predecessors.entry(target).or_default().push(index);
                    }
                }
                FlowControl::Call | FlowControl::IndirectCall => calls.push(index),
                _ => {}
            }
        }
        // Any call may unwind to any landing pad.
        for target in roots.iter().filter_map(|&address| index_of(address)) {
            predecessors.entry(target).or_default().extend(&calls);
        }
        for &(jump, target) in edges {
            if let (Some(jump), Some(target)) = (index_of(jump), index_of(target)) {
                predecessors.entry(target).or_default().push(jump);
            }
        }
        Search {
            image,
            instructions,
            predecessors,
            stores,
            followed: HashSet::new(),
            info: InstructionInfoFactory::new(),
        }
    }

    fn falls_through_to(&self, index: usize) -> Option<usize> {
        let previous = index.checked_sub(1)?;
        let before = &self.instructions[previous];
        let falls = !matches!(
            before.flow_control(),
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception
        );
        (falls && before.next_ip() == self.instructions[index].ip()).then_some(previous)
    }

    /// Instructions that may have written the register last before `index`.
    fn definitions(&mut self, register: Register, index: usize) -> Vec<usize> {
        let register = register.full_register();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut work = vec![index];
        while let Some(at) = work.pop() {
            let mut sources: Vec<usize> = self.falls_through_to(at).into_iter().collect();
            sources.extend(self.predecessors.get(&at).into_iter().flatten());
            for source in sources {
                if !seen.insert(source) {
                    continue;
                }
                if self.writes(source, register) { found.push(source) } else { work.push(source) }
            }
        }
        found
    }

    fn writes(&mut self, index: usize, register: Register) -> bool {
        let instruction = &self.instructions[index];
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            return register == Register::RAX;
        }
        let info = self.info.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        info.used_registers().iter().any(|used| {
            used.register().full_register() == register
                && matches!(
                    used.access(),
                    OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
                )
        })
    }

    /// `jmp register`
    fn jump_register(&mut self, register: Register, index: usize, found: &mut Sources) {
        if !self.followed.insert((register.full_register(), index)) {
            return;
        }
        for at in self.definitions(register, index) {
            let instruction = self.instructions[at];
            match instruction.mnemonic() {
                Mnemonic::Add if instruction.op0_kind() == OpKind::Register => {
                    let mut bases = match instruction.op1_kind() {
                        OpKind::Register => self.base_afresh(instruction.op1_register(), at),
                        OpKind::Memory => self.spilled_base(at),
                        _ => Vec::new(),
                    };
                    if bases.is_empty() {
                        bases = self.base_afresh(register, at);
                    }
                    found.add_relative(bases);
                }
                Mnemonic::Lea if instruction.memory_index() != Register::None => {
                    let scaled = instruction.memory_index_scale() != 1 || instruction.memory_displacement64() != 0;
                    let mut bases = Vec::new();
                    if !scaled && instruction.memory_base() != Register::None {
                        bases = self.base_afresh(instruction.memory_base(), at);
                        if bases.is_empty() {
                            bases = self.base_afresh(instruction.memory_index(), at);
                        }
                    }
                    found.add_relative(bases);
                }
                // The address of code, which the caller collects.
                Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {}
                Mnemonic::Mov | Mnemonic::Cmovae | Mnemonic::Cmovb | Mnemonic::Cmove | Mnemonic::Cmovne => {
                    match instruction.op1_kind() {
                        OpKind::Register => self.jump_register(instruction.op1_register(), at, found),
                        OpKind::Memory if instruction.code() == Code::Mov_r64_rm64 => {
                            self.loaded_target(at, found);
                        }
                        OpKind::Memory if instruction.mnemonic() != Mnemonic::Mov => {}
                        OpKind::Memory => found.unresolved = true,
                        _ => {}
                    }
                    if instruction.mnemonic() != Mnemonic::Mov {
                        self.jump_register(register, at, found);
                    }
                }
                Mnemonic::Pop | Mnemonic::Call | Mnemonic::Xchg | Mnemonic::Syscall => {}
                _ => found.unresolved = true,
            }
        }
    }

    /// A target loaded from memory by the instruction, which may be the jump: a spilled computation, an entry of an absolute table, or a pointer.
    fn loaded_target(&mut self, at: usize, found: &mut Sources) {
        let instruction = self.instructions[at];
        if is_frame_slot(&instruction) {
            for (store, register) in self.stores_to_slot(&instruction) {
                self.jump_register(register, store, found);
            }
        } else {
            self.jump_memory(at, found);
        }
    }

    /// `jmp [memory]` and the like: an absolute table, or a pointer to a function.
    fn jump_memory(&mut self, at: usize, found: &mut Sources) {
        let instruction = self.instructions[at];
        if instruction.memory_index() == Register::None || self.image.is_pie {
            return;
        }
        let displacement = instruction.memory_displacement64();
        match instruction.memory_base() {
            Register::None => found.absolute.push(displacement),
            base => {
                for table in self.base_afresh(base, at) {
                    found.absolute.push(table.wrapping_add(displacement));
                }
            }
        }
    }

    /// [`base`](Self::base) as a question of its own.
    fn base_afresh(&mut self, register: Register, index: usize) -> Vec<u64> {
        let outer = std::mem::take(&mut self.followed);
        let bases = self.base(register, index);
        self.followed = outer;
        bases
    }

    /// Constant addresses of data that the register may hold; empty where none is understood.
    ///
    /// Paths on which it holds something else are left out: a table's base only ever comes from a `lea` or an immediate, perhaps
    /// through copies and spills, and a path without one belongs to an entry read beyond some table's end.
    fn base(&mut self, register: Register, index: usize) -> Vec<u64> {
        let mut bases = Vec::new();
        if !self.followed.insert((register.full_register(), index)) {
            return bases;
        }
        for at in self.definitions(register, index) {
            let instruction = self.instructions[at];
            match instruction.mnemonic() {
                Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                    bases.push(instruction.ip_rel_memory_address());
                }
                Mnemonic::Mov => match instruction.op1_kind() {
                    OpKind::Register => bases.extend(self.base(instruction.op1_register(), at)),
                    OpKind::Memory => bases.extend(self.spilled_base(at)),
                    OpKind::Immediate32 if !self.image.is_pie => bases.push(u64::from(instruction.immediate32())),
                    OpKind::Immediate32to64 if !self.image.is_pie => bases.push(instruction.immediate32to64() as u64),
                    OpKind::Immediate64 if !self.image.is_pie => bases.push(instruction.immediate64()),
                    _ => {}
                },
                _ => {}
            }
        }
        bases.retain(|&base| self.image.is_read_only(base));
        bases
    }

    fn spilled_base(&mut self, at: usize) -> Vec<u64> {
        let load = self.instructions[at];
        if !is_frame_slot(&load) {
            return Vec::new();
        }
        let stores = self.stores_to_slot(&load);
        stores.into_iter().flat_map(|(store, register)| self.base(register, store)).collect()
    }

    /// All `mov [slot], register` to the frame slot that `load` reads.
    fn stores_to_slot(&self, load: &Instruction) -> Vec<(usize, Register)> {
        self.stores.get(&(load.memory_base(), load.memory_displacement64())).cloned().unwrap_or_default()
    }
}

fn is_frame_slot(instruction: &Instruction) -> bool {
    matches!(instruction.memory_base(), Register::RSP | Register::RBP) && instruction.memory_index() == Register::None
}
