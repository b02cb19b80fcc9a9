//! Draining the rings while the program runs.

use super::attach::{FAULTS_PER_SAMPLE, Sampling};
use super::record::{Origin, Record, parse, parse_faults};
use super::space::{GeneratedCodeSource, MappedModule, Space};
use super::unwind::{CUT_OFF_FRAME, Ending, KERNEL_FRAME, RUNTIME_FRAME, unwind};
use crate::profile::ThreadLife;
use framehop::x86_64::CacheX86_64;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a ring is left alone. The smallest ring holds seven samples.
const PAUSE: Duration = Duration::from_millis(20);
/// Spans off the CPU kept for the timeline, over all threads; the totals go on.
const MOST_SPANS: usize = 1 << 16;

/// A sample with its stack as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// Kernel thread id.
    pub tid: u32,
    /// When, on the monotonic clock.
    pub time_ns: u64,
    /// Index in [`Collected::stacks`].
    pub stack: u32,
}

/// Everything perf told about a run.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Samples, by ring and then by time.
    pub samples: Vec<RawSample>,
    /// CPU time a sample stands for.
    pub period_ns: u64,
    /// Stacks, each once: run-time addresses to look up, innermost first, or the marks below.
    pub stacks: Vec<Vec<u64>>,
    /// Threads.
    pub lives: Vec<ThreadLife>,
    /// Modules seen.
    pub modules: Vec<MappedModule>,
    /// Samples whose stack was not followed to its bottom.
    pub cut_off: u64,
    /// Samples inside conprof's own runtime.
    pub in_runtime: u64,
    /// Records the rings had no room for.
    pub lost: u64,
    /// Spans off the CPU that were counted but not kept.
    pub spans_dropped: u64,
    /// Samples include kernel time.
    pub kernel: bool,
    /// CPU time that collecting took in this process.
    pub collector_cpu_ns: u64,
}

impl Collected {
    /// What a mark in place of an address stands for.
    pub fn mark(address: u64) -> Option<&'static str> {
        match address {
            RUNTIME_FRAME => Some("[conprof]"),
            KERNEL_FRAME => Some("[kernel]"),
            CUT_OFF_FRAME => Some("[stack cut off]"),
            _ => None,
        }
    }
}

/// The thread that drains the rings.
#[derive(Debug)]
pub struct Collector {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Collected>,
}

impl Collector {
    /// Starts to collect what process `pid` does. Call it once the program has been started.
    ///
    /// `runtime_image` is the file of conprof's runtime, through whose functions stacks are followed.
    pub fn start(
        sampling: Sampling,
        pid: u32,
        source: GeneratedCodeSource,
        runtime_image: &'static [u8],
    ) -> std::io::Result<Collector> {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("conprof-perf".to_owned()).spawn(move || {
            let mut state = State::new(pid, sampling, Space::new(source, runtime_image));
            loop {
                // Acquire pairs with the release in `finish`: all that the program did is in the rings by then.
                let last = seen.load(Ordering::Acquire);
                state.drain();
                if last {
                    return state.finish();
                }
                std::thread::sleep(PAUSE);
            }
        })?;
        Ok(Collector { ended, thread })
    }

