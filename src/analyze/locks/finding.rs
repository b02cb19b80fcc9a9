//! Building findings: stacks with roles, titles, and fingerprints.

use super::{Describe, Hold, Place};
use crate::analyze::fingerprint::normalised;
use crate::report::{Confidence, Finding, Frame, Kind, LockRef, SeenIn, Stack};

pub use crate::report::place::thread_name;

/// A lock reference with its mode.
pub fn lock_ref(describe: &dyn Describe, hold: &Hold) -> LockRef {
    LockRef { mode: hold.mode.word().to_owned(), ..describe.lock(hold.lock) }
}

/// A lock reference with its mode and where it was acquired.
pub fn held_ref(describe: &dyn Describe, hold: &Hold) -> LockRef {
    LockRef { acquired: describe.frames(hold.place), ..lock_ref(describe, hold) }
}

/// A stack in a role.
pub fn stack(
    describe: &dyn Describe,
    role: &str,
    thread: u32,
    place: Place,
    lock: Option<LockRef>,
    held: &[Hold],
) -> Stack {
    let frames = describe.frames(place);
    Stack {
        role: role.to_owned(),
        thread: Some(describe.thread(thread)),
        size: None,
        lock,
        locks_held: held.iter().map(|hold| held_ref(describe, hold)).collect(),
        lost: if frames.is_empty() { "the stack was not recorded".to_owned() } else { String::new() },
        frames,
    }
}

/// The innermost frame that is not of a synchronisation library: the line that a person would look at.
pub fn user_frame(frames: &[Frame]) -> Option<&Frame> {
    frames.iter().find(|frame| !is_library(frame)).or_else(|| frames.first())
}

pub(in crate::analyze) fn is_library(frame: &Frame) -> bool {
    let function = frame.function.trim_start_matches('<');
    let library =
        ["std::", "core::", "alloc::", "parking_lot", "lock_api::", "tokio::", "crossbeam", "spin::", "pthread_"];
    library.iter().any(|prefix| function.starts_with(prefix))
        || frame.file.starts_with("/rustc/")
        || frame.file.contains("/library/std/src/")
        || frame.file.contains("/library/core/src/")
        || ["/lock_api-", "/tokio-1.", "/crossbeam-", "/spin-0."].iter().any(|part| frame.file.contains(part))
        || frame.file.contains("/parking_lot")
}

/// ` at file:line in function`, as far as known.
pub fn at(frames: &[Frame]) -> String {
    match user_frame(frames) {
        Some(frame) if frame.line != 0 => format!("{}:{}", frame.file, frame.line),
        Some(frame) => frame.function.clone(),
        None => "an unknown place".to_owned(),
    }
}

/// An unfinished finding: everything but what the whole report decides (gating, suppression, baseline).
pub fn finding(kind: Kind, confidence: Confidence, title: String, fix: String, stacks: Vec<Stack>) -> Finding {
    Finding {
        id: fingerprint(kind, &stacks),
        kind,
        confidence,
        gating: false,
        suppressed: false,
        baseline: false,
        seen_in: SeenIn { k: 1, n: 1 },
        title,
        fix,
        count: 1,
        tests: Vec::new(),
        stacks,
        waits_for: Vec::new(),
        location: None,
        notes: Vec::new(),
    }
}

/// 16 hexadecimal digits over the kind and, per stack, its role and the functions a person would look at. Neither lines,
/// addresses, thread names nor the order of the stacks enter, so rebuilds and other schedules keep it.
pub fn fingerprint(kind: Kind, stacks: &[Stack]) -> String {
    let mut parts: Vec<String> = stacks
        .iter()
        .map(|stack| {
            let function = user_frame(&stack.frames).map_or_else(String::new, |frame| normalised(&frame.function));
            let lock = stack.lock.as_ref().map_or("", |lock| lock.kind.as_str());
            format!("{}|{function}|{lock}", stack.role)
        })
        .collect();
    parts.sort();
    parts.dedup();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let kind = format!("{kind:?}");
    for byte in kind.bytes().chain(parts.iter().flat_map(|part| part.bytes().chain([b'\n']))) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
