//! The report for people, in the form that rustc and Miri use: headline, source lines with carets, notes, help.
//!
//! What could not be checked comes first, then the findings that gate, then the others, then a summary. Frames of
//! the standard library are folded into a count, unless everything is asked for.

use super::place::{self, is_own_source, location_words, place, primary, thread_name, words};
use super::{Finding, Frame, Kind, Report, Verdict};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

/// Tests named under a finding; the others are counted.
const MAX_TESTS: usize = 5;
/// Suppressions that never matched, and lines of the baseline that are gone, that the summary names.
const MAX_ACCEPTED: usize = 8;

/// How the text is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// With ANSI colours.
    pub color: bool,
    /// With every frame and every counter.
    pub everything: bool,
}

#[derive(Clone, Copy)]
enum Paint {
    Error,
    Warning,
    Gutter,
    Strong,
    Note,
}

impl Style {
    fn paint(self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_string();
        }
        let code = match paint {
            Paint::Error => "1;31",
            Paint::Warning => "1;33",
            Paint::Gutter => "1;34",
            Paint::Strong => "1",
            Paint::Note => "1;36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What could not be checked, with its cure; empty where everything was.
pub fn degraded(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for check in &report.coverage.degraded {
        let head = style.paint(Paint::Warning, "warning");
        let _ = writeln!(text, "{head}: {}: {}", check.check, check.reason);
        if !check.cure.is_empty() {
            let _ = writeln!(text, "  = {}: {}", style.paint(Paint::Note, "help"), check.cure);
        }
    }
    text
}

/// All findings that are neither suppressed nor in the baseline.
pub fn findings(report: &Report, style: Style) -> String {
    findings_after(report, &HashSet::new(), style)
}

/// The same where the reader has seen some of them in full already: of those, the title and where to look.
pub fn findings_after(report: &Report, told: &HashSet<String>, style: Style) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().filter(|finding| !finding.suppressed && !finding.baseline) {
        if told.contains(&finding.id) {
            render_title(&mut text, finding, style);
            let note = style.paint(Paint::Note, "note");
            let _ = writeln!(text, "{} {note}: shown in full above, when it was found", gutter(style, 2, "="));
        } else {
            render_finding(&mut text, finding, report.command.as_deref(), style);
        }
        text.push('\n');
    }
    text
}

fn render_title(text: &mut String, finding: &Finding, style: Style) {
    let (paint, level) = if finding.gating { (Paint::Error, "error") } else { (Paint::Warning, "warning") };
    let head = style.paint(paint, &format!("{level}[{}]", words(finding.kind).name));
    let _ = writeln!(text, "{head}{}", style.paint(Paint::Strong, &format!(": {}", finding.title)));
}

/// One line for a finding, for when it is found.
pub fn live_line(finding: &Finding) -> String {
    let places: Vec<String> = finding.stacks.iter().filter_map(|stack| primary(&stack.frames)).map(place).collect();
    let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join(" / ")) };
    let confidence = match finding.confidence {
        super::Confidence::Confirmed => "",
        super::Confidence::Likely => "likely ",
        super::Confidence::Possible => "possible ",
    };
    format!("conprof: {confidence}{}: {}{places}", words(finding.kind).name.replace('-', " "), finding.title)
}

