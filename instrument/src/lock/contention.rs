//! Measuring waits: how long, for which lock, with which stack, and who is to blame.
//!
//! ```text
//! begin (slow path entered) .. end (left) --> WaitTotalRow, WaitEventRow, figures of the lock
//! acquired .. released ----------------> BlameTotalRow: the waiting that the hold caused; hold times
//! wait .. waited (anything else) ---------> WaitTotalRow
//! ```
//!
//! A lock has a [`Meter`], which keeps the integral of its waiters over time (see `conprof_wire::waits`). No clock is
//! read on an uncontended acquisition or release, but for one in 256 that measures the hold.
//!
//! Every wait is measured. Every hold for which somebody waits is, up to [`EXACT_HOLDS`]; from then on, of a lock that is taken more
//! than once in [`HOT_NS`], one hold in [`WEIGHT`] is, by its number and not by what happens in it, and stands for so many: it is told
//! from its acquisition to the next, with what was caused meanwhile. All other acquisitions and releases of it take the short way, though others wait.
//!
//! Direction of error: a release that was not seen blames nobody for what its hold caused. Meters lose counts
//! where two threads share a lock at the same moment; never time. Blame for a much contended lock is an estimate.

use super::slots::Slots;
use super::{Call, incident, permit_waits, table};
use crate::check;
use crate::record::{self, table as rows};
use crate::rt::arena;
use crate::rt::lock::{give_word, take_word};
use crate::thread::ThreadState;
use conprof_wire::locks::{LockRow, Operation, sample_hash, type_of};
use conprof_wire::recording::{CONFIG_CONTENTION, Table};
use conprof_wire::waits::{
    BlameTotalRow, HISTOGRAM_BUCKETS, LockFiguresRow, NO_LOCK, NO_THREAD, WaitEventRow, WaitKind, WaitTotalRow,
    histogram_bucket,
};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// [`LockRow::sample_below`] of a lock that nobody has waited for, of one that somebody has, and of one of which a part of the holds is measured.
pub(super) const SAMPLE: u32 = 1 << 24;
const CONTENDED_SAMPLE: u32 = 1 << 27;
const WEIGHTED_SAMPLE: u32 = ((1 << 32) / WEIGHT) as u32;
/// Measured holds of a lock until only a part of them is.
const EXACT_HOLDS: u64 = 1024;
/// Time per acquisition, in nanoseconds, from which on a lock is not. There measuring each hold costs next to nothing, and chance would
/// decide which of few long ones are measured.
const HOT_NS: u64 = 50_000;
/// What a measured hold of it stands for.
const WEIGHT: u64 = 8;

/// What is kept of a lock while it is in use, beside its row. All-zero bytes are a valid value.
#[repr(C, align(64))]
struct Meter {
    /// Taken while the rest is changed.
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
    /// Access row of the acquisition whose hold the waiting since `mark` is blamed on.
    access: AtomicU32,
    /// Row of the lock's figures plus 1; 0 while it has none.
    figures: AtomicU32,
    readers: AtomicU16,
    /// 1 where a measured hold stands for [`WEIGHT`].
    weighted: AtomicU16,
    /// Serial of the thread that released it last while others waited, plus 1.
    waker: AtomicU32,
    /// Acquisitions that the figures have.
    folded: AtomicU64,
}

const _: () = assert!(size_of::<Meter>() == 64);

static METERS: AtomicPtr<Meter> = AtomicPtr::new(core::ptr::null_mut());
static WAIT_SLOTS: Slots = Slots::new();
static BLAME_SLOTS: Slots = Slots::new();

