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
    /// Makes a task of an async runtime, whose address it returns.
    Spawn = 20,
    /// Wakes a task (first argument).
    Wake = 21,
    /// Polls a future (first argument) that takes permits; `al` is 0 once it has them, 2 while it waits.
    AcquirePermits = 22,
    /// Takes permits if that is possible at once, by a compare-exchange of the word that counts them.
    TryPermits = 23,
    /// A compare-exchange, within [`Operation::AcquirePermits`], of the word that counts the permits.
    CountPermits = 24,
    /// Forgets permits of a semaphore (first argument): they are never given back.
    ForgetPermits = 25,
    /// Hands permits (second argument: how many) of a semaphore (first argument) to those who wait for them, and gives the rest back.
    AssignPermits = 26,
    /// Drops a future (first argument) that takes permits.
    CancelPermits = 27,
    /// Asks for the result of a task (first argument), which may have ended.
    AwaitTask = 28,
    /// Takes with readers, but not with another of its kind, able to become exclusive.
    LockUpgradable = 29,
    /// The same if that is possible at once.
    TryUpgradable = 30,
    /// Makes the thread's upgradable hold exclusive; readers may be there still, for whom [`Operation::UpgradeWait`] waits.
    Upgrade = 31,
    /// The same if that is possible at once.
    TryUpgrade = 32,
    /// Waits for the readers that are in the way of an [`Operation::Upgrade`]; if in vain, the hold is upgradable again.
    UpgradeWait = 33,
    /// Makes the thread's hold, exclusive or upgradable, a shared one.
    Downgrade = 34,
    /// Makes the thread's exclusive hold upgradable.
    DowngradeToUpgradable = 35,
    /// Looks, in a function that tries, whether the lock can be taken alone: where it can't, that was an attempt that failed.
    LookExclusive = 36,
    /// The same for one that shares.
    LookShared = 37,
    /// Waits, in a task, for others at a barrier.
    MeetTasks = 38,
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
            20 => Operation::Spawn,
            21 => Operation::Wake,
            22 => Operation::AcquirePermits,
            23 => Operation::TryPermits,
            24 => Operation::CountPermits,
            25 => Operation::ForgetPermits,
            26 => Operation::AssignPermits,
            27 => Operation::CancelPermits,
            28 => Operation::AwaitTask,
            29 => Operation::LockUpgradable,
            30 => Operation::TryUpgradable,
            31 => Operation::Upgrade,
            32 => Operation::TryUpgrade,
            33 => Operation::UpgradeWait,
            34 => Operation::Downgrade,
            35 => Operation::DowngradeToUpgradable,
            36 => Operation::LookExclusive,
            37 => Operation::LookShared,
            38 => Operation::MeetTasks,
            _ => return None,
        })
    }

    /// Whether success makes the thread a holder.
    pub const fn takes(self) -> bool {
        matches!(
            self,
            Operation::LockExclusive
                | Operation::LockShared
                | Operation::TryExclusive
                | Operation::TryShared
                | Operation::TryPermits
                | Operation::LockUpgradable
                | Operation::TryUpgradable
                | Operation::TryUpgrade
                | Operation::UpgradeWait
        )
    }

    /// Whether a function that is this operation makes it on the lock's word by itself. Other functions (a channel's `recv`, the poll of
    /// a task) take and give up locks like any code.
    pub const fn is_on_word(self) -> bool {
        self.takes() || self.gives_up() || self.converts() || matches!(self, Operation::WaitCondvar)
    }

    /// Whether only a compare-exchange is this operation.
    pub const fn compares(self) -> bool {
        self.takes() || matches!(self, Operation::CountPermits)
    }

    /// Whether a function that is this operation tells all there is to tell at its entry.
    pub const fn is_told_at_entry(self) -> bool {
        self.gives_up()
            || self.converts()
            || matches!(
                self,
                Operation::Notify
                    | Operation::Unpark
                    | Operation::Wake
                    | Operation::CancelPermits
                    | Operation::ForgetPermits
            )
    }

    /// Whether a jump out of a function that is this operation counts as its end, as its outcome does not matter.
    pub const fn may_end_by_jump(self) -> bool {
        matches!(
            self,
            Operation::Poll | Operation::PollRoot | Operation::Idle | Operation::AssignPermits | Operation::AwaitTask
        )
    }

    /// Whether it shares.
    pub const fn shares(self) -> bool {
        matches!(self, Operation::LockShared | Operation::TryShared | Operation::UnlockShared) || self.is_upgradable()
    }

    /// Whether its hold may become exclusive, and excludes others of its kind.
    pub const fn is_upgradable(self) -> bool {
        matches!(self, Operation::LockUpgradable | Operation::TryUpgradable)
    }

    /// How the lock is held after it; see [`HoldRow::shared`].
    pub const fn hold(self) -> u32 {
        match (self.is_upgradable(), self.shares()) {
            (true, _) => HELD_UPGRADABLE,
            (false, true) => HELD_SHARED,
            (false, false) => HELD_ALONE,
        }
    }

    /// Whether it would not wait for ever.
    pub const fn is_try(self) -> bool {
        matches!(
            self,
            Operation::TryExclusive | Operation::TryShared | Operation::TryUpgradable | Operation::TryUpgrade
        )
    }

    /// Whether it changes how the thread holds the lock, at once and without an outcome.
    pub const fn converts(self) -> bool {
        matches!(self, Operation::Upgrade | Operation::Downgrade | Operation::DowngradeToUpgradable)
    }

    /// Whether it only looks.
    pub const fn looks(self) -> bool {
        matches!(self, Operation::LookExclusive | Operation::LookShared)
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
    TokioPermits = 19,
    Task = 20,
}

