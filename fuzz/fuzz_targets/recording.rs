//! A recording, through the analysis, the report and all that is derived from recorded events.

#![no_main]

use conprof::analyze::{Ending, Session, replay};
use conprof::trace::{Recording, RunRecord};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

unsafe extern "C" {
    fn memfd_create(name: *const std::ffi::c_char, flags: u32) -> i32;
}

/// Tables lie a page apart in a recording; the input is their beginnings, so that it stays small.
const PIECE_BYTES: usize = 256;
const PAGE: u64 = 4096;

fn file(data: &[u8]) -> File {
    // SAFETY: the name ends in a zero byte, and the new descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(memfd_create(c"recording".as_ptr(), 1)) };
    let (header, tables) = data.split_at(data.len().min(PAGE as usize));
    file.write_all_at(header, 0).expect("memory");
    for (number, piece) in tables.chunks(PIECE_BYTES).enumerate() {
        file.write_all_at(piece, PAGE * (number as u64 + 1)).expect("memory");
    }
    file.set_len(file.metadata().expect("memory").len().next_multiple_of(PAGE)).expect("memory");
    file
}

fuzz_target!(|data: &[u8]| {
    let Ok(recording) = Recording::from_file(file(data)) else { return };
    replay::replay_recording(&recording);
    let run = RunRecord {
        checks: ["data-race", "lock-order-inversion", "deadlock", "lost-wakeup"].map(String::from).to_vec(),
        ..RunRecord::default()
    };
    let mut session = Session::new(recording, run);
    let _ = session.look_at_waits(None, 0);
    let _ = session.look_at_waits(None, 1);
    let _ = session.lock_order();
    let _ = session.report(&Ending { pid: 1, exit: None, duration: Duration::ZERO });
});
