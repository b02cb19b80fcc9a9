//! Sync objects at addresses: finding, making and destroying them, and what flows through them.

use core::sync::atomic::Ordering;

use super::cell::{AccessId, Cell, SYNC_TAG};
use super::detector::{Detector, Event, Runtime};
use super::sync::SyncObject;
use super::thread::Thread;

impl Detector {
    /// Locks the sync object of the granule at an address, if it has one.
    pub(super) fn lock_object_at<R: Runtime>(&self, address: usize, runtime: &mut R) -> Option<(u32, &SyncObject)> {
        let granule = self.granule(address);
        let owner = self.window(address) as u64 + 1;
        // Each turn but the last means that the object was destroyed between the two looks.
        for _ in 0..64 {
            let index = granule.object()?;
            let object = self.object(index)?;
            object.lock.lock(|spins| runtime.pause(spins));
            if object.granule.load(Ordering::Relaxed) == owner && granule.object() == Some(index) {
                return Some((index, object));
            }
            object.lock.unlock();
        }
        None
    }

    /// Locks the sync object of the granule at an address; makes one where there is none and `makes` says so.
    pub(super) fn lock_or_make_object_at<R: Runtime>(
        &self,
        address: usize,
        makes: bool,
        runtime: &mut R,
    ) -> Option<(u32, &SyncObject)> {
        if let Some(found) = self.lock_object_at(address, runtime) {
            return Some(found);
        }
        if makes { self.make_object_slow(address, runtime) } else { None }
    }

    #[cold]
    #[inline(never)]
    fn make_object_slow<R: Runtime>(&self, address: usize, runtime: &mut R) -> Option<(u32, &SyncObject)> {
        let Some((index, object)) = self.take_object(runtime) else {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let granule = self.granule(address);
        object.lock.lock(|spins| runtime.pause(spins));
        object.granule.store(self.window(address) as u64 + 1, Ordering::Relaxed);
        let mut head = granule.head().load(Ordering::Acquire);
        while head & SYNC_TAG == 0 {
            object.cells.copy_from(granule, head);
            // Release: whoever finds the tag finds the object's owner and cells; the acquire is in `Granule::object`.
            match granule.head().compare_exchange(
                head,
                SYNC_TAG | u64::from(index),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    // The inline check compares the second word as well: it must not match any more.
                    granule.clean_tail();
                    self.region(address).fetch_add(1, Ordering::Relaxed);
                    return Some((index, object));
                }
                Err(now) => head = now,
            }
        }
        // Another thread made one at the same time.
        object.granule.store(0, Ordering::Relaxed);
        object.cells.copy_from(&super::granule::Granule::new(), 0);
        object.lock.unlock();
        self.give_object(index, object, runtime);
        self.lock_object_at(address, runtime)
    }

    fn take_object<R: Runtime>(&self, runtime: &mut R) -> Option<(u32, &SyncObject)> {
        self.objects_lock.lock(|spins| runtime.pause(spins));
        let mut index = self.free_object.load(Ordering::Relaxed);
        if index != 0 {
            let next = self.object(index).map_or(0, |object| object.next.load(Ordering::Relaxed));
            self.free_object.store(next, Ordering::Relaxed);
        } else {
            let next = self.next_object.load(Ordering::Relaxed);
            if next < self.memory.object_capacity {
                self.next_object.store(next + 1, Ordering::Relaxed);
                index = next;
            }
        }
        self.objects_lock.unlock();
        if index == 0 {
            return None;
        }
        let alive = self.counts.objects.fetch_add(1, Ordering::Relaxed) + 1;
        self.counts.objects_peak.fetch_max(alive, Ordering::Relaxed);
        self.object(index).map(|object| (index, object))
    }

    fn give_object<R: Runtime>(&self, index: u32, object: &SyncObject, runtime: &mut R) {
        self.counts.objects.fetch_sub(1, Ordering::Relaxed);
        self.objects_lock.lock(|spins| runtime.pause(spins));
        object.next.store(self.free_object.load(Ordering::Relaxed), Ordering::Relaxed);
        self.free_object.store(index, Ordering::Relaxed);
        self.objects_lock.unlock();
    }

