//! Where a finding is shown and in which words: the parts that several formats share.

use std::path::Path;

use super::{Finding, Frame, Kind, Location, LockRef, Report, Stack, Thread};

/// What formats say about a kind of finding.
#[derive(Clone, Copy, Debug)]
pub struct KindWords {
    /// The kind.
    pub kind: Kind,
    /// Its name in options and in JSON.
    pub name: &'static str,
    /// A heading of a few words.
    pub heading: &'static str,
    /// One sentence: what it means.
    pub meaning: &'static str,
    /// One sentence: what is usually done about it.
    pub advice: &'static str,
    /// The group of checks it belongs to: `races`, `locks` or `contention`.
    pub group: &'static str,
}

/// All kinds, the gravest first.
pub const KINDS: [KindWords; 10] = [
    KindWords {
        kind: Kind::DataRace,
        name: "data-race",
        heading: "data race",
        meaning: "Two threads access the same memory, at least one writes, and nothing orders the two accesses.",
        advice: "Hold one lock at both accesses, make the memory atomic, or hand it over through a channel or a join.",
        group: "races",
    },
    KindWords {
        kind: Kind::Deadlock,
        name: "deadlock",
        heading: "deadlock",
        meaning: "Threads wait for each other in a cycle, so none of them can ever go on.",
        advice: "Take the locks in one order everywhere, or release the first before waiting for the second.",
        group: "locks",
    },
    KindWords {
        kind: Kind::LostWakeup,
        name: "lost-wakeup",
        heading: "lost wake-up",
        meaning: "A thread waits for a notification, and nobody is left who could send it.",
        advice: "Change the condition under the same mutex, and wait in a loop that checks the condition first.",
        group: "locks",
    },
    KindWords {
        kind: Kind::LockOrderInversion,
        name: "lock-order-inversion",
        heading: "lock-order inversion",
        meaning: "Locks are taken in different orders, so that another schedule could deadlock.",
        advice: "Take the locks in one order everywhere.",
        group: "locks",
    },
    KindWords {
        kind: Kind::LockMisuse,
        name: "lock-misuse",
        heading: "lock misuse",
        meaning: "A lock is used against its rules: locked twice, unlocked unheld, or destroyed while held.",
        advice: "Pair each unlock with the lock of the same owner.",
        group: "locks",
    },
    KindWords {
        kind: Kind::Livelock,
        name: "livelock",
        heading: "livelock",
        meaning: "Threads keep retrying without progress.",
        advice: "Back off by a different time in each thread, or block instead of retrying.",
        group: "contention",
    },
    KindWords {
        kind: Kind::Starvation,
        name: "starvation",
        heading: "starvation",
        meaning: "A waiter waits out of proportion to the others.",
        advice: "Shorten what the winners hold, or use a fair lock.",
        group: "contention",
    },
    KindWords {
        kind: Kind::LockHeldAcrossBlockingCall,
        name: "lock-held-across-blocking-call",
        heading: "lock held across a blocking call",
        meaning: "A thread blocks in the kernel while others wait for a lock that it holds.",
        advice: "Release the lock before the call.",
        group: "contention",
    },
    KindWords {
        kind: Kind::BlockingInAsync,
        name: "blocking-in-async",
        heading: "async worker blocked",
        meaning: "A worker of an async runtime blocks, so that the tasks queued on it wait as well.",
        advice: "Use the runtime's own lock or `spawn_blocking`.",
        group: "contention",
    },
    KindWords {
        kind: Kind::HotLock,
        name: "hot-lock",
        heading: "hot lock",
        meaning: "A lock costs a large share of the threads' time in waiting.",
        advice: "Hold it shorter, split it, or read without it.",
        group: "contention",
    },
];

/// The words for a kind.
pub fn words(kind: Kind) -> &'static KindWords {
    KINDS.iter().find(|words| words.kind == kind).unwrap_or(&KINDS[0])
}

/// Position of a kind in [`KINDS`].
pub fn kind_index(kind: Kind) -> usize {
    KINDS.iter().position(|words| words.kind == kind).unwrap_or(0)
}

/// Whether a path belongs to the user's own sources, as far as the path tells: not std, not a crate from a
/// registry or a git checkout, not a system header.
pub fn is_own_source(file: &str) -> bool {
    const FOREIGN: [&str; 5] = ["/rustc/", "/.cargo/registry/", "/.cargo/git/", "/registry/src/", "/rustlib/src/"];
    !file.is_empty() && !file.starts_with("/usr/") && !FOREIGN.iter().any(|part| file.contains(part))
}

