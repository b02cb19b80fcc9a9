//! What an access means by its debuginfo: plain, atomic with an ordering, or unknown.
//!
//! An access is atomic if its innermost inlined function is one of `atomic_load`, `atomic_store` ... in
//! `core/src/sync/atomic.rs` (name and file, since with line tables alone names have no namespace), and its line there is the arm
//! of the ordering. What such a frame also holds, spills and reads of constants, is told apart by direction and address. Without a row, or
//! with line 0, an access is unknown.

use super::catalogue::{Benign, Treatment};
use crate::dwarf::{DebugInfo, FrameView, Language, Orderings, Place, plain_name};
use crate::wire::site::{Class, Order, SiteFlags};

/// The file with std's atomic operations, whatever the toolchain calls its folder.
const ATOMIC_FILE: &str = "core/src/sync/atomic.rs";

/// What is asked of the debuginfo, for a whole module.
pub(super) struct Meanings<'a, 's> {
    /// The debuginfo.
    pub debug: &'a DebugInfo<'s>,
    /// Orderings by line.
    pub orderings: Orderings,
    /// Known benign patterns.
    pub benign: Benign,
    /// The user's own code has debuginfo.
    pub sufficient: bool,
    /// Commit in `.comment`, for units that do not say theirs.
    pub commit: Option<String>,
}

/// Class, order and flags of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub class: Class,
    pub order: Order,
    pub flags: u8,
    /// No debuginfo covers the access.
    pub uncovered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Load,
    Store,
    ReadModifyWrite,
}

impl Operation {
    /// By the name of a function in `core/src/sync/atomic.rs`.
    fn of_core(name: &[u8]) -> Option<Operation> {
        Some(match plain_name(name).strip_prefix(b"atomic_")? {
            b"load" => Operation::Load,
            b"store" => Operation::Store,
            b"swap"
            | b"add"
            | b"sub"
            | b"compare_exchange"
            | b"compare_exchange_weak"
            | b"and"
            | b"nand"
            | b"or"
            | b"xor"
            | b"max"
            | b"min"
            | b"umax"
            | b"umin" => Operation::ReadModifyWrite,
            _ => return None,
        })
    }

    /// By the name of a member of C++'s `std::atomic` and its bases.
    fn of_std_atomic(frame: &FrameView<'_>) -> Option<Operation> {
        let named = |text: &[u8]| text.windows(6).any(|part| part == b"atomic");
        if !named(frame.owner) && !named(frame.linkage) {
            return None;
        }
        Some(match frame.name {
            b"load" | b"wait" | b"test" => Operation::Load,
            b"store" | b"clear" => Operation::Store,
            name if name.starts_with(b"fetch_")
                || name.starts_with(b"exchange")
                || name.starts_with(b"compare_exchange")
                || name.starts_with(b"test_and_set")
                || name.starts_with(b"operator") =>
            {
                Operation::ReadModifyWrite
            }
            _ => return None,
        })
    }

    /// Class of an instruction that does `encoded` as a part of the operation.
    fn class(self, encoded: Class) -> Class {
        match (self, encoded) {
            (_, Class::AtomicRmw | Class::ReadWrite) => Class::AtomicRmw,
            (Operation::Load | Operation::ReadModifyWrite, Class::Read) => Class::AtomicLoad,
            (Operation::Store, Class::Write) => Class::AtomicStore,
            (_, other) => unknown(other),
        }
    }
}

/// The unknown class of the same direction.
pub(super) fn unknown(class: Class) -> Class {
    match class {
        Class::Read => Class::UnknownLoad,
        Class::Write => Class::UnknownStore,
        Class::ReadWrite => Class::UnknownRmw,
        other => other,
    }
}

