//! The detector as its caller sees it: accesses, atomic operations, memory that changes its owner.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::cell::{AccessId, Cell, FREED, SLOT_COUNT};
use super::clock::ClockPool;
use super::granule::{Accessor, Checked, Common, Conflict, Granule, Kind, READ_ROW};
use super::lock::SpinLock;
use super::sync::SyncObject;
use super::thread::Thread;
use super::threads::SlotRow;

/// Log2 of the bytes of memory that one counter of [`Memory::regions`] stands for.
pub const REGION_SHIFT: u32 = 16;
/// Bytes of a freed block that are marked as freed; the rest is only forgotten (a miss).
pub const FREE_MARKED_BYTES: usize = 32 * 1024;
/// Bytes from which on shadow is given back to the system rather than zeroed.
const DISCARD_BYTES: usize = 2 << REGION_SHIFT;
/// Bytes of shadow for a byte of memory.
const SHADOW_FACTOR: usize = size_of::<Granule>() / 8;

/// Memory that the detector works on: all zeroed, mapped for good, and used by nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The shadow of address `a` is at `shadow_base + 4 * (a & granule_mask)`.
    pub shadow_base: usize,
    /// The bits of an address that the shadow tells apart, but for the low three.
    pub granule_mask: usize,
    /// Sync objects.
    pub objects: *mut SyncObject,
    /// How many.
    pub object_capacity: u32,
    /// The clock pool's memory, aligned to 64 bytes.
    pub clocks: *mut u8,
    /// Its bytes.
    pub clock_bytes: usize,
    /// One counter for each 64 KB of the window that `granule_mask` spans: how many sync objects it has.
    pub regions: *mut AtomicU32,
    /// [`SLOT_COUNT`] rows.
    pub slots: *mut SlotRow,
}

/// What the detector asks of its caller, for one operation of one thread.
pub trait Runtime {
    /// Who makes the access at hand: the same answer for the whole operation. Called without a lock held.
    fn access_id(&mut self) -> AccessId;
    /// A race was found: the access at hand, of `kind`, and `conflict.previous`, both to the granule at `granule`.
    /// Called without a lock held.
    fn conflict(&mut self, conflict: &Conflict, granule: usize, mask: u8, kind: Kind);
    /// A lock was found taken, for the `spins`-th time in a row. May give the processor away.
    fn pause(&mut self, spins: u32);
    /// Something that a replay needs; called under the object's lock, only while [`Detector::set_recording`] says so.
    fn event(&mut self, event: Event);
    /// Gives the shadow's pages back to the system, so that they read as zero.
    fn discard(&mut self, start: usize, len: usize);
}

/// A happens-before event or an access, for a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The thread releases into the object.
    Release(u64),
    /// The thread acquires from the object.
    Acquire(u64),
    /// The object is gone; its number is never used again.
    Destroy(u64),
    /// A plain access.
    Access {
        /// First byte.
        address: usize,
        /// Bytes.
        size: usize,
        /// What it does.
        kind: Kind,
        /// Who does it.
        id: AccessId,
    },
    /// What was accessed there before is forgotten.
    Clean {
        /// First byte.
        address: usize,
        /// Bytes.
        size: usize,
    },
    /// The bytes are accessed atomically from now on, and what was accessed there before is forgotten.
    Atomic {
        /// First byte.
        address: usize,
        /// Bytes.
        size: usize,
    },
}

/// What an operation on an address means for order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Semantics {
    /// It is known to be atomic: the bytes become atomic for good.
    pub atomic: bool,
    /// It makes a sync object where there is none (implied by `atomic`).
    pub creates: bool,
    /// It releases, before the instruction.
    pub releases: bool,
    /// It acquires, after the instruction.
    pub acquires: bool,
    /// Its release may leave the thread's epoch open: more order than there is, which costs nothing where it is none.
    pub opens: bool,
}

/// Numbers that the caller may want to tell.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sync objects alive.
    pub objects: AtomicU32,
    /// Sync objects alive at most.
    pub objects_peak: AtomicU32,
    /// Sync objects, copies of clocks or slots that there was no memory for: edges are missing.
    pub lost: AtomicU64,
    /// Plain-looking accesses of atomic addresses.
    pub atomic_address: AtomicU64,
}

