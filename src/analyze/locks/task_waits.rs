//! Tasks of an async runtime that wait for each other, at one moment.
//!
//! ```text
//! TaskSnapshot (tasks with their waits and holds, locks that count permits) --stuck--> tasks that nothing can wake
//!                                                                          --explain--> deadlocks
//! ```
//!
//! A task is a candidate if it is not polled and not woken, and all its wakers are with futures that wait for permits: then
//! neither time, input nor another channel can wake it. A future gets its permits once those who hold them give them back,
//! and those who queue before it have had theirs; tokio's semaphores are first in, first out. So a future can go on if one of
//! these can, or if none is known; a task if one of its futures can. The rest of the candidates is stuck: the greatest set in
//! which each future waits only for members of the set.
//!
//! A future that was given its permits and is not polled any more holds them as well, as its task does ("futurelock").
//!
//! Direction of error: unsure tasks, locks and holds count as able to go on, so a deadlock may be missed but none is invented.
//! Who receives from a channel is known by what it did before, so that is "likely".

use super::finding::{self, at};
use super::{Describe, LockId, Place, cycle};
use crate::report::{Confidence, Finding, Kind, LockRef, Stack, Thread, WaitsFor};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Serials of [`Thread`] from here on are tasks.
pub use crate::report::place::FIRST_TASK;

/// What a lock that counts permits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permits {
    /// `tokio::sync::Mutex`.
    Mutex,
    /// `tokio::sync::RwLock`.
    RwLock,
    /// `tokio::sync::Semaphore`.
    Semaphore,
    /// A bounded channel: who sends takes a permit, who receives gives it back.
    Channel,
}

/// A lock that counts permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermitLock {
    /// What it is.
    pub kind: Permits,
    /// Who holds it is not known for sure.
    pub is_unsure: bool,
    /// Some task gave back what another took.
    pub is_handed_over: bool,
    /// Of a channel, the one task that receives, where there is one.
    pub receiver: Option<u32>,
}

/// A future that waits for permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitAt {
    /// Of which lock.
    pub lock: LockId,
    /// Where.
    pub place: Place,
    /// Since when.
    pub since_ns: u64,
    /// It was given them, and is not polled.
    pub is_assigned: bool,
    /// It has the waker of its task, and not one that leads there.
    pub has_own_waker: bool,
}

/// Permits that a task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldAt {
    /// Of which lock.
    pub lock: LockId,
    /// Where they were taken.
    pub place: Place,
    /// The task has spawned others since.
    pub has_spawned_since: bool,
    /// The guard is an owned one, which may be sent anywhere.
    pub is_owned: bool,
}

/// A task, or what a thread does outside tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskAt {
    /// Its row.
    pub id: u32,
    /// Its number among all tasks of the run.
    pub number: u64,
    /// Where it was spawned.
    pub spawned: Place,
    /// The thread that spawned it.
    pub spawner: Option<u32>,
    /// The thread, for what a thread does outside tasks.
    pub thread: Option<u32>,
    /// Wakers that exist of it, where it is neither polled nor to be polled, and all is known of it.
    pub wakers: Option<u32>,
    /// What it waits for, oldest first.
    pub waits: Vec<WaitAt>,
    /// What it holds.
    pub holds: Vec<HoldAt>,
}

/// The tasks at one moment.
#[derive(Clone, Debug, Default)]
pub struct TaskSnapshot {
    /// The tasks.
    pub tasks: Vec<TaskAt>,
    /// What is known of the locks that they hold and wait for.
    pub locks: HashMap<LockId, PermitLock>,
    /// Now, in nanoseconds since the start of the recording; 0 where unknown.
    pub now_ns: u64,
}

/// Why a task waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    /// The other holds permits.
    Holds(HoldAt),
    /// A future of the other was given them.
    WasGiven(WaitAt),
    /// A future of the other is before it in the queue.
    IsBefore(WaitAt),
    /// The other receives from the channel.
    Receives,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    waiter: u32,
    wait: WaitAt,
    target: u32,
    because: Because,
}

impl TaskAt {
    /// Whether nothing but permits can wake it.
    fn is_candidate(&self) -> bool {
        let waiting = || self.waits.iter().filter(|wait| !wait.is_assigned);
        let count = waiting().count();
        count > 0 && self.wakers == u32::try_from(count).ok() && waiting().all(|wait| wait.has_own_waker)
    }
}

