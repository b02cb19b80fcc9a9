//! An ELF file as the loader and the linker see it: segments, sections, symbols.
//!
//! Every accessor answers `None` or an empty slice for addresses and ranges the file does not have; nothing
//! here panics on hostile bytes.

use super::Svma;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _};
use std::borrow::Cow;

type Header = elf::FileHeader64<LittleEndian>;

/// Why a file is no program that conprof can look into. [`cure`](ImageError::cure) says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file begins with `#!`.
    #[error("this is a script, run by {interpreter}, not a program")]
    Script {
        /// What stands behind `#!`.
        interpreter: String,
    },
    /// No ELF magic number.
    #[error("this is not an ELF file")]
    NotElf,
    /// Too short or inconsistent.
    #[error("this ELF file is damaged: {0}")]
    Damaged(String),
    /// 32-bit ELF (x32 included).
    #[error("this is a 32-bit program")]
    ThirtyTwoBit,
    /// Another machine than x86-64.
    #[error("this program is for {0}, not for x86-64")]
    OtherArchitecture(String),
    /// Relocatable object, core dump.
    #[error("this is {0}, not a program")]
    NotProgram(&'static str),
    /// A shared library.
    #[error("this is a shared library, not a program")]
    SharedLibrary,
    /// No `PT_INTERP`: nothing can be preloaded.
    #[error("this program is statically linked, so no library can be preloaded into it")]
    StaticallyLinked,
}

impl ImageError {
    /// What the user can do about it, as an imperative sentence.
    pub fn cure(&self) -> String {
        match self {
            ImageError::Script { interpreter } => {
                format!(
                    "give conprof the compiled program that the script starts; {interpreter} itself can be run too, but the script's own commands are child programs and are not checked"
                )
            }
            ImageError::NotElf => "give the path of a compiled Linux program, such as target/debug/NAME".to_owned(),
            ImageError::Damaged(_) => "build the program again".to_owned(),
            ImageError::ThirtyTwoBit => "build for x86_64-unknown-linux-gnu".to_owned(),
            ImageError::OtherArchitecture(_) => {
                "build for x86_64-unknown-linux-gnu and run on such a machine".to_owned()
            }
            ImageError::NotProgram(_) => "give the linked program, such as target/debug/NAME".to_owned(),
            ImageError::SharedLibrary => "give the program that loads the library".to_owned(),
            ImageError::StaticallyLinked => {
                "build for x86_64-unknown-linux-gnu (not musl) without `-C target-feature=+crt-static`".to_owned()
            }
        }
    }
}

/// A section with its place in memory.
#[derive(Clone, Debug)]
pub struct Section {
    /// Name.
    pub name: String,
    /// First address; 0 where it is not loaded.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Holds instructions.
    pub executable: bool,
    /// Has bytes in the file.
    pub has_bytes: bool,
}

/// A function or data symbol that is defined in the file.
#[derive(Clone, Copy, Debug)]
pub struct Symbol<'a> {
    /// First address.
    pub start: u64,
    /// Size in bytes; 0 where not stated.
    pub size: u64,
    /// Mangled name.
    pub name: &'a str,
    /// `STT_FUNC` or `STT_GNU_IFUNC`.
    pub is_function: bool,
    /// Not `STB_LOCAL`.
    pub is_global: bool,
    /// Index among all symbols, which follows the linker's order: locals by object file, then globals.
    pub order: usize,
    /// Index in `files` of the `STT_FILE` symbol before it.
    pub file: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u64,
    end: u64,
    file_start: u64,
    file_end: u64,
    writable: bool,
    executable: bool,
}

/// A parsed x86-64 ELF program.
#[derive(Debug)]
pub struct Image<'a> {
    data: &'a [u8],
    file: ElfFile64<'a, LittleEndian>,
    segments: Vec<Segment>,
    relro: Vec<(u64, u64)>,
    /// Sections, in file order.
    pub sections: Vec<Section>,
    /// Symbols of `.symtab`, or of `.dynsym` where that is missing, ascending by address; function, object and untyped ones.
    pub symbols: Vec<Symbol<'a>>,
    /// Names of `STT_FILE` symbols, in symbol-table order.
    pub files: Vec<&'a str>,
    /// `.symtab` is present.
    pub has_symtab: bool,
    /// The load bias is chosen at run time.
    pub is_pie: bool,
    /// Entry point.
    pub entry: u64,
}