/// The detector.
#[derive(Debug)]
pub struct Detector {
    pub(super) memory: Memory,
    pub(super) pool: ClockPool,
    /// Guards the list of free objects.
    pub(super) objects_lock: SpinLock,
    pub(super) free_object: AtomicU32,
    pub(super) next_object: AtomicU32,
    /// Guards the slots' rows.
    pub(super) slots_lock: SpinLock,
    /// One more than the highest slot ever used.
    pub(super) slots_used: AtomicU32,
    pub(super) finishes: AtomicU32,
    /// A thread's clock was made of open epochs: the invariant of `sync` does not hold any more.
    pub(super) open_epochs: AtomicU32,
    pub(super) recording: AtomicU32,
    /// Numbers to tell.
    pub counts: Counts,
}

// SAFETY: `memory` is shared by design: it is accessed atomically, and what is not is guarded by the locks above.
unsafe impl Sync for Detector {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Detector {}

/// The bytes of a granule at `address` that an access of `size` bytes from there touches, and how many.
#[inline(always)]
pub(super) const fn part(address: usize, size: usize) -> (u8, usize) {
    let offset = address & 7;
    let here = if size < 8 - offset { size } else { 8 - offset };
    ((((1u32 << here) - 1) << offset) as u8, here)
}

impl Detector {
    /// A detector on the given memory.
    ///
    /// # Safety
    /// The memory is as [`Memory`] says, for as long as the detector is used.
    pub const unsafe fn new(memory: Memory) -> Detector {
        Detector {
            // SAFETY: the caller's promise.
            pool: unsafe { ClockPool::new(memory.clocks, memory.clock_bytes) },
            memory,
            objects_lock: SpinLock::new(),
            free_object: AtomicU32::new(0),
            // Object 0 is the common one of all code that is not understood.
            next_object: AtomicU32::new(1),
            slots_lock: SpinLock::new(),
            slots_used: AtomicU32::new(0),
            finishes: AtomicU32::new(0),
            open_epochs: AtomicU32::new(0),
            recording: AtomicU32::new(0),
            counts: Counts {
                objects: AtomicU32::new(0),
                objects_peak: AtomicU32::new(0),
                lost: AtomicU64::new(0),
                atomic_address: AtomicU64::new(0),
            },
        }
    }

    /// Whether events are told from now on.
    pub fn set_recording(&self, recording: bool) {
        self.recording.store(u32::from(recording), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed) != 0
    }

    /// [`Memory::granule_mask`].
    #[inline(always)]
    pub fn granule_mask(&self) -> usize {
        self.memory.granule_mask
    }

    /// The address within the shadowed window, rounded down to a granule.
    #[inline(always)]
    pub(super) fn window(&self, address: usize) -> usize {
        address & self.memory.granule_mask
    }

    /// Where the granule of an address is; the granules of the addresses that follow, follow.
    #[inline(always)]
    fn granule_pointer(&self, address: usize) -> *const Granule {
        self.memory.shadow_base.wrapping_add(SHADOW_FACTOR.wrapping_mul(self.window(address))) as *const Granule
    }

    /// The granule at an address.
    #[inline(always)]
    pub fn granule(&self, address: usize) -> &Granule {
        // SAFETY: `Memory` promises that every masked address has its shadow mapped; the mask clears the low three bits, so
        // granules are aligned as the base is; any bit pattern is a granule.
        unsafe { &*self.granule_pointer(address) }
    }

    /// A plain access of `size` bytes.
    #[inline(always)]
    pub fn access<R: Runtime>(&self, thread: &mut Thread, address: usize, size: usize, kind: Kind, runtime: &mut R) {
        if thread.pending != 0 {
            self.settle_slow(thread, runtime);
        }
        if !thread.is_started() {
            return;
        }
        if self.is_recording() {
            let id = runtime.access_id();
            runtime.event(Event::Access { address, size, kind, id });
        }
        let (mut at, mut left) = (address, size);
        while left != 0 {
            if kind == Kind::Read && left >= 16 && at & 7 == 0 {
                let done = 8 * self.read_row(thread, at, left / 8, runtime);
                at = at.wrapping_add(done);
                left -= done;
                if left == 0 {
                    break;
                }
            }
            let (mask, here) = part(at, left);
            self.access_granule(thread, at, mask, kind, runtime);
            at = at.wrapping_add(here);
            left -= here;
        }
    }

