//! Facts about the built library that its code cannot assert: no vector register, a short list of imports.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use std::collections::BTreeSet;

static SHIM: &[u8] = include_bytes!(env!("CONPROF_SHIM_SO"));

fn each_instruction(mut visit: impl FnMut(&Instruction)) {
    let file = object::File::parse(SHIM).expect("the shim is an ELF file");
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().expect("text has content");
        for instruction in Decoder::with_ip(64, code, section.address(), DecoderOptions::NONE).iter() {
            visit(&instruction);
        }
    }
}

/// Stubs do not save vector registers, so no code that they reach may use one. All code counts.
#[test]
fn no_vector_register_is_used() {
    let mut offenders = Vec::new();
    each_instruction(|instruction| {
        let vector = |register: Register| {
            register.is_vector_register() || register.is_mm() || register.is_st() || register.is_k()
        };
        let used = (0..instruction.op_count())
            .any(|op| instruction.op_kind(op) == OpKind::Register && vector(instruction.op_register(op)));
        if used && instruction.mnemonic() != Mnemonic::INVALID {
            offenders.push(format!("{:#x}: {instruction}", instruction.ip()));
        }
    });
    assert!(offenders.is_empty(), "{offenders:#?}");
}

#[test]
fn imports_are_these() {
    let file = object::File::parse(SHIM).expect("the shim is an ELF file");
    let imports: BTreeSet<&str> =
        file.dynamic_symbols().filter(ObjectSymbol::is_undefined).filter_map(|symbol| symbol.name().ok()).collect();
    let expected = BTreeSet::from([
        "",
        "__libc_calloc",
        "__libc_free",
        "__libc_malloc",
        "__libc_memalign",
        "__libc_realloc",
        "dl_iterate_phdr",
        "dlsym",
        "getauxval",
    ]);
    let unexpected: Vec<_> = imports.difference(&expected).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// Thread-local storage would make the loader allocate for each thread, and accesses call into it.
#[test]
fn the_library_has_no_thread_local_storage() {
    let file = object::File::parse(SHIM).expect("the shim is an ELF file");
    assert!(file.sections().all(|section| section.kind() != SectionKind::Tls));
    assert!(file.sections().all(|section| section.kind() != SectionKind::UninitializedTls));
}

#[test]
fn the_library_stays_small() {
    assert!(SHIM.len() < 1 << 20, "{} bytes", SHIM.len());
}
