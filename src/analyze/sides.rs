//! The two sides of a finding as stacks.

use super::session::CREATION_FRAMES;
use crate::elf::Avma;
use crate::report::{Frame, LockRef, Stack, Thread};
use crate::symbolize::{LockName, Sources, Symbolizer};
use crate::trace::Recording;
use crate::wire::recording::*;
use crate::wire::site::PackedSite;

/// Bits of [`SideRow::flags`].
pub(super) const SIDE_WRITE: u32 = 1;
pub(super) const SIDE_ATOMIC: u32 = 2;
pub(super) const SIDE_FREE: u32 = 4;
pub(super) const SIDE_NEIGHBOUR: u32 = 8;

/// What turning rows into stacks needs.
pub(super) struct Context<'a> {
    pub(super) recording: &'a Recording,
    pub(super) symbolizer: &'a Symbolizer,
    pub(super) sources: Option<&'a mut Sources>,
    pub(super) threads: &'a [Thread],
    /// Slots by serial.
    pub(super) slots: &'a [u32],
    /// Nodes of the stacks that created the threads, by serial.
    pub(super) births: &'a [u32],
    pub(super) main_bias: u64,
}

impl Context<'_> {
    /// Frames of a calling context, innermost first.
    pub(super) fn node_frames(&mut self, node: u32) -> Vec<Frame> {
        let frames = self.call_frames(node);
        self.with_sources(frames)
    }

    /// The same without the sources' lines.
    fn call_frames(&self, node: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        for return_address in self.recording.return_addresses(node) {
            // The call is the instruction before the one it returns to.
            frames.extend(self.symbolizer.frames(Avma(return_address.wrapping_sub(1))));
        }
        frames
    }

    /// Frames of an access, innermost first; empty where its row says nothing.
    pub(super) fn access_frames(&mut self, row: &AccessRow) -> Vec<Frame> {
        let mut frames = Vec::new();
        if row.site == NO_SITE {
            frames.push(Frame { function: interposed_name(row.interposed).to_string(), ..Frame::default() });
        } else if let Some(site) = self.recording.row::<SiteRow>(u64::from(row.site)) {
            frames.extend(self.symbolizer.frames(Avma(site.pc.wrapping_add(self.main_bias))));
        }
        let mut frames = self.with_sources(frames);
        frames.extend(self.node_frames(row.node));
        frames
    }

    /// The same with the sources' lines.
    pub(super) fn creation_with_sources(&mut self, serial: u32) -> Vec<Frame> {
        let frames = self.creation(serial);
        self.with_sources(frames)
    }

    fn with_sources(&mut self, mut frames: Vec<Frame>) -> Vec<Frame> {
        if let Some(sources) = self.sources.as_deref_mut() {
            for frame in frames.iter_mut().filter(|frame| crate::report::place::is_own_source(&frame.file)) {
                frame.source = sources.excerpt(frame);
            }
        }
        frames
    }

    /// The thread with a serial.
    pub(super) fn thread(&self, serial: u32) -> Option<Thread> {
        let mut thread = self.threads.get(serial as usize).cloned()?;
        if thread.created_at.is_empty() {
            thread.created_at = self.creation(serial);
        }
        Some(thread)
    }

    /// The stack that created the thread with a serial, innermost frame first.
    pub(super) fn creation(&self, serial: u32) -> Vec<Frame> {
        let mut frames = self.births.get(serial as usize).map_or_else(Vec::new, |node| self.call_frames(*node));
        frames.truncate(CREATION_FRAMES);
        frames
    }

    /// The access row of a side, unless it belongs to another thread's access.
    pub(super) fn access(&self, side: &SideRow) -> Option<AccessRow> {
        if side.access == 0 {
            return None;
        }
        let row = self.recording.row::<AccessRow>(u64::from(side.access))?;
        let slot = self.slots.get(side.thread as usize)?;
        (u32::from(row.slot) == *slot).then_some(row)
    }

    /// The site of an access, where it is one of the program's own instructions.
    pub(super) fn site(&self, row: &AccessRow) -> Option<PackedSite> {
        if row.site == NO_SITE {
            return None;
        }
        self.recording.row::<SiteRow>(u64::from(row.site)).map(|site| PackedSite(site.packed))
    }

    /// A side as a stack.
    pub(super) fn stack(&mut self, side: &SideRow) -> Stack {
        let access = self.access(side);
        let frames = access.map_or_else(Vec::new, |row| self.access_frames(&row));
        let lost = match (frames.is_empty(), access) {
            (false, _) => String::new(),
            (true, Some(_)) => "the instruction is not in the recording".to_string(),
            (true, None) if self.ran_out_of_rows() => {
                "the recording ran out of room for accesses; a larger --max-recording keeps more".to_string()
            }
            (true, None) => {
                "both accesses took place at the same moment, and what was noted of this one is overwritten".to_string()
            }
        };
        let locks_held = access.map_or_else(Vec::new, |row| self.locks(row.lock_set));
        Stack {
            role: role(side.flags).to_string(),
            thread: self.thread(side.thread),
            size: (side.size > 0).then_some(side.size),
            lock: None,
            locks_held,
            frames,
            lost,
        }
    }

    /// Whether the table of accesses was too small.
    fn ran_out_of_rows(&self) -> bool {
        self.recording.header().is_ok_and(|header| header.dropped[Table::Accesses as usize] > 0)
    }

    fn locks(&mut self, lock_set: u32) -> Vec<LockRef> {
        let mut locks = Vec::new();
        for row in self.recording.lock_set(lock_set) {
            let acquired = match self.recording.row::<AccessRow>(u64::from(row.acquired_at)) {
                Some(access) if row.acquired_at != 0 => self.access_frames(&access),
                _ => Vec::new(),
            };
            let (name, type_name) = self.lock_name(row.lock, &acquired);
            locks.push(LockRef {
                name,
                kind: String::new(),
                type_name,
                address: format!("{:#x}", row.lock),
                mode: if row.shared == 0 { "exclusive" } else { "shared" }.to_string(),
                acquired,
            });
        }
        locks
    }

    /// Name and type of a lock in a static, as far as known. `kind` is the lock's type as the report calls it.
    pub(super) fn static_lock(&self, address: u64, kind: &str) -> Option<(String, String)> {
        match self.symbolizer.static_lock(Avma(address), kind)? {
            LockName::Declared { name, type_name } => Some((name, type_name)),
            LockName::Source(text) => Some((text, String::new())),
        }
    }

    /// Name and type of a static's or field's lock, or where it was taken.
    fn lock_name(&self, address: u64, acquired: &[Frame]) -> (String, String) {
        if let Some(named) = self.static_lock(address, "") {
            return named;
        }
        let place =
            crate::report::place::primary(acquired).filter(|frame| frame.line > 0).map(crate::report::place::place);
        match (self.symbolizer.field_lock(acquired), place) {
            (Some(LockName::Declared { name, type_name }), _) => (name, type_name),
            (Some(LockName::Source(text)), Some(place)) => (format!("{text}, taken at {place}"), String::new()),
            (_, Some(place)) => (format!("the lock taken at {place}"), String::new()),
            (_, None) => (format!("the lock at {address:#x}"), String::new()),
        }
    }
}

