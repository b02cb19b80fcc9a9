//! Copies one function with its checks.
//!
//! Control flow inside the copy goes to the copy's own labels; jumps out of the function go to the other function's
//! copy where it has one; indirect jumps stay as they are and reach original addresses, which are patched; every
//! call is executed at its original address.

use super::checks::{self, Cold, Context, Unchecked};
use super::elision::Covered;
use super::emit::{Emitter, Hole, ORIGIN};
use super::file::PlanTally;
use super::imports::ForeignImports;
use super::liveness::{self, FLAGS};
use super::{FunctionCopy, Tactic, Text};
use crate::scan::primitives::LockMarks;
use crate::scan::{Function, Policy, Site};
use crate::wire::entry::{Entry, HOOK_BASE};
use crate::wire::locks::{Operation, SLOW_PATH, Success, Type, lock_bits, operation_of};
use crate::wire::site::{Class, Order, PackedSite, SiteFlags};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};
use std::collections::BTreeSet;

/// Whether a function is worth copying: it has sites, or calls something so that its frame matters.
pub(crate) fn needs_copy(function: &Function) -> bool {
    !function.sites.is_empty() || function.instructions.iter().any(is_call)
}

/// A near call, which stays at its original address.
pub(crate) fn is_call(instruction: &Instruction) -> bool {
    instruction.is_call_near() || instruction.is_call_near_indirect()
}

/// Target of a direct branch.
pub(crate) fn branch_target(instruction: &Instruction) -> Option<u64> {
    matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
        .then(|| instruction.near_branch_target())
}

struct Copier<'a> {
    function: &'a Function,
    text: &'a Text<'a>,
    em: &'a mut Emitter,
    tally: &'a mut PlanTally,
    labels: Vec<(u64, u32)>,
    branches: Vec<(Hole, u64)>,
    cold: Vec<Cold>,
    opaque: Option<u32>,
    tactic: Tactic,
    marks: &'a LockMarks,
    /// Site of the lock operation that the whole function is.
    lock_function: Option<u32>,
    /// The function keeps the address of a foreign function in a register.
    foreign_pointer: bool,
}

/// Copies `function` to the end of the code section.
pub(crate) fn copy_function(
    function: &Function,
    text: &Text<'_>,
    imports: &ForeignImports,
    tactic: Tactic,
    marks: &LockMarks,
    em: &mut Emitter,
    tally: &mut PlanTally,
) -> FunctionCopy {
    em.align(16);
    let live = liveness::analyze(function);
    let mut copier = Copier {
        function,
        text,
        em,
        tally,
        labels: Vec::new(),
        branches: Vec::new(),
        cold: Vec::new(),
        opaque: None,
        tactic,
        marks,
        lock_function: None,
        foreign_pointer: function.instructions.iter().any(|i| !is_call(i) && imports.takes_address(i)),
    };
    let entry = copier.entry(live.before.first().copied().unwrap_or(0) & FLAGS == 0);
    let leaders = leaders(function);
    let mut covered = Covered::default();
    let mut site_index = 0;
    for (index, instruction) in function.instructions.iter().enumerate() {
        let pc = instruction.ip();
        if leaders.contains(&pc) {
            covered.clear();
        }
        let next = function.instructions.get(index + 1);
        let falls_to_next = next.is_some_and(|n| n.ip() == instruction.next_ip());
        let context = Context {
            before: live.before[index],
            after: if falls_to_next { live.before[index + 1] } else { u32::MAX },
            touches: live.effects[index].touches,
            writes: live.effects[index].writes,
        };
        while function.sites.get(site_index).is_some_and(|s| s.pc.0 < pc) {
            site_index += 1;
        }
        let site = function.sites.get(site_index).filter(|s| s.pc.0 == pc);
        copier.labels.push((pc, copier.em.here()));
        copier.em.map(pc, 0);
        copier.instruction(instruction, &context, site, imports, &mut covered);
        covered.written(live.effects[index].writes);
        let ends = matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
        // A call jumps away by itself; its continuation is the next label, reached through the original's return site.
        if !ends && !falls_to_next && !is_call(instruction) {
            copier.em.jmp_original(instruction.next_ip(), true);
        }
    }
    let cold = std::mem::take(&mut copier.cold);
    checks::write_cold(copier.em, cold);
    let Copier { mut labels, branches, em, .. } = copier;
    labels.dedup_by_key(|label| label.0);
    let copy = FunctionCopy { start: function.start, entry: Some(entry), labels };
    for (hole, target) in branches {
        match copy.label(target) {
            Some(offset) => em.fill(hole, offset),
            None => unreachable_branch(em, hole, target),
        }
    }
    copy
}