/// The last lines: what was found, what was seen, and what was not.
pub fn summary(report: &Report, place: &str, style: Style) -> String {
    let mut text = String::new();
    let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut gating, mut accepted) = (0, 0);
    for finding in &report.findings {
        if finding.suppressed || finding.baseline {
            accepted += 1;
            continue;
        }
        *by_kind.entry(words(finding.kind).name).or_default() += 1;
        gating += usize::from(finding.gating);
    }
    let found = if by_kind.is_empty() {
        match report.verdict {
            Verdict::Incomplete => "nothing found, but not everything was checked".to_string(),
            _ => "nothing found".to_string(),
        }
    } else {
        let kinds: Vec<String> =
            by_kind.iter().map(|(kind, count)| plural(*count as u64, &kind.replace('-', " "))).collect();
        let gate = match gating {
            0 => "none of them gates".to_string(),
            n => format!("{n} of them {}", if n == 1 { "gates" } else { "gate" }),
        };
        format!("{}; {gate}", kinds.join(", "))
    };
    let accepted = if accepted > 0 { format!("; {accepted} suppressed or in the baseline") } else { String::new() };
    let _ = writeln!(text, "{}: {found}{accepted}", style.paint(Paint::Strong, "conprof"));
    let _ = writeln!(text, "  {}", seen(report));
    for (name, value) in remarkable(report, style.everything) {
        let _ = writeln!(text, "  {}: {}", name, grouped(value));
    }
    text.push_str(&accepted_words(report));
    if !place.is_empty() {
        let _ = writeln!(text, "  report: {place}");
    }
    if report.verdict == Verdict::Incomplete || is_incomplete(report) {
        let cured = report.coverage.degraded.iter().find(|check| !check.cure.is_empty());
        let (check, cure) =
            cured.map_or(("races", "see the reasons above"), |check| (check.check.as_str(), check.cure.as_str()));
        let line = format!("INCOMPLETE: {check} NOT checked: {cure}");
        let _ = writeln!(text, "{}", style.paint(Paint::Warning, &line));
    }
    text
}

/// What suppressions and baseline did: how often they matched, which never did, and what the baseline has that is gone.
fn accepted_words(report: &Report) -> String {
    let mut text = String::new();
    if !report.suppressions.is_empty() {
        let hits: u64 = report.suppressions.iter().map(|used| used.hits).sum();
        let unused: Vec<&str> =
            report.suppressions.iter().filter(|used| used.hits == 0).map(|used| used.line.as_str()).collect();
        let _ = writeln!(text, "  suppressions: {} of {} matched", plural(hits, "finding"), report.findings.len());
        for line in unused.iter().take(MAX_ACCEPTED) {
            let _ = writeln!(text, "    never matched: {line}");
        }
        if unused.len() > MAX_ACCEPTED {
            let _ = writeln!(text, "    never matched: {} more", unused.len() - MAX_ACCEPTED);
        }
    }
    for line in report.baseline_gone.iter().take(MAX_ACCEPTED) {
        let _ = writeln!(text, "  gone since the baseline: {line}");
    }
    if report.baseline_gone.len() > MAX_ACCEPTED {
        let _ = writeln!(text, "  gone since the baseline: {} more", report.baseline_gone.len() - MAX_ACCEPTED);
    }
    text
}

/// Whether the run gates although something could not be checked; the verdict then says "findings".
fn is_incomplete(report: &Report) -> bool {
    report.counters.get("incomplete").is_some_and(|value| *value > 0)
}

fn seen(report: &Report) -> String {
    let counter = |name: &str| report.counters.get(name).copied().unwrap_or(0);
    let mut parts = vec![plural(counter("threads").max(report.threads.len() as u64), "thread")];
    if let Some(main) = report.coverage.modules.first() {
        let skipped: u64 = main.skipped_by_reason.values().sum();
        let total = main.instrumented + skipped;
        if total > 0 {
            let share = main.instrumented as f64 * 100.0 / total as f64;
            parts.push(format!("{share:.1} % of {} access sites checked", grouped(total)));
        }
    }
    parts.push(plural(counter("sync operations"), "sync operation"));
    let unseen = report.coverage.modules.iter().filter(|module| module.debuginfo == "not-scanned").count();
    if unseen > 0 {
        parts.push(format!("{} not seen", plural(unseen as u64, "module")));
    }
    let children = counter("children not checked");
    if children > 0 {
        let what = if children == 1 { "child program" } else { "child programs" };
        parts.push(format!("{} {what} not checked", grouped(children)));
    }
    if report.coverage.dropped_events > 0 {
        parts.push(format!("{} dropped for lack of room", plural(report.coverage.dropped_events, "record")));
    }
    parts.push("orderings checked as x86".to_string());
    parts.join(", ")
}

/// Counters worth a line of their own: those that mean something was lost, or all.
fn remarkable(report: &Report, everything: bool) -> Vec<(String, u64)> {
    const SHOWN: [&str; 4] = ["benign patterns withheld", "frames lost", "access rows dropped", "findings dropped"];
    report
        .counters
        .iter()
        .filter(|(name, value)| **value > 0 && (everything || SHOWN.contains(&name.as_str())))
        .map(|(name, value)| (name.clone(), *value))
        .collect()
}

