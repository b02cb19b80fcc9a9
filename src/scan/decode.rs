//! Decodes a function by recursive traversal: every instruction that can be reached from its entries.
//!
//! Roots are the entry, landing pads, targets of resolved jump tables and whatever else the caller knows to be entered.
//! A call is taken to return, unless what follows it does not decode. The direction of error: unreachable code
//! behind a call that never returns may be decoded; reachable code is never missed in a function without `problem`.

use super::functions::Bounds;
use super::jumptable;
use crate::elf::Image;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};

/// A decoded function.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Reachable instructions, ascending.
    pub instructions: Vec<Instruction>,
    /// Targets of this function's own jump tables, inside and outside of it; ascending.
    pub table_targets: Vec<u64>,
    /// Addresses outside the function that its direct branches and calls go to.
    pub branches_out: Vec<u64>,
    /// Addresses of code that it computes (`lea rip`, and immediates in non-PIE programs).
    pub code_addresses: Vec<u64>,
    /// Why the function can't be copied.
    pub problem: Option<&'static str>,
}

impl Body {
    /// Index of the instruction at `address`.
    pub fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |instruction| instruction.ip()).ok()
    }
}

/// Marks in [`Traversal::marks`].
const UNKNOWN: u8 = 0;
const FIRST_BYTE: u8 = 1;
const INNER_BYTE: u8 = 2;

struct Traversal<'a, 'b> {
    decoder: Decoder<'a>,
    marks: Vec<u8>,
    bounds: &'b Bounds<'a>,
    body: Body,
    indirect: bool,
}

/// Decodes a function, one of `functions`, from its entry and `roots`, which lie inside it.
pub(super) fn decode<'a>(image: &Image<'a>, functions: &[Bounds<'a>], bounds: &Bounds<'a>, roots: &[u64]) -> Body {
    let Some(bytes) = image.range(bounds.start, bounds.end) else {
        return Body { problem: Some("no code in the file"), ..Body::default() };
    };
    let decoder = Decoder::with_ip(64, bytes, bounds.start, DecoderOptions::NONE);
    let marks = vec![UNKNOWN; bytes.len()];
    let mut traversal = Traversal { decoder, marks, bounds, body: Body::default(), indirect: false };
    traversal.body.instructions.reserve(bytes.len() / 4);
    traversal.follow(bounds.start);
    for &root in roots {
        traversal.follow(root);
    }
    // Each round may reach code with further indirect jumps, or further definitions of a table's base.
    let mut edges = Vec::new();
    for round in 0.. {
        traversal.body.instructions.sort_unstable_by_key(|instruction| instruction.ip());
        if !traversal.indirect || traversal.body.problem.is_some() {
            break;
        }
        let tables = jumptable::resolve(image, functions, bounds, &traversal.body.instructions, roots, &edges);
        let before = traversal.body.instructions.len();
        for &(_, target) in &tables.edges {
            if bounds.contains(target) {
                traversal.follow(target);
            }
        }
        let settled = traversal.body.instructions.len() == before && tables.edges == edges;
        edges = tables.edges;
        if settled {
            if tables.unresolved {
                traversal.body.problem = Some("unresolved jump table");
            }
            break;
        }
        if round == 16 {
            traversal.body.problem = Some("unresolved jump table");
            break;
        }
    }
    let mut body = traversal.body;
    body.table_targets = edges.into_iter().map(|(_, target)| target).collect();
    body.table_targets.sort_unstable();
    body.table_targets.dedup();
    body.branches_out.sort_unstable();
    body.branches_out.dedup();
    body.collect_code_addresses(image);
    body
}

impl Traversal<'_, '_> {
    fn follow(&mut self, root: u64) {
        let mut work = vec![root];
        while let Some(address) = work.pop() {
            self.run(address, &mut work);
        }
    }