    /// Detaches a locked object from its granule, which gets `cell` instead, and frees it; unlocks it.
    pub(super) fn destroy<R: Runtime>(
        &self,
        address: usize,
        index: u32,
        object: &SyncObject,
        cell: Cell,
        id: AccessId,
        runtime: &mut R,
    ) {
        if self.is_recording() {
            runtime.event(Event::Destroy(identity(index, object)));
        }
        let granule = self.granule(address);
        granule.clean_tail();
        granule.set_first_id(id);
        // Only a holder of the object's lock replaces a tag.
        granule.head().store(cell.0, Ordering::Release);
        self.region(address).fetch_sub(1, Ordering::Relaxed);
        let base = object.base();
        object.set_clock((super::cell::Slot::new(0), super::cell::Epoch(0)), super::clock::ClockRef::NONE, false);
        object.cells.copy_from(&super::granule::Granule::new(), 0);
        object.granule.store(0, Ordering::Relaxed);
        object.forget_bytes();
        object.generation.fetch_add(1, Ordering::Relaxed);
        self.pool.release(base, &mut |spins| runtime.pause(spins));
        object.lock.unlock();
        self.give_object(index, object, runtime);
    }

    pub(super) fn mark_atomic<R: Runtime>(&self, address: usize, object: &SyncObject, mask: u8, runtime: &mut R) {
        if object.mark_atomic(mask) && self.is_recording() {
            let size = mask.count_ones() as usize;
            runtime.event(Event::Atomic { address: (address & !7) + mask.trailing_zeros() as usize, size });
        }
    }

    /// Joins the thread's clock into a locked object.
    ///
    /// With `open` the epoch goes on: what the thread does in the rest of it counts as having happened before, too.
    pub(super) fn release_into<R: Runtime>(
        &self,
        thread: &mut Thread,
        index: u32,
        object: &SyncObject,
        open: bool,
        runtime: &mut R,
    ) {
        // A replay sees the accesses in their order, so it gets the exact release.
        let open = open && !self.is_recording();
        if self.is_recording() {
            runtime.event(Event::Release(identity(index, object)));
        }
        let mine = if open {
            thread.published = true;
            (thread.slot(), thread.key.epoch())
        } else {
            self.close_epoch(thread);
            (thread.slot(), thread.clock.get(thread.slot()))
        };
        let (slot, epoch) = object.component();
        let base = object.base();
        let pure = !object.is_merged() && self.open_epochs.load(Ordering::Relaxed) == 0;
        if pure && slot == mine.0 && epoch == mine.1 && (!open || base == thread.copy) && !object.is_silent() {
            return;
        }
        let pause = &mut |spins| runtime.pause(spins);
        let covered = object.is_silent()
            || thread.clock.get(slot) >= epoch && (pure || self.pool.is_covered(base, &thread.clock));
        if covered {
            if thread.copy.is_none() {
                thread.copy = self.pool.copy_of(&thread.clock, pause);
            }
            if thread.copy.is_none() {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if base == thread.copy {
                object.set_clock(mine, base, false);
            } else {
                object.set_clock(mine, self.pool.retain(thread.copy), false);
                self.pool.release(base, pause);
            }
            return;
        }
        let joined = self.pool.join(base, (slot, epoch), &thread.clock, pause);
        if joined.is_none() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        object.set_clock(mine, joined, true);
    }

    /// Joins a locked object's clock into the thread's.
    pub(super) fn acquire_from<R: Runtime>(
        &self,
        thread: &mut Thread,
        index: u32,
        object: &SyncObject,
        runtime: &mut R,
    ) {
        if object.is_silent() {
            return;
        }
        if self.is_recording() {
            runtime.event(Event::Acquire(identity(index, object)));
        }
        let (slot, epoch) = object.component();
        let pure = !object.is_merged() && self.open_epochs.load(Ordering::Relaxed) == 0;
        if pure && thread.clock.get(slot) >= epoch {
            return;
        }
        let mut changed = self.pool.join_into(object.base(), &mut thread.clock);
        changed |= thread.clock.raise(slot, epoch);
        if changed {
            self.note_growth(thread, runtime);
        }
    }
}

/// A number for the object at its present address that is never used again.
fn identity(index: u32, object: &SyncObject) -> u64 {
    u64::from(index) | u64::from(object.generation.load(Ordering::Relaxed)) << 32
}
