//! The detector's entries, as the rest of the shim calls them.
//!
//! ```text
//! stubs, hook, thread --> check (what an entry means) --> conprof-detect (cells, clocks)
//!                           |                                |
//!                           |  <- access id, conflict, event -'
//!                           `-> who (access rows), report (findings), blocks (heap), locks (lock sets) --> record
//! ```
//!
//! All are called with the thread's guard set, on the runtime stack unless they say otherwise, with
//! `state.guest_sp` set. They never block, and touch no memory of the target but through its shadow.
//! A lock of the detector ranks below all locks of the shim but the arena's and the recording's tables.

mod blocks;
mod locks;
mod memory;
mod report;
mod who;

use crate::apply::plan;
use crate::record;
use crate::thread::ThreadState;
use conprof_detect::{Checked, Common, Kind, Semantics, Thread};
use conprof_wire::locks::operation_of;
use conprof_wire::recording::{Counter, Interposed};
use conprof_wire::site::{Class, Order, PackedSite, SiteFlags};
use conprof_wire::state::Frame;
use who::{Operation, Who};

/// The detector's part of a thread's state. All-zero bytes are a valid value; states are used again.
#[repr(C)]
pub struct ThreadCheck {
    /// The thread's own memory: clock, id cache. Null until the first thread with this state.
    private: *mut memory::Private,
    /// The thread's slot.
    slot: u32,
    /// Lock set row of the locks held.
    lock_set: u32,
    /// Locks held, in order of acquisition.
    held_len: u32,
    held: [locks::Held; locks::CAPACITY],
    /// Identity of the thread's creation as an object of the event log.
    birth: u64,
    /// Nobody saw the thread's creation, and the event log does not say so yet.
    is_adopted: core::cell::Cell<bool>,
    tally: Tally,
}

/// Counters of a thread that are added to the recording's now and then.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Tally {
    accesses: u32,
    atomics: u32,
    unknown: u32,
    syncs: u32,
}

/// Blocks below this size are cleaned granule by granule, which touches all of their shadow.
const SMALL_BLOCK: usize = 128 << 10;

/// Slow accesses after which a thread's counters are added up.
const TALLY_LIMIT: u32 = 1 << 14;

/// Threads created so far.
static BIRTHS: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
/// Objects of the event log from here on are births of threads, not sync objects.
const BIRTH_OBJECTS: u64 = 1 << 63;

/// Once, before any other; the recording and the shadow are set up.
pub fn init() {
    memory::init();
}

/// The thread's detector state, and the operation that calls back for it; `None` where nothing can be checked.
macro_rules! operation {
    ($state:ident, $who:expr) => {{
        let private = $state.check.private;
        if private.is_null() {
            return;
        }
        // SAFETY: the memory is this thread's own, apart from its state, and the guard makes this the only reference.
        let thread: &mut Thread = unsafe { &mut (*private).thread };
        (thread, memory::detector(), Operation::new($state, $who).named())
    }};
}

/// Shows the thread's present epoch to the inline checks.
#[inline(always)]
fn publish_key(state: &mut ThreadState, thread: &Thread) {
    state.gs.key = thread.key().0;
}

/// The main thread's state is installed.
pub fn thread_main(state: &mut ThreadState) {
    if !memory::prepare(state) {
        return;
    }
    let (thread, detector, mut operation) = operation!(state, Who::Nobody);
    detector.thread_create(None, thread, 0, &mut operation);
    publish_key(state, thread);
    state.check.slot = thread.slot().index() as u32;
}

