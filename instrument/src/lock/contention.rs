//! Measuring waits: how long, for which lock, with which stack, and who is to blame.
//!
//! ```text
//! begin (slow path entered) .. end (left) --> WaitTotalRow, WaitEventRow, figures of the lock
//! acquired .. released ----------------> BlameTotalRow: the waiting that the hold caused; hold times
//! wait .. waited (anything else) ---------> WaitTotalRow
//! ```
//!
//! A lock has a [`Meter`], which keeps the integral of its waiters over time (see `conprof_wire::waits`). No clock is
//! read on an uncontended acquisition or release, but for one in [`HOLD_SAMPLE`] that measures the hold.
//!
//! Direction of error: a release that was not seen blames nobody for what its hold caused. Meters lose counts
//! where two threads share a lock at the same moment; never time.

use super::Call;
use crate::check;
use crate::record::{self, table as rows};
use crate::rt::lock::SpinLock;
use crate::rt::{arena, syscall};
use crate::thread::ThreadState;
use conprof_wire::locks::{LockRow, Operation, type_of};
use conprof_wire::recording::{CONFIG_CONTENTION, Table};
use conprof_wire::waits::{
    BlameTotalRow, HISTOGRAM_BUCKETS, LockFiguresRow, NO_LOCK, WaitEventRow, WaitKind, WaitTotalRow, histogram_bucket,
};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// One uncontended hold in this many is measured, of a lock that nobody has waited for.
const HOLD_SAMPLE: u64 = 64;
/// The same for a lock that somebody has waited for.
const CONTENDED_HOLD_SAMPLE: u64 = 8;
/// Spins before the processor is given away.
const SPINS: u32 = 200;
/// Slots looked at before a total counts as not there.
const PROBES: usize = 64;

/// What is kept of a lock while it is in use. All-zero bytes are a valid value.
#[repr(C, align(64))]
struct Meter {
    /// Taken while the integral is advanced.
    word: AtomicU32,
    waiters: AtomicU32,
    /// When `area` was advanced, in nanoseconds since the shim started.
    since: AtomicU64,
    /// Integral of the waiters over time, in nanoseconds.
    area: AtomicU64,
    /// The same when the present hold began.
    mark: AtomicU64,
    /// When the present hold began; 0 where it is not measured.
    hold_since: AtomicU64,
    acquisitions: AtomicU64,
    /// Access row of the present hold's acquisition.
    access: AtomicU32,
    /// Row of the lock's figures plus 1; 0 while it has none.
    figures: AtomicU32,
    readers: AtomicU32,
    /// Serial of the thread that released it last, plus 1.
    waker: AtomicU32,
}

const _: () = assert!(size_of::<Meter>() == 64);

static METERS: AtomicPtr<Meter> = AtomicPtr::new(core::ptr::null_mut());
static WAIT_SLOTS: Slots = Slots::new();
static BLAME_SLOTS: Slots = Slots::new();
static ADD: SpinLock<()> = SpinLock::new(());

/// Once, after the tables of locks are made.
pub(super) fn init() {
    if record::config() & CONFIG_CONTENTION == 0 {
        return;
    }
    let locks = rows::capacity(Table::Locks) as usize;
    if WAIT_SLOTS.init(Table::WaitTotals) && BLAME_SLOTS.init(Table::BlameTotals) {
        if let Some(memory) = arena::pages(locks * size_of::<Meter>()) {
            METERS.store(memory as *mut Meter, Ordering::Relaxed);
        }
    }
}

#[inline]
fn meter(lock: u32) -> Option<&'static Meter> {
    let meters = METERS.load(Ordering::Relaxed);
    if meters.is_null() || lock == 0 || lock >= rows::capacity(Table::Locks) {
        return None;
    }
    // SAFETY: there is a meter for each row that the table has room for; they are never unmapped.
    Some(unsafe { &*meters.add(lock as usize) })
}

/// Whether waits are measured.
#[inline]
pub(super) fn is_on() -> bool {
    !METERS.load(Ordering::Relaxed).is_null()
}

