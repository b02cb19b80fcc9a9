//! Locks as things with owners: order, deadlocks, lost wake-ups.
//!
//! ```text
//! edges + structural events --structure--> edges with clocks --lock_order--> lock-order-inversion
//! snapshot of waits and holds --waits_for--> stuck threads    --deadlock----> deadlock, lost-wakeup, may the program be ended
//! the same of tasks           --task_waits-> deadlocks among tasks
//! profile of the waits        --hot--------> hot locks
//! ```
//!
//! The analyses know threads by serial, locks by [`LockId`] and code by [`Place`]; a [`Describe`] turns these
//! into names and frames when a finding is built. Direction of error: what is not known (an owner, who could
//! notify) counts as able to make progress, so a hang may be missed but none is invented.

mod cycle;
pub mod deadlock;
pub mod finding;
pub mod hot;
pub mod incidents;
pub mod lock_order;
pub mod recorded;
mod recorded_order;
pub mod structure;
pub mod task_order;
pub mod task_waits;
pub mod tasks;
pub mod waits_for;

#[cfg(test)]
mod incidents_tests;
#[cfg(test)]
mod scenario;

use crate::report::{Frame, LockRef, Thread};

/// A lock instance: an index into the recording's table of locks. A lock that is freed and another that is
/// created at the same address have different ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub u32);

/// A point of the program with its stack: an index of an access row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u32);

/// How a lock is held or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With other readers.
    Shared,
    /// With readers, and able to become exclusive; not with another of its kind.
    Upgradable,
}

impl Mode {
    /// Whether a thread that wants `self` can't have it while another holds `held`.
    pub fn conflicts_with(self, held: Mode) -> bool {
        !matches!((self, held), (Mode::Shared, Mode::Shared | Mode::Upgradable) | (Mode::Upgradable, Mode::Shared))
    }

    /// The word of the report.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Exclusive => "exclusive",
            Mode::Shared => "shared",
            Mode::Upgradable => "upgradable",
        }
    }
}

/// What the analyses must know of a lock type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRules {
    /// A reader waits behind a writer that waits (std, parking_lot, tokio; not pthread's default, not spin).
    pub readers_wait_behind_writers: bool,
    /// The owner may take it again.
    pub is_reentrant: bool,
    /// Another thread than the one that took it may give it up (semaphores, `send_guard`).
    pub is_handed_over: bool,
}

/// A lock instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Its class: locks created, or first taken, at one place are of one class.
    pub class: u32,
    /// Its type's rules.
    pub rules: LockRules,
}

/// The locks of a run, by id.
#[derive(Clone, Debug, Default)]
pub struct Locks(pub Vec<Lock>);

impl Locks {
    /// A lock's class; an unknown lock is a class of its own.
    pub fn class(&self, lock: LockId) -> u64 {
        self.0.get(lock.0 as usize).map_or(u64::from(lock.0) | 1 << 32, |l| u64::from(l.class))
    }

    /// A lock's rules; those of a plain mutex where unknown.
    pub fn rules(&self, lock: LockId) -> LockRules {
        self.0.get(lock.0 as usize).map_or(LockRules::default(), |l| l.rules)
    }
}

/// A lock that a thread holds or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// Which.
    pub lock: LockId,
    /// How.
    pub mode: Mode,
    /// Where it was taken, or is wanted.
    pub place: Place,
}

/// Turns what the analyses compute with into what a report shows.
pub trait Describe {
    /// A thread by its serial.
    fn thread(&self, serial: u32) -> Thread;
    /// The stack at a place, innermost first; empty where it is lost.
    fn frames(&self, place: Place) -> Vec<Frame>;
    /// A lock, without mode and acquisition.
    fn lock(&self, lock: LockId) -> LockRef;
}
