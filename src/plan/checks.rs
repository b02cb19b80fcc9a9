//! The code of every check.
//!
//! A plain access of up to 8 bytes, flags dead, one scratch register `s`:
//!
//! ```text
//!   lea  s, [address]            ; the access's own operand
//!   and  s, gs:[granule_mask]
//!   shl  s, 2
//!   add  s, gs:[shadow_base]     ; s = the granule's shadow
//!   mov  s, [s + cell]           ; write cell for writes, read cell for reads
//!   xor  s, gs:[key]             ; 0 iff this thread covered the granule in this epoch
//!   jne  cold
//! back:
//!   <the access>
//! ```
//!
//! The cold part calls the entry stub (see [`Entry`]) and jumps to `back`. Where the operand's alignment is
//! known the low byte is tested against the access's own bytes instead. Without a dead register the scratch
//! register is pushed below the red zone; with live flags only the stub is called, which preserves them.

use super::emit::{Emitter, Gpr, Hole, ORIGIN};
use super::liveness::{FLAGS, Set, bit};
use crate::wire::entry::Entry;
use crate::wire::locks::{Operation, type_of};
use crate::wire::site::{Class, PackedSite, SiteFlags};
use crate::wire::state::{GRANULE_MASK, KEY, SHADOW_BASE};
use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic, Register};

/// Bytes `rsp` is lowered by before a register is spilled.
const SPILL_OFFSET: u32 = 136;

/// Why a site's check could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unchecked {
    /// The operand has no single effective address (gather, scatter).
    NoAddress,
    /// The size is not known (masked) or above 64 bytes.
    Size,
    /// The instruction cannot be encoded with another stack pointer.
    Encoding,
}

impl Unchecked {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unchecked::NoAddress => "gather, scatter or segment operand",
            Unchecked::Size => "masked or unknown size",
            Unchecked::Encoding => "operand cannot be re-encoded",
        }
    }
}

/// A cold part that is written after the function's body.
pub(crate) struct Cold {
    hole: Hole,
    back: u32,
    instruction: Instruction,
    scratch: Gpr,
    /// A second register for the check, where the access is wide.
    other: Gpr,
    spilled: bool,
    entry: Entry,
    site: u32,
    reads: bool,
    size: usize,
}

/// What is known at an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    /// Live before it.
    pub before: Set,
    /// Live after it.
    pub after: Set,
    /// Registers it reads or writes.
    pub touches: Set,
    /// Registers it writes.
    pub writes: Set,
}

impl Context {
    fn scratch(&self, exclude: Set) -> Option<Gpr> {
        let free = !(self.before | exclude) & 0xffff & !(1 << 4);
        (free != 0).then(|| Gpr(free.trailing_zeros() as u8))
    }

    fn flags_dead_before(&self) -> bool {
        self.before & FLAGS == 0
    }
}

fn bit_of(r: Gpr) -> Set {
    1 << r.0
}

/// A register that the operand does not use, to be spilled.
fn spill_candidate(instruction: &Instruction, exclude: Set) -> Gpr {
    let used = exclude | bit(instruction.memory_base()) | bit(instruction.memory_index()) | 1 << 4;
    Gpr((!used & 0xffff).trailing_zeros() as u8)
}

/// `lea into, <the operand of instruction>`, with `rsp` lower by `rsp_offset` than in the original.
pub(crate) fn lea(em: &mut Emitter, instruction: &Instruction, into: Gpr, rsp_offset: u32) -> Result<(), Unchecked> {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    if index.is_vector_register() {
        return Err(Unchecked::NoAddress);
    }
    let displacement = if instruction.is_ip_rel_memory_operand() {
        ORIGIN.wrapping_add(instruction.ip_rel_memory_address()) as i64
    } else {
        let offset = if base == Register::RSP { i64::from(rsp_offset) } else { 0 };
        instruction.memory_displacement64() as i64 + offset
    };
    if base == Register::None && index == Register::None && i32::try_from(displacement).is_err() {
        em.raw(&[0x48 | into.0 >> 3, 0xb8 | into.0 & 7]);
        em.raw(&displacement.to_le_bytes());
        return Ok(());
    }
    let base = if base == Register::EIP { Register::RIP } else { base };
    let operand = MemoryOperand::new(
        base,
        index,
        instruction.memory_index_scale(),
        displacement,
        match base {
            Register::None | Register::RIP => 8,
            _ if displacement == 0 => 0,
            _ => 1,
        },
        false,
        Register::None,
    );
    let lea = Instruction::with2(Code::Lea_r64_m, into.iced(), operand).map_err(|_| Unchecked::Encoding)?;
    em.encode(&lea).map_err(|_| Unchecked::Encoding)
}

