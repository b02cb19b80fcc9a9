//! A simulated program: threads that take turns, on both detectors at once.

use conprof_detect::cell::SLOT_COUNT;
use conprof_detect::clock::VECTOR_CLOCK_BYTES;
use conprof_detect::reference::{Action, Reference};
use conprof_detect::threads::SlotRow;
use conprof_detect::{AccessId, Conflict, Detector, Event, Kind, Memory, Runtime, Semantics, SyncObject, Thread};
use std::alloc::{Layout, alloc_zeroed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Xorshift: tests must run the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }
}

fn zeroed(bytes: usize, align: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, align).expect("a layout");
    // SAFETY: the layout is not empty. The memory is leaked, so it outlives every user.
    unsafe { alloc_zeroed(layout) }
}

/// Memory for a detector over a window of `window` bytes, a power of two.
pub fn detector(window: usize, clock_bytes: usize) -> Detector {
    const OBJECTS: usize = 512;
    let memory = Memory {
        shadow_base: zeroed(window * 4, 4096) as usize,
        granule_mask: (window - 1) & !7,
        objects: zeroed(OBJECTS * size_of::<SyncObject>(), 128).cast(),
        object_capacity: OBJECTS as u32,
        clocks: zeroed(clock_bytes, 64),
        clock_bytes,
        regions: zeroed((window >> 16).max(1) * size_of::<AtomicU32>(), 8).cast(),
        slots: zeroed(SLOT_COUNT * size_of::<SlotRow>(), 8).cast(),
    };
    // SAFETY: all memory is zeroed, aligned, leaked and used by this detector only.
    unsafe { Detector::new(memory) }
}

/// A thread with memory for its clock.
pub fn thread() -> Thread {
    let mut thread = Thread::new();
    // SAFETY: zeroed, leaked, for this thread only.
    unsafe { thread.attach(zeroed(VECTOR_CLOCK_BYTES, 64).cast::<AtomicU64>()) };
    thread
}

#[derive(Clone, Copy, Debug)]
struct Made {
    thread: u32,
    address: usize,
    size: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    earlier: AccessId,
    later: AccessId,
    inexact: bool,
    address: usize,
    overlap: u8,
    earlier_reads: bool,
}

#[derive(Default)]
struct Recorder {
    id: u32,
    told: Vec<Told>,
    events: Vec<Event>,
}

impl Runtime for Recorder {
    fn access_id(&mut self) -> AccessId {
        AccessId::new(self.id)
    }
    fn conflict(&mut self, conflict: &Conflict, granule: usize, mask: u8, _kind: Kind) {
        assert_ne!(conflict.overlap & mask, 0, "a conflict is about bytes of the access");
        self.told.push(Told {
            earlier: conflict.previous_id,
            later: AccessId::new(self.id),
            inexact: conflict.inexact,
            address: granule,
            overlap: conflict.overlap,
            earlier_reads: conflict.previous_reads,
        });
    }
    fn pause(&mut self, _spins: u32) {
        panic!("one thread runs at a time, so no lock is ever found taken");
    }
    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
    fn discard(&mut self, start: usize, len: usize) {
        // SAFETY: the detector asks for its own shadow only.
        unsafe { (start as *mut u8).write_bytes(0, len) };
    }
}

/// What was accessed atomically, as the reference has to know it: units by granule.
type Units = BTreeMap<usize, BTreeSet<(usize, usize)>>;

/// Both detectors, fed alike.
pub struct World {
    fast: Detector,
    reference: Reference,
    threads: BTreeMap<u32, Thread>,
    next_thread: u32,
    next_id: u32,
    made: BTreeMap<u32, Made>,
    recorder: Recorder,
    units: Units,
    /// Bytes by granule that something was released through.
    released: BTreeMap<usize, BTreeSet<usize>>,
    /// A plain-looking load of an atomic address acquires at the thread's next action.
    pending: BTreeMap<u32, usize>,
}

const BASE: usize = 0x10000;

impl World {
    pub fn new(bytes: usize) -> World {
        World::with_clocks(bytes, 256 << 10)
    }

