//! Measuring waits for permits: how long tasks wait for locks of tokio's, and whose permits they wait for.
//!
//! ```text
//! waits .. waited ------> WaitTotalRow, WaitEventRow, figures of the lock
//! taken .. given_back --> BlameTotalRow, hold times
//! ```
//!
//! As `contention` does for locks of threads, but several may hold permits at once. A [`Meter`] keeps three integrals over time:
//!
//! ```text
//! area  of the waiters                 all that the blames add up to
//! share of the waiters by the holds    what one hold is blamed for while it lasts
//! free  of the waiters without a hold  a waiter is being woken: blamed on the hold before
//! ```
//!
//! Permits that another task gives back than took them (messages of a channel, permits that were sent away) are *loose*: which hold
//! ended is not known then, and what waited since the latest was given back is blamed on who gives back now.
//!
//! A wait begins when the poll that found the permits taken ends, and lasts until a poll returns with them, or the future is dropped.
//! No clock is read for a lock that nobody has ever waited for, but for one acquisition in 256. Later every hold is measured: next to
//! what a task's acquisition costs anyway, a clock is cheap, and the hold that others will wait for begins before they do.
//!
//! Direction of error: a hold whose end was not seen keeps its share; permits are not weighed, so one hold of many counts as one.

use super::contention::{self, Who};
use crate::record::{self, table as rows};
use crate::rt::arena;
use crate::rt::lock::{give_word, take_word};
use conprof_wire::locks::{HoldMark, Type, sample_hash};
use conprof_wire::recording::Table;
use conprof_wire::waits::{LockFiguresRow, WaitEventRow, WaitKind};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// What is kept of a semaphore while it is in use. All-zero bytes are a valid value.
#[repr(C, align(64))]
struct Meter {
    /// Taken by who looks at `inner` or changes it.
    word: AtomicU32,
    /// Row of the lock's figures plus 1; 0 while it has none.
    figures: AtomicU32,
    inner: UnsafeCell<Inner>,
}

// SAFETY: `inner` is only reached with `word` taken.
unsafe impl Sync for Meter {}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Inner {
    waiters: u32,
    holds: u32,
    /// When the integrals were advanced, in nanoseconds since the shim started.
    since: u64,
    area: u64,
    share: u64,
    free: u64,
    /// What has been blamed of `area`, and `free` when a hold began last.
    blamed: u64,
    free_mark: u64,
    acquisitions: u64,
    /// Of these, those that the lock's figures have.
    told: u64,
    /// Access row of the latest acquisition, and who made it.
    access: u32,
    spawned: u32,
    /// Of the hold that ended last: where it was acquired, and by whom.
    ended_access: u32,
    ended_spawned: u32,
    /// The task that took permits last, and the one that gave some back last, as `WaitEventRow::task`; 0 for none.
    holder: u32,
    waker: u32,
    /// 1 once permits were given back that nobody seemed to hold.
    is_loose: u32,
    /// 1 once a hold has ended: what is given back then comes again.
    comes_back: u32,
}

const _: () = assert!(size_of::<Meter>() == 128);

static METERS: AtomicPtr<Meter> = AtomicPtr::new(core::ptr::null_mut());

/// A task as the unit that waits or holds.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// As `WaitEventRow::task`.
    pub number: u32,
    /// Access row of the call that spawned it.
    pub spawned: u32,
}

/// A wait that is over.
pub(super) struct Waited {
    pub unit: Unit,
    /// Where it waited.
    pub access: u32,
    pub since_ns: u64,
    /// As `WaitEventRow::holder`.
    pub holder: u32,
    pub for_signal: bool,
}

/// Once, with room for so many locks.
pub(super) fn init(locks: usize) -> bool {
    let Some(memory) = arena::pages(locks * size_of::<Meter>()) else { return false };
    METERS.store(memory as *mut Meter, Ordering::Relaxed);
    true
}

fn meter(lock: u32) -> Option<&'static Meter> {
    let meters = METERS.load(Ordering::Relaxed);
    if meters.is_null() || !contention::is_on() || lock == 0 || lock >= rows::capacity(Table::Locks) {
        return None;
    }
    // SAFETY: there is a meter for each row that the table has room for; they are never unmapped.
    Some(unsafe { &*meters.add(lock as usize) })
}

impl Meter {
    fn with<R>(&self, look: impl FnOnce(&mut Inner) -> R) -> R {
        take_word(&self.word);
        // SAFETY: the word makes this the only reference.
        let result = look(unsafe { &mut *self.inner.get() });
        give_word(&self.word);
        result
    }

    fn figures(&self, lock: u32) -> Option<(u32, *mut LockFiguresRow)> {
        contention::figures(&self.figures, lock)
    }

    /// The figures, where they were made.
    fn known_figures(&self) -> Option<*mut LockFiguresRow> {
        let number = self.figures.load(Ordering::Relaxed).checked_sub(1)?;
        rows::row(Table::LockFigures, number)
    }
}

