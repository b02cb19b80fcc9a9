//! Lock instances by address.
//!
//! Open addressing over indices of [`LockRow`]s, hashed by granule, so that all locks of a block can be found when it is
//! freed. A row whose lock is gone keeps its slot until a lock of the same granule needs one; its index is given out again
//! unless the order log names it.

use crate::record::{self, table as rows};
use crate::rt::arena;
use crate::rt::lock::SpinLock;
use conprof_wire::locks::{LOCK_REFERENCED, LOCK_UNSURE, LockRow, RECEIVER_SPAWNS, SEVERAL_RECEIVERS, Type};
use conprof_wire::recording::{Counter, Table};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(super) static SLOTS: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());
pub(super) static MASK: AtomicUsize = AtomicUsize::new(0);
/// A bit for each page, by hash, that may have a lock.
static PAGES: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// An address's page times this is hashed to its bits from [`HASH_SHIFT`] on.
pub(super) const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
pub(super) const HASH_SHIFT: u32 = 24;
/// Bits of [`PAGES`].
const PAGE_BITS: usize = 1 << 20;
/// Slots looked at before a lock counts as not there.
const PROBES: usize = 64;
/// Indices that wait to be used again.
const FREE: usize = 4096;
/// Above this length a freed range is compared with every lock instead of every granule with the locks.
const LONG_BYTES: usize = 1 << 20;

struct Free {
    indices: [u32; FREE],
    len: usize,
}

static FREE_ROWS: SpinLock<Free> = SpinLock::new(Free { indices: [0; FREE], len: 0 });

pub(super) fn init() -> bool {
    let capacity = rows::capacity(Table::Locks) as usize;
    let slots = (capacity * 2).next_power_of_two().max(PROBES);
    let (Some(slots_memory), Some(pages)) = (arena::pages(slots * size_of::<AtomicU32>()), arena::pages(PAGE_BITS / 8))
    else {
        return false;
    };
    MASK.store(slots - 1, Ordering::Relaxed);
    PAGES.store(pages as *mut AtomicU64, Ordering::Relaxed);
    SLOTS.store(slots_memory as *mut AtomicU32, Ordering::Relaxed);
    true
}

/// The first slot of an address: those of a page lie together, in an order of their own.
fn slot(address: usize, probe: usize) -> Option<&'static AtomicU32> {
    let slots = SLOTS.load(Ordering::Relaxed);
    if slots.is_null() {
        return None;
    }
    let page = ((address as u64 >> 12).wrapping_mul(HASH_FACTOR) >> HASH_SHIFT) as usize;
    let first = page << 9 | address >> 3 & 511;
    // SAFETY: the index is masked to the slots, which are never unmapped.
    Some(unsafe { &*slots.add(first.wrapping_add(probe) & MASK.load(Ordering::Relaxed)) })
}

pub(super) fn row(index: u32) -> Option<*mut LockRow> {
    rows::row::<LockRow>(Table::Locks, index)
}

fn address_of(index: u32) -> u64 {
    // SAFETY: the row is in the mapping; the field is accessed atomically by both sides.
    row(index).map_or(0, |row| unsafe { AtomicU64::from_ptr(&raw mut (*row).address).load(Ordering::Relaxed) })
}

fn field(index: u32, pick: impl Fn(*mut LockRow) -> *mut u32) -> Option<&'static AtomicU32> {
    // SAFETY: as in `address_of`.
    row(index).map(|row| unsafe { AtomicU32::from_ptr(pick(row)) })
}

fn is_gone(index: u32) -> bool {
    // SAFETY: `field` passes a row of the mapping.
    field(index, |row| unsafe { &raw mut (*row).gone }).is_none_or(|gone| gone.load(Ordering::Relaxed) != 0)
}

/// The row of the lock at an address.
pub(super) fn find(address: usize) -> Option<u32> {
    for probe in 0..PROBES {
        // Acquire: pairs with the release in `find_or_add`; the row is whole.
        match slot(address, probe)?.load(Ordering::Acquire) {
            0 => return None,
            index if address_of(index) == address as u64 && !is_gone(index) => return Some(index),
            _ => {}
        }
    }
    None
}

