//! Replays a recording's happens-before events with the reference detector, and compares what it finds with what
//! the detector in the process found.
//!
//! ```text
//! EventRow, in order --> Action --> Reference --> races as pairs of places --Comparison--> agreement
//! FindingRow ------------------------------------ pairs of places ----------^
//! ```
//!
//! A *place* is what a finding is told by: a site, or an interposed function with its calling context.
//!
//! Direction of error. The reference has unbounded memory and gives no slot twice, so it finds what the process missed:
//! races of cells that were replaced, second races of one access, races between threads that shared a slot.
//! What the process found and the replay does not have is a fault of one of the two, unless events were dropped.

use std::collections::{BTreeMap, BTreeSet};

use crate::detect::Kind;
use crate::detect::reference::{Action, MAX_ACCESS_BYTES, Race, Reference};
use crate::trace::Recording;
use crate::wire::recording::{AccessRow, EventKind, EventRow, FindingKind, FindingRow, NO_SITE, Table};

/// What an access is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A site of the program, by index.
    Site(u32),
    /// An interposed function, by number, and its calling context.
    Interposed(u16, u32),
    /// The recording does not know.
    Lost,
}

impl Place {
    /// The place of an access row.
    pub fn of(row: Option<&AccessRow>) -> Place {
        match row {
            None => Place::Lost,
            Some(row) if row.site == NO_SITE => Place::Interposed(row.interposed, row.node),
            Some(row) => Place::Site(row.site),
        }
    }
}

/// Two places that race, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair(pub Place, pub Place);

impl Pair {
    /// The pair of two places, in any order.
    pub fn new(one: Place, other: Place) -> Pair {
        if one <= other { Pair(one, other) } else { Pair(other, one) }
    }
}

/// What a replay found.
#[derive(Debug, Default)]
pub struct Replay {
    /// Pairs of places that race, each with one race and the first address it was seen at.
    pub pairs: BTreeMap<Pair, (Race, u64)>,
    /// Events taken into account.
    pub events: u64,
    /// Rows that are no whole event: the program died while it wrote them, or the file is damaged.
    pub broken: u64,
}

/// Thread 0's and object 0's numbers are ordinary ones; an event of an unknown kind is none.
fn action(row: &EventRow) -> Option<Action> {
    let (thread, object, label) = (row.thread, row.object, row.access);
    let child = u32::try_from(object);
    let access = |kind| Action::Access { thread, address: object, size: row.size, kind, label };
    let is = |kind: EventKind| row.kind == kind as u32;
    Some(if is(EventKind::Release) {
        Action::Release { thread, object }
    } else if is(EventKind::Acquire) {
        Action::Acquire { thread, object }
    } else if is(EventKind::Destroy) {
        Action::Destroy { object }
    } else if is(EventKind::Create) {
        Action::Create { thread, child: child.ok()? }
    } else if is(EventKind::Join) {
        Action::Join { thread, child: child.ok()? }
    } else if is(EventKind::Adopt) {
        Action::Adopt { thread }
    } else if is(EventKind::Read) {
        access(Kind::Read)
    } else if is(EventKind::Write) {
        access(Kind::Write)
    } else if is(EventKind::Free) {
        access(Kind::Free)
    } else if is(EventKind::Clean) {
        Action::Clean { address: object, size: row.size }
    } else if is(EventKind::Atomic) {
        Action::Atomic { address: object, size: row.size }
    } else {
        return None;
    })
}

/// A replay under way.
#[derive(Debug, Default)]
pub struct Replayer {
    reference: Reference,
    replay: Replay,
    /// Bytes of long accesses looked at so far.
    long_bytes: u64,
}

/// Accesses of more bytes are long ones: copies, fills, system calls, frees.
const LONG_BYTES: u64 = 64;
/// Bytes of long accesses that are looked at in one replay; of later ones only the beginning is. Lengths may be hostile.
const MAX_LONG_BYTES: u64 = 1 << 30;

impl Replayer {
    /// Takes the next event into account. `place` looks an access row up.
    pub fn push(&mut self, row: &EventRow, place: impl Fn(u32) -> Place) {
        let Some(mut action) = action(row) else {
            self.replay.broken += 1;
            return;
        };
        self.replay.events += 1;
        if let Action::Access { size, .. } = &mut action {
            *size = self.looked_at(*size);
        }
        for race in self.reference.apply(&action) {
            let pair = Pair::new(place(race.earlier.label), place(race.later.label));
            let address = self.reference.races().get(&race).copied().unwrap_or_default();
            self.replay.pairs.entry(pair).or_insert((race, address));
        }
    }

    /// How many bytes of an access of this length are looked at.
    fn looked_at(&mut self, size: u64) -> u64 {
        if size <= LONG_BYTES {
            return size;
        }
        let left = MAX_LONG_BYTES.saturating_sub(self.long_bytes).max(LONG_BYTES);
        let looked_at = size.min(MAX_ACCESS_BYTES).min(left);
        self.long_bytes += looked_at;
        looked_at
    }

    /// What was found.
    pub fn finish(self) -> Replay {
        self.replay
    }
}

/// Where the process and the replay agree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that both found.
    pub both: BTreeSet<Pair>,
    /// Pairs that only the detector in the process found.
    pub process_only: BTreeSet<Pair>,
    /// Pairs that only the replay found.
    pub replay_only: BTreeSet<Pair>,
    /// Findings of the process of which one side's place is lost, so that they can't be compared.
    pub incomparable: u64,
    /// Events that there was no room for: the replay may miss what the process found.
    pub dropped: u64,
}