    /// The common cases of [`access`](Detector::access), for an access within one granule; `false` where nothing was done.
    ///
    /// `mask` are its bytes.
    #[inline(always)]
    pub fn access_common(
        &self,
        thread: &mut Thread,
        address: usize,
        mask: u8,
        writes: bool,
        id: impl FnOnce() -> AccessId,
    ) -> Common {
        if thread.pending != 0 || !thread.is_started() || self.is_recording() {
            return Common::Other;
        }
        let by = Accessor { key: thread.key, clock: &thread.clock, random: 0 };
        self.granule(address).check_common(&by, mask, writes, id, &mut thread.dirty)
    }

    /// Reads of up to `granules` whole granules from `address` on, the common cases only; says how many were done.
    #[inline(always)]
    fn read_row<R: Runtime>(&self, thread: &mut Thread, address: usize, granules: usize, runtime: &mut R) -> usize {
        let mut done = 0;
        while done < granules {
            let want = READ_ROW.min(granules - done);
            let start = address.wrapping_add(8 * done);
            // A row must not wrap around the shadowed window.
            if self.window(start) + 8 * want > self.memory.granule_mask {
                return done;
            }
            let by = Accessor { key: thread.key, clock: &thread.clock, random: 0 };
            // SAFETY: granules at neighbouring addresses of the window are neighbours in the shadow, which is mapped; all their
            // fields are atomic.
            let row = unsafe { core::slice::from_raw_parts(self.granule_pointer(start), want) };
            let here = Granule::read_row(&by, row, &mut || runtime.access_id(), &mut thread.dirty);
            done += here;
            if here < want {
                break;
            }
        }
        done
    }

    #[inline(always)]
    fn access_granule<R: Runtime>(&self, thread: &mut Thread, address: usize, mask: u8, kind: Kind, runtime: &mut R) {
        let random = thread.coin();
        let by = Accessor { key: thread.key, clock: &thread.clock, random };
        match self.granule(address).check(&by, mask, kind, || runtime.access_id(), &mut thread.dirty) {
            Checked::Done => {}
            Checked::Tagged(_) => self.access_tagged_slow(thread, address, mask, kind, runtime),
            Checked::Race(conflict) => runtime.conflict(&conflict, address & !7, mask, kind),
        }
    }

    /// A plain access to a granule that had a sync object a moment ago.
    #[cold]
    #[inline(never)]
    fn access_tagged_slow<R: Runtime>(
        &self,
        thread: &mut Thread,
        address: usize,
        mask: u8,
        kind: Kind,
        runtime: &mut R,
    ) {
        let id = runtime.access_id();
        // Bounded: the object may come and go meanwhile, but memory that does so has no order worth knowing.
        for _ in 0..4 {
            if let Some((index, object)) = self.lock_object_at(address, runtime) {
                let mut race = Checked::Done;
                let mut settle_later = false;
                if object.is_unit(mask) {
                    self.counts.atomic_address.fetch_add(1, Ordering::Relaxed);
                    if kind.writes() {
                        object.note_release(mask);
                        self.release_into(thread, index, object, false, runtime);
                    }
                    settle_later = kind.reads();
                } else {
                    let rest = mask & !object.atomic_mask();
                    if rest != 0 {
                        let by = Accessor { key: thread.key, clock: &thread.clock, random: thread.random };
                        race = object.cells.check(&by, rest, kind, || id, &mut thread.dirty);
                    }
                }
                object.lock.unlock();
                if settle_later {
                    thread.pending = (self.window(address) as u64) + 1;
                }
                if let Checked::Race(conflict) = race {
                    runtime.conflict(&conflict, address & !7, mask, kind);
                }
                return;
            }
            let by = Accessor { key: thread.key, clock: &thread.clock, random: thread.random };
            match self.granule(address).check(&by, mask, kind, || id, &mut thread.dirty) {
                Checked::Done => return,
                Checked::Race(conflict) => return runtime.conflict(&conflict, address & !7, mask, kind),
                Checked::Tagged(_) => {}
            }
        }
    }

