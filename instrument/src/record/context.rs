//! Calling contexts, accesses and lock sets: small immutable rows that are written once and named by index.

use super::table::Interner;
use conprof_wire::recording::{AccessRow, LockSetRow, NodeRow, Table};
use conprof_wire::state::Frame;

static NODES: Interner<NodeRow> = Interner::new(Table::Nodes);
static ACCESSES: Interner<AccessRow> = Interner::new(Table::Accesses);
static LOCK_SETS: Interner<LockSetRow> = Interner::new(Table::LockSets);

pub(super) fn init() -> bool {
    NODES.init() && ACCESSES.init() && LOCK_SETS.init()
}

/// The node for a return address on top of `parent`; 0 where there is no room.
pub fn node(parent: u32, return_address: u64) -> u32 {
    let row = NodeRow { return_address, parent, reserved: 0 };
    NODES.intern(return_address ^ (u64::from(parent) << 40) ^ u64::from(parent), &row)
}

/// The row of an access; 0 where there is no room.
pub fn access(row: &AccessRow) -> u32 {
    let hash = u64::from(row.site)
        ^ (u64::from(row.node) << 24)
        ^ (u64::from(row.lock_set) << 44)
        ^ (u64::from(row.slot) << 12)
        ^ u64::from(row.interposed);
    ACCESSES.intern(hash, row)
}

/// The row of a lock set; 0 where there is no room.
pub fn lock_set(row: &LockSetRow) -> u32 {
    let hash = row.lock ^ (u64::from(row.parent) << 40) ^ (u64::from(row.acquired_at) << 20) ^ u64::from(row.shared);
    LOCK_SETS.intern(hash, row)
}

/// The node for the frames from above `base` up to and including `top`. Frames remember their nodes, so
/// only those pushed since the last time are looked up.
pub fn intern(base: *mut Frame, top: *mut Frame) -> u32 {
    // SAFETY: base <= top, both in one shadow stack of the calling thread, whose frames in between are initialised.
    unsafe {
        let mut known = top;
        while known > base && (*known).node == 0 {
            known = known.sub(1);
        }
        let mut node = if known > base { (*known).node } else { 0 };
        while known < top {
            known = known.add(1);
            node = self::node(node, (*known).return_address);
            (*known).node = node;
        }
        node
    }
}