impl<'s> Meanings<'_, 's> {
    /// Whether any function inlined into `[start, end)` is an atomic operation.
    pub fn has_atomics(&self, start: u64, end: u64) -> bool {
        self.debug
            .innermost(start, end)
            .any(|place| self.debug.frames(&place).next().is_some_and(|frame| Operation::of_core(frame.name).is_some()))
    }

    /// Meaning of an access that is `encoded` by its instruction.
    pub fn of(&self, pc: u64, encoded: Class, size: u16, stack: bool) -> (Meaning, Place<'s>) {
        let place = self.debug.place(pc);
        let plain = |class| Meaning { class, order: Order::Unknown, flags: 0, uncovered: false };
        let innermost = self.debug.frames(&place).next();
        if let Some(innermost) = &innermost
            && let Some(meaning) = self.atomic(&place, innermost, encoded, stack)
        {
            return (meaning, place);
        }
        if encoded == Class::AtomicRmw {
            return (plain(encoded), place);
        }
        let Some(kind) = self.debug.unit_kind(&place).filter(|_| self.sufficient) else {
            return (Meaning { uncovered: true, ..plain(unknown(encoded)) }, place);
        };
        if place.row.is_none_or(|(_, line)| line == 0) {
            return (plain(unknown(encoded)), place);
        }
        if kind.language != Language::Rust {
            let class = match kind.has_types && !kind.has_atomic_types {
                false if size <= 8 => unknown(encoded),
                _ => encoded,
            };
            return (Meaning { flags: SiteFlags::FOREIGN, ..plain(class) }, place);
        }
        if innermost.is_some_and(|frame| {
            matches!(frame.plain_name(), b"read_volatile" | b"write_volatile" | b"volatile_load" | b"volatile_store")
        }) {
            return (plain(unknown(encoded)), place);
        }
        match self.benign.treatment(self.debug, &place) {
            Some(Treatment::Benign) => (Meaning { flags: SiteFlags::BENIGN, ..plain(encoded) }, place),
            Some(Treatment::Unknown) => (plain(unknown(encoded)), place),
            Some(Treatment::Unseen) | None => (plain(encoded), place),
        }
    }

    /// Whether the catalogue takes the place out of sight.
    pub fn is_unseen(&self, place: &Place<'s>) -> bool {
        self.benign.treatment(self.debug, place) == Some(Treatment::Unseen)
    }

    fn atomic(&self, place: &Place<'s>, innermost: &FrameView<'s>, encoded: Class, stack: bool) -> Option<Meaning> {
        let flags = 0;
        if innermost.name.starts_with(b"atomic_") && innermost.file.ends_with(ATOMIC_FILE) {
            let operation = Operation::of_core(innermost.name)?;
            let order = self.order(place, innermost.line);
            // The operand of an out-of-line operation comes as a pointer, so what lies in its own frame is a spill; where the
            // operation is inlined, the atomic itself may be a local variable.
            let spill = stack && (!innermost.inlined || order == Order::Unknown && innermost.line != 0);
            if spill && encoded != Class::AtomicRmw {
                return None;
            }
            return Some(Meaning { class: operation.class(encoded), order, flags, uncovered: false });
        }
        let operation = Operation::of_std_atomic(innermost)?;
        let kind = self.debug.unit_kind(place)?;
        if kind.language != Language::Other || stack && encoded != Class::AtomicRmw {
            return None;
        }
        let flags = SiteFlags::FOREIGN;
        Some(Meaning { class: operation.class(encoded), order: Order::Unknown, flags, uncovered: false })
    }

    fn order(&self, place: &Place<'s>, line: u32) -> Order {
        let commit = self.debug.unit_kind(place).and_then(|kind| kind.rustc_commit()).or(self.commit.as_deref());
        commit.map_or(Order::Unknown, |commit| self.orderings.order(commit, line))
    }

    /// Whether the place belongs to a reference count going up, which publishes nothing.
    pub fn counts_up(&self, place: &Place<'s>) -> bool {
        self.debug.frames(place).any(|frame| match frame.plain_name() {
            b"clone" => frame.file.ends_with("alloc/src/sync.rs"),
            // A relaxed count of a scope's threads; its going down releases, and the scope's end acquires.
            b"increment_num_running_threads" => frame.file.ends_with("std/src/thread/scoped.rs"),
            _ => false,
        })
    }
}
