//! The order in which tasks take the locks that count permits.
//!
//! ```text
//! permits --taken--> edges of the order log, by the task or by the thread for what it does outside tasks
//! task --born, joined--> what structure orders: rows of the same log
//! ```
//!
//! Of the tasks that one call spawns, each pair of locks is logged for [`INSTANCES`] of them: a server spawns the same task a
//! million times. A task's birth enters the log once the task has something in it; what it comes after is kept from the time
//! when it was spawned, so that tasks without edges cost no row.
//!
//! Direction of error: tasks whose spawning went by unseen have edges that are marked as unsure.

use super::ThreadState;
use super::incident;
use super::order::{self, mix};
use super::table;
use super::task::{present, with};
use crate::record::table as rows;
use conprof_wire::locks::*;
use conprof_wire::recording::Table;
use core::sync::atomic::{AtomicU32, Ordering};

/// Tasks of one place that are told apart.
const INSTANCES: u64 = 4;
/// Phases of a task that are told apart, as for threads.
const PHASES: u32 = 4;
/// From so many permits on, what counts them has readers: it lets this many in.
const READERS: u32 = 1 << 16;

/// What stands for every barrier of tasks in the log: no address of an object.
const BARRIERS: u64 = 1;

/// Edges of tasks in the log.
static EDGES: AtomicU32 = AtomicU32::new(0);

/// Who the log says does what the row's task does.
fn unit(row: &TaskRow) -> u32 {
    if row.is_thread != 0 { row.thread.wrapping_sub(1) } else { FIRST_TASK | row.number as u32 }
}

/// What a task comes after that the row's task spawns now: somebody, and how many rows the log has.
pub(super) fn births(row: &mut TaskRow) -> (u32, u32) {
    row.spawns = row.spawns.wrapping_add(1);
    if row.is_thread == 0 && row.is_logged == 0 {
        return (row.parent, row.born);
    }
    let now = rows::count(Table::Orders);
    begin_phase(row, now);
    (unit(row), now)
}

/// What follows is told apart from what was before, if there was anything.
fn begin_phase(row: &mut TaskRow, now: u32) {
    if row.phase_rows != now {
        row.phase_rows = now;
        row.phase = row.phase.saturating_add(1);
    }
}

/// The task has something in the log: its birth comes before it.
fn log_birth(row: &mut TaskRow) {
    if row.is_thread == 0 && row.is_logged == 0 {
        row.is_logged = 1;
        let object = u64::from(row.parent) | u64::from(row.born) << 32;
        let spawned = HoldRow { access: row.spawned, ..order::NONE };
        let mut others = [0; OTHERS];
        others[BORN_SPAWNER] = row.spawner;
        order::append(&OrderRow {
            kind: OrderKind::Task as u32,
            thread: unit(row),
            object,
            held: order::NONE,
            wanted: spawned,
            others,
            count: 1,
        });
    }
}

/// A task asks for the result of the one at an address, which may have ended.
pub(super) fn awaited(state: &mut ThreadState, address: usize) {
    let Some(child) = super::task::find(address) else { return };
    let ended = with(child, |row| {
        let has_ended = row.address == address as u64 && super::task::is_complete(row);
        (has_ended && core::mem::replace(&mut row.is_joined, u32::from(has_ended)) == 0 && row.is_logged != 0)
            .then(|| unit(row))
    });
    let Some(Some(ended)) = ended else { return };
    let joiner = present(state);
    with(joiner, |row| {
        log_birth(row);
        order::log(OrderKind::Join, unit(row), u64::from(ended), 0);
        begin_phase(row, rows::count(Table::Orders));
    });
}

/// A task arrives at a barrier of tasks: what it did is published. All barriers are one here, which orders too much rather than too little.
pub(super) fn meets(state: &mut ThreadState) {
    let edges = EDGES.load(Ordering::Relaxed);
    let task = present(state);
    with(task, |row| {
        if core::mem::replace(&mut row.published, edges) != edges {
            at_barrier(row, OrderKind::Release);
        }
    });
}

