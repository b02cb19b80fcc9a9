//! Threads that really run at once, on a program without races: whatever way their updates of the shadow interleave,
//! nothing is reported.

use conprof_detect::cell::SLOT_COUNT;
use conprof_detect::clock::VECTOR_CLOCK_BYTES;
use conprof_detect::threads::SlotRow;
use conprof_detect::{AccessId, Conflict, Detector, Event, Kind, Memory, Runtime, Semantics, SyncObject, Thread};
use std::alloc::{Layout, alloc_zeroed};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

fn zeroed(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 4096).expect("a layout");
    // SAFETY: the layout is not empty; the memory is leaked.
    unsafe { alloc_zeroed(layout) }
}

struct Witness {
    id: u32,
    conflicts: Vec<(Conflict, usize, Kind)>,
}

impl Runtime for Witness {
    fn access_id(&mut self) -> AccessId {
        AccessId::new(self.id)
    }
    fn conflict(&mut self, conflict: &Conflict, granule: usize, _mask: u8, kind: Kind) {
        self.conflicts.push((*conflict, granule, kind));
    }
    fn pause(&mut self, spins: u32) {
        if spins.is_multiple_of(100) {
            std::thread::yield_now();
        }
    }
    fn event(&mut self, _: Event) {}
    fn discard(&mut self, start: usize, len: usize) {
        for word in (start..start + len).step_by(8) {
            // SAFETY: the detector asks for its own shadow only, which is accessed as atomic words.
            unsafe { (*(word as *const AtomicU64)).store(0, Ordering::Relaxed) };
        }
    }
}

const WINDOW: usize = 1 << 20;
const THREADS: usize = 6;
const STEPS: usize = if cfg!(miri) { 100 } else { 20_000 };
/// Locks, each with a granule of the simulated program for its word and some data that it guards.
const LOCKS: usize = 4;
const LOCK_AT: usize = 0x1000;
const GUARDED_AT: usize = 0x2000;
/// Granules of which each byte belongs to one thread.
const BYTES_AT: usize = 0x3000;
/// Granules with an atomic in the low half and bytes of two threads in the high half.
const MIXED_AT: usize = 0x4000;
/// Read by all.
const CONSTANT_AT: usize = 0x5000;
/// Blocks that pass from thread to thread through [`slots`](Program::slots).
const BLOCKS_AT: usize = 0x10000;

struct Program {
    detector: Detector,
    locks: [Mutex<()>; LOCKS],
    slots: [AtomicUsize; 8],
    free_blocks: Mutex<Vec<usize>>,
}

const RMW: Semantics = Semantics { atomic: true, creates: true, releases: true, acquires: true, opens: false };
const STORE: Semantics = Semantics { atomic: true, creates: true, releases: true, acquires: false, opens: false };
const LOAD: Semantics = Semantics { atomic: true, creates: true, releases: false, acquires: true, opens: false };

struct Actor<'a> {
    program: &'a Program,
    thread: Thread,
    witness: Witness,
    random: u64,
    number: usize,
}

