//! Slots, epochs, and the birth, end and join of threads.
//!
//! A slot goes to a later thread, which goes on with the slot's epochs and starts from the slot's final clock joined in.
//! That adds edges where the new thread was not ordered after the old one, so such a slot is taken only after fresh
//! ones ran out ([`FRESH_SLOTS`]); a slot whose last thread's end is in the new thread's clock loses nothing.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cell::{Cell, Epoch, SLOT_COUNT, Slot};
use super::clock::ClockRef;
use super::detector::{Detector, Runtime};
use super::thread::Thread;

/// Slots that are used before one is taken again whose thread's end is not ordered before the new thread. More of
/// them make longer clocks, fewer of them more missed races between detached threads.
pub const FRESH_SLOTS: usize = 1024;

/// What is known of a slot; zeroed memory is an unused one.
#[derive(Debug, Default)]
pub struct SlotRow {
    /// Epoch of the thread at present, which is open.
    open: AtomicU64,
    /// Last closed epoch, once the thread is gone.
    closed: AtomicU64,
    /// Final clock of the thread that is gone.
    last: AtomicU32,
    /// 0 never used, 1 in use, 2 free again.
    state: AtomicU32,
    /// When it became free, in order.
    finished: AtomicU32,
    /// The caller's number for the thread.
    owner: AtomicU32,
    /// The same for the thread that had the slot before.
    owner_before: AtomicU32,
    /// First epoch of the thread.
    first: AtomicU64,
    /// First epoch of the thread before.
    first_before: AtomicU64,
}

const IN_USE: u32 = 1;
const FREE: u32 = 2;

impl Detector {
    /// The thread exists from now on, and what `parent` did happened before what it will do. Runs in the parent,
    /// before the thread does; without a parent for the first thread. `false` where there is no slot: the thread is
    /// not checked then, and [`Counts::lost`](super::detector::Counts) says so.
    pub fn thread_create<R: Runtime>(
        &self,
        parent: Option<&mut Thread>,
        child: &mut Thread,
        owner: u32,
        runtime: &mut R,
    ) -> bool {
        child.clock.clear();
        child.pending = 0;
        if let Some(parent) = parent.filter(|parent| parent.is_started()) {
            self.close_epoch(parent);
            for index in 0..parent.clock.len() {
                let slot = Slot::new(index);
                let epoch = parent.clock.get(slot);
                if epoch.0 != 0 {
                    child.clock.raise(slot, epoch);
                }
            }
        }
        self.take_slot(child, owner, runtime)
    }

    /// The thread exists, and nobody saw how it came to be: all that any thread did so far happened before it.
    /// Runs in the thread itself.
    pub fn thread_adopt<R: Runtime>(&self, thread: &mut Thread, owner: u32, runtime: &mut R) -> bool {
        thread.clock.clear();
        thread.pending = 0;
        // Epochs that are not closed yet get into a clock: two clocks may then stand for one epoch.
        self.open_epochs.store(1, Ordering::SeqCst);
        for (index, row) in self.slots().iter().enumerate().take(self.slots_used.load(Ordering::Acquire) as usize) {
            let epoch = row.open.load(Ordering::Relaxed);
            if epoch != 0 {
                thread.clock.raise(Slot::new(index), Epoch(epoch));
            }
        }
        self.take_slot(thread, owner, runtime)
    }

    /// What `child`, which is gone, did happened before what `joiner` will do.
    pub fn thread_join<R: Runtime>(&self, joiner: &mut Thread, child: &mut Thread, runtime: &mut R) {
        if !joiner.is_started() || !child.is_started() {
            return;
        }
        self.close_epoch(child);
        let mut changed = false;
        for index in 0..child.clock.len() {
            let slot = Slot::new(index);
            changed |= joiner.clock.raise(slot, child.clock.get(slot));
        }
        if changed {
            self.note_growth(joiner, runtime);
        }
    }

