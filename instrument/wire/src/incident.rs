//! Incidents: what a thread did to others by the way it used locks, as the shim records it.
//!
//! The shim records what lasts longer than a floor; what is reported, the host decides. Incidents of one kind, thread, lock
//! and place are one row.

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum IncidentKind {
    /// A lock was held during a call that blocked for something else than a lock.
    BlockedHold = 1,
    /// A thread blocked while it polled a task.
    BlockedPoll = 2,
    /// A poll of a task took long, time blocked not counted.
    LongPoll = 3,
    /// A wait for a lock was long.
    LongWait = 4,
    /// A thread kept failing to take a lock, by `try_` or spinning.
    Failing = 5,
    /// A lock was used against its rules.
    Misuse = 6,
    /// A poll of a task ended with a lock held that it had taken.
    HeldAcrossAwait = 7,
    /// A task was woken and not polled for long.
    LatePoll = 8,
}

impl IncidentKind {
    /// The kind with the given number, if there is one.
    pub const fn from_u32(value: u32) -> Option<IncidentKind> {
        Some(match value {
            1 => IncidentKind::BlockedHold,
            2 => IncidentKind::BlockedPoll,
            3 => IncidentKind::LongPoll,
            4 => IncidentKind::LongWait,
            5 => IncidentKind::Failing,
            6 => IncidentKind::Misuse,
            7 => IncidentKind::HeldAcrossAwait,
            8 => IncidentKind::LatePoll,
            _ => return None,
        })
    }
}

/// How a lock was misused; [`IncidentRow::detail`] of [`IncidentKind::Misuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Misuse {
    /// Given up although nobody held it.
    UnlockOfUnlocked = 1,
    /// Given up by another thread than its holder.
    UnlockByOther = 2,
    /// Destroyed while it was held.
    DestroyOfHeld = 3,
    /// Taken again by its holder, which the lock refused.
    DoubleLock = 4,
}

impl Misuse {
    /// The misuse with the given number, if there is one.
    pub const fn from_u32(value: u32) -> Option<Misuse> {
        Some(match value {
            1 => Misuse::UnlockOfUnlocked,
            2 => Misuse::UnlockByOther,
            3 => Misuse::DestroyOfHeld,
            4 => Misuse::DoubleLock,
            _ => return None,
        })
    }
}

/// Shortest blocking that is recorded.
pub const BLOCKED_FLOOR_NS: u64 = 1_000_000;
/// Shortest poll, wait for a lock and row of failures that is recorded.
pub const LONG_FLOOR_NS: u64 = 10_000_000;

/// Incidents of one kind, thread, lock and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IncidentRow {
    /// [`IncidentKind`], as number.
    pub kind: u32,
    /// [`WaitKind`](super::waits::WaitKind) of what blocked, or [`Misuse`]; 1 for failures by `try_`, 0 by spinning.
    pub detail: u32,
    /// Serial of the thread.
    pub thread: u32,
    /// [`LockRow`](super::locks::LockRow); 0 for none.
    pub lock: u32,
    /// Access row of the call, wait, poll or failure.
    pub access: u32,
    /// Access row of the lock's acquisition, or of the poll.
    pub other_access: u32,
    /// Serial of the lock's holder plus 1; for failures, [`LockRow`](super::locks::LockRow) of the lock held last.
    pub other: u32,
    /// Access row of the call that spawned the task that was polled, or late; 0 where unknown.
    pub spawned: u32,
    /// Address of the task that was polled; 0 for none.
    pub task: u64,
    /// Times. Atomic.
    pub count: u64,
    /// Their total. Atomic.
    pub total_ns: u64,
    /// The longest. Atomic.
    pub max_ns: u64,
    /// Most acquisitions of the lock by others during one, or failures in the longest, or tasks that could run when a poll that
    /// blocked or lasted ended. Atomic.
    pub most: u64,
    /// Waiting of others that it caused, in total; acquisitions by others during the longest row of failures. Atomic.
    pub lost_ns: u64,
    /// When the longest ended.
    pub at_ns: u64,
}

const _: () = assert!(size_of::<IncidentRow>() == 88);