/// Whether a file of std is about atomics and locks themselves, so that its lines say nothing about who uses them.
fn is_primitive(file: &str) -> bool {
    const PRIMITIVES: [&str; 4] =
        ["/core/src/sync/", "/core/src/intrinsics/", "/std/src/sys/sync/", "/std/src/sync/poison"];
    PRIMITIVES.iter().any(|part| file.contains(part))
}

/// The frame that stands for a stack: the innermost one in the user's own sources, else the innermost one with
/// a line that is not of a lock's or atomic's own code, else the innermost one with a line, else the innermost one.
pub fn primary(frames: &[Frame]) -> Option<&Frame> {
    frames
        .iter()
        .find(|frame| is_own_source(&frame.file) && frame.line > 0)
        .or_else(|| frames.iter().find(|frame| frame.line > 0 && !is_primitive(&frame.file)))
        .or_else(|| frames.iter().find(|frame| frame.line > 0))
        .or_else(|| frames.first())
}

/// The frame that stands for a finding: its first stack's, or the first stack's that has one.
pub fn primary_of(finding: &Finding) -> Option<&Frame> {
    finding
        .stacks
        .iter()
        .filter_map(|stack| primary(&stack.frames))
        .find(|frame| frame.line > 0)
        .or_else(|| finding.stacks.iter().find_map(|stack| primary(&stack.frames)))
}

/// `file:line` of a frame, or its function where the line is unknown.
pub fn place(frame: &Frame) -> String {
    if frame.file.is_empty() {
        return frame.function.clone();
    }
    match frame.line {
        0 => frame.file.clone(),
        line => format!("{}:{line}", frame.file),
    }
}

/// Serials from here on are not threads but tasks of an async runtime, whose names say all.
pub const FIRST_TASK: u32 = crate::wire::locks::FIRST_TASK;

/// `main thread`, or `thread T3 'worker'`.
pub fn thread_name(thread: &Thread) -> String {
    match (thread.serial, thread.name.as_str()) {
        (FIRST_TASK.., name) => name.to_owned(),
        (0, _) => "main thread".to_owned(),
        (serial, "") => format!("thread T{serial}"),
        (serial, name) => format!("thread T{serial} '{name}'"),
    }
}

/// A stack's role in words, with the thread it belongs to.
pub fn stack_heading(stack: &Stack) -> String {
    let what = match (stack.role.as_str(), stack.size) {
        (role, Some(size)) => format!("{} of {size} byte{}", role.replace('-', " "), if size == 1 { "" } else { "s" }),
        ("waiting", None) if stack.lock.is_some() => "waiting for".to_string(),
        (role, None) => role.replace('-', " "),
    };
    let lock = stack.lock.as_ref().map_or(String::new(), |lock| format!(" {}", lock.declared()));
    let by = stack.thread.as_ref().map_or(String::new(), |thread| format!(" by {}", thread_name(thread)));
    let held: Vec<String> = stack.locks_held.iter().map(LockRef::declared).collect();
    let held = if held.is_empty() { String::new() } else { format!(", holding {}", held.join(", ")) };
    format!("{what}{lock}{by}{held}")
}

