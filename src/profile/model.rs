//! The neutral form of a profile, which any recording can be converted into.

use super::class::{Class, classify};
use crate::report::{Frame, Thread};
use crate::wire::waits::{HISTOGRAM_BUCKETS, Histogram, NO_THREAD, TASK_IS_THREAD, WaitKind};
use std::collections::HashMap;

/// A stack in [`Stacks`]; 0 is the lost stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub u32);

/// Stacks, each once.
#[derive(Clone, Debug)]
pub struct Stacks {
    stacks: Vec<Vec<Frame>>,
    ids: HashMap<Vec<(String, String, u32, u64)>, StackId>,
}

impl Default for Stacks {
    fn default() -> Self {
        Stacks { stacks: vec![Vec::new()], ids: HashMap::new() }
    }
}

impl Stacks {
    /// The id of a stack, innermost frame first. An empty stack is the lost one.
    pub fn intern(&mut self, frames: Vec<Frame>) -> StackId {
        if frames.is_empty() {
            return StackId(0);
        }
        let key = frames.iter().map(|f| (f.function.clone(), f.file.clone(), f.line, f.module_offset)).collect();
        if let Some(&id) = self.ids.get(&key) {
            return id;
        }
        let id = StackId(self.stacks.len() as u32);
        self.stacks.push(frames);
        self.ids.insert(key, id);
        id
    }

    /// The frames of a stack, innermost first; none for the lost stack.
    pub fn frames(&self, id: StackId) -> &[Frame] {
        self.stacks.get(id.0 as usize).map_or(&[], Vec::as_slice)
    }
}

/// A lock, or another thing that is waited for, and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Name a person recognises.
    pub name: String,
    /// Catalogue kind, as `std::sync::Mutex`.
    pub kind: String,
    /// Run-time address.
    pub address: u64,
    /// Acquisitions, shared ones included.
    pub acquisitions: u64,
    /// Of these, shared.
    pub shared_acquisitions: u64,
    /// Acquisitions that waited.
    pub contended: u64,
    /// Total wait.
    pub wait_ns: u64,
    /// Longest wait.
    pub wait_max_ns: u64,
    /// Total of the measured holds.
    pub hold_ns: u64,
    /// Longest of them.
    pub hold_max_ns: u64,
    /// Number of them.
    pub hold_samples: u64,
    /// Acquisitions by a thread that had not waited while others did.
    pub overtakes: u64,
    /// Most waiters at once.
    pub waiters_peak: u32,
    /// Most shared holders at once.
    pub readers_peak: u32,
    /// Waits by duration.
    pub wait_histogram: Histogram,
    /// Measured holds by duration.
    pub hold_histogram: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Figures {
            name: String::new(),
            kind: String::new(),
            address: 0,
            acquisitions: 0,
            shared_acquisitions: 0,
            contended: 0,
            wait_ns: 0,
            wait_max_ns: 0,
            hold_ns: 0,
            hold_max_ns: 0,
            hold_samples: 0,
            overtakes: 0,
            waiters_peak: 0,
            readers_peak: 0,
            wait_histogram: [0; HISTOGRAM_BUCKETS],
            hold_histogram: [0; HISTOGRAM_BUCKETS],
        }
    }
}

/// Time that one thread waited for one lock with one stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Index in [`Profile::locks`].
    pub lock: usize,
    /// What for.
    pub kind: WaitKind,
    /// Serial of the waiting thread; [`NO_THREAD`] for tasks.
    pub thread: u32,
    /// Where it waited.
    pub stack: StackId,
    /// Waits.
    pub count: u64,
    /// Their total.
    pub total_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Time that others waited while one thread held one lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Index in [`Profile::locks`].
    pub lock: usize,
    /// Serial of the holding thread; [`NO_THREAD`] for tasks.
    pub thread: u32,
    /// Where it acquired the lock.
    pub acquired: StackId,
    /// Where it released it.
    pub released: StackId,
    /// Holds that made others wait.
    pub count: u64,
    /// Waiting caused, summed over all waiters.
    pub total_ns: u64,
    /// The most caused by one hold.
    pub max_ns: u64,
}

