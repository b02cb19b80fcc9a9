//! From rows of the recording to what the lock analyses take, and back from their places to frames.

use super::deadlock::{self, Hang};
use super::incidents::{Holder, Incidents, Lasting};
use super::task_waits::{self, HoldAt, PermitLock, Permits, TaskAt, TaskSnapshot, WaitAt};
use super::waits_for::{Activity, Awaited, Held, Missed, Snapshot, ThreadAt, Wait};
use super::{Describe, Hold, LockId, LockRules, Mode, Place, task_order};
use crate::analyze::sides::Context;
use crate::report::place::{place, primary};
use crate::report::{Finding, Frame, LockRef, Thread};
use crate::symbolize::LockName;
use crate::trace::{HeaderView, Recording};
use crate::wire::locks::*;
use crate::wire::recording::{AccessRow, Counter, NO_SITE, Table, ThreadRow};
use crate::wire::waits::{BlameTotalRow, LockFiguresRow, NO_THREAD, WaitKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A kernel thread of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub tid: u32,
    /// It sleeps in the kernel until something wakes it.
    pub sleeps: bool,
}

/// The locks, order log and waits of a recording at one moment.
#[derive(Debug, Default)]
pub struct Recorded {
    pub(super) locks: Vec<LockRow>,
    pub(super) orders: Vec<OrderRow>,
    /// By serial, of the threads that hold, wait or initialise: of ten thousands that came and went there are few.
    live: BTreeMap<usize, LiveRow>,
    threads: Vec<ThreadRow>,
    tasks: Vec<TaskRow>,
    has_signal_handlers: bool,
}

impl Recorded {
    /// Reads the rows.
    pub fn read(recording: &Recording) -> Recorded {
        let Ok(header) = recording.header() else { return Recorded::default() };
        let count = |table: Table| header.counts[table as usize];
        let mut live = BTreeMap::new();
        recording.rows::<LiveRow>(0, count(Table::Live), |serial, row| {
            if row.sequence & 1 == 1 || row.hold_count != 0 || row.onces.iter().any(|once| *once != 0) {
                live.insert(serial as usize, row);
            }
            true
        });
        Recorded {
            locks: recording.collect(0, count(Table::Locks)),
            orders: recording.collect(0, count(Table::Orders)),
            live,
            threads: recording.collect(0, count(Table::Threads)),
            tasks: recording.collect(0, count(Table::Tasks)),
            has_signal_handlers: header.counter(Counter::SignalHandlers) > 0,
        }
    }

    /// The lock that figures are of, or the latest one at their address; `None` where its row is another's by now.
    pub(in crate::analyze) fn lock_of(&self, figures: &LockFiguresRow) -> Option<LockId> {
        let at_address = || self.locks.iter().enumerate().rev().filter(|(_, row)| row.address == figures.address);
        let same = at_address().find(|(_, row)| row.first_access == figures.first_access);
        same.or_else(|| at_address().next()).map(|(index, _)| LockId(index as u32))
    }

    pub(super) fn rules(&self, lock: LockId) -> LockRules {
        let kind = self.locks.get(lock.0 as usize).map_or(Type::Unknown, lock_type);
        LockRules {
            readers_wait_behind_writers: kind.readers_wait_behind_writers(),
            is_reentrant: kind.is_reentrant(),
            is_handed_over: kind == Type::Semaphore,
        }
    }

    /// What each thread does. `before` is an earlier look: a wait counts where both see it. Without `tasks`, as for a
    /// process that is gone, every wait counts as slept through.
    pub fn snapshot(&self, before: &Recorded, tasks: Option<&[Task]>, now_ns: u64) -> Snapshot {
        let mut threads = Vec::new();
        for (serial, row) in self.threads.iter().enumerate() {
            let serial_number = serial as u32;
            let live = self.live.get(&serial);
            let task = tasks.map(|tasks| tasks.iter().find(|task| task.tid == row.tid));
            let is_gone = row.finished != 0 || row.tid != 0 && task.is_some_and(|task| task.is_none());
            let holds = live.map_or_else(Vec::new, |live| self.holds(serial_number, live));
            let activity = if is_gone {
                Activity::Ended
            } else {
                let waits = live.filter(|live| live.sequence & 1 == 1).filter(|live| {
                    let earlier = before.live.get(&serial).is_some_and(|b| b.sequence == live.sequence);
                    let sleeps = task.is_none_or(|task| task.is_some_and(|task| task.sleeps));
                    earlier && sleeps
                });
                match waits {
                    Some(live) => Activity::Waiting(self.wait(serial_number, live)),
                    None => Activity::Running,
                }
            };
            threads.push(ThreadAt { serial: serial_number, activity, holds });
        }
        // A thread that the runtime never saw may do anything.
        if tasks.is_some_and(|tasks| tasks.iter().any(|task| self.threads.iter().all(|row| row.tid != task.tid))) {
            threads.push(ThreadAt { serial: u32::MAX, activity: Activity::Running, holds: Vec::new() });
        }
        Snapshot { threads, has_signal_handlers: self.has_signal_handlers, now_ns }
    }

