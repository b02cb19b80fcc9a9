//! The lock-order graph and the cycles in it that could deadlock.
//!
//! Edge `A -> B`: a thread took `B`, waiting if need be, while it held `A`. A cycle of edges by different threads
//! is an inversion. The conditions are those of the Goodlock line of work (Havelund 2000, Bensalem and Havelund
//! 2005): threads distinct, guards disjoint (no gate lock), with these deviations: modes are looked at, so that readers
//! do not exclude each other; order known by structure ([`super::structure`]) makes a cycle "possible" instead
//! of dropping it; and cycles are sought over lock instances first, then over classes as lockdep does, where a class cycle that no
//! instances close is "possible".
//!
//! Direction of error: at most [`STEP_BUDGET`] steps are made per strongly connected component, so in a huge graph
//! long cycles may be missed (counted in [`Inversions::budget_exhausted`]).

use super::finding::{self, at, lock_ref, thread_name};
use super::structure::Moment;
use super::task_order::Doubt;
use super::{Describe, Hold, LockId, Locks, Mode};
use crate::report::{Confidence, Finding, Kind, Stack, WaitsFor};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Steps of the cycle search per strongly connected component.
pub const STEP_BUDGET: u64 = 400_000;

/// Longest cycle that is sought, in locks.
pub const MAX_CYCLE: usize = 16;

/// Cycles kept, before they are merged by fingerprint.
const MAX_CYCLES_KEPT: usize = 512;

/// A lock taken while another was held.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Who.
    pub thread: u32,
    /// The lock held, and where it was taken.
    pub held: Hold,
    /// The lock taken, and where.
    pub wanted: Hold,
    /// Taken by a `try_` function or with a time limit: the thread would not have waited for ever.
    pub by_try: bool,
    /// The other locks that the thread held.
    pub others: Vec<Hold>,
    /// When, by structure.
    pub moment: Moment,
    /// How often it was seen.
    pub count: u64,
    /// What makes a cycle with it less than confirmed.
    pub doubt: Option<Doubt>,
}

impl Edge {
    fn guards(&self) -> impl Iterator<Item = &Hold> {
        self.others.iter().chain([&self.held])
    }
}

/// A lock of readers and writers that was taken for writing.
#[derive(Clone, Debug)]
pub struct Write {
    /// Who.
    pub thread: u32,
    /// The lock, and where it was taken.
    pub hold: Hold,
    /// The other locks that the thread held.
    pub others: Vec<Hold>,
    /// When, by structure.
    pub moment: Moment,
}

/// What the graph is made of.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// Edges, each seen at least once.
    pub edges: Vec<Edge>,
    /// Writers of locks that have readers.
    pub writes: Vec<Write>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Inversions {
    /// One finding per fingerprint, most certain first.
    pub findings: Vec<Finding>,
    /// Components whose search ended before all cycles were seen.
    pub budget_exhausted: u64,
}

/// Finds the inversions of a run.
pub fn inversions(orders: &Orders, locks: &Locks, describe: &dyn Describe) -> Inversions {
    let mut result = Inversions::default();
    let mut found: BTreeMap<String, Finding> = BTreeMap::new();
    let mut add = |new: Finding| match found.get_mut(&new.id) {
        Some(old) if old.confidence >= new.confidence => old.count += 1,
        Some(old) => {
            let count = old.count + 1;
            *old = Finding { count, ..new };
        }
        None => {
            found.insert(new.id.clone(), new);
        }
    };
    let blocking: Vec<&Edge> = orders.edges.iter().filter(|e| !e.by_try && e.held.lock != e.wanted.lock).collect();

    let instance = |lock: LockId| u64::from(lock.0);
    let mut search = Search { orders, locks, by_class: false, cycles: Vec::new(), seen: HashSet::new(), exhausted: 0 };
    search.run(&blocking, &instance);
    let by_instance = search.cycles.len();

    let class = |lock: LockId| locks.class(lock);
    let between: Vec<&Edge> = blocking.iter().copied().filter(|e| class(e.held.lock) != class(e.wanted.lock)).collect();
    search.by_class = true;
    search.run(&between, &class);

    for (index, cycle) in search.cycles.iter().enumerate() {
        add(cycle_finding(cycle, orders, locks, describe, index >= by_instance));
    }
    for edge in orders.edges.iter().filter(|e| !e.by_try && e.held.lock == e.wanted.lock) {
        if let Some(finding) = recursive_read(edge, orders, locks, describe) {
            add(finding);
        }
    }
    result.budget_exhausted = search.exhausted;
    result.findings = found.into_values().collect();
    result.findings.sort_by(|a, b| b.confidence.cmp(&a.confidence).then_with(|| a.id.cmp(&b.id)));
    result
}