/// `instruction` as it must be executed with `rsp` lower by `rsp_offset`.
fn shifted(instruction: &Instruction, rsp_offset: u32) -> Instruction {
    let mut shifted = *instruction;
    if instruction.is_ip_rel_memory_operand() {
        shifted.set_memory_displacement64(ORIGIN.wrapping_add(instruction.ip_rel_memory_address()));
    } else if instruction.memory_base() == Register::RSP {
        shifted.set_memory_displacement64(instruction.memory_displacement64().wrapping_add(u64::from(rsp_offset)));
        shifted.set_memory_displ_size(8);
    }
    shifted
}

/// The operand's address modulo 8 where it is known at planning time.
fn known_alignment(instruction: &Instruction, is_pie_page_aligned: bool) -> Option<u64> {
    (is_pie_page_aligned && instruction.is_ip_rel_memory_operand()).then(|| instruction.ip_rel_memory_address() & 7)
}

/// What must be equal in the cell of an access whose bytes within the granule are known: all but the mask's other bits.
fn known_bytes(instruction: &Instruction, size: usize) -> Option<i32> {
    let low = known_alignment(instruction, true).filter(|low| size < 8 && low + size as u64 <= 8)?;
    let bytes = (((1u32 << size) - 1) << low) as u8;
    Some((0xffff_ff00u32 | u32::from(bytes)) as i32)
}

fn plain_entry(class: Class, size: usize) -> Entry {
    match (class.writes(), size) {
        (false, 1) => Entry::Read1,
        (false, 2) => Entry::Read2,
        (false, 4) => Entry::Read4,
        (false, 8) => Entry::Read8,
        (true, 1) => Entry::Write1,
        (true, 2) => Entry::Write2,
        (true, 4) => Entry::Write4,
        (true, 8) => Entry::Write8,
        _ => Entry::Access,
    }
}

/// Calls an entry that takes an address, with whatever spilling the context needs; everything is preserved.
fn call_with_address(
    em: &mut Emitter,
    instruction: &Instruction,
    context: &Context,
    entry: Entry,
    site: u32,
) -> Result<(), Unchecked> {
    let svma = instruction.ip();
    match context.scratch(0) {
        Some(s) => {
            lea(em, instruction, s, 0)?;
            push_and_call(em, svma, s, entry, site, 0);
        }
        None => {
            let s = spill_candidate(instruction, 0);
            em.skip_red_zone();
            em.map(svma, 128);
            em.push(s);
            em.map(svma, SPILL_OFFSET);
            lea(em, instruction, s, SPILL_OFFSET)?;
            push_arguments_and_call(em, svma, s, entry, site, SPILL_OFFSET);
            em.pop(s);
            em.map(svma, 128);
            em.unskip_red_zone();
        }
    }
    em.map(svma, 0);
    Ok(())
}

fn push_arguments_and_call(em: &mut Emitter, svma: u64, s: Gpr, entry: Entry, site: u32, offset: u32) {
    em.push(s);
    em.map(svma, offset + 8);
    em.push_imm32(site);
    em.map(svma, offset + 16);
    em.call_entry(entry);
    em.map(svma, offset);
}

fn push_and_call(em: &mut Emitter, svma: u64, s: Gpr, entry: Entry, site: u32, offset: u32) {
    em.skip_red_zone();
    em.map(svma, offset + 128);
    push_arguments_and_call(em, svma, s, entry, site, offset + 128);
    em.unskip_red_zone();
    em.map(svma, offset);
}

/// Calls an entry that takes only a site index.
pub(crate) fn call_without_address(em: &mut Emitter, svma: u64, entry: Entry, site: u32) {
    em.skip_red_zone();
    em.map(svma, 128);
    em.push_imm32(site);
    em.map(svma, 136);
    em.call_entry(entry);
    em.map(svma, 128);
    em.unskip_red_zone();
    em.map(svma, 0);
}

/// Turns the address in `s` into its granule's shadow. Flags are lost.
fn shadow_of(em: &mut Emitter, s: Gpr) {
    em.gs_op(0x23, s, GRANULE_MASK);
    em.shl(s, 2);
    em.gs_op(0x03, s, SHADOW_BASE);
}

