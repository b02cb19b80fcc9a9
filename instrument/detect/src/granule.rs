//! A granule's three cells, and what an access does to them: FastTrack on a fixed number of cells.
//!
//! ```text
//! word 0: the latest write          word 2: an older access of another thread or of other bytes
//! word 1: the latest read           word 3: the ids of words 0, 1, 2, 21 bits each from the low end;
//!                                           bit 63: an id may be that of a neighbouring access
//! ```
//!
//! A cell is always the truth: the access it names took place and none of its bytes changed owner since. So a cell that
//! is lost (by a race between two updates, or because three are too few) costs a report, never invents one.
//!
//! # What is kept
//! With `new` the access at hand, a cell `c` is *superseded* on the bytes of `new` where `c` is `new`'s own thread's or
//! happened before `new`, and `new` is a write or `c` is a read: whatever is concurrent with `c` and comes later is
//! then concurrent with `new` (FastTrack's argument for one epoch per variable), so nothing is lost there. `new`
//! goes to its word. What is left of the word's old cell (other bytes, or a concurrent read) contends with the
//! third word by rank: concurrent with `new` before ordered, write before read; among equals a coin decides, and where
//! three concurrent reads contend, `new` itself may be the one that is dropped.
//! Two accesses of one thread in one epoch with different ids are kept exactly (one in the third word) while that
//! is free to take, else merged under the later id, which bit 63 admits.
//!
//! # Racing updates
//! Words 1 to 3 are stored without a lock. Word 0 is replaced by compare-exchange only, since it may hold the tag of a
//! sync object, which must never be overwritten: a lost sync object loses edges, and that invents races. After a
//! store the other words are looked at again, so that of two simultaneous accesses at least one sees the other (the
//! stores are locked instructions, hence full barriers).

mod common;

use core::sync::atomic::{AtomicU64, Ordering};

use super::cell::{AccessId, Cell, EPOCH_SHIFT, FREED, SYNC_TAG};
use super::clock::VectorClock;

pub use common::{Common, READ_ROW};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Reads and writes.
    Update,
    /// Frees the memory.
    Free,
}

impl Kind {
    /// Whether it conflicts with reads as well.
    #[inline]
    pub const fn writes(self) -> bool {
        !matches!(self, Kind::Read)
    }

    /// Whether it loads.
    #[inline]
    pub const fn reads(self) -> bool {
        matches!(self, Kind::Read | Kind::Update)
    }
}

/// Two accesses that no order relates: the one at hand and an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The access at hand, to all its bytes of the granule.
    pub current: Cell,
    /// The earlier access.
    pub previous: Cell,
    /// Whether the earlier access is a read.
    pub previous_reads: bool,
    /// Who made the earlier access.
    pub previous_id: AccessId,
    /// The word of the granule that it is in.
    pub previous_word: u8,
    /// `previous_id` may be that of another access of the same thread and epoch to the same granule.
    pub inexact: bool,
    /// The bytes both touch.
    pub overlap: u8,
}

/// The result of [`Granule::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Nothing to report.
    Done,
    /// The granule has a sync object of this index; nothing was done.
    Tagged(u32),
    /// A conflict, and the access was stored all the same.
    Race(Conflict),
}

/// Who accesses, and what happened before.
#[derive(Debug)]
pub struct Accessor<'a> {
    /// The cell of a full-granule write of the thread now.
    pub key: Cell,
    /// The thread's clock.
    pub clock: &'a VectorClock,
    /// Random bits for coins.
    pub random: u32,
}

