//! Reads one compilation unit: its functions and inlined calls, its line rows, and what kind of unit it is.

use super::{Slice, SourceFile};
use crate::elf::Image;
use gimli::{AttributeValue, DebugInfoOffset, Dwarf, EntriesRaw, Unit, UnitHeader, constants as dw};

/// Source language, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Language {
    /// Rust.
    Rust,
    /// C, C++ or anything else that compiles to machine code.
    #[default]
    Other,
    /// Assembly: no types, no functions.
    Assembly,
}

/// What kind of unit it is.
#[derive(Clone, Debug, Default)]
pub struct UnitKind<'s> {
    /// Language.
    pub language: Language,
    /// `DW_AT_producer`.
    pub producer: &'s [u8],
    /// `DW_AT_comp_dir`.
    pub directory: &'s [u8],
    /// `DW_AT_name`.
    pub name: &'s [u8],
    /// Describes types, so it was compiled with full debuginfo.
    pub has_types: bool,
    /// Has an atomic or volatile type, so plain-looking accesses may be meant to synchronise.
    pub has_atomic_types: bool,
    /// Has functions with code.
    pub has_code: bool,
}

impl UnitKind<'_> {
    /// Part of the Rust toolchain's own libraries, or of the crates that std is built from (`/rust/deps/memchr-2.7.6`).
    pub fn is_toolchain(&self) -> bool {
        [&b"/rustc/"[..], b"/rust/deps/"]
            .iter()
            .any(|root| self.directory.starts_with(root) || self.name.starts_with(root))
    }

    /// First nine digits of the commit in a rustc producer (`rustc version 1.95.0 (59807616e 2026-04-14)`).
    pub fn rustc_commit(&self) -> Option<&str> {
        rustc_commit(std::str::from_utf8(self.producer).ok()?)
    }
}

/// First nine digits of the commit in a string such as `rustc version 1.95.0 (59807616e 2026-04-14)`.
pub fn rustc_commit(text: &str) -> Option<&str> {
    let rest = text.split_once("rustc version ")?.1.split_once('(')?.1;
    rest.get(..9).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A function's names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Name<'s> {
    pub name: &'s [u8],
    pub linkage: &'s [u8],
    pub owner: &'s [u8],
}

/// A function or an inlined call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'s> {
    pub parent: Option<u32>,
    pub name: Name<'s>,
    pub call_file: u32,
    pub call_line: u32,
    pub inlined: bool,
    /// Entry in `.debug_info` that has the name.
    origin: usize,
}

#[derive(Clone, Copy, Debug)]
struct Subprogram<'s> {
    offset: usize,
    name: Name<'s>,
    origin: Option<usize>,
}

/// A line row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub address: u64,
    pub file: u32,
    pub line: u32,
}

/// What a unit says.
#[derive(Debug, Default)]
pub struct UnitTables<'s> {
    /// What kind of unit it is.
    pub kind: UnitKind<'s>,
    pub(super) frames: Vec<Frame<'s>>,
    /// (start, end, innermost frame), ascending, not overlapping.
    pub(super) segments: Vec<(u64, u64, u32)>,
    pub(super) rows: Vec<Row>,
    /// (start, end, first row, one past the last row).
    pub(super) sequences: Vec<(u64, u64, u32, u32)>,
    files: Vec<SourceFile<'s>>,
    subprograms: Vec<Subprogram<'s>>,
    end_offset: usize,
}

/// Reads a unit; what is damaged is left out.
pub(super) fn parse<'s>(image: &Image<'_>, dwarf: &Dwarf<Slice<'s>>, header: UnitHeader<Slice<'s>>) -> UnitTables<'s> {
    let mut tables = UnitTables::default();
    if let Some(start) = header.debug_info_offset() {
        tables.end_offset = start.0.saturating_add(header.length_including_self());
    }
    let Ok(unit) = dwarf.unit(header) else { return tables };
    let mut walk = Walk { image, dwarf, unit: &unit, tables: &mut tables, ranges: Vec::new() };
    let _ = walk.entries();
    let ranges = walk.ranges;
    tables.segments = flatten(ranges);
    let _ = read_lines(image, dwarf, &unit, &mut tables);
    tables
}

