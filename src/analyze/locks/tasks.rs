//! Incidents of async tasks: polls that block or take long, guards that are kept across an `.await`.
//!
//! A task is known by the frames between where its thread blocks and the runtime's poll. Direction of error: what leads through code
//! that is meant for blocking (`spawn_blocking`, `block_in_place`) is none of these.

use super::finding;
use super::finding::at;
use super::incidents::{Incidents, Thresholds, blocks, duration, times};
use super::{Describe, LockId, Place};
use crate::profile::{Profile, StackId};
use crate::report::{Confidence, Finding, Frame, Kind, Stack};
use crate::wire::incident::{IncidentKind, IncidentRow};
use crate::wire::waits::WaitKind;
use std::collections::BTreeMap;

impl Incidents {
    /// Tasks that block the thread that polls them.
    pub(super) fn blocked_polls(&self, thresholds: &Thresholds, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        for group in self.groups(IncidentKind::BlockedPoll, describe) {
            let longest = group.longest();
            let frames = describe.frames(Place(longest.access));
            if longest.max_ns < thresholds.blocking_ns || may_block(&frames) {
                continue;
            }
            let kind = WaitKind::from_u32(longest.detail);
            let lock = (longest.lock != 0).then(|| describe.lock(LockId(longest.lock)));
            let what = match &lock {
                Some(lock) => format!("waits for `{}`, a {},", lock.name, lock.kind),
                None => blocks(kind),
            };
            let task = task_name(&frames).map_or_else(|| "a task".to_owned(), |name| format!("the task `{name}`"));
            let title = format!("{task} {what} and blocks its worker");
            let fix = match (kind, &lock) {
                (WaitKind::Sleep, _) => "Await `tokio::time::sleep` instead.".to_owned(),
                (_, Some(lock)) => format!(
                    "Hold `{}` for shorter and never across blocking calls, or use `tokio::sync::Mutex`.",
                    lock.name
                ),
                (WaitKind::Receive | WaitKind::Send, _) => "Use a channel of `tokio::sync` and await it.".to_owned(),
                (WaitKind::Join, _) => "Use `tokio::task::spawn_blocking` and await its handle.".to_owned(),
                (WaitKind::Park | WaitKind::Condvar | WaitKind::Futex, _) => {
                    "Await the future instead of blocking on it, or move the call into `tokio::task::spawn_blocking`."
                        .to_owned()
                }
                _ => "Use the runtime's own input and output, or move the call into `tokio::task::spawn_blocking`."
                    .to_owned(),
            };
            let mut stacks =
                vec![finding::stack(describe, "waiting", longest.thread, Place(longest.access), lock.clone(), &[])];
            if let Some(holder) = self.holder(longest.lock, longest.other) {
                let hold = self.hold(longest.lock, holder.place.0);
                let lock = finding::lock_ref(describe, &hold);
                stacks.push(finding::stack(describe, "held", holder.thread, holder.place, Some(lock), &[]));
            }
            stacks.extend(spawn_stack(longest, describe));
            let mut finding = finding::finding(Kind::BlockingInAsync, Confidence::Confirmed, title, fix, stacks);
            finding.count = group.sum(|row| row.count);
            finding.notes.extend(spawned_at(longest, describe));
            finding.notes.push(format!(
                "It blocked {}, for {} in total, {} at most.",
                times(finding.count),
                duration(group.sum(|row| row.total_ns)),
                duration(longest.max_ns)
            ));
            finding.notes.extend(could_run(group.most()));
            finding.notes.extend(polled_late(&self.rows, longest, describe));
            findings.push(finding);
        }
        findings
    }

    /// Guards that outlive the poll that took them, where another poll waits for them.
    pub(super) fn held_across_await(&self, describe: &dyn Describe) -> Vec<Finding> {
        let mut findings = Vec::new();
        for group in self.groups(IncidentKind::HeldAcrossAwait, describe) {
            let row = group.longest();
            let stopped = |other: &&IncidentRow| {
                IncidentKind::from_u32(other.kind) == Some(IncidentKind::BlockedPoll) && other.lock == row.lock
            };
            let Some(waiter) = self.rows.iter().filter(stopped).max_by_key(|other| other.max_ns) else { continue };
            let hold = self.hold(row.lock, row.other_access);
            let lock = finding::lock_ref(describe, &hold);
            let name = lock.name.clone();
            let mut stacks = vec![
                finding::stack(describe, "held", row.thread, hold.place, Some(lock.clone()), &[]),
                finding::stack(describe, "waiting", waiter.thread, Place(waiter.access), Some(lock), &[]),
            ];
            stacks.extend(spawn_stack(row, describe));
            let title = format!("a task keeps `{name}` across an `.await`, and another blocks its worker for it");
            let fix = format!(
                "Drop the guard taken at {} before the `.await`, or use `tokio::sync::Mutex`.",
                at(&describe.frames(hold.place))
            );
            let mut finding = finding::finding(Kind::BlockingInAsync, Confidence::Confirmed, title, fix, stacks);
            finding.count = group.sum(|row| row.count);
            finding.notes.extend(spawned_at(row, describe));
            finding.notes.push(format!("A worker was blocked for {}.", duration(waiter.max_ns)));
            finding.notes.extend(could_run(waiter.most));
            findings.push(finding);
        }
        findings
    }
}