    fn holds(&self, serial: u32, live: &LiveRow) -> Vec<Held> {
        let count = (live.hold_count as usize).min(HOLDS);
        let mut held = Vec::new();
        for row in live.holds.iter().take(count) {
            let Some(lock) = self.locks.get(row.lock as usize).filter(|lock| lock.gone == 0 && row.lock != 0) else {
                continue;
            };
            if row.shared == 0 && lock.owner != serial + 1 {
                continue;
            }
            let Hold { lock, mode, place } = hold(row);
            held.push(Held { lock, mode, place, since_ns: 0 });
        }
        held
    }

    fn wait(&self, serial: u32, live: &LiveRow) -> Wait {
        let lock = LockId(live.wait_lock);
        let what = match WaitKind::from_u32(live.wait_kind) {
            WaitKind::Lock if live.wait_lock != 0 => Awaited::Lock { lock, mode: Mode::Exclusive },
            WaitKind::Shared if live.wait_lock != 0 => Awaited::Lock { lock, mode: Mode::Shared },
            WaitKind::Upgradable if live.wait_lock != 0 => Awaited::Lock { lock, mode: Mode::Upgradable },
            WaitKind::Join if live.wait_target != 0 => Awaited::Join { thread: live.wait_target - 1 },
            WaitKind::Once => Awaited::Once { runner: self.runner(live.wait_word) },
            WaitKind::Condvar => Awaited::Condvar,
            WaitKind::Receive => Awaited::Receive,
            WaitKind::Send => Awaited::Send,
            WaitKind::Park => Awaited::Park,
            WaitKind::Barrier => Awaited::Barrier,
            WaitKind::Semaphore => Awaited::Semaphore,
            WaitKind::Sleep => Awaited::Outside("time"),
            WaitKind::Outside => Awaited::Outside("another process"),
            _ => Awaited::Futex,
        };
        let notifies =
            self.orders.iter().filter(|row| row.kind == OrderKind::Notify as u32 && row.object == live.wait_word).map(
                |row| Missed {
                    thread: row.thread,
                    place: Place(row.wanted.access),
                    time_ns: u64::from(row.others[NOTIFIED_LOW]) | u64::from(row.others[NOTIFIED_HIGH]) << 32,
                },
            );
        let notifiers: Vec<Missed> = notifies.collect();
        let missed = notifiers
            .iter()
            .filter(|n| n.time_ns <= live.wait_since_ns && n.thread != serial)
            .max_by_key(|n| n.time_ns);
        Wait {
            peers: None,
            missed: missed.copied(),
            what,
            since_ns: live.wait_since_ns,
            is_timed: live.wait_timed != 0,
            place: Place(live.wait_access),
        }
    }

    /// Who runs the initialisation at an address: a thread that is inside it and does not wait for it.
    fn runner(&self, once: u64) -> Option<u32> {
        let inside = |live: &LiveRow| once != 0 && live.onces.contains(&once);
        let waits = |live: &LiveRow| {
            live.sequence & 1 == 1 && live.wait_kind == WaitKind::Once as u32 && live.wait_word == once
        };
        let runner = self.live.iter().find(|(_, live)| inside(live) && !waits(live)).map(|(serial, _)| *serial);
        // Nobody else is inside: the one that waits is, further out.
        let mut all = self.live.iter().filter(|(_, live)| inside(live));
        let alone = all.next().filter(|_| all.next().is_none()).map(|(serial, _)| *serial);
        runner.or(alone).map(|serial| serial as u32)
    }

