//! Who waits for whom at one moment, and who can never go on.
//!
//! ```text
//! Snapshot (threads, what each waits for and holds) --stuck--> threads that no event can wake
//! ```
//!
//! A thread is able to go on if it runs, or waits with a time limit or for something outside the process; or
//! if one that it waits for is able to. The rest is stuck: the greatest set in which each waits only for
//! members of the set (the AND-OR model of Knapp 1987). Locks and joins wait for particular threads; condition variables,
//! channels, barriers, parking and semaphores for whoever uses them, which is any thread unless
//! [`Wait::peers`] knows better.
//!
//! Direction of error: unknown owners, handlers of signals and unknown peers count as able to go on.

use super::{LockId, LockRules, Mode, Place};
use std::collections::{HashMap, HashSet};

/// The process at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Threads that have started, ended ones included.
    pub threads: Vec<ThreadAt>,
    /// The program handles signals: a handler may post semaphores, write pipes and wake futexes.
    pub has_signal_handlers: bool,
    /// Nanoseconds since the start of the recording.
    pub now_ns: u64,
}

/// A thread at that moment.
#[derive(Clone, Debug)]
pub struct ThreadAt {
    /// Its serial.
    pub serial: u32,
    /// What it does.
    pub activity: Activity,
    /// What it holds, oldest first.
    pub holds: Vec<Held>,
}

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub lock: LockId,
    /// How.
    pub mode: Mode,
    /// Where it was taken.
    pub place: Place,
    /// When, at latest; 0 where not measured.
    pub since_ns: u64,
}

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It runs, or could.
    Running,
    /// It waits.
    Waiting(Wait),
    /// It has ended.
    Ended,
}

/// A wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For what.
    pub what: Awaited,
    /// Since when, in nanoseconds since the start of the recording.
    pub since_ns: u64,
    /// Whether it ends by itself.
    pub is_timed: bool,
    /// Where.
    pub place: Place,
    /// The threads that have ever used what is waited for, where that is known.
    pub peers: Option<Vec<u32>>,
    /// The latest wake-up of the same object that woke nobody, before this wait.
    pub missed: Option<Missed>,
}

/// A wake-up that came before the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Who made it.
    pub thread: u32,
    /// Where.
    pub place: Place,
    /// When.
    pub time_ns: u64,
}

/// What a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A lock.
    Lock {
        /// Which.
        lock: LockId,
        /// How.
        mode: Mode,
    },
    /// The end of a thread.
    Join {
        /// Which.
        thread: u32,
    },
    /// A one-time initialisation.
    Once {
        /// Who runs it, where known.
        runner: Option<u32>,
    },
    /// A condition variable.
    Condvar,
    /// `thread::park` and the like.
    Park,
    /// A message.
    Receive,
    /// Room for a message.
    Send,
    /// A barrier's other threads.
    Barrier,
    /// A semaphore.
    Semaphore,
    /// The pool that runs this thread's jobs, or a task.
    Pool,
    /// Some futex that no catalogue row explains.
    Futex,
    /// Something outside the process, or in the kernel: named for the report.
    Outside(&'static str),
}

impl Awaited {
    /// What the report calls it.
    pub fn word(&self) -> &'static str {
        match self {
            Awaited::Lock { .. } => "a lock",
            Awaited::Join { .. } => "the end of a thread",
            Awaited::Once { .. } => "a one-time initialisation",
            Awaited::Condvar => "a condition variable",
            Awaited::Park => "an unpark",
            Awaited::Receive => "a message",
            Awaited::Send => "room in a channel",
            Awaited::Barrier => "a barrier",
            Awaited::Semaphore => "a semaphore",
            Awaited::Pool => "a job of its own pool",
            Awaited::Futex => "a futex",
            Awaited::Outside(what) => what,
        }
    }

    /// Whether a signal handler could end the wait.
    fn may_end_by_signal(&self) -> bool {
        matches!(self, Awaited::Semaphore | Awaited::Futex)
    }
}

/// Why a thread waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The other holds the lock.
    Holds(Held),
    /// The other waits for the lock to write, and readers wait behind writers.
    WritesNext(LockId),
    /// The other's end is awaited.
    Ends,
    /// The other runs the initialisation.
    Initialises,
}

/// An edge of the wait-for graph between particular threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitsOn {
    /// Who waits.
    pub waiter: u32,
    /// For whom.
    pub target: u32,
    /// Why.
    pub because: Because,
}

