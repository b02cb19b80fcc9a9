//! The log of happens-before events (`--record full`).

use super::table;
use conprof_wire::recording::{CONFIG_RECORD_FULL, EventKind, EventRow, Table};
use core::sync::atomic::{AtomicU32, Ordering};

/// Whether events are wanted.
pub fn wanted() -> bool {
    super::config() & CONFIG_RECORD_FULL != 0
}

/// Logs an event. The caller holds the object's lock, so that the order of rows is the object's order.
pub fn log(kind: EventKind, thread: u32, object: u64, size: u64, access: u32) {
    let Some(row) = table::reserve::<EventRow>(Table::Events) else { return };
    // SAFETY: the row is in the mapping and reserved for this thread; the reader waits for `kind`.
    unsafe {
        (&raw mut (*row).thread).write(thread);
        (&raw mut (*row).object).write(object);
        (&raw mut (*row).size).write(size);
        (&raw mut (*row).access).write(access);
        AtomicU32::from_ptr(&raw mut (*row).kind).store(kind as u32, Ordering::Release);
    }
}