/// One wait on the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitEvent {
    /// Index in [`Profile::locks`].
    pub lock: usize,
    /// What for.
    pub kind: WaitKind,
    /// Serial of the waiting thread; for a task's wait, of the thread that polled it when the wait ended.
    pub thread: u32,
    /// The waiting task, by its number or with [`TASK_IS_THREAD`]; `None` where a thread waits.
    pub task: Option<u32>,
    /// Where it waited.
    pub stack: StackId,
    /// When it began, in nanoseconds of the monotonic clock.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Serial of the thread that held the lock when the wait began; for a task's wait, the task that took permits last.
    pub holder: Option<u32>,
    /// Serial of the thread whose release ended the wait; for a task's wait, the task that gave permits back last.
    pub waker: Option<u32>,
}

/// A sample of what a thread executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Kernel thread id.
    pub tid: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// CPU time it stands for.
    pub weight_ns: u64,
    /// What was executed.
    pub stack: StackId,
}

/// When a thread was there, and how it got the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadLife {
    /// Kernel thread id.
    pub tid: u32,
    /// First sign of it, in nanoseconds of the monotonic clock.
    pub start_ns: u64,
    /// Last sign of it.
    pub end_ns: u64,
    /// Times it left the CPU by its own will.
    pub voluntary_switches: u64,
    /// Times it was preempted.
    pub preemptions: u64,
    /// Changes of CPU.
    pub migrations: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Spans off the CPU: start, end, and whether it was preempted (so runnable all the while).
    pub off_cpu: Vec<(u64, u64, bool)>,
}

/// All that a run's pictures are made of.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The program's name, for titles.
    pub program: String,
    /// Threads, by serial.
    pub threads: Vec<Thread>,
    /// Stacks.
    pub stacks: Stacks,
    /// Locks and other things waited for.
    pub locks: Vec<Figures>,
    /// Waits, by lock, thread and stack.
    pub waits: Vec<Wait>,
    /// Blames, by lock, thread and stacks.
    pub blames: Vec<Blame>,
    /// Single waits, as far as the ring reached.
    pub events: Vec<WaitEvent>,
    /// CPU samples; empty where perf was not allowed.
    pub samples: Vec<Sample>,
    /// Lives of threads as perf saw them; empty where perf was not allowed.
    pub lives: Vec<ThreadLife>,
    /// Wall time of the run.
    pub duration_ns: u64,
    /// Start of the run on the monotonic clock.
    pub start_ns: u64,
    /// The run also checked races, so its times are distorted.
    pub distorted: bool,
}

impl Profile {
    /// Whether a wait is lock waiting or idle waiting.
    pub fn class_of(&self, kind: WaitKind, stack: StackId) -> Class {
        classify(kind, self.stacks.frames(stack))
    }

    /// A thread's name for people: its name, or its number.
    pub fn thread_name(&self, serial: u32) -> String {
        match self.threads.iter().find(|t| t.serial == serial) {
            Some(thread) if !thread.name.is_empty() => thread.name.clone(),
            _ if serial == 0 => "main".to_owned(),
            _ if serial == NO_THREAD => "tasks".to_owned(),
            _ => format!("thread {serial}"),
        }
    }

    /// A task's name for people: its number, or the name of the thread where it is what a thread does outside tasks.
    pub fn task_name(&self, task: u32) -> String {
        match task & TASK_IS_THREAD {
            0 => format!("task {task}"),
            _ => self.thread_name(task & !TASK_IS_THREAD),
        }
    }

    /// Who held the lock when a wait began, for people.
    pub fn holder_name(&self, event: &WaitEvent) -> Option<String> {
        let holder = event.holder?;
        Some(if event.task.is_some() { self.task_name(holder) } else { self.thread_name(holder) })
    }

    /// The same for a kernel thread id.
    pub fn tid_name(&self, tid: u32) -> String {
        match self.threads.iter().find(|t| t.tid == tid) {
            Some(thread) => self.thread_name(thread.serial),
            None => format!("tid {tid}"),
        }
    }

    /// Total waiting of a class.
    pub fn total_ns(&self, class: Class) -> u64 {
        self.waits.iter().filter(|w| self.class_of(w.kind, w.stack) == class).map(|w| w.total_ns).sum()
    }
}
