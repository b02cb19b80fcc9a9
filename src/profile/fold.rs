//! Folded stacks: `outermost;..;innermost nanoseconds`, the input of every flame graph.

use super::{Class, Profile, StackId, frame_name};
use crate::symbolize::{is_dependency, is_std};
use crate::wire::waits::{NO_THREAD, WaitKind};
use std::collections::BTreeMap;

/// What stands between two stacks joined in one line, as in off-wake pictures.
pub struct Separator;

impl Separator {
    /// The frame itself.
    pub const TEXT: &'static str = "--";
}

/// Stands for the time after a hold in which nobody had the lock and others waited.
const HAND_OVER: &str = "[hand-over: released, a waiter is being woken]";

/// Weighted stacks, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    lines: BTreeMap<String, u64>,
}

impl Folded {
    /// Adds a stack given as frames, outermost first.
    pub fn add<S: AsRef<str>>(&mut self, frames: &[S], weight: u64) {
        if weight == 0 || frames.is_empty() {
            return;
        }
        let line = frames.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(";");
        *self.lines.entry(line).or_default() += weight;
    }

    /// The stacks and their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.lines.iter().map(|(line, &weight)| (line.as_str(), weight))
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.lines.values().sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The text of a `.folded` file.
    pub fn to_text(&self) -> String {
        self.lines.iter().map(|(line, weight)| format!("{line} {weight}\n")).collect()
    }

    /// Reads the text of a `.folded` file; lines that are none are left out.
    pub fn from_text(text: &str) -> Folded {
        let mut folded = Folded::default();
        for line in text.lines() {
            if let Some((stack, weight)) = line.rsplit_once(' ')
                && let Ok(weight) = weight.parse::<u64>()
            {
                *folded.lines.entry(stack.to_owned()).or_default() += weight;
            }
        }
        folded
    }

    /// The frames that occur, each once.
    pub fn frames(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().flat_map(|line| line.split(';')).collect::<std::collections::BTreeSet<_>>().into_iter()
    }
}

impl Profile {
    /// A lock's name as a frame.
    pub fn lock_label(&self, lock: usize) -> String {
        match self.locks.get(lock) {
            Some(figures) => match figures.kind.rsplit("::").next() {
                Some(kind) if !kind.is_empty() && !figures.name.contains(kind) => {
                    format!("{kind} {}", figures.name).replace(';', ",")
                }
                _ => figures.name.replace(';', ","),
            },
            None => "unknown lock".to_owned(),
        }
    }

    /// What a wait is for, as a frame: the lock, or the kind of wait where it is for none.
    pub fn wait_label(&self, lock: usize, kind: WaitKind) -> String {
        if lock < self.locks.len() { self.lock_label(lock) } else { kind_name(kind).to_owned() }
    }

    fn push_stack(&self, frames: &mut Vec<String>, stack: StackId) {
        let stack = self.stacks.frames(stack);
        if stack.is_empty() {
            frames.push("[stack lost]".to_owned());
        }
        frames.extend(stack.iter().rev().map(frame_name));
    }

    /// Waiting by lock and waiting stack. `class` says which waiting.
    fn waiting(&self, class: Class) -> Folded {
        let mut folded = Folded::default();
        for wait in self.waits.iter().filter(|w| self.class_of(w.kind, w.stack) == class) {
            let mut frames = vec![match class {
                Class::Lock => self.wait_label(wait.lock, wait.kind),
                Class::Idle => self.thread_name(wait.thread).replace(';', ","),
            }];
            self.push_stack(&mut frames, wait.stack);
            if class == Class::Idle {
                frames.push(format!("[waits for {}]", self.wait_label(wait.lock, wait.kind)));
            }
            folded.add(&frames, wait.total_ns);
        }
        folded
    }

    /// contention: lock waiting, by lock and then by waiting stack.
    pub fn contention(&self) -> Folded {
        self.waiting(Class::Lock)
    }

    /// idle: waiting for lack of work, by thread and then by waiting stack.
    pub fn idle(&self) -> Folded {
        self.waiting(Class::Idle)
    }