impl Actor<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 11) % bound as u64) as usize
    }

    fn access(&mut self, address: usize, size: usize, kind: Kind) {
        self.witness.id = self.witness.id % 1000 + 1;
        self.program.detector.access(&mut self.thread, address, size, kind, &mut self.witness);
    }

    fn before(&mut self, address: usize, size: usize, what: Semantics) {
        self.program.detector.before(&mut self.thread, address, size, what, &mut self.witness);
    }

    fn after(&mut self, address: usize, size: usize, what: Semantics) {
        self.program.detector.after(&mut self.thread, address, size, what, &mut self.witness);
    }

    fn step(&mut self) {
        match self.below(8) {
            // A lock and what it guards, at any size and alignment.
            0 | 1 => {
                let lock = self.below(LOCKS);
                let word = LOCK_AT + 16 * lock;
                self.before(word, 4, RMW);
                let held = self.program.locks[lock].lock().expect("no thread panics");
                self.after(word, 4, RMW);
                for _ in 0..4 {
                    let size = 1 + self.below(16);
                    let offset = self.below(64 - size);
                    let kind = [Kind::Read, Kind::Write, Kind::Update][self.below(3)];
                    self.access(GUARDED_AT + 64 * lock + offset, size, kind);
                }
                self.before(word, 4, STORE);
                drop(held);
            }
            // Neighbouring bytes of different owners.
            2 | 3 => {
                let granule = BYTES_AT + 8 * self.below(4);
                let kind = [Kind::Read, Kind::Write][self.below(2)];
                self.access(granule + self.number, 1, kind);
            }
            // An atomic next to plain bytes.
            4 => {
                let granule = MIXED_AT + 8 * self.below(4);
                let what = [RMW, STORE, LOAD][self.below(3)];
                if what.releases {
                    self.before(granule, 4, what);
                }
                if what.acquires {
                    self.after(granule, 4, what);
                }
            }
            5 => {
                let granule = MIXED_AT + 8 * self.below(4);
                if self.number < 4 {
                    self.access(granule + 4 + self.number, 1, Kind::Write);
                }
                // Looks plain, is atomic once it is known to be.
                self.before(granule, 4, STORE);
                self.access(granule, 4, Kind::Read);
            }
            6 => {
                let offset = self.below(64);
                self.access(CONSTANT_AT + offset, 1, Kind::Read);
            }
            _ => self.pass_a_block(),
        }
    }

    /// Allocates a block, writes it, and swaps it into a slot; what was there is read, written and freed.
    fn pass_a_block(&mut self) {
        let Some(block) = self.program.free_blocks.lock().expect("no thread panics").pop() else { return };
        self.program.detector.clean(block, 64, &mut self.witness);
        // The block holds an atomic of its own, as an Arc does.
        self.before(block, 8, STORE);
        self.access(block + 8, 16, Kind::Write);
        self.access(block + 24, 40, Kind::Write);
        let slot = self.below(self.program.slots.len());
        let place = LOCK_AT + 0x800 + 8 * slot;
        self.before(place, 8, RMW);
        let other = self.program.slots[slot].swap(block, Ordering::AcqRel);
        self.after(place, 8, RMW);
        if other != 0 {
            self.access(other + 8, 8, Kind::Read);
            self.before(other, 8, RMW);
            self.after(other, 8, RMW);
            self.access(other + 30, 9, Kind::Write);
            self.program.detector.free(&mut self.thread, other, 64, &mut self.witness);
            self.program.free_blocks.lock().expect("no thread panics").push(other);
        }
    }
}

#[test]
fn a_race_free_program_stays_silent() {
    let memory = Memory {
        shadow_base: zeroed(WINDOW * 4) as usize,
        granule_mask: (WINDOW - 1) & !7,
        objects: zeroed((1 << 14) * size_of::<SyncObject>()).cast(),
        object_capacity: 1 << 14,
        clocks: zeroed(64 << 20),
        clock_bytes: 64 << 20,
        regions: zeroed((WINDOW >> 16) * size_of::<AtomicU32>()).cast(),
        slots: zeroed(SLOT_COUNT * size_of::<SlotRow>()).cast(),
    };
    let program = Program {
        // SAFETY: all memory is zeroed, aligned, leaked and used by this detector only.
        detector: unsafe { Detector::new(memory) },
        locks: Default::default(),
        slots: Default::default(),
        free_blocks: Mutex::new((0..32).map(|index| BLOCKS_AT + 64 * index).collect()),
    };
    let new_thread = || {
        let mut thread = Thread::new();
        // SAFETY: zeroed, leaked, for this thread only.
        unsafe { thread.attach(zeroed(VECTOR_CLOCK_BYTES).cast()) };
        thread
    };
    let mut witness = Witness { id: 1, conflicts: Vec::new() };
    let mut main = new_thread();
    program.detector.thread_create(None, &mut main, 0, &mut witness);
    for generation in 0..3 {
        let mut children: Vec<Thread> = (0..THREADS).map(|_| new_thread()).collect();
        program.detector.access(&mut main, CONSTANT_AT, 64, Kind::Write, &mut witness);
        for child in &mut children {
            program.detector.thread_create(Some(&mut main), child, 1, &mut witness);
        }
        let ended = std::thread::scope(|scope| {
            let running: Vec<_> = children
                .into_iter()
                .enumerate()
                .map(|(number, thread)| {
                    let program = &program;
                    scope.spawn(move || {
                        let witness = Witness { id: 1, conflicts: Vec::new() };
                        let random = 0x1234_5678_9abc ^ ((generation * 10 + number) as u64) << 40;
                        let mut actor = Actor { program, thread, witness, random, number };
                        for _ in 0..STEPS {
                            actor.step();
                        }
                        (actor.thread, actor.witness.conflicts)
                    })
                })
                .collect();
            running.into_iter().map(|running| running.join().expect("no thread panics")).collect::<Vec<_>>()
        });
        for (mut child, conflicts) in ended {
            assert_eq!(conflicts, [], "generation {generation}");
            program.detector.thread_join(&mut main, &mut child, &mut witness);
            program.detector.thread_end(&mut child, &mut witness);
        }
        assert_eq!(witness.conflicts, []);
    }
    assert_eq!(program.detector.counts.lost.load(Ordering::Relaxed), 0);
    println!(
        "{} sync objects, {} bytes of clocks",
        program.detector.counts.objects_peak.load(Ordering::Relaxed),
        program.detector.clock_bytes()
    );
}

