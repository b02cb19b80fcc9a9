//! From a scanned module to the patch plan: bytes in, plan out.
//!
//! ```text
//! ModuleScan + ELF bytes --liveness--> dead registers at each site
//!                        --copy-----> copied functions with checks   (code section, pc map, sites)
//!                        --patches--> jumps from the original text into the copies
//! ```
//!
//! The tactic is the whole-function copy: every instruction of a function is copied once, checks are put
//! before (and for atomic loads after) the instructions that are sites, and every `call` is executed at
//! its ORIGINAL address: the copy jumps to the original call, whose return site in the original text holds
//! a jump back into the copy. Return addresses on the stack are therefore the original ones, and unwinding,
//! backtraces and `longjmp` work from the program's own tables.
//!
//! Invariants: a plan is position-independent relative to its module; a patch never overlaps a call or
//! another point that control may reach from outside; a point that can't be patched runs natively until the
//! next one that can, and what is lost is counted by reason. Direction of error: a plain access may be lost; a
//! synchronising one that is lost raises [`FLAG_SYNC_SITE_LOST`](crate::wire::plan::FLAG_SYNC_SITE_LOST).

mod checks;
mod copy;
mod elision;
mod emit;
mod file;
mod imports;
mod liveness;
mod patches;
#[cfg(test)]
mod tests;
mod unwind;

pub use file::{Plan, PlanTally};

use crate::elf::Svma;
use crate::scan::primitives::{self, Catalogue, LockMarks};
use crate::scan::{ModuleScan, Policy};
use object::{Object, ObjectSegment};

/// Why no plan could be made.
#[derive(Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The bytes are not those the scan was made from.
    Unreadable(String),
    /// The module's code would not fit into the window that generated code has.
    TooLarge {
        /// Bytes of generated code.
        code_bytes: usize,
    },
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlanError::Unreadable(what) => write!(f, "cannot read the module's segments: {what}"),
            PlanError::TooLarge { code_bytes } => {
                write!(
                    f,
                    "the generated code takes {code_bytes} bytes, more than the {WINDOW_BYTES} that fit beside the module"
                )
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// Reasons for leaving a function native although it synchronises: what it orders matters only to itself.
const INDEPENDENT: [&str; 2] = ["allocator", "std's own bookkeeping"];

/// Bytes between the start of generated code and a position-independent module's base.
const WINDOW_BYTES: usize = 0x2000_0000;

/// Distance of generated code above the base of a module that is not position-independent.
const FIXED_DELTA: i64 = 0x4000_0000;

/// The module's loadable bytes, by static address.
pub(crate) struct Text<'a> {
    segments: Vec<(u64, &'a [u8])>,
}

impl<'a> Text<'a> {
    fn new(data: &'a [u8]) -> Result<Text<'a>, PlanError> {
        let file = object::File::parse(data).map_err(|error| PlanError::Unreadable(error.to_string()))?;
        let segments = file.segments().filter_map(|s| s.data().ok().map(|bytes| (s.address(), bytes))).collect();
        Ok(Text { segments })
    }

    /// `len` bytes at `svma`, or none where they are not all in one segment.
    pub(crate) fn bytes(&self, svma: u64, len: usize) -> Option<&'a [u8]> {
        self.segments.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(svma.checked_sub(*start)?).ok()?;
            bytes.get(offset..offset.checked_add(len)?)
        })
    }
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tactic {
    /// Every function with every check.
    #[default]
    Races,
    /// Only functions that are or contain lock operations, and of these only the lock operations: no shadow, and the rest of the
    /// program runs untouched.
    Locks,
}

/// Plans the race tactic for a module: every function that its policy lets be copied, with every check.
///
/// `data` are the ELF file's bytes that `scan` was made from. `progress` gets (functions done, functions).
pub fn plan_module(scan: &ModuleScan, data: &[u8], progress: &dyn Fn(u64, u64)) -> Result<Plan, PlanError> {
    let marks = primitives::mark(scan, data, &Catalogue::built_in());
    plan_module_for(scan, data, Tactic::Races, &marks, progress)
}

/// Plans a tactic for a module, with its lock operations as found by [`primitives::mark`].
pub fn plan_module_for(
    scan: &ModuleScan,
    data: &[u8],
    tactic: Tactic,
    marks: &LockMarks,
    progress: &dyn Fn(u64, u64),
) -> Result<Plan, PlanError> {
    let text = Text::new(data)?;
    let imports = imports::foreign_imports(data);
    let code_delta = if scan.is_pie { -(WINDOW_BYTES as i64) } else { FIXED_DELTA };
    let mut emitter = emit::Emitter::new(code_delta);
    let mut tally = PlanTally::default();
    let mut copies = Vec::new();
    let total = scan.functions.len() as u64;
    for (index, function) in scan.functions.iter().enumerate() {
        if index % 256 == 0 {
            progress(index as u64, total);
        }
        match &function.policy {
            Policy::Native(reason) => {
                *tally.skipped_by_reason.entry(format!("function native: {reason}")).or_default() +=
                    function.sites.len() as u64;
                if !INDEPENDENT.contains(reason) {
                    tally.sync_sites_lost +=
                        function.sites.iter().filter(|s| file::synchronises(s.class)).count() as u64;
                }
                continue;
            }
            _ if function.instructions.is_empty() => continue,
            _ if tactic == Tactic::Locks && !marks.concern(function) => continue,
            Policy::Instrument if !copy::needs_copy(function) => continue,
            _ => {}
        }
        copies.push(copy::copy_function(function, &text, &imports, tactic, marks, &mut emitter, &mut tally));
    }
    progress(total, total);
    let entries = copies.iter().filter_map(|c| Some((c.start.0, c.entry?))).collect();
    emitter.resolve(&entries);
    let patches = patches::plan_patches(scan, &copies, &text, &emitter, &mut tally);
    if emitter.len() + 0x10000 > WINDOW_BYTES {
        return Err(PlanError::TooLarge { code_bytes: emitter.len() });
    }
    let text = (scan.text.0.0, scan.text.1.0);
    let unwind = if tactic == Tactic::Locks { unwind::rows(data, text) } else { Vec::new() };
    Ok(file::Plan::new(scan, code_delta, emitter, patches, unwind, tally))
}

/// A function's copy, as far as patching needs to know.
pub(crate) struct FunctionCopy {
    /// First byte of the original.
    pub start: Svma,
    /// Offset in the code section that the original's entry jumps to.
    pub entry: Option<u32>,
    /// (original address, offset in the code section) of every instruction, ascending.
    pub labels: Vec<(u64, u32)>,
}

impl FunctionCopy {
    /// Offset in the code section of the copy of the instruction at `svma`.
    pub(crate) fn label(&self, svma: u64) -> Option<u32> {
        self.labels.binary_search_by_key(&svma, |l| l.0).ok().map(|i| self.labels[i].1)
    }
}
