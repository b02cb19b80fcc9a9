//! The lock order of async tasks: what an edge of the log is worth, and which tasks come after what.
//!
//! An edge counts between locks of tokio's that one task at a time holds or several read (`Mutex`, `RwLock`, a `Semaphore` that
//! never had more than one permit), if each hold was given back by the task that took it. What could end the wait, or
//! could have moved the guard elsewhere, makes its cycles "possible".
//!
//! Direction of error: an edge that may be none is left out or lowers its cycle; none is added.

use super::recorded::{Names, Recorded, hold, is_owned, lock_type, permits};
use super::task_waits::Permits;
use super::{Describe, Hold, Mode, Place};
use crate::report::{Confidence, Frame};
use crate::wire::locks::*;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What bounds the confidence of a cycle with an edge, and why.
pub type Doubt = (Confidence, &'static str);

/// An edge of a task.
pub(super) struct TaskEdge {
    pub(super) held: Hold,
    pub(super) wanted: Hold,
    pub(super) by_try: bool,
    pub(super) doubt: Option<Doubt>,
}

/// The births of tasks that have edges.
#[derive(Default)]
pub(super) struct Births {
    /// By the row of the log that they come before: who came before whom.
    before: BTreeMap<u32, Vec<(u32, u32)>>,
    /// Tasks of which it is not known what came before them.
    unknown: HashSet<u32>,
}

impl Births {
    pub(super) fn of(orders: &[OrderRow]) -> Births {
        let mut births = Births::default();
        for row in orders.iter().filter(|row| row.kind == OrderKind::Task as u32) {
            let (parent, born) = (row.object as u32, (row.object >> 32) as u32);
            if parent == NO_PARENT || births.unknown.contains(&parent) {
                births.unknown.insert(row.thread);
            } else {
                births.before.entry(born).or_default().push((parent, row.thread));
            }
        }
        births
    }

    /// The births, as (parent, child), right before a row of the log.
    pub(super) fn before(&self, row: usize) -> &[(u32, u32)] {
        u32::try_from(row).ok().and_then(|row| self.before.get(&row)).map_or(&[], Vec::as_slice)
    }
}

/// Tasks that the log names: where each was spawned, and by which thread.
pub(super) fn spawned(orders: &[OrderRow]) -> HashMap<u32, (Place, Option<u32>)> {
    let rows = orders.iter().filter(|row| row.kind == OrderKind::Task as u32);
    rows.map(|row| (row.thread, (Place(row.wanted.access), row.others[BORN_SPAWNER].checked_sub(1)))).collect()
}

/// Whether a row of the log is about locks that count permits.
pub(super) fn is_of_permits(row: &OrderRow, locks: &[LockRow]) -> bool {
    locks.get(row.wanted.lock as usize).is_some_and(|lock| lock_type(lock) == Type::TokioPermits)
}

impl Recorded {
    /// What a lock that counts permits is, where its holders are known and keep others out.
    fn excluding(&self, lock: u32, names: &Names<'_, '_>) -> Option<Permits> {
        let row = self.locks.get(lock as usize).filter(|row| lock_type(row) == Type::TokioPermits)?;
        let is_known = row.lock_type & LOCK_UNSURE == 0 && row.users == 0;
        let kind = permits(&names.frames(Place(row.first_access))).filter(|_| is_known)?;
        let excludes = match kind {
            Permits::Mutex | Permits::RwLock => true,
            Permits::Semaphore => row.owner == 1,
            Permits::Channel => false,
        };
        excludes.then_some(kind)
    }

    /// An edge of the log as the search for cycles takes it; `None` where it is none.
    pub(super) fn task_edge(&self, row: &OrderRow, births: &Births, names: &Names<'_, '_>) -> Option<TaskEdge> {
        let kinds = [self.excluding(row.held.lock, names)?, self.excluding(row.wanted.lock, names)?];
        let (held, wanted) = (names.frames(Place(row.held.access)), names.frames(Place(row.wanted.access)));
        let doubt = if row.held.reserved != 0 {
            Some((
                Confidence::Possible,
                "A task has spawned others while it held a lock: its guard may be with one of them.",
            ))
        } else if is_owned(&held) {
            Some((Confidence::Possible, "A guard that owns its lock may be sent to another task."))
        } else if waits_for_more(&wanted) {
            Some((Confidence::Possible, "A task waits for something else as well, which may end its wait."))
        } else if births.unknown.contains(&row.thread) {
            Some((Confidence::Possible, "What came before a task is not known, as its spawning was not seen."))
        } else if kinds.contains(&Permits::Semaphore) {
            Some((Confidence::Likely, "A semaphore counts as a lock here, since it never had more than one permit."))
        } else {
            None
        };
        Some(TaskEdge {
            held: with_mode(hold(&row.held), &held),
            wanted: with_mode(hold(&row.wanted), &wanted),
            by_try: wanted.iter().any(|frame| frame.file.ends_with("/src/time/timeout.rs")),
            doubt,
        })
    }

    /// Whether a lock that is taken alone counts in the search for cycles.
    pub(super) fn counts_as_write(&self, row: &OrderRow, names: &Names<'_, '_>) -> bool {
        self.excluding(row.wanted.lock, names) == Some(Permits::RwLock)
    }
}

/// How a lock with readers is held, where the function that takes it says so.
fn with_mode(hold: Hold, frames: &[Frame]) -> Hold {
    let of_lock = |frame: &&Frame| frame.file.ends_with("/src/sync/rwlock.rs");
    let mode = frames.iter().filter(of_lock).find_map(|frame| match frame.function.as_str() {
        name if name.contains("read") => Some(Mode::Shared),
        name if name.contains("write") => Some(Mode::Exclusive),
        _ => None,
    });
    Hold { mode: mode.unwrap_or(hold.mode), ..hold }
}

/// Whether the stack of a wait leads through something that polls several futures: another may end it.
fn waits_for_more(frames: &[Frame]) -> bool {
    const FILES: [&str; 5] = [
        "/future/poll_fn.rs",
        "/future/select.rs",
        "/future/try_select.rs",
        "/future/select_all.rs",
        "/future/abortable.rs",
    ];
    frames.iter().any(|frame| FILES.iter().any(|file| frame.file.ends_with(file)))
}
