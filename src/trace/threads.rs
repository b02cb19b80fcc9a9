//! The rows of threads, followed while the program runs.

use super::Recording;
use crate::wire::recording::ThreadRow;

/// The table of threads as far as it was read.
///
/// The row of a thread that has finished does not change any more, so only the others are read anew: a program may start threads by
/// the ten thousand, and the table is looked at many times a second.
#[derive(Debug, Default)]
pub struct ThreadRows {
    rows: Vec<ThreadRow>,
    /// Serials of those that had not finished, ascending.
    running: Vec<u64>,
}

impl ThreadRows {
    /// Reads the rows that may have changed, of a table with `count` rows. Gives their serials, ascending.
    pub fn refresh(&mut self, recording: &Recording, count: u64) -> Vec<u64> {
        let mut looked = std::mem::take(&mut self.running);
        looked.extend(self.rows.len() as u64..count);
        recording.rows_at(&looked, |serial, row| match self.rows.get_mut(serial as usize) {
            Some(known) => *known = row,
            None => self.rows.push(row),
        });
        // What could not be read counts as it was.
        looked.retain(|serial| (*serial as usize) < self.rows.len());
        let runs = |serial: &u64| self.rows.get(*serial as usize).is_some_and(|row| row.finished == 0);
        self.running = looked.iter().copied().filter(runs).collect();
        looked
    }

    /// All rows, by serial.
    pub fn all(&self) -> &[ThreadRow] {
        &self.rows
    }

    /// Serials of the threads that had not finished, ascending.
    pub fn running(&self) -> &[u64] {
        &self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::recording::{Header, MAGIC, Table, TableHeader};
    use std::fs::File;
    use std::mem::offset_of;
    use std::os::unix::fs::FileExt;

    /// A recording with a table of threads, and a way to write a row's `finished`.
    fn recording(threads: u64) -> (File, u64) {
        let file = tempfile::tempfile().expect("a temporary file");
        let offset = size_of::<Header>() as u64;
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("written");
        file.set_len(offset + threads * size_of::<ThreadRow>() as u64).expect("grown");
        put(offset_of!(Header, magic) as u64, &MAGIC.to_le_bytes());
        put(offset_of!(Header, version) as u64, &crate::wire::VERSION.to_le_bytes());
        let table = (offset_of!(Header, tables) + Table::Threads as usize * size_of::<TableHeader>()) as u64;
        put(table + offset_of!(TableHeader, offset) as u64, &offset.to_le_bytes());
        put(table + offset_of!(TableHeader, capacity) as u64, &threads.to_le_bytes());
        for serial in 0..threads {
            put(offset + serial * size_of::<ThreadRow>() as u64, &(serial as u32 + 100).to_le_bytes());
        }
        (file, offset)
    }

    #[test]
    fn only_rows_that_may_have_changed_are_read_again() {
        let (file, offset) = recording(10);
        let finish = |serial: u64| {
            let at = offset + serial * size_of::<ThreadRow>() as u64 + offset_of!(ThreadRow, finished) as u64;
            file.write_all_at(&1u32.to_le_bytes(), at).expect("written");
        };
        let reader = Recording::from_file(file.try_clone().expect("a second handle")).expect("a recording");
        let mut rows = ThreadRows::default();
        assert_eq!(rows.refresh(&reader, 4), [0, 1, 2, 3]);
        finish(1);
        finish(2);
        assert_eq!(rows.refresh(&reader, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows.refresh(&reader, 7), [0, 3, 4, 5, 6]);
        assert_eq!(rows.running(), [0, 3, 4, 5, 6]);
        let tids: Vec<u32> = rows.all().iter().map(|row| row.tid).collect();
        assert_eq!(tids, [100, 101, 102, 103, 104, 105, 106]);
        assert_eq!(rows.all().iter().filter(|row| row.finished != 0).count(), 2);
    }

    #[test]
    fn a_count_beyond_the_file_reads_what_is_there() {
        let (file, _) = recording(3);
        let reader = Recording::from_file(file).expect("a recording");
        let mut rows = ThreadRows::default();
        assert_eq!(rows.refresh(&reader, 9), [0, 1, 2]);
        assert_eq!(rows.refresh(&reader, 9), [0, 1, 2]);
    }
}