/// A search for cycles over nodes that are lock instances or classes.
struct Search<'a> {
    orders: &'a Orders,
    locks: &'a Locks,
    by_class: bool,
    cycles: Vec<Vec<&'a Edge>>,
    /// Cycles by the places of their edges, and whether structure orders them: the same code on other instances
    /// is one inversion.
    seen: HashSet<(bool, Vec<(u32, u32)>)>,
    exhausted: u64,
}

impl<'a> Search<'a> {
    fn run(&mut self, edges: &[&'a Edge], node: &dyn Fn(LockId) -> u64) {
        let mut from: HashMap<u64, Vec<&'a Edge>> = HashMap::new();
        for edge in edges {
            from.entry(node(edge.held.lock)).or_default().push(edge);
        }
        for component in components(&from, node) {
            let members: HashSet<u64> = component.iter().copied().collect();
            let mut budget = STEP_BUDGET;
            'lengths: for length in 2..=MAX_CYCLE.min(component.len()) {
                for start in &component {
                    let mut path = Vec::new();
                    self.extend(*start, *start, length, &from, &members, node, &mut path, &mut budget);
                    if budget == 0 || self.cycles.len() >= MAX_CYCLES_KEPT {
                        self.exhausted += 1;
                        break 'lengths;
                    }
                }
            }
        }
    }

    /// Extends `path`, which ends at `at`, to cycles of exactly `length` edges whose smallest node is `start`.
    #[allow(clippy::too_many_arguments)]
    fn extend(
        &mut self,
        start: u64,
        at: u64,
        length: usize,
        from: &HashMap<u64, Vec<&'a Edge>>,
        members: &HashSet<u64>,
        node: &dyn Fn(LockId) -> u64,
        path: &mut Vec<&'a Edge>,
        budget: &mut u64,
    ) {
        let Some(edges) = from.get(&at) else { return };
        for edge in edges {
            if *budget == 0 || self.cycles.len() >= MAX_CYCLES_KEPT {
                return;
            }
            *budget -= 1;
            let to = node(edge.wanted.lock);
            let closes = to == start && path.len() + 1 == length;
            let goes_on = to > start && path.len() + 1 < length && members.contains(&to);
            let repeats = path.iter().any(|e| node(e.held.lock) == to);
            if !(closes || goes_on && !repeats) || !self.fits(path, edge) {
                continue;
            }
            path.push(edge);
            if closes {
                self.take(path);
            } else {
                self.extend(start, to, length, from, members, node, path, budget);
            }
            path.pop();
        }
    }

    /// Whether `edge` may be in one deadlock with those of `path`: another thread, and no gate.
    fn fits(&self, path: &[&Edge], edge: &Edge) -> bool {
        path.iter().all(|other| {
            other.thread != edge.thread
                && !other.guards().any(|g| {
                    edge.guards()
                        .any(|h| g.lock == h.lock && (g.mode.conflicts_with(h.mode) || h.mode.conflicts_with(g.mode)))
                })
        })
    }

    fn take(&mut self, path: &[&'a Edge]) {
        let blocks = (0..path.len()).all(|i| {
            let (edge, next) = (path[i], path[(i + 1) % path.len()]);
            (self.by_class && edge.wanted.lock != next.held.lock)
                || edge.wanted.mode.conflicts_with(next.held.mode)
                || waiting_writer(edge, next, path, self.orders, self.locks).is_some()
        });
        if !blocks
            || self.by_class
                && path.iter().enumerate().all(|(i, e)| e.wanted.lock == path[(i + 1) % path.len()].held.lock)
        {
            return;
        }
        let mut places: Vec<(u32, u32)> = path.iter().map(|e| (e.held.place.0, e.wanted.place.0)).collect();
        places.sort_unstable();
        if self.seen.insert((is_ordered(path), places)) {
            self.cycles.push(path.to_vec());
        }
    }
}

/// A writer that may come between two readers, so that the second waits behind it: of another thread than all of the
/// cycle's, of a lock whose readers wait behind writers, not ordered with either reader, not gated against them.
fn waiting_writer<'a>(
    edge: &Edge,
    next: &Edge,
    path: &[&Edge],
    orders: &'a Orders,
    locks: &Locks,
) -> Option<&'a Write> {
    if !locks.rules(edge.wanted.lock).readers_wait_behind_writers {
        return None;
    }
    orders.writes.iter().find(|write| {
        write.hold.lock == edge.wanted.lock
            && path.iter().all(|e| e.thread != write.thread && !is_gated(e, write))
            && write.moment.is_unordered_with(&edge.moment)
            && write.moment.is_unordered_with(&next.moment)
    })
}

