//! The lock catalogue applied to a module: which instructions, calls and functions are lock operations.
//!
//! ```text
//! lock_operations.txt --Catalogue--> rows
//! ModuleScan + debuginfo --mark--> LockMarks: by address of an instruction, of a call, and of a function
//! ```
//!
//! Fast paths are inlined, so an atomic instruction is known by its inline frames: the first that is not one of
//! core's atomics decides. In unoptimised code the atomic itself is a call, and the same frames are looked up at the call. Slow
//! paths are functions, known by their symbols. Direction of error: an operation that no row names is not a lock
//! operation; a release that is not seen leaves a hold that ends when another thread takes the lock.

use super::{Function, ModuleScan};
use crate::elf::{CodePointers, Image};
use crate::wire::locks::{Operation, Success, Type, lock_bits, operation_of, success_of, type_of};
use crate::wire::site::Class;
use gimli::{EndianSlice, LittleEndian};
use iced_x86::{Instruction, Mnemonic};
use object::{Object, ObjectSection};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The catalogue that comes with conprof.
pub const BUILT_IN: &str = include_str!("lock_operations.txt");

/// A row of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// Name of the function, or suffix of its path.
    function: String,
    /// Suffix of its file, for inlined ones.
    file: Option<String>,
    bits: u64,
    /// The row as written, blanks apart.
    text: String,
}

/// What is known of lock types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    inlined: HashMap<String, Vec<Row>>,
    functions: HashMap<String, Vec<Row>>,
}

/// A row that could not be read: its number, from 1, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueError {
    /// Number of the line.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for CatalogueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for CatalogueError {}

impl Catalogue {
    /// The built-in rows.
    pub fn built_in() -> Catalogue {
        let mut catalogue = Catalogue::default();
        // A test reads the same text, so it has no bad line.
        let _ = catalogue.add(BUILT_IN);
        catalogue
    }

    /// Adds the rows of a text in the form of `lock_operations.txt`.
    ///
    /// # Errors
    /// The first line that is no row.
    pub fn add(&mut self, text: &str) -> Result<(), CatalogueError> {
        for (index, line) in text.lines().enumerate() {
            let error = |reason: String| CatalogueError { line: index + 1, reason };
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let (function, file, rest) = match words[..] {
                [] => continue,
                ["inline", function, file, ref rest @ ..] => (function, Some(file.to_owned()), rest),
                ["function", function, ref rest @ ..] => (function, None, rest),
                [first, ..] => return Err(error(format!("`{first}` is neither `inline` nor `function`"))),
            };
            let [operation, success, lock] = rest else {
                return Err(error("a row ends in an operation, a sign of success and a type".to_owned()));
            };
            let operation =
                operation_by_name(operation).ok_or_else(|| error(format!("`{operation}` is no operation")))?;
            let success = match *success {
                "always" => Success::Always,
                "zero" => Success::Zero,
                "nonzero" => Success::NotZero,
                other => return Err(error(format!("`{other}` is no sign of success"))),
            };
            let lock = type_by_name(lock).ok_or_else(|| error(format!("`{lock}` is no type of lock")))?;
            let row = Row {
                function: function.to_owned(),
                file,
                bits: lock_bits(operation, success, lock),
                text: words.join(" "),
            };
            let (table, key) = match row.file {
                Some(_) => (&mut self.inlined, function),
                None => (&mut self.functions, function.rsplit("::").next().unwrap_or(function)),
            };
            table.entry(key.to_owned()).or_default().push(row);
        }
        Ok(())
    }

    /// The row for an inlined function, by its plain name and its file.
    fn inlined(&self, name: &str, file: &str) -> Option<&Row> {
        let rows = self.inlined.get(name)?;
        rows.iter().find(|row| row.file.as_deref().is_some_and(|suffix| ends_with(file, suffix)))
    }

