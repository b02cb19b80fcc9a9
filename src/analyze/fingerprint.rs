//! Fingerprints: the identity of a finding across runs, rebuilds and line shifts.
//!
//! Made from the kind, the functions of both sides and the variable, in a form without lines, addresses, generic arguments,
//! hashes and closure numbers. Which side came first differs from run to run, so the sides are sorted. Direction of error: two
//! races between the same two functions on one variable are one finding.

use crate::report::Frame;
use crate::report::place::primary;

/// The 16 hexadecimal digits for a finding: its kind, one stack for each side, and what the memory is.
pub(super) fn fingerprint(kind: &str, sides: &[&[Frame]], variable: &str) -> String {
    let mut names: Vec<String> = sides
        .iter()
        .map(|frames| primary(frames).map_or_else(String::new, |frame| normalised(&frame.function)))
        .collect();
    names.sort();
    let mut hash = Fnv::new();
    for part in [kind, undivided(variable)].into_iter().chain(names.iter().map(String::as_str)) {
        hash.add(part.as_bytes());
        hash.add(&[0xff]);
    }
    format!("{:016x}", hash.0)
}

/// A variable's name without what the optimiser appends where it divides (`HITS.0`) or exports (`HITS.llvm.123`) it.
fn undivided(variable: &str) -> &str {
    let mut name = variable.split(".llvm.").next().unwrap_or(variable);
    while let Some((stem, suffix)) = name.rsplit_once('.')
        && !suffix.is_empty()
        && suffix.bytes().all(|byte| byte.is_ascii_digit())
    {
        name = stem;
    }
    name
}

/// A function's name without what changes between builds.
pub(super) fn normalised(function: &str) -> String {
    let mut name = String::with_capacity(function.len());
    let mut depth = 0usize;
    let mut previous = ' ';
    for character in function.chars() {
        match character {
            // Generic arguments go; the angle brackets of `<T as Trait>::f` begin a name and stay.
            '<' if depth > 0 || previous.is_alphanumeric() || previous == '_' || previous == ':' => depth += 1,
            '>' if depth > 0 && previous != '-' => depth -= 1,
            _ if depth > 0 => {}
            _ => name.push(character),
        }
        previous = character;
    }
    let mut result = String::with_capacity(name.len());
    let mut rest = name.as_str();
    while let Some(at) = rest.find('#') {
        result.push_str(&rest[..at]);
        rest = rest[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    result.push_str(rest);
    result.replace("{{closure}}", "{closure}").replace("::::", "::").trim_end_matches("::").to_string()
}

/// FNV-1a of 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, line: u32) -> Vec<Frame> {
        vec![Frame { function: function.into(), file: "src/a.rs".into(), line, ..Frame::default() }]
    }

    #[test]
    fn lines_order_and_generics_do_not_matter() {
        let (a, b) = (frame("app::bump<u8>", 3), frame("app::main::{closure#1}", 9));
        let (a2, b2) = (frame("app::bump<u16>", 30), frame("app::main::{closure#0}", 90));
        let first = fingerprint("data-race", &[&a, &b], "HITS");
        assert_eq!(first, fingerprint("data-race", &[&b2, &a2], "HITS"));
        assert_ne!(first, fingerprint("data-race", &[&a, &b], "MISSES"));
        assert_eq!(first.len(), 16);
    }

    #[test]
    fn what_the_optimiser_appends_to_a_variable_does_not_matter() {
        for (name, expected) in
            [("app::HITS.0", "app::HITS"), ("HITS.llvm.42", "HITS"), ("A.0.1", "A"), ("a.b", "a.b"), ("", "")]
        {
            assert_eq!(undivided(name), expected);
        }
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(normalised("app::main::{closure#12}"), "app::main::{closure}");
        assert_eq!(normalised("app::main::{{closure}}"), "app::main::{closure}");
        assert_eq!(normalised("alloc::vec::Vec<T>::push"), "alloc::vec::Vec::push");
        assert_eq!(normalised("<app::A as core::ops::Drop>::drop"), "<app::A as core::ops::Drop>::drop");
        assert_eq!(normalised("app::f::<u8>"), "app::f");
    }
}