impl Comparison {
    /// Whether nothing speaks against either of the two.
    pub fn agrees(&self) -> bool {
        self.process_only.is_empty() || self.dropped != 0
    }
}

/// Compares pairs of the process's findings with a replay.
pub fn compare(found: impl IntoIterator<Item = Pair>, replay: &Replay, dropped: u64) -> Comparison {
    let mut comparison = Comparison { dropped, ..Comparison::default() };
    for pair in found {
        if pair.0 == Place::Lost || pair.1 == Place::Lost {
            comparison.incomparable += 1;
        } else if replay.pairs.contains_key(&pair) {
            comparison.both.insert(pair);
        } else {
            comparison.process_only.insert(pair);
        }
    }
    comparison.replay_only = replay.pairs.keys().filter(|pair| !comparison.both.contains(pair)).copied().collect();
    comparison
}

/// Replays a recording and compares; `None` where its header can't be read.
pub fn replay_recording(recording: &Recording) -> Option<(Replay, Comparison)> {
    let header = recording.header().ok()?;
    let accesses: Vec<AccessRow> = recording.collect(0, header.counts[Table::Accesses as usize]);
    let place = |access: u32| match access {
        0 => Place::Lost,
        index => Place::of(accesses.get(index as usize)),
    };
    let mut replayer = Replayer::default();
    recording.rows::<EventRow>(0, header.counts[Table::Events as usize], |_, row| {
        replayer.push(&row, place);
        true
    });
    let replay = replayer.finish();
    let mut found = Vec::new();
    recording.rows::<FindingRow>(0, header.counts[Table::Findings as usize], |_, row| {
        if row.kind == FindingKind::DataRace as u32 {
            found.push(Pair::new(place(row.current.access), place(row.previous.access)));
        }
        true
    });
    let comparison = compare(found, &replay, header.dropped[Table::Events as usize]);
    Some((replay, comparison))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, thread: u32, object: u64, size: u64, access: u32) -> EventRow {
        EventRow { kind: kind as u32, thread, object, size, access, reserved: 0 }
    }

    fn replay(events: &[EventRow]) -> Replay {
        let mut replayer = Replayer::default();
        for row in events {
            replayer.push(row, |access| if access == 0 { Place::Lost } else { Place::Site(access) });
        }
        replayer.finish()
    }

    #[test]
    fn hostile_lengths_are_looked_at_in_part() {
        let mut replayer = Replayer::default();
        let looked_at: u64 = (0..1000).map(|_| replayer.looked_at(u64::MAX)).sum();
        assert_eq!(looked_at, MAX_LONG_BYTES + (1000 - MAX_LONG_BYTES / MAX_ACCESS_BYTES) * LONG_BYTES);
        assert_eq!(replayer.looked_at(8), 8);
    }

    #[test]
    fn a_race_is_a_pair_of_places() {
        let found = replay(&[
            event(EventKind::Create, 0, 1, 0, 0),
            event(EventKind::Write, 0, 64, 8, 5),
            event(EventKind::Read, 1, 66, 2, 3),
            event(EventKind::Read, 1, 66, 2, 3),
        ]);
        assert_eq!(found.pairs.keys().copied().collect::<Vec<_>>(), [Pair(Place::Site(3), Place::Site(5))]);
        assert_eq!(found.pairs.values().next().map(|(_, address)| *address), Some(66));
        assert_eq!((found.events, found.broken), (4, 0));
    }

    #[test]
    fn births_joins_and_locks_order() {
        let birth = 1 << 63;
        let found = replay(&[
            event(EventKind::Write, 0, 64, 8, 1),
            event(EventKind::Release, 0, birth, 0, 0),
            event(EventKind::Acquire, 1, birth, 0, 0),
            event(EventKind::Write, 1, 64, 8, 2),
            event(EventKind::Release, 1, 7, 0, 0),
            event(EventKind::Acquire, 2, 7, 0, 0),
            event(EventKind::Write, 2, 64, 8, 3),
            event(EventKind::Join, 0, 2, 0, 0),
            event(EventKind::Read, 0, 64, 8, 4),
            event(EventKind::Adopt, 9, 0, 0, 0),
            event(EventKind::Write, 9, 64, 8, 5),
        ]);
        assert!(found.pairs.is_empty(), "{:?}", found.pairs);
    }

    #[test]
    fn hostile_rows_are_counted_and_end() {
        let found = replay(&[
            event(EventKind::None, 0, 0, 0, 0),
            EventRow { kind: 99, thread: 0, object: 0, size: 0, access: 0, reserved: 0 },
            event(EventKind::Create, 0, u64::MAX, 0, 0),
            event(EventKind::Clean, 0, u64::MAX - 1, u64::MAX, 0),
            event(EventKind::Atomic, 0, u64::MAX - 1, u64::MAX, 0),
            event(EventKind::Read, 0, u64::MAX - 1, 64, 1),
        ]);
        assert_eq!((found.events, found.broken), (3, 3));
    }

    #[test]
    fn comparisons_tell_who_has_what() {
        let found = replay(&[event(EventKind::Write, 0, 64, 8, 5), event(EventKind::Write, 1, 64, 8, 6)]);
        let pair = Pair::new(Place::Site(6), Place::Site(5));
        let other = Pair::new(Place::Site(1), Place::Site(2));
        let lost = Pair::new(Place::Site(1), Place::Lost);
        let comparison = compare([pair, lost], &found, 0);
        assert!(comparison.agrees() && comparison.both.len() == 1 && comparison.incomparable == 1);
        assert!(!compare([other], &found, 0).agrees());
        assert_eq!(compare([other], &found, 0).replay_only, BTreeSet::from([pair]));
    }
}
