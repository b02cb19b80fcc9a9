//! Suppressions: findings that are known and accepted, so that they do not gate.
//!
//! The file is ThreadSanitizer's: one `kind:pattern` a line, `#` at a line's start is a comment. So a project's
//! existing file works as it is. Beyond it:
//!
//! - `fingerprint:0123456789abcdef # reason` names one finding (at least the first eight digits);
//! - the name of any kind of finding is a kind (`starvation:pattern`).
//!
//! Deviations from ThreadSanitizer, each in the direction of matching more of what was meant: a pattern is matched
//! against every frame of both sides, inlined frames included; `called_from_lib` matches a module at any depth;
//! `deadlock` also covers deadlocks that happened. `thread` and `signal` are accepted and match nothing, as
//! conprof has no such findings.

mod pattern;

pub use pattern::Pattern;

use crate::report::place::{KINDS, place, primary, words};
use crate::report::{Finding, Frame, Kind, Location, Report, SuppressionUse};

const MIN_FINGERPRINT_DIGITS: usize = 8;

/// What a suppression looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// Any frame of the stacks, the static, or a lock's name, for these kinds.
    Anywhere(&'static [Kind], Pattern),
    /// The innermost frame of a stack.
    Top(Pattern),
    /// The module of any frame.
    Module(Pattern),
    /// One finding.
    Fingerprint(String),
    /// A kind of finding that conprof does not have.
    Nothing,
}

/// One suppression.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suppression {
    line: String,
    scope: Scope,
}

/// All suppressions of a run, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suppressions(Vec<Suppression>);

impl Suppressions {
    /// Adds the lines of a file. Returns a sentence for each line that is not understood; such a line has no effect.
    pub fn add_text(&mut self, text: &str, origin: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse(line) {
                Ok(scope) => self.0.push(Suppression { line: line.to_owned(), scope }),
                Err(why) => problems.push(format!("{origin}:{}: `{line}`: {why}", number + 1)),
            }
        }
        problems
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Marks the findings that match and adds up how often each suppression did.
    ///
    /// A finding counts for the first suppression that matches it.
    pub fn apply(&self, report: &mut Report) {
        let mut uses: Vec<SuppressionUse> =
            self.0.iter().map(|s| SuppressionUse { line: s.line.clone(), hits: 0 }).collect();
        for finding in &mut report.findings {
            if let Some(index) = self.0.iter().position(|suppression| suppression.matches(finding)) {
                finding.suppressed = true;
                uses[index].hits += 1;
            }
        }
        report.suppressions = uses;
    }
}

fn parse(line: &str) -> Result<Scope, String> {
    let (kind, pattern) = line.split_once(':').ok_or("write kind:pattern, for example race:my_crate::cache")?;
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return Err("the pattern is missing".to_owned());
    }
    let anywhere = |kinds| Scope::Anywhere(kinds, Pattern::new(pattern));
    Ok(match kind {
        "race" => anywhere(&[Kind::DataRace]),
        "race_top" => Scope::Top(Pattern::new(pattern)),
        "mutex" => anywhere(&[Kind::LockMisuse]),
        "deadlock" => anywhere(&[Kind::LockOrderInversion, Kind::Deadlock]),
        "called_from_lib" => Scope::Module(Pattern::new(pattern)),
        "thread" | "signal" => Scope::Nothing,
        "fingerprint" => {
            let id = pattern.split('#').next().unwrap_or_default().trim().to_ascii_lowercase();
            if id.len() < MIN_FINGERPRINT_DIGITS || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("a fingerprint has {MIN_FINGERPRINT_DIGITS} to 16 hexadecimal digits"));
            }
            Scope::Fingerprint(id)
        }
        name => match KINDS.iter().find(|words| words.name == name) {
            Some(words) => Scope::Anywhere(std::slice::from_ref(&words.kind), Pattern::new(pattern)),
            None => {
                return Err(format!(
                    "`{name}` is no kind of suppression; known are race, race_top, mutex, deadlock, called_from_lib, \
                     thread, signal, fingerprint and the kinds of finding"
                ));
            }
        },
    })
}

impl Suppression {
    fn matches(&self, finding: &Finding) -> bool {
        match &self.scope {
            Scope::Anywhere(kinds, pattern) => {
                kinds.contains(&finding.kind)
                    && (frames(finding).any(|frame| frame_matches(pattern, frame)) || names_match(pattern, finding))
            }
            Scope::Top(pattern) => {
                finding.kind == Kind::DataRace
                    && sides(finding).filter_map(|frames| frames.first()).any(|frame| frame_matches(pattern, frame))
            }
            Scope::Module(pattern) => {
                finding.kind == Kind::DataRace && frames(finding).any(|frame| pattern.matches(&frame.module))
            }
            Scope::Fingerprint(id) => finding.id.starts_with(id.as_str()),
            Scope::Nothing => false,
        }
    }
}

/// The stacks of what the threads did; where memory or threads come from is no reason to suppress.
fn sides(finding: &Finding) -> impl Iterator<Item = &[Frame]> {
    let is_side = |role: &str| role != "allocated" && role != "created";
    finding.stacks.iter().filter(move |stack| is_side(&stack.role)).map(|stack| stack.frames.as_slice())
}

fn frames(finding: &Finding) -> impl Iterator<Item = &Frame> {
    let locks = finding.stacks.iter().flat_map(|stack| stack.lock.iter().chain(&stack.locks_held));
    let acquired = locks.flat_map(|lock| &lock.acquired).filter(|_| finding.kind != Kind::DataRace);
    sides(finding).flatten().chain(acquired)
}

fn frame_matches(pattern: &Pattern, frame: &Frame) -> bool {
    pattern.matches(&frame.function) || pattern.matches(&frame.file) || pattern.matches(&frame.module)
}

/// The static that is raced on, or the locks of a finding that is about locks.
fn names_match(pattern: &Pattern, finding: &Finding) -> bool {
    if let Some(Location::Global { name, .. }) = &finding.location
        && pattern.matches(name)
    {
        return true;
    }
    let locks = finding.stacks.iter().filter_map(|stack| stack.lock.as_ref());
    finding.kind != Kind::DataRace && locks.into_iter().any(|lock| pattern.matches(&lock.name))
}

/// The line that suppresses this finding, with a reason.
pub fn line_for(finding: &Finding, reason: Option<&str>) -> String {
    let reason = reason.map_or_else(|| format!("{}: {}", words(finding.kind).heading, finding.title), str::to_owned);
    format!("fingerprint:{} # {}", finding.id, reason.replace(['\n', '\r'], " "))
}

/// Comment lines with patterns that cover this finding and others at the same place.
pub fn wider_lines(finding: &Finding) -> Vec<String> {
    let kind = match finding.kind {
        Kind::DataRace => "race",
        Kind::LockOrderInversion | Kind::Deadlock => "deadlock",
        Kind::LockMisuse => "mutex",
        kind => words(kind).name,
    };
    let mut lines: Vec<String> = sides(finding)
        .filter_map(primary)
        .map(|frame| format!("# wider: {kind}:^{}$    ({})", frame.function, place(frame)))
        .collect();
    lines.dedup();
    lines
}