/// The analysis of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Stuck {
    /// Threads that nothing can wake, ascending.
    pub threads: Vec<u32>,
    /// Whom they wait for, where that is a particular thread.
    pub edges: Vec<WaitsOn>,
    /// Whether every living thread is stuck, so that nothing from outside can end the wait.
    pub is_everyone: bool,
}

/// Whom a waiting thread waits for.
enum Wakers {
    /// It needs none: it can go on by itself.
    Itself,
    /// All of these must go on.
    All(Vec<WaitsOn>),
    /// Any of these, or of all threads where none is named.
    Any(Option<Vec<u32>>),
}

/// Finds the threads that can never go on.
pub fn stuck(snapshot: &Snapshot, rules: &dyn Fn(LockId) -> LockRules) -> Stuck {
    let waits: HashMap<u32, &Wait> = snapshot
        .threads
        .iter()
        .filter_map(|t| if let Activity::Waiting(wait) = &t.activity { Some((t.serial, wait)) } else { None })
        .collect();
    let wakers: HashMap<u32, Wakers> =
        waits.iter().map(|(thread, wait)| (*thread, wakers_of(*thread, wait, snapshot, rules))).collect();
    let mut able: HashSet<u32> =
        snapshot.threads.iter().filter(|t| t.activity == Activity::Running).map(|t| t.serial).collect();
    loop {
        let before = able.len();
        for (thread, needs) in &wakers {
            let goes_on = match needs {
                Wakers::Itself => true,
                Wakers::All(edges) => edges.iter().all(|edge| able.contains(&edge.target)),
                Wakers::Any(Some(peers)) => peers.iter().any(|peer| able.contains(peer)),
                Wakers::Any(None) => !able.is_empty(),
            };
            if goes_on {
                able.insert(*thread);
            }
        }
        if able.len() == before {
            break;
        }
    }
    let mut threads: Vec<u32> = waits.keys().copied().filter(|thread| !able.contains(thread)).collect();
    threads.sort_unstable();
    let mut edges = Vec::new();
    for thread in &threads {
        if let Some(Wakers::All(of)) = wakers.get(thread) {
            edges.extend(of.iter().filter(|edge| !able.contains(&edge.target)).copied());
        }
    }
    Stuck { is_everyone: !threads.is_empty() && able.is_empty(), threads, edges }
}

fn wakers_of(waiter: u32, wait: &Wait, snapshot: &Snapshot, rules: &dyn Fn(LockId) -> LockRules) -> Wakers {
    if wait.is_timed || snapshot.has_signal_handlers && wait.what.may_end_by_signal() {
        return Wakers::Itself;
    }
    match &wait.what {
        Awaited::Outside(_) => Wakers::Itself,
        Awaited::Join { thread } => match snapshot.threads.iter().find(|t| t.serial == *thread) {
            Some(target) if target.activity != Activity::Ended => {
                Wakers::All(vec![WaitsOn { waiter, target: *thread, because: Because::Ends }])
            }
            _ => Wakers::Itself,
        },
        Awaited::Once { runner: Some(runner) } => {
            Wakers::All(vec![WaitsOn { waiter, target: *runner, because: Because::Initialises }])
        }
        Awaited::Lock { lock, mode } => lock_wakers(waiter, *lock, *mode, snapshot, rules(*lock)),
        _ => Wakers::Any(wait.peers.clone()),
    }
}

fn lock_wakers(waiter: u32, lock: LockId, mode: Mode, snapshot: &Snapshot, rules: LockRules) -> Wakers {
    if rules.is_handed_over {
        return Wakers::Any(None);
    }
    let mut edges = Vec::new();
    let mut is_held = false;
    for thread in &snapshot.threads {
        for held in thread.holds.iter().filter(|held| held.lock == lock) {
            is_held = true;
            if mode.conflicts_with(held.mode) {
                edges.push(WaitsOn { waiter, target: thread.serial, because: Because::Holds(*held) });
            }
        }
    }
    if edges.is_empty() && is_held && rules.readers_wait_behind_writers {
        // A reader behind writers. They all wait for the same holders, so they are stuck together or not at all.
        edges.extend(snapshot.threads.iter().filter_map(|thread| match &thread.activity {
            Activity::Waiting(Wait {
                what: Awaited::Lock { lock: wanted, mode: Mode::Exclusive },
                is_timed: false,
                ..
            }) if *wanted == lock && thread.serial != waiter => {
                Some(WaitsOn { waiter, target: thread.serial, because: Because::WritesNext(lock) })
            }
            _ => None,
        }));
    }
    if edges.is_empty() {
        // Free, just handed over, or held by someone unseen.
        return if is_held { Wakers::Itself } else { Wakers::Any(None) };
    }
    Wakers::All(edges)
}