/// Name of a side's role in the report.
pub(super) fn role(flags: u32) -> &'static str {
    match (flags & SIDE_FREE != 0, flags & SIDE_WRITE != 0, flags & SIDE_ATOMIC != 0) {
        (true, ..) => "free",
        (_, true, true) => "atomic-write",
        (_, true, false) => "write",
        (_, false, true) => "atomic-read",
        (_, false, false) => "read",
    }
}

fn interposed_name(number: u16) -> &'static str {
    const NAMES: [(Interposed, &str); 14] = [
        (Interposed::Memcpy, "memcpy"),
        (Interposed::Memmove, "memmove"),
        (Interposed::Memset, "memset"),
        (Interposed::Memcmp, "memcmp"),
        (Interposed::Strlen, "strlen"),
        (Interposed::Strcpy, "strcpy"),
        (Interposed::Strcmp, "strcmp"),
        (Interposed::Free, "free"),
        (Interposed::Realloc, "realloc"),
        (Interposed::Syscall, "system call"),
        (Interposed::Munmap, "munmap"),
        (Interposed::OtherString, "string function"),
        (Interposed::Read, "read"),
        (Interposed::Write, "write"),
    ];
    NAMES.iter().find(|(which, _)| *which as u16 == number).map_or("library function", |(_, name)| name)
}
