//! Waiting, as the shim records it: figures per lock, time per waiting stack, time per blamed hold, and single waits.
//!
//! The first three are aggregates; the last is detail, of which what finds no room is counted as dropped.
//! Points in time are nanoseconds since the shim started; [`Header::start_ns`](super::recording::Header::start_ns) tells
//! that start on `CLOCK_MONOTONIC`, which perf samples carry as well.
//!
//! # Blame
//!
//! A hold is blamed for the time that others spent waiting while it lasted: the integral of the number of
//! waiters over the hold. The lock keeps that integral as a running sum, advanced whenever its number of
//! waiters changes:
//!
//! ```text
//! advance(now): area += waiters * (now - since); since = now
//! enter:   advance(now); waiters += 1
//! leave:   advance(now); waiters -= 1
//! acquire: if waiters > 0 { advance(now) }; area_at_acquire = area
//! release: if waiters > 0 { advance(now) }; blame(area - area_at_acquire)
//! ```
//!
//! So an uncontended acquisition or release reads no clock, each waiter counts for as long as it waited, and
//! the blames of a lock add up to its waits. The time between a release and the next acquisition (a waiter is being
//! woken) goes to the hold before it, in a row of its own.
//!
//! # Tasks
//!
//! Waits and holds of async tasks have [`NO_THREAD`] in place of a thread, and the place that spawned the task. Of permits that
//! several hold at once, each hold is blamed for an equal share of the waiting while it lasted.

/// Buckets of a [`Histogram`].
pub const HISTOGRAM_BUCKETS: usize = 128;
/// Nanoseconds below this all count in the first bucket.
pub const HISTOGRAM_FLOOR_NS: u64 = 1 << 6;

/// Durations by bucket: four buckets an octave from [`HISTOGRAM_FLOOR_NS`] up, so a bucket is at most 25 % wide.
pub type Histogram = [u32; HISTOGRAM_BUCKETS];

/// The bucket of a duration.
pub const fn histogram_bucket(duration_ns: u64) -> usize {
    if duration_ns < HISTOGRAM_FLOOR_NS {
        return 0;
    }
    let octave = 63 - duration_ns.leading_zeros() as usize;
    let quarter = (duration_ns >> (octave - 2)) as usize & 3;
    let bucket = (octave - 6) * 4 + quarter;
    if bucket < HISTOGRAM_BUCKETS { bucket } else { HISTOGRAM_BUCKETS - 1 }
}

/// The shortest duration that counts in a bucket; that of the bucket after it is its end.
pub const fn histogram_start_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let octave = 6 + bucket / 4;
    (4 + (bucket as u64 % 4)) << (octave - 2)
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum WaitKind {
    /// An exclusive lock.
    Lock = 0,
    /// A lock, to share it.
    Shared = 1,
    /// A condition variable.
    Condvar = 2,
    /// A message.
    Receive = 3,
    /// Room for a message.
    Send = 4,
    /// Another thread's end.
    Join = 5,
    /// An unpark.
    Park = 6,
    /// The other threads of a barrier.
    Barrier = 7,
    /// A permit.
    Semaphore = 8,
    /// The end of an initialisation that another thread does.
    Once = 9,
    /// Time: sleep.
    Sleep = 10,
    /// The outside: epoll, read, accept, waitpid ...
    Outside = 11,
    /// A futex that no catalogue row explains.
    Futex = 12,
    /// A lock, to share it with the right to become exclusive.
    Upgradable = 13,
    /// A permit that nobody holds: somebody is to add one, as a signal.
    Signal = 14,
}

impl WaitKind {
    /// Every kind, by number.
    pub const ALL: [WaitKind; 15] = [
        WaitKind::Lock,
        WaitKind::Shared,
        WaitKind::Condvar,
        WaitKind::Receive,
        WaitKind::Send,
        WaitKind::Join,
        WaitKind::Park,
        WaitKind::Barrier,
        WaitKind::Semaphore,
        WaitKind::Once,
        WaitKind::Sleep,
        WaitKind::Outside,
        WaitKind::Futex,
        WaitKind::Upgradable,
        WaitKind::Signal,
    ];

    /// The kind with the given number; [`WaitKind::Futex`] for a number that no shim writes.
    pub const fn from_u32(value: u32) -> WaitKind {
        if (value as usize) < WaitKind::ALL.len() { WaitKind::ALL[value as usize] } else { WaitKind::Futex }
    }
}

