//! Whatever a recording holds, reading and analysing it ends, without a panic.

use conprof::analyze::{Ending, Session};
use conprof::launch::{RecordingOptions, create_recording};
use conprof::trace::{Recording, RunRecord};
use conprof::wire::recording::{CONFIG_RACES, CONFIG_RECORD_FULL, SiteRow};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// A fixed sequence of pseudo-random numbers (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn analyse(path: &std::path::Path) {
    let Ok(recording) = Recording::open(path) else { return };
    let ending = Ending { pid: 1, exit: None, duration: Duration::ZERO };
    // An error is an answer; a panic or an endless loop is none.
    let _ = Session::new(recording, RunRecord::default()).report(&ending);
}

fn small_recording(path: &std::path::Path) -> u64 {
    let sites = vec![SiteRow { pc: 0x1000, packed: 0 }; 16];
    let config = CONFIG_RACES | CONFIG_RECORD_FULL;
    let file =
        create_recording(path, &RecordingOptions { config, max_bytes: 16 << 20, nodes: 1024, sites }).expect("created");
    file.metadata().expect("metadata").len()
}

#[test]
fn every_cut_of_the_header_is_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording");
    small_recording(&path);
    let header = fs::read(&path).expect("read")[..4096].to_vec();
    for len in [0, 1, 7, 8, 100, 4095, 4096] {
        fs::write(&path, &header[..len]).expect("written");
        analyse(&path);
    }
}

#[test]
fn random_bytes_anywhere_are_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..24 {
        let len = small_recording(&path);
        let file = fs::File::options().write(true).open(&path).expect("opened");
        // Row counts that cover something, then noise in a stretch of the tables and, in some rounds, in the header as well.
        for table in 0..16u64 {
            let count = numbers.next() % 40;
            file.write_all_at(&count.to_le_bytes(), 16 + table * 32 + 16).expect("written");
        }
        for _ in 0..200 {
            let from = if round % 3 == 0 { 8 } else { 4096 };
            let at = from + numbers.next() % (len - from - 8);
            file.write_all_at(&numbers.next().to_le_bytes(), at).expect("written");
        }
        // The starts of all tables, where the rows are that the counts cover.
        for table in 0..16u64 {
            let header = fs::read(&path).expect("read");
            let at = (16 + table * 32) as usize;
            let offset = u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
            for word in 0..256u64 {
                let small = numbers.next() % 50;
                let value = if word % 3 == 0 { numbers.next() } else { small | (small << 32) };
                if offset.saturating_add(word * 8 + 8) <= len {
                    file.write_all_at(&value.to_le_bytes(), offset + word * 8).expect("written");
                }
            }
        }
        analyse(&path);
    }
}