impl Type {
    /// Every type, by number.
    pub const ALL: [Type; 21] = [
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
        Type::TokioPermits,
        Type::Task,
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
            Type::TokioPermits => "tokio::sync::Semaphore",
            Type::Task => "task",
        }
    }

    /// Whether a reader waits behind a writer that waits.
    pub const fn readers_wait_behind_writers(self) -> bool {
        matches!(self, Type::StdRwLock | Type::ParkingLotRwLock | Type::TokioPermits)
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

/// A lock instance. Row 0 means "none". It fills a cache line: who takes a lock without a wait touches nothing else of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LockRow {
    /// The lock word's address.
    pub address: u64,
    /// Access row of the first acquisition seen.
    pub first_access: u32,
    /// [`Type`], as number, and [`LOCK_REFERENCED`].
    pub lock_type: u32,
    /// Serials modulo 64 of threads that have taken or waited for it, as bits; of a lock of [`Type::TokioPermits`] instead the row of
    /// the task that gives back what others take, with [`SEVERAL_RECEIVERS`], 0 where none does. Atomic.
    pub users: u64,
    /// Not zero once the memory was freed. Atomic.
    pub gone: u32,
    /// Serial, plus 1, of the thread that holds it alone; 0 where none does. Of a lock of [`Type::TokioPermits`] instead how many
    /// permits there were at most. Atomic.
    pub owner: u32,
    /// Acquisitions; counted where waits are measured. Atomic.
    pub acquisitions: u64,
    /// 1 only where waits are measured, and neither the present hold is, nor what came after the one before. Atomic.
    pub quiet: u32,
    /// The acquisitions that are measured: those whose [`sample_hash`] is below this. Atomic.
    pub sample_below: u32,
}

const _: () = assert!(size_of::<LockRow>() == 64);

/// Scatters the numbers of acquisitions evenly, so that those that are measured do not fall in step with threads that take turns
/// (multiples of the golden ratio: Knuth, The Art of Computer Programming 3, 6.4).
pub const fn sample_hash(number: u64) -> u32 {
    (number as u32).wrapping_mul(SAMPLE_FACTOR)
}

/// What [`sample_hash`] multiplies by.
pub const SAMPLE_FACTOR: u32 = 0x9e37_79b1;

impl LockRow {
    /// A lock that nobody has taken yet.
    pub const fn new(address: u64, lock_type: Type, first_access: u32) -> LockRow {
        LockRow {
            address,
            first_access,
            lock_type: lock_type as u32,
            users: 0,
            gone: 0,
            owner: 0,
            acquisitions: 0,
            quiet: 0,
            sample_below: u32::MAX,
        }
    }
}

/// Bit of [`LockRow::lock_type`]: an order row names the lock.
pub const LOCK_REFERENCED: u32 = 1 << 31;

/// Bit of [`LockRow::lock_type`]: who holds it is not known for sure any more.
pub const LOCK_UNSURE: u32 = 1 << 30;

/// Bit of [`LockRow::users`] of a lock of [`Type::TokioPermits`]: several tasks have given back what others took.
pub const SEVERAL_RECEIVERS: u64 = 1 << 63;

