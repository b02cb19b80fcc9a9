//! Locks as things with owners: what the plan tells of a lock operation, and what the shim records.
//!
//! A [`LiveRow`] per thread says at every moment what the thread holds and waits for; so the host sees a
//! deadlock while it lasts, and after the process was killed. [`OrderRow`]s are an append-only log of what lock order is
//! made of: each new (held, taken) pair, and the structural events that order them.

/// What a lock operation does; bits 40 to 47 of a [`PackedSite`](super::site::PackedSite), 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// Takes alone, waiting if need be.
    LockExclusive = 1,
    /// Takes shared, waiting if need be.
    LockShared = 2,
    /// Takes alone if that is possible at once, or within a time limit.
    TryExclusive = 3,
    /// Takes shared if that is possible at once, or within a time limit.
    TryShared = 4,
    /// Gives an exclusive hold up.
    UnlockExclusive = 5,
    /// Gives a shared hold up.
    UnlockShared = 6,
    /// Waits for a condition variable (first argument) with a mutex (second argument).
    WaitCondvar = 7,
    /// Wakes waiters of a condition variable.
    Notify = 8,
    /// Runs, or waits for, a one-time initialisation.
    Once = 9,
    /// Waits for an unpark.
    Park = 10,
    /// Waits for a message.
    Receive = 11,
    /// Waits for room for a message.
    Send = 12,
    /// Waits for the others at a barrier.
    Barrier = 13,
    /// Waits for the end of a pool's jobs.
    Pool = 14,
    /// Wakes a parked thread.
    Unpark = 15,
    /// An exchange or addition that gives a lock up if the thread holds one at the address: identical unlock code is merged
    /// and loses its name.
    MayUnlock = 16,
    /// Polls a task of an async runtime (first argument).
    Poll = 17,
    /// Drives a runtime and its main task on the calling thread.
    PollRoot = 18,
    /// Waits, as a worker of an async runtime, for something to do.
    Idle = 19,
}

impl Operation {
    /// The operation with the given number, if there is one.
    pub const fn from_u8(value: u8) -> Option<Operation> {
        Some(match value {
            1 => Operation::LockExclusive,
            2 => Operation::LockShared,
            3 => Operation::TryExclusive,
            4 => Operation::TryShared,
            5 => Operation::UnlockExclusive,
            6 => Operation::UnlockShared,
            7 => Operation::WaitCondvar,
            8 => Operation::Notify,
            9 => Operation::Once,
            10 => Operation::Park,
            11 => Operation::Receive,
            12 => Operation::Send,
            13 => Operation::Barrier,
            14 => Operation::Pool,
            15 => Operation::Unpark,
            16 => Operation::MayUnlock,
            17 => Operation::Poll,
            18 => Operation::PollRoot,
            19 => Operation::Idle,
            _ => return None,
        })
    }

    /// Whether success makes the thread a holder.
    pub const fn takes(self) -> bool {
        matches!(
            self,
            Operation::LockExclusive | Operation::LockShared | Operation::TryExclusive | Operation::TryShared
        )
    }

    /// Whether a function that is this operation makes it on the lock's word by itself. Other functions (a channel's `recv`, the poll of
    /// a task) take and give up locks like any code.
    pub const fn is_on_word(self) -> bool {
        self.takes() || self.gives_up() || matches!(self, Operation::WaitCondvar)
    }

    /// Whether it shares.
    pub const fn shares(self) -> bool {
        matches!(self, Operation::LockShared | Operation::TryShared | Operation::UnlockShared)
    }

    /// Whether it would not wait for ever.
    pub const fn is_try(self) -> bool {
        matches!(self, Operation::TryExclusive | Operation::TryShared)
    }

    /// Whether it ends a hold.
    pub const fn gives_up(self) -> bool {
        matches!(self, Operation::UnlockExclusive | Operation::UnlockShared)
    }
}

/// How a call that takes a lock says whether it did; bits 48 and 49 of the packed site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Success {
    /// It always did when it returns.
    Always = 0,
    /// `al` is 0 (the tag of `Ok`).
    Zero = 1,
    /// `al` is not 0 (`true`).
    NotZero = 2,
}

