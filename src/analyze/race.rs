//! Data races: finding rows to findings.

use super::advice;
use super::fingerprint::{fingerprint, normalised};
use super::sides::{Context, SIDE_FREE, SIDE_NEIGHBOUR, SIDE_WRITE};
use crate::elf::Avma;
use crate::report::place::primary;
use crate::report::{Confidence, Finding, Kind, Location, SeenIn, Stack};
use crate::wire::plan::{FLAG_NO_RACES, FLAG_SYNC_SITE_LOST};
use crate::wire::recording::*;
use crate::wire::site::{PackedSite, SiteFlags};

/// What is known of the whole run that bears on every race's confidence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunFacts<'a> {
    /// `FLAG_*` of the plan.
    pub(super) plan_flags: u64,
    /// Sync objects that could not be allocated.
    pub(super) sync_objects_lost: u64,
    /// Why the scan can't vouch for what it says of accesses, where it can't.
    pub(super) doubt: Option<&'a str>,
}

/// The finding for a row; `None` for a kind this version does not know.
pub(super) fn finding(context: &mut Context<'_>, row: &FindingRow, facts: RunFacts<'_>) -> Option<Finding> {
    if row.kind != FindingKind::DataRace as u32 {
        return None;
    }
    let current = context.stack(&row.current);
    let previous = context.stack(&row.previous);
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

fn confidence(context: &Context<'_>, row: &FindingRow, facts: RunFacts<'_>) -> (Confidence, Vec<String>) {
    let mut confidence = Confidence::Confirmed;
    let mut notes = Vec::new();
    let mut lower = |to: Confidence, why: &str| {
        confidence = confidence.min(to);
        notes.push(why.to_string());
    };
    for side in [&row.current, &row.previous] {
        let access = context.access(side);
        let site = access.as_ref().and_then(|access| context.site(access));
        for (to, why) in doubts(side, access.is_some(), site) {
            lower(to, why);
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
    if let Some(doubt) = facts.doubt {
        lower(Confidence::Possible, &format!("only possible: {doubt}"));
    } else if facts.plan_flags & FLAG_NO_RACES != 0 {
        lower(Confidence::Possible, "only possible: without debuginfo atomic accesses can't be told from plain ones");
    }
    notes.dedup();
    (confidence, notes)
}

/// What an access's instruction leaves to doubt. `is_known` says whether there is an access row for it, `site` is its instruction, if it
/// is one of the program's own.
///
/// Shadow memory may hold several accesses of a thread to bytes of a granule under the id of the last one. That one is the access
/// if it is as long as all of them are together.
fn doubts(side: &SideRow, is_known: bool, site: Option<PackedSite>) -> Vec<(Confidence, &'static str)> {
    let mut doubts = Vec::new();
    let has = |flag| site.is_some_and(|site| site.flags().has(flag));
    let is_read = side.flags & (SIDE_WRITE | SIDE_FREE) == 0;
    let is_neighbour =
        is_known && side.flags & SIDE_NEIGHBOUR != 0 && site.is_none_or(|site| site.size() < side.size as usize);
    if is_neighbour {
        doubts.push((
            Confidence::Confirmed,
            "the earlier access's stack may be that of another access of its thread, to bytes beside it",
        ));
    }
    if is_read && (!is_known || is_neighbour) {
        doubts.push((
            Confidence::Possible,
            "only possible: which instruction read is not known, and the compiler may have made that read up",
        ));
    } else if is_read && has(SiteFlags::SPECULATIVE) {
        doubts.push((
            Confidence::Possible,
            "only possible: the compiler may have made this read up, and the program may not use its value",
        ));
    }
    if has(SiteFlags::FOREIGN) {
        doubts.push((
            Confidence::Likely,
            "likely: one side is C or C++ code, where atomic accesses can't be told from plain ones for certain",
        ));
    }
    doubts
}

/// Adds a finding to a list in which each fingerprint occurs once.
pub(super) fn merge(into: &mut Vec<Finding>, from: Finding) {
    join(into, from, |known, from| {
        // The better witness is shown: surer, with more of its stacks, with a write against a write last.
        let quality = |finding: &Finding| {
            let stacks = finding.stacks.iter().filter(|stack| !stack.frames.is_empty()).count();
            (finding.confidence, stacks)
        };
        let count = known.count + from.count;
        Finding { count, ..if quality(&from) > quality(&known) { from } else { known } }
    });
}

/// Adds a finding to a list. What is in the list and has the same fingerprint, or is the same race with one of its stacks lost, is
/// taken out and combined with it.
///
/// `combine` gets what was in the list and what comes. A race with a lost stack joins one race that was seen whole, and takes its place
/// from it: what `combine` makes of the two keeps the whole one's fingerprint.
pub(crate) fn join(into: &mut Vec<Finding>, from: Finding, combine: impl Fn(Finding, Finding) -> Finding) {
    let mut joined = from;
    let mut place = None;
    let mut index = 0;
    while index < into.len() {
        let known = &into[index];
        let whole = if known.id == joined.id {
            None
        } else if is_part_of(known, &joined) {
            Some(false)
        } else if is_part_of(&joined, known) {
            Some(true)
        } else {
            index += 1;
            continue;
        };
        let known = into.remove(index);
        place.get_or_insert(index);
        joined = match whole {
            None => combine(known, joined),
            Some(true) => combine(known.clone(), as_seen_in(&known, joined)),
            Some(false) => combine(as_seen_in(&joined, known), joined),
        };
    }
    into.insert(place.unwrap_or(into.len()), joined);
}

/// `whole` with the counts and tests of `part`, which is the same race seen with less: what is not known of the lost side can't make
/// the finding surer, and what is accepted is the whole race.
fn as_seen_in(whole: &Finding, part: Finding) -> Finding {
    Finding { count: part.count, seen_in: part.seen_in, tests: part.tests, ..whole.clone() }
}

/// Whether `partial`, one of whose stacks is lost, is the race of `whole` seen with less: on the same memory, with a side at the same place.
fn is_part_of(partial: &Finding, whole: &Finding) -> bool {
    let (lost, kept): (Vec<&Stack>, Vec<&Stack>) = partial.stacks.iter().take(2).partition(|s| s.frames.is_empty());
    let ([_], [kept]) = (&lost[..], &kept[..]) else { return false };
    // Another process may be another build: where a module has the code does not count.
    let place = |stack: &Stack| {
        let frame = stack.frames.first()?;
        Some((normalised(&frame.function), frame.file.clone(), frame.line, frame.column))
    };
    let memory = |finding: &Finding| finding.location.as_ref().map(identity);
    (partial.kind, whole.kind) == (Kind::DataRace, Kind::DataRace)
        && memory(partial) == memory(whole)
        && whole.stacks.iter().take(2).all(|side| !side.frames.is_empty())
        && whole.stacks.iter().take(2).any(|side| place(side) == place(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Frame;
    use crate::wire::site::{Class, Order};

    fn side(function: &str, line: u32, module: &str) -> Stack {
        let frame = Frame {
            function: function.into(),
            file: "src/lib.rs".into(),
            line,
            module: module.into(),
            ..Frame::default()
        };
        Stack { role: "write".into(), frames: vec![frame], ..Stack::default() }
    }

    fn race(sides: [Stack; 2], count: u64) -> Finding {
        let location = Location::Global {
            name: "HITS".into(),
            size: 8,
            offset: 0,
            address: "0x1000".into(),
            file: String::new(),
            line: 0,
        };
        Finding {
            id: fingerprint("data-race", &[&sides[0].frames, &sides[1].frames], &identity(&location)),
            kind: Kind::DataRace,
            confidence: Confidence::Confirmed,
            gating: false,
            suppressed: false,
            baseline: false,
            seen_in: SeenIn { k: 1, n: 1 },
            title: String::new(),
            fix: String::new(),
            count,
            tests: Vec::new(),
            stacks: sides.to_vec(),
            waits_for: Vec::new(),
            location: Some(location),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_read_that_may_be_made_up_is_only_possible() {
        let least = |flags, size, is_known, site| {
            let side = SideRow { thread: 1, access: 1, address: 0x1000, size, flags, epoch: 1 };
            doubts(&side, is_known, site).into_iter().map(|(to, _)| to).min()
        };
        let site = |flags| Some(PackedSite::new(Class::Read, Order::Unknown, SiteFlags(flags), 4));
        let (plain, speculative) = (site(0), site(SiteFlags::SPECULATIVE));
        assert_eq!(least(0, 4, true, plain), None);
        assert_eq!(least(0, 4, true, None), None, "the C library asked for what it reads");
        assert_eq!(least(0, 4, true, speculative), Some(Confidence::Possible));
        assert_eq!(least(0, 4, false, None), Some(Confidence::Possible), "it may be any read");
        assert_eq!(least(SIDE_NEIGHBOUR, 4, true, plain), None, "it covers what was read beside it");
        assert_eq!(least(SIDE_NEIGHBOUR, 8, true, plain), Some(Confidence::Possible), "it may be the read of the rest");
        for flags in [SIDE_WRITE, SIDE_WRITE | SIDE_FREE] {
            assert_eq!(least(flags, 4, false, None), None, "no write is made up");
            assert_eq!(least(flags | SIDE_NEIGHBOUR, 8, true, plain), Some(Confidence::Confirmed), "only a note");
        }
    }

    #[test]
    fn a_race_with_a_lost_stack_joins_the_whole_one_in_any_order() {
        let lost = Stack { role: "write".into(), ..Stack::default() };
        let whole = Finding {
            confidence: Confidence::Likely,
            ..race([side("add", 5, "target/debug/a"), side("take", 9, "target/debug/a")], 1)
        };
        let parts = [
            race([side("add", 5, "target/debug/b"), lost.clone()], 10),
            race([lost.clone(), side("take", 9, "target/debug/b")], 100),
        ];
        let other = race([side("add", 5, "target/debug/a"), side("give", 20, "target/debug/a")], 1000);
        let all = [whole.clone(), parts[0].clone(), parts[1].clone()];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut into = Vec::new();
            for at in order {
                merge(&mut into, all[at].clone());
            }
            merge(&mut into, other.clone());
            assert_eq!(into.len(), 2, "{order:?}");
            assert_eq!((&into[0].id, into[0].count), (&whole.id, 111), "{order:?}");
            assert_eq!(into[0].confidence, Confidence::Likely, "a lost side makes nothing surer: {order:?}");
        }
        let mut alone = Vec::new();
        parts.iter().for_each(|part| merge(&mut alone, part.clone()));
        assert_eq!(alone.len(), 2, "two that were seen in part may be two");
        let unlike = race([side("add", 6, "target/debug/b"), lost], 1);
        merge(&mut alone, whole);
        merge(&mut alone, unlike);
        assert_eq!(alone.len(), 2, "another line is another race");
    }
}
