//! The program's address space, as far as code goes: modules from mapping records, and generated code.

use crate::wire::plan::PcMapRow;
use framehop::x86_64::UnwinderX86_64;
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags};
use std::path::{Path, PathBuf};

/// Code that conprof generated from the main program's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GeneratedCode {
    /// Run-time address range.
    pub range: (u64, u64),
    /// Run-time address that [`PcMapRow::original`] counts from.
    pub text_start: u64,
    /// Rows, ascending by offset.
    pub rows: Vec<PcMapRow>,
}

impl GeneratedCode {
    /// The original of an address in generated code, and what to add to its stack pointer.
    pub fn original(&self, pc: u64) -> Option<(u64, u64)> {
        if !(self.range.0..self.range.1).contains(&pc) {
            return None;
        }
        let offset = u32::try_from(pc - self.range.0).ok()?;
        let row = self.rows.partition_point(|row| row.code_offset <= offset).checked_sub(1)?;
        let row = self.rows[row];
        Some((self.text_start + u64::from(row.original), u64::from(row.rsp_offset)))
    }
}

/// Finds out about generated code once it is there; asked again as long as the answer is none.
pub type GeneratedCodeSource = Box<dyn FnMut() -> Option<GeneratedCode> + Send>;

/// A module of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedModule {
    /// Its file.
    pub path: PathBuf,
    /// Run-time minus static address.
    pub bias: u64,
    /// Run-time range of its code.
    pub range: (u64, u64),
}

/// Where code lies.
pub(super) struct Space {
    pub unwinder: UnwinderX86_64<Vec<u8>>,
    pub modules: Vec<MappedModule>,
    /// Mappings of conprof's own runtime.
    runtime: Vec<(u64, u64)>,
    /// The file of conprof's own runtime.
    runtime_image: &'static [u8],
    source: GeneratedCodeSource,
    generated: Option<GeneratedCode>,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("modules", &self.modules).finish_non_exhaustive()
    }
}

impl Space {
    pub fn new(source: GeneratedCodeSource, runtime_image: &'static [u8]) -> Space {
        let unwinder = UnwinderX86_64::new();
        Space { unwinder, modules: Vec::new(), runtime: Vec::new(), runtime_image, source, generated: None }
    }

    /// Takes note of an executable mapping.
    pub fn map(&mut self, start: u64, len: u64, file_offset: u64, path: &str) {
        let end = start.saturating_add(len);
        self.modules.retain(|m| {
            m.range.1 <= start || end <= m.range.0 || {
                self.unwinder.remove_module(m.range.0);
                false
            }
        });
        if path.starts_with("/memfd:conprof-shim") {
            self.runtime.push((start, end));
            if let Some(bias) = bias(self.runtime_image, start, file_offset)
                && let Some(sections) = sections(self.runtime_image)
            {
                self.unwinder.add_module(Module::new(path.to_owned(), start..end, bias, sections));
            }
            return;
        }
        let found = if path == "[vdso]" {
            // The same kernel, so the same vdso as this process has.
            own_vdso().and_then(|bytes| Some((sections(&bytes)?, start)))
        } else {
            module(path, start, file_offset)
        };
        let Some((sections, bias)) = found else { return };
        self.unwinder.add_module(Module::new(path.to_owned(), start..end, bias, sections));
        self.modules.push(MappedModule { path: PathBuf::from(path), bias, range: (start, end) });
    }

    pub fn in_runtime(&self, pc: u64) -> bool {
        self.runtime.iter().any(|&(start, end)| (start..end).contains(&pc))
    }

    pub fn in_module(&self, pc: u64) -> bool {
        self.modules.iter().any(|m| (m.range.0..m.range.1).contains(&pc))
    }

    /// The original of an address in generated code, and what to add to its stack pointer.
    pub fn original(&mut self, pc: u64) -> Option<(u64, u64)> {
        if self.generated.is_none() {
            self.generated = (self.source)();
        }
        self.generated.as_ref()?.original(pc)
    }
}

/// What unwinding needs of a file, and its bias. A cached plan is mapped as well, and is no ELF file.
fn module(path: &str, start: u64, file_offset: u64) -> Option<(ExplicitModuleSectionInfo<Vec<u8>>, u64)> {
    if !path.starts_with('/') || path.starts_with("/memfd:") {
        return None;
    }
    let bytes = crate::os::map_file(&std::fs::File::open(path).ok()?).ok()?;
    let bias = bias(&bytes, start, file_offset)?;
    Some((sections(&bytes)?, bias))
}

/// Run-time minus static address of a file mapped at `start` from `file_offset`.
fn bias(bytes: &[u8], start: u64, file_offset: u64) -> Option<u64> {
    const PAGE: u64 = 4096;
    let file = object::File::parse(bytes).ok()?;
    for segment in file.segments() {
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { continue };
        let (offset, size) = segment.file_range();
        let page = offset & !(PAGE - 1);
        if p_flags.0 & object::elf::PF_X.0 != 0 && page <= file_offset && file_offset < offset.checked_add(size)? {
            let svma = segment.address().wrapping_sub(offset).wrapping_add(file_offset);
            return Some(start.wrapping_sub(svma));
        }
    }
    None
}

fn sections(bytes: &[u8]) -> Option<ExplicitModuleSectionInfo<Vec<u8>>> {
    let file = object::File::parse(bytes).ok()?;
    let range = |name: &str| {
        let section = file.section_by_name(name)?;
        Some(section.address()..section.address().checked_add(section.size())?)
    };
    let data = |name: &str| Some(file.section_by_name(name)?.uncompressed_data().ok()?.into_owned());
    Some(ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        text: data(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        debug_frame: data(".debug_frame"),
        ..ExplicitModuleSectionInfo::default()
    })
}

/// The bytes of this process's vdso.
fn own_vdso() -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let len = u64::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    let mut bytes = vec![0; usize::try_from(len).ok().filter(|len| *len < 1 << 20)?];
    std::fs::File::open(Path::new("/proc/self/mem")).ok()?.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_addresses_map_back() {
        let row = |code_offset, original, rsp_offset| PcMapRow { code_offset, original, rsp_offset };
        let code = GeneratedCode {
            range: (0x1000, 0x2000),
            text_start: 0x50_0000,
            rows: vec![row(0x10, 0x100, 0), row(0x18, 0x104, 128), row(0x20, 0x108, 0)],
        };
        assert_eq!(code.original(0x100f), None);
        assert_eq!(code.original(0x1010), Some((0x50_0100, 0)));
        assert_eq!(code.original(0x101f), Some((0x50_0104, 128)));
        assert_eq!(code.original(0x1fff), Some((0x50_0108, 0)));
        assert_eq!(code.original(0x2000), None);
    }

    #[test]
    fn the_vdso_can_be_unwound() {
        let bytes = own_vdso().expect("this system has a vdso");
        let sections = sections(&bytes).expect("the vdso is an ELF file");
        assert!(sections.eh_frame.is_some());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for bytes in [&b""[..], b"\x7fELF", &[0u8; 64]] {
            assert!(sections(bytes).is_none());
            assert!(bias(bytes, 0x1000, 0).is_none());
        }
    }
}
