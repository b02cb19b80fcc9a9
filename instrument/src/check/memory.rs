//! The detector's memory: one detector for the process, and each thread's own part.

use crate::apply::shadow;
use crate::record;
use crate::rt::{arena, syscall};
use crate::thread::ThreadState;
use conprof_detect::cell::SLOT_COUNT;
use conprof_detect::clock::VECTOR_CLOCK_BYTES;
use conprof_detect::detector::REGION_SHIFT;
use conprof_detect::threads::SlotRow;
use conprof_detect::{AccessId, Detector, Memory, SyncObject, Thread, cell};
use conprof_wire::recording::{CONFIG_RACES, Counter};
use conprof_wire::state;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

// The detector's cells are the ones that generated code compares.
const _: () = {
    assert!(cell::SLOT_BITS == state::SLOT_BITS && cell::SLOT_SHIFT == state::SLOT_SHIFT);
    assert!(cell::EPOCH_BITS == state::EPOCH_BITS && cell::EPOCH_SHIFT == state::EPOCH_SHIFT);
    assert!(cell::READ == state::CELL_READ && cell::FREED == state::CELL_FREED && cell::SYNC_TAG == state::SYNC_TAG);
    assert!(AccessId::BITS == state::ACCESS_ID_BITS);
    assert!(size_of::<conprof_detect::Granule>() as u64 == state::SHADOW_BYTES);
    assert!(1u64 << state::GRANULE_SHIFT == 8);
};

/// Sync objects that can be alive at once; their memory is committed as they are used.
const OBJECTS: usize = 1 << 24;
/// Address space for copies of clocks.
const CLOCK_BYTES: usize = 16 << 30;
/// Entries of a thread's id cache.
pub const ID_CACHE: usize = 4096;

/// A thread's own memory, apart from its state, so that the detector's part is borrowed by itself.
#[repr(C)]
pub struct Private {
    pub thread: Thread,
    pub ids: [IdEntry; ID_CACHE],
}

/// An access row that the thread used lately.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IdEntry {
    pub site: u32,
    pub node: u32,
    pub lock_set: u32,
    pub id: u32,
}

/// Log2 of the bytes of the target's memory whose shadow is asked for at once.
const CHUNK_SHIFT: u32 = 14;
/// `MADV_POPULATE_WRITE` (linux/mman.h, since 5.14).
const POPULATE_WRITE: i32 = 23;

/// A bit for each chunk of the window: its shadow was asked for.
static POPULATED: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// Sees to it that the shadow of an address has pages of its own.
///
/// A page of shadow that is read before it is written costs two faults and, with several threads, an interrupt of all
/// processors; most are read first, by the inline check.
#[inline(always)]
pub fn touch(address: usize) {
    let bits = POPULATED.load(Ordering::Relaxed);
    let chunk = (address & detector().granule_mask()) >> CHUNK_SHIFT;
    // SAFETY: there is a bit for each chunk of the window; null is left aside.
    if !bits.is_null() && unsafe { &*bits.add(chunk / 64) }.load(Ordering::Relaxed) & (1 << (chunk % 64)) == 0 {
        populate_slow(bits, chunk);
    }
}

/// [`touch`] for a range.
#[inline(always)]
pub fn touch_all(start: usize, len: usize) {
    let mut at = start;
    let mut left = len;
    while left != 0 {
        touch(at);
        let here = left.min((1 << CHUNK_SHIFT) - (at & ((1 << CHUNK_SHIFT) - 1)));
        at = at.wrapping_add(here);
        left -= here;
    }
}

#[cold]
#[inline(never)]
fn populate_slow(bits: *mut AtomicU64, chunk: usize) {
    // SAFETY: as in `touch`.
    unsafe { &*bits.add(chunk / 64) }.fetch_or(1 << (chunk % 64), Ordering::Relaxed);
    let (_, base) = shadow::layout();
    // Where the kernel does not know this advice, or has no memory, the pages come one by one as they are touched.
    syscall::advise(base as usize + 4 * (chunk << CHUNK_SHIFT), 4 << CHUNK_SHIFT, POPULATE_WRITE);
}

