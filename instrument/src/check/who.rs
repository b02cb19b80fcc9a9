//! Who makes the access at hand: its row in the recording, found again through a cache of the thread's own.

use super::{memory, report};
use crate::record::{self, table};
use crate::rt::syscall;
use crate::thread::ThreadState;
use conprof_detect::{AccessId, Conflict, Event, Kind, Runtime, Slot};
use conprof_wire::recording::{AccessRow, EventKind, Interposed, NO_SITE, Table};
use core::sync::atomic::{AtomicBool, Ordering};

/// What makes an access.
#[derive(Clone, Copy)]
pub enum Who {
    /// No access is made.
    Nobody,
    /// An instruction.
    Site(u32),
    /// An interposed function that the topmost frame called.
    Interposed(Interposed),
}

/// Failed attempts at a lock after which the processor is given away.
const SPINS: u32 = 200;

/// One operation of a thread, as the detector sees its caller.
pub struct Operation<'a> {
    state: &'a mut ThreadState,
    who: Who,
    /// The access row, once it was asked for.
    id: Option<AccessId>,
}

impl<'a> Operation<'a> {
    #[inline(always)]
    pub fn new(state: &'a mut ThreadState, who: Who) -> Operation<'a> {
        Operation { state, who, id: None }
    }

    /// Finds the access row ahead where events are recorded: the log of an object's events is written under its lock.
    #[inline(always)]
    pub fn named(mut self) -> Operation<'a> {
        if record::event::wanted() {
            self.access_id();
        }
        self
    }

    fn log(&self, kind: EventKind, object: u64, size: u64, access: AccessId) {
        if record::event::wanted() {
            if self.state.check.is_adopted.replace(false) {
                // The thread's serial was not known at its adoption; nothing of it was recorded since.
                record::event::log(EventKind::Adopt, self.state.serial, 0, 0, 0);
            }
            record::event::log(kind, self.state.serial, object, size, access.number());
        }
    }

    /// Logs a release into an object of the event log that is no sync object.
    pub fn log_release(&self, object: u64) {
        self.log(EventKind::Release, object, 0, AccessId::LOST);
    }

    /// Logs an acquire from one.
    pub fn log_acquire(&self, object: u64) {
        self.log(EventKind::Acquire, object, 0, AccessId::LOST);
    }

    /// Logs a join.
    pub fn log_join(&self, child: u32) {
        self.log(EventKind::Join, u64::from(child), 0, AccessId::LOST);
    }
}

/// The row of an access that the thread makes now.
#[inline(always)]
pub fn find(state: &mut ThreadState, who: Who) -> AccessId {
    let (site, interposed) = match who {
        Who::Nobody => return AccessId::LOST,
        Who::Site(site) => (site, Interposed::None),
        Who::Interposed(function) => (NO_SITE, function),
    };
    let node = state.context();
    let lock_set = state.check.lock_set;
    let private = state.check.private;
    if private.is_null() {
        return AccessId::LOST;
    }
    // Interposed functions share a site number; the cache keeps them apart by numbers that no plan has.
    let key = if site == NO_SITE { NO_SITE - interposed as u32 } else { site };
    let hash = key.wrapping_mul(0x9e37_79b1) ^ node.wrapping_mul(0x85eb_ca6b) ^ lock_set.wrapping_mul(0xc2b2_ae35);
    let index = (hash >> 15) as usize % memory::ID_CACHE;
    // SAFETY: the thread's own memory; the index is below the cache's length. The detector's own part is not touched.
    let entry = unsafe { &mut *(&raw mut (*private).ids).cast::<memory::IdEntry>().add(index) };
    if entry.id != 0 && entry.site == key && entry.node == node && entry.lock_set == lock_set {
        return AccessId::new(entry.id);
    }
    let id = find_slow(state, site, interposed, node, lock_set);
    *entry = memory::IdEntry { site: key, node, lock_set, id: id.number() };
    id
}

/// Set when the table of access rows is nearly full.
static NEARLY_FULL: AtomicBool = AtomicBool::new(false);

#[cold]
#[inline(never)]
fn find_slow(state: &ThreadState, site: u32, interposed: Interposed, node: u32, lock_set: u32) -> AccessId {
    let slot = state.check.slot;
    // The serial is known only after the slot is: the row of the thread in the recording names the slot.
    memory::detector().set_owner(Slot::new(slot as usize), state.serial);
    let mut row = AccessRow { site, node, lock_set, slot: slot as u16, interposed: interposed as u16 };
    if NEARLY_FULL.load(Ordering::Relaxed) {
        // A row for each site and thread is left: as many stacks as possible keep their innermost line.
        (row.node, row.lock_set) = (0, 0);
    }
    let id = record::context::access(&row);
    let capacity = table::capacity(Table::Accesses).min(1 << AccessId::BITS);
    if id >= capacity / 8 * 7 {
        NEARLY_FULL.store(true, Ordering::Relaxed);
    }
    AccessId::new(id)
}

/// The access row of a site in the thread's present context.
pub fn row_of_site(state: &mut ThreadState, site: u32) -> u32 {
    let who = if site == NO_SITE { Who::Interposed(Interposed::None) } else { Who::Site(site) };
    find(state, who).number()
}

impl Runtime for Operation<'_> {
    #[inline(always)]
    fn access_id(&mut self) -> AccessId {
        match self.id {
            Some(id) => id,
            None => {
                let id = find(self.state, self.who);
                self.id = Some(id);
                id
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn conflict(&mut self, conflict: &Conflict, granule: usize, mask: u8, kind: Kind) {
        let id = self.access_id();
        report::race(self.state, id, conflict, granule, mask, kind);
    }

    fn pause(&mut self, spins: u32) {
        if spins.is_multiple_of(SPINS) {
            syscall::yield_now();
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Release(object) => self.log(EventKind::Release, object, 0, self.id.unwrap_or_default()),
            Event::Acquire(object) => self.log(EventKind::Acquire, object, 0, self.id.unwrap_or_default()),
            Event::Destroy(object) => self.log(EventKind::Destroy, object, 0, AccessId::LOST),
            Event::Access { address, size, kind, id } => {
                let kind = match kind {
                    Kind::Read => EventKind::Read,
                    Kind::Write | Kind::Update => EventKind::Write,
                    Kind::Free => EventKind::Free,
                };
                self.log(kind, address as u64, size as u64, id);
            }
            Event::Clean { address, size } => self.log(EventKind::Clean, address as u64, size as u64, AccessId::LOST),
            Event::Atomic { address, size } => {
                self.log(EventKind::Atomic, address as u64, size as u64, AccessId::LOST);
            }
        }
    }

    fn discard(&mut self, start: usize, len: usize) {
        syscall::advise(start, len, libc::MADV_DONTNEED);
        memory::discarded(start, len);
    }
}
