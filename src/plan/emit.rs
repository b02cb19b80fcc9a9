//! The writer of generated code: raw encodings of the few instructions that checks are made of, and
//! relocation of copied ones.
//!
//! Addresses are static ones shifted by [`ORIGIN`], so that a code section below the module's base has no
//! negative address.

use crate::wire::entry::Entry;
use crate::wire::plan::PcMapRow;
use crate::wire::site::PackedSite;
use iced_x86::{Encoder, Instruction};
use std::collections::HashMap;

/// Added to every static address while encoding.
pub(crate) const ORIGIN: u64 = 1 << 40;

/// A general register by its hardware number, 0 (`rax`) to 15 (`r15`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gpr(pub u8);

impl Gpr {
    fn low(self) -> u8 {
        self.0 & 7
    }

    fn high(self) -> u8 {
        self.0 >> 3
    }

    pub(crate) fn iced(self) -> iced_x86::Register {
        use iced_x86::Register::*;
        [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15][usize::from(self.0 & 15)]
    }
}

/// Where a 32-bit displacement goes that is not known yet.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Entry of a function, or any other original address: the copy's entry where there is one.
    Original(u64),
    /// Slot of the slot table, which follows the code section.
    Slot(u8),
}

/// An open forward reference within one function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hole(usize);

/// Generated code under construction.
pub(crate) struct Emitter {
    bytes: Vec<u8>,
    base: u64,
    encoder: Encoder,
    fixups: Vec<(usize, Target)>,
    pub(crate) pc_map: Vec<(u32, u64, u32)>,
    pub(crate) sites: Vec<(PackedSite, u64)>,
}

