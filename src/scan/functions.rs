//! Where functions begin and end: unwind tables first, then sized function symbols outside of them.

use crate::elf::{Image, UnwindTables};

/// Bounds and names of a function.
#[derive(Clone, Debug)]
pub(super) struct Bounds<'a> {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Symbols at `start`, the one to show first.
    pub names: Vec<&'a str>,
    /// Source or object file by `STT_FILE`, where the first symbol is local.
    pub file: Option<&'a str>,
    /// Addresses inside that carry a function symbol: further entries.
    pub inner_entries: Vec<u64>,
    /// Why it stays as it is, where that is known from its place.
    pub native: Option<&'static str>,
}

/// All functions of an image, ascending, not overlapping.
pub(super) fn find<'a>(image: &Image<'a>, unwind: &UnwindTables) -> Vec<Bounds<'a>> {
    let mut ranges: Vec<(u64, u64)> = unwind.fdes.iter().map(|fde| (fde.start, fde.end)).collect();
    let code: Vec<_> = image.symbols.iter().filter(|s| s.is_function && image.is_executable(s.start)).collect();
    for symbol in &code {
        let covered = ranges_cover(&unwind.fdes, symbol.start);
        if let (false, Some(end)) = (covered, symbol.start.checked_add(symbol.size))
            && end > symbol.start
        {
            ranges.push((symbol.start, end));
        }
    }
    ranges.sort_unstable();
    let mut functions: Vec<Bounds<'a>> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        if let Some(last) = functions.last_mut() {
            if last.start == start {
                last.end = last.end.max(end);
                continue;
            }
            last.end = last.end.min(start);
        }
        functions.push(Bounds { start, end, names: Vec::new(), file: None, inner_entries: Vec::new(), native: None });
    }
    for symbol in code {
        let index = functions.partition_point(|function| function.start <= symbol.start);
        let Some(function) = index.checked_sub(1).and_then(|index| functions.get_mut(index)) else { continue };
        if function.start == symbol.start {
            if function.names.is_empty() && !symbol.is_global {
                function.file = symbol.file.and_then(|file| image.files.get(file).copied());
            }
            function.names.push(symbol.name);
        } else if symbol.start < function.end {
            function.inner_entries.push(symbol.start);
        }
    }
    for function in &mut functions {
        function.native = native_by_place(image, function);
    }
    functions
}

fn ranges_cover(fdes: &[crate::elf::Fde], address: u64) -> bool {
    let index = fdes.partition_point(|fde| fde.start <= address);
    index.checked_sub(1).is_some_and(|index| fdes[index].end > address)
}

fn native_by_place(image: &Image<'_>, function: &Bounds<'_>) -> Option<&'static str> {
    if function.start == image.entry {
        return Some("program start");
    }
    let section =
        image.sections.iter().find(|s| s.executable && function.start >= s.start && function.start < s.end)?;
    match section.name.as_str() {
        ".plt" | ".plt.got" | ".plt.sec" | ".iplt" => Some("linkage stub"),
        ".init" | ".fini" => Some("program start"),
        _ => match *function.names.first()? {
            "_start"
            | "_init"
            | "_fini"
            | "deregister_tm_clones"
            | "register_tm_clones"
            | "__do_global_dtors_aux"
            | "frame_dummy"
            | "__libc_csu_init"
            | "__libc_csu_fini"
            | "_dl_relocate_static_pie" => Some("program start"),
            _ => None,
        },
    }
}

impl Bounds<'_> {
    /// Whether the address lies inside.
    pub fn contains(&self, address: u64) -> bool {
        address >= self.start && address < self.end
    }
}