    /// A plain-looking load of an atomic address acquires when the thread comes by next, since its own check
    /// stands before the instruction.
    #[cold]
    #[inline(never)]
    fn settle_slow<R: Runtime>(&self, thread: &mut Thread, runtime: &mut R) {
        let address = (thread.pending - 1) as usize;
        thread.pending = 0;
        if let Some((index, object)) = self.lock_object_at(address, runtime) {
            self.acquire_from(thread, index, object, runtime);
            object.lock.unlock();
        }
    }

    #[inline(always)]
    fn settle<R: Runtime>(&self, thread: &mut Thread, runtime: &mut R) {
        if thread.pending != 0 {
            self.settle_slow(thread, runtime);
        }
    }

    /// Before an atomic operation, or an unknown store.
    pub fn before<R: Runtime>(
        &self,
        thread: &mut Thread,
        address: usize,
        size: usize,
        what: Semantics,
        runtime: &mut R,
    ) {
        self.settle(thread, runtime);
        if !thread.is_started() {
            return;
        }
        self.each_part(address, size, |at, mask| {
            if what.opens && self.is_published(thread, at, mask) {
                return;
            }
            let Some((index, object)) = self.lock_or_make_object_at(at, what.atomic || what.creates, runtime) else {
                return;
            };
            if what.atomic {
                self.mark_atomic(at, object, mask, runtime);
            }
            if what.releases {
                // A read-modify-write sees what was released before, so acquiring here already costs no precision worth
                // naming, and makes the release below a matter of one epoch.
                if what.acquires && object.has_released(mask) {
                    self.acquire_from(thread, index, object, runtime);
                }
                object.note_release(mask);
                self.release_into(thread, index, object, !what.atomic && what.opens, runtime);
            }
            object.lock.unlock();
        });
    }

    /// After an atomic operation, or an unknown load, which `what` describes as a whole.
    pub fn after<R: Runtime>(
        &self,
        thread: &mut Thread,
        address: usize,
        size: usize,
        what: Semantics,
        runtime: &mut R,
    ) {
        self.settle(thread, runtime);
        if !thread.is_started() {
            return;
        }
        // What stores may have given the memory away with its store: nothing is made there any more. A load alone gives
        // nothing away.
        let makes = what.atomic && !what.releases;
        self.each_part(address, size, |at, mask| {
            if self.has_nothing_new(thread, at, if what.atomic { mask } else { 0 }) {
                return;
            }
            let Some((index, object)) = self.lock_or_make_object_at(at, makes, runtime) else { return };
            if makes {
                self.mark_atomic(at, object, mask, runtime);
            }
            if what.acquires && object.has_released(mask) {
                self.acquire_from(thread, index, object, runtime);
            }
            object.lock.unlock();
        });
    }

    /// Whether there is nothing to acquire at an address, and no operation on the bytes of `unit` is new there. No lock is needed: a
    /// release that the thread's operation saw the effect of changed the object before.
    #[inline(always)]
    fn has_nothing_new(&self, thread: &Thread, address: usize, unit: u8) -> bool {
        let Some(index) = self.granule(address).object() else { return unit == 0 };
        let Some(object) = self.object(index) else { return unit == 0 };
        if object.granule.load(Ordering::Relaxed) != self.window(address) as u64 + 1
            || unit != 0 && !object.is_unit(unit)
        {
            return false;
        }
        // A release writes both under the lock, and no epoch of a slot comes again: what is the same on both sides of a look at
        // the free lock belongs together.
        let (slot, epoch) = object.component();
        let is_merged = object.is_merged();
        fence(Ordering::Acquire);
        if is_merged || object.lock.is_locked() || object.component() != (slot, epoch) || object.is_merged() {
            return false;
        }
        slot == thread.slot() || self.open_epochs.load(Ordering::Relaxed) == 0 && thread.clock.get(slot) >= epoch
    }

    /// Whether the thread released through the bytes at an address in its present epoch, with the clock that it has now. No lock is
    /// needed: whoever releases into the object meanwhile keeps what was released before.
    #[inline(always)]
    fn is_published(&self, thread: &Thread, address: usize, mask: u8) -> bool {
        if !thread.published || self.is_recording() {
            return false;
        }
        let Some(object) = self.granule(address).object().and_then(|index| self.object(index)) else { return false };
        object.slot.load(Ordering::Acquire) == thread.slot().index() as u32
            && object.epoch.load(Ordering::Relaxed) == thread.key.epoch().0
            && object.base.load(Ordering::Relaxed) == thread.copy.to_raw()
            && !object.is_merged()
            && object.has_released_all(mask)
            && object.granule.load(Ordering::Relaxed) == self.window(address) as u64 + 1
    }

