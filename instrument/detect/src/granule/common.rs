//! The common cases of a check, in few instructions: granules whose cells the access at hand covers or supersedes, and rows of
//! whole granules that are read.
//!
//! What they store is what the general way of the parent module stores, which the tests hold them to on random accesses.

use core::sync::atomic::{Ordering, fence};

use super::super::cell::{AccessId, Cell, SYNC_TAG};
use super::{Accessor, Checked, Granule, INEXACT, Ids, Kind, Stored, Words};

/// The result of [`Granule::check_common`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    /// Checked and stored.
    Checked(Checked),
    /// Not one of the common cases; nothing was done.
    Other,
}

impl From<Stored> for Common {
    #[inline(always)]
    fn from(stored: Stored) -> Common {
        Common::Checked(match stored {
            Stored::Done => Checked::Done,
            Stored::Tagged(object) => Checked::Tagged(object),
            Stored::Race(conflict) => Checked::Race(conflict),
        })
    }
}

/// What came of the first half of a read.
enum Reading {
    /// Covered; nothing was done.
    Done,
    /// Not a common case; nothing was done.
    Other,
    /// All but `cell`, for the second word, is stored.
    Stored { cell: Cell, third: Cell, ids: Ids },
}

/// Granules at most that [`Granule::read_row`] takes at once.
pub const READ_ROW: usize = 8;

impl Granule {
    /// [`check`](Granule::check) for granules whose cells are all the thread's own or happened before, and leave
    /// nothing of theirs beside the new access but what a word has room for. Says `Other` where that isn't so,
    /// and nothing was done then. The result is that of the general way, but for what it leaves to a coin: `Accessor::contend`
    /// decides that.
    #[inline(always)]
    pub fn check_common(
        &self,
        by: &Accessor<'_>,
        mask: u8,
        writes: bool,
        id: impl FnOnce() -> AccessId,
        stored: &mut bool,
    ) -> Common {
        let [w, r, x] = self.words();
        if w.0 & SYNC_TAG != 0 {
            return Common::Other;
        }
        if by.covers(w, mask) || !writes && by.covers(r, mask) {
            return Common::Checked(Checked::Done);
        }
        if w.0 != 0 && !by.is_ordered(w) {
            return Common::Other;
        }
        if writes {
            return self.write_common(by, [w, r, x], mask, id, stored);
        }
        match self.read_common(by, [w, r, x], mask, id, stored) {
            Reading::Done => Common::Checked(Checked::Done),
            Reading::Other => Common::Other,
            Reading::Stored { cell, third, ids } => {
                self.cells[1].swap(cell.0, Ordering::SeqCst);
                self.set_ids(ids);
                if self.is_still(w, third) {
                    return Common::Checked(Checked::Done);
                }
                self.recheck(by, &self.words(), mask, Kind::Read).into()
            }
        }
    }

    /// The common cases of a write that no cell covers, where the first word is ordered.
    #[inline(always)]
    fn write_common(
        &self,
        by: &Accessor<'_>,
        [w, r, x]: Words,
        mask: u8,
        id: impl FnOnce() -> AccessId,
        stored: &mut bool,
    ) -> Common {
        if r.0 != 0 && !by.is_ordered(r) || x.0 != 0 && !by.is_ordered(x) {
            return Common::Other;
        }
        let left = w.without(mask);
        let mut third = x.without(mask);
        let same_section = left.0 != 0 && w.same_owner(by.key);
        let id = u64::from(id().number());
        if self.words() != [w, r, x] {
            // Finding the id may take long.
            return Common::Other;
        }
        let mut ids = Ids { value: id, changed: Ids::of(0) };
        let mut cell = by.key.with_mask(mask);
        if left.0 != 0 {
            let known = self.ids.load(Ordering::Relaxed);
            let old_id = Ids::get(known, 0);
            if same_section && old_id == id {
                cell = cell.with_mask(mask | left.mask());
            } else if same_section && x.0 != 0 && x.same_owner(by.key) {
                // No room: the word becomes a summary under the later id; the third word, where it is part of it, stays exact.
                cell = cell.with_mask(mask | left.mask());
                ids = Ids { value: id | INEXACT, changed: Ids::of(0) | INEXACT };
                third = if x.is_read() { third } else { x };
            } else {
                let rest = (left.marked_read(false), old_id);
                let third_id;
                (third, third_id) = if same_section { rest } else { by.contend(rest, (x, Ids::get(known, 2)), mask) };
                ids = Ids { value: id | third_id << (2 * AccessId::BITS), changed: Ids::of(0) | Ids::of(2) };
            }
        }
        if cell.mask() == mask && r.0 == 0 && third.0 == 0 {
            // Nothing is left that a summary could be of.
            ids.changed |= INEXACT;
        }
        let read = r.without(mask);
        if read.0 != r.0 {
            self.cells[1].store(read.0, Ordering::Relaxed);
        }
        if third.0 != x.0 {
            self.cells[2].store(third.0, Ordering::Relaxed);
        }
        self.put(by, [w, read, third], 0, cell, ids, mask, Kind::Write, stored).into()
    }

    /// Whether the first and the third word are as given.
    #[inline(always)]
    fn is_still(&self, first: Cell, third: Cell) -> bool {
        self.cells[0].load(Ordering::Relaxed) == first.0 && self.cells[2].load(Ordering::Relaxed) == third.0
    }