/// Figures of a lock or another thing that is waited for. All counters are atomic.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LockFiguresRow {
    /// The lock word's address.
    pub address: u64,
    /// [`Type`](super::locks::Type), as number.
    pub lock_type: u32,
    /// Access row of the first acquisition seen: what names the lock where its memory has no name.
    pub first_access: u32,
    /// Acquisitions, shared ones included.
    pub acquisitions: u64,
    /// Of these, shared.
    pub shared_acquisitions: u64,
    /// Of the acquisitions, those that waited.
    pub contended: u64,
    /// Total wait, in nanoseconds.
    pub wait_ns: u64,
    /// Longest wait.
    pub wait_max_ns: u64,
    /// Total of the holds that were measured.
    pub hold_ns: u64,
    /// Longest of them.
    pub hold_max_ns: u64,
    /// Number of them.
    pub hold_samples: u64,
    /// Acquisitions by a thread that had not waited while others did.
    pub overtakes: u64,
    /// Most waiters at once.
    pub waiters_peak: u32,
    /// Most shared holders at once.
    pub readers_peak: u32,
    /// Waits by duration.
    pub wait_histogram: Histogram,
    /// Measured holds by duration.
    pub hold_histogram: Histogram,
}

const _: () = assert!(size_of::<LockFiguresRow>() == 96 + 2 * 4 * HISTOGRAM_BUCKETS);

/// In place of a row of [`LockFiguresRow`]: no lock.
pub const NO_LOCK: u32 = u32::MAX;

/// In place of a thread's serial: a task waits or holds.
pub const NO_THREAD: u32 = u32::MAX;

/// Bit of [`WaitEventRow::task`]: what a thread does outside tasks, by its serial, and no task by its number.
pub const TASK_IS_THREAD: u32 = 1 << 31;

/// Time that one thread waited for one lock with one stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WaitTotalRow {
    /// Row of [`LockFiguresRow`]; [`NO_LOCK`] where what is waited for is no lock.
    pub lock: u32,
    /// [`WaitKind`], as number.
    pub kind: u32,
    /// Serial of the waiting thread; [`NO_THREAD`] for a task.
    pub thread: u32,
    /// Access row of the waiting stack.
    pub access: u32,
    /// Of a task, access row of the call that spawned it; 0 where unseen.
    pub spawned: u32,
    /// Unused.
    pub reserved: u32,
    /// Waits. Atomic.
    pub count: u64,
    /// Their total. Atomic.
    pub total_ns: u64,
    /// The longest. Atomic.
    pub max_ns: u64,
}

const _: () = assert!(size_of::<WaitTotalRow>() == 48);

/// Time that others waited while one thread held one lock, by where it was acquired and released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlameTotalRow {
    /// Row of [`LockFiguresRow`].
    pub lock: u32,
    /// Serial of the holding thread; [`NO_THREAD`] for a task.
    pub thread: u32,
    /// Access row of the acquisition.
    pub acquired_access: u32,
    /// Access row of the release; 0 for the time after it, until the next acquisition.
    pub released_access: u32,
    /// Of a task that acquired it, access row of the call that spawned the task; 0 where unseen.
    pub spawned: u32,
    /// The same of the task that released it.
    pub released_spawned: u32,
    /// Holds that made others wait. Atomic.
    pub count: u64,
    /// Waiting caused, over all waiters. Atomic.
    pub total_ns: u64,
    /// The most caused by one hold. Atomic.
    pub max_ns: u64,
}

const _: () = assert!(size_of::<BlameTotalRow>() == 48);

/// One wait, for the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WaitEventRow {
    /// When it began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Row of [`LockFiguresRow`]; [`NO_LOCK`] where what is waited for is no lock.
    pub lock: u32,
    /// [`WaitKind`], as number.
    pub kind: u32,
    /// Serial of the waiting thread; of a task, of the thread that polled it when the wait ended.
    pub thread: u32,
    /// Access row of the waiting stack.
    pub access: u32,
    /// Serial of the thread that held the lock when the wait began; `u32::MAX` where unknown. For a task's wait, that task, as
    /// [`WaitEventRow::task`].
    pub holder: u32,
    /// Serial of the thread whose release ended the wait; `u32::MAX` where unknown. For a task's wait, that task.
    pub waker: u32,
    /// The waiting task, by its number or with [`TASK_IS_THREAD`]; 0 where a thread waits.
    pub task: u32,
    /// Of a task, access row of the call that spawned it; 0 where unseen.
    pub spawned: u32,
}

const _: () = assert!(size_of::<WaitEventRow>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_contain_what_counts_in_them() {
        for ns in (0..4000).chain((12..38).flat_map(|bits| [(1u64 << bits) - 1, 1 << bits, (1 << bits) + 1])) {
            let bucket = histogram_bucket(ns);
            assert!(histogram_start_ns(bucket) <= ns, "{ns} in {bucket}");
            assert!(bucket + 1 == HISTOGRAM_BUCKETS || ns < histogram_start_ns(bucket + 1), "{ns} in {bucket}");
        }
        assert_eq!(histogram_bucket(u64::MAX), HISTOGRAM_BUCKETS - 1);
    }
}