/// `parent` is about to create the thread of `child`, whose state is fresh or used again.
pub fn thread_create(parent: &mut ThreadState, child: &mut ThreadState) {
    child.gs.key = 0;
    if !memory::prepare(child) {
        return;
    }
    let birth = BIRTH_OBJECTS | BIRTHS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    child.check.birth = birth;
    child.check.is_adopted.set(false);
    let child_private = child.check.private;
    let parent_private = parent.check.private;
    if parent_private.is_null() {
        return;
    }
    let mut operation = Operation::new(parent, Who::Nobody);
    // SAFETY: two states' own memory; the child's thread does not run yet, the parent's is this one.
    let (from, to) = unsafe { (&mut (*parent_private).thread, &mut (*child_private).thread) };
    operation.log_release(birth);
    memory::detector().thread_create(Some(from), to, u32::MAX, &mut operation);
    child.check.slot = to.slot().index() as u32;
    parent.check.tally.syncs += 1;
    publish_key(parent, from);
}

/// First thing in the new thread; its stack was cleaned.
pub fn thread_start(child: &mut ThreadState) {
    let birth = child.check.birth;
    let (thread, _, operation) = operation!(child, Who::Nobody);
    operation.log_acquire(birth);
    publish_key(child, thread);
}

/// A thread that nobody wrapped: its clock joins those of all others. Runs with all signals blocked.
pub fn thread_adopt(state: &mut ThreadState) {
    if !memory::prepare(state) {
        return;
    }
    let (thread, detector, mut operation) = operation!(state, Who::Nobody);
    detector.thread_adopt(thread, u32::MAX, &mut operation);
    state.check.is_adopted.set(true);
    publish_key(state, thread);
    state.check.slot = thread.slot().index() as u32;
}

/// `child`'s kernel thread is gone; `joiner` acquires its final clock.
pub fn thread_join(joiner: &mut ThreadState, child: &mut ThreadState) {
    let (from, to) = (child.check.private, joiner.check.private);
    if from.is_null() || to.is_null() {
        return;
    }
    let mut operation = Operation::new(joiner, Who::Nobody);
    operation.log_join(child.serial);
    // SAFETY: two states' own memory; the child's thread is gone, the joiner is this one.
    unsafe { memory::detector().thread_join(&mut (*to).thread, &mut (*from).thread, &mut operation) };
    joiner.check.tally.syncs += 1;
    // SAFETY: the joiner's own memory; the operation above is over.
    publish_key(joiner, unsafe { &(*to).thread });
}

/// The thread is gone (joined, detached or never created): its slot may be used again. The registry is locked.
pub fn thread_end(child: &mut ThreadState) {
    flush(child);
    child.check.lock_set = 0;
    child.check.held_len = 0;
    let (thread, detector, mut operation) = operation!(child, Who::Nobody);
    detector.thread_end(thread, &mut operation);
    child.gs.key = 0;
}

/// Slot and first epoch of the thread, for its row in the recording.
pub fn identity(state: &ThreadState) -> (u32, u64) {
    let private = state.check.private;
    if private.is_null() {
        return (u32::MAX, 0);
    }
    // SAFETY: the thread does not run, or is this one.
    let thread = unsafe { &(*private).thread };
    (thread.slot().index() as u32, thread.first_epoch().0)
}

/// What an atomic or unknown operation means for order (the lenient x86 rule).
const fn semantics(site: PackedSite) -> Semantics {
    let takes_lock = matches!(operation_of(site.0), Some(operation) if operation.takes());
    let (atomic, releases, acquires) = match site.class() {
        Class::AtomicLoad => (true, false, true),
        Class::AtomicStore => (true, true, false),
        // A lock that is known is taken: its own code publishes nothing by that.
        Class::AtomicRmw if takes_lock => (true, false, true),
        Class::AtomicRmw => {
            if site.flags().has(SiteFlags::ORDERS_NOTHING) {
                (true, false, false)
            } else {
                let unread = site.flags().has(SiteFlags::RESULT_UNUSED)
                    && matches!(site.order(), Order::Relaxed | Order::Release);
                (true, true, !unread)
            }
        }
        Class::UnknownLoad => (false, false, true),
        Class::UnknownStore => (false, true, false),
        Class::UnknownRmw => (false, true, true),
        _ => (false, false, false),
    };
    let creates = atomic || (releases && site.flags().has(SiteFlags::RELEASE_ALWAYS));
    // A possible atomic that nobody knows as one: most are none, and none of them ends an epoch.
    Semantics { atomic, creates, releases, acquires, opens: !atomic }
}