    /// blame: lock waiting, by lock and then by the stack that acquired it while others waited; behind the separator, where that hold ended.
    pub fn blame(&self) -> Folded {
        let mut folded = Folded::default();
        for blame in &self.blames {
            let mut frames = vec![self.lock_label(blame.lock)];
            self.push_stack(&mut frames, blame.acquired);
            frames.push(Separator::TEXT.to_owned());
            frames.push(released_in(self, blame.released).unwrap_or_else(|| HAND_OVER.to_owned()));
            folded.add(&frames, blame.total_ns);
        }
        folded
    }

    /// off-CPU: lock waiting by thread and stack, and, where perf told it, time that a thread was ready to run
    /// but preempted, and time it was blocked in nothing that conprof's catalogue knows. Idle waiting is left out.
    pub fn off_cpu(&self) -> Folded {
        let mut folded = Folded::default();
        // A task that waits takes no thread off the CPU.
        let of_threads = self.waits.iter().filter(|w| w.thread != NO_THREAD);
        for wait in of_threads.filter(|w| self.class_of(w.kind, w.stack) == Class::Lock) {
            let mut frames = vec![self.thread_name(wait.thread).replace(';', ",")];
            self.push_stack(&mut frames, wait.stack);
            frames.push(format!("[waits for {}]", self.wait_label(wait.lock, wait.kind)));
            folded.add(&frames, wait.total_ns);
        }
        for life in &self.lives {
            let sum = |preempted| -> u64 {
                life.off_cpu.iter().filter(|span| span.2 == preempted).map(|span| span.1.saturating_sub(span.0)).sum()
            };
            let name = self.tid_name(life.tid).replace(';', ",");
            let serial = self.threads.iter().find(|t| t.tid == life.tid).map(|t| t.serial);
            let explained: u64 = self.waits.iter().filter(|w| Some(w.thread) == serial).map(|w| w.total_ns).sum();
            folded.add(&[name.as_str(), "[preempted: ready to run]"], sum(true));
            folded.add(
                &[name.as_str(), "[blocked otherwise: input, output, page faults]"],
                sum(false).saturating_sub(explained),
            );
        }
        folded
    }

    /// cpu: samples, by thread and then by stack.
    pub fn on_cpu(&self) -> Folded {
        let mut folded = Folded::default();
        for sample in &self.samples {
            let mut frames = vec![self.tid_name(sample.tid).replace(';', ",")];
            self.push_stack(&mut frames, sample.stack);
            folded.add(&frames, sample.weight_ns);
        }
        folded
    }
}

/// What is waited for, in words.
pub fn kind_name(kind: WaitKind) -> &'static str {
    match kind {
        WaitKind::Lock => "a lock",
        WaitKind::Shared => "a shared lock",
        WaitKind::Upgradable => "an upgradable lock",
        WaitKind::Condvar => "a condition variable",
        WaitKind::Receive => "a message",
        WaitKind::Send => "room for a message",
        WaitKind::Join => "a thread's end",
        WaitKind::Park => "an unpark",
        WaitKind::Barrier => "a barrier",
        WaitKind::Semaphore => "a permit",
        WaitKind::Once => "an initialisation",
        WaitKind::Sleep => "time",
        WaitKind::Outside => "the outside",
        WaitKind::Futex => "a futex",
        WaitKind::Signal => "a signal",
    }
}

/// `released in f`, by the innermost function that is not a library's guard.
fn released_in(profile: &Profile, stack: StackId) -> Option<String> {
    let frames = profile.stacks.frames(stack);
    let own = frames.iter().find(|f| !is_std(f) && !is_dependency(f)).or(frames.first())?;
    let place = match own.file.rsplit('/').next() {
        Some(file) if !file.is_empty() => format!(" at {file}:{}", own.line),
        _ => String::new(),
    };
    Some(format!("[released in {}{place}]", frame_name(own)))
}

#[cfg(test)]
mod tests {
    use super::super::{Blame, Figures, ThreadLife, Wait};
    use super::*;
    use crate::report::{Frame, Thread};