/// The row of the lock at an address, new where there is none. `None` (counted) where there is no room.
pub(super) fn find_or_add(address: usize, lock: Type, access: u32) -> Option<u32> {
    if let Some(index) = find(address) {
        return Some(index);
    }
    let new = LockRow { sample_below: super::contention::SAMPLE, ..LockRow::new(address as u64, lock, access) };
    let index = add_row(&new)?;
    if lock != Type::Task {
        record::count(Counter::LocksSeen);
    }
    note_page(address);
    for probe in 0..PROBES {
        let slot = slot(address, probe)?;
        // Acquire: as in `find`.
        let mut there = slot.load(Ordering::Acquire);
        while there == 0 || is_gone(there) {
            // Release: pairs with the acquire in `find`.
            match slot.compare_exchange(there, index, Ordering::Release, Ordering::Acquire) {
                // Where two threads were led to different slots, both go by the first.
                Ok(_) => return find(address),
                // It may be another thread's row of the same lock.
                Err(other) => there = other,
            }
        }
        if address_of(there) == address as u64 {
            // Another thread was first; ours stays unused.
            return Some(there);
        }
    }
    record::count(Counter::LocksLost);
    None
}

fn add_row(new: &LockRow) -> Option<u32> {
    let mut free = FREE_ROWS.lock();
    if free.len > 0 {
        free.len -= 1;
        let index = free.indices.get(free.len).copied()?;
        drop(free);
        // SAFETY: the row is in the mapping and nobody's.
        row(index).map(|row| unsafe { row.write_volatile(*new) });
        return Some(index);
    }
    drop(free);
    let index = rows::append(Table::Locks, new);
    if index.is_none() {
        record::count(Counter::LocksLost);
    }
    index
}

/// The order log names the lock: its index is never given out again.
pub(super) fn reference(index: u32) {
    // SAFETY: `field` passes a row of the mapping.
    if let Some(lock_type) = field(index, |row| unsafe { &raw mut (*row).lock_type }) {
        lock_type.fetch_or(LOCK_REFERENCED, Ordering::Relaxed);
    }
}

/// Who holds the lock is not known for sure any more.
pub(super) fn mark_unsure(index: u32) {
    // SAFETY: `field` passes a row of the mapping.
    if let Some(lock_type) = field(index, |row| unsafe { &raw mut (*row).lock_type }) {
        lock_type.fetch_or(LOCK_UNSURE, Ordering::Relaxed);
    }
}

/// The type of a lock.
pub(super) fn lock_type(index: u32) -> Type {
    // SAFETY: `field` passes a row of the mapping.
    let number = field(index, |row| unsafe { &raw mut (*row).lock_type });
    number.map_or(Type::Unknown, |number| Type::from_u8(number.load(Ordering::Relaxed) as u8))
}

/// The row of the task that gives back what others take of the lock, with [`SEVERAL_RECEIVERS`]; 0 where none does.
pub(super) fn receiver(index: u32) -> u64 {
    // SAFETY: as in `address_of`.
    row(index).map_or(0, |row| unsafe { AtomicU64::from_ptr(&raw mut (*row).users).load(Ordering::Relaxed) })
}

/// A task, as [`receiver_of`](conprof_wire::locks::receiver_of) has it, has given back permits that another took.
pub(super) fn note_receiver(index: u32, task: u64) {
    let Some(row) = row(index) else { return };
    // SAFETY: as in `address_of`.
    let receiver = unsafe { AtomicU64::from_ptr(&raw mut (*row).users) };
    match receiver.load(Ordering::Relaxed) {
        0 => receiver.store(task, Ordering::Relaxed),
        known if known & !RECEIVER_SPAWNS == task & !RECEIVER_SPAWNS => receiver.store(task, Ordering::Relaxed),
        known => receiver.store(known | SEVERAL_RECEIVERS, Ordering::Relaxed),
    }
}

/// Acquisitions of the lock.
pub(super) fn acquisitions(index: u32) -> Option<&'static AtomicU64> {
    // SAFETY: as in `address_of`.
    row(index).map(|row| unsafe { AtomicU64::from_ptr(&raw mut (*row).acquisitions) })
}

/// Which acquisitions of the lock are measured.
pub(super) fn sample_below(index: u32) -> Option<&'static AtomicU32> {
    // SAFETY: `field` passes a row of the mapping.
    field(index, |row| unsafe { &raw mut (*row).sample_below })
}

/// Lets acquisitions and releases of the lock take the short way, or not.
pub(super) fn set_quiet(index: u32, quiet: bool) {
    // SAFETY: `field` passes a row of the mapping.
    if let Some(field) = field(index, |row| unsafe { &raw mut (*row).quiet })
        && field.load(Ordering::Relaxed) != u32::from(quiet)
    {
        field.store(u32::from(quiet), Ordering::Relaxed);
    }
}

