//! Stacks of tasks: what a task does, below the call that spawned it.
//!
//! A thread that polls a task says nothing about the task: any worker may. So the frames from the runtime's poll outwards make way for
//! the stack of the call that spawned the task, as a thread's would go on with its start.

use super::locks::finding::is_library;
use super::locks::tasks::is_poll;
use crate::report::Frame;

/// The stack of a task, innermost first, from where it is at present out to the beginning of the stack that spawned it. A stack without a
/// poll is of what a thread does outside tasks, and stays as it is.
pub(super) fn whole(mut frames: Vec<Frame>, spawned: Vec<Frame>) -> Vec<Frame> {
    let Some(poll) = frames.iter().position(is_poll) else { return frames };
    frames.truncate(poll);
    // The runtime's own steps between its poll and the task's future.
    while frames.len() > 1 && frames.last().is_some_and(is_library) {
        frames.pop();
    }
    // The runtime's function that the program called stays, as a sign of what happens there.
    let own = spawned.iter().position(|frame| !is_library(frame)).unwrap_or(spawned.len());
    frames.extend(spawned.into_iter().skip(own.saturating_sub(1)));
    // A task that was spawned by another goes back to that one's beginning.
    if let Some(poll) = frames.iter().position(is_poll) {
        frames.truncate(poll);
        while frames.len() > 1 && frames.last().is_some_and(is_library) {
            frames.pop();
        }
    }
    frames
}

/// Whether the stack waits to read a lock of tokio's.
pub(super) fn reads(frames: &[Frame]) -> bool {
    let in_lock = frames.iter().filter(|frame| frame.file.ends_with("/src/sync/rwlock.rs"));
    in_lock.into_iter().any(|frame| frame.function.contains("read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: &str) -> Frame {
        Frame { function: function.into(), file: file.into(), line: 1, ..Frame::default() }
    }

    fn names(frames: &[Frame]) -> Vec<&str> {
        frames.iter().map(|frame| frame.function.as_str()).collect()
    }

    #[test]
    fn a_task_stands_below_its_spawn() {
        let tokio = |function: &str, file: &str| frame(function, &format!("tokio-1.52.0/src/{file}"));
        let poll = || {
            vec![
                tokio("tokio::sync::mutex::Mutex<T>::lock::{closure}", "sync/mutex.rs"),
                frame("app::serve::{closure}", "src/main.rs"),
                tokio("tokio::runtime::task::core::Core<T,S>::poll", "runtime/task/core.rs"),
                tokio("tokio::runtime::task::raw::poll", "runtime/task/raw.rs"),
                tokio("tokio::runtime::scheduler::multi_thread::worker::run", "runtime/scheduler/worker.rs"),
            ]
        };
        let spawned = vec![
            tokio("tokio::runtime::task::list::OwnedTasks<S>::bind", "runtime/task/list.rs"),
            tokio("tokio::task::spawn::spawn", "task/spawn.rs"),
            frame("app::main", "src/main.rs"),
        ];
        let whole_stack = whole(poll(), spawned);
        let expected = [
            "tokio::sync::mutex::Mutex<T>::lock::{closure}",
            "app::serve::{closure}",
            "tokio::task::spawn::spawn",
            "app::main",
        ];
        assert_eq!(names(&whole_stack), expected);
        // A task that nobody was seen to spawn, and one that a task has spawned.
        assert_eq!(names(&whole(poll(), Vec::new())), expected[..2]);
        let spawn = tokio("tokio::task::spawn::spawn", "task/spawn.rs");
        let from_task = [spawn].into_iter().chain(poll().into_iter().skip(1)).collect();
        assert_eq!(names(&whole(poll(), from_task))[2..], ["tokio::task::spawn::spawn", expected[1]]);
    }

    #[test]
    fn what_a_thread_does_outside_tasks_stays() {
        let frames = vec![frame("tokio::runtime::park::block_on", "park.rs"), frame("app::main", "src/main.rs")];
        assert_eq!(whole(frames.clone(), Vec::new()), frames);
    }
}
