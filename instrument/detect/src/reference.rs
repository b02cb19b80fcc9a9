//! The reference detector: happens-before by full vector clocks and every access to every byte, unbounded.
//!
//! It is meant to be obviously right, and serves twice: as the oracle of the fast detector in tests, and as the replay of a
//! recording's events on the host. It knows no slots, no epochs that stand still, no shadow: a thread's clock
//! advances at every release.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::granule::Kind;

/// What happened, in an order that each thread's and each object's own order agrees with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `thread` releases into `object`.
    Release {
        /// Who.
        thread: u32,
        /// Into what.
        object: u64,
    },
    /// `thread` acquires from `object`.
    Acquire {
        /// Who.
        thread: u32,
        /// From what.
        object: u64,
    },
    /// `object` is gone; a later one with the same number is another.
    Destroy {
        /// What.
        object: u64,
    },
    /// `thread` creates `child`.
    Create {
        /// Who.
        thread: u32,
        /// The new thread.
        child: u32,
    },
    /// `thread` joins `child`, which has ended.
    Join {
        /// Who.
        thread: u32,
        /// The thread that ended.
        child: u32,
    },
    /// All that any thread did so far happened before what `thread` will do.
    Adopt {
        /// The thread that nobody saw being created.
        thread: u32,
    },
    /// A plain access to the bytes from `address`.
    Access {
        /// Who.
        thread: u32,
        /// First byte.
        address: u64,
        /// Bytes.
        size: u64,
        /// What it does.
        kind: Kind,
        /// Whatever tells accesses apart for the caller.
        label: u32,
    },
    /// The bytes from `address` are fresh.
    Clean {
        /// First byte.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// The bytes from `address` are accessed atomically from now on: plain accesses of them do not count.
    Atomic {
        /// First byte.
        address: u64,
        /// Bytes.
        size: u64,
    },
}

/// A thread's logical times by thread.
type Clock = BTreeMap<u32, u64>;

fn join(into: &mut Clock, from: &Clock) {
    for (&thread, &time) in from {
        let entry = into.entry(thread).or_default();
        *entry = (*entry).max(time);
    }
}

/// An access as a side of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Side {
    /// Who.
    pub thread: u32,
    /// The caller's label.
    pub label: u32,
    /// Whether it only reads.
    pub reads: bool,
    /// Whether it frees.
    pub frees: bool,
}

/// Two accesses without order, at least one of which writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Race {
    /// The one that comes first in the list of actions.
    pub earlier: Side,
    /// The other one.
    pub later: Side,
}

#[derive(Debug, Default)]
struct Byte {
    /// The latest time at which each side accessed.
    sides: BTreeMap<Side, u64>,
    atomic: bool,
}

/// The reference detector.
#[derive(Debug, Default)]
pub struct Reference {
    /// What happened before, by thread; its own component is the present time, which starts at 1.
    clocks: HashMap<u32, Clock>,
    objects: HashMap<u64, Clock>,
    bytes: BTreeMap<u64, Byte>,
    races: BTreeMap<Race, u64>,
    racy_bytes: BTreeSet<u64>,
}

impl Reference {
    /// A detector that has seen nothing.
    pub fn new() -> Reference {
        Reference::default()
    }

    fn clock(&mut self, thread: u32) -> &mut Clock {
        self.clocks.entry(thread).or_insert_with(|| Clock::from([(thread, 1)]))
    }

    fn advance(&mut self, thread: u32) {
        *self.clock(thread).entry(thread).or_default() += 1;
    }

    /// Takes one action into account; gives the races it makes.
    pub fn apply(&mut self, action: &Action) -> Vec<Race> {
        match *action {
            Action::Release { thread, object } => {
                let clock = self.clock(thread).clone();
                join(self.objects.entry(object).or_default(), &clock);
                self.advance(thread);
            }
            Action::Acquire { thread, object } => {
                if let Some(clock) = self.objects.get(&object).cloned() {
                    join(self.clock(thread), &clock);
                }
            }
            Action::Destroy { object } => {
                self.objects.remove(&object);
            }
            Action::Create { thread, child } => {
                let clock = self.clock(thread).clone();
                join(self.clock(child), &clock);
                self.advance(thread);
            }
            Action::Join { thread, child } => {
                let clock = self.clock(child).clone();
                join(self.clock(thread), &clock);
            }
            Action::Adopt { thread } => {
                let all: Vec<(u32, Clock)> =
                    self.clocks.iter().map(|(&thread, clock)| (thread, clock.clone())).collect();
                for (other, clock) in all {
                    join(self.clock(thread), &clock);
                    if other != thread {
                        self.advance(other);
                    }
                }
            }
            Action::Access { thread, address, size, kind, label } => {
                return self.access(thread, address, size, kind, label);
            }
            Action::Clean { address, size } => self.forget(address, size, false),
            Action::Atomic { address, size } => self.forget(address, size, true),
        }
        Vec::new()
    }