impl<'a> Image<'a> {
    /// Reads headers and symbols of a program.
    ///
    /// # Errors
    ///
    /// [`ImageError`] names what the file is instead of a dynamically linked x86-64 program.
    pub fn parse(data: &'a [u8]) -> Result<Image<'a>, ImageError> {
        check_ident(data)?;
        let damaged = |error: object::Error| ImageError::Damaged(error.to_string());
        let header = Header::parse(data).map_err(damaged)?;
        let e_type = header.e_type.get(LittleEndian);
        match e_type {
            elf::ET_EXEC | elf::ET_DYN => {}
            elf::ET_REL => return Err(ImageError::NotProgram("an object file")),
            elf::ET_CORE => return Err(ImageError::NotProgram("a core dump")),
            _ => return Err(ImageError::NotProgram("an ELF file of unknown type")),
        }
        let mut segments = Vec::new();
        let mut relro = Vec::new();
        let mut has_interpreter = false;
        let mut is_library = false;
        for segment in header.program_headers(LittleEndian, data).map_err(damaged)? {
            let start = segment.p_vaddr(LittleEndian);
            let end = start.checked_add(segment.p_memsz(LittleEndian));
            match segment.p_type(LittleEndian) {
                elf::PT_LOAD => {
                    let file_start = segment.p_offset(LittleEndian);
                    let file_end = file_start.checked_add(segment.p_filesz(LittleEndian));
                    let (Some(end), Some(file_end)) = (end, file_end) else {
                        return Err(ImageError::Damaged("a segment's end overflows".to_owned()));
                    };
                    let flags = segment.p_flags(LittleEndian).0;
                    segments.push(Segment {
                        start,
                        end,
                        file_start,
                        file_end: file_end.min(data.len() as u64).max(file_start),
                        writable: flags & elf::PF_W.0 != 0,
                        executable: flags & elf::PF_X.0 != 0,
                    });
                }
                elf::PT_INTERP => has_interpreter = true,
                elf::PT_GNU_RELRO => relro.extend(end.map(|end| (start, end))),
                elf::PT_DYNAMIC => {
                    let dynamic = segment.data(LittleEndian, data).unwrap_or(&[]);
                    is_library = e_type == elf::ET_DYN && !says_program(dynamic);
                }
                _ => {}
            }
        }
        if !has_interpreter {
            return Err(if is_library { ImageError::SharedLibrary } else { ImageError::StaticallyLinked });
        }
        let file = ElfFile64::parse(data).map_err(damaged)?;
        let sections = file
            .sections()
            .map(|section| {
                let header = section.elf_section_header();
                let flags = header.sh_flags(LittleEndian).0;
                let start = if flags & elf::SHF_ALLOC.0 != 0 { section.address() } else { 0 };
                Section {
                    name: String::from_utf8_lossy(section.name_bytes().unwrap_or(b"")).into_owned(),
                    start,
                    end: start.saturating_add(section.size()),
                    executable: flags & elf::SHF_EXECINSTR.0 != 0,
                    has_bytes: header.sh_type(LittleEndian) != elf::SHT_NOBITS,
                }
            })
            .collect();
        let mut image = Image {
            data,
            segments,
            relro,
            sections,
            symbols: Vec::new(),
            files: Vec::new(),
            has_symtab: false,
            is_pie: e_type == elf::ET_DYN,
            entry: header.e_entry(LittleEndian),
            file,
        };
        image.read_symbols();
        Ok(image)
    }

    fn read_symbols(&mut self) {
        let mut symbols = Vec::new();
        let mut files = Vec::new();
        let mut any = false;
        for symbol in self.file.symbols() {
            any = true;
            let Ok(name) = symbol.name() else { continue };
            match symbol.elf_symbol().st_type() {
                elf::STT_FILE => {
                    files.push(name);
                    continue;
                }
                elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_OBJECT | elf::STT_NOTYPE => {}
                _ => continue,
            }
            if symbol.is_undefined() || symbol.is_common() {
                continue;
            }
            symbols.push(symbol_of(&symbol, name, symbols.len(), files.len().checked_sub(1)));
        }
        if !any {
            for symbol in self.file.dynamic_symbols() {
                if let (false, Ok(name)) = (symbol.is_undefined(), symbol.name()) {
                    symbols.push(symbol_of(&symbol, name, symbols.len(), None));
                }
            }
        }
        symbols.sort_by_key(|symbol| (symbol.start, symbol.order));
        self.has_symtab = any;
        self.symbols = symbols;
        self.files = files;
    }

    /// The file's bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes from `address` on to the end of its segment's file contents; empty where there are none.
    pub fn bytes_at(&self, address: u64) -> &'a [u8] {
        for segment in &self.segments {
            if address >= segment.start && address < segment.end {
                let offset = segment.file_start.saturating_add(address - segment.start);
                if offset < segment.file_end {
                    return self.data.get(offset as usize..segment.file_end as usize).unwrap_or(&[]);
                }
            }
        }
        &[]
    }