/// A plain or unknown access of a site.
#[inline]
pub fn access(state: &mut ThreadState, address: usize, site: u32) {
    let row = plan::site(site);
    match row.class() {
        Class::Read => plain(state, address, row.size(), Kind::Read, site),
        Class::Write => plain(state, address, row.size(), Kind::Write, site),
        Class::ReadWrite => plain(state, address, row.size(), Kind::Update, site),
        _ => access_other_slow(state, address, site),
    }
}

/// A plain access of `SIZE` bytes, 1, 2, 4 or 8, where it is one of the common cases; `false` where nothing was done.
#[inline(always)]
pub fn access_common<const SIZE: usize, const WRITES: bool>(
    state: &mut ThreadState,
    address: usize,
    site: u32,
) -> bool {
    let offset = address & 7;
    let private = state.check.private;
    if offset + SIZE > 8 || private.is_null() || state.check.tally.accesses >= TALLY_LIMIT {
        return false;
    }
    state.check.tally.accesses += 1;
    let mask = (((1u32 << SIZE) - 1) << offset) as u8;
    memory::touch(address);
    // SAFETY: as in `operation`; `find` touches the other part of the thread's own memory only.
    let thread: &mut Thread = unsafe { &mut (*private).thread };
    match memory::detector().access_common(thread, address, mask, WRITES, || who::find(state, Who::Site(site))) {
        Common::Checked(Checked::Done) => true,
        Common::Checked(Checked::Race(conflict)) => {
            let id = who::find(state, Who::Site(site));
            let kind = if WRITES { Kind::Write } else { Kind::Read };
            report::race(state, id, &conflict, address & !7, mask, kind);
            true
        }
        Common::Checked(Checked::Tagged(_)) | Common::Other => false,
    }
}

#[inline(always)]
fn plain(state: &mut ThreadState, address: usize, size: usize, kind: Kind, site: u32) {
    state.check.tally.accesses += 1;
    if state.check.tally.accesses >= TALLY_LIMIT {
        flush(state);
    }
    let (thread, detector, mut operation) = operation!(state, Who::Site(site));
    memory::touch(address);
    detector.access(thread, address, size, kind, &mut operation);
    publish_key(state, thread);
}

/// An atomic or unknown operation whose check stands before it only.
#[cold]
#[inline(never)]
fn access_other_slow(state: &mut ThreadState, address: usize, site: u32) {
    let what = semantics(plan::site(site));
    if what.releases || what.atomic {
        atomic_before(state, address, site);
    }
    if what.acquires {
        state.check.tally.unknown += 1;
        let (thread, detector, mut operation) = operation!(state, Who::Site(site));
        detector.acquire_later(thread, address, &mut operation);
    }
}

/// Before an atomic operation.
pub fn atomic_before(state: &mut ThreadState, address: usize, site: u32) {
    let row = plan::site(site);
    let what = semantics(row);
    count_atomic(state, what);
    if !what.releases && (!what.atomic || what.acquires) {
        // A load does its work afterwards.
        return;
    }
    if state.check.held_len != 0 && row.class().writes() {
        // Whoever holds a lock and stores into its word gives it up, whether or not the site is known as an unlock: identical
        // code is merged, and its frames are lost. A lock that is taken again is put back by `lock_acquired`.
        locks::released(state, address);
    }
    let (thread, detector, mut operation) = operation!(state, Who::Site(site));
    detector.before(thread, address, row.size(), what, &mut operation);
    publish_key(state, thread);
}

/// After an atomic operation.
pub fn atomic_after(state: &mut ThreadState, address: usize, site: u32) {
    let row = plan::site(site);
    let what = semantics(row);
    if !what.acquires {
        return;
    }
    if !what.releases {
        count_atomic(state, what);
    }
    let (thread, detector, mut operation) = operation!(state, Who::Site(site));
    detector.after(thread, address, row.size(), what, &mut operation);
    publish_key(state, thread);
}

