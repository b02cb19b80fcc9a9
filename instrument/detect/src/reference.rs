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

/// Accesses of one side at one time to bytes of a granule.
#[derive(Clone, Copy, Debug)]
struct Entry {
    side: Side,
    time: u64,
    mask: u8,
}

/// Eight bytes of memory, with every access to each of them that is the latest of its side.
#[derive(Debug, Default)]
struct Bytes {
    entries: Vec<Entry>,
    /// Bytes that were accessed atomically.
    atomic: u8,
}

impl Bytes {
    fn forget(&mut self, mask: u8) {
        for entry in &mut self.entries {
            entry.mask &= !mask;
        }
        self.entries.retain(|entry| entry.mask != 0);
    }
}

/// The parts of granules that a range consists of, as (granule, bytes of it).
fn parts(address: u64, size: u64) -> impl Iterator<Item = (u64, u8)> {
    let end = address.saturating_add(size);
    let mut at = address;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let granule = at & !7;
        let stop = end.min(granule.saturating_add(8));
        let mask = (((1u32 << (stop - at)) - 1) << (at - granule)) as u8;
        at = stop;
        Some((granule, mask))
    })
}

/// Bytes of one access that are looked at; the lengths of a recording may be hostile.
pub const MAX_ACCESS_BYTES: u64 = 1 << 26;
/// Granules whose accesses are remembered; what comes beyond them is not looked at.
const MAX_GRANULES: usize = 1 << 23;

/// The reference detector.
#[derive(Debug, Default)]
pub struct Reference {
    /// What happened before, by thread; its own component is the present time, which starts at 1.
    clocks: HashMap<u32, Clock>,
    objects: HashMap<u64, Clock>,
    bytes: BTreeMap<u64, Bytes>,
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
                let others: Vec<u32> = self.clocks.keys().copied().filter(|&other| other != thread).collect();
                for other in others {
                    let clock = self.clock(other).clone();
                    join(self.clock(thread), &clock);
                    self.advance(other);
                }
            }
            Action::Access { thread, address, size, kind, label } => {
                return self.access(thread, address, size.min(MAX_ACCESS_BYTES), kind, label);
            }
            Action::Clean { address, size } => self.clean(address, size),
            Action::Atomic { address, size } => {
                for (granule, mask) in parts(address, size.min(64)) {
                    let bytes = self.bytes.entry(granule).or_default();
                    bytes.forget(mask);
                    bytes.atomic |= mask;
                }
            }
        }
        Vec::new()
    }

    fn clean(&mut self, address: u64, size: u64) {
        let end = address.saturating_add(size);
        let known: Vec<u64> = self.bytes.range(address & !7..end).map(|(&granule, _)| granule).collect();
        for granule in known {
            let low = address.max(granule) - granule;
            let high = end.min(granule.saturating_add(8)) - granule;
            let mask = (((1u32 << high) - 1) & !((1u32 << low) - 1)) as u8;
            if let Some(bytes) = self.bytes.get_mut(&granule) {
                bytes.forget(mask);
                bytes.atomic &= !mask;
                if bytes.entries.is_empty() && bytes.atomic == 0 {
                    self.bytes.remove(&granule);
                }
            }
        }
    }

    fn access(&mut self, thread: u32, address: u64, size: u64, kind: Kind, label: u32) -> Vec<Race> {
        self.clock(thread);
        let Some(clock) = self.clocks.get(&thread) else { return Vec::new() };
        let time = |of: u32| clock.get(&of).copied().unwrap_or(0);
        let now = time(thread);
        let side = Side { thread, label, reads: !kind.writes(), frees: kind == Kind::Free };
        let mut found = Vec::new();
        for (granule, touched) in parts(address, size) {
            if self.bytes.len() >= MAX_GRANULES && !self.bytes.contains_key(&granule) {
                continue;
            }
            let bytes = self.bytes.entry(granule).or_default();
            let mask = touched & !bytes.atomic;
            for entry in &bytes.entries {
                let earlier = entry.side;
                let overlap = entry.mask & mask;
                let ordered = earlier.thread == thread || time(earlier.thread) >= entry.time;
                let conflicting = !earlier.reads || !side.reads;
                if overlap != 0 && conflicting && !ordered {
                    let race = Race { earlier, later: side };
                    let first = granule + u64::from(overlap.trailing_zeros());
                    self.racy_bytes.extend((0..8).filter(|bit| overlap >> bit & 1 != 0).map(|bit| granule + bit));
                    self.races.entry(race).or_insert_with(|| {
                        found.push(race);
                        first
                    });
                }
            }
            let mut kept = mask;
            if kind == Kind::Free {
                bytes.forget(touched);
                bytes.atomic &= !touched;
                kept = touched;
            }
            for entry in bytes.entries.iter_mut().filter(|entry| entry.side == side) {
                entry.mask &= !kept;
            }
            bytes.entries.retain(|entry| entry.mask != 0);
            match bytes.entries.iter_mut().find(|entry| entry.side == side && entry.time == now) {
                Some(entry) => entry.mask |= kept,
                None if kept != 0 => bytes.entries.push(Entry { side, time: now, mask: kept }),
                None => {}
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