/// The check of a plain access, before it.
pub(crate) fn plain(
    em: &mut Emitter,
    instruction: &Instruction,
    context: &Context,
    packed: PackedSite,
    cold: &mut Vec<Cold>,
) -> Result<(), Unchecked> {
    let size = packed.size();
    if size == 0 || size > 64 {
        return Err(Unchecked::Size);
    }
    let svma = instruction.ip();
    let class = packed.class();
    let entry = plain_entry(class, size);
    let site = em.site(packed, svma);
    let wide = matches!(size, 16 | 32 | 64);
    if !context.flags_dead_before() || !(wide || matches!(size, 1 | 2 | 4 | 8)) {
        return call_with_address(em, instruction, context, entry, site);
    }
    let cell = if class.writes() { 0 } else { 8 };
    let first = context.scratch(0);
    let second = if wide { first.and_then(|f| context.scratch(bit_of(f))) } else { None };
    let spilled = first.is_none() || (wide && second.is_none());
    let (s, t) = if spilled {
        let s = spill_candidate(instruction, 0);
        (s, spill_candidate(instruction, bit_of(s)))
    } else {
        (first.unwrap_or(Gpr(0)), second.unwrap_or(Gpr(0)))
    };
    let mut offset = 0;
    if spilled {
        em.skip_red_zone();
        em.map(svma, 128);
        em.push(s);
        offset = SPILL_OFFSET;
        em.map(svma, offset);
        if wide {
            em.push(t);
            offset += 8;
            em.map(svma, offset);
        }
    }
    lea(em, instruction, s, offset)?;
    shadow_of(em, s);
    let mut holes = Vec::new();
    if wide {
        em.gs_op(0x8b, t, KEY);
        for granule in 0..size / 8 {
            if granule == 4 {
                em.raw(&[0x48 | s.0 >> 3, 0x83, 0xe8 | s.0 & 7, 0x80]);
            }
            em.mem_op(0x3b, t, s, (cell + 32 * (granule as i32 % 4)) as i8);
            holes.push(em.jcc_forward(5));
        }
    } else {
        em.mem_op(0x8b, s, s, cell as i8);
        em.gs_op(0x33, s, KEY);
        if let Some(bytes) = known_bytes(instruction, size) {
            em.test_imm(s, bytes);
        }
        holes.push(em.jcc_forward(5));
    }
    let back = em.here();
    if spilled {
        if wide {
            em.pop(t);
            em.map(svma, SPILL_OFFSET);
        }
        em.pop(s);
        em.map(svma, 128);
        em.unskip_red_zone();
        em.map(svma, 0);
    }
    for hole in holes {
        cold.push(Cold {
            hole,
            back,
            instruction: *instruction,
            scratch: s,
            other: t,
            spilled,
            entry,
            site,
            reads: !class.writes(),
            size,
        });
    }
    Ok(())
}

/// Writes the cold parts of a function.
pub(crate) fn write_cold(em: &mut Emitter, cold: Vec<Cold>) {
    let mut shared: Option<(u32, u32)> = None;
    for part in cold {
        // The granules of one wide access share one cold part.
        if let Some((site, at)) = shared.filter(|(site, _)| *site == part.site) {
            let _ = site;
            em.fill(part.hole, at);
            continue;
        }
        let svma = part.instruction.ip();
        let here = em.here();
        em.fill(part.hole, here);
        shared = Some((part.site, here));
        let wide = part.entry == Entry::Access;
        let offset = match (part.spilled, wide) {
            (false, _) => 0,
            (true, false) => SPILL_OFFSET,
            (true, true) => SPILL_OFFSET + 8,
        };
        em.map(svma, offset);
        // The operand was encoded the same way in the inline part, so this cannot fail here.
        let _ = lea(em, &part.instruction, part.scratch, offset);
        if part.reads {
            covered_by_write(em, &part);
            let _ = lea(em, &part.instruction, part.scratch, offset);
        }
        if part.spilled {
            push_arguments_and_call(em, svma, part.scratch, part.entry, part.site, offset);
        } else {
            push_and_call(em, svma, part.scratch, part.entry, part.site, 0);
        }
        em.jmp_to(part.back);
    }
}

