//! Names of locks as their programs have them: a static, a field of one, or a field of a structure.
//!
//! ```text
//! address in a static --its type, by offset--> `BANK.audit`, Mutex<u64>
//! frames of an acquisition --source text before `.lock()`--> self.audit
//!                          --types of `self` and of what `lock` is called on--> `Bank.audit`, Mutex<u64>
//! ```
//!
//! Direction of error: a field is named only where the variable's type has it and the field's type holds the very type of
//! lock that is locked; else the answer is the source text, or nothing.

use super::receiver::{Receiver, receiver};
use super::types::{At, Types};
use super::{Symbolizer, short_name};
use crate::elf::{Avma, Svma};
use crate::report::Frame;

/// Frames from the lock word outwards that may belong to a lock's own library.
const LIBRARY_FRAMES: usize = 16;

/// A lock's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockName {
    /// What it is, with its type as Rust writes it where known.
    Declared {
        /// `ACCOUNTS`, `BANK.audit`, `Bank.audit`.
        name: String,
        /// `Mutex<HashMap<u64, Account>>`; empty where unknown.
        type_name: String,
    },
    /// What the source calls it where it is taken: `self.audit`.
    Source(String),
}

impl Symbolizer {
    /// The static that holds a lock. `kind` is the lock's type as the report calls it; empty where unknown.
    pub fn static_lock(&self, address: Avma, kind: &str) -> Option<LockName> {
        let module = self.module_of(address)?;
        let image = module.image()?;
        let variable = image.variable(module.svma(address))?;
        let mut name = short_name(&variable.name).to_owned();
        let mut type_name = String::new();
        if let Some(of) = image.type_of_static(module.svma(Avma(address.0 - variable.offset))) {
            let (dwarf, types) = (image.dwarf(), image.types());
            match types.inside(dwarf, of, variable.offset, &|path| is_kind(path, kind)) {
                Some((way, lock)) => {
                    name.push_str(&way);
                    type_name = short_type(&lock);
                }
                None => type_name = short_type(&types.name(dwarf, of)),
            }
        }
        Some(LockName::Declared { name, type_name })
    }

    /// The field that a lock lies in, from the frames of an acquisition, innermost first.
    pub fn field_lock(&self, frames: &[Frame]) -> Option<LockName> {
        let end = frames.len().min(LIBRARY_FRAMES);
        let at = (1..end).find(|&at| !is_lock_library(&frames[at]) && !is_atomic(&frames[at - 1]))?;
        let (callee, caller) = (&frames[at - 1], &frames[at]);
        let method = short_name(&callee.function).split('<').next().unwrap_or_default();
        let called_on = self
            .sources
            .borrow_mut()
            .lines(&caller.file)
            .and_then(|lines| receiver(lines, caller.line, caller.column, method))?;
        let declared = self.declared_field(frames, at, &called_on);
        Some(declared.unwrap_or_else(|| LockName::Source(called_on.text())))
    }

    fn declared_field(&self, frames: &[Frame], at: usize, called_on: &Receiver) -> Option<LockName> {
        let lock =
            self.type_around(frames, at - 1, "self").and_then(|(scene, of)| scene.types.referent(scene.dwarf, of))?;
        let (Scene { dwarf, types }, mut of) = self.type_around(frames, at, &called_on.variable)?;
        let mut owner = String::new();
        for (number, field) in called_on.fields.iter().enumerate() {
            let (path, of_field) = types.member(dwarf, of, &field.name)?;
            // An element's type could be found only by the rules of its container.
            if field.indexed && number + 1 < called_on.fields.len() {
                return None;
            }
            (owner, of) = (path, of_field);
        }
        let last = called_on.fields.last()?;
        if !holds(&types.name(dwarf, of), &lock) {
            return None;
        }
        let owner = short_name(owner.split('<').next().unwrap_or_default());
        if owner.is_empty() || owner.starts_with(['{', '(', '&']) {
            return None;
        }
        let index = if last.indexed { "[..]" } else { "" };
        Some(LockName::Declared { name: format!("{owner}.{}{index}", last.name), type_name: short_type(&lock) })
    }

    /// Type of a variable in the function of a frame.
    fn type_around(&self, frames: &[Frame], at: usize, variable: &str) -> Option<(Scene<'_>, At)> {
        let frame = frames.get(at)?;
        let same_code = |other: &Frame| other.inlined && other.module_offset == frame.module_offset;
        let number = frames[..at].iter().rev().take_while(|other| same_code(other)).count();
        let module = self.modules.iter().find(|module| module.path.as_os_str() == frame.module.as_str())?;
        let image = module.image()?;
        let unit = image.unit_of(Svma(frame.module_offset))?;
        let (dwarf, types) = (image.dwarf(), image.types());
        let of = types.variable(dwarf, unit, frame.module_offset, number, variable)?;
        Some((Scene { dwarf, types }, of))
    }
}

