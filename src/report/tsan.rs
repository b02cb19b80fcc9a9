//! ThreadSanitizer's text layout, for scripts that already read it (`--format tsan`).
//!
//! The structure is that of compiler-rt's `tsan_report.cpp`; the name in `WARNING:` and `SUMMARY:` is conprof's own.
//! Deviations: a mutex section says where the mutex was acquired, as conprof does not see its creation; findings
//! that ThreadSanitizer does not have use the same layout with a title of their own.
//! Suppressed findings and those in the baseline are left out, as ThreadSanitizer leaves suppressed ones out.

use super::place::{primary, serial_name, words};
use super::{Confidence, Finding, Frame, Kind, Location, LockRef, Report, Stack, Thread};
use std::fmt::Write;

const RULE: &str = "==================\n";

/// Renders the whole report.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut shown = 0;
    for finding in report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline) {
        shown += 1;
        warning(&mut out, report, finding);
    }
    if shown > 0 {
        let _ = writeln!(out, "conprof: reported {shown} warnings");
    }
    out
}

/// Renders the suppressions that matched, as `print_suppressions=1` does.
pub fn render_matched_suppressions(report: &Report) -> String {
    let used: Vec<_> = report.suppressions.iter().filter(|used| used.hits > 0).collect();
    if used.is_empty() {
        return String::new();
    }
    let hits: u64 = used.iter().map(|used| used.hits).sum();
    let mut out = format!("conprof: Matched {hits} suppressions (pid={}):\n", pid(report));
    for used in used {
        let _ = writeln!(out, "{} {}", used.hits, used.line);
    }
    out.push('\n');
    out
}

fn pid(report: &Report) -> u32 {
    report.processes.first().map_or(0, |process| process.pid)
}

fn warning(out: &mut String, report: &Report, finding: &Finding) {
    let mut mutexes = Mutexes::default();
    let title = title(finding);
    let possible = if finding.confidence == Confidence::Possible { " (possible)" } else { "" };
    out.push_str(RULE);
    let _ = writeln!(out, "WARNING: conprof: {title}{possible} (pid={})", pid(report));
    match finding.kind {
        Kind::DataRace => race(out, finding, &mut mutexes),
        Kind::LockOrderInversion => inversion(out, finding, &mut mutexes),
        _ => other(out, finding, &mut mutexes),
    }
    mutexes.sections(out);
    for thread in threads(report, finding) {
        thread_section(out, &thread);
    }
    let at = finding.stacks.iter().find_map(|stack| primary(&stack.frames));
    let _ = writeln!(out, "SUMMARY: conprof: {title}{}", at.map_or(String::new(), summary_place));
    out.push_str(RULE);
}

fn title(finding: &Finding) -> String {
    match finding.kind {
        Kind::DataRace => "data race".to_owned(),
        Kind::LockOrderInversion => "lock-order-inversion (potential deadlock)".to_owned(),
        Kind::LockMisuse => {
            let text = finding.title.to_lowercase();
            let known = [
                ("double", "double lock of a mutex"),
                ("destroy", "destroy of a locked mutex"),
                ("unlock", "unlock of an unlocked mutex (or by a wrong thread)"),
            ];
            known.iter().find(|(word, _)| text.contains(word)).map_or("lock misuse", |(_, title)| title).to_owned()
        }
        kind => words(kind).heading.to_owned(),
    }
}

fn summary_place(frame: &Frame) -> String {
    let place = match (frame.file.is_empty(), frame.line) {
        (true, _) => format!("({}+{:#x})", frame.module, frame.module_offset),
        (false, 0) => frame.file.clone(),
        (false, line) => format!("{}:{line}", frame.file),
    };
    format!(" {place} in {}", frame.function)
}

fn race(out: &mut String, finding: &Finding, mutexes: &mut Mutexes) {
    let accesses = finding.stacks.iter().filter(|stack| is_access(&stack.role));
    for (number, stack) in accesses.enumerate() {
        let words = access_words(&stack.role, number > 0);
        let size = stack.size.map_or(String::new(), |size| format!(" of size {size}"));
        let address = address(finding.location.as_ref());
        let by = stack.thread.as_ref().map_or("unknown thread".to_owned(), |thread| serial_name(thread.serial));
        let held = mutexes.held(&stack.locks_held);
        let _ = writeln!(out, "  {words}{size} at {address} by {by}{held}:");
        frame_lines(out, &stack.frames);
    }
    if let Some(location) = &finding.location {
        location_section(out, location);
    }
}

