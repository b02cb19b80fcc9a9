//! Sync objects: what releases and acquires of an address, a lock or a thread's life go through.
//!
//! # Clock of an object
//! An object's clock is a shared copy of a thread's clock plus one component: `(base, slot, epoch)`. While the
//! releasing thread has acquired nothing since the copy was made, a release is a store of an epoch. Where the releasing thread's clock covers the
//! object's (the usual case: it acquired before), the object takes over the thread's copy; else the object gets a joined copy of its
//! own and is *merged*.
//!
//! Invariant: for one `(slot, epoch)` that was ever released there is one clock (a thread's epoch advances before a release if
//! its clock grew or it stored a cell since the last advance). So where an object is not merged and a clock's component for the
//! object's slot is at least the object's epoch, the clock covers the object: acquire and release are O(1) then.
//!
//! # Life
//! Objects are type-stable: a thread that found an index in the shadow may lock the object after it was freed, and
//! checks under the lock that the object still belongs to the granule. No two object locks are held at once.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cell::{Epoch, Slot};
use super::clock::ClockRef;
use super::granule::Granule;
use super::lock::SpinLock;

/// A sync object; zeroed memory is a free one that was never used.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct SyncObject {
    pub(super) lock: SpinLock,
    /// Next in the list of free objects.
    pub(super) next: AtomicU32,
    /// Address of the granule within the shadowed window, plus 1; 0 where attached to none.
    pub(super) granule: AtomicU64,
    /// The cells of the granule's bytes that were not accessed atomically.
    pub(super) cells: Granule,
    /// Component beside `base`.
    pub(super) epoch: AtomicU64,
    /// Its slot.
    pub(super) slot: AtomicU32,
    /// [`ClockRef`] of the shared copy.
    pub(super) base: AtomicU32,
    /// Not 0 where `base` is not the clock of `slot` at `epoch` but a join.
    pub(super) merged: AtomicU32,
    /// How often the object was freed: with the index, an identity that is never used again.
    pub(super) generation: AtomicU32,
    /// Byte `k`: offsets at which `1 << k` bytes were accessed atomically.
    pub(super) units: AtomicU32,
    /// Bytes that were accessed atomically.
    pub(super) atomic_mask: AtomicU32,
    /// Bytes that something was released through: who touches none of them has nothing to acquire.
    released: AtomicU32,
}

const _: () = assert!(size_of::<SyncObject>() == 128);

impl SyncObject {
    /// Slot and epoch of the last release; epoch 0 where there was none.
    pub(super) fn component(&self) -> (Slot, Epoch) {
        (Slot::new(self.slot.load(Ordering::Relaxed) as usize), Epoch(self.epoch.load(Ordering::Relaxed)))
    }

    pub(super) fn base(&self) -> ClockRef {
        ClockRef::from_raw(self.base.load(Ordering::Relaxed))
    }

    pub(super) fn is_merged(&self) -> bool {
        self.merged.load(Ordering::Relaxed) != 0
    }

    /// Whether nothing was ever released into it.
    pub(super) fn is_silent(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) == 0 && self.base().is_none()
    }

    pub(super) fn set_clock(&self, (slot, epoch): (Slot, Epoch), base: ClockRef, merged: bool) {
        self.slot.store(slot.index() as u32, Ordering::Relaxed);
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.base.store(base.to_raw(), Ordering::Relaxed);
        self.merged.store(u32::from(merged), Ordering::Relaxed);
    }

    /// Notes that an operation on these bytes releases.
    pub(super) fn note_release(&self, mask: u8) {
        self.released.store(self.released.load(Ordering::Relaxed) | u32::from(mask), Ordering::Relaxed);
    }

    /// Whether an operation on these bytes may see what was released. Neighbours share the object, as a lock's flag of poisoning
    /// and the next lock do.
    pub(super) fn has_released(&self, mask: u8) -> bool {
        self.released.load(Ordering::Relaxed) & u32::from(mask) != 0
    }

    /// Whether all of the bytes were released through.
    pub(super) fn has_released_all(&self, mask: u8) -> bool {
        self.released.load(Ordering::Relaxed) & u32::from(mask) == u32::from(mask)
    }

    /// Forgets which bytes are atomic and which were released through.
    pub(super) fn forget_bytes(&self) {
        self.units.store(0, Ordering::Relaxed);
        self.atomic_mask.store(0, Ordering::Relaxed);
        self.released.store(0, Ordering::Relaxed);
    }

    /// The bytes of the granule that were accessed atomically.
    pub(super) fn atomic_mask(&self) -> u8 {
        self.atomic_mask.load(Ordering::Relaxed) as u8
    }

    /// Whether exactly these bytes were once accessed by one atomic operation.
    pub(super) fn is_unit(&self, mask: u8) -> bool {
        unit_bit(mask).is_some_and(|bit| self.units.load(Ordering::Relaxed) & bit != 0)
    }

    /// Notes that the bytes were accessed by one atomic operation and forgets earlier plain accesses to them; says whether
    /// this is new.
    pub(super) fn mark_atomic(&self, mask: u8) -> bool {
        let known = self.atomic_mask();
        if let Some(bit) = unit_bit(mask) {
            let units = self.units.load(Ordering::Relaxed);
            if units & bit != 0 {
                return false;
            }
            self.units.store(units | bit, Ordering::Relaxed);
        }
        self.atomic_mask.store(u32::from(known | mask), Ordering::Relaxed);
        self.cells.forget(mask);
        true
    }
}

/// The bit in [`SyncObject::units`] for an access to these bytes; none where they are not 1, 2, 4 or 8 in a row.
fn unit_bit(mask: u8) -> Option<u32> {
    let offset = mask.trailing_zeros();
    let row = match mask.count_ones() {
        1 => 0,
        2 => 1,
        4 => 2,
        8 => 3,
        _ => return None,
    };
    let size = 1u32 << row;
    let in_a_row = (u32::from(mask) >> offset) == (1u32 << size) - 1;
    in_a_row.then_some(1 << (row * 8 + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exact() {
        let object = SyncObject::default();
        assert!(object.mark_atomic(0x0f) && !object.mark_atomic(0x0f));
        assert!(object.is_unit(0x0f) && !object.is_unit(0xf0) && !object.is_unit(0x03) && !object.is_unit(0xff));
        assert!(object.mark_atomic(0xff) && object.is_unit(0xff));
        assert_eq!(unit_bit(0b101), None);
        assert_eq!(unit_bit(0b111), None);
        assert_eq!(unit_bit(0), None);
        assert_eq!(unit_bit(0x80), Some(1 << 7));
    }
}
