//! One module's file: its symbols and its debuginfo.

use super::names::{demangle, shorten_generics};
use super::types::{At, Types};
use super::{Variable, variables};
use crate::elf::Svma;
use crate::report::Frame;
use gimli::{EndianSlice, LittleEndian};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fs::File;
use std::path::Path;

pub(super) type Slice = EndianSlice<'static, LittleEndian>;

/// A symbol's place; its name is demangled when asked for.
#[derive(Debug)]
struct Symbol {
    start: u64,
    size: u64,
    name: &'static str,
}

/// An opened module.
pub(super) struct Image {
    functions: Vec<Symbol>,
    statics: Vec<Symbol>,
    dwarf: gimli::Dwarf<Slice>,
    context: Option<addr2line::Context<Slice>>,
    variables: OnceCell<Vec<variables::Declared>>,
    types: OnceCell<Types>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

impl Image {
    /// Maps the file. It stays mapped until the process ends: a process symbolises a handful of modules once.
    pub(super) fn open(path: &Path) -> anyhow::Result<Image> {
        // A recording may name anything, and opening a pipe or a device could wait or read without end.
        anyhow::ensure!(std::fs::metadata(path)?.is_file(), "no regular file");
        let map = crate::os::map_file(&File::open(path)?)?;
        let bytes: &'static [u8] = Box::leak(Box::new(map));
        let file = object::File::parse(bytes)?;
        let mut functions = Vec::new();
        let mut statics = Vec::new();
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            let kind = match symbol.kind() {
                SymbolKind::Text => &mut functions,
                SymbolKind::Data => &mut statics,
                _ => continue,
            };
            if let Ok(name) = symbol.name()
                && symbol.address() != 0
                && !name.is_empty()
            {
                kind.push(Symbol { start: symbol.address(), size: symbol.size(), name });
            }
        }
        for symbols in [&mut functions, &mut statics] {
            symbols.sort_by_key(|symbol| (symbol.start, symbol.size));
        }
        let sections = load_sections(&file);
        let dwarf = || sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        let context = addr2line::Context::from_dwarf(dwarf()).ok();
        let dwarf = dwarf();
        Ok(Image { functions, statics, dwarf, context, variables: OnceCell::new(), types: OnceCell::new() })
    }

    /// Frames at a static address, innermost first; empty where neither debuginfo nor symbols know it.
    pub(super) fn frames(&self, pc: Svma) -> Vec<Frame> {
        let symbol = find(&self.functions, pc.0).map(|symbol| demangle(symbol.name));
        let mut frames = self.dwarf_frames(pc).unwrap_or_default();
        if frames.is_empty() {
            return symbol.map(|function| Frame { function, ..Frame::default() }).into_iter().collect();
        }
        let count = frames.len();
        for (index, frame) in frames.iter_mut().enumerate() {
            frame.inlined = index + 1 < count;
        }
        // With line tables only, debuginfo has names without their paths; the symbol of the function itself has it.
        if let (Some(last), Some(symbol)) = (frames.last_mut(), symbol)
            && !last.function.contains("::")
            && (last.function == "<unknown>" || symbol.contains(&last.function) || symbol.contains("{{closure}}"))
        {
            last.function = symbol;
        }
        frames
    }

    fn dwarf_frames(&self, pc: Svma) -> Option<Vec<Frame>> {
        let context = self.context.as_ref()?;
        let mut found = context.find_frames(pc.0).skip_all_loads().ok()?;
        let mut frames = Vec::new();
        // Damaged debuginfo must not give an endless inline tree.
        while frames.len() < 256
            && let Ok(Some(frame)) = found.next()
        {
            let function = match &frame.function {
                Some(name) => match name.raw_name() {
                    Ok(Cow::Borrowed(raw)) => demangle(raw),
                    Ok(Cow::Owned(raw)) => demangle(&raw),
                    Err(_) => "<unknown>".to_string(),
                },
                None => "<unknown>".to_string(),
            };
            let (file, line, column) = match &frame.location {
                Some(location) => {
                    (location.file.unwrap_or("").to_string(), location.line.unwrap_or(0), location.column.unwrap_or(0))
                }
                None => (String::new(), 0, 0),
            };
            frames.push(Frame { function: shorten_generics(&function), file, line, column, ..Frame::default() });
        }
        Some(frames)
    }

    pub(super) fn dwarf(&self) -> &gimli::Dwarf<Slice> {
        &self.dwarf
    }

    pub(super) fn types(&self) -> &Types {
        self.types.get_or_init(|| Types::new(&self.dwarf))
    }

    /// Where the unit that has code at `pc` begins in `.debug_info`.
    pub(super) fn unit_of(&self, pc: Svma) -> Option<At> {
        let unit = self.context.as_ref()?.find_dwarf_and_unit(pc.0).skip_all_loads()?;
        unit.header.debug_info_offset().map(|offset| offset.0)
    }

    fn declared(&self) -> &[variables::Declared] {
        self.variables.get_or_init(|| variables::declared(&self.dwarf))
    }

    /// Type of the static that begins at an address.
    pub(super) fn type_of_static(&self, start: Svma) -> Option<At> {
        self.declared().iter().find(|variable| variable.address == start.0)?.of
    }

    /// The static at an address.
    pub(super) fn variable(&self, address: Svma) -> Option<Variable> {
        let declared = self.declared();
        if let Some(symbol) = find(&self.statics, address.0) {
            let place = declared.iter().find(|variable| variable.address == symbol.start);
            return Some(Variable {
                name: demangle(symbol.name),
                size: symbol.size,
                offset: address.0 - symbol.start,
                file: place.map_or_else(String::new, |p| p.file.clone()),
                line: place.map_or(0, |p| p.line),
            });
        }
        // A static without a symbol, as when only local symbols were stripped.
        let place = declared.iter().find(|v| (v.address..v.address + v.size.max(1)).contains(&address.0))?;
        Some(Variable {
            name: place.name.clone(),
            size: place.size,
            offset: address.0 - place.address,
            file: place.file.clone(),
            line: place.line,
        })
    }
}

/// The symbol that covers an address. One without a size covers nothing but its start and what follows up to 16 bytes.
fn find(symbols: &[Symbol], address: u64) -> Option<&Symbol> {
    let after = symbols.partition_point(|symbol| symbol.start <= address);
    // Of several symbols at one place the longest decides; it is the last of them. Shorter ones before it may nest.
    symbols[..after].iter().rev().take(8).find(|symbol| address - symbol.start < symbol.size.max(16))
}

fn load_sections(file: &object::File<'static>) -> gimli::DwarfSections<&'static [u8]> {
    let loaded: Result<_, std::convert::Infallible> = gimli::DwarfSections::load(|id| {
        let data: &'static [u8] = match file.section_by_name(id.name()).map(|section| section.uncompressed_data()) {
            Some(Ok(Cow::Borrowed(data))) => data,
            Some(Ok(Cow::Owned(data))) => Box::leak(data.into_boxed_slice()),
            _ => &[],
        };
        Ok(data)
    });
    let Ok(sections) = loaded;
    sections
}