/// The serial, plus 1, of the thread that holds the lock alone; 0 where none does.
pub(super) fn owner(index: u32) -> u32 {
    // SAFETY: `field` passes a row of the mapping.
    field(index, |row| unsafe { &raw mut (*row).owner }).map_or(0, |owner| owner.load(Ordering::Relaxed))
}

/// Notes who holds the lock alone.
pub(super) fn set_owner(index: u32, owner: u32) {
    // SAFETY: `field` passes a row of the mapping.
    if let Some(field) = field(index, |row| unsafe { &raw mut (*row).owner }) {
        field.store(owner, Ordering::Relaxed);
    }
}

/// Notes how many permits there were of a lock; how many at most so far.
pub(super) fn note_permits(index: u32, count: u64) -> u32 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    // SAFETY: `field` passes a row of the mapping.
    let most = field(index, |row| unsafe { &raw mut (*row).owner });
    most.map_or(0, |most| {
        if most.load(Ordering::Relaxed) < count {
            most.fetch_max(count, Ordering::Relaxed).max(count)
        } else {
            most.load(Ordering::Relaxed)
        }
    })
}

/// Notes that a thread has used the lock.
pub(super) fn note_user(index: u32, serial: u32) {
    let bit = 1u64 << (serial % 64);
    if let Some(row) = row(index) {
        // SAFETY: as in `address_of`.
        let users = unsafe { AtomicU64::from_ptr(&raw mut (*row).users) };
        if users.load(Ordering::Relaxed) & bit == 0 {
            users.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

fn page_bit(address: usize) -> Option<(&'static AtomicU64, u64)> {
    let pages = PAGES.load(Ordering::Relaxed);
    if pages.is_null() {
        return None;
    }
    let bit = ((address >> 12) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 44;
    // SAFETY: the bit is below PAGE_BITS.
    Some((unsafe { &*pages.add(bit / 64) }, 1 << (bit % 64)))
}

fn note_page(address: usize) {
    if let Some((word, bit)) = page_bit(address) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

fn may_have_locks(page: usize) -> bool {
    page_bit(page).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// The lock at an address is gone.
pub(super) fn gone(address: usize) {
    if let Some(index) = find(address) {
        end(index);
    }
}

fn end(index: u32) {
    if lock_type(index) != Type::TokioPermits {
        set_owner(index, 0);
    }
    super::contention::gone(index);
    // SAFETY: `field` passes a row of the mapping.
    let (Some(gone), Some(lock_type)) = (
        field(index, |row| unsafe { &raw mut (*row).gone }),
        // SAFETY: as above.
        field(index, |row| unsafe { &raw mut (*row).lock_type }),
    ) else {
        return;
    };
    if gone.swap(1, Ordering::Relaxed) != 0 {
        return;
    }
    let number = lock_type.load(Ordering::Relaxed);
    if number as u8 == Type::Task as u8 {
        super::task::gone(index);
    }
    if lock_type.load(Ordering::Relaxed) & LOCK_REFERENCED == 0 {
        let mut free = FREE_ROWS.lock();
        let len = free.len;
        if let Some(place) = free.indices.get_mut(len) {
            *place = index;
            free.len += 1;
        }
    }
}

/// The locks in [`start`, `start` + `len`) are gone.
pub(super) fn freed(start: usize, len: usize) {
    if len == 0 || SLOTS.load(Ordering::Relaxed).is_null() {
        return;
    }
    let end_address = start.saturating_add(len);
    if len > LONG_BYTES {
        for index in 1..rows::count(Table::Locks) {
            let address = address_of(index) as usize;
            if (start..end_address).contains(&address) && !is_gone(index) {
                end(index);
            }
        }
        return;
    }
    let mut at = start;
    while at < end_address {
        let page_end = ((at & !0xfff) + 0x1000).min(end_address);
        if may_have_locks(at) {
            let mut granule = at & !7;
            while granule < page_end {
                end_granule(granule, start, end_address);
                granule += 8;
            }
        }
        at = page_end;
    }
}

fn end_granule(granule: usize, start: usize, end_address: usize) {
    for probe in 0..PROBES {
        let Some(slot) = slot(granule, probe) else { return };
        let index = slot.load(Ordering::Acquire);
        if index == 0 {
            return;
        }
        let address = address_of(index) as usize;
        if address & !7 == granule && (start..end_address).contains(&address) && !is_gone(index) {
            end(index);
        }
    }
}