struct Walk<'w, 's> {
    image: &'w Image<'w>,
    dwarf: &'w Dwarf<Slice<'s>>,
    unit: &'w Unit<Slice<'s>>,
    tables: &'w mut UnitTables<'s>,
    /// (start, end, depth, frame)
    ranges: Vec<(u64, u64, u32, u32)>,
}

impl<'s> Walk<'_, 's> {
    fn entries(&mut self) -> gimli::Result<()> {
        let mut entries = self.unit.entries_raw(None)?;
        let mut scopes: Vec<(isize, u32)> = Vec::new();
        let mut owners: Vec<(isize, &'s [u8])> = Vec::new();
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let offset = entries.next_offset();
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            while scopes.last().is_some_and(|&(at, _)| at >= depth) {
                scopes.pop();
            }
            while owners.last().is_some_and(|&(at, _)| at >= depth) {
                owners.pop();
            }
            let attributes = abbreviation.attributes();
            match abbreviation.tag() {
                dw::DW_TAG_compile_unit | dw::DW_TAG_partial_unit => self.unit_entry(&mut entries, attributes)?,
                dw::DW_TAG_subprogram | dw::DW_TAG_inlined_subroutine => {
                    let offset = offset.to_debug_info_offset(&self.unit.header).map_or(usize::MAX, |offset| offset.0);
                    let parent = scopes.last().map(|&(_, frame)| frame);
                    let owner = owners.last().map_or(&[][..], |&(_, name)| name);
                    let inlined = abbreviation.tag() == dw::DW_TAG_inlined_subroutine;
                    let frame = self.function(&mut entries, attributes, offset, parent, owner, depth, inlined)?;
                    if let Some(frame) = frame {
                        scopes.push((depth, frame));
                    }
                }
                tag @ (dw::DW_TAG_structure_type | dw::DW_TAG_class_type) => {
                    self.tables.kind.has_types |= tag == dw::DW_TAG_structure_type || tag == dw::DW_TAG_class_type;
                    if self.tables.kind.language == Language::Rust {
                        entries.skip_attributes(attributes)?;
                    } else {
                        let mut name: &'s [u8] = &[];
                        for &spec in attributes {
                            let attribute = entries.read_attribute(spec)?;
                            if attribute.name() == dw::DW_AT_name {
                                name = self.string(attribute.value());
                            }
                        }
                        owners.push((depth, name));
                    }
                }
                tag => {
                    match tag {
                        dw::DW_TAG_base_type | dw::DW_TAG_pointer_type => self.tables.kind.has_types = true,
                        dw::DW_TAG_atomic_type | dw::DW_TAG_volatile_type => self.tables.kind.has_atomic_types = true,
                        _ => {}
                    }
                    entries.skip_attributes(attributes)?;
                }
            }
        }
        Ok(())
    }

    fn string(&self, value: AttributeValue<Slice<'s>>) -> &'s [u8] {
        self.dwarf.attr_string(self.unit, value).map_or(&[], |string| string.slice())
    }

    fn unit_entry(
        &mut self,
        entries: &mut EntriesRaw<'_, Slice<'s>>,
        attributes: &[gimli::AttributeSpecification],
    ) -> gimli::Result<()> {
        for &spec in attributes {
            let attribute = entries.read_attribute(spec)?;
            let value = attribute.value();
            let kind = &mut self.tables.kind;
            match (attribute.name(), value) {
                (dw::DW_AT_language, AttributeValue::Language(language)) => {
                    kind.language = match language {
                        dw::DW_LANG_Rust => Language::Rust,
                        dw::DW_LANG_Mips_Assembler => Language::Assembly,
                        _ => Language::Other,
                    }
                }
                (dw::DW_AT_producer, value) => self.tables.kind.producer = self.string(value),
                (dw::DW_AT_comp_dir, value) => self.tables.kind.directory = self.string(value),
                (dw::DW_AT_name, value) => self.tables.kind.name = self.string(value),
                _ => {}
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn function(
        &mut self,
        entries: &mut EntriesRaw<'_, Slice<'s>>,
        attributes: &[gimli::AttributeSpecification],
        offset: usize,
        parent: Option<u32>,
        owner: &'s [u8],
        depth: isize,
        inlined: bool,
    ) -> gimli::Result<Option<u32>> {
        let mut name = Name { owner, ..Name::default() };
        let mut origin = None;
        let (mut low, mut high, mut size, mut ranges) = (None, None, None, None);
        let (mut call_file, mut call_line) = (u32::MAX, 0);
        for &spec in attributes {
            let attribute = entries.read_attribute(spec)?;
            let value = attribute.value();
            match attribute.name() {
                dw::DW_AT_name => name.name = self.string(value),
                dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => name.linkage = self.string(value),
                dw::DW_AT_abstract_origin | dw::DW_AT_specification => {
                    origin = match value {
                        AttributeValue::UnitRef(at) => {
                            at.to_debug_info_offset(&self.unit.header).map(|DebugInfoOffset(at)| at)
                        }
                        AttributeValue::DebugInfoRef(DebugInfoOffset(at)) => Some(at),
                        _ => None,
                    }
                }
                dw::DW_AT_low_pc => low = self.dwarf.attr_address(self.unit, value)?,
                dw::DW_AT_high_pc => match value {
                    AttributeValue::Udata(value) => size = Some(value),
                    value => {
                        high = self.dwarf.attr_address(self.unit, value)?;
                        if high.is_none() {
                            size = attribute.udata_value();
                        }
                    }
                },
                dw::DW_AT_ranges => ranges = self.dwarf.attr_ranges_offset(self.unit, value)?,
                dw::DW_AT_call_file => match value {
                    AttributeValue::FileIndex(file) => call_file = u32::try_from(file).unwrap_or(u32::MAX),
                    _ => call_file = attribute.udata_value().and_then(|f| u32::try_from(f).ok()).unwrap_or(u32::MAX),
                },
                dw::DW_AT_call_line => {
                    call_line = attribute.udata_value().and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
                }
                _ => {}
            }
        }
        if !inlined {
            self.tables.subprograms.push(Subprogram { offset, name, origin });
        }
        let before = self.ranges.len();
        let frame = u32::try_from(self.tables.frames.len()).unwrap_or(u32::MAX);
        let depth = u32::try_from(depth).unwrap_or(0);
        if let Some(offset) = ranges {
            let mut iter = self.dwarf.ranges(self.unit, offset)?;
            while let Some(range) = iter.next()? {
                self.range(range.begin, range.end, depth, frame);
            }
        } else if let Some(low) = low {
            let end = high.or_else(|| size.and_then(|size| low.checked_add(size)));
            self.range(low, end.unwrap_or(low), depth, frame);
        }
        if self.ranges.len() == before {
            return Ok(None);
        }
        self.tables.kind.has_code = true;
        let origin = if inlined { origin.unwrap_or(usize::MAX) } else { offset };
        self.tables.frames.push(Frame { parent, name: Name::default(), call_file, call_line, inlined, origin });
        Ok(Some(frame))
    }

    fn range(&mut self, start: u64, end: u64, depth: u32, frame: u32) {
        if start < end && self.image.is_executable(start) {
            self.ranges.push((start, end, depth, frame));
        }
    }
}

/// Turns nested ranges into a list in which each address has its innermost frame.
fn flatten(mut ranges: Vec<(u64, u64, u32, u32)>) -> Vec<(u64, u64, u32)> {
    ranges.sort_unstable_by_key(|&(start, end, depth, _)| (start, depth, std::cmp::Reverse(end)));
    let mut segments: Vec<(u64, u64, u32)> = Vec::with_capacity(ranges.len() * 2);
    let mut open: Vec<(u64, u32)> = Vec::new();
    let mut position = 0u64;
    let mut emit = |from: u64, to: u64, frame: u32| {
        if from < to {
            segments.push((from, to, frame));
        }
    };
    for (start, end, _, frame) in ranges {
        while let Some(&(until, inner)) = open.last().filter(|&&(until, _)| until <= start) {
            emit(position, until, inner);
            position = position.max(until);
            open.pop();
        }
        if let Some(&(_, inner)) = open.last() {
            emit(position, start, inner);
        }
        position = position.max(start);
        open.push((end, frame));
    }
    while let Some((until, inner)) = open.pop() {
        emit(position, until, inner);
        position = position.max(until);
    }
    segments
}

fn read_lines<'s>(
    image: &Image<'_>,
    dwarf: &Dwarf<Slice<'s>>,
    unit: &Unit<Slice<'s>>,
    tables: &mut UnitTables<'s>,
) -> gimli::Result<()> {
    let Some(program) = unit.line_program.clone() else { return Ok(()) };
    let string = |value| dwarf.attr_string(unit, value).map_or(&[][..], |string: Slice<'s>| string.slice());
    let header = program.header();
    let first = u64::from(header.version() < 5);
    let count = header.file_names().len() as u64 + first;
    for at in 0..count {
        let file = header.file(at).map(|file| SourceFile {
            directory: file.directory(header).map_or(&[], string),
            name: string(file.path_name()),
        });
        tables.files.push(file.unwrap_or_default());
    }
    let mut rows = program.rows();
    let mut first = tables.rows.len();
    while let Some((_, row)) = rows.next_row()? {
        let address = row.address();
        if row.end_sequence() {
            let start = tables.rows.get(first).map(|row| row.address);
            match start {
                Some(start) if start < address && image.is_executable(start) => {
                    tables.sequences.push((start, address, first as u32, tables.rows.len() as u32));
                }
                _ => tables.rows.truncate(first),
            }
            first = tables.rows.len();
            continue;
        }
        let row = Row {
            address,
            file: u32::try_from(row.file_index()).unwrap_or(u32::MAX),
            line: row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0)),
        };
        // The last row of an address holds; a row that repeats the one before adds nothing.
        match tables.rows[first..].last_mut() {
            Some(last) if last.address >= address => *last = Row { address: last.address, ..row },
            Some(last) if last.file == row.file && last.line == row.line => {}
            _ => tables.rows.push(row),
        }
    }
    tables.rows.truncate(first);
    Ok(())
}

impl<'s> UnitTables<'s> {
    /// Files of the line table.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile<'s>> {
        self.files.iter()
    }

    /// A file by its index in line rows and call sites.
    pub(super) fn file(&self, index: u32) -> SourceFile<'s> {
        self.files.get(index as usize).copied().unwrap_or_default()
    }

    /// The names of this unit's frames, which may stand in other units.
    pub(super) fn resolve_names(&self, units: &[UnitTables<'s>]) -> Vec<Name<'s>> {
        self.frames.iter().map(|frame| self.resolve(units, frame.origin)).collect()
    }

    /// Takes what [`resolve_names`](Self::resolve_names) found; nothing else is needed of the declarations then.
    pub(super) fn set_names(&mut self, names: Vec<Name<'s>>) {
        for (frame, name) in self.frames.iter_mut().zip(names) {
            frame.name = name;
        }
        self.subprograms = Vec::new();
    }

    fn subprogram(&self, offset: usize) -> Option<&Subprogram<'s>> {
        let at = self.subprograms.binary_search_by_key(&offset, |subprogram| subprogram.offset).ok()?;
        Some(&self.subprograms[at])
    }

    fn resolve(&self, units: &[UnitTables<'s>], origin: usize) -> Name<'s> {
        let mut found = Name::default();
        let mut next = Some(origin);
        // An inlined call refers to an abstract function, which may refer to its declaration in a class.
        for _ in 0..4 {
            let Some(offset) = next else { break };
            let subprogram = self.subprogram(offset).or_else(|| {
                let at = units.partition_point(|unit| unit.end_offset <= offset);
                units.get(at)?.subprogram(offset)
            });
            let Some(subprogram) = subprogram else { break };
            for (part, more) in [
                (&mut found.name, subprogram.name.name),
                (&mut found.linkage, subprogram.name.linkage),
                (&mut found.owner, subprogram.name.owner),
            ] {
                if part.is_empty() {
                    *part = more;
                }
            }
            next = subprogram.origin;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_frames_win() {
        let ranges = vec![(10, 50, 1, 0), (20, 30, 2, 1), (20, 25, 3, 2), (40, 50, 2, 3), (60, 70, 1, 4)];
        let expected = [(10, 20, 0), (20, 25, 2), (25, 30, 1), (30, 40, 0), (40, 50, 3), (60, 70, 4)];
        assert_eq!(flatten(ranges), expected);
    }

    #[test]
    fn commits_are_read_from_producers() {
        assert_eq!(rustc_commit("clang LLVM (rustc version 1.95.0 (59807616e 2026-04-14))"), Some("59807616e"));
        assert_eq!(rustc_commit("GNU C17 12.2.0 -O2"), None);
    }
}