impl Inner {
    fn advance(&mut self, now: u64) {
        // Another thread may have read its clock later and come first.
        let until = now.max(self.since);
        let grown = u64::from(self.waiters).wrapping_mul(until - self.since);
        self.area = self.area.wrapping_add(grown);
        match grown.checked_div(u64::from(self.holds)) {
            Some(share) => self.share = self.share.wrapping_add(share),
            None => self.free = self.free.wrapping_add(grown),
        }
        self.since = until;
    }

    /// The same, at the present time, if anybody waits. What time it is then; 0 where nobody asked.
    fn advance_if_waited_for(&mut self) -> u64 {
        if self.waiters == 0 {
            return 0;
        }
        let now = record::time_ns();
        self.advance(now);
        now
    }

    /// Acquisitions that the figures do not have yet.
    fn untold(&mut self) -> u64 {
        let untold = self.acquisitions.wrapping_sub(self.told);
        self.told = self.acquisitions;
        untold
    }

    /// Takes note of what is blamed, and is it.
    fn blame(&mut self, caused: u64) -> u64 {
        self.blamed = self.blamed.wrapping_add(caused);
        caused
    }
}

/// A counter in a row of the recording.
fn add(counter: *mut u64, count: u64) {
    // SAFETY: the counter is in the mapping; both sides access it atomically.
    unsafe { AtomicU64::from_ptr(counter) }.fetch_add(count, Ordering::Relaxed);
}

fn raise(counter: *mut u32, to: u32) {
    // SAFETY: as in `add`.
    unsafe { AtomicU32::from_ptr(counter) }.fetch_max(to, Ordering::Relaxed);
}

/// A future begins to wait. Who took permits last, as `WaitEventRow::holder`, and whether nobody holds any and somebody is to
/// add one.
pub(super) fn waits(lock: u32, now: u64) -> (u32, bool) {
    let Some(meter) = meter(lock) else { return (u32::MAX, false) };
    let (waiters, holder, for_signal) = meter.with(|inner| {
        inner.advance(now);
        inner.waiters += 1;
        let for_signal = inner.holds == 0 && inner.comes_back == 0;
        let holder = if inner.holder == 0 { u32::MAX } else { inner.holder };
        (inner.waiters, holder, for_signal)
    });
    if let Some((_, row)) = meter.figures(lock) {
        // SAFETY: the row is in the mapping.
        raise(unsafe { &raw mut (*row).waiters_peak }, waiters);
    }
    (holder, for_signal)
}

/// It waits no longer, and may have its permits. `thread` is the serial of the thread that polls it.
pub(super) fn waited(lock: u32, wait: &Waited, thread: u32, now: u64, took: bool) {
    let Some(meter) = meter(lock) else { return };
    let waker = meter.with(|inner| {
        inner.advance(now);
        inner.waiters = inner.waiters.saturating_sub(1);
        inner.waker
    });
    let Some((number, row)) = meter.figures(lock) else { return };
    let duration = now.saturating_sub(wait.since_ns);
    let kind = if wait.for_signal { WaitKind::Signal } else { WaitKind::Semaphore };
    if took {
        // SAFETY: the row is in the mapping.
        add(unsafe { &raw mut (*row).contended }, 1);
    }
    contention::add_wait_figures(row, duration);
    contention::add_wait(Who::tasks(wait.unit.spawned), number, kind, wait.access, duration);
    contention::add_event(&WaitEventRow {
        start_ns: wait.since_ns,
        end_ns: now,
        lock: number,
        kind: kind as u32,
        thread,
        access: wait.access,
        holder: wait.holder,
        waker: if waker == 0 { u32::MAX } else { waker },
        task: wait.unit.number,
        spawned: wait.unit.spawned,
    });
}

/// Permits were taken. What the hold is to be blamed by, for [`given_back`].
pub(super) fn taken(lock: u32, unit: Unit, access: u32, waited: bool) -> HoldMark {
    let Some(meter) = meter(lock) else { return HoldMark::default() };
    let figures = meter.known_figures();
    let is_measured = |acquisitions: u64| figures.is_some() || sample_hash(acquisitions) < contention::SAMPLE;
    let (mark, holds, overtakes, handed, untold) = meter.with(|inner| {
        let now = inner.advance_if_waited_for();
        let free = inner.free.wrapping_sub(inner.free_mark);
        let handed = if inner.is_loose == 0 && free != 0 { inner.blame(free) } else { 0 };
        let ended = (inner.ended_access, inner.ended_spawned);
        inner.free_mark = inner.free;
        inner.holds = inner.holds.saturating_add(1);
        inner.acquisitions += 1;
        (inner.access, inner.spawned) = (access, unit.spawned);
        inner.holder = unit.number;
        let overtakes = inner.waiters != 0 && !waited;
        let since_ns = match now {
            0 if waited || is_measured(inner.acquisitions) => record::time_ns(),
            now => now,
        };
        let untold = if figures.is_some() { inner.untold() } else { 0 };
        (HoldMark { since_ns, share_ns: inner.share }, inner.holds, overtakes, (handed, ended), untold)
    });
    if let Some(row) = figures {
        // SAFETY: the row is in the mapping.
        unsafe {
            add(&raw mut (*row).acquisitions, untold);
            raise(&raw mut (*row).readers_peak, holds);
            if overtakes {
                add(&raw mut (*row).overtakes, 1);
            }
        }
    }
    if let (caused @ 1.., (access, spawned)) = handed
        && let Some((number, _)) = meter.figures(lock)
    {
        contention::add_blame(Who::tasks(spawned), number, (access, 0), caused, 1);
    }
    mark
}