/// The shadow in a range was given back to the system.
pub fn discarded(start: usize, len: usize) {
    let bits = POPULATED.load(Ordering::Relaxed);
    let (_, base) = shadow::layout();
    let first = start.wrapping_sub(base as usize).div_ceil(4 << CHUNK_SHIFT);
    let end = start.wrapping_sub(base as usize).wrapping_add(len) / (4 << CHUNK_SHIFT);
    for chunk in first..end {
        if !bits.is_null() {
            // SAFETY: as in `touch`; the range lies in the shadow.
            unsafe { &*bits.add(chunk / 64) }.fetch_and(!(1 << (chunk % 64)), Ordering::Relaxed);
        }
    }
}

struct Place(UnsafeCell<MaybeUninit<Detector>>);

// SAFETY: written once, before a second thread exists, and `Detector` is `Sync`.
unsafe impl Sync for Place {}

static DETECTOR: Place = Place(UnsafeCell::new(MaybeUninit::zeroed()));
static READY: AtomicBool = AtomicBool::new(false);

/// Whether races are checked.
#[inline(always)]
pub fn is_ready() -> bool {
    READY.load(Ordering::Relaxed)
}

/// The detector. Only where [`is_ready`], or where a thread has its own memory, which it has only then.
#[inline(always)]
pub fn detector() -> &'static Detector {
    debug_assert!(is_ready());
    // SAFETY: `init` wrote it before it set `READY`, single-threaded.
    unsafe { (*DETECTOR.0.get()).assume_init_ref() }
}

/// Address space whose pages are zeroed in a forked child.
fn reserve(len: usize) -> Option<*mut u8> {
    let memory = arena::pages(len)?;
    syscall::advise(memory as usize, len, libc::MADV_NOHUGEPAGE);
    syscall::advise(memory as usize, len, libc::MADV_WIPEONFORK);
    Some(memory)
}

/// Sets the detector up; leaves it out where races are not wanted or there is no memory.
pub fn init() {
    let (mask, base) = shadow::layout();
    if record::config() & CONFIG_RACES == 0 || base == 0 {
        return;
    }
    if try_init(mask as usize, base as usize).is_none() {
        record::count(Counter::SyncObjectsLost);
    }
}

fn try_init(mask: usize, base: usize) -> Option<()> {
    let window = (mask | 7) + 1;
    let memory = Memory {
        shadow_base: base,
        granule_mask: mask,
        objects: reserve(OBJECTS * size_of::<SyncObject>())?.cast(),
        object_capacity: OBJECTS as u32,
        clocks: reserve(CLOCK_BYTES)?,
        clock_bytes: CLOCK_BYTES,
        regions: reserve((window >> REGION_SHIFT) * 4)?.cast(),
        slots: reserve(SLOT_COUNT * size_of::<SlotRow>())?.cast(),
    };
    super::blocks::init(mask, reserve(window / 2));
    if let Some(bits) = arena::pages((window >> CHUNK_SHIFT).div_ceil(8)) {
        POPULATED.store(bits.cast(), Ordering::Relaxed);
    }
    // SAFETY: all of the memory is fresh, zeroed, page-aligned, never unmapped, and the detector's alone.
    let detector = unsafe { Detector::new(memory) };
    detector.set_recording(record::event::wanted());
    // SAFETY: no second thread exists and nobody has asked for the detector yet.
    unsafe { (*DETECTOR.0.get()).write(detector) };
    READY.store(true, Ordering::Relaxed);
    Some(())
}

/// Gives a state its own memory, unless it has it from a thread before; whether it has it now.
pub fn prepare(state: &mut ThreadState) -> bool {
    if !is_ready() {
        return false;
    }
    state.check.lock_set = 0;
    state.check.held_len = 0;
    if !state.check.private.is_null() {
        // SAFETY: the state's own memory; the thread that used it is gone.
        unsafe { (*state.check.private).ids.as_mut_ptr().write_bytes(0, ID_CACHE) };
        return true;
    }
    const OWN_BYTES: usize = size_of::<Private>().next_multiple_of(4096);
    let Some(own) = arena::pages(OWN_BYTES + VECTOR_CLOCK_BYTES) else {
        record::count(Counter::SyncObjectsLost);
        return false;
    };
    let private = own.cast::<Private>();
    // SAFETY: the pages are fresh and zeroed, and hold a `Private` and behind it a clock's words.
    unsafe {
        (&raw mut (*private).thread).write(Thread::new());
        (*private).thread.attach(own.add(OWN_BYTES).cast::<AtomicU64>());
    }
    state.check.private = private;
    true
}