/// The stack of the call that spawned the task of an incident, from the program's own code on.
fn spawn_stack(row: &IncidentRow, describe: &dyn Describe) -> Option<Stack> {
    let place = Some(Place(row.spawned)).filter(|place| place.0 != 0)?;
    let mut stack = finding::stack(describe, "spawned", row.thread, place, None, &[]);
    let own = stack.frames.iter().position(|frame| !finding::is_library(frame))?;
    stack.frames.drain(..own);
    Some(stack)
}

fn spawned_at(row: &IncidentRow, describe: &dyn Describe) -> Option<String> {
    let stack = spawn_stack(row, describe)?;
    Some(format!("The task was spawned at {}.", at(&stack.frames)))
}

/// How many tasks waited for a worker.
fn could_run(tasks: u64) -> Option<String> {
    match tasks {
        0 => None,
        1 => Some("One task could have run meanwhile.".to_owned()),
        tasks => Some(format!("{tasks} tasks could have run meanwhile.")),
    }
}

/// The task that was woken and not polled for the longest while an incident lasted.
fn polled_late(rows: &[IncidentRow], row: &IncidentRow, describe: &dyn Describe) -> Option<String> {
    let begin = |row: &IncidentRow| row.at_ns.saturating_sub(row.max_ns);
    let meanwhile = |late: &&IncidentRow| {
        IncidentKind::from_u32(late.kind) == Some(IncidentKind::LatePoll)
            && begin(late) < row.at_ns
            && late.at_ns > begin(row)
    };
    let late = rows.iter().filter(meanwhile).max_by_key(|late| late.max_ns)?;
    let at = spawn_stack(late, describe).map_or(String::new(), |stack| format!(" spawned at {}", at(&stack.frames)));
    Some(format!("The task{at} was woken and had to wait {} for its poll.", duration(late.max_ns)))
}

/// A frame of tokio's, in any version.
fn is_tokio(frame: &Frame) -> bool {
    frame.file.contains("/tokio-1") || frame.function.trim_start_matches('<').starts_with("tokio::")
}

/// Whether the stack, from where it blocks out to the poll, leads through something that is meant for blocking, or does not lead
/// through a future at all: then it is the runtime's own work for a task, as at its shutdown.
fn may_block(frames: &[Frame]) -> bool {
    let poll = frames.iter().position(is_poll);
    let inner = &frames[..poll.unwrap_or(frames.len())];
    // By files within the crate, as [`is_poll`] knows it: a vendored tokio has no version in its path.
    let in_file = |frame: &Frame, file: &str| frame.file.ends_with(file);
    let is_meant = inner.iter().any(|frame| {
        in_file(frame, "/runtime/blocking/task.rs")
            || (frame.function.contains("block_in_place")
                && (is_tokio(frame) || in_file(frame, "/runtime/scheduler/multi_thread/worker.rs")))
    });
    is_meant || (poll.is_some() && !inner.iter().any(|frame| in_file(frame, "/runtime/task/core.rs")))
}

/// The runtime's function that polls a task.
pub(in crate::analyze) fn is_poll(frame: &Frame) -> bool {
    frame.file.ends_with("/runtime/task/raw.rs") || frame.file.ends_with("/runtime/task/harness.rs")
}

/// The outermost function of the program's own below the poll: the task's async function or block.
fn task_name(frames: &[Frame]) -> Option<String> {
    let inner = frames.iter().take_while(|frame| !is_poll(frame));
    let is_own = |frame: &&Frame| !is_tokio(frame) && !finding::is_library(frame) && frame.line != 0;
    let own = inner.filter(is_own).last()?;
    Some(own.function.clone())
}

