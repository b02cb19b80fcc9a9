//! Sentences: what happened, and what would fix it.

use crate::report::place::{place, primary};
use crate::report::{Location, LockRef, Stack};
use crate::symbolize::short_name;

/// What the memory is called in a sentence.
pub(super) fn variable(location: &Location) -> String {
    match location {
        Location::Global { name, .. } => format!("`{}`", short_name(name)),
        Location::Heap { size, .. } => format!("a heap block of {size} bytes"),
        Location::Stack { thread: 0, .. } => "a variable on the main thread's stack".to_string(),
        Location::Stack { thread, .. } => format!("a variable on the stack of thread T{thread}"),
        Location::Unknown { .. } => "shared memory".to_string(),
    }
}

fn verb(stack: &Stack) -> &'static str {
    match stack.role.as_str() {
        "free" => "frees",
        "write" | "atomic-write" => "writes",
        _ => "reads",
    }
}

fn participle(stack: &Stack) -> &'static str {
    match stack.role.as_str() {
        "free" => "freed",
        "write" | "atomic-write" => "written",
        _ => "read",
    }
}

fn at(stack: &Stack) -> String {
    primary(&stack.frames).map_or_else(|| "a place that is not recorded".to_string(), place)
}

fn function(stack: &Stack) -> Option<String> {
    primary(&stack.frames).map(|frame| format!("`{}`", short_name(&frame.function)))
}

/// One sentence: who races with whom on what.
pub(super) fn title(current: &Stack, previous: &Stack, location: &Location) -> String {
    let what = variable(location);
    let someone = |stack: &Stack| function(stack).unwrap_or_else(|| "another thread".to_string());
    let (first, second) = if verb(current) == "reads" { (previous, current) } else { (current, previous) };
    if first.role == "free" || second.role == "free" {
        let (free, access) = if first.role == "free" { (first, second) } else { (second, first) };
        let access_verb = if access.role == "free" {
            "frees it as well"
        } else if verb(access) == "writes" {
            "writes to it"
        } else {
            "reads it"
        };
        return format!("{} frees {what} while {} {access_verb}", someone(free), someone(access));
    }
    match (function(first), function(second)) {
        (Some(a), Some(b)) if a == b && verb(first) == verb(second) => {
            format!("two threads in {a} {} {what} at once", verb(first).trim_end_matches('s'))
        }
        (Some(a), Some(b)) if a == b => format!("{a} writes {what} in one thread and reads it in another at once"),
        _ => format!("{} {} {what} while {} {} it", someone(first), verb(first), someone(second), verb(second)),
    }
}

fn names(locks: &[LockRef]) -> String {
    locks.iter().map(|lock| quoted(&lock.name)).collect::<Vec<_>>().join(" and ")
}

fn quoted(name: &str) -> String {
    if name.contains(' ') { name.to_string() } else { format!("`{name}`") }
}

/// One sentence: what would order the two accesses.
pub(super) fn fix(current: &Stack, previous: &Stack, location: &Location) -> String {
    let what = variable(location);
    if current.role == "free" || previous.role == "free" {
        let (free, access) = if current.role == "free" { (current, previous) } else { (previous, current) };
        return format!(
            "the memory is freed at {} while it is still used at {}: let the users own it (`Arc`), or join them before it is freed",
            at(free),
            at(access)
        );
    }
    if !current.frames.is_empty()
        && !previous.frames.is_empty()
        && let Some(sentence) = lock_sentence(current, previous, &what)
    {
        return sentence;
    }
    if current.role.starts_with("atomic") != previous.role.starts_with("atomic") {
        let plain = if current.role.starts_with("atomic") { previous } else { current };
        return format!("{what} is atomic on one side only: make the access at {} atomic as well", at(plain));
    }
    let created = |a: &Stack, b: &Stack| match (&a.thread, &b.thread) {
        (Some(a), Some(b)) => a.created_by == Some(b.serial),
        _ => false,
    };
    let join = if created(previous, current) { ", or join the thread before this access" } else { "" };
    match location {
        Location::Global { size, .. } if *size <= 8 => {
            format!("no lock is held on either side: make {what} an atomic, or put it into a `Mutex`{join}")
        }
        Location::Global { .. } => {
            format!(
                "no lock is held on either side: put {what} into a `Mutex` or `RwLock`, or into a thread-local{join}"
            )
        }
        Location::Stack { .. } => format!(
            "no lock is held on either side: give each thread its own part of the data, or share it as a `Mutex` or an atomic{join}"
        ),
        _ => format!("no lock is held on either side: guard the data with a `Mutex` or `RwLock`, or use atomics{join}"),
    }
}

fn lock_sentence(current: &Stack, previous: &Stack, what: &str) -> Option<String> {
    let (a, b) = (&current.locks_held, &previous.locks_held);
    if let Some(common) = a.iter().find(|lock| b.iter().any(|other| other.address == lock.address)) {
        return Some(format!(
            "both sides hold {} but not exclusively: a write under a read lock needs the write lock",
            quoted(&common.name)
        ));
    }
    match (a.is_empty(), b.is_empty()) {
        (true, true) => None,
        (false, false) => Some(format!(
            "{what} is {} under {} at {} but {} under {} at {}: use the same lock on both sides",
            participle(current),
            names(a),
            at(current),
            participle(previous),
            names(b),
            at(previous)
        )),
        (no_lock_now, _) => {
            let (with, without) = if no_lock_now { (previous, current) } else { (current, previous) };
            let lock = names(&with.locks_held);
            Some(format!(
                "{what} is {} under {lock} at {} but {} without it at {}: take {lock} there as well",
                participle(with),
                at(with),
                participle(without),
                at(without)
            ))
        }
    }
}