/// A task has met the others there, or waits for them.
pub(super) fn met(state: &mut ThreadState) {
    let edges = EDGES.load(Ordering::Relaxed);
    let task = present(state);
    with(task, |row| {
        if core::mem::replace(&mut row.learnt, edges) != edges {
            at_barrier(row, OrderKind::Acquire);
        }
    });
}

fn at_barrier(row: &mut TaskRow, kind: OrderKind) {
    log_birth(row);
    order::log(kind, unit(row), BARRIERS, 0);
    begin_phase(row, rows::count(Table::Orders));
}

/// A task takes permits, or queues for them, and does not hold them yet. `most` is how many there were at most.
pub(super) fn taken(state: &mut ThreadState, task: u32, taken: &HoldRow, most: u32) {
    let phase = state.lock.phase;
    let known = with(task, |row| {
        let is_write = most >= READERS && taken.shared == 0;
        if row.hold_count == 0 && !is_write {
            return None;
        }
        log_birth(row);
        let count = (row.hold_count as usize).min(TASK_HOLDS);
        let phase = if row.is_thread != 0 { row.phase.saturating_add(phase) } else { row.phase };
        let place = if row.is_thread != 0 || row.spawned == 0 { unit(row) } else { row.spawned };
        Some((unit(row), place, phase.min(PHASES - 1), row.holds, count, row.spawns, is_write))
    });
    let Some(Some((unit, place, phase, holds, count, spawns, is_write))) = known else { return };
    let holds = holds.get(..count).unwrap_or_default();
    // What the thread holds itself, of whatever kind, keeps others away as well.
    let (held_count, held) = incident::holds(state.lock.live());
    let others = |except: u32| {
        let mut others = [0u32; OTHERS];
        let of_task = holds.iter().filter(|hold| hold.lock != except && table::receiver(hold.lock) == 0);
        let of_task = of_task.map(|hold| (hold.lock, hold.shared & TASK_HOLD_SHARED != 0));
        let of_thread = (0..held_count).map(&held).map(|hold| (hold.lock, hold.shared != 0));
        for (place, (lock, shares)) in others.iter_mut().zip(of_task.chain(of_thread)) {
            *place = lock | if shares { OTHER_SHARED } else { 0 };
        }
        others
    };
    let base = mix(
        mix(u64::from(place) << 8 | u64::from(phase), u64::from(taken.lock) << 32 | u64::from(taken.access)),
        u64::from(taken.shared),
    );
    let log = |kind: OrderKind, held: HoldRow| {
        let others = others(held.lock);
        let mut hash = mix(base, u64::from(held.lock) << 32 | u64::from(held.access) ^ u64::from(held.shared) << 31);
        for other in others {
            hash = mix(hash, u64::from(other));
        }
        let row = || {
            for lock in others.iter().map(|other| other & !OTHER_SHARED).chain([taken.lock, held.lock]) {
                if lock != 0 {
                    table::reference(lock);
                }
            }
            EDGES.fetch_add(1, Ordering::Relaxed);
            OrderRow { kind: kind as u32, thread: unit, object: 0, held, wanted: *taken, others, count: 1 }
        };
        for instance in 0..INSTANCES {
            // SAFETY: the row is in the mapping, and its thread does not change once it is there.
            let is_it = |row: *mut OrderRow| unsafe { (&raw const (*row).thread).read() } == unit;
            if order::once(mix(hash, instance), row, |row| instance + 1 == INSTANCES || is_it(row)) {
                return;
            }
        }
    };
    if is_write {
        log(OrderKind::Write, order::NONE);
    }
    for hold in holds {
        let shared = u32::from(hold.shared & TASK_HOLD_SHARED != 0);
        if table::receiver(hold.lock) != 0 || hold.lock == taken.lock && shared + taken.shared != 2 {
            continue;
        }
        let may_be_elsewhere = u32::from(hold.reserved != spawns);
        log(OrderKind::Edge, HoldRow { shared, reserved: may_be_elsewhere, ..*hold });
    }
}