impl Emitter {
    pub(crate) fn new(code_delta: i64) -> Emitter {
        Emitter {
            bytes: Vec::new(),
            base: ORIGIN.wrapping_add_signed(code_delta),
            encoder: Encoder::new(64),
            fixups: Vec::new(),
            pc_map: Vec::new(),
            sites: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of the next byte.
    pub(crate) fn here(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The code, padded to whole pages.
    pub(crate) fn code_padded(&self) -> Vec<u8> {
        let mut code = self.bytes.clone();
        code.resize(code.len().next_multiple_of(4096).max(4096), 0xcc);
        code
    }

    /// Address of an offset in the code section, shifted by [`ORIGIN`].
    pub(crate) fn address(&self, offset: u32) -> u64 {
        self.base + u64::from(offset)
    }

    pub(crate) fn align(&mut self, to: usize) {
        while !self.bytes.len().is_multiple_of(to) {
            self.bytes.push(0xcc);
        }
    }

    /// From here on, generated code stands for the instruction at `svma`, with `rsp` lower by `rsp_offset`.
    pub(crate) fn map(&mut self, svma: u64, rsp_offset: u32) {
        let here = self.here();
        if let Some(last) = self.pc_map.last_mut().filter(|last| last.0 == here) {
            *last = (here, svma, rsp_offset);
        } else {
            self.pc_map.push((here, svma, rsp_offset));
        }
    }

    /// Adds a row to the site table.
    pub(crate) fn site(&mut self, site: PackedSite, svma: u64) -> u32 {
        self.sites.push((site, svma));
        (self.sites.len() - 1) as u32
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Encodes `instruction`, whose addresses are shifted by [`ORIGIN`], at the current place.
    pub(crate) fn encode(&mut self, instruction: &Instruction) -> Result<(), iced_x86::IcedError> {
        self.encoder.encode(instruction, self.base + self.bytes.len() as u64)?;
        let encoded = self.encoder.take_buffer();
        self.bytes.extend_from_slice(&encoded);
        self.encoder.set_buffer({
            let mut buffer = encoded;
            buffer.clear();
            buffer
        });
        Ok(())
    }

    /// `lea rsp, [rsp-128]`
    pub(crate) fn skip_red_zone(&mut self) {
        self.raw(&[0x48, 0x8d, 0x64, 0x24, 0x80]);
    }

    /// `lea rsp, [rsp+128]`
    pub(crate) fn unskip_red_zone(&mut self) {
        self.raw(&[0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0]);
    }

    pub(crate) fn push(&mut self, r: Gpr) {
        if r.high() == 1 {
            self.raw(&[0x41]);
        }
        self.raw(&[0x50 + r.low()]);
    }

    pub(crate) fn pop(&mut self, r: Gpr) {
        if r.high() == 1 {
            self.raw(&[0x41]);
        }
        self.raw(&[0x58 + r.low()]);
    }

    pub(crate) fn push_imm32(&mut self, value: u32) {
        self.raw(&[0x68]);
        self.raw(&value.to_le_bytes());
    }

    /// `call [rip+slot]`
    pub(crate) fn call_entry(&mut self, entry: Entry) {
        self.raw(&[0xff, 0x15]);
        self.fixup(Target::Slot(entry as u8));
    }

    /// `jmp [rip+slot]`
    pub(crate) fn jump_slot(&mut self, slot: u8) {
        self.raw(&[0xff, 0x25]);
        self.fixup(Target::Slot(slot));
    }

    /// `op r, gs:[offset]` for the opcodes `and` 0x23, `add` 0x03, `xor` 0x33, `mov` 0x8b, `cmp` 0x3b.
    pub(crate) fn gs_op(&mut self, opcode: u8, r: Gpr, offset: i32) {
        self.raw(&[0x65, 0x48 | r.high() << 2, opcode, r.low() << 3 | 4, 0x25]);
        self.raw(&offset.to_le_bytes());
    }

    /// `op r, [base+disp8]` for the same opcodes.
    pub(crate) fn mem_op(&mut self, opcode: u8, r: Gpr, base: Gpr, disp: i8) {
        self.raw(&[0x48 | r.high() << 2 | base.high(), opcode, 0x40 | r.low() << 3 | base.low()]);
        if base.low() == 4 {
            self.raw(&[0x24]);
        }
        self.raw(&[disp as u8]);
    }

    /// `shl r, by`
    pub(crate) fn shl(&mut self, r: Gpr, by: u8) {
        self.raw(&[0x48 | r.high(), 0xc1, 0xe0 | r.low(), by]);
    }

    /// `test r, imm32` (sign-extended)
    pub(crate) fn test_imm(&mut self, r: Gpr, value: i32) {
        self.raw(&[0x48 | r.high(), 0xf7, 0xc0 | r.low()]);
        self.raw(&value.to_le_bytes());
    }

    /// `jcc rel32` forward; condition by its hardware number (4 equal, 5 not equal).
    pub(crate) fn jcc_forward(&mut self, condition: u8) -> Hole {
        self.raw(&[0x0f, 0x80 | condition]);
        self.hole()
    }

    /// `jmp rel32` forward.
    pub(crate) fn jmp_forward(&mut self) -> Hole {
        self.raw(&[0xe9]);
        self.hole()
    }

    fn hole(&mut self) -> Hole {
        let at = self.bytes.len();
        self.raw(&[0; 4]);
        Hole(at)
    }

    /// Lets a forward reference point to `offset`.
    pub(crate) fn fill(&mut self, hole: Hole, offset: u32) {
        let displacement = i64::from(offset) - (hole.0 as i64 + 4);
        self.bytes[hole.0..hole.0 + 4].copy_from_slice(&(displacement as i32).to_le_bytes());
    }

    /// Lets a forward reference point to the next byte.
    pub(crate) fn fill_here(&mut self, hole: Hole) {
        let here = self.here();
        self.fill(hole, here);
    }

    /// `jmp rel32` to an offset already written.
    pub(crate) fn jmp_to(&mut self, offset: u32) {
        let hole = self.jmp_forward();
        self.fill(hole, offset);
    }

    /// `jcc rel32` to an offset already written.
    pub(crate) fn jcc_to(&mut self, condition: u8, offset: u32) {
        let hole = self.jcc_forward(condition);
        self.fill(hole, offset);
    }

    /// `jmp rel32` to an original address; to the entry of its copy where it has one and `through_copy`.
    pub(crate) fn jmp_original(&mut self, svma: u64, through_copy: bool) {
        self.raw(&[0xe9]);
        self.original(svma, through_copy);
    }

    /// `jcc rel32` to an original address, or its copy's entry.
    pub(crate) fn jcc_original(&mut self, condition: u8, svma: u64) {
        self.raw(&[0x0f, 0x80 | condition]);
        self.original(svma, true);
    }

    fn original(&mut self, svma: u64, through_copy: bool) {
        if through_copy {
            self.fixup(Target::Original(svma));
        } else {
            let next = self.base + self.bytes.len() as u64 + 4;
            self.raw(&(ORIGIN.wrapping_add(svma).wrapping_sub(next) as i32).to_le_bytes());
        }
    }

    fn fixup(&mut self, target: Target) {
        self.fixups.push((self.bytes.len(), target));
        self.raw(&[0; 4]);
    }

    /// Fills the displacements that had to wait for the whole code section: `entries` maps a function's
    /// original address to its copy's entry.
    pub(crate) fn resolve(&mut self, entries: &HashMap<u64, u32>) {
        let slots = self.base + (self.bytes.len().next_multiple_of(4096).max(4096)) as u64;
        for (at, target) in std::mem::take(&mut self.fixups) {
            let next = self.base + at as u64 + 4;
            let to = match target {
                Target::Slot(slot) => slots + 8 * u64::from(slot),
                Target::Original(svma) => match entries.get(&svma) {
                    Some(offset) => self.base + u64::from(*offset),
                    None => ORIGIN.wrapping_add(svma),
                },
            };
            self.bytes[at..at + 4].copy_from_slice(&(to.wrapping_sub(next) as i32).to_le_bytes());
        }
    }

    /// Rows of the pc map, relative to `text_start`.
    pub(crate) fn pc_map_rows(&self, text_start: u64) -> Vec<PcMapRow> {
        self.pc_map
            .iter()
            .map(|&(code_offset, svma, rsp_offset)| PcMapRow {
                code_offset,
                original: svma.wrapping_sub(text_start) as u32,
                rsp_offset,
            })
            .collect()
    }
}
