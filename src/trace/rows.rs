//! Decoding of single rows.

use crate::wire::incident::IncidentRow;
use crate::wire::locks::{HOLDS, HoldRow, LiveRow, LockRow, ONCES, OTHERS, OrderRow, TaskRow, TaskWait};
use crate::wire::recording::*;
use crate::wire::waits::{BlameTotalRow, Histogram, LockFiguresRow, WaitEventRow, WaitTotalRow};
use std::mem::offset_of;

/// A fixed-size row that can be decoded from its bytes.
pub trait Row: Sized {
    /// Which table holds rows of this type.
    const TABLE: Table;
    /// Length of a row in bytes.
    const SIZE: usize = size_of::<Self>();
    /// Decodes a row; `bytes` is [`Row::SIZE`] long.
    fn decode(bytes: &[u8]) -> Self;
}

/// Reads an integer at an offset; bytes that are missing read as zero.
macro_rules! at {
    ($bytes:expr, $offset:expr, $int:ty) => {{
        let mut raw = [0u8; size_of::<$int>()];
        if let Some(slice) = $bytes.get($offset..$offset + size_of::<$int>()) {
            raw.copy_from_slice(slice);
        }
        <$int>::from_le_bytes(raw)
    }};
}
pub(super) use at;

macro_rules! row {
    ($row:ident, $table:ident, { $($field:ident: $int:ty),* $(,)? }) => {
        impl Row for $row {
            const TABLE: Table = Table::$table;
            fn decode(bytes: &[u8]) -> Self {
                $row { $($field: at!(bytes, offset_of!($row, $field), $int)),* }
            }
        }
    };
}

row!(NodeRow, Nodes, { return_address: u64, parent: u32, reserved: u32 });
row!(AccessRow, Accesses, { site: u32, node: u32, lock_set: u32, slot: u16, interposed: u16 });
row!(LockSetRow, LockSets, { lock: u64, parent: u32, acquired_at: u32, shared: u32, reserved: u32 });
row!(EventRow, Events, { kind: u32, thread: u32, object: u64, size: u64, access: u32, reserved: u32 });
row!(SiteRow, Sites, { pc: u64, packed: u64 });

row!(IncidentRow, Incidents, {
    kind: u32, detail: u32, thread: u32, lock: u32, access: u32, other_access: u32, other: u32, spawned: u32,
    task: u64, count: u64, total_ns: u64, max_ns: u64, most: u64, lost_ns: u64, at_ns: u64,
});
row!(LockRow, Locks, {
    address: u64, first_access: u32, lock_type: u32, users: u64, gone: u32, owner: u32,
    acquisitions: u64, quiet: u32, sample_below: u32,
});

fn hold(bytes: &[u8]) -> HoldRow {
    HoldRow {
        lock: at!(bytes, offset_of!(HoldRow, lock), u32),
        shared: at!(bytes, offset_of!(HoldRow, shared), u32),
        access: at!(bytes, offset_of!(HoldRow, access), u32),
        reserved: at!(bytes, offset_of!(HoldRow, reserved), u32),
    }
}

impl Row for LiveRow {
    const TABLE: Table = Table::Live;
    fn decode(bytes: &[u8]) -> Self {
        let tail = |offset: usize| bytes.get(offset..).unwrap_or_default();
        let mut holds = [HoldRow::default(); HOLDS];
        for (index, place) in holds.iter_mut().enumerate() {
            *place = hold(tail(offset_of!(LiveRow, holds) + index * size_of::<HoldRow>()));
        }
        let mut onces = [0; ONCES];
        for (index, place) in onces.iter_mut().enumerate() {
            *place = at!(bytes, offset_of!(LiveRow, onces) + index * 8, u64);
        }
        LiveRow {
            sequence: at!(bytes, offset_of!(LiveRow, sequence), u64),
            wait_word: at!(bytes, offset_of!(LiveRow, wait_word), u64),
            wait_since_ns: at!(bytes, offset_of!(LiveRow, wait_since_ns), u64),
            wait_kind: at!(bytes, offset_of!(LiveRow, wait_kind), u32),
            wait_timed: at!(bytes, offset_of!(LiveRow, wait_timed), u32),
            wait_lock: at!(bytes, offset_of!(LiveRow, wait_lock), u32),
            wait_access: at!(bytes, offset_of!(LiveRow, wait_access), u32),
            wait_target: at!(bytes, offset_of!(LiveRow, wait_target), u32),
            hold_count: at!(bytes, offset_of!(LiveRow, hold_count), u32),
            wait_acquisitions: at!(bytes, offset_of!(LiveRow, wait_acquisitions), u64),
            runnable: at!(bytes, offset_of!(LiveRow, runnable), u64) as i64,
            onces,
            holds,
        }
    }
}

