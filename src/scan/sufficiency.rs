//! Whether a module's debuginfo suffices, and what to do where it does not.

use super::model::{Debuginfo, Degraded};
use crate::dwarf::{DebugInfo, Language, UnitKind, rustc_commit};
use crate::elf::Image;

/// Debuginfo of the user's own code: units with code that are not the Rust toolchain's.
pub(super) fn debuginfo(image: &Image<'_>, debug: &DebugInfo<'_>) -> Debuginfo {
    let is_own = |unit: &&UnitKind<'_>| unit.has_code && !unit.is_toolchain() && unit.language != Language::Assembly;
    // In a Rust program only the Rust units count: a C library with debuginfo does not help its plain release build.
    let only_rust = is_rust(image, debug);
    let mut own =
        debug.unit_kinds().filter(is_own).filter(|unit| !only_rust || unit.language == Language::Rust).peekable();
    let any = own.peek().is_some();
    let full = own.any(|unit| unit.has_types);
    match (any, full) {
        (true, true) => Debuginfo::Full,
        (true, false) => Debuginfo::LineTables,
        (false, _) if image.has_symtab => Debuginfo::SymbolsOnly,
        (false, _) => Debuginfo::Stripped,
    }
}

fn is_rust(image: &Image<'_>, debug: &DebugInfo<'_>) -> bool {
    debug.unit_kinds().any(|unit| unit.language == Language::Rust) || comment_commit(image).is_some()
}

/// Commit of the Rust compiler in `.comment`.
pub(super) fn comment_commit(image: &Image<'_>) -> Option<String> {
    let comment = image.section_bytes(".comment")?;
    comment.split(|&byte| byte == 0).find_map(|text| rustc_commit(std::str::from_utf8(text).ok()?).map(str::to_owned))
}

/// Compilers that had a part in the module.
pub(super) fn producers(image: &Image<'_>, debug: &DebugInfo<'_>) -> Vec<String> {
    let mut producers: Vec<String> = Vec::new();
    let comment = image.section_bytes(".comment").unwrap_or_default();
    let texts = comment.split(|&byte| byte == 0).chain(debug.unit_kinds().map(|unit| unit.producer));
    for text in texts.filter(|text| !text.is_empty()) {
        let text = String::from_utf8_lossy(text);
        // Compilers append their options.
        let text = text.split(" -").next().unwrap_or_default().trim();
        if !producers.iter().any(|known| known == text) {
            producers.push(text.to_owned());
        }
    }
    producers
}

/// What limits the checks, each with its cure.
pub(super) fn degraded(image: &Image<'_>, debug: &DebugInfo<'_>, have: Debuginfo) -> Vec<Degraded> {
    let mut degraded = Vec::new();
    let mut add = |reason: &str, cure: &str| {
        degraded.push(Degraded { check: "races".to_owned(), reason: reason.to_owned(), cure: cure.to_owned() });
    };
    let is_rust = is_rust(image, debug);
    match (have, is_rust) {
        (Debuginfo::Full | Debuginfo::LineTables, _) => {}
        (Debuginfo::SymbolsOnly, true) => add(
            "the program has no debuginfo, so atomic accesses can't be told from plain ones",
            "build with CARGO_PROFILE_RELEASE_DEBUG=line-tables-only (or debug = \"line-tables-only\" in the profile)",
        ),
        (_, true) => add(
            "the program is stripped, so atomic accesses can't be told from plain ones",
            "build with CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none",
        ),
        (_, false) => add(
            "the program has no debuginfo, so atomic accesses can't be told from plain ones",
            "compile and link with -g and do not strip",
        ),
    }
    if debug.folded_sequences > 0 && debug.folded_sequences * 500 >= debug.sequence_count() {
        add(
            "the linker folded identical functions (--icf=all), so an atomic and a plain access may share an address",
            "link without --icf=all (use --icf=none or --icf=safe)",
        );
    }
    degraded
}