    /// The row for an out-of-line function, by its path without generic arguments.
    fn function(&self, path: &str) -> Option<&Row> {
        let rows = self.functions.get(path.rsplit("::").next()?)?;
        let is = |row: &&Row| {
            path.strip_suffix(row.function.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
        };
        rows.iter().find(is)
    }
}

/// Whether a path ends in a suffix in which `*` stands for any text without `/`, at the border of a component.
fn ends_with(path: &str, suffix: &str) -> bool {
    let components: Vec<&str> = suffix.split('/').collect();
    let mut rest = path.rsplit('/');
    components.iter().rev().all(|pattern| {
        rest.next().is_some_and(|component| match pattern.split_once('*') {
            None => component == *pattern,
            Some((before, after)) => {
                component.len() >= before.len() + after.len()
                    && component.starts_with(before)
                    && component.ends_with(after)
            }
        })
    })
}

/// Names of operations, as rows have them.
const OPERATIONS: [(&str, Operation); 35] = [
    ("lock-exclusive", Operation::LockExclusive),
    ("lock-shared", Operation::LockShared),
    ("try-exclusive", Operation::TryExclusive),
    ("try-shared", Operation::TryShared),
    ("unlock-exclusive", Operation::UnlockExclusive),
    ("unlock-shared", Operation::UnlockShared),
    ("wait-condvar", Operation::WaitCondvar),
    ("notify", Operation::Notify),
    ("once", Operation::Once),
    ("park", Operation::Park),
    ("unpark", Operation::Unpark),
    ("receive", Operation::Receive),
    ("send", Operation::Send),
    ("barrier", Operation::Barrier),
    ("pool", Operation::Pool),
    ("poll", Operation::Poll),
    ("poll-root", Operation::PollRoot),
    ("idle", Operation::Idle),
    ("spawn", Operation::Spawn),
    ("wake", Operation::Wake),
    ("acquire-permits", Operation::AcquirePermits),
    ("try-permits", Operation::TryPermits),
    ("count-permits", Operation::CountPermits),
    ("forget-permits", Operation::ForgetPermits),
    ("assign-permits", Operation::AssignPermits),
    ("cancel-permits", Operation::CancelPermits),
    ("await-task", Operation::AwaitTask),
    ("lock-upgradable", Operation::LockUpgradable),
    ("try-upgradable", Operation::TryUpgradable),
    ("upgrade", Operation::Upgrade),
    ("try-upgrade", Operation::TryUpgrade),
    ("upgrade-wait", Operation::UpgradeWait),
    ("downgrade", Operation::Downgrade),
    ("downgrade-to-upgradable", Operation::DowngradeToUpgradable),
    ("meet-tasks", Operation::MeetTasks),
];

/// Names of types, as rows have them.
const TYPES: [(&str, Type); 16] = [
    ("unknown", Type::Unknown),
    ("std-mutex", Type::StdMutex),
    ("std-rwlock", Type::StdRwLock),
    ("std-reentrant", Type::StdReentrant),
    ("std-condvar", Type::StdCondvar),
    ("parking-lot-mutex", Type::ParkingLotMutex),
    ("parking-lot-rwlock", Type::ParkingLotRwLock),
    ("parking-lot-condvar", Type::ParkingLotCondvar),
    ("spin-mutex", Type::SpinMutex),
    ("spin-rwlock", Type::SpinRwLock),
    ("once", Type::Once),
    ("channel", Type::Channel),
    ("dashmap-shard", Type::DashmapShard),
    ("user", Type::User),
    ("tokio-permits", Type::TokioPermits),
    ("task", Type::Task),
];

fn operation_by_name(name: &str) -> Option<Operation> {
    OPERATIONS.iter().find(|(known, _)| *known == name).map(|(_, operation)| *operation)
}

/// The name that rows have for an operation; `-` for one that no row can have.
pub fn operation_name(operation: Operation) -> &'static str {
    OPERATIONS.iter().find(|(_, known)| *known == operation).map_or("-", |(name, _)| name)
}

fn type_by_name(name: &str) -> Option<Type> {
    TYPES.iter().find(|(known, _)| *known == name).map(|(_, lock)| *lock)
}

/// The lock operations of a module: the lock bits of packed sites, by static address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockMarks {
    /// Atomic instructions.
    pub instructions: HashMap<u64, u64>,
    /// Calls of an atomic's function, whose first argument is the lock word.
    pub calls: HashMap<u64, u64>,
    /// Functions, by their first byte.
    pub functions: HashMap<u64, u64>,
    /// Atomic instructions that may give up a lock, whose frames were lost where the compiler merged them with others.
    pub nameless: HashSet<u64>,
    /// How often each row of the catalogue was found, by its text.
    pub rows: BTreeMap<String, u64>,
}

impl LockMarks {
    fn uses(&mut self, row: &Row) {
        *self.rows.entry(row.text.clone()).or_default() += 1;
    }

    /// What the instruction at an address does to which type of lock.
    pub fn at(&self, pc: u64) -> Option<(Operation, Type)> {
        let bits = self.instructions.get(&pc).or_else(|| self.calls.get(&pc))?;
        Some((operation_of(*bits)?, type_of(*bits)))
    }