/// Once, after the tables of locks are made.
pub(super) fn init() {
    if record::config() & CONFIG_CONTENTION == 0 {
        return;
    }
    let locks = rows::capacity(Table::Locks) as usize;
    if WAIT_SLOTS.init(Table::WaitTotals) && BLAME_SLOTS.init(Table::BlameTotals) && incident::init() {
        if let Some(memory) = arena::pages(locks * size_of::<Meter>())
            && permit_waits::init(locks)
        {
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

impl Meter {
    /// Changes the meter of a lock alone.
    fn alone<R>(&self, lock: u32, change: impl FnOnce() -> R) -> R {
        take_word(&self.word);
        let result = change();
        let settled = if self.is_weighted() {
            self.waker.load(Ordering::Relaxed) == 0
        } else {
            // A waiter makes the hold one that is measured, and what its waiting did is told.
            self.waiters.load(Ordering::Relaxed) == 0
                && self.area.load(Ordering::Relaxed) == self.mark.load(Ordering::Relaxed)
        };
        let quiet = settled && self.hold_since.load(Ordering::Relaxed) == 0;
        table::set_quiet(lock, quiet);
        give_word(&self.word);
        result
    }

    fn is_weighted(&self) -> bool {
        self.weighted.load(Ordering::Relaxed) != 0
    }

    /// What a measured hold stands for.
    fn weight(&self) -> u64 {
        if self.is_weighted() { WEIGHT } else { 1 }
    }

    /// The figures, if there are any.
    fn known_figures(&self) -> Option<(u32, *mut LockFiguresRow)> {
        let number = self.figures.load(Ordering::Relaxed).checked_sub(1)?;
        Some((number, rows::row(Table::LockFigures, number)?))
    }

    /// Gives the figures the acquisitions up to a number.
    fn fold(&self, number: u64) {
        if let Some((_, row)) = self.known_figures() {
            let new = number.saturating_sub(self.folded.fetch_max(number, Ordering::Relaxed));
            counter!(row, acquisitions).fetch_add(new, Ordering::Relaxed);
        }
    }

    /// Advances the integral; called within [`Meter::alone`].
    fn grow(&self, now: u64) {
        let waiters = self.waiters.load(Ordering::Relaxed);
        // Another thread may have read its clock later and come first.
        let since = self.since.load(Ordering::Relaxed);
        let until = if now > since { now } else { since };
        let grown = u64::from(waiters).wrapping_mul(until - since);
        self.area.store(self.area.load(Ordering::Relaxed).wrapping_add(grown), Ordering::Relaxed);
        self.since.store(until, Ordering::Relaxed);
    }

    /// Advances the integral, and changes the number of waiters by `change` after that.
    fn advance(&self, lock: u32, now: u64, change: i32) -> u32 {
        self.alone(lock, || {
            self.grow(now);
            let waiters = self.waiters.load(Ordering::Relaxed);
            let changed = if change < 0 { waiters.saturating_sub(1) } else { waiters.wrapping_add(change as u32) };
            self.waiters.store(changed, Ordering::Relaxed);
            changed
        })
    }

    /// The lock's figures; made when they are first asked for. `None` where there is no room (counted).
    fn figures(&self, lock: u32) -> Option<(u32, *mut LockFiguresRow)> {
        figures(&self.figures, lock)
    }
}

/// The figures of a lock, whose row plus 1 is in `number`; made when they are first asked for. `None` where there is no room (counted).
pub(super) fn figures(number: &AtomicU32, lock: u32) -> Option<(u32, *mut LockFiguresRow)> {
    let mut known = number.load(Ordering::Relaxed);
    if known == 0 {
        let index = lock;
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
        if let Some(below) = table::sample_below(index) {
            below.store(CONTENDED_SAMPLE, Ordering::Relaxed);
        }
        known = match number.compare_exchange(0, row + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => row + 1,
            Err(other) => other,
        };
    }
    Some((known - 1, rows::row(Table::LockFigures, known - 1)?))
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
    call.holder = table::owner(lock);
    let waiters = meter.advance(lock, now, 1);
    if let Some((_, row)) = meter.figures(lock) {
        small_counter!(row, waiters_peak).fetch_max(waiters, Ordering::Relaxed);
    }
    call.acquisitions = acquisitions(lock);
}

/// Whether readers hold the lock, as far as is known.
pub(super) fn has_readers(lock: u32) -> bool {
    meter(lock).is_some_and(|meter| meter.readers.load(Ordering::Relaxed) != 0)
}

/// How often the lock was taken so far.
pub(super) fn acquisitions(lock: u32) -> u64 {
    table::acquisitions(lock).map_or(0, |count| count.load(Ordering::Relaxed))
}

/// The waiting for the lock so far, over all waiters.
pub(super) fn waiting_ns(lock: u32, now: u64) -> u64 {
    let Some(meter) = meter(lock) else { return 0 };
    if meter.waiters.load(Ordering::Relaxed) != 0 {
        meter.advance(lock, now, 0);
    }
    meter.area.load(Ordering::Relaxed)
}

/// The slow path is left, with or without the lock. Returns the access row of the waiting stack.
pub(super) fn end(state: &mut ThreadState, lock: u32, call: &Call, site: u32, took: bool) -> u32 {
    if call.since == 0 {
        return 0;
    }
    let Some(meter) = meter(lock) else { return 0 };
    let now = record::time_ns();
    meter.advance(lock, now, -1);
    let access = check::place(state, site);
    if took {
        state.lock.waited_at = now.max(1);
        if let Some((_, row)) = meter.figures(lock) {
            counter!(row, contended).fetch_add(1, Ordering::Relaxed);
        }
    }
    let shares = super::operation_of(call.packed).is_some_and(Operation::shares);
    let kind = if shares { WaitKind::Shared } else { WaitKind::Lock };
    lock_waited(state, meter, lock, (kind, access), (call.since, now), call.holder);
    incident::lock_waited(state, lock, (kind, access), (call.since, now), call.acquisitions, call.holder);
    access
}

/// A wait in a lock's figures.
pub(super) fn add_wait_figures(row: *mut LockFiguresRow, duration: u64) {
    counter!(row, wait_ns).fetch_add(duration, Ordering::Relaxed);
    counter!(row, wait_max_ns).fetch_max(duration, Ordering::Relaxed);
    // SAFETY: the row is in the mapping.
    count_bucket(unsafe { &raw mut (*row).wait_histogram } as *mut u32, duration);
}

/// A measured hold in a lock's figures.
pub(super) fn add_hold_figures(row: *mut LockFiguresRow, duration: u64) {
    counter!(row, hold_ns).fetch_add(duration, Ordering::Relaxed);
    counter!(row, hold_max_ns).fetch_max(duration, Ordering::Relaxed);
    counter!(row, hold_samples).fetch_add(1, Ordering::Relaxed);
    // SAFETY: the row is in the mapping.
    count_bucket(unsafe { &raw mut (*row).hold_histogram } as *mut u32, duration);
}

/// Who waits or holds, as totals are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    /// Serial of the thread; [`NO_THREAD`] for tasks.
    thread: u32,
    /// Access row of the call that spawned the task.
    spawned: u32,
    /// Where a hold ends, the same of the task that ended it.
    released_spawned: u32,
}

impl Who {
    pub(super) fn thread(serial: u32) -> Who {
        Who { thread: serial, spawned: 0, released_spawned: 0 }
    }

    /// The tasks that one call has spawned.
    pub(super) fn tasks(spawned: u32) -> Who {
        Who { thread: NO_THREAD, spawned, released_spawned: 0 }
    }

    /// The same, of a hold that tasks of another call ended.
    pub(super) fn released_by(self, spawned: u32) -> Who {
        Who { released_spawned: spawned, ..self }
    }

    fn hash(self) -> u32 {
        self.thread ^ self.spawned << 12 ^ self.released_spawned << 20
    }
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
    add_wait_figures(row, duration);
    add_wait(Who::thread(state.serial), number, kind, access, duration);
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
        task: 0,
        spawned: 0,
    });
}

