//! The recording: one file in DIR, mapped shared by the target, that survives the death of either side.
//!
//! Tables have fixed capacities and a count in the header. A row is written whole before the count that
//! covers it is raised (release), so a reader that loads the count first (acquire) sees whole rows; the
//! reader treats everything else as hostile. Row 0 of [`NodeRow`], [`AccessRow`] and [`LockSetRow`]
//! means "none".

/// `CONREC\0\x01` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"CONREC\0\x01");

/// A table of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Table {
    /// [`ThreadRow`], by serial; row 0 is the main thread.
    Threads = 0,
    /// [`NodeRow`]
    Nodes = 1,
    /// [`AccessRow`]
    Accesses = 2,
    /// [`LockSetRow`]
    LockSets = 3,
    /// [`FindingRow`]
    Findings = 4,
    /// [`ModuleRow`]
    Modules = 5,
    /// [`EventRow`]: happens-before events, in an order that each object's and each thread's own order agrees with.
    Events = 6,
    /// [`SiteRow`], by site index; the host writes it before the start, so that a recording explains itself.
    Sites = 7,
    /// [`LockFiguresRow`](super::waits::LockFiguresRow): locks and other things waited for.
    LockFigures = 8,
    /// [`WaitTotalRow`](super::waits::WaitTotalRow)
    WaitTotals = 9,
    /// [`BlameTotalRow`](super::waits::BlameTotalRow)
    BlameTotals = 10,
    /// [`WaitEventRow`](super::waits::WaitEventRow): the first waits, as far as there is room.
    WaitEvents = 11,
    /// [`LockRow`](super::locks::LockRow): lock instances.
    Locks = 12,
    /// [`LiveRow`](super::locks::LiveRow), by serial of the thread.
    Live = 13,
    /// [`OrderRow`](super::locks::OrderRow): what lock order is derived from, in order.
    Orders = 14,
    /// [`IncidentRow`](super::incident::IncidentRow)
    Incidents = 15,
    /// [`TaskRow`](super::locks::TaskRow), where the task's row is in [`Table::Locks`].
    Tasks = 16,
}

/// Number of tables.
pub const TABLE_COUNT: usize = 17;

/// Where a table lies and how much of it is used.
#[derive(Debug)]
#[repr(C)]
pub struct TableHeader {
    /// Offset in the file, in bytes, page-aligned.
    pub offset: u64,
    /// Rows that fit.
    pub capacity: u64,
    /// Rows written; may exceed `capacity` where rows were dropped. Atomic.
    pub count: u64,
    /// Rows dropped for lack of room. Atomic.
    pub dropped: u64,
}

/// First page of the recording. The host writes the configuration, the shim the rest.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`](super::VERSION).
    pub version: u32,
    /// Bits of `CONFIG_*`, from the host.
    pub config: u32,
    /// The tables.
    pub tables: [TableHeader; TABLE_COUNT],
    /// Process id of the target, from the shim.
    pub pid: u32,
    /// [`Phase`], as `u32`. Atomic.
    pub phase: u32,
    /// Run-time bias of the main program (0 for non-PIE).
    pub main_bias: u64,
    /// [`Degraded`] bits: what the shim could not do. Atomic.
    pub degraded: u64,
    /// Code section of the plan in memory: start.
    pub code_start: u64,
    /// Code section of the plan in memory: end.
    pub code_end: u64,
    /// Highest number of threads alive at once. Atomic.
    pub threads_peak: u64,
    /// When the shim started, on `CLOCK_MONOTONIC`, in nanoseconds.
    pub start_ns: u64,
    /// Counters by [`Counter`]. Atomic.
    pub counters: [u64; COUNTER_COUNT],
}

const _: () = assert!(size_of::<Header>() == 4096);

/// Check data races.
pub const CONFIG_RACES: u32 = 1;
/// Record every happens-before event and every access that reaches the detector (`--record full`).
pub const CONFIG_RECORD_FULL: u32 = 2;
/// Check locks (order, deadlock).
pub const CONFIG_LOCKS: u32 = 4;
/// Profile contention.
pub const CONFIG_CONTENTION: u32 = 8;
/// Report what the benign-pattern catalogue names, too.
pub const CONFIG_REPORT_BENIGN: u32 = 16;
/// End the process at the first gating finding (`halt_on_error`).
pub const CONFIG_HALT_ON_ERROR: u32 = 32;

/// How far the shim got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The shim has not run (static program, or it was not preloaded).
    NotStarted = 0,
    /// The shim runs, nothing is patched yet.
    Started = 1,
    /// The plan is applied.
    Running = 2,
    /// The process called exit or returned from main.
    Exiting = 3,
}