/// What the thread wrote in this epoch it may read: jumps back where the cells say so.
fn covered_by_write(em: &mut Emitter, part: &Cold) {
    let s = part.scratch;
    shadow_of(em, s);
    if part.entry != Entry::Access {
        em.mem_op(0x8b, s, s, 0);
        em.gs_op(0x33, s, KEY);
        if let Some(bytes) = known_bytes(&part.instruction, part.size) {
            em.test_imm(s, bytes);
        }
        em.jcc_to(4, part.back);
        return;
    }
    let t = part.other;
    em.gs_op(0x8b, t, KEY);
    let mut holes = Vec::new();
    for granule in 0..part.size / 8 {
        if granule == 4 {
            em.raw(&[0x48 | s.0 >> 3, 0x83, 0xe8 | s.0 & 7, 0x80]);
        }
        let at = 32 * (granule as i32 % 4);
        em.mem_op(0x3b, t, s, at as i8);
        let written = em.jcc_forward(4);
        em.mem_op(0x3b, t, s, (at + 8) as i8);
        holes.push(em.jcc_forward(5));
        em.fill_here(written);
    }
    em.jmp_to(part.back);
    for hole in holes {
        em.fill_here(hole);
    }
}

/// Ends the success edge of an acquiring compare-exchange; where the failure is told as well, that follows.
fn or_failed(em: &mut Emitter, failed: Hole, fails: bool, call: impl FnOnce(&mut Emitter)) {
    if !fails {
        return em.fill_here(failed);
    }
    let done = em.jmp_forward();
    em.fill_here(failed);
    call(em);
    em.fill_here(done);
}

/// Whether the instruction itself may be executed with a lowered `rsp` after its operand is shifted.
fn may_shift(instruction: &Instruction) -> bool {
    !instruction.is_stack_instruction()
}

/// An atomic or unknown operation: release before it, the operation, acquire after it.
///
/// Where `lock` says so, the lock's owner is told as well: on the success edge of an acquiring compare-exchange
/// (ZF is live there), or before an instruction that gives the lock up. Without `orders` that is all. `copy` writes the instruction as it is. Where no register can carry the address across the operation, the
/// address waits on the stack below the red zone and the operation is executed with its operand shifted.
pub(crate) fn synchronising(
    em: &mut Emitter,
    instruction: &Instruction,
    context: &Context,
    packed: PackedSite,
    lock: Option<Operation>,
    orders: bool,
    copy: &mut dyn FnMut(&mut Emitter) -> Result<(), Unchecked>,
) -> Result<(), Unchecked> {
    let class = packed.class();
    let svma = instruction.ip();
    let site = em.site(packed, svma);
    let unknown = matches!(class, Class::UnknownLoad | Class::UnknownStore | Class::UnknownRmw);
    let always = !unknown || packed.flags().has(SiteFlags::RELEASE_ALWAYS);
    let released = match lock {
        Some(lock) if lock.gives_up() || lock == Operation::CountPermits => Some(Entry::LockReleased),
        // With the order of atomics tracked, the runtime sees a possible unlock there.
        Some(Operation::MayUnlock) if !orders => Some(Entry::LockMayRelease),
        Some(lock) if lock.converts() || lock.looks() => {
            call_with_address(em, instruction, context, Entry::LockFailed, site)?;
            None
        }
        _ => None,
    };
    let acquired = lock.is_some_and(Operation::takes) && matches!(instruction.mnemonic(), Mnemonic::Cmpxchg);
    let releases = class.writes() && orders && !lock.is_some_and(Operation::takes);
    // Where a slow path exists, its entry tells.
    let fails = acquired && (lock.is_some_and(Operation::is_try) || type_of(packed.0).spins());
    if let Some(entry) = released.filter(|_| !(releases && always)) {
        call_with_address(em, instruction, context, entry, site)?;
    }
    // A lock that is known publishes nothing by being taken.
    if releases {
        if always || !context.flags_dead_before() {
            call_with_address(em, instruction, context, Entry::AtomicBefore, site)?;
        } else {
            if_sync_object(em, instruction, context, site)?;
        }
    }
    let orders_after = orders && class.reads() && !packed.flags().has(SiteFlags::ORDERS_NOTHING);
    let needs_after = orders_after || acquired;
    let filtered = unknown && context.after & FLAGS == 0;
    // One call for both where both are made.
    let both = acquired && orders_after && !filtered;
    let after = if both { Entry::LockTried } else { Entry::AtomicAfter };
    if !needs_after {
        copy(em)?;
        em.map(svma, 0);
        return Ok(());
    }
    match context.scratch(context.touches | context.after) {
        Some(s) => {
            lea(em, instruction, s, 0)?;
            copy(em)?;
            if orders_after && filtered {
                after_filtered(em, instruction, context, s, site)?;
            } else if orders_after {
                em.map(svma, 0);
                push_and_call(em, svma, s, after, site, 0);
            }
            if acquired && !both {
                let failed = em.jcc_forward(5);
                push_and_call(em, svma, s, Entry::LockAcquired, site, 0);
                or_failed(em, failed, fails, |em| push_and_call(em, svma, s, Entry::LockFailed, site, 0));
            }
        }
        None if may_shift(instruction) => {
            let used = context.touches & 0xffff;
            let s = spill_candidate(instruction, used);
            em.skip_red_zone();
            em.map(svma, 128);
            em.push(s);
            em.map(svma, SPILL_OFFSET);
            lea(em, instruction, s, SPILL_OFFSET)?;
            em.encode(&shifted(instruction, SPILL_OFFSET)).map_err(|_| Unchecked::Encoding)?;
            let next = instruction.next_ip();
            em.map(next, SPILL_OFFSET);
            if orders_after {
                let plain = filtered.then(|| skip_unless_sync_object(em, next, s, SPILL_OFFSET));
                push_arguments_and_call(em, next, s, after, site, SPILL_OFFSET);
                if let Some(plain) = plain {
                    em.fill_here(plain);
                }
            }
            if acquired && !both {
                let failed = em.jcc_forward(5);
                push_arguments_and_call(em, next, s, Entry::LockAcquired, site, SPILL_OFFSET);
                let call =
                    |em: &mut Emitter| push_arguments_and_call(em, next, s, Entry::LockFailed, site, SPILL_OFFSET);
                or_failed(em, failed, fails, call);
            }
            em.pop(s);
            em.map(next, 128);
            em.unskip_red_zone();
        }
        None => return Err(Unchecked::Encoding),
    }
    Ok(())
}

