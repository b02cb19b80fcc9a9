//! The result of a scan: the interface between `scan` and `plan`, and what `conprof scan` prints.

use crate::elf::Svma;
use crate::wire::site::{Class, Order, SiteFlags};
use std::collections::BTreeMap;

/// How much debuginfo a module has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Debuginfo {
    /// Neither DWARF nor `.symtab`.
    Stripped,
    /// `.symtab` only.
    SymbolsOnly,
    /// Inline frames and lines (`line-tables-only`), no types.
    LineTables,
    /// Everything.
    Full,
}

/// A scanned ELF module.
#[derive(Clone, Debug)]
pub struct ModuleScan {
    /// Bytes of `NT_GNU_BUILD_ID`; a 20-byte hash of the file where it has none.
    pub build_id: Vec<u8>,
    /// Position-independent (load bias chosen at run time).
    pub is_pie: bool,
    /// Debuginfo of the user's own code (not std's).
    pub debuginfo: Debuginfo,
    /// Static address range of executable segments.
    pub text: (Svma, Svma),
    /// Functions, ascending by start, not overlapping.
    pub functions: Vec<Function>,
    /// rustc versions found (`.comment`, std's comp_dir), for the report.
    pub producers: Vec<String>,
    /// Things that limit what can be said, each with its cure; shown first.
    pub degraded: Vec<Degraded>,
    /// Tallies for `conprof scan` and the report.
    pub tally: Tally,
}

/// Something that limits what conprof can say of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// The check concerned: `races`, `locks`, `contention`.
    pub check: String,
    /// What is missing, as a clause.
    pub reason: String,
    /// What the user can do about it, as an imperative sentence or a command.
    pub cure: String,
}

/// Counts over a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Memory accesses by class name (`plain read`, `atomic load`, `unknown`, `stack`, `tls`, `read-only` ...).
    pub accesses_by_class: BTreeMap<String, u64>,
    /// Functions and accesses that stay unchecked, by reason.
    pub skipped_by_reason: BTreeMap<String, u64>,
    /// Atomic accesses with a recovered memory order.
    pub orders_known: u64,
    /// Atomic accesses in all.
    pub atomics: u64,
    /// Instructions decoded.
    pub instructions: u64,
}

/// What is done with a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Copied, its sites checked.
    Instrument,
    /// Copied; its plain accesses are unchecked, its atomics tracked, and entering and leaving it is a
    /// [`Class::Opaque`] synchronisation, because its accesses can't be told apart (C without debuginfo).
    Opaque,
    /// Copied unchecked, and replaced by the shim's hook (statically linked allocators).
    Hooked(crate::wire::entry::Hook),
    /// Not touched, for the reason given (allocator's insides, rseq, `_start`, undecodable ...).
    Native(&'static str),
}

/// A function of a module.
#[derive(Clone, Debug)]
pub struct Function {
    /// First byte.
    pub start: Svma,
    /// One past the last byte.
    pub end: Svma,
    /// Symbol, mangled; empty where there is none.
    pub symbol: String,
    /// What is done with it.
    pub policy: Policy,
    /// Reachable instructions in address order (recursive traversal).
    pub instructions: Vec<iced_x86::Instruction>,
    /// Addresses in this function that may be reached other than by falling through or by a resolved
    /// direct branch of this function: landing pads, jump-table targets, address-taken middles, targets of other
    /// functions' branches. Ascending. Return sites are not in it: `plan` derives them.
    pub outside_targets: Vec<Svma>,
    /// Checked or tracked accesses, ascending by `pc`.
    pub sites: Vec<Site>,
    /// Whether an address into the frame escapes, so that stack accesses are sites as well.
    pub frame_escapes: bool,
    /// Where calls return to whose callee works for what the catalogue takes out of sight, ascending.
    pub quiet_returns: Vec<Svma>,
}

/// An instruction of interest and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The instruction.
    pub pc: Svma,
    /// What it does.
    pub class: Class,
    /// Memory order, for atomics.
    pub order: Order,
    /// More of it.
    pub flags: SiteFlags,
    /// Size of the access in bytes; of one element for string operations; 0 for masked and unknown sizes.
    pub size: u16,
}