/// A granule becomes one with a sync object while another thread stores plain bytes of it: neither the object nor
/// what was released into it is lost.
#[test]
fn a_granule_is_upgraded_under_a_racing_plain_write() {
    const ROUNDS: usize = if cfg!(miri) { 60 } else { 10_000 };
    const FLAG: usize = 0x1000;
    const PAYLOAD: usize = 0x1800;
    let memory = Memory {
        shadow_base: zeroed(WINDOW * 4) as usize,
        granule_mask: (WINDOW - 1) & !7,
        objects: zeroed((1 << 10) * size_of::<SyncObject>()).cast(),
        object_capacity: 1 << 10,
        clocks: zeroed(1 << 20),
        clock_bytes: 1 << 20,
        regions: zeroed((WINDOW >> 16) * size_of::<AtomicU32>()).cast(),
        slots: zeroed(SLOT_COUNT * size_of::<SlotRow>()).cast(),
    };
    // SAFETY: all memory is zeroed, aligned, leaked and used by this detector only.
    let detector = unsafe { Detector::new(memory) };
    let mut threads: Vec<Thread> = (0..2).map(|_| Thread::new()).collect();
    for thread in &mut threads {
        // SAFETY: zeroed, leaked, for this thread only.
        unsafe { thread.attach(zeroed(VECTOR_CLOCK_BYTES).cast()) };
    }
    let mut witness = Witness { id: 1, conflicts: Vec::new() };
    let (first, second) = threads.split_at_mut(1);
    detector.thread_create(None, &mut first[0], 0, &mut witness);
    detector.thread_create(Some(&mut first[0]), &mut second[0], 1, &mut witness);
    // The program's own flag, and rounds that the detector does not see.
    let (flag, round, done) = (AtomicU32::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (detector, flag, round, done) = (&detector, &flag, &round, &done);
    let wait = |what: &AtomicUsize, value: usize| {
        while what.load(Ordering::Acquire) != value {
            std::hint::spin_loop();
            if value.is_multiple_of(64) {
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut witness = Witness { id: 1, conflicts: Vec::new() };
            let thread = &mut first[0];
            for number in 1..=ROUNDS {
                wait(done, number - 1);
                detector.acquire(thread, 0x2000, &mut witness);
                flag.store(0, Ordering::Relaxed);
                detector.clean(FLAG, 8, &mut witness);
                detector.access(thread, PAYLOAD, 8, Kind::Write, &mut witness);
                round.store(number, Ordering::Release);
                detector.before(thread, FLAG, 4, STORE, &mut witness);
                flag.store(1, Ordering::Release);
            }
            assert_eq!(witness.conflicts, []);
        });
        scope.spawn(move || {
            let mut witness = Witness { id: 1, conflicts: Vec::new() };
            let thread = &mut second[0];
            for number in 1..=ROUNDS {
                wait(round, number);
                detector.access(thread, FLAG + 4 + number % 4, 1, Kind::Write, &mut witness);
                while flag.load(Ordering::Acquire) == 0 {
                    std::hint::spin_loop();
                }
                detector.after(thread, FLAG, 4, LOAD, &mut witness);
                detector.access(thread, PAYLOAD, 8, Kind::Write, &mut witness);
                detector.release(thread, 0x2000, &mut witness);
                done.store(number, Ordering::Release);
            }
            assert_eq!(witness.conflicts, []);
        });
    });
}
