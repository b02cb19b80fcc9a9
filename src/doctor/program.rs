//! Checks of one program file.

use super::Check;
use object::{Object, ObjectKind, ObjectSection};
use std::path::Path;

/// Checks whether `path` can be checked by conprof, and how well.
pub fn check_program(path: &Path) -> Vec<Check> {
    match std::fs::read(path) {
        Ok(bytes) => check_bytes(&bytes),
        Err(error) => vec![Check::bad("program", format!("{}: {error}", path.display()), "name a program file")],
    }
}

fn check_bytes(bytes: &[u8]) -> Vec<Check> {
    if bytes.starts_with(b"#!") {
        return vec![Check::bad("program", "it is a script", "name the program that the script runs")];
    }
    let file = match object::File::parse(bytes) {
        Ok(file) => file,
        Err(_) => return vec![Check::bad("program", "it is no ELF file", "name a program that was built for Linux")],
    };
    if file.architecture() != object::Architecture::X86_64 {
        let seen = format!("it is built for {:?}", file.architecture());
        return vec![Check::bad("program", seen, "build it for x86_64-unknown-linux-gnu")];
    }
    vec![linkage(&file), debuginfo(&file), symbols(&file)]
}

fn linkage(file: &object::File) -> Check {
    let name = "linkage";
    if file.section_by_name(".interp").is_none() {
        let cure = "build it for x86_64-unknown-linux-gnu with dynamic linking";
        return Check::bad(name, "statically linked, so the runtime can't be loaded into it", cure);
    }
    match file.kind() {
        ObjectKind::Dynamic => Check::good(name, "dynamic, position-independent"),
        _ => Check::limited(name, "not position-independent", "build it as a PIE, which is Rust's default"),
    }
}

fn has(file: &object::File, names: &[&str]) -> bool {
    file.sections().any(|section| section.name().is_ok_and(|name| names.contains(&name)) && section.size() > 0)
}

fn debuginfo(file: &object::File) -> Check {
    let name = "debuginfo";
    let info = file.sections().find(|section| section.name() == Ok(".debug_info")).map_or(0, |section| section.size());
    const CURE: &str = "dev builds have it; for release builds: CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
                        CARGO_PROFILE_RELEASE_STRIP=none cargo build --release";
    if info == 0 || !has(file, &[".debug_line", ".zdebug_line"]) {
        return Check::bad(name, "none, so atomics can't be told from plain accesses and races can't be checked", CURE);
    }
    Check::good(name, format!("present, {} KiB; `conprof scan` shows what it covers", info >> 10))
}

fn symbols(file: &object::File) -> Check {
    let name = "symbols";
    if has(file, &[".symtab"]) {
        return Check::good(name, "present");
    }
    let cure = "build with CARGO_PROFILE_RELEASE_STRIP=none";
    Check::limited(name, "stripped, so statics have no names", cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn this_test_itself_is_fit() {
        let checks = check_program(&std::env::current_exe().expect("a path"));
        assert_eq!(checks.len(), 3);
        assert!(checks.iter().all(|check| check.state == State::Good), "{checks:?}");
    }

    #[test]
    fn what_is_no_program_is_named() {
        for (bytes, word) in [(&b"#!/bin/sh\n"[..], "script"), (b"hello", "no ELF"), (b"", "no ELF")] {
            let checks = check_bytes(bytes);
            assert_eq!(checks[0].state, State::Bad);
            assert!(checks[0].seen.contains(word), "{checks:?}");
        }
        assert_eq!(check_program(Path::new("/nonexistent"))[0].state, State::Bad);
    }
}