/// What a hold was that ends, where it is known.
pub(super) struct Ended {
    pub access: u32,
    /// The marks of the holds that end, added up.
    pub mark: HoldMark,
    pub holds: u32,
}

/// Permits are about to be given back, by `unit`. `place` tells where.
pub(super) fn given_back(lock: u32, unit: Unit, hold: Option<&Ended>, permits: u64, place: impl FnOnce() -> u32) {
    let Some(meter) = meter(lock) else { return };
    let since = hold.filter(|hold| hold.holds == 1).map_or(0, |hold| hold.mark.since_ns);
    let (caused, access, spawned, now) = meter.with(|inner| {
        let now = inner.advance_if_waited_for();
        if hold.is_some() || inner.holds != 0 {
            inner.comes_back = 1;
        }
        if hold.is_none() {
            inner.is_loose = 1;
        }
        let ends = hold.map_or(u32::try_from(permits).unwrap_or(u32::MAX), |hold| hold.holds);
        inner.waker = unit.number;
        let (caused, access, spawned) = match hold {
            Some(hold) if inner.is_loose == 0 => {
                let share = inner.share.wrapping_mul(u64::from(hold.holds));
                (share.wrapping_sub(hold.mark.share_ns), hold.access, unit.spawned)
            }
            _ => (inner.area.wrapping_sub(inner.blamed), inner.access, inner.spawned),
        };
        inner.holds = inner.holds.saturating_sub(ends);
        (inner.ended_access, inner.ended_spawned) = (access, spawned);
        inner.free_mark = inner.free;
        (inner.blame(caused), access, spawned, now)
    });
    if caused != 0
        && let Some((number, _)) = meter.figures(lock)
    {
        let who = Who::tasks(spawned).released_by(unit.spawned);
        contention::add_blame(who, number, (access, place()), caused, 1);
    }
    if let Some(row) = meter.known_figures() {
        if permits == 1 {
            // Who writes gives all permits back in one.
            // SAFETY: the row is in the mapping.
            add(unsafe { &raw mut (*row).shared_acquisitions }, 1);
        }
        if since != 0 {
            let now = if now == 0 { record::time_ns() } else { now };
            contention::add_hold_figures(row, now.saturating_sub(since));
        }
    }
}

/// Permits that were held will never be given back: others may be added in place of them.
pub(super) fn forgotten(lock: u32) {
    if let Some(meter) = meter(lock) {
        meter.with(|inner| {
            inner.advance_if_waited_for();
            inner.holds = inner.holds.saturating_sub(1);
            inner.comes_back = 0;
        });
    }
}

/// Of all locks; a meter of another one is never touched, so that it takes no memory.
fn counts_permits(lock: u32) -> bool {
    super::table::lock_type(lock) == Type::TokioPermits
}

/// The lock is gone: the next one at its row starts afresh.
pub(super) fn gone(lock: u32) {
    if !counts_permits(lock) {
        return;
    }
    let Some(meter) = meter(lock) else { return };
    // Channels may come and go by the thousand: those that nobody waited for get no figures.
    if meter.known_figures().is_some() {
        add_rest(lock, meter);
    }
    meter.figures.store(0, Ordering::Relaxed);
    meter.with(|inner| *inner = Inner::default());
}

/// Acquisitions that are not in the lock's figures yet.
fn add_rest(lock: u32, meter: &Meter) {
    let acquisitions = meter.with(Inner::untold);
    if acquisitions != 0
        && let Some((_, row)) = meter.figures(lock)
    {
        // SAFETY: the row is in the mapping.
        add(unsafe { &raw mut (*row).acquisitions }, acquisitions);
    }
}

/// The process is about to end: locks that nobody waited for get their figures as well, as far as there is room.
pub(super) fn exiting() {
    for lock in (1..rows::count(Table::Locks)).filter(|lock| counts_permits(*lock)) {
        if let Some(meter) = meter(lock) {
            add_rest(lock, meter);
        }
    }
}