    /// A load that may be atomic, told before it takes place: it acquires when the thread comes by next.
    pub fn acquire_later<R: Runtime>(&self, thread: &mut Thread, address: usize, runtime: &mut R) {
        self.settle(thread, runtime);
        if self.granule(address).object().is_some() {
            thread.pending = (self.window(address) as u64) + 1;
        }
    }

    /// Joins the thread's clock into the object at an address, which is not thereby accessed atomically.
    pub fn release<R: Runtime>(&self, thread: &mut Thread, key: usize, runtime: &mut R) {
        let what = Semantics { creates: true, releases: true, ..Semantics::default() };
        self.before(thread, key & !7, 8, what, runtime);
    }

    /// Joins the clock of the object at an address into the thread's.
    pub fn acquire<R: Runtime>(&self, thread: &mut Thread, key: usize, runtime: &mut R) {
        let what = Semantics { acquires: true, ..Semantics::default() };
        self.after(thread, key & !7, 8, what, runtime);
    }

    /// Orders the thread against all others that call this.
    pub fn opaque<R: Runtime>(&self, thread: &mut Thread, runtime: &mut R) {
        self.settle(thread, runtime);
        if !thread.is_started() {
            return;
        }
        if let Some(object) = self.object(0) {
            object.lock.lock(|spins| runtime.pause(spins));
            self.acquire_from(thread, 0, object, runtime);
            self.release_into(thread, 0, object, false, runtime);
            object.lock.unlock();
        }
    }

    #[inline(always)]
    fn each_part(&self, address: usize, size: usize, mut body: impl FnMut(usize, u8)) {
        let (mut at, mut left) = (address, size);
        while left != 0 {
            let (mask, here) = part(at, left);
            body(at, mask);
            at = at.wrapping_add(here);
            left -= here;
        }
    }

    /// A block is about to be freed: a write to all of it, and its sync objects are gone.
    pub fn free<R: Runtime>(&self, thread: &mut Thread, start: usize, len: usize, runtime: &mut R) {
        self.settle(thread, runtime);
        if !thread.is_started() {
            return self.clean(start, len, runtime);
        }
        if self.is_recording() {
            let id = runtime.access_id();
            runtime.event(Event::Access { address: start, size: len, kind: Kind::Free, id });
        }
        let marked = len.min(FREE_MARKED_BYTES);
        let (mut at, mut left) = (start, marked);
        let mut told = false;
        while left != 0 {
            let (mask, here) = part(at, left);
            let id = runtime.access_id();
            let by = Accessor { key: thread.key, clock: &thread.clock, random: thread.random };
            let mut found = self.granule(at).check(&by, mask, Kind::Free, || id, &mut thread.dirty);
            if let Checked::Tagged(_) = found {
                found = Checked::Done;
                if let Some((index, object)) = self.lock_object_at(at, runtime) {
                    let rest = mask & !object.atomic_mask();
                    if rest != 0 {
                        found = object.cells.check(&by, rest, Kind::Free, || id, &mut thread.dirty);
                    }
                    let freed = Cell(thread.key.with_mask(mask).0 | FREED);
                    thread.dirty = true;
                    self.destroy(at, index, object, freed, id, runtime);
                }
            }
            if let (Checked::Race(conflict), false) = (found, told) {
                runtime.conflict(&conflict, at & !7, mask, Kind::Free);
                // One report a block: the first granule tells it.
                told = true;
            }
            at = at.wrapping_add(here);
            left -= here;
        }
        if len > marked {
            self.forget(start.wrapping_add(marked), len - marked, runtime);
        }
    }

    /// Memory is fresh: accesses and sync objects that were there are forgotten.
    pub fn clean<R: Runtime>(&self, start: usize, len: usize, runtime: &mut R) {
        if self.is_recording() {
            runtime.event(Event::Clean { address: start, size: len });
        }
        self.forget(start, len, runtime);
    }