    fn frames(functions: &[&str]) -> Vec<Frame> {
        functions
            .iter()
            .map(|f| Frame { function: (*f).to_owned(), file: "src/main.rs".into(), line: 7, ..Frame::default() })
            .collect()
    }

    fn profile() -> Profile {
        let mut profile = Profile { program: "app".into(), ..Profile::default() };
        profile.threads = vec![
            Thread { serial: 0, name: "app".into(), tid: 10, ..Thread::default() },
            Thread { serial: 1, name: "worker; one".into(), tid: 11, ..Thread::default() },
        ];
        profile.locks.push(Figures { name: "cache".into(), kind: "std::sync::Mutex".into(), ..Figures::default() });
        profile.locks.push(Figures { name: "jobs".into(), kind: "mpsc::Receiver".into(), ..Figures::default() });
        let waiting = profile.stacks.intern(frames(&["std::sync::Mutex<T>::lock", "app::work", "app::main"]));
        let holding = profile.stacks.intern(frames(&["app::hog", "app::main"]));
        let idle = profile.stacks.intern(frames(&["recv", "app::main"]));
        let wait = |lock, kind, thread, stack, total_ns| Wait {
            lock,
            kind,
            thread,
            stack,
            count: 1,
            total_ns,
            max_ns: total_ns,
        };
        profile.waits = vec![
            wait(0, WaitKind::Lock, 1, waiting, 500),
            wait(0, WaitKind::Lock, 0, waiting, 700),
            wait(1, WaitKind::Receive, 1, idle, 9000),
        ];
        profile.blames = vec![Blame {
            lock: 0,
            thread: 0,
            acquired: holding,
            released: holding,
            count: 1,
            total_ns: 1200,
            max_ns: 1200,
        }];
        profile
    }

    #[test]
    fn idle_time_never_enters_contention() {
        let profile = profile();
        assert_eq!(profile.contention().to_text(), "Mutex cache;app::main;app::work;std::sync::Mutex<T>::lock 1200\n");
        assert_eq!(profile.idle().to_text(), "worker, one;app::main;recv;[waits for Receiver jobs] 9000\n");
        assert_eq!(profile.off_cpu().total(), 1200);
    }

    #[test]
    fn switch_records_refine_time_off_the_cpu() {
        let mut profile = profile();
        // Off for 300 while it was ready to run, and for 1100 otherwise, of which 500 and 9000 are waits that are known.
        let off_cpu = vec![(0, 300, true), (400, 1000, false), (1000, 11_000, false)];
        profile.lives = vec![ThreadLife { tid: 11, start_ns: 0, end_ns: 20_000, off_cpu, ..ThreadLife::default() }];
        let off = profile.off_cpu();
        let weight = |part: &str| off.iter().filter(|(stack, _)| stack.contains(part)).map(|(_, ns)| ns).sum::<u64>();
        assert_eq!((weight("[preempted"), weight("[blocked otherwise"), weight("[waits for")), (300, 1100, 1200));
    }

    #[test]
    fn waits_of_tasks_take_no_thread_off_the_cpu() {
        let mut profile = profile();
        let stack = profile.waits[0].stack;
        let wait =
            |kind, total_ns| Wait { lock: 0, kind, thread: NO_THREAD, stack, count: 1, total_ns, max_ns: total_ns };
        profile.waits = vec![wait(WaitKind::Semaphore, 500), wait(WaitKind::Signal, 70)];
        assert_eq!((profile.contention().total(), profile.idle().total(), profile.off_cpu().total()), (500, 70, 0));
        assert!(profile.idle().to_text().starts_with("tasks;"), "{}", profile.idle().to_text());
    }

    #[test]
    fn blame_names_acquisition_and_release() {
        assert_eq!(
            profile().blame().to_text(),
            "Mutex cache;app::main;app::hog;--;[released in app::hog at main.rs:7] 1200\n"
        );
    }

    #[test]
    fn folded_text_reads_back() {
        let folded = profile().contention();
        assert_eq!(Folded::from_text(&folded.to_text()), folded);
    }
}