/// A thread begins to spin for a lock.
pub(super) fn spins(lock: u32, now: u64) {
    let Some(meter) = meter(lock) else { return };
    let waiters = meter.advance(lock, now, 1);
    if let Some((_, row)) = meter.figures(lock) {
        small_counter!(row, waiters_peak).fetch_max(waiters, Ordering::Relaxed);
    }
}

/// It no longer does, and may have the lock.
pub(super) fn spun(
    state: &mut ThreadState,
    lock: u32,
    what: (WaitKind, u32),
    (since, now): (u64, u64),
    holder: u32,
    took: bool,
) {
    let Some(meter) = meter(lock) else { return };
    meter.advance(lock, now, -1);
    if took {
        state.lock.waited_at = now.max(1);
        if let Some((_, row)) = meter.figures(lock) {
            counter!(row, contended).fetch_add(1, Ordering::Relaxed);
        }
    }
    lock_waited(state, meter, lock, what, (since, now), holder);
}

/// A slow path was left without its return: by unwinding or a jump.
pub(super) fn abandoned(call: &Call) {
    if call.since != 0 && super::operation_of(call.packed).is_some_and(Operation::takes) {
        if let Some(lock) = table::find(call.address as usize)
            && let Some(meter) = meter(lock)
        {
            meter.advance(lock, record::time_ns(), -1);
        }
    }
}