fn task_wait(bytes: &[u8]) -> TaskWait {
    TaskWait {
        future: at!(bytes, offset_of!(TaskWait, future), u64),
        since_ns: at!(bytes, offset_of!(TaskWait, since_ns), u64),
        lock: at!(bytes, offset_of!(TaskWait, lock), u32),
        access: at!(bytes, offset_of!(TaskWait, access), u32),
        polls: at!(bytes, offset_of!(TaskWait, polls), u32),
        flags: at!(bytes, offset_of!(TaskWait, flags), u32),
        holder: at!(bytes, offset_of!(TaskWait, holder), u32),
        reserved: 0,
    }
}

impl Row for TaskRow {
    const TABLE: Table = Table::Tasks;
    fn decode(bytes: &[u8]) -> Self {
        let tail = |offset: usize| bytes.get(offset..).unwrap_or_default();
        let holds = offset_of!(TaskRow, holds);
        let waits = offset_of!(TaskRow, waits);
        TaskRow {
            sequence: at!(bytes, offset_of!(TaskRow, sequence), u64),
            address: at!(bytes, offset_of!(TaskRow, address), u64),
            number: at!(bytes, offset_of!(TaskRow, number), u64),
            woken_ticks: at!(bytes, offset_of!(TaskRow, woken_ticks), u64),
            word: at!(bytes, offset_of!(TaskRow, word), u32),
            spawned: at!(bytes, offset_of!(TaskRow, spawned), u32),
            spawner: at!(bytes, offset_of!(TaskRow, spawner), u32),
            thread: at!(bytes, offset_of!(TaskRow, thread), u32),
            polls: at!(bytes, offset_of!(TaskRow, polls), u32),
            state: at!(bytes, offset_of!(TaskRow, state), u32),
            wakers: at!(bytes, offset_of!(TaskRow, wakers), u32),
            spawns: at!(bytes, offset_of!(TaskRow, spawns), u32),
            parent: at!(bytes, offset_of!(TaskRow, parent), u32),
            born: at!(bytes, offset_of!(TaskRow, born), u32),
            is_logged: at!(bytes, offset_of!(TaskRow, is_logged), u32),
            phase: at!(bytes, offset_of!(TaskRow, phase), u32),
            phase_rows: at!(bytes, offset_of!(TaskRow, phase_rows), u32),
            is_joined: at!(bytes, offset_of!(TaskRow, is_joined), u32),
            published: at!(bytes, offset_of!(TaskRow, published), u32),
            learnt: at!(bytes, offset_of!(TaskRow, learnt), u32),
            hold_count: at!(bytes, offset_of!(TaskRow, hold_count), u32),
            is_thread: at!(bytes, offset_of!(TaskRow, is_thread), u32),
            holds: std::array::from_fn(|index| hold(tail(holds + index * size_of::<HoldRow>()))),
            marks: TaskRow::NONE.marks,
            waits: std::array::from_fn(|index| task_wait(tail(waits + index * size_of::<TaskWait>()))),
        }
    }
}

impl Row for OrderRow {
    const TABLE: Table = Table::Orders;
    fn decode(bytes: &[u8]) -> Self {
        let tail = |offset: usize| bytes.get(offset..).unwrap_or_default();
        let mut others = [0; OTHERS];
        for (index, place) in others.iter_mut().enumerate() {
            *place = at!(bytes, offset_of!(OrderRow, others) + index * 4, u32);
        }
        OrderRow {
            kind: at!(bytes, offset_of!(OrderRow, kind), u32),
            thread: at!(bytes, offset_of!(OrderRow, thread), u32),
            object: at!(bytes, offset_of!(OrderRow, object), u64),
            held: hold(tail(offset_of!(OrderRow, held))),
            wanted: hold(tail(offset_of!(OrderRow, wanted))),
            others,
            count: at!(bytes, offset_of!(OrderRow, count), u64),
        }
    }
}

fn side(bytes: &[u8]) -> SideRow {
    SideRow {
        thread: at!(bytes, offset_of!(SideRow, thread), u32),
        access: at!(bytes, offset_of!(SideRow, access), u32),
        address: at!(bytes, offset_of!(SideRow, address), u64),
        size: at!(bytes, offset_of!(SideRow, size), u32),
        flags: at!(bytes, offset_of!(SideRow, flags), u32),
        epoch: at!(bytes, offset_of!(SideRow, epoch), u64),
    }
}

impl Row for FindingRow {
    const TABLE: Table = Table::Findings;
    fn decode(bytes: &[u8]) -> Self {
        let tail = |offset: usize| bytes.get(offset..).unwrap_or_default();
        FindingRow {
            kind: at!(bytes, offset_of!(FindingRow, kind), u32),
            flags: at!(bytes, offset_of!(FindingRow, flags), u32),
            count: at!(bytes, offset_of!(FindingRow, count), u64),
            time_ns: at!(bytes, offset_of!(FindingRow, time_ns), u64),
            address: at!(bytes, offset_of!(FindingRow, address), u64),
            current: side(tail(offset_of!(FindingRow, current))),
            previous: side(tail(offset_of!(FindingRow, previous))),
            block: at!(bytes, offset_of!(FindingRow, block), u64),
            block_size: at!(bytes, offset_of!(FindingRow, block_size), u64),
            block_node: at!(bytes, offset_of!(FindingRow, block_node), u32),
            block_thread: at!(bytes, offset_of!(FindingRow, block_thread), u32),
            stack_thread: at!(bytes, offset_of!(FindingRow, stack_thread), u32),
            reserved: at!(bytes, offset_of!(FindingRow, reserved), u32),
        }
    }
}