    /// Operations found, by type of lock and operation.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut counts = BTreeMap::new();
        for bits in self.instructions.values().chain(self.calls.values()).chain(self.functions.values()) {
            if let Some(operation) = operation_of(*bits) {
                *counts.entry((type_of(*bits).name(), operation_name(operation))).or_default() += 1;
            }
        }
        counts
    }

    /// Whether a function has any.
    pub fn concern(&self, function: &Function) -> bool {
        self.functions.contains_key(&function.start.0)
            || function.instructions.iter().map(Instruction::ip).any(|pc| {
                [&self.instructions, &self.calls].iter().any(|marks| marks.contains_key(&pc))
                    || self.nameless.contains(&pc)
            })
    }
}

/// A symbol's path without hash, disambiguators and generic arguments: `<a::B<T> as c::D>::e` becomes `a::B::e`.
fn plain_path(symbol: &str) -> String {
    let demangled = format!("{:#}", rustc_demangle::demangle(symbol));
    let mut path = String::with_capacity(demangled.len());
    let mut text = demangled.as_str();
    // `<a::B<T>>::e` and `<a::B<T> as c::D>::e`: the type stands for the path.
    if let Some(inner) = text.strip_prefix('<') {
        let mut depth = 1;
        let mut previous = ' ';
        let end = inner.char_indices().find(|(_, c)| {
            match c {
                '<' => depth += 1,
                '>' if previous != '-' => depth -= 1,
                _ => {}
            }
            previous = *c;
            depth == 0
        });
        if let Some((end, _)) = end {
            path = plain_text(inner[..end].split(" as ").next().unwrap_or_default());
            text = &inner[end + 1..];
        }
    }
    path + &plain_text(text)
}

fn plain_text(text: &str) -> String {
    let mut depth = 0usize;
    let mut previous = ' ';
    let kept: String = text
        .chars()
        .filter(|c| {
            let keep = depth == 0 && *c != '<';
            match c {
                '<' => depth += 1,
                '>' if previous != '-' => depth = depth.saturating_sub(1),
                _ => {}
            }
            previous = *c;
            keep
        })
        .collect();
    kept.replace("::::", "::")
}

type Debuginfo<'a> = addr2line::Context<EndianSlice<'a, LittleEndian>>;

/// Finds the lock operations of a module. `data` are the ELF file's bytes that `scan` was made from.
pub fn mark(scan: &ModuleScan, data: &[u8], catalogue: &Catalogue) -> LockMarks {
    let mut marks = LockMarks::default();
    let mut atomics: HashMap<u64, Atomic> = HashMap::new();
    for function in &scan.functions {
        let path = plain_path(&function.symbol);
        if let Some(row) = catalogue.function(&path) {
            marks.functions.insert(function.start.0, row.bits);
            marks.uses(row);
        }
        if path.starts_with("core::sync::atomic::") {
            atomics.insert(function.start.0, Atomic::of(path.rsplit("::").next().unwrap_or_default()));
        }
    }
    // In unoptimised code a function of another crate may be called through a slot of the global offset table.
    let slots: HashMap<u64, u64> = match Image::parse(data) {
        Ok(image) => CodePointers::of(&image, (0, u64::MAX)).values_in_range.into_iter().collect(),
        Err(_) => HashMap::new(),
    };
    let Ok(file) = object::File::parse(data) else { return marks };
    let sections = load_sections(&file);
    let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
    let Ok(context) = addr2line::Context::from_dwarf(dwarf) else { return marks };
    for function in &scan.functions {
        let operation = marks.functions.get(&function.start.0).copied().and_then(operation_of);
        if operation.is_some_and(Operation::is_on_word) {
            // The function as a whole is the operation.
            continue;
        }
        let sites_of =
            |class: Class| -> Vec<u64> { function.sites.iter().filter(|s| s.class == class).map(|s| s.pc.0).collect() };
        let (loads, stores) = (sites_of(Class::AtomicLoad), sites_of(Class::AtomicStore));
        for instruction in &function.instructions {
            let pc = instruction.ip();
            if is_locking(instruction) || stores.binary_search(&pc).is_ok() {
                if let Some((bits, row)) =
                    by_frames(&context, pc, catalogue).filter(|(bits, _)| fits(instruction, *bits))
                {
                    marks.instructions.insert(pc, bits);
                    marks.uses(row);
                } else if exchanges(instruction) && is_nameless(&context, pc) {
                    marks.nameless.insert(pc);
                }
            } else if loads.binary_search(&pc).is_ok() {
                if let Some((bits, row)) = by_frames(&context, pc, catalogue).and_then(as_look) {
                    marks.instructions.insert(pc, bits);
                    marks.uses(row);
                }
            } else if let Some(target) = callee(instruction, &slots)
                && let Some(atomic) = atomics.get(&target)
                && let Some((bits, row)) = by_frames(&context, pc, catalogue)
            {
                if *atomic == Atomic::Loads {
                    if let Some((bits, row)) = as_look((bits, row)) {
                        marks.calls.insert(pc, bits);
                        marks.uses(row);
                    }
                    continue;
                }
                if *atomic != Atomic::Compares && operation_of(bits).is_some_and(Operation::compares) {
                    continue;
                }
                // A compare-exchange returns a `Result`, whose tag is in `al`.
                let bits = match operation_of(bits) {
                    Some(operation) if operation.takes() => lock_bits(operation, Success::Zero, type_of(bits)),
                    _ => bits,
                };
                marks.calls.insert(pc, bits);
                marks.uses(row);
            }
        }
    }
    marks
}