/// A task in [`LockRow::users`]: its row, its number as far as there is room, and how many tasks it had spawned.
///
/// ```text
///  63    62           32 31      16 15      0
/// | several | number    | spawns   | row     |
/// ```
pub const fn receiver_of(task: u32, number: u64, spawns: u32) -> u64 {
    (task & 0xffff) as u64 | ((spawns & 0xffff) as u64) << 16 | (number & 0x7fff_ffff) << 32
}

/// The bits of [`receiver_of`] that count tasks.
pub const RECEIVER_SPAWNS: u64 = 0xffff << 16;

/// Holds of a thread that are recorded at once.
pub const HOLDS: usize = 24;

/// One-time initialisations of a thread, one inside the other, that are recorded at once.
pub const ONCES: usize = 4;

/// In place of [`HoldRow::shared`]: alone.
pub const HELD_ALONE: u32 = 0;
/// With other readers.
pub const HELD_SHARED: u32 = 1;
/// With readers, able to become exclusive.
pub const HELD_UPGRADABLE: u32 = 2;

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HoldRow {
    /// [`LockRow`].
    pub lock: u32,
    /// [`HELD_ALONE`], [`HELD_SHARED`] or [`HELD_UPGRADABLE`].
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
    /// Tasks that this thread has woken, less those that it began to poll after they were woken. Over all threads, how many
    /// tasks could run now.
    pub runnable: i64,
    /// Addresses of the one-time initialisations that the thread runs or waits for; 0 for none.
    pub onces: [u64; ONCES],
    /// The holds, oldest first.
    pub holds: [HoldRow; HOLDS],
}

const _: () = assert!(size_of::<LiveRow>() == 64 + 8 * ONCES + 16 * HOLDS);

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
    /// The task `thread` was born: after what the lower half of `object` did ([`NO_PARENT`] where that is not known) in the rows before
    /// the upper half. `wanted.access` is where it was spawned, [`BORN_SPAWNER`] by whom.
    Task = 8,
}

/// In [`OrderRow`]: serials of threads from here on are numbers of tasks.
pub const FIRST_TASK: u32 = 1 << 31;
/// In place of who a task comes after: not known.
pub const NO_PARENT: u32 = u32::MAX;
/// Place in [`OrderRow::others`] of the serial, plus 1, of the thread that spawned a task.
pub const BORN_SPAWNER: usize = 0;
/// Bit of [`HoldRow::shared`] in [`TaskRow::holds`]: with others.
pub const TASK_HOLD_SHARED: u32 = 1 << 31;

/// Other locks held that an order row names.
pub const OTHERS: usize = 6;
/// Place in [`OrderRow::others`] of the lower half of the time of a [`OrderKind::Notify`].
pub const NOTIFIED_LOW: usize = 0;
/// Place of its upper half.
pub const NOTIFIED_HIGH: usize = 1;
/// Bit of [`OrderRow::others`]: held shared, and not upgradable.
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
    /// The lock held and the one taken. Of a task, `reserved` is 1 where it has spawned others since, which may have the guard.
    pub held: HoldRow,
    /// The one taken; `reserved` is 1 where it was not waited for.
    pub wanted: HoldRow,
    /// The other locks held, as [`LockRow`] numbers with [`OTHER_SHARED`]; 0 where unused.
    pub others: [u32; OTHERS],
    /// Times seen. Atomic.
    pub count: u64,
}

const _: () = assert!(size_of::<OrderRow>() == 80);

/// Holds of a task that are recorded at once.
pub const TASK_HOLDS: usize = 6;
/// Futures of a task, waiting for permits, that are recorded at once.
pub const TASK_WAITS: usize = 4;

/// The task is being polled.
pub const TASK_POLLED: u32 = 1;
/// It was woken, and not polled since.
pub const TASK_WOKEN: u32 = 2;
/// Not all that it holds or waits for is recorded.
pub const TASK_UNSURE: u32 = 4;

/// In place of [`TaskRow::wakers`]: not known, or the task was to be polled again at once.
pub const WAKERS_UNKNOWN: u32 = u32::MAX;

/// The future was given the waker of its own task.
pub const WAIT_OWN_WAKER: u32 = 1;
/// It was given what it waits for, and not polled since.
pub const WAIT_ASSIGNED: u32 = 2;
/// Nobody held what it waits for when the wait began.
pub const WAIT_FOR_SIGNAL: u32 = 4;

