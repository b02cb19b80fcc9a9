//! From a snapshot to findings: deadlocks by their shape, and lost wake-ups.
//!
//! Each stuck thread ([`super::waits_for`]) is explained once: by the cycle it is in, by an owner that is gone, or
//! by a wait that nobody is left to end. Threads that merely wait for explained ones are listed with them.

use super::finding::{self, at, thread_name};
use super::waits_for::{Activity, Awaited, Because, Snapshot, Stuck, ThreadAt, Wait, WaitsOn, stuck};
use super::{Describe, Hold, LockId, LockRules, Mode, cycle};
use crate::report::{Confidence, Finding, Kind, LockRef, Stack, WaitsFor};
use std::collections::{BTreeSet, HashMap};

/// The findings of a snapshot, and what may be done about it.
#[derive(Debug, Default)]
pub struct Hang {
    /// Deadlocks and lost wake-ups.
    pub findings: Vec<Finding>,
    /// Nothing from outside can end the wait: the program may be ended after `--hang-after`.
    pub may_be_ended: bool,
    /// Threads that can never go on, ascending.
    pub stuck: Vec<u32>,
}

/// Explains the stuck threads of a snapshot.
pub fn explain(snapshot: &Snapshot, rules: &dyn Fn(LockId) -> LockRules, describe: &dyn Describe) -> Hang {
    let snapshot = &without_test_harness(snapshot, describe);
    let stuck = stuck(snapshot, rules);
    let scene = Scene { snapshot, stuck: &stuck, describe };
    let mut hang = Hang { findings: Vec::new(), may_be_ended: stuck.is_everyone, stuck: stuck.threads.clone() };
    let mut explained: BTreeSet<u32> = BTreeSet::new();
    for cycle in scene.cycles() {
        explained.extend(cycle.iter().map(|edge| edge.waiter));
        hang.findings.push(scene.cycle(&cycle));
    }
    for edge in &stuck.edges {
        if scene.thread(edge.target).is_some_and(|t| t.activity == Activity::Ended) && explained.insert(edge.waiter) {
            hang.findings.push(scene.owner_gone(edge));
        }
    }
    scene.spread(&mut explained);
    let consequences = scene.consequences(&mut explained);
    if let (Some(first), false) = (hang.findings.first_mut(), consequences.is_empty()) {
        let names: Vec<String> = consequences.iter().take(8).map(|thread| scene.name(*thread)).collect();
        let more = consequences.len().saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        first.notes.push(format!("Nobody else is left to wake {}{more}.", and(&names)));
    }
    let rest: Vec<u32> = stuck.threads.iter().copied().filter(|thread| !explained.contains(thread)).collect();
    if let Some(finding) = scene.anonymous(&rest) {
        hang.findings.push(finding);
    }
    hang
}

/// The snapshot with libtest's main thread as one that merely waits for its tests: what it does when its time is over is to say that a test
/// takes long.
fn without_test_harness(snapshot: &Snapshot, describe: &dyn Describe) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for thread in &mut snapshot.threads {
        if let Activity::Waiting(wait) = &mut thread.activity
            && wait.is_timed
            && describe.frames(wait.place).iter().any(|frame| frame.function.starts_with(HARNESS))
        {
            wait.is_timed = false;
        }
    }
    snapshot
}

/// libtest's function that starts the tests and waits for them.
const HARNESS: &str = "test::run_tests";

struct Scene<'a> {
    snapshot: &'a Snapshot,
    stuck: &'a Stuck,
    describe: &'a dyn Describe,
}

