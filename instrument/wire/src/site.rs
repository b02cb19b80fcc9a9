//! The runtime's view of a site: what kind of access an instruction makes, packed into eight bytes.

/// What a site does, as far as the runtime treats it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// A plain read.
    Read = 0,
    /// A plain write.
    Write = 1,
    /// A plain read-modify-write (`add [m], r`).
    ReadWrite = 2,
    /// An atomic load.
    AtomicLoad = 3,
    /// An atomic store.
    AtomicStore = 4,
    /// An atomic read-modify-write.
    AtomicRmw = 5,
    /// A load that may or may not be atomic: never a side of a report; acquires where the granule has a sync object.
    UnknownLoad = 6,
    /// A store that may or may not be atomic: never a side of a report; releases where the granule has a
    /// sync object, or always where [`SiteFlags::RELEASE_ALWAYS`] is set.
    UnknownStore = 7,
    /// A read-modify-write without `lock` that may or may not be meant as atomic.
    UnknownRmw = 8,
    /// `rep movs` and single `movs`: reads `[rsi]`, writes `[rdi]`; `size` is the element's.
    StringMove = 9,
    /// `rep stos` and single `stos`: writes `[rdi]`.
    StringStore = 10,
    /// `cmps`, `scas`, `lods`: reads.
    StringRead = 11,
    /// A `syscall` instruction.
    Syscall = 12,
    /// A function's entry, exit or call that crosses code conprof does not understand.
    Opaque = 13,
}

impl Class {
    /// The class with the given number, if there is one.
    pub const fn from_u8(value: u8) -> Option<Class> {
        Some(match value {
            0 => Class::Read,
            1 => Class::Write,
            2 => Class::ReadWrite,
            3 => Class::AtomicLoad,
            4 => Class::AtomicStore,
            5 => Class::AtomicRmw,
            6 => Class::UnknownLoad,
            7 => Class::UnknownStore,
            8 => Class::UnknownRmw,
            9 => Class::StringMove,
            10 => Class::StringStore,
            11 => Class::StringRead,
            12 => Class::Syscall,
            13 => Class::Opaque,
            _ => return None,
        })
    }

    /// Whether the access stores.
    pub const fn writes(self) -> bool {
        matches!(
            self,
            Class::Write
                | Class::ReadWrite
                | Class::AtomicStore
                | Class::AtomicRmw
                | Class::UnknownStore
                | Class::UnknownRmw
                | Class::StringMove
                | Class::StringStore
        )
    }

    /// Whether the access loads.
    pub const fn reads(self) -> bool {
        matches!(
            self,
            Class::Read
                | Class::ReadWrite
                | Class::AtomicLoad
                | Class::AtomicRmw
                | Class::UnknownLoad
                | Class::UnknownRmw
                | Class::StringMove
                | Class::StringRead
        )
    }
}

/// A memory order as recovered from debuginfo, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Not recovered.
    Unknown = 0,
    Relaxed = 1,
    Acquire = 2,
    Release = 3,
    AcqRel = 4,
    SeqCst = 5,
}

/// Bits beside a site's class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SiteFlags(pub u8);

impl SiteFlags {
    /// The load may be one the compiler invented (hoisted, vectorised, feeds a `cmov`): "possible" at most.
    pub const SPECULATIVE: u8 = 1;
    /// The access comes from a C or C++ unit: "likely" at most.
    pub const FOREIGN: u8 = 2;
    /// The result of the read-modify-write is not used.
    pub const RESULT_UNUSED: u8 = 4;
    /// The read-modify-write counts references up and orders nothing (`Arc::clone`, `Weak::clone`).
    pub const ORDERS_NOTHING: u8 = 8;
    /// The unknown store stands in a function whose inline tree contains atomics.
    pub const RELEASE_ALWAYS: u8 = 16;
    /// The effective address is on the stack (`rsp`- or frame-pointer-based).
    pub const STACK: u8 = 32;
    /// A read or write that the benign-pattern catalogue names: never reported, counted.
    pub const BENIGN: u8 = 64;
    /// The string instruction has a `rep` prefix: `rcx` counts; without it, it makes one step.
    pub const REPEATED: u8 = 128;

    /// Whether all bits of `flag` are set.
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag == flag
    }
}

/// One row of the runtime site table, indexed by the site index that generated code pushes.
///
/// ```text
///  63        40 39   32 31   24 23  20 19   16 15            0
/// |  reserved  | flags | class | order|   0   |  size bytes   |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PackedSite(pub u64);

const _: () = assert!(size_of::<PackedSite>() == 8);

impl PackedSite {
    /// Packs a row. `size` is in bytes.
    pub const fn new(class: Class, order: Order, flags: SiteFlags, size: u16) -> PackedSite {
        PackedSite((size as u64) | ((order as u64) << 20) | ((class as u64) << 24) | ((flags.0 as u64) << 32))
    }

    /// Size of the access in bytes; of one element for string operations.
    pub const fn size(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// The class; a row that no plan can contain counts as [`Class::UnknownLoad`].
    pub const fn class(self) -> Class {
        match Class::from_u8((self.0 >> 24) as u8) {
            Some(class) => class,
            None => Class::UnknownLoad,
        }
    }

    /// The memory order; [`Order::Unknown`] for plain accesses.
    pub const fn order(self) -> Order {
        match (self.0 >> 20) & 0xf {
            1 => Order::Relaxed,
            2 => Order::Acquire,
            3 => Order::Release,
            4 => Order::AcqRel,
            5 => Order::SeqCst,
            _ => Order::Unknown,
        }
    }

    /// The flags.
    pub const fn flags(self) -> SiteFlags {
        SiteFlags((self.0 >> 32) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips() {
        for class in 0..14u8 {
            let class = Class::from_u8(class).expect("a class");
            let site = PackedSite::new(class, Order::AcqRel, SiteFlags(SiteFlags::STACK), 64);
            assert_eq!(
                (site.class(), site.order(), site.flags().0, site.size()),
                (class, Order::AcqRel, SiteFlags::STACK, 64)
            );
        }
    }
}
