//! Tables of the recording: appending rows, and finding equal ones again (interning).

use crate::rt::arena;
use crate::rt::lock::SpinLock;
use conprof_wire::incident::IncidentRow;
use conprof_wire::locks::{LiveRow, LockRow, OrderRow, TaskRow};
use conprof_wire::recording::{
    AccessRow, EventRow, FindingRow, Header, LockSetRow, ModuleRow, NodeRow, SiteRow, TABLE_COUNT, Table, ThreadRow,
};
use conprof_wire::waits::{BlameTotalRow, LockFiguresRow, WaitEventRow, WaitTotalRow};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// A table as the shim knows it; the header's own copy could be changed by others and is not trusted again.
struct Place {
    rows: AtomicPtr<u8>,
    capacity: AtomicU32,
    count: AtomicPtr<u64>,
    dropped: AtomicPtr<u64>,
}

#[allow(clippy::declare_interior_mutable_const)]
const NO_PLACE: Place = Place {
    rows: AtomicPtr::new(core::ptr::null_mut()),
    capacity: AtomicU32::new(0),
    count: AtomicPtr::new(core::ptr::null_mut()),
    dropped: AtomicPtr::new(core::ptr::null_mut()),
};

static PLACES: [Place; TABLE_COUNT] = [NO_PLACE; TABLE_COUNT];

static APPEND: SpinLock<()> = SpinLock::new(());

const fn row_bytes(table: Table) -> usize {
    match table {
        Table::Threads => size_of::<ThreadRow>(),
        Table::Nodes => size_of::<NodeRow>(),
        Table::Accesses => size_of::<AccessRow>(),
        Table::LockSets => size_of::<LockSetRow>(),
        Table::Findings => size_of::<FindingRow>(),
        Table::Modules => size_of::<ModuleRow>(),
        Table::Events => size_of::<EventRow>(),
        Table::Sites => size_of::<SiteRow>(),
        Table::LockFigures => size_of::<LockFiguresRow>(),
        Table::WaitTotals => size_of::<WaitTotalRow>(),
        Table::BlameTotals => size_of::<BlameTotalRow>(),
        Table::WaitEvents => size_of::<WaitEventRow>(),
        Table::Locks => size_of::<LockRow>(),
        Table::Live => size_of::<LiveRow>(),
        Table::Orders => size_of::<OrderRow>(),
        Table::Incidents => size_of::<IncidentRow>(),
        Table::Tasks => size_of::<TaskRow>(),
    }
}

const TABLES: [Table; 16] = [
    Table::Threads,
    Table::Nodes,
    Table::Accesses,
    Table::LockSets,
    Table::Findings,
    Table::Modules,
    Table::Events,
    Table::Locks,
    Table::Live,
    Table::Orders,
    Table::LockFigures,
    Table::WaitTotals,
    Table::BlameTotals,
    Table::WaitEvents,
    Table::Incidents,
    Table::Tasks,
];

/// Learns where the tables lie; `false` where one is not inside the file.
pub(super) fn init(memory: *mut u8, len: usize) -> bool {
    let header = memory as *mut Header;
    for table in TABLES {
        // SAFETY: the header is in the mapping; a table's number is below `TABLE_COUNT`.
        let place = unsafe { &raw mut (*header).tables as *mut conprof_wire::recording::TableHeader }
            .wrapping_add(table as usize);
        // SAFETY: as above.
        let (offset, capacity) = unsafe { ((*place).offset as usize, (*place).capacity as usize) };
        let end = capacity.checked_mul(row_bytes(table)).and_then(|bytes| bytes.checked_add(offset));
        let Some(here) = PLACES.get(table as usize) else { return false };
        if end.is_none_or(|end| end > len) || capacity > u32::MAX as usize || offset % 64 != 0 {
            return false;
        }
        here.rows.store(memory.wrapping_add(offset), Ordering::Relaxed);
        here.capacity.store(capacity as u32, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            here.count.store(&raw mut (*place).count, Ordering::Relaxed);
            here.dropped.store(&raw mut (*place).dropped, Ordering::Relaxed);
        }
    }
    // Row 0 of these means "none"; they start with it.
    for table in [Table::Nodes, Table::Accesses, Table::LockSets, Table::Locks] {
        if let Some(here) = PLACES.get(table as usize)
            && here.capacity.load(Ordering::Relaxed) > 0
            && let Some(count) = count_of(here)
        {
            count.fetch_max(1, Ordering::Release);
        }
    }
    super::context::init()
}

fn count_of(place: &Place) -> Option<&'static AtomicU64> {
    let count = place.count.load(Ordering::Relaxed);
    // SAFETY: the field is in the header of the recording, which stays mapped, and is accessed atomically.
    (!count.is_null()).then(|| unsafe { AtomicU64::from_ptr(count) })
}

fn drop_row(place: &Place) {
    let dropped = place.dropped.load(Ordering::Relaxed);
    if !dropped.is_null() {
        // SAFETY: as for `count_of`.
        unsafe { AtomicU64::from_ptr(dropped).fetch_add(1, Ordering::Relaxed) };
    }
}

/// Rows of a table that are in use.
pub fn count(table: Table) -> u32 {
    let place = PLACES.get(table as usize);
    place.and_then(count_of).map_or(0, |count| count.load(Ordering::Relaxed).min(u64::from(u32::MAX)) as u32)
}

