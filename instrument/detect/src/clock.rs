//! Vector clocks over memory of the caller's, and a pool of shared, immutable-while-shared copies of them.
//!
//! A [`VectorClock`] belongs to one thread and has room for every slot; its length is one more than the highest
//! slot that ever was not zero, so joins cost what the program's threads cost. A [`ClockRef`] names a counted copy in the
//! [`ClockPool`]. Sync objects share copies: the clock of an object is a copy plus one component of its own, so
//! that a thread that releases into a thousand objects between two acquires makes one copy.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cell::{Epoch, SLOT_COUNT, Slot};
use super::lock::SpinLock;

/// Bytes of memory that a [`VectorClock`] needs.
pub const VECTOR_CLOCK_BYTES: usize = SLOT_COUNT * 8;

/// A thread's vector clock: for each slot the last epoch of that slot that happened before.
#[derive(Debug)]
pub struct VectorClock {
    entries: *const AtomicU64,
    len: u32,
}

// SAFETY: the memory is the clock's own (`attach`), so it moves between threads with the clock.
unsafe impl Send for VectorClock {}

impl VectorClock {
    /// A clock without memory, which [`VectorClock::attach`] gives it.
    pub const fn detached() -> VectorClock {
        VectorClock { entries: core::ptr::null(), len: 0 }
    }

    /// Gives the clock its memory.
    ///
    /// # Safety
    /// `entries` points to [`SLOT_COUNT`] zeroed words that stay mapped and unshared while the clock is used.
    pub unsafe fn attach(&mut self, entries: *const AtomicU64) {
        self.entries = entries;
        self.len = 0;
    }

    /// Whether the clock has memory.
    pub fn is_attached(&self) -> bool {
        !self.entries.is_null()
    }

    #[inline(always)]
    fn entry(&self, slot: Slot) -> &AtomicU64 {
        debug_assert!(self.is_attached());
        // SAFETY: `attach` promises SLOT_COUNT words, and a slot's index is below that.
        unsafe { &*self.entries.add(slot.index()) }
    }

    /// The slot's component.
    #[inline(always)]
    pub fn get(&self, slot: Slot) -> Epoch {
        Epoch(self.entry(slot).load(Ordering::Relaxed))
    }

    /// Raises the slot's component to `epoch`; says whether it was lower.
    #[inline]
    pub fn raise(&mut self, slot: Slot, epoch: Epoch) -> bool {
        let entry = self.entry(slot);
        if entry.load(Ordering::Relaxed) >= epoch.0 {
            return false;
        }
        entry.store(epoch.0, Ordering::Relaxed);
        self.len = self.len.max(slot.index() as u32 + 1);
        true
    }

    /// Number of components that may not be zero.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether every component is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Joins a copy into the clock; says whether a component rose.
    fn join(&mut self, other: &[AtomicU64]) -> bool {
        let mut changed = false;
        for (index, entry) in other.iter().enumerate() {
            let epoch = entry.load(Ordering::Relaxed);
            if epoch != 0 {
                changed |= self.raise(Slot::new(index), Epoch(epoch));
            }
        }
        changed
    }

    /// Whether every component of the copy is below or equal to the clock's.
    fn covers(&self, other: &[AtomicU64]) -> bool {
        other.iter().enumerate().all(|(index, entry)| entry.load(Ordering::Relaxed) <= self.get(Slot::new(index)).0)
    }

    /// Zeroes the clock, for a thread that ended; the memory may be used for another.
    pub fn clear(&mut self) {
        for index in 0..self.len() {
            self.entry(Slot::new(index)).store(0, Ordering::Relaxed);
        }
        self.len = 0;
    }
}

/// Name of a counted copy in a [`ClockPool`]; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct ClockRef(u32);

impl ClockRef {
    /// No copy.
    pub const NONE: ClockRef = ClockRef(0);

    pub(super) const fn from_raw(raw: u32) -> ClockRef {
        ClockRef(raw)
    }