fn is_gated(edge: &Edge, write: &Write) -> bool {
    write.others.iter().any(|g| edge.guards().any(|h| g.lock == h.lock && g.mode.conflicts_with(h.mode)))
}

/// Strongly connected components of more than one node, each sorted (Tarjan 1972, iterative).
fn components(from: &HashMap<u64, Vec<&Edge>>, node: &dyn Fn(LockId) -> u64) -> Vec<Vec<u64>> {
    let mut order: Vec<u64> = from.keys().copied().collect();
    order.sort_unstable();
    let mut index: HashMap<u64, (usize, usize)> = HashMap::new();
    let mut on_stack: HashSet<u64> = HashSet::new();
    let mut stack = Vec::new();
    let mut found = Vec::new();
    for root in order {
        if index.contains_key(&root) {
            continue;
        }
        let mut work = vec![(root, 0usize)];
        while let Some((at, next)) = work.pop() {
            if next == 0 {
                let number = index.len();
                index.insert(at, (number, number));
                stack.push(at);
                on_stack.insert(at);
            }
            let edges = from.get(&at).map_or(&[][..], Vec::as_slice);
            let mut descended = false;
            for (offset, edge) in edges.iter().enumerate().skip(next) {
                let to = node(edge.wanted.lock);
                match index.get(&to) {
                    None => {
                        work.push((at, offset + 1));
                        work.push((to, 0));
                        descended = true;
                        break;
                    }
                    Some(&(number, _)) if on_stack.contains(&to) => {
                        if let Some(own) = index.get_mut(&at) {
                            own.1 = own.1.min(number);
                        }
                    }
                    Some(_) => {}
                }
            }
            if descended {
                continue;
            }
            let (number, low) = index[&at];
            if let Some(own) = work.last().and_then(|(parent, _)| index.get_mut(parent)) {
                own.1 = own.1.min(low);
            }
            if number == low {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack.remove(&member);
                    component.push(member);
                    if member == at {
                        break;
                    }
                }
                if component.len() > 1 {
                    component.sort_unstable();
                    found.push(component);
                }
            }
        }
    }
    found
}

fn is_ordered(cycle: &[&Edge]) -> bool {
    cycle.iter().enumerate().any(|(i, a)| cycle[..i].iter().any(|b| !a.moment.is_unordered_with(&b.moment)))
}

fn edge_stacks(edge: &Edge, describe: &dyn Describe) -> [Stack; 2] {
    let held: Vec<Hold> = edge.others.iter().copied().chain([edge.held]).collect();
    [
        finding::stack(
            describe,
            "held",
            edge.thread,
            edge.held.place,
            Some(lock_ref(describe, &edge.held)),
            &edge.others,
        ),
        finding::stack(
            describe,
            "wanted",
            edge.thread,
            edge.wanted.place,
            Some(lock_ref(describe, &edge.wanted)),
            &held,
        ),
    ]
}