    /// The thread is gone and its slot is free.
    pub fn thread_end<R: Runtime>(&self, thread: &mut Thread, runtime: &mut R) {
        if !thread.is_started() {
            return;
        }
        self.close_epoch(thread);
        let pause = &mut |spins| runtime.pause(spins);
        let slot = thread.slot();
        let closed = thread.clock.get(slot);
        let last = self.pool.copy_of(&thread.clock, pause);
        self.slots_lock.lock(&mut *pause);
        if let Some(row) = self.slots().get(slot.index()) {
            row.closed.store(closed.0, Ordering::Relaxed);
            row.last.store(last.to_raw(), Ordering::Relaxed);
            row.finished.store(self.finishes.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
            row.state.store(FREE, Ordering::Relaxed);
        }
        self.slots_lock.unlock();
        self.pool.release(thread.copy, pause);
        thread.copy = ClockRef::NONE;
        thread.key = Cell::EMPTY;
        thread.clock.clear();
        thread.pending = 0;
    }

    /// Says what the caller's number of the thread that has the slot now is.
    pub fn set_owner(&self, slot: Slot, owner: u32) {
        if let Some(row) = self.slots().get(slot.index()) {
            row.owner.store(owner, Ordering::Relaxed);
        }
    }

    /// The caller's number of the thread that made the access of a cell; `u32::MAX` where it is not known any more.
    pub fn owner_of(&self, cell: Cell) -> u32 {
        let Some(row) = self.slots().get(cell.slot().index()) else { return u32::MAX };
        if cell.epoch().0 >= row.first.load(Ordering::Relaxed) {
            row.owner.load(Ordering::Relaxed)
        } else if cell.epoch().0 >= row.first_before.load(Ordering::Relaxed) {
            row.owner_before.load(Ordering::Relaxed)
        } else {
            u32::MAX
        }
    }

    fn take_slot<R: Runtime>(&self, thread: &mut Thread, owner: u32, runtime: &mut R) -> bool {
        self.slots_lock.lock(|spins| runtime.pause(spins));
        let used = self.slots_used.load(Ordering::Relaxed) as usize;
        let free = |row: &&SlotRow| row.state.load(Ordering::Relaxed) == FREE;
        let rows = self.slots();
        let known = rows.get(..used).unwrap_or(rows);
        let ordered = known.iter().enumerate().position(|(index, row)| {
            free(&row) && thread.clock.get(Slot::new(index)).0 >= row.closed.load(Ordering::Relaxed)
        });
        let oldest = || {
            let now = self.finishes.load(Ordering::Relaxed);
            let age = |row: &SlotRow| now.wrapping_sub(row.finished.load(Ordering::Relaxed));
            known
                .iter()
                .enumerate()
                .filter(|(_, row)| free(row))
                .max_by_key(|(_, row)| age(row))
                .map(|(index, _)| index)
        };
        let fresh = |limit: usize| (used < limit).then_some(used);
        let index = ordered.or_else(|| fresh(FRESH_SLOTS)).or_else(oldest).or_else(|| fresh(SLOT_COUNT));
        let taken = index.and_then(|index| rows.get(index).map(|row| (index, row)));
        let mut last = ClockRef::NONE;
        let mut closed = Epoch(0);
        if let Some((index, row)) = taken {
            last = ClockRef::from_raw(row.last.swap(0, Ordering::Relaxed));
            closed = Epoch(row.closed.load(Ordering::Relaxed));
            row.open.store(closed.next().0, Ordering::Relaxed);
            row.owner_before.store(row.owner.swap(owner, Ordering::Relaxed), Ordering::Relaxed);
            row.first_before.store(row.first.swap(closed.next().0, Ordering::Relaxed), Ordering::Relaxed);
            row.state.store(IN_USE, Ordering::Relaxed);
            // Release: pairs with the acquire in `thread_adopt`.
            self.slots_used.fetch_max(index as u32 + 1, Ordering::Release);
        }
        self.slots_lock.unlock();
        let Some((index, _)) = taken else {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let slot = Slot::new(index);
        self.pool.join_into(last, &mut thread.clock);
        thread.clock.raise(slot, closed);
        self.pool.release(last, &mut |spins| runtime.pause(spins));
        // The clock is new: the first release closes an epoch, so that no released epoch has two clocks.
        thread.grown = true;
        thread.dirty = false;
        thread.random = (index as u32).wrapping_mul(0x85eb_ca6b) ^ owner;
        thread.set_epoch(slot, closed.next());
        thread.first_epoch = closed.next();
        true
    }

    /// Closes the thread's epoch, where something happened in it.
    #[inline]
    pub(super) fn close_epoch(&self, thread: &mut Thread) {
        if !(thread.dirty || thread.grown) {
            return;
        }
        thread.dirty = false;
        thread.grown = false;
        thread.published = false;
        let slot = thread.slot();
        let closed = thread.key.epoch();
        thread.clock.raise(slot, closed);
        thread.set_epoch(slot, closed.next());
        if let Some(row) = self.slots().get(slot.index()) {
            row.open.store(closed.next().0, Ordering::Relaxed);
        }
    }

    /// The thread's clock grew by an acquire.
    pub(super) fn note_growth<R: Runtime>(&self, thread: &mut Thread, runtime: &mut R) {
        thread.grown = true;
        if thread.published {
            // What was published with the smaller clock is closed, so that the epoch has one clock.
            self.close_epoch(thread);
            thread.grown = true;
        }
        self.pool.release(thread.copy, &mut |spins| runtime.pause(spins));
        thread.copy = ClockRef::NONE;
    }
}