/// A future of a task that waits for permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskWait {
    /// Address of the future; 0 where unused.
    pub future: u64,
    /// When the wait began, in nanoseconds since the shim started.
    pub since_ns: u64,
    /// [`LockRow`].
    pub lock: u32,
    /// Access row of the wait.
    pub access: u32,
    /// [`TaskRow::polls`] when it was polled last.
    pub polls: u32,
    /// Bits of `WAIT_*`.
    pub flags: u32,
    /// The task that took permits last when the wait began, as [`WaitEventRow::task`](super::waits::WaitEventRow::task); `u32::MAX`
    /// where unknown.
    pub holder: u32,
    /// Unused.
    pub reserved: u32,
}

/// What the shim keeps of a task's hold to blame it for waits. The host does not read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HoldMark {
    /// When it began, in nanoseconds since the shim started; 0 where it is not measured.
    pub since_ns: u64,
    /// The waiting that a hold of the lock would have been blamed for until then; summed over holds of one lock.
    pub share_ns: u64,
}

/// A task of an async runtime: what it holds and waits for now. It stands where the task's [`LockRow`] does in its own table.
///
/// What a thread does outside any task, as `block_on` with its future, has a row of its own, without address. The words
/// change under [`TaskRow::word`]; a reader takes two looks with equal rows as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TaskRow {
    /// Raised at every change; odd during one.
    pub sequence: u64,
    /// The task's address; 0 where the row is unused, and the thread's state for what a thread does outside tasks.
    pub address: u64,
    /// Number of the task, from 1; higher for later ones.
    pub number: u64,
    /// When it was woken, in ticks of the processor's time stamp counter.
    pub woken_ticks: u64,
    /// Taken by who changes the row.
    pub word: u32,
    /// Access row of the call that made it; 0 where unseen.
    pub spawned: u32,
    /// Serial, plus 1, of the thread that spawned it; 0 where unseen.
    pub spawner: u32,
    /// Serial of the thread that polled it last, plus 1; 0 where none did. For what a thread does outside tasks, that thread.
    pub thread: u32,
    /// Polls begun.
    pub polls: u32,
    /// Bits of `TASK_*`.
    pub state: u32,
    /// When the latest poll ended: wakers of the task that exist; [`WAKERS_UNKNOWN`] otherwise.
    pub wakers: u32,
    /// Tasks that it spawned.
    pub spawns: u32,
    /// What it comes after, as of [`OrderKind::Task`].
    pub parent: u32,
    /// How many rows the order log had then.
    pub born: u32,
    /// 1 once its birth is in the log.
    pub is_logged: u32,
    /// Raised where it spawns or joins tasks, once anything was logged since.
    pub phase: u32,
    /// Rows of the log when it was raised last.
    pub phase_rows: u32,
    /// 1 once somebody has its result.
    pub is_joined: u32,
    /// Edges of tasks that existed when it last published at a barrier of tasks.
    pub published: u32,
    /// And when it last learnt there.
    pub learnt: u32,
    /// Holds in use.
    pub hold_count: u32,
    /// 1 for what a thread does outside tasks.
    pub is_thread: u32,
    /// The holds, one of a lock: `shared` says how many times, `reserved` is [`TaskRow::spawns`] when it was taken last.
    pub holds: [HoldRow; TASK_HOLDS],
    /// Of each hold, what it is blamed by.
    pub marks: [HoldMark; TASK_HOLDS],
    /// The waits, oldest first, without gaps.
    pub waits: [TaskWait; TASK_WAITS],
}

const _: () = assert!(size_of::<TaskRow>() == 104 + 32 * TASK_HOLDS + 40 * TASK_WAITS);

impl TaskRow {
    /// A row that is not in use.
    pub const NONE: TaskRow = TaskRow {
        sequence: 0,
        address: 0,
        number: 0,
        woken_ticks: 0,
        word: 0,
        spawned: 0,
        spawner: 0,
        thread: 0,
        polls: 0,
        state: 0,
        wakers: WAKERS_UNKNOWN,
        spawns: 0,
        parent: NO_PARENT,
        born: 0,
        is_logged: 0,
        phase: 0,
        phase_rows: 0,
        is_joined: 0,
        published: 0,
        learnt: 0,
        hold_count: 0,
        is_thread: 0,
        holds: [HoldRow { lock: 0, shared: 0, access: 0, reserved: 0 }; TASK_HOLDS],
        marks: [HoldMark { since_ns: 0, share_ns: 0 }; TASK_HOLDS],
        waits: [TaskWait { future: 0, since_ns: 0, lock: 0, access: 0, polls: 0, flags: 0, holder: 0, reserved: 0 };
            TASK_WAITS],
    };
}