    /// Incidents, with who held what for how long, and the waits that last on.
    pub(in crate::analyze) fn incidents(&self, recording: &Recording, header: &HeaderView, now_ns: u64) -> Incidents {
        let figures: Vec<LockFiguresRow> = recording.collect(0, header.counts[Table::LockFigures as usize]);
        let blames: Vec<BlameTotalRow> = recording.collect(0, header.counts[Table::BlameTotals as usize]);
        // Of several locks at one address the latest is meant, as an earlier one is gone.
        let by_address: HashMap<u64, u32> =
            self.locks.iter().enumerate().map(|(index, row)| (row.address, index as u32)).collect();
        let of_threads = blames.iter().filter(|row| row.released_access != 0 && row.thread != NO_THREAD);
        let holders = of_threads.filter_map(|row| {
            let lock = by_address.get(&figures.get(row.lock as usize)?.address)?;
            Some(Holder {
                thread: row.thread,
                lock: LockId(*lock),
                place: Place(row.acquired_access),
                count: row.count,
                caused_ns: row.total_ns,
            })
        });
        let lasting = self.live.iter().filter_map(|(serial, live)| {
            let kind = WaitKind::from_u32(live.wait_kind);
            let waits = live.sequence & 1 == 1 && matches!(kind, WaitKind::Lock | WaitKind::Shared);
            let lock = self.locks.get(live.wait_lock as usize).filter(|_| waits && live.wait_lock != 0)?;
            let taken = figures.iter().rev().find(|row| row.address == lock.address)?.acquisitions;
            Some(Lasting {
                thread: *serial as u32,
                lock: LockId(live.wait_lock),
                mode: if kind == WaitKind::Shared { Mode::Shared } else { Mode::Exclusive },
                place: Place(live.wait_access),
                duration_ns: now_ns.saturating_sub(live.wait_since_ns),
                overtakes: taken.saturating_sub(live.wait_acquisitions),
            })
        });
        Incidents {
            rows: recording.collect(0, header.counts[Table::Incidents as usize]),
            lasting: lasting.collect(),
            holders: holders.collect(),
            locks: self.locks.clone(),
        }
    }

    /// What each task does. `before` is an earlier look: what a task waits for counts where both see the same.
    pub(in crate::analyze) fn task_snapshot(
        &self,
        before: &Recorded,
        now_ns: u64,
        names: &Names<'_, '_>,
    ) -> TaskSnapshot {
        let mut snapshot = TaskSnapshot { now_ns, ..TaskSnapshot::default() };
        for (index, row) in self.tasks.iter().enumerate().filter(|(_, row)| row.address != 0) {
            let is_stable = before.tasks.get(index) == Some(row) && row.sequence & 1 == 0;
            let is_idle = row.state == 0 && row.wakers != WAKERS_UNKNOWN && row.is_thread == 0;
            let waits = row.waits.iter().filter(|wait| wait.future != 0).map(|wait| WaitAt {
                lock: LockId(wait.lock),
                place: Place(wait.access),
                since_ns: wait.since_ns,
                is_assigned: wait.flags & WAIT_ASSIGNED != 0,
                has_own_waker: wait.flags & WAIT_OWN_WAKER != 0,
            });
            let holds = row.holds.iter().take(row.hold_count as usize).map(|hold| HoldAt {
                lock: LockId(hold.lock),
                place: Place(hold.access),
                has_spawned_since: hold.reserved != row.spawns,
                is_owned: false,
            });
            snapshot.tasks.push(TaskAt {
                id: index as u32,
                number: row.number,
                spawned: Place(row.spawned),
                spawner: row.spawner.checked_sub(1),
                thread: row.thread.checked_sub(1).filter(|_| row.is_thread != 0),
                wakers: (is_stable && is_idle).then_some(row.wakers),
                waits: waits.collect(),
                holds: holds.collect(),
            });
        }
        // Symbolising is the costly part: only what is waited for matters.
        let wanted: HashSet<LockId> =
            snapshot.tasks.iter().flat_map(|task| &task.waits).map(|wait| wait.lock).collect();
        for lock in &wanted {
            if let Some(known) = self.permit_lock(*lock, names) {
                snapshot.locks.insert(*lock, known);
            }
        }
        for hold in snapshot.tasks.iter_mut().flat_map(|task| &mut task.holds) {
            hold.is_owned = wanted.contains(&hold.lock) && is_owned(&names.frames(hold.place));
        }
        snapshot
    }

    fn permit_lock(&self, lock: LockId, names: &Names<'_, '_>) -> Option<PermitLock> {
        let row = self.locks.get(lock.0 as usize).filter(|row| row.gone == 0)?;
        // It may have handed its end of the channel to a task that it spawned since.
        let task = row.users as u32 & 0xffff;
        let is_receiver = |known: &TaskRow| {
            known.address != 0 && receiver_of(task, known.number, known.spawns) == row.users && row.users != 0
        };
        let receiver = self.tasks.get(task as usize).filter(|known| is_receiver(known)).map(|_| task);
        Some(PermitLock {
            kind: permits(&names.frames(Place(row.first_access)))?,
            is_unsure: row.lock_type & LOCK_UNSURE != 0,
            is_handed_over: row.users != 0,
            receiver,
        })
    }