impl Meter {
    /// Advances the integral, and changes the number of waiters by `change` after that.
    fn advance(&self, now: u64, change: i32) -> u32 {
        let mut spins = 0u32;
        // Acquire: pairs with the release below.
        while self.word.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spins = spins.wrapping_add(1);
            if spins % SPINS == 0 {
                syscall::yield_now();
            }
            core::hint::spin_loop();
        }
        let waiters = self.waiters.load(Ordering::Relaxed);
        // Another thread may have read its clock later and come first.
        let since = self.since.load(Ordering::Relaxed);
        let until = if now > since { now } else { since };
        let grown = u64::from(waiters).wrapping_mul(until - since);
        self.area.store(self.area.load(Ordering::Relaxed).wrapping_add(grown), Ordering::Relaxed);
        self.since.store(until, Ordering::Relaxed);
        let changed = if change < 0 { waiters.saturating_sub(1) } else { waiters.wrapping_add(change as u32) };
        self.waiters.store(changed, Ordering::Relaxed);
        // Release: pairs with the acquire above.
        self.word.store(0, Ordering::Release);
        changed
    }

    /// The lock's figures; made when they are first asked for. `None` where there is no room (counted).
    fn figures(&self, lock: u32) -> Option<(u32, *mut LockFiguresRow)> {
        let mut number = self.figures.load(Ordering::Relaxed);
        if number == 0 {
            let lock = rows::row::<LockRow>(Table::Locks, lock)?;
            // SAFETY: the row is in the mapping; its identity does not change while the lock is in use.
            let lock = unsafe { lock.read_volatile() };
            let new = LockFiguresRow {
                address: lock.address,
                lock_type: lock.lock_type & 0xffff,
                first_access: lock.first_access,
                acquisitions: 0,
                shared_acquisitions: 0,
                contended: 0,
                wait_ns: 0,
                wait_max_ns: 0,
                hold_ns: 0,
                hold_max_ns: 0,
                hold_samples: 0,
                overtakes: 0,
                waiters_peak: 0,
                readers_peak: 0,
                wait_histogram: [0; HISTOGRAM_BUCKETS],
                hold_histogram: [0; HISTOGRAM_BUCKETS],
            };
            let row = rows::append(Table::LockFigures, &new)?;
            number = match self.figures.compare_exchange(0, row + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => row + 1,
                Err(other) => other,
            };
        }
        Some((number - 1, rows::row(Table::LockFigures, number - 1)?))
    }
}

/// An atomic counter in a row of the recording.
macro_rules! counter {
    ($row:expr, $field:ident) => {
        // SAFETY: the row is in the mapping; both sides access the field atomically.
        unsafe { AtomicU64::from_ptr(&raw mut (*$row).$field) }
    };
}

macro_rules! small_counter {
    ($row:expr, $field:ident) => {
        // SAFETY: as for `counter`.
        unsafe { AtomicU32::from_ptr(&raw mut (*$row).$field) }
    };
}

fn count_bucket(histogram: *mut u32, duration: u64) {
    // SAFETY: a bucket is below the histogram's length.
    unsafe { AtomicU32::from_ptr(histogram.add(histogram_bucket(duration))) }.fetch_add(1, Ordering::Relaxed);
}

/// The slow path of a lock is entered.
pub(super) fn begin(lock: u32, call: &mut Call) {
    let Some(meter) = meter(lock) else { return };
    let now = record::time_ns();
    call.since = if now == 0 { 1 } else { now };
    call.holder = super::table::owner(lock);
    let waiters = meter.advance(now, 1);
    if let Some((_, row)) = meter.figures(lock) {
        small_counter!(row, waiters_peak).fetch_max(waiters, Ordering::Relaxed);
    }
}

/// The slow path is left, with or without the lock. Returns the access row of the waiting stack.
pub(super) fn end(state: &mut ThreadState, lock: u32, call: &Call, site: u32, took: bool) -> u32 {
    if call.since == 0 {
        return 0;
    }
    let Some(meter) = meter(lock) else { return 0 };
    let now = record::time_ns();
    meter.advance(now, -1);
    let access = check::place(state, site);
    if took {
        state.lock.waited = true;
        if let Some((_, row)) = meter.figures(lock) {
            counter!(row, contended).fetch_add(1, Ordering::Relaxed);
        }
    }
    let shares = super::operation_of(call.packed).is_some_and(Operation::shares);
    let kind = if shares { WaitKind::Shared } else { WaitKind::Lock };
    lock_waited(state, meter, lock, (kind, access), (call.since, now), call.holder);
    access
}