impl Accessor<'_> {
    /// Whether the access of a cell is the thread's own or happened before.
    #[inline(always)]
    fn is_ordered(&self, cell: Cell) -> bool {
        cell.slot() == self.key.slot() || cell.epoch() <= self.clock.get(cell.slot())
    }

    /// Which of two accesses gets the third word: what is left of an ordered one beside the new access, or what is left of the
    /// third word. Those that are concurrent with the new access come first, then writes; among equals the epoch's last bit decides.
    #[inline(always)]
    fn contend(&self, left: (Cell, u64), third: (Cell, u64), mask: u8) -> (Cell, u64) {
        let ordered = third.0.0 == 0 || self.is_ordered(third.0);
        let writes = !left.0.is_read();
        let kept = if ordered && (writes || third.0.is_read()) { third.0.without(mask) } else { third.0 };
        if kept.0 == 0 {
            return left;
        }
        if kept.same_owner(left.0) && kept.is_read() == left.0.is_read() && third.1 == left.1 {
            return (kept.with_mask(kept.mask() | left.0.mask()), third.1);
        }
        let rank = |cell: Cell| u8::from(!cell.is_read());
        let coin = self.key.0 >> EPOCH_SHIFT & 1 == 0;
        if ordered && (rank(left.0) > rank(kept) || rank(left.0) == rank(kept) && coin) {
            left
        } else {
            (kept, third.1)
        }
    }

    #[inline(always)]
    fn covers(&self, cell: Cell, mask: u8) -> bool {
        cell.same_owner(self.key) && cell.mask() & mask == mask
    }
}

/// The bit of the ids word that admits a neighbouring id.
const INEXACT: u64 = 1 << 63;

/// Ids to be stored, and the bits of the word that they are.
#[derive(Clone, Copy)]
struct Ids {
    value: u64,
    changed: u64,
}

impl Ids {
    /// The bits of the id of the given word.
    #[inline(always)]
    const fn of(word: usize) -> u64 {
        0x1f_ffff << (AccessId::BITS * word as u32)
    }

    /// The id of the given word.
    #[inline(always)]
    const fn get(ids: u64, word: usize) -> u64 {
        (ids >> (AccessId::BITS * word as u32)) & 0x1f_ffff
    }

    /// Nothing changes.
    const NONE: Ids = Ids { value: 0, changed: 0 };
}

/// The three cells as read once.
type Words = [Cell; 3];

/// The cell of the given word, without a bounds check that could panic.
#[inline(always)]
const fn pick(words: &Words, word: usize) -> Cell {
    match word {
        0 => words[0],
        1 => words[1],
        _ => words[2],
    }
}

/// The shadow of eight bytes of memory.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct Granule {
    cells: [AtomicU64; 3],
    ids: AtomicU64,
}

const _: () = assert!(size_of::<Granule>() == 32);

impl Granule {
    /// An empty granule.
    pub const fn new() -> Granule {
        Granule { cells: [const { AtomicU64::new(0) }; 3], ids: AtomicU64::new(0) }
    }

    /// The first word: a cell, or a tag.
    #[inline(always)]
    pub fn head(&self) -> &AtomicU64 {
        &self.cells[0]
    }

    /// Index of the granule's sync object, where it has one.
    #[inline(always)]
    pub fn object(&self) -> Option<u32> {
        let head = self.head().load(Ordering::Acquire);
        (head & SYNC_TAG != 0).then_some(head as u32)
    }

    /// Whether all words are zero.
    #[inline(always)]
    pub fn is_clean(&self) -> bool {
        let mut bits = self.ids.load(Ordering::Relaxed);
        for cell in &self.cells {
            bits |= cell.load(Ordering::Relaxed);
        }
        bits == 0
    }

    /// Forgets accesses to the given bytes where the granule has no sync object; gives the object's index where it has.
    pub fn clean(&self, mask: u8) -> Option<u32> {
        if self.is_clean() {
            return None;
        }
        let mut head = self.head().load(Ordering::Relaxed);
        // Bounded: each failure means that another thread accessed memory that is changing its owner.
        for _ in 0..64 {
            if head & SYNC_TAG != 0 {
                return Some(head as u32);
            }
            let new = Cell(head).without(mask).0;
            match self.head().compare_exchange(head, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        for cell in [&self.cells[1], &self.cells[2]] {
            cell.store(Cell(cell.load(Ordering::Relaxed)).without(mask).0, Ordering::Relaxed);
        }
        if mask == 0xff {
            self.ids.store(0, Ordering::Relaxed);
        }
        None
    }

    /// Whether no cell holds an access, in a granule without a sync object.
    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|cell| cell.is_empty())
    }

    /// Zeroes all words but the first.
    pub fn clean_tail(&self) {
        self.cells[1].store(0, Ordering::Relaxed);
        self.cells[2].store(0, Ordering::Relaxed);
        self.ids.store(0, Ordering::Relaxed);
    }