/// Types of lock; bits 52 to 59 of the packed site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Type {
    Unknown = 0,
    StdMutex = 1,
    StdRwLock = 2,
    StdReentrant = 3,
    ParkingLotMutex = 4,
    ParkingLotRwLock = 5,
    SpinMutex = 6,
    SpinRwLock = 7,
    PthreadMutex = 8,
    PthreadRwLock = 9,
    PthreadSpin = 10,
    Semaphore = 11,
    StdCondvar = 12,
    ParkingLotCondvar = 13,
    PthreadCondvar = 14,
    Once = 15,
    Channel = 16,
    DashmapShard = 17,
    User = 18,
}

impl Type {
    /// Every type, by number.
    pub const ALL: [Type; 19] = [
        Type::Unknown,
        Type::StdMutex,
        Type::StdRwLock,
        Type::StdReentrant,
        Type::ParkingLotMutex,
        Type::ParkingLotRwLock,
        Type::SpinMutex,
        Type::SpinRwLock,
        Type::PthreadMutex,
        Type::PthreadRwLock,
        Type::PthreadSpin,
        Type::Semaphore,
        Type::StdCondvar,
        Type::ParkingLotCondvar,
        Type::PthreadCondvar,
        Type::Once,
        Type::Channel,
        Type::DashmapShard,
        Type::User,
    ];

    /// The type with the given number; [`Type::Unknown`] for a number that no plan has.
    pub const fn from_u8(value: u8) -> Type {
        if (value as usize) < Type::ALL.len() { Type::ALL[value as usize] } else { Type::Unknown }
    }

    /// What the report calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Unknown => "lock",
            Type::StdMutex => "std::sync::Mutex",
            Type::StdRwLock => "std::sync::RwLock",
            Type::StdReentrant => "std::sync::ReentrantLock",
            Type::ParkingLotMutex => "parking_lot::Mutex",
            Type::ParkingLotRwLock => "parking_lot::RwLock",
            Type::SpinMutex => "spin::Mutex",
            Type::SpinRwLock => "spin::RwLock",
            Type::PthreadMutex => "pthread_mutex_t",
            Type::PthreadRwLock => "pthread_rwlock_t",
            Type::PthreadSpin => "pthread_spinlock_t",
            Type::Semaphore => "sem_t",
            Type::StdCondvar => "std::sync::Condvar",
            Type::ParkingLotCondvar => "parking_lot::Condvar",
            Type::PthreadCondvar => "pthread_cond_t",
            Type::Once => "std::sync::Once",
            Type::Channel => "channel",
            Type::DashmapShard => "dashmap shard",
            Type::User => "user lock",
        }
    }

    /// Whether a reader waits behind a writer that waits.
    pub const fn readers_wait_behind_writers(self) -> bool {
        matches!(self, Type::StdRwLock | Type::ParkingLotRwLock)
    }

    /// Whether a thread that does not get it keeps trying, on the processor and in no function of its own.
    pub const fn spins(self) -> bool {
        matches!(self, Type::SpinMutex | Type::SpinRwLock | Type::User)
    }

    /// Whether its owner may take it again.
    pub const fn is_reentrant(self) -> bool {
        matches!(self, Type::StdReentrant)
    }
}

/// The lock part of a packed site, to be or-ed into it.
pub const fn lock_bits(operation: Operation, success: Success, lock: Type) -> u64 {
    (operation as u64) << 40 | (success as u64) << 48 | (lock as u64) << 52
}

/// Bit of a packed site: a function that is entered only where the lock could not be had at once.
pub const SLOW_PATH: u64 = 1 << 51;

/// The operation in a packed site.
pub const fn operation_of(packed: u64) -> Option<Operation> {
    Operation::from_u8((packed >> 40) as u8)
}

/// The sign of success in a packed site.
pub const fn success_of(packed: u64) -> Success {
    match (packed >> 48) & 3 {
        1 => Success::Zero,
        2 => Success::NotZero,
        _ => Success::Always,
    }
}

/// The type of lock in a packed site.
pub const fn type_of(packed: u64) -> Type {
    Type::from_u8((packed >> 52) as u8)
}