/// Counts the rows up to `index` of a table whose rows have their places by themselves.
pub fn raise_count(table: Table, index: u32) {
    if let Some(count) = PLACES.get(table as usize).and_then(count_of) {
        // Release: pairs with the reader's acquire of the count.
        count.fetch_max(u64::from(index) + 1, Ordering::Release);
    }
}

/// Rows that fit into a table.
pub fn capacity(table: Table) -> u32 {
    PLACES.get(table as usize).map_or(0, |place| place.capacity.load(Ordering::Relaxed))
}

/// A row's address, if the table has room for it.
pub fn row<T>(table: Table, index: u32) -> Option<*mut T> {
    debug_assert!(size_of::<T>() == row_bytes(table));
    let place = PLACES.get(table as usize)?;
    if index >= place.capacity.load(Ordering::Relaxed) || !super::process_is_ours() {
        return None;
    }
    let rows = place.rows.load(Ordering::Relaxed) as *mut T;
    Some(rows.wrapping_add(index as usize))
}

/// Writes a row and publishes it. `None` (counted) where there is no room.
pub fn append<T: Copy>(table: Table, value: &T) -> Option<u32> {
    let place = PLACES.get(table as usize)?;
    let count = count_of(place)?;
    let _append = APPEND.lock();
    let index = count.load(Ordering::Relaxed);
    if index >= u64::from(place.capacity.load(Ordering::Relaxed)) {
        drop_row(place);
        return None;
    }
    let address = row::<T>(table, index as u32)?;
    // SAFETY: the row is in the mapping and not published yet; the lock makes this the only writer.
    unsafe { address.write(*value) };
    // Release: pairs with the reader's acquire of the count.
    count.store(index + 1, Ordering::Release);
    Some(index as u32)
}

/// Reserves the next row of a table whose rows are committed one by one. `None` (counted) where there is no room.
pub fn reserve<T>(table: Table) -> Option<*mut T> {
    let place = PLACES.get(table as usize)?;
    let count = count_of(place)?;
    let capacity = u64::from(place.capacity.load(Ordering::Relaxed));
    if count.load(Ordering::Relaxed) >= capacity {
        drop_row(place);
        return None;
    }
    let index = count.fetch_add(1, Ordering::Relaxed);
    if index >= capacity {
        drop_row(place);
        return None;
    }
    row(table, index as u32)
}

/// Finds a row equal to a given one, or appends it: open addressing over row indices.
///
/// Finding takes no lock. Two threads may append equal rows at the same time; both stay, one is found later.
pub struct Interner<T> {
    slots: AtomicPtr<AtomicU32>,
    mask: UnsafeCell<usize>,
    table: Table,
    _rows: core::marker::PhantomData<fn() -> T>,
}

// SAFETY: `mask` is written once, before a second thread exists.
unsafe impl<T> Sync for Interner<T> {}

/// Slots looked at before a row counts as not there.
const PROBES: usize = 32;

impl<T: Copy + PartialEq> Interner<T> {
    /// An interner without slots, which finds and adds nothing.
    pub const fn new(table: Table) -> Interner<T> {
        Interner {
            slots: AtomicPtr::new(core::ptr::null_mut()),
            mask: UnsafeCell::new(0),
            table,
            _rows: core::marker::PhantomData,
        }
    }

    /// Makes the slots; whether there was memory.
    pub fn init(&self) -> bool {
        let slots = (capacity(self.table) as usize).max(16).saturating_mul(2).next_power_of_two();
        let Some(memory) = arena::pages(slots * size_of::<AtomicU32>()) else { return false };
        // SAFETY: no other thread exists yet.
        unsafe { *self.mask.get() = slots - 1 };
        self.slots.store(memory as *mut AtomicU32, Ordering::Relaxed);
        true
    }

    /// The index of a row equal to `value`; 0 where there is no room (counted).
    pub fn intern(&self, hash: u64, value: &T) -> u32 {
        let slots = self.slots.load(Ordering::Relaxed);
        if slots.is_null() {
            return 0;
        }
        // SAFETY: `mask` does not change any more.
        let mask = unsafe { *self.mask.get() };
        let start = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize;
        for probe in 0..PROBES {
            // SAFETY: the index is masked to the slots.
            let slot = unsafe { &*slots.add((start + probe) & mask) };
            // Acquire: pairs with the release of the slot below; the row is whole.
            let mut index = slot.load(Ordering::Acquire);
            if index == 0 {
                let Some(new) = append(self.table, value) else { return 0 };
                match slot.compare_exchange(0, new, Ordering::Release, Ordering::Acquire) {
                    Ok(_) => return new,
                    Err(other) => index = other,
                }
                if self.is(index, value) {
                    return index;
                }
                // The slot went to another row meanwhile; ours is published but not to be found. That is rare.
                return new;
            }
            if self.is(index, value) {
                return index;
            }
        }
        append(self.table, value).unwrap_or(0)
    }

    fn is(&self, index: u32, value: &T) -> bool {
        // SAFETY: rows in slots were published whole and do not change.
        row::<T>(self.table, index).is_some_and(|row| unsafe { *row == *value })
    }
}