    /// The deadlocks among tasks.
    pub(in crate::analyze) fn task_deadlocks(
        &self,
        before: &Recorded,
        now_ns: u64,
        names: &Names<'_, '_>,
    ) -> Vec<Finding> {
        let waits = |row: &TaskRow| row.address != 0 && row.waits.iter().any(|wait| wait.future != 0);
        if !self.tasks.iter().any(waits) {
            return Vec::new();
        }
        task_waits::explain(&self.task_snapshot(before, now_ns, names), names)
    }

    /// Explains a snapshot.
    pub(in crate::analyze) fn hang(&self, snapshot: &Snapshot, names: &Names<'_, '_>) -> Hang {
        deadlock::explain(snapshot, &|lock| self.rules(lock), names)
    }

    /// Whether someone waits for something that could be part of a deadlock; cheap, asked at every poll.
    pub fn has_waiters(&self) -> bool {
        self.live.values().any(|live| live.sequence & 1 == 1 && live.wait_timed == 0)
    }
}

pub(super) fn lock_type(row: &LockRow) -> Type {
    Type::from_u8(row.lock_type as u8)
}

/// The word of the report for a lock that counts permits.
pub(in crate::analyze) fn permits_name(permits: Option<Permits>) -> &'static str {
    match permits {
        Some(Permits::Mutex) => "tokio::sync::Mutex",
        Some(Permits::RwLock) => "tokio::sync::RwLock",
        Some(Permits::Channel) => "tokio::sync::mpsc",
        Some(Permits::Semaphore) | None => Type::TokioPermits.name(),
    }
}

/// What a lock that counts permits is, by the code that takes them.
pub(in crate::analyze) fn permits(frames: &[Frame]) -> Option<Permits> {
    const FILES: [(&str, Permits); 4] = [
        ("/src/sync/mutex.rs", Permits::Mutex),
        ("/src/sync/rwlock.rs", Permits::RwLock),
        ("/src/sync/semaphore.rs", Permits::Semaphore),
        ("/src/sync/mpsc/bounded.rs", Permits::Channel),
    ];
    let kind = |frame: &Frame| FILES.iter().find(|(file, _)| frame.file.ends_with(file)).map(|(_, kind)| *kind);
    frames.iter().find_map(kind)
}

/// Whether a guard is one that owns its lock, and may be sent anywhere.
pub(super) fn is_owned(frames: &[Frame]) -> bool {
    let tokio = frames.iter().take_while(|frame| frame.file.contains("/src/sync/"));
    tokio.into_iter().any(|frame| frame.function.contains("_owned"))
}

pub(super) fn hold(row: &HoldRow) -> Hold {
    let mode = match row.shared {
        HELD_ALONE => Mode::Exclusive,
        HELD_UPGRADABLE => Mode::Upgradable,
        _ => Mode::Shared,
    };
    Hold { lock: LockId(row.lock), mode, place: Place(row.access) }
}

/// Places that locks of one name may first be taken at, where they are numbered.
const PLACES_OF_A_NAME: usize = 64;

/// Names threads, places and locks of a recording.
pub(in crate::analyze) struct Names<'a, 'c> {
    context: RefCell<&'a mut Context<'c>>,
    locks: Vec<LockRow>,
    frames: RefCell<HashMap<Place, Vec<Frame>>>,
    /// Fields by the place of a first acquisition.
    fields: RefCell<HashMap<u32, Option<LockName>>>,
    /// Tasks by what the order log calls them.
    tasks: HashMap<u32, (Place, Option<u32>)>,
}

impl<'a, 'c> Names<'a, 'c> {
    pub(in crate::analyze) fn new(context: &'a mut Context<'c>, recorded: &Recorded) -> Names<'a, 'c> {
        Names {
            context: RefCell::new(context),
            locks: recorded.locks.clone(),
            frames: RefCell::default(),
            fields: RefCell::default(),
            tasks: task_order::spawned(&recorded.orders),
        }
    }