/// A function of core's atomics that was not inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Atomic {
    Loads,
    /// It compares and exchanges, and returns a `Result`.
    Compares,
    Other,
}

impl Atomic {
    fn of(name: &str) -> Atomic {
        match name {
            "load" | "atomic_load" => Atomic::Loads,
            "fetch_update" | "try_update" => Atomic::Compares,
            name if name.contains("compare_exchange") => Atomic::Compares,
            _ => Atomic::Other,
        }
    }
}

/// A load in a function that tries: it looks whether the lock can be taken. A fast path that looks is followed by a slow one that
/// looks again.
fn as_look((bits, row): (u64, &Row)) -> Option<(u64, &Row)> {
    let looks = match operation_of(bits)? {
        Operation::TryExclusive | Operation::TryUpgradable => Operation::LookExclusive,
        Operation::TryShared => Operation::LookShared,
        _ => return None,
    };
    (!row.function.ends_with("_fast")).then(|| (lock_bits(looks, success_of(bits), type_of(bits)), row))
}

/// The function that a call calls, where that is known.
fn callee(instruction: &Instruction, slots: &HashMap<u64, u64>) -> Option<u64> {
    if instruction.is_call_near() {
        return Some(instruction.near_branch_target());
    }
    let through_slot = instruction.is_call_near_indirect() && instruction.is_ip_rel_memory_operand();
    through_slot.then(|| slots.get(&instruction.ip_rel_memory_address()).copied()).flatten()
}

/// An instruction that may take or give up a lock.
fn is_locking(instruction: &Instruction) -> bool {
    instruction.has_lock_prefix()
        || instruction.mnemonic() == Mnemonic::Xchg && instruction.op0_kind() == iced_x86::OpKind::Memory
}

/// An instruction that may give up a lock and also tells what was there.
pub(crate) fn exchanges(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Cmpxchg)
}

/// Whether an atomic instruction has lost the frames of the atomic's function: identical code of two callers was merged.
fn is_nameless(context: &Debuginfo<'_>, pc: u64) -> bool {
    let Ok(mut frames) = context.find_frames(pc).skip_all_loads() else { return false };
    let Ok(Some(frame)) = frames.next() else { return false };
    let file = frame.location.as_ref().and_then(|location| location.file).unwrap_or_default();
    !file.is_empty() && !CORE_ATOMICS.iter().any(|suffix| file.ends_with(suffix))
}

/// Files of the functions that atomics are made of.
const CORE_ATOMICS: [&str; 2] = ["core/src/sync/atomic.rs", "core/src/intrinsics/mod.rs"];

/// Only a compare-exchange takes a lock here, since its outcome is in the flags.
fn fits(instruction: &Instruction, bits: u64) -> bool {
    let compares = operation_of(bits).is_some_and(Operation::compares);
    !compares || instruction.mnemonic() == Mnemonic::Cmpxchg
}

fn by_frames<'c>(context: &Debuginfo<'_>, pc: u64, catalogue: &'c Catalogue) -> Option<(u64, &'c Row)> {
    let mut frames = context.find_frames(pc).skip_all_loads().ok()?;
    let mut found = None;
    for _ in 0..64 {
        let Ok(Some(frame)) = frames.next() else { break };
        let name = frame.function.as_ref()?.demangle().ok()?;
        let file = frame.location.as_ref().and_then(|l| l.file).unwrap_or_default();
        let name = plain_text(&name);
        let name = name.rsplit("::").next().unwrap_or(&name);
        // The file of a frame is where its code stands: that of the function itself.
        if CORE_ATOMICS.iter().any(|suffix| file.ends_with(suffix)) {
            continue;
        }
        match found {
            None => found = catalogue.inlined(name, file).map(|row| (row.bits, row)).map(Some)?,
            // `try_read` and its like share the fast path of the waiting form; `read_recursive` passes waiting writers.
            Some((bits, row)) if name.starts_with("try_") || name.ends_with("_recursive") => {
                return Some((as_try(bits), row));
            }
            Some(_) => {}
        }
    }
    found
}