impl TaskSnapshot {
    fn task(&self, id: u32) -> Option<&TaskAt> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// Whom a future waits for; `None` where that is not known for sure, or nobody.
    fn blockers(&self, waiter: u32, wait: &WaitAt) -> Option<Vec<Edge>> {
        let lock = self.locks.get(&wait.lock)?;
        let edge = |target: u32, because: Because| Edge { waiter, wait: *wait, target, because };
        if lock.kind == Permits::Channel {
            return Some(vec![edge(lock.receiver?, Because::Receives)]);
        }
        if lock.is_unsure || lock.is_handed_over {
            return None;
        }
        let mut edges = Vec::new();
        let mut is_taken = false;
        for task in &self.tasks {
            for hold in task.holds.iter().filter(|hold| hold.lock == wait.lock) {
                if hold.has_spawned_since {
                    // The guard may be with one of them.
                    return None;
                }
                is_taken = true;
                edges.push(edge(task.id, Because::Holds(*hold)));
            }
            for other in task.waits.iter().filter(|other| other.lock == wait.lock && *other != wait) {
                if other.is_assigned {
                    is_taken = true;
                    edges.push(edge(task.id, Because::WasGiven(*other)));
                } else if lock.kind != Permits::Mutex && other.since_ns <= wait.since_ns {
                    // Where one task holds all, it alone decides.
                    edges.push(edge(task.id, Because::IsBefore(*other)));
                }
            }
        }
        is_taken.then_some(edges)
    }

    /// The tasks that nothing can wake, each with whom it waits for.
    fn stuck(&self) -> BTreeMap<u32, Vec<Edge>> {
        let mut stuck: BTreeMap<u32, Vec<Edge>> = BTreeMap::new();
        for task in self.tasks.iter().filter(|task| task.is_candidate()) {
            let waiting = task.waits.iter().filter(|wait| !wait.is_assigned);
            let edges: Option<Vec<Vec<Edge>>> = waiting.map(|wait| self.blockers(task.id, wait)).collect();
            if let Some(edges) = edges {
                stuck.insert(task.id, edges.concat());
            }
        }
        loop {
            let able = stuck.iter().find(|(_, edges)| edges.iter().any(|edge| !stuck.contains_key(&edge.target)));
            let Some((&able, _)) = able else { return stuck };
            stuck.remove(&able);
        }
    }
}

/// The deadlocks among tasks.
pub fn explain(snapshot: &TaskSnapshot, describe: &dyn Describe) -> Vec<Finding> {
    let stuck = snapshot.stuck();
    let scene = Scene { snapshot, stuck: &stuck, describe };
    let mut findings = Vec::new();
    let mut explained: BTreeSet<u32> = BTreeSet::new();
    for &start in stuck.keys() {
        if !explained.contains(&start)
            && let Some(cycle) = scene.shortest_cycle(start)
        {
            let core: BTreeSet<u32> = cycle.iter().map(|edge| edge.waiter).collect();
            explained.extend(core.iter().copied());
            let behind = scene.behind(&core, &explained);
            findings.push(scene.cycle(&cycle, &behind));
            explained.extend(behind);
        }
    }
    findings
}

struct Scene<'a> {
    snapshot: &'a TaskSnapshot,
    stuck: &'a BTreeMap<u32, Vec<Edge>>,
    describe: &'a dyn Describe,
}