fn lock_waited(
    state: &ThreadState,
    meter: &Meter,
    lock: u32,
    (kind, access): (WaitKind, u32),
    (since, now): (u64, u64),
    holder: u32,
) {
    let Some((number, row)) = meter.figures(lock) else { return };
    let duration = now.saturating_sub(since);
    counter!(row, wait_ns).fetch_add(duration, Ordering::Relaxed);
    counter!(row, wait_max_ns).fetch_max(duration, Ordering::Relaxed);
    // SAFETY: the row is in the mapping.
    count_bucket(unsafe { &raw mut (*row).wait_histogram } as *mut u32, duration);
    add_wait(state.serial, number, kind, access, duration);
    let known = |serial_plus_one: u32| serial_plus_one.wrapping_sub(1);
    add_event(&WaitEventRow {
        start_ns: since,
        end_ns: now,
        lock: number,
        kind: kind as u32,
        thread: state.serial,
        access,
        holder: known(holder),
        waker: known(meter.waker.load(Ordering::Relaxed)),
    });
}

/// A slow path was left without its return: by unwinding or a jump.
pub(super) fn abandoned(call: &Call) {
    if call.since != 0 {
        if let Some(meter) = super::table::find(call.address as usize).and_then(meter) {
            meter.advance(record::time_ns(), -1);
        }
    }
}