    pub(super) const fn to_raw(self) -> u32 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Bytes of the unit that buffers are made of.
const UNIT_BYTES: usize = 64;
/// Words of a unit.
const UNIT_WORDS: usize = UNIT_BYTES / 8;
/// Words of a buffer's header.
const HEADER_WORDS: usize = size_of::<Header>() / 8;
/// Size classes: class `k` has `1 << k` units; the last holds every slot.
const CLASSES: usize = 12;

const _: () = assert!(HEADER_WORDS == 2);
const _: () = assert!((UNIT_WORDS << (CLASSES - 1)) - HEADER_WORDS >= SLOT_COUNT);

/// First words of a buffer.
#[repr(C)]
struct Header {
    /// Holders; the buffer is free at 0.
    refs: AtomicU32,
    /// Components in use.
    len: AtomicU32,
    /// Size class.
    class: AtomicU32,
    /// Next free buffer of the class.
    next: AtomicU32,
}

/// Counted copies of vector clocks in memory of the caller's, by size class.
#[derive(Debug)]
pub struct ClockPool {
    base: *mut u8,
    units: u32,
    lock: SpinLock,
    next_unit: AtomicU32,
    free: [AtomicU32; CLASSES],
}

impl ClockPool {
    /// A pool in `bytes` bytes of memory at `base`; at most 2^38 are used.
    ///
    /// # Safety
    /// The memory is zeroed, aligned to 64 bytes, and stays mapped and unshared while the pool is used.
    pub const unsafe fn new(base: *mut u8, bytes: usize) -> ClockPool {
        let units = bytes / UNIT_BYTES;
        ClockPool {
            base,
            units: if units > u32::MAX as usize { u32::MAX } else { units as u32 },
            lock: SpinLock::new(),
            next_unit: AtomicU32::new(1),
            free: [const { AtomicU32::new(0) }; CLASSES],
        }
    }

    fn header(&self, copy: ClockRef) -> &Header {
        debug_assert!(!copy.is_none() && copy.0 < self.units);
        // SAFETY: a ClockRef is a unit index that `allocate` gave out, below `units`; the memory is zeroed or
        // holds a header, and every bit pattern is a valid one.
        unsafe { &*self.base.add(copy.0 as usize * UNIT_BYTES).cast::<Header>() }
    }

    /// All the words a buffer has room for.
    fn words(&self, copy: ClockRef) -> &[AtomicU64] {
        let class = (self.header(copy).class.load(Ordering::Relaxed) as usize).min(CLASSES - 1);
        // SAFETY: `allocate` made the buffer `1 << class` units long within the pool's memory, which is
        // valid as atomic words; they begin after the header.
        unsafe {
            let first = self.base.add(copy.0 as usize * UNIT_BYTES).cast::<AtomicU64>().add(HEADER_WORDS);
            core::slice::from_raw_parts(first, (UNIT_WORDS << class) - HEADER_WORDS)
        }
    }

    /// The components of a copy.
    pub fn entries(&self, copy: ClockRef) -> &[AtomicU64] {
        if copy.is_none() {
            return &[];
        }
        let len = self.header(copy).len.load(Ordering::Relaxed) as usize;
        let words = self.words(copy);
        words.get(..len).unwrap_or(words)
    }

    /// A new buffer for at least `len` components, held once, of which `len` are in use and not yet set.
    fn allocate(&self, len: usize, pause: &mut dyn FnMut(u32)) -> ClockRef {
        let units = (len + HEADER_WORDS).div_ceil(UNIT_WORDS).max(1).next_power_of_two();
        let class = units.trailing_zeros() as usize;
        let Some(list) = self.free.get(class) else { return ClockRef::NONE };
        self.lock.lock(pause);
        let mut copy = ClockRef(list.load(Ordering::Relaxed));
        if !copy.is_none() {
            list.store(self.header(copy).next.load(Ordering::Relaxed), Ordering::Relaxed);
        } else {
            let first = self.next_unit.load(Ordering::Relaxed);
            match first.checked_add(units as u32) {
                Some(end) if end <= self.units => {
                    self.next_unit.store(end, Ordering::Relaxed);
                    copy = ClockRef(first);
                }
                _ => {}
            }
        }
        self.lock.unlock();
        if !copy.is_none() {
            let header = self.header(copy);
            header.class.store(class as u32, Ordering::Relaxed);
            header.len.store(len as u32, Ordering::Relaxed);
            header.refs.store(1, Ordering::Relaxed);
        }
        copy
    }

    /// One more holder.
    pub fn retain(&self, copy: ClockRef) -> ClockRef {
        if !copy.is_none() {
            self.header(copy).refs.fetch_add(1, Ordering::Relaxed);
        }
        copy
    }

    /// One holder less; the last one's leaving frees the buffer.
    pub fn release(&self, copy: ClockRef, pause: &mut dyn FnMut(u32)) {
        if copy.is_none() {
            return;
        }
        let header = self.header(copy);
        // AcqRel: the last holder's free comes after every other holder's reads.
        if header.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            let class = header.class.load(Ordering::Relaxed) as usize;
            let Some(list) = self.free.get(class) else { return };
            self.lock.lock(pause);
            header.next.store(list.load(Ordering::Relaxed), Ordering::Relaxed);
            list.store(copy.0, Ordering::Relaxed);
            self.lock.unlock();
        }
    }

    /// A copy of `clock`, held once; none where the pool is exhausted.
    pub fn copy_of(&self, clock: &VectorClock, pause: &mut dyn FnMut(u32)) -> ClockRef {
        let copy = self.allocate(clock.len(), pause);
        if !copy.is_none() {
            for (index, entry) in self.entries(copy).iter().enumerate() {
                entry.store(clock.get(Slot::new(index)).0, Ordering::Relaxed);
            }
        }
        copy
    }