/// Counts an acquisition; which one it is, and whether its number says that it is measured.
fn count_acquisition(lock: u32, shares: bool) -> (u64, bool) {
    let Some(count) = table::acquisitions(lock) else { return (0, false) };
    let number = if shares {
        count.fetch_add(1, Ordering::Relaxed) + 1
    } else {
        // An exclusive holder is the only one to write here.
        let number = count.load(Ordering::Relaxed) + 1;
        count.store(number, Ordering::Relaxed);
        number
    };
    let below = table::sample_below(lock).map_or(0, |below| below.load(Ordering::Relaxed));
    (number, sample_hash(number) < below)
}

/// A lock was taken at the place of an access row.
pub(super) fn acquired(state: &mut ThreadState, lock: u32, access: u32, shares: bool) {
    let waited_at = core::mem::replace(&mut state.lock.waited_at, 0);
    let Some(meter) = meter(lock) else { return };
    let (number, sampled) = count_acquisition(lock, shares);
    if shares && let Some((_, row)) = meter.known_figures() {
        counter!(row, shared_acquisitions).fetch_add(1, Ordering::Relaxed);
    }
    let weighted = meter.is_weighted();
    let settled = || meter.waker.load(Ordering::Relaxed) == 0 && meter.hold_since.load(Ordering::Relaxed) == 0;
    if weighted && !sampled && settled() {
        return;
    }
    meter.fold(number);
    let contended = meter.waiters.load(Ordering::Relaxed) != 0;
    let measured = sampled || !weighted && (contended || waited_at != 0);
    let now = match waited_at {
        0 if measured || contended => record::time_ns(),
        at => at,
    };
    let (caused, waker, blamed, readers) = meter.alone(lock, || {
        if contended {
            meter.grow(now);
        }
        let area = meter.area.load(Ordering::Relaxed);
        let caused = area.wrapping_sub(meter.mark.load(Ordering::Relaxed));
        let waker = meter.waker.load(Ordering::Relaxed);
        let blamed = meter.access.load(Ordering::Relaxed);
        let readers = if shares { meter.readers.load(Ordering::Relaxed) + 1 } else { 0 };
        meter.waker.store(0, Ordering::Relaxed);
        meter.readers.store(readers, Ordering::Relaxed);
        if readers <= 1 {
            meter.hold_since.store(if measured && !shares { now } else { 0 }, Ordering::Relaxed);
            meter.access.store(access, Ordering::Relaxed);
            meter.mark.store(area, Ordering::Relaxed);
        }
        (caused, waker, blamed, readers)
    });
    if caused != 0 && waker != 0 {
        // Since the release, the lock was free or on its way to this thread, and others still waited.
        if let Some((number, _)) = meter.figures(lock) {
            add_blame(Who::thread(waker - 1), number, (blamed, 0), caused, meter.weight());
        }
    }
    if measured && contended && waited_at == 0 {
        if let Some((_, row)) = meter.figures(lock) {
            counter!(row, overtakes).fetch_add(meter.weight(), Ordering::Relaxed);
        }
    }
    if shares && let Some((_, row)) = meter.known_figures() {
        small_counter!(row, readers_peak).fetch_max(u32::from(readers), Ordering::Relaxed);
    }
}