/// The command that shows a finding again: of its test where it has one, else of the run.
pub fn again(finding: &Finding, command: Option<&[String]>) -> Option<String> {
    let test = finding.tests.iter().filter_map(|test| test.split_once(' ')).map(|(_, path)| path);
    if let Some(path) = test.into_iter().find(|path| !path.starts_with("doctest ")) {
        return Some(format!("cargo conprof test {}", quoted(path)));
    }
    let words: Vec<String> = command?.iter().map(|word| quoted(word)).collect();
    Some(format!("conprof run -- {}", words.join(" ")))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// What the memory is, in words.
pub fn location_words(location: &Location) -> String {
    match location {
        Location::Global { name, size, offset, file, line, .. } => {
            let part = if *offset > 0 { format!(" at offset {offset}") } else { String::new() };
            let declared = if file.is_empty() { String::new() } else { format!(", declared at {file}:{line}") };
            format!("static `{name}` of {size} bytes{part}{declared}")
        }
        Location::Heap { size, offset, thread, frames, .. } => {
            let at = primary(frames).map_or(String::new(), |frame| format!(" at {}", place(frame)));
            format!("offset {offset} in a heap block of {size} bytes, allocated by {}{at}", serial_name(*thread))
        }
        Location::Stack { thread, .. } => format!("stack of {}", serial_name(*thread)),
        Location::Unknown { address } => format!("memory at {address}"),
    }
}

/// `main thread` or `thread T3`.
pub fn serial_name(serial: u32) -> String {
    if serial == 0 { "main thread".to_owned() } else { format!("thread T{serial}") }
}

/// A stack as indented text lines, innermost frame first, with frames of libraries folded into a count; a lost one is
/// one line that says why.
pub fn stack_text(stack: &Stack) -> String {
    let mut text = format!("{}:\n", stack_heading(stack));
    if stack.frames.is_empty() {
        let why = if stack.lost.is_empty() { "no stack" } else { &stack.lost };
        text.push_str(&format!("    ({why})\n"));
    }
    let mut folded = 0;
    let fold = |text: &mut String, folded: &mut usize| {
        if *folded > 0 {
            text.push_str(&format!("       ({folded} frames of libraries)\n"));
            *folded = 0;
        }
    };
    let own = stack.frames.iter().any(|frame| is_own_source(&frame.file));
    for (number, frame) in stack.frames.iter().enumerate() {
        if own && !is_own_source(&frame.file) {
            folded += 1;
            continue;
        }
        fold(&mut text, &mut folded);
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        text.push_str(&format!("    #{number} {}{inlined} at {}\n", frame.function, place(frame)));
    }
    fold(&mut text, &mut folded);
    text
}

/// Whether a baseline was compared with.
pub fn has_baseline(report: &Report) -> bool {
    !report.baseline_gone.is_empty() || report.findings.iter().any(|finding| finding.baseline)
}

/// Calls `visit` for every frame of the report.
pub fn visit_frames(report: &mut Report, visit: &mut impl FnMut(&mut Frame)) {
    fn of_thread(thread: &mut Thread, visit: &mut impl FnMut(&mut Frame)) {
        thread.created_at.iter_mut().for_each(visit);
    }
    for finding in &mut report.findings {
        for stack in &mut finding.stacks {
            stack.frames.iter_mut().for_each(&mut *visit);
            if let Some(thread) = &mut stack.thread {
                of_thread(thread, visit);
            }
            for lock in stack.lock.iter_mut().chain(&mut stack.locks_held) {
                lock.acquired.iter_mut().for_each(&mut *visit);
            }
        }
        if let Some(Location::Heap { frames, .. }) = &mut finding.location {
            frames.iter_mut().for_each(&mut *visit);
        }
    }
    for thread in &mut report.threads {
        of_thread(thread, visit);
    }
}

/// Leaves the source excerpts out (`--no-source`).
pub fn strip_sources(report: &mut Report) {
    visit_frames(report, &mut |frame| frame.source = None);
}

/// Makes paths that lie in the repository relative to `folder`, the current folder of the run, and keeps where in the
/// repository that folder is. Formats for code hosts need paths from the root.
pub fn localise(report: &mut Report, folder: &Path, root: &Path) {
    let Ok(below) = folder.strip_prefix(root) else { return };
    report.source_folder = below.display().to_string();
    let up = "../".repeat(below.components().count());
    let prefix = format!("{}/", root.display().to_string().trim_end_matches('/'));
    visit_frames(report, &mut |frame| {
        if let Some(rest) = frame.file.strip_prefix(&prefix) {
            frame.file = format!("{up}{rest}");
        }
    });
}

/// Makes relative paths count from the repository's root.
pub fn rebase_to_root(report: &mut Report) {
    let folder = std::mem::take(&mut report.source_folder);
    if folder.is_empty() {
        return;
    }
    visit_frames(report, &mut |frame| {
        if !frame.file.is_empty() && !frame.file.starts_with('/') {
            frame.file = in_repository(&folder, &frame.file);
        }
    });
}

/// Joins a path to the folder it counts from and resolves `.` and `..`.
pub fn in_repository(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(file.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Takes `prefix` off the front of source and module paths (`strip_path_prefix`).
pub fn strip_path_prefix(report: &mut Report, prefix: &str) {
    if prefix.is_empty() {
        return;
    }
    visit_frames(report, &mut |frame| {
        for path in [&mut frame.file, &mut frame.module] {
            if let Some(rest) = path.strip_prefix(prefix) {
                *path = rest.trim_start_matches('/').to_owned();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_without_own_sources_is_named_by_who_uses_the_lock() {
        let frame = |file: &str, line| Frame { file: file.to_owned(), line, ..Frame::default() };
        let std = [
            frame("/rustc/0/library/core/src/sync/atomic.rs", 3975),
            frame("/rustc/0/library/std/src/sys/sync/mutex/futex.rs", 32),
            frame("/rustc/0/library/std/src/sync/poison/mutex.rs", 492),
            frame("/rustc/0/library/test/src/lib.rs", 637),
            frame("/rustc/0/library/std/src/panicking.rs", 581),
        ];
        assert_eq!(primary(&std).map(|frame| frame.line), Some(637));
        assert_eq!(primary(&std[..3]).map(|frame| frame.line), Some(3975));
        let own = [&std[..], &[frame("src/main.rs", 7)]].concat();
        assert_eq!(primary(&own).map(|frame| frame.line), Some(7));
    }
}