fn cycle_finding(cycle: &[&Edge], orders: &Orders, locks: &Locks, describe: &dyn Describe, by_class: bool) -> Finding {
    let mut stacks = Vec::new();
    let mut waits_for = Vec::new();
    let mut notes = Vec::new();
    let mut confidence = Confidence::Confirmed;
    for (i, edge) in cycle.iter().enumerate() {
        let next = cycle[(i + 1) % cycle.len()];
        stacks.extend(edge_stacks(edge, describe));
        waits_for.push(WaitsFor {
            thread: thread_name(&describe.thread(edge.thread)),
            lock: describe.lock(edge.wanted.lock).name,
            holder: thread_name(&describe.thread(next.thread)),
        });
        if !edge.wanted.mode.conflicts_with(next.held.mode)
            && let Some(write) = waiting_writer(edge, next, cycle, orders, locks)
        {
            let lock = lock_ref(describe, &write.hold);
            notes.push(format!(
                "Readers of `{}` wait behind a waiting writer, as {} is at {}.",
                lock.name,
                thread_name(&describe.thread(write.thread)),
                at(&describe.frames(write.hold.place)),
            ));
            stacks.push(finding::stack(
                describe,
                "write-locked",
                write.thread,
                write.hold.place,
                Some(lock),
                &write.others,
            ));
            confidence = confidence.min(Confidence::Likely);
        }
    }
    if is_ordered(cycle) {
        confidence = Confidence::Possible;
        notes.push(
            "Thread creation, a join, a barrier or one-time initialisation ordered these acquisitions in this run."
                .to_owned(),
        );
    }
    if by_class {
        confidence = Confidence::Possible;
        notes.push("The locks are different ones of the same kind (created, or first taken, at the same place); no cycle over the same locks was seen.".to_owned());
    }
    for (bound, why) in cycle.iter().filter_map(|edge| edge.doubt) {
        confidence = confidence.min(bound);
        if !notes.iter().any(|note| note == why) {
            notes.push(why.to_owned());
        }
    }
    let names: Vec<String> = cycle.iter().map(|e| format!("`{}`", describe.lock(e.held.lock).name)).collect();
    let title = if let [a, b] = cycle {
        format!(
            "{} and {} are taken in opposite orders by {} and {}",
            names[0],
            names[1],
            thread_name(&describe.thread(a.thread)),
            thread_name(&describe.thread(b.thread)),
        )
    } else {
        format!("{} -> {} are taken in a cycle by {} threads", names.join(" -> "), names[0], cycle.len())
    };
    // The rarest edge is the one to change.
    let odd = cycle.iter().min_by_key(|e| e.count).copied().unwrap_or(cycle[0]);
    let fix = format!(
        "Take `{}` before `{}` everywhere: at {} it is taken after it (while `{}`, taken at {}, is held).",
        describe.lock(odd.wanted.lock).name,
        describe.lock(odd.held.lock).name,
        at(&describe.frames(odd.wanted.place)),
        describe.lock(odd.held.lock).name,
        at(&describe.frames(odd.held.place)),
    );
    let mut finding = finding::finding(Kind::LockOrderInversion, confidence, title, fix, stacks);
    finding.waits_for = waits_for;
    finding.notes = notes;
    finding
}

/// A lock that its reader takes for reading again, while another thread writes.
fn recursive_read(edge: &Edge, orders: &Orders, locks: &Locks, describe: &dyn Describe) -> Option<Finding> {
    if edge.held.mode != Mode::Shared || edge.wanted.mode != Mode::Shared {
        return None;
    }
    let rules = locks.rules(edge.wanted.lock);
    if !rules.readers_wait_behind_writers || rules.is_reentrant {
        return None;
    }
    let write = orders.writes.iter().find(|write| {
        write.hold.lock == edge.wanted.lock
            && write.thread != edge.thread
            && write.moment.is_unordered_with(&edge.moment)
            && !write
                .others
                .iter()
                .any(|g| edge.others.iter().any(|h| g.lock == h.lock && g.mode.conflicts_with(h.mode)))
    })?;
    let name = describe.lock(edge.wanted.lock).name;
    let mut stacks = edge_stacks(edge, describe).to_vec();
    stacks.push(finding::stack(
        describe,
        "write-locked",
        write.thread,
        write.hold.place,
        Some(lock_ref(describe, &write.hold)),
        &write.others,
    ));
    let title = format!(
        "{} takes `{name}` for reading while it already reads it, and {} writes it",
        thread_name(&describe.thread(edge.thread)),
        thread_name(&describe.thread(write.thread)),
    );
    let fix = format!(
        "Keep one read guard: pass the one from {} on instead of taking `{name}` again at {}, because a writer that waits between the two blocks the second.",
        at(&describe.frames(edge.held.place)),
        at(&describe.frames(edge.wanted.place)),
    );
    let (confidence, why) = edge.doubt.map_or((Confidence::Confirmed, None), |(bound, why)| (bound, Some(why)));
    let mut finding = finding::finding(Kind::LockOrderInversion, confidence, title, fix, stacks);
    finding.notes.extend(why.map(str::to_owned));
    Some(finding)
}

#[cfg(test)]
#[path = "lock_order_tests.rs"]
mod tests;
