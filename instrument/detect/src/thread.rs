//! What the detector keeps for a thread.

use super::cell::{Cell, Epoch, Slot};
use super::clock::{ClockRef, VectorClock};

/// A thread's happens-before state; used by its own thread only.
///
/// The thread's present epoch is one above its own component in its clock: that component is the last epoch that is
/// *closed*, and a release publishes closed epochs only. An epoch is closed at a release if a cell was stored in
/// it or the clock grew since the last closing; an epoch without either costs nothing to go on with.
#[derive(Debug)]
pub struct Thread {
    /// The cell of a full-granule write now; 0 while the thread has no slot.
    pub(super) key: Cell,
    pub(super) clock: VectorClock,
    /// Copy of `clock` as of the last growth, shared with sync objects.
    pub(super) copy: ClockRef,
    /// A cell of the present epoch may be in the shadow.
    pub(super) dirty: bool,
    /// The clock grew since the last closing.
    pub(super) grown: bool,
    /// An object has the present epoch, still open, with the clock as it is now.
    pub(super) published: bool,
    /// Address of a plain-looking load of an atomic address, plus 1, that has yet to acquire; 0 where none.
    pub(super) pending: u64,
    pub(super) random: u32,
    pub(super) first_epoch: Epoch,
}

impl Thread {
    /// A thread that was not started.
    pub const fn new() -> Thread {
        Thread {
            key: Cell::EMPTY,
            clock: VectorClock::detached(),
            copy: ClockRef::NONE,
            dirty: false,
            grown: false,
            published: false,
            pending: 0,
            random: 0,
            first_epoch: Epoch(0),
        }
    }

    /// The cell of a full-granule write now, for the inline check of generated code; 0 while the thread has no slot.
    #[inline(always)]
    pub fn key(&self) -> Cell {
        self.key
    }

    /// The slot.
    #[inline(always)]
    pub fn slot(&self) -> Slot {
        self.key.slot()
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.key.epoch()
    }

    /// The thread's first epoch in its slot: a cell of this slot with a lower epoch belongs to an earlier thread.
    pub fn first_epoch(&self) -> Epoch {
        self.first_epoch
    }

    /// Whether the thread has a slot.
    #[inline(always)]
    pub fn is_started(&self) -> bool {
        !self.key.is_empty()
    }

    /// The clock.
    pub fn clock(&self) -> &VectorClock {
        &self.clock
    }

    /// Gives the thread's clock its memory.
    ///
    /// # Safety
    /// As [`VectorClock::attach`].
    pub unsafe fn attach(&mut self, entries: *const core::sync::atomic::AtomicU64) {
        // SAFETY: the caller's promise.
        unsafe { self.clock.attach(entries) };
    }

    #[inline(always)]
    pub(super) fn coin(&mut self) -> u32 {
        // Weyl sequence: enough to break patterns of replacement.
        self.random = self.random.wrapping_add(0x9e37_79b9);
        self.random >> 16
    }

    pub(super) fn set_epoch(&mut self, slot: Slot, epoch: Epoch) {
        self.key = Cell::new(slot, epoch).with_mask(0xff);
    }
}

impl Default for Thread {
    fn default() -> Thread {
        Thread::new()
    }
}