impl Scene<'_> {
    /// The shortest cycle through a task. Of several ways, one by a hold is preferred.
    fn shortest_cycle(&self, start: u32) -> Option<Vec<Edge>> {
        let edges = |task| {
            // A task that takes a second permit of a semaphore may count on another's adding one.
            let is_alone = |edge: &&Edge| edge.target == task && self.kind(edge.wait.lock) == Some(Permits::Semaphore);
            let edges = self.stuck.get(&task).into_iter().flatten();
            let mut edges: Vec<Edge> = edges.filter(|edge| !is_alone(edge)).copied().collect();
            edges.sort_by_key(|edge| matches!(edge.because, Because::IsBefore(_)));
            edges
        };
        cycle::shortest_cycle(start, edges, |edge| (edge.waiter, edge.target))
    }

    /// The tasks that wait, in the end, for members of `core`.
    fn behind(&self, core: &BTreeSet<u32>, explained: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut all = core.clone();
        loop {
            let next = self
                .stuck
                .iter()
                .find(|(task, edges)| !all.contains(task) && edges.iter().any(|edge| all.contains(&edge.target)));
            let Some((&next, _)) = next else { break };
            all.insert(next);
        }
        all.difference(explained).copied().collect()
    }

    fn thread(&self, id: u32) -> Thread {
        let Some(task) = self.snapshot.task(id) else { return Thread::default() };
        thread(task, self.describe)
    }

    fn name(&self, id: u32) -> String {
        finding::thread_name(&self.thread(id))
    }

    fn lock(&self, lock: LockId) -> LockRef {
        self.describe.lock(lock)
    }

    fn stack(&self, role: &str, task: u32, place: Place, lock: LockId) -> Stack {
        let stack = finding::stack(self.describe, role, 0, place, Some(self.lock(lock)), &[]);
        Stack { thread: Some(self.thread(task)), ..stack }
    }

    fn cycle(&self, cycle: &[Edge], behind: &BTreeSet<u32>) -> Finding {
        let mut stacks = Vec::new();
        let mut add = |stack: Stack| {
            if !stacks.contains(&stack) {
                stacks.push(stack);
            }
        };
        for edge in cycle {
            add(self.stack("waiting", edge.waiter, edge.wait.place, edge.wait.lock));
        }
        for edge in cycle {
            match edge.because {
                Because::Holds(hold) => add(self.stack("held", edge.target, hold.place, hold.lock)),
                Because::WasGiven(wait) => add(self.stack("held", edge.target, wait.place, wait.lock)),
                Because::IsBefore(wait) => add(self.stack("waiting", edge.target, wait.place, wait.lock)),
                Because::Receives => {}
            }
        }
        if let Some((before, wait)) = self.writer_between(cycle) {
            add(self.stack("waiting", before, wait.place, wait.lock));
        }
        let (title, fix) = self.words(cycle);
        let mut finding = finding::finding(Kind::Deadlock, self.confidence(cycle), title, fix, stacks);
        finding.waits_for = cycle
            .iter()
            .map(|edge| WaitsFor {
                thread: self.name(edge.waiter),
                lock: self.lock(edge.wait.lock).name,
                holder: self.name(edge.target),
            })
            .collect();
        let since = cycle.iter().map(|edge| edge.wait.since_ns).max().unwrap_or(0);
        if self.snapshot.now_ns > since {
            let lasted = super::deadlock::duration(self.snapshot.now_ns - since);
            finding.notes.push(format!("It has lasted {lasted}."));
        }
        finding.notes.push("No thread is blocked: the runtime's workers wait for other tasks.".to_owned());
        if !behind.is_empty() {
            let names: Vec<String> = behind.iter().take(8).map(|task| self.name(*task)).collect();
            let more = behind.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            finding.notes.push(format!("Also blocked behind it: {}{more}.", names.join(", ")));
        }
        finding
    }

    fn kind(&self, lock: LockId) -> Option<Permits> {
        self.snapshot.locks.get(&lock).map(|lock| lock.kind)
    }

    fn confidence(&self, cycle: &[Edge]) -> Confidence {
        let is_sent = |edge: &Edge| matches!(edge.because, Because::Holds(hold) if hold.is_owned);
        // A task that takes a second permit may count on another's adding one.
        let is_alone =
            cycle.len() == 1 && cycle.iter().all(|edge| self.kind(edge.wait.lock) == Some(Permits::Semaphore));
        if cycle.iter().any(is_sent) || is_alone {
            Confidence::Possible
        } else if cycle.iter().all(|edge| matches!(self.kind(edge.wait.lock), Some(Permits::Mutex | Permits::RwLock))) {
            Confidence::Confirmed
        } else {
            Confidence::Likely
        }
    }

    fn words(&self, cycle: &[Edge]) -> (String, String) {
        if let [only] = cycle {
            return self.words_of_self(only);
        }
        let names: Vec<String> = cycle.iter().map(|edge| self.name(edge.waiter)).collect();
        let mut locks: Vec<String> = Vec::new();
        for edge in cycle {
            let name = format!("`{}`", self.lock(edge.wait.lock).name);
            if !locks.contains(&name) {
                locks.push(name);
            }
        }
        let title = format!("{} wait for each other for {}", and(&names), and(&locks));
        let kinds: Vec<Permits> = cycle.iter().filter_map(|edge| self.kind(edge.wait.lock)).collect();
        let given = cycle.iter().find_map(|edge| match edge.because {
            Because::WasGiven(wait) => Some((edge.target, wait)),
            _ => None,
        });
        let fix = if let Some((task, wait)) = given {
            format!(
                "Let {} go on polling the future made at {}, or drop it, while it awaits anything else.",
                self.name(task),
                at(&self.describe.frames(wait.place))
            )
        } else if kinds.iter().all(|kind| *kind == Permits::Channel) {
            "Receive on one side before sending on it, give the channels more room, or use `try_send`.".to_owned()
        } else if kinds.contains(&Permits::Channel) {
            format!("Give {} up before awaiting room in a channel.", and(&locks))
        } else if locks.len() == 1 {
            format!("Take all that is needed of {} at once, before awaiting anything else.", and(&locks))
        } else {
            format!("Take {} in one order everywhere.", and(&locks))
        };
        (title, fix)
    }

    /// Where a task takes a lock with readers again, who queues in between.
    fn writer_between(&self, cycle: &[Edge]) -> Option<(u32, WaitAt)> {
        let [Edge { waiter, wait, because: Because::Holds(_), .. }] = cycle else { return None };
        let is_between = |edge: &&Edge| edge.wait == *wait && matches!(edge.because, Because::IsBefore(_));
        let between = self.stuck.get(waiter)?.iter().find(is_between)?;
        match between.because {
            Because::IsBefore(before) if between.target != *waiter => Some((between.target, before)),
            _ => None,
        }
    }

    fn words_of_self(&self, edge: &Edge) -> (String, String) {
        let (name, lock) = (self.name(edge.waiter), self.lock(edge.wait.lock).name);
        if let Some((before, _)) = self.writer_between(&[*edge]) {
            return (
                format!("{name} takes `{lock}` twice and {} waits for it in between", self.name(before)),
                format!("Keep one guard of `{lock}` and pass it on instead of taking it again."),
            );
        }
        match edge.because {
            Because::Holds(hold) => (
                format!("{name} waits for `{lock}`, which it holds itself"),
                format!(
                    "Drop the guard taken at {} before awaiting `{lock}` again, or pass it on.",
                    at(&self.describe.frames(hold.place))
                ),
            ),
            Because::Receives => (
                format!("{name} waits for room in `{lock}`, from which it receives itself"),
                "Send from another task than the one that receives, or use `try_send`.".to_owned(),
            ),
            Because::WasGiven(wait) | Because::IsBefore(wait) => (
                format!("{name} waits for `{lock}`, which a future of its own has that it does not poll"),
                format!(
                    "Drop the future that waits at {} before awaiting `{lock}` again, keep polling it, or spawn it as a task \
                     (a `select!` over `&mut future` leaves it behind).",
                    at(&self.describe.frames(wait.place))
                ),
            ),
        }
    }
}

/// A task as the report has threads.
pub fn thread(task: &TaskAt, describe: &dyn Describe) -> Thread {
    if let Some(serial) = task.thread {
        return describe.thread(serial);
    }
    thread_of_task(task.number, task.spawned, task.spawner, describe)
}

/// The task of a number, with where it was spawned and by which thread, as the report has threads.
pub fn thread_of_task(number: u64, spawned: Place, spawner: Option<u32>, describe: &dyn Describe) -> Thread {
    let frames = describe.frames(spawned);
    let place = if frames.is_empty() { String::new() } else { format!(" spawned at {}", at(&frames)) };
    let from_user = frames.iter().position(|frame| !finding::is_library(frame)).unwrap_or(0);
    Thread {
        serial: FIRST_TASK.saturating_add(u32::try_from(number).unwrap_or(0)),
        name: format!("task {number}{place}"),
        created_by: spawner,
        created_at: frames.into_iter().skip(from_user).collect(),
        running: true,
        ..Thread::default()
    }
}

/// `a`, `a and b`, `a, b and c`.
fn and(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
#[path = "task_waits_tests.rs"]
mod tests;