    /// Takes over the cells of another granule, whose first word was read as `head`.
    pub fn copy_from(&self, other: &Granule, head: u64) {
        self.cells[0].store(head & !SYNC_TAG, Ordering::Relaxed);
        self.cells[1].store(other.cells[1].load(Ordering::Relaxed), Ordering::Relaxed);
        self.cells[2].store(other.cells[2].load(Ordering::Relaxed), Ordering::Relaxed);
        self.ids.store(other.ids.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Forgets accesses to the given bytes; only for a granule that no other thread uses.
    pub fn forget(&self, mask: u8) {
        for cell in &self.cells {
            cell.store(Cell(cell.load(Ordering::Relaxed)).without(mask).0, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn words(&self) -> Words {
        [
            Cell(self.cells[0].load(Ordering::Relaxed)),
            Cell(self.cells[1].load(Ordering::Relaxed)),
            Cell(self.cells[2].load(Ordering::Relaxed)),
        ]
    }

    /// Who made the access in the given word.
    pub fn id(&self, word: usize) -> AccessId {
        AccessId::new(Ids::get(self.ids.load(Ordering::Relaxed), word) as u32)
    }

    /// Whether the access at hand conflicts with the cell in the given word.
    #[inline(always)]
    fn is_race(by: &Accessor<'_>, words: &Words, word: usize, mask: u8, kind: Kind) -> bool {
        let cell = pick(words, word);
        let reads = word == 1 || (word == 2 && cell.is_read());
        cell.mask() & mask != 0 && (kind.writes() || !reads) && !by.is_ordered(cell)
    }

    /// The conflict with the cell in the given word, told as exactly as the granule knows.
    #[cold]
    #[inline(never)]
    fn conflict(&self, current: Cell, words: &Words, word: usize) -> Conflict {
        let cell = pick(words, word);
        let reads = word == 1 || (word == 2 && cell.is_read());
        let mut overlap = cell.mask() & current.mask();
        let (mut id, mut id_word) = (self.id(word), word);
        let mut inexact = self.ids.load(Ordering::Relaxed) & INEXACT != 0;
        // A summary's id is that of its last access; the third word, where it is part of one, is exact.
        let third = words[2];
        let summary = pick(words, usize::from(third.is_read()));
        let exact = third.same_owner(summary) && third.mask() & !summary.mask() == 0;
        if exact && third.same_owner(cell) && third.is_read() == reads && third.mask() & overlap != 0 {
            overlap &= third.mask();
            (id, id_word) = (self.id(2), 2);
            inexact = false;
        }
        Conflict {
            current,
            previous: cell,
            previous_reads: reads,
            previous_id: id,
            previous_word: id_word as u8,
            inexact,
            overlap,
        }
    }

    #[inline(always)]
    fn find_race(&self, by: &Accessor<'_>, words: &Words, mask: u8, kind: Kind) -> Option<Conflict> {
        for word in [0, 2, 1] {
            if Granule::is_race(by, words, word, mask, kind) {
                return Some(self.conflict(by.key.with_mask(mask), words, word));
            }
        }
        None
    }

    /// Checks one access to the bytes `mask` and stores it. `id` gives the same answer each time, and is not called where
    /// the access is covered already. `stored` is set where a cell of the thread's present epoch was stored.
    #[inline(always)]
    pub fn check(
        &self,
        by: &Accessor<'_>,
        mask: u8,
        kind: Kind,
        mut id: impl FnMut() -> AccessId,
        stored: &mut bool,
    ) -> Checked {
        if kind != Kind::Free {
            match self.check_common(by, mask, kind.writes(), &mut id, stored) {
                Common::Checked(checked) => return checked,
                // The general way asks again, and gets the same answer.
                Common::Other => {}
            }
        }
        self.check_slow(by, mask, kind, &mut id, stored)
    }

    /// The general way.
    #[cold]
    #[inline(never)]
    fn check_slow(
        &self,
        by: &Accessor<'_>,
        mask: u8,
        kind: Kind,
        id: &mut impl FnMut() -> AccessId,
        stored: &mut bool,
    ) -> Checked {
        let words = self.words();
        if words[0].0 & SYNC_TAG != 0 {
            return Checked::Tagged(words[0].0 as u32);
        }
        if kind != Kind::Free && by.covers(words[0], mask) || kind == Kind::Read && by.covers(words[1], mask) {
            return Checked::Done;
        }
        // A concurrent reader beside another one keeps what it has, without storing again.
        if kind == Kind::Read
            && by.covers(words[2], mask)
            && !by.is_ordered(words[1])
            && self.find_race(by, &words, mask, kind).is_none()
        {
            return Checked::Done;
        }
        let id = id().number() as u64;
        // Finding the id may have taken long (a page of the recording comes into use); another thread may have been here.
        let words = self.words();
        if words[0].0 & SYNC_TAG != 0 {
            return Checked::Tagged(words[0].0 as u32);
        }
        let race = self.find_race(by, &words, mask, kind);
        let raced = self.store(by, words, mask, kind, id, stored);
        match (race, raced) {
            (_, Stored::Tagged(object)) => Checked::Tagged(object),
            (Some(conflict), _) | (None, Stored::Race(conflict)) => Checked::Race(conflict),
            (None, Stored::Done) => Checked::Done,
        }
    }

    #[inline(always)]
    fn store(&self, by: &Accessor<'_>, seen: Words, mask: u8, kind: Kind, id: u64, stored: &mut bool) -> Stored {
        let [w, r, x] = seen;
        let ids = self.ids.load(Ordering::Relaxed);
        let new = by.key.with_mask(mask);
        if (w.0 | r.0 | x.0) == 0 {
            // The commonest case: fresh memory.
            let word = usize::from(kind == Kind::Read);
            let new = if kind == Kind::Free { Cell(new.0 | FREED) } else { new };
            let ids = Ids { value: id << (AccessId::BITS * word as u32), changed: Ids::of(word) | INEXACT };
            return self.put(by, [w, r, x], word, new, ids, mask, kind, stored);
        }
        if kind == Kind::Free {
            self.cells[1].store(0, Ordering::Relaxed);
            self.cells[2].store(0, Ordering::Relaxed);
            let ids = Ids { value: id, changed: u64::MAX };
            return self.put(by, [w, Cell::EMPTY, Cell::EMPTY], 0, Cell(new.0 | FREED), ids, mask, kind, stored);
        }
        let writes = kind.writes();
        let word = usize::from(!writes);
        let old = pick(&seen, word);

        // What the new access supersedes in the third word.
        let mut third = x;
        let mut third_id = (ids >> (2 * AccessId::BITS)) & 0x1f_ffff;
        let third_ordered = x.is_empty() || by.is_ordered(x);
        if third_ordered && (writes || x.is_read()) {
            third = x.without(mask);
        }
        // And in the read cell, where a write supersedes it.
        if writes && !r.is_empty() && r.mask() & mask != 0 && by.is_ordered(r) {
            self.cells[1].store(r.without(mask).0, Ordering::Relaxed);
        }

        let mut primary = new;
        let mut inexact = ids & INEXACT != 0;
        let old_id = (ids >> (AccessId::BITS * word as u32)) & 0x1f_ffff;
        let old_ordered = old.is_empty() || by.is_ordered(old);
        // What is left of the word's old cell.
        let left = if old_ordered || writes { old.without(mask) } else { old };
        if !left.is_empty() {
            let left = left.marked_read(!writes);
            if left.same_owner(new) {
                let repeat = x.same_owner(new) && x.is_read() != writes && x.mask() & mask != 0;
                if old_id == id {
                    primary = new.with_mask(mask | left.mask());
                } else if repeat {
                    // The word's cell becomes a summary, for the inline check; the third word stays exact.
                    primary = new.with_mask(mask | left.mask());
                    inexact = true;
                    third = x;
                } else if third.is_empty() || (third_ordered && !third.same_owner(new)) {
                    (third, third_id) = (left, old_id);
                } else {
                    primary = new.with_mask(mask | left.mask());
                    inexact = true;
                }
            } else if third.is_empty() {
                (third, third_id) = (left, old_id);
            } else if third.same_owner(left) && third.is_read() == left.is_read() && third_id == old_id {
                third = third.with_mask(third.mask() | left.mask());
            } else {
                let rank = |ordered: bool, cell: Cell| 2 * u8::from(!ordered) + u8::from(!cell.is_read());
                let (left_rank, third_rank) = (rank(old_ordered, left), rank(third_ordered, third));
                let coin = by.random & 3;
                if !writes && left_rank == 2 && third_rank >= 2 && coin < 2 {
                    // Three concurrent accesses for two words: the new read is the one to go.
                    return Stored::Done;
                }
                if left_rank > third_rank || (left_rank == third_rank && coin & 1 == 0) {
                    (third, third_id) = (left, old_id);
                }
            }
        }
        if third != x {
            self.cells[2].store(third.0, Ordering::Relaxed);
        }
        let mut value = (id << (AccessId::BITS * word as u32)) | (third_id << (2 * AccessId::BITS));
        if inexact && !(primary.mask() == mask && pick(&seen, 1 - word).is_empty() && third.is_empty()) {
            value |= INEXACT;
        }
        let expected = [w, Cell(self.cells[1].load(Ordering::Relaxed)), third];
        let third_changed = if third == x { 0 } else { Ids::of(2) };
        let ids = Ids { value, changed: Ids::of(word) | third_changed | INEXACT };
        self.put(by, expected, word, primary, ids, mask, kind, stored)
    }

    /// Stores the cell of one word and what changes of the ids, and looks at the other words again: two accesses at the same
    /// moment do not miss each other.
    ///
    /// The ids come after the cell, so that an access that comes too late for the first word finds the other's id there still.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn put(
        &self,
        by: &Accessor<'_>,
        expected: Words,
        word: usize,
        cell: Cell,
        ids: Ids,
        mask: u8,
        kind: Kind,
        stored: &mut bool,
    ) -> Stored {
        *stored = true;
        if word == 0 {
            if self.cells[0].compare_exchange(expected[0].0, cell.0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return self.put_head_slow(by, cell, ids, mask, kind);
            }
        } else {
            self.cells[1].swap(cell.0, Ordering::SeqCst);
        }
        self.set_ids(ids);
        let now = self.words();
        let others_same = if word == 0 { now[1] == expected[1] } else { now[0] == expected[0] };
        if others_same && now[2] == expected[2] {
            return Stored::Done;
        }
        self.recheck(by, &now, mask, kind)
    }

    /// Changes some ids. No instruction that locks: an id stored between the load and the store is lost (a lost stack).
    #[inline(always)]
    fn set_ids(&self, ids: Ids) {
        let now = self.ids.load(Ordering::Relaxed);
        self.ids.store((now & !ids.changed) | (ids.value & ids.changed), Ordering::Relaxed);
    }

    /// The first word changed under the access: tries again, bounded; gives way to a tag.
    #[cold]
    #[inline(never)]
    fn put_head_slow(&self, by: &Accessor<'_>, cell: Cell, ids: Ids, mask: u8, kind: Kind) -> Stored {
        let mut raced = Stored::Done;
        for _ in 0..16 {
            let now = self.words();
            match self.recheck(by, &now, mask, kind) {
                Stored::Done => {}
                Stored::Tagged(object) => return Stored::Tagged(object),
                Stored::Race(conflict) => raced = Stored::Race(conflict),
            }
            if self.cells[0].compare_exchange(now[0].0, cell.0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                self.set_ids(ids);
                break;
            }
        }
        raced
    }

    #[cold]
    #[inline(never)]
    fn recheck(&self, by: &Accessor<'_>, now: &Words, mask: u8, kind: Kind) -> Stored {
        if now[0].0 & SYNC_TAG != 0 {
            // The object has the cells now; the inline check must not match on what was stored here since.
            self.clean_tail();
            return Stored::Tagged(now[0].0 as u32);
        }
        self.find_race(by, now, mask, kind).map_or(Stored::Done, Stored::Race)
    }

    /// Says who made the access of the first word, in a granule whose other words are zero.
    pub fn set_first_id(&self, id: AccessId) {
        self.ids.store(u64::from(id.number()), Ordering::Relaxed);
    }

    /// The cells, for tests and dumps.
    pub fn dump(&self) -> [Cell; 3] {
        self.words()
    }
}

/// What came of storing a cell.
enum Stored {
    Done,
    Tagged(u32),
    Race(Conflict),
}