/// Polls of tasks that took long without blocking. `start_ns` is when the recording's clock began, on the profile's clock.
///
/// What a task did meanwhile, samples of the processor tell; without any, or where most of them are in code that is meant for
/// blocking, there is no finding or it is only "possible".
pub fn long_polls(
    rows: &[IncidentRow],
    threshold_ns: u64,
    start_ns: u64,
    profile: &Profile,
    describe: &dyn Describe,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let long = |row: &&IncidentRow| {
        IncidentKind::from_u32(row.kind) == Some(IncidentKind::LongPoll) && row.max_ns >= threshold_ns
    };
    for row in rows.iter().filter(long) {
        let runtime = describe.frames(Place(row.access));
        // A job for blocking is polled as well, by its pool's thread.
        if !runtime.iter().any(|frame| frame.function.contains("run_task") || frame.function.contains("LocalSet")) {
            continue;
        }
        let thread = describe.thread(row.thread);
        let end = start_ns.wrapping_add(row.at_ns);
        let within = |time: u64| time <= end && time >= end.saturating_sub(row.max_ns);
        // A stack that is cut short, as within conprof's own code, tells nothing.
        let samples: Vec<StackId> = profile
            .samples
            .iter()
            .filter(|s| s.tid == thread.tid && within(s.time_ns))
            .map(|s| s.stack)
            .filter(|stack| profile.stacks.frames(*stack).iter().any(is_poll))
            .collect();
        let blocking = samples.iter().filter(|stack| may_block(profile.stacks.frames(**stack))).count();
        if blocking * 2 > samples.len() {
            continue;
        }
        let mut counts: BTreeMap<StackId, usize> = BTreeMap::new();
        for stack in &samples {
            *counts.entry(*stack).or_default() += 1;
        }
        let hottest = counts.iter().max_by_key(|(_, count)| **count).map(|(stack, _)| *stack);
        let own = |frame: &&Frame| !frame.function.starts_with('[');
        let frames =
            hottest.map_or(runtime, |stack| profile.stacks.frames(stack).iter().filter(own).cloned().collect());
        let confidence = if samples.is_empty() { Confidence::Possible } else { Confidence::Likely };
        let task = task_name(&frames).map_or_else(|| "a task".to_owned(), |name| format!("the task `{name}`"));
        let title = format!("{task} keeps its worker busy for {} in one poll", duration(row.max_ns));
        let fix =
            "Do the work in `tokio::task::spawn_blocking`, or let others run with `tokio::task::yield_now`.".to_owned();
        let stack = Stack { frames, ..finding::stack(describe, "polling", row.thread, Place(row.access), None, &[]) };
        let stacks = [stack].into_iter().chain(spawn_stack(row, describe)).collect();
        let mut finding = finding::finding(Kind::BlockingInAsync, confidence, title, fix, stacks);
        finding.count = row.count;
        finding.notes.extend(spawned_at(row, describe));
        finding.notes.extend(could_run(row.most));
        finding.notes.extend(polled_late(rows, row, describe));
        finding.notes.push(format!("It did so {}; {} samples were taken meanwhile.", times(row.count), samples.len()));
        if !findings.iter().any(|known| known.id == finding.id) {
            findings.push(finding);
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_for_blocking_are_known_wherever_tokio_lies() {
        let frame = |function: &str, file: &str| Frame {
            function: function.to_owned(),
            file: file.to_owned(),
            line: 1,
            ..Frame::default()
        };
        let poll = frame("poll<_>", "vendor/tokio/src/runtime/task/harness.rs");
        let job = frame("poll<_>", "vendor/tokio/src/runtime/blocking/task.rs");
        let in_place = frame("block_in_place<_>", "src/runtime/scheduler/multi_thread/worker.rs");
        let future = frame("{closure#0}<_>", "vendor/tokio/src/runtime/task/core.rs");
        let own = frame("app::handle", "src/main.rs");
        assert!(may_block(&[own.clone(), job.clone(), future.clone(), poll.clone()]));
        assert!(may_block(&[own.clone(), in_place, future.clone(), poll.clone()]));
        assert!(!may_block(&[own.clone(), future.clone(), poll.clone()]));
        assert!(!may_block(&[own.clone(), frame("block_on", "src/runtime/park.rs")]));
        // At its end a task is taken from the runtime's list, behind that list's lock.
        let end = frame("remove<_>", "vendor/tokio/src/util/sharded_list.rs");
        assert!(may_block(&[end, poll.clone(), future.clone(), poll.clone()]));
        // A worker is itself a job for blocking, below the task that it polls.
        assert!(!may_block(&[own, future.clone(), poll.clone(), job, future, poll]));
    }
}