/// The form of an operation that does not wait.
fn as_try(bits: u64) -> u64 {
    match operation_of(bits) {
        Some(Operation::LockExclusive) => lock_bits(Operation::TryExclusive, success_of(bits), type_of(bits)),
        Some(Operation::LockShared) => lock_bits(Operation::TryShared, success_of(bits), type_of(bits)),
        Some(Operation::LockUpgradable) => lock_bits(Operation::TryUpgradable, success_of(bits), type_of(bits)),
        _ => bits,
    }
}

fn load_sections<'a>(file: &object::File<'a>) -> gimli::DwarfSections<Cow<'a, [u8]>> {
    let loaded: Result<_, std::convert::Infallible> = gimli::DwarfSections::load(|id| {
        let section = file.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok());
        Ok(section.unwrap_or(Cow::Borrowed(&[])))
    });
    let Ok(sections) = loaded;
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_row_is_read() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.add(BUILT_IN), Ok(()));
        let rows = BUILT_IN.lines().filter(|l| l.starts_with("inline ") || l.starts_with("function ")).count();
        let read: usize = catalogue.inlined.values().chain(catalogue.functions.values()).map(Vec::len).sum();
        assert_eq!(read, rows);
    }

    #[test]
    fn bad_rows_are_refused_with_their_line() {
        let refuse = |text: &str| Catalogue::default().add(text).map_err(|e| e.line);
        assert_eq!(refuse("\n# fine\nfunction a::b lock-exclusive always user\nlock x"), Err(4));
        assert_eq!(refuse("function a::b lock-twice always user"), Err(1));
        assert_eq!(refuse("function a::b lock-exclusive always"), Err(1));
        assert_eq!(refuse("function a::b lock-exclusive perhaps user"), Err(1));
    }

    #[test]
    fn inlined_functions_are_known_by_name_and_file() {
        let catalogue = Catalogue::built_in();
        let of = |name, file| catalogue.inlined(name, file).map(|row| (operation_of(row.bits), type_of(row.bits)));
        let std = "/rustc/0123/library/std/src/sys/sync/mutex/futex.rs";
        assert_eq!(of("lock", std), Some((Some(Operation::LockExclusive), Type::StdMutex)));
        assert_eq!(of("unlock", std), Some((Some(Operation::UnlockExclusive), Type::StdMutex)));
        assert_eq!(of("lock_contended", std), None);
        assert_eq!(of("lock", "/home/me/src/mutex.rs"), None);
        let parking_lot = "/home/me/.cargo/registry/src/index/parking_lot-0.12.3/src/raw_mutex.rs";
        assert_eq!(of("lock", parking_lot), Some((Some(Operation::LockExclusive), Type::ParkingLotMutex)));
        assert_eq!(of("lock", "raw_mutex.rs"), None);
    }

    #[test]
    fn functions_are_known_by_the_end_of_their_path() {
        let catalogue = Catalogue::built_in();
        let of = |symbol: &str| catalogue.function(&plain_path(symbol)).and_then(|row| operation_of(row.bits));
        assert_eq!(
            of("_ZN3std3sys4sync5mutex5futex5Mutex14lock_contended17h0123456789abcdefE"),
            Some(Operation::LockExclusive)
        );
        assert_eq!(
            of("_ZN11parking_lot9raw_mutex8RawMutex9lock_slow17h0123456789abcdefE"),
            Some(Operation::LockExclusive)
        );
        assert_eq!(of("_ZN3std4sync4mpmc4list16Channel$LT$T$GT$4recv17h0123456789abcdefE"), Some(Operation::Receive));
        assert_eq!(of("_ZN3app4sync5mutex14lock_contended17h0123456789abcdefE"), None);
    }

    #[test]
    fn paths_lose_generic_arguments_and_traits() {
        assert_eq!(plain_text("std::sync::mpmc::list::Channel<T>::recv"), "std::sync::mpmc::list::Channel::recv");
        assert_eq!(plain_text("a::<u8>::b"), "a::b");
    }

    #[test]
    fn file_suffixes_match_whole_components() {
        assert!(ends_with("/x/parking_lot-0.12.3/src/raw_mutex.rs", "*/src/raw_mutex.rs"));
        assert!(ends_with("/x/dashmap-6.1.0/src/lock.rs", "dashmap-*/src/lock.rs"));
        assert!(!ends_with("/x/other-6.1.0/src/lock.rs", "dashmap-*/src/lock.rs"));
        assert!(!ends_with("lock.rs", "src/lock.rs"));
    }
}
