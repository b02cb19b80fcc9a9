//! Rows of totals in the recording, found again by their keys.

use crate::record::table as rows;
use crate::rt::arena;
use crate::rt::lock::SpinLock;
use conprof_wire::recording::Table;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Slots looked at before a total counts as not there.
const PROBES: usize = 64;

static ADD: SpinLock<()> = SpinLock::new(());

/// Rows of totals, found by their keys.
pub(super) struct Slots {
    slots: AtomicPtr<AtomicU32>,
    mask: AtomicU32,
}

impl Slots {
    pub(super) const fn new() -> Slots {
        Slots { slots: AtomicPtr::new(core::ptr::null_mut()), mask: AtomicU32::new(0) }
    }

    pub(super) fn init(&self, table: Table) -> bool {
        let slots = (rows::capacity(table) as usize).max(PROBES).saturating_mul(2).next_power_of_two();
        let Some(memory) = arena::pages(slots * size_of::<AtomicU32>()) else { return false };
        self.mask.store(slots as u32 - 1, Ordering::Relaxed);
        self.slots.store(memory as *mut AtomicU32, Ordering::Relaxed);
        true
    }

    /// The row with the key that `is` recognises, or `new` appended.
    pub(super) fn find_or_add<T: Copy>(
        &self,
        table: Table,
        hash: u64,
        is: impl Fn(&T) -> bool,
        new: &T,
    ) -> Option<*mut T> {
        let found = self.find(table, hash, &is);
        if found.is_some() {
            return found;
        }
        let _add = ADD.lock();
        if let Some(found) = self.find(table, hash, &is) {
            return Some(found);
        }
        let index = rows::append(table, new)?;
        for probe in 0..PROBES {
            let slot = self.slot(hash, probe)?;
            if slot.load(Ordering::Relaxed) == 0 {
                // Release: pairs with the acquire in `find`.
                slot.store(index + 1, Ordering::Release);
                break;
            }
        }
        rows::row(table, index)
    }

    fn find<T>(&self, table: Table, hash: u64, is: &impl Fn(&T) -> bool) -> Option<*mut T> {
        for probe in 0..PROBES {
            // Acquire: pairs with the release in `find_or_add`; the row's key is whole and does not change.
            let index = self.slot(hash, probe)?.load(Ordering::Acquire);
            if index == 0 {
                return None;
            }
            let row = rows::row::<T>(table, index - 1)?;
            // SAFETY: the row is in the mapping and published.
            if is(unsafe { &*row }) {
                return Some(row);
            }
        }
        None
    }

    fn slot(&self, hash: u64, probe: usize) -> Option<&'static AtomicU32> {
        let slots = self.slots.load(Ordering::Relaxed);
        if slots.is_null() {
            return None;
        }
        let at = (hash >> 32).wrapping_add(probe as u64) as u32 & self.mask.load(Ordering::Relaxed);
        // SAFETY: the index is masked to the slots, which are never unmapped.
        Some(unsafe { &*slots.add(at as usize) })
    }
}