    fn forget<R: Runtime>(&self, start: usize, len: usize, runtime: &mut R) {
        // Nothing is longer than the window; the wild lengths of a hostile program end here.
        let len = len.min((self.memory.granule_mask | 7).wrapping_add(1));
        let region = 1usize << REGION_SHIFT;
        if len < DISCARD_BYTES {
            return self.forget_each(start, len, runtime);
        }
        let first = start.wrapping_add(region - 1) & !(region - 1);
        let head = first.wrapping_sub(start);
        let regions = (len - head) >> REGION_SHIFT;
        let tail = len - head - (regions << REGION_SHIFT);
        self.forget_each(start, head, runtime);
        let mut run = first;
        let mut run_len = 0;
        for index in 0..regions {
            let at = first.wrapping_add(index << REGION_SHIFT);
            if self.region(at).load(Ordering::Relaxed) != 0 {
                self.forget_each(at, region, runtime);
            }
            if run_len != 0 && self.window(at) != self.window(run).wrapping_add(run_len) {
                self.discard(run, run_len, runtime);
                (run, run_len) = (at, 0);
            }
            run_len += region;
        }
        self.discard(run, run_len, runtime);
        self.forget_each(first.wrapping_add(regions << REGION_SHIFT), tail, runtime);
    }

    fn discard<R: Runtime>(&self, start: usize, len: usize, runtime: &mut R) {
        if len != 0 {
            let shadow = self.granule(start) as *const Granule as usize;
            runtime.discard(shadow, len * SHADOW_FACTOR);
        }
    }

    fn forget_each<R: Runtime>(&self, start: usize, len: usize, runtime: &mut R) {
        let (mut at, mut left) = (start, len);
        while left != 0 {
            let (mask, here) = part(at, left);
            if self.granule(at).clean(mask).is_some() {
                self.forget_object_slow(at, mask, runtime);
            }
            at = at.wrapping_add(here);
            left -= here;
        }
    }

    /// The sync object of some bytes of a granule is gone: of all of it, where nothing else of the granule is known.
    #[cold]
    #[inline(never)]
    fn forget_object_slow<R: Runtime>(&self, address: usize, mask: u8, runtime: &mut R) {
        let Some((index, object)) = self.lock_object_at(address, runtime) else { return };
        object.cells.forget(mask);
        if mask != 0xff && (object.atomic_mask() & !mask != 0 || !object.cells.is_empty()) {
            object.lock.unlock();
            return;
        }
        self.destroy(address, index, object, Cell::EMPTY, AccessId::LOST, runtime);
    }

    /// The sync object at an address is gone, as a library's lock that was destroyed; plain accesses are remembered.
    pub fn destroy_at<R: Runtime>(&self, key: usize, runtime: &mut R) {
        let Some((index, object)) = self.lock_object_at(key, runtime) else { return };
        if object.atomic_mask() != 0 || !object.cells.is_empty() {
            // Something else of the granule is known: more order than there is, but nothing lost.
            object.lock.unlock();
            return;
        }
        self.destroy(key, index, object, Cell::EMPTY, AccessId::LOST, runtime);
    }

    /// The counter of sync objects for the region of an address.
    #[inline(always)]
    pub(super) fn region(&self, address: usize) -> &AtomicU32 {
        // SAFETY: `Memory` promises a counter for each region of the window.
        unsafe { &*self.memory.regions.add(self.window(address) >> REGION_SHIFT) }
    }

    /// The object of the given index, if there is one.
    #[inline(always)]
    pub(super) fn object(&self, index: u32) -> Option<&SyncObject> {
        if index >= self.memory.object_capacity {
            return None;
        }
        // SAFETY: below the capacity that `Memory` promises; zeroed memory is a valid object, and all its fields are atomic.
        Some(unsafe { &*self.memory.objects.add(index as usize) })
    }

    /// The slots' rows.
    pub(super) fn slots(&self) -> &[SlotRow] {
        // SAFETY: `Memory` promises that many; all fields are atomic.
        unsafe { core::slice::from_raw_parts(self.memory.slots, SLOT_COUNT) }
    }

    /// Bytes of clock copies given out so far.
    pub fn clock_bytes(&self) -> usize {
        self.pool.used_bytes()
    }
}
