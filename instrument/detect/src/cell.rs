//! Shadow cells: one access in eight bytes.
//!
//! ```text
//!   63   62                23 22       10   9      8     7      0
//! | tag | epoch (40 bits)    |  slot 13  | read | freed | byte mask |
//! ```
//!
//! A cell of 0 is empty. `tag` is set only in the first word of a granule and says that the granule has a sync
//! object, whose index is the low 32 bits; such a word is not a cell. `read` is set only in the third word, since
//! the place of a cell says its kind otherwise. The layout is a contract with generated code, which compares cells.

/// Bits of a byte mask.
pub const MASK_BITS: u64 = 0xff;
/// Bit of a cell that marks a write made by freeing the memory.
pub const FREED: u64 = 1 << 8;
/// Bit of a cell that marks a read, in the third word of a granule.
pub const READ: u64 = 1 << 9;
/// Position of the slot.
pub const SLOT_SHIFT: u32 = 10;
/// Bits of a slot.
pub const SLOT_BITS: u32 = 13;
/// Position of the epoch.
pub const EPOCH_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
/// Bits of an epoch.
pub const EPOCH_BITS: u32 = 40;
/// Bit of a granule's first word that marks a sync object.
pub const SYNC_TAG: u64 = 1 << 63;
/// Number of slots.
pub const SLOT_COUNT: usize = 1 << SLOT_BITS;
/// Bits that say whose access it is and when: slot and epoch.
pub const OWNER_BITS: u64 = ((1 << (SLOT_BITS + EPOCH_BITS)) - 1) << SLOT_SHIFT;

const _: () = assert!(EPOCH_SHIFT + EPOCH_BITS == 63);
const _: () = assert!(size_of::<Cell>() == 8);
const _: () = assert!(MASK_BITS & FREED == 0 && FREED & READ == 0 && (MASK_BITS | FREED | READ) & OWNER_BITS == 0);
const _: () = assert!(OWNER_BITS & SYNC_TAG == 0 && (MASK_BITS | FREED | READ | OWNER_BITS | SYNC_TAG) == u64::MAX);

/// Index of a thread's component in vector clocks; a thread that ended gives its slot to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Slot(u16);

impl Slot {
    /// The slot of the given index, cut to the bits a slot has.
    #[inline]
    pub const fn new(index: usize) -> Slot {
        Slot((index & (SLOT_COUNT - 1)) as u16)
    }

    /// The index; below [`SLOT_COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize & (SLOT_COUNT - 1)
    }
}

/// A thread's logical time: it advances when the thread releases. Forty bits; a thread that advanced it a
/// million times a second would need twelve days to exhaust it, after which it stays where it is (a miss).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The last epoch there is.
    pub const MAX: Epoch = Epoch((1 << EPOCH_BITS) - 1);

    /// The epoch after this one.
    #[inline]
    pub const fn next(self) -> Epoch {
        if self.0 >= Epoch::MAX.0 { Epoch::MAX } else { Epoch(self.0 + 1) }
    }
}

/// A number of the caller's that says who made an access: 21 bits, 0 where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AccessId(u32);

impl AccessId {
    /// Bits of an id.
    pub const BITS: u32 = 21;
    /// Nobody knows who.
    pub const LOST: AccessId = AccessId(0);

    /// The id with the given number; numbers that do not fit are [`AccessId::LOST`].
    #[inline]
    pub const fn new(number: u32) -> AccessId {
        if number >> AccessId::BITS == 0 { AccessId(number) } else { AccessId::LOST }
    }

    /// The number.
    #[inline]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// One access, packed; see the module documentation for the layout.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cell(pub u64);

impl Cell {
    /// No access.
    pub const EMPTY: Cell = Cell(0);

    /// A write (or, by its place, a read) of no byte.
    #[inline]
    pub const fn new(slot: Slot, epoch: Epoch) -> Cell {
        Cell(((slot.index() as u64) << SLOT_SHIFT) | ((epoch.0 & Epoch::MAX.0) << EPOCH_SHIFT))
    }

    /// Whether the cell holds no access.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 & MASK_BITS == 0
    }

    /// The bytes of the granule that were accessed, lowest address at bit 0.
    #[inline]
    pub const fn mask(self) -> u8 {
        self.0 as u8
    }

    /// The same access to the given bytes.
    #[inline]
    pub const fn with_mask(self, mask: u8) -> Cell {
        Cell((self.0 & !MASK_BITS) | mask as u64)
    }

    /// The same access without the given bytes; empty where nothing is left.
    #[inline]
    pub const fn without(self, mask: u8) -> Cell {
        let rest = self.mask() & !mask;
        if rest == 0 { Cell::EMPTY } else { self.with_mask(rest) }
    }

    /// Who accessed.
    #[inline]
    pub const fn slot(self) -> Slot {
        Slot::new((self.0 >> SLOT_SHIFT) as usize)
    }

    /// When, in the accessing thread's own time.
    #[inline]
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> EPOCH_SHIFT) & Epoch::MAX.0)
    }

    /// Whether the memory was freed.
    #[inline]
    pub const fn is_freed(self) -> bool {
        self.0 & FREED != 0
    }

    /// Whether a cell in a granule's third word is a read.
    #[inline]
    pub const fn is_read(self) -> bool {
        self.0 & READ != 0
    }

    /// The cell with the mark for the third word: read or write.
    #[inline]
    pub const fn marked_read(self, read: bool) -> Cell {
        if read { Cell(self.0 | READ) } else { Cell(self.0 & !READ) }
    }

    /// Whether both were made by one thread in one epoch.
    #[inline]
    pub const fn same_owner(self, other: Cell) -> bool {
        (self.0 ^ other.0) & OWNER_BITS == 0
    }
}

impl core::fmt::Debug for Cell {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Cell({}{} slot {} epoch {} mask {:08b})",
            if self.is_read() { "R" } else { "-" },
            if self.is_freed() { "F" } else { "-" },
            self.slot().index(),
            self.epoch().0,
            self.mask()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let cell = Cell::new(Slot::new(SLOT_COUNT - 1), Epoch::MAX).with_mask(0xa5);
        assert_eq!((cell.slot().index(), cell.epoch(), cell.mask()), (SLOT_COUNT - 1, Epoch::MAX, 0xa5));
        assert!(!cell.is_read() && !cell.is_freed() && cell.0 & SYNC_TAG == 0);
        assert_eq!(cell.marked_read(true).marked_read(false), cell);
        assert_eq!(cell.without(0xff), Cell::EMPTY);
        assert_eq!(cell.without(0x05).mask(), 0xa0);
        assert_eq!(Epoch::MAX.next(), Epoch::MAX);
        assert_eq!(AccessId::new(1 << 21), AccessId::LOST);
    }
}