/// What the shim could not do; bits of [`Header::degraded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Degraded {
    /// The running program's build id is not the plan's.
    WrongProgram = 1,
    /// The shadow could not be reserved (RLIMIT_AS, overcommit mode 2, address layout).
    NoShadow = 2,
    /// The text could not be made writable (W^X policy).
    TextProtected = 4,
    /// The code section could not be placed near the module.
    NoRoomForCode = 8,
    /// The gs base could not be set.
    NoGs = 16,
}

/// Counters that the report prints where not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Accesses that reached the runtime.
    SlowAccesses = 0,
    /// Synchronising operations (atomics, locks, joins ...).
    SyncOperations = 1,
    /// Sync objects alive at most.
    SyncObjects = 2,
    /// Sync objects that could not be allocated: edges lost, races are "possible" only.
    SyncObjectsLost = 3,
    /// Children that ran natively (fork, vfork, posix_spawn, exec).
    Children = 4,
    /// Threads that nobody wrapped and that were adopted.
    AdoptedThreads = 5,
    /// Signals deferred until the runtime was left.
    DeferredSignals = 6,
    /// Entries into the runtime from within it, forwarded unrecorded.
    NestedEntries = 7,
    /// Reports withheld because a side is in the benign-pattern catalogue.
    Benign = 8,
    /// Reports withheld because the address was seen to be atomic.
    AtomicAddress = 9,
    /// Accesses of unknown class that reached the runtime.
    UnknownAccesses = 10,
    /// Frames not pushed for lack of room.
    FramesLost = 11,
    /// Stack switches seen.
    StackSwitches = 12,
    /// Atomic operations that reached the runtime.
    AtomicOperations = 13,
    /// Acquisitions of locks.
    LockAcquisitions = 14,
    /// Lock instances seen.
    LocksSeen = 15,
    /// Holds, lock instances and order rows that found no room.
    LocksLost = 16,
    /// Signal handlers installed by the program.
    SignalHandlers = 17,
}

/// Number of counters.
pub const COUNTER_COUNT: usize = 64;

/// A thread of the target.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ThreadRow {
    /// Kernel thread id.
    pub tid: u32,
    /// Slot in vector clocks.
    pub slot: u32,
    /// Serial of the creating thread; `u32::MAX` where unknown (main, adopted).
    pub creator: u32,
    /// Node of the creation stack.
    pub created_at: u32,
    /// First epoch of this thread in its slot: a cell of this slot belongs to the last thread whose first
    /// epoch is not above the cell's.
    pub first_epoch: u64,
    /// 0 running, 1 finished.
    pub finished: u32,
    /// 0 wrapped, 1 main, 2 adopted.
    pub origin: u32,
    /// Stack, lowest address.
    pub stack_low: u64,
    /// Stack, end.
    pub stack_high: u64,
    /// Name as the kernel has it (`comm`), zero-padded; refreshed at findings and at the end.
    pub name: [u8; 16],
}

const _: () = assert!(size_of::<ThreadRow>() == 64);

/// A node of the calling-context tree: a return address on top of a parent context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NodeRow {
    /// Return address, as found on the stack (run-time address; look up `return_address - 1`).
    pub return_address: u64,
    /// Node of the calling frames; 0 at the bottom.
    pub parent: u32,
    /// Unused.
    pub reserved: u32,
}

const _: () = assert!(size_of::<NodeRow>() == 16);

/// Who accessed: the meaning of an access id in the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AccessRow {
    /// Site index, or [`NO_SITE`] with `pc` in the node's place for interposed functions: then `node`'s
    /// first frame is the caller of the interposed function.
    pub site: u32,
    /// Node of the frames that called the function the site is in.
    pub node: u32,
    /// [`LockSetRow`] of the locks held.
    pub lock_set: u32,
    /// Slot of the thread; a cell with another slot does not belong to this row.
    pub slot: u16,
    /// For [`NO_SITE`]: the [`Interposed`] function.
    pub interposed: u16,
}

const _: () = assert!(size_of::<AccessRow>() == 16);

/// Site index of accesses made inside interposed functions.
pub const NO_SITE: u32 = u32::MAX;

/// Interposed functions that access memory on the target's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Interposed {
    None = 0,
    Memcpy = 1,
    Memmove = 2,
    Memset = 3,
    Memcmp = 4,
    Strlen = 5,
    Strcpy = 6,
    Strcmp = 7,
    Free = 8,
    Realloc = 9,
    Syscall = 10,
    Munmap = 11,
    OtherString = 12,
    Read = 13,
    Write = 14,
}