    /// Decodes straight on from `address`; pushes branch targets.
    fn run(&mut self, address: u64, work: &mut Vec<u64>) {
        let Some(offset) = address.checked_sub(self.bounds.start).map(|offset| offset as usize) else { return };
        match self.marks.get(offset) {
            Some(&UNKNOWN) => {}
            Some(&FIRST_BYTE) => return,
            Some(_) => {
                self.body.problem = Some("overlapping instructions");
                return;
            }
            None => return,
        }
        if self.decoder.set_position(offset).is_err() {
            return;
        }
        self.decoder.set_ip(address);
        let mut after_call = false;
        loop {
            let position = self.decoder.position();
            if !self.decoder.can_decode() {
                // Falling off the end is what code behind a call that never returns looks like.
                if !after_call {
                    self.body.problem = Some("runs past its end");
                }
                return;
            }
            match self.marks[position] {
                FIRST_BYTE => return,
                INNER_BYTE => {
                    self.body.problem = Some("overlapping instructions");
                    return;
                }
                _ => {}
            }
            let instruction = self.decoder.decode();
            let end = position + instruction.len();
            if instruction.is_invalid() {
                if !after_call {
                    self.body.problem = Some("undecodable");
                }
                return;
            }
            if self.marks[position..end].iter().any(|&mark| mark != UNKNOWN) {
                self.body.problem = Some("overlapping instructions");
                return;
            }
            self.marks[position..end].fill(INNER_BYTE);
            self.marks[position] = FIRST_BYTE;
            self.body.instructions.push(instruction);
            after_call = false;
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Interrupt => {}
                FlowControl::IndirectCall => after_call = true,
                FlowControl::Call => {
                    after_call = true;
                    self.branch(instruction.near_branch_target(), work);
                }
                FlowControl::ConditionalBranch => self.branch(instruction.near_branch_target(), work),
                FlowControl::UnconditionalBranch => {
                    if instruction.is_jmp_far() {
                        self.body.problem = Some("far jump");
                    } else {
                        self.branch(instruction.near_branch_target(), work);
                    }
                    return;
                }
                FlowControl::IndirectBranch => {
                    self.indirect = true;
                    return;
                }
                FlowControl::Return | FlowControl::Exception => return,
                FlowControl::XbeginXabortXend => {
                    self.body.problem = Some("transactional memory");
                    return;
                }
            }
        }
    }

    fn branch(&mut self, target: u64, work: &mut Vec<u64>) {
        if target >= self.bounds.start && target < self.bounds.end {
            work.push(target);
        } else {
            self.body.branches_out.push(target);
        }
    }
}

impl Body {
    fn collect_code_addresses(&mut self, image: &Image<'_>) {
        for instruction in &self.instructions {
            if instruction.is_ip_rel_memory_operand() && instruction.code() == Code::Lea_r64_m {
                let address = instruction.ip_rel_memory_address();
                if image.is_executable(address) {
                    self.code_addresses.push(address);
                }
            } else if !image.is_pie {
                let immediate = match instruction.op_kind(instruction.op_count().saturating_sub(1)) {
                    OpKind::Immediate32 => u64::from(instruction.immediate32()),
                    OpKind::Immediate32to64 => instruction.immediate32to64() as u64,
                    OpKind::Immediate64 => instruction.immediate64(),
                    OpKind::Memory if instruction.memory_base() == Register::None => {
                        instruction.memory_displacement64()
                    }
                    _ => continue,
                };
                if image.is_executable(immediate) {
                    self.code_addresses.push(immediate);
                }
            }
        }
        self.code_addresses.sort_unstable();
        self.code_addresses.dedup();
    }
}

/// Whether `address` is where an instruction begins when the function is decoded from its start straight on.
pub(super) struct LinearBoundaries {
    start: u64,
    first_byte: Vec<bool>,
}

impl LinearBoundaries {
    /// Sweeps the whole function; undecodable bytes are stepped over one by one.
    pub fn of(image: &Image<'_>, bounds: &Bounds<'_>) -> LinearBoundaries {
        let bytes = image.range(bounds.start, bounds.end).unwrap_or(&[]);
        let mut first_byte = vec![false; bytes.len()];
        let mut decoder = Decoder::with_ip(64, bytes, bounds.start, DecoderOptions::NONE);
        while decoder.can_decode() {
            let position = decoder.position();
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                if decoder.set_position(position + 1).is_err() {
                    break;
                }
            } else {
                first_byte[position] = true;
            }
        }
        LinearBoundaries { start: bounds.start, first_byte }
    }

    /// Whether an instruction begins there.
    pub fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.start)
            .and_then(|offset| self.first_byte.get(usize::try_from(offset).ok()?))
            .copied()
            .unwrap_or(false)
    }
}