/// A lock instance. Row 0 means "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LockRow {
    /// The lock word's address.
    pub address: u64,
    /// Access row of the first acquisition seen.
    pub first_access: u32,
    /// [`Type`], as number, and [`LOCK_REFERENCED`].
    pub lock_type: u32,
    /// Serials modulo 64 of threads that have taken or waited for it, as bits. Atomic.
    pub users: u64,
    /// Not zero once the memory was freed. Atomic.
    pub gone: u32,
    /// Serial, plus 1, of the thread that holds it alone; 0 where none does. Atomic.
    pub owner: u32,
}

const _: () = assert!(size_of::<LockRow>() == 32);

/// Bit of [`LockRow::lock_type`]: an order row names the lock.
pub const LOCK_REFERENCED: u32 = 1 << 31;

/// Holds of a thread that are recorded at once.
pub const HOLDS: usize = 24;

/// One-time initialisations of a thread, one inside the other, that are recorded at once.
pub const ONCES: usize = 4;

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HoldRow {
    /// [`LockRow`].
    pub lock: u32,
    /// 0 exclusive, 1 shared.
    pub shared: u32,
    /// Access row of the acquisition.
    pub access: u32,
    /// 1 where it was taken without waiting for ever.
    pub reserved: u32,
}

/// What a thread holds and waits for now, by its serial. Every field is atomic on its own; a reader takes two looks
/// with equal [`LiveRow::sequence`] as one.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LiveRow {
    /// Raised when a wait begins and when it ends: odd while the thread waits.
    pub sequence: u64,
    /// Address that the thread waits on: lock, condition variable, futex word.
    pub wait_word: u64,
    /// When the wait began, in nanoseconds since the shim started.
    pub wait_since_ns: u64,
    /// [`WaitKind`](super::waits::WaitKind), as number.
    pub wait_kind: u32,
    /// Not zero where the wait ends by itself.
    pub wait_timed: u32,
    /// [`LockRow`] waited for; for a condition variable, of its mutex; 0 where none is known.
    pub wait_lock: u32,
    /// Access row of the wait.
    pub wait_access: u32,
    /// Serial of the awaited thread plus 1, for joins; 0 where unknown.
    pub wait_target: u32,
    /// Holds in use; more than [`HOLDS`] where some are not recorded.
    pub hold_count: u32,
    /// Acquisitions of the lock waited for when the wait began.
    pub wait_acquisitions: u64,
    /// Addresses of the one-time initialisations that the thread runs or waits for; 0 for none.
    pub onces: [u64; ONCES],
    /// The holds, oldest first.
    pub holds: [HoldRow; HOLDS],
}

const _: () = assert!(size_of::<LiveRow>() == 56 + 8 * ONCES + 16 * HOLDS);

/// What an order row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OrderKind {
    /// `held` was held while `wanted` was taken.
    Edge = 1,
    /// `wanted`, a lock with readers, was taken alone.
    Write = 2,
    /// `thread` creates thread `object`.
    Create = 3,
    /// `thread` has joined thread `object`.
    Join = 4,
    /// `thread` publishes to `object` (barrier, one-time initialisation).
    Release = 5,
    /// `thread` learns from `object`.
    Acquire = 6,
    /// `thread` wakes waiters of the condition variable or thread at `object`; the latest one of each is kept.
    Notify = 7,
}

/// Other locks held that an order row names.
pub const OTHERS: usize = 6;
/// Place in [`OrderRow::others`] of the lower half of the time of a [`OrderKind::Notify`].
pub const NOTIFIED_LOW: usize = 0;
/// Place of its upper half.
pub const NOTIFIED_HIGH: usize = 1;
/// Bit of [`OrderRow::others`]: held shared.
pub const OTHER_SHARED: u32 = 1 << 31;

/// An entry of the log that lock order is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OrderRow {
    /// [`OrderKind`], as number.
    pub kind: u32,
    /// Serial of the thread.
    pub thread: u32,
    /// Thread serial, or address of a barrier or `Once`.
    pub object: u64,
    /// The lock held and the one taken.
    pub held: HoldRow,
    /// The one taken; `reserved` is 1 where it was not waited for.
    pub wanted: HoldRow,
    /// The other locks held, as [`LockRow`] numbers with [`OTHER_SHARED`]; 0 where unused.
    pub others: [u32; OTHERS],
    /// Times seen. Atomic.
    pub count: u64,
}

const _: () = assert!(size_of::<OrderRow>() == 80);