/// An element of a lock set: a lock held on top of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LockSetRow {
    /// The lock's address.
    pub lock: u64,
    /// The set without this lock; 0 is the empty set.
    pub parent: u32,
    /// Access row of the acquisition.
    pub acquired_at: u32,
    /// 0 exclusive, 1 shared.
    pub shared: u32,
    /// Unused.
    pub reserved: u32,
}

const _: () = assert!(size_of::<LockSetRow>() == 24);

/// Kind of a finding row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FindingKind {
    /// Two unordered accesses, at least one a write.
    DataRace = 1,
    /// pthread misuse: unlock of an unlocked mutex or by a wrong thread, destroy of a locked one, double lock.
    LockMisuse = 2,
}

/// One side of a data race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SideRow {
    /// Serial of the thread; `u32::MAX` where unknown.
    pub thread: u32,
    /// Access row; 0 where lost.
    pub access: u32,
    /// First byte accessed, or of the granule part known.
    pub address: u64,
    /// Bytes.
    pub size: u32,
    /// Bit 0: write; bit 1: atomic; bit 2: free; bit 3: the access row may be that of another access of the thread, to bytes
    /// beside it.
    pub flags: u32,
    /// The thread's epoch at the access.
    pub epoch: u64,
}

const _: () = assert!(size_of::<SideRow>() == 32);

/// A finding, written when found. Further occurrences with the same two sites only raise `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FindingRow {
    /// [`FindingKind`], as number.
    pub kind: u32,
    /// Bit 0: a synchronising operation may have been missed before this (so "possible" only).
    pub flags: u32,
    /// Occurrences. Atomic.
    pub count: u64,
    /// Nanoseconds since the shim started.
    pub time_ns: u64,
    /// Address both sides touch.
    pub address: u64,
    /// The later access.
    pub current: SideRow,
    /// The earlier access.
    pub previous: SideRow,
    /// Heap block: address; 0 where `address` is in none that is known.
    pub block: u64,
    /// Heap block: size in bytes.
    pub block_size: u64,
    /// Node of the block's allocation.
    pub block_node: u32,
    /// Serial of the allocating thread.
    pub block_thread: u32,
    /// Serial of the thread whose stack `address` is on, or `u32::MAX`.
    pub stack_thread: u32,
    /// Unused.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FindingRow>() == 128);

/// A module of the target.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ModuleRow {
    /// Load bias: run-time address minus static address.
    pub bias: u64,
    /// Lowest run-time address of its segments.
    pub start: u64,
    /// End of its segments.
    pub end: u64,
    /// Path, zero-padded; empty for the main program.
    pub path: [u8; 232],
}

const _: () = assert!(size_of::<ModuleRow>() == 256);

/// What an event row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// Row not committed.
    None = 0,
    /// `object` is released into by `thread` (joins the thread's clock into it); the thread's epoch then advances.
    Release = 1,
    /// `thread` acquires `object`.
    Acquire = 2,
    /// `object` (a sync object's identity) is gone; a later one with the same number is another.
    Destroy = 3,
    /// `thread` creates thread `object`.
    Create = 4,
    /// `thread` joins thread `object`, which has ended.
    Join = 5,
    /// A plain read of `size` bytes at `object`, `access` says who.
    Read = 6,
    /// A plain write.
    Write = 7,
    /// Memory [`object`, `object` + `size`) is fresh: earlier accesses to it are forgotten.
    Clean = 8,
    /// Memory [`object`, `object` + `size`) is freed: a write to all of it.
    Free = 9,
    /// The address range [`object`, +size) was accessed atomically: from now on plain-looking accesses of it are atomic.
    Atomic = 10,
    /// `thread` appeared without a creation that anybody saw: all that was recorded so far happened before what it will do.
    Adopt = 11,
}

/// A happens-before event. `kind` is written last.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EventRow {
    /// [`EventKind`]; 0 until the row is whole. Atomic, release.
    pub kind: u32,
    /// Serial of the thread.
    pub thread: u32,
    /// Address, or identity of the sync object, or thread serial.
    pub object: u64,
    /// Bytes.
    pub size: u64,
    /// Access row.
    pub access: u32,
    /// Unused.
    pub reserved: u32,
}

const _: () = assert!(size_of::<EventRow>() == 32);

/// A site of the plan, as the host copies it into the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SiteRow {
    /// Static address of the instruction.
    pub pc: u64,
    /// [`PackedSite`](super::site::PackedSite).
    pub packed: u64,
}

const _: () = assert!(size_of::<SiteRow>() == 16);