/// A jump or call through memory that may be atomic: nothing stands after it, so it acquires before the load.
pub(crate) fn jump(
    em: &mut Emitter,
    instruction: &Instruction,
    context: &Context,
    packed: PackedSite,
) -> Result<(), Unchecked> {
    let site = em.site(packed, instruction.ip());
    call_with_address(em, instruction, context, Entry::AtomicAfter, site)
}

/// Acquires after a load whose address is in `s`, if its granule has a sync object. Flags are lost.
fn after_filtered(
    em: &mut Emitter,
    instruction: &Instruction,
    context: &Context,
    s: Gpr,
    site: u32,
) -> Result<(), Unchecked> {
    let svma = instruction.ip();
    let operand = bit(instruction.memory_base()) | bit(instruction.memory_index());
    em.map(svma, 0);
    if operand & context.writes == 0 {
        // The operand still names the address, so `s` need not keep it.
        let skip = jump_unless_sync_object(em, s);
        lea(em, instruction, s, 0)?;
        push_and_call(em, svma, s, Entry::AtomicAfter, site, 0);
        em.fill_here(skip);
        return Ok(());
    }
    em.skip_red_zone();
    let skip = skip_unless_sync_object(em, svma, s, 128);
    push_arguments_and_call(em, svma, s, Entry::AtomicAfter, site, 128);
    em.fill_here(skip);
    em.unskip_red_zone();
    em.map(svma, 0);
    Ok(())
}

/// As [`jump_unless_sync_object`], with `s` kept on the stack, `rsp` being lower by `offset` already.
fn skip_unless_sync_object(em: &mut Emitter, svma: u64, s: Gpr, offset: u32) -> Hole {
    em.map(svma, offset);
    em.push(s);
    em.map(svma, offset + 8);
    shadow_of(em, s);
    em.mem_op(0x8b, s, s, 0);
    test_self(em, s);
    em.pop(s);
    em.map(svma, offset);
    em.jcc_forward(9)
}

/// Jumps if the granule of the address in `s` has no sync object; `s` and flags are lost.
fn jump_unless_sync_object(em: &mut Emitter, s: Gpr) -> Hole {
    shadow_of(em, s);
    em.mem_op(0x8b, s, s, 0);
    test_self(em, s);
    em.jcc_forward(9)
}

/// `test s, s`
fn test_self(em: &mut Emitter, s: Gpr) {
    em.raw(&[0x48 | (s.0 >> 3) | (s.0 >> 3) << 2, 0x85, 0xc0 | (s.0 & 7) << 3 | s.0 & 7]);
}

/// Releases before an unknown store, if its granule has a sync object.
fn if_sync_object(em: &mut Emitter, instruction: &Instruction, context: &Context, site: u32) -> Result<(), Unchecked> {
    let Some(s) = context.scratch(0) else {
        return call_with_address(em, instruction, context, Entry::AtomicBefore, site);
    };
    lea(em, instruction, s, 0)?;
    let skip = jump_unless_sync_object(em, s);
    call_with_address(em, instruction, context, Entry::AtomicBefore, site)?;
    em.fill_here(skip);
    Ok(())
}