/// A branch whose label is missing goes to the original, which is always right.
fn unreachable_branch(em: &mut Emitter, hole: Hole, target: u64) {
    let stub = em.here();
    em.fill(hole, stub);
    em.jmp_original(target, false);
}

/// Addresses where control joins: what is known of earlier checks ends there.
fn leaders(function: &Function) -> BTreeSet<u64> {
    let mut leaders: BTreeSet<u64> = function.outside_targets.iter().map(|t| t.0).collect();
    for instruction in &function.instructions {
        leaders.extend(branch_target(instruction));
        if is_call(instruction) {
            leaders.insert(instruction.next_ip());
        }
    }
    leaders
}

impl Copier<'_> {
    /// What stands before the first instruction: the hook's thunk, or the function-entry event.
    fn entry(&mut self, flags_dead: bool) -> u32 {
        let start = self.function.start.0;
        let entry = self.em.here();
        self.em.map(start, 0);
        match &self.function.policy {
            Policy::Hooked(hook) => {
                // lea r11, [rip + 6]: the copy follows the 6-byte jump.
                self.em.raw(&[0x4c, 0x8d, 0x1d, 6, 0, 0, 0]);
                self.em.jump_slot((HOOK_BASE + *hook as usize) as u8);
            }
            policy => {
                let is_part = self.function.symbol.contains(".cold");
                let calls = self.function.instructions.iter().any(is_call);
                let needs_frame = self.tactic == Tactic::Races && (calls || !self.function.sites.is_empty());
                if flags_dead && !is_part && needs_frame {
                    self.em.call_entry(Entry::FunctionEntry);
                }
                if let Some(bits) = self.marks.functions.get(&start) {
                    let site = self.em.site(lock_site(*bits | SLOW_PATH), start);
                    self.lock_function = Some(site);
                    checks::call_without_address(self.em, start, Entry::LockCall, site);
                }
                if *policy == Policy::Opaque && self.tactic == Tactic::Races {
                    let packed = PackedSite::new(Class::Opaque, Order::Unknown, SiteFlags::default(), 0);
                    let site = self.em.site(packed, start);
                    self.opaque = Some(site);
                    checks::call_without_address(self.em, start, Entry::Opaque, site);
                }
            }
        }
        entry
    }

    fn opaque(&mut self, pc: u64) {
        if let Some(site) = self.opaque {
            checks::call_without_address(self.em, pc, Entry::Opaque, site);
        }
    }

    fn instruction(
        &mut self,
        instruction: &Instruction,
        context: &Context,
        site: Option<&Site>,
        imports: &ForeignImports,
        covered: &mut Covered,
    ) {
        let pc = instruction.ip();
        let hooked = matches!(self.function.policy, Policy::Hooked(_));
        if let Some(site) = site.filter(|_| !hooked) {
            let before = self.em.len();
            match self.site(instruction, context, site, covered) {
                Ok(true) => return,
                Ok(false) => {}
                Err(reason) => {
                    self.tally.lost(site, reason.reason());
                    debug_assert!(self.em.len() >= before);
                }
            }
        }
        if is_call(instruction) {
            covered.clear();
            self.call(instruction, imports);
            return;
        }
        let returns = instruction.flow_control() == FlowControl::Return || self.is_end_of_poll(instruction);
        if let Some(site) = self.lock_function.filter(|_| returns && !self.is_told_at_entry()) {
            checks::call_without_address(self.em, pc, Entry::LockReturn, site);
        }
        if self.tactic == Tactic::Races && instruction.is_jmp_near_indirect() && imports.takes_address(instruction) {
            let packed = PackedSite::new(Class::Opaque, Order::Unknown, SiteFlags::default(), 0);
            let site = self.em.site(packed, pc);
            checks::call_without_address(self.em, pc, Entry::Opaque, site);
        }
        if self.opaque.is_some() {
            let leaves = match instruction.flow_control() {
                FlowControl::Return | FlowControl::IndirectBranch => true,
                FlowControl::UnconditionalBranch => {
                    branch_target(instruction).is_none_or(|t| liveness::index_of(self.function, t).is_none())
                }
                _ => false,
            };
            if leaves {
                self.opaque(pc);
            }
        }
        self.plain_copy(instruction);
    }

    /// Writes the check, and for synchronising sites the instruction as well (then `true`).
    fn site(
        &mut self,
        instruction: &Instruction,
        context: &Context,
        site: &Site,
        covered: &mut Covered,
    ) -> Result<bool, Unchecked> {
        let bits = self.marks.instructions.get(&site.pc.0).copied().unwrap_or_else(|| self.may_unlock(instruction));
        if self.tactic == Tactic::Locks && bits == 0 {
            return Ok(false);
        }
        let packed = PackedSite(PackedSite::new(site.class, site.order, site.flags, site.size).0 | bits);
        let opaque = self.opaque.is_some();
        self.tally.site(site);
        match site.class {
            Class::Read | Class::Write | Class::ReadWrite => {
                if opaque {
                    return Ok(false);
                }
                let write = site.class.writes();
                if covered.covers(instruction, packed.size(), write) {
                    self.tally.elided += 1;
                    return Ok(false);
                }
                checks::plain(self.em, instruction, context, packed, &mut self.cold)?;
                // Known only where one granule is sure to have been covered by what was checked.
                covered.add(instruction, packed.size(), write);
                Ok(false)
            }
            Class::StringMove | Class::StringStore | Class::StringRead => {
                if !opaque {
                    let index = self.em.site(packed, instruction.ip());
                    checks::call_without_address(self.em, instruction.ip(), Entry::StringOperation, index);
                }
                Ok(false)
            }
            Class::Syscall => {
                covered.clear();
                let index = self.em.site(packed, instruction.ip());
                checks::call_without_address(self.em, instruction.ip(), Entry::SyscallBefore, index);
                self.plain_copy(instruction);
                checks::call_without_address(self.em, instruction.ip(), Entry::SyscallAfter, index);
                Ok(true)
            }
            Class::Opaque => Ok(false),
            _ if instruction.flow_control() != FlowControl::Next => {
                covered.clear();
                checks::jump(self.em, instruction, context, packed)?;
                Ok(false)
            }
            _ => {
                covered.clear();
                let (function, text) = (self.function, self.text);
                let mut copy = |em: &mut Emitter| copy_sequential(em, instruction, function, text);
                checks::synchronising(
                    self.em,
                    instruction,
                    context,
                    packed,
                    crate::wire::locks::operation_of(bits),
                    self.tactic == Tactic::Races,
                    &mut copy,
                )?;
                Ok(true)
            }
        }
    }

    /// Lock bits of an instruction that no row names, where it may still give a lock up.
    fn may_unlock(&self, instruction: &Instruction) -> u64 {
        // Some locks are given up by a compare-exchange; where two of them are merged, the frames of both are lost.
        // Not so in core's own functions, which unoptimised code calls: there a holder's attempt to take its lock again, which
        // fails, would give the lock up.
        let of_core = self.function.symbol.contains("4core4sync6atomic");
        let exchanges = match instruction.mnemonic() {
            Mnemonic::Xchg | Mnemonic::Xadd => true,
            Mnemonic::Cmpxchg => !of_core,
            _ => false,
        };
        // A slow path that takes a lock exchanges the word as well.
        if !exchanges || self.operation().is_some_and(Operation::is_on_word) {
            return 0;
        }
        lock_bits(Operation::MayUnlock, Success::Always, Type::Unknown)
    }

    /// A call of an atomic's function that is a lock operation.
    fn lock_call(&mut self, instruction: &Instruction, bits: u64) {
        let (pc, next) = (instruction.ip(), instruction.next_ip());
        let site = self.em.site(lock_site(bits), pc);
        checks::call_without_address(self.em, pc, Entry::LockCall, site);
        self.em.jmp_original(pc, false);
        if liveness::index_of(self.function, next).is_some() {
            self.labels.push((next, self.em.here()));
            self.em.map(next, 0);
            checks::call_without_address(self.em, next, Entry::LockReturn, site);
        }
    }

    /// Jumps to the original call; what follows is reached through its return site.
    fn call(&mut self, instruction: &Instruction, imports: &ForeignImports) {
        let pc = instruction.ip();
        if let Some(bits) = self.marks.calls.get(&pc) {
            return self.lock_call(instruction, *bits);
        }
        let through_register = self.foreign_pointer && instruction.op0_kind() == OpKind::Register;
        let foreign = self.tactic == Tactic::Races
            && self.opaque.is_none()
            && (through_register || imports.is_foreign_call(instruction));
        let around = if foreign {
            let packed = PackedSite::new(Class::Opaque, Order::Unknown, SiteFlags::default(), 0);
            Some(self.em.site(packed, pc))
        } else {
            self.opaque
        };
        if let Some(site) = around {
            checks::call_without_address(self.em, pc, Entry::Opaque, site);
        }
        self.em.jmp_original(pc, false);
        let next = instruction.next_ip();
        if let Some(site) = around.filter(|_| liveness::index_of(self.function, next).is_some()) {
            // The return site's label is what stands here, not the bare instruction.
            self.labels.push((next, self.em.here()));
            self.em.map(next, 0);
            checks::call_without_address(self.em, next, Entry::Opaque, site);
            self.tally.opaque_calls += 1;
        }
    }

    /// The lock operation that the function as a whole is.
    fn operation(&self) -> Option<Operation> {
        self.marks.functions.get(&self.function.start.0).copied().and_then(operation_of)
    }

    /// The function is a lock operation whose end tells nothing.
    fn is_told_at_entry(&self) -> bool {
        self.operation().is_some_and(Operation::is_told_at_entry)
    }

    /// A jump out of a function whose operation has no outcome: the function jumped to returns in its place.
    fn is_end_of_poll(&self, instruction: &Instruction) -> bool {
        if !self.operation().is_some_and(Operation::may_end_by_jump) {
            return false;
        }
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch => {
                branch_target(instruction).is_some_and(|target| liveness::index_of(self.function, target).is_none())
            }
            // Jump tables are jumped through by a register.
            FlowControl::IndirectBranch => instruction.op0_kind() == OpKind::Memory,
            _ => false,
        }
    }

    fn plain_copy(&mut self, instruction: &Instruction) {
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
                if branch_target(instruction).is_some() =>
            {
                self.branch(instruction)
            }
            _ => {
                if copy_sequential(self.em, instruction, self.function, self.text).is_err() {
                    // What can't be copied is executed where it is.
                    self.em.jmp_original(instruction.ip(), false);
                    *self.tally.skipped_by_reason.entry("instruction cannot be copied".into()).or_default() += 1;
                }
            }
        }
    }

    fn branch(&mut self, instruction: &Instruction) {
        let target = branch_target(instruction).unwrap_or(0);
        let inside = liveness::index_of(self.function, target).is_some();
        if instruction.flow_control() == FlowControl::UnconditionalBranch {
            if inside {
                let hole = self.em.jmp_forward();
                self.branches.push((hole, target));
            } else {
                self.em.jmp_original(target, true);
            }
            return;
        }
        if instruction.is_jcc_short_or_near() {
            let condition = hardware_condition(instruction);
            if inside {
                let hole = self.em.jcc_forward(condition);
                self.branches.push((hole, target));
            } else {
                self.em.jcc_original(condition, target);
            }
            return;
        }
        // jrcxz, loop: taken over a short jump, as they have no near form.
        let opcode = match instruction.mnemonic() {
            Mnemonic::Loop => 0xe2,
            Mnemonic::Loope => 0xe1,
            Mnemonic::Loopne => 0xe0,
            _ => 0xe3,
        };
        if matches!(
            instruction.code(),
            Code::Jecxz_rel8_64 | Code::Loop_rel8_64_ECX | Code::Loope_rel8_64_ECX | Code::Loopne_rel8_64_ECX
        ) {
            self.em.raw(&[0x67]);
        }
        self.em.raw(&[opcode, 2, 0xeb, 5]);
        if inside {
            let hole = self.em.jmp_forward();
            self.branches.push((hole, target));
        } else {
            self.em.jmp_original(target, true);
        }
    }
}

/// The packed site of a lock operation that is a call.
fn lock_site(bits: u64) -> PackedSite {
    PackedSite(PackedSite::new(Class::Opaque, Order::Unknown, SiteFlags::default(), 0).0 | bits)
}

/// The condition's number as it stands in the opcode.
fn hardware_condition(instruction: &Instruction) -> u8 {
    (instruction.condition_code() as u8).wrapping_sub(1) & 15
}

/// Copies an instruction that is no direct branch and no call: its own bytes, or re-encoded where it is relative to `rip`.
fn copy_sequential(
    em: &mut Emitter,
    instruction: &Instruction,
    _: &Function,
    text: &Text<'_>,
) -> Result<(), Unchecked> {
    if instruction.is_ip_rel_memory_operand() {
        let mut moved = *instruction;
        moved.set_memory_displacement64(ORIGIN.wrapping_add(instruction.ip_rel_memory_address()));
        return em.encode(&moved).map_err(|_| Unchecked::Encoding);
    }
    let bytes = text.bytes(instruction.ip(), instruction.len()).ok_or(Unchecked::Encoding)?;
    em.raw(bytes);
    Ok(())
}