fn is_access(role: &str) -> bool {
    matches!(role, "write" | "read" | "read-write" | "atomic-write" | "atomic-read" | "atomic-read-write" | "free")
}

/// "Write", "Previous atomic read" and so on; freeing memory counts as a write, as in ThreadSanitizer.
fn access_words(role: &str, previous: bool) -> &'static str {
    let atomic = role.starts_with("atomic");
    let write = !role.ends_with("read");
    match (previous, atomic, write) {
        (false, false, true) => "Write",
        (false, false, false) => "Read",
        (false, true, true) => "Atomic write",
        (false, true, false) => "Atomic read",
        (true, false, true) => "Previous write",
        (true, false, false) => "Previous read",
        (true, true, true) => "Previous atomic write",
        (true, true, false) => "Previous atomic read",
    }
}

/// Run-time address of the access, as far as the location tells.
fn address(location: Option<&Location>) -> String {
    let (base, offset) = match location {
        Some(Location::Global { address, offset, .. } | Location::Heap { address, offset, .. }) => (address, *offset),
        Some(Location::Stack { address, .. } | Location::Unknown { address }) => (address, 0),
        None => return "0x000000000000".to_owned(),
    };
    match u64::from_str_radix(base.trim_start_matches("0x"), 16) {
        Ok(value) => format!("{:#014x}", value.wrapping_add(offset)),
        Err(_) => base.clone(),
    }
}

fn location_section(out: &mut String, location: &Location) {
    match location {
        Location::Global { name, size, address, file, line, .. } => {
            let at = if file.is_empty() { String::new() } else { format!(" ({file}:{line})") };
            let _ = writeln!(out, "  Location is global '{name}' of size {size} at {address}{at}\n");
        }
        Location::Heap { address, size, thread, frames, .. } => {
            let _ = writeln!(
                out,
                "  Location is heap block of size {size} at {address} allocated by {}:",
                serial_name(*thread)
            );
            frame_lines(out, frames);
        }
        Location::Stack { thread, .. } => {
            let _ = writeln!(out, "  Location is stack of {}.\n", serial_name(*thread));
        }
        Location::Unknown { .. } => {}
    }
}

fn inversion(out: &mut String, finding: &Finding, mutexes: &mut Mutexes) {
    let wanted: Vec<(&Stack, &LockRef)> = finding
        .stacks
        .iter()
        .filter(|stack| stack.role != "held" && stack.role != "created")
        .filter_map(|stack| stack.lock.as_ref().map(|lock| (stack, lock)))
        .collect();
    if wanted.is_empty() {
        return other(out, finding, mutexes);
    }
    let mut cycle = Vec::new();
    for (stack, lock) in &wanted {
        let held = stack.locks_held.last().unwrap_or(lock);
        cycle.push(mutexes.full(held));
    }
    cycle.push(cycle[0].split(' ').next().unwrap_or_default().to_owned());
    let _ = writeln!(out, "  Cycle in lock order graph: {}\n", cycle.join(" => "));
    for (stack, lock) in &wanted {
        let held = stack.locks_held.last().map_or("another mutex".to_owned(), |held| mutexes.short(held));
        let by = stack.thread.as_ref().map_or("unknown thread".to_owned(), |thread| serial_name(thread.serial));
        let name = mutexes.short(lock);
        let _ = writeln!(out, "  Mutex {name} acquired here while holding mutex {held} in {by}:");
        frame_lines(out, &stack.frames);
        if let Some(held) = stack.locks_held.last().filter(|held| !held.acquired.is_empty()) {
            let _ = writeln!(out, "  Mutex {} previously acquired by the same thread here:", mutexes.short(held));
            frame_lines(out, &held.acquired);
        }
    }
}

fn other(out: &mut String, finding: &Finding, mutexes: &mut Mutexes) {
    let _ = writeln!(out, "  {}\n", finding.title);
    for stack in &finding.stacks {
        let role = stack.role.replace('-', " ");
        let lock = stack.lock.as_ref().map_or(String::new(), |lock| format!(" mutex {}", mutexes.full(lock)));
        let by = stack.thread.as_ref().map_or(String::new(), |thread| format!(" by {}", serial_name(thread.serial)));
        let held = mutexes.held(&stack.locks_held);
        let mut heading = format!("{role}{lock}{by}{held}");
        if let Some(first) = heading.get_mut(0..1) {
            first.make_ascii_uppercase();
        }
        let _ = writeln!(out, "  {heading}:");
        frame_lines(out, &stack.frames);
    }
    for edge in &finding.waits_for {
        let _ = writeln!(out, "  {} waits for {}, which {} holds", edge.thread, edge.lock, edge.holder);
    }
    if !finding.waits_for.is_empty() {
        out.push('\n');
    }
}

