//! Prints what an access costs that reaches the detector, in nanoseconds, by what it finds in the shadow.
//!
//! `cargo run --release -p conprof-detect --example access_cost`; records of its output are dated files in docs/bench.

use conprof_detect::cell::SLOT_COUNT;
use conprof_detect::clock::VECTOR_CLOCK_BYTES;
use conprof_detect::threads::SlotRow;
use conprof_detect::{AccessId, Conflict, Detector, Event, Kind, Memory, Runtime, Semantics, SyncObject, Thread};
use std::alloc::{Layout, alloc_zeroed};
use std::hint::black_box;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

fn zeroed(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 4096).expect("a layout");
    // SAFETY: the layout is not empty; the memory is leaked.
    unsafe { alloc_zeroed(layout) }
}

struct Quiet(u32);

impl Runtime for Quiet {
    #[inline(always)]
    fn access_id(&mut self) -> AccessId {
        AccessId::new(self.0)
    }
    fn conflict(&mut self, _: &Conflict, _: usize, _: u8, _: Kind) {}
    fn pause(&mut self, _: u32) {}
    fn event(&mut self, _: Event) {}
    fn discard(&mut self, start: usize, len: usize) {
        // SAFETY: the detector asks for its own shadow only.
        unsafe { (start as *mut u8).write_bytes(0, len) };
    }
}

const WINDOW: usize = 1 << 24;
const GRANULES: usize = 4096;
const ROUNDS: usize = 2000;

fn measure(name: &str, count: usize, mut body: impl FnMut(usize)) {
    let start = Instant::now();
    for round in 0..ROUNDS {
        body(round);
    }
    let ns = start.elapsed().as_nanos() as f64 / (ROUNDS * count) as f64;
    println!("{name:60} {ns:7.2} ns");
}

fn main() {
    let memory = Memory {
        shadow_base: zeroed(WINDOW * 4) as usize,
        granule_mask: (WINDOW - 1) & !7,
        objects: zeroed((1 << 16) * size_of::<SyncObject>()).cast(),
        object_capacity: 1 << 16,
        clocks: zeroed(16 << 20),
        clock_bytes: 16 << 20,
        regions: zeroed((WINDOW >> 16) * size_of::<AtomicU32>()).cast(),
        slots: zeroed(SLOT_COUNT * size_of::<SlotRow>()).cast(),
    };
    // SAFETY: all memory is zeroed, aligned, leaked and used by this detector only.
    let detector = unsafe { Detector::new(memory) };
    let mut runtime = Quiet(7);
    let mut threads: Vec<Thread> = (0..8)
        .map(|_| {
            let mut thread = Thread::new();
            // SAFETY: zeroed, leaked, for this thread only.
            unsafe { thread.attach(zeroed(VECTOR_CLOCK_BYTES).cast()) };
            thread
        })
        .collect();
    let (main, others) = threads.split_first_mut().expect("eight threads");
    detector.thread_create(None, main, 0, &mut runtime);
    for other in others.iter_mut() {
        detector.thread_create(Some(main), other, 1, &mut runtime);
    }
    let other = &mut others[0];
    let data = 1 << 16;
    let lock = 1 << 12;
    let at = |index: usize| black_box(data + 8 * index);

    measure("covered already (what the inline check would skip)", GRANULES, |_| {
        for index in 0..GRANULES {
            detector.access(main, at(index), 8, Kind::Write, &mut runtime);
        }
    });
    measure("own write of an older epoch replaced", GRANULES, |_| {
        detector.release(main, lock, &mut runtime);
        for index in 0..GRANULES {
            detector.access(main, at(index), 8, Kind::Write, &mut runtime);
        }
    });
    measure("own read of an older epoch replaced", GRANULES, |_| {
        detector.release(main, lock, &mut runtime);
        for index in 0..GRANULES {
            detector.access(main, at(index), 8, Kind::Read, &mut runtime);
        }
    });
    measure("fresh memory: clean, then write (both)", GRANULES, |_| {
        detector.clean(data, GRANULES * 8, &mut runtime);
        for index in 0..GRANULES {
            detector.access(main, at(index), 8, Kind::Write, &mut runtime);
        }
    });
    measure("another thread's ordered write replaced, by turns", 2 * GRANULES, |_| {
        for thread in [&mut *main, &mut *other] {
            detector.acquire(thread, lock, &mut runtime);
            for index in 0..GRANULES {
                detector.access(thread, at(index), 8, Kind::Write, &mut runtime);
            }
            detector.release(thread, lock, &mut runtime);
        }
    });
    detector.clean(data, GRANULES * 8, &mut runtime);
    measure("read by two threads, each in new epochs", 2 * GRANULES, |_| {
        for thread in [&mut *main, &mut *other] {
            detector.release(thread, lock, &mut runtime);
            for index in 0..GRANULES {
                detector.access(thread, at(index), 8, Kind::Read, &mut runtime);
            }
        }
    });
    detector.clean(data, GRANULES * 8, &mut runtime);
    measure("four fields of two bytes written by turns", 4 * GRANULES, |_| {
        detector.release(main, lock, &mut runtime);
        for index in 0..GRANULES {
            for field in 0..4 {
                runtime.0 = 10 + field as u32;
                detector.access(main, at(index) + 2 * field, 2, Kind::Write, &mut runtime);
            }
        }
    });
    detector.clean(data, GRANULES * 8, &mut runtime);
    measure("clean of memory that is clean, a granule", GRANULES, |_| {
        detector.clean(data, GRANULES * 8, &mut runtime);
    });
    let rmw = Semantics { atomic: true, creates: true, releases: true, acquires: true, opens: false };
    measure("read-modify-write of one thread, before and after", 256, |_| {
        for index in 0..256 {
            let address = black_box(lock + 64 + 8 * index);
            detector.before(main, address, 8, rmw, &mut runtime);
            detector.after(main, address, 8, rmw, &mut runtime);
        }
    });
    measure("the same with a plain write between", 256, |_| {
        for index in 0..256 {
            let address = black_box(lock + 64 + 8 * index);
            detector.before(main, address, 8, rmw, &mut runtime);
            detector.after(main, address, 8, rmw, &mut runtime);
            detector.access(main, at(index), 8, Kind::Write, &mut runtime);
        }
    });
    measure("read-modify-write handed between eight threads", 8, |_| {
        for thread in std::iter::once(&mut *main).chain(others.iter_mut()) {
            detector.before(thread, lock, 8, rmw, &mut runtime);
            detector.after(thread, lock, 8, rmw, &mut runtime);
            detector.access(thread, data, 8, Kind::Write, &mut runtime);
        }
    });
}
