//! Opening a recording and reading tables and chains.

use super::rows::{Row, at};
use crate::wire::VERSION;
use crate::wire::incident::IncidentRow;
use crate::wire::locks::{LiveRow, LockRow, OrderRow, TaskRow};
use crate::wire::recording::*;
use crate::wire::waits::{BlameTotalRow, LockFiguresRow, WaitEventRow, WaitTotalRow};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longest chain of nodes or locks that is followed.
pub const MAX_DEPTH: usize = 2048;

/// Rows read at once by [`Recording::rows`].
const CHUNK_ROWS: u64 = 4096;

/// Why a recording can't be read.
#[derive(Debug)]
pub enum TraceError {
    /// The file could not be read.
    Io(io::Error),
    /// It is no recording, or one of another version.
    NotARecording(&'static str),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Io(error) => write!(f, "the recording can't be read: {error}"),
            TraceError::NotARecording(why) => write!(f, "not a recording of this version of conprof: {why}"),
        }
    }
}

impl std::error::Error for TraceError {}

impl From<io::Error> for TraceError {
    fn from(error: io::Error) -> Self {
        TraceError::Io(error)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct TablePlace {
    offset: u64,
    capacity: u64,
}

/// The header's changing numbers at one moment.
#[derive(Clone, Debug)]
pub struct HeaderView {
    /// Process id of the target; 0 before the shim ran.
    pub pid: u32,
    /// [`Phase`] as number.
    pub phase: u32,
    /// Run-time bias of the main program.
    pub main_bias: u64,
    /// [`Degraded`] bits.
    pub degraded: u64,
    /// Code section in memory.
    pub code: (u64, u64),
    /// Most threads alive at once.
    pub threads_peak: u64,
    /// When the shim started, on the monotonic clock; 0 before it did.
    pub start_ns: u64,
    /// Counters, by [`Counter`].
    pub counters: [u64; COUNTER_COUNT],
    /// Rows usable, by table.
    pub counts: [u64; TABLE_COUNT],
    /// Rows dropped, by table.
    pub dropped: [u64; TABLE_COUNT],
}

impl HeaderView {
    /// A counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Whether the shim could not do something.
    pub fn is_degraded(&self, what: Degraded) -> bool {
        self.degraded & what as u64 != 0
    }
}

/// An open recording.
#[derive(Debug)]
pub struct Recording {
    file: File,
    tables: [TablePlace; TABLE_COUNT],
    config: u32,
    /// Blocks of the file that single rows were read from, since the header was last read.
    blocks: RefCell<HashMap<u64, Box<[u8]>>>,
}

/// Length of a row of each table, in bytes; 1 for numbers that are no table.
pub(crate) const ROW_SIZES: [u64; TABLE_COUNT] = {
    let mut sizes = [1; TABLE_COUNT];
    sizes[Table::Threads as usize] = size_of::<ThreadRow>() as u64;
    sizes[Table::Nodes as usize] = size_of::<NodeRow>() as u64;
    sizes[Table::Accesses as usize] = size_of::<AccessRow>() as u64;
    sizes[Table::LockSets as usize] = size_of::<LockSetRow>() as u64;
    sizes[Table::Findings as usize] = size_of::<FindingRow>() as u64;
    sizes[Table::Modules as usize] = size_of::<ModuleRow>() as u64;
    sizes[Table::Events as usize] = size_of::<EventRow>() as u64;
    sizes[Table::Sites as usize] = size_of::<SiteRow>() as u64;
    sizes[Table::Locks as usize] = size_of::<LockRow>() as u64;
    sizes[Table::Live as usize] = size_of::<LiveRow>() as u64;
    sizes[Table::Orders as usize] = size_of::<OrderRow>() as u64;
    sizes[Table::LockFigures as usize] = size_of::<LockFiguresRow>() as u64;
    sizes[Table::WaitTotals as usize] = size_of::<WaitTotalRow>() as u64;
    sizes[Table::BlameTotals as usize] = size_of::<BlameTotalRow>() as u64;
    sizes[Table::Incidents as usize] = size_of::<IncidentRow>() as u64;
    sizes[Table::WaitEvents as usize] = size_of::<WaitEventRow>() as u64;
    sizes[Table::Tasks as usize] = size_of::<TaskRow>() as u64;
    sizes
};

/// Offset of a table's header.
const fn table_header(table: usize) -> usize {
    offset_of!(Header, tables) + table * size_of::<TableHeader>()
}

impl Recording {
    /// Opens the recording at a path.
    pub fn open(path: &Path) -> Result<Recording, TraceError> {
        Recording::from_file(File::open(path)?)
    }

    /// Checks a file's header and takes it as a recording.
    pub fn from_file(file: File) -> Result<Recording, TraceError> {
        let file_len = file.metadata()?.len();
        let mut header = [0u8; size_of::<Header>()];
        file.read_exact_at(&mut header, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => TraceError::NotARecording("the file is too short"),
            _ => TraceError::Io(error),
        })?;
        if at!(header, offset_of!(Header, magic), u64) != MAGIC {
            return Err(TraceError::NotARecording("it does not begin with the mark of one"));
        }
        if at!(header, offset_of!(Header, version), u32) != VERSION {
            return Err(TraceError::NotARecording("its version number is another"));
        }
        let mut tables = [TablePlace::default(); TABLE_COUNT];
        for (index, place) in tables.iter_mut().enumerate() {
            let start = table_header(index);
            let offset = at!(header, start + offset_of!(TableHeader, offset), u64);
            let capacity = at!(header, start + offset_of!(TableHeader, capacity), u64);
            // A table beyond the end of the file is cut to what is there.
            let room = file_len.saturating_sub(offset) / ROW_SIZES[index];
            *place = TablePlace { offset, capacity: capacity.min(room) };
        }
        Ok(Recording { file, tables, config: at!(header, offset_of!(Header, config), u32), blocks: RefCell::default() })
    }

    /// `CONFIG_*` bits that the run was started with.
    pub fn config(&self) -> u32 {
        self.config
    }

    /// Reads the header's numbers anew.
    pub fn header(&self) -> Result<HeaderView, TraceError> {
        let mut bytes = [0u8; size_of::<Header>()];
        self.file.read_exact_at(&mut bytes, 0)?;
        // What is counted from now on may lie in blocks that were read before it was written.
        self.blocks.borrow_mut().clear();
        let mut counts = [0; TABLE_COUNT];
        let mut dropped = [0; TABLE_COUNT];
        for index in 0..TABLE_COUNT {
            let start = table_header(index);
            counts[index] = at!(bytes, start + offset_of!(TableHeader, count), u64).min(self.tables[index].capacity);
            dropped[index] = at!(bytes, start + offset_of!(TableHeader, dropped), u64);
        }
        let mut counters = [0; COUNTER_COUNT];
        for (index, counter) in counters.iter_mut().enumerate() {
            *counter = at!(bytes, offset_of!(Header, counters) + index * 8, u64);
        }
        Ok(HeaderView {
            pid: at!(bytes, offset_of!(Header, pid), u32),
            phase: at!(bytes, offset_of!(Header, phase), u32),
            main_bias: at!(bytes, offset_of!(Header, main_bias), u64),
            degraded: at!(bytes, offset_of!(Header, degraded), u64),
            code: (at!(bytes, offset_of!(Header, code_start), u64), at!(bytes, offset_of!(Header, code_end), u64)),
            start_ns: at!(bytes, offset_of!(Header, start_ns), u64),
            threads_peak: at!(bytes, offset_of!(Header, threads_peak), u64),
            counters,
            counts,
            dropped,
        })
    }

    /// A row by its index, if the table has room for it and the file can be read.
    pub fn row<R: Row>(&self, index: u64) -> Option<R> {
        let place = self.tables[R::TABLE as usize];
        if index >= place.capacity {
            return None;
        }
        let mut bytes = vec![0u8; R::SIZE];
        self.read_cached(place.offset.checked_add(index * R::SIZE as u64)?, &mut bytes)?;
        Some(R::decode(&bytes))
    }

    /// Fills `bytes` from the file by way of the blocks read so far: chains of nodes share most of their rows.
    fn read_cached(&self, mut offset: u64, mut bytes: &mut [u8]) -> Option<()> {
        const BLOCK: u64 = 4096;
        let mut blocks = self.blocks.borrow_mut();
        while !bytes.is_empty() {
            let block = offset / BLOCK;
            if let std::collections::hash_map::Entry::Vacant(entry) = blocks.entry(block) {
                let mut contents = vec![0u8; BLOCK as usize];
                let read = self.file.read_at(&mut contents, block.checked_mul(BLOCK)?).ok()?;
                contents.truncate(read);
                entry.insert(contents.into_boxed_slice());
            }
            let start = (offset % BLOCK) as usize;
            let available = blocks.get(&block)?.get(start..).filter(|rest| !rest.is_empty())?;
            let count = available.len().min(bytes.len());
            let (now, rest) = bytes.split_at_mut(count);
            now.copy_from_slice(&available[..count]);
            bytes = rest;
            offset = offset.checked_add(count as u64)?;
        }
        Some(())
    }

    /// Calls `visit` with the rows `from..to` and their indices, until it returns false or a row can't be read.
    pub fn rows<R: Row>(&self, from: u64, to: u64, mut visit: impl FnMut(u64, R) -> bool) {
        let place = self.tables[R::TABLE as usize];
        let to = to.min(place.capacity);
        let mut next = from;
        let mut buffer = Vec::new();
        while next < to {
            let count = (to - next).min(CHUNK_ROWS);
            buffer.resize(count as usize * R::SIZE, 0);
            let Some(offset) = place.offset.checked_add(next * R::SIZE as u64) else { return };
            if self.file.read_exact_at(&mut buffer, offset).is_err() {
                return;
            }
            for (index, bytes) in buffer.chunks_exact(R::SIZE).enumerate() {
                if !visit(next + index as u64, R::decode(bytes)) {
                    return;
                }
            }
            next += count;
        }
    }

    /// Calls `visit` with the rows at these indices, which ascend, as far as they can be read.
    pub fn rows_at<R: Row>(&self, indices: &[u64], mut visit: impl FnMut(u64, R)) {
        for run in indices.chunk_by(|one, next| one + 1 == *next) {
            if let [first, ..] = *run {
                self.rows(first, first.saturating_add(run.len() as u64), |index, row| {
                    visit(index, row);
                    true
                });
            }
        }
    }

    /// The rows `from..to`, collected.
    pub fn collect<R: Row>(&self, from: u64, to: u64) -> Vec<R> {
        let mut all = Vec::new();
        self.rows(from, to, |_, row| {
            all.push(row);
            true
        });
        all
    }

    /// Return addresses of a calling context, innermost first.
    pub fn return_addresses(&self, node: u32) -> Vec<u64> {
        let mut addresses = Vec::new();
        let mut next = node;
        while next != 0 && addresses.len() < MAX_DEPTH {
            let Some(row) = self.row::<NodeRow>(u64::from(next)) else { break };
            addresses.push(row.return_address);
            next = row.parent;
        }
        addresses
    }

    /// The locks of a lock set, latest first.
    pub fn lock_set(&self, lock_set: u32) -> Vec<LockSetRow> {
        let mut locks = Vec::new();
        let mut next = lock_set;
        while next != 0 && locks.len() < 64 {
            let Some(row) = self.row::<LockSetRow>(u64::from(next)) else { break };
            next = row.parent;
            locks.push(row);
        }
        locks
    }
}