    /// Drains what is left after the program's end. Nothing if collecting failed.
    pub fn finish(self) -> Collected {
        self.ended.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

struct Life {
    life: ThreadLife,
    cpu: u32,
    /// Off the CPU since, and whether preempted.
    out: Option<(u64, bool)>,
}

struct State {
    pid: u32,
    sampling: Sampling,
    space: Space,
    cache: CacheX86_64,
    ids: HashMap<Vec<u64>, u32>,
    lives: HashMap<u32, Life>,
    spans: usize,
    batch: Vec<Record>,
    collected: Collected,
}

impl State {
    fn new(pid: u32, sampling: Sampling, space: Space) -> State {
        let collected = Collected { period_ns: sampling.period_ns, kernel: sampling.kernel, ..Collected::default() };
        State {
            pid,
            sampling,
            space,
            cache: CacheX86_64::new(),
            ids: HashMap::new(),
            lives: HashMap::new(),
            spans: 0,
            batch: Vec::new(),
            collected,
        }
    }

    /// Takes what is in the rings. Mappings first: a sample may come from another CPU's ring than the mapping it needs.
    fn drain(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for ring in &mut self.sampling.clocks {
            while let Some(record) = ring.next_record() {
                let parsed = parse(record.ty(), record.misc(), &record.to_contiguous());
                drop(record);
                if parsed != Record::Other {
                    batch.push(parsed);
                }
            }
        }
        for ring in &mut self.sampling.faults {
            while let Some(record) = ring.next_record() {
                batch.push(parse_faults(record.ty(), &record.to_contiguous()));
            }
        }
        for record in &batch {
            if let Record::Map { origin, start, len, file_offset, path } = record
                && origin.pid == self.pid
            {
                self.space.map(*start, *len, *file_offset, path);
            }
        }
        batch.sort_by_key(|record| match record {
            Record::Sample { origin, .. }
            | Record::SwitchIn(origin)
            | Record::SwitchOut { origin, .. }
            | Record::Faults(origin)
            | Record::Exit(origin) => origin.time_ns,
            _ => 0,
        });
        for record in batch.drain(..) {
            self.take(record);
        }
        self.batch = batch;
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Sample { origin, in_kernel, registers, stack } if origin.pid == self.pid => {
                self.touch(origin);
                let mut frames = Vec::with_capacity(64);
                if in_kernel {
                    frames.push(KERNEL_FRAME);
                }
                let ending = match registers {
                    Some(registers) => unwind(&mut self.space, &mut self.cache, registers, &stack, &mut frames),
                    None => Ending::Whole,
                };
                if frames.contains(&RUNTIME_FRAME) {
                    self.collected.in_runtime += 1;
                }
                match ending {
                    Ending::Whole | Ending::Runtime => {}
                    Ending::CutOff => {
                        frames.push(CUT_OFF_FRAME);
                        self.collected.cut_off += 1;
                    }
                }
                let stack = self.stack_id(frames);
                self.collected.samples.push(RawSample { tid: origin.tid, time_ns: origin.time_ns, stack });
            }
            Record::SwitchOut { origin, preempted } if origin.pid == self.pid => {
                let life = self.touch(origin);
                if preempted {
                    life.life.preemptions += 1;
                } else {
                    life.life.voluntary_switches += 1;
                }
                life.out = Some((origin.time_ns, preempted));
            }
            Record::SwitchIn(origin) if origin.pid == self.pid => {
                let keep = self.spans < MOST_SPANS;
                let life = self.touch(origin);
                if life.cpu != origin.cpu {
                    life.life.migrations += 1;
                    life.cpu = origin.cpu;
                }
                if let Some((since, preempted)) = life.out.take() {
                    if keep {
                        life.life.off_cpu.push((since, origin.time_ns, preempted));
                        self.spans += 1;
                    } else {
                        self.collected.spans_dropped += 1;
                    }
                }
            }
            Record::Exit(origin) if origin.pid == self.pid => {
                self.touch(origin);
            }
            Record::Faults(origin) if origin.pid == self.pid => {
                self.touch(origin).life.page_faults += FAULTS_PER_SAMPLE;
            }
            Record::Lost(count) => self.collected.lost += count,
            _ => {}
        }
    }

    fn touch(&mut self, origin: Origin) -> &mut Life {
        let life = self.lives.entry(origin.tid).or_insert_with(|| Life::new(origin));
        if life.life.start_ns == 0 {
            life.life.start_ns = origin.time_ns;
        }
        life.life.end_ns = life.life.end_ns.max(origin.time_ns);
        life
    }

    fn stack_id(&mut self, frames: Vec<u64>) -> u32 {
        if let Some(&id) = self.ids.get(&frames) {
            return id;
        }
        let id = self.ids.len() as u32;
        self.collected.stacks.push(frames.clone());
        self.ids.insert(frames, id);
        id
    }

    fn finish(mut self) -> Collected {
        self.collected.lives = self.lives.into_values().map(|life| life.life).collect();
        self.collected.lives.sort_by_key(|life| (life.start_ns, life.tid));
        self.collected.modules = self.space.modules;
        self.collected.collector_cpu_ns = own_thread_cpu_ns();
        self.collected
    }
}

impl Life {
    fn new(origin: Origin) -> Life {
        let life =
            ThreadLife { tid: origin.tid, start_ns: origin.time_ns, end_ns: origin.time_ns, ..ThreadLife::default() };
        Life { life, cpu: origin.cpu, out: None }
    }
}

/// CPU time of the calling thread: the first number of its `schedstat`; 0 where the kernel has none.
fn own_thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
