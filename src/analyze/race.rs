//! Data races: finding rows to findings.

use super::advice;
use super::fingerprint::{fingerprint, normalised};
use super::sides::{Context, SIDE_WRITE};
use crate::elf::Avma;
use crate::report::place::primary;
use crate::report::{Confidence, Finding, Kind, Location, SeenIn, Stack};
use crate::wire::plan::{FLAG_NO_RACES, FLAG_SYNC_SITE_LOST};
use crate::wire::recording::*;
use crate::wire::site::SiteFlags;

/// What is known of the whole run that bears on every race's confidence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunFacts {
    /// `FLAG_*` of the plan.
    pub(super) plan_flags: u64,
    /// Sync objects that could not be allocated.
    pub(super) sync_objects_lost: u64,
}

/// The finding for a row; `None` for a kind this version does not know.
pub(super) fn finding(context: &mut Context<'_>, row: &FindingRow, facts: RunFacts) -> Option<Finding> {
    if row.kind != FindingKind::DataRace as u32 {
        return None;
    }
    let current = context.stack(&row.current);
    let previous = context.stack(&row.previous);
    if [&current, &previous].into_iter().any(|side| side.frames.iter().any(is_list_of_stacks)) {
        return None;
    }
    let location = locate(context, row);
    let (confidence, notes) = confidence(context, row, facts);
    let id = fingerprint("data-race", &[&current.frames, &previous.frames], &identity(&location));
    Some(Finding {
        id,
        kind: Kind::DataRace,
        confidence,
        gating: false,
        suppressed: false,
        baseline: false,
        seen_in: SeenIn { k: 1, n: 1 },
        title: advice::title(&current, &previous, &location),
        fix: advice::fix(&current, &previous, &location),
        count: row.count.max(1),
        tests: Vec::new(),
        stacks: vec![current, previous],
        waits_for: Vec::new(),
        location: Some(location),
        notes,
    })
}

/// std's list of thread stacks is not instrumented (see `scan`), but what it copies and frees passes through interposed functions.
fn is_list_of_stacks(frame: &crate::report::Frame) -> bool {
    // A thread's start and end have the list's functions inlined; `init` stands at the bottom of the main thread's stack.
    let function = &frame.function;
    function.contains("stack_overflow::") && !function.contains("::init")
        || frame.file.ends_with("stack_overflow/thread_info.rs")
}

fn locate(context: &mut Context<'_>, row: &FindingRow) -> Location {
    let address = format!("{:#x}", row.address);
    if row.stack_thread != u32::MAX {
        return Location::Stack { thread: row.stack_thread, address };
    }
    if row.block != 0 {
        return Location::Heap {
            address: format!("{:#x}", row.block),
            size: row.block_size,
            offset: row.address.saturating_sub(row.block),
            thread: row.block_thread,
            frames: context.node_frames(row.block_node),
        };
    }
    match context.symbolizer.variable(Avma(row.address)) {
        Some(variable) => Location::Global {
            name: variable.name,
            size: variable.size,
            offset: variable.offset,
            address,
            file: variable.file,
            line: variable.line,
        },
        None => Location::Unknown { address },
    }
}

/// What the memory is, in a form that survives a rebuild.
fn identity(location: &Location) -> String {
    match location {
        Location::Global { name, .. } => format!("static {}", normalised(name)),
        Location::Heap { frames, .. } => {
            format!("heap {}", primary(frames).map_or_else(String::new, |frame| normalised(&frame.function)))
        }
        Location::Stack { .. } => "stack".to_string(),
        Location::Unknown { .. } => "unknown".to_string(),
    }
}

fn confidence(context: &Context<'_>, row: &FindingRow, facts: RunFacts) -> (Confidence, Vec<String>) {
    let mut confidence = Confidence::Confirmed;
    let mut notes = Vec::new();
    let mut lower = |to: Confidence, why: &str| {
        confidence = confidence.min(to);
        notes.push(why.to_string());
    };
    for side in [&row.current, &row.previous] {
        let Some(site) = context.access(side).and_then(|access| context.site(&access)) else { continue };
        if site.flags().has(SiteFlags::SPECULATIVE) && side.flags & SIDE_WRITE == 0 {
            lower(
                Confidence::Possible,
                "only possible: the compiler may have made this read up, and the program may not use its value",
            );
        }
        if site.flags().has(SiteFlags::FOREIGN) {
            lower(
                Confidence::Likely,
                "likely: one side is C or C++ code, where atomic accesses can't be told from plain ones for certain",
            );
        }
    }
    if row.flags & 1 != 0 || facts.sync_objects_lost > 0 {
        lower(Confidence::Possible, "only possible: a synchronising operation may have been missed before it");
    }
    if facts.plan_flags & FLAG_SYNC_SITE_LOST != 0 {
        lower(
            Confidence::Possible,
            "only possible: a synchronising instruction of the program could not be instrumented",
        );
    }
    if facts.plan_flags & FLAG_NO_RACES != 0 {
        lower(Confidence::Possible, "only possible: without debuginfo atomic accesses can't be told from plain ones");
    }
    notes.dedup();
    (confidence, notes)
}

/// Adds a finding to a list in which each fingerprint occurs once.
pub(super) fn merge(into: &mut Vec<Finding>, from: Finding) {
    let same = |known: &&mut Finding| known.id == from.id || is_part_of(known, &from) || is_part_of(&from, known);
    let Some(known) = into.iter_mut().find(same) else {
        into.push(from);
        return;
    };
    // The better witness is shown: surer, with more of its stacks, with a write against a write last.
    let quality = |finding: &Finding| {
        let stacks = finding.stacks.iter().filter(|stack| !stack.frames.is_empty()).count();
        (finding.confidence, stacks)
    };
    let count = known.count + from.count;
    if quality(&from) > quality(known) {
        *known = from;
    }
    known.count = count;
}

/// Whether `partial`, one of whose stacks is lost, is the race of `whole` seen with less: on the same memory, with a side at the same place.
fn is_part_of(partial: &Finding, whole: &Finding) -> bool {
    let (lost, kept): (Vec<&Stack>, Vec<&Stack>) = partial.stacks.iter().take(2).partition(|s| s.frames.is_empty());
    let ([_], [kept]) = (&lost[..], &kept[..]) else { return false };
    let memory = |finding: &Finding| finding.location.as_ref().map(identity);
    memory(partial) == memory(whole)
        && whole.stacks.iter().take(2).all(|side| !side.frames.is_empty())
        && whole.stacks.iter().take(2).any(|side| side.frames.first() == kept.frames.first())
}