    /// The line of the program at a place.
    pub(super) fn line_key(&self, place: Place) -> Option<u64> {
        let frames = self.frames(place);
        let frame = primary(&frames).filter(|frame| frame.line != 0)?;
        let mut hasher = DefaultHasher::new();
        (&frame.file, frame.line).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Name and type of a lock that lies in no static: of the field that it was first taken through, or that place.
    fn name_by_acquisition(&self, row: &LockRow) -> (String, String) {
        let kind = self.kind(row);
        let field = self.field(row.first_access);
        let number = self.number(row, field.as_ref());
        let number = if number > 0 { format!(" (no. {number})") } else { String::new() };
        let frames = self.frames(Place(row.first_access));
        let first = primary(&frames).filter(|frame| frame.line > 0);
        match (field, first) {
            (Some(LockName::Declared { name, type_name }), _) => (format!("{name}{number}"), type_name),
            (Some(LockName::Source(text)), Some(frame)) => {
                let file = frame.file.rsplit('/').next().unwrap_or_default();
                (format!("{text}, first taken at {file}:{}{number}", frame.line), String::new())
            }
            (_, Some(frame)) => (format!("{kind} first taken at {}{number}", place(frame)), String::new()),
            (_, None) => (format!("{kind} at {:#x}", row.address), String::new()),
        }
    }

    /// The field that a lock was taken through at a place.
    fn field(&self, access: u32) -> Option<LockName> {
        if let Some(known) = self.fields.borrow().get(&access) {
            return known.clone();
        }
        let frames = self.frames(Place(access));
        let field = self.context.borrow().symbolizer.field_lock(&frames);
        self.fields.borrow_mut().insert(access, field.clone());
        field
    }

    /// The lock's number, from 1, among those that would have the same name; 0 where it is the only one.
    fn number(&self, row: &LockRow, field: Option<&LockName>) -> usize {
        let mut places = vec![row.first_access];
        if let Some(LockName::Declared { .. }) = field {
            // Only locks that the log names can be told of together with this one.
            for other in self.locks.iter().filter(|other| other.lock_type & LOCK_REFERENCED != 0) {
                let is_new = places.len() < PLACES_OF_A_NAME && !places.contains(&other.first_access);
                if is_new && lock_type(other) == lock_type(row) && self.field(other.first_access).as_ref() == field {
                    places.push(other.first_access);
                }
            }
        }
        let same = |other: &&LockRow| places.contains(&other.first_access) && lock_type(other) == lock_type(row);
        let of_name: Vec<u64> = self.locks.iter().filter(same).map(|other| other.address).collect();
        let position = of_name.iter().position(|address| *address == row.address).unwrap_or(0);
        if of_name.len() > 1 { position + 1 } else { 0 }
    }

    /// The word of the report for a lock's type.
    fn kind(&self, row: &LockRow) -> &'static str {
        match lock_type(row) {
            Type::TokioPermits => permits_name(permits(&self.frames(Place(row.first_access)))),
            lock => lock.name(),
        }
    }

    /// What locks first taken at one place have in common.
    pub(super) fn class_key(&self, row: &LockRow) -> u64 {
        let mut hasher = DefaultHasher::new();
        match primary(&self.frames(Place(row.first_access))) {
            Some(frame) if frame.line != 0 => (&frame.file, frame.line, &frame.function).hash(&mut hasher),
            Some(frame) => frame.module_offset.hash(&mut hasher),
            None => row.address.hash(&mut hasher),
        }
        if let Some((name, _)) = self.context.borrow().static_lock(row.address, self.kind(row)) {
            name.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Describe for Names<'_, '_> {
    fn thread(&self, serial: u32) -> Thread {
        if let Some(number) = serial.checked_sub(FIRST_TASK) {
            let (spawned, spawner) = self.tasks.get(&serial).copied().unwrap_or_default();
            return task_waits::thread_of_task(u64::from(number), spawned, spawner, self);
        }
        self.context.borrow().thread(serial).unwrap_or_else(|| Thread { serial, ..Thread::default() })
    }

    fn frames(&self, place: Place) -> Vec<Frame> {
        if let Some(known) = self.frames.borrow().get(&place) {
            return known.clone();
        }
        let mut context = self.context.borrow_mut();
        let row = context.recording.row::<AccessRow>(u64::from(place.0)).filter(|_| place.0 != 0);
        // The interposed function itself says nothing that the finding does not.
        let frames = row.map_or_else(Vec::new, |row| {
            let skipped = usize::from(row.site == NO_SITE);
            context.access_frames(&row).split_off(skipped)
        });
        self.frames.borrow_mut().insert(place, frames.clone());
        frames
    }

    fn lock(&self, lock: LockId) -> LockRef {
        let Some(row) = self.locks.get(lock.0 as usize).copied() else {
            return LockRef { name: format!("lock {}", lock.0), ..LockRef::default() };
        };
        let kind = self.kind(&row);
        let by_static = self.context.borrow().static_lock(row.address, kind);
        let (name, type_name) = match by_static {
            Some(named) => named,
            None => self.name_by_acquisition(&row),
        };
        LockRef {
            name,
            kind: kind.to_owned(),
            type_name,
            address: format!("{:#x}", row.address),
            mode: String::new(),
            acquired: Vec::new(),
        }
    }
}
