//! What the debuginfo says of an address: source line, and the chain of inlined functions around it.
//!
//! ```text
//! .debug_info --unit--> frames, innermost ranges --.
//! .debug_line --unit--> rows ----------------------+--> DebugInfo::place(address)
//! ```
//!
//! With `line-tables-only` a function has a name but neither a namespace nor a file, so a frame's file is taken from where its
//! code says it is: the line row for the innermost frame, the call site of the next inner frame for the others.
//!
//! Direction of error: a damaged or missing part yields no frame and no row, which callers take as "unknown".

mod ordering;
mod unit;

pub use ordering::Orderings;
pub use unit::{Language, UnitKind, UnitTables, rustc_commit};

use crate::elf::Image;
use gimli::{DwarfSections, EndianSlice, LittleEndian};
use std::borrow::Cow;

pub(crate) type Slice<'s> = EndianSlice<'s, LittleEndian>;

/// The debug sections of an image, decompressed.
pub type Sections<'a> = DwarfSections<Cow<'a, [u8]>>;

/// Reads the debug sections; missing ones are empty.
pub fn load_sections<'a>(image: &Image<'a>) -> Sections<'a> {
    let loaded: Result<_, std::convert::Infallible> =
        DwarfSections::load(|id| Ok(image.section_bytes(id.name()).unwrap_or_default()));
    match loaded {
        Ok(sections) => sections,
        Err(never) => match never {},
    }
}

/// A source file, as directory and name; the directory may be relative to the unit's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceFile<'s> {
    /// Directory.
    pub directory: &'s [u8],
    /// File name, which may contain directories.
    pub name: &'s [u8],
}

impl SourceFile<'_> {
    /// Whether the path ends with `suffix`, at the boundary of a component.
    pub fn ends_with(&self, suffix: &str) -> bool {
        let suffix = suffix.as_bytes();
        if self.name.len() >= suffix.len() {
            let at = self.name.len() - suffix.len();
            return self.name.ends_with(suffix) && (at == 0 || self.name[at - 1] == b'/');
        }
        let Some(rest) = suffix.strip_suffix(self.name).and_then(|rest| rest.strip_suffix(b"/")) else { return false };
        self.directory.ends_with(rest)
            && (self.directory.len() == rest.len() || self.directory[self.directory.len() - rest.len() - 1] == b'/')
    }

    /// Whether `part` occurs in the directory or in the name.
    pub fn contains(&self, part: &str) -> bool {
        [self.directory, self.name].iter().any(|text| std::str::from_utf8(text).is_ok_and(|text| text.contains(part)))
    }

    /// The path as text.
    pub fn path(&self) -> String {
        let name = String::from_utf8_lossy(self.name);
        if self.directory.is_empty() || name.starts_with('/') {
            return name.into_owned();
        }
        format!("{}/{name}", String::from_utf8_lossy(self.directory))
    }
}

/// A function in an inline chain.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'d> {
    /// `DW_AT_name`, with generic arguments.
    pub name: &'d [u8],
    /// Mangled name; empty where not stated.
    pub linkage: &'d [u8],
    /// Enclosing class (C++ only).
    pub owner: &'d [u8],
    /// File of the code, see the module documentation.
    pub file: SourceFile<'d>,
    /// Line in `file`; 0 where unknown.
    pub line: u32,
    /// Inlined, or the function itself.
    pub inlined: bool,
}

impl FrameView<'_> {
    /// The name without generic arguments.
    pub fn plain_name(&self) -> &[u8] {
        plain_name(self.name)
    }
}

/// A function's name without its generic arguments.
pub fn plain_name(name: &[u8]) -> &[u8] {
    match name.iter().position(|&byte| byte == b'<') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
pub struct Place<'d> {
    /// File and line of the row that covers it.
    pub row: Option<(SourceFile<'d>, u32)>,
    unit: u32,
    frame: Option<u32>,
}

impl Place<'_> {
    /// Index among [`DebugInfo::units`] of the unit that covers the place; meaningless where none does.
    pub fn unit_index(&self) -> usize {
        self.unit as usize
    }

    /// Identifies the innermost function or inlined call: the same for all its places, different for every other.
    pub fn frame_id(&self) -> Option<(u32, u32)> {
        self.frame.map(|frame| (self.unit, frame))
    }
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u64,
    end: u64,
    unit: u32,
    frame: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sequence {
    start: u64,
    end: u64,
    unit: u32,
    first: u32,
    last: u32,
}

/// The debuginfo of an image, indexed by address.
#[derive(Debug)]
pub struct DebugInfo<'s> {
    units: Vec<UnitTables<'s>>,
    segments: Vec<Segment>,
    sequences: Vec<Sequence>,
    /// Sequences that begin where another begins: a sign of `--icf=all`.
    pub folded_sequences: usize,
}