/// A lock is about to be released at a site; its acquisition was at the place of an access row, 0 where that is not known.
pub(super) fn released(state: &mut ThreadState, lock: u32, site: u32, access: u32, shares: bool) {
    let Some(meter) = meter(lock) else { return };
    let measured = !shares && meter.hold_since.load(Ordering::Relaxed) != 0;
    let weighted = meter.is_weighted();
    if weighted && !measured {
        return;
    }
    let waiting = meter.waiters.load(Ordering::Relaxed) != 0;
    let now = if waiting || measured { record::time_ns() } else { 0 };
    let serial = state.serial;
    let (caused, hold_since, access) = meter.alone(lock, || {
        if waiting {
            meter.grow(now);
            meter.waker.store(serial + 1, Ordering::Relaxed);
        }
        let area = meter.area.load(Ordering::Relaxed);
        let caused = area.wrapping_sub(meter.mark.load(Ordering::Relaxed));
        meter.mark.store(area, Ordering::Relaxed);
        if shares {
            let readers = meter.readers.load(Ordering::Relaxed);
            meter.readers.store(readers.saturating_sub(1), Ordering::Relaxed);
        } else if access != 0 {
            // The short way of the acquisition does not write here.
            meter.access.store(access, Ordering::Relaxed);
        }
        let hold_since = if measured { meter.hold_since.load(Ordering::Relaxed) } else { 0 };
        if measured {
            meter.hold_since.store(0, Ordering::Relaxed);
        }
        (caused, hold_since, meter.access.load(Ordering::Relaxed))
    });
    if caused != 0 {
        if let Some((number, _)) = meter.figures(lock) {
            let released_access = check::place(state, site);
            add_blame(Who::thread(serial), number, (access, released_access), caused, meter.weight());
        }
    }
    // A hold that is measured although nobody waits waits for the figures that only waiting makes.
    let Some((_, row)) = meter.known_figures() else { return };
    if hold_since != 0 {
        add_hold_figures(row, now.saturating_sub(hold_since));
    }
    let is_hot = counter!(row, hold_samples).load(Ordering::Relaxed) >= EXACT_HOLDS
        && counter!(row, shared_acquisitions).load(Ordering::Relaxed) == 0
        && acquisitions(lock).saturating_mul(HOT_NS) > now;
    if is_hot && now != 0 && !weighted && !check::is_on(state) {
        meter.alone(lock, || meter.weighted.store(1, Ordering::Relaxed));
        if let Some(below) = table::sample_below(lock) {
            below.store(WEIGHTED_SAMPLE, Ordering::Relaxed);
        }
    }
}

/// The lock is gone: the next one at its row starts afresh.
pub(super) fn gone(lock: u32) {
    permit_waits::gone(lock);
    let Some(meter) = meter(lock) else { return };
    meter.fold(acquisitions(lock));
    for word in [&meter.waiters, &meter.access, &meter.figures, &meter.waker] {
        word.store(0, Ordering::Relaxed);
    }
    for word in [&meter.readers, &meter.weighted] {
        word.store(0, Ordering::Relaxed);
    }
    for word in [&meter.area, &meter.mark, &meter.hold_since, &meter.folded] {
        word.store(0, Ordering::Relaxed);
    }
}