impl Row for ThreadRow {
    const TABLE: Table = Table::Threads;
    fn decode(bytes: &[u8]) -> Self {
        let mut name = [0; 16];
        let start = offset_of!(ThreadRow, name);
        if let Some(slice) = bytes.get(start..start + 16) {
            name.copy_from_slice(slice);
        }
        ThreadRow {
            tid: at!(bytes, offset_of!(ThreadRow, tid), u32),
            slot: at!(bytes, offset_of!(ThreadRow, slot), u32),
            creator: at!(bytes, offset_of!(ThreadRow, creator), u32),
            created_at: at!(bytes, offset_of!(ThreadRow, created_at), u32),
            first_epoch: at!(bytes, offset_of!(ThreadRow, first_epoch), u64),
            finished: at!(bytes, offset_of!(ThreadRow, finished), u32),
            origin: at!(bytes, offset_of!(ThreadRow, origin), u32),
            stack_low: at!(bytes, offset_of!(ThreadRow, stack_low), u64),
            stack_high: at!(bytes, offset_of!(ThreadRow, stack_high), u64),
            name,
        }
    }
}

impl Row for ModuleRow {
    const TABLE: Table = Table::Modules;
    fn decode(bytes: &[u8]) -> Self {
        let mut path = [0; 232];
        let start = offset_of!(ModuleRow, path);
        if let Some(slice) = bytes.get(start..start + 232) {
            path.copy_from_slice(slice);
        }
        ModuleRow {
            bias: at!(bytes, offset_of!(ModuleRow, bias), u64),
            start: at!(bytes, offset_of!(ModuleRow, start), u64),
            end: at!(bytes, offset_of!(ModuleRow, end), u64),
            path,
        }
    }
}

row!(WaitTotalRow, WaitTotals, {
    lock: u32, kind: u32, thread: u32, access: u32, spawned: u32, reserved: u32, count: u64, total_ns: u64, max_ns: u64,
});
row!(BlameTotalRow, BlameTotals, {
    lock: u32, thread: u32, acquired_access: u32, released_access: u32, spawned: u32, released_spawned: u32,
    count: u64, total_ns: u64, max_ns: u64,
});
row!(WaitEventRow, WaitEvents, {
    start_ns: u64, end_ns: u64, lock: u32, kind: u32, thread: u32, access: u32, holder: u32, waker: u32, task: u32,
    spawned: u32,
});

fn histogram(bytes: &[u8], offset: usize) -> Histogram {
    std::array::from_fn(|bucket| at!(bytes, offset + 4 * bucket, u32))
}

impl Row for LockFiguresRow {
    const TABLE: Table = Table::LockFigures;
    fn decode(bytes: &[u8]) -> Self {
        LockFiguresRow {
            address: at!(bytes, offset_of!(LockFiguresRow, address), u64),
            lock_type: at!(bytes, offset_of!(LockFiguresRow, lock_type), u32),
            first_access: at!(bytes, offset_of!(LockFiguresRow, first_access), u32),
            acquisitions: at!(bytes, offset_of!(LockFiguresRow, acquisitions), u64),
            shared_acquisitions: at!(bytes, offset_of!(LockFiguresRow, shared_acquisitions), u64),
            contended: at!(bytes, offset_of!(LockFiguresRow, contended), u64),
            wait_ns: at!(bytes, offset_of!(LockFiguresRow, wait_ns), u64),
            wait_max_ns: at!(bytes, offset_of!(LockFiguresRow, wait_max_ns), u64),
            hold_ns: at!(bytes, offset_of!(LockFiguresRow, hold_ns), u64),
            hold_max_ns: at!(bytes, offset_of!(LockFiguresRow, hold_max_ns), u64),
            hold_samples: at!(bytes, offset_of!(LockFiguresRow, hold_samples), u64),
            overtakes: at!(bytes, offset_of!(LockFiguresRow, overtakes), u64),
            waiters_peak: at!(bytes, offset_of!(LockFiguresRow, waiters_peak), u32),
            readers_peak: at!(bytes, offset_of!(LockFiguresRow, readers_peak), u32),
            wait_histogram: histogram(bytes, offset_of!(LockFiguresRow, wait_histogram)),
            hold_histogram: histogram(bytes, offset_of!(LockFiguresRow, hold_histogram)),
        }
    }
}
