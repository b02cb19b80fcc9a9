//! Which general registers and flags are live before each instruction of a function.
//!
//! A backward data-flow analysis over the function's own instructions. Conservative in the directions that
//! matter: a call and a jump out of the function read every register (custom conventions, `-fipa-ra`), a call
//! kills none, a register that the function never writes is live at its exits, partial writes kill nothing.
//! Flags are dead at calls, returns and entries of functions (System V ABI 3.2.1), live at other exits.

use crate::scan::Function;
use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register, RflagsBits};

/// A set of general registers, bit by hardware number; bit 16 stands for the status flags.
pub(crate) type Set = u32;

/// The status flags' bit.
pub(crate) const FLAGS: Set = 1 << 16;
const ALL_GPR: Set = 0xffff;

/// rax, rdx, rcx, r8 (returned values, LLVM's and the ABI's), rbx, rbp, rsp, r12-r15.
const LIVE_AT_RETURN: Set = 1 | 1 << 2 | 1 << 1 | 1 << 8 | 1 << 3 | 1 << 5 | 1 << 4 | 0xf << 12;

/// Bit of the full register that `register` is part of, if it is a general one.
pub(crate) fn bit(register: Register) -> Set {
    if register.is_gpr() { 1 << register.full_register().number() } else { 0 }
}

/// What an instruction reads and fully overwrites, and all it touches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect {
    pub reads: Set,
    pub kills: Set,
    pub touches: Set,
    pub writes: Set,
}

/// Liveness of a function.
pub(crate) struct Liveness {
    /// Live before the instruction with the same index.
    pub before: Vec<Set>,
    /// Effects by instruction index.
    pub effects: Vec<Effect>,
}

const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

fn effect(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Effect {
    let mut effect = Effect::default();
    let info = factory.info(instruction);
    for used in info.used_registers() {
        let register = used.register();
        let bit = bit(register);
        if bit == 0 {
            continue;
        }
        effect.touches |= bit;
        if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
            effect.writes |= bit;
        }
        match used.access() {
            OpAccess::Read | OpAccess::CondRead => effect.reads |= bit,
            OpAccess::Write => {
                if register.size() >= 4 {
                    effect.kills |= bit;
                } else {
                    effect.reads |= bit;
                }
            }
            OpAccess::ReadWrite | OpAccess::ReadCondWrite | OpAccess::CondWrite => effect.reads |= bit,
            _ => effect.reads |= bit,
        }
    }
    if instruction.rflags_read() & STATUS != 0 {
        effect.reads |= FLAGS;
    }
    // Only the whole set of status flags kills; AF is written by whatever writes the others or is undefined.
    let written = instruction.rflags_modified() & STATUS;
    if written | RflagsBits::AF == STATUS {
        effect.kills |= FLAGS;
    }
    if written != 0 {
        effect.touches |= FLAGS;
    }
    effect
}

/// Index of the instruction at `ip`.
pub(crate) fn index_of(function: &Function, ip: u64) -> Option<usize> {
    function.instructions.binary_search_by_key(&ip, |i| i.ip()).ok()
}

pub(crate) fn analyze(function: &Function) -> Liveness {
    let mut factory = InstructionInfoFactory::new();
    let instructions = &function.instructions;
    let effects: Vec<Effect> = instructions.iter().map(|i| effect(i, &mut factory)).collect();
    let written = effects.iter().fold(0, |all, e| all | e.writes);
    let at_return = LIVE_AT_RETURN | (ALL_GPR & !written);
    let mut before = vec![0; instructions.len()];
    let successor: Vec<(Option<usize>, Option<usize>, Set)> = instructions
        .iter()
        .enumerate()
        .map(|(index, i)| {
            let next = instructions.get(index + 1).filter(|n| n.ip() == i.next_ip()).map(|_| index + 1);
            let fall = |next: Option<usize>| if next.is_some() { 0 } else { ALL_GPR | FLAGS };
            match i.flow_control() {
                FlowControl::Next => (next, None, fall(next)),
                FlowControl::Call | FlowControl::IndirectCall => (next, None, ALL_GPR),
                FlowControl::Return => (None, None, at_return),
                FlowControl::UnconditionalBranch => match branch_target(function, i) {
                    Some(to) => (Some(to), None, 0),
                    None => (None, None, ALL_GPR | FLAGS),
                },
                FlowControl::ConditionalBranch => match branch_target(function, i) {
                    Some(to) => (next, Some(to), fall(next)),
                    None => (next, None, ALL_GPR | FLAGS),
                },
                FlowControl::Interrupt | FlowControl::Exception => (None, None, ALL_GPR),
                _ => (next, None, ALL_GPR | FLAGS),
            }
        })
        .collect();
    let mut changed = true;
    while changed {
        changed = false;
        for index in (0..instructions.len()).rev() {
            let (a, b, base) = successor[index];
            let after = base | a.map_or(0, |i| before[i]) | b.map_or(0, |i| before[i]);
            let e = effects[index];
            let call = matches!(instructions[index].flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            let kills = if call { FLAGS } else { e.kills };
            let now = e.reads | (after & !kills) | 1 << 4;
            if now != before[index] {
                before[index] = now;
                changed = true;
            }
        }
    }
    Liveness { before, effects }
}

fn branch_target(function: &Function, instruction: &Instruction) -> Option<usize> {
    match instruction.op0_kind() {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            index_of(function, instruction.near_branch_target())
        }
        _ => None,
    }
}