    /// Forgets accesses to the bytes. The lists of recordings may be hostile: `size` is cut at the address space's end.
    fn forget(&mut self, address: u64, size: u64, atomic: bool) {
        let end = address.saturating_add(size);
        if atomic {
            for byte in address..end.min(address.saturating_add(64)) {
                *self.bytes.entry(byte).or_default() = Byte { sides: BTreeMap::new(), atomic: true };
            }
        } else {
            let gone: Vec<u64> = self.bytes.range(address..end).map(|(&byte, _)| byte).collect();
            for byte in gone {
                self.bytes.remove(&byte);
            }
        }
    }

    fn access(&mut self, thread: u32, address: u64, size: u64, kind: Kind, label: u32) -> Vec<Race> {
        let clock = self.clock(thread).clone();
        let now = clock.get(&thread).copied().unwrap_or(1);
        let side = Side { thread, label, reads: !kind.writes(), frees: kind == Kind::Free };
        let mut found = Vec::new();
        for address in address..address.saturating_add(size) {
            let byte = self.bytes.entry(address).or_default();
            if !byte.atomic {
                for (&earlier, &time) in &byte.sides {
                    let ordered = earlier.thread == thread || clock.get(&earlier.thread).copied().unwrap_or(0) >= time;
                    let conflicting = !earlier.reads || !side.reads;
                    if conflicting && !ordered {
                        let race = Race { earlier, later: side };
                        self.racy_bytes.insert(address);
                        self.races.entry(race).or_insert_with(|| {
                            found.push(race);
                            address
                        });
                    }
                }
            }
            if kind == Kind::Free {
                *byte = Byte::default();
            }
            if !byte.atomic {
                byte.sides.insert(side, now);
            }
        }
        found
    }

    /// All races, each with the first byte it was seen at.
    pub fn races(&self) -> &BTreeMap<Race, u64> {
        &self.races
    }

    /// All bytes with a race.
    pub fn racy_bytes(&self) -> &BTreeSet<u64> {
        &self.racy_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(thread: u32, address: u64, label: u32) -> Action {
        Action::Access { thread, address, size: 4, kind: Kind::Write, label }
    }

    fn races(actions: &[Action]) -> usize {
        let mut reference = Reference::new();
        actions.iter().map(|action| reference.apply(action).len()).sum()
    }

    #[test]
    fn order_comes_from_release_acquire_create_and_join() {
        let create = Action::Create { thread: 0, child: 1 };
        let release = Action::Release { thread: 0, object: 9 };
        let acquire = Action::Acquire { thread: 1, object: 9 };
        assert_eq!(races(&[create, write(0, 8, 1), write(1, 8, 2)]), 1);
        assert_eq!(races(&[write(0, 8, 1), create, write(1, 8, 2)]), 0);
        assert_eq!(races(&[create, write(0, 8, 1), release, acquire, write(1, 8, 2)]), 0);
        assert_eq!(races(&[create, release, write(0, 8, 1), acquire, write(1, 8, 2)]), 1);
        assert_eq!(
            races(&[create, write(0, 8, 1), release, Action::Destroy { object: 9 }, acquire, write(1, 8, 2)]),
            1
        );
        assert_eq!(races(&[create, write(1, 8, 1), Action::Join { thread: 0, child: 1 }, write(0, 8, 2)]), 0);
        assert_eq!(races(&[create, write(0, 8, 1), Action::Adopt { thread: 2 }, write(2, 8, 2)]), 0);
        assert_eq!(races(&[create, Action::Adopt { thread: 2 }, write(0, 8, 1), write(2, 8, 2)]), 1);
    }

    #[test]
    fn bytes_are_apart_and_memory_is_reused() {
        let create = Action::Create { thread: 0, child: 1 };
        let read = |thread| Action::Access { thread, address: 8, size: 4, kind: Kind::Read, label: 7 };
        assert_eq!(races(&[create, write(0, 8, 1), write(1, 12, 2)]), 0);
        assert_eq!(races(&[create, write(0, 8, 1), write(1, 11, 2)]), 1);
        assert_eq!(races(&[create, read(0), read(1)]), 0);
        assert_eq!(races(&[create, write(0, 8, 1), Action::Clean { address: 8, size: 4 }, write(1, 8, 2)]), 0);
        assert_eq!(races(&[create, write(0, 8, 1), Action::Atomic { address: 8, size: 4 }, write(1, 8, 2)]), 0);
        let free = Action::Access { thread: 0, address: 8, size: 4, kind: Kind::Free, label: 3 };
        assert_eq!(races(&[create, free, read(1)]), 1);
    }
}
