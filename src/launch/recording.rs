//! Laying out the recording before the program starts, and trimming it afterwards.

use crate::trace::{ROW_SIZES, Row};
use crate::wire::VERSION;
use crate::wire::incident::IncidentRow;
use crate::wire::locks::{LiveRow, LockRow, OrderRow, TaskRow};
use crate::wire::recording::*;
use crate::wire::waits::{BlameTotalRow, LockFiguresRow, WaitEventRow, WaitTotalRow};
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Size choices for a recording.
#[derive(Clone, Debug)]
pub struct RecordingOptions {
    /// `CONFIG_*` bits.
    pub config: u32,
    /// Most bytes it may take.
    pub max_bytes: u64,
    /// Calling contexts to keep.
    pub nodes: u64,
    /// Sites of the plan.
    pub sites: Vec<SiteRow>,
}

const PAGE: u64 = 4096;
/// Access ids have this many values.
const ACCESS_IDS: u64 = 1 << crate::wire::state::ACCESS_ID_BITS;

/// Capacity of each table, in rows.
fn capacities(options: &RecordingOptions) -> [u64; TABLE_COUNT] {
    // The whole is shared out in eighths: two for stacks, two for accesses, and events get what is left.
    let quarter = options.max_bytes / 4;
    let nodes = options.nodes.min(quarter / NodeRow::SIZE as u64).max(1024);
    let accesses = ACCESS_IDS.min(quarter / AccessRow::SIZE as u64).max(1024);
    let threads = (options.max_bytes / 32 / ThreadRow::SIZE as u64).clamp(1024, 1 << 17);
    let lock_sets = 1 << 16;
    let findings = 4096;
    let modules = 512;
    let sites = options.sites.len() as u64;
    let mut rows = [0; TABLE_COUNT];
    rows[Table::Threads as usize] = threads;
    rows[Table::Nodes as usize] = nodes;
    rows[Table::Accesses as usize] = accesses;
    rows[Table::LockSets as usize] = lock_sets;
    rows[Table::Findings as usize] = findings;
    rows[Table::Modules as usize] = modules;
    rows[Table::Sites as usize] = sites;
    if options.config & CONFIG_LOCKS != 0 {
        rows[Table::Locks as usize] = (options.max_bytes / 64 / LockRow::SIZE as u64).clamp(1024, 1 << 17);
        // A task's row has the number of its row among the locks.
        let tasks = options.max_bytes / 32 / TaskRow::SIZE as u64;
        rows[Table::Tasks as usize] = tasks.clamp(256, 1 << 15).min(rows[Table::Locks as usize]);
        rows[Table::Live as usize] = (options.max_bytes / 64 / LiveRow::SIZE as u64).clamp(256, 1 << 14).min(threads);
        rows[Table::Orders as usize] = (options.max_bytes / 32 / OrderRow::SIZE as u64).clamp(1024, 1 << 16);
    }
    if options.config & CONFIG_CONTENTION != 0 {
        let share = |size: usize, most: u64| (options.max_bytes / 32 / size as u64).clamp(256, most);
        rows[Table::LockFigures as usize] = share(LockFiguresRow::SIZE, 1 << 13);
        rows[Table::WaitTotals as usize] = share(WaitTotalRow::SIZE, 1 << 16);
        rows[Table::BlameTotals as usize] = share(BlameTotalRow::SIZE, 1 << 16);
        rows[Table::Incidents as usize] = share(IncidentRow::SIZE, 1 << 13);
        rows[Table::WaitEvents as usize] = share(WaitEventRow::SIZE, 1 << 17);
    }
    if options.config & CONFIG_RECORD_FULL != 0 {
        let taken: u64 = rows.iter().zip(ROW_SIZES).map(|(count, size)| count * size).sum();
        rows[Table::Events as usize] = options.max_bytes.saturating_sub(taken) / EventRow::SIZE as u64;
    }
    rows
}

/// Creates the file, with its disk space reserved, and returns it open for reading and writing.
pub fn create_recording(path: &Path, options: &RecordingOptions) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let rows = capacities(options);
    let mut header = vec![0u8; size_of::<Header>()];
    let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(Header, version), &VERSION.to_le_bytes());
    put(offset_of!(Header, config), &options.config.to_le_bytes());
    let mut end = PAGE;
    let mut site_offset = 0;
    for (index, (&capacity, row_size)) in rows.iter().zip(ROW_SIZES).enumerate() {
        let at = offset_of!(Header, tables) + index * size_of::<TableHeader>();
        put(at + offset_of!(TableHeader, offset), &end.to_le_bytes());
        put(at + offset_of!(TableHeader, capacity), &capacity.to_le_bytes());
        if index == Table::Sites as usize {
            put(at + offset_of!(TableHeader, count), &capacity.to_le_bytes());
            site_offset = end;
        }
        end += (capacity * row_size).next_multiple_of(PAGE);
    }
    put(offset_of!(Header, magic), &MAGIC.to_le_bytes());
    crate::os::reserve(&file, end)?;
    let mut sites = Vec::with_capacity(options.sites.len() * SiteRow::SIZE);
    for site in &options.sites {
        sites.extend_from_slice(&site.pc.to_le_bytes());
        sites.extend_from_slice(&site.packed.to_le_bytes());
    }
    file.write_all_at(&sites, site_offset)?;
    file.write_all_at(&header, 0)?;
    Ok(file)
}

/// Gives back the space that no row was written to. Failure costs only disk space.
pub fn trim_recording(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut header = vec![0u8; size_of::<Header>()];
    file.read_exact_at(&mut header, 0)?;
    let number = |offset: usize| {
        let mut raw = [0u8; 8];
        raw.copy_from_slice(&header[offset..offset + 8]);
        u64::from_le_bytes(raw)
    };
    let file_len = file.metadata()?.len();
    for (index, row_size) in ROW_SIZES.iter().enumerate() {
        let at = offset_of!(Header, tables) + index * size_of::<TableHeader>();
        let offset = number(at + offset_of!(TableHeader, offset));
        let capacity = number(at + offset_of!(TableHeader, capacity));
        let used = number(at + offset_of!(TableHeader, count)).min(capacity);
        let start = offset.saturating_add(used.saturating_mul(*row_size)).next_multiple_of(PAGE);
        let end = offset.saturating_add(capacity.saturating_mul(*row_size)).min(file_len) / PAGE * PAGE;
        if start < end {
            crate::os::punch_hole(&file, start, end - start)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Recording;

    #[test]
    fn a_created_recording_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("recording");
        let options = RecordingOptions {
            config: CONFIG_RACES,
            max_bytes: 16 << 20,
            nodes: 1000,
            sites: vec![SiteRow { pc: 0x1234, packed: 7 }, SiteRow { pc: 0x5678, packed: 8 }],
        };
        let file = create_recording(&path, &options).expect("created");
        assert!(file.metadata().expect("metadata").len() <= 16 << 20);
        let recording = Recording::open(&path).expect("opened");
        assert_eq!(recording.config(), CONFIG_RACES);
        assert_eq!(recording.header().expect("header").counts[Table::Sites as usize], 2);
        assert_eq!(recording.row::<SiteRow>(1), Some(SiteRow { pc: 0x5678, packed: 8 }));
        assert_eq!(recording.row::<SiteRow>(2), None);
        trim_recording(&path).expect("trimmed");
        assert_eq!(recording.row::<SiteRow>(0), Some(SiteRow { pc: 0x1234, packed: 7 }));
    }
}