    /// Bytes of `[start, end)`; `None` where the file does not have them all.
    pub fn range(&self, start: u64, end: u64) -> Option<&'a [u8]> {
        let len = end.checked_sub(start)?;
        self.bytes_at(start).get(..usize::try_from(len).ok()?)
    }

    /// Whether no code of the program can write there once `main` runs: a read-only segment, or relro.
    pub fn is_read_only(&self, address: u64) -> bool {
        let inside = |&&(start, end): &&(u64, u64)| address >= start && address < end;
        self.relro.iter().any(|range| inside(&range))
            || self.segments.iter().any(|s| !s.writable && address >= s.start && address < s.end)
    }

    /// Whether the address lies in an executable segment.
    pub fn is_executable(&self, address: u64) -> bool {
        self.segments.iter().any(|s| s.executable && address >= s.start && address < s.end)
    }

    /// Range that covers all executable segments; empty at 0 where there are none.
    pub fn text(&self) -> (Svma, Svma) {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        let start = executable.clone().map(|segment| segment.start).min().unwrap_or(0);
        let end = executable.map(|segment| segment.end).max().unwrap_or(0);
        (Svma(start), Svma(end))
    }

    /// The loaded, file-backed parts of the image that hold no code, as (address, bytes).
    pub fn data_ranges(&self) -> impl Iterator<Item = (u64, &'a [u8])> + '_ {
        self.segments.iter().filter(|segment| !segment.executable).filter_map(|segment| {
            let bytes = self.data.get(segment.file_start as usize..segment.file_end as usize)?;
            Some((segment.start, bytes))
        })
    }

    /// A section by name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Bytes of a section, decompressed; `None` where it is missing or damaged.
    pub fn section_bytes(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.file.section_by_name(name)?.uncompressed_data().ok()
    }

    /// Bytes of every section of that ELF type, with its address.
    pub(super) fn sections_of_type(&self, sh_type: elf::SectionType) -> impl Iterator<Item = (u64, &'a [u8])> + '_ {
        self.file
            .sections()
            .filter(move |section| section.elf_section_header().sh_type(LittleEndian) == sh_type)
            .filter_map(|section| Some((section.address(), section.data().ok()?)))
    }

    /// Value of a dynamic symbol by its index in `.dynsym`, if it is defined here.
    pub(super) fn dynamic_symbol_value(&self, index: usize) -> Option<u64> {
        let symbol = self.file.dynamic_symbol_table()?;
        use object::ObjectSymbolTable as _;
        let symbol = symbol.symbol_by_index(object::SymbolIndex(index)).ok()?;
        (!symbol.is_undefined()).then(|| symbol.address())
    }

    /// Bytes of `NT_GNU_BUILD_ID`.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        self.file.build_id().ok().flatten()
    }
}

fn symbol_of<'a>(
    symbol: &object::read::elf::ElfSymbol64<'a, '_, LittleEndian>,
    name: &'a str,
    order: usize,
    file: Option<usize>,
) -> Symbol<'a> {
    let kind = symbol.elf_symbol().st_type();
    Symbol {
        start: symbol.address(),
        size: symbol.size(),
        name,
        is_function: kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC,
        is_global: !symbol.is_local(),
        order,
        file,
    }
}

fn check_ident(data: &[u8]) -> Result<(), ImageError> {
    if let Some(rest) = data.strip_prefix(b"#!") {
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
        let line = String::from_utf8_lossy(&line[..line.len().min(128)]);
        return Err(ImageError::Script { interpreter: line.trim().to_owned() });
    }
    if !data.starts_with(b"\x7fELF") {
        return Err(ImageError::NotElf);
    }
    let Some(ident) = data.get(..64) else {
        return Err(ImageError::Damaged("the file ends within its header".to_owned()));
    };
    let big = ident[5] == 2;
    let machine = if big { [ident[19], ident[18]] } else { [ident[18], ident[19]] };
    let machine = u16::from_le_bytes(machine);
    if machine != elf::EM_X86_64.0 || big {
        return Err(match machine {
            3 => ImageError::ThirtyTwoBit,
            other => ImageError::OtherArchitecture(machine_name(other)),
        });
    }
    if ident[4] != 2 {
        return Err(ImageError::ThirtyTwoBit);
    }
    Ok(())
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        183 => "AArch64",
        40 => "32-bit ARM",
        243 => "RISC-V",
        21 => "64-bit PowerPC",
        22 => "s390x",
        8 => "MIPS",
        258 => "LoongArch",
        62 => "big-endian x86-64",
        other => return format!("another architecture (ELF machine {other})"),
    };
    name.to_owned()
}

/// Whether `.dynamic` marks a position-independent program (`DT_FLAGS_1` with `DF_1_PIE`).
fn says_program(dynamic: &[u8]) -> bool {
    dynamic.chunks_exact(16).any(|entry| {
        let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        word(0) == 0x6fff_fffb && word(8) & 0x0800_0000 != 0
    })
}