fn plural(count: u64, noun: &str) -> String {
    let end = match count {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {noun}{end}", grouped(count))
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn render_finding(text: &mut String, finding: &Finding, command: Option<&[String]>, style: Style) {
    render_title(text, finding, style);
    let width = gutter_width(finding);
    let mut previous_file = String::new();
    for (index, stack) in finding.stacks.iter().enumerate() {
        let Some(frame) = primary(&stack.frames) else {
            let _ = writeln!(text, "{} {}: {}", gutter(style, width, "="), side_words(finding, index), stack.lost);
            continue;
        };
        let arrow = if index == 0 { "-->" } else { ":::" };
        let column = if frame.column > 0 { format!(":{}", frame.column) } else { String::new() };
        let _ = writeln!(text, "{:width$}{} {}{column}", "", style.paint(Paint::Gutter, arrow), place(frame));
        render_excerpt(text, frame, &side_words(finding, index), index == 0, width, style);
        previous_file.clone_from(&frame.file);
    }
    let mut note = |label: &str, words: &str| {
        let _ = writeln!(text, "{} {}: {words}", gutter(style, width, "="), style.paint(Paint::Note, label));
    };
    if let Some(location) = &finding.location {
        note("memory", &location_words(location));
    }
    for words in creations(finding) {
        note("note", &words);
    }
    for words in &finding.notes {
        note("note", words);
    }
    if finding.count > 1 {
        note("note", &format!("seen {} times", grouped(finding.count)));
    }
    if finding.seen_in.n > 1 {
        note("note", &format!("seen in {} of {} runs", finding.seen_in.k, finding.seen_in.n));
    }
    for test in finding.tests.iter().take(MAX_TESTS) {
        note("test", test);
    }
    if finding.tests.len() > MAX_TESTS {
        note("test", &format!("and {} more", finding.tests.len() - MAX_TESTS));
    }
    note("help", &finding.fix);
    note("id", &format!("{}, accepted by a suppression `fingerprint:{}`", finding.id, finding.id));
    if let Some(again) = place::again(finding, command) {
        note("again", &again);
    }
    for (index, stack) in finding.stacks.iter().enumerate().filter(|(_, stack)| !stack.frames.is_empty()) {
        let _ = writeln!(text, "  {}:", side_words(finding, index));
        // An access may be of the library's own memory; of a lock operation only the caller tells something.
        render_frames(text, &stack.frames, stack.lock.is_none(), style);
    }
    if let Some(super::Location::Heap { frames, thread, .. }) = &finding.location
        && !frames.is_empty()
    {
        let _ = writeln!(text, "  allocated by {}:", place::serial_name(*thread));
        render_frames(text, frames, false, style);
    }
}

/// `write of 8 bytes by thread T1 'worker', holding M`.
fn side_words(finding: &Finding, index: usize) -> String {
    let stack = &finding.stacks[index];
    let earlier = if index == 1 && finding.kind == Kind::DataRace { "earlier " } else { "" };
    let tells_locks = stack.lock.is_none() && stack.role != "free" && stack.lost.is_empty();
    let held = if stack.locks_held.is_empty() && tells_locks { ", no lock held" } else { "" };
    format!("{earlier}{}{held}", place::stack_heading(stack))
}

fn creations(finding: &Finding) -> Vec<String> {
    let mut all = Vec::new();
    for thread in finding.stacks.iter().filter_map(|stack| stack.thread.as_ref()) {
        if thread.serial == 0 || thread.serial >= place::FIRST_TASK {
            continue;
        }
        let by = thread.created_by.map_or(String::new(), |serial| {
            format!(" by the {}", place::serial_name(serial)).replace("the thread", "thread")
        });
        let at = match primary(&thread.created_at) {
            Some(frame) if frame.line > 0 => format!(" at {}", place(frame)),
            _ => String::new(),
        };
        if by.is_empty() && at.is_empty() {
            continue;
        }
        let words = format!("{} was created{by}{at}", thread_name(thread));
        if !all.contains(&words) {
            all.push(words);
        }
    }
    all
}

fn gutter_width(finding: &Finding) -> usize {
    let line = finding.stacks.iter().filter_map(|stack| primary(&stack.frames)).map(|frame| frame.line + 2).max();
    line.unwrap_or(0).to_string().len().max(2)
}

fn gutter(style: Style, width: usize, mark: &str) -> String {
    format!("{:width$} {}", "", style.paint(Paint::Gutter, mark))
}

/// The source lines with a mark under the place, or nothing where the source is not there.
fn render_excerpt(text: &mut String, frame: &Frame, label: &str, first: bool, width: usize, style: Style) {
    let (mark, paint) = if first { ("^", Paint::Error) } else { ("-", Paint::Gutter) };
    let Some(source) = &frame.source else {
        let _ = writeln!(text, "{} {label}", gutter(style, width, "|"));
        return;
    };
    let bar = gutter(style, width, "|");
    let _ = writeln!(text, "{bar}");
    for (offset, line) in source.lines.iter().enumerate() {
        let number = source.first_line + offset as u32;
        // One line before and none after keeps a finding on one screen.
        if number + 1 < frame.line || number > frame.line {
            continue;
        }
        let shown = line.replace('\t', "    ");
        let head = style.paint(Paint::Gutter, &format!("{number:>width$} |"));
        let _ = writeln!(text, "{head} {}", shown.trim_end());
        if number == frame.line {
            let (start, len) = marked(line, frame.column);
            let marks = style.paint(paint, &format!("{} {label}", mark.repeat(len)));
            let _ = writeln!(text, "{bar} {:start$}{marks}", "");
        }
    }
}

/// Where the mark under a line goes: the word at the column, or the line's first word.
fn marked(line: &str, column: u32) -> (usize, usize) {
    let characters: Vec<char> = line.chars().collect();
    let first = characters.iter().position(|c| !c.is_whitespace()).unwrap_or(0);
    let at = match column {
        0 => first,
        // Debuginfo counts bytes; sources are nearly always ASCII up to the place.
        column => (column as usize - 1).min(characters.len().saturating_sub(1)),
    };
    let start: usize = characters[..at.min(characters.len())].iter().map(|c| if *c == '\t' { 4 } else { 1 }).sum();
    let in_word = |c: &char| c.is_alphanumeric() || "_.:*&".contains(*c);
    let len = characters.get(at..).unwrap_or_default().iter().take_while(|c| in_word(c)).count();
    (start, len.max(1))
}

/// Frames by number; runs of frames that are not the user's are folded into one line, the innermost one only where asked.
fn render_frames(text: &mut String, frames: &[Frame], innermost: bool, style: Style) {
    let any_own = frames.iter().any(|frame| is_own_source(&frame.file));
    let mut folded = 0;
    for (number, frame) in frames.iter().enumerate() {
        let shown = style.everything || !any_own || is_own_source(&frame.file) || (innermost && number == 0);
        if !shown {
            folded += 1;
            continue;
        }
        flush_folded(text, &mut folded);
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        let at = if frame.file.is_empty() { module_place(frame) } else { format!(" at {}", place(frame)) };
        let _ = writeln!(text, "    {number:>2}: {}{inlined}{at}", frame.function);
    }
    flush_folded(text, &mut folded);
}

fn module_place(frame: &Frame) -> String {
    if frame.module.is_empty() { String::new() } else { format!(" in {}+{:#x}", frame.module, frame.module_offset) }
}

fn flush_folded(text: &mut String, folded: &mut usize) {
    if *folded > 0 {
        let _ = writeln!(text, "        ({} of libraries)", plural(*folded as u64, "frame"));
    }
    *folded = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_cover_the_word() {
        assert_eq!(marked("    HITS += 1;", 5), (4, 4));
        assert_eq!(marked("\tself.x = 1;", 2), (4, 6));
        assert_eq!(marked("    HITS += 1;", 0), (4, 4));
        assert_eq!(marked("", 9), (0, 1));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(plural(2, "data race"), "2 data races");
    }
}