    /// The common cases of a read that no cell covers, where the first word is ordered: stores all but the second word.
    #[inline(always)]
    fn read_common(
        &self,
        by: &Accessor<'_>,
        [w, r, x]: Words,
        mask: u8,
        id: impl FnOnce() -> AccessId,
        stored: &mut bool,
    ) -> Reading {
        let ids = self.ids.load(Ordering::Relaxed);
        let (old_id, third_id) = (Ids::get(ids, 1), Ids::get(ids, 2));
        let old_ordered = r.0 == 0 || by.is_ordered(r);
        let third_ordered = x.0 == 0 || by.is_ordered(x);
        if !third_ordered && !x.is_read() {
            return Reading::Other;
        }
        // What the new read leaves of the third word.
        let third_left = if third_ordered && x.is_read() { x.without(mask) } else { x };
        if r.0 & u64::from(!mask) != 0 && old_ordered {
            // Other bytes were read before.
            let id = u64::from(id().number());
            if self.words() != [w, r, x] {
                return Reading::Other;
            }
            *stored = true;
            if !r.same_owner(by.key) {
                let left = r.without(mask).marked_read(true);
                let (third, third_id) = by.contend((left, old_id), (x, third_id), mask);
                self.cells[2].store(third.0, Ordering::Relaxed);
                let value = id << AccessId::BITS | third_id << (2 * AccessId::BITS);
                let ids = Ids { value, changed: Ids::of(1) | Ids::of(2) };
                return Reading::Stored { cell: by.key.with_mask(mask), third, ids };
            }
            let cell = by.key.with_mask(mask | r.mask());
            if old_id == id {
                self.cells[2].store(third_left.0, Ordering::Relaxed);
                return Reading::Stored { cell, third: third_left, ids: Ids::NONE };
            }
            let value = id << AccessId::BITS;
            if x.0 == 0 || third_ordered && !x.same_owner(by.key) {
                let left = r.without(mask).marked_read(true);
                self.cells[2].store(left.0, Ordering::Relaxed);
                let ids = Ids { value: value | old_id << (2 * AccessId::BITS), changed: Ids::of(1) | Ids::of(2) };
                return Reading::Stored { cell: by.key.with_mask(mask), third: left, ids };
            }
            // No room: the word becomes a summary under the later id.
            let ids = Ids { value: value | INEXACT, changed: Ids::of(1) | INEXACT };
            return Reading::Stored { cell, third: x, ids };
        }
        let (mut third, mut third_id) = (third_left, third_id);
        if !old_ordered {
            if by.covers(x, mask) {
                // A concurrent reader beside another one keeps what it has, without storing again.
                return Reading::Done;
            }
            // Another reader at the same time: it moves to the third word.
            if third.0 != 0 {
                return Reading::Other;
            }
            (third, third_id) = (r.marked_read(true), old_id);
        }
        let mut value = u64::from(id().number()) << AccessId::BITS;
        if self.words() != [w, r, x] {
            // Finding the id may take long.
            return Reading::Other;
        }
        let mut changed = Ids::of(1);
        if third.0 != x.0 {
            value |= third_id << (2 * AccessId::BITS);
            changed |= Ids::of(2);
            self.cells[2].store(third.0, Ordering::Relaxed);
        }
        if w.is_empty() && third.is_empty() {
            changed |= INEXACT;
        }
        *stored = true;
        Reading::Stored { cell: by.key.with_mask(mask), third, ids: Ids { value, changed } }
    }

    /// Reads of whole granules in a row, the common cases only; says how many were done.
    ///
    /// One barrier for all stands between the stores and the second look, so that of two simultaneous accesses at least one
    /// sees the other.
    #[inline(always)]
    pub fn read_row(by: &Accessor<'_>, row: &[Granule], id: &mut impl FnMut() -> AccessId, stored: &mut bool) -> usize {
        let mut seen = [(Cell::EMPTY, Cell::EMPTY); READ_ROW];
        let mut written = 0u32;
        let mut done = 0;
        for (granule, seen) in row.iter().zip(&mut seen) {
            let [w, r, x] = granule.words();
            if w.0 & SYNC_TAG != 0 {
                break;
            }
            if !(by.covers(w, 0xff) || by.covers(r, 0xff)) {
                if w.0 != 0 && !by.is_ordered(w) {
                    break;
                }
                match granule.read_common(by, [w, r, x], 0xff, &mut *id, stored) {
                    Reading::Done => {}
                    Reading::Other => break,
                    Reading::Stored { cell, third, ids } => {
                        granule.cells[1].store(cell.0, Ordering::Relaxed);
                        granule.set_ids(ids);
                        *seen = (w, third);
                        written |= 1 << done;
                    }
                }
            }
            done += 1;
        }
        if written != 0 {
            fence(Ordering::SeqCst);
            for (index, (granule, &(w, third))) in row.iter().zip(&seen).enumerate() {
                if written & (1 << index) != 0 && !granule.is_still(w, third) {
                    // The general way looks at it again, and at what follows.
                    granule.cells[1].store(0, Ordering::Relaxed);
                    return index;
                }
            }
        }
        done
    }
}