fn frame_lines(out: &mut String, frames: &[Frame]) {
    if frames.is_empty() {
        out.push_str("    [failed to restore the stack]\n");
    }
    for (number, frame) in frames.iter().enumerate() {
        let function = if frame.function.is_empty() { "<null>" } else { &frame.function };
        let mut place = if frame.file.is_empty() { "<null>".to_owned() } else { frame.file.clone() };
        if frame.line > 0 {
            let _ = write!(place, ":{}", frame.line);
        }
        if frame.line > 0 && frame.column > 0 {
            let _ = write!(place, ":{}", frame.column);
        }
        let module = frame.module.rsplit('/').next().unwrap_or_default();
        let _ = writeln!(out, "    #{number} {function} {place} ({module}+{:#x})", frame.module_offset);
    }
    out.push('\n');
}

/// Threads that the finding mentions and that were created by another one.
fn threads(report: &Report, finding: &Finding) -> Vec<Thread> {
    let mut serials: Vec<u32> = Vec::new();
    let mut mention = |serial: u32| {
        if serial != 0 && !serials.contains(&serial) {
            serials.push(serial);
        }
    };
    for stack in &finding.stacks {
        if let Some(thread) = &stack.thread {
            mention(thread.serial);
        }
    }
    if let Some(Location::Heap { thread, .. } | Location::Stack { thread, .. }) = &finding.location {
        mention(*thread);
    }
    let own =
        |serial: u32| finding.stacks.iter().filter_map(|stack| stack.thread.as_ref()).find(|t| t.serial == serial);
    serials
        .into_iter()
        .filter_map(|serial| {
            let listed = report.threads.iter().find(|thread| thread.serial == serial);
            own(serial).filter(|thread| !thread.created_at.is_empty()).or(listed).or(own(serial)).cloned()
        })
        .collect()
}

fn thread_section(out: &mut String, thread: &Thread) {
    let name = if thread.name.is_empty() { String::new() } else { format!(" '{}'", thread.name) };
    let state = if thread.running { "running" } else { "finished" };
    let by = thread.created_by.map_or("unknown thread".to_owned(), serial_name);
    let _ = writeln!(out, "  Thread T{}{name} (tid={}, {state}) created by {by} at:", thread.serial, thread.tid);
    frame_lines(out, &thread.created_at);
}

/// Mutex numbers within one warning, in order of mention.
#[derive(Default)]
struct Mutexes(Vec<LockRef>);

impl Mutexes {
    fn number(&mut self, lock: &LockRef) -> usize {
        let same = |seen: &LockRef| seen.name == lock.name && seen.address == lock.address;
        if let Some(index) = self.0.iter().position(same) {
            if self.0[index].acquired.is_empty() {
                self.0[index].acquired.clone_from(&lock.acquired);
            }
            return index;
        }
        self.0.push(lock.clone());
        self.0.len() - 1
    }

    fn short(&mut self, lock: &LockRef) -> String {
        format!("M{}", self.number(lock))
    }

    fn full(&mut self, lock: &LockRef) -> String {
        let address = if lock.address.is_empty() { "0x000000000000" } else { &lock.address };
        format!("M{} ({address})", self.number(lock))
    }

    fn held(&mut self, locks: &[LockRef]) -> String {
        if locks.is_empty() {
            return String::new();
        }
        let list: Vec<String> = locks
            .iter()
            .map(|lock| format!("{} M{}", if lock.mode == "shared" { "read" } else { "write" }, self.number(lock)))
            .collect();
        format!(" (mutexes: {})", list.join(", "))
    }

    fn sections(&self, out: &mut String) {
        for (number, lock) in self.0.iter().enumerate() {
            let address = if lock.address.is_empty() { "0x000000000000" } else { &lock.address };
            if lock.acquired.is_empty() {
                let _ = writeln!(out, "  Mutex M{number} ({address}) is {}.\n", lock.declared());
            } else {
                let _ = writeln!(out, "  Mutex M{number} ({address}) is {}, acquired at:", lock.declared());
                frame_lines(out, &lock.acquired);
            }
        }
    }
}