/// A lock was taken at the place of an access row.
pub(super) fn acquired(state: &mut ThreadState, lock: u32, access: u32, shares: bool) {
    let waited = core::mem::replace(&mut state.lock.waited, false);
    let Some(meter) = meter(lock) else { return };
    let number = state.lock.acquisitions;
    let figures = meter.figures.load(Ordering::Relaxed);
    if figures == 0 {
        // An exclusive holder is the only one to write here.
        meter.acquisitions.store(meter.acquisitions.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    } else if let Some(row) = rows::row::<LockFiguresRow>(Table::LockFigures, figures - 1) {
        let before = meter.acquisitions.swap(0, Ordering::Relaxed);
        counter!(row, acquisitions).fetch_add(before + 1, Ordering::Relaxed);
        if shares {
            counter!(row, shared_acquisitions).fetch_add(1, Ordering::Relaxed);
        }
    }
    let contended = meter.waiters.load(Ordering::Relaxed) != 0;
    let mut now = 0;
    if contended {
        now = record::time_ns();
        meter.advance(now, 0);
        if !waited {
            if let Some((_, row)) = meter.figures(lock) {
                counter!(row, overtakes).fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let (area, mark) = (meter.area.load(Ordering::Relaxed), meter.mark.load(Ordering::Relaxed));
    let waker = meter.waker.swap(0, Ordering::Relaxed);
    if area != mark && waker != 0 {
        // Since the release, the lock was free or on its way to this thread, and others still waited.
        if let Some((number, _)) = meter.figures(lock) {
            add_blame(waker - 1, number, meter.access.load(Ordering::Relaxed), 0, area.wrapping_sub(mark));
        }
    }
    if shares {
        let readers = meter.readers.fetch_add(1, Ordering::Relaxed) + 1;
        if figures != 0 {
            if let Some(row) = rows::row::<LockFiguresRow>(Table::LockFigures, figures - 1) {
                small_counter!(row, readers_peak).fetch_max(readers, Ordering::Relaxed);
            }
        }
        if readers > 1 {
            return;
        }
    } else {
        meter.readers.store(0, Ordering::Relaxed);
        let sample = if figures == 0 { HOLD_SAMPLE } else { CONTENDED_HOLD_SAMPLE };
        let measured = waited || contended || number % sample == 0;
        if measured && now == 0 {
            now = record::time_ns();
        }
        meter.hold_since.store(if measured { now } else { 0 }, Ordering::Relaxed);
    }
    meter.access.store(access, Ordering::Relaxed);
    meter.mark.store(meter.area.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// A lock is about to be released at a site.
pub(super) fn released(state: &mut ThreadState, lock: u32, site: u32, shares: bool) {
    let Some(meter) = meter(lock) else { return };
    let mut now = 0;
    if meter.waiters.load(Ordering::Relaxed) != 0 {
        now = record::time_ns();
        meter.advance(now, 0);
        meter.waker.store(state.serial + 1, Ordering::Relaxed);
    }
    let area = meter.area.load(Ordering::Relaxed);
    let caused = area.wrapping_sub(meter.mark.swap(area, Ordering::Relaxed));
    if shares {
        let readers = meter.readers.load(Ordering::Relaxed);
        meter.readers.store(readers.saturating_sub(1), Ordering::Relaxed);
    }
    if caused != 0 {
        if let Some((number, _)) = meter.figures(lock) {
            let released_access = check::place(state, site);
            add_blame(state.serial, number, meter.access.load(Ordering::Relaxed), released_access, caused);
        }
    }
    let hold_since = if shares { 0 } else { meter.hold_since.swap(0, Ordering::Relaxed) };
    if hold_since != 0 {
        if now == 0 {
            now = record::time_ns();
        }
        // A hold that is measured although nobody waits waits for the figures that only waiting makes.
        let figures = meter.figures.load(Ordering::Relaxed);
        if figures != 0 {
            if let Some(row) = rows::row::<LockFiguresRow>(Table::LockFigures, figures - 1) {
                let duration = now.saturating_sub(hold_since);
                counter!(row, hold_ns).fetch_add(duration, Ordering::Relaxed);
                counter!(row, hold_max_ns).fetch_max(duration, Ordering::Relaxed);
                counter!(row, hold_samples).fetch_add(1, Ordering::Relaxed);
                // SAFETY: the row is in the mapping.
                count_bucket(unsafe { &raw mut (*row).hold_histogram } as *mut u32, duration);
            }
        }
    }
}

/// The lock is gone: the next one at its row starts afresh.
pub(super) fn gone(lock: u32) {
    let Some(meter) = meter(lock) else { return };
    for word in [&meter.waiters, &meter.access, &meter.figures, &meter.readers, &meter.waker] {
        word.store(0, Ordering::Relaxed);
    }
    for word in [&meter.area, &meter.mark, &meter.hold_since, &meter.acquisitions] {
        word.store(0, Ordering::Relaxed);
    }
}

/// The process is about to end: locks that nobody waited for get their figures as well, as far as there is room.
pub(super) fn exiting() {
    for lock in 1..rows::count(Table::Locks) {
        let Some(meter) = meter(lock) else { return };
        let acquisitions = meter.acquisitions.swap(0, Ordering::Relaxed);
        if acquisitions != 0 {
            let Some((_, row)) = meter.figures(lock) else { return };
            counter!(row, acquisitions).fetch_add(acquisitions, Ordering::Relaxed);
        }
    }
}

/// Something is waited for. The wait of a lock's slow path is measured by [`begin`] and [`end`].
pub(super) fn wait(state: &mut ThreadState, kind: WaitKind, lock: u32, access: u32, now: u64) {
    if !is_on() || slow_path_under_way(state) {
        return;
    }
    state.lock.wait_since = if now == 0 { 1 } else { now };
    state.lock.wait_kind = kind as u32;
    state.lock.wait_access = access;
    state.lock.wait_lock = 0;
    if matches!(kind, WaitKind::Lock | WaitKind::Shared) && lock != 0 {
        if let Some(meter) = meter(lock) {
            let waiters = meter.advance(now, 1);
            state.lock.wait_lock = lock;
            state.lock.wait_holder = super::table::owner(lock);
            if let Some((_, row)) = meter.figures(lock) {
                small_counter!(row, waiters_peak).fetch_max(waiters, Ordering::Relaxed);
            }
        }
    }
}

fn slow_path_under_way(state: &ThreadState) -> bool {
    let count = state.lock.call_count as usize;
    let top = count.checked_sub(1).and_then(|top| state.lock.calls.get(top));
    top.is_some_and(|call| call.since != 0 && call.sp > state.guest_sp)
}

/// What [`wait`] began is over.
pub(super) fn waited(state: &mut ThreadState) {
    let since = core::mem::replace(&mut state.lock.wait_since, 0);
    if since == 0 {
        return;
    }
    let now = record::time_ns();
    let (kind, access, lock) = (WaitKind::from_u32(state.lock.wait_kind), state.lock.wait_access, state.lock.wait_lock);
    if lock != 0 {
        if let Some(meter) = meter(lock) {
            meter.advance(now, -1);
            let holder = state.lock.wait_holder;
            lock_waited(state, meter, lock, (kind, access), (since, now), holder);
            state.lock.waited = true;
            if let Some((_, row)) = meter.figures(lock) {
                counter!(row, contended).fetch_add(1, Ordering::Relaxed);
            }
        }
        return;
    }
    add_wait(state.serial, NO_LOCK, kind, access, now.saturating_sub(since));
    add_event(&WaitEventRow {
        start_ns: since,
        end_ns: now,
        lock: NO_LOCK,
        kind: kind as u32,
        thread: state.serial,
        access,
        holder: u32::MAX,
        waker: u32::MAX,
    });
}

fn add_event(event: &WaitEventRow) {
    rows::append(Table::WaitEvents, event);
}

/// Rows of totals, found by their keys.
struct Slots {
    slots: AtomicPtr<AtomicU32>,
    mask: AtomicU32,
}

impl Slots {
    const fn new() -> Slots {
        Slots { slots: AtomicPtr::new(core::ptr::null_mut()), mask: AtomicU32::new(0) }
    }

    fn init(&self, table: Table) -> bool {
        let slots = (rows::capacity(table) as usize).max(PROBES).saturating_mul(2).next_power_of_two();
        let Some(memory) = arena::pages(slots * size_of::<AtomicU32>()) else { return false };
        self.mask.store(slots as u32 - 1, Ordering::Relaxed);
        self.slots.store(memory as *mut AtomicU32, Ordering::Relaxed);
        true
    }

    /// The row with the key that `is` recognises, or `new` appended.
    fn find_or_add<T: Copy>(&self, table: Table, hash: u64, is: impl Fn(&T) -> bool, new: &T) -> Option<*mut T> {
        let found = self.find(table, hash, &is);
        if found.is_some() {
            return found;
        }
        let _add = ADD.lock();
        if let Some(found) = self.find(table, hash, &is) {
            return Some(found);
        }
        let index = rows::append(table, new)?;
        for probe in 0..PROBES {
            let slot = self.slot(hash, probe)?;
            if slot.load(Ordering::Relaxed) == 0 {
                // Release: pairs with the acquire in `find`.
                slot.store(index + 1, Ordering::Release);
                break;
            }
        }
        rows::row(table, index)
    }

    fn find<T>(&self, table: Table, hash: u64, is: &impl Fn(&T) -> bool) -> Option<*mut T> {
        for probe in 0..PROBES {
            // Acquire: pairs with the release in `find_or_add`; the row's key is whole and does not change.
            let index = self.slot(hash, probe)?.load(Ordering::Acquire);
            if index == 0 {
                return None;
            }
            let row = rows::row::<T>(table, index - 1)?;
            // SAFETY: the row is in the mapping and published.
            if is(unsafe { &*row }) {
                return Some(row);
            }
        }
        None
    }

    fn slot(&self, hash: u64, probe: usize) -> Option<&'static AtomicU32> {
        let slots = self.slots.load(Ordering::Relaxed);
        if slots.is_null() {
            return None;
        }
        let at = (hash >> 32).wrapping_add(probe as u64) as u32 & self.mask.load(Ordering::Relaxed);
        // SAFETY: the index is masked to the slots, which are never unmapped.
        Some(unsafe { &*slots.add(at as usize) })
    }
}

fn mix(a: u32, b: u32, c: u32, d: u32) -> u64 {
    let low = u64::from(a) << 32 | u64::from(b);
    let high = u64::from(c) << 32 | u64::from(d);
    let mixed = (low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed << 17
}

fn add_wait(thread: u32, lock: u32, kind: WaitKind, access: u32, duration: u64) {
    let kind = kind as u32;
    let new = WaitTotalRow { lock, kind, thread, access, count: 0, total_ns: 0, max_ns: 0 };
    let is = |row: &WaitTotalRow| row.lock == lock && row.kind == kind && row.thread == thread && row.access == access;
    let row = WAIT_SLOTS.find_or_add(Table::WaitTotals, mix(lock, kind, thread, access), is, &new);
    if let Some(row) = row {
        counter!(row, count).fetch_add(1, Ordering::Relaxed);
        counter!(row, total_ns).fetch_add(duration, Ordering::Relaxed);
        counter!(row, max_ns).fetch_max(duration, Ordering::Relaxed);
    }
}

fn add_blame(thread: u32, lock: u32, acquired_access: u32, released_access: u32, caused: u64) {
    let new = BlameTotalRow { lock, thread, acquired_access, released_access, count: 0, total_ns: 0, max_ns: 0 };
    let is = |row: &BlameTotalRow| {
        row.lock == lock
            && row.thread == thread
            && row.acquired_access == acquired_access
            && row.released_access == released_access
    };
    let hash = mix(lock, thread, acquired_access, released_access);
    let row = BLAME_SLOTS.find_or_add(Table::BlameTotals, hash, is, &new);
    if let Some(row) = row {
        counter!(row, count).fetch_add(1, Ordering::Relaxed);
        counter!(row, total_ns).fetch_add(caused, Ordering::Relaxed);
        counter!(row, max_ns).fetch_max(caused, Ordering::Relaxed);
    }
}

/// The type of the lock that a call is about.
pub(super) fn lock_of(state: &mut ThreadState, call: &Call, site: u32) -> Option<u32> {
    let address = call.address as usize;
    if let Some(lock) = super::table::find(address) {
        return Some(lock);
    }
    let access = check::place(state, site);
    super::table::find_or_add(address, type_of(call.packed), access)
}