#[inline(always)]
fn count_atomic(state: &mut ThreadState, what: Semantics) {
    let tally = &mut state.check.tally;
    if what.atomic {
        tally.atomics += 1;
    } else {
        tally.unknown += 1;
    }
    tally.syncs += 1;
    if tally.syncs >= TALLY_LIMIT {
        flush(state);
    }
}

/// Before a string instruction, with its `rcx`, `rsi`, `rdi` and whether it counts down.
///
/// `cmps`, `scas` and `lods` are not checked: how far they get is known only afterwards (a miss).
pub fn string_operation(state: &mut ThreadState, site: u32, rcx: u64, rsi: usize, rdi: usize, down: bool) {
    let row = plan::site(site);
    let count = if row.flags().has(SiteFlags::REPEATED) { rcx as usize } else { 1 };
    let size = row.size();
    let len = count.wrapping_mul(size);
    if len == 0 || count > isize::MAX as usize / 64 {
        return;
    }
    let first = |start: usize| if down { start.wrapping_sub(len - size) } else { start };
    let (reads, writes) = match row.class() {
        Class::StringMove => (true, true),
        Class::StringStore => (false, true),
        _ => return,
    };
    if reads {
        plain(state, first(rsi), len, Kind::Read, site);
    }
    if writes {
        plain(state, first(rdi), len, Kind::Write, site);
    }
}

/// Into or out of code that is not understood.
pub fn opaque(state: &mut ThreadState, _site: u32) {
    state.check.tally.syncs += 1;
    let (thread, detector, mut operation) = operation!(state, Who::Nobody);
    detector.opaque(thread, &mut operation);
    publish_key(state, thread);
}

/// An interposed function or system call reads or writes the range.
///
/// Nothing is checked where the interposed function was called by a quiet one (see `QuietRow`).
pub fn range(state: &mut ThreadState, start: usize, len: usize, write: bool, by: Interposed) {
    // SAFETY: the top of the shadow stack is always a frame.
    let caller = unsafe { (*(state.gs.frames_top as *const Frame)).return_address };
    if plan::is_quiet_text(caller) {
        return;
    }
    let kind = if write { Kind::Write } else { Kind::Read };
    let (thread, detector, mut operation) = operation!(state, Who::Interposed(by));
    memory::touch_all(start, len);
    detector.access(thread, start, len, kind, &mut operation);
    publish_key(state, thread);
}

/// The memory is fresh: what was accessed there before is forgotten. May be called off the runtime stack.
pub fn clean(state: &mut ThreadState, start: usize, len: usize) {
    if memory::is_ready() {
        memory::detector().clean(start, len, &mut Operation::new(state, Who::Nobody));
    }
}

/// A block was allocated; it is fresh. After the real allocation.
pub fn allocated(state: &mut ThreadState, block: usize, len: usize) {
    if !memory::is_ready() {
        return;
    }
    let node = state.context();
    blocks::allocated(block, len, node, state.serial);
    if len < SMALL_BLOCK {
        memory::touch_all(block, len);
    }
    memory::detector().clean(block, len, &mut Operation::new(state, Who::Nobody));
}

/// A block is about to be freed: a write to all of it. Before the real free.
pub fn freed(state: &mut ThreadState, block: usize, len: usize) {
    if !memory::is_ready() {
        return;
    }
    let len = if len == 0 { blocks::size_of(block) } else { len };
    blocks::freed(block);
    let (thread, detector, mut operation) = operation!(state, Who::Interposed(Interposed::Free));
    detector.free(thread, block, len, &mut operation);
    publish_key(state, thread);
}