impl<'s> DebugInfo<'s> {
    /// Reads all units, several at once.
    pub fn parse(image: &Image<'_>, sections: &'s Sections<'_>, progress: &(dyn Fn(u64, u64) + Sync)) -> DebugInfo<'s> {
        let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        let mut headers = Vec::new();
        let mut iter = dwarf.units();
        while let Ok(Some(header)) = iter.next() {
            headers.push(header);
        }
        // Large units first, so that no thread is left with one at the end; their results are put back in order.
        let mut order: Vec<usize> = (0..headers.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(headers[at].length_including_self()));
        let total = headers.len() as u64;
        let parsed =
            crate::parallel::map(&order, 1, || (), |(), _, &at| unit::parse(image, &dwarf, headers[at]), &|done| {
                progress(done, total)
            });
        let mut units: Vec<(usize, UnitTables<'s>)> = order.into_iter().zip(parsed).collect();
        units.sort_by_key(|&(at, _)| at);
        let mut units: Vec<UnitTables<'s>> = units.into_iter().map(|(_, unit)| unit).collect();
        lend_types(&mut units);
        let names = crate::parallel::map(&units, 4, || (), |(), _, unit| unit.resolve_names(&units), &|_| {});
        for (unit, names) in units.iter_mut().zip(names) {
            unit.set_names(names);
        }
        let mut segments = Vec::with_capacity(units.iter().map(|unit| unit.segments.len()).sum());
        let mut sequences = Vec::new();
        for (at, unit) in units.iter_mut().enumerate() {
            let at = at as u32;
            segments.extend(std::mem::take(&mut unit.segments).into_iter().map(|(start, end, frame)| Segment {
                start,
                end,
                unit: at,
                frame,
            }));
            sequences.extend(unit.sequences.iter().map(|&(start, end, first, last)| Sequence {
                start,
                end,
                unit: at,
                first,
                last,
            }));
        }
        segments.sort_by_key(|segment| segment.start);
        sequences.sort_by_key(|sequence| sequence.start);
        let folded_sequences = sequences.windows(2).filter(|pair| pair[0].start == pair[1].start).count();
        DebugInfo { units, segments, sequences, folded_sequences }
    }

    /// What is known of an address.
    pub fn place(&self, address: u64) -> Place<'s> {
        let mut place = Place { row: None, unit: 0, frame: None };
        let at = self.sequences.partition_point(|sequence| sequence.start <= address);
        if let Some(sequence) = at.checked_sub(1).map(|at| self.sequences[at]).filter(|s| address < s.end) {
            let unit = &self.units[sequence.unit as usize];
            place.unit = sequence.unit;
            let rows = &unit.rows[sequence.first as usize..sequence.last as usize];
            let row = rows.partition_point(|row| row.address <= address).checked_sub(1);
            place.row = row.map(|row| (unit.file(rows[row].file), rows[row].line));
        }
        let at = self.segments.partition_point(|segment| segment.start <= address);
        if let Some(segment) = at.checked_sub(1).map(|at| self.segments[at]).filter(|s| address < s.end) {
            place.unit = segment.unit;
            place.frame = Some(segment.frame);
        }
        place
    }

    /// The functions around a place, innermost first; ends with the out-of-line function.
    pub fn frames(&self, place: &Place<'s>) -> impl Iterator<Item = FrameView<'s>> + '_ {
        let unit = self.units.get(place.unit as usize);
        let mut next = place.frame;
        let (mut file, mut line) = place.row.unwrap_or_default();
        std::iter::from_fn(move || {
            let unit = unit?;
            let frame = unit.frames.get(next? as usize)?;
            let name = frame.name;
            let view = FrameView {
                name: name.name,
                linkage: name.linkage,
                owner: name.owner,
                file,
                line,
                inlined: frame.inlined,
            };
            file = unit.file(frame.call_file);
            line = frame.call_line;
            next = frame.parent;
            Some(view)
        })
    }

    /// Kind of the unit that covers a place.
    pub fn unit_kind(&self, place: &Place<'s>) -> Option<&UnitKind<'s>> {
        (place.row.is_some() || place.frame.is_some()).then(|| &self.units[place.unit as usize].kind)
    }

    /// Line sequences, one a function in most builds.
    pub fn sequence_count(&self) -> usize {
        self.sequences.len()
    }

    /// All units.
    pub fn units(&self) -> &[UnitTables<'s>] {
        &self.units
    }

    /// What kinds of units there are.
    pub fn unit_kinds(&self) -> impl Iterator<Item = &UnitKind<'s>> {
        self.units.iter().map(|unit| &unit.kind)
    }

    /// Innermost ranges that overlap `[start, end)`, as places.
    pub fn innermost(&self, start: u64, end: u64) -> impl Iterator<Item = Place<'s>> + '_ {
        let at = self.segments.partition_point(|segment| segment.end <= start);
        self.segments[at.min(self.segments.len())..]
            .iter()
            .take_while(move |segment| segment.start < end)
            .map(|segment| Place { row: None, unit: segment.unit, frame: Some(segment.frame) })
    }
}

/// GCC's link-time optimiser puts all code into units of its own and leaves the types in those of the sources: what holds for every
/// one of these holds for its own.
fn lend_types(units: &mut [UnitTables<'_>]) {
    let optimised = |kind: &UnitKind<'_>| kind.producer.starts_with(b"GNU GIMPLE");
    if !units.iter().any(|unit| optimised(&unit.kind)) {
        return;
    }
    let sources = || units.iter().map(|unit| &unit.kind).filter(|kind| kind.producer.starts_with(b"GNU C"));
    let has_types = sources().all(|kind| kind.has_types) && sources().next().is_some();
    let has_atomic_types = sources().any(|kind| kind.has_atomic_types);
    for unit in units.iter_mut().filter(|unit| optimised(&unit.kind)) {
        unit.kind.has_types |= has_types;
        unit.kind.has_atomic_types |= has_atomic_types;
    }
}
