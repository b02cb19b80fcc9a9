//! Findings: one row for each pair of places, further occurrences are counted.

use super::{blocks, memory};
use crate::apply::plan;
use crate::record::{self, table};
use crate::rt::lock::SpinLock;
use crate::rt::syscall;
use crate::thread::{ThreadState, registry};
use conprof_detect::{AccessId, Conflict, Kind};
use conprof_wire::recording::{
    AccessRow, CONFIG_REPORT_BENIGN, Counter, FindingKind, FindingRow, NO_SITE, SideRow, Table,
};
use conprof_wire::site::SiteFlags;
use core::sync::atomic::Ordering;

/// Pairs of places that are told apart; further ones are counted with the table's dropped rows.
const PAIRS: usize = 8192;
/// Places looked at for a pair.
const PROBES: usize = 64;

/// Times that an id which can't be the earlier access's is read again.
const ID_SPINS: u32 = 100;

/// [`SideRow::flags`]: the access writes.
const WRITE: u32 = 1;
/// [`SideRow::flags`]: the access frees.
const FREE: u32 = 4;
/// [`SideRow::flags`]: the access row is that of an access of the same thread to bytes nearby, in the same section.
const NEIGHBOUR: u32 = 8;
/// [`FindingRow::flags`]: a synchronising operation may have been missed.
const SYNC_MISSED: u32 = 1;

#[derive(Clone, Copy)]
struct Pair {
    key: u64,
    /// Row of the finding plus 1.
    row: u32,
}

static KNOWN: SpinLock<[Pair; PAIRS]> = SpinLock::new([Pair { key: 0, row: 0 }; PAIRS]);

/// A race between the thread's access at hand and an earlier one.
#[cold]
#[inline(never)]
pub fn race(state: &mut ThreadState, id: AccessId, conflict: &Conflict, granule: usize, mask: u8, kind: Kind) {
    let current = access_row(id);
    let previous_id = earlier_id(conflict, granule);
    let previous = access_row(previous_id).filter(|row| is_of(row, conflict));
    let benign = |row: &Option<AccessRow>| {
        row.is_some_and(|row| row.site != NO_SITE && plan::site(row.site).flags().has(SiteFlags::BENIGN))
    };
    if (benign(&current) || benign(&previous)) && record::config() & CONFIG_REPORT_BENIGN == 0 {
        record::count(Counter::Benign);
        return;
    }
    let key = pair_key(place_key(current), place_key(previous));
    let mut known = KNOWN.lock();
    let start = key as usize % PAIRS;
    let mut free = None;
    for probe in 0..PROBES {
        let index = (start + probe) % PAIRS;
        let Some(pair) = known.get(index) else { break };
        if pair.row == 0 {
            free = Some(index);
            break;
        }
        if pair.key == key {
            let row = pair.row - 1;
            drop(known);
            record::finding_again(row);
            return;
        }
    }
    let Some(free) = free else { return };
    let place = |name: Option<AccessRow>, id: AccessId| if name.is_some() { id.number() } else { 0 };
    let overlap = granule as u64 + u64::from(conflict.overlap.trailing_zeros());
    let side = |thread: u32, access: u32, mask: u8, flags: u32, epoch: u64| SideRow {
        thread,
        access,
        address: granule as u64 + u64::from(mask.trailing_zeros()),
        size: 8 - mask.leading_zeros() - mask.trailing_zeros(),
        flags,
        epoch,
    };
    let detector = memory::detector();
    let mut current_flags = 0;
    if kind.writes() {
        current_flags |= WRITE;
    }
    if kind == Kind::Free {
        current_flags |= FREE;
    }
    let mut previous_flags = 0;
    if !conflict.previous_reads {
        previous_flags |= WRITE;
    }
    if conflict.previous.is_freed() {
        previous_flags |= FREE;
    }
    if conflict.inexact {
        previous_flags |= NEIGHBOUR;
    }
    let block = blocks::find(overlap as usize);
    let lost = detector.counts.lost.load(Ordering::Relaxed) != 0;
    let row = FindingRow {
        kind: FindingKind::DataRace as u32,
        flags: if lost { SYNC_MISSED } else { 0 },
        count: 1,
        time_ns: record::time_ns(),
        address: overlap,
        current: side(state.serial, place(current, id), mask, current_flags, conflict.current.epoch().0),
        previous: side(
            detector.owner_of(conflict.previous),
            place(previous, previous_id),
            conflict.previous.mask(),
            previous_flags,
            conflict.previous.epoch().0,
        ),
        block: block.map_or(0, |block| block.start),
        block_size: block.map_or(0, |block| block.size),
        block_node: block.map_or(0, |block| block.node),
        block_thread: block.map_or(u32::MAX, |block| block.thread),
        stack_thread: if block.is_some() { u32::MAX } else { stack_owner(overlap) },
        reserved: 0,
    };
    record::thread_name(state.serial, &syscall::thread_name());
    if let Some(index) = record::finding(&row)
        && let Some(pair) = known.get_mut(free)
    {
        *pair = Pair { key, row: index + 1 };
    }
}

/// The id of the earlier access. It is stored just after its cell, so it may have to be waited for.
fn earlier_id(conflict: &Conflict, granule: usize) -> AccessId {
    let is_right = |id: AccessId| access_row(id).is_some_and(|row| is_of(&row, conflict));
    let mut id = conflict.previous_id;
    for _ in 0..ID_SPINS {
        if is_right(id) {
            return id;
        }
        core::hint::spin_loop();
        id = memory::detector().granule(granule).id(usize::from(conflict.previous_word));
    }
    conflict.previous_id
}

fn access_row(id: AccessId) -> Option<AccessRow> {
    if id == AccessId::LOST {
        return None;
    }
    // SAFETY: the row was published before its id was used, and does not change.
    table::row::<AccessRow>(Table::Accesses, id.number()).map(|row| unsafe { *row })
}

/// Whether a row can be that of the earlier access. Cells and ids are updated one after the other without a lock, so an id
/// may be that of another access by the time it is read.
fn is_of(row: &AccessRow, conflict: &Conflict) -> bool {
    if usize::from(row.slot) != conflict.previous.slot().index() {
        return false;
    }
    if row.site == NO_SITE {
        return true;
    }
    let class = plan::site(row.site).class();
    if conflict.previous_reads { class.reads() } else { class.writes() }
}

/// What makes two accesses the same place: the site, or the function that was called and the stack that called it.
fn place_key(row: Option<AccessRow>) -> u64 {
    match row {
        None => 1,
        Some(row) if row.site == NO_SITE => 1 << 63 | u64::from(row.interposed) << 32 | u64::from(row.node),
        Some(row) => 1 << 62 | u64::from(row.site),
    }
}

fn pair_key(one: u64, other: u64) -> u64 {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    let mixed = (low.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// Serial of the thread whose stack an address is on.
fn stack_owner(address: u64) -> u32 {
    let found = registry::lock().find_live(|state| {
        let [low, len, _] = state.own_stack;
        address.wrapping_sub(low) < len
    });
    // SAFETY: states are never unmapped.
    found.map_or(u32::MAX, |state| unsafe { (*state).serial })
}