    pub fn with_clocks(bytes: usize, clock_bytes: usize) -> World {
        World {
            fast: detector((BASE + bytes).next_power_of_two(), clock_bytes),
            reference: Reference::new(),
            threads: BTreeMap::new(),
            next_thread: 0,
            next_id: 1,
            made: BTreeMap::new(),
            recorder: Recorder::default(),
            units: Units::new(),
            released: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    pub fn base(&self) -> usize {
        BASE
    }

    pub fn live(&self) -> Vec<u32> {
        self.threads.keys().copied().collect()
    }

    pub fn start_main(&mut self) {
        let mut main = thread();
        assert!(self.fast.thread_create(None, &mut main, 0, &mut self.recorder));
        self.threads.insert(0, main);
        self.next_thread = 1;
    }

    fn on(&mut self, thread: u32, action: impl FnOnce(&Detector, &mut Thread, &mut Recorder)) {
        let state = self.threads.get_mut(&thread).expect("a live thread");
        action(&self.fast, state, &mut self.recorder);
    }

    fn settle(&mut self, thread: u32) {
        if let Some(granule) = self.pending.remove(&thread) {
            self.reference.apply(&Action::Acquire { thread, object: granule as u64 });
        }
    }

    pub fn create(&mut self, parent: u32) -> u32 {
        let child = self.next_thread;
        self.next_thread += 1;
        let mut state = thread();
        self.on(parent, |fast, parent, recorder| {
            assert!(fast.thread_create(Some(parent), &mut state, child, recorder));
        });
        self.threads.insert(child, state);
        self.reference.apply(&Action::Create { thread: parent, child });
        child
    }

    pub fn join(&mut self, joiner: u32, child: u32) {
        self.settle(child);
        let mut gone = self.threads.remove(&child).expect("a live thread");
        self.on(joiner, |fast, joiner, recorder| {
            fast.thread_join(joiner, &mut gone, recorder);
            fast.thread_end(&mut gone, recorder);
        });
        self.reference.apply(&Action::Join { thread: joiner, child });
    }

    pub fn adopt(&mut self) -> u32 {
        let child = self.next_thread;
        self.next_thread += 1;
        let mut state = thread();
        assert!(self.fast.thread_adopt(&mut state, child, &mut self.recorder));
        self.threads.insert(child, state);
        self.reference.apply(&Action::Adopt { thread: child });
        child
    }

    pub fn end_detached(&mut self, thread: u32) {
        let mut gone = self.threads.remove(&thread).expect("a live thread");
        self.fast.thread_end(&mut gone, &mut self.recorder);
    }

    fn mark(&mut self, address: usize, size: usize) {
        let granule = address & !7;
        if self.units.entry(granule).or_default().insert((address, size)) {
            self.reference.apply(&Action::Atomic { address: address as u64, size: size as u64 });
        }
    }

    fn is_unit(&self, address: usize, size: usize) -> bool {
        self.units.get(&(address & !7)).is_some_and(|units| units.contains(&(address, size)))
    }

    /// Through bytes that nothing was released through, nothing is acquired.
    fn acquire(&mut self, thread: u32, address: usize, size: usize) {
        let granule = address & !7;
        let released = self.released.get(&granule);
        if released.is_some_and(|bytes| (address..address + size).any(|byte| bytes.contains(&byte))) {
            self.reference.apply(&Action::Acquire { thread, object: granule as u64 });
        }
    }

    fn release(&mut self, thread: u32, address: usize, size: usize) {
        let granule = address & !7;
        self.released.entry(granule).or_default().extend(address..address + size);
        self.reference.apply(&Action::Release { thread, object: granule as u64 });
    }

    pub fn atomic_load(&mut self, thread: u32, address: usize, size: usize) {
        let what = Semantics { atomic: true, acquires: true, ..Semantics::default() };
        self.settle(thread);
        self.on(thread, |fast, state, recorder| fast.after(state, address, size, what, recorder));
        self.mark(address, size);
        self.acquire(thread, address, size);
    }

    pub fn atomic_store(&mut self, thread: u32, address: usize, size: usize) {
        let what = Semantics { atomic: true, releases: true, ..Semantics::default() };
        self.settle(thread);
        self.on(thread, |fast, state, recorder| fast.before(state, address, size, what, recorder));
        self.mark(address, size);
        self.release(thread, address, size);
    }

    pub fn atomic_rmw(&mut self, thread: u32, address: usize, size: usize) {
        let what = Semantics { atomic: true, releases: true, acquires: true, ..Semantics::default() };
        self.settle(thread);
        self.on(thread, |fast, state, recorder| {
            fast.before(state, address, size, what, recorder);
            fast.after(state, address, size, what, recorder);
        });
        self.mark(address, size);
        self.acquire(thread, address, size);
        self.release(thread, address, size);
        self.acquire(thread, address, size);
    }

    /// One direction of a lock of a library's.
    pub fn key_hand_over(&mut self, thread: u32, key: usize, release: bool) {
        self.settle(thread);
        if release {
            self.on(thread, |fast, state, recorder| fast.release(state, key, recorder));
            self.release(thread, key & !7, 8);
        } else {
            self.on(thread, |fast, state, recorder| fast.acquire(state, key, recorder));
            self.acquire(thread, key & !7, 8);
        }
    }

    pub fn access(&mut self, thread: u32, address: usize, size: usize, kind: Kind) {
        self.settle(thread);
        let id = self.next_id;
        self.next_id += 1;
        self.recorder.id = id;
        self.made.insert(id, Made { thread, address, size, kind });
        self.on(thread, |fast, state, recorder| fast.access(state, address, size, kind, recorder));
        let (mut at, end) = (address, address + size);
        while at < end {
            let here = (8 - (at & 7)).min(end - at);
            if self.is_unit(at, here) {
                // Looks plain, is atomic. A further granule of the same access settles the one before.
                if kind.writes() {
                    self.release(thread, at, here);
                }
                if kind.reads() {
                    self.settle_granule(thread, at);
                }
            } else {
                let (address, size) = (at as u64, here as u64);
                self.reference.apply(&Action::Access { thread, address, size, kind, label: id });
            }
            at += here;
        }
    }

    fn settle_granule(&mut self, thread: u32, address: usize) {
        self.pending.insert(thread, address & !7);
    }

    pub fn clean(&mut self, start: usize, len: usize) {
        self.fast.clean(start, len, &mut self.recorder);
        self.forget_objects(start, len);
        self.reference.apply(&Action::Clean { address: start as u64, size: len as u64 });
    }

    pub fn free(&mut self, thread: u32, start: usize, len: usize) {
        self.settle(thread);
        let id = self.next_id;
        self.next_id += 1;
        self.recorder.id = id;
        self.made.insert(id, Made { thread, address: start, size: len, kind: Kind::Free });
        self.on(thread, |fast, state, recorder| fast.free(state, start, len, recorder));
        let (address, size) = (start as u64, len as u64);
        self.reference.apply(&Action::Access { thread, address, size, kind: Kind::Free, label: id });
        self.forget_objects(start, len);
    }

    fn forget_objects(&mut self, start: usize, len: usize) {
        for granule in (start..start + len).step_by(8) {
            self.units.remove(&granule);
            self.released.remove(&granule);
            self.reference.apply(&Action::Destroy { object: granule as u64 });
        }
    }

    pub fn racy_bytes(&self) -> usize {
        self.reference.racy_bytes().len()
    }

    pub fn racy_bytes_found(&self) -> usize {
        let mut found = BTreeSet::new();
        for told in &self.recorder.told {
            let made = self.made[&told.later.number()];
            for byte in told.address..told.address + 8 {
                let earlier = self.made.get(&told.earlier.number());
                let touched = |made: &Made| (made.address..made.address + made.size).contains(&byte);
                if touched(&made) && earlier.is_none_or(touched) {
                    found.insert(byte as u64);
                }
            }
        }
        self.reference.racy_bytes().intersection(&found).count()
    }

    pub fn racy_granules(&self) -> (usize, usize) {
        let racy: BTreeSet<u64> = self.reference.racy_bytes().iter().map(|byte| byte & !7).collect();
        let found: BTreeSet<u64> = self.recorder.told.iter().map(|told| told.address as u64).collect();
        (racy.len(), racy.intersection(&found).count())
    }

    pub fn told(&self) -> usize {
        self.recorder.told.len()
    }

    pub fn inexact(&self) -> usize {
        self.recorder.told.iter().filter(|told| told.inexact).count()
    }

    pub fn lost(&self) -> usize {
        self.recorder.told.iter().filter(|told| told.earlier == AccessId::LOST).count()
    }

    /// No race is told that the reference does not have.
    pub fn verify(&self, seed: u64) {
        assert_eq!(self.fast.counts.lost.load(Ordering::Relaxed), 0, "seed {seed}: the memory suffices");
        let pairs: BTreeSet<(u32, u32)> =
            self.reference.races().keys().map(|race| (race.earlier.label, race.later.label)).collect();
        for told in &self.recorder.told {
            let (earlier, later) = (self.made[&told.earlier.number()], self.made[&told.later.number()]);
            assert_eq!(earlier.kind == Kind::Read, told.earlier_reads, "seed {seed}: {told:?} {earlier:?}");
            assert_ne!(earlier.thread, later.thread, "seed {seed}: {told:?}");
            if told.inexact {
                let related = self.reference.racy_bytes().range(told.address as u64..told.address as u64 + 8);
                assert!(related.count() > 0, "seed {seed}: {told:?}");
                continue;
            }
            let bytes = told.address + told.overlap.trailing_zeros() as usize;
            assert!((earlier.address..earlier.address + earlier.size).contains(&bytes), "seed {seed}: {told:?}");
            assert!(
                pairs.contains(&(told.earlier.number(), told.later.number())),
                "seed {seed}: invented {told:?}: {earlier:?} and {later:?}"
            );
        }
    }
}