    /// The join of `copy`, one component more, and `clock`: in place where the caller is the only holder and there is room.
    /// Takes over the caller's hold of `copy` and gives back one of the result; none where the pool is
    /// exhausted, and then `copy` is still held.
    pub fn join(
        &self,
        copy: ClockRef,
        component: (Slot, Epoch),
        clock: &VectorClock,
        pause: &mut dyn FnMut(u32),
    ) -> ClockRef {
        let old = self.entries(copy);
        let len = old.len().max(clock.len()).max(component.0.index() + 1);
        // Acquire: the reads of holders that have left come before the writes below.
        let alone = !copy.is_none() && self.header(copy).refs.load(Ordering::Acquire) == 1;
        let target = if alone && self.words(copy).len() >= len {
            self.header(copy).len.store(len as u32, Ordering::Relaxed);
            copy
        } else {
            self.allocate(len, pause)
        };
        if target.is_none() {
            return target;
        }
        for (index, entry) in self.entries(target).iter().enumerate() {
            let slot = Slot::new(index);
            let mut epoch = clock.get(slot).0;
            if let Some(old) = old.get(index) {
                epoch = epoch.max(old.load(Ordering::Relaxed));
            }
            if slot == component.0 {
                epoch = epoch.max(component.1.0);
            }
            entry.store(epoch, Ordering::Relaxed);
        }
        if target != copy {
            self.release(copy, pause);
        }
        target
    }

    /// Joins a copy into a thread's clock; says whether a component rose.
    pub fn join_into(&self, copy: ClockRef, clock: &mut VectorClock) -> bool {
        clock.join(self.entries(copy))
    }

    /// Whether the clock has everything the copy has.
    pub fn is_covered(&self, copy: ClockRef, clock: &VectorClock) -> bool {
        clock.covers(self.entries(copy))
    }

    /// Buffers' bytes given out so far, freed ones included.
    pub fn used_bytes(&self) -> usize {
        self.next_unit.load(Ordering::Relaxed) as usize * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    fn pool_memory(units: usize) -> (*mut u8, usize) {
        let layout = std::alloc::Layout::from_size_align(units * UNIT_BYTES, UNIT_BYTES).expect("a layout");
        // SAFETY: the layout is not empty; the test leaks the memory, so it stays mapped.
        (unsafe { std::alloc::alloc_zeroed(layout) }, units * UNIT_BYTES)
    }

    #[test]
    fn copies_are_shared_joined_and_freed() {
        let memory = words(SLOT_COUNT);
        let mut clock = VectorClock::detached();
        // SAFETY: SLOT_COUNT words that outlive the clock.
        unsafe { clock.attach(memory.as_ptr()) };
        let (base, bytes) = pool_memory(64);
        // SAFETY: zeroed, aligned, leaked.
        let pool = unsafe { ClockPool::new(base, bytes) };
        let mut pause = |_| {};

        assert!(clock.raise(Slot::new(3), Epoch(7)) && !clock.raise(Slot::new(3), Epoch(6)));
        let copy = pool.copy_of(&clock, &mut pause);
        let held = pool.retain(copy);
        clock.raise(Slot::new(20), Epoch(9));
        let joined = pool.join(copy, (Slot::new(1), Epoch(5)), &clock, &mut pause);
        assert_ne!(joined, held, "a shared copy does not change");
        assert_eq!(pool.entries(held).len(), 4);
        assert!(pool.is_covered(held, &clock) && !pool.is_covered(joined, &clock));
        assert!(pool.join_into(joined, &mut clock) && pool.is_covered(joined, &clock));
        assert_eq!(clock.get(Slot::new(1)), Epoch(5));
        let in_place = pool.join(joined, (Slot::new(1), Epoch(6)), &clock, &mut pause);
        assert_eq!(in_place, joined, "a sole holder's copy is changed in place");
        pool.release(held, &mut pause);
        let again = pool.allocate(4, &mut pause);
        assert_eq!(again, held, "a freed buffer is used again");
    }

    #[test]
    fn exhaustion_is_an_answer() {
        let (base, bytes) = pool_memory(3);
        // SAFETY: zeroed, aligned, leaked.
        let pool = unsafe { ClockPool::new(base, bytes) };
        assert!(!pool.allocate(6, &mut |_| {}).is_none());
        assert!(!pool.allocate(1, &mut |_| {}).is_none());
        assert!(pool.allocate(1, &mut |_| {}).is_none());
        assert!(pool.allocate(SLOT_COUNT * 2, &mut |_| {}).is_none());
    }
}