/// A block is about to be freed by code that is not checked: forgotten. Before the real free.
pub fn freed_unchecked(state: &mut ThreadState, block: usize, len: usize) {
    if !memory::is_ready() {
        return;
    }
    let len = if len == 0 { blocks::size_of(block) } else { len };
    blocks::freed(block);
    memory::detector().clean(block, len, &mut Operation::new(state, Who::Nobody));
}

/// Joins the thread's clock into the object `key` (an address, or a value of `hook::key`).
pub fn release(state: &mut ThreadState, key: usize) {
    state.check.tally.syncs += 1;
    let (thread, detector, mut operation) = operation!(state, Who::Nobody);
    detector.release(thread, key, &mut operation);
    publish_key(state, thread);
}

/// Joins the object's clock into the thread's.
pub fn acquire(state: &mut ThreadState, key: usize) {
    state.check.tally.syncs += 1;
    let (thread, detector, mut operation) = operation!(state, Who::Nobody);
    detector.acquire(thread, key, &mut operation);
    publish_key(state, thread);
}

/// The object is gone.
pub fn destroy(state: &mut ThreadState, key: usize) {
    if memory::is_ready() {
        memory::detector().destroy_at(key, &mut Operation::new(state, Who::Nobody));
    }
}

/// Whether races are checked in this run.
#[inline(always)]
pub fn is_checking() -> bool {
    memory::is_ready()
}

/// Whether accesses of the thread are checked.
pub fn is_on(state: &ThreadState) -> bool {
    !state.check.private.is_null()
}

/// A lock was taken (acquires too). `site` is `NO_SITE` for interposed functions.
pub fn lock_acquired(state: &mut ThreadState, lock: usize, site: u32, exclusive: bool) {
    if !is_on(state) {
        return;
    }
    acquire(state, lock);
    locks::acquired(state, lock, site, exclusive);
}

/// A lock is about to be given up (releases too).
pub fn lock_released(state: &mut ThreadState, lock: usize, _site: u32) {
    if !is_on(state) {
        return;
    }
    locks::released(state, lock);
    release(state, lock);
}

/// A lock was taken by an atomic operation, which acquires by itself.
pub fn lock_taken(state: &mut ThreadState, lock: usize, site: u32, exclusive: bool) {
    locks::acquired(state, lock, site, exclusive);
}

/// A lock is about to be given up by an atomic operation, which releases by itself.
pub fn lock_given_up(state: &mut ThreadState, lock: usize) {
    locks::released(state, lock);
}

/// Size of a block whose allocation was seen; 0 for any other.
pub fn block_size(block: usize) -> usize {
    if memory::is_ready() { blocks::size_of(block) } else { 0 }
}

/// The access row of a site, or of the interposed function for `NO_SITE`, in the thread's present context.
pub fn place(state: &mut ThreadState, site: u32) -> u32 {
    if state.check.private.is_null() {
        return crate::lock::place(state, site);
    }
    who::row_of_site(state, site)
}

/// The process is about to end.
pub fn exiting(state: &mut ThreadState) {
    crate::lock::exiting(state);
    flush(state);
}

/// Adds the thread's counters to the recording's.
#[cold]
#[inline(never)]
fn flush(state: &mut ThreadState) {
    let tally = core::mem::take(&mut state.check.tally);
    for (counter, amount) in [
        (Counter::SlowAccesses, tally.accesses),
        (Counter::AtomicOperations, tally.atomics),
        (Counter::UnknownAccesses, tally.unknown),
        (Counter::SyncOperations, tally.syncs),
    ] {
        if amount != 0 {
            record::add(counter, u64::from(amount));
        }
    }
    if memory::is_ready() {
        let counts = &memory::detector().counts;
        use core::sync::atomic::Ordering::Relaxed;
        record::raise(Counter::SyncObjects, u64::from(counts.objects_peak.load(Relaxed)));
        record::raise(Counter::SyncObjectsLost, counts.lost.load(Relaxed));
        record::raise(Counter::AtomicAddress, counts.atomic_address.load(Relaxed));
    }
}