impl Scene<'_> {
    fn thread(&self, serial: u32) -> Option<&ThreadAt> {
        self.snapshot.threads.iter().find(|t| t.serial == serial)
    }

    fn wait(&self, serial: u32) -> Option<&Wait> {
        match &self.thread(serial)?.activity {
            Activity::Waiting(wait) => Some(wait),
            _ => None,
        }
    }

    fn name(&self, serial: u32) -> String {
        thread_name(&self.describe.thread(serial))
    }

    /// Cycles of the edges between particular threads, each thread in one of them at most.
    fn cycles(&self) -> Vec<Vec<WaitsOn>> {
        let mut from: HashMap<u32, Vec<WaitsOn>> = HashMap::new();
        for edge in &self.stuck.edges {
            from.entry(edge.waiter).or_default().push(*edge);
        }
        let mut cycles = Vec::new();
        let mut done: BTreeSet<u32> = BTreeSet::new();
        for &start in &self.stuck.threads {
            if done.contains(&start) {
                continue;
            }
            if let Some(cycle) = shortest_cycle(start, &from, &done) {
                done.extend(cycle.iter().map(|edge| edge.waiter));
                cycles.push(cycle);
            }
        }
        cycles
    }

    /// Marks the threads that wait, in the end, only for explained ones.
    fn spread(&self, explained: &mut BTreeSet<u32>) {
        loop {
            let before = explained.len();
            for edge in &self.stuck.edges {
                if explained.contains(&edge.target) {
                    explained.insert(edge.waiter);
                }
            }
            if explained.len() == before {
                return;
            }
        }
    }

    /// Marks the stuck threads that an explained one might have woken, and gives them: what they wait for is missing because of what is
    /// explained, and is no fault of its own.
    fn consequences(&self, explained: &mut BTreeSet<u32>) -> Vec<u32> {
        let before = explained.clone();
        loop {
            let next = self.stuck.threads.iter().copied().find(|thread| {
                let wakers = self.wait(*thread).map(|wait| &wait.peers);
                !explained.contains(thread)
                    && !self.stuck.edges.iter().any(|edge| edge.waiter == *thread)
                    && match wakers {
                        Some(Some(peers)) => peers.iter().any(|peer| explained.contains(peer)),
                        Some(None) => !explained.is_empty(),
                        None => false,
                    }
            });
            let Some(next) = next else { break };
            explained.insert(next);
            self.spread(explained);
        }
        explained.difference(&before).copied().collect()
    }

    /// The stacks of a waiting thread: what it waits for, and each relevant lock that it holds.
    fn stacks(&self, serial: u32, relevant: &dyn Fn(LockId) -> bool) -> Vec<Stack> {
        let (Some(thread), Some(wait)) = (self.thread(serial), self.wait(serial)) else { return Vec::new() };
        let holds: Vec<Hold> =
            thread.holds.iter().map(|held| Hold { lock: held.lock, mode: held.mode, place: held.place }).collect();
        let lock = match &wait.what {
            Awaited::Lock { lock, mode } => Some(LockRef { mode: mode.word().to_owned(), ..self.describe.lock(*lock) }),
            _ => None,
        };
        let mut stacks = vec![finding::stack(self.describe, "waiting", serial, wait.place, lock, &holds)];
        for hold in holds.iter().filter(|hold| relevant(hold.lock)) {
            let lock = finding::lock_ref(self.describe, hold);
            stacks.push(finding::stack(self.describe, "held", serial, hold.place, Some(lock), &[]));
        }
        stacks
    }

    fn waits_for(&self, edge: &WaitsOn) -> WaitsFor {
        let lock = match (edge.because, self.wait(edge.waiter).map(|w| &w.what)) {
            (Because::Holds(held), _) => self.describe.lock(held.lock).name,
            (Because::WritesNext(lock), _) => self.describe.lock(lock).name,
            (_, Some(what)) => what.word().to_owned(),
            (_, None) => String::new(),
        };
        WaitsFor { thread: self.name(edge.waiter), lock, holder: self.name(edge.target) }
    }

    /// Those who wait, in the end, for members of `core`.
    fn behind(&self, core: &[u32]) -> Vec<u32> {
        let mut all: BTreeSet<u32> = core.iter().copied().collect();
        self.spread(&mut all);
        all.into_iter().filter(|thread| !core.contains(thread)).collect()
    }

    fn since(&self, core: &[u32]) -> Option<String> {
        if self.snapshot.now_ns == 0 {
            return None;
        }
        let since = core.iter().filter_map(|thread| self.wait(*thread)).map(|w| w.since_ns).max()?;
        let waited = self.snapshot.now_ns.saturating_sub(since);
        Some(format!("It has lasted {}.", duration(waited)))
    }

    fn finish(&self, mut finding: Finding, core: &[u32], edges: &[WaitsOn]) -> Finding {
        finding.waits_for = edges.iter().map(|edge| self.waits_for(edge)).collect();
        finding.notes.extend(self.since(core));
        let behind = self.behind(core);
        if !behind.is_empty() {
            let names: Vec<String> = behind.iter().take(8).map(|thread| self.name(*thread)).collect();
            let more = behind.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            finding.notes.push(format!("Also blocked behind it: {}{more}.", names.join(", ")));
        }
        finding
    }

    fn cycle(&self, cycle: &[WaitsOn]) -> Finding {
        let core: Vec<u32> = cycle.iter().map(|edge| edge.waiter).collect();
        let locks: BTreeSet<LockId> = cycle
            .iter()
            .filter_map(|edge| match edge.because {
                Because::Holds(held) => Some(held.lock),
                Because::WritesNext(lock) => Some(lock),
                _ => None,
            })
            .collect();
        let stacks = core.iter().flat_map(|thread| self.stacks(*thread, &|lock| locks.contains(&lock))).collect();
        let (title, fix) = self.words_of_cycle(cycle);
        self.finish(finding::finding(Kind::Deadlock, Confidence::Confirmed, title, fix, stacks), &core, cycle)
    }

    fn words_of_cycle(&self, cycle: &[WaitsOn]) -> (String, String) {
        if let [only] = cycle {
            return self.words_of_self(only);
        }
        let names: Vec<String> = cycle.iter().map(|edge| self.name(edge.waiter)).collect();
        let locks: Vec<(String, &WaitsOn)> = cycle
            .iter()
            .filter_map(|edge| match edge.because {
                Because::Holds(held) => Some((self.describe.lock(held.lock).name, edge)),
                Because::WritesNext(lock) => Some((self.describe.lock(lock).name, edge)),
                _ => None,
            })
            .collect();
        let all_hold = cycle.iter().all(|edge| matches!(edge.because, Because::Holds(_)));
        let writers = cycle.iter().any(|edge| matches!(edge.because, Because::WritesNext(_)));
        let joins = cycle.iter().any(|edge| edge.because == Because::Ends);
        let initialises = cycle.iter().any(|edge| edge.because == Because::Initialises);
        let held: BTreeSet<LockId> = cycle
            .iter()
            .filter_map(|edge| match edge.because {
                Because::Holds(held) => Some(held.lock),
                _ => None,
            })
            .collect();
        // Two locks may have one name where both were first taken at one place.
        let same_lock = held.len() == 1;
        let title = format!("{} wait for each other", and(&names));
        if writers {
            let name = locks.first().map(|l| l.0.clone()).unwrap_or_default();
            return (
                format!("{title}: one reads `{name}` twice and a writer waits in between"),
                format!("Keep one read guard of `{name}` and pass it on instead of taking it again."),
            );
        }
        if initialises {
            return (
                format!("{title}: initialisations need each other"),
                "Let one initialisation not touch the other's value, or merge the two into one.".to_owned(),
            );
        }
        if joins {
            let fix = match locks.first() {
                Some((name, edge)) => format!("Give `{name}` up before joining {}.", self.name(edge.waiter)),
                None => "Join in one direction only.".to_owned(),
            };
            return (format!("{title}: a thread is joined that cannot end"), fix);
        }
        if all_hold && same_lock {
            let name = locks.first().map(|l| l.0.clone()).unwrap_or_default();
            return (
                format!("{title} to upgrade `{name}` from reading to writing"),
                format!("Take `{name}` for writing at once, or give the read guard up before, and look again after."),
            );
        }
        let taken: Vec<String> = locks.iter().map(|(name, _)| format!("`{name}`")).collect();
        (format!("{title} for {}", and(&taken)), format!("Take {} in one order everywhere.", and(&taken)))
    }

    fn words_of_self(&self, edge: &WaitsOn) -> (String, String) {
        let thread = self.name(edge.waiter);
        let wanted = self.wait(edge.waiter).map(|w| &w.what);
        match (edge.because, wanted) {
            (Because::Holds(held), Some(Awaited::Lock { mode: Mode::Exclusive, .. }))
                if held.mode != Mode::Exclusive =>
            {
                let name = self.describe.lock(held.lock).name;
                (
                    format!("{thread} waits to write `{name}`, which it reads itself"),
                    format!(
                        "Drop the read guard taken at {} before writing `{name}`.",
                        at(&self.describe.frames(held.place))
                    ),
                )
            }
            (Because::Holds(held), _) => {
                let name = self.describe.lock(held.lock).name;
                (
                    format!("{thread} waits for `{name}`, which it holds itself"),
                    format!(
                        "Drop the guard taken at {} before taking `{name}` again, or pass it on.",
                        at(&self.describe.frames(held.place))
                    ),
                )
            }
            (Because::Ends, _) => (format!("{thread} joins itself"), "Let another thread join it.".to_owned()),
            _ => (
                format!("{thread} waits for an initialisation that it runs itself"),
                "Do not touch the value from within its own initialiser.".to_owned(),
            ),
        }
    }

    fn owner_gone(&self, edge: &WaitsOn) -> Finding {
        let mut stacks = self.stacks(edge.waiter, &|_| false);
        let (title, fix) = match edge.because {
            Because::Holds(held) => {
                let lock = self.describe.lock(held.lock);
                let hold = Hold { lock: held.lock, mode: held.mode, place: held.place };
                let name = lock.name;
                stacks.push(finding::stack(
                    self.describe,
                    "held",
                    edge.target,
                    held.place,
                    Some(finding::lock_ref(self.describe, &hold)),
                    &[],
                ));
                (
                    format!(
                        "{} waits for `{name}`, which {} took and never gave up before it ended",
                        self.name(edge.waiter),
                        self.name(edge.target)
                    ),
                    format!(
                        "Let the guard taken at {} be dropped on every way out (no `mem::forget`, no leaked guard).",
                        at(&self.describe.frames(held.place))
                    ),
                )
            }
            _ => (
                format!("{} waits for {}, which has ended", self.name(edge.waiter), self.name(edge.target)),
                "Make sure that what it waits for happens before that thread ends.".to_owned(),
            ),
        };
        let finding = finding::finding(Kind::Deadlock, Confidence::Confirmed, title, fix, stacks);
        self.finish(finding, &[edge.waiter], &[*edge])
    }

    /// Threads that wait for no particular thread, but nobody is left who could wake them.
    fn anonymous(&self, rest: &[u32]) -> Option<Finding> {
        let leaders: Vec<u32> =
            rest.iter().copied().filter(|t| !self.stuck.edges.iter().any(|e| e.waiter == *t)).collect();
        let shown: &[u32] = if leaders.is_empty() { rest } else { &leaders };
        let first = *shown.first()?;
        let is = |thread: u32, test: &dyn Fn(&Awaited) -> bool| self.wait(thread).is_some_and(|w| test(&w.what));
        // A waiter that holds what another stuck thread needs.
        let blocks: Vec<WaitsOn> = self
            .stuck
            .edges
            .iter()
            .filter(|edge| matches!(edge.because, Because::Holds(_)) && shown.contains(&edge.target))
            .copied()
            .collect();
        let confidence =
            if shown.iter().any(|t| self.wait(*t).is_some_and(|w| w.peers.is_some())) && !self.stuck.is_everyone {
                Confidence::Likely
            } else {
                Confidence::Confirmed
            };
        let mut core: Vec<u32> = shown.to_vec();
        if let Some(nested) = blocks.first() {
            core = vec![nested.target, nested.waiter];
            let Because::Holds(held) = nested.because else { return None };
            let name = self.describe.lock(held.lock).name;
            let what = self.wait(nested.target).map_or("", |w| w.what.word());
            let title = format!(
                "{} waits for {what} while it holds `{name}`, which {} needs to get there",
                self.name(nested.target),
                self.name(nested.waiter)
            );
            let fix = format!(
                "Give `{name}` (taken at {}) up before waiting for {what}.",
                at(&self.describe.frames(held.place))
            );
            let stacks = core.iter().flat_map(|t| self.stacks(*t, &|lock| lock == held.lock)).collect();
            return Some(self.finish(
                finding::finding(Kind::Deadlock, confidence, title, fix, stacks),
                &core,
                &[*nested],
            ));
        }
        let mut stacks: Vec<Stack> = core.iter().take(8).flat_map(|t| self.stacks(*t, &|_| true)).collect();
        let names: Vec<String> = core.iter().take(8).map(|t| self.name(*t)).collect();
        let wakes = |what: &Awaited| matches!(what, Awaited::Condvar | Awaited::Park);
        if core.iter().all(|t| is(*t, &wakes)) {
            let missed = core.iter().filter_map(|t| Some((*t, self.wait(*t)?.missed?))).next();
            let what = self.wait(first).map_or("", |w| w.what.word());
            let (title, fix) = match missed {
                Some((waiter, missed)) => {
                    stacks.push(finding::stack(self.describe, "notify", missed.thread, missed.place, None, &[]));
                    (
                        format!(
                            "{} waits for {what}, but {} gave the wake-up before the wait began, and nobody is left to give another",
                            self.name(waiter),
                            self.name(missed.thread)
                        ),
                        "Change the condition under the lock, and check it under the same lock before waiting (`wait_while`).".to_owned(),
                    )
                }
                None => (
                    format!(
                        "{} wait{} for {what}, and nobody is left who could give it",
                        and(&names),
                        if names.len() == 1 { "s" } else { "" }
                    ),
                    "Make sure that the last thread that could do so wakes the waiters before it ends or waits itself."
                        .to_owned(),
                ),
            };
            return Some(self.finish(finding::finding(Kind::LostWakeup, confidence, title, fix, stacks), &core, &[]));
        }
        let whats: BTreeSet<&str> = core.iter().filter_map(|t| self.wait(*t)).map(|w| w.what.word()).collect();
        let whats: Vec<String> = whats.into_iter().map(str::to_owned).collect();
        let title = format!(
            "{} wait{} for {}, and no thread is left that could go on",
            and(&names),
            if names.len() == 1 { "s" } else { "" },
            and(&whats)
        );
        let channels = |what: &Awaited| matches!(what, Awaited::Receive | Awaited::Send);
        let fix = if core.iter().any(|t| is(*t, &|w| *w == Awaited::Pool)) {
            "Do not wait inside a pool for jobs of the same pool; use a larger or another pool, or its own `join`."
        } else if core.iter().all(|t| is(*t, &|w| *w == Awaited::Receive)) {
            "Drop the senders that are no longer used, so that the receivers end; a thread that receives must not keep a sender to itself."
        } else if core.iter().any(|t| is(*t, &channels)) {
            "Receive on one side before sending on it, give the channels more room, or use `try_send`."
        } else if core.iter().any(|t| is(*t, &|w| *w == Awaited::Barrier)) {
            "Let exactly as many threads wait at the barrier as it was made for, on every path."
        } else {
            "Let one of these threads go on without waiting for the others."
        };
        Some(self.finish(finding::finding(Kind::Deadlock, confidence, title, fix.to_owned(), stacks), &core, &[]))
    }
}

/// The shortest cycle through `start` that avoids the threads in `without`.
fn shortest_cycle(start: u32, from: &HashMap<u32, Vec<WaitsOn>>, without: &BTreeSet<u32>) -> Option<Vec<WaitsOn>> {
    let is_open = |edge: &&WaitsOn| edge.target == start || !without.contains(&edge.target);
    let edges = |at| from.get(&at).into_iter().flatten().filter(is_open).copied().collect();
    cycle::shortest_cycle(start, edges, |edge| (edge.waiter, edge.target))
}

/// `a`, `a and b`, `a, b and c`.
fn and(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A duration in the unit a person would use.
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
#[path = "deadlock_tests.rs"]
mod tests;
