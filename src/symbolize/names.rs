//! Names of functions as a person wants to read them.

use crate::report::Frame;

/// Demangles a symbol: Rust's two schemes without hashes and disambiguators; other names stay as they are.
pub(super) fn demangle(symbol: &str) -> String {
    // Suffixes that LLVM appends to clones hide the hash from the demangler.
    let stem = symbol.find(".llvm.").map_or(symbol, |at| &symbol[..at]);
    match rustc_demangle::try_demangle(stem) {
        Ok(name) => shorten_generics(&format!("{name:#}")),
        Err(_) => shorten_generics(stem),
    }
}

/// Longest list of generic arguments that is shown.
const GENERICS_SHOWN: usize = 24;

/// Replaces long lists of generic arguments by `_`; qualified paths such as `<T as Trait>::f` keep their parts.
pub(super) fn shorten_generics(name: &str) -> String {
    let mut result = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(open) = rest.find('<') {
        let (before, from_open) = rest.split_at(open);
        result.push_str(before);
        let Some(close) = matching_bracket(from_open) else {
            result.push_str(from_open);
            return result;
        };
        let inner = &from_open[1..close];
        let is_arguments = result.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '}');
        result.push('<');
        if is_arguments && inner.len() > GENERICS_SHOWN && !inner.starts_with("impl ") {
            result.push('_');
        } else {
            result.push_str(&shorten_generics(inner));
        }
        result.push('>');
        rest = &from_open[close + 1..];
    }
    result.push_str(rest);
    result
}

/// Index of the `>` that closes the `<` at the start, arrows apart.
fn matching_bracket(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut previous = b' ';
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if previous != b'-' && previous != b'=' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
        previous = byte;
    }
    None
}

/// The last part of a path: `HITS` of `app::main::HITS`, `wake` of `<A as B>::wake`.
pub fn short_name(name: &str) -> &str {
    let mut depth = 0usize;
    let bytes = name.as_bytes();
    for index in (0..bytes.len()).rev() {
        match bytes[index] {
            b'>' if index == 0 || bytes[index - 1] != b'-' => depth += 1,
            b'<' => depth = depth.saturating_sub(1),
            b':' if depth == 0 && index > 0 && bytes[index - 1] == b':' => {
                let last = &name[index + 1..];
                // A closure or a turbofish alone says nothing.
                if last.starts_with('{') || last.starts_with('<') {
                    continue;
                }
                return last;
            }
            _ => {}
        }
    }
    name
}

/// Whether a frame belongs to Rust's standard library or to the C library.
pub fn is_std(frame: &Frame) -> bool {
    if !frame.file.is_empty() {
        let file = frame.file.as_str();
        return file.starts_with("/rustc/")
            || file.contains("/rustlib/src/rust/")
            || file.starts_with("library/")
            || file.contains("/glibc")
            || file.contains("/sysdeps/");
    }
    let name = frame.function.trim_start_matches(['<', '&', '*']);
    [
        "std::",
        "core::",
        "alloc::",
        "__rust",
        "rust_",
        "__libc",
        "_start",
        "clone",
        "start_thread",
        "<unknown>",
        "unknown>",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// Whether a frame belongs to a package that cargo fetched.
pub fn is_dependency(frame: &Frame) -> bool {
    frame.file.contains("/registry/src/") || frame.file.contains("/git/checkouts/") || frame.file.contains("/vendor/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_go_and_generics_are_kept_short() {
        assert_eq!(demangle("_ZN3app4main17h0123456789abcdefE"), "app::main");
        assert_eq!(demangle("_ZN3app4main17h0123456789abcdefE.llvm.123"), "app::main");
        assert_eq!(demangle("_RNvCskwGfYPst2Cb_3foo16example_function"), "foo::example_function");
        assert_eq!(demangle("memcpy"), "memcpy");
        assert_eq!(
            shorten_generics("std::thread::Builder::spawn_unchecked<app::main::{closure#0}, alloc::vec::Vec<u8>>"),
            "std::thread::Builder::spawn_unchecked<_>"
        );
        assert_eq!(shorten_generics("alloc::vec::Vec<u8>::push"), "alloc::vec::Vec<u8>::push");
        assert_eq!(
            shorten_generics("<app::Worker as core::ops::Drop>::drop"),
            "<app::Worker as core::ops::Drop>::drop"
        );
        assert_eq!(shorten_generics("f<fn() -> u8>"), "f<fn() -> u8>");
        assert_eq!(shorten_generics("operator<"), "operator<");
    }

    #[test]
    fn the_last_part_of_a_path_is_its_short_name() {
        assert_eq!(short_name("app::main::HITS"), "HITS");
        assert_eq!(short_name("HITS"), "HITS");
        assert_eq!(short_name("<app::A as core::B>::wake"), "wake");
        assert_eq!(short_name("app::run::{closure#0}"), "run::{closure#0}");
        assert_eq!(short_name("app::Pool<a::b>"), "Pool<a::b>");
    }
}