/// The process is about to end: locks that nobody waited for get their figures as well, as far as there is room.
pub(super) fn exiting() {
    permit_waits::exiting();
    for lock in 1..rows::count(Table::Locks) {
        let Some(meter) = meter(lock) else { return };
        let number = acquisitions(lock);
        if number > meter.folded.load(Ordering::Relaxed) {
            if meter.figures(lock).is_none() {
                return;
            }
            meter.fold(number);
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
    incident::blocks(state, now);
    if matches!(kind, WaitKind::Lock | WaitKind::Shared | WaitKind::Upgradable) && lock != 0 {
        if let Some(meter) = meter(lock) {
            let waiters = meter.advance(lock, now, 1);
            state.lock.wait_lock = lock;
            state.lock.wait_acquisitions = acquisitions(lock);
            state.lock.wait_holder = table::owner(lock);
            if let Some((_, row)) = meter.figures(lock) {
                small_counter!(row, waiters_peak).fetch_max(waiters, Ordering::Relaxed);
            }
        }
    }
}

fn slow_path_under_way(state: &ThreadState) -> bool {
    let count = state.lock.call_count as usize;
    let top = count.checked_sub(1).and_then(|top| state.lock.calls.get(top));
    top.is_some_and(|call| {
        call.since != 0 && call.sp > state.guest_sp && super::operation_of(call.packed).is_some_and(Operation::takes)
    })
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
            meter.advance(lock, now, -1);
            let holder = state.lock.wait_holder;
            lock_waited(state, meter, lock, (kind, access), (since, now), holder);
            let acquisitions = state.lock.wait_acquisitions;
            incident::lock_waited(state, lock, (kind, access), (since, now), acquisitions, holder);
            state.lock.waited_at = now.max(1);
            if let Some((_, row)) = meter.figures(lock) {
                counter!(row, contended).fetch_add(1, Ordering::Relaxed);
            }
        }
        return;
    }
    incident::blocked(state, kind, access, since, now);
    add_wait(Who::thread(state.serial), NO_LOCK, kind, access, now.saturating_sub(since));
    add_event(&WaitEventRow {
        start_ns: since,
        end_ns: now,
        lock: NO_LOCK,
        kind: kind as u32,
        thread: state.serial,
        access,
        holder: u32::MAX,
        waker: u32::MAX,
        task: 0,
        spawned: 0,
    });
}

pub(super) fn add_event(event: &WaitEventRow) {
    rows::append(Table::WaitEvents, event);
}

pub(super) fn mix(a: u32, b: u32, c: u32, d: u32) -> u64 {
    let low = u64::from(a) << 32 | u64::from(b);
    let high = u64::from(c) << 32 | u64::from(d);
    let mixed = (low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed << 17
}

pub(super) fn add_wait(who: Who, lock: u32, kind: WaitKind, access: u32, duration: u64) {
    let (kind, Who { thread, spawned, .. }) = (kind as u32, who);
    let new = WaitTotalRow { lock, kind, thread, access, spawned, reserved: 0, count: 0, total_ns: 0, max_ns: 0 };
    let is = |row: &WaitTotalRow| {
        row.lock == lock && row.kind == kind && row.access == access && (row.thread, row.spawned) == (thread, spawned)
    };
    let row = WAIT_SLOTS.find_or_add(Table::WaitTotals, mix(lock, kind, who.hash(), access), is, &new);
    if let Some(row) = row {
        counter!(row, count).fetch_add(1, Ordering::Relaxed);
        counter!(row, total_ns).fetch_add(duration, Ordering::Relaxed);
        counter!(row, max_ns).fetch_max(duration, Ordering::Relaxed);
    }
}

pub(super) fn add_blame(who: Who, lock: u32, (acquired_access, released_access): (u32, u32), caused: u64, weight: u64) {
    let Who { thread, spawned, released_spawned } = who;
    let new = BlameTotalRow {
        lock,
        thread,
        acquired_access,
        released_access,
        spawned,
        released_spawned,
        count: 0,
        total_ns: 0,
        max_ns: 0,
    };
    let is = |row: &BlameTotalRow| {
        row.lock == lock
            && (row.thread, row.spawned, row.released_spawned) == (thread, spawned, released_spawned)
            && row.acquired_access == acquired_access
            && row.released_access == released_access
    };
    let hash = mix(lock, who.hash(), acquired_access, released_access);
    let row = BLAME_SLOTS.find_or_add(Table::BlameTotals, hash, is, &new);
    if let Some(row) = row {
        counter!(row, count).fetch_add(weight, Ordering::Relaxed);
        counter!(row, total_ns).fetch_add(caused.saturating_mul(weight), Ordering::Relaxed);
        counter!(row, max_ns).fetch_max(caused, Ordering::Relaxed);
    }
}

/// The type of the lock that a call is about.
pub(super) fn lock_of(state: &mut ThreadState, call: &Call, site: u32) -> Option<u32> {
    let address = call.address as usize;
    if let Some(lock) = table::find(address) {
        return Some(lock);
    }
    let access = check::place(state, site);
    table::find_or_add(address, type_of(call.packed), access)
}