/// Where types are looked up.
struct Scene<'a> {
    dwarf: &'a gimli::Dwarf<super::image::Slice>,
    types: &'a Types,
}

/// Whether a frame belongs to the library of a lock that the catalogue knows.
fn is_lock_library(frame: &Frame) -> bool {
    let library = ["std::", "core::", "lock_api::", "parking_lot::", "spin::"];
    let function = frame.function.trim_start_matches('<');
    library.iter().any(|prefix| function.starts_with(prefix))
        || super::is_std(frame)
        || ["/lock_api-", "/parking_lot-", "/spin-"].iter().any(|part| frame.file.contains(part))
}

/// Whether a frame is a function of an atomic: its caller is the lock itself.
fn is_atomic(frame: &Frame) -> bool {
    frame.file.ends_with("core/src/sync/atomic.rs")
}

/// Types of lock in libraries.
const LOCKS: [&str; 4] = ["Mutex", "RwLock", "ReentrantLock", "FairMutex"];

/// Whether a type is the lock that the report calls `kind`, or any where that is empty: `std::sync::poison::mutex::Mutex<u8>` is a `std::sync::Mutex`.
fn is_kind(path: &str, kind: &str) -> bool {
    let plain = path.split('<').next().unwrap_or_default();
    if kind.is_empty() {
        return LOCKS.contains(&short_name(plain)) && super::types::is_library(plain);
    }
    if short_name(plain) != short_name(kind) {
        return false;
    }
    match (plain.split_once("::"), kind.split_once("::")) {
        (Some((library, _)), Some((of_kind, _))) => {
            library == of_kind || library == "lock_api" && of_kind == "parking_lot"
        }
        (None, None) | (Some(_), None) => true,
        _ => false,
    }
}

/// Whether a type is the lock, or has it among its arguments.
fn holds(path: &str, lock: &str) -> bool {
    path.match_indices(lock).any(|(at, _)| {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        !is_part(path[..at].chars().next_back()) && !is_part(path[at + lock.len()..].chars().next())
    })
}

/// Longest type that is shown in full.
const LONGEST: usize = 72;

/// A type as a person writes it: the last part of each path, and no arguments that everybody leaves out.
pub(super) fn short_type(path: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if rest.starts_with("::") {
            word.clear();
            rest = &rest[2..];
            continue;
        } else {
            short.push_str(&word);
            word.clear();
            short.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    short.push_str(&word);
    for (long, nothing) in
        [(", Global", ""), (", RandomState", ""), ("RawMutex, ", ""), ("RawRwLock, ", ""), (", Spin>", ">")]
    {
        short = short.replace(long, nothing);
    }
    match short.split_once('<') {
        Some((name, _)) if short.chars().count() > LONGEST => format!("{name}<..>"),
        _ => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_rust() {
        for (long, short) in [
            ("std::sync::poison::mutex::Mutex<i64>", "Mutex<i64>"),
            (
                "std::sync::poison::mutex::Mutex<std::collections::hash::map::HashMap<u64, bank::Account, std::hash::random::RandomState, alloc::alloc::Global>>",
                "Mutex<HashMap<u64, Account>>",
            ),
            (
                "lock_api::mutex::Mutex<parking_lot::raw_mutex::RawMutex, alloc::vec::Vec<&str, alloc::alloc::Global>>",
                "Mutex<Vec<&str>>",
            ),
            ("lock_api::rwlock::RwLock<parking_lot::raw_rwlock::RawRwLock, ()>", "RwLock<()>"),
            ("pthread_mutex_t", "pthread_mutex_t"),
        ] {
            assert_eq!(short_type(long), short);
        }
        let long = format!("std::sync::poison::mutex::Mutex<({}u8)>", "usize, ".repeat(30));
        assert_eq!(short_type(&long), "Mutex<..>");
    }

    #[test]
    fn a_type_holds_a_lock_whole() {
        let lock = "std::sync::poison::mutex::Mutex<i64>";
        assert!(holds(lock, lock));
        assert!(holds(&format!("alloc::sync::Arc<{lock}, alloc::alloc::Global>"), lock));
        assert!(holds(&format!("[{lock}]"), lock));
        assert!(!holds(&format!("my_{lock}"), lock));
        assert!(!holds("std::sync::poison::mutex::Mutex<i640>", lock));
    }

    #[test]
    fn kinds_by_path() {
        assert!(is_kind("std::sync::poison::mutex::Mutex<u8>", "std::sync::Mutex"));
        assert!(is_kind("lock_api::rwlock::RwLock<R, u8>", "parking_lot::RwLock"));
        assert!(is_kind("libc::unix::pthread_mutex_t", "pthread_mutex_t"));
        assert!(!is_kind("std::sync::poison::mutex::MutexGuard<u8>", "std::sync::Mutex"));
        assert!(!is_kind("app::Mutex<u8>", "std::sync::Mutex"));
    }
}
