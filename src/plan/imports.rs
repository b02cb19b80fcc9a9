//! Calls from the module into shared libraries whose synchronisation conprof cannot see.

use iced_x86::Instruction;
use object::read::elf::{ElfFile64, FileHeader, Sym};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget};
use std::collections::{HashMap, HashSet};

/// Slots of the global offset table, and PLT stubs, that lead to functions of libraries which are not understood.
#[derive(Default)]
pub(crate) struct ForeignImports {
    slots: HashSet<u64>,
    stubs: HashSet<u64>,
}

impl ForeignImports {
    /// Whether the call goes to such a function.
    pub(crate) fn is_foreign_call(&self, instruction: &Instruction) -> bool {
        if instruction.is_call_near_indirect() {
            return instruction.is_ip_rel_memory_operand() && self.slots.contains(&instruction.ip_rel_memory_address());
        }
        self.stubs.contains(&instruction.near_branch_target())
    }

    /// Whether the instruction, which is no call, takes the address of such a function: calls through a register may then go there.
    pub(crate) fn takes_address(&self, instruction: &Instruction) -> bool {
        instruction.is_ip_rel_memory_operand() && self.slots.contains(&instruction.ip_rel_memory_address())
    }
}

/// Functions of such libraries that do not synchronise by declaration: their name begins so.
const EXEMPT_PREFIX: &str = "conprof_exempt_";

/// Symbol versions of the C library, the dynamic loader and the compiler's runtime: either interposed or known not
/// to synchronise.
const KNOWN_VERSIONS: [&str; 4] = ["GLIBC_", "GCC_", "GLIBCXX_", "CXXABI_"];

/// Reads the dynamic relocations of an ELF file; empty where there are none.
pub(crate) fn foreign_imports(data: &[u8]) -> ForeignImports {
    let mut imports = ForeignImports::default();
    let Ok(file) = ElfFile64::<Endianness>::parse(data) else { return imports };
    let known = known_symbols(&file);
    let Some(relocations) = file.dynamic_relocations() else { return imports };
    let Some(symbols) = file.dynamic_symbol_table() else { return imports };
    use object::ObjectSymbolTable;
    let mut by_slot = HashMap::new();
    for (slot, relocation) in relocations {
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        if !matches!(r_type, object::elf::R_X86_64_GLOB_DAT | object::elf::R_X86_64_JUMP_SLOT) {
            continue;
        }
        let Ok(symbol) = symbols.symbol_by_index(index) else { continue };
        let name = symbol.name().unwrap_or("");
        if symbol.is_undefined()
            && !known.contains(&index.0)
            && !name.starts_with(EXEMPT_PREFIX)
            && !name.starts_with("_ITM_")
            && name != "__gmon_start__"
        {
            by_slot.insert(slot, ());
        }
    }
    imports.slots = by_slot.keys().copied().collect();
    imports.stubs = stubs(&file, &imports.slots);
    imports
}

/// Indices of dynamic symbols that are bound to a version in [`KNOWN_VERSIONS`].
fn known_symbols(file: &ElfFile64<'_, Endianness>) -> HashSet<usize> {
    let endian = Endianness::Little;
    let header = file.elf_header();
    let Ok(sections) = header.sections(endian, file.data()) else { return HashSet::new() };
    let Ok(Some(versions)) = sections.versions(endian, file.data()) else { return HashSet::new() };
    let Ok(symbols) = sections.symbols(endian, file.data(), object::elf::SHT_DYNSYM) else { return HashSet::new() };
    symbols
        .enumerate()
        .filter(|(index, symbol)| {
            symbol.st_shndx(endian) == object::elf::SHN_UNDEF
                && matches!(versions.version(versions.version_index(endian, *index).index()), Ok(Some(version))
                    if KNOWN_VERSIONS.iter().any(|k| version.name().starts_with(k.as_bytes())))
        })
        .map(|(index, _)| index.0)
        .collect()
}

/// PLT stubs that jump through one of `slots`.
fn stubs(file: &ElfFile64<'_, Endianness>, slots: &HashSet<u64>) -> HashSet<u64> {
    let mut stubs = HashSet::new();
    for section in file.sections().filter(|s| s.name().is_ok_and(|n| n.starts_with(".plt"))) {
        let Ok(bytes) = section.data() else { continue };
        for (index, stub) in bytes.chunks(16).enumerate() {
            let start = section.address() + 16 * index as u64;
            let mut decoder = iced_x86::Decoder::with_ip(64, stub, start, iced_x86::DecoderOptions::NONE);
            while decoder.can_decode() {
                let instruction = decoder.decode();
                if instruction.is_jmp_near_indirect()
                    && instruction.is_ip_rel_memory_operand()
                    && slots.contains(&instruction.ip_rel_memory_address())
                {
                    stubs.insert(start);
                    // `.plt.got` has stubs of 8 bytes.
                    stubs.insert(instruction.ip());
                }
            }
        }
    }
    stubs
}
